"""Guest memory, kicks and interrupts of a device on the double, at the limits that Windows has."""

import asyncio
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from double_control import MIB, Double
from hdv_on_double import guest_of, opened, plug, started, until

from hdvkit import Chain, GuestError, Queue, VirtioDevice
from hdvkit.hosts.hdv.doorbells import MOST
from hdvkit.testing.driver import VirtioDriver
from hdvkit.testing.echo import Echo

LIMIT = 60.0


class Wide(Echo):
    """Has more queues than a device may have doorbells."""

    queue_names = tuple(f"queue {number}" for number in range(MOST + 4))


class Keeping(VirtioDevice):
    """Keeps every chain until it is told to let go."""

    device_type = 4

    def __init__(self) -> None:
        self.go = asyncio.Event()

    async def serve(self, queue: Queue) -> None:
        """Take all there is."""
        await queue.each(self.answer)

    async def answer(self, chain: Chain) -> None:
        """Wait, then echo."""
        await self.go.wait()
        chain.write(chain.read())


async def echoed(driver: VirtioDriver, data: bytes, queue: int = 0) -> None:
    async with asyncio.timeout(LIMIT):  # so that what hangs has a name
        await echo(driver, data, queue)


async def echo(driver: VirtioDriver, data: bytes, queue: int) -> None:
    assert (await driver.queues[queue].submit([data], [len(data)])).data == data


# -- memory ---------------------------------------------------------------------------------------


async def test_all_devices_together_stay_below_the_quota_of_apertures(double: Double) -> None:
    async with opened(double) as host:
        drivers = [await started(host, Echo(), name=str(number)) for number in range(4)]
        for round_ in range(2):
            pages = [bytes([round_, page % 256]) * 2048 for page in range(130)]
            await asyncio.gather(*(echoed(driver, page) for driver in drivers for page in pages))
        assert double.count("apertures_peak") <= 448
        assert host.devices[0].slot.memory.pool.stats().evictions > 0


async def test_a_quota_that_others_use_up_is_lived_with(double: Double) -> None:
    double.set(aperture_quota=24)
    keeping = Keeping()
    async with opened(double) as host:
        driver = await started(host, keeping)
        data = [bytes([number]) * 9000 for number in range(30)]
        asked = [asyncio.create_task(driver.queues[0].submit([one], [len(one)])) for one in data]
        await until(lambda: host.devices[0].stats().queues[0].in_flight >= 10)
        keeping.go.set()
        assert [(await one).data for one in asked] == data
        assert host.devices[0].stats().needs_resets == 0
        assert host.devices[0].slot.memory.pool.stats().copies > 0
        assert double.count("apertures_peak") <= 24


async def test_pages_are_mapped_when_they_are_touched_and_not_before(double: Double) -> None:
    double.set(stale_pages=1)
    async with opened(double) as host:
        driver = await started(host, Echo())
        await echoed(driver, b"fresh" * 1000)
        assert double.count("apertures_stale") == 0


async def test_what_is_only_read_is_mapped_for_reading(double: Double) -> None:
    async with opened(double) as host:
        function = host.devices[0] if host.devices else await host.add(Echo())
        driver = await plug(host, function)
        await driver.probe()
        await driver.start()
        guest = guest_of(host)
        address = guest.allocate(4096)
        with function.slot.memory.lease(address, 16, writable=False) as view:
            assert view.readonly
        with function.slot.memory.lease(address, 16, writable=True) as view:
            view[:5] = b"there"
        assert bytes(guest.ram(address, 5)) == b"there"


async def test_addresses_without_ram_are_the_guests_mistake(double: Double) -> None:
    async with opened(double, memory_mb=4096) as host:
        memory = (await host.add(Echo())).slot.memory
        hole, above = 0xF000_0000, 0x1_0000_0000 + 4096 * MIB
        with pytest.raises(GuestError, match=r"0xf0000000 cannot be mapped: mapping 4096 bytes.*E_INVALIDARG"):
            memory.lease(hole, 16, writable=False)
        with pytest.raises(GuestError, match="do not lie inside guest RAM"):
            memory.lease(above, 1, writable=False)


async def test_memory_that_is_given_back_after_the_end_is_not_asked_about(double: Double) -> None:
    """Windows would crash the process; the double does."""
    async with opened(double) as host:
        memory = (await host.add(Echo())).slot.memory
        lease = memory.lease(guest_of(host).allocate(4096), 16, writable=True)
    assert "HdvTeardownDeviceHost" in double.log()
    lease.release()
    memory.clear()
    with pytest.raises(GuestError, match="is not attached to a machine"):
        memory.lease(0x1_0000_0000, 16, writable=True)
    assert memory.pool.stats().live == 0


# -- kicks ----------------------------------------------------------------------------------------


async def test_eight_doorbells_are_the_most_and_all_queues_are_heard(double: Double) -> None:
    async with opened(double) as host:
        driver = await started(host, Wide())
        for queue in range(len(Wide.queue_names)):
            await echoed(driver, b"queue %d" % queue, queue)
        await until(lambda: double.count("doorbells_live") == MOST)
        await driver.reset()
        await until(lambda: double.count("doorbells_live") == 0)
        await driver.probe()
        await driver.start()
        await echoed(driver, b"again")
        await until(lambda: double.count("doorbells_live") == MOST)
    assert double.count("doorbells_live") == double.count("events_live") == double.count("waits_live") == 0


