"""The tasks that serve queues: what a platform's threads, slow requests and clumsy authors may do to them."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from systems import shares_directories

import hdvkit
from hdvkit import Chain, Event, EventKind, Queue, State, UsageError, VirtioDevice
from hdvkit.runtime import CONFIG
from hdvkit.testing import DriverError, Guest
from hdvkit.testing.echo import Echo

COMMAND = 0x04
STATUS = 0x14
MEMORY, BUS_MASTER = 0x2, 0x4
TURNS = 2000


async def until(true: Callable[[], object]) -> None:
    for _ in range(TURNS):
        if true():
            return
        await asyncio.sleep(0)
    pytest.fail(f"still not so after {TURNS} turns of the loop")


def from_a_thread(call: Callable[[], None]) -> None:
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()


async def test_a_write_that_was_on_its_way_does_not_revive_a_removed_function() -> None:
    async with hdvkit.open_host("sim") as host:
        function = await host.add(Echo())
        driver = Guest.of(host).driver(function)
        await driver.probe()
        await driver.start([1])
        await function.ready()
        removing = asyncio.create_task(host.remove(function))
        await until(lambda: function.state is State.REMOVED)
        address = host.backend.machine.allocate(65536)  # type: ignore[attr-defined]  # a sim host
        function.write(0, 0x16, bytes(2))  # queue 0, which has no ring yet
        for offset, value in ((0x20, address), (0x28, address + 16384), (0x30, address + 32768)):
            function.write(0, offset, value.to_bytes(8, "little"))
        from_a_thread(lambda: function.write(0, 0x1C, (1).to_bytes(2, "little")))
        await removing
        await asyncio.sleep(0)
        assert function.stats().leases == 0
    assert function.state is State.REMOVED


async def test_without_bus_mastering_a_device_lets_go_of_memory() -> None:
    async with hdvkit.open_host("sim") as host:
        function = await host.add(Echo())
        guest = Guest.of(host)
        events = function.events()
        async with guest.drive(function) as driver:
            assert (await driver.queues[0].submit([b"ping"], [4])).data == b"ping"
            function.write(CONFIG, COMMAND, MEMORY.to_bytes(2, "little"))
            await until(lambda: function.state is State.NEEDS_RESET)
            assert function.stats().leases == 0
            function.write(CONFIG, COMMAND, (MEMORY | BUS_MASTER).to_bytes(2, "little"))
            told = [event async for event in _until_needs_reset(events)]
        assert "bus mastering" in told[-1].reason
        async with guest.drive(function) as driver:
            assert (await driver.queues[0].submit([b"pong"], [4])).data == b"pong"


async def test_a_machine_that_is_reset_takes_bus_mastering_away_and_nobody_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hdvkit.runtime.function.RESET_FOLLOWS", 0)
    async with hdvkit.open_host("sim") as host:
        function = await host.add(Echo())
        events = function.events()
        async with Guest.of(host).drive(function):
            function.write(CONFIG, COMMAND, MEMORY.to_bytes(2, "little"))
            function.reset()
            await until(lambda: function.state is State.ATTACHED)
            for _ in range(TURNS):
                await asyncio.sleep(0)  # it would be told in one of these
        await host.remove(function)
        assert EventKind.NEEDS_RESET not in [event.kind async for event in events]
        assert function.stats().needs_resets == 0


async def _until_needs_reset(events: AsyncIterator[Event]) -> AsyncIterator[Event]:
    async for event in events:
        yield event
        if event.kind is EventKind.NEEDS_RESET:
            return


class Lazy(Echo):
    """Answers once, then is done with it."""

    async def serve(self, queue: Queue) -> None:
        """Return after the first chain."""
        async for chain in queue:
            chain.complete()
            return


async def test_a_serve_that_returns_is_a_failure_with_a_reason() -> None:
    async with hdvkit.open_host("sim") as host:
        function = await host.add(Lazy())
        events = function.events()
        async with Guest.of(host).drive(function) as driver:
            await driver.queues[0].submit([b"x"], [1])
            told = [event async for event in _until_needs_reset(events)]
            assert told[-1].reason == "queue 'first': serve() returned while the guest uses the queue"


class Slow(Echo):
    """Holds chains until it is let go, whatever happens."""

    def __init__(self) -> None:
        self.go = asyncio.Event()

    async def serve(self, queue: Queue) -> None:
        """Answer in tasks that shield themselves."""
        await queue.each(self.answer)

    async def answer(self, chain: Chain) -> None:
        """As a thread in a system call: no cancellation ends it."""
        while not self.go.is_set():
            try:
                await self.go.wait()
            except asyncio.CancelledError:
                continue


async def test_waiting_for_a_slow_request_costs_no_turns_of_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    device = Slow()
    async with hdvkit.open_host("sim") as host:
        function = await host.add(device)
        driver = Guest.of(host).driver(function)
        await driver.probe()
        await driver.start()
        driver.queues[0].post([b"x"], [1])
        await driver.queues[0].kick(force=True)
        await until(lambda: function.stats().queues[0].in_flight)
        function.write(0, STATUS, b"\0")
        turns = 0
        call_soon = loop.call_soon

        def counted(*args, **kwargs):  # type: ignore[no-untyped-def]  # as the loop's own
            nonlocal turns
            turns += 1
            return call_soon(*args, **kwargs)

        monkeypatch.setattr(loop, "call_soon", counted)
        for _ in range(100):
            await asyncio.sleep(0)
        assert turns < 250, "the test's own hundred turns, and a few of the cancellation"
        monkeypatch.undo()
        assert function.read(0, STATUS, 1) != b"\0", "the guest waits for its chain"
        device.go.set()
        await until(lambda: function.read(0, STATUS, 1) == b"\0")


@pytest.mark.parametrize("notification_data", [False, True])
async def test_doorbells_match_what_the_driver_agreed_to_write(notification_data: bool) -> None:
    trapped = []
    async with hdvkit.open_host("sim") as host:
        function = await host.add(Echo())
        write = function.write
        async with Guest.of(host).drive(function, notification_data=notification_data) as driver:
            function.write = lambda space, offset, data: (  # type: ignore[method-assign]  # watched
                trapped.append(offset) if space == 0 and offset >= 0x3000 else None,
                write(space, offset, data),
            )[1]
            for _ in range(5):
                await driver.queues[1].submit([b"x"], [1])
            function.write = write  # type: ignore[method-assign]  # as it was
        assert trapped == []
        assert function.stats().queues[1].kicks >= 5


@shares_directories
async def test_an_addition_that_was_cancelled_leaves_nothing_attached(tmp_path: Path) -> None:
    async with hdvkit.open_host("sim") as host:
        adding = asyncio.create_task(host.add("virtiofs", source=tmp_path, tag="t"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        adding.cancel()
        with pytest.raises(asyncio.CancelledError):
            await adding
        assert host.devices == ()
        assert await Guest.of(host).machine.config_read(0, 0, 2) == 0xFFFF
        await host.add("virtiofs", source=tmp_path, tag="t")


class Keeping(Echo):
    """Keeps chains until it is let go."""

    def __init__(self) -> None:
        self.go = asyncio.Event()

    async def serve(self, queue: Queue) -> None:
        """Answer late."""
        await queue.each(self.answer)

    async def answer(self, chain: Chain) -> None:
        """Wait, then echo."""
        await self.go.wait()
        chain.write(chain.read())


async def test_chains_beyond_the_copy_budget_wait_on_the_ring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hdvkit.apertures.COPY_BUDGET", 64 * 1024)
    device = Keeping()
    async with hdvkit.open_host("sim", apertures=8) as host:
        function = await host.add(device)
        async with Guest.of(host).drive(function) as driver:
            data = [bytes([number]) * 20_000 for number in range(12)]
            asked = [asyncio.create_task(driver.queues[0].submit([one], [len(one)])) for one in data]
            await until(lambda: function.stats().queues[0].in_flight >= 2)
            for _ in range(50):
                await asyncio.sleep(0)
            assert function.stats().queues[0].in_flight < len(data)
            device.go.set()
            assert [(await one).data for one in asked] == data
        assert function.stats().needs_resets == 0


async def test_a_device_without_room_waits_for_what_another_one_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hdvkit.apertures.COPY_BUDGET", 40_000)
    keeping = Keeping()
    async with hdvkit.open_host("sim", apertures=14) as host:
        one, other = await host.add(keeping), await host.add(Echo(), name="other")
        async with Guest.of(host).drive(one) as driver, Guest.of(host).drive(other) as second:
            data = [bytes([number]) * 20_000 for number in range(12)]
            kept = [asyncio.create_task(driver.queues[0].submit([part], [len(part)])) for part in data]
            await until(lambda: one.stats().queues[0].in_flight >= 2)
            asked = asyncio.create_task(second.queues[0].submit([b"room?" * 3000], [15_000]))
            for _ in range(50):
                await asyncio.sleep(0)
            assert not asked.done()
            keeping.go.set()
            assert (await asked).data == b"room?" * 3000
            assert [(await part).data for part in kept] == data
        assert [function.stats().needs_resets for function in host.devices] == [0, 0]


async def test_an_opening_that_was_cancelled_leaves_nothing_behind() -> None:
    before = asyncio.all_tasks()
    for turns in range(6):
        opening = asyncio.ensure_future(hdvkit.open_host("sim"))
        for _ in range(turns):
            await asyncio.sleep(0)
        opening.cancel()
        done = (await asyncio.gather(opening, return_exceptions=True))[0]
        if isinstance(done, hdvkit.DeviceHost):  # it was open already
            await done.aclose()
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


async def test_what_is_no_device_is_refused_with_a_sentence() -> None:
    async with hdvkit.open_host("sim") as host:
        device = Echo()
        await host.add(device)
        with pytest.raises(UsageError, match="attached already"):
            await host.add(device)
        with pytest.raises(UsageError, match="is no device"):
            await host.add(object())  # type: ignore[arg-type]  # the mistake under test
        with pytest.raises(UsageError, match="is no attached device"):
            await host.remove("echo")  # type: ignore[arg-type]  # the mistake under test
        with pytest.raises(UsageError, match="Nameless has no device_type"):
            await host.add(Nameless())


class Nameless(VirtioDevice):
    """Forgot to say what it is."""


@shares_directories
async def test_a_guest_whose_share_was_removed_hears_of_it(tmp_path: Path) -> None:
    async with hdvkit.open_host("sim") as host:
        share = await host.add("virtiofs", source=tmp_path, tag="t")
        async with Guest.of(host).mount(share) as mount:
            await mount.listdir()
            await host.remove(share)
            with pytest.raises(DriverError, match="was removed"):
                await mount.listdir()
