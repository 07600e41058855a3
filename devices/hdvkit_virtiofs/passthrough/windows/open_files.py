"""The half of a passthrough to Windows that lives from open to release: data, listings, waiting for the disk."""

import contextlib
import errno
import stat
from collections.abc import Iterable, Sequence
from typing import Final

from hdvkit_virtiofs.fuse.answers import Context, DirEntry, FileLock, Opened
from hdvkit_virtiofs.fuse.spec import O_TRUNC, InitFlag
from hdvkit_virtiofs.operations import Operations
from hdvkit_virtiofs.passthrough.errors import refusal
from hdvkit_virtiofs.passthrough.windows import files, metadata, nt
from hdvkit_virtiofs.passthrough.windows.answers import answers
from hdvkit_virtiofs.passthrough.windows.binding import Handle
from hdvkit_virtiofs.passthrough.windows.directories import Directory, Listings, entries_of
from hdvkit_virtiofs.passthrough.windows.files import File
from hdvkit_virtiofs.passthrough.windows.locks import Locks
from hdvkit_virtiofs.passthrough.windows.nodes import Node
from hdvkit_virtiofs.passthrough.windows.tree import Tree
from hdvkit_virtiofs.passthrough.windows.volume import LOOKING
from hdvkit_virtiofs.passthrough.workers import Workers

INLINE: Final = 64 * 1024
"""Larger transfers go to a thread: they would hold up everybody for longer than a handful of requests."""

LARGEST_COPY: Final = 64 * 1024 * 1024
"""The most one ``copy_file_range`` copies; the guest asks again for the rest, and can be interrupted between."""

_NOT_OPENED: Final = {stat.S_IFLNK: errno.ELOOP, stat.S_IFDIR: errno.EISDIR}


