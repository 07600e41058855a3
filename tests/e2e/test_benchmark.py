"""``make e2e-bench`` measures, and writes its part of the page. How fast anything is, is none of its business here."""

from pathlib import Path

import pytest
from hdvkit_vm import Assets

from benchmarks import in_guest, report, servers
from benchmarks.build import compiler, guest_program

SHORT = 0.1

pytestmark = pytest.mark.skipif(
    compiler() is None or not servers.is_built(), reason="what works in the guest, and what serves it, is C to be built"
)


async def test_all_work_is_done_in_a_guest_and_told(assets: Assets, room: Path, tmp_path: Path) -> None:
    in_guest.make_tree(room)
    ours = servers.hdvkit_contender(native=True)
    program = guest_program(tmp_path).read_bytes()
    guests = in_guest.InGuest(program, assets, room, [ours], ["7.x"], in_guest.WORKS, 1, SHORT)
    samples = await guests.run()
    assert [one.figures.workload for one in samples] == [*in_guest.WORKS]
    for one in samples:
        assert one.figures.operations > 0
        assert one.figures.seconds >= SHORT
        assert 0 < one.figures.p50_us <= one.figures.p99_us
    assert sum(one.figures.cpu_us for one in samples) > 0
    assert (room / "data").read_bytes().count(b"x") > 0, "what was written is here"
    assert not (room / "made").exists()
    content = report.text(samples, report.Circumstances(1, SHORT, room, [ours]), in_guest.machines(assets))
    page = report.write(tmp_path, report.IN_GUEST, content, samples)
    begin, end = report.marks(report.IN_GUEST)
    told = page.read_text().partition(begin)[2].partition(end)[0]
    assert f"### Linux {assets.guest('7.x').release}" in told
    assert told.count("\n| commit:1 |") == 1
    assert "| qemu | QEMU emulator version" in told
