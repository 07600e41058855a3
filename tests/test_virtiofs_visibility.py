"""What a guest cannot see does not exist for it, whatever it tries; and how long it may remember the rest, by path."""

import asyncio
import gc
import stat
import weakref
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hdvkit_virtiofs import Context, DirEntry, Entry, FuseError, MemoryFileSystem, Operations, Passthrough
from hdvkit_virtiofs.memory import Tree
from hdvkit_virtiofs.memory_tree import MemoryNode
from hdvkit_virtiofs.policy.globs import Globs, Reach
from hdvkit_virtiofs.policy.timeouts import JUDGED, Timeouts
from hdvkit_virtiofs.policy.visibility import LISTED_AT_ONCE, Visible
from hypothesis import given, settings
from hypothesis import strategies as st
from systems import shares_directories

import hdvkit
from hdvkit.testing import Guest
from hdvkit.testing.fuse_messages import RENAME_EXCHANGE, RENAME_NOREPLACE, Open
from hdvkit.testing.mount import GuestMount

ROOT = 1
GUEST = Context()
TREE: Tree = {
    ".ssh": {"key": b"secret"},
    "src": {"a.c": b"int a;", ".env": b"secret", "sub": {"b.c": b"int b;", ".env": b"secret"}},
    "etc": {"public": b"p", "shadow": b"secret", "deep": {"x": b"x"}},
    "note.txt": b"note",
}


@asynccontextmanager
async def mounted(operations: Operations[MemoryNode, None]) -> AsyncIterator[GuestMount]:
    async with hdvkit.open_host("sim") as host:
        share = await host.add("virtiofs", source=operations, tag="t")
        async with Guest.of(host).mount(share) as mount:
            yield mount


@asynccontextmanager
async def seen(
    tree: Tree = TREE, *, deny: Iterable[str] = (), allow: Iterable[str] = ()
) -> AsyncIterator[tuple[GuestMount, MemoryFileSystem]]:
    files = MemoryFileSystem(tree)
    async with mounted(Visible(files, deny=deny, allow=allow)) as mount:
        yield mount, files


async def everything(mount: GuestMount) -> set[str]:
    """All a guest finds by READDIRPLUS, and by READDIR the same."""
    found = set()
    async for here, directories, others in mount.walk():
        assert sorted(await mount.listdir(here)) == sorted(directories + others)
        found |= {f"{here}/{name}".removeprefix("./") for name in directories + others}
    return found


def in_tree(node: MemoryNode, above: str = "") -> dict[str, bytes | None]:
    """All there is: paths to contents, None for directories."""
    found: dict[str, bytes | None] = {}
    for name, (child, _) in node.names.items():
        path = f"{above}{name.decode()}"
        found[path] = None if child.is_directory else bytes(child.data)
        found |= in_tree(child, path + "/")
    return found


# Denied


async def test_listings_leave_out_what_is_denied() -> None:
    async with seen(deny=(".ssh", ".env", "etc/shadow")) as (mount, _):
        assert await everything(mount) == {
            *("src", "src/a.c", "src/sub", "src/sub/b.c", "etc", "etc/public", "etc/deep", "etc/deep/x", "note.txt")
        }


@pytest.mark.parametrize("path", [".ssh", ".ssh/key", "src/.env", "src/sub/.env", "etc/shadow"])
async def test_what_is_denied_does_not_exist(path: str) -> None:
    async with seen(deny=(".ssh", ".env", "etc/shadow")) as (mount, _):
        assert not await mount.exists(path)
        with pytest.raises(FileNotFoundError):
            await mount.read_bytes(path)


