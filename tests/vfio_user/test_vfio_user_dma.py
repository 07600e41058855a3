"""Guest memory that the vfio-user server cannot map: it asks the client for every byte, whoever that is."""

import asyncio
import errno
import struct
import sys
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio
from vfio_user_bench import Served, driven, no_fds_lost, served, works
from vfio_user_client import Client, Disconnected, Message, Refused
from vfio_user_machine import VfioUserMachine
from vfio_user_ram import FLASH, FLASH_DATA

from hdvkit.runtime import State
from hdvkit.testing import DriverError, VirtioDriver
from hdvkit.testing.driver_rings import DESCRIPTOR
from hdvkit.testing.ram import HIGH

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="vfio-user needs Linux")

LIMIT = 60.0


@pytest_asyncio.fixture
async def server() -> AsyncIterator[Served]:
    with no_fds_lost():
        async with served() as device:
            yield device


async def echo(driver: VirtioDriver, data: bytes = b"hello") -> None:
    async with asyncio.timeout(LIMIT):
        reply = await driver.queues[0].submit([data], [len(data)])
    assert reply.data == data


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("max_transfer", [4096, 65536, 1 << 20])
async def test_no_transfer_is_larger_than_agreed(server: Served, max_transfer: int, packed: bool) -> None:
    async with (
        VfioUserMachine(no_fds=True, max_transfer=max_transfer) as machine,
        driven(machine, server.path, packed=packed) as driver,
    ):
        await echo(driver, bytes(range(256)) * 40)
        await asyncio.gather(*(echo(driver, b"%d" % number) for number in range(50)))
    assert machine.faults == []


@pytest.mark.parametrize("max_transfer", [0, 1, 64])
async def test_a_client_that_takes_next_to_nothing(server: Served, max_transfer: int) -> None:
    """It is refused, or gets what it asked for: slow, and with more requests than there are message ids."""
    async with VfioUserMachine(no_fds=True, max_transfer=max_transfer) as machine:
        try:
            async with driven(machine, server.path) as driver:
                await echo(driver, bytes(70_000))
        except (Refused, Disconnected, DriverError):
            machine.faults.clear()
    await works(server, no_fds=True)


async def test_slow_memory_holds_up_nothing_else(server: Served) -> None:
    gate = asyncio.Event()
    async with VfioUserMachine(no_fds=True) as machine, driven(machine, server.path) as driver:
        client = machine.slots[0].client

        async def slow(message: Message) -> bytes:
            await gate.wait()
            return client.answer(message)

        client.hook = slow
        asked = asyncio.ensure_future(echo(driver, bytes(100_000)))
        for _ in range(50):
            assert await driver.status() == 0xF
            assert (await client.get_info()).irqs == 5
        assert not asked.done()
        gate.set()
        await asked
    assert machine.faults == []


@pytest.mark.parametrize("number", [errno.ENODEV, errno.EPERM, errno.E2BIG, errno.ENOSYS, 0x7FFFFFFF])
async def test_refused_memory_ends_in_needs_reset_and_a_reset_heals(server: Served, number: int) -> None:
    async with VfioUserMachine(no_fds=True) as machine, driven(machine, server.path) as driver:
        await echo(driver)

        async def refuse(message: Message) -> None:
            raise Refused(number)

        machine.slots[0].client.hook = refuse
        with pytest.raises(DriverError, match="NEEDS_RESET"):
            await echo(driver)
        assert server.function.state is State.NEEDS_RESET
        machine.slots[0].client.hook = None
        await driver.reset()
        await driver.probe()
        await driver.start()
        await echo(driver)
    assert machine.faults == []


WRONG_ANSWERS: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda good: b"",
    "half a head": lambda good: good[:8],
    "no data": lambda good: good[:16],
    "one byte less": lambda good: good[:-1],
    "one byte more": lambda good: good + b"\0",
    "much more": lambda good: good + bytes(100_000),
    "another address": lambda good: struct.pack("<Q", 1) + good[8:],
    "another count": lambda good: good[:8] + struct.pack("<Q", 1 << 63) + good[16:],
}


