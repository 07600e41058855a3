"""The place of a device over vfio-user: clients that come and go, removal while one is connected, and the end."""

import asyncio
import errno
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from vfio_user_bench import count_fds, driven, no_fds_lost, served, socket_directory
from vfio_user_client import Client
from vfio_user_client import Refused as ClientRefused
from vfio_user_machine import VfioUserMachine

import hdvkit
from hdvkit import Event, EventKind, Removal, State
from hdvkit.pci import Message
from hdvkit.runtime import INTX
from hdvkit.testing import VirtioDriver
from hdvkit.testing.echo import Echo

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="vfio-user needs Linux")

LIMIT = 30.0
CONFIG_REGION = 7
STATUS = 0x14
TRIGGER_EVENTFD, UNMASK_EVENTFD = 0x24, 0x14
INTX_INDEX, MSIX_INDEX = 0, 2


@pytest.fixture(autouse=True)
async def in_time() -> AsyncIterator[None]:
    """Nothing waits for ever, and nothing is left on the loop."""
    before = asyncio.all_tasks()
    yield
    await asyncio.sleep(0)
    assert asyncio.all_tasks() - before - {asyncio.current_task()} == set()


def names(directory: Path) -> list[str]:
    return [one.name for one in directory.iterdir()]


async def told(events: AsyncIterator[Event], kind: EventKind) -> Event:
    """Wait for an event."""
    async with asyncio.timeout(LIMIT):
        async for event in events:
            if event.kind is kind:
                return event
    pytest.fail(f"the events ended without {kind}")


async def reads_the_device(client: Client) -> bool:
    """Whether somebody answers, and as the echo."""
    async with asyncio.timeout(LIMIT):
        return await client.region_read(CONFIG_REGION, 0, 4) == b"\xf4\x1a\x7f\x10"


# Removal


async def test_a_device_nobody_uses_is_removed_at_once() -> None:
    with no_fds_lost():
        async with served() as device:
            events = device.host.events()
            assert await device.host.remove(device.function) is Removal.REMOVED
            assert not device.path.exists()
            assert device.host.devices == ()
            assert device.function.state is State.REMOVED
            await told(events, EventKind.REMOVED)
            again = await device.host.add(Echo())
            assert again.place == {"socket": str(device.path)}
            async with await Client.connect(device.path) as client:
                await client.negotiate()
                assert await reads_the_device(client)


async def test_a_device_in_use_is_parked_until_its_client_goes() -> None:
    with no_fds_lost():
        async with served() as device:
            events = device.host.events()
            async with await Client.connect(device.path) as client:
                await client.negotiate()
                assert await device.host.remove(device.function) is Removal.PARKED
                assert not device.path.exists()
                assert await reads_the_device(client)
                assert device.function.state is State.PARKED
                assert device.host.devices == (device.function,)
                with pytest.raises(FileNotFoundError):
                    await Client.connect(device.path)
            assert (await told(events, EventKind.REMOVED)).place == {"socket": str(device.path)}
            assert not device.host.devices
            assert device.function.stats().state is State.REMOVED
            assert (await device.host.add(Echo())).place == {"socket": str(device.path)}


async def test_a_parked_device_refuses_its_driver() -> None:
    with no_fds_lost():
        async with served() as device, VfioUserMachine() as machine:
            events = device.host.events()
            async with driven(machine, device.path) as driver:
                async with asyncio.timeout(LIMIT):
                    assert (await driver.queues[0].submit([b"ping"], [4])).data == b"ping"
                    assert await device.host.remove(device.function) is Removal.PARKED
                    assert (await driver.queues[0].submit([b"ping"], [4])).data == b"\xff" * 4
                await driver.reset()
                again = VirtioDriver(machine, 0)
                await again.probe()
                await again.start()
                async with asyncio.timeout(LIMIT):
                    assert (await again.queues[1].submit([b"ping"], [4])).data == b"\xff" * 4
                machine.pull(0)
            await told(events, EventKind.REMOVED)
            assert device.host.devices == ()
            assert device.function.stats().leases == 0
        assert machine.faults == []


async def test_a_removal_while_the_client_goes_ends_in_removed() -> None:
    for turns in range(6):
        async with served() as device:
            events = device.function.events()
            client = await Client.connect(device.path)
            await client.negotiate()
            client.close()
            for _ in range(turns):
                await asyncio.sleep(0)
            await device.host.remove(device.function)
            await told(events, EventKind.REMOVED)
            assert device.host.devices == ()


# The end of the host


