"""Nodes and open files that C has given a guest: they are the same to Python, whichever of both is asked next."""

import asyncio
import contextlib
import errno
import os
import stat
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hdvkit_virtiofs import Passthrough
from hdvkit_virtiofs.fuse.spec import Opcode
from native_share import mounted, refusal, settled

from hdvkit import native
from hdvkit.testing.fuse_client import FuseClient
from hdvkit.testing.fuse_messages import ROOT_ID, Open

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not native.native().used, reason=f"{native.native().reason}; and it is for Linux"
)

FIRST_OF_C = 1 << 48
LARGE = 1 << 20


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A share with a file."""
    place = tmp_path / "share"
    place.mkdir()
    (place / "file").write_bytes(b"content")
    return place


@pytest.fixture
def strict_umask() -> Iterator[None]:
    """A process that takes most permissions off all that it makes."""
    before = os.umask(0o077)
    yield
    os.umask(before)


def open_descriptors(folder: Path) -> int:
    """How many this process has of what lies in a folder, removed or not."""
    found = 0
    for number in Path("/proc/self/fd").iterdir():
        try:
            found += str(number.readlink()).startswith(str(folder))
        except OSError:  # the one of the listing itself
            continue
    return found


def names(folder: Path) -> set[bytes]:
    """What lies in a folder."""
    return {path.name.encode() for path in folder.iterdir()}


async def listed(client: FuseClient, nodeid: int, fh: int, offset: int = 0, *, size: int = 4096) -> dict[bytes, int]:
    """All names from a place on, each with the place behind it; no name twice."""
    found: dict[bytes, int] = {}
    while some := await client.readdir(nodeid, fh, offset, size):
        assert not found.keys() & {one.name for one in some}
        found.update({one.name: one.off for one in some})
        offset = some[-1].off
    return found


# Nodes


async def test_a_node_of_c_keeps_its_number_when_python_is_asked_about_it(folder: Path) -> None:
    async with mounted(folder) as (client, heard):
        node = (await client.lookup(ROOT_ID, "file")).nodeid
        assert heard.take() == []
        assert node >= FIRST_OF_C
        await client.setxattr(node, "user.a", b"value")
        assert heard.take() == [Opcode.SETXATTR]
        assert (await client.lookup(ROOT_ID, "file")).nodeid == node
        assert (await client.getattr(node)).attr.size == 7
        assert (await client.link(node, ROOT_ID, "again")).nodeid == node
        assert (await client.lookup(ROOT_ID, "again")).nodeid == node
        await client.rename(ROOT_ID, "again", ROOT_ID, "file")
        await client.forget(node, 3)
        await settled(client)
        assert (await client.getattr(node)).attr.nlink == 2, "one reference of four is left"
        await client.forget(node, 1)
        await settled(client)
        assert await refusal(client.getattr(node)) == errno.ESTALE


async def test_what_python_finds_is_found_by_the_number_that_c_gave(folder: Path) -> None:
    async with mounted(folder) as (client, heard):
        node = (await client.lookup(ROOT_ID, "file")).nodeid
        heard.take()
        # With O_TRUNC it is Python's to open, and what exists is found.
        made = await client.create(ROOT_ID, "file", Open.RDWR | Open.CREAT | Open.TRUNC, 0o644)
        assert heard.take() == [Opcode.CREATE]
        assert made.entry.nodeid == node


async def test_a_removed_file_is_known_as_long_as_the_guest_refers_to_it(folder: Path) -> None:
    async with mounted(folder) as (client, heard):
        for remover in ("by c", "by python"):
            (folder / remover).write_bytes(b"removed")
            (folder / "other").touch()
            node = (await client.lookup(ROOT_ID, remover)).nodeid
            heard.take()
            if remover == "by c":
                await client.unlink(ROOT_ID, remover)
                assert heard.take() == []
            else:
                await client.rename(ROOT_ID, "other", ROOT_ID, remover)
            gone = (await client.getattr(node)).attr
            assert (gone.size, gone.nlink) == (7, 0)
            fh = (await client.open(node, Open.RDONLY)).fh
            assert await client.read(node, fh, 0, 7) == b"removed"
            await client.release(node, fh)
            await client.forget(node, 1)
            await settled(client)
            assert await refusal(client.getattr(node)) == errno.ESTALE
    assert open_descriptors(folder) == 0


async def test_what_the_host_puts_in_the_place_of_a_file_is_another_one(folder: Path) -> None:
    async with mounted(folder) as (client, _):
        known = set()
        for turn in range(50):
            entry = await client.lookup(ROOT_ID, "file")
            known.add(entry.nodeid)
            assert (await client.getattr(entry.nodeid)).attr.size == (turn or 7)
            (folder / "new").write_bytes(b"x" * (turn + 1))
            (folder / "new").replace(folder / "file")
        assert len(known) == 50


async def test_thousands_of_nodes_cost_few_descriptors(folder: Path) -> None:
    for number in range(2000):
        (folder / str(number)).touch()
    async with mounted(folder) as (client, heard):
        known = [(await client.lookup(ROOT_ID, str(number))) for number in range(2000)]
        for entry in known:
            assert (await client.getattr(entry.nodeid)).attr.ino == entry.attr.ino
        assert heard.take() == []
        source = heard.device.server.operations.inner
        assert isinstance(source, Passthrough)
        assert source.live_descriptors < 200
        assert open_descriptors(folder) == source.live_descriptors
        for entry in known:
            await client.forget(entry.nodeid, 1)
        assert heard.take() == []
        await settled(client)
        assert source.live_descriptors <= 3


async def test_a_small_allowance_is_kept(folder: Path) -> None:
    for number in range(300):
        (folder / str(number)).touch()
    async with mounted(folder, max_inode_descriptors=64) as (client, _):
        for number in range(300):
            node = (await client.lookup(ROOT_ID, str(number))).nodeid
            await client.getattr(node)
            if number % 2:
                await client.setattr(node, mode=0o600)
        assert open_descriptors(folder) <= 64 + 1, "the root is open for its mount, too"


async def test_a_name_that_is_swapped_never_gives_the_attributes_of_one_file_and_the_handle_of_another(
    folder: Path,
) -> None:
    os.mkfifo(folder / "fifo")
    done = threading.Event()

    def swap() -> None:
        here, there, aside = folder / "file", folder / "fifo", folder / "aside"
        while not done.is_set():
            here.rename(aside)
            there.rename(here)
            aside.rename(there)

    async with mounted(folder) as (client, _):
        with ThreadPoolExecutor() as threads:
            swapping = threads.submit(swap)
            try:
                for turn in range(400):
                    with contextlib.suppress(FileNotFoundError):
                        entry = await client.lookup(ROOT_ID, "file")
                        if stat.S_ISREG(entry.attr.mode):
                            flags = Open.RDONLY if turn % 2 else Open.RDONLY | os.O_SYNC
                            fh = (await client.open(entry.nodeid, flags)).fh
                            assert await client.read(entry.nodeid, fh, 0, 10) == b"content"
                            await client.release(entry.nodeid, fh)
                        await client.forget(entry.nodeid, 1)
            finally:
                done.set()
            swapping.result()


async def test_an_inode_number_that_is_given_again_is_another_file(folder: Path) -> None:
    """Python has closed a file that the host removes, and its number is that of a file which C meets."""
    for number in range(100):
        (folder / str(number)).touch()
    async with mounted(folder, max_inode_descriptors=64) as (client, _):
        old = await client.lookup(ROOT_ID, "file")
        await client.setattr(old.nodeid, mode=0o600)
        for number in range(100):
            await client.setattr((await client.lookup(ROOT_ID, str(number))).nodeid, mode=0o600)
        (folder / "file").unlink()
        for number in range(50):
            (folder / f"new {number}").write_bytes(b"of another file")
            if (folder / f"new {number}").stat().st_ino == old.attr.ino:
                break
        else:
            pytest.skip("the file system does not give inode numbers again so soon")
        new = await client.lookup(ROOT_ID, f"new {number}")
        assert new.nodeid != old.nodeid
        await client.access(new.nodeid, os.R_OK)
        again = await client.lookup(ROOT_ID, f"new {number}")
        await client.access(again.nodeid, os.R_OK)
        assert (await client.getattr(again.nodeid)).attr.size == 15
        assert await refusal(client.access(old.nodeid, os.R_OK)) == errno.ESTALE
        for one in (new, again, old):
            await client.forget(one.nodeid, 1)
        await settled(client)
        assert (await client.lookup(ROOT_ID, f"new {number}")).attr.size == 15


async def test_a_number_is_forged_in_vain(folder: Path) -> None:
    async with mounted(folder) as (client, _):
        node = (await client.lookup(ROOT_ID, "file")).nodeid
        fh = (await client.open(node, Open.RDONLY)).fh
        assert await refusal(client.getattr(node + 1)) == errno.ESTALE
        assert await refusal(client.open(node + 1, Open.RDONLY)) == errno.ESTALE
        assert await refusal(client.read(node, fh + 1, 0, 1)) == errno.EBADF
        assert await refusal(client.release(ROOT_ID, fh)) == errno.EBADF
        await client.forget(node + 1, 5)
        await client.forget(node, 1 << 63)
        await settled(client)
        assert await refusal(client.getattr(node)) == errno.ESTALE
        assert await client.read(node, fh, 0, 7) == b"content", "who is open needs no node"
        assert await refusal(client.readdir(node, fh, 0)) == errno.EBADF


# Open files


async def test_a_file_of_c_is_taken_over_by_python(folder: Path) -> None:
    async with mounted(folder) as (client, heard):
        node = (await client.lookup(ROOT_ID, "file")).nodeid
        fh = (await client.open(node, Open.RDWR)).fh
        await client.write(node, fh, 0, b"CON")
        await client.fsync(node, fh)
        assert heard.take() == []
        assert await client.lseek(node, fh, 0, os.SEEK_HOLE) == 7
        await client.fallocate(node, fh, 0, 4096)
        assert heard.take() == [Opcode.LSEEK, Opcode.FALLOCATE]
        assert await client.read(node, fh, 0, 7) == b"CONtent"
        await client.write(node, fh, 0, b"con")
        await client.flush(node, fh)
        await client.release(node, fh)
        assert (folder / "file").read_bytes()[:7] == b"content"
        assert await refusal(client.read(node, fh, 0, 1)) == errno.EBADF
    assert open_descriptors(folder) == 0


async def test_locks_are_gone_when_any_descriptor_is_closed(folder: Path) -> None:
    async with mounted(folder) as (client, _):
        node = (await client.lookup(ROOT_ID, "file")).nodeid
        locking, other = [(await client.open(node, Open.RDWR)).fh for _ in range(2)]
        await client.setlk(node, locking, 7, 1)
        assert await client.getlk(node, other, 8, 1) is not None
        await client.flush(node, other, lock_owner=7)
        assert await client.getlk(node, other, 8, 1) is None


async def test_large_files_that_are_gone_are_closed_by_python(folder: Path) -> None:
    async with mounted(folder) as (client, heard):
        (folder / "large").write_bytes(bytes(LARGE))
        node = (await client.lookup(ROOT_ID, "large")).nodeid
        fh = (await client.open(node, Open.RDONLY)).fh
        heard.take()
        await client.unlink(ROOT_ID, "large")
        await client.release(node, fh)
        assert heard.take() == [Opcode.UNLINK, Opcode.RELEASE]
        assert (await client.getattr(node)).attr.size == LARGE


async def test_what_a_guest_leaves_is_closed(folder: Path) -> None:
    async with mounted(folder) as (client, _):
        for number in range(50):
            made = await client.create(ROOT_ID, str(number), Open.RDWR | Open.CREAT, 0o644)
            await client.write(made.entry.nodeid, made.open.fh, 0, b"x")
            await client.opendir(ROOT_ID)
        await client.unlink(ROOT_ID, "7")
        await client.destroy()
        assert open_descriptors(folder) == 2, "the root, and its mount"
        await client.init()
        assert (await client.lookup(ROOT_ID, "file")).attr.size == 7
    assert open_descriptors(folder) == 0


async def test_files_that_python_takes_over_count(folder: Path) -> None:
    source = Passthrough(folder, max_descriptors=400)
    async with mounted(source) as (client, _):
        node = (await client.lookup(ROOT_ID, "file")).nodeid
        held: list[int] = []
        with contextlib.suppress(OSError):  # ENFILE
            for _ in range(1000):
                held.append((await client.open(node, Open.RDONLY)).fh)
                await client.lseek(node, held[-1], 0, os.SEEK_DATA)
        assert 200 < len(held) < 400
        assert open_descriptors(folder) <= 400
        for fh in held:
            await client.release(node, fh)
        await client.open(node, Open.RDONLY)
    await source.aclose()


# Directories


@pytest.mark.parametrize("size", [256, 4096, 65536])
async def test_a_listing_is_whole_and_each_name_comes_once(folder: Path, size: int) -> None:
    expected = {b".", b"..", b"file", *(b"name %d" % number for number in range(3000))}
    for number in range(3000):
        (folder / f"name {number}").touch()
    async with mounted(folder) as (client, heard):
        fh = (await client.opendir(ROOT_ID)).fh
        first = await client.readdir(ROOT_ID, fh, 0, size)
        for number in range(0, 3000, 7):
            (folder / f"name {number}").unlink()
            (folder / f"later {number}").touch()
        rest = await listed(client, ROOT_ID, fh, first[-1].off, size=size)
        found = {one.name for one in first} | rest.keys()
        kept = expected - {b"name %d" % number for number in range(0, 3000, 7)}
        assert kept <= found
        assert not {one.name for one in first} & rest.keys()
        places = {**{one.name: one.off for one in first}, **rest}
        place = places[b"name 1000"]
        assert await listed(client, ROOT_ID, fh, place, size=size) == {
            name: off for name, off in places.items() if off > place
        }
        again = await listed(client, ROOT_ID, fh, 0, size=size)
        assert again.keys() == names(folder) | {b".", b".."}
        assert heard.take() == []
        await client.fsyncdir(ROOT_ID, fh)
        assert await listed(client, ROOT_ID, fh, again[b"name 1000"], size=size)
        await client.releasedir(ROOT_ID, fh)
        assert await refusal(client.readdir(ROOT_ID, fh, 0)) == errno.EBADF


async def test_entries_of_a_listing_are_references(folder: Path) -> None:
    for number in range(200):
        (folder / f"name {number}").write_bytes(b"x" * number)
    (folder / "link").symlink_to("file")
    async with mounted(folder) as (client, _):
        fh = (await client.opendir(ROOT_ID)).fh
        offset, found = 0, {}
        while some := await client.readdirplus(ROOT_ID, fh, offset):
            found.update({one.dirent.name: one.entry for one in some})
            offset = some[-1].dirent.off
        assert found[b"name 150"].attr.size == 150
        assert found[b"link"].attr.mode & 0o170000 == 0o120000
        assert found[b"."].nodeid == found[b".."].nodeid == 0
        for name, entry in found.items():
            if entry.nodeid:
                assert (await client.lookup(ROOT_ID, name)).nodeid == entry.nodeid
                await client.batch_forget([(entry.nodeid, 1)])
                await settled(client)
                assert (await client.getattr(entry.nodeid)).attr.ino == entry.attr.ino
                await client.forget(entry.nodeid, 1)
                await settled(client)
                assert await refusal(client.getattr(entry.nodeid)) == errno.ESTALE


# Making


@pytest.mark.usefixtures("strict_umask")
async def test_new_files_have_the_mode_that_was_asked_for(folder: Path) -> None:
    async with mounted(folder) as (client, heard):
        made = await client.create(ROOT_ID, "new", Open.RDWR | Open.CREAT, 0o4666)
        assert made.entry.attr.mode == (folder / "new").stat().st_mode == 0o104666
        assert (await client.mkdir(ROOT_ID, "made", 0o1777)).attr.mode == (folder / "made").stat().st_mode == 0o41777
        assert heard.take() == []
        assert await refusal(client.create(ROOT_ID, "new", Open.RDWR | Open.CREAT | Open.EXCL, 0o644)) == errno.EEXIST
        assert await refusal(client.mkdir(ROOT_ID, "made", 0o755)) == errno.EEXIST
        (folder / "by us").touch()
        assert (folder / "by us").stat().st_mode & 0o777 == 0o600, "nobody else's umask has changed"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may make files for others")
async def test_new_files_belong_to_who_asks(folder: Path) -> None:
    async with mounted(folder) as (client, heard):
        made = await client.as_user(1000, 1001).create(ROOT_ID, "new", Open.RDWR | Open.CREAT, 0o644)
        assert (made.entry.attr.uid, made.entry.attr.gid) == (1000, 1001)
        assert (await client.as_user(0, 1001).mkdir(ROOT_ID, "made", 0o755)).attr.gid == 1001
        assert heard.take() == [Opcode.CREATE, Opcode.MKDIR]


async def test_both_at_once_on_the_same_files(folder: Path) -> None:
    """While C looks files up, lists, opens and forgets them, Python takes them over and gives them back."""
    for number in range(20):
        (folder / f"name {number}").write_bytes(b"x" * number)
    async with mounted(folder, max_inode_descriptors=64) as (client, _):

        async def work(seed: int) -> None:
            for turn in range(60):
                number = (seed * 7 + turn) % 20
                entry = await client.lookup(ROOT_ID, f"name {number}")
                assert entry.attr.size == number
                if (seed + turn) % 3 == 0:
                    await client.setattr(entry.nodeid, mode=0o600 | turn % 8)
                fh = (await client.open(entry.nodeid, Open.RDWR)).fh
                if (seed + turn) % 5 == 0:
                    await client.fsync(entry.nodeid, fh, datasync=True)
                assert await client.read(entry.nodeid, fh, 0, 100) == b"x" * number
                directory = (await client.opendir(ROOT_ID)).fh
                for one in await client.readdirplus(ROOT_ID, directory, 0, 1024):
                    if one.entry.nodeid:
                        await client.forget(one.entry.nodeid, 1)
                await client.releasedir(ROOT_ID, directory)
                await client.release(entry.nodeid, fh)
                await client.forget(entry.nodeid, 1)

        await asyncio.gather(*(work(seed) for seed in range(6)))
        await settled(client)
        assert open_descriptors(folder) <= 3
    assert open_descriptors(folder) == 0
