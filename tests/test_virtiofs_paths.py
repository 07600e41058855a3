"""Where nodes are as the guest found them, and patterns for such places: both against a naive model."""
# ruff: noqa: D102 - what the methods of a file system do is said in its base

import asyncio
import gc
import stat
import weakref
from collections.abc import Iterator
from contextlib import suppress

import pytest
from hdvkit_virtiofs import Attributes, Context, Entry, FuseError, MemoryFileSystem, Opened, Operations
from hdvkit_virtiofs.memory import Tree
from hdvkit_virtiofs.memory_tree import MemoryNode
from hdvkit_virtiofs.policy import paths as paths_module
from hdvkit_virtiofs.policy.globs import Globs, Reach
from hdvkit_virtiofs.policy.paths import ByPath, Paths
from hypothesis import given, settings
from hypothesis import strategies as st

import hdvkit
from hdvkit.testing import Guest

GUEST = Context()
EXCHANGE = 2
TREE: Tree = {"a": {"b": {"c": b"", "d": {}}, "e": b""}, "f": {}, "g": b""}


@pytest.fixture
def paths() -> Paths[MemoryNode, None]:
    return Paths(MemoryFileSystem(TREE))


async def find(paths: Operations[MemoryNode, None], path: str) -> MemoryNode:
    node = paths.root
    for name in path.split("/"):
        node = (await paths.lookup(node, name.encode(), GUEST)).node
    return node


# Paths


async def test_the_root_is_the_empty_path(paths: Paths[MemoryNode, None]) -> None:
    assert paths.path(paths.root) == b""
    assert paths.path(paths.root, b"x") == b"x"


async def test_a_node_is_where_it_was_found_or_made(paths: Paths[MemoryNode, None]) -> None:
    directory = await find(paths, "a/b")
    assert paths.path(directory) == b"a/b"
    assert paths.path(directory, b"new") == b"a/b/new"
    file, _ = await paths.create(directory, b"file", 0o600, 0, GUEST)
    made = [
        file,
        await paths.mknod(directory, b"node", stat.S_IFIFO, 0, GUEST),
        await paths.mkdir(directory, b"directory", 0o700, GUEST),
        await paths.symlink(directory, b"link", b"target", GUEST),
    ]
    assert [paths.path(entry.node) for entry in made] == [b"a/b/file", b"a/b/node", b"a/b/directory", b"a/b/link"]
    await paths.link(file.node, paths.root, b"other", GUEST)
    assert paths.path(file.node) == b"other"


async def test_what_lies_in_a_directory_moves_along(paths: Paths[MemoryNode, None]) -> None:
    file, above = await find(paths, "a/b/c"), await find(paths, "a")
    await paths.rename(above, b"b", await find(paths, "f"), b"x", 0, GUEST)
    assert paths.path(file) == b"f/x/c"


async def test_two_names_change_places(paths: Paths[MemoryNode, None]) -> None:
    file, other = await find(paths, "a/b/c"), await find(paths, "g")
    await paths.rename(await find(paths, "a"), b"b", paths.root, b"g", EXCHANGE, GUEST)
    assert (paths.path(file), paths.path(other)) == (b"g/c", b"a/b")


@pytest.mark.parametrize(("name", "remove"), [("g", "unlink"), ("f", "rmdir")])
async def test_what_takes_a_name_is_another_node(paths: Paths[MemoryNode, None], name: str, remove: str) -> None:
    old = await find(paths, name)
    await getattr(paths, remove)(paths.root, name.encode(), GUEST)
    await paths.inner.mkdir(paths.root, name.encode(), 0o700, GUEST)  # the host makes it, so the guest does not know it
    await paths.rename(paths.root, name.encode(), paths.root, b"h", 0, GUEST)
    assert paths.path(old) == name.encode()
    assert paths.path(await find(paths, "h")) == b"h"


async def test_a_refused_rename_moves_nothing(paths: Paths[MemoryNode, None]) -> None:
    file = await find(paths, "a/b/c")
    with pytest.raises(FuseError):
        await paths.rename(paths.root, b"a", await find(paths, "a/b"), b"x", 0, GUEST)
    assert paths.path(file) == b"a/b/c"


