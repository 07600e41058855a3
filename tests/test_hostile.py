"""Every hostile guest by name, against a device that answers at once and one that takes its time; and random rings."""

import asyncio
import os
import random
import re
import struct
import threading
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hdvkit.errors import GuestError, UsageError
from hdvkit.memory import Lease, Memory, RegionMemory
from hdvkit.native import build_ring
from hdvkit.observe import EventKind
from hdvkit.runtime import DeviceHost, Function, Opening, Queue, State, VirtioDevice
from hdvkit.runtime.queue import BUDGET, MAX_EMPTY_LOOKS, QueueCounters, Turn
from hdvkit.testing.backend import SimBackend, SimMachine
from hdvkit.testing.driver import DriverError, VirtioDriver
from hdvkit.testing.driver_rings import F_INDIRECT, F_NEXT, F_WRITE
from hdvkit.testing.driver_rings import need_event as driver_need_event
from hdvkit.testing.guest import Guest, machine_of, slot_of
from hdvkit.testing.hostile import GUESTS, Answer, Hostile, HostileError, any_request, by_name, provoke
from hdvkit.testing.hostile_guest import SETTLE, Intruder, Surprise
from hdvkit.testing.hostile_rings import Link, RawSplit, raw_ring
from hdvkit.testing.ram import HIGH
from hdvkit.virtio import Chain, DeviceType, Feature, Ring, RingAddresses, SplitRing
from hdvkit.virtio.ring import need_event

pytestmark = pytest.mark.usefixtures("engine")

LINES = [f"H{n}" for n in range(1, 12)] + [f"R{n}" for n in range(1, 15)]
"""The threat model at registers and rings."""

PATIENCE = 2 * SETTLE
"""Turns of the event loop that the slow device takes for a chain: longer than any attack waits."""

KINDS = pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])


class Rng(VirtioDevice):
    """Entropy, at once."""

    device_type = DeviceType.RNG

    async def serve(self, queue: Queue) -> None:
        """Fill each chain."""
        async for chain in queue:
            with chain:
                chain.write(os.urandom(min(chain.writable_size, 64 * 1024)))


class SlowEcho(VirtioDevice):
    """Gives back what it is sent, each chain in a task of its own, some turns of the loop later."""

    device_type = 0x3E
    queue_names = ("echo", "spare")

    def __init__(self) -> None:
        self.identity = b"slow"

    def config(self) -> bytes:
        """Four bytes that may change."""
        return self.identity

    async def serve(self, queue: Queue) -> None:
        """Hand chains to tasks."""
        async with asyncio.TaskGroup() as tasks:
            async for chain in queue:
                task = tasks.create_task(self._answer(chain))
                # A task that is cancelled before its first step never comes to its with block.
                task.add_done_callback(partial(self._give_back, chain))

    async def _answer(self, chain: Chain) -> None:
        with chain:
            for _ in range(PATIENCE):
                await asyncio.sleep(0)
            chain.write(chain.read())

    @staticmethod
    def _give_back(chain: Chain, _: asyncio.Task[None]) -> None:
        if not chain.completed:
            chain.complete()


class Hoarder(VirtioDevice):
    """Takes chains and keeps them until it is told."""

    device_type = 0x3D

    def __init__(self) -> None:
        self.held: list[Chain] = []

    async def serve(self, queue: Queue) -> None:
        """Hoard."""
        try:
            async for chain in queue:
                self.held.append(chain)
        finally:
            self.give_back()

    def give_back(self) -> None:
        """Complete everything."""
        while self.held:
            self.held.pop().complete()


async def exchange_echo(driver: VirtioDriver) -> None:
    reply = await driver.queues[0].submit([b"who is there?"], [64])
    if reply.data != b"who is there?":
        raise DriverError(f"the echo of the question was {reply.data!r}")


async def exchange_entropy(driver: VirtioDriver) -> None:
    reply = await driver.queues[0].submit([], [64])
    if len(set(reply.data)) < 8:
        raise DriverError(f"that is no entropy: {reply.data!r}")


DEVICES = {"rng": (Rng, exchange_entropy), "echo": (SlowEcho, exchange_echo)}


def _no_kinds(kind: str, _: object) -> VirtioDevice:
    raise UsageError(kind)


