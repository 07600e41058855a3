"""The half of a passthrough that lives from open to release: data, listings, and waiting for the disk."""

import contextlib
import errno
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

import anyio

from hdvkit_virtiofs.fuse.answers import Changes, Context, DirEntry, FileLock, Opened
from hdvkit_virtiofs.fuse.spec import (
    F_UNLCK,
    FALLOC_FL_KEEP_SIZE,
    FALLOC_FL_PUNCH_HOLE,
    FALLOC_FL_ZERO_RANGE,
    InitFlag,
)
from hdvkit_virtiofs.operations import Operations
from hdvkit_virtiofs.passthrough import _libc, controls
from hdvkit_virtiofs.passthrough.attributes import QUIET, change, require_possible
from hdvkit_virtiofs.passthrough.descriptors import Descriptors
from hdvkit_virtiofs.passthrough.errors import answers_errno, refusal
from hdvkit_virtiofs.passthrough.files import Directory, File, Listings, behind
from hdvkit_virtiofs.passthrough.inode import key_of
from hdvkit_virtiofs.passthrough.inodes import Inode
from hdvkit_virtiofs.passthrough.locks import Locks
from hdvkit_virtiofs.passthrough.workers import Workers

INLINE_WRITE = 256 * 1024
"""Larger writes go to a thread: copying them would hold up everybody for longer than a handful of requests."""

INLINE_READ = 1024 * 1024
"""The most that is copied on the loop, even when the host has it in memory."""

LARGEST_COPY = 64 * 1024 * 1024
"""The most one ``copy_file_range`` copies; the guest asks again for the rest, and can be interrupted between."""

BEYOND_THE_LIMIT = 4
"""Descriptors for changes in threads: a guest that holds all it may still changes what it has."""

# Everything else a guest may send is either settled by its own kernel (O_CREAT, O_EXCL, O_NOFOLLOW), wrong for
# reads into pages we did not align (O_DIRECT), or refused to a user who is not the owner here (O_NOATIME).
# O_TRUNC is a call of its own.
_KEPT_FLAGS = os.O_ACCMODE | os.O_SYNC | os.O_DSYNC

_NOT_OPENED = {stat.S_IFLNK: errno.ELOOP, stat.S_IFDIR: errno.EISDIR}

_PUNCH_HOLE = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE  # Linux allows the one only with the other
_ALLOCATIONS = {
    0,
    FALLOC_FL_KEEP_SIZE,
    _PUNCH_HOLE,
    FALLOC_FL_ZERO_RANGE,
    FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE,
}


