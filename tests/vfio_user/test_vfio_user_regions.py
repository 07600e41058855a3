"""Accesses to regions over vfio-user: cut into pieces that a function takes, and kicks by eventfd instead of writes."""

import asyncio
import errno
import os
import struct
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import pairwise

import pytest
from hdvkit_vfio_user import regions
from hdvkit_vfio_user.kicks import Kicks
from hdvkit_vfio_user.protocol import Refused
from hypothesis import given
from hypothesis import strategies as st
from vfio_user_bench import no_fds_lost, served
from vfio_user_client import Client

from hdvkit import Function
from hdvkit.runtime import CONFIG, Doorbell

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="vfio-user needs Linux")

CONFIG_REGION = 7
CONFIG_SIZE = 256
REGISTERS, MSIX_BAR = 0, 2
NOTIFY, STEP = 0x3000, 4

Access = tuple[int, int, int]
"""Space, offset and size."""


@contextmanager
def watched(function: Function) -> Iterator[list[Access]]:
    """What reaches a function meanwhile."""
    seen: list[Access] = []
    read, write = function.read, function.write

    def reading(space: int, offset: int, size: int) -> bytes:
        seen.append((space, offset, size))
        return read(space, offset, size)

    def writing(space: int, offset: int, data: bytes) -> None:
        seen.append((space, offset, len(data)))
        write(space, offset, data)

    function.read, function.write = reading, writing  # type: ignore[method-assign]  # watched
    try:
        yield seen
    finally:
        function.read, function.write = read, write  # type: ignore[method-assign]  # as they were


def refusal(call: Callable[[], object]) -> int:
    try:
        call()
    except Refused as refused:
        return refused.errno
    return 0


def check_pieces(seen: list[Access], space: int, offset: int, size: int) -> None:
    """They cover the access in order, each naturally aligned, none wider than allowed, none narrower than needed."""
    widest = 4 if space == CONFIG else 8
    assert [one[0] for one in seen] == [space] * len(seen)
    assert seen[0][1] == offset
    assert seen[-1][1] + seen[-1][2] == offset + size
    for _, at, length in seen:
        assert length in (1, 2, 4, 8)
        assert length <= widest
        assert at % length == 0
    for (_, at, length), (_, after, following) in pairwise(seen):
        assert at + length == after
        assert not (length == following < widest and at % (2 * length) == 0), "two that could be one"


LENGTHS = st.integers(1, regions.MOST)


async def test_every_access_is_cut_into_pieces_that_fit() -> None:
    async with served() as device:
        function = device.function
        sizes = {CONFIG_REGION: CONFIG_SIZE, **{index: bar.size for index, bar in function.bars.items()}}
        assert set(sizes) == {REGISTERS, MSIX_BAR, CONFIG_REGION}

        @given(
            st.sampled_from(sorted(sizes)).flatmap(
                lambda region: st.tuples(st.just(region), st.integers(0, sizes[region] - 1), LENGTHS)
            ),
            st.booleans(),
        )
        def check(place: tuple[int, int, int], writing: bool) -> None:
            region, offset, size = place
            size = min(size, sizes[region] - offset)
            with watched(function) as seen:
                if writing:
                    regions.write(function, region, offset, bytes(size))
                else:
                    assert len(regions.read(function, region, offset, size)) == size
            check_pieces(seen, CONFIG if region == CONFIG_REGION else region, offset, size)
            function.reset()

        check()


@pytest.mark.parametrize("region", [REGISTERS, MSIX_BAR])
async def test_one_access_does_not_keep_others_waiting(region: int) -> None:
    async with served() as device:
        for call in (
            lambda: regions.read(device.function, region, 0, regions.MOST + 1),
            lambda: regions.write(device.function, region, 0, bytes(regions.MOST + 1)),
        ):
            assert refusal(call) == errno.EINVAL


async def test_bytes_arrive_in_their_places() -> None:
    async with served() as device:
        function = device.function
        whole = regions.read(function, CONFIG_REGION, 0, CONFIG_SIZE)
        assert whole == b"".join(function.read(CONFIG, at, 1) for at in range(CONFIG_SIZE))
        assert regions.read(function, CONFIG_REGION, 1, 6) == whole[1:7]
        data = bytes(range(1, 21))
        regions.write(function, CONFIG_REGION, 0x31, data[:12])
        assert function.read(CONFIG, 0x3C, 1) == data[11:12], "the interrupt line is all that takes it"
        regions.write(function, MSIX_BAR, 4, data)
        assert function.read(MSIX_BAR, 4, 4) + function.read(MSIX_BAR, 8, 4) == data[:8]
        assert regions.read(function, MSIX_BAR, 4, 20) == data


