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
from hdvkit_virtiofs.fuse.spec import RENAME_EXCHANGE, RENAME_NOREPLACE, RENAME_WHITEOUT, InitFlag
from hdvkit_virtiofs.passthrough import _libc
from hdvkit_virtiofs.passthrough.attributes import QUIET, allows, attributes_of
from hdvkit_virtiofs.passthrough.credentials import Credentials
from hdvkit_virtiofs.passthrough.descriptors import Descriptors, Sharer
from hdvkit_virtiofs.passthrough.errors import answers_errno, refusal
from hdvkit_virtiofs.passthrough.files import File
from hdvkit_virtiofs.passthrough.inodes import BUDGET, REFERENCE, Inode, InodeTable, number_of
from hdvkit_virtiofs.passthrough.lending import Lending
from hdvkit_virtiofs.passthrough.making import Maker
from hdvkit_virtiofs.passthrough.open_files import OpenFiles
from hdvkit_virtiofs.passthrough.workers import Workers
from hdvkit_virtiofs.passthrough.xattrs import ExtendedAttributes

CREATE_ATTEMPTS = 16
"""How often ``create`` looks again at a name that host processes make and remove under our hands."""

_KNOWN_RENAMES = RENAME_NOREPLACE | RENAME_EXCHANGE | RENAME_WHITEOUT
"""The device node 0:0 that the last one leaves is no device."""


