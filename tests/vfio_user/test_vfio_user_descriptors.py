"""Descriptors that the vfio-user server has no use for, or that are not what they should be."""

import asyncio
import contextlib
import os
import struct
import sys
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from vfio_user_bench import Served, count_fds, descriptors, no_fds_lost, served, works
from vfio_user_client import Client, Command, Disconnected, Flag, Refused, pack

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="vfio-user needs Linux")

PAGE = 4096
ERROR = Flag.REPLY | Flag.ERROR


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


def odd_descriptor(kind: str) -> int:
    """A descriptor that is no eventfd."""
    if kind == "file":
        return os.memfd_create("odd")
    if kind == "path":
        return os.open("/tmp", os.O_PATH)  # one that nothing can be done with
    if kind == "device":
        return os.open("/dev/zero", os.O_RDWR)
    out, into = os.pipe()
    os.close(into if kind == "closed pipe" else out)
    return out if kind == "closed pipe" else into


@pytest.mark.parametrize("size", [0, 16, 32])
@pytest.mark.parametrize("command", [command for command in Command if command not in (2, 8)])
async def test_descriptors_nobody_wants_are_closed(client: Client, command: Command, size: int) -> None:
    before = count_fds()
    with descriptors(16) as sent:
        client.send_raw(pack(1, command, bytes(size)), sent)
        reply = await client.receive_raw()
        assert reply.command == command
    assert count_fds() == before


@pytest.mark.parametrize(("count", "fds"), [(1, 2), (2, 1), (0, 1)])
async def test_interrupts_need_one_descriptor_each(client: Client, count: int, fds: int) -> None:
    before = count_fds()
    with descriptors(fds) as sent, pytest.raises(Refused):
        await client.set_irqs(0x24, 2, 0, count, sent)
    assert count_fds() == before


@pytest.mark.parametrize("flags", [0x24, 0x14])
@pytest.mark.parametrize("kind", ["file", "path", "pipe", "closed pipe", "device"])
async def test_descriptors_of_every_kind_harm_nobody(server: Served, client: Client, flags: int, kind: str) -> None:
    """For the interrupt pin and its end of interrupt; whether they are taken is the server's choice."""
    before = count_fds()
    fd = odd_descriptor(kind)
    try:
        with contextlib.suppress(Refused):
            async with asyncio.timeout(10):
                await client.set_irqs(flags, 0, 0, 1, [fd])
        with contextlib.suppress(Refused):
            async with asyncio.timeout(10):
                await client.set_irqs(flags, 2, 0, 1, [fd])
    finally:
        os.close(fd)
    await client.set_irqs(0x21, 0, 0, 0)
    await client.set_irqs(0x21, 2, 0, 0)
    assert count_fds() == before


async def test_an_end_of_interrupt_that_is_always_ready_does_not_spin(client: Client) -> None:
    """A pipe whose writer is gone can be read for ever; the event loop must not."""
    fd = odd_descriptor("closed pipe")
    with contextlib.suppress(Refused):
        await client.set_irqs(0x14, 0, 0, 1, [fd])
    os.close(fd)
    before = time.process_time()
    await asyncio.sleep(0.5)  # nothing happens, which is the point
    assert time.process_time() - before < 0.05


async def test_more_descriptors_than_agreed_end_the_connection(server: Served, client: Client) -> None:
    before = count_fds()
    with descriptors(17) as sent:
        client.send_raw(pack(1, Command.DEVICE_SET_IRQS, struct.pack("<IIIII", 20, 0x24, 2, 0, 17)), sent)
        with contextlib.suppress(Disconnected):
            assert (await client.receive_raw()).flags == ERROR
    assert count_fds() <= before
    client.close()
    await works(server)


async def test_descriptors_that_cannot_be_mapped_are_refused(client: Client) -> None:
    small = os.memfd_create("small")
    os.ftruncate(small, PAGE)
    before = count_fds()
    with descriptors(1) as bell:
        for fd, offset, size in ((bell[0], 0, PAGE), (small, 0, 2 * PAGE), (small, PAGE, PAGE), (small, 1, PAGE - 1)):
            with pytest.raises(Refused):
                await client.dma_map(0, size, fd, offset)
    with pytest.raises(Refused):
        await client.request(Command.DMA_MAP, struct.pack("<IIQQQ", 32, 3, 0, 0, PAGE), fds=[small, small])
    assert count_fds() == before
    await client.dma_map(0, PAGE, small)
    os.close(small)
