"""The split ring against bytes derived by hand from "Split Virtqueues", and against a driver of thirty lines."""

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
from hdvkit.virtio.ring import MAX_CHAIN_BYTES, MAX_CHAIN_DESCRIPTORS, need_event

pytestmark = pytest.mark.usefixtures("engine")

BASE = 0x10000
NEXT, WRITE, INDIRECT = 1, 2, 4
BUFFERS = 0x180000  # behind the largest ring: table, available ring, used ring
READ_ONLY = 0x8000_0000
BIG = 0x4_0000_0000
PLAIN = Feature(0)
Buffer = tuple[int, int, int]
"""Address, length, and WRITE or 0."""


class Guest:
    """Guest memory, a split ring in it, and the driver of that ring."""

    def __init__(self, size: int = 4, features: Feature = PLAIN) -> None:
        self.size = size
        self.ram = bytearray(0x200000)
        self.memory = RegionMemory()
        self.memory.map(BASE, memoryview(self.ram))
        self.memory.map(READ_ONLY, memoryview(bytes(0x1000)))
        self.table = BASE
        self.avail = BASE + 16 * size
        self.used = (self.avail + 6 + 2 * size + 3) & ~3
        self.ring = build_ring(self.memory, RingAddresses(self.table, self.avail, self.used), size, features)
        self.avail_words = memoryview(self.ram)[self.avail - BASE :][: 6 + 2 * size].cast("H")
        self.used_words = memoryview(self.ram)[self.used - BASE :][: 6 + 8 * size].cast("H")
        self.idx = 0
        self.seen = 0
        self.free = list(range(size))
        self.chains: dict[int, list[int]] = {}

    def put(self, address: int, data: bytes) -> None:
        """Store bytes at a guest-physical address."""
        self.ram[address - BASE : address - BASE + len(data)] = data

    def descriptor(self, index: int, address: int, length: int, flags: int = 0, following: int = 0) -> None:
        """Write one entry of the table."""
        self.put(self.table + 16 * index, struct.pack("<QIHH", address, length, flags, following))

    def offer(self, head: int) -> None:
        """Make a chain available."""
        self.avail_words[2 + self.idx % self.size] = head
        self.idx = (self.idx + 1) & 0xFFFF
        self.avail_words[1] = self.idx

    def add(self, buffers: Sequence[Buffer]) -> int:
        """Lay a chain out in free descriptors and make it available."""
        places = [self.free.pop() for _ in buffers]
        for at, (place, (address, length, write)) in enumerate(zip(places, buffers, strict=True)):
            more = at + 1 < len(places)
            self.descriptor(place, address, length, write | (NEXT if more else 0), places[at + 1] if more else 0)
        self.chains[places[0]] = places
        self.offer(places[0])
        return places[0]

    def returned(self) -> list[tuple[int, int]]:
        """Id and length of what the device used since last asked."""
        found = []
        while self.seen != self.used_words[1]:
            place = self.used + 4 + 8 * (self.seen % self.size) - BASE
            head, length = struct.unpack_from("<II", self.ram, place)
            found.append((head, length))
            self.free += self.chains.pop(head, [])
            self.seen = (self.seen + 1) & 0xFFFF
        return found

    def pop(self) -> Chain:
        """A chain that has to be there."""
        chain = self.ring.pop()
        assert chain is not None
        return chain


def linked(*flags_and_next: tuple[int, int]) -> bytes:
    """An indirect table of one-byte buffers."""
    return b"".join(struct.pack("<QIHH", BUFFERS, 1, flags, following) for flags, following in flags_and_next)


def test_one_request_in_golden_bytes() -> None:
    guest = Guest(4)
    assert bytes(guest.ram) == bytes(len(guest.ram)), "building a ring writes nothing"
    guest.put(0x11000, b"request")
    guest.put(BASE, struct.pack("<QIHH", 0x11000, 7, NEXT, 3))
    guest.put(BASE + 48, struct.pack("<QIHH", 0x12000, 16, WRITE, 0))
    guest.put(BASE + 64, struct.pack("<HHHHHHH", 0, 1, 0, 0, 0, 0, 0))
    chain = guest.pop()
    assert guest.ring.pop() is None
    assert (chain.head, chain.readable_size, chain.writable_size) == (0, 7, 16)
    assert chain.read() == b"request"
    chain.write(b"answer")
    assert bytes(guest.ram[80:118]) == bytes(38), "nothing is used yet"
    chain.complete()
    assert bytes(guest.ram[0x2000:0x2007]) == b"answer\0"
    # used ring at 0x50: flags, idx, id and length, three more elements, avail_event
    assert bytes(guest.ram[80:118]) == struct.pack("<HHII24xH", 0, 1, 0, 6, 0)


