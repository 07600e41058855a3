"""Requests end to end, over rings: what reaches a file system of locks, controls, nameless files and extensions."""
# ruff: noqa: D102 - what the methods of a file system do is said in its base

import asyncio
import errno
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hdvkit_virtiofs import Attributes, Context, Entry, FuseError, Opened, Operations
from hdvkit_virtiofs.fuse import Changes, FileLock, InitFlag, Session
from hdvkit_virtiofs.server import FORGETS_AT_ONCE

import hdvkit
from hdvkit.testing.driver import VirtioDriver
from hdvkit.testing.fuse_client import FuseClient
from hdvkit.testing.fuse_locks import LkOut
from hdvkit.testing.fuse_messages import (
    F_RDLCK,
    F_UNLCK,
    F_WRLCK,
    IOCTL_DIR,
    LAST_BYTE,
    RELEASE_FLOCK_UNLOCK,
    Init,
    Open,
)
from hdvkit.testing.guest import Guest
from hdvkit.testing.hostile_fuse import ATTACKS, HostileFuse, answer_of
from hdvkit.testing.hostile_fuse_guest import HostileGuest
from hdvkit.testing.mount import GuestMount

LIMIT = 30.0
"""Seconds after which something counts as a hang; nothing is timed against it."""

LOCKS = InitFlag.POSIX_LOCKS | InitFlag.FLOCK_LOCKS
EXTENSIONS = InitFlag.SECURITY_CTX | InitFlag.CREATE_SUPP_GROUP
NOTHING = InitFlag(0)
LINUX_7_3 = 0x7BFF_FFFB | 0x5FF << 32

SECURITY = ((b"security.selinux", b"system_u:object_r:tmp_t:s0\0"), (b"security.SMACK64", b"_"))
GIVEN_UP = ("setlk", "f", FileLock(7, F_UNLCK), False)


class Recorder(Operations[str, str]):
    """Writes down what it is asked. The methods in ``waiting`` wait until ``go`` is set or they are cancelled."""

    root = "/"

    def __init__(self, *waiting: str, lacks: Sequence[str] = ()) -> None:
        self.log: list[tuple[Any, ...]] = []
        self.context = Context()
        self.waiting = waiting
        self.lacks = lacks
        self.begun = asyncio.Event()
        self.go = asyncio.Event()
        self.cancelled: list[str] = []
        self.forgotten: list[str] = []
        self.refuses: dict[str, int] = {}
        self.data = b""

    async def _note(self, name: str, *arguments: object, context: Context | None = None) -> None:
        if name in self.lacks:
            raise FuseError(errno.ENOSYS)
        if context is not None:
            self.context = context
        self.log.append((name, *arguments))
        if name in self.refuses:
            raise FuseError(self.refuses[name])
        if name in self.waiting:
            self.begun.set()
            try:
                await self.go.wait()
            except asyncio.CancelledError:
                self.cancelled.append(name)
                raise

    def _entry(self, node: str, kind: int = stat.S_IFREG) -> Entry[str]:
        return Entry(node, Attributes(hash(node) & 0xFFFF | 2, kind | 0o644))

    async def getattr(self, node: str, handle: str | None, context: Context) -> Attributes:
        await self._note("getattr", node, context=context)
        return Attributes(1, stat.S_IFDIR | 0o755) if node == "/" else Attributes(2, stat.S_IFREG | 0o644)

    async def lookup(self, parent: str, name: bytes, context: Context) -> Entry[str]:
        await self._note("lookup", parent, name, context=context)
        return self._entry(name.decode())

    def forget(self, node: str) -> None:
        self.forgotten.append(node)

    async def setattr(self, node: str, changes: Changes, handle: str | None, context: Context) -> Attributes:
        await self._note("setattr", node, changes, handle, context=context)
        return Attributes(2, stat.S_IFREG | 0o644)

    async def open(self, node: str, flags: int, context: Context) -> Opened[str]:
        await self._note("open", node, context=context)
        return Opened(f"handle of {node}")

    async def opendir(self, node: str, flags: int, context: Context) -> Opened[str]:
        await self._note("opendir", node, context=context)
        return Opened("handle of a directory")

    async def release(self, node: str, handle: str) -> None:
        await self._note("release", handle)

    async def read(self, node: str, handle: str, offset: int, size: int, context: Context) -> bytes:
        await self._note("read", node, offset, context=context)
        return self.data[offset : offset + size]

    async def write(self, node: str, handle: str, offset: int, data: bytes, context: Context) -> int:
        await self._note("write", node, data, context=context)
        self.data = self.data[:offset] + data
        return len(data)

    async def flush(self, node: str, handle: str, context: Context) -> None:
        await self._note("flush", node, context=context)

    async def fsync(self, node: str, handle: str, datasync: bool, context: Context) -> None:
        await self._note("fsync", node, context=context)

    async def create(
        self, parent: str, name: bytes, mode: int, flags: int, context: Context
    ) -> tuple[Entry[str], Opened[str]]:
        await self._note("create", parent, name, mode, context=context)
        return self._entry(name.decode()), Opened("handle of " + name.decode())

    async def tmpfile(self, parent: str, mode: int, flags: int, context: Context) -> tuple[Entry[str], Opened[str]]:
        await self._note("tmpfile", parent, mode, flags, context=context)
        return self._entry("nameless"), Opened("handle of nameless")

    async def link(self, node: str, parent: str, name: bytes, context: Context) -> Entry[str]:
        await self._note("link", node, parent, name, context=context)
        return self._entry(node)

    async def mknod(self, parent: str, name: bytes, mode: int, rdev: int, context: Context) -> Entry[str]:
        await self._note("mknod", parent, name, context=context)
        return self._entry(name.decode())

    async def mkdir(self, parent: str, name: bytes, mode: int, context: Context) -> Entry[str]:
        await self._note("mkdir", parent, name, context=context)
        return self._entry(name.decode(), stat.S_IFDIR)

    async def symlink(self, parent: str, name: bytes, target: bytes, context: Context) -> Entry[str]:
        await self._note("symlink", parent, name, target, context=context)
        return self._entry(name.decode(), stat.S_IFLNK)

    async def getlk(self, node: str, handle: str, lock: FileLock, context: Context) -> FileLock | None:
        await self._note("getlk", node, lock, context=context)
        return FileLock(99, F_RDLCK, 5, 6, pid=42) if lock.type == F_WRLCK else None

    async def setlk(self, node: str, handle: str, lock: FileLock, wait: bool, context: Context) -> None:
        await self._note("setlk", node, lock, wait, context=context)


