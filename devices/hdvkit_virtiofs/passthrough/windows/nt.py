"""The calls of Windows that act on files: each by a handle, with buffers as bytes.

A name is never parsed on its way: with ``RootDirectory`` one component is looked up in one directory, by the file
system, so there are no drives, no devices and no ``..`` that it could mean.
"""

import struct
from collections.abc import Iterable, Iterator
from typing import Any, Final

from hdvkit_virtiofs.passthrough.windows import layouts, status
from hdvkit_virtiofs.passthrough.windows.binding import Handle, check, ffi, kernel32, ntdll
from hdvkit_virtiofs.passthrough.windows.status import NtError

# Rights
READ_DATA: Final = 0x0001  # FILE_LIST_DIRECTORY of directories
WRITE_DATA: Final = 0x0002
APPEND_DATA: Final = 0x0004
READ_EA: Final = 0x0008
WRITE_EA: Final = 0x0010
READ_ATTRIBUTES: Final = 0x0080
WRITE_ATTRIBUTES: Final = 0x0100
DELETE: Final = 0x0001_0000
SYNCHRONIZE: Final = 0x0010_0000

# Dispositions
OPEN: Final = 1
CREATE: Final = 2

# Options
DIRECTORY_FILE: Final = 0x0000_0001
WRITE_THROUGH: Final = 0x0000_0002
NON_DIRECTORY_FILE: Final = 0x0000_0040
OPEN_REPARSE_POINT: Final = 0x0020_0000
_SYNCHRONOUS_IO_NONALERT: Final = 0x0000_0020
_OPEN_BY_FILE_ID: Final = 0x0000_2000

_SHARE_ALL: Final = 0x7
_OBJ_DONT_REPARSE: Final = 0x1000

_LOCKFILE_FAIL_IMMEDIATELY: Final = 1
_LOCKFILE_EXCLUSIVE_LOCK: Final = 2

WRITE_TO_END: Final = 0xFFFF_FFFF - (1 << 32)  # FILE_WRITE_TO_END_OF_FILE, and -1 above it
"""As an offset: the end of the file, wherever it is then."""

LONGEST_EAS: Final = 65536
LISTING_SIZE: Final = 65536


# Opening


def open_path(path: str, access: int, options: int) -> Handle:
    r"""Open what a person named, as a path of NT (``\??\C:\folder``). Never with anything from a guest."""
    name, kept = _unicode(path.encode("utf-16-le", "surrogatepass"))
    return _create("opening the directory", None, name, kept, access, 0, OPEN, options, dont_reparse=False)


def open_child(
    parent: Handle,
    name: bytes,
    access: int,
    options: int,
    *,
    disposition: int = OPEN,
    attributes: int = 0,
    ea: bytes = b"",
) -> Handle:
    """Open or make one component, in UTF-16, below a directory.

    ``ea`` is a list of extended attributes that a new file is born with. Follows no reparse point.

    Raises:
        NtError: Windows' answer.
    """
    text, kept = _unicode(name)
    return _create("opening a name", parent, text, kept, access, attributes, disposition, options, ea)


def open_id(volume: Handle, file_id: bytes, access: int, options: int) -> Handle:
    """Open a file by its id (8 bytes, or 16 on ReFS) on the volume of another handle."""
    name, kept = _unicode(file_id)
    return _create("opening a file id", volume, name, kept, access, 0, OPEN, options | _OPEN_BY_FILE_ID)


def open_again(handle: Handle, access: int, options: int) -> Handle:
    """Open the same file once more: an empty name below itself."""
    name, kept = _unicode(b"")
    return _create("opening a file again", handle, name, kept, access, 0, OPEN, options)


