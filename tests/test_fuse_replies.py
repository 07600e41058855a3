"""Replies against bytes unpacked by hand, at the offsets of the protocol."""

import errno
import math
import os
import stat
import struct
import sys
from typing import Any

import pytest
from hdvkit_virtiofs.fuse import replies, spec
from hdvkit_virtiofs.fuse.answers import Attributes, DirEntry, StatFs, Statx
from hdvkit_virtiofs.fuse.errors import LinuxErrno
from hdvkit_virtiofs.fuse.messages import FileHandle, NodeId
from hdvkit_virtiofs.fuse.replies import DirectoryWriter
from hdvkit_virtiofs.fuse.spec import InitFlag
from hypothesis import given
from hypothesis import strategies as st

ATTR = "QQQQQQIIIIIIIIII"
FILE = Attributes(
    ino=42,
    mode=stat.S_IFREG | 0o644,
    size=5000,
    nlink=2,
    uid=1000,
    gid=100,
    rdev=0x0103,
    blocks=16,
    blksize=512,
    atime_ns=1_000_000_001,
    mtime_ns=2_999_999_999,
    ctime_ns=3_000_000_000,
)
FILE_ON_THE_WIRE = (42, 5000, 16, 1, 2, 3, 1, 999_999_999, 0, 0o100644, 2, 1000, 100, 0x0103, 512)


def sent(data: bytes, form: str) -> tuple[Any, ...]:
    return struct.unpack("<" + form, data)


# Headers


def test_reply_has_the_length_of_all_of_it() -> None:
    assert replies.reply(0xABCD) == struct.pack("<IiQ", 16, 0, 0xABCD)
    assert replies.reply(2**63 + 1, b"data") == struct.pack("<IiQ", 20, 0, 2**63 + 1) + b"data"
    assert replies.out_header(7, payload_size=4096) == struct.pack("<IiQ", 4112, 0, 7)
    assert replies.out_header(7, -5) == struct.pack("<IiQ", 16, -5, 7)


def test_errors_are_negative_and_linuxs() -> None:
    assert replies.error(7, errno.ENOENT) == struct.pack("<IiQ", 16, -2, 7)
    assert replies.error(7, errno.ENOSYS) == struct.pack("<IiQ", 16, -38, 7)
    assert replies.error(7, errno.ENAMETOOLONG) == struct.pack("<IiQ", 16, -36, 7)
    assert replies.error(7, errno.EOPNOTSUPP) == struct.pack("<IiQ", 16, -95, 7)


@pytest.mark.parametrize("code", [0, -2, 512, 99999])
def test_codes_linux_does_not_know_become_eio(code: int) -> None:
    assert replies.error(7, code) == struct.pack("<IiQ", 16, -5, 7)


@pytest.mark.skipif(sys.platform != "linux", reason="the numbers and texts are those of Linux")
def test_the_table_of_errors_agrees_with_a_linux_host() -> None:
    for name, number in LinuxErrno.__members__.items():
        assert (getattr(errno, name), os.strerror(number)) == (number, number.text)


# Attributes


def test_attr() -> None:
    data = replies.attr(FILE, 1.5, flags=1)
    assert sent(data, "QII" + ATTR) == (1, 500_000_000, 0, *FILE_ON_THE_WIRE, 1)


def test_entry() -> None:
    data = replies.entry(NodeId(9), FILE, generation=3, entry_timeout=0.25, attr_timeout=60.0)
    assert sent(data, "QQQQII" + ATTR) == (9, 3, 0, 60, 250_000_000, 0, *FILE_ON_THE_WIRE, 0)


def test_negative_entry_has_no_node() -> None:
    data = replies.negative_entry(2.0)
    assert sent(data, "QQQQII88s") == (0, 0, 2, 0, 0, 0, struct.pack("<48x12xIIIIII4x", 0, 0, 0, 0, 0, 4096))


@pytest.mark.parametrize(
    ("seconds", "wire"),
    [
        (0.0, (0, 0)),
        (-1.0, (0, 0)),
        (-math.inf, (0, 0)),
        (math.nan, (0, 0)),
        (1e-9, (0, 1)),
        (0.999_999_999_9, (0, 999_999_999)),
        (3600.0, (3600, 0)),
        (1e30, (2**32 - 1, 0)),
        (math.inf, (2**32 - 1, 0)),
    ],
)
def test_timeouts(seconds: float, wire: tuple[int, int]) -> None:
    assert sent(replies.attr(FILE, seconds)[:12], "QI") == wire