class Passthrough(OpenFiles, ExtendedAttributes):
    """The directory ``source``, whatever it is called later.

    With ``writeback`` the guest collects writes in its page cache; say so when the share does, because files
    are opened differently then. With ``read_only`` reading files changes no access times; reading links may.
    ``max_descriptors`` caps what one guest keeps open (default: what the process may open, less a reserve),
    ``max_inode_descriptors`` what of it is spent on files the guest only knows, and ``threads`` the calls that wait on
    the disk at the same time.

    With ``posix_acl`` and ``security_ctx`` the guest may use access control lists, and label files as it makes them.
    With ``announce_submounts`` directories where another file system of the host begins are told as such, so that
    inode numbers may repeat there; without, programs in the guest can take two files for the same.

    New files belong to the guest's callers where the process may act for any user (root may), else to the user it
    runs as: see :class:`.credentials.Credentials`.

    Raises:
        OSError: ``source`` cannot be shared; ``strerror`` is a sentence that names it and the reason.
    """

    def __init__(
        self,
        source: str | os.PathLike[str],
        *,
        writeback: bool = False,
        read_only: bool = False,
        locks: bool = True,
        max_descriptors: int | None = None,
        max_inode_descriptors: int = BUDGET,
        threads: int = 8,
        posix_acl: bool = False,
        security_ctx: bool = False,
        announce_submounts: bool = True,
    ) -> None:
        super().__init__(Descriptors(max_descriptors), Workers(threads), writeback, read_only, locks=locks)
        self.init_flags |= InitFlag.HANDLE_KILLPRIV_V2 | InitFlag.CREATE_SUPP_GROUP | InitFlag.CACHE_SYMLINKS
        if posix_acl:
            self.init_flags |= InitFlag.POSIX_ACL
        if security_ctx:
            self.init_flags |= InitFlag.SECURITY_CTX
        self._announce_submounts = announce_submounts
        self._credentials = Credentials()
        self._maker = Maker(self._descriptors, self._credentials, posix_acl)
        self._inodes = InodeTable(self._descriptors, max_inode_descriptors)
        try:
            self.root, _ = self._inodes.adopt(_open_source(source, self._descriptors))
        except OSError:
            self._descriptors.finish()
            raise

    @property
    def live_descriptors(self) -> int:
        """Descriptors held for the guest now: files it knows and files it has open."""
        return self._descriptors.live - self._descriptors.lent + self._descriptors.used_elsewhere

    def share_descriptors(self, sharer: Sharer) -> Lending:
        """Let ``sharer`` use the descriptors too, those of the root from now on and all that are opened later."""
        self._descriptors.sharer = sharer
        return Lending(self._descriptors, self._inodes, self, self._credentials, self._noatime)

    @property
    def makes_plainly(self) -> bool:
        """Whether a new file is what its caller says and no more: no access control lists, no labels."""
        return not self.init_flags & (InitFlag.POSIX_ACL | InitFlag.SECURITY_CTX)

    @property
    def opens_plainly(self) -> bool:
        """Whether files are opened as the guest says: it does not read what it opened to write only."""
        return not self._writeback

    # Nodes and names

    @answers_errno
    async def lookup(self, parent: Inode, name: bytes, context: Context) -> Entry[Inode]:
        """Find one component; a link is found as itself."""
        return self._entry(parent, *self._inodes.find(parent, name))

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
        return attributes_of(await self._change(node, changes, handle))

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
        """Make the file with O_EXCL, so that only that is done as the caller; else open what is there."""
        for _ in range(CREATE_ATTEMPTS):
            try:
                made, opened = self._maker.open_file(parent, name, mode, self._host_flags(flags), context)
                return self._adopted(parent, made, name), self._opened(opened, flags)
            except FileExistsError:
                if flags & os.O_EXCL:
                    raise
            with contextlib.suppress(FileNotFoundError):
                return await self._open_existing(parent, name, flags)
        raise refusal(errno.EBUSY)

    @answers_errno
    async def tmpfile(
        self, parent: Inode, mode: int, flags: int, context: Context
    ) -> tuple[Entry[Inode], Opened[File]]:
        """Make a file on the same file system as ``parent``; with O_EXCL it can never be given a name."""
        kept = self._host_flags(flags) | flags & os.O_EXCL
        made, opened = self._maker.nameless_file(parent, mode, kept, context)
        return self._adopted(parent, made), self._opened(opened, flags)

    @answers_errno
    async def mknod(self, parent: Inode, name: bytes, mode: int, rdev: int, context: Context) -> Entry[Inode]:
        """Make a regular file, fifo, socket or whiteout; other device nodes are EPERM, they would be the host's."""
        return self._adopted(parent, self._maker.node(parent, name, mode, rdev, context), name)

    @answers_errno
    async def mkdir(self, parent: Inode, name: bytes, mode: int, context: Context) -> Entry[Inode]:
        """Make a directory that belongs to the caller."""
        return self._adopted(parent, self._maker.directory(parent, name, mode, context), name)

    @answers_errno
    async def symlink(self, parent: Inode, name: bytes, target: bytes, context: Context) -> Entry[Inode]:
        """Make a link. Where it points does not matter: nothing here follows it."""
        return self._adopted(parent, self._maker.link(parent, name, target, context), name)

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
        self._inodes.learn(node, parent, name)
        return self._entry(parent, node, os.fstat(node.descriptor))

    @answers_errno
    async def unlink(self, parent: Inode, name: bytes, context: Context) -> None:
        """Remove the name; open files read on."""
        with self._inodes.removing(parent, name):
            os.unlink(name, dir_fd=parent.descriptor)

    @answers_errno
    async def rmdir(self, parent: Inode, name: bytes, context: Context) -> None:
        """Remove an empty directory."""
        with self._inodes.removing(parent, name):
            os.rmdir(name, dir_fd=parent.descriptor)

    @answers_errno
    async def rename(
        self, parent: Inode, name: bytes, new_parent: Inode, new_name: bytes, flags: int, context: Context
    ) -> None:
        """Move a name. Inodes do not notice."""
        if flags & ~_KNOWN_RENAMES:
            raise refusal(errno.EINVAL)
        exchange = bool(flags & RENAME_EXCHANGE)
        with self._inodes.moving(parent, name, new_parent, new_name, exchange=exchange):
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

    @answers_errno
    async def syncfs(self, node: Inode, context: Context) -> None:
        """Wait in a thread for the whole file system of the host that holds the directory ``node``."""
        directory = self._descriptors.open(".", os.O_RDONLY | os.O_DIRECTORY | QUIET, dir_fd=node.descriptor)
        try:
            await self._workers.run(_libc.syncfs, directory)
        finally:
            self._descriptors.close(directory)

    async def aclose(self) -> None:
        """Close everything; a call still running in a thread closes its file when it ends."""
        self._close_files()
        self._inodes.drop_all()
        try:
            await self._descriptors.end_closing()
        finally:
            self._workers.close()
            self._descriptors.finish()

    async def _open_existing(self, parent: Inode, name: bytes, flags: int) -> tuple[Entry[Inode], Opened[File]]:
        brief = not flags & os.O_TRUNC  # which is waited for
        with contextlib.ExitStack() as undo:
            found = self._descriptors.open(name, REFERENCE, dir_fd=parent.descriptor, brief=brief)
            undo.callback(self._descriptors.close, found)
            status = os.fstat(found)
            opened = self._opened(self._reopen(found, stat.S_IFMT(status.st_mode), flags), flags)
            await self._emptied(number_of(status), opened.handle, flags)
            undo.pop_all()
        return self._adopted(parent, found, name), opened

    def _adopted(self, parent: Inode, descriptor: int, name: bytes | None = None) -> Entry[Inode]:
        return self._entry(parent, *self._inodes.adopt(descriptor, parent, name))

    def _entry(self, parent: Inode, inode: Inode, status: os.stat_result) -> Entry[Inode]:
        attributes = attributes_of(status)
        elsewhere = inode.key[0] != parent.key[0] and attributes.is_directory and inode is not self.root
        return Entry(
            inode, attributes._replace(submount=True) if elsewhere and self._announce_submounts else attributes
        )


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
