"""Users and groups between guest and host: every method, every verb, and what a host directory makes of it."""

import asyncio
import errno
import inspect
import os
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import get_type_hints

import pytest
from hdvkit_virtiofs.fuse.answers import Attributes, Changes, Context, Entry, Opened, Statx
from hdvkit_virtiofs.fuse.errors import FuseError
from hdvkit_virtiofs.memory import MemoryFileSystem
from hdvkit_virtiofs.operations import Operations
from hdvkit_virtiofs.passthrough import Passthrough
from hdvkit_virtiofs.policy.identity import FORMS, Identity
from hypothesis import given, settings
from hypothesis import strategies as st
from systems import IS_ROOT, need_directories

LAST = 2**32 - 2
NO_ID = 2**32 - 1
NOBODY = 65534

METHODS = {name: method for name, method in vars(Operations).items() if inspect.iscoroutinefunction(method)}
ASKED = sorted(METHODS.keys() - {"release", "releasedir", "aclose"})
ON_OPEN_FILES = {
    *("read", "read_into", "write", "write_from", "flush", "fsync", "fallocate", "lseek", "copy_file_range"),
    *("getlk", "setlk", "ioctl", "readdir", "fsyncdir"),
}

SOMEBODY = Context(10**9, 10**9)
HOST_FILE = Attributes(ino=9, mode=0o100644, uid=1000, gid=2000)
GUEST_FILE = HOST_FILE._replace(uid=10, gid=20)


def answers(attributes: Attributes) -> dict[str, object]:
    """What the methods answer that tell attributes."""
    entry = Entry("node", attributes, generation=3, timeout=0.5)
    found: dict[str, object] = dict.fromkeys(("lookup", "mknod", "mkdir", "symlink", "link"), entry)
    found |= dict.fromkeys(("create", "tmpfile"), (entry, Opened(4, 5)))
    return found | {"getattr": attributes, "setattr": attributes, "statx": Statx(attributes, 7, 8)}


class Recorder(Operations[str, int]):
    """Remembers what each method was asked."""

    root = "root"

    def __init__(self) -> None:
        self.asked: tuple[object, ...] = ()
        self.file = HOST_FILE
        for name in METHODS:
            setattr(self, name, partial(self._record, name))

    async def _record(self, name: str, *arguments: object) -> object:
        self.asked = arguments
        return answers(self.file).get(name, "answer")


async def ask(layer: Operations[str, int], name: str, context: Context) -> tuple[tuple[object, ...], object]:
    """Call a method as the device does; return what came before the context, and the answer."""
    *names, last = inspect.signature(METHODS[name]).parameters
    assert last == "context"
    before = tuple(Changes(size=1) if each == "changes" else object() for each in names[1:])
    return before, await getattr(layer, name)(*before, context)


@pytest.fixture
def inner() -> Recorder:
    return Recorder()


# Every method


def test_all_methods_that_are_asked_by_somebody_have_the_context_last() -> None:
    for name, method in METHODS.items():
        hints = get_type_hints(method)
        names = [each for each, hint in hints.items() if hint is Context]
        assert names == (["context"] if name in ASKED else []), name
        if names:
            assert list(inspect.signature(method).parameters)[-1] == "context", name


@pytest.mark.parametrize("name", ASKED)
async def test_no_method_lets_an_untranslated_context_through(inner: Recorder, name: str) -> None:
    layer = Identity(inner, ["guest:0:100:50"], ["guest:0:200:50"])
    before, _ = await ask(layer, name, Context(5, 6, pid=7, umask=0o22, groups=(6, 7), security=((b"n", b"v"),)))
    assert inner.asked == (*before, Context(105, 206, 7, 0o22, (206, 207), ((b"n", b"v"),)))


@pytest.mark.parametrize("name", ASKED)
@pytest.mark.parametrize("context", [Context(5, 0), Context(0, 6), Context(0, 0, groups=(0, 6)), Context(NO_ID, 0)])
async def test_forbidden_users_ask_in_vain_except_of_open_files(inner: Recorder, name: str, context: Context) -> None:
    layer = Identity(inner, ["forbid-guest:5:1"], ["forbid-guest:6:1"])
    if name in ON_OPEN_FILES:
        await ask(layer, name, context)
        assert inner.asked[-1] == as_nobody(context)
    else:
        refused = (
            layer.setattr("node", Changes(mode=0), None, context) if name == "setattr" else ask(layer, name, context)
        )
        with pytest.raises(FuseError) as caught:
            await refused
        assert caught.value.errno == errno.EPERM
        assert inner.asked == ()


