"""The rings of one function and the tasks that serve them: what lives from enable to reset. Loop thread only."""

import asyncio
import logging
import traceback
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Protocol

from hdvkit.errors import GuestError
from hdvkit.memory import Memory
from hdvkit.native import build_ring, suits
from hdvkit.runtime.lanes import MOST_QUEUES, LaneThread
from hdvkit.runtime.queue import Queue, QueueCounters, Turn
from hdvkit.runtime.stats import QueueStats
from hdvkit.virtio import Chain, Feature, RingAddresses

log = logging.getLogger("hdvkit.runtime")


class Owner(Protocol):
    """What a service needs of its function."""

    def lane(self) -> LaneThread | None:
        """The thread that serves the device's queues, where there is one."""
        ...

    def serves(self, queue: Queue) -> Awaitable[None]:
        """The coroutine that answers a queue now."""
        ...

    def serving(self, index: int, active: bool) -> None:
        """A queue begins to be served, or ends."""
        ...

    def kick_descriptor(self, index: int) -> int:
        """An eventfd that kicks of a queue are written to, for the queue alone; -1 where there is none."""
        ...

    def call_descriptor(self, index: int) -> int:
        """An eventfd that interrupts the driver for a queue; -1 where there is none."""
        ...

    def signal(self, index: int) -> None:
        """The driver wants an interrupt for a queue."""
        ...

    def completed(self, queue: Queue, chain: Chain) -> None:
        """A chain went back to the guest."""
        ...

    def failed(self, reason: str) -> None:
        """The device cannot go on until the guest resets it."""
        ...

    def settled(self) -> None:
        """A task ended or the last chain of a closed ring came back: look whether a reset is complete."""
        ...


