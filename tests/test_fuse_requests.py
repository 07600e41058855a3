"""The decoder against requests written by hand: what a stock guest sends, and what a hostile one would."""

import errno
import os
import stat
import struct
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hdvkit_virtiofs.fuse import messages, spec
from hdvkit_virtiofs.fuse.answers import Changes
from hdvkit_virtiofs.fuse.errors import FuseError
from hdvkit_virtiofs.fuse.requests import (
    MAX_BODY,
    BrokenRequest,
    body_size,
    check_length,
    check_payload,
    decode,
    decode_header,
    takes_reply,
)
from hdvkit_virtiofs.fuse.spec import Opcode
from hypothesis import given
from hypothesis import strategies as st

U32 = 2**32 - 1
U64 = 2**64 - 1
LAST = 2**63 - 1


def refused(code: int, call: Callable[..., Any], *arguments: Any, **options: Any) -> None:
    with pytest.raises(FuseError) as caught:
        call(*arguments, **options)
    assert errno.errorcode[caught.value.errno] == errno.errorcode[code]


def outcome(call: Callable[..., Any], *arguments: Any, **options: Any) -> tuple[int, Any]:
    """Return an errno and None, or 0 and the value; any other exception fails the test."""
    try:
        return 0, call(*arguments, **options)
    except FuseError as answer:
        return answer.errno, None


def header(length: int = 40, opcode: int = Opcode.GETATTR) -> bytes:
    return struct.pack("<IIQQIIIHH", length, opcode, 0xABCD, 1, 1000, 100, 77, 3, 0)


def read_in(offset: int = 0, size: int = 4096, fh: int = 5) -> bytes:
    return struct.pack("<QQIIQII", fh, offset, size, 2, 9, 0o100000, 0)


# F1: length and header


def test_f1_header_is_decoded_field_by_field() -> None:
    assert decode_header(header() + b"body") == (40, 3, 0xABCD, 1, 1000, 100, 77, 3)


@pytest.mark.parametrize("size", [0, 1, 39])
def test_f1_less_than_a_header_is_broken(size: int) -> None:
    with pytest.raises(BrokenRequest, match=f"{size} bytes"):
        decode_header(header()[:size])


@pytest.mark.parametrize("length", [0, 39, 41, U32])
def test_f1_header_that_lies_about_the_length(length: int) -> None:
    refused(errno.EINVAL, check_length, decode_header(header(length)), 40)


def test_f1_body_longer_than_any() -> None:
    longest = 40 + MAX_BODY
    check_length(decode_header(header(longest, Opcode.SETXATTR)), longest)
    refused(errno.EINVAL, check_length, decode_header(header(longest + 1, Opcode.SETXATTR)), longest + 1)
    check_length(decode_header(header(2**20 + 80, Opcode.WRITE)), 2**20 + 80)


FIXED = [
    (Opcode.FORGET, 8),
    (Opcode.GETATTR, 16),
    (Opcode.SETATTR, 88),
    (Opcode.READLINK, 0),
    (Opcode.OPEN, 8),
    (Opcode.OPENDIR, 8),
    (Opcode.READ, 40),
    (Opcode.WRITE, 40),
    (Opcode.STATFS, 0),
    (Opcode.RELEASE, 24),
    (Opcode.RELEASEDIR, 24),
    (Opcode.FSYNC, 16),
    (Opcode.FSYNCDIR, 16),
    (Opcode.LISTXATTR, 8),
    (Opcode.FLUSH, 24),
    (Opcode.READDIR, 40),
    (Opcode.READDIRPLUS, 40),
    (Opcode.GETLK, 48),
    (Opcode.SETLK, 48),
    (Opcode.SETLKW, 48),
    (Opcode.ACCESS, 8),
    (Opcode.INTERRUPT, 8),
    (Opcode.DESTROY, 0),
    (Opcode.COPY_FILE_RANGE, 56),
    (Opcode.COPY_FILE_RANGE_64, 56),
    (Opcode.SYNCFS, 8),
    (Opcode.STATX, 24),
]


