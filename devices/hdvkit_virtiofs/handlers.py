"""One handler for each operation: from message to file system to payload. A table at the end says which is which.

A handler runs with its node pinned: the guest may forget it meanwhile, the file system keeps it.
"""

import errno
import time
from typing import Any, Final

from hdvkit_virtiofs.fuse import DirectoryWriter, DirEntry, FuseError, is_name, replies
from hdvkit_virtiofs.fuse.spec import Opcode
from hdvkit_virtiofs.server import Call, Handler, Server

S = Server[Any, Any]
"""Handlers serve any file system; what its nodes and handles are is none of their business."""


# The session


async def init(server: S, call: Call) -> bytes:
    """INIT."""
    return server.session.init(call.message)


async def destroy(server: S, call: Call) -> bytes:
    """DESTROY: the guest unmounted, and may mount again."""
    await server.forget_all()
    server.session.destroy()
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
    return replies.statx(answer, server.times.attr)


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


# Open files


async def open_(server: S, call: Call) -> bytes:
    """OPEN."""
    return await _open(server, call, directory=False)


async def opendir(server: S, call: Call) -> bytes:
    """OPENDIR."""
    return await _open(server, call, directory=True)


async def _open(server: S, call: Call, *, directory: bool) -> bytes:
    server.check_room()
    flags = call.message.flags
    begin = server.operations.opendir if directory else server.operations.open
    with server.nodes.pinned(call.header.nodeid) as node:
        opened = await begin(node, flags, call.context)
        fh = server.opened(call.header.nodeid, opened.handle, flags, directory=directory)
    return replies.open_(fh, opened.flags | (0 if directory else server.times.open_flags))


async def create(server: S, call: Call) -> bytes:
    """CREATE."""
    server.check_room()
    message = call.message
    with server.nodes.pinned(call.header.nodeid) as parent:
        entry, opened = await server.operations.create(parent, message.name, message.mode, message.flags, call.context)
        nodeid = server.nodes.enter(entry.node)
        fh = server.opened(nodeid, opened.handle, message.flags)
    return replies.create(server.encode(nodeid, entry), fh, opened.flags | server.times.open_flags)


async def read(server: S, call: Call) -> bytes:
    """READ: straight into the guest's pages, never more than it has room for."""
    message = call.message
    file = server.file(message.fh, call.header.nodeid)
    if not file.readable:
        raise FuseError(errno.EBADF)
    with server.nodes.pinned(call.header.nodeid) as node:
        views = call.channel.room(replies.HEADER_SIZE, message.size)
        call.filled = await server.operations.read_into(node, file.handle, message.offset, views, call.context)
    return b""


async def write(server: S, call: Call) -> bytes:
    """WRITE: straight from the guest's pages."""
    message = call.message
    file = server.file(message.fh, call.header.nodeid)
    if not file.writable:
        raise FuseError(errno.EBADF)
    if message.size > server.session.max_write:
        raise FuseError(errno.EINVAL)
    with server.nodes.pinned(call.header.nodeid) as node:
        views = call.channel.unread()
        done = await server.operations.write_from(node, file.handle, message.offset, views, call.context)
    return replies.write(done)


async def flush(server: S, call: Call) -> bytes:
    """FLUSH."""
    file = server.file(call.message.fh, call.header.nodeid)
    with server.nodes.pinned(call.header.nodeid) as node:
        await server.operations.flush(node, file.handle, call.context)
    return b""


async def fsync(server: S, call: Call) -> bytes:
    """FSYNC."""
    file = server.file(call.message.fh, call.header.nodeid)
    with server.nodes.pinned(call.header.nodeid) as node:
        await server.operations.fsync(node, file.handle, call.message.datasync, call.context)
    return b""


async def fallocate(server: S, call: Call) -> bytes:
    """FALLOCATE."""
    message = call.message
    file = server.file(message.fh, call.header.nodeid)
    if not file.writable:
        raise FuseError(errno.EBADF)
    with server.nodes.pinned(call.header.nodeid) as node:
        await server.operations.fallocate(node, file.handle, message.mode, message.offset, message.length, call.context)
    return b""


async def lseek(server: S, call: Call) -> bytes:
    """LSEEK."""
    message = call.message
    file = server.file(message.fh, call.header.nodeid)
    with server.nodes.pinned(call.header.nodeid) as node:
        return replies.lseek(
            await server.operations.lseek(node, file.handle, message.offset, message.whence, call.context)
        )


