"""A hostile guest of the FUSE plane: requests no kernel sends, each by name with the answer it must get.

The answers are those of a directory that a Linux host shares; what else must hold afterwards (the same mount and all
others still serve, nothing outside the share was touched) is for the caller to check.

The number in a name is the line of the threat model. Three lines are not here: F5 (names that mean something else
to Windows) does not apply to a Linux host, where they are names like others; F7 (a host process that swaps a
directory for a link while the guest looks) takes a second attacker, so it is a test and not a request; F29 (statfs
tells the size of the host's disk) is left as it is, because programs in the guest need the free space.
"""

import os
import stat
from collections.abc import Awaitable, Callable, Iterator
from errno import (
    EBADF,
    EFBIG,
    EINVAL,
    EIO,
    EISDIR,
    ELOOP,
    ENAMETOOLONG,
    ENFILE,
    ENOENT,
    ENOSYS,
    ENOTDIR,
    ENXIO,
    EOPNOTSUPP,
    EPERM,
    EPROTO,
    EROFS,
    ESTALE,
)
from struct import pack
from typing import Final

import attrs

from hdvkit.testing.fuse_client import FuseClient
from hdvkit.testing.fuse_messages import (
    GETATTR_FH,
    IN_HEADER,
    OUT_HEADER,
    ROOT_ID,
    Fattr,
    Init,
    Opcode,
    Open,
    ProtocolError,
    guest_error,
)
from hdvkit.testing.fuse_replies import EntryOut, OpenOut, read_init
from hdvkit.testing.fuse_requests import Channel

DROPPED: Final = "dropped"
"""The chain came back with nothing written."""
SERVED: Final = "served"
"""The request, or a harmless reading of it, was carried out."""

MOST32, MOST64 = (1 << 32) - 1, (1 << 64) - 1
HIGHEST = (1 << 63) - 1  # the last byte a file can have
STORM = 600  # nodes or handles one attack takes without giving any back
DEPTH = 200
ALL_FLAGS = MOST64
_UNKNOWN_NODE = 1 << 40
_FORGED = 0xDEAD_BEEF
_DAX = 1 << 26 | 1 << 33  # FUSE_MAP_ALIGNMENT, FUSE_HAS_INODE_DAX
_UNIQUE = iter(range(1 << 60, 1 << 61, 2))  # apart from the client's own


class Dropped(Exception):
    """The device returned the chain empty."""


class HostileGuest:
    """What an attack works with: the queues, and a client on the same queues for what must be set up first.

    ``foreign`` is a number that another share uses for a node, and this one does not.
    """

    def __init__(self, client: FuseClient, requests: Channel, hiprio: Channel, *, foreign: int = _UNKNOWN_NODE) -> None:
        self.client = client
        self.requests = requests
        self.hiprio = hiprio
        self.foreign = foreign

    async def send(
        self,
        opcode: int,
        nodeid: int = ROOT_ID,
        body: bytes = b"",
        *,
        length: int | None = None,
        unique: int | None = None,
        room: int = 4096,
        queue: Channel | None = None,
    ) -> bytes:
        """Send header and body as they are and return the payload of the answer.

        Raises:
            OSError: The device answered with an error.
            Dropped: It answered nothing.
            ProtocolError: What came back is no answer at all.
        """
        unique = next(_UNIQUE) if unique is None else unique
        length = IN_HEADER.size + len(body) if length is None else length
        header = IN_HEADER.pack(length, opcode, unique, nodeid, 0, 0, 1, 0, 0)
        return await self.raw(header + body, room=room, unique=unique, queue=queue)

    async def raw(self, data: bytes, *, room: int = 4096, unique: int = 0, queue: Channel | None = None) -> bytes:
        """Send any bytes; ``room`` bytes are lent for the answer. Raises what ``send`` raises."""
        reply = await (queue or self.requests).submit([data] if data else [], [room] if room else [])
        if not reply.written:
            raise Dropped
        if reply.written < OUT_HEADER.size:
            raise ProtocolError(f"an answer of {reply.written} bytes")
        size, error, answered = OUT_HEADER.unpack_from(reply.data)
        if (size, answered) != (reply.written, unique):
            raise ProtocolError(f"{size} bytes for {answered}, came as {reply.written} bytes for {unique}")
        if error:
            raise guest_error(-error)
        return reply.data[OUT_HEADER.size : reply.written]

    async def init(self, *, major: int = 7, minor: int = 38, readahead: int = 1 << 17, flags: int = Init.INIT_EXT,
                   queue: Channel | None = None) -> bytes:  # fmt: skip
        """INIT with any numbers."""
        body = pack("<IIIII44x", major, minor, readahead, flags & MOST32, flags >> 32)
        return await self.send(Opcode.INIT, 0, body, queue=queue)

    async def file(self, flags: int = Open.RDWR, name: bytes = b"hostile") -> tuple[EntryOut, OpenOut]:
        """A file of eight bytes, opened."""
        entry, opened = await self.client.create(ROOT_ID, name, Open.RDWR | Open.CREAT, 0o644)
        await self.client.write(entry.nodeid, opened.fh, 0, b"contents")
        await self.client.release(entry.nodeid, opened.fh)
        return entry, await self.client.open(entry.nodeid, flags)

    async def directory(self, name: bytes = b"hostile.d") -> tuple[EntryOut, OpenOut]:
        """A directory, opened."""
        entry = await self.client.mkdir(ROOT_ID, name, 0o755)
        return entry, await self.client.opendir(entry.nodeid)

    async def link(self, target: bytes = b"/etc/passwd") -> EntryOut:
        """A symlink to a place of the host."""
        return await self.client.symlink(ROOT_ID, b"hostile.l", target)


Attack = Callable[[HostileGuest], Awaitable[object]]
"""Does it. Returns when the device served, else raises as `HostileGuest.send` does."""


