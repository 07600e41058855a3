"""A piece of a client's memory, mapped into this process until it is closed or cut off."""

import errno
import mmap
import os
import stat
from typing import Any, Protocol, cast

import cffi  # type: ignore[import-untyped]  # ships no annotations

from hdvkit_vfio_user.protocol import Refused

MAP_FIXED = 0x10
MAP_NORESERVE = 0x4000
READ_WRITE = mmap.PROT_READ | mmap.PROT_WRITE

_ffi = cffi.FFI()
_ffi.cdef("void *mmap(void *address, size_t size, int protection, int flags, int fd, int64_t offset);")
_FAILED = _ffi.cast("void *", -1)


class _Library(Protocol):
    def mmap(self, address: Any, size: int, protection: int, flags: int, fd: int, offset: int) -> Any: ...


_library = cast(_Library, _ffi.dlopen(None))


class Mapping:
    """Shared memory of a client. The file is checked to be long enough: beyond its end an access would kill us.

    An anonymous mapping of Python's holds the place, since that knows who still has a view of it; the client's memory
    is laid over it, and costs no descriptor.

    Raises:
        Refused: The file cannot be mapped so.
    """

    def __init__(self, fd: int, offset: int, size: int, *, writable: bool) -> None:
        found = os.fstat(fd)
        if stat.S_ISREG(found.st_mode) and offset + size > found.st_size:
            raise Refused(errno.EINVAL)
        align = _alignment(found.st_blksize)
        protection = READ_WRITE if writable else mmap.PROT_READ
        try:
            flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
            self._place = mmap.mmap(-1, size + align - mmap.PAGESIZE, flags, protection)
        except (OSError, ValueError, OverflowError) as error:
            raise Refused(getattr(error, "errno", None) or errno.ENOMEM) from error
        with _ffi.from_buffer(self._place) as address:
            start = -int(_ffi.cast("uintptr_t", address)) % align
        self._start, self._size = start, size
        self.view = memoryview(self._place)[start : start + size]
        problem = self._lay(protection, mmap.MAP_SHARED, fd, offset)
        if problem:
            self.close()
            raise Refused(problem)

    def cut(self) -> bool:
        """Put memory of our own in the place of the client's: who still holds views reaches nothing of it any more.

        False when the system has no room for another mapping; the views then still show the client's memory.
        """
        return not self._lay(READ_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)

    def close(self) -> None:
        """Unmap it. Where a slice of it is left somewhere, in a traceback perhaps, that shows our memory instead."""
        self.view.release()
        try:
            self._place.close()
        except BufferError:
            self.cut()

    def _lay(self, protection: int, flags: int, fd: int, offset: int) -> int:
        """Map something over the place; returns an errno, or 0."""
        with _ffi.from_buffer(self._place) as address:
            mapped = _library.mmap(address + self._start, self._size, protection, flags | MAP_FIXED, fd, offset)
            return _ffi.errno if mapped == _FAILED else 0


def _alignment(blocks: int) -> int:
    """Huge pages lie at multiples of their size, which their file system gives as that of its blocks."""
    return blocks if blocks > mmap.PAGESIZE and not blocks & (blocks - 1) else mmap.PAGESIZE
