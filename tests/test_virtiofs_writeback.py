"""A guest that collects writes (WRITEBACK_CACHE): what it asks of a share then, and what the share must leave to it."""
# ruff: noqa: ASYNC240 - the host side of a test may block, nobody else is on the loop
# ruff: noqa: D102 - what the methods of a file system do is said in its base

import stat
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hdvkit_virtiofs import Context, MemoryFileSystem, Operations
from hdvkit_virtiofs.fuse import InitFlag
from systems import IS_ROOT, need_directories

import hdvkit
from hdvkit.testing.fuse_client import FuseClient
from hdvkit.testing.fuse_messages import Open
from hdvkit.testing.guest import Guest

LINUX_7_3 = 0x7BFF_FFFB | 0x5FF << 32
WITHOUT = LINUX_7_3 & ~InitFlag.WRITEBACK_CACHE
ROOT = 1
WRITE_CACHE = 1
SECOND = 1_000_000_000


@asynccontextmanager
async def mounted(
    source: Path | Operations[Any, Any], *, flags: int = LINUX_7_3, **options: object
) -> AsyncIterator[FuseClient]:
    async with hdvkit.open_host("sim") as host:
        share = await host.add("virtiofs", source=source, tag="t", **options)
        async with Guest.of(host).drive(share) as driver:
            hiprio, *requests = driver.queues
            client = FuseClient(requests, hiprio, minor=46, flags=flags)
            await client.init()
            yield client


@pytest.fixture
def file(tmp_path: Path) -> Path:
    need_directories()
    path = tmp_path / "file"
    path.write_bytes(b"content")
    return path


async def opened(client: FuseClient, flags: int) -> tuple[int, int]:
    nodeid = (await client.lookup(ROOT, b"file")).nodeid
    return nodeid, (await client.open(nodeid, flags)).fh


@pytest.mark.parametrize(
    ("asked", "flags", "agreed"),
    [(False, LINUX_7_3, False), (True, LINUX_7_3, True), (True, WITHOUT, False), (False, WITHOUT, False)],
)
async def test_it_is_agreed_when_the_share_asks_and_the_guest_offers(
    file: Path, asked: bool, flags: int, agreed: bool
) -> None:
    async with mounted(file.parent, writeback=asked, flags=flags) as client:
        assert bool(client.session.flags & InitFlag.WRITEBACK_CACHE) is agreed


async def test_a_page_is_filled_by_who_only_writes(file: Path) -> None:
    """A write to a part of a page reads the rest first, by whatever the file is open for."""
    async with mounted(file.parent, writeback=True) as client:
        nodeid, fh = await opened(client, Open.WRONLY)
        page = await client.read(nodeid, fh, 0, 4096)
        assert page == b"content"
        assert await client.write(nodeid, fh, 0, b"CON" + page[3:], write_flags=WRITE_CACHE) == 7
        assert file.read_bytes() == b"CONtent"


async def test_who_only_reads_writes_nothing(file: Path) -> None:
    async with mounted(file.parent, writeback=True) as client:
        nodeid, fh = await opened(client, Open.RDONLY)
        with pytest.raises(OSError, match="Bad file"):
            await client.write(nodeid, fh, 0, b"x", write_flags=WRITE_CACHE)
    assert file.read_bytes() == b"content"


@pytest.mark.parametrize("write_flags", [WRITE_CACHE, 0], ids=["page", "direct"])
async def test_the_guest_has_appended_by_itself(file: Path, write_flags: int) -> None:
    """It alone knows where the file ends; what a host process has appended meanwhile does not move its data."""
    async with mounted(file.parent, writeback=True) as client:
        nodeid, fh = await opened(client, Open.RDWR | Open.APPEND)
        file.write_bytes(b"content-of-the-host")
        assert await client.write(nodeid, fh, 7, b"-more", flags=Open.RDWR | Open.APPEND, write_flags=write_flags) == 5
        assert file.read_bytes() == b"content-morehe-host"