@pytest.mark.parametrize(("opcode", "size"), FIXED)
def test_f1_fixed_bodies_have_exactly_their_length(opcode: int, size: int) -> None:
    decode(opcode, bytes(size))
    refused(errno.EINVAL, decode, opcode, bytes(size + 1))
    if size:
        refused(errno.EINVAL, decode, opcode, bytes(size - 1))


@pytest.mark.parametrize(("opcode", "size"), [(Opcode.CREATE, 16), (Opcode.RENAME2, 16), (Opcode.LINK, 8)])
def test_f1_fixed_part_before_a_name_is_cut_short(opcode: int, size: int) -> None:
    refused(errno.EINVAL, decode, opcode, bytes(size - 1))
    refused(errno.EINVAL, decode, opcode, bytes(size))


def test_f1_extensions_nobody_negotiated() -> None:
    body = struct.pack("<II", 0o755, 0o22) + b"new\0"
    decode(Opcode.MKDIR, body)
    groups = struct.pack("<IIII", 16, 32, 1, 1000)
    refused(errno.EINVAL, decode, Opcode.MKDIR, body + bytes(4) + groups)


# F2: INIT


def test_f2_init_of_every_age() -> None:
    new = struct.pack("<IIIII44x", 7, 38, 0x20000, 0x7BFFFFFB, 0x0B)
    assert decode(Opcode.INIT, new) == messages.Init(7, 38, 0x20000, 0x7BFFFFFB, 0x0B)
    assert decode(Opcode.INIT, new[:16]) == messages.Init(7, 38, 0x20000, 0x7BFFFFFB, 0)
    assert decode(Opcode.INIT, new[:8]) == messages.Init(7, 38)


def test_f2_init_of_another_major_version_is_read_no_further() -> None:
    assert decode(Opcode.INIT, struct.pack("<II", 8, 1) + b"\xff" * 33) == messages.Init(8, 1)
    assert decode(Opcode.INIT, struct.pack("<II", 6, 0)) == messages.Init(6, 0)


@pytest.mark.parametrize("size", [0, 7, 9, 15, 17, 63, 65])
def test_f2_init_of_no_known_length(size: int) -> None:
    refused(errno.EINVAL, decode, Opcode.INIT, struct.pack("<II", 7, 31).ljust(65, b"\0")[:size])


# F4: names

BAD_NAMES = {
    b"": errno.EINVAL,
    b"\0": errno.EINVAL,
    b".\0": errno.EINVAL,
    b"..\0": errno.EINVAL,
    b"a/b\0": errno.EINVAL,
    b"/abs\0": errno.EINVAL,
    b"../up\0": errno.EINVAL,
    b"/\0": errno.EINVAL,
    b"no end": errno.EINVAL,
    b"two\0ends\0": errno.EINVAL,
    b"two\0\0": errno.EINVAL,
    b"behind\0x": errno.EINVAL,
    b"n" * 256 + b"\0": errno.ENAMETOOLONG,
    b"n" * 65000 + b"\0": errno.ENAMETOOLONG,
}
NAMED = [
    (Opcode.LOOKUP, b""),
    (Opcode.UNLINK, b""),
    (Opcode.RMDIR, b""),
    (Opcode.MKNOD, struct.pack("<IIII", stat.S_IFREG | 0o644, 0, 0, 0)),
    (Opcode.MKDIR, bytes(8)),
    (Opcode.LINK, bytes(8)),
    (Opcode.CREATE, bytes(16)),
]


@pytest.mark.parametrize(("opcode", "fixed"), NAMED)
@pytest.mark.parametrize(("name", "code"), BAD_NAMES.items())
def test_f4_names_that_are_none(opcode: int, fixed: bytes, name: bytes, code: int) -> None:
    refused(code, decode, opcode, fixed + name)


