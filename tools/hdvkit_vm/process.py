"""One QEMU process in the event loop: collects what it says, and knows when it is gone. Knows nothing of guests.

Device servers run in the same event loop, and QEMU waits for them while it holds its lock, so nothing here blocks.
"""

import asyncio
import contextlib
import logging
import subprocess
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, BinaryIO, Self, TypeVar, cast

from hdvkit_vm.errors import MachineExited

log = logging.getLogger(__name__)

T = TypeVar("T")

GRACE = 5.0
"""QEMU ends at once when asked, unless it is waiting for a device server: that it does for as long as this."""


class QemuProcess(asyncio.SubprocessProtocol):
    """QEMU with its console on stdout. Use ``start``, and ``stop`` in any case."""

    def __init__(self, tee: BinaryIO | None) -> None:
        self._tee = tee
        self._said = {1: bytearray(), 2: bytearray()}
        self._transport: asyncio.SubprocessTransport | None = None
        self.exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    @classmethod
    async def start(cls, line: Sequence[str], *, tee: BinaryIO | None, fds: Sequence[int] = ()) -> Self:
        """Start it; ``tee`` gets the console as it comes, ``fds`` are inherited."""
        log.debug("> %s", line)
        _, protocol = await asyncio.get_running_loop().subprocess_exec(
            lambda: cls(tee), *line, stdin=subprocess.DEVNULL, pass_fds=fds, start_new_session=True
        )
        return protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        self._transport = cast(asyncio.SubprocessTransport, transport)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """Called by the event loop."""
        self._said[fd] += data
        if fd == 1 and self._tee:
            self._tee.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop when the process has ended and all it said has arrived."""
        assert self._transport is not None
        code = self._transport.get_returncode()
        if not self.exited.done():
            self.exited.set_result(-1 if code is None else code)

    @property
    def console(self) -> str:
        """What the guest has written on its console so far."""
        return self._said[1].decode(errors="replace")

    @property
    def stderr(self) -> str:
        """What QEMU itself had to say so far."""
        return self._said[2].decode(errors="replace")

    def exit_error(self) -> MachineExited:
        """The error that says how it ended. It must have."""
        return MachineExited(self.exited.result(), self.stderr, self.console)

    def on_exit(self, call: Callable[[MachineExited], None]) -> None:
        """Have ``call`` called when it is gone."""
        self.exited.add_done_callback(lambda _: call(self.exit_error()))

    async def unless_exited(self, work: Coroutine[Any, Any, T]) -> T:
        """Await ``work``, unless QEMU ends first.

        Raises:
            MachineExited: It did.
        """
        task = asyncio.ensure_future(work)
        try:
            either: set[asyncio.Future[Any]] = {task, self.exited}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if task.done() and not task.exception():
                return task.result()
            if task.done() and _is_a_lost_connection(task.exception()):
                # It breaks a moment before the process is known to be gone.
                await asyncio.wait({self.exited}, timeout=GRACE)
            if self.exited.done():
                raise self.exit_error() from task.exception() if task.done() else None
            return await task
        finally:
            task.cancel()
            await asyncio.wait({task})

    async def stop(self) -> None:
        """End it, whatever state it is in. Does nothing when it has ended."""
        assert self._transport is not None
        try:
            if not self.exited.done():
                self._transport.terminate()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(GRACE):
                        await asyncio.shield(self.exited)
        finally:
            # Closing kills what still runs, and does not wait for what it may have left unsaid.
            self._transport.close()
            await asyncio.shield(self.exited)


def _is_a_lost_connection(error: BaseException | None) -> bool:
    return isinstance(error, (EOFError, ConnectionError))
