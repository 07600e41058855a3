"""Guest memory is taken from the vfio-user server while its device still uses it, and may be given to somebody else."""

import asyncio
import struct
import sys
from collections.abc import AsyncIterator

import attrs
import pytest
import pytest_asyncio
from vfio_user_bench import MachineOptions, Served, driven, no_fds_lost, served, succeed
from vfio_user_client import Command, Flag, pack
from vfio_user_machine import VfioUserMachine

from hdvkit import Chain, Queue
from hdvkit.testing import VirtioDriver
from hdvkit.testing.echo import Echo

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="vfio-user needs Linux")

LIMIT = 60.0
LATE = b"late"
PATTERN = b"\xa5"
SIZE = 8 << 20
VARIANTS: dict[str, MachineOptions] = {"mapped": {"size": SIZE}, "remote": {"size": SIZE, "no_fds": True}}


class Holds(Echo):
    """Keeps every chain until it is told to complete them."""

    def __init__(self) -> None:
        self.held: list[Chain] = []
        self.got = asyncio.Event()

    async def serve(self, queue: Queue) -> None:
        """Take chains and keep them."""
        async for chain in queue:
            self.held.append(chain)
            self.got.set()

    def complete(self) -> None:
        """Answer all, late."""
        for chain in self.held:
            with chain:
                chain.write(LATE)
        self.held.clear()


@attrs.define
class Case:
    """A driver with one request that the device holds on to."""

    device: Served
    holder: Holds
    machine: VfioUserMachine
    driver: VirtioDriver

    async def unmap_all(self) -> None:
        """Take every piece of memory, as a machine does that resets: the answers may come in any order."""
        async with asyncio.timeout(LIMIT):
            client = self.machine.slots[0].client
            await asyncio.gather(*(client.dma_unmap(piece.address, piece.size) for piece in self.machine.pieces))

    def scribble(self) -> None:
        """Everything in RAM is something else now."""
        for piece in self.machine.pieces:
            if piece.writable:
                self.machine.ram(piece.address, piece.size)[:] = PATTERN * piece.size

    def untouched(self) -> bool:
        """Whether nobody has written to RAM since."""
        return all(
            bytes(self.machine.ram(piece.address, piece.size)).count(PATTERN) == piece.size
            for piece in self.machine.pieces
            if piece.writable
        )


@pytest_asyncio.fixture(params=VARIANTS)
async def case(request: pytest.FixtureRequest) -> AsyncIterator[Case]:
    with no_fds_lost():
        holder = Holds()
        async with (
            served(holder) as device,
            VfioUserMachine(**VARIANTS[request.param]) as machine,
            driven(machine, device.path) as driver,
        ):
            driver.queues[0].post([b"ping"], [64])
            await driver.queues[0].kick(force=True)
            async with asyncio.timeout(LIMIT):
                await holder.got.wait()
            yield Case(device, holder, machine, driver)
            holder.complete()
        assert machine.faults == []


async def test_what_comes_late_reaches_nobody(case: Case) -> None:
    await case.unmap_all()
    case.scribble()
    case.holder.complete()
    assert (await case.machine.slots[0].client.get_info()).irqs == 5
    assert case.untouched()
    await case.machine.slots[0].map(case.machine.pieces)


async def test_memory_may_come_back_at_once(case: Case) -> None:
    client = case.machine.slots[0].client
    async with asyncio.timeout(LIMIT):
        gone = asyncio.ensure_future(case.unmap_all())
        await asyncio.sleep(0)  # the unmaps go out first
        back = asyncio.ensure_future(case.machine.slots[0].map(case.machine.pieces))
        await asyncio.gather(gone, back)
    case.scribble()
    case.holder.complete()
    assert (await client.get_info()).irqs == 5
    assert case.untouched()


async def test_others_are_answered_while_memory_is_in_use(case: Case) -> None:
    client = case.machine.slots[0].client
    gone = asyncio.ensure_future(case.unmap_all())
    async with asyncio.timeout(LIMIT):
        assert await client.region_read(0, 0x14, 1) != b"\0"
        await gone


async def test_completing_lets_memory_go(case: Case) -> None:
    gone = asyncio.ensure_future(case.unmap_all())
    for _ in range(3):
        await asyncio.sleep(0)  # the server's turn
    case.holder.complete()
    async with asyncio.timeout(LIMIT):
        await gone
    assert case.device.function.stats().leases == 0


async def test_a_machine_that_leaves_keeps_no_other_from_coming(case: Case) -> None:
    case.machine.pull(0)
    async with asyncio.timeout(LIMIT), VfioUserMachine(size=SIZE) as machine:
        await succeed(machine, case.device.path)
        case.holder.complete()
        assert (await machine.slots[0].client.get_info()).irqs == 5
        assert case.device.function.stats().leases == 0
        assert not any(machine.ram(piece.address, piece.size).tobytes().strip(b"\0") for piece in machine.pieces[:-1])


async def test_a_reset_waits_for_what_is_in_use(case: Case) -> None:
    """The driver may use its memory again as soon as status reads 0, and not before."""
    await case.driver.common_write("device_status", 0)
    assert await case.driver.status() != 0
    case.scribble()
    case.holder.complete()
    async with asyncio.timeout(LIMIT):
        while await case.driver.status():
            continue
    case.scribble()
    for _ in range(100):
        assert await case.driver.status() == 0
    assert case.untouched()


async def test_unmapping_without_a_reply(case: Case) -> None:
    client = case.machine.slots[0].client
    payload = struct.pack("<IIQQ", 24, 2, 0, 0)
    client.send_raw(pack(1, Command.DMA_UNMAP, payload, flags=Flag.NO_REPLY) + pack(2, Command.DMA_UNMAP, payload))
    reply = await client.receive_raw()
    assert (reply.id, reply.payload) == (2, payload)
    client.mapped.clear()
    await case.machine.slots[0].map(case.machine.pieces)