@pytest.mark.parametrize(("opcode", "fixed"), NAMED)
@pytest.mark.parametrize("name", [b"a", b"...", b".hidden", b"..x", b"a b\n", b"\xff\xfe", b"n" * 255, b"C:\\x"])
def test_f4_any_other_bytes_are_a_name(opcode: int, fixed: bytes, name: bytes) -> None:
    assert decode(opcode, fixed + name + b"\0")._asdict()["name"] == name


def test_f4_two_names_in_the_order_of_the_protocol() -> None:
    assert decode(Opcode.RENAME, struct.pack("<Q", 9) + b"old\0new\0") == messages.Rename(
        messages.NodeId(9), 0, b"old", b"new"
    )
    assert decode(Opcode.RENAME2, struct.pack("<QII", 9, 2, 0) + b"old\0new\0") == (9, 2, b"old", b"new")
    assert decode(Opcode.SYMLINK, b"name\0../any/target\0") == (b"name", b"../any/target")
    assert decode(Opcode.LINK, struct.pack("<Q", 7) + b"name\0") == (7, b"name")


@pytest.mark.parametrize(("name", "code"), BAD_NAMES.items())
def test_f4_both_names_of_a_rename_are_checked(name: bytes, code: int) -> None:
    if name.count(b"\0") < 2 and name != b"behind\0x":
        refused(code, decode, Opcode.RENAME, bytes(8) + b"old\0" + name)
    if name.endswith(b"\0") and name != b"two\0ends\0":
        refused(code, decode, Opcode.RENAME2, bytes(16) + name + b"new\0")


@pytest.mark.parametrize("flags", [1, 2, 4, 5])
def test_rename_flags_that_make_sense(flags: int) -> None:
    decode(Opcode.RENAME2, struct.pack("<QII", 9, flags, 0) + b"a\0b\0")


@pytest.mark.parametrize("flags", [3, 6, 7, 8, U32])
def test_rename_flags_that_make_none(flags: int) -> None:
    refused(errno.EINVAL, decode, Opcode.RENAME2, struct.pack("<QII", 9, flags, 0) + b"a\0b\0")


def test_f6_symlink_targets() -> None:
    for target in (b"/etc/shadow", b"..", b"a" * 4095, b"\xff"):
        assert decode(Opcode.SYMLINK, b"l\0" + target + b"\0") == (b"l", target)
    refused(errno.ENAMETOOLONG, decode, Opcode.SYMLINK, b"l\0" + b"a" * 4096 + b"\0")
    for rest in (b"", b"\0", b"a", b"a\0b\0"):
        refused(errno.EINVAL, decode, Opcode.SYMLINK, b"l\0" + rest)
    refused(errno.EINVAL, decode, Opcode.SYMLINK, b"../l\0target\0")


# F8: types and modes


@pytest.mark.parametrize("kind", [stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK])
def test_f8_mknod_keeps_type_and_permissions(kind: int) -> None:
    body = struct.pack("<IIII", kind | 0o6755 | 0x7FFE0000, 0x0103, U32, 0)
    assert decode(Opcode.MKNOD, body + b"n\0") == (kind | 0o6755, 0x0103, 0o777, b"n")


@pytest.mark.parametrize("kind", [0, stat.S_IFDIR, stat.S_IFLNK, 0o170000])
def test_f8_mknod_of_other_types(kind: int) -> None:
    refused(errno.EINVAL, decode, Opcode.MKNOD, struct.pack("<IIII", kind | 0o644, 0, 0, 0) + b"n\0")


def test_create_and_mkdir_take_permissions_only() -> None:
    create = struct.pack("<IIII", 0o102, stat.S_IFREG | 0o4644, 0o22, 1)
    assert decode(Opcode.CREATE, create + b"n\0") == (0o102, 0o4644, 0o22, 1, b"n")
    assert decode(Opcode.MKDIR, struct.pack("<II", 0o1777, 0) + b"n\0") == (0o1777, 0, b"n")
    for kind in (stat.S_IFCHR, stat.S_IFDIR):
        refused(errno.EINVAL, decode, Opcode.CREATE, struct.pack("<IIII", 0, kind, 0, 0) + b"n\0")
    refused(errno.EINVAL, decode, Opcode.MKDIR, struct.pack("<II", stat.S_IFREG, 0) + b"n\0")