async def test_without_it_the_host_appends(file: Path) -> None:
    async with mounted(file.parent) as client:
        nodeid, fh = await opened(client, Open.RDWR | Open.APPEND)
        file.write_bytes(b"content-of-the-host")
        assert await client.write(nodeid, fh, 7, b"-more", flags=Open.RDWR | Open.APPEND) == 5
        assert file.read_bytes() == b"content-of-the-host-more"


class Places(MemoryFileSystem):
    """Notes which writes are said to have their place."""

    def __init__(self) -> None:
        super().__init__({"file": b"content"})
        self.in_place: list[bool] = []

    async def write_from(
        self, node: Any, handle: Any, offset: int, views: Sequence[memoryview], context: Context
    ) -> int:
        self.in_place.append(context.in_place)
        return await super().write_from(node, handle, offset, views, context)


@pytest.mark.parametrize(("flags", "expected"), [(LINUX_7_3, [True, True]), (WITHOUT, [True, False])])
async def test_a_class_is_told_which_writes_have_their_place(flags: int, expected: list[bool]) -> None:
    """By what was agreed, not by what the share was asked for: an older guest leaves appending to the file system."""
    places = Places()
    async with mounted(places, writeback=True, flags=flags) as client:
        nodeid, fh = await opened(client, Open.RDWR | Open.APPEND)
        for write_flags in (WRITE_CACHE, 0):
            await client.write(nodeid, fh, 0, b"x", flags=Open.RDWR | Open.APPEND, write_flags=write_flags)
    assert places.in_place == expected


async def test_times_are_the_guests(file: Path) -> None:
    """It changes them when a process writes, and tells when it writes back: after the data, or mtime would be wrong."""
    async with mounted(file.parent, writeback=True) as client:
        nodeid, fh = await opened(client, Open.RDWR)
        await client.write(nodeid, fh, 0, b"new", write_flags=WRITE_CACHE)
        answer = await client.setattr(nodeid, mtime_ns=3 * SECOND + 7, ctime_ns=4 * SECOND, fh=fh)
        assert (answer.attr.mtime, answer.attr.mtimensec) == (3, 7)
        await client.flush(nodeid, fh)
        await client.release(nodeid, fh)
    assert file.stat().st_mtime_ns == 3 * SECOND + 7


async def test_a_larger_file_is_the_guests_until_it_writes_back(file: Path) -> None:
    """Pages come in any order; what is not written yet is a hole, and no request for attributes cuts it."""
    async with mounted(file.parent, writeback=True) as client:
        nodeid, fh = await opened(client, Open.RDWR)
        await client.write(nodeid, fh, 8192, b"b" * 4096, write_flags=WRITE_CACHE)
        assert (await client.getattr(nodeid)).attr.size == 12288
        await client.write(nodeid, fh, 4096, b"a" * 4096, write_flags=WRITE_CACHE)
    assert file.read_bytes() == b"content" + bytes(4089) + b"a" * 4096 + b"b" * 4096


async def test_setuid_goes_when_the_guest_says_so(file: Path) -> None:
    """Linux does not collect writes to a setuid file: the first goes through with the flag, and takes the bits."""
    file.chmod(0o6777)
    async with mounted(file.parent, writeback=True) as client:
        nodeid, fh = await opened(client, Open.WRONLY)
        await client.as_user(1000, 1000).write(nodeid, fh, 0, b"x", kill_suidgid=True)
        assert stat.S_IMODE(file.stat().st_mode) == 0o777


@pytest.mark.skipif(not IS_ROOT, reason="the host's kernel takes setuid from whoever writes and is not root")
async def test_setuid_stays_when_old_pages_are_written_back(file: Path) -> None:
    """The bits may have been set after the write; the guest has judged when the process wrote."""
    file.chmod(0o6777)
    async with mounted(file.parent, writeback=True) as client:
        nodeid, fh = await opened(client, Open.WRONLY)
        await client.as_user(1000, 1000).write(nodeid, fh, 0, b"x", write_flags=WRITE_CACHE)
        assert stat.S_IMODE(file.stat().st_mode) == 0o6777
