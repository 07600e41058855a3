"""A guest's mount against a small FUSE server in memory, which knows the protocol from the header and nothing else."""

import asyncio
import errno
import stat
import struct
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import NamedTuple

import pytest
from hdvkit_virtiofs.fuse.errors import linux_errno

from hdvkit.testing.fuse_client import FuseClient, ProtocolError
from hdvkit.testing.fuse_messages import (
    F_RDLCK,
    F_UNLCK,
    F_WRLCK,
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
    Init,
    Open,
)
from hdvkit.testing.mount import GuestMount

ATOMIC, MASKS, KILLS = Init.ATOMIC_O_TRUNC, Init.DONT_MASK, Init.HANDLE_KILLPRIV_V2
USUAL = Init.MAX_PAGES | Init.INIT_EXT | Init.DO_READDIRPLUS


class Used(NamedTuple):
    """What a queue gives back."""

    written: int
    data: bytes


class File:
    """One inode."""

    def __init__(self, ino: int, mode: int) -> None:
        self.ino, self.mode, self.uid, self.gid, self.nlink, self.rdev = ino, mode, 0, 0, 1, 0
        self.data = b""
        self.names: dict[bytes, File] = {}
        self.xattrs: dict[bytes, bytes] = {}
        self.locks: dict[tuple[int, bytes], bytes] = {}
        self.times = [0, 0, 0]

    def attr(self) -> bytes:
        """fuse_attr."""
        seconds = [ns // 10**9 & (1 << 64) - 1 for ns in self.times]
        rest = [ns % 10**9 for ns in self.times]
        return struct.pack(
            "<6Q10I", self.ino, len(self.data), 0, *seconds, *rest,
            self.mode, self.nlink, self.uid, self.gid, self.rdev, 4096, 0,
        )  # fmt: skip


class Server:
    """A file system in memory behind one queue; ``lacks`` are opcodes it answers with ENOSYS."""

    def __init__(self) -> None:
        self.files = {1: File(1, stat.S_IFDIR | 0o755)}
        self.lookups: Counter[int] = Counter()
        self.handles: set[int] = set()
        self.lacks: set[int] = set()
        self.flags, self.minor, self.max_write, self.max_pages = USUAL, 38, 1 << 20, 256
        self.valid, self.take = 1, 1 << 30
        self.log: list[tuple[int, int, bytes]] = []
        self.destroyed = False

    async def submit(self, readable: Sequence[bytes], writable: Sequence[int]) -> Used:
        """Answer one request."""
        await asyncio.sleep(0)
        message = b"".join(readable)
        length, opcode, unique, node, self.uid, self.gid = struct.unpack_from("<IIQQII", message)
        assert length == len(message)
        self.room, body = sum(writable) - 16, message[40:]
        self.log.append((opcode, node, body))
        error, answer = 0, b""
        try:
            if opcode in self.lacks:
                raise OSError(errno.ENOSYS, "lacks")
            answer = getattr(self, f"_op_{opcode}")(node, body) or b""
        except OSError as failed:
            error = linux_errno(failed.errno or 0)
        if not writable:
            return Used(0, b"")
        data = struct.pack("<IiQ", 16 + len(answer), -error, unique) + answer
        assert len(data) <= sum(writable)
        return Used(len(data), data)

    def entry(self, file: File | None) -> bytes:
        """fuse_entry_out, and the reference that goes with it."""
        if file is None:
            return bytes(128)
        self.lookups[file.ino] += 1
        return struct.pack("<4Q2I", file.ino, 0, self.valid, self.valid, 0, 0) + file.attr()

    def make(self, parent: int, name: bytes, mode: int, **fields: object) -> bytes:
        """Put a new inode under a name."""
        if name in self.files[parent].names:
            raise OSError(errno.EEXIST, "exists")
        file = File(len(self.files) + 100, mode)
        file.uid, file.gid = self.uid, self.gid
        vars(file).update(fields)
        self.files[file.ino] = self.files[parent].names[name] = file
        return self.entry(file)

    def opened(self) -> bytes:
        """fuse_open_out with a new handle."""
        fh = max(self.handles, default=0x1000) + 1
        self.handles.add(fh)
        return struct.pack("<QII", fh, 0, 0)

    def _op_26(self, node: int, body: bytes) -> bytes:
        return struct.pack(
            "<IIIIHHIIHHI28x", 7, self.minor, 0, self.flags & 0xFFFFFFFF, 9, 9, self.max_write, 1,
            self.max_pages, 0, self.flags >> 32,
        )  # fmt: skip

    def _op_38(self, node: int, body: bytes) -> None:
        self.destroyed = True

    def _op_2(self, node: int, body: bytes) -> None:
        self.lookups[node] -= int.from_bytes(body, "little")

    def _op_42(self, node: int, body: bytes) -> None:
        for ino, count in struct.iter_unpack("<QQ", body[8:]):
            self.lookups[ino] -= count

    def _op_1(self, node: int, body: bytes) -> bytes:
        found = self.files[node].names.get(body[:-1])
        if found is None and body == b"gone\0":
            raise OSError(errno.ENOENT, "no such name")
        return self.entry(found)

    def _op_3(self, node: int, body: bytes) -> bytes:
        return struct.pack("<QII", 1, 0, 0) + self.files[node].attr()

    def _op_4(self, node: int, body: bytes) -> bytes:
        valid, _, fh, size, _, atime, mtime, _, ansec, mnsec, _, mode, _, uid, gid, _ = struct.unpack("<II6Q8I", body)
        file = self.files[node]
        assert not valid & 64 or fh in self.handles
        file.mode = mode if valid & 1 else file.mode
        file.uid = uid if valid & 2 else file.uid
        file.gid = gid if valid & 4 else file.gid
        file.data = file.data[:size].ljust(size, b"\0") if valid & 8 else file.data
        signed = [second - (1 << 64) if second >> 63 else second for second in (atime, mtime)]
        if valid & 16:
            file.times[0] = 77 if valid & 128 else signed[0] * 10**9 + ansec
        if valid & 32:
            file.times[1] = 77 if valid & 256 else signed[1] * 10**9 + mnsec
        return self._op_3(node, b"")

    def _op_5(self, node: int, body: bytes) -> bytes:
        return self.files[node].data

    def _op_6(self, node: int, body: bytes) -> bytes:
        name, target, _ = body.split(b"\0")
        return self.make(node, name, stat.S_IFLNK | 0o777, data=target)

    def _op_8(self, node: int, body: bytes) -> bytes:
        mode, rdev = struct.unpack_from("<II", body)
        return self.make(node, body[16:-1], mode, rdev=rdev)

    def _op_9(self, node: int, body: bytes) -> bytes:
        return self.make(node, body[8:-1], stat.S_IFDIR | int.from_bytes(body[:4], "little"))

    def _op_10(self, node: int, body: bytes) -> None:
        self.files[node].names.pop(body[:-1]).nlink -= 1

    def _op_11(self, node: int, body: bytes) -> None:
        if self.files[node].names[body[:-1]].names:
            raise OSError(errno.ENOTEMPTY, "not empty")
        del self.files[node].names[body[:-1]]

    def _op_12(self, node: int, body: bytes, *, at: int = 8, exchange: bool = False) -> None:
        old, new, _ = body[at:].split(b"\0")
        source, target = self.files[node].names, self.files[int.from_bytes(body[:8], "little")].names
        moved, there = source.pop(old), target.pop(new, None)
        target[new] = moved
        if exchange and there:
            source[old] = there

    def _op_45(self, node: int, body: bytes) -> None:
        self._op_12(node, body, at=16, exchange=body[8] == RENAME_EXCHANGE)

    def _op_13(self, node: int, body: bytes) -> bytes:
        file = self.files[int.from_bytes(body[:8], "little")]
        self.files[node].names[body[8:-1]] = file
        file.nlink += 1
        return self.entry(file)

    def _op_14(self, node: int, body: bytes) -> bytes:
        if self.flags & ATOMIC and int.from_bytes(body[:4], "little") & 0o1000:
            self.files[node].data = b""
        return self.opened()

    def _op_15(self, node: int, body: bytes) -> bytes:
        fh, offset, size = struct.unpack_from("<QQI", body)
        assert not fh or fh in self.handles
        return self.files[node].data[offset : offset + size]

    def _op_16(self, node: int, body: bytes) -> bytes:
        fh, offset, size = struct.unpack_from("<QQI", body)
        assert not fh or fh in self.handles
        data, file = body[40:][: self.take], self.files[node]
        assert len(body) == 40 + size
        file.data = file.data[:offset].ljust(offset, b"\0") + data + file.data[offset + len(data) :]
        return struct.pack("<II", len(data), 0)

    def _op_17(self, node: int, body: bytes) -> bytes:
        return struct.pack("<5Q3I28x", 1, 2, 3, 4, 5, 4096, 255, 4096)

    def _op_18(self, node: int, body: bytes) -> None:
        self.handles.remove(int.from_bytes(body[:8], "little"))

    _op_29 = _op_18

    def _op_20(self, node: int, body: bytes) -> None:
        assert int.from_bytes(body[:8], "little") in self.handles

    _op_25 = _op_30 = _op_43 = _op_20

    def _op_21(self, node: int, body: bytes) -> None:
        name, _, value = body[8:].partition(b"\0")
        self.files[node].xattrs[name] = value

    def _op_22(self, node: int, body: bytes) -> bytes:
        value = self.files[node].xattrs.get(body[8:-1])
        if value is None:
            raise OSError(errno.ENODATA, "no such attribute")
        return value if int.from_bytes(body[:4], "little") else struct.pack("<II", len(value), 0)

    def _op_23(self, node: int, body: bytes) -> bytes:
        names = b"".join(name + b"\0" for name in self.files[node].xattrs)
        return names if int.from_bytes(body[:4], "little") else struct.pack("<II", len(names), 0)

    def _op_24(self, node: int, body: bytes) -> None:
        del self.files[node].xattrs[body[:-1]]

    def _op_27(self, node: int, body: bytes) -> bytes:
        return self.opened()

    def _op_28(self, node: int, body: bytes, *, plus: bool = False) -> bytes:
        _, offset, size = struct.unpack_from("<QQI", body)
        here = self.files[node]
        listing = [(b".", here), (b"..", here), *here.names.items()]
        answer = b""
        for index, (name, file) in enumerate(listing[offset:], offset + 1):
            record = struct.pack("<QQII", file.ino, index, len(name), file.mode >> 12) + name
            record += bytes(-len(record) % 8)
            if len(answer) + len(record) + 128 * plus > size:
                break
            if plus:
                answer += self.entry(None if name in (b".", b"..", b"shy") else file)
            answer += record
        return answer

    def _op_44(self, node: int, body: bytes) -> bytes:
        return self._op_28(node, body, plus=True)

    def _op_34(self, node: int, body: bytes) -> None:
        if self.uid and int.from_bytes(body[:4], "little") & ~(self.files[node].mode & 7):
            raise OSError(errno.EACCES, "no")

    def _op_35(self, node: int, body: bytes) -> bytes:
        return self.make(node, body[16:-1], int.from_bytes(body[4:8], "little")) + self.opened()

    def _op_39(self, node: int, body: bytes) -> bytes:
        _, _, command, _, given, room = struct.unpack_from("<QIIQII", body)
        return struct.pack("<4I", 0, 0, 0, 0) + (command.to_bytes(4, "little") + body[32:])[: room or given]

    def _op_46(self, node: int, body: bytes) -> bytes:
        _, offset, whence = struct.unpack_from("<QQI", body)
        return struct.pack("<Q", offset if whence == 3 else len(self.files[node].data))

    def _op_51(self, node: int, body: bytes) -> bytes:
        assert body[16:] == b"/\0"
        file = File(len(self.files) + 100, int.from_bytes(body[4:8], "little"))
        file.nlink, self.files[file.ino] = 0, file
        return self.entry(file) + self.opened()

    def _op_31(self, node: int, body: bytes) -> bytes:
        held = self.files[node].locks
        owner = int.from_bytes(body[8:16], "little")
        other = next((lock for lock in held.values() if lock[8:16] != body[8:16]), None)
        assert owner
        return other[16:40] if other else body[16:32] + struct.pack("<II", 2, 0)

    def _op_32(self, node: int, body: bytes) -> None:
        kind, _, flags = struct.unpack_from("<III", body, 32)
        assert int.from_bytes(body[:8], "little") in self.handles
        held = self.files[node].locks
        held.pop((flags, body[8:16]), None)
        if kind < 2:
            if any(key[0] == flags for key in held):
                raise OSError(errno.EAGAIN, "locked")
            held[flags, body[8:16]] = body

    _op_33 = _op_32

    def _op_47(self, node: int, body: bytes) -> bytes:
        _, at, out, _, to, length, _ = struct.unpack("<7Q", body)
        self.files[out].data = self.files[out].data[:to] + self.files[node].data[at : at + length]
        return struct.pack("<II", length, 0)

    def _op_50(self, node: int, body: bytes) -> None:
        assert body == bytes(8)

    def _op_52(self, node: int, body: bytes) -> bytes:
        seen = struct.pack("<IIQIIIHxxQ", 0xFFF, 4096, 0, 1, 0, 0, 0o100600, node)
        return struct.pack("<QII16x", 1, 0, 0) + seen.ljust(256, b"\0")


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
async def mount(server: Server) -> AsyncIterator[GuestMount]:
    """A mount that must leave nothing behind."""
    async with GuestMount(FuseClient(server, server)) as mount:
        yield mount
    assert server.destroyed
    assert not server.handles
    assert not +server.lookups
    assert not -server.lookups


def sent(server: Server, *opcodes: int) -> list[int]:
    """The opcodes since the last call, or which of them are among those."""
    seen = [opcode for opcode, _, _ in server.log if not opcodes or opcode in opcodes]
    server.log.clear()
    return seen


async def test_a_file_is_written_read_and_removed(server: Server, mount: GuestMount) -> None:
    await mount.mkdir("a")
    await mount.write_text("a/b.txt", "héllo")
    assert await mount.read_text("a/b.txt") == "héllo"
    await mount.write_bytes("a/b.txt", b" world", append=True)
    assert await mount.read_bytes(b"/a//./b.txt") == "héllo world".encode()
    await mount.write_bytes("a/b.txt", b"new")
    assert await mount.read_bytes("a/../a/b.txt") == b"new"
    assert await mount.listdir("a") == ["b.txt"]
    await mount.unlink("a/b.txt")
    await mount.rmdir("a/")
    assert await mount.listdir() == []
    assert mount.requests["WRITE"] == 3
    assert (mount.bytes_written, mount.bytes_read) == (15, 6 + 12 + 3)


async def test_requests_are_those_of_a_kernel(server: Server, mount: GuestMount) -> None:
    assert sent(server) == [26]
    await mount.write_bytes("f", b"x")
    assert sent(server) == [1, 35, 16, 25, 18]
    await mount.read_bytes("f")
    assert sent(server) == [1, 14, 15, 25, 18]
    await mount.write_bytes("f", b"y")
    assert sent(server) == [1, 14, 4, 16, 25, 18]
    await mount.stat("f")
    assert sent(server) == [1]
    await mount.stat("/")
    assert sent(server) == [3]
    await mount.scandir()
    assert sent(server) == [27, 44, 44, 29]
    server.valid = 0
    await mount.stat("f")
    assert sent(server) == [1, 3]


async def test_truncation_is_the_devices_when_that_was_agreed(server: Server) -> None:
    server.flags |= ATOMIC
    async with GuestMount(FuseClient(server, server)) as mount:
        await mount.write_bytes("f", b"long")
        sent(server)
        await mount.write_bytes("f", b"x")
        assert sent(server) == [1, 14, 16, 25, 18]
        assert await mount.read_bytes("f") == b"x"


async def test_another_user_and_the_bits_that_die_with_its_writes(server: Server) -> None:
    server.flags |= KILLS | MASKS
    async with GuestMount(FuseClient(server, server)) as mount:
        user = mount.as_user(1000, 100)
        assert (user.uid, user.gid, mount.uid) == (1000, 100, 0)
        async with await user.open("f", "w", permissions=0o666) as file:
            await file.write(b"x")
        seen = await mount.stat("f")
        assert (seen.st_uid, seen.st_gid, seen.st_mode) == (1000, 100, 0o100666)
        bodies = {opcode: body for opcode, _, body in server.log}
        assert bodies[35][12:16] == b"\1\0\0\0"
        assert bodies[16][20:24] == b"\4\0\0\0"
        await user.truncate("f", 0)
        assert int.from_bytes(server.log[-1][2][:4], "little") == 8 | 1 << 9 | 1 << 11
        assert await user.access("f", 6)
        assert not await user.access("f", 1)
        assert not await user.access("nowhere", 0)


async def test_a_file_that_cannot_be_emptied_is_not_left_open(server: Server, mount: GuestMount) -> None:
    await mount.write_bytes("f", b"x")
    server.lacks = {4}
    with pytest.raises(OSError, match="f"):
        await mount.open("f", "w")
    assert not server.handles


async def test_large_files_are_split_to_what_was_agreed(server: Server) -> None:
    server.max_pages, server.max_write = 4, 1 << 20
    data = bytes(range(256)) * 257
    async with GuestMount(FuseClient(server, server)) as mount:
        async with await mount.open("big", "w+b") as file:
            assert await file.write(data[:100]) == 100
            await file.write(data[100:])
            assert await file.pread(-1, 0) == data
            assert await file.pread(17000, 5) == data[5:17005]
        sizes = [int.from_bytes(body[16:20], "little") for opcode, _, body in server.log if opcode == 16]
        assert sizes[:3] == [100, 16284, 16384]
        assert max(sizes) == 16384
        server.take = 1000
        await mount.write_bytes("short", data[:5000])
        assert await mount.read_bytes("short") == data[:5000]
        server.take = 0
        with pytest.raises(OSError, match="short") as caught:
            await mount.write_bytes("short", b"x")
        assert caught.value.errno == errno.EIO
        server.take = 1 << 30


async def test_a_file_that_grew_is_read_to_its_end(server: Server, mount: GuestMount) -> None:
    await mount.write_bytes("f", bytes(4096))
    async with await mount.open("f") as file:
        server.files[file.nodeid].data += b"more" * 4096
        assert len(await file.read()) == 4096 * 5


async def test_offsets(server: Server, mount: GuestMount) -> None:
    async with await mount.open("f", "x+") as file:
        await file.write(b"0123456789")
        assert file.tell() == 10
        assert await file.seek(2) == 2
        assert await file.read(3) == b"234"
        assert await file.seek(-1, 1) == 4
        assert await file.seek(-2, 2) == 8
        assert await file.read() == b"89"
        assert await file.read(5) == b""
        assert await file.read(0) == b""
        assert await file.seek(3, 3) == 3
        assert await file.seek(0, 4) == 10
        with pytest.raises(OSError, match="Invalid argument"):
            await file.seek(-1)
        await file.seek(4)
        await file.truncate()
        assert (await file.stat()).st_size == 4
        await file.truncate(6)
        assert await file.pread(-1, 0) == b"0123\0\0"
        await file.fsync(datasync=True)
        await file.flush()
        await file.allocate(0, 100)
        async with await mount.open("g", "w") as other:
            assert await file.copy_to(other, 2, offset=1) == 2
            with pytest.raises(OSError, match="g") as caught:
                await other.read()
            assert caught.value.errno == errno.EBADF
    with pytest.raises(ValueError, match="closed"):
        await file.read()
    await file.close()
    assert await mount.read_bytes("g") == b"12"
    with pytest.raises(ValueError, match="mode"):
        await mount.open("f", "rw")


async def test_symlinks_are_followed_by_the_guest(server: Server, mount: GuestMount) -> None:
    await mount.mkdir("d")
    await mount.write_bytes("d/f", b"x")
    await mount.symlink("../d/f", "d/up")
    await mount.symlink("/d", "absolute")
    await mount.symlink("d/made", "dangling")
    await mount.symlink("loop", "loop")
    assert await mount.read_bytes("d/up") == b"x"
    assert await mount.read_bytes("absolute/f") == b"x"
    assert await mount.readlink("absolute") == "/d"
    assert (await mount.stat("d/up", follow_symlinks=False)).st_mode == stat.S_IFLNK | 0o777
    assert not await mount.exists("dangling")
    await mount.write_bytes("dangling", b"y")
    assert await mount.read_bytes("d/made") == b"y"
    with pytest.raises(OSError, match="loop/x") as caught:
        await mount.read_bytes("loop/x")
    assert caught.value.errno == errno.ELOOP
    with pytest.raises(OSError, match="absolute") as caught:
        await mount.open("absolute", flags=Open.NOFOLLOW)
    assert caught.value.errno == errno.ELOOP
    with pytest.raises(OSError, match="Invalid"):
        await mount.readlink("d/f")
    for count in range(1, 42):
        await mount.symlink("d" if count == 1 else f"l{count - 1}", f"l{count}")
    assert await mount.read_bytes("l40/f") == b"x"
    with pytest.raises(OSError, match="l41"):
        await mount.read_bytes("l41/f")


async def test_errors_are_a_programs(server: Server, mount: GuestMount) -> None:
    await mount.write_bytes("f", b"")
    await mount.mkdir("d")
    await mount.write_bytes("d/g", b"")
    await mount.mkfifo("fifo")
    with pytest.raises(FileNotFoundError) as caught:
        await mount.stat("gone")
    assert caught.value.filename == "gone"
    expected: dict[type[OSError], list[Awaitable[object]]] = {
        FileNotFoundError: [
            mount.stat("gone/x"), mount.rmdir("x"), mount.unlink("x"), mount.mkdir("gone/x"), mount.stat(""),
        ],
        NotADirectoryError: [mount.stat("f/x"), mount.stat("f/"), mount.rmdir("f"), mount.open("f/.")],
        IsADirectoryError: [mount.open("d"), mount.open("."), mount.unlink("d"), mount.truncate("d", 0)],
        FileExistsError: [
            mount.mkdir("f"), mount.mkdir("d/."), mount.symlink("t", "f"), mount.open("f", "x"), mount.mkdir("/"),
        ],
    }  # fmt: skip
    for kind, requests in expected.items():
        for request in requests:
            with pytest.raises(kind):
                await request
    errors: dict[int, Awaitable[object]] = {
        errno.ENOTEMPTY: mount.rmdir("d"),
        errno.ENAMETOOLONG: mount.stat("n" * 1025),
        errno.ENXIO: mount.open("fifo"),
        errno.EBUSY: mount.rmdir("."),
        errno.ENODATA: mount.getxattr("f", "user.none"),
        errno.EINVAL: mount.truncate("fifo", 0),
    }
    for number, request in errors.items():
        with pytest.raises(OSError, match=r"\[Errno") as failed:
            await request
        assert failed.value.errno == number
        assert failed.value.filename
    with pytest.raises(ValueError, match="null"):
        await mount.stat("a\0b")


async def test_names_move(server: Server, mount: GuestMount) -> None:
    await mount.mkdir("d")
    await mount.write_bytes("a", b"a")
    await mount.write_bytes("b", b"b")
    await mount.rename("a", "d/c")
    assert await mount.read_bytes("d/c") == b"a"
    await mount.rename("b", "d/c", flags=RENAME_EXCHANGE)
    assert (await mount.read_bytes("b"), await mount.read_bytes("d/c")) == (b"a", b"b")
    with pytest.raises(FileExistsError) as caught:
        await mount.rename("b", "d/c", flags=RENAME_NOREPLACE)
    assert (caught.value.filename, caught.value.filename2) == ("b", "d/c")
    with pytest.raises(FileNotFoundError):
        await mount.rename("x", "y")
    with pytest.raises(FileNotFoundError):
        await mount.rename("b", "y", flags=RENAME_EXCHANGE)
    with pytest.raises(OSError, match="busy"):
        await mount.rename("d", "d/.")
    await mount.link("b", "d/hard")
    assert (await mount.stat("d/hard")).st_nlink == 2
    with pytest.raises(FileExistsError):
        await mount.link("b", "d/hard")
    server.lacks = {45}
    with pytest.raises(OSError, match="Invalid"):
        await mount.rename("b", "e", flags=RENAME_NOREPLACE)


async def test_directories_are_listed_across_requests(server: Server, mount: GuestMount) -> None:
    names = [f"file-{number:03}" for number in range(200)]
    await mount.mkdir("d")
    for name in names:
        await mount.mknod(f"d/{name}")
    await mount.symlink("x", "d/link")
    await mount.mkdir("d/shy")
    await mount.mkdir("d/sub")
    await mount.write_bytes("d/sub/f", b"")
    assert await mount.listdir("d") == [*names, "link", "shy", "sub"]
    entries = await mount.scandir("d")
    assert [entry.name for entry in entries] == [*names, "link", "shy", "sub"]
    assert [entry.is_file() for entry in entries] == [True] * 200 + [False] * 3
    assert entries[200].is_symlink()
    assert entries[201].stat is None
    assert entries[0].stat == await mount.stat("d/file-000")
    tree = [item async for item in mount.walk("d")]
    assert [item[0] for item in tree] == ["d", "d/shy", "d/sub"]
    assert tree[0][1:] == (["shy", "sub"], [*names, "link"])
    assert tree[2][1:] == ([], ["f"])
    assert [item[0] async for item in mount.walk()] == [".", "d", "d/shy", "d/sub"]
    await mount.fsync_directory("d")


async def test_a_directory_is_read_piece_by_piece_and_from_any_place(server: Server, mount: GuestMount) -> None:
    for name in ("a", "b", "c", "d"):
        await mount.mknod(name)
    async with mount.opendir() as directory:
        assert [dirent.name for dirent in await directory.read(100)] == [b".", b"..", b"a"]
        place = directory.tell()
        (second, *_) = await directory.read()
        assert [dirent.name for dirent in await directory.read()] == []
        directory.seek(place)
        assert await directory.read(40) == [second]
        directory.seek(second.off)
        assert [dirent.name for dirent in await directory.read()] == [b"c", b"d"]
        directory.seek(0)
        assert len(await directory.read()) == 6
    assert not server.handles


async def test_without_readdirplus_names_are_looked_up(server: Server) -> None:
    server.flags &= ~Init.DO_READDIRPLUS
    async with GuestMount(FuseClient(server, server)) as mount:
        await mount.mkdir("d")
        sent(server)
        assert [(entry.name, entry.is_dir()) for entry in await mount.scandir()] == [("d", True)]
        assert sent(server) == [27, 28, 28, 29, 1]
    assert not +server.lookups


async def test_dots_carry_no_reference(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    dot = struct.pack("<QQIIc7x", 1, 1, 1, 4, b".")
    monkeypatch.setattr(server, "_op_44", lambda node, body: server.entry(server.files[1]) + dot)
    async with GuestMount(FuseClient(server, server)) as mount:
        with pytest.raises(ProtocolError, match="node 1"):
            await mount.scandir()


async def test_a_directory_without_end_is_found_out(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_op_28", lambda node, body: struct.pack("<QQIIc7x", 5, 7, 1, 4, b"x"))
    async with GuestMount(FuseClient(server, server)) as mount:
        with pytest.raises(ProtocolError, match="goes on at 7"):
            await mount.listdir()


async def test_attributes(server: Server, mount: GuestMount) -> None:
    await mount.mknod("f", stat.S_IFREG | 0o666)
    assert (await mount.stat("f")).st_mode == stat.S_IFREG | 0o644
    await mount.chmod("f", 0o4755)
    await mount.chown("f", 5)
    await mount.chown("f", gid=6)
    await mount.utime("f", ns=(-1, 1_500_000_000))
    await mount.truncate("f", 9)
    seen = await mount.stat("f")
    assert (seen.st_mode, seen.st_uid, seen.st_gid, seen.st_size) == (0o104755, 5, 6, 9)
    assert (seen.st_atime_ns, seen.st_mtime_ns, seen.st_mtime, seen.st_ctime) == (-1, 1_500_000_000, 1.5, 0)
    await mount.utime("f")
    assert (await mount.stat("f")).st_atime_ns == 77
    await mount.mknod("tty", stat.S_IFCHR | 0o600, rdev=0x401)
    assert (await mount.stat("tty")).st_rdev == 0x401
    assert (await mount.statvfs()).namelen == 255
    await mount.setxattr("f", "user.a", b"1")
    assert await mount.getxattr("f", "user.a") == b"1"
    assert await mount.listxattr("f") == ["user.a"]
    await mount.removexattr("f", "user.a")
    assert await mount.listxattr("f") == []
    await mount.sync()


async def test_statx_is_asked_for_from_7_39_on(server: Server) -> None:
    server.minor = 46
    for minor, requests in ((38, [1, 3]), (46, [1, 52])):
        async with GuestMount(FuseClient(server, server, minor=minor)) as mount:
            if minor == 38:
                await mount.mknod("f")
            sent(server)
            server.lacks = set()
            seen = await mount.statx("f")
            assert sent(server) == requests
            assert seen.mask == (0xFFF if minor == 46 else 0x7FF)
            assert seen.mode == (0o100600 if minor == 46 else 0o100644)
            server.lacks = {52}
            await mount.statx("f")
    assert sent(server, 52, 3) == [52, 3]


async def test_what_a_device_lacks_is_asked_once(server: Server) -> None:
    server.lacks = {14, 20, 21, 22, 23, 24, 25, 27, 30, 34, 35, 50}
    async with GuestMount(FuseClient(server, server)) as mount:
        sent(server)
        for _ in range(2):
            await mount.write_bytes("f", b"abc")
            async with await mount.open("f") as file:
                assert await file.read() == b"abc"
                await file.fsync()
            assert await mount.listdir() == ["f"]
            await mount.fsync_directory()
            await mount.sync()
            assert await mount.access("f", 7)
            for wrong in (mount.getxattr("f", "a"), mount.setxattr("f", "a", b""), mount.listxattr("f")):
                with pytest.raises(OSError, match="supported"):
                    await wrong
        assert sorted(sent(server, *server.lacks)) == [14, 20, 21, 22, 23, 25, 27, 30, 34, 35, 50]
    assert mount.requests["RELEASE"] == mount.requests["RELEASEDIR"] == 0


async def test_caches_are_dropped_but_for_what_is_open(server: Server, mount: GuestMount) -> None:
    await mount.mkdir("d")
    for number in range(300):
        await mount.mknod(f"d/{number}")
    file = await mount.open("d/7")
    assert mount.references == 301
    sent(server)
    await mount.drop_caches()
    assert sent(server) == [42, 42]
    assert mount.references == 1
    assert +server.lookups == {file.nodeid: 3 - 1}
    await mount.stat("d/8")
    sent(server)
    await mount.drop_caches(batched=False)
    assert sent(server) == [2, 2]
    assert mount.references == 1
    assert +server.lookups == {file.nodeid: 3 - 1}
    with pytest.raises(OSError, match="busy"):
        await mount.unmount()
    await file.close()


async def test_a_walk_keeps_its_nodes_while_caches_are_dropped(server: Server, mount: GuestMount) -> None:
    await mount.mkdir("a")
    await mount.mkdir("a/b")
    await mount.write_bytes("a/b/c", b"x")

    async def drop() -> None:
        for _ in range(20):
            await mount.drop_caches()
            assert all(count >= 0 for count in server.lookups.values())
            await asyncio.sleep(0)

    reads = [mount.read_bytes("a/b/c") for _ in range(20)]
    assert await asyncio.gather(drop(), *reads) == [None, *[b"x"] * 20]


async def test_unmounting(server: Server) -> None:
    mount = GuestMount(FuseClient(server, server))
    with pytest.raises(OSError, match="not connected"):
        await mount.stat("/")
    await mount.mount()
    await mount.mkdir("d")
    server.lacks = {38}
    await mount.unmount(forget=False)
    await mount.unmount()
    assert sent(server) == [26, 1, 9, 38]
    assert mount.references == 0
    assert +mount.refused == {"DESTROY": 1}


async def test_what_went_wrong_in_the_block_is_what_is_raised(server: Server) -> None:
    async def leave_a_file_open() -> None:
        async with GuestMount(FuseClient(server, server)) as mount:
            await mount.open("f", "w")
            await mount.open("gone")

    with pytest.raises(FileNotFoundError):
        await leave_a_file_open()


@pytest.mark.parametrize("attr", [bytes(88), b"\xff" * 88], ids=["no type", "every bit"])
@pytest.mark.parametrize("nodeid", [1, 9])
async def test_entries_without_sense_are_refused(
    server: Server, monkeypatch: pytest.MonkeyPatch, attr: bytes, nodeid: int
) -> None:
    entry = struct.pack("<Q", nodeid) + bytes(32) + attr
    async with GuestMount(FuseClient(server, server)) as mount:
        monkeypatch.setattr(server, "_op_1", lambda node, body: entry)
        with pytest.raises(ProtocolError):
            await mount.stat("x")


async def test_a_device_may_want_no_flush_and_copy_past_4_gib(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.minor = 46
    monkeypatch.setattr(server, "_op_53", lambda node, body: struct.pack("<Q", 1 << 33), raising=False)
    monkeypatch.setattr(server, "opened", lambda: struct.pack("<QII", 7, Open.FOPEN_NOFLUSH, 0))
    monkeypatch.setattr(server, "_op_18", lambda node, body: b"")
    async with GuestMount(FuseClient(server, server, minor=46)) as mount, await mount.open("f", "w+") as file:
        assert await file.copy_to(file, 1 << 33) == 1 << 33
        server.lacks = {53}
        assert await file.copy_to(file, 5) == 5
    assert "FLUSH" not in mount.requests


async def test_locks_are_of_the_open_file_and_go_with_it(server: Server) -> None:
    server.flags |= Init.POSIX_LOCKS | Init.FLOCK_LOCKS
    async with GuestMount(FuseClient(server, server)) as mount:
        async with await mount.open("f", "x+") as one, await mount.open("f", "r+") as other:
            await one.lock(start=4, length=6)
            assert await one.locked() is None
            found = await other.locked(F_RDLCK)
            assert found is not None
            assert (found.start, found.end, found.type, found.pid) == (4, 9, F_WRLCK, 1)
            with pytest.raises(BlockingIOError, match="f"):
                await other.lock()
            await one.lock(F_UNLCK)
            await other.lock(wait=True)
            await other.flock()
            with pytest.raises(BlockingIOError, match="f"):
                await one.flock(wait=True)
            sent(server)
            await other.flock(F_UNLCK)
            await one.flock(F_RDLCK)
        # How a file was used is told when it is closed, so that the device gives its locks up.
        told = [struct.unpack_from("<IQ", body, 12) for opcode, _, body in server.log if opcode == 18]
        assert [flags for flags, _ in told] == [2, 2]
        assert len({owner for _, owner in told}) == 2
        with pytest.raises(ValueError, match="closed"):
            await one.lock()


async def test_a_control_has_an_argument_and_an_answer(server: Server, mount: GuestMount) -> None:
    async with await mount.open("f", "x+") as file:
        assert await file.ioctl(0x11, b"argument", out_size=6) == b"\x11\0\0\0ar"
    with pytest.raises(ValueError, match="closed"):
        await file.ioctl(0x11)


async def test_a_copy_needs_files_that_are_open_for_it(server: Server, mount: GuestMount) -> None:
    await mount.write_bytes("f", b"data")
    async with await mount.open("f") as reader, await mount.open("f", "a") as appender:
        for source, target in ((appender, reader), (reader, reader), (reader, appender)):
            with pytest.raises(OSError, match="descriptor") as caught:
                await source.copy_to(target, 1)
            assert caught.value.errno == errno.EBADF
    assert not {47, 53} & {opcode for opcode, _, _ in server.log}


async def test_a_device_that_keeps_no_locks_is_not_asked(server: Server, mount: GuestMount) -> None:
    async with await mount.open("f", "x+") as file:
        for ask in (file.lock(), file.locked(), file.flock()):
            with pytest.raises(OSError, match="no such locks") as caught:
                await ask
            assert caught.value.errno == errno.EOPNOTSUPP
    assert not {31, 32, 33} & {opcode for opcode, _, _ in server.log}


async def test_a_file_without_a_name_gets_one(server: Server, mount: GuestMount) -> None:
    await mount.mkdir("d")
    async with await mount.tmpfile("d", permissions=0o666) as file:
        await file.write(b"data")
        seen = await file.stat()
        assert (seen.st_nlink, stat.S_IMODE(seen.st_mode)) == (0, 0o644)
        await mount.link_file(file, "d/name")
        assert (await file.stat()).st_nlink == 1
        with pytest.raises(FileExistsError):
            await mount.link_file(file, "d/name")
    assert await mount.read_bytes("d/name") == b"data"
    server.lacks = {51}
    for _ in range(2):
        with pytest.raises(OSError, match="d") as caught:
            await mount.tmpfile("d")
        assert caught.value.errno == errno.EOPNOTSUPP
    assert mount.requests["TMPFILE"] == 2
