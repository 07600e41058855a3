"""Device controls against the file systems of this machine: what a guest may see, change, and never change."""

import contextlib
import errno
import os
import shutil
import stat
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hdvkit_virtiofs import Context, MemoryFileSystem
from hdvkit_virtiofs.fuse.spec import FS_IOC_FSGETXATTR, FS_IOC_FSSETXATTR, FS_IOC_GETFLAGS, FS_IOC_SETFLAGS
from hdvkit_virtiofs.passthrough import controls
from hdvkit_virtiofs.passthrough.controls import control
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from systems import IS_ROOT, UID

import hdvkit
from hdvkit.testing.fuse_messages import IOCTL_DIR
from hdvkit.testing.guest import Guest

ME = UID
STRANGER = ME + 1

NODUMP, NOATIME = 0x40, 0x80
X_NOATIME, X_NODUMP = 0x40, 0x80
KEPT = {
    "immutable": 0x10,
    "append only": 0x20,
    "encrypted": 0x800,
    "indexed": 0x1000,
    "journalled": 0x4000,
    "extents": 0x80000,
    "verity": 0x100000,
    "attributes elsewhere": 0x200000,
    "dax": 0x2000000,
    "inherits its project": 0x20000000,
    "folds case": 0x40000000,
}
X_KEPT = {
    "realtime": 0x1,
    "immutable": 0x8,
    "append only": 0x10,
    "realtime below": 0x100,
    "inherits its project": 0x200,
    "no symlinks": 0x400,
    "filestream": 0x4000,
    "dax": 0x8000,
    "verity": 0x20000,
}


def refused(
    code: int, descriptor: int, command: int, argument: bytes = b"", out_size: int = 0, caller: int = ME
) -> None:
    with pytest.raises(OSError, match=r".") as caught:
        control(descriptor, command, argument, out_size, caller)
    assert errno.errorcode[caught.value.errno or 0] == errno.errorcode[code]


def flags_of(descriptor: int) -> int:
    return int.from_bytes(control(descriptor, FS_IOC_GETFLAGS, b"", 4, ME), "little")


def set_flags(descriptor: int, flags: int, caller: int = ME) -> None:
    assert control(descriptor, FS_IOC_SETFLAGS, flags.to_bytes(4, "little"), 0, caller) == b""


def fsxattr(descriptor: int) -> tuple[int, ...]:
    return struct.unpack("<5I8x", control(descriptor, FS_IOC_FSGETXATTR, b"", 28, ME))


def opened(path: Path, kind: str) -> int:
    """A file or directory below ``path``, opened as a guest's kernel opens it for this: to read."""
    if kind == "directory":
        (path / "d").mkdir()
        return os.open(path / "d", os.O_RDONLY | os.O_DIRECTORY)
    (path / "f").write_bytes(b"content")
    return os.open(path / "f", os.O_RDONLY)


