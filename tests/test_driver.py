"""The guest's driver against bytes derived by hand from VIRTIO 1.3, on a machine that is one bytearray."""

import asyncio
import struct
from collections.abc import Callable

import pytest

from hdvkit.testing.driver import DriverError, Status, VirtioDriver
from hdvkit.testing.driver_packed import PackedQueue
from hdvkit.testing.driver_rings import DriverQueue, Token, need_event
from hdvkit.testing.driver_split import SplitQueue

RAM = 0x10000
PAGE = 0x1000


class BareMachine:
    """RAM in whole pages from 0x10000 on, and a record of register writes."""

    def __init__(self, function: "BareFunction | None" = None) -> None:
        self.bytes = bytearray(16 << 20)
        self.next = RAM
        self.taken: set[int] = set()
        self.writes: list[tuple[int, int, int]] = []
        self.handlers: list[Callable[[], None]] = []
        self.stall: asyncio.Event | None = None
        self.function = function

    def ram(self, address: int, size: int) -> memoryview:
        """RAM as it is."""
        return memoryview(self.bytes)[address - RAM : address - RAM + size]

    def allocate(self, size: int, align: int = PAGE) -> int:
        """The next pages; nothing is reused, so addresses can be told beforehand."""
        address = self.next
        assert address % align == 0
        self.next += -(-size // PAGE) * PAGE
        self.taken.add(address)
        return address

    def free(self, address: int) -> None:
        """Forget an allocation; an unknown one fails the test."""
        self.taken.remove(address)

    def allocate_bar(self, size: int) -> int:
        """One window for BAR 0, one above 4 GiB for BAR 2."""
        return 0xE0000000 if size == 0x4000 else 0x10_0000_0000

    def allocate_msi(self, handler: Callable[[], None]) -> tuple[int, int]:
        """Messages are numbered from 1."""
        self.handlers.append(handler)
        return 0x8_FEE0_0000, len(self.handlers)

    async def mmio_read(self, address: int, size: int) -> int:
        """Read a register of the function."""
        assert self.function is not None
        return self.function.load(address, size)

    async def mmio_write(self, address: int, size: int, value: int) -> None:
        """Record, then write a register of the function if there is one."""
        if self.stall is not None:
            await self.stall.wait()
        self.writes.append((address, size, value))
        if self.function is not None:
            self.function.store(address, size, value)

    async def config_read(self, slot: int, offset: int, size: int) -> int:
        """Read configuration space."""
        assert self.function is not None
        return int.from_bytes(self.function.config[offset : offset + size], "little")

    async def config_write(self, slot: int, offset: int, size: int, value: int) -> None:
        """Write configuration space."""
        assert self.function is not None
        self.function.configure(offset, value.to_bytes(size, "little"))


def open_queue(
    kind: type[DriverQueue], size: int = 4, *, event_idx: bool = False, indirect: bool = False, data: bool = False
) -> tuple[DriverQueue, BareMachine]:
    """Queue 2 with its areas at 0x10000, 0x11000, 0x12000; its first buffers come to lie at 0x13000."""
    machine = BareMachine()
    queue = kind(machine, 2, event_idx=event_idx, indirect=indirect, notification_data=data)
    queue.notify_address = 0xE0003008
    queue.open(size)
    queue.begin()
    return queue, machine


class Returner:
    """The return half of a device, the least that can be: used elements written as told."""

    def __init__(self, queue: DriverQueue) -> None:
        self.queue = queue
        self.place, self.wrap, self.index = 0, 1, 0

    def give_back(self, identity: int, length: int, slots: int = 1) -> None:
        """Return a chain of ``slots`` ring places; a lie is written like the truth."""
        area, size = self.queue.device_area, self.queue.size
        if isinstance(self.queue, SplitQueue):
            struct.pack_into("<II", area, 4 + 8 * (self.index % size), identity, length)
            self.index = (self.index + 1) & 0xFFFF
            struct.pack_into("<H", area, 2, self.index)
            return
        flags = 0x8080 if self.wrap else 0
        struct.pack_into("<IHH", self.queue.descriptors, 16 * self.place + 8, length, identity, flags)
        self.place += slots
        if self.place >= size:
            self.place, self.wrap = self.place - size, self.wrap ^ 1


# -- split rings ------------------------------------------------------------------------------------


def test_split_direct_chain_is_laid_out_as_specified() -> None:
    queue, machine = open_queue(SplitQueue)
    queue.post([b"abc", b"defg"], [8])
    assert bytes(queue.descriptors) == bytes.fromhex(
        "0030010000000000 03000000 0100 0100"
        "2030010000000000 04000000 0100 0200"
        "4030010000000000 08000000 0200 0000"
        "0000000000000000 00000000 0000 0000"
    )
    assert bytes(queue.driver_area) == bytes.fromhex("0000 0100 0000 0000 0000 0000 0000")
    assert bytes(machine.ram(0x13000, 3)) == b"abc"
    assert bytes(machine.ram(0x13020, 4)) == b"defg"


def test_split_indirect_chain_is_one_descriptor_and_a_linked_table() -> None:
    queue, machine = open_queue(SplitQueue, indirect=True)
    queue.post([b"abc"], [8, 1])
    assert bytes(queue.descriptors[:16]) == bytes.fromhex("0030010000000000 30000000 0400 0000")
    assert bytes(machine.ram(0x13000, 48)) == bytes.fromhex(
        "3030010000000000 03000000 0100 01005030010000000000 08000000 0300 02007030010000000000 01000000 0200 0000"
    )
    assert queue.free == 3


def test_split_indices_run_from_65535_to_0() -> None:
    queue, _ = open_queue(SplitQueue, 2, event_idx=True)
    device = Returner(queue)
    for n in range(0x10003):
        queue.post([b"x"], [])
        device.give_back(0, 0)
        assert queue.harvest() == 1
        if n == 0xFFFE:
            assert queue.driver_area.cast("H")[1] == 0xFFFF
    avail = queue.driver_area.cast("H")
    assert (avail[1], avail[4]) == (3, 3), "idx and used_event"
    assert queue.in_flight == 0
    assert queue.free == 2


def test_split_used_index_too_far_ahead_is_named() -> None:
    queue, _ = open_queue(SplitQueue)
    queue.post([b"x"], [])
    struct.pack_into("<H", queue.device_area, 2, 2)
    with pytest.raises(DriverError, match="used index is 2 ahead with 1 in flight"):
        queue.harvest()


def test_split_disarming_follows_the_feature() -> None:
    plain, _ = open_queue(SplitQueue)
    plain.disable_interrupts()
    assert bytes(plain.driver_area[:2]) == b"\1\0"
    plain.enable_interrupts()
    assert bytes(plain.driver_area[:2]) == b"\0\0"
    event, _ = open_queue(SplitQueue, event_idx=True)
    event.disable_interrupts()
    assert bytes(event.driver_area) == bytes.fromhex("0000 0000 0000 0000 0000 0000 ffff")


# -- packed rings -----------------------------------------------------------------------------------


def test_packed_ring_of_four_wraps_in_the_middle_of_a_chain() -> None:
    queue, _ = open_queue(PackedQueue)
    device = Returner(queue)
    queue.post([b"abc", b"defg"], [8])
    assert bytes(queue.descriptors) == bytes.fromhex(
        "0030010000000000 03000000 0000 8100"
        "2030010000000000 04000000 0000 8100"
        "4030010000000000 08000000 0000 8200"
        "0000000000000000 00000000 0000 0000"
    )
    second = queue.post([], [1])
    assert bytes(queue.descriptors[48:]) == bytes.fromhex("0030020000000000 01000000 0100 8200")
    device.give_back(0, 8, slots=3)
    assert queue.harvest() == 1
    queue.post([b"y"], [2])  # lap 2, places 0 and 1, id 0 again
    assert bytes(queue.descriptors[:32]) == bytes.fromhex(
        "0030010000000000 01000000 0000 01802030010000000000 02000000 0000 0280"
    )
    device.give_back(1, 1)
    assert queue.harvest() == 1
    assert second.reply is not None
    assert device.wrap == 0
    queue.post([b"z"], [])  # place 2
    queue.post([b"a", b"b"][:1], [])  # place 3, the last of lap 2
    assert bytes(queue.descriptors[60:64]) == bytes.fromhex("0200 0080")
    device.give_back(0, 2, slots=2)
    device.give_back(2, 0)
    device.give_back(1, 0)
    assert queue.harvest() == 3
    assert (queue.free, queue.in_flight, device.wrap) == (4, 0, 1)


def test_packed_chain_across_the_end_changes_its_marks() -> None:
    queue, _ = open_queue(PackedQueue)
    device = Returner(queue)
    for _ in range(3):
        queue.post([b"x"], [])
        device.give_back(0, 0)
        queue.harvest()
    queue.post([b"x"], [4])
    assert bytes(queue.descriptors[60:64]) == bytes.fromhex("0000 8100"), "place 3, lap 1: AVAIL and NEXT"
    assert bytes(queue.descriptors[12:16]) == bytes.fromhex("0000 0280"), "place 0, lap 2: USED and WRITE"
    device.give_back(0, 4, slots=2)
    assert (device.place, device.wrap) == (1, 0)
    assert queue.harvest() == 1


def test_packed_id_is_in_the_last_descriptor_only() -> None:
    queue, _ = open_queue(PackedQueue)
    queue.post([b"x"], [])
    queue.post([b"x", b"y"], [])
    assert [queue.descriptors.cast("H")[8 * place + 6] for place in range(3)] == [0, 0, 1]


def test_packed_indirect_table_is_sequential() -> None:
    queue, machine = open_queue(PackedQueue, indirect=True)
    queue.post([b"abc"], [8])
    assert bytes(queue.descriptors[:16]) == bytes.fromhex("0030010000000000 20000000 0000 8400")
    assert bytes(machine.ram(0x13000, 32)) == bytes.fromhex(
        "2030010000000000 03000000 0000 00004030010000000000 08000000 0000 0200"
    )


def test_packed_driver_event_follows_returns_and_wraps() -> None:
    queue, _ = open_queue(PackedQueue, 2, event_idx=True)
    device = Returner(queue)
    seen = [bytes(queue.driver_area)]
    for _ in range(3):
        queue.post([b"x"], [])
        device.give_back(0, 0)
        queue.harvest()
        seen.append(bytes(queue.driver_area))
    assert [event.hex() for event in seen] == ["00800200", "01800200", "00000200", "01000200"]
    queue.disable_interrupts()
    assert queue.driver_area[2] == 1


# -- notifications ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "new", "old", "wanted"),
    [
        (0, 1, 0, True),
        (1, 1, 0, False),
        (0xFFFF, 0, 0xFFFF, True),
        (0xFFFE, 0, 0xFFFF, False),
        (0, 0, 0xFFFF, False),
        (0, 1, 0xFFFF, True),
        (5, 5, 5, False),
        (4, 5, 5, False),
        (0x8000, 2, 1, False),
        (-4, 0, -4, True),
    ],
)
def test_need_event(event: int, new: int, old: int, wanted: bool) -> None:
    assert need_event(event, new, old) is wanted


