"""What C answers for a share, and what it leaves to Python: by the opcodes that reach the server."""

import asyncio
import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hdvkit_virtiofs import MemoryFileSystem, Passthrough, VirtioFs
from hdvkit_virtiofs.fuse.spec import Opcode
from hdvkit_virtiofs.native import hot_path
from hdvkit_virtiofs.policy import Operation
from native_share import forgotten, mounted, refusal, shown

import hdvkit
from hdvkit import native
from hdvkit.testing.fuse_client import FuseClient
from hdvkit.testing.fuse_messages import ROOT_ID, Open
from hdvkit.testing.guest import Guest

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not native.native().used, reason=f"{native.native().reason}; and it is for Linux"
)

ATTRIBUTES = {Opcode.GETATTR, Opcode.STATFS}
MAKES = {Opcode.CREATE, Opcode.MKDIR}
REMOVES = {Opcode.UNLINK}
OPENS = {Opcode.OPEN, Opcode.FLUSH, Opcode.RELEASE}
LISTS = {Opcode.OPENDIR, Opcode.READDIR, Opcode.READDIRPLUS, Opcode.RELEASEDIR}
SYNCS = {Opcode.FSYNC, Opcode.FSYNCDIR}
HOT = {Opcode.LOOKUP, Opcode.GETXATTR, *ATTRIBUTES, *MAKES, *REMOVES, *OPENS, *LISTS, *SYNCS, Opcode.READ, Opcode.WRITE}
"""All that C answers; what forgets has no answer."""

CHANGES = {*MAKES, *REMOVES, Opcode.WRITE}


async def allow(operation: Operation) -> None:
    """Let everything pass."""


ALLOWED: list[tuple[dict[str, Any], set[Opcode]]] = [
    # The options of a share, and what C may answer then.
    ({}, HOT),
    ({"cache": "never"}, HOT),
    ({"read_only": True}, HOT - CHANGES),
    ({"xattr": False}, HOT),
    ({"locks": False}, HOT),
    ({"posix_acl": True}, HOT - MAKES),
    ({"security_ctx": True, "xattr_rules": ("ok:security.",)}, HOT - MAKES - {Opcode.GETXATTR}),
    ({"xattr_rules": ("bad:security.", "ok:")}, HOT),
    ({"writeback": True}, HOT - OPENS - {Opcode.CREATE}),
    ({"deny": ("hidden",)}, {*ATTRIBUTES, Opcode.GETXATTR, *OPENS, Opcode.FSYNC, Opcode.READ, Opcode.WRITE}),
    (
        {"allow": ("file", "victim", "new", "made")},
        {*ATTRIBUTES, Opcode.GETXATTR, *OPENS, Opcode.FSYNC, Opcode.READ, Opcode.WRITE},
    ),
    ({"quota_bytes": 1 << 30}, {Opcode.GETATTR, Opcode.GETXATTR, Opcode.FSYNC, Opcode.READ}),
    ({"quota_inodes": 100}, {Opcode.GETATTR, Opcode.GETXATTR, Opcode.FSYNC, Opcode.READ}),
    ({"timeouts": ("x=5",)}, {Opcode.OPEN, Opcode.STATFS, Opcode.GETXATTR, Opcode.FSYNC, Opcode.READ, Opcode.WRITE}),
    ({"squash": "1000:1000"}, set()),
    ({"authorize": allow}, set()),
]


