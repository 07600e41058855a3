"""One attached PCI function: accesses from the platform's threads in, a device's coroutines on the loop.

The platform calls ``read``, ``write`` and ``reset`` from any thread; everything else belongs to the loop's thread.
"""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import partial

from anyio.abc import TaskGroup

from hdvkit.errors import GuestError, HostError
from hdvkit.observe import Event, EventKind, Observers
from hdvkit.pci.config import Bar
from hdvkit.pci.msix import Message
from hdvkit.runtime.backend import Backend, Slot
from hdvkit.runtime.device import VirtioDevice
from hdvkit.runtime.doorbell import Doorbell
from hdvkit.runtime.lanes import FunctionLane, LaneThread
from hdvkit.runtime.life import Life
from hdvkit.runtime.offer import offer
from hdvkit.runtime.queue import Queue, Turn
from hdvkit.runtime.service import Service
from hdvkit.runtime.stats import FunctionStats, State
from hdvkit.virtio import (
    Chain,
    DeviceReset,
    DriverFailed,
    DriverReady,
    Feature,
    FeaturesRefused,
    InterruptsMoved,
    Kicked,
    MasteringLost,
    QueueEnabled,
    QueueReset,
)
from hdvkit.virtio import Event as TransportEvent

log = logging.getLogger("hdvkit.runtime")

RESET_FOLLOWS = 0.2
"""Seconds within which a machine that is reset gets from clearing the command register to resetting the function."""


