"""Each flag of INIT by what follows from it, seen from the guest: with the flag agreed, and mostly without it too.

The tests stand under the flags they show. Which flags have one is a table that grows by ``shows``, and the last test
compares it with the flags that Linux offers and a share has a say in.
"""

# ruff: noqa: D102 - what the methods of a file system do is said in its base

import asyncio
import os
import stat
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hdvkit_virtiofs import Attributes, Context, Entry, Operations
from hdvkit_virtiofs.fuse import InitFlag
from systems import IS_ROOT, need_directories

import hdvkit
from hdvkit.testing.fuse_client import FuseClient
from hdvkit.testing.fuse_messages import Opcode, Open
from hdvkit.testing.guest import Guest

LIMIT = 30.0
"""Seconds after which something counts as a hang; nothing is timed against it."""
MIB = 1 << 20
LINUX_7_3 = 0x7BFF_FFFB | 0x5FF << 32
ROOT = 1
WRITE_CACHE = 1
DIRECT_IO = 1
ATTR_SUBMOUNT = 1
ACL_DEFAULT = "system.posix_acl_default"
OPEN_ACL = struct.pack("<I" + "HHI" * 3, 2, 1, 7, 2**32 - 1, 4, 7, 2**32 - 1, 32, 7, 2**32 - 1)
"""Everybody may do everything."""

LISTED = (
    InitFlag.MAX_PAGES
    | InitFlag.WRITEBACK_CACHE
    | InitFlag.POSIX_ACL
    | InitFlag.HANDLE_KILLPRIV_V2
    | InitFlag.SUBMOUNTS
    | InitFlag.SECURITY_CTX
    | InitFlag.CREATE_SUPP_GROUP
    | InitFlag.DIRECT_IO_ALLOW_MMAP
    | InitFlag.PARALLEL_DIROPS
    | InitFlag.AUTO_INVAL_DATA
    | InitFlag.ATOMIC_O_TRUNC
    | InitFlag.READDIRPLUS_AUTO
    | InitFlag.NO_OPEN_SUPPORT
    | InitFlag.SETXATTR_EXT
    | InitFlag.INIT_EXT
)

shown: dict[InitFlag, list[str]] = {}
Test = TypeVar("Test", bound=Callable[..., Any])


def shows(flag: InitFlag) -> Callable[[Test], Test]:
    """Enter a test into the table."""

    def enter(test: Test) -> Test:
        shown.setdefault(flag, []).append(test.__name__)
        return test

    return enter


@asynccontextmanager
async def mounted(
    source: Path | Operations[Any, Any], *, flags: int = LINUX_7_3, minor: int = 46, **options: object
) -> AsyncIterator[FuseClient]:
    """A guest that has done INIT and offers ``flags``."""
    async with hdvkit.open_host("sim") as host, asyncio.timeout(LIMIT):
        share = await host.add("virtiofs", source=source, tag="t", **options)
        async with Guest.of(host).drive(share) as driver:
            hiprio, *requests = driver.queues
            client = FuseClient(requests, hiprio, minor=minor, flags=flags)
            await client.init()
            yield client


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    need_directories()
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "file").chmod(0o666)
    return tmp_path


async def opened(client: FuseClient, flags: int = Open.RDWR) -> tuple[int, int]:
    nodeid = (await client.lookup(ROOT, b"file")).nodeid
    return nodeid, (await client.open(nodeid, flags)).fh


class Names(Operations[str, None]):
    """Every name is a directory; ``mkdir`` notes who asks, and ``lookup`` waits until two are under way."""

    root = "/"
    init_flags = InitFlag.CREATE_SUPP_GROUP | InitFlag.SECURITY_CTX

    def __init__(self, together: int = 1) -> None:
        self.context = Context()
        self.together = asyncio.Barrier(together)

    async def lookup(self, parent: str, name: bytes, context: Context) -> Entry[str]:
        await self.together.wait()
        return Entry(name.decode(), Attributes(2, stat.S_IFDIR | 0o755, submount=name == b"other"))

    async def mkdir(self, parent: str, name: bytes, mode: int, context: Context) -> Entry[str]:
        self.context = context
        return Entry(name.decode(), Attributes(2, stat.S_IFDIR | mode))


