"""The benchmarks run, see wrong answers, and write their page. How fast anything is, is none of their business here."""

import io
import json
import os
import sys
import xml.etree.ElementTree
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
from click.testing import CliRunner
from rich.console import Console

from benchmarks import build, figures, report, run, servers, virtiofsd
from benchmarks.__main__ import cli
from benchmarks.campaign import KICKS, PLAIN, Campaign, Sample, Setup
from benchmarks.errors import BenchmarkError, WrongAnswer
from benchmarks.placement import Place, pinned, processors
from benchmarks.run import Figures, Tree
from hdvkit import UsageError, bench

pytestmark = pytest.mark.skipif(build.compiler() is None, reason="the load generator needs a C compiler")

SHORT = 0.05
ENTRIES, MIB = 120, 16
HDVKIT = servers.hdvkit_contender(native=False)
EVERYWHERE = os.sched_getaffinity(0) if sys.platform == "linux" else set()


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build.load_program(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def tree(program: Path, tmp_path: Path) -> Tree:
    (tmp_path / "tree").mkdir()
    made = Tree(tmp_path / "tree", ENTRIES, MIB)
    run.make_tree(program, made)
    return made


@pytest.fixture
def server(tree: Tree) -> Iterator[servers.Server]:
    with servers.serving(HDVKIT, tree.directory, EVERYWHERE) as served:
        yield served


def measure(program: Path, tree: Tree, server: servers.Server, *only: str, kick: str = "ioeventfd") -> list[Figures]:
    arguments = [f"--vfio-user={server.socket}", f"--kick={kick}"]
    return run.measure(program, arguments, tree, seconds=SHORT, only=only, on=EVERYWHERE, check=server.check)


def names(found: list[Figures]) -> list[str]:
    return [one.name for one in found]


# The load generator


def test_every_workload_gets_right_answers_and_tells_figures(program: Path, tree: Tree, server: servers.Server) -> None:
    every = run.workloads(program)
    found = measure(program, tree, server, *every)
    assert names(found) == every
    for one in found:
        assert one.operations >= one.depth
        assert one.seconds > 0
        assert one.cpu_us > 0
        assert 0 < one.p50_us <= one.p99_us
    listings = {one.workload: one.units / one.operations for one in found if one.unit == "entries"}
    # Two of them are "." and "..", which a server may name or not.
    assert all(ENTRIES <= each <= ENTRIES + 2 for each in listings.values())
    assert set(listings) == {"readdirplus", "readdirplus-cold", "readdir"}


def test_the_issues_workloads_are_there_at_their_depths(program: Path) -> None:
    depths: dict[str, list[int]] = {}
    for name in run.workloads(program):
        workload, _, depth = name.partition(":")
        depths.setdefault(workload, []).append(int(depth))
    assert depths["stat"] == depths["lookup"] == depths["lookupneg"] == [1, 8, 32]
    assert depths["read4k"] == depths["write4k"] == [1, 32]
    assert depths["create"] == [1, 8]
    assert {"readdirplus", "readdirplus-cold", "readdir", "openrelease", "statfs", "fsync", "read1m"} <= set(depths)


@pytest.mark.parametrize("kick", KICKS)
def test_every_way_to_kick_works(program: Path, tree: Tree, server: servers.Server, kick: str) -> None:
    assert names(measure(program, tree, server, "stat:8", "create:1", kick=kick)) == ["stat:8", "create:1"]


def test_system_calls_are_measured_without_a_server(program: Path, tree: Tree) -> None:
    known = {name.partition(":")[0] for name in run.workloads(program)}
    found = run.measure(program, ["--plain"], tree, seconds=SHORT, only=sorted(known), on=EVERYWHERE)
    assert {one.workload for one in found} == known - {"readdirplus-cold"}
    assert all(one.depth == 1 and one.operations and one.cpu_us > 0 for one in found)


def test_one_changed_byte_is_a_wrong_answer(program: Path, tree: Tree, server: servers.Server) -> None:
    with (tree.directory / "data").open("r+b") as data:
        data.seek(MIB // 2 << 20 | 12345)
        data.write(bytes([data.read(1)[0] ^ 1]))
    # One word in half a million: what looks while it measures would hardly meet it.
    with pytest.raises(WrongAnswer, match="other bytes"):
        measure(program, tree, server, "read4k:1")


def test_other_names_sizes_and_inodes_are_wrong_answers(program: Path, tree: Tree, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Tree(tmp_path / "other", ENTRIES, MIB)
    run.make_tree(program, other)
    with servers.serving(HDVKIT, other.directory, EVERYWHERE) as server:
        for workload, complaint in {
            "stat:1": "attributes of another file",
            "lookup:1": "is another file",
            "readdir:1": "another inode",
            "readdirplus:1": "is another file",
            "write4k:1": "other bytes on the host",
            "create:1": "is not there",
        }.items():
            with pytest.raises(WrongAnswer, match=complaint):
                measure(program, tree, server, workload)


def test_a_name_that_appears_is_a_wrong_answer(program: Path, tree: Tree) -> None:
    # What the guest expects is what lies there when it begins, so the server must see another directory.
    elsewhere = tree.directory.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "entries").mkdir()
    (elsewhere / "entries/absent").touch()
    with (
        servers.serving(HDVKIT, elsewhere, EVERYWHERE) as server,
        pytest.raises(WrongAnswer, match="a name that is absent"),
    ):
        measure(program, tree, server, "lookupneg:1")


def test_a_directory_that_was_not_made_is_refused(program: Path, tree: Tree) -> None:
    (tree.directory / "entries/entry-000003").unlink()
    with pytest.raises(BenchmarkError, match="entry-000003 is not as it was made"):
        run.measure(program, ["--plain"], tree, seconds=SHORT, only=["stat"], on=EVERYWHERE)


def test_a_server_that_ends_ends_the_run(program: Path, tree: Tree, server: servers.Server) -> None:
    server.stop()
    arguments = [f"--vfio-user={server.socket}"]
    with pytest.raises(BenchmarkError, match=r"the server ended with code|cannot connect"):
        run.measure(program, arguments, tree, seconds=SHORT, only=["stat"], on=EVERYWHERE, check=server.check)


# Around it


def test_it_compiles_without_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "cc -Werror -Wpedantic")
    assert build.load_program(tmp_path).exists()


def test_it_is_compiled_once_for_its_sources(program: Path) -> None:
    made = program.stat().st_mtime_ns
    assert build.load_program(program.parent.parent) == program
    assert program.stat().st_mtime_ns == made


def test_without_a_compiler_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(BenchmarkError, match="install gcc"):
        build.load_program(tmp_path)


def test_what_the_compiler_says_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "cc -Dmain=")
    with pytest.raises(BenchmarkError, match="does not compile"):
        build.load_program(tmp_path)
    assert not list(tmp_path.glob("bench/*"))


