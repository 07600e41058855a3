"""One client's connection, without a socket: bytes and descriptors in, requests out, answers to be sent.

Whoever holds the socket calls :meth:`Connection.receive_data` with what one ``recvmsg`` gave, carries out the
requests it returns, answers each, and then sends what :meth:`Connection.data_to_send` returns, each piece in one
``sendmsg``. Descriptors are numbers here; every one that comes in is handed out or listed in ``unwanted_fds``,
exactly once.
"""

import errno
from collections import deque
from enum import Enum
from typing import Final, NamedTuple

from hdvkit_vfio_user.protocol import spec, version
from hdvkit_vfio_user.protocol.messages import Message, Refused, SetIrqsRequest, decode
from hdvkit_vfio_user.protocol.spec import HEADER, TYPE_MASK, Command, Flag, SetIrqs

_WITH_FDS: Final[dict[int, int]] = {Command.DMA_MAP: 1, Command.DEVICE_SET_IRQS: spec.MAX_FDS}
"""Which requests may carry descriptors, and how many."""
MAX_ASKED: Final = 32768
"""Requests of ours that may wait for an answer: half of the numbers they can have."""
MAX_ERRNO: Final = 4095
"""The largest error number of Linux."""


class State(Enum):
    """Where a connection stands."""

    NEW = "waiting for VERSION"
    OPEN = "agreed"
    CLOSED = "over"


class Request(NamedTuple):
    """Something the client wants. Answer it with ``Connection.reply`` or ``refuse``, now or later."""

    id: int
    command: int
    wants_reply: bool
    message: Message
    fds: tuple[int, ...]
    """Yours to close."""


class Answer(NamedTuple):
    """The client's answer to a request of ours."""

    id: int
    errno: int
    data: bytes
    """What was asked for, exactly as much as that; nothing for a write."""


class Piece(NamedTuple):
    """What goes out in one ``sendmsg``: the descriptors belong to its first byte."""

    data: bytes
    fds: tuple[int, ...] = ()


class _Raw(NamedTuple):
    """A whole message, not looked into yet."""

    id: int
    command: int
    flags: int
    error: int
    payload: bytes
    fds: tuple[int, ...]