@pytest.mark.parametrize("region", [*range(9), 9, 1 << 31, (1 << 32) - 1])
async def test_what_lies_outside_is_refused_and_reaches_nobody(region: int) -> None:
    async with served() as device:
        function = device.function
        size = regions.size(function, region)
        assert bool(size) == (region in (REGISTERS, MSIX_BAR, CONFIG_REGION))
        offsets = [0, 1, size - 1, size, size + 1, 1 << 32, (1 << 64) - 1]
        with watched(function) as seen:
            for offset in (one for one in offsets if one >= 0):
                for count in (0, max(size - offset, 0) + 1, max(size - offset, 0) + 4096):
                    assert refusal(lambda: regions.read(function, region, offset, count)) == errno.EINVAL  # noqa: B023
                    data = bytes(count)
                    assert refusal(lambda: regions.write(function, region, offset, data)) == errno.EINVAL  # noqa: B023
        assert seen == []


# Kicks


@asynccontextmanager
async def kicking() -> AsyncIterator[tuple[list[Doorbell], set[Doorbell], Kicks]]:
    """The doorbells of a function, which of them are served, and their eventfds."""
    async with served() as device:
        bells = list(device.function.doorbells)
        served_ones: set[Doorbell] = set()
        kicks = Kicks(bells, served_ones, lambda: None)
        try:
            yield bells, served_ones, kicks
        finally:
            kicks.close()


async def turn() -> None:
    """Let the loop look at its descriptors."""
    for _ in range(3):
        await asyncio.sleep(0)


async def test_an_eventfd_rings_its_doorbell_only_while_it_is_served() -> None:
    with no_fds_lost():
        async with kicking() as (bells, served_ones, kicks):
            assert not kicks.told
            parts, fds = kicks.describe(REGISTERS)
            assert kicks.told
            assert len(parts) == len(fds) == len(bells) == 2
            for number, (part, bell) in enumerate(zip(parts, bells, strict=True)):
                entry = struct.unpack("<QQIIIIQ", part)
                assert entry == (NOTIFY + STEP * number, 2, number, 0, 0, 0, 0)
                assert bell.offset == entry[0]
            os.eventfd_write(fds[0], 1)
            os.eventfd_write(fds[1], 1)
            await turn()
            assert [bell.kicks for bell in bells] == [0, 0], "nobody serves them"
            served_ones.add(bells[1])
            for times in (1, 2):
                os.eventfd_write(fds[0], 1)
                os.eventfd_write(fds[1], times)
                await turn()
                assert [bell.kicks for bell in bells] == [0, times]
            served_ones.clear()
            os.eventfd_write(fds[1], 1)
            await turn()
            assert [bell.kicks for bell in bells] == [0, 2]


async def test_the_same_eventfds_are_described_again() -> None:
    async with kicking() as (_, _, kicks):
        assert kicks.describe(MSIX_BAR) == kicks.describe(1) == ([], ())
        assert not kicks.told
        assert kicks.describe(REGISTERS) == kicks.describe(REGISTERS)
        assert kicks.describe(MSIX_BAR) == ([], ())
        _, fds = kicks.describe(REGISTERS)
        kicks.close()
        assert not kicks.told
        for fd in fds:
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(fd)


async def test_all_that_are_served_can_be_rung_at_once() -> None:
    async with kicking() as (bells, served_ones, kicks):
        kicks.ring_all()
        served_ones.add(bells[0])
        kicks.ring_all()
        served_ones.add(bells[1])
        kicks.ring_all()
        assert [bell.kicks for bell in bells] == [2, 1]


# Without MSI-X

STATUS, CAPABILITIES, PIN = 0x06, 0x34, 0x3D
MSIX_CAPABILITY = 0x11
CONFIG_VECTOR, QUEUE_SELECT, QUEUE_VECTOR = 0x10, 0x16, 0x1A


@pytest.mark.parametrize("msix", [True, False])
async def test_a_function_with_and_without_msix(msix: bool) -> None:
    async with served(msix=msix) as device, await Client.connect(device.path) as client:
        await client.negotiate()
        assert device.function.vectors == (3 if msix else 0)
        config = await client.region_read(CONFIG_REGION, 0, CONFIG_SIZE)
        assert config[STATUS] & 0x10
        found = []
        at = config[CAPABILITIES]
        while at:
            found.append(config[at])
            at = config[at + 1]
        assert found.count(MSIX_CAPABILITY) == msix
        assert found.count(0x09) == 5
        assert config[PIN] == 1
        assert bool(int.from_bytes(config[0x18:0x1C], "little")) == msix, "BAR 2"
        sizes = [(await client.get_region_info(index)).size for index in range(9)]
        assert [index for index, size in enumerate(sizes) if size] == ([0, 2, 7] if msix else [0, 7])
        counts = [(await client.get_irq_info(index)).count for index in range(5)]
        assert counts == [1, 0, 3 if msix else 0, 0, 0]
        await client.region_write(REGISTERS, QUEUE_SELECT, b"\1\0")
        for register in (QUEUE_VECTOR, CONFIG_VECTOR):
            await client.region_write(REGISTERS, register, b"\1\0")
            assert await client.region_read(REGISTERS, register, 2) == (b"\1\0" if msix else b"\xff\xff")
