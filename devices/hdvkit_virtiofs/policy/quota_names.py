"""The part of a quota that names are about: what is made takes an inode, what is removed gives it back."""

import asyncio
import contextlib
import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from typing import Generic

import anyio

from hdvkit_virtiofs.fuse.answers import Context, Entry, Handle, Node, Opened
from hdvkit_virtiofs.fuse.errors import FuseError
from hdvkit_virtiofs.fuse.spec import O_APPEND, O_EXCL, RENAME_EXCHANGE, RENAME_WHITEOUT
from hdvkit_virtiofs.operations import Operations
from hdvkit_virtiofs.policy.budget import Budget
from hdvkit_virtiofs.policy.usage import FileUsage, Weighing, size_of

CREATE_ATTEMPTS = 16
"""How often ``create`` looks again at a name that comes and goes."""


class Names(Weighing[Node, Handle], Generic[Node, Handle]):
    """Charges for what gets a name, and for files that never had one; sizes of files are charged elsewhere."""

    def __init__(self, inner: Operations[Node, Handle], bytes_: Budget, inodes: Budget) -> None:
        super().__init__(inner, bytes_, inodes)
        self._names = asyncio.Lock()  # what a name stands for must not change between a look at it and its removal

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
                file.note(opened, flags & O_APPEND)
        return self._told(entry)

    async def _open_existing(
        self, node: Node, parent: Node, name: bytes, mode: int, flags: int, context: Context
    ) -> tuple[Entry[Node], Opened[Handle]]:
        """Let the file system open what a name stands for, which no request of the guest can change meanwhile."""
        made = None
        try:
            async with self._reaching(node, 0, context) as file:
                made = await self.inner.create(parent, name, mode, flags, context)
                file.note(made[1], flags)
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


def _born_with(context: Context) -> int:
    """What the extended attributes weigh that a new file must have."""
    return sum(len(name) + len(value) for name, value in context.security)
