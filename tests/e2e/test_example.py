"""The embedding example, run as anybody would run it."""

import os
import subprocess
import sys
from pathlib import Path

from hdvkit_vm import Assets

EXAMPLE = Path(__file__).parents[2] / "examples/share_with_qemu.py"
LIMIT = 180
"""Seconds after which a program counts as hung."""


def test_a_share_is_plugged_used_and_unplugged(kernel: str, assets: Assets, room: Path) -> None:
    (room / "question.txt").write_text("which kernel?\n")
    guest = assets.guest(kernel)
    done = subprocess.run(
        [sys.executable, EXAMPLE, room, guest.kernel, guest.initramfs],
        env=os.environ | {"HDVKIT_QEMU": str(assets.qemu)},
        capture_output=True,
        text=True,
        errors="replace",
        timeout=LIMIT,
    )
    assert done.returncode == 0, done.stderr
    assert "the share is: removed" in done.stdout
    assert "question.txt" in done.stdout
    assert (room / "guest.txt").read_text().strip() == guest.release
