"""What a share lets a guest do, decided before any file system is asked. Knows requests only, no nodes.

One place, so that no backend can forget it: the server calls :meth:`Policy.check` with each decoded request.
"""

import errno
import os

import attrs

from hdvkit_virtiofs.fuse import Request
from hdvkit_virtiofs.fuse.errors import FuseError
from hdvkit_virtiofs.fuse.messages import Access, Open
from hdvkit_virtiofs.fuse.spec import Opcode

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
        Opcode.IOCTL,
        Opcode.SETUPMAPPING,
        Opcode.REMOVEMAPPING,
    }
)
"""Every operation that can change a file, a name or an attribute, or might (ioctl)."""

_OPENING = frozenset({Opcode.OPEN, Opcode.OPENDIR})


@attrs.frozen
class Policy:
    """The rules of one share."""

    read_only: bool = False

    def check(self, opcode: int, message: Request) -> None:
        """Let a request pass, or refuse it.

        Raises:
            FuseError: EROFS. The share is read-only, whatever the guest's own mount says.
        """
        if self.read_only and (opcode in MUTATING or (opcode in _OPENING and _writes(message)) or _asks(message)):
            raise FuseError(errno.EROFS)


def _writes(message: Request) -> bool:
    flags = message.flags if isinstance(message, Open) else 0
    return flags & os.O_ACCMODE != os.O_RDONLY or bool(flags & (os.O_TRUNC | os.O_CREAT | os.O_APPEND))


def _asks(message: Request) -> bool:
    return isinstance(message, Access) and bool(message.mask & os.W_OK)