class Controls(Recorder):
    """One that has controls."""

    answer = b"0123456789"

    async def ioctl(
        self, node: str, handle: str, command: int, argument: bytes, out_size: int, context: Context
    ) -> bytes:
        await self._note("ioctl", node, handle, command, argument, out_size, context=context)
        return self.answer


@asynccontextmanager
async def driven(
    operations: Operations[Any, Any], agreed: InitFlag = LOCKS, **options: Any
) -> AsyncIterator[tuple[hdvkit.DeviceHost, hdvkit.Function, VirtioDriver]]:
    """A share whose session wants these flags, and a driver for it."""
    async with hdvkit.open_host("sim") as host:
        share = await host.add("virtiofs", source=operations, tag="t", **options)
        share.device.server.session = Session(agreed | InitFlag.MAX_PAGES)
        async with Guest.of(host).drive(share) as driver:
            async with asyncio.timeout(LIMIT):
                yield host, share, driver


@asynccontextmanager
async def served(
    operations: Operations[Any, Any],
    agreed: InitFlag = LOCKS,
    *,
    minor: int = 46,
    flags: int | None = LINUX_7_3,
    announces: bool = True,
) -> AsyncIterator[FuseClient]:
    """A client that has done INIT."""
    async with driven(operations, agreed) as (_, _, driver):
        hiprio, *requests = driver.queues
        client = FuseClient(requests, hiprio, minor=minor, flags=flags, announces=announces)
        await client.init()
        yield client


async def opened(client: FuseClient, flags: int = Open.RDWR) -> tuple[int, int]:
    """Node and handle of a file."""
    nodeid = (await client.lookup(1, "f")).nodeid
    return nodeid, (await client.open(nodeid, flags)).fh


# TMPFILE


