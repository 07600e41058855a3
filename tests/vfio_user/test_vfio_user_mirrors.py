"""Rings in guest memory without a descriptor: mirrored, and what each side stores sent to the other."""

import asyncio
import errno
import sys
from collections.abc import Iterator

import pytest
from hdvkit_vfio_user.remote import GRAIN, Mirror
from hypothesis import given
from hypothesis import strategies as st
from vfio_user_bench import driven, served
from vfio_user_client import Message, Refused
from vfio_user_guest import BASE, READ, Asked, Guest
from vfio_user_machine import VfioUserMachine

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="vfio-user needs Linux")

LIMIT = 30.0


@given(
    st.integers(1, 4 * GRAIN + 7),
    st.lists(st.lists(st.tuples(st.integers(0, 300), st.binary(max_size=2 * GRAIN)), max_size=4), max_size=4),
)
def test_stores_make_a_copy_equal(size: int, rounds: list[list[tuple[int, bytes]]]) -> None:
    mirror = Mirror(BASE, size)
    copy = bytearray(size)
    for stores in rounds:
        for at, data in stores:
            if at < size:
                mirror.data[at : at + len(data)] = data[: size - at]
        assert len(mirror.data) == size
        before = bytes(copy)
        for address, data in mirror.stores():
            assert data
            at = address - BASE
            assert all(new != old for new, old in zip(data, before[at : at + len(data)], strict=True))
            copy[at : at + len(data)] = data
        assert copy == mirror.data
        assert list(mirror.stores()) == []


@pytest.fixture
async def rings() -> Guest:
    guest = Guest()
    guest.ram[:256] = bytes(range(256))
    return guest


async def test_a_mirror_shows_what_the_driver_stores(rings: Guest) -> None:
    guest = rings
    with guest.remote.mirror(BASE, 256) as view:
        await guest.calm()
        assert bytes(view) == bytes(range(256))
        assert guest.changes == 1
        guest.remote.look()
        await guest.calm()
        assert guest.changes == 1, "nothing new"
        guest.ram[10:12] = b"!!"
        guest.remote.look()
        await guest.calm()
        assert guest.changes == 2
        assert bytes(view[10:12]) == b"!!"
        assert guest.writes == []
        assert guest.remote.leases == 1
    assert guest.remote.leases == 0
    asked = len(guest.asked)
    guest.remote.look()
    await guest.calm()
    assert len(guest.asked) == asked, "nobody has a ring any more"


async def test_stores_are_sent_at_each_barrier_in_their_order(rings: Guest) -> None:
    guest = rings
    lease = guest.remote.mirror(BASE, 256)
    await guest.calm()
    lease.view[200] = 1
    lease.view[8:12] = b"used"
    guest.remote.barrier()
    lease.view[2:4] = b"ix"
    guest.remote.barrier()
    lease.view[2:4] = b"iy"
    await guest.calm()
    assert [(one.address - BASE, one.data) for one in guest.writes] == [
        *((8, b"used"), (200, b"\1")),
        *((2, b"ix"), (3, b"y")),
    ]
    assert guest.ram[2:4] == b"iy"
    assert guest.deliveries >= 1
    lease.release()


async def test_what_both_sides_store_at_the_same_time_is_kept(rings: Guest) -> None:
    guest = rings
    lease = guest.remote.mirror(BASE, 64)
    await guest.calm()
    stores = iter([(0, b"d0"), (10, b"d1")])

    def meanwhile(asked: Asked) -> None:
        if asked.command == READ and (store := next(stores, None)):
            at, data = store
            lease.view[at : at + 2] = data
            guest.ram[32 + at : 34 + at] = data.upper()

    guest.before_answer = meanwhile
    guest.ram[40:42] = b"go"
    guest.remote.look()
    await guest.calm()
    guest.before_answer = lambda asked: None
    guest.remote.look()
    await guest.calm()
    assert bytes(lease.view) == guest.ram[:64]
    assert [bytes(guest.ram[at : at + 2]) for at in (0, 10, 32, 42)] == [b"d0", b"d1", b"D0", b"D1"]
    lease.release()


async def test_a_store_while_rings_are_fetched_is_not_undone(rings: Guest) -> None:
    guest = rings
    lease = guest.remote.mirror(BASE, 64)
    await guest.calm()
    for barrier in (False, True):
        stores = iter([b"one", b"two"])

        def meanwhile(asked: Asked, barrier: bool = barrier, stores: Iterator[bytes] = stores) -> None:
            if asked.command == READ and (store := next(stores, None)):
                lease.view[:3] = store
                if barrier:
                    guest.remote.barrier()

        guest.before_answer = meanwhile
        guest.remote.look()
        await guest.calm()
        assert bytes(lease.view[:3]) == b"two"
        guest.remote.barrier()
        await guest.calm()
        assert guest.ram[:3] == b"two"
        lease.view[:3] = b"old"
        guest.remote.barrier()
        await guest.calm()
    lease.release()


async def test_a_store_seen_half_is_no_store(rings: Guest) -> None:
    guest = rings
    lease = guest.remote.mirror(BASE, 16)
    await guest.calm()
    seen: list[bytes] = []
    guest.remote._changed = lambda: seen.append(bytes(lease.view))  # what whoever serves the ring finds
    guest.ram[:8] = b"old old "
    left = iter([b"half old", b"half new", b"all  new"])

    def meanwhile(asked: Asked) -> None:
        guest.ram[:8] = next(left, b"all  new")

    guest.before_answer = meanwhile
    guest.remote.look()
    await guest.calm()
    assert seen == [b"all  new" + bytes(range(8, 16))]
    lease.release()


async def test_rings_are_fetched_from_the_last_to_the_first(rings: Guest) -> None:
    leases = [rings.remote.mirror(BASE + at, 16) for at in (0, 64, 128)]
    await rings.calm()
    assert [one.address - BASE for one in rings.asked[:3]] == [128, 64, 0]
    rings.bad.add(BASE + 64)
    rings.ram[128] = rings.ram[0] = 77
    rings.remote.look()
    await rings.calm()
    assert [lease.view[0] for lease in leases] == [77, 64, 77], "one that cannot be read stops no other"
    for lease in leases:
        lease.release()


async def test_a_client_that_goes_ends_the_fetching(rings: Guest) -> None:
    rings.held = True
    before = asyncio.all_tasks()
    lease = rings.remote.mirror(BASE, 256)
    await rings.calm()
    assert len(asyncio.all_tasks() - before) == 1
    rings.leave()
    await rings.calm()
    assert asyncio.all_tasks() == before
    rings.answer()
    lease.release()
    assert rings.changes == 0


async def test_rings_that_cannot_be_read_are_not_fetched_for_ever() -> None:
    """A guest may start its driver without bus mastering; QEMU then refuses what we ask."""
    async with (
        asyncio.timeout(LIMIT),
        served() as device,
        VfioUserMachine(no_fds=True) as machine,
        driven(machine, device.path) as driver,
    ):
        client = machine.slots[0].client
        assert (await driver.queues[0].submit([b"ping"], [4])).data == b"ping"
        asked = 0

        async def refuse(message: Message) -> bytes | None:
            nonlocal asked
            asked += 1
            raise Refused(errno.EPERM)

        client.hook = refuse
        await driver.queues[0].kick(force=True)
        for _ in range(100):
            await machine.config_read(0, 0, 4)
        client.hook = None
        assert asked < 60
