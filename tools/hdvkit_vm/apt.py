"""An apt of our own: the machine's mirror, proxy and credentials, but private lists, state and archives.

Changes nothing on the machine and needs no root. Resolves names and downloads; unpacking is not its concern.
"""

import hashlib
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from urllib.parse import unquote

import attrs

from hdvkit_vm.errors import PrepareError
from hdvkit_vm.sources import Mirror, choose_mirror, read_sources

# Read after the machine's own configuration, which stays in force for proxies, credentials and everything else.
# The hooks that are cleared would act on the machine: image builders let theirs delete its archives, for example.
CONFIGURATION = """\
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Post-Invoke;
#clear DPkg::Pre-Install-Pkgs;
#clear APT::Architectures;
#clear APT::Default-Release;
APT::Architecture "amd64";
APT::Install-Recommends "false";
APT::Install-Suggests "false";
APT::Sandbox::User "root";
APT::Update::Error-Mode "any";
Acquire::Languages "none";
Acquire::Retries "3";
Acquire::http::Timeout "30";
Acquire::https::Timeout "30";
Debug::NoLocking "true";
Dir::State "{folder}/state";
Dir::State::lists "{folder}/lists";
Dir::State::status "{folder}/status";
Dir::Cache "{folder}/cache";
Dir::Cache::archives "{folder}/cache/archives";
Dir::Cache::pkgcache "{folder}/cache/packages.bin";
Dir::Cache::srcpkgcache "{folder}/cache/sources.bin";
Dir::Etc::sourcelist "{folder}/sources.list";
Dir::Etc::sourceparts "{folder}/none";
Dir::Etc::preferences "{folder}/preferences";
Dir::Etc::preferencesparts "{folder}/none";
Dir::Log "{folder}/log";
"""


@attrs.frozen
class Package:
    """A package that apt chose, and where it lies once it has been downloaded."""

    name: str
    version: str
    file: str

    def checksum(self, folder: Path) -> str:
        """The SHA-256 of the downloaded archive in ``folder``."""
        with (folder / self.file).open("rb") as archive:
            return hashlib.file_digest(archive, "sha256").hexdigest()


def machine_mirror() -> Mirror:
    """The Debian mirror of this machine, from apt's own configuration.

    Raises:
        PrepareError: There is no apt-get, or it knows no Debian.
    """
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise PrepareError(
            "apt-get or dpkg-deb is missing, and packages come from Debian by them alone: "
            "prepare on a Debian machine, or copy a prepared cache here and set HDVKIT_CACHE"
        )
    # The suffixes /f and /d make these absolute, whatever Dir and Dir::Etc say.
    names = ("apt-config", "shell", "LIST", "Dir::Etc::sourcelist/f", "PARTS", "Dir::Etc::sourceparts/d")
    said = dict(pair.split("=", 1) for pair in shlex.split(_run("read apt's configuration", names)))
    parts = Path(said.get("PARTS", "/etc/apt/sources.list.d"))
    files = [Path(said.get("LIST", "/etc/apt/sources.list")), *(sorted(parts.iterdir()) if parts.is_dir() else [])]
    return choose_mirror(read_sources(files))


class PrivateApt:
    """One private apt state in one folder. Call ``update`` first; throw the folder away in the end."""

    def __init__(self, folder: Path, mirror: Mirror, suites: Iterable[str]) -> None:
        # With no package installed, a resolution is the whole closure.
        for name in ("state", "lists/partial", "cache/archives/partial", "none"):
            (folder / name).mkdir(parents=True)
        (folder / "status").touch()
        (folder / "sources.list").write_text("".join(map(mirror.line, suites)))
        (folder / "apt.conf").write_text(CONFIGURATION.format(folder=folder))
        self._folder = folder
        self._command = ("apt-get", "-q", f"-c={folder / 'apt.conf'}")

    def update(self) -> None:
        """Fetch the lists of all suites.

        Raises:
            PrepareError: The mirror did not give them.
        """
        _run("fetch the package lists", (*self._command, "update"))

    def resolve(self, name: str, roots: Sequence[str], pins: Mapping[str, Mapping[str, int]]) -> list[Package]:
        """All packages that ``roots`` need; ``pins`` has priorities by suite and package pattern.

        Safe to call from several threads, with different names.

        Raises:
            PrepareError: There is no such set.
        """
        preferences = self._folder / f"preferences.{name}"
        preferences.write_text(
            "\n".join(
                f"Package: {packages}\nPin: release n={suite}\nPin-Priority: {priority}\n"
                for suite, wanted in pins.items()
                for packages, priority in wanted.items()
            )
        )
        option = f"-oDir::Etc::preferences={preferences}"
        printed = _run(f"find {name}", (*self._command, option, "--print-uris", "--yes", "install", *roots))
        # 'http://…/name_version_arch.deb' name_version_arch.deb size hash, with : in a version as %3a
        files = re.findall(r"^'[^']*' (([^_ ]+)_([^_ ]+)_[^_ ]+\.deb) \d+", printed, re.MULTILINE)
        return [Package(package, unquote(version), file) for file, package, version in files]

    def download(self, packages: Iterable[Package], folder: Path) -> None:
        """Fetch archives into ``folder``, checked by apt against the signed lists.

        Raises:
            PrepareError: The mirror did not give them.
        """
        wanted = sorted({f"{one.name}={one.version}" for one in packages})
        _run("download packages", (*self._command, "download", *wanted), cwd=folder)


def _run(what: str, command: Sequence[str], cwd: Path | None = None) -> str:
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(
        command, cwd=cwd, env=environment, text=True, errors="replace", capture_output=True, stdin=subprocess.DEVNULL
    )
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith(("E:", "W:"))] or [done.stderr.strip()]
        raise PrepareError(
            f"apt could not {what} ({said[0]}): check that apt-get update works on this machine and that its "
            "mirror has the suites bookworm, trixie and trixie-backports"
        )
    return done.stdout