async def test_a_forgotten_directory_still_leads_to_what_is_known(paths: Paths[MemoryNode, None]) -> None:
    file, above = await find(paths, "a/b/c"), await find(paths, "a")
    paths.forget(await find(paths, "a/b"))
    paths.forget(above)
    await paths.rename(paths.root, b"a", paths.root, b"z", 0, GUEST)
    assert paths.path(file) == b"z/b/c"
    paths.forget(file)
    assert len(paths) == 0
    with pytest.raises(FuseError, match="ESTALE"):
        paths.path(file)


async def test_a_file_without_a_name_is_in_its_directory() -> None:
    class Nameless(MemoryFileSystem):
        async def tmpfile(
            self, parent: MemoryNode, mode: int, flags: int, context: Context
        ) -> tuple[Entry[MemoryNode], Opened[None]]:
            node = MemoryNode(99, stat.S_IFREG)
            return Entry(node, node.attributes()), Opened(None)

    paths = Paths(Nameless(TREE))
    directory = await find(paths, "a")
    entry, _ = await paths.tmpfile(directory, 0o600, 2, GUEST)
    assert paths.path(entry.node) == b"a"
    paths.forget(entry.node)
    paths.forget(directory)
    assert len(paths) == 0


async def test_what_lies_too_deep_is_too_long(paths: Paths[MemoryNode, None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths_module, "MAX_DEPTH", 3)
    deep = await find(paths, "a/b/d")
    assert paths.path(await find(paths, "a/b/c")) == b"a/b/c"
    with pytest.raises(FuseError, match="ENAMETOOLONG"):
        await paths.lookup(deep, b"x", GUEST)
    await paths.rename(paths.root, b"a", await find(paths, "f"), b"a", 0, GUEST)
    with pytest.raises(FuseError, match="ENAMETOOLONG"):
        paths.path(deep)


async def test_thousands_of_levels_need_no_stack(paths: Paths[MemoryNode, None]) -> None:
    node, chain = paths.root, []
    for _ in range(paths_module.MAX_DEPTH):
        node = (await paths.mkdir(node, b"d", 0o700, GUEST)).node
        chain.append(node)
    assert paths.path(node).count(b"d") == paths_module.MAX_DEPTH
    with pytest.raises(FuseError, match="ENAMETOOLONG"):
        await paths.mkdir(node, b"d", 0o700, GUEST)
    for known in chain:
        paths.forget(known)
    assert len(paths) == 0


async def test_places_are_bounded(paths: Paths[MemoryNode, None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths_module, "MAX_PLACES", 2)
    await find(paths, "a/b")
    with pytest.raises(FuseError, match="ENFILE"):
        await find(paths, "g")
    assert not paths.root.names[b"g"].node.referenced


class Moving(Operations[str, None]):
    """Two directories the host can move into one another. Looking up waits when asked to."""

    root = "/"

    def __init__(self) -> None:
        self.found = {("/", b"a"): "A", ("A", b"b"): "B"}
        self.go = asyncio.Event()
        self.go.set()
        self.waiting = asyncio.Event()

    async def lookup(self, parent: str, name: bytes, context: Context) -> Entry[str]:
        self.waiting.set()
        await self.go.wait()
        return Entry(self.found[parent, name], Attributes(1, stat.S_IFDIR))


async def test_directories_that_the_host_turns_inside_out_do_not_lie_in_each_other() -> None:
    moving = Moving()
    paths = Paths(moving)
    await paths.lookup("/", b"a", GUEST)
    await paths.lookup("A", b"b", GUEST)
    moving.found = {("/", b"b"): "B", ("B", b"a"): "A"}
    await paths.lookup("B", b"a", GUEST)
    assert paths.path("B") == b"a/b"
    await paths.lookup("/", b"b", GUEST)
    await paths.lookup("B", b"a", GUEST)
    assert (paths.path("B"), paths.path("A")) == (b"b", b"b/a")
    paths.forget("A")
    paths.forget("B")
    assert len(paths) == 0


async def test_a_directory_stays_while_a_lookup_in_it_waits() -> None:
    moving = Moving()
    paths = Paths(moving)
    await paths.lookup("/", b"a", GUEST)
    moving.go.clear()
    moving.waiting.clear()
    pending = asyncio.create_task(paths.lookup("A", b"b", GUEST))
    await moving.waiting.wait()
    paths.forget("A")
    moving.go.set()
    await pending
    assert paths.path("B") == b"a/b"
    paths.forget("B")
    assert len(paths) == 0


async def test_a_cancelled_lookup_leaves_nothing() -> None:
    moving = Moving()
    paths = Paths(moving)
    moving.go.clear()
    pending = asyncio.create_task(paths.lookup("/", b"a", GUEST))
    await moving.waiting.wait()
    pending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pending
    assert len(paths) == 0


def test_layers_in_front_of_one_file_system_share_what_they_know() -> None:
    one = ByPath(MemoryFileSystem())
    two = ByPath(one)
    assert two.paths is one.paths
    assert two.inner is one
    assert one.inner is one.paths


async def test_a_guest_that_unmounts_leaves_nothing() -> None:
    layer = ByPath(MemoryFileSystem(TREE))
    async with hdvkit.open_host("sim") as host:
        share = await host.add("virtiofs", source=layer, tag="t")
        async with Guest.of(host).mount(share) as mount:
            async for _ in mount.walk():
                pass
            await mount.rename("a/b", "f/x")
            assert layer.paths.path(layer.root.names[b"f"].node.names[b"x"].node.names[b"c"].node) == b"f/x/c"
        assert len(layer.paths) == 0


names = st.sampled_from([b"a", b"b", b"c"])
nodes = st.integers(0, 9)
steps = st.one_of(
    st.tuples(st.sampled_from(["lookup", "mkdir", "create", "unlink", "rmdir"]), nodes, names),
    st.tuples(st.just("rename"), nodes, names, nodes, names, st.sampled_from([0, 0, 1, EXCHANGE])),
    st.tuples(st.just("forget"), nodes),
)


def true_paths(root: MemoryNode) -> Iterator[tuple[MemoryNode, bytes]]:
    todo = [(root, b"")]
    while todo:
        node, path = todo.pop()
        yield node, path
        todo += [(child, (path + b"/" + name).lstrip(b"/")) for name, (child, _) in node.names.items()]


async def do(paths: Paths[MemoryNode, None], known: list[MemoryNode], step: tuple[object, ...]) -> None:
    match step:
        case "forget", int(index):
            if index % len(known):
                paths.forget(known.pop(index % len(known)))
        case "rename", int(old), bytes(name), int(new), bytes(new_name), int(flags):
            await paths.rename(known[old % len(known)], name, known[new % len(known)], new_name, flags, GUEST)
        case str(method), int(index), bytes(name):
            rest = {"mkdir": (0o700,), "create": (0o600, 0)}.get(method, ())
            made = await getattr(paths, method)(known[index % len(known)], name, *rest, GUEST)
            if made is not None:
                entry = made[0] if method == "create" else made
                if entry.node not in known:
                    known.append(entry.node)


def check(paths: Paths[MemoryNode, None], known: list[MemoryNode]) -> None:
    where = {id(node): path for node, path in true_paths(paths.root)}
    for node in known:
        if id(node) in where:
            assert paths.path(node) == where[id(node)]


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.lists(steps, max_size=60))
def test_whatever_a_guest_does_its_nodes_are_where_they_are(todo: list[tuple[object, ...]]) -> None:
    async def run() -> None:
        paths = Paths(MemoryFileSystem({"a": {"b": {"c": {}}}, "b": {"a": b""}}))
        known = [paths.root]
        for step in todo:
            with suppress(FuseError):
                await do(paths, known, step)
            check(paths, known)
        left = [weakref.ref(node) for node in known if node is not paths.root and not node.links]
        while len(known) > 1:
            paths.forget(known.pop())
        assert len(paths) == 0
        gc.collect()
        assert [ref for ref in left if ref() is not None] == []

    asyncio.run(run())


# Patterns


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("x", ["x", "a/x", "a/b/x", "x/y"], ["xx", "a"]),
        (".*", [".ssh", "a/.env"], ["a.b"]),
        ("*.txt", ["a.txt", ".txt", "d/a.txt"], ["a.txt~", "a.tx"]),
        ("*x", ["ax", "\nx"], ["ax\n"]),
        ("/a*x", ["ax", "a\nx"], ["ax\n"]),
        ("a?c", ["abc", "a*c"], ["ac", "abbc", "aéc"]),
        ("[a-c]x", ["ax", "cx"], ["dx", "x"]),
        ("[!a-c]x", ["dx", "^x"], ["ax", "x"]),
        ("[^a]", ["b"], ["a"]),
        ("[]]", ["]"], ["["]),
        ("[[]", ["["], ["]"]),
        ("[a-]", ["a", "-"], ["b"]),
        ("[*][?]", ["*?"], ["ab"]),
        ("*[*]*", ["a*b", "*"], ["ab"]),
        ("a\\b", ["a\\b"], ["ab"]),
        ("ü*", ["über"], ["u"]),
        ("/x", ["x", "x/y"], ["a/x"]),
        ("a/x", ["a/x", "a/x/y"], ["a", "b/a/x", "a/y"]),
        ("a/*/x", ["a/b/x"], ["a/x", "a/b/c/x"]),
        ("a/**/x", ["a/x", "a/b/x", "a/b/c/x"], ["a", "x"]),
        ("a/**", ["a/x", "a/x/y"], ["a", "b"]),
        ("**/a/x", ["a/x", "b/a/x", "c/b/a/x"], ["a", "x"]),
        ("**/x", ["x", "a/x"], ["a"]),
        ("**", ["x", "a/x"], []),
        ("**/**", ["x", "a/x"], []),
        ("*", ["x", "a/x"], []),
        ("/*", ["x", "a/x"], []),
        ("x", [b"x".decode() + "/" + "n\nl"], ["x\n"]),
    ],
)
def test_a_pattern_matches(pattern: str, matching: list[str], others: list[str]) -> None:
    globs = Globs([pattern])
    assert [path for path in matching if reach(globs, path) is not Reach.HERE] == []
    assert [path for path in others if reach(globs, path) is Reach.HERE] == []


