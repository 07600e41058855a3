"""Extended attributes of host files, as they are. Which names a guest may use is not decided here."""

import os
from collections.abc import Sequence

from hdvkit_virtiofs.fuse.answers import Context
from hdvkit_virtiofs.operations import Operations
from hdvkit_virtiofs.passthrough.errors import answers_errno
from hdvkit_virtiofs.passthrough.files import File
from hdvkit_virtiofs.passthrough.inodes import Inode


class ExtendedAttributes(Operations[Inode, File]):
    """Operations on extended attributes; put a layer of rules in front, as by itself this hides nothing.

    The kernel's answers are the guest's: ENODATA for a name that is not there, EPERM for ``user.`` names of what is
    neither file nor directory, EOPNOTSUPP where the host's file system keeps none, E2BIG and ERANGE for what is too
    long. ``XATTR_CREATE`` and ``XATTR_REPLACE`` are checked by the kernel in the same step as the change.
    """

    @answers_errno
    async def getxattr(self, node: Inode, name: bytes, context: Context) -> bytes:
        """Return the value; a link's own when ``node`` is one."""
        return os.getxattr(_itself(node), name)

    @answers_errno
    async def listxattr(self, node: Inode, context: Context) -> Sequence[bytes]:
        """Return the names this process may see: the kernel shows ``trusted.`` ones to root only."""
        return [os.fsencode(name) for name in os.listxattr(_itself(node))]

    @answers_errno
    async def setxattr(self, node: Inode, name: bytes, value: bytes, flags: int, context: Context) -> None:
        """Set the value."""
        os.setxattr(_itself(node), name, value, flags)

    @answers_errno
    async def removexattr(self, node: Inode, name: bytes, context: Context) -> None:
        """Remove the attribute."""
        os.removexattr(_itself(node), name)


def _itself(node: Inode) -> str:
    """A path that leads to the inode and no further.

    The calls that take a descriptor refuse one of ``O_PATH``. Following the number in /proc ends at the inode, as
    with ``link``: the kernel jumps there and does not look whether it is a link.
    """
    return f"/proc/self/fd/{node.descriptor}"
