"""The registers of one virtio PCI function, as a driver sees them: structures, fields, selectors. No state of a driver.

Written from the VIRTIO 1.3 specification alone, as all of the guest half.
"""

import asyncio

from hdvkit.testing.driver_pci import PciFunction, Region, RegionKind
from hdvkit.testing.driver_rings import DriverError
from hdvkit.testing.driver_spec import COMMON, Status
from hdvkit.testing.machine import Machine

EAGER_POLLS = 1000
POLLS = 6000
POLL_PAUSE = 0.001
CONFIG_READS = 100


class DriverRegisters:
    """The function in ``slot``."""

    def __init__(self, machine: Machine, slot: int) -> None:
        self._machine = machine
        self._slot = slot
        self._function = PciFunction(machine, slot)
        self._select = asyncio.Lock()  # one task at a time between a selector and what it selects

    @property
    def device_id(self) -> int:
        """The virtio device type, "Device Types": 26 is a file system."""
        return self._function.device_id

    @property
    def pci_device_id(self) -> int:
        """The PCI device ID: 0x1040 plus the type unless the function is transitional."""
        return self._function.pci_device_id

    @property
    def revision(self) -> int:
        """The PCI revision ID."""
        return self._function.revision

    @property
    def bars(self) -> dict[int, tuple[int, int]]:
        """Guest-physical address and size in bytes of each memory BAR."""
        return self._function.bars

    async def common_read(self, name: str) -> int:
        """Read a field of the common configuration by its name in the specification."""
        address, size = self._field(name)
        if size < 8:
            return await self._machine.mmio_read(address, size)
        low = await self._machine.mmio_read(address, 4)
        return low | await self._machine.mmio_read(address + 4, 4) << 32

    async def common_write(self, name: str, value: int) -> None:
        """Write a field of the common configuration; 64-bit fields go as two halves, low first."""
        address, size = self._field(name)
        if size < 8:
            await self._machine.mmio_write(address, size, int(value))
            return
        await self._machine.mmio_write(address, 4, value & 0xFFFFFFFF)
        await self._machine.mmio_write(address + 4, 4, value >> 32)

    async def status(self) -> int:
        """The device status field."""
        return await self.common_read("device_status")

    async def config_read(self, offset: int, size: int) -> bytes:
        """Read ``size`` bytes of device-specific configuration, all of one generation.

        Raises:
            DriverError: The device has no such bytes, or its configuration never stands still.
        """
        region = self._region(RegionKind.DEVICE)
        if not 0 <= offset <= offset + size <= region.length:
            raise DriverError(f"slot {self._slot}: {offset:#x}+{size:#x} leaves {region.length} bytes of configuration")
        start = region.address + offset
        for _ in range(CONFIG_READS):
            # "Driver Requirements: Device Configuration Space": a changed generation makes the bytes void.
            before = await self.common_read("config_generation")
            data = bytes([await self._machine.mmio_read(start + n, 1) for n in range(size)])
            if await self.common_read("config_generation") == before:
                return data
        raise DriverError(f"slot {self._slot}: config_generation changed in each of {CONFIG_READS} reads")

    async def isr_read(self) -> int:
        """Read the ISR status, which clears it: bit 0 queue, bit 1 configuration."""
        return await self._machine.mmio_read(self._region(RegionKind.ISR).address, 1)

    async def pci_cfg_read(self, bar: int, offset: int, size: int) -> int:
        """Read 1, 2 or 4 bytes of a BAR through VIRTIO_PCI_CAP_PCI_CFG."""
        async with self._select:
            return await self._function.access_read(bar, offset, size)

    async def pci_cfg_write(self, bar: int, offset: int, size: int, value: int) -> None:
        """Write 1, 2 or 4 bytes of a BAR through VIRTIO_PCI_CAP_PCI_CFG."""
        async with self._select:
            await self._function.access_write(bar, offset, size, value)

    async def _add_status(self, bit: Status) -> None:
        await self.common_write("device_status", await self.status() | bit)

    async def _poll_zero(self, name: str) -> None:
        """Wait, bounded, until a register reads 0."""
        value = await self.common_read(name)
        for attempt in range(POLLS):
            if not value:
                return
            await asyncio.sleep(0 if attempt < EAGER_POLLS else POLL_PAUSE)
            value = await self.common_read(name)
        raise DriverError(f"slot {self._slot}: {name} still reads {value:#x} after {POLLS} polls")

    def _region(self, kind: RegionKind) -> Region:
        if kind not in self._function.regions:
            raise DriverError(f"slot {self._slot}: no {kind.name} structure")
        return self._function.regions[kind]

    def _field(self, name: str) -> tuple[int, int]:
        offset, size = COMMON[name]
        region = self._region(RegionKind.COMMON)
        if offset + size > region.length:
            raise DriverError(f"slot {self._slot}: common configuration of {region.length} bytes has no {name}")
        return region.address + offset, size
