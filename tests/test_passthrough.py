"""A host directory, called as the device calls it; plain system calls are the oracle."""
# ruff: noqa: ASYNC240 - the oracle may block, nobody else is on the loop

import asyncio
import contextlib
import errno
import fcntl
import os
import socket
import stat
import struct
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path

import anyio
import pytest
from hdvkit_virtiofs.fuse.answers import Attributes, Changes, Context, DirEntry
from hdvkit_virtiofs.fuse.errors import FuseError
from hdvkit_virtiofs.fuse.spec import InitFlag
from hdvkit_virtiofs.passthrough import Passthrough, descriptors, making
from hdvkit_virtiofs.passthrough.files import IOV_MAX, File
from hdvkit_virtiofs.passthrough.inodes import Inode
from hdvkit_virtiofs.passthrough.open_files import INLINE_WRITE

import hdvkit
from hdvkit.testing.fuse_client import FuseClient
from hdvkit.testing.guest import Guest

ME = Context(uid=os.getuid(), gid=os.getgid())
IS_ROOT = os.geteuid() == 0
NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4
OWNER = -1
KEEP_SIZE, PUNCH_HOLE, COLLAPSE = 1, 2, 8

as_root = pytest.mark.skipif(not IS_ROOT, reason="only root may give files away")
as_a_user = pytest.mark.skipif(IS_ROOT, reason="nothing is refused to root")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What is shared: a file, a directory, and links that lead out."""
    folder = tmp_path / "share"
    folder.mkdir()
    (folder / "file").write_bytes(b"content")
    (folder / "dir").mkdir()
    (folder / "dir" / "inner").write_bytes(b"inner")
    (tmp_path / "secret").write_bytes(b"outside")
    (folder / "escape").symlink_to("../secret")
    (folder / "passwd").symlink_to("/etc/passwd")
    (folder / "up").symlink_to("..")
    return folder


@pytest.fixture
async def share(folder: Path) -> AsyncIterator[Passthrough]:
    share = Passthrough(folder)
    yield share
    await share.aclose()


@contextlib.contextmanager
def refused(code: int) -> Iterator[None]:
    """Expect one errno, with the system call's own error as its cause unless we refused by rule."""
    with pytest.raises(FuseError) as caught:
        yield
    assert errno.errorcode[caught.value.errno] == errno.errorcode[code]
    assert caught.value.__cause__ is not None


async def find(share: Passthrough, path: str) -> Inode:
    node = share.root
    for name in path.split("/"):
        node = (await share.lookup(node, os.fsencode(name), ME)).node
    return node


async def opened(share: Passthrough, path: str, flags: int = os.O_RDWR) -> tuple[Inode, File]:
    node = await find(share, path)
    return node, (await share.open(node, flags, ME)).handle


async def made(share: Passthrough, name: str, flags: int = os.O_RDWR, mode: int = 0o644) -> tuple[Inode, File]:
    entry, file = await share.create(share.root, os.fsencode(name), mode, flags, ME)
    return entry.node, file.handle


async def read(share: Passthrough, node: Inode, file: File, offset: int = 0, size: int = 100) -> bytes:
    page = bytearray(size)
    return bytes(page[: await share.read_into(node, file, offset, [memoryview(page)], ME)])


async def write(share: Passthrough, node: Inode, file: File, offset: int, data: bytes) -> int:
    return await share.write_from(node, file, offset, [memoryview(data)], ME)


def expected(path: Path) -> Attributes:
    status = path.lstat()
    return Attributes(
        status.st_ino, status.st_mode, status.st_size, status.st_nlink, status.st_uid, status.st_gid, 0,
        status.st_blocks, status.st_blksize, status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns,
    )  # fmt: skip


def open_now() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


# The source


@pytest.mark.parametrize(
    ("name", "kind", "reason"),
    [
        ("none", FileNotFoundError, "no such file or directory"),
        ("share/file", NotADirectoryError, "not a directory"),
        ("share/dir", PermissionError, "permission denied"),
    ],
)
def test_a_source_that_cannot_be_shared(
    tmp_path: Path, folder: Path, name: str, kind: type[OSError], reason: str
) -> None:
    if kind is PermissionError:
        if IS_ROOT:
            pytest.skip("root may read every directory")
        (folder / "dir").chmod(0)
    before = open_now()
    with pytest.raises(kind) as caught:
        Passthrough(tmp_path / name)
    assert caught.value.strerror == f"cannot share '{tmp_path / name}': {reason}"
    assert open_now() == before


async def test_the_source_may_be_renamed(folder: Path, share: Passthrough) -> None:
    moved = folder.rename(folder.parent / "elsewhere")
    (folder.parent / "share").mkdir()
    await made(share, "new")
    assert (moved / "new").exists()


async def test_everything_is_closed_in_the_end(folder: Path) -> None:
    before = open_now()
    share = Passthrough(folder)
    node, file = await opened(share, "file")
    await opened(share, "dir/inner")
    await made(share, "new")
    directory = (await share.opendir(share.root, 0, ME)).handle
    assert list(await share.readdir(share.root, directory, 0, ME))
    await share.fsync(node, file, False, ME)
    assert open_now() == before + share.live_descriptors + 1  # the directory of numbers
    await share.aclose()
    await share.aclose()
    assert (open_now(), share.live_descriptors) == (before, 0)
    with refused(errno.EBADF):
        await share.lookup(share.root, b"file", ME)
    with refused(errno.EBADF):
        await read(share, node, file)


# Names


async def test_lookup_gives_the_same_inode_for_the_same_file(folder: Path, share: Passthrough) -> None:
    (folder / "dir" / "hard").hardlink_to(folder / "file")
    entry = await share.lookup(share.root, b"file", ME)
    assert entry.attributes == expected(folder / "file")
    assert entry.attributes.nlink == 2
    held = share.live_descriptors
    assert await find(share, "file") is entry.node
    assert await find(share, "dir/hard") is entry.node
    assert share.live_descriptors == held + 1
    with refused(errno.ENOENT):
        await find(share, "none")
    with refused(errno.ENOTDIR):
        await find(share, "file/below")