def _unicode(units: bytes) -> tuple[Any, Any]:
    """A counted text; the caller keeps both for as long as C looks at it."""
    buffer = ffi().new("WCHAR[]", max(1, len(units) // 2))
    ffi().memmove(buffer, units, len(units))
    return ffi().new("UNICODE_STRING *", (len(units), len(units), buffer)), buffer


def _create(
    tried: str,
    root: Handle | None,
    name: Any,
    _kept: Any,
    access: int,
    attributes: int,
    disposition: int,
    options: int,
    ea: bytes = b"",
    *,
    dont_reparse: bool = True,
) -> Handle:
    made = ffi().new("HANDLE *")
    where = ffi().new("OBJECT_ATTRIBUTES *")
    where.Length = ffi().sizeof("OBJECT_ATTRIBUTES")
    where.RootDirectory = ffi().NULL if root is None else root.value
    where.ObjectName = name
    where.Attributes = _OBJ_DONT_REPARSE if dont_reparse else 0
    born_with = ffi().from_buffer(ea) if ea else ffi().NULL
    code = ntdll().NtCreateFile(
        made, access | SYNCHRONIZE, where, ffi().new("IO_STATUS_BLOCK *"), ffi().NULL, attributes, _SHARE_ALL,
        disposition, options | _SYNCHRONOUS_IO_NONALERT, born_with, len(ea),
    )  # fmt: skip
    check(tried, code)
    return Handle(made[0])


# Information


def query(handle: Handle, information: int, size: int) -> bytes:
    """FILE_INFORMATION_CLASS ``information`` of a file; a name that does not fit is cut off."""
    buffer, block = bytearray(size), ffi().new("IO_STATUS_BLOCK *")
    code = ntdll().NtQueryInformationFile(handle.value, block, ffi().from_buffer(buffer), size, information)
    if code & 0xFFFFFFFF != status.BUFFER_OVERFLOW:
        check(f"asking for class {information}", code)
    return bytes(buffer)


def set_information(handle: Handle, information: int, value: bytes) -> None:
    """Set FILE_INFORMATION_CLASS ``information`` of a file."""
    block = ffi().new("IO_STATUS_BLOCK *")
    call = ntdll().NtSetInformationFile
    check(f"setting class {information}", call(handle.value, block, ffi().from_buffer(value), len(value), information))


def query_volume(handle: Handle, information: int, size: int) -> bytes:
    """FS_INFORMATION_CLASS ``information`` of the volume that holds a file; a name that does not fit is cut off."""
    buffer, block = bytearray(size), ffi().new("IO_STATUS_BLOCK *")
    code = ntdll().NtQueryVolumeInformationFile(handle.value, block, ffi().from_buffer(buffer), size, information)
    if code & 0xFFFFFFFF != status.BUFFER_OVERFLOW:
        check(f"asking a volume for class {information}", code)
    return bytes(buffer)


def list_names(directory: Handle, information: int, pattern: bytes = b"") -> Iterator[bytes]:
    """The rows of FILE_INFORMATION_CLASS ``information``, one for each name that fits ``pattern`` (UTF-16).

    The file system remembers the pattern with the handle, so use a fresh one for each.

    Raises:
        NtError: Windows' answer, while it is iterated; no names at all is none.
    """
    restart = True
    name = kept = nothing = ffi().NULL
    if pattern:
        name, kept = _unicode(pattern)
    while True:
        buffer, block = bytearray(LISTING_SIZE), ffi().new("IO_STATUS_BLOCK *")
        code = ntdll().NtQueryDirectoryFile(
            directory.value, nothing, nothing, nothing, block, ffi().from_buffer(buffer), len(buffer), information,
            False, name, restart,
        )  # fmt: skip
        if code & 0xFFFFFFFF in (status.NO_MORE_FILES, status.NO_SUCH_FILE):
            return
        if code & 0xFFFFFFFF != status.BUFFER_OVERFLOW:
            check("listing a directory", code)
        restart = False
        yield from rows(bytes(buffer[: block.Information]))
    del kept


def rows(buffer: bytes) -> Iterator[bytes]:
    """The entries of a list of Windows: each begins with how far away the next is, or 0."""
    at = 0
    while at + 4 <= len(buffer):
        (step,) = struct.unpack_from("<I", buffer, at)
        yield buffer[at : at + step] if step else buffer[at:]
        if not step:
            return
        at += step


# Data


def read(handle: Handle, view: memoryview, offset: int) -> int:
    """Read into ``view`` and return the count; 0 at the end of the file."""
    code, count = _transfer(ntdll().NtReadFile, handle, view, offset)
    if code & 0xFFFFFFFF == status.END_OF_FILE:
        return 0
    check("reading", code)
    return count


def write(handle: Handle, view: memoryview, offset: int) -> int:
    """Write ``view`` and return the count. ``offset`` may be WRITE_TO_END."""
    code, count = _transfer(ntdll().NtWriteFile, handle, view, offset)
    check("writing", code)
    return count


def _transfer(call: Any, handle: Handle, view: memoryview, offset: int) -> tuple[int, int]:
    nothing, block = ffi().NULL, ffi().new("IO_STATUS_BLOCK *")
    place = ffi().new("int64_t *", offset)
    # Let go of the buffer at once: a traceback that kept it would make Python crash when it collects garbage.
    with ffi().from_buffer(view) as buffer:
        code = call(handle.value, nothing, nothing, nothing, block, buffer, len(view), place, nothing)
    return code, int(block.Information)


def flush(handle: Handle) -> None:
    """Return when what was written is on stable storage."""
    check("flushing", ntdll().NtFlushBuffersFile(handle.value, ffi().new("IO_STATUS_BLOCK *")))


def control(handle: Handle, code: int, argument: bytes = b"", room: int = 0) -> tuple[bytes, bool]:
    """Carry out a control of the file system: its answer, and whether all of it had room.

    Raises:
        NtError: Windows' answer.
    """
    nothing = ffi().NULL
    block, answer = ffi().new("IO_STATUS_BLOCK *"), bytearray(room)
    ended = ntdll().NtFsControlFile(
        handle.value, nothing, nothing, nothing, block, code, ffi().from_buffer(argument) if argument else nothing,
        len(argument), ffi().from_buffer(answer) if room else nothing, room,
    )  # fmt: skip
    overflow = ended & 0xFFFFFFFF == status.BUFFER_OVERFLOW
    if not overflow:
        check(f"control {code:#x}", ended)
    return bytes(answer[: block.Information]), not overflow


# Locks


def lock(handle: Handle, offset: int, length: int, *, exclusive: bool) -> None:
    """Lock a range for this handle; NtError LOCK_NOT_GRANTED at once when another is in the way."""
    flags = _LOCKFILE_FAIL_IMMEDIATELY | (_LOCKFILE_EXCLUSIVE_LOCK if exclusive else 0)
    done = kernel32().LockFileEx(handle.value, flags, 0, *_halves(length), _place(offset))
    if not done:
        raise NtError("locking", status.of_win32(ffi().getwinerror()[0]))


def unlock(handle: Handle, offset: int, length: int) -> None:
    """Give up a range exactly as it was locked."""
    if not kernel32().UnlockFileEx(handle.value, 0, *_halves(length), _place(offset)):
        raise NtError("unlocking", status.of_win32(ffi().getwinerror()[0]))


def _halves(number: int) -> tuple[int, int]:
    return number & 0xFFFF_FFFF, number >> 32


def _place(offset: int) -> Any:
    place = ffi().new("OVERLAPPED *")
    place.Offset, place.OffsetHigh = _halves(offset)
    return place


# Extended attributes


def query_eas(handle: Handle, names: Iterable[bytes] = ()) -> bytes:
    """The list of a file's extended attributes: all of them, or those of these names."""
    block, buffer = ffi().new("IO_STATUS_BLOCK *"), bytearray(LONGEST_EAS)
    wanted = layouts.ea_names(names)
    code = ntdll().NtQueryEaFile(
        handle.value, block, ffi().from_buffer(buffer), len(buffer), False,
        ffi().from_buffer(wanted) if wanted else ffi().NULL, len(wanted), ffi().NULL, True,
    )  # fmt: skip
    if code & 0xFFFFFFFF in (status.NO_EAS_ON_FILE, status.NO_MORE_EAS):
        return b""
    check("reading extended attributes", code)
    return bytes(buffer[: block.Information])


def set_eas(handle: Handle, eas: bytes) -> None:
    """Set the extended attributes of a list; one without a value is removed."""
    block, call = ffi().new("IO_STATUS_BLOCK *"), ntdll().NtSetEaFile
    check("setting extended attributes", call(handle.value, block, ffi().from_buffer(eas), len(eas)))
