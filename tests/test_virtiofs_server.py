"""What the server keeps for a guest: given back whatever fails, and bounded whatever the guest asks for."""

import asyncio
import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from hdvkit_virtiofs import Attributes, Context, Entry, FuseError, Opened, Operations, Passthrough
from hdvkit_virtiofs.passthrough import files
from hdvkit_virtiofs.passthrough.descriptors import Descriptors

import hdvkit
from hdvkit.testing import Guest

ROOT = "root"
CONTEXT = Context()


async def until(true: Callable[[], object]) -> None:
    for _ in range(2000):
        if true():
            return
        await asyncio.sleep(0)
    pytest.fail("still not so")


class Names(Operations[str, str]):
    """Every name is a file. Opening waits when asked to, closing fails when asked to."""

    root = ROOT

    def __init__(self) -> None:
        self.forgotten: list[str] = []
        self.opening = asyncio.Event()
        self.go = asyncio.Event()
        self.go.set()
        self.released: list[str] = []
        self.fails = False

    async def lookup(self, parent: str, name: bytes, context: Context) -> Entry[str]:
        """Found."""
        return Entry(name.decode(), Attributes(hash(name) & 0xFFFF | 1, stat.S_IFREG | 0o644))

    async def getattr(self, node: str, handle: str | None, context: Context) -> Attributes:
        """The root is a directory."""
        return Attributes(1, stat.S_IFDIR | 0o755) if node == ROOT else Attributes(2, stat.S_IFREG | 0o644)

    def forget(self, node: str) -> None:
        """Count."""
        self.forgotten.append(node)

    async def open(self, node: str, flags: int, context: Context) -> Opened[str]:
        """Wait, then open."""
        self.opening.set()
        await self.go.wait()
        return Opened(node)

    async def release(self, node: str, handle: str) -> None:
        """Close, or fail."""
        self.released.append(handle)
        if self.fails:
            raise FuseError(errno.EIO)


async def test_a_node_is_forgotten_although_closing_its_file_failed() -> None:
    names = Names()
    names.fails = True
    async with hdvkit.open_host("sim") as host:
        share = await host.add("virtiofs", source=names, tag="t")
        async with Guest.of(host).mount(share) as mount:
            client = mount.client
            entry = await client.lookup(1, b"a")
            opened = await client.open(entry.nodeid, os.O_RDONLY)
            await client.forget(entry.nodeid, 1)
            assert names.forgotten == []
            with pytest.raises(OSError, match="Input/output"):
                await client.release(entry.nodeid, opened.fh)
            await until(lambda: names.forgotten == ["a"])


async def test_a_file_that_is_opened_while_the_guest_unmounts_is_closed() -> None:
    names = Names()
    names.go.clear()
    async with hdvkit.open_host("sim") as host:
        share = await host.add("virtiofs", source=names, tag="t")
        async with Guest.of(host).mount(share) as mount:
            client = mount.client
            entry = await client.lookup(1, b"a")
            opening = asyncio.create_task(client.open(entry.nodeid, os.O_RDONLY))
            await names.opening.wait()
            await client.destroy()
            names.go.set()
            with pytest.raises(OSError, match="Stale"):
                await opening
            assert names.released == ["a"]


async def test_listings_of_one_guest_are_bounded_but_each_directory_can_be_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MAX_NAMES", 100)
    for number in range(150):
        (tmp_path / str(number)).touch()
    share = Passthrough(tmp_path)
    first, second = [(await share.opendir(share.root, 0, CONTEXT)).handle for _ in range(2)]
    assert len(list(await share.readdir(share.root, first, 0, CONTEXT))) == 152
    with pytest.raises(FuseError) as refused:
        await share.readdir(share.root, second, 0, CONTEXT)
    assert refused.value.errno == errno.ENOMEM
    assert len(list(await share.readdir(share.root, first, 100, CONTEXT))) == 52, "the first goes on"
    await share.releasedir(share.root, first)
    assert len(list(await share.readdir(share.root, second, 0, CONTEXT))) == 152
    await share.aclose()


async def test_shares_draw_on_the_descriptors_of_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "hdvkit_virtiofs.passthrough.descriptors.default_limit", lambda: Descriptors.everywhere_before + 12
    )
    monkeypatch.setattr(Descriptors, "everywhere_before", Descriptors.everywhere, raising=False)
    for number in range(20):
        (tmp_path / str(number)).touch()
    one, other = Passthrough(tmp_path, max_descriptors=1000), Passthrough(tmp_path, max_descriptors=1000)
    nodes = [(share, (await share.lookup(share.root, b"0", CONTEXT)).node) for share in (one, other)]
    first = await one.open(nodes[0][1], os.O_RDONLY, CONTEXT)

    async def open_more() -> None:
        for turn in range(20):
            share, node = nodes[turn % 2]
            await share.open(node, os.O_RDONLY, CONTEXT)

    with pytest.raises(FuseError) as refused:
        await open_more()
    assert refused.value.errno == errno.ENFILE
    await one.release(nodes[0][1], first.handle)
    await other.open(nodes[1][1], os.O_RDONLY, CONTEXT)
    await one.aclose()
    await other.aclose()
    assert Descriptors.everywhere == Descriptors.everywhere_before  # type: ignore[attr-defined]  # put there above