# Sizes


@shows(InitFlag.MAX_PAGES)
async def test_a_mebibyte_goes_in_one_request(folder: Path) -> None:
    async with mounted(folder) as client:
        assert client.session.max_pages == 256
        nodeid, fh = await opened(client)
        data = os.urandom(MIB)
        assert await client.write(nodeid, fh, 0, data) == MIB
        assert await client.read(nodeid, fh, 0, MIB) == data


@shows(InitFlag.MAX_PAGES)
async def test_a_guest_without_a_number_of_pages_sends_32(folder: Path) -> None:
    async with mounted(folder, flags=LINUX_7_3 & ~InitFlag.MAX_PAGES) as client:
        assert client.session.max_pages == 32
        nodeid, fh = await opened(client)
        assert await client.write(nodeid, fh, 0, bytes(32 * 4096)) == 32 * 4096


# What the guest may keep; writeback has a file of its own


@shows(InitFlag.WRITEBACK_CACHE)
@pytest.mark.parametrize("writeback", [False, True])
async def test_what_is_open_for_writing_is_read_by_who_collects_writes(folder: Path, writeback: bool) -> None:
    async with mounted(folder, writeback=writeback) as client:
        assert bool(client.session.flags & InitFlag.WRITEBACK_CACHE) is writeback
        nodeid, fh = await opened(client, Open.WRONLY)
        if writeback:
            assert await client.read(nodeid, fh, 0, 100) == b"content"
        else:
            with pytest.raises(OSError, match="Bad file"):
                await client.read(nodeid, fh, 0, 100)


@shows(InitFlag.AUTO_INVAL_DATA)
async def test_attributes_tell_what_a_host_process_wrote(folder: Path) -> None:
    """By time and size of the answer to GETATTR or OPEN's revalidation the guest drops its pages: they must be new."""
    async with mounted(folder, cache="always") as client:
        nodeid, fh = await opened(client)
        before = (await client.getattr(nodeid)).attr
        assert await client.read(nodeid, fh, 0, 100) == b"content"
        (folder / "file").write_bytes(b"CONTENT and more")
        os.utime(folder / "file", ns=(1, 5_000_000_007))
        after = (await client.getattr(nodeid)).attr
        assert (before.size, after.size, after.mtime, after.mtimensec) == (7, 16, 5, 7)
        assert await client.read(nodeid, fh, 0, 100) == b"CONTENT and more"


@shows(InitFlag.DIRECT_IO_ALLOW_MMAP)
async def test_a_file_without_a_cache_may_be_mapped(folder: Path) -> None:
    """Pages of a shared map come and go beside what is read and written directly, and have their place."""
    async with mounted(folder, cache="never") as client:
        assert client.session.flags & InitFlag.DIRECT_IO_ALLOW_MMAP
        nodeid = (await client.lookup(ROOT, b"file")).nodeid
        answer = await client.open(nodeid, Open.RDWR | Open.APPEND)
        assert answer.open_flags & DIRECT_IO
        assert await client.read(nodeid, answer.fh, 0, 4096) == b"content"
        assert await client.write(nodeid, answer.fh, 0, b"CON", flags=Open.APPEND | 2, write_flags=WRITE_CACHE) == 3
        assert await client.write(nodeid, answer.fh, 0, b"!", flags=Open.APPEND | 2) == 1
        assert (folder / "file").read_bytes() == b"CONtent!"


# Opening


@shows(InitFlag.ATOMIC_O_TRUNC)
async def test_opening_truncates(folder: Path) -> None:
    async with mounted(folder) as client:
        assert client.session.flags & InitFlag.ATOMIC_O_TRUNC
        await opened(client, Open.RDWR | Open.TRUNC)
        assert (folder / "file").read_bytes() == b""


