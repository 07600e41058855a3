"""From the fields of a request body to its message: every rule of the protocol a guest can break.

Each function takes the fields of its row in :mod:`.requests`, in wire order, then the bytes behind them where
the request has any. All raise :class:`FuseError`, which is the guest's answer; nothing else leaves this file.
"""

import errno
import re
import stat
from typing import NoReturn

from hdvkit_virtiofs.fuse import spec
from hdvkit_virtiofs.fuse.errors import FuseError
from hdvkit_virtiofs.fuse.layouts import FORGET_ONE, INIT_IN, INIT_IN_8, INIT_IN_16
from hdvkit_virtiofs.fuse.messages import (
    Access,
    BatchForget,
    CopyFileRange,
    Create,
    FAllocate,
    FileHandle,
    ForgetOne,
    FSync,
    GetAttr,
    GetStatx,
    GetXAttr,
    Init,
    Ioctl,
    Link,
    Lock,
    Lookup,
    LSeek,
    MkDir,
    MkNod,
    NodeId,
    Read,
    ReadDir,
    Remove,
    RemoveXAttr,
    Rename,
    SetAttr,
    SetXAttr,
    Symlink,
    TmpFile,
    Write,
)

# One component, and never the directory itself or its parent: this keeps a guest inside its share. A regular
# expression, because names come with most requests and this costs half of the same in Python.
_NAME = re.compile(rb"(?!\.\.?\0)[^/\0]{1,%d}\0" % spec.NAME_MAX).fullmatch

_NO_ID = 0xFFFF_FFFF
_FILE_TYPE = 0o170000  # stat.S_IFMT refuses numbers of more than 16 bits on some hosts
_PERMISSIONS = 0o7777
_UMASK = 0o777
_LONGEST_COPY = 0xFFFF_F000
_NODE_TYPES = frozenset({stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK})


def refuse(code: int = errno.EINVAL) -> NoReturn:
    """End the request with an error."""
    raise FuseError(code)


# Pieces


def is_name(name: bytes) -> bool:
    """Whether ``name`` can name a file in a directory; ``.`` and ``..`` cannot."""
    return _NAME(name + b"\0") is not None


def one_name(tail: bytes) -> bytes:
    """Take a file name that fills ``tail`` up to its one NUL; ENAMETOOLONG over 255 bytes."""
    if not _NAME(tail):
        refuse(errno.ENAMETOOLONG if tail.find(0) > spec.NAME_MAX else errno.EINVAL)
    return tail[:-1]


def _text(tail: bytes) -> bytes:
    end = len(tail) - 1
    if end < 1 or tail.find(0) != end:
        refuse()
    return tail[:end]


def _split(tail: bytes) -> tuple[bytes, bytes]:
    end = tail.find(0) + 1
    return tail[:end], tail[end:]


def _attribute_name(tail: bytes) -> bytes:
    # No path component: Linux allows "/" and "." here.
    name = _text(tail)
    if len(name) > spec.XATTR_NAME_MAX:
        refuse(errno.ERANGE)
    return name


def _permissions(mode: int, file_type: int) -> int:
    if mode & _FILE_TYPE not in (0, file_type):
        refuse()
    return mode & _PERMISSIONS


def _range(offset: int, length: int, code: int = errno.EINVAL) -> None:
    # The first byte behind the range must have a number too, or the file's size would not.
    if offset + length > spec.MAX_OFFSET:
        refuse(code)


def _handle(flags: int, fh: int) -> FileHandle | None:
    return FileHandle(fh) if flags & spec.GETATTR_FH else None


# The session


def init(body: bytes) -> Init:
    """INIT: 64 bytes since 7.36, 16 before; of another major version only the first 8 mean anything."""
    if len(body) < INIT_IN_8.size:
        refuse()
    major, minor = INIT_IN_8.unpack_from(body)
    if major != spec.KERNEL_VERSION or len(body) == INIT_IN_8.size:
        return Init(major, minor)
    if len(body) == INIT_IN.size:
        return Init(*INIT_IN.unpack(body))
    if len(body) == INIT_IN_16.size:
        return Init(*INIT_IN_16.unpack(body))
    refuse()


# Nodes and names


def lookup(tail: bytes) -> Lookup:
    """LOOKUP: one name."""
    return Lookup(one_name(tail))


def batch_forget(count: int, tail: bytes) -> BatchForget:
    """BATCH_FORGET: as many pairs as ``count`` says, and no byte more."""
    if count > spec.MAX_FORGETS or len(tail) != count * FORGET_ONE.size:
        refuse()
    return BatchForget(tuple(map(ForgetOne._make, FORGET_ONE.struct.iter_unpack(tail))))


def symlink(tail: bytes) -> Symlink:
    """SYMLINK: the new name, then the target, which nobody but the guest resolves."""
    first, second = _split(tail)
    name, target = one_name(first), _text(second)
    if len(target) >= spec.PATH_MAX:
        refuse(errno.ENAMETOOLONG)
    return Symlink(name, target)


