"""Guest memory as a vfio-user client maps it: seen by both sides, refused, leased, taken away, cut off."""

import asyncio
import errno
import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hdvkit_vfio_user import memory as module
from hdvkit_vfio_user.mapping import Mapping
from hdvkit_vfio_user.memory import GuestMemory
from hdvkit_vfio_user.protocol import Connection, DmaMap, Refused
from hdvkit_vfio_user.remote import RemoteMemory
from hdvkit_vfio_user.transfers import Transfers
from vfio_user_bench import no_fds_lost

from hdvkit import GuestError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="vfio-user needs Linux")

LIMIT = 30.0
PAGE = 4096
BASE = 0x10_0000


def nothing() -> None:
    """Nobody is told."""


def ignore(address: int, size: int) -> None:
    """No ring is lost in these tests."""


def guest_memory() -> GuestMemory:
    return GuestMemory(RemoteMemory(Transfers(Connection(), nothing), nothing, nothing, ignore))


def wanted(
    address: int = BASE, size: int = PAGE, offset: int = 0, *, readable: bool = True, writable: bool = True
) -> DmaMap:
    return DmaMap(address, size, offset, readable, writable)


@pytest.fixture
def ram() -> Iterator[int]:
    """Four pages of a guest, each filled with its number."""
    fd = os.memfd_create("guest")
    os.write(fd, b"".join(bytes([page]) * PAGE for page in range(4)))
    yield fd
    os.close(fd)


def mappings() -> int:
    """How many mappings of the guest's memory this process has."""
    return Path("/proc/self/maps").read_text().count("memfd:guest")


def refusal(memory: GuestMemory, request: DmaMap, fd: int | None) -> int:
    """The errno that a request is refused with; nothing may have come of it."""
    before = memory.ranges, memory.immediate, mappings()
    try:
        memory.add(request, fd)
    except Refused as refused:
        assert (memory.ranges, memory.immediate, mappings()) == before
        if fd is not None:
            os.fstat(fd)  # still ours
        return refused.errno
    pytest.fail(f"{request} was accepted")


# Mapping


async def test_both_sides_see_what_the_other_stores(ram: int) -> None:
    memory = guest_memory()
    memory.add(wanted(size=2 * PAGE, offset=PAGE), fd := os.dup(ram))
    os.close(fd)  # the mapping needs it no more
    with memory.lease(BASE, 2 * PAGE, writable=True, coherent=True) as view:
        assert bytes(view) == b"\1" * PAGE + b"\2" * PAGE
        os.pwrite(ram, b"from the guest", PAGE + 100)
        assert bytes(view[100:114]) == b"from the guest"
        view[-15:] = b"from the device"
        assert os.pread(ram, 15, 3 * PAGE - 15) == b"from the device"
    assert memory.copy(BASE + 100, 14) == b"from the guest"
    assert os.pread(ram, PAGE, 0) == bytes(PAGE), "what was not mapped"
    assert memory.immediate


async def test_several_ranges_of_one_memfd_are_kept_apart(ram: int) -> None:
    memory = guest_memory()
    for page in (2, 0, 3, 1):
        memory.add(wanted(BASE + 16 * PAGE * page, offset=PAGE * page), ram)
    for page in range(4):
        assert memory.copy(BASE + 16 * PAGE * page, PAGE) == bytes([page]) * PAGE
    assert sorted(memory.ranges) == [(BASE + 16 * PAGE * page, PAGE) for page in range(4)]
    memory.remove(BASE + 32 * PAGE, nothing)
    with pytest.raises(GuestError, match="inside guest RAM"):
        memory.copy(BASE + 32 * PAGE, 1)
    with pytest.raises(GuestError, match="inside guest RAM"):
        memory.lease(BASE + PAGE - 1, 2, writable=False)
    assert memory.copy(BASE + 48 * PAGE, 1) == b"\3"
    assert memory.leases == 0


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR], ids=["read-only file", "writable file"])
async def test_read_only_memory_is_not_written(flags: int, ram: int) -> None:
    memory = guest_memory()
    fd = os.open(f"/proc/self/fd/{ram}", flags)
    memory.add(wanted(writable=False), fd)
    os.close(fd)
    assert memory.copy(BASE, 3) == bytes(3)
    with pytest.raises(GuestError, match="read-only"):
        memory.lease(BASE, 1, writable=True)
    with memory.lease(BASE, 4, writable=False) as view, pytest.raises(TypeError):
        view[0] = 1
    assert memory.leases == 0


