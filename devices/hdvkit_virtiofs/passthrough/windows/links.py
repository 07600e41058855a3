"""Symbolic links as reparse points: WSL's, which hold any target, and those of Windows, which are only read. Pure."""

import errno
import struct

from hdvkit_virtiofs.passthrough.errors import refusal
from hdvkit_virtiofs.passthrough.windows import names
from hdvkit_virtiofs.passthrough.windows.metadata import TAG_LX_SYMLINK, TAG_MOUNT_POINT, TAG_SYMLINK

LONGEST = 16 * 1024
"""MAXIMUM_REPARSE_DATA_BUFFER_SIZE."""

_HEADER = struct.Struct("<IHH")  # tag, length, reserved
_NAMES = struct.Struct("<HHHH")  # of the real and of the printed target: offset and length
_FLAGS = struct.Struct("<I")
_RELATIVE = 1
_LX_VERSION = struct.Struct("<I")
_NT_PREFIXES = ("\\??\\UNC\\", "\\??\\")


def made(target: bytes) -> bytes:
    """REPARSE_DATA_BUFFER of a link of WSL: its target is the guest's bytes as they are."""
    return special(TAG_LX_SYMLINK, _LX_VERSION.pack(2) + target)


def special(tag: int, data: bytes = b"") -> bytes:
    """REPARSE_DATA_BUFFER of something Linux has and Windows has not."""
    return _HEADER.pack(tag, len(data), 0) + data


def target(data: bytes) -> bytes:
    """The target of a link.

    One of Windows has slashes, and where it is absolute begins with a drive (``C:/Users``): such a link leads nowhere
    in the guest, but can be seen for what it is.

    Raises:
        OSError: EOPNOTSUPP, it leads elsewhere in a way that cannot be told; EIO, it is broken.
    """
    try:
        tag, length, _ = _HEADER.unpack_from(data)
        body = data[_HEADER.size : _HEADER.size + length]
        if tag == TAG_LX_SYMLINK:
            return body[_LX_VERSION.size :]
        if tag == TAG_SYMLINK:
            (flags,) = _FLAGS.unpack_from(body, _NAMES.size)
            return _slashed(_substitute(body, _NAMES.size + _FLAGS.size), relative=bool(flags & _RELATIVE))
        if tag == TAG_MOUNT_POINT:
            return _slashed(_substitute(body, _NAMES.size), relative=False)
    except (struct.error, UnicodeDecodeError) as error:
        raise refusal(errno.EIO) from error
    raise refusal(errno.EOPNOTSUPP)


def _substitute(body: bytes, start: int) -> str:
    offset, length, *_ = _NAMES.unpack_from(body)
    return body[start + offset : start + offset + length].decode("utf-16-le", "surrogatepass")


def _slashed(path: str, *, relative: bool) -> bytes:
    if relative:
        parts = path.split("\\")
        return b"/".join(part.encode() if part in ("", ".", "..") else _guest(part) for part in parts)
    for prefix, shown in zip(_NT_PREFIXES, ("//", ""), strict=True):
        if path.startswith(prefix):
            path = shown + path[len(prefix) :]
            break
    return path.replace("\\", "/").encode("utf-8", "surrogatepass")


def _guest(part: str) -> bytes:
    return names.to_guest(part.encode("utf-16-le", "surrogatepass"))