@pytest.mark.parametrize("name", ["hidden", "new"])
async def test_every_operation_that_takes_a_name_is_refused(name: str) -> None:
    tree: Tree = {"hidden": b"secret", "d": {}, "f": b""}
    async with seen(tree, deny=("hidden", "new")) as (mount, files):
        client = mount.client
        file, directory = await client.lookup(ROOT, "f"), await client.lookup(ROOT, "d")
        for attempt in (
            client.lookup(ROOT, name),
            client.create(ROOT, name, Open.RDWR | Open.CREAT, stat.S_IFREG | 0o600),
            client.mknod(ROOT, name, stat.S_IFREG | 0o600),
            client.mkdir(ROOT, name, 0o700),
            client.symlink(ROOT, name, "f"),
            client.link(file.nodeid, ROOT, name),
            client.unlink(ROOT, name),
            client.rmdir(ROOT, name),
            client.rename(ROOT, name, ROOT, "other"),
            client.rename(ROOT, name, directory.nodeid, name),
            client.rename(ROOT, "f", ROOT, name),
            client.rename(ROOT, "d", ROOT, name),
            client.rename2(ROOT, "f", ROOT, name, RENAME_EXCHANGE),
            client.rename2(ROOT, name, ROOT, "f", RENAME_EXCHANGE),
            client.rename2(ROOT, "f", ROOT, name, RENAME_NOREPLACE),
        ):
            with pytest.raises(FileNotFoundError):
                await attempt
        assert in_tree(files.root) == {"hidden": b"secret", "d": None, "f": b""}
        await client.batch_forget([(file.nodeid, 1), (directory.nodeid, 1)])


async def test_readdirplus_gives_no_node_of_what_is_denied() -> None:
    async with seen({"hidden": b"", "shown": b""}, deny=("hidden",)) as (mount, _):
        client = mount.client
        listed = await client.readdirplus(ROOT, 0, 0)
        assert [plus.dirent.name for plus in listed] == [b"shown"]
        await client.forget(listed[0].entry.nodeid)


async def test_a_link_may_lead_where_nothing_can_be_seen() -> None:
    async with seen(deny=(".ssh",)) as (mount, _):
        await mount.symlink(".ssh/key", "way")
        assert await mount.readlink("way") == ".ssh/key"
        with pytest.raises(FileNotFoundError):
            await mount.read_bytes("way")


async def test_a_directory_that_holds_hidden_names_is_not_empty() -> None:
    async with seen({"d": {"hidden": b"secret"}}, deny=("hidden",)) as (mount, _):
        assert await mount.listdir("d") == []
        with pytest.raises(OSError, match="not empty"):
            await mount.rmdir("d")


async def test_patterns_below_a_directory_deny_only_what_is_in_it() -> None:
    async with seen({"d": {"a": b"", "e": {"b": b""}}, "a": b""}, deny=("d/**",)) as (mount, _):
        assert await everything(mount) == {"d", "a"}


async def test_long_listings_come_whole() -> None:
    tree: Tree = {f"{number}.{'o' if number % 3 else 'c'}": b"" for number in range(LISTED_AT_ONCE * 6)}
    async with seen(tree, deny=("*.o",)) as (mount, _):
        names = await mount.listdir()
        assert sorted(names) == sorted(name for name in tree if name.endswith(".c"))
        assert sorted(entry.name for entry in await mount.scandir()) == sorted(names)
    layer = Visible(MemoryFileSystem(tree))
    assert len(list(await layer.readdir(layer.root, None, 0, GUEST))) == LISTED_AT_ONCE


async def test_a_listing_that_is_all_hidden_lets_others_have_their_turn() -> None:
    layer = Visible(MemoryFileSystem({f"{number}.o": b"" for number in range(1000)}), deny=("*.o",))
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    meanwhile = asyncio.create_task(others())
    assert list(await layer.readdir(layer.root, None, 0, GUEST)) == []
    meanwhile.cancel()
    assert turns


async def test_a_guest_that_unmounts_leaves_nothing() -> None:
    async with seen(deny=("hidden",), allow=("*",)) as (mount, files):
        await mount.write_bytes("new", b"")
        left = weakref.ref(files.root.names[b"new"].node)
        file = await mount.open("new")
        await mount.unlink("new")
        await file.close()
        await mount.drop_caches()
        gc.collect()
        assert left() is None