async def test_forget_closes_what_it_stood_for(share: Passthrough) -> None:
    before = open_now()
    node = await find(share, "file")
    assert open_now() == before + 1
    share.forget(node)
    share.forget(node)
    share.forget(share.root)
    assert open_now() == before
    with refused(errno.EBADF):
        await share.getattr(node, None, ME)
    assert (await find(share, "file")) is not node


@pytest.mark.parametrize("name", ["escape", "passwd", "up"])
async def test_links_are_told_and_never_followed(folder: Path, share: Passthrough, name: str) -> None:
    entry = await share.lookup(share.root, name.encode(), ME)
    assert entry.attributes == expected(folder / name)
    assert await share.readlink(entry.node, ME) == os.fsencode((folder / name).readlink())
    for flags in (os.O_RDONLY, os.O_RDWR, os.O_RDWR | os.O_TRUNC):
        with refused(errno.ELOOP):
            await share.open(entry.node, flags, ME)
        with refused(errno.ELOOP):
            await share.create(share.root, name.encode(), 0o600, flags, ME)
    with refused(errno.ENOTDIR):
        await share.opendir(entry.node, 0, ME)
    with refused(errno.ENOTDIR):
        await share.lookup(entry.node, b"secret", ME)
    with refused(errno.ENOTDIR):
        await share.mkdir(entry.node, b"new", 0o700, ME)
    assert (folder.parent / "secret").read_bytes() == b"outside"


async def test_a_file_swapped_for_a_link_is_still_the_file(folder: Path, share: Passthrough) -> None:
    node, inner = await find(share, "file"), await find(share, "dir")
    (folder / "file").rename(folder / "moved")
    (folder / "file").symlink_to("../secret")
    (folder / "dir").rename(folder / "moved-dir")
    (folder / "dir").symlink_to("..")
    file = (await share.open(node, os.O_RDONLY, ME)).handle
    assert await read(share, node, file) == b"content"
    with refused(errno.ENOENT):
        await share.lookup(inner, b"secret", ME)
    assert (await share.lookup(inner, b"inner", ME)).attributes == expected(folder / "moved-dir" / "inner")


async def test_operations_on_a_link_reach_the_link_itself(folder: Path, share: Passthrough) -> None:
    outside = (folder.parent / "secret").stat()
    node = await find(share, "escape")
    told = await share.setattr(node, Changes(atime_ns=10**9 + 1, mtime_ns=2 * 10**9 + 2), None, ME)
    assert told.mtime_ns == 2 * 10**9 + 2 == (folder / "escape").lstat().st_mtime_ns
    await share.setattr(node, Changes(uid=ME.uid, gid=ME.gid), None, ME)
    with refused(errno.EOPNOTSUPP):
        await share.setattr(node, Changes(mode=0o600), None, ME)
    with refused(errno.EINVAL):
        await share.setattr(node, Changes(size=0), None, ME)
    entry = await share.link(node, share.root, b"again", ME)
    assert (entry.node, entry.attributes.nlink) == (node, 2)
    assert (folder / "again").readlink() == Path("../secret")
    assert (folder.parent / "secret").stat() == outside


async def test_a_full_share_says_so_and_nobody_else_notices(folder: Path) -> None:
    for number in range(20):
        (folder / f"{number}").touch()
    share = Passthrough(folder, max_descriptors=10)
    nodes = [await find(share, f"{number}") for number in range(20)]
    assert share.live_descriptors <= 10
    opened = []
    with refused(errno.ENFILE):
        for node in nodes:
            opened.append((node, (await share.open(node, os.O_RDONLY, ME)).handle))
    assert share.live_descriptors == 10
    for attempt in (
        share.mkdir(share.root, b"new", 0o700, ME),
        share.mknod(share.root, b"new", 0o600, 0, ME),
        share.symlink(share.root, b"new", b"target", ME),
        share.create(share.root, b"new", 0o600, os.O_RDWR, ME),
    ):
        with refused(errno.ENFILE):
            await attempt
    assert not (folder / "new").exists()
    assert await find(share, "0") is nodes[0]
    assert (await share.setattr(nodes[0], Changes(size=5), None, ME)).size == 5
    await share.release(*opened.pop())
    await share.open(nodes[19], os.O_RDONLY, ME)
    await share.aclose()


def test_the_default_limit_leaves_room_for_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for soft, limit in [(1024, 768), (256, 128), (-1, descriptors.CEILING), (20000, 20000 - descriptors.RESERVE)]:
        monkeypatch.setattr("resource.getrlimit", lambda _, soft=soft: (soft, soft))
        assert descriptors.default_limit() == limit


# Attributes


async def test_attributes_are_the_hosts(folder: Path, share: Passthrough) -> None:
    for path in ("file", "dir", "dir/inner", "escape"):
        assert await share.getattr(await find(share, path), None, ME) == expected(folder / path)
    told = await share.statx(await find(share, "file"), None, ME)
    status = (folder / "file").stat()
    assert told.attributes == expected(folder / "file")
    assert told.dev == status.st_dev
    assert told.btime_ns is None or 0 < told.btime_ns <= status.st_ctime_ns


async def test_device_numbers_are_told_as_the_kernel_packs_them(folder: Path) -> None:
    share = Passthrough("/dev")
    entry = await share.lookup(share.root, b"null", ME)
    assert (stat.S_ISCHR(entry.attributes.mode), entry.attributes.rdev) == (True, 0x103)
    with refused(errno.ENXIO):
        await share.open(entry.node, os.O_RDONLY, ME)
    await share.aclose()


