"""Files the guest knows, each held by an O_PATH descriptor and told apart by (st_dev, st_ino).

An O_PATH descriptor names an inode, not a path: renames and removals on either side do not touch it, and as
long as it is open the kernel gives the inode number to nobody else.
"""

import contextlib
import os
import stat

import attrs

from hdvkit_virtiofs.passthrough.descriptors import Descriptors

REFERENCE = os.O_PATH | os.O_NOFOLLOW
"""How a name becomes a descriptor: without reading, without waiting, and never through a link."""

CLOSED = -1
"""Stands where a descriptor was; every system call refuses it with EBADF."""


@attrs.define(eq=False)
class Inode:
    """One file, directory or link of the host.

    The descriptor is used on the event loop only and never across an ``await``: a guest may forget the node
    meanwhile and the number may belong to something else by then.
    """

    descriptor: int
    key: tuple[int, int]
    type: int
    """File type bits, as ``stat.S_IFMT(st_mode)``; an inode keeps its type for life."""

    @property
    def is_link(self) -> bool:
        """Whether this is a symbolic link."""
        return self.type == stat.S_IFLNK


class InodeTable:
    """Gives the same Inode for the same file, however it was reached."""

    def __init__(self, descriptors: Descriptors) -> None:
        self._descriptors = descriptors
        self._known: dict[tuple[int, int], Inode] = {}

    def __len__(self) -> int:
        return len(self._known)

    def find(self, parent: Inode, name: bytes) -> tuple[Inode, os.stat_result]:
        """Look up one component.

        Each call is one reference for the guest: the Inode stays until ``drop``.

        Raises:
            OSError: The kernel's answer, or ENFILE when the guest holds too many files.
        """
        return self.adopt(self._descriptors.open(name, REFERENCE, dir_fd=parent.descriptor, brief=True))

    def adopt(self, descriptor: int) -> tuple[Inode, os.stat_result]:
        """Take over an O_PATH descriptor and give the Inode it stands for, with its attributes.

        Call it last in an operation: an Inode that then is not given to the guest is never forgotten.
        """
        inode = None
        try:
            status = os.fstat(descriptor)
            key = status.st_dev, status.st_ino
            inode = self._known.get(key)
            if inode is None:
                self._descriptors.require(0)
                inode = self._known[key] = Inode(descriptor, key, stat.S_IFMT(status.st_mode))
        finally:
            if inode is None or inode.descriptor != descriptor:
                self._descriptors.close(descriptor)
        return inode, status

    def drop(self, inode: Inode) -> None:
        """Close what stands for ``inode``. Works twice."""
        if self._known.pop(inode.key, None) is not None:
            descriptor, inode.descriptor = inode.descriptor, CLOSED
            # Nothing was written through an O_PATH descriptor, so there is no error worth telling.
            with contextlib.suppress(OSError):
                self._descriptors.close(descriptor)

    def drop_all(self) -> None:
        """Close everything, the root too."""
        for inode in list(self._known.values()):
            self.drop(inode)
