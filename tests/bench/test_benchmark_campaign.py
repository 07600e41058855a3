"""The benchmarks take turns, say what is missing, and write their page."""

import json
import os
import signal
import subprocess
import sys
import xml.etree.ElementTree
from pathlib import Path

import pytest
from click.testing import CliRunner
from hdvkit_virtiofs import VirtioFs

from benchmarks import build, figures, in_guest, report, servers, virtiofsd
from benchmarks.__main__ import cli
from benchmarks.campaign import PLAIN, Campaign, Sample, Setup, in_turn
from benchmarks.errors import BenchmarkError
from benchmarks.placement import Place, pinned, processors
from benchmarks.run import Figures, Tree

SHORT = 0.05
HDVKIT = servers.hdvkit_contender(native=False)
EVERYWHERE = os.sched_getaffinity(0)


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
    with pinned({min(EVERYWHERE)}), pytest.raises(BenchmarkError, match="take --place same"):
        processors(Place.TWO)
    if len(EVERYWHERE) > 1:
        guest, server = processors(Place.TWO)
        assert len(guest) == 1
        assert guest < server


def test_the_peer_uses_eventfds_whatever_others_do() -> None:
    peer = servers.Contender("peer", "1", "vhost-user", (), lambda room, tree: [])
    assert (peer.kick("posted"), HDVKIT.kick("posted")) == ("ioeventfd", "posted")


def test_guests_see_the_same_queues_whoever_serves(tmp_path: Path) -> None:
    ours = VirtioFs(source=tmp_path, tag="t").queue_size
    assert in_guest.vhost_user(tmp_path)[-1].endswith(f",queue-size={ours}")


def test_an_old_virtiofsd_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of QEMU until 7.2 has the name, and other options."""
    program = tmp_path / "virtiofsd"
    monkeypatch.setenv("PATH", str(tmp_path))
    for option, found in (("--socket-path", None), ("--shared-dir", [str(program)])):
        program.write_text(f"#!/bin/sh\necho {option}\n")
        program.chmod(0o755)
        assert virtiofsd.installed() == found


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


def test_each_has_its_turn_behind_every_other() -> None:
    peers = [servers.Contender(name, "1", "vfio-user", (), lambda room, tree: []) for name in "abc"]
    orders = ["".join(one.name for one in in_turn(peers, number, turn)) for number in range(3) for turn in range(2)]
    assert {order[0] for order in orders} == set("abc")
    assert {pair for order in orders for pair in (order[:2], order[1:])} == {"ab", "bc", "ca", "ba", "cb", "ac"}


def test_a_campaign_takes_turns_and_writes_its_page(program: Path, tree: Tree, tmp_path: Path) -> None:
    other = servers.Contender("other", "hdvkit again", "vfio-user", HDVKIT.program, HDVKIT.arguments)
    setups = [Setup(Place.SAME, "ioeventfd"), Setup(Place.SAME, "posted")]
    campaign = Campaign(program, tree, [HDVKIT, other], setups, ["stat:1"], rounds=2, seconds=SHORT)
    told: list[str] = []
    heard: list[Sample] = []
    samples = campaign.run(told.append, heard.append)
    assert heard == samples
    assert {one.contender for one in samples} == {PLAIN, HDVKIT.name, "other"}
    assert len(samples) == 2 * 2 * 3
    assert len(told) == 4

    content = report.text(samples, report.Circumstances(2, SHORT, tree.directory, campaign.contenders))
    page = report.write(tmp_path, report.MEASURED, content, samples)
    text = page.read_text()
    begin, end = report.marks(report.MEASURED)
    before, _, rest = report.PAGE.read_text().partition(begin)
    assert text.startswith(before + begin)
    assert text.endswith(end + rest.partition(end)[2])
    assert content.count("\n| stat:1 |") == 2
    assert "| versions | hdvkit" in text
    assert f"| commands | `hdvkit run vfio-user:directory=ROOM virtiofs:source=TREE,tag={servers.TAG}` |" in text
    assert "\n### One processor for both, kicks by posted message\n" in text
    picture = xml.etree.ElementTree.parse(tmp_path / report.PICTURE)
    said = {one.text for one in picture.iter("{http://www.w3.org/2000/svg}text")}
    assert {"stat:1", "other", *map(str, setups)} <= said

    assert report.write(tmp_path, report.MEASURED, content, samples).read_text() == text


def test_a_page_without_marks_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / report.PAGE.name).write_text("# Mine\n")
    with pytest.raises(BenchmarkError, match="no place for figures"):
        report.write(tmp_path, report.MEASURED, "figures", [sample("p", 0, 10)])
    assert (tmp_path / report.PAGE.name).read_text() == "# Mine\n"


@pytest.fixture
def small(program: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The least there is to measure, by the command."""
    monkeypatch.setenv("HDVKIT_CACHE", str(program.parent.parent))
    monkeypatch.setattr("benchmarks.__main__.ENTRIES", 120)
    monkeypatch.setattr("benchmarks.__main__.MIB", 16)
    return ["--rounds=1", f"--seconds={SHORT}", "--server=python", "--place=same", "--kick=reply", "--workload=stat:1"]


def test_the_command_measures_and_prints(program: Path, small: list[str], tmp_path: Path) -> None:
    samples = tmp_path / "samples"
    page = report.PAGE.read_bytes()
    ended = CliRunner().invoke(cli, [*small, f"--samples={samples}"], catch_exceptions=False)
    assert ended.exit_code == 0
    assert "| stat:1 |" in ended.stdout
    assert report.PAGE.read_bytes() == page
    told = [json.loads(line) for line in samples.read_text().splitlines()]
    assert [one["contender"] for one in told] == [PLAIN, HDVKIT.name]
    assert not list(program.parent.parent.glob("bench-tree-*"))


def test_the_command_writes_a_page(small: list[str], tmp_path: Path) -> None:
    ended = CliRunner().invoke(cli, [*small, f"--output={tmp_path}"], catch_exceptions=False)
    assert ended.stdout.splitlines() == [str(tmp_path / report.PAGE.name)]
    assert "| stat:1 |" in (tmp_path / report.PAGE.name).read_text()


def test_one_that_is_stopped_stops_what_it_started(program: Path, tmp_path: Path) -> None:
    words = ["--seconds=60", "--rounds=1", "--server=python", "--place=same", "--kick=reply", "--workload=stat:1"]
    samples = tmp_path / "samples"
    started = subprocess.Popen(
        [sys.executable, "-m", "benchmarks", *words, f"--directory={tmp_path}", f"--samples={samples}"],
        env=os.environ | {"PYTHONPATH": "tools", "HDVKIT_CACHE": str(program.parent.parent)},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert started.stderr is not None
    assert "round 1" in started.stderr.readline()
    children = Path(f"/proc/{started.pid}/task/{started.pid}/children")
    while not (running := children.read_text().split()):
        assert started.poll() is None
    started.terminate()
    assert started.wait(30) == 128 + signal.SIGTERM
    started.stderr.close()
    assert not [pid for pid in running if Path(f"/proc/{pid}").exists()]
    assert [one.name for one in tmp_path.iterdir()] == ["samples"]


def test_an_unknown_workload_is_named(small: list[str]) -> None:
    with pytest.raises(BenchmarkError, match="'statt'"):
        CliRunner().invoke(cli, [*small, "--workload=statt"], catch_exceptions=False)
