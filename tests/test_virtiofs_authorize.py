"""An embedder that is asked before anything is done: what it hears, and that nothing happens against its word."""

import asyncio
import errno
import inspect
import logging
import stat
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from hdvkit_virtiofs import Attributes, Context, Entry, FuseError, MemoryFileSystem, Opened, Operations
from hdvkit_virtiofs.policy import MUTATING
from hdvkit_virtiofs.policy.authorize import Authorized, Operation
from hdvkit_virtiofs.policy.visibility import Visible

import hdvkit
from hdvkit.testing import Guest
from hdvkit.testing.fuse_messages import Opcode as GuestOpcode

GUEST = Context(uid=7)
ROOT = 1
ALL = {
    name: tuple(inspect.signature(method).parameters)[1:]
    for name, method in vars(Operations).items()
    if inspect.isfunction(method) and not name.startswith("_")
}
ASKED = {name: parameters for name, parameters in ALL.items() if "context" in parameters}
NEVER_ASKED = {"forget", "release", "releasedir", "aclose"}

ARGUMENTS: dict[str, object] = {
    "node": "/",
    "parent": "/",
    "new_parent": "/",
    "name": b"n",
    "new_name": b"m",
    "context": GUEST,
    "source": ("/", None, 0),
    "target": b"t",
    "flags": 0,
    "handle": None,
}


class Everything(Operations[str, None]):
    """Carries out whatever it is told to, and remembers that."""

    root = "/"

    def __init__(self) -> None:
        self.done: list[tuple[str, tuple[object, ...]]] = []
        for name in ALL:
            setattr(self, name, self._doing(name))

    def _doing(self, name: str) -> Callable[..., Awaitable[object]]:
        entry = Entry("/", Attributes(1, stat.S_IFDIR))

        async def do(*args: object) -> object:
            self.done.append((name, args))
            return (entry, Opened(None)) if name in {"create", "tmpfile"} else entry

        return do


def arguments(method: str) -> list[object]:
    given = {**ARGUMENTS, "target": ("/", None, 0)} if method == "copy_file_range" else ARGUMENTS
    return [given.get(parameter, 0) for parameter in ALL[method]]


class Desk:
    """Somebody who is asked: remembers what, and answers what it was told to."""

    def __init__(self) -> None:
        self.heard: list[Operation] = []
        self.refused: dict[str, BaseException] = {}

    async def __call__(self, operation: Operation) -> None:
        """Let it pass, or not."""
        self.heard.append(operation)
        if operation.name in self.refused:
            raise self.refused[operation.name]

    def told(self) -> list[tuple[str, bytes, bytes, bool]]:
        """All it heard but who asked."""
        return [(one.name, one.path, one.target, one.writes) for one in self.heard]


async def no(operation: Operation) -> None:
    raise PermissionError(errno.EPERM, "no")


# Every operation


def test_all_are_asked_about_but_those_that_only_close() -> None:
    assert ALL.keys() - ASKED.keys() == NEVER_ASKED


@pytest.mark.parametrize("method", ASKED)
async def test_none_is_carried_out_that_is_refused(method: str) -> None:
    behind = Everything()
    layer: Any = Authorized(behind, no)
    with pytest.raises(FuseError, match="EPERM"):
        await getattr(layer, method)(*arguments(method))
    with pytest.raises(FuseError, match="EPERM"):
        await getattr(layer, method)(**dict(zip(ALL[method], arguments(method), strict=True)))
    assert behind.done == []


@pytest.mark.parametrize("method", ASKED)
async def test_each_is_carried_out_as_it_came_when_it_passes(method: str) -> None:
    behind, desk = Everything(), Desk()
    layer: Any = Authorized(behind, desk)
    await getattr(layer, method)(*arguments(method))
    assert behind.done == [(method, tuple(arguments(method)))]
    assert [operation.context for operation in desk.heard] == [GUEST]


@pytest.mark.parametrize("method", sorted(NEVER_ASKED - {"forget"}))
async def test_nobody_is_asked_about_closing(method: str) -> None:
    behind = Everything()
    layer: Any = Authorized(behind, no)
    await getattr(layer, method)(*arguments(method))
    assert [name for name, _ in behind.done] == [method]


@pytest.mark.parametrize("method", sorted(ASKED.keys() - {"open", "ioctl"}))
async def test_what_a_read_only_share_refuses_writes(method: str) -> None:
    desk = Desk()
    layer: Any = Authorized(Everything(), desk)
    await getattr(layer, method)(*arguments(method))
    mutating = {opcode.name.lower() for opcode in MUTATING} | {"write_from"}
    assert [operation.writes for operation in desk.heard] == [method in mutating]