@pytest.mark.parametrize("wrong", WRONG_ANSWERS)
async def test_wrong_answers_harm_only_their_own_machine(server: Served, wrong: str) -> None:
    async with VfioUserMachine(no_fds=True) as machine, driven(machine, server.path) as driver:
        client = machine.slots[0].client

        async def answer(message: Message) -> bytes:
            return WRONG_ANSWERS[wrong](client.answer(message))

        client.hook = answer
        asked = asyncio.ensure_future(echo(driver))
        lost = asyncio.ensure_future(client.wait_closed())
        async with asyncio.timeout(LIMIT):
            await asyncio.wait([asked, lost], return_when=asyncio.FIRST_COMPLETED)
        lost.cancel()
        with pytest.raises(DriverError, match=r"NEEDS_RESET|removed"):
            await asked
    assert machine.faults == []
    await works(server, no_fds=True)


async def test_a_machine_that_never_answers_may_leave(server: Served) -> None:
    async with VfioUserMachine(no_fds=True) as machine, driven(machine, server.path) as driver:
        await _stuck(machine, driver)
        machine.pull(0)
    await works(server, no_fds=True)
    assert server.function.stats().leases == 0


async def test_a_machine_that_never_answers_may_take_its_memory_back(server: Served) -> None:
    async with VfioUserMachine(no_fds=True) as machine, driven(machine, server.path) as driver:
        client = await _stuck(machine, driver)
        async with asyncio.timeout(LIMIT):
            for piece in machine.pieces:
                await client.dma_unmap(piece.address, piece.size)
        machine.pull(0)
    await works(server, no_fds=True)


async def _stuck(machine: VfioUserMachine, driver: VirtioDriver) -> Client:
    """Requests of the device for memory are under way, and will be for ever."""
    client = machine.slots[0].client
    asked = asyncio.Event()

    async def never(message: Message) -> None:
        asked.set()

    client.hook = never
    driver.queues[0].post([bytes(100)], [100])
    await driver.queues[0].kick(force=True)
    async with asyncio.timeout(LIMIT):
        await asked.wait()
    return client


async def test_mapped_memory_is_not_asked_for(server: Served) -> None:
    async with VfioUserMachine() as machine, driven(machine, server.path) as driver:
        await echo(driver, bytes(100_000))
        assert machine.slots[0].client.commands == []


async def _at(driver: VirtioDriver, address: int, *, writable: bool) -> bytes:
    """One request whose readable or writable buffer lies at an address."""
    queue = driver.queues[0]
    token = queue.post([bytes(64)], [64])
    for at in range(0, len(queue.descriptors), DESCRIPTOR.size):
        _, length, flags, following = DESCRIPTOR.unpack_from(queue.descriptors, at)
        if length and bool(flags & 2) == writable:
            DESCRIPTOR.pack_into(queue.descriptors, at, address, length, flags, following)
    await queue.kick(force=True)
    async with asyncio.timeout(LIMIT):
        return (await queue.wait(token)).data


@pytest.mark.parametrize("remote", [0x100000, HIGH])
async def test_mapped_and_remote_memory_in_one_request(server: Served, remote: int) -> None:
    pattern = bytes(range(64))
    mapped = HIGH if remote != HIGH else 0x100000
    async with (
        VfioUserMachine(remote={0x100000, HIGH} - {mapped}) as machine,
        driven(machine, server.path, indirect=False) as driver,
    ):
        for start in (remote, mapped):
            buffer = machine.ram(start + 0x100000, 64)
            buffer[:] = pattern
            assert await _at(driver, start + 0x100000, writable=False) == pattern
            buffer[:] = bytes(64)
            await _at(driver, start + 0x100000, writable=True)
            pattern = pattern[::-1]
    assert machine.faults == []


@pytest.mark.parametrize("no_fds", [False, True])
async def test_read_only_memory_is_not_written(server: Served, no_fds: bool) -> None:
    async with VfioUserMachine(no_fds=no_fds) as machine, driven(machine, server.path, indirect=False) as driver:
        with pytest.raises(DriverError, match="NEEDS_RESET"):
            await _at(driver, FLASH, writable=True)
        assert machine.ram(FLASH, len(FLASH_DATA)) == FLASH_DATA
    assert machine.faults == []
