"""Extended attributes: the rules a guest has them by."""

import asyncio
import errno
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from itertools import product

import pytest
from hdvkit_virtiofs.fuse.answers import Attributes, Context, Entry, Opened
from hdvkit_virtiofs.fuse.errors import FuseError
from hdvkit_virtiofs.fuse.spec import InitFlag
from hdvkit_virtiofs.memory import MemoryFileSystem
from hdvkit_virtiofs.operations import Operations
from hdvkit_virtiofs.policy.xattrs import XattrRules, parse
from hypothesis import given, settings
from hypothesis import strategies as st

ME = Context()
REMAP = "prefix:security.:user.virtiofs."


async def refusal(asked: Awaitable[object]) -> int:
    """The errno a call ends with."""
    with pytest.raises(FuseError) as caught:
        await asked
    return caught.value.errno


# Rules


class Store(Operations[str, None]):
    """Keeps extended attributes of one node, under whatever name, and how things were born."""

    root = "root"
    init_flags = InitFlag.POSIX_ACL | InitFlag.SECURITY_CTX | InitFlag.FLOCK_LOCKS

    def __init__(self, names: Sequence[bytes] = ()) -> None:
        self.kept = {name: b"of " + name for name in names}
        self.born: Context | None = None

    async def getxattr(self, node: str, name: bytes, context: Context) -> bytes:
        """Return what is kept."""
        if name not in self.kept:
            raise FuseError(errno.ENODATA)
        return self.kept[name]

    async def listxattr(self, node: str, context: Context) -> Sequence[bytes]:
        """Return all names."""
        return list(self.kept)

    async def setxattr(self, node: str, name: bytes, value: bytes, flags: int, context: Context) -> None:
        """Keep a value."""
        self.kept[name] = value

    async def removexattr(self, node: str, name: bytes, context: Context) -> None:
        """Keep it no more."""
        if self.kept.pop(name, None) is None:
            raise FuseError(errno.ENODATA)

    async def create(
        self, parent: str, name: bytes, mode: int, flags: int, context: Context
    ) -> tuple[Entry[str], Opened[None]]:
        """Remember how."""
        return self._made(context), Opened(None)

    async def tmpfile(self, parent: str, mode: int, flags: int, context: Context) -> tuple[Entry[str], Opened[None]]:
        """Remember how."""
        return self._made(context), Opened(None)

    async def mknod(self, parent: str, name: bytes, mode: int, rdev: int, context: Context) -> Entry[str]:
        """Remember how."""
        return self._made(context)

    async def mkdir(self, parent: str, name: bytes, mode: int, context: Context) -> Entry[str]:
        """Remember how."""
        return self._made(context)

    async def symlink(self, parent: str, name: bytes, target: bytes, context: Context) -> Entry[str]:
        """Remember how."""
        return self._made(context)

    def _made(self, context: Context) -> Entry[str]:
        self.born = context
        return Entry("made", Attributes(1, 0))


def rules(*texts: str, names: Sequence[bytes] = ()) -> XattrRules[str, None]:
    return XattrRules(Store(names), texts)


def kept(layer: XattrRules[str, None]) -> set[bytes]:
    assert isinstance(layer.inner, Store)
    return set(layer.inner.kept)


HOST_NAMES = (b"user.a", b"security.selinux", b"security.capability", b"trusted.t", b"system.posix_acl_access")


@pytest.mark.parametrize("posix_acl", [False, True])
async def test_without_rules_a_guest_has_user_names(posix_acl: bool) -> None:
    layer = XattrRules(Store(HOST_NAMES), posix_acl=posix_acl)
    allowed = {b"user.a"} | ({b"system.posix_acl_access"} if posix_acl else set())
    assert set(await layer.listxattr("node", ME)) == allowed
    for name in HOST_NAMES:
        if name in allowed:
            assert await layer.getxattr("node", name, ME) == b"of " + name
            await layer.setxattr("node", name, b"new", 0, ME)
            await layer.removexattr("node", name, ME)
            assert name not in kept(layer)
        else:
            assert await refusal(layer.getxattr("node", name, ME)) == errno.EOPNOTSUPP
            assert await refusal(layer.setxattr("node", name, b"", 0, ME)) == errno.EOPNOTSUPP
            assert await refusal(layer.removexattr("node", name, ME)) == errno.EOPNOTSUPP
            assert name in kept(layer)