def test_the_table_is_read_only_to_the_device_and_so_is_the_available_ring() -> None:
    guest = Guest(4, Feature.EVENT_IDX)
    guest.add([(BUFFERS, 1, 0), (BUFFERS + 16, 1, WRITE)])
    before = bytes(guest.ram[: guest.used - BASE])
    guest.ring.arm()
    with guest.pop() as chain:
        chain.write(b"x")
    guest.ring.should_signal()
    guest.ring.disarm()
    assert bytes(guest.ram[: guest.used - BASE]) == before


def test_chains_may_be_completed_in_any_order() -> None:
    guest = Guest(8)
    heads = [guest.add([(BUFFERS, 1, WRITE)] * length) for length in (1, 3, 2)]
    chains = [guest.pop() for _ in heads]
    assert [chain.head for chain in chains] == heads
    assert [len(chain.writable) for chain in chains] == [1, 3, 2]
    assert guest.ring.in_flight == 3
    for at in (1, 2, 0):
        chains[at].write(b"x" * at)
        chains[at].complete()
    assert guest.returned() == [(heads[1], 1), (heads[2], 2), (heads[0], 0)]
    assert guest.ring.in_flight == 0


@pytest.mark.parametrize("size", [1, 32768])
def test_indices_run_from_65535_to_0(size: int) -> None:
    guest = Guest(size)
    for head in range(size):
        guest.descriptor(head, BUFFERS, 1 + head % 7, WRITE)
    rounds = 0x10003 // size + 1
    for _ in range(rounds):
        for head in range(size):
            guest.offer(head)
        for head in range(size):
            chain = guest.ring.pop()
            assert chain is not None
            assert chain.head == head
            chain.complete()
        assert guest.ring.pop() is None
        assert guest.ring.should_signal()
        if size == 32768:
            assert [head for head, _ in guest.returned()] == list(range(size))
    assert rounds * size > 0x10000
    assert guest.used_words[1] == rounds * size & 0xFFFF, "the index went round"
    assert guest.memory.leases == 3