async def test_a_node_the_guest_knows_stays_known_when_its_hidden_name_is_looked_at() -> None:
    files = MemoryFileSystem({"a.c": b"data"})
    files.root.names[b"a"] = files.root.names[b"a.c"]
    layer = Visible(files, allow=("*.c",))
    node = (await layer.lookup(layer.root, b"a.c", GUEST)).node
    for attempt in (layer.lookup, layer.rmdir):
        with pytest.raises(FuseError, match="ENOENT"):
            await attempt(layer.root, b"a", GUEST)
        assert node.referenced
    layer.forget(node)
    with pytest.raises(FuseError, match="ENOENT"):
        await layer.lookup(layer.root, b"a", GUEST)
    assert not node.referenced


async def test_patterns_hold_in_a_directory_as_soon_as_it_is_made() -> None:
    async with seen({}, deny=("d/hidden",)) as (mount, _):
        made = await mount.client.mkdir(ROOT, "d", 0o700)
        with pytest.raises(FileNotFoundError):
            await mount.client.mkdir(made.nodeid, "hidden", 0o700)
        await mount.client.mkdir(made.nodeid, "shown", 0o700)
        assert await everything(mount) == {"d", "d/shown"}


async def test_a_way_back_to_the_root_leads_to_the_root() -> None:
    class Loop(MemoryFileSystem):
        async def lookup(self, parent: MemoryNode, name: bytes, context: Context) -> Entry[MemoryNode]:
            """Find the root by a name."""
            return self._entry(self.root) if name == b"loop" else await super().lookup(parent, name, context)

    layer = Visible(Loop({"hidden": b"secret"}), deny=("/hidden",))
    assert (await layer.lookup(layer.root, b"loop", GUEST)).node is layer.root
    with pytest.raises(FuseError, match="ENOENT"):
        await layer.lookup(layer.root, b"hidden", GUEST)


async def test_a_node_that_was_forgotten_is_stale() -> None:
    layer = Visible(MemoryFileSystem(TREE))
    node = (await layer.lookup(layer.root, b"src", GUEST)).node
    layer.forget(node)
    with pytest.raises(FuseError, match="ESTALE"):
        await layer.lookup(node, b"a.c", GUEST)


# Allowed


async def test_only_what_is_allowed_can_be_seen_and_the_way_to_it() -> None:
    async with seen(allow=("src/sub", "etc/public")) as (mount, _):
        assert await everything(mount) == {"src", "src/sub", "src/sub/b.c", "src/sub/.env", "etc", "etc/public"}
        with pytest.raises(FileNotFoundError):
            await mount.read_bytes("note.txt")


async def test_a_name_is_allowed_at_any_depth() -> None:
    async with seen(allow=("*.c",)) as (mount, _):
        files = {"src/a.c", "src/sub/b.c"}
        assert await everything(mount) == {".ssh", "src", "src/sub", "etc", "etc/deep", *files}


async def test_deny_wins() -> None:
    async with seen(allow=("/src",), deny=(".env",)) as (mount, _):
        assert await everything(mount) == {"src", "src/a.c", "src/sub", "src/sub/b.c"}


async def test_on_the_way_there_are_only_directories() -> None:
    async with seen({"a": b"secret", "d": {"x.c": b""}}, allow=("*.c",)) as (mount, files):
        client = mount.client
        file = await mount.open("d/x.c")
        place = (await client.lookup(ROOT, "d")).nodeid
        for attempt in (
            client.lookup(ROOT, "a"),
            client.unlink(ROOT, "a"),
            client.rmdir(ROOT, "a"),
            client.unlink(ROOT, "d"),
            client.create(ROOT, "new", Open.RDWR | Open.CREAT, stat.S_IFREG | 0o600),
            client.mknod(ROOT, "new", stat.S_IFREG | 0o600),
            client.symlink(ROOT, "new", "x"),
            client.rename(ROOT, "a", ROOT, "b"),
            client.rename(ROOT, "a", ROOT, "a.c"),
            client.rename(place, "x.c", ROOT, "x"),
            client.rename2(place, "x.c", ROOT, "a", RENAME_EXCHANGE),
            client.rename2(ROOT, "d", ROOT, "a", RENAME_EXCHANGE),
        ):
            with pytest.raises(FileNotFoundError):
                await attempt
        with pytest.raises(FileExistsError):
            await client.mkdir(ROOT, "a", 0o700)
        await client.forget(place)
        await file.close()
        await mount.mkdir("e")
        await mount.rename("e", "f")
        await mount.rename("d/x.c", "f/y.c")
        await mount.rmdir("d")
        assert in_tree(files.root) == {"a": b"secret", "f": None, "f/y.c": b""}