async def test_setattr(folder: Path, share: Passthrough) -> None:
    node, file = await opened(share, "file")
    changes = Changes(mode=0o640, size=3, atime_ns=1_000_000_007, mtime_ns=2_000_000_009)
    told = await share.setattr(node, changes, None, ME)
    assert told == expected(folder / "file")
    assert (stat.S_IMODE(told.mode), told.size) == (0o640, 3)
    assert (told.atime_ns, told.mtime_ns) == (1_000_000_007, 2_000_000_009)
    told = await share.setattr(node, Changes(mtime_ns=3_000_000_001), None, ME)
    assert (told.atime_ns, told.mtime_ns) == (1_000_000_007, 3_000_000_001)
    assert (await share.setattr(node, Changes(size=10), file, ME)).size == 10
    assert (folder / "file").read_bytes() == b"con" + bytes(7)
    with refused(errno.EISDIR):
        await share.setattr(await find(share, "dir"), Changes(size=0), None, ME)
    for nonsense in (Changes(size=1 << 63), Changes(mtime_ns=1 << 100), Changes(uid=2**32 - 1), Changes(gid=1 << 40)):
        with refused(errno.EINVAL):
            await share.setattr(node, nonsense, None, ME)


async def test_setattr_puts_back_what_it_cannot_finish(folder: Path, share: Passthrough) -> None:
    node, file = await opened(share, "file", os.O_RDONLY)
    before = expected(folder / "file")
    with refused(errno.EINVAL):  # an open file that is not for writing cannot be cut
        await share.setattr(node, Changes(mode=0o4711, size=0), file, ME)
    after = expected(folder / "file")
    assert (after.mode, after.size, after.uid) == (before.mode, before.size, before.uid)


@pytest.mark.parametrize(("mode", "left"), [(0o6755, 0o755), (0o6745, 0o2745), (0o1644, 0o1644)])
async def test_setattr_drops_setuid(folder: Path, share: Passthrough, mode: int, left: int) -> None:
    node = await find(share, "file")
    (folder / "file").chmod(mode)
    told = await share.setattr(node, Changes(size=0, kill_suidgid=True), None, ME)
    assert (oct(stat.S_IMODE(told.mode)), told.size) == (oct(left), 0)


@as_root
async def test_owners_change(folder: Path, share: Passthrough) -> None:
    told = await share.setattr(await find(share, "file"), Changes(uid=12, gid=34), None, ME)
    assert (told.uid, told.gid) == (12, 34)
    told = await share.setattr(await find(share, "escape"), Changes(uid=56), None, ME)
    assert (told.uid, (folder.parent / "secret").stat().st_uid) == (56, 0)
    (folder / "file").chmod(0o4755)
    told = await share.setattr(await find(share, "file"), Changes(uid=1, mode=0o4711), None, ME)
    assert stat.S_IMODE(told.mode) == 0o4711


@as_a_user
async def test_owners_stay(folder: Path, share: Passthrough) -> None:
    node = await find(share, "file")
    with refused(errno.EPERM):
        await share.setattr(node, Changes(uid=0, mode=0o777), None, ME)
    assert (folder / "file").stat().st_mode & 0o777 == expected(folder / "file").mode & 0o777 != 0o777


@pytest.mark.parametrize(
    ("mode", "mask", "context", "allowed"),
    [
        (0o600, os.R_OK | os.W_OK, Context(OWNER, OWNER), True),
        (0o600, os.X_OK, Context(OWNER, OWNER), False),
        (0o077, os.R_OK, Context(OWNER, OWNER), False),
        (0o707, os.R_OK, Context(9999, OWNER), False),
        (0o070, os.R_OK | os.W_OK | os.X_OK, Context(9999, OWNER), True),
        (0o704, os.R_OK, Context(9999, 9999), True),
        (0o704, os.R_OK | os.W_OK, Context(9999, 9999), False),
        (0o000, os.R_OK | os.W_OK, Context(0, 0), True),
        (0o666, os.X_OK, Context(0, 0), False),
        (0o001, os.X_OK, Context(0, 0), True),
        (0o000, os.F_OK, Context(9999, 9999), True),
    ],
)
async def test_access(folder: Path, share: Passthrough, mode: int, mask: int, context: Context, allowed: bool) -> None:
    if IS_ROOT:
        os.chown(folder / "file", 1234, 1234)  # root would be asked by rules of its own
    (folder / "file").chmod(mode)
    status = (folder / "file").stat()
    uid = status.st_uid if context.uid == OWNER else context.uid
    gid = status.st_gid if context.gid == OWNER else context.gid
    node = await find(share, "file")
    with contextlib.nullcontext() if allowed else refused(errno.EACCES):
        await share.access(node, mask, Context(uid, gid))


# Making and removing


async def test_make_everything(folder: Path, share: Passthrough) -> None:
    kinds = {
        "sub": await share.mkdir(share.root, b"sub", 0o1751, ME),
        "node": await share.mknod(share.root, b"node", stat.S_IFREG | 0o646, 0, ME),
        "pipe": await share.mknod(share.root, b"pipe", stat.S_IFIFO | 0o622, 0, ME),
        "sock": await share.mknod(share.root, b"sock", stat.S_IFSOCK | 0o777, 0, ME),
        "link": await share.symlink(share.root, b"link", b"\xff/etc/passwd", ME),
        "file2": (await share.create(share.root, b"file2", 0o666, os.O_RDWR, ME))[0],
    }
    for name, entry in kinds.items():
        assert entry.attributes == expected(folder / name)
    modes = [oct(entry.attributes.mode) for entry in kinds.values()]
    # Exactly as asked: our own umask has no say, the guest has applied its caller's.
    assert modes == ["0o41751", "0o100646", "0o10622", "0o140777", "0o120777", "0o100666"]
    assert await share.readlink(kinds["link"].node, ME) == b"\xff/etc/passwd"
    for kind in (stat.S_IFBLK, stat.S_IFCHR):
        with refused(errno.EPERM):
            await share.mknod(share.root, b"device", kind | 0o600, 0x103, ME)
    with refused(errno.EEXIST):
        await share.mkdir(share.root, b"file", 0o700, ME)
    assert not (folder / "device").exists()


