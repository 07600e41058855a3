"""The one strict decoder of requests: bytes in, a checked message or an answer out. Does no I/O.

The caller copies the bytes out of guest memory first, so that the guest cannot change them after the check:
the header, then as much of the body as :func:`body_size` says.
"""

import errno
from collections.abc import Callable
from typing import Final, NamedTuple

from hdvkit_virtiofs.fuse import decoders, layouts, messages, spec
from hdvkit_virtiofs.fuse.errors import FuseError
from hdvkit_virtiofs.fuse.layouts import Layout
from hdvkit_virtiofs.fuse.messages import InHeader, Request
from hdvkit_virtiofs.fuse.spec import Opcode

HEADER_SIZE: Final = layouts.IN_HEADER.size

MAX_BODY: Final = layouts.SETXATTR_IN.size + spec.XATTR_NAME_MAX + 1 + spec.XATTR_SIZE_MAX
"""The longest body of any request but WRITE: an extended attribute as large as Linux stores them."""


class BrokenRequest(Exception):
    """A request without a whole header: complete its chain with nothing written."""


class _Row(NamedTuple):
    layout: Layout
    decoder: Callable[..., Request]
    tail: bool = False
    """Whether bytes follow the layout; the decoder takes them as its last argument."""
    since: int = spec.OLDEST_MINOR_VERSION


_TABLE: Final[dict[int, _Row]] = {
    Opcode.LOOKUP: _Row(layouts.EMPTY, decoders.lookup, tail=True),
    Opcode.FORGET: _Row(layouts.FORGET_IN, messages.Forget),
    Opcode.GETATTR: _Row(layouts.GETATTR_IN, decoders.getattr_),
    Opcode.SETATTR: _Row(layouts.SETATTR_IN, decoders.setattr_),
    Opcode.READLINK: _Row(layouts.EMPTY, messages.Empty),
    Opcode.SYMLINK: _Row(layouts.EMPTY, decoders.symlink, tail=True),
    Opcode.MKNOD: _Row(layouts.MKNOD_IN, decoders.mknod, tail=True),
    Opcode.MKDIR: _Row(layouts.MKDIR_IN, decoders.mkdir, tail=True),
    Opcode.UNLINK: _Row(layouts.EMPTY, decoders.remove, tail=True),
    Opcode.RMDIR: _Row(layouts.EMPTY, decoders.remove, tail=True),
    Opcode.RENAME: _Row(layouts.RENAME_IN, decoders.rename, tail=True),
    Opcode.LINK: _Row(layouts.LINK_IN, decoders.link, tail=True),
    Opcode.OPEN: _Row(layouts.OPEN_IN, messages.Open),
    Opcode.READ: _Row(layouts.READ_IN, decoders.read),
    Opcode.WRITE: _Row(layouts.WRITE_IN, decoders.write),
    Opcode.STATFS: _Row(layouts.EMPTY, messages.Empty),
    Opcode.RELEASE: _Row(layouts.RELEASE_IN, messages.Release),
    Opcode.FSYNC: _Row(layouts.FSYNC_IN, decoders.fsync),
    Opcode.SETXATTR: _Row(layouts.SETXATTR_IN_8, decoders.setxattr, tail=True),
    Opcode.GETXATTR: _Row(layouts.GETXATTR_IN, decoders.getxattr, tail=True),
    Opcode.LISTXATTR: _Row(layouts.GETXATTR_IN, messages.ListXAttr),
    Opcode.REMOVEXATTR: _Row(layouts.EMPTY, decoders.removexattr, tail=True),
    Opcode.FLUSH: _Row(layouts.FLUSH_IN, messages.Flush),
    Opcode.INIT: _Row(layouts.EMPTY, decoders.init, tail=True),
    Opcode.OPENDIR: _Row(layouts.OPEN_IN, messages.Open),
    Opcode.READDIR: _Row(layouts.READ_IN, decoders.readdir),
    Opcode.RELEASEDIR: _Row(layouts.RELEASE_IN, messages.Release),
    Opcode.FSYNCDIR: _Row(layouts.FSYNC_IN, decoders.fsync),
    Opcode.GETLK: _Row(layouts.LK_IN, decoders.lock),
    Opcode.SETLK: _Row(layouts.LK_IN, decoders.lock),
    Opcode.SETLKW: _Row(layouts.LK_IN, decoders.lock),
    Opcode.ACCESS: _Row(layouts.ACCESS_IN, decoders.access),
    Opcode.CREATE: _Row(layouts.CREATE_IN, decoders.create, tail=True),
    Opcode.INTERRUPT: _Row(layouts.INTERRUPT_IN, messages.Interrupt),
    Opcode.DESTROY: _Row(layouts.EMPTY, messages.Empty),
    Opcode.IOCTL: _Row(layouts.IOCTL_IN, decoders.ioctl, tail=True),
    Opcode.BATCH_FORGET: _Row(layouts.BATCH_FORGET_IN, decoders.batch_forget, tail=True),
    Opcode.FALLOCATE: _Row(layouts.FALLOCATE_IN, decoders.fallocate),
    Opcode.READDIRPLUS: _Row(layouts.READ_IN, decoders.readdir),
    Opcode.RENAME2: _Row(layouts.RENAME2_IN, decoders.rename2, tail=True),
    Opcode.LSEEK: _Row(layouts.LSEEK_IN, decoders.lseek),
    Opcode.COPY_FILE_RANGE: _Row(layouts.COPY_FILE_RANGE_IN, decoders.copy_file_range, since=28),
    Opcode.SYNCFS: _Row(layouts.SYNCFS_IN, messages.Empty, since=34),
    Opcode.TMPFILE: _Row(layouts.CREATE_IN, decoders.tmpfile, tail=True, since=37),
    Opcode.STATX: _Row(layouts.STATX_IN, decoders.statx, since=39),
    Opcode.COPY_FILE_RANGE_64: _Row(layouts.COPY_FILE_RANGE_IN, decoders.copy_file_range_64, since=45),
}
_TABLE_SETXATTR_EXT: Final = _TABLE | {
    Opcode.SETXATTR: _Row(layouts.SETXATTR_IN, decoders.setxattr_ext, tail=True),
}

