"""A piece of a client's memory, mapped into this process until it is closed or cut off."""

import errno
import mmap
import os
import stat

from cffi import FFI  # type: ignore[import-untyped]  # cffi ships no types

from hdvkit_vfio_user.protocol import Refused

_ffi = FFI()
_ffi.cdef("void *mmap(void *address, size_t size, int protection, int flags, int fd, int64_t offset);")
_libc = _ffi.dlopen(None)
_MAP_FIXED = 0x10
_MAP_NORESERVE = 0x4000
_FAILED = _ffi.cast("void *", -1)


class Mapping:
    """Shared memory of a client. The file is checked to be long enough: beyond its end an access would kill us.

    Raises:
        Refused: The file cannot be mapped so.
    """

    def __init__(self, fd: int, offset: int, size: int, *, writable: bool) -> None:
        found = os.fstat(fd)
        if stat.S_ISREG(found.st_mode) and offset + size > found.st_size:
            raise Refused(errno.EINVAL)
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        try:
            self._mmap = mmap.mmap(fd, size, mmap.MAP_SHARED, protection, offset=offset)
        except (OSError, ValueError, OverflowError) as error:
            raise Refused(getattr(error, "errno", None) or errno.EINVAL) from error
        self.view = memoryview(self._mmap)

    def cut(self) -> bool:
        """Put memory of our own in the place of the client's: who still holds views reaches nothing of it any more.

        False when the system has no room for another mapping; the views then still show the client's memory.
        """
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_FIXED | _MAP_NORESERVE
        with _ffi.from_buffer(self._mmap) as address:
            return bool(_libc.mmap(address, len(self._mmap), mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0) != _FAILED)

    def close(self) -> None:
        """Unmap it. Where a slice of it is left somewhere, in a traceback perhaps, that shows our memory instead."""
        self.view.release()
        try:
            self._mmap.close()
        except BufferError:
            self.cut()