def test_attributes_know_a_directory() -> None:
    assert FILE._replace(mode=stat.S_IFDIR | 0o755).is_directory
    assert not FILE.is_directory


def test_times_before_1970_are_twos_complement() -> None:
    old = FILE._replace(atime_ns=-1, mtime_ns=-1_000_000_000, ctime_ns=-1_500_000_000)
    fields = sent(replies.attr(old, 0)[16:], ATTR)
    assert fields[3:9] == (2**64 - 1, 2**64 - 1, 2**64 - 2, 999_999_999, 0, 500_000_000)


def test_values_too_large_for_their_field_lose_the_upper_bits() -> None:
    odd = Attributes(-1, 2**40 + 0o100644, 2**64 + 5, -1, -1, -2, 2**33 + 1, -1, 2**32 + 4096)
    fields = sent(replies.attr(odd, 0)[16:], ATTR)
    assert fields[:3] == (2**64 - 1, 5, 2**64 - 1)
    assert fields[9:] == (0o100644, 2**32 - 1, 2**32 - 1, 2**32 - 2, 1, 4096, 0)


ANY = st.integers(-(2**70), 2**70)


@given(st.builds(Attributes, *[ANY] * 12), ANY | st.none(), ANY, st.floats())
def test_no_value_of_a_host_breaks_an_encoder(
    attributes: Attributes, btime: int | None, dev: int, timeout: float
) -> None:
    entry = replies.entry(NodeId(2), attributes, generation=dev, entry_timeout=timeout, attr_timeout=timeout)
    assert len(entry) == 128
    assert len(replies.attr(attributes, timeout)) == 104
    assert len(replies.statx(Statx(attributes, btime, dev), timeout)) == 288


def test_statx() -> None:
    device = FILE._replace(rdev=(5 & 0xFF) | 0x123 << 8 | (0x45600 << 12), mtime_ns=-1)
    data = replies.statx(Statx(device, btime_ns=7_000_000_008, dev=0xFE02), 1.0)
    assert sent(data[:32], "QII16x") == (1, 0, 0)
    stat_ = sent(data[32:], "IIQIIIHHQQQQ" + "qIi" * 4 + "IIII112x")
    assert stat_[:12] == (0xFFF, 512, 0, 2, 1000, 100, 0o100644, 0, 42, 5000, 16, 0)
    assert stat_[12:24] == (1, 1, 0, 7, 8, 0, 3, 0, 0, -1, 999_999_999, 0)
    assert stat_[24:] == (0x123, 0x45605, 0xFE, 2)


def test_statx_without_a_time_of_birth() -> None:
    assert sent(replies.statx(Statx(FILE), 0)[32:36], "I") == (0x7FF,)


def test_statx_of_a_device_number_with_64_bits() -> None:
    number = (0x12345 & 0xFFF) << 8 | (0x12345 & ~0xFFF) << 32 | 0x67
    assert sent(replies.statx(Statx(FILE, dev=number), 0)[168:176], "II") == (0x12345, 0x67)


# Open files


def test_open_and_create() -> None:
    flags = spec.OpenReply.KEEP_CACHE | spec.OpenReply.NOFLUSH
    opened = replies.open_(FileHandle(2**63), flags)
    assert sent(opened, "QIi") == (2**63, 0b100010, 0)
    entry = replies.entry(NodeId(9), FILE, entry_timeout=1, attr_timeout=1)
    assert replies.create(entry, FileHandle(2**63), flags) == entry + opened


def test_small_answers() -> None:
    assert replies.write(4096) == struct.pack("<II", 4096, 0)
    assert replies.copied(2**40) == struct.pack("<Q", 2**40)
    assert replies.lseek(2**40) == struct.pack("<Q", 2**40)
    assert replies.lock(1, 2, 1, -1) == struct.pack("<QQII", 1, 2, 1, 2**32 - 1)
    assert replies.xattr_size(20) == struct.pack("<II", 20, 0)
    assert replies.xattr_names([b"user.a", b"user.b"]) == b"user.a\0user.b\0"
    assert replies.xattr_names([]) == b""