async def test_split_kicks_when_the_event_index_or_the_flag_says_so() -> None:
    queue, machine = open_queue(SplitQueue, event_idx=True)
    queue.post([b"x"], [])
    assert await queue.kick()
    assert machine.writes == [(0xE0003008, 2, 2)]
    assert not await queue.kick(), "nothing new"
    queue.post([b"x"], [])
    assert not await queue.kick(), "avail_event is still 0"
    struct.pack_into("<H", queue.device_area, 4 + 8 * 4, 3)
    queue.post([b"x"], [])
    assert not await queue.kick()
    queue.post([b"x"], [])
    assert await queue.kick()
    plain, _ = open_queue(SplitQueue)
    plain.device_area[0] = 1
    plain.post([b"x"], [])
    assert not await plain.kick()
    assert await plain.kick(force=True)


@pytest.mark.parametrize(
    ("flags", "event", "wanted"),
    [
        (0, 0, True),
        (1, 0x8003, False),
        (2, 0x8003, True),
        (2, 0x0000, True),
        (2, 0x0001, False),
        (2, 0x8002, False),
    ],
)
async def test_packed_kicks_across_the_end_of_the_ring(flags: int, event: int, wanted: bool) -> None:
    """The chain takes place 3 of lap 1 and place 0 of lap 2; the event is an offset and a wrap counter."""
    queue, _ = open_queue(PackedQueue, event_idx=True)
    queue.post([b"x"] * 3, [])
    await queue.kick()
    Returner(queue).give_back(0, 0, slots=3)
    queue.harvest()
    queue.post([b"x"], [1])
    struct.pack_into("<HH", queue.device_area, 0, event, flags)
    assert await queue.kick() is wanted


