"""Who may import whom, proved from the source of every file. The rules are the tables; the rest reads imports.

Nothing is imported. Imports inside functions and under TYPE_CHECKING count like any other.
"""

import ast
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent

STAIRS: list[set[str]] = [
    # From the ground up. A package imports what lies below it, and itself; packages on one step do not know each
    # other. The longest name that fits decides. A package's __init__ may gather what lies under it.
    {"hdvkit.errors"},
    {"hdvkit.memory", "hdvkit.pci", "hdvkit.observe"},
    {"hdvkit.apertures", "hdvkit.virtio"},
    {"hdvkit.native"},
    {"hdvkit.runtime"},
    {"hdvkit.hookspecs"},  # names types of the runtime, imports nothing when it runs
    {"hdvkit.hosts", "hdvkit.testing"},
    {"hdvkit"},  # the face, cli, plugins, options
]
ABOVE = {
    # These work on whole hosts, by kind, so they stand on the face.
    "hdvkit.testing.kit",
    "hdvkit.testing.backend_checks",
    "hdvkit.testing.device_checks",
    "hdvkit.testing.echo",
    "hdvkit.testing.pytest_plugin",
}

NOT_FOR = {
    # A backend moves registers, memory and messages; which device or ring they belong to is none of its business.
    "hdvkit.hosts": {"hdvkit.virtio"},
    "hdvkit.testing": {"hdvkit.virtio"},
}

FACES = {"hdvkit", "hdvkit.errors", "hdvkit.native", "hdvkit.pci", "hdvkit.testing", "hdvkit.virtio"}
STRANGERS = {
    # What is not ours uses the faces, as anybody could who installed hdvkit.
    "devices": FACES,
    "plugins": FACES | {"hdvkit.memory", "hdvkit.runtime"},
    "examples": FACES | {"hdvkit.memory", "hdvkit.runtime", "hdvkit_virtiofs"},
}

# The guest half is the independent peer of the device half: it imports itself and hdvkit.errors.
PEERS = [f"hdvkit.testing.{name}" for name in ("driver*", "fuse_*", "machine", "mount_*")]

CODECS = ["*.fuse", "*.fuse.*", "*.protocol", "*.protocol.*"]  # below devices and plugins: bytes in, objects out

SANS_IO = ["hdvkit.errors", "hdvkit.memory", "hdvkit.apertures", "hdvkit.pci", "hdvkit.virtio"]
HARMLESS = {
    # No event loop, no threads, no sockets, no clock, no operating system.
    *("__future__", "abc", "array", "binascii", "bisect", "collections", "contextlib", "dataclasses", "enum", "errno"),
    *("functools", "heapq", "itertools", "math", "operator", "re", "stat", "string", "struct", "types", "typing"),
    *("warnings", "weakref", "attrs", "json"),
}
EXCEPTIONS = {
    # (module, import): the only names it may use of it.
    ("hdvkit.memory", "threading"): {"Lock"},  # its lock instruction is the memory barrier
}

BINDINGS = "hdvkit.hosts.hdv.abi"
OPAQUE = {"Pointer"}

NOBODY = {"devices", "plugins", "tests"}  # folders, not packages


class Source(NamedTuple):
    """One file: the folder it ships from, its dotted name, its syntax tree."""

    folder: str
    name: str
    is_package: bool
    tree: ast.Module


def sources(root: Path) -> dict[str, Source]:
    """Every Python file of the project by its dotted name."""
    found = {}
    for folder in ("hdvkit", "devices", "plugins", "examples", "tests"):
        base = root if folder in {"hdvkit", "tests"} else root / folder
        for path in sorted((root / folder).rglob("*.py")):
            parts = path.relative_to(base).with_suffix("").parts
            is_package = parts[-1] == "__init__"
            name = ".".join(parts[:-1] if is_package else parts)
            tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
            found[name] = Source(folder, name, is_package, tree)
    return found


