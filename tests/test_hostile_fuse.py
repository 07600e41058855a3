"""Hostile guests on a shared directory: each attack gets its answer, and harms nobody but its own session."""

import asyncio
import contextlib
import errno
import hashlib
import logging
import os
import socket
import stat
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import attrs
import pytest
from hdvkit_virtiofs import Passthrough
from systems import IS_ROOT

import hdvkit
from hdvkit.testing.fuse_client import FuseClient
from hdvkit.testing.fuse_messages import Opcode, Open, ProtocolError
from hdvkit.testing.guest import Guest
from hdvkit.testing.hostile_fuse import ATTACKS, HostileFuse, answer_of
from hdvkit.testing.hostile_fuse_guest import DROPPED, SERVED, HostileGuest, alike, request
from hdvkit.testing.mount import GuestMount

LIMIT = 30.0
"""Seconds after which an attack counts as a hang; nothing is timed against it."""

RACES = 100_000 if os.environ.get("HDVKIT_E2E") == "long" else 1500

LINES = {"F1", "F2", "F3", "F4", "F6", "F8", "F9", *(f"F{line}" for line in range(10, 29)), "F30"}
"""Lines of the threat model with at least one row; the module says why F5, F7 and F29 have none."""

SHAPED = {"F1", "F2", "F11", "F12", "F13", "F15", "F22", "F23", "F26", "F30"}
"""Lines whose attacks have unusual shapes or numbers of chains; they come over a packed ring too."""


def attacks() -> Iterator[object]:
    for row in ATTACKS:
        yield pytest.param(row, False, id=row.name)
        if row.name.partition("-")[0] in SHAPED:
            yield pytest.param(row, True, id=f"{row.name}-packed")