@asynccontextmanager
async def two(
    device: VirtioDevice, backend: SimBackend | None = None
) -> AsyncIterator[tuple[DeviceHost, Function, Function]]:
    """A host with a device to attack and a bystander."""
    async with Opening(DeviceHost(backend or SimBackend(), _no_kinds)) as host:
        yield host, await host.add(device, name="victim"), await host.add(Rng(), name="bystander")


@asynccontextmanager
async def attacked(
    device: VirtioDevice, packed: bool, backend: SimBackend | None = None
) -> AsyncIterator[tuple[Intruder, Function]]:
    """An intruder with its driver up, for attacks that are none of the kit's."""
    async with two(device, backend) as (host, function, _):
        guest = Guest.of(host)
        async with asyncio.timeout(30), guest.drive(function, packed=packed) as driver:
            yield Intruder(driver, guest.machine, slot_of(function), packed, any_request), function


async def turns(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


# -- by name ----------------------------------------------------------------------------------------

CASES = [
    pytest.param(guest, ring == "packed", id=f"{guest.name}-{ring}" if guest.rings else guest.name)
    for guest in GUESTS
    for ring in guest.rings or ("split",)
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("guest", "packed"), CASES)
async def test_survives(guest: Hostile, packed: bool, device: str) -> None:
    make, exchange = DEVICES[device]
    async with two(make()) as (host, function, bystander):
        verdict = await provoke(host, function, bystander, guest, packed, exchange=exchange)
    assert verdict.answer in (guest.answer, guest.or_else)
    assert bool(verdict.reason) == (verdict.answer is Answer.NEEDS_RESET)


@pytest.mark.parametrize("name", ["R5-across-end-of-ram", "H4-descriptor-area-in-own-bar", "R3-chain-above-the-cap"])
@pytest.mark.parametrize(
    "make",
    [partial(SimBackend, apertures=8), partial(SimBackend, doorbells=0), partial(SimBackend, memory_mb=4)],
    ids=["apertures", "trapped kicks", "little memory"],
)
async def test_survives_on_awkward_machines(name: str, make: Callable[[], SimBackend]) -> None:
    async with two(Rng(), make()) as (host, function, bystander):
        await provoke(host, function, bystander, by_name(name), packed=False)


async def test_one_device_survives_all_of_them() -> None:
    async with two(Rng()) as (host, function, bystander):
        for guest in GUESTS:
            for ring in guest.rings or ("split",):
                await provoke(host, function, bystander, guest, ring == "packed")
        assert machine_of(host).memory.allocated == 0


@pytest.mark.parametrize("line", LINES)
def test_every_line_of_the_threat_model_is_tested(line: str) -> None:
    named = any(re.match(rf"test_{line.lower()}_", name) for name in globals())
    assert named or any(guest.line == line for guest in GUESTS)


def test_names_are_lines_and_words() -> None:
    names = [guest.name for guest in GUESTS]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[HR]\d+(-[a-z0-9]+)+", name) for name in names)
    assert {guest.line for guest in GUESTS} <= set(LINES)
    assert all(guest.summary.endswith(".") and "\n" not in guest.summary for guest in GUESTS)
    with pytest.raises(LookupError, match="no hostile guest is called 'R99'"):
        by_name("R99")


# -- devices that do not survive --------------------------------------------------------------------


class Deaf(Rng):
    """Never looks at its queue again once it has seen a first chain."""

    async def serve(self, queue: Queue) -> None:
        """One chain only."""
        async for chain in queue:
            chain.complete()
            await asyncio.get_running_loop().create_future()


class Clumsy(Rng):
    """Fails by itself."""

    async def serve(self, queue: Queue) -> None:
        """Fail."""
        async for chain in queue:
            with chain:
                raise ZeroDivisionError("clumsy")


class Noisy(Rng):
    """Leaves failures to the event loop."""

    async def reset(self) -> None:
        """Leave one."""
        asyncio.get_running_loop().call_soon(self.fail)
        await turns()

    def fail(self) -> None:
        """Nobody catches it."""
        raise ZeroDivisionError("noisy")


@pytest.mark.parametrize(
    ("device", "name", "message"),
    [
        (Deaf(), "R6-index-jumps", "expected needs-reset; saw nothing for 0 s"),
        (Clumsy(), "R2-writable-table", "expected served; saw a needs-reset event, though the status does not say so"),
        (
            Clumsy(),
            "R7-head-far-outside",
            "expected silence on the event loop and in the log; saw log of hdvkit.runtime",
        ),
        (Noisy(), "R1-cycle", "expected silence on the event loop and in the log; saw event loop: .*noisy"),
    ],
)
async def test_a_device_that_does_not_survive_is_named(device: VirtioDevice, name: str, message: str) -> None:
    limit = 0.3 if isinstance(device, Deaf) else 30.0  # one of them is to be caught by the clock
    async with two(device) as (host, function, bystander):
        with pytest.raises(HostileError, match=f"{name}, split ring: {message}"):
            await provoke(host, function, bystander, by_name(name), packed=False, limit=limit)


async def test_an_answer_that_is_not_the_documented_one_is_named() -> None:
    async def harmless(_: Intruder) -> None:
        """Does nothing."""

    async def surprised(_: Intruder) -> None:
        raise Surprise("registers that dance")

    for attack, answer, message in (
        (harmless, Answer.NEEDS_RESET, "expected needs-reset; saw a device that does not"),
        (harmless, Answer.IGNORED, "expected accesses that are dropped and counted; saw none"),
        (surprised, Answer.REFUSED, "expected refused; saw registers that dance"),
    ):
        async with two(Rng()) as (host, function, bystander):
            with pytest.raises(HostileError, match=message):
                await provoke(host, function, bystander, Hostile("R0-x", "X.", answer, attack), packed=False)


# -- H: what needs a platform or a device of its own ---------------------------------------------------


class SlowToForget(Rng):
    """Takes some turns to forget its guest."""

    forgetting = 0

    async def reset(self) -> None:
        """Never twice at once."""
        self.forgetting += 1
        assert self.forgetting == 1
        await turns(50)
        self.forgetting -= 1


async def test_h6_the_platform_resets_while_the_driver_does(caplog: pytest.LogCaptureFixture) -> None:
    async with two(SlowToForget()) as (host, function, _):
        driver = Guest.of(host).driver(function)
        async with asyncio.timeout(30):
            await driver.probe()
            await driver.start()
            await driver.common_write("device_status", 0)
            await turns()
            function.reset()
            await driver.probe()
            await driver.start()
            await turns(200)
            assert await driver.status() == 0xF, "a reset that was over long ago took the driver down"
            await exchange_entropy(driver)
            await driver.reset()
    assert not caplog.records


async def test_h6_chains_come_back_late_after_a_reset() -> None:
    device = Hoarder()
    async with attacked(device, packed=False) as (intruder, function):
        for _ in range(5):
            intruder.queue.post([b"x"], [8])
        await intruder.queue.kick()
        await turns()
        assert len(device.held) == 5
        await intruder.driver.reset()
        stats = function.stats()
        assert (stats.queues[0].late, stats.queues[0].in_flight, stats.leases) == (5, 0, 0)


async def test_h6_a_reset_waits_for_chains_that_are_out() -> None:
    class Keeper(Hoarder):
        async def serve(self, queue: Queue) -> None:
            async for chain in queue:
                self.held.append(chain)

    device = Keeper()
    async with attacked(device, packed=False) as (intruder, function):
        ring = raw_ring(intruder)
        ring.offer(ring.good())
        await ring.kick()
        await turns()
        resetting = asyncio.create_task(intruder.driver.reset())
        await turns(50)
        assert not resetting.done(), "the device still writes into the guest's memory"
        assert function.stats().leases == 2
        device.give_back()
        await resetting
        assert function.stats().leases == 0


async def test_h6_a_task_that_never_began_does_not_keep_its_chain() -> None:
    class Natural(SlowEcho):
        async def serve(self, queue: Queue) -> None:
            async with asyncio.TaskGroup() as tasks:
                async for chain in queue:
                    tasks.create_task(self._answer(chain))

    async with two(Natural()) as (host, function, bystander):
        guest = by_name("R7-head-outside-behind-requests")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # it is the device's fault, but not the guest's
            await provoke(host, function, bystander, guest, packed=False, exchange=exchange_echo)


async def test_h8_kicks_from_another_thread_become_few() -> None:
    async with attacked(Rng(), packed=False) as (intruder, function):
        before = function.stats().queues[0]

        def flood() -> None:
            for _ in range(20_000):
                function.write(0, 0x3000, b"\0\0")

        thread = threading.Thread(target=flood)
        thread.start()
        rounds = 0
        while thread.is_alive():
            await exchange_entropy(intruder.driver)
            rounds += 1
        thread.join()
        await turns()
        after = function.stats().queues[0]
    assert after.kicks - before.kicks >= 20_000
    assert rounds
    assert after.wakeups - before.wakeups < after.kicks - before.kicks
    assert after.chains - before.chains == rounds


async def test_h11_the_generation_changes_with_the_configuration_only() -> None:
    device = SlowEcho()
    async with attacked(device, packed=False) as (intruder, function):
        before = await intruder.driver.common_read("config_generation")
        function.config_changed()
        assert await intruder.driver.common_read("config_generation") == before
        for turn in range(1, 300):
            device.identity = turn.to_bytes(4, "little")
            function.config_changed()
            assert await intruder.driver.common_read("config_generation") == (before + turn) & 0xFF
            assert await intruder.driver.config_read(0, 4) == device.identity


# -- R: what needs a device or memory of its own -------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "packed"),
    [
        ("R7-head-twice", False),
        ("R7-id-twice", True),
        ("R12-every-place-the-same-head", False),
        ("R12-more-than-the-ring", True),
        ("R12-chain-over-held-places", True),
    ],
)
async def test_r7_r12_a_device_that_takes_its_time_notices(name: str, packed: bool) -> None:
    async with two(SlowEcho()) as (host, function, bystander):
        verdict = await provoke(host, function, bystander, by_name(name), packed, exchange=exchange_echo)
    assert verdict.answer is Answer.NEEDS_RESET


