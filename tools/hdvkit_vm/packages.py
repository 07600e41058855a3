"""What is done with packages once they are on disk: unpack trees, pick a kernel apart. No network, no apt."""

import lzma
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import attrs

from hdvkit_vm.errors import PrepareError

MODULES = (
    "virtio_ring",
    "virtio",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "fuse",
    "virtiofs",
    "rng_core",
    "virtio_rng",
    "loop",
)
"""What our guests load, each after what it depends on. Every kernel has some of these built in."""

KERNEL_IMAGE = re.compile(r"boot/vmlinuz-(?P<release>.+)|usr/lib/modules/(?P<release2>[^/]+)/vmlinuz")
MODULE = re.compile(r".*/(?P<name>[^/]+)\.ko(\.xz)?")


@attrs.define
class Kernel:
    """A kernel as it came out of its packages."""

    release: str = ""
    image: bytes = b""
    modules: dict[str, bytes] = attrs.Factory(dict)
    builtin: set[str] = attrs.Factory(set)

    def load_order(self) -> list[tuple[str, bytes]]:
        """The modules to load, in that order, with the file names to give them.

        Raises:
            PrepareError: The kernel has one of them neither as a module nor built in.
        """
        wanted = [name for name in MODULES if name not in self.builtin]
        missing = [name for name in wanted if name not in self.modules]
        if missing or not self.image:
            raise PrepareError(
                f"the kernel {self.release or 'of Debian'} came without {', '.join(missing) or 'an image'}: "
                "its packages have changed, and hdvkit_vm.packages or hdvkit_vm.recipe must follow"
            )
        return [(f"{number:02}-{name}.ko", self.modules[name]) for number, name in enumerate(wanted)]


def unpack_tree(archives: Iterable[Path], keep: Iterable[str], into: Path) -> None:
    """Unpack packages over each other without running their scripts, and keep what matches the patterns.

    The rest is not only dead weight: unpacked by root, Debian's base programs would lie about with their setuid bits.
    """
    everything = into.with_name(f"{into.name}.unpacked")
    for package in archives:
        done = subprocess.run(("dpkg-deb", "--extract", package, everything), stdin=subprocess.DEVNULL)
        if done.returncode:
            raise PrepareError(f"dpkg-deb could not unpack {package.name}: is the disk full?")
    for pattern in keep:
        for found in everything.glob(pattern):
            place = into / found.relative_to(everything)
            place.parent.mkdir(parents=True, exist_ok=True)
            found.rename(place)
    shutil.rmtree(everything)


def read_kernel(archives: Iterable[Path]) -> Kernel:
    """Pick the image, our modules and the list of what is built in out of a kernel's packages."""
    kernel = Kernel()
    for package in archives:
        for name, data in _members(package, _is_of_the_kernel):
            if found := KERNEL_IMAGE.fullmatch(name):
                kernel.release = found["release"] or found["release2"]
                kernel.image = data
            elif name.endswith("/modules.builtin"):
                kernel.builtin = {_module_name(line) for line in data.decode().splitlines()}
            else:
                kernel.modules[_module_name(name)] = lzma.decompress(data) if name.endswith(".xz") else data
    return kernel


def _is_of_the_kernel(name: str) -> bool:
    wanted = KERNEL_IMAGE.fullmatch(name) or name.endswith("/modules.builtin")
    return bool(wanted) or _module_name(name) in MODULES


def _module_name(path: str) -> str:
    """Files say virtio-rng, lists say virtio_rng, and both mean the same module."""
    found = MODULE.fullmatch(path)
    return found["name"].replace("-", "_") if found else ""


def read_file(package: Path, name: str) -> bytes:
    """One file of a package.

    Raises:
        PrepareError: The package has no such file.
    """
    found = dict(_members(package, lambda member: member == name))
    if name not in found:
        raise PrepareError(f"{package.name} has no {name}: the package has changed, and hdvkit_vm.recipe must follow")
    return found[name]


def _members(package: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """The wanted regular files of a package, streamed: a kernel has a hundred megabytes nobody needs."""
    command = ("dpkg-deb", "--fsys-tarfile", str(package))
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        with tarfile.open(fileobj=process.stdout, mode="r|") as tar:
            for member in tar:
                name = member.name.removeprefix("./")
                if member.isreg() and wanted(name):
                    file = tar.extractfile(member)
                    assert file is not None
                    yield name, file.read()
    if process.returncode:
        raise PrepareError(f"dpkg-deb could not read {package.name}: is the disk full?")