class Service:
    """Builds rings, serves them, and lets go of them without losing count of what is still out."""

    def __init__(self, names: Sequence[str], owner: Owner, turn: Turn) -> None:
        self.queues: dict[int, Queue] = {}
        """Enabled queues by index."""
        self.counters = [QueueCounters() for _ in names]
        self._names = names
        self._owner = owner
        self._turn = turn
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._draining: set[Queue] = set()

    def build(self, index: int, memory: Memory, addresses: RingAddresses, size: int, features: Feature) -> Queue:
        """Build the ring of an enabled queue.

        Raises:
            GuestError: Its place or size breaks a rule.
            HostError: The platform cannot map it.
        """
        suited = index < MOST_QUEUES and suits(memory, addresses, size, packed=bool(features & Feature.RING_PACKED))
        lane = self._owner.lane() if suited else None
        make = build_ring if lane is None else partial(lane.build_ring, index)
        queue = Queue(
            index,
            self._names[index],
            make(memory, addresses, size, features),
            features,
            self._turn,
            self.counters[index],
            self._owner.signal,
            self._completed,
        )
        queue.ring.on_arrived = queue.wake
        queue.ring.on_signal = partial(self._owner.signal, index)
        queue.ring.on_settled = partial(self._drained, queue)
        self.queues[index] = queue
        return queue

    def start(self, queue: Queue) -> None:
        """Serve a queue, unless that is being done."""
        if queue.index not in self._tasks:
            self._owner.serving(queue.index, active=True)
            queue.ring.interrupt_by(self._owner.call_descriptor(queue.index))
            queue.ring.begin(self._owner.kick_descriptor(queue.index) if queue.ring.waits_for_kicks else -1)
            # A task of our own, cancelled once: a cancel scope repeats itself in every turn of the loop for as long as
            # a slow request takes to end, and that keeps a processor busy.
            task = asyncio.create_task(self._serve(queue), name=f"serve {queue.name}")
            self._tasks[queue.index] = task
            task.add_done_callback(partial(self._ended, queue))

    def start_all(self) -> None:
        """Serve every enabled queue."""
        for queue in tuple(self.queues.values()):
            self.start(queue)

    def interrupts_moved(self) -> None:
        """Eventfds that interrupt the driver may be others now."""
        for index, queue in self.queues.items():
            queue.ring.interrupt_by(self._owner.call_descriptor(index))

    async def stop(self, changed: Callable[[], Awaitable[None]]) -> None:
        """Stop what serves now; the rings stay. ``changed`` waits until something settled.

        A queue that the guest enables meanwhile is served by whoever is in charge by then, and not waited for.
        """
        stopping = dict(self._tasks)
        for task in stopping.values():
            task.cancel()
        while any(self._tasks.get(index) is task for index, task in stopping.items()):
            await changed()

    def close(self, index: int) -> None:
        """The ring is lost: its memory is let go of as soon as the last chain is back."""
        queue = self.queues.pop(index, None)
        if queue is None:
            return
        queue.ring.close()
        self._collect(queue)
        queue.wake()
        if queue.in_flight:
            self._draining.add(queue)
        if task := self._tasks.get(index):
            task.cancel()

    def close_all(self) -> None:
        """All rings are lost."""
        for index in tuple(self.queues):
            self.close(index)

    def stats(self, index: int, kicks: int) -> QueueStats:
        """A snapshot of one queue's counters; kicks are counted by its doorbell."""
        counters = self.counters[index]
        queue = self.queues.get(index)
        if queue is not None:
            self._collect(queue)
        return QueueStats(
            name=self._names[index],
            kicks=kicks + counters.kicks,
            wakeups=counters.wakeups,
            chains=counters.chains,
            taken=counters.taken,
            given=counters.given,
            interrupts=counters.interrupts,
            in_flight=queue.in_flight if queue else 0,
            late=counters.late,
        )

    @property
    def busy(self) -> bool:
        """Whether a task serves a queue."""
        return bool(self._tasks)

    @property
    def idle(self) -> bool:
        """Whether no task and no chain of a closed ring is left."""
        return not self._tasks and not self._draining

    def let_go(self, index: int) -> bool:
        """Whether nothing of a closed queue is left."""
        return index not in self._tasks and all(queue.index != index for queue in self._draining)

    async def _serve(self, queue: Queue) -> None:
        try:
            await self._owner.serves(queue)
        except Exception as error:
            self._blame(queue, error)
            _let_go(error)
        else:
            if not queue.ring.closed and not _cancelling():
                self._owner.failed(f"queue {queue.name!r}: serve() returned while the guest uses the queue")

    def _ended(self, queue: Queue, _: "asyncio.Task[None]") -> None:
        """Also called for a task that was cancelled before its first step."""
        del self._tasks[queue.index]
        self._owner.serving(queue.index, active=False)
        self._owner.settled()

    def _blame(self, queue: Queue, error: Exception) -> None:
        """A serve task failed: its device is marked, nobody else notices."""
        if queue.ring.closed:
            return  # the guest took the queue away while the device was busy with it
        cause = _first(error)
        if isinstance(cause, GuestError):
            self._owner.failed(f"queue {queue.name!r}: {cause}")
        else:
            log.error("serve(%r) failed; its device needs a reset", queue.name, exc_info=error)
            self._owner.failed(f"queue {queue.name!r}: the device failed with {cause!r}")

    def _collect(self, queue: Queue) -> None:
        """Count what a lane has done."""
        work, counters = queue.ring.work(), self.counters[queue.index]
        counters.chains += work.chains
        counters.taken += work.taken
        counters.given += work.given
        counters.interrupts += work.interrupts
        counters.kicks += work.kicks
        counters.wakeups += work.wakeups

    def _completed(self, queue: Queue, chain: Chain) -> None:
        self._owner.completed(queue, chain)
        self._drained(queue)

    def _drained(self, queue: Queue) -> None:
        if queue in self._draining and not queue.in_flight:
            self._draining.discard(queue)
            self._owner.settled()


def _cancelling() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _let_go(error: BaseException) -> None:
    """Drop what the frames of a failure hold: a chain among it would keep the guest's reset waiting."""
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            _let_go(one)
    traceback.clear_frames(error.__traceback__)


def _first(error: BaseException) -> BaseException:
    """The failure inside groups of failures; blame goes to the guest where it was the guest's."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    leaves = [_first(one) for one in error.exceptions]
    return next((leaf for leaf in leaves if isinstance(leaf, GuestError)), leaves[0])
