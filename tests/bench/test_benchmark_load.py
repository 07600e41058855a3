"""The load generator measures, and sees wrong answers. How fast anything is, is none of its tests' business."""

import os
from pathlib import Path

import pytest

from benchmarks import run, servers, virtiofsd
from benchmarks.campaign import KICKS
from benchmarks.errors import BenchmarkError, WrongAnswer
from benchmarks.run import Figures, Tree

SHORT = 0.05
HDVKIT = servers.hdvkit_contender(native=False)
EVERYWHERE = os.sched_getaffinity(0)


def measure(program: Path, tree: Tree, server: servers.Server, *only: str, kick: str = "ioeventfd") -> list[Figures]:
    arguments = [f"--vfio-user={server.socket}", f"--kick={kick}"]
    return run.measure(program, arguments, tree, seconds=SHORT, only=only, on=EVERYWHERE, check=server.check)


def names(found: list[Figures]) -> list[str]:
    return [one.name for one in found]


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
    assert all(tree.entries <= each <= tree.entries + 2 for each in listings.values())
    assert set(listings) == {"readdirplus", "readdirplus-cold", "readdir"}


def test_workloads_have_their_depths(program: Path) -> None:
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
        data.seek(tree.mib // 2 << 20 | 12345)
        data.write(bytes([data.read(1)[0] ^ 1]))
    # One word in half a million: what looks while it measures would hardly meet it.
    with pytest.raises(WrongAnswer, match="other bytes"):
        measure(program, tree, server, "read4k:1")


def test_other_names_sizes_and_inodes_are_wrong_answers(program: Path, tree: Tree, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Tree(tmp_path / "other", tree.entries, tree.mib)
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
