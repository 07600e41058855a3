"""Locks of guests on a host directory, against real host processes and between two guests."""
# ruff: noqa: ASYNC240 - the host side of a test may block, nobody else is on the loop
# ruff: noqa: D102 - what is called here is said in Operations

import asyncio
import contextlib
import errno
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, LOCK_UN
from pathlib import Path
from typing import NamedTuple

import pytest
from hdvkit_virtiofs.device import VirtioFs
from hdvkit_virtiofs.fuse.answers import Context, FileLock
from hdvkit_virtiofs.fuse.errors import FuseError
from hdvkit_virtiofs.fuse.spec import MAX_OFFSET, InitFlag
from hypothesis import given, settings
from hypothesis import strategies as st

if sys.platform != "linux":
    pytest.skip("directories are shared on Linux only", allow_module_level=True)

from hdvkit_virtiofs.passthrough import Passthrough, locks
from hdvkit_virtiofs.passthrough.descriptors import Descriptors
from hdvkit_virtiofs.passthrough.files import File
from hdvkit_virtiofs.passthrough.inodes import Inode
from hdvkit_virtiofs.passthrough.open_files import OpenFiles
from hdvkit_virtiofs.passthrough.workers import Workers

ME = Context(uid=os.getuid(), gid=os.getgid())
READ, WRITE, UNLOCK = 0, 1, 2
ANNA, BERT, CARL = 0xA11A << 48, 0xBE27, 0xCA21
PATIENCE = 20
"""Seconds after which a test gives up on something that should happen at once."""

HOST_PROCESS = """
import errno, fcntl, os, sys
descriptor = os.open(sys.argv[1], os.O_RDONLY if os.path.isdir(sys.argv[1]) else os.O_RDWR)
print("ready", flush=True)
for line in sys.stdin:
    call, *numbers = line.split()
    try:
        getattr(fcntl, call)(descriptor, *map(int, numbers))
        print("done", flush=True)
    except OSError as error:
        print(errno.errorcode[error.errno], flush=True)
"""


