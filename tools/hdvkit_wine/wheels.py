"""Wheels for Windows from the package index: the running interpreter's pip chooses and downloads, we unpack."""

import compileall
import hashlib
import py_compile
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from hdvkit_vm.cache import LockedPackage
from hdvkit_vm.errors import PrepareError

from hdvkit_wine.recipe import Wheel

VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"


def download(requirements: Sequence[str], folder: Path) -> list[LockedPackage]:
    """Fetch what fulfils the requirements on Windows, and what that needs, into ``folder``.

    Raises:
        PrepareError: pip did not get it.
    """
    _pip(folder, *requirements)
    return [_locked(wheel) for wheel in sorted(folder.glob("*.whl"))]


def download_pinned(wheel: Wheel, folder: Path) -> Path:
    """Fetch one wheel, and nothing it needs, that has the hash we know.

    Raises:
        PrepareError: pip did not get it, or the index has another one.
    """
    folder.mkdir()
    pinned = folder / "requirements.txt"
    pinned.write_text(f"{wheel.name}=={wheel.version} --hash=sha256:{wheel.sha256}\n")
    _pip(folder, "--no-deps", "--require-hashes", "--requirement", str(pinned))
    return next(folder.glob("*.whl"))


def unpack(wheels: Iterable[Path], into: Path) -> None:
    """Unpack wheels into a folder to import from, compiled. Their scripts and headers are left out."""
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(into, [name for name in archive.namelist() if ".data/" not in name])
    compile_tree(into)


def compile_tree(folder: Path) -> None:
    """Write the bytecode of a library: what runs in Windows writes none."""
    unchecked = py_compile.PycInvalidationMode.UNCHECKED_HASH
    compileall.compile_dir(folder, quiet=2, workers=2, invalidation_mode=unchecked)


def _pip(folder: Path, *words: str) -> None:
    command = (sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input")
    target = ("--platform", "win_amd64", "--python-version", VERSION, "--only-binary", ":all:", "--dest", str(folder))
    done = subprocess.run((*command, *target, *words), stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [done.stderr.strip()[-300:]]
        raise PrepareError(
            f"pip could not download wheels for Windows ({said[0]}): check that pip download works on this machine"
        )


def _locked(wheel: Path) -> LockedPackage:
    name, version = wheel.name.split("-")[:2]
    with wheel.open("rb") as file:
        return LockedPackage(name, version, hashlib.file_digest(file, "sha256").hexdigest())
