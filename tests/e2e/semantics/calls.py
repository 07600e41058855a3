"""System calls that Python's ``os`` lacks. Like those of ``os`` they raise OSError."""

import ctypes
import os

AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW = 0x100
AT_SYMLINK_FOLLOW = 0x400
AT_EMPTY_PATH = 0x1000

NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4
KEEP_SIZE, PUNCH_HOLE, COLLAPSE_RANGE, ZERO_RANGE, INSERT_RANGE, UNSHARE_RANGE = 1, 2, 8, 16, 32, 64

STATX_BASIC = 0x7FF
STATX_BTIME = 0x800

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.opendir.restype = ctypes.c_void_p
_LIBC.readdir.restype = ctypes.c_void_p
_LIBC.telldir.restype = ctypes.c_long
_NAME_OFFSET = 19  # of d_name in struct dirent


def _checked(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def renameat2(old: str, new: str, flags: int) -> None:
    """Rename, with flags."""
    _checked(_LIBC.renameat2(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags))


def linkat(old: str, new: str, flags: int = 0, directory: int = AT_FDCWD) -> None:
    """Link as the flags say, which Python's own does not always do."""
    _checked(_LIBC.linkat(directory, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags))


def fallocate(descriptor: int, mode: int, offset: int, length: int) -> None:
    """With a mode, and without the C library's emulation."""
    _checked(_LIBC.fallocate(descriptor, mode, ctypes.c_long(offset), ctypes.c_long(length)))


def readlinkat(directory: int, name: bytes, size: int) -> bytes:
    """With a buffer that may be short, or none at all."""
    buffer = ctypes.create_string_buffer(max(size, 1))
    return buffer.raw[: _checked(_LIBC.readlinkat(directory, name, buffer, ctypes.c_size_t(size)))]


def getxattr(name: str, attribute: str, size: int) -> int:
    """With a buffer of a size; the length."""
    buffer = ctypes.create_string_buffer(max(size, 1))
    return _checked(_LIBC.getxattr(os.fsencode(name), attribute.encode(), buffer, ctypes.c_size_t(size)))


def listxattr(name: str, size: int) -> int:
    """With a buffer of a size; the length."""
    buffer = ctypes.create_string_buffer(max(size, 1))
    return _checked(_LIBC.listxattr(os.fsencode(name), buffer, ctypes.c_size_t(size)))


def statx(name: str, flags: int, mask: int) -> tuple[int, int]:
    """The mask of what the file system knows, and the mode."""
    buffer = ctypes.create_string_buffer(256)
    _checked(_LIBC.statx(AT_FDCWD, os.fsencode(name), flags, mask, buffer))
    return int.from_bytes(buffer.raw[:4], "little"), int.from_bytes(buffer.raw[28:30], "little")


def sync_file_range(descriptor: int, offset: int, length: int, flags: int) -> None:
    """Write part of a file back."""
    _checked(_LIBC.sync_file_range(descriptor, ctypes.c_long(offset), ctypes.c_long(length), flags))


def syncfs(descriptor: int) -> None:
    """Write a file system back."""
    _checked(_LIBC.syncfs(descriptor))


class Directory:
    """A directory stream of the C library, with its positions."""

    def __init__(self, name: str) -> None:
        self._stream = ctypes.c_void_p(_LIBC.opendir(os.fsencode(name)) or _checked(-1))

    def read(self) -> str | None:
        """The next name; None at the end."""
        entry = _LIBC.readdir(self._stream)
        return os.fsdecode(ctypes.string_at(entry + _NAME_OFFSET)) if entry else None

    def tell(self) -> int:
        """Where it is."""
        return int(_LIBC.telldir(self._stream))

    def seek(self, position: int) -> None:
        """Go where it was."""
        _LIBC.seekdir(self._stream, ctypes.c_long(position))

    def rewind(self) -> None:
        """Start anew, and see what has changed."""
        _LIBC.rewinddir(self._stream)

    def rest(self) -> list[str]:
        """All names from here on."""
        names = []
        while (name := self.read()) is not None:
            names.append(name)
        return names

    def close(self) -> None:
        """Let go of it."""
        _LIBC.closedir(self._stream)
