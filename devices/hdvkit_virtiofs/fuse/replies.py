"""From answers to the bytes of a reply. Does no I/O.

The encoders of single answers return the payload; :func:`reply` puts the header before it. What a file system
says of its files is never refused here: numbers too large for their field lose the upper bits, as they do
when a Linux kernel stores them.
"""

import functools
import math
from collections.abc import Sequence
from typing import Final, NamedTuple

from hdvkit_virtiofs.fuse import layouts, spec
from hdvkit_virtiofs.fuse.answers import Attributes, DirEntry, StatFs, Statx
from hdvkit_virtiofs.fuse.decoders import is_name
from hdvkit_virtiofs.fuse.errors import linux_errno
from hdvkit_virtiofs.fuse.messages import FileHandle, NodeId
from hdvkit_virtiofs.fuse.spec import InitFlag, Opcode

HEADER_SIZE: Final = layouts.OUT_HEADER.size

_U16 = 0xFFFF
_U32 = 0xFFFF_FFFF
_U64 = 0xFFFF_FFFF_FFFF_FFFF
_I63 = 1 << 63
_LONGEST_TIMEOUT = _U32
"""Seconds, 136 years. The guest adds it to its clock, so "for ever" must leave room."""


class InitOut(NamedTuple):
    """What the host answers to INIT; all other fields of the reply are zero."""

    minor: int = spec.KERNEL_MINOR_VERSION
    max_readahead: int = 0
    flags: InitFlag = InitFlag(0)
    max_background: int = 0
    congestion_threshold: int = 0
    max_write: int = 0
    time_gran: int = 0
    """Granularity of times in nanoseconds."""
    max_pages: int = 0
    request_timeout: int = 0
    """Seconds after which the guest aborts the connection by itself; 0 is never."""


# Whole replies


_LEAST: Final[dict[int, int]] = {
    opcode: HEADER_SIZE + sum(layout.size for layout in parts)
    for opcode, *parts in (
        (Opcode.LOOKUP, layouts.ENTRY_OUT),
        (Opcode.MKNOD, layouts.ENTRY_OUT),
        (Opcode.MKDIR, layouts.ENTRY_OUT),
        (Opcode.SYMLINK, layouts.ENTRY_OUT),
        (Opcode.LINK, layouts.ENTRY_OUT),
        (Opcode.CREATE, layouts.ENTRY_OUT, layouts.OPEN_OUT),
        (Opcode.TMPFILE, layouts.ENTRY_OUT, layouts.OPEN_OUT),
        (Opcode.OPEN, layouts.OPEN_OUT),
        (Opcode.OPENDIR, layouts.OPEN_OUT),
        (Opcode.SETATTR, layouts.ATTR_OUT),
        (Opcode.WRITE, layouts.WRITE_OUT),
        (Opcode.COPY_FILE_RANGE, layouts.WRITE_OUT),
    )
}


def least_size(opcode: int) -> int:
    """How much room a successful answer needs at least, of operations that leave something behind."""
    return _LEAST.get(opcode, 0)


def out_header(unique: int, error: int = 0, payload_size: int = 0) -> bytes:
    """Encode a header: ``error`` is 0 or minus a Linux errno, ``payload_size`` what follows it."""
    return layouts.OUT_HEADER.pack(HEADER_SIZE + payload_size, error, unique)


def reply(unique: int, payload: bytes = b"") -> bytes:
    """Encode a whole reply, success; without payload for requests that ask for none."""
    return layouts.OUT_HEADER.pack(HEADER_SIZE + len(payload), 0, unique) + payload


def error(unique: int, code: int) -> bytes:
    """Encode a whole reply, failure: ``code`` is an errno of this host, the guest sees Linux's number of it.

    A code Linux does not know becomes EIO, so that nothing the file system raised can read as success.
    """
    return layouts.OUT_HEADER.pack(HEADER_SIZE, -linux_errno(code), unique)


# Attributes


@functools.lru_cache(maxsize=256)  # a share has two or three timeouts
def timeout(seconds: float) -> tuple[int, int]:
    """Whole seconds and nanoseconds, as a guest is told them."""
    if not seconds > 0:  # NaN too
        return 0, 0
    if seconds >= _LONGEST_TIMEOUT:
        return _LONGEST_TIMEOUT, 0
    fraction, whole = math.modf(seconds)
    return int(whole), int(fraction * spec.NSEC_PER_SEC)


