"""Devices over vfio-user behave as on any platform, whatever a machine does that conforms."""

import asyncio
import sys
from pathlib import Path

import pytest
from hdvkit_virtiofs.device import VirtioFs
from vfio_user_bench import IntxDriver, MachineOptions, Machines, driven, no_fds_lost, served, socket_directory
from vfio_user_machine import VfioUserMachine

import hdvkit
from hdvkit.observe import EventKind
from hdvkit.runtime import Removal, State
from hdvkit.testing import DriverError, FuseClient, GuestMount, VirtioDriver, check_backend
from hdvkit.testing.echo import CONFIG
from hdvkit.testing.ram import HIGH

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="vfio-user needs Linux")

LIMIT = 60.0
VARIANTS: dict[str, MachineOptions] = {
    "posted": {},
    "synchronous": {"posted": False},
    "no-descriptors": {"no_fds": True},
    "some-descriptors": {"remote": {HIGH}},
    "ioeventfds": {"ioeventfds": True},
    "no-descriptors-ioeventfds": {"no_fds": True, "ioeventfds": True},
}
CHECKS = 11


async def echo(driver: VirtioDriver, data: bytes = b"hello") -> None:
    async with asyncio.timeout(LIMIT):
        reply = await driver.queues[0].submit([data], [len(data)])
    assert reply.data == data


@pytest.mark.parametrize("variant", VARIANTS)
async def test_the_platform_passes_every_check(variant: str) -> None:
    with no_fds_lost(), socket_directory() as directory:
        async with Machines(VARIANTS[variant]) as machines:
            report = await check_backend(lambda: hdvkit.open_host("vfio-user", directory=directory), machines.plug)
        report.raise_for_failures()
        assert len(report.results) == CHECKS
    assert machines.faults == []
    assert bool(machines.commands) == ("-descriptors" in variant)
    assert bool(machines.rings) == ("ioeventfds" in variant)


@pytest.mark.parametrize("variant", VARIANTS)
async def test_a_share_is_mounted_written_and_read(variant: str, tmp_path: Path) -> None:
    (tmp_path / "greeting").write_text("hello")
    data = bytes(range(256)) * 5000
    with no_fds_lost():
        async with (
            asyncio.timeout(LIMIT),
            served(VirtioFs(source=tmp_path, tag="share")) as device,
            VfioUserMachine(**VARIANTS[variant]) as machine,
            driven(machine, device.path) as driver,
            GuestMount(FuseClient(driver.queues[1:], driver.queues[0])) as mount,
        ):
            assert await mount.read_text("greeting") == "hello"
            await mount.mkdir("sub")
            await mount.write_bytes("sub/data", data)
            assert await mount.read_bytes("sub/data") == data
            assert await mount.listdir("sub") == ["data"]
            await mount.rename("sub/data", "data")
            await mount.rmdir("sub")
    assert (tmp_path / "data").read_bytes() == data
    assert machine.faults == []


@pytest.mark.parametrize("variant", ["posted", "ioeventfds", "no-descriptors"])
async def test_one_machine_after_the_other_mounts_a_share(variant: str, tmp_path: Path) -> None:
    (tmp_path / "greeting").write_text("hello")
    with no_fds_lost():
        async with asyncio.timeout(LIMIT), served(VirtioFs(source=tmp_path, tag="share")) as device:
            for number in range(3):
                events = device.function.events()
                async with (
                    VfioUserMachine(**VARIANTS[variant]) as machine,
                    driven(machine, device.path) as driver,
                    GuestMount(FuseClient(driver.queues[1:], driver.queues[0])) as mount,
                ):
                    assert await mount.read_text("greeting") == "hello"
                    await mount.write_bytes("data", b"%d" % number)
                    assert await mount.read_bytes("data") == b"%d" % number
                async for event in events:
                    if event.kind is EventKind.RESET:
                        break
                assert device.function.stats().leases == 0
                assert machine.faults == []


@pytest.mark.parametrize("packed", [False, True])
async def test_packed_and_split_rings(packed: bool) -> None:
    async with (
        served() as device,
        VfioUserMachine() as machine,
        driven(machine, device.path, packed=packed, notification_data=packed) as driver,
    ):
        await asyncio.gather(*(echo(driver, b"%d" % number) for number in range(300)))
    assert machine.faults == []


