"""What a client asks for: one tuple for each kind of request, decoded from its payload. Knows no sockets.

Sizes and flags are checked here; whether a region, an interrupt or an address exists is the device's business.
"""

import errno
from collections.abc import Callable
from struct import Struct
from typing import Final, NamedTuple, NoReturn, TypeAlias

from hdvkit_vfio_user.protocol import spec
from hdvkit_vfio_user.protocol.spec import Command, DmaFlag, SetIrqs


class Refused(Exception):
    """A request that is answered with an errno."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.errno = code


class DmaMap(NamedTuple):
    """DMA_MAP: guest memory at ``address``; with a descriptor it can be mapped, without one only asked for."""

    address: int
    size: int
    offset: int
    readable: bool
    writable: bool


class DmaUnmap(NamedTuple):
    """DMA_UNMAP: of one range, or of all when ``everything`` is set."""

    address: int
    size: int
    everything: bool


class GetInfo(NamedTuple):
    """DEVICE_GET_INFO."""


class GetRegionInfo(NamedTuple):
    """DEVICE_GET_REGION_INFO."""

    region: int


class GetRegionIoFds(NamedTuple):
    """DEVICE_GET_REGION_IO_FDS; ``argsz`` is how much of an answer the client can take."""

    region: int
    argsz: int


class GetIrqInfo(NamedTuple):
    """DEVICE_GET_IRQ_INFO."""

    irq: int


class SetIrqsRequest(NamedTuple):
    """DEVICE_SET_IRQS: ``action`` for ``number`` vectors from ``start`` on, with one kind of data."""

    irq: int
    action: SetIrqs
    data: SetIrqs
    start: int
    number: int
    bools: bytes = b""


class RegionRead(NamedTuple):
    """REGION_READ."""

    offset: int
    region: int
    size: int


class RegionWrite(NamedTuple):
    """REGION_WRITE."""

    offset: int
    region: int
    data: bytes


class RegionWrites(NamedTuple):
    """REGION_WRITE_MULTI: writes of up to 8 bytes each, in order."""

    writes: tuple[RegionWrite, ...]


class Reset(NamedTuple):
    """DEVICE_RESET."""


Message: TypeAlias = (
    DmaMap
    | DmaUnmap
    | GetInfo
    | GetRegionInfo
    | GetRegionIoFds
    | GetIrqInfo
    | SetIrqsRequest
    | RegionRead
    | RegionWrite
    | RegionWrites
    | Reset
)


def decode(command: int, payload: bytes) -> Message:
    """Decode a request that follows the agreement on a version.

    Raises:
        Refused: ENOTSUP for commands that are unknown or not offered; EINVAL for a payload that breaks a rule.
    """
    decoder = _DECODERS.get(command)
    if decoder is None:
        raise Refused(errno.ENOTSUP)
    return decoder(payload)


def _refuse() -> NoReturn:
    raise Refused(errno.EINVAL)


def _exact(layout: Struct, payload: bytes) -> tuple[int, ...]:
    if len(payload) != layout.size:
        _refuse()
    return layout.unpack(payload)


def _dma_map(payload: bytes) -> DmaMap:
    argsz, flags, offset, address, size = _exact(spec.DMA_MAP, payload)
    if argsz < spec.DMA_MAP.size or flags & ~spec.DMA_MASK or not size or address + size > 1 << 64:
        _refuse()
    if offset + size > 1 << 63:  # of a file
        _refuse()
    return DmaMap(address, size, offset, bool(flags & DmaFlag.READ), bool(flags & DmaFlag.WRITE))


def _dma_unmap(payload: bytes) -> DmaUnmap:
    argsz, flags, address, size = _exact(spec.DMA_UNMAP, payload)
    everything = bool(flags & spec.UNMAP_ALL)
    if argsz < spec.DMA_UNMAP.size or flags & ~spec.UNMAP_ALL or (everything and (address or size)):
        _refuse()
    return DmaUnmap(address, size, everything)


def _get_info(payload: bytes) -> GetInfo:
    argsz, *_ = _exact(spec.DEVICE_INFO, payload)
    return GetInfo() if argsz >= spec.DEVICE_INFO.size else _refuse()


def _get_region_info(payload: bytes) -> GetRegionInfo:
    argsz, _, index, *_ = _exact(spec.REGION_INFO, payload)
    return GetRegionInfo(index) if argsz >= spec.REGION_INFO.size else _refuse()


def _get_region_io_fds(payload: bytes) -> GetRegionIoFds:
    argsz, flags, index, count = _exact(spec.REGION_IO_FDS, payload)
    if argsz < spec.REGION_IO_FDS.size or flags or count:
        _refuse()
    return GetRegionIoFds(index, argsz)


def _get_irq_info(payload: bytes) -> GetIrqInfo:
    argsz, _, index, _ = _exact(spec.IRQ_INFO, payload)
    return GetIrqInfo(index) if argsz >= spec.IRQ_INFO.size else _refuse()


def _set_irqs(payload: bytes) -> SetIrqsRequest:
    if len(payload) < spec.SET_IRQS.size:
        _refuse()
    argsz, flags, index, start, count = spec.SET_IRQS.unpack_from(payload)
    data, action = SetIrqs(flags & spec.DATA_MASK), SetIrqs(flags & spec.ACTION_MASK)
    if flags & ~(spec.DATA_MASK | spec.ACTION_MASK) or data.bit_count() != 1 or action.bit_count() != 1:
        _refuse()
    bools = payload[spec.SET_IRQS.size :]
    if argsz < len(payload) or len(bools) != (count if data is SetIrqs.DATA_BOOL else 0):
        _refuse()
    return SetIrqsRequest(index, action, data, start, count, bools)


def _region_read(payload: bytes) -> RegionRead:
    offset, region, count = _exact(spec.REGION_ACCESS, payload)
    if count > spec.MAX_TRANSFER:
        _refuse()
    return RegionRead(offset, region, count)


def _region_write(payload: bytes) -> RegionWrite:
    if len(payload) < spec.REGION_ACCESS.size:
        _refuse()
    offset, region, count = spec.REGION_ACCESS.unpack_from(payload)
    data = payload[spec.REGION_ACCESS.size :]
    if count != len(data) or count > spec.MAX_TRANSFER:
        _refuse()
    return RegionWrite(offset, region, data)


def _region_writes(payload: bytes) -> RegionWrites:
    if len(payload) < spec.WRITE_MULTI.size:
        _refuse()
    (count,) = spec.WRITE_MULTI.unpack_from(payload)
    if len(payload) - spec.WRITE_MULTI.size != count * spec.WRITE_ONE.size or count > spec.MAX_WRITES:
        _refuse()
    return RegionWrites(tuple(_write_one(*one) for one in spec.WRITE_ONE.iter_unpack(payload[spec.WRITE_MULTI.size :])))


def _write_one(offset: int, region: int, count: int, data: bytes) -> RegionWrite:
    if count > len(data):
        _refuse()
    return RegionWrite(offset, region, data[:count])


def _reset(payload: bytes) -> Reset:
    return Reset() if not payload else _refuse()


_DECODERS: Final[dict[int, Callable[[bytes], Message]]] = {
    Command.DMA_MAP: _dma_map,
    Command.DMA_UNMAP: _dma_unmap,
    Command.DEVICE_GET_INFO: _get_info,
    Command.DEVICE_GET_REGION_INFO: _get_region_info,
    Command.DEVICE_GET_REGION_IO_FDS: _get_region_io_fds,
    Command.DEVICE_GET_IRQ_INFO: _get_irq_info,
    Command.DEVICE_SET_IRQS: _set_irqs,
    Command.REGION_READ: _region_read,
    Command.REGION_WRITE: _region_write,
    Command.REGION_WRITE_MULTI: _region_writes,
    Command.DEVICE_RESET: _reset,
}
