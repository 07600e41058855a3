"""What the plain directory is done to where Python's ``os`` lacks the system call, or where it would wait.

Shares nothing with the device: the two check each other. Like calls of ``os`` these raise OSError.
"""

import ctypes
import errno
import fcntl
import os
import stat
from struct import Struct
from typing import NamedTuple

AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW = 0x100
STATX_BASIC_AND_BTIME = 0xFFF
STATX_BTIME = 0x800

_LIBC = ctypes.CDLL(None, use_errno=True)
_LONG = ctypes.c_long
_STATX = Struct("<I12xIIIH2xQQ16x16xqI4xqI4xqI4x128x")
_FLOCK = Struct("hhqqi")  # struct flock: l_type, l_whence, l_start, l_len, l_pid


class Statx(NamedTuple):
    """What a host says of a file with the time of its birth; times as (seconds, nanoseconds)."""

    has_btime: bool
    nlink: int
    uid: int
    gid: int
    mode: int
    ino: int
    size: int
    btime: tuple[int, int]
    ctime: tuple[int, int]
    mtime: tuple[int, int]


def open_file(path: str, flags: int) -> int:
    """open(2), by the rules of a guest that opens regular files alone; it never waits for the other end of a FIFO."""
    number = os.open(path, flags | os.O_NONBLOCK, 0o666)
    kind = stat.S_IFMT(os.fstat(number).st_mode)
    if kind == stat.S_IFREG:
        return number
    os.close(number)
    raise _error(errno.EISDIR if kind == stat.S_IFDIR else errno.ENXIO)


def read(path: str) -> bytes:
    """A whole file."""
    with open(open_file(path, os.O_RDONLY), "rb", buffering=0) as file:
        return file.read()


def write(path: str, content: bytes, flags: int) -> None:
    """A file anew, or longer."""
    number = open_file(path, os.O_WRONLY | os.O_CREAT | flags)
    try:
        os.write(number, content)
    finally:
        os.close(number)


def nameless(directory: str) -> int:
    """A file without a name, open to read and write."""
    return os.open(directory, os.O_RDWR | os.O_TMPFILE, 0o600)


def give_name(number: int, path: str) -> None:
    """linkat(2) of an open file, in the way that needs no privilege."""
    numbers = os.open("/proc/self/fd", os.O_PATH | os.O_DIRECTORY)
    try:
        os.link(str(number), path, src_dir_fd=numbers, follow_symlinks=True)
    finally:
        os.close(numbers)


def again(number: int) -> int:
    """Open the same file once more."""
    return os.open(f"/proc/self/fd/{number}", access_of(number))


def content(number: int) -> bytes:
    """All of an open file, for whatever it was opened."""
    with open(f"/proc/self/fd/{number}", "rb", buffering=0) as file:  # noqa: PTH123 - what it names has no path
        return file.read()


def access_of(number: int) -> int:
    """For what a file is open: O_RDONLY, O_WRONLY or O_RDWR."""
    return fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE


def rename(old: str, new: str, flags: int) -> None:
    """renameat2(2)."""
    _check(_LIBC.renameat2(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags))


def fallocate(number: int, mode: int, offset: int, length: int) -> None:
    """The system call with its mode, and without the C library's emulation."""
    _check(_LIBC.fallocate(number, mode, _LONG(offset), _LONG(length)))


def fsync_directory(path: str, datasync: bool) -> None:
    """fsync(2) of a directory."""
    number = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        (os.fdatasync if datasync else os.fsync)(number)
    finally:
        os.close(number)


def statx(path: str, follow: bool) -> Statx:
    """What the system call of this name tells."""
    answer = ctypes.create_string_buffer(_STATX.size)
    flags = 0 if follow else AT_SYMLINK_NOFOLLOW
    _check(_LIBC.statx(AT_FDCWD, os.fsencode(path), flags, STATX_BASIC_AND_BTIME, answer))
    mask, *numbers, bsec, bnsec, csec, cnsec, msec, mnsec = _STATX.unpack(answer.raw)
    times = (bsec, bnsec), (csec, cnsec), (msec, mnsec)
    return Statx._make([bool(mask & STATX_BTIME), *numbers, *times])


def lock(number: int, kind: int, start: int = 0, length: int = 0) -> None:
    """A lock that belongs to the open file, as that of a process that has it open once. Never waits."""
    fcntl.fcntl(number, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, start, length, 0))


def locked(number: int, kind: int, start: int, length: int) -> tuple[int, int, int] | None:
    """The lock in the way of such a one: type, start and length."""
    asked = _FLOCK.pack(kind, os.SEEK_SET, start, length, 0)
    kind, _, start, length, _ = _FLOCK.unpack(fcntl.fcntl(number, fcntl.F_OFD_GETLK, asked))
    return None if kind == fcntl.F_UNLCK else (kind, start, length)


def close_one_of_two(number: int) -> None:
    """What close(2) does to a process that has the file open elsewhere: its locks of fcntl(2) are gone."""
    os.close(os.dup(number))
    lock(number, fcntl.F_UNLCK)


def _check(result: int) -> None:
    if result < 0:
        raise _error(ctypes.get_errno())


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))
