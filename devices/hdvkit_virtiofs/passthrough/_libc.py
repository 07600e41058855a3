"""Calls of the C library that Python's ``os`` lacks. ``ffi`` and ``Any`` stop here.

ABI mode: no compiler, and a C library without one of them (an old musl) answers as a kernel without it.
"""

import errno
import os
import platform
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, cast

import cffi  # type: ignore[import-untyped]  # ships no annotations

AT_EMPTY_PATH = 0x1000
STATX_BTIME = 0x800

# The library's own setgroups changes every thread of the process; the system call changes one.
_SYS_SETGROUPS = {"x86_64": 116, "aarch64": 159, "riscv64": 159}.get(platform.machine()) if sys.maxsize >> 32 else None

_CAPABILITY_VERSION_3 = 0x20080522
_NO_ID = 2**32 - 1

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
    int syncfs(int descriptor);

    struct capability_header { uint32_t version; int pid; };
    struct capability_sets { uint32_t effective, permitted, inheritable; };
    int capget(struct capability_header *header, struct capability_sets *sets);
    int capset(struct capability_header *header, const struct capability_sets *sets);
    int setfsuid(uint32_t uid);
    int setfsgid(uint32_t gid);
    long syscall(long number, ...);
    """
)


class _Library(Protocol):
    def statx(self, directory: int, name: bytes, flags: int, mask: int, result: Any) -> int: ...
    def renameat2(self, source: int, name: bytes, target: int, new_name: bytes, flags: int) -> int: ...
    def fallocate(self, descriptor: int, mode: int, offset: int, length: int) -> int: ...
    def syncfs(self, descriptor: int) -> int: ...
    def capget(self, header: Any, sets: Any) -> int: ...
    def capset(self, header: Any, sets: Any) -> int: ...
    def setfsuid(self, uid: int) -> int: ...
    def setfsgid(self, gid: int) -> int: ...
    def syscall(self, number: int, *args: Any) -> int: ...


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


def syncfs(descriptor: int) -> None:
    """Wait until the file system that holds ``descriptor`` is on stable storage.

    Raises:
        OSError: The kernel's answer, late write errors among it.
    """
    if _library.syncfs(descriptor):
        raise _failed()


# Credentials of the calling thread. Everything below leaves other threads as they are.

KNOWS_CREDENTIALS = _SYS_SETGROUPS is not None and all(
    hasattr(_library, name) for name in ("capget", "capset", "setfsuid", "setfsgid", "syscall")
)
"""Whether a thread can be given credentials here: the functions below may be called."""

_header = _ffi.new("struct capability_header *", {"version": _CAPABILITY_VERSION_3})


class Capabilities(NamedTuple):
    """The three sets of ``capabilities(7)`` that a thread can change, a bit for each."""

    effective: int
    permitted: int
    inheritable: int


def capabilities() -> Capabilities:
    """What the calling thread may do."""
    low, high = sets = _ffi.new("struct capability_sets[2]")
    if _library.capget(_header, sets):
        raise _failed()
    return Capabilities(
        low.effective | high.effective << 32,
        low.permitted | high.permitted << 32,
        low.inheritable | high.inheritable << 32,
    )


def set_capabilities(wanted: Capabilities) -> None:
    """Let the calling thread do so much.

    Raises:
        OSError: EPERM, more than it is permitted.
    """
    sets = [[word & 0xFFFFFFFF for word in wanted], [word >> 32 for word in wanted]]
    if _library.capset(_header, _ffi.new("struct capability_sets[2]", sets)):
        raise _failed()


def set_groups(groups: Sequence[int]) -> None:
    """Give the calling thread these supplementary groups.

    Raises:
        OSError: EPERM, or EOVERFLOW for a group the kernel does not take.
    """
    wanted = _ffi.new("uint32_t[]", list(groups))
    if _library.syscall(_SYS_SETGROUPS or -1, _ffi.cast("size_t", len(groups)), wanted):
        raise _failed() if _ffi.errno != errno.EINVAL else OSError(errno.EOVERFLOW, "no such group")


def set_fsuid(uid: int) -> bool:
    """Act as ``uid`` in the file system, and tell whether the kernel took it: it never says so itself."""
    _library.setfsuid(uid)
    return _library.setfsuid(_NO_ID) & _NO_ID == uid


def set_fsgid(gid: int) -> bool:
    """Act as ``gid`` in the file system, and tell whether the kernel took it."""
    _library.setfsgid(gid)
    return _library.setfsgid(_NO_ID) & _NO_ID == gid