@as_root
async def test_new_files_belong_to_the_caller(folder: Path, share: Passthrough) -> None:
    caller = Context(uid=1001, gid=1002)
    made_ = [
        await share.mkdir(share.root, b"sub", 0o755, caller),
        await share.mknod(share.root, b"node", stat.S_IFREG | 0o4755, 0, caller),
        await share.symlink(share.root, b"link", b"file", caller),
        (await share.create(share.root, b"file2", 0o6755, os.O_RDWR, caller))[0],
    ]
    assert {(entry.attributes.uid, entry.attributes.gid) for entry in made_} == {(1001, 1002)}
    assert [oct(entry.attributes.mode) for entry in made_[1::2]] == ["0o104755", "0o106755"]
    existing, _ = await share.create(share.root, b"file", 0o777, os.O_RDWR, caller)
    assert existing.attributes == expected(folder / "file")
    assert existing.attributes.uid == 0


@as_root
async def test_a_setgid_directory_keeps_its_group(folder: Path, share: Passthrough) -> None:
    os.chown(folder / "dir", 0, 777)
    (folder / "dir").chmod(0o2777)
    parent, caller = await find(share, "dir"), Context(uid=1001, gid=1002)
    file, _ = await share.create(parent, b"file", 0o2755, os.O_RDWR, caller)
    below = await share.mkdir(parent, b"below", 0o755, caller)
    assert (file.attributes.uid, file.attributes.gid, file.attributes.mode) == (1001, 777, stat.S_IFREG | 0o755)
    assert (below.attributes.gid, below.attributes.mode) == (777, stat.S_IFDIR | 0o2755)


async def test_a_default_acl_decides_instead_of_the_umask(folder: Path, share: Passthrough) -> None:
    none = 0xFFFFFFFF
    entries = [(0x01, 7), (0x04, 5), (0x20, 0)]  # the owner, the group and others
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", tag, bits, none) for tag, bits in entries)
    try:
        os.setxattr(folder / "dir", "system.posix_acl_default", acl)
    except OSError:
        pytest.skip("this file system has no ACLs")
    entry, _ = await share.create(await find(share, "dir"), b"new", 0o666, os.O_RDWR, ME)
    assert stat.S_IMODE(entry.attributes.mode) == 0o640


async def test_nothing_is_left_of_what_fails_half_way(
    folder: Path, share: Passthrough, monkeypatch: pytest.MonkeyPatch
) -> None:
    def over_quota(*_: object) -> None:
        raise OSError(errno.EDQUOT, "over quota")

    monkeypatch.setattr(making.Maker, "_finish", over_quota)
    held = share.live_descriptors
    for attempt in (
        share.mkdir(share.root, b"new", 0o700, ME),
        share.mknod(share.root, b"new", 0o600, 0, ME),
        share.symlink(share.root, b"new", b"target", ME),
        share.create(share.root, b"new", 0o600, os.O_RDWR, ME),
        share.tmpfile(share.root, 0o600, os.O_RDWR, ME),
    ):
        with refused(errno.EDQUOT):
            await attempt
        assert not (folder / "new").is_symlink()
        assert not (folder / "new").exists()
    assert share.live_descriptors == held


