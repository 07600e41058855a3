"""The compiler for Windows: C sources in, a DLL or a program out. The same sources give the same bytes."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import attrs
from hdvkit_vm.errors import PrepareError

from hdvkit_wine.errors import CompileFailed
from hdvkit_wine.recipe import LIBRARIES

TARGET = "x86_64-w64-mingw32"
FLAGS = ("-std=gnu17", "-O2", "-Wall", "-Wextra", "-Werror", "-static-libgcc", "-Wl,--no-insert-timestamp")
STRIPPED = frozenset((".acm", ".com", ".cpl", ".dll", ".drv", ".exe", ".ocx", ".sys"))


@attrs.frozen
class Mingw:
    """The programs of one mingw. ``programs`` has them all; ``libraries`` are the folders they need."""

    programs: Path
    libraries: tuple[Path, ...] = ()

    @classmethod
    def unpacked(cls, folder: Path) -> "Mingw":
        """The one in a part of the cache."""
        return cls(folder / "usr/bin", tuple(folder / name for name in LIBRARIES))

    @classmethod
    def own(cls) -> "Mingw | None":
        """The one that HDVKIT_MINGW names by its compiler.

        Raises:
            PrepareError: It is none.
        """
        named = os.environ.get("HDVKIT_MINGW", "")
        if not named:
            return None
        found = shutil.which(named)
        if not found or not (Path(found).parent / f"{TARGET}-windres").exists():
            raise PrepareError(
                f"HDVKIT_MINGW is {named}, which is no {TARGET}-gcc with a {TARGET}-windres beside it: "
                "install gcc-mingw-w64-x86-64 and name its compiler, or unset it and have one fetched"
            )
        return cls(Path(found).absolute().parent)

    def version(self) -> str:
        """The first line of what it says about itself.

        Raises:
            PrepareError: It does not run here.
        """
        try:
            return self.call("gcc", "--version").stdout.partition("\n")[0]
        except (OSError, subprocess.CalledProcessError) as error:
            raise PrepareError(
                f"the compiler for Windows does not run here ({error}): install gcc-mingw-w64-x86-64 "
                f"and name its {TARGET}-gcc in HDVKIT_MINGW"
            ) from error

    def command(self, program: str) -> list[str]:
        """The words that start one of the programs; those of ours need to be told where their libraries are."""
        libraries = ":".join(map(str, self.libraries))
        setting = ["env", f"LD_LIBRARY_PATH={libraries}"] if libraries else []
        return [*setting, str(self.programs / f"{TARGET}-{program}")]

    def call(self, program: str, *words: str | Path) -> subprocess.CompletedProcess[str]:
        """Run one of the programs.

        Raises:
            CalledProcessError: It ended with another code than 0.
        """
        return subprocess.run(
            (*self.command(program), *words),
            env={**os.environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=True,
        )

    def strip(self, files: Sequence[Path]) -> None:
        """Take the debugging symbols out of files: of what Wine brings, that is two thirds."""
        for start in range(0, len(files), 100):
            self.call("strip", "--strip-debug", *files[start : start + 100])


def compile_dll(
    mingw: Mingw,
    sources: Sequence[Path],
    target: Path,
    *,
    exports: Path | None = None,
    definitions: Sequence[str] = (),
    libraries: Sequence[str] = (),
) -> Path:
    """Make a DLL of C sources and return where it is.

    ``exports`` is a module definition file; without one, what the sources declare ``__declspec(dllexport)`` is
    exported. ``definitions`` are macros (``NAME`` or ``NAME=value``), ``libraries`` import libraries (``ws2_32``).

    Raises:
        CompileFailed: The compiler refused them, warnings included.
    """
    module = (exports,) if exports else ()
    return _compile(mingw, target, "-shared", *_macros(definitions), *sources, *module, *_links(libraries))


def compile_program(
    mingw: Mingw,
    sources: Sequence[Path],
    target: Path,
    *,
    definitions: Sequence[str] = (),
    libraries: Sequence[str] = (),
    library_folder: Path | None = None,
) -> Path:
    """Make a console program with a ``wmain`` of sources and return where it is; a ``.rc`` among them is a resource.

    Raises:
        CompileFailed: The compiler refused them, warnings included.
    """
    folder = (f"-L{library_folder}",) if library_folder else ()
    with tempfile.TemporaryDirectory() as made:
        inputs = [_resource(mingw, one, Path(made)) if one.suffix == ".rc" else one for one in sources]
        return _compile(mingw, target, "-municode", *_macros(definitions), *inputs, *folder, *_links(libraries))


def _resource(mingw: Mingw, source: Path, folder: Path) -> Path:
    made = folder / f"{source.stem}.o"
    try:
        mingw.call("windres", f"--include-dir={source.parent}", source, made)
    except subprocess.CalledProcessError as error:
        raise CompileFailed(source.name, error.stderr) from None
    return made


def _compile(mingw: Mingw, target: Path, *words: str | Path) -> Path:
    try:
        mingw.call("gcc", *FLAGS, "-o", target, *words)
    except subprocess.CalledProcessError as error:
        raise CompileFailed(target.name, error.stderr) from None
    return target


def _macros(definitions: Sequence[str]) -> list[str]:
    return [f"-D{definition}" for definition in definitions]


def _links(libraries: Sequence[str]) -> list[str]:
    return [f"-l{library}" for library in libraries]
