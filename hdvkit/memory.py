"""Guest-physical memory as leased memoryviews. No I/O: whoever maps the memory hands in a buffer.

A lease is the right to touch one range of guest memory. Rings hold leases for their life, chains until they are
completed. A range goes away (``unmap``) only when its last lease is back, so no view ever outlives its memory.

Leases are taken and given back on one thread, the event loop's; the views may be used on any.
"""

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from threading import Lock
from types import TracebackType

from hdvkit.errors import GuestError, HostError, UsageError

ADDRESS_SPACE = 1 << 64

_fence = Lock()


class MemoryBusy(HostError):
    """Too much guest memory is leased at once; try again when some of it is back."""


class MemoryArriving(MemoryBusy):
    """What was asked for is on its way; ask again when the memory has ``settled``."""


def check_range(address: int, size: int) -> None:
    """Raise GuestError unless ``size`` bytes from ``address`` are some bytes and do not wrap."""
    if size <= 0 or address < 0 or address + size > ADDRESS_SPACE:
        raise GuestError(f"{size} bytes at {address:#x} are no range of a 64-bit address space")


class Lease:
    """The right to one range of guest memory until ``release``; also a context manager giving the view."""

    __slots__ = ("_back", "view")

    def __init__(self, view: memoryview, back: Callable[[], None]) -> None:
        self.view = view
        self._back: Callable[[], None] | None = back

    def release(self) -> None:
        """Give the range back; the view raises ValueError from now on, slices of it must not be used any more.

        Doing it twice is harmless.

        Raises:
            BufferError: Somebody is inside a system call on the view; the lease stays out.
        """
        if self._back is not None:
            self.view.release()
            back, self._back = self._back, None
            back()

    def __enter__(self) -> memoryview:
        return self.view

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class Memory(ABC):
    """Guest RAM, as rings and chains see it."""

    immediate = True
    """What is leased shows at once what the guest stored, and what is given back has reached it.

    If not, wait until ``settled`` and until ``delivered``. May change with any lease, but never back.
    """

    @abstractmethod
    def lease(self, address: int, size: int, *, writable: bool, coherent: bool = False) -> Lease:
        """Lease ``size`` bytes at guest-physical ``address``.

        A ``coherent`` lease shows at once what the other side stores; rings need that. Without it the view may
        be a copy that reaches the guest with ``release``.

        Raises:
            GuestError: There is no such RAM, it may not be written, or the range crosses the end of a region.
                MMIO is never RAM, so a device cannot be made to write into registers (its own or another's).
            MemoryBusy: The platform has no more to give until other leases are back.
        """

    def lease_ring(self, areas: Sequence[tuple[int, int]]) -> list[Lease]:
        """Lease the areas of a ring by address and size, writable and coherent: all of them, or none.

        Raises:
            GuestError, MemoryBusy: As for ``lease``.
        """
        leases: list[Lease] = []
        try:
            for address, size in areas:
                leases.append(self.lease(address, size, writable=True, coherent=True))
        except BaseException:
            for lease in leases:
                lease.release()
            raise
        return leases

    @property
    @abstractmethod
    def leases(self) -> int:
        """How many leases are out. 0 when nothing of the guest's memory is in use."""

    def when_returned(self, then: "Callable[[], None]") -> bool:
        """After MemoryBusy: call ``then`` when somebody else has given memory back; False when nobody else has any."""
        return False

    def barrier(self) -> None:
        """Order memory: what this thread stored before is visible to the guest before it loads what follows.

        The one place that does. Python has no fence of its own; taking a lock is an atomic read-modify-write, which
        on x86 orders everything, and everywhere at least what stands before the release. Nobody ever waits for it.
        """
        with _fence:
            pass

    def copy(self, address: int, size: int) -> bytes:
        """Copy guest memory now.

        Raises:
            GuestError: As for ``lease``.
            MemoryArriving: Copy again when ``settled``.
        """
        with self.lease(address, size, writable=False) as view:
            return bytes(view)

    def settled(self, then: "Callable[[GuestError | None], None]") -> bool:
        """Whether all that is leased shows what the guest stored.

        If not, ``then`` is called as soon as it does, or with the reason why it never will.
        """
        return True

    def delivered(self, then: "Callable[[], None]") -> bool:
        """Whether all that was given back has reached the guest. If not, ``then`` is called when it has."""
        return True


