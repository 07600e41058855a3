"""A quota in front of a file system: what its guest adds is charged, what it removes is given back.

Charged are sizes as ``stat`` tells them (so a hole counts), space allocated behind the end of a file, names and values
of extended attributes, and inodes. What the host had before is not counted: a large tree costs nothing at start.
"""

import asyncio
import contextlib
import errno
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext

import anyio

from hdvkit_virtiofs.fuse.answers import Attributes, Changes, Context, Entry, Handle, Node, Opened, StatFs
from hdvkit_virtiofs.fuse.errors import FuseError
from hdvkit_virtiofs.fuse.spec import (
    FALLOC_FL_KEEP_SIZE,
    FALLOC_FL_PUNCH_HOLE,
    RENAME_EXCHANGE,
    RENAME_WHITEOUT,
)
from hdvkit_virtiofs.operations import Operations
from hdvkit_virtiofs.policy.usage import Budget, FileUsage, Weighing, size_of

# Linux's values, as the guest sends them.
O_EXCL, O_TRUNC, O_APPEND = 0o200, 0o1000, 0o2000

CREATE_ATTEMPTS = 16
"""How often ``create`` looks again at a name that comes and goes."""

_HALF_DONE = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EINTR}
"""After these a part of ``fallocate`` may have been done."""