def test_tmpfile_needs_no_usable_name() -> None:
    fixed = struct.pack("<IIII", 0o20000002, stat.S_IFREG | 0o600, 0o77, 0)
    assert decode(Opcode.TMPFILE, fixed + b"/\0") == (0o20000002, 0o600, 0o77, 0)
    refused(errno.EINVAL, decode, Opcode.TMPFILE, fixed)
    refused(errno.ENAMETOOLONG, decode, Opcode.TMPFILE, fixed + b"x" * 256 + b"\0")


# F11: forgetting


def test_f11_forget_takes_any_number() -> None:
    assert decode(Opcode.FORGET, struct.pack("<Q", U64)) == messages.Forget(U64)


def test_f11_batch_forget() -> None:
    body = struct.pack("<IIQQQQ", 2, 0, 5, 1, 6, U64)
    assert decode(Opcode.BATCH_FORGET, body) == messages.BatchForget(
        (messages.ForgetOne(messages.NodeId(5), 1), messages.ForgetOne(messages.NodeId(6), U64))
    )
    assert decode(Opcode.BATCH_FORGET, bytes(8)) == messages.BatchForget(())


@pytest.mark.parametrize(("count", "pairs"), [(U32, 0), (U32, 1), (1, 0), (1, 2), (0, 1), (2**28, 0)])
def test_f11_batch_forget_whose_count_lies(count: int, pairs: int) -> None:
    refused(errno.EINVAL, decode, Opcode.BATCH_FORGET, struct.pack("<II", count, 0) + bytes(16 * pairs))


def test_f11_batch_forget_is_bounded() -> None:
    most = spec.MAX_FORGETS
    decode(Opcode.BATCH_FORGET, struct.pack("<II", most, 0) + bytes(16 * most))
    refused(
        errno.EINVAL,
        decode,
        Opcode.BATCH_FORGET,
        struct.pack("<II", most + 1, 0) + bytes(16 * most + 16),
    )


def test_f11_only_forgetting_takes_no_reply() -> None:
    assert {opcode for opcode in Opcode if not takes_reply(opcode)} == {Opcode.FORGET, Opcode.BATCH_FORGET}
    assert takes_reply(31337)


# F13: sizes


@pytest.mark.parametrize("opcode", [Opcode.READ, Opcode.READDIR, Opcode.READDIRPLUS])
def test_f13_sizes_are_returned_as_given(opcode: int) -> None:
    assert decode(opcode, read_in(size=U32))._asdict()["size"] == U32


def test_f13_sizes_of_extended_attributes_are_returned_as_given() -> None:
    assert decode(Opcode.GETXATTR, struct.pack("<II", U32, 0) + b"user.a\0") == (U32, b"user.a")
    assert decode(Opcode.LISTXATTR, struct.pack("<II", U32, 0)) == (U32,)


# F15: offsets


def test_f15_read_and_write_within_a_file() -> None:
    assert decode(Opcode.READ, read_in(LAST - 10, 10)) == (5, LAST - 10, 10, 2, 9, 0o100000)
    assert decode(Opcode.WRITE, read_in(LAST - 10, 10)) == (5, LAST - 10, 10, 2, 9, 0o100000)


@pytest.mark.parametrize(("offset", "size"), [(LAST, 1), (LAST - 9, 10), (2**63, 0), (U64, U32)])
def test_f15_beyond_the_end_of_any_file(offset: int, size: int) -> None:
    refused(errno.EINVAL, decode, Opcode.READ, read_in(offset, size))
    refused(errno.EFBIG, decode, Opcode.WRITE, read_in(offset, size))


