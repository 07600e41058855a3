"""The Wine programs: the environment they need, one call, and the making of a prefix. Knows nothing of Python.

What is odd here was measured with Wine 8: standard streams must be pipes or the null device, for a regular file makes
CPython fail at its start; and the first process of a prefix starts services that inherit its streams.
"""

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import attrs
from hdvkit_vm.errors import PrepareError

from hdvkit_wine.recipe import LIBRARIES

SECONDS = 120.0
"""Making a prefix takes ten seconds; this much is given to a busy machine."""

VERSION = "win10"

OFF = "mscoree,mshtml,winedbg.exe,winemenubuilder.exe=d"
"""What Wine would start by itself: installers it has no network for, a debugger, an entry in the desktop's menus."""

DROPPED = frozenset(("DISPLAY", "WAYLAND_DISPLAY", "LD_LIBRARY_PATH", "LD_PRELOAD", "TMPDIR", "TMP", "TEMP", "HOME"))
DROPPED_BEGINNINGS = ("PYTHON", "WINE", "LC_", "LANG", "XDG_", "COVERAGE_", "PYTEST_", "VIRTUAL_ENV")


@attrs.frozen
class Wine:
    """One Wine. ``server`` is its wineserver; ``libraries`` are the folders both need."""

    loader: Path
    server: Path
    libraries: tuple[Path, ...] = ()

    @classmethod
    def unpacked(cls, folder: Path) -> "Wine":
        """The one in a part of the cache."""
        programs = folder / "usr/lib/wine"
        return cls(programs / "wine64", programs / "wineserver64", tuple(folder / name for name in LIBRARIES))

    @classmethod
    def own(cls) -> "Wine | None":
        """The one that HDVKIT_WINE names by its loader.

        Raises:
            PrepareError: It is none.
        """
        named = os.environ.get("HDVKIT_WINE", "")
        if not named:
            return None
        loader = shutil.which(named)
        beside = Path(loader).resolve().parent if loader else Path()
        for server in ("wineserver64", "wineserver"):
            if loader and (beside / server).exists():
                return cls(Path(loader).absolute(), beside / server)
        raise PrepareError(
            f"HDVKIT_WINE is {named}, which is no wine64 with a wineserver beside it: "
            "install wine64 and name /usr/lib/wine/wine64, or unset it and have one fetched"
        )

    def version(self) -> str:
        """What it says about itself.

        Raises:
            PrepareError: It does not run here.
        """
        try:
            done = subprocess.run(
                (self.loader, "--version"),
                env=self.environment(Path("/nowhere")),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=True,
            )
        except (OSError, subprocess.CalledProcessError) as error:
            said = getattr(error, "stderr", None) or error
            raise PrepareError(
                f"Wine does not run here ({str(said).strip()}): it needs glibc 2.36 or newer; "
                "or install wine64 and name /usr/lib/wine/wine64 in HDVKIT_WINE"
            ) from error
        return done.stdout.strip()

    def environment(self, prefix: Path, base: Mapping[str, str] = os.environ) -> dict[str, str]:
        """The environment for a process in ``prefix``: ``base`` without what means something else to Windows."""
        kept = {
            name: value
            for name, value in base.items()
            if name not in DROPPED and not name.startswith(DROPPED_BEGINNINGS)
        }
        own = {
            "HOME": str(prefix),  # Wine links the folders of its user to this one's
            "LC_ALL": "C.UTF-8",
            "WINEARCH": "win64",
            "WINEDEBUG": "-all",
            "WINEDLLOVERRIDES": OFF,
            "WINEPREFIX": str(prefix),
            "WINESERVER": str(self.server),
        }
        if self.libraries:
            own["LD_LIBRARY_PATH"] = ":".join(map(str, self.libraries))
        return kept | own

    def call(self, prefix: Path, *words: str, timeout: float = SECONDS) -> int:
        """Run a Windows program that needs and says nothing; returns its exit code."""
        done = subprocess.run(
            (self.loader, *words),
            env=self.environment(prefix),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=timeout,
        )
        return done.returncode

    def end(self, prefix: Path, how: str = "--kill") -> None:
        """Kill all that runs in ``prefix``, or with ``--wait`` wait until it has ended. Does nothing when nothing runs.

        Raises:
            TimeoutExpired: It did not end.
        """
        subprocess.run(
            (self.server, how),
            env=self.environment(prefix),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=SECONDS,
        )

    def make_prefix(self, prefix: Path) -> None:
        """Set up a Windows in ``prefix``. It can be copied and moved: nothing in it knows where it is.

        Raises:
            PrepareError: Wine could not.
        """
        prefix.mkdir()
        try:
            self.call(prefix, "wineboot", "--init")
            # It ends with a code other than 0 for want of a 32-bit half; the registry tells whether it worked.
            code = self.call(prefix, "reg", "add", r"HKCU\Software\Wine", "/v", "Version", "/d", VERSION, "/f")
            self.end(prefix, "--wait")
        except subprocess.TimeoutExpired as error:
            raise PrepareError(
                f"Wine did not set up a prefix in {error.timeout:g} s: is this machine that busy?"
            ) from None
        finally:
            self.end(prefix)
        if code or not (prefix / "system.reg").exists():
            raise PrepareError(
                f"Wine could not set up a prefix (reg ended with exit code {code}): "
                "try another one, named in HDVKIT_WINE"
            )
        (prefix / ".update-timestamp").write_text("disable\n")  # or it would be set up again in every place it is moved
        for link in (prefix / "drive_c/users").glob("*/*"):
            if link.is_symlink():
                link.unlink()
                link.mkdir()


def windows_path(path: Path) -> str:
    r"""A path of this machine as Windows programs name it: ``/a/b`` is ``Z:\a\b``."""
    return "Z:" + str(path.absolute()).replace("/", "\\")