@pytest.fixture(params=["file", "directory"])
def ground(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[int]:
    """Something on the file system of the temporary directory that has flags."""
    descriptor = opened(tmp_path, request.param)
    try:
        flags_of(descriptor)
    except OSError as error:
        pytest.skip(f"the file system of the temporary directory has no flags: {error.strerror}")
    yield descriptor
    os.close(descriptor)


def mounted(kind: str, where: Path) -> list[str]:
    """What mounts such a file system at ``where``."""
    if kind == "tmpfs":
        return ["mount", "-t", "tmpfs", "tmpfs", where]
    for name in ("lower", "upper", "work"):
        (where.parent / name).mkdir()
    layers = ",".join(f"{key}dir={where.parent / key}" for key in ("lower", "upper", "work"))
    return ["mount", "-t", "overlay", "overlay", "-o", layers, where]


@pytest.fixture(params=["tmpfs", "overlay"])
def elsewhere(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """Another file system, mounted for the test."""
    if not IS_ROOT or shutil.which("mount") is None:
        pytest.skip("only root mounts file systems")
    where = tmp_path / "mounted"
    where.mkdir()
    made = subprocess.run(mounted(request.param, where), capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"no {request.param} can be mounted here: {made.stderr.strip()}")
    yield where
    subprocess.run(["umount", where], check=True)


# What is carried out


def test_flags_are_told_in_4_bytes_whatever_the_number_of_the_command_says(ground: int) -> None:
    told = control(ground, FS_IOC_GETFLAGS, b"", 4, STRANGER)
    assert len(told) == 4
    assert control(ground, FS_IOC_GETFLAGS, b"", 8, ME) == told, "room for long, which older guests have"


def test_what_lsattr_and_chattr_do(ground: int) -> None:
    before = flags_of(ground)
    set_flags(ground, before | NODUMP | NOATIME)
    assert flags_of(ground) == before | NODUMP | NOATIME
    assert fsxattr(ground)[0] & (X_NOATIME | X_NODUMP) == X_NOATIME | X_NODUMP
    assert control(ground, FS_IOC_SETFLAGS, before.to_bytes(4, "little") + b"\xff\xff\xff\xff", 0, ME) == b""
    assert flags_of(ground) == before, "the second half of a long is whatever lay behind an int"


def test_what_xfs_io_does(ground: int) -> None:
    xflags, *rest = fsxattr(ground)
    new = struct.pack("<5I8x", xflags | X_NODUMP, *rest)
    assert control(ground, FS_IOC_FSSETXATTR, new, 0, ME) == b""
    assert fsxattr(ground) == (xflags | X_NODUMP, *rest)
    assert flags_of(ground) & NODUMP


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_other_file_systems_do_the_same_or_say_why_not(elsewhere: Path, kind: str) -> None:
    descriptor = opened(elsewhere, kind)
    try:
        before = flags_of(descriptor)
        set_flags(descriptor, before | NODUMP)
        assert flags_of(descriptor) == before | NODUMP
        refused(errno.EPERM, descriptor, FS_IOC_SETFLAGS, (before | 0x10).to_bytes(4, "little"))
    except OSError as error:
        assert error.errno in (errno.ENOTTY, errno.EOPNOTSUPP)  # noqa: PT017 - one of two things may happen
    finally:
        os.close(descriptor)


# What is not


@pytest.mark.parametrize("name", KEPT)
def test_no_guest_changes_what_the_host_relies_on(ground: int, name: str) -> None:
    before = flags_of(ground)
    changed = (before ^ KEPT[name]) | NODUMP
    for argument in (changed.to_bytes(4, "little"), changed.to_bytes(8, "little")):
        refused(errno.EPERM, ground, FS_IOC_SETFLAGS, argument, caller=0)
    assert flags_of(ground) == before


@pytest.mark.parametrize("name", X_KEPT)
def test_nor_by_the_other_name_of_the_same_flags(ground: int, name: str) -> None:
    before = fsxattr(ground)
    argument = struct.pack("<5I8x", (before[0] ^ X_KEPT[name]) | X_NODUMP, *before[1:])
    refused(errno.EPERM, ground, FS_IOC_FSSETXATTR, argument, caller=0)
    assert fsxattr(ground) == before


def test_no_guest_leaves_the_project_whose_quota_it_uses(ground: int) -> None:
    xflags, extsize, extents, project, cow = fsxattr(ground)
    argument = struct.pack("<5I8x", xflags, extsize, extents, project + 1, cow)
    refused(errno.EPERM, ground, FS_IOC_FSSETXATTR, argument, caller=0)
    assert fsxattr(ground)[3] == project


def test_a_file_the_host_made_immutable_stays_so(tmp_path: Path) -> None:
    if not IS_ROOT or shutil.which("chattr") is None:
        pytest.skip("only root makes files immutable, with chattr")
    descriptor = opened(tmp_path, "file")
    if subprocess.run(["chattr", "+i", tmp_path / "f"], capture_output=True, check=False).returncode:
        os.close(descriptor)
        pytest.skip("the file system of the temporary directory has no immutable files")
    try:
        flags = flags_of(descriptor)
        assert flags & 0x10
        refused(errno.EPERM, descriptor, FS_IOC_SETFLAGS, (flags & ~0x10).to_bytes(4, "little"), caller=0)
        assert flags_of(descriptor) == flags
    finally:
        subprocess.run(["chattr", "-i", tmp_path / "f"], check=True)
        os.close(descriptor)


def test_only_the_owner_and_root_change_anything(ground: int) -> None:
    before, xattr = flags_of(ground), fsxattr(ground)
    refused(errno.EPERM, ground, FS_IOC_SETFLAGS, (before | NODUMP).to_bytes(4, "little"), caller=STRANGER)
    refused(errno.EPERM, ground, FS_IOC_FSSETXATTR, struct.pack("<5I8x", *xattr), caller=STRANGER)
    assert flags_of(ground) == before
    set_flags(ground, before | NODUMP, caller=0)
    set_flags(ground, before, caller=ME)


SIZES = [
    (FS_IOC_GETFLAGS, 0, (0, 3, 5, 7, 9, 0xFFFF_FFFF)),
    (FS_IOC_GETFLAGS, 4, (4, 8)),
    (FS_IOC_SETFLAGS, 4, (1, 4, 0xFFFF_FFFF)),
    *((FS_IOC_SETFLAGS, size, (0,)) for size in (0, 1, 3, 5, 9, 4096)),
    (FS_IOC_FSGETXATTR, 0, (0, 27, 29, 0xFFFF_FFFF)),
    (FS_IOC_FSGETXATTR, 28, (28,)),
    *((FS_IOC_FSSETXATTR, size, (0,)) for size in (0, 4, 27, 29, 4096)),
    (FS_IOC_FSSETXATTR, 28, (28,)),
]


@pytest.mark.parametrize(("command", "size", "rooms"), SIZES)
def test_sizes_a_control_does_not_have(ground: int, command: int, size: int, rooms: tuple[int, ...]) -> None:
    before = flags_of(ground)
    for room in rooms:
        refused(errno.EINVAL, ground, command, bytes(size), room, caller=0)
    assert flags_of(ground) == before


OTHERS = {
    "TCGETS": 0x5401,
    "FIONREAD": 0x541B,
    "FIBMAP": 0x1,
    "FIFREEZE": 0xC004_5877,
    "FITRIM": 0xC018_5879,
    "FICLONE": 0x4004_9409,
    "FS_IOC_GETVERSION": 0x8008_7601,
    "FS_IOC_SETVERSION": 0x4008_7602,
    "FS_IOC32_GETFLAGS": 0x8004_6601,
    "FS_IOC_SET_ENCRYPTION_POLICY": 0x800C_6613,
    "FS_IOC_ENABLE_VERITY": 0x4080_6685,
    "EXT4_IOC_SWAP_BOOT": 0x6611,
    "nothing": 0,
    "all ones": 0xFFFF_FFFF,
}


@pytest.mark.parametrize("name", OTHERS)
def test_nothing_else_reaches_the_host(ground: int, name: str) -> None:
    refused(errno.ENOTTY, ground, OTHERS[name], bytes(8), 8, caller=0)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 0xFFFF_FFFF), st.binary(max_size=64), st.integers(0, 64))
