"""What the vfio-user server answers, byte for byte, to a client that keeps the rules."""

import asyncio
import errno
import os
import struct
import sys
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from vfio_user_bench import Served, no_fds_lost, served
from vfio_user_client import Client, Command, Flag, Message, Refused, pack
from vfio_user_payloads import QEMU_CAPABILITIES, pack_version

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="vfio-user needs Linux")

VECTORS = 3
"""Of the echo: one for its configuration, one for each queue."""
CONFIG, REGISTERS, TABLE = 7, 0, 2
PAGE = 4096
SAMPLES = {
    Command.DMA_MAP: struct.pack("<IIQQQ", 32, 3, 0, 1 << 40, PAGE),
    Command.DMA_UNMAP: struct.pack("<IIQQ", 24, 2, 0, 0),
    Command.DEVICE_GET_INFO: struct.pack("<IIII", 16, 0, 0, 0),
    Command.DEVICE_GET_REGION_INFO: struct.pack("<IIIIQQ", 32, 0, 0, 0, 0, 0),
    Command.DEVICE_GET_REGION_IO_FDS: struct.pack("<IIII", 4096, 0, 0, 0),
    Command.DEVICE_GET_IRQ_INFO: struct.pack("<IIII", 16, 0, 2, 0),
    Command.DEVICE_SET_IRQS: struct.pack("<IIIII", 20, 0x21, 2, 0, 0),
    Command.REGION_READ: struct.pack("<QII", 0, CONFIG, 4),
    Command.REGION_WRITE: struct.pack("<QII", 4, CONFIG, 2) + b"\x06\x00",
    Command.DEVICE_RESET: b"",
}
"""A good request of each command but VERSION."""


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
        assert client.complaint == ""
        assert client.strays == 0


async def header_only(asked: "asyncio.Future[Message] | asyncio.Task[Message]") -> None:
    reply = await asked
    assert (reply.size, reply.flags, reply.payload) == (16, Flag.REPLY, b"")


async def refused(client: Client, command: int, payload: bytes, number: int = errno.EINVAL) -> None:
    """An error reply is the header alone; the connection checks that."""
    with pytest.raises(Refused) as caught:
        await client.request(command, payload, room=65536)
    assert caught.value.errno == number


async def test_version_agrees_within_the_room_qemu_has(server: Served) -> None:
    request = pack(0x1234, Command.VERSION, pack_version(dict(QEMU_CAPABILITIES)))
    assert len(request) == 214
    async with await Client.connect(server.path) as client:
        client.send_raw(request)
        reply = await client.receive_raw()
        assert reply[:2] == (0x1234, Command.VERSION)
        assert (reply.flags, reply.error) == (Flag.REPLY, 0)
        assert reply.size <= len(request)
        assert reply.payload.startswith(b"\0\0\0\0{")
        assert reply.payload.endswith(b"}\0")


async def test_version_offers_what_qemu_takes(server: Served) -> None:
    async with await Client.connect(server.path) as client:
        version = await client.negotiate()
        offered = version.capabilities
        assert (version.major, version.minor) == (0, 0)
        assert set(offered) <= {"max_msg_fds", "max_data_xfer_size", "pgsizes", "max_dma_maps"}
        assert 1 <= int(str(offered.get("max_msg_fds", 1))) <= 16
        assert PAGE <= int(str(offered.get("max_data_xfer_size", PAGE))) <= 64 << 20
        assert int(str(offered.get("pgsizes", PAGE))) % PAGE == 0
        assert 1 <= int(str(offered.get("max_dma_maps", 1))) <= 65535


@pytest.mark.parametrize("text", [b"{}\0", b'{"capabilities": {}}\0', b'{"capabilities": {"unheard_of": [1]}}\0'])
async def test_version_without_capabilities_is_good(server: Served, text: bytes) -> None:
    async with await Client.connect(server.path) as client:
        await client.request(Command.VERSION, bytes(4) + text, room=4096)
        await client.get_info()


