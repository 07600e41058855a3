"""A mounted share against a plain directory: whatever is done to both, both answer alike and end alike.

Two shares of one directory, over a split and a packed ring, take the operations in turn. The default profile fits
a test run; HDVKIT_MODEL=full is the long one, HDVKIT_MODEL=shrink looks for the shortest way to a failure.
"""
# ruff: noqa: D102 - a rule is called by what it does

import asyncio
import os
import shutil
import stat
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pytest
from hdvkit_virtiofs.policy import innermost
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

import hdvkit
from hdvkit.testing.guest import Guest
from hdvkit.testing.mount import GuestFile, GuestMount

T = TypeVar("T")

COMMON = settings(
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
SHORT = settings(COMMON, max_examples=30, stateful_step_count=40, derandomize=True)
PROFILES = {
    "": SHORT,
    "shrink": settings(SHORT, phases=[Phase.generate, Phase.shrink]),  # minutes, so only once something has failed
    "full": settings(COMMON, max_examples=300, stateful_step_count=200, phases=[Phase.generate, Phase.shrink]),
}
PROFILE = PROFILES[os.environ.get("HDVKIT_MODEL", "")]

MAX_OPEN = 4
NAMES = ("a", "b", "ü c")
PATHS = [*NAMES, *NAMES, *(f"{one}/{two}" for one in NAMES for two in NAMES), "a/b/a", "a/b/b", "b/a/a", "a/a/a"]
TARGETS = ["a", "b", "ü c", "a/b", "b/a", "../a", "../a/b", "nowhere", ".", "./a", "a/../b"]
MODES = [0o755, 0o700, 0o644, 0o600, 0o777, 0o4755, 0o2775, 0o1777, 0o6711]
OPEN_MODES = ["rb", "rb+", "wb", "wb+", "ab", "ab+", "xb"]

paths = st.sampled_from(PATHS)
modes = st.sampled_from(MODES)
offsets = st.sampled_from([0, 1, 7, 100, 4095, 4096, 4097, 10_000, 70_000])
data = st.sampled_from([b"", b"x", b"seven..", b"p" * 4096, b"q" * 4097, b"r" * 9000, bytes(range(256)) * 300])
handles = st.integers(0, MAX_OPEN - 1)


class Bench:
    """One event loop, one host, one directory shared twice, and its plain sibling."""

    def __init__(self, folder: Path) -> None:
        self.shared = folder / "shared"
        self.plain = folder / "plain"
        self.shared.mkdir()
        self.plain.mkdir()
        self.examples = 0
        self.steps = 0
        self.loop = asyncio.new_event_loop()
        self._stack = AsyncExitStack()
        self.mounts: list[GuestMount] = []
        self.shares: list[hdvkit.Function] = []
        self.run(self._open())

    async def _open(self) -> None:
        host = await self._stack.enter_async_context(hdvkit.open_host("sim"))
        for packed in (False, True):
            share = await host.add("virtiofs", source=self.shared, tag="packed" if packed else "split", queues=2)
            self.shares.append(share)
            self.mounts.append(await self._stack.enter_async_context(Guest.of(host).mount(share, packed=packed)))

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(call)

    def close(self) -> None:
        self.run(self._stack.aclose())
        self.loop.close()


class Held(NamedTuple):
    """One file, open on both sides."""

    guest: GuestFile
    plain: FileIO


def plainly(call: Callable[[], object]) -> object:
    """What a call on the plain directory gives: its result, or its errno."""
    try:
        return call()
    except OSError as error:
        return f"errno {error.errno}"


async def answered(call: Awaitable[object]) -> object:
    """The same for the guest."""
    try:
        return await call
    except OSError as error:
        return f"errno {error.errno}"


class Seen(NamedTuple):
    """What is compared of a file's attributes; the size of a directory is the file system's own affair."""

    kind: int
    mode: int
    nlink: int
    size: int

    @classmethod
    def of(cls, found: Any) -> "Seen":
        kind = stat.S_IFMT(found.st_mode)
        return cls(kind, stat.S_IMODE(found.st_mode), found.st_nlink, 0 if kind == stat.S_IFDIR else found.st_size)


class Model(RuleBasedStateMachine):
    """Does everything twice."""

    def __init__(self, bench: Bench) -> None:
        super().__init__()
        self.bench = bench
        bench.examples += 1
        self.base = f"example-{bench.examples}"
        self.plain = bench.plain / self.base
        self.held: list[Held] = []
        for root in (self.plain, bench.shared / self.base):  # not empty, or most of it would be ENOENT
            root.mkdir()
            (root / "a").mkdir()
            (root / "a" / "a").write_bytes(b"inner")
            (root / "a" / "b").mkdir()
            (root / "b").write_bytes(b"outer" * 2000)
            (root / "ü c").symlink_to("b")
        self.open_both("b", "rb+")

    @property
    def mount(self) -> GuestMount:
        """The rings take turns."""
        self.bench.steps += 1
        return self.bench.mounts[self.bench.steps % 2]

    def here(self, path: str) -> str:
        return f"{self.base}/{path}"

    def there(self, path: str) -> str:
        return os.fspath(self.plain / path)

    def both(self, guest: Awaitable[object], plain: Callable[[], object]) -> object:
        """Do it on both sides and demand the same."""
        expected = plainly(plain)
        found = self.bench.run(answered(guest))
        assert found == expected, f"the guest got {found!r}, a plain directory gives {expected!r}"
        return found

    def open_both(self, path: str, mode: str) -> None:
        opened: list[Any] = []

        async def guest() -> None:
            opened.append(await self.mount.open(self.here(path), mode))

        self.both(guest(), lambda: opened.append(open(self.there(path), mode, buffering=0)))  # noqa: SIM115, PTH123
        if opened:
            plain, file = opened
            self.held.append(Held(file, plain))

    # Whole files

    @rule(path=paths, content=data)
    def write(self, path: str, content: bytes) -> None:
        self.both(self.mount.write_bytes(self.here(path), content), lambda: _write(self.there(path), content, "wb"))

    @rule(path=paths, content=data)
    def append(self, path: str, content: bytes) -> None:
        self.both(
            self.mount.write_bytes(self.here(path), content, append=True),
            lambda: _write(self.there(path), content, "ab"),
        )

    @rule(path=paths)
    def read(self, path: str) -> None:
        self.both(self.mount.read_bytes(self.here(path)), Path(self.there(path)).read_bytes)

    @rule(path=paths, size=offsets)
    def truncate(self, path: str, size: int) -> None:
        self.both(self.mount.truncate(self.here(path), size), lambda: os.truncate(self.there(path), size))

    # Names

    @rule(path=paths, mode=modes)
    def mkdir(self, path: str, mode: int) -> None:
        self.both(self.mount.mkdir(self.here(path), mode), lambda: os.mkdir(self.there(path), mode))  # noqa: PTH102

    @rule(path=paths)
    def rmdir(self, path: str) -> None:
        self.both(self.mount.rmdir(self.here(path)), Path(self.there(path)).rmdir)

    @rule(path=paths)
    def unlink(self, path: str) -> None:
        self.both(self.mount.unlink(self.here(path)), Path(self.there(path)).unlink)

    @rule(old=paths, new=paths)
    def rename(self, old: str, new: str) -> None:
        self.both(
            self.mount.rename(self.here(old), self.here(new)),
            lambda: os.rename(self.there(old), self.there(new)),  # noqa: PTH104 - as a call, not as a method
        )

    @rule(old=paths, new=paths)
    def link(self, old: str, new: str) -> None:
        self.both(self.mount.link(self.here(old), self.here(new)), lambda: os.link(self.there(old), self.there(new)))

    @rule(to=st.sampled_from(TARGETS), path=paths)
    def symlink(self, to: str, path: str) -> None:
        self.both(self.mount.symlink(to, self.here(path)), lambda: Path(self.there(path)).symlink_to(to))

    @rule(path=paths)
    def readlink(self, path: str) -> None:
        self.both(self.mount.readlink(self.here(path)), lambda: os.readlink(self.there(path)))  # noqa: PTH115

    @rule(path=st.sampled_from([*PATHS, "."]))
    def listdir(self, path: str) -> None:
        self.both(
            _sorted(self.mount.listdir(self.here(path))),
            lambda: sorted(os.listdir(self.there(path))),  # noqa: PTH208 - the same call on both sides
        )

    @rule(path=st.sampled_from([*PATHS, "."]))
    def scandir(self, path: str) -> None:
        """READDIRPLUS: names with their attributes."""

        async def guest() -> object:
            entries = await self.mount.scandir(self.here(path))
            return sorted((entry.name, entry.type << 12, Seen.of(entry.stat)) for entry in entries)

        def plain() -> object:
            with os.scandir(self.there(path)) as entries:
                found = [(entry.name, entry.stat(follow_symlinks=False)) for entry in entries]
            return sorted((name, stat.S_IFMT(seen.st_mode), Seen.of(seen)) for name, seen in found)

        self.both(guest(), plain)

    # Attributes

    @rule(path=paths, follow=st.booleans())
    def stat(self, path: str, follow: bool) -> None:
        self.both(
            _seen(self.mount.stat(self.here(path), follow_symlinks=follow)),
            lambda: Seen.of(os.stat(self.there(path), follow_symlinks=follow)),  # noqa: PTH116 - the same call
        )

    @rule(path=paths, mode=modes)
    def chmod(self, path: str, mode: int) -> None:
        self.both(self.mount.chmod(self.here(path), mode), lambda: Path(self.there(path)).chmod(mode))

    @rule(path=paths, ns=st.sampled_from([0, 1, 10**9 - 1, 1_700_000_000_123_456_789, -5 * 10**8]))
    def utime(self, path: str, ns: int) -> None:
        async def guest() -> object:
            await self.mount.utime(self.here(path), (ns, ns + 1))
            return (await self.mount.stat(self.here(path))).st_mtime_ns

        def plain() -> object:
            os.utime(self.there(path), ns=(ns, ns + 1))
            return Path(self.there(path)).stat().st_mtime_ns

        self.both(guest(), plain)

    # Open files

    @precondition(lambda self: len(self.held) < MAX_OPEN)
    @rule(path=paths, mode=st.sampled_from(OPEN_MODES))
    def open(self, path: str, mode: str) -> None:
        self.open_both(path, mode)

    @precondition(lambda self: self.held)
    @rule(which=handles, action=st.sampled_from(["read", "write", "truncate", "stat"]), content=data, offset=offsets)
    def use(self, which: int, action: str, content: bytes, offset: int) -> None:
        """One rule, so that a run that opens files also uses them."""
        guest, plain = self.held[which % len(self.held)]
        number = plain.fileno()
        if action == "read":
            self.both(guest.pread(len(content) + 1, offset), lambda: os.pread(number, len(content) + 1, offset))
        elif action == "write":
            self.both(guest.pwrite(content, offset), lambda: os.pwrite(number, content, offset))
        elif action == "truncate" and plain.writable():  # a guest's kernel refuses others by itself
            self.both(guest.truncate(offset), lambda: os.ftruncate(number, offset))
        else:
            self.both(_seen(guest.stat()), lambda: Seen.of(os.fstat(number)))

    @precondition(lambda self: self.held)
    @rule(which=handles)
    def close(self, which: int) -> None:
        guest, plain = self.held.pop(which % len(self.held))
        self.both(guest.close(), plain.close)

    def teardown(self) -> None:
        shared = self.bench.shared / self.base
        try:
            for guest, plain in self.held:
                self.both(guest.close(), plain.close)
            expected = dict(_tree(self.plain))
            assert dict(_tree(shared)) == expected
            assert self.bench.run(_guest_tree(self.mount, self.base)) == expected
        finally:
            for mount in self.bench.mounts:
                self.bench.run(mount.drop_caches())
            shutil.rmtree(self.plain)
            shutil.rmtree(shared)


def _write(path: str, content: bytes, mode: str) -> None:
    with open(path, mode, buffering=0) as file:  # noqa: PTH123 - the mode is the point
        file.write(content)


async def _sorted(names: Awaitable[list[str]]) -> list[str]:
    return sorted(await names)


async def _seen(found: Awaitable[object]) -> Seen:
    return Seen.of(await found)


def _tree(root: Path) -> Iterator[tuple[str, tuple[Seen, object]]]:
    """Names, attributes, contents and targets of a tree of the host."""
    for path in root.rglob("*"):
        seen = Seen.of(path.lstat())
        content: object = None
        if seen.kind == stat.S_IFLNK:
            content = os.readlink(path)  # noqa: PTH115 - a Path would tidy the target up
        elif seen.kind == stat.S_IFREG:
            content = path.read_bytes()
        yield os.fspath(path.relative_to(root)), (seen, content)


async def _guest_tree(mount: GuestMount, root: str) -> dict[str, tuple[Seen, object]]:
    """The same, as the guest sees it."""
    found: dict[str, tuple[Seen, object]] = {}
    async for here, _, _ in mount.walk(root):
        for entry in await mount.scandir(here):
            path = f"{here}/{entry.name}"
            content: object = None
            if entry.is_symlink():
                content = await mount.readlink(path)
            elif entry.is_file():
                content = await mount.read_bytes(path)
            found[path.removeprefix(f"{root}/")] = (Seen.of(entry.stat), content)
    return found


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    before = os.umask(0o022)  # that of the guest
    bench = Bench(tmp_path)
    yield bench
    bench.close()
    os.umask(before)


def test_a_share_behaves_as_a_directory_does(bench: Bench) -> None:
    run_state_machine_as_test(partial(Model, bench), settings=PROFILE)
    assert bench.examples >= PROFILE.max_examples
    assert bench.steps > bench.examples
    for mount, share in zip(bench.mounts, bench.shares, strict=True):
        assert mount.references == 0
        assert len(share.device.server.handles) == 0
        assert innermost(share.device.server.operations).live_descriptors <= 2  # the root
        assert share.stats().needs_resets == 0
