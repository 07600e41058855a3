"""The peer: a virtiofsd of this machine, or Debian's in the cache, run with the C library it came with. Blocking."""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from hdvkit_vm.cache import Lock, building, default_folder, install, locked
from hdvkit_vm.errors import PrepareError
from hdvkit_vm.fetch import Tell, fetch_and_build
from hdvkit_vm.packages import unpack_tree
from hdvkit_vm.recipe import LIBRARIES, LOADER, Facts, Part

PROGRAM = "usr/libexec/virtiofsd"
PLACES = "/usr/libexec:/usr/lib/qemu"
"""Where distributions put it, for it is no command for people."""


def _unpack(archives: Sequence[Path], into: Path) -> Facts:
    unpack_tree(archives, (f"{LIBRARIES}/*.so*", PROGRAM), into)
    if not (into / PROGRAM).exists():
        raise PrepareError(f"Debian's virtiofsd came without {PROGRAM}: benchmarks.virtiofsd must follow")
    return {}


PART = Part(
    "virtiofsd",
    recipe=1,
    roots=("virtiofsd",),
    suites=("trixie",),
    only=r"virtiofsd|lib(c6|gcc-s1|cap-ng0|seccomp2)",
    build=_unpack,
)


def installed() -> list[str] | None:
    """The command of this machine's own, or None. The one that came with QEMU until 7.2 is another program."""
    found = shutil.which("virtiofsd") or shutil.which("virtiofsd", path=PLACES)
    return [found] if found and "--shared-dir" in _said([found], "--help") else None


def fetched(folder: Path | None = None) -> list[str] | None:
    """The command of the one in the cache, or None."""
    folder = folder or default_folder()
    done = Lock.read(folder).parts.get(PART.name)
    if done is None or done.recipe != PART.recipe or not (folder / PART.name).exists():
        return None
    here = folder / PART.name
    return [str(here / LOADER), "--library-path", str(here / LIBRARIES), str(here / PROGRAM)]


def fetch(tell: Tell, folder: Path | None = None) -> list[str]:
    """Put Debian's into the cache, unless it is there, and return its command.

    Raises:
        PrepareError: It cannot be fetched here.
    """
    folder = folder or default_folder()
    with locked(folder):
        if fetched(folder) is None:
            with building(folder) as place:
                done = fetch_and_build([PART], place, tell)
                lock = Lock.read(folder).without({PART.name})
                lock.write(folder)
                install(place / PART.name, folder / PART.name)
                lock.with_parts(done).write(folder)
    command = fetched(folder)
    if command is None:
        raise PrepareError(f"the cache {folder} was changed while it was set up: try again")
    return command


def version(command: Sequence[str]) -> str:
    """What it says about itself: ``virtiofsd 1.13.2``."""
    return _said(command, "--version").partition("\n")[0].strip() or "virtiofsd of unknown version"


def _said(command: Sequence[str], option: str) -> str:
    return subprocess.run((*command, option), capture_output=True, text=True, stdin=subprocess.DEVNULL).stdout
