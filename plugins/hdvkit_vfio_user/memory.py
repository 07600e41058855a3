"""Guest memory as a client maps it: DMA_MAP and DMA_UNMAP. Loop thread only."""

import asyncio
import errno
from bisect import bisect
from collections.abc import Callable, Sequence

import attrs

from hdvkit.memory import Lease, RegionMemory, check_range
from hdvkit_vfio_user.mapping import Mapping
from hdvkit_vfio_user.protocol import DmaMap, Refused
from hdvkit_vfio_user.protocol.spec import MAX_DMA_MAPS
from hdvkit_vfio_user.remote import RemoteMemory, Settled

PATIENCE = 1.0
"""Seconds that a client waits for memory in use before it is cut off. QEMU stands still meanwhile, and gives up the
device after five."""


@attrs.define(eq=False)
class Range:
    """One range: what the client asked for, and the mapping, if it gave a descriptor."""

    wanted: DmaMap
    mapping: Mapping | None
    taken: bool = False
    """Whether the client took it away again."""

    @property
    def remote(self) -> bool:
        """Whether messages reach it. Not a ROM: QEMU never gives a descriptor for one, and nobody lends it out."""
        return self.mapping is None and self.wanted.readable and self.wanted.writable


class GuestMemory(RegionMemory):
    """The ranges of one client: with a descriptor they are mapped, without one reached by messages."""

    def __init__(self, remote: RemoteMemory) -> None:
        super().__init__()
        self._remote = remote
        self._any_remote = False  # video memory is, in QEMU; nobody lends that to a device
        self._ranges: dict[int, Range] = {}  # by address
        self._addresses: list[int] = []  # of all ranges, sorted

    def add(self, wanted: DmaMap, fd: int | None) -> None:
        """Map a range.

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
        self._ranges[wanted.address] = Range(wanted, mapping)
        self._addresses.insert(at, wanted.address)
        if self._ranges[wanted.address].remote:
            self._any_remote = True
            self._changed()

    def holds(self, address: int, size: int) -> bool:
        """Whether that is a range as it was mapped."""
        return address in self._ranges and self._ranges[address].wanted.size == size

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """Address and size of all ranges."""
        return [(one.wanted.address, one.wanted.size) for one in self._ranges.values()]

    def remove(self, address: int, gone: Callable[[], None], *, patience: float | None = None) -> None:
        """Take a range away; ``gone`` is called once nobody can reach it any more.

        That is after ``patience`` seconds at the latest, or after PATIENCE.
        """
        one = self._ranges.pop(address)
        del self._addresses[bisect(self._addresses, address) - 1]
        one.taken = True
        if one.mapping is None:
            self._changed()
            gone()
        else:
            leaving = _Leaving(one.mapping, gone)
            self.unmap(address, leaving.idle)
            leaving.wait(PATIENCE if patience is None else patience)

    @property
    def remote_ranges(self) -> Sequence[tuple[int, int]]:
        """Address and size of what the client gave no descriptor for."""
        remote = [one.wanted for one in self._ranges.values() if one.remote] if self._any_remote else []
        return [(one.address, one.size) for one in remote]

    def lease(self, address: int, size: int, *, writable: bool, coherent: bool = False) -> Lease:
        """Lease a range of memory, wherever it lies; see :meth:`Memory.lease`."""
        remote = self._remote_range(address, size)
        if remote is None:
            return super().lease(address, size, writable=writable, coherent=coherent)
        self.immediate = False
        return self._remote.lease(address, size, writable=writable, taken=lambda: remote.taken)

    def lease_ring(self, areas: Sequence[tuple[int, int]]) -> list[Lease]:
        """Lease the areas of a ring; see :meth:`Memory.lease_ring`. A ring that is partly remote is mirrored."""
        remote = [self._remote_range(address, size) for address, size in areas]
        if not any(remote):
            return super().lease_ring(areas)
        for (address, size), one in zip(areas, remote, strict=True):
            if one is None:
                super().lease(address, size, writable=True).release()  # raises where no ring can be
        self.immediate = False
        return [self._remote.mirror(address, size) for address, size in areas]

    def copy(self, address: int, size: int) -> bytes:
        """Copy memory, wherever it lies; see :meth:`Memory.copy`."""
        if self._remote_range(address, size) is None:
            return super().copy(address, size)
        self.immediate = False
        return self._remote.copy(address, size)

    def barrier(self) -> None:
        """Order memory; see :meth:`Memory.barrier`."""
        super().barrier()
        if not self.immediate:
            self._remote.barrier()

    def settled(self, then: Settled) -> bool:
        """Whether all buffers have arrived; see :meth:`Memory.settled`."""
        return self._remote.settled(then)

    def delivered(self, then: Callable[[], None]) -> bool:
        """Whether all that was given back has arrived; see :meth:`Memory.delivered`."""
        return self._remote.delivered(then)

    @property
    def leases(self) -> int:
        """How many leases are out."""
        return super().leases + self._remote.leases

    def _remote_range(self, address: int, size: int) -> Range | None:
        """The range where messages reach that; None also where nothing is, for the mappings to say so."""
        if not self._any_remote:
            return None
        check_range(address, size)
        at = bisect(self._addresses, address)
        one = self._ranges[self._addresses[at - 1]] if at else None
        if one is None or not one.remote or address + size > one.wanted.address + one.wanted.size:
            return None
        return one

    def _overlaps(self, wanted: DmaMap, neighbours: Sequence[int]) -> bool:
        return any(
            address < wanted.address + wanted.size and wanted.address < address + self._ranges[address].wanted.size
            for address in neighbours
        )


class _Leaving:
    """A range that was taken away while somebody may be using it."""

    def __init__(self, mapping: Mapping, gone: Callable[[], None]) -> None:
        self._mapping = mapping
        self._gone: Callable[[], None] | None = gone
        self._timer: asyncio.TimerHandle | None = None

    def wait(self, patience: float) -> None:
        """Wait for the last user, but not for ever."""
        if self._gone is not None and patience:
            self._timer = asyncio.get_running_loop().call_later(patience, self._cut)
        elif self._gone is not None:
            self._cut()

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
            self.wait(PATIENCE)

    def _tell(self) -> None:
        gone, self._gone = self._gone, None
        if gone is not None:
            gone()