def test_statfs() -> None:
    data = replies.statfs(StatFs(1000, 500, -1, 2**65 + 7, 6))
    assert sent(data, "QQQQQIIII24s") == (1000, 500, 2**64 - 1, 7, 6, 4096, 255, 4096, 0, bytes(24))


def test_init() -> None:
    flags = InitFlag.ASYNC_READ | InitFlag.INIT_EXT | InitFlag.HAS_EXPIRE_ONLY
    data = replies.init(replies.InitOut(38, 2**17, flags, 64, 48, 2**20, 1, 256))
    assert sent(data, "IIIIHHIIHHIIH22s") == (
        *(7, 38, 2**17, 1 | 1 << 30, 64, 48, 2**20, 1, 256, 0, 1 << 3, 0, 0),
        bytes(22),
    )


# Directories


def dirent(name: bytes, ino: int = 3, offset: int = 1, kind: int = stat.S_IFREG) -> DirEntry:
    return DirEntry(name, ino, kind, offset)


def test_directory_entries_are_aligned() -> None:
    writer = DirectoryWriter(4096)
    assert writer.add(dirent(b"a", 10, 1, stat.S_IFDIR))
    assert writer.add(dirent(b"eight_by", 11, 2))
    assert writer.data == (
        struct.pack("<QQII", 10, 1, 1, 4) + b"a".ljust(8, b"\0") + struct.pack("<QQII", 11, 2, 8, 8) + b"eight_by"
    )


def test_directory_never_grows_over_its_limit() -> None:
    writer = DirectoryWriter(64 + 31)
    assert writer.add(dirent(b"12345678"))
    assert writer.fits(dirent(b"12345678"))
    assert not writer.fits(dirent(b"12345678"), plus=True)
    assert writer.add(dirent(b"1"))
    before = writer.data
    assert not writer.add(dirent(b"1"))
    assert not writer.add_plus(dirent(b"1"), replies.NO_NODE)
    assert writer.data == before
    assert len(before) == 64


def test_directory_with_no_room_for_anything() -> None:
    writer = DirectoryWriter(31)
    assert not writer.add(dirent(b"a"))
    assert writer.data == b""


def test_directory_entries_with_attributes() -> None:
    writer = DirectoryWriter(160)
    entry = replies.entry(NodeId(9), FILE, entry_timeout=1, attr_timeout=1)
    assert writer.add_plus(dirent(b"name", 42), entry)
    assert writer.data == entry + struct.pack("<QQII", 42, 1, 4, 8) + b"name".ljust(8, b"\0")
    assert not writer.fits(dirent(b"a"))


def test_directory_leaves_out_what_no_guest_can_use() -> None:
    writer = DirectoryWriter(4096)
    for name in (b"", b"a/b", b"a\0b", b"n" * 256):
        assert writer.add(dirent(name))
        assert writer.add_plus(dirent(name), replies.NO_NODE)
    assert writer.data == b""
    assert writer.add(dirent(b"."))
    assert writer.add(dirent(b".."))
    assert len(writer.data) == 64


def test_directory_entry_without_an_inode_number_stays_visible() -> None:
    writer = DirectoryWriter(4096)
    writer.add(DirEntry(b"x", 0, 0, -1))
    assert sent(writer.data[:24], "QQII") == (0xFFFF_FFFF, 2**64 - 1, 1, 0)


@given(st.lists(st.binary(min_size=1, max_size=40)), st.integers(0, 2000), st.booleans())
def test_any_listing_can_be_read_back(names: list[bytes], limit: int, plus: bool) -> None:
    writer, taken = DirectoryWriter(limit), []
    for number, name in enumerate(names):
        entry = dirent(name, offset=number + 1)
        fits = writer.fits(entry, plus)
        before = len(writer.data)
        added = writer.add_plus(entry, replies.NO_NODE) if plus else writer.add(entry)
        assert added or not fits
        if len(writer.data) > before:
            taken.append(name)
    data, seen, head = writer.data, [], 128 if plus else 0
    assert len(data) <= limit
    while data:
        size = sent(data[head + 16 : head + 20], "I")[0]
        seen.append(data[head + 24 : head + 24 + size])
        data = data[(head + 24 + size + 7) & ~7 :]
    assert seen == taken
