"""Apertures against a platform that counts them, and that refuses to unmap what somebody can still touch."""

import contextlib
import mmap
import tempfile
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hdvkit.apertures import PAGE, ApertureMemory, AperturePool, NoMoreApertures
from hdvkit.errors import GuestError, HostError
from hdvkit.memory import Lease

PAGES = 12
SIZE = PAGES * PAGE
ROM = PAGES - 1
"""The page that cannot be mapped for writing."""
HOLE = PAGES
"""From this page on there is no memory."""


class Platform:
    """Guest memory in a file; each aperture is a mapping of its own, so a destroyed one is gone for good."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.calls: list[tuple[str, int, int, bool]] = []
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  # lives as long as the platform
        self._file.truncate(SIZE)
        self._whole = mmap.mmap(self._file.fileno(), SIZE)
        self.ram = memoryview(self._whole)
        self._made: dict[int, tuple[memoryview, mmap.mmap, tuple[int, int, bool]]] = {}

    @property
    def live(self) -> list[tuple[int, int, bool]]:
        """What is mapped, in order of creation: page, pages, writable."""
        return [(start // PAGE, size // PAGE, writable) for _, _, (start, size, writable) in self._made.values()]

    def create(self, address: int, size: int, writable: bool) -> memoryview:
        """Map pages, as far as the limit goes."""
        assert address % PAGE == size % PAGE == 0
        assert size > 0
        if len(self._made) >= self.limit:
            raise NoMoreApertures("the limit is reached")
        if address + size > HOLE * PAGE or (writable and address + size > ROM * PAGE):
            raise HostError("there is no such memory")
        start = address - address % mmap.ALLOCATIONGRANULARITY
        access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
        mapping = mmap.mmap(self._file.fileno(), address + size - start, access=access, offset=start)
        whole = memoryview(mapping)
        view = whole[address - start :]
        whole.release()
        self._made[id(view)] = (view, mapping, (address, size, writable))
        self.calls.append(("create", address // PAGE, size // PAGE, writable))
        return view

    def destroy(self, view: memoryview) -> None:
        """Unmap; raises BufferError when anything made from the view is still alive."""
        _, mapping, (address, size, writable) = self._made.pop(id(view))
        view.release()
        mapping.close()
        self.calls.append(("destroy", address // PAGE, size // PAGE, writable))

    def close(self) -> None:
        """Unmap everything."""
        for view, _, _ in tuple(self._made.values()):
            self.destroy(view)
        self.ram.release()
        self._whole.close()
        self._file.close()


@contextlib.contextmanager
def platform(limit: int) -> Iterator[Platform]:
    made = Platform(limit)
    try:
        yield made
    finally:
        made.close()


@contextlib.contextmanager
def apertures(limit: int, *, platform_limit: int | None = None) -> Iterator[tuple[ApertureMemory, Platform]]:
    with platform(limit if platform_limit is None else platform_limit) as made:
        memory = ApertureMemory(made, AperturePool(limit), max_address=SIZE + 4 * PAGE)
        yield memory, made
        assert memory.leases == 0, "a test that leaves a lease out proves nothing about the end"
        memory.clear()
        assert made.live == [], "nothing of the platform's is left when all is given back"
        assert memory.pool.stats().live == 0


def test_a_lease_maps_exactly_the_pages_it_touches() -> None:
    with apertures(8) as (memory, made):
        for address, size, page, pages in (
            (0, 1, 0, 1),
            (PAGE - 1, 1, 0, 1),
            (3 * PAGE - 1, 2, 2, 2),
            (4 * PAGE, PAGE, 4, 1),
            (5 * PAGE + 1, 2 * PAGE, 5, 3),
        ):
            made.calls.clear()
            made.ram[address : address + size] = bytes([page + 1]) * size
            with memory.lease(address, size, writable=False) as view:
                assert bytes(view) == bytes([page + 1]) * size
            assert made.calls in ([("create", page, pages, False)], []), "one mapping, or one that is there"
        assert made.live == [(0, 1, False), (2, 2, False), (4, 1, False), (5, 3, False)]
        stats = memory.pool.stats()
        assert (stats.creates, stats.hits, stats.evictions, stats.copies, stats.live) == (4, 1, 0, 0, 4)


def test_what_is_written_is_in_the_guest_at_once_and_the_other_way_round() -> None:
    with apertures(2) as (memory, made), memory.lease(PAGE + 8, 16, writable=True, coherent=True) as view:
        view[:3] = b"abc"
        assert bytes(made.ram[PAGE + 8 : PAGE + 11]) == b"abc"
        made.ram[PAGE + 8] = ord("z")
        assert view[0] == ord("z")


def test_the_least_recently_used_mapping_that_nobody_leases_goes_first() -> None:
    with apertures(4) as (memory, made):
        held = memory.lease(0, 1, writable=False)
        for page in (1, 2, 3, 1):
            memory.lease(page * PAGE, 1, writable=False).release()
        made.calls.clear()
        for page in (4, 5, 6):
            memory.lease(page * PAGE, 1, writable=False).release()
        assert [call[:2] for call in made.calls] == [
            ("destroy", 2),
            ("create", 4),
            ("destroy", 3),
            ("create", 5),
            ("destroy", 1),
            ("create", 6),
        ]
        assert (0, 1, False) in made.live
        assert memory.pool.stats().evictions == 3
        held.release()


def test_a_mapping_may_be_leased_many_times_and_is_kept_until_all_are_back() -> None:
    with apertures(2) as (memory, made):
        leases = [memory.lease(at, 4, writable=False) for at in (0, 4, 8)]
        assert memory.leases == 3
        assert memory.pool.stats().creates == 1
        for lease in leases[:2]:
            lease.release()
        memory.clear()
        assert made.live == [(0, 1, False)]
        leases[2].release()


def test_read_only_leases_are_of_read_only_mappings_and_may_share_writable_ones() -> None:
    with apertures(4) as (memory, made):
        with memory.lease(0, 4, writable=False) as view:
            assert view.readonly
        with memory.lease(0, 4, writable=True) as view:
            view[0] = 1
        assert made.live == [(0, 1, False), (0, 1, True)]
        memory.clear()
        with memory.lease(PAGE, 4, writable=True), memory.lease(PAGE, 4, writable=False):
            assert made.live == [(1, 1, True)]
        assert memory.pool.stats().hits == 1


def test_memory_that_cannot_be_mapped_is_the_guests_mistake() -> None:
    with apertures(4) as (memory, made):
        with memory.lease(ROM * PAGE, 4, writable=False) as view:
            assert bytes(view) == bytes(4)
        for address, writable in ((ROM * PAGE, True), (HOLE * PAGE, False)):
            with pytest.raises(GuestError, match=f"4096 bytes at {address:#x} cannot be mapped: there is no such mem"):
                memory.lease(address, 4, writable=writable)
        made.calls.clear()
        end = SIZE + 4 * PAGE
        for address, size in ((end, 1), (end - 1, 2), (1 << 63, 1)):
            with pytest.raises(GuestError, match="do not lie inside guest RAM"):
                memory.lease(address, size, writable=False)
        with pytest.raises(GuestError, match="no range"):
            memory.lease(0, 0, writable=False)
        assert made.calls == [], "the platform was not asked"


def test_when_all_are_leased_a_lease_is_a_copy_that_is_right_byte_for_byte() -> None:
    with apertures(3) as (memory, made):
        made.ram[:] = bytes(n % 251 for n in range(SIZE))
        before = bytes(made.ram)
        rings = [memory.lease(page * PAGE, 64, writable=True, coherent=True) for page in (0, 1)]
        start, size = 3 * PAGE - 5, PAGE + 9
        with memory.lease(start, size, writable=True) as view:
            assert memory.pool.stats().copies == 1
            assert bytes(view) == before[start : start + size]
            view[5:8] = b"new"
            assert bytes(made.ram) == before, "a copy reaches the guest when it is given back"
        after = bytearray(before)
        after[start + 5 : start + 8] = b"new"
        assert bytes(made.ram) == after, "what was not written is as it was"
        with memory.lease(5 * PAGE, 3, writable=False) as view:
            assert bytes(view) == before[5 * PAGE : 5 * PAGE + 3]
        for lease in rings:
            assert lease.view is not None
            lease.release()


def test_copies_count_as_leases() -> None:
    with apertures(1) as (memory, _):
        leases = [memory.lease(page * PAGE, 4, writable=False) for page in range(5)]
        assert memory.leases == 5
        assert memory.pool.stats().copies == 5
        for lease in leases:
            lease.release()


def test_a_coherent_lease_is_never_a_copy() -> None:
    with apertures(2) as (memory, _):
        leases = []
        with pytest.raises(NoMoreApertures, match="apertures are in use; lower queues or queue_size"):
            leases.extend(memory.lease(page * PAGE, 4, writable=True, coherent=True) for page in range(3))
        assert memory.pool.stats().copies == 0
        for page in range(2):
            with contextlib.suppress(NoMoreApertures):
                memory.lease(page * PAGE, 4, writable=True, coherent=True).release()
        for lease in leases:
            lease.release()


def test_a_platform_that_has_less_than_it_said_is_lived_with() -> None:
    with apertures(6, platform_limit=3) as (memory, made):
        for page in range(6):
            with memory.lease(page * PAGE, 4, writable=True) as view:
                view[:] = b"page"
        assert bytes(made.ram[::PAGE][:6]) == b"p" * 6
        assert memory.pool.stats().evictions == 3
        first, second = (memory.lease(page * PAGE, 4, writable=True, coherent=True) for page in (0, 1))
        with pytest.raises(NoMoreApertures):
            memory.lease(2 * PAGE, 4, writable=True, coherent=True)
        first.release()
        second.release()


def test_a_copy_of_a_range_that_is_mapped_already_does_not_lose_that_mapping() -> None:
    with platform(3) as made:
        memory = ApertureMemory(made, AperturePool(3), max_address=SIZE)
        held = [memory.lease(page * PAGE, 4, writable=False) for page in (0, 1)]
        with memory.lease(0, 4, writable=True) as view:  # read-only is mapped, writable is not: a copy
            view[:] = b"abcd"
            assert memory.leases == 3
        for lease in held:
            lease.release()
        memory.clear()
        assert bytes(made.ram[:4]) == b"abcd"
        assert made.live == []


def test_a_lease_that_need_not_be_coherent_never_fails_for_want_of_apertures() -> None:
    with apertures(2) as (memory, _), contextlib.ExitStack() as stack:
        stack.enter_context(memory.lease(0, 4, writable=True, coherent=True))
        with memory.lease(PAGE, 4, writable=False):
            pass  # a copy, by a mapping that now lies idle
        stack.enter_context(memory.lease(PAGE, 4, writable=False))
        stack.enter_context(memory.lease(2 * PAGE, 4, writable=False))


def test_giving_a_copy_back_never_fails_for_want_of_apertures() -> None:
    with apertures(2) as (memory, made), contextlib.ExitStack() as stack:
        stack.enter_context(memory.lease(0, 4, writable=True, coherent=True))
        copy = memory.lease(PAGE, 4, writable=True)
        copy.view[:] = b"abcd"
        with contextlib.suppress(NoMoreApertures):
            stack.enter_context(memory.lease(2 * PAGE, 4, writable=True, coherent=True))
        copy.release()
        assert bytes(made.ram[PAGE : PAGE + 4]) == b"abcd"


def test_a_copy_of_memory_that_may_not_be_written_is_refused_when_it_is_leased() -> None:
    with apertures(1) as (memory, _):
        with pytest.raises(GuestError, match="cannot be mapped"):
            memory.lease(ROM * PAGE, 4, writable=True)
        assert memory.leases == 0


STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("lease"),
            st.tuples(
                st.builds(lambda page, at: page * PAGE + at, st.integers(0, 3), st.sampled_from([0, 1, 100, PAGE - 1])),
                st.sampled_from([1, 7, 99, PAGE, PAGE + 1]),
                st.booleans(),
                st.integers(0, 3).map(lambda draw: draw == 0),
            ),
        ),
        st.tuples(st.just("write"), st.integers(0, 1000)),
        st.tuples(st.just("release"), st.integers(0, 1000)),
        st.tuples(st.just("clear"), st.just(0)),
    ),
    min_size=20,  # left alone, hypothesis makes lists of five
    max_size=40,
)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 6), STEPS)
def test_any_history_of_leases_agrees_with_flat_memory(limit: int, steps: list[tuple[str, object]]) -> None:
    with platform(limit) as made:
        memory = ApertureMemory(made, AperturePool(limit), max_address=SIZE)
        flat = bytearray(bytes(n % 251 for n in range(SIZE)))
        made.ram[:] = flat
        out: list[tuple[Lease, range, bool]] = []
        try:
            for step, value in steps:
                match step, value:
                    case "lease", (int(address), int(size), bool(writable), bool(coherent)):
                        here = range(address, address + size)
                        # A guest lends no byte twice while a device may write it.
                        if any(
                            (writable or other_writable) and here.start < other.stop and other.start < here.stop
                            for _, other, other_writable in out
                        ):
                            continue
                        try:
                            lease = memory.lease(address, size, writable=writable, coherent=coherent)
                        except NoMoreApertures:
                            assert coherent
                            continue
                        assert bytes(lease.view) == flat[here.start : here.stop]
                        out.append((lease, here, writable))
                    case "write", int(which) if out:
                        lease, here, writable = out[which % len(out)]
                        if writable:
                            part = slice(which % len(here), which % len(here) + 1 + which // 7)
                            lease.view[part] = bytes([which % 256]) * len(lease.view[part])
                            flat[here.start : here.stop] = lease.view
                    case "release", int(which) if out:
                        lease, here, _ = out.pop(which % len(out))
                        lease.release()
                        assert made.ram[here.start : here.stop] == flat[here.start : here.stop]
                    case "clear", _:
                        memory.clear()
                assert memory.leases == len(out)
                assert memory.pool.stats().live == len(made.live) <= limit
        finally:
            for lease, _, _ in out:
                with contextlib.suppress(NoMoreApertures):
                    lease.release()
        assert bytes(made.ram) == flat
        memory.clear()
        assert made.live == []


@contextlib.contextmanager
def two(limit: int) -> Iterator[tuple[ApertureMemory, ApertureMemory, Platform]]:
    with platform(limit) as made:
        pool = AperturePool(limit)
        yield ApertureMemory(made, pool, max_address=SIZE), ApertureMemory(made, pool, max_address=SIZE), made


def test_functions_share_the_limit_and_evict_each_others_mappings() -> None:
    with two(3) as (one, other, made):
        for page in (0, 1, 2):
            one.lease(page * PAGE, 4, writable=True).release()
        held = other.lease(0, 4, writable=True)
        assert made.calls[-2:] == [("destroy", 0, 1, True), ("create", 0, 1, True)], "a mapping is of one function"
        assert (one.leases, other.leases) == (0, 1)
        one.clear()
        assert made.live == [(0, 1, True)]
        held.release()
        other.clear()
        assert made.live == []


def test_a_function_that_has_no_room_hears_when_another_gives_memory_back() -> None:
    with two(3) as (one, other, _):
        ring = [other.lease(page * PAGE, 4, writable=True, coherent=True) for page in (0,)]
        told: list[int] = []
        assert not one.when_returned(lambda: told.append(0)), "rings are not given back"
        chain = other.lease(PAGE, 4, writable=False)
        with pytest.raises(NoMoreApertures):
            one.lease(2 * PAGE, 4, writable=True, coherent=True)
        assert one.when_returned(lambda: told.append(1))
        assert told == []
        chain.release()
        assert told == [1]
        one.lease(2 * PAGE, 4, writable=True, coherent=True).release()
        for lease in ring:
            lease.release()
        assert told == [1]


def test_a_platform_that_had_no_more_is_asked_again_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hdvkit.apertures.ASK_AGAIN", 16)
    with apertures(6, platform_limit=3) as (memory, made):
        for page in range(6):
            memory.lease(page * PAGE, 4, writable=False).release()
        assert len(made.live) == 3
        made.limit = 6
        for page in range(3):
            memory.lease(page * PAGE, 4, writable=False).release()
        assert len(made.live) == 3, "not with each mapping: a refusal costs a call"
        for page in range(16):
            memory.lease(page % 6 * PAGE, 4, writable=False).release()
        assert len(made.live) == 6


def test_a_chain_in_the_middle_of_which_the_platform_has_no_more_may_be_tried_again() -> None:
    """Its leases are the only ones there are, so there is nobody to wait for: it is copied in part."""
    with apertures(6, platform_limit=3) as (memory, _):
        pages = [page * PAGE for page in range(5)]
        with contextlib.ExitStack() as chain:
            for address in pages[:3]:
                chain.enter_context(memory.lease(address, 4, writable=False))
            with pytest.raises(NoMoreApertures):
                memory.lease(pages[3], 4, writable=False)
        told: list[bool] = []
        assert memory.when_returned(lambda: told.append(True))
        assert told == [True]
        assert not memory.when_returned(lambda: told.append(False)), "once: a second failure is one"
        with contextlib.ExitStack() as chain:
            for address in pages:
                chain.enter_context(memory.lease(address, 4, writable=False))
            assert memory.pool.stats().copies == 3
