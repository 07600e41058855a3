"""A client that breaks the rules gets an error or loses its connection; nobody else notices, and nothing is left."""

import contextlib
import errno
import struct
import sys
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from vfio_user_bench import Served, count_fds, descriptors, no_fds_lost, served, works
from vfio_user_client import Client, Command, Disconnected, Flag, Refused, pack
from vfio_user_payloads import QEMU_CAPABILITIES, pack_version
from vfio_user_wire import HEADER

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="vfio-user needs Linux")

VECTORS = 3
CONFIG, REGISTERS = 7, 0
PAGE = 4096
ROOM = 65536
LAST = (1 << 64) - 1
ERROR = Flag.REPLY | Flag.ERROR


def dma(address: int, size: int, flags: int = 3, offset: int = 0, argsz: int = 32) -> bytes:
    return struct.pack("<IIQQQ", argsz, flags, offset, address, size)


def undma(address: int, size: int, flags: int = 0) -> bytes:
    return struct.pack("<IIQQ", 24, flags, address, size)


def irqs(flags: int, index: int, start: int, count: int, data: bytes = b"") -> bytes:
    return struct.pack("<IIIII", 20 + len(data), flags, index, start, count) + data


def access(offset: int, region: int, count: int, data: bytes = b"") -> bytes:
    return struct.pack("<QII", offset, region, count) + data


WRONG = {
    "info too short": (Command.DEVICE_GET_INFO, bytes(15)),
    "info says too little": (Command.DEVICE_GET_INFO, struct.pack("<IIII", 15, 0, 0, 0)),
    "region info too short": (Command.DEVICE_GET_REGION_INFO, bytes(31)),
    "region info says too little": (Command.DEVICE_GET_REGION_INFO, struct.pack("<IIIIQQ", 31, 0, 0, 0, 0, 0)),
    "region info of none": (Command.DEVICE_GET_REGION_INFO, struct.pack("<IIIIQQ", 32, 0, LAST >> 32, 0, 0, 0)),
    "io fds too short": (Command.DEVICE_GET_REGION_IO_FDS, bytes(15)),
    "io fds say too little": (Command.DEVICE_GET_REGION_IO_FDS, struct.pack("<IIII", 15, 0, 0, 0)),
    "irq info too short": (Command.DEVICE_GET_IRQ_INFO, bytes(15)),
    "irq info of none": (Command.DEVICE_GET_IRQ_INFO, struct.pack("<IIII", 16, 0, LAST >> 32, 0)),
    "irqs too short": (Command.DEVICE_SET_IRQS, bytes(19)),
    "irqs without end": (Command.DEVICE_SET_IRQS, irqs(0x24, 2, 0, LAST >> 32)),
    "irqs past the last": (Command.DEVICE_SET_IRQS, irqs(0x24, 2, VECTORS, 1)),
    "irqs that wrap": (Command.DEVICE_SET_IRQS, irqs(0x24, 2, LAST >> 32, 2)),
    "irqs of none": (Command.DEVICE_SET_IRQS, irqs(0x24, 5, 0, 1)),
    "irqs without an action": (Command.DEVICE_SET_IRQS, irqs(0x04, 2, 0, 1)),
    "irqs without data": (Command.DEVICE_SET_IRQS, irqs(0x20, 2, 0, 1)),
    "irqs with two actions": (Command.DEVICE_SET_IRQS, irqs(0x34, 2, 0, 1)),
    "irqs with two kinds of data": (Command.DEVICE_SET_IRQS, irqs(0x26, 2, 0, 1, b"\x01")),
    "read too short": (Command.REGION_READ, bytes(15)),
    "read past the end": (Command.REGION_READ, access(255, CONFIG, 4)),
    "read one past the end": (Command.REGION_READ, access(256, CONFIG, 1)),
    "read one more than there is": (Command.REGION_READ, access(253, CONFIG, 4)),
    "read of all and one": (Command.REGION_READ, access(0, REGISTERS, 0x4001)),
    "read far away": (Command.REGION_READ, access(LAST, CONFIG, 1)),
    "read that wraps": (Command.REGION_READ, access(LAST - 3, REGISTERS, 8)),
    "read of everything": (Command.REGION_READ, access(0, REGISTERS, LAST >> 32)),
    "read of no region": (Command.REGION_READ, access(0, 9, 4)),
    "read of an unused region": (Command.REGION_READ, access(0, 6, 4)),
    "write too short": (Command.REGION_WRITE, bytes(15)),
    "write of less than it says": (Command.REGION_WRITE, access(0x14, REGISTERS, 4, b"\x01")),
    "write of more than it says": (Command.REGION_WRITE, access(0x14, REGISTERS, 1, b"\x01\0\0\0")),
    "write past the end": (Command.REGION_WRITE, access(255, CONFIG, 4, bytes(4))),
    "write one past the end": (Command.REGION_WRITE, access(0x4000, REGISTERS, 1, b"\0")),
    "write far away": (Command.REGION_WRITE, access(LAST, REGISTERS, 1, b"\0")),
    "write to no region": (Command.REGION_WRITE, access(0, 9, 4, bytes(4))),
    "writes too short": (Command.REGION_WRITE_MULTI, bytes(7)),
    "writes that are not there": (Command.REGION_WRITE_MULTI, struct.pack("<Q", 2) + bytes(24)),
    "writes without end": (Command.REGION_WRITE_MULTI, struct.pack("<Q", LAST)),
    "map too short": (Command.DMA_MAP, bytes(31)),
    "map says too little": (Command.DMA_MAP, dma(0, PAGE, argsz=31)),
    "map of nothing": (Command.DMA_MAP, dma(0, 0)),
    "map that wraps": (Command.DMA_MAP, dma(LAST - PAGE + 1, 2 * PAGE)),
    "unmap too short": (Command.DMA_UNMAP, bytes(23)),
    "unmap with a bitmap": (Command.DMA_UNMAP, undma(0, PAGE, 1)),
    "version again": (Command.VERSION, pack_version(dict(QEMU_CAPABILITIES))),
}