@pytest.mark.parametrize("type_known", [True, False])
async def test_names_of_unknown_type_are_looked_at(type_known: bool) -> None:
    class Typeless(MemoryFileSystem):
        async def readdir(self, node: MemoryNode, handle: None, offset: int, context: Context) -> Iterable[DirEntry]:
            """List names without types."""
            entries = await super().readdir(node, handle, offset, context)
            return entries if type_known else [entry._replace(type=0) for entry in entries]

    files = Typeless(TREE)
    async with mounted(Visible(files, allow=("*.c",))) as mount:
        assert sorted(await mount.listdir()) == [".ssh", "etc", "src"]
        assert not any(name.node.referenced for name in files.root.names.values())


# Renamed


@pytest.mark.parametrize(
    ("patterns", "old", "new"),
    [
        ({"deny": ["etc/shadow"]}, "etc", "other"),
        ({"deny": ["other/x"]}, "etc/deep", "other"),
        ({"deny": ["src/*/.env"]}, "src/sub", "src/other"),
        ({"deny": ["**/sub/.env"]}, "src/sub", "src/other"),
        ({"deny": ["etc/shadow/x"]}, "src/sub", "etc/shadow"),
        ({"deny": ["a/b/c"]}, "src", "a"),
        ({"allow": ["src", "*.txt"]}, "src/sub", "sub"),
        ({"allow": ["src", "*.txt"]}, "etc", "src/etc"),
        ({"allow": ["etc/deep", "x/deep"]}, "etc", "x"),
    ],
)
async def test_a_directory_does_not_move_where_patterns_see_more_or_less(
    patterns: dict[str, list[str]], old: str, new: str
) -> None:
    async with seen(deny=patterns.get("deny", ()), allow=patterns.get("allow", ())) as (mount, files):
        before = in_tree(files.root)
        with pytest.raises(OSError, match="Invalid cross-device link"):
            await mount.rename(old, new)
        assert in_tree(files.root) == before
        assert await mount.exists(old)


@pytest.mark.parametrize(
    ("patterns", "old", "new"),
    [
        ({"deny": [".env", ".ssh"]}, "src/sub", "sub"),
        ({"deny": ["etc/shadow"]}, "src", "other"),
        ({"deny": ["etc/shadow"]}, "etc/deep", "deep"),
        ({"deny": ["**/.env"]}, "src", "other"),
        ({"allow": ["src"]}, "src/sub", "src/other"),
        ({"allow": ["src/**"]}, "src/sub", "src/other"),
        ({"allow": ["*.c"]}, "src/sub", "other"),
        ({"deny": ["etc/shadow", "note.txt/x"]}, "note.txt", "etc/note"),
        ({"deny": ["**/a/b"]}, "note.txt", "a"),
    ],
)
async def test_what_looks_alike_in_both_places_moves(patterns: dict[str, list[str]], old: str, new: str) -> None:
    async with seen(deny=patterns.get("deny", ()), allow=patterns.get("allow", ())) as (mount, files):
        before = in_tree(files.root)
        await mount.rename(old, new)
        assert in_tree(files.root).keys() == {
            new + path[len(old) :] if (path + "/").startswith(old + "/") else path for path in before
        }