async def test_memory_that_cannot_be_written_is_not_mapped_writable(ram: int) -> None:
    fd = os.open(f"/proc/self/fd/{ram}", os.O_RDONLY)
    assert refusal(guest_memory(), wanted(), fd) == errno.EACCES
    os.close(fd)


@pytest.mark.parametrize(
    ("size", "offset"),
    [
        (4 * PAGE + 1, 0),
        (8 * PAGE, 0),
        (PAGE, 4 * PAGE),
        (PAGE, 1 << 40),
        (2 * PAGE, 3 * PAGE),
        (1 << 63, 0),
        ((1 << 64) - BASE, 0),
        (PAGE, (1 << 64) - PAGE),
        (PAGE, (1 << 64) - 1),
        (PAGE, 1),
        (PAGE, PAGE + 512),
        (PAGE, 2 * PAGE - 1),
    ],
)
async def test_what_the_file_does_not_hold_is_refused(size: int, offset: int, ram: int) -> None:
    memory = guest_memory()
    assert refusal(memory, wanted(size=size, offset=offset), ram) == errno.EINVAL
    memory.add(wanted(size=4 * PAGE), ram)
    assert memory.copy(BASE + 4 * PAGE - 1, 1) == b"\3"


async def test_what_is_no_memory_is_refused() -> None:
    memory = guest_memory()
    for fd in (*os.pipe(), os.eventfd(0), os.open("/", os.O_RDONLY), os.open("/dev/null", os.O_RDWR)):
        assert refusal(memory, wanted(), fd) in (errno.ENODEV, errno.EACCES, errno.EINVAL)
        os.close(fd)
    fd = os.open("/dev/zero", os.O_RDWR)
    assert refusal(memory, wanted(size=1 << 63), fd) in (errno.EINVAL, errno.ENOMEM)
    os.close(fd)


OVERLAPS = {
    "the same": (0x4000, 0x4000),
    "inside": (0x5000, 0x1000),
    "around": (0x3000, 0x6000),
    "its beginning": (0x3000, 0x2000),
    "its first page": (0x4000, 0x1000),
    "its end": (0x7000, 0x2000),
    "both neighbours": (0x1000, 0xC000),
    "the one behind": (0x8000, 0x3000),
    "everything": (0, 1 << 32),
}


@pytest.mark.parametrize("first", [True, False], ids=["mapped", "without descriptor"])
@pytest.mark.parametrize("second", [True, False], ids=["by a mapping", "by none"])
@pytest.mark.parametrize("name", OVERLAPS)
async def test_overlaps_are_refused(name: str, first: bool, second: bool) -> None:
    fd = os.open("/dev/zero", os.O_RDWR)  # of any size
    memory = guest_memory()
    memory.add(wanted(0xA000, 0x1000), fd)
    memory.add(wanted(0x4000, 0x4000), fd if first else None)
    memory.add(wanted(0x2000, 0x1000), fd if first else None)
    address, size = OVERLAPS[name]
    assert refusal(memory, wanted(address, size), fd if second else None) == errno.EEXIST
    for touching in ((0x3000, 0x1000), (0x8000, 0x2000)):
        memory.add(wanted(*touching), fd if second else None)
    assert len(memory.ranges) == 5
    os.close(fd)


async def test_there_is_room_for_so_many_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_DMA_MAPS", 3)
    memory = guest_memory()
    for number in range(3):
        memory.add(wanted(BASE + PAGE * number), None)
    assert refusal(memory, wanted(BASE + 3 * PAGE), None) == errno.ENOSPC
    memory.remove(BASE, nothing)
    memory.add(wanted(BASE + 3 * PAGE), None)


async def test_a_range_is_known_by_its_address_and_size(ram: int) -> None:
    memory = guest_memory()
    memory.add(wanted(size=2 * PAGE), ram)
    assert memory.holds(BASE, 2 * PAGE)
    assert not memory.holds(BASE, PAGE)
    assert not memory.holds(BASE + PAGE, PAGE)
    memory.remove(BASE, nothing)
    assert not memory.holds(BASE, 2 * PAGE)
    memory.add(wanted(size=PAGE), ram)  # the place is free again
    assert memory.holds(BASE, PAGE)


async def test_ranges_nobody_may_read_are_kept_and_not_lent(ram: int) -> None:
    memory = guest_memory()
    memory.add(wanted(readable=False), ram)
    memory.add(wanted(BASE + PAGE, readable=True, writable=False), None)
    for address in (BASE, BASE + PAGE):
        with pytest.raises(GuestError):
            memory.lease(address, 1, writable=False)
        memory.remove(address, nothing)
    assert memory.ranges == []
    assert memory.immediate


