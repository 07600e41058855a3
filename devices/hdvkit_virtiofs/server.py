"""One guest's session with one file system: each request decoded, checked, handed to its handler, answered.

Knows FUSE and file systems, nothing of rings; a request comes over a :class:`.call.Channel`.
"""

import asyncio
import errno
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Generic

import attrs

from hdvkit_virtiofs import fuse
from hdvkit_virtiofs.call import Call, Channel
from hdvkit_virtiofs.fuse import Entry, FuseError, InHeader, NodeId, Request, Session, extensions, replies
from hdvkit_virtiofs.fuse.answers import Attributes, Handle, Node
from hdvkit_virtiofs.fuse.extensions import Extensions
from hdvkit_virtiofs.fuse.messages import Forget, ForgetOne, Interrupt
from hdvkit_virtiofs.fuse.spec import ATTR_SUBMOUNT, O_RDWR, Opcode
from hdvkit_virtiofs.handles import HandleTable, OpenFile
from hdvkit_virtiofs.nodes import NodeTable
from hdvkit_virtiofs.operations import Operations
from hdvkit_virtiofs.policy import Policy, innermost
from hdvkit_virtiofs.seldom import Seldom
from hdvkit_virtiofs.watch import Watch

log = logging.getLogger("hdvkit.virtiofs")

OUT_HEADER_SIZE = replies.HEADER_SIZE
FORGETS_AT_ONCE = 256
"""So many nodes are forgotten before other requests go on; Linux sends fewer at a time."""
RELEASES_AT_ONCE = 64
"""So many files of a guest that is gone are closed before other guests go on."""


@attrs.frozen
class Times:
    """Seconds the guest may rely on what it was told, and what it is told of data."""

    entry: float = 1.0
    attr: float = 1.0
    open_flags: int = 0


Handler = Callable[["Server[Any, Any]", Call], Awaitable[bytes]]
"""Carries out one operation for any file system: returns the payload of the answer, or raises FuseError."""