@pytest.mark.parametrize(
    ("flags", "writes"),
    [(0, False), (1, True), (2, True), (3, True), (0o1000, True), (0o100, True), (0o2000, True), (0o100000, False)],
)
async def test_opening_writes_when_its_flags_say_so(flags: int, writes: bool) -> None:
    desk = Desk()
    await Authorized(Everything(), desk).open("/", flags, GUEST)
    assert [operation.writes for operation in desk.heard] == [writes]


@pytest.mark.parametrize(
    ("command", "writes"),
    [(0x8008_6601, False), (0x4008_6602, True), (0x801C_581F, False), (0x401C_5820, True), (0x1234, True), (0, True)],
)
async def test_a_control_writes_unless_it_is_known_to_read(command: int, writes: bool) -> None:
    desk = Desk()
    await Authorized(Everything(), desk).ioctl("/", None, command, b"", 0, GUEST)
    assert [operation.writes for operation in desk.heard] == [writes]


# What is heard


async def test_paths_and_targets_are_those_of_the_share() -> None:
    desk = Desk()
    layer = Authorized(MemoryFileSystem({"d": {"f": b"data"}, "e": {}}), desk)
    directory = (await layer.lookup(layer.root, b"d", GUEST)).node
    other = (await layer.lookup(layer.root, b"e", GUEST)).node
    file = (await layer.lookup(directory, b"f", GUEST)).node
    desk.heard.clear()
    await layer.getattr(layer.root, None, GUEST)
    await layer.read_into(file, None, 0, [memoryview(bytearray(4))], GUEST)
    await layer.write_from(file, None, 0, [memoryview(b"DATA")], GUEST)
    await layer.symlink(directory, b"s", b"../text", GUEST)
    await layer.link(file, other, b"l", GUEST)
    await layer.rename(directory, b"f", other, b"g", 0, GUEST)
    await layer.rename(layer.root, b"e", directory, b"e", 0, GUEST)
    await layer.unlink(other, b"l", GUEST)
    with suppress(FuseError):
        await layer.setxattr(directory, b"user.x", b"value", 0, GUEST)
    with suppress(FuseError):
        await layer.copy_file_range((file, None, 0), (other, None, 0), 1, 0, GUEST)
    assert desk.told() == [
        ("getattr", b"", b"", False),
        ("read", b"d/f", b"", False),
        ("write", b"d/f", b"", True),
        ("symlink", b"d/s", b"../text", True),
        ("link", b"d/f", b"e/l", True),
        ("rename", b"d/f", b"e/g", True),
        ("rename", b"e", b"d/e", True),
        ("unlink", b"d/e/l", b"", True),
        ("setxattr", b"d", b"user.x", True),
        ("copy_file_range", b"d/e/l", b"d/e", True),
    ]


async def test_what_is_hidden_is_not_asked_about() -> None:
    desk = Desk()
    layer = Visible(Authorized(MemoryFileSystem({"hidden": b"", "shown": b""}), desk), deny=("hidden",))
    with pytest.raises(FuseError, match="ENOENT"):
        await layer.lookup(layer.root, b"hidden", GUEST)
    await layer.lookup(layer.root, b"shown", GUEST)
    assert desk.told() == [("lookup", b"shown", b"", False)]


# Refusals


