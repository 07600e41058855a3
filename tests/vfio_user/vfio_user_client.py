"""A vfio-user client: every message to the server as a coroutine with its reply decoded.

Written from the protocol's specification alone; shares nothing with the server it is to prove.
"""

from collections.abc import Sequence

from vfio_user_connection import LIMIT, READABLE, WRITABLE, Connection, Disconnected, Refused
from vfio_user_payloads import (
    ACCESS,
    DMA_MAP,
    DMA_UNMAP,
    FEATURE,
    INFO,
    QEMU_CAPABILITIES,
    REGION_INFO,
    SET_IRQS,
    UNMAP_ALL,
    DeviceInfo,
    IoFd,
    IrqInfo,
    RegionInfo,
    Version,
    pack_version,
    pack_writes,
    read_data,
    read_io_fds,
    read_region_info,
    read_version,
)
from vfio_user_wire import Command, Flag, Message, pack

__all__ = ["LIMIT", "Client", "Command", "Disconnected", "Flag", "Message", "Refused", "pack"]

CONFIG_REGION = 7


class Client(Connection):
    """One connection to a server; ``connect``, then ``negotiate``. Use ``async with``, or ``close``.

    Replies with an error raise Refused, a lost connection Disconnected, a reply that never comes TimeoutError.
    """

    async def negotiate(self, **capabilities: object) -> Version:
        """VERSION 0.0, with QEMU's capabilities unless others are given."""
        reply = await self.request(Command.VERSION, pack_version(capabilities or dict(QEMU_CAPABILITIES)))
        return read_version(reply)

    async def dma_map(
        self, address: int, size: int, fd: int | None = None, offset: int = 0, flags: int = READABLE | WRITABLE
    ) -> Message:
        """Let the server reach memory, by itself if it gets a descriptor."""
        payload = DMA_MAP.pack(DMA_MAP.size, flags, offset, address, size)
        before = self.mapped.get(address)
        self.mapped[address] = size, flags  # the server may use it before its reply is here
        try:
            return await self.request(Command.DMA_MAP, payload, fds=[] if fd is None else [fd])
        except Refused:
            if before is None:
                del self.mapped[address]
            else:
                self.mapped[address] = before
            raise

    async def dma_unmap(self, address: int = 0, size: int = 0, flags: int = 0) -> Message:
        """Take memory from the server, all of it with flag 2."""
        leaving = [(at, what) for at, what in self.mapped.items() if at == address or flags & UNMAP_ALL]
        reply = await self.request(Command.DMA_UNMAP, DMA_UNMAP.pack(DMA_UNMAP.size, flags, address, size))
        for at, what in leaving:
            if self.mapped.get(at) is what:  # else it was mapped again meanwhile
                del self.mapped[at]
        return reply

    async def get_info(self) -> DeviceInfo:
        """What kind of device it is."""
        reply = await self.request(Command.DEVICE_GET_INFO, INFO.pack(INFO.size, 0, 0, 0))
        return DeviceInfo(*INFO.unpack(reply.payload))

    async def get_region_info(self, index: int, argsz: int = REGION_INFO.size) -> RegionInfo:
        """One region; its descriptors are closed with the client."""
        payload = REGION_INFO.pack(argsz, 0, index, 0, 0, 0)
        return read_region_info(await self.request(Command.DEVICE_GET_REGION_INFO, payload, room=argsz))

    async def get_region_io_fds(self, index: int, argsz: int = 4096) -> list[IoFd]:
        """Where writes to a region may go through descriptors instead; these are closed with the client."""
        payload = INFO.pack(argsz, 0, index, 0)
        reply = await self.request(Command.DEVICE_GET_REGION_IO_FDS, payload, room=argsz)
        needed, places = read_io_fds(reply)
        return await self.get_region_io_fds(index, needed) if needed > argsz else places

    async def get_irq_info(self, index: int) -> IrqInfo:
        """One type of interrupt: 0 INTx, 2 MSI-X."""
        reply = await self.request(Command.DEVICE_GET_IRQ_INFO, INFO.pack(INFO.size, 0, index, 0))
        return IrqInfo(*INFO.unpack(reply.payload))

    async def set_irqs(
        self, flags: int, index: int, start: int, count: int, fds: Sequence[int] = (), data: bytes = b""
    ) -> Message:
        """Say where interrupts go: to descriptors, nowhere, masked, unmasked."""
        payload = SET_IRQS.pack(SET_IRQS.size + len(data), flags, index, start, count) + data
        return await self.request(Command.DEVICE_SET_IRQS, payload, fds=fds)

    async def region_read(self, index: int, offset: int, count: int) -> bytes:
        """Read a BAR, or with index 7 the configuration space."""
        reply = await self.request(Command.REGION_READ, ACCESS.pack(offset, index, count), room=count)
        return read_data(reply, offset, index, count)

    async def region_write(self, index: int, offset: int, data: bytes, *, posted: bool = False) -> None:
        """Write a BAR, or with index 7 the configuration space; ``posted`` waits for nothing."""
        payload = ACCESS.pack(offset, index, len(data)) + data
        if posted:
            self.post(Command.REGION_WRITE, payload)
        else:
            await self.request(Command.REGION_WRITE, payload)

    async def region_write_multi(self, writes: list[tuple[int, int, bytes]], *, posted: bool = False) -> None:
        """Several writes (region, offset, data of up to 8 bytes) in one message."""
        if posted:
            self.post(Command.REGION_WRITE_MULTI, pack_writes(writes))
        else:
            await self.request(Command.REGION_WRITE_MULTI, pack_writes(writes))

    async def reset(self) -> Message:
        """DEVICE_RESET."""
        return await self.request(Command.DEVICE_RESET)

    async def feature(self, flags: int, data: bytes = b"") -> Message:
        """DEVICE_FEATURE: probe, get or set."""
        return await self.request(Command.DEVICE_FEATURE, FEATURE.pack(FEATURE.size + len(data), flags) + data)