class Flipping(Memory):
    """Guest RAM in which the guest rewrites what the device has just looked at: tables once they are copied."""

    def __init__(self, memory: Memory, flip: Callable[[int], None]) -> None:
        self.memory = memory
        self.flip = flip

    def lease(self, address: int, size: int, *, writable: bool, coherent: bool = False) -> Lease:
        """Lease, and flip then or when the lease is back."""
        lease = self.memory.lease(address, size, writable=writable, coherent=coherent)

        def back() -> None:
            lease.release()
            self.flip(address)

        if address == TABLE:
            return Lease(lease.view, back)
        self.flip(address)
        return lease

    @property
    def leases(self) -> int:
        """As below."""
        return self.memory.leases


RINGS, TABLE, DATA, DATA_SIZE = 0x80000, 0x11000, 0x20000, 0x10000
AVAIL, USED = 1 << 7, 1 << 15


@KINDS
@pytest.mark.parametrize("indirect", [False, True], ids=["direct", "indirect"])
def test_r8_what_was_checked_is_what_is_used(packed: bool, indirect: bool) -> None:
    arena = Arena()
    at = TABLE if indirect else RINGS
    marks = 0 if indirect or not packed else AVAIL
    honest = [(DATA, 16, marks | F_NEXT, 1), (DATA + 64, 32, marks | F_WRITE, 0)]

    def flip(address: int) -> None:
        places = {DATA: (0,), DATA + 64: (1,), TABLE: (0, 1)}.get(address, ())
        for place in places:
            arena.fill(at + 16 * place, b"\xff" * 16)

    for place, (address, length, flags, following) in enumerate(honest):
        words = (place, flags) if packed else (flags, following)
        arena.fill(at + 16 * place, struct.pack("<QIHH", address, length, *words))
    if indirect:
        words = (7, F_INDIRECT | AVAIL) if packed else (F_INDIRECT, 0)
        arena.fill(RINGS, struct.pack("<QIHH", TABLE, 32, *words))
    arena.fill(DATA, b"what was checked")
    memory = Flipping(arena.memory, flip)
    ring = arena.ring(packed, 4, memory)
    arena.make_available(packed, [0])
    chain = ring.pop()
    assert chain is not None
    assert (chain.readable_size, chain.writable_size) == (16, 32)
    copy = chain.read()
    arena.fill(DATA, b"is it still same")
    assert copy == b"what was checked"
    chain.complete()
    ring.close()
    assert arena.memory.leases == 0


