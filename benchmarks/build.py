"""Compiles the load generator. Blocking; knows nothing of what it measures."""

import hashlib
import os
import shlex
import shutil
import subprocess
from pathlib import Path

from hdvkit_vm.cache import building, default_folder, install, locked

from benchmarks.errors import BenchmarkError

SOURCES = Path(__file__).parent / "load"
FLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra")


def compiler() -> list[str] | None:
    """The C compiler of this machine with its first options, as CC says, or None."""
    words = shlex.split(os.environ.get("CC", "cc"))
    return words if words and shutil.which(words[0]) else None


def load_program(folder: Path | None = None) -> Path:
    """The program, compiled unless it was from the same sources. ``folder`` is the cache.

    Raises:
        BenchmarkError: There is no compiler, or it refuses.
    """
    words = compiler()
    if words is None:
        raise BenchmarkError("there is no C compiler, and the load generator is C: install gcc, or name one in CC")
    folder = folder or default_folder()
    command = [*words, *FLAGS]
    place = folder / f"bench/load-{_digest(command)}"
    if not place.exists():
        with locked(folder), building(folder) as room:
            _compile(command, room / "load")
            place.parent.mkdir(exist_ok=True)
            install(room / "load", place)
    return place


def _compile(command: list[str], program: Path) -> None:
    sources = sorted(SOURCES.glob("*.c"))
    done = subprocess.run((*command, "-o", program, *sources), capture_output=True, text=True)
    if done.returncode:
        raise BenchmarkError(f"the load generator does not compile: {done.stderr.strip()[:2000]}")


def _digest(command: list[str]) -> str:
    """One for each state of the sources and each way to compile them."""
    content = [" ".join(command).encode(), *(file.read_bytes() for file in sorted(SOURCES.iterdir()) if file.is_file())]
    return hashlib.sha256(b"\0".join(content)).hexdigest()[:12]