class OpenFiles(Operations[Inode, File]):
    """Operations on open files and directories. Knows how a descriptor is opened, not how a name is found."""

    def __init__(
        self,
        descriptors: Descriptors,
        workers: Workers,
        writeback: bool,
        read_only: bool = False,
        *,
        locks: bool = True,
    ) -> None:
        self._noatime = os.O_NOATIME if read_only else 0
        self._descriptors = descriptors
        self._workers = workers
        self._writeback = writeback
        self._files: set[File] = set()
        descriptors.workers = workers
        self._busy: Counter[int] = Counter()
        """How many calls in threads change an inode, by its number. They have its lock, and the loop must not wait."""
        self._beyond_the_limit = anyio.Semaphore(BEYOND_THE_LIMIT)
        self._listings = Listings()
        self._locks = Locks(descriptors, read_only)
        if locks:
            self.init_flags |= InitFlag.POSIX_LOCKS | InitFlag.FLOCK_LOCKS

    @answers_errno
    async def open(self, node: Inode, flags: int, context: Context) -> Opened[File]:
        """Open the inode, under whatever name it is by now. Only regular files; others are never touched."""
        opened = self._opened(self._reopen(node.descriptor, node.type, flags), flags)
        await self._emptied(node.number, opened.handle, flags)
        return opened

    @answers_errno
    async def read_into(
        self, node: Inode, handle: File, offset: int, views: Sequence[memoryview], context: Context
    ) -> int:
        """Read what the host has in memory at once, the rest in a thread."""
        with handle:
            size = sum(map(len, views))
            done, ended = handle.read_cached(views, offset) if size <= INLINE_READ else (0, False)
            if ended:
                return done
            return done + await self._workers.run(handle.read, behind(views, done), offset + done)

    @answers_errno
    async def write_from(
        self, node: Inode, handle: File, offset: int, views: Sequence[memoryview], context: Context
    ) -> int:
        """Write small requests at once, large and synchronous ones in a thread, and all while one there is changing it.

        A small one that goes to a thread for that reason is no reason for the next.
        """
        with handle:
            handle.dirty = True
            if handle.waits or sum(map(len, views)) > INLINE_WRITE:
                with self._changing(node.number):
                    return await self._workers.run(handle.write, views, offset, in_place=context.in_place)
            if node.number in self._busy:
                return await self._workers.run(handle.write, views, offset, in_place=context.in_place)
            return handle.write(views, offset, in_place=context.in_place)

    @answers_errno
    async def flush(self, node: Inode, handle: File, context: Context) -> None:
        """Let the host's file system tell what went wrong since the last flush."""
        with handle:
            sharer = self._descriptors.sharer
            if not handle.dirty and not (sharer is not None and sharer.wrote(handle.descriptor)):
                return
            handle.dirty = False
            # File systems on a block device have nothing to do on close; those without one (major number 0)
            # may be on the network and send everything now.
            if os.major(node.key[0]):
                handle.surface_errors()
            else:
                await self._workers.run(handle.surface_errors)

    @answers_errno
    async def fsync(self, node: Inode, handle: File, datasync: bool, context: Context) -> None:
        """Wait for the disk in a thread."""
        with handle:
            await self._workers.run(os.fdatasync if datasync else os.fsync, handle.descriptor)

    @answers_errno
    async def release(self, node: Inode, handle: File) -> None:
        """Close the file once nobody uses it."""
        self._release(node, handle)

    @answers_errno
    async def fallocate(self, node: Inode, handle: File, mode: int, offset: int, length: int, context: Context) -> None:
        """Reserve, punch or zero; what shifts data around (collapse, insert) is EOPNOTSUPP."""
        if mode not in _ALLOCATIONS:
            raise refusal(errno.EOPNOTSUPP)
        with handle, self._changing(node.number):
            await self._workers.run(_libc.fallocate, handle.descriptor, mode, offset, length)

    @answers_errno
    async def lseek(self, node: Inode, handle: File, offset: int, whence: int, context: Context) -> int:
        """Find data or a hole; the guest keeps positions itself."""
        if whence not in (os.SEEK_DATA, os.SEEK_HOLE):
            raise refusal(errno.EINVAL)
        with handle:
            return await self._workers.run(os.lseek, handle.descriptor, offset, whence)

    @answers_errno
    async def copy_file_range(
        self,
        source: tuple[Inode, File, int],
        target: tuple[Inode, File, int],
        length: int,
        flags: int,
        context: Context,
    ) -> int:
        """Copy inside the host, by reference where its file system can."""
        if flags:
            raise refusal(errno.EINVAL)
        (_, reader, read_at), (node, writer, write_at) = source, target
        with reader, writer, self._changing(node.number):
            writer.dirty = True
            return await self._workers.run(
                os.copy_file_range,
                reader.descriptor,
                writer.descriptor,
                min(length, LARGEST_COPY),
                offset_src=read_at,
                offset_dst=write_at,
            )

    @answers_errno
    async def getlk(self, node: Inode, handle: File, lock: FileLock, context: Context) -> FileLock | None:
        """Ask the host; where the guest itself is in the way, its process is named."""
        self._require_locks()
        return self._locks.get(node, handle, lock)

    @answers_errno
    async def setlk(self, node: Inode, handle: File, lock: FileLock, wait: bool, context: Context) -> None:
        """Lock the host's file, against everybody else who does."""
        self._require_locks()
        if self._descriptors.sharer is not None and lock.type != F_UNLCK:
            self._descriptors.sharer.locked(*node.key)
        await self._locks.set(node, handle, lock, wait)

    def _require_locks(self) -> None:
        if InitFlag.POSIX_LOCKS not in self.init_flags:
            raise refusal(errno.ENOSYS)

    @answers_errno
    async def ioctl(
        self, node: Inode, handle: File, command: int, argument: bytes, out_size: int, context: Context
    ) -> bytes:
        """Flags of files, see :mod:`.controls`."""
        with handle, self._changing(node.number):
            return await self._workers.run(
                controls.control, handle.descriptor, command, argument, out_size, context.uid
            )

    # Directories

    @answers_errno
    async def opendir(self, node: Inode, flags: int, context: Context) -> Opened[File]:
        """Open the directory; the first ``readdir`` lists it."""
        flags = os.O_RDONLY | os.O_DIRECTORY | QUIET
        descriptor = self._untouched(lambda more: self._descriptors.open(".", flags | more, dir_fd=node.descriptor))
        return self._kept(Directory(descriptor, self._descriptors, listings=self._listings))

    @answers_errno
    async def readdir(self, node: Inode, handle: File, offset: int, context: Context) -> Iterable[DirEntry]:
        """List from a snapshot taken at offset 0, so that names come once whatever changes meanwhile."""
        if not isinstance(handle, Directory):
            raise refusal(errno.ENOTDIR)
        with handle:
            if not offset or not handle.is_listed:
                ino = node.key[1]
                # The parent of the root lies outside the share and is none of the guest's business.
                above = ino if node is self.root else os.stat("..", dir_fd=handle.descriptor).st_ino
                await handle.list_again(ino, above, self._workers)
            return handle.entries_from(offset)

    @answers_errno
    async def releasedir(self, node: Inode, handle: File) -> None:
        """Close the directory once nobody uses it."""
        self._release(node, handle)

    @answers_errno
    async def fsyncdir(self, node: Inode, handle: File, datasync: bool, context: Context) -> None:
        """Wait for the disk in a thread."""
        with handle:
            await self._workers.run(os.fdatasync if datasync else os.fsync, handle.descriptor)

    # Opening and closing

    def _host_flags(self, flags: int) -> int:
        """The guest's open flags as this host opens a file.

        Without O_APPEND: pages of a shared mapping are written through the same descriptor and have their place. With
        a writeback cache all writes are pages, and the guest reads what surrounds a partial one.
        """
        flags &= _KEPT_FLAGS
        if self._writeback and flags & os.O_ACCMODE == os.O_WRONLY:
            flags = flags & ~os.O_ACCMODE | os.O_RDWR
        return flags | QUIET

    def _reopen(self, descriptor: int, kind: int, flags: int) -> int:
        if kind != stat.S_IFREG:
            raise refusal(_NOT_OPENED.get(kind, errno.ENXIO))
        host_flags = self._host_flags(flags)
        try:
            return self._untouched(lambda more: self._descriptors.reopen(descriptor, host_flags | more))
        except PermissionError:
            if not flags & os.O_APPEND:
                raise
            # A file that may only grow (chattr +a) is opened in no other way.
            return self._untouched(lambda more: self._descriptors.reopen(descriptor, host_flags | os.O_APPEND | more))

    def _untouched(self, open_with: Callable[[int], int]) -> int:
        """Open without a trace: reading a read-only share leaves access times alone, where the files are ours."""
        if self._noatime:
            with contextlib.suppress(PermissionError):
                return open_with(self._noatime)
        return open_with(0)

    def _opened(self, descriptor: int, flags: int) -> Opened[File]:
        """Keep an open file.

        One with O_APPEND says so with each write: Linux then puts it at the end, wherever the guest believed the end to
        be, so lines of two writers (another guest, a host process) never overwrite each other.
        """
        waits = bool(flags & (os.O_SYNC | os.O_DSYNC))
        return self._kept(File(descriptor, self._descriptors, waits, bool(flags & os.O_APPEND)))

    def opened_elsewhere(self, descriptor: int, flags: int, *, directory: bool) -> File:
        """Keep a file that was opened beside this; what was written to it there may not have been told."""
        if directory:
            return self._kept(Directory(descriptor, self._descriptors, listings=self._listings)).handle
        file = self._opened(descriptor, flags).handle
        file.dirty = True
        return file

    async def _emptied(self, number: int, file: File, flags: int) -> None:
        """Do what O_TRUNC in ``flags`` asks for, or close the file again. ``number`` is its inode's."""
        if not flags & os.O_TRUNC:
            return
        try:
            with contextlib.ExitStack() as held, self._changing(number), file:
                descriptor = file.descriptor
                if flags & os.O_ACCMODE == os.O_RDONLY:
                    descriptor = self._descriptors.reopen(descriptor, os.O_WRONLY | QUIET)
                    held.callback(self._descriptors.close, descriptor)
                await self._workers.run(os.ftruncate, descriptor, 0)
        except BaseException:
            self._files.discard(file)
            file.close()
            raise

    async def _change(self, node: Inode, changes: Changes, file: File | None) -> os.stat_result:
        """Change attributes, in a thread where that may take long. See :func:`.attributes.change`."""
        require_possible(node, changes)
        by_number = self._descriptors.by_number
        if changes.size is None and node.number not in self._busy:
            return change(node.descriptor, changes, by_number)
        with self._changing(node.number):
            if changes.size is not None and file is not None:
                with file:
                    return await self._workers.run(change, file.descriptor, changes, by_number)
            async with self._beyond_the_limit:
                # Not os.truncate: that waits up to 45 seconds where a host process holds a lease.
                flags = os.O_PATH if changes.size is None else os.O_WRONLY | QUIET
                descriptor = self._descriptors.reopen(node.descriptor, flags, brief=True)
                try:
                    return await self._workers.run(change, descriptor, changes, by_number)
                finally:
                    self._descriptors.close(descriptor)

    @contextlib.contextmanager
    def _changing(self, number: int) -> Iterator[None]:
        """Around a call in a thread that may hold the lock of an inode for long."""
        self._busy[number] += 1
        self._tell_of_change(number, begins=True)
        try:
            yield
        finally:
            self._busy[number] -= 1
            if not self._busy[number]:
                del self._busy[number]
                self._tell_of_change(number, begins=False)

    def _tell_of_change(self, number: int, *, begins: bool) -> None:
        if self._descriptors.sharer is not None:
            self._descriptors.sharer.changing(*key_of(number), begins)

    def _kept(self, file: File) -> Opened[File]:
        self._files.add(file)
        return Opened(file)

    def _release(self, node: Inode, file: File) -> None:
        self._files.discard(file)
        self._locks.release(node, file)
        file.close()

    def _close_files(self) -> None:
        """Close everything open; a call still running in a thread closes its file when it ends."""
        self._locks.close()
        for file in self._files:
            with contextlib.suppress(OSError):
                file.close()
        self._files.clear()
