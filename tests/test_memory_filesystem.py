"""The file system in memory, called as the device calls it."""

import errno
import os
import stat

import pytest
from hdvkit_virtiofs.fuse.answers import Changes, Context, Entry
from hdvkit_virtiofs.fuse.errors import FuseError
from hdvkit_virtiofs.fuse.spec import O_EXCL, O_TRUNC, RENAME_EXCHANGE, RENAME_NOREPLACE
from hdvkit_virtiofs.memory import MemoryFileSystem
from hdvkit_virtiofs.memory_tree import NAME_COST, MemoryNode

ME = Context(uid=1000, gid=100)


@pytest.fixture
def files() -> MemoryFileSystem:
    return MemoryFileSystem({"hello.txt": b"hi", "dir": {"x": b"ex", "deep": {}}}, capacity=1 << 20)


class refused:
    """Expect one errno."""

    def __init__(self, code: int) -> None:
        self.code = code

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: object, _: object) -> bool:
        assert isinstance(error, FuseError), f"expected {errno.errorcode[self.code]}, got {error!r}"
        assert errno.errorcode[error.errno] == errno.errorcode[self.code]
        return True


async def find(files: MemoryFileSystem, path: str) -> MemoryNode:
    node = files.root
    for name in path.split("/"):
        node = (await files.lookup(node, name.encode(), ME)).node
    return node


async def names(files: MemoryFileSystem, node: MemoryNode, offset: int = 0) -> list[bytes]:
    return [entry.name for entry in await files.readdir(node, None, offset, ME)]


async def free(files: MemoryFileSystem) -> int:
    return (await files.statfs(files.root, ME)).ffree * NAME_COST


async def test_starts_with_the_tree_it_is_given(files: MemoryFileSystem) -> None:
    assert await names(files, files.root) == [b"hello.txt", b"dir"]
    node = await find(files, "hello.txt")
    assert await files.read(node, None, 0, 100, ME) == b"hi"
    assert (await files.getattr(node, None, ME)).size == 2
    assert await names(files, await find(files, "dir")) == [b"x", b"deep"]


async def test_a_tree_beyond_the_capacity_is_refused() -> None:
    with refused(errno.ENOSPC):
        MemoryFileSystem({"big": bytes(4096)}, capacity=4096)


async def test_lookup_gives_the_same_node_every_time(files: MemoryFileSystem) -> None:
    assert await find(files, "dir/x") is await find(files, "dir/x")
    with refused(errno.ENOENT):
        await find(files, "nothing")
    with refused(errno.ENOTDIR):
        await find(files, "hello.txt/x")


async def test_create_opens_what_is_there_unless_exclusive(files: MemoryFileSystem) -> None:
    made, _ = await files.create(files.root, b"new", 0o640, os.O_RDWR | O_EXCL, ME)
    assert made.attributes.mode == stat.S_IFREG | 0o640
    assert (made.attributes.uid, made.attributes.gid) == (1000, 100)
    await files.write(made.node, None, 0, b"data", ME)
    again, _ = await files.create(files.root, b"new", 0o600, os.O_RDWR, ME)
    assert again.node is made.node
    assert again.attributes.size == 4
    with refused(errno.EEXIST):
        await files.create(files.root, b"new", 0o600, os.O_RDWR | O_EXCL, ME)
    emptied, _ = await files.create(files.root, b"new", 0o600, os.O_RDWR | O_TRUNC, ME)
    assert emptied.attributes.size == 0


async def test_write_leaves_zeros_in_a_gap(files: MemoryFileSystem) -> None:
    node = await find(files, "hello.txt")
    assert await files.write(node, None, 5, b"end", ME) == 3
    assert await files.read(node, None, 0, 100, ME) == b"hi\0\0\0end"
    assert await files.read(node, None, 6, 1, ME) == b"n"
    assert await files.read(node, None, 1 << 62, 100, ME) == b""


async def test_read_into_and_write_from_the_guests_pages(files: MemoryFileSystem) -> None:
    node = await find(files, "hello.txt")
    await files.write_from(node, None, 0, [memoryview(b"abc"), memoryview(b"defg")], ME)
    first, second = bytearray(4), bytearray(8)
    assert await files.read_into(node, None, 1, [memoryview(first), memoryview(second)], ME) == 6
    assert (bytes(first), bytes(second)) == (b"bcde", b"fg" + bytes(6))