async def test_notification_data() -> None:
    packed, machine = open_queue(PackedQueue, data=True)
    packed.post([b"x"] * 3, [])
    await packed.kick()
    Returner(packed).give_back(0, 0, slots=3)
    packed.harvest()
    packed.post([b"x"] * 2, [])
    await packed.kick()
    assert machine.writes == [(0xE0003008, 4, 0x8003_0002), (0xE0003008, 4, 0x0001_0002)]
    split, machine = open_queue(SplitQueue, data=True)
    device = Returner(split)
    for _ in range(0x8001):
        split.post([b"x"], [])
        device.give_back(0, 0)
        split.harvest()
    await split.kick()
    assert machine.writes == [(0xE0003008, 4, 0x8001_0002)]


# -- a device that lies -----------------------------------------------------------------------------

both = pytest.mark.parametrize("kind", [SplitQueue, PackedQueue])


@both
@pytest.mark.parametrize("identity", [1, 3, 0xFFFF])
def test_forged_id_fails_the_queue(kind: type[DriverQueue], identity: int) -> None:
    queue, _ = open_queue(kind)
    token = queue.post([b"x"], [4])
    Returner(queue).give_back(identity, 0)
    with pytest.raises(DriverError, match=f"queue 2: the device returned id {identity}, which is not in flight"):
        queue.harvest()
    assert "not in flight" in token.failure
    with pytest.raises(DriverError, match="not in flight"):
        queue.post([b"x"], [])


