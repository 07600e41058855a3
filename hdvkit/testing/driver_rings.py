"""The driver half of one virtqueue, ring layout left open: buffers, kicks, waits, and checks of the device.

Layouts are in ``driver_split`` and ``driver_packed``, device set-up in ``driver``. Written from "Virtqueues"
(VIRTIO 1.3) alone: it shares no code with the device half, so that each can prove the other.
"""

import abc
import asyncio
import contextlib
import struct
import threading
from collections.abc import Sequence

from hdvkit.testing.driver_buffers import GUARD, POISON, BufferPool, DriverError, Reply, Token
from hdvkit.testing.machine import Machine

__all__ = [
    "DESCRIPTOR",
    "F_INDIRECT",
    "F_NEXT",
    "F_WRITE",
    "DriverError",
    "DriverQueue",
    "Element",
    "Reply",
    "Token",
    "fence",
    "need_event",
]

DESCRIPTOR = struct.Struct("<QIHH")
"""Split: address, length, flags, next. Packed: address, length, id, flags."""

# "The Virtqueue Descriptor Table" and "Packed Virtqueues": what both kinds call by the same number.
F_NEXT = 1
F_WRITE = 2
F_INDIRECT = 4

Element = tuple[int, int, int]
"""One descriptor before it is laid out: guest-physical address, length in bytes, flags."""

_FENCE = threading.Lock()


def need_event(event: int, new: int, old: int) -> bool:
    """Whether the step from ``old`` to ``new`` passed ``event``, all modulo 2**16 ("vring_need_event")."""
    return (new - event - 1) & 0xFFFF < (new - old) & 0xFFFF


def fence() -> None:
    """Order a store before a later load against a device in another thread or process.

    A lock taken and released is a full barrier on x86, the one re-ordering that CPU family allows.
    """
    with _FENCE:
        pass