@attrs.frozen
class HostileFuse:
    """One attack on the FUSE plane, and the answer it must get."""

    name: str
    summary: str
    attack: Attack
    answer: int | str
    """An errno, DROPPED or SERVED."""
    mounted: bool = True
    """Whether INIT comes before the attack."""
    read_only: bool = False
    """For a read-only share whose root holds ``file``, ``dir`` with ``inner`` in it, and ``link``."""
    descriptors: int | None = None
    """For a share that keeps at most so many descriptors open for its guest."""


async def answer_of(row: HostileFuse, guest: HostileGuest) -> int | str:
    """Attack, and say what the answer was, to be compared with ``row.answer``.

    Raises:
        ProtocolError: The device broke the protocol, or let something pass that it must not.
    """
    return await _answer(row.attack, guest)


async def _answer(attack: Attack, guest: HostileGuest) -> int | str:
    try:
        await attack(guest)
    except Dropped:
        return DROPPED
    except OSError as error:
        return error.errno or EIO
    return SERVED


# How attacks are put together


def request(opcode: int, nodeid: int = ROOT_ID, body: bytes = b"", *, length: int | None = None, room: int = 4096,
            hiprio: bool = False) -> Attack:  # fmt: skip
    """One request, the same whatever the share holds."""

    async def attack(guest: HostileGuest) -> None:
        await guest.send(opcode, nodeid, body, length=length, room=room, queue=guest.hiprio if hiprio else None)

    return attack


def alike(*attacks: Attack) -> Attack:
    """Several attacks that must all get the same answer."""

    async def attack(guest: HostileGuest) -> None:
        answers = [await _answer(one, guest) for one in attacks]
        if len(set(answers)) > 1:
            raise ProtocolError(f"the answers differ: {answers}")
        if answers[0] == DROPPED:
            raise Dropped
        if isinstance(answers[0], int):
            raise guest_error(answers[0])

    return attack


def bytes_of(data: bytes, room: int = 4096) -> Attack:
    """Bytes that are no request."""

    async def attack(guest: HostileGuest) -> None:
        await guest.raw(data, room=room)

    return attack


def must(condition: object, found: str) -> None:
    """Raise ProtocolError with what was found, unless the condition holds."""
    if not condition:
        raise ProtocolError(found)


# Bodies


def io(fh: int, offset: int, size: int, payload: bytes = b"") -> bytes:
    """read_in and write_in."""
    return pack("<QQIIQII", fh, offset, size, 0, 0, 0, 0) + payload


def setattr_in(valid: int, *, fh: int = 0, size: int = 0, seconds: int = 0, nanoseconds: int = 0, mode: int = 0,
               owner: int = 0) -> bytes:  # fmt: skip
    """setattr_in, with the same for all three times and both owners."""
    times = (*[seconds] * 3, *[nanoseconds] * 3)
    return pack("<II3Q3Q3I5I", valid, 0, fh, size, 0, *times, mode, 0, owner, owner, 0)


def copy_in(fh: int, to_node: int, to_fh: int) -> bytes:
    """copy_file_range_in."""
    return pack("<7Q", fh, 0, to_node, to_fh, 0, 8, 0)


_MODE = pack("<II", 0o755, 0)
_MKNOD = pack("<IIII", stat.S_IFREG | 0o644, 0, 0, 0)
_CREATE = pack("<IIII", Open.RDWR | Open.CREAT, stat.S_IFREG | 0o644, 0, 0)


def names_in(name: bytes) -> Attack:
    """Every request that carries a name, with ``name`` in each place of it."""
    word = pack("<Q", ROOT_ID)
    rename2 = word + bytes(8)
    return alike(
        request(Opcode.LOOKUP, body=name), request(Opcode.UNLINK, body=name), request(Opcode.RMDIR, body=name),
        request(Opcode.MKDIR, body=_MODE + name), request(Opcode.MKNOD, body=_MKNOD + name),
        request(Opcode.CREATE, body=_CREATE + name), request(Opcode.SYMLINK, body=name + b"target\0"),
        request(Opcode.LINK, body=word + name), request(Opcode.RENAME, body=word + name + b"new\0"),
        request(Opcode.RENAME, body=word + b"old\0" + name), request(Opcode.RENAME2, body=rename2 + name + b"new\0"),
        request(Opcode.RENAME2, body=rename2 + b"old\0" + name),
    )  # fmt: skip


def by_node(nodeid: int) -> Attack:
    """Requests that need nothing but a node."""
    name = b"name\0"
    return alike(
        request(Opcode.GETATTR, nodeid, bytes(16)), request(Opcode.LOOKUP, nodeid, name),
        request(Opcode.SETATTR, nodeid, setattr_in(Fattr.MODE)), request(Opcode.READLINK, nodeid),
        request(Opcode.OPEN, nodeid, bytes(8)), request(Opcode.OPENDIR, nodeid, bytes(8)),
        request(Opcode.MKDIR, nodeid, _MODE + name), request(Opcode.CREATE, nodeid, _CREATE + name),
        request(Opcode.UNLINK, nodeid, name), request(Opcode.LINK, ROOT_ID, pack("<Q", nodeid) + name),
        request(Opcode.RENAME, ROOT_ID, pack("<Q", nodeid) + b"old\0new\0"), request(Opcode.STATFS, nodeid),
        request(Opcode.ACCESS, nodeid, bytes(8)),
    )  # fmt: skip


def by_handle(nodeid: int, fh: int) -> Attack:
    """Requests that need a file's handle."""
    word = pack("<Q", fh)
    return alike(
        request(Opcode.READ, nodeid, io(fh, 0, 8)), request(Opcode.WRITE, nodeid, io(fh, 0, 1, b"x")),
        request(Opcode.FLUSH, nodeid, word + bytes(16)), request(Opcode.FSYNC, nodeid, word + bytes(8)),
        request(Opcode.RELEASE, nodeid, word + bytes(16)), request(Opcode.LSEEK, nodeid, pack("<QQII", fh, 0, 3, 0)),
        request(Opcode.FALLOCATE, nodeid, pack("<QQQII", fh, 0, 8, 0, 0)),
        request(Opcode.GETATTR, nodeid, pack("<IIQ", GETATTR_FH, 0, fh)),
        request(Opcode.SETATTR, nodeid, setattr_in(Fattr.FH | Fattr.SIZE, fh=fh)),
        request(Opcode.COPY_FILE_RANGE, nodeid, copy_in(fh, nodeid, fh)),
    )  # fmt: skip


