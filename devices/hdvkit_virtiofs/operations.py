"""What a file system may offer a guest: one method for each FUSE operation, ENOSYS until overridden.

This class is the manual. Nothing here knows of rings, messages or node numbers.
"""

import errno
from collections.abc import Iterable, Sequence
from typing import Generic, NoReturn

from hdvkit_virtiofs.fuse.answers import (
    Attributes,
    Changes,
    Context,
    DirEntry,
    Entry,
    FileLock,
    Handle,
    Node,
    Opened,
    StatFs,
    Statx,
)
from hdvkit_virtiofs.fuse.errors import FuseError
from hdvkit_virtiofs.fuse.spec import InitFlag


def _unsupported() -> NoReturn:
    raise FuseError(errno.ENOSYS)


class Operations(Generic[Node, Handle]):
    """A file system for one guest.

    ``Node`` is your own type for a file, directory or link: any hashable object, equal only to itself.
    ``Handle`` is your own type for an open file; use ``None`` when you keep nothing between calls.
    The device numbers both for the guest and gives you back only objects you returned yourself, so a guest
    cannot forge one.

    Names are single path components as bytes: never empty, never ``.`` or ``..``, no ``/``, no NUL, at most
    255 bytes. The device has checked that before it calls you.

    Each method answers by returning, or by raising :class:`FuseError` with an errno. Any other exception is
    logged with its traceback and becomes EIO in the guest. After ENOSYS a Linux guest stops asking for most
    operations. Methods of one file system run concurrently, each in a task of its own: one that waits delays
    nobody else. A task is cancelled when the guest interrupts the call, resets, or the share is removed.
    """

    root: Node
    """The node the guest mounts."""

    init_flags: InitFlag = InitFlag(0)
    """What of INIT this file system has a use for, beyond what the device does by itself.

    ``POSIX_LOCKS`` and ``FLOCK_LOCKS``: it has ``setlk``; without them the guest keeps locks to itself.
    ``HANDLE_KILLPRIV_V2``: it heeds ``Changes.kill_suidgid`` and takes setuid and setgid away on ``chown``; without,
    the guest's kernel does, by requests of its own. ``POSIX_ACL``: see ``Context.umask``. ``CREATE_SUPP_GROUP``
    and ``SECURITY_CTX``: see ``Context``. ``CACHE_SYMLINKS``: targets of links never change.
    """

    # Nodes and names

    async def lookup(self, parent: Node, name: bytes, context: Context) -> Entry[Node]:
        """Find ``name`` in the directory ``parent``; ENOENT when it is not there.

        Return the same node for the same file, however it was reached.
        """
        _unsupported()

    def forget(self, node: Node) -> None:
        """The guest holds no reference on ``node`` any more; drop what you keep for it.

        Never called for the root, nor while the node is open. Must not raise: nobody waits for an answer.
        """

    async def getattr(self, node: Node, handle: Handle | None, context: Context) -> Attributes:
        """Tell the attributes of ``node``; ``handle`` is given when the guest asks by an open file."""
        _unsupported()

    async def setattr(self, node: Node, changes: Changes, handle: Handle | None, context: Context) -> Attributes:
        """Change what ``changes`` names, all or nothing, and return the attributes that result."""
        _unsupported()

    async def statx(self, node: Node, handle: Handle | None, context: Context) -> Statx:
        """Tell the attributes with the time of birth. The guest falls back to ``getattr`` after ENOSYS."""
        _unsupported()

    async def access(self, node: Node, mask: int, context: Context) -> None:
        """Return when the caller may access ``node`` as ``mask`` says (``os.R_OK | ...``), else EACCES."""
        _unsupported()

    async def readlink(self, node: Node, context: Context) -> bytes:
        """Return the target of a symbolic link. The guest resolves it; you never do."""
        _unsupported()

    # Making and removing names

    async def create(
        self, parent: Node, name: bytes, mode: int, flags: int, context: Context
    ) -> tuple[Entry[Node], Opened[Handle]]:
        """Open ``name``, making it first when it does not exist, in one step.

        ``flags`` are Linux open flags; with ``O_EXCL`` an existing name is EEXIST. Never follow a link.
        """
        _unsupported()

    async def tmpfile(
        self, parent: Node, mode: int, flags: int, context: Context
    ) -> tuple[Entry[Node], Opened[Handle]]:
        """Make and open a file without a name in the directory ``parent``; ``link`` may give it one later."""
        _unsupported()

    async def mknod(self, parent: Node, name: bytes, mode: int, rdev: int, context: Context) -> Entry[Node]:
        """Make a regular file, fifo, socket or device node, as the type bits of ``mode`` say."""
        _unsupported()

    async def mkdir(self, parent: Node, name: bytes, mode: int, context: Context) -> Entry[Node]:
        """Make a directory."""
        _unsupported()

    async def symlink(self, parent: Node, name: bytes, target: bytes, context: Context) -> Entry[Node]:
        """Make a symbolic link that holds ``target``, which may be any bytes without NUL."""
        _unsupported()

    async def link(self, node: Node, parent: Node, name: bytes, context: Context) -> Entry[Node]:
        """Give ``node`` one more name."""
        _unsupported()

    async def unlink(self, parent: Node, name: bytes, context: Context) -> None:
        """Remove a name that is not a directory. The node lives on while it is open or referenced."""
        _unsupported()

    async def rmdir(self, parent: Node, name: bytes, context: Context) -> None:
        """Remove an empty directory."""
        _unsupported()

    async def rename(
        self, parent: Node, name: bytes, new_parent: Node, new_name: bytes, flags: int, context: Context
    ) -> None:
        """Move a name, replacing what stands at the new place.

        ``flags`` holds ``RENAME_NOREPLACE``, ``RENAME_EXCHANGE`` or ``RENAME_WHITEOUT``; EINVAL for those you
        do not know.
        """
        _unsupported()

    # Files

    async def open(self, node: Node, flags: int, context: Context) -> Opened[Handle]:
        """Open a file for reading, writing or both, as the Linux open flags say.

        After ENOSYS a Linux guest reads and writes without opening, and ``handle`` is None from then on.
        """
        _unsupported()

    async def read(self, node: Node, handle: Handle, offset: int, size: int, context: Context) -> bytes:
        """Return ``size`` bytes from ``offset``; fewer only at the end of the file."""
        _unsupported()

    async def read_into(
        self, node: Node, handle: Handle, offset: int, views: Sequence[memoryview], context: Context
    ) -> int:
        """Fill the guest's own pages from ``offset`` and return how many bytes came.

        Override this instead of ``read`` where data can go to the guest without a copy. The views are valid
        until the method ends.
        """
        data = await self.read(node, handle, offset, sum(len(view) for view in views), context)
        done = 0
        for view in views:
            part = data[done : done + len(view)]
            view[: len(part)] = part
            done += len(part)
        return done

    async def write(self, node: Node, handle: Handle, offset: int, data: bytes, context: Context) -> int:
        """Write all of ``data`` at ``offset`` and return its length. Short writes only when space ends."""
        _unsupported()

    async def write_from(
        self, node: Node, handle: Handle, offset: int, views: Sequence[memoryview], context: Context
    ) -> int:
        """Write from the guest's own pages; override instead of ``write`` to save a copy.

        The guest may change the bytes while you look: what you check, copy first.
        """
        return await self.write(node, handle, offset, b"".join(views), context)

    async def flush(self, node: Node, handle: Handle, context: Context) -> None:
        """A guest process closed one of its descriptors; tell it of errors of earlier writes here."""
        _unsupported()

    async def fsync(self, node: Node, handle: Handle, datasync: bool, context: Context) -> None:
        """Return when the data is on stable storage; with ``datasync`` the attributes may come later."""
        _unsupported()

    async def release(self, node: Node, handle: Handle) -> None:
        """The last descriptor of an open file is gone. Called once for each successful open or create."""

    async def fallocate(
        self, node: Node, handle: Handle, mode: int, offset: int, length: int, context: Context
    ) -> None:
        """Reserve, punch or zero a range, as the ``FALLOC_FL_*`` bits of ``mode`` say."""
        _unsupported()

    async def lseek(self, node: Node, handle: Handle, offset: int, whence: int, context: Context) -> int:
        """Find data or a hole (``whence`` 3 or 4, Linux's SEEK_DATA and SEEK_HOLE) at or behind ``offset``."""
        _unsupported()

    async def copy_file_range(
        self,
        source: tuple[Node, Handle, int],
        target: tuple[Node, Handle, int],
        length: int,
        flags: int,
        context: Context,
    ) -> int:
        """Copy ``length`` bytes between two open files, each (node, handle, offset); return how many."""
        _unsupported()

    async def getlk(self, node: Node, handle: Handle, lock: FileLock, context: Context) -> FileLock | None:
        """Tell a lock that is in the way of ``lock``, or None."""
        _unsupported()

    async def setlk(self, node: Node, handle: Handle, lock: FileLock, wait: bool, context: Context) -> None:
        """Take, change or give up a lock; EAGAIN when another is in the way, unless ``wait``.

        A task that waits is cancelled when the guest interrupts it. When a guest process closes a file, ``setlk``
        with ``F_UNLCK`` is called for all the process's locks on it, and for those of ``flock`` before ``release``.
        """
        _unsupported()

    async def ioctl(
        self, node: Node, handle: Handle, command: int, argument: bytes, out_size: int, context: Context
    ) -> bytes:
        """Carry out a device control of Linux and return at most ``out_size`` bytes; ENOTTY for unknown ones."""
        raise FuseError(errno.ENOTTY)

    # Directories

    async def opendir(self, node: Node, flags: int, context: Context) -> Opened[Handle]:
        """Open a directory. ENOSYS is fine: then ``readdir`` gets None as its handle."""
        _unsupported()

    async def readdir(self, node: Node, handle: Handle, offset: int, context: Context) -> Iterable[DirEntry]:
        """List the names from ``offset`` on: 0, or the ``offset`` of the last entry the guest has seen.

        The device takes as many entries as fit into the guest's buffer and looks each up itself when the guest
        wants attributes too. ``.`` and ``..`` may be among them or not. Names that exist during the whole
        listing must come exactly once.
        """
        _unsupported()

    async def releasedir(self, node: Node, handle: Handle) -> None:
        """The directory is closed. Called once for each successful ``opendir``."""

    async def fsyncdir(self, node: Node, handle: Handle, datasync: bool, context: Context) -> None:
        """Return when the names of the directory are on stable storage."""
        _unsupported()

    # Extended attributes

    async def getxattr(self, node: Node, name: bytes, context: Context) -> bytes:
        """Return the value of an extended attribute; ENODATA when there is none of that name."""
        _unsupported()

    async def listxattr(self, node: Node, context: Context) -> Sequence[bytes]:
        """Return the names of all extended attributes."""
        _unsupported()

    async def setxattr(self, node: Node, name: bytes, value: bytes, flags: int, context: Context) -> None:
        """Set an extended attribute; ``flags`` may hold ``XATTR_CREATE`` or ``XATTR_REPLACE``."""
        _unsupported()

    async def removexattr(self, node: Node, name: bytes, context: Context) -> None:
        """Remove an extended attribute; ENODATA when there is none of that name."""
        _unsupported()

    # The whole file system

    async def statfs(self, node: Node, context: Context) -> StatFs:
        """Tell size and free space of the file system that holds ``node``."""
        _unsupported()

    async def syncfs(self, node: Node, context: Context) -> None:
        """Return when everything written is on stable storage."""
        _unsupported()

    async def aclose(self) -> None:
        """Free everything; the share is removed. Must also work when called twice."""
