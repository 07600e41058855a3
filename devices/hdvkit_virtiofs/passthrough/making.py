"""New files in a host directory, made by the guest's caller. Whatever fails leaves no name behind."""

import contextlib
import errno
import os
import stat
from collections.abc import Callable
from functools import partial

import attrs

from hdvkit_virtiofs.fuse.answers import Context
from hdvkit_virtiofs.passthrough.attributes import PERMISSIONS
from hdvkit_virtiofs.passthrough.credentials import Credentials
from hdvkit_virtiofs.passthrough.descriptors import Descriptors
from hdvkit_virtiofs.passthrough.errors import refusal
from hdvkit_virtiofs.passthrough.inodes import REFERENCE, Inode

_BY_MKNOD = {stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK}
_WHITEOUT = (stat.S_IFCHR, 0)

_NO_TMPFILE = {errno.EISDIR, errno.EOPNOTSUPP}
"""How a kernel and a file system that do not know O_TMPFILE refuse it."""

_MASKED = 0o777
"""What of a mode a umask can take away."""

Descriptor = int


@attrs.frozen
class Maker:
    """Makes what callers ask for. What is made belongs to them and has the mode the kernel gives them.

    With ``posix_acl`` the guest leaves the caller's umask to us; without, its kernel has taken it off the mode. Our
    own umask plays no part.
    """

    _descriptors: Descriptors
    _credentials: Credentials
    _posix_acl: bool = False

    def directory(self, parent: Inode, name: bytes, mode: int, context: Context) -> Descriptor:
        """Make a directory and return an O_PATH descriptor of it."""
        mode = stat.S_IFDIR | self._without_umask(mode, parent, context)
        call = partial(os.mkdir, name, mode & PERMISSIONS, dir_fd=parent.descriptor)
        return self._make(call, os.rmdir, parent, name, mode, context)

    def link(self, parent: Inode, name: bytes, target: bytes, context: Context) -> Descriptor:
        """Make a symbolic link and return an O_PATH descriptor of it."""
        call = partial(os.symlink, target, name, dir_fd=parent.descriptor)
        return self._make(call, os.unlink, parent, name, stat.S_IFLNK, context)

    def node(self, parent: Inode, name: bytes, mode: int, rdev: int, context: Context) -> Descriptor:
        """Make a regular file, fifo, socket or whiteout and return an O_PATH descriptor of it.

        A whiteout is the character device 0:0, which there is no driver for: overlayfs means by it that a name is gone.

        Raises:
            OSError: The kernel's answer; EPERM for all other device nodes, which would act on the host's devices.
        """
        kind = stat.S_IFMT(mode) or stat.S_IFREG
        if kind not in _BY_MKNOD and (kind, rdev) != _WHITEOUT:
            raise refusal(errno.EPERM)
        mode = kind | self._without_umask(mode, parent, context)
        call = partial(os.mknod, name, mode, dir_fd=parent.descriptor)
        return self._make(call, os.unlink, parent, name, mode, context)

    def open_file(
        self, parent: Inode, name: bytes, mode: int, flags: int, context: Context
    ) -> tuple[Descriptor, Descriptor]:
        """Make a regular file and return an O_PATH descriptor of it, and one opened as ``flags`` say.

        Raises:
            OSError: The kernel's answer; EEXIST when the name is taken, whatever stands there.
        """
        unmake = partial(os.unlink, name, dir_fd=parent.descriptor)
        return self._make_open(parent, name, mode, flags | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, context, unmake)

    def nameless_file(self, parent: Inode, mode: int, flags: int, context: Context) -> tuple[Descriptor, Descriptor]:
        """Make a file without a name, and return descriptors as ``open_file``. O_EXCL: it never gets one.

        Raises:
            OSError: The kernel's answer; EOPNOTSUPP where the host cannot.
        """
        try:
            return self._make_open(parent, b".", mode, flags | os.O_TMPFILE, context, lambda: None)
        except OSError as error:
            if error.errno in _NO_TMPFILE:
                raise refusal(errno.EOPNOTSUPP) from error
            raise

    def _make(
        self,
        call: Callable[[], None],
        unmake: Callable[..., None],
        parent: Inode,
        name: bytes,
        mode: int,
        context: Context,
    ) -> Descriptor:
        self._descriptors.require(1)
        with self._credentials.as_caller(context):
            call()
        with contextlib.ExitStack() as undo:
            undo.callback(unmake, name, dir_fd=parent.descriptor)
            made = self._descriptors.open(name, REFERENCE, dir_fd=parent.descriptor)
            undo.callback(self._descriptors.close, made)
            self._finish(made, parent, mode, context)
            undo.pop_all()
        return made

    def _make_open(
        self, parent: Inode, name: bytes, mode: int, flags: int, context: Context, unmake: Callable[[], None]
    ) -> tuple[Descriptor, Descriptor]:
        self._descriptors.require(2)
        mode = self._without_umask(mode, parent, context)
        directory = parent.descriptor  # may have to be opened again, which is nothing for the caller to do
        with self._credentials.as_caller(context):
            opened = self._descriptors.open(name, flags, mode, dir_fd=directory)
        with contextlib.ExitStack() as undo:
            undo.callback(self._descriptors.close, opened)
            undo.callback(unmake)
            made = self._descriptors.reopen(opened, os.O_PATH)
            undo.callback(self._descriptors.close, made)
            self._finish(made, parent, stat.S_IFREG | mode, context)
            undo.pop_all()
        return made, opened

    def _without_umask(self, mode: int, parent: Inode, context: Context) -> int:
        """The permissions a caller asked for, less its umask where that was left to us and counts."""
        taken = mode & context.umask & _MASKED
        if self._posix_acl and taken and not _has_default_acl(parent):
            mode &= ~taken
        return mode & PERMISSIONS

    def _finish(self, made: Descriptor, parent: Inode, mode: int, context: Context) -> None:
        """What a new inode gets that making it could not give: bits our umask took, and security labels."""
        status = os.fstat(made)
        if not self._is_new(status, mode, context):
            return
        missing = mode & _MASKED & ~status.st_mode
        if missing and not _has_default_acl(parent):
            # A file system without modes refuses, as nobody would have heard on the host.
            with contextlib.suppress(PermissionError):
                bits = stat.S_IMODE(status.st_mode) | missing
                os.chmod(str(made), bits, dir_fd=self._descriptors.by_number)
        for name, value in context.security:
            os.setxattr(_path(made), name, value)

    def _is_new(self, status: os.stat_result, mode: int, context: Context) -> bool:
        """Whether this is what we just made, and not something another process put in its place since.

        No other name (a directory counts itself too) and the caller's: nothing with a life elsewhere is changed.
        """
        links = 2 if stat.S_ISDIR(mode) else 1
        is_callers = status.st_uid == self._credentials.owner(context) and status.st_nlink <= links
        return is_callers and stat.S_IFMT(status.st_mode) == stat.S_IFMT(mode)


def _path(descriptor: Descriptor) -> str:
    """Leads to the inode and no further, also where that is a link; for calls that refuse O_PATH descriptors."""
    return f"/proc/self/fd/{descriptor}"


def _has_default_acl(directory: Inode) -> bool:
    """Whether new files get their mode from the directory; no umask plays a part then."""
    try:
        return bool(os.getxattr(_path(directory.descriptor), "system.posix_acl_default"))
    except OSError:
        return False
