"""One file the guest knows, and its descriptor while it has one. Knows nothing of how it gets one."""

import stat
from typing import Protocol

from hdvkit_virtiofs.passthrough.budget import Budget
from hdvkit_virtiofs.passthrough.handles_by_name import Mark, Mount

CLOSED = -1
"""Stands where a descriptor was that can be opened again."""

DROPPED = -2
"""Stands where a descriptor was of an inode the guest has forgotten."""

NUMBER_BITS = 64

_TYPES = {stat.S_IFMT(mode): stat.S_IFMT(mode) for mode in range(0, 0o200000, 0o10000)}


def key_of(number: int) -> tuple[int, int]:
    """``st_dev`` and ``st_ino`` of an ``Inode.number``."""
    return number >> NUMBER_BITS, number & (1 << NUMBER_BITS) - 1


class Table(Protocol):
    """Who gives inodes their descriptors."""

    open: Budget["Inode"]

    def reopen(self, inode: "Inode") -> int:
        """Give ``inode`` a descriptor again."""
        ...


class Inode:
    """One file, directory or link of the host."""

    # A guest may know a million of these, so one number stands for both of the key, and types are shared.
    __slots__ = ("_table", "mark", "mount", "name", "number", "open_as", "parent", "type")

    def __init__(self, table: "Table", number: int, kind: int, mount: Mount | None) -> None:
        self._table = table
        self.number = number
        """Both of ``key`` in one."""
        self.type = _TYPES[kind]
        """File type bits, as ``stat.S_IFMT(st_mode)``; an inode keeps its type for life."""
        self.open_as = CLOSED
        """The descriptor, if there is one now. For the table; others ask for ``descriptor``."""
        self.mark: Mark | None = None
        """Who this is, while it is closed."""
        self.mount = mount
        """Where it can be opened by handle; then it needs no name."""
        self.parent: Inode | None = None
        self.name = b""
        """The name that led to it last, in ``parent``."""

    @property
    def descriptor(self) -> int:
        """An O_PATH descriptor of it, opened again if need be.

        Use it on the event loop only and never across an ``await``: the number may belong to something else by then.
        Until then it stays open, as long as fewer than ``IN_USE`` other inodes are used.

        Raises:
            OSError: ESTALE, it is gone, or not where it was; EBADF after ``drop``.
        """
        if self.open_as < 0:
            return self._table.reopen(self)
        self._table.open.touch(self)
        return self.open_as

    @property
    def key(self) -> tuple[int, int]:
        """``st_dev`` and ``st_ino``."""
        return key_of(self.number)

    @property
    def is_link(self) -> bool:
        """Whether this is a symbolic link."""
        return self.type == stat.S_IFLNK
