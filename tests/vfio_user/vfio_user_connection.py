"""The client's end of a vfio-user connection: requests to replies by id, and answers to the server's commands.

Knows nothing of what commands mean but DMA_READ and DMA_WRITE, which are the server's. As in QEMU those wait while a
reply of the server is due: a server that withholds a reply until its DMA is done waits for ever.
"""

import asyncio
import errno
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self

from vfio_user_wire import HEADER, Command, Flag, Message, Wire, close_all, pack

LIMIT = 60.0
"""Seconds after which a reply counts as missing."""
READABLE, WRITABLE = 1, 2
MAX_TRANSFER = 1048576
DMA_HEAD = 16


class Refused(OSError):
    """The server answered with an error; ``errno`` says which."""

    def __init__(self, number: int) -> None:
        super().__init__(number, os.strerror(number))


class Disconnected(ConnectionError):
    """There is no connection any more, and no reply will come."""


class GuestMemory(Protocol):
    """Guest RAM, for the server's DMA commands."""

    def view(self, address: int, size: int) -> memoryview:
        """A range as bytes; raises ValueError where there is none."""
        ...


Hook = Callable[[Message], Awaitable[bytes | None]]
"""Answers a command of the server: gives the reply's payload, or None for no reply; may raise Refused."""


class _Expected(NamedTuple):
    command: int
    largest: int
    reply: "asyncio.Future[Message]"


class _Numbers:
    """Message ids: one counter for all connections, 16 bits wide. It starts shortly before it wraps."""

    def __init__(self) -> None:
        self._next = 0xFFF0

    def take(self) -> int:
        number, self._next = self._next, (self._next + 1) & 0xFFFF
        return number


_numbers = _Numbers()


