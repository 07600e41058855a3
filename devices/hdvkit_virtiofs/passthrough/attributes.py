"""Attributes of host files: how they are told, who may do what, how they change. Knows no names."""

import contextlib
import errno
import os
import stat

from hdvkit_virtiofs.fuse.answers import Attributes, Changes, Context
from hdvkit_virtiofs.passthrough.descriptors import Descriptors
from hdvkit_virtiofs.passthrough.errors import refusal
from hdvkit_virtiofs.passthrough.files import File
from hdvkit_virtiofs.passthrough.inodes import Inode

PERMISSIONS = 0o7777
"""What of a mode ``chmod`` can change."""

QUIET = os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
"""Added to every open for I/O: do not wait for a lease to break, take no terminal, leave nothing to children."""

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


def without_suidgid(mode: int) -> int:
    """``mode`` as a write leaves it: no setuid, and no setgid where the group may execute."""
    mode &= ~stat.S_ISUID
    return mode & ~stat.S_ISGID if mode & stat.S_IXGRP else mode


def change(inode: Inode, changes: Changes, file: File | None, descriptors: Descriptors) -> None:
    """Apply ``changes``, or nothing: a step that fails puts back owner and mode.

    Times come last because truncation moves them, so the data is gone if only the times are refused.

    Raises:
        OSError: The kernel's answer; EOPNOTSUPP for the mode of a link, which Linux does not keep.
    """
    if _NO_ID in (changes.uid, changes.gid) or (changes.size is not None and changes.size < 0):
        raise refusal(errno.EINVAL)
    if inode.is_link and changes.mode is not None:
        raise refusal(errno.EOPNOTSUPP)
    before = os.fstat(inode.descriptor)
    mode = changes.mode
    if changes.kill_suidgid and mode is None and not stat.S_ISDIR(before.st_mode):
        mode = _if_different(without_suidgid(before.st_mode), before.st_mode)
    with contextlib.ExitStack() as cleanup, contextlib.ExitStack() as undo:
        writable = None
        if changes.size is not None:
            writable = _writable(inode, file, descriptors, cleanup)
        if changes.uid is not None or changes.gid is not None or mode is not None:
            undo.callback(_put_back, inode, before, descriptors)
            _set_owner_and_mode(inode, changes.uid, changes.gid, mode, descriptors)
        if writable is not None and changes.size is not None:
            os.ftruncate(writable, changes.size)
        if changes.atime_ns is not None or changes.mtime_ns is not None:
            _set_times(inode, changes, descriptors)
        undo.pop_all()


def _if_different(new: int, old: int) -> int | None:
    return None if new == old else new


def _writable(inode: Inode, file: File | None, descriptors: Descriptors, cleanup: contextlib.ExitStack) -> int:
    """A descriptor to truncate by: the guest's own, or one for this moment."""
    if file is not None:
        cleanup.enter_context(file)
        return file.descriptor
    if inode.type != stat.S_IFREG:
        raise refusal(errno.EISDIR if inode.type == stat.S_IFDIR else errno.EINVAL)
    # Not os.truncate: that waits up to 45 seconds where a host process holds a lease.
    descriptor = descriptors.reopen(inode.descriptor, os.O_WRONLY | QUIET, brief=True)
    cleanup.callback(descriptors.close, descriptor)
    return descriptor


def _set_owner_and_mode(
    inode: Inode, uid: int | None, gid: int | None, mode: int | None, descriptors: Descriptors
) -> None:
    """Owner first: changing it takes setuid and setgid off the mode."""
    link = str(inode.descriptor)
    if uid is not None or gid is not None:
        os.chown(link, -1 if uid is None else uid, -1 if gid is None else gid, dir_fd=descriptors.by_number)
    if mode is not None and not inode.is_link:
        os.chmod(link, mode & PERMISSIONS, dir_fd=descriptors.by_number)


def _put_back(inode: Inode, before: os.stat_result, descriptors: Descriptors) -> None:
    with contextlib.suppress(OSError):  # the guest is told of the error that brought us here
        _set_owner_and_mode(inode, before.st_uid, before.st_gid, before.st_mode, descriptors)


def _set_times(inode: Inode, changes: Changes, descriptors: Descriptors) -> None:
    now = os.fstat(inode.descriptor)
    atime = now.st_atime_ns if changes.atime_ns is None else changes.atime_ns
    mtime = now.st_mtime_ns if changes.mtime_ns is None else changes.mtime_ns
    os.utime(str(inode.descriptor), ns=(atime, mtime), dir_fd=descriptors.by_number)
