"""The packed ring against bytes derived by hand from "Packed Virtqueues", and against a driver of thirty lines."""

import struct
from collections.abc import Callable, Sequence
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hdvkit.errors import GuestError
from hdvkit.memory import RegionMemory
from hdvkit.native import build_ring
from hdvkit.virtio import Chain, Feature, RingAddresses
from hdvkit.virtio.ring import MAX_CHAIN_BYTES, MAX_CHAIN_DESCRIPTORS

pytestmark = pytest.mark.usefixtures("engine")

BASE = 0x10000
BUFFERS = 0x180000
TABLE = BUFFERS + 0x1000
READ_ONLY = 0x8000_0000
NEXT, WRITE, INDIRECT, AVAIL, USED = 1, 2, 4, 1 << 7, 1 << 15
ENABLE, DISABLE, DESCRIPTOR = 0, 1, 2
PLAIN = Feature(0)
Buffer = tuple[int, int, int]
"""Address, length, and WRITE or 0."""


class Guest:
    """Guest memory, a packed ring in it, and the driver of that ring, which counts slots without end."""

    def __init__(self, size: int = 4, features: Feature = PLAIN) -> None:
        self.size = size
        self.ram = bytearray(0x200000)
        self.memory = RegionMemory()
        self.memory.map(BASE, memoryview(self.ram))
        self.memory.map(READ_ONLY, memoryview(bytes(0x1000)))
        self.driver_area = BASE + 16 * size
        self.device_area = self.driver_area + 4
        addresses = RingAddresses(BASE, self.driver_area, self.device_area)
        self.ring = build_ring(self.memory, addresses, size, features | Feature.RING_PACKED)
        self.driver_event = memoryview(self.ram)[16 * size :][:4].cast("H")
        self.device_event = memoryview(self.ram)[16 * size + 4 :][:4].cast("H")
        self.added = 0  # slots since the beginning: lap and place follow from it
        self.taken_back = 0
        self.free = size
        self.ids = list(range(size))
        self.lengths: dict[int, int] = {}

    def put(self, address: int, data: bytes) -> None:
        """Store bytes at a guest-physical address."""
        self.ram[address - BASE : address - BASE + len(data)] = data

    def event(self, position: int) -> int:
        """Place and wrap counter of a slot, counted since the beginning."""
        return position % self.size | (position // self.size % 2 ^ 1) << 15

    def slot(self, address: int, length: int, ident: int, flags: int) -> None:
        """Write the next slot, available in its lap."""
        flags |= AVAIL if self.added // self.size % 2 == 0 else USED
        self.put(BASE + 16 * (self.added % self.size), struct.pack("<QIHH", address, length, ident, flags))
        self.added += 1

    def add(self, buffers: Sequence[Buffer]) -> int:
        """Make a chain available; the id counts in the last descriptor only."""
        ident = self.ids.pop()
        self.lengths[ident] = len(buffers)
        self.free -= len(buffers)
        for at, (address, length, write) in enumerate(buffers, 1):
            last = at == len(buffers)
            self.slot(address, length, ident if last else 0xDEAD, write | (0 if last else NEXT))
        return ident

    def returned(self) -> list[tuple[int, int]]:
        """Id and length of what the device used since last asked."""
        found = []
        while len(found) < self.size:
            place = 16 * (self.taken_back % self.size)
            length, ident, flags = struct.unpack_from("<IHH", self.ram, place + 8)
            first = self.taken_back // self.size % 2 == 0
            if bool(flags & AVAIL) != first or bool(flags & USED) != first or ident not in self.lengths:
                break
            assert bool(flags & WRITE) is bool(length)
            assert not flags & (NEXT | INDIRECT)
            found.append((ident, length))
            self.ids.append(ident)
            slots = self.lengths.pop(ident)
            self.free += slots
            self.taken_back += slots
        return found

    def pop(self) -> Chain:
        """A chain that has to be there."""
        chain = self.ring.pop()
        assert chain is not None
        return chain


def test_one_request_in_golden_bytes() -> None:
    guest = Guest(4)
    assert bytes(guest.ram) == bytes(len(guest.ram)), "building a ring writes nothing"
    guest.put(0x11000, b"request")
    guest.put(BASE + 16, struct.pack("<QIHH", 0x12000, 16, 0x33, AVAIL | WRITE))
    assert guest.ring.pop() is None, "the first slot decides"
    guest.put(BASE, struct.pack("<QIHH", 0x11000, 7, 0, AVAIL | NEXT))
    chain = guest.pop()
    assert guest.ring.pop() is None
    assert (chain.head, chain.slots, chain.readable_size, chain.writable_size) == (0x33, 2, 7, 16)
    assert chain.read() == b"request"
    chain.write(b"answer")
    chain.complete()
    # One used descriptor in the chain's first slot; its address is the device's to leave alone.
    assert bytes(guest.ram[:72]) == (
        struct.pack("<QIHH", 0x11000, 6, 0x33, AVAIL | USED | WRITE)
        + struct.pack("<QIHH", 0x12000, 16, 0x33, AVAIL | WRITE)
        + bytes(40)
    )
    assert bytes(guest.ram[0x2000:0x2007]) == b"answer\0"


def test_the_wrap_counters_turn_over_in_the_middle_of_a_chain() -> None:
    guest = Guest(3)
    guest.slot(BUFFERS, 1, 5, 0)
    guest.slot(BUFFERS, 1, 6, 0)
    guest.pop().complete()
    guest.pop().complete()
    guest.slot(BUFFERS, 2, 0, NEXT)  # the last slot of the first lap
    guest.slot(BUFFERS, 3, 7, WRITE)  # the first of the second: AVAIL is 0 and USED is 1 now
    assert struct.unpack_from("<H", guest.ram, 14)[0] == USED | WRITE
    with guest.pop() as chain:
        assert (chain.head, chain.slots) == (7, 2)
        chain.write(b"abc")
    assert struct.unpack_from("<IHH", guest.ram, 40) == (3, 7, AVAIL | USED | WRITE), "used in the first lap's sense"
    guest.slot(BUFFERS, 1, 8, 0)
    guest.pop().complete()
    assert struct.unpack_from("<IHH", guest.ram, 24) == (0, 8, 0), "used in the second lap's sense, nothing written"
    assert guest.ring.pop() is None


@pytest.mark.parametrize(("avail", "used", "there"), [(0, 0, False), (1, 0, True), (0, 1, False), (1, 1, False)])
def test_a_slot_is_available_when_its_bits_differ_in_the_sense_of_the_lap(avail: int, used: int, there: bool) -> None:
    guest = Guest(1)
    guest.put(BASE, struct.pack("<QIHH", BUFFERS, 1, 0, AVAIL * avail | USED * used))
    assert guest.ring.arm() is there
    chain = guest.ring.pop()
    assert (chain is not None) is there
    if chain is None:
        return
    chain.complete()
    guest.put(BASE, struct.pack("<QIHH", BUFFERS, 1, 0, AVAIL))  # stale: available in the lap before
    assert guest.ring.pop() is None
    guest.put(BASE, struct.pack("<QIHH", BUFFERS, 1, 0, USED))
    guest.pop().complete()


def test_chains_may_be_completed_in_any_order() -> None:
    guest = Guest(7)
    ids = [guest.add([(BUFFERS, 1, WRITE)] * length) for length in (1, 3, 2)]
    chains = [guest.pop() for _ in ids]
    for at in (1, 2, 0):
        chains[at].write(b"x" * at)
        chains[at].complete()
    assert guest.returned() == [(ids[1], 1), (ids[2], 2), (ids[0], 0)]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 13, 100, 1000, 4095, 32767, 32768])