@both
def test_id_returned_twice_is_forged(kind: type[DriverQueue]) -> None:
    queue, _ = open_queue(kind)
    device = Returner(queue)
    first, second = queue.post([b"x"], []), queue.post([b"x"], [])
    device.give_back(0, 0)
    device.give_back(0, 0)
    with pytest.raises(DriverError, match="returned id 0"):
        queue.harvest()
    assert first.reply == (0, b"")
    assert second.reply is None


@both
def test_used_length_beyond_the_writable_part_is_a_lie(kind: type[DriverQueue]) -> None:
    queue, _ = open_queue(kind)
    queue.post([b"x" * 100], [4, 4])
    Returner(queue).give_back(0, 9, slots=3)
    with pytest.raises(DriverError, match="used length 9 of id 0 exceeds its 8 writable bytes"):
        queue.harvest()


@both
async def test_the_interrupt_handler_survives_a_lie_and_the_waiting_task_learns_it(kind: type[DriverQueue]) -> None:
    queue, _ = open_queue(kind)
    task = asyncio.create_task(queue.submit([b"x"], []))
    await asyncio.sleep(0)
    Returner(queue).give_back(3, 0)
    queue.interrupted()
    with pytest.raises(DriverError, match="id 3"):
        await task


# -- submissions ------------------------------------------------------------------------------------


def scatter(queue: DriverQueue, token: Token, data: bytes, machine: BareMachine) -> None:
    """Write ``data`` into the writable buffers of a posted chain."""
    _, base, _ = token.block
    for at, length in token.pieces:
        machine.ram(base + at, length)[: len(data[:length])] = data[:length]
        data = data[length:]


