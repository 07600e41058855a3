"""Clients of the vfio-user server come, are in a hurry or slow, and go at any moment; nothing of them stays."""

import asyncio
import contextlib
import errno
import os
import struct
import sys
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from vfio_user_bench import Served, count_fds, driven, no_fds_lost, served
from vfio_user_client import Client, Command, Disconnected, Refused, pack
from vfio_user_machine import VfioUserMachine
from vfio_user_payloads import QEMU_CAPABILITIES, pack_version

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="vfio-user needs Linux")

LIMIT = 60.0
CONNECTIONS = 50
PAGE = 4096
VECTORS = 3
REFUSED_AT_ONCE = 16
INFO = pack(2, Command.DEVICE_GET_INFO, struct.pack("<IIII", 16, 0, 0, 0))


@pytest_asyncio.fixture
async def server() -> AsyncIterator[Served]:
    with no_fds_lost():
        async with served() as device:
            yield device


@pytest.fixture
def memory(server: Served) -> Iterator[int]:
    """A memfd of 16 pages, closed before the server's descriptors are counted."""
    fd = os.memfd_create("guest", os.MFD_CLOEXEC)
    os.ftruncate(fd, 16 * PAGE)
    yield fd
    os.close(fd)


def mapping(number: int, address: int, size: int = PAGE) -> bytes:
    return pack(number, Command.DMA_MAP, struct.pack("<IIQQQ", 32, 3, 0, address, size))


async def piecemeal(client: Client, data: bytes, size: int = 1, fds: tuple[int, ...] = ()) -> None:
    """Send in pieces, each of which the server has read before the next one goes out."""
    for at in range(0, len(data), size):
        client.send_raw(data[at : at + size], fds if not at else ())
        for _ in range(3):
            await asyncio.sleep(0)


async def accepted(server: Served) -> Client:
    """A connection the server takes: it may not have noticed yet that the one before has gone."""
    async with asyncio.timeout(LIMIT):
        while True:
            client = await Client.connect(server.path)
            try:
                await client.negotiate()
            except (Disconnected, Refused):
                client.close()
            else:
                return client


# -- how bytes arrive ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 3, 16, 17, 40])
async def test_messages_in_pieces(server: Served, memory: int, size: int) -> None:
    async with await Client.connect(server.path) as client:
        await piecemeal(client, pack(1, Command.VERSION, pack_version(dict(QEMU_CAPABILITIES))), size)
        assert (await client.receive_raw()).flags == 1
        for number in range(2, 5):
            await piecemeal(client, mapping(number, number * PAGE), size, (memory,))
            reply = await client.receive_raw()
            assert (reply.id, reply.flags) == (number, 1)
        await piecemeal(client, INFO * 5, size)
        for _ in range(5):
            assert (await client.receive_raw()).payload == struct.pack("<IIII", 16, 3, 9, 5)


async def test_descriptors_stay_with_their_messages(server: Served) -> None:
    """Files of different sizes, sent without waiting: each range fits its own file and no smaller one."""
    files = [os.memfd_create(f"guest {pages}") for pages in range(1, 17)]
    async with await accepted(server) as client:
        for pages, fd in enumerate(files, 1):
            os.ftruncate(fd, pages * PAGE)
            client.send_raw(INFO)
            client.send_raw(mapping(pages, pages << 32, pages * PAGE), [fd])
            client.send_raw(INFO + INFO)
        replies = [await client.receive_raw() for _ in range(4 * len(files))]
        assert all(reply.flags == 1 for reply in replies)
    for fd in files:
        os.close(fd)


# -- coming and going ---------------------------------------------------------------------------------


async def test_a_second_client_is_turned_away(server: Served) -> None:
    async with VfioUserMachine() as machine, driven(machine, server.path) as driver:
        for _ in range(3):
            async with await Client.connect(server.path) as second:
                with pytest.raises(Refused) as refused:
                    await second.negotiate()
                assert refused.value.errno == errno.EBUSY
                with pytest.raises(Disconnected):
                    await second.request(Command.DEVICE_GET_INFO, bytes(16))
                assert second.complaint == ""
            reply = await driver.queues[0].submit([b"first"], [5])
            assert reply.data == b"first"
    assert machine.faults == []


