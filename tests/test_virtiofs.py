"""The virtio-fs device end to end: options in, a guest's mount out, and nothing of the host left behind."""
# ruff: noqa: D102 - what the methods of a file system do is said in its base
# ruff: noqa: ASYNC240 - the host side of a test may block, nobody else is on the loop

import asyncio
import contextlib
import errno
import hashlib
import logging
import os
import random
import stat
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from struct import pack

import pytest
from hdvkit_virtiofs import Attributes, Context, DirEntry, Entry, FuseError, MemoryFileSystem, Operations
from hdvkit_virtiofs.device import VirtioFs
from systems import IS_ROOT, need_directories, shares_directories

import hdvkit
from hdvkit.testing.driver import VirtioDriver
from hdvkit.testing.fuse_client import FuseClient
from hdvkit.testing.fuse_messages import IN_HEADER, OUT_HEADER, Fattr, Init, Opcode, Open
from hdvkit.testing.guest import Guest, machine_of
from hdvkit.testing.hostile_fuse_guest import HostileGuest
from hdvkit.testing.mount import GuestMount

LIMIT = 30.0
"""Seconds after which something counts as a hang; nothing is timed against it."""
MIB = 1 << 20
DIRECT_IO, KEEP_CACHE = 1, 2
NOISE = random.Random(7).randbytes(3 * MIB)

rings = pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    need_directories()
    folder = tmp_path / "share"
    folder.mkdir()
    (folder / "file").write_bytes(b"content")
    return folder


@pytest.fixture
async def host() -> AsyncIterator[hdvkit.DeviceHost]:
    async with hdvkit.open_host("sim") as host:
        yield host


@asynccontextmanager
async def shared(
    folder: Path, *, packed: bool = False, minor: int = 38, **options: object
) -> AsyncIterator[GuestMount]:
    """A directory, mounted."""
    async with hdvkit.open_host("sim") as host:
        share = await host.add("virtiofs", source=folder, tag="t", **options)
        async with Guest.of(host).mount(share, packed=packed, minor=minor) as mount:
            yield mount


def below(folder: Path) -> Counter[str]:
    """What this process has open in ``folder``."""
    found: Counter[str] = Counter()
    for number in os.listdir("/proc/self/fd"):  # noqa: PTH208 - descriptors, not paths
        with contextlib.suppress(OSError):
            target = os.readlink(f"/proc/self/fd/{number}")  # noqa: PTH115 - the same
            if target.startswith(os.fspath(folder)):
                found[target] += 1
    return found


def nothing_but_the_root(folder: Path) -> dict[str, int]:
    """What a share keeps open at rest: the directory, and, where files are opened by handle, what stands for it."""
    return {os.fspath(folder): 2 if IS_ROOT else 1}


# What the guest's driver sees


@rings
async def test_configuration_is_the_tag_and_the_number_of_request_queues(
    host: hdvkit.DeviceHost, folder: Path, packed: bool
) -> None:
    share = await host.add("virtiofs", source=folder, tag="söurce", queues=3)
    async with Guest.of(host).drive(share, packed=packed) as driver:
        assert driver.device_id == 26
        assert driver.pci_device_id == 0x1040 + 26
        config = await driver.config_read(0, 40)
        assert config[:36] == "söurce".encode() + bytes(29)
        assert config[36:] == (3).to_bytes(4, "little")
        assert driver.num_queues == 4
        assert [queue.size for queue in driver.queues] == [1024] * 4


async def test_a_share_is_called_by_its_tag(host: hdvkit.DeviceHost, folder: Path) -> None:
    names = [(await host.add("virtiofs", source=folder, tag="code")).name for _ in range(2)]
    assert names == ["code", "code-2"]


# Options


