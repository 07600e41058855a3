"""Users and groups inside access control lists, between guest and host: every way a list comes in, and what is none."""

import asyncio
import errno
import os
import struct
from collections.abc import Awaitable, Sequence
from pathlib import Path

import pytest
from hdvkit_virtiofs.fuse.answers import Context, Entry
from hdvkit_virtiofs.fuse.errors import FuseError
from hdvkit_virtiofs.operations import Operations
from hdvkit_virtiofs.policy.identity import Identity
from hypothesis import given
from hypothesis import strategies as st
from systems import IS_ROOT, need_directories

import hdvkit
from hdvkit.testing.guest import Guest

ACCESS, DEFAULT = b"system.posix_acl_access", b"system.posix_acl_default"
USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 1, 2, 4, 8, 16, 32
NO_ID = 2**32 - 1
GUEST = Context(0, 0)
UIDS = ("map:0:100000:65536", "forbid-guest:70000:10")
GIDS = ("map:0:200000:65536", "forbid-guest:80000:10")

Items = Sequence[tuple[int, int, int]]


def acl(*items: tuple[int, int, int]) -> bytes:
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *item) for item in items)


def whole(users: Sequence[int], groups: Sequence[int]) -> bytes:
    """A list as the kernel takes it."""
    named = [(USER, 6, user) for user in users], [(GROUP, 4, group) for group in groups]
    return acl((USER_OBJ, 7, NO_ID), *named[0], (GROUP_OBJ, 5, NO_ID), *named[1], (MASK, 7, NO_ID), (OTHER, 1, NO_ID))


class Store(Operations[str, None]):
    """Keeps attributes as they come, and what the last file was born with."""

    root = "root"

    def __init__(self) -> None:
        self.kept: dict[bytes, bytes] = {}
        self.born: tuple[tuple[bytes, bytes], ...] = ()

    async def getxattr(self, node: str, name: bytes, context: Context) -> bytes:
        """Tell."""
        return self.kept[name]

    async def setxattr(self, node: str, name: bytes, value: bytes, flags: int, context: Context) -> None:
        """Keep."""
        self.kept[name] = value

    async def mkdir(self, parent: str, name: bytes, mode: int, context: Context) -> Entry[str]:
        """Note the labels; nothing is made."""
        self.born = context.security
        raise FuseError(errno.ENOSPC)


async def set_and_get(layer: Identity[str, None], name: bytes, value: bytes) -> bytes:
    await layer.setxattr("root", name, value, 0, GUEST)
    return await layer.getxattr("root", name, GUEST)


@pytest.mark.parametrize("name", [ACCESS, DEFAULT])
async def test_named_users_and_groups_are_the_hosts_on_the_host(name: bytes) -> None:
    store = Store()
    value = whole([5, 1000], [7, 100000])
    assert await set_and_get(Identity(store, UIDS, GIDS), name, value) == value
    assert store.kept[name] == whole([100005, 101000], [200007, 100000])


async def test_other_attributes_are_left_alone() -> None:
    store = Store()
    for name in (b"user.system.posix_acl_access", b"system.posix_acl", b"system.posix_acl_access2"):
        assert await set_and_get(Identity(store, UIDS, GIDS), name, whole([5], [7])) == store.kept[name]
        assert store.kept[name] == whole([5], [7])
    assert await set_and_get(Identity(store, UIDS, GIDS), b"user.a", b"\2\0\0\0odd") == b"\2\0\0\0odd"


@pytest.mark.parametrize("value", [whole([70009], []), whole([5], [80000]), whole([NO_ID], []), whole([], [NO_ID])])
async def test_a_list_that_names_a_forbidden_id_is_refused(value: bytes) -> None:
    store = Store()
    with pytest.raises(FuseError, match="EPERM"):
        await Identity(store, UIDS, GIDS).setxattr("root", ACCESS, value, 0, GUEST)
    assert not store.kept


async def test_squash_squashes_whom_a_list_names() -> None:
    store = Store()
    layer = Identity(store, squash="1000:1001:7:8")
    assert await set_and_get(layer, ACCESS, whole([5, 6], [9])) == whole([7, 7], [8])
    assert store.kept[ACCESS] == whole([1000, 1000], [1001])


@pytest.mark.parametrize(
    "value",
    [
        b"\2",
        b"\2\0\0",
        whole([5], [])[:-1],
        whole([5], []) + b"\0",
        whole([5], []) + bytes(4),
        acl((USER_OBJ | USER, 7, 5)),
        acl((0, 7, 5)),
        acl((64, 7, 5)),
        struct.pack("<I", 1) + whole([5], [])[4:],
        struct.pack(">I", 2) + whole([5], [])[4:],
        b"garbage, and more",
    ],
)
async def test_what_is_no_list_is_invalid(value: bytes) -> None:
    store = Store()
    layer = Identity(store, UIDS, GIDS)
    with pytest.raises(FuseError, match="EINVAL"):
        await layer.setxattr("root", DEFAULT, value, 0, GUEST)
    assert not store.kept
    store.kept[DEFAULT] = value
    with pytest.raises(FuseError, match="EINVAL"):
        await layer.getxattr("root", DEFAULT, GUEST)


