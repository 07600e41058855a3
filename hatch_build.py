"""What an installation does besides copying: it builds the C of the data path, where there is a compiler.

Without one hdvkit is installed all the same, and uses Python; ``hdvkit check`` says so. ``python hatch_build.py``
builds in place, for a checkout whose C was changed.
"""

import os
import runpy
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import cffi  # type: ignore[import-untyped]  # ships no annotations
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ON_LINUX = ("devices/hdvkit_virtiofs/native/build.py", "plugins/hdvkit_vfio_user/native/build.py")
PARTS = ("hdvkit/native/build.py", *(ON_LINUX if sys.platform == "linux" else ()))
FLAGS = ("-std=c11", "-O2", "-Wall", "-Wextra", "-Wconversion", "-Werror=implicit-function-declaration")
SWITCH = "HDVKIT_BUILD_NATIVE"
"""Environment: 0 builds no C, 1 fails where it cannot be built, as wheels must."""


class NativeBuildHook(BuildHookInterface):  # type: ignore[type-arg]  # its parameter is of hatchling's own concern
    """Builds each part in place, and puts what was built into the wheel."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build before the files of a wheel are collected."""
        wanted = os.environ.get(SWITCH, "")
        if self.target_name != "wheel" or wanted == "0":
            return
        for part in PARTS:
            try:
                built = build(Path(self.root, part))
            except Exception as error:  # whatever compilers and distutils raise
                if wanted == "1":
                    raise
                self.app.display_warning(f"{part}: {error}; hdvkit will use Python instead of C")
                continue
            build_data["artifacts"].append(str(built.relative_to(self.root)))
            build_data["pure_python"] = False  # with any of them, the wheel is for this system only
            build_data["infer_tag"] = True


def build(table: Path) -> Path:
    """Build what a part's table names, and put the module beside it.

    Raises:
        Exception: There is no compiler, or it fails; distutils has no common class for that.
    """
    part = runpy.run_path(str(table))
    ffi = cffi.FFI()
    ffi.cdef(part["DECLARATIONS"])
    ffi.set_source(
        part["MODULE"],
        part["HEADER"],
        sources=list(map(str, part["SOURCES"])),
        include_dirs=[str(table.parent)],
        extra_compile_args=list(FLAGS) if sys.platform != "win32" else [],
        libraries=list(part["LIBRARIES"]),
    )
    with tempfile.TemporaryDirectory() as folder:
        built = Path(ffi.compile(tmpdir=folder))
        fresh = Path(shutil.copy2(built, table.parent / f"{built.name}.new"))
    return fresh.replace(table.parent / built.name)  # a process that has the old one keeps it


def built(table: Path) -> list[Path]:
    """What is beside a part's table."""
    return [file for file in table.parent.iterdir() if file.suffix in (".so", ".pyd")]


def is_current(table: Path) -> bool:
    """Whether that was built from the C there is now; parts share headers."""
    folders = [Path(__file__).parent.joinpath(part).parent for part in PARTS]
    changed = max(file.stat().st_mtime_ns for folder in folders for file in (*folder.glob("*.[ch]"), table))
    return any(file.stat().st_mtime_ns > changed for file in built(table))


def build_in_place() -> None:
    """Build the parts whose C was changed since, for a checkout. What cannot be built is not there."""
    for part in PARTS:
        table = Path(__file__).parent / part
        if is_current(table):
            continue
        try:
            print(build(table))  # noqa: T201 - a command
        except Exception as error:
            if os.environ.get(SWITCH) == "1":
                raise
            for old in built(table):
                old.unlink()
            print(f"{part}: {error}; hdvkit uses Python instead of C", file=sys.stderr)  # noqa: T201 - a command


if __name__ == "__main__":
    build_in_place()