def test_f15_write_payload_must_be_as_long_as_it_says() -> None:
    request = decode(Opcode.WRITE, read_in(0, 100))
    assert isinstance(request, messages.Write)
    check_payload(request, 180)
    for readable in (80, 179, 181):
        refused(errno.EINVAL, check_payload, request, readable)


def test_f14_readdir_offsets_are_the_file_systems_business() -> None:
    assert decode(Opcode.READDIRPLUS, read_in(U64, 4096)) == (5, U64, 4096)


# F16: SETATTR

SETATTR_FIELDS = ("valid", "padding", "fh", "size", "lock_owner", "atime", "mtime", "ctime")
SETATTR_REST = ("atimensec", "mtimensec", "ctimensec", "mode", "unused4", "uid", "gid", "unused5")


def setattr_in(**values: int) -> bytes:
    fields = [values.pop(name, 0) for name in SETATTR_FIELDS + SETATTR_REST]
    assert not values
    return struct.pack("<IIQQQQQQIIIIIIII", *fields)


def set_attr(**values: int) -> messages.SetAttr:
    request = decode(Opcode.SETATTR, setattr_in(**values))
    assert isinstance(request, messages.SetAttr)
    return request


def test_f16_what_is_not_valid_is_not_looked_at() -> None:
    assert set_attr(size=U64, uid=U32, gid=U32, atimensec=U32, fh=3, lock_owner=4) == messages.SetAttr(0)


def test_f16_every_valid_bit() -> None:
    request = set_attr(
        valid=0xFFF,
        fh=3,
        size=LAST,
        lock_owner=4,
        atime=1,
        mtime=2,
        ctime=(-3) & U64,
        atimensec=1,
        mtimensec=999_999_999,
        ctimensec=5,
        mode=stat.S_IFREG | 0o6755,
        uid=0,
        gid=U32 - 1,
    )
    assert request == messages.SetAttr(
        valid=0xFFF,
        fh=messages.FileHandle(3),
        lock_owner=4,
        mode=0o6755,
        uid=0,
        gid=U32 - 1,
        size=LAST,
        ctime_ns=-2_999_999_995,
        atime_now=True,
        mtime_now=True,
        kill_suidgid=True,
    )
    assert request.changes(now_ns=77) == Changes(
        mode=0o6755,
        uid=0,
        gid=U32 - 1,
        size=LAST,
        atime_ns=77,
        mtime_ns=77,
        ctime_ns=-2_999_999_995,
        kill_suidgid=True,
    )


def test_f16_times_of_the_guests_choice() -> None:
    request = set_attr(valid=1 << 4 | 1 << 5, atime=5, atimensec=6, mtime=U64, mtimensec=999_999_999)
    assert (request.atime_ns, request.mtime_ns) == (5_000_000_006, -1)
    assert request.changes(now_ns=77) == Changes(atime_ns=5_000_000_006, mtime_ns=-1)


def test_f16_now_without_the_time_itself_means_nothing() -> None:
    assert set_attr(valid=1 << 7 | 1 << 8).changes(77) == Changes()


@pytest.mark.parametrize(
    ("code", "values"),
    [
        (errno.EINVAL, {"valid": 1 << 12}),
        (errno.EINVAL, {"valid": 1 << 31}),
        (errno.EINVAL, {"valid": 1 << 1, "uid": U32}),
        (errno.EINVAL, {"valid": 1 << 2, "gid": U32}),
        (errno.EFBIG, {"valid": 1 << 3, "size": 2**63}),
        (errno.EFBIG, {"valid": 1 << 3, "size": U64}),
        (errno.EINVAL, {"valid": 1 << 4, "atimensec": 10**9}),
        (errno.EINVAL, {"valid": 1 << 5, "mtimensec": U32}),
        (errno.EINVAL, {"valid": 1 << 10, "ctimensec": 10**9}),
    ],
)
def test_f16_values_no_file_can_have(code: int, values: dict[str, int]) -> None:
    refused(code, decode, Opcode.SETATTR, setattr_in(**values))


