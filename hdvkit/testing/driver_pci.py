"""One virtio PCI function as the guest's bus code sees it: capabilities, BARs, MSI-X, bus mastering.

Written from "Virtio Over PCI Bus" (VIRTIO 1.3) and the PCI layouts it builds on. Knows nothing of status,
features or queues.
"""

import enum

import attrs

from hdvkit.testing.driver_rings import DriverError
from hdvkit.testing.machine import Machine

VENDOR = 0x1AF4
FIRST_TRANSITIONAL = 0x1000
FIRST_MODERN = 0x1040
LAST_DEVICE = 0x107F

COMMAND = 0x04
COMMAND_MEMORY = 1 << 1
COMMAND_MASTER = 1 << 2
COMMAND_NO_INTX = 1 << 10
STATUS = 0x06
STATUS_CAPABILITIES = 1 << 4
FIRST_BAR = 0x10
CAPABILITIES = 0x34

CAPABILITY_VENDOR = 0x09
CAPABILITY_MSIX = 0x11
CAPABILITIES_MAX = 48  # what fits between the header and the end of 256 bytes, 4-aligned

MSIX_ENABLE = 1 << 15
MSIX_FUNCTION_MASK = 1 << 14
MSIX_ENTRY_SIZE = 16


class RegionKind(enum.IntEnum):
    """``cfg_type`` of "Virtio Structure PCI Capabilities"."""

    COMMON = 1
    NOTIFY = 2
    ISR = 3
    DEVICE = 4
    PCI = 5


# Least structure length and alignment of its offset; common ends with queue_device in VIRTIO 1.0.
RULES = {
    RegionKind.COMMON: (56, 4),
    RegionKind.NOTIFY: (2, 2),
    RegionKind.ISR: (1, 1),
    RegionKind.DEVICE: (0, 4),
}


@attrs.frozen
class Region:
    """One structure of the function, located in guest-physical memory."""

    address: int
    length: int
    multiplier: int = 0
    """``notify_off_multiplier`` in bytes; notification structure only."""


