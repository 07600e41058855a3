"""Guest memory without a descriptor: what is asked of the client, and buffers that are fetched and sent."""

import asyncio
import errno
import itertools
import os
import sys
from collections.abc import Callable

import pytest
from hdvkit_vfio_user import remote as module
from hdvkit_vfio_user.memory import GuestMemory
from hdvkit_vfio_user.protocol import DmaMap
from hdvkit_vfio_user.remote import RemoteMemory
from vfio_user_bench import driven, served
from vfio_user_client import Command, Message
from vfio_user_guest import BASE, READ, SIZE, WRITE, Asked, Guest
from vfio_user_machine import VfioUserMachine

from hdvkit import Chain, GuestError, HostError, Queue
from hdvkit.memory import MemoryBusy
from hdvkit.testing.echo import Echo

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="vfio-user needs Linux")

LIMIT = 30.0
PAGE = 4096


@pytest.fixture
async def guest() -> Guest:
    return Guest()


async def until(true: Callable[[], object]) -> None:
    """Let the loop turn until something is so."""
    async with asyncio.timeout(LIMIT):
        for _ in itertools.count():
            if true():
                return
            await asyncio.sleep(0)


async def arrival(memory: GuestMemory | RemoteMemory) -> GuestError | None:
    """Wait for what is on its way; gives the reason why it never comes."""
    told: asyncio.Future[GuestError | None] = asyncio.get_running_loop().create_future()
    if memory.settled(told.set_result):
        return None
    async with asyncio.timeout(LIMIT):
        return await told


# Transfers


async def test_reads_and_writes_are_futures_in_order(guest: Guest) -> None:
    guest.ram[:5] = b"hello"
    reading = guest.transfers.read(BASE, 5)
    writing = guest.transfers.write(BASE, b"world")
    again = guest.transfers.read(BASE, 5)
    async with asyncio.timeout(LIMIT):
        assert (await reading, await writing, await again) == (b"hello", b"", b"world")
    assert [one.command for one in guest.asked] == [READ, WRITE, READ]


async def test_long_transfers_are_cut_to_what_the_client_takes() -> None:
    guest = Guest(max_transfer=PAGE)
    data = guest.ram[: 3 * PAGE] = os.urandom(3 * PAGE)
    assert await guest.transfers.read(BASE, 3 * PAGE) == data
    await guest.transfers.write(BASE + 500, data[: 2 * PAGE + 1])
    assert [(one.address - BASE, one.count) for one in guest.asked] == [
        *((0, PAGE), (PAGE, PAGE), (2 * PAGE, PAGE)),
        *((500, PAGE), (500 + PAGE, PAGE), (500 + 2 * PAGE, 1)),
    ]
    assert guest.ram[500 : 501 + 2 * PAGE] == data[: 2 * PAGE + 1]
    guest.bad.add(BASE + PAGE + 5)
    with pytest.raises(HostError, match="refused: No such device") as raised:
        await guest.transfers.read(BASE, 3 * PAGE)
    assert raised.value.errno == errno.ENODEV
    await guest.calm()


async def test_a_transfer_that_fails_is_the_callers_business_only(guest: Guest) -> None:
    with pytest.raises(HostError, match="the machine refused"):
        await guest.transfers.read(BASE + SIZE, 1)
    guest.transfers.write(BASE + SIZE, b"x")  # nobody waits, nobody complains
    await guest.calm()


async def test_when_the_client_goes_nobody_waits_any_more() -> None:
    guest = Guest(max_transfer=PAGE)
    guest.held = True
    short, long = guest.transfers.read(BASE, 10), guest.transfers.read(BASE, 3 * PAGE)
    await guest.calm()
    guest.leave()
    for reading in (short, long):
        async with asyncio.timeout(LIMIT):
            with pytest.raises(asyncio.CancelledError):
                await reading
    guest.answer()  # too late: harmless


# Buffers


async def test_a_readable_buffer_is_filled_before_it_counts_as_settled(guest: Guest) -> None:
    guest.held = True
    guest.ram[100:105] = b"first"
    guest.ram[200:206] = b"second"
    first = guest.remote.lease(BASE + 100, 5, writable=False)
    second = guest.remote.lease(BASE + 200, 6, writable=False)
    told: list[GuestError | None] = []
    assert not guest.remote.settled(told.append)
    await guest.calm()
    guest.answer(1)
    await guest.calm()
    assert told == []
    assert not guest.remote.settled(told.append)
    guest.answer()
    await guest.calm()
    assert told == [None, None]
    assert guest.remote.settled(told.append)
    assert (bytes(first.view), bytes(second.view)) == (b"first", b"second")
    assert guest.remote.leases == 2
    first.release()
    second.release()
    assert guest.remote.leases == 0
    await guest.calm()
    assert guest.writes == []


async def test_a_writable_buffer_is_sent_when_it_is_given_back(guest: Guest) -> None:
    lease = guest.remote.lease(BASE + 10, 8, writable=True)
    assert guest.remote.settled(lambda _: None)
    lease.view[:] = b"answered"
    await guest.calm()
    assert guest.asked == []
    lease.release()
    await guest.calm()
    assert guest.asked == [Asked(WRITE, BASE + 10, 8, b"answered")]
    assert guest.ram[10:18] == b"answered"


async def test_a_buffer_that_cannot_be_read_is_told_with_its_reason(guest: Guest) -> None:
    guest.bad.add(BASE + 100)
    leases = [guest.remote.lease(BASE + at, 10, writable=False) for at in (0, 95, 200)]
    problem = await arrival(guest.remote)
    assert str(problem) == "10 bytes at 0x4000005f cannot be read: [Errno 19] the machine refused: No such device"
    leases.append(guest.remote.lease(BASE, 10, writable=False))
    assert await arrival(guest.remote) is None, "that was told already"
    for lease in leases:
        lease.release()
    assert guest.remote.leases == 0