# F17 and the other ranges


def fallocate(offset: int, length: int, mode: int = 0) -> bytes:
    return struct.pack("<QQQII", 5, offset, length, mode, 0)


@pytest.mark.parametrize("mode", [0, 1, 3, 16, 17])
def test_f17_fallocate(mode: int) -> None:
    assert decode(Opcode.FALLOCATE, fallocate(10, LAST - 10, mode)) == (5, 10, LAST - 10, mode)


@pytest.mark.parametrize(
    ("code", "offset", "length", "mode"),
    [
        (errno.EINVAL, 0, 0, 0),
        (errno.EINVAL, 2**63, 1, 0),
        (errno.EFBIG, 1, LAST, 0),
        (errno.EFBIG, LAST, U64, 0),
        (errno.EOPNOTSUPP, 0, 1, 2),
        (errno.EOPNOTSUPP, 0, 1, 19),
        (errno.EOPNOTSUPP, 0, 1, 8),
        (errno.EOPNOTSUPP, 0, 1, U32),
    ],
)
def test_f17_fallocate_of_what_cannot_be(code: int, offset: int, length: int, mode: int) -> None:
    refused(code, decode, Opcode.FALLOCATE, fallocate(offset, length, mode))


def test_lseek_finds_data_and_holes_only() -> None:
    assert decode(Opcode.LSEEK, struct.pack("<QQII", 5, LAST, 4, 0)) == (5, LAST, 4)
    refused(errno.EINVAL, decode, Opcode.LSEEK, struct.pack("<QQII", 5, 0, 0, 0))
    for offset in (2**63, 2**64 - 1):
        refused(errno.ENXIO, decode, Opcode.LSEEK, struct.pack("<QQII", 5, offset, 3, 0))
        refused(errno.ENXIO, decode, Opcode.LSEEK, struct.pack("<QQII", 5, offset, 4, 0))


def test_copy_file_range() -> None:
    body = struct.pack("<QQQQQQQ", 1, 2, 3, 4, 5, 2**40, 0)
    assert decode(Opcode.COPY_FILE_RANGE_64, body) == (1, 2, 3, 4, 5, 2**40, 0)
    assert decode(Opcode.COPY_FILE_RANGE, body) == (1, 2, 3, 4, 5, 0xFFFF_F000, 0)
    for code, *fields in (
        (errno.EINVAL, LAST, 0, 1, 0),
        (errno.EFBIG, 0, LAST, 1, 0),
        (errno.EINVAL, 0, 0, U64, 0),
        (errno.EINVAL, 0, 0, 1, 1),
    ):
        offset, to_offset, length, flags = fields
        refused(
            code,
            decode,
            Opcode.COPY_FILE_RANGE,
            struct.pack("<QQQQQQQ", 1, offset, 3, 4, to_offset, length, flags),
        )


def test_locks() -> None:
    assert decode(Opcode.SETLKW, struct.pack("<QQQQIIII", 1, 2, 0, LAST, 1, 9, 1, 0)) == (
        *(1, 2, 0, LAST, 1, 9),
        1,
    )
    for start, end, kind in ((1, 0, 0), (0, 2**63, 0), (U64, U64, 0), (0, 1, 3)):
        body = struct.pack("<QQQQIIII", 1, 2, start, end, kind, 9, 0, 0)
        refused(errno.EINVAL, decode, Opcode.SETLK, body)


# F18: extended attributes


def test_f18_setxattr_of_both_ages() -> None:
    body = struct.pack("<II", 3, 1) + b"user.a/b\0v\0l"
    assert decode(Opcode.SETXATTR, body) == (1, 0, b"user.a/b", b"v\0l")
    body = struct.pack("<IIII", 3, 2, 1, 0) + b"system.x\0val"
    assert decode(Opcode.SETXATTR, body, setxattr_ext=True) == (2, 1, b"system.x", b"val")
    largest = struct.pack("<II", 65536, 0) + b"n" * 255 + b"\0" + bytes(65536)
    assert len(largest) <= MAX_BODY
    assert decode(Opcode.SETXATTR, largest)._asdict()["value"] == bytes(65536)