async def test_two_directories_change_places_only_where_they_look_alike() -> None:
    async with seen(deny=["etc/shadow"]) as (mount, _):
        await mount.rename("src/sub", "etc/deep", flags=RENAME_EXCHANGE)
        assert await mount.read_bytes("src/sub/x") == b"x"
        for pair in (("note.txt", "etc"), ("etc", "note.txt")):
            with pytest.raises(OSError, match="Invalid cross-device link"):
                await mount.rename(*pair, flags=RENAME_EXCHANGE)


async def test_a_file_is_hidden_where_its_new_directory_is() -> None:
    """The place of a directory is the one it has now, not the one it was found at."""
    async with seen({"a": {"b": {}}, "f": b""}, deny=("x/b/secret",)) as (mount, _):
        client = mount.client
        outer = await client.lookup(ROOT, "a")
        inner = await client.lookup(outer.nodeid, "b")
        with pytest.raises(OSError, match="Invalid cross-device link"):
            await client.rename(ROOT, "a", ROOT, "x")
        await client.rename(ROOT, "a", ROOT, "y")
        await client.rename(outer.nodeid, "b", ROOT, "c")
        made, opened = await client.create(inner.nodeid, "secret", Open.RDWR | Open.CREAT, stat.S_IFREG | 0o600)
        assert await mount.listdir("c") == ["secret"]
        await client.release(made.nodeid, opened.fh)
        await client.batch_forget([(outer.nodeid, 1), (inner.nodeid, 1), (made.nodeid, 1)])


@shares_directories
async def test_directories_of_the_host_are_hidden_alike(tmp_path: Path) -> None:
    (tmp_path / "d" / "hidden").mkdir(parents=True)
    (tmp_path / "d" / "a.c").write_bytes(b"a")
    (tmp_path / "note").write_bytes(b"secret")
    layer = Visible(Passthrough(tmp_path), deny=("hidden",), allow=("*.c",))
    async with hdvkit.open_host("sim") as host:
        share = await host.add("virtiofs", source=layer, tag="t")
        async with Guest.of(host).mount(share) as mount:
            assert await everything(mount) == {"d", "d/a.c"}
            assert not await mount.exists("note")
            assert not await mount.exists("d/hidden")
            assert await mount.read_bytes("d/a.c") == b"a"


PATTERNS = ["s", "s*", "/s", "a/s", "a/*/s", "**/a/s", "a/**", "a/b", "b/s/a", "/b", "*"]
ANCHORED = {pattern for pattern in PATTERNS if "/" in pattern}
NAMES = ["a", "b", "s", "ss"]
patterns = st.lists(st.sampled_from(PATTERNS), max_size=3)
trees = st.recursive(
    st.just(b""), lambda inner: st.dictionaries(st.sampled_from(NAMES), inner, max_size=4), max_leaves=12
).filter(lambda tree: isinstance(tree, dict))
places = st.lists(st.sampled_from(NAMES), min_size=1, max_size=4)
moves = st.one_of(
    st.tuples(st.sampled_from(["mkdir", "create", "unlink", "rmdir", "lookup"]), places),
    st.tuples(st.sampled_from(["rename", "exchange", "link"]), places, places),
)


def can_see(path: tuple[str, ...], directory: bool, deny: list[str], allow: list[str]) -> bool:
    """What should be visible, said once more and plainly: the prefixes of a path, one by one."""
    names = [name.encode() for name in path]
    denied = any(Globs(deny).follow(names[:end]).reach is Reach.HERE for end in range(1, len(names) + 1))
    allowed = not allow or Globs(allow).follow(names).reach >= (Reach.BELOW if directory else Reach.HERE)
    return allowed and not denied and (len(path) == 1 or can_see(path[:-1], True, deny, allow))