class Host:
    """A process of the host that has the file open, and locks as it is told."""

    def __init__(self, process: Process) -> None:
        self._process = process

    async def says(self) -> str:
        """The next answer."""
        assert self._process.stdout is not None
        return (await asyncio.wait_for(self._process.stdout.readline(), PATIENCE)).decode().strip()

    def begin(self, call: str, *numbers: int) -> None:
        """Make a call that may wait."""
        assert self._process.stdin is not None
        self._process.stdin.write(" ".join([call, *map(str, numbers)]).encode() + b"\n")

    async def lockf(self, operation: int, start: int = 0, length: int = 0) -> str:
        """Lock a range as POSIX has it, or be told why not."""
        self.begin("lockf", operation if operation == LOCK_UN else operation | LOCK_NB, length, start)
        return await self.says()

    async def flock(self, operation: int) -> str:
        """Lock the file as BSD has it, or be told why not."""
        self.begin("flock", operation | LOCK_NB)
        return await self.says()

    async def end(self) -> None:
        """Let the process end."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        await asyncio.wait_for(self._process.wait(), PATIENCE)


@contextlib.asynccontextmanager
async def host_process(path: Path) -> AsyncIterator[Host]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-S", "-c", HOST_PROCESS, path, stdin=PIPE, stdout=PIPE
    )
    host = Host(process)
    assert await host.says() == "ready"
    yield host
    await host.end()


class Opened(NamedTuple):
    """A file that a guest has open."""

    share: Passthrough
    node: Inode
    file: File

    async def lock(
        self, owner: int, type_: int, start: int = 0, end: int = MAX_OFFSET, *, wait: bool = False, pid: int = 0
    ) -> None:
        await self.share.setlk(self.node, self.file, FileLock(owner, type_, start, end, pid), wait, ME)

    async def flock(self, type_: int, *, wait: bool = False) -> None:
        await self.share.setlk(self.node, self.file, FileLock(7, type_, flock=True), wait, ME)

    async def in_the_way(self, owner: int, type_: int, start: int = 0, end: int = MAX_OFFSET) -> FileLock | None:
        return await self.share.getlk(self.node, self.file, FileLock(owner, type_, start, end), ME)

    async def release(self) -> None:
        if self.node is self.share.root:
            await self.share.releasedir(self.node, self.file)
        else:
            await self.share.release(self.node, self.file)


@contextlib.contextmanager
def refused(code: int) -> Iterator[None]:
    with pytest.raises(FuseError) as caught:
        yield
    assert errno.errorcode[caught.value.errno] == errno.errorcode[code]


async def open_in(share: Passthrough, name: str = "file", flags: int = os.O_RDWR) -> Opened:
    node = (await share.lookup(share.root, name.encode(), ME)).node
    return Opened(share, node, (await share.open(node, flags, ME)).handle)


async def open_root(share: Passthrough) -> Opened:
    return Opened(share, share.root, (await share.opendir(share.root, os.O_RDONLY, ME)).handle)


async def waiting(request: Awaitable[None]) -> asyncio.Task[None]:
    """A request that was tried once, and waits."""
    task = asyncio.ensure_future(request)
    await asyncio.sleep(0)
    assert not task.done()
    return task


async def granted(task: asyncio.Task[None]) -> None:
    await asyncio.wait_for(task, PATIENCE)


async def cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    return path


@pytest.fixture
async def share(path: Path) -> AsyncIterator[Passthrough]:
    share = Passthrough(path.parent)
    yield share
    await share.aclose()
    assert share.live_descriptors == 0


@pytest.fixture
async def other_share(path: Path) -> AsyncIterator[Passthrough]:
    share = Passthrough(path.parent)
    yield share
    await share.aclose()
    assert share.live_descriptors == 0


@pytest.fixture
async def opened(share: Passthrough) -> Opened:
    return await open_in(share)


@pytest.fixture
async def host(path: Path) -> AsyncIterator[Host]:
    async with host_process(path) as host:
        yield host


# Against a host process


async def test_posix_locks_of_a_guest_keep_the_host_out(opened: Opened, host: Host) -> None:
    await opened.lock(ANNA, WRITE, 10, 19)
    assert await host.lockf(LOCK_SH, 19, 1) == "EAGAIN"
    assert await host.lockf(LOCK_EX, 10, 1) == "EAGAIN"
    assert await host.lockf(LOCK_EX, 0, 10) == "done"
    assert await host.lockf(LOCK_EX, 20, 0) == "done"
    await opened.lock(ANNA, UNLOCK)
    assert await host.lockf(LOCK_EX) == "done"


async def test_posix_locks_of_the_host_keep_a_guest_out(opened: Opened, host: Host) -> None:
    assert await host.lockf(LOCK_EX, 10, 10) == "done"
    with refused(errno.EAGAIN):
        await opened.lock(ANNA, READ, 19, 19)
    with refused(errno.EAGAIN):
        await opened.lock(ANNA, WRITE)
    await opened.lock(ANNA, WRITE, 0, 9)
    with refused(errno.EAGAIN):
        await opened.lock(ANNA, WRITE, 0, 10)
    assert await host.lockf(LOCK_UN) == "done"
    await opened.lock(ANNA, WRITE)


async def test_reading_is_shared_and_writing_is_not(opened: Opened, host: Host) -> None:
    await opened.lock(ANNA, READ)
    await opened.lock(BERT, READ)
    assert await host.lockf(LOCK_SH) == "done"
    with refused(errno.EAGAIN):
        await opened.lock(ANNA, WRITE)
    assert await host.lockf(LOCK_EX) == "EAGAIN"  # and the refused upgrade has given nothing up
    await opened.lock(BERT, UNLOCK)
    assert await host.lockf(LOCK_EX) == "EAGAIN"
    assert await host.lockf(LOCK_UN) == "done"
    await opened.lock(ANNA, WRITE)
    assert await host.lockf(LOCK_SH) == "EAGAIN"
    await opened.lock(ANNA, READ)
    assert await host.lockf(LOCK_SH) == "done"


async def test_bsd_locks_meet_those_of_the_host(opened: Opened, host: Host) -> None:
    await opened.flock(WRITE)
    assert await host.flock(LOCK_SH) == "EAGAIN"
    await opened.flock(READ)
    assert await host.flock(LOCK_SH) == "done"
    assert await host.flock(LOCK_EX) == "EAGAIN"
    assert await host.flock(LOCK_SH) == "done"  # what failed to become another was given up: flock(2)
    with refused(errno.EAGAIN):
        await opened.flock(WRITE)
    assert await host.flock(LOCK_EX) == "done"
    with refused(errno.EAGAIN):
        await opened.flock(READ)
    assert await host.flock(LOCK_UN) == "done"
    await opened.flock(WRITE)
    await opened.flock(UNLOCK)
    assert await host.flock(LOCK_EX) == "done"


async def test_the_two_sorts_never_meet(opened: Opened, host: Host) -> None:
    await opened.flock(WRITE)
    assert await host.lockf(LOCK_EX) == "done"
    assert await host.lockf(LOCK_UN) == "done"
    await opened.lock(ANNA, WRITE)
    await opened.flock(UNLOCK)
    assert await host.flock(LOCK_EX) == "done"
    await opened.lock(ANNA, UNLOCK)
    assert await host.flock(LOCK_EX) == "done"
    with refused(errno.EAGAIN):
        await opened.flock(READ)


async def test_a_directory_is_locked_like_a_file(share: Passthrough, path: Path) -> None:
    root = await open_root(share)
    async with host_process(path.parent) as host:
        await root.flock(WRITE)
        await root.lock(ANNA, READ)
        assert await host.flock(LOCK_EX) == "EAGAIN"
        await root.release()
        assert await host.flock(LOCK_EX) == "done"


# Ends


@pytest.mark.parametrize("end", ["unlock", "release", "aclose"])
async def test_locks_end(end: str, share: Passthrough, opened: Opened, host: Host) -> None:
    before = share.live_descriptors
    await opened.lock(ANNA, WRITE, 0, 0)
    await opened.lock(BERT, READ, 5, 9)
    await opened.flock(WRITE)
    assert share.live_descriptors == before + 2
    if end == "unlock":
        await opened.lock(ANNA, UNLOCK)
        await opened.lock(BERT, UNLOCK, 0, 6)
        assert share.live_descriptors == before + 1
        await opened.lock(BERT, UNLOCK, 7, 100)
        await opened.flock(UNLOCK)
        assert share.live_descriptors == before
    elif end == "release":
        await opened.release()
        assert share.live_descriptors == before - 1
    else:
        await share.aclose()
    assert await host.lockf(LOCK_EX) == "done"
    assert await host.flock(LOCK_EX) == "done"


async def test_giving_up_what_nobody_holds_opens_nothing(share: Passthrough, opened: Opened) -> None:
    before = share.live_descriptors
    await opened.lock(ANNA, UNLOCK)
    await opened.flock(UNLOCK)
    await opened.lock(ANNA, READ)
    await opened.lock(BERT, UNLOCK)
    assert share.live_descriptors == before + 1


async def test_a_lock_outlives_other_open_files_of_its_owner(share: Passthrough, opened: Opened, host: Host) -> None:
    """Which files a process closes, the guest's kernel knows; it tells of processes by unlocking, not by release."""
    second = await open_in(share)
    await opened.lock(ANNA, WRITE, 0, 0)
    await second.lock(ANNA, WRITE, 1, 1)
    await opened.release()
    assert await host.lockf(LOCK_EX) == "EAGAIN"
    await second.release()
    assert await host.lockf(LOCK_EX) == "done"