class Function:
    """A device attached to a host: what ``host.add`` returns.

    Wait for ``ready``, watch ``events``, ask ``stats``, give it to ``host.remove``.
    """

    slot: Slot

    def __init__(
        self,
        device: VirtioDevice,
        *,
        name: str,
        kind: str,
        observers: Observers,
        tasks: TaskGroup,
        backend: Backend,
        lost: "Callable[[Function], None] | None" = None,
    ) -> None:
        self.device = device
        self.name = name
        self.kind = kind
        self.transport = offer(device, backend)
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._lock = threading.RLock()
        self._names = tuple(device.queue_names)
        self._tasks = tasks
        self._service = Service(self._names, self, Turn(self._loop))
        self._doorbells = [Doorbell(index, self._loop, self._waker(index)) for index in range(len(self._names))]
        self._lane = FunctionLane(device, name, self._doorbells, lambda: self.slot)
        self._lost = lost
        self._resetting = False
        self._used = False  # since the last reset
        self._forgetting = False
        self._resets = 0
        self._needs_resets = 0
        self._observers = observers
        self._life = Life(name, kind, observers, lambda: self.slot.place)
        device.warn = partial(self._life.announce, EventKind.WARNING)

    def __repr__(self) -> str:
        return f"<Function {self.name!r} ({self.kind}), {self.state}>"

    # What the platform calls, from any thread

    def read(self, space: int, offset: int, size: int) -> bytes:
        """A guest's read of a BAR, or of ``CONFIG``. Answered at once, never raises."""
        with self._lock:
            return self.transport.read(space, offset, size)

    def write(self, space: int, offset: int, data: bytes) -> None:
        """A guest's write to a BAR, or to ``CONFIG``. Returns at once, never raises."""
        with self._lock:
            events = self.transport.write(space, offset, data)
        for event in events:
            self._take(event)

    def reset(self) -> None:
        """The platform resets the function: power-on, FLR, a machine that went away."""
        with self._lock:
            events = self.transport.hard_reset()
        for event in events:
            self._take(event)

    def memory_leaves(self, address: int, size: int) -> None:
        """The platform takes guest memory away. A ring in it is lost; chains keep theirs until completed."""
        self._on_loop(lambda: self._lose_memory(address, size))

    def interrupts_moved(self) -> None:
        """``Slot.call_descriptor`` says something else now. On the loop's thread."""
        self._service.interrupts_moved()

    def gone(self) -> None:
        """The machine let go of the function for good: where it was parked, it is removed now."""
        if self._lost is not None:
            lost = self._lost
            self._on_loop(lambda: lost(self))

    # What the embedder calls

    @property
    def state(self) -> State:
        """Where the function is in its life."""
        return self._life.state

    async def ready(self) -> None:
        """Wait until the guest's driver is up.

        Raises:
            UsageError: The device was removed or its host closed, so it never will be.
        """
        await self._life.ready()

    def events(self) -> AsyncIterator[Event]:
        """All that happens to the device from now on. Ends when it is removed or its host closed."""
        return self._life.events()

    def stats(self) -> FunctionStats:
        """A snapshot of the counters."""
        return FunctionStats(
            state=self.state,
            queues=tuple(self._service.stats(bell.index, bell.kicks) for bell in self._doorbells),
            resets=self._resets,
            needs_resets=self._needs_resets,
            dropped_accesses=self.transport.dropped,
            leases=self.slot.memory.leases,
        )

    def config_changed(self) -> None:
        """The device's ``config()`` says something else now: show it to the guest and tell its driver."""
        with self._lock:
            message = self.transport.change_config(self.device.config())
        self._interrupt(message)

    @property
    def bars(self) -> Mapping[int, Bar]:
        """The memory BARs by index, for a platform that places or maps them."""
        return self.transport.config.bars

    @property
    def probe_words(self) -> tuple[int, ...]:
        """The six constants by which some platforms size BARs instead of asking the registers."""
        return self.transport.config.probe_words()

    @property
    def vectors(self) -> int:
        """How many MSI-X vectors it has; 0 without MSI-X."""
        return self.transport.vectors

    @property
    def asserts_pin(self) -> bool:
        """Whether it drives its interrupt pin now, for a platform that masks pins by itself."""
        return self.transport.asserts_pin

    @property
    def doorbells(self) -> Sequence[Doorbell]:
        """All doorbells, for a platform that has to know of them before ``Slot.doorbell`` names those in use."""
        return self._doorbells

    @property
    def place(self) -> Mapping[str, str]:
        """Where the guest's side finds the device, in the words of the host kind."""
        return self.slot.place

    # What the host calls

    def announce(self, kind: EventKind, reason: str = "") -> None:
        """Tell everybody who listens what has happened."""
        self._life.announce(kind, reason, self.slot.hint if kind is EventKind.LISTENING else "")

    async def revoke(self) -> None:
        """From now on the guest gets errors only, and the device is closed. Nothing of the host stays reachable."""
        if self.state.revoked:
            return
        self._life.enter(State.PARKED)
        await self._lane.revoke()
        await self._service.stop(self._life.change)
        while self._forgetting:
            await self._life.change()
        if self.transport.running:
            self._service.start_all()
        try:
            await self.device.aclose()
        except Exception:
            log.exception("device %s could not be closed cleanly", self.name)

    async def end(self, state: State, kind: EventKind) -> None:
        """The function is gone for good: let go of guest memory and tell the listeners."""
        if self.state.over:
            return
        await self.revoke()
        while self._service.busy:
            self._service.close_all()
            await self._service.stop(self._life.change)
        self._service.close_all()
        self._lane.end()
        await self._lane.ended()
        self._life.end(state, kind)

    # What the service calls

    def serves(self, queue: Queue) -> Awaitable[None]:
        """The device answers its queues until it is revoked; from then on refusals do."""
        return self._refuse(queue) if self.state.revoked else self.device.serve(queue)

    def lane(self) -> LaneThread | None:
        """The thread that serves the queues, if the device has a handler in C and this is a place for one."""
        may_begin = not self.state.revoked and not self._observers.watch_completed
        return self._lane.begin() if may_begin else self._lane.thread

    def serving(self, index: int, active: bool) -> None:
        """A queue that is served wants its doorbell; refused ones arrive as trapped writes."""
        doorbell = self._doorbells[index]
        if active:
            doorbell.expect(notification_data=bool(self.transport.features & Feature.NOTIFICATION_DATA))
            self.slot.doorbell(doorbell)
        else:
            self.slot.dismiss(doorbell)
            self._lane.dismiss(index)

    def kick_descriptor(self, index: int) -> int:
        """An eventfd that kicks of a queue of the lane are written to; -1 where there is none."""
        return self._lane.serve(index)

    def call_descriptor(self, index: int) -> int:
        """An eventfd that interrupts the driver for a queue; -1 where there is none."""
        vector = self.transport.queue_vector(index)
        return -1 if vector is None else self.slot.call_descriptor(vector)

    def signal(self, index: int) -> None:
        """Interrupt the driver for a queue."""
        with self._lock:
            message = self.transport.signal_queue(index)
        if message is not None:
            self._service.counters[index].interrupts += 1
            self.slot.interrupt(message)

    def completed(self, queue: Queue, chain: Chain) -> None:
        """A chain went back to the guest."""
        if self._observers.watch_completed and not queue.ring.closed:
            self._observers.completed(self.name, queue.name, chain.readable_size, chain.written)

    def failed(self, reason: str) -> None:
        """DEVICE_NEEDS_RESET: the rings are dead until the guest resets the device."""
        self._stop()
        self._tell_failure(reason)

    def settled(self) -> None:
        """Finish the resets the guest waits for, once nothing of the old rings is left."""
        self._life.stir()
        if self._resetting:
            if self._service.idle:
                self._resetting = False
                self._reset_device()
            return
        for index, registers in enumerate(self.transport.common.queues):
            if registers.resetting and self._service.let_go(index):
                with self._lock:
                    self.transport.common.queue_reset_done(index)

    # Events of the transport

    def _take(self, event: TransportEvent) -> None:
        if isinstance(event, Kicked):
            self._doorbells[event.index].ring()
        elif isinstance(event, Message):
            self.slot.interrupt(event)
        else:
            self._on_loop(lambda: self._control(event))

    def _control(self, event: TransportEvent) -> None:
        if self.state.over:
            return  # it was on its way while the function ended; nobody would ever stop what it starts
        match event:
            case QueueEnabled(index):
                self._enable(index)
            case QueueReset(index):
                self._service.close(index)
                self.settled()
            case DriverReady():
                self._driver_ready()
            case DriverFailed():
                self.announce(EventKind.DRIVER_FAILED, "the guest's driver set FAILED; its log says why")
            case FeaturesRefused(reason):
                self.announce(EventKind.FEATURES_REFUSED, reason)
            case InterruptsMoved():
                self._service.interrupts_moved()
            case MasteringLost():
                if self.transport.running:
                    self._stop()
                    # A machine that is reset does this too, just before it resets the device: nothing to tell then.
                    self._loop.call_later(RESET_FOLLOWS, self._tell_unless_reset, self._resets)
            case DeviceReset():
                self._resetting = True
                self._service.close_all()
                self.settled()

    def _enable(self, index: int) -> None:
        registers = self.transport.common.queues[index]
        if not registers.enabled:
            return  # reset again before the loop came to it
        try:
            queue = self._service.build(
                index, self.slot.memory, registers.addresses, registers.size, self.transport.features
            )
        except (GuestError, HostError) as error:
            self.failed(f"queue {self._names[index]!r} cannot be enabled: {error}")
            return
        if self.transport.running:
            self._service.start(queue)

    def _driver_ready(self) -> None:
        self._used = True
        if self.transport.needing_reset:
            self._interrupt(self.transport.signal_config())  # it was not up yet when there was something to tell
            return
        self._service.start_all()
        if not self.state.revoked:
            self._life.enter(State.READY)
            self.announce(EventKind.READY)

    def _reset_device(self) -> None:
        """Nothing of the old rings is left: the device forgets too, then the guest may see status 0."""
        if self._forgetting:
            return  # two resets in a row are one
        if self._used and not self.state.revoked:
            self._forgetting = True
            self._tasks.start_soon(self._forget_guest, name=f"reset {self.name}")
        else:
            self._finish_reset()

    async def _forget_guest(self) -> None:
        try:
            await self.device.reset()
        except Exception:
            log.exception("device %s failed in reset()", self.name)
        self._forgetting = False
        self._finish_reset()
        self._life.stir()

    def _finish_reset(self) -> None:
        used, self._used = self._used, False
        self._lane.end()
        self._resets += 1
        if not self.state.revoked:
            self._life.enter(State.ATTACHED)
        with self._lock:
            self.transport.reset_done()
        if used:  # every driver resets before it begins; that is nothing to tell
            self.announce(EventKind.RESET)

    # Small things

    def _stop(self) -> None:
        self._used = True
        self._service.close_all()
        with self._lock:
            message = self.transport.needs_reset()
        self._interrupt(message)
        if not self.state.revoked:
            self._life.enter(State.NEEDS_RESET)

    def _tell_failure(self, reason: str) -> None:
        self._needs_resets += 1
        if not self.state.revoked:
            self.announce(EventKind.NEEDS_RESET, reason)

    def _tell_unless_reset(self, resets: int) -> None:
        if resets == self._resets and not self._resetting and not self._forgetting and self.state is State.NEEDS_RESET:
            self._tell_failure("the guest took bus mastering away while the device was in use")

    async def _refuse(self, queue: Queue) -> None:
        async for chain in queue:
            with chain:
                self.device.refuse(chain)

    def _lose_memory(self, address: int, size: int) -> None:
        for queue in tuple(self._service.queues.values()):
            if queue.ring.touches(address, size):
                self.failed(f"the guest took away the memory of queue {queue.name!r} at {address:#x}")
                return

    def _waker(self, index: int) -> Callable[[], None]:
        def wake() -> None:
            queue = self._service.queues.get(index)
            if queue is not None:
                queue.kicked()

        return wake

    def _on_loop(self, call: Callable[[], None]) -> None:
        if threading.get_ident() == self._thread:
            call()
            return
        try:
            self._loop.call_soon_threadsafe(call)
        except RuntimeError:
            return  # the loop is closed: the machine outlived us by a moment

    def _interrupt(self, message: Message | None) -> None:
        if message is not None:
            self.slot.interrupt(message)