def _attr(attributes: Attributes, flags: int) -> tuple[int, ...]:
    atime, atime_nsec = divmod(attributes.atime_ns, spec.NSEC_PER_SEC)
    mtime, mtime_nsec = divmod(attributes.mtime_ns, spec.NSEC_PER_SEC)
    ctime, ctime_nsec = divmod(attributes.ctime_ns, spec.NSEC_PER_SEC)
    return (
        attributes.ino & _U64,
        attributes.size & _U64,
        attributes.blocks & _U64,
        atime & _U64,
        mtime & _U64,
        ctime & _U64,
        atime_nsec,
        mtime_nsec,
        ctime_nsec,
        attributes.mode & _U32,
        attributes.nlink & _U32,
        attributes.uid & _U32,
        attributes.gid & _U32,
        attributes.rdev & _U32,
        attributes.blksize & _U32,
        flags,
    )


def attr(attributes: Attributes, attr_timeout: float, *, flags: int = 0) -> bytes:
    """Encode attributes that the guest may keep for ``attr_timeout`` seconds; ``flags`` are ``ATTR_*``."""
    return layouts.ATTR_OUT.pack(*timeout(attr_timeout), *_attr(attributes, flags))


def entry(
    nodeid: NodeId,
    attributes: Attributes,
    *,
    generation: int = 0,
    entry_timeout: float,
    attr_timeout: float,
    flags: int = 0,
) -> bytes:
    """Encode a node that was found or made. The guest now holds one more reference on ``nodeid``.

    The guest may keep the name for ``entry_timeout`` and the attributes for ``attr_timeout`` seconds.
    """
    entry_valid, entry_valid_nsec = timeout(entry_timeout)
    attr_valid, attr_valid_nsec = timeout(attr_timeout)
    return layouts.ENTRY_OUT.pack(
        nodeid,
        generation & _U64,
        entry_valid,
        attr_valid,
        entry_valid_nsec,
        attr_valid_nsec,
        *_attr(attributes, flags),
    )


def negative_entry(entry_timeout: float) -> bytes:
    """Encode "no such name" as the guest may keep it; without a timeout answer ENOENT instead."""
    return entry(NodeId(0), Attributes(0, 0, nlink=0), entry_timeout=entry_timeout, attr_timeout=0)


def statx(answer: Statx, attr_timeout: float, *, flags: int = 0) -> bytes:
    """Encode the answer to STATX; the time of birth only where it is known."""
    attributes = answer.attributes
    mask = spec.STATX_BASIC_STATS if answer.btime_ns is None else spec.STATX_BASIC_STATS | spec.STATX_BTIME
    return layouts.STATX_OUT.pack(
        *timeout(attr_timeout),
        flags,
        mask,
        attributes.blksize & _U32,
        0,
        attributes.nlink & _U32,
        attributes.uid & _U32,
        attributes.gid & _U32,
        attributes.mode & _U16,
        attributes.ino & _U64,
        attributes.size & _U64,
        attributes.blocks & _U64,
        0,
        *_sx_time(attributes.atime_ns),
        *_sx_time(answer.btime_ns or 0),
        *_sx_time(attributes.ctime_ns),
        *_sx_time(attributes.mtime_ns),
        *_device(attributes.rdev),
        *_device(answer.dev),
    )


def _sx_time(nanoseconds: int) -> tuple[int, int]:
    seconds, rest = divmod(nanoseconds, spec.NSEC_PER_SEC)
    return ((seconds + _I63) & _U64) - _I63, rest


def _device(number: int) -> tuple[int, int]:
    # The layout of st_dev in Linux; its lower 32 bits are the kernel's own encoding, as in fuse_attr.rdev.
    major = number >> 8 & 0xFFF | number >> 32 & 0xFFFF_F000
    minor = number & 0xFF | number >> 12 & 0xFFFF_FF00
    return major, minor


# Open files


def open_(fh: FileHandle, flags: int = 0) -> bytes:
    """Encode the answer to OPEN and OPENDIR; ``flags`` are :class:`.spec.OpenReply` bits."""
    return layouts.OPEN_OUT.pack(fh, flags, 0)


def create(encoded_entry: bytes, fh: FileHandle, flags: int = 0) -> bytes:
    """Encode the answer to CREATE and TMPFILE: what :func:`entry` returned, then the open file."""
    return encoded_entry + layouts.OPEN_OUT.pack(fh, flags, 0)


