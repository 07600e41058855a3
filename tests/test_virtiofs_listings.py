"""READDIR and READDIRPLUS: short answers, small slices, nothing left behind when one ends early."""

import asyncio
import errno
import os
import stat
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hdvkit_virtiofs import Context, DirEntry, Entry, FuseError, Passthrough
from hdvkit_virtiofs.handlers.listings import LISTING_SIZE, LOOKUPS_PER_TURN, NAMES_PER_TURN
from recorder import LINUX_7_3, Recorder, driven
from turns import Turns

from hdvkit.testing.fuse_client import FuseClient
from hdvkit.testing.fuse_files import IO_IN
from hdvkit.testing.fuse_messages import Opcode
from hdvkit.testing.fuse_replies import read_dirents, read_dirents_plus

if sys.platform == "linux":
    from hdvkit_virtiofs.passthrough import files

ROOM = 1 << 20
CONTEXT = Context()

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="asks how directories of Linux are read")


class Names(Recorder):
    """A directory of ``count`` files. Looking up those in ``slow`` waits until ``go`` is set."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.names = [b"%06d" % number for number in range(count)]
        self.slow: set[bytes] = set()
        self.turns = Turns()
        self.listed: Counter[int] = Counter()
        self.looked_up: Counter[int] = Counter()

    async def readdir(self, node: str, handle: str, offset: int, context: Context) -> Iterable[DirEntry]:
        """Count the names that are taken, by turns."""
        return self._from(offset)

    def _from(self, offset: int) -> Iterator[DirEntry]:
        for number in range(offset, len(self.names)):
            self.listed[self.turns.number] += 1
            yield DirEntry(self.names[number], number + 2, stat.S_IFREG, number + 1)

    async def lookup(self, parent: str, name: bytes, context: Context) -> Entry[str]:
        """Count by turns."""
        self.looked_up[self.turns.number] += 1
        if name in self.slow:
            self.begun.set()
            await self.go.wait()
        return self._entry(name.decode())


@asynccontextmanager
async def mounted(names: Names) -> AsyncIterator[tuple[FuseClient, int]]:
    """A client, and the handle of the directory."""
    async with driven(names, queue_size=1024) as (_, _, driver), names.turns.counted():
        hiprio, *requests = driver.queues
        client = FuseClient(requests, hiprio, minor=46, flags=LINUX_7_3)
        await client.init()
        yield client, (await client.opendir(1)).fh


def asked(fh: int, offset: int = 0) -> bytes:
    return IO_IN.pack(fh, offset, ROOM, 0, 0, 0, 0)


@pytest.mark.parametrize("opcode", [Opcode.READDIR, Opcode.READDIRPLUS])
async def test_an_answer_is_short_and_the_guest_gets_all_names_by_asking_again(opcode: Opcode) -> None:
    names = Names(3000)
    async with mounted(names) as (client, fh):
        seen: list[bytes] = []
        while True:
            data = await client.call(opcode, 1, asked(fh, len(seen)), read_size=ROOM)
            assert len(data) <= LISTING_SIZE
            if not data:
                break
            if opcode == Opcode.READDIR:
                seen += [one.name for one in read_dirents(data)]
            else:
                seen += [one.dirent.name for one in read_dirents_plus(data)]
        assert seen == names.names


@pytest.mark.parametrize("opcode", [Opcode.READDIR, Opcode.READDIRPLUS])
async def test_listings_of_one_guest_share_the_names_of_a_turn(opcode: Opcode) -> None:
    names = Names(2000)
    async with mounted(names) as (client, fh):
        calls = [client.call(opcode, 1, asked(fh), read_size=64 * 1024) for _ in range(32)]
        await asyncio.gather(*calls)
    assert max(names.listed.values()) <= NAMES_PER_TURN + 1
    assert max(names.looked_up.values(), default=0) <= LOOKUPS_PER_TURN


async def test_a_listing_that_waits_holds_up_no_other() -> None:
    names = Names(200)
    names.slow.add(b"000010")
    async with mounted(names) as (client, fh):
        waiting = asyncio.create_task(client.readdirplus(1, fh, 0, ROOM))
        await names.begun.wait()
        assert len(await client.readdir(1, fh, 0, ROOM)) == 200
        assert len(await client.readdirplus(1, fh, 11, ROOM)) == 189
        names.go.set()
        assert len(await waiting) == 200


async def test_an_interrupted_listing_leaves_no_references() -> None:
    names = Names(150)
    names.slow.add(b"000100")
    async with mounted(names) as (client, fh):
        unique, listing = client.start_call(Opcode.READDIRPLUS, 1, asked(fh), read_size=ROOM)
        await names.begun.wait()
        await client.interrupt(unique)
        with pytest.raises(InterruptedError):
            await listing
        assert sorted(names.forgotten) == [name.decode() for name in names.names[:100]]


async def test_names_the_guest_knew_before_an_interrupted_listing_stay() -> None:
    names = Names(150)
    names.slow.add(b"000100")
    async with mounted(names) as (client, fh):
        known = await client.lookup(1, b"000007")
        unique, listing = client.start_call(Opcode.READDIRPLUS, 1, asked(fh), read_size=ROOM)
        await names.begun.wait()
        await client.interrupt(unique)
        with pytest.raises(InterruptedError):
            await listing
        await client.getattr(known.nodeid)
        assert "000007" not in names.forgotten


# Snapshots of directories of the host


@pytest.fixture
async def share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Passthrough]:
    """Directories ``few`` of 50 names and ``many`` of 1000, where a guest may keep 500."""
    monkeypatch.setattr(files, "MAX_NAMES", 500)
    monkeypatch.setattr(files, "LARGEST_DIRECTORY", 2000)
    monkeypatch.setattr(files, "INLINE_NAMES", 8)
    monkeypatch.setattr(files, "NAMES_AT_ONCE", 16)
    for name, count in (("few", 50), ("many", 1000)):
        (tmp_path / name).mkdir()
        for number in range(count):
            (tmp_path / name / str(number)).touch()
    share = Passthrough(tmp_path)
    yield share
    await share.aclose()


class Open:
    """An open directory."""

    def __init__(self, share: Passthrough, name: bytes) -> None:
        self._share, self._name = share, name

    async def open(self) -> "Open":
        """Open it."""
        self.node = (await self._share.lookup(self._share.root, self._name, CONTEXT)).node
        self.handle = (await self._share.opendir(self.node, 0, CONTEXT)).handle
        return self

    async def list(self, offset: int = 0) -> int:
        """How many names there are from an offset on."""
        return len(list(await self._share.readdir(self.node, self.handle, offset, CONTEXT)))

    async def close(self) -> None:
        """Close it."""
        await self._share.releasedir(self.node, self.handle)


async def refused(listing: "asyncio.Future[int]") -> int:
    with pytest.raises(FuseError) as refusal:
        await listing
    return refusal.value.errno


@on_linux
async def test_a_directory_closed_while_it_is_read_is_not_remembered(share: Passthrough) -> None:
    for _ in range(20):
        directory = await Open(share, b"few").open()
        listing = asyncio.create_task(directory.list())
        await asyncio.sleep(0)  # it waits for its thread
        await directory.close()
        assert await refused(listing) == errno.EBADF
    few, others = await Open(share, b"few").open(), [await Open(share, b"few").open() for _ in range(8)]
    assert await few.list() == 52
    assert [await other.list() for other in others] == [52] * 8, "468 of 500"


@on_linux
async def test_a_second_listing_of_a_directory_that_is_closed_meanwhile_is_not_remembered(share: Passthrough) -> None:
    directory = await Open(share, b"many").open()
    assert await directory.list() == 1002
    listing = asyncio.create_task(directory.list())
    await asyncio.sleep(0)
    await directory.close()
    assert await refused(listing) == errno.EBADF
    others = [await Open(share, b"few").open() for _ in range(2)]
    assert [await other.list() for other in others] == [52, 52]


@on_linux
async def test_reading_stops_where_the_limit_is(share: Passthrough, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = 0
    scandir = os.scandir

    class Counting:
        def __init__(self, descriptor: int) -> None:
            self._names = scandir(descriptor)

        def __enter__(self) -> "Counting":
            return self

        def __exit__(self, *_: object) -> None:
            self._names.close()

        def __iter__(self) -> "Counting":
            return self

        def __next__(self) -> os.DirEntry[str]:
            nonlocal taken
            name = next(self._names)
            taken += 1
            return name

    few, many = await Open(share, b"few").open(), await Open(share, b"many").open()
    assert await few.list() == 52
    monkeypatch.setattr(os, "scandir", Counting)
    assert await refused(asyncio.ensure_future(many.list())) == errno.ENOMEM
    assert 0 < taken <= 500 - 52 + files.NAMES_AT_ONCE
    assert await few.list(50) == 2, "the first goes on"
    await few.close()
    assert await many.list() == 1002, "what was read and refused does not count"


@on_linux
async def test_even_a_single_listing_has_a_limit(share: Passthrough, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LARGEST_DIRECTORY", 900)
    few, many = await Open(share, b"few").open(), await Open(share, b"many").open()
    assert await refused(asyncio.ensure_future(many.list())) == errno.ENOMEM
    assert await few.list() == 52


@on_linux
async def test_a_directory_can_be_listed_again_where_it_fits_once(
    share: Passthrough, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MAX_NAMES", 1100)
    few, many = await Open(share, b"few").open(), await Open(share, b"many").open()
    assert await few.list() == 52
    assert [await many.list() for _ in range(3)] == [1002] * 3
