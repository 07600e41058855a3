"""Guest memory as leases: what may be reached, and what has to come back before memory may go."""

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hdvkit.errors import GuestError, UsageError
from hdvkit.memory import ADDRESS_SPACE, RegionMemory, check_range

LOW, HIGH = 0x10000, 0x1_0000_0000


def memory() -> tuple[RegionMemory, bytearray, bytearray]:
    """4 KiB at 64 KiB and 8 KiB at 4 GiB."""
    low, high = bytearray(0x1000), bytearray(0x2000)
    regions = RegionMemory()
    regions.map(HIGH, memoryview(high))
    regions.map(LOW, memoryview(low))
    return regions, low, high


def test_a_lease_is_the_guests_own_memory() -> None:
    regions, low, high = memory()
    with regions.lease(LOW + 0xFFE, 2, writable=True) as view:
        view[:] = b"ab"
        low[0xFFF] = ord("c")
        assert bytes(view) == b"ac"
    assert low[0xFFE:] == b"ac"
    with regions.lease(HIGH, 0x2000, writable=False, coherent=True) as view:
        assert len(view) == 0x2000
        high[0x1FFF] = 7
        assert view[0x1FFF] == 7


@pytest.mark.parametrize(
    ("address", "size"),
    [
        (LOW - 1, 1),
        (LOW - 1, 2),
        (LOW, 0x1001),
        (LOW + 0xFFF, 2),
        (LOW + 0x1000, 1),
        (0, 1),
        (HIGH - 1, 2),
        (HIGH + 0x2000, 1),
        (HIGH + 0x1FFF, 2),
        (HIGH, 1 << 63),
        (ADDRESS_SPACE - 1, 1),
    ],
)
def test_what_is_not_inside_one_region_is_no_memory(address: int, size: int) -> None:
    regions, _, _ = memory()
    with pytest.raises(GuestError, match=f"{size} bytes at {address:#x} do not lie inside guest RAM"):
        regions.lease(address, size, writable=False)
    assert regions.leases == 0


@pytest.mark.parametrize(
    ("address", "size"), [(LOW, 0), (LOW, -1), (-1, 1), (ADDRESS_SPACE, 1), (ADDRESS_SPACE - 1, 2), (1, ADDRESS_SPACE)]
)
def test_what_is_no_range_at_all_is_refused(address: int, size: int) -> None:
    regions, _, _ = memory()
    with pytest.raises(GuestError, match="no range of a 64-bit address space"):
        regions.lease(address, size, writable=False)


def test_the_whole_address_space_is_a_range() -> None:
    check_range(0, ADDRESS_SPACE)
    check_range(ADDRESS_SPACE - 1, 1)
    with pytest.raises(GuestError, match="no range"):
        check_range(1, ADDRESS_SPACE)


def test_a_lease_does_not_run_from_one_region_into_the_next() -> None:
    regions = RegionMemory()
    regions.map(0x1000, memoryview(bytearray(0x1000)))
    regions.map(0x2000, memoryview(bytearray(0x1000)))
    with regions.lease(0x1FFF, 1, writable=True) as view:
        assert len(view) == 1
    with pytest.raises(GuestError, match="do not lie inside guest RAM"):
        regions.lease(0x1FFF, 2, writable=True)


@pytest.mark.parametrize("buffer", [bytearray(16), bytes(16)])
def test_read_only_memory_can_be_read_and_not_written(buffer: bytes | bytearray) -> None:
    regions = RegionMemory()
    regions.map(0, memoryview(buffer), writable=isinstance(buffer, bytes))  # either the map says so or the buffer
    with regions.lease(0, 16, writable=False) as view:
        assert bytes(view) == bytes(16)
    with pytest.raises(GuestError, match="16 bytes at 0x0 are to be written, but that memory is read-only"):
        regions.lease(0, 16, writable=True)
    assert regions.leases == 0


def test_leases_are_counted_until_they_are_back() -> None:
    regions, _, _ = memory()
    leases = [regions.lease(LOW, 8, writable=False), regions.lease(HIGH, 8, writable=True)]
    assert regions.leases == 2
    leases[0].release()
    leases[0].release()
    assert regions.leases == 1, "twice is harmless"
    with leases[1]:
        pass
    assert regions.leases == 0


def test_a_released_view_cannot_be_used() -> None:
    regions, _, _ = memory()
    lease = regions.lease(LOW, 8, writable=True)
    lease.release()
    with pytest.raises(ValueError, match="released"):
        lease.view[0] = 1
    with pytest.raises(ValueError, match="released"), lease as view:
        bytes(view)


def test_regions_of_other_items_are_bytes_all_the_same() -> None:
    words = memoryview(bytearray(8)).cast("I")
    regions = RegionMemory()
    regions.map(0x1000, words)
    with regions.lease(0x1007, 1, writable=True) as view:
        view[0] = 9
    assert words[1] == 9 << 24


@pytest.mark.parametrize(
    ("address", "size", "match"),
    [
        (LOW, 1, "overlaps"),
        (LOW + 0xFFF, 1, "overlaps"),
        (LOW - 1, 2, "overlaps"),
        (LOW - 0x1000, 0x3000, "overlaps"),
        (HIGH - 1, 2, "overlaps"),
        (-1, 2, "no range of a 64-bit address space"),
        (ADDRESS_SPACE - 1, 2, "no range"),
        (0, 0, "no range"),
    ],
)
def test_regions_neither_overlap_nor_wrap(address: int, size: int, match: str) -> None:
    regions, _, _ = memory()
    with pytest.raises(UsageError, match=match):
        regions.map(address, memoryview(bytearray(size)))
    with regions.lease(LOW, 0x1000, writable=True), regions.lease(HIGH, 0x2000, writable=True):
        assert regions.leases == 2, "what was mapped is untouched"


