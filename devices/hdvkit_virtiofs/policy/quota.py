"""A quota in front of a file system: what its guest adds is charged, what it removes is given back.

Charged are sizes as ``stat`` tells them (so a hole counts), space allocated behind the end of a file, names and values
of extended attributes, and inodes. What the host had before is not counted: a large tree costs nothing at start.
"""

import errno
import time
from collections.abc import Callable, Sequence

from hdvkit_virtiofs.fuse.answers import Attributes, Changes, Context, Handle, Node, Opened, StatFs
from hdvkit_virtiofs.fuse.errors import FuseError
from hdvkit_virtiofs.fuse.spec import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, O_APPEND, O_TRUNC
from hdvkit_virtiofs.operations import Operations
from hdvkit_virtiofs.policy.budget import Budget
from hdvkit_virtiofs.policy.quota_names import Names
from hdvkit_virtiofs.policy.usage import size_of

_HALF_DONE = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EINTR}
"""After these a part of ``fallocate`` may have been done."""


class Quota(Names[Node, Handle]):
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
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(inner, Budget(max_bytes, "bytes", warn, clock), Budget(max_inodes, "inodes", warn, clock))

    # Files

    async def open(self, node: Node, flags: int, context: Context) -> Opened[Handle]:
        """O_TRUNC gives back; O_APPEND is noted, as it says where writes go."""
        if not flags & (O_TRUNC | O_APPEND):
            return await self.inner.open(node, flags, context)
        opened = None
        try:
            async with self._reaching(node, 0, context) as file:
                opened = await self.inner.open(node, flags, context)
                file.note(opened, flags)
        except BaseException:
            if opened is not None:
                await self.inner.release(node, opened.handle)
            raise
        return opened

    async def release(self, node: Node, handle: Handle) -> None:
        """The handle means nothing any more."""
        if node in self._files:
            self._files[node].note_closed(handle)
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