async def copy_file_range(server: S, call: Call) -> bytes:
    """COPY_FILE_RANGE and COPY_FILE_RANGE_64."""
    message = call.message
    source, target = server.file(message.fh, call.header.nodeid), server.file(message.to_fh, message.to_node)
    if not source.readable or not target.writable:
        raise FuseError(errno.EBADF)
    with (
        server.nodes.pinned(call.header.nodeid) as node,
        server.nodes.pinned(message.to_node) as to_node,
    ):
        done = await server.operations.copy_file_range(
            (node, source.handle, message.offset),
            (to_node, target.handle, message.to_offset),
            message.length,
            message.flags,
            call.context,
        )
    return replies.copied(done) if call.header.opcode == Opcode.COPY_FILE_RANGE_64 else replies.write(done)


async def release(server: S, call: Call) -> bytes:
    """RELEASE."""
    await server.close(call.message.fh, call)
    return b""


# Directories


async def readdir(server: S, call: Call) -> bytes:
    """READDIR."""
    return await _list(server, call, plus=False)


async def readdirplus(server: S, call: Call) -> bytes:
    """READDIRPLUS: each name that fits is looked up, and is one more reference of the guest."""
    return await _list(server, call, plus=True)


async def _list(server: S, call: Call, *, plus: bool) -> bytes:
    message = call.message
    file = server.file(message.fh, call.header.nodeid, directory=True)
    writer = DirectoryWriter(min(message.size, call.space))
    with server.nodes.pinned(call.header.nodeid) as node:
        for entry in await server.operations.readdir(node, file.handle, message.offset, call.context):
            if not writer.fits(entry, plus):
                if not writer.data:
                    raise FuseError(errno.EINVAL)
                break
            if plus:
                writer.add_plus(entry, await _entry_of(server, node, entry, call))
            else:
                writer.add(entry)
    return writer.data


async def _entry_of(server: S, parent: Any, entry: DirEntry, call: Call) -> bytes:
    """The entry behind a name in a listing. One that is gone by now is listed without."""
    if not is_name(entry.name):
        return replies.NO_NODE
    try:
        return server.entry(await server.operations.lookup(parent, entry.name, call.context))
    except FuseError:
        return replies.NO_NODE


async def fsyncdir(server: S, call: Call) -> bytes:
    """FSYNCDIR."""
    file = server.file(call.message.fh, call.header.nodeid, directory=True)
    with server.nodes.pinned(call.header.nodeid) as node:
        await server.operations.fsyncdir(node, file.handle, call.message.datasync, call.context)
    return b""


async def releasedir(server: S, call: Call) -> bytes:
    """RELEASEDIR."""
    await server.close(call.message.fh, call, directory=True)
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


HANDLERS: Final[dict[int, Handler]] = {
    Opcode.INIT: init,
    Opcode.DESTROY: destroy,
    Opcode.LOOKUP: lookup,
    Opcode.GETATTR: getattr_,
    Opcode.SETATTR: setattr_,
    Opcode.STATX: statx,
    Opcode.ACCESS: access,
    Opcode.READLINK: readlink,
    Opcode.MKNOD: mknod,
    Opcode.MKDIR: mkdir,
    Opcode.SYMLINK: symlink,
    Opcode.LINK: link,
    Opcode.UNLINK: unlink,
    Opcode.RMDIR: rmdir,
    Opcode.RENAME: rename,
    Opcode.RENAME2: rename,
    Opcode.OPEN: open_,
    Opcode.CREATE: create,
    Opcode.READ: read,
    Opcode.WRITE: write,
    Opcode.FLUSH: flush,
    Opcode.FSYNC: fsync,
    Opcode.FALLOCATE: fallocate,
    Opcode.LSEEK: lseek,
    Opcode.COPY_FILE_RANGE: copy_file_range,
    Opcode.COPY_FILE_RANGE_64: copy_file_range,
    Opcode.RELEASE: release,
    Opcode.OPENDIR: opendir,
    Opcode.READDIR: readdir,
    Opcode.READDIRPLUS: readdirplus,
    Opcode.FSYNCDIR: fsyncdir,
    Opcode.RELEASEDIR: releasedir,
    Opcode.GETXATTR: getxattr,
    Opcode.LISTXATTR: listxattr,
    Opcode.SETXATTR: setxattr,
    Opcode.REMOVEXATTR: removexattr,
    Opcode.STATFS: statfs,
    Opcode.SYNCFS: syncfs,
}
"""Which handler an operation has. Those without one are ENOSYS; FORGET, BATCH_FORGET and INTERRUPT never wait."""