@pytest.mark.parametrize(
    ("patterns", "path", "expected"),
    [
        ([], "a", Reach.NOWHERE),
        (["a/b"], "a", Reach.BELOW),
        (["a/b"], "b", Reach.NOWHERE),
        (["a/b"], "a/c", Reach.NOWHERE),
        (["a/b"], "a/b", Reach.HERE),
        (["a/*/c"], "a/x", Reach.BELOW),
        (["**/a/b"], "x/y", Reach.BELOW),
        (["x"], "a", Reach.BELOW),
        (["a/b", "a"], "a", Reach.HERE),
    ],
)
def test_how_far_patterns_reach(patterns: list[str], path: str, expected: Reach) -> None:
    assert reach(Globs(patterns), path) is expected


def test_only_patterns_with_a_slash_are_pending() -> None:
    assert not Globs(["a", "**/b", "*.c"]).follow([b"x"]).pending
    assert not Globs(["a/b"]).follow([b"x"]).pending
    assert Globs(["a/b"]).follow([b"a"]).pending
    assert Globs(["**/a/b"]).follow([b"x"]).pending


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("", "names nothing"),
        ("/", "names nothing"),
        ("//", "names nothing"),
        ("a/", "leave out the slash at its end"),
        ("a//b", "has the component ''"),
        ("//a", "has the component ''"),
        (".", "has the component '.'"),
        ("a/../b", "has the component '..'"),
        ("a\0b", "NUL"),
        ("a**", "stands between slashes"),
        ("x/**b/c", "stands between slashes"),
        ("***", "stands between slashes"),
        ("[", "is not closed"),
        ("a[]", "is not closed"),
        ("[!]", "is not closed"),
        ("[a/b]", "is not closed"),
        ("[z-a]", "the range z-a runs backwards"),
        ("[ä]", "only ASCII"),
    ],
)
def test_a_bad_pattern_is_one_sentence(pattern: str, why: str) -> None:
    with pytest.raises(ValueError, match=r"^bad pattern ") as caught:
        Globs(["fine", pattern])
    assert repr(pattern) in str(caught.value)
    assert why in str(caught.value)


