"""RAM of a virtual machine whose devices live in other processes: one memfd, mapped to guests in several pieces."""

import mmap
import os
from typing import NamedTuple

import cffi  # type: ignore[import-untyped]  # it has no types

from hdvkit.testing.ram import Ram

FLASH = 0xFFFC0000
FLASH_DATA = bytes(range(256)) * 1024

# Python's own mmap keeps a descriptor as long as somebody looks at the memory, which hides those that are lost.
_ffi = cffi.FFI()
_ffi.cdef("void *mmap(void *, size_t, int, int, int, long); int munmap(void *, size_t);")
_libc = _ffi.dlopen(None)
_mmap, _munmap = _libc.mmap, _libc.munmap  # looked up now: cffi's lock may be held when garbage is collected


class Piece(NamedTuple):
    """One piece of guest-physical memory; without a descriptor nobody else can map it."""

    address: int
    size: int
    fd: int | None
    offset: int
    writable: bool


class SharedRam(Ram):
    """The layout and allocator of the simulated machine's RAM over memory that can be handed to other processes.

    Firmware stands where QEMU has it: read-only, and reachable through the machine only.
    """

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.pieces: list[Piece] = []
        self._fd = os.memfd_create("guest", os.MFD_CLOEXEC)
        offset = 0
        for address, region in super().regions.items():
            self.pieces.append(Piece(address, len(region), self._fd, offset, True))
            offset += len(region)
        os.ftruncate(self._fd, offset)
        whole = _map(self._fd, offset)
        self._views = [(piece.address, whole[piece.offset : piece.offset + piece.size]) for piece in self.pieces]
        self._views.append((FLASH, memoryview(FLASH_DATA)))
        self.pieces.append(Piece(FLASH, len(FLASH_DATA), None, 0, False))

    def view(self, address: int, size: int) -> memoryview:
        """A range as bytes; raises ValueError unless it lies inside one piece."""
        for start, view in self._views:
            if start <= address and size >= 0 and address + size <= start + len(view):
                return view[address - start : address - start + size]
        raise ValueError(f"no RAM for {size} bytes at {address:#x}")

    def close(self) -> None:
        """Let go of the memory; it stays as long as somebody still looks at it."""
        os.close(self._fd)
        self._views.clear()


def _map(fd: int, size: int) -> memoryview:
    """The memory behind a descriptor, until the last view of it is gone."""
    address = _mmap(_ffi.NULL, size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED, fd, 0)
    if address == _ffi.cast("void *", -1):
        raise OSError(_ffi.errno, os.strerror(_ffi.errno))
    return memoryview(_ffi.buffer(_ffi.gc(address, lambda start: _munmap(start, size)), size))
