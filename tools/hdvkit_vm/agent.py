"""The host's end of the command channel: scripts go into the guest, exit codes and output come back.

The other end is ``guest/agent.sh``, where the protocol is described. Knows a byte stream, not what carries it; waiting
has no limit here, and whoever owns the virtual machine must call ``fail`` when it is gone.
"""

import asyncio
import base64
import itertools
import re
from collections import deque
from collections.abc import Callable
from typing import cast

import attrs

from hdvkit_vm.errors import GuestRestarted, MachineError

LINE = re.compile(rb"@ready (?P<boot>[\w-]+)|=(?P<id>\w+) (?P<code>\d+) (?P<output>[A-Za-z0-9+/=]*)")

MAX_SCRIPT = 32 * 1024
"""A guest's serial port keeps 64 KiB that nobody has read yet, and drops the rest; in base64 this much still fits."""

NUDGE = 5.0
"""Seconds after which a guest that has not said that it read a line is asked again: serial ports under emulation lose
a byte now and then, when both directions are busy."""


@attrs.frozen
class Ready:
    """The guest has booted, and its agent listens."""

    boot: str


@attrs.frozen
class Taken:
    """The guest has read a line and can take the next."""


@attrs.frozen
class Reply:
    """A script has ended."""

    id: str
    code: int
    output: bytes


class Lines:
    """Bytes from the guest in, what they say out. What is no line of the agent's is ignored."""

    def __init__(self) -> None:
        self._unfinished = bytearray()

    def feed(self, data: bytes) -> list[Ready | Taken | Reply]:
        """Take bytes, cut anywhere, and return what became complete."""
        # The guest says this even while it is busy with a long line.
        said: list[Ready | Taken | Reply] = [Taken()] * data.count(b"!")
        self._unfinished += data.replace(b"!", b"")
        if b"\n" in data:
            *lines, rest = bytes(self._unfinished).split(b"\n")
            self._unfinished = bytearray(rest)
            said += [_meaning(found) for line in lines if (found := LINE.fullmatch(line))]
        return said


def _meaning(found: re.Match[bytes]) -> Ready | Reply:
    if found["boot"]:
        return Ready(found["boot"].decode())
    return Reply(found["id"].decode(), int(found["code"]), base64.b64decode(found["output"]))


def request(number: str, script: str) -> bytes:
    """The line that has a script run.

    Raises:
        MachineError: It is too long for the port.
    """
    data = script.encode()
    if len(data) > MAX_SCRIPT:
        raise MachineError(f"a script of {len(data)} bytes is too long, {MAX_SCRIPT} fit: share a directory instead")
    return b"%s %s\n" % (number.encode(), base64.b64encode(data) or b"Og==")  # an empty script is ":"


@attrs.frozen(eq=False)
class Command:
    """A script that was sent; ``reply`` comes true when it has ended."""

    id: str
    script: str
    reply: asyncio.Future[Reply]


class Agent(asyncio.Protocol):
    """The channel to one virtual machine, over all boots of its guest."""

    def __init__(self) -> None:
        self.boots = 0
        self._booted = asyncio.Event()
        self._lines = Lines()
        self._numbers = itertools.count(1)
        self._unsent: deque[bytes] = deque()
        self._ready = False  # for one line
        self._sent = ""  # the number in the last
        self._running: dict[str, Command] = {}
        self._transport: asyncio.WriteTransport | None = None
        self._failed: MachineError | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        self._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        for said in self._lines.feed(data):
            match said:
                case Ready():
                    self._restart()
                case Taken():
                    self._ready = True
                case Reply():
                    self._replied(said)
        self._send()

    def start(self, script: str) -> Command:
        """Send a script; it runs beside all others.

        Raises:
            MachineError: The machine is gone or not there yet, or the script is too long.
        """
        if self._failed:
            raise self._failed
        if self._transport is None:
            raise MachineError("the virtual machine has not been started: use async with")
        command = Command(str(next(self._numbers)), script, asyncio.get_running_loop().create_future())
        self._unsent.append(request(command.id, script))
        self._running[command.id] = command
        command.reply.add_done_callback(lambda _: self._running.pop(command.id, None))
        self._send()
        return command

    async def wait_boots(self, count: int) -> None:
        """Wait until the guest has booted so many times."""
        while self.boots < count:
            await self._booted.wait()

    def fail(self, error: MachineError) -> None:
        """The machine is gone: fail what runs and what will be started."""
        self._failed = error
        self._fail_running(lambda command: error)

    def close(self) -> None:
        """Close the channel. Call in any case, in the end."""
        if self._transport:
            self._transport.close()

    def _replied(self, reply: Reply) -> None:
        self._ready = self._ready or reply.id == self._sent
        command = self._running.get(reply.id)
        if command and not command.reply.done():
            command.reply.set_result(reply)

    def _send(self) -> None:
        if self._transport and self._ready and self._unsent:
            self._ready = False
            line = self._unsent.popleft()
            self._sent = line.split()[0].decode()
            self._transport.write(line)
            self._nudge_later()

    def _nudge_later(self) -> None:
        asyncio.get_running_loop().call_later(NUDGE, self._nudge, self._sent)

    def _nudge(self, sent: str) -> None:
        """Have the guest say again that it takes lines. If it has not read the last, this one is lost in it."""
        if self._transport and not self._failed and not self._ready and self._sent == sent:
            self._transport.write(b"\n")
            self._nudge_later()

    def _restart(self) -> None:
        self._unsent.clear()
        self._fail_running(lambda command: GuestRestarted(command.script))
        self._ready = True
        self.boots += 1
        self._booted.set()
        self._booted = asyncio.Event()

    def _fail_running(self, reason: Callable[[Command], MachineError]) -> None:
        for command in list(self._running.values()):
            if not command.reply.done():
                command.reply.set_exception(reason(command))
                command.reply.exception()  # nobody may be waiting, which is no mistake
        self._running.clear()
