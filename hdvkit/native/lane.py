"""A lane from Python's side: what C declines comes up here, what Python answers goes down again. No thread, no loop.

Whoever owns a lane runs :meth:`Lane.run` in a thread of its own and calls :meth:`Lane.hear` when ``news`` is readable.
"""

import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from typing import Final, NamedTuple

import attrs

from hdvkit.errors import GuestError, HostError
from hdvkit.memory import Lease, RegionMemory
from hdvkit.native._native import ffi, lib
from hdvkit.native.choice import NativeHandler, NativeListener
from hdvkit.native.regions import Pointer, Table
from hdvkit.native.rings import NativePackedRing, NativeRing, NativeSplitRing, sentence
from hdvkit.virtio import Chain, Feature, RingAddresses, Work

POLL_US: Final = 50
"""Microseconds a lane looks for more before it sleeps, at most: see ``learn`` in lane_waiting.c."""

_lives = count(1)


class Lane:
    """One thread's work for all queues of a device.

    Raises:
        HostError: The process has no more descriptors.
    """

    def __init__(self, memory: RegionMemory, *, poll_us: int = POLL_US) -> None:
        self.memory = memory
        self.news = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._rings: dict[int, LaneRing] = {}  # by life: those that are attached, or not yet let go of
        self._table: Table | None = None
        self._held: dict[int, _Held] = {}  # tables that C may be using, or has told of, by their names
        self._names = count(1)
        self._settling: deque[tuple[int, Callable[[], None]]] = deque()
        self._unheard: Callable[[], None] | None = None
        self._socket_left = False
        self.c: Pointer = lib.hdv_lane_new(self.news, poll_us)
        if not self.c:
            os.close(self.news)
            raise HostError("a thread for the queues of a device cannot be had: the process has no more descriptors")
        memory.watchers.append(self._memory_changed)

    def run(self) -> None:
        """Serve until ``stop``; the thread that calls this does not hold the interpreter's lock meanwhile."""
        lib.hdv_lane_run(self.c)

    def stop(self) -> None:
        """Have ``run`` return."""
        lib.hdv_lane_stop(self.c)

    def close(self) -> None:
        """Let go of everything, once ``run`` has returned."""
        self._unheard = None
        self._take_events(over=True)
        self.memory.watchers.remove(self._memory_changed)
        self._release(self._held)
        lib.hdv_lane_free(self.c)
        os.close(self.news)

    def use(self, handler: NativeHandler | None) -> None:
        """Answer by this from now on; with None, hand on everything."""
        answer, context = handler or (0, 0)
        function = ffi.cast("hdv_outcome(*)(void *, bool, const hdv_chain *, uint32_t *)", answer)
        lib.hdv_lane_set_handler(self.c, {"answer": function, "context": ffi.cast("void *", context)})

    def listen(self, socket: int, listener: NativeListener, unheard: Callable[[], None]) -> None:
        """Read kicks from a socket, which is at the beginning of a message.

        At the first message that is no kick ``unheard`` is called, and the socket is the caller's again.
        """
        self._unheard = unheard
        self._socket_left = False
        function = ffi.cast("size_t(*)(void *, const uint8_t *, size_t)", listener.kicks)
        context = ffi.cast("void *", listener.context)
        lib.hdv_lane_listen(self.c, socket, {"kicks": function, "context": context})

    def leave(self) -> None:
        """Leave the socket alone from now on; ``unheard`` is not called any more."""
        self._unheard = None
        lib.hdv_lane_listen(self.c, -1, {})

    def kick(self) -> None:
        """Look at the queues."""
        lib.hdv_lane_kick(self.c)

    def hear(self) -> None:
        """Take the news: chains and failures go to their rings, and what was settled is let go of."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.news)
        self._take_events()
        if self._unheard is not None and self._socket_left:
            unheard = self._unheard
            self.leave()
            unheard()

    def when_settled(self, then: Callable[[], None]) -> None:
        """Call ``then`` when C has let go of all that was detached or replaced until now; at once, if it has."""
        self._settling.append((lib.hdv_lane_ticket(self.c), then))
        self._take_events()

    def _take_events(self, *, over: bool = False) -> None:
        """Hand on what came up, then call who waits for what is settled. May be called from within such a call."""
        # Asked before the events are taken: of what is settled by then, all events are among them.
        passed = float("inf") if over else lib.hdv_lane_passed(self.c)
        for event in _each(lib.hdv_lane_take(self.c)):
            ring = self._rings.get(event.life)
            if event.kind == lib.HDV_EVENT_SOCKET:
                self._socket_left = True  # who has it may do anything then: not in the middle of something else
                os.eventfd_write(self.news, 1)
            elif ring is not None:
                ring.hear(event, self._held.get(event.table))
        while self._settling and self._settling[0][0] <= passed:
            self._settling.popleft()[1]()

    def build_ring(self, index: int, addresses: RingAddresses, size: int, features: Feature) -> "LaneRing":
        """The ring of queue ``index``; it is served from its ``begin`` to its ``close``.

        Raises:
            GuestError: Its place or size breaks a rule.
        """
        kind = LanePackedRing if features & Feature.RING_PACKED else LaneSplitRing
        return kind(self, index, self.memory, addresses, size, features)

    # What rings call

    def attach(self, ring: "LaneRing", kick: int, call: int) -> None:
        """Serve a ring."""
        self._rings[ring.life] = ring
        if self._table is None:
            self._memory_changed()
        lib.hdv_lane_attach(self.c, ring.index, ring.c, ring.life, kick, call)

    def detach(self, ring: "LaneRing", then: Callable[[], None]) -> None:
        """Serve it no more, and call ``then`` when C has let go of it."""
        lib.hdv_lane_detach(self.c, ring.index)

        def gone() -> None:
            del self._rings[ring.life]
            if not self._rings:
                self._forget_memory()
            then()

        self.when_settled(gone)

    def _memory_changed(self) -> None:
        """Give C the regions there are now; those that are gone are let go of when it has settled."""
        if not self._rings:
            return
        old, name = set(self._held), next(self._names)
        self._table = Table(self.memory)
        self._held[name] = _Held(self._table, self._table.hold())
        lib.hdv_lane_set_memory(self.c, name, self._table.c.regions, len(self._table))
        self.when_settled(lambda: self._release(old))

    def _forget_memory(self) -> None:
        lib.hdv_lane_set_memory(self.c, 0, ffi.NULL, 0)
        self._table = None
        self._release(self._held)

    def _release(self, names: "Iterable[int]") -> None:
        """C does not use these tables any more."""
        for name in tuple(names):
            held = self._held.pop(name, None)
            if held is not None:  # nothing is attached any more, so all of them are let go of already
                held.retire()


@attrs.define(eq=False)
class _Held:
    """The regions of a table, leased as long as C uses it or there is a chain by it that nobody has taken."""

    table: Table
    _leases: list[Lease]
    _untaken: int = 0
    _retired: bool = False

    def add(self) -> None:
        """There is one more such chain."""
        self._untaken += 1

    def take(self) -> None:
        """It was taken: its own leases hold what it needs."""
        self._untaken -= 1
        self._let_go()

    def retire(self) -> None:
        """C uses it no more."""
        self._retired = True
        self._let_go()

    def _let_go(self) -> None:
        if self._retired and not self._untaken:
            leases, self._leases = self._leases, []
            for lease in leases:
                lease.release()


class _Untaken(NamedTuple):
    """A chain that C has declined."""

    event: Pointer
    held: _Held


class LaneRing(NativeRing):
    """A ring that a lane serves: what is popped here was declined there."""

    _call = -1
    _attached = False
    _letting_go = False

    def __init__(
        self, lane: Lane, index: int, memory: RegionMemory, addresses: RingAddresses, size: int, features: Feature
    ) -> None:
        self.index = index
        self._lane = lane
        super().__init__(memory, addresses, size, features)
        self.waits_for_kicks = True
        self.life = next(_lives)
        self._arrived: deque[_Untaken | GuestError] = deque()
        self._wants_signal = False
        self._told = Work()

    def begin(self, kick: int = -1) -> None:
        """Have the lane serve it; see :meth:`Ring.begin`."""
        if not self._attached and not self._closed:
            self._attached = True
            self._lane.attach(self, kick, self._call)
        elif not self._closed:
            self._lane.kick()  # whoever stopped serving it may have taken one from its eventfd

    def kicked(self) -> bool:
        """The lane looks, and says what there is for Python."""
        self._lane.kick()
        return True

    def interrupt_by(self, call: int) -> None:
        """Interrupt by another eventfd; see :meth:`Ring.interrupt_by`."""
        self._call = call
        if self._attached and not self._closed:
            lib.hdv_lane_set_call(self._lane.c, self.index, call)

    def hear(self, event: Pointer, held: _Held | None) -> None:
        """Something came up from the lane."""
        if event.kind == lib.HDV_EVENT_SIGNAL:
            self.on_signal()
            return
        if event.kind == lib.HDV_EVENT_BROKEN:
            self._arrived.append(GuestError(sentence(event.error)))
        else:
            assert held is not None
            held.add()
            self._arrived.append(_Untaken(event, held))
        self.on_arrived()

    def pop(self) -> Chain | None:
        """Take what the lane has declined; its buffers are leased now."""
        if not self._arrived:
            return None
        arrived = self._arrived[0]
        if isinstance(arrived, GuestError):
            raise arrived
        chain = self._chain_of(arrived.event, arrived.held.table)
        self._arrived.popleft()
        arrived.held.take()
        return chain

    def arm(self) -> bool:
        """The lane arms by itself."""
        return bool(self._arrived)

    def disarm(self) -> None:
        """The lane does that by itself, too."""

    def should_signal(self) -> bool:
        """Whether to interrupt for what was given back; where there is an eventfd for it, C has."""
        wanted, self._wants_signal = self._wants_signal, False
        return wanted

    @property
    def in_flight(self) -> int:
        """Chains the device holds, in C or in Python; of a closed ring those of Python, and one more while C may."""
        if self._attached and not self._closed:
            return int(lib.hdv_lane_read(self._lane.c, self.index).in_flight)
        return super().in_flight + self._letting_go

    def work(self) -> Work:
        """What C has done for this ring since it was asked last."""
        if not self._attached:
            return Work()
        read = lib.hdv_lane_read(self._lane.c, self.index)
        done = Work(read.chains, read.taken, read.given, read.interrupts, read.kicks, read.wakeups)
        told, self._told = self._told, done
        return Work(*(new - old for new, old in zip(done, told, strict=True)))

    def _push(self, chain: Chain) -> None:
        self._wants_signal = bool(
            lib.hdv_lane_complete(self._lane.c, self.index, self.life, chain.head, chain.slots, chain.written)
        )

    def _release(self) -> None:
        if not self._attached:
            super()._release()
            return
        self._letting_go = True
        self._lane.detach(self, self._let_go)

    def _let_go(self) -> None:
        self._letting_go = False
        while self._arrived:  # nobody has taken them, so nobody gives them back
            arrived = self._arrived.popleft()
            if isinstance(arrived, _Untaken):
                arrived.held.take()
        super()._release()
        self.on_settled()


class LaneSplitRing(LaneRing, NativeSplitRing):
    """A split ring that a lane serves."""


class LanePackedRing(LaneRing, NativePackedRing):
    """A packed ring that a lane serves."""


def _each(event: Pointer) -> Iterator[Pointer]:
    """Each of a list; it is freed with the last who knows it."""
    while event:
        following = event.next
        yield ffi.gc(event, lib.hdv_event_free)
        event = following
