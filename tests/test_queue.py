"""Queues on a running host: who is woken, how often, and who has to wait for whom."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

import pytest

import hdvkit
from hdvkit import Chain, DeviceType, Function, GuestError, Queue, VirtioDevice
from hdvkit.runtime import DeviceHost
from hdvkit.runtime.queue import BUDGET, MAX_EMPTY_LOOKS
from hdvkit.testing.driver import VirtioDriver
from hdvkit.testing.guest import Guest

NOTIFY = 0x3000
TURNS = 2000


class Echo(VirtioDevice):
    """Answers with what it was sent."""

    device_type = DeviceType.CONSOLE
    queue_size = 512

    def __init__(self, name: str = "echo", queues: int = 1, record: list[str] | None = None) -> None:
        self.name = name
        self.names = tuple(f"queue-{n}" for n in range(queues))
        self.record = record if record is not None else []
        self.queues: list[Queue] = []

    @property
    def queue_names(self) -> Sequence[str]:
        """As many as were asked for."""
        return self.names

    async def serve(self, queue: Queue) -> None:
        """Note each chain, answer it."""
        self.queues.append(queue)
        async for chain in queue:
            with chain:
                self.record.append(self.name)
                chain.write(chain.read())
            await self.between()

    async def between(self) -> None:
        """What is done between two chains."""


class Polite(Echo):
    """Lets others go first after each chain."""

    async def between(self) -> None:
        """Step back."""
        await asyncio.sleep(0)


class Hoarder(Echo):
    """Keeps every chain."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[Chain] = []

    async def serve(self, queue: Queue) -> None:
        """Take, and answer nothing."""
        self.queues.append(queue)
        async for chain in queue:
            self.kept.append(chain)


async def until(true: Callable[[], object]) -> None:
    """Let the loop turn until something is so."""
    for _ in range(TURNS):
        if true():
            return
        await asyncio.sleep(0)
    pytest.fail(f"still not so after {TURNS} turns of the loop")


async def turn(times: int = 20) -> None:
    for _ in range(times):
        await asyncio.sleep(0)


async def ask(driver: VirtioDriver, data: bytes, queue: int = 0) -> bytes:
    return (await asyncio.wait_for(driver.queues[queue].submit([data], [64]), 10)).data


async def started(host: DeviceHost, device: VirtioDevice, **options: Any) -> tuple[Function, VirtioDriver]:
    function = await host.add(device)
    driver = Guest.of(host).driver(function, **options)
    await driver.probe()
    await driver.start()
    return function, driver


def wakeups(function: Function) -> int:
    return function.stats().queues[0].wakeups


def longest_run(record: Sequence[str], name: str) -> int:
    runs, longest = 0, 0
    for one in record:
        runs = runs + 1 if one == name else 0
        longest = max(longest, runs)
    return longest


RINGS = [
    {},
    {"event_idx": False},
    {"packed": True},
    {"packed": True, "event_idx": False, "indirect": False},
    {"packed": True, "notification_data": True, "queue_size": 3},
    {"notification_data": True, "access_platform": False, "queue_size": 2},
]


@pytest.mark.parametrize("options", RINGS)
@pytest.mark.parametrize("doorbells", [0, 1, 8])
async def test_kicks_arrive_whether_matched_or_trapped(doorbells: int, options: dict[str, Any]) -> None:
    async with hdvkit.open_host("sim", doorbells=doorbells) as host:
        function, driver = await started(host, Echo(queues=2), **options)
        for number in range(5):
            for queue in driver.queues:
                data = bytes([number, queue.index])
                assert await ask(driver, data, queue.index) == data
        stats = function.stats()
        assert [queue.chains for queue in stats.queues] == [5, 5]
        assert [(queue.taken, queue.given) for queue in stats.queues] == [(10, 10)] * 2
        assert [queue.kicks for queue in stats.queues] == [queue.kicks for queue in driver.queues]
        assert all(queue.interrupts >= 1 for queue in stats.queues)
        assert stats.dropped_accesses == 0
        await driver.reset()


async def test_an_idle_guest_costs_nothing_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    async with hdvkit.open_host("sim") as host:
        function, driver = await started(host, Echo(queues=2))
        assert (await driver.queues[0].submit([b"hello"], [5])).data == b"hello"
        await turn()
        before = function.stats()
        loop = asyncio.get_running_loop()
        scheduled: list[object] = []
        for name in ("call_soon", "call_soon_threadsafe", "call_at", "call_later"):
            original = getattr(loop, name)

            def counted(*arguments: Any, original: Any = original, **more: Any) -> Any:
                scheduled.append(arguments)
                return original(*arguments, **more)

            monkeypatch.setattr(loop, name, counted)
        await turn(100)
        monkeypatch.undo()
        assert len(scheduled) == 100, "the turns of this test, and nothing else"
        assert function.stats() == before


