"""The device half of "Packed Virtqueues" over three leased views. Knows nothing of doorbells or interrupts."""

from hdvkit.errors import GuestError
from hdvkit.memory import Memory
from hdvkit.virtio.chain import Chain
from hdvkit.virtio.ring import _INDIRECT, _NEXT, _WRITE, DESCRIPTOR, Gather, Ring, RingAddresses
from hdvkit.virtio.spec import DescriptorFlag, Feature, RingEvent

_AVAIL = int(DescriptorFlag.AVAIL)
_USED = int(DescriptorFlag.USED)
_WRAP = 1 << 15
_OFFSET = 0  # of an event suppression structure: place and wrap counter
_FLAGS = 1
_EMPTY = memoryview(b"")


class PackedRing(Ring):
    """One descriptor ring that both sides write, and an event suppression structure for each side."""

    def __init__(self, memory: Memory, addresses: RingAddresses, size: int, features: Feature) -> None:
        super().__init__(memory, addresses, size, features)
        self._table, driver, device = self._views
        self._words = self._table.cast("H")
        self._longs = self._table.cast("I")
        self._driver = driver.cast("H")
        self._device = device.cast("H")
        self._next = 0
        self._wrap = True  # both counters start at 1
        self._used_slot = 0
        self._used_wrap = True
        self._unsignalled = 0
        self._held = 0

    @staticmethod
    def areas(size: int) -> tuple[tuple[str, int, int], ...]:
        """Descriptor ring and event suppression structures ("Packed Virtqueues")."""
        return (
            ("descriptor ring", 16 * size, 16),
            ("driver event suppression structure", 4, 4),
            ("device event suppression structure", 4, 4),
        )

    def pop(self) -> Chain | None:
        """Take the next chain; see :meth:`Ring.pop`."""
        if not self._available(self._next, self._wrap):
            return None
        self._barrier()  # the flags are read before the rest of the descriptor
        gather = Gather(self._memory)
        try:
            head, slots = self._gather(gather)
            self._check_head(head)
        except BaseException:
            gather.release()
            raise
        self._held += slots
        self._next += slots
        if self._next >= self.size:
            self._next -= self.size
            self._wrap = not self._wrap
        return self._new_chain(head, slots, gather)

    def arm(self) -> bool:
        """Ask for a kick; see :meth:`Ring.arm`."""
        if self._event_idx:
            self._device[_OFFSET] = self._next | (_WRAP if self._wrap else 0)
            self._barrier()  # the place is out before the flags that refer to it
            self._device[_FLAGS] = RingEvent.DESCRIPTOR
        else:
            self._device[_FLAGS] = RingEvent.ENABLE
        self._barrier()  # the request is out before the ring is read, or both sides may miss the other's store
        return self._available(self._next, self._wrap)

    def disarm(self) -> None:
        """No kicks, please; see :meth:`Ring.disarm`."""
        self._device[_FLAGS] = RingEvent.DISABLE

    def should_signal(self) -> bool:
        """Whether to interrupt; see :meth:`Ring.should_signal`."""
        if self._closed or not self._unsignalled:
            return False
        self._barrier()  # the used descriptors are out before the driver's wish is read
        count, self._unsignalled = self._unsignalled, 0
        flags = self._driver[_FLAGS] & 0x3
        if flags == RingEvent.DESCRIPTOR and self._event_idx:
            return self._passed(self._driver[_OFFSET], count)
        # The value 3 is reserved: a lost interrupt hangs a guest, one too many does not.
        return flags != RingEvent.DISABLE

    def _passed(self, event: int, count: int) -> bool:
        """Whether the last ``count`` slots include the one the driver named."""
        place = event & ~_WRAP
        if bool(event & _WRAP) != self._used_wrap:
            place -= self.size  # it lies in the lap before
        return self._used_slot - count <= place < self._used_slot

    def _available(self, slot: int, wrap: bool) -> bool:
        flags = self._words[8 * slot + 7]
        return bool(flags & _AVAIL) == wrap and bool(flags & _USED) != wrap

    def _gather(self, gather: Gather) -> tuple[int, int]:
        """Gather the chain at the next slot. Returns its id and how many slots it takes."""
        slot, wrap = self._next, self._wrap
        # What the device holds is not free: a chain cannot be longer than what is left of the ring.
        for slots in range(1, self.size - self._held + 1):
            if slots > 1 and not self._available(slot, wrap):
                raise GuestError(f"a chain runs on into slot {slot}, which is not available")
            address, length, ident, flags = DESCRIPTOR.unpack_from(self._table, slot * DESCRIPTOR.size)
            if flags & _INDIRECT:
                if slots > 1:
                    raise GuestError("an indirect descriptor inside a chain of a packed ring")
                self._check_indirect(flags)
                _gather_table(gather, gather.copy_table(address, length))
                return ident, slots
            gather.add(address, length, flags)
            if not flags & _NEXT:
                return ident, slots
            slot += 1
            if slot == self.size:
                slot, wrap = 0, not wrap
        raise GuestError(
            f"a chain does not end within the {self.size - self._held} descriptors the device does not hold"
        )

    def _push(self, chain: Chain) -> None:
        slot = self._used_slot
        self._longs[4 * slot + 2] = chain.written
        self._words[8 * slot + 6] = chain.head
        flags = (_AVAIL | _USED) if self._used_wrap else 0
        self._barrier()  # id and length are out before the flags that make them valid
        self._words[8 * slot + 7] = flags | (_WRITE if chain.written else 0)
        self._held -= chain.slots
        self._unsignalled += chain.slots
        self._used_slot += chain.slots
        if self._used_slot >= self.size:
            self._used_slot -= self.size
            self._used_wrap = not self._used_wrap

    def _drop_casts(self) -> None:
        self._table = self._words = self._longs = self._driver = self._device = _EMPTY


def _gather_table(gather: Gather, table: bytes) -> None:
    """Tables of a packed ring are read in order; of their flags only WRITE means something."""
    for at in range(0, len(table), DESCRIPTOR.size):
        address, length, _, flags = DESCRIPTOR.unpack_from(table, at)
        if flags & _INDIRECT:
            raise GuestError("an indirect descriptor inside an indirect table")
        gather.add(address, length, flags)