def test_hostile_names_end() -> None:
    stars = Globs(["*a" * 60 + "*b", "x/" + "*a" * 60 + "*b", "*[!b]*?" * 30 + "c"])
    assert stars.follow([b"a" * 255]).reach is Reach.BELOW
    assert stars.follow([b"x", b"a" * 255]).reach is Reach.BELOW
    assert stars.follow([b"x", b"a" * 254 + b"b"]).reach is Reach.HERE


def test_hostile_paths_end() -> None:
    deep = Globs(["**/a/" * 60 + "**/b"])
    assert deep.follow([b"a"] * 4096).reach is Reach.BELOW
    assert deep.follow([*[b"a"] * 4095, b"b"]).reach is Reach.HERE


def reach(globs: Globs, path: str) -> Reach:
    return globs.follow(path.encode().split(b"/")).reach


def matches_name(pattern: str, name: str) -> bool:
    """The naive way: try everything."""
    if not pattern:
        return not name
    if pattern[0] == "*":
        return any(matches_name(pattern[1:], name[at:]) for at in range(len(name) + 1))
    if not name:
        return False
    if pattern[0] == "[":
        inside, rest = pattern[1:].split("]", 1)
        low, high = inside.lstrip("!")[0], inside[-1]
        return (low <= name[0] <= high) != inside.startswith("!") and matches_name(rest, name[1:])
    return pattern[0] in ("?", name[0]) and matches_name(pattern[1:], name[1:])


