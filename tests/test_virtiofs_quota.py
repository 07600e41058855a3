"""A quota in front of file systems: what a guest adds stops at the budget, and what it removes comes back.

The oracle is what lies in the shared directory, counted by plain system calls.
"""

# ruff: noqa: D102 - a rule is called by what it does

import asyncio
import errno
import itertools
import os
import stat
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hdvkit_virtiofs import MemoryFileSystem, Operations, Passthrough
from hdvkit_virtiofs.fuse.answers import Attributes, Changes, Context, Entry, Opened, StatFs
from hdvkit_virtiofs.fuse.errors import FuseError
from hdvkit_virtiofs.fuse.spec import O_APPEND, O_CREAT, O_EXCL, O_RDONLY, O_RDWR, O_TRUNC, O_WRONLY
from hdvkit_virtiofs.memory_tree import MemoryNode
from hdvkit_virtiofs.policy.quota import Quota
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from systems import GID, UID, need_directories, shares_directories

import hdvkit
from hdvkit import DeviceHost
from hdvkit.testing.guest import Guest
from hdvkit.testing.mount import GuestMount

T = TypeVar("T")
Share = Quota[Any, Any]

ME = Context(uid=UID, gid=GID)
KIB, MIB = 1 << 10, 1 << 20
KEEP_SIZE, PUNCH_HOLE = 1, 2
NOREPLACE, EXCHANGE = 1, 2


class Memory(MemoryFileSystem):
    """A file system in memory with extended attributes and files without names."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.xattrs: dict[tuple[MemoryNode, bytes], bytes] = {}

    async def getxattr(self, node: MemoryNode, name: bytes, context: Context) -> bytes:
        if (node, name) not in self.xattrs:
            raise FuseError(errno.ENODATA)
        return self.xattrs[node, name]

    async def setxattr(self, node: MemoryNode, name: bytes, value: bytes, flags: int, context: Context) -> None:
        await asyncio.sleep(0)
        self.xattrs[node, name] = value

    async def removexattr(self, node: MemoryNode, name: bytes, context: Context) -> None:
        await self.getxattr(node, name, context)
        del self.xattrs[node, name]

    async def tmpfile(
        self, parent: MemoryNode, mode: int, flags: int, context: Context
    ) -> tuple[Entry[MemoryNode], Opened[None]]:
        node = MemoryNode(10**6, stat.S_IFREG | mode)
        node.links = 0
        return self._entry(node), Opened(None)

    async def link(self, node: MemoryNode, parent: MemoryNode, name: bytes, context: Context) -> Entry[MemoryNode]:
        if not node.links:
            self._tree._attach(parent, name, node)
            return self._entry(node)
        return await super().link(node, parent, name, context)


class Gated(Memory):
    """Writes and removals wait at a gate, attributes at another; a write broken off there has done ``part`` bytes."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.gate = asyncio.Event()
        self.arrived = asyncio.Event()
        self.part = 0
        self.looks = 0
        self.looking = asyncio.Event()
        self.answers = asyncio.Event()  # attributes are looked up at once, and told when this is set
        self.answers.set()

    async def write(self, node: MemoryNode, handle: None, offset: int, data: bytes, context: Context) -> int:
        self.arrived.set()
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            if self.part:
                await super().write(node, handle, offset, data[: self.part], context)
            raise
        return await super().write(node, handle, offset, data, context)

    async def unlink(self, parent: MemoryNode, name: bytes, context: Context) -> None:
        self.arrived.set()
        await self.gate.wait()
        await super().unlink(parent, name, context)

    async def getattr(self, node: MemoryNode, handle: None, context: Context) -> Attributes:
        self.looks += 1
        attributes = await super().getattr(node, handle, context)
        self.looking.set()
        await self.answers.wait()
        return attributes


class Stateless(MemoryFileSystem):
    """Reads and writes without opening."""

    async def open(self, node: MemoryNode, flags: int, context: Context) -> Opened[None]:
        raise FuseError(errno.ENOSYS)


class Caller:
    """A guest that forgets what it does not hold open, in front of a share."""

    def __init__(self, share: Share) -> None:
        self.share = share
        self.root = share.root

    async def made(self, name: bytes, flags: int = O_RDWR) -> tuple[Any, Any]:
        entry, opened = await self.share.create(self.root, name, 0o644, flags | O_CREAT, ME)
        return entry.node, opened.handle

    async def write(self, node: Any, handle: Any, offset: int, data: bytes) -> int:
        return await self.share.write_from(node, handle, offset, [memoryview(data)], ME)

    async def close(self, node: Any, handle: Any) -> None:
        await self.share.release(node, handle)
        self.share.forget(node)

    async def file(self, name: bytes, size: int) -> None:
        node, handle = await self.made(name)
        try:
            await self.write(node, handle, 0, bytes(size))
        finally:
            await self.close(node, handle)

    async def node(self, name: bytes) -> Any:
        return (await self.share.lookup(self.root, name, ME)).node

    async def remove(self, name: bytes) -> None:
        await self.share.unlink(self.root, name, ME)


def quota(
    inner: Operations[Any, Any],
    max_bytes: int | None = MIB,
    max_inodes: int | None = 100,
    warn: Callable[[str], None] = lambda text: None,
    clock: Callable[[], float] = time.monotonic,
) -> Share:
    return Quota(inner, max_bytes=max_bytes, max_inodes=max_inodes, warn=warn, clock=clock)


