"""DMA_READ and DMA_WRITE as futures: guest memory that a client reads and writes for us. Loop thread only.

Requests are carried out in the order of the calls.
"""

import asyncio
import os
from collections.abc import Callable, Iterator

from hdvkit import HostError
from hdvkit_vfio_user.protocol import Answer, Connection


class Transfers:
    """What was asked of one client. ``flush`` sends what the connection has to send."""

    def __init__(self, connection: Connection, flush: Callable[[], None]) -> None:
        self._connection = connection
        self._flush = flush
        self._loop = asyncio.get_running_loop()
        self._asked: dict[int, asyncio.Future[bytes]] = {}
        self._flushing = False

    def read(self, address: int, size: int) -> "asyncio.Future[bytes]":
        """Ask for guest memory. The future raises HostError when the client refuses or goes away."""
        pieces = [self._ask(self._connection.ask_read(address + at, some)) for at, some in self._pieces(size)]
        return asyncio.ensure_future(_join(pieces)) if len(pieces) > 1 else pieces[0]

    def write(self, address: int, data: bytes) -> "asyncio.Future[bytes]":
        """Write guest memory; the future is done when it is written. What fails only fails the guest."""
        for at, some in self._pieces(len(data)):
            written = self._ask(self._connection.ask_write(address + at, data[at : at + some]))
        return written

    def answered(self, answer: Answer) -> None:
        """The client answered."""
        asked = self._asked.pop(answer.id, None)
        if asked is None or asked.done():
            return
        if answer.errno:
            asked.set_exception(HostError(answer.errno, f"the machine refused: {os.strerror(answer.errno)}"))
        else:
            asked.set_result(answer.data)

    def close(self) -> None:
        """The client is gone: nothing will be answered any more."""
        for asked in self._asked.values():
            asked.cancel()
        self._asked.clear()

    def _ask(self, ident: int) -> "asyncio.Future[bytes]":
        asked: asyncio.Future[bytes] = self._loop.create_future()
        asked.add_done_callback(_look_at)
        if ident < 0:
            asked.cancel()
        else:
            self._asked[ident] = asked
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._send)
        return asked

    def _send(self) -> None:
        self._flushing = False
        self._flush()

    def _pieces(self, size: int) -> Iterator[tuple[int, int]]:
        most = self._connection.limits.max_data_xfer_size
        return ((start, min(most, size - start)) for start in range(0, size, most))


async def _join(pieces: list["asyncio.Future[bytes]"]) -> bytes:
    return b"".join(await asyncio.gather(*pieces))


def _look_at(asked: "asyncio.Future[bytes]") -> None:
    """Nobody has to wait for a write, so nobody need hear of its failure."""
    if not asked.cancelled():
        asked.exception()