def mknod(mode: int, rdev: int, umask: int, tail: bytes) -> MkNod:
    """MKNOD: anything but a directory, a link or a type nobody knows."""
    file_type = mode & _FILE_TYPE
    if file_type not in _NODE_TYPES:
        refuse()
    return MkNod(file_type | mode & _PERMISSIONS, rdev, umask & _UMASK, one_name(tail))


def mkdir(mode: int, umask: int, tail: bytes) -> MkDir:
    """MKDIR."""
    return MkDir(_permissions(mode, stat.S_IFDIR), umask & _UMASK, one_name(tail))


def remove(tail: bytes) -> Remove:
    """UNLINK and RMDIR: one name."""
    return Remove(one_name(tail))


def rename(new_directory: NodeId, tail: bytes) -> Rename:
    """RENAME: the old name, then the new one."""
    return rename2(new_directory, 0, tail)


def rename2(new_directory: NodeId, flags: int, tail: bytes) -> Rename:
    """RENAME2: flags as ``renameat2(2)`` takes them, which exchanges or replaces, never both."""
    alone = spec.RENAME_NOREPLACE | spec.RENAME_WHITEOUT
    if flags & ~(alone | spec.RENAME_EXCHANGE) or (flags & spec.RENAME_EXCHANGE and flags & alone):
        refuse()
    first, second = _split(tail)
    return Rename(new_directory, flags, one_name(first), one_name(second))


def link(old_node: NodeId, tail: bytes) -> Link:
    """LINK."""
    return Link(old_node, one_name(tail))


# Attributes


def getattr_(flags: int, fh: int) -> GetAttr:
    """GETATTR: ``fh`` counts only when its flag is set."""
    return GetAttr(_handle(flags, fh))


def statx(flags: int, fh: int, sx_flags: int, mask: int) -> GetStatx:
    """STATX."""
    return GetStatx(_handle(flags, fh), sx_flags, mask)


def setattr_(
    valid: int,
    fh: int,
    size: int,
    lock_owner: int,
    atime: int,
    mtime: int,
    ctime: int,
    atimensec: int,
    mtimensec: int,
    ctimensec: int,
    mode: int,
    uid: int,
    gid: int,
) -> SetAttr:
    """SETATTR: EFBIG for a size no file can have, EINVAL for all else that makes no sense."""
    if valid & ~spec.FATTR_ALL:
        refuse()
    if valid & spec.FATTR_SIZE and size > spec.MAX_OFFSET:
        refuse(errno.EFBIG)
    atime_now = bool(valid & spec.FATTR_ATIME and valid & spec.FATTR_ATIME_NOW)
    mtime_now = bool(valid & spec.FATTR_MTIME and valid & spec.FATTR_MTIME_NOW)
    return SetAttr(
        valid=valid,
        fh=FileHandle(fh) if valid & spec.FATTR_FH else None,
        lock_owner=lock_owner if valid & spec.FATTR_LOCKOWNER else None,
        mode=mode & _PERMISSIONS if valid & spec.FATTR_MODE else None,
        uid=_owner(uid) if valid & spec.FATTR_UID else None,
        gid=_owner(gid) if valid & spec.FATTR_GID else None,
        size=size if valid & spec.FATTR_SIZE else None,
        atime_ns=_time(atime, atimensec) if valid & spec.FATTR_ATIME and not atime_now else None,
        mtime_ns=_time(mtime, mtimensec) if valid & spec.FATTR_MTIME and not mtime_now else None,
        ctime_ns=_time(ctime, ctimensec) if valid & spec.FATTR_CTIME else None,
        atime_now=atime_now,
        mtime_now=mtime_now,
        kill_suidgid=bool(valid & spec.FATTR_KILL_SUIDGID),
    )


def _owner(number: int) -> int:
    # chown(2) reads -1 as "leave it", which the guest says by the bit it does not set.
    if number == _NO_ID:
        refuse()
    return number


def _time(seconds: int, nanoseconds: int) -> int:
    if nanoseconds >= spec.NSEC_PER_SEC:
        refuse()
    if seconds > spec.MAX_OFFSET:  # two's complement: before 1970
        seconds -= 1 << 64
    return seconds * spec.NSEC_PER_SEC + nanoseconds


def access(mask: int) -> Access:
    """ACCESS: read, write and execute are all there is."""
    if mask & ~0o7:
        refuse()
    return Access(mask)


# Extended attributes


def setxattr(size: int, flags: int, tail: bytes) -> SetXAttr:
    """SETXATTR as it was before ``InitFlag.SETXATTR_EXT``."""
    return setxattr_ext(size, flags, 0, tail)


def setxattr_ext(size: int, flags: int, setxattr_flags: int, tail: bytes) -> SetXAttr:
    """SETXATTR: a name, then ``size`` bytes; E2BIG for more than Linux stores."""
    if flags & ~(spec.XATTR_CREATE | spec.XATTR_REPLACE) or setxattr_flags & ~spec.SETXATTR_ACL_KILL_SGID:
        refuse()
    if size > spec.XATTR_SIZE_MAX:
        refuse(errno.E2BIG)
    first, value = _split(tail)
    if len(value) != size:
        refuse()
    return SetXAttr(flags, setxattr_flags, _attribute_name(first), value)