@pytest.mark.parametrize("value", [b"", acl()])
async def test_an_empty_list_stays_empty(value: bytes) -> None:
    assert await set_and_get(Identity(Store(), UIDS, GIDS), ACCESS, value) == value


async def test_a_list_that_a_file_is_born_with_is_translated_too() -> None:
    """A guest's kernel sends labels only, but what it sends is up to the guest."""
    store = Store()
    layer = Identity(store, UIDS, GIDS)
    label = (b"security.selinux", b"label")
    with pytest.raises(FuseError, match="ENOSPC"):
        await layer.mkdir("root", b"d", 0, GUEST._replace(security=(label, (DEFAULT, whole([5], [7])))))
    assert store.born == (label, (DEFAULT, whole([100005], [200007])))
    store.born = ()
    with pytest.raises(FuseError, match="EPERM"):
        await layer.mkdir("root", b"d", 0, GUEST._replace(security=((DEFAULT, whole([70000], [])),)))
    assert store.born == ()


entries = st.tuples(st.sampled_from([USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER]), st.integers(0, 7))
mapped = st.integers(0, 65535)


@given(st.lists(st.tuples(entries, mapped), max_size=40))
def test_what_a_guest_sets_it_gets(listed: list[tuple[tuple[int, int], int]]) -> None:
    store = Store()
    items = [(tag, bits, number if tag in (USER, GROUP) else NO_ID) for (tag, bits), number in listed]
    shift = {USER: 100000, GROUP: 200000}
    assert asyncio.run(set_and_get(Identity(store, UIDS, GIDS), ACCESS, acl(*items))) == acl(*items)
    assert store.kept[ACCESS] == acl(*((tag, bits, number + shift.get(tag, 0)) for tag, bits, number in items))


@given(st.binary(max_size=200) | st.binary(max_size=200).map(lambda tail: b"\2\0\0\0" + tail))
def test_whatever_a_guest_sets_is_a_list_or_refused(value: bytes) -> None:
    store = Store()
    answer = asyncio.run(outcome(set_and_get(Identity(store, UIDS, GIDS), ACCESS, value)))
    if isinstance(answer, int):
        assert answer in (errno.EINVAL, errno.EPERM)
        assert not store.kept
    else:
        assert len(store.kept[ACCESS]) == len(value)


async def outcome(asking: Awaitable[bytes]) -> bytes | int:
    """The answer, or the errno."""
    try:
        return await asking
    except FuseError as error:
        return error.errno


async def test_long_lists_are_bounded() -> None:
    layer = Identity(Store(), UIDS, GIDS)
    longest = acl(*[(USER, 7, 5)] * 1024)
    assert await set_and_get(layer, ACCESS, longest) == longest
    with pytest.raises(FuseError, match="E2BIG"):
        await layer.setxattr("root", ACCESS, acl(*[(USER, 7, 5)] * 1025), 0, GUEST)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    need_directories()
    try:
        os.setxattr(tmp_path, ACCESS, whole([1], []))
        os.removexattr(tmp_path, ACCESS)
    except OSError as error:
        pytest.skip(f"the file system of the temporary directory has no ACLs: {error.strerror}")
    return tmp_path


@pytest.mark.skipif(not IS_ROOT, reason="only root gives files to others")
async def test_the_hosts_kernel_gets_the_hosts_users(folder: Path) -> None:
    async with hdvkit.open_host("sim") as host:
        share = await host.add(
            "virtiofs", source=folder, tag="t", posix_acl=True, translate_uid=UIDS, translate_gid=GIDS
        )
        async with Guest.of(host).mount(share) as mount:
            await mount.mkdir("d")
            client = mount.client
            node = (await client.lookup(1, b"d")).nodeid
            await client.setxattr(node, DEFAULT, whole([5, 6], [7]))
            assert os.getxattr(folder / "d", DEFAULT) == whole([100005, 100006], [200007])
            made = await client.mkdir(node, b"below", 0o777)
            assert os.getxattr(folder / "d" / "below", DEFAULT) == whole([100005, 100006], [200007])
            assert await client.getxattr(made.nodeid, DEFAULT, 200) == whole([5, 6], [7]), "inherited"
            assert await client.getxattr_size(made.nodeid, DEFAULT) == len(whole([5, 6], [7]))
            with pytest.raises(OSError, match="not permitted"):
                await client.setxattr(node, DEFAULT, whole([70000], []))
            await client.setxattr(node, DEFAULT, b"")
            assert DEFAULT.decode() not in os.listxattr(folder / "d")
            await client.forget(made.nodeid, 1)
            await client.forget(node, 1)


async def test_the_hosts_kernel_takes_two_of_one_squashed_user(folder: Path) -> None:
    me = f"{os.geteuid()}:{os.getegid()}"
    async with hdvkit.open_host("sim") as host:
        share = await host.add("virtiofs", source=folder, tag="t", posix_acl=True, squash=me)
        async with Guest.of(host).mount(share) as mount:
            await mount.mkdir("d")
            node = (await mount.client.lookup(1, b"d")).nodeid
            await mount.client.setxattr(node, DEFAULT, whole([5, 6], [7]))
            assert os.getxattr(folder / "d", DEFAULT) == whole([os.geteuid()] * 2, [os.getegid()])
            assert await mount.client.getxattr(node, DEFAULT, 200) == whole([0, 0], [0])
            await mount.client.forget(node, 1)
