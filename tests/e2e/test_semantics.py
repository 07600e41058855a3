"""System calls on a share against the same on ext4 in the same guest: what they return, and what is then there.

The program in ``semantics/`` runs in both places; what it tells must be equal but for the differences that are known,
and ``docs/semantics.md`` counts its cases.
"""

import collections
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import attrs
import pytest
from guest_files import booted, tools
from hdvkit_virtiofs import VirtioFs
from hdvkit_vm import Assets, VirtualMachine

PROGRAM = Path(__file__).parent / "semantics"
PAGE = Path(__file__).parent.parent.parent / "docs/semantics.md"
SHOWN = 30
MINUTES = 10 * 60.0
ONE_OF = 1 if os.environ.get("HDVKIT_SEMANTICS") == "full" else 5
"""Of so many cases one runs: all of them take a guest without hardware acceleration six minutes."""

MAKE_EXT4 = """\
set -e
truncate -s 1G /tmp/image
/tools/mkfs.ext4 -q -b 4096 -N 60000 /tmp/image

losetup /dev/loop0 /tmp/image
mkdir /ext4
mount -t ext4 /dev/loop0 /ext4
"""

KNOWN = {
    r"nodes: made (character .* 1,3|block .*)": (
        "Device nodes but whiteouts (character device 0:0) are refused with EPERM, to root too: "
        "on the host they would act on its devices."
    ),
    r"nodes: epoll_refuses file": "Linux lets `epoll` watch any file of a FUSE file system, and always finds it ready.",
    r"data: direct_out_of_line .*": (
        "`O_DIRECT` needs no alignment: the host's page cache stands between the guest and the disk."
    ),
    r"opening: truncating_a_program_that_runs": (
        "Linux's FUSE has a program that runs truncated by opening it `O_TRUNC` for reading, "
        "and only then refuses with ETXTBSY."
    ),
    r"sizes: takes_setid .* other (2767|6666)": (
        "A write takes setgid only where the group may execute, as FUSE's `HANDLE_KILLPRIV_V2` has it; "
        "ext4 takes it also where who writes is not of the group."
    ),
    r"space: (allocated|allocated_by|allocated_in .*) (collapse|insert) .*": (
        "Linux's FUSE knows `fallocate` with `KEEP_SIZE`, `PUNCH_HOLE` and `ZERO_RANGE` only, and refuses the rest."
    ),
    r"space: moved [012] (4611686018427387904|9223372036854775807)": (
        "A position may lie behind the largest file of ext4: the guest does not know the host's limit."
    ),
    r"times: born_when_made \(6\.1\)": "Linux before 6.6 does not ask FUSE when a file was made.",
}
"""Group and case, as a pattern, to the reason why the share answers otherwise. The page has them too.

The kernel follows in brackets, for what only one of them does.
"""

XATTRS = ("ok:user.", "ok:trusted.", "ok:security.")
"""All that ext4 keeps without access control lists; by itself a share lets only the first pass."""

POLICIES = ("auto", "never") if ONE_OF == 1 else ("auto",)

Case = tuple[str, str]
Results = dict[Case, object]


@attrs.frozen
class Difference:
    """One case that did not go as on ext4."""

    case: Case
    ext4: object
    share: object

    def __str__(self) -> str:
        return f"{self.case[0]}: {self.case[1]}\n    ext4  {json.dumps(self.ext4)}\n    share {json.dumps(self.share)}"


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


def file_system(folder: Path) -> str:
    """What a folder lies on."""
    command = ("stat", "--file-system", "--format", "%T", folder)
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


async def run(vm: VirtualMachine, *places: str) -> None:
    """Run the program in each place."""
    for place in places:
        command = f"/tools/python /program {place}/work {place}/results --one-of {ONE_OF} --drop-caches"
        print(place, await vm.run(command, timeout=MINUTES))  # noqa: T201 - what took how long, if it fails


def read(file: Path) -> Results:
    """What the program wrote."""
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    results = {(line["group"], line["case"]): line["result"] for line in lines}
    assert len(results) == len(lines)
    return results


def check(expected: Results, found: Results, name: str, kernel: str) -> None:
    """Compare, and tell the first differences that nobody knows."""
    assert list(found) == list(expected), "cases were lost"
    different = [Difference(case, expected[case], found[case]) for case in expected if expected[case] != found[case]]
    unknown = [one for one in different if reason(one.case, kernel) is None]
    groups = collections.Counter(one.case[0] for one in unknown)
    told = "\n".join(str(one) for one in unknown[:SHOWN])
    if unknown:
        pytest.fail(f"{name}: {len(unknown)} of {len(found)} cases differ {dict(groups)}\n{told}", pytrace=False)


def reason(case: Case, kernel: str) -> str | None:
    """Why a case may differ."""
    told = f"{case[0]}: {case[1]}"
    texts = (told, f"{told} ({kernel})")
    return next((why for pattern, why in KNOWN.items() if any(re.fullmatch(pattern, text) for text in texts)), None)
