"""The guest's FUSE client against scripted queues: every request byte by byte, every lie of a device found out."""

import asyncio
import errno
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

import pytest
from hdvkit_virtiofs.fuse.errors import LinuxErrno, linux_errno

from hdvkit.testing.fuse_client import FuseClient, ProtocolError
from hdvkit.testing.fuse_errors import failure, guest_error
from hdvkit.testing.fuse_locks import LkOut
from hdvkit.testing.fuse_messages import F_UNLCK, IOCTL_DIR, LAST_BYTE, Fattr, Init
from hdvkit.testing.fuse_replies import Attr, EntryOut, read_attr
from hdvkit.testing.fuse_session import flags_for


def u16(*values: int) -> bytes:
    return b"".join(value.to_bytes(2, "little") for value in values)


def u32(*values: int) -> bytes:
    return b"".join(value.to_bytes(4, "little") for value in values)


def u64(*values: int) -> bytes:
    return b"".join(value.to_bytes(8, "little") for value in values)


class Used(NamedTuple):
    """What a queue gives back."""

    written: int
    data: bytes


class Script:
    """A queue that keeps what it is given and answers with what the test says."""

    def __init__(self, body: bytes = b"", *, error: int = 0) -> None:
        self.body = body
        self.error = error
        self.seen: list[tuple[list[bytes], list[int]]] = []

    async def submit(self, readable: Sequence[bytes], writable: Sequence[int]) -> Used:
        """Keep what came and answer it."""
        self.seen.append(([*readable], [*writable]))
        if not writable:
            return Used(0, b"")
        unique = readable[0][8:16]
        data = u32(16 + len(self.body), self.error & 0xFFFF_FFFF) + unique + self.body
        return Used(len(data), data)


class Lie(Script):
    """A queue that answers with exactly these bytes."""

    def __init__(self, data: bytes, written: int | None = None) -> None:
        super().__init__()
        self.data = data
        self.written = len(data) if written is None else written

    async def submit(self, readable: Sequence[bytes], writable: Sequence[int]) -> Used:
        """Answer without looking."""
        return Used(self.written, self.data)


ATTR = u64(77, 4097, 16, 1_000, 2_000, 3_000) + u32(
    1, 2, 3, 0o100644, 2, 1000, 100, 0x0103, 4096, 0
)  # ino size blocks a m ctime; their nsec, mode nlink uid gid rdev blksize flags
ENTRY = u64(9, 5, 1, 2) + u32(500, 600) + ATTR
ATTR_OUT = u64(3) + u32(400, 0) + ATTR
OPEN_OUT = u64(0xABCD) + u32(2, 0)
STATX_OUT = (
    u64(1) + u32(2, 0) + u64(0, 0)
    + u32(0xFFF, 4096) + u64(0x10) + u32(1, 1000, 100) + u16(0o100644, 0) + u64(77, 5, 8, 0x30)
    + u64(11) + u32(12, 0) + u64(21) + u32(22, 0) + u64(31) + u32(32, 0) + u64(41) + u32(42, 0)
    + u32(1, 2, 3, 4) + bytes(14 * 8)
)  # fmt: skip
ATTR_FIELDS = Attr(77, 4097, 16, 1000, 2000, 3000, 1, 2, 3, 0o100644, 2, 1000, 100, 0x0103, 4096, 0)
MADE = EntryOut(9, 5, 1, 2, 500, 600, ATTR_FIELDS)

Ask = Callable[[FuseClient], Awaitable[object]]

