"""What split and packed rings have in common: the contract, the caps, and how a chain is gathered. No I/O.

Knows nothing of doorbells or interrupts: it is told when to look, and says when the driver wants to be told.
"""

import struct
from abc import ABC, abstractmethod
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

from hdvkit.errors import GuestError
from hdvkit.memory import Lease, Memory
from hdvkit.virtio.chain import Chain, release_all
from hdvkit.virtio.spec import DescriptorFlag, Feature

DESCRIPTOR = struct.Struct("<QIHH")
"""Address and length, then flags and next (split) or id and flags (packed)."""

MAX_CHAIN_DESCRIPTORS = 1024 + 2
"""A request of 4 MiB in pages with its headers; precedents: QEMU 1024, rust-vmm the queue size."""
MAX_CHAIN_BYTES = 32 << 20
"""The specification's own limit is 4 GiB; no device has use for so much in one request."""

_NEXT = int(DescriptorFlag.NEXT)
_WRITE = int(DescriptorFlag.WRITE)
_INDIRECT = int(DescriptorFlag.INDIRECT)


class RingAddresses(NamedTuple):
    """Where the driver put the three areas of a virtqueue."""

    descriptors: int
    driver: int
    device: int


class Work(NamedTuple):
    """What was done for a ring without anybody popping it, since that was asked last."""

    chains: int = 0
    taken: int = 0
    given: int = 0
    interrupts: int = 0
    kicks: int = 0
    wakeups: int = 0


class Gather:
    """The buffers of one chain as they are found, checked one by one."""

    __slots__ = ("_count", "_memory", "_size", "readable", "writable")

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._count = 0
        self._size = 0
        self.readable: list[Lease] = []
        self.writable: list[Lease] = []

    def add(self, address: int, length: int, flags: int) -> None:
        """Lease one buffer.

        Raises:
            GuestError: It breaks a rule of "Message Framing", a cap, or lies outside RAM.
        """
        self._count += 1
        self._size += length
        if self._count > MAX_CHAIN_DESCRIPTORS:
            raise GuestError(f"a chain of more than {MAX_CHAIN_DESCRIPTORS} descriptors")
        if self._size > MAX_CHAIN_BYTES:
            raise GuestError(f"a chain of {self._size} bytes: at most {MAX_CHAIN_BYTES} are served")
        if not length:
            raise GuestError(f"a descriptor of length 0 at address {address:#x}")
        writable = bool(flags & _WRITE)
        if self.writable and not writable:
            raise GuestError("a readable descriptor behind a writable one")
        lease = self._memory.lease(address, length, writable=writable)
        (self.writable if writable else self.readable).append(lease)

    def copy_table(self, address: int, length: int) -> bytes:
        """Copy an indirect table, so that the driver cannot change it while it is checked."""
        if not length or length % DESCRIPTOR.size:
            raise GuestError(f"an indirect table of {length} bytes: not a multiple of {DESCRIPTOR.size}")
        if length > MAX_CHAIN_DESCRIPTORS * DESCRIPTOR.size:
            raise GuestError(
                f"an indirect table of {length // DESCRIPTOR.size} descriptors: at most {MAX_CHAIN_DESCRIPTORS}"
            )
        return self._memory.copy(address, length)

    def release(self) -> None:
        """Give everything back: the chain was broken."""
        release_all([*self.readable, *self.writable])


