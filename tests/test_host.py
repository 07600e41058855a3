"""Hosts and functions in the simulated machine: opened, used, broken, removed and closed in every order."""

import asyncio
import gc
import logging
import struct
import sys
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import hdvkit
from hdvkit import (
    Chain,
    DeviceType,
    Event,
    EventKind,
    Function,
    GuestError,
    HostError,
    Observer,
    Queue,
    Removal,
    State,
    UsageError,
    VirtioDevice,
)
from hdvkit.runtime import DeviceHost, Opening
from hdvkit.testing.backend import SimBackend, SimSlot
from hdvkit.testing.driver import DriverError, Status, VirtioDriver
from hdvkit.testing.guest import Guest

TURNS = 2000
STATUS, QUEUE_SELECT, QUEUE_ENABLE = 0x14, 0x16, 0x1C


class Echo(VirtioDevice):
    """Answers with what it was sent; counts what the runtime does to it."""

    device_type = DeviceType.CONSOLE

    def __init__(self, queues: int = 1) -> None:
        self.names = tuple(f"queue-{n}" for n in range(queues))
        self.closed = 0
        self.resets = 0
        self.serving = 0
        self.content = b"config"

    @property
    def queue_names(self) -> Sequence[str]:
        """As many as were asked for."""
        return self.names

    def config(self) -> bytes:
        """What a test put there."""
        return self.content

    async def serve(self, queue: Queue) -> None:
        """Answer until the end."""
        self.serving += 1
        try:
            async for chain in queue:
                await self.answer(queue, chain)
        finally:
            self.serving -= 1

    async def answer(self, queue: Queue, chain: Chain) -> None:
        """Answer one request."""
        with chain:
            chain.write(chain.read())

    async def reset(self) -> None:
        """Count."""
        assert not self.serving, "reset comes after serve has ended"
        self.resets += 1

    async def aclose(self) -> None:
        """Count."""
        assert not self.serving, "aclose comes after serve has ended"
        self.closed += 1


class Hoarder(Echo):
    """Keeps each chain, over resets too."""

    def __init__(self, queues: int = 1) -> None:
        super().__init__(queues)
        self.kept: list[Chain] = []

    async def answer(self, queue: Queue, chain: Chain) -> None:
        """Keep it."""
        self.kept.append(chain)


class Fragile(Echo):
    """Fails the way it is asked to."""

    async def answer(self, queue: Queue, chain: Chain) -> None:
        """Fail, or answer."""
        with chain:
            match chain.read():
                case b"bug":
                    raise KeyError("a bug in the device")
                case b"guest":
                    raise GuestError("the guest asked for something absurd")
                case b"group":
                    raise ExceptionGroup("several", [KeyError("not it"), GuestError("the guest's share of it")])
                case request:
                    chain.write(request)


class Lingering(Echo):
    """Takes its time to stop serving."""

    def __init__(self, queues: int = 1) -> None:
        super().__init__(queues)
        self.stopping = asyncio.Event()
        self.let_go = asyncio.Event()

    async def serve(self, queue: Queue) -> None:
        """Serve, and hold on at the end of the first queue."""
        try:
            await super().serve(queue)
        finally:
            if queue.index == 0:
                self.stopping.set()
                while not self.let_go.is_set():
                    try:
                        await self.let_go.wait()
                    except asyncio.CancelledError:
                        continue


class Refuser(Echo):
    """Refuses with a word of its own."""

    def refuse(self, chain: Chain) -> None:
        """Say no."""
        chain.write(b"no")