@pytest.mark.parametrize(
    ("code", "size", "flags", "rest"),
    [
        (errno.EINVAL, 3, 4, b"a\0val"),
        (errno.EINVAL, 4, 0, b"a\0val"),
        (errno.EINVAL, 2, 0, b"a\0val"),
        (errno.EINVAL, 3, 0, b"\0val"),
        (errno.EINVAL, 3, 0, b"val"),
        (errno.E2BIG, 65537, 0, b"a\0" + bytes(65537)),
        (errno.ERANGE, 0, 0, b"n" * 256 + b"\0"),
    ],
)
def test_f18_setxattr_that_does_not_add_up(code: int, size: int, flags: int, rest: bytes) -> None:
    refused(code, decode, Opcode.SETXATTR, struct.pack("<II", size, flags) + rest)


def test_f18_setxattr_flags_of_the_future() -> None:
    refused(errno.EINVAL, decode, Opcode.SETXATTR, struct.pack("<IIII", 0, 0, 2, 0) + b"a\0", setxattr_ext=True)


@pytest.mark.parametrize(("opcode", "fixed"), [(Opcode.GETXATTR, bytes(8)), (Opcode.REMOVEXATTR, b"")])
def test_f18_names_of_extended_attributes(opcode: int, fixed: bytes) -> None:
    assert decode(opcode, fixed + b"security.capability\0")._asdict()["name"] == b"security.capability"
    for rest in (b"", b"\0", b"a", b"a\0b\0"):
        refused(errno.EINVAL, decode, opcode, fixed + rest)
    refused(errno.ERANGE, decode, opcode, fixed + b"n" * 256 + b"\0")


# The rest


def test_an_answer_reads_as_the_error_it_is() -> None:
    assert str(FuseError(errno.ENOENT)) == "ENOENT: No such file or directory"
    assert str(FuseError(errno.ELOOP)) == "ELOOP: Too many levels of symbolic links"
    assert str(FuseError(99999)) == "99999: no error of Linux"


@pytest.mark.skipif(sys.platform != "linux", reason="the numbers are those of Linux")
def test_open_flags_are_linuxs() -> None:
    named = {name: number for name, number in vars(spec).items() if name.startswith("O_")}
    assert {"O_ACCMODE", "O_APPEND", "O_CREAT"} <= named.keys()
    assert named == {name: getattr(os, name) for name in named}


def test_handles_count_only_with_their_flag() -> None:
    assert decode(Opcode.GETATTR, struct.pack("<IIQ", 0, 0, 5)) == (None,)
    assert decode(Opcode.GETATTR, struct.pack("<IIQ", 1, 0, 5)) == (5,)
    assert decode(Opcode.STATX, struct.pack("<IIQII", 0, 0, 5, 0x2000, 0xFFF)) == (None, 0x2000, 0xFFF)
    assert decode(Opcode.STATX, struct.pack("<IIQII", 1, 0, 5, 0, 0xFFF)) == (5, 0, 0xFFF)


def test_small_requests() -> None:
    assert decode(Opcode.OPEN, struct.pack("<II", 0o2, 1)) == messages.Open(2, 1)
    assert decode(Opcode.RELEASE, struct.pack("<QIIQ", 5, 2, 1, 9)) == (5, 2, 1, 9)
    assert decode(Opcode.FLUSH, struct.pack("<QIIQ", 5, 2, 1, 9)) == (5, 9)
    assert decode(Opcode.FSYNC, struct.pack("<QII", 5, 1, 0)) == (5, True)
    assert decode(Opcode.FSYNCDIR, struct.pack("<QII", 5, 2, 0)) == (5, False)
    assert decode(Opcode.ACCESS, struct.pack("<II", 7, 0)) == messages.Access(7)
    refused(errno.EINVAL, decode, Opcode.ACCESS, struct.pack("<II", 8, 0))
    assert decode(Opcode.INTERRUPT, struct.pack("<Q", 0xABCD)) == messages.Interrupt(0xABCD)
    for opcode, body in ((Opcode.STATFS, b""), (Opcode.DESTROY, b""), (Opcode.SYNCFS, bytes(8))):
        assert decode(opcode, body) == messages.Empty()


