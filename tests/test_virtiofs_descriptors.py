"""However many files a guest knows, few descriptors of the host are open, and each file stays what it was.

Everything is done twice: where files are opened again by handle, and where the process may not and goes by names.
"""
# ruff: noqa: D101, D102 - the rules of the model are named by what they do

import contextlib
import errno
import os
import resource
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hdvkit_virtiofs.fuse.answers import Context
from hdvkit_virtiofs.fuse.errors import FuseError
from hdvkit_virtiofs.passthrough import Passthrough, _libc
from hdvkit_virtiofs.passthrough.budget import IN_USE, Budget
from hdvkit_virtiofs.passthrough.descriptors import LEAST_FILES, LEAST_INODES, Descriptors, default_limit
from hdvkit_virtiofs.passthrough.inodes import MAX_DEPTH, REFERENCE, Inode, InodeTable
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule

ME = Context(uid=os.getuid(), gid=os.getgid())
EXCHANGE = 2
DAC_READ_SEARCH = 1 << 2

FILES = int(os.environ.get("HDVKIT_TEST_FILES", "20000"))
"""How many a guest knows in the test of many; a whole tree of sources has some hundred thousand."""


def may_open_by_handle() -> bool:
    return bool(_libc.capabilities().effective & DAC_READ_SEARCH)


@contextlib.contextmanager
def going(way: str) -> Iterator[None]:
    """Do without the capability where that is wanted, on this thread."""
    before = _libc.capabilities()
    if way == "names":
        _libc.set_capabilities(before._replace(effective=before.effective & ~DAC_READ_SEARCH))
    try:
        yield
    finally:
        _libc.set_capabilities(before)


@pytest.fixture(params=["handles", "names"])
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "handles" and not may_open_by_handle():
        pytest.skip("opening by handle takes CAP_DAC_READ_SEARCH")
    with going(request.param):
        yield request.param


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "share"
    (folder / "dir" / "sub").mkdir(parents=True)
    (folder / "dir" / "sub" / "file").write_bytes(b"content")
    (folder / "other").mkdir()
    (folder / "crowd").mkdir()
    for number in range(2 * LEAST_INODES):
        (folder / "crowd" / f"{number}").touch()
    return folder


@pytest.fixture
async def share(folder: Path, way: str) -> AsyncIterator[Passthrough]:
    share = Passthrough(folder, max_inode_descriptors=LEAST_INODES)
    assert (share.root.mount is not None) is (way == "handles")
    yield share
    await share.aclose()
    assert share.live_descriptors == 0


def open_now() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@contextlib.contextmanager
def refused(code: int) -> Iterator[None]:
    with pytest.raises(FuseError) as caught:
        yield
    assert errno.errorcode[caught.value.errno] == errno.errorcode[code]


async def find(share: Passthrough, path: str) -> Inode:
    node = share.root
    for name in path.split("/"):
        node = (await share.lookup(node, os.fsencode(name), ME)).node
    return node


async def crowd_out(share: Passthrough, *nodes: Inode) -> None:
    """Let the guest look at so much else that ``nodes`` lose their descriptors."""
    crowd = await find(share, "crowd")
    for number in range(2 * LEAST_INODES):
        await share.lookup(crowd, b"%d" % number, ME)
    assert [node for node in nodes if node.open_as >= 0] == []


async def content(share: Passthrough, node: Inode) -> bytes:
    file = (await share.open(node, os.O_RDONLY, ME)).handle
    page = bytearray(100)
    try:
        return bytes(page[: await share.read_into(node, file, 0, [memoryview(page)], ME)])
    finally:
        await share.release(node, file)


# How many