async def test_a_lock_of_an_open_file_ends_with_it(share: Passthrough, opened: Opened, host: Host) -> None:
    """The guest's F_OFD_SETLK: its owner never says F_UNLCK when the file is closed while another stays open."""
    second = await open_in(share)
    await second.lock(ANNA, WRITE, 0, 9)
    await opened.lock(BERT, READ, 10, 19)
    await second.release()
    assert await host.lockf(LOCK_EX, 0, 10) == "done"
    assert await host.lockf(LOCK_EX, 19, 1) == "EAGAIN"


async def test_refused_requests_leave_no_descriptors(share: Passthrough, opened: Opened, host: Host) -> None:
    await host.lockf(LOCK_EX)
    await host.flock(LOCK_EX)
    before = share.live_descriptors
    for _ in range(3):
        with refused(errno.EAGAIN):
            await opened.lock(ANNA, READ)
        with refused(errno.EAGAIN):
            await opened.flock(READ)
    assert share.live_descriptors == before


async def test_a_reset_of_the_guest_frees_its_locks(path: Path, host: Host) -> None:
    device = VirtioFs(path.parent, tag="t")
    opened = await open_in(device.server.operations)
    device.server.opened(device.server.nodes.enter(opened.node), opened.file, os.O_RDWR)
    await opened.lock(ANNA, WRITE)
    await opened.flock(WRITE)
    await device.reset()
    assert await host.lockf(LOCK_EX) == "done"
    assert await host.flock(LOCK_EX) == "done"
    await device.aclose()