async def test_doorbells_can_be_done_without(double: Double) -> None:
    async with opened(double, doorbells=False) as host:
        await echoed(await started(host, Echo()), b"trapped")
    assert double.count("doorbells") == 0
    assert not [line for line in double.log() if "Doorbell" in line or "Worker" in line]


async def test_hdv_is_asked_for_doorbells_once_when_it_denies_them(double: Double) -> None:
    async with opened(double) as host:
        for number in range(3):
            await echoed(await started(host, Echo(), name=str(number)), b"rung")
    assert double.log().count("HdvRegisterDoorbell") == 1


async def test_an_external_host_has_the_doorbells_of_hdv(double: Double) -> None:
    async with opened(double, hosting_model="External") as host:
        driver = await started(host, Echo())
        await until(lambda: double.count("doorbells_live") == 2)
        await echoed(driver, b"rung")
    assert double.count("doorbells") > 0
    assert not [line for line in double.log() if "Worker" in line]


@pytest.mark.parametrize("depth", [1, 2, 3])
async def test_a_worker_that_finds_nothing_leaves_kicks_trapped(
    double: Double, depth: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    double.set(worker_null=depth)
    async with opened(double) as host:
        driver = await started(host, Echo())
        await echoed(driver, b"trapped")
        await until(lambda: "kicks of device" in caplog.text)
        await driver.reset()
        await driver.probe()
        await driver.start()
        await echoed(driver, b"trapped")
    assert caplog.text.count("are trapped") == 1, "the guest decides how often its driver comes up"


async def test_more_than_64_doorbells_are_heard(double: Double) -> None:
    """Windows waits for 64 handles in one call; there are more here."""
    async with opened(double) as host:
        drivers = [await started(host, Wide(), name=str(number)) for number in range(9)]
        await until(lambda: double.count("doorbells_live") == 9 * MOST)
        for driver in drivers:
            for queue in range(MOST):
                await echoed(driver, b"here", queue)


# -- interrupts -----------------------------------------------------------------------------------


async def test_interrupts_are_repeated_on_request_and_the_guest_goes_on(double: Double) -> None:
    async with opened(double, repeat_interrupts=True) as host:
        driver = await started(host, Echo())
        await echoed(driver, b"the first finds its way")
        double.set(lose_interrupts=2)
        async with asyncio.timeout(30):
            for number in range(20):
                await echoed(driver, b"%d" % number)
        double.set(lose_interrupts=0)
        interrupts = host.devices[0].slot.interrupts
        assert double.count("interrupts_lost") > 0
        assert interrupts.repeated > 0
        await driver.reset()
        repeated, rounds = interrupts.repeated, interrupts.rounds
        await until(lambda: interrupts.rounds > rounds + 3)
        assert interrupts.repeated == repeated, "what the last driver programmed is nothing to the next"
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "repeat interrupts"]


async def test_without_request_nothing_is_repeated(double: Double) -> None:
    async with opened(double) as host:
        await echoed(await started(host, Echo()), b"once")
        interrupts = host.devices[0].slot.interrupts
        assert (interrupts.sent, interrupts.repeated, interrupts.refused) == (1, 0, 0)
        assert double.count("interrupts") == 1


async def test_an_interrupt_that_windows_refuses_is_told_once(double: Double, caplog: pytest.LogCaptureFixture) -> None:
    async with opened(double) as host:
        driver = await started(host, Echo())
        double.fail_next("HdvDeliverGuestInterrupt", 0x80070057, times=3)
        for number in range(1, 4):
            asked = asyncio.create_task(driver.queues[0].submit([b"x"], [1]))
            await until(lambda number=number: host.devices[0].slot.interrupts.refused == number)
            asked.cancel()
            await driver.reset()
            await driver.probe()
            await driver.start()
    assert caplog.text.count("delivering an interrupt failed") == 1, "the guest decides how often that is"


# -- threads --------------------------------------------------------------------------------------

FOREIGN = 32
ACCESSES = 150


@pytest.mark.parametrize("run", range(25 if os.environ.get("HDVKIT_STRESS") == "full" else 3))
async def test_many_foreign_threads_at_once(double: Double, run: int) -> None:
    """Reads and writes of registers from 32 threads, while two drivers do their work and come up anew."""
    async with opened(double) as host:
        drivers = [await started(host, Echo(), name=str(number)) for number in range(2)]
        system = guest_of(host).system
        slots = [await guest_of(host).slot(function.place["instance_id"]) for function in host.devices]
        windows = [system.bar(slot, bar) for slot in slots for bar in (0, 2)]
        begin = threading.Barrier(FOREIGN)

        def disturb(seed: int) -> int:
            begin.wait()
            for number in range(ACCESSES):
                window = windows[(seed + number) % len(windows)]
                assert window is not None
                system.mmio_read(window.address + 8 * ((seed * number) % 0x200), (1, 2, 4, 8)[number % 4])
                system.config_read(slots[number % 2], 4 * (number % 64), 4)
            return seed

        with ThreadPoolExecutor(FOREIGN) as pool:
            disturbing = [asyncio.wrap_future(pool.submit(disturb, seed)) for seed in range(FOREIGN)]
            for number in range(10):
                await asyncio.gather(*(echoed(driver, b"%d" % number) for driver in drivers))
            await drivers[0].reset()
            await drivers[0].probe()
            await drivers[0].start()
            await echoed(drivers[0], b"up again")
            assert sorted(await asyncio.gather(*disturbing)) == list(range(FOREIGN))
        assert [function.stats().needs_resets for function in host.devices] == [0, 0]