async def test_the_times_of_an_open_file_are_set_whoever_asks(inner: Recorder) -> None:
    layer = Identity(inner, ["forbid-guest:0:1000"])
    await layer.setattr("node", Changes(mtime_ns=1), 3, Context())
    assert inner.asked == ("node", Changes(mtime_ns=1), 3, Context(uid=NOBODY))


def as_nobody(context: Context) -> Context:
    """A context whose ids but 0 were forbidden."""
    uid, gid, *groups = (number and NOBODY for number in (context.uid, context.gid, *context.groups))
    return context._replace(uid=uid, gid=gid, groups=tuple(groups))


@pytest.mark.parametrize("name", ASKED)
async def test_every_answer_is_in_the_guests_ids(inner: Recorder, name: str) -> None:
    layer = Identity(inner, ["host:1000:10:1"], ["host:2000:20:1"])
    _, answer = await ask(layer, name, Context())
    assert answer == answers(GUEST_FILE).get(name, None if name == "setxattr" else "answer")


def test_answers_that_tell_attributes_are_known_here() -> None:
    telling = {name for name in ASKED if any(text in str(get_type_hints(METHODS[name])["return"]) for text in TELLING)}
    assert telling == answers(HOST_FILE).keys()


TELLING = ("Attributes", "Entry[", "Statx")


@pytest.mark.parametrize("name", ["getattr", "lookup", "statx"])
async def test_who_stays_the_same_costs_no_copies(inner: Recorder, name: str) -> None:
    layer = Identity(inner, ["map:5:105:1"], ["map:6:206:1"])
    context = Context(1, 2, groups=(3,))
    _, answer = await ask(layer, name, context)
    assert inner.asked[-1] is context
    assert getattr(answer, "attributes", answer) is HOST_FILE


async def test_what_nobody_asks_goes_straight_to_the_file_system(inner: Recorder) -> None:
    layer = Identity(inner, squash="1:1")
    await layer.release("node", 3)
    assert inner.asked == ("node", 3)


# Rules


@pytest.mark.parametrize(
    ("rule", "guest_to_host", "host_to_guest"),
    [
        ("guest:10:100:5", {9: 9, 10: 100, 14: 104, 15: 15}, {100: 100, 10: 10}),
        ("host:100:10:5", {10: 10, 100: 100}, {99: 99, 100: 10, 104: 14, 105: 105}),
        ("map:10:100:5", {9: 9, 10: 100, 14: 104, 15: 15}, {99: 99, 100: 10, 104: 14, 105: 105}),
        ("squash-guest:10:100:5", {9: 9, 10: 100, 14: 100, 15: 15}, {100: 100}),
        ("squash-host:100:10:5", {10: 10}, {99: 99, 100: 10, 104: 10, 105: 105}),
        ("forbid-guest:10:5", {9: 9, 10: None, 14: None, 15: 15}, {10: 10}),
        (f"squash-guest:0:7:{NO_ID}", {0: 7, LAST: 7, NO_ID: None}, {0: 0}),
        (f"squash-guest:0:{LAST}:5", {0: LAST, 4: LAST}, {}),
        (f"map:0:{LAST}:1", {0: LAST}, {LAST: 0}),
    ],
)
async def test_verbs(rule: str, guest_to_host: dict[int, int | None], host_to_guest: dict[int, int]) -> None:
    assert await on_the_host([rule], guest_to_host) == list(guest_to_host.values())
    assert await in_the_guest([rule], host_to_guest) == list(host_to_guest.values())


async def on_the_host(rules: list[str], numbers: Iterable[int]) -> list[int | None]:
    """What guest users are on the host, None where forbidden; groups must be treated alike."""
    inner = Recorder()
    users, groups = Identity(inner, rules), Identity(inner, (), rules)

    async def seen(layer: Identity[str, int], context: Context) -> Context | None:
        with suppress(FuseError):
            await layer.lookup("node", b"name", context)
            assert isinstance(inner.asked[-1], Context)
            return inner.asked[-1]
        return None

    found = []
    for number in numbers:
        user, group = await seen(users, Context(uid=number)), await seen(groups, Context(gid=number))
        assert user == (group and Context(uid=group.gid))
        found.append(user and user.uid)
    return found