@pytest_asyncio.fixture
async def server() -> AsyncIterator[Served]:
    with no_fds_lost():
        async with served() as device:
            yield device


@pytest_asyncio.fixture
async def client(server: Served) -> AsyncIterator[Client]:
    async with await Client.connect(server.path) as client:
        await client.negotiate()
        yield client
        assert client.strays == 0


# -- requests that are refused ------------------------------------------------------------------------


@pytest.mark.parametrize("what", WRONG)
async def test_wrong_requests_are_refused_and_the_next_one_is_answered(client: Client, what: str) -> None:
    command, payload = WRONG[what]
    before = count_fds()
    for fds in range(3):
        with descriptors(fds) as sent, pytest.raises(Refused) as caught:
            await client.request(command, payload, fds=sent, room=ROOM)
        assert caught.value.errno in (errno.EINVAL, errno.ENOTSUP)
        assert count_fds() == before
    client.post(command, payload)
    assert (await client.get_info()).irqs == 5


@pytest.mark.parametrize("command", [0, 11, 12, 14, 16, 17, 18, 19, 255, 65535])
async def test_unknown_commands_are_not_supported(client: Client, command: int) -> None:
    for payload in (b"", bytes(16), bytes(4000)):
        with pytest.raises(Refused) as caught:
            await client.request(command, payload)
        assert caught.value.errno == errno.ENOTSUP
    await client.get_info()


# -- memory -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("address", "size"), [(0, 1), (0, 4), (1, 2), (3, 4), (1, 1)])
async def test_memory_may_not_overlap(client: Client, address: int, size: int) -> None:
    await client.dma_map(PAGE, 3 * PAGE)
    with pytest.raises(Refused) as caught:
        await client.dma_map(address * PAGE, (size + (address == 0)) * PAGE)
    assert caught.value.errno == errno.EEXIST
    await client.dma_map(0, PAGE)
    await client.dma_map(4 * PAGE, PAGE)


