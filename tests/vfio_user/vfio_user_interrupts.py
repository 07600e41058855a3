"""The interrupts of a remote PCI function, as a VMM carries them to its guest: MSI-X and INTx over eventfds.

The server knows eventfds by vector and nothing else. Table, masks and pending vectors are the VMM's business.
"""

import asyncio
import os
import struct
from collections.abc import Callable
from functools import partial

from vfio_user_client import Client

INTX, MSIX = 0, 2
SET, OFF, UNMASK = 0x24, 0x21, 0x11
"""Flags of SET_IRQS: trigger by these eventfds; no trigger at all; unmask."""

ENABLE = 0x8000
FUNCTION_MASK = 0x4000
ENTRY = struct.Struct("<QII")  # address, data, vector control
MASKED = 1

Deliver = Callable[[int, int], None]
"""Takes the address and data of a message."""


class Bell:
    """An eventfd of ours that calls when it is written."""

    def __init__(self, rung: Callable[[], None]) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._rung = rung
        asyncio.get_running_loop().add_reader(self.fd, self._readable)

    def close(self) -> None:
        """Hear no more."""
        asyncio.get_running_loop().remove_reader(self.fd)
        os.close(self.fd)

    def _readable(self) -> None:
        os.eventfd_read(self.fd)
        self._rung()


class MsixTable:
    """The MSI-X table of one function: entries the guest writes, eventfds the server rings."""

    def __init__(self, client: Client, vectors: int, deliver: Deliver) -> None:
        self.vectors = vectors
        self.enabled = False
        self.pending: set[int] = set()
        self._client = client
        self._deliver = deliver
        self._function_masked = False
        self._entries = bytearray(ENTRY.pack(0, 0, MASKED) * vectors)
        self._bells: dict[int, Bell] = {}

    @property
    def size(self) -> int:
        """Bytes of the table."""
        return len(self._entries)

    def read(self, offset: int, size: int) -> bytes:
        """The guest reads the table."""
        return bytes(self._entries[offset : offset + size])

    async def write(self, offset: int, data: bytes) -> None:
        """The guest writes the table."""
        self._entries[offset : offset + len(data)] = data
        await self._settle()

    async def control(self, value: int) -> None:
        """The guest wrote Message Control; the order of messages is QEMU's."""
        was, self.enabled = self.enabled, bool(value & ENABLE)
        self._function_masked = bool(value & FUNCTION_MASK)
        if self.enabled and not was:
            await self._client.set_irqs(SET, MSIX, 0, 1)  # on, with no vector yet
        elif was and not self.enabled:
            await self.disable()
        await self._settle()

    async def disable(self) -> None:
        """Forget all vectors here and there."""
        self.enabled = False
        self.close()
        await self._client.set_irqs(OFF, MSIX, 0, 0)

    def close(self) -> None:
        """Forget all vectors here."""
        for bell in self._bells.values():
            bell.close()
        self._bells.clear()
        self.pending.clear()

    async def _settle(self) -> None:
        """Use each vector that is unmasked for the first time; deliver what waited for its mask."""
        for vector in range(self.vectors):
            if self._masked(vector):
                continue
            if vector not in self._bells:
                self._bells[vector] = bell = Bell(partial(self._rung, vector))
                await self._client.set_irqs(SET, MSIX, vector, 1, [bell.fd])
            if vector in self.pending:
                self._rung(vector)

    def _masked(self, vector: int) -> bool:
        control = ENTRY.unpack_from(self._entries, ENTRY.size * vector)[2]
        return not self.enabled or self._function_masked or bool(control & MASKED)

    def _rung(self, vector: int) -> None:
        if self._masked(vector):
            self.pending.add(vector)
            return
        self.pending.discard(vector)
        address, data, _ = ENTRY.unpack_from(self._entries, ENTRY.size * vector)
        self._deliver(address, data)


class InterruptPin:
    """INTx of one function: each interrupt masks itself until ``unmask``."""

    def __init__(self, client: Client) -> None:
        self.fired = 0
        """How often the server raised the line."""
        self.raised = False
        """Whether it has, since ``unmask``."""
        self.handler: Callable[[], None] = lambda: None
        """What the guest does when the line rises; it reads the ISR, which unmasks the line."""
        self._client = client
        self._bell: Bell | None = None

    @property
    def armed(self) -> bool:
        """Whether the server has our eventfd."""
        return self._bell is not None

    async def arm(self) -> None:
        """Let the server raise the line."""
        self._bell = Bell(self._rung)
        await self._client.set_irqs(SET, INTX, 0, 1, [self._bell.fd])

    async def unmask(self) -> None:
        """The guest has looked: the line may rise again."""
        self.raised = False
        if self.armed:
            await self._client.set_irqs(UNMASK, INTX, 0, 1)

    async def disarm(self) -> None:
        """Take the line from the server."""
        if self.armed:
            self.close()
            await self._client.set_irqs(OFF, INTX, 0, 0)

    def close(self) -> None:
        """Hear no more."""
        self.raised = False
        if self._bell is not None:
            self._bell.close()
            self._bell = None

    def _rung(self) -> None:
        self.fired += 1
        self.raised = True
        self.handler()