def test_processes_begin_on_the_processors_they_are_given() -> None:
    guest, server = processors(Place.SAME)
    assert guest == server
    assert len(guest) == 1
    with pinned(guest):
        assert os.sched_getaffinity(0) == guest
    assert os.sched_getaffinity(0) == EVERYWHERE


def test_two_processors_are_two_or_refused() -> None:
    with pinned({min(EVERYWHERE)}), pytest.raises(BenchmarkError, match="leave out --place two"):
        processors(Place.TWO)
    if len(EVERYWHERE) > 1:
        guest, server = processors(Place.TWO)
        assert len(guest) == 1
        assert guest < server


def test_the_peer_uses_eventfds_whatever_others_do() -> None:
    peer = servers.Contender("peer", "1", "vhost-user", lambda room, tree: [])
    assert (peer.kick("posted"), HDVKIT.kick("posted")) == ("ioeventfd", "posted")


def test_the_peer_gives_right_answers_where_it_is_there(program: Path, tree: Tree) -> None:
    command = virtiofsd.installed() or virtiofsd.fetched()
    if command is None:
        pytest.skip("there is no virtiofsd; python -m benchmarks fetches one")
    peer = servers.virtiofsd_contender(command)
    with servers.serving(peer, tree.directory, EVERYWHERE) as server:
        arguments = [f"--vhost-user={server.socket}"]
        every = run.workloads(program)
        found = run.measure(program, arguments, tree, seconds=SHORT, only=every, on=EVERYWHERE, check=server.check)
    assert names(found) == every


# Campaign and page


def sample(contender: str, number: int, operations: int, *, kick: str = "ioeventfd", **more: object) -> Sample:
    told = Figures("stat", 8, operations, 1.0, p50_us=5, p99_us=9, cpu_us=1e6 / operations, **more)  # type: ignore[arg-type]
    return Sample(Setup(Place.SAME, kick), contender, number, told)


def test_ratios_are_those_within_a_round() -> None:
    # The machine becomes ten times as slow: ratios of medians would not show that ours is always twice as fast.
    runs = [(0, 1000, 2000), (1, 100, 200), (2, 10, 30)]
    samples = [sample(name, number, rate) for number, *both in runs for name, rate in zip("po", both, strict=True)]
    (row,) = figures.rows([*samples, sample(PLAIN, 0, 4000)])
    assert (row.workload, row.cells["p"].ratio, row.cells["o"].rate) == ("stat:8", None, 200)
    assert row.cells["o"].ratio == figures.Ratio(2, 2, 3)
    assert row.plain_us == 250