def test_random_commands_end_in_a_refusal(ground: int, command: int, argument: bytes, room: int) -> None:
    if command not in controls._CONTROLS:
        refused(errno.ENOTTY, ground, command, argument, room, caller=0)


def test_only_files_and_directories_have_controls(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    null = os.open("/dev/null", os.O_RDONLY)
    try:
        for descriptor in (reader, null):
            for command, argument, room in (
                (FS_IOC_GETFLAGS, b"", 4),
                (FS_IOC_SETFLAGS, bytes(4), 0),
                (FS_IOC_FSGETXATTR, b"", 28),
                (FS_IOC_SETFLAGS, b"", 4),  # which a file would not take
            ):
                refused(errno.ENOTTY, descriptor, command, argument, room)
    finally:
        for descriptor in (reader, writer, null):
            os.close(descriptor)


def test_what_is_open_by_path_only_has_none(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_PATH)
    try:
        refused(errno.EBADF, descriptor, FS_IOC_GETFLAGS, b"", 4)
    finally:
        os.close(descriptor)


# On a read-only share

READ_ONLY = [
    (FS_IOC_GETFLAGS, 0, 4, 0),
    (FS_IOC_FSGETXATTR, 0, 28, 0),
    (FS_IOC_SETFLAGS, 4, 0, errno.EROFS),
    (FS_IOC_FSSETXATTR, 28, 0, errno.EROFS),
    *((command, 8, 8, errno.ENOTTY) for command in OTHERS.values()),
]


@pytest.mark.parametrize(("command", "size", "room", "code"), READ_ONLY)
async def test_a_read_only_share_is_asked_for_flags_and_changes_none(
    ground: int, tmp_path: Path, command: int, size: int, room: int, code: int
) -> None:
    before = flags_of(ground)
    async with hdvkit.open_host("sim") as host:
        share = await host.add("virtiofs", source=tmp_path, tag="t", read_only=True)
        async with Guest.of(host).mount(share) as mount:
            client = mount.client
            entry = await client.lookup(1, b"f" if (tmp_path / "f").exists() else b"d")
            directory = stat.S_ISDIR(entry.attr.mode)
            begin, end = (client.opendir, client.releasedir) if directory else (client.open, client.release)
            opened = await begin(entry.nodeid, os.O_RDONLY)
            asking = client.ioctl(
                entry.nodeid, opened.fh, command, bytes(size), out_size=room, flags=IOCTL_DIR if directory else 0
            )
            if code:
                with pytest.raises(OSError, match=r".") as caught:
                    await asking
                assert errno.errorcode[caught.value.errno or 0] == errno.errorcode[code]
            else:
                assert await asking == control(ground, command, b"", room, ME)
            await end(entry.nodeid, opened.fh)
            await client.forget(entry.nodeid, 1)
    assert flags_of(ground) == before


async def test_a_read_only_share_lets_no_unknown_control_reach_a_file_system() -> None:
    asked = []

    class WithControls(MemoryFileSystem):
        """One whose controls may do anything."""

        async def ioctl(
            self, node: object, handle: object, command: int, argument: bytes, out_size: int, context: Context
        ) -> bytes:
            """Note it."""
            asked.append(command)
            return b""

    async with hdvkit.open_host("sim") as host:
        share = await host.add("virtiofs", source=WithControls({"f": b""}), tag="t", read_only=True)
        async with Guest.of(host).mount(share) as mount, await mount.open("f") as file:
            for command in (0x1234, FS_IOC_SETFLAGS, FS_IOC_GETFLAGS):
                with contextlib.suppress(OSError):
                    await mount.client.ioctl(file.nodeid, file.fh, command)
    assert asked == [FS_IOC_GETFLAGS]