# What to ask; opcode, node; the arguments; room for the reply after the out header; the reply; what is returned.
GOLDEN: dict[str, tuple[Ask, int, int, bytes, list[int], bytes, object]] = {
    "lookup": (lambda c: c.lookup(1, "é"), 1, 1, b"\xc3\xa9\0", [128], ENTRY, MADE),
    "getattr": (lambda c: c.getattr(9), 3, 9, u32(0, 0) + u64(0), [104], ATTR_OUT, (3, 400, ATTR_FIELDS)),
    "getattr fh": (lambda c: c.getattr(9, fh=4), 3, 9, u32(1, 0) + u64(4), [104], ATTR_OUT, (3, 400, ATTR_FIELDS)),
    "setattr mode": (
        lambda c: c.setattr(9, mode=0o100600), 4, 9,
        u32(1, 0) + u64(0, 0, 0, 0, 0, 0) + u32(0, 0, 0, 0o100600, 0, 0, 0, 0), [104], ATTR_OUT,
        (3, 400, ATTR_FIELDS)),
    "setattr all": (
        lambda c: c.setattr(
            9, mode=1, uid=2, gid=3, size=4, atime_ns=5_000_000_006, mtime_ns=-1, ctime_ns=7, fh=8, lock_owner=9,
            valid=Fattr.KILL_SUIDGID), 4, 9,
        u32(0b1110_0111_1111, 0) + u64(8, 4, 9, 5, 0xFFFF_FFFF_FFFF_FFFF, 0)
        + u32(6, 999_999_999, 7, 1, 0, 2, 3, 0), [104], ATTR_OUT, (3, 400, ATTR_FIELDS)),
    "readlink": (lambda c: c.readlink(9), 5, 9, b"", [4095], b"../x", b"../x"),
    "symlink": (lambda c: c.symlink(1, "l", "t/u"), 6, 1, b"l\0t/u\0", [128], ENTRY, MADE),
    "mknod": (
        lambda c: c.mknod(1, "n", 0o20600, rdev=0x103, umask=0o77), 8, 1,
        u32(0o20600, 0x103, 0o77, 0) + b"n\0", [128], ENTRY, MADE),
    "mkdir": (lambda c: c.mkdir(1, "d", 0o755), 9, 1, u32(0o755, 0o22) + b"d\0", [128], ENTRY, MADE),
    "unlink": (lambda c: c.unlink(1, "f"), 10, 1, b"f\0", [], b"", None),
    "rmdir": (lambda c: c.rmdir(1, b"\xff"), 11, 1, b"\xff\0", [], b"", None),
    "rename": (lambda c: c.rename(1, "a", 9, "b"), 12, 1, u64(9) + b"a\0b\0", [], b"", None),
    "link": (lambda c: c.link(9, 1, "b"), 13, 1, u64(9) + b"b\0", [128], ENTRY, MADE),
    "open": (lambda c: c.open(9, 0o100002), 14, 9, u32(0o100002, 0), [16], OPEN_OUT, (0xABCD, 2)),
    "read": (
        lambda c: c.read(9, 4, 8192, 5000, flags=0o100000, lock_owner=6), 15, 9,
        u64(4, 8192) + u32(5000, 0) + u64(6) + u32(0o100000, 0), [4096, 904], b"abc", b"abc"),
    "statfs": (
        lambda c: c.statfs(), 17, 1, b"", [80], u64(1, 2, 3, 4, 5) + u32(6, 7, 8, 0) + bytes(24),
        (1, 2, 3, 4, 5, 6, 7, 8)),
    "release": (
        lambda c: c.release(9, 4, flags=2, release_flags=1, lock_owner=5), 18, 9,
        u64(4) + u32(2, 1) + u64(5), [], b"", None),
    "fsync": (lambda c: c.fsync(9, 4, datasync=True), 20, 9, u64(4) + u32(1, 0), [], b"", None),
    "setxattr": (
        lambda c: c.setxattr(9, "user.a", b"val", flags=2), 21, 9, u32(3, 2) + b"user.a\0val", [], b"", None),
    "getxattr": (lambda c: c.getxattr(9, "user.a", 9), 22, 9, u32(9, 0) + b"user.a\0", [9], b"val", b"val"),
    "getxattr size": (
        lambda c: c.getxattr_size(9, "user.a"), 22, 9, u32(0, 0) + b"user.a\0", [8], u32(3, 0), 3),
    "listxattr": (lambda c: c.listxattr(9, 64), 23, 9, u32(64, 0), [64], b"user.a\0", b"user.a\0"),
    "listxattr size": (lambda c: c.listxattr_size(9), 23, 9, u32(0, 0), [8], u32(7, 0), 7),
    "removexattr": (lambda c: c.removexattr(9, "user.a"), 24, 9, b"user.a\0", [], b"", None),
    "flush": (lambda c: c.flush(9, 4, lock_owner=5), 25, 9, u64(4) + u32(0, 0) + u64(5), [], b"", None),
    "opendir": (lambda c: c.opendir(9, 0o200000), 27, 9, u32(0o200000, 0), [16], OPEN_OUT, (0xABCD, 2)),
    "readdir": (
        lambda c: c.readdir(9, 4, 3), 28, 9, u64(4, 3) + u32(4096, 0) + u64(0) + u32(0, 0), [4096],
        u64(77, 4) + u32(1, 8) + b"a" + bytes(7) + u64(78, 5) + u32(8, 4) + b"12345678",
        [(77, 4, 8, b"a"), (78, 5, 4, b"12345678")]),
    "readdirplus": (
        lambda c: c.readdirplus(9, 4, 3, 8192), 44, 9, u64(4, 3) + u32(8192, 0) + u64(0) + u32(0, 0), [4096, 4096],
        ENTRY + u64(77, 4) + u32(3, 8) + b"abc" + bytes(5), [(MADE, (77, 4, 8, b"abc"))]),
    "releasedir": (lambda c: c.releasedir(9, 4), 29, 9, u64(4) + u32(0, 0) + u64(0), [], b"", None),
    "fsyncdir": (lambda c: c.fsyncdir(9, 4), 30, 9, u64(4) + u32(0, 0), [], b"", None),
    "access": (lambda c: c.access(9, 4), 34, 9, u32(4, 0), [], b"", None),
    "create": (
        lambda c: c.create(1, "f", 0o101101, 0o100644), 35, 1, u32(0o101101, 0o100644, 0o22, 0) + b"f\0", [144],
        ENTRY + OPEN_OUT, (MADE, (0xABCD, 2))),
    "tmpfile": (
        lambda c: c.tmpfile(1, 0o20200002, 0o100600), 51, 1, u32(0o20200002, 0o100600, 0o22, 0) + b"/\0", [144],
        ENTRY + OPEN_OUT, (MADE, (0xABCD, 2))),
    "getlk": (
        lambda c: c.getlk(9, 4, 77, 1, 5, 6), 31, 9, u64(4, 77, 5, 6) + u32(1, 42, 0, 0), [24],
        u64(6, LAST_BYTE) + u32(0, 99), LkOut(6, LAST_BYTE, 0, 99)),
    "getlk free": (
        lambda c: c.getlk(9, 4, 77, 0), 31, 9, u64(4, 77, 0, LAST_BYTE) + u32(0, 42, 0, 0), [24],
        u64(0, LAST_BYTE) + u32(F_UNLCK, 0), None),
    "setlk": (lambda c: c.setlk(9, 4, 77, 1, 5, 6), 32, 9, u64(4, 77, 5, 6) + u32(1, 42, 0, 0), [], b"", None),
    "setlkw": (lambda c: c.setlk(9, 4, 77, 0, wait=True), 33, 9,
               u64(4, 77, 0, LAST_BYTE) + u32(0, 42, 0, 0), [], b"", None),
    "setlk unlock flock": (lambda c: c.setlk(9, 4, 77, F_UNLCK, flock=True), 32, 9,
                           u64(4, 77, 0, LAST_BYTE) + u32(2, 0, 1, 0), [], b"", None),
    "ioctl": (
        lambda c: c.ioctl(9, 4, 0x80086601, out_size=4), 39, 9, u64(4) + u32(0, 0x80086601) + u64(0) + u32(0, 4),
        [16, 4], u32(0, 0, 0, 0) + b"abcd", b"abcd"),
    "ioctl in": (
        lambda c: c.ioctl(9, 4, 0x40086602, b"1234", flags=IOCTL_DIR), 39, 9,
        u64(4) + u32(16, 0x40086602) + u64(0) + u32(4, 0) + b"1234", [16], u32(0, 0, 0, 0), b""),
    "destroy": (lambda c: c.destroy(), 38, 0, b"", [], b"", None),
    "fallocate": (
        lambda c: c.fallocate(9, 4, 5, 6, mode=3), 43, 9, u64(4, 5, 6) + u32(3, 0), [], b"", None),
    "rename2": (lambda c: c.rename2(1, "a", 9, "b", 2), 45, 1, u64(9) + u32(2, 0) + b"a\0b\0", [], b"", None),
    "lseek": (lambda c: c.lseek(9, 4, 5, 3), 46, 9, u64(4, 5) + u32(3, 0), [8], u64(4096), 4096),
    "copy_file_range": (
        lambda c: c.copy_file_range(9, 4, 5, (10, 6, 7), 8), 47, 9, u64(4, 5, 10, 6, 7, 8, 0), [8], u32(8, 0), 8),
    "copy_file_range_64": (
        lambda c: c.copy_file_range_64(9, 4, 5, (10, 6, 7), 8), 53, 9, u64(4, 5, 10, 6, 7, 8, 0), [8],
        u64(1 << 33), 1 << 33),
    "syncfs": (lambda c: c.syncfs(), 50, 1, u64(0), [], b"", None),
    "statx": (
        lambda c: c.statx(9, fh=4, mask=0x800, flags=0x2000), 52, 9, u32(1, 0) + u64(4) + u32(0x2000, 0x800),
        [288], STATX_OUT,
        (1, 2, 0, (0xFFF, 4096, 0x10, 1, 1000, 100, 0o100644, 77, 5, 8, 0x30,
                   (11, 12), (21, 22), (31, 32), (41, 42), 1, 2, 3, 4))),
}  # fmt: skip