# Between guests


async def test_two_guests_keep_each_other_out(share: Passthrough, other_share: Passthrough, opened: Opened) -> None:
    there = await open_in(other_share)
    await opened.lock(ANNA, WRITE, 0, 99)
    await opened.flock(READ)
    with refused(errno.EAGAIN):
        await there.lock(ANNA, READ, 99, 200)
    with refused(errno.EAGAIN):
        await there.flock(WRITE)
    await there.flock(READ)
    await there.lock(ANNA, WRITE, 100, 200)
    task = await waiting(there.lock(ANNA, READ, wait=True))
    await share.aclose()
    await granted(task)
    await there.flock(WRITE)


# Who is in the way


async def test_processes_of_the_guest_are_named(share: Passthrough, opened: Opened) -> None:
    await opened.lock(ANNA, WRITE, 10, 19, pid=41)
    await opened.lock(ANNA, READ, 20, 29, pid=41)
    await opened.lock(BERT, READ, 25, 39, pid=42)
    assert await opened.in_the_way(ANNA, WRITE, 0, 24) is None
    assert await opened.in_the_way(CARL, READ, 0, 24) == FileLock(ANNA, WRITE, 10, 19, 41)
    assert await opened.in_the_way(CARL, READ, 20, 90) is None
    assert await opened.in_the_way(CARL, WRITE, 35, 90) == FileLock(BERT, READ, 25, 39, 42)
    assert await opened.in_the_way(ANNA, WRITE) == FileLock(BERT, READ, 25, 39, 42)
    assert await opened.in_the_way(CARL, WRITE, 40) is None


async def test_processes_of_the_host_are_not(opened: Opened, host: Host) -> None:
    await host.lockf(LOCK_EX, 10, 10)
    await host.lockf(LOCK_SH, 100)
    for _ in range(2):
        assert await opened.in_the_way(ANNA, READ) == FileLock(0, WRITE, 10, 19, 0)
        assert await opened.in_the_way(ANNA, WRITE, 50) == FileLock(0, READ, 100, MAX_OFFSET, 0)
        assert await opened.in_the_way(ANNA, READ, 50) is None
        await opened.lock(ANNA, WRITE, 0, 5)


async def test_what_cannot_be_asked(opened: Opened) -> None:
    with refused(errno.EINVAL):
        await opened.in_the_way(ANNA, UNLOCK)
    with refused(errno.EINVAL):
        await opened.share.getlk(opened.node, opened.file, FileLock(ANNA, WRITE, flock=True), ME)


# Rights


async def test_a_lock_needs_a_file_that_is_open_for_it(share: Passthrough) -> None:
    reader, writer = await open_in(share, flags=os.O_RDONLY), await open_in(share, flags=os.O_WRONLY)
    with refused(errno.EBADF):
        await reader.lock(ANNA, WRITE)
    with refused(errno.EBADF):
        await writer.lock(ANNA, READ)
    await reader.lock(ANNA, READ, 0, 9)
    await writer.lock(ANNA, WRITE, 10, 19)
    with refused(errno.EBADF):
        await reader.lock(ANNA, WRITE, 0, 9)
    await writer.lock(ANNA, UNLOCK)
    await reader.flock(WRITE)