class Below(SimMachine):
    """A machine that gives out RAM below 4 GiB only."""

    def __init__(self, machine: SimMachine) -> None:
        self.__dict__ = machine.__dict__

    def allocate(self, size: int, align: int = 4096) -> int:
        """Take RAM, and give back what is not wanted."""
        address = super().allocate(size, align)
        if address < HIGH:
            return address
        try:
            return super().allocate(size, align)
        finally:
            self.free(address)


@KINDS
async def test_r9_the_memory_of_a_ring_is_unplugged(packed: bool) -> None:
    async with two(SlowEcho()) as (host, function, bystander):
        machine = machine_of(host)
        driver = VirtioDriver(machine, slot_of(function), packed=packed)
        neighbour = VirtioDriver(Below(machine), slot_of(bystander), packed=packed)
        events = function.events()
        async with asyncio.timeout(30):
            for one in (driver, neighbour):
                await one.probe()
                await one.start()
            requests = [asyncio.create_task(exchange_echo(driver)) for _ in range(8)]
            await turns()
            await machine.unplug(HIGH)
            event = await anext(event async for event in events if event.kind is EventKind.NEEDS_RESET)
            assert "took away the memory of queue 'echo'" in event.reason
            for request in requests:
                with pytest.raises(DriverError, match="NEEDS_RESET"):
                    await request
            await exchange_entropy(neighbour)
            await driver.reset()
            assert function.stats().leases == 0
            again = VirtioDriver(Below(machine), slot_of(function), packed=packed)
            await again.probe()
            await again.start()
            await exchange_echo(again)
            await again.reset()
            await neighbour.reset()


