"""Guest memory as a client maps it: DMA_MAP and DMA_UNMAP. Loop thread only."""

import asyncio
import errno
from bisect import bisect
from collections.abc import Callable, Sequence

from hdvkit.memory import RegionMemory
from hdvkit_vfio_user.mapping import Mapping
from hdvkit_vfio_user.protocol import DmaMap, Refused
from hdvkit_vfio_user.protocol.spec import MAX_DMA_MAPS

PATIENCE = 1.0
"""Seconds that a client waits for memory in use before it is cut off. QEMU stands still meanwhile, and gives up the
device after five."""


class GuestMemory(RegionMemory):
    """The ranges of one client."""

    def __init__(self) -> None:
        super().__init__()
        self._ranges: dict[int, tuple[int, Mapping | None]] = {}  # size and mapping by address
        self._addresses: list[int] = []  # of all ranges, sorted

    def add(self, wanted: DmaMap, fd: int | None) -> None:
        """Map a range. One without a descriptor is only remembered: it holds ROMs, which nobody lends to a device.

        Raises:
            Refused: EEXIST where something is mapped; else the range cannot be mapped.
        """
        if len(self._ranges) >= MAX_DMA_MAPS:
            raise Refused(errno.ENOSPC)
        at = bisect(self._addresses, wanted.address)
        if self._overlaps(wanted, self._addresses[max(at - 1, 0) : at + 1]):
            raise Refused(errno.EEXIST)
        mapping = None
        if fd is not None and wanted.readable:
            mapping = Mapping(fd, wanted.offset, wanted.size, writable=wanted.writable)
            self.map(wanted.address, mapping.view, writable=wanted.writable)
        self._ranges[wanted.address] = (wanted.size, mapping)
        self._addresses.insert(at, wanted.address)

    def holds(self, address: int, size: int) -> bool:
        """Whether that is a range as it was mapped."""
        return address in self._ranges and self._ranges[address][0] == size

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """Address and size of all ranges."""
        return [(address, size) for address, (size, _) in self._ranges.items()]

    def remove(self, address: int, gone: Callable[[], None]) -> None:
        """Take a range away; ``gone`` is called once nobody can reach it any more."""
        _, mapping = self._ranges.pop(address)
        del self._addresses[bisect(self._addresses, address) - 1]
        if mapping is None:
            gone()
        else:
            leaving = _Leaving(mapping, gone)
            self.unmap(address, leaving.idle)
            leaving.wait()

    def _overlaps(self, wanted: DmaMap, neighbours: Sequence[int]) -> bool:
        return any(
            address < wanted.address + wanted.size and wanted.address < address + self._ranges[address][0]
            for address in neighbours
        )


class _Leaving:
    """A range that was taken away while somebody may be using it."""

    def __init__(self, mapping: Mapping, gone: Callable[[], None]) -> None:
        self._mapping = mapping
        self._gone: Callable[[], None] | None = gone
        self._timer: asyncio.TimerHandle | None = None

    def wait(self) -> None:
        """Wait for the last user, but not for ever."""
        if self._gone is not None:
            self._timer = asyncio.get_running_loop().call_later(PATIENCE, self._cut)

    def idle(self) -> None:
        """Nobody uses it any more."""
        if self._timer is not None:
            self._timer.cancel()
        self._mapping.close()
        self._tell()

    def _cut(self) -> None:
        if self._mapping.cut():
            self._tell()
        else:
            self.wait()

    def _tell(self) -> None:
        gone, self._gone = self._gone, None
        if gone is not None:
            gone()