async def test_a_later_minor_version_is_answered_with_ours(server: Served) -> None:
    async with await Client.connect(server.path) as client:
        reply = await client.request(Command.VERSION, pack_version(dict(QEMU_CAPABILITIES), minor=7))
        major, minor = struct.unpack_from("<HH", reply.payload)
        assert major == 0
        assert minor <= 7


async def test_the_device(client: Client) -> None:
    reply = await client.request(Command.DEVICE_GET_INFO, struct.pack("<IIII", 16, 0, 0, 0))
    assert reply.payload == struct.pack("<IIII", 16, 3, 9, 5)


async def test_the_regions(client: Client) -> None:
    for index in range(9):
        reply = await client.request(
            Command.DEVICE_GET_REGION_INFO, struct.pack("<IIIIQQ", 32, 0, index, 0, 0, 0), room=32
        )
        size = struct.unpack_from("<Q", reply.payload, 16)[0]
        assert reply.payload == struct.pack("<IIIIQQ", 32, 3 if size else 0, index, 0, size, 0)
        assert not size & (size - 1)
        assert bool(size) == (index in (REGISTERS, TABLE, CONFIG))
        assert reply.fds == []
    await refused(client, Command.DEVICE_GET_REGION_INFO, struct.pack("<IIIIQQ", 32, 0, 9, 0, 0, 0))


async def test_configuration_space_is_that_of_a_virtio_function(client: Client) -> None:
    info = await client.get_region_info(CONFIG)
    assert info.size in (256, 4096)
    whole = await client.region_read(CONFIG, 0, info.size)
    assert whole[:2] == b"\xf4\x1a"
    for size in (1, 2, 4):
        parts = [await client.region_read(CONFIG, offset, size) for offset in range(0, 64, size)]
        assert b"".join(parts) == whole[:64]


@pytest.mark.parametrize("index", range(5))
async def test_the_interrupts(client: Client, index: int) -> None:
    flags, count = {0: (7, 1), 2: (1, VECTORS)}.get(index, (None, 0))
    reply = await client.request(Command.DEVICE_GET_IRQ_INFO, struct.pack("<IIII", 16, 0, index, 0))
    argsz, seen_flags, seen_index, seen_count = struct.unpack("<IIII", reply.payload)
    assert (argsz, seen_index, seen_count) == (16, index, count)
    assert flags in (None, seen_flags)


async def test_there_is_no_sixth_interrupt(client: Client) -> None:
    await refused(client, Command.DEVICE_GET_IRQ_INFO, struct.pack("<IIII", 16, 0, 5, 0))


async def test_memory_is_mapped_and_unmapped(client: Client) -> None:
    fd = os.memfd_create("guest")
    os.ftruncate(fd, 1 << 20)
    wanted = struct.pack("<IIQQQ", 32, 3, 0x1000, 0x100000, 0x8000)
    for _ in range(3):
        await header_only(asyncio.ensure_future(client.request(Command.DMA_MAP, wanted, fds=[fd])))
        taken = struct.pack("<IIQQ", 24, 0, 0x100000, 0x8000)
        assert (await client.request(Command.DMA_UNMAP, taken)).payload == taken
    os.close(fd)


async def test_all_memory_is_unmapped_at_once(client: Client) -> None:
    for address in range(0, 8 * PAGE, 2 * PAGE):
        await client.dma_map(address, PAGE)
    everything = struct.pack("<IIQQ", 24, 2, 0, 0)
    assert (await client.request(Command.DMA_UNMAP, everything)).payload == everything
    await client.dma_map(0, 8 * PAGE)
    await client.dma_unmap(0, 8 * PAGE)
    assert (await client.request(Command.DMA_UNMAP, everything)).payload == everything