async def in_the_guest(rules: list[str], numbers: Iterable[int]) -> list[int]:
    """What host users are shown as; groups must be treated alike."""
    inner = Recorder()
    users, groups = Identity(inner, rules), Identity(inner, (), rules)
    found = []
    for number in numbers:
        inner.file = Attributes(1, 0, uid=number, gid=number)
        user = await users.getattr("node", None, SOMEBODY)
        group = await groups.getattr("node", None, SOMEBODY)
        assert (user.uid, user.gid) == (group.gid, number)
        assert group.uid == number
        found.append(user.uid)
    return found


SMALL = st.integers(0, 12)
RULES = st.lists(st.tuples(st.sampled_from(sorted(FORMS)), SMALL, SMALL, st.integers(1, 5)), max_size=4)


@settings(deadline=None)
@given(RULES)
def test_tables_are_what_the_rules_say_one_by_one(rules: list[tuple[str, int, int, int]]) -> None:
    to_host: dict[int, list[int | None]] = {}
    to_guest: dict[int, list[int]] = {}
    for verb, first, to, count in rules:
        for step in range(count):
            if verb in {"guest", "map"}:
                to_host.setdefault(first + step, []).append(to + step)
            if verb == "map":
                to_guest.setdefault(to + step, []).append(first + step)
            if verb == "host":
                to_guest.setdefault(first + step, []).append(to + step)
            if verb == "squash-guest":
                to_host.setdefault(first + step, []).append(to)
            if verb == "squash-host":
                to_guest.setdefault(first + step, []).append(to)
            if verb == "forbid-guest":
                to_host.setdefault(first + step, []).append(None)
    texts = [f"{v}:{first}:{n}" if v == "forbid-guest" else f"{v}:{first}:{to}:{n}" for v, first, to, n in rules]
    if any(len(all_of_them) > 1 for side in (to_host.values(), to_guest.values()) for all_of_them in side):
        with pytest.raises(ValueError, match="both say what becomes of"):
            Identity(Recorder(), texts)
        return

    async def compare() -> None:
        assert [[each] for each in await on_the_host(texts, range(20))] == [to_host.get(n, [n]) for n in range(20)]
        assert [[each] for each in await in_the_guest(texts, range(20))] == [to_guest.get(n, [n]) for n in range(20)]

    asyncio.run(compare())


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        ("mpa:0:1000:1", "'mpa:0:1000:1' begins with no verb; write one of guest, host, map, squash-guest"),
        ("", "begins with no verb"),
        ("map:0:1000", "has 2 numbers; write map:GUEST:HOST:COUNT"),
        ("forbid-guest:0:1:2", "has 3 numbers; write forbid-guest:FROM:COUNT"),
        ("map:0:me:1", "'map:0:me:1' has 'me' for a number; write a decimal one"),
        ("map:0:-1:1", "has '-1' for a number"),
        ("map:0:٣:1", "for a number"),
        ("map:0:4294967296:1", "for a number"),
        ("map:0:" + "9" * 5000 + ":1", "for a number"),
        ("map:0:1000:0", "about no ids"),
        (f"map:0:{LAST}:2", "let map:GUEST:HOST:COUNT end at 4294967294"),
        (f"map:{LAST}:0:2", "end at 4294967294"),
        (f"squash-guest:0:{NO_ID}:1", "end at 4294967294"),
        (f"forbid-guest:{NO_ID}:1", "end at 4294967294"),
    ],
)
def test_a_wrong_rule_says_what_is_wrong(rule: str, reason: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is compared below
        Identity(Recorder(), (), [rule])
    assert reason in str(caught.value)


def test_a_count_taken_for_an_end_is_explained() -> None:
    with pytest.raises(ValueError, match=r"both say what becomes of 2000; .* how many, not up to which"):
        Identity(Recorder(), ["forbid-guest:1001:1999", "map:2000:2000:1"])


def test_one_guest_range_may_be_squashed_and_shown_as_another() -> None:
    Identity(Recorder(), ["squash-guest:0:1000:65536", "host:1000:0:1"])  # two directions do not contradict


# Giving files away


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (Changes(), Changes()),
        (Changes(uid=0, gid=0, mode=0o600), Changes(uid=100, gid=200, mode=0o600)),
        (Changes(uid=50), Changes(uid=50)),
        (Changes(uid=5), None),
        (Changes(gid=6), None),
        (Changes(uid=NO_ID), None),
    ],
)
@pytest.mark.parametrize("handle", [None, 3])
async def test_files_are_given_to_hosts_users(
    inner: Recorder, changes: Changes, expected: Changes | None, handle: int | None
) -> None:
    layer = Identity(inner, ["guest:0:100:1", "forbid-guest:5:1"], ["guest:0:200:1", "forbid-guest:6:1"])
    if expected is None:
        with pytest.raises(FuseError) as caught:
            await layer.setattr("node", changes, handle, Context())
        assert caught.value.errno == errno.EPERM
        assert inner.asked == ()
    else:
        await layer.setattr("node", changes, handle, Context())
        assert inner.asked == ("node", expected, handle, Context(100, 200))