@pytest.mark.parametrize("name", GOLDEN)
async def test_request_and_reply_byte_by_byte(name: str) -> None:
    ask, opcode, nodeid, body, room, answer, expected = GOLDEN[name]
    queue = Script(answer)
    got = await ask(FuseClient(queue, Script()).as_user(1000, 100, pid=42))
    caller = u32(0, 0, 0) if name == "destroy" else u32(1000, 100, 42)
    header = u32(40 + len(body), opcode) + u64(2, nodeid) + caller + u16(0, 0)
    assert queue.seen == [([header, *([body] if body else [])], [16, *room])]
    assert got == expected


async def test_init_offers_what_linux_offers_and_keeps_what_was_agreed() -> None:
    flags = Init.MAX_PAGES | Init.INIT_EXT | Init.DO_READDIRPLUS
    answer = u32(7, 36, 65536, flags) + u16(12, 9) + u32(1 << 20, 1) + u16(64, 0) + u32(8) + bytes(28)
    queue = Script(answer)
    client = FuseClient(queue, Script(), max_pages=252)
    out = await client.init()
    body = u32(7, 38, 131072, 0x7BFF_FFFB, 0xB) + bytes(44)
    assert queue.seen[0] == ([u32(104, 26) + u64(2, 0) + bytes(16), body], [16, 64])
    assert out == (7, 36, 65536, flags | Init.HAS_EXPIRE_ONLY, 12, 9, 1 << 20, 1, 64, 0)
    session = client.session
    assert (session.minor, session.flags, session.max_pages) == (36, out.flags, 64)
    assert session.max_read == 64 * 4096
    assert session.write_room(0) == 64 * 4096
    assert session.write_room(100) == 64 * 4096 - 100


