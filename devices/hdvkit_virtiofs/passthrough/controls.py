"""The device controls of Linux that reach the host: flags of files, and nothing else. ioctl(2) by an allow-list.

What a guest must not change stays as it is: that a file is immutable, encrypted or verified, how it is mapped, in what
sizes it grows, to which project's quota it counts, and that each call waits for the disk, which would hold up the event
loop. A guest's kernel sends 4 bytes where a command's number says ``long``; before 5.13 it
sends 8, of which the first 4 mean something, and does not check who asks.
"""

import array
import errno
import fcntl
import os
import stat
import struct
from collections.abc import Callable
from typing import Final, NamedTuple

from hdvkit_virtiofs.fuse.spec import FS_IOC_FSGETXATTR, FS_IOC_FSSETXATTR, FS_IOC_GETFLAGS, FS_IOC_SETFLAGS
from hdvkit_virtiofs.passthrough.errors import refusal

# Bits a guest may change, with the names of linux/fs.h; all others are kept.
_FREE_FLAGS = (
    0x0000_0001  # FS_SECRM_FL
    | 0x0000_0002  # FS_UNRM_FL
    | 0x0000_0004  # FS_COMPR_FL
    | 0x0000_0040  # FS_NODUMP_FL
    | 0x0000_0080  # FS_NOATIME_FL
    | 0x0000_0400  # FS_NOCOMP_FL
    | 0x0000_8000  # FS_NOTAIL_FL
    | 0x0002_0000  # FS_TOPDIR_FL
    | 0x0080_0000  # FS_NOCOW_FL
)
_FREE_XFLAGS = (
    0x0000_0040  # FS_XFLAG_NOATIME
    | 0x0000_0080  # FS_XFLAG_NODUMP
    | 0x0000_2000  # FS_XFLAG_NODEFRAG
)

_FLAGS = struct.Struct("<I")
_LONG = struct.Struct("<II")  # what a command's number says; file systems fill the first half
_FSXATTR = struct.Struct("<IIIII8x")  # fsx_xflags, fsx_extsize, fsx_nextents, fsx_projid, fsx_cowextsize


def control(descriptor: int, command: int, argument: bytes, out_size: int, caller: int) -> bytes:
    """Carry out ``command`` on a regular file or directory that is open; may wait for the disk.

    ``caller`` is the user who asks: only the owner and root change anything.

    Raises:
        OSError: ENOTTY for another command or another kind of file; EINVAL for sizes the command does not have;
            EPERM for what the caller, or any guest, must not change; else what the host's file system says.
    """
    row = _CONTROLS.get(command)
    status = os.fstat(descriptor)
    if row is None or stat.S_IFMT(status.st_mode) not in (stat.S_IFREG, stat.S_IFDIR):
        raise refusal(errno.ENOTTY)
    if len(argument) not in row.takes or out_size not in row.gives:
        raise refusal(errno.EINVAL)
    if argument and caller not in (0, status.st_uid):
        raise refusal(errno.EPERM)
    return row.carry_out(descriptor, argument)


def _get_flags(descriptor: int, argument: bytes = b"") -> bytes:
    return _FLAGS.pack(_asked(descriptor, FS_IOC_GETFLAGS, _LONG)[0])


def _set_flags(descriptor: int, argument: bytes) -> bytes:
    (wanted,) = _FLAGS.unpack_from(argument)
    (now,) = _FLAGS.unpack(_get_flags(descriptor))
    _keep(now ^ wanted, _FREE_FLAGS)
    fcntl.ioctl(descriptor, FS_IOC_SETFLAGS, _LONG.pack(wanted, 0))
    return b""


def _get_xattr(descriptor: int, argument: bytes = b"") -> bytes:
    return _FSXATTR.pack(*_asked(descriptor, FS_IOC_FSGETXATTR, _FSXATTR))


def _set_xattr(descriptor: int, argument: bytes) -> bytes:
    xflags, extsize, _, project, cowextsize = _FSXATTR.unpack(argument)
    now, extsize_now, extents, project_now, cowextsize_now = _asked(descriptor, FS_IOC_FSGETXATTR, _FSXATTR)
    _keep(now ^ xflags, _FREE_XFLAGS)
    _keep(project ^ project_now | extsize ^ extsize_now | cowextsize ^ cowextsize_now, 0)
    fcntl.ioctl(descriptor, FS_IOC_FSSETXATTR, _FSXATTR.pack(xflags, extsize, extents, project, cowextsize))
    return b""


def _asked(descriptor: int, command: int, layout: struct.Struct) -> tuple[int, ...]:
    answer = array.array("B", bytes(layout.size))
    fcntl.ioctl(descriptor, command, answer)
    return layout.unpack(answer)


def _keep(changed: int, free: int) -> None:
    if changed & ~free:
        raise refusal(errno.EPERM)


class _Control(NamedTuple):
    carry_out: Callable[[int, bytes], bytes]
    takes: tuple[int, ...] = (0,)
    gives: tuple[int, ...] = (0,)


_CONTROLS: Final = {
    FS_IOC_GETFLAGS: _Control(_get_flags, gives=(4, 8)),
    FS_IOC_SETFLAGS: _Control(_set_flags, takes=(4, 8)),
    FS_IOC_FSGETXATTR: _Control(_get_xattr, gives=(_FSXATTR.size,)),
    FS_IOC_FSSETXATTR: _Control(_set_xattr, takes=(_FSXATTR.size,)),
}
"""Every control there is, and the sizes of argument and answer it comes with."""
