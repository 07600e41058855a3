"""What Windows' refusals mean to a guest: NTSTATUS to errno, by a table. Knows no handles and no names.

The numbers of errno are this host's, as everywhere behind the codec, which tells the guest Linux's number of each.
"""

import errno
from typing import Final, NamedTuple

SUCCESS: Final = 0
BUFFER_OVERFLOW: Final = 0x80000005
NO_MORE_FILES: Final = 0x80000006
NO_MORE_EAS: Final = 0x80000012
INVALID_INFO_CLASS: Final = 0xC0000003
INVALID_HANDLE: Final = 0xC0000008
INVALID_PARAMETER: Final = 0xC000000D
INVALID_DEVICE_REQUEST: Final = 0xC0000010
NO_SUCH_FILE: Final = 0xC000000F
END_OF_FILE: Final = 0xC0000011
ACCESS_DENIED: Final = 0xC0000022
OBJECT_NAME_NOT_FOUND: Final = 0xC0000034
OBJECT_NAME_COLLISION: Final = 0xC0000035
SHARING_VIOLATION: Final = 0xC0000043
NO_EAS_ON_FILE: Final = 0xC0000052
LOCK_NOT_GRANTED: Final = 0xC0000055
RANGE_NOT_LOCKED: Final = 0xC000007E
INSUFFICIENT_RESOURCES: Final = 0xC000009A
NOT_IMPLEMENTED: Final = 0xC0000002
NOT_SUPPORTED: Final = 0xC00000BB
FILE_CLOSED: Final = 0xC0000128
CANNOT_DELETE: Final = 0xC0000121
NOT_A_REPARSE_POINT: Final = 0xC0000275


class Meaning(NamedTuple):
    """A code's name in ``ntstatus.h``, and the errno that a Linux kernel would give for the same."""

    name: str
    errno: int = errno.EIO