@contextmanager
def refused(code: int = errno.EDQUOT) -> Iterator[None]:
    with pytest.raises(FuseError) as caught:
        yield
    assert errno.errorcode[caught.value.errno] == errno.errorcode[code]


def weight(folder: Path) -> tuple[int, int]:
    """Bytes and inodes below a directory, each file once."""
    found = {}
    for here, directories, files in os.walk(folder):
        for name in directories + files:
            status = (Path(here) / name).lstat()
            found[status.st_ino] = 0 if stat.S_ISDIR(status.st_mode) else status.st_size
    return sum(found.values()), len(found)


@pytest.fixture(params=["memory", pytest.param("passthrough", marks=shares_directories)])
async def inner(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Operations[Any, Any]]:
    inner: Operations[Any, Any] = Memory() if request.param == "memory" else Passthrough(tmp_path)
    yield inner
    await inner.aclose()


@pytest.fixture
async def share(inner: Operations[Any, Any]) -> Share:
    return quota(inner)


@pytest.fixture
def guest(share: Share) -> Caller:
    return Caller(share)


@pytest.fixture
async def folder(tmp_path: Path) -> AsyncIterator[tuple[Path, Share]]:
    """A directory that already holds more than the quota."""
    need_directories()
    (tmp_path / "old").write_bytes(bytes(3 * MIB))
    inner = Passthrough(tmp_path)
    yield tmp_path, quota(inner)
    await inner.aclose()


# Bytes


async def test_writes_end_at_the_budget_and_not_before(guest: Caller, share: Share) -> None:
    node, handle = await guest.made(b"a")
    for at in range(0, MIB, 64 * KIB):
        assert await guest.write(node, handle, at, bytes(64 * KIB)) == 64 * KIB
    with refused():
        await guest.write(node, handle, MIB, b"x")
    with refused():
        await guest.write(node, handle, MIB - 1, b"xy")
    assert await guest.write(node, handle, MIB - 2, b"xy") == 2
    assert share.bytes.used == MIB
    assert (await share.getattr(node, None, ME)).size == MIB


@pytest.mark.parametrize("offset", [MIB, 1 << 40, (1 << 63) - 2])
async def test_a_sparse_write_is_refused_and_leaves_nothing(guest: Caller, share: Share, offset: int) -> None:
    node, handle = await guest.made(b"a")
    with refused():
        await guest.write(node, handle, offset, b"x")
    assert share.bytes.used == 0
    assert (await share.getattr(node, None, ME)).size == 0


async def test_a_size_is_charged_and_given_back(guest: Caller, share: Share) -> None:
    node, _ = await guest.made(b"a")
    with refused():
        await share.setattr(node, Changes(size=MIB + 1), None, ME)
    await share.setattr(node, Changes(size=MIB), None, ME)
    assert share.bytes.used == MIB
    await share.setattr(node, Changes(size=1000), None, ME)
    await share.setattr(node, Changes(mode=0o600), None, ME)
    assert share.bytes.used == 1000


async def test_delete_and_write_again(guest: Caller, share: Share) -> None:
    for _ in range(3):
        await guest.file(b"a", MIB)
        with refused():
            await guest.file(b"b", 1)
        await guest.remove(b"b")
        await guest.remove(b"a")
        assert (share.bytes.used, share.inodes.used) == (0, 0)


async def test_a_file_without_a_name_is_charged_until_it_is_forgotten(guest: Caller, share: Share) -> None:
    node, handle = await guest.made(b"a")
    await guest.write(node, handle, 0, bytes(MIB))
    await guest.remove(b"a")
    with refused():
        await guest.write(node, handle, MIB, b"x")
    assert (share.bytes.used, share.inodes.used) == (MIB, 1)
    await guest.close(node, handle)
    assert (share.bytes.used, share.inodes.used) == (0, 0)


async def test_the_last_of_several_names_counts(guest: Caller, share: Share) -> None:
    await guest.file(b"a", 1000)
    node = await guest.node(b"a")
    await share.link(node, share.root, b"b", ME)
    share.forget(node)
    assert (share.bytes.used, share.inodes.used) == (1000, 1)
    await guest.remove(b"a")
    assert (share.bytes.used, share.inodes.used) == (1000, 1)
    await guest.remove(b"b")
    assert (share.bytes.used, share.inodes.used) == (0, 0)


@pytest.mark.parametrize("how", ["open", "create"])
async def test_emptying_by_opening_gives_back(guest: Caller, share: Share, how: str) -> None:
    await guest.file(b"a", MIB)
    node = await guest.node(b"a")
    if how == "open":
        await share.open(node, O_RDWR | O_TRUNC, ME)
    else:
        entry, _ = await share.create(share.root, b"a", 0o644, O_RDWR | O_CREAT | O_TRUNC, ME)
        assert (entry.node, entry.attributes.size) == (node, 0)
    assert (share.bytes.used, share.inodes.used) == (0, 1)
    await guest.file(b"b", MIB)


