"""A file system in memory: files, directories, links and fifos, up to a capacity. Touches nothing of the host.

It is also the example: a file system is a class that overrides what it supports.
"""

import errno
import os
import stat
from collections.abc import Iterable, Mapping
from typing import TypeAlias

from hdvkit_virtiofs.fuse.answers import (
    Attributes,
    Changes,
    Context,
    DirEntry,
    Entry,
    Opened,
    StatFs,
)
from hdvkit_virtiofs.fuse.spec import O_EXCL, O_TRUNC, RENAME_EXCHANGE, RENAME_NOREPLACE
from hdvkit_virtiofs.memory_tree import BLOCK, NAME_COST, MemoryNode, MemoryTree, refuse
from hdvkit_virtiofs.operations import Operations

Tree: TypeAlias = Mapping[str, "bytes | Tree"]
"""What a file system starts with: names to contents, or to more names."""

_MAKEABLE = {stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK}


class MemoryFileSystem(Operations[MemoryNode, None]):
    """A small read-write file system, for one guest and as long as the process lives.

    ``capacity`` bounds data and names together; beyond it the guest gets ENOSPC.

    Raises:
        FuseError: ENOSPC, ``tree`` is larger than ``capacity``.
    """

    def __init__(self, tree: Tree | None = None, *, capacity: int = 64 * 1024 * 1024) -> None:
        self._tree = MemoryTree(capacity)
        self.root = self._tree.root
        self._plant(self.root, tree or {})

    def _plant(self, directory: MemoryNode, tree: Tree) -> None:
        for name, content in tree.items():
            if isinstance(content, Mapping):
                node = self._tree.make(directory, os.fsencode(name), stat.S_IFDIR | 0o755, Context())
                self._plant(node, content)
            else:
                node = self._tree.make(directory, os.fsencode(name), stat.S_IFREG | 0o644, Context())
                self._tree.write(node, 0, content)

    # Nodes and names

    async def lookup(self, parent: MemoryNode, name: bytes, context: Context) -> Entry[MemoryNode]:
        """Find a name."""
        return self._entry(self._tree.find(parent, name))

    def forget(self, node: MemoryNode) -> None:
        """Let the data go if no name is left."""
        node.referenced = False
        self._tree.free_if_gone(node)

    async def getattr(self, node: MemoryNode, handle: None, context: Context) -> Attributes:
        """Tell the attributes."""
        return node.attributes()

    async def setattr(self, node: MemoryNode, changes: Changes, handle: None, context: Context) -> Attributes:
        """Change size first: it alone can fail."""
        if changes.size is not None:
            if not stat.S_ISREG(node.mode):
                refuse(errno.EISDIR if node.is_directory else errno.EINVAL)
            self._tree.resize(node, changes.size)
        if changes.mode is not None:
            node.mode = stat.S_IFMT(node.mode) | stat.S_IMODE(changes.mode)
        elif changes.kill_suidgid and not node.is_directory:
            node.mode &= ~(stat.S_ISUID | (stat.S_ISGID if node.mode & stat.S_IXGRP else 0))
        node.changed(content=changes.size is not None)
        for field in ("uid", "gid", "atime_ns", "mtime_ns"):
            value = getattr(changes, field)
            if value is not None:
                setattr(node, field, value)
        return node.attributes()

    async def readlink(self, node: MemoryNode, context: Context) -> bytes:
        """Return the target of a link."""
        if not stat.S_ISLNK(node.mode):
            refuse(errno.EINVAL)
        return bytes(node.data)

    # Making and removing names

    async def create(
        self, parent: MemoryNode, name: bytes, mode: int, flags: int, context: Context
    ) -> tuple[Entry[MemoryNode], Opened[None]]:
        """Make the file unless it is there, then open it."""
        if name not in parent.names:
            node = self._tree.make(parent, name, stat.S_IFREG | stat.S_IMODE(mode), context)
        elif flags & O_EXCL:
            refuse(errno.EEXIST)
        else:
            node = self._tree.find(parent, name)
        opened = await self.open(node, flags, context)
        return self._entry(node), opened

    async def mknod(self, parent: MemoryNode, name: bytes, mode: int, rdev: int, context: Context) -> Entry[MemoryNode]:
        """Make a regular file, fifo or socket; the guest's kernel gives the last two their life."""
        kind = stat.S_IFMT(mode) or stat.S_IFREG
        if kind not in _MAKEABLE:
            refuse(errno.EPERM)
        return self._entry(self._tree.make(parent, name, kind | stat.S_IMODE(mode), context))

    async def mkdir(self, parent: MemoryNode, name: bytes, mode: int, context: Context) -> Entry[MemoryNode]:
        """Make a directory."""
        return self._entry(self._tree.make(parent, name, stat.S_IFDIR | stat.S_IMODE(mode), context))

    async def symlink(self, parent: MemoryNode, name: bytes, target: bytes, context: Context) -> Entry[MemoryNode]:
        """Make a link; its target is its data."""
        return self._entry(self._tree.make(parent, name, stat.S_IFLNK | 0o777, context, target))

    async def link(self, node: MemoryNode, parent: MemoryNode, name: bytes, context: Context) -> Entry[MemoryNode]:
        """Give a file one more name."""
        self._tree.link(node, parent, name)
        return self._entry(node)

    async def unlink(self, parent: MemoryNode, name: bytes, context: Context) -> None:
        """Remove a name that is not a directory."""
        if self._tree.find(parent, name).is_directory:
            refuse(errno.EISDIR)
        self._tree.remove(parent, name)

    async def rmdir(self, parent: MemoryNode, name: bytes, context: Context) -> None:
        """Remove an empty directory."""
        node = self._tree.find(parent, name)
        if not node.is_directory:
            refuse(errno.ENOTDIR)
        if node.names:
            refuse(errno.ENOTEMPTY)
        self._tree.remove(parent, name)

    async def rename(
        self,
        parent: MemoryNode,
        name: bytes,
        new_parent: MemoryNode,
        new_name: bytes,
        flags: int,
        context: Context,
    ) -> None:
        """Move a name, or with RENAME_EXCHANGE swap two."""
        if flags == RENAME_EXCHANGE:
            self._tree.exchange(parent, name, new_parent, new_name)
        elif flags in (0, RENAME_NOREPLACE):
            self._tree.move(parent, name, new_parent, new_name, replace=not flags)
        else:
            refuse(errno.EINVAL)

    # Files

    async def open(self, node: MemoryNode, flags: int, context: Context) -> Opened[None]:
        """Keep nothing for an open file: the node is all there is."""
        if not stat.S_ISREG(node.mode):
            refuse(errno.EISDIR if node.is_directory else errno.ENXIO)
        if flags & O_TRUNC:
            self._tree.resize(node, 0)
            node.changed()
        return Opened(None)

    async def read(self, node: MemoryNode, handle: None, offset: int, size: int, context: Context) -> bytes:
        """Return what lies there."""
        return bytes(memoryview(node.data)[offset : offset + size])

    async def write(self, node: MemoryNode, handle: None, offset: int, data: bytes, context: Context) -> int:
        """Write all, or nothing when space ends."""
        self._tree.write(node, offset, data)
        return len(data)

    async def readdir(self, node: MemoryNode, handle: None, offset: int, context: Context) -> Iterable[DirEntry]:
        """List names in the order of their numbers, so that any of them says where to go on."""
        left = [(number, name, child) for name, (child, number) in node.names.items() if number > offset]
        return [DirEntry(name, child.ino, stat.S_IFMT(child.mode), number) for number, name, child in sorted(left)]

    async def statfs(self, node: MemoryNode, context: Context) -> StatFs:
        """Tell the capacity and what is left of it."""
        free = self._tree.capacity - self._tree.used
        return StatFs(
            blocks=self._tree.capacity // BLOCK,
            bfree=free // BLOCK,
            bavail=free // BLOCK,
            files=self._tree.capacity // NAME_COST,
            ffree=free // NAME_COST,
        )

    def _entry(self, node: MemoryNode) -> Entry[MemoryNode]:
        node.referenced = True
        return Entry(node, node.attributes())
