"""New files in a host directory, made for a process of the guest. Whatever fails leaves no name behind."""

import contextlib
import errno
import os
import stat
from collections.abc import Callable
from functools import partial

from hdvkit_virtiofs.fuse.answers import Context
from hdvkit_virtiofs.passthrough.attributes import PERMISSIONS, without_suidgid
from hdvkit_virtiofs.passthrough.descriptors import Descriptors
from hdvkit_virtiofs.passthrough.errors import refusal
from hdvkit_virtiofs.passthrough.inodes import REFERENCE, Inode

_BY_MKNOD = {stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK}

Descriptor = int


def make_directory(parent: Inode, name: bytes, mode: int, context: Context, descriptors: Descriptors) -> Descriptor:
    """Make a directory and return an O_PATH descriptor of it."""
    call = partial(os.mkdir, name, mode & PERMISSIONS, dir_fd=parent.descriptor)
    return _make(call, os.rmdir, parent, name, stat.S_IFDIR | mode, context, descriptors)


def make_link(parent: Inode, name: bytes, target: bytes, context: Context, descriptors: Descriptors) -> Descriptor:
    """Make a symbolic link and return an O_PATH descriptor of it."""
    call = partial(os.symlink, target, name, dir_fd=parent.descriptor)
    return _make(call, os.unlink, parent, name, stat.S_IFLNK | 0o777, context, descriptors)


def make_node(parent: Inode, name: bytes, mode: int, context: Context, descriptors: Descriptors) -> Descriptor:
    """Make a regular file, fifo or socket and return an O_PATH descriptor of it.

    Raises:
        OSError: The kernel's answer; EPERM for device nodes, which would act on the host's devices.
    """
    kind = stat.S_IFMT(mode) or stat.S_IFREG
    if kind not in _BY_MKNOD:
        raise refusal(errno.EPERM)
    mode = kind | mode & PERMISSIONS
    call = partial(os.mknod, name, mode, dir_fd=parent.descriptor)
    return _make(call, os.unlink, parent, name, mode, context, descriptors)


def make_open_file(
    parent: Inode, name: bytes, mode: int, flags: int, context: Context, descriptors: Descriptors
) -> tuple[Descriptor, Descriptor]:
    """Make a regular file and return an O_PATH descriptor of it, and one opened as ``flags`` say.

    Raises:
        OSError: The kernel's answer; EEXIST when the name is taken, whatever stands there.
    """
    descriptors.require(2)
    mode &= PERMISSIONS
    flags |= os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with contextlib.ExitStack() as undo:
        opened = descriptors.open(name, flags, mode, dir_fd=parent.descriptor)
        undo.callback(descriptors.close, opened)
        undo.callback(os.unlink, name, dir_fd=parent.descriptor)
        made = descriptors.reopen(opened, os.O_PATH)
        undo.callback(descriptors.close, made)
        _give_to_caller(made, parent, stat.S_IFREG | mode, context, descriptors)
        undo.pop_all()
    return made, opened


def _make(
    call: Callable[[], None],
    unmake: Callable[..., None],
    parent: Inode,
    name: bytes,
    mode: int,
    context: Context,
    descriptors: Descriptors,
) -> Descriptor:
    descriptors.require(1)
    call()
    with contextlib.ExitStack() as undo:
        undo.callback(unmake, name, dir_fd=parent.descriptor)
        made = descriptors.open(name, REFERENCE, dir_fd=parent.descriptor)
        undo.callback(descriptors.close, made)
        _give_to_caller(made, parent, mode, context, descriptors)
        undo.pop_all()
    return made


def _give_to_caller(made: Descriptor, parent: Inode, mode: int, context: Context, descriptors: Descriptors) -> None:
    """Give a new inode the owner and mode it would have, had the guest's process made it here.

    Owners only where this process is root; otherwise everything stays with the user it runs as.
    """
    status = os.fstat(made)
    if not _is_new(status, mode):
        return
    link = str(made)
    directory = os.fstat(parent.descriptor)
    takes_group = directory.st_mode & stat.S_ISGID
    if os.geteuid() == 0:
        group = -1 if takes_group else context.gid
        os.chown(link, context.uid, group, dir_fd=descriptors.by_number)
    if stat.S_ISLNK(mode):
        return
    wanted = stat.S_IMODE(status.st_mode)
    if stat.S_IMODE(mode) & 0o777 & ~wanted and not _has_default_acl(parent):
        wanted |= mode & 0o777  # our own umask took that, and the guest has applied the caller's already
    foreign_group = takes_group and context.uid != 0 and context.gid != directory.st_gid
    if foreign_group and not stat.S_ISDIR(mode):
        # Root may make setgid files for any group; the guest's process may not.
        wanted = without_suidgid(wanted) | wanted & stat.S_ISUID
    if wanted != stat.S_IMODE(os.fstat(made).st_mode):  # chown takes setuid and setgid
        os.chmod(link, wanted, dir_fd=descriptors.by_number)


def _is_new(status: os.stat_result, mode: int) -> bool:
    """Whether this is what we just made, and not something another process put in its place since.

    One name (a directory counts itself too) and our owner: nothing with a life elsewhere changes hands.
    """
    links = 2 if stat.S_ISDIR(mode) else 1
    is_ours = status.st_uid == os.geteuid() and status.st_nlink <= links
    return is_ours and stat.S_IFMT(status.st_mode) == stat.S_IFMT(mode)


def _has_default_acl(directory: Inode) -> bool:
    """Whether new files get their mode from the directory; the umask plays no part then."""
    try:
        return bool(os.getxattr(f"/proc/self/fd/{directory.descriptor}", "system.posix_acl_default"))
    except OSError:
        return False