# F21: what we do not serve


def test_f21_ioctl_is_decoded_all_the_same() -> None:
    body = struct.pack("<QIIQII", 5, 0, 0x6601, 4096, 3, 8) + b"abc"
    assert decode(Opcode.IOCTL, body) == messages.Ioctl(messages.FileHandle(5), 0, 0x6601, 4096, 8, b"abc")
    refused(errno.EINVAL, decode, Opcode.IOCTL, body + b"d")


UNKNOWN = [
    *(Opcode.POLL, Opcode.BMAP, Opcode.NOTIFY_REPLY, Opcode.SETUPMAPPING, Opcode.REMOVEMAPPING),
    *(Opcode.CUSE_INIT, 0, 7, 19, 54, 26 << 24, U32),
]


@pytest.mark.parametrize("opcode", UNKNOWN)
def test_f21_unknown_opcodes_end_before_their_body_is_looked_at(opcode: int) -> None:
    assert body_size(opcode) == 0
    for body in (b"", b"\xff" * 4096):
        refused(errno.ENOSYS, decode, opcode, body)


def test_f21_opcodes_newer_than_the_session() -> None:
    for opcode, since in ((Opcode.STATX, 39), (Opcode.SYNCFS, 34), (Opcode.COPY_FILE_RANGE_64, 45)):
        size = {Opcode.STATX: 24, Opcode.SYNCFS: 8}.get(opcode, 56)
        decode(opcode, bytes(size), minor=since)
        refused(errno.ENOSYS, decode, opcode, bytes(size), minor=since - 1)


def test_how_much_to_copy_before_decoding() -> None:
    assert body_size(Opcode.WRITE) == 40
    assert body_size(Opcode.LOOKUP) is None
    assert body_size(Opcode.INIT) is None


# Anything at all


@given(st.sampled_from(Opcode) | st.integers(0, U32), st.binary(max_size=300), st.booleans())
def test_random_bodies_end_in_a_message_or_an_answer(opcode: int, body: bytes, extended: bool) -> None:
    code, request = outcome(decode, opcode, body, setxattr_ext=extended)
    assert code > 0 or isinstance(request, tuple)


@given(st.sampled_from([size for _, size in FIXED]), st.data())
def test_random_bodies_of_the_right_length(size: int, data: st.DataObject) -> None:
    body = data.draw(st.binary(min_size=size, max_size=size))
    for opcode in (opcode for opcode, length in FIXED if length == size):
        code, _ = outcome(decode, opcode, body)
        assert code in (0, errno.EINVAL, errno.EFBIG)


@given(st.binary(max_size=60), st.integers(0, 2**21))
def test_random_headers_end_in_a_header_or_broken(data: bytes, readable: int) -> None:
    if len(data) < 40:
        with pytest.raises(BrokenRequest):
            decode_header(data)
    else:
        code, _ = outcome(check_length, decode_header(data), readable)
        assert code in (0, errno.EINVAL)


@given(st.binary(min_size=1, max_size=300))
def test_every_name_that_passes_is_one_component(tail: bytes) -> None:
    try:
        request = decode(Opcode.LOOKUP, tail)
    except FuseError:
        return
    assert isinstance(request, messages.Lookup)
    assert request.name + b"\0" == tail
    assert request.name not in (b"", b".", b"..")
    assert not {0, ord("/")} & set(request.name)
    assert len(request.name) <= 255