@KINDS
async def test_r9_the_memory_of_a_chain_is_unplugged(packed: bool) -> None:
    device = Hoarder()
    async with two(device) as (host, function, _):
        machine = machine_of(host)
        driver = VirtioDriver(Below(machine), slot_of(function), packed=packed)
        async with asyncio.timeout(30):
            await driver.probe()
            await driver.start()
            ring = raw_ring(Intruder(driver, Below(machine), slot_of(function), packed, any_request))
            ring.offer([Link(HIGH + 0x1000, 64, F_WRITE)])
            await ring.kick()
            await turns()
            unplugging = asyncio.create_task(machine.unplug(HIGH))
            await turns(50)
            assert not unplugging.done(), "the device still has a chain in that memory"
            ring.offer([Link(HIGH + 0x1000, 64, F_WRITE)])
            assert device.held[0].write(b"x" * 64) == 64
            device.give_back()
            await unplugging
            await ring.kick()
            await turns()
            assert function.state is State.NEEDS_RESET, "the second chain points to where no RAM is any more"
            await driver.reset()
            assert function.stats().leases == 0


async def test_r11_a_ring_that_always_has_more_and_never_has_it() -> None:
    class Liar(SplitRing):
        looks = 0

        def pop(self) -> Chain | None:
            self.looks += 1
            return None

        def arm(self) -> bool:
            return True

    arena = Arena()
    ring = Liar(arena.memory, arena.addresses, 4, FEATURES)
    turn, nothing = Turn(asyncio.get_running_loop()), lambda *_: None
    queue = Queue(0, "lies", ring, FEATURES, turn, QueueCounters(), nothing, nothing)
    with pytest.raises(GuestError, match=f"announced buffers {MAX_EMPTY_LOOKS} times and had none"):
        await anext(queue)
    assert ring.looks == MAX_EMPTY_LOOKS
    ring.close()


