"""Locks in the words of the host's kernel: flock(2) and the locks of open files of fcntl(2). Never waits."""

import errno
import fcntl
import os
import struct

from hdvkit_virtiofs.fuse.answers import FileLock
from hdvkit_virtiofs.fuse.spec import MAX_OFFSET
from hdvkit_virtiofs.passthrough.errors import refusal
from hdvkit_virtiofs.passthrough.files import File

_FLOCK = struct.Struct("hhqqi")  # struct flock: type, whence, start, len, pid

_OF_FLOCK = {fcntl.F_RDLCK: fcntl.LOCK_SH, fcntl.F_WRLCK: fcntl.LOCK_EX, fcntl.F_UNLCK: fcntl.LOCK_UN}


def tell(descriptor: int, lock: FileLock) -> None:
    """Have a lock set; BlockingIOError when another is in the way."""
    if lock.flock:
        fcntl.flock(descriptor, _OF_FLOCK[lock.type] | fcntl.LOCK_NB)
    else:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _packed(lock))


def ask(descriptor: int, lock: FileLock) -> FileLock | None:
    """What is in the way of ``lock``, other than locks set by this very descriptor."""
    type_, _, start, length, _ = _FLOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, _packed(lock)))
    if type_ == fcntl.F_UNLCK:
        return None
    return FileLock(0, type_, start, start + length - 1 if length else MAX_OFFSET)


def _packed(lock: FileLock) -> bytes:
    length = 0 if lock.end == MAX_OFFSET else lock.end - lock.start + 1  # 0 is to the end, wherever that is
    return _FLOCK.pack(lock.type, os.SEEK_SET, lock.start, length, 0)


def access(descriptor: int) -> int:
    """O_RDONLY, O_WRONLY or O_RDWR, as it was opened."""
    return fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE


def check_access(file: File, lock: FileLock) -> None:
    """fcntl_locking(2): to lock for reading, a file must be open for reading; the same for writing."""
    unfit = {fcntl.F_RDLCK: os.O_WRONLY, fcntl.F_WRLCK: os.O_RDONLY}.get(lock.type)
    if unfit is not None and access(file.descriptor) == unfit:
        raise refusal(errno.EBADF)
