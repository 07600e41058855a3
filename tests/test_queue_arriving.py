"""Queues over memory that takes its time: buffers arrive later, or never, and the guest does not wait meanwhile."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import attrs
import pytest

import hdvkit
from hdvkit import Chain, EventKind, Function, GuestError, Queue, State
from hdvkit.memory import Lease, Memory, MemoryArriving, RegionMemory
from hdvkit.runtime import DeviceHost
from hdvkit.testing import Guest, VirtioDriver
from hdvkit.testing.echo import Echo

LIMIT = 30.0
TURNS = 2000
STATUS = 0x14

Settled = Callable[[GuestError | None], None]


class SlowMemory(Memory):
    """Shows buffers that can be read, and copies of tables, only after ``arrive``."""

    immediate = False

    def __init__(self, real: Memory, *, tables_too: bool = False) -> None:
        self.asked = 0
        self._real = real
        self._tables_too = tables_too
        self._arriving: list[tuple[bytearray, bytes]] = []
        self._tables: dict[tuple[int, int], bytes] = {}
        self._waiting: list[Settled] = []

    def lease(self, address: int, size: int, *, writable: bool, coherent: bool = False) -> Lease:
        """Buffers to be read show zeroes first."""
        lease = self._real.lease(address, size, writable=writable, coherent=coherent)
        if writable or coherent:
            return lease
        self.asked += 1
        data = bytearray(size)
        self._arriving.append((data, bytes(lease.view)))
        return Lease(memoryview(data), lease.release)

    def copy(self, address: int, size: int) -> bytes:
        """Once busy, then as it is."""
        if not self._tables_too:
            return self._real.copy(address, size)
        if (address, size) in self._tables:
            return self._tables.pop((address, size))
        self._tables[address, size] = self._real.copy(address, size)
        self._arriving.append((bytearray(), b""))
        raise MemoryArriving("on its way")

    def settled(self, then: Settled) -> bool:
        """Whether nothing is on its way."""
        if self._arriving:
            self._waiting.append(then)
        return not self._arriving

    def arrive(self, problem: GuestError | None = None) -> None:
        """All that is on its way arrives, or fails."""
        for data, content in self._arriving:
            data[:] = content
        self._arriving.clear()
        waiting, self._waiting = self._waiting, []
        for then in waiting:
            then(problem)

    @property
    def leases(self) -> int:
        """Those of the memory behind."""
        return self._real.leases

    @property
    def waited_for(self) -> bool:
        """Whether a queue waits."""
        return bool(self._waiting)


class Recorder(Echo):
    """Keeps what it was asked."""

    def __init__(self) -> None:
        self.chains: list[Chain] = []
        self.seen: list[bytes] = []

    async def serve(self, queue: Queue) -> None:
        """Echo, and keep a copy."""
        async for chain in queue:
            self.chains.append(chain)
            with chain:
                self.seen.append(chain.read())
                chain.write(self.seen[-1])


@attrs.frozen
class Slow:
    """A device whose memory is slow, and its driver."""

    host: DeviceHost
    function: Function
    device: Recorder
    memory: SlowMemory
    driver: VirtioDriver


@asynccontextmanager
async def slow(*, packed: bool = False, tables_too: bool = False) -> AsyncIterator[Slow]:
    device = Recorder()
    async with asyncio.timeout(LIMIT), hdvkit.open_host("sim") as host:
        function = await host.add(device)
        memory = SlowMemory(function.slot.memory, tables_too=tables_too)
        function.slot.memory = memory
        driver = Guest.of(host).driver(function, packed=packed)
        await driver.probe()
        await driver.start()
        await function.ready()
        yield Slow(host, function, device, memory, driver)


async def until(true: Callable[[], object]) -> None:
    """Let the loop turn until something is so."""
    for _ in range(TURNS):
        if true():
            return
        await asyncio.sleep(0)
    pytest.fail(f"still not so after {TURNS} turns of the loop")


async def turn() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


rings = pytest.mark.parametrize("packed", [False, True])


@rings
async def test_a_chain_is_handed_out_when_all_of_it_has_arrived(packed: bool) -> None:
    async with slow(packed=packed) as case:
        asked = asyncio.create_task(case.driver.queues[0].submit([b"first ", b"second"], [12]))
        await until(lambda: case.memory.waited_for)
        await turn()
        assert case.device.chains == []
        assert case.function.stats().queues[0].in_flight == 1
        case.memory.arrive()
        assert (await asked).data == b"first second"
        assert case.memory.asked == 2
        assert case.device.seen == [b"first second"]


@rings
async def test_requests_without_anything_to_read_wait_for_nothing(packed: bool) -> None:
    async with slow(packed=packed) as case:
        assert (await case.driver.queues[0].submit([], [12])).data == b""
        assert case.memory.asked == 0


@rings
async def test_one_queue_waits_and_the_others_go_on(packed: bool) -> None:
    async with slow(packed=packed) as case:
        asked = [asyncio.create_task(queue.submit([b"data"], [4])) for queue in case.driver.queues]
        await until(lambda: case.memory.asked == 2)
        await turn()
        assert case.device.chains == []
        case.memory.arrive()
        assert [(await one).data for one in asked] == [b"data", b"data"]


@rings
async def test_what_never_arrives_is_the_guests_fault(packed: bool) -> None:
    async with slow(packed=packed) as case:
        events = case.function.events()
        case.driver.queues[0].post([b"data"], [4])
        await case.driver.queues[0].kick(force=True)
        await until(lambda: case.memory.waited_for)
        case.memory.arrive(GuestError("4 bytes at 0x1000 cannot be read"))
        await until(lambda: case.function.state is State.NEEDS_RESET)
        told = [event async for event in _up_to(events, EventKind.NEEDS_RESET)]
        assert told[-1].reason == "queue 'first': 4 bytes at 0x1000 cannot be read"
        assert case.device.chains == []
        await until(lambda: not case.function.stats().leases)
        await case.driver.reset()
        assert case.function.stats().queues[0].in_flight == 0
        await case.driver.probe()
        await case.driver.start()
        asked = asyncio.create_task(case.driver.queues[0].submit([b"data"], [4]))
        await until(lambda: case.memory.waited_for)
        case.memory.arrive()
        assert (await asked).data == b"data"


async def _up_to(events: "AsyncIterator[hdvkit.Event]", kind: EventKind) -> "AsyncIterator[hdvkit.Event]":
    async for event in events:
        yield event
        if event.kind is kind:
            return


@rings
@pytest.mark.parametrize("arrives", ["never", "late", "as an error"])
async def test_a_reset_takes_a_chain_back_once_while_it_is_waited_for(arrives: str, packed: bool) -> None:
    async with slow(packed=packed) as case:
        case.driver.queues[0].post([b"data"], [4])
        await case.driver.queues[0].kick(force=True)
        await until(lambda: case.memory.waited_for)
        case.function.write(0, STATUS, b"\0")
        await until(lambda: case.function.read(0, STATUS, 1) == b"\0")
        stats = case.function.stats()
        assert (stats.queues[0].late, stats.queues[0].in_flight, stats.queues[0].chains) == (1, 0, 0)
        assert stats.leases == 0
        if arrives != "never":
            case.memory.arrive(GuestError("gone") if arrives == "as an error" else None)
        await turn()
        assert case.device.chains == []
        assert case.function.stats().needs_resets == 0
        assert case.function.stats().queues[0].late == 1


@pytest.mark.parametrize("how", ["removed", "closed"])
async def test_the_end_of_a_device_does_not_wait_for_memory(how: str) -> None:
    async with slow() as case:
        case.driver.queues[0].post([b"data"], [4])
        await case.driver.queues[0].kick(force=True)
        await until(lambda: case.memory.waited_for)
        if how == "removed":
            await case.host.remove(case.function)
        else:
            await case.host.aclose()
        assert case.function.stats().leases == 0
        assert case.device.chains == []
        case.memory.arrive()
        await turn()


@rings
@pytest.mark.parametrize("reason", ["", "no table"])
async def test_a_table_on_its_way_is_waited_for(packed: bool, reason: str) -> None:
    async with slow(packed=packed, tables_too=True) as case:
        asked = asyncio.create_task(case.driver.queues[0].submit([b"one", b"two", b"three"], [20, 20]))
        await until(lambda: case.memory.waited_for)
        assert case.memory.asked == 0, "the table comes first"
        assert case.function.stats().queues[0].in_flight == 0
        case.memory.arrive(GuestError(reason) if reason else None)
        if not reason:
            await until(lambda: case.memory.waited_for)
            assert case.memory.asked == 3
            case.memory.arrive()
            assert (await asked).data == b"onetwothree"
        else:
            await until(lambda: case.function.state is State.NEEDS_RESET)
            asked.cancel()
        assert len(case.device.chains) == (not reason)


# Memory itself


def test_a_copy_leases_for_a_moment_only() -> None:
    memory = RegionMemory()
    memory.map(0x1000, memoryview(bytearray(b"0123456789")))
    memory.map(0x2000, memoryview(b"read-only"), writable=False)
    assert memory.copy(0x1002, 4) == b"2345"
    assert memory.copy(0x2000, 9) == b"read-only"
    assert memory.leases == 0
    for address, size in ((0x1008, 3), (0xFFF, 2), (0x3000, 1), (0x1000, 0), ((1 << 64) - 1, 2)):
        with pytest.raises(GuestError):
            memory.copy(address, size)
    assert memory.leases == 0
    assert memory.immediate
    assert memory.settled(lambda _: pytest.fail("nothing is on its way"))
