"""Guest memory by apertures: mappings that are made on demand, limited in number, and evicted. No I/O.

For platforms that map guest pages only piece by piece. A range is mapped when it is first touched, exactly by
pages, and stays mapped until room is needed: the least recently used mapping that nobody leases goes first.

When all are leased, a lease that need not be coherent becomes a copy: slower, never wrong.
"""

from collections import OrderedDict
from typing import Protocol

import attrs

from hdvkit.errors import GuestError, HostError
from hdvkit.memory import Lease, Memory, MemoryBusy, check_range

PAGE = 4096
COPY_BUDGET = 64 << 20
"""Bytes that may be out as copies, of all devices together: two of the longest chains."""


class NoMoreApertures(MemoryBusy):
    """The platform's limit on mappings is reached."""


class Platform(Protocol):
    """Who makes the mappings."""

    def create(self, address: int, size: int, writable: bool) -> memoryview:
        """Map whole pages of guest memory.

        Raises:
            NoMoreApertures: One has to be destroyed first.
            HostError: There is no such memory.
        """
        ...

    def destroy(self, view: memoryview) -> None:
        """Unmap what ``create`` returned."""
        ...


@attrs.define(eq=False)
class _Aperture:
    view: memoryview
    leases: int = 0


@attrs.frozen
class ApertureStats:
    """How the mappings do."""

    live: int
    leases: int
    hits: int
    creates: int
    evictions: int
    copies: int
    """Leases that had to be served by a copy."""


Key = tuple[int, int, bool]


class ApertureMemory(Memory):
    """Guest RAM behind a limited number of mappings.

    Arguments:
        platform: Makes and destroys mappings.
        limit: How many to have at most. One is kept free of leases, for copies.
        max_address: No RAM lies at or above it.
    """

    def __init__(self, platform: Platform, *, limit: int, max_address: int) -> None:
        self._platform = platform
        self._limit = limit
        self._max_address = max_address
        self._apertures: OrderedDict[Key, _Aperture] = OrderedDict()  # least recently used first
        self._leased = 0  # mappings with leases
        self._copies_out = 0
        self._copied = 0  # bytes
        self._hits = self._creates = self._evictions = self._copies = 0

    def lease(self, address: int, size: int, *, writable: bool, coherent: bool = False) -> Lease:
        """Lease a range, mapping it if need be; see :meth:`Memory.lease`."""
        check_range(address, size)
        if address + size > self._max_address:
            raise GuestError(f"{size} bytes at {address:#x} do not lie inside guest RAM")
        aperture = self._find(self._key(address, size, writable), coherent)
        if aperture is None:
            return self._copy(address, size, writable)
        self._leased += not aperture.leases
        aperture.leases += 1
        start = address % PAGE

        def back() -> None:
            aperture.leases -= 1
            self._leased -= not aperture.leases

        return Lease(aperture.view[start : start + size], back)

    @property
    def leases(self) -> int:
        """How many leases are out."""
        return sum(aperture.leases for aperture in self._apertures.values()) + self._copies_out

    def stats(self) -> ApertureStats:
        """A snapshot of the counters."""
        return ApertureStats(
            live=len(self._apertures),
            leases=self.leases,
            hits=self._hits,
            creates=self._creates,
            evictions=self._evictions,
            copies=self._copies,
        )

    def clear(self) -> None:
        """Destroy every mapping that nobody leases."""
        while self._evict():
            pass

    @staticmethod
    def _key(address: int, size: int, writable: bool) -> Key:
        start = address - address % PAGE
        return start, -(-(address + size) // PAGE) * PAGE - start, writable

    def _find(self, key: Key, coherent: bool) -> _Aperture | None:
        """The mapping for a range; None when a copy will do and has to."""
        aperture = self._existing(key)
        if aperture is not None and aperture.leases:
            return aperture
        # One mapping always stays free of leases, for copies to pass through.
        if self._leased >= self._limit - 1:
            if not coherent:
                return None
            raise NoMoreApertures(f"all {self._limit - 1} apertures are in use; lower queues or queue_size")
        return aperture or self._create(key)

    def _existing(self, key: Key) -> _Aperture | None:
        """A mapping that is there, now the most recently used. A writable one may be read all the same."""
        for found in (key, (key[0], key[1], True)):
            if found in self._apertures:
                self._hits += 1
                self._apertures.move_to_end(found)
                return self._apertures[found]
        return None

    def _create(self, key: Key) -> _Aperture:
        """Map a range, evicting others as often as there are others."""
        for _ in range(self._limit + 1):
            if len(self._apertures) < self._limit:
                try:
                    aperture = _Aperture(self._platform.create(*key))
                except NoMoreApertures:
                    pass  # others use up the platform's limit: make room in ours
                except HostError as error:
                    raise GuestError(f"{key[1]} bytes at {key[0]:#x} cannot be mapped: {error}") from error
                else:
                    self._creates += 1
                    self._apertures[key] = aperture
                    return aperture
            if not self._evict():
                break
        raise NoMoreApertures(f"all {len(self._apertures)} apertures are in use; lower queues or queue_size")

    def _evict(self) -> bool:
        key = next((key for key, one in self._apertures.items() if not one.leases), None)
        if key is None:
            return False
        self._platform.destroy(self._apertures.pop(key).view)
        self._evictions += 1
        return True

    def _copy(self, address: int, size: int, writable: bool) -> Lease:
        """A lease on a copy, written back with the release. Takes one mapping, for as long as copying takes."""
        if self._copied + size > COPY_BUDGET:
            raise NoMoreApertures(f"{self._copied} bytes of guest memory are copied already, {COPY_BUDGET} may be")
        data = bytearray(size)
        self._exchange(address, data, writable)
        self._copies += 1
        self._copies_out += 1
        self._copied += size

        def back() -> None:
            self._copies_out -= 1
            self._copied -= size
            if writable:
                self._exchange(address, data, writable, into_guest=True)

        return Lease(memoryview(data), back)

    def _exchange(self, address: int, data: bytearray, writable: bool, *, into_guest: bool = False) -> None:
        """Copy between ``data`` and the guest. Memory that may not be written is refused with the first copy."""
        key = self._key(address, len(data), writable)
        aperture = self._existing(key) or self._create(key)
        start = address % PAGE
        part = aperture.view[start : start + len(data)]
        if into_guest:
            part[:] = data
        else:
            data[:] = part