class Server(Generic[Node, Handle]):
    """Serves a file system to one guest, from mount to mount."""

    def __init__(
        self,
        operations: Operations[Node, Handle],
        session: Session,
        policy: Policy,
        times: Times,
        handlers: Mapping[int, Handler],
    ) -> None:
        self._handlers = handlers
        self.operations = operations
        self.session = session
        self.policy = policy
        self.times = times
        self.nodes: NodeTable[Node] = NodeTable(operations.root, operations.forget)
        self.handles: HandleTable[Node, Handle] = HandleTable()
        # A file system that keeps nothing between calls need not offer open: handle 0 then means None.
        self._stateless = {
            False: type(innermost(operations)).open is Operations.open,
            True: type(innermost(operations)).opendir is Operations.opendir,
        }
        self._calls: dict[int, Call] = {}
        self._turns = asyncio.Lock()
        self._ending = asyncio.Lock()
        self._abandoned: deque[OpenFile[Node, Handle]] = deque()
        self._seldom = Seldom()
        self._watch: Watch[Node, Handle] | None = None

    def watched_by(self, watch: "Watch[Node, Handle]") -> None:
        """Let ``watch`` answer requests of the same guest beside this, from the same tables."""
        self._watch = watch
        self.nodes.watched_by(watch)
        self.handles.watched_by(watch)

    def agreed(self) -> None:
        """The session has begun, or ended."""
        if self._watch is not None:
            self._watch.agreed(self.session)

    # One request

    def begin(self, channel: Channel) -> Call | None:
        """Decode a request. None when it is done with: forgotten, refused or broken, and answered if need be."""
        try:
            header = fuse.decode_header(channel.read(fuse.requests.HEADER_SIZE))
        except fuse.BrokenRequest:
            return None
        try:
            message, more = self._decode(header, channel)
            if channel.writable_size < replies.least_size(header.opcode):
                raise FuseError(errno.EIO)  # before anything is done that the guest would not hear of
            call = Call(header, message, more, channel)
            if hasattr(message, "umask") and self.session.groups_are_untold:
                call.context = call.context._replace(groups=None)
        except FuseError as error:
            self.refuse(header, channel, error.errno)
            return None
        if self._at_once(call):
            return None
        self._calls[header.unique] = call
        return call

    async def run(self, call: Call) -> None:
        """Carry out a request and write its answer. Raises nothing but cancellation, unless the guest asked for it."""
        unique = call.header.unique
        call.task = asyncio.current_task()
        try:
            if call.interrupted:
                raise FuseError(errno.EINTR)
            payload = await self._handle(call)
        except FuseError as error:
            self.refuse(call.header, call.channel, error.errno)
        except asyncio.CancelledError:
            if not call.interrupted:
                raise
            self.refuse(call.header, call.channel, errno.EINTR)
        except Exception:
            if self._seldom.may_tell(call.header.opcode):  # the guest may ask for the same again and again
                log.exception("%s failed for node %d", Opcode(call.header.opcode).name, call.header.nodeid)
            self.refuse(call.header, call.channel, errno.EIO)
        else:
            self._answer(call, payload)
        finally:
            if self._calls.get(unique) is call:
                del self._calls[unique]

    def refuse(self, header: InHeader, channel: Channel, code: int) -> None:
        """Answer with an errno, where the request has an answer and there is room for one."""
        channel.rewind()
        if fuse.takes_reply(header.opcode) and channel.writable_size >= OUT_HEADER_SIZE:
            channel.write(replies.error(header.unique, code))

    # What handlers use

    async def turn(self) -> None:
        """Wait for this guest's next turn: go on with one slice of long work, then wait again.

        One slice is done in a turn of the loop, however many requests the guest has made of such work. A slice that
        waits for something itself holds up no other.
        """
        async with self._turns:
            await asyncio.sleep(0)

    def entry(self, entry: Entry[Node]) -> bytes:
        """Encode an entry; the guest holds one more reference."""
        return self.encode(self.nodes.enter(entry.node), entry)

    def encode(self, nodeid: NodeId, entry: Entry[Node]) -> bytes:
        """Encode an entry the guest was given a number for."""
        return replies.entry(
            nodeid,
            entry.attributes,
            generation=entry.generation,
            entry_timeout=self.times.entry if entry.timeout is None else entry.timeout,
            attr_timeout=self.times.attr if entry.attributes.timeout is None else entry.attributes.timeout,
            flags=ATTR_SUBMOUNT if entry.attributes.submount else 0,
        )

    def attr(self, attributes: Attributes) -> bytes:
        """Encode attributes."""
        return replies.attr(attributes, self.times.attr if attributes.timeout is None else attributes.timeout)

    def file(self, fh: int, nodeid: int, *, directory: bool | None = False) -> OpenFile[Node, Handle]:
        """The open file behind a handle of a node; with ``directory`` None, of either kind."""
        if not fh and self._stateless[bool(directory)]:
            nothing: Any = None
            return OpenFile(self.nodes.find(nodeid), nothing, O_RDWR, bool(directory))
        if self._watch is not None and fh not in self.handles:
            self._take_over(self._watch, fh, nodeid)
        return self.handles.find(fh, nodeid, directory=directory)

    def check_room(self) -> None:
        """Raise ENFILE when the guest has too many files open."""
        if self.handles.full:
            raise FuseError(errno.ENFILE)

    def opened(self, nodeid: int, handle: Handle, flags: int, *, directory: bool = False) -> fuse.FileHandle:
        """Number an open file. It keeps its node alive."""
        row = self.nodes.find(nodeid)
        self.nodes.pin(row)
        return self.handles.add(OpenFile(row, handle, flags, directory))

    async def close(self, fh: int, call: Call, *, directory: bool = False) -> None:
        """The guest closes a file."""
        file = self.file(fh, call.header.nodeid, directory=directory)
        self.handles.remove(fh)
        if fh:
            try:
                await self._release(file)
            finally:
                self.nodes.unpin(file.row)

    async def forget(self, forgets: Sequence[ForgetOne]) -> None:
        """Forget many nodes, and let others have their turn meanwhile."""
        for at in range(0, len(forgets), FORGETS_AT_ONCE):
            await self.turn()
            for one in forgets[at : at + FORGETS_AT_ONCE]:
                self.nodes.forget(one.nodeid, one.nlookup)

    async def reset(self) -> None:
        """The guest is gone: close all its files, forget all its nodes, and wait for another INIT."""
        await self.forget_all()
        self.session.reset()
        self.agreed()

    async def forget_all(self) -> None:
        """Close all files, forget all nodes: for the guest at once, for the file system slice by slice.

        Whoever is cancelled here leaves the rest to the next who calls.
        """
        self._abandoned += self.handles.take_all()
        self.nodes.clear()
        self._calls.clear()
        async with self._ending:  # no node goes before its files
            released = 0
            while self._abandoned:
                await self._release_abandoned(self._abandoned.popleft())
                released += 1
                if released % RELEASES_AT_ONCE == 0:
                    await self.turn()
            while self.nodes.drop_cleared(FORGETS_AT_ONCE):
                await self.turn()

    # Inside

    def _take_over(self, watch: "Watch[Node, Handle]", fh: int, nodeid: int) -> None:
        """A file may have been opened by who answers beside this. Of a node that is forgotten nobody takes it over."""
        try:
            row = self.nodes.find(nodeid)
        except FuseError:
            return
        taken = watch.taken(fh, nodeid)
        if taken is not None:
            self.nodes.pin(row)
            self.handles.adopt(fh, OpenFile(row, taken.handle, taken.flags, taken.directory))

    def _decode(self, header: InHeader, channel: Channel) -> tuple[Request, Extensions]:
        fuse.check_length(header, channel.readable_size)
        self.session.check(header.opcode)
        body, more = extensions.take(header, channel.read(fuse.body_size(header.opcode)), self.session.flags)
        message = fuse.decode(header.opcode, body, minor=self.session.minor, setxattr_ext=self.session.setxattr_ext)
        if isinstance(message, fuse.messages.Write):
            fuse.check_payload(message, channel.readable_size)
        self.policy.check(header.opcode, message)
        return message, more

    def _at_once(self, call: Call) -> bool:
        """Requests that wait for nothing and are answered by nothing, or next to it."""
        match call.message:
            case Forget(nlookup):
                self.nodes.forget(call.header.nodeid, nlookup)
            case Interrupt(unique):
                self._interrupt(unique)
                self._answer(call, b"")
            case _:
                return False
        return True

    def _interrupt(self, unique: int) -> None:
        """Cancel a request; one that is unknown or finished was answered already."""
        call = self._calls.get(unique)
        if call is not None and not call.interrupted:
            call.interrupted = True
            if call.task is not None:
                call.task.cancel()

    async def _handle(self, call: Call) -> bytes:
        handler = self._handlers.get(call.header.opcode)
        if handler is None:
            raise FuseError(errno.ENOSYS)
        return await handler(self, call)

    def _answer(self, call: Call, payload: bytes) -> None:
        """Write the answer; one the guest has no room for is EIO, as Linux has it."""
        if not fuse.takes_reply(call.header.opcode):
            return
        size = len(payload) + call.filled
        if size > call.space or call.channel.writable_size < OUT_HEADER_SIZE:
            self.refuse(call.header, call.channel, errno.EIO)
            return
        call.channel.write(replies.out_header(call.header.unique, 0, size))
        call.channel.write(payload)
        call.channel.written += call.filled

    async def _release_abandoned(self, file: OpenFile[Node, Handle]) -> None:
        try:
            await self._release(file)
        except Exception as error:
            if self._seldom.may_tell("close"):
                log.warning("closing a file of a guest that is gone failed: %r", error)

    async def _release(self, file: OpenFile[Node, Handle]) -> None:
        release = self.operations.releasedir if file.directory else self.operations.release
        await release(file.row.node, file.handle)
