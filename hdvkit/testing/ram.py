"""RAM of the simulated machine, laid out as Hyper-V does: split around the 32-bit hole. Imports nothing of hdvkit."""

import mmap
from bisect import insort
from collections.abc import Mapping

MIB = 1 << 20
HIGH = 1 << 32
"""Where RAM continues above the hole."""
MAX_LOW = 3840 * MIB
LEGACY_HOLE = 640 << 10
"""Here RAM stops for video memory and firmware, up to the first MiB."""
MIN_SIZE = 4 * MIB


class Ram:
    """Guest-physical memory with a first-fit allocator that takes turns between the two halves.

    So every test that uses a few buffers has some below and some above 4 GiB.
    """

    def __init__(self, size: int) -> None:
        low = min(size // 2, MAX_LOW)
        spans = [(0, LEGACY_HOLE), (MIB, low - MIB), (HIGH, size - low)]
        self._regions = {start: memoryview(mmap.mmap(-1, length)) for start, length in spans}
        # Page 0 stays free: a ring at address 0 is a driver that forgot to set it.
        self._free = {0: [(4096, LEGACY_HOLE - 4096), spans[1]], HIGH: [spans[2]]}
        self._taken: dict[int, int] = {}
        self._turn = 0

    @property
    def regions(self) -> Mapping[int, memoryview]:
        """The parts by their address."""
        return self._regions

    @property
    def allocated(self) -> int:
        """Bytes that are taken."""
        return sum(self._taken.values())

    def region_size(self, address: int) -> int:
        """How long the region is that begins at ``address``."""
        return len(self._regions[address])

    def view(self, address: int, size: int) -> memoryview:
        """A range as bytes; raises ValueError unless it lies inside one region."""
        for start, region in self._regions.items():
            if start <= address and size >= 0 and address + size <= start + len(region):
                return region[address - start : address - start + size]
        raise ValueError(f"no RAM for {size} bytes at {address:#x}")

    def allocate(self, size: int, align: int = 4096) -> int:
        """Take zeroed RAM; raises MemoryError when there is none."""
        self._turn += 1
        first, second = (HIGH, 0) if self._turn % 2 else (0, HIGH)
        address = self._take(first, size, align)
        if address is None:
            address = self._take(second, size, align)
        if address is None:
            raise MemoryError(f"the simulated machine has no {size} bytes of RAM left; give it more with memory_mb")
        self._taken[address] = size
        self.view(address, size)[:] = bytes(size)
        return address

    def free(self, address: int) -> None:
        """Give back what ``allocate`` returned."""
        size = self._taken.pop(address)
        chunks = self._free[HIGH if address >= HIGH else 0]
        insort(chunks, (address, size))
        chunks[:] = _merged(chunks)

    def _take(self, base: int, size: int, align: int) -> int | None:
        chunks = self._free[base]
        for at, (start, length) in enumerate(chunks):
            address = -(-start // align) * align
            left = start + length - address - size
            if left >= 0:
                chunks[at : at + 1] = [
                    chunk for chunk in ((start, address - start), (address + size, left)) if chunk[1]
                ]
                return address
        return None


def _merged(chunks: list[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, length in chunks:
        if merged and sum(merged[-1]) == start:
            merged[-1] = (merged[-1][0], merged[-1][1] + length)
        else:
            merged.append((start, length))
    return merged
