"""What C answers for a share, and what it leaves to Python: by the opcodes that reach the server."""

import asyncio
import contextlib
import errno
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hdvkit_virtiofs import MemoryFileSystem, Passthrough, VirtioFs
from hdvkit_virtiofs.fuse.spec import Opcode
from hdvkit_virtiofs.native import hot_path
from hdvkit_virtiofs.policy import Operation

import hdvkit
from hdvkit import native
from hdvkit.testing.fuse_client import FuseClient
from hdvkit.testing.fuse_messages import ROOT_ID, Open
from hdvkit.testing.guest import Guest

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not native.native().used, reason=f"{native.native().reason}; and it is for Linux"
)

HOT = {Opcode.LOOKUP, Opcode.GETATTR, Opcode.READ, Opcode.WRITE, Opcode.STATFS}


async def allow(operation: Operation) -> None:
    """Let everything pass."""


ALLOWED: list[tuple[dict[str, Any], set[Opcode]]] = [
    # The options of a share, and what C may answer then.
    ({}, HOT),
    ({"cache": "never"}, HOT),
    ({"read_only": True}, HOT - {Opcode.WRITE}),
    ({"xattr": False}, HOT),
    ({"posix_acl": True}, HOT),
    ({"deny": ("x",)}, {Opcode.GETATTR, Opcode.READ, Opcode.WRITE, Opcode.STATFS}),
    ({"allow": ("x",)}, {Opcode.GETATTR, Opcode.READ, Opcode.WRITE, Opcode.STATFS}),
    ({"quota_bytes": 1 << 30}, {Opcode.GETATTR, Opcode.READ}),
    ({"quota_inodes": 100}, {Opcode.GETATTR, Opcode.READ}),
    ({"timeouts": ("x=5",)}, {Opcode.READ, Opcode.WRITE, Opcode.STATFS}),
    ({"authorize": allow}, set()),
]


async def refusal(asked: Awaitable[object]) -> int:
    """The errno of what is refused."""
    with pytest.raises(OSError, match=r"^\[Errno") as caught:
        await asked
    assert caught.value.errno is not None
    return caught.value.errno


async def shown(client: FuseClient, nodeid: int) -> int | tuple[int, int, int]:
    """Number, size and names of a file, or the errno."""
    try:
        attributes = (await client.getattr(nodeid)).attr
    except OSError as error:
        return error.errno or 0
    return attributes.ino, attributes.size, attributes.nlink


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


class Heard:
    """The opcodes that reached Python."""

    def __init__(self, device: VirtioFs) -> None:
        self.opcodes: list[int] = []
        begin = device.server.begin

        def heard(channel: Any) -> Any:
            call = begin(channel)
            if call is not None:
                self.opcodes.append(call.header.opcode)
            return call

        device.server.begin = heard  # type: ignore[method-assign]  # an ear in front of it

    def take(self) -> list[int]:
        """Those since the last time."""
        heard, self.opcodes = self.opcodes, []
        return heard


@contextlib.asynccontextmanager
async def mounted(folder: Path, **options: Any) -> AsyncIterator[tuple[FuseClient, Heard]]:
    """A client of a share, and what of its requests reaches Python."""
    device = VirtioFs(source=folder, tag="t", **options)
    heard = Heard(device)
    async with hdvkit.open_host("sim", memory_mb=64) as host:
        share = await host.add(device)
        async with Guest.of(host).drive(share) as driver:
            hiprio, *requests = driver.queues
            client = FuseClient(requests, hiprio)
            await client.init()
            heard.take()
            yield client, heard
        assert share.stats().needs_resets == 0


@pytest.mark.parametrize(("options", "allowed"), ALLOWED, ids=[" ".join(options) or "plain" for options, _ in ALLOWED])
async def test_c_answers_where_no_rule_has_a_say(folder: Path, options: dict[str, Any], allowed: set[Opcode]) -> None:
    writes = not options.get("read_only")
    async with mounted(folder, **options) as (client, heard):
        if options.get("allow"):
            (folder / "x").write_bytes(b"content")
        name = "x" if options.get("allow") else "file"
        entry = await client.lookup(ROOT_ID, name)
        opened = await client.open(entry.nodeid, Open.RDWR if writes else Open.RDONLY)
        heard.take()
        again = await client.lookup(ROOT_ID, name)
        assert (again.nodeid, again.attr) == (entry.nodeid, entry.attr)
        assert (await client.getattr(entry.nodeid)).attr == entry.attr
        assert (await client.getattr(entry.nodeid, fh=opened.fh)).attr == entry.attr
        assert await client.read(entry.nodeid, opened.fh, 0, 100) == b"content"
        assert await client.read(entry.nodeid, opened.fh, 3, 2) == b"te"
        assert await client.read(entry.nodeid, opened.fh, 7, 10) == b""
        if writes:
            assert await client.write(entry.nodeid, opened.fh, 0, b"CON") == 3
            assert (folder / name).read_bytes() == b"CONtent"
        assert (await client.statfs()).namelen == os.statvfs(folder).f_namemax
        missed = set(heard.take())
        asked = HOT if writes else HOT - {Opcode.WRITE}
        assert missed == asked - allowed


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