class OpenFiles(Operations[Node, File]):
    """Operations on open files and directories. Knows how a node is opened, not how a name is found."""

    def __init__(self, tree: Tree, workers: Workers, *, writeback: bool, locks: bool) -> None:
        self._tree = tree
        self._workers = workers
        self._writeback = writeback
        self._files: dict[File, Node] = {}
        self._listings = Listings()
        self._locks = Locks(tree.volume)
        if locks:
            self.init_flags |= InitFlag.POSIX_LOCKS | InitFlag.FLOCK_LOCKS

    @answers
    async def open(self, node: Node, flags: int, context: Context) -> Opened[File]:
        """Open the file, under whatever name it is by now. Only regular files; others are never touched."""
        return self._open(node, flags)

    @answers
    async def read_into(
        self, node: Node, handle: File, offset: int, views: Sequence[memoryview], context: Context
    ) -> int:
        """Read in a thread: Windows does not tell what it has in memory."""
        with handle:
            return await self._workers.run(handle.read, views, offset)

    @answers
    async def write_from(
        self, node: Node, handle: File, offset: int, views: Sequence[memoryview], context: Context
    ) -> int:
        """Write small requests at once, large and synchronous ones in a thread."""
        with handle:
            if not handle.waits and sum(map(len, views)) <= INLINE:
                return handle.write(views, offset, in_place=context.in_place)
            return await self._workers.run(handle.write, views, offset, in_place=context.in_place)

    @answers
    async def flush(self, node: Node, handle: File, context: Context) -> None:
        """Nothing: Windows tells of errors when something is written or flushed, never on close."""

    @answers
    async def fsync(self, node: Node, handle: File, datasync: bool, context: Context) -> None:
        """Wait for the disk in a thread, by a handle that may write: others cannot flush."""
        with handle, contextlib.ExitStack() as cleanup:
            flushed = handle.handle
            if not handle.writable:
                with contextlib.suppress(OSError):  # who cannot write has written nothing
                    flushed = cleanup.enter_context(self._tree.volume.open(node, nt.WRITE_DATA))
                    await self._workers.run(nt.flush, flushed)
                return
            await self._workers.run(nt.flush, flushed)

    @answers
    async def release(self, node: Node, handle: File) -> None:
        """Close the file once nobody uses it."""
        self._release(handle)

    @answers
    async def fallocate(self, node: Node, handle: File, mode: int, offset: int, length: int, context: Context) -> None:
        """Reserve, punch or zero; what shifts data around (collapse, insert) is EOPNOTSUPP."""
        with handle:
            await self._workers.run(handle.allocate, mode, offset, length)

    @answers
    async def lseek(self, node: Node, handle: File, offset: int, whence: int, context: Context) -> int:
        """Find data or a hole; the guest keeps positions itself."""
        if whence not in (files.SEEK_DATA, files.SEEK_HOLE):
            raise refusal(errno.EINVAL)
        with handle:
            return await self._workers.run(handle.seek, offset, whence)

    @answers
    async def copy_file_range(
        self,
        source: tuple[Node, File, int],
        target: tuple[Node, File, int],
        length: int,
        flags: int,
        context: Context,
    ) -> int:
        """Copy inside the host."""
        if flags:
            raise refusal(errno.EINVAL)
        (_, reader, read_at), (_, writer, write_at) = source, target
        with reader, writer:
            size = min(length, LARGEST_COPY)
            return await self._workers.run(files.copy, reader, read_at, writer, write_at, size)

    @answers
    async def getlk(self, node: Node, handle: File, lock: FileLock, context: Context) -> FileLock | None:
        """Tell who is in the way; of another guest no process is known."""
        self._require_locks()
        return self._locks.get(node, handle, lock)

    @answers
    async def setlk(self, node: Node, handle: File, lock: FileLock, wait: bool, context: Context) -> None:
        """Lock the file against all guests of this host."""
        self._require_locks()
        await self._locks.set(node, handle, lock, wait)

    def _require_locks(self) -> None:
        if InitFlag.POSIX_LOCKS not in self.init_flags:
            raise refusal(errno.ENOSYS)

    @answers
    async def opendir(self, node: Node, flags: int, context: Context) -> Opened[File]:
        """Open the directory."""
        handle = self._tree.volume.open_directory(node)
        return self._kept(node, Directory(handle, listings=self._listings))

    @answers
    async def readdir(self, node: Node, handle: File, offset: int, context: Context) -> Iterable[DirEntry]:
        """List from a snapshot taken at offset 0, so that names come once whatever changes meanwhile."""
        if not isinstance(handle, Directory):
            raise refusal(errno.ENOTDIR)
        with handle:
            if not offset or not handle.is_listed:
                handle.keep(await self._workers.run(self._list, node, handle.handle))
            return handle.entries_from(offset)

    def _list(self, node: Node, handle: Handle) -> list[DirEntry]:
        with nt.open_again(handle, LOOKING, nt.DIRECTORY_FILE) as fresh:
            return entries_of(self._tree.volume.rows(fresh), node.file_id, is_root=node.is_root)

    @answers
    async def releasedir(self, node: Node, handle: File) -> None:
        """Close the directory once nobody uses it."""
        self._release(handle)

    @answers
    async def fsyncdir(self, node: Node, handle: File, datasync: bool, context: Context) -> None:
        """Wait for the disk in a thread, where this user may write to the directory."""
        await self.fsync(node, handle, datasync, context)

    # Opening and closing

    def _open(self, node: Node, flags: int) -> Opened[File]:
        if node.kind != stat.S_IFREG:
            raise refusal(_NOT_OPENED.get(node.kind, errno.ENXIO))
        access = files.access_of(flags, writeback=self._writeback)
        with self._tree.volume.asked(node) as asked:
            if metadata.is_elsewhere(self._tree.volume.facts(asked)):
                raise refusal(errno.EOPNOTSUPP)
        handle = self._tree.volume.open(node, access, files.options_of(flags) | nt.NON_DIRECTORY_FILE)
        return self._opened(node, handle, flags)

    def _opened(self, node: Node, handle: Handle, flags: int) -> Opened[File]:
        file = File.opened(handle, flags)
        if flags & O_TRUNC:
            try:
                file.truncate(0)
            except OSError:
                file.close()
                raise
        return self._kept(node, file)

    def _kept(self, node: Node, file: File) -> Opened[File]:
        self._files[file] = node
        node.files.add(file)
        return Opened(file)

    def _release(self, file: File) -> None:
        node = self._files.pop(file, None)
        if node is not None:
            self._locks.release(node, file)
            node.files.discard(file)
        file.close()

    def _close_files(self) -> None:
        """Close everything open; a call still running in a thread closes its file when it ends."""
        self._locks.close()
        for file in list(self._files):
            self._release(file)