@shows(InitFlag.NO_OPEN_SUPPORT)
async def test_a_directory_of_the_host_is_opened(folder: Path) -> None:
    """Not taken: the flag says only that the guest stands ENOSYS for OPEN, and a share needs open files of its own.

    An open file is read after it was unlinked, holds locks, and has a descriptor that was opened with O_APPEND.
    """
    async with mounted(folder) as client:
        assert client.session.offered & InitFlag.NO_OPEN_SUPPORT
        assert not client.session.flags & (InitFlag.NO_OPEN_SUPPORT | InitFlag.NO_OPENDIR_SUPPORT)
        nodeid, fh = await opened(client)
        assert fh
        with pytest.raises(OSError, match="Bad file"):
            await client.read(nodeid, 0, 0, 7)


@shows(InitFlag.NO_OPEN_SUPPORT)
async def test_a_class_without_open_is_read_by_handle_0() -> None:
    class Stateless(Names):
        async def read(self, node: str, handle: None, offset: int, size: int, context: Context) -> bytes:
            return b"content"[offset : offset + size]

    async with mounted(Stateless()) as client:
        nodeid = (await client.lookup(ROOT, b"file")).nodeid
        with pytest.raises(OSError, match="not implemented"):
            await client.open(nodeid, Open.RDONLY)
        assert await client.read(nodeid, 0, 3, 100) == b"tent"


# Directories


@shows(InitFlag.PARALLEL_DIROPS)
async def test_two_requests_in_one_directory_are_under_way_together() -> None:
    async with mounted(Names(together=2)) as client:
        assert client.session.flags & InitFlag.PARALLEL_DIROPS
        found = await asyncio.gather(client.lookup(ROOT, b"a"), client.lookup(ROOT, b"b"))
        assert len({entry.nodeid for entry in found}) == 2


@shows(InitFlag.READDIRPLUS_AUTO)
@pytest.mark.parametrize("plus_first", [False, True])
async def test_a_listing_may_change_between_with_and_without_attributes(folder: Path, plus_first: bool) -> None:
    """Linux asks with attributes at the start and where somebody looks at them, else without, in one listing."""
    names = {f"{number:03}".encode() for number in range(200)} | {b"file"}
    for name in names:
        (folder / name.decode()).touch()
    async with mounted(folder) as client:
        assert client.session.flags & InitFlag.READDIRPLUS_AUTO
        fh = (await client.opendir(ROOT)).fh
        seen: list[bytes] = []
        offset, plus = 0, plus_first
        while True:
            if plus:
                listed = [dirent for _, dirent in await client.readdirplus(ROOT, fh, offset)]
            else:
                listed = await client.readdir(ROOT, fh, offset, 1024)
            if not listed:
                break
            seen += [dirent.name for dirent in listed]
            offset, plus = listed[-1].off, not plus
        assert sorted(seen) == sorted(names | {b".", b".."})


@shows(InitFlag.SUBMOUNTS)
async def test_where_another_file_system_begins_is_told() -> None:
    async with mounted(Names()) as client:
        assert client.session.flags & InitFlag.SUBMOUNTS
        assert (await client.lookup(ROOT, b"other")).attr.flags & ATTR_SUBMOUNT
        assert not (await client.lookup(ROOT, b"same")).attr.flags & ATTR_SUBMOUNT


# Who makes things, and what they get


@shows(InitFlag.CREATE_SUPP_GROUP)
async def test_a_further_group_of_the_caller_arrives() -> None:
    names = Names()
    async with mounted(names) as client:
        await client.as_user(500, 600, groups=[700]).mkdir(ROOT, b"d", 0o755)
        assert names.context.groups == (700,)


@shows(InitFlag.CREATE_SUPP_GROUP)
async def test_a_guest_that_tells_no_groups_has_judged_by_them() -> None:
    names = Names()
    async with mounted(names, flags=LINUX_7_3 & ~InitFlag.CREATE_SUPP_GROUP) as client:
        await client.as_user(500, 600).mkdir(ROOT, b"d", 0o755)
        assert names.context.groups is None


@shows(InitFlag.SECURITY_CTX)
async def test_a_label_arrives_with_what_is_made() -> None:
    names = Names()
    label = (b"security.selinux", b"label\0")
    async with mounted(names) as client:
        await client.as_user(500, 600, security=[label]).mkdir(ROOT, b"d", 0o755)
        assert names.context.security == (label,)
    async with mounted(names, flags=LINUX_7_3 & ~InitFlag.SECURITY_CTX) as client:
        await client.as_user(500, 600, security=[label]).mkdir(ROOT, b"d", 0o755)
        assert names.context.security == ()