def matches_parts(parts: list[str], path: list[str]) -> bool:
    if not parts:
        return not path
    if parts[0] == "**":
        least = 1 if len(parts) == 1 else 0
        return any(matches_parts(parts[1:], path[at:]) for at in range(least, len(path) + 1))
    return bool(path) and matches_name(parts[0], path[0]) and matches_parts(parts[1:], path[1:])


def matches(pattern: str, path: list[str]) -> bool:
    """Whether a pattern matches a path itself, not what it lies in."""
    anchored = pattern.removeprefix("/").split("/")
    return matches_parts(anchored if "/" in pattern else ["**", pattern], path)


token = st.sampled_from(["a", "b", "*", "?", "[a-b]", "[!a]", "[b]"])
component = st.lists(token, min_size=1, max_size=5).map("".join).filter(lambda text: "**" not in text)
pattern = st.builds(
    str.__add__,
    st.sampled_from(["", "", "/"]),
    st.lists(component | st.just("**"), min_size=1, max_size=4).map("/".join),
)
path = st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=5)


@settings(deadline=None, derandomize=True, max_examples=300)
@given(st.lists(pattern, max_size=4), path)
def test_patterns_match_as_the_naive_ones_do(patterns: list[str], path: list[str]) -> None:
    here = any(matches(one, path[:end]) for one in patterns for end in range(1, len(path) + 1))
    assert (reach(Globs(patterns), "/".join(path)) is Reach.HERE) == here


@settings(deadline=None, derandomize=True, max_examples=300)
@given(st.lists(pattern, max_size=4), path, st.integers(0, 4))
def test_what_matches_something_below_says_so_above(patterns: list[str], path: list[str], cut: int) -> None:
    above = Globs(patterns).follow([name.encode() for name in path[:cut]])
    if any(matches(one, path) for one in patterns) and cut < len(path):
        assert above.reach is not Reach.NOWHERE
