"""What a guest asks for may take long, but not on the event loop: nobody else would be served meanwhile."""

import asyncio
import contextlib
import errno
import fcntl
import os
import stat
import struct
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hdvkit_virtiofs.fuse.answers import Changes, Context
from hdvkit_virtiofs.fuse.errors import FuseError
from hdvkit_virtiofs.fuse.spec import FS_IOC_FSGETXATTR, FS_IOC_FSSETXATTR, FS_IOC_GETFLAGS, FS_IOC_SETFLAGS
from hdvkit_virtiofs.passthrough import Passthrough, _libc
from hdvkit_virtiofs.passthrough.controls import control
from hdvkit_virtiofs.passthrough.descriptors import FREED_AT_ONCE
from hdvkit_virtiofs.passthrough.inodes import Inode
from hdvkit_virtiofs.policy.quota import Quota

ME = Context(uid=os.getuid(), gid=os.getgid())
NODUMP, APPEND_ONLY = 0x40, 0x20
LARGE = FREED_AT_ONCE + 4096


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A large file, a hole as large, and a small file."""
    folder = tmp_path / "share"
    folder.mkdir()
    (folder / "large").write_bytes(b"x" * LARGE)
    (folder / "small").write_bytes(b"content")
    with (folder / "hole").open("wb") as hole:
        hole.truncate(LARGE)
    return folder


@pytest.fixture
async def share(folder: Path) -> AsyncIterator[Passthrough]:
    share = Passthrough(folder)
    yield share
    await share.aclose()
    assert share.live_descriptors == 0


@contextlib.contextmanager
def refused(code: int) -> Iterator[None]:
    with pytest.raises(FuseError) as caught:
        yield
    assert errno.errorcode[caught.value.errno] == errno.errorcode[code]


async def find(share: Passthrough, name: str) -> Inode:
    return (await share.lookup(share.root, os.fsencode(name), ME)).node


class Calls:
    """The threads that made a system call, while it is watched."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, module: object, name: str) -> None:
        self._real = getattr(module, name)
        self.threads: list[int] = []
        self.entered, self.may_go = threading.Event(), threading.Event()
        self.may_go.set()
        monkeypatch.setattr(module, name, self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Make the call, once it may be made."""
        if self.is_meant(*args, **kwargs):
            self.threads.append(threading.get_ident())
            self.entered.set()
            self.may_go.wait()
        return self._real(*args, **kwargs)

    def is_meant(self, *args: Any, **kwargs: Any) -> bool:
        """Whether this call counts."""
        return True

    def on_the_loop(self) -> list[bool]:
        """For each call, and forget them."""
        told, self.threads = [thread == threading.get_ident() for thread in self.threads], []
        return told

    async def began(self) -> None:
        """Wait until the call is about to be made."""
        await asyncio.to_thread(self.entered.wait)


class Freeing(Calls):
    """The closes of files that have no name."""

    def is_meant(self, descriptor: int) -> bool:
        """Whether a regular file without a name is closed."""
        status = os.fstat(descriptor)
        return stat.S_ISREG(status.st_mode) and not status.st_nlink


@pytest.fixture
def freeing(monkeypatch: pytest.MonkeyPatch) -> Freeing:
    return Freeing(monkeypatch, os, "close")


# Truncation


@pytest.mark.parametrize("by", ["name", "handle"])
async def test_a_size_is_set_in_a_thread(
    folder: Path, share: Passthrough, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    truncating = Calls(monkeypatch, os, "ftruncate")
    node = await find(share, "large")
    file = (await share.open(node, os.O_RDWR, ME)).handle if by == "handle" else None
    assert (await share.setattr(node, Changes(size=5, mode=0o600), file, ME)).size == 5
    assert truncating.on_the_loop() == [False]
    assert (folder / "large").stat().st_mode & 0o7777 == 0o600


@pytest.mark.parametrize("access", [os.O_RDONLY, os.O_WRONLY, os.O_RDWR])
@pytest.mark.parametrize("way", ["open", "create"])
async def test_a_file_is_emptied_in_a_thread(
    folder: Path, share: Passthrough, monkeypatch: pytest.MonkeyPatch, way: str, access: int
) -> None:
    truncating = Calls(monkeypatch, os, "ftruncate")
    if way == "open":
        await share.open(await find(share, "large"), access | os.O_TRUNC, ME)
    else:
        entry, _ = await share.create(share.root, b"large", 0o600, access | os.O_TRUNC, ME)
        assert entry.attributes.size == 0
    assert truncating.on_the_loop() == [False]
    assert (folder / "large").stat().st_size == 0


async def test_what_cannot_be_emptied_is_not_left_open(share: Passthrough, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.EIO, "broken")

    node = await find(share, "large")
    before = share.live_descriptors
    monkeypatch.setattr(os, "ftruncate", full)
    for access in (os.O_RDONLY, os.O_RDWR):
        with refused(errno.EIO):
            await share.open(node, access | os.O_TRUNC, ME)
        with refused(errno.EIO):
            await share.create(share.root, b"large", 0o600, access | os.O_TRUNC, ME)
        assert share.live_descriptors == before


# Removal


async def unlink(share: Passthrough, name: str) -> None:
    await share.unlink(share.root, os.fsencode(name), ME)


async def rename_over(share: Passthrough, name: str) -> None:
    await share.rename(share.root, b"small", share.root, os.fsencode(name), 0, ME)


async def forget(share: Passthrough, name: str) -> None:
    node = await find(share, name)
    await unlink(share, name)
    share.forget(node)


async def release(share: Passthrough, name: str) -> None:
    node = await find(share, name)
    file = (await share.open(node, os.O_RDONLY, ME)).handle
    await unlink(share, name)
    share.forget(node)
    await share.release(node, file)


async def forget_all(share: Passthrough, name: str) -> None:
    await find(share, name)
    await unlink(share, name)
    await share.aclose()


@pytest.mark.parametrize("name", ["large", "hole"])
@pytest.mark.parametrize("act", [unlink, rename_over, forget, release, forget_all])
async def test_what_goes_with_its_last_descriptor_is_freed_in_a_thread(
    share: Passthrough, freeing: Freeing, name: str, act: Callable[[Passthrough, str], Awaitable[None]]
) -> None:
    await act(share, name)
    await share.aclose()
    freed = freeing.on_the_loop()
    assert freed
    assert not any(freed)
    assert share.live_descriptors == 0


@pytest.mark.parametrize("act", [unlink, forget, release])
async def test_what_is_small_is_freed_at_once(
    share: Passthrough, freeing: Freeing, act: Callable[[Passthrough, str], Awaitable[None]]
) -> None:
    before = share.live_descriptors
    await act(share, "small")
    assert share.live_descriptors == before
    freed = freeing.on_the_loop()
    assert freed
    assert all(freed)


async def test_what_is_being_freed_counts_and_is_waited_for(share: Passthrough, freeing: Freeing) -> None:
    before = share.live_descriptors
    freeing.may_go.clear()
    try:
        await unlink(share, "large")
        await freeing.began()
        assert share.live_descriptors == before + 1
        closing = asyncio.create_task(share.aclose())
        await share_turns()
        assert not closing.done()
        assert share.live_descriptors == 1
    finally:
        freeing.may_go.set()
    await closing
    assert share.live_descriptors == 0


async def share_turns() -> None:
    """Let everything run that can."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_seeking_goes_through_a_file_in_a_thread(share: Passthrough, monkeypatch: pytest.MonkeyPatch) -> None:
    seeking = Calls(monkeypatch, os, "lseek")
    node = await find(share, "large")
    file = (await share.open(node, os.O_RDONLY, ME)).handle
    assert await share.lseek(node, file, 0, os.SEEK_HOLE, ME) == LARGE
    assert seeking.on_the_loop() == [False]


# The lock of an inode


async def test_nobody_on_the_loop_waits_for_a_thread_that_changes_a_file(
    folder: Path, share: Passthrough, monkeypatch: pytest.MonkeyPatch
) -> None:
    allocating = Calls(monkeypatch, _libc, "fallocate")
    writing, setting = Calls(monkeypatch, os, "pwritev"), Calls(monkeypatch, os, "chmod")
    node, other = await find(share, "large"), await find(share, "small")
    file, another = [(await share.open(each, os.O_RDWR, ME)).handle for each in (node, other)]

    async def write_and_set(node: Inode, file: Any) -> tuple[list[bool], list[bool]]:
        assert await share.write_from(node, file, 0, [memoryview(b"y")], ME) == 1
        assert (await share.setattr(node, Changes(mode=0o600), None, ME)).mode & 0o7777 == 0o600
        return writing.on_the_loop(), setting.on_the_loop()

    allocating.may_go.clear()
    task = asyncio.create_task(share.fallocate(node, file, 0, 0, LARGE, ME))
    try:
        await allocating.began()
        assert await write_and_set(node, file) == ([False], [False])
        assert await write_and_set(other, another) == ([True], [True])
    finally:
        allocating.may_go.set()
    await task
    assert await write_and_set(node, file) == ([True], [True])
    assert (folder / "large").read_bytes()[:2] == b"yx"


# Flags of files that make every call wait


def flags_of(path: Path) -> int:
    """The host's flags of a file; skips where there are none."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return int.from_bytes(control(descriptor, FS_IOC_GETFLAGS, b"", 4, 0), "little")
    except OSError as error:
        pytest.skip(f"the file system of the temporary directory has no flags: {error.strerror}")
    finally:
        os.close(descriptor)


async def opened(share: Passthrough, kind: str) -> tuple[Inode, Any]:
    if kind == "directory":
        node = (await share.mkdir(share.root, b"directory", 0o755, ME)).node
        return node, (await share.opendir(node, 0, ME)).handle
    node = await find(share, "small")
    return node, (await share.open(node, os.O_RDONLY, ME)).handle


@pytest.mark.parametrize("kind", ["file", "directory"])
@pytest.mark.parametrize("bit", [0x8, 0x1_0000], ids=["FS_SYNC_FL", "FS_DIRSYNC_FL"])
async def test_no_guest_makes_calls_synchronous(folder: Path, share: Passthrough, kind: str, bit: int) -> None:
    before = flags_of(folder)
    node, handle = await opened(share, kind)
    now = int.from_bytes(await share.ioctl(node, handle, FS_IOC_GETFLAGS, b"", 4, ME), "little")
    with refused(errno.EPERM):
        await share.ioctl(node, handle, FS_IOC_SETFLAGS, (now ^ bit | NODUMP).to_bytes(4, "little"), 0, ME)
    assert int.from_bytes(await share.ioctl(node, handle, FS_IOC_GETFLAGS, b"", 4, ME), "little") == now
    assert flags_of(folder) == before


NAMES = ("xflags", "extsize", "nextents", "projid", "cowextsize")
X_REFUSED = {
    "FS_XFLAG_SYNC": ("xflags", 0x20),
    "FS_XFLAG_EXTSIZE": ("xflags", 0x800),
    "FS_XFLAG_EXTSZINHERIT": ("xflags", 0x1000),
    "FS_XFLAG_COWEXTSIZE": ("xflags", 0x1_0000),
    "fsx_extsize": ("extsize", 4096),
    "fsx_cowextsize": ("cowextsize", 4096),
}


@pytest.mark.parametrize("kind", ["file", "directory"])
@pytest.mark.parametrize("name", X_REFUSED)
async def test_nor_makes_files_grow_in_other_steps(folder: Path, share: Passthrough, kind: str, name: str) -> None:
    flags_of(folder)
    node, handle = await opened(share, kind)
    before = await share.ioctl(node, handle, FS_IOC_FSGETXATTR, b"", 28, ME)
    fields = list(struct.unpack("<5I8x", before))
    field, bit = X_REFUSED[name]
    fields[NAMES.index(field)] ^= bit
    with refused(errno.EPERM):
        await share.ioctl(node, handle, FS_IOC_FSSETXATTR, struct.pack("<5I8x", *fields), 0, ME)
    assert await share.ioctl(node, handle, FS_IOC_FSGETXATTR, b"", 28, ME) == before


# A file that may only grow


@contextlib.contextmanager
def only_growing(path: Path) -> Iterator[None]:
    """Let a file be appended to and nothing else: ``chattr +a``."""
    flags = flags_of(path)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        _set_flags(descriptor, flags | APPEND_ONLY)
    except OSError as error:
        os.close(descriptor)
        pytest.skip(f"no append-only files here: {error.strerror}")
    try:
        yield
    finally:
        _set_flags(descriptor, flags)
        os.close(descriptor)


def _set_flags(descriptor: int, flags: int) -> None:
    fcntl.ioctl(descriptor, FS_IOC_SETFLAGS, struct.pack("<II", flags, 0))


async def test_a_file_that_only_grows_does_not_grow_beyond_the_quota(folder: Path) -> None:
    """Said to be in place, a write looks as if it added nothing; the kernel would append it."""
    inner = Passthrough(folder)
    share = Quota(inner, max_bytes=10, max_inodes=None, warn=lambda _: None)
    with only_growing(folder / "small"):
        node = (await share.lookup(inner.root, b"small", ME)).node
        file = (await share.open(node, os.O_WRONLY | os.O_APPEND, ME)).handle
        for _ in range(3):
            with refused(errno.EPERM):
                await share.write_from(node, file, 0, [memoryview(b"CONTENT")], ME._replace(in_place=True))
        assert await share.write_from(node, file, 0, [memoryview(b"-more")], ME) == 5
        with refused(errno.EDQUOT):
            await share.write_from(node, file, 0, [memoryview(b"-more-")], ME)
    assert (folder / "small").read_bytes() == b"content-more"
    await inner.aclose()