def write(size: int) -> bytes:
    """Encode how many bytes WRITE or COPY_FILE_RANGE moved."""
    return layouts.WRITE_OUT.pack(size)


def copied(size: int) -> bytes:
    """Encode how many bytes COPY_FILE_RANGE_64 moved."""
    return layouts.COPY_FILE_RANGE_OUT.pack(size)


def lseek(offset: int) -> bytes:
    """Encode where the data or the hole begins."""
    return layouts.LSEEK_OUT.pack(offset)


def lock(start: int, end: int, type_: int, pid: int) -> bytes:
    """Encode the answer to GETLK: the lock that is in the way, or type ``F_UNLCK``."""
    return layouts.LK_OUT.pack(start, end, type_, pid & _U32)


def ioctl(data: bytes) -> bytes:
    """Encode the answer to IOCTL: success, and what came out."""
    return layouts.IOCTL_OUT.pack(0, 0, 0, 0) + data


# Extended attributes


def xattr_size(size: int) -> bytes:
    """Encode the answer to GETXATTR and LISTXATTR of size 0; else the bytes themselves are the payload."""
    return layouts.GETXATTR_OUT.pack(size)


def xattr_names(names: Sequence[bytes]) -> bytes:
    """Encode the list of LISTXATTR."""
    return b"".join(name + b"\0" for name in names)


# The whole file system


def statfs(answer: StatFs) -> bytes:
    """Encode the answer to STATFS."""
    return layouts.STATFS_OUT.pack(
        answer.blocks & _U64,
        answer.bfree & _U64,
        answer.bavail & _U64,
        answer.files & _U64,
        answer.ffree & _U64,
        answer.bsize & _U32,
        answer.namelen & _U32,
        answer.frsize & _U32,
    )


def init(answer: InitOut) -> bytes:
    """Encode the answer to INIT, 64 bytes for every guest we accept."""
    return layouts.INIT_OUT.pack(
        spec.KERNEL_VERSION,
        answer.minor,
        answer.max_readahead,
        answer.flags & _U32,
        answer.max_background,
        answer.congestion_threshold,
        answer.max_write,
        answer.time_gran,
        answer.max_pages,
        0,
        answer.flags >> 32,
        0,
        answer.request_timeout,
    )


class DirectoryWriter:
    """The payload of READDIR or READDIRPLUS, never longer than ``limit`` bytes.

    Add entries until one does not fit, then send ``data``. No data means that the listing has ended; when not
    even the first entry fits, answer EINVAL instead, or the guest takes the directory for empty.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._data = bytearray()

    @property
    def data(self) -> bytes:
        """What has been added so far."""
        return bytes(self._data)

    def fits(self, entry: DirEntry, plus: bool = False) -> bool:
        """Whether ``entry`` still fits; ask before looking it up for READDIRPLUS."""
        head = layouts.DIRENTPLUS.size if plus else layouts.DIRENT.size
        return len(self._data) + _aligned(head + len(entry.name)) <= self._limit

    def add(self, entry: DirEntry) -> bool:
        """Add an entry of READDIR; False, and nothing added, when it does not fit.

        A name no guest can use is left out, and counts as added: Linux would refuse the whole listing for it.
        """
        return self._add(entry, b"")

    def add_plus(self, entry: DirEntry, encoded_entry: bytes) -> bool:
        """Add an entry of READDIRPLUS with what :func:`entry` returned; otherwise as :meth:`add`.

        When it was added, the guest holds the reference. Give :data:`NO_NODE` for names that :func:`is_name`
        refuses, ``.`` and ``..`` among them, and for those that could not be looked up.
        """
        return self._add(entry, encoded_entry)

    def _add(self, entry: DirEntry, head: bytes) -> bool:
        name = entry.name
        if not is_name(name) and name not in (b".", b".."):
            return True
        if not self.fits(entry, plus=bool(head)):
            return False
        self._data += head
        self._data += layouts.DIRENT.pack(
            entry.ino & _U64 or spec.UNKNOWN_INO, entry.offset & _U64, len(name), entry.type >> 12 & 0xF
        )
        self._data += name
        self._data += bytes(_aligned(len(name)) - len(name))
        return True


def _aligned(size: int) -> int:
    return (size + 7) & ~7


NO_NODE: Final = bytes(layouts.ENTRY_OUT.size)
"""Of an entry in READDIRPLUS: a name and no more; the guest looks it up when it wants to."""