@pytest.mark.parametrize(("address", "size"), [(0, 1), (1, 1), (2, 1), (0, 4), (1, 3), (8, 1)])
async def test_only_what_was_mapped_is_unmapped(client: Client, address: int, size: int) -> None:
    await client.dma_map(PAGE, 2 * PAGE)
    with pytest.raises(Refused) as caught:
        await client.dma_unmap(address * PAGE, size * PAGE)
    assert caught.value.errno in (errno.EINVAL, errno.ENOENT)
    await client.dma_unmap(PAGE, 2 * PAGE)
    with pytest.raises(Refused):
        await client.dma_unmap(PAGE, 2 * PAGE)


# -- the beginning of a connection --------------------------------------------------------------------


async def rejected(client: Client, command: int, payload: bytes) -> None:
    """An error, and perhaps the end of the connection; never a good reply."""
    with pytest.raises((Refused, Disconnected)):
        await client.request(command, payload, room=ROOM)
    assert client.complaint == ""


@pytest.mark.parametrize("command", [command for command in Command if command != Command.VERSION])
async def test_version_comes_first(server: Served, command: Command) -> None:
    payload = {Command.DEVICE_GET_INFO: struct.pack("<IIII", 16, 0, 0, 0), Command.DEVICE_RESET: b""}
    async with await Client.connect(server.path) as client:
        await rejected(client, command, payload.get(command, bytes(32)))
    await works(server)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        bytes(3),
        struct.pack("<HH", 1, 0) + b"{}\0",
        bytes(4) + b"{}",
        bytes(4) + b"{\0",
        bytes(4) + b"[]\0",
        bytes(4) + b"{}\0{}\0",
        bytes(4) + b"\xff\0",
        bytes(4) + b"[" * 100_000 + b"\0",
        bytes(4) + b'{"capabilities": 3}\0',
        bytes(4) + b'{"capabilities": {"max_msg_fds": "many"}}\0',
        bytes(4) + b'{"capabilities": {"max_msg_fds": -1}}\0',
        bytes(4) + b'{"capabilities": {"max_data_xfer_size": 1e99}}\0',
        bytes(4) + b'{"capabilities": {"max_data_xfer_size": ' + b"9" * 5000 + b"}}\0",
    ],
    ids=lambda payload: payload[:40].decode(errors="replace"),
)
async def test_bad_versions_are_rejected(server: Served, payload: bytes) -> None:
    async with await Client.connect(server.path) as client:
        await rejected(client, Command.VERSION, payload)
    await works(server)


# -- framing ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 15, 1 << 30, 0xFFFFFFFF])
async def test_a_size_that_cannot_be_ends_the_connection(server: Served, client: Client, size: int) -> None:
    client.send_raw(HEADER.pack(1, Command.DEVICE_GET_INFO, size, 0, 0) + bytes(64))
    assert await client.wait_closed() == ""
    while client.strays:
        assert (await client.receive_raw()).flags == ERROR
    await works(server)


@pytest.mark.parametrize("flags", [Flag.REPLY, ERROR, Flag.REPLY | Flag.NO_REPLY])
async def test_a_reply_to_nothing_ends_the_connection(server: Served, client: Client, flags: int) -> None:
    with descriptors(2) as sent:
        client.send_raw(pack(1, Command.DMA_READ, bytes(16), flags=flags), sent)
        assert await client.wait_closed() == ""
    await works(server)


@pytest.mark.parametrize("flags", [0x2, 0xF, 0x40, 0x80000000, 0xFFFFFFFE])
async def test_unknown_flags_do_no_harm(server: Served, client: Client, flags: int) -> None:
    good = struct.pack("<IIII", 16, 0, 0, 0)
    client.send_raw(pack(1, Command.DEVICE_GET_INFO, good, flags=flags) + pack(2, Command.DEVICE_GET_INFO, good))
    with contextlib.suppress(Disconnected):
        while (await client.receive_raw()).id != 2:
            continue
    client.close()
    await works(server)
