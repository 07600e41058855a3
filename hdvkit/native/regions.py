"""The regions of a guest's memory as C sees them: addresses, and leases for what C has found there."""

from collections.abc import Sequence
from typing import Any, TypeAlias

from hdvkit.memory import Lease, Region, RegionMemory
from hdvkit.native._native import ffi

Pointer: TypeAlias = Any
"""What cffi returns; its type is known to C only."""


class Table:
    """The regions of one memory as C sees them."""

    def __init__(self, memory: RegionMemory) -> None:
        self.regions: Sequence[Region] = tuple(memory.regions)
        self.bases = [address(region.view) for region in self.regions]
        self.generation = memory.generation
        self._array = ffi.new("hdv_region[]", max(1, len(self.regions)))
        for entry, region, base in zip(self._array, self.regions, self.bases, strict=False):
            entry.address, entry.size = region.address, region.end - region.address
            entry.base, entry.writable = ffi.cast("uint8_t *", base), region.writable
        self.c: Pointer = ffi.new("hdv_memory *", {"regions": self._array, "count": len(self.regions)})

    def lease(self, segment: Pointer, index: int) -> Lease:
        """Lease what C found."""
        region = self.regions[index]
        start = int(ffi.cast("uintptr_t", segment.base)) - self.bases[index]
        return region.lease(region.address + start, segment.size)

    def lease_all(self, found: Pointer, count: int) -> list[Lease]:
        """Lease the segments of a chain, or of an event about one."""
        return [self.lease(found.segments[index], found.regions[index]) for index in range(count)]

    def hold(self) -> list[Lease]:
        """Lease all of every region, so that none is unmapped."""
        return [region.lease(region.address, region.end - region.address) for region in self.regions]


def address(view: memoryview) -> int:
    """Where a view lies. Nothing is held: who asks has a lease on it, or knows that it is mapped."""
    with ffi.from_buffer(view) as buffer:
        return int(ffi.cast("uintptr_t", buffer))
