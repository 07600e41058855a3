"""POSIX access control lists on a share against the same on ext4 in the same guest, and as the host sees them."""

import os
import struct
from pathlib import Path
from typing import Any

import pytest
from guest_files import LIMIT, LONG, Folder, booted, tools
from hdvkit_virtiofs import VirtioFs
from hdvkit_vm import Assets, VirtualMachine
from on_ext4 import MAKE_EXT4, check, file_system, read

HERE = Path(__file__).parent
PROGRAM = "/programs/set_acls.py"
ONE_OF = 1 if LONG else 6
"""Of so many cases one runs; they are a thousand."""

OPTIONS: dict[str, dict[str, Any]] = {"auto": {}, "never": {"cache": "never", "queues": 2}, "late": {"writeback": True}}
CHOSEN = tuple(OPTIONS) if LONG else ("auto",)

NOBODY = 2**32 - 1
USER, OTHER = 54321, 54322
ENTRIES = ((1, 6, NOBODY), (2, 4, USER), (4, 0, NOBODY), (16, 4, NOBODY), (32, 0, NOBODY))
ACL = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in ENTRIES)
"""The owner reads and writes, one user reads, and nobody else does anything."""
MASKED = ACL.replace(struct.pack("<HH", 16, 4), struct.pack("<HH", 16, 0))
"""The same with nothing in the mask."""


@pytest.mark.skipif(os.geteuid() != 0, reason="files of several users are made: only root can")
async def test_as_on_ext4(kernel: str, assets: Assets, room: Path, log: Path) -> None:
    if file_system(room) != "ext2/ext3":
        pytest.skip(f"{room} lies on {file_system(room)}, whose own answers differ from those of ext4")
    shares = [share(room, name) for name in CHOSEN]
    programs = [VirtioFs(source=HERE / name, tag=name, read_only=True) for name in ("programs", "semantics")]
    async with booted(kernel, assets, room, log, [*shares, *programs, tools(assets)], memory_mb=512) as (vm, _):
        await vm.run(MAKE_EXT4.replace("mount -t ext4", "mount -t ext4 -o acl"))
        for place in ("ext4", *CHOSEN):
            await run(vm, f"/{place}")
        await vm.run(f"mv /ext4/results /{CHOSEN[0]}/ext4; umount /ext4")
    expected = read(room / CHOSEN[0] / "ext4")
    assert [case for case, result in expected.items() if "unexpected" in str(result)] == []
    for name in CHOSEN:
        check(expected, read(room / name / "results"), name, kernel)


async def test_host_and_guest(kernel: str, assets: Assets, room: Path, log: Path) -> None:
    async with booted(kernel, assets, room, log, [share(room, "auto"), tools(assets)]) as (vm, _):
        here = Folder(vm, room / "auto", "/auto")
        await here.python(f"""
            import os
            open("guest", "w").write("content")
            os.setxattr("guest", "system.posix_acl_access", {ACL!r})
            """)
        assert os.getxattr(here.host / "guest", "system.posix_acl_access") == ACL
        assert (here.host / "guest").stat().st_mode & 0o777 == 0o640
        here.write("host", b"content")
        os.setxattr(here.host / "host", "system.posix_acl_access", ACL)
        assert await here.python(TRIED) == "content\nPermission denied\n" * 2
        # The group's bits are the mask: without them, who is named is denied too.
        await here.sh("chmod g= guest")
        assert os.getxattr(here.host / "guest", "system.posix_acl_access") == MASKED
        assert await here.python(TRIED) == "Permission denied\n" * 2 + "content\nPermission denied\n"


TRIED = f"""
    import os
    for name in ("guest", "host"):
        for user in ({USER}, {OTHER}):
            os.seteuid(user)
            try:
                print(open(name).read())
            except PermissionError as error:
                print(error.strerror)
            os.seteuid(0)
    """


def share(room: Path, name: str) -> VirtioFs:
    """A share that is called by what is special about it."""
    (room / name).mkdir()
    (room / name).chmod(0o777)
    return VirtioFs(source=room / name, tag=name, posix_acl=True, **OPTIONS[name])


async def run(vm: VirtualMachine, place: str) -> None:
    """Run the cases in a place."""
    command = f"PYTHONPATH=/semantics /tools/python {PROGRAM} {place}/work {place}/results {ONE_OF}"
    print(place, await vm.run(command, timeout=LIMIT))  # noqa: T201 - what took how long, if it fails