async def test_clients_that_are_turned_away_cannot_pile_up(server: Served, memory: int) -> None:
    """They say nothing, half of a message, or send a descriptor; then they are cut off, one by one."""
    async with await accepted(server), contextlib.AsyncExitStack() as stack:
        before = count_fds()
        others = [await stack.enter_async_context(await Client.connect(server.path)) for _ in range(CONNECTIONS)]
        for number, other in enumerate(others[-3:]):
            other.send_raw(INFO[: 8 * number], [memory] if number else [])
        with pytest.raises(Disconnected):
            await others[0].receive_raw()
        assert count_fds() <= before + CONNECTIONS + REFUSED_AT_ONCE


async def test_fifty_clients_leave_nothing(server: Served, memory: int) -> None:
    before = count_fds()
    for number in range(CONNECTIONS):
        async with await accepted(server) as client:
            for address in range(0, 8 * PAGE, PAGE):
                await client.dma_map(address, PAGE, memory, address)
            bells = [os.eventfd(0) for _ in range(VECTORS)]
            await client.set_irqs(0x24, 2, 0, VECTORS, bells)
            await client.set_irqs(0x24, 0, 0, 1, bells[:1])
            await client.get_region_io_fds(0)
            if number % 2:
                await client.set_irqs(0x21, 2, 0, 0)
                await client.dma_unmap(flags=2)
            for bell in bells:
                os.close(bell)
    async with await accepted(server):
        assert count_fds() <= before + 2  # both ends of this connection


async def test_mapped_memory_costs_no_descriptors(server: Served, memory: int) -> None:
    """A client may map more ranges than this process may have files, which other devices need."""
    async with await accepted(server) as client:
        before = count_fds()
        for number in range(200):
            await client.dma_map(number * PAGE, PAGE, memory, number % 16 * PAGE)
        assert count_fds() < before + 20


async def test_an_end_within_any_message_leaves_nothing(server: Served, memory: int) -> None:
    whole = mapping(1, 0)
    before = count_fds()
    for length in range(1, len(whole), 3):
        async with await accepted(server) as client:
            client.send_raw(whole[:length], [memory])
            if length % 2:
                client.wire.shut_down_sending()
                assert await client.wait_closed() == ""
    async with await accepted(server):
        assert count_fds() <= before + 2


async def test_connections_that_say_nothing(server: Served) -> None:
    for _ in range(CONNECTIONS):
        (await Client.connect(server.path)).close()
    (await accepted(server)).close()


async def test_a_client_that_never_reads_and_leaves(server: Served) -> None:
    async with await accepted(server) as client:
        client.wire.pause_reading()
        read = pack(1, Command.REGION_READ, struct.pack("<QII", 0, 7, 256))
        for _ in range(40):
            client.send_raw(read * 100)
            await asyncio.sleep(0)  # the server's turn
    (await accepted(server)).close()


async def test_the_device_starts_anew_for_each_client(server: Served) -> None:
    for _ in range(3):
        async with await accepted(server) as client:
            assert await client.region_read(0, 0x14, 1) == b"\0"
            assert await client.region_read(7, 4, 2) == b"\0\0"
            await client.region_write(7, 4, b"\x06\0")
            await client.region_write(0, 0x14, b"\x01")
            assert await client.region_read(7, 4, 2) == b"\x06\0"


async def test_requests_in_flight_when_the_machine_leaves(server: Served) -> None:
    for _ in range(10):
        async with VfioUserMachine() as machine, driven(machine, server.path, succeeding=True) as driver:
            for _ in range(20):
                driver.queues[0].post([bytes(1000)], [1000])
            await driver.queues[0].kick(force=True)
            machine.pull(0)
    async with await accepted(server):
        assert server.function.stats().leases == 0