class Ring(ABC):
    """The device half of one virtqueue, from enable to reset."""

    def __init__(self, memory: Memory, addresses: RingAddresses, size: int, features: Feature) -> None:
        self.size = size
        self.addresses = addresses
        self.waits_for_kicks = False
        """Who looks for chains can wait for an eventfd by itself."""
        self.late = 0
        """Chains that came back after ``close``; the driver never hears of them."""
        self.on_completed: Callable[[Chain], None] = _ignore
        """Called with each chain that came back, late ones too."""
        # A ring that a lane serves calls these; others have no reason to.
        self.on_arrived: Callable[[], None] = _nothing
        """Called when there is something to pop."""
        self.on_signal: Callable[[], None] = _nothing
        """Called when the driver is to be interrupted for what was answered elsewhere."""
        self.on_settled: Callable[[], None] = _nothing
        """Called when a closed ring that counted as in flight is let go of."""
        self._memory = memory
        self._barrier = memory.barrier
        self._indirect = bool(features & Feature.INDIRECT_DESC)
        self._event_idx = bool(features & Feature.EVENT_IDX)
        self._closed = False
        self._outstanding: set[int] = set()
        self._sizes = [length for _, length, _ in self.areas(size)]
        for (name, _, align), address in zip(self.areas(size), addresses, strict=True):
            if address % align:
                raise GuestError(f"the {name} at {address:#x} is not aligned to {align} bytes")
        _check_disjoint(addresses, self._sizes)
        self._leases = memory.lease_ring(list(zip(addresses, self._sizes, strict=True)))
        self._views = [lease.view for lease in self._leases]

    @staticmethod
    @abstractmethod
    def areas(size: int) -> tuple[tuple[str, int, int], ...]:
        """Name, bytes and alignment of descriptor, driver and device area for a ring of ``size``."""

    @abstractmethod
    def pop(self) -> Chain | None:
        """Take the next chain the driver made available, or None.

        After None the caller must ``arm`` and look once more before it waits; otherwise a kick that comes in
        between is lost.

        Raises:
            GuestError: The driver broke a rule. The ring is unusable until reset.
            MemoryBusy: Its buffers cannot be reached now. The chain stays where it is; pop again later.
        """

    @abstractmethod
    def arm(self) -> bool:
        """Ask the driver for a kick with the next chain. True: one is there already, pop again instead of waiting."""

    @abstractmethod
    def disarm(self) -> None:
        """Tell the driver that kicks are not needed; it may kick all the same."""

    @abstractmethod
    def should_signal(self) -> bool:
        """Whether the driver wants an interrupt for what was completed since it was last asked."""

    @abstractmethod
    def _push(self, chain: Chain) -> None:
        """Put a completed chain where the driver finds it."""

    @property
    def in_flight(self) -> int:
        """Chains the device holds."""
        return len(self._outstanding)

    @property
    def closed(self) -> bool:
        """Whether the driver took the ring away."""
        return self._closed

    @property
    def memory(self) -> Memory:
        """Where the ring and its buffers lie."""
        return self._memory

    def begin(self, kick: int = -1) -> None:
        """The driver is ready, and its chains will be popped from now on.

        Kicks are written to the eventfd ``kick``, or with -1 are told by ``kicked``.
        """
        return

    def interrupt_by(self, call: int) -> None:
        """Who answers elsewhere interrupts the driver by this eventfd from now on; with -1, ``on_signal`` does."""
        return

    def kicked(self) -> bool:
        """The driver kicked. True when somebody else looks, who says when there is something to pop."""
        return False

    def work(self) -> Work:
        """What was done for it elsewhere since this was asked last."""
        return Work()

    def touches(self, address: int, size: int) -> bool:
        """Whether an area of the ring lies in that range of guest memory."""
        spans = zip(self.addresses, self._sizes, strict=True)
        return any(start < address + size and address < start + length for start, length in spans)

    def close(self) -> None:
        """The driver takes the ring away. Chains still out come back to nobody, but must come back."""
        if not self._closed:
            self._closed = True
            self._release()

    def _completed(self, chain: Chain) -> None:
        # The driver may look at the buffers as soon as it finds the chain in the ring.
        if self._memory.immediate or self._memory.delivered(lambda: self._give_back(chain)):
            self._give_back(chain)

    def _give_back(self, chain: Chain) -> None:
        self._outstanding.discard(chain.head)
        if self._closed:
            self.late += 1
        else:
            self._push(chain)
        self.on_completed(chain)

    def _new_chain(self, head: int, slots: int, gather: Gather) -> Chain:
        self._outstanding.add(head)
        return Chain(head, slots, gather.readable, gather.writable, self._completed)

    def _check_head(self, head: int) -> None:
        if head in self._outstanding:
            raise GuestError(f"chain {head} was made available again while the device still has it")

    def _check_indirect(self, flags: int) -> None:
        if not self._indirect:
            raise GuestError("an indirect descriptor, though INDIRECT_DESC was not negotiated")
        if flags & _NEXT:
            raise GuestError("a descriptor that is both indirect and linked to a next one")

    def _release(self) -> None:
        # Casts are views of their own: they must go before the memory may.
        self._views = []
        self._drop_casts()
        for lease in self._leases:
            lease.release()
        self._leases = []

    @abstractmethod
    def _drop_casts(self) -> None:
        """Let go of every view made from an area."""


def need_event(event: int, new: int, old: int) -> bool:
    """Whether going from ``old`` to ``new`` passed ``event``, modulo 2**16 ("Used Buffer Notification Suppression")."""
    return (new - event - 1) & 0xFFFF < (new - old) & 0xFFFF


def _ignore(chain: Chain) -> None:
    """Nobody wants to hear of completed chains."""


def _nothing() -> None:
    """Nobody wants to hear of it."""


def _check_disjoint(addresses: RingAddresses, sizes: list[int]) -> None:
    spans = sorted(zip(addresses, sizes, strict=True))
    for (low, size), (high, _) in pairwise(spans):
        if low + size > high:
            raise GuestError(f"the areas of a virtqueue at {low:#x} and {high:#x} overlap")