async def test_growth_ends_at_the_capacity_and_changes_nothing(files: MemoryFileSystem) -> None:
    node = await find(files, "hello.txt")
    for offset in (1 << 20, 1 << 62):
        with refused(errno.ENOSPC):
            await files.write(node, None, offset, b"x", ME)
        with refused(errno.ENOSPC):
            await files.setattr(node, Changes(size=offset, mode=0o600), None, ME)
    assert await files.getattr(node, None, ME) == (await files.lookup(files.root, b"hello.txt", ME)).attributes
    assert node.mode == stat.S_IFREG | 0o644
    assert await files.read(node, None, 0, 100, ME) == b"hi"


async def test_empty_files_fill_it_up_too() -> None:
    files = MemoryFileSystem(capacity=10 * NAME_COST)
    for number in range(10):
        await files.mknod(files.root, b"%d" % number, stat.S_IFREG | 0o600, 0, ME)
    with refused(errno.ENOSPC):
        await files.mknod(files.root, b"one more", stat.S_IFREG | 0o600, 0, ME)
    await files.rename(files.root, b"3", files.root, b"three", 0, ME)
    await files.unlink(files.root, b"three", ME)
    await files.symlink(files.root, b"4th", b"", ME)


async def test_space_comes_back_when_the_guest_forgets(files: MemoryFileSystem) -> None:
    before = await free(files)
    made, _ = await files.create(files.root, b"big", 0o600, os.O_RDWR, ME)
    await files.write(made.node, None, 0, bytes(100 * NAME_COST), ME)
    await files.unlink(files.root, b"big", ME)
    assert (await files.getattr(made.node, None, ME)).nlink == 0
    assert await files.read(made.node, None, 0, 4, ME) == bytes(4)
    assert await free(files) == before - 100 * NAME_COST
    files.forget(made.node)
    assert await free(files) == before


async def test_setattr_changes_what_it_is_told(files: MemoryFileSystem) -> None:
    node = await find(files, "hello.txt")
    changes = Changes(mode=0o4711, uid=5, gid=6, size=1, atime_ns=7, mtime_ns=8)
    told = await files.setattr(node, changes, None, ME)
    assert (told.mode, told.uid, told.gid, told.size) == (stat.S_IFREG | 0o4711, 5, 6, 1)
    assert (told.atime_ns, told.mtime_ns) == (7, 8)
    told = await files.setattr(node, Changes(size=3, kill_suidgid=True), None, ME)
    assert told.mode == stat.S_IFREG | 0o711
    assert await files.read(node, None, 0, 100, ME) == b"h\0\0"
    assert told.mtime_ns == told.ctime_ns > 8
    with refused(errno.EISDIR):
        await files.setattr(files.root, Changes(size=0), None, ME)


async def test_links_count_and_share_the_data(files: MemoryFileSystem) -> None:
    node = await find(files, "hello.txt")
    linked: Entry[MemoryNode] = await files.link(node, await find(files, "dir"), b"also", ME)
    assert linked.node is node
    assert linked.attributes.nlink == 2
    await files.unlink(files.root, b"hello.txt", ME)
    assert (await files.getattr(await find(files, "dir/also"), None, ME)).nlink == 1
    with refused(errno.EPERM):
        await files.link(await find(files, "dir"), files.root, b"no", ME)
    await files.unlink(await find(files, "dir"), b"also", ME)
    with refused(errno.ENOENT):
        await files.link(node, files.root, b"back from the dead", ME)


async def test_symlinks_hold_any_bytes(files: MemoryFileSystem) -> None:
    made = await files.symlink(files.root, b"link", b"../\xff/etc/passwd", ME)
    assert await files.readlink(made.node, ME) == b"../\xff/etc/passwd"
    assert made.attributes.size == 15
    with refused(errno.EINVAL):
        await files.readlink(files.root, ME)
    with refused(errno.ENXIO):
        await files.open(made.node, os.O_RDONLY, ME)


async def test_special_files(files: MemoryFileSystem) -> None:
    made = await files.mknod(files.root, b"pipe", stat.S_IFIFO | 0o600, 0, ME)
    assert stat.S_ISFIFO(made.attributes.mode)
    with refused(errno.EPERM):
        await files.mknod(files.root, b"disk", stat.S_IFBLK | 0o600, 0x800, ME)