@pytest.mark.parametrize("size", [1 << exponent for exponent in range(16)])
def test_a_full_ring_of_every_size_is_served(size: int) -> None:
    guest = Guest(size)
    length = min(size, 1024)
    for turn in range(3):
        heads = [guest.add([(BUFFERS, 3, WRITE)] * length) for _ in range(size // length)]
        for head in heads:
            with guest.pop() as chain:
                assert chain.head == head
                assert chain.write(b"\7" * 4096) == min(3 * length, 4096)
        assert guest.ring.pop() is None
        assert [head for head, _ in guest.returned()] == heads, turn


# Notifications


def test_without_event_index_arm_and_disarm_are_the_used_flags() -> None:
    guest = Guest(4)
    guest.used_words[-1] = 0x7777
    guest.ring.disarm()
    assert guest.used_words[0] == 1
    assert guest.ring.arm() is False
    assert guest.used_words[0] == 0
    assert guest.used_words[-1] == 0x7777, "avail_event means nothing then"


def test_with_event_index_arm_is_avail_event_and_flags_stay_0() -> None:
    guest = Guest(4, Feature.EVENT_IDX)
    for turn in range(6):
        assert guest.ring.arm() is False
        assert guest.used_words[-1] == turn
        guest.ring.disarm()
        assert (guest.used_words[0], guest.used_words[-1]) == (0, turn)
        guest.add([(BUFFERS, 1, 0)])
        guest.pop().complete()
        guest.returned()


@pytest.mark.parametrize("features", [Feature(0), Feature.EVENT_IDX])
def test_arm_says_that_the_driver_added_in_between(features: Feature) -> None:
    guest = Guest(4, features)
    assert guest.ring.pop() is None
    guest.add([(BUFFERS, 1, 0)])  # its kick was suppressed: nobody had armed
    assert guest.ring.arm() is True
    guest.pop().complete()
    assert guest.ring.pop() is None
    assert guest.ring.arm() is False


def test_without_event_index_the_driver_wants_interrupts_unless_its_flag_says_no() -> None:
    guest = Guest(4)
    assert guest.ring.should_signal() is False, "nothing was used"
    for flags, wanted in ((0, True), (1, False), (0xFFFE, True), (0xFFFF, False)):
        guest.avail_words[0] = flags
        guest.add([(BUFFERS, 1, 0)])
        guest.pop().complete()
        assert guest.ring.should_signal() is wanted
        assert guest.ring.should_signal() is False, "asked and answered"
        guest.returned()


@given(st.integers(0, 0xFFFF), st.integers(0, 0xFFFF), st.integers(0, 300))
def test_need_event_is_true_when_the_event_was_passed(event: int, old: int, count: int) -> None:
    passed = {(old + step) & 0xFFFF for step in range(count)}
    assert need_event(event, (old + count) & 0xFFFF, old) is (event in passed)


def used_in_batches(guest: Guest, batches: Sequence[tuple[int, int]]) -> int:
    """Complete batches of chains, each with used_event so far from the used index; every answer is checked."""
    used = 0
    for count, distance in batches:
        event = used + distance
        guest.avail_words[-1] = event & 0xFFFF
        for _ in range(count):
            guest.add([(BUFFERS, 1, 0)])
        for _ in range(count):
            guest.pop().complete()
        guest.returned()
        assert guest.ring.should_signal() is (used <= event < used + count), (used, event, count)
        used += count
    return used


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 8), st.integers(-12, 12)), max_size=30))
def test_used_event_is_honoured_as_a_naive_count_says(batches: list[tuple[int, int]]) -> None:
    used_in_batches(Guest(8, Feature.EVENT_IDX), batches)


def test_used_event_is_honoured_over_the_wrap_of_the_index() -> None:
    random = Random(1)
    batches = [(random.randrange(257), random.randrange(-30, 280)) for _ in range(560)]
    assert used_in_batches(Guest(256, Feature.EVENT_IDX), batches) > 0x10000


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
    max_size=60,
)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 4), st.booleans(), OPERATIONS)
def test_any_history_returns_each_chain_once_with_its_length(
    exponent: int, event_idx: bool, operations: list[tuple[str, object]]
) -> None:
    guest = Guest(1 << exponent, Feature.EVENT_IDX if event_idx else Feature(0))
    waiting: list[tuple[int, int, int]] = []
    taken: list[Chain] = []
    answered: list[tuple[int, int]] = []
    for name, value in operations:
        match name, value:
            case "add", [*buffers] if len(buffers) <= len(guest.free):
                ordered = sorted(buffers, key=lambda one: one[1])
                head = guest.add([(BUFFERS, size, WRITE if write else 0) for size, write in ordered])
                readable = sum(size for size, write in buffers if not write)
                waiting.append((head, readable, sum(size for size, _ in buffers) - readable))
            case "pop", _:
                chain = guest.ring.pop()
                if not waiting:
                    assert chain is None
                else:
                    assert chain is not None
                    assert (chain.head, chain.readable_size, chain.writable_size) == waiting.pop(0)
                    taken.append(chain)
            case "complete", (which, size) if taken:
                chain = taken.pop(which % len(taken))
                answered.append((chain.head, chain.write(b"\0" * size)))
                chain.complete()
            case "harvest", _:
                assert guest.returned() == answered
                answered = []
            case "arm", _:
                assert guest.ring.arm() is bool(waiting)
        assert guest.ring.in_flight == len(taken)
    for chain in taken:
        chain.complete()
    assert guest.memory.leases == 3


# Indirect tables


def test_an_indirect_table_is_a_chain_of_its_own() -> None:
    guest = Guest(2, Feature.INDIRECT_DESC)
    table = BUFFERS + 0x1000
    guest.put(table, linked((NEXT, 2), (WRITE, 9), (NEXT, 1)))
    guest.descriptor(1, table, 48, INDIRECT)
    guest.offer(1)
    with guest.pop() as chain:
        assert (chain.head, chain.readable_size, chain.writable_size) == (1, 2, 1)
        chain.write(b"z")
    assert guest.returned() == [(1, 1)]