def mark(tree: Tree, deny: list[str], allow: list[str], above: tuple[str, ...] = ()) -> Tree:
    """The same tree, with a secret in each file that must not be seen."""
    marked: dict[str, bytes | Tree] = {}
    for name, content in tree.items():
        here = (*above, name)
        is_directory = isinstance(content, Mapping)
        visible = can_see(here, is_directory, deny, allow)
        marked[name] = (
            mark(content, deny, allow, here) if isinstance(content, Mapping) else b"" if visible else b"secret"
        )
    return marked


async def guest_does(layer: Visible[MemoryNode, None], move: tuple[object, ...]) -> None:
    async def place(names: list[Any]) -> tuple[MemoryNode, bytes]:
        node = layer.root
        for name in names[:-1]:
            node = (await layer.lookup(node, name.encode(), GUEST)).node
        return node, names[-1].encode()

    match move:
        case str(method), [*names], [*to]:
            old, new = await place(names), await place(to)
            if method == "link":
                await layer.link((await layer.lookup(*old, GUEST)).node, *new, GUEST)
            else:
                await layer.rename(*old, *new, RENAME_EXCHANGE if method == "exchange" else 0, GUEST)
        case str(method), [*names]:
            rest = {"mkdir": (0o700,), "create": (0o600, 0)}.get(method, ())
            await getattr(layer, method)(*await place(names), *rest, GUEST)


async def all_a_guest_finds(layer: Visible[MemoryNode, None]) -> dict[tuple[str, ...], bytes | None]:
    """By listing, and by trying every name there might be: both find the same."""
    found: dict[tuple[str, ...], bytes | None] = {}
    todo: list[tuple[tuple[str, ...], MemoryNode]] = [((), layer.root)]
    while todo:
        path, node = todo.pop()
        listed = {entry.name.decode() for entry in await layer.readdir(node, None, 0, GUEST)}
        for name in NAMES:
            entry: Entry[MemoryNode] | None = None
            with suppress(FuseError):
                entry = await layer.lookup(node, name.encode(), GUEST)
            assert (entry is not None) == (name in listed)
            if entry is not None and entry.attributes.is_directory:
                todo.append(((*path, name), entry.node))
            if entry is not None:
                found[*path, name] = None if entry.attributes.is_directory else bytes(entry.node.data)
    return found


@settings(deadline=None, derandomize=True, max_examples=200)
@given(trees, patterns, patterns)
def test_a_guest_finds_what_it_can_see_and_nothing_else(tree: Tree, deny: list[str], allow: list[str]) -> None:
    files = MemoryFileSystem(tree)
    expected = {
        path
        for path, is_directory in ((tuple(path.split("/")), data is None) for path, data in in_tree(files.root).items())
        if can_see(path, is_directory, deny, allow)
    }
    assert asyncio.run(all_a_guest_finds(Visible(files, deny=deny, allow=allow))).keys() == expected


@settings(deadline=None, derandomize=True, max_examples=200)
@given(trees, patterns, patterns, st.lists(moves, max_size=20))
def test_whatever_a_guest_does_secrets_stay_hidden(
    tree: Tree, deny: list[str], allow: list[str], todo: list[tuple[object, ...]]
) -> None:
    files = MemoryFileSystem(mark(tree, deny, allow))
    layer = Visible(files, deny=deny, allow=allow)
    secrets = [path for path, data in in_tree(files.root).items() if data == b"secret"]

    async def run() -> None:
        for move in todo:
            with suppress(FuseError):
                await guest_does(layer, move)
        assert b"secret" not in (await all_a_guest_finds(layer)).values()

    asyncio.run(run())
    left = [path for path, data in in_tree(files.root).items() if data == b"secret"]
    assert len(left) == len(secrets)
    if not allow and all(pattern in ANCHORED for pattern in deny):
        assert sorted(left) == sorted(secrets)


# Timeouts


def seconds(valid: int, nanoseconds: int) -> float:
    return valid + nanoseconds / 1e9