# Taking away


async def test_unmapping_waits_for_the_last_lease(ram: int) -> None:
    memory = guest_memory()
    memory.add(wanted(), ram)
    leases = [memory.lease(BASE + at, 10, writable=True) for at in (0, 50)]
    gone: list[str] = []
    memory.remove(BASE, lambda: gone.append("gone"))
    with pytest.raises(GuestError):
        memory.lease(BASE, 1, writable=False)
    leases[1].view[:] = b"still here"
    leases[1].release()
    assert gone == []
    assert memory.leases == 1
    leases[0].view[:] = b"still here"
    leases[0].release()
    assert gone == ["gone"]
    assert memory.leases == 0
    assert os.pread(ram, 10, 0) == os.pread(ram, 10, 50) == b"still here"
    memory.add(wanted(offset=PAGE), ram)
    memory.remove(BASE, lambda: gone.append("at once"))
    assert gone == ["gone", "at once"]


async def test_whoever_does_not_let_go_is_cut_off(ram: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.001)
    memory = guest_memory()
    memory.add(wanted(size=2 * PAGE), ram)
    with no_fds_lost():
        lease = memory.lease(BASE + PAGE, PAGE, writable=True)
        slice_of_it = lease.view[:10]
        gone = asyncio.Event()
        memory.remove(BASE, gone.set)
        assert not gone.is_set()
        memory.add(wanted(size=2 * PAGE), ram)  # the guest has a use for it again
        async with asyncio.timeout(LIMIT):
            await gone.wait()
        assert bytes(lease.view) == bytes(PAGE), "memory of our own"
        lease.view[:] = b"\xff" * PAGE
        slice_of_it[:] = b"\xee" * 10
        assert os.pread(ram, 4 * PAGE, 0) == b"".join(bytes([page]) * PAGE for page in range(4))
        gone.clear()
        lease.release()
        assert not gone.is_set(), "told once"
        assert memory.copy(BASE + PAGE, 4) == b"\1\1\1\1"
        slice_of_it[0] = 1  # its own memory, to the end
        del slice_of_it
        memory.remove(BASE, gone.set)
        assert gone.is_set()
        memory.add(wanted(), ram)
    memory.remove(BASE, nothing)


@pytest.mark.parametrize("writable", [False, True])
async def test_a_slice_that_outlives_its_mapping_shows_nothing_of_the_guest(writable: bool, ram: int) -> None:
    with no_fds_lost():
        mapping = Mapping(ram, PAGE, 2 * PAGE, writable=writable)
        left = mapping.view[10:20]
        assert bytes(left) == b"\1" * 10
        mapping.close()
        assert bytes(left) == bytes(10)
        os.pwrite(ram, b"a secret", PAGE + 10)
        assert bytes(left) == bytes(10)
        if writable:
            left[:] = b"\xff" * 10
        assert os.pread(ram, 10, PAGE + 10) == b"a secret\1\1"
        del mapping, left


async def test_a_mapping_is_cut_under_those_who_look_at_it(ram: int) -> None:
    mapping = Mapping(ram, 0, 4 * PAGE, writable=True)
    views = [mapping.view[PAGE * page : PAGE * page + PAGE] for page in range(4)]
    assert mapping.cut()
    assert mapping.cut(), "once more does no harm"
    for view in views:
        assert bytes(view) == bytes(PAGE)
        view[:] = b"\xaa" * PAGE
    assert os.pread(ram, 4 * PAGE, 0) == b"".join(bytes([page]) * PAGE for page in range(4))
    del views, view
    mapping.close()


async def test_mappings_and_descriptors_do_not_pile_up(ram: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0)
    memory = guest_memory()

    async def cycle() -> None:
        memory.add(wanted(size=3 * PAGE), ram)
        memory.add(wanted(BASE + 4 * PAGE, offset=PAGE, writable=False), ram)
        memory.add(wanted(BASE + 8 * PAGE), None)
        refusal(memory, wanted(BASE + PAGE), ram)
        held = memory.lease(BASE + PAGE, PAGE, writable=True)
        left = held.view[5:10]
        gone = asyncio.Event()
        for address, _ in memory.ranges:
            memory.remove(address, gone.set if address == BASE else nothing)
        async with asyncio.timeout(LIMIT):
            await gone.wait()
        held.release()
        assert bytes(left) == bytes(5)

    gc.collect()
    assert mappings() == 0
    with no_fds_lost():
        for _ in range(200):
            await cycle()
    assert mappings() == 0
    assert memory.ranges == []
    assert memory.leases == 0
