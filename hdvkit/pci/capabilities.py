"""Capabilities that are plain bytes: PCI Express, and the vendor capability others fill. No I/O."""

import struct

from hdvkit.pci.config import Capability

VENDOR_SPECIFIC = 0x09
EXPRESS = 0x10

_EXPRESS_VERSION = 2
_ROOT_COMPLEX_INTEGRATED_ENDPOINT = 9
_ROLE_BASED_ERRORS = 1 << 15
_EXPRESS_BODY = struct.Struct("<HIHH48x")  # capabilities, device capabilities, device control, device status
_DEVICE_CONTROL_WRITABLE = 0x000F | 0x00E0 | 0x7000  # error reporting, payload size, read request size


def vendor(body: bytes, writable: bytes = b"") -> Capability:
    """A vendor-specific capability; its length byte is put in front of ``body``."""
    return Capability(VENDOR_SPECIFIC, bytes([3 + len(body)]) + body, b"\0" + writable if writable else b"")


def express() -> Capability:
    """A PCI Express capability for a function that hangs on the root bus. Optional: nothing virtio needs it."""
    body = _EXPRESS_BODY.pack(_EXPRESS_VERSION | _ROOT_COMPLEX_INTEGRATED_ENDPOINT << 4, _ROLE_BASED_ERRORS, 0, 0)
    return Capability(EXPRESS, body, bytes(6) + _DEVICE_CONTROL_WRITABLE.to_bytes(2, "little"))
