"""The guest of the hostile requests on the FUSE plane, and what its attacks are put together from.

One request with any bytes, several that must all get the same answer, and the bodies of requests. Which attacks
there are and how each must be answered is not known here.
"""

import stat
from collections.abc import Awaitable, Callable
from errno import EIO
from struct import pack
from typing import Final

from hdvkit.testing.fuse_client import FuseClient
from hdvkit.testing.fuse_errors import guest_error
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
)
from hdvkit.testing.fuse_replies import EntryOut, OpenOut
from hdvkit.testing.fuse_requests import Channel

DROPPED: Final = "dropped"
"""The chain came back with nothing written."""
SERVED: Final = "served"
"""The request, or a harmless reading of it, was carried out."""

MOST32, MOST64 = (1 << 32) - 1, (1 << 64) - 1
HIGHEST = (1 << 63) - 1  # the last byte a file can have
UNKNOWN_NODE = 1 << 40
"""The number of a node that was never given."""
_UNIQUE = iter(range(1 << 60, 1 << 61, 2))  # apart from the client's own


class Dropped(Exception):
    """The device returned the chain empty."""


class HostileGuest:
    """What an attack works with: the queues, and a client on the same queues for what must be set up first.

    ``foreign`` is a number that another share uses for a node, and this one does not.
    """

    def __init__(self, client: FuseClient, requests: Channel, hiprio: Channel, *, foreign: int = UNKNOWN_NODE) -> None:
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
        extlen: int = 0,
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
        header = IN_HEADER.pack(length, opcode, unique, nodeid, 0, 0, 1, extlen, 0)
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


async def outcome(attack: Attack, guest: HostileGuest) -> int | str:
    """What the device answers to an attack: an errno, DROPPED or SERVED."""
    return await answered(attack(guest))


async def answered(request: Awaitable[object]) -> int | str:
    """What the device answers to one request."""
    try:
        await request
    except Dropped:
        return DROPPED
    except OSError as error:
        return error.errno or EIO
    return SERVED


# How attacks are put together


def request(opcode: int, nodeid: int = ROOT_ID, body: bytes = b"", *, length: int | None = None, extlen: int = 0,
            room: int = 4096, hiprio: bool = False) -> Attack:  # fmt: skip
    """One request, the same whatever the share holds."""

    async def attack(guest: HostileGuest) -> None:
        queue = guest.hiprio if hiprio else None
        await guest.send(opcode, nodeid, body, length=length, extlen=extlen, room=room, queue=queue)

    return attack


def alike(*attacks: Attack) -> Attack:
    """Several attacks that must all get the same answer."""

    async def attack(guest: HostileGuest) -> None:
        answers = [await outcome(one, guest) for one in attacks]
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

MODE_IN = pack("<II", 0o755, 0)
"""mkdir_in."""
MKNOD_IN = pack("<IIII", stat.S_IFREG | 0o644, 0, 0, 0)
"""mknod_in of a file."""
CREATE_IN = pack("<IIII", Open.RDWR | Open.CREAT, stat.S_IFREG | 0o644, 0, 0)
"""create_in of a file to read and write."""


def io(fh: int, offset: int, size: int, payload: bytes = b"", flags: int = 0) -> bytes:
    """read_in and write_in."""
    return pack("<QQIIQII", fh, offset, size, 0, 0, flags, 0) + payload


def setattr_in(valid: int, *, fh: int = 0, size: int = 0, seconds: int = 0, nanoseconds: int = 0, mode: int = 0,
               owner: int = 0) -> bytes:  # fmt: skip
    """setattr_in, with the same for all three times and both owners."""
    times = (*[seconds] * 3, *[nanoseconds] * 3)
    return pack("<II3Q3Q3I5I", valid, 0, fh, size, 0, *times, mode, 0, owner, owner, 0)


def lock_in(fh: int, kind: int = 0, start: int = 0, end: int = HIGHEST) -> bytes:
    """lk_in."""
    return pack("<QQQQIIII", fh, 1, start, end, kind, 1, 0, 0)


