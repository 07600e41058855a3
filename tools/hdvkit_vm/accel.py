"""Whether KVM works here, found out by booting with it, and remembered until the machine boots again.

A /dev/kvm that opens proves nothing: inside some virtual machines guests hang on their first instruction.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from hdvkit_vm.cache import write_json
from hdvkit_vm.errors import PrepareError
from hdvkit_vm.qemu import Hardware, command

if TYPE_CHECKING:
    from hdvkit_vm.provision import Assets

SECONDS = 10.0
"""With KVM a guest is up in one second; this much is given to a busy machine."""

RECORD = "accel.json"
ACCELS = ("kvm", "tcg")


def remembered(folder: Path) -> str | None:
    """The accelerator to use: HDVKIT_ACCEL, or what ``remember`` wrote since this machine has booted.

    Raises:
        PrepareError: HDVKIT_ACCEL is neither kvm nor tcg.
    """
    if named := os.environ.get("HDVKIT_ACCEL"):
        if named not in ACCELS:
            raise PrepareError(f"HDVKIT_ACCEL is {named}: it must be one of {', '.join(ACCELS)}")
        return named
    try:
        record = json.loads((folder / RECORD).read_text())
    except (OSError, ValueError):
        return None
    valid = record.get("boot_id") == _boot_id() and record.get("accel") in ACCELS
    if record.get("accel") == "kvm" and not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return None  # another container of the same machine found it good
    return str(record["accel"]) if valid else None


def remember(folder: Path, accel: str) -> None:
    """Write a verdict down."""
    write_json(folder / RECORD, {"accel": accel, "boot_id": _boot_id()})


def probe(assets: "Assets") -> str:
    """``kvm`` if a guest comes up with it, else ``tcg``. Takes seconds where KVM is there but does not work."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg"
    guest = assets.guests["6.1"]
    line = command(assets.qemu, "kvm", guest.kernel, guest.initramfs, Hardware(cmdline="hdvkit.probe=1"))
    try:
        done = subprocess.run(
            (*line, "-serial", "stdio"), stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        return "tcg"
    return "kvm" if b"GUEST_READY" in done.stdout else "tcg"


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