async def test_switched_off_the_guest_stops_asking() -> None:
    layer = XattrRules(Store(HOST_NAMES), ["ok:"], xattr=False)
    assert await refusal(layer.getxattr("node", b"user.a", ME)) == errno.ENOSYS
    assert await refusal(layer.listxattr("node", ME)) == errno.ENOSYS
    assert await refusal(layer.setxattr("node", b"user.a", b"", 0, ME)) == errno.ENOSYS
    assert await refusal(layer.removexattr("node", b"user.a", ME)) == errno.ENOSYS
    assert kept(layer) == set(HOST_NAMES)
    assert layer.init_flags == InitFlag.FLOCK_LOCKS


async def test_a_bad_name_is_never_there() -> None:
    layer = rules("bad:user.secret", "ok:user.", names=[b"user.secret.1", b"user.a"])
    assert await layer.listxattr("node", ME) == [b"user.a"]
    assert await refusal(layer.getxattr("node", b"user.secret.1", ME)) == errno.ENODATA
    assert await refusal(layer.setxattr("node", b"user.secret.1", b"", 0, ME)) == errno.EPERM
    assert await refusal(layer.removexattr("node", b"user.secret.1", ME)) == errno.EPERM


async def test_the_first_rule_decides() -> None:
    layer = rules("ok:user.a", "bad:user.", "ok:", names=[b"user.a", b"user.b", b"trusted.c"])
    assert await layer.listxattr("node", ME) == [b"user.a", b"trusted.c"]


async def test_without_a_rule_that_fits_a_name_is_unsupported() -> None:
    assert await refusal(rules().getxattr("node", b"user.a", ME)) == errno.EOPNOTSUPP


async def test_a_prefix_keeps_the_guests_names_apart_from_the_hosts() -> None:
    layer = rules(REMAP, "ok:user.", names=[b"security.capability", b"user.a"])
    await layer.setxattr("node", b"security.capability", b"guest's", 0, ME)
    assert kept(layer) == {b"security.capability", b"user.a", b"user.virtiofs.security.capability"}
    assert await layer.getxattr("node", b"security.capability", ME) == b"guest's"
    assert await layer.listxattr("node", ME) == [b"user.a", b"security.capability"]
    forged = b"user.virtiofs.security.capability"
    assert await refusal(layer.getxattr("node", forged, ME)) == errno.ENODATA
    assert await refusal(layer.setxattr("node", forged, b"", 0, ME)) == errno.EPERM
    assert await refusal(layer.removexattr("node", forged, ME)) == errno.EPERM
    await layer.removexattr("node", b"security.capability", ME)
    assert kept(layer) == {b"security.capability", b"user.a"}


async def test_host_names_no_guest_name_leads_to_are_hidden() -> None:
    layer = rules(REMAP, "ok:user.", names=[b"user.virtiofs.", b"user.virtiofs.user.a", b"user.virtiofs.trusted.x"])
    assert await layer.listxattr("node", ME) == []


async def test_guests_in_guests_may_use_the_same_rule() -> None:
    layer = rules("prefix::user.virtiofs.")
    inner = XattrRules(layer, ["prefix::user.virtiofs."])
    await inner.setxattr("node", b"security.a", b"1", 0, ME)
    await layer.setxattr("node", b"security.a", b"2", 0, ME)
    assert kept(layer) == {b"user.virtiofs.security.a", b"user.virtiofs.user.virtiofs.security.a"}
    assert await inner.listxattr("node", ME) == [b"security.a"]
    assert await inner.getxattr("node", b"security.a", ME) == b"1"


async def test_names_are_as_long_as_linux_has_them() -> None:
    layer = rules(REMAP, "ok:")
    longest = b"security." + b"n" * (255 - len("user.virtiofs.security."))
    await layer.setxattr("node", longest, b"", 0, ME)
    assert {len(name) for name in kept(layer)} == {255}
    for name in (longest + b"n", b"user." + b"n" * 251, b""):
        assert await refusal(layer.setxattr("node", name, b"", 0, ME)) == errno.ERANGE
        assert await refusal(layer.getxattr("node", name, ME)) == errno.ERANGE
        assert await refusal(layer.removexattr("node", name, ME)) == errno.ERANGE


PIECES = (b"user.", b"trusted.", b"security.", b"v.", b"a")
UNIVERSE = [b"".join(pieces) for size in range(1, 4) for pieces in product(PIECES, repeat=size)]
PREFIXES = st.lists(st.sampled_from([piece.decode() for piece in PIECES]), max_size=2).map("".join)
RULES = st.one_of(
    st.builds("{}:{}".format, st.sampled_from(["ok", "bad", "unsupported"]), PREFIXES),
    st.builds("prefix:{}:{}{}".format, PREFIXES, st.sampled_from(["user.", "trusted."]), PREFIXES),
)


