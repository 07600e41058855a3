"""A chain is two byte streams, given back once: over real guest memory, cut in any way."""

import warnings
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hdvkit.errors import HostError, UsageError
from hdvkit.memory import Lease, RegionMemory
from hdvkit.virtio import Chain
from hdvkit.virtio.chain import cut

BASE = 0x4000
GUARD = 3  # between buffers, so that a copy that runs on is seen
POISON = 0xA5


class Lender:
    """Guest memory with the buffers of one chain in it, and a record of what was given back."""

    def __init__(self, readable: Sequence[bytes], writable: Sequence[int]) -> None:
        self.ram = bytearray([POISON]) * (sum(map(len, readable)) + sum(writable) + GUARD * 64 + 1)
        self.memory = RegionMemory()
        self.memory.map(BASE, memoryview(self.ram))
        self.places: list[tuple[int, int]] = []
        self.back: list[tuple[int, int, int]] = []
        at = 0
        leases: list[list[Lease]] = [[], []]
        for size in (*map(len, readable), *writable):
            self.places.append((at, size))
            at += size + GUARD
        for data, (start, size) in zip(readable, self.places, strict=False):
            self.ram[start : start + size] = data
            leases[0].append(self.memory.lease(BASE + start, size, writable=False))
        self.places = self.places[len(readable) :]
        for start, size in self.places:
            leases[1].append(self.memory.lease(BASE + start, size, writable=True))
        self.chain = Chain(7, 1, leases[0], leases[1], self.complete)

    def complete(self, chain: Chain) -> None:
        """What a ring does with a chain that came back."""
        self.back.append((chain.head, chain.written, self.memory.leases))

    @property
    def answer(self) -> bytes:
        """What the guest finds in its writable buffers."""
        return b"".join(bytes(self.ram[start : start + size]) for start, size in self.places)


PIECES = st.lists(st.binary(min_size=1, max_size=9), max_size=6)
SIZES = st.lists(st.integers(1, 9), max_size=6)


@given(PIECES, st.lists(st.integers(0, 20), max_size=8))
def test_reading_is_one_stream_however_the_guest_cut_it(pieces: list[bytes], sizes: list[int]) -> None:
    whole = b"".join(pieces)
    with Lender(pieces, []).chain as chain:
        assert chain.readable_size == len(whole)
        at = 0
        for size in sizes:
            assert b"".join(chain.unread()) == whole[at:]
            assert chain.read(size) == whole[at : at + size]
            at = min(at + size, len(whole))
        assert chain.read() == whole[at:]
        assert chain.read() == b""
        assert chain.read(5) == b""
        assert chain.unread() == []


@given(SIZES, st.lists(st.binary(max_size=20), max_size=8))
def test_writing_is_one_stream_that_stops_at_the_end_and_touches_nothing_else(
    sizes: list[int], writes: list[bytes]
) -> None:
    lender = Lender([], sizes)
    total = sum(sizes)
    sent = b""
    with lender.chain as chain:
        for data in writes:
            room = total - len(sent)
            assert chain.write(data) == min(len(data), room)
            sent += data[:room]
            assert chain.written == len(sent)
            assert sum(map(len, chain.room())) == total - len(sent)
    assert lender.back == [(7, len(sent), 0)]
    assert lender.answer == sent.ljust(total, bytes([POISON]))
    holes = bytearray(lender.ram)
    for start, size in lender.places:
        holes[start : start + size] = bytes([POISON]) * size
    assert set(holes) == {POISON}


@given(SIZES, st.integers(0, 30), st.integers(0, 30), st.none() | st.integers(0, 30))
def test_room_is_the_guests_own_memory_behind_what_was_written(
    sizes: list[int], first: int, skip: int, size: int | None
) -> None:
    lender = Lender([], sizes)
    total = sum(sizes)
    chain = lender.chain
    chain.write(b"\1" * first)
    start = min(min(first, total) + skip, total)
    end = total if size is None else min(start + size, total)
    for view in chain.room(skip, size):
        view[:] = b"\2" * len(view)
    expected = bytearray([POISON]) * total
    expected[: min(first, total)] = b"\1" * min(first, total)
    expected[start:end] = b"\2" * (end - start)
    assert lender.answer == expected
    chain.written = end
    chain.complete()
    assert lender.back == [(7, end, 0)]