@pytest.fixture
def ground(tmp_path: Path) -> Path:
    """Two shares, and around them what no guest may touch or see."""
    for name in ("share", "other", "outside"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(name.encode())
        (tmp_path / name / "dir").mkdir()
        (tmp_path / name / "dir" / "inner").write_bytes(b"inner")
        (tmp_path / name / "link").symlink_to("/etc/passwd")
    (tmp_path / "canary").write_bytes(b"canary")
    return tmp_path


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing is logged as an error: what a guest does wrong is no failure of the host."""
    with caplog.at_level(logging.DEBUG):
        yield
    assert [record.getMessage() for record in caplog.get_records("call") if record.levelno >= logging.ERROR] == []


@pytest.fixture
def no_leak() -> Iterator[None]:
    """The process has the same descriptors open as before."""
    before = descriptors()
    yield
    assert descriptors() == before


def descriptors() -> Counter[str]:
    """What this process has open, by what it leads to."""
    targets: Counter[str] = Counter()
    for number in os.listdir("/proc/self/fd"):  # noqa: PTH208 - descriptors, not paths
        with contextlib.suppress(OSError):
            targets[os.readlink(f"/proc/self/fd/{number}")] += 1  # noqa: PTH115 - the same
    return targets


def snapshot(*roots: Path, atime: bool = False) -> dict[str, tuple[object, ...]]:
    """Names, attributes, times and contents below ``roots``, read without leaving a trace."""
    found: dict[str, tuple[object, ...]] = {}
    for root in roots:
        for path in (root, *sorted(root.rglob("*"))):
            seen = path.lstat()
            content = ""
            if path.is_symlink():
                content = str(path.readlink())
            elif path.is_file():
                with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOATIME), "rb") as file:
                    content = hashlib.sha256(file.read()).hexdigest()
            found[str(path)] = (
                *(seen.st_ino, seen.st_mode, seen.st_nlink, seen.st_uid, seen.st_gid, seen.st_size),
                *(seen.st_mtime_ns, seen.st_ctime_ns, seen.st_atime_ns if atime else 0, content),
            )
    return found


@contextlib.asynccontextmanager
async def machine(ground: Path, row: HostileFuse) -> AsyncIterator[tuple[hdvkit.DeviceHost, list[hdvkit.Function]]]:
    """A host with the share under attack and another one."""
    source = Passthrough(ground / "share", max_descriptors=row.descriptors)
    async with hdvkit.open_host("sim") as host:
        share = await host.add("virtiofs", source=source, tag="share", read_only=row.read_only)
        other = await host.add("virtiofs", source=ground / "other", tag="other")
        yield host, [share, other]


async def still_serves(mount: GuestMount, content: bytes = b"share") -> None:
    with contextlib.suppress(OSError):  # unless the session is open
        await mount.client.init()
    mount._state.mounted = True
    assert await mount.read_bytes("file") == content
    assert await mount.read_bytes("dir/inner") == b"inner"
    assert {"file", "dir", "link"} <= set(await mount.listdir("/"))


@pytest.mark.usefixtures("no_leak", "quiet")
@pytest.mark.parametrize(("row", "packed"), [*attacks()])
async def test_attack(row: HostileFuse, packed: bool, ground: Path) -> None:
    outside = [ground / "outside", ground / "other", ground / "canary"]
    if row.read_only:
        outside.append(ground / "share")
    snapshot(*outside)  # directories listed for the first time change their time of access
    before = snapshot(*outside, atime=True)
    async with machine(ground, row) as (host, (share, other)):
        passthrough = share.device.source
        at_rest = passthrough.live_descriptors
        guest = Guest.of(host)
        async with guest.mount(other, packed=packed) as neighbour, guest.drive(share, packed=packed) as driver:
            foreign = 0
            for number in range(8):  # so that the neighbour knows a number which the share under attack does not
                foreign = (await neighbour.client.mkdir(1, f"d{number}", 0o755)).nodeid
            before = {**before, **snapshot(ground / "other", atime=True)}
            hiprio, requests = driver.queues
            client = FuseClient(requests, hiprio, minor=46)
            if row.mounted:
                await client.init()
            async with asyncio.timeout(LIMIT):
                answer = await answer_of(row, HostileGuest(client, requests, hiprio, foreign=foreign))
            assert said(answer) == said(row.answer), row.summary
            assert snapshot(*outside, atime=True) == before

            if row.descriptors:
                assert passthrough.live_descriptors <= row.descriptors
            mount = GuestMount(client)
            if row.descriptors:  # the guest is at its limit: it must give something back before it opens more
                await client.destroy()
            await still_serves(mount)
            await mount.unmount()
            assert passthrough.live_descriptors == at_rest
            assert len(share.device.server.handles) == 0
            assert len(share.device.server.nodes) == 1

            for _ in range(2):  # and again, from the beginning
                async with GuestMount(client) as mount:
                    await still_serves(mount)
            await still_serves(neighbour, b"other")
            for function in (share, other):
                assert function.state is hdvkit.State.READY
                assert function.stats().needs_resets == 0
                assert all(queue.in_flight == 0 for queue in function.stats().queues)


def said(answer: int | str) -> str:
    return errno.errorcode[answer] if isinstance(answer, int) else answer


def test_every_line_has_an_attack() -> None:
    lines = [row.name.partition("-")[0] for row in ATTACKS]
    assert set(lines) == LINES
    assert len({row.name for row in ATTACKS}) == len(ATTACKS)
    assert {row.answer for row in ATTACKS if isinstance(row.answer, str)} == {DROPPED, SERVED}
    assert [row.name for row in ATTACKS if row.read_only] == [row.name for row in ATTACKS if row.answer == errno.EROFS]


async def test_an_answer_that_is_not_the_same_for_all_is_reported(ground: Path) -> None:
    row = HostileFuse("mixed", "", alike(request(Opcode.STATFS), request(Opcode.IOCTL)), SERVED)
    async with machine(ground, row) as (host, (share, _)), Guest.of(host).drive(share) as driver:
        hiprio, requests = driver.queues
        client = FuseClient(requests, hiprio)
        await client.init()
        with pytest.raises(ProtocolError, match="the answers differ: \\['served', 22\\]"):
            await answer_of(row, HostileGuest(client, requests, hiprio))


# F7: a host process swaps a directory for a link to the outside while the guest looks

SWAPPER = """
import itertools, os, sys
os.chdir(sys.argv[1])
for turn in itertools.count():
    os.rename("spot", "directory"); os.rename("link", "spot")
    os.rename("spot", "link"); os.rename("directory", "spot")
    if turn == 10:
        print("swapping", flush=True)
"""


@pytest.fixture
def swapped(ground: Path) -> Iterator[Path]:
    """A share whose ``spot`` is now a directory, now a link to a directory outside of it."""
    share = ground / "share"
    (share / "spot").mkdir()
    (share / "spot" / "secret").write_bytes(b"inside")
    (ground / "outside" / "secret").write_bytes(b"CANARY")
    (share / "link").unlink()
    (share / "link").symlink_to(ground / "outside")
    with subprocess.Popen([sys.executable, "-c", SWAPPER, share], stdout=subprocess.PIPE) as swapper:
        assert swapper.stdout is not None
        assert swapper.stdout.readline() == b"swapping\n"
        yield share
        assert swapper.poll() is None
        swapper.kill()


@pytest.mark.usefixtures("quiet")
async def test_f7_a_component_swapped_for_a_link_never_leads_out(swapped: Path) -> None:
    outside = swapped.parent / "outside"
    snapshot(outside)
    before = snapshot(outside, atime=True)
    seen: Counter[str] = Counter()
    async with hdvkit.open_host("sim") as host:
        share = await host.add("virtiofs", source=swapped, tag="share")
        async with Guest.of(host).mount(share) as mount:
            client = mount.client
            for turn in range(RACES):
                try:
                    async with asyncio.timeout(LIMIT):
                        seen[(await _reach(client, turn)).decode()] += 1
                except OSError as error:
                    seen[said(error.errno or 0)] += 1
            await client.destroy()
            mount._state.mounted = False
    assert seen.pop("inside") > 0
    assert seen.pop("ENOTDIR") > 0  # the link was found, and not followed
    assert set(seen) <= {"ENOENT"}  # neither was there
    assert snapshot(outside, atime=True) == before


async def _reach(client: FuseClient, turn: int) -> bytes:
    """Look for the secret below the spot; every third time make and remove a name there."""
    spot = await client.lookup(1, b"spot")
    if turn % 3 == 0:
        made = await client.create(spot.nodeid, b"made", Open.RDWR | Open.CREAT, 0o644)
        await client.write(made.entry.nodeid, made.open.fh, 0, b"made")
        await client.release(made.entry.nodeid, made.open.fh)
        await client.unlink(spot.nodeid, b"made")
        await client.rename(1, b"file", 1, b"file")
    found = await client.lookup(spot.nodeid, b"secret")
    opened = await client.open(found.nodeid, Open.RDONLY)
    try:
        return await client.read(found.nodeid, opened.fh, 0, 64)
    finally:
        await client.release(found.nodeid, opened.fh)
        await client.batch_forget([(spot.nodeid, 1), (found.nodeid, 1)])


# F8 and F24: what stands in the share because somebody on the host put it there


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("flags", [Open.RDONLY, Open.WRONLY, Open.RDWR | Open.TRUNC])
async def test_f24_what_is_no_file_is_never_opened_on_the_host(ground: Path, flags: int) -> None:
    share_path = ground / "share"
    os.mkfifo(share_path / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(share_path / "socket"))
        names = ["fifo", "socket"]
        if IS_ROOT:
            os.mknod(share_path / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
            os.mknod(share_path / "disk", stat.S_IFBLK | 0o600, os.makedev(7, 0))
            names += ["null", "disk"]
        async with hdvkit.open_host("sim") as host:
            share = await host.add("virtiofs", source=share_path, tag="share")
            async with Guest.of(host).mount(share) as mount, asyncio.timeout(LIMIT):
                for name in names:
                    entry = await mount.client.lookup(1, name)
                    for ask in (
                        lambda node=entry.nodeid: mount.client.open(node, flags),
                        lambda name=name: mount.client.create(1, name, flags | Open.CREAT, 0o644),
                    ):
                        with pytest.raises(OSError, match="No such device or address"):
                            await ask()
                    assert (await mount.client.getattr(entry.nodeid)).attr.mode == (share_path / name).lstat().st_mode
                await mount.client.destroy()


# F12: at the limit, and back


@pytest.mark.usefixtures("no_leak", "quiet")
async def test_f12_closing_makes_room_again(ground: Path) -> None:
    async with hdvkit.open_host("sim") as host:
        source = Passthrough(ground / "share", max_descriptors=50)
        share = await host.add("virtiofs", source=source, tag="share")
        async with Guest.of(host).mount(share) as mount:
            nodeid = (await mount.client.lookup(1, "file")).nodeid
            before = source.live_descriptors
            held = [(await mount.client.open(nodeid, Open.RDONLY)).fh for _ in range(50 - before)]
            with pytest.raises(OSError, match="Too many open files in system"):
                await mount.client.open(nodeid, Open.RDONLY)
            assert source.live_descriptors == 50
            assert await mount.client.read(nodeid, held[0], 0, 64) == b"share"  # what it has, it can use
            for fh in held:
                await mount.client.release(nodeid, fh)
            assert source.live_descriptors == before
            assert len(await mount.scandir("/")) == 3


# F17: as much as the host's file system says


@pytest.mark.usefixtures("quiet")
async def test_f17_an_exabyte_is_refused_and_nothing_is_allocated(ground: Path) -> None:
    async with hdvkit.open_host("sim") as host:
        share = await host.add("virtiofs", source=ground / "share", tag="share")
        async with Guest.of(host).mount(share) as mount, await mount.open("file", "r+") as file:
            for size in (1 << 60, (1 << 63) - 4096):
                with pytest.raises(OSError, match=r"."):
                    await file.allocate(0, size)
            assert (await file.stat()).st_blocks <= 8
            assert await file.pread(16, 0) == b"share"


# F25: a read-only share


@pytest.mark.usefixtures("quiet")
async def test_f25_reading_a_read_only_share_leaves_no_trace(ground: Path) -> None:
    share_path = ground / "share"
    paths = (share_path / "file", share_path / "dir" / "inner", share_path / "dir", share_path)
    for path in paths:
        os.utime(path, ns=(10**18, path.stat().st_mtime_ns))  # so old that a read would change it
    async with hdvkit.open_host("sim") as host:
        share = await host.add("virtiofs", source=share_path, tag="share", read_only=True)
        async with Guest.of(host).mount(share) as mount:
            assert await mount.read_bytes("file") == b"share"
            assert await mount.read_bytes("dir/inner") == b"inner"
            assert await mount.listdir("dir") == ["inner"]
    assert [path.stat().st_atime_ns for path in paths] == [10**18] * len(paths)


@pytest.mark.usefixtures("quiet")
async def test_f25_a_mount_of_a_read_only_share_refuses_every_call(ground: Path) -> None:
    before = snapshot(ground)
    async with hdvkit.open_host("sim") as host:
        share = await host.add("virtiofs", source=ground / "share", tag="share", read_only=True)
        async with Guest.of(host).mount(share, minor=46) as mount:
            calls = (
                *(mount.write_bytes("new", b""), mount.write_bytes("file", b""), mount.open("file", "r+")),
                *(mount.mkdir("new"), mount.rmdir("dir"), mount.unlink("file"), mount.rename("file", "new")),
                *(mount.symlink("x", "new"), mount.link("file", "new"), mount.mknod("new"), mount.chmod("file", 0)),
                *(mount.chown("file", 1, 1), mount.truncate("file", 0), mount.utime("file")),
            )
            for call in calls:
                with pytest.raises(OSError, match="Read-only file system"):
                    await call
            assert await mount.access("file", os.R_OK)
            assert not await mount.access("file", os.W_OK)
    assert snapshot(ground) == before


def test_a_row_is_a_value() -> None:
    assert attrs.evolve(ATTACKS[0]) == ATTACKS[0]
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        ATTACKS[0].name = "another"
