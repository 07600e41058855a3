"""Handlers of what needs no open file: the session, nodes, names, extended attributes, the file system itself.

Each goes from message to file system to payload with its node pinned: the guest may forget it meanwhile, the file
system keeps it.
"""

import errno
import stat
import time
from typing import Any

from hdvkit_virtiofs.call import Call
from hdvkit_virtiofs.fuse import Changes, FuseError, InitFlag, replies
from hdvkit_virtiofs.fuse.answers import KILL_SUIDGID
from hdvkit_virtiofs.fuse.spec import SETXATTR_ACL_KILL_SGID
from hdvkit_virtiofs.server import Server

NOTHING = Changes()

S = Server[Any, Any]
"""Handlers serve any file system; what its nodes and handles are is none of their business."""

# The session


async def init(server: S, call: Call) -> bytes:
    """INIT."""
    reply = server.session.init(call.message)
    server.agreed()
    return reply


async def destroy(server: S, call: Call) -> bytes:
    """DESTROY: the guest unmounted, and may mount again."""
    server.session.destroy()  # first: what comes while files and nodes go is refused
    server.agreed()
    await server.forget_all()
    return b""


async def batch_forget(server: S, call: Call) -> bytes:
    """BATCH_FORGET; nobody waits for an answer."""
    await server.forget(call.message.forgets)
    return b""


# Nodes


async def lookup(server: S, call: Call) -> bytes:
    """LOOKUP."""
    with server.nodes.pinned(call.header.nodeid) as parent:
        return server.entry(await server.operations.lookup(parent, call.message.name, call.context))


async def getattr_(server: S, call: Call) -> bytes:
    """GETATTR."""
    with server.nodes.pinned(call.header.nodeid) as node:
        return server.attr(await server.operations.getattr(node, _handle(server, call), call.context))


async def setattr_(server: S, call: Call) -> bytes:
    """SETATTR; a size needs a file that is open for writing when it comes with one."""
    changes = call.message.changes(time.time_ns())
    with server.nodes.pinned(call.header.nodeid) as node:
        if changes == NOTHING and InitFlag.HANDLE_KILLPRIV_V2 in server.session.flags:
            # What is left of chown(-1, -1) on its way, and of a write by who must not keep the bits. They cannot be
            # told apart, so both take them.
            changes = KILL_SUIDGID
        if (
            call.message.fh is not None
            and changes.size is not None
            and not server.file(call.message.fh, call.header.nodeid).writable
        ):
            raise FuseError(errno.EBADF)
        return server.attr(await server.operations.setattr(node, changes, _handle(server, call), call.context))


async def statx(server: S, call: Call) -> bytes:
    """STATX."""
    with server.nodes.pinned(call.header.nodeid) as node:
        answer = await server.operations.statx(node, _handle(server, call), call.context)
    timeout = answer.attributes.timeout
    return replies.statx(answer, server.times.attr if timeout is None else timeout)


async def access(server: S, call: Call) -> bytes:
    """ACCESS."""
    with server.nodes.pinned(call.header.nodeid) as node:
        await server.operations.access(node, call.message.mask, call.context)
    return b""


async def readlink(server: S, call: Call) -> bytes:
    """READLINK."""
    with server.nodes.pinned(call.header.nodeid) as node:
        return (await server.operations.readlink(node, call.context))[: call.space]


def _handle(server: S, call: Call) -> Any:
    fh = call.message.fh
    return None if fh is None else server.file(fh, call.header.nodeid, directory=None).handle


# Names


async def mknod(server: S, call: Call) -> bytes:
    """MKNOD."""
    message = call.message
    with server.nodes.pinned(call.header.nodeid) as parent:
        return server.entry(
            await server.operations.mknod(parent, message.name, message.mode, message.rdev, call.context)
        )


async def mkdir(server: S, call: Call) -> bytes:
    """MKDIR."""
    with server.nodes.pinned(call.header.nodeid) as parent:
        return server.entry(await server.operations.mkdir(parent, call.message.name, call.message.mode, call.context))


async def symlink(server: S, call: Call) -> bytes:
    """SYMLINK."""
    with server.nodes.pinned(call.header.nodeid) as parent:
        return server.entry(
            await server.operations.symlink(parent, call.message.name, call.message.target, call.context)
        )


async def link(server: S, call: Call) -> bytes:
    """LINK."""
    message = call.message
    with server.nodes.pinned(call.header.nodeid) as parent, server.nodes.pinned(message.old_node) as node:
        return server.entry(await server.operations.link(node, parent, message.name, call.context))


async def unlink(server: S, call: Call) -> bytes:
    """UNLINK."""
    with server.nodes.pinned(call.header.nodeid) as parent:
        await server.operations.unlink(parent, call.message.name, call.context)
    return b""


async def rmdir(server: S, call: Call) -> bytes:
    """RMDIR."""
    with server.nodes.pinned(call.header.nodeid) as parent:
        await server.operations.rmdir(parent, call.message.name, call.context)
    return b""


async def rename(server: S, call: Call) -> bytes:
    """RENAME and RENAME2."""
    message = call.message
    with (
        server.nodes.pinned(call.header.nodeid) as old,
        server.nodes.pinned(message.new_directory) as new,
    ):
        await server.operations.rename(old, message.name, new, message.new_name, message.flags, call.context)
    return b""


# Extended attributes


async def getxattr(server: S, call: Call) -> bytes:
    """GETXATTR."""
    with server.nodes.pinned(call.header.nodeid) as node:
        value = await server.operations.getxattr(node, call.message.name, call.context)
    return _sized(value, call)


async def listxattr(server: S, call: Call) -> bytes:
    """LISTXATTR."""
    with server.nodes.pinned(call.header.nodeid) as node:
        names = await server.operations.listxattr(node, call.context)
    return _sized(replies.xattr_names(names), call)


async def setxattr(server: S, call: Call) -> bytes:
    """SETXATTR."""
    message = call.message
    with server.nodes.pinned(call.header.nodeid) as node:
        await server.operations.setxattr(node, message.name, message.value, message.flags, call.context)
        if message.setxattr_flags & SETXATTR_ACL_KILL_SGID:
            mode = (await server.operations.getattr(node, None, call.context)).mode
            await server.operations.setattr(node, Changes(mode=stat.S_IMODE(mode) & ~stat.S_ISGID), None, call.context)
    return b""


async def removexattr(server: S, call: Call) -> bytes:
    """REMOVEXATTR."""
    with server.nodes.pinned(call.header.nodeid) as node:
        await server.operations.removexattr(node, call.message.name, call.context)
    return b""


def _sized(value: bytes, call: Call) -> bytes:
    """Size 0 asks how long the value is; a size that is too small is ERANGE."""
    if not call.message.size:
        return replies.xattr_size(len(value))
    if len(value) > call.message.size:
        raise FuseError(errno.ERANGE)
    return value


# The whole file system


async def statfs(server: S, call: Call) -> bytes:
    """STATFS."""
    with server.nodes.pinned(call.header.nodeid) as node:
        return replies.statfs(await server.operations.statfs(node, call.context))


async def syncfs(server: S, call: Call) -> bytes:
    """SYNCFS."""
    with server.nodes.pinned(call.header.nodeid) as node:
        await server.operations.syncfs(node, call.context)
    return b""