async def test_a_file_that_cannot_be_written_is_locked_for_reading(path: Path, share: Passthrough) -> None:
    """One that is being executed is such a file for everybody: ETXTBSY."""
    program = path.parent / "program"
    program.write_bytes(Path("/bin/sleep").read_bytes())
    program.chmod(0o755)
    running = await asyncio.create_subprocess_exec(program, "1000")
    try:
        reader = await open_in(share, "program", os.O_RDONLY)
        await reader.lock(ANNA, READ)
        assert (await reader.in_the_way(BERT, WRITE)) == FileLock(ANNA, READ)
    finally:
        running.kill()
        await running.wait()


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is refused to root")
async def test_a_file_of_somebody_else_is_locked_for_reading(path: Path, share: Passthrough) -> None:
    path.chmod(0o444)
    reader = await open_in(share, flags=os.O_RDONLY)
    await reader.lock(ANNA, READ)
    assert (await reader.in_the_way(BERT, WRITE)) == FileLock(ANNA, READ)


async def test_a_read_only_share_locks_too(path: Path, host: Host) -> None:
    share = Passthrough(path.parent, read_only=True)
    reader = await open_in(share, flags=os.O_RDONLY)
    await reader.lock(ANNA, READ)
    await reader.flock(WRITE)
    assert not any(_writes(link, path) for link in Path("/proc/self/fd").iterdir())
    assert await host.lockf(LOCK_EX) == "EAGAIN"
    assert await host.flock(LOCK_SH) == "EAGAIN"
    await share.aclose()
    assert await host.lockf(LOCK_EX) == "done"


def _writes(link: Path, path: Path) -> bool:
    """Whether an entry of /proc/self/fd is a descriptor that may write ``path``; its mode says so."""
    with contextlib.suppress(FileNotFoundError):
        return link.readlink() == path and bool(link.lstat().st_mode & 0o200)
    return False


async def test_locks_are_offered_unless_they_are_not_wanted(share: Passthrough, opened: Opened) -> None:
    both = InitFlag.POSIX_LOCKS | InitFlag.FLOCK_LOCKS
    assert both in share.init_flags
    without = OpenFiles(Descriptors(), Workers(1), writeback=False, locks=False)
    assert not both & without.init_flags
    with refused(errno.ENOSYS):
        await without.setlk(opened.node, opened.file, FileLock(ANNA, WRITE), False, ME)
    with refused(errno.ENOSYS):
        await without.getlk(opened.node, opened.file, FileLock(ANNA, WRITE), ME)
    await without.aclose()
    without._descriptors.finish()


# Waiting


@pytest.mark.parametrize("end", ["unlock", "exit"])
async def test_a_waiter_gets_what_a_host_process_gives_up(end: str, opened: Opened, host: Host) -> None:
    await host.lockf(LOCK_EX, 0, 10)
    await host.flock(LOCK_EX)
    posix = await waiting(opened.lock(ANNA, READ, 5, 15, wait=True))
    bsd = await waiting(opened.flock(WRITE, wait=True))
    if end == "unlock":
        assert await host.lockf(LOCK_UN) == "done"
        await granted(posix)
        assert not bsd.done()
        assert await host.flock(LOCK_UN) == "done"
        await granted(bsd)
        assert await host.lockf(LOCK_EX) == "EAGAIN"
        assert await host.flock(LOCK_SH) == "EAGAIN"
    else:
        await host.end()
        await granted(posix)
        await granted(bsd)


async def test_a_host_process_gets_what_a_guest_gives_up(opened: Opened, host: Host) -> None:
    await opened.lock(ANNA, WRITE)
    host.begin("lockf", LOCK_EX)
    await opened.lock(ANNA, UNLOCK)
    assert await host.says() == "done"


GIVE_UP: dict[str, Callable[[Opened], Awaitable[None]]] = {
    "unlock": lambda opened: opened.lock(ANNA, UNLOCK),
    "part": lambda opened: opened.lock(ANNA, UNLOCK, 0, 50),
    "downgrade": lambda opened: opened.lock(ANNA, READ),
    "release": lambda opened: opened.release(),
}