@pytest.mark.parametrize(
    ("refusal", "expected"),
    [
        (PermissionError(), errno.EACCES),
        (PermissionError("not you"), errno.EACCES),
        (PermissionError(errno.EPERM, "not you"), errno.EPERM),
        (OSError(errno.EDQUOT, "enough"), errno.EDQUOT),
        (FileNotFoundError(errno.ENOENT, "nothing here"), errno.ENOENT),
        (FuseError(errno.EROFS), errno.EROFS),
    ],
)
async def test_the_guest_hears_the_errno_of_a_refusal(
    refusal: Exception, expected: int, caplog: pytest.LogCaptureFixture
) -> None:
    desk = Desk()
    desk.refused["unlink"] = refusal
    files = MemoryFileSystem({"f": b"data"})
    async with hdvkit.open_host("sim") as host:
        share = await host.add("virtiofs", source=Authorized(files, desk), tag="t")
        async with Guest.of(host).mount(share) as mount:
            with pytest.raises(OSError, match=r"f") as caught:
                await mount.unlink("f")
            assert caught.value.errno == expected
            assert await mount.read_bytes("f") == b"data"
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize(
    "failure",
    [RuntimeError("broken"), TimeoutError(), OSError("no errno"), OSError(0, "zero"), FuseError(0), FuseError(-5)],
)
async def test_what_is_no_refusal_is_logged_and_refuses(failure: Exception, caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk()
    desk.refused["unlink"] = failure
    files = MemoryFileSystem({"f": b"data"})
    async with hdvkit.open_host("sim") as host:
        share = await host.add("virtiofs", source=Authorized(files, desk), tag="t")
        async with Guest.of(host).mount(share) as mount:
            with pytest.raises(OSError, match="Input/output error"):
                await mount.unlink("f")
    [record] = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert record.exc_info is not None
    assert record.exc_info[1] is failure
    assert record.getMessage() == "authorize failed for unlink of b'f'"
    assert b"f" in files.root.names


async def test_an_authorize_that_is_no_coroutine_function_refuses(caplog: pytest.LogCaptureFixture) -> None:
    wrong: Any = lambda operation: None  # noqa: E731 - what an embedder might write
    behind = Everything()
    with pytest.raises(FuseError, match="EIO"):
        await Authorized(behind, wrong).statfs("/", GUEST)
    assert behind.done == []
    assert "authorize returned None and nothing to await; define it by async def" in caplog.text


async def test_a_name_whose_lookup_is_refused_is_listed_without_its_attributes() -> None:
    async def only_listing(operation: Operation) -> None:
        if operation.path == b"f":
            raise PermissionError

    async with hdvkit.open_host("sim") as host:
        share = await host.add("virtiofs", source=Authorized(MemoryFileSystem({"f": b""}), only_listing), tag="t")
        async with Guest.of(host).mount(share) as mount:
            [listed] = await mount.client.readdirplus(ROOT, 0, 0)
            assert (listed.dirent.name, listed.entry.nodeid) == (b"f", 0)


# Waiting


class Slow(Desk):
    """Thinks about unlink until told to go on."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Semaphore(0)
        self.go_on = asyncio.Event()
        self.cancelled = 0

    async def __call__(self, operation: Operation) -> None:
        """Take time."""
        await super().__call__(operation)
        if operation.name == "unlink":
            self.asked.release()
            try:
                await self.go_on.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise


async def test_many_are_asked_about_at_once() -> None:
    slow, files = Slow(), MemoryFileSystem({"a": b"", "b": b"", "c": b"data"})
    async with hdvkit.open_host("sim") as host:
        share = await host.add("virtiofs", source=Authorized(files, slow), tag="t")
        async with Guest.of(host).mount(share) as mount:
            waiting = [asyncio.create_task(mount.unlink(name)) for name in ("a", "b")]
            for _ in waiting:
                await slow.asked.acquire()
            assert await mount.read_bytes("c") == b"data"
            assert files.root.names.keys() == {b"a", b"b", b"c"}
            slow.go_on.set()
            await asyncio.gather(*waiting)
    assert files.root.names.keys() == {b"c"}


async def test_an_interrupted_request_is_not_carried_out() -> None:
    slow, files = Slow(), MemoryFileSystem({"a": b""})
    async with hdvkit.open_host("sim") as host:
        share = await host.add("virtiofs", source=Authorized(files, slow), tag="t")
        async with Guest.of(host).mount(share) as mount:
            unique, waiting = mount.client.start_call(GuestOpcode.UNLINK, ROOT, b"a\0")
            await slow.asked.acquire()
            await mount.client.interrupt(unique)
            with pytest.raises(InterruptedError):
                await waiting
            slow.go_on.set()
            assert slow.cancelled == 1
            assert await mount.exists("a")


async def test_what_moves_meanwhile_is_asked_about_again() -> None:
    slow = Slow()
    layer = Authorized(MemoryFileSystem({"d": {"f": b""}, "e": {}}), slow)
    directory = (await layer.lookup(layer.root, b"d", GUEST)).node
    waiting = asyncio.create_task(layer.unlink(directory, b"f", GUEST))
    await slow.asked.acquire()
    await layer.rename(layer.root, b"d", layer.root, b"moved", 0, GUEST)
    slow.refused["unlink"] = PermissionError()
    slow.go_on.set()
    with pytest.raises(FuseError, match="EACCES"):
        await waiting
    assert [operation.path for operation in slow.heard if operation.name == "unlink"] == [b"d/f", b"moved/f"]
    assert b"f" in directory.names


async def test_what_never_stops_moving_is_busy() -> None:
    files = MemoryFileSystem({"0": {"f": b""}})
    asked = 0

    async def moving(operation: Operation) -> None:
        nonlocal asked
        if operation.name == "unlink":
            asked += 1
            await layer.rename(layer.root, b"%d" % (asked - 1), layer.root, b"%d" % asked, 0, GUEST)

    layer = Authorized(files, moving)
    directory = (await layer.lookup(layer.root, b"0", GUEST)).node
    with pytest.raises(FuseError, match="EBUSY"):
        await layer.unlink(directory, b"f", GUEST)
    assert 1 < asked < 100
    assert b"f" in directory.names