MEANINGS: Final = {
    BUFFER_OVERFLOW: Meaning("BUFFER_OVERFLOW", errno.ERANGE),
    NO_MORE_FILES: Meaning("NO_MORE_FILES", errno.ENOENT),
    0x80000011: Meaning("DEVICE_BUSY", errno.EBUSY),
    NO_MORE_EAS: Meaning("NO_MORE_EAS", errno.ENODATA),
    0x80000013: Meaning("INVALID_EA_NAME", errno.EINVAL),
    0x80000014: Meaning("EA_LIST_INCONSISTENT", errno.EIO),
    0x8000002D: Meaning("STOPPED_ON_SYMLINK", errno.ELOOP),
    NOT_IMPLEMENTED: Meaning("NOT_IMPLEMENTED", errno.EOPNOTSUPP),
    INVALID_INFO_CLASS: Meaning("INVALID_INFO_CLASS", errno.EOPNOTSUPP),
    0xC0000004: Meaning("INFO_LENGTH_MISMATCH", errno.EINVAL),
    INVALID_HANDLE: Meaning("INVALID_HANDLE", errno.EBADF),
    INVALID_PARAMETER: Meaning("INVALID_PARAMETER", errno.EINVAL),
    0xC000000E: Meaning("NO_SUCH_DEVICE", errno.ENXIO),
    NO_SUCH_FILE: Meaning("NO_SUCH_FILE", errno.ENOENT),
    INVALID_DEVICE_REQUEST: Meaning("INVALID_DEVICE_REQUEST", errno.EOPNOTSUPP),
    END_OF_FILE: Meaning("END_OF_FILE", errno.EIO),
    0xC0000013: Meaning("NO_MEDIA_IN_DEVICE", errno.ENODEV),
    0xC0000017: Meaning("NO_MEMORY", errno.ENOMEM),
    ACCESS_DENIED: Meaning("ACCESS_DENIED", errno.EACCES),
    0xC0000023: Meaning("BUFFER_TOO_SMALL", errno.ERANGE),
    0xC0000024: Meaning("OBJECT_TYPE_MISMATCH", errno.EINVAL),
    0xC0000032: Meaning("DISK_CORRUPT_ERROR", errno.EIO),
    0xC0000033: Meaning("OBJECT_NAME_INVALID", errno.EINVAL),
    OBJECT_NAME_NOT_FOUND: Meaning("OBJECT_NAME_NOT_FOUND", errno.ENOENT),
    OBJECT_NAME_COLLISION: Meaning("OBJECT_NAME_COLLISION", errno.EEXIST),
    0xC0000039: Meaning("OBJECT_PATH_INVALID", errno.ENOTDIR),
    0xC000003A: Meaning("OBJECT_PATH_NOT_FOUND", errno.ENOENT),
    0xC000003B: Meaning("OBJECT_PATH_SYNTAX_BAD", errno.EINVAL),
    0xC000003F: Meaning("CRC_ERROR", errno.EIO),
    SHARING_VIOLATION: Meaning("SHARING_VIOLATION", errno.EBUSY),
    0xC0000044: Meaning("QUOTA_EXCEEDED", errno.EDQUOT),
    0xC000004F: Meaning("EAS_NOT_SUPPORTED", errno.EOPNOTSUPP),
    0xC0000050: Meaning("EA_TOO_LARGE", errno.ENOSPC),
    0xC0000051: Meaning("NONEXISTENT_EA_ENTRY", errno.ENODATA),
    NO_EAS_ON_FILE: Meaning("NO_EAS_ON_FILE", errno.ENODATA),
    0xC0000053: Meaning("EA_CORRUPT_ERROR", errno.EIO),
    0xC0000054: Meaning("FILE_LOCK_CONFLICT", errno.EAGAIN),
    LOCK_NOT_GRANTED: Meaning("LOCK_NOT_GRANTED", errno.EAGAIN),
    0xC0000056: Meaning("DELETE_PENDING", errno.ENOENT),
    0xC0000061: Meaning("PRIVILEGE_NOT_HELD", errno.EPERM),
    RANGE_NOT_LOCKED: Meaning("RANGE_NOT_LOCKED", errno.ENOLCK),
    0xC000007F: Meaning("DISK_FULL", errno.ENOSPC),
    INSUFFICIENT_RESOURCES: Meaning("INSUFFICIENT_RESOURCES", errno.ENOMEM),
    0xC000009C: Meaning("DEVICE_DATA_ERROR", errno.EIO),
    0xC000009D: Meaning("DEVICE_NOT_CONNECTED", errno.ENODEV),
    0xC00000A2: Meaning("MEDIA_WRITE_PROTECTED", errno.EROFS),
    0xC00000A3: Meaning("DEVICE_NOT_READY", errno.ENODEV),
    0xC00000B5: Meaning("IO_TIMEOUT", errno.ETIMEDOUT),
    0xC00000BA: Meaning("FILE_IS_A_DIRECTORY", errno.EISDIR),
    NOT_SUPPORTED: Meaning("NOT_SUPPORTED", errno.EOPNOTSUPP),
    0xC00000BE: Meaning("BAD_NETWORK_PATH", errno.EHOSTUNREACH),
    0xC00000C4: Meaning("UNEXPECTED_NETWORK_ERROR", errno.EIO),
    0xC00000C9: Meaning("NETWORK_NAME_DELETED", errno.ESTALE),
    0xC00000D4: Meaning("NOT_SAME_DEVICE", errno.EXDEV),
    0xC00000E2: Meaning("OPLOCK_NOT_GRANTED", errno.EBUSY),
    0xC0000101: Meaning("DIRECTORY_NOT_EMPTY", errno.ENOTEMPTY),
    0xC0000102: Meaning("FILE_CORRUPT_ERROR", errno.EIO),
    0xC0000103: Meaning("NOT_A_DIRECTORY", errno.ENOTDIR),
    0xC0000106: Meaning("NAME_TOO_LONG", errno.ENAMETOOLONG),
    0xC000011F: Meaning("TOO_MANY_OPENED_FILES", errno.ENFILE),
    0xC0000120: Meaning("CANCELLED", errno.EINTR),
    CANNOT_DELETE: Meaning("CANNOT_DELETE", errno.EACCES),
    0xC0000123: Meaning("FILE_DELETED", errno.ESTALE),
    FILE_CLOSED: Meaning("FILE_CLOSED", errno.EBADF),
    0xC0000129: Meaning("TOO_MANY_THREADS", errno.EAGAIN),
    0xC0000184: Meaning("INVALID_DEVICE_STATE", errno.EIO),
    0xC0000185: Meaning("IO_DEVICE_ERROR", errno.EIO),
    0xC00001A1: Meaning("INVALID_LOCK_RANGE", errno.EINVAL),
    0xC0000188: Meaning("LOG_FILE_FULL", errno.ENOSPC),
    0xC0000201: Meaning("NETWORK_OPEN_RESTRICTION", errno.EACCES),
    0xC0000203: Meaning("USER_SESSION_DELETED", errno.ESTALE),
    0xC000020C: Meaning("CONNECTION_DISCONNECTED", errno.ESTALE),
    0xC0000225: Meaning("NOT_FOUND", errno.ENOENT),
    0xC0000243: Meaning("USER_MAPPED_FILE", errno.ETXTBSY),
    0xC0000265: Meaning("TOO_MANY_LINKS", errno.EMLINK),
    NOT_A_REPARSE_POINT: Meaning("NOT_A_REPARSE_POINT", errno.EINVAL),
    0xC0000276: Meaning("IO_REPARSE_TAG_INVALID", errno.EINVAL),
    0xC0000277: Meaning("IO_REPARSE_TAG_MISMATCH", errno.EINVAL),
    0xC0000278: Meaning("IO_REPARSE_DATA_INVALID", errno.EINVAL),
    0xC0000279: Meaning("IO_REPARSE_TAG_NOT_HANDLED", errno.EOPNOTSUPP),
    0xC0000280: Meaning("REPARSE_POINT_NOT_RESOLVED", errno.ELOOP),
    0xC0000281: Meaning("DIRECTORY_IS_A_REPARSE_POINT", errno.ELOOP),
    0xC000023A: Meaning("CONNECTION_INVALID", errno.ESTALE),
    0xC0000293: Meaning("FILE_ENCRYPTED", errno.EACCES),
    0xC000035C: Meaning("NETWORK_SESSION_EXPIRED", errno.ESTALE),
    0xC0000483: Meaning("DEVICE_HARDWARE_ERROR", errno.EIO),
    0xC0000904: Meaning("FILE_TOO_LARGE", errno.EFBIG),
    0xC0000906: Meaning("VIRUS_INFECTED", errno.EACCES),
    0xC000050B: Meaning("REPARSE_POINT_ENCOUNTERED", errno.ELOOP),
    0xC000CF01: Meaning("CLOUD_FILE_PROVIDER_NOT_RUNNING", errno.EOPNOTSUPP),
}
"""The codes that file systems answer with; any other is EIO."""

