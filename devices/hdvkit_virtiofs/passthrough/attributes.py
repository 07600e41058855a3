"""Attributes of host files: how they are told, who may do what, how they change. Knows no names."""

import contextlib
import errno
import os
import stat
from typing import NamedTuple

from hdvkit_virtiofs.fuse.answers import Attributes, Changes, Context
from hdvkit_virtiofs.passthrough.errors import refusal
from hdvkit_virtiofs.passthrough.inodes import Inode

PERMISSIONS = 0o7777
"""What of a mode ``chmod`` can change."""

QUIET = os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
"""Added to every open for I/O: do not wait for a lease to break, take no terminal, leave nothing to children."""

_SUIDGID = stat.S_ISUID | stat.S_ISGID
_NO_ID = 2**32 - 1


def attributes_of(status: os.stat_result) -> Attributes:
    """Put the host's answer into the guest's words."""
    return Attributes(
        ino=status.st_ino,
        mode=status.st_mode,
        size=status.st_size,
        nlink=status.st_nlink,
        uid=status.st_uid,
        gid=status.st_gid,
        rdev=_kernel_device(status.st_rdev) if status.st_rdev else 0,
        blocks=status.st_blocks,
        blksize=status.st_blksize,
        atime_ns=status.st_atime_ns,
        mtime_ns=status.st_mtime_ns,
        ctime_ns=status.st_ctime_ns,
    )


def _kernel_device(device: int) -> int:
    major, minor = os.major(device), os.minor(device)
    return (minor & 0xFF) | (major & 0xFFF) << 8 | (minor & ~0xFF) << 12


def allows(status: os.stat_result, mask: int, context: Context) -> bool:
    """Whether the mode bits let the caller do what ``mask`` says.

    A guest process's further groups are not known here; one that has the right only through them is refused.
    """
    if context.uid == 0:
        runnable = stat.S_ISDIR(status.st_mode) or status.st_mode & 0o111
        return bool(runnable) or not mask & os.X_OK
    if context.uid == status.st_uid:
        granted = status.st_mode >> 6
    elif context.gid == status.st_gid:
        granted = status.st_mode >> 3
    else:
        granted = status.st_mode
    return not mask & ~granted & 0o7


def require_possible(inode: Inode, changes: Changes) -> None:
    """See that ``changes`` mean something.

    Raises:
        OSError: EINVAL, they do not; EISDIR for the size of a directory, EOPNOTSUPP for the mode of a link, which Linux
            does not keep.
    """
    if _NO_ID in (changes.uid, changes.gid) or (changes.size is not None and changes.size < 0):
        raise refusal(errno.EINVAL)
    if inode.is_link and changes.mode is not None:
        raise refusal(errno.EOPNOTSUPP)
    if changes.size is not None and inode.type != stat.S_IFREG:
        raise refusal(errno.EISDIR if inode.type == stat.S_IFDIR else errno.EINVAL)


def change(descriptor: int, changes: Changes, by_number: int) -> os.stat_result:
    """Apply ``changes``, or nothing: a step that fails puts back owner and mode. What then is, is returned.

    ``descriptor`` must be open to write where the size changes, else any will do; ``by_number`` is the directory of the
    process's descriptors. Waits for whoever holds the lock of the inode, and for all blocks that truncation frees.

    A new owner or group takes setuid, and setgid from what the group may execute, as ``chown(2)`` says; a mode that
    comes with it is kept as it was asked for. Times come last because truncation moves them, so the data is gone if
    only the times are refused.

    Raises:
        OSError: The kernel's answer.
    """
    link = _Link(descriptor, by_number)
    before = os.fstat(descriptor)
    owned = changes.uid is not None or changes.gid is not None
    killed = changes.kill_suidgid and changes.mode is None and not owned and bool(before.st_mode & _SUIDGID)
    with contextlib.ExitStack() as undo:
        if owned or killed or changes.mode is not None:
            undo.callback(_put_back, link, before)
        if killed:
            _kill_suidgid(link)
        _set_owner_and_mode(link, changes.uid, changes.gid, changes.mode)
        if changes.size is not None:
            os.ftruncate(descriptor, changes.size)
        if changes.atime_ns is not None or changes.mtime_ns is not None:
            _set_times(link, changes)
        undo.pop_all()
    return os.fstat(descriptor)


class _Link(NamedTuple):
    """Leads to the inode behind a descriptor, for calls that refuse O_PATH descriptors."""

    descriptor: int
    by_number: int

    @property
    def name(self) -> str:
        return str(self.descriptor)


def _kill_suidgid(link: _Link) -> None:
    """Take away what a write takes: any chown does, in one step, so a mode somebody sets meanwhile is not lost."""
    # Refused to who is not the owner; such a process has no CAP_FSETID either, and the write itself takes the bits.
    with contextlib.suppress(PermissionError):
        os.chown(link.name, -1, -1, dir_fd=link.by_number)


def _set_owner_and_mode(link: _Link, uid: int | None, gid: int | None, mode: int | None) -> None:
    """Owner first: changing it takes setuid and setgid off the mode."""
    if uid is not None or gid is not None:
        os.chown(link.name, -1 if uid is None else uid, -1 if gid is None else gid, dir_fd=link.by_number)
    if mode is not None:
        os.chmod(link.name, mode & PERMISSIONS, dir_fd=link.by_number)


def _put_back(link: _Link, before: os.stat_result) -> None:
    mode = None if stat.S_ISLNK(before.st_mode) else before.st_mode
    with contextlib.suppress(OSError):  # the guest is told of the error that brought us here
        _set_owner_and_mode(link, before.st_uid, before.st_gid, mode)


def _set_times(link: _Link, changes: Changes) -> None:
    now = os.fstat(link.descriptor)
    atime = now.st_atime_ns if changes.atime_ns is None else changes.atime_ns
    mtime = now.st_mtime_ns if changes.mtime_ns is None else changes.mtime_ns
    os.utime(link.name, ns=(atime, mtime), dir_fd=link.by_number)
