"""Extended attributes of host files, with system calls as the oracle."""

import errno
import os
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path

import pytest
from hdvkit_virtiofs.fuse.answers import Context
from hdvkit_virtiofs.fuse.errors import FuseError
from hdvkit_virtiofs.passthrough import Passthrough
from hdvkit_virtiofs.passthrough.inodes import Inode
from hdvkit_virtiofs.passthrough.xattrs import ExtendedAttributes
from hdvkit_virtiofs.policy.xattrs import XattrRules
from systems import GID, IS_ROOT, UID

ME = Context(uid=UID, gid=GID)
CREATE, REPLACE = 1, 2
REMAP = "prefix:security.:user.virtiofs."

as_root = pytest.mark.skipif(not IS_ROOT, reason="trusted. attributes are root's")


async def refusal(asked: Awaitable[object]) -> int:
    """The errno a call ends with."""
    with pytest.raises(FuseError) as caught:
        await asked
    return caught.value.errno


class Share(Passthrough, ExtendedAttributes):
    """A host directory with extended attributes."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "dir").mkdir()
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "dangling").symlink_to("nowhere")
    os.mkfifo(tmp_path / "fifo")
    try:
        os.setxattr(tmp_path / "file", "user.target", b"of the link")
    except OSError:
        pytest.skip("the file system of the temporary directory keeps no extended attributes")
    return tmp_path


@pytest.fixture
async def share(folder: Path) -> AsyncIterator[Share]:
    share = Share(folder)
    yield share
    await share.aclose()


async def find(share: Share, name: str) -> Inode:
    return (await share.lookup(share.root, name.encode(), ME)).node


@pytest.mark.parametrize("name", ["file", "dir", "."])
async def test_attributes_of_files_and_directories(share: Share, folder: Path, name: str) -> None:
    node = share.root if name == "." else await find(share, name)
    await share.setxattr(node, b"user.a", b"\0value", 0, ME)
    assert os.getxattr(folder / name, "user.a") == b"\0value"
    assert await share.getxattr(node, b"user.a", ME) == b"\0value"
    assert sorted(await share.listxattr(node, ME)) == sorted(map(os.fsencode, os.listxattr(folder / name)))
    await share.removexattr(node, b"user.a", ME)
    assert "user.a" not in os.listxattr(folder / name)


@pytest.mark.parametrize("name", ["link", "dangling", "fifo"])
async def test_links_and_fifos_answer_for_themselves(share: Share, folder: Path, name: str) -> None:
    node = await find(share, name)
    before = os.listxattr(folder / "file")
    assert await refusal(share.getxattr(node, b"user.target", ME)) == errno.ENODATA
    assert b"user.target" not in await share.listxattr(node, ME)
    assert await refusal(share.setxattr(node, b"user.a", b"", 0, ME)) == errno.EPERM
    assert await refusal(share.removexattr(node, b"user.target", ME)) == errno.EPERM
    assert os.listxattr(folder / "file") == before


@as_root
@pytest.mark.parametrize("name", ["link", "dangling", "fifo"])
async def test_links_and_fifos_have_attributes_of_their_own(share: Share, folder: Path, name: str) -> None:
    node = await find(share, name)
    await share.setxattr(node, b"trusted.a", b"own", 0, ME)
    assert os.getxattr(folder / name, "trusted.a", follow_symlinks=False) == b"own"
    assert await share.getxattr(node, b"trusted.a", ME) == b"own"
    assert b"trusted.a" in await share.listxattr(node, ME)
    assert "trusted.a" not in os.listxattr(folder / "file")
    await share.removexattr(node, b"trusted.a", ME)
    assert "trusted.a" not in os.listxattr(folder / name, follow_symlinks=False)


async def test_flags_are_the_kernels(share: Share) -> None:
    node = await find(share, "file")
    assert await refusal(share.setxattr(node, b"user.a", b"", REPLACE, ME)) == errno.ENODATA
    await share.setxattr(node, b"user.a", b"1", CREATE, ME)
    assert await refusal(share.setxattr(node, b"user.a", b"2", CREATE, ME)) == errno.EEXIST
    await share.setxattr(node, b"user.a", b"3", REPLACE, ME)
    assert await share.getxattr(node, b"user.a", ME) == b"3"


async def test_errors_are_the_kernels(share: Share) -> None:
    node = await find(share, "file")
    assert await refusal(share.getxattr(node, b"user.none", ME)) == errno.ENODATA
    assert await refusal(share.removexattr(node, b"user.none", ME)) == errno.ENODATA
    assert await refusal(share.setxattr(node, b"nonsense", b"", 0, ME)) == errno.EOPNOTSUPP
    assert await refusal(share.setxattr(node, b"user." + b"n" * 251, b"", 0, ME)) == errno.ERANGE
    assert await refusal(share.setxattr(node, b"user.a", bytes(65537), 0, ME)) == errno.E2BIG


async def test_names_are_bytes(share: Share) -> None:
    node = await find(share, "file")
    name = b"user.\xff\x80:\n"
    await share.setxattr(node, name, b"1", 0, ME)
    assert name in await share.listxattr(node, ME)
    assert await share.getxattr(node, name, ME) == b"1"


async def test_a_file_without_a_name_keeps_its_attributes(share: Share, folder: Path) -> None:
    node = await find(share, "file")
    (folder / "file").unlink()
    (folder / "file").write_bytes(b"another")
    assert await share.getxattr(node, b"user.target", ME) == b"of the link"
    await share.setxattr(node, b"user.a", b"", 0, ME)
    assert "user.a" not in os.listxattr(folder / "file")


async def test_a_guest_cannot_give_host_files_capabilities(share: Share, folder: Path) -> None:
    layer = XattrRules(share, [REMAP, "ok:user."])
    node = await find(share, "file")
    await layer.setxattr(node, b"security.capability", b"anything", CREATE, ME)
    assert set(os.listxattr(folder / "file")) >= {"user.target", "user.virtiofs.security.capability"}
    assert "security.capability" not in os.listxattr(folder / "file")
    assert await refusal(layer.setxattr(node, b"security.capability", b"", CREATE, ME)) == errno.EEXIST
    assert sorted(await layer.listxattr(node, ME)) == [b"security.capability", b"user.target"]
    await layer.removexattr(node, b"security.capability", ME)
    assert await refusal(layer.getxattr(node, b"security.capability", ME)) == errno.ENODATA
