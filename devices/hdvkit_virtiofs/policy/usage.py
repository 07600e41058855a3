"""What each file of a guest weighs in its budgets, and which files the guest knows."""

import asyncio
import contextlib
import errno
import stat
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Generic

import anyio
import attrs

from hdvkit_virtiofs.fuse.answers import Attributes, Context, Entry, Handle, Node, Opened
from hdvkit_virtiofs.fuse.errors import FuseError
from hdvkit_virtiofs.fuse.spec import O_APPEND, O_TRUNC
from hdvkit_virtiofs.operations import Operations
from hdvkit_virtiofs.policy.budget import Budget
from hdvkit_virtiofs.policy.layer import Layer

MAX_REMEMBERED = 1 << 16
"""So many forgotten files are remembered for what their size does not tell; what others weighed stays charged."""


@attrs.define(eq=False)
class FileUsage:
    """What one file weighs, as long as the guest knows it."""

    key: tuple[int, int]
    """Device and inode number: the file, whether the guest knows it at the moment or not."""
    end: int
    """Bytes accounted for: its size, or more where requests are under way or space is allocated behind its end."""
    beyond: int = 0
    """Where space ends that was allocated with KEEP_SIZE; it has no say when smaller than the size."""
    xattrs: int = 0
    """Bytes charged for extended attributes."""
    appending: Counter[int] = attrs.field(factory=Counter)
    """How often each handle, by identity, was opened with O_APPEND and not released: their writes may go to the end,
    whatever the offset says. A file system may give out the same handle several times."""
    gone: bool = False
    """It has no name any more, and goes when the guest forgets it."""
    pending: int = 0
    """Requests under way that change its data."""
    began: int = 0
    """Such requests ever begun."""
    uncertain: bool = False
    """Its size must be looked up, once nothing is under way."""
    lock: asyncio.Lock = attrs.field(factory=asyncio.Lock)
    """Held by what changes allocation or extended attributes; plain writes do without."""

    def note(self, opened: Opened[Any], flags: int) -> None:
        """It was opened with ``flags``."""
        if flags & O_APPEND:
            self.appending[id(opened.handle)] += 1
        if flags & O_TRUNC:
            self.beyond = 0  # Linux frees what was allocated behind the end

    def note_closed(self, handle: object) -> None:
        """A handle was released; which of several opens it was does not matter, unless only some appended."""
        if self.appending[id(handle)] > 1:
            self.appending[id(handle)] -= 1
        else:
            del self.appending[id(handle)]


