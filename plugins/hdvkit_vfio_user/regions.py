"""Accesses to the regions of a device, cut into pieces that a PCI function takes. Knows no sockets."""

import errno
from collections.abc import Iterator

from hdvkit.runtime import CONFIG, Function
from hdvkit_vfio_user.protocol import Refused
from hdvkit_vfio_user.protocol.spec import Region

CONFIG_SIZE = 256
"""Conventional PCI: machines need no more, also behind a PCI Express port."""
MOST = 64
"""Bytes of one access to a BAR. Machines make accesses of processors; more would only keep other devices waiting."""
_LARGEST = {CONFIG: 4}
"""The widest access to a space; a BAR takes 8 bytes at once."""


def size(function: Function, region: int) -> int:
    """How large a region is; 0 for one the device does not have."""
    if region == Region.CONFIG:
        return CONFIG_SIZE
    bar = function.bars.get(region)
    return 0 if bar is None else bar.size


def read(function: Function, region: int, offset: int, count: int) -> bytes:
    """Read the whole configuration space, as QEMU does, or less of it; or some registers of a BAR.

    Raises:
        Refused: EINVAL: they do not lie inside the region, or are too many.
    """
    space = _space(function, region, offset, count)
    return b"".join(function.read(space, at, length) for at, length in _pieces(space, offset, count))


def write(function: Function, region: int, offset: int, data: bytes) -> None:
    """Write some bytes, in order.

    Raises:
        Refused: EINVAL: they do not lie inside the region, or are too many.
    """
    space = _space(function, region, offset, len(data))
    for at, length in _pieces(space, offset, len(data)):
        function.write(space, at, data[at - offset : at - offset + length])


def _space(function: Function, region: int, offset: int, count: int) -> int:
    space = CONFIG if region == Region.CONFIG else region
    if not 0 < count <= size(function, region) - offset or (count > MOST and space != CONFIG):
        raise Refused(errno.EINVAL)
    return space


def _pieces(space: int, offset: int, count: int) -> Iterator[tuple[int, int]]:
    """Naturally aligned pieces, as wide as they can be. At most one for each byte of the region."""
    end = offset + count
    while offset < end:
        length = _LARGEST.get(space, 8)
        while offset % length or offset + length > end:
            length //= 2
        yield offset, length
        offset += length
