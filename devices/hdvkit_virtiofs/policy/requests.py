"""What a share lets a guest do, decided before any file system is asked. Knows requests only, no nodes.

One place, so that no backend can forget it: the server calls :meth:`Policy.check` with each decoded request.
"""

import errno
import os
from typing import Final

import attrs

from hdvkit_virtiofs.fuse import Request
from hdvkit_virtiofs.fuse.errors import FuseError
from hdvkit_virtiofs.fuse.messages import Access, Ioctl, Open
from hdvkit_virtiofs.fuse.spec import (
    FS_IOC_FSGETXATTR,
    FS_IOC_FSSETXATTR,
    FS_IOC_GETFLAGS,
    FS_IOC_GETVERSION,
    FS_IOC_SETFLAGS,
    O_ACCMODE,
    O_APPEND,
    O_CREAT,
    O_RDONLY,
    O_TRUNC,
    OPEN_KILL_SUIDGID,
    Opcode,
)

MUTATING = frozenset(
    {
        Opcode.SETATTR,
        Opcode.SYMLINK,
        Opcode.MKNOD,
        Opcode.MKDIR,
        Opcode.UNLINK,
        Opcode.RMDIR,
        Opcode.RENAME,
        Opcode.RENAME2,
        Opcode.LINK,
        Opcode.WRITE,
        Opcode.SETXATTR,
        Opcode.REMOVEXATTR,
        Opcode.CREATE,
        Opcode.TMPFILE,
        Opcode.FALLOCATE,
        Opcode.COPY_FILE_RANGE,
        Opcode.COPY_FILE_RANGE_64,
        Opcode.SETUPMAPPING,
        Opcode.REMOVEMAPPING,
    }
)
"""Every operation that can change a file, a name or an attribute; IOCTL goes by its command."""

READING_CONTROLS: Final = frozenset({FS_IOC_GETFLAGS, FS_IOC_GETVERSION, FS_IOC_FSGETXATTR})
"""Commands of ``ioctl`` that only read, whatever file system they are for."""

_CHANGING_CONTROLS: Final = frozenset({FS_IOC_SETFLAGS, FS_IOC_FSSETXATTR})
"""Commands of which Linux says itself that the file system is read-only. All others are not known to be harmless, so
they do not exist there."""

_OPENING = frozenset({Opcode.OPEN, Opcode.OPENDIR})


@attrs.frozen
class Policy:
    """The rules of one share."""

    read_only: bool = False

    def check(self, opcode: int, message: Request) -> None:
        """Let a request pass, or refuse it.

        Raises:
            FuseError: EROFS. The share is read-only, whatever the guest's own mount says. ENOTTY for an ``ioctl`` that
                is not known to change nothing.
        """
        if not self.read_only:
            return
        if opcode in MUTATING or (opcode in _OPENING and _writes(message)) or _asks(message) or _sets(message):
            raise FuseError(errno.EROFS)
        if isinstance(message, Ioctl) and message.command not in READING_CONTROLS:
            raise FuseError(errno.ENOTTY)


def _writes(message: Request) -> bool:
    if not isinstance(message, Open):
        return False
    changes = message.flags & (O_TRUNC | O_CREAT | O_APPEND) or message.open_flags & OPEN_KILL_SUIDGID
    return message.flags & O_ACCMODE != O_RDONLY or bool(changes)


def _asks(message: Request) -> bool:
    return isinstance(message, Access) and bool(message.mask & os.W_OK)


def _sets(message: Request) -> bool:
    return isinstance(message, Ioctl) and message.command in _CHANGING_CONTROLS
