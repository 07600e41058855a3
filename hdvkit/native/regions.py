"""The regions of a guest's memory as C sees them: addresses, and leases for what C has found there."""

from operator import itemgetter
from typing import Any, TypeAlias

from hdvkit.memory import Lease, RegionMemory
from hdvkit.native._native import ffi
from hdvkit.virtio.chain import release_all

Pointer: TypeAlias = Any
"""What cffi returns; its type is known to C only."""


class Table:
    """The regions of one memory as C sees them."""

    def __init__(self, memory: RegionMemory) -> None:
        self.generation = memory.generation
        self._memory = memory
        mapped = [(region.address, region.end, region.writable, region) for region in memory.regions]
        remote = [(start, start + size, True, None) for start, size in memory.remote_ranges]
        self._ranges = sorted([*mapped, *remote], key=itemgetter(0))
        self._bases = [0 if region is None else address(region.view) for *_, region in self._ranges]
        self._array = ffi.new("hdv_region[]", max(1, len(self._ranges)))
        for entry, (start, end, writable, _), base in zip(self._array, self._ranges, self._bases, strict=False):
            entry.address, entry.size, entry.writable = start, end - start, writable
            entry.base = ffi.cast("uint8_t *", base)
        self.c: Pointer = ffi.new("hdv_memory *", {"regions": self._array, "count": len(self._ranges)})

    def lease(self, segment: Pointer, index: int, *, writable: bool) -> Lease:
        """Lease what C found.

        Raises:
            MemoryBusy: It is not mapped, and cannot be reached now.
        """
        region = self._ranges[index][3]
        place = int(ffi.cast("uintptr_t", segment.base))
        if region is None:
            return self._memory.lease(place, segment.size, writable=writable)
        return region.lease(region.address + place - self._bases[index], segment.size)

    def lease_all(self, found: Pointer) -> tuple[list[Lease], list[Lease]]:
        """Lease the segments of a chain, or of an event about one: the readable, and the writable.

        Raises:
            MemoryBusy: Some are not mapped, and cannot be reached now.
        """
        readable = found.readable
        leases: list[Lease] = []
        try:
            for index in range(readable + found.writable):
                segment, region = found.segments[index], found.regions[index]
                leases.append(self.lease(segment, region, writable=index >= readable))
        except BaseException:
            release_all(leases)
            raise
        return leases[:readable], leases[readable:]

    def hold(self) -> list[Lease]:
        """Lease all of every region, so that none is unmapped."""
        regions = [region for *_, region in self._ranges if region is not None]
        return [region.lease(region.address, region.end - region.address) for region in regions]

    def __len__(self) -> int:
        return len(self._ranges)


def address(view: memoryview) -> int:
    """Where a view lies. Nothing is held: who asks has a lease on it, or knows that it is mapped."""
    with ffi.from_buffer(view) as buffer:
        return int(ffi.cast("uintptr_t", buffer))
