"""The device half of "Split Virtqueues" over three leased views. Knows nothing of doorbells or interrupts."""

from hdvkit.errors import GuestError
from hdvkit.memory import Memory
from hdvkit.virtio.chain import Chain
from hdvkit.virtio.ring import _INDIRECT, _NEXT, DESCRIPTOR, Gather, Ring, RingAddresses, need_event
from hdvkit.virtio.spec import AVAIL_NO_INTERRUPT, USED_NO_NOTIFY, Feature

_FLAGS = 0
_IDX = 1
_RING = 2
_EMPTY = memoryview(b"")


class SplitRing(Ring):
    """Descriptor table, available ring, used ring. Indices run freely and are compared modulo 2**16."""

    def __init__(self, memory: Memory, addresses: RingAddresses, size: int, features: Feature) -> None:
        super().__init__(memory, addresses, size, features)
        if not size or size & (size - 1):
            self.close()
            raise GuestError(f"a split virtqueue of {size}: its size must be a power of two")
        self._table, avail, used = self._views
        # Every host we run on is little-endian; a cast view stores 16 bits in one piece, struct does not.
        self._avail = avail.cast("H")
        self._used = used.cast("H")
        self._elements = used[4 : 4 + 8 * size].cast("I")
        self._used_event = _RING + size
        self._avail_event = _RING + 4 * size
        self._next = 0
        self._seen = 0
        self._used_idx = 0
        self._signalled = 0

    @staticmethod
    def areas(size: int) -> tuple[tuple[str, int, int], ...]:
        """The three parts, with the event words at their ends ("Split Virtqueues")."""
        return (
            ("descriptor table", 16 * size, 16),
            ("available ring", 6 + 2 * size, 2),
            ("used ring", 6 + 8 * size, 4),
        )

    def pop(self) -> Chain | None:
        """Take the next chain; see :meth:`Ring.pop`."""
        if self._next == self._seen and not self._look():
            return None
        head = self._avail[_RING + (self._next & (self.size - 1))]
        if head >= self.size:
            raise GuestError(f"the available ring names descriptor {head} of a table of {self.size}")
        self._check_head(head)
        chain = self._walk(head)
        self._next = (self._next + 1) & 0xFFFF
        return chain

    def arm(self) -> bool:
        """Ask for a kick; see :meth:`Ring.arm`."""
        if self._event_idx:
            self._used[self._avail_event] = self._next
        else:
            self._used[_FLAGS] = 0
        # The request must be out before the index is read, or driver and device may both miss the other's store.
        self._barrier()
        return self._next != self._avail[_IDX]

    def disarm(self) -> None:
        """No kicks, please; see :meth:`Ring.disarm`. With EVENT_IDX a stale avail_event says it already."""
        if not self._event_idx:
            self._used[_FLAGS] = USED_NO_NOTIFY

    def should_signal(self) -> bool:
        """Whether to interrupt; see :meth:`Ring.should_signal`."""
        if self._closed or self._signalled == self._used_idx:
            return False
        self._barrier()  # used.idx must be out before used_event is read
        old, self._signalled = self._signalled, self._used_idx
        if self._event_idx:
            return need_event(self._avail[self._used_event], self._used_idx, old)
        return not self._avail[_FLAGS] & AVAIL_NO_INTERRUPT

    def _look(self) -> bool:
        idx = self._avail[_IDX]
        waiting = (idx - self._next) & 0xFFFF
        # "The Virtqueue Available Ring": never more entries than the ring has places.
        if waiting > self.size:
            raise GuestError(f"the available index is {waiting} ahead of a ring of {self.size}")
        self._seen = idx
        self._barrier()  # the index is read before the entries it covers
        return bool(waiting)

    def _walk(self, head: int) -> Chain:
        gather = Gather(self._memory)
        try:
            self._gather(gather, head)
        except BaseException:
            gather.release()
            raise
        return self._new_chain(head, 1, gather)

    def _gather(self, gather: Gather, index: int) -> None:
        # At most one step for each descriptor: a chain that loops ends here by count.
        for _ in range(self.size):
            if index >= self.size:
                raise GuestError(f"descriptor {index} lies outside a table of {self.size}")
            address, length, flags, following = DESCRIPTOR.unpack_from(self._table, index * DESCRIPTOR.size)
            if flags & _INDIRECT:
                self._check_indirect(flags)
                _gather_table(gather, gather.copy_table(address, length))
                return
            gather.add(address, length, flags)
            if not flags & _NEXT:
                return
            index = following
        raise GuestError(f"a chain does not end within the {self.size} descriptors of its table")

    def _push(self, chain: Chain) -> None:
        slot = 2 * (self._used_idx & (self.size - 1))
        self._elements[slot] = chain.head
        self._elements[slot + 1] = chain.written
        self._used_idx = (self._used_idx + 1) & 0xFFFF
        self._barrier()  # the element is out before the index that covers it
        self._used[_IDX] = self._used_idx

    def _drop_casts(self) -> None:
        self._table = self._avail = self._used = self._elements = _EMPTY


def _gather_table(gather: Gather, table: bytes) -> None:
    count = len(table) // DESCRIPTOR.size
    index = 0
    for _ in range(count):
        if index >= count:
            raise GuestError(f"descriptor {index} lies outside an indirect table of {count}")
        address, length, flags, following = DESCRIPTOR.unpack_from(table, index * DESCRIPTOR.size)
        if flags & _INDIRECT:
            raise GuestError("an indirect descriptor inside an indirect table")
        gather.add(address, length, flags)
        if not flags & _NEXT:
            return
        index = following
    raise GuestError(f"a chain does not end within the {count} descriptors of its indirect table")