def names(folder: Path) -> list[str]:
    """What lies in a folder."""
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A share with a file."""
    place = tmp_path / "share"
    place.mkdir()
    (place / "file").write_bytes(b"content")
    (place / "directory").mkdir()
    return place


async def use_all(client: FuseClient, *, writes: bool, rules: tuple[str, ...], xattr: bool) -> None:
    """Each request that C may answer, and what is right to answer."""
    entry = await client.lookup(ROOT_ID, "file")
    assert (await client.getattr(entry.nodeid)).attr == entry.attr
    opened = await client.open(entry.nodeid, Open.RDWR if writes else Open.RDONLY)
    assert (await client.getattr(entry.nodeid, fh=opened.fh)).attr == entry.attr
    assert await client.read(entry.nodeid, opened.fh, 3, 2) == b"te"
    assert await client.read(entry.nodeid, opened.fh, 7, 10) == b""
    if writes:
        assert await client.write(entry.nodeid, opened.fh, 0, b"con") == 3
        made = await client.create(ROOT_ID, "new", Open.WRONLY | Open.CREAT, 0o640)
        await client.release(made.entry.nodeid, made.open.fh)
        assert (await client.mkdir(ROOT_ID, "made", 0o750)).attr.mode & 0o777 == 0o750
        await client.forget(made.entry.nodeid, 1)
        await client.unlink(ROOT_ID, "victim")
    code = errno.ENODATA if rules else errno.EOPNOTSUPP if xattr else errno.ENOSYS
    assert await refusal(client.getxattr_size(entry.nodeid, "security.capability")) == code
    await client.fsync(entry.nodeid, opened.fh)
    await client.flush(entry.nodeid, opened.fh)
    await client.release(entry.nodeid, opened.fh)
    directory = await client.opendir(ROOT_ID)
    await client.fsyncdir(ROOT_ID, directory.fh)
    listed = {one.name: one.ino for one in await client.readdir(ROOT_ID, directory.fh, 0)}
    assert listed[b"file"] == entry.attr.ino
    assert listed[b".."] == listed[b"."], "the share begins here"
    plus = {one.dirent.name: one.entry for one in await client.readdirplus(ROOT_ID, directory.fh, 0)}
    assert {b".", b"..", b"file"} <= plus.keys() == listed.keys()
    assert plus[b"file"].nodeid == entry.nodeid
    await client.releasedir(ROOT_ID, directory.fh)
    assert (await client.statfs()).namelen > 0
    await client.batch_forget([(entry.nodeid, 2)])
    await forgotten(client, entry.nodeid)


@pytest.mark.parametrize(("options", "allowed"), ALLOWED, ids=[" ".join(options) or "plain" for options, _ in ALLOWED])
async def test_c_answers_where_no_rule_has_a_say(folder: Path, options: dict[str, Any], allowed: set[Opcode]) -> None:
    writes = not options.get("read_only")
    (folder / "victim").touch()
    async with mounted(folder, **options) as (client, heard):
        await use_all(client, writes=writes, rules=options.get("xattr_rules", ()), xattr=options.get("xattr", True))
        asked = HOT if writes else HOT - CHANGES
        assert heard.sent.keys() >= asked
        assert heard.by_c() == asked & allowed


LEFT: list[tuple[str, Callable[[FuseClient, int, int], Any], int]] = [
    # What goes wrong or is out of the ordinary is Python's, with Python's answer.
    ("a node that nobody was given", lambda client, node, fh: client.getattr(node + 1000), errno.ESTALE),
    ("a handle that nobody was given", lambda client, node, fh: client.read(node, fh + 1, 0, 1), errno.EBADF),
    ("a handle of another node", lambda client, node, fh: client.read(ROOT_ID, fh, 0, 1), errno.EBADF),
    ("an attribute by such a handle", lambda client, node, fh: client.getattr(node, fh=fh + 1), errno.EBADF),
    ("writing to what is open to read", lambda client, node, fh: client.write(node, fh, 0, b"x"), errno.EBADF),
    ("a name in a file", lambda client, node, fh: client.lookup(node, "x"), errno.ENOTDIR),
    ("a name with a slash", lambda client, node, fh: client.lookup(ROOT_ID, "directory/x"), errno.EINVAL),
    ("dots", lambda client, node, fh: client.lookup(ROOT_ID, ".."), errno.EINVAL),
    ("a name of 256 bytes", lambda client, node, fh: client.lookup(ROOT_ID, "n" * 256), errno.ENAMETOOLONG),
    ("an offset before the beginning", lambda client, node, fh: client.read(node, fh, 1 << 63, 1), errno.EINVAL),
]


@pytest.mark.parametrize(("ask", "code"), [left[1:] for left in LEFT], ids=[left[0] for left in LEFT])
async def test_python_says_what_is_wrong(folder: Path, ask: Callable[..., Any], code: int) -> None:
    answers = []
    for engine in ("1", "0"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HDVKIT_NATIVE", engine)
            async with mounted(folder) as (client, _):
                node = (await client.lookup(ROOT_ID, "file")).nodeid
                fh = (await client.open(node, Open.RDONLY)).fh
                answers.append(await refusal(ask(client, node, fh)))
    assert answers == [code, code]


async def test_a_missing_name_is_answered_by_c(folder: Path) -> None:
    async with mounted(folder) as (client, heard):
        assert await refusal(client.lookup(ROOT_ID, "nothing")) == errno.ENOENT
        assert heard.take() == []


async def test_references_given_by_c_are_forgotten_with_those_of_python(folder: Path) -> None:
    device = VirtioFs(source=folder, tag="t")
    async with hdvkit.open_host("sim", memory_mb=64) as host:
        share = await host.add(device)
        async with Guest.of(host).drive(share) as driver:
            hiprio, *requests = driver.queues
            client = FuseClient(requests, hiprio)
            await client.init()
            node = (await client.lookup(ROOT_ID, "file")).nodeid
            for _ in range(4):
                assert (await client.lookup(ROOT_ID, "file")).nodeid == node
            await client.forget(node, 4)
            await client.statfs()
            assert (await client.getattr(node)).attr.size == 7, "one reference is left"
            assert (await client.lookup(ROOT_ID, "file")).nodeid == node
            await client.forget(node, 2)
            assert await refusal(client.getattr(node)) == errno.ESTALE
            assert len(device.server.nodes) == 1
            assert (await client.lookup(ROOT_ID, "file")).nodeid != node


async def test_appending_and_synchronous_files_are_written_by_python(folder: Path) -> None:
    async with mounted(folder) as (client, heard):
        node = (await client.lookup(ROOT_ID, "file")).nodeid
        for flags in (Open.WRONLY | os.O_APPEND, Open.WRONLY | os.O_SYNC):
            fh = (await client.open(node, flags)).fh
            heard.take()
            await client.write(node, fh, 0, b"x")
            assert heard.take() == [Opcode.WRITE]


async def test_what_is_not_in_memory_is_read_by_c(folder: Path) -> None:
    data = os.urandom(1 << 20)
    (folder / "cold").write_bytes(data)
    async with mounted(folder) as (client, heard):
        node = (await client.lookup(ROOT_ID, "cold")).nodeid
        fh = (await client.open(node, Open.RDONLY)).fh
        parts = range(0, len(data), 64 << 10)
        with (folder / "cold").open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        read = await asyncio.gather(*(client.read(node, fh, offset, 64 << 10) for offset in parts))
        assert b"".join(read) == data
        assert heard.take() == []


async def test_c_tells_why_a_file_does_not_reach_the_disk() -> None:
    """The kernel's own settings are files that cannot be synchronized."""
    async with mounted(Path("/proc/sys/vm")) as (client, heard):
        node = (await client.lookup(ROOT_ID, "swappiness")).nodeid
        fh = (await client.open(node, Open.RDONLY)).fh
        heard.take()
        assert await refusal(client.fsync(node, fh)) == errno.EINVAL
        assert await refusal(client.fsync(node, fh + 1)) == errno.EBADF
        assert await refusal(client.fsyncdir(node, fh)) == errno.EBADF
        assert heard.take() == [Opcode.FSYNC, Opcode.FSYNCDIR], "those with a wrong handle"


