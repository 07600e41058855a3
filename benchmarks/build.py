"""Compiles the programs that make load, here and in a guest. Blocking; knows nothing of what they measure."""

import hashlib
import os
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from hdvkit_vm.cache import building, default_folder, install, locked

from benchmarks.errors import BenchmarkError

HERE = Path(__file__).parent
FLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra")


def compiler() -> list[str] | None:
    """The C compiler of this machine with its first options, as CC says, or None."""
    words = shlex.split(os.environ.get("CC", "cc"))
    return words if words and shutil.which(words[0]) else None


def load_program(folder: Path | None = None) -> Path:
    """The load generator, compiled unless it was from the same sources. ``folder`` is the cache.

    Raises:
        BenchmarkError: There is no compiler, or it refuses.
    """
    return _program("load", (), folder)


def guest_program(folder: Path | None = None) -> Path:
    """What works in a guest, where there are no libraries; otherwise as ``load_program``."""
    return _program("guest", ("-static",), folder)


def _program(name: str, flags: Sequence[str], folder: Path | None) -> Path:
    words = compiler()
    if words is None:
        raise BenchmarkError("there is no C compiler, and what makes load is C: install gcc, or name one in CC")
    folder = folder or default_folder()
    command = [*words, *FLAGS, *flags]
    place = folder / f"bench/{name}-{_digest(command, HERE / name)}"
    if not place.exists():
        with locked(folder), building(folder) as room:
            _compile(command, HERE / name, room / name)
            place.parent.mkdir(exist_ok=True)
            install(room / name, place)
    return place


def _compile(command: list[str], folder: Path, program: Path) -> None:
    sources = sorted(folder.glob("*.c"))
    done = subprocess.run((*command, "-o", program, *sources), capture_output=True, text=True)
    if done.returncode:
        raise BenchmarkError(
            f"what makes load does not compile; it needs the C library's headers and, for guests, its static form "
            f"(Debian's libc6-dev has both): {done.stderr.strip()[:2000]}"
        )


def _digest(command: list[str], folder: Path) -> str:
    """One for each state of the sources and each way to compile them."""
    content = [" ".join(command).encode(), *(file.read_bytes() for file in sorted(folder.iterdir()) if file.is_file())]
    return hashlib.sha256(b"\0".join(content)).hexdigest()[:12]
