"""What the cache is made of: a table of parts, and how each is built from packages. Decides nothing about when.

Versions are never named: Debian's mirrors keep only the current ones, so apt chooses and the lock record tells.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import attrs

from hdvkit_vm.errors import PrepareError
from hdvkit_vm.packages import read_file, read_kernel, unpack_tree

Facts = dict[str, str]
Build = Callable[[Sequence[Path], Path], Facts]

LIBRARIES = "usr/lib/x86_64-linux-gnu"
LOADER = f"{LIBRARIES}/ld-linux-x86-64.so.2"

QEMU_WRAPPER = f"""\
#!/bin/sh
# QEMU from Debian's packages with their own C library, for whatever system this is.
here=$(dirname "$(readlink -f "$0")")/../qemu
exec "$here/{LOADER}" --library-path "$here/{LIBRARIES}" \\
	"$here/usr/bin/qemu-system-x86_64" -L "$here/usr/share/qemu" -L "$here/usr/share/seabios" "$@"
"""

START = f'exec "$here/{LOADER}" --library-path "$here/{LIBRARIES}"'

MKFS_WRAPPER = f"""\
#!/bin/sh
# Makes an ext4 in a file or device; busybox knows none younger than ext2.
here=${{0%/*}}
{START} "$here/usr/sbin/mke2fs" -t ext4 "$@"
"""

PYTHON_WRAPPER = f"""\
#!/bin/sh
# Python for guests that have nothing but busybox; works wherever this folder is mounted.
here=${{0%/*}}
export PYTHONHOME="$here/usr" PYTHONDONTWRITEBYTECODE=1
{START} "$here/usr/bin/VERSION" "$@"
"""

GIT_WRAPPER = f"""\
#!/bin/sh
# Git starts itself for most of its work: it finds this wrapper again, for the folder is its exec path. Call it by an
# absolute path. By another name it is the command of that name.
here=${{0%/*}}
export GIT_EXEC_PATH="$here" GIT_TEMPLATE_DIR=
{START} --argv0 "${{0##*/}}" "$here/usr/bin/git" "$@"
"""

RSYNC_WRAPPER = f"""\
#!/bin/sh
# Copies trees within a guest.
here=${{0%/*}}
{START} "$here/usr/bin/rsync" "$@"
"""

TOOLS = (
    r"e2fsprogs|git|rsync|(lib)?python3.*|zlib1g|lib(acl|blkid|bz2|c|com-err|expat|ext2fs|ffi|gcc-s|lz4|lzma|ncursesw"
    r"|pcre2-8|popt|readline|sqlite3|ssl|tinfo|uuid|xxhash|zstd)[-.t\d]*"
)
"""The packages whose programs and libraries the tools are: git's closure also has Perl and curl in it.

What is missing shows when the tools are built, for each of them is started.
"""

COMPILED = ("collections", "concurrent/futures", "ctypes", "encodings", "importlib", "json", "multiprocessing", "re")
"""Of the packages in Python's library, what tests in a guest may want: compiling there costs seconds."""


@attrs.frozen
class Part:
    """One folder of the cache. A change of ``recipe`` rebuilds it wherever it is cached."""

    name: str
    recipe: int
    roots: tuple[str, ...]
    suites: tuple[str, ...]
    build: Build
    prefer: tuple[str, str] = ("", "")  # a suite, and the packages to take from it although it ranks low
    only: str = ""  # a pattern for the packages of the closure that are of use; all by default

    def pins(self, suites: Sequence[str]) -> Mapping[str, Mapping[str, int]]:
        """The priorities for apt to build this part, when apt knows ``suites``."""
        suite, packages = self.prefer
        banned = {other: {"*": -1} for other in suites if other not in self.suites}
        return banned | ({suite: {packages: 900}} if suite else {})

    def needs(self, package: str) -> bool:
        """Whether a package of the closure goes into this part."""
        return bool(re.fullmatch(self.only, package)) if self.only else True


def build_qemu(archives: Sequence[Path], into: Path) -> Facts:
    """Unpack QEMU and all its libraries."""
    unpack_tree(
        archives, (f"{LIBRARIES}/*.so*", "usr/bin/qemu-system-x86_64", "usr/share/qemu", "usr/share/seabios"), into
    )
    return {}


def build_kernel(archives: Sequence[Path], into: Path) -> Facts:
    """The image as ``vmlinuz``, and our modules with names that sort in the order to load them."""
    kernel = read_kernel(archives)
    modules = into / "modules"
    modules.mkdir(parents=True)
    for name, data in kernel.load_order():
        (modules / name).write_bytes(data)
    (into / "vmlinuz").write_bytes(kernel.image)
    return {"release": kernel.release}


def build_busybox(archives: Sequence[Path], into: Path) -> Facts:
    """The one static program."""
    into.mkdir()
    (into / "busybox").write_bytes(read_file(archives[0], "usr/bin/busybox"))
    return {}


def build_tools(archives: Sequence[Path], into: Path) -> Facts:
    """Programs that need nothing of the guest but a kernel and a shell: Python, mkfs.ext4, git and rsync."""
    kept = (f"{LIBRARIES}/*.so*", "usr/bin/python3.*[0-9]", "usr/lib/python3.*[0-9]")
    unpack_tree(archives, (*kept, "usr/bin/git", "usr/bin/rsync", "usr/sbin/mke2fs"), into)
    program = next(iter(sorted((into / "usr/bin").glob("python*"))), None)
    if program is None:
        raise PrepareError("the package python3 came without a program: hdvkit_vm.recipe must follow")
    wrapper = _write_program(into / "python", PYTHON_WRAPPER.replace("VERSION", program.name))
    _compile(wrapper, into / "usr/lib" / program.name)
    for name, text, arguments in (
        ("mkfs.ext4", MKFS_WRAPPER, ["-V"]),
        ("git", GIT_WRAPPER, ["--version"]),
        ("rsync", RSYNC_WRAPPER, ["--version"]),
    ):
        _prove(_write_program(into / name, text), arguments)
    (into / "git-upload-pack").symlink_to("git")  # what a clone starts by this name, and by a shell
    return {"python": program.name}


def _write_program(place: Path, text: str) -> Path:
    place.write_text(text)
    place.chmod(0o755)
    return place


def _compile(python: Path, library: Path) -> None:
    """Also proves that the unpacked Python runs, and has what tests count on."""
    shutil.rmtree(library / "test", ignore_errors=True)
    folders = [str(library), *(str(library / name) for name in COMPILED)]
    # The wrapper forbids bytecode, which is right for a guest; compileall writes it all the same.
    _prove(python, ["-m", "compileall", "-q", "-l", "--invalidation-mode", "unchecked-hash", *folders])
    _prove(python, ["-c", "import bz2, ctypes, fcntl, hashlib, lzma, mmap, os, pyexpat, readline, sqlite3, ssl, zlib"])


def _prove(tool: Path, arguments: Sequence[str]) -> None:
    """See that a tool runs, which it also does here."""
    done = subprocess.run((tool, *arguments), capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise PrepareError(f"the guests' {tool.name} does not run here ({done.stderr.strip()[-300:]})")


# seabios is among the preferred because QEMU needs one newer than the release's.
PARTS = (
    Part(
        "qemu",
        recipe=1,
        roots=("qemu-system-x86",),
        suites=("trixie", "trixie-backports"),
        prefer=("trixie-backports", "qemu-system-x86 qemu-system-common qemu-system-data seabios ipxe-qemu"),
        build=build_qemu,
    ),
    Part(
        "kernel-6.1",
        recipe=2,
        roots=("linux-image-cloud-amd64",),
        suites=("bookworm", "bookworm-security"),
        only=r"linux-image-6\.1\..*-cloud-amd64",
        build=build_kernel,
    ),
    Part(
        "kernel-7.x",
        recipe=2,
        roots=("linux-image-cloud-amd64",),
        suites=("trixie", "trixie-backports"),
        prefer=("trixie-backports", "linux-*"),
        only=r"linux-(base|binary|image|modules)-\d.*-cloud-amd64",
        build=build_kernel,
    ),
    Part(
        "busybox", recipe=1, roots=("busybox-static",), suites=("trixie",), only="busybox-static", build=build_busybox
    ),
    Part(
        "tools",
        recipe=3,
        roots=("python3", "e2fsprogs", "git", "rsync"),
        suites=("trixie",),
        only=TOOLS,
        build=build_tools,
    ),
)


def named_qemu() -> str:
    """What HDVKIT_QEMU says."""
    return os.environ.get("HDVKIT_QEMU", "")


def own_qemu(wrapper: Path) -> Path | None:
    """The QEMU that this machine has of its own, if it can speak vfio-user; ours, called by ``wrapper``, is none.

    Raises:
        PrepareError: HDVKIT_QEMU names one that cannot.
    """
    named = named_qemu()
    found = shutil.which(named or "qemu-system-x86_64")
    if found and Path(found).resolve() == wrapper.resolve():
        return None
    if found and speaks_vfio_user(Path(found)):
        return Path(found).absolute()
    if named:
        raise PrepareError(
            f"HDVKIT_QEMU is {named}, which is no QEMU with the device vfio-user-pci: "
            "name one of version 10.1 or newer, or unset it and have one fetched"
        )
    return None


def speaks_vfio_user(qemu: Path) -> bool:
    """Ask it; older ones, and some builds, lack the device."""
    # Not "-device help": a QEMU in a prefix then loads the modules of the QEMU of this machine, and aborts.
    return _runs(qemu, "-device", "vfio-user-pci,help")


def ends_with_its_parent(qemu: Path) -> bool:
    """Whether it has the option that kills it when the program that started it dies."""
    return _runs(qemu, "-run-with", "exit-with-parent=on", "-version")


def version(qemu: Path) -> str:
    """The first line of what it says about itself."""
    done = subprocess.run((qemu, "-version"), capture_output=True, text=True, stdin=subprocess.DEVNULL)
    return done.stdout.partition("\n")[0]


def _runs(qemu: Path, *arguments: str) -> bool:
    try:
        return not subprocess.run((qemu, *arguments), capture_output=True, stdin=subprocess.DEVNULL).returncode
    except OSError:
        return False
