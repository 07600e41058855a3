"""The declarations of ``_cdef.h`` as cffi has them, and the handles of Windows. ``Any`` stays here and in :mod:`.nt`.

ABI mode with absolute paths: nothing is compiled, importing it works everywhere, calling it on Windows only.
"""

import functools
from importlib import resources
from typing import Any, Final, Self

import cffi  # type: ignore[import-untyped]  # ships no annotations

from hdvkit_virtiofs.passthrough.windows import status
from hdvkit_virtiofs.passthrough.windows.status import NtError, failed

LONGEST_PATH: Final = 260


@functools.cache
def ffi() -> Any:
    """The declarations, parsed once."""
    parsed = cffi.FFI()
    parsed.cdef(resources.files(__package__).joinpath("_cdef.h").read_text(encoding="utf-8"))
    return parsed


@functools.cache
def kernel32() -> Any:
    """kernel32.dll, which is always loaded: nothing is looked for."""
    return ffi().dlopen("kernel32.dll")


@functools.cache
def ntdll() -> Any:
    """ntdll.dll by its path. A bare name would be looked for in folders that others may write to."""
    path = ffi().new("WCHAR[]", LONGEST_PATH)
    length = kernel32().GetSystemDirectoryW(path, LONGEST_PATH)
    folder = bytes(ffi().buffer(path, 2 * length)).decode("utf-16-le")
    return ffi().dlopen(f"{folder}\\ntdll.dll")


class Handle:
    """One open file of Windows. Close it, or use ``with``. Works twice."""

    __slots__ = ("_value",)

    def __init__(self, value: Any) -> None:
        self._value = value

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        value, self._value = self._value, None
        if value is not None:
            ntdll().NtClose(value)

    @property
    def value(self) -> Any:
        """What C knows it by; raises NtError when it is closed."""
        if self._value is None:
            raise NtError("using a closed handle", status.FILE_CLOSED)
        return self._value

    @property
    def number(self) -> int:
        """The same, for structures that name a handle."""
        return int(ffi().cast("uintptr_t", self.value))


def check(tried: str, code: int) -> None:
    """Raise NtError for a refusal; ``tried`` says what was attempted, as the beginning of a sentence."""
    if failed(code):
        raise NtError(tried, code)
