"""The lane of a function, its thread, and the loop that hears it. Only where the C was built, on Linux."""

import asyncio
import contextlib
import logging
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Final, TypeGuard

from hdvkit.errors import HostError
from hdvkit.memory import Memory, RegionMemory
from hdvkit.native import NativeHandler, NativeListener, native
from hdvkit.runtime.backend import Slot
from hdvkit.runtime.device import VirtioDevice
from hdvkit.runtime.doorbell import Doorbell
from hdvkit.virtio import Feature, Ring, RingAddresses

log = logging.getLogger("hdvkit.runtime")

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


class FunctionLane:
    """The lane of one function: it is there from its first ring to the next reset, and its slot knows of it."""

    def __init__(
        self, device: VirtioDevice, name: str, doorbells: Sequence[Doorbell], slot: Callable[[], Slot]
    ) -> None:
        self.thread: LaneThread | None = None
        self._device = device
        self._name = name
        self._doorbells = doorbells
        self._slot = slot
        self._served: set[int] = set()
        self._ending: set[asyncio.Task[None]] = set()

    def begin(self) -> LaneThread | None:
        """The thread, which begins now if it has not; None where Python serves: see ``VirtioDevice.native_handler``."""
        memory = self._slot().memory
        if self.thread is None and lanes_run_here(memory) and (handler := self._device.native_handler()) is not None:
            try:
                self.thread = LaneThread(memory, handler, self._name)
            except OSError as error:
                log.warning("%s is served by Python: %s", self._name, error)
        return self.thread

    def serve(self, index: int) -> int:
        """It serves a queue from now on: the eventfd that the queue's kicks are written to; -1 where there is none."""
        self._served.add(index)
        self._tell_slot()
        return self._slot().kick_descriptor(self._doorbells[index])

    def dismiss(self, index: int) -> None:
        """It does not serve a queue any more, if it did."""
        if index in self._served:
            self._served.discard(index)
            self._tell_slot()

    async def revoke(self) -> None:
        """From now on nothing is answered by C; when this returns, nothing is being answered either."""
        if self.thread is not None:
            await self.thread.revoke()

    def end(self) -> None:
        """No ring is attached to it any more; the next driver gets another one."""
        if self.thread is not None:
            self._slot().served_by(None, ())
            task = asyncio.create_task(self.thread.aclose(), name=f"end the lane of {self._name}")
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)
            self.thread = None

    async def ended(self) -> None:
        """Wait until all that were told to end have."""
        await asyncio.gather(*self._ending)

    def _tell_slot(self) -> None:
        if self.thread is not None:
            self._slot().served_by(self.thread, [self._doorbells[index] for index in sorted(self._served)])


def lanes_run_here(memory: Memory) -> TypeGuard[RegionMemory]:
    """Whether a lane can serve queues in that memory, or in some of it."""
    return sys.platform == "linux" and isinstance(memory, RegionMemory) and native().used