async def test_what_the_host_had_is_not_counted(folder: tuple[Path, Share]) -> None:
    path, share = folder
    guest = Caller(share)
    old = await guest.node(b"old")
    handle = (await share.open(old, O_RDWR, ME)).handle
    await guest.write(old, handle, 0, bytes(3 * MIB))
    assert share.bytes.used == 0
    await guest.write(old, handle, 3 * MIB, bytes(MIB))
    with refused():
        await guest.write(old, handle, 4 * MIB, b"x")
    await guest.remove(b"old")
    await guest.close(old, handle)
    assert share.bytes.used == 0
    with refused():
        await guest.file(b"a", 2 * MIB)
    await guest.file(b"a", MIB)
    assert weight(path) == (MIB, 1)


async def test_appending_is_charged_whatever_the_offset_says(folder: tuple[Path, Share]) -> None:
    path, share = folder
    guest = Caller(share)
    node, handle = await guest.made(b"a", O_WRONLY | O_APPEND)
    for count in range(1, 17):
        await guest.write(node, handle, 0, bytes(64 * KIB))
        assert share.bytes.used == count * 64 * KIB
    with refused():
        await guest.write(node, handle, 0, b"x")
    assert (path / "a").stat().st_size == MIB


async def test_appending_is_charged_when_another_open_of_the_same_handle_is_closed() -> None:
    share: Share = Quota(MemoryFileSystem({"f": b""}), max_bytes=MIB, max_inodes=None, warn=lambda _: None)
    guest = Caller(share)
    node = await guest.node(b"f")
    handles = [(await share.open(node, O_WRONLY | O_APPEND, ME)).handle for _ in range(2)]
    assert handles == [None, None], "this file system hands out one for all"
    await share.release(node, handles[0])
    await guest.write(node, handles[1], 0, bytes(MIB))
    with refused():
        await guest.write(node, handles[1], 0, b"x")
    assert share.bytes.used == MIB


async def test_a_link_weighs_its_target(guest: Caller, share: Share) -> None:
    entry = await share.symlink(share.root, b"l", b"t" * 1000, ME)
    assert (share.bytes.used, share.inodes.used) == (1000, 1)
    share.forget(entry.node)
    await guest.remove(b"l")
    assert (share.bytes.used, share.inodes.used) == (0, 0)


# What only a host directory can do


async def test_fallocate_ends_at_the_budget(folder: tuple[Path, Share]) -> None:
    path, share = folder
    guest = Caller(share)
    node, handle = await guest.made(b"a")
    for mode in (0, KEEP_SIZE):
        with refused():
            await share.fallocate(node, handle, mode, 0, MIB + 1, ME)
        with refused():
            await share.fallocate(node, handle, mode, 1 << 40, 4096, ME)
    assert share.bytes.used == 0
    await share.fallocate(node, handle, 0, 0, MIB, ME)
    await share.fallocate(node, handle, KEEP_SIZE | PUNCH_HOLE, 0, MIB, ME)
    assert share.bytes.used == (path / "a").stat().st_size == MIB


@pytest.mark.parametrize("cut", [0, 1000, 2000])
@pytest.mark.parametrize("forgotten", [False, True])
async def test_space_behind_the_end_is_charged_until_it_goes(
    folder: tuple[Path, Share], forgotten: bool, cut: int
) -> None:
    path, share = folder
    guest = Caller(share)
    node, handle = await guest.made(b"a")
    try:
        await share.fallocate(node, handle, KEEP_SIZE, 0, MIB, ME)
    except FuseError:
        pytest.skip("the file system below cannot allocate behind the end")
    assert (path / "a").stat().st_blocks * 512 >= MIB
    await guest.write(node, handle, 0, bytes(1000))
    assert share.bytes.used == MIB
    if forgotten:
        await guest.close(node, handle)
        with refused():
            await guest.file(b"b", 1)
        node = await guest.node(b"a")
    await share.setattr(node, Changes(size=2000), None, ME)  # growing frees nothing
    assert share.bytes.used == MIB
    await share.setattr(node, Changes(size=cut), None, ME)
    assert share.bytes.used == cut
    assert (path / "a").stat().st_blocks * 512 < MIB


async def test_what_fallocate_refuses_costs_nothing(share: Share, guest: Caller) -> None:
    node, handle = await guest.made(b"a")
    with pytest.raises(FuseError):
        await share.fallocate(node, handle, KEEP_SIZE | 8, 0, 1000, ME)
    assert share.bytes.used == 0


async def test_copies_end_at_the_budget(folder: tuple[Path, Share]) -> None:
    path, share = folder
    guest = Caller(share)
    old = await guest.node(b"old")
    source = (old, (await share.open(old, O_RDONLY, ME)).handle, 0)
    node, handle = await guest.made(b"a")
    with refused():
        await share.copy_file_range(source, (node, handle, 0), 1 << 62, 0, ME)
    assert await share.copy_file_range(source, (node, handle, 0), MIB, 0, ME) == MIB
    assert share.bytes.used == (path / "a").stat().st_size == MIB
    with refused():
        await share.copy_file_range(source, (node, handle, MIB), 1, 0, ME)
    tail = (*source[:2], 3 * MIB - 10)
    await share.setattr(node, Changes(size=0), None, ME)
    assert await share.copy_file_range(tail, (node, handle, 0), 1 << 62, 0, ME) == 10
    assert share.bytes.used == 10