class PciFunction:
    """The function in one slot. `discover` first; everything else needs what it found."""

    def __init__(self, machine: Machine, slot: int) -> None:
        self.device_id = 0
        """The virtio device type, "Device Types" (26 is a file system), not the PCI device ID."""
        self.pci_device_id = 0
        self.revision = 0
        self.bars: dict[int, tuple[int, int]] = {}
        """Guest-physical address and size in bytes of each memory BAR."""
        self.regions: dict[RegionKind, Region] = {}
        self.vectors = 0
        """Entries of the MSI-X table."""
        self._machine = machine
        self._slot = slot
        self._access = 0
        self._msix = 0
        self._table = 0

    async def read(self, offset: int, size: int) -> int:
        """Read configuration space."""
        return await self._machine.config_read(self._slot, offset, size)

    async def write(self, offset: int, size: int, value: int) -> None:
        """Write configuration space."""
        await self._machine.config_write(self._slot, offset, size, value)

    async def discover(self) -> None:
        """Identify the function, place its BARs, enable it, and find its structures.

        Raises:
            DriverError: It is no virtio function, or its capabilities contradict its BARs.
        """
        await self._identify()
        await self._place_bars()
        command = await self.read(COMMAND, 2)
        await self.write(COMMAND, 2, command | COMMAND_MEMORY | COMMAND_MASTER | COMMAND_NO_INTX)
        self.regions.clear()
        self._access = self._msix = self.vectors = 0
        for identity, position in await self._capabilities():
            if identity == CAPABILITY_VENDOR:
                await self._add_structure(position)
            elif identity == CAPABILITY_MSIX and not self._msix:
                await self._add_msix(position)
        for kind in (RegionKind.COMMON, RegionKind.NOTIFY, RegionKind.ISR):
            if kind not in self.regions:
                raise DriverError(f"slot {self._slot}: no {kind.name} capability")

    async def program_vectors(self, messages: list[tuple[int, int]]) -> None:
        """Point the first MSI-X table entries at ``messages`` (address, data) and enable them unmasked."""
        if not self.vectors:
            raise DriverError(f"slot {self._slot}: no MSI-X capability")
        control = await self.read(self._msix + 2, 2) & ~(MSIX_ENABLE | MSIX_FUNCTION_MASK)
        # Masked as a whole while the entries are in pieces: no message may go to half an address.
        await self.write(self._msix + 2, 2, control | MSIX_ENABLE | MSIX_FUNCTION_MASK)
        for vector, (address, data) in enumerate(messages):
            entry = self._table + MSIX_ENTRY_SIZE * vector
            for at, value in enumerate((address & 0xFFFFFFFF, address >> 32, data, 0)):
                await self._machine.mmio_write(entry + 4 * at, 4, value)
        await self.write(self._msix + 2, 2, control | MSIX_ENABLE)

    async def access_read(self, bar: int, offset: int, size: int) -> int:
        """Read 1, 2 or 4 bytes of a BAR through "PCI configuration access capability"."""
        await self._aim(bar, offset, size)
        return await self.read(self._access + 16, size)

    async def access_write(self, bar: int, offset: int, size: int, value: int) -> None:
        """Write 1, 2 or 4 bytes of a BAR through "PCI configuration access capability"."""
        await self._aim(bar, offset, size)
        await self.write(self._access + 16, size, value)

    # -- the pieces of discovery ----------------------------------------------------------------

    async def _identify(self) -> None:
        vendor, device = await self.read(0x00, 2), await self.read(0x02, 2)
        if vendor != VENDOR or not FIRST_TRANSITIONAL <= device <= LAST_DEVICE:
            raise DriverError(f"slot {self._slot}: {vendor:04x}:{device:04x} is no virtio function")
        self.pci_device_id = device
        self.revision = await self.read(0x08, 1)
        # "PCI Device Discovery": a transitional function tells its type by its subsystem ID.
        self.device_id = device - FIRST_MODERN if device >= FIRST_MODERN else await self.read(0x2E, 2)

    async def _place_bars(self) -> None:
        """Size every memory BAR with decode off and give each a window; I/O BARs stay unplaced."""
        command = await self.read(COMMAND, 2)
        await self.write(COMMAND, 2, command & ~(COMMAND_MEMORY | 1))
        placed, self.bars = self.bars, {}
        index = 0
        while index < 6:
            low = await self._probe_bar(index)
            wide = low & 0b111 == 0b100
            if low and not low & 1:
                high = await self._probe_bar(index + 1) if wide else 0xFFFFFFFF
                size = (1 << 64) - (high << 32 | low & ~0xF)
                await self._place_bar(index, size, wide, placed.get(index))
            index += 2 if wide else 1

    async def _probe_bar(self, index: int) -> int:
        if index > 5:
            raise DriverError(f"slot {self._slot}: BAR 5 claims to be the low half of a 64-bit BAR")
        register = FIRST_BAR + 4 * index
        before = await self.read(register, 4)
        await self.write(register, 4, 0xFFFFFFFF)
        mask = await self.read(register, 4)
        await self.write(register, 4, before)
        return mask

    async def _place_bar(self, index: int, size: int, wide: bool, old: tuple[int, int] | None) -> None:
        if size & (size - 1) or size < 16:
            raise DriverError(f"slot {self._slot}: BAR {index} sizes to {size:#x} bytes")
        # A second probe finds the window of the first.
        address = old[0] if old is not None and old[1] == size else self._machine.allocate_bar(size)
        if not wide and address >> 32:
            raise DriverError(f"slot {self._slot}: 32-bit BAR {index} got the window {address:#x}")
        await self.write(FIRST_BAR + 4 * index, 4, address & 0xFFFFFFFF)
        if wide:
            await self.write(FIRST_BAR + 4 * index + 4, 4, address >> 32)
        self.bars[index] = address, size

    async def _capabilities(self) -> list[tuple[int, int]]:
        """Walk the capability list; gives ID and position of each."""
        if not await self.read(STATUS, 2) & STATUS_CAPABILITIES:
            raise DriverError(f"slot {self._slot}: no capability list")
        found: list[tuple[int, int]] = []
        position = await self.read(CAPABILITIES, 1) & 0xFC
        while position:
            if position < 0x40:
                raise DriverError(f"slot {self._slot}: capability at {position:#x}, inside the header")
            if len(found) == CAPABILITIES_MAX:
                raise DriverError(f"slot {self._slot}: the capability list does not end")
            header = await self.read(position, 2)
            found.append((header & 0xFF, position))
            position = (header >> 8) & 0xFC
        return found

    async def _add_structure(self, position: int) -> None:
        """Take a virtio capability; the first of a kind is the one the device prefers."""
        length, kind = await self.read(position + 2, 1), await self.read(position + 3, 1)
        least = 20 if kind in (RegionKind.NOTIFY, RegionKind.PCI) else 16
        if length < least or position + length > 0x100:
            raise DriverError(f"slot {self._slot}: capability at {position:#x} has length {length}")
        if kind == RegionKind.PCI:
            self._access = self._access or position
        elif kind in RULES and kind not in self.regions:
            bar = await self.read(position + 4, 1)
            # "Virtio Structure PCI Capabilities": the driver ignores reserved BAR values.
            if bar <= 5:
                await self._add_region(RegionKind(kind), position, bar)

    async def _add_region(self, kind: RegionKind, position: int, bar: int) -> None:
        offset, length = await self.read(position + 8, 4), await self.read(position + 12, 4)
        least, align = RULES[kind]
        if length < least or offset % align:
            raise DriverError(f"slot {self._slot}: {kind.name} structure of {length} bytes at offset {offset:#x}")
        address = self._inside(bar, offset, length, kind.name)
        multiplier = await self.read(position + 16, 4) if kind == RegionKind.NOTIFY else 0
        # "Notification structure layout": an even power of two, or 0.
        if multiplier & (multiplier - 1) or multiplier == 1:
            raise DriverError(f"slot {self._slot}: notify_off_multiplier is {multiplier}")
        self.regions[kind] = Region(address, length, multiplier)

    async def _add_msix(self, position: int) -> None:
        self.vectors = (await self.read(position + 2, 2) & 0x7FF) + 1
        where = await self.read(position + 4, 4)
        self._table = self._inside(where & 7, where & ~7, MSIX_ENTRY_SIZE * self.vectors, "MSI-X table")
        pending = await self.read(position + 8, 4)
        self._inside(pending & 7, pending & ~7, 8 * -(-self.vectors // 64), "MSI-X pending bits")
        self._msix = position

    def _inside(self, bar: int, offset: int, length: int, what: str) -> int:
        """The guest-physical address of a piece of a BAR, checked to lie in it."""
        address, size = self.bars.get(bar, (0, 0))
        if offset + length > size:
            raise DriverError(
                f"slot {self._slot}: {what} at {offset:#x}+{length:#x} leaves BAR {bar} of {size:#x} bytes"
            )
        return address + offset

    async def _aim(self, bar: int, offset: int, size: int) -> None:
        if not self._access:
            raise DriverError(f"slot {self._slot}: no PCI configuration access capability")
        if size not in (1, 2, 4) or offset % size:
            raise ValueError(f"an access is 1, 2 or 4 bytes and aligned, not {size} at {offset:#x}")
        await self.write(self._access + 4, 1, bar)
        await self.write(self._access + 8, 4, offset)
        await self.write(self._access + 12, 4, size)