def by_directory(nodeid: int, fh: int) -> Attack:
    """Requests that need a directory's handle."""
    word = pack("<Q", fh)
    return alike(
        request(Opcode.READDIR, nodeid, io(fh, 0, 4096)), request(Opcode.READDIRPLUS, nodeid, io(fh, 0, 4096)),
        request(Opcode.FSYNCDIR, nodeid, word + bytes(8)), request(Opcode.RELEASEDIR, nodeid, word + bytes(16)),
    )  # fmt: skip


# Attacks of more than one request


async def _answers_major_7(guest: HostileGuest) -> None:
    answer = read_init(await guest.init(major=8))
    must(answer.major == 7, f"a guest of FUSE 8 is answered {answer.major}")
    must(await _answer(request(Opcode.STATFS), guest) == EIO, "the session is open before both agree")


async def _offers_everything(guest: HostileGuest) -> None:
    answer = read_init(await guest.init(readahead=MOST32, flags=ALL_FLAGS))
    never = _DAX | Init.HANDLE_KILLPRIV_V2 | Init.POSIX_ACL | Init.SUBMOUNTS | Init.SECURITY_CTX
    must(not answer.flags & never, f"the device takes flags {answer.flags & never:#x}, which it has no use for")
    must(answer.max_readahead <= 1 << 20, f"max_readahead is {answer.max_readahead}")
    must(not answer.map_alignment, f"map_alignment is {answer.map_alignment}")


async def _old_node(guest: HostileGuest) -> None:
    entry, _ = await guest.file()
    await guest.client.destroy()
    await guest.init()
    await by_node(entry.nodeid)(guest)


async def _old_handle(guest: HostileGuest) -> None:
    _, opened = await guest.file()
    await guest.client.destroy()
    await guest.init()
    await by_handle(ROOT_ID, opened.fh)(guest)


async def _after_destroy(guest: HostileGuest) -> None:
    await guest.client.destroy()
    await alike(request(Opcode.STATFS), request(Opcode.GETATTR, body=bytes(16)), request(Opcode.DESTROY))(guest)


async def _open_link(guest: HostileGuest) -> None:
    link = await guest.link()
    await alike(
        *(request(Opcode.OPEN, link.nodeid, pack("<II", flags, 0)) for flags in (0, Open.RDWR, Open.TRUNC)),
        request(Opcode.CREATE, ROOT_ID, _CREATE + b"hostile.l\0"),
    )(guest)


async def _walk_link(guest: HostileGuest) -> None:
    link = await guest.link(b"/etc")
    await alike(
        request(Opcode.LOOKUP, link.nodeid, b"passwd\0"),
        request(Opcode.MKDIR, link.nodeid, _MODE + b"new\0"),
        request(Opcode.OPENDIR, link.nodeid, bytes(8)),
    )(guest)


async def _stores_targets(guest: HostileGuest) -> None:
    for number, target in enumerate((b"/etc/shadow", b"../../../../etc/shadow", b"..\\..\\windows", b".", b"\xff/\n")):
        entry = await guest.client.symlink(ROOT_ID, b"target-%d" % number, target)
        found = await guest.client.readlink(entry.nodeid)
        must(found == target, f"the link to {target!r} reads {found!r}")


async def _change_link(guest: HostileGuest) -> None:
    link = await guest.link()
    await guest.send(Opcode.SETATTR, link.nodeid, setattr_in(Fattr.MODE, mode=0o777))


def _node_of(kind: int) -> Attack:
    """Making a node that is not the guest's own."""
    return request(Opcode.MKNOD, body=pack("<IIII", kind | 0o666, 0x103, 0, 0) + b"device\0")


def _open_special(kind: int) -> Attack:
    async def attack(guest: HostileGuest) -> None:
        entry = await guest.client.mknod(ROOT_ID, b"special", kind | 0o666)
        flags = (Open.RDONLY, Open.WRONLY, Open.RDWR)
        await alike(*(request(Opcode.OPEN, entry.nodeid, pack("<II", flag, 0)) for flag in flags))(guest)

    return attack


async def _whiteout(guest: HostileGuest) -> None:
    await guest.file()
    await guest.client.rename2(ROOT_ID, b"hostile", ROOT_ID, b"elsewhere", 4)


async def _forgotten_node(guest: HostileGuest) -> None:
    entry = await guest.client.mknod(ROOT_ID, b"forgotten", stat.S_IFREG | 0o644)
    await guest.client.forget(entry.nodeid)
    await by_node(entry.nodeid)(guest)


async def _closed_handle(guest: HostileGuest) -> None:
    entry, opened = await guest.file()
    await guest.client.release(entry.nodeid, opened.fh)
    await by_handle(entry.nodeid, opened.fh)(guest)


async def _handle_of_another(guest: HostileGuest) -> None:
    _, opened = await guest.file()
    other, _ = await guest.file(name=b"other")
    await by_handle(other.nodeid, opened.fh)(guest)


async def _directory_as_file(guest: HostileGuest) -> None:
    entry, opened = await guest.directory()
    word = pack("<Q", opened.fh)
    await alike(
        request(Opcode.READ, entry.nodeid, io(opened.fh, 0, 8)),
        request(Opcode.WRITE, entry.nodeid, io(opened.fh, 0, 1, b"x")),
        request(Opcode.RELEASE, entry.nodeid, word + bytes(16)),
        request(Opcode.FALLOCATE, entry.nodeid, pack("<QQQII", opened.fh, 0, 8, 0, 0)),
    )(guest)


async def _file_as_directory(guest: HostileGuest) -> None:
    entry, opened = await guest.file()
    await by_directory(entry.nodeid, opened.fh)(guest)


