"""ext4 in the guest, and what a program that ran there and on a share has told of both."""

import collections
import json
import re
import subprocess
from pathlib import Path

import attrs
import pytest

SHOWN = 30

MAKE_EXT4 = """\
set -e
truncate -s 1G /tmp/image
/tools/mkfs.ext4 -q -b 4096 -N 60000 /tmp/image

losetup /dev/loop0 /tmp/image
mkdir /ext4
mount -t ext4 /dev/loop0 /ext4
"""

_SHARED_MAPS = (
    r"data: mapped shared .*",
    r"data: mapped_(and_.*|by_.*|kind (file|symlink))",
    r"sizes: takes_setid mmap .*",
    r"times: of_a_file map-.*",
)

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
    r"chown: by_descriptor (member|other) file 6755 -1": (
        "`fchown` with neither user nor group takes setuid and setgid whoever asks: "
        "Linux's FUSE sends the same for it as for a write that takes them."
    ),
    r"times: of_a_file (read-end|copy-from)": (
        "Linux's FUSE does not ask for the end of a file whose size it knows, and not again for the time of access "
        "after `copy_file_range`."
    ),
    r"times: of_a_file chown-nobody": (
        "Of `chown` with neither user nor group Linux's FUSE tells nothing but that it was called; "
        "the time of change stays, unless it takes setuid or setgid."
    ),
    r"xattrs: of_kind socket user\.a .* \(7\.x\)": (
        "Newer kernels let sockets have `user.` attributes on ext4; whether a share does is the host's kernel's affair."
    ),
    r"times: born_when_made \(6\.1\)": "Linux before 6.6 does not ask FUSE when a file was made.",
    rf"({'|'.join(_SHARED_MAPS)}) \(6\.1, never\)": (
        "Linux before 6.6 maps no file shared that is read and written directly, as under `never`: ENODEV."
    ),
}
"""Group and case, as a pattern, to the reason why the share answers otherwise. The page has them too.

The kernel follows in brackets, for what only one of them does, or the kernel and the share's cache policy.
"""

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


def file_system(folder: Path) -> str:
    """What a folder lies on."""
    command = ("stat", "--file-system", "--format", "%T", folder)
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


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
    unknown = [one for one in different if reason(one.case, kernel, name) is None]
    groups = collections.Counter(one.case[0] for one in unknown)
    told = "\n".join(str(one) for one in unknown[:SHOWN])
    if unknown:
        pytest.fail(f"{name}: {len(unknown)} of {len(found)} cases differ {dict(groups)}\n{told}", pytrace=False)


def reason(case: Case, kernel: str, name: str) -> str | None:
    """Why a case may differ."""
    told = f"{case[0]}: {case[1]}"
    texts = (told, f"{told} ({kernel})", f"{told} ({kernel}, {name})")
    return next((why for pattern, why in KNOWN.items() if any(re.fullmatch(pattern, text) for text in texts)), None)