def test_rings_of_every_size_go_round_with_chains_of_different_length(size: int) -> None:
    guest = Guest(size)
    random = Random(size)
    longest = min(size, 1000)
    while guest.added < 3 * size + 2:
        expected = []
        while guest.free:
            length = min(random.randint(1, longest), guest.free)
            ident = guest.add([(BUFFERS, 1, 0)] * (length - 1) + [(BUFFERS, 5, WRITE)])
            expected.append((ident, length, random.randrange(6)))
        for ident, length, answer in expected:
            with guest.pop() as chain:
                assert (chain.head, chain.slots, chain.readable_size) == (ident, length, length - 1)
                chain.write(b"z" * answer)
        assert guest.ring.pop() is None
        assert guest.returned() == [(ident, answer) for ident, _, answer in expected]
    assert guest.memory.leases == 3


# Notifications


def test_without_event_index_arm_and_disarm_are_the_flags_of_the_device() -> None:
    guest = Guest(4)
    guest.ring.disarm()
    assert list(guest.device_event) == [0, DISABLE]
    assert guest.ring.arm() is False
    assert list(guest.device_event) == [0, ENABLE]


def test_with_event_index_arm_names_the_next_slot_in_its_lap() -> None:
    guest = Guest(3, Feature.EVENT_IDX)
    for position in range(8):
        assert guest.ring.arm() is False
        assert list(guest.device_event) == [guest.event(position), DESCRIPTOR]
        guest.ring.disarm()
        assert guest.device_event[1] == DISABLE
        guest.add([(BUFFERS, 1, 0)])
        guest.pop().complete()
        guest.returned()
    assert [guest.event(position) for position in (0, 2, 3, 5, 6)] == [0x8000, 0x8002, 0, 2, 0x8000]


