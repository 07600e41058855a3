"""QEMU, the other side: how to start it with a device, and whether this machine has one that can be.

The client entered QEMU with version 10.1 and may be left out of a build, so the program itself is asked.
"""

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from hdvkit.runtime import Finding

PROGRAM = "qemu-system-x86_64"
DRIVER = "vfio-user-pci"
ADVICE = (
    "install QEMU 10.1 or newer: on Debian 13 qemu-system-x86 from trixie-backports, on Debian 14 or newer as it is; "
    "or set HDVKIT_QEMU to one. The sources of hdvkit fetch one with `make vm`"
)


def device(path: Path) -> str:
    """The ``-device`` argument for the device that listens on ``path``; the socket needs the JSON form."""
    return json.dumps({"driver": DRIVER, "socket": {"type": "unix", "path": str(path)}}, separators=(",", ":"))


def command_line(path: Path) -> str:
    """A QEMU command line with the device, to be pasted into a shell and added to. Guest RAM must be shared."""
    memory = "memory-backend-memfd,id=ram,size=1G,share=on"
    words = [PROGRAM, "-M", "q35,memory-backend=ram", "-m", "1G", "-object", memory, "-device", device(path)]
    return shlex.join(words)


def finding() -> Finding:
    """Whether there is a QEMU with the client."""
    seen = []
    for program in _candidates():
        problem = _problem(program)
        if problem is None:
            return Finding(f"QEMU with {DRIVER}", program, good=True)
        seen.append(f"{program}: {problem}")
    return Finding(f"QEMU with {DRIVER}", "; ".join(seen) or "no QEMU", good=False, advice=ADVICE)


def _candidates() -> Iterator[str]:
    """The one that is asked for, or those of the system and of the development cache."""
    chosen = os.environ.get("HDVKIT_QEMU")
    if chosen:
        yield chosen
        return
    if found := shutil.which(PROGRAM):
        yield found
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    cached = Path(os.environ.get("HDVKIT_CACHE") or Path(base) / "hdvkit") / "bin" / PROGRAM
    if cached.is_file():
        yield str(cached)


def _problem(program: str) -> str | None:
    """Why it will not do, or None."""
    try:
        # The name of one driver: a list of all makes a relocated QEMU load modules of the system's.
        asked = subprocess.run([program, "-device", f"{DRIVER},help"], capture_output=True, timeout=20, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    return None if asked.returncode == 0 else f"it knows no {DRIVER}"
