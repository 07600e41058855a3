"""Three calls of the C library that Python's ``os`` lacks. ``ffi`` and ``Any`` stop here.

ABI mode: no compiler, and a C library without one of them (an old musl) answers as a kernel without it.
"""

import errno
import os
from typing import Any, Protocol, cast

import cffi  # type: ignore[import-untyped]  # ships no annotations

AT_EMPTY_PATH = 0x1000
STATX_BTIME = 0x800

_ffi = cffi.FFI()
_ffi.cdef(
    """
    struct statx_timestamp { int64_t tv_sec; uint32_t tv_nsec; int32_t reserved; };
    struct statx {
        uint32_t stx_mask, stx_blksize;
        uint64_t stx_attributes;
        uint32_t stx_nlink, stx_uid, stx_gid;
        uint16_t stx_mode, pad;
        uint64_t stx_ino, stx_size, stx_blocks, stx_attributes_mask;
        struct statx_timestamp stx_atime, stx_btime, stx_ctime, stx_mtime;
        uint8_t more[128];
    };
    int statx(int directory, const char *name, int flags, unsigned mask, struct statx *result);
    int renameat2(int from, const char *name, int to, const char *new_name, unsigned flags);
    int fallocate(int descriptor, int mode, int64_t offset, int64_t length);
    """
)


class _Library(Protocol):
    def statx(self, directory: int, name: bytes, flags: int, mask: int, result: Any) -> int: ...
    def renameat2(self, source: int, name: bytes, target: int, new_name: bytes, flags: int) -> int: ...
    def fallocate(self, descriptor: int, mode: int, offset: int, length: int) -> int: ...


_library = cast(_Library, _ffi.dlopen(None))


def _failed() -> OSError:
    return OSError(_ffi.errno, os.strerror(_ffi.errno))


def birth_time(descriptor: int) -> int | None:
    """When the file behind ``descriptor`` was made, in nanoseconds, or None where nobody knows.

    Raises:
        OSError: The kernel's answer.
    """
    result = _ffi.new("struct statx *")
    try:
        code = _library.statx(descriptor, b"", AT_EMPTY_PATH, STATX_BTIME, result)
    except AttributeError:
        return None
    if code:
        raise _failed()
    if not result.stx_mask & STATX_BTIME:
        return None
    return int(result.stx_btime.tv_sec) * 1_000_000_000 + int(result.stx_btime.tv_nsec)


def rename(source: int, name: bytes, target: int, new_name: bytes, flags: int) -> None:
    """``renameat2``: rename from one directory descriptor to another, as ``RENAME_*`` in ``flags`` say.

    Raises:
        OSError: The kernel's answer; EINVAL where flags are unknown to it.
    """
    try:
        code = _library.renameat2(source, name, target, new_name, flags)
    except AttributeError:
        raise OSError(errno.EINVAL, "the C library has no renameat2") from None
    if code:
        raise _failed()


def fallocate(descriptor: int, mode: int, offset: int, length: int) -> None:
    """Reserve, punch or zero a range. Unlike ``os.posix_fallocate`` it never writes zeros by itself.

    Raises:
        OSError: The kernel's answer; EOPNOTSUPP where the file system cannot.
    """
    if _library.fallocate(descriptor, mode, offset, length):
        raise _failed()
