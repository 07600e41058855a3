"""A machine whose PCI functions are served over vfio-user; implements :class:`hdvkit.testing.machine.Machine`.

Does for the guest's half of the tests what QEMU does for a guest. A server that goes away leaves an empty slot.
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from vfio_user_client import Client, Disconnected, Refused
from vfio_user_function import RemoteFunction
from vfio_user_ram import SharedRam

MIB = 1 << 20
BAR_WINDOW = 0xE0000000
MSI_WINDOW = 0xFEE00000

T = TypeVar("T")


class VfioUserMachine:
    """Slots are filled by ``plug``. Use ``async with``, or ``aclose``.

    Arguments:
        size: Bytes of RAM.
        no_fds: The servers cannot map RAM and must ask for every byte of it.
        remote: The addresses of pieces of RAM for which that is so, when it is not for all.
        ioeventfds: Kicks go through descriptors that the servers offer.
        posted: Writes to BARs wait for no reply.
        max_transfer: The largest piece of memory that a server may ask for at once.
    """

    def __init__(
        self,
        *,
        size: int = 64 * MIB,
        no_fds: bool = False,
        remote: Collection[int] = (),
        ioeventfds: bool = False,
        posted: bool = True,
        max_transfer: int = MIB,
    ) -> None:
        self.memory = SharedRam(size)
        self.slots: dict[int, RemoteFunction] = {}
        self.on_unplug: dict[int, Callable[[], None]] = {}
        """What the guest does when the server of a slot goes away."""
        self.lost_interrupts = 0
        """Messages to an address and data that nobody had taken."""
        self.rings = 0
        """Kicks through descriptors, on connections that have ended."""
        self.commands = 0
        """What servers asked for, on connections that have ended."""
        self.faults: list[str] = []
        """What servers did that they should not: refusals, broken rules, replies to nothing, memory not theirs."""
        self.pieces = [
            piece._replace(fd=None, offset=0) if no_fds or piece.address in remote else piece
            for piece in self.memory.pieces
        ]
        """RAM and firmware as the servers get them."""
        self._ioeventfds = ioeventfds
        self._posted = posted
        self._max_transfer = max_transfer
        self._numbers = itertools.count()
        self._handlers: dict[tuple[int, int], Callable[[], None]] = {}
        self._next_bar = BAR_WINDOW

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Hang up on every server and let go of RAM."""
        for slot in tuple(self.slots):
            self._empty(slot)
        self.memory.close()

    # -- devices ----------------------------------------------------------------------------------

    async def plug(self, socket_path: str | Path) -> int:
        """Take a device in, as QEMU realises one; gives its slot. Raises what the client and the function raise."""
        client = await Client.connect(socket_path, memory=self.memory)
        client.max_transfer = self._max_transfer
        function = RemoteFunction(client, self._deliver, posted=self._posted)
        try:
            await function.realise(self.pieces)
            if self._ioeventfds:
                await function.use_io_fds()
        except BaseException:
            function.close()
            raise
        slot = next(self._numbers)
        self.slots[slot] = function
        client.closed.add_done_callback(lambda _: self._empty(slot))
        return slot

    def pull(self, slot: int) -> None:
        """Hang up on the server of a slot, as a VMM does that exits."""
        self._empty(slot)

    async def reboot(self) -> None:
        """The machine resets: every function, and all its memory is taken away and given again."""
        for function in tuple(self.slots.values()):
            await function.reset()
            await asyncio.gather(*(function.client.dma_unmap(piece.address, piece.size) for piece in self.pieces))
            await function.map(self.pieces)

    async def unplug(self, address: int) -> None:
        """Take the RAM region that begins at ``address`` from all functions; returns when none uses it any more."""
        size = self.memory.region_size(address)
        for function in tuple(self.slots.values()):
            await function.client.dma_unmap(address, size)

    # -- registers --------------------------------------------------------------------------------

    async def config_read(self, slot: int, offset: int, size: int) -> int:
        """Read configuration space; all ones where no function is."""
        ones = (1 << 8 * size) - 1
        if slot not in self.slots:
            return ones
        return await self._ask(self.slots[slot].config_read(offset, size), ones)

    async def config_write(self, slot: int, offset: int, size: int, value: int) -> None:
        """Write configuration space."""
        if slot in self.slots:
            await self._ask(self.slots[slot].config_write(offset, size, value), None)

    async def mmio_read(self, address: int, size: int) -> int:
        """Read where some BAR decodes; all ones where none does."""
        ones = (1 << 8 * size) - 1
        for function in self.slots.values():
            if (found := function.decode(address)) is not None:
                return await self._ask(function.read(*found, size), ones)
        return ones

    async def mmio_write(self, address: int, size: int, value: int) -> None:
        """Write where some BAR decodes."""
        for function in self.slots.values():
            if (found := function.decode(address)) is not None:
                await self._ask(function.write(*found, size, value), None)
                return

    # -- memory and interrupts --------------------------------------------------------------------

    def ram(self, address: int, size: int) -> memoryview:
        """Guest RAM; raises ValueError where there is none."""
        return self.memory.view(address, size)

    def allocate(self, size: int, align: int = 4096) -> int:
        """Take zeroed RAM."""
        return self.memory.allocate(size, align)

    def free(self, address: int) -> None:
        """Give back what ``allocate`` returned."""
        self.memory.free(address)

    def allocate_bar(self, size: int) -> int:
        """Take a window in the 32-bit hole."""
        address = -(-self._next_bar // size) * size
        self._next_bar = address + size
        return address

    def allocate_msi(self, handler: Callable[[], None]) -> tuple[int, int]:
        """Take a message."""
        message = (MSI_WINDOW, 0x20 + len(self._handlers))
        self._handlers[message] = handler
        return message

    def _deliver(self, address: int, data: int) -> None:
        handler = self._handlers.get((address, data))
        if handler is None:
            self.lost_interrupts += 1
        else:
            handler()

    async def _ask(self, answer: Awaitable[T], otherwise: T) -> T:
        try:
            return await answer
        except Disconnected:
            return otherwise
        except Refused as error:
            self.faults.append(f"refused: {error}")
            return otherwise

    def _empty(self, slot: int) -> None:
        function = self.slots.pop(slot, None)
        if function is None:
            return
        if function.client.complaint:
            self.faults.append(function.client.complaint)
        self.faults += function.client.denied
        if function.client.strays:
            self.faults.append(f"{function.client.strays} replies to nothing")
        self.rings += function.rings
        self.commands += len(function.client.commands)
        function.close()
        self.on_unplug.pop(slot, lambda: None)()