@pytest.mark.parametrize("way", GIVE_UP)
async def test_a_waiter_is_woken_by_its_own_share(
    way: str, share: Passthrough, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "SHORTEST_PAUSE", 3600)  # so it is not by trying again and again
    second = await open_in(share)
    await opened.lock(ANNA, WRITE)
    task = await waiting(second.lock(BERT, READ, 10, 20, wait=True))
    await GIVE_UP[way](opened)
    await granted(task)
    assert await second.in_the_way(CARL, WRITE, 10, 20) in (FileLock(ANNA, READ), FileLock(BERT, READ, 10, 20))


@pytest.mark.parametrize("way", ["unlock", "downgrade", "upgrade", "release"])
async def test_a_waiter_for_a_bsd_lock_is_woken_by_its_own_share(
    way: str, share: Passthrough, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "SHORTEST_PAUSE", 3600)
    second, third = await open_in(share), await open_in(share)
    if way == "upgrade":  # fails, and gives up what it had
        await third.flock(READ)
        await opened.flock(READ)
        task = await waiting(second.flock(WRITE, wait=True))
        with refused(errno.EAGAIN):
            await opened.flock(WRITE)
        await third.flock(UNLOCK)
    else:
        await opened.flock(WRITE)
        task = await waiting(second.flock(READ, wait=True))
        if way == "release":
            await opened.release()
        else:
            await opened.flock(UNLOCK if way == "unlock" else READ)
    await granted(task)


async def test_waiters_have_their_turn_in_order(opened: Opened) -> None:
    order: list[int] = []

    async def take_turns(owner: int) -> None:
        await opened.lock(owner, WRITE, wait=True)
        order.append(owner)
        await opened.lock(owner, UNLOCK)

    await opened.lock(ANNA, WRITE)
    tasks = [await waiting(take_turns(owner)) for owner in range(1, 20)]
    await opened.lock(ANNA, UNLOCK)
    await asyncio.wait_for(asyncio.gather(*tasks), PATIENCE)
    assert order == list(range(1, 20))


async def test_waiters_that_wake_at_once_leave_room_for_others(opened: Opened) -> None:
    await opened.lock(ANNA, WRITE)
    tasks = [await waiting(opened.lock(owner, READ, wait=True)) for owner in range(1, 20)]
    await opened.lock(ANNA, UNLOCK)
    done = 0
    for _ in range(1000):
        await asyncio.sleep(0)
        before, done = done, sum(task.done() for task in tasks)
        assert done <= before + 1
    assert done == len(tasks)


async def test_a_bsd_lock_is_of_the_whole_file_whatever_range_comes_with_it(share: Passthrough, opened: Opened) -> None:
    second = await open_in(share)
    await share.setlk(opened.node, opened.file, FileLock(7, WRITE, 5, 9, flock=True), False, ME)
    task = await waiting(second.flock(READ, wait=True))
    await share.setlk(opened.node, opened.file, FileLock(7, UNLOCK, 0, 0, flock=True), False, ME)
    await granted(task)


async def test_a_waiter_for_a_file_that_is_closed_is_told(opened: Opened, host: Host) -> None:
    await host.lockf(LOCK_EX)
    task = await waiting(opened.lock(ANNA, WRITE, wait=True))
    await opened.release()
    with refused(errno.EBADF):
        await granted(task)


@pytest.mark.parametrize("whose", ["of the host", "of the guest"])
async def test_a_cancelled_waiter_leaves_nothing_behind(
    whose: str, share: Passthrough, opened: Opened, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "MAX_WAITERS", 1)
    second = await open_in(share)
    if whose == "of the host":
        await host.lockf(LOCK_EX)
        await host.flock(LOCK_EX)
    else:
        await second.lock(BERT, WRITE)
        await second.flock(WRITE)
    before = share.live_descriptors
    for request in (opened.lock(ANNA, READ, wait=True), opened.flock(READ, wait=True)):
        await cancelled(await waiting(request))
    assert share.live_descriptors == before
    await second.release()
    await host.lockf(LOCK_UN)
    await host.flock(LOCK_UN)
    assert await host.lockf(LOCK_EX) == "done"
    assert await host.flock(LOCK_EX) == "done"