async def test_a_look_at_a_name_leaves_no_descriptor_behind(folder: tuple[Path, Share]) -> None:
    path, share = folder
    guest = Caller(share)
    assert isinstance(share.inner, Passthrough)
    (path / "old").write_bytes(b"small")  # what is large is closed in a thread, a moment later
    before = share.inner.live_descriptors
    (path / "b").touch()
    for name in (b"old", b"b"):
        await guest.remove(name)
    with refused(errno.ENOENT):
        await guest.remove(b"b")
    await guest.file(b"a", 10)
    await guest.file(b"b", 10)
    await share.rename(share.root, b"a", share.root, b"b", 0, ME)
    assert share.inner.live_descriptors == before


# Inodes


async def test_inodes_end_at_the_budget(guest: Caller, share: Share) -> None:
    for number in range(25):
        share.forget((await share.mkdir(share.root, b"d%d" % number, 0o755, ME)).node)
        share.forget((await share.mknod(share.root, b"n%d" % number, stat.S_IFREG | 0o644, 0, ME)).node)
        share.forget((await share.symlink(share.root, b"l%d" % number, b"t", ME)).node)
        await guest.file(b"f%d" % number, 0)
    assert share.inodes.used == 100
    for more in (
        share.mkdir(share.root, b"x", 0o755, ME),
        share.mknod(share.root, b"x", stat.S_IFIFO | 0o644, 0, ME),
        share.symlink(share.root, b"x", b"t", ME),
        share.tmpfile(share.root, 0o644, O_RDWR, ME),
        guest.made(b"x"),
        guest.made(b"x", O_RDWR | O_EXCL),
    ):
        with refused():
            await more
    assert share.bytes.used == 25
    await guest.made(b"f0")  # it is there
    await share.rmdir(share.root, b"d0", ME)
    with refused(errno.EEXIST):
        await share.mkdir(share.root, b"d1", 0o755, ME)
    await guest.made(b"x")


async def test_what_was_not_made_costs_nothing(guest: Caller, share: Share) -> None:
    await guest.file(b"a", 10)
    for again in (
        share.mkdir(share.root, b"a", 0o755, ME),
        share.symlink(share.root, b"a", b"target", ME),
        guest.made(b"a", O_RDWR | O_EXCL),
    ):
        with refused(errno.EEXIST):
            await again
    await guest.made(b"a")
    assert (share.bytes.used, share.inodes.used) == (10, 1)


async def test_what_a_rename_replaces_is_given_back(guest: Caller, share: Share) -> None:
    await guest.file(b"a", 10)
    await guest.file(b"b", 1000)
    await share.rename(share.root, b"a", share.root, b"a", 0, ME)
    await share.rename(share.root, b"a", share.root, b"b", EXCHANGE, ME)
    with refused(errno.EEXIST):
        await share.rename(share.root, b"a", share.root, b"b", NOREPLACE, ME)
    assert (share.bytes.used, share.inodes.used) == (1010, 2)
    await share.rename(share.root, b"b", share.root, b"a", 0, ME)
    assert (share.bytes.used, share.inodes.used) == (10, 1)
    share.forget((await share.mkdir(share.root, b"d", 0o755, ME)).node)
    share.forget((await share.mkdir(share.root, b"e", 0o755, ME)).node)
    await share.rename(share.root, b"d", share.root, b"e", 0, ME)
    assert (share.bytes.used, share.inodes.used) == (10, 2)


async def test_renaming_between_names_of_one_file_gives_nothing_back(guest: Caller, share: Share) -> None:
    await guest.file(b"a", 10)
    node = await guest.node(b"a")
    await share.link(node, share.root, b"b", ME)
    await share.rename(share.root, b"a", share.root, b"b", 0, ME)
    share.forget(node)
    assert (share.bytes.used, share.inodes.used) == (10, 1)


async def test_a_file_without_a_name_that_gets_one_stays() -> None:
    share = quota(Memory())
    guest = Caller(share)
    for name in (None, b"a"):
        entry, opened = await share.tmpfile(share.root, 0o644, 0, ME)
        await guest.write(entry.node, opened.handle, 0, bytes(1000))
        if name:
            await share.link(entry.node, share.root, name, ME)
        await guest.close(entry.node, opened.handle)
        assert (share.bytes.used, share.inodes.used) == ((1000, 1) if name else (0, 0))
    await guest.remove(b"a")
    assert (share.bytes.used, share.inodes.used) == (0, 0)


# Extended attributes


async def test_extended_attributes_count_as_bytes() -> None:
    share = quota(Memory())
    guest = Caller(share)
    await guest.file(b"a", 10)
    node = await guest.node(b"a")
    for number in range(15):
        await share.setxattr(node, b"user.%03d" % number, bytes(65536 - 8), 0, ME)
    assert share.bytes.used == 10 + 15 * 65536
    with refused():
        await share.setxattr(node, b"user.015", bytes(65536), 0, ME)
    with refused():
        await share.setxattr(node, b"user.000", bytes(2 * 65536), 0, ME)
    await share.setxattr(node, b"user.000", b"", 0, ME)
    await share.removexattr(node, b"user.001", ME)
    with refused(errno.ENODATA):
        await share.removexattr(node, b"user.001", ME)
    assert share.bytes.used == 10 + 13 * 65536 + 8
    share.forget(node)
    await guest.remove(b"a")
    assert (share.bytes.used, share.inodes.used) == (0, 0)