async def test_after_the_file_is_closed_its_handle_is_nobodys(folder: Path) -> None:
    async with mounted(folder) as (client, heard):
        node = (await client.lookup(ROOT_ID, "file")).nodeid
        fh = (await client.open(node, Open.RDWR)).fh
        await client.write(node, fh, 0, b"C")
        await client.flush(node, fh)
        await client.release(node, fh)
        heard.take()
        assert await refusal(client.read(node, fh, 0, 1)) == errno.EBADF
        assert await refusal(client.write(node, fh, 0, b"x")) == errno.EBADF
        assert (folder / "file").read_bytes() == b"Content"


async def test_many_requests_of_both_at_once(folder: Path) -> None:
    """Files come and go by Python while C looks at others."""
    async with mounted(folder) as (client, _):

        async def churn(number: int) -> None:
            for turn in range(20):
                made = await client.create(ROOT_ID, f"n{number}-{turn}", Open.RDWR | Open.CREAT, 0o644)
                data = b"%d" % turn * 100
                assert await client.write(made.entry.nodeid, made.open.fh, 0, data) == len(data)
                assert await client.read(made.entry.nodeid, made.open.fh, 0, 4096) == data
                assert (await client.lookup(ROOT_ID, f"n{number}-{turn}")).nodeid == made.entry.nodeid
                await client.unlink(ROOT_ID, f"n{number}-{turn}")
                await client.release(made.entry.nodeid, made.open.fh)
                await client.forget(made.entry.nodeid, 2)

        await asyncio.gather(*(churn(number) for number in range(8)))
    assert names(folder) == ["directory", "file"]


async def test_a_deleted_node_never_shows_another_file(folder: Path) -> None:
    """The host gives inode numbers again, and the process descriptors, to files that have nothing to do with it."""
    async with mounted(folder, max_inode_descriptors=64) as (client, _):
        deleted = []
        for number in range(150):
            made = await client.create(ROOT_ID, f"old{number}", Open.RDWR | Open.CREAT, 0o600)
            await client.release(made.entry.nodeid, made.open.fh)
            await client.unlink(ROOT_ID, f"old{number}")
            deleted.append(made.entry)
        for number in range(100):
            made = await client.create(ROOT_ID, f"new{number}", Open.RDWR | Open.CREAT, 0o644)
            await client.write(made.entry.nodeid, made.open.fh, 0, b"of another file")
            await client.release(made.entry.nodeid, made.open.fh)
            if number % 2:
                await client.forget(made.entry.nodeid, 1)
        for entry in deleted:
            assert await shown(client, entry.nodeid) in (errno.ESTALE, (entry.attr.ino, 0, 0))


def test_only_directories_of_the_host_have_c(folder: Path) -> None:
    assert hot_path(VirtioFs(source=MemoryFileSystem(), tag="t").server) is None

    class Mine(Passthrough):
        """Somebody's own methods are not C's to know."""

    assert hot_path(VirtioFs(source=Mine(folder), tag="t").server) is None
    assert hot_path(VirtioFs(source=folder, tag="t", authorize=allow).server) is None
    assert hot_path(VirtioFs(source=folder, tag="t").server) is not None