@shows(InitFlag.POSIX_ACL)
async def test_a_directorys_default_list_stands_above_the_umask(folder: Path) -> None:
    (folder / "open").mkdir()
    (folder / "plain").mkdir()
    try:
        os.setxattr(folder / "open", ACL_DEFAULT, OPEN_ACL)
    except OSError as error:
        pytest.skip(f"the file system of the temporary directory has no ACLs: {error.strerror}")
    async with mounted(folder, posix_acl=True) as client:
        needed = InitFlag.POSIX_ACL | InitFlag.DONT_MASK | InitFlag.SETXATTR_EXT
        assert client.session.flags & needed == needed
        for name, expected in (("open", 0o777), ("plain", 0o755)):
            parent = (await client.lookup(ROOT, name.encode())).nodeid
            await client.mkdir(parent, b"d", 0o777, umask=0o022)
            assert stat.S_IMODE((folder / name / "d").stat().st_mode) == expected
    async with mounted(folder) as client:
        assert not client.session.flags & (InitFlag.POSIX_ACL | InitFlag.DONT_MASK)


@shows(InitFlag.HANDLE_KILLPRIV_V2)
@pytest.mark.parametrize("agreed", [False, True])
async def test_who_changes_data_takes_setuid_away(folder: Path, agreed: bool) -> None:
    """FALLOCATE has no flag for it: with the flag agreed the server sees who asks, without the guest has done it."""
    (folder / "file").chmod(0o6777)
    offered = LINUX_7_3 if agreed else LINUX_7_3 & ~InitFlag.HANDLE_KILLPRIV_V2
    async with mounted(folder, flags=offered) as client:
        nodeid, fh = await opened(client)
        await client.as_user(1000, 1000).fallocate(nodeid, fh, 0, 8192)
        if IS_ROOT:  # else the host's kernel takes them from whoever writes
            assert stat.S_IMODE((folder / "file").stat().st_mode) == (0o777 if agreed else 0o6777)
        (folder / "file").chmod(0o6777)
        await client.write(nodeid, fh, 0, b"x", kill_suidgid=True)
        assert stat.S_IMODE((folder / "file").stat().st_mode) == 0o777


@shows(InitFlag.SETXATTR_EXT)
async def test_setting_a_list_may_take_setgid(folder: Path) -> None:
    (folder / "file").chmod(0o2750)
    async with mounted(folder) as client:
        nodeid = (await client.lookup(ROOT, b"file")).nodeid
        body = struct.pack("<IIII", 1, 0, 1, 0) + b"user.a\0v"
        await client.call(Opcode.SETXATTR, nodeid, body)
        assert os.getxattr(folder / "file", "user.a") == b"v"
        assert stat.S_IMODE((folder / "file").stat().st_mode) == 0o750


@shows(InitFlag.SETXATTR_EXT)
async def test_an_older_guest_sends_a_shorter_head(folder: Path) -> None:
    async with mounted(folder, flags=LINUX_7_3 & ~InitFlag.SETXATTR_EXT) as client:
        nodeid = (await client.lookup(ROOT, b"file")).nodeid
        await client.call(Opcode.SETXATTR, nodeid, struct.pack("<II", 1, 0) + b"user.a\0v")
        assert os.getxattr(folder / "file", "user.a") == b"v"


# The second word


@shows(InitFlag.INIT_EXT)
async def test_flags_of_the_second_word_count_only_with_it() -> None:
    second = InitFlag.SECURITY_CTX | InitFlag.CREATE_SUPP_GROUP | InitFlag.DIRECT_IO_ALLOW_MMAP
    async with mounted(Names()) as client:
        assert client.session.flags & (second | InitFlag.INIT_EXT) == second | InitFlag.INIT_EXT
    async with mounted(Names(), flags=LINUX_7_3 & ~InitFlag.INIT_EXT) as client:
        assert not client.session.flags >> 32


def test_every_flag_has_a_test() -> None:
    assert set(shown) == set(LISTED)
    assert all(name in globals() for names in shown.values() for name in names)