async def test_an_old_guest_sends_a_short_init_without_newer_flags() -> None:
    queue = Script(u32(7, 40, 0, 0) + u16(0, 0) + u32(1, 1) + u16(0, 0) + u32(0xFFFF) + bytes(28))
    client = FuseClient(queue, Script(), minor=27)
    await client.init()
    assert queue.seen[0][0][1] == u32(7, 27, 131072, 0x003F_FFFB)
    session = client.session
    assert (session.minor, session.flags, session.max_pages, session.max_write) == (27, 0, 32, 4096)
    assert flags_for(46) == flags_for(38) == 0xB_7BFF_FFFB
    for minor in (26, 47):
        with pytest.raises(ValueError, match=f"7.{minor}"):
            FuseClient(queue, Script(), minor=minor)


@pytest.mark.parametrize(("major", "flags"), [(8, 0), (6, 0), (7, 1 << 26)])
async def test_init_may_not_answer_another_major_or_more_than_was_offered(major: int, flags: int) -> None:
    queue = Script(u32(major, 38, 0, flags) + bytes(48))
    with pytest.raises(ProtocolError, match="INIT"):
        await FuseClient(queue, Script()).init()


async def test_agreed_extensions_change_the_arguments() -> None:
    client = FuseClient(queue := Script(ENTRY), Script())
    client.session.flags = Init.SECURITY_CTX | Init.SETXATTR_EXT
    await client.mkdir(1, "d", 0o755)
    header, body = queue.seen[0][0]
    assert body == u32(0o755, 0o22) + b"d\0" + u32(8, 0)
    assert header[36:] == u16(1, 0)
    queue.body = b""
    await client.setxattr(9, "a", b"v", flags=1)
    assert queue.seen[1][0][1] == u32(1, 1, 0, 0) + b"a\0v"