@pytest.mark.parametrize("features", [PLAIN, Feature.EVENT_IDX])
def test_arm_says_that_the_driver_added_in_between(features: Feature) -> None:
    guest = Guest(2, features)
    for _ in range(5):
        assert guest.ring.pop() is None
        guest.add([(BUFFERS, 1, 0)])  # its kick was suppressed: nobody had armed
        assert guest.ring.arm() is True
        guest.pop().complete()
        guest.returned()
        assert guest.ring.pop() is None
        assert guest.ring.arm() is False


@pytest.mark.parametrize(
    ("flags", "wanted"), [(ENABLE, True), (DISABLE, False), (3, True), (0xFFFC, True), (0xFFFD, False)]
)
def test_the_flags_of_the_driver_are_two_bits(flags: int, wanted: bool) -> None:
    for features in (PLAIN, Feature.EVENT_IDX):
        guest = Guest(4, features)
        guest.driver_event[1] = flags
        assert guest.ring.should_signal() is False, "nothing was used"
        guest.add([(BUFFERS, 1, 0)])
        guest.pop().complete()
        assert guest.ring.should_signal() is wanted
        assert guest.ring.should_signal() is False, "asked and answered"


def test_a_named_descriptor_means_nothing_without_the_feature() -> None:
    guest = Guest(4)
    guest.driver_event[0], guest.driver_event[1] = guest.event(3), DESCRIPTOR
    guest.add([(BUFFERS, 1, 0)])
    guest.pop().complete()
    assert guest.ring.should_signal() is True, "rather one interrupt too many"


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 9),
    st.lists(st.tuples(st.lists(st.integers(1, 4), max_size=6), st.integers(-9, 8)), max_size=40),
)
def test_interrupts_come_for_the_named_slot_as_a_naive_count_says(
    size: int, batches: list[tuple[list[int], int]]
) -> None:
    guest = Guest(size, Feature.EVENT_IDX)
    used = 0
    for lengths, distance in batches:
        old = used
        for length in lengths:
            if length <= guest.free:
                guest.add([(BUFFERS, 1, 0)] * length)
                used += length
        # A driver names a slot less than a lap away from where the device is; further is not to be told apart.
        event = max(0, used + max(-size, min(distance, size - 1)))
        guest.driver_event[0], guest.driver_event[1] = guest.event(event), DESCRIPTOR
        while (chain := guest.ring.pop()) is not None:
            chain.complete()
        guest.returned()
        assert guest.ring.should_signal() is (old <= event < used)


# A model: random adds, pops and completions in any order

OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.lists(st.tuples(st.integers(1, 9), st.booleans()), min_size=1, max_size=5)),
        st.tuples(st.just("pop"), st.none()),
        st.tuples(st.just("complete"), st.tuples(st.integers(0, 100), st.integers(0, 60))),
        st.tuples(st.just("harvest"), st.none()),
        st.tuples(st.just("arm"), st.none()),
    ),
    min_size=20,  # left alone, hypothesis makes lists of five
    max_size=80,
)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 11), st.booleans(), OPERATIONS)
def test_any_history_returns_each_chain_once_with_its_length(
    size: int, event_idx: bool, operations: list[tuple[str, object]]
) -> None:
    guest = Guest(size, Feature.EVENT_IDX if event_idx else PLAIN)
    waiting: list[tuple[int, int, int, int]] = []
    taken: list[Chain] = []
    answered: list[tuple[int, int]] = []
    for name, value in operations:
        match name, value:
            case "add", [*buffers] if len(buffers) <= guest.free:
                ordered = sorted(buffers, key=lambda one: one[1])
                ident = guest.add([(BUFFERS, length, WRITE if write else 0) for length, write in ordered])
                readable = sum(length for length, write in buffers if not write)
                waiting.append((ident, len(buffers), readable, sum(length for length, _ in buffers) - readable))
            case "pop", _:
                chain = guest.ring.pop()
                if not waiting:
                    assert chain is None
                else:
                    assert chain is not None
                    found = (chain.head, chain.slots, chain.readable_size, chain.writable_size)
                    assert found == waiting.pop(0)
                    taken.append(chain)
            case "complete", (which, length) if taken:
                chain = taken.pop(which % len(taken))
                answered.append((chain.head, chain.write(b"\0" * length)))
                chain.complete()
            case "harvest", _:
                assert guest.returned() == answered
                answered = []
            case "arm", _:
                assert guest.ring.arm() is bool(waiting)
        assert guest.ring.in_flight == len(taken)
    for chain in taken:
        answered.append((chain.head, 0))
        chain.complete()
    assert guest.returned() == answered
    assert guest.memory.leases == 3


# Indirect tables


def test_an_indirect_table_is_read_in_order_and_its_next_flags_mean_nothing() -> None:
    guest = Guest(1, Feature.INDIRECT_DESC)
    entries = [(BUFFERS, 3, 0xFFFF, NEXT), (BUFFERS + 8, 2, 0, 0), (BUFFERS + 16, 4, 0, WRITE | AVAIL | USED)]
    guest.put(TABLE, b"".join(struct.pack("<QIHH", *entry) for entry in entries))
    guest.put(BUFFERS, b"abc.....de")
    for turn in range(3):
        guest.slot(TABLE, 48, turn, INDIRECT)
        with guest.pop() as chain:
            assert (chain.head, chain.slots, chain.writable_size) == (turn, 1, 4)
            assert chain.read() == b"abcde"
            chain.write(b"zz")
        assert struct.unpack_from("<IHH", guest.ram, 8) == (2, turn, WRITE | (0 if turn % 2 else AVAIL | USED))
    assert guest.memory.leases == 3


# Broken guests, one for each rule


def _slots(*entries: tuple[int, int, int, int]) -> Callable[[Guest], None]:
    def prepare(guest: Guest) -> None:
        for entry in entries:
            guest.slot(*entry)

    return prepare


def _indirect(table: bytes, length: int, flags: int = INDIRECT) -> Callable[[Guest], None]:
    def prepare(guest: Guest) -> None:
        guest.put(TABLE, table)
        guest.slot(TABLE, length, 0, flags)

    return prepare


@pytest.mark.parametrize(
    ("prepare", "match"),
    [
        (_slots((BUFFERS, 1, 0, NEXT)), "a chain runs on into slot 1, which is not available"),
        (_slots(*[(BUFFERS, 1, 0, NEXT)] * 4), "does not end within the 4 descriptors the device does not hold"),
        (_slots((BUFFERS, 0, 0, 0)), "length 0"),
        (_slots((BUFFERS, 1, 0, WRITE | NEXT), (BUFFERS, 1, 0, 0)), "a readable descriptor behind a writable one"),
        (_slots((BASE - 1, 2, 0, 0)), "do not lie inside guest RAM"),
        (_slots((READ_ONLY, 1, 0, WRITE)), "that memory is read-only"),
        (_slots((BUFFERS, MAX_CHAIN_BYTES + 1, 0, 0)), f"at most {MAX_CHAIN_BYTES} are served"),
        (_slots((BUFFERS, 1, 0, NEXT), (TABLE, 16, 0, INDIRECT)), "an indirect descriptor inside a chain"),
        (_indirect(b"", 16, INDIRECT | NEXT), "both indirect and linked"),
        (_indirect(b"", 0), "an indirect table of 0 bytes"),
        (_indirect(b"", 24), "an indirect table of 24 bytes"),
        (_indirect(b"", 16 * (MAX_CHAIN_DESCRIPTORS + 1)), "an indirect table of 1027 descriptors"),
        (_indirect(struct.pack("<QIHH", BUFFERS, 1, 0, INDIRECT), 16), "an indirect descriptor inside an indirect"),
    ],
)
def test_each_broken_rule_is_named_and_nothing_stays_leased(prepare: Callable[[Guest], None], match: str) -> None:
    guest = Guest(4, Feature.INDIRECT_DESC)
    prepare(guest)
    before = bytes(guest.ram)
    with pytest.raises(GuestError, match=match):
        guest.ring.pop()
    assert (guest.memory.leases, guest.ring.in_flight) == (3, 0)
    assert guest.ram == before


