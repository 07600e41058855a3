"""What a guest can repeat is logged now and then: bugs of a file system, of its embedder, and closes that fail."""
# ruff: noqa: D102 - what the methods of a file system do is said in its base

import errno
import logging
import stat

import pytest
from hdvkit_virtiofs import Attributes, Context, Entry, FuseError, MemoryFileSystem, Opened, Operations
from hdvkit_virtiofs.policy import Authorized
from hdvkit_virtiofs.policy.authorize import Operation
from hdvkit_virtiofs.seldom import Seldom

import hdvkit
from hdvkit.testing.guest import Guest

ROOT = 1


def test_each_thing_is_told_once_a_minute() -> None:
    now = 100.0
    seldom = Seldom(lambda: now)
    assert [seldom.may_tell("a"), seldom.may_tell("a"), seldom.may_tell("b")] == [True, False, True]
    now = 159.9
    assert not seldom.may_tell("a")
    now = 160.0
    assert [seldom.may_tell("a"), seldom.may_tell("a")] == [True, False]


class Buggy(Operations[str, str]):
    """Nothing works but opening."""

    root = "/"

    async def lookup(self, parent: str, name: bytes, context: Context) -> Entry[str]:
        return Entry(name.decode(), Attributes(2, stat.S_IFREG | 0o644))

    async def getattr(self, node: str, handle: str | None, context: Context) -> Attributes:
        raise RuntimeError("a bug")

    async def open(self, node: str, flags: int, context: Context) -> Opened[str]:
        return Opened(node)

    async def readlink(self, node: str, context: Context) -> bytes:
        raise RuntimeError("another bug")

    async def release(self, node: str, handle: str) -> None:
        raise FuseError(errno.EIO)


async def test_a_guest_cannot_fill_the_log_by_a_bug(caplog: pytest.LogCaptureFixture) -> None:
    async with hdvkit.open_host("sim") as host:
        share = await host.add("virtiofs", source=Buggy(), tag="t")
        async with Guest.of(host).mount(share) as mount:
            node = (await mount.client.lookup(ROOT, b"f")).nodeid
            for _ in range(20):
                for asking in (mount.client.getattr(node), mount.client.readlink(node)):
                    with pytest.raises(OSError, match="Input/output"):
                        await asking
            for _ in range(20):
                await mount.client.open(node, 0)
            await mount.client.destroy()
            mount.lost()
    told = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert [text.split()[0] for text in told] == ["GETATTR", "READLINK", "closing"]


async def test_a_guest_cannot_fill_the_log_by_a_bug_of_the_embedder(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(operation: Operation) -> None:
        raise RuntimeError(operation.name)

    layer = Authorized(MemoryFileSystem(), broken)
    for _ in range(20):
        for asking in (layer.lookup(layer.root, b"f", Context()), layer.getattr(layer.root, None, Context())):
            with pytest.raises(FuseError, match="EIO"):
                await asking
    assert [record.getMessage().split()[3] for record in caplog.records] == ["lookup", "getattr"]
