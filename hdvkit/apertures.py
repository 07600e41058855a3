"""Guest memory by apertures: mappings that are made on demand, limited in number, and evicted. No I/O.

For platforms that map guest pages only piece by piece. A range is mapped when it is first touched, exactly by
pages, and stays mapped until room is needed: the least recently used mapping that nobody leases goes first.

When all are leased, a lease that need not be coherent becomes a copy: slower, never wrong.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

import attrs

from hdvkit.errors import GuestError, HostError
from hdvkit.memory import Lease, Memory, MemoryBusy, check_range

PAGE = 4096
COPY_BUDGET = 64 << 20
"""Bytes that may be out as copies, of all devices together: two of the longest chains."""

ASK_AGAIN = 1024
"""Mappings made, after which a platform that had no more is asked for more again."""


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
    platform: Platform
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


Key = tuple["ApertureMemory", int, int, bool]


class AperturePool:
    """The mappings of one machine, shared by all its functions.

    Arguments:
        limit: How many to have at most. One is kept free of leases, for copies.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._granted = limit  # less, while others use up what the platform has
        self._shrunk = False
        self._apertures: OrderedDict[Key, _Aperture] = OrderedDict()  # least recently used first
        self._leased = 0  # mappings with leases
        self._copied = 0  # bytes
        self._waiting: list[Callable[[], None]] = []
        self._passing = 0  # leases of chains, which come back; a ring keeps its own for as long as it is enabled
        self._leases = self._hits = self._creates = self._evictions = self._copies = 0

    def stats(self) -> ApertureStats:
        """A snapshot of the counters."""
        return ApertureStats(
            live=len(self._apertures),
            leases=self._leases,
            hits=self._hits,
            creates=self._creates,
            evictions=self._evictions,
            copies=self._copies,
        )

    def find(self, key: Key, coherent: bool) -> _Aperture | None:
        """The mapping for a range; None when a copy will do and has to.

        Raises:
            NoMoreApertures: A copy will not do.
            GuestError: There is no such memory.
        """
        aperture = self._existing(key)
        if aperture is not None and aperture.leases:
            return aperture
        # One mapping always stays free of leases, for copies to pass through.
        if self._leased >= self._granted - 1:
            if not coherent:
                return None
            raise NoMoreApertures(f"all {self._granted - 1} apertures are in use; lower queues or queue_size")
        return aperture or self._create(key)

    def lease(self, aperture: _Aperture, memory: "ApertureMemory", part: slice, coherent: bool) -> Lease:
        """Lease a part of a mapping."""
        self._leased += not aperture.leases
        aperture.leases += 1
        self._taken(memory, coherent)

        def back() -> None:
            aperture.leases -= 1
            self._leased -= not aperture.leases
            self._returned(memory, coherent)

        return Lease(aperture.view[part], back)

    def copy(self, key: Key, part: slice) -> Lease:
        """A lease on a copy, written back with the release. Takes one mapping, for as long as copying takes."""
        memory, size = key[0], part.stop - part.start
        if self._copied + size > COPY_BUDGET:
            raise NoMoreApertures(f"{self._copied} bytes of guest memory are copied already, {COPY_BUDGET} may be")
        data = bytearray(self._mapped(key)[part])
        self._copies += 1
        self._copied += size
        self._taken(memory, coherent=False)

        def back() -> None:
            self._copied -= size
            if key[-1]:
                self._mapped(key)[part] = data
            self._returned(memory, coherent=False)

        return Lease(memoryview(data), back)

    def when_returned(self, then: Callable[[], None]) -> bool:
        """Call ``then`` when there may be more room: when the next lease of a chain is back. False when none is out."""
        if self._shrunk:  # in the middle of a chain, whose leases are back: next time there will be copies
            self._shrunk = False
            then()
            return True
        if self._passing:
            self._waiting.append(then)
        return bool(self._passing)

    def clear(self, memory: "ApertureMemory") -> None:
        """Destroy every mapping of one function that nobody leases."""
        for key, aperture in tuple(self._apertures.items()):
            if key[0] is memory and not aperture.leases:
                self._destroy(key)

    def _taken(self, memory: "ApertureMemory", coherent: bool) -> None:
        memory.out += 1
        self._leases += 1
        self._passing += not coherent

    def _returned(self, memory: "ApertureMemory", coherent: bool) -> None:
        memory.out -= 1
        self._leases -= 1
        self._passing -= not coherent
        waiting, self._waiting = self._waiting, []
        for then in waiting:
            then()

    def _mapped(self, key: Key) -> memoryview:
        """A mapping to copy by. Memory that may not be written is refused with the first copy."""
        return (self._existing(key) or self._create(key)).view

    def _existing(self, key: Key) -> _Aperture | None:
        """A mapping that is there, now the most recently used. A writable one may be read all the same."""
        for found in (key, (*key[:3], True)):
            if found in self._apertures:
                self._hits += 1
                self._apertures.move_to_end(found)
                return self._apertures[found]
        return None

    def _create(self, key: Key) -> _Aperture:
        """Map a range, evicting others as often as there are others."""
        memory, start, size, writable = key
        for _ in range(self.limit + 1):
            if len(self._apertures) < self._granted:
                try:
                    aperture = _Aperture(memory.platform, memory.platform.create(start, size, writable))
                except NoMoreApertures:
                    self._shrink()
                except HostError as error:
                    raise GuestError(f"{size} bytes at {start:#x} cannot be mapped: {error}") from error
                else:
                    self._creates += 1
                    self._apertures[key] = aperture
                    if not self._creates % ASK_AGAIN:
                        self._granted = self.limit
                    return aperture
            if not self._evict():
                break
        raise NoMoreApertures(f"all {len(self._apertures)} apertures are in use; lower queues or queue_size")

    def _shrink(self) -> None:
        """Others use up the platform's limit: make do with what we have, for some time."""
        self._granted = max(1, len(self._apertures))
        self._shrunk = True

    def _evict(self) -> bool:
        key = next((key for key, one in self._apertures.items() if not one.leases), None)
        if key is None:
            return False
        self._destroy(key)
        self._evictions += 1
        return True

    def _destroy(self, key: Key) -> None:
        aperture = self._apertures.pop(key)
        aperture.platform.destroy(aperture.view)


class ApertureMemory(Memory):
    """Guest RAM behind a limited number of mappings, as one function reaches it.

    Arguments:
        platform: Makes and destroys the function's mappings.
        pool: The mappings of the machine.
        max_address: No RAM lies at or above it.
    """

    def __init__(self, platform: Platform, pool: AperturePool, *, max_address: int) -> None:
        self.platform = platform
        self.pool = pool
        self.out = 0
        self._max_address = max_address

    def lease(self, address: int, size: int, *, writable: bool, coherent: bool = False) -> Lease:
        """Lease a range, mapping it if need be; see :meth:`Memory.lease`."""
        check_range(address, size)
        if address + size > self._max_address:
            raise GuestError(f"{size} bytes at {address:#x} do not lie inside guest RAM")
        at = address % PAGE
        part = slice(at, at + size)
        key = (self, address - at, -(-part.stop // PAGE) * PAGE, writable)
        aperture = self.pool.find(key, coherent)
        return self.pool.lease(aperture, self, part, coherent) if aperture else self.pool.copy(key, part)

    @property
    def leases(self) -> int:
        """How many leases of this function are out."""
        return self.out

    def when_returned(self, then: Callable[[], None]) -> bool:
        """Call ``then`` when another function has given memory back."""
        return self.pool.when_returned(then)

    def clear(self) -> None:
        """Destroy every mapping of this function that nobody leases."""
        self.pool.clear(self)
