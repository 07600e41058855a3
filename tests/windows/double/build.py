"""Build the double: one shared library on Linux; for Windows one DLL and three that forward to it.

``python build.py FOLDER [--windows]``. Linux: $CC, or cc. Windows: $MINGW_CC, or x86_64-w64-mingw32-gcc.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

SOURCES = Path(__file__).parent
FLAGS = ("-std=c11", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-O2", "-g", "-shared")
COMMON = (
    *("state", "text", "layout", "machines", "operations", "documents", "service"),
    *("hosts", "devices", "vid", "bus", "msix", "doorbells", "memory", "worker"),
)
LIBRARY = "libhdvdouble.so"
DLL = "hdvdouble.dll"
FORWARDERS = {"vmdevicehost": r"Hdv\w+", "computecore": r"Hcs\w+", "vmwpctrl": r"GetVmWorkerProcess"}
"""Which exports of platform.h each system DLL has."""


class BuildError(Exception):
    """The double cannot be built; says why."""


def build_linux(folder: Path) -> Path:
    """Build the shared library; gives its path.

    Raises:
        BuildError: There is no compiler, or it refuses.
    """
    library = folder / LIBRARY
    compiler = _compiler("CC", "cc")
    _run(
        [
            *compiler,
            *FLAGS,
            "-fPIC",
            "-fvisibility=hidden",
            "-o",
            str(library),
            *_sources("os_linux", "kernel_linux"),
            "-pthread",
        ]
    )
    return library


def build_windows(folder: Path) -> list[Path]:
    """Build hdvdouble.dll and the DLLs that forward to it; they belong into one folder, or into System32.

    Raises:
        BuildError: There is no compiler, or it refuses.
    """
    compiler = _compiler("MINGW_CC", "x86_64-w64-mingw32-gcc")
    double = folder / DLL
    _run([*compiler, *FLAGS, "-static-libgcc", "-o", str(double), *_sources("os_windows")])
    return [double, *(_forwarder(folder, compiler, name) for name in FORWARDERS)]


def exports(dll: str) -> list[str]:
    """What a system DLL exports, in the order of platform.h."""
    declarations = (SOURCES / "platform.h").read_text()
    return re.findall(rf"^(?:HRESULT|void) \*?({FORWARDERS[dll]})\(", declarations, re.MULTILINE)


def _forwarder(folder: Path, compiler: list[str], name: str) -> Path:
    library, definition, nothing = (folder / f"{name}.{suffix}" for suffix in ("dll", "def", "c"))
    lines = [f"    {export} = {Path(DLL).stem}.{export}" for export in exports(name)]
    definition.write_text("\n".join([f"LIBRARY {library.name}", "EXPORTS", *lines, ""]))
    nothing.write_text("int DllMainCRTStartup(void);\nint DllMainCRTStartup(void) { return 1; }\n")
    _run([*compiler, "-shared", "-nostdlib", "-o", str(library), str(nothing), str(definition)])
    definition.unlink()
    nothing.unlink()
    return library


def _sources(*names: str) -> list[str]:
    return [str(SOURCES / f"{name}.c") for name in (*COMMON, *names)]


def _compiler(variable: str, name: str) -> list[str]:
    command = os.environ.get(variable, name).split()
    if shutil.which(command[0]) is None:
        raise BuildError(f"no C compiler: {command[0]} is not in PATH; install one or set {variable}")
    return command


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BuildError(f"{command[0]} cannot build the double:\n{done.stderr}")


def main() -> None:
    """Build into a folder and print the paths."""
    parser = argparse.ArgumentParser(description="Build the double of Windows' Host Device Virtualization.")
    parser.add_argument("folder", type=Path, help="where the libraries go")
    parser.add_argument("--windows", action="store_true", help="DLLs for Windows, by mingw-w64")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    try:
        built = build_windows(arguments.folder) if arguments.windows else [build_linux(arguments.folder)]
    except BuildError as error:
        sys.exit(str(error))
    sys.stdout.writelines(f"{path}\n" for path in built)


if __name__ == "__main__":
    main()