async def test_what_another_process_puts_in_place_is_left_as_it_is(
    folder: Path, share: Passthrough, monkeypatch: pytest.MonkeyPatch
) -> None:
    def swapped_for_a_file(name: bytes, mode: int, *, dir_fd: int) -> None:
        (folder / os.fsdecode(name)).hardlink_to(folder / "file")

    def swapped_for_a_link(name: bytes, mode: int, *, dir_fd: int) -> None:
        (folder / os.fsdecode(name)).symlink_to("../secret")

    monkeypatch.setattr(os, "mknod", swapped_for_a_file)
    monkeypatch.setattr(os, "mkdir", swapped_for_a_link)
    (folder / "file").chmod(0o600)
    (folder.parent / "secret").chmod(0o600)
    labelled = ME._replace(security=((b"user.label", b"label"),))
    node = await share.mknod(share.root, b"new", stat.S_IFREG | 0o777, 0, labelled)
    link = await share.mkdir(share.root, b"sub", 0o777, labelled)
    assert (stat.S_IMODE(node.attributes.mode), stat.S_IFMT(link.attributes.mode)) == (0o600, stat.S_IFLNK)
    for path in (folder / "file", folder.parent / "secret"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert not os.listxattr(path)


async def test_create_gives_up_on_a_name_that_comes_and_goes(
    share: Passthrough, monkeypatch: pytest.MonkeyPatch
) -> None:
    def taken(*_: object) -> None:
        raise FileExistsError(errno.EEXIST, "file exists")

    monkeypatch.setattr(making.Maker, "open_file", taken)
    with refused(errno.EBUSY):
        await made(share, "new")


async def test_create(folder: Path, share: Passthrough) -> None:
    node, file = await made(share, "new", os.O_WRONLY | os.O_EXCL, 0o600)
    await write(share, node, file, 0, b"new")
    assert (folder / "new").read_bytes() == b"new"
    with refused(errno.EEXIST):
        await share.create(share.root, b"new", 0o600, os.O_RDWR | os.O_EXCL, ME)
    again, _ = await made(share, "new")
    assert again is node
    await made(share, "new", os.O_RDWR | os.O_TRUNC)
    assert (folder / "new").stat().st_size == 0
    with refused(errno.EISDIR):
        await share.create(share.root, b"dir", 0o600, os.O_RDWR, ME)


async def test_a_file_without_a_name_may_get_one(folder: Path, share: Passthrough) -> None:
    before = sorted(folder.iterdir())
    entry, opened_ = await share.tmpfile(share.root, 0o640, os.O_RDWR, ME)
    assert sorted(folder.iterdir()) == before
    assert (entry.attributes.nlink, stat.S_IMODE(entry.attributes.mode)) == (0, 0o640)
    await write(share, entry.node, opened_.handle, 0, b"new")
    named = await share.link(entry.node, await find(share, "dir"), b"named", ME)
    assert named.node is entry.node
    assert named.attributes == expected(folder / "dir" / "named")
    assert (folder / "dir" / "named").read_bytes() == b"new"
    with refused(errno.EINVAL):
        await share.tmpfile(share.root, 0o640, os.O_RDONLY, ME)
    with refused(errno.ENOTDIR):
        await share.tmpfile(entry.node, 0o640, os.O_RDWR, ME)


async def test_a_file_that_shall_never_have_a_name(folder: Path, share: Passthrough) -> None:
    entry, opened_ = await share.tmpfile(share.root, 0o600, os.O_RDWR | os.O_EXCL, ME)
    await write(share, entry.node, opened_.handle, 0, b"gone")
    with refused(errno.ENOENT):
        await share.link(entry.node, share.root, b"named", ME)
    assert await read(share, entry.node, opened_.handle) == b"gone"


@as_root
async def test_where_the_host_makes_no_files_without_a_name() -> None:
    share = Passthrough("/proc")
    with refused(errno.EOPNOTSUPP):
        await share.tmpfile(share.root, 0o600, os.O_RDWR, ME)
    await share.aclose()


async def test_unlink_and_rmdir(folder: Path, share: Passthrough) -> None:
    with refused(errno.EISDIR):
        await share.unlink(share.root, b"dir", ME)
    with refused(errno.ENOTEMPTY):
        await share.rmdir(share.root, b"dir", ME)
    await share.unlink(await find(share, "dir"), b"inner", ME)
    await share.rmdir(share.root, b"dir", ME)
    await share.unlink(share.root, b"escape", ME)
    assert sorted(path.name for path in folder.iterdir()) == ["file", "passwd", "up"]
    assert (folder.parent / "secret").exists()


async def test_an_open_file_outlives_its_name(folder: Path, share: Passthrough) -> None:
    node, file = await opened(share, "file")
    await share.rename(share.root, b"file", await find(share, "dir"), b"moved", 0, ME)
    assert await read(share, node, file) == b"content"
    (folder / "dir").rename(folder / "by the host")
    await write(share, node, file, 0, b"CON")
    assert (folder / "by the host" / "moved").read_bytes() == b"CONtent"
    (folder / "by the host" / "moved").unlink()
    assert (await share.getattr(node, file, ME)).nlink == 0
    assert (await share.setattr(node, Changes(size=4), file, ME)).size == 4
    again = (await share.open(node, os.O_RDONLY, ME)).handle
    assert await read(share, node, again) == b"CONt"
    with refused(errno.ENOENT):
        await share.link(node, share.root, b"back", ME)


async def test_rename_flags(folder: Path, share: Passthrough) -> None:
    directory = await find(share, "dir")
    with refused(errno.EEXIST):
        await share.rename(share.root, b"file", directory, b"inner", NOREPLACE, ME)
    await share.rename(share.root, b"file", directory, b"inner", EXCHANGE, ME)
    assert (folder / "file").read_bytes() == b"inner"
    await share.rename(share.root, b"file", directory, b"third", NOREPLACE, ME)
    await share.rename(directory, b"third", directory, b"inner", 0, ME)
    assert (folder / "dir" / "inner").read_bytes() == b"inner"
    for flags in (1 << 31, NOREPLACE | EXCHANGE, EXCHANGE | WHITEOUT):
        with refused(errno.EINVAL):
            await share.rename(directory, b"inner", share.root, b"file", flags, ME)


async def test_rename_leaves_a_whiteout(folder: Path, share: Passthrough) -> None:
    directory = await find(share, "dir")
    try:
        await share.rename(share.root, b"file", directory, b"moved", WHITEOUT, ME)
    except FuseError as error:
        if error.errno != errno.EINVAL:
            raise
        pytest.skip("this file system knows no whiteouts")
    assert (folder / "dir" / "moved").read_bytes() == b"content"
    entry = await share.lookup(share.root, b"file", ME)
    assert (stat.S_ISCHR(entry.attributes.mode), entry.attributes.rdev) == (True, 0)
    with refused(errno.ENXIO):
        await share.open(entry.node, os.O_RDONLY, ME)


async def test_hard_links(folder: Path, share: Passthrough) -> None:
    node = await find(share, "file")
    entry = await share.link(node, await find(share, "dir"), b"hard", ME)
    assert entry.node is node
    assert entry.attributes == expected(folder / "dir" / "hard")
    assert entry.attributes.nlink == 2
    with refused(errno.EPERM):
        await share.link(await find(share, "dir"), share.root, b"no", ME)


# Data


async def test_read_and_write_across_many_pages(folder: Path, share: Passthrough) -> None:
    node, file = await made(share, "big")
    data = os.urandom(3 * (IOV_MAX + 3))
    pieces = [memoryview(data)[start : start + 3] for start in range(0, len(data), 3)]
    assert await share.write_from(node, file, 5, pieces, ME) == len(data)
    assert (folder / "big").read_bytes() == bytes(5) + data
    pages = [bytearray(7) for _ in range(IOV_MAX)]
    count = await share.read_into(node, file, 2, [memoryview(page) for page in pages], ME)
    assert b"".join(pages)[:count] == bytes(3) + data
    assert await read(share, node, file, len(data) + 5) == b""
    assert await share.read_into(node, file, 0, [], ME) == 0


@pytest.mark.parametrize("flags", [os.O_RDWR, os.O_RDWR | os.O_SYNC, os.O_RDWR | os.O_DSYNC])
@pytest.mark.parametrize("size", [INLINE_WRITE, INLINE_WRITE + 1, 1 << 20])
async def test_large_and_synchronous_writes(folder: Path, share: Passthrough, flags: int, size: int) -> None:
    node, file = await made(share, "big", flags)
    data = os.urandom(size)
    assert await write(share, node, file, 0, data) == size
    assert (folder / "big").read_bytes() == data
    assert await read(share, node, file, 0, size + 1) == data


async def test_past_four_gigabytes(folder: Path, share: Passthrough) -> None:
    node, file = await made(share, "sparse")
    offset = (1 << 32) + 12345
    assert await write(share, node, file, offset, b"far") == 3
    assert (folder / "sparse").stat().st_size == offset + 3
    assert await read(share, node, file, offset) == b"far"
    assert await read(share, node, file, offset - 2, 4) == b"\0\0fa"
    assert await share.lseek(node, file, offset, os.SEEK_HOLE, ME) == offset + 3
    assert await share.lseek(node, file, 0, os.SEEK_DATA, ME) <= offset
    with refused(errno.ENXIO):
        await share.lseek(node, file, offset + 3, os.SEEK_DATA, ME)
    with refused(errno.EINVAL):
        await share.lseek(node, file, 0, os.SEEK_END, ME)


async def test_offsets_no_file_has(share: Passthrough) -> None:
    node, file = await opened(share, "file")
    for offset in (1 << 63, (1 << 64) - 1):
        with refused(errno.EINVAL):
            await read(share, node, file, offset)
        with refused(errno.EINVAL):
            await write(share, node, file, offset, b"x")
    with pytest.raises(FuseError):
        await write(share, node, file, (1 << 63) - 1, b"xx")


async def test_open_modes_hold(share: Passthrough) -> None:
    node, reader = await opened(share, "file", os.O_RDONLY)
    with refused(errno.EBADF):
        await write(share, node, reader, 0, b"x")
    node, writer = await opened(share, "file", os.O_WRONLY)
    with refused(errno.EBADF):
        await read(share, node, writer)
    await share.open(node, os.O_RDWR | os.O_TRUNC | os.O_CREAT | os.O_EXCL | os.O_DIRECT | os.O_NOFOLLOW, ME)
    assert await read(share, node, reader) == b""
    with refused(errno.EISDIR):
        await share.open(share.root, os.O_RDONLY, ME)


async def test_special_files_are_left_to_the_guest(folder: Path, share: Passthrough) -> None:
    os.mkfifo(folder / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        # By number: the address of a socket is limited to 107 bytes and test directories are deep.
        descriptor = os.open(folder, os.O_PATH)
        listener.bind(f"/proc/self/fd/{descriptor}/sock")
        os.close(descriptor)
        for name in ("pipe", "sock"):
            for flags in (os.O_RDONLY, os.O_WRONLY):
                with refused(errno.ENXIO):
                    await opened(share, name, flags)


async def test_two_writers_append(folder: Path, share: Passthrough) -> None:
    node, first = await opened(share, "file", os.O_WRONLY | os.O_APPEND)
    _, second = await opened(share, "file", os.O_WRONLY | os.O_APPEND)
    await write(share, node, first, 7, b"-one")
    await write(share, node, second, 7, b"-two")
    with (folder / "file").open("ab") as host:
        host.write(b"-host")
    await write(share, node, first, 15, b"-three")
    assert (folder / "file").read_bytes() == b"content-one-two-host-three"


@pytest.mark.parametrize("size", [4096, INLINE_WRITE + 4096])
@pytest.mark.parametrize("flags", [0, os.O_SYNC])
async def test_pages_of_an_appender_have_their_place(folder: Path, share: Passthrough, flags: int, size: int) -> None:
    node, file = await made(share, "both", os.O_RDWR | os.O_APPEND | flags)
    page, more = os.urandom(size), os.urandom(size)
    await write(share, node, file, 0, bytes(size + 100))
    assert await share.write_from(node, file, 0, [memoryview(page)], ME._replace(in_place=True)) == size
    assert await share.write_from(node, file, 0, [memoryview(more)], ME) == size
    assert (folder / "both").read_bytes() == page + bytes(100) + more


CACHE, APPEND, APPENDING = 1, os.O_APPEND, os.O_RDWR | os.O_APPEND


@pytest.mark.parametrize(
    ("opened_with", "write_flags", "flags", "expected"),
    [
        (APPENDING, 0, APPENDING, b"contentNEW"),
        (APPENDING, CACHE, 0, b"cNEWent"),
        (APPENDING, CACHE, APPENDING, b"cNEWent"),
        (APPENDING, 0, os.O_RDWR, b"cNEWent"),  # F_SETFL took it off
        (os.O_RDWR, 0, os.O_RDWR, b"cNEWent"),
        (os.O_RDWR, CACHE, 0, b"cNEWent"),
    ],
    ids=["append", "page of an appender", "page that says so", "appends no more", "write", "page"],
)
async def test_where_a_write_of_a_guest_goes(
    folder: Path, opened_with: int, write_flags: int, flags: int, expected: bytes
) -> None:
    async with hdvkit.open_host("sim") as host:
        share = await host.add("virtiofs", source=folder, tag="t")
        async with Guest.of(host).drive(share) as driver:
            hiprio, *requests = driver.queues
            client = FuseClient(requests, hiprio)
            await client.init()
            nodeid = (await client.lookup(1, "file")).nodeid
            fh = (await client.open(nodeid, opened_with)).fh
            assert await client.write(nodeid, fh, 1, b"NEW", flags=flags, write_flags=write_flags) == 3
    assert (folder / "file").read_bytes() == expected


@as_root
async def test_a_file_that_may_only_grow_is_appended_to(folder: Path, share: Passthrough) -> None:
    with only_growing(folder / "file"):
        with refused(errno.EPERM):
            await opened(share, "file", os.O_WRONLY)
        node, file = await opened(share, "file", os.O_WRONLY | os.O_APPEND)
        await write(share, node, file, 0, b"-more")
    assert (folder / "file").read_bytes() == b"content-more"


@contextlib.contextmanager
def only_growing(path: Path) -> Iterator[None]:
    """Let a file be appended to and nothing else: ``chattr +a``."""
    get_flags, set_flags, append_only = 0x8008_6601, 0x4008_6602, 0x20
    descriptor = os.open(path, os.O_RDONLY)
    try:
        (flags,) = struct.unpack("<I", fcntl.ioctl(descriptor, get_flags, bytes(4)))
        fcntl.ioctl(descriptor, set_flags, struct.pack("<I", flags | append_only))
    except OSError as error:
        os.close(descriptor)
        pytest.skip(f"this file system has no append-only files: {error}")
    try:
        yield
    finally:
        fcntl.ioctl(descriptor, set_flags, struct.pack("<I", flags))
        os.close(descriptor)


async def test_a_guest_with_a_writeback_cache_writes_pages(folder: Path) -> None:
    share = Passthrough(folder, writeback=True)
    node, file = await opened(share, "file", os.O_WRONLY | os.O_APPEND)
    placed = ME._replace(in_place=True)  # such a guest finds the end by itself
    await share.write_from(node, file, 0, [memoryview(b"CONTENT-more")], placed)
    assert await read(share, node, file) == b"CONTENT-more"
    await write(share, node, file, 0, b", appended")
    assert await read(share, node, file) == b"CONTENT-more, appended"
    await share.aclose()


async def test_flush_and_fsync(share: Passthrough, monkeypatch: pytest.MonkeyPatch) -> None:
    node, file = await opened(share, "file")
    await share.flush(node, file, ME)
    await write(share, node, file, 0, b"x")
    failures = [OSError(errno.EDQUOT, "over quota")]
    monkeypatch.setattr(File, "surface_errors", lambda _: (_ for _ in ()).throw(failures.pop()))
    with refused(errno.EDQUOT):
        await share.flush(node, file, ME)
    monkeypatch.undo()
    await write(share, node, file, 0, b"y")
    await share.flush(node, file, ME)
    for datasync in (True, False):
        await share.fsync(node, file, datasync, ME)
        directory = (await share.opendir(share.root, 0, ME)).handle
        await share.fsyncdir(share.root, directory, datasync, ME)


async def test_fallocate(folder: Path, share: Passthrough) -> None:
    node, file = await made(share, "range")
    await write(share, node, file, 0, b"x" * 16384)
    await share.fallocate(node, file, 0, 0, 65536, ME)
    assert (folder / "range").stat().st_size == 65536
    await share.fallocate(node, file, KEEP_SIZE | PUNCH_HOLE, 4096, 4096, ME)
    assert (folder / "range").read_bytes()[:16384] == b"x" * 4096 + bytes(4096) + b"x" * 8192
    for mode in (COLLAPSE, PUNCH_HOLE, 1 << 31):
        with refused(errno.EOPNOTSUPP):
            await share.fallocate(node, file, mode, 0, 4096, ME)
    with refused(errno.EINVAL):
        await share.fallocate(node, file, 0, 1 << 63, 1, ME)


async def test_copy_file_range(folder: Path, share: Passthrough) -> None:
    node, reader = await opened(share, "file")
    other, writer = await made(share, "copy")
    assert await share.copy_file_range((node, reader, 3), (other, writer, 2), 100, 0, ME) == 4
    assert (folder / "copy").read_bytes() == b"\0\0tent"
    with refused(errno.EINVAL):
        await share.copy_file_range((node, reader, 0), (other, writer, 0), 1, 1, ME)


async def test_statfs(folder: Path, share: Passthrough) -> None:
    told, host = await share.statfs(share.root, ME), os.statvfs(folder)
    assert (told.blocks, told.frsize, told.bsize) == (host.f_blocks, host.f_frsize, host.f_bsize)
    assert (told.files, told.namelen) == (host.f_files, host.f_namemax)


async def test_syncfs(folder: Path, share: Passthrough) -> None:
    held = share.live_descriptors
    for path in (".", "dir"):
        await share.syncfs(share.root if path == "." else await find(share, path), ME)
    with refused(errno.ENOTDIR):
        await share.syncfs(await find(share, "file"), ME)
    assert share.live_descriptors == held + 2
    await share.aclose()
    with refused(errno.EBADF):
        await share.syncfs(share.root, ME)


@pytest.mark.parametrize(
    ("posix_acl", "security_ctx", "flags"),
    [(False, False, InitFlag(0)), (True, False, InitFlag.POSIX_ACL), (False, True, InitFlag.SECURITY_CTX)],
)
async def test_what_the_session_should_negotiate(
    folder: Path, posix_acl: bool, security_ctx: bool, flags: InitFlag
) -> None:
    share = Passthrough(folder, posix_acl=posix_acl, security_ctx=security_ctx)
    always = InitFlag.HANDLE_KILLPRIV_V2 | InitFlag.CREATE_SUPP_GROUP
    assert share.init_flags & (always | InitFlag.POSIX_ACL | InitFlag.SECURITY_CTX) == always | flags
    await share.aclose()


# Directories


async def test_other_file_systems_below_are_announced() -> None:
    share, silent = Passthrough("/"), Passthrough("/", announce_submounts=False)
    told, here = {}, Path("/").stat().st_dev
    for path in Path("/").iterdir():
        entry = await share.lookup(share.root, os.fsencode(path.name), ME)
        told[path.name] = entry.attributes.submount
        assert told[path.name] == (path.lstat().st_dev != here and stat.S_ISDIR(path.lstat().st_mode))
        assert not (await silent.lookup(silent.root, os.fsencode(path.name), ME)).attributes.submount
    assert told["proc"]
    assert not (await share.lookup(await find(share, "proc"), b"sys", ME)).attributes.submount
    assert not (await share.getattr(share.root, None, ME)).submount
    await share.aclose()
    await silent.aclose()


async def listed(share: Passthrough, node: Inode, handle: File, offset: int = 0) -> list[DirEntry]:
    return list(await share.readdir(node, handle, offset, ME))


async def test_a_listing_tells_numbers_and_types(folder: Path, share: Passthrough) -> None:
    os.mkfifo(folder / "pipe")
    directory = (await share.opendir(share.root, os.O_RDONLY, ME)).handle
    entries = {entry.name: entry for entry in await listed(share, share.root, directory)}
    for path in folder.iterdir():
        entry = entries.pop(os.fsencode(path.name))
        assert (entry.ino, entry.type) == (path.lstat().st_ino, stat.S_IFMT(path.lstat().st_mode))
    # The parent of the root is not the guest's business.
    assert {name: entry.ino for name, entry in entries.items()} == dict.fromkeys((b".", b".."), folder.stat().st_ino)
    node = await find(share, "dir")
    inner = await listed(share, node, (await share.opendir(node, 0, ME)).handle)
    assert [entry.ino for entry in inner[:2]] == [(folder / "dir").stat().st_ino, folder.stat().st_ino]
    with refused(errno.ENOTDIR):
        await share.opendir(await find(share, "file"), 0, ME)
    with refused(errno.ENOTDIR):
        await listed(share, *(await opened(share, "file")))


async def test_5000_names_come_once_whatever_happens_meanwhile(folder: Path, share: Passthrough) -> None:
    for number in range(5000):
        (folder / "dir" / f"{number:04}").touch()
    node = await find(share, "dir")
    directory = (await share.opendir(node, 0, ME)).handle
    seen: list[bytes] = []
    offset = 0
    while part := (await listed(share, node, directory, offset))[:37]:
        seen += [entry.name for entry in part]
        offset = part[-1].offset
        (folder / "dir" / f"new {offset}").touch()
    assert sorted(seen) == sorted([b".", b"..", b"inner", *(b"%04d" % number for number in range(5000))])
    assert len(await listed(share, node, directory, 0)) > len(seen)
    for forged in (1 << 20, (1 << 63) - 1, (1 << 64) - 1):
        assert await listed(share, node, directory, forged) == []


async def test_listings_at_once_do_not_share_the_names_out(folder: Path, share: Passthrough) -> None:
    for number in range(1000):
        (folder / "dir" / f"{number}").touch()
    node = await find(share, "dir")
    directory = (await share.opendir(node, 0, ME)).handle
    listings = await asyncio.gather(*(listed(share, node, directory) for _ in range(4)))
    assert {len(listing) for listing in listings} == {1003}


# Threads


class SlowDisk:
    """Reads that are never in memory, and take until ``answer`` is set."""

    def __init__(self) -> None:
        self.answer = threading.Event()
        self.asked = threading.Event()
        self._preadv: Callable[..., int] = os.preadv

    def preadv(self, descriptor: int, views: Sequence[memoryview], offset: int, flags: int = 0) -> int:
        """Stand in for ``os.preadv``."""
        if flags:
            raise BlockingIOError(errno.EAGAIN, "not in memory")
        self.asked.set()
        assert self.answer.wait(10)
        return self._preadv(descriptor, views, offset)

    async def is_asked(self) -> None:
        """Return when a thread has begun to wait for this disk."""
        assert await asyncio.to_thread(self.asked.wait, 10)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowDisk]:
    slow = SlowDisk()
    monkeypatch.setattr(os, "preadv", slow.preadv)
    yield slow
    slow.answer.set()


async def test_a_slow_read_delays_nobody_else(share: Passthrough, slow: SlowDisk) -> None:
    node, file = await opened(share, "file")
    task = asyncio.create_task(read(share, node, file))
    await slow.is_asked()
    assert (await share.getattr(node, file, ME)).size == 7
    assert not task.done()
    slow.answer.set()
    assert await task == b"content"


async def test_a_cancelled_read_ends_only_with_its_thread(share: Passthrough, slow: SlowDisk) -> None:
    node, file = await opened(share, "file")
    task = asyncio.create_task(read(share, node, file))
    await slow.is_asked()
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0.01)
        assert not task.done()
    slow.answer.set()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_read_in_a_cancelled_scope_ends_only_with_its_thread(share: Passthrough, slow: SlowDisk) -> None:
    node, file = await opened(share, "file")
    asyncio.get_running_loop().call_later(0.1, slow.answer.set)
    before = time.process_time()
    with anyio.move_on_after(0.01) as scope:
        await read(share, node, file)
    assert scope.cancelled_caught
    assert slow.answer.is_set()
    assert time.process_time() - before < 0.08, "it waited busily"


