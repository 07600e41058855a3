"""Rings in C and in Python side by side: the same guest memory before, the same answers, the same memory after."""

import random
import struct

import attrs
import pytest

from hdvkit.errors import GuestError
from hdvkit.memory import RegionMemory
from hdvkit.native import build_ring, native
from hdvkit.virtio import Chain, Feature, Ring, RingAddresses

pytestmark = pytest.mark.skipif(not native().used, reason=native().reason)

KINDS = pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
TABLES = 3000
RINGS, DATA, ROM = 0x1000, 0x100000, 0x40000
SIZES = {RINGS: 0x8000, DATA: 0x10000, DATA + 0x10000: 0x4000}
"""Two of the regions are neighbours: a buffer may end in one, and may not go on in the other."""
ADDRESSES = RingAddresses(RINGS, RINGS + 0x4000, RINGS + 0x6000)
NEXT, WRITE, INDIRECT, AVAIL, USED = 1, 2, 4, 1 << 7, 1 << 15
OFFERED = (
    Feature.VERSION_1,
    Feature.VERSION_1 | Feature.EVENT_IDX,
    Feature.VERSION_1 | Feature.INDIRECT_DESC | Feature.EVENT_IDX,
)


class Arena:
    """Guest memory with a ring in it."""

    def __init__(self, engine: str, patch: pytest.MonkeyPatch) -> None:
        self.engine = engine
        self.memory = RegionMemory()
        self.parts = {address: bytearray(size) for address, size in SIZES.items()}
        for address, part in self.parts.items():
            self.memory.map(address, memoryview(part))
        self.memory.map(ROM, memoryview(bytes(0x1000)))
        self._patch = patch

    def ring(self, size: int, features: Feature) -> Ring:
        """A ring of the engine."""
        self._patch.setenv("HDVKIT_NATIVE", self.engine)
        return build_ring(self.memory, ADDRESSES, size, features)

    def store(self, address: int, data: bytes) -> None:
        """Store as the driver does."""
        start = max(start for start in self.parts if start <= address)
        self.parts[start][address - start : address - start + len(data)] = data


@attrs.define
class Heard:
    """One ring, and what it has said so far."""

    arena: Arena
    ring: Ring
    said: list[object] = attrs.field(factory=list)
    held: list[Chain] = attrs.field(factory=list)

    def pop(self) -> bool:
        """Take a chain; whether the ring goes on."""
        try:
            chain = self.ring.pop()
        except GuestError as error:
            self.said.append(str(error))
            return False
        if chain is None:
            self.said.append((None, self.ring.arm()))
            return False
        readable = b"".join(chain.readable)
        self.said.append((chain.head, chain.slots, readable, chain.writable_size, self.ring.in_flight))
        self.held.append(chain)
        return True

    def give_back(self, which: int, answer: bytes) -> None:
        """Complete one of those that are held."""
        chain = self.held.pop(which)
        self.said.append((chain.head, chain.write(answer)))
        chain.complete()
        self.said.append(self.ring.should_signal())