async def test_contexts_and_groups_follow_what_is_made() -> None:
    security = [(b"security.a", b"abc"), (b"security.selinux", b"label\0")]
    contexts = (
        u32(64, 2) + (u32(3, 0) + b"security.a\0abc" + bytes(2)) + (u32(6, 0) + b"security.selinux\0label\0" + bytes(1))
    )
    groups = u32(16, 32, 1, 1000)
    for flags, extension in (
        (0, b""),
        (Init.SECURITY_CTX, contexts),
        (Init.CREATE_SUPP_GROUP, groups),
        (Init.SECURITY_CTX | Init.CREATE_SUPP_GROUP, contexts + groups),
    ):
        for announces in (True, False):
            client = FuseClient(queue := Script(ENTRY), Script(), announces=announces)
            client.session.flags = flags
            await client.as_user(1, 2, groups=[1000], security=security).symlink(1, "l", "t")
            header, body = queue.seen[0][0]
            assert body == b"l\0t\0" + extension
            assert header[36:] == u16(len(extension) // 8 if announces else 0, 0)
            await client.mkdir(1, "d", 0)
            assert queue.seen[1][0][1] == u32(0, 0o22) + b"d\0" + (u32(8, 0) if flags & Init.SECURITY_CTX else b"")


async def test_a_control_may_fail_in_the_answer_but_not_ask_for_another_try() -> None:
    with pytest.raises(PermissionError):
        await FuseClient(Script(u32((-1) & 0xFFFF_FFFF, 0, 0, 0)), Script()).ioctl(9, 4, 1)
    with pytest.raises(ProtocolError, match="another try"):
        await FuseClient(Script(u32(0, 4, 1, 0)), Script()).ioctl(9, 4, 1)


async def test_a_write_is_cut_where_the_pages_of_the_file_are() -> None:
    queue = Script(u32(9000, 0))
    client = FuseClient(queue, Script())
    data = bytes(range(250)) * 36
    assert await client.write(9, 4, 8192 + 100, data, flags=1, lock_owner=2, kill_suidgid=True) == 9000
    (header, body, *pages), writable = queue.seen[0]
    assert header[:4] == u32(80 + 9000)
    assert body == u64(4, 8292) + u32(9000, 4) + u64(2) + u32(1, 0)
    assert [len(page) for page in pages] == [3996, 4096, 908]
    assert b"".join(pages) == data
    assert writable == [16, 8]
    assert client.session.bytes_written == 9000


async def test_the_largest_write_fills_a_queue_of_256() -> None:
    queue = Script(u32(252 * 4096, 0))
    await FuseClient(queue, Script()).write(9, 4, 0, bytes(252 * 4096))
    readable, writable = queue.seen[0]
    assert len(readable) + len(writable) == 256


async def test_a_device_cannot_take_more_than_was_written() -> None:
    with pytest.raises(ProtocolError, match="4 bytes taken of 3"):
        await FuseClient(Script(u32(4, 0)), Script()).write(9, 4, 0, b"abc")


async def test_forgets_go_to_hiprio_in_one_readable_descriptor() -> None:
    client = FuseClient(requests := Script(), hiprio := Script())
    await client.as_user(1000, 100).forget(9, 3)
    await client.batch_forget([(9, 1), (10, 2)])
    assert hiprio.seen == [
        ([u32(48, 2) + u64(2, 9) + bytes(16) + u64(3)], []),
        ([u32(80, 42) + u64(4, 0) + bytes(16) + u32(2, 0) + u64(9, 1, 10, 2)], []),
    ]
    assert not requests.seen
    with pytest.raises(ProtocolError, match="no answer"):
        await FuseClient(requests, Lie(bytes(16))).forget(9)


async def test_uniques_are_even_and_requests_take_turns_between_queues() -> None:
    queues = [Script(), Script()]
    client = FuseClient(queues, Script())
    for _ in range(4):
        await client.unlink(1, "x")
    uniques = [[int.from_bytes(readable[0][8:16], "little") for readable, _ in queue.seen] for queue in queues]
    assert uniques == [[4, 8], [2, 6]]
    assert client.session.requests == {"UNLINK": 4}


async def test_a_started_call_can_be_interrupted() -> None:
    class Stuck(Script):
        async def submit(self, readable: Sequence[bytes], writable: Sequence[int]) -> Used:
            await gone.wait()
            return await super().submit(readable, writable)

    class HighPriority(Script):
        async def submit(self, readable: Sequence[bytes], writable: Sequence[int]) -> Used:
            gone.set()
            self.seen.append(([*readable], [*writable]))
            return Used(0, b"")

    gone = asyncio.Event()
    client = FuseClient(Stuck(error=-errno.EINTR), hiprio := HighPriority())
    unique, answer = client.start_call(15, 9, u64(4, 0, 1, 0, 0), read_size=1)
    await client.interrupt(unique)
    with pytest.raises(InterruptedError):
        await answer
    header = u32(48, 36) + u64(unique | 1, 0) + u32(0, 0, 1) + u16(0, 0)
    assert hiprio.seen == [([header, u64(unique)], [16])]
    with pytest.raises(BlockingIOError):
        await FuseClient(Script(), Script(error=-errno.EAGAIN)).interrupt(2)


async def test_raw_calls_lay_out_what_they_are_told() -> None:
    queue = Script()
    client = FuseClient(queue, Script())
    await client.call(4095, 5, [b"ab", b"", b"c"], payload=bytes(4097), unique=7, uid=1, gid=2, pid=3, read_size=1)
    readable, writable = queue.seen[0]
    assert readable[0] == u32(40 + 3 + 4097, 4095) + u64(7, 5) + u32(1, 2, 3) + u16(0, 0)
    assert [len(piece) for piece in readable] == [40, 2, 1, 4096, 1]
    assert writable == [16, 1]
    assert client.session.requests == {"opcode 4095": 1}


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (2, FileNotFoundError),
        (1, PermissionError),
        (13, PermissionError),
        (17, FileExistsError),
        (20, NotADirectoryError),
        (21, IsADirectoryError),
    ],
)
async def test_errors_are_the_builtin_ones(number: int, kind: type[OSError]) -> None:
    with pytest.raises(kind) as caught:
        await FuseClient(Script(error=-number), Script()).unlink(1, "x")
    assert caught.value.errno == number