@pytest.mark.parametrize("tag", ["t", "t" * 36, "ö" * 18, "with space/slash"])
def test_a_tag_is_1_to_36_bytes(folder: Path, tag: str) -> None:
    operations = MemoryFileSystem()
    assert VirtioFs(operations, tag).config()[:36].rstrip(b"\0") == tag.encode()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, r"^device virtiofs needs source=<.*> and tag=<text>"),
        ({"tag": "t"}, r"^device virtiofs needs source=<"),
        ({"source": "."}, r"^device virtiofs needs tag=<"),
        pytest.param(
            {"source": "/no/such/place", "tag": "t"},
            r"cannot share '/no/such/place': no such file or directory; name a directory",
            marks=shares_directories,
        ),
        pytest.param(
            {"source": __file__, "tag": "t"},
            r"cannot share '.*test_virtiofs.py': not a directory; name a directory",
            marks=shares_directories,
        ),
        ({"source": ".", "tag": ""}, r"a tag is 1 to 36 bytes of UTF-8 without NUL; '' has 0$"),
        ({"source": ".", "tag": "t" * 37}, r"a tag is 1 to 36 bytes of UTF-8 without NUL; 't{37}' has 37$"),
        ({"source": ".", "tag": "ö" * 19}, r"a tag is 1 to 36 bytes of UTF-8 without NUL; 'ö{19}' has 38$"),
        ({"source": ".", "tag": "a\0b"}, r"a tag is 1 to 36 bytes of UTF-8 without NUL"),
        ({"source": ".", "tag": "t", "cache": "sometimes"}, r"option 'cache' .*'sometimes'.*"),
        ({"source": ".", "tag": "t", "queues": 0}, r"option 'queues' of device virtiofs: 0 is no whole number"),
        ({"source": ".", "tag": "t", "queues": 17}, r"option 'queues' of device virtiofs: 17 is no whole number"),
        ({"source": ".", "tag": "t", "queue_size": 100}, r"a queue size is a power of two from 8 to 32768; 100 is"),
        ({"source": ".", "tag": "t", "queue_size": 4}, r"a queue size is a power of two from 8 to 32768; 4 is"),
        ({"source": ".", "tag": "t", "queue_size": 65536}, r"a queue size is a power of two from 8 to 32768; 65536"),
        (
            {"source": ".", "tag": "t", "max_write": 4096},
            r"option 'max_write' of device virtiofs: 4096 is no whole number",
        ),
        (
            {"source": ".", "tag": "t", "max_write": 2 * MIB},
            r"option 'max_write' of device virtiofs: 2097152 is no whole number",
        ),
        (
            {"source": ".", "tag": "t", "attr_timeout": -1},
            r"option 'attr_timeout' of device virtiofs: -1 is no number of seconds",
        ),
        ({"source": ".", "tag": "t", "read_only": "perhaps"}, r"option 'read_only' of device virtiofs takes"),
        ({"source": ".", "tag": "t", "tags": "t"}, r"tags.*did you mean tag=text"),
    ],
)
async def test_a_bad_option_is_one_sentence(host: hdvkit.DeviceHost, options: dict[str, object], sentence: str) -> None:
    before = below(Path("/"))
    with pytest.raises(hdvkit.UsageError, match=sentence) as caught:
        await host.add("virtiofs", **options)
    assert "\n" not in str(caught.value)
    assert host.devices == ()
    assert below(Path("/")) == before


@pytest.mark.parametrize(
    ("options", "seconds", "flags"),
    [
        ({}, (1.0, 1.0), 0),
        ({"cache": "auto"}, (1.0, 1.0), 0),
        ({"cache": "always"}, (86400.0, 86400.0), KEEP_CACHE),
        ({"cache": "never"}, (0.0, 0.0), DIRECT_IO),
        ({"cache": "metadata"}, (86400.0, 86400.0), DIRECT_IO),
        ({"cache": "never", "attr_timeout": 2.5}, (0.0, 2.5), DIRECT_IO),
        ({"cache": "always", "entry_timeout": 0}, (0.0, 86400.0), KEEP_CACHE),
    ],
)
async def test_cache_says_what_the_guest_may_remember(
    folder: Path, options: dict[str, object], seconds: tuple[float, float], flags: int
) -> None:
    async with shared(folder, **options) as mount:
        client = mount.client
        entry = await client.lookup(1, "file")
        made = await client.create(1, "new", Open.RDWR | Open.CREAT, 0o644)
        for told in (entry, made.entry):
            entry_timeout = told.entry_valid + told.entry_valid_nsec / 1e9
            assert (entry_timeout, told.attr_valid + told.attr_valid_nsec / 1e9) == seconds
        attr = await client.getattr(entry.nodeid)
        assert attr.attr_valid + attr.attr_valid_nsec / 1e9 == seconds[1]
        opened = await client.open(entry.nodeid, Open.RDONLY)
        assert (opened.open_flags, made.open.open_flags) == (flags, flags)
        assert (await client.opendir(1)).open_flags == 0


@rings
async def test_every_request_queue_serves(host: hdvkit.DeviceHost, folder: Path, packed: bool) -> None:
    share = await host.add("virtiofs", source=folder, tag="t", queues=4)
    async with Guest.of(host).mount(share, packed=packed) as mount:
        await asyncio.gather(*(mount.write_bytes(f"f{n}", bytes([n]) * 5000) for n in range(40)))
        found = await asyncio.gather(*(mount.read_bytes(f"f{n}") for n in range(40)))
        assert found == [bytes([n]) * 5000 for n in range(40)]
        hiprio, *requests = share.stats().queues
        assert [queue.name for queue in requests] == [f"requests.{n}" for n in range(4)]
        assert all(queue.chains > 30 for queue in requests)
        await mount.drop_caches()
        assert share.stats().queues[0].chains > hiprio.chains  # FORGET


@rings
@pytest.mark.parametrize("indirect", [True, False], ids=["indirect", "direct"])
async def test_a_small_queue(host: hdvkit.DeviceHost, folder: Path, packed: bool, indirect: bool) -> None:
    share = await host.add("virtiofs", source=folder, tag="t", queue_size=8)
    async with Guest.of(host).drive(share, packed=packed, indirect=indirect) as driver:
        hiprio, requests = driver.queues
        assert (hiprio.size, requests.size) == (8, 8)
        client = FuseClient(requests, hiprio, max_pages=requests.size - 4)
        async with GuestMount(client) as mount:
            # Far more descriptors at once than the ring has places: they queue up, or lie in indirect tables.
            await asyncio.gather(*(mount.write_bytes(f"f{n}", NOISE[: 40_000 + n]) for n in range(20)))
            found = await asyncio.gather(*(mount.read_bytes(f"f{n}") for n in range(20)))
            assert found == [NOISE[: 40_000 + n] for n in range(20)]
            assert client.session.max_read == 4 * 4096


