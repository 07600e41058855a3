"""READDIR and READDIRPLUS: one answer's names, in slices between which other requests go on."""

import errno
from collections.abc import Iterable
from typing import Any

from hdvkit_virtiofs.call import Call
from hdvkit_virtiofs.fuse import DirectoryWriter, DirEntry, FuseError, NodeId, is_name, replies
from hdvkit_virtiofs.server import Server

S = Server[Any, Any]

LOOKUPS_PER_TURN = 64
"""So many names of one listing are looked up before other requests go on."""

NAMES_PER_TURN = 256
"""So many names are listed, without a look at them, before other requests go on."""

LISTING_SIZE = 32 * 1024
"""Most bytes of one answer to READDIR, as many as the C libraries of Linux ask for; who has more room asks again."""


async def answer(server: S, call: Call, *, plus: bool) -> bytes:
    """The names from where the guest goes on; with ``plus`` it holds one more reference on each that was found."""
    message = call.message
    file = server.file(message.fh, call.header.nodeid, directory=True)
    writer = DirectoryWriter(min(message.size, call.space, LISTING_SIZE))
    entered: list[NodeId] = []
    with server.nodes.pinned(call.header.nodeid) as node:
        await server.turn()
        entries = await server.operations.readdir(node, file.handle, message.offset, call.context)
        try:
            await _fill(server, call, node, entries, writer, entered if plus else None)
        except BaseException:
            for nodeid in entered:  # the guest will not hear of them
                server.nodes.forget(nodeid, 1)
            raise
    return writer.data


async def _fill(
    server: S,
    call: Call,
    parent: Any,
    entries: Iterable[DirEntry],
    writer: DirectoryWriter,
    entered: list[NodeId] | None,
) -> None:
    """Add names as long as there is room, slice by slice; each is looked up where there is a list for that."""
    per_turn = NAMES_PER_TURN if entered is None else LOOKUPS_PER_TURN
    for number, entry in enumerate(entries):
        if number % per_turn == 0:
            await server.turn()
        if not writer.fits(entry, plus=entered is not None):
            if not writer.data:
                raise FuseError(errno.EINVAL)
            break
        if entered is None:
            writer.add(entry)
        else:
            writer.add_plus(entry, await _entry_of(server, parent, entry, call, entered))


async def _entry_of(server: S, parent: Any, entry: DirEntry, call: Call, entered: list[NodeId]) -> bytes:
    """The entry behind a name in a listing, its number among ``entered``. One that is gone by now has none."""
    if not is_name(entry.name):
        return replies.NO_NODE
    try:
        found = await server.operations.lookup(parent, entry.name, call.context)
        entered.append(server.nodes.enter(found.node))
    except FuseError:
        return replies.NO_NODE
    return server.encode(entered[-1], found)
