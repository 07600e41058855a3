"""What vfio-user messages carry, as a client packs and reads it. No I/O, and no rule about their order."""

import json
import struct

import attrs
from vfio_user_wire import Message

VERSION = struct.Struct("<HH")  # major, minor
DMA_MAP = struct.Struct("<IIQQQ")  # argsz, flags, offset, address, size
DMA_UNMAP = struct.Struct("<IIQQ")  # argsz, flags, address, size
INFO = struct.Struct("<IIII")  # argsz, flags, regions, irqs; or argsz, flags, index, count
REGION_INFO = struct.Struct("<IIIIQQ")  # argsz, flags, index, capability offset, size, offset
SET_IRQS = struct.Struct("<IIIII")  # argsz, flags, index, start, count
ACCESS = struct.Struct("<QII")  # offset, region, count
MULTI_HEAD = struct.Struct("<Q")  # number of writes
MULTI = struct.Struct("<QII8s")  # offset, region, count, data
FEATURE = struct.Struct("<II")  # argsz, flags
SUB_REGION = struct.Struct("<QQIII")  # offset, size, descriptor index, type, flags
DATAMATCH = 1
SUB_REGION_SIZES = (40, 48)
"""The specification's entry, and the one of servers that know shadow memory; both end with the value to match."""

UNMAP_ALL = 2
QEMU_CAPABILITIES = {
    "pgsizes": 4096,
    "max_msg_fds": 16,
    "max_dma_maps": 65535,
    "max_data_xfer_size": 1048576,
    "migration": {"max_bitmap_size": 268435456, "pgsize": 4096},
    "write_multiple": True,
}
"""What QEMU says."""


class Malformed(Exception):
    """A reply's payload is not what its command promises."""


@attrs.frozen
class Version:
    """Reply of VERSION."""

    major: int
    minor: int
    capabilities: dict[str, object]


@attrs.frozen
class DeviceInfo:
    """Reply of DEVICE_GET_INFO."""

    argsz: int
    flags: int
    regions: int
    irqs: int


@attrs.frozen
class RegionInfo:
    """Reply of DEVICE_GET_REGION_INFO; the descriptors belong to the client."""

    argsz: int
    flags: int
    index: int
    cap_offset: int
    size: int
    offset: int
    capabilities: bytes
    fds: tuple[int, ...]


@attrs.frozen
class IrqInfo:
    """Reply of DEVICE_GET_IRQ_INFO."""

    argsz: int
    flags: int
    index: int
    count: int


@attrs.frozen
class IoFd:
    """One place of a region that is written through a descriptor; the descriptor belongs to the client."""

    offset: int
    size: int
    fd: int
    kind: int
    flags: int
    datamatch: int

    def matches(self, offset: int, size: int, value: int) -> bool:
        """Whether a write goes there."""
        same_value = not self.flags & DATAMATCH or self.datamatch == value
        return self.kind == 0 and self.offset == offset and self.size in (0, size) and same_value


def pack_version(capabilities: dict[str, object], major: int = 0, minor: int = 0) -> bytes:
    """A VERSION request."""
    return VERSION.pack(major, minor) + json.dumps({"capabilities": capabilities}).encode() + b"\0"


def read_version(message: Message) -> Version:
    """What the server agreed to."""
    text = message.payload[VERSION.size :]
    if text[-1:] != b"\0" or b"\0" in text[:-1]:
        raise Malformed("the JSON of VERSION is one string that ends with its NUL")
    body = json.loads(text[:-1])
    major, minor = VERSION.unpack_from(message.payload)
    return Version(major, minor, body.get("capabilities", {}))


def read_region_info(message: Message) -> RegionInfo:
    """A region, with the bytes of its capabilities as they are."""
    argsz, flags, index, cap_offset, size, offset = REGION_INFO.unpack_from(message.payload)
    rest = message.payload[REGION_INFO.size :]
    return RegionInfo(argsz, flags, index, cap_offset, size, offset, rest, tuple(message.fds))


def read_io_fds(message: Message) -> tuple[int, list[IoFd]]:
    """The size the whole answer needs, and its entries if they are here."""
    argsz, _, _, count = INFO.unpack_from(message.payload)
    entries = message.payload[INFO.size :]
    if not entries:
        return argsz, []
    size, rest = divmod(len(entries), count)
    if rest or size not in SUB_REGION_SIZES or argsz != len(message.payload):
        raise Malformed(f"{count} places to write in {len(entries)} bytes, argsz {argsz}")
    return argsz, [_read_io_fd(entries[at : at + size], message.fds) for at in range(0, len(entries), size)]


def read_data(message: Message, offset: int, region: int, count: int) -> bytes:
    """The data of a REGION_READ."""
    head, data = message.payload[: ACCESS.size], message.payload[ACCESS.size :]
    if head != ACCESS.pack(offset, region, count) or len(data) != count:
        raise Malformed(f"a read of {count} bytes at {offset:#x} of region {region} gave {message.payload.hex()}")
    return data


def pack_writes(writes: list[tuple[int, int, bytes]]) -> bytes:
    """A REGION_WRITE_MULTI request of (region, offset, data of up to 8 bytes)."""
    entries = b"".join(MULTI.pack(offset, region, len(data), data) for region, offset, data in writes)
    return MULTI_HEAD.pack(len(writes)) + entries


def _read_io_fd(entry: bytes, fds: list[int]) -> IoFd:
    offset, size, which, kind, flags = SUB_REGION.unpack_from(entry)
    if which >= len(fds):
        raise Malformed(f"descriptor {which} of {len(fds)}")
    return IoFd(offset, size, fds[which], kind, flags, int.from_bytes(entry[-8:], "little"))
