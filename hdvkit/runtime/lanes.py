"""The thread of a lane, and the loop that hears it. Only where the C was built, on Linux."""

import asyncio
import contextlib
import sys
import threading
from collections.abc import Callable
from typing import Final, TypeGuard

from hdvkit.errors import HostError
from hdvkit.memory import Memory, RegionMemory
from hdvkit.native import NativeHandler, NativeListener, native
from hdvkit.virtio import Feature, Ring, RingAddresses

MOST_QUEUES: Final = 64
"""Queues of one device that a lane serves, as lane.h has it; Python serves those behind."""


class LaneThread:
    """Serves a device's queues from a thread of its own, from now until ``aclose``.

    Raises:
        OSError: The process has no more descriptors, or threads.
    """

    def __init__(self, memory: RegionMemory, handler: NativeHandler, name: str) -> None:
        from hdvkit.native.lane import Lane  # only where it was built

        self._lane = Lane(memory)
        self._lane.use(handler)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._lane.news, self._lane.hear)
        self._ended = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name=f"lane {name}", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:
            self._close()
            raise HostError("a thread for the queues of a device cannot be had: the process has too many") from error

    def build_ring(self, index: int, memory: Memory, addresses: RingAddresses, size: int, features: Feature) -> Ring:
        """The ring of a queue; it is served from its ``begin`` to its ``close``.

        Raises:
            GuestError: Its place or size breaks a rule.
        """
        assert memory is self._lane.memory
        return self._lane.build_ring(index, addresses, size, features)

    def listen(self, socket: int, listener: NativeListener, unheard: Callable[[], None]) -> None:
        """Read kicks from a socket, which is at the beginning of a message.

        At the first message that is no kick ``unheard`` is called, and the socket is the caller's again.
        """
        self._lane.listen(socket, listener, unheard)

    def leave(self) -> None:
        """Leave the socket alone from now on; ``unheard`` is not called any more."""
        self._lane.leave()

    async def revoke(self) -> None:
        """From now on nothing is answered by C; when this returns, nothing is being answered either."""
        self._lane.use(None)
        settled = asyncio.Event()
        self._lane.when_settled(settled.set)
        await settled.wait()

    async def aclose(self) -> None:
        """End the thread. No ring is left attached."""
        self._lane.stop()
        await self._ended.wait()
        self._thread.join()
        self._close()

    def _close(self) -> None:
        self._loop.remove_reader(self._lane.news)
        self._lane.close()

    def _run(self) -> None:
        self._lane.run()
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            self._loop.call_soon_threadsafe(self._ended.set)


def lanes_run_here(memory: Memory) -> TypeGuard[RegionMemory]:
    """Whether a lane can serve queues in that memory, or in some of it."""
    return sys.platform == "linux" and isinstance(memory, RegionMemory) and native().used