class Quota(Weighing[Node, Handle]):
    """At most ``max_bytes`` and ``max_inodes`` more than there were; None for any number. Beyond is EDQUOT.

    What a request may take is reserved before it goes to the file system, and what it did not take given back after,
    so no requests at the same time exceed the quota together. A write that does not fit is refused as a whole: a
    guest that writes pages back (fs/fuse, ``fuse_writepage_end``) does not look at how much of one was written.

    A file without a name is given back when the guest forgets it, as until then it takes space on the host. What host
    processes remove of the guest's stays charged; what they add never is.
    """

    def __init__(
        self,
        inner: Operations[Node, Handle],
        *,
        max_bytes: int | None,
        max_inodes: int | None,
        warn: Callable[[str], None],
    ) -> None:
        super().__init__(inner, Budget(max_bytes, "bytes", warn), Budget(max_inodes, "inodes", warn))
        self._names = asyncio.Lock()  # what a name stands for must not change between a look at it and its removal

    # Names

    async def create(
        self, parent: Node, name: bytes, mode: int, flags: int, context: Context
    ) -> tuple[Entry[Node], Opened[Handle]]:
        """Make the file with O_EXCL, so that it is known to be new; else open what is there, which takes no inode."""
        for _ in range(CREATE_ATTEMPTS):
            try:
                async with self._making(parent, name, 0, context) as device:
                    made = await self.inner.create(parent, name, mode, flags | O_EXCL, context)
                return self._born(made[0], device, context, made[1], flags), made[1]
            except FuseError as error:
                if flags & O_EXCL or error.errno not in (errno.EEXIST, errno.EDQUOT):
                    raise
                refused = error
            async with self._names, self._looking_at(parent, name, context) as found:
                if found is not None:
                    return await self._open_existing(found.node, parent, name, mode, flags, context)
            if refused.errno == errno.EDQUOT:
                raise refused
        raise FuseError(errno.EBUSY)

    async def tmpfile(
        self, parent: Node, mode: int, flags: int, context: Context
    ) -> tuple[Entry[Node], Opened[Handle]]:
        """One inode, given back with the last reference unless ``link`` gives it a name."""
        async with self._making(parent, None, 0, context) as device:
            entry, opened = await self.inner.tmpfile(parent, mode, flags, context)
        self._born(entry, device, context, opened, flags)
        self._files[entry.node].gone = True
        return entry, opened

    async def mknod(self, parent: Node, name: bytes, mode: int, rdev: int, context: Context) -> Entry[Node]:
        """One inode."""
        async with self._making(parent, name, 0, context) as device:
            entry = await self.inner.mknod(parent, name, mode, rdev, context)
        return self._born(entry, device, context)

    async def mkdir(self, parent: Node, name: bytes, mode: int, context: Context) -> Entry[Node]:
        """One inode; what the directory itself takes for its names is not counted."""
        async with self._making(parent, name, 0, context) as device:
            entry = await self.inner.mkdir(parent, name, mode, context)
        return self._born(entry, device, context)

    async def symlink(self, parent: Node, name: bytes, target: bytes, context: Context) -> Entry[Node]:
        """One inode, and the target."""
        async with self._making(parent, name, len(target), context) as device:
            entry = await self.inner.symlink(parent, name, target, context)
        # What the file system says its size is will be given back with it.
        self.bytes.give_back(max(0, len(target) - size_of(entry.attributes)))
        return self._born(entry, device, context)

    async def link(self, node: Node, parent: Node, name: bytes, context: Context) -> Entry[Node]:
        """No inode; a file without a name has one again."""
        async with self._names:
            file = self._files.get(node)
            gone = file is not None and file.gone
            if file is not None:
                file.gone = False  # also when this is cancelled: better charged for nothing than not at all
            try:
                return self._told(await self.inner.link(node, parent, name, context))
            except FuseError:
                if file is not None:
                    file.gone = gone
                raise

    async def unlink(self, parent: Node, name: bytes, context: Context) -> None:
        """Size and inode are given back when this was the last name and the guest forgets the file."""
        async with self._names, self._looking_at(parent, name, context) as found, self._removing(found, context):
            await self.inner.unlink(parent, name, context)

    async def rmdir(self, parent: Node, name: bytes, context: Context) -> None:
        """The inode is given back when the guest forgets the directory."""
        async with self._names, self._looking_at(parent, name, context) as found, self._removing(found, context):
            await self.inner.rmdir(parent, name, context)

    async def rename(
        self, parent: Node, name: bytes, new_parent: Node, new_name: bytes, flags: int, context: Context
    ) -> None:
        """What is replaced goes as with ``unlink``; a whiteout is an inode."""
        async with (
            self._names,
            self._looking_at(parent, name, context) as source,
            self._looking_at(new_parent, new_name, context) as target,
        ):
            # Two names of one file stay as they are, or it is one name in another case.
            stays = flags & RENAME_EXCHANGE or (source and target and source.node == target.node)
            whiteout = self._making(parent, name, 0, Context()) if flags & RENAME_WHITEOUT else nullcontext()
            async with self._removing(None if stays else target, context), whiteout:
                await self.inner.rename(parent, name, new_parent, new_name, flags, context)

    # Files

    async def open(self, node: Node, flags: int, context: Context) -> Opened[Handle]:
        """O_TRUNC gives back; O_APPEND is noted, as it says where writes go."""
        if not flags & (O_TRUNC | O_APPEND):
            return await self.inner.open(node, flags, context)
        opened = None
        try:
            async with self._reaching(node, 0, context) as file:
                opened = await self.inner.open(node, flags, context)
                _note(file, opened, flags)
        except BaseException:
            if opened is not None:
                await self.inner.release(node, opened.handle)
            raise
        return opened

    async def release(self, node: Node, handle: Handle) -> None:
        """The handle means nothing any more."""
        if node in self._files:
            self._files[node].appending.discard(id(handle))
        await self.inner.release(node, handle)

    async def setattr(self, node: Node, changes: Changes, handle: Handle | None, context: Context) -> Attributes:
        """A new size is charged or given back."""
        if changes.size is None:
            return await self.inner.setattr(node, changes, handle, context)
        async with self._reaching(node, changes.size, context) as file:
            before = size_of(await self.inner.getattr(node, None, context)) if file.beyond else 0
            attributes = await self.inner.setattr(node, changes, handle, context)
            if changes.size <= before:  # Linux frees what is allocated behind the end, unless the file grows
                file.beyond = min(file.beyond, changes.size)
            return attributes

    async def write_from(
        self, node: Node, handle: Handle, offset: int, views: Sequence[memoryview], context: Context
    ) -> int:
        """Reserve growth; look the size up only where it is in doubt."""
        file = self._files.get(node) or await self._file(node, context)
        size = sum(map(len, views))
        known = context.in_place or id(handle) not in file.appending or offset == file.end
        end = (offset if known else max(offset, file.end)) + size
        if end > file.end:
            self._reserve(file, end)
        file.began += 1
        file.pending += 1
        done = -1
        try:
            done = await self.inner.write_from(node, handle, offset, views, context)
        finally:
            file.pending -= 1
            if done != size or not known or not size:
                file.uncertain = True
            if file.uncertain and not file.pending:
                await self._settle(node, file, context)
        return done

    async def fallocate(
        self, node: Node, handle: Handle, mode: int, offset: int, length: int, context: Context
    ) -> None:
        """What lies behind the end counts too, until the file is cut or goes. Holes give nothing back."""
        end = 0 if mode & FALLOC_FL_PUNCH_HOLE else offset + length
        async with self._reaching(node, end, context) as file:
            before = file.beyond
            if mode & FALLOC_FL_KEEP_SIZE:
                file.beyond = max(before, end)
            try:
                await self.inner.fallocate(node, handle, mode, offset, length, context)
            except FuseError as error:
                if error.errno not in _HALF_DONE:
                    file.beyond = before
                raise

    async def copy_file_range(
        self,
        source: tuple[Node, Handle, int],
        target: tuple[Node, Handle, int],
        length: int,
        flags: int,
        context: Context,
    ) -> int:
        """Reserve for what the source holds; guests ask for more."""
        held = size_of(await self.inner.getattr(source[0], None, context))
        length = max(0, min(length, held - source[2]))
        async with self._reaching(target[0], target[2] + length if length else 0, context):
            return await self.inner.copy_file_range(source, target, length, flags, context)

    # Extended attributes

    async def setxattr(self, node: Node, name: bytes, value: bytes, flags: int, context: Context) -> None:
        """Name and value count as bytes."""
        async with self._xattr_of(node, name, len(name) + len(value), context):
            await self.inner.setxattr(node, name, value, flags, context)

    async def removexattr(self, node: Node, name: bytes, context: Context) -> None:
        """Name and value are given back, as far as they were charged."""
        async with self._xattr_of(node, name, 0, context):
            await self.inner.removexattr(node, name, context)

    # The whole file system

    async def statfs(self, node: Node, context: Context) -> StatFs:
        """The quota is the size, and what is left of it is free, unless the file system has less."""
        answer = await self.inner.statfs(node, context)
        if self.bytes.limit is not None and self.bytes.left is not None:
            left = self.bytes.left // answer.frsize
            answer = answer._replace(
                blocks=self.bytes.limit // answer.frsize,
                bfree=min(left, answer.bfree),
                bavail=min(left, answer.bavail),
            )
        if self.inodes.limit is not None and self.inodes.left is not None:
            left = self.inodes.left
            # A file system that makes inodes as it needs them, such as btrfs, has 0 of 0 free.
            answer = answer._replace(files=self.inodes.limit, ffree=min(left, answer.ffree) if answer.files else left)
        return answer

    # What is charged for names

    @asynccontextmanager
    async def _making(self, parent: Node, name: bytes | None, size: int, context: Context) -> AsyncIterator[int]:
        """Charge for a new inode; gives the device number of its directory, which is its own."""
        size += _born_with(context)
        device, _ = await self._observe(parent, context)
        self.inodes.take(1)
        try:
            self.bytes.take(size)
        except FuseError:
            self.inodes.give_back(1)
            raise
        try:
            yield device
        except BaseException as error:
            if isinstance(error, FuseError) or name is None or not await self._exists(parent, name, context):
                self.inodes.give_back(1)
                self.bytes.give_back(size)
            raise

    async def _exists(self, parent: Node, name: bytes, context: Context) -> bool:
        """Whether what was broken off has been done after all; if nobody can tell, yes."""
        with anyio.CancelScope(shield=True), contextlib.suppress(FuseError):
            async with self._looking_at(parent, name, context) as found:
                return found is not None
        return True

    def _born(
        self, entry: Entry[Node], device: int, context: Context, opened: Opened[Handle] | None = None, flags: int = 0
    ) -> Entry[Node]:
        """Begin to account for a new file that is open, or has more to it than its size."""
        xattrs = _born_with(context)
        if xattrs or opened:
            new = FileUsage((device, entry.attributes.ino), size_of(entry.attributes))
            file = self._files.setdefault(entry.node, new)
            file.xattrs += xattrs
            if opened:
                _note(file, opened, flags & O_APPEND)
        return self._told(entry)

    async def _open_existing(
        self, node: Node, parent: Node, name: bytes, mode: int, flags: int, context: Context
    ) -> tuple[Entry[Node], Opened[Handle]]:
        """Let the file system open what a name stands for, which no request of the guest can change meanwhile."""
        made = None
        try:
            async with self._reaching(node, 0, context) as file:
                made = await self.inner.create(parent, name, mode, flags, context)
                _note(file, made[1], flags)
        except BaseException:
            if made is not None:
                await self.inner.release(made[0].node, made[1].handle)
            raise
        return self._told(made[0]), made[1]

    @asynccontextmanager
    async def _removing(self, found: Entry[Node] | None, context: Context) -> AsyncIterator[None]:
        """A name of ``found`` is taken away inside; if it is the last, the file is gone."""
        if found is None or (found.attributes.nlink > 1 and not found.attributes.is_directory):
            yield
            return
        file = await self._file(found.node, context)
        try:
            yield
        except asyncio.CancelledError:
            with anyio.CancelScope(shield=True), contextlib.suppress(FuseError):
                file.gone = not (await self.inner.getattr(found.node, None, context)).nlink
            raise
        file.gone = True


def _note(file: FileUsage, opened: Opened[Handle], flags: int) -> None:
    """What opening a file with ``flags`` means to it."""
    if flags & O_APPEND:
        file.appending.add(id(opened.handle))
    if flags & O_TRUNC:
        file.beyond = 0  # Linux frees what was allocated behind the end


def _born_with(context: Context) -> int:
    """What the extended attributes weigh that a new file must have."""
    return sum(len(name) + len(value) for name, value in context.security)