async def test_a_file_without_a_name_is_open_and_may_get_one() -> None:
    files = Recorder()
    async with served(files) as client:
        made = await client.tmpfile(1, Open.RDWR | Open.TMPFILE, stat.S_IFREG | 0o600)
        assert ("tmpfile", "/", 0o600, Open.RDWR | Open.TMPFILE) in files.log
        nodeid, fh = made.entry.nodeid, made.open.fh
        assert await client.write(nodeid, fh, 0, b"data") == 4
        assert await client.read(nodeid, fh, 0, 10) == b"data"
        assert (await client.link(nodeid, 1, "name")).nodeid == nodeid
        assert ("link", "nameless", "/", b"name") in files.log
        await client.release(nodeid, fh)
        await client.forget(nodeid, 2)
        await client.getattr(1)
        assert files.log[-2][0] == "release"
        assert files.forgotten == ["nameless"]


@pytest.mark.parametrize("parent", [0, 99, 1 << 40, (1 << 64) - 1])
async def test_a_forged_directory_gets_no_file(parent: int) -> None:
    files = Recorder()
    async with served(files) as client:
        with pytest.raises(OSError, match="Stale"):
            await client.tmpfile(parent, Open.RDWR, 0o600)
    assert files.log == []


async def test_a_guest_older_than_tmpfile_hears_that_there_is_none() -> None:
    async with served(Recorder(), minor=36) as client:
        with pytest.raises(OSError, match="not implemented"):
            await client.tmpfile(1, Open.RDWR, 0o600)


# Locks


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


# INTERRUPT

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


# IOCTL


async def test_a_file_system_without_controls_has_none_of_them() -> None:
    async with served(Recorder()) as client:
        nodeid, fh = await opened(client)
        with pytest.raises(OSError, match="Inappropriate ioctl"):
            await client.ioctl(nodeid, fh, 0x8008_6601, out_size=4)


async def test_controls_bring_and_take_what_they_say() -> None:
    files = Controls()
    async with served(files) as client:
        nodeid, fh = await opened(client)
        assert await client.ioctl(nodeid, fh, 0x1234, b"argument", out_size=64) == files.answer
        assert files.log[-1] == ("ioctl", "f", "handle of f", 0x1234, b"argument", 64)
        assert await client.ioctl(nodeid, fh, 1, out_size=4) == b"0123"
        assert await client.ioctl(nodeid, fh, 1) == b""
        directory = (await client.opendir(1)).fh
        await client.ioctl(1, directory, 1, flags=IOCTL_DIR)
        assert files.log[-1][1:3] == ("/", "handle of a directory")
        for node, handle, flags in ((1, directory, 0), (nodeid, fh, IOCTL_DIR), (1, fh, 0), (nodeid, 99, 0)):
            with pytest.raises(OSError, match="Bad file"):
                await client.ioctl(node, handle, 1, flags=flags)


@pytest.mark.parametrize("flags", [1, 2, 8, 0xFFFF_FFFF])
async def test_controls_with_pointers_or_of_32_bits_are_asked_of_nobody(flags: int) -> None:
    files = Controls()
    async with served(files) as client:
        nodeid, fh = await opened(client)
        with pytest.raises(OSError, match="Inappropriate ioctl"):
            await client.ioctl(nodeid, fh, 1, flags=flags)
    assert "ioctl" not in [entry[0] for entry in files.log]


# Set-user-id bits

KILL = Changes(kill_suidgid=True)


async def test_bits_go_before_the_data_comes() -> None:
    files = Recorder()
    async with served(files, InitFlag.HANDLE_KILLPRIV_V2) as client:
        nodeid, fh = await opened(client)
        del files.log[:]
        await client.write(nodeid, fh, 0, b"x", kill_suidgid=True)
        assert files.log == [("setattr", "f", KILL, "handle of f"), ("write", "f", b"x")]
        del files.log[:]
        await client.write(nodeid, fh, 0, b"x")
        assert files.log == [("write", "f", b"x")]
        del files.log[:]
        await client.open(nodeid, Open.RDWR | Open.TRUNC, open_flags=Open.KILL_SUIDGID)
        assert files.log == [("setattr", "f", KILL, None), ("open", "f")]
        files.refuses["setattr"] = errno.EPERM
        for ask in (
            client.write(nodeid, fh, 0, b"y", kill_suidgid=True),
            client.open(nodeid, Open.RDWR | Open.TRUNC, open_flags=Open.KILL_SUIDGID),
        ):
            del files.log[:]
            with pytest.raises(PermissionError):
                await ask
            assert [entry[0] for entry in files.log] == ["setattr"]


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