def ioctl_in(fh: int, command: int, *, flags: int = 0, in_size: int = 0, out_size: int = 0) -> bytes:
    """ioctl_in."""
    return pack("<QIIQII", fh, flags, command, 0, in_size, out_size)


def copy_in(fh: int, to_node: int, to_fh: int) -> bytes:
    """copy_file_range_in."""
    return pack("<7Q", fh, 0, to_node, to_fh, 0, 8, 0)


# The same in many requests


def names_in(name: bytes) -> Attack:
    """Every request that carries a name, with ``name`` in each place of it."""
    word = pack("<Q", ROOT_ID)
    rename2 = word + bytes(8)
    return alike(
        request(Opcode.LOOKUP, body=name), request(Opcode.UNLINK, body=name), request(Opcode.RMDIR, body=name),
        request(Opcode.MKDIR, body=MODE_IN + name), request(Opcode.MKNOD, body=MKNOD_IN + name),
        request(Opcode.CREATE, body=CREATE_IN + name), request(Opcode.SYMLINK, body=name + b"target\0"),
        request(Opcode.LINK, body=word + name), request(Opcode.RENAME, body=word + name + b"new\0"),
        request(Opcode.RENAME, body=word + b"old\0" + name), request(Opcode.RENAME2, body=rename2 + name + b"new\0"),
        request(Opcode.RENAME2, body=rename2 + b"old\0" + name),
    )  # fmt: skip


def with_extension(data: bytes) -> Attack:
    """Every request that makes something, with bytes where extensions belong, told of in the header or not."""
    made = {
        Opcode.MKDIR: MODE_IN + b"new\0", Opcode.MKNOD: MKNOD_IN + b"new\0", Opcode.CREATE: CREATE_IN + b"new\0",
        Opcode.SYMLINK: b"new\0target\0", Opcode.TMPFILE: CREATE_IN + b"/\0",
    }  # fmt: skip
    return alike(
        *(request(opcode, body=body + data, extlen=extlen) for opcode, body in made.items()
          for extlen in (0, -(-len(data) // 8), 0xFFFF))
    )  # fmt: skip


def by_node(nodeid: int) -> Attack:
    """Requests that need nothing but a node."""
    name = b"name\0"
    return alike(
        request(Opcode.GETATTR, nodeid, bytes(16)), request(Opcode.LOOKUP, nodeid, name),
        request(Opcode.SETATTR, nodeid, setattr_in(Fattr.MODE)), request(Opcode.READLINK, nodeid),
        request(Opcode.OPEN, nodeid, bytes(8)), request(Opcode.OPENDIR, nodeid, bytes(8)),
        request(Opcode.MKDIR, nodeid, MODE_IN + name), request(Opcode.CREATE, nodeid, CREATE_IN + name),
        request(Opcode.UNLINK, nodeid, name), request(Opcode.LINK, ROOT_ID, pack("<Q", nodeid) + name),
        request(Opcode.RENAME, ROOT_ID, pack("<Q", nodeid) + b"old\0new\0"), request(Opcode.STATFS, nodeid),
        request(Opcode.ACCESS, nodeid, bytes(8)), request(Opcode.TMPFILE, nodeid, CREATE_IN + b"/\0"),
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
        *(request(opcode, nodeid, lock_in(fh)) for opcode in (Opcode.GETLK, Opcode.SETLK, Opcode.SETLKW)),
        request(Opcode.IOCTL, nodeid, ioctl_in(fh, 0x5401)),
    )  # fmt: skip


def by_directory(nodeid: int, fh: int) -> Attack:
    """Requests that need a directory's handle."""
    word = pack("<Q", fh)
    return alike(
        request(Opcode.READDIR, nodeid, io(fh, 0, 4096)), request(Opcode.READDIRPLUS, nodeid, io(fh, 0, 4096)),
        request(Opcode.FSYNCDIR, nodeid, word + bytes(8)), request(Opcode.RELEASEDIR, nodeid, word + bytes(16)),
    )  # fmt: skip