async def test_a_cancelled_waiter_closes_no_circle(opened: Opened) -> None:
    await opened.lock(ANNA, WRITE, 0, 0)
    await opened.lock(BERT, WRITE, 1, 1)
    await cancelled(await waiting(opened.lock(ANNA, WRITE, 1, 1, wait=True)))
    await cancelled(await waiting(opened.lock(BERT, WRITE, 0, 0, wait=True)))


async def test_a_waiter_cancelled_in_its_turn_lets_the_next_one_have_it(opened: Opened) -> None:
    await opened.lock(ANNA, WRITE)
    first, second = [await waiting(opened.lock(owner, WRITE, wait=True)) for owner in (BERT, CARL)]
    await opened.lock(ANNA, UNLOCK)
    await cancelled(first)
    await granted(second)


# Deadlocks


async def test_a_circle_of_waiters_is_refused(share: Passthrough, path: Path, opened: Opened) -> None:
    path.with_name("second").touch()
    second = await open_in(share, "second")
    await opened.lock(ANNA, WRITE, 0, 0)
    await opened.lock(BERT, WRITE, 1, 1)
    await second.lock(CARL, WRITE, 0, 0)
    anna = await waiting(opened.lock(ANNA, READ, 1, 1, wait=True))
    bert = await waiting(second.lock(BERT, READ, 0, 0, wait=True))
    with refused(errno.EDEADLK):
        await granted(asyncio.ensure_future(opened.lock(CARL, WRITE, 0, 0, wait=True)))
    await second.lock(CARL, UNLOCK)
    await granted(bert)
    await opened.lock(BERT, UNLOCK)
    await granted(anna)


async def test_a_circle_that_closes_while_one_waits_is_refused(opened: Opened) -> None:
    """Anna waits for two; one lets go, and the other waits for her."""
    await opened.lock(BERT, READ, 0, 0)
    await opened.lock(CARL, READ, 0, 0)
    await opened.lock(ANNA, WRITE, 1, 1)
    anna = await waiting(opened.lock(ANNA, WRITE, 0, 0, wait=True))
    both = {owner: asyncio.ensure_future(opened.lock(owner, WRITE, 1, 1, wait=True)) for owner in (BERT, CARL)}
    await asyncio.sleep(0)
    ((fallen, task),) = ((owner, task) for owner, task in both.items() if task.done())
    with refused(errno.EDEADLK):
        await task
    await opened.lock(fallen, UNLOCK)
    with refused(errno.EDEADLK):
        await granted(anna)
    await opened.lock(ANNA, UNLOCK)
    await granted(both[BERT if fallen == CARL else CARL])


async def test_nobody_waits_for_one_that_has_let_go(opened: Opened) -> None:
    """Not even before the waiter that was woken has had its turn."""

    async def let_go_and_wait() -> None:
        await opened.lock(ANNA, UNLOCK)
        await opened.lock(ANNA, WRITE, 1, 1, wait=True)

    await opened.lock(ANNA, WRITE, 0, 0)
    await opened.lock(BERT, WRITE, 1, 1)
    bert = await waiting(opened.lock(BERT, WRITE, 0, 0, wait=True))
    anna = await waiting(let_go_and_wait())
    await granted(bert)
    await opened.lock(BERT, UNLOCK)
    await granted(anna)


# Limits


async def test_limits(share: Passthrough, opened: Opened, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "MAX_OWNERS", 3)
    monkeypatch.setattr(locks, "MAX_WAITERS", 2)
    monkeypatch.setattr(locks, "MAX_LOCKS", 6)
    await host.lockf(LOCK_EX, 1000, 1)
    for owner in (1, 2, 3):
        await opened.lock(owner, WRITE, 10 * owner, 10 * owner + 2)
    with refused(errno.ENOLCK):
        await opened.lock(4, WRITE, 0, 0)
    await opened.lock(1, READ, 11, 11)  # five pieces
    with refused(errno.ENOLCK):
        await opened.lock(2, READ, 21, 21)
    assert await host.lockf(LOCK_SH, 21, 1) == "EAGAIN"
    tasks = [await waiting(opened.lock(1, READ, 1000, 1000, wait=True)) for _ in range(2)]
    with refused(errno.ENOLCK):
        await granted(asyncio.ensure_future(opened.lock(1, READ, 1000, 1000, wait=True)))
    with refused(errno.EAGAIN):
        await opened.lock(1, READ, 1000, 1000)
    for task in tasks:
        await cancelled(task)
    for owner in (1, 2, 3):
        await opened.lock(owner, UNLOCK)
    for byte in range(0, 12, 2):  # as many as at the beginning
        await opened.lock(4, WRITE, byte, byte)
    with refused(errno.ENOLCK):
        await opened.lock(4, WRITE, 12, 12)
    await opened.lock(4, WRITE, 1, 1)
    await opened.lock(4, WRITE, 12, 12)