@KINDS
def test_the_same_answers_to_random_rings(packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    choose = random.Random(20 + packed)
    arenas = [Arena(engine, monkeypatch) for engine in ("0", "1")]
    seen = set()
    for number in range(TABLES):
        size = choose.choice((1, 2, 4, 8, 16, 64)) if not packed else choose.choice((1, 3, 4, 7, 16, 64))
        features = choose.choice(OFFERED) | (Feature.RING_PACKED if packed else Feature(0))
        pair = [Heard(arena, arena.ring(size, features)) for arena in arenas]
        for address, data in _rubbish(choose, size, packed):
            for arena in arenas:
                arena.store(address, data)
        _use(pair, choose)
        assert pair[1].said == pair[0].said, number
        assert arenas[1].parts == arenas[0].parts, number
        seen |= {type(said) for said in pair[0].said} | {said for said in pair[0].said if isinstance(said, bool)}
        for heard in pair:
            heard.ring.close()
            while heard.held:
                heard.held.pop().complete()
            assert heard.arena.memory.leases == 0
    assert {str, tuple, True, False} <= seen, "some answers never occurred"


def _use(pair: list[Heard], choose: random.Random) -> None:
    """Take chains, hold some, give some back in any order, with answers of any length."""
    reference, _ = pair
    for _ in range(200):
        going = [heard.pop() for heard in pair]
        assert going[0] == going[1], [heard.said for heard in pair]
        while reference.held and choose.random() < 0.5:
            which, answer = choose.randrange(len(reference.held)), choose.randbytes(choose.randrange(64))
            for heard in pair:
                heard.give_back(which, answer)
        if choose.random() < 0.1:
            for heard in pair:
                heard.ring.disarm()
        if not going[0]:
            return


def _rubbish(choose: random.Random, size: int, packed: bool) -> list[tuple[int, bytes]]:
    """What lies in the areas of a ring, more or less as a driver would have it."""
    table = b"".join(_descriptor(choose, size, packed) for _ in range(size))
    inner = b"".join(_descriptor(choose, 16, packed) for _ in range(64))
    stores = [(RINGS, table), (DATA, inner)]
    if packed:
        stores.append((ADDRESSES.driver, struct.pack("<HH", choose.getrandbits(16), choose.randrange(4))))
        stores.append((ADDRESSES.device, bytes(4)))
        return stores
    heads = [choose.randrange(size) if choose.random() < 0.99 else choose.getrandbits(16) for _ in range(size)]
    ahead = choose.randrange(size + 1) if choose.random() < 0.95 else choose.getrandbits(16)
    ring = struct.pack(f"<{3 + size}H", choose.getrandbits(1), ahead, *heads, choose.getrandbits(3))
    return [*stores, (ADDRESSES.driver, ring), (ADDRESSES.device, bytes(6 + 8 * size))]


def _descriptor(choose: random.Random, size: int, packed: bool) -> bytes:
    odd = choose.random
    flags = WRITE * choose.getrandbits(1) | NEXT * (odd() < 0.4)
    address, length = DATA + choose.randrange(0x13000), choose.randrange(1, 600)
    if odd() < 0.2:
        address, length = DATA + 16 * choose.randrange(16), 16 * choose.randrange(1, 40)
        flags = INDIRECT | (NEXT if odd() < 0.05 else 0)
    if odd() < 0.03:
        address = choose.choice((0, ROM, ROM + 0xFF0, 1 << 52, (1 << 64) - 16, DATA + 0x10000 - 8, DATA + 0x14000))
    if odd() < 0.03:
        length = choose.choice((0, 0xFFFFFFFF, 0x80000000, 32 << 20, 17, 0x14000))
    word = choose.randrange(size) if odd() < 0.98 else choose.getrandbits(16)
    if packed:
        flags |= AVAIL if odd() < 0.97 else choose.choice((0, USED, AVAIL | USED))
        return struct.pack("<QIHH", address, length, word, flags)
    return struct.pack("<QIHH", address, length, flags, word)


@KINDS
def test_what_the_guest_maps_later_is_found_and_what_it_takes_is_not(
    packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    arena = Arena("1", monkeypatch)
    ring = arena.ring(4, Feature.VERSION_1 | (Feature.RING_PACKED if packed else Feature(0)))
    later = 0x800000
    if packed:
        arena.store(RINGS, b"".join(struct.pack("<QIHH", later, 16, number, WRITE | AVAIL) for number in range(4)))
    else:
        arena.store(RINGS, struct.pack("<QIHH", later, 16, WRITE, 0))
        arena.store(ADDRESSES.driver, struct.pack("<6H", 0, 2, 0, 0, 0, 0))
    with pytest.raises(GuestError, match="16 bytes at 0x800000 do not lie inside guest RAM"):
        ring.pop()
    new = bytearray(0x1000)
    arena.memory.map(later, memoryview(new))
    chain = ring.pop()
    assert chain is not None
    gone: list[bool] = []
    arena.memory.unmap(later, lambda: gone.append(True))
    assert chain.write(b"still there") == 11
    assert not gone
    chain.complete()
    assert gone
    assert new[:11] == b"still there"
    with pytest.raises(GuestError, match="16 bytes at 0x800000 do not lie inside guest RAM"):
        ring.pop()
    ring.close()
