"""One request under way: its bytes, who asks, what becomes of its answer. Knows nothing of rings or file systems."""

import asyncio
from typing import Any, Protocol

from hdvkit_virtiofs.fuse import Context, InHeader, Request, replies
from hdvkit_virtiofs.fuse.extensions import Extensions


class Channel(Protocol):
    """The bytes of one request and the room for its answer; a virtio chain is one."""

    readable_size: int
    writable_size: int
    written: int

    def read(self, size: int | None = None) -> bytes:
        """Copy the next bytes of the request."""
        ...

    def unread(self) -> list[memoryview]:
        """The bytes that were not read, in the guest's own memory."""
        ...

    def write(self, data: bytes) -> int:
        """Append to the answer."""
        ...

    def room(self, skip: int = 0, size: int | None = None) -> list[memoryview]:
        """Room for the answer, in the guest's own memory."""
        ...

    def rewind(self) -> None:
        """Start the answer again."""
        ...


class Call:
    """One request under way."""

    __slots__ = ("channel", "context", "filled", "header", "interrupted", "message", "task")

    def __init__(self, header: InHeader, message: Request, more: Extensions, channel: Channel) -> None:
        self.header = header
        self.message: Any = message  # its handler knows which message its opcode has
        self.channel = channel
        self.context = Context(header.uid, header.gid, header.pid, getattr(message, "umask", 0), *more)
        self.filled = 0
        """Bytes the handler has put into the guest's memory behind the header itself."""
        self.interrupted = False
        self.task: asyncio.Task[None] | None = None

    @property
    def space(self) -> int:
        """Bytes of payload the guest has room for."""
        return max(0, self.channel.writable_size - replies.HEADER_SIZE)
