"""A directory of Windows, called as the device calls it; Python's own calls are the oracle. Wine does what it can."""
# ruff: noqa: ASYNC240 - the oracle may block, nobody else is on the loop

import asyncio
import contextlib
import errno
import os
import stat
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

if sys.platform != "win32":
    pytest.skip("needs Windows, or Wine: python -m hdvkit_wine", allow_module_level=True)

from hdvkit_virtiofs.fuse.answers import Changes, Context, DirEntry
from hdvkit_virtiofs.fuse.errors import FuseError
from hdvkit_virtiofs.fuse.spec import O_APPEND, O_CREAT, O_EXCL, O_RDONLY, O_RDWR, O_TRUNC, O_WRONLY
from hdvkit_virtiofs.passthrough.windows import WindowsPassthrough, layouts, nt
from hdvkit_virtiofs.passthrough.windows.files import File
from hdvkit_virtiofs.passthrough.windows.nodes import Node

ME = Context(uid=1000, gid=1000)
NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4
KEEP_SIZE, PUNCH_HOLE, COLLAPSE = 1, 2, 8
DATA, HOLE = 3, 4
WINE = hasattr(__import__("ctypes").WinDLL("ntdll"), "wine_get_version")

Share = WindowsPassthrough

with_reparse_points = pytest.mark.skipif(WINE, reason="Wine 8 makes no reparse points")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What is shared: a file and a directory with one more."""
    folder = tmp_path / "share"
    folder.mkdir()
    (folder / "file").write_bytes(b"content")
    (folder / "dir").mkdir()
    (folder / "dir" / "inner").write_bytes(b"inner")
    (tmp_path / "secret").write_bytes(b"outside")
    return folder


@pytest.fixture(params=[False, True], ids=["by-handle", "by-id"])
async def share(folder: Path, request: pytest.FixtureRequest) -> AsyncIterator[Share]:
    share = Share(folder, by_id=request.param)
    yield share
    await share.aclose()


@contextlib.contextmanager
def refused(code: int) -> Iterator[None]:
    with pytest.raises(FuseError) as caught:
        yield
    assert errno.errorcode[caught.value.errno] == errno.errorcode[code], caught.value.__cause__


async def find(share: Share, path: str) -> Node:
    node = share.root
    for name in path.split("/"):
        node = (await share.lookup(node, name.encode(), ME)).node
    return node


async def opened(share: Share, path: str, flags: int = O_RDWR) -> tuple[Node, File]:
    node = await find(share, path)
    return node, (await share.open(node, flags, ME)).handle


async def made(share: Share, name: str, flags: int = O_RDWR, mode: int = 0o644) -> tuple[Node, File]:
    entry, file = await share.create(share.root, name.encode(), mode, flags | O_CREAT, ME)
    return entry.node, file.handle


async def read(share: Share, node: Node, file: File, offset: int = 0, size: int = 100) -> bytes:
    page = bytearray(size)
    return bytes(page[: await share.read_into(node, file, offset, [memoryview(page)], ME)])


async def write(share: Share, node: Node, file: File, offset: int, data: bytes) -> int:
    return await share.write_from(node, file, offset, [memoryview(data)], ME)


async def listed(share: Share, path: str = "") -> list[DirEntry]:
    node = await find(share, path) if path else share.root
    directory = (await share.opendir(node, 0, ME)).handle
    entries = list(await share.readdir(node, directory, 0, ME))
    await share.releasedir(node, directory)
    return entries


async def names(share: Share, path: str = "") -> set[bytes]:
    return {entry.name for entry in await listed(share, path)} - {b".", b".."}


# The source


@pytest.mark.parametrize(("name", "kind"), [("none", FileNotFoundError), ("share/file", NotADirectoryError)])
def test_a_source_that_cannot_be_shared(tmp_path: Path, folder: Path, name: str, kind: type[OSError]) -> None:
    with pytest.raises(kind) as caught:
        Share(tmp_path / name)
    assert str(caught.value.strerror).startswith(f"cannot share '{tmp_path / name}': ".replace("\\", "\\\\"))


def test_metadata_needs_a_volume_that_keeps_it(folder: Path) -> None:
    if not WINE:
        pytest.skip("NTFS keeps extended attributes")
    with pytest.raises(OSError, match="keeps no extended attributes") as caught:
        Share(folder, metadata=True)
    assert caught.value.errno == errno.EOPNOTSUPP


async def test_a_long_source(tmp_path: Path) -> None:
    deep = tmp_path
    for _ in range(6):
        deep = deep / ("long" * 15)
        os.mkdir(f"\\\\?\\{deep}")  # noqa: PTH102 - pathlib would cut the path off
    assert len(str(deep)) > 260
    share = Share(f"\\\\?\\{deep}")
    node, file = await made(share, "x" * 200)
    await write(share, node, file, 0, b"far down")
    assert await names(share) == {b"x" * 200}
    await share.aclose()


# Names


async def test_lookup(folder: Path, share: Share) -> None:
    entry = await share.lookup(share.root, b"file", ME)
    status = (folder / "file").stat()
    assert stat.S_IFMT(entry.attributes.mode) == stat.S_IFREG
    assert entry.attributes.size == 7
    assert entry.attributes.mtime_ns == status.st_mtime_ns
    assert (await share.lookup(share.root, b"file", ME)).node is entry.node
    assert stat.S_ISDIR((await share.lookup(share.root, b"dir", ME)).attributes.mode)
    assert (await find(share, "dir/inner")).kind == stat.S_IFREG
    with refused(errno.ENOENT):
        await share.lookup(share.root, b"none", ME)


@pytest.mark.parametrize("name", [b"FILE", b"File", b"fILE", b"DIR"])
async def test_a_name_is_found_by_its_exact_spelling_only(share: Share, name: bytes) -> None:
    with refused(errno.ENOENT):
        await share.lookup(share.root, name, ME)
    with refused(errno.ENOENT):
        await share.unlink(share.root, name, ME)
    with refused(errno.ENOENT):
        await share.rename(share.root, name, share.root, b"new", 0, ME)


@pytest.mark.parametrize("name", [b"FILE", b"Dir"])
async def test_what_windows_takes_for_the_same_name_exists(folder: Path, share: Share, name: bytes) -> None:
    for flags in (0, O_EXCL):
        with refused(errno.EEXIST):
            await share.create(share.root, name, 0o644, O_CREAT | O_RDWR | O_TRUNC | flags, ME)
    with refused(errno.EEXIST):
        await share.mkdir(share.root, name, 0o755, ME)
    with refused(errno.EEXIST):
        await share.rename(share.root, b"dir" if name == b"FILE" else b"file", share.root, name, 0, ME)
    assert (folder / "file").read_bytes() == b"content"


async def test_short_names_lead_nowhere(folder: Path, share: Share) -> None:
    (folder / "a rather long name.text").write_bytes(b"x")
    short = _short_name(folder / "a rather long name.text")
    if "~" not in short:
        pytest.skip("this volume makes no short names")
    with refused(errno.ENOENT):
        await share.lookup(share.root, short.encode(), ME)
    with refused(errno.EEXIST):
        await share.mkdir(share.root, short.encode(), 0o755, ME)


def _short_name(path: Path) -> str:
    ctypes = __import__("ctypes")
    buffer = ctypes.create_unicode_buffer(500)
    ctypes.windll.kernel32.GetShortPathNameW(str(path), buffer, 500)
    return Path(buffer.value).name


ODD = [
    "a:b", "file:stream", "file::$DATA", "a\\b", "..\\secret", "\\\\server\\share", "C:", "*", "?", "<>|\"", "\x01\x1f",
    "CON", "nul", "com1.txt", "LPT9", "aux.c", "conin$", "dot.", "space ", "...", ". .", " ", "ümläut", "日本", "🙂",
]  # fmt: skip


@pytest.mark.parametrize("name", ODD)
async def test_odd_names_are_names_like_any_other(folder: Path, share: Share, name: str) -> None:
    before = {path.name for path in folder.parent.iterdir()}
    node, file = await made(share, name)
    assert await write(share, node, file, 0, name.encode()) == len(name.encode())
    await share.release(node, file)
    assert name.encode() in await names(share)
    assert (await share.lookup(share.root, name.encode(), ME)).node is node
    node, file = await opened(share, name)
    assert await read(share, node, file) == name.encode()
    await share.release(node, file)
    assert len(list(folder.iterdir())) == 3  # one more file, and no stream of another
    assert {path.name for path in folder.parent.iterdir()} == before
    await share.rename(share.root, name.encode(), share.root, b"plain", 0, ME)
    await share.rename(share.root, b"plain", share.root, name.encode(), 0, ME)
    await share.unlink(share.root, name.encode(), ME)
    assert await names(share) == {b"file", b"dir"}
    await share.mkdir(share.root, name.encode(), 0o755, ME)
    await share.rmdir(share.root, name.encode(), ME)
    assert (folder / "file").read_bytes() == b"content"


@pytest.mark.parametrize(
    ("name", "code"),
    [
        (b"\xff", errno.EILSEQ),
        (b"a\xed\xa0", errno.EILSEQ),
        ("\uf03a".encode(), errno.EINVAL),
        ("\uf02e".encode(), errno.EINVAL),
        (".\uf02e".encode(), errno.EINVAL),
    ],
)
async def test_names_that_windows_cannot_have(share: Share, name: bytes, code: int) -> None:
    for asking in (
        share.lookup(share.root, name, ME),
        share.create(share.root, name, 0o644, O_RDWR, ME),
        share.mkdir(share.root, name, 0o755, ME),
        share.rename(share.root, b"file", share.root, name, 0, ME),
        share.unlink(share.root, name, ME),
    ):
        with refused(code):
            await asking
    assert await names(share) == {b"file", b"dir"}


async def test_255_characters(share: Share) -> None:
    await share.mkdir(share.root, b"n" * 255, 0o755, ME)
    assert b"n" * 255 in await names(share)
    with refused(errno.ENAMETOOLONG):
        await share.lookup(share.root, b"n" * 256, ME)


# Attributes


async def test_attributes_from_options(folder: Path) -> None:
    share = Share(folder, uid=7, gid=8, umask=0o022, fmask=0o137)
    file = (await share.lookup(share.root, b"file", ME)).attributes
    directory = (await share.lookup(share.root, b"dir", ME)).attributes
    assert (file.mode, file.uid, file.gid) == (stat.S_IFREG | 0o640, 7, 8)
    assert (directory.mode, directory.uid, directory.gid) == (stat.S_IFDIR | 0o755, 7, 8)
    await share.aclose()


async def test_setattr(folder: Path, share: Share) -> None:
    node = await find(share, "file")
    after = await share.setattr(node, Changes(size=3), None, ME)
    assert (after.size, (folder / "file").read_bytes()) == (3, b"con")
    after = await share.setattr(node, Changes(size=5), None, ME)
    assert (folder / "file").read_bytes() == b"con\0\0"
    after = await share.setattr(node, Changes(mtime_ns=1_234_567_890_123_456_789), None, ME)
    assert after.mtime_ns == 1_234_567_890_123_456_700
    assert (folder / "file").stat().st_mtime_ns == 1_234_567_890_123_456_700
    after = await share.setattr(node, Changes(atime_ns=1_000_000_000_000_000_000, mtime_ns=10**18), None, ME)
    assert (after.atime_ns, after.mtime_ns) == (10**18, 10**18)
    with refused(errno.EISDIR):
        await share.setattr(await find(share, "dir"), Changes(size=0), None, ME)
    with refused(errno.EINVAL):
        await share.setattr(node, Changes(size=-1), None, ME)


async def test_times_before_1601_and_after_all_time(share: Share) -> None:
    node = await find(share, "file")
    with refused(errno.EINVAL):
        await share.setattr(node, Changes(mtime_ns=2**70), None, ME)


async def test_modes_are_the_read_only_bit(folder: Path, share: Share) -> None:
    node = await find(share, "file")
    after = await share.setattr(node, Changes(mode=0o444), None, ME)
    assert after.mode == stat.S_IFREG | 0o555
    assert not (folder / "file").stat().st_mode & 0o222
    if not WINE:  # as root it opens what is read-only
        with refused(errno.EACCES):
            await share.open(node, O_RDWR, ME)
    after = await share.setattr(node, Changes(mode=0o644), None, ME)
    assert after.mode == stat.S_IFREG | 0o777
    assert (folder / "file").stat().st_mode & 0o222
    await share.setattr(node, Changes(mode=0o444), None, ME)
    await share.unlink(share.root, b"file", ME)
    assert not (folder / "file").exists()


async def test_owners_stay_without_metadata(share: Share) -> None:
    node = await find(share, "file")
    await share.setattr(node, Changes(uid=0, gid=0), None, ME)
    for changes in (Changes(uid=5), Changes(gid=5)):
        with refused(errno.EPERM):
            await share.setattr(node, changes, None, ME)


async def test_setattr_puts_back_what_it_cannot_finish(folder: Path, share: Share) -> None:
    node = await find(share, "file")
    with refused(errno.EINVAL):
        await share.setattr(node, Changes(mode=0o444, mtime_ns=2**70), None, ME)
    assert (folder / "file").stat().st_mode & 0o222


async def test_statx_and_statfs(folder: Path, share: Share) -> None:
    told = await share.statx(await find(share, "file"), None, ME)
    assert told.attributes == await share.getattr(await find(share, "file"), None, ME)
    assert told.btime_ns is not None
    space = await share.statfs(share.root, ME)
    assert 0 < space.bavail <= space.bfree <= space.blocks
    assert space.frsize % 512 == 0
    await share.syncfs(share.root, ME)


async def test_access(folder: Path) -> None:
    share = Share(folder, uid=1000, gid=2000, umask=0o027)
    node = await find(share, "file")
    await share.access(node, 7, Context(uid=1000))
    await share.access(node, 5, Context(uid=5, gid=2000))
    for mask, context in ((2, Context(uid=5, gid=2000)), (4, Context(uid=5, gid=5))):
        with refused(errno.EACCES):
            await share.access(node, mask, context)
    await share.aclose()


# Making, removing, moving


async def test_create(folder: Path, share: Share) -> None:
    node, file = await made(share, "new", O_RDWR | O_EXCL)
    assert await write(share, node, file, 0, b"data") == 4
    assert (folder / "new").read_bytes() == b"data"
    with refused(errno.EEXIST):
        await made(share, "new", O_RDWR | O_EXCL)
    again, other = await made(share, "new", O_RDWR | O_TRUNC)
    assert again is node
    assert (folder / "new").read_bytes() == b""
    for each in (file, other):
        await share.release(node, each)
    with refused(errno.EISDIR):
        await made(share, "dir")
    with refused(errno.ENOTDIR):
        await share.create(node, b"below", 0o644, O_RDWR, ME)


async def test_a_read_only_file_is_writable_for_who_made_it(folder: Path, share: Share) -> None:
    node, file = await made(share, "new", O_RDWR | O_EXCL, 0o444)
    assert await write(share, node, file, 0, b"data") == 4
    await share.release(node, file)
    if not WINE:  # as root it opens what is read-only
        with refused(errno.EACCES):
            await opened(share, "new")
    await share.unlink(share.root, b"new", ME)


async def test_make_and_remove_directories(folder: Path, share: Share) -> None:
    entry = await share.mkdir(share.root, b"new", 0o755, ME)
    assert entry.attributes.is_directory
    await share.create(entry.node, b"x", 0o644, O_RDWR, ME)
    with refused(errno.ENOTEMPTY):
        await share.rmdir(share.root, b"dir", ME)
    with refused(errno.EISDIR):
        await share.unlink(share.root, b"dir", ME)
    with refused(errno.ENOTDIR):
        await share.rmdir(share.root, b"file", ME)
    await share.unlink(await find(share, "dir"), b"inner", ME)
    await share.rmdir(share.root, b"dir", ME)
    assert not (folder / "dir").exists()


async def test_an_open_file_outlives_its_name(folder: Path, share: Share) -> None:
    node, file = await opened(share, "file")
    await share.unlink(share.root, b"file", ME)
    with refused(errno.ENOENT):
        await share.lookup(share.root, b"file", ME)
    assert await read(share, node, file) == b"content"
    assert (await share.getattr(node, file, ME)).size == 7
    assert b"file" not in await names(share)
    other, fresh = await made(share, "file", O_RDWR | O_EXCL)
    assert other is not node
    assert await write(share, node, file, 0, b"CON") == 3
    assert await read(share, other, fresh) == b""
    await share.release(node, file)
    await share.release(other, fresh)
    assert {path.name for path in folder.iterdir()} == {"dir", "file"}


async def test_a_file_that_is_gone(folder: Path, share: Share) -> None:
    node = await find(share, "file")
    await share.unlink(share.root, b"file", ME)
    with refused(errno.ESTALE):
        await share.getattr(node, None, ME)
    with refused(errno.ESTALE):
        await share.open(node, O_RDONLY, ME)


async def test_open_files_follow_renames(folder: Path, share: Share) -> None:
    node, file = await opened(share, "file")
    await share.rename(share.root, b"file", await find(share, "dir"), b"moved", 0, ME)
    assert (folder / "dir" / "moved").read_bytes() == b"content"
    assert await read(share, node, file) == b"content"
    assert (await share.setattr(node, Changes(size=3), file, ME)).size == 3
    assert (await share.getattr(node, None, ME)).size == 3
    assert await find(share, "dir/moved") is node
    await share.release(node, file)
    (folder / "dir" / "moved").rename(folder / "by the host")
    assert (await share.getattr(node, None, ME)).size == 3


@pytest.mark.parametrize("is_open", [False, True])
async def test_rename_replaces(folder: Path, share: Share, is_open: bool) -> None:
    (folder / "new").write_bytes(b"new")
    old, file = await opened(share, "file")
    if not is_open:
        await share.release(old, file)
    node = await find(share, "new")
    await share.rename(share.root, b"new", share.root, b"file", 0, ME)
    assert (folder / "file").read_bytes() == b"new"
    assert await names(share) == {b"file", b"dir"}
    assert await find(share, "file") is node
    if is_open:
        assert await read(share, old, file) == b"content"
        await share.release(old, file)
    assert {path.name for path in folder.iterdir()} == {"file", "dir"}


async def test_rename_rules(folder: Path, share: Share) -> None:
    (folder / "empty").mkdir()
    (folder / "other").write_bytes(b"other")
    for name, new_name, flags, code in [
        (b"file", b"other", NOREPLACE, errno.EEXIST),
        (b"file", b"other", EXCHANGE, errno.EINVAL),
        (b"file", b"x", WHITEOUT, errno.EINVAL),
        (b"file", b"dir", 0, errno.EISDIR),
        (b"dir", b"file", 0, errno.ENOTDIR),
        (b"empty", b"dir", 0, errno.ENOTEMPTY),
        (b"none", b"x", 0, errno.ENOENT),
    ]:
        with refused(code):
            await share.rename(share.root, name, share.root, new_name, flags, ME)
    await share.rename(share.root, b"file", share.root, b"new", NOREPLACE, ME)
    await share.rename(share.root, b"dir", share.root, b"empty", 0, ME)
    assert {path.name for path in folder.iterdir()} == {"new", "empty", "other"}
    assert (folder / "empty" / "inner").exists()


async def test_a_name_may_change_its_case(folder: Path, share: Share) -> None:
    if WINE:
        pytest.skip("Wine 8 takes a change of case for a rename to itself")
    await share.rename(share.root, b"file", share.root, b"FILE", 0, ME)
    assert await names(share) == {b"FILE", b"dir"}


async def test_hard_links(folder: Path, share: Share) -> None:
    node = await find(share, "file")
    entry = await share.link(node, share.root, b"second", ME)
    assert entry.node is node
    assert entry.attributes.nlink == 2
    with refused(errno.EEXIST):
        await share.link(node, share.root, b"second", ME)
    with refused(errno.EPERM):
        await share.link(await find(share, "dir"), share.root, b"x", ME)
    await share.rename(share.root, b"second", share.root, b"file", 0, ME)  # two names of one file stay
    assert await names(share) == {b"file", b"second", b"dir"}
    await share.unlink(share.root, b"file", ME)
    assert (await share.lookup(share.root, b"second", ME)).attributes.nlink == 1
    assert (folder / "second").read_bytes() == b"content"


async def test_files_without_a_name_cannot_be(share: Share) -> None:
    with refused(errno.EOPNOTSUPP):
        await share.tmpfile(share.root, 0o600, O_RDWR, ME)


# Links and special files


@with_reparse_points
@pytest.mark.parametrize("target", [b"file", b"../secret", b"/etc/passwd", b"a\\b:c", b"\xff\xfe", b"x" * 4095])
async def test_links_hold_any_target(folder: Path, share: Share, target: bytes) -> None:
    entry = await share.symlink(share.root, b"link", target, ME)
    assert stat.S_ISLNK(entry.attributes.mode)
    assert await share.readlink(entry.node, ME) == target
    with refused(errno.ELOOP):
        await share.open(entry.node, O_RDONLY, ME)
    with refused(errno.ENOTDIR):
        await share.lookup(entry.node, b"x", ME)
    await share.unlink(share.root, b"link", ME)


async def test_links_where_the_volume_has_none(folder: Path, share: Share) -> None:
    if not WINE:
        pytest.skip("NTFS has reparse points")
    for making in (
        share.symlink(share.root, b"new", b"x", ME),
        share.mknod(share.root, b"new", stat.S_IFIFO | 0o600, 0, ME),
    ):
        with refused(errno.EPERM):
            await making
    assert await names(share) == {b"file", b"dir"}


async def test_links_are_not_made_where_they_are_not_wanted(folder: Path) -> None:
    share = Share(folder, symlinks=False)
    with refused(errno.EPERM):
        await share.symlink(share.root, b"new", b"x", ME)
    await share.aclose()


@with_reparse_points
async def test_special_files(folder: Path, share: Share) -> None:
    for kind in (stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR):
        entry = await share.mknod(share.root, b"new", kind | 0o600, 0, ME)
        assert stat.S_IFMT(entry.attributes.mode) == kind
        with refused(errno.ENXIO):
            await share.open(entry.node, O_RDONLY, ME)
        await share.unlink(share.root, b"new", ME)


async def test_device_nodes_are_refused(share: Share) -> None:
    for kind, device in ((stat.S_IFCHR, 0x103), (stat.S_IFBLK, 0x800)):
        with refused(errno.EPERM):
            await share.mknod(share.root, b"new", kind | 0o600, device, ME)
    entry = await share.mknod(share.root, b"new", stat.S_IFREG | 0o644, 0, ME)
    assert stat.S_ISREG(entry.attributes.mode)


@with_reparse_points
async def test_links_of_windows_have_slashes_and_are_never_followed(folder: Path, share: Share) -> None:
    try:
        (folder / "link").symlink_to("..\\secret")
    except OSError:
        pytest.skip("this user may not make symbolic links")
    entry = await share.lookup(share.root, b"link", ME)
    assert await share.readlink(entry.node, ME) == b"../secret"
    with refused(errno.ELOOP):
        await share.open(entry.node, O_RDONLY, ME)
    with refused(errno.ELOOP):
        await share.create(share.root, b"link", 0o644, O_RDWR | O_TRUNC, ME)
    assert (folder.parent / "secret").read_bytes() == b"outside"


@with_reparse_points
async def test_a_junction_is_a_link_that_leads_nowhere(folder: Path, share: Share) -> None:
    __import__("_winapi").CreateJunction(str(folder.parent), str(folder / "junction"))
    entry = await share.lookup(share.root, b"junction", ME)
    assert stat.S_ISLNK(entry.attributes.mode)
    assert b"\\" not in await share.readlink(entry.node, ME)
    with refused(errno.ENOTDIR):
        await share.lookup(entry.node, b"secret", ME)


# Data


async def test_read_and_write(folder: Path, share: Share) -> None:
    node, file = await opened(share, "file")
    pages = [memoryview(bytearray(4)) for _ in range(3)]
    assert await share.read_into(node, file, 0, pages, ME) == 7
    assert b"".join(pages) == b"content\0\0\0\0\0"
    assert await read(share, node, file, 100) == b""
    assert await share.write_from(node, file, 2, [memoryview(b"XY"), memoryview(b"Z")], ME) == 3
    assert (folder / "file").read_bytes() == b"coXYZnt"
    large = os.urandom(1 << 20)
    assert await write(share, node, file, 0, large) == len(large)
    assert await read(share, node, file, 0, 1 << 20) == large
    await share.fsync(node, file, False, ME)
    await share.flush(node, file, ME)
    await share.release(node, file)
    with refused(errno.EBADF):
        await read(share, node, file)


async def test_open_modes_hold(share: Share) -> None:
    node, reader = await opened(share, "file", O_RDONLY)
    _, writer = await opened(share, "file", O_WRONLY)
    with refused(errno.EACCES):
        await write(share, node, reader, 0, b"x")
    with refused(errno.EACCES):
        await read(share, node, writer)
    await share.fsync(node, reader, True, ME)


async def test_two_writers_append(folder: Path, share: Share) -> None:
    node, first = await opened(share, "file", O_WRONLY | O_APPEND)
    _, second = await opened(share, "file", O_RDWR | O_APPEND)
    await write(share, node, first, 0, b" one")
    await write(share, node, second, 0, b" two")
    await share.write_from(node, first, 0, [memoryview(b"C")], ME._replace(in_place=True))
    assert (folder / "file").read_bytes() == b"Content one two"


async def test_past_four_gigabytes(folder: Path, share: Share) -> None:
    node, file = await made(share, "large")
    with contextlib.suppress(OSError):
        nt.control(file.handle, layouts.SET_SPARSE)
    assert await write(share, node, file, 5 << 30, b"end") == 3
    assert (await share.getattr(node, file, ME)).size == (5 << 30) + 3
    assert await read(share, node, file, 5 << 30) == b"end"
    await share.setattr(node, Changes(size=0), file, ME)


async def test_copy_file_range(folder: Path, share: Share) -> None:
    data = os.urandom((2 << 20) + 5)
    (folder / "source").write_bytes(data)
    source, reader = await opened(share, "source", O_RDONLY)
    target, writer = await made(share, "target")
    count = await share.copy_file_range((source, reader, 5), (target, writer, 3), 1 << 40, 0, ME)
    assert count == len(data) - 5
    assert (folder / "target").read_bytes() == b"\0\0\0" + data[5:]
    with refused(errno.EINVAL):
        await share.copy_file_range((source, reader, 0), (target, writer, 0), 1, 1, ME)


async def test_holes(folder: Path, share: Share) -> None:
    node, file = await opened(share, "file")
    if WINE:
        with refused(errno.EOPNOTSUPP):
            await share.fallocate(node, file, PUNCH_HOLE | KEEP_SIZE, 0, 4, ME)
        assert await share.lseek(node, file, 2, DATA, ME) == 2
        assert await share.lseek(node, file, 2, HOLE, ME) == 7
    else:
        await write(share, node, file, 0, b"x" * (1 << 20))
        await share.fallocate(node, file, PUNCH_HOLE | KEEP_SIZE, 1 << 17, 1 << 18, ME)
        assert await share.lseek(node, file, 0, HOLE, ME) == 1 << 17
        assert await share.lseek(node, file, 1 << 17, DATA, ME) == (1 << 17) + (1 << 18)
        await share.fallocate(node, file, 0, 0, 2 << 20, ME)
        assert (folder / "file").stat().st_size == 2 << 20
    with refused(errno.ENXIO):
        await share.lseek(node, file, 1 << 30, DATA, ME)
    with refused(errno.EINVAL):
        await share.lseek(node, file, 0, 0, ME)
    with refused(errno.EOPNOTSUPP):
        await share.fallocate(node, file, COLLAPSE, 0, 4096, ME)


async def test_a_file_that_a_host_program_has_for_itself_is_busy(folder: Path, share: Share) -> None:
    node = await find(share, "file")
    root = nt.open_path(f"\\??\\{folder}", nt.READ_DATA, nt.DIRECTORY_FILE)
    alone = _open_alone(folder / "file")
    with refused(errno.EBUSY):
        await share.open(node, O_RDONLY, ME)
    opening = asyncio.create_task(share.open(node, O_RDONLY, ME))
    await asyncio.sleep(0)
    __import__("_winapi").CloseHandle(alone)
    file = (await opening).handle
    assert await read(share, node, file) == b"content"
    root.close()


def _open_alone(path: Path) -> int:
    handle: int = __import__("_winapi").CreateFile(str(path), 0x8000_0000, 0, 0, 3, 0, 0)
    return handle


# Listings


async def test_a_listing_tells_numbers_and_types(folder: Path, share: Share) -> None:
    root, directory = share.root, await find(share, "dir")
    told = {entry.name: entry for entry in await listed(share, "dir")}
    attributes = {name: await share.getattr(node, None, ME) for name, node in (("dir", directory), ("root", root))}
    assert told[b"."].ino == attributes["dir"].ino
    assert told[b".."].ino == attributes["root"].ino
    assert told[b"inner"].ino == (await share.lookup(directory, b"inner", ME)).attributes.ino
    assert told[b"inner"].type == stat.S_IFREG
    above = {entry.name: entry for entry in await listed(share)}
    assert above[b".."].ino == above[b"."].ino == attributes["root"].ino
    assert above[b"dir"].type == stat.S_IFDIR


async def test_2000_names_come_once_whatever_happens_meanwhile(folder: Path, share: Share) -> None:
    expected = {f"{number:04}" for number in range(2000)}
    for name in expected:
        (folder / "dir" / name).touch()
    node = await find(share, "dir")
    directory = (await share.opendir(node, 0, ME)).handle
    seen: list[bytes] = []
    offset = 0
    while entries := list(await share.readdir(node, directory, offset, ME))[:100]:
        seen += [entry.name for entry in entries]
        offset = entries[-1].offset
        (folder / "dir" / f"late {offset}").touch()
    assert len(seen) == len(set(seen))
    assert {name.encode() for name in expected} <= set(seen)
    await share.releasedir(node, directory)
    with refused(errno.ENOTDIR):
        await share.opendir(await find(share, "file"), 0, ME)


async def test_nothing_is_open_when_the_share_is_closed(folder: Path) -> None:
    share = Share(folder)
    await opened(share, "file")
    await share.opendir(await find(share, "dir"), 0, ME)
    await share.aclose()
    await share.aclose()
    folder.rename(folder.parent / "moved")  # Windows refuses that while anything below is open