async def test_a_guest_mounts_by_the_size_of_the_queue(host: hdvkit.DeviceHost, folder: Path) -> None:
    share = await host.add("virtiofs", source=folder, tag="t", queue_size=8)
    async with Guest.of(host).mount(share) as mount:
        await mount.write_bytes("big", NOISE[:300_000])
        assert await mount.read_bytes("big") == NOISE[:300_000]


async def test_max_write_bounds_each_write(folder: Path) -> None:
    async with shared(folder, max_write=100_000) as mount:
        session = mount.client.session
        assert (session.max_write, session.max_pages) == (24 * 4096, 24)  # whole pages
        before = mount.requests["WRITE"]
        await mount.write_bytes("file", NOISE[:MIB])
        assert mount.requests["WRITE"] - before == -(-MIB // (24 * 4096))
        assert (folder / "file").read_bytes() == NOISE[:MIB]


@pytest.mark.parametrize("minor", [27, 31, 38, 46])
async def test_guests_of_all_ages(folder: Path, minor: int) -> None:
    async with shared(folder, minor=minor) as mount:
        assert mount.client.session.minor == min(minor, 46)
        await mount.write_bytes("new", NOISE[:300_000])
        assert await mount.read_bytes("new") == NOISE[:300_000]
        assert sorted(entry.name for entry in await mount.scandir("/")) == ["file", "new"]
        birth = (await mount.statx("new")).mask & 0x800
        assert bool(birth) == (minor >= 39)
        async with await mount.open("new") as source, await mount.open("copy", "w+") as copy:
            if minor >= 28:
                assert await source.copy_to(copy, 5000) == 5000
            else:
                with pytest.raises(OSError, match="Function not implemented"):
                    await source.copy_to(copy, 5000)


async def test_init_takes_what_the_server_uses_and_no_more(folder: Path) -> None:
    async with shared(folder, minor=46) as mount:
        wanted = Init.ASYNC_READ | Init.ATOMIC_O_TRUNC | Init.BIG_WRITES | Init.DO_READDIRPLUS | Init.MAX_PAGES
        assert mount.client.session.flags & wanted == wanted
        of_directories = Init.POSIX_LOCKS | Init.FLOCK_LOCKS | Init.HANDLE_KILLPRIV_V2
        assert mount.client.session.flags & of_directories == of_directories
        refused = Init.WRITEBACK_CACHE | Init.POSIX_ACL | Init.SECURITY_CTX | Init.DONT_MASK
        assert mount.client.session.flags & refused == 0


# Data


@rings
async def test_three_megabytes_arrive_unchanged(folder: Path, packed: bool) -> None:
    async with shared(folder, packed=packed) as mount:
        await mount.write_bytes("big", NOISE)
        assert hashlib.sha256((folder / "big").read_bytes()).digest() == hashlib.sha256(NOISE).digest()
        assert hashlib.sha256(await mount.read_bytes("big")).digest() == hashlib.sha256(NOISE).digest()
        assert mount.bytes_written == mount.bytes_read == len(NOISE)
        async with await mount.open("big", "r+") as file:
            await file.pwrite(b"x" * 5000, 2 * MIB - 2500)  # neither end on a page
            assert (
                await file.pread(6000, 2 * MIB - 3000)
                == NOISE[2 * MIB - 3000 : 2 * MIB - 2500] + b"x" * 5000 + (NOISE[2 * MIB + 2500 : 2 * MIB + 3000])
            )


@rings
async def test_a_host_with_few_apertures_is_slow_and_never_wrong(folder: Path, packed: bool) -> None:
    async with hdvkit.open_host("sim", apertures=8) as host:
        share = await host.add("virtiofs", source=folder, tag="t")
        async with Guest.of(host).mount(share, packed=packed) as mount:
            await mount.write_bytes("big", NOISE[:MIB])
            assert (folder / "big").read_bytes() == NOISE[:MIB]
            assert await mount.read_bytes("big") == NOISE[:MIB]
            found = await asyncio.gather(*(mount.read_bytes("big") for _ in range(4)))
            assert found == [NOISE[:MIB]] * 4
        assert share.stats().leases == 0


@rings
async def test_a_listing_has_each_of_2000_names_once(folder: Path, packed: bool) -> None:
    names = {f"{'long' * (n % 50)}{n}" for n in range(2000)}
    for name in names:
        (folder / name).touch()
    async with shared(folder, packed=packed) as mount:
        for listing in (await mount.listdir("/"), [entry.name for entry in await mount.scandir("/")]):
            assert Counter(listing) == Counter({*names, "file"})
        assert mount.references == 2001
        await mount.drop_caches()
        assert mount.references == 0


@pytest.mark.parametrize(
    "name",
    ["with space", "ünïcödé 漢字", "n" * 255, "line\nbreak", "back\\slash", "C:", "CON", "dot.", "...", "\x7f\t*?"],
)
async def test_a_name_is_bytes(folder: Path, name: str) -> None:
    async with shared(folder) as mount:
        await mount.write_bytes(name, b"x")
        assert (folder / name).read_bytes() == b"x"
        assert sorted(await mount.listdir("/")) == sorted(["file", name])
        await mount.rename(name, "elsewhere")
        await mount.rename("elsewhere", name)
        await mount.unlink(name)
        assert [path.name for path in folder.iterdir()] == ["file"]


async def test_a_name_that_is_no_unicode_survives(folder: Path) -> None:
    async with shared(folder) as mount:
        await mount.write_bytes(b"\xff\xfe", b"x")
        assert os.listdir(os.fsencode(folder)) in ([b"file", b"\xff\xfe"], [b"\xff\xfe", b"file"])  # noqa: PTH208
        assert await mount.read_bytes(b"\xff\xfe") == b"x"
        with pytest.raises(OSError, match="File name too long"):
            await mount.write_bytes("n" * 256, b"")


# Names and open files


async def test_links(folder: Path) -> None:
    async with shared(folder) as mount:
        await mount.link("file", "hard")
        assert (await mount.stat("hard")).st_nlink == 2
        assert (await mount.stat("hard")).st_ino == (await mount.stat("file")).st_ino == (folder / "file").stat().st_ino
        await mount.write_bytes("hard", b"changed")
        await mount.unlink("file")
        assert await mount.read_bytes("hard") == b"changed"
        assert (await mount.stat("hard")).st_nlink == 1
        await mount.symlink("hard", "soft")
        await mount.symlink("../../etc/passwd", "out")
        assert await mount.read_bytes("soft") == b"changed"
        assert await mount.readlink("out") == "../../etc/passwd"
        assert (folder / "out").is_symlink()
        with pytest.raises(FileNotFoundError):
            await mount.read_bytes("out")  # resolved by the guest, in its own tree


@rings
async def test_an_open_file_survives_rename_and_unlink_on_either_side(folder: Path, packed: bool) -> None:
    (folder / "dir").mkdir()
    async with shared(folder, packed=packed) as mount:
        await mount.write_bytes("dir/a", b"first")
        await mount.write_bytes("b", b"second")
        async with await mount.open("dir/a", "r+") as a, await mount.open("b", "r+") as b:
            await mount.rename("b", "dir/a")  # a has no name any more
            (folder / "dir").rename(folder / "moved")
            assert (await a.stat()).st_nlink == 0
            await a.pwrite(b"1", 0)
            assert await a.pread(16, 0) == b"1irst"
            await a.truncate(2)
            assert (await a.stat()).st_size == 2
            (folder / "moved" / "a").unlink()
            await b.pwrite(b"2", 0)
            assert await b.pread(16, 0) == b"2econd"
            await b.fsync()
        assert sorted(os.listdir(folder)) == ["file", "moved"]  # noqa: PTH208
        assert os.listdir(folder / "moved") == []  # noqa: PTH208


async def test_a_reader_cannot_truncate(folder: Path) -> None:
    async with shared(folder) as mount, await mount.open("file", "r") as reader:
        with pytest.raises(OSError, match="Invalid argument"):
            await reader.truncate(0)
        with pytest.raises(OSError, match="Bad file descriptor"):
            await reader.allocate(0, 8)


async def test_stale_numbers_are_estale_and_ebadf(folder: Path) -> None:
    async with shared(folder) as mount:
        client = mount.client
        entry = await client.lookup(1, "file")
        opened = await client.open(entry.nodeid, Open.RDONLY)
        await client.release(entry.nodeid, opened.fh)
        for stale in (client.read(entry.nodeid, opened.fh, 0, 8), client.release(entry.nodeid, opened.fh)):
            with pytest.raises(OSError, match="Bad file descriptor"):
                await stale
        await client.forget(entry.nodeid)
        for stale in (client.getattr(entry.nodeid), client.open(entry.nodeid, Open.RDONLY)):
            with pytest.raises(OSError, match="Stale file handle"):
                await stale
        again = await client.lookup(1, "file")
        assert again.nodeid != entry.nodeid
        assert again.attr.ino == entry.attr.ino
        await client.forget(again.nodeid)


async def test_statfs_is_the_hosts(folder: Path) -> None:
    async with shared(folder) as mount:
        told, real = await mount.statvfs(), os.statvfs(folder)
        assert (told.blocks, told.bsize, told.frsize, told.namelen) == (
            real.f_blocks,
            real.f_bsize,
            real.f_frsize,
            real.f_namemax,
        )


# Mount, unmount, reset, removal


@rings
async def test_unmount_and_mount_again(host: hdvkit.DeviceHost, folder: Path, packed: bool) -> None:
    share = await host.add("virtiofs", source=folder, tag="t")
    guest = Guest.of(host)
    for _ in range(3):  # with a new driver
        async with guest.mount(share, packed=packed) as mount:
            assert await mount.read_bytes("file") == b"content"
            client = mount.client
            await mount.unmount()
            for forget in (True, False):  # with the same
                again = GuestMount(client)
                await again.mount()
                assert await again.read_bytes("file") == b"content"
                await again.unmount(forget=forget)
                assert below(folder) == nothing_but_the_root(folder)
    assert share.stats().resets >= 3


async def raw_client(guest: Guest, share: hdvkit.Function, **options: bool) -> tuple[VirtioDriver, FuseClient]:
    """A driver that is up and a session, neither of which ends by itself."""
    driver = guest.driver(share, packed=options.get("packed", False))
    await driver.probe()
    await driver.start()
    hiprio, *requests = driver.queues
    client = FuseClient(requests, hiprio)
    await client.init()
    return driver, client


@rings
async def test_a_reset_closes_all_the_guest_had_open(host: hdvkit.DeviceHost, folder: Path, packed: bool) -> None:
    share = await host.add("virtiofs", source=folder, tag="t")
    guest = Guest.of(host)
    driver, client = await raw_client(guest, share, packed=packed)
    entry = await client.lookup(1, "file")
    opened = [await client.open(entry.nodeid, Open.RDONLY) for _ in range(20)]
    for number in range(20):
        await client.create(1, f"new{number}", Open.RDWR | Open.CREAT, 0o644)
    await client.opendir(1)
    # The root and its mount, the files, the directory; of nodes as many as were needed.
    assert 2 + 20 + 20 + 1 <= sum(below(folder).values()) <= 2 + 1 + 20 + 40 + 1
    await driver.reset()
    assert below(folder) == nothing_but_the_root(folder)
    assert share.stats().leases == 0

    driver, client = await raw_client(guest, share, packed=packed)
    with pytest.raises(OSError, match="Stale file handle"):
        await client.getattr(entry.nodeid)
    with pytest.raises(OSError, match="Bad file descriptor"):
        await client.read(entry.nodeid, opened[0].fh, 0, 8)
    assert (await client.lookup(1, "file")).attr.size == 7
    await driver.reset()


async def test_a_removed_share_answers_enodev_and_holds_nothing(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "other").mkdir()
    async with hdvkit.open_host("sim", removable=False) as host:
        share = await host.add("virtiofs", source=folder, tag="t")
        other = await host.add("virtiofs", source=tmp_path / "other", tag="other")
        guest = Guest.of(host)
        async with guest.mount(other) as neighbour:
            async with guest.mount(share) as mount:
                file = await mount.open("file", "r+")
                assert await host.remove(share) is hdvkit.Removal.PARKED
                assert share.state is hdvkit.State.PARKED
                assert below(folder) == {}
                for call in (
                    *(file.pread(8, 0), file.pwrite(b"x", 0), file.stat(), file.fsync()),
                    *(mount.stat("file"), mount.listdir("/"), mount.mkdir("new"), mount.statvfs()),
                ):
                    with pytest.raises(OSError, match="No such device"):
                        await call
                with pytest.raises(OSError, match="No such device"):
                    await file.close()
                await neighbour.write_bytes("still", b"here")
            assert share.stats().leases == 0
            assert await neighbour.read_bytes("still") == b"here"
            with pytest.raises(OSError, match="No such device"):
                await raw_client(guest, share)  # a guest may even start again
    assert (folder / "file").read_bytes() == b"content"
    assert [path.name for path in folder.iterdir()] == ["file"]


async def test_a_share_taken_out_of_its_slot(host: hdvkit.DeviceHost, tmp_path: Path, folder: Path) -> None:
    (tmp_path / "other").mkdir()
    share = await host.add("virtiofs", source=folder, tag="t")
    other = await host.add("virtiofs", source=tmp_path / "other", tag="other")
    guest = Guest.of(host)
    driver, client = await raw_client(guest, share)
    await client.open((await client.lookup(1, "file")).nodeid, Open.RDWR)
    assert await host.remove(share) is hdvkit.Removal.REMOVED
    assert below(folder) == {}
    assert share.stats().leases == 0
    assert await driver.status() == 0xFF
    with pytest.raises(hdvkit.UsageError, match="it will not become ready"):
        await share.ready()
    async with guest.mount(other) as neighbour:
        await neighbour.write_bytes("still", b"here")
        assert await neighbour.read_bytes("still") == b"here"
    assert host.devices == (other,)


async def test_200_shares_come_and_go_without_a_trace(host: hdvkit.DeviceHost, folder: Path) -> None:
    guest, ram = Guest.of(host), machine_of(host).memory

    async def once(number: int) -> None:
        share = await host.add("virtiofs", source=folder, tag=f"t{number}")
        driver, client = await raw_client(guest, share, packed=bool(number % 2))
        made = await client.create(1, "big", Open.RDWR | Open.CREAT, 0o644)
        # Long enough for a thread.
        assert await client.write(made.entry.nodeid, made.open.fh, 0, NOISE[: 300 * 1024]) == 300 * 1024
        if number % 3:
            await driver.reset()
        assert await host.remove(share) is hdvkit.Removal.REMOVED
        assert share.stats().leases == 0
        for queue in driver.queues:
            queue.close("the device is gone")

    async def held() -> tuple[Counter[str], int, int, int]:
        for thread in threading.enumerate():
            if thread.name.startswith("hdvkit-files"):
                thread.join(LIMIT)  # told to end, and not waited for
        return below(Path("/")), len(asyncio.all_tasks()), threading.active_count(), ram.allocated

    await once(0)
    before = await held()
    for number in range(200):
        await once(number)
    assert await held() == before
    assert host.devices == ()


@pytest.mark.parametrize(
    ("opcode", "body"),
    [
        (Opcode.LOOKUP, b"file\0"),
        (Opcode.OPENDIR, bytes(8)),
        (Opcode.MKDIR, pack("<II", 0o755, 0) + b"new\0"),
        (Opcode.CREATE, pack("<4I", Open.RDWR | Open.CREAT, 0o644, 0, 0) + b"new\0"),
    ],
    ids=lambda value: value.name if isinstance(value, Opcode) else "",
)
async def test_a_request_without_room_for_its_answer_does_nothing(
    host: hdvkit.DeviceHost, folder: Path, opcode: Opcode, body: bytes
) -> None:
    share = await host.add("virtiofs", source=folder, tag="t")
    driver, client = await raw_client(Guest.of(host), share)
    guest = HostileGuest(client, driver.queues[1], driver.queues[0])
    with pytest.raises(OSError, match="Input/output error"):
        await guest.send(opcode, 1, body, room=16)
    held, names = below(folder), [path.name for path in folder.iterdir()]
    await driver.reset()
    assert held == nothing_but_the_root(folder)
    assert names == ["file"]


async def test_a_create_that_fails_late_closes_its_file(
    host: hdvkit.DeviceHost, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    share = await host.add("virtiofs", source=folder, tag="t")
    driver, client = await raw_client(Guest.of(host), share)
    monkeypatch.setattr("hdvkit_virtiofs.nodes.MAX_NODES", 1)
    with pytest.raises(OSError, match="Too many open files in system"):
        await client.create(1, "new", Open.RDWR | Open.CREAT | Open.APPEND, 0o644)  # not one of those C answers
    held = below(folder)
    await driver.reset()
    assert held == nothing_but_the_root(folder)


async def test_closing_the_host_closes_a_share_in_use(folder: Path) -> None:
    tasks, threads = len(asyncio.all_tasks()), threading.active_count()
    async with hdvkit.open_host("sim") as host:
        share = await host.add("virtiofs", source=folder, tag="t")
        _, client = await raw_client(Guest.of(host), share)
        await client.open((await client.lookup(1, "file")).nodeid, Open.RDWR)
        assert sum(below(folder).values()) in (3, 4)  # the root and its mount, the file, perhaps its node
    assert below(folder) == {}
    assert share.state is hdvkit.State.CLOSED
    assert (len(asyncio.all_tasks()), threading.active_count()) == (tasks, threads)


# File systems that are classes


@rings
async def test_a_file_system_in_memory(host: hdvkit.DeviceHost, packed: bool) -> None:
    source = MemoryFileSystem({"docs": {"readme": b"hello"}}, capacity=8 * MIB)
    share = await host.add("virtiofs", source=source, tag="memory")
    async with Guest.of(host).mount(share, packed=packed) as mount:
        assert await mount.read_text("docs/readme") == "hello"
        await mount.write_bytes("docs/new", NOISE)
        assert await mount.read_bytes("docs/new") == NOISE
        await mount.rename("docs/new", "moved")
        await mount.link("moved", "docs/again")
        assert sorted(await mount.listdir("docs")) == ["again", "readme"]
        assert (await mount.stat("moved")).st_nlink == 2
        assert (await mount.statvfs()).blocks == 8 * MIB // 4096
        with pytest.raises(OSError, match="No space left on device"):
            await mount.write_bytes("toobig", NOISE * 2)
        with pytest.raises(OSError, match="Operation not supported"):
            await mount.setxattr("moved", "user.x", b"")


class Desk(Operations[str, None]):
    """Read-only and stateless: no open, no opendir. ``slow`` waits, ``broken`` is a bug, the others are texts."""

    root = ""

    def __init__(self) -> None:
        self.texts = {"note": b"milk", "slow": b"late", "broken": b"?"}
        self.asked = asyncio.Event()
        self.go_on = asyncio.Event()
        self.cancelled = 0
        self.forgotten: list[str] = []
        self.closed = 0

    def attributes(self, node: str) -> Attributes:
        if node == self.root:
            return Attributes(ino=1, mode=stat.S_IFDIR | 0o555, nlink=2)
        return Attributes(ino=2 + [*self.texts].index(node), mode=stat.S_IFREG | 0o444, size=len(self.texts[node]))

    async def lookup(self, parent: str, name: bytes, context: Context) -> Entry[str]:
        if name.decode() not in self.texts:
            raise FuseError(errno.ENOENT)
        return Entry(name.decode(), self.attributes(name.decode()))

    def forget(self, node: str) -> None:
        self.forgotten.append(node)

    async def getattr(self, node: str, handle: None, context: Context) -> Attributes:
        return self.attributes(node)

    async def read(self, node: str, handle: None, offset: int, size: int, context: Context) -> bytes:
        if node == "broken":
            raise ZeroDivisionError("the desk collapsed")
        if node == "slow":
            self.asked.set()
            try:
                await self.go_on.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        return self.texts[node][offset : offset + size]

    async def readdir(self, node: str, handle: None, offset: int, context: Context) -> Iterable[DirEntry]:
        return [DirEntry(name.encode(), 2 + n, stat.S_IFREG, n + 1) for n, name in enumerate(self.texts)][offset:]

    async def aclose(self) -> None:
        self.closed += 1


@asynccontextmanager
async def on_desk(**options: object) -> AsyncIterator[tuple[Desk, GuestMount, hdvkit.DeviceHost, hdvkit.Function]]:
    desk = Desk()
    async with hdvkit.open_host("sim", removable=False) as host, asyncio.timeout(LIMIT):
        share = await host.add("virtiofs", source=desk, tag="desk", **options)
        async with Guest.of(host).mount(share) as mount:
            yield desk, mount, host, share
    assert desk.closed == 1


async def test_a_class_without_open_is_read_and_listed() -> None:
    async with on_desk() as (desk, mount, _, _):
        assert await mount.read_bytes("note") == b"milk"
        assert sorted(await mount.listdir("/")) == ["broken", "note", "slow"]
        assert {entry.name: entry.stat.st_size for entry in await mount.scandir("/") if entry.stat} == {
            "note": 4,
            "slow": 4,
            "broken": 1,
        }
        assert mount.requests["OPEN"] == mount.requests["OPENDIR"] == 1  # ENOSYS was remembered
        assert mount.requests["RELEASE"] == mount.requests["RELEASEDIR"] == 0
        assert await mount.read_bytes("note") == b"milk"
        await mount.drop_caches()
        await mount.stat("/")
        assert sorted(desk.forgotten) == ["broken", "note", "slow"]


async def test_a_slow_answer_delays_no_other() -> None:
    async with on_desk() as (desk, mount, _, _):
        slow = asyncio.create_task(mount.read_bytes("slow"))
        await desk.asked.wait()
        assert [await mount.read_bytes("note") for _ in range(50)] == [b"milk"] * 50
        assert not slow.done()
        desk.go_on.set()
        assert await slow == b"late"


async def test_a_bug_is_eio_for_the_guest_and_a_traceback_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async with on_desk() as (_, mount, _, share):
        with pytest.raises(OSError, match="Input/output error"):
            await mount.read_bytes("broken")
        (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
        assert record.name == "hdvkit.virtiofs"
        assert record.getMessage().startswith("READ failed for node ")
        assert record.exc_info is not None
        assert isinstance(record.exc_info[1], ZeroDivisionError)
        assert await mount.read_bytes("note") == b"milk"
        assert share.state is hdvkit.State.READY


async def test_interrupt_ends_a_waiting_request() -> None:
    async with on_desk() as (desk, mount, _, _):
        client = mount.client
        entry = await client.lookup(1, "slow")
        body = b"".join(number.to_bytes(8, "little") for number in (0, 0, 4096, 0, 0))
        unique, waiting = client.start_call(Opcode.READ, entry.nodeid, body, read_size=4096)
        await desk.asked.wait()
        await client.interrupt(unique)
        with pytest.raises(InterruptedError):
            await waiting
        assert desk.cancelled == 1
        await client.interrupt(unique)  # too late, and harmless
        desk.go_on.set()
        assert await mount.read_bytes("slow") == b"late"


async def test_interrupt_right_behind_its_request(host: hdvkit.DeviceHost) -> None:
    desk = Desk()
    share = await host.add("virtiofs", source=desk, tag="desk")
    driver, client = await raw_client(Guest.of(host), share)
    hiprio, requests = driver.queues
    entry = await client.lookup(1, "slow")
    read = b"".join(number.to_bytes(8, "little") for number in (0, 0, 4096, 0, 0))
    waiting = requests.post([IN_HEADER.pack(80, Opcode.READ, 100, entry.nodeid, 0, 0, 1, 0, 0), read], [16, 4096])
    interrupt = hiprio.post([IN_HEADER.pack(48, Opcode.INTERRUPT, 101, 0, 0, 0, 1, 0, 0), pack("<Q", 100)], [16])
    for queue in (requests, hiprio):  # both kicks are there before anybody looks
        await queue.kick()
    _, told, _ = OUT_HEADER.unpack((await hiprio.wait(interrupt)).data)
    desk.go_on.set()
    _, error, unique = OUT_HEADER.unpack_from((await requests.wait(waiting)).data)
    await driver.reset()
    assert unique == 100
    assert error == -errno.EINTR or told == -errno.EAGAIN  # done, or: not seen yet, ask again


async def test_a_removal_ends_a_waiting_request() -> None:
    async with on_desk() as (desk, mount, host, share):
        waiting = asyncio.create_task(mount.read_bytes("slow"))
        await desk.asked.wait()
        assert await host.remove(share) is hdvkit.Removal.PARKED
        with pytest.raises(OSError, match="No such device"):
            await waiting
        assert (desk.cancelled, desk.closed) == (1, 1)
        assert all(queue.in_flight == 0 for queue in share.stats().queues)


async def test_a_reset_cancels_a_waiting_request(host: hdvkit.DeviceHost) -> None:
    desk = Desk()
    share = await host.add("virtiofs", source=desk, tag="desk")
    driver, client = await raw_client(Guest.of(host), share)
    entry = await client.lookup(1, "slow")
    waiting = asyncio.create_task(client.read(entry.nodeid, 0, 0, 4096))
    await desk.asked.wait()
    await driver.reset()
    with pytest.raises(Exception, match="the driver reset the device"):
        await waiting
    assert desk.cancelled == 1
    assert desk.forgotten == ["slow"]
    assert share.stats().leases == 0


async def test_a_good_request_beside_a_broken_one_is_given_back(
    host: hdvkit.DeviceHost, folder: Path, recwarn: pytest.WarningsRecorder
) -> None:
    share = await host.add("virtiofs", source=folder, tag="t")
    driver, _ = await raw_client(Guest.of(host), share)
    requests = driver.queues[1]
    for _ in range(2):
        requests.post([bytes(40)], [64])
    # "The Virtqueue Available Ring": flags, idx, ring. The second of the two leads nowhere.
    index = int.from_bytes(requests.driver_area[2:4], "little")
    at = 4 + 2 * ((index - 1) % requests.size)
    requests.driver_area[at : at + 2] = b"\xff\xff"
    await requests.kick()
    await driver.config_changed()
    assert share.state is hdvkit.State.NEEDS_RESET
    await driver.reset()
    assert share.stats().leases == 0
    assert [str(warning.message) for warning in recwarn if warning.category is ResourceWarning] == []


async def test_read_only_holds_for_a_class_too() -> None:
    async with on_desk(read_only=True) as (_, mount, _, _):
        for call in (mount.write_bytes("note", b""), mount.mkdir("new"), mount.unlink("note"), mount.chmod("note", 0)):
            with pytest.raises(OSError, match="Read-only file system"):
                await call
        assert await mount.read_bytes("note") == b"milk"


class Bare(Operations[str, None]):
    """Nothing but a root."""

    root = ""


async def test_what_a_class_does_not_offer_is_enosys(host: hdvkit.DeviceHost) -> None:
    share = await host.add("virtiofs", source=Bare(), tag="bare")
    driver, client = await raw_client(Guest.of(host), share)
    here = (1, 0, 0)
    calls = (
        *(client.lookup(1, "x"), client.getattr(1), client.setattr(1, mode=0), client.access(1, 4), client.readlink(1)),
        *(client.create(1, "x", 0, 0), client.mknod(1, "x", 0o100644), client.mkdir(1, "x", 0)),
        *(client.symlink(1, "x", "y"), client.link(1, 1, "x"), client.unlink(1, "x"), client.rmdir(1, "x")),
        *(client.rename(1, "x", 1, "y"), client.rename2(1, "x", 1, "y", 1), client.open(1, 0)),
        *(client.read(1, 0, 0, 8), client.write(1, 0, 0, b"x")),
        *(client.flush(1, 0), client.fsync(1, 0), client.fallocate(1, 0, 0, 1), client.lseek(1, 0, 0, 3)),
        *(client.copy_file_range(1, 0, 0, here, 1), client.opendir(1), client.readdir(1, 0, 0), client.fsyncdir(1, 0)),
        *(client.readdirplus(1, 0, 0), client.getxattr(1, "x", 8), client.listxattr(1, 8), client.syncfs()),
        *(client.setxattr(1, "x", b""), client.removexattr(1, "x"), client.statfs()),
    )  # fmt: skip
    for call in calls:
        with pytest.raises(OSError, match="Function not implemented"):
            await call
    await client.release(1, 0)
    await client.releasedir(1, 0)
    await client.destroy()
    await driver.reset()


async def test_changes_come_as_the_guest_sent_them(host: hdvkit.DeviceHost) -> None:
    share = await host.add("virtiofs", source=MemoryFileSystem({"file": b"x"}), tag="memory")
    async with Guest.of(host).mount(share) as mount:
        await mount.chmod("file", 0o4711)
        await mount.chown("file", 7, 8)
        await mount.utime("file", (-1_500_000_000, 2**40 * 10**9 + 1))
        found = await mount.stat("file")
        assert (found.st_mode, found.st_uid, found.st_gid) == (stat.S_IFREG | 0o4711, 7, 8)
        assert (found.st_atime_ns, found.st_mtime_ns) == (-1_500_000_000, 2**40 * 10**9 + 1)
        entry = await mount.client.lookup(1, "file")
        changed = await mount.client.setattr(entry.nodeid, size=0, valid=Fattr.KILL_SUIDGID)
        assert stat.S_IMODE(changed.attr.mode) == 0o711
        await mount.client.forget(entry.nodeid)