@KINDS
async def test_r12_in_flight_is_never_more_than_the_ring(packed: bool) -> None:
    device = Hoarder()
    async with attacked(device, packed) as (intruder, function):
        ring = raw_ring(intruder)
        for _ in range(ring.size):
            ring.offer([Link(ring.buffer, 64, F_WRITE)])
        await ring.kick()
        await intruder.until(lambda: len(device.held) == ring.size)
        assert function.stats().queues[0].in_flight == ring.size
        assert function.stats().leases == ring.size + 3
        if isinstance(ring, RawSplit):
            ring.announce(ring.size // 2)
        else:
            ring.offer([Link(ring.buffer, 64, F_WRITE)], head=0x4000)
        await ring.kick()
        await intruder.until_broken()
        assert await intruder.broken()
        assert function.stats().leases == 0


@KINDS
@pytest.mark.parametrize("room", [0, 1, 63])
async def test_r13_the_answer_is_as_long_as_the_room(packed: bool, room: int) -> None:
    for device in (Rng(), SlowEcho()):
        async with attacked(device, packed) as (intruder, _):
            reply = await intruder.queue.submit([b"?" * 100], [room] if room else [])
            assert (reply.written, len(reply.data)) == (room, room)


async def test_r14_a_busy_device_does_not_starve_its_neighbour() -> None:
    class Busy(Rng):
        queue_size = 1024

    async with two(Busy()) as (host, busy, bystander):
        guest = Guest.of(host)
        async with asyncio.timeout(30), guest.drive(busy) as flooding, guest.drive(bystander) as patient:
            queue = flooding.queues[0]

            async def flood() -> None:
                while True:
                    tokens = [queue.post([], [1]) for _ in range(queue.free)]
                    await queue.kick(force=True)
                    await queue.wait(tokens[-1])

            flooding_task = asyncio.create_task(flood())
            await turns()
            starved = []
            for _ in range(20):
                before = busy.stats().chains
                await exchange_entropy(patient)
                starved.append(busy.stats().chains - before)
            flooding_task.cancel()
            await asyncio.wait([flooding_task])
            assert max(starved) <= 3 * BUDGET
            assert sum(starved) >= 10 * BUDGET, "the other device was not busy enough to prove anything"


# -- random rings ------------------------------------------------------------------------------------

TABLES = 20_000
ROM = 0x40000
NOWHERE = (0, 0xE0000000, 1 << 52, (1 << 64) - 16, DATA + DATA_SIZE, DATA + DATA_SIZE - 8, RINGS)
LENGTHS = (0, 0xFFFFFFFF, 0x80000000, DATA_SIZE, 32 << 20, 17)
FEATURES = Feature.VERSION_1 | Feature.INDIRECT_DESC | Feature.EVENT_IDX


class Arena:
    """Guest RAM that is used again and again: data, tables, read-only memory, and room for rings."""

    addresses = RingAddresses(RINGS, RINGS + 0x2000, RINGS + 0x3000)

    def __init__(self) -> None:
        self.memory = RegionMemory()
        self._parts = {RINGS: bytearray(0x4000), TABLE: bytearray(0x1000), DATA: bytearray(DATA_SIZE)}
        for address, part in self._parts.items():
            self.memory.map(address, memoryview(part))
        self.memory.map(ROM, memoryview(bytes(0x1000)))

    def fill(self, address: int, data: bytes) -> None:
        """Store as the guest does."""
        start = max(start for start in self._parts if start <= address)
        self._parts[start][address - start : address - start + len(data)] = data

    def ring(self, packed: bool, size: int, memory: Memory | None = None, features: Feature = FEATURES) -> Ring:
        """The device half of a ring."""
        kind = features | Feature.RING_PACKED if packed else features
        return build_ring(memory or self.memory, self.addresses, size, kind)

    def make_available(self, packed: bool, heads: list[int], ahead: int | None = None) -> None:
        """Announce heads in the available ring; the index says more or less than that when told."""
        if not packed:
            index = (len(heads) if ahead is None else ahead) & 0xFFFF
            self.fill(RINGS + 0x2000, struct.pack(f"<{2 + len(heads)}H", 0, index, *heads))


def descriptors(seed: int, size: int, packed: bool) -> Iterator[list[bytes]]:
    """Stocks of descriptors for rings of a size: to read, to write, and of every kind together."""
    choose = random.Random(seed)
    for writable in (0, F_WRITE, None):
        yield [_descriptor(choose, size, packed, writable) for _ in range(256)]


def _descriptor(choose: random.Random, size: int, packed: bool, writable: int | None) -> bytes:
    odd = choose.random
    flags = F_WRITE * choose.getrandbits(1) if writable is None else writable
    flags |= F_NEXT * (odd() < 0.6)
    address, length = DATA + 16 * choose.randrange(0xF00), choose.randrange(1, 600)
    if odd() < 0.2:
        address, length = TABLE + 16 * choose.randrange(16), 16 * choose.randrange(1, 65)
        flags = F_INDIRECT | (F_NEXT if odd() < 0.05 else 0)
    if odd() < 0.02:
        address = choose.choice((*NOWHERE, ROM))
    if odd() < 0.02:
        length = choose.choice(LENGTHS)
    if odd() < 0.01:
        flags = choose.getrandbits(16)
    word = choose.randrange(size) if odd() < 0.98 else choose.getrandbits(16)
    if packed:
        flags |= AVAIL if odd() < 0.97 else choose.choice((0, USED, AVAIL | USED))
    return struct.pack("<QIHH", address, length, *((word, flags) if packed else (flags, word)))


def drain(ring: Ring, choose: random.Random) -> tuple[int, str]:
    """Pop until there is nothing more; hold some chains to the end. How many there were, and what was wrong."""
    held: list[Chain] = []
    count, wrong = 0, ""
    try:
        for _ in range(4 * ring.size + 4):
            chain = ring.pop()
            if chain is None:
                break
            count += 1
            if choose.random() < 0.5:
                held.append(chain)
            else:
                chain.write(b"an answer")
                chain.complete()
                ring.should_signal()
        else:
            pytest.fail("a ring that never ends")
    except GuestError as error:
        wrong = str(error)
    for chain in held[::2]:
        chain.complete()
    ring.close()
    for chain in held[1::2]:
        chain.complete()
    return count, wrong


@KINDS
def test_random_tables_end_in_chains_or_a_guest_error(packed: bool) -> None:
    arena = Arena()
    sizes = range(1, 65) if packed else [1 << bit for bit in range(7)]
    stocks = {size: list(descriptors(size, size, packed)) for size in sizes}
    chains, wrongs = 0, set()
    for seed in range(TABLES):
        choose = random.Random(seed)
        size = choose.choice(sizes)
        stock = choose.choice(stocks[size])
        arena.fill(RINGS, b"".join(choose.choices(stock, k=size)))
        arena.fill(TABLE + 1024 * (seed % 4), b"".join(choose.choices(stock, k=choose.randrange(1, 65))))
        heads = choose.choices(range(size), k=size) if seed % 2 else list(range(size))
        if choose.random() < 0.05:
            heads[-1] = choose.getrandbits(16)
        ahead = choose.randrange(size + 1) if choose.random() < 0.95 else choose.getrandbits(16)
        arena.make_available(packed, heads, ahead)
        features = FEATURES if choose.random() < 0.9 else Feature.VERSION_1
        try:
            count, wrong = drain(arena.ring(packed, size, features=features), choose)
        except Exception as error:
            raise AssertionError(f"table {seed} of size {size}") from error
        assert arena.memory.leases == 0, f"table {seed} of size {size}"
        chains += count
        wrongs.add(re.sub(r"0x[0-9a-f]+|\d+", "N", wrong))
    assert chains > TABLES // 4, "the tables are too broken to prove anything"
    assert len(wrongs) >= 10, sorted(wrongs)


# -- R10: the arithmetic of events, against counting one by one -----------------------------------------

words = st.integers(0, 0xFFFF)


@given(event=words, old=words, count=st.integers(0, 300) | words)
def test_r10_split_event_index(event: int, old: int, count: int) -> None:
    passed = any((old + step) & 0xFFFF == event for step in range(count))
    new = (old + count) & 0xFFFF
    assert need_event(event, new, old) is passed
    assert driver_need_event(event, new, old) is passed


@given(seed=st.integers(0, 1 << 32))
def test_r10_packed_event_place(seed: int) -> None:
    choose = random.Random(seed)
    arena = Arena()
    size = choose.randrange(1, 12)
    ring = arena.ring(True, size)
    place, wrap = 0, True
    for _ in range(12):
        passed: list[tuple[int, bool]] = []
        for _ in range(choose.randrange(4)):
            length = choose.randrange(1, size + 1)
            if len(passed) + length > size:
                break
            for step in range(length):
                flags = (AVAIL if wrap else USED) | (F_NEXT if step < length - 1 else 0)
                arena.fill(RINGS + 16 * place, struct.pack("<QIHH", DATA, 8, 1, flags))
                passed.append((place, wrap))
                place, wrap = (place + 1, wrap) if place + 1 < size else (0, not wrap)
            chain = ring.pop()
            assert chain is not None
            chain.complete()
        event = choose.randrange(size), bool(choose.getrandbits(1))
        arena.fill(RINGS + 0x2000, struct.pack("<HH", event[0] | event[1] << 15, 2))
        assert ring.should_signal() is (event in passed)
    ring.close()


@given(event=words, flags=words)
def test_r10_packed_nonsense_is_an_interrupt_or_none(event: int, flags: int) -> None:
    arena = Arena()
    ring = arena.ring(True, 4)
    for place in range(3):
        arena.fill(RINGS + 16 * place, struct.pack("<QIHH", DATA, 8, 1, AVAIL))
        chain = ring.pop()
        assert chain is not None
        chain.complete()
        arena.fill(RINGS + 0x2000, struct.pack("<HH", event, flags))
        assert ring.should_signal() in (True, False)
        assert ring.should_signal() is False, "nothing was returned since"
    ring.close()
