"""Handlers of what lives from open to release: files, directories and their contents."""

import errno
from typing import Any

from hdvkit_virtiofs.call import Call
from hdvkit_virtiofs.fuse import (
    Entry,
    FuseError,
    InitFlag,
    Opened,
    replies,
)
from hdvkit_virtiofs.fuse.answers import KILL_SUIDGID
from hdvkit_virtiofs.fuse.messages import Write
from hdvkit_virtiofs.fuse.spec import (
    IOCTL_32BIT,
    IOCTL_COMPAT,
    IOCTL_DIR,
    IOCTL_UNRESTRICTED,
    O_APPEND,
    OPEN_KILL_SUIDGID,
    RELEASE_FLOCK_UNLOCK,
    WRITE_CACHE,
    WRITE_KILL_SUIDGID,
    Opcode,
)
from hdvkit_virtiofs.handlers import listings, locks
from hdvkit_virtiofs.server import Server

S = Server[Any, Any]

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
        if call.message.open_flags & OPEN_KILL_SUIDGID and not directory:
            await server.operations.setattr(node, KILL_SUIDGID, None, call.context)
        opened = await begin(node, flags, call.context)
        try:
            fh = server.opened(call.header.nodeid, opened.handle, flags, directory=directory)
        except FuseError:  # the guest unmounted meanwhile
            await (server.operations.releasedir if directory else server.operations.release)(node, opened.handle)
            raise
    return replies.open_(fh, opened.flags | (0 if directory else server.times.open_flags))


async def create(server: S, call: Call) -> bytes:
    """CREATE."""
    server.check_room()
    message = call.message
    with server.nodes.pinned(call.header.nodeid) as parent:
        made = await server.operations.create(parent, message.name, message.mode, message.flags, call.context)
    return await _made(server, message.flags, *made)


async def tmpfile(server: S, call: Call) -> bytes:
    """TMPFILE."""
    server.check_room()
    message = call.message
    with server.nodes.pinned(call.header.nodeid) as parent:
        made = await server.operations.tmpfile(parent, message.mode, message.flags, call.context)
    return await _made(server, message.flags, *made)


async def _made(server: S, flags: int, entry: Entry[Any], opened: Opened[Any]) -> bytes:
    try:
        nodeid = server.nodes.enter(entry.node)
        fh = server.opened(nodeid, opened.handle, flags)
    except FuseError:
        await server.operations.release(entry.node, opened.handle)
        raise
    return replies.create(server.encode(nodeid, entry), fh, opened.flags | server.times.open_flags)


async def ioctl(server: S, call: Call) -> bytes:
    """IOCTL: those whose arguments the guest's kernel copies by itself."""
    message = call.message
    if message.flags & (IOCTL_COMPAT | IOCTL_UNRESTRICTED | IOCTL_32BIT):
        raise FuseError(errno.ENOTTY)
    file = server.file(message.fh, call.header.nodeid, directory=bool(message.flags & IOCTL_DIR))
    with server.nodes.pinned(call.header.nodeid) as node:
        out = await server.operations.ioctl(
            node, file.handle, message.command, message.data, message.out_size, call.context
        )
    return replies.ioctl(out[: message.out_size])


async def read(server: S, call: Call) -> bytes:
    """READ: straight into the guest's pages, never more than it has room for."""
    message = call.message
    file = server.file(message.fh, call.header.nodeid)
    # A guest that collects writes reads what surrounds a part of a page, by whatever file it has open.
    if not file.readable and InitFlag.WRITEBACK_CACHE not in server.session.flags:
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
        if message.write_flags & WRITE_KILL_SUIDGID:
            await server.operations.setattr(node, KILL_SUIDGID, file.handle, call.context)
        views = call.channel.unread()
        context = call.context._replace(in_place=True) if _is_in_place(server, message, file.flags) else call.context
        done = await server.operations.write_from(node, file.handle, message.offset, views, context)
    return replies.write(done)


def _is_in_place(server: S, message: Write, opened: int) -> bool:
    """Whether a write goes to its offset although its file was opened to append."""
    if not opened & O_APPEND:
        return False
    # A guest that collects writes has appended them by itself, to the end that it alone knows.
    collected = message.write_flags & WRITE_CACHE or InitFlag.WRITEBACK_CACHE in server.session.flags
    return bool(collected or not message.flags & O_APPEND)


async def flush(server: S, call: Call) -> bytes:
    """FLUSH."""
    file = server.file(call.message.fh, call.header.nodeid)
    await locks.closed(server, call, file.handle)
    with server.nodes.pinned(call.header.nodeid) as node:
        try:
            await server.operations.flush(node, file.handle, call.context)
        except FuseError as error:
            # After ENOSYS the guest says no more when a file is closed, and locks would stay.
            if error.errno != errno.ENOSYS or InitFlag.POSIX_LOCKS not in server.session.flags:
                raise
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
        await _kill_suidgid(server, node, file.handle, call)
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
        await _kill_suidgid(server, to_node, target.handle, call)
        done = await server.operations.copy_file_range(
            (node, source.handle, message.offset),
            (to_node, target.handle, message.to_offset),
            message.length,
            message.flags,
            call.context,
        )
    return replies.copied(done) if call.header.opcode == Opcode.COPY_FILE_RANGE_64 else replies.write(done)


async def _kill_suidgid(server: S, node: Any, handle: Any, call: Call) -> None:
    """What WRITE has a flag for and these requests do not: who changes data and is not root takes both bits."""
    if call.context.uid and InitFlag.HANDLE_KILLPRIV_V2 in server.session.flags:
        await server.operations.setattr(node, KILL_SUIDGID, handle, call.context)


async def release(server: S, call: Call) -> bytes:
    """RELEASE."""
    message = call.message
    try:
        if message.release_flags & RELEASE_FLOCK_UNLOCK:
            await locks.closed(server, call, server.file(message.fh, call.header.nodeid).handle, flock=True)
    finally:
        await server.close(message.fh, call)
    return b""


# Directories


async def readdir(server: S, call: Call) -> bytes:
    """READDIR."""
    return await listings.answer(server, call, plus=False)


async def readdirplus(server: S, call: Call) -> bytes:
    """READDIRPLUS: each name that fits is looked up, and is one more reference of the guest."""
    return await listings.answer(server, call, plus=True)


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