class Region:
    """One mapped range of guest RAM."""

    __slots__ = ("_idle", "address", "end", "leases", "view", "writable")

    def __init__(self, address: int, buffer: memoryview, writable: bool) -> None:
        self.address = address
        self.view = buffer
        self.end = address + len(buffer)
        self.writable = writable
        self.leases = 0
        self._idle: Callable[[], None] | None = None

    def lease(self, address: int, size: int) -> Lease:
        """Lease a range that lies inside."""
        self.leases += 1
        start = address - self.address
        return Lease(self.view[start : start + size], self._returned)

    def retire(self, idle: Callable[[], None]) -> None:
        """Call ``idle`` once, as soon as no lease is out: now or with the last return."""
        self._idle = idle
        if not self.leases:
            self._end()

    def _returned(self) -> None:
        self.leases -= 1
        if not self.leases and self._idle is not None:
            self._end()

    def _end(self) -> None:
        idle, self._idle = self._idle, None
        self.view = memoryview(b"")
        if idle is not None:
            idle()


_ADDRESS = attrgetter("address")


class RegionMemory(Memory):
    """Guest RAM as a few large buffers that stay mapped: what ``sim`` and ``vfio-user`` offer."""

    def __init__(self) -> None:
        self._regions: list[Region] = []  # sorted by address, never overlapping
        self._recent: Region | None = None  # where the last lease was: most likely the next is there too
        self._retiring: set[Region] = set()
        self.generation = 0
        """Counts up whenever a region comes or goes."""
        self.watchers: list[Callable[[], None]] = []
        """Called after that, before anybody finds out whether the region is still in use."""

    @property
    def regions(self) -> Sequence[Region]:
        """What is mapped, by address."""
        return self._regions

    @property
    def remote_ranges(self) -> Sequence[tuple[int, int]]:
        """Address and size of RAM that can be leased and is not mapped: what is there shows later."""
        return ()

    def maps(self, areas: Iterable[tuple[int, int]]) -> bool:
        """Whether all areas, by address and size, lie inside regions."""
        return all(
            any(region.address <= address and address + size <= region.end for region in self._regions)
            for address, size in areas
        )

    def map(self, address: int, buffer: memoryview, *, writable: bool = True) -> None:
        """Make ``buffer`` the RAM at ``address``.

        Raises:
            UsageError: The range wraps or overlaps one that is mapped.
        """
        region = Region(address, buffer.cast("B"), writable and not buffer.readonly)
        if address < 0 or region.end > ADDRESS_SPACE or region.end == address:
            raise UsageError(f"cannot map {len(buffer)} bytes at {address:#x}: no range of a 64-bit address space")
        at = bisect_right(self._regions, address, key=_ADDRESS)
        if (at and self._regions[at - 1].end > address) or (
            at < len(self._regions) and self._regions[at].address < region.end
        ):
            raise UsageError(f"cannot map {address:#x}-{region.end:#x}: it overlaps a mapped region; unmap that first")
        self._regions.insert(at, region)
        self._changed()

    def unmap(self, address: int, idle: Callable[[], None]) -> None:
        """Take the region that starts at ``address`` away. No new leases from now on.

        ``idle`` is called as soon as the last lease is back: only then may the caller unmap the buffer. Whoever
        holds leases for long (a ring) must be told by the caller to let go.

        Raises:
            UsageError: No region starts there.
        """
        at = bisect_right(self._regions, address, key=_ADDRESS) - 1
        if at < 0 or self._regions[at].address != address:
            raise UsageError(f"cannot unmap {address:#x}: no mapped region starts there")
        region = self._regions.pop(at)
        self._retiring.add(region)
        self._changed()

        def ended() -> None:
            self._retiring.discard(region)
            idle()

        region.retire(ended)

    def _changed(self) -> None:
        self._recent = None
        self.generation += 1
        for watcher in tuple(self.watchers):
            watcher()

    def lease(self, address: int, size: int, *, writable: bool, coherent: bool = False) -> Lease:
        """Lease a range that lies inside one region; always coherent."""
        region = self._recent
        if region is None or not size > 0 or address < region.address or address + size > region.end:
            region = self._recent = self._find(address, size)
        if writable and not region.writable:
            raise GuestError(f"{size} bytes at {address:#x} are to be written, but that memory is read-only")
        return region.lease(address, size)

    def _find(self, address: int, size: int) -> Region:
        check_range(address, size)
        at = bisect_right(self._regions, address, key=_ADDRESS) - 1
        if at < 0 or address + size > self._regions[at].end:
            raise GuestError(f"{size} bytes at {address:#x} do not lie inside guest RAM")
        return self._regions[at]

    @property
    def leases(self) -> int:
        """How many leases are out, of regions being unmapped too."""
        return sum(region.leases for region in self._regions) + sum(region.leases for region in self._retiring)
