"""A directory of a Linux host as a file system for one guest: each operation as system calls.

Names are resolved one component at a time against a descriptor, never along a path and never through a link,
so nothing a guest or a host process renames leads out of the share.
"""

import contextlib
import errno
import os
import stat

from hdvkit_virtiofs.fuse.answers import (
    Attributes,
    Changes,
    Context,
    Entry,
    Opened,
    StatFs,
    Statx,
)
from hdvkit_virtiofs.passthrough import _libc, making
from hdvkit_virtiofs.passthrough.attributes import allows, attributes_of, change
from hdvkit_virtiofs.passthrough.descriptors import Descriptors
from hdvkit_virtiofs.passthrough.errors import answers_errno, refusal
from hdvkit_virtiofs.passthrough.files import File
from hdvkit_virtiofs.passthrough.inodes import REFERENCE, Inode, InodeTable
from hdvkit_virtiofs.passthrough.open_files import OpenFiles
from hdvkit_virtiofs.passthrough.workers import Workers

CREATE_ATTEMPTS = 16
"""How often ``create`` looks again at a name that host processes make and remove under our hands."""

_KNOWN_RENAMES = 1 | 2  # RENAME_NOREPLACE, RENAME_EXCHANGE; a whiteout would be a device node


class Passthrough(OpenFiles):
    """The directory ``source``, whatever it is called later.

    With ``writeback`` the guest collects writes in its page cache; say so when the share does, because files
    are opened differently then. With ``read_only`` reading changes no access times. ``max_descriptors`` caps what
    one guest keeps open (default: what the process may open, less a reserve), and ``threads`` the calls that wait
    on the disk at the same time.

    Raises:
        OSError: ``source`` cannot be shared; ``strerror`` is a sentence that names it and the reason.
    """

    def __init__(
        self,
        source: str | os.PathLike[str],
        *,
        writeback: bool = False,
        read_only: bool = False,
        max_descriptors: int | None = None,
        threads: int = 8,
    ) -> None:
        super().__init__(Descriptors(max_descriptors), Workers(threads), writeback, read_only)
        self._inodes = InodeTable(self._descriptors)
        try:
            self.root, _ = self._inodes.adopt(_open_source(source, self._descriptors))
        except OSError:
            self._descriptors.finish()
            raise

    @property
    def live_descriptors(self) -> int:
        """Descriptors held for the guest now: files it knows and files it has open."""
        return self._descriptors.live

    # Nodes and names

    @answers_errno
    async def lookup(self, parent: Inode, name: bytes, context: Context) -> Entry[Inode]:
        """Find one component; a link is found as itself."""
        return _entry(*self._inodes.find(parent, name))

    def forget(self, node: Inode) -> None:
        """Close the descriptor that stands for the file."""
        if node is not self.root:
            self._inodes.drop(node)

    @answers_errno
    async def getattr(self, node: Inode, handle: File | None, context: Context) -> Attributes:
        """Ask the inode; it answers alike by an open file, also when no name is left."""
        return attributes_of(os.fstat(node.descriptor))

    @answers_errno
    async def setattr(self, node: Inode, changes: Changes, handle: File | None, context: Context) -> Attributes:
        """Change the inode; the time of change is the host's own."""
        change(node, changes, handle, self._descriptors)
        return attributes_of(os.fstat(node.descriptor))

    @answers_errno
    async def statx(self, node: Inode, handle: File | None, context: Context) -> Statx:
        """Tell the time of birth where the host's file system keeps it."""
        status = os.fstat(node.descriptor)
        return Statx(attributes_of(status), _libc.birth_time(node.descriptor), status.st_dev)

    @answers_errno
    async def access(self, node: Inode, mask: int, context: Context) -> None:
        """Judge by the mode bits for the guest's caller, not for the user this process runs as."""
        if not allows(os.fstat(node.descriptor), mask, context):
            raise refusal(errno.EACCES)

    @answers_errno
    async def readlink(self, node: Inode, context: Context) -> bytes:
        """Return the target as the bytes it is."""
        if not node.is_link:
            raise refusal(errno.EINVAL)
        return os.readlink(b"", dir_fd=node.descriptor)

    # Making and removing names

    @answers_errno
    async def create(
        self, parent: Inode, name: bytes, mode: int, flags: int, context: Context
    ) -> tuple[Entry[Inode], Opened[File]]:
        """Make the file with O_EXCL, so that only a new one gets an owner; else open what is there."""
        for _ in range(CREATE_ATTEMPTS):
            try:
                made, opened = making.make_open_file(
                    parent, name, mode, self._host_flags(flags), context, self._descriptors
                )
                return _entry(*self._inodes.adopt(made)), self._opened(opened, flags)
            except FileExistsError:
                if flags & os.O_EXCL:
                    raise
            with contextlib.suppress(FileNotFoundError):
                return self._open_existing(parent, name, flags)
        raise refusal(errno.EBUSY)

    @answers_errno
    async def mknod(self, parent: Inode, name: bytes, mode: int, rdev: int, context: Context) -> Entry[Inode]:
        """Make a regular file, fifo or socket; device nodes are EPERM, they would be the host's devices."""
        return self._adopted(making.make_node(parent, name, mode, context, self._descriptors))

    @answers_errno
    async def mkdir(self, parent: Inode, name: bytes, mode: int, context: Context) -> Entry[Inode]:
        """Make a directory that belongs to the caller."""
        return self._adopted(making.make_directory(parent, name, mode, context, self._descriptors))

    @answers_errno
    async def symlink(self, parent: Inode, name: bytes, target: bytes, context: Context) -> Entry[Inode]:
        """Make a link. Where it points does not matter: nothing here follows it."""
        return self._adopted(making.make_link(parent, name, target, context, self._descriptors))

    @answers_errno
    async def link(self, node: Inode, parent: Inode, name: bytes, context: Context) -> Entry[Inode]:
        """Name the inode itself once more. One whose last name is gone stays gone (ENOENT)."""
        os.link(
            str(node.descriptor),
            name,
            src_dir_fd=self._descriptors.by_number,
            dst_dir_fd=parent.descriptor,
            follow_symlinks=True,  # only from the number to the inode, not along a link behind it
        )
        return _entry(node, os.fstat(node.descriptor))

    @answers_errno
    async def unlink(self, parent: Inode, name: bytes, context: Context) -> None:
        """Remove the name; open files read on."""
        os.unlink(name, dir_fd=parent.descriptor)

    @answers_errno
    async def rmdir(self, parent: Inode, name: bytes, context: Context) -> None:
        """Remove an empty directory."""
        os.rmdir(name, dir_fd=parent.descriptor)

    @answers_errno
    async def rename(
        self, parent: Inode, name: bytes, new_parent: Inode, new_name: bytes, flags: int, context: Context
    ) -> None:
        """Move a name. Inodes do not notice."""
        if flags & ~_KNOWN_RENAMES:
            raise refusal(errno.EINVAL)
        if flags:
            _libc.rename(parent.descriptor, name, new_parent.descriptor, new_name, flags)
        else:
            os.rename(name, new_name, src_dir_fd=parent.descriptor, dst_dir_fd=new_parent.descriptor)

    # The whole file system

    @answers_errno
    async def statfs(self, node: Inode, context: Context) -> StatFs:
        """Tell of the host's file system that holds the node."""
        status = os.statvfs(node.descriptor)
        return StatFs(
            blocks=status.f_blocks,
            bfree=status.f_bfree,
            bavail=status.f_bavail,
            files=status.f_files,
            ffree=status.f_ffree,
            bsize=status.f_bsize,
            frsize=status.f_frsize,
            namelen=status.f_namemax,
        )

    async def aclose(self) -> None:
        """Close everything; a call still running in a thread closes its file when it ends."""
        self._close_files()
        self._inodes.drop_all()
        self._workers.close()
        self._descriptors.finish()

    def _open_existing(self, parent: Inode, name: bytes, flags: int) -> tuple[Entry[Inode], Opened[File]]:
        with contextlib.ExitStack() as undo:
            found = self._descriptors.open(name, REFERENCE, dir_fd=parent.descriptor, brief=True)
            undo.callback(self._descriptors.close, found)
            opened = self._reopen(found, stat.S_IFMT(os.fstat(found).st_mode), flags)
            undo.pop_all()
        return self._adopted(found), self._opened(opened, flags)

    def _adopted(self, descriptor: int) -> Entry[Inode]:
        return _entry(*self._inodes.adopt(descriptor))


def _entry(inode: Inode, status: os.stat_result) -> Entry[Inode]:
    return Entry(inode, attributes_of(status))


def _open_source(source: str | os.PathLike[str], descriptors: Descriptors) -> int:
    """Pin the directory, and see that it can be listed."""
    try:
        root = descriptors.open(source, os.O_PATH | os.O_DIRECTORY)
        try:
            os.close(os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=root))
        except OSError:
            descriptors.close(root)
            raise
    except OSError as error:
        reason = os.strerror(error.errno or errno.EIO).lower()
        raise OSError(error.errno, f"cannot share {os.fspath(source)!r}: {reason}") from error
    return root
