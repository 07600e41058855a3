"""What a request can fail with: the one exception a file system answers with, and errors as guests know them.

Knows nothing of messages. File systems write ``errno.ENODATA`` as the host numbers it, and answers leave with Linux's
number of it: the two differ on Windows.
"""

import errno
from enum import IntEnum
from typing import Final, Self


class LinuxErrno(IntEnum):
    """Error numbers and texts as every Linux guest knows them; other hosts have others for some of them."""

    text: str

    def __new__(cls, number: int, text: str) -> Self:
        """A number with its text."""
        member = int.__new__(cls, number)
        member._value_ = number
        member.text = text
        return member

    EPERM = 1, "Operation not permitted"
    ENOENT = 2, "No such file or directory"
    ESRCH = 3, "No such process"
    EINTR = 4, "Interrupted system call"
    EIO = 5, "Input/output error"
    ENXIO = 6, "No such device or address"
    E2BIG = 7, "Argument list too long"
    ENOEXEC = 8, "Exec format error"
    EBADF = 9, "Bad file descriptor"
    ECHILD = 10, "No child processes"
    EAGAIN = 11, "Resource temporarily unavailable"
    ENOMEM = 12, "Cannot allocate memory"
    EACCES = 13, "Permission denied"
    EFAULT = 14, "Bad address"
    ENOTBLK = 15, "Block device required"
    EBUSY = 16, "Device or resource busy"
    EEXIST = 17, "File exists"
    EXDEV = 18, "Invalid cross-device link"
    ENODEV = 19, "No such device"
    ENOTDIR = 20, "Not a directory"
    EISDIR = 21, "Is a directory"
    EINVAL = 22, "Invalid argument"
    ENFILE = 23, "Too many open files in system"
    EMFILE = 24, "Too many open files"
    ENOTTY = 25, "Inappropriate ioctl for device"
    ETXTBSY = 26, "Text file busy"
    EFBIG = 27, "File too large"
    ENOSPC = 28, "No space left on device"
    ESPIPE = 29, "Illegal seek"
    EROFS = 30, "Read-only file system"
    EMLINK = 31, "Too many links"
    EPIPE = 32, "Broken pipe"
    EDOM = 33, "Numerical argument out of domain"
    ERANGE = 34, "Numerical result out of range"
    EDEADLK = 35, "Resource deadlock avoided"
    ENAMETOOLONG = 36, "File name too long"
    ENOLCK = 37, "No locks available"
    ENOSYS = 38, "Function not implemented"
    ENOTEMPTY = 39, "Directory not empty"
    ELOOP = 40, "Too many levels of symbolic links"
    ENODATA = 61, "No data available"
    ETIME = 62, "Timer expired"
    ENOLINK = 67, "Link has been severed"
    ECOMM = 70, "Communication error on send"
    EPROTO = 71, "Protocol error"
    EBADMSG = 74, "Bad message"
    EOVERFLOW = 75, "Value too large for defined data type"
    EILSEQ = 84, "Invalid or incomplete multibyte or wide character"
    EUSERS = 87, "Too many users"
    EMSGSIZE = 90, "Message too long"
    EPROTONOSUPPORT = 93, "Protocol not supported"
    EOPNOTSUPP = 95, "Operation not supported"
    ENOTSUP = 95, "Operation not supported"
    ENETDOWN = 100, "Network is down"
    ENETUNREACH = 101, "Network is unreachable"
    ECONNABORTED = 103, "Software caused connection abort"
    ECONNRESET = 104, "Connection reset by peer"
    ENOBUFS = 105, "No buffer space available"
    ENOTCONN = 107, "Transport endpoint is not connected"
    ETIMEDOUT = 110, "Connection timed out"
    ECONNREFUSED = 111, "Connection refused"
    EHOSTDOWN = 112, "Host is down"
    EHOSTUNREACH = 113, "No route to host"
    EALREADY = 114, "Operation already in progress"
    EINPROGRESS = 115, "Operation now in progress"
    ESTALE = 116, "Stale file handle"
    EUCLEAN = 117, "Structure needs cleaning"
    EREMOTEIO = 121, "Remote I/O error"
    EDQUOT = 122, "Disk quota exceeded"
    ENOMEDIUM = 123, "No medium found"
    EMEDIUMTYPE = 124, "Wrong medium type"
    ECANCELED = 125, "Operation canceled"
    EKEYEXPIRED = 127, "Key has expired"
    EKEYREVOKED = 128, "Key has been revoked"
    EKEYREJECTED = 129, "Key was rejected by service"
    EOWNERDEAD = 130, "Owner died"


_OF_HOST: Final = {
    getattr(errno, name): number for name, number in LinuxErrno.__members__.items() if hasattr(errno, name)
}


class FuseError(Exception):
    """An answer, not a failure: the guest's system call ends with this errno, one of the host's.

    Raised by file systems and by the decoder; nobody logs it.
    """

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.errno = code

    def __str__(self) -> str:
        known = _OF_HOST.get(self.errno)
        return f"{known.name}: {known.text}" if known else f"{self.errno}: no error of Linux"


def linux_errno(code: int) -> LinuxErrno:
    """Linux's number of an errno of this host.

    What Linux does not know becomes EIO, so that nothing a file system raised can read as success.
    """
    return _OF_HOST.get(code, LinuxErrno.EIO)
