"""INTERRUPT end to end over rings: requests that wait, one and many."""

import asyncio
import errno
from collections.abc import Callable

import pytest
from hdvkit_virtiofs import Attributes, Context, FuseError
from hdvkit_virtiofs.fuse import Changes, FileLock
from recorder import LINUX_7_3, Controls, Recorder, driven, opened, served

from hdvkit.testing.fuse_client import FuseClient
from hdvkit.testing.fuse_messages import (
    F_WRLCK,
)
from hdvkit.testing.guest import Guest
from hdvkit.testing.hostile_fuse import ATTACKS, answer_of
from hdvkit.testing.hostile_fuse_guest import HostileGuest

Ask = Callable[[FuseClient, int, int], tuple[int, asyncio.Task[bytes]]]

WAITING: dict[str, Ask] = {
    "setlk": lambda client, node, fh: client.start_setlkw(node, fh, 7, F_WRLCK),
    "read": lambda client, node, fh: client.start_call(
        15, node, fh.to_bytes(8, "little") + bytes(8) + (10).to_bytes(4, "little") + bytes(20), read_size=10
    ),
    "fsync": lambda client, node, fh: client.start_call(20, node, fh.to_bytes(8, "little") + bytes(8)),
    "lookup": lambda client, node, fh: client.start_call(1, 1, b"g\0", reply_size=128),
    "mkdir": lambda client, node, fh: client.start_call(9, 1, bytes(8) + b"d\0", reply_size=128),
    "ioctl": lambda client, node, fh: client.start_call(39, node, fh.to_bytes(8, "little") + bytes(24), reply_size=16),
}


@pytest.mark.parametrize("name", WAITING)
async def test_any_request_that_waits_can_be_interrupted(name: str) -> None:
    files = Controls()
    async with served(files) as client:
        nodeid, fh = await opened(client)
        files.waiting = (name,)
        unique, waiting = WAITING[name](client, nodeid, fh)
        await files.begun.wait()
        await client.interrupt(unique)
        with pytest.raises(InterruptedError):
            await waiting
        assert files.cancelled == [name]
        await client.interrupt(unique)  # it is over
        await client.getattr(nodeid)


async def test_what_nobody_waits_for_can_be_interrupted_without_harm() -> None:
    files = Recorder("setlk")
    async with served(files) as client:
        nodeid, fh = await opened(client)
        _, waiting = client.start_setlkw(nodeid, fh, 7, F_WRLCK)
        await files.begun.wait()
        for unique in (0, 1, 12345, (1 << 64) - 1):
            await client.interrupt(unique)
        await client.getattr(nodeid)
        assert not waiting.done()
        files.go.set()
        await waiting


async def test_a_ring_full_of_waiting_locks_hurts_no_other_share_and_goes_with_a_reset() -> None:
    files, other = Recorder("setlk"), Recorder()
    async with driven(files, queue_size=64) as (host, share, driver):
        hiprio, *requests = driver.queues
        client = FuseClient(requests, hiprio, minor=46, flags=LINUX_7_3)
        await client.init()
        nodeid, fh = await opened(client)
        waiting = [client.start_setlkw(nodeid, fh, owner, F_WRLCK) for owner in range(100)]
        await files.begun.wait()
        neighbour = await host.add("virtiofs", source=other, tag="other")
        async with Guest.of(host).mount(neighbour) as mount:
            await mount.client.getattr(1)
        await client.interrupt(waiting[0][0])
        with pytest.raises(InterruptedError):
            await waiting[0][1]
        asked = sum(entry[0] == "setlk" for entry in files.log)
        await driver.reset()
        assert len(files.cancelled) == asked
        assert all(queue.in_flight == 0 for queue in share.stats().queues)
        assert files.log[-1] == ("release", "handle of f")
        for _, task in waiting:
            task.cancel()
        await asyncio.gather(*(task for _, task in waiting), return_exceptions=True)


async def test_as_many_locks_as_a_guest_waits_for_are_given_up_when_it_says_so() -> None:
    class Held(Recorder):
        """Whoever waits, waits."""

        async def setlk(self, node: str, handle: str, lock: FileLock, wait: bool, context: Context) -> None:
            self.waiting = ("setlk",) if wait else ()
            await super().setlk(node, handle, lock, wait, context)

        async def setattr(self, node: str, changes: Changes, handle: str | None, context: Context) -> Attributes:
            raise FuseError(errno.EPERM)

    (flood,) = (row for row in ATTACKS if row.name == "F30-lock-flood")
    files = Held()
    async with driven(files) as (_, _, driver):
        hiprio, requests = driver.queues
        client = FuseClient(requests, hiprio, flags=LINUX_7_3, minor=46)
        await client.init()
        assert await answer_of(flood, HostileGuest(client, requests, hiprio)) == flood.answer
        waited = [entry for entry in files.log if entry[0] == "setlk" and entry[3]]
        assert len(waited) == len(files.cancelled) > 100