async def test_errors_have_linux_numbers_on_the_wire() -> None:
    for number, name in {36: "ENAMETOOLONG", 38: "ENOSYS", 39: "ENOTEMPTY", 40: "ELOOP", 61: "ENODATA"}.items():
        with pytest.raises(OSError, match=r"\[Errno") as caught:
            await FuseClient(Script(error=-number), Script()).rmdir(1, "x")
        assert caught.value.errno == getattr(errno, name)


LIES = {
    "nothing written": Lie(b""),
    "half a header": Lie(u32(8, 0)),
    "another unique": Lie(u32(24, 0) + u64(4, 0)),
    "unique of nobody": Lie(u32(24, 0) + u64(0, 0)),
    "length too long": Lie(u32(25, 0) + u64(2, 0)),
    "length too short": Lie(u32(23, 0) + u64(2, 0)),
    "used more than written": Lie(u32(24, 0) + u64(2, 0), written=32),
    "used less than said": Lie(u32(24, 0) + u64(2, 0), written=16),
    "short reply": Lie(u32(20, 0) + u64(2) + u32(0)),
    "long reply": Lie(u32(32, 0) + u64(2, 0, 0)),
    "empty reply": Lie(u32(16, 0) + u64(2)),
    "positive error": Lie(u32(16, 2) + u64(2)),
    "error out of range": Lie(u32(16, (-512) & 0xFFFF_FFFF) + u64(2)),
    "error with a body": Lie(u32(24, (-2) & 0xFFFF_FFFF) + u64(2, 0)),
}


