"""Nodes and names of a file system in memory, and the space they take. Knows nothing of requests."""

import errno
import stat
import time
from typing import NamedTuple, NoReturn

import attrs

from hdvkit_virtiofs.fuse.answers import Attributes, Context
from hdvkit_virtiofs.fuse.errors import FuseError

BLOCK = 4096

NAME_COST = 1024
"""What one name takes of the capacity besides data, so that empty files run out too."""


class Name(NamedTuple):
    """What a directory keeps for a name: the node, and a number that only grows, to continue listings by."""

    node: "MemoryNode"
    number: int


@attrs.define(eq=False)
class MemoryNode:
    """One file, directory, link or fifo. ``data`` holds a file's content or a link's target."""

    ino: int
    mode: int
    uid: int = 0
    gid: int = 0
    links: int = 0
    """Names it has."""
    subdirectories: int = 0
    data: bytearray = attrs.field(factory=bytearray)
    names: dict[bytes, Name] = attrs.field(factory=dict)
    parent: "MemoryNode | None" = None
    """Of a directory, the one that holds it; None for the root."""
    referenced: bool = False
    """The guest knows it, so it lives on without a name."""
    atime_ns: int = attrs.field(factory=time.time_ns)
    mtime_ns: int = attrs.field(factory=time.time_ns)
    ctime_ns: int = attrs.field(factory=time.time_ns)

    @property
    def is_directory(self) -> bool:
        """Whether this is a directory."""
        return stat.S_ISDIR(self.mode)

    @property
    def nlink(self) -> int:
        """As POSIX counts: a directory is also its own ``.`` and the ``..`` of each within."""
        return 2 + self.subdirectories if self.is_directory and self.links else self.links

    def changed(self, *, content: bool = True) -> None:
        """Note the time of a change: to data or names, or with ``content=False`` to attributes only."""
        self.ctime_ns = time.time_ns()
        if content:
            self.mtime_ns = self.ctime_ns

    def attributes(self) -> Attributes:
        """What ``stat`` tells."""
        size = len(self.data)
        return Attributes(
            ino=self.ino,
            mode=self.mode,
            size=size,
            nlink=self.nlink,
            uid=self.uid,
            gid=self.gid,
            blocks=-(-size // BLOCK) * (BLOCK // 512),
            blksize=BLOCK,
            atime_ns=self.atime_ns,
            mtime_ns=self.mtime_ns,
            ctime_ns=self.ctime_ns,
        )


class MemoryTree:
    """Directories from the root down, within a capacity.

    Its rules are POSIX's, so what breaks one is refused as FuseError, before anything has changed.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.used = 0
        self._last_ino = 0
        self._last_number = 0
        self.root = self._node(stat.S_IFDIR | 0o755, Context())
        self.root.links = 1

    def find(self, directory: MemoryNode, name: bytes) -> MemoryNode:
        """Return what ``name`` stands for."""
        if not directory.is_directory:
            refuse(errno.ENOTDIR)
        if name not in directory.names:
            refuse(errno.ENOENT)
        return directory.names[name].node

    def make(self, parent: MemoryNode, name: bytes, mode: int, context: Context, data: bytes = b"") -> MemoryNode:
        """Make a node with its first name, for the caller in ``context``."""
        _must_be_free(parent, name)
        self._charge(NAME_COST + len(data))
        node = self._node(mode, context)
        node.data.extend(data)
        if parent.mode & stat.S_ISGID:
            node.gid = parent.gid
            node.mode |= stat.S_ISGID if node.is_directory else 0
        self._attach(parent, name, node)
        return node

    def link(self, node: MemoryNode, directory: MemoryNode, name: bytes) -> None:
        """Give a node that is not a directory one more name."""
        if node.is_directory:
            refuse(errno.EPERM)
        if not node.links:
            refuse(errno.ENOENT)
        _must_be_free(directory, name)
        self._charge(NAME_COST)
        self._attach(directory, name, node)

    def remove(self, directory: MemoryNode, name: bytes) -> None:
        """Take a name away, and the data with the last one unless the guest still refers to it."""
        node = self._detach(directory, name).node
        self.used -= NAME_COST
        self.free_if_gone(node)

    def move(self, parent: MemoryNode, name: bytes, new_parent: MemoryNode, new_name: bytes, *, replace: bool) -> None:
        """Move a name; with ``replace`` onto one that is taken."""
        node = self.find(parent, name)
        number = None
        if replace and new_name in new_parent.names:
            target, number = new_parent.names[new_name]
            if target is node:
                return  # two names of one file: POSIX leaves both
            _must_be_replaceable(target, node)
        else:
            _must_be_free(new_parent, new_name)
        _must_not_lie_within(new_parent, node)
        if number is not None:
            self.remove(new_parent, new_name)
        self._detach(parent, name)
        self._attach(new_parent, new_name, node, number)

    def exchange(self, parent: MemoryNode, name: bytes, new_parent: MemoryNode, new_name: bytes) -> None:
        """Let two names change places."""
        node, other = self.find(parent, name), self.find(new_parent, new_name)
        if node is other:
            return
        _must_not_lie_within(new_parent, node)
        _must_not_lie_within(parent, other)
        first, second = self._detach(parent, name), self._detach(new_parent, new_name)
        self._attach(parent, name, other, first.number)
        self._attach(new_parent, new_name, node, second.number)

    def free_if_gone(self, node: MemoryNode) -> None:
        """Give the data's space back when neither a name nor the guest refers to it."""
        if not node.links and not node.referenced:
            self.resize(node, 0)

    def resize(self, node: MemoryNode, size: int) -> None:
        """Cut or extend the data. Holes count: they take memory as well."""
        growth = size - len(node.data)
        self._charge(growth)
        if growth > 0:
            node.data.extend(bytes(growth))
        else:
            del node.data[size:]

    def write(self, node: MemoryNode, offset: int, data: bytes) -> None:
        """Put ``data`` at ``offset``, with zeros before it where the file was shorter."""
        end = offset + len(data)
        if end > len(node.data):
            self.resize(node, end)
        node.data[offset:end] = data
        node.changed()

    def _node(self, mode: int, context: Context) -> MemoryNode:
        self._last_ino += 1
        return MemoryNode(self._last_ino, mode, context.uid, context.gid)

    def _attach(self, directory: MemoryNode, name: bytes, node: MemoryNode, number: int | None = None) -> None:
        """Put a name into a directory. A name that replaces another keeps its number in running listings."""
        if number is None:
            self._last_number += 1
            number = self._last_number
        directory.names[name] = Name(node, number)
        node.links += 1
        if node.is_directory:
            node.parent = directory
            directory.subdirectories += 1
        node.changed(content=False)
        directory.changed()

    def _detach(self, directory: MemoryNode, name: bytes) -> Name:
        taken = directory.names.pop(name)
        taken.node.links -= 1
        if taken.node.is_directory:
            directory.subdirectories -= 1
        taken.node.changed(content=False)
        directory.changed()
        return taken

    def _charge(self, size: int) -> None:
        if self.used + size > self.capacity:
            refuse(errno.ENOSPC)
        self.used += size


def refuse(code: int) -> NoReturn:
    """Answer the guest with an errno."""
    raise FuseError(code)


def _must_be_free(directory: MemoryNode, name: bytes) -> None:
    if not directory.is_directory:
        refuse(errno.ENOTDIR)
    if name in directory.names:
        refuse(errno.EEXIST)
    if not directory.links:
        refuse(errno.ENOENT)


def _must_be_replaceable(target: MemoryNode, by: MemoryNode) -> None:
    if target.is_directory != by.is_directory:
        refuse(errno.EISDIR if target.is_directory else errno.ENOTDIR)
    if target.names:
        refuse(errno.ENOTEMPTY)


def _must_not_lie_within(directory: MemoryNode, node: MemoryNode) -> None:
    """A directory moved below itself would be lost. Ends at the root, because this keeps loops out."""
    above: MemoryNode | None = directory
    while above is not None:
        if above is node:
            refuse(errno.EINVAL)
        above = above.parent