async def test_a_read_that_waits_for_a_thread_is_dropped_at_once(folder: Path, slow: SlowDisk) -> None:
    share = Passthrough(folder, threads=1)
    node, file = await opened(share, "file")
    first = asyncio.create_task(read(share, node, file))
    await slow.is_asked()
    second = asyncio.create_task(read(share, node, file))
    await asyncio.sleep(0.01)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    assert not first.done()
    slow.answer.set()
    assert await first == b"content"
    await share.aclose()


async def test_a_released_file_is_closed_by_its_last_reader(folder: Path, slow: SlowDisk) -> None:
    before = open_now()
    share = Passthrough(folder)
    node, file = await opened(share, "file")
    task = asyncio.create_task(read(share, node, file))
    await slow.is_asked()
    await share.release(node, file)
    with refused(errno.EBADF):
        await read(share, node, file)
    await share.aclose()
    assert open_now() == before + 1  # its number cannot go to a file of somebody else yet
    slow.answer.set()
    assert await task == b"content"
    assert open_now() == before


async def test_a_file_system_that_cannot_tell_what_is_in_memory(
    share: Passthrough, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    preadv = os.preadv

    def refusing(descriptor: int, views: Sequence[memoryview], offset: int, flags: int = 0) -> int:
        asked.append(flags)
        if flags:
            raise OSError(errno.EOPNOTSUPP, "no RWF_NOWAIT")
        return preadv(descriptor, views, offset)

    monkeypatch.setattr(os, "preadv", refusing)
    node, file = await opened(share, "file")
    assert await read(share, node, file, 0, 7) == b"content"
    assert await read(share, node, file, 3, 4) == b"tent"
    assert asked == [os.RWF_NOWAIT, 0, 0]


async def test_a_full_process_table_is_told_as_a_full_system(
    share: Passthrough, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> int:
        raise OSError(errno.EMFILE, "too many open files")

    with monkeypatch.context() as patch, refused(errno.ENFILE):
        patch.setattr(os, "open", full)
        await find(share, "file")
