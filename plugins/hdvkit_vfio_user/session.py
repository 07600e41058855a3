"""One client, from accept to the end: its socket on the event loop, and what each of its requests does.

A request is answered inside the callback that read it: QEMU holds its big lock while it waits.
"""

import asyncio
import errno
import logging
import os
import socket
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Sequence, Set
from functools import partial
from typing import Any

from hdvkit.runtime import Doorbell, Function, KickReader
from hdvkit_vfio_user import regions
from hdvkit_vfio_user.hangup import hang_up
from hdvkit_vfio_user.irqs import Irqs
from hdvkit_vfio_user.kicks import Kicks
from hdvkit_vfio_user.memory import GuestMemory
from hdvkit_vfio_user.native import PostedKicks, posted_kicks
from hdvkit_vfio_user.protocol import (
    Answer,
    Connection,
    DmaMap,
    DmaUnmap,
    GetInfo,
    GetIrqInfo,
    GetRegionInfo,
    GetRegionIoFds,
    Piece,
    Refused,
    RegionRead,
    RegionWrite,
    RegionWrites,
    Request,
    Reset,
    SetIrqsRequest,
    State,
    spec,
)
from hdvkit_vfio_user.remote import RemoteMemory
from hdvkit_vfio_user.transfers import Transfers

log = logging.getLogger("hdvkit_vfio_user")

RECEIVE = 16 * 1024
"""Bytes taken from the socket before other devices have their turn: some 480 kicks."""