async def test_kicks_from_another_thread_that_nobody_heard_yet_are_one_wake_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with hdvkit.open_host("sim", doorbells=0) as host:
        function, driver = await started(host, Echo())
        await ask(driver, b"x")
        await turn()
        loop = asyncio.get_running_loop()
        calls: list[object] = []
        original = loop.call_soon_threadsafe

        def counted(*arguments: Any) -> Any:
            calls.append(arguments)
            return original(*arguments)

        monkeypatch.setattr(loop, "call_soon_threadsafe", counted)

        def flood() -> None:
            for _ in range(5000):
                function.write(0, NOTIFY, b"\0\0")

        for turns in (1, 2, 3):
            before = function.stats().queues[0]
            thread = threading.Thread(target=flood)
            thread.start()
            thread.join(30)  # the loop stands still meanwhile
            await turn()
            after = function.stats().queues[0]
            assert after.kicks == before.kicks + 5000
            assert after.wakeups == before.wakeups + 1
            assert len(calls) == turns, "the loop is called once, not for each kick"
        monkeypatch.undo()
        assert function.stats().chains == 1
        assert await ask(driver, b"still there") == b"still there"


async def test_kicks_for_nothing_on_the_loop_cost_one_look_each_turn() -> None:
    async with hdvkit.open_host("sim") as host:
        function, driver = await started(host, Echo())
        await driver.queues[0].submit([b"x"], [1])
        await turn()
        before = wakeups(function)
        for _ in range(100):
            await driver.queues[0].kick(force=True)
        await turn()
        assert wakeups(function) == before + 1


async def test_a_device_that_is_busy_asks_for_no_kicks() -> None:
    flags: list[int] = []
    queues: list[memoryview] = []

    class Busy(Echo):
        async def between(self) -> None:
            flags.append(queues[0][0])

    async with hdvkit.open_host("sim") as host:
        _, driver = await started(host, Busy(), event_idx=False)
        await turn()
        queue = driver.queues[0]
        queues.append(queue.device_area.cast("H"))
        assert queues[0][0] == 0, "idle: a kick, please"
        tokens = [queue.post([b"x"], [1]) for _ in range(3)]
        await queue.kick()
        await asyncio.wait_for(queue.wait(tokens[-1]), 10)
        await turn()
        assert flags == [1, 1, 1]
        assert queues[0][0] == 0
        queues.clear()


async def test_a_kick_after_the_loop_is_gone_is_lost_without_a_sound() -> None:
    async with hdvkit.open_host("sim") as host:
        function, _ = await started(host, Echo())
        await turn()
        other = asyncio.new_event_loop()
        other.close()
        doorbell = function._doorbells[0]
        kept, doorbell._loop = doorbell._loop, other
        thread = threading.Thread(target=doorbell.ring)
        thread.start()
        thread.join(10)
        doorbell._loop = kept
        assert wakeups(function) == 0


@pytest.mark.parametrize("packed", [False, True])
async def test_requests_of_many_tasks_from_a_deep_queue_are_all_answered(packed: bool) -> None:
    async with hdvkit.open_host("sim") as host:
        function, driver = await started(host, Echo(), packed=packed, queue_size=8)
        queue = driver.queues[0]
        replies = await asyncio.gather(*(queue.submit([bytes([n])], [1]) for n in range(200)))
        assert [reply.data for reply in replies] == [bytes([n]) for n in range(200)]
        stats = function.stats().queues[0]
        assert stats.chains == 200
        assert stats.wakeups < 200, "a chain that is there is taken without going to sleep"
        assert stats.in_flight == 0


@pytest.mark.parametrize("queues", [1, 3])
async def test_a_flooding_device_has_its_budget_and_then_the_other_one_its_turn(queues: int) -> None:
    async with hdvkit.open_host("sim") as host:
        record: list[str] = []
        _, flooded = await started(host, Echo("flood", queues, record), indirect=False)
        _, modest = await started(host, Polite("other", 1, record))
        await turn()
        record.clear()
        for queue in flooded.queues:
            for _ in range(512):
                queue.post([b"x"], [])
        tokens = [modest.queues[0].post([b"y"], [1]) for _ in range(16)]
        for queue in flooded.queues:
            await queue.kick(force=True)
        await modest.queues[0].kick(force=True)
        await modest.queues[0].wait(tokens[-1])
        competed = record[: len(record) - record[::-1].index("other")]
        assert competed.count("other") == 16
        assert competed.count("flood") > BUDGET, "there was a flood"
        assert longest_run(competed, "flood") <= BUDGET
        await until(lambda: record.count("flood") == 512 * queues)