def test_regions_may_touch_each_other_and_the_end() -> None:
    regions, _, _ = memory()
    regions.map(LOW - 1, memoryview(bytearray(1)))
    regions.map(LOW + 0x1000, memoryview(bytearray(1)))
    regions.map(ADDRESS_SPACE - 4, memoryview(bytearray(4)))
    for address in (LOW - 1, LOW + 0x1000, ADDRESS_SPACE - 1):
        with regions.lease(address, 1, writable=True) as view:
            assert bytes(view) == b"\0"


def test_an_idle_region_goes_at_once() -> None:
    regions, low, _ = memory()
    gone: list[bool] = []
    regions.unmap(LOW, lambda: gone.append(True))
    assert gone == [True]
    low += b"grown"  # raises BufferError while anything still looks at it
    with pytest.raises(GuestError, match="do not lie inside"):
        regions.lease(LOW, 1, writable=False)
    with regions.lease(HIGH, 1, writable=False):
        pass


def test_a_region_waits_for_its_last_lease_and_gives_no_new_ones() -> None:
    regions, low, high = memory()
    gone: list[bool] = []
    first, second = (regions.lease(LOW + at, 8, writable=True) for at in (0, 4))
    elsewhere = regions.lease(HIGH, 8, writable=True)
    regions.unmap(LOW, lambda: gone.append(True))
    with pytest.raises(GuestError, match="do not lie inside"):
        regions.lease(LOW + 0x800, 1, writable=False)
    with pytest.raises(UsageError, match="no mapped region starts there"):
        regions.unmap(LOW, lambda: gone.append(True))
    assert regions.leases == 3, "those of a region on its way out count"
    first.view[0] = 5
    first.release()
    assert not gone
    second.view[0] = 6
    assert (low[0], low[4]) == (5, 6)
    with pytest.raises(BufferError):
        low += b"x"
    second.release()
    assert gone == [True]
    low += b"x"
    assert regions.leases == 1
    elsewhere.release()
    assert len(high) == 0x2000


def test_new_memory_may_come_where_old_memory_is_on_its_way_out() -> None:
    regions, low, _ = memory()
    gone: list[bool] = []
    lease = regions.lease(LOW, 1, writable=True)
    regions.unmap(LOW, lambda: gone.append(True))
    fresh = bytearray(0x1000)
    regions.map(LOW, memoryview(fresh))
    with regions.lease(LOW, 1, writable=True) as view:
        view[0] = 1
    lease.view[0] = 2
    assert (fresh[0], low[0], gone) == (1, 2, [])
    lease.release()
    assert gone == [True]


@pytest.mark.parametrize("address", [0, LOW + 1, LOW - 1, HIGH + 0x1000])
def test_only_what_was_mapped_can_be_unmapped(address: int) -> None:
    regions, _, _ = memory()
    gone: list[bool] = []
    with pytest.raises(UsageError, match=f"cannot unmap {address:#x}: no mapped region starts there"):
        regions.unmap(address, lambda: gone.append(True))
    assert not gone


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["map", "unmap", "lease", "release"]), st.integers(0, 20), st.integers(0, 6)),
        min_size=20,  # left alone, hypothesis makes lists of five
        max_size=50,
    )
)
def test_any_history_agrees_with_a_map_of_single_addresses(steps: list[tuple[str, int, int]]) -> None:
    regions = RegionMemory()
    owner: dict[int, int] = {}  # the region's start of each mapped address
    out: list[tuple[int, object]] = []
    leaving: dict[int, int] = {}
    serial = 0
    starts: dict[int, int] = {}
    for step, address, size in steps:
        covered = range(address, address + size)
        match step:
            case "map":
                serial += 1
                if size and not any(one in owner for one in covered):
                    regions.map(address, memoryview(bytearray(size)))
                    owner.update(dict.fromkeys(covered, serial))
                    starts[address] = serial
                else:
                    with pytest.raises(UsageError):
                        regions.map(address, memoryview(bytearray(size)))
            case "unmap" if address in starts:
                ident = starts.pop(address)
                owner = {one: other for one, other in owner.items() if other != ident}
                leaving[ident] = 0
                regions.unmap(address, lambda ident=ident: leaving.pop(ident))  # type: ignore[misc]
            case "lease":
                held = {owner.get(one) for one in covered}
                if size and len(held) == 1 and None not in held:
                    out.append((held.pop() or 0, regions.lease(address, size, writable=True)))
                else:
                    with pytest.raises(GuestError):
                        regions.lease(address, size, writable=True)
            case "release" if out:
                out.pop(address % len(out))[1].release()  # type: ignore[attr-defined]
        assert regions.leases == len(out)
        held_by = {ident for ident, _ in out}
        assert all(ident in held_by for ident in leaving), "a region goes with its last lease, no sooner and no later"


def test_the_barrier_never_waits_for_long_and_works_in_any_thread() -> None:
    turns: list[int] = []
    memory = RegionMemory()

    def turn(number: int) -> None:
        for _ in range(1000):
            memory.barrier()
        turns.append(number)

    threads = [threading.Thread(target=turn, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(turns) == [0, 1, 2, 3]
    assert memory.barrier() is None
