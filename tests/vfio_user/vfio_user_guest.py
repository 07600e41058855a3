"""A guest in memory behind a real connection, without a socket: answers DMA_READ and DMA_WRITE by hand.

Messages are taken apart with the layouts of the specification; nothing is shared with the server but its bytes.
"""

import asyncio
import errno
import json
import struct
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from hdvkit_vfio_user.protocol import Answer, Connection, State
from hdvkit_vfio_user.remote import RemoteMemory
from hdvkit_vfio_user.transfers import Transfers

HEADER = struct.Struct("<HHIII")  # id, command, size, flags, error
ACCESS = struct.Struct("<QQ")  # address, count
READ, WRITE = 11, 12
REPLY, ERROR = 0x1, 0x20
BASE = 0x4000_0000
SIZE = 1 << 16
TURNS = 2000


class Asked(NamedTuple):
    """One request of the server."""

    command: int
    address: int
    count: int
    data: bytes = b""


class Guest:
    """RAM of ``SIZE`` bytes at ``BASE``, and what the server sees of it."""

    def __init__(self, max_transfer: int = 1 << 20) -> None:
        self.ram = bytearray(SIZE)
        self.asked: list[Asked] = []
        """All requests in the order they came."""
        self.bad: set[int] = set()
        """Addresses that are refused."""
        self.held = False
        """Requests wait for ``answer``."""
        self.before_answer: Callable[[Asked], None] = lambda asked: None
        """What the guest does while a request is on its way."""
        self.changes = 0
        self.deliveries = 0
        self._waiting: deque[bytes] = deque()
        self._connection = Connection()
        capabilities = {"capabilities": {"max_data_xfer_size": max_transfer}}
        version = struct.pack("<HH", 0, 0) + json.dumps(capabilities).encode() + b"\0"
        self._connection.receive_data(HEADER.pack(0, 1, HEADER.size + len(version), 0, 0) + version)
        self._connection.data_to_send()
        assert self._connection.state is State.OPEN
        self.transfers = Transfers(self._connection, self._flush)
        self.lost: list[tuple[int, int]] = []
        self.remote = RemoteMemory(self.transfers, self._changed, self._delivered, lambda *lost: self.lost.append(lost))

    @property
    def writes(self) -> list[Asked]:
        """Only those that change RAM."""
        return [one for one in self.asked if one.command == WRITE]

    def answer(self, count: int | None = None) -> None:
        """Answer so many requests that wait, by default all."""
        for _ in range(len(self._waiting) if count is None else count):
            self._answer(self._waiting.popleft())

    def leave(self) -> None:
        """The connection is gone."""
        self.remote.close()
        self.transfers.close()

    async def calm(self) -> None:
        """Wait until nothing is on its way any more."""
        seen = -1
        for _ in range(TURNS):
            for _ in range(10):
                await asyncio.sleep(0)
            if seen == len(self.asked):
                return
            seen = len(self.asked)
        raise AssertionError("requests without an end")

    def _flush(self) -> None:
        for piece in self._connection.data_to_send():
            assert not piece.fds
            _, command, size, flags, error = HEADER.unpack_from(piece.data)
            assert (size, flags, error) == (len(piece.data), 0, 0)
            address, count = ACCESS.unpack_from(piece.data, HEADER.size)
            data = piece.data[HEADER.size + ACCESS.size :]
            assert len(data) == (count if command == WRITE else 0)
            self.asked.append(Asked(command, address, count, data))
            self._waiting.append(piece.data)
        if not self.held:
            asyncio.get_running_loop().call_soon(self.answer)

    def _answer(self, request: bytes) -> None:
        ident, command, *_ = HEADER.unpack_from(request)
        access = request[HEADER.size : HEADER.size + ACCESS.size]
        address, count = ACCESS.unpack(access)
        data = request[HEADER.size + ACCESS.size :]
        self.before_answer(Asked(command, address, count, data))
        at = address - BASE
        if not 0 <= at <= at + count <= SIZE or any(address <= bad < address + count for bad in self.bad):
            self._reply(HEADER.pack(ident, command, HEADER.size, REPLY | ERROR, errno.ENODEV))
            return
        if command == WRITE:
            self.ram[at : at + count] = data
            data = b""
        else:
            data = bytes(self.ram[at : at + count])
        self._reply(HEADER.pack(ident, command, HEADER.size + ACCESS.size + len(data), REPLY, 0) + access + data)

    def _reply(self, reply: bytes) -> None:
        for event in self._connection.receive_data(reply):
            assert isinstance(event, Answer)
            self.transfers.answered(event)

    def _changed(self) -> None:
        self.changes += 1

    def _delivered(self) -> None:
        self.deliveries += 1
