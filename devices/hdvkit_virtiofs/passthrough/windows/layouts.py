"""The structures of Windows that travel in buffers, named as in ``ntifs.h``: bytes to tuples and back. Pure."""

import struct
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

# FILE_INFORMATION_CLASS
BASIC: Final = 4
RENAME: Final = 10
LINK: Final = 11
DISPOSITION: Final = 13
ALL: Final = 18
ALLOCATION: Final = 19
END_OF_FILE: Final = 20
ATTRIBUTE_TAG: Final = 35
ID_BOTH_DIRECTORY: Final = 37
ID: Final = 59
ID_EXTD_DIRECTORY: Final = 60
DISPOSITION_EX: Final = 64
RENAME_EX: Final = 65
CASE_SENSITIVE: Final = 71

# FS_INFORMATION_CLASS
FS_ATTRIBUTE: Final = 5
FS_FULL_SIZE: Final = 7

# Attributes of files
READONLY: Final = 0x0001
DIRECTORY: Final = 0x0010
NORMAL: Final = 0x0080
SPARSE: Final = 0x0200
REPARSE_POINT: Final = 0x0400
OFFLINE: Final = 0x1000
RECALL_ON_OPEN: Final = 0x0004_0000
RECALL_ON_DATA_ACCESS: Final = 0x0040_0000

# Attributes of file systems
SUPPORTS_POSIX_UNLINK_RENAME: Final = 0x0000_0400
SUPPORTS_EXTENDED_ATTRIBUTES: Final = 0x0080_0000
SUPPORTS_OPEN_BY_FILE_ID: Final = 0x0100_0000
READ_ONLY_VOLUME: Final = 0x0008_0000

# FILE_DISPOSITION_INFORMATION_EX, FILE_RENAME_INFORMATION_EX
DISPOSE_POSIX: Final = 0x01 | 0x02 | 0x10  # delete, at once, also what is read-only
RENAME_REPLACES: Final = 0x01
RENAME_POSIX: Final = 0x02 | 0x40  # also over what is open, or read-only

# FSCTL
SET_REPARSE_POINT: Final = 0x0009_00A4
GET_REPARSE_POINT: Final = 0x0009_00A8
SET_SPARSE: Final = 0x0009_00C4
SET_ZERO_DATA: Final = 0x0009_80C8
QUERY_ALLOCATED_RANGES: Final = 0x0009_40CF

_ALL = struct.Struct("<qqqqI4x qqIBB2x QI")
_BASIC = struct.Struct("<qqqqI4x")
_FULL_SIZE = struct.Struct("<qqqII")
_ROW = struct.Struct("<II 6q II")  # as far as all classes of rows agree
_MOVE = struct.Struct("<I4xQI")
_RANGE = struct.Struct("<QQ")

ALL_SIZE: Final = 104
"""FILE_ALL_INFORMATION with the beginning of a name, which is cut off."""


class Facts(NamedTuple):
    """What Windows tells of one file in one call. Times in its own ticks, sizes in bytes."""

    birth: int
    access: int
    write: int
    change: int
    attributes: int
    allocation: int
    size: int
    links: int
    is_deleted: int
    is_directory: int
    file_id: int
    ea_size: int
    tag: int = 0
    """Of its reparse point, or 0."""


class Row(NamedTuple):
    """One name of a directory."""

    name: bytes
    """In UTF-16."""
    file_id: int
    attributes: int
    tag: int


def facts(data: bytes) -> Facts:
    """FILE_ALL_INFORMATION."""
    return Facts(*_ALL.unpack_from(data))


def basic(access: int = 0, write: int = 0, attributes: int = 0) -> bytes:
    """FILE_BASIC_INFORMATION; what is 0 stays as it is."""
    return _BASIC.pack(0, access, write, 0, attributes)


def row(data: bytes, *, wide: bool) -> Row:
    """FILE_ID_BOTH_DIR_INFORMATION, or FILE_ID_EXTD_DIR_INFORMATION where ids are ``wide``."""
    _, _, *_, attributes, length = _ROW.unpack_from(data)
    if wide:
        (tag,) = struct.unpack_from("<I", data, 68)
        file_id, start = int.from_bytes(data[72:88], "little"), 88
    else:
        (tag,) = struct.unpack_from("<I", data, 64)  # EaSize, which says that where there is a reparse point
        file_id, start = int.from_bytes(data[96:104], "little"), 104
    return Row(data[start : start + length], file_id, attributes, tag if attributes & REPARSE_POINT else 0)


def move(directory: int, name: bytes, flags: int) -> bytes:
    """FILE_RENAME_INFORMATION and FILE_LINK_INFORMATION, with or without _EX: to one name in one directory."""
    return (_MOVE.pack(flags, directory, len(name)) + name).ljust(24, b"\0")


def size(value: int) -> bytes:
    """FILE_END_OF_FILE_INFORMATION, FILE_ALLOCATION_INFORMATION."""
    return struct.pack("<q", value)


def file_range(start: int, end: int) -> bytes:
    """FILE_ZERO_DATA_INFORMATION: from one byte to before another."""
    return _RANGE.pack(start, end)


def allocated_range(start: int, length: int) -> bytes:
    """FILE_ALLOCATED_RANGE_BUFFER."""
    return _RANGE.pack(start, length)


def allocated_ranges(data: bytes) -> Iterator[tuple[int, int]]:
    """Starts and lengths."""
    return _RANGE.iter_unpack(data[: len(data) // _RANGE.size * _RANGE.size])


class Space(NamedTuple):
    """FILE_FS_FULL_SIZE_INFORMATION."""

    total: int
    available: int
    """To this user, in units."""
    free: int
    sectors: int
    """Of one unit."""
    sector: int


def space(data: bytes) -> Space:
    """FILE_FS_FULL_SIZE_INFORMATION."""
    return Space(*_FULL_SIZE.unpack_from(data))


class FileSystem(NamedTuple):
    """FILE_FS_ATTRIBUTE_INFORMATION."""

    attributes: int
    longest_name: int
    name: str


def file_system(data: bytes) -> FileSystem:
    """FILE_FS_ATTRIBUTE_INFORMATION."""
    attributes, longest, length = struct.unpack_from("<IiI", data)
    return FileSystem(attributes, longest, data[12 : 12 + length].decode("utf-16-le", "replace"))


# Extended attributes


def eas(values: Iterable[tuple[bytes, bytes]]) -> bytes:
    """FILE_FULL_EA_INFORMATION of names and values; one without a value is to be removed."""
    parts = [struct.pack("<BBH", 0, len(name), len(value)) + name + b"\0" + value for name, value in values]
    return _chained(parts)


def ea_names(names: Iterable[bytes]) -> bytes:
    """FILE_GET_EA_INFORMATION."""
    return _chained([struct.pack("<B", len(name)) + name + b"\0" for name in names])


def ea_values(entries: Iterable[bytes]) -> dict[bytes, bytes]:
    """The names and values of entries of FILE_FULL_EA_INFORMATION. Those asked for by name and not there are empty."""
    found = {}
    for entry in entries:
        length, size_ = struct.unpack_from("<BH", entry, 5)
        found[entry[8 : 8 + length]] = entry[9 + length : 9 + length + size_]
    return {name: value for name, value in found.items() if value}


def _chained(parts: list[bytes]) -> bytes:
    """Each with the distance to the next before it, on places that divide by four."""
    packed = b""
    for number, part in enumerate(parts, 1):
        step = -(-(4 + len(part)) // 4) * 4
        last = number == len(parts)
        packed += struct.pack("<I", 0 if last else step) + (part if last else part.ljust(step - 4, b"\0"))
    return packed
