"""System calls on a share against the same on ext4 in the same guest: what they return, and what is then there.

The program in ``semantics/`` runs in both places; what it tells must be equal but for the differences that are known,
and ``docs/semantics.md`` counts its cases.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from guest_files import LIMIT, booted, tools
from hdvkit_virtiofs import VirtioFs
from hdvkit_vm import Assets, VirtualMachine
from on_ext4 import KNOWN, MAKE_EXT4, check, file_system, read

PROGRAM = Path(__file__).parent / "semantics"
PAGE = Path(__file__).parent.parent.parent / "docs/semantics.md"
ONE_OF = 1 if os.environ.get("HDVKIT_SEMANTICS") == "full" else 5
"""Of so many cases one runs: all of them take a guest without hardware acceleration six minutes, beside others more."""

XATTRS = ("ok:user.", "ok:trusted.", "ok:security.")
"""All that ext4 keeps without access control lists; by itself a share lets only the first pass."""

POLICIES = ("auto", "never") if ONE_OF == 1 else ("auto",)


@pytest.mark.skipif(os.geteuid() != 0, reason="files of several users are made: only root can")
async def test_semantics(kernel: str, assets: Assets, room: Path, log: Path) -> None:
    if file_system(room) != "ext2/ext3":
        pytest.skip(f"{room} lies on {file_system(room)}, whose own answers differ from those of ext4")
    shares = [share(room, policy) for policy in POLICIES]
    program = VirtioFs(source=PROGRAM, tag="program", read_only=True, cache="always")
    async with booted(kernel, assets, room, log, [*shares, program, tools(assets)], memory_mb=512) as (vm, functions):
        await vm.run(MAKE_EXT4)
        await run(vm, "/ext4")
        await run(vm, *(f"/{one.tag}" for one in shares))
        await vm.run("mv /ext4/results /auto/ext4; umount /ext4")
        assert [function.stats().needs_resets for function in functions] == [0] * len(functions)
    expected = read(room / "auto/ext4")
    assert [case for case, result in expected.items() if "unexpected" in str(result)] == []
    for one in shares:
        check(expected, read(room / one.tag / "results"), one.tag, kernel)


def test_the_page_is_up_to_date() -> None:
    page = PAGE.read_text(encoding="utf-8")
    command = (sys.executable, "-B", PROGRAM)
    counts = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert {group: int(count) for group, count in re.findall(r"^\| `(\w+)` \| (\d+) \|", page, re.MULTILINE)} == counts
    assert [why for why in KNOWN.values() if why not in page] == []


def share(room: Path, policy: str) -> VirtioFs:
    """A share that is called by its cache policy."""
    (room / policy).mkdir()
    return VirtioFs(source=room / policy, tag=policy, cache=policy, xattr_rules=XATTRS)


async def run(vm: VirtualMachine, *places: str) -> None:
    """Run the program in each place."""
    for place in places:
        command = f"/tools/python /program {place}/work {place}/results --one-of {ONE_OF} --drop-caches"
        print(place, await vm.run(command, timeout=LIMIT))  # noqa: T201 - what took how long, if it fails
