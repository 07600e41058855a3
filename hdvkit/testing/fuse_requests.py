"""One FUSE request over virtqueues: laid out as Linux's virtio-fs driver does, its reply checked to the byte.

Knows headers, descriptors and errors. What a request means is said in `fuse_files` and `fuse_client`.
"""

import asyncio
from collections.abc import Sequence
from copy import copy
from typing import NamedTuple, Protocol, Self, TypedDict, Unpack

from hdvkit.testing.fuse_errors import guest_error
from hdvkit.testing.fuse_messages import (
    IN_HEADER,
    MAX_ERRNO,
    OPCODE_NAMES,
    OUT_HEADER,
    PAGE_SIZE,
    Opcode,
    ProtocolError,
)
from hdvkit.testing.fuse_session import LINUX_MAX_PAGES, Session


class Reply(Protocol):
    """What came back with the used buffer."""

    @property
    def written(self) -> int:
        """The length in the used ring: how much the device says it wrote."""
        ...

    @property
    def data(self) -> bytes:
        """The writable buffers, joined; at least what was written."""
        ...


class Channel(Protocol):
    """One virtqueue, seen from the driver."""

    async def submit(self, readable: Sequence[bytes], writable: Sequence[int]) -> Reply:
        """Make one chain available, a descriptor for each piece, and wait until the device has used it."""
        ...


class Layout(TypedDict, total=False):
    """How the buffers of a request are laid out, and who asks; every field has a default."""

    reply_size: int  # of the fixed part of the reply, in one descriptor
    read_size: int  # data pages after it; a reply may end anywhere in them
    variable: bool  # the fixed part may come shorter too, as in GETXATTR
    payload: bytes  # data pages after the arguments
    first_page: int  # how much of the payload is in its first page: a write need not begin at a page
    extension: bytes  # after the arguments, a multiple of 8 bytes, told in the header unless the guest is older
    unique: int  # instead of the next one
    uid: int
    gid: int
    pid: int


class Request(NamedTuple):
    """One request, ready to be submitted."""

    opcode: int
    unique: int
    readable: list[bytes]
    writable: list[int]
    least: int  # the shortest reply without an error, headers apart
    most: int