_NO_REPLY: Final = frozenset({int(Opcode.FORGET), int(Opcode.BATCH_FORGET)})


def decode_header(data: bytes) -> InHeader:
    """Decode the header at the start of ``data``; then :func:`check_length`.

    Raises:
        BrokenRequest: There are fewer than 40 bytes, hence nobody to answer.
    """
    if len(data) < HEADER_SIZE:
        raise BrokenRequest(f"request of {len(data)} bytes, a header has {HEADER_SIZE}")
    return InHeader._make(layouts.IN_HEADER.unpack_from(data))


def check_length(header: InHeader, readable: int) -> None:
    """Check the header against the ``readable`` bytes of its chain; then copy :func:`body_size` bytes.

    Raises:
        FuseError: EINVAL. The header lies about the length, or the body is longer than any may be.
    """
    if header.length != readable:
        raise FuseError(errno.EINVAL)
    if readable - HEADER_SIZE > MAX_BODY and header.opcode != Opcode.WRITE:
        raise FuseError(errno.EINVAL)


def body_size(opcode: int) -> int | None:
    """How many bytes behind the header :func:`decode` wants: None for all, which is at most MAX_BODY.

    Of WRITE only the fixed part, so that the payload can stay where it is; of requests we do not know, nothing.
    """
    if opcode == Opcode.WRITE:
        return layouts.WRITE_IN.size
    return None if opcode in _TABLE else 0


def takes_reply(opcode: int) -> bool:
    """Whether the guest waits for an answer, even if only an error."""
    return opcode not in _NO_REPLY


def decode(opcode: int, body: bytes, *, minor: int = spec.KERNEL_MINOR_VERSION, setxattr_ext: bool = False) -> Request:
    """Decode ``body``, the bytes behind the header, into the message of its opcode.

    ``minor`` and ``setxattr_ext`` are what the session negotiated. Of WRITE, ``body`` is the fixed part; check
    the payload with :func:`check_payload`.

    Raises:
        FuseError: The answer to a request that breaks a rule: mostly EINVAL, ENAMETOOLONG or EFBIG; ENOSYS for
            opcodes that are unknown, unsupported or newer than ``minor``, whatever their body is.
    """
    row = (_TABLE_SETXATTR_EXT if setxattr_ext else _TABLE).get(opcode)
    if row is None or row.since > minor:
        raise FuseError(errno.ENOSYS)
    layout, decoder, tail, _ = row
    size = layout.size
    if tail and len(body) >= size:
        return decoder(*layout.unpack_from(body), body[size:])
    if len(body) != size:
        raise FuseError(errno.EINVAL)
    return decoder(*layout.unpack(body))


def check_payload(request: messages.Write, readable: int) -> None:
    """Check that a chain of ``readable`` bytes holds the payload of ``request``, and nothing behind it.

    Raises:
        FuseError: EINVAL.
    """
    if readable != HEADER_SIZE + layouts.WRITE_IN.size + request.size:
        raise FuseError(errno.EINVAL)