async def test_the_first_pattern_that_matches_says_how_long() -> None:
    files = MemoryFileSystem(TREE)
    async with mounted(Timeouts(files, ("src/sub=2.5", "*.c=60", "etc=0", "src=7"))) as mount:
        client = mount.client

        async def times(path: str) -> set[float]:
            nodes = [ROOT]
            for name in path.split("/"):
                entry = await client.lookup(nodes[-1], name)
                nodes.append(entry.nodeid)
            attr = await client.getattr(nodes[-1])
            changed = await client.setattr(nodes[-1], mode=0o755)
            await client.batch_forget([(node, 1) for node in nodes[1:]])
            return {
                seconds(entry.entry_valid, entry.entry_valid_nsec),
                seconds(entry.attr_valid, entry.attr_valid_nsec),
                seconds(attr.attr_valid, attr.attr_valid_nsec),
                seconds(changed.attr_valid, changed.attr_valid_nsec),
            }

        assert await times("src/sub") == await times("src/sub/b.c") == {2.5}
        assert await times("src/a.c") == {60}
        assert await times("src/.env") == {7}
        assert await times("etc/deep/x") == {0}
        assert await times("note.txt") == {1}


async def test_what_is_made_has_its_seconds_at_once() -> None:
    async with mounted(Timeouts(MemoryFileSystem({"f": b""}), ("new*=9",))) as mount:
        client = mount.client
        file = await client.lookup(ROOT, "f")
        created = await client.create(ROOT, "new", Open.RDWR | Open.CREAT, stat.S_IFREG | 0o600)
        made = [
            created.entry,
            await client.mkdir(ROOT, "new.d", 0o700),
            await client.mknod(ROOT, "new.n", stat.S_IFREG | 0o600),
            await client.symlink(ROOT, "new.s", "f"),
            await client.link(file.nodeid, ROOT, "new.l"),
        ]
        assert [(entry.entry_valid, entry.attr_valid) for entry in made] == [(9, 9)] * 5
        await client.rename(ROOT, "new.d", ROOT, "old.d")
        assert (await client.getattr(made[1].nodeid)).attr_valid == 1
        await client.release(created.entry.nodeid, created.open.fh)
        await client.batch_forget([(entry.nodeid, 1) for entry in [file, *made]])


@pytest.mark.parametrize("text", ["", "a", "a=", "a=x", "a=-1", "a=inf", "a=nan", "=1", "a/=1", "[=1"])
def test_a_bad_timeout_is_one_sentence(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no timeout; write PATTERN=SECONDS|^bad pattern"):
        Timeouts(MemoryFileSystem(), [text])


async def test_timeouts_are_judged_to_a_depth() -> None:
    layer = Timeouts(MemoryFileSystem(), ("deep=5", "near/**=7"))
    names = [b"d"] * (JUDGED - 2) + [b"deep", b"below"]

    async def seconds(names: list[bytes]) -> float | None:
        node, entry = layer.root, None
        for name in names:
            try:
                entry = await layer.lookup(node, name, Context())
            except FuseError:
                entry = await layer.mkdir(node, name, 0o755, Context())
            node = entry.node
        assert entry is not None
        return entry.timeout

    assert await seconds(names) == 5
    assert await seconds([*names, *[b"d"] * 50]) == 5, "all that is in what matches"
    assert await seconds([b"d"] * (JUDGED - 1) + [b"deep"]) == 5
    assert await seconds([b"d"] * JUDGED + [b"deep"]) is None
    assert await seconds([b"near"] + [b"d"] * JUDGED) == 7


async def test_layers_stand_in_front_of_each_other() -> None:
    timeouts = Timeouts(MemoryFileSystem(TREE), ("deep=5",))
    async with mounted(Visible(timeouts, deny=("etc/shadow",))) as mount:
        await mount.rename("etc/deep", "moved")
        assert not await mount.exists("etc/shadow")
        entry = await mount.client.lookup(ROOT, "moved")
        assert (entry.entry_valid, (await mount.client.getattr(entry.nodeid)).attr_valid) == (1, 1)
        await mount.client.forget(entry.nodeid)
    assert len(timeouts.paths) == 0