# Squash


@pytest.mark.parametrize(("squash", "owner"), [("1000:1001", (0, 0)), ("1000:1001:7:8", (7, 8))])
async def test_squash_makes_everybody_one_user(inner: Recorder, squash: str, owner: tuple[int, int]) -> None:
    layer = Identity(inner, squash=squash)
    for number in (0, 5, 1000, LAST):
        entry = await layer.lookup("node", b"name", Context(number, number, groups=(number,)))
        assert inner.asked[-1] == Context(1000, 1001, groups=(1001,))
        assert (entry.attributes.uid, entry.attributes.gid) == owner
    await layer.setattr("node", Changes(uid=33, gid=33), None, Context())
    assert inner.asked[1] == Changes(uid=1000, gid=1001)


@pytest.mark.parametrize("squash", ["", "1000", "1000:1000:0", "1:2:3:4:5", f"{NO_ID}:0", "me:me"])
def test_a_wrong_squash_is_explained(squash: str) -> None:
    with pytest.raises(ValueError, match="write"):
        Identity(Recorder(), squash=squash)


def test_squash_takes_no_rules_beside_it() -> None:
    with pytest.raises(ValueError, match="for all ids"):
        Identity(Recorder(), ["map:0:0:1"], squash="0:0")


# In front of file systems


async def test_a_file_in_memory_belongs_to_whom_the_guest_says() -> None:
    inner = MemoryFileSystem()
    layer = Identity(inner, ["map:5:105:1"], ["map:6:206:1"])
    entry, _ = await layer.create(layer.root, b"file", 0o644, 0, Context(5, 6))
    assert (entry.attributes.uid, entry.attributes.gid) == (5, 6)
    assert (entry.node.uid, entry.node.gid) == (105, 206)
    assert await layer.write(entry.node, None, 0, b"data", Context()) == 4
    assert await layer.read(entry.node, None, 0, 9, Context()) == b"data"


@pytest.fixture
async def share(tmp_path: Path) -> AsyncIterator[Passthrough]:
    need_directories()
    share = Passthrough(tmp_path)
    yield share
    await share.aclose()


@pytest.mark.skipif(not IS_ROOT, reason="only root may give files away")
async def test_host_files_change_hands(share: Passthrough, tmp_path: Path) -> None:
    layer = Identity(share, ["map:5:105:2"], ["map:6:206:2"])
    made = await layer.mkdir(layer.root, b"dir", 0o755, Context(5, 6))
    assert owner(tmp_path / "dir") == (105, 206)
    assert (made.attributes.uid, made.attributes.gid) == (5, 6)
    changed = await layer.setattr(made.node, Changes(uid=6, gid=7), None, Context())
    assert owner(tmp_path / "dir") == (106, 207)
    assert (changed.uid, changed.gid) == (6, 7)
    assert (await layer.statx(made.node, None, Context())).attributes.uid == 6


async def test_an_ordinary_user_serves_root_when_all_are_squashed(share: Passthrough, tmp_path: Path) -> None:
    me = os.geteuid(), os.getegid()
    layer = Identity(share, squash=f"{me[0]}:{me[1]}")
    entry, opened = await layer.create(layer.root, b"file", 0o644, os.O_RDWR, Context(0, 0))
    changed = await layer.setattr(entry.node, Changes(uid=33, gid=33), None, Context(0, 0))
    assert (changed.uid, changed.gid) == (0, 0)
    assert owner(tmp_path / "file") == me
    await layer.release(entry.node, opened.handle)


def owner(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_uid, status.st_gid
