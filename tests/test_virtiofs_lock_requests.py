"""GETLK, SETLK and SETLKW end to end over rings, and what closing a file means to locks."""

import errno
from typing import Any

import pytest
from hdvkit_virtiofs import Context, Entry, FuseError
from hdvkit_virtiofs.fuse import FileLock
from recorder import LINUX_7_3, NOTHING, Recorder, driven, opened, served

from hdvkit.testing.fuse_client import FuseClient
from hdvkit.testing.fuse_locks import LkOut
from hdvkit.testing.fuse_messages import (
    F_RDLCK,
    F_UNLCK,
    F_WRLCK,
    LAST_BYTE,
    RELEASE_FLOCK_UNLOCK,
    Open,
)
from hdvkit.testing.mount import GuestMount

GIVEN_UP = ("setlk", "f", FileLock(7, F_UNLCK), False)


async def test_locks_reach_the_file_system_as_they_were_asked_for() -> None:
    files = Recorder()
    async with served(files) as client:
        nodeid, fh = await opened(client.as_user(1000, 100, pid=55))
        user = client.as_user(1000, 100, pid=55)
        assert await user.getlk(nodeid, fh, 7, F_WRLCK, 3, 9) == LkOut(5, 6, F_RDLCK, 42)
        assert files.log[-1] == ("getlk", "f", FileLock(7, F_WRLCK, 3, 9, 55))
        assert files.context == Context(1000, 100, 55)
        assert await user.getlk(nodeid, fh, 7, F_RDLCK) is None
        await user.setlk(nodeid, fh, 7, F_RDLCK, 3, 3)
        assert files.log[-1] == ("setlk", "f", FileLock(7, F_RDLCK, 3, 3, 55), False)
        await user.setlk(nodeid, fh, 7, F_WRLCK, flock=True, wait=True)
        assert files.log[-1] == ("setlk", "f", FileLock(7, F_WRLCK, 0, LAST_BYTE, 55, True), True)
        files.refuses["setlk"] = errno.EAGAIN
        with pytest.raises(BlockingIOError):
            await user.setlk(nodeid, fh, 7, F_WRLCK)


@pytest.mark.parametrize(
    ("kind", "start", "end"),
    [(3, 0, 1), (255, 0, 1), (F_RDLCK, 1, 0), (F_WRLCK, 0, 1 << 63), (F_UNLCK, (1 << 64) - 1, (1 << 64) - 1)],
)
async def test_a_lock_that_makes_no_sense_is_asked_of_nobody(kind: int, start: int, end: int) -> None:
    files = Recorder()
    async with served(files) as client:
        nodeid, fh = await opened(client)
        for ask in (client.getlk(nodeid, fh, 7, kind, start, end), client.setlk(nodeid, fh, 7, kind, start, end)):
            with pytest.raises(OSError, match="Invalid"):
                await ask
        with pytest.raises(OSError, match="Bad file"):
            await client.setlk(nodeid, fh + 1, 7, F_RDLCK)
    assert {entry[0] for entry in files.log} == {"lookup", "open", "release"}


async def test_a_lock_that_waits_is_had_once_it_is_free() -> None:
    files = Recorder("setlk")
    async with served(files) as client:
        nodeid, fh = await opened(client)
        _, waiting = client.start_setlkw(nodeid, fh, 7, F_WRLCK)
        await files.begun.wait()
        await client.getattr(1)
        assert not waiting.done()
        files.go.set()
        assert await waiting == b""
    assert files.cancelled == []


# What closing means to locks


async def test_closing_gives_up_the_locks_of_a_process() -> None:
    files = Recorder()
    async with served(files) as client:
        nodeid, fh = await opened(client)
        del files.log[:]
        await client.flush(nodeid, fh, lock_owner=7)
        assert files.log == [GIVEN_UP, ("flush", "f")]
        files.lacks = ("flush",)
        await client.flush(nodeid, fh, lock_owner=7)
        assert files.log[-1] == GIVEN_UP
        files.refuses["setlk"] = errno.EIO
        with pytest.raises(OSError, match="Input/output"):
            await client.flush(nodeid, fh, lock_owner=7)


async def test_a_file_system_without_locks_is_not_asked_on_close_and_may_lack_flush() -> None:
    files = Recorder(lacks=("flush",))
    async with served(files, NOTHING) as client:
        nodeid, fh = await opened(client)
        del files.log[:]
        with pytest.raises(OSError, match="not implemented"):
            await client.flush(nodeid, fh, lock_owner=7)
        await client.release(nodeid, fh, release_flags=RELEASE_FLOCK_UNLOCK, lock_owner=7)
        assert files.log == [("release", "handle of f")]


async def test_the_locks_of_an_open_file_go_with_it() -> None:
    files = Recorder()
    async with served(files) as client:
        nodeid, fh = await opened(client)
        del files.log[:]
        await client.release(nodeid, fh, release_flags=RELEASE_FLOCK_UNLOCK, lock_owner=7)
        unlock = ("setlk", "f", FileLock(7, F_UNLCK, flock=True), False)
        assert files.log == [unlock, ("release", "handle of f")]
        again = (await client.open(nodeid, Open.RDWR)).fh
        await client.release(nodeid, again, lock_owner=7)
        assert files.log.count(unlock) == 1


async def test_a_program_locks_and_closes() -> None:
    """The same as a program in the guest sees it."""
    files = Recorder()
    async with driven(files) as (_, _, driver):
        hiprio, *requests = driver.queues
        async with GuestMount(FuseClient(requests, hiprio, minor=46, flags=LINUX_7_3)) as mount:
            async with await mount.open("f", "r+") as file:
                await file.lock(F_RDLCK, start=4, length=2, owner=7)
                assert files.log[-1] == ("setlk", "f", FileLock(7, F_RDLCK, 4, 5, 1), False)
                await file.lock(wait=True)
                kind, _, lock, wait = files.log[-1]
                assert (kind, lock.type, lock.end, wait) == ("setlk", F_WRLCK, LAST_BYTE, True)
                assert await file.locked() == LkOut(5, 6, F_RDLCK, 42)
                await file.flock(wait=True)
                files.refuses["setlk"] = errno.EAGAIN
                with pytest.raises(BlockingIOError, match="f"):
                    await file.lock()
                del files.refuses["setlk"]
                del files.log[:]
            assert [entry[0] for entry in files.log] == ["setlk", "flush", "setlk", "release"]
            owners = {entry[2].owner for entry in files.log if entry[0] == "setlk"}
            assert owners == {lock.owner}
            async with await mount.tmpfile() as file:
                await file.write(b"data")
                files.refuses["lookup"] = errno.ENOENT
                await mount.link_file(file, "there")
            assert ("link", "nameless", "/", b"there") in files.log


async def test_a_program_hears_that_a_device_keeps_no_locks() -> None:
    class Plain(Recorder):
        async def tmpfile(self, *arguments: Any) -> Any:
            raise FuseError(errno.ENOSYS)

        async def lookup(self, parent: str, name: bytes, context: Context) -> Entry[str]:
            return self._entry("f")

    async with driven(Plain(), NOTHING) as (_, _, driver):
        hiprio, *requests = driver.queues
        async with GuestMount(FuseClient(requests, hiprio)) as mount:
            async with await mount.open("f") as file:
                for ask in (file.lock(), file.locked(), file.flock()):
                    with pytest.raises(OSError, match="no such locks"):
                        await ask
            for _ in range(2):
                with pytest.raises(OSError, match="not supported"):
                    await mount.tmpfile()
            assert mount.requests["TMPFILE"] == 1
