"""FUSE replies as the guest reads them: one NamedTuple for a structure, with the protocol's field names. No I/O."""

from collections.abc import Iterator
from struct import Struct
from typing import NamedTuple

from hdvkit.testing.fuse_messages import NAME_MAX, Init, ProtocolError


class Attr(NamedTuple):
    """fuse_attr."""

    ino: int
    size: int
    blocks: int
    atime: int
    mtime: int
    ctime: int
    atimensec: int
    mtimensec: int
    ctimensec: int
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    blksize: int
    flags: int


class EntryOut(NamedTuple):
    """fuse_entry_out: one reference to ``nodeid``, to be given back with FORGET."""

    nodeid: int
    generation: int
    entry_valid: int
    attr_valid: int
    entry_valid_nsec: int
    attr_valid_nsec: int
    attr: Attr


class AttrOut(NamedTuple):
    """fuse_attr_out."""

    attr_valid: int
    attr_valid_nsec: int
    attr: Attr


class OpenOut(NamedTuple):
    """fuse_open_out."""

    fh: int
    open_flags: int


class CreateOut(NamedTuple):
    """What CREATE answers: an entry and an open file."""

    entry: EntryOut
    open: OpenOut


class InitOut(NamedTuple):
    """fuse_init_out; ``flags`` holds flags2 in its upper half when INIT_EXT was answered."""

    major: int
    minor: int
    max_readahead: int
    flags: int
    max_background: int
    congestion_threshold: int
    max_write: int
    time_gran: int
    max_pages: int
    map_alignment: int


class StatfsOut(NamedTuple):
    """fuse_kstatfs."""

    blocks: int
    bfree: int
    bavail: int
    files: int
    ffree: int
    bsize: int
    namelen: int
    frsize: int


class Dirent(NamedTuple):
    """fuse_dirent; ``off`` is where to continue after it."""

    ino: int
    off: int
    type: int
    name: bytes


class DirentPlus(NamedTuple):
    """fuse_direntplus; an entry with nodeid 0 carries no reference and no attributes."""

    entry: EntryOut
    dirent: Dirent


class SxTime(NamedTuple):
    """fuse_sx_time."""

    tv_sec: int
    tv_nsec: int


class Statx(NamedTuple):
    """fuse_statx; read only what ``mask`` names."""

    mask: int
    blksize: int
    attributes: int
    nlink: int
    uid: int
    gid: int
    mode: int
    ino: int
    size: int
    blocks: int
    attributes_mask: int
    atime: SxTime
    btime: SxTime
    ctime: SxTime
    mtime: SxTime
    rdev_major: int
    rdev_minor: int
    dev_major: int
    dev_minor: int


class StatxOut(NamedTuple):
    """fuse_statx_out."""

    attr_valid: int
    attr_valid_nsec: int
    flags: int
    stat: Statx


# Of a mode, a guest keeps 16 bits.
ENTRY_OUT = Struct("<4Q2I6Q3IHxx6I")
ATTR_OUT = Struct("<QII6Q3IHxx6I")
OPEN_OUT = Struct("<QII")
INIT_OUT = Struct("<IIIIHHIIHHI28x")
STATFS_OUT = Struct("<5Q3I28x")
DIRENT = Struct("<QQII")  # ino, off, namelen, type
STATX_OUT = Struct("<QII16x IIQIIIHxxQQQQ qIxxxxqIxxxxqIxxxxqIxxxx 4I112x")


def read_entry(data: bytes, offset: int = 0) -> EntryOut:
    """Read an entry_out."""
    fields = ENTRY_OUT.unpack_from(data, offset)
    return EntryOut._make((*fields[:6], Attr._make(fields[6:])))


def read_attr(data: bytes) -> AttrOut:
    """Read an attr_out."""
    fields = ATTR_OUT.unpack(data)
    return AttrOut(fields[0], fields[1], Attr._make(fields[3:]))


def read_open(data: bytes, offset: int = 0) -> OpenOut:
    """Read an open_out."""
    fh, open_flags, _ = OPEN_OUT.unpack_from(data, offset)
    return OpenOut(fh, open_flags)


def read_init(data: bytes) -> InitOut:
    """Read an init_out and join its two words of flags."""
    *head, flags2 = INIT_OUT.unpack(data)
    init = InitOut._make(head)
    return init._replace(flags=init.flags | flags2 << 32) if init.flags & Init.INIT_EXT else init


def read_statx(data: bytes) -> StatxOut:
    """Read a statx_out."""
    fields = STATX_OUT.unpack(data)
    times = [SxTime(fields[at], fields[at + 1]) for at in (14, 16, 18, 20)]
    return StatxOut._make((*fields[:3], Statx._make((*fields[3:14], *times, *fields[22:]))))


def read_dirents(data: bytes) -> Iterator[Dirent]:
    """Read what READDIR answered; raises ProtocolError where Linux would give up with EIO."""
    offset = 0
    while offset < len(data):
        dirent, offset = _dirent(data, offset, offset)
        yield dirent


def read_dirents_plus(data: bytes) -> Iterator[DirentPlus]:
    """Read what READDIRPLUS answered; each entry with a nodeid is a reference that must be given back."""
    offset = 0
    while offset < len(data):
        start = offset
        if len(data) < start + ENTRY_OUT.size:
            raise ProtocolError(f"{len(data) - start} bytes after the last entry of a directory")
        dirent, offset = _dirent(data, start, start + ENTRY_OUT.size)
        yield DirentPlus(read_entry(data, start), dirent)


def _dirent(data: bytes, start: int, offset: int) -> tuple[Dirent, int]:
    """Read one dirent of the record that began at ``start``, and say where the next record begins."""
    if len(data) < offset + DIRENT.size:
        raise ProtocolError(f"{len(data) - start} bytes after the last entry of a directory")
    ino, off, namelen, kind = DIRENT.unpack_from(data, offset)
    name = data[offset + DIRENT.size : offset + DIRENT.size + namelen]
    following = start + (offset - start + DIRENT.size + namelen + 7 & ~7)
    if not 0 < namelen <= NAME_MAX or following > len(data):
        raise ProtocolError(f"a name of {namelen} bytes where {len(data) - offset - DIRENT.size} are left")
    if b"/" in name or b"\0" in name:
        raise ProtocolError(f"a directory holds the name {name!r}")
    return Dirent(ino, off, kind, name), following