def test_indirect_descriptors_need_the_feature() -> None:
    guest = Guest(4)
    guest.slot(TABLE, 16, 0, INDIRECT)
    with pytest.raises(GuestError, match="INDIRECT_DESC was not negotiated"):
        guest.ring.pop()


def test_an_id_the_device_still_has_cannot_be_used_again() -> None:
    guest = Guest(4)
    guest.slot(BUFFERS, 1, 9, 0)
    chain = guest.pop()
    guest.slot(BUFFERS, 1, 9, 0)
    with pytest.raises(GuestError, match="chain 9 was made available again while the device still has it"):
        guest.ring.pop()
    chain.complete()
    assert struct.unpack_from("<IHH", guest.ram, 8) == (0, 9, AVAIL | USED)


def test_a_chain_cannot_run_over_slots_the_device_holds() -> None:
    guest = Guest(4)
    guest.slot(BUFFERS, 1, 0, NEXT)
    guest.slot(BUFFERS, 1, 1, 0)
    held = guest.pop()
    for _ in range(3):  # two are free, the third would be the held one's first
        guest.slot(BUFFERS, 1, 2, NEXT)
    with pytest.raises(GuestError, match="does not end within the 2 descriptors"):
        guest.ring.pop()
    held.complete()
    guest = Guest(1)
    guest.slot(BUFFERS, 1, 0, 0)
    held = guest.pop()
    guest.slot(BUFFERS, 1, 1, 0)
    with pytest.raises(GuestError, match="within the 0 descriptors"):
        guest.ring.pop()
    held.complete()


@pytest.mark.parametrize(
    ("addresses", "match"),
    [
        ((BASE + 8, BASE + 0x1000, BASE + 0x2000), "the descriptor ring at 0x10008 is not aligned to 16"),
        ((BASE, BASE + 0x1002, BASE + 0x2000), "the driver event suppression structure at 0x11002 is not aligned to 4"),
        ((BASE, BASE + 0x1000, BASE + 0x2002), "the device event suppression structure at 0x12002 is not aligned"),
        ((BASE, BASE + 0x3C, BASE + 0x2000), "overlap"),
        ((BASE, BASE + 0x1000, BASE + 0x1000), "overlap"),
        ((BASE, 0, BASE + 0x1000), "do not lie inside guest RAM"),
    ],
)
def test_a_ring_in_an_impossible_place_is_refused_and_lets_go(addresses: tuple[int, int, int], match: str) -> None:
    memory = Guest().memory
    before = memory.leases
    with pytest.raises(GuestError, match=match):
        build_ring(memory, RingAddresses(*addresses), 4, Feature.RING_PACKED)
    assert memory.leases == before


def test_chains_that_come_back_after_the_end_are_counted_and_nobody_hears_of_them() -> None:
    guest = Guest(4)
    guest.add([(BUFFERS, 8, WRITE)])
    chain = guest.pop()
    guest.ring.close()
    assert guest.memory.leases == 1
    before = bytes(guest.ram[:0x1000])
    chain.complete()
    assert guest.ram[:0x1000] == before
    assert (guest.ring.late, guest.ring.in_flight, guest.memory.leases) == (1, 0, 0)
    assert guest.ring.should_signal() is False
    gone: list[bool] = []
    guest.memory.unmap(BASE, lambda: gone.append(True))
    assert gone == [True]