async def test_the_same_attribute_set_at_once_is_charged_once() -> None:
    share = quota(Memory())
    guest = Caller(share)
    node, _ = await guest.made(b"a")
    await asyncio.gather(*(share.setxattr(node, b"user.a", bytes(1000), 0, ME) for _ in range(10)))
    assert share.bytes.used == 1006


async def test_attributes_nobody_was_charged_for_give_nothing_back() -> None:
    inner = Memory(tree={"old": b"x"})
    share = quota(inner)
    guest = Caller(share)
    await guest.file(b"a", 1000)
    old = await guest.node(b"old")
    inner.xattrs[old, b"user.old"] = bytes(500)
    await share.removexattr(old, b"user.old", ME)
    assert share.bytes.used == 1000


async def test_attributes_a_file_is_born_with_count() -> None:
    share = quota(Memory())
    guest = Caller(share)
    context = ME._replace(security=((b"security.selinux", bytes(84)),))
    share.forget((await share.mkdir(share.root, b"d", 0o755, context)).node)
    assert share.bytes.used == 100
    with refused():
        await share.mkdir(share.root, b"e", 0o755, ME._replace(security=((b"security.selinux", bytes(MIB)),)))
    assert (share.bytes.used, share.inodes.used) == (100, 1)
    await share.rmdir(guest.root, b"d", ME)
    assert (share.bytes.used, share.inodes.used) == (0, 0)


# At the same time