@both
def test_reply_joins_the_buffers_and_ends_where_the_device_says(kind: type[DriverQueue]) -> None:
    queue, machine = open_queue(kind)
    token = queue.post([], [3, 0, 5])
    scatter(queue, token, b"abcdef", machine)
    Returner(queue).give_back(0, 7, slots=3)
    queue.harvest()
    assert token.reply == (7, b"abcdef\xa5")


@both
async def test_out_of_order_and_full_ring_in_order_of_arrival(kind: type[DriverQueue]) -> None:
    queue, _ = open_queue(kind, event_idx=True, indirect=True)
    device = Returner(queue)
    tasks = [asyncio.create_task(queue.submit([b"x"], [n])) for n in range(6)]
    await asyncio.sleep(0.001)
    assert (queue.in_flight, queue.free, queue.interrupts) == (4, 0, 0)
    device.give_back(2, 2)
    device.give_back(0, 0)
    queue.interrupted()
    assert [(await tasks[n]).written for n in (2, 0)] == [2, 0]
    await asyncio.sleep(0.001)
    assert queue.in_flight == 4
    queue.fail("over")
    for task in (tasks[1], *tasks[3:]):
        with pytest.raises(DriverError, match="over"):
            await task


@both
async def test_cancelled_submission_keeps_its_buffers_until_they_return(kind: type[DriverQueue]) -> None:
    queue, _ = open_queue(kind, 2)
    device = Returner(queue)
    task = asyncio.create_task(queue.submit([b"x"], [1]))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (queue.in_flight, queue.free) == (1, 0)
    device.give_back(0, 1, slots=2)
    queue.interrupted()
    assert (queue.in_flight, queue.free) == (0, 2)
    token = queue.post([b"x"], [1])
    device.give_back(0, 1, slots=2)
    queue.interrupted()
    assert (await queue.wait(token)).written == 1


async def test_a_cancelled_kick_is_made_up_for() -> None:
    queue, machine = open_queue(SplitQueue, event_idx=True)
    machine.stall = asyncio.Event()
    first = asyncio.create_task(queue.submit([b"x"], []))
    await asyncio.sleep(0)
    second = asyncio.create_task(queue.submit([b"y"], []))  # the event index says it needs no kick
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    machine.stall.set()
    await asyncio.sleep(0.001)
    assert machine.writes == [(0xE0003008, 2, 2)]
    second.cancel()


@both
def test_a_return_just_before_arming_is_not_lost(kind: type[DriverQueue], monkeypatch: pytest.MonkeyPatch) -> None:
    queue, _ = open_queue(kind, event_idx=True)
    device = Returner(queue)
    queue.post([b"x"], [])
    late = queue.post([b"y"], [])
    device.give_back(0, 0)
    arm, late_returns = queue._arm, [1]

    def return_then_arm() -> bool:
        if late_returns:
            device.give_back(late_returns.pop(), 0)
        return arm()

    monkeypatch.setattr(queue, "_arm", return_then_arm)
    assert queue.harvest() == 2
    assert late.reply == (0, b"")


@both
async def test_chains_that_cannot_be(kind: type[DriverQueue]) -> None:
    queue, machine = open_queue(kind)
    with pytest.raises(ValueError, match="1 to 4 buffers, not 0"):
        await queue.submit([], [])
    with pytest.raises(ValueError, match="1 to 4 buffers, not 5"):
        queue.post([b"x"] * 5, [])
    queue.post([b"x"] * 3, [])
    with pytest.raises(DriverError, match="needs 2 descriptors, 1 are free"):
        queue.post([b"x"] * 2, [])
    queue.close("gone")
    assert not machine.taken
    with pytest.raises(DriverError, match="gone"):
        await queue.submit([b"x"], [])


# -- a whole function -------------------------------------------------------------------------------

VERSION_1, EVENT_IDX, INDIRECT, PACKED, RING_RESET = 1 << 32, 1 << 29, 1 << 28, 1 << 34, 1 << 40


