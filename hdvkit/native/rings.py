"""Rings whose work is done in C, by ``ring.h``; the contract is that of :class:`hdvkit.virtio.Ring`.

The C side holds addresses, not leases: a region is unmapped when no lease is out, and no address of it is used later,
because the table of regions is made anew whenever one comes or goes.
"""

from typing import Final
from weakref import WeakKeyDictionary

from hdvkit.errors import GuestError
from hdvkit.memory import RegionMemory
from hdvkit.native._native import ffi, lib
from hdvkit.native.regions import Pointer, Table, address
from hdvkit.virtio import Chain, Feature, PackedRing, Ring, RingAddresses, SplitRing

_CHAIN: Final = 1
_NONE: Final = 0

_SENTENCES: Final = (
    "nothing is wrong",
    "a chain of more than {a} descriptors",
    "a chain of {a} bytes: at most {b} are served",
    "a descriptor of length 0 at address {a:#x}",
    "a readable descriptor behind a writable one",
    "{a} bytes at {b:#x} are no range of a 64-bit address space",
    "{a} bytes at {b:#x} do not lie inside guest RAM",
    "{a} bytes at {b:#x} are to be written, but that memory is read-only",
    "an indirect table of {a} bytes: not a multiple of {b}",
    "an indirect table of {a} descriptors: at most {b}",
    "an indirect descriptor, though INDIRECT_DESC was not negotiated",
    "a descriptor that is both indirect and linked to a next one",
    "an indirect descriptor inside an indirect table",
    "descriptor {a} lies outside a table of {b}",
    "descriptor {a} lies outside an indirect table of {b}",
    "a chain does not end within the {a} descriptors of its table",
    "a chain does not end within the {a} descriptors of its indirect table",
    "the available index is {a} ahead of a ring of {b}",
    "the available ring names descriptor {a} of a table of {b}",
    "chain {a} was made available again while the device still has it",
    "a chain runs on into slot {a}, which is not available",
    "an indirect descriptor inside a chain of a packed ring",
    "a chain does not end within the {a} descriptors the device does not hold",
    "an indirect table of {a} bytes at {b:#x}, which is memory of a machine that does not share it",
    "the driver announced buffers {a} times and had none",
)
"""What each ``hdv_code`` means, as the rings in Python say it."""


_tables: "WeakKeyDictionary[RegionMemory, Table]" = WeakKeyDictionary()
_chain: Final = ffi.new("hdv_chain *")  # what a pop found; copied out before the next, on the loop's thread


class NativeRing(Ring):
    """What split and packed rings in C have in common."""

    packed: bool

    def __init__(self, memory: RegionMemory, addresses: RingAddresses, size: int, features: Feature) -> None:
        super().__init__(memory, addresses, size, features)
        self._regions = memory
        self._found: tuple[Pointer, Table] | None = None
        self.c: Pointer = ffi.new("hdv_ring *")
        areas = [ffi.cast("uint8_t *", address(view)) for view in self._views]
        lib.hdv_ring_init(self.c, *areas, size, self.packed, self._indirect, self._event_idx)

    def pop(self) -> Chain | None:
        """Take the next chain; see :meth:`Ring.pop`."""
        if self._found is not None:  # its buffers could not be reached
            return self._take(*self._found)
        table = self._table()
        popped = lib.hdv_ring_pop(self.c, table.c, _chain)
        if popped == _NONE:
            return None
        if popped != _CHAIN:
            raise GuestError(sentence(self.c.error))
        if not _chain.remote:
            return self._chain_of(_chain, table)
        self._found = ffi.new("hdv_chain *", _chain[0]), table
        return self._take(*self._found)

    def _take(self, found: Pointer, table: Table) -> Chain:
        chain = self._chain_of(found, table)
        self._found = None
        return chain

    def arm(self) -> bool:
        """Ask for a kick; see :meth:`Ring.arm`."""
        return bool(lib.hdv_ring_arm(self.c))

    def disarm(self) -> None:
        """No kicks, please; see :meth:`Ring.disarm`."""
        lib.hdv_ring_disarm(self.c)

    def should_signal(self) -> bool:
        """Whether to interrupt; see :meth:`Ring.should_signal`."""
        return not self._closed and bool(lib.hdv_ring_should_signal(self.c))

    def _push(self, chain: Chain) -> None:
        lib.hdv_ring_push(self.c, chain.head, chain.slots, chain.written)

    def _chain_of(self, found: Pointer, table: Table) -> Chain:
        """A chain that C has taken from the ring; its buffers are leased."""
        readable, writable = table.lease_all(found)
        self._outstanding.add(found.head)
        return Chain(found.head, found.slots, readable, writable, self._completed)

    def _table(self) -> Table:
        table = _tables.get(self._regions)
        if table is None or table.generation != self._regions.generation:
            table = _tables[self._regions] = Table(self._regions)
        return table

    def _drop_casts(self) -> None:
        """C keeps addresses, and is not asked any more."""


class NativeSplitRing(NativeRing):
    """A split ring in C."""

    packed = False
    areas = staticmethod(SplitRing.areas)

    def __init__(self, memory: RegionMemory, addresses: RingAddresses, size: int, features: Feature) -> None:
        super().__init__(memory, addresses, size, features)
        if not size or size & (size - 1):
            self.close()
            raise GuestError(f"a split virtqueue of {size}: its size must be a power of two")


class NativePackedRing(NativeRing):
    """A packed ring in C."""

    packed = True
    areas = staticmethod(PackedRing.areas)


def sentence(error: Pointer) -> str:
    """What the driver broke."""
    return _SENTENCES[error.code].format(a=error.a, b=error.b)
