"""A directory of Windows mounted by the simulated guest, end to end; and the options that stand for Windows' files."""
# ruff: noqa: ASYNC240 - the oracle may block, nobody else is on the loop

import contextlib
import errno
import stat
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hdvkit_virtiofs import VirtioFs
from hdvkit_virtiofs.device import ELSEWHERE, HERE

from hdvkit import UsageError, open_host
from hdvkit.testing.guest import Guest
from hdvkit.testing.mount import GuestMount

on_windows = pytest.mark.skipif(sys.platform != "win32", reason="needs Windows, or Wine: python -m hdvkit_wine")

WINDOWS_ONLY = {
    "uid": 5, "gid": 5, "umask": 0o022, "fmask": 0o133, "dmask": 0o022, "metadata": True, "case_sensitive": True,
    "symlinks": False,
}  # fmt: skip
LINUX_ONLY = {
    "posix_acl": True, "security_ctx": True, "announce_submounts": False, "max_inode_descriptors": 64,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "share"
    folder.mkdir()
    (folder / "file").write_bytes(b"content")
    (folder / "secret").mkdir()
    (folder / "secret" / "key").write_bytes(b"hidden")
    return folder


@contextlib.contextmanager
def refused(code: int) -> Iterator[None]:
    with pytest.raises(OSError) as caught:  # noqa: PT011 - its number says which
        yield
    assert caught.value.errno == code


@contextlib.asynccontextmanager
async def mounted(folder: Path, **options: object) -> AsyncIterator[GuestMount]:
    async with open_host("sim") as host:
        function = await host.add("virtiofs", source=folder, tag="share", **options)
        async with Guest.of(host).mount(function) as mount:
            yield mount


# Options, on every host


def test_every_option_of_one_host_is_tested() -> None:
    tables = (WINDOWS_ONLY, LINUX_ONLY) if sys.platform == "win32" else (LINUX_ONLY, WINDOWS_ONLY)
    assert (set(HERE), set(ELSEWHERE)) == tuple(map(set, tables))


@pytest.mark.parametrize("option", ELSEWHERE)
def test_options_for_directories_of_another_host_are_refused(folder: Path, option: str) -> None:
    value = (WINDOWS_ONLY | LINUX_ONLY)[option]
    rules = {"xattr_rules": ("ok:security.",)} if option == "security_ctx" else {}
    with pytest.raises(UsageError, match=rf"option '{option}' .* for directories on (Linux|Windows); leave it"):
        VirtioFs(source=folder, tag="share", **{option: value}, **rules)


@pytest.mark.parametrize(("text", "mask"), [("022", 0o022), ("0", 0), ("777", 0o777), (0o27, 0o27)])
def test_masks_are_octal(text: str | int, mask: int) -> None:
    from hdvkit_virtiofs import MemoryFileSystem

    device = VirtioFs(source=MemoryFileSystem({}), tag="share", umask=text, fmask=text, dmask=text)
    assert (device.umask, device.fmask, device.dmask) == (mask, mask, mask)


@pytest.mark.parametrize("text", ["8", "1000", "-1", "rwx", 0o1000])
def test_what_is_no_mask(text: str | int) -> None:
    from hdvkit_virtiofs import MemoryFileSystem

    with pytest.raises(ValueError, match=r"three octal digits|invalid literal"):
        VirtioFs(source=MemoryFileSystem({}), tag="share", umask=text)


# In the guest


@on_windows
async def test_a_day_in_a_share(folder: Path) -> None:
    async with mounted(folder, uid=1000, gid=100, umask="027") as mount:
        assert sorted(await mount.listdir()) == ["file", "secret"]
        await mount.mkdir("dir")
        await mount.write_bytes("dir/a:b", b"x" * 100_000)
        assert await mount.read_bytes("dir/a:b") == b"x" * 100_000
        assert (folder / "dir" / "a\uf03ab").stat().st_size == 100_000
        await mount.write_bytes("dir/a:b", b"more", append=True)
        status = await mount.stat("dir/a:b")
        assert (status.st_size, status.st_uid, status.st_gid) == (100_004, 1000, 100)
        assert status.st_mode == stat.S_IFREG | 0o750
        await mount.rename("dir/a:b", "CON")
        assert sorted(await mount.listdir()) == ["CON", "dir", "file", "secret"]
        await mount.utime("CON", ns=(10**18, 10**18 + 123_456_700))
        assert (await mount.stat("CON")).st_mtime_ns == 10**18 + 123_456_700
        await mount.truncate("CON", 3)
        assert await mount.read_bytes("CON") == b"xxx"
        await mount.rmdir("dir")
        await mount.unlink("CON")
        await mount.sync()
        assert (await mount.statvfs()).blocks > 0
    assert sorted(path.name for path in folder.iterdir()) == ["file", "secret"]


@on_windows
async def test_errors_are_linuxs(folder: Path) -> None:
    async with mounted(folder) as mount:
        with refused(errno.ENOTEMPTY):
            await mount.rmdir("secret")
        with refused(errno.ENOENT):
            await mount.stat("none")
        with refused(errno.ENOTDIR):
            await mount.listdir("file")
        with refused(errno.EILSEQ):
            await mount.stat(b"\xff")
        with refused(errno.ENAMETOOLONG):
            await mount.mkdir("x" * 256)
        with refused(errno.EOPNOTSUPP):
            await mount.tmpfile()


@on_windows
async def test_a_file_lives_on_after_its_name(folder: Path) -> None:
    async with mounted(folder) as mount, await mount.open("file", "r+") as file:
        await mount.unlink("file")
        assert not await mount.exists("file")
        await file.pwrite(b"CON", 0)
        assert await file.pread(100, 0) == b"CONtent"
        assert await mount.listdir() == ["secret"]
    assert [path.name for path in folder.iterdir()] == ["secret"]


@on_windows
@pytest.mark.parametrize("name", ["secret", "SECRET", "Secret", "secret/key", "SECRET/KEY", "SECRET~1"])
async def test_what_is_denied_is_there_under_no_spelling(folder: Path, name: str) -> None:
    async with mounted(folder, deny=("secret",)) as mount:
        assert await mount.listdir() == ["file"]
        with refused(errno.ENOENT):
            await mount.read_bytes(name)
        with refused(errno.ENOENT):
            await mount.rename(name, "mine")
    assert (folder / "secret" / "key").read_bytes() == b"hidden"


@on_windows
async def test_a_read_only_share_changes_nothing(folder: Path) -> None:
    async with mounted(folder, read_only=True) as mount:
        assert await mount.read_bytes("file") == b"content"
        for changing in (mount.write_bytes("new", b""), mount.unlink("file"), mount.truncate("file", 0)):
            with refused(errno.EROFS):
                await changing
    assert (folder / "file").read_bytes() == b"content"


@on_windows
async def test_a_share_that_is_removed_lets_go_of_its_directory(folder: Path) -> None:
    async with mounted(folder) as mount:
        assert await mount.read_bytes("secret/key") == b"hidden"
    folder.rename(folder.parent / "moved")  # Windows refuses that while anything below is open


@on_windows
def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot share .*; name a directory"):
        VirtioFs(source=tmp_path / "none", tag="share")