def test_cut_gives_parts_without_copying() -> None:
    memory = bytearray(b"abcdefghij")
    views = [memoryview(memory)[:4], memoryview(memory)[4:4], memoryview(memory)[4:]]
    assert [bytes(part) for part in cut(views, 3, 4)] == [b"d", b"efg"]
    assert cut(views, 0, 0) == cut(views, 10, 1) == []
    assert cut(views, 0, 4)[0] is views[0], "a whole buffer is handed on as it is"
    cut(views, 2, 1)[0][:] = b"X"
    assert memory == b"abXdefghij"


def test_bytes_likes_of_every_kind_can_be_written() -> None:
    lender = Lender([], [2, 4])
    with lender.chain as chain:
        chain.write(b"a")
        chain.write(bytearray(b"bc"))
        chain.write(memoryview(b"xdef")[1:])
    assert lender.answer == b"abcdef"


def test_the_views_are_dead_once_the_chain_is_back() -> None:
    chain = Lender([b"abc"], [3]).chain
    mine, theirs = chain.readable[0], chain.writable[0]
    assert not chain.completed
    chain.complete()
    assert chain.completed
    for view in (mine, theirs):
        with pytest.raises(ValueError, match="released"):
            bytes(view)
    assert chain.readable == chain.writable == []


def test_a_chain_that_is_back_cannot_be_used_in_any_way() -> None:
    lender = Lender([b"abc"], [3])
    chain = lender.chain
    chain.complete()
    calls: list[Callable[[], object]] = [
        chain.complete,
        chain.read,
        chain.unread,
        chain.room,
        lambda: chain.write(b"x"),
    ]
    for call in calls:
        with pytest.raises(UsageError, match="chain 7 is back with the driver: a chain is completed once"):
            call()
    assert len(lender.back) == 1


def test_leaving_with_completes_once_even_if_the_body_did() -> None:
    lender = Lender([], [3])
    with lender.chain as chain:
        chain.write(b"ab")
        chain.complete()
    assert lender.back == [(7, 2, 0)]


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt, GeneratorExit])
def test_an_answer_that_was_not_finished_is_none(failure: type[BaseException]) -> None:
    lender = Lender([], [3])

    def serve() -> None:
        with lender.chain as chain:
            chain.write(b"ab")
            raise failure

    with pytest.raises(failure):
        serve()
    assert lender.back == [(7, 0, 0)]


def test_an_answer_can_be_started_again() -> None:
    lender = Lender([], [2, 2])
    with lender.chain as chain:
        chain.write(b"abc")
        chain.rewind()
        chain.write(b"xy")
    assert lender.back == [(7, 2, 0)]
    assert lender.answer == b"xyc\xa5"


@pytest.mark.parametrize("claimed", [-1, 4, 1 << 40])
def test_more_than_there_was_room_for_is_the_devices_mistake_and_the_guest_is_told_0(claimed: int) -> None:
    lender = Lender([b"x"], [3])
    lender.chain.written = claimed
    with pytest.raises(UsageError, match=f"chain 7 claims {claimed} bytes written, it has room for 3"):
        lender.chain.complete()
    assert lender.back == [(7, 0, 0)], "the chain went back all the same, with its memory"


def test_a_platform_that_will_not_take_the_answer_costs_the_answer_and_nothing_else() -> None:
    lender = Lender([b"abc"], [3, 3])
    refusing = lender.memory.lease(BASE, 1, writable=True)

    def refused() -> None:
        raise HostError("the mapping is gone")

    copy = Lease(memoryview(bytearray(4)), refused)
    kept = [lender.memory.lease(BASE, 1, writable=False), copy, refusing]
    chain = Chain(8, 1, [], kept, lender.complete)
    chain.write(b"answer")
    with pytest.raises(HostError, match="the mapping is gone"):
        chain.complete()
    assert lender.back == [(8, 0, 3)], "told once, of nothing; the three of the other chain are all that is out"
    lender.chain.complete()


def test_a_chain_that_is_dropped_warns_and_goes_back_empty() -> None:
    lender = Lender([], [3])
    lender.chain.write(b"ab")
    with pytest.warns(ResourceWarning, match="chain 7 was dropped without being completed"):
        del lender.chain
    assert lender.back == [(7, 0, 0)]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_chain_that_is_dropped_goes_back_even_where_warnings_are_errors() -> None:
    lender = Lender([], [3])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del lender.chain
    assert lender.back == [(7, 0, 0)]


def test_a_negative_size_reads_nothing_again() -> None:
    with Lender([b"abc"], []).chain as chain:
        chain.read(2)
        try:
            chain.read(-1)
        except (UsageError, ValueError):
            return
        assert chain.read() in (b"", b"c")