async def test_a_device_alone_is_not_held_up_by_its_budget() -> None:
    async with hdvkit.open_host("sim") as host:
        device = Echo()
        function, driver = await started(host, device, indirect=False)
        await turn()
        for _ in range(512):
            driver.queues[0].post([b"x"], [])
        await driver.queues[0].kick()
        turns = 0
        while len(device.record) < 512:
            turns += 1
            await asyncio.sleep(0)
            assert turns < 100
        assert wakeups(function) == 1


async def test_a_chain_may_be_answered_later_and_out_of_order() -> None:
    async with hdvkit.open_host("sim") as host:
        device = Hoarder()
        function, driver = await started(host, device)
        queue = driver.queues[0]
        tokens = [queue.post([bytes([n])], [1]) for n in range(4)]
        await queue.kick()
        await until(lambda: len(device.kept) == 4)
        assert function.stats().queues[0].in_flight == 4
        assert device.queues[0].in_flight == 4
        assert "4 in flight" in repr(device.queues[0])
        for at in (2, 0, 3, 1):
            with device.kept[at] as chain:
                chain.write(chain.read())
            assert (await queue.wait(tokens[at])).data == bytes([at])
        assert function.stats().queues[0].in_flight == 0


async def test_each_chain_may_have_a_task_of_its_own() -> None:
    gates: dict[bytes, asyncio.Event] = {}

    class Concurrent(Echo):
        async def serve(self, queue: Queue) -> None:
            await queue.each(self.begin, give_up=lambda chain: chain.write(b"gave up"))

        def begin(self, chain: Chain) -> Coroutine[Any, Any, None] | None:
            request = chain.read()
            if request == b"at once":
                chain.write(b"done")
                return None
            gates[request] = asyncio.Event()
            return self.finish(chain, request)

        async def finish(self, chain: Chain, request: bytes) -> None:
            chain.write(b"half of it")
            await gates[request].wait()
            chain.rewind()
            chain.write(request)
            if request == b"early":
                chain.complete()

    async with hdvkit.open_host("sim") as host:
        function, driver = await started(host, Concurrent())
        names = (b"first", b"second", b"early")
        waiting = {name: asyncio.create_task(ask(driver, name)) for name in names}
        await until(lambda: len(gates) == 3)
        assert await ask(driver, b"at once") == b"done", "nobody waits for those that wait"
        for name in (b"second", b"early", b"first"):
            gates[name].set()
            assert await waiting[name] == name
        assert function.stats().chains == 4


@pytest.mark.parametrize("began", [True, False])
async def test_a_task_that_is_cancelled_gives_its_chain_back_even_if_it_never_began(began: bool) -> None:
    class Waiting(Echo):
        async def serve(self, queue: Queue) -> None:
            await queue.each(self.finish, give_up=lambda chain: chain.write(b"gave up"))

        async def finish(self, chain: Chain) -> None:
            self.record.append("began")
            chain.write(b"half of it, ")
            await asyncio.Event().wait()

    async with hdvkit.open_host("sim") as host:
        device = Waiting()
        function, driver = await started(host, device)
        await turn()
        token = driver.queues[0].post([b"x"], [64])
        await driver.queues[0].kick()
        await until(lambda: device.record if began else function.stats().queues[0].in_flight)
        assert bool(device.record) is began
        await host.remove(function)
        assert (await asyncio.wait_for(driver.queues[0].wait(token), 10)).data == b"gave up"
        assert function.stats().leases == 0


async def test_a_task_that_fails_ends_its_queue_and_every_chain_comes_back() -> None:
    class Failing(Echo):
        async def serve(self, queue: Queue) -> None:
            await queue.each(self.finish)

        async def finish(self, chain: Chain) -> None:
            chain.write(b"half of it")
            self.record.append("began")
            if chain.read() == b"absurd":
                raise GuestError("an absurd request")
            await asyncio.Event().wait()

    async with hdvkit.open_host("sim") as host:
        device = Failing()
        function, driver = await started(host, device)
        events = function.events()
        waiting = asyncio.create_task(ask(driver, b"x"))
        await until(lambda: device.record)
        assert await ask(driver, b"absurd") == b""
        assert await waiting == b""
        assert (await asyncio.wait_for(anext(events), 10)).reason == "queue 'queue-0': an absurd request"
        assert function.stats().leases == 0


