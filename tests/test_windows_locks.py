"""Locks of guest processes on files of Windows, with two guests that share a directory."""

import asyncio
import contextlib
import errno
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

if sys.platform != "win32":
    pytest.skip("needs Windows, or Wine: python -m hdvkit_wine", allow_module_level=True)

from hdvkit_virtiofs.fuse.answers import Context, FileLock
from hdvkit_virtiofs.fuse.errors import FuseError
from hdvkit_virtiofs.fuse.spec import MAX_OFFSET, O_RDONLY, O_RDWR, O_WRONLY, InitFlag
from hdvkit_virtiofs.passthrough.windows import WindowsPassthrough as Share
from hdvkit_virtiofs.passthrough.windows.files import File
from hdvkit_virtiofs.passthrough.windows.nodes import Node

ME = Context()
RDLCK, WRLCK, UNLCK = range(3)
ONE, TWO, THREE = 11, 12, 13


@pytest.fixture
async def shares(tmp_path: Path) -> AsyncIterator[tuple[Share, Share]]:
    """Two guests with the same directory."""
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "other").write_bytes(b"content")
    both = Share(tmp_path), Share(tmp_path)
    yield both
    for share in both:
        await share.aclose()


@contextlib.contextmanager
def refused(code: int) -> Iterator[None]:
    with pytest.raises(FuseError) as caught:
        yield
    assert errno.errorcode[caught.value.errno] == errno.errorcode[code], caught.value.__cause__


class Locker:
    """One open file of one guest."""

    def __init__(self, share: Share, node: Node, file: File) -> None:
        self.share, self.node, self.file = share, node, file

    async def lock(self, kind: int, start: int = 0, end: int = MAX_OFFSET, *, owner: int, wait: bool = False) -> None:
        """A lock of fcntl(2)."""
        await self.share.setlk(self.node, self.file, FileLock(owner, kind, start, end, owner), wait, ME)

    async def flock(self, kind: int, *, wait: bool = False) -> None:
        """A lock of flock."""
        await self.share.setlk(self.node, self.file, FileLock(0, kind, flock=True), wait, ME)

    async def ask(self, kind: int, start: int = 0, end: int = MAX_OFFSET, *, owner: int) -> FileLock | None:
        """Who is in the way."""
        return await self.share.getlk(self.node, self.file, FileLock(owner, kind, start, end, owner), ME)


async def opened(share: Share, name: bytes = b"file", flags: int = O_RDWR) -> Locker:
    node = (await share.lookup(share.root, name, ME)).node
    return Locker(share, node, (await share.open(node, flags, ME)).handle)


async def test_processes_of_one_guest(shares: tuple[Share, Share]) -> None:
    file, again = await opened(shares[0]), await opened(shares[0])
    await file.lock(WRLCK, 0, 9, owner=ONE)
    with refused(errno.EAGAIN):
        await again.lock(RDLCK, 9, 20, owner=TWO)
    await again.lock(RDLCK, 10, 20, owner=TWO)
    assert await again.ask(WRLCK, owner=TWO) == FileLock(ONE, WRLCK, 0, 9, ONE)
    assert await file.ask(RDLCK, owner=ONE) is None
    await again.lock(WRLCK, 0, 5, owner=ONE)  # a process has its locks whatever it asks by
    await file.lock(UNLCK, 0, 4, owner=ONE)
    await again.lock(WRLCK, 0, 4, owner=TWO)


async def test_two_guests(shares: tuple[Share, Share]) -> None:
    one, two = await opened(shares[0]), await opened(shares[1])
    await one.lock(WRLCK, 0, 9, owner=ONE)
    with refused(errno.EAGAIN):
        await two.lock(WRLCK, 5, 5, owner=ONE)
    assert await two.ask(RDLCK, 0, 3, owner=ONE) == FileLock(0, WRLCK, 0, 3)
    await two.lock(WRLCK, 10, MAX_OFFSET, owner=ONE)
    await one.lock(RDLCK, 0, 9, owner=ONE)
    await two.lock(RDLCK, 0, 9, owner=ONE)
    with refused(errno.EAGAIN):
        await one.lock(WRLCK, 3, 4, owner=ONE)
    await two.lock(UNLCK, owner=ONE)
    await one.lock(WRLCK, 3, 4, owner=ONE)
    with refused(errno.EAGAIN):
        await two.lock(RDLCK, 0, 9, owner=ONE)
    await two.lock(RDLCK, 0, 2, owner=ONE)


async def test_what_is_locked_can_be_read_and_written(shares: tuple[Share, Share]) -> None:
    one, two = await opened(shares[0]), await opened(shares[1])
    await one.lock(WRLCK, owner=ONE)
    await one.flock(WRLCK)
    assert await shares[1].write_from(two.node, two.file, 0, [memoryview(b"CON")], ME) == 3
    page = bytearray(100)
    assert await shares[1].read_into(two.node, two.file, 0, [memoryview(page)], ME) == 7
    assert page[:7] == b"CONtent"