async def test_directories_count_their_directories(files: MemoryFileSystem) -> None:
    directory = await find(files, "dir")
    assert directory.nlink == 3
    made = await files.mkdir(directory, b"more", 0o700, ME)
    assert (directory.nlink, made.attributes.nlink) == (4, 2)
    with refused(errno.ENOTEMPTY):
        await files.rmdir(files.root, b"dir", ME)
    with refused(errno.EISDIR):
        await files.unlink(directory, b"more", ME)
    with refused(errno.ENOTDIR):
        await files.rmdir(directory, b"x", ME)
    await files.rmdir(directory, b"more", ME)
    assert (directory.nlink, made.node.nlink) == (3, 0)
    with refused(errno.ENOENT):
        await files.mkdir(made.node, b"in a removed one", 0o700, ME)


async def test_a_setgid_directory_hands_its_group_down(files: MemoryFileSystem) -> None:
    shared = (await files.mkdir(files.root, b"shared", 0o2775, Context(1, 77))).node
    made, _ = await files.create(shared, b"file", 0o600, os.O_RDWR, ME)
    below = await files.mkdir(shared, b"below", 0o700, ME)
    assert (made.attributes.gid, below.attributes.gid) == (77, 77)
    assert below.attributes.mode == stat.S_IFDIR | 0o2700


async def test_rename_replaces(files: MemoryFileSystem) -> None:
    directory = await find(files, "dir")
    node, old = await find(files, "hello.txt"), await find(files, "dir/x")
    await files.rename(files.root, b"hello.txt", directory, b"x", 0, ME)
    assert await find(files, "dir/x") is node
    assert old.nlink == 0
    assert await files.read(old, None, 0, 10, ME) == b"ex"
    with refused(errno.ENOENT):
        await find(files, "hello.txt")


async def test_rename_keeps_the_rules_of_directories(files: MemoryFileSystem) -> None:
    directory = await find(files, "dir")
    deep = await find(files, "dir/deep")
    for flags in (0, RENAME_NOREPLACE):
        with refused(errno.EINVAL):
            await files.rename(files.root, b"dir", deep, b"loop", flags, ME)
    with refused(errno.EINVAL):
        await files.rename(files.root, b"dir", directory, b"deep", RENAME_EXCHANGE, ME)
    with refused(errno.EISDIR):
        await files.rename(files.root, b"hello.txt", directory, b"deep", 0, ME)
    with refused(errno.ENOTDIR):
        await files.rename(directory, b"deep", files.root, b"hello.txt", 0, ME)
    with refused(errno.ENOTEMPTY):
        await files.rename(directory, b"deep", files.root, b"dir", 0, ME)
    await files.rename(directory, b"deep", files.root, b"up", 0, ME)
    assert (directory.nlink, files.root.nlink, deep.nlink) == (2, 4, 2)
    await files.rename(files.root, b"dir", deep, b"dir", 0, ME)
    assert (await find(files, "up/dir/x")).links == 1


async def test_rename_flags(files: MemoryFileSystem) -> None:
    directory = await find(files, "dir")
    node, other = await find(files, "hello.txt"), await find(files, "dir/deep")
    with refused(errno.EEXIST):
        await files.rename(files.root, b"hello.txt", directory, b"x", RENAME_NOREPLACE, ME)
    with refused(errno.EINVAL):
        await files.rename(files.root, b"hello.txt", directory, b"x", 4, ME)
    with refused(errno.ENOENT):
        await files.rename(files.root, b"hello.txt", directory, b"none", RENAME_EXCHANGE, ME)
    await files.rename(files.root, b"hello.txt", directory, b"deep", RENAME_EXCHANGE, ME)
    assert await find(files, "dir/deep") is node
    assert await find(files, "hello.txt") is other
    assert (directory.nlink, files.root.nlink) == (2, 4)
    await files.rename(directory, b"x", directory, b"x", 0, ME)
    await files.rename(directory, b"x", directory, b"x", RENAME_EXCHANGE, ME)
    assert (await find(files, "dir/x")).links == 1


async def test_a_listing_in_slices_gives_each_lasting_name_once(files: MemoryFileSystem) -> None:
    directory = (await files.mkdir(files.root, b"many", 0o700, ME)).node
    for number in range(100):
        await files.mknod(directory, b"%03d" % number, stat.S_IFREG | 0o600, 0, ME)
    seen: list[bytes] = []
    offset = 0
    while part := list(await files.readdir(directory, None, offset, ME))[:7]:
        seen += [entry.name for entry in part]
        offset = part[-1].offset
        if len(seen) == 49:
            await files.unlink(directory, b"000", ME)
            await files.mknod(directory, b"new", stat.S_IFREG | 0o600, 0, ME)
            await files.rename(directory, b"new", directory, b"010", 0, ME)
    assert sorted(seen) == [b"%03d" % number for number in range(100)]
    assert await names(files, directory, 1 << 63) == []