async def test_a_queue_tells_what_the_driver_chose() -> None:
    async with hdvkit.open_host("sim") as host:
        device = Echo(queues=2)
        await started(host, device, packed=True, queue_size=5, event_idx=False)
        await until(lambda: len(device.queues) == 2)
        assert [(queue.index, queue.name, queue.size) for queue in device.queues] == [
            (0, "queue-0", 5),
            (1, "queue-1", 5),
        ]
        assert all(queue.features & 1 << 34 and not queue.features & 1 << 29 for queue in device.queues)


async def test_iteration_ends_when_the_guest_takes_the_queue_away() -> None:
    ends: list[str] = []

    class Watching(Echo):
        async def serve(self, queue: Queue) -> None:
            try:
                await super().serve(queue)
                ends.append("returned")
            except asyncio.CancelledError:
                ends.append("cancelled")
                raise

    async with hdvkit.open_host("sim") as host:
        device = Watching()
        function, driver = await started(host, device)
        await until(lambda: device.queues)
        await driver.reset()
        assert len(ends) == 1
        with pytest.raises(StopAsyncIteration):
            await device.queues[0].__anext__()
        assert function.stats().leases == 0


async def test_a_driver_that_announces_without_end_and_offers_nothing_is_a_liar() -> None:
    async with hdvkit.open_host("sim") as host:
        device = Echo()
        function, driver = await started(host, device)
        await until(lambda: device.queues)
        ring = device.queues[0].ring
        events = function.events()
        asked: list[int] = []

        def armed() -> bool:
            asked.append(1)
            return True

        ring.arm = armed  # type: ignore[method-assign]  # no driver of ours can race that well
        driver.queues[0].post([b"x"], [1])
        await driver.queues[0].kick(force=True)
        event = await asyncio.wait_for(anext(events), 10)
        assert event.reason == f"queue 'queue-0': the driver announced buffers {MAX_EMPTY_LOOKS} times and had none"
        assert len(asked) == MAX_EMPTY_LOOKS


async def test_interrupts_are_sent_only_where_the_driver_wants_them() -> None:
    async with hdvkit.open_host("sim") as host:
        function, driver = await started(host, Echo(), event_idx=False)
        queue = driver.queues[0]
        queue.disable_interrupts()
        token = queue.post([b"x"], [1])
        await queue.kick()
        await until(lambda: function.stats().chains == 1)
        assert function.stats().queues[0].interrupts == queue.interrupts == 0
        assert queue.enable_interrupts() == 1
        assert token.reply == (1, b"x")
        await queue.submit([b"y"], [1])
        assert function.stats().queues[0].interrupts == queue.interrupts == 1


async def test_an_interrupt_that_was_masked_is_sent_when_the_guest_unmasks_it() -> None:
    async with hdvkit.open_host("sim") as host:
        function, driver = await started(host, Echo())
        machine = Guest.of(host).machine
        vector_control = driver.bars[2][0] + 16 * 1 + 12  # vector 1 is the queue's
        await machine.mmio_write(vector_control, 4, 1)
        waiting = asyncio.create_task(ask(driver, b"x"))
        await until(lambda: function.stats().chains)
        await turn()
        assert not waiting.done()
        assert function.stats().queues[0].interrupts == 0
        await machine.mmio_write(vector_control, 4, 0)
        assert await waiting == b"x"


async def test_two_queues_are_served_at_the_same_time() -> None:
    gates: dict[str, asyncio.Event] = {}

    class Gated(Echo):
        async def serve(self, queue: Queue) -> None:
            async for chain in queue:
                gates[queue.name] = asyncio.Event()
                await gates[queue.name].wait()
                chain.complete()

    async def answered(waiting: Awaitable[Any]) -> None:
        await asyncio.wait_for(waiting, 10)

    async with hdvkit.open_host("sim") as host:
        _, driver = await started(host, Gated(queues=2))
        first, second = (asyncio.create_task(queue.submit([b"x"], [])) for queue in driver.queues)
        await until(lambda: len(gates) == 2)
        gates["queue-1"].set()
        await answered(second)
        assert not first.done()
        gates["queue-0"].set()
        await answered(first)