@pytest.mark.parametrize("msix", [True, False], ids=["beside MSI-X", "alone"])
async def test_the_interrupt_pin(msix: bool) -> None:
    with no_fds_lost():
        async with (
            served(msix=msix) as device,
            VfioUserMachine() as machine,
            driven(machine, device.path, IntxDriver) as driver,
        ):
            for number in range(100):
                await echo(driver, b"%d" % number)
            await asyncio.gather(*(echo(driver, b"%d" % number) for number in range(200)))
            told = asyncio.ensure_future(driver.config_changed())
            device.function.device.config = lambda: CONFIG[::-1]  # type: ignore[method-assign]  # it now says so
            device.function.config_changed()
            async with asyncio.timeout(LIMIT):
                await told
            assert await driver.config_read(0, len(CONFIG)) == CONFIG[::-1]
    assert machine.faults == []


async def test_the_pin_gives_way_to_msix_and_comes_back() -> None:
    async with served() as device, VfioUserMachine() as machine:
        pin = machine.slots[await machine.plug(device.path)].pin
        assert pin.armed
        driver = VirtioDriver(machine, 0)
        await driver.probe()
        await driver.start()
        assert not pin.armed
        await echo(driver)
        assert pin.fired == 0
        await machine.reboot()
        assert pin.armed
        again = IntxDriver(machine, 0)
        await again.probe()
        await again.start()
        await echo(again)
        assert pin.fired > 0
    assert machine.faults == []


async def test_a_reboot_forgets_the_driver_and_the_next_one_comes_up() -> None:
    with no_fds_lost():
        async with served() as device, VfioUserMachine() as machine:
            slot = await machine.plug(device.path)
            for _ in range(5):
                driver = VirtioDriver(machine, slot)
                await driver.probe()
                await driver.start()
                await echo(driver)
                async with asyncio.timeout(LIMIT):
                    await machine.reboot()
                assert device.function.stats().leases == 0
                assert device.function.state is State.ATTACHED
    assert machine.faults == []


async def test_another_machine_may_come_when_one_has_gone() -> None:
    with no_fds_lost():
        async with served() as device:
            for _ in range(5):
                async with VfioUserMachine() as machine, driven(machine, device.path, succeeding=True) as driver:
                    await echo(driver)
                    machine.pull(0)
                assert machine.faults == []
            async with (
                asyncio.timeout(LIMIT),
                VfioUserMachine() as machine,
                driven(machine, device.path, succeeding=True) as driver,
            ):
                await device.function.ready()
                await echo(driver)


async def test_memory_taken_from_under_a_driver_ends_in_needs_reset() -> None:
    async with served() as device, VfioUserMachine() as machine, driven(machine, device.path) as driver:
        await echo(driver)
        async with asyncio.timeout(LIMIT):
            await machine.unplug(HIGH)
        assert device.function.stats().leases == 0
        with pytest.raises(DriverError):
            await echo(driver)
        assert device.function.state is State.NEEDS_RESET
    assert machine.faults == []


@pytest.mark.parametrize("variant", VARIANTS)
async def test_a_removed_device_refuses_until_its_machine_lets_go(variant: str) -> None:
    with no_fds_lost():
        async with served() as device, VfioUserMachine(**VARIANTS[variant]) as machine:
            async with driven(machine, device.path) as driver:
                await echo(driver)
                assert await device.host.remove(device.function) is Removal.PARKED
                assert not device.path.exists()
                async with asyncio.timeout(LIMIT):
                    reply = await driver.queues[0].submit([b"hello"], [5])
                assert reply.data == b"\xff" * 5
            machine.pull(0)
            async with asyncio.timeout(LIMIT):
                async for event in device.function.events():
                    assert event.kind is EventKind.REMOVED
            assert device.function.state is State.REMOVED
    assert machine.faults == []


async def test_without_a_machine_removal_is_at_once() -> None:
    with no_fds_lost():
        async with served() as device:
            assert await device.host.remove(device.function) is Removal.REMOVED
            assert not device.path.exists()


@pytest.mark.parametrize("variant", VARIANTS)
async def test_a_server_that_goes_away_leaves_an_empty_slot(variant: str) -> None:
    with no_fds_lost():
        async with VfioUserMachine(**VARIANTS[variant]) as machine:
            async with served() as device:
                driver = VirtioDriver(machine, await machine.plug(device.path))
                machine.on_unplug[0] = driver.removed
                await driver.probe()
                await driver.start()
                await echo(driver)
                client = machine.slots[0].client
            assert await client.wait_closed() == ""
            assert await machine.config_read(0, 0, 4) == 0xFFFFFFFF
            assert await driver.status() == 0xFF
            with pytest.raises(DriverError, match="removed"):
                await echo(driver)
            await driver.reset()
    assert machine.faults == []
