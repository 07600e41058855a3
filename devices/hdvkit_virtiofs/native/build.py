"""Builds the C of this folder, by cffi in API mode. Runs at install, before anything of hdvkit can be imported.

``python -m hdvkit_virtiofs.native.build`` builds it in place, for a checkout whose C was changed.
"""

import shutil
import tempfile
from pathlib import Path

import cffi  # type: ignore[import-untyped]  # ships no annotations

HERE = Path(__file__).parent
RINGS = HERE.parents[2] / "hdvkit/native"
MODULE = "_hot"
SOURCES = ("map.c", "table.c", "share.c", "requests.c")
FLAGS = ("-std=c11", "-O2", "-Wall", "-Wextra", "-Wconversion", "-Werror=implicit-function-declaration")

DECLARATIONS = """
typedef struct vf_share vf_share;
typedef struct {
    uint64_t opcodes;
    uint64_t entry_valid; uint64_t attr_valid;
    uint32_t entry_valid_nsec; uint32_t attr_valid_nsec;
    uint32_t max_write;
} vf_terms;
vf_share *vf_share_new(void);
void vf_share_free(vf_share *);
void vf_share_agree(vf_share *, vf_terms);
void vf_share_clear(vf_share *);
void vf_share_node(vf_share *, uint64_t, int, uint64_t, uint64_t, uint32_t, bool);
void vf_share_reopened(vf_share *, uint64_t, uint64_t, int, bool);
void vf_share_disown(vf_share *, uint64_t, uint64_t);
void vf_share_changing(vf_share *, uint64_t, uint64_t, bool);
uint64_t vf_share_drop_node(vf_share *, uint64_t);
uint64_t vf_share_take_lookups(vf_share *, uint64_t);
void vf_share_file(vf_share *, uint64_t, uint64_t, int, bool, bool);
void vf_share_drop_file(vf_share *, uint64_t);
bool vf_share_take_dirty(vf_share *, int);
bool vf_share_close(vf_share *, int);
static const uintptr_t vf_answer_at;
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
        '#include "share.h"\n#define vf_answer_at ((uintptr_t)vf_answer)',
        sources=[*(str(HERE / source) for source in SOURCES), str(RINGS / "chain.c")],
        include_dirs=[str(HERE)],
        extra_compile_args=list(FLAGS),
        libraries=["pthread"],
    )
    return ffi


if __name__ == "__main__":
    print(build())  # noqa: T201 - a command
