"""Security labels that new files are born with (SECURITY_CTX), as a guest's kernel sends them."""
# ruff: noqa: ASYNC240 - the host side of a test may block, nobody else is on the loop

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hdvkit_virtiofs import MemoryFileSystem
from systems import IS_ROOT, need_directories

import hdvkit
from hdvkit.testing.fuse_client import FuseClient
from hdvkit.testing.fuse_messages import Init, Open
from hdvkit.testing.guest import Guest

LIMIT = 30.0
"""Seconds after which something counts as a hang; nothing is timed against it."""

LABEL = b"system_u:object_r:tmp_t:s0\0"
SELINUX = b"security.selinux"
STORE = "trusted" if IS_ROOT else "user"
RULES = (f"prefix:security.selinux:{STORE}.guest.", "ok:user.")
KEPT = f"{STORE}.guest.security.selinux"

RDWR = Open.RDWR


async def create(client: FuseClient) -> tuple[int, int]:
    made = await client.create(1, b"new", RDWR | Open.CREAT, stat.S_IFREG | 0o644)
    return made.entry.nodeid, made.open.fh


async def tmpfile(client: FuseClient) -> tuple[int, int]:
    made = await client.tmpfile(1, RDWR | Open.TMPFILE, stat.S_IFREG | 0o600)
    return made.entry.nodeid, made.open.fh


async def mknod(client: FuseClient) -> tuple[int, int]:
    return (await client.mknod(1, b"new", stat.S_IFREG | 0o644)).nodeid, 0


async def fifo(client: FuseClient) -> tuple[int, int]:
    return (await client.mknod(1, b"new", stat.S_IFIFO | 0o644)).nodeid, 0


async def mkdir(client: FuseClient) -> tuple[int, int]:
    return (await client.mkdir(1, b"new", 0o755)).nodeid, 0


async def symlink(client: FuseClient) -> tuple[int, int]:
    return (await client.symlink(1, b"new", b"target")).nodeid, 0


Make = Callable[[FuseClient], Awaitable[tuple[int, int]]]

only_trusted = pytest.mark.skipif(not IS_ROOT, reason="only root has attributes on links and fifos")
MAKING = [create, tmpfile, mknod, mkdir]
EVERYTHING = [*MAKING, pytest.param(fifo, marks=only_trusted), pytest.param(symlink, marks=only_trusted)]
NAMED = [each for each in EVERYTHING if each is not tmpfile]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    need_directories()
    try:
        os.setxattr(tmp_path, KEPT, b"")
        os.removexattr(tmp_path, KEPT)
    except OSError as error:
        pytest.skip(f"the file system of the temporary directory keeps no {STORE}. names: {error.strerror}")
    return tmp_path


@asynccontextmanager
async def shared(folder: Path, **more: object) -> AsyncIterator[FuseClient]:
    async with hdvkit.open_host("sim") as host:
        share = await host.add("virtiofs", source=folder, tag="t", queues=2, xattr_rules=RULES, **more)
        async with Guest.of(host).mount(share) as mount:
            yield mount.client


async def close(client: FuseClient, nodeid: int, fh: int) -> None:
    if fh:
        await client.release(nodeid, fh)
    await client.forget(nodeid, 1)


@pytest.mark.parametrize("make", EVERYTHING)
async def test_a_file_is_born_with_its_label(folder: Path, make: Make) -> None:
    async with shared(folder, security_ctx=True) as client:
        assert client.session.flags & Init.SECURITY_CTX
        nodeid, fh = await make(client.as_user(0, 0, security=[(SELINUX, LABEL)]))
        assert await client.getxattr(nodeid, SELINUX, 100) == LABEL
        for path in folder.iterdir():
            assert os.getxattr(path, KEPT, follow_symlinks=False) == LABEL
        await close(client, nodeid, fh)


@pytest.mark.parametrize("make", NAMED)
async def test_no_name_leads_to_a_file_without_its_label(folder: Path, make: Make) -> None:
    """Another process of the guest that looks for the name all the time finds it with its label, or not at all."""
    async with shared(folder, security_ctx=True) as client:
        done, found = asyncio.Event(), asyncio.Event()
        seen = []

        async def look() -> None:
            while not done.is_set():
                try:
                    entry = await client.lookup(1, b"new")
                except FileNotFoundError:
                    continue
                try:
                    seen.append(await client.getxattr(entry.nodeid, SELINUX, 100))
                except OSError:
                    seen.append(b"none")
                found.set()
                await client.forget(entry.nodeid, 1)

        looking = [asyncio.create_task(look()) for _ in range(4)]
        for _ in range(20):
            nodeid, fh = await make(client.as_user(0, 0, security=[(SELINUX, LABEL)]))
            await asyncio.sleep(0)
            await (client.rmdir(1, b"new") if make is mkdir else client.unlink(1, b"new"))
            await close(client, nodeid, fh)
        nodeid, fh = await make(client.as_user(0, 0, security=[(SELINUX, LABEL)]))
        await asyncio.wait_for(found.wait(), LIMIT)
        done.set()
        await asyncio.gather(*looking)
        await close(client, nodeid, fh)
    assert set(seen) == {LABEL}


@pytest.mark.parametrize("make", EVERYTHING)
async def test_what_cannot_have_its_label_is_not_made(folder: Path, make: Make) -> None:
    async with shared(folder, security_ctx=True) as client:
        with pytest.raises(OSError, match="not supported"):
            await make(client.as_user(0, 0, security=[(SELINUX, LABEL), (b"security.SMACK64", b"_")]))
        assert not list(folder.iterdir())


@pytest.mark.parametrize("make", MAKING)
async def test_labels_are_off_unless_asked_for(folder: Path, make: Make) -> None:
    async with shared(folder) as client:
        assert client.session.offered & Init.SECURITY_CTX
        assert not client.session.flags & Init.SECURITY_CTX
        client.session.flags |= Init.SECURITY_CTX  # a guest that sends what was not agreed
        with pytest.raises(OSError, match="Invalid argument"):
            await make(client.as_user(0, 0, security=[(SELINUX, LABEL)]))
        assert not list(folder.iterdir())


async def test_a_file_system_of_ones_own_says_by_itself_whether_it_labels() -> None:
    async with hdvkit.open_host("sim") as host:
        share = await host.add("virtiofs", source=MemoryFileSystem(), tag="t", security_ctx=True, xattr_rules=("ok:",))
        async with Guest.of(host).mount(share) as mount:
            assert not mount.client.session.flags & Init.SECURITY_CTX