@pytest.mark.parametrize("no_fds", [False, True])
async def test_closing_the_host_hangs_up_and_leaves_nothing(no_fds: bool) -> None:
    tasks = asyncio.all_tasks()
    with socket_directory() as directory, no_fds_lost():
        fds = count_fds()
        async with VfioUserMachine(no_fds=no_fds) as machine:
            of_the_machine = count_fds() - fds
            host = await hdvkit.open_host("vfio-user", directory=directory)
            function = await host.add(Echo())
            driver = VirtioDriver(machine, await machine.plug(function.place["socket"]))
            machine.on_unplug[0] = driver.removed
            await driver.probe()
            await driver.start()
            async with asyncio.timeout(LIMIT):
                await driver.queues[0].submit([b"ping"], [4])
                client = machine.slots[0].client
                await host.aclose()
                assert await client.wait_closed() == ""
            assert function.state is State.CLOSED
            assert function.stats().leases == 0
            assert names(directory) == []
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert asyncio.all_tasks() - tasks - driver._tasks == set()
            assert count_fds() - fds == of_the_machine


async def test_closing_the_host_with_a_parked_device_ends_it() -> None:
    with no_fds_lost():
        async with served() as device, await Client.connect(device.path) as client:
            await client.negotiate()
            events = device.function.events()
            assert await device.host.remove(device.function) is Removal.PARKED
            await device.host.aclose()
            assert await client.wait_closed() == ""
            assert (await told(events, EventKind.CLOSED)).device == device.function.name
            assert device.function.state is State.CLOSED


# Clients


async def test_a_second_client_is_turned_away_and_the_first_goes_on() -> None:
    with no_fds_lost():
        async with served() as device:
            async with await Client.connect(device.path) as first:
                await first.negotiate()
                for _ in range(3):
                    async with await Client.connect(device.path) as second:
                        with pytest.raises(ClientRefused):
                            await second.negotiate()
                    assert await reads_the_device(first)
            async with await Client.connect(device.path) as third:
                await third.negotiate()
                assert await reads_the_device(third)


async def test_a_new_client_finds_a_device_that_was_reset() -> None:
    with no_fds_lost():
        async with served() as device:
            for _ in range(20):
                async with await Client.connect(device.path) as client:
                    await client.negotiate()
                    assert await client.region_read(0, STATUS, 1) == b"\0"
                    await client.region_write(0, STATUS, b"\1")
                    await client.region_write(0, STATUS, b"\3")
                    assert await client.region_read(0, STATUS, 1) == b"\3"
                    fds = [os.eventfd(0) for _ in range(3)]
                    await client.set_irqs(TRIGGER_EVENTFD, MSIX_INDEX, 0, 3, fds)
                    ram = os.memfd_create("guest")
                    os.truncate(ram, 1 << 20)
                    await client.dma_map(0, 1 << 20, ram)
                    for fd in (*fds, ram):
                        os.close(fd)


async def test_interrupts_without_a_client_go_nowhere() -> None:
    async with served() as device:
        slot = device.function.slot
        for message in (INTX, Message(0, 0, 0), Message(2, 0, 0)):
            slot.interrupt(message)
        async with await Client.connect(device.path) as client:
            await client.negotiate()
            bell = os.eventfd(0, os.EFD_NONBLOCK)
            await client.set_irqs(TRIGGER_EVENTFD, MSIX_INDEX, 2, 1, [bell])
            with pytest.raises(BlockingIOError):
                os.eventfd_read(bell)
            slot.interrupt(Message(2, 0, 0))
            assert os.eventfd_read(bell) == 1
            os.close(bell)
        device.function.config_changed()


@pytest.mark.parametrize(
    ("index", "flags", "kind"),
    [
        (MSIX_INDEX, TRIGGER_EVENTFD, "path"),
        (INTX_INDEX, TRIGGER_EVENTFD, "path"),
        (INTX_INDEX, UNMASK_EVENTFD, "path"),
        (INTX_INDEX, UNMASK_EVENTFD, "memory"),
    ],
)
async def test_a_strange_descriptor_is_answered_and_not_kept(index: int, flags: int, kind: str) -> None:
    with no_fds_lost():
        async with served() as device, await Client.connect(device.path) as client:
            await client.negotiate()
            await client.get_info()
            fd = os.open("/dev/null", os.O_PATH) if kind == "path" else os.memfd_create("no eventfd")
            before = count_fds()
            with pytest.raises(ClientRefused) as refused:
                async with asyncio.timeout(1):
                    await client.set_irqs(flags, index, 0, 1, [fd])
            assert refused.value.errno in (errno.EINVAL, errno.EBADF, errno.EPERM)
            assert count_fds() == before
            assert await reads_the_device(client)
            os.close(fd)