class Connection:
    """The server's side of one connection. With ``refuses``, an errno, it is over once the client was told that."""

    def __init__(self, refuses: int = 0) -> None:
        self._refuses = refuses
        self.state = State.NEW
        self.reason = ""
        """Why the connection is over, when it is."""
        self.limits = version.Limits(1, spec.MAX_TRANSFER)
        self._buffer = bytearray()
        self._offset = 0  # of the first byte of the buffer in the stream
        self._fds: deque[tuple[int, tuple[int, ...]]] = deque()
        self._out: deque[Piece] = deque()
        self._unwanted: list[int] = []
        self._asked: dict[int, tuple[int, bytes]] = {}
        self._next_id = 0

    # In

    def receive_data(self, data: bytes, fds: tuple[int, ...] = ()) -> list[Request | Answer]:
        """Take what one ``recvmsg`` gave; no data means that the client is gone. Never raises.

        Afterwards send what is to be sent, close the unwanted descriptors, and the socket if the state is CLOSED.
        """
        if fds:
            self._fds.append((self._offset + len(self._buffer) + len(data), fds))
        if not data:
            self._close("the client closed the connection")
        self._buffer += data
        events: list[Request | Answer] = []
        while self.state is not State.CLOSED and (raw := self._next_message()) is not None:
            event = self._take(raw)
            if event is not None:
                events.append(event)
        if sum(len(fds) for _, fds in self._fds) > spec.MAX_FDS:
            self._close(f"more than {spec.MAX_FDS} descriptors came with parts of one message")
        if self.state is State.CLOSED:
            self._drop_input()
        return events

    @property
    def between_messages(self) -> bool:
        """Whether the next byte that comes begins a message."""
        return self.state is State.OPEN and not self._buffer and not self._fds

    def unwanted_fds(self) -> list[int]:
        """Descriptors that came with messages they do not belong to: close them."""
        fds, self._unwanted = self._unwanted, []
        return fds

    # Out

    def reply(self, request: Request, payload: bytes = b"", fds: tuple[int, ...] = ()) -> None:
        """Answer a request; nothing is sent when the client did not want that."""
        if request.wants_reply:
            self._send(request.id, request.command, Flag.REPLY, 0, payload, fds)

    def refuse(self, request: Request, code: int) -> None:
        """Answer a request with an errno; nothing is sent when the client did not want an answer."""
        if request.wants_reply:
            self._send(request.id, request.command, Flag.REPLY | Flag.ERROR, code)

    def ask_read(self, address: int, count: int) -> int:
        """Ask for guest memory; an :class:`Answer` of the id that is returned brings it. -1 when it is all over."""
        return self._ask(Command.DMA_READ, spec.DMA_ACCESS.pack(address, count), b"")

    def ask_write(self, address: int, data: bytes) -> int:
        """Ask to write guest memory; an :class:`Answer` of the id that is returned says how it went. -1 as above."""
        return self._ask(Command.DMA_WRITE, spec.DMA_ACCESS.pack(address, len(data)), data)

    def data_to_send(self) -> list[Piece]:
        """What is to be sent now, in this order."""
        pieces = list(self._out)
        self._out.clear()
        return pieces

    # Inside

    def _next_message(self) -> _Raw | None:
        if len(self._buffer) < HEADER.size:
            return None
        ident, command, size, flags, error = HEADER.unpack_from(self._buffer)
        if not HEADER.size <= size <= spec.MAX_MESSAGE:
            self._close(f"a message of {size} bytes; between {HEADER.size} and {spec.MAX_MESSAGE} are allowed")
            return None
        if len(self._buffer) < size:
            return None
        payload = bytes(self._buffer[HEADER.size : size])
        del self._buffer[:size]
        self._offset += size
        return _Raw(ident, command, flags, error, payload, self._fds_up_to(self._offset))

    def _fds_up_to(self, offset: int) -> tuple[int, ...]:
        """Descriptors of the message that ends at ``offset``.

        A ``recvmsg`` stops behind the bytes that descriptors came with, so they belong to the message that holds the
        last byte of what it gave.
        """
        fds: tuple[int, ...] = ()
        while self._fds and self._fds[0][0] <= offset:
            fds += self._fds.popleft()[1]
        return fds

    def _take(self, raw: _Raw) -> Request | Answer | None:
        if raw.flags & TYPE_MASK == Flag.REPLY:
            self._unwanted += raw.fds
            return self._answered(raw)
        wants_reply = not raw.flags & Flag.NO_REPLY
        try:
            if self.state is State.NEW:
                self._agree(raw)
                return None
            return Request(raw.id, raw.command, wants_reply, _decode(raw), raw.fds)
        except Refused as refused:
            self._unwanted += raw.fds
            if wants_reply:
                self._send(raw.id, raw.command, Flag.REPLY | Flag.ERROR, refused.errno)
            if self.state is State.NEW:
                self._close(f"the first message, command {raw.command}, was no VERSION {spec.MAJOR} that we understand")
            return None

    def _agree(self, raw: _Raw) -> None:
        if raw.command != Command.VERSION or raw.flags or raw.fds:
            raise Refused(errno.EINVAL)
        if self._refuses:
            raise Refused(self._refuses)
        self.limits = version.accept(raw.payload)
        self.state = State.OPEN
        self._send(raw.id, raw.command, Flag.REPLY, 0, version.answer())

    def _answered(self, raw: _Raw) -> Answer | None:
        command, asked = self._asked.pop(raw.id, (-1, b""))
        if command != raw.command:
            self._close(f"a reply to a request that was not made: id {raw.id}, command {raw.command}")
            return None
        if raw.flags & Flag.ERROR:
            return Answer(raw.id, raw.error if 0 < raw.error <= MAX_ERRNO else errno.EIO, b"")
        wanted = spec.DMA_ACCESS.unpack(asked)[1] if command == Command.DMA_READ else 0
        data = raw.payload[len(asked) :]
        if not raw.payload.startswith(asked) or len(data) != wanted:
            self._close(f"a reply of {len(raw.payload)} bytes to command {command} does not fit its request")
            return None
        return Answer(raw.id, 0, data)

    def _ask(self, command: Command, access: bytes, data: bytes) -> int:
        if len(self._asked) >= MAX_ASKED:
            self._close(f"the client leaves {MAX_ASKED} requests unanswered")
        if self.state is State.CLOSED:
            return -1
        while self._next_id in self._asked:
            self._next_id = (self._next_id + 1) & 0xFFFF
        ident, self._next_id = self._next_id, (self._next_id + 1) & 0xFFFF
        self._asked[ident] = (command, access)
        self._send(ident, command, 0, 0, access + data)
        return ident

    def _send(
        self, ident: int, command: int, flags: int, error: int, payload: bytes = b"", fds: tuple[int, ...] = ()
    ) -> None:
        header = HEADER.pack(ident, command, HEADER.size + len(payload), flags, error)
        self._out.append(Piece(header + payload, fds))

    def _close(self, reason: str) -> None:
        if self.state is not State.CLOSED:
            self.state = State.CLOSED
            self.reason = reason

    def _drop_input(self) -> None:
        self._buffer.clear()
        while self._fds:
            self._unwanted += self._fds.popleft()[1]


def _decode(raw: _Raw) -> Message:
    if raw.flags & TYPE_MASK:
        raise Refused(errno.EINVAL)
    message = decode(raw.command, raw.payload)
    if len(raw.fds) > _WITH_FDS.get(raw.command, 0):
        raise Refused(errno.EINVAL)
    if raw.fds and isinstance(message, SetIrqsRequest) and not _fits(message, len(raw.fds)):
        raise Refused(errno.EINVAL)
    return message


def _fits(message: SetIrqsRequest, fds: int) -> bool:
    """One descriptor for each vector; none at all, which takes them away, is fine too."""
    return message.data is SetIrqs.DATA_EVENTFD and message.number == fds