async def test_a_client_that_goes_takes_its_buffers_along(guest: Guest) -> None:
    guest.held = True
    lease = guest.remote.lease(BASE, 10, writable=False)
    told: list[GuestError | None] = []
    guest.remote.settled(told.append)
    await guest.calm()
    guest.leave()
    await guest.calm()
    assert [str(one) for one in told] == ["the machine went away"]
    lease.release()


async def test_a_buffer_given_back_before_it_arrived_harms_nobody(guest: Guest) -> None:
    guest.remote.lease(BASE, 10, writable=False).release()
    assert await arrival(guest.remote) is None
    assert guest.remote.leases == 0


async def test_only_so_much_is_out_at_once(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BUDGET", 100)
    big = guest.remote.lease(BASE, 1000, writable=True)  # alone it may be larger
    with pytest.raises(MemoryBusy, match="1000 bytes of guest memory are on loan already, 100 may be"):
        guest.remote.lease(BASE, 1, writable=False)
    big.release()
    with pytest.raises(MemoryBusy):  # on its way to the guest still
        guest.remote.lease(BASE, 1, writable=False)
    await guest.calm()
    half = [guest.remote.lease(BASE, 50, writable=True) for _ in range(2)]
    for writable in (True, False):
        with pytest.raises(MemoryBusy):
            guest.remote.lease(BASE, 1, writable=writable)
    assert guest.remote.leases == 2
    half[0].release()
    await guest.calm()
    half.append(guest.remote.lease(BASE, 50, writable=False))
    assert await arrival(guest.remote) is None
    for lease in half:
        lease.release()
    assert guest.remote.leases == 0


async def test_a_table_is_fetched_each_time_it_is_copied(guest: Guest) -> None:
    for content in (b"once", b"more"):
        guest.ram[64:68] = content
        with pytest.raises(MemoryBusy, match="4 bytes at 0x40000040 are on their way"):
            guest.remote.copy(BASE + 64, 4)
        assert await arrival(guest.remote) is None
        assert guest.remote.copy(BASE + 64, 4) == content
    guest.bad.add(BASE + 64)
    with pytest.raises(MemoryBusy):
        guest.remote.copy(BASE + 64, 4)
    assert isinstance(await arrival(guest.remote), GuestError)


async def test_what_was_taken_away_is_written_no_more() -> None:
    """The guest may have given that memory to somebody else."""
    guest = Guest()
    memory = GuestMemory(guest.remote)
    memory.add(DmaMap(BASE, SIZE, 0, True, True), None)
    assert memory.immediate, "nobody has used it yet"
    lease = memory.lease(BASE + 10, 6, writable=True)
    assert not memory.immediate
    lease.view[:] = b"answer"
    asked_before: list[int] = []
    memory.remove(BASE, lambda: asked_before.append(len(guest.asked)))  # the client is told then
    await guest.calm()
    lease.release()
    await guest.calm()
    assert len(asked_before) == 1
    assert guest.asked[asked_before[0] :] == []


async def test_ranges_with_and_without_descriptors_side_by_side() -> None:
    guest = Guest()
    memory = GuestMemory(guest.remote)
    memory.add(DmaMap(BASE, 0x1000, 0, True, True), None)
    memory.add(DmaMap(BASE + 0x1000, 0x1000, 0, True, False), None)  # a ROM: nobody lends it out
    guest.ram[:4] = b"ring"
    with memory.lease(BASE, 4, writable=False) as view:
        assert await arrival(memory) is None
        assert bytes(view) == b"ring"
        assert memory.leases == 1
    for address, size in ((BASE - 1, 4), (BASE + 0xFFE, 4), (BASE + 0x1000, 4), (BASE + 0x2000, 4), (BASE, 0)):
        with pytest.raises(GuestError):
            memory.lease(address, size, writable=False)
        with pytest.raises(GuestError):
            memory.copy(address, size)
    memory.remove(BASE, lambda: None)
    with pytest.raises(GuestError):
        memory.lease(BASE, 4, writable=False)
    assert memory.leases == 0


class Keeping(Echo):
    """Keeps chains until it is let go."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.chains = 0

    async def serve(self, queue: Queue) -> None:
        """Answer late."""
        await queue.each(self.answer)

    async def answer(self, chain: Chain) -> None:
        """Wait, then echo."""
        self.chains += 1
        await self.go.wait()
        chain.write(chain.read())


async def test_a_chain_there_is_no_room_for_waits_without_being_fetched_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BUDGET", 10_000)
    device = Keeping()
    async with (
        asyncio.timeout(LIMIT),
        served(device) as on_host,
        VfioUserMachine(no_fds=True) as machine,
        driven(machine, on_host.path) as driver,
    ):
        client = machine.slots[0].client
        fetched: list[int] = []

        async def noting(message: Message) -> bytes:
            if message.command == Command.DMA_READ:
                fetched.append(int.from_bytes(message.payload[8:16], "little"))
            return client.answer(message)

        client.hook = noting
        first = asyncio.create_task(driver.queues[0].submit([b"first" * 1000], [1000]))
        await until(lambda: device.chains)
        second = asyncio.create_task(driver.queues[0].submit([b"second"], [6000]))
        await until(lambda: 6 in fetched)
        for _ in range(100):
            await machine.config_read(0, 0, 4)
        device.go.set()
        assert (await first).data == b"first" * 200
        assert (await second).data == b"second"
        assert fetched.count(6) < 5
