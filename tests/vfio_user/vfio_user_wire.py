"""One vfio-user socket: bytes and file descriptors to messages and back. Knows no command's payload.

Written from the protocol's specification alone, and as strict as QEMU's client: what that one dies of ends the
connection here too, with the reason in ``complaint``.
"""

import asyncio
import contextlib
import enum
import os
import socket
import struct
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

HEADER = struct.Struct("<HHIII")  # id, command, size of the whole message, flags, error
MAX_FDS = 16
MAX_SIZE = 16 << 20
"""More than any reply has, so that a wrong size is noticed before it is waited for."""
BURST = 64
"""Messages taken in one turn of the loop, so that others get their turn too."""


class Command(enum.IntEnum):
    """The protocol's commands."""

    VERSION = 1
    DMA_MAP = 2
    DMA_UNMAP = 3
    DEVICE_GET_INFO = 4
    DEVICE_GET_REGION_INFO = 5
    DEVICE_GET_REGION_IO_FDS = 6
    DEVICE_GET_IRQ_INFO = 7
    DEVICE_SET_IRQS = 8
    REGION_READ = 9
    REGION_WRITE = 10
    DMA_READ = 11
    DMA_WRITE = 12
    DEVICE_RESET = 13
    REGION_WRITE_MULTI = 15
    DEVICE_FEATURE = 16


class Flag(enum.IntFlag):
    """Header flags; no flag at all is a command that wants its reply."""

    REPLY = 0x1
    NO_REPLY = 0x10
    ERROR = 0x20


class Message(NamedTuple):
    """One message as it came, header first; whoever takes it closes ``fds``."""

    id: int
    command: int
    size: int
    flags: int
    error: int
    payload: bytes
    fds: list[int]


def pack(number: int, command: int, payload: bytes = b"", *, flags: int = 0, error: int = 0) -> bytes:
    """A whole message with a header that tells the truth about its size."""
    return HEADER.pack(number, command, HEADER.size + len(payload), flags, error) + payload


def close_all(fds: Sequence[int]) -> None:
    """Close descriptors."""
    for fd in fds:
        os.close(fd)


class Wire:
    """A connected socket, read as soon as something comes. ``close`` it.

    ``received`` is called with each message in order, ``ended`` once, when no more can come.
    """

    def __init__(self, sock: socket.socket, received: Callable[[Message], None], ended: Callable[[], None]) -> None:
        self.complaint = ""
        """What the peer did wrong, if that is why the connection ended."""
        self.open = True
        self._sock = sock
        self._received = received
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._head = b""
        self._body = bytearray()
        self._fds: list[int] = []
        self._outgoing: deque[tuple[memoryview, list[int]]] = deque()
        self._loop.add_reader(sock, self._readable)

    @classmethod
    async def connect(cls, path: str | Path, received: Callable[[Message], None], ended: Callable[[], None]) -> "Wire":
        """Connect to a listening server; raises OSError when nobody listens."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            await asyncio.get_running_loop().sock_connect(sock, str(path))
        except BaseException:
            sock.close()
            raise
        return cls(sock, received, ended)

    def send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Send bytes, descriptors with the first of them; what does not fit now goes later, in order."""
        if not self.open:
            return
        self._outgoing.append((memoryview(data), [os.dup(fd) for fd in fds]))
        if len(self._outgoing) == 1:
            self._flush()

    def pause_reading(self) -> None:
        """Leave what comes in the socket's buffer, as a peer does that is busy."""
        self._loop.remove_reader(self._sock)

    def resume_reading(self) -> None:
        """Undo ``pause_reading``."""
        self._loop.add_reader(self._sock, self._readable)

    def shut_down_sending(self) -> None:
        """Say that nothing more will come; replies still arrive."""
        self._sock.shutdown(socket.SHUT_WR)

    def fail(self, complaint: str) -> None:
        """The peer broke a rule: say which, and hang up."""
        self.complaint = self.complaint or complaint
        self.close()

    def close(self) -> None:
        """Hang up; doing it twice is harmless."""
        if not self.open:
            return
        self.open = False
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        self._sock.close()
        close_all(self._fds)
        for _, fds in self._outgoing:
            close_all(fds)
        self._outgoing.clear()
        self._ended()

    # -- out --------------------------------------------------------------------------------------

    def _flush(self) -> None:
        try:
            while self._outgoing:
                self._send_some()
        except BlockingIOError:
            self._loop.add_writer(self._sock, self._flush)
            return
        except OSError:  # the peer is gone; what it sent before is still to be read, then comes the end
            while self._outgoing:
                close_all(self._outgoing.popleft()[1])
        self._loop.remove_writer(self._sock)

    def _send_some(self) -> None:
        data, fds = self._outgoing[0]
        sent = socket.send_fds(self._sock, [data], fds) if fds else self._sock.send(data)
        close_all(fds)
        if sent == len(data):
            self._outgoing.popleft()
        else:
            self._outgoing[0] = data[sent:], []

    # -- in ---------------------------------------------------------------------------------------

    def _readable(self) -> None:
        with contextlib.suppress(BlockingIOError):
            for _ in range(BURST):
                if not self.open or not self._receive():
                    return

    def _receive(self) -> bool:
        """Take a header or some of a body; gives whether there may be more."""
        try:
            data, fds, flags, _ = socket.recv_fds(self._sock, self._wanted(), MAX_FDS, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            raise
        except OSError:
            data, fds, flags = b"", [], 0
        if not data:
            self._end()
            return False
        self._fds += fds
        if flags & socket.MSG_CTRUNC:
            self.fail(f"more than {MAX_FDS} descriptors in one message")
        elif not self._head:
            self._take_head(data)
        else:
            self._take_body(data, fds)
        return self.open

    def _wanted(self) -> int:
        """Never more than the rest of one message, so that descriptors are its own."""
        return HEADER.unpack(self._head)[2] - HEADER.size - len(self._body) if self._head else HEADER.size

    def _take_head(self, data: bytes) -> None:
        if len(data) < HEADER.size:
            self.fail(f"the first {len(data)} bytes of a header came alone")
            return
        size = HEADER.unpack(data)[2]
        if not HEADER.size <= size <= MAX_SIZE:
            self.fail(f"a header that says {size} bytes")
            return
        self._head = data
        self._finish()

    def _take_body(self, data: bytes, fds: list[int]) -> None:
        if fds:
            self.fail("descriptors came after the first byte of their message")
            return
        self._body += data
        self._finish()

    def _finish(self) -> None:
        """Hand the message over if it is whole."""
        if self._wanted():
            return
        number, command, size, flags, error = HEADER.unpack(self._head)
        message = Message(number, command, size, flags, error, bytes(self._body), self._fds)
        self._head, self._body, self._fds = b"", bytearray(), []
        self._received(message)

    def _end(self) -> None:
        if self._head:
            self.fail(f"the end came within a message, {self._wanted()} bytes before its own")
        else:
            self.close()
