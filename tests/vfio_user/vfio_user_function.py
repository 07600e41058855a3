"""A remote PCI function as a VMM shows it to its guest: what it forwards, and what it answers by itself.

The division of labour and the order of messages are those of QEMU: BAR registers, the capability pointer and the MSI-X
capability and table are the VMM's; every write of configuration space goes to the server all the same.
"""

import asyncio
import os
from collections.abc import Sequence

from vfio_user_client import CONFIG_REGION, Client
from vfio_user_interrupts import ENABLE, MSIX, Deliver, InterruptPin, MsixTable
from vfio_user_payloads import QEMU_CAPABILITIES, IoFd
from vfio_user_ram import Piece

COMMAND, COMMAND_MEMORY = 0x04, 0x2
FIRST_BAR, BARS = 0x10, 6
ROM = 0x30
CAPABILITIES = 0x34
PIN = 0x3D
CAPABILITY_MSIX = 0x11
BAR_KIND = 0xF
BAR_WIDE = 0x4
ERR = 3
READ_ONLY, READ_WRITE = 1, 3


class NotADevice(Exception):
    """The server describes something no VMM would take."""


class RemoteFunction:
    """One function behind ``client``. ``realise`` first; then it is the guest's. ``close`` it."""

    def __init__(self, client: Client, deliver: Deliver, *, posted: bool = True) -> None:
        self.client = client
        self.pin = InterruptPin(client)
        self.bars: dict[int, int] = {}
        """Sizes by index."""
        self.msix: MsixTable | None = None
        self.rings = 0
        """Kicks that went through a descriptor of the server's."""
        self._deliver = deliver
        self._posted = posted
        self._wide: set[int] = set()
        self._has_pin = False
        self._msix_at = 0
        self._table = (0, 0)  # bar, offset
        self._io_fds: dict[int, list[IoFd]] = {}
        self._image = self._emulated = self._writable = bytearray()

    def close(self) -> None:
        """Hang up."""
        self.pin.close()
        if self.msix is not None:
            self.msix.close()
        self.client.close()

    # -- life -------------------------------------------------------------------------------------

    async def realise(self, pieces: Sequence[Piece]) -> None:
        """Take the device in; raises NotADevice, or what the client raises."""
        await self.client.negotiate(**{**QEMU_CAPABILITIES, "max_data_xfer_size": self.client.max_transfer})
        await self.map(pieces)
        info = await self.client.get_info()
        if info.flags & 3 != 3 or info.regions <= CONFIG_REGION or info.irqs <= MSIX:
            raise NotADevice(f"flags {info.flags:#x}, {info.regions} regions, {info.irqs} types of interrupt")
        regions = [await self.client.get_region_info(index) for index in range(BARS)]
        self.bars = {region.index: region.size for region in regions if region.size}
        config = await self.client.get_region_info(CONFIG_REGION)
        await self.client.get_irq_info(ERR)
        await self._take_config(config.size)
        await self._take_interrupts()
        await self._config_write(COMMAND, bytes(2))
        await self.reset()

    async def map(self, pieces: Sequence[Piece]) -> None:
        """Give the server guest memory; all messages go out before the first reply comes in."""
        await asyncio.gather(
            *(
                self.client.dma_map(
                    piece.address, piece.size, piece.fd, piece.offset, READ_WRITE if piece.writable else READ_ONLY
                )
                for piece in pieces
            )
        )

    async def reset(self) -> None:
        """The machine resets the function."""
        if self.msix is not None and self.msix.enabled:
            await self.msix.disable()
        await self.pin.disarm()
        await self._forwarded(PIN, 1)
        command = int.from_bytes(await self._forwarded(COMMAND, 2), "little")
        await self._config_write(COMMAND, (command & ~0x0407).to_bytes(2, "little"))
        await self.client.reset()
        for register in range(FIRST_BAR, FIRST_BAR + 4 * BARS, 4):
            await self._config_write(register, bytes(4))
        if self._msix_at:
            self._image[self._msix_at + 3] &= 0x3F
        if self._has_pin:
            await self.pin.arm()

    async def use_io_fds(self) -> None:
        """Ask where writes may go through descriptors, and use them from now on."""
        self._io_fds = {bar: await self.client.get_region_io_fds(bar) for bar in self.bars}

    # -- configuration space ----------------------------------------------------------------------

    async def config_read(self, offset: int, size: int) -> int:
        """The guest reads configuration space."""
        mask = int.from_bytes(self._emulated[offset : offset + size], "little")
        local = int.from_bytes(self._image[offset : offset + size], "little")
        if mask == (1 << 8 * size) - 1:
            return local
        return local & mask | int.from_bytes(await self._forwarded(offset, size), "little") & ~mask

    async def config_write(self, offset: int, size: int, value: int) -> None:
        """The guest writes configuration space."""
        await self._config_write(offset, value.to_bytes(size, "little"))
        if self.msix is not None and offset < self._msix_at + 4 and offset + size > self._msix_at + 2:
            await self._msix_control(self.msix)

    # -- BARs -------------------------------------------------------------------------------------

    def decode(self, address: int) -> tuple[int, int] | None:
        """The BAR that answers at an address, and the offset in it."""
        if self._image[COMMAND] & COMMAND_MEMORY:
            for bar, size in self.bars.items():
                start = self._bar_address(bar)
                if start <= address < start + size:
                    return bar, address - start
        return None

    async def read(self, bar: int, offset: int, size: int) -> int:
        """The guest reads a BAR."""
        if self.msix is not None and self._in_table(bar, offset):
            data = self.msix.read(offset - self._table[1], size)
        else:
            data = await self.client.region_read(bar, offset, size)
        await self._end_of_interrupt()
        return int.from_bytes(data, "little")

    async def write(self, bar: int, offset: int, size: int, value: int) -> None:
        """The guest writes a BAR."""
        data = value.to_bytes(size, "little")
        place = next((place for place in self._io_fds.get(bar, ()) if place.matches(offset, size, value)), None)
        if self.msix is not None and self._in_table(bar, offset):
            await self.msix.write(offset - self._table[1], data)
        elif place is not None:
            os.eventfd_write(place.fd, 1)
            self.rings += 1
        else:
            await self.client.region_write(bar, offset, data, posted=self._posted)
        await self._end_of_interrupt()

    # -- the pieces -------------------------------------------------------------------------------

    async def _take_config(self, size: int) -> None:
        self._image = bytearray(await self._forwarded(0, size))
        self._emulated, self._writable = bytearray(size), bytearray(size)
        for value in (0xFFFFF800, 0):
            await self._forwarded(ROM, 4)
            await self._config_write(ROM, value.to_bytes(4, "little"))
        self._emulate(ROM, bytes(4))
        self._emulate(CAPABILITIES, self._image[CAPABILITIES : CAPABILITIES + 1])
        self._writable[COMMAND : COMMAND + 2] = (0x0407).to_bytes(2, "little")
        self._emulate(FIRST_BAR, bytes(4 * BARS))
        for bar, length in self.bars.items():
            await self._take_bar(bar, length)

    async def _take_bar(self, bar: int, size: int) -> None:
        register = FIRST_BAR + 4 * bar
        kind = (await self._forwarded(register, 4))[0] & BAR_KIND
        if kind & 1 or size & (size - 1):
            raise NotADevice(f"BAR {bar} of kind {kind:#x} and size {size:#x}")
        self._image[register] = kind
        mask = ~(size - 1) & 0xFFFFFFFF_FFFFFFFF
        self._writable[register : register + 4] = (mask & 0xFFFFFFFF).to_bytes(4, "little")
        if kind & BAR_WIDE:
            self._wide.add(bar)
            self._writable[register + 4 : register + 8] = (mask >> 32).to_bytes(4, "little")

    async def _take_interrupts(self) -> None:
        position = self._find_msix()
        if position:
            control = int.from_bytes(await self._forwarded(position + 2, 2), "little")
            table = int.from_bytes(await self._forwarded(position + 4, 4), "little")
            await self._forwarded(position + 8, 4)
            self._table, self._msix_at = (table & 7, table & ~7), position
            self.msix = MsixTable(self.client, (control & 0x7FF) + 1, self._deliver)
            self._emulate(position, self._image[position : position + 12])
            self._writable[position + 3] = 0xC0
            irqs = await self.client.get_irq_info(MSIX)
            if irqs.count != self.msix.vectors:
                raise NotADevice(f"{irqs.count} interrupts, the MSI-X capability says {self.msix.vectors}")
        self._has_pin = (await self._forwarded(PIN, 1))[0] == 1
        if self._has_pin:
            await self.pin.arm()

    def _find_msix(self) -> int:
        position = self._image[CAPABILITIES] & 0xFC
        for _ in range(48):
            if not position or self._image[position] == CAPABILITY_MSIX:
                return position
            position = self._image[position + 1] & 0xFC
        raise NotADevice("the capability list does not end")

    def _emulate(self, offset: int, data: bytes | bytearray) -> None:
        self._image[offset : offset + len(data)] = data
        self._emulated[offset : offset + len(data)] = b"\xff" * len(data)

    async def _forwarded(self, offset: int, size: int) -> bytes:
        return await self.client.region_read(CONFIG_REGION, offset, size)

    async def _config_write(self, offset: int, data: bytes) -> None:
        await self.client.region_write(CONFIG_REGION, offset, data)
        for at, byte in enumerate(data, offset):
            mask = self._writable[at]
            self._image[at] = self._image[at] & ~mask | byte & mask

    async def _msix_control(self, msix: MsixTable) -> None:
        control = int.from_bytes(self._image[self._msix_at + 2 : self._msix_at + 4], "little")
        was = msix.enabled
        if control & ENABLE and not was:
            await self.pin.disarm()
        await msix.control(control)
        if was and not msix.enabled and self._has_pin:
            await self.pin.arm()

    async def _end_of_interrupt(self) -> None:
        if self.pin.raised:
            await self.pin.unmask()

    def _in_table(self, bar: int, offset: int) -> bool:
        return self.msix is not None and bar == self._table[0] and 0 <= offset - self._table[1] < self.msix.size

    def _bar_address(self, bar: int) -> int:
        register = FIRST_BAR + 4 * bar
        address = int.from_bytes(self._image[register : register + 4], "little") & ~BAR_KIND
        if bar in self._wide:
            address |= int.from_bytes(self._image[register + 4 : register + 8], "little") << 32
        return address