async def test_two_writers_at_once_stay_within_together() -> None:
    inner = Gated()
    share = quota(inner, 1000)
    guest = Caller(share)
    files = [await guest.made(b"%d" % number) for number in range(4)]

    async def open_gate() -> None:  # starts last, so all writes have got as far as they get
        inner.gate.set()

    writes = (guest.write(*files[number % 4], 100 * (number // 4), bytes(100)) for number in range(16))
    answers = (await asyncio.gather(*writes, open_gate(), return_exceptions=True))[:-1]
    assert sum(isinstance(answer, FuseError) for answer in answers) == 6
    sizes = [(await share.getattr(node, None, ME)).size for node, _ in files]
    assert sum(sizes) == share.bytes.used == 1000


async def test_growth_that_overlaps_is_charged_once() -> None:
    inner = Gated()
    share = quota(inner)
    guest = Caller(share)
    node, handle = await guest.made(b"a")
    looks = inner.looks
    writers = [asyncio.create_task(guest.write(node, handle, at, bytes(100))) for at in (0, 50, 0, 100)]
    await inner.arrived.wait()
    inner.gate.set()
    await asyncio.gather(*writers)
    assert share.bytes.used == 200
    assert inner.looks == looks  # known sizes are not asked for


@pytest.mark.parametrize("part", [0, 40])
async def test_a_write_that_is_broken_off_costs_what_it_did(part: int) -> None:
    inner = Gated()
    share = quota(inner, 100)
    guest = Caller(share)
    node, handle = await guest.made(b"a")
    inner.part = part
    writer = asyncio.create_task(guest.write(node, handle, 0, bytes(100)))
    await inner.arrived.wait()
    assert share.bytes.used == 100
    writer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writer
    assert share.bytes.used == part
    inner.gate.set()
    assert await guest.write(node, handle, part, bytes(100 - part)) == 100 - part


async def test_cutting_below_a_write_under_way_is_settled_when_both_are_over() -> None:
    inner = Gated()
    inner.gate.set()
    share = quota(inner, 1000)
    guest = Caller(share)
    node, handle = await guest.made(b"a")
    await guest.write(node, handle, 0, bytes(1000))
    inner.gate.clear()
    inner.arrived.clear()
    writer = asyncio.create_task(guest.write(node, handle, 0, bytes(600)))
    await inner.arrived.wait()
    await share.setattr(node, Changes(size=0), None, ME)
    assert share.bytes.used == 1000
    inner.gate.set()
    await writer
    assert share.bytes.used == (await share.getattr(node, None, ME)).size == 600


async def test_a_size_that_is_stale_when_it_is_told_is_not_believed() -> None:
    inner = Gated()
    inner.gate.set()
    share = quota(inner, 1000)
    guest = Caller(share)
    node, handle = await guest.made(b"a")
    await guest.write(node, handle, 0, bytes(1000))
    inner.answers.clear()
    inner.looking.clear()
    cut = asyncio.create_task(share.setattr(node, Changes(size=0), None, ME))
    await inner.looking.wait()
    inner.looking.clear()
    writer = asyncio.create_task(guest.write(node, handle, 0, bytes(600)))
    await inner.looking.wait()
    inner.answers.set()
    await asyncio.gather(cut, writer)
    assert share.bytes.used == 600


async def test_two_names_of_one_file_removed_at_once_give_it_back() -> None:
    inner = Gated()
    inner.gate.set()
    share = quota(inner)
    guest = Caller(share)
    await guest.file(b"a", 100)
    node = await guest.node(b"a")
    await share.link(node, share.root, b"b", ME)
    share.forget(node)
    inner.gate.clear()
    inner.arrived.clear()
    removals = [asyncio.create_task(guest.remove(name)) for name in (b"a", b"b")]
    await inner.arrived.wait()
    inner.gate.set()
    await asyncio.gather(*removals)
    assert (share.bytes.used, share.inodes.used) == (0, 0)


async def test_two_removals_of_one_name_give_back_once() -> None:
    inner = Gated()
    inner.gate.set()
    share = quota(inner)
    guest = Caller(share)
    await guest.file(b"a", 100)
    await guest.file(b"keep", 100)
    inner.gate.clear()
    removals = [asyncio.create_task(guest.remove(b"a")) for _ in range(2)]
    inner.gate.set()
    answers = await asyncio.gather(*removals, return_exceptions=True)
    assert [type(answer) for answer in answers] == [type(None), FuseError]
    assert (share.bytes.used, share.inodes.used) == (100, 1)


async def test_a_removal_that_is_broken_off_gives_nothing_back() -> None:
    inner = Gated()
    inner.gate.set()
    share = quota(inner)
    guest = Caller(share)
    await guest.file(b"a", 100)
    inner.gate.clear()
    inner.arrived.clear()
    removal = asyncio.create_task(guest.remove(b"a"))
    await inner.arrived.wait()
    removal.cancel()
    with pytest.raises(asyncio.CancelledError):
        await removal
    assert (share.bytes.used, share.inodes.used) == (100, 1)


async def test_creations_of_one_name_at_once_are_one_inode(guest: Caller, share: Share) -> None:
    made = await asyncio.gather(*(guest.made(b"a") for _ in range(8)))
    assert share.inodes.used == 1
    assert len({node for node, _ in made}) == 1


# The host, and file systems of other kinds


async def test_a_host_process_does_not_spoil_the_account(folder: tuple[Path, Share]) -> None:
    path, share = folder
    guest = Caller(share)
    node, handle = await guest.made(b"a")
    await guest.write(node, handle, 0, bytes(1000))
    with (path / "a").open("ab") as other:
        other.write(bytes(MIB))
    await share.setattr(node, Changes(size=MIB), None, ME)
    assert 1000 <= share.bytes.used <= MIB
    os.truncate(path / "a", 0)
    await share.setattr(node, Changes(size=0), None, ME)
    assert share.bytes.used == 0
    (path / "a").unlink()
    with refused(errno.ENOENT):
        await guest.remove(b"a")
    await guest.close(node, handle)
    assert 0 <= share.bytes.used <= MIB


async def test_stateless_file_systems_are_charged_too() -> None:
    share = quota(Stateless(tree={"a": b"12345"}), 10)
    guest = Caller(share)
    node = await guest.node(b"a")
    for flags in (O_RDWR, O_RDWR | O_TRUNC, O_RDWR | O_APPEND):
        with refused(errno.ENOSYS):
            await share.open(node, flags, ME)
    assert share.bytes.used == 0
    writers = [guest.write(node, None, 5 * number, b"12345") for number in range(4)]
    answers = await asyncio.gather(*writers, return_exceptions=True)
    assert answers[:3] == [5, 5, 5]
    assert isinstance(answers[3], FuseError)
    assert share.bytes.used == 10


async def test_without_limits_nothing_is_refused() -> None:
    told: list[str] = []
    share = quota(Memory(), None, None, told.append)
    guest = Caller(share)
    await guest.file(b"a", 2 * MIB)
    assert (await share.statfs(share.root, ME)) == await share.inner.statfs(share.root, ME)
    assert not told


# What is told


async def test_statfs_shows_the_budget(guest: Caller, share: Share) -> None:
    await guest.file(b"a", MIB // 4)
    answer = await share.statfs(share.root, ME)
    assert answer.blocks == MIB // answer.frsize
    assert answer.bfree == answer.bavail == answer.blocks * 3 // 4
    assert (answer.files, answer.ffree) == (100, 99)


async def test_statfs_never_shows_more_than_there_is() -> None:
    class Full(MemoryFileSystem):
        files = 50

        async def statfs(self, node: MemoryNode, context: Context) -> StatFs:
            return StatFs(1000, 7, 5, self.files, min(self.files, 3))

    share = quota(Full())
    answer = await share.statfs(share.root, ME)
    assert (answer.blocks, answer.bfree, answer.bavail) == (256, 7, 5)
    assert (answer.files, answer.ffree) == (100, 3)
    Full.files = 0  # no fixed number, as on btrfs
    answer = await share.statfs(share.root, ME)
    assert (answer.files, answer.ffree) == (100, 100)


async def test_warnings_come_once_until_usage_fell() -> None:
    told: list[str] = []
    share = quota(Memory(), 1000, None, told.append, clock=itertools.count(0, 60).__next__)
    guest = Caller(share)
    node, handle = await guest.made(b"a")

    async def resize(size: int) -> None:
        await share.setattr(node, Changes(size=size), None, ME)

    await resize(800)
    assert told == []
    await resize(801)
    await resize(1000)
    assert len(told) == 1
    assert "801 of at most 1000 bytes" in told[0]
    for _ in range(3):
        with refused():
            await guest.write(node, handle, 1000, b"x" * 7)
    assert len(told) == 2
    assert "7 more bytes" in told[1]
    await resize(700)
    await resize(900)
    assert len(told) == 2
    await resize(699)
    await resize(900)
    with refused():
        await resize(1001)
    assert len(told) == 4


async def test_a_guest_that_goes_up_and_down_is_told_of_once_a_minute() -> None:
    told: list[str] = []
    now = 0.0
    share = quota(Memory(), 1000, None, told.append, clock=lambda: now)
    guest = Caller(share)
    node, _ = await guest.made(b"a")

    async def up_and_down() -> None:
        await share.setattr(node, Changes(size=1000), None, ME)
        with refused():
            await share.setattr(node, Changes(size=1001), None, ME)
        await share.setattr(node, Changes(size=0), None, ME)

    for _ in range(100):
        await up_and_down()
    assert len(told) == 2, "of usage, and of the refusal"
    now = 59.9
    await up_and_down()
    assert len(told) == 2
    now = 60.0
    await up_and_down()
    assert len(told) == 4
    await up_and_down()
    now = 125.0
    await share.setattr(node, Changes(size=1000), None, ME)
    assert len(told) == 5, "what could not be told in time is told when it is still so"


async def test_refusals_far_from_the_limit_are_told_once() -> None:
    told: list[str] = []
    share = quota(Memory(), 1000, None, told.append)
    guest = Caller(share)
    for number in range(3):
        await guest.file(b"a", 10)
        with refused():
            await guest.file(b"b%d" % number, 10_000)
        await guest.remove(b"a")
    assert len(told) == 1


# A guest that does its worst, through the device


@pytest.fixture
async def host() -> AsyncIterator[DeviceHost]:
    async with hdvkit.open_host("sim") as host:
        yield host


@asynccontextmanager
async def mounted(host: DeviceHost, share: Share) -> AsyncIterator[GuestMount]:
    function = await host.add("virtiofs", source=share, tag="share", queues=2)
    async with Guest.of(host).mount(function) as mount:
        yield mount


@contextmanager
def over() -> Iterator[None]:
    with pytest.raises(OSError, match="Disk quota exceeded") as caught:
        yield
    assert caught.value.errno == errno.EDQUOT


@shares_directories
async def test_bombs_stop_at_the_quota(host: DeviceHost, tmp_path: Path) -> None:
    told: list[str] = []
    share = quota(Passthrough(tmp_path), MIB, 1000, told.append)
    async with mounted(host, share) as mount:
        async with await mount.open("sparse", "wb") as file:
            with over():
                await file.pwrite(b"x", 1 << 40)
            with over():
                await file.allocate(0, 1 << 40)
            with over():
                await file.allocate(1 << 30, 1 << 30, KEEP_SIZE)
        with over():
            await mount.truncate("sparse", 1 << 40)
        with over():
            await mount.write_bytes("big", bytes(2 * MIB))
        await mount.unlink("big")
        await mount.drop_caches()
        await mount.write_bytes("half", bytes(MIB // 2 + 1))
        async with await mount.open("half") as half, await mount.open("copy", "wb") as copy:
            with over():
                await half.copy_to(copy, MIB)
        with over():
            for number in range(2000):
                await mount.write_bytes(f"empty-{number}", b"")
        assert weight(tmp_path) == (MIB // 2 + 1, 1000)
        answer = await mount.statvfs()
        assert answer.blocks * answer.frsize == MIB
        assert (answer.files, answer.ffree) == (1000, 0)
    assert [("inodes" in text, "asked" in text) for text in told[-2:]] == [(True, False), (True, True)]
    assert len(told) == 4  # bytes: refused and high; refused again within the minute is not told
    assert share.bytes.used <= MIB


async def test_attribute_bombs_stop_at_the_quota(host: DeviceHost) -> None:
    inner = Memory()
    share = quota(inner, MIB, 100)
    async with mounted(host, share) as mount:
        await mount.write_bytes("a", b"")
        with over():
            for number in range(1000):
                await mount.setxattr("a", f"user.{number}", bytes(60_000))
        stored = sum(len(name) + len(value) for (_, name), value in inner.xattrs.items())
        assert MIB - 60_010 < stored == share.bytes.used


@shares_directories
async def test_two_mounting_programs_write_at_once(host: DeviceHost, tmp_path: Path) -> None:
    share = quota(Passthrough(tmp_path), MIB, 100)

    async def fill(mount: GuestMount, name: str) -> None:
        async with await mount.open(name, "wb") as file:
            with over():
                while True:
                    await file.write(bytes(10_000))

    async with mounted(host, share) as mount:
        await asyncio.gather(*(fill(mount, f"f{number}") for number in range(4)))
        assert weight(tmp_path)[0] == share.bytes.used
        assert MIB - 10_000 < share.bytes.used <= MIB


@shares_directories
async def test_unmounting_gives_back_what_has_no_name(host: DeviceHost, tmp_path: Path) -> None:
    share = quota(Passthrough(tmp_path))
    async with mounted(host, share) as mount:
        await mount.write_bytes("a", bytes(1000))
        await mount.write_bytes("b", bytes(10))
        await mount.unlink("a")
    assert (share.bytes.used, share.inodes.used) == weight(tmp_path) == (10, 1)


# Anything in any order

NAMES = [b"a", b"b", b"c"]
names = st.sampled_from(NAMES)
sizes = st.sampled_from([0, 1, 100, 999, 1000, 4096, 5000])
LIMIT, INODES = 10_000, 4


class Account(RuleBasedStateMachine):
    """A directory of the host behind a quota. It is empty at first, so usage is what lies in it."""

    def __init__(self, folder: Path, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self.folder = folder / str(len(list(folder.iterdir())))
        self.folder.mkdir()
        self.loop = loop
        self.inner = Passthrough(self.folder)
        self.share = quota(self.inner, LIMIT, INODES)
        self.guest = Caller(self.share)
        self.open: list[tuple[Any, Any]] = []

    def teardown(self) -> None:
        while self.open:
            self._close()
        assert (self.share.bytes.used, self.share.inodes.used) == weight(self.folder)
        self._run(self.inner.aclose())

    def _run(self, call: Coroutine[Any, Any, T]) -> T | int:
        """Refusals are fine; what they leave behind is what is looked at."""
        try:
            return self.loop.run_until_complete(call)
        except FuseError as error:
            return error.errno

    def _held(self) -> set[Any]:
        return {node for node, _ in self.open}

    def _forget(self, node: Any) -> None:
        if node not in self._held():
            self.share.forget(node)

    def _close(self) -> None:
        node, handle = self.open.pop()
        self._run(self.share.release(node, handle))
        self._forget(node)

    def _node(self, name: bytes) -> Any:
        found = self._run(self.share.lookup(self.share.root, name, ME))
        return None if isinstance(found, int) else found.node

    @rule(name=names, flags=st.sampled_from([0, O_TRUNC, O_APPEND, O_EXCL]))
    def create(self, name: bytes, flags: int) -> None:
        made = self._run(self.guest.made(name, O_RDWR | flags))
        if not isinstance(made, int):
            self.open.append(made)
        if len(self.open) > 3:
            self._close()

    @rule(offset=sizes, size=sizes, first=st.booleans())
    def write(self, offset: int, size: int, first: bool) -> None:
        if self.open:
            self._run(self.guest.write(*self.open[0 if first else -1], offset, bytes(size)))

    @rule(offsets=st.lists(sizes, min_size=2, max_size=4), size=sizes)
    def write_at_once(self, offsets: Sequence[int], size: int) -> None:
        async def all_of_them() -> None:
            writes = (self.guest.write(*self.open[at % len(self.open)], at, bytes(size)) for at in offsets)
            await asyncio.gather(*writes, return_exceptions=True)

        if self.open:
            self._run(all_of_them())

    @rule(offset=sizes, length=sizes)
    def allocate(self, offset: int, length: int) -> None:
        if self.open:
            self._run(self.share.fallocate(*self.open[-1], 0, offset, length, ME))

    @rule(offset=sizes, length=sizes)
    def copy(self, offset: int, length: int) -> None:
        if len(self.open) > 1:
            source, target = (*self.open[0], 0), (*self.open[-1], offset)
            self._run(self.share.copy_file_range(source, target, length, 0, ME))

    @rule(name=names, size=sizes)
    def truncate(self, name: bytes, size: int) -> None:
        node = self._node(name)
        if node is not None:
            self._run(self.share.setattr(node, Changes(size=size), None, ME))
            self._forget(node)

    @rule()
    def close(self) -> None:
        if self.open:
            self._close()

    @rule(name=names)
    def remove(self, name: bytes) -> None:
        self._run(self.share.unlink(self.share.root, name, ME))
        self._run(self.share.rmdir(self.share.root, name, ME))

    @rule(old=names, new=names)
    def link(self, old: bytes, new: bytes) -> None:
        node = self._node(old)
        if node is not None:
            self._run(self.share.link(node, self.share.root, new, ME))
            self._forget(node)

    @rule(old=names, new=names, flags=st.sampled_from([0, 0, NOREPLACE, EXCHANGE]))
    def rename(self, old: bytes, new: bytes, flags: int) -> None:
        self._run(self.share.rename(self.share.root, old, self.share.root, new, flags, ME))

    @rule(name=names, directory=st.booleans())
    def make(self, name: bytes, directory: bool) -> None:
        root = self.share.root
        call = self.share.mkdir(root, name, 0o755, ME) if directory else self.share.symlink(root, name, b"to", ME)
        made = self._run(call)
        if not isinstance(made, int):
            self._forget(made.node)

    @invariant()
    def usage_is_what_there_is(self) -> None:
        """What has a name, and what is open without one."""
        size, inodes = weight(self.folder)
        for node in self._held():
            status = os.fstat(node.descriptor)
            if not status.st_nlink:
                size, inodes = size + status.st_size, inodes + 1
        assert (self.share.bytes.used, self.share.inodes.used) == (size, inodes)
        assert size <= LIMIT
        assert inodes <= INODES


@shares_directories
def test_any_sequence_is_accounted_for(tmp_path: Path) -> None:
    loop = asyncio.new_event_loop()
    try:
        run_state_machine_as_test(  # type: ignore[no-untyped-call]  # hypothesis leaves it untyped
            lambda: Account(tmp_path, loop),
            settings=settings(max_examples=60, stateful_step_count=30, deadline=None, database=None, derandomize=True),
        )
    finally:
        loop.close()