async def _write_by_reader(guest: HostileGuest) -> None:
    entry, reader = await guest.file(Open.RDONLY)
    writer = await guest.client.open(entry.nodeid, Open.WRONLY)
    node = entry.nodeid
    await alike(
        request(Opcode.WRITE, node, io(reader.fh, 0, 1, b"x")),
        request(Opcode.FALLOCATE, node, pack("<QQQII", reader.fh, 0, 8, 0, 0)),
        request(Opcode.SETATTR, node, setattr_in(Fattr.FH | Fattr.SIZE, fh=reader.fh)),
        request(Opcode.COPY_FILE_RANGE, node, copy_in(writer.fh, node, writer.fh)),
        request(Opcode.COPY_FILE_RANGE, node, copy_in(reader.fh, node, reader.fh)),
        request(Opcode.READ, node, io(writer.fh, 0, 8)),
    )(guest)


async def _forget_too_many(guest: HostileGuest) -> None:
    entry = await guest.client.mknod(ROOT_ID, b"forgotten", stat.S_IFREG | 0o644)
    await guest.client.forget(entry.nodeid, MOST64)
    await guest.client.forget(entry.nodeid, 1)
    await guest.send(Opcode.GETATTR, entry.nodeid, bytes(16))


async def _forget_root(guest: HostileGuest) -> None:
    await guest.client.forget(ROOT_ID, MOST64)
    await guest.client.batch_forget([(ROOT_ID, MOST64), (0, 1), (MOST64, MOST64)])
    await guest.send(Opcode.GETATTR, ROOT_ID, bytes(16))


async def _forget_open(guest: HostileGuest) -> None:
    entry, opened = await guest.file()
    await guest.client.forget(entry.nodeid, MOST64)
    data = await guest.send(Opcode.READ, entry.nodeid, io(opened.fh, 0, 8))
    must(data == b"contents", f"the open file reads {data!r}")


async def _lookup_storm(guest: HostileGuest) -> None:
    names = [b"storm-%d" % number for number in range(STORM)]
    for name in names:
        entry = await guest.client.mknod(ROOT_ID, name, stat.S_IFREG | 0o644)
        await guest.client.forget(entry.nodeid)
    for name in names:
        await guest.client.lookup(ROOT_ID, name)


async def _open_storm(guest: HostileGuest) -> None:
    entry, _ = await guest.file()
    for _ in range(STORM):
        await guest.client.open(entry.nodeid, Open.RDONLY)


def _huge(opcode: int, *, directory: bool) -> Attack:
    async def attack(guest: HostileGuest) -> None:
        entry, opened = await (guest.directory() if directory else guest.file())
        for room in (OUT_HEADER.size + 4096, OUT_HEADER.size + 200):
            await guest.send(opcode, entry.nodeid, io(opened.fh, 0, MOST32), room=room)

    return attack


def _on_file(opcode: int, body: Callable[[int], bytes], *, directory: bool = False) -> Attack:
    """One request on an open file; the body is made from its handle."""

    async def attack(guest: HostileGuest) -> None:
        entry, opened = await (guest.directory() if directory else guest.file())
        await guest.send(opcode, entry.nodeid, body(opened.fh))

    return attack


def _reading(offset: int) -> Attack:
    return _on_file(Opcode.READ, lambda fh: io(fh, offset, 8))


def _writing(offset: int, size: int = 4) -> Attack:
    return _on_file(Opcode.WRITE, lambda fh: io(fh, offset, size, b"data"))


def _allocating(offset: int, length: int, mode: int = 0) -> Attack:
    return _on_file(Opcode.FALLOCATE, lambda fh: pack("<QQQII", fh, offset, length, mode, 0))


def _on_directory(opcode: int, body: Callable[[int], bytes]) -> Attack:
    return _on_file(opcode, body, directory=True)


async def _forged_offsets(guest: HostileGuest) -> None:
    entry, opened = await guest.directory()
    for opcode in (Opcode.READDIR, Opcode.READDIRPLUS):
        for offset in (3, 12345, HIGHEST, HIGHEST + 1, MOST64):
            data = await guest.send(opcode, entry.nodeid, io(opened.fh, offset, 4096))
            must(not data, f"an empty directory has {len(data)} bytes at {offset:#x}")


async def _changed_directory(guest: HostileGuest) -> None:
    entry, opened = await guest.directory()
    names = [b"name-%d" % number for number in range(100)]
    for name in names:
        await guest.client.mknod(entry.nodeid, name, stat.S_IFREG | 0o644)
    offset, plus = 0, True
    while batch := await guest.send(
        Opcode.READDIRPLUS if plus else Opcode.READDIR, entry.nodeid, io(opened.fh, offset, 1024)
    ):
        # One record at a time; what stood behind it is gone when the guest comes back.
        if names:
            await guest.client.unlink(entry.nodeid, names.pop())
        offset, plus = int.from_bytes(batch[136:144] if plus else batch[8:16], "little"), not plus


async def _append(guest: HostileGuest) -> None:
    entry, opened = await guest.file(Open.RDWR | Open.APPEND)
    await guest.send(Opcode.WRITE, entry.nodeid, io(opened.fh, 0, 4, b"more"))
    data = await guest.client.read(entry.nodeid, opened.fh, 0, 64)
    must(data == b"contentsmore", f"after an append at offset 0 the file is {data!r}")


async def _too_long_a_write(guest: HostileGuest) -> None:
    entry, opened = await guest.file()
    size = guest.client.session.max_write + 4096
    await guest.send(Opcode.WRITE, entry.nodeid, io(opened.fh, 0, size, bytes(size)))


def _setattr(body: bytes, *, directory: bool = False) -> Attack:
    async def attack(guest: HostileGuest) -> None:
        entry, _ = await (guest.directory() if directory else guest.file())
        await guest.send(Opcode.SETATTR, entry.nodeid, body)

    return attack


async def _foreign_node(guest: HostileGuest) -> None:
    await guest.file()
    foreign = pack("<Q", guest.foreign)
    await alike(
        request(Opcode.LINK, body=foreign + b"stolen\0"),
        request(Opcode.RENAME, body=foreign + b"hostile\0gone\0"),
        request(Opcode.RENAME2, body=foreign + bytes(8) + b"hostile\0gone\0"),
        request(Opcode.LOOKUP, guest.foreign, b"name\0"),
    )(guest)