def getxattr(size: int, tail: bytes) -> GetXAttr:
    """GETXATTR."""
    return GetXAttr(size, _attribute_name(tail))


def removexattr(tail: bytes) -> RemoveXAttr:
    """REMOVEXATTR."""
    return RemoveXAttr(_attribute_name(tail))


# Open files


def create(flags: int, mode: int, umask: int, open_flags: int, tail: bytes) -> Create:
    """CREATE: regular files only."""
    return Create(flags, _permissions(mode, stat.S_IFREG), umask & _UMASK, open_flags, one_name(tail))


def tmpfile(flags: int, mode: int, umask: int, open_flags: int, tail: bytes) -> TmpFile:
    """TMPFILE: Linux sends "/" where CREATE has a name; whatever stands there is not used."""
    if len(_text(tail)) > spec.NAME_MAX:
        refuse(errno.ENAMETOOLONG)
    return TmpFile(flags, _permissions(mode, stat.S_IFREG), umask & _UMASK, open_flags)


def read(fh: FileHandle, offset: int, size: int, read_flags: int, lock_owner: int, flags: int) -> Read:
    """READ: up to the last byte a file can have."""
    _range(offset, size)
    return Read(fh, offset, size, read_flags, lock_owner, flags)


def write(fh: FileHandle, offset: int, size: int, write_flags: int, lock_owner: int, flags: int) -> Write:
    """WRITE: EFBIG past the last byte a file can have."""
    _range(offset, size, errno.EFBIG)
    return Write(fh, offset, size, write_flags, lock_owner, flags)


def readdir(fh: FileHandle, offset: int, size: int, _read_flags: int, _lock_owner: int, _flags: int) -> ReadDir:
    """READDIR and READDIRPLUS: the offset is the file system's own, so any number passes."""
    return ReadDir(fh, offset, size)


def fsync(fh: FileHandle, flags: int) -> FSync:
    """FSYNC and FSYNCDIR."""
    return FSync(fh, bool(flags & spec.FSYNC_FDATASYNC))


def lock(fh: FileHandle, owner: int, start: int, end: int, type_: int, pid: int, lock_flags: int) -> Lock:
    """GETLK, SETLK and SETLKW: a range is ``start`` to ``end``, both included."""
    if not start <= end <= spec.MAX_OFFSET or type_ > spec.F_UNLCK:
        refuse()
    return Lock(fh, owner, start, end, type_, pid, lock_flags)


def fallocate(fh: FileHandle, offset: int, length: int, mode: int) -> FAllocate:
    """FALLOCATE: EFBIG past the last byte a file can have, EOPNOTSUPP for modes FUSE does not carry."""
    known = spec.FALLOC_FL_KEEP_SIZE | spec.FALLOC_FL_PUNCH_HOLE | spec.FALLOC_FL_ZERO_RANGE
    hole = spec.FALLOC_FL_PUNCH_HOLE | spec.FALLOC_FL_KEEP_SIZE
    # fallocate(2): a hole never changes the size, so its two bits come together and alone.
    if mode & ~known or (mode & spec.FALLOC_FL_PUNCH_HOLE and mode != hole):
        refuse(errno.EOPNOTSUPP)
    if not length or offset > spec.MAX_OFFSET:
        refuse()
    _range(offset, length, errno.EFBIG)
    return FAllocate(fh, offset, length, mode)


def lseek(fh: FileHandle, offset: int, whence: int) -> LSeek:
    """LSEEK: data and holes only, ENXIO where no file has any; all other seeking is done in the guest."""
    if whence not in (spec.SEEK_DATA, spec.SEEK_HOLE):
        refuse()
    _range(offset, 0, errno.ENXIO)
    return LSeek(fh, offset, whence)


def copy_file_range(
    fh: FileHandle, offset: int, to_node: NodeId, to_fh: FileHandle, to_offset: int, length: int, flags: int
) -> CopyFileRange:
    """COPY_FILE_RANGE: its reply counts in 32 bits, so more is not copied at once."""
    request = copy_file_range_64(fh, offset, to_node, to_fh, to_offset, length, flags)
    return request._replace(length=min(length, _LONGEST_COPY))


def copy_file_range_64(
    fh: FileHandle, offset: int, to_node: NodeId, to_fh: FileHandle, to_offset: int, length: int, flags: int
) -> CopyFileRange:
    """COPY_FILE_RANGE_64: no flag is defined yet."""
    if flags:
        refuse()
    _range(offset, length)
    _range(to_offset, length, errno.EFBIG)
    return CopyFileRange(fh, offset, to_node, to_fh, to_offset, length, flags)


def ioctl(fh: FileHandle, flags: int, command: int, argument: int, in_size: int, out_size: int, tail: bytes) -> Ioctl:
    """IOCTL: ``in_size`` bytes of argument follow."""
    if len(tail) != in_size:
        refuse()
    return Ioctl(fh, flags, command, argument, out_size, tail)