class DriverQueue(abc.ABC):
    """One virtqueue as its driver sees it. Made by `VirtioDriver.probe`, usable after `VirtioDriver.start`.

    ``descriptors``, ``driver_area`` and ``device_area`` are the live rings in guest RAM, for tests that
    want to read or break them; so are the three addresses. They change when the queue is reset.
    """

    def __init__(
        self, machine: Machine, index: int, *, event_idx: bool, indirect: bool, notification_data: bool
    ) -> None:
        self.index = index
        self.size = 0
        self.free = 0  # descriptors
        self.notify_address = 0
        self.desc_address = self.driver_address = self.device_address = 0
        self.descriptors = self.driver_area = self.device_area = memoryview(b"")
        self.interrupts = 0
        self.kicks = 0
        self._machine = machine
        self._event_idx = event_idx
        self._indirect = indirect
        self._notification_data = notification_data
        self._pool = BufferPool(machine)
        self._in_flight: dict[int, Token] = {}
        self._added = 0  # ring places made available since the device was last told
        self._polling = False
        self._turn = asyncio.Lock()  # hands out room in order of arrival
        self._room: asyncio.Future[None] | None = None
        self._second_try: asyncio.Task[None] | None = None
        self._not_yet = self._failure = f"queue {index} is not started"

    @property
    def in_flight(self) -> int:
        """Chains the device owns."""
        return len(self._in_flight)

    # -- life -----------------------------------------------------------------------------------

    def open(self, size: int) -> None:
        """Allocate zeroed rings of ``size`` entries; next tell the device the addresses, then `begin`."""
        self.size = self.free = size
        desc, driver, device = self._areas()
        self.desc_address, self.descriptors = self._allocate(desc, 16)
        self.driver_address, self.driver_area = self._allocate(*driver)
        self.device_address, self.device_area = self._allocate(*device)
        self._added = 0
        self._failure = self._not_yet
        self._open_ring()
        if self._polling:
            self._disarm()
        else:
            self._arm()

    def begin(self) -> None:
        """Allow submissions: the device has enabled the queue, so no kick can be lost on it."""
        if self._failure == self._not_yet:  # else the device failed while it was being enabled
            self._failure = ""

    def close(self, reason: str) -> None:
        """Fail what is pending and free all RAM; the device must have forgotten the rings by now."""
        self.fail(reason)
        if self.size:
            for address in (self.desc_address, self.driver_address, self.device_address):
                self._machine.free(address)
        self.size = self.free = 0
        self._pool.close()

    def fail(self, reason: str) -> None:
        """Make pending and later submissions raise `DriverError`; RAM stays taken until `close`."""
        self._failure = reason
        for token in self._in_flight.values():
            token.fail(reason)
        self._in_flight.clear()
        self._make_room()

    # -- requests -------------------------------------------------------------------------------

    async def submit(self, readable: Sequence[bytes], writable: Sequence[int]) -> Reply:
        """Send one chain and wait for its return; waits for room in order of arrival.

        Each item becomes one buffer: ``readable`` holds contents, ``writable`` sizes in bytes. When cancelled
        the device keeps the buffers until it returns them. Raises what `post` and `wait` raise.
        """
        need = self._need(len(readable) + len(writable))
        async with self._turn:
            while self.free < need and not self._failure:
                self._room = asyncio.get_running_loop().create_future()
                await self._room
            token = self.post(readable, writable)
        await self.kick()
        return await self.wait(token)

    def post(self, readable: Sequence[bytes], writable: Sequence[int]) -> Token:
        """Make one chain available without telling the device; next `kick`, then `wait`.

        Raises:
            DriverError: There is no room, the queue is not started, or it failed.
            ValueError: The chain is empty or longer than the queue.
        """
        count = len(readable) + len(writable)
        need = self._need(count)
        if need > self.free:
            raise DriverError(f"queue {self.index}: chain needs {need} descriptors, {self.free} are free")
        token, elements = self._fill(readable, writable, 16 * count if need < count else 0)
        self._in_flight[self._publish(elements)] = token
        self.free -= need
        return token

    async def kick(self, force: bool = False) -> bool:
        """Tell the device about posted chains if it asked to be told, or by ``force``; returns whether."""
        if self._failure:
            raise DriverError(self._failure)
        added, self._added = self._added, 0
        if not force:
            if not added:
                return False
            fence()  # the chain must be visible before the device's wish is read, else a kick is lost
            if not self._kick_wanted(added):
                return False
        try:
            await self._notify()
        except asyncio.CancelledError:
            # Chains of other tasks may count on this kick, and one too many does no harm.
            self._second_try = asyncio.get_running_loop().create_task(self._notify())
            raise
        return True

    async def wait(self, token: Token) -> Reply:
        """Wait until the device returned the chain of ``token``; one task at a time per token.

        Raises:
            DriverError: The device broke a rule, went to NEEDS_RESET, or was reset meanwhile.
        """
        if token.reply is None and not token.failure:
            if token.waiter is not None and not token.waiter.done():
                raise DriverError(f"queue {self.index}: another task already waits for this token")
            token.waiter = asyncio.get_running_loop().create_future()
            await token.waiter
        if token.reply is None:
            raise DriverError(token.failure)
        return token.reply

    # -- returns --------------------------------------------------------------------------------

    def harvest(self) -> int:
        """Take back what the device returned, arm interrupts, look again; gives the number of chains.

        Raises:
            DriverError: The device returned something it does not own; the queue is unusable until reset.
        """
        if self._failure:
            raise DriverError(self._failure)
        try:
            count = self._drain()
            # Arming may come too late for a return just made, whose interrupt is then never sent.
            # Ends: every round takes at least one chain out of flight, or raises.
            while not self._polling and self._arm():
                count += self._drain()
        except DriverError as error:
            self.fail(str(error))
            raise
        if count:
            self._make_room()
        return count

    def interrupted(self) -> None:
        """Receive this queue's interrupt; a broken device fails the queue instead of the caller."""
        self.interrupts += 1
        self.collect()

    def collect(self) -> None:
        """Harvest if the queue is usable; errors go to those who wait."""
        if not self._failure:
            with contextlib.suppress(DriverError):  # harvest fails every waiting task with it
                self.harvest()

    def disable_interrupts(self) -> None:
        """Ask for no interrupts, as far as the ring can say it; the caller now polls with `harvest`."""
        self._polling = True
        self._disarm()

    def enable_interrupts(self) -> int:
        """Ask for interrupts again and harvest what came in between; gives the number of chains."""
        self._polling = False
        return self.harvest()

    # -- the pieces -----------------------------------------------------------------------------

    def _need(self, count: int) -> int:
        """Ring descriptors for a chain of ``count`` buffers; single buffers stay direct, as in Linux."""
        if self._failure:
            raise DriverError(self._failure)
        # "Driver Requirements: Indirect Descriptors": no chain longer than the queue, by either way.
        if not 0 < count <= self.size:
            raise ValueError(f"a chain has 1 to {self.size} buffers, not {count}")
        return 1 if self._indirect else count

    def _fill(self, readable: Sequence[bytes], writable: Sequence[int], at: int) -> tuple[Token, list[Element]]:
        """Copy a chain into one block of the pool, after ``at`` bytes of indirect table."""
        table, total = at, sum(writable)
        count = len(readable) + len(writable)
        block = self._pool.take(at + sum(map(len, readable)) + total + count * (GUARD + 15))
        _, base, view = block
        elements: list[Element] = []
        for data in readable:
            size = len(data)
            view[at : at + size] = data
            elements.append((base + at, size, 0))
            at += (size + GUARD + 15) & -16
        pieces = []
        for size in writable:
            view[at : at + size] = POISON * size
            elements.append((base + at, size, F_WRITE))
            pieces.append((at, size))
            at += (size + GUARD + 15) & -16
        if table:
            self._write_table(view, elements)
            elements = [(base, table, F_INDIRECT)]
        return Token(block, pieces, total), elements

    def _complete(self, identity: int, written: int) -> None:
        """Check one returned chain and hand its reply over; ring bookkeeping is the caller's."""
        token = self._in_flight.get(identity)
        if token is None:
            raise DriverError(f"queue {self.index}: the device returned id {identity}, which is not in flight")
        if written > token.writable:
            raise DriverError(
                f"queue {self.index}: used length {written} of id {identity} exceeds"
                f" its {token.writable} writable bytes"
            )
        del self._in_flight[identity]
        token.finish(written)
        self._pool.give(token.block)

    def _make_room(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def _allocate(self, size: int, align: int) -> tuple[int, memoryview]:
        address = self._machine.allocate(size, align)
        return address, self._machine.ram(address, size)

    async def _notify(self) -> None:
        """Write the notification, "Available Buffer Notifications" of the PCI transport."""
        self.kicks += 1
        if self._notification_data:
            await self._machine.mmio_write(self.notify_address, 4, self.index | self._position() << 16)
        else:
            await self._machine.mmio_write(self.notify_address, 2, self.index)

    # -- the layout -----------------------------------------------------------------------------

    @abc.abstractmethod
    def _areas(self) -> tuple[int, tuple[int, int], tuple[int, int]]:
        """Bytes of the descriptor area (16-aligned), then size and alignment of driver and device area."""

    @abc.abstractmethod
    def _open_ring(self) -> None:
        """Start from the beginning on fresh, zeroed areas."""

    @abc.abstractmethod
    def _publish(self, elements: Sequence[Element]) -> int:
        """Lay one chain into the ring, room was checked, and make it available; gives the id it returns by."""

    @abc.abstractmethod
    def _write_table(self, view: memoryview, elements: Sequence[Element]) -> None:
        """Lay an indirect table into the start of ``view``."""

    @abc.abstractmethod
    def _kick_wanted(self, added: int) -> bool:
        """Whether the device asked to be told about the last ``added`` ring places."""

    @abc.abstractmethod
    def _position(self) -> int:
        """The upper 16 bits of a notification with VIRTIO_F_NOTIFICATION_DATA."""

    @abc.abstractmethod
    def _drain(self) -> int:
        """Complete everything the device returned; gives the number of chains."""

    @abc.abstractmethod
    def _arm(self) -> bool:
        """Ask for an interrupt at the next return; gives whether one is there already."""

    @abc.abstractmethod
    def _disarm(self) -> None:
        """Ask for no interrupt, as far as the ring can say it."""