async def test_an_owner_needs_a_descriptor(path: Path) -> None:
    share = Passthrough(path.parent, max_descriptors=20)
    opened = await open_in(share)
    owners = 0
    with refused(errno.ENFILE):
        while True:
            await opened.lock(owners, READ)
            owners += 1
    assert 0 < owners < 20
    with refused(errno.EAGAIN):  # one that has to wait needs none yet
        await opened.lock(ANNA, WRITE)
    await opened.lock(ANNA, UNLOCK)
    await opened.lock(0, UNLOCK)
    await opened.lock(ANNA, READ)
    await share.aclose()


# Ranges, against a model of single bytes

BYTES = 24
RANGES = st.tuples(st.integers(0, BYTES - 1), st.integers(0, BYTES - 1)).map(sorted)
TYPES = st.sampled_from([READ, WRITE, UNLOCK])


@given(st.lists(st.tuples(TYPES, RANGES), max_size=30))
def test_ranges_of_one_owner_are_its_bytes(changes: list[tuple[int, list[int]]]) -> None:
    held: list[FileLock] = []
    model: dict[int, int] = {}
    for type_, (start, end) in changes:
        held = locks.overlaid(held, FileLock(ANNA, type_, start, end))
        model.update(dict.fromkeys(range(start, end + 1), type_))
        expected = {byte: type_ for byte, type_ in model.items() if type_ != UNLOCK}
        assert {byte: lock.type for lock in held for byte in range(lock.start, lock.end + 1)} == expected
        assert held == sorted(held, key=lambda lock: lock.start)
        assert len(held) == sum(expected.get(byte - 1) != type_ for byte, type_ in expected.items())


@settings(max_examples=60, deadline=None)
@given(changes=st.lists(st.tuples(st.integers(0, 3), TYPES, RANGES), max_size=25))
def test_two_guests_of_two_processes_lock_as_the_model_does(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int, list[int]]]
) -> None:
    asyncio.run(follow_the_model(tmp_path_factory.mktemp("shared"), changes))


async def follow_the_model(folder: Path, changes: list[tuple[int, int, list[int]]]) -> None:
    (folder / "file").touch()
    shares = [Passthrough(folder), Passthrough(folder)]
    guests = [await open_in(share) for share in shares]
    held: dict[int, dict[int, int]] = defaultdict(dict)  # what each of four processes holds of each byte
    before = [share.live_descriptors for share in shares]
    for process, type_, (start, end) in changes:
        opened, owner = guests[process % 2], process // 2 + 1
        others = [
            (byte, kind)
            for other, bytes_ in held.items()
            for byte, kind in bytes_.items()
            if other != process and start <= byte <= end and WRITE in (kind, type_)
        ]
        if type_ != UNLOCK:
            found = await opened.in_the_way(owner, type_, start, end)
            assert (found is None) == (not others)
            assert found is None or any(
                found.start <= byte <= found.end and kind == found.type for byte, kind in others
            )
        if others and type_ != UNLOCK:
            with refused(errno.EAGAIN):
                await opened.lock(owner, type_, start, end)
        else:
            await opened.lock(owner, type_, start, end)
            for byte in range(start, end + 1):
                held[process].pop(byte, None)
                if type_ != UNLOCK:
                    held[process][byte] = type_
        for guest, share in enumerate(shares):
            assert share.live_descriptors - before[guest] == sum(bool(held[one]) for one in (guest, guest + 2))
    for share in shares:
        await share.aclose()
