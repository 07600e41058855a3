"""The host kind ``hdv`` on the double: what devices expect of a platform, by the driver of the simulated guest."""

import asyncio
from pathlib import Path

import pytest
from double_control import HIGH, MIB, Double
from hdv_on_double import guest_of, opened, plug, started
from hdvkit_virtiofs import MemoryFileSystem, VirtioFs

from hdvkit import Removal
from hdvkit.testing import FuseClient, GuestMount, check_backend
from hdvkit.testing.echo import Echo

LIMIT = 60.0
CHECKS = 11
VARIANTS = {
    "as-windows-does": {},
    "no-worker": {"worker_missing": 1},
    "worker-finds-nothing": {"worker_null": 1},
    "removal-works": {"removal": 1},
    "another-quota": {"aperture_quota": 40},
}
"""Switches of the double."""


@pytest.mark.parametrize("variant", VARIANTS)
async def test_it_is_all_that_devices_expect_of_a_platform(double: Double, variant: str) -> None:
    double.set(**VARIANTS[variant])
    async with asyncio.timeout(LIMIT):
        report = await check_backend(lambda: opened(double), plug)
    report.raise_for_failures()
    assert len(report.results) == CHECKS


@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
async def test_a_share_is_mounted_written_and_read(double: Double, tmp_path: Path, packed: bool) -> None:
    (tmp_path / "greeting").write_text("hello")
    data = bytes(range(256)) * 5000
    async with asyncio.timeout(LIMIT), opened(double) as host:
        share = await host.add(VirtioFs(source=tmp_path, tag="src"))
        driver = await plug(host, share, packed=packed)
        await driver.probe()
        await driver.start()
        hiprio, *requests = driver.queues
        async with GuestMount(FuseClient(requests, hiprio)) as mount:
            assert await mount.read_text("greeting") == "hello"
            await mount.write_bytes("big", data)
            assert await mount.read_bytes("big") == data
            assert sorted(await mount.listdir()) == ["big", "greeting"]
        assert (tmp_path / "big").read_bytes() == data
        assert share.stats().needs_resets == 0
        await driver.reset()
        assert share.slot.memory.leases == 0


@pytest.mark.parametrize("variant", ["as-windows-does", "no-worker"])
async def test_kicks_take_the_best_route_there_is(double: Double, variant: str) -> None:
    double.set(**VARIANTS[variant])
    async with asyncio.timeout(LIMIT), opened(double) as host:
        driver = await started(host, Echo())
        for number in range(50):
            assert (await driver.queues[0].submit([b"%d" % number], [9])).data == b"%d" % number
    matched = double.count("doorbells") > 0
    assert matched == (variant == "as-windows-does")


async def test_a_device_that_windows_cannot_remove_answers_with_errors(double: Double) -> None:
    files = MemoryFileSystem()
    async with asyncio.timeout(LIMIT), opened(double) as host:
        share = await host.add(VirtioFs(source=files, tag="src"))
        other = await started(host, Echo(), name="other")
        driver = await plug(host, share)
        await driver.probe()
        await driver.start()
        hiprio, *requests = driver.queues
        async with GuestMount(FuseClient(requests, hiprio)) as mount:
            assert await mount.listdir() == []
            assert await host.remove(share) is Removal.PARKED
            with pytest.raises(OSError, match="No such device"):
                await mount.listdir()
            with pytest.raises(OSError, match="No such device"):
                await mount.write_bytes("new", b"")
        assert files.root.names == {}
        assert (await other.queues[0].submit([b"still here"], [10])).data == b"still here"


async def test_a_parked_device_keeps_no_memory_mapped_but_its_rings(double: Double) -> None:
    async with asyncio.timeout(LIMIT), opened(double) as host:
        driver = await started(host, Echo())
        for number in range(20):
            assert (await driver.queues[0].submit([bytes(9000)], [9000])).written == 9000, number
        before = double.count("apertures_live")
        [function] = host.devices
        await host.remove(function)
        assert double.count("apertures_live") == function.slot.memory.leases < before


async def test_where_windows_can_remove_the_guest_loses_the_device(double: Double) -> None:
    double.set(removal=1)
    async with asyncio.timeout(LIMIT), opened(double) as host:
        function = await host.add(Echo())
        await plug(host, function)
        assert await host.remove(function) is Removal.REMOVED
        with pytest.raises(LookupError):
            await plug(host, function)
        assert host.devices == ()


async def test_memory_above_the_hole_is_reached(double: Double) -> None:
    """RAM that has no room below 4 GiB begins there, so addresses go higher than there is RAM."""
    async with asyncio.timeout(LIMIT), opened(double, memory_mb=3840 + 16) as host:
        driver = await started(host, Echo())
        assert guest_of(host).allocate(4096) > HIGH
        assert (await driver.queues[0].submit([b"high"], [4])).data == b"high"
        assert guest_of(host).allocated < 16 * MIB
