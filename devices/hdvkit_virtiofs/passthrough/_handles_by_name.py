"""``name_to_handle_at`` and ``open_by_handle_at``, which Python's ``os`` lacks. ``ffi`` and ``Any`` stop here.

A handle names an inode for as long as it exists, with a generation, so that none that comes later under the same
number is taken for it. ABI mode: a C library without the calls answers as a kernel without them.
"""

import errno
import os
from typing import Any, NamedTuple, Protocol, cast

import cffi  # type: ignore[import-untyped]  # ships no annotations

AT_EMPTY_PATH = 0x1000
AT_HANDLE_FID = 0x200
"""Since Linux 6.5: a handle to tell files apart by, also where none can be opened by it, as on overlayfs."""

MAX_HANDLE_SZ = 128

_ffi = cffi.FFI()
_ffi.cdef(
    """
    struct file_handle { unsigned int handle_bytes; int handle_type; unsigned char f_handle[128]; };
    int name_to_handle_at(int directory, const char *name, struct file_handle *handle, int *mount, int flags);
    int open_by_handle_at(int mount, struct file_handle *handle, int flags);
    """
)


class _Library(Protocol):
    def name_to_handle_at(self, directory: int, name: bytes, handle: Any, mount: Any, flags: int) -> int: ...
    def open_by_handle_at(self, mount: int, handle: Any, flags: int) -> int: ...


_library = cast(_Library, _ffi.dlopen(None))
_HANDLE, _MOUNT = _ffi.typeof("struct file_handle *"), _ffi.typeof("int *")  # looking types up takes longer than calls
_HEAD = _ffi.offsetof("struct file_handle", "f_handle")


class FileHandle(NamedTuple):
    """A file of the host as its kernel names it."""

    handle: bytes
    """To compare, and for ``open_by_handle``; ``struct file_handle`` as it is."""
    mount_id: int
    """The mount the descriptor led to; its number is free for others once nothing is open there."""


def file_handle(descriptor: int) -> FileHandle:
    """The handle of the inode behind ``descriptor``, which may be an O_PATH one. Needs no privilege.

    Raises:
        OSError: The kernel's answer; EOPNOTSUPP where the file system has none.
    """
    try:
        return _file_handle(descriptor, AT_EMPTY_PATH)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
    return _file_handle(descriptor, AT_EMPTY_PATH | AT_HANDLE_FID)


def _file_handle(descriptor: int, flags: int) -> FileHandle:
    handle, mount = _ffi.new(_HANDLE), _ffi.new(_MOUNT)
    handle.handle_bytes = MAX_HANDLE_SZ
    try:
        code = _library.name_to_handle_at(descriptor, b"", handle, mount, flags)
    except AttributeError:
        raise OSError(errno.EOPNOTSUPP, "the C library has no name_to_handle_at") from None
    if code:
        raise _failed()
    return FileHandle(bytes(_ffi.buffer(handle, _HEAD + handle.handle_bytes)), mount[0])


def open_by_handle(mount: int, handle: bytes) -> int:
    """An O_PATH descriptor of the file, reached through the mount that ``mount`` was opened on without O_PATH.

    Raises:
        OSError: ESTALE, the inode is gone; EPERM without CAP_DAC_READ_SEARCH.
    """
    try:
        descriptor = _library.open_by_handle_at(mount, _ffi.from_buffer(_HANDLE, handle), os.O_PATH | os.O_CLOEXEC)
    except AttributeError:
        raise OSError(errno.EOPNOTSUPP, "the C library has no open_by_handle_at") from None
    if descriptor < 0:
        raise _failed()
    return descriptor


def _failed() -> OSError:
    return OSError(_ffi.errno, os.strerror(_ffi.errno))