@pytest.mark.parametrize("name", LIES)
async def test_a_lying_device_is_found_out(name: str) -> None:
    with pytest.raises(ProtocolError, match="LSEEK 2"):
        await FuseClient(LIES[name], Script()).lseek(9, 4, 0, 3)


@pytest.mark.parametrize("nodeid", [0, 1])
async def test_something_new_has_a_node_of_its_own(nodeid: int) -> None:
    with pytest.raises(ProtocolError, match=f"nodeid {nodeid}"):
        await FuseClient(Script(u64(nodeid) + ENTRY[8:]), Script()).mkdir(1, "d", 0o755)


@pytest.mark.parametrize(
    "record",
    [
        u64(77, 4) + u32(1),
        u64(77, 4) + u32(0, 8),
        u64(77, 4) + u32(9, 8) + b"12345678",
        u64(77, 4) + u32(1, 8) + b"a",
        u64(77, 4) + u32(3, 8) + b"a/b" + bytes(5),
        u64(77, 4) + u32(3, 8) + b"a\0b" + bytes(5),
        u64(77, 4) + u32(1025, 8) + b"n" * 1025 + bytes(7),
    ],
    ids=["half a head", "no name", "cut name", "no padding", "slash", "NUL", "longer than Linux takes"],
)
async def test_broken_directory_records(record: bytes) -> None:
    with pytest.raises(ProtocolError):
        await FuseClient(Script(record), Script()).readdir(9, 4, 0)
    with pytest.raises(ProtocolError):
        await FuseClient(Script(ENTRY + record), Script()).readdirplus(9, 4, 0)
    with pytest.raises(ProtocolError):
        await FuseClient(Script(ENTRY[:100]), Script()).readdirplus(9, 4, 0)


def test_of_a_mode_a_guest_keeps_16_bits() -> None:
    odd = ATTR_OUT.replace(u32(0o100644), u32(0xABC << 16 | 0o100644))
    assert len(odd) == len(ATTR_OUT)
    assert read_attr(odd) == read_attr(ATTR_OUT)


# Errors


@pytest.mark.skipif(sys.platform != "linux", reason="the numbers and texts are those of Linux")
def test_errors_are_those_of_a_linux_host() -> None:
    for number in set(errno.errorcode) | {9999}:
        error = guest_error(number)
        assert (error.errno, error.strerror) == (number, os.strerror(number))


def test_what_a_file_system_refuses_with_is_what_a_program_in_the_guest_gets() -> None:
    for known in LinuxErrno:
        code = getattr(errno, known.name, None)
        if code is not None:
            assert guest_error(linux_errno(code)).errno == code
            assert guest_error(known).strerror == failure(code).strerror == known.text
    assert isinstance(guest_error(2), FileNotFoundError)
    assert isinstance(guest_error(110), TimeoutError)