async def _foreign_handle(guest: HostileGuest) -> None:
    entry, opened = await guest.file()
    await alike(
        request(Opcode.COPY_FILE_RANGE, entry.nodeid, copy_in(opened.fh, guest.foreign, opened.fh)),
        request(Opcode.COPY_FILE_RANGE, guest.foreign, copy_in(opened.fh, entry.nodeid, opened.fh)),
    )(guest)


async def _interrupt_flood(guest: HostileGuest) -> None:
    for number in range(500):
        await guest.send(Opcode.INTERRUPT, 0, pack("<Q", number), room=16, queue=guest.hiprio)


async def _interrupt_itself(guest: HostileGuest) -> None:
    await guest.send(Opcode.INTERRUPT, 0, pack("<Q", 77), unique=77, room=16, queue=guest.hiprio)


async def _on_hiprio(guest: HostileGuest) -> None:
    entry, opened = await guest.file()
    await guest.send(Opcode.LOOKUP, ROOT_ID, b"hostile\0", queue=guest.hiprio)
    data = await guest.send(Opcode.READ, entry.nodeid, io(opened.fh, 0, 8), queue=guest.hiprio)
    must(data == b"contents", f"READ on hiprio brings {data!r}")


async def _init_on_hiprio(guest: HostileGuest) -> None:
    await guest.init(queue=guest.hiprio)


async def _nest(guest: HostileGuest) -> None:
    """Deeper than any path the host could name, then out again from the inside."""
    name, way = b"d" * 200, [ROOT_ID]
    for _ in range(DEPTH):
        way.append((await guest.client.mkdir(way[-1], name, 0o755)).nodeid)
    await guest.client.mknod(way[-1], b"deepest", stat.S_IFREG | 0o644)
    await guest.client.unlink(way[-1], b"deepest")
    for parent in way[-2::-1]:
        await guest.client.rmdir(parent, name)


async def _many_links(guest: HostileGuest) -> None:
    entry, _ = await guest.file()
    for number in range(STORM):
        await guest.client.link(entry.nodeid, ROOT_ID, b"link-%d" % number)
    nlink = (await guest.client.getattr(entry.nodeid)).attr.nlink
    must(nlink == STORM + 1, f"{STORM} links were made, nlink is {nlink}")


async def _revive(guest: HostileGuest) -> None:
    entry, _ = await guest.file()
    await guest.client.unlink(ROOT_ID, b"hostile")
    await guest.client.link(entry.nodeid, ROOT_ID, b"revived")


# Attacks on a read-only share, whose root holds what the row says


def _ro(opcode: int, body: bytes, name: bytes = b"file") -> Attack:
    async def attack(guest: HostileGuest) -> None:
        entry = await guest.client.lookup(ROOT_ID, name)
        await guest.send(opcode, entry.nodeid, body)

    return attack


async def _ro_write(guest: HostileGuest) -> None:
    entry = await guest.client.lookup(ROOT_ID, b"file")
    opened = await guest.client.open(entry.nodeid, Open.RDONLY)
    node, fh = entry.nodeid, opened.fh
    await alike(
        request(Opcode.WRITE, node, io(fh, 0, 1, b"x")),
        request(Opcode.FALLOCATE, node, pack("<QQQII", fh, 0, 8, 0, 0)),
        request(Opcode.SETATTR, node, setattr_in(Fattr.FH | Fattr.SIZE, fh=fh)),
        request(Opcode.COPY_FILE_RANGE, node, copy_in(fh, node, fh)),
        request(Opcode.COPY_FILE_RANGE_64, node, copy_in(fh, node, fh)),
        request(Opcode.IOCTL, node, pack("<QIIQII", fh, 0, 0x40086602, 0, 8, 0) + bytes(8)),
    )(guest)


async def _ro_link(guest: HostileGuest) -> None:
    entry = await guest.client.lookup(ROOT_ID, b"file")
    await guest.send(Opcode.LINK, ROOT_ID, pack("<Q", entry.nodeid) + b"new\0")


def _openings(opcode: int, name: bytes, *flags: int) -> Attack:
    return alike(*(_ro(opcode, pack("<II", flag, 0), name) for flag in flags))


def _read_only() -> Iterator[HostileFuse]:
    word = pack("<Q", ROOT_ID)
    times = Fattr.ATIME | Fattr.MTIME | Fattr.ATIME_NOW | Fattr.MTIME_NOW
    chattr = pack("<QIIQII", 0, 0, 0x40086602, 0, 8, 0) + bytes(8)
    attacks = {
        "setattr-mode": _ro(Opcode.SETATTR, setattr_in(Fattr.MODE, mode=0o777)),
        "setattr-owner": _ro(Opcode.SETATTR, setattr_in(Fattr.UID | Fattr.GID, owner=1000)),
        "setattr-size": _ro(Opcode.SETATTR, setattr_in(Fattr.SIZE)),
        "setattr-atime": _ro(Opcode.SETATTR, setattr_in(Fattr.ATIME, seconds=1)),
        "setattr-now": _ro(Opcode.SETATTR, setattr_in(times)),
        "setattr-nothing": _ro(Opcode.SETATTR, setattr_in(0)),
        "symlink": request(Opcode.SYMLINK, body=b"new\0target\0"),
        "mknod": request(Opcode.MKNOD, body=_MKNOD + b"new\0"),
        "mkdir": request(Opcode.MKDIR, body=_MODE + b"new\0"),
        "unlink": request(Opcode.UNLINK, body=b"file\0"),
        "rmdir": request(Opcode.RMDIR, body=b"dir\0"),
        "rename": request(Opcode.RENAME, body=word + b"file\0new\0"),
        "rename-exchange": request(Opcode.RENAME2, body=word + pack("<II", 2, 0) + b"file\0dir\0"),
        "link": _ro_link,
        "create": request(Opcode.CREATE, body=_CREATE + b"new\0"),
        "create-existing": request(Opcode.CREATE, body=pack("<IIII", Open.CREAT, 0o644, 0, 0) + b"file\0"),
        "tmpfile": request(Opcode.TMPFILE, body=_CREATE + b"/\0"),
        "setxattr": _ro(Opcode.SETXATTR, pack("<II", 1, 0) + b"user.name\0v"),
        "removexattr": _ro(Opcode.REMOVEXATTR, b"user.name\0"),
        "by-reader": _ro_write,
        "ioctl": _ro(Opcode.IOCTL, chattr),
        "open-writing": _openings(Opcode.OPEN, b"file", Open.WRONLY, Open.RDWR, Open.ACCMODE),
        "open-truncating": _openings(Opcode.OPEN, b"file", Open.TRUNC, Open.RDWR | Open.TRUNC),
        "open-creating": _openings(Opcode.OPEN, b"file", Open.CREAT, Open.APPEND),
        "opendir-writing": _openings(Opcode.OPENDIR, b"dir", Open.WRONLY, Open.RDWR, Open.TRUNC),
        "access-write": _ro(Opcode.ACCESS, pack("<II", os.W_OK, 0)),
        "access-all": _ro(Opcode.ACCESS, pack("<II", 7, 0)),
    }
    for name, attack in attacks.items():
        summary = f"{name} on a share that is read-only, whatever the guest's mount says"
        yield HostileFuse(f"F25-{name}", summary, attack, EROFS, read_only=True)


