"""Numbers and layouts of the vfio-user protocol, under its own names. No logic."""

import struct
from enum import IntEnum, IntFlag
from typing import Final

HEADER: Final = struct.Struct("<HHIII")
"""Message id, command, size of the whole message, flags, error."""

MAJOR, MINOR = 0, 0
MAX_FDS: Final = 16
"""Most descriptors in one message; also the most that fit our reception of one."""
MAX_TRANSFER: Final = 1 << 20
"""Most bytes of one region or DMA access."""
MIN_TRANSFER: Final = 4096
"""A client that takes less than a page at once is refused: its rings could not be kept in step."""
MAX_MESSAGE: Final = HEADER.size + 32 + MAX_TRANSFER
"""No message is longer; a peer that announces more is cut off before anything is collected."""
MAX_DMA_MAPS: Final = 8192
"""Ranges of one client. A process has some 65,000 mappings, and devices of other clients need theirs."""
MAX_WRITES: Final = 200
"""Writes in one REGION_WRITE_MULTI: as many as QEMU would put there."""
PAGE_SIZE: Final = 4096


class Command(IntEnum):
    """What a message is about."""

    VERSION = 1
    DMA_MAP = 2
    DMA_UNMAP = 3
    DEVICE_GET_INFO = 4
    DEVICE_GET_REGION_INFO = 5
    DEVICE_GET_REGION_IO_FDS = 6
    DEVICE_GET_IRQ_INFO = 7
    DEVICE_SET_IRQS = 8
    REGION_READ = 9
    REGION_WRITE = 10
    DMA_READ = 11
    DMA_WRITE = 12
    DEVICE_RESET = 13
    REGION_WRITE_MULTI = 15
    DEVICE_FEATURE = 16
    MIG_DATA_READ = 17
    MIG_DATA_WRITE = 18


class Flag(IntFlag):
    """The flags of a header."""

    REPLY = 0x1
    NO_REPLY = 0x10
    ERROR = 0x20


TYPE_MASK: Final = 0xF


class DmaFlag(IntFlag):
    """What a guest may do with the memory of a DMA_MAP."""

    READ = 0x1
    WRITE = 0x2


DMA_MASK: Final = int(DmaFlag.READ | DmaFlag.WRITE)
UNMAP_ALL: Final = 0x2


class DeviceFlag(IntFlag):
    """What a device is."""

    RESET = 0x1
    PCI = 0x2


class Region(IntEnum):
    """The regions of a PCI device; BARs are their own numbers."""

    BAR0 = 0
    BAR5 = 5
    ROM = 6
    CONFIG = 7
    VGA = 8


NUM_REGIONS: Final = 9


class RegionFlag(IntFlag):
    """What may be done with a region."""

    READ = 0x1
    WRITE = 0x2


class Irq(IntEnum):
    """The interrupts of a PCI device."""

    INTX = 0
    MSI = 1
    MSIX = 2
    ERR = 3
    REQ = 4


NUM_IRQS: Final = 5


class IrqFlag(IntFlag):
    """How an interrupt is told. NORESIZE is never set: with it QEMU takes all vectors back for each one it adds."""

    EVENTFD = 0x1
    MASKABLE = 0x2
    AUTOMASKED = 0x4


class SetIrqs(IntFlag):
    """What SET_IRQS carries, and what it is to do."""

    DATA_NONE = 0x1
    DATA_BOOL = 0x2
    DATA_EVENTFD = 0x4
    MASK = 0x8
    UNMASK = 0x10
    TRIGGER = 0x20


# Plain numbers: the complement of a flag type knows its named bits only.
DATA_MASK: Final = int(SetIrqs.DATA_NONE | SetIrqs.DATA_BOOL | SetIrqs.DATA_EVENTFD)
ACTION_MASK: Final = int(SetIrqs.MASK | SetIrqs.UNMASK | SetIrqs.TRIGGER)

VERSION: Final = struct.Struct("<HH")
DMA_MAP: Final = struct.Struct("<IIQQQ")  # argsz, flags, offset, address, size
DMA_UNMAP: Final = struct.Struct("<IIQQ")  # argsz, flags, address, size
DEVICE_INFO: Final = struct.Struct("<IIII")  # argsz, flags, regions, irqs
REGION_INFO: Final = struct.Struct("<IIIIQQ")  # argsz, flags, index, capability offset, size, offset
REGION_IO_FDS: Final = struct.Struct("<IIII")  # argsz, flags, index, count
SUB_REGION: Final = struct.Struct("<QQIIIIQ")  # offset, size, index of the descriptor, type, flags, 0, data to match
IOEVENTFD: Final = 0
"""The type of a sub-region whose writes are told by an eventfd."""
IRQ_INFO: Final = struct.Struct("<IIII")  # argsz, flags, index, count
SET_IRQS: Final = struct.Struct("<IIIII")  # argsz, flags, index, start, count
REGION_ACCESS: Final = struct.Struct("<QII")  # offset, region, count
DMA_ACCESS: Final = struct.Struct("<QQ")  # address, count
WRITE_MULTI: Final = struct.Struct("<Q")  # number of writes
WRITE_ONE: Final = struct.Struct("<QII8s")  # offset, region, count, data