class Watcher(Observer):
    """Remembers everything."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.chains: list[tuple[str, str, int, int]] = []

    def event(self, event: Event) -> None:
        """Remember."""
        self.events.append(event)

    def completed(self, device: str, queue: str, taken: int, given: int) -> None:
        """Remember."""
        self.chains.append((device, queue, taken, given))


async def until(true: Callable[[], object]) -> None:
    """Let the loop turn until something is so."""
    for _ in range(TURNS):
        if true():
            return
        await asyncio.sleep(0)
    pytest.fail(f"still not so after {TURNS} turns of the loop")


async def turn(times: int = 30) -> None:
    for _ in range(times):
        await asyncio.sleep(0)


async def driven(host: DeviceHost, function: Function, **options: Any) -> VirtioDriver:
    driver = Guest.of(host).driver(function, **options)
    await driver.probe()
    await driver.start()
    return driver


async def started(host: DeviceHost, device: VirtioDevice, **options: Any) -> tuple[Function, VirtioDriver]:
    function = await host.add(device)
    return function, await driven(host, function, **options)


async def echo(driver: VirtioDriver, data: bytes, queue: int = 0) -> bytes:
    return (await asyncio.wait_for(driver.queues[queue].submit([data], [64]), 10)).data


async def kinds(events: AsyncIterator[Event]) -> list[str]:
    """What is left of a stream that has ended."""
    return [str(event.kind) async for event in events]


async def heard(events: AsyncIterator[Event]) -> Event:
    """The next event."""
    return await asyncio.wait_for(anext(events), 10)


def put(function: Function, offset: int, size: int, value: int) -> None:
    function.write(0, offset, value.to_bytes(size, "little"))


def get(function: Function, offset: int, size: int) -> int:
    return int.from_bytes(function.read(0, offset, size), "little")


# Opening and closing


async def test_a_device_is_served_from_open_to_close_and_nothing_is_left() -> None:
    before = asyncio.all_tasks()
    device = Echo()
    async with hdvkit.open_host("sim") as host:
        everything = host.events()
        function, driver = await started(host, device)
        own = function.events()
        assert await echo(driver, b"hello") == b"hello"
        assert host.devices == (function,)
        assert repr(function) == "<Function 'echo' (echo), ready>"
    assert host.devices == ()
    assert (device.closed, device.resets, device.serving) == (1, 0, 0)
    assert function.state is State.CLOSED
    assert await kinds(everything) == ["listening", "ready", "closed"]
    assert await kinds(own) == ["closed"]
    assert function.stats().leases == 0
    assert asyncio.all_tasks() == before


async def test_a_host_may_be_awaited_used_in_one_task_and_closed_in_another() -> None:
    host = await hdvkit.open_host("sim")
    used = asyncio.Event()

    async def use() -> None:
        _, driver = await started(host, Echo())
        assert await echo(driver, b"from a task") == b"from a task"
        used.set()

    async def close() -> None:
        await used.wait()
        await host.aclose()

    waiting = asyncio.create_task(host.wait_closed())
    await asyncio.gather(use(), asyncio.create_task(close()))
    await waiting
    await host.aclose()
    await host.wait_closed()


async def test_an_exception_in_the_body_closes_the_host_and_comes_out_as_it_is() -> None:
    device = Echo()

    async def broken() -> None:
        async with hdvkit.open_host("sim") as host:
            await started(host, device)
            raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        await broken()
    assert device.closed == 1


async def test_a_host_may_be_entered_itself() -> None:
    async with await hdvkit.open_host("sim") as host:
        function = await host.add(Echo())
    assert function.state is State.CLOSED


async def test_waiting_for_the_end_of_a_host_that_was_never_opened_ends() -> None:
    host = DeviceHost(SimBackend(), no_kinds)
    await host.wait_closed()
    with pytest.raises(UsageError, match="the host is not open"):
        await host.add(Echo())
    await host.aclose()


async def test_a_platform_that_refuses_to_open_leaves_nothing() -> None:
    class Refusing(SimBackend):
        async def open(self) -> None:
            raise HostError("no such machine")

    before = asyncio.all_tasks()
    with pytest.raises(HostError, match="no such machine"):
        await Opening(DeviceHost(Refusing(), no_kinds))
    assert asyncio.all_tasks() == before


def forget(device: VirtioDevice) -> None:
    async def main() -> None:
        host = await hdvkit.open_host("sim")
        await started(host, device)

    asyncio.run(main())


def test_a_host_that_is_forgotten_warns_and_still_closes_its_devices() -> None:
    device = Echo()
    with pytest.warns(ResourceWarning, match="without being closed"):
        forget(device)
    assert (device.closed, device.serving) == (1, 0)


# Adding


def no_kinds(kind: str, options: Mapping[str, object]) -> VirtioDevice:
    raise UsageError(f"no device kind {kind!r}")


async def test_a_device_is_added_by_kind_with_its_options() -> None:
    made: list[tuple[str, dict[str, object]]] = []

    def make(kind: str, options: Mapping[str, object]) -> VirtioDevice:
        made.append((kind, dict(options)))
        return Echo(**options)  # type: ignore[arg-type]  # as a constructor takes them

    async with Opening(DeviceHost(SimBackend(), make)) as host:
        function = await host.add("parrot", queues=3)
        assert made == [("parrot", {"queues": 3})]
        assert (function.kind, function.name) == ("parrot", "parrot")
        assert len(function.stats().queues) == 3
        assert isinstance(function.device, Echo)


async def test_what_cannot_be_made_is_a_usage_error_and_adds_nothing() -> None:
    async with Opening(DeviceHost(SimBackend(), no_kinds)) as host:
        with pytest.raises(UsageError, match="no device kind 'parrot'"):
            await host.add("parrot")
        with pytest.raises(UsageError, match="options limit, size were given with a finished device"):
            await host.add(Echo(), limit=1, size=2)
        assert host.devices == ()


async def test_names_are_the_given_one_the_devices_own_or_the_kind_counted_up() -> None:
    class Named(Echo):
        default_name = "tag"

    async with hdvkit.open_host("sim") as host:
        functions = [await host.add(device) for device in (Echo(), Named(), Echo(), Named(), Echo())]
        assert [function.name for function in functions] == ["echo", "tag", "echo-2", "tag-2", "echo-3"]
        assert [function.kind for function in functions] == ["echo", "named", "echo", "named", "echo"]
        assert (await host.add(Named(), name="given")).name == "given"
        await host.remove(functions[2])
        assert (await host.add(Echo())).name == "echo-2", "a free name is used again"
        assert [function.place["slot"] for function in host.devices] == ["0", "1", "3", "4", "5", "2"]


async def test_a_name_that_is_taken_is_refused_and_the_device_is_closed() -> None:
    async with hdvkit.open_host("sim") as host:
        first, second = Echo(), Echo()
        await host.add(first, name="disk")
        with pytest.raises(UsageError, match="a device named 'disk' is attached already"):
            await host.add(second, name="disk")
        assert (first.closed, second.closed) == (0, 1)
        assert len(host.devices) == 1


@pytest.mark.parametrize("name", ["", "a\nb", "\x1b[2J", 5, b"disk"])
async def test_a_name_that_nobody_can_read_is_refused(name: Any) -> None:
    async with hdvkit.open_host("sim") as host:
        with pytest.raises(UsageError, match="is no name of a device; give a text that can be printed"):
            await host.add(Echo(), name=name)
        assert not host.devices


async def test_adding_after_close_is_a_usage_error_and_closes_the_device() -> None:
    host = await hdvkit.open_host("sim")
    await host.aclose()
    device = Echo()
    with pytest.raises(UsageError, match="the host is not open; add devices between open_host"):
        await host.add(device)
    assert device.closed == 1


async def test_a_device_that_no_function_can_be_is_refused_and_closed() -> None:
    class Greedy(Echo):
        features = 1 << 28  # type: ignore[assignment]  # a class attribute will do

    device = Greedy()
    async with hdvkit.open_host("sim") as host:
        with pytest.raises(UsageError, match=r"Greedy.features is 0x10000000: only bits 0-23 and 50-63"):
            await host.add(device)
    assert device.closed == 1


async def test_a_platform_that_refuses_to_attach_leaves_the_host_usable() -> None:
    class Full(SimBackend):
        def slot(self, function: Function) -> SimSlot:
            slot = super().slot(function)
            if function.name == "one-too-many":

                async def attach() -> None:
                    raise HostError("no room")

                slot.attach = attach  # type: ignore[method-assign]  # the platform refuses this one
            return slot

    device = Echo()
    async with Opening(DeviceHost(Full(), no_kinds)) as host:
        events = host.events()
        with pytest.raises(HostError, match="no room"):
            await host.add(device, name="one-too-many")
        assert device.closed == 1
        assert host.devices == ()
        _, driver = await started(host, Echo())
        assert await echo(driver, b"x") == b"x"
    assert (await kinds(events))[:2] == ["closed", "listening"]


async def test_a_machine_without_a_free_slot_says_so() -> None:
    async with hdvkit.open_host("sim") as host:
        for _ in range(32):
            await host.add(Echo())
        device = Echo()
        with pytest.raises(HostError, match="all 32 slots of the machine are taken"):
            await host.add(device)
        assert device.closed == 1
        await host.remove(host.devices[7])
        assert (await host.add(Echo())).place == {"slot": "7"}


# Ready, events, stats


async def test_ready_waits_for_the_driver_and_again_after_a_reset() -> None:
    async with hdvkit.open_host("sim") as host:
        function = await host.add(Echo())
        waiting = [asyncio.create_task(function.ready()) for _ in range(3)]
        await turn()
        assert not any(task.done() for task in waiting)
        driver = await driven(host, function)
        await asyncio.gather(*waiting)
        await function.ready()
        await driver.reset()
        again = asyncio.create_task(function.ready())
        await turn()
        assert not again.done()
        assert function.state is State.ATTACHED
        await driver.probe()
        await driver.start()
        await again


@pytest.mark.parametrize("end", ["remove", "close"])
async def test_ready_says_when_it_never_will_be(end: str) -> None:
    async with hdvkit.open_host("sim") as host:
        function = await host.add(Echo())
        waiting = asyncio.create_task(function.ready())
        await turn()
        await (host.remove(function) if end == "remove" else host.aclose())
        with pytest.raises(UsageError, match="it will not become ready"):
            await waiting
        with pytest.raises(UsageError, match=f"device 'echo' is {function.state}"):
            await function.ready()


async def test_events_of_a_life_in_order() -> None:
    watcher = Watcher()
    async with hdvkit.open_host("sim", observers=[watcher]) as host:
        everything = host.events()
        function = await host.add(Fragile(), name="disk")
        own = function.events()
        driver = await driven(host, function)
        assert await echo(driver, b"guest") == b""
        await until(lambda: function.state is State.NEEDS_RESET)
        await driver.probe()
        await driver.start()
        await driver.common_write("device_status", Status.FAILED)
        await driver.probe()
        assert await host.remove(function) is Removal.REMOVED
        expected = ["ready", "needs-reset", "reset", "ready", "driver-failed", "reset", "removed"]
        assert await kinds(own) == expected
        assert await kinds(function.events()) == [], "nothing happens to it any more"
    assert await kinds(everything) == ["listening", *expected]
    assert [str(event.kind) for event in watcher.events] == ["listening", *expected]
    assert {(event.device, event.device_kind, event.place["slot"]) for event in watcher.events} == {
        ("disk", "fragile", "0")
    }
    assert await kinds(host.events()) == []


async def test_a_listener_that_stops_listening_hears_no_more_and_one_that_sleeps_loses_the_oldest() -> None:
    async with hdvkit.open_host("sim") as host:
        function = await host.add(Echo())
        stopped, slow = function.events(), function.events()
        await stopped.aclose()  # type: ignore[attr-defined]  # streams have it
        for _ in range(1030):  # the driver gives up 1030 times, and resets each time
            put(function, STATUS, 1, 0x80)  # FAILED
            put(function, STATUS, 1, 0)
        assert await kinds(stopped) == []
        assert slow.missed == 6  # type: ignore[attr-defined]
    assert len(await kinds(slow)) == 1024


async def test_a_listener_that_waits_is_woken_by_the_next_event_and_by_the_end() -> None:
    async with hdvkit.open_host("sim") as host:
        events = host.events()
        first = asyncio.create_task(heard(events))
        await turn()
        assert not first.done()
        function = await host.add(Echo())
        assert (await first).kind is EventKind.LISTENING
        rest = asyncio.create_task(kinds(function.events()))
        await turn()
        await host.remove(function)
        assert await asyncio.wait_for(rest, 10) == ["removed"]


async def test_a_refused_driver_is_an_event_with_the_reason() -> None:
    async with hdvkit.open_host("sim") as host:
        function = await host.add(Echo())
        events = function.events()
        for status in (1, 3, 11):
            put(function, STATUS, 1, status)
        event = await heard(events)
        assert event.kind is EventKind.FEATURES_REFUSED
        assert "VERSION_1" in event.reason
        assert get(function, STATUS, 1) == 3


async def test_stats_count_what_happened() -> None:
    watcher = Watcher()
    async with hdvkit.open_host("sim", observers=[watcher]) as host:
        function, driver = await started(host, Echo(queues=2))
        await driver.queues[0].submit([b"ab", b"c"], [2])
        await driver.queues[1].submit([], [9])
        function.read(5, 0, 4)
        stats = function.stats()
        assert (stats.state, stats.resets, stats.needs_resets, stats.dropped_accesses) == (State.READY, 0, 0, 1)
        assert stats.chains == 2
        assert [(q.name, q.chains, q.taken, q.given, q.in_flight, q.late) for q in stats.queues] == [
            ("queue-0", 1, 3, 2, 0, 0),
            ("queue-1", 1, 0, 0, 0, 0),
        ]
        assert stats.leases == 6, "three areas of two rings"
        assert watcher.chains == [("echo", "queue-0", 3, 2), ("echo", "queue-1", 0, 0)]
        await driver.reset()
        assert function.stats().leases == 0
        assert function.stats().chains == 2, "counters live as long as the function"


async def test_a_changed_configuration_reaches_the_driver() -> None:
    device = Echo()
    async with hdvkit.open_host("sim") as host:
        function, driver = await started(host, device)
        assert await driver.config_read(0, 6) == b"config"
        device.content = b"CONFIG"
        assert await driver.config_read(0, 6) == b"config"
        function.config_changed()
        await asyncio.wait_for(driver.config_changed(), 10)
        assert await driver.config_read(0, 6) == b"CONFIG"
        assert await driver.common_read("config_generation") == 1
        function.config_changed()
        assert await driver.common_read("config_generation") == 1, "nothing has changed"
        device.content = b"longer than before"
        with pytest.raises(UsageError, match="cannot grow"):
            function.config_changed()


async def test_what_a_platform_asks_a_function() -> None:
    async with hdvkit.open_host("sim") as host:
        function = await host.add(Echo())
        assert function.probe_words == (0xFFFFC004, 0xFFFFFFFF, 0xFFFFF004, 0xFFFFFFFF, 0, 0)
        assert {index: bar.size for index, bar in function.bars.items()} == {0: 0x4000, 2: 0x1000}


# Failures end at their device


@pytest.mark.parametrize(
    ("request_", "reason", "logged"),
    [
        (b"bug", "queue 'queue-0': the device failed with KeyError('a bug in the device')", True),
        (b"guest", "queue 'queue-0': the guest asked for something absurd", False),
        (b"group", "queue 'queue-0': the guest's share of it", False),
    ],
)
async def test_a_failure_marks_its_device_and_a_reset_revives_it(
    request_: bytes, reason: str, logged: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, "hdvkit")
    device = Fragile(queues=2)
    async with hdvkit.open_host("sim") as host:
        function, driver = await started(host, device)
        _, other = await started(host, Echo())
        events = function.events()
        assert await echo(driver, request_) == b"", "the chain it failed with went back unanswered"
        event = await heard(events)
        with pytest.raises(DriverError, match="NEEDS_RESET"):
            await echo(driver, b"anybody there?")
        assert (event.kind, event.reason) == (EventKind.NEEDS_RESET, reason)
        assert await driver.status() & Status.NEEDS_RESET
        assert function.state is State.NEEDS_RESET
        assert function.stats().leases == 0, "rings of a dead device are let go"
        assert await echo(other, b"not my fault") == b"not my fault"
        await until(lambda: not device.serving)
        await driver.probe()
        await driver.start()
        assert await echo(driver, b"again") == b"again"
        assert await echo(driver, b"again", queue=1) == b"again"
        assert (function.stats().needs_resets, device.resets) == (1, 1)
        assert device.closed == 0
    assert bool(caplog.records) is logged


async def test_a_broken_ring_is_the_guests_fault_and_only_that_devices_end() -> None:
    async with hdvkit.open_host("sim") as host:
        function, driver = await started(host, Echo())
        _, other = await started(host, Echo())
        events = function.events()
        await turn()
        struct.pack_into("<H", driver.queues[0].driver_area, 2, 0x4000)
        await driver.queues[0].kick(force=True)
        event = await heard(events)
        assert event.kind is EventKind.NEEDS_RESET
        assert event.reason == "queue 'queue-0': the available index is 16384 ahead of a ring of 256"
        assert await echo(other, b"alive") == b"alive"
        await driver.probe()
        await driver.start()
        assert await echo(driver, b"revived") == b"revived"


async def test_a_ring_outside_memory_is_refused_when_it_is_enabled_and_told_once_the_driver_is_up() -> None:
    async with hdvkit.open_host("sim") as host:
        function = await host.add(Echo(queues=2))
        driver = Guest.of(host).driver(function)
        await driver.probe()
        events = function.events()
        for index, address in ((0, 0xDEAD_0000_0000), (1, 0)):
            await driver.common_write("queue_select", index)
            for area, offset in (("queue_desc", 0), ("queue_driver", 0x10000), ("queue_device", 0x20000)):
                await driver.common_write(area, address + offset)
            await driver.common_write("queue_enable", 1)
        event = await heard(events)
        assert event.kind is EventKind.NEEDS_RESET
        assert event.reason.startswith("queue 'queue-0' cannot be enabled: 4096 bytes at 0xdead00000000")
        assert await driver.status() == 0x4B
        await driver.common_write("device_status", 0x4F)
        await asyncio.wait_for(driver.config_changed(), 10)
        await turn()
        assert function.state is State.NEEDS_RESET
        await driver.probe()
        await driver.start()
        assert await echo(driver, b"fine") == b"fine"


async def test_a_driver_that_gave_up_does_not_become_ready() -> None:
    async with hdvkit.open_host("sim") as host:
        function = await host.add(Echo())
        driver = Guest.of(host).driver(function)
        await driver.probe()
        await driver.common_write("device_status", 0x8B)
        await driver.common_write("device_status", 0x0F)
        await turn()
        assert function.state is State.ATTACHED


async def test_memory_that_is_taken_away_ends_the_rings_in_it_and_no_other() -> None:
    async with hdvkit.open_host("sim") as host:
        function, driver = await started(host, Echo())
        unused = await host.add(Echo())
        events = function.events()
        machine = Guest.of(host).machine
        region = 1 << 32 if driver.queues[0].desc_address >= 1 << 32 else 1 << 20
        await asyncio.wait_for(machine.unplug(region), 10)  # type: ignore[attr-defined]  # of the simulated machine
        event = await heard(events)
        assert event.kind is EventKind.NEEDS_RESET
        assert "the guest took away the memory of queue 'queue-0'" in event.reason
        assert function.stats().leases == 0
        assert unused.state is State.ATTACHED
        function.memory_leaves(0, 1 << 52)
        assert function.stats().needs_resets == 1, "there is no ring left to lose"


async def test_a_device_that_fails_to_reset_or_to_close_is_logged_and_left_behind(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Bad(Echo):
        async def reset(self) -> None:
            raise RuntimeError("cannot reset")

        async def aclose(self) -> None:
            raise RuntimeError("cannot close")

    caplog.set_level(logging.ERROR, "hdvkit")
    async with hdvkit.open_host("sim") as host:
        function, driver = await started(host, Bad())
        await driver.reset()
        assert await driver.status() == 0
        assert await host.remove(function) is Removal.REMOVED
    assert [record.getMessage() for record in caplog.records] == [
        "device bad failed in reset()",
        "device bad could not be closed cleanly",
    ]


async def test_an_author_who_forgot_serve_is_told_so(caplog: pytest.LogCaptureFixture) -> None:
    class Lazy(VirtioDevice):
        device_type = DeviceType.RNG

    async with hdvkit.open_host("sim") as host:
        function = await host.add(Lazy())
        events = function.events()
        await driven(host, function)
        assert (await heard(events)).kind is EventKind.READY
        assert "Lazy must override serve()" in (await heard(events)).reason
    assert "Lazy must override serve()" in caplog.text


# Resets


async def test_a_reset_waits_for_the_last_chain_and_the_guest_never_sees_that_one() -> None:
    device = Hoarder()
    async with hdvkit.open_host("sim") as host:
        function, driver = await started(host, device)
        lost = asyncio.create_task(driver.queues[0].submit([b"x"], [1]))
        await until(lambda: device.kept)
        resetting = asyncio.create_task(driver.reset())
        with pytest.raises(DriverError, match="reset"):
            await lost
        await turn(100)
        assert not resetting.done()
        assert await driver.status() == 0x0F, "the guest's memory is still in use"
        assert function.stats().leases == 2, "the chain's two buffers; the ring is let go of"
        assert device.resets == 0
        [chain] = device.kept
        chain.write(b"!")
        chain.complete()
        await asyncio.wait_for(resetting, 10)
        assert device.resets == 1
        [queue] = function.stats().queues
        assert (queue.late, queue.chains, queue.given, queue.in_flight) == (1, 0, 0, 0)
        assert function.stats().leases == 0
        device.kept.clear()
        await driver.probe()
        await driver.start()
        answered = asyncio.create_task(driver.queues[0].submit([b"y"], [1]))
        await until(lambda: device.kept)
        device.kept[0].complete()
        assert (await answered).written == 0
        assert function.stats().queues[0].late == 1


async def test_a_reset_of_a_device_that_was_never_up_asks_the_device_nothing() -> None:
    device = Echo()
    async with hdvkit.open_host("sim") as host:
        function = await host.add(device)
        driver = Guest.of(host).driver(function)
        await driver.probe()
        await driver.probe()
        assert device.resets == 0
        assert function.stats().resets == 1, "the first found nothing to reset"


async def test_the_guest_waits_until_the_device_has_forgotten_it() -> None:
    gate = asyncio.Event()

    class Slow(Echo):
        async def reset(self) -> None:
            await gate.wait()
            await super().reset()

    device = Slow()
    async with hdvkit.open_host("sim") as host:
        _, driver = await started(host, device)
        resetting = asyncio.create_task(driver.reset())
        await turn(100)
        assert not resetting.done()
        assert await driver.status() == 0x0F
        gate.set()
        await asyncio.wait_for(resetting, 10)
        assert device.resets == 1


async def test_a_hard_reset_during_a_reset_does_not_begin_another_beside_it() -> None:
    gates: list[asyncio.Event] = []

    class Slow(Echo):
        async def reset(self) -> None:
            gates.append(asyncio.Event())
            await gates[-1].wait()
            await super().reset()

    async with hdvkit.open_host("sim") as host:
        function, _ = await started(host, Slow())
        put(function, STATUS, 1, 0)
        await until(lambda: gates)
        function.reset()
        await turn()
        try:
            assert len(gates) == 1, "one at a time"
            gates[0].set()
            await until(lambda: len(gates) > 1 or get(function, STATUS, 1) == 0)
        finally:
            for gate in gates:
                gate.set()
            await turn()


async def test_a_device_that_is_removed_while_it_resets_is_closed_after_it() -> None:
    gate = asyncio.Event()
    calls: list[str] = []

    class Slow(Echo):
        async def reset(self) -> None:
            try:
                calls.append("reset")
                await gate.wait()
            finally:
                calls.append("reset ended")

        async def aclose(self) -> None:
            calls.append("aclose")

    async with hdvkit.open_host("sim") as host:
        function, _ = await started(host, Slow())
        put(function, STATUS, 1, 0)
        await until(lambda: calls)
        removing = asyncio.create_task(host.remove(function))
        await turn()
        gate.set()
        await asyncio.wait_for(removing, 10)
        assert calls == ["reset", "reset ended", "aclose"]


async def test_a_hard_reset_takes_the_function_back_to_power_on() -> None:
    device = Echo()
    async with hdvkit.open_host("sim") as host:
        function, driver = await started(host, device)
        function.reset()
        await until(lambda: get(function, STATUS, 1) == 0)
        assert function.read(-1, 4, 2) == b"\0\0"
        assert device.resets == 1
        await driver.probe()
        await driver.start()
        assert await echo(driver, b"back") == b"back"


@pytest.mark.parametrize("packed", [False, True])
async def test_one_queue_is_reset_while_the_other_goes_on(packed: bool) -> None:
    class Mixed(Hoarder):
        async def answer(self, queue: Queue, chain: Chain) -> None:
            if queue.index:
                await Echo.answer(self, queue, chain)
            else:
                self.kept.append(chain)

    device = Mixed(queues=2)
    async with hdvkit.open_host("sim") as host:
        function, driver = await started(host, device, packed=packed)
        assert await echo(driver, b"before", queue=1) == b"before"
        lost = asyncio.create_task(driver.queues[0].submit([b"x"], [1]))
        await until(lambda: device.kept)
        resetting = asyncio.create_task(driver.reset_queue(0))
        with pytest.raises(DriverError):
            await lost
        await until(lambda: device.serving == 1)
        assert await echo(driver, b"meanwhile", queue=1) == b"meanwhile"
        assert not resetting.done()
        device.kept.pop().complete()
        await asyncio.wait_for(resetting, 10)
        await until(lambda: device.serving == 2)
        answered = asyncio.create_task(driver.queues[0].submit([b"y"], [1]))
        await until(lambda: device.kept)
        device.kept.pop().complete()
        await answered
        assert await echo(driver, b"after", queue=1) == b"after"
        assert [queue.late for queue in function.stats().queues] == [1, 0]
        assert (device.resets, function.state) == (0, State.READY)


async def test_a_queue_that_was_never_enabled_may_be_reset() -> None:
    device = Echo(queues=2)
    async with hdvkit.open_host("sim") as host:
        function = await host.add(device)
        driver = Guest.of(host).driver(function)
        await driver.probe()
        await driver.start([1])
        put(function, QUEUE_SELECT, 2, 0)
        put(function, 0x3A, 2, 1)
        await until(lambda: get(function, 0x3A, 2) == 0)
        assert await echo(driver, b"x", queue=1) == b"x"
        assert device.serving == 1


async def test_a_queue_enabled_and_reset_before_the_loop_looks_is_not_built() -> None:
    device = Echo()
    async with hdvkit.open_host("sim") as host:
        function = await host.add(device)
        driver = Guest.of(host).driver(function)
        await driver.probe()

        def in_one_breath() -> None:
            put(function, QUEUE_SELECT, 2, 0)
            put(function, QUEUE_ENABLE, 2, 1)
            put(function, STATUS, 1, 0)

        thread = threading.Thread(target=in_one_breath)
        thread.start()
        thread.join(10)  # the loop stands still meanwhile
        await until(lambda: get(function, STATUS, 1) == 0)
        assert function.stats().needs_resets == 0, "its ring at address 0 would have been refused"


async def test_a_driver_may_come_up_from_any_thread() -> None:
    device = Echo()
    async with hdvkit.open_host("sim") as host:
        function = await host.add(device)
        for status in (1, 3):
            await asyncio.to_thread(put, function, STATUS, 1, status)
        for half, word in ((0, 0), (1, 1)):
            await asyncio.to_thread(put, function, 0x08, 4, half)
            await asyncio.to_thread(put, function, 0x0C, 4, word)
        for status in (0x0B, 0x0F):
            await asyncio.to_thread(put, function, STATUS, 1, status)
        await asyncio.wait_for(function.ready(), 10)
        assert await asyncio.to_thread(get, function, STATUS, 1) == 0x0F
        await asyncio.to_thread(function.reset)
        await until(lambda: get(function, STATUS, 1) == 0)


def test_a_machine_that_outlives_the_loop_is_answered_and_heard_by_nobody() -> None:
    async def main() -> Function:
        async with hdvkit.open_host("sim") as host:
            return await host.add(Echo())

    function = asyncio.run(main())
    thread = threading.Thread(target=put, args=(function, STATUS, 1, 0))
    thread.start()
    thread.join(10)
    assert function.read(-1, 0, 2) == b"\xf4\x1a"
    assert function.stats().resets == 0


# Removal


async def test_a_removed_device_is_gone_from_the_guest_and_from_the_host() -> None:
    device = Echo()
    async with hdvkit.open_host("sim") as host:
        function, driver = await started(host, device)
        assert await echo(driver, b"x") == b"x"
        assert await host.remove(function) is Removal.REMOVED
        assert (function.state, device.closed, device.serving, host.devices) == (State.REMOVED, 1, 0, ())
        assert function.stats().leases == 0
        assert await Guest.of(host).machine.config_read(0, 0, 4) == 0xFFFFFFFF
        with pytest.raises(UsageError, match="device 'echo' is not attached to this host"):
            await host.remove(function)
        stranger = Echo()
        again = await host.add(stranger)
        assert again.name == "echo"
        with pytest.raises(UsageError, match="not attached"):
            await host.remove(function)
        assert stranger.closed == 0


async def test_requests_in_flight_are_answered_empty_before_the_device_goes() -> None:
    started_ = asyncio.Event()

    class Busy(Echo):
        async def answer(self, queue: Queue, chain: Chain) -> None:
            with chain:
                chain.write(b"half an answer")
                started_.set()
                await asyncio.Event().wait()

    async with hdvkit.open_host("sim") as host:
        function, driver = await started(host, Busy())
        waiting = asyncio.create_task(driver.queues[0].submit([b"x"], [64]))
        await started_.wait()
        assert await host.remove(function) is Removal.REMOVED
        assert (await asyncio.wait_for(waiting, 10)).written == 0
        assert function.stats().leases == 0


@pytest.mark.parametrize("packed", [False, True])
async def test_a_parked_device_refuses_whatever_the_guest_does(packed: bool) -> None:
    device = Refuser(queues=2)
    async with hdvkit.open_host("sim", removable=False) as host:
        function, driver = await started(host, device, packed=packed)
        events = function.events()
        assert await echo(driver, b"x") == b"x"
        queued = driver.queues[0].post([b"not taken yet"], [8])
        assert await host.remove(function) is Removal.PARKED
        assert (device.closed, device.serving, function.state) == (1, 0, State.PARKED)
        assert (await asyncio.wait_for(driver.queues[0].wait(queued), 10)).data in (b"no", b"not take")
        for queue in (0, 1):
            assert await echo(driver, b"please", queue) == b"no"
        await driver.reset()
        await driver.probe()
        await driver.start()
        for queue in (0, 1):
            assert await echo(driver, b"please", queue) == b"no"
        await driver.reset_queue(1)
        assert await echo(driver, b"please", 1) == b"no"
        assert function.state is State.PARKED
        assert (device.resets, device.closed) == (0, 1)
        assert host.devices == (function,), "it is still there to be seen"
        with pytest.raises(UsageError, match="is parked"):
            await function.ready()
        with pytest.raises(UsageError, match="named 'refuser' is attached already"):
            await host.add(Echo(), name="refuser")
        assert await host.remove(function) is Removal.PARKED
    assert await kinds(events) == ["parked", "reset", "parked", "closed"]
    assert (function.state, device.closed) == (State.CLOSED, 1)


async def test_a_guest_that_breaks_a_parked_device_harms_nobody() -> None:
    async with hdvkit.open_host("sim", removable=False) as host:
        function, driver = await started(host, Refuser())
        await host.remove(function)
        await turn()
        struct.pack_into("<H", driver.queues[0].driver_area, 2, 0x4000)
        await driver.queues[0].kick(force=True)
        await until(lambda: get(function, STATUS, 1) & Status.NEEDS_RESET)
        assert function.state is State.PARKED
        await driver.probe()
        await driver.start()
        assert await echo(driver, b"please") == b"no"


async def test_by_default_a_refusal_is_an_empty_answer() -> None:
    async with hdvkit.open_host("sim", removable=False) as host:
        function, driver = await started(host, Echo())
        await host.remove(function)
        assert await echo(driver, b"x") == b""


async def test_a_device_may_be_parked_before_any_driver_comes() -> None:
    async with hdvkit.open_host("sim", removable=False) as host:
        function = await host.add(Refuser())
        assert await host.remove(function) is Removal.PARKED
        driver = await driven(host, function)
        assert await echo(driver, b"please") == b"no"


async def test_a_removal_that_has_begun_is_finished_though_its_caller_is_cancelled() -> None:
    device = Lingering()
    async with hdvkit.open_host("sim") as host:
        function, _ = await started(host, device)
        await until(lambda: device.serving)
        removing = asyncio.create_task(host.remove(function))
        await device.stopping.wait()
        for _ in range(3):
            removing.cancel()
            await turn()
        assert not removing.done(), "it is not left half done"
        assert function.state is State.PARKED, "nothing is served any more"
        device.let_go.set()
        with pytest.raises(asyncio.CancelledError):
            await removing
        assert (function.state, device.closed, host.devices) == (State.REMOVED, 1, ())


async def test_closing_waits_for_a_removal_and_an_addition_waits_for_its_turn() -> None:
    device, late = Lingering(), Echo()
    host = await hdvkit.open_host("sim")
    function, _ = await started(host, device)
    await until(lambda: device.serving)
    removing = asyncio.create_task(host.remove(function))
    await device.stopping.wait()
    closing = asyncio.create_task(host.aclose())
    adding = asyncio.create_task(host.add(late))
    await turn()
    assert not closing.done()
    assert await Guest.of(host).machine.config_read(0, 0, 2) == 0x1AF4, "not pulled out while it is still served"
    device.let_go.set()
    assert await removing is Removal.REMOVED
    await closing
    with pytest.raises(UsageError, match="the host is not open"):
        await adding
    assert (device.closed, late.closed) == (1, 1)


async def test_a_guest_cannot_hold_up_a_removal_by_enabling_another_queue() -> None:
    device = Lingering(queues=2)
    async with hdvkit.open_host("sim") as host:
        function = await host.add(device)
        driver = Guest.of(host).driver(function)
        await driver.probe()
        await driver.start([0])
        await until(lambda: device.serving)
        removing = asyncio.create_task(host.remove(function))
        await device.stopping.wait()
        try:
            async with driver._select:
                await driver._open_queue(1)
                await driver._enable_queue(1)
            device.let_go.set()
            await asyncio.wait_for(asyncio.shield(removing), 1)
        finally:
            device.let_go.set()
            put(function, STATUS, 1, 0)  # the guest relents
            await removing


async def test_a_platform_that_fails_to_detach_does_not_keep_the_others_from_closing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Stuck(SimBackend):
        def slot(self, function: Function) -> SimSlot:
            slot = super().slot(function)

            async def detach() -> Removal:
                raise HostError("stuck")

            if function.name == "stuck":
                slot.detach = detach  # type: ignore[method-assign]  # the platform fails for this one
            return slot

    devices = [Echo(), Echo()]
    async with Opening(DeviceHost(Stuck(), no_kinds)) as host:
        for device, name in zip(devices, ("stuck", "loose"), strict=True):
            await host.add(device, name=name)
    assert [device.closed for device in devices] == [1, 1]
    assert "device stuck could not be detached cleanly" in caplog.text


# Resources


def descriptors() -> int:
    """Open descriptors of this process; 0 on systems that do not tell: tasks and threads are still counted."""
    return len(list(Path("/proc/self/fd").iterdir())) if sys.platform == "linux" else 0


@pytest.mark.parametrize("packed", [False, True])
async def test_two_hundred_devices_that_come_and_go_leave_nothing(packed: bool) -> None:
    async with hdvkit.open_host("sim") as host:
        machine = Guest.of(host).machine
        gone: list[weakref.ref[Function]] = []

        async def come_and_go() -> None:
            function, driver = await started(host, Echo(), packed=packed)
            gone.append(weakref.ref(function))
            assert await echo(driver, b"x") == b"x"
            await driver.reset()
            assert await host.remove(function) is Removal.REMOVED
            assert function.stats().leases == 0

        await come_and_go()
        before = descriptors(), len(asyncio.all_tasks()), threading.active_count()
        allocated = machine.memory.allocated  # type: ignore[attr-defined]  # of the simulated machine
        for _ in range(200):
            await come_and_go()
        await turn()
        assert (descriptors(), len(asyncio.all_tasks()), threading.active_count()) == before
        assert machine.memory.allocated == allocated  # type: ignore[attr-defined]
        gc.collect()
        assert [one for one in gone if one() is not None] == []


@pytest.mark.parametrize("options", [{}, {"packed": True}, {"indirect": False, "event_idx": False}])
async def test_eight_apertures_are_enough_to_serve_one_queue_correctly(options: dict[str, Any]) -> None:
    async with hdvkit.open_host("sim", apertures=8) as host:
        function, driver = await started(host, Echo(), **options)

        async def ask(number: int) -> None:
            data = [bytes([number + part]) * (1500 * part + 1) for part in range(4)]
            whole = b"".join(data)
            reply = await driver.queues[0].submit(data, [1, 5000, 4096, 4096])
            assert reply.data == whole

        await asyncio.gather(*(ask(number) for number in range(40)))
        stats = function.slot.memory.pool.stats()  # type: ignore[attr-defined]  # of an aperture memory
        assert stats.live <= 8
        assert stats.evictions > 0
        assert stats.leases == 3
        await driver.reset()
        assert function.stats().leases == 0


async def test_chains_that_are_all_held_at_once_are_served_by_copies() -> None:
    device = Hoarder()
    async with hdvkit.open_host("sim", apertures=8) as host:
        function, driver = await started(host, device)
        requests = [asyncio.create_task(driver.queues[0].submit([bytes([n]) * 5000], [3000, 3000])) for n in range(12)]
        await until(lambda: len(device.kept) == 12)
        assert function.slot.memory.pool.stats().copies > 0  # type: ignore[attr-defined]
        for chain in reversed(device.kept):
            chain.write(chain.read())
            chain.complete()
        for number, request in enumerate(requests):
            assert (await request).data == bytes([number]) * 5000
        assert function.stats().leases == 3


async def test_too_few_apertures_for_the_rings_are_named() -> None:
    async with hdvkit.open_host("sim", apertures=2) as host:
        function = await host.add(Echo())
        events = function.events()
        driver = Guest.of(host).driver(function)
        await driver.probe()
        await driver.start()
        event = await heard(events)
        assert "cannot be enabled" in event.reason
        assert "lower queues or queue_size" in event.reason
        assert function.stats().leases == 0
        assert await host.remove(function) is Removal.REMOVED


async def test_many_devices_serve_side_by_side() -> None:
    async with hdvkit.open_host("sim") as host:
        drivers = [(await started(host, Echo(queues=2), packed=bool(n % 2)))[1] for n in range(8)]

        async def ask(driver: VirtioDriver, items: Iterable[int]) -> None:
            for item in items:
                assert await echo(driver, bytes([item]), item % 2) == bytes([item])

        await asyncio.gather(*(ask(driver, range(20)) for driver in drivers))
        assert [function.stats().chains for function in host.devices] == [20] * 8