# The list

_LONG = b"n" * 256 + b"\0"
_XATTRS = (b"security.capability\0", b"trusted.x\0", b"system.posix_acl_access\0", b"user.virtiofs.x\0")
_UNTAKEN = (Opcode.BMAP, Opcode.POLL, Opcode.NOTIFY_REPLY, Opcode.GETLK, 0, 7, 19, 54, 4096, 1 << 20, MOST32)
_FIRST = {
    Opcode.LOOKUP: b"file\0", Opcode.GETATTR: bytes(16), Opcode.OPEN: bytes(8), Opcode.MKDIR: _MODE + b"new\0",
    Opcode.CREATE: _CREATE + b"new\0", Opcode.STATFS: b"", Opcode.DESTROY: b"", Opcode.IOCTL: b"", 4096: b"",
}  # fmt: skip

ATTACKS: Final = (
    HostileFuse("F1-length-short", "header.len is less than what came",
                alike(request(Opcode.LOOKUP, body=b"name\0", length=44), request(Opcode.STATFS, length=39),
                      request(Opcode.STATFS, length=0)), EINVAL),
    HostileFuse("F1-length-long", "header.len is more than what came",
                alike(request(Opcode.LOOKUP, body=b"name\0", length=46), request(Opcode.STATFS, length=MOST32)),
                EINVAL),
    HostileFuse("F1-no-header", "less than a header", alike(*(bytes_of(bytes(size)) for size in (0, 1, 39))), DROPPED),
    HostileFuse("F1-body-short", "less than the arguments",
                alike(*(request(opcode, body=bytes(7)) for opcode in
                        (Opcode.GETATTR, Opcode.SETATTR, Opcode.OPEN, Opcode.READ, Opcode.WRITE, Opcode.MKDIR,
                         Opcode.RENAME2, Opcode.LINK, Opcode.CREATE, Opcode.FALLOCATE, Opcode.LSEEK, Opcode.ACCESS,
                         Opcode.COPY_FILE_RANGE, Opcode.GETXATTR, Opcode.SETXATTR, Opcode.IOCTL))), EINVAL),
    HostileFuse("F1-body-long", "more than the arguments",
                alike(request(Opcode.GETATTR, body=bytes(17)), request(Opcode.OPEN, body=bytes(4096)),
                      request(Opcode.STATFS, body=b"x"), request(Opcode.READLINK, body=b"name\0")), EINVAL),
    HostileFuse("F1-body-huge", "a megabyte of arguments", request(Opcode.GETXATTR, body=bytes(1 << 20)), EINVAL),
    HostileFuse("F1-no-room", "no room for the header of an answer",
                alike(*(request(Opcode.STATFS, room=room) for room in (0, 1, 15))), DROPPED),
    HostileFuse("F1-little-room", "room for the header of an answer only",
                alike(request(Opcode.STATFS, room=16), request(Opcode.GETATTR, body=bytes(16), room=119)), EIO),
    HostileFuse("F2-before-init", "requests before INIT",
                alike(*(request(opcode, body=body) for opcode, body in _FIRST.items())), EIO, mounted=False),
    HostileFuse("F2-forget-before-init", "FORGET before INIT", request(Opcode.FORGET, body=bytes(8)), DROPPED,
                mounted=False),
    HostileFuse("F2-init-twice", "a second INIT", lambda guest: guest.init(), EIO),
    HostileFuse("F2-init-old-major", "INIT of FUSE 0 and 6",
                alike(lambda guest: guest.init(major=0), lambda guest: guest.init(major=6)), EPROTO, mounted=False),
    HostileFuse("F2-init-new-major", "INIT of FUSE 8", _answers_major_7, SERVED, mounted=False),
    HostileFuse("F2-init-old-minor", "INIT of FUSE 7.26", lambda guest: guest.init(minor=26), EPROTO, mounted=False),
    HostileFuse("F2-init-short", "INIT cut off",
                alike(*(request(Opcode.INIT, 0, pack("<II", 7, 38) + bytes(more)) for more in (4, 12, 55, 57))),
                EINVAL, mounted=False),
    HostileFuse("F2-init-everything", "INIT that offers every flag and 4 GiB of read-ahead", _offers_everything,
                SERVED, mounted=False),
    HostileFuse("F2-after-destroy", "requests after DESTROY", _after_destroy, EIO),
    HostileFuse("F3-old-node", "a node from before DESTROY and INIT", _old_node, ESTALE),
    HostileFuse("F3-old-handle", "an open file from before DESTROY and INIT", _old_handle, EBADF),
    HostileFuse("F4-name-empty", "the empty name", names_in(b"\0"), EINVAL),
    HostileFuse("F4-name-dot", "the name .", names_in(b".\0"), EINVAL),
    HostileFuse("F4-name-dotdot", "the name ..", names_in(b"..\0"), EINVAL),
    HostileFuse("F4-name-with-slash", "a path as a name", names_in(b"../outside\0"), EINVAL),
    HostileFuse("F4-name-absolute", "an absolute path as a name", names_in(b"/etc/passwd\0"), EINVAL),
    HostileFuse("F4-name-slash-last", "a name that ends in a slash", names_in(b"name/\0"), EINVAL),
    HostileFuse("F4-name-256", "a name of 256 bytes", names_in(_LONG), ENAMETOOLONG),
    HostileFuse("F4-name-without-nul", "a name without its end",
                alike(*(request(opcode, body=b"name") for opcode in (Opcode.LOOKUP, Opcode.UNLINK, Opcode.RMDIR)),
                      request(Opcode.MKDIR, body=_MODE + b"name"), request(Opcode.SYMLINK, body=b"name\0target"),
                      request(Opcode.RENAME, body=pack("<Q", ROOT_ID) + b"old\0new")), EINVAL),
    HostileFuse("F4-names-in-one", "two names where one belongs, one where two do",
                alike(request(Opcode.LOOKUP, body=b"a\0b\0"), request(Opcode.MKDIR, body=_MODE + b"a\0b\0"),
                      request(Opcode.RENAME, body=pack("<Q", ROOT_ID) + b"old\0"),
                      request(Opcode.SYMLINK, body=b"name\0")), EINVAL),
    HostileFuse("F4-name-of-a-megabyte", "a name of 1 MiB", request(Opcode.LOOKUP, body=b"n" * (1 << 20)), EINVAL),
    HostileFuse("F6-open-link", "open and create through a symlink to a host file", _open_link, ELOOP),
    HostileFuse("F6-walk-link", "a symlink to a host directory as a directory", _walk_link, ENOTDIR),
    HostileFuse("F6-link-targets", "targets that lead out are stored, never followed", _stores_targets, SERVED),
    HostileFuse("F6-chmod-link", "chmod of a symlink to a host file", _change_link, EOPNOTSUPP),
    HostileFuse("F8-mknod-device", "host devices by MKNOD",
                alike(_node_of(stat.S_IFCHR), _node_of(stat.S_IFBLK)), EPERM),
    HostileFuse("F8-mknod-type", "a type that MKNOD does not make",
                alike(*(_node_of(kind) for kind in (0, stat.S_IFDIR, stat.S_IFLNK, 0o170000))), EINVAL),
    HostileFuse("F8-open-socket", "open of a socket", _open_special(stat.S_IFSOCK), ENXIO),
    HostileFuse("F8-whiteout", "a device node by RENAME_WHITEOUT", _whiteout, EINVAL),
    HostileFuse("F9-node-forged", "numbers of nodes that were never given",
                alike(*(by_node(nodeid) for nodeid in (0, _FORGED, _UNKNOWN_NODE, HIGHEST, MOST64))), ESTALE),
    HostileFuse("F9-node-forgotten", "a node after its last FORGET", _forgotten_node, ESTALE),
    HostileFuse("F9-handle-forged", "numbers of open files that were never given",
                alike(*(one(ROOT_ID, fh) for fh in (0, _FORGED, MOST64) for one in (by_handle, by_directory))), EBADF),
    HostileFuse("F9-handle-closed", "an open file after RELEASE", _closed_handle, EBADF),
    HostileFuse("F9-handle-of-another", "the open file of another node", _handle_of_another, EBADF),
    HostileFuse("F10-directory-as-file", "a directory's handle where a file's belongs", _directory_as_file, EBADF),
    HostileFuse("F10-file-as-directory", "a file's handle where a directory's belongs", _file_as_directory, EBADF),
    HostileFuse("F10-write-by-reader", "writing by a handle opened to read, and the reverse", _write_by_reader, EBADF),
    HostileFuse("F11-forget-too-many", "more references given back than there are", _forget_too_many, ESTALE),
    HostileFuse("F11-forget-root", "FORGET of the root", _forget_root, SERVED),
    HostileFuse("F11-forget-open", "FORGET of a node that is open", _forget_open, SERVED),
    HostileFuse("F11-batch-count", "BATCH_FORGET with a count that is not true",
                alike(*(request(Opcode.BATCH_FORGET, 0, pack("<II", count, 0) + bytes(16), hiprio=True)
                        for count in (0, 2, MOST32))), DROPPED),
    HostileFuse("F11-forget-short", "FORGET without a count",
                alike(request(Opcode.FORGET, hiprio=True), request(Opcode.BATCH_FORGET, 0, hiprio=True)), DROPPED),
    HostileFuse("F12-lookup-storm", "lookups without end and no FORGET", _lookup_storm, ENFILE, descriptors=300),
    HostileFuse("F12-open-storm", "opens without end and no RELEASE", _open_storm, ENFILE, descriptors=300),
    HostileFuse("F13-read-4-gib", "READ of 4 GiB", _huge(Opcode.READ, directory=False), SERVED),
    HostileFuse("F13-readdir-4-gib", "READDIR of 4 GiB", _huge(Opcode.READDIR, directory=True), SERVED),
    HostileFuse("F13-readdirplus-4-gib", "READDIRPLUS of 4 GiB", _huge(Opcode.READDIRPLUS, directory=True), SERVED),
    HostileFuse("F13-getxattr-4-gib", "GETXATTR and LISTXATTR of 4 GiB",
                alike(request(Opcode.GETXATTR, body=pack("<II", MOST32, 0) + b"user.x\0"),
                      request(Opcode.LISTXATTR, body=pack("<II", MOST32, 0))), ENOSYS),
    HostileFuse("F13-read-offset", "READ behind the last byte a file can have",
                alike(*map(_reading, (HIGHEST, HIGHEST + 1, MOST64))), EINVAL),
    HostileFuse("F14-offset-forged", "READDIR at offsets that were never given", _forged_offsets, SERVED),
    HostileFuse("F14-directory-changed", "READDIR while the names go away", _changed_directory, SERVED),
    HostileFuse("F14-readdir-no-room", "READDIR with room for no name",
                alike(_on_directory(Opcode.READDIR, lambda fh: io(fh, 0, 0)),
                      request(Opcode.LOOKUP, body=b"\0")), EINVAL),
    HostileFuse("F15-write-size", "WRITE whose size is not that of the data",
                alike(*(_writing(0, size) for size in (0, 3, 5, MOST32))), EINVAL),
    HostileFuse("F15-write-offset", "WRITE past the last byte a file can have",
                alike(*map(_writing, (HIGHEST - 3, HIGHEST, HIGHEST + 1, MOST64))), EFBIG),
    HostileFuse("F15-write-max", "WRITE of more than max_write", _too_long_a_write, EINVAL),
    HostileFuse("F15-append", "WRITE at 0 by a handle opened to append", _append, SERVED),
    HostileFuse("F16-every-bit", "SETATTR with bits that nobody defined",
                alike(_setattr(setattr_in(MOST32)), _setattr(setattr_in(1 << 12))), EINVAL),
    HostileFuse("F16-nanoseconds", "a second of 10^9 nanoseconds and more",
                alike(*(_setattr(setattr_in(bit, nanoseconds=number)) for number in (10**9, MOST32)
                        for bit in (Fattr.ATIME, Fattr.MTIME, Fattr.CTIME))), EINVAL),
    HostileFuse("F16-time-far", "times at both ends of time",
                alike(*(_setattr(setattr_in(Fattr.ATIME | Fattr.MTIME, seconds=seconds))
                        for seconds in (HIGHEST, HIGHEST + 1, MOST64))), SERVED),
    HostileFuse("F16-size", "a size no file can have",
                alike(*(_setattr(setattr_in(Fattr.SIZE, size=size)) for size in (HIGHEST + 1, MOST64))), EFBIG),
    HostileFuse("F16-size-of-directory", "a size for a directory",
                _setattr(setattr_in(Fattr.SIZE, size=0), directory=True), EISDIR),
    HostileFuse("F16-owner", "owner and group -1",
                alike(*(_setattr(setattr_in(bit, owner=MOST32)) for bit in (Fattr.UID, Fattr.GID))), EINVAL),
    HostileFuse("F17-allocate-everything", "FALLOCATE past the last byte a file can have",
                alike(_allocating(4096, HIGHEST), _allocating(4096, MOST64)), EFBIG),
    HostileFuse("F17-allocate-nothing", "FALLOCATE of no byte, and from behind the last one",
                alike(_allocating(0, 0), _allocating(MOST64, 1)), EINVAL),
    HostileFuse("F17-allocate-mode", "FALLOCATE modes that move data, and unknown ones",
                alike(*(_allocating(0, 4096, mode) for mode in (0x02, 0x08, 0x20, 0x40, 0x80, MOST32))), EOPNOTSUPP),
    HostileFuse("F18-setxattr", "extended attributes that mean something to the host, none of which are offered",
                alike(*(request(Opcode.SETXATTR, body=pack("<II", 4, 0) + name + b"\1\0\0\2") for name in _XATTRS),
                      *(request(Opcode.REMOVEXATTR, body=name) for name in _XATTRS)), ENOSYS),
    HostileFuse("F19-killpriv", "INIT does not promise to take set-user-id bits: the guest's kernel does it itself",
                _offers_everything, SERVED, mounted=False),
    HostileFuse("F20-foreign-node", "link, move and walk into another share", _foreign_node, ESTALE),
    HostileFuse("F20-foreign-handle", "copy from and to another share", _foreign_handle, EBADF),
    HostileFuse("F21-opcodes", "opcodes that are unknown, or not of this device",
                alike(*(request(opcode, body=bytes(48)) for opcode in _UNTAKEN)), ENOSYS),
    HostileFuse("F21-ioctl", "IOCTL", _on_file(Opcode.IOCTL, lambda fh: pack("<QIIQII", fh, 0, 0x5401, 0, 0, 0)),
                ENOSYS),
    HostileFuse("F22-interrupt-unknown", "INTERRUPT of requests that are not there",
                alike(*(request(Opcode.INTERRUPT, 0, pack("<Q", unique), hiprio=True)
                        for unique in (0, 2, _FORGED, MOST64))), SERVED),
    HostileFuse("F22-interrupt-itself", "INTERRUPT of itself", _interrupt_itself, SERVED),
    HostileFuse("F22-interrupt-flood", "500 INTERRUPTs", _interrupt_flood, SERVED),
    HostileFuse("F23-requests-on-hiprio", "LOOKUP and READ on the hiprio queue", _on_hiprio, SERVED),
    HostileFuse("F23-init-on-hiprio", "a second INIT on the hiprio queue", _init_on_hiprio, EIO),
    HostileFuse("F23-forget-on-requests", "FORGET on a request queue, with room for an answer",
                request(Opcode.FORGET, body=pack("<Q", 1)), DROPPED),
    HostileFuse("F24-open-fifo", "open of a FIFO that nobody writes", _open_special(stat.S_IFIFO), ENXIO),
    *_read_only(),
    HostileFuse("F26-nesting", f"{DEPTH} directories deep, {DEPTH * 200} bytes of path", _nest, SERVED),
    HostileFuse("F26-links", f"{STORM} names for one file", _many_links, SERVED),
    HostileFuse("F27-tmpfile", "TMPFILE", request(Opcode.TMPFILE, body=_CREATE + b"/\0"), ENOSYS),
    HostileFuse("F27-revive", "LINK of a file whose last name is gone", _revive, ENOENT),
    HostileFuse("F28-setupmapping", "DAX mappings, which are not offered",
                alike(*(request(Opcode.SETUPMAPPING, body=pack("<5Q", 0, offset, length, 3, 1 << 40))
                        for offset in (0, MOST64) for length in (0, 4096, MOST64)),
                      request(Opcode.REMOVEMAPPING, body=pack("<II2Q", 1, 0, 0, MOST64))), ENOSYS),
)  # fmt: skip
"""Every attack."""
