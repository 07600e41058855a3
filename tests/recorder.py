"""A file system that writes down what it is asked, and a guest that asks it over rings."""
# ruff: noqa: D102 - what the methods of a file system do is said in its base

import asyncio
import errno
import stat
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from hdvkit_virtiofs import Attributes, Context, Entry, FuseError, Opened, Operations
from hdvkit_virtiofs.fuse import Changes, FileLock, InitFlag, Session

import hdvkit
from hdvkit.testing.driver import VirtioDriver
from hdvkit.testing.fuse_client import FuseClient
from hdvkit.testing.fuse_messages import (
    F_RDLCK,
    F_WRLCK,
    Open,
)
from hdvkit.testing.guest import Guest

LIMIT = 30.0
"""Seconds after which something counts as a hang; nothing is timed against it."""

LOCKS = InitFlag.POSIX_LOCKS | InitFlag.FLOCK_LOCKS
NOTHING = InitFlag(0)
LINUX_7_3 = 0x7BFF_FFFB | 0x5FF << 32


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