@pytest.mark.parametrize(
    ("flags", "index", "start", "count", "fds"),
    [
        (0x24, 2, 0, 1, 0),
        (0x24, 2, 0, VECTORS, VECTORS),
        (0x24, 2, VECTORS - 1, 1, 1),
        (0x24, 2, 0, VECTORS, 0),
        (0x21, 2, 0, 0, 0),
        (0x24, 0, 0, 1, 1),
        (0x11, 0, 0, 1, 0),
        (0x21, 0, 0, 0, 0),
    ],
)
async def test_interrupts_are_set(client: Client, flags: int, index: int, start: int, count: int, fds: int) -> None:
    bells = [os.eventfd(0) for _ in range(fds)]
    payload = struct.pack("<IIIII", 20, flags, index, start, count)
    await header_only(asyncio.ensure_future(client.request(Command.DEVICE_SET_IRQS, payload, fds=bells)))
    for bell in bells:
        os.close(bell)


async def test_reads_and_writes(client: Client) -> None:
    access = struct.pack("<QII", 0x14, REGISTERS, 1)
    assert (await client.request(Command.REGION_READ, access, room=1)).payload == access + b"\0"
    assert (await client.request(Command.REGION_WRITE, access + b"\x01")).payload == access
    assert (await client.request(Command.REGION_READ, access, room=1)).payload == access + b"\x01"
    await header_only(asyncio.ensure_future(client.reset()))
    assert await client.region_read(REGISTERS, 0x14, 1) == b"\0"


async def test_posted_writes_come_before_what_follows_them(client: Client) -> None:
    for value in (1, 3, 0) * 20:
        await client.region_write(REGISTERS, 0x14, bytes([value]), posted=True)
        assert await client.region_read(REGISTERS, 0x14, 1) == bytes([value])


async def test_several_writes_in_one_message(client: Client) -> None:
    writes = [(REGISTERS, 0x14, b"\x01"), (REGISTERS, 0x08, b"\x01\0\0\0"), (REGISTERS, 0x14, b"\x03")]
    for posted in (True, False):
        await client.region_write_multi(writes, posted=posted)
        assert await client.region_read(REGISTERS, 0x14, 1) == b"\x03"
        assert await client.region_read(REGISTERS, 0x08, 4) == b"\x01\0\0\0"
        await client.reset()


async def test_places_to_kick_through_descriptors(client: Client) -> None:
    """One eventfd for each queue, where its notifications go; too small a request is told what it needs."""
    for room in (16, 4096):
        places = await client.get_region_io_fds(REGISTERS, room)
        assert [(place.offset, place.kind) for place in places] == [(0x3000, 0), (0x3004, 0)]
        assert all(place.size in (0, 2) for place in places)
    assert await client.get_region_io_fds(TABLE) == []
    await refused(client, Command.DEVICE_GET_REGION_IO_FDS, struct.pack("<IIII", 4096, 0, 9, 0))


@pytest.mark.parametrize("command", SAMPLES)
async def test_no_reply_means_none(client: Client, command: Command) -> None:
    client.post(command, SAMPLES[command])
    await client.get_info()
    assert client.strays == 0


async def test_pipelined_requests_are_answered_in_order(client: Client) -> None:
    client.send_raw(b"".join(pack(number, command, SAMPLES[command]) for number, command in enumerate(SAMPLES)))
    for number, command in enumerate(SAMPLES):
        reply = await client.receive_raw()
        assert (reply.id, reply.command, reply.flags) == (number, command, Flag.REPLY)
        for fd in reply.fds:
            os.close(fd)


async def test_a_slow_reader_gets_every_reply(client: Client) -> None:
    """More replies than fit any buffer, while the client reads none of them."""
    client.wire.pause_reading()
    for number in range(4000):
        client.send_raw(pack(number, Command.REGION_READ, struct.pack("<QII", 0, CONFIG, 256)))
        if not number % 100:
            await asyncio.sleep(0)  # the server's turn
    client.wire.resume_reading()
    for number in range(4000):
        assert (await client.receive_raw()).id == number