@settings(deadline=None)
@given(st.lists(RULES, max_size=4), st.sets(st.sampled_from(UNIVERSE), max_size=8))
def test_names_round_trip_and_nothing_else_appears(texts: list[str], names: set[bytes]) -> None:
    try:
        layer = rules(*texts, names=sorted(names))
    except ValueError:
        return

    async def check() -> None:
        there = {}
        for name in UNIVERSE:
            with suppress(FuseError):
                there[name] = await layer.getxattr("node", name, ME)
        assert sorted(await layer.listxattr("node", ME)) == sorted(there), "what is listed is what can be had"
        assert len(set(there.values())) == len(there), "each has a host name of its own"
        written = {}
        for name in UNIVERSE:
            with suppress(FuseError):
                await layer.setxattr("node", name, b"by " + name, 0, ME)
                written[name] = b"by " + name
        assert {name: await layer.getxattr("node", name, ME) for name in written} == written
        assert set(await layer.listxattr("node", ME)) == written.keys() >= there.keys()
        for name in written:
            await layer.removexattr("node", name, ME)
        assert kept(layer) <= names, "nothing is left that was not there before"
        assert await layer.listxattr("node", ME) == []

    asyncio.run(check())


@pytest.mark.parametrize(
    ("texts", "reason"),
    [
        (["okay:user."], "'okay:user.' begins with no action; write one of ok, bad, unsupported, prefix"),
        ([""], "begins with no action"),
        (["ok"], "'ok' has 0 texts behind its action; write ok:PREFIX"),
        (["bad:user.:x"], "has 2 texts behind its action; write bad:PREFIX"),
        (["prefix:security."], "write prefix:PREFIX:ARGUMENT"),
        (["prefix:security.:virtiofs."], "under 'virtiofs.', which Linux does not keep"),
        (["prefix:security.:"], "let the argument begin with user."),
        (["prefix:a:user.v.", "prefix:b:user.v.w."], "choose arguments of which none begins with another"),
        (["prefix:a:user.v.w.", "prefix:b:user.v."], "choose arguments of which none begins with another"),
    ],
)
def test_wrong_rules_are_explained(texts: list[str], reason: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is compared below
        rules(*texts)
    assert reason in str(caught.value)


def test_rules_are_read_as_bytes() -> None:
    assert parse("ok:user.\udcff").prefix == b"user.\xff"


def test_two_rules_may_store_under_one_argument() -> None:
    rules("prefix:security.:user.v.", "prefix:trusted.:user.v.")


# What files are born with, and what is negotiated


@pytest.mark.parametrize("method", ["create", "tmpfile", "mknod", "mkdir", "symlink"])
async def test_labels_of_new_files_go_by_the_rules(method: str) -> None:
    arguments = {"create": (b"n", 0, 0), "tmpfile": (0, 0), "mknod": (b"n", 0, 0), "mkdir": (b"n", 0)}
    before = ("root", *arguments.get(method, (b"n", b"target")))
    layer = rules(REMAP, "bad:trusted.", "ok:user.")
    store = layer.inner
    assert isinstance(store, Store)
    plain = Context(1, 2, 3)
    await getattr(layer, method)(*before, plain)
    assert store.born is plain
    await getattr(layer, method)(*before, plain._replace(security=((b"security.selinux", b"label"),)))
    assert store.born == plain._replace(security=((b"user.virtiofs.security.selinux", b"label"),))
    store.born = None
    for name, code in ((b"trusted.overlay.opaque", errno.EPERM), (b"system.posix_acl_access", errno.EOPNOTSUPP)):
        assert await refusal(getattr(layer, method)(*before, plain._replace(security=((name, b""),)))) == code
    assert store.born is None


@pytest.mark.parametrize(
    ("texts", "flags"),
    [
        (["ok:user."], InitFlag(0)),
        (["ok:system.posix_acl_"], InitFlag.POSIX_ACL),
        (["ok:security.selinux"], InitFlag.SECURITY_CTX),
        ([REMAP], InitFlag.SECURITY_CTX),
        (["prefix:system.:user.v."], InitFlag(0)),
        (["ok:"], InitFlag.POSIX_ACL | InitFlag.SECURITY_CTX),
    ],
)
def test_what_cannot_pass_is_not_negotiated(texts: list[str], flags: InitFlag) -> None:
    assert rules(*texts).init_flags == flags | InitFlag.FLOCK_LOCKS


# In front of file systems


async def test_everything_else_passes() -> None:
    layer = XattrRules(MemoryFileSystem({"file": b"content"}))
    node = (await layer.lookup(layer.root, b"file", ME)).node
    assert await layer.read(node, None, 0, 99, ME) == b"content"
    assert await refusal(layer.getxattr(node, b"user.a", ME)) == errno.ENOSYS
