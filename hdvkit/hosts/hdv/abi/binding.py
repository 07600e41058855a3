"""The declarations of ``_cdef.h`` as cffi has them, and C's way of writing texts and GUIDs. ``Any`` stays in here.

ABI mode: nothing is compiled, so the package is the same on every machine, and importing it never fails.
"""

import functools
import logging
import uuid
from collections.abc import Callable
from importlib import resources
from typing import Any, TypeAlias

import cffi  # type: ignore[import-untyped]  # ships no annotations

from hdvkit.hosts.hdv.abi.hresult import E_FAIL, signed

log = logging.getLogger("hdvkit.hdv")

Pointer: TypeAlias = Any
"""What C calls by its address; only this package looks inside."""


@functools.cache
def ffi() -> Any:
    """The declarations, parsed once: it takes a tenth of a second."""
    parsed = cffi.FFI()
    parsed.cdef(resources.files(__package__).joinpath("_cdef.h").read_text(encoding="utf-8"))
    return parsed


def wide(text: str) -> Pointer:
    """A text as UTF-16 that ends with a zero. The caller keeps it for as long as C looks at it."""
    return ffi().new("WCHAR[]", [*memoryview(text.encode("utf-16-le")).cast("H"), 0])


def text_at(pointer: Pointer, longest: int = 1 << 20) -> str:
    """Read a text that ends with a zero; NULL is none. One of more than ``longest`` characters is cut."""
    if not pointer:
        return ""
    length = 0
    while length < longest and pointer[length]:
        length += 1
    return bytes(ffi().buffer(pointer, 2 * length)).decode("utf-16-le", "replace")


def guid(value: uuid.UUID) -> Pointer:
    """A GUID for C. The caller keeps it for as long as C looks at it."""
    made = ffi().new("GUID *")
    ffi().buffer(made)[:] = value.bytes_le
    return made


def uuid_at(pointer: Pointer) -> uuid.UUID:
    """Read a GUID."""
    return uuid.UUID(bytes_le=bytes(ffi().buffer(pointer, 16)))


class Table:
    """A structure of function pointers, made from Python functions. Keep it until C has forgotten ``pointer``.

    A function that raises is logged and answers E_FAIL: left alone, C would be told that all went well.
    """

    def __init__(self, structure: str, /, **functions: Callable[..., Any]) -> None:
        self.pointer: Pointer = ffi().new(f"{structure} *")
        types = {name: field.type for name, field in ffi().typeof(structure).fields}
        self._callbacks = {name: callback(types[name], function) for name, function in functions.items()}
        for name, made in self._callbacks.items():
            setattr(self.pointer, name, made)


def callback(kind: Any, function: Callable[..., Any]) -> Pointer:
    """A function pointer of a type, by its name or as cffi has it. Keep it until C has forgotten it."""
    kind = ffi().typeof(kind) if isinstance(kind, str) else kind
    failed = {"int": signed(E_FAIL), "int32_t": signed(E_FAIL), "uint32_t": 0}.get(kind.result.cname)

    def told(_: object, error: BaseException, __: object) -> None:
        log.error("the callback %s failed", function.__name__, exc_info=error)

    return ffi().callback(kind, function, error=failed, onerror=told)