class Weighing(Layer[Node, Handle], Generic[Node, Handle]):
    """Knows the nodes a guest knows, and accounts for those that change: bounded by what a guest may know."""

    def __init__(self, inner: Operations[Node, Handle], bytes_: Budget, inodes: Budget) -> None:
        super().__init__(inner)
        self.bytes = bytes_
        self.inodes = inodes
        self._files: dict[Node, FileUsage] = {}
        self._remembered: dict[tuple[int, int], tuple[int, int]] = {}
        self._known: set[Node] = {inner.root}  # what the guest holds references on
        self._looked_at: Counter[Node] = Counter()  # and what we do

    # What nodes the guest knows

    async def lookup(self, parent: Node, name: bytes, context: Context) -> Entry[Node]:
        """Note that the guest knows the node."""
        return self._told(await self.inner.lookup(parent, name, context))

    def forget(self, node: Node) -> None:
        """A file without a name is given back now."""
        self._known.discard(node)
        self._drop_unless_needed(node)

    def _told(self, entry: Entry[Node]) -> Entry[Node]:
        """The guest is about to hold a reference on it."""
        self._known.add(entry.node)
        return entry

    @asynccontextmanager
    async def _looking_at(self, parent: Node, name: bytes, context: Context) -> AsyncIterator[Entry[Node] | None]:
        """What a name stands for, or None; forgotten afterwards unless the guest knows it too."""
        entry = None
        try:
            entry = await self.inner.lookup(parent, name, context)
        except FuseError as error:
            if error.errno != errno.ENOENT:
                raise
        if entry is None:
            yield None
            return
        self._looked_at[entry.node] += 1
        try:
            yield entry
        finally:
            self._looked_at[entry.node] -= 1
            if not self._looked_at[entry.node]:
                del self._looked_at[entry.node]
                self._drop_unless_needed(entry.node)

    def _needed(self, node: Node) -> bool:
        return node in self._known or node in self._looked_at

    def _drop_unless_needed(self, node: Node) -> None:
        if not self._needed(node):
            self._close_account(node)
            self.inner.forget(node)

    def _close_account(self, node: Node) -> None:
        file = self._files.pop(node, None)
        if file is None:
            return
        if file.gone:
            self.bytes.give_back(file.end + file.xattrs)
            self.inodes.give_back(1)
        elif file.beyond or file.xattrs:
            if len(self._remembered) >= MAX_REMEMBERED:
                del self._remembered[next(iter(self._remembered))]
            self._remembered[file.key] = file.beyond, file.xattrs

    # What they weigh

    async def _observe(self, node: Node, context: Context) -> tuple[int, Attributes]:
        """Device number and attributes; inode numbers of several host file systems in one share may be the same."""
        try:
            answer = await self.inner.statx(node, None, context)
        except FuseError as error:
            if error.errno != errno.ENOSYS:
                raise
            return 0, await self.inner.getattr(node, None, context)
        return answer.dev, answer.attributes

    async def _file(self, node: Node, context: Context) -> FileUsage:
        """What we know of a file, after a look at it the first time: what it holds then is not charged."""
        if node not in self._files:
            device, attributes = await self._observe(node, context)
            if not self._needed(node):  # the guest unmounted meanwhile: nobody would ever forget it
                return FileUsage((device, attributes.ino), size_of(attributes))
            if node not in self._files:
                key = device, attributes.ino
                beyond, xattrs = self._remembered.pop(key, (0, 0))
                self._files[node] = FileUsage(key, max(size_of(attributes), beyond), beyond, xattrs)
        return self._files[node]

    def _reserve(self, file: FileUsage, end: int) -> None:
        """Charge what it takes until ``file`` ends at ``end``; EDQUOT when that is more than is left."""
        if end > file.end:
            self.bytes.take(end - file.end)
            file.end = end

    @asynccontextmanager
    async def _reaching(self, node: Node, end: int, context: Context) -> AsyncIterator[FileUsage]:
        """Reserve what it takes until a file ends at ``end``, and account for what has become of it afterwards."""
        file = await self._file(node, context)
        async with file.lock:
            self._reserve(file, end)
            file.began += 1
            file.pending += 1
            try:
                yield file
            finally:
                file.pending -= 1
                file.uncertain = True
                if not file.pending:
                    await self._settle(node, file, context)

    async def _settle(self, node: Node, file: FileUsage, context: Context) -> None:
        """Account for the size as it is. Whatever begins meanwhile makes it stale, and settles when it ends.

        More than was reserved is a host process's doing, and not charged.
        """
        began = file.began
        with anyio.CancelScope(shield=True), contextlib.suppress(FuseError):
            attributes = await self.inner.getattr(node, None, context)
            if file.began == began and self._files.get(node) is file:
                file.uncertain = False
                end = max(size_of(attributes), file.beyond)
                self.bytes.give_back(max(0, file.end - end))
                file.end = end

    @asynccontextmanager
    async def _xattr_of(self, node: Node, name: bytes, size: int, context: Context) -> AsyncIterator[None]:
        """Inside, an extended attribute comes to weigh ``size``. Given back is no more than the file was charged."""
        file = await self._file(node, context)
        async with file.lock:
            had = has = await self._xattr_size(node, name, context)
            growth = max(0, size - had)
            self.bytes.take(growth)
            file.xattrs += growth
            try:
                yield
                has = size
            except asyncio.CancelledError:
                has = max(had, size)  # unless we learn better
                with anyio.CancelScope(shield=True):
                    has = await self._xattr_size(node, name, context, unknown=has)
                raise
            finally:
                if self._files.get(node) is file:
                    refund = min(max(had, size) - has, file.xattrs)
                    self.bytes.give_back(refund)
                    file.xattrs -= refund

    async def _xattr_size(self, node: Node, name: bytes, context: Context, unknown: int = 0) -> int:
        try:
            return len(name) + len(await self.inner.getxattr(node, name, context))
        except FuseError as error:
            return 0 if error.errno == errno.ENODATA else unknown


def size_of(attributes: Attributes) -> int:
    """The size that counts: a directory's is the file system's own affair."""
    return attributes.size if stat.S_IFMT(attributes.mode) in (stat.S_IFREG, stat.S_IFLNK) else 0