async def test_flock_and_posix_locks_never_meet(shares: tuple[Share, Share]) -> None:
    one, again, two = await opened(shares[0]), await opened(shares[0]), await opened(shares[1])
    await one.flock(WRLCK)
    for other in (again, two):
        with refused(errno.EAGAIN):
            await other.flock(RDLCK)
        await other.lock(RDLCK, owner=TWO)
    await one.flock(RDLCK)
    await again.flock(RDLCK)
    await two.flock(RDLCK)
    with refused(errno.EAGAIN):
        await one.flock(WRLCK)
    await again.flock(UNLCK)
    await two.flock(WRLCK)  # what wanted to become another was given up


async def test_closing_frees(shares: tuple[Share, Share]) -> None:
    one, two = await opened(shares[0]), await opened(shares[1])
    await one.lock(WRLCK, owner=ONE)
    await one.flock(WRLCK)
    await shares[0].release(one.node, one.file)
    await two.lock(WRLCK, owner=ONE)
    await two.flock(WRLCK)
    await shares[1].aclose()
    await (await opened(shares[0])).lock(WRLCK, owner=ONE)


@pytest.mark.parametrize("other", [0, 1], ids=["same guest", "other guest"])
async def test_waiting(shares: tuple[Share, Share], other: int) -> None:
    one, two = await opened(shares[0]), await opened(shares[other])
    await one.lock(WRLCK, owner=ONE)
    waiting = asyncio.create_task(two.lock(WRLCK, owner=TWO, wait=True))
    interrupted = asyncio.create_task(two.lock(RDLCK, owner=THREE, wait=True))
    await asyncio.wait((waiting, interrupted), timeout=0.1)
    assert not waiting.done()
    interrupted.cancel()
    await asyncio.wait((interrupted,))
    await one.lock(UNLCK, owner=ONE)
    await waiting
    with refused(errno.EAGAIN):
        await one.lock(RDLCK, owner=ONE)


@pytest.mark.parametrize("kind", [UNLCK, RDLCK])
async def test_who_waits_hears_of_a_part_that_is_given_up(shares: tuple[Share, Share], kind: int) -> None:
    one, two = await opened(shares[0]), await opened(shares[0])
    await one.lock(WRLCK, 0, 99, owner=ONE)
    waiting = asyncio.create_task(two.lock(RDLCK, 5, 5, owner=TWO, wait=True))
    await asyncio.wait((waiting,), timeout=0.05)
    await one.lock(kind, 0, 9, owner=ONE)
    async with asyncio.timeout(30):
        await waiting
    with refused(errno.EAGAIN):
        await two.lock(RDLCK, 10, 10, owner=TWO)


async def test_a_deadlock_is_told(shares: tuple[Share, Share]) -> None:
    file, other = await opened(shares[0]), await opened(shares[0], b"other")
    await file.lock(WRLCK, owner=ONE)
    await other.lock(WRLCK, owner=TWO)
    waiting = asyncio.create_task(other.lock(WRLCK, owner=ONE, wait=True))
    await asyncio.wait((waiting,), timeout=0.05)
    with refused(errno.EDEADLK):
        await file.lock(WRLCK, owner=TWO, wait=True)
    await other.lock(UNLCK, owner=TWO)
    await waiting


async def test_a_lock_needs_a_file_that_is_open_for_it(shares: tuple[Share, Share]) -> None:
    reader, writer = await opened(shares[0], flags=O_RDONLY), await opened(shares[0], flags=O_WRONLY)
    with refused(errno.EBADF):
        await reader.lock(WRLCK, owner=ONE)
    with refused(errno.EBADF):
        await writer.lock(RDLCK, owner=ONE)
    await reader.lock(RDLCK, 0, 0, owner=ONE)
    await writer.lock(WRLCK, 1, 1, owner=TWO)
    await reader.flock(WRLCK)


async def test_a_file_without_a_name_and_a_directory(shares: tuple[Share, Share]) -> None:
    share = shares[0]
    file, again = await opened(share), await opened(share)
    await share.unlink(share.root, b"file", ME)
    await file.lock(WRLCK, owner=ONE)
    with refused(errno.EAGAIN):
        await again.lock(WRLCK, owner=TWO)
    directory = Locker(share, share.root, (await share.opendir(share.root, 0, ME)).handle)
    await directory.flock(WRLCK)
    await directory.flock(UNLCK)


async def test_locks_that_are_left_to_the_guest(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    share = Share(tmp_path, locks=False)
    assert not share.init_flags & (InitFlag.POSIX_LOCKS | InitFlag.FLOCK_LOCKS)
    file = await opened(share)
    with refused(errno.ENOSYS):
        await file.lock(WRLCK, owner=ONE)
    await share.aclose()


async def test_questions_linux_does_not_ask(shares: tuple[Share, Share]) -> None:
    file = await opened(shares[0])
    with refused(errno.EINVAL):
        await file.ask(UNLCK, owner=ONE)