@contextlib.contextmanager
def process_may_open(count: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture(scope="module")
def forest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files whose content is their number, some hundred to a directory, two directories deep."""
    forest = tmp_path_factory.mktemp("forest")
    for start in range(0, FILES, 200):
        directory = forest / f"{start % 7}" / f"{start}"
        directory.mkdir(parents=True)
        for number in range(start, start + 200):
            (directory / f"{number}").write_bytes(b"%d" % number)
    return forest


@pytest.mark.parametrize(("way", "limit"), [("handles", 1024), ("names", 256)], indirect=["way"])
async def test_all_of_many_files_stay_usable(forest: Path, way: str, limit: int) -> None:
    nodes = []
    with process_may_open(limit):
        before = open_now()
        share = Passthrough(forest)
        for start in range(0, FILES, 200):
            directory = await find(share, f"{start % 7}/{start}")
            for number in range(start, start + 200):
                nodes.append((await share.lookup(directory, b"%d" % number, ME)).node)
        for number, node in enumerate(nodes):
            assert (await share.getattr(node, None, ME)).size == len(f"{number}")
            assert share.live_descriptors <= limit // 4 + 1
        for number, node in list(enumerate(nodes))[::37]:
            assert await content(share, node) == b"%d" % number
        assert open_now() - before <= limit // 4 + 2
        await share.aclose()
        assert open_now() == before


async def test_many_shares_leave_room_for_open_files(folder: Path, way: str) -> None:
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(process_may_open(1024))
        shares = [Passthrough(folder) for _ in range(6)]
        for share in shares:
            stack.push_async_callback(share.aclose)
            nodes = [await find(share, f"crowd/{number}") for number in range(2 * LEAST_INODES)]
            for node in nodes[:20]:
                await share.open(node, os.O_RDONLY, ME)
        assert [await content(share, await find(share, "dir/sub/file")) for share in shares] == [b"content"] * 6


async def test_every_share_opens_some_files_whatever_the_others_hold(folder: Path, way: str) -> None:
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(process_may_open(1024))
        shares = [Passthrough(folder) for _ in range(3)]
        for share in shares:
            stack.push_async_callback(share.aclose)
        for greedy in shares[:2]:
            node = await find(greedy, "dir/sub/file")
            with refused(errno.ENFILE):
                for _ in range(1024):
                    await greedy.open(node, os.O_RDONLY, ME)
        for number in range(2 * LEAST_INODES):
            node = await find(shares[2], f"crowd/{number}")
        for _ in range(LEAST_FILES):
            await shares[2].open(node, os.O_RDONLY, ME)
        assert Descriptors.everywhere <= default_limit() + len(shares)


async def test_open_files_come_before_inodes(folder: Path, way: str) -> None:
    share = Passthrough(folder, max_descriptors=200)
    nodes = [await find(share, f"crowd/{number}") for number in range(2 * LEAST_INODES)]
    opened = 0
    with refused(errno.ENFILE):
        for _ in range(200):
            await share.open(nodes[0], os.O_RDONLY, ME)
            opened += 1
    assert 200 - IN_USE - 2 <= opened < 200
    assert share.live_descriptors == 200
    # Only opening has an end.
    for node in nodes:
        assert stat.S_ISREG((await share.getattr(node, None, ME)).mode)
    await find(share, "dir/sub/file")
    assert share.live_descriptors <= 201
    await share.aclose()


async def test_a_guest_that_removes_what_it_holds_has_an_end(folder: Path, share: Passthrough) -> None:
    crowd = await find(share, "crowd")
    nodes = [await find(share, f"crowd/{number}") for number in range(2 * LEAST_INODES)]
    for number in range(2 * LEAST_INODES):
        await share.unlink(crowd, b"%d" % number, ME)
        assert share.live_descriptors <= LEAST_INODES + 2
    for node in nodes[-LEAST_INODES // 2 :]:
        assert (await share.getattr(node, None, ME)).nlink == 0
    with refused(errno.ESTALE):
        await share.getattr(nodes[0], None, ME)


@settings(deadline=None)
@given(st.lists(st.integers(0, 80), max_size=300), st.sets(st.integers(0, 80)))
@example([use for other in range(1, 81) for use in (0, other)], set(range(81)))
def test_what_is_in_use_is_not_closed(uses: list[int], forgettable: set[int]) -> None:
    size = 2 * IN_USE
    opened: set[int] = set()
    budget: Budget[int] = Budget(lambda: size, remember=forgettable.__contains__, close=opened.remove)
    for count, thing in enumerate(uses, 1):
        if thing in opened:
            budget.touch(thing)
        else:
            opened.add(thing)
            budget.enter(thing)
        assert opened.issuperset(list(dict.fromkeys(reversed(uses[:count])))[:IN_USE])
        assert len(budget) == len(opened) <= size


# What the guest does to files that are closed


async def test_moved_by_the_guest(folder: Path, share: Passthrough) -> None:
    directory, sub, node = [await find(share, path) for path in ("dir", "dir/sub", "dir/sub/file")]
    other = await find(share, "other")
    await crowd_out(share, node, sub, directory, other)
    await share.rename(sub, b"file", sub, b"renamed", 0, ME)
    await share.rename(share.root, b"dir", other, b"moved", 0, ME)
    await crowd_out(share, node, sub, directory, other)
    assert await content(share, node) == b"content"
    assert (await share.lookup(sub, b"renamed", ME)).node is node
    assert (folder / "other" / "moved" / "sub" / "renamed").read_bytes() == b"content"


async def test_exchanged_by_the_guest(folder: Path, share: Passthrough) -> None:
    (folder / "second").write_bytes(b"second")
    sub, node, second = [await find(share, path) for path in ("dir/sub", "dir/sub/file", "second")]
    await crowd_out(share, sub, node, second)
    await share.rename(sub, b"file", share.root, b"second", EXCHANGE, ME)
    await crowd_out(share, sub, node, second)
    assert await content(share, node) == b"content"
    assert await content(share, second) == b"second"


async def test_removed_by_the_guest(folder: Path, share: Passthrough) -> None:
    directory, sub, node = [await find(share, path) for path in ("dir", "dir/sub", "dir/sub/file")]
    await crowd_out(share, node, sub, directory)
    await share.unlink(sub, b"file", ME)
    await share.rmdir(directory, b"sub", ME)
    await crowd_out(share, directory)
    assert await content(share, node) == b"content"
    assert (await share.getattr(node, None, ME)).nlink == 0
    assert stat.S_ISDIR((await share.getattr(sub, None, ME)).mode)
    with refused(errno.ENOENT):
        await share.lookup(sub, b"file", ME)


async def test_replaced_by_the_guest(folder: Path, share: Passthrough) -> None:
    (folder / "new").write_bytes(b"new")
    sub, old, new = [await find(share, path) for path in ("dir/sub", "dir/sub/file", "new")]
    await crowd_out(share, sub, old, new)
    await share.rename(share.root, b"new", sub, b"file", 0, ME)
    await crowd_out(share, sub, new)
    assert await content(share, old) == b"content"
    assert await content(share, new) == b"new"


async def test_one_of_two_names_removed(folder: Path, share: Passthrough) -> None:
    sub, node = [await find(share, path) for path in ("dir/sub", "dir/sub/file")]
    (folder / "hard").hardlink_to(folder / "dir" / "sub" / "file")
    await crowd_out(share, sub, node)
    await share.unlink(sub, b"file", ME)
    await crowd_out(share, sub)
    assert (await share.getattr(node, None, ME)).nlink == 1
    assert (await share.lookup(share.root, b"hard", ME)).node is node


async def test_a_removal_that_fails_changes_nothing(folder: Path, share: Passthrough) -> None:
    directory, sub, node = [await find(share, path) for path in ("dir", "dir/sub", "dir/sub/file")]
    await crowd_out(share, directory, sub, node)
    with refused(errno.ENOTEMPTY):
        await share.rmdir(directory, b"sub", ME)
    await crowd_out(share, directory, sub, node)
    assert await content(share, node) == b"content"


async def test_a_file_without_a_name_is_held(folder: Path, share: Passthrough) -> None:
    entry, opened = await share.tmpfile(share.root, 0o600, os.O_RDWR, ME)
    node = entry.node
    await share.release(node, opened.handle)
    await crowd_out(share)
    assert (await share.getattr(node, None, ME)).nlink == 0
    await share.link(node, share.root, b"named", ME)
    await crowd_out(share, node)
    assert (await share.getattr(node, None, ME)).ino == (folder / "named").stat().st_ino


async def test_made_files_are_found_again(folder: Path, share: Passthrough) -> None:
    directory = (await share.mkdir(share.root, b"made", 0o755, ME)).node
    entry, opened = await share.create(directory, b"file", 0o600, os.O_RDWR, ME)
    await share.release(entry.node, opened.handle)
    existing, opened = await share.create(share.root, b"other-file", 0o600, os.O_RDWR, ME)
    await share.release(existing.node, opened.handle)
    made = {
        "made": directory,
        "made/file": entry.node,
        "other-file": existing.node,
        "made/link": (await share.symlink(directory, b"link", b"target", ME)).node,
        "made/fifo": (await share.mknod(directory, b"fifo", stat.S_IFIFO | 0o600, 0, ME)).node,
    }
    await crowd_out(share, *made.values())
    for path, node in made.items():
        assert (await share.getattr(node, None, ME)).ino == (folder / path).lstat().st_ino
    assert await share.readlink(made["made/link"], ME) == b"target"


# What the host does to files that are closed


async def test_moved_by_the_host(folder: Path, share: Passthrough, way: str) -> None:
    sub, node = [await find(share, path) for path in ("dir/sub", "dir/sub/file")]
    await crowd_out(share, sub, node)
    (folder / "dir").rename(folder / "elsewhere")
    if way == "handles":
        assert await content(share, node) == b"content"
    else:
        with refused(errno.ESTALE):
            await content(share, node)
        assert await find(share, "elsewhere/sub/file") is node
    await crowd_out(share, sub, node)
    assert await content(share, node) == b"content"


async def test_replaced_by_the_host(folder: Path, share: Passthrough, way: str) -> None:
    node = await find(share, "dir/sub/file")
    await crowd_out(share, node)
    path = folder / "dir" / "sub" / "file"
    path.rename(folder / "kept")
    path.write_bytes(b"another")
    if way == "handles":
        assert await content(share, node) == b"content"
    else:
        with refused(errno.ESTALE):
            await content(share, node)
    assert await content(share, await find(share, "dir/sub/file")) == b"another"
    assert await find(share, "kept") is node
    assert await content(share, node) == b"content"


@pytest.mark.parametrize("looked_up", [True, False])
async def test_a_number_that_is_used_again(folder: Path, share: Passthrough, looked_up: bool) -> None:
    path = folder / "dir" / "sub" / "file"
    node = await find(share, "dir/sub/file")
    await crowd_out(share, node)
    number = path.stat().st_ino
    path.unlink()
    for attempt in range(5000):
        other = path.with_name(f"{attempt}")
        other.write_bytes(b"another")
        if other.stat().st_ino == number:
            other.rename(path)
            break
    else:
        pytest.skip("this file system does not use inode numbers again soon")
    if looked_up:
        new = await find(share, "dir/sub/file")
        assert new is not node
        assert new.key == node.key
        assert await content(share, new) == b"another"
    with refused(errno.ESTALE):
        await content(share, node)
    share.forget(node)
    assert await content(share, await find(share, "dir/sub/file")) == b"another"


async def test_removed_by_the_host(folder: Path, share: Passthrough) -> None:
    sub, node = [await find(share, path) for path in ("dir/sub", "dir/sub/file")]
    await crowd_out(share, sub, node)
    shutil.rmtree(folder / "dir")
    for gone in (sub, node):
        with refused(errno.ESTALE):
            await share.getattr(gone, None, ME)


async def test_a_link_in_the_way_is_not_followed(folder: Path, share: Passthrough, way: str) -> None:
    node = await find(share, "dir/sub/file")
    await crowd_out(share, node)
    (folder / "dir").rename(folder.parent / "outside")
    (folder / "dir").symlink_to("../outside")
    if way == "handles":
        assert await content(share, node) == b"content"
    else:
        with refused(errno.ESTALE):
            await content(share, node)


async def test_places_that_lie_in_each_other(folder: Path, share: Passthrough, way: str) -> None:
    outer, inner = [await find(share, path) for path in ("dir", "dir/sub")]
    (folder / "dir" / "sub").rename(folder / "sub")
    (folder / "dir").rename(folder / "sub" / "dir")
    assert (await share.lookup(inner, b"dir", ME)).node is outer
    await crowd_out(share, outer, inner)
    if way == "names":
        with refused(errno.ESTALE):
            await share.getattr(outer, None, ME)
    assert await find(share, "sub") is inner
    assert stat.S_ISDIR((await share.getattr(outer, None, ME)).mode)


@pytest.mark.parametrize(("way", "depth"), [("names", MAX_DEPTH - 1)], indirect=["way"])
async def test_deep_directories(folder: Path, share: Passthrough, depth: int) -> None:
    nodes = [share.root]
    for _ in range(depth + 2):
        nodes.append((await share.mkdir(nodes[-1], b"d", 0o755, ME)).node)
    await crowd_out(share, *nodes[1:])
    status = await share.getattr(nodes[depth], None, ME)
    assert status.ino == nodes[depth].key[1]
    await crowd_out(share, *nodes[1:])
    with refused(errno.ESTALE):
        await share.getattr(nodes[-1], None, ME)


# Mounts of the host

MOUNTS = """
import asyncio, os, subprocess, sys
from hdvkit_virtiofs.fuse.errors import FuseError
from tests_of_descriptors import Passthrough, crowd_out, find, LEAST_INODES, ME, going
async def main(folder, way):
    share = Passthrough(folder, max_inode_descriptors=LEAST_INODES)
    bound = await find(share, "bound")
    file = (await share.lookup(bound, b"file", ME)).node
    await crowd_out(share, bound, file)
    try:
        await share.open(file, os.O_RDWR, ME)
    except FuseError as error:
        print(os.strerror(error.errno))
    share.forget(file)
    share.forget(bound)
    subprocess.run(["umount", folder + "/bound"], check=True)
    await share.aclose()
    print("unmounted")
with going(sys.argv[2]):
    asyncio.run(main(sys.argv[1], sys.argv[2]))
"""


def test_a_mount_keeps_its_rights_and_can_go(folder: Path, way: str, tmp_path: Path) -> None:
    """The same file system again, read-only: a handle opened on the first mount would let the guest write."""
    (folder / "bound").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").touch()
    program = MOUNTS.replace("tests_of_descriptors", Path(__file__).stem)
    script = (
        'mount --bind "$1/../outside" "$1/bound" && mount -o remount,bind,ro "$1/bound" && exec "$4" -c "$3" "$1" "$2"'
    )
    command = ["unshare", "--mount", "sh", "-c", script, "sh", str(folder), way, program, sys.executable]
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        pytest.skip("mounting takes CAP_SYS_ADMIN")
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths}, check=False)
    assert (done.stdout.splitlines(), done.stderr) == (["Read-only file system", "unmounted"], "")


# A model: a table of four descriptors against one that keeps all

SMALL = 4
HELD = SMALL - SMALL // 2
NAMES = st.sampled_from([b"a", b"b", b"c"])
Pair = tuple[Inode, Inode]


class Tables(RuleBasedStateMachine):
    """The same calls to two tables, one with few descriptors; what they say of each node must be the same."""

    way = "names"
    nodes: Bundle[Pair] = Bundle("nodes")

    def __init__(self) -> None:
        super().__init__()
        self.stack = contextlib.ExitStack()
        self.descriptors: list[Descriptors] = []
        self.stack.enter_context(going(self.way))
        folder = self.stack.enter_context(tempfile.TemporaryDirectory())
        self.small, self.large = self.tables = (self._table(SMALL), self._table(10_000))
        self.roots = tuple(
            table.adopt(descriptors.open(folder, REFERENCE))[0]
            for table, descriptors in zip(self.tables, self.descriptors, strict=True)
        )
        self.known: dict[Inode, Inode] = {}
        self.bereft: set[Inode] = set()
        """Nodes a name of which was removed: they may have to be held, and there is room for few."""

    def _table(self, budget: int) -> InodeTable:
        descriptors = Descriptors()
        self.descriptors.append(descriptors)
        self.stack.callback(descriptors.finish)
        table = InodeTable(descriptors, budget)
        self.stack.callback(table.drop_all)
        return table

    def teardown(self) -> None:
        self.stack.close()

    @initialize(target=nodes)
    def mount(self) -> Any:
        small, large = self.roots
        self.known[large] = small
        return small, large

    def both(self, call: Callable[[InodeTable, int], Any]) -> tuple[Any, Any] | None:
        """What both say, or None when both refuse alike."""
        answers = []
        for index, table in enumerate(self.tables):
            try:
                answers.append(call(table, index))
            except OSError as error:
                answers.append(error.errno)
        small, large = answers
        if isinstance(large, int) or isinstance(small, int):
            assert small == large
            return None
        return small, large

    @rule(target=nodes, parent=nodes, name=NAMES)
    def lookup(self, parent: Pair, name: bytes) -> Any:
        if parent[1] not in self.known:
            return multiple()
        found = self.both(lambda table, index: table.find(parent[index], name))
        if found is None:
            return multiple()
        (small, told), (large, truth) = found
        assert told == truth
        assert self.known.setdefault(large, small) is small
        return small, large

    @rule(node=nodes)
    def forget(self, node: Pair) -> None:
        # A Linux guest forgets no directory before what it knows below, and only then are names enough.
        if (
            node[1] in self.known
            and (node[1].type != stat.S_IFDIR or self.way == "handles")
            and node[1] is not self.roots[1]
        ):
            for table, inode in zip(self.tables, node, strict=True):
                table.drop(inode)
            del self.known[node[1]]
            self.bereft.discard(node[1])

    @rule(parent=nodes, name=NAMES, directory=st.booleans())
    def make(self, parent: Pair, name: bytes, directory: bool) -> None:
        if parent[1] in self.known:
            make = os.mkdir if directory else os.mknod
            with contextlib.suppress(OSError):
                make(name, dir_fd=parent[1].descriptor)

    @rule(node=nodes, parent=nodes, name=NAMES)
    def link(self, node: Pair, parent: Pair, name: bytes) -> None:
        if node[1] in self.known and parent[1] in self.known:
            with contextlib.suppress(OSError):
                os.link(f"/proc/self/fd/{node[0].descriptor}", name, dst_dir_fd=parent[1].descriptor)
                for table, inode, directory in zip(self.tables, node, parent, strict=True):
                    table.learn(inode, directory, name)

    def losing(self, parent: Inode, name: bytes) -> bool:
        """Whether what stands there may lose a name; noted when it may."""
        with contextlib.suppress(OSError):
            status = os.stat(name, dir_fd=parent.descriptor, follow_symlinks=False)
            for large in self.known:
                if large.key == (status.st_dev, status.st_ino):
                    if len(self.bereft | {large}) > HELD:
                        return False
                    self.bereft.add(large)
        return True

    @rule(parent=nodes, name=NAMES)
    def remove(self, parent: Pair, name: bytes) -> None:
        if parent[1] in self.known and self.losing(parent[1], name):
            with (
                contextlib.suppress(OSError),
                self.small.removing(parent[0], name),
                self.large.removing(parent[1], name),
            ):
                try:
                    os.unlink(name, dir_fd=parent[1].descriptor)
                except IsADirectoryError:
                    os.rmdir(name, dir_fd=parent[1].descriptor)

    @rule(old=nodes, name=NAMES, new=nodes, new_name=NAMES, exchange=st.booleans())
    def rename(self, old: Pair, name: bytes, new: Pair, new_name: bytes, exchange: bool) -> None:
        if old[1] in self.known and new[1] in self.known and (exchange or self.losing(new[1], new_name)):
            with (
                contextlib.suppress(OSError),
                self.small.moving(old[0], name, new[0], new_name, exchange=exchange),
                self.large.moving(old[1], name, new[1], new_name, exchange=exchange),
            ):
                flags = EXCHANGE if exchange else 0
                _libc.rename(old[0].descriptor, name, new[0].descriptor, new_name, flags)

    @rule(node=nodes)
    def ask(self, node: Pair) -> None:
        if node[1] in self.known:
            small, large = node
            assert os.fstat(small.descriptor) == os.fstat(large.descriptor)

    @invariant()
    def few_are_open(self) -> None:
        assert len(self.small.open) <= SMALL
        assert sum(small.open_as >= 0 for small in self.known.values()) <= SMALL


class TablesByHandle(Tables):
    way = "handles"


def model(tables: type[Tables]) -> Any:
    tables.TestCase.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
    return tables.TestCase


TestByName = model(Tables)
TestByHandle = pytest.mark.skipif(not may_open_by_handle(), reason="opening by handle takes CAP_DAC_READ_SEARCH")(
    model(TablesByHandle)
)
