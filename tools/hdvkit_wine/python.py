"""Puts the Windows CPython together: its DLL and modules from a wheel, its library from the running interpreter.

Their patch versions may differ, with one known consequence. ``python.exe`` is compiled here, for no wheel has it.
"""

import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from hdvkit_vm.errors import PrepareError

from hdvkit_wine.mingw import Mingw, compile_program
from hdvkit_wine.wheels import compile_tree
from hdvkit_wine.wine import Wine, windows_path

SOURCES = Path(__file__).parent / "python_exe"
FROM_THE_WHEEL = "deploy_libs/"

# Wine has its own of the first two kinds, and the rest is for windows on a screen.
UNWANTED = ("api-ms-win-", "vcruntime", "tcl", "tk", "_tkinter", "winsound", "_msi")
NOT_IN_THE_LIBRARY = (
    *("__pycache__", "lib-dynload", "site-packages", "dist-packages", "config-*", "*.so", "_sysconfigdata_*"),
    *("test", "tests", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3"),
)

MENDED = re.compile(r"(?<!@classmethod\n)    def invalidate_caches\(cls\):")
"""importlib.metadata before 3.11.8 and 3.12.2. The importlib in the DLL is newer, and calls this as what it is."""


def build(wheel: Path, mingw: Mingw, into: Path) -> None:
    """Make a folder that Windows runs ``python.exe`` in.

    Raises:
        PrepareError: The wheel is not what it was.
    """
    into.mkdir()
    dll = f"python{sys.version_info.major}{sys.version_info.minor}"
    with zipfile.ZipFile(wheel) as archive:
        for name in wanted(archive.namelist()):
            place = into / "DLLs" / name if name.endswith(".pyd") else into / name
            place.parent.mkdir(exist_ok=True)
            place.write_bytes(archive.read(FROM_THE_WHEEL + name))
    if not (into / f"{dll}.dll").exists():
        raise PrepareError(f"{wheel.name} has no {dll}.dll: hdvkit_wine.recipe must follow")
    library = into / "Lib"
    shutil.copytree(sysconfig.get_path("stdlib"), library, ignore=shutil.ignore_patterns(*NOT_IN_THE_LIBRARY))
    (library / "site-packages").mkdir()
    mend(library / "importlib/metadata/__init__.py")
    compile_tree(library)
    sources = [SOURCES / "python.c", SOURCES / "python.rc"]
    compile_program(mingw, sources, into / "python.exe", libraries=[dll], library_folder=into)


def mend(module: Path) -> None:
    """Have a library that is older than its DLL say what that takes for granted."""
    text = module.read_text(encoding="utf-8")
    module.write_text(MENDED.sub(r"    @classmethod\n\g<0>", text), encoding="utf-8")


def wanted(names: list[str]) -> Iterator[str]:
    """Of the files of the wheel, the names of those that belong to CPython and are of use."""
    for name in names:
        file = name.removeprefix(FROM_THE_WHEEL)
        if file != name and file.endswith((".dll", ".pyd")) and not file.lower().startswith(UNWANTED):
            yield file


def prove(wine: Wine, prefix: Path, python: Path) -> str:
    """See that it runs, and return its version.

    Raises:
        PrepareError: It does not.
    """
    with tempfile.TemporaryDirectory() as place:
        said = Path(place) / "version"
        # Not by its output: nothing runs in this prefix yet, and its services would hold the pipe.
        script = "import asyncio, ctypes, sys, sqlite3, ssl; open(sys.argv[1], 'w').write(sys.version)"
        try:
            code = wine.call(prefix, str(python / "python.exe"), "-I", "-c", script, windows_path(said))
        except subprocess.TimeoutExpired as error:
            raise PrepareError(
                f"the Windows Python did not come up in {error.timeout:g} s: is this machine busy?"
            ) from None
        finally:
            wine.end(prefix)
        if code or not said.exists():
            raise PrepareError(
                f"the Windows Python does not run here (exit code {code}): try another Wine, in HDVKIT_WINE"
            )
        return said.read_text()
