"""What the server keeps for a guest: given back whatever fails, and bounded whatever the guest asks for."""

import asyncio
import errno
import os
import stat
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hdvkit_virtiofs import Attributes, Context, Entry, FuseError, Opened, Operations, Passthrough
from hdvkit_virtiofs.nodes import NodeTable
from hdvkit_virtiofs.server import FORGETS_AT_ONCE, RELEASES_AT_ONCE
from recorder import LINUX_7_3, Recorder, driven
from systems import shares_directories
from turns import Turns

import hdvkit
from hdvkit.testing import Guest
from hdvkit.testing.driver import VirtioDriver
from hdvkit.testing.fuse_client import FuseClient
from hdvkit.testing.fuse_messages import Opcode

if sys.platform == "linux":
    from hdvkit_virtiofs.passthrough import files
    from hdvkit_virtiofs.passthrough.descriptors import Descriptors

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


@shares_directories
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


@shares_directories
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


# Room for answers


@pytest.mark.parametrize(("opcode", "name"), [(Opcode.CREATE, b"f\0"), (Opcode.TMPFILE, b"/\0")])
async def test_nothing_is_made_whose_answer_would_not_fit(opcode: int, name: bytes) -> None:
    made = Counted()
    async with driven(made) as (_, share, driver):
        client = client_of(driver)
        await client.init()
        body = os.O_RDWR.to_bytes(4, "little") + (stat.S_IFREG | 0o600).to_bytes(4, "little") + bytes(8) + name
        for room in (0, 128, 128 + 15):
            with pytest.raises(OSError, match="Input/output"):
                await client.call(opcode, 1, body, reply_size=room)
        assert made.log == []
        assert (len(share.device.server.handles), len(share.device.server.nodes)) == (0, 1)
        await client.call(opcode, 1, body, reply_size=128 + 16)


# Much at once


class Counted(Recorder):
    """Counts by turns what is forgotten and what is closed."""

    def __init__(self, *waiting: str) -> None:
        super().__init__(*waiting)
        self.turns = Turns()
        self.dropped: Counter[int] = Counter()
        self.closed: Counter[int] = Counter()

    def forget(self, node: str) -> None:
        """Count."""
        super().forget(node)
        self.dropped[self.turns.number] += 1

    async def release(self, node: str, handle: str) -> None:
        """Count; no file may outlive its node."""
        assert node not in self.forgotten
        await super().release(node, handle)
        self.closed[self.turns.number] += 1


def client_of(driver: VirtioDriver) -> FuseClient:
    hiprio, *requests = driver.queues
    return FuseClient(requests, hiprio, minor=46, flags=LINUX_7_3)


@asynccontextmanager
async def knowing(counted: Counted, count: int, files: int = 0) -> AsyncIterator[tuple[VirtioDriver, list[int]]]:
    """A guest that knows ``count`` nodes, of which it has opened some."""
    async with driven(counted, queue_size=1024) as (_, _, driver), counted.turns.counted():
        client = client_of(driver)
        await client.init()
        nodes = [(await client.lookup(1, f"n{number}")).nodeid for number in range(count)]
        for nodeid in nodes[:files]:
            await client.open(nodeid, os.O_RDONLY)
        yield driver, nodes


async def test_a_request_behind_a_long_batch_forget_does_not_wait_for_its_end() -> None:
    counted = Counted()
    async with knowing(counted, FORGETS_AT_ONCE + 1) as (driver, nodes):
        client = client_of(driver)
        telling = asyncio.create_task(client.batch_forget([(nodeid, 1) for nodeid in nodes]))
        await client.getattr(1)
        assert len(counted.forgotten) <= FORGETS_AT_ONCE
        await telling
        assert len(counted.forgotten) == FORGETS_AT_ONCE + 1


async def test_many_batch_forgets_share_what_is_forgotten_in_a_turn() -> None:
    counted = Counted()
    async with knowing(counted, 8 * FORGETS_AT_ONCE) as (driver, nodes):
        client = client_of(driver)
        batches = [nodes[at : at + FORGETS_AT_ONCE] for at in range(0, len(nodes), FORGETS_AT_ONCE)]
        await asyncio.gather(*(client.batch_forget([(nodeid, 1) for nodeid in batch]) for batch in batches))
        assert len(counted.forgotten) == len(nodes)
        assert max(counted.dropped.values()) <= FORGETS_AT_ONCE


@pytest.mark.parametrize("by_reset", [False, True])
async def test_a_guest_that_goes_is_forgotten_in_slices(by_reset: bool) -> None:
    counted = Counted()
    async with knowing(counted, 1000, files=300) as (driver, _):
        await (driver.reset() if by_reset else client_of(driver).destroy())
        assert (len(counted.forgotten), len(set(counted.forgotten))) == (1000, 1000), "all when that has ended"
        assert counted.closed.total() == 300
        assert max(counted.dropped.values()) <= FORGETS_AT_ONCE
        assert max(counted.closed.values()) <= RELEASES_AT_ONCE


async def test_a_reset_ends_what_destroy_began() -> None:
    counted = Counted("release")
    async with knowing(counted, 600, files=3) as (driver, _):
        going = asyncio.create_task(client_of(driver).destroy())
        await counted.begun.wait()
        counted.waiting = ()
        await driver.reset()
        going.cancel()
        assert (len(counted.forgotten), len(set(counted.forgotten))) == (600, 600)
        assert [entry[0] for entry in counted.log].count("release") == 3


async def test_nothing_is_served_while_destroy_goes_on() -> None:
    counted = Counted("release")
    async with knowing(counted, 1, files=1) as (driver, _):
        client = client_of(driver)
        going = asyncio.create_task(client.destroy())
        await counted.begun.wait()
        with pytest.raises(OSError, match="Input/output"):
            await client.lookup(1, b"other")
        assert counted.forgotten == [], "its file is still open"
        counted.go.set()
        await going
        assert counted.forgotten == ["n0"]


def test_a_node_that_is_met_again_before_it_is_dropped_stays() -> None:
    dropped: list[str] = []
    nodes = NodeTable("root", dropped.append)
    old = [nodes.enter(name) for name in ("a", "b", "c")]
    nodes.clear()
    assert (len(nodes), dropped) == (1, [])
    with pytest.raises(FuseError):
        nodes.find(old[0])
    again = nodes.enter("b")
    assert again not in old
    while nodes.drop_cleared(1):
        pass
    assert sorted(dropped) == ["a", "c"]
    nodes.forget(again, 1)
    assert sorted(dropped) == ["a", "b", "c"]


def test_nodes_that_wait_to_be_dropped_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hdvkit_virtiofs.nodes.MAX_NODES", 3)
    nodes = NodeTable("root", lambda node: None)
    for name in ("a", "b"):
        nodes.enter(name)
    nodes.clear()
    with pytest.raises(FuseError) as refused:
        nodes.enter("c")
    assert refused.value.errno == errno.ENFILE
    nodes.drop_cleared(2)
    nodes.enter("c")
