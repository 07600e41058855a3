"""The first message of a connection: which version and which limits both sides can live with. Knows no sockets."""

import errno
import json
from collections.abc import Mapping
from typing import Final, NamedTuple

from hdvkit_vfio_user.protocol import spec
from hdvkit_vfio_user.protocol.messages import Refused

CAPABILITIES: Final = {
    # No "write_multiple": it makes QEMU queue every message and gains nothing.
    "max_msg_fds": spec.MAX_FDS,
    "max_data_xfer_size": spec.MAX_TRANSFER,
    "pgsizes": spec.PAGE_SIZE,
    "max_dma_maps": spec.MAX_DMA_MAPS,
}


class Limits(NamedTuple):
    """What the client can take."""

    max_msg_fds: int
    max_data_xfer_size: int


def accept(payload: bytes) -> Limits:
    """Decode a VERSION request.

    Raises:
        Refused: EINVAL: it is malformed, of a major version that is not ours, or takes less than a page at once.
    """
    if len(payload) < spec.VERSION.size:
        raise Refused(errno.EINVAL)
    major, _ = spec.VERSION.unpack_from(payload)
    if major != spec.MAJOR:
        raise Refused(errno.EINVAL)
    told = _capabilities(payload[spec.VERSION.size :])
    # "Version": what is absent has these defaults.
    fds, transfer = _limit(told, "max_msg_fds", 1), _limit(told, "max_data_xfer_size", spec.MAX_TRANSFER)
    if transfer < spec.MIN_TRANSFER:
        raise Refused(errno.EINVAL)
    return Limits(min(fds, spec.MAX_FDS), min(transfer, spec.MAX_TRANSFER))


def answer() -> bytes:
    """Our side of the agreement. QEMU takes no reply that is longer than its request, so it is kept short."""
    text = json.dumps({"capabilities": CAPABILITIES}, separators=(",", ":"))
    return spec.VERSION.pack(spec.MAJOR, spec.MINOR) + text.encode() + b"\0"


def _capabilities(text: bytes) -> Mapping[str, object]:
    if not text:
        return {}
    try:
        told = json.loads(text.removesuffix(b"\0")) if text.endswith(b"\0") else None
    except (ValueError, RecursionError):
        told = None
    found = told.get("capabilities", {}) if isinstance(told, dict) else None
    if not isinstance(found, dict):
        raise Refused(errno.EINVAL)
    return found


def _limit(told: Mapping[str, object], name: str, default: int) -> int:
    value = told.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise Refused(errno.EINVAL)
    return value