UNSUPPORTED: Final = frozenset(
    {NOT_IMPLEMENTED, INVALID_INFO_CLASS, INVALID_PARAMETER, INVALID_DEVICE_REQUEST, NOT_SUPPORTED}
)
"""How file systems and older versions of Windows refuse what they do not know."""


_OF_WIN32: Final = {
    1: INVALID_DEVICE_REQUEST,  # ERROR_INVALID_FUNCTION
    5: ACCESS_DENIED,
    6: INVALID_HANDLE,
    33: LOCK_NOT_GRANTED,  # ERROR_LOCK_VIOLATION
    50: NOT_SUPPORTED,
    87: INVALID_PARAMETER,
    158: RANGE_NOT_LOCKED,  # ERROR_NOT_LOCKED
    1450: INSUFFICIENT_RESOURCES,  # ERROR_NO_SYSTEM_RESOURCES
}
"""What the two functions of kernel32 here leave in GetLastError."""

UNSUCCESSFUL: Final = 0xC0000001


class NtError(OSError):
    """Windows refused: ``status`` is its code, ``errno`` what that is to a guest."""

    def __init__(self, tried: str, status: int) -> None:
        self.status = status & 0xFFFFFFFF
        meaning = MEANINGS.get(self.status, Meaning(""))
        super().__init__(
            meaning.errno, f"{tried} failed with {meaning.name or 'a code of Windows'} {self.status:#010x}"
        )

    @property
    def is_unsupported(self) -> bool:
        """Whether this is how something is refused that is not known there at all."""
        return self.status in UNSUPPORTED


def of_win32(code: int) -> int:
    """The code of NT that Win32 tells as ``code``."""
    return _OF_WIN32.get(code, UNSUCCESSFUL)


def failed(status: int) -> bool:
    """Whether a code, signed or not, is a refusal or a warning: less was done than was asked for."""
    return bool(status & 0x80000000)