def test_an_indirect_table_may_follow_direct_descriptors_and_be_longer_than_the_ring() -> None:
    guest = Guest(2, Feature.INDIRECT_DESC)
    table = BUFFERS + 0x1000
    guest.put(table, linked(*((NEXT, at) for at in range(1, 20)), (WRITE, 0)))
    guest.descriptor(0, BUFFERS, 5, NEXT, 1)
    guest.descriptor(1, table, 16 * 20, INDIRECT)
    guest.offer(0)
    chain = guest.pop()
    assert (chain.readable_size, chain.writable_size) == (5 + 19, 1)
    assert guest.memory.leases == 3 + 21, "the table itself is copied, not kept"
    guest.put(table, bytes(320))  # too late to change anything
    assert len(chain.readable) == 20
    chain.complete()
    assert guest.memory.leases == 3


def test_as_many_descriptors_as_the_cap_and_not_one_more() -> None:
    guest = Guest(2048)
    guest.add([(BUFFERS, 1, 0)] * MAX_CHAIN_DESCRIPTORS)
    guest.add([(BUFFERS, 1, 0)] * (2048 - MAX_CHAIN_DESCRIPTORS))
    with guest.pop() as chain:
        assert chain.readable_size == MAX_CHAIN_DESCRIPTORS
    guest.pop().complete()
    guest.returned()
    guest.add([(BUFFERS, 1, 0)] * (MAX_CHAIN_DESCRIPTORS + 1))
    with pytest.raises(GuestError, match=f"a chain of more than {MAX_CHAIN_DESCRIPTORS} descriptors"):
        guest.ring.pop()
    assert guest.memory.leases == 3


# Broken guests, one for each rule

TABLE = BUFFERS + 0x1000


def _too_far_ahead(guest: Guest) -> None:
    guest.avail_words[1] = guest.size + 1


def _indirect(table: bytes, *, length: int | None = None, flags: int = INDIRECT) -> Callable[[Guest], None]:
    def prepare(guest: Guest) -> None:
        guest.put(TABLE, table)
        guest.descriptor(0, TABLE, len(table) if length is None else length, flags)
        guest.offer(0)

    return prepare


def _descriptors(*entries: tuple[int, int, int, int]) -> Callable[[Guest], None]:
    def prepare(guest: Guest) -> None:
        for index, entry in enumerate(entries):
            guest.descriptor(index, *entry)
        guest.offer(0)

    return prepare


@pytest.mark.parametrize(
    ("prepare", "match"),
    [
        (_too_far_ahead, "the available index is 5 ahead of a ring of 4"),
        (lambda guest: guest.offer(4), "names descriptor 4 of a table of 4"),
        (_descriptors((BUFFERS, 1, NEXT, 4)), "descriptor 4 lies outside a table of 4"),
        (_descriptors((BUFFERS, 1, NEXT, 1), (BUFFERS, 1, NEXT, 0)), "does not end within the 4 descriptors"),
        (_descriptors((BUFFERS, 0, 0, 0)), "length 0"),
        (_descriptors((BUFFERS, 1, WRITE | NEXT, 1), (BUFFERS, 1, 0, 0)), "readable descriptor behind a writable"),
        (_descriptors((BASE - 1, 2, 0, 0)), "do not lie inside guest RAM"),
        (_descriptors((2**64 - 1, 2, 0, 0)), "no range of a 64-bit address space"),
        (_descriptors((READ_ONLY, 1, WRITE, 0)), "that memory is read-only"),
        (_descriptors((BUFFERS, MAX_CHAIN_BYTES + 1, 0, 0)), f"at most {MAX_CHAIN_BYTES} are served"),
        (_descriptors((BUFFERS, 16, INDIRECT | NEXT, 1)), "both indirect and linked"),
        (_indirect(b"", length=0), "an indirect table of 0 bytes"),
        (_indirect(linked((0, 0)), length=17), "an indirect table of 17 bytes"),
        (_indirect(b"", length=16 * (MAX_CHAIN_DESCRIPTORS + 1)), "an indirect table of 1027 descriptors: at most"),
        (_indirect(linked((INDIRECT, 0))), "an indirect descriptor inside an indirect table"),
        (_indirect(linked((NEXT, 2), (0, 0))), "descriptor 2 lies outside an indirect table of 2"),
        (_indirect(linked((NEXT, 1), (NEXT, 0))), "does not end within the 2 descriptors of its indirect table"),
    ],
)
def test_each_broken_rule_is_named_and_nothing_stays_leased(prepare: Callable[[Guest], None], match: str) -> None:
    guest = Guest(4, Feature.INDIRECT_DESC)
    prepare(guest)
    with pytest.raises(GuestError, match=match):
        guest.ring.pop()
    assert guest.memory.leases == 3
    assert guest.ring.in_flight == 0
    assert guest.returned() == []


