"""The public faces: every name resolves, is explained, and has one home."""

import ast
import importlib
import inspect
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
FACES = ("hdvkit", "hdvkit.pci", "hdvkit.runtime", "hdvkit.testing", "hdvkit.virtio", "hdvkit_virtiofs")
PACKAGES = (ROOT / "hdvkit", ROOT / "devices" / "hdvkit_virtiofs")

# The face ``hdvkit`` is the selection that most authors need; these are at home in the face below.
SELECTION = {
    *("hdvkit.runtime.backend.Removal", "hdvkit.runtime.device.VirtioDevice", "hdvkit.runtime.function.Function"),
    *("hdvkit.runtime.host.DeviceHost", "hdvkit.runtime.queue.Queue", "hdvkit.runtime.stats.FunctionStats"),
    *("hdvkit.runtime.stats.QueueStats", "hdvkit.runtime.stats.State", "hdvkit.virtio.chain.Chain"),
    *("hdvkit.runtime.backend.Finding", "hdvkit.virtio.spec.DeviceType"),
}
# Listed for the modules beside them, not for anybody outside.
SHARED_INSIDE = {"hdvkit.testing.driver_rings.fence", "hdvkit.testing.driver_rings.need_event"}


@pytest.mark.parametrize("name", FACES)
def test_a_face_says_what_it_offers(name: str) -> None:
    assert complaints(importlib.import_module(name)) == []


def test_every_name_has_one_home() -> None:
    faces = [importlib.import_module(name) for name in FACES]
    assert homes(faces, public_names(PACKAGES)) == []


def test_the_lists_of_exceptions_are_true() -> None:
    assert [
        name for name in SELECTION if name.rpartition(".")[2] not in importlib.import_module("hdvkit").__all__
    ] == []
    assert {f"{module}.{name}" for module, name in public_names(PACKAGES)} >= SHARED_INSIDE


def complaints(face: ModuleType) -> list[str]:
    """What is wrong with one face."""
    names: list[str] | None = getattr(face, "__all__", None)
    if names is None:
        return [f"{face.__name__} has no __all__"]
    wrong = []
    if len((face.__doc__ or "").strip(" .")) < 10:
        wrong.append(f"{face.__name__} has no docstring")
    if names != sorted(set(names), key=reading_order):
        wrong.append(f"{face.__name__}.__all__ is not sorted, or says something twice")
    for name in names:
        if not hasattr(face, name):
            wrong.append(f"{face.__name__}.{name} does not exist")
        elif is_definition(getattr(face, name)) and not vars_doc(getattr(face, name)):
            wrong.append(f"{face.__name__}.{name} has no docstring")
    return wrong


def homes(faces: Iterable[ModuleType], declared: Iterable[tuple[str, str]]) -> list[str]:
    """Names that two faces offer, and names that a module declares public but no face offers."""
    offered: dict[tuple[str, str], list[str]] = {}
    for face in faces:
        for name in getattr(face, "__all__", ()):
            thing = getattr(face, name, None)
            if inspect.isclass(thing) or inspect.isroutine(thing):
                offered.setdefault((thing.__module__, thing.__name__), []).append(face.__name__)
    wrong = [
        f"{module}.{name} is offered by {' and '.join(by)}"
        for (module, name), by in offered.items()
        if len(by) > 1 and not (len(by) == 2 and f"{module}.{name}" in SELECTION)
    ]
    wrong += [
        f"{module}.{name} is in the __all__ of its module, and no face offers it"
        for module, name in declared
        if (module, name) not in offered and f"{module}.{name}" not in SHARED_INSIDE
    ]
    return sorted(wrong)


def public_names(packages: Iterable[Path]) -> Iterator[tuple[str, str]]:
    """Classes and functions that a module defines and lists in its own ``__all__``."""
    for package in packages:
        for path in sorted(package.rglob("*.py")):
            body = ast.parse(path.read_text(encoding="utf-8")).body
            listed = {name for node in body for name in listed_in(node)}
            module = ".".join(path.relative_to(package.parent).with_suffix("").parts).removesuffix(".__init__")
            for node in body:
                if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.name in listed:
                    yield module, node.name


def listed_in(node: ast.stmt) -> list[str]:
    """The names when ``node`` assigns ``__all__``."""
    if isinstance(node, ast.Assign) and any(isinstance(one, ast.Name) and one.id == "__all__" for one in node.targets):
        return list(ast.literal_eval(node.value))
    return []


def is_definition(thing: object) -> bool:
    """Whether it is a class or a function, which has a name and a docstring of its own."""
    return inspect.isclass(thing) or inspect.isroutine(thing)


def vars_doc(thing: object) -> str | None:
    """The docstring that was written for this very class or function, not for its base."""
    return vars(thing).get("__doc__") if inspect.isclass(thing) else thing.__doc__


def reading_order(name: str) -> tuple[int, list[str | int]]:
    """CONSTANTS, then Classes, then functions, as the linter sorts; numbers count as numbers."""
    rank = 0 if name.isupper() and len(name) > 1 else 1 if name[:1].isupper() else 2
    return rank, [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def a_face(name: str, **names: object) -> ModuleType:
    """A face made by hand."""
    face = ModuleType(name, "A face that is complete.")
    vars(face).update(names, __all__=sorted(names, key=reading_order))
    return face


class Good:
    """Explained."""


class Mute(Good):  # noqa: D101 - what the test is about
    pass


def test_the_check_sees_each_fault() -> None:
    assert complaints(a_face("good", Good=Good, LIMIT=3, good=len)) == []
    assert complaints(ModuleType("bare")) == ["bare has no __all__"]
    assert complaints(a_face("mute", Mute=Mute)) == ["mute.Mute has no docstring"]
    gone = a_face("gone", B=1, A=2)
    vars(gone).update(__all__=["B", "A", "Missing"], __doc__=".")
    assert complaints(gone) == [
        "gone has no docstring",
        "gone.__all__ is not sorted, or says something twice",
        "gone.Missing does not exist",
    ]


def test_the_check_sees_two_homes_and_none(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "module.py").write_text("__all__ = ['f', 'X']\nX = 1\ndef f(): ...\ndef g(): ...\n")
    declared = list(public_names([tmp_path / "package"]))
    assert declared == [("package.module", "f")]
    here = f"{Good.__module__}.Good"
    assert homes([a_face("one", Good=Good), a_face("two", Good=Good)], declared) == [
        "package.module.f is in the __all__ of its module, and no face offers it",
        f"{here} is offered by one and two",
    ]
    assert homes([a_face("one", Good=Good)], []) == []