class FuseRequests:
    """Sends requests as one user of the guest and checks what the device answers.

    ``requests`` are the request queues, taken in turn; ``hiprio`` carries FORGET and INTERRUPT. ``minor`` is the
    newest protocol the guest speaks, 27 to 46; ``flags`` what it offers in INIT (Linux's, cut to ``minor``, when
    None); ``max_pages`` what a chain can carry, which is the size of the queue less 4. With ``announces`` False
    headers do not tell how long extensions are, as those of Linux 5.17 to 6.1.109 and 6.2.
    """

    def __init__(
        self,
        requests: Channel | Sequence[Channel],
        hiprio: Channel,
        *,
        minor: int = 38,
        flags: int | None = None,
        max_pages: int = LINUX_MAX_PAGES,
        announces: bool = True,
    ) -> None:
        self._queues = [*requests] if isinstance(requests, Sequence) else [requests]
        self._hiprio = hiprio
        self.session = Session(minor, flags, max_pages)
        self.uid = self.gid = 0
        self.pid = 1
        self.groups: tuple[int, ...] = ()
        self.security: tuple[tuple[bytes, bytes], ...] = ()
        self._announces = announces

    def as_user(
        self,
        uid: int,
        gid: int,
        *,
        pid: int = 1,
        groups: Sequence[int] = (),
        security: Sequence[tuple[bytes, bytes]] = (),
    ) -> Self:
        """Return a view of the same session whose requests carry these numbers.

        With requests that make something go, where that was agreed, further ``groups`` of the caller, and
        ``security``: names and values of extended attributes that a new file is born with.
        """
        view = copy(self)
        view.uid, view.gid, view.pid = uid, gid, pid
        view.groups, view.security = tuple(groups), tuple(security)
        return view

    async def call(
        self, opcode: int, nodeid: int, body: bytes | Sequence[bytes] = b"", **layout: Unpack[Layout]
    ) -> bytes:
        """Send any request and return what follows the out header.

        Linux puts all arguments in one descriptor: give them as bytes. A sequence becomes one descriptor each.

        Raises:
            OSError: The device answered with an error; the class fits it (FileNotFoundError and so on).
            ProtocolError: The reply breaks the protocol.
        """
        return await self._exchange(self._lay_out(opcode, nodeid, body, **layout))

    def start_call(
        self, opcode: int, nodeid: int, body: bytes | Sequence[bytes] = b"", **layout: Unpack[Layout]
    ) -> tuple[int, asyncio.Task[bytes]]:
        """Start a request and return its unique at once, for ``interrupt``; await the task for the answer."""
        request = self._lay_out(opcode, nodeid, body, **layout)
        return request.unique, asyncio.create_task(self._exchange(request))

    async def tell(self, opcode: int, nodeid: int, body: bytes) -> None:
        """Send a request that has no answer on hiprio, in one descriptor as Linux does.

        Raises:
            ProtocolError: The device claims to have written into a chain without a writable part.
        """
        request = self._lay_out(opcode, nodeid, body, uid=0, gid=0, pid=0)
        reply = await self._hiprio.submit([b"".join(request.readable)], ())
        if reply.written:
            raise ProtocolError(f"{_describe(request)} has no answer, yet {reply.written} bytes came back")

    async def interrupt(self, unique: int) -> None:
        """Ask the device to give up the request ``unique``; that request is then answered, perhaps with EINTR.

        Linux's driver never does this on virtio-fs. The chain offers room for a header, and a device may return
        it empty or answer: EAGAIN is the protocol's "not seen yet, ask again".
        """
        request = self._lay_out(Opcode.INTERRUPT, 0, unique.to_bytes(8, "little"), unique=unique | 1)
        reply = await self._hiprio.submit(request.readable, request.writable)
        if reply.written:
            check(request, reply)

    async def _exchange(self, request: Request) -> bytes:
        queue = self._queues[(request.unique >> 1) % len(self._queues)]
        reply = await queue.submit(request.readable, request.writable)
        try:
            return check(request, reply)
        except OSError:
            self.session.refused[_name(request.opcode)] += 1
            raise

    def _lay_out(
        self,
        opcode: int,
        nodeid: int,
        body: bytes | Sequence[bytes] = b"",
        *,
        reply_size: int = 0,
        read_size: int = 0,
        variable: bool = False,
        payload: bytes = b"",
        first_page: int = PAGE_SIZE,
        extension: bytes = b"",
        unique: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        pid: int | None = None,
    ) -> Request:
        """Build header | arguments | pages, and the sizes of out header | fixed reply | pages."""
        session = self.session
        session.requests[_name(opcode)] += 1
        if unique is None:
            unique = next(session.uniques)
        arguments = [body + extension] if isinstance(body, bytes) else [*body, extension]
        pieces = [*filter(None, arguments), *cut_pages(payload, first_page)]
        header = IN_HEADER.pack(
            IN_HEADER.size + sum(map(len, pieces)),
            opcode,
            unique,
            nodeid,
            self.uid if uid is None else uid,
            self.gid if gid is None else gid,
            self.pid if pid is None else pid,
            len(extension) // 8 if self._announces else 0,
            0,
        )
        whole, rest = divmod(read_size, PAGE_SIZE)
        writable = [OUT_HEADER.size, *filter(None, (reply_size, *[PAGE_SIZE] * whole, rest))]
        least = 0 if variable else reply_size
        return Request(opcode, unique, [header, *pieces], writable, least, reply_size + read_size)


def check(request: Request, reply: Reply) -> bytes:
    """Return what follows the out header, by the rules Linux's FUSE applies to a reply.

    Its virtio-fs driver believes unique and length unseen; here they are checked as on /dev/fuse.

    Raises:
        OSError: The device answered with an error.
        ProtocolError: The reply breaks a rule.
    """
    written, data = reply.written, reply.data
    if written < OUT_HEADER.size or len(data) < written or written > sum(request.writable):
        raise ProtocolError(f"{_describe(request)}: {written} bytes used, {len(data)} came back")
    length, error, unique = OUT_HEADER.unpack_from(data)
    if unique != request.unique:
        raise ProtocolError(f"{_describe(request)}: the reply is for {unique}")
    if length != written:
        raise ProtocolError(f"{_describe(request)}: the reply says {length} bytes, the used ring {written}")
    if error:
        if not -MAX_ERRNO <= error < 0 or length != OUT_HEADER.size:
            raise ProtocolError(f"{_describe(request)}: error {error} in a reply of {length} bytes")
        raise guest_error(-error)
    if not request.least <= length - OUT_HEADER.size <= request.most:
        expected = f"{request.least} to {request.most}"
        raise ProtocolError(f"{_describe(request)}: {length - OUT_HEADER.size} bytes, expected {expected}")
    return data[OUT_HEADER.size : length]


def cut_pages(data: bytes, first: int = PAGE_SIZE) -> list[bytes]:
    """Cut data as it lies in the page cache, ``first`` bytes of it in the first page."""
    if len(data) <= first:
        return [data] if data else []
    return [data[:first], *(data[at : at + PAGE_SIZE] for at in range(first, len(data), PAGE_SIZE))]


def _name(opcode: int) -> str:
    return OPCODE_NAMES.get(opcode) or f"opcode {opcode}"


def _describe(request: Request) -> str:
    return f"{_name(request.opcode)} {request.unique}"