def test_what_handles_entries_is_counted_by_entries() -> None:
    (row,) = figures.rows([sample("p", 0, 10, unit="entries", units=1000)])
    assert (row.cells["p"].rate, row.cells["p"].cpu_us) == (1000, 1000)


def test_a_campaign_takes_turns_and_writes_its_page(program: Path, tree: Tree, tmp_path: Path) -> None:
    other = servers.Contender("other", "hdvkit again", "vfio-user", HDVKIT.command)
    setups = [Setup(Place.SAME, "ioeventfd"), Setup(Place.SAME, "posted")]
    campaign = Campaign(program, tree, [HDVKIT, other], setups, ["stat:1"], rounds=2, seconds=SHORT)
    told: list[str] = []
    samples = campaign.run(told.append)
    order = [one.contender for one in samples if one.setup == setups[0]]
    assert order == [PLAIN, HDVKIT.name, "other", PLAIN, "other", HDVKIT.name]
    assert len(told) == 4

    circumstances = report.Circumstances(2, SHORT, tree.directory, campaign.contenders)
    page = report.write(tmp_path, samples, circumstances)
    text = page.read_text()
    begin, end = report.marks(report.MEASURED)
    before, _, rest = report.PAGE.read_text().partition(begin)
    assert text.startswith(before + begin)
    assert text.endswith(end + rest.partition(end)[2])
    assert text.count("\n| stat:1 |") == 2
    assert "| versions | hdvkit" in text
    assert "\n### One processor for both, kicks by posted message\n" in text
    picture = xml.etree.ElementTree.parse(tmp_path / report.PICTURE)
    said = {one.text for one in picture.iter("{http://www.w3.org/2000/svg}text")}
    assert {"stat:1", "other", *map(str, setups)} <= said

    assert report.write(tmp_path, samples, circumstances).read_text() == text


def test_a_page_without_marks_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / report.PAGE.name).write_text("# Mine\n")
    with pytest.raises(BenchmarkError, match="no place for figures"):
        report.write(tmp_path, [sample("p", 0, 10)], report.Circumstances(1, 1, tmp_path, []))
    assert (tmp_path / report.PAGE.name).read_text() == "# Mine\n"


def test_the_command_measures_and_writes(program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HDVKIT_CACHE", str(program.parent.parent))
    monkeypatch.setattr("benchmarks.__main__.ENTRIES", ENTRIES)
    monkeypatch.setattr("benchmarks.__main__.MIB", MIB)
    words = ["--rounds=1", f"--seconds={SHORT}", "--server=python", "--place=same", "--kick=reply", "--workload=stat:1"]
    output, samples = tmp_path / "out", tmp_path / "samples"
    ended = CliRunner().invoke(cli, [*words, f"--output={output}", f"--samples={samples}"], catch_exceptions=False)
    assert ended.exit_code == 0
    assert "| stat:1 |" in (output / report.PAGE.name).read_text()
    told = [json.loads(line) for line in samples.read_text().splitlines()]
    assert [one["contender"] for one in told] == [PLAIN, HDVKIT.name]
    assert not list(program.parent.parent.glob("bench-tree-*"))


def test_an_unknown_workload_is_named(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HDVKIT_CACHE", str(program.parent.parent))
    monkeypatch.setattr("benchmarks.__main__.MIB", MIB)
    with pytest.raises(BenchmarkError, match="'statt'"):
        CliRunner().invoke(cli, ["--workload=statt", "--server=python"], catch_exceptions=False)


# hdvkit bench


def test_the_short_form_compares_the_same_work_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    results = bench.run(tmp_path, SHORT / 5)
    assert [one.did for one in results if not one.same] == []
    assert [one.did for one in results if one.requests < 1] == []
    assert all(one.host_us > 0 and one.guest_us > 0 for one in results)
    assert [one.name for one in tmp_path.iterdir()] == ["mine"]
    console = Console(file=io.StringIO(), width=200)
    console.print(bench.table([*results, attrs.evolve(results[0], same=False)]))
    said = console.file.getvalue()  # type: ignore[attr-defined]  # it is the StringIO
    assert all(one.did in said for one in results)
    assert said.count("another result than on the host") == 1


def test_the_short_form_needs_a_directory(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot measure in .*none: no such file or directory; name a directory"):
        bench.run(tmp_path / "none", SHORT)
