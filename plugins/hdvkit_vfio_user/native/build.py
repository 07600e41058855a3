"""Builds the C of this folder, by cffi in API mode. Runs at install, before anything of hdvkit can be imported."""

import shutil
import tempfile
from pathlib import Path

import cffi  # type: ignore[import-untyped]  # ships no annotations

HERE = Path(__file__).parent
MODULE = "_kicks"
FLAGS = ("-std=c11", "-O2", "-Wall", "-Wextra", "-Wconversion", "-Werror=implicit-function-declaration")

DECLARATIONS = """
typedef struct { uint64_t offset; uint32_t region; uint32_t multiplier; uint32_t size; uint64_t queues; } vu_kicks;
size_t vu_kicks_in_front(void *, const uint8_t *, size_t);
static const uintptr_t vu_kicks_at;
"""


def build() -> Path:
    """Compile, and put the module beside this file.

    Raises:
        Exception: There is no compiler, or it fails; distutils has no common class for that.
    """
    with tempfile.TemporaryDirectory() as folder:
        built = Path(builder().compile(tmpdir=folder))
        fresh = Path(shutil.copy2(built, HERE / f"{built.name}.new"))
    return fresh.replace(HERE / built.name)  # a process that has the old one keeps it


def builder() -> cffi.FFI:
    """What makes the module."""
    ffi = cffi.FFI()
    ffi.cdef(DECLARATIONS)
    ffi.set_source(
        MODULE,
        '#include "kicks.h"\n#define vu_kicks_at ((uintptr_t)vu_kicks_in_front)',
        sources=[str(HERE / "kicks.c")],
        include_dirs=[str(HERE)],
        extra_compile_args=list(FLAGS),
    )
    return ffi


if __name__ == "__main__":
    print(build())  # noqa: T201 - a command