class Session:
    """Serves one client. ``ended`` is called, with the reason, once it is gone and the device is reset."""

    def __init__(
        self, connection: socket.socket, function: Function, served: Set[Doorbell], ended: Callable[[str], None]
    ) -> None:
        self.irqs = Irqs(function.vectors, lambda: function.asserts_pin, function.interrupts_moved)
        self.kicks = Kicks(function.doorbells, served, self._look)
        self._function = function
        self._served = served
        self._socket = connection
        self._ended = ended
        self._connection = Connection()
        self._transfers = Transfers(self._connection, self._flush)
        self._remote = RemoteMemory(
            self._transfers, self.kicks.ring_all, self._signal_all, lost=self._function.memory_leaves
        )
        self.memory = GuestMemory(self._remote)
        self._out: deque[Piece] = deque()
        self._lane: KickReader | None = None
        self._posted: PostedKicks | None = None
        self._lent = False  # the socket, to the lane
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(connection.fileno(), self._readable)

    def close(self, reason: str) -> None:
        """Let go of the client: the device is reset, its memory unmapped, its eventfds closed."""
        if self._socket.fileno() < 0:
            return
        self._take_back()
        self._loop.remove_reader(self._socket.fileno())
        self._loop.remove_writer(self._socket.fileno())
        hang_up(self._socket)
        self._connection.receive_data(b"")  # what came of a message that will never be whole
        _close_all(self._connection.unwanted_fds())
        self._function.reset()
        for address, size in self.memory.ranges:
            self._function.memory_leaves(address, size)
            self.memory.remove(address, _nothing, patience=0)
        self._remote.close()
        self._transfers.close()
        self.irqs.close()
        self.kicks.close()
        self._ended(reason)

    # The socket

    def _readable(self) -> None:
        try:
            data, fds, flags = self._receive()
        except BlockingIOError:
            return
        except OSError as error:
            self.close(f"the connection broke: {error.strerror}")
            return
        events = self._connection.receive_data(data, fds)
        if flags & socket.MSG_CTRUNC:
            self._give_up(events, "descriptors of the client did not get through: too many, or none free here")
            return
        for event in events:
            self._take(event)
        _close_all(self._connection.unwanted_fds())
        self._flush()
        self._lend()

    def _receive(self) -> tuple[bytes, tuple[int, ...], int]:
        fds = array("i")
        space = socket.CMSG_SPACE(spec.MAX_FDS * fds.itemsize)
        data, extra, flags, _ = self._socket.recvmsg(RECEIVE, space, socket.MSG_CMSG_CLOEXEC)
        for level, kind, content in extra:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
        return data, tuple(fds), flags

    def _give_up(self, events: Sequence[Request | Answer], reason: str) -> None:
        _close_all(fd for event in events if isinstance(event, Request) for fd in event.fds)
        _close_all(self._connection.unwanted_fds())
        self.close(reason)

    def _flush(self) -> None:
        """Send what there is. A client that does not read is not read from either, so nothing piles up."""
        if self._socket.fileno() < 0:
            return
        self._out += self._connection.data_to_send()
        try:
            while self._out:
                self._send(self._out[0])
        except BlockingIOError:
            self._take_back()
            self._loop.remove_reader(self._socket.fileno())
            self._loop.add_writer(self._socket.fileno(), self._writable)
        except OSError as error:
            self.close(f"the connection broke: {error.strerror}")
        if self._connection.state is State.CLOSED:
            self.close(self._connection.reason)

    def _send(self, piece: Piece) -> None:
        extra = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", piece.fds))] if piece.fds else []
        sent = self._socket.sendmsg([piece.data], extra)
        self._out.popleft()
        if sent < len(piece.data):
            self._out.appendleft(Piece(piece.data[sent:]))

    def _writable(self) -> None:
        self._loop.remove_writer(self._socket.fileno())
        self._loop.add_reader(self._socket.fileno(), self._readable)
        self._flush()

    # The lane

    def served_by(self, lane: KickReader | None, doorbells: Sequence[Doorbell]) -> None:
        """Let ``lane`` read the kicks of these doorbells that the client posts; with None, nobody but us."""
        self._take_back()
        self._lane = lane
        self._posted = posted_kicks(self._function.doorbells, doorbells) if lane is not None and doorbells else None
        self._lend()

    def _lend(self) -> None:
        """Between two messages the socket can be the lane's, until one comes that is no kick."""
        if self._lane is None or self._posted is None or self._lent or self._socket.fileno() < 0:
            return
        if self._connection.between_messages and not self._out:
            self._lent = True
            self._loop.remove_reader(self._socket.fileno())
            self._lane.listen(self._socket.fileno(), self._posted.listener, self._unheard)

    def _unheard(self) -> None:
        """The lane has given the socket back: there is something to read."""
        self._lent = False
        self._loop.add_reader(self._socket.fileno(), self._readable)
        self._readable()

    def _take_back(self) -> None:
        if self._lent and self._lane is not None:
            self._lane.leave()
            self._lent = False
            self._loop.add_reader(self._socket.fileno(), self._readable)

    # Requests

    def _take(self, event: Request | Answer) -> None:
        if isinstance(event, Answer):
            self._transfers.answered(event)
            return
        if self._socket.fileno() < 0:  # it broke while an earlier request of the same batch was answered
            _close_all(event.fds)
            return
        try:
            _HANDLERS[type(event.message)](self, event, event.message)
        except Refused as refused:
            _close_all(event.fds)
            self._connection.refuse(event, refused.errno)
        except Exception as error:
            log.exception("%r cannot be carried out", event.message)
            self.close(f"a request could not be carried out: {error}")

    def _dma_map(self, request: Request, message: DmaMap) -> None:
        self.memory.add(message, request.fds[0] if request.fds else None)
        _close_all(request.fds)  # the mapping keeps the memory
        self._connection.reply(request)

    def _dma_unmap(self, request: Request, message: DmaUnmap) -> None:
        if message.everything:
            ranges = self.memory.ranges
        elif self.memory.holds(message.address, message.size):
            ranges = [(message.address, message.size)]
        else:
            raise Refused(errno.EINVAL)
        payload = spec.DMA_UNMAP.pack(
            spec.DMA_UNMAP.size, spec.UNMAP_ALL * message.everything, message.address, message.size
        )
        left = _Countdown(len(ranges), partial(self._unmapped, request, payload))
        for address, size in ranges:
            self._function.memory_leaves(address, size)
            self.memory.remove(address, left.one_less)

    def _unmapped(self, request: Request, payload: bytes) -> None:
        self._connection.reply(request, payload)
        self._flush()

    def _get_info(self, request: Request, message: GetInfo) -> None:
        flags = spec.DeviceFlag.RESET | spec.DeviceFlag.PCI
        payload = spec.DEVICE_INFO.pack(spec.DEVICE_INFO.size, flags, spec.NUM_REGIONS, spec.NUM_IRQS)
        self._connection.reply(request, payload)

    def _get_region_info(self, request: Request, message: GetRegionInfo) -> None:
        if message.region >= spec.NUM_REGIONS:
            raise Refused(errno.EINVAL)
        size = regions.size(self._function, message.region)
        flags = spec.RegionFlag.READ | spec.RegionFlag.WRITE if size else 0
        self._connection.reply(request, spec.REGION_INFO.pack(spec.REGION_INFO.size, flags, message.region, 0, size, 0))

    def _get_region_io_fds(self, request: Request, message: GetRegionIoFds) -> None:
        if message.region >= spec.NUM_REGIONS:
            raise Refused(errno.EINVAL)
        parts, fds = self.kicks.describe(message.region)
        # A client that takes fewer descriptors kicks the other queues by writing.
        parts, fds = parts[: self._connection.limits.max_msg_fds], fds[: self._connection.limits.max_msg_fds]
        argsz = spec.REGION_IO_FDS.size + sum(map(len, parts))
        if argsz > message.argsz:
            parts, fds = [], ()  # "argsz" says how much room to ask again with
        header = spec.REGION_IO_FDS.pack(argsz, 0, message.region, len(parts))
        self._connection.reply(request, b"".join([header, *parts]), fds)

    def _get_irq_info(self, request: Request, message: GetIrqInfo) -> None:
        flags, count = self.irqs.info(message.irq)
        self._connection.reply(request, spec.IRQ_INFO.pack(spec.IRQ_INFO.size, flags, message.irq, count))

    def _set_irqs(self, request: Request, message: SetIrqsRequest) -> None:
        self.irqs.set(message, request.fds)
        self._connection.reply(request)

    def _region_read(self, request: Request, message: RegionRead) -> None:
        data = regions.read(self._function, message.region, message.offset, message.size)
        access = spec.REGION_ACCESS.pack(message.offset, message.region, message.size)
        self._connection.reply(request, access + data)

    def _region_write(self, request: Request, message: RegionWrite) -> None:
        self._write(message)
        access = spec.REGION_ACCESS.pack(message.offset, message.region, len(message.data))
        self._connection.reply(request, access)

    def _region_writes(self, request: Request, message: RegionWrites) -> None:
        for one in message.writes:
            self._write(one)
        self._connection.reply(request, spec.WRITE_MULTI.pack(len(message.writes)))

    def _write(self, one: RegionWrite) -> None:
        regions.write(self._function, one.region, one.offset, one.data)
        self._look()  # it may have been a kick

    def _reset(self, request: Request, message: Reset) -> None:
        self._function.reset()
        self.irqs.vectors.forget()
        self._connection.reply(request)

    def _look(self) -> None:
        self._remote.look()

    def _signal_all(self) -> None:
        for doorbell in self._served:
            self._function.signal(doorbell.index)


# What each handler takes besides the request is the message of its own type.
_HANDLERS: dict[type, Callable[[Session, Request, Any], None]] = {
    DmaMap: Session._dma_map,
    DmaUnmap: Session._dma_unmap,
    GetInfo: Session._get_info,
    GetRegionInfo: Session._get_region_info,
    GetRegionIoFds: Session._get_region_io_fds,
    GetIrqInfo: Session._get_irq_info,
    SetIrqsRequest: Session._set_irqs,
    RegionRead: Session._region_read,
    RegionWrite: Session._region_write,
    RegionWrites: Session._region_writes,
    Reset: Session._reset,
}


class _Countdown:
    """Calls ``done`` when the last of so many things has happened; at once when there are none."""

    def __init__(self, count: int, done: Callable[[], None]) -> None:
        self._left = count
        self._done = done
        if not count:
            done()

    def one_less(self) -> None:
        self._left -= 1
        if not self._left:
            self._done()


def _close_all(fds: Iterable[int]) -> None:
    for fd in fds:
        os.close(fd)


def _nothing() -> None:
    """Nobody waits for it."""