def test_indirect_descriptors_need_the_feature() -> None:
    guest = Guest(4)
    _indirect(linked((0, 0)))(guest)
    with pytest.raises(GuestError, match="INDIRECT_DESC was not negotiated"):
        guest.ring.pop()


def test_a_chain_the_device_still_has_cannot_be_offered_again() -> None:
    guest = Guest(4)
    guest.descriptor(2, BUFFERS, 1)
    guest.offer(2)
    chain = guest.pop()
    guest.offer(2)
    with pytest.raises(GuestError, match="chain 2 was made available again while the device still has it"):
        guest.ring.pop()
    chain.complete()
    assert guest.returned() == [(2, 0)]


@pytest.mark.parametrize(
    ("addresses", "size", "match"),
    [
        ((BASE + 8, BASE + 0x1000, BASE + 0x2000), 4, "the descriptor table at 0x10008 is not aligned to 16"),
        ((BASE, BASE + 0x1001, BASE + 0x2000), 4, "the available ring at 0x11001 is not aligned to 2"),
        ((BASE, BASE + 0x1000, BASE + 0x2002), 4, "the used ring at 0x12002 is not aligned to 4"),
        ((BASE, BASE + 0x30, BASE + 0x2000), 4, "the areas of a virtqueue at 0x10000 and 0x10030 overlap"),
        ((BASE, BASE + 0x1000, BASE + 0x1000), 4, "overlap"),
        ((BASE, BASE + 0x1000, BIG), 4, "do not lie inside guest RAM"),
        ((BASE, BASE + 0x1000, READ_ONLY), 4, "read-only"),
        ((BASE, BASE + 0x1000, BASE + 0x2000), 3, "a split virtqueue of 3: its size must be a power of two"),
    ],
)
def test_a_ring_in_an_impossible_place_is_refused_and_lets_go(
    addresses: tuple[int, int, int], size: int, match: str
) -> None:
    memory = Guest().memory
    before = memory.leases
    with pytest.raises(GuestError, match=match):
        build_ring(memory, RingAddresses(*addresses), size, Feature(0))
    assert memory.leases == before


def test_a_ring_knows_what_memory_it_touches() -> None:
    ring = Guest(4).ring
    table, avail, used = ring.addresses
    for start, length in ((table, 64), (avail, 14), (used, 38)):
        assert ring.touches(start, 1)
        assert ring.touches(start + length - 1, 1)
    assert not ring.touches(BASE - 1, 1)
    assert not ring.touches(used + 38, 1)
    assert ring.touches(0, 1 << 64)


# The end


def test_chains_that_come_back_after_the_end_are_counted_and_nobody_hears_of_them() -> None:
    guest = Guest(4, Feature.EVENT_IDX)
    heard: list[Chain] = []
    guest.ring.on_completed = heard.append
    for _ in range(2):
        guest.add([(BUFFERS, 8, WRITE)])
    first, second = guest.pop(), guest.pop()
    first.complete()
    guest.ring.close()
    assert guest.ring.closed
    assert guest.memory.leases == 1, "the ring is given back, the chain is still out"
    before = bytes(guest.ram)
    second.write(b"too late")
    second.complete()
    assert guest.ram[: BUFFERS - BASE] == before[: BUFFERS - BASE], "the ring is the driver's again"
    assert (guest.ring.late, guest.ring.in_flight, guest.memory.leases) == (1, 0, 0)
    assert heard == [first, second]
    assert guest.ring.should_signal() is False
    guest.ring.close()
    gone: list[bool] = []
    guest.memory.unmap(BASE, lambda: gone.append(True))
    assert gone == [True]