class Connection:
    """One connection to a server. ``connect`` makes it; use ``async with``, or ``close``."""

    def __init__(self, memory: GuestMemory | None = None) -> None:
        self.memory = memory
        self.mapped: dict[int, tuple[int, int]] = {}
        """What the server may reach: size and flags by address."""
        self.hook: Hook | None = None
        """Takes the place of ``answer``."""
        self.max_transfer = MAX_TRANSFER
        """The largest piece of memory the server may ask for at once."""
        self.denied: list[str] = []
        """What the server asked for that it has no right to."""
        self.commands: list[int] = []
        """What the server asked for by itself."""
        self.closed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Done when the connection has ended; says what the server did wrong, if anything."""
        self.wire: Wire
        """The socket, for what only tests do."""
        self._expected: dict[int, _Expected] = {}
        self._raw: asyncio.Queue[Message] = asyncio.Queue()
        self._deferred: list[Message] = []
        self._answers: set[asyncio.Task[None]] = set()
        self._fds: list[int] = []

    @classmethod
    async def connect(cls, path: str | Path, *, memory: GuestMemory | None = None) -> Self:
        """Connect to a listening server; raises OSError when nobody listens."""
        self = cls(memory)
        self.wire = await Wire.connect(path, self._received, self._ended)
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up and close every descriptor that came."""
        self.wire.close()
        close_all(self._fds)
        self._fds.clear()
        while not self._raw.empty():
            close_all(self._raw.get_nowait().fds)

    @property
    def complaint(self) -> str:
        """What the server did wrong, if it did; the connection ended with it."""
        return self.wire.complaint

    @property
    def strays(self) -> int:
        """Replies to nothing that ``receive_raw`` has not taken."""
        return self._raw.qsize()

    async def wait_closed(self) -> str:
        """Wait until the server has hung up; gives ``complaint``."""
        async with asyncio.timeout(LIMIT):
            return await asyncio.shield(self.closed)

    # -- out --------------------------------------------------------------------------------------

    def send_raw(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Send any bytes, descriptors with the first of them."""
        self.wire.send(data, fds)

    async def receive_raw(self) -> Message:
        """The next reply that no request waits for; close its ``fds``. Raises Disconnected when none can come."""
        waiting = asyncio.ensure_future(self._raw.get())
        either: list[asyncio.Future[Any]] = [waiting, self.closed]
        try:
            async with asyncio.timeout(LIMIT):
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                return waiting.result()
        finally:
            waiting.cancel()
        raise self._disconnected()

    async def request(self, command: int, payload: bytes = b"", *, fds: Sequence[int] = (), room: int = 0) -> Message:
        """Send a command and wait for its reply, which may be ``room`` bytes larger than the request."""
        if not self.wire.open:
            raise self._disconnected()
        number = self._number()
        reply: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._expected[number] = _Expected(command, HEADER.size + len(payload) + room, reply)
        self.wire.send(pack(number, command, payload), fds)
        try:
            async with asyncio.timeout(LIMIT):
                return await reply
        finally:
            self._expected.pop(number, None)

    def post(self, command: int, payload: bytes = b"", *, fds: Sequence[int] = ()) -> None:
        """Send a command that wants no reply."""
        self.wire.send(pack(self._number(), command, payload, flags=Flag.NO_REPLY), fds)

    # -- in ---------------------------------------------------------------------------------------

    def answer(self, message: Message) -> bytes:
        """What a command of the server gets; raises Refused as QEMU does."""
        if message.command not in (Command.DMA_READ, Command.DMA_WRITE):
            raise Refused(errno.ENOSYS)
        address = int.from_bytes(message.payload[:8], "little")
        count = int.from_bytes(message.payload[8:DMA_HEAD], "little")
        data = message.payload[DMA_HEAD:]
        if count > self.max_transfer or (message.command == Command.DMA_WRITE and count != len(data)):
            raise Refused(errno.E2BIG)
        if message.command == Command.DMA_READ:
            return message.payload[:DMA_HEAD] + bytes(self._reachable(address, count, READABLE))
        self._reachable(address, count, WRITABLE)[:] = data
        return message.payload[:DMA_HEAD]

    def _received(self, message: Message) -> None:
        if message.flags & Flag.REPLY:
            self._take_reply(message)
        elif message.fds:
            close_all(message.fds)
            self.wire.fail("descriptors with a command of the server")
        elif self._expected:
            self._deferred.append(message)
        else:
            self._take_command(message)

    def _take_reply(self, message: Message) -> None:
        expected = self._expected.pop(message.id, None)
        if expected is None:
            self._raw.put_nowait(message)
            return
        self._fds += message.fds
        complaint = _objection(message, expected)
        if complaint:
            self.wire.fail(complaint)
        if not expected.reply.done():
            self._settle(message, expected.reply)
        while self._deferred and not self._expected:
            self._take_command(self._deferred.pop(0))

    def _settle(self, message: Message, reply: "asyncio.Future[Message]") -> None:
        if self.complaint:
            reply.set_exception(self._disconnected())
        elif message.flags & Flag.ERROR:
            reply.set_exception(Refused(message.error))
        else:
            reply.set_result(message)

    def _take_command(self, message: Message) -> None:
        self.commands.append(message.command)
        if self.hook is None:
            self._reply(message, lambda: self.answer(message))
            return
        task = asyncio.ensure_future(self._ask_hook(self.hook, message))
        self._answers.add(task)
        task.add_done_callback(self._answers.discard)

    async def _ask_hook(self, hook: Hook, message: Message) -> None:
        try:
            payload = await hook(message)
        except Refused as error:
            self._refuse(message, error)
        else:
            self._reply(message, lambda: payload)

    def _reply(self, message: Message, make: Callable[[], bytes | None]) -> None:
        try:
            payload = make()
        except Refused as error:
            self.denied.append(f"command {message.command}, {message.payload[:DMA_HEAD].hex()}: {error}")
            self._refuse(message, error)
            return
        if payload is not None and not message.flags & Flag.NO_REPLY:
            self.wire.send(pack(message.id, message.command, payload, flags=Flag.REPLY))

    def _refuse(self, message: Message, error: Refused) -> None:
        if not message.flags & Flag.NO_REPLY:
            flags = Flag.REPLY | Flag.ERROR
            self.wire.send(pack(message.id, message.command, flags=flags, error=error.errno or errno.EIO))

    def _ended(self) -> None:
        for task in self._answers:
            task.cancel()
        for expected in self._expected.values():
            if not expected.reply.done():
                expected.reply.set_exception(self._disconnected())
        self._expected.clear()
        if not self.closed.done():
            self.closed.set_result(self.complaint)

    # -- small things -----------------------------------------------------------------------------

    def _reachable(self, address: int, count: int, right: int) -> memoryview:
        for start, (size, flags) in self.mapped.items():
            if start <= address and address + count <= start + size:
                if not flags & right:
                    raise Refused(errno.EPERM)
                if self.memory is not None:
                    return self.memory.view(address, count)
        raise Refused(errno.ENODEV)

    def _number(self) -> int:
        """An id that no reply is due for; 65536 of them never are."""
        while (number := _numbers.take()) in self._expected:
            continue
        return number

    def _disconnected(self) -> Disconnected:
        return Disconnected(self.complaint or "the server hung up")


def _objection(message: Message, expected: _Expected) -> str:
    """What is wrong with a reply, whatever its command."""
    if message.command != expected.command:
        return f"command {expected.command} was answered as {message.command}"
    if message.flags & ~(Flag.REPLY | Flag.ERROR):
        return f"a reply with flags {message.flags:#x}"
    if message.flags & Flag.ERROR and (message.size != HEADER.size or message.fds or not message.error):
        return f"an error reply of {message.size} bytes, {len(message.fds)} descriptors, errno {message.error}"
    if message.size > expected.largest:
        return f"a reply of {message.size} bytes to command {message.command}, which has room for {expected.largest}"
    return ""
