"""Both kinds of ring written by hand: every descriptor exactly as told, nothing checked.

A raw ring works on a queue that nobody has used since it was started; the driver's own bookkeeping never hears of
it, so the driver must start anew afterwards.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple

from hdvkit.testing.driver import DriverQueue
from hdvkit.testing.driver_rings import DESCRIPTOR, F_INDIRECT, F_NEXT, F_WRITE, fence
from hdvkit.testing.hostile_guest import PAGE, Answer, Hostile, Intruder

AVAIL = 1 << 7
USED = 1 << 15
ROOM = 64
"""Bytes for the answer in a chain that is well-formed."""


class Link(NamedTuple):
    """One descriptor."""

    address: int
    length: int
    flags: int = 0
    word: int | None = None
    """The next of a split ring, by default the place behind; the buffer id of a packed one, by default the chain's."""


class RawRing(ABC):
    """A ring under the attacker's hand."""

    def __init__(self, intruder: Intruder) -> None:
        self.intruder = intruder
        self.queue: DriverQueue = intruder.queue
        self.size = self.queue.size
        self.buffer = intruder.buffer()
        """A page of RAM to point at."""
        self.offered = 0
        """Chains made available."""

    def good(self) -> list[Link]:
        """A well-formed chain: 16 readable bytes and some room."""
        return linked(Link(self.buffer, 16), Link(self.buffer + PAGE // 2, ROOM, F_WRITE))

    def table(self, links: Sequence[Link]) -> Link:
        """Write an indirect table; gives the descriptor that refers to it."""
        length = DESCRIPTOR.size * len(links)
        address = self.intruder.buffer(length)
        view = self.intruder.machine.ram(address, length)
        for place, link in enumerate(links):
            self._write(view, place, link, 0)
        return Link(address, length, F_INDIRECT)

    def table_of(self, count: int, length: int = 1) -> Link:
        """An indirect table of well-formed buffers, all of them the same."""
        buffer = self.intruder.buffer(max(length, PAGE))
        return self.table(linked(*[Link(buffer, length)] * count))

    def edge(self) -> int:
        """The last 16 bytes of RAM."""
        return self.intruder.end_of_ram() - 16

    async def kick(self) -> None:
        """Notify the device."""
        fence()
        await self.intruder.machine.mmio_write(self.queue.notify_address, 2, self.queue.index)

    async def finish(self) -> None:
        """Kick and wait for the answer; if the device is not broken by it, bring the driver up anew."""
        await self.kick()
        if await self.intruder.until(lambda: self.returned() >= self.offered):
            await self.intruder.restart()

    @abstractmethod
    def offer(self, links: Sequence[Link], *, head: int | None = None) -> None:
        """Make one chain available. ``head`` overrides the head it is announced by, or its buffer id."""

    @abstractmethod
    def returned(self) -> int:
        """Chains that the device has returned."""

    @abstractmethod
    def _write(self, view: memoryview, place: int, link: Link, identity: int) -> None:
        """Write one descriptor."""


class RawSplit(RawRing):
    """A split ring by hand."""

    def __init__(self, intruder: Intruder) -> None:
        super().__init__(intruder)
        self.avail = self.queue.driver_area.cast("H")  # flags, idx, ring[size], used_event
        self._used = self.queue.device_area.cast("H")
        self._place = 0

    @property
    def index(self) -> int:
        """The available index."""
        return self.avail[1]

    @index.setter
    def index(self, value: int) -> None:
        self.avail[1] = value & 0xFFFF

    def offer(self, links: Sequence[Link], *, head: int | None = None) -> None:
        """Write the chain behind the one before and announce it."""
        start = self._place
        for link in links:
            self._write(self.queue.descriptors, self._place, link, 0)
            self._place += 1
        self.announce(start if head is None else head)

    def announce(self, head: int) -> None:
        """Name a head in the available ring."""
        self.avail[2 + self.index % self.size] = head
        fence()
        self.index += 1
        self.offered += 1

    def returned(self) -> int:
        """Chains that the device has returned."""
        return self._used[1]

    def _write(self, view: memoryview, place: int, link: Link, identity: int) -> None:
        word = place + 1 if link.word is None else link.word
        DESCRIPTOR.pack_into(view, DESCRIPTOR.size * place, link.address, link.length, link.flags, word)


class RawPacked(RawRing):
    """A packed ring by hand."""

    def __init__(self, intruder: Intruder) -> None:
        super().__init__(intruder)
        self.words = self.queue.descriptors.cast("H")
        self.event = self.queue.driver_area.cast("H")  # offset and wrap counter, flags
        self.place = 0
        self.wrap = True
        self._heads: list[tuple[int, bool]] = []

    def offer(self, links: Sequence[Link], *, head: int | None = None) -> None:
        """Write the chain behind the one before; the flags of its first descriptor go last."""
        first, marks = self.place, []
        self._heads.append((self.place, self.wrap))
        for link in links:
            marks.append((self.place, link.flags | self.mark()))
            self._write(self.queue.descriptors, self.place, link._replace(flags=0), first if head is None else head)
            self.advance()
        fence()
        for place, flags in reversed(marks):
            self.words[8 * place + 7] = flags
        self.offered += 1

    def put(self, place: int, link: Link) -> None:
        """Write one descriptor as it is, marks included."""
        self._write(self.queue.descriptors, place, link, 0)

    def mark(self) -> int:
        """The flags that make a descriptor available in this lap."""
        return AVAIL if self.wrap else USED

    def advance(self) -> None:
        """Go on to the next place."""
        self.place += 1
        if self.place == self.size:
            self.place, self.wrap = 0, not self.wrap

    def returned(self) -> int:
        """Chains that the device has returned, as long as it does so in order."""
        return sum(self._is_used(place, wrap) for place, wrap in self._heads)

    def _is_used(self, place: int, wrap: bool) -> bool:
        flags = self.words[8 * place + 7]
        return bool(flags & AVAIL) == bool(flags & USED) == wrap

    def _write(self, view: memoryview, place: int, link: Link, identity: int) -> None:
        word = identity if link.word is None else link.word
        DESCRIPTOR.pack_into(view, DESCRIPTOR.size * place, link.address, link.length, word, link.flags)


def linked(*links: Link) -> list[Link]:
    """A chain: all but the last are told to have a next."""
    return [link._replace(flags=link.flags | F_NEXT) for link in links[:-1]] + list(links[-1:])


def raw_ring(intruder: Intruder) -> RawRing:
    """The ring of the attacked queue."""
    return RawPacked(intruder) if intruder.packed else RawSplit(intruder)


def chain_guest(
    name: str,
    summary: str,
    build: Callable[[RawRing], Sequence[Link]],
    *,
    answer: Answer = Answer.NEEDS_RESET,
    reason: str = "",
    rings: tuple[str, ...] = ("split", "packed"),
    or_else: Answer | None = None,
    indirect: bool = True,
) -> Hostile:
    """A hostile guest that makes one chain available, laid out as ``build`` says."""

    async def attack(intruder: Intruder) -> None:
        ring = raw_ring(intruder)
        ring.offer(build(ring))
        await ring.finish()

    return Hostile(name, summary, answer, attack, rings=rings, or_else=or_else, reason=reason, indirect=indirect)
