"""What lives per chain in the guest's driver: its buffers in guest RAM, its token, its reply, its failure.

Knows no ring and no device.
"""

import asyncio
from typing import NamedTuple

from hdvkit.testing.machine import Machine

Block = tuple[int, int, memoryview]
"""A piece of the pool: its size class in bytes, its guest-physical address, its bytes."""

GUARD = 16  # never adjacent: a device that runs past one buffer must not land in the next by luck
POISON = b"\xa5"  # fills writable buffers: bytes the device claims to have written but did not are visible
SLAB = 1 << 16


class DriverError(Exception):
    """The device broke a rule of the specification, refused the driver, or stopped."""


class Reply(NamedTuple):
    """What the device returned for one chain."""

    written: int
    """The used length: bytes written into the writable part."""
    data: bytes
    """The first ``written`` bytes of the writable part, joined over its buffers."""


class Token:
    """One chain in flight. Pass it to `DriverQueue.wait`; ``reply`` is set once the device returned it."""

    __slots__ = ("block", "failure", "pieces", "reply", "waiter", "writable")

    def __init__(self, block: Block, pieces: list[tuple[int, int]], writable: int) -> None:
        self.block = block
        self.pieces = pieces  # offset in the block and length of each writable buffer
        self.writable = writable
        self.reply: Reply | None = None
        self.failure = ""
        self.waiter: asyncio.Future[None] | None = None

    def finish(self, written: int) -> None:
        """Take the reply out of guest RAM; ``written`` was checked against ``writable``."""
        view = self.block[2]
        left, parts = written, []
        for at, length in self.pieces:
            if not left:
                break
            size = min(left, length)
            parts.append(bytes(view[at : at + size]))
            left -= size
        self.reply = Reply(written, parts[0] if len(parts) == 1 else b"".join(parts))
        self.wake()

    def fail(self, reason: str) -> None:
        """Make the wait for this chain raise `DriverError`."""
        self.failure = reason
        self.wake()

    def wake(self) -> None:
        """Let `DriverQueue.wait` look again."""
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)


class BufferPool:
    """Guest RAM in size classes, taken once and reused until the queue closes."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._free: dict[int, list[Block]] = {}
        self._slabs: list[int] = []

    def take(self, size: int) -> Block:
        """Give a block of at least ``size`` bytes, 16-byte aligned, with whatever its last user left in it."""
        order = 1 << max(size - 1, 63).bit_length() if size <= SLAB else -(-size // SLAB) * SLAB
        free = self._free.setdefault(order, [])
        if not free:
            self._grow(order, free)
        return free.pop()

    def give(self, block: Block) -> None:
        """Take back a block that the device no longer owns."""
        self._free[block[0]].append(block)

    def close(self) -> None:
        """Return everything to the machine; no device may own any of it by now."""
        self._free.clear()
        while self._slabs:
            self._machine.free(self._slabs.pop())

    def _grow(self, order: int, free: list[Block]) -> None:
        size = max(order, SLAB)
        base = self._machine.allocate(size)
        self._slabs.append(base)
        view = self._machine.ram(base, size)
        free += [(order, base + at, view[at : at + order]) for at in range(0, size, order)]
        free.reverse()