class BareFunction:
    """Registers of a file system device: plain storage, and the few that act. BAR 0 is 32-bit, BAR 2 64-bit."""

    bars = ((0xFFFFC000, 0), (0, 0), (0xFFFFF000, 0xC), (0xFFFFFFFF, 0), (0xFFFFFFE0, 1), (0, 0))

    def __init__(self) -> None:
        self.config = bytearray(256)
        struct.pack_into("<HHHHI", self.config, 0, 0x1AF4, 0x105A, 0, 0x10, 0x01800001)
        self.config[0x34] = 0x40
        struct.pack_into("<BBHII", self.config, 0x40, 0x11, 0x4C, 3, 2, 0x802)
        for at, next_at, size, kind, offset, length, extra in (
            (0x4C, 0x5C, 16, 1, 0x0000, 64, b""),
            (0x5C, 0x6C, 16, 3, 0x1000, 1, b""),
            (0x6C, 0x7C, 16, 4, 0x2000, 64, b""),
            (0x7C, 0x90, 20, 2, 0x3000, 0x1000, b"\4\0\0\0"),
            (0x90, 0, 20, 5, 0, 0, b"\0\0\0\0"),
        ):
            header = struct.pack("<BBBBBBHII", 9, next_at, size, kind, 0, 0, 0, offset, length) + extra
            self.config[at : at + size] = header
        self.offered = VERSION_1 | EVENT_IDX | INDIRECT | RING_RESET | 1 << 5
        self.memory = bytearray(0x4000)
        self.table = bytearray(0x1000)
        self.queues = [bytearray(0x30) for _ in range(3)]  # the common fields from queue_size on
        self.statuses: list[int] = []
        self.reset_polls = 3
        self.refuse_features = False
        self.refuse_vector = False
        self.restless = False

    def configure(self, offset: int, data: bytes) -> None:
        """Write configuration space; BARs keep their sizes and flags."""
        if 0x10 <= offset < 0x28:
            mask, flags = self.bars[(offset - 0x10) // 4]
            data = (int.from_bytes(data, "little") & mask | flags).to_bytes(4, "little")
        self.config[offset : offset + len(data)] = data

    def load(self, address: int, size: int) -> int:
        """Read a register in BAR 0."""
        offset = address - 0xE0000000
        if 0x18 <= offset < 0x40:
            select = self.memory[0x16]
            data = self.queues[select][offset - 0x18 : offset - 0x18 + size] if select < 3 else b""
        else:
            data = self.memory[offset : offset + size]
        if offset == 0x04:
            return self.offered >> 32 * self.memory[0] & 0xFFFFFFFF
        if offset == 0x14 and not data[0] and self.reset_polls:
            self.reset_polls -= 1
            return 4
        if offset == 0x15 and self.restless:
            self.memory[0x15] ^= 1
        return int.from_bytes(data, "little")

    def store(self, address: int, size: int, value: int) -> None:
        """Write a register in BAR 0 or the MSI-X table in BAR 2."""
        if address >= 0x10_0000_0000:
            offset = address - 0x10_0000_0000
            self.table[offset : offset + size] = value.to_bytes(size, "little")
            return
        offset = address - 0xE0000000
        if offset == 0x14:
            self.change_status(value)
        elif 0x18 <= offset < 0x40:
            if offset == 0x3A and value == 1:
                self.queues[self.memory[0x16]][2:6] = b"\xff\xff\0\0"
            elif not (self.refuse_vector and offset == 0x1A):
                queue = self.queues[self.memory[0x16]]
                queue[offset - 0x18 : offset - 0x18 + size] = value.to_bytes(size, "little")
        else:
            self.memory[offset : offset + size] = value.to_bytes(size, "little")

    def change_status(self, value: int) -> None:
        """Take a status; 0 makes all queues new."""
        self.statuses.append(value)
        if value == 0:
            self.memory[0x12:0x14] = b"\3\0"
            for index, size in enumerate((64, 8, 0)):
                self.queues[index][:] = struct.pack("<HHHHQQQHH4x", size, 0xFFFF, 0, index, 0, 0, 0, 0, 0)
        self.memory[0x14] = value & ~8 if self.refuse_features else value


def attach(**options: bool | int) -> tuple[VirtioDriver, BareFunction, BareMachine]:
    function = BareFunction()
    machine = BareMachine(function)
    return VirtioDriver(machine, 1, **options), function, machine  # type: ignore[arg-type]  # per test


async def test_probe_and_start_program_what_linux_programs() -> None:
    driver, function, machine = attach(queue_size=16, packed=True)
    await driver.probe()
    await driver.start()
    assert (driver.device_id, driver.pci_device_id, driver.revision, driver.num_queues) == (26, 0x105A, 1, 3)
    assert driver.bars == {0: (0xE0000000, 0x4000), 2: (0x10_0000_0000, 0x1000)}
    assert function.config[0x04:0x06] == b"\x06\x04", "memory, bus master, no INTx"
    assert function.config[0x10:0x20] == struct.pack("<IIII", 0xE0000000, 0, 0xC, 0x10)
    assert driver.offered == function.offered
    assert driver.features == VERSION_1 | EVENT_IDX | INDIRECT | RING_RESET, "bit 5 was not asked for"
    assert (0xE000000C, 4, 0x30000000) in machine.writes
    assert (0xE000000C, 4, 0x101) in machine.writes
    assert function.statuses == [0, 1, 3, 0xB, 0xF]
    assert function.config[0x42:0x44] == b"\x03\x80"
    assert function.table[16:32] == struct.pack("<IIII", 0xFEE00000, 8, 2, 0)
    assert function.queues[0][:8] == struct.pack("<HHHH", 16, 1, 1, 0)
    assert function.queues[1][:8] == struct.pack("<HHHH", 8, 2, 1, 1)
    assert function.queues[2][4] == 0, "a queue of size 0 does not exist"
    queue = driver.queues[1]
    assert function.queues[1][8:32] == struct.pack(
        "<QQQ", queue.desc_address, queue.driver_address, queue.device_address
    )
    assert (queue.index, queue.size, queue.notify_address) == (1, 8, 0xE0003004)


async def test_interrupts_reach_their_queue_and_reset_frees_everything() -> None:
    driver, _, machine = attach()
    await driver.probe()
    await driver.start()
    queue = driver.queues[0]
    task = asyncio.create_task(queue.submit([b"x"], [2]))
    await asyncio.sleep(0)
    assert machine.writes[-1] == (0xE0003000, 2, 0)
    Returner(queue).give_back(0, 2)
    machine.handlers[1]()
    assert (await task).data == b"\xa5\xa5"
    assert (driver.interrupts, queue.interrupts, driver.queues[1].interrupts) == (1, 1, 0)
    pending = asyncio.create_task(queue.submit([b"x"], []))
    await asyncio.sleep(0)
    await driver.reset()
    with pytest.raises(DriverError, match="the driver reset the device"):
        await pending
    assert not machine.taken
    await driver.probe()
    await driver.start([1])
    assert len(machine.handlers) == 4, "messages are reused"
    with pytest.raises(DriverError):
        driver.queues[0].post([b"x"], [])
    driver.queues[1].post([b"x"], [])


async def test_needs_reset_fails_what_waits() -> None:
    driver, function, machine = attach()
    await driver.probe()
    await driver.start()
    calls: list[int] = []
    driver.on_config_change = lambda: calls.append(1)
    task = asyncio.create_task(driver.queues[0].submit([b"x"], []))
    await asyncio.sleep(0)
    function.memory[0x14] |= Status.NEEDS_RESET
    machine.handlers[0]()
    await asyncio.wait_for(driver.config_changed(), 1)
    with pytest.raises(DriverError, match="NEEDS_RESET"):
        await task
    assert calls == [1]
    with pytest.raises(DriverError, match="status is 0x4f"):
        await driver.reset_queue(0)
    driver.queues[0].begin()
    with pytest.raises(DriverError, match="NEEDS_RESET"):
        driver.queues[0].post([b"x"], [])
    await driver.probe()
    await driver.start()
    driver.queues[0].post([b"x"], [])


async def test_queue_reset_gives_fresh_rings_and_the_vector_again() -> None:
    driver, function, machine = attach()
    await driver.probe()
    await driver.start()
    queue = driver.queues[0]
    old = queue.desc_address
    pending = asyncio.create_task(queue.submit([b"x"], []))
    await asyncio.sleep(0)
    await driver.reset_queue(0)
    with pytest.raises(DriverError, match="queue 0 was reset"):
        await pending
    assert old not in machine.taken
    assert function.queues[0][:16] == struct.pack("<HHHHQ", 64, 1, 1, 0, queue.desc_address)
    with pytest.raises(DriverError, match="not started"):
        await driver.reset_queue(2)
    queue.post([b"x"], [])


async def test_refusals_are_named_and_leave_failed() -> None:
    driver, function, _ = attach()
    function.refuse_features = True
    with pytest.raises(DriverError, match=r"refuses 0x10130000000 of .*FEATURES_OK"):
        await driver.probe()
    assert function.statuses[-1] & Status.FAILED
    driver, function, _ = attach()
    function.refuse_vector = True
    with pytest.raises(DriverError, match="queue_msix_vector 1 refused, the device has no room"):
        await driver.probe()
    driver, function, _ = attach()
    function.offered = EVENT_IDX
    with pytest.raises(DriverError, match="lacks VIRTIO_F_VERSION_1"):
        await driver.probe()
    driver, _, _ = attach()
    await driver.probe()
    with pytest.raises(DriverError, match="no queue 3, num_queues is 3"):
        await driver.start([0, 3])


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        (0x02, b"\xff\x0f", "1af4:0fff is no virtio function"),
        (0x06, b"\0\0", "no capability list"),
        (0x4D, b"\x40", "does not end"),
        (0x4D, b"\x3c", "at 0x3c, inside the header"),
        (0x4E, b"\x08", "capability at 0x4c has length 8"),
        (0x50, b"\5", r"COMMON at 0x0\+0x40 leaves BAR 5 of 0x0 bytes"),
        (0x50, b"\6", "no COMMON capability"),
        (0x54, b"\2", "COMMON structure of 64 bytes at offset 0x2"),
        (0x58, b"\x20", "COMMON structure of 32 bytes"),
        (0x84, b"\4\x30", r"NOTIFY at 0x3004\+0x1000 leaves BAR 0 of 0x4000 bytes"),
        (0x8C, b"\3", "notify_off_multiplier is 3"),
        (0x42, b"\xff\7", r"MSI-X table at 0x0\+0x8000 leaves BAR 2"),
    ],
)
async def test_contradictory_capabilities_are_named(offset: int, value: bytes, message: str) -> None:
    driver, function, _ = attach()
    function.config[offset : offset + len(value)] = value
    with pytest.raises(DriverError, match=message):
        await driver.probe()


