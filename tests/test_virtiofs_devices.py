"""Device nodes on a share: none that would act on the host, and the one that stands for a name that is gone."""
# ruff: noqa: ASYNC240 - the host side of a test may block, nobody else is on the loop

import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import hdvkit
from hdvkit.testing.fuse_client import FuseClient
from hdvkit.testing.fuse_messages import RENAME_WHITEOUT
from hdvkit.testing.guest import Guest

ROOT = 1
USERS = [0, 1000] if os.geteuid() == 0 else [os.geteuid()]
NULL = 1 << 8 | 3  # as the guest's kernel encodes major and minor


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[FuseClient]:
    async with hdvkit.open_host("sim") as host:
        share = await host.add("virtiofs", source=tmp_path, tag="t")
        async with Guest.of(host).mount(share) as mount:
            yield mount.client


@pytest.mark.parametrize("uid", USERS)
async def test_a_whiteout_is_made_by_anybody(client: FuseClient, tmp_path: Path, uid: int) -> None:
    """As on Linux since 5.8, which asks for no privilege; overlayfs in the guest makes them."""
    made = await client.as_user(uid, uid).mknod(ROOT, b"gone", stat.S_IFCHR | 0o640)
    status = (tmp_path / "gone").lstat()
    assert (stat.S_ISCHR(status.st_mode), status.st_rdev, stat.S_IMODE(status.st_mode)) == (True, 0, 0o640)
    assert status.st_uid == uid
    assert (made.attr.mode, made.attr.rdev) == (stat.S_IFCHR | 0o640, 0)
    await client.unlink(ROOT, b"gone")
    await client.forget(made.nodeid, 1)


async def test_it_is_what_renaming_leaves(client: FuseClient, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    try:
        await client.rename2(ROOT, b"file", ROOT, b"new", RENAME_WHITEOUT)
    except OSError as error:
        pytest.skip(f"the file system of the temporary directory leaves no whiteouts: {error.strerror}")
    made = await client.mknod(ROOT, b"gone", stat.S_IFCHR | stat.S_IMODE((tmp_path / "file").lstat().st_mode))
    left = await client.lookup(ROOT, b"file")
    assert (left.attr.mode, left.attr.rdev) == (made.attr.mode, made.attr.rdev)
    await client.batch_forget([(made.nodeid, 1), (left.nodeid, 1)])


@pytest.mark.parametrize("uid", USERS)
@pytest.mark.parametrize(
    ("kind", "device"),
    [*((stat.S_IFCHR, device) for device in (NULL, 1, 1 << 8, 0xFFFF_FFFF)), (stat.S_IFBLK, 0), (stat.S_IFBLK, 8 << 8)],
)
async def test_no_other_device_is_made(client: FuseClient, tmp_path: Path, uid: int, kind: int, device: int) -> None:
    with pytest.raises(PermissionError):
        await client.as_user(uid, uid).mknod(ROOT, b"device", kind | 0o666, rdev=device)
    assert not list(tmp_path.iterdir())


async def test_a_whiteout_is_not_opened(client: FuseClient) -> None:
    made = await client.mknod(ROOT, b"gone", stat.S_IFCHR | 0o666)
    with pytest.raises(OSError, match="No such device"):
        await client.open(made.nodeid, os.O_RDONLY)
    await client.forget(made.nodeid, 1)