# FORGET


@pytest.mark.parametrize("count", [1, FORGETS_AT_ONCE, FORGETS_AT_ONCE + 1, 3 * FORGETS_AT_ONCE])
async def test_many_nodes_are_forgotten_at_once(count: int) -> None:
    files = Recorder()
    async with served(files) as client:
        names = [f"n{number}" for number in range(count)]
        nodes = [(await client.lookup(1, name)).nodeid for name in names]
        await client.batch_forget([(nodeid, 1) for nodeid in nodes])
        for nodeid in nodes:
            with pytest.raises(OSError, match="Stale"):
                await client.getattr(nodeid)
        assert files.forgotten == names


# Extensions

MAKING: dict[str, Callable[[FuseClient], Awaitable[object]]] = {
    "create": lambda client: client.create(1, "n", Open.RDWR | Open.CREAT, 0o644, umask=0o27),
    "tmpfile": lambda client: client.tmpfile(1, Open.RDWR, 0o644, umask=0o27),
    "mknod": lambda client: client.mknod(1, "n", stat.S_IFREG | 0o644, umask=0o27),
    "mkdir": lambda client: client.mkdir(1, "n", 0o755, umask=0o27),
    "symlink": lambda client: client.symlink(1, "n", "target"),
}


@pytest.mark.parametrize("name", MAKING)
@pytest.mark.parametrize(
    ("agreed", "groups", "security"),
    [
        (NOTHING, (), ()),
        (InitFlag.CREATE_SUPP_GROUP, (1000,), ()),
        (InitFlag.SECURITY_CTX, (), SECURITY),
        (EXTENSIONS, (1000,), SECURITY),
    ],
    ids=["none", "groups", "contexts", "both"],
)
async def test_who_makes_something_and_what_it_is_born_with(
    name: str, agreed: InitFlag, groups: tuple[int, ...], security: tuple[tuple[bytes, bytes], ...]
) -> None:
    files = Recorder()
    async with served(files, agreed) as client:
        user = client.as_user(500, 600, pid=7, groups=[1000], security=SECURITY)
        await MAKING[name](user)
        umask = 0 if name == "symlink" else 0o27
        assert files.log[-1][:2] == (name, "/")
        assert files.context == Context(500, 600, 7, umask, groups, security)
        await client.lookup(1, "n")
        assert files.context == Context(pid=1)


@pytest.mark.parametrize("name", MAKING)
@pytest.mark.parametrize("security", [(), SECURITY], ids=["none", "two"])
async def test_contexts_of_a_guest_whose_header_does_not_tell_of_them(
    name: str, security: tuple[tuple[bytes, bytes], ...]
) -> None:
    files = Recorder()
    old = 0x7BFF_FFFB | (Init.SECURITY_CTX | Init.HAS_EXPIRE_ONLY)
    async with served(files, EXTENSIONS, minor=37, flags=old, announces=False) as client:
        assert client.session.flags & (Init.SECURITY_CTX | Init.CREATE_SUPP_GROUP) == Init.SECURITY_CTX
        await MAKING[name](client.as_user(1, 2, security=security))
        assert files.log[-1][:2] == (name, "/")
        assert (files.context.groups, files.context.security) == ((), security)


async def test_an_extension_that_was_not_agreed_makes_nothing() -> None:
    files = Recorder()
    async with served(files, InitFlag.SECURITY_CTX) as client:
        for extension in (bytes.fromhex("10000000 20000000 01000000 e8030000"), bytes.fromhex("0000000000000000")):
            with pytest.raises(OSError, match="Invalid"):
                await client.call(9, 1, bytes(8) + b"d\0", reply_size=128, extension=extension)
    assert files.log == []


@pytest.mark.parametrize(
    "row", [row for row in ATTACKS if row.name.startswith("F1-extension")], ids=lambda row: row.name
)
async def test_malformed_extensions_make_nothing_where_all_are_agreed(row: HostileFuse) -> None:
    files = Recorder()
    async with driven(files, EXTENSIONS) as (_, _, driver):
        hiprio, requests = driver.queues
        client = FuseClient(requests, hiprio, flags=LINUX_7_3, minor=46)
        answer = await client.init()
        assert answer.flags & Init.SECURITY_CTX
        assert await answer_of(row, HostileGuest(client, requests, hiprio)) == row.answer
    assert files.log == []
