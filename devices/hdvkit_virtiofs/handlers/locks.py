"""Handlers of locks, and what closing a file means to them."""

import errno
from typing import Any

from hdvkit_virtiofs.call import Call
from hdvkit_virtiofs.fuse import FileLock, FuseError, InitFlag, replies
from hdvkit_virtiofs.fuse.spec import F_UNLCK, LK_FLOCK, Opcode
from hdvkit_virtiofs.server import Server

S = Server[Any, Any]


async def getlk(server: S, call: Call) -> bytes:
    """GETLK."""
    lock = _wanted(call)
    file = server.file(call.message.fh, call.header.nodeid, directory=None)
    with server.nodes.pinned(call.header.nodeid) as node:
        other = await server.operations.getlk(node, file.handle, lock, call.context)
    return replies.lock(*((lock.start, lock.end, F_UNLCK, 0) if other is None else _told(other)))


async def setlk(server: S, call: Call) -> bytes:
    """SETLK and SETLKW."""
    file = server.file(call.message.fh, call.header.nodeid, directory=None)
    wait = call.header.opcode == Opcode.SETLKW
    with server.nodes.pinned(call.header.nodeid) as node:
        await server.operations.setlk(node, file.handle, _wanted(call), wait, call.context)
    return b""


async def closed(server: S, call: Call, handle: Any, *, flock: bool = False) -> None:
    """A guest process closed one of its descriptors: POSIX says that all its locks on the file are gone.

    With ``flock`` the last descriptor of an open file is closed, which had locks of that sort.
    """
    if (InitFlag.FLOCK_LOCKS if flock else InitFlag.POSIX_LOCKS) not in server.session.flags:
        return
    all_of_them = FileLock(call.message.lock_owner, F_UNLCK, flock=flock)
    with server.nodes.pinned(call.header.nodeid) as node:
        try:
            await server.operations.setlk(node, handle, all_of_them, False, call.context)
        except FuseError as error:
            if error.errno != errno.ENOSYS:
                raise


def _wanted(call: Call) -> FileLock:
    message = call.message
    return FileLock(
        message.owner, message.type, message.start, message.end, message.pid, bool(message.lock_flags & LK_FLOCK)
    )


def _told(lock: FileLock) -> tuple[int, int, int, int]:
    return lock.start, lock.end, lock.type, lock.pid
