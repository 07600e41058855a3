"""What tests ask of the system they run on. Windows has no users of ours, and other directories."""

import os
import sys

import pytest

IS_ROOT = sys.platform != "win32" and os.geteuid() == 0
UID, GID = (0, 0) if sys.platform == "win32" else (os.getuid(), os.getgid())

_WHY = "tried with directories and signals of Linux only"

shares_directories = pytest.mark.skipif(sys.platform != "linux", reason=_WHY)


def need_directories() -> None:
    """Skip the test whose fixture this is, where no directory can be shared."""
    if sys.platform != "linux":
        pytest.skip(_WHY)
