"""A virtqueue as a device author sees it: an async iterator of chains.

Iteration hides arming, the second look, sleeping, and taking turns with other devices.
"""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import attrs

from hdvkit.errors import GuestError
from hdvkit.memory import MemoryArriving, MemoryBusy
from hdvkit.virtio.chain import Chain
from hdvkit.virtio.ring import Ring
from hdvkit.virtio.spec import Feature

BUDGET = 64
"""Chains that one device may take before others have their turn."""
MAX_EMPTY_LOOKS = 16
"""How often a ring may say "there is more" and have nothing, before its driver is taken for a liar."""


Answer = Callable[[Chain], Coroutine[Any, Any, None] | None]
"""Begins to answer a chain; an async function will do."""


class Turn:
    """The budget of one device: so many chains, then everybody else on the loop goes first."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.out = 0
        """Chains the device holds, of all its queues."""
        self._loop = loop
        self._returned = asyncio.Event()
        self._left = BUDGET
        self._refill: asyncio.Future[None] | None = None

    def take(self) -> bool:
        """Take one from the budget; False when the device has to wait for ``next``."""
        if not self._left:
            return False
        self._left -= 1
        return True

    def taken(self) -> None:
        """The device took a chain."""
        self.out += 1

    def returned(self) -> None:
        """A chain went back."""
        self.out -= 1
        self._returned.set()

    async def wait_returned(self) -> None:
        """Wait until some chain went back."""
        self._returned.clear()
        await self._returned.wait()

    async def next(self) -> None:
        """Wait until the others had their turn."""
        if self._refill is None:
            self._refill = self._loop.create_future()
            self._loop.call_soon(self._begin)
        await asyncio.shield(self._refill)

    def _begin(self) -> None:
        self._left = BUDGET
        refill, self._refill = self._refill, None
        if refill is not None and not refill.done():
            refill.set_result(None)


@attrs.define
class QueueCounters:
    """What one queue has done since its function was added, over all resets."""

    chains: int = 0
    taken: int = 0
    given: int = 0
    wakeups: int = 0
    interrupts: int = 0
    kicks: int = 0
    """Those that no doorbell heard."""
    late: int = 0


class Queue:
    """One virtqueue, from enable to reset. Iterate it; each chain is yours until you complete it.

    Raises (from iteration):
        GuestError: The driver broke a rule. Let it pass: the device is then marked DEVICE_NEEDS_RESET.
    """

    def __init__(
        self,
        index: int,
        name: str,
        ring: Ring,
        features: Feature,
        turn: Turn,
        counters: QueueCounters,
        signal: Callable[[int], None],
        completed: Callable[["Queue", Chain], None],
    ) -> None:
        self.index = index
        self.name = name
        self.size = ring.size
        self.features = features
        """What the driver accepted, for a device whose answers depend on it."""
        self.ring = ring
        self.counters = counters
        self._turn = turn
        self._signal = signal
        self._on_completed = completed
        self._kicked = asyncio.Event()
        ring.on_completed = self._completed

    def __repr__(self) -> str:
        return f"<Queue {self.index} {self.name!r} of {self.size}, {self.in_flight} in flight>"

    @property
    def in_flight(self) -> int:
        """Chains that were taken and not yet completed."""
        return self.ring.in_flight

    def kicked(self) -> None:
        """The guest kicked."""
        if not self.ring.kicked():
            self.wake()

    def wake(self) -> None:
        """There may be something in the ring."""
        self._kicked.set()

    def __aiter__(self) -> "Queue":
        return self

    async def __anext__(self) -> Chain:
        for _ in range(MAX_EMPTY_LOOKS):
            while not self._turn.take():
                await self._turn.next()
            chain = await self._pop()
            if chain is not None:
                return chain
            self._kicked.clear()
            if not self.ring.arm():
                return await self._sleep()
        raise GuestError(f"the driver announced buffers {MAX_EMPTY_LOOKS} times and had none")

    async def each(self, answer: Answer, *, give_up: Callable[[Chain], None] = Chain.rewind) -> None:
        """Answer each chain in a task of its own, out of order, so that one that waits delays no other.

        Every chain is completed when its coroutine ends, also when that was cancelled before it began.

        Arguments:
            answer: Begins to answer a chain: returns the coroutine that does the rest, or None when it is done.
            give_up: What to answer when that coroutine failed or was cancelled; nothing, by default.
        """
        async with asyncio.TaskGroup() as tasks:
            async for chain in self:
                rest = answer(chain)
                if rest is None:
                    chain.complete()
                else:
                    tasks.create_task(rest).add_done_callback(partial(_give_back, chain, give_up))

    async def _pop(self) -> Chain | None:
        """Take a chain. One whose memory cannot be reached now waits for others to give theirs back."""
        while True:
            if self.ring.closed:
                raise StopAsyncIteration
            try:
                chain = self.ring.pop()
            except MemoryArriving:
                await self._settle()
            except MemoryBusy:
                if not await self._room():
                    raise  # nobody will give anything back
            else:
                if chain is not None:
                    self._turn.taken()
                    if not self.ring.memory.immediate:
                        await self._fill(chain)
                return chain

    async def _room(self) -> bool:
        """Wait until memory was given back: ours, or that of others who share it. False when none is out."""
        returned = asyncio.Event()
        if self._turn.out:
            await self._turn.wait_returned()
        elif self.ring.memory.when_returned(returned.set):
            await returned.wait()
        else:
            return False
        return True

    async def _fill(self, chain: Chain) -> None:
        """Wait until a chain shows what the driver stored. Whatever happens meanwhile, it goes back once."""
        try:
            await self._settle()
        except BaseException:
            chain.complete()
            raise

    async def _settle(self) -> None:
        """Wait for memory that is on its way, if any is."""
        arrived = asyncio.Event()
        problems: list[GuestError] = []

        def then(problem: GuestError | None) -> None:
            problems.extend([problem] if problem else [])
            arrived.set()

        if self.ring.memory.settled(then):
            return
        await arrived.wait()
        if problems:
            raise problems[0]

    async def _sleep(self) -> Chain:
        """Wait for kicks until one brings a chain. Kicks for nothing are allowed; they cost one look each."""
        while True:
            await self._kicked.wait()
            self.counters.wakeups += 1
            self._kicked.clear()
            chain = await self._pop()
            if chain is not None:
                self.ring.disarm()
                return chain

    def _completed(self, chain: Chain) -> None:
        self._turn.returned()
        counters = self.counters
        if self.ring.closed:
            counters.late += 1
        else:
            counters.chains += 1
            counters.taken += chain.readable_size
            counters.given += chain.written
            if self.ring.should_signal():
                self._signal(self.index)
        self._on_completed(self, chain)


def _give_back(chain: Chain, give_up: Callable[[Chain], None], task: "asyncio.Task[None]") -> None:
    if not chain.completed:
        if task.cancelled() or task.exception() is not None:
            chain.rewind()
            give_up(chain)
        chain.complete()