def imports(source: Source, modules: dict[str, Source]) -> Iterator[str]:
    """The modules a file imports; ``from package import name`` is the submodule where there is one."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = source.name if source.is_package else source.name.rpartition(".")[0]
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield inner if inner in modules else base


def within(name: str, package: str) -> bool:
    """Whether ``name`` is ``package`` or lies in it."""
    return name == package or name.startswith(package + ".")


def room(name: str) -> tuple[int, str]:
    """The step a module of hdvkit stands on, and the package it belongs to there."""
    if any(within(name, module) for module in ABOVE):
        return len(STAIRS) - 1, "hdvkit"
    places = [(height, place) for height, step in enumerate(STAIRS) for place in step if within(name, place)]
    return max(places, key=lambda found: len(found[1]))


def used_names(tree: ast.Module, module: str) -> set[str]:
    """The attributes a file takes from a module it imports; the module itself when it is passed on whole."""
    taken = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == module
        for alias in node.names
    }
    attributes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    reached = {id(node.value): node.attr for node in attributes}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id == module:
            taken.add(reached.get(id(node), module))
        if isinstance(node, ast.Import):
            taken |= {f"{module} as {alias.asname}" for alias in node.names if alias.name == module and alias.asname}
    return taken


def climbs(source: Source, target: str) -> str | None:
    """Rule of the stairs, for files of hdvkit."""
    if source.folder != "hdvkit" or not within(target, "hdvkit"):
        return None
    if source.is_package and within(target, source.name):
        return None
    (here, place), (there, other) = room(source.name), room(target)
    if there > here or (there == here and place != other):
        return f"{other} does not lie below {place}"
    if any(within(target, secret) for secret in NOT_FOR.get(place, ())):
        return f"{place} must not know {other}"
    return None


def bypasses_the_faces(source: Source, target: str) -> str | None:
    """Rule of devices, plugins and examples: the faces, and their own package."""
    if source.folder not in STRANGERS:
        return None
    own = source.name.replace("-", "_").split(".")  # examples/hdvkit-rng holds the package hdvkit_rng
    ours = within(target, "hdvkit") or target.startswith("hdvkit_")
    if not ours or target.partition(".")[0] in own or target in STRANGERS[source.folder]:
        return None
    return "it is no face"


def knows_the_device_half(source: Source, target: str) -> str | None:
    """Rule of the independent peer."""
    if not any(fnmatch(source.name, peer) for peer in PEERS) or not within(target, "hdvkit"):
        return None
    if target == "hdvkit.errors" or any(fnmatch(target, peer) for peer in PEERS):
        return None
    return "the guest half shares no code with what it tests"


def needs_more_than_bytes(source: Source, target: str) -> str | None:
    """Rule of the codecs: they import themselves only."""
    if source.folder not in {"devices", "plugins"} or not is_codec(source):
        return None
    own = ".".join(source.name.split(".")[:2])
    if within(target, own) or not (within(target, own.partition(".")[0]) or target.startswith("hdvkit")):
        return None
    return "a codec imports nothing outside its folder"


def does_io(source: Source, target: str) -> str | None:
    """Rule of the packages that never wait: a list of harmless modules, and two exceptions."""
    if not (any(within(source.name, package) for package in SANS_IO) or is_codec(source)):
        return None
    top = target.partition(".")[0]
    if top in HARMLESS or top.startswith("hdvkit"):
        return None
    allowed = EXCEPTIONS.get((source.name, target), set())
    if allowed and used_names(source.tree, target) <= allowed:
        return None
    return f"it does no I/O and may use {', '.join(allowed)} of it only" if allowed else "it does no I/O"


def is_codec(source: Source) -> bool:
    """Whether a file belongs to the codec of a device or plugin."""
    return source.folder in {"devices", "plugins"} and any(fnmatch(source.name, pattern) for pattern in CODECS)


def sees_pointers(source: Source, target: str) -> str | None:
    """Rule of the bindings: what C has by its address is passed on, and never looked into."""
    if within(source.name, BINDINGS) or not within(source.name, "hdvkit.hosts"):
        return None
    if target == "cffi":
        return "only the bindings see what is behind a pointer"
    if target == f"{BINDINGS}.binding" and used_names(source.tree, target) - OPAQUE:
        return f"only the bindings see what is behind a pointer; {', '.join(OPAQUE)} may be used"
    return None


def names_a_folder(source: Source, target: str) -> str | None:
    """Rule for everybody."""
    return "that is a folder, not a package" if target.partition(".")[0] in NOBODY else None


RULES = [
    climbs,
    bypasses_the_faces,
    knows_the_device_half,
    needs_more_than_bytes,
    does_io,
    sees_pointers,
    names_a_folder,
]


def violations(root: Path) -> list[str]:
    """Every import that breaks a rule, as ``importer -> imported: why``."""
    modules = sources(root)
    return sorted(
        {
            f"{source.name} -> {target}: {why}"
            for source in modules.values()
            for target in imports(source, modules)
            for rule in RULES
            if (why := rule(source, target))
        }
    )


def test_nobody_climbs_the_stairs() -> None:
    assert violations(ROOT) == []


def test_the_rules_are_about_files_that_exist() -> None:
    modules = sources(ROOT)
    for package in SANS_IO:
        assert package in modules
    for pattern in PEERS:
        assert any(fnmatch(name, pattern) for name in modules), f"nothing is called {pattern}"
    for module, _ in EXCEPTIONS:
        assert module in modules
    assert any(is_codec(source) for source in modules.values())


@pytest.mark.parametrize(
    ("path", "source", "expected"),
    [
        ("hdvkit/errors.py", "import hdvkit.memory", "hdvkit.memory does not lie below hdvkit.errors"),
        ("hdvkit/pci/config.py", "from hdvkit.memory import Lease", "hdvkit.memory does not lie below hdvkit.pci"),
        ("hdvkit/virtio/ring.py", "from ..runtime import queue", "hdvkit.runtime does not lie below hdvkit.virtio"),
        ("hdvkit/virtio/ring.py", "from .. import runtime", "hdvkit.runtime does not lie below hdvkit.virtio"),
        ("hdvkit/runtime/host.py", "def f():\n import hdvkit.plugins", "hdvkit does not lie below hdvkit.runtime"),
        ("hdvkit/runtime/host.py", "from hdvkit import open_host", "hdvkit does not lie below hdvkit.runtime"),
        ("hdvkit/hosts/hdv/api.py", "import hdvkit.testing", "hdvkit.testing does not lie below hdvkit.hosts"),
        ("hdvkit/hosts/hdv/api.py", "import hdvkit.virtio.spec", "hdvkit.hosts must not know hdvkit.virtio"),
        ("hdvkit/hosts/hdv/slot.py", "import cffi", "only the bindings see"),
        ("hdvkit/hosts/hdv/slot.py", "from hdvkit.hosts.hdv.abi.binding import ffi", "only the bindings see"),
        ("hdvkit/testing/backend.py", "import hdvkit.virtio", "hdvkit.testing must not know hdvkit.virtio"),
        ("hdvkit/testing/driver.py", "import hdvkit.memory", "the guest half shares no code"),
        ("hdvkit/testing/fuse_client.py", "import hdvkit.testing.backend", "the guest half shares no code"),
        ("hdvkit/virtio/ring.py", "import asyncio", "it does no I/O"),
        ("hdvkit/virtio/ring.py", "import os.path", "it does no I/O"),
        ("hdvkit/memory.py", "from threading import Thread", "may use Lock of it only"),
        ("hdvkit/memory.py", "import threading as t", "may use Lock of it only"),
        ("hdvkit/memory.py", "import threading\nf(threading)", "may use Lock of it only"),
        ("devices/hdvkit_virtiofs/fuse/spec.py", "import time", "it does no I/O"),
        ("devices/hdvkit_virtiofs/fuse/spec.py", "from hdvkit.errors import GuestError", "outside its folder"),
        ("devices/hdvkit_virtiofs/fuse/spec.py", "from hdvkit_virtiofs import policy", "outside its folder"),
        ("plugins/hdvkit_x/protocol/__init__.py", "from .. import backend", "outside its folder"),
        ("devices/hdvkit_virtiofs/device.py", "from hdvkit.virtio.ring import Ring", "it is no face"),
        ("devices/hdvkit_virtiofs/device.py", "import hdvkit.runtime", "it is no face"),
        ("devices/hdvkit_virtiofs/device.py", "import hdvkit_vfio_user", "it is no face"),
        ("plugins/hdvkit_x/backend.py", "from hdvkit.runtime import backend", "it is no face"),
        ("examples/share.py", "import hdvkit.plugins", "it is no face"),
        ("examples/share.py", "import devices.hdvkit_virtiofs", "that is a folder"),
        ("tests/test_x.py", "from tests import helpers", "that is a folder"),
        ("tests/test_x.py", "import plugins", "that is a folder"),
    ],
)
def test_the_checker_sees(tmp_path: Path, path: str, source: str, expected: str) -> None:
    for module in ("virtio/ring", "runtime/queue", "runtime/backend", "plugins"):
        write(tmp_path, f"hdvkit/{module}.py", "")
    write(tmp_path, "hdvkit/hosts/hdv/abi/binding.py", "")
    for package in ("hdvkit", "hdvkit/virtio", "hdvkit/runtime"):
        write(tmp_path, f"{package}/__init__.py", "")
    write(tmp_path, path, source)
    found = violations(tmp_path)
    assert found
    assert any(expected in violation for violation in found), found


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("hdvkit/pci/__init__.py", "from hdvkit.pci.config import Bar"),
        ("hdvkit/testing/__init__.py", "from hdvkit.testing.kit import check_device"),
        ("hdvkit/testing/kit.py", "from hdvkit import open_host"),
        ("hdvkit/testing/driver.py", "import asyncio\nfrom hdvkit.testing.machine import Machine"),
        ("hdvkit/runtime/host.py", "import asyncio, threading\nfrom hdvkit.virtio import Chain"),
        ("hdvkit/memory.py", "import threading\nlock = threading.Lock()"),
        ("hdvkit/hosts/hdv/doorbells.py", "from hdvkit.hosts.hdv.abi.binding import Pointer"),
        ("hdvkit/hosts/hdv/abi/proxy.py", "import cffi\nfrom hdvkit.hosts.hdv.abi.binding import ffi"),
        ("hdvkit/cli.py", "import hdvkit.plugins, hdvkit.hosts.hdv.api"),
        ("devices/hdvkit_virtiofs/device.py", "import os, hdvkit\nfrom hdvkit.virtio import Chain"),
        ("plugins/hdvkit_x/backend.py", "from hdvkit.runtime import Backend"),
        ("examples/hdvkit-rng/tests/test_rng.py", "from hdvkit_rng import Rng"),
        ("tests/test_x.py", "from hdvkit.virtio.ring import Ring"),
    ],
)
def test_the_checker_lets_pass(tmp_path: Path, path: str, source: str) -> None:
    write(tmp_path, path, source)
    assert violations(tmp_path) == []


def write(root: Path, path: str, source: str) -> None:
    """Put one file into a tree."""
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(source)