async def test_device_configuration_is_of_one_generation() -> None:
    driver, function, _ = attach()
    await driver.probe()
    function.memory[0x2000:0x2004] = b"tag\0"
    assert await driver.config_read(0, 4) == b"tag\0"
    with pytest.raises(DriverError, match="leaves 64 bytes"):
        await driver.config_read(60, 8)
    function.restless = True
    with pytest.raises(DriverError, match="config_generation changed"):
        await driver.config_read(0, 4)


async def test_pci_cfg_access_aims_before_it_moves() -> None:
    driver, function, _ = attach()
    await driver.probe()
    await driver.pci_cfg_write(2, 0x24, 2, 0xBEEF)
    assert function.config[0x94] == 2
    assert function.config[0x98:0xA2] == struct.pack("<IIH", 0x24, 2, 0xBEEF)
    assert await driver.pci_cfg_read(2, 0x24, 2) == 0xBEEF
    with pytest.raises(ValueError, match="1, 2 or 4 bytes"):
        await driver.pci_cfg_read(2, 0, 8)


async def test_one_vector_for_all_queues_when_the_table_is_short() -> None:
    driver, function, machine = attach()
    struct.pack_into("<H", function.config, 0x42, 1)
    await driver.probe()
    await driver.start()
    assert len(machine.handlers) == 2
    assert function.queues[0][2] == function.queues[1][2] == 1
    machine.handlers[1]()
    assert [queue.interrupts for queue in driver.queues] == [1, 1, 1]
