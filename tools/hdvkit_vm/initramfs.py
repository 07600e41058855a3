"""Initramfs images: a writer for the newc archive format, and what our guests boot into.

Needs neither cpio nor depmod. Kernels accept several archives one after the other, each compressed or not, so what
belongs to one virtual machine is appended to the image of its kernel.
"""

import gzip
import stat
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

import attrs

SCRIPTS = Path(__file__).parent / "guest"

DIRECTORY = stat.S_IFDIR | 0o755
PROGRAM = stat.S_IFREG | 0o755
FILE = stat.S_IFREG | 0o644
TERMINAL = stat.S_IFCHR | 0o600

FOLDERS = ("bin", "dev", "etc", "lib/modules", "mnt", "proc", "root", "run", "sys", "tmp")
"""Exist in the guest from the start."""


@attrs.frozen
class Entry:
    """One file, directory or character device of an archive, owned by root."""

    path: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def archive(entries: Iterable[Entry]) -> bytes:
    """The entries as a newc archive. Parents must come before what they hold; missing ones are added.

    The form is "initramfs buffer format" in the kernel's documentation: 13 numbers of 8 hexadecimal digits, the name
    with its NUL, the data; name and data are padded to 4 bytes.
    """
    parts: list[bytes] = []
    seen: set[str] = set()
    for number, entry in enumerate(_with_parents(entries, seen), start=1):
        parts.append(_record(number, entry))
    parts.append(_record(0, Entry("TRAILER!!!", 0)))
    return b"".join(parts)


def _with_parents(entries: Iterable[Entry], seen: set[str]) -> Iterable[Entry]:
    for entry in entries:
        path = entry.path.strip("/")
        for parent in reversed(PurePosixPath(path).parents[:-1]):
            if str(parent) not in seen:
                seen.add(str(parent))
                yield Entry(str(parent), DIRECTORY)
        if path not in seen:
            seen.add(path)
            yield attrs.evolve(entry, path=path)


def _record(number: int, entry: Entry) -> bytes:
    name = entry.path.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    fields = (number, entry.mode, 0, 0, links, 0, len(entry.data), 0, 0, *entry.device, len(name), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name
    return head + bytes(-len(head) % 4) + entry.data + bytes(-len(entry.data) % 4)


def base_image(busybox: bytes, modules: Sequence[tuple[str, bytes]]) -> bytes:
    """The compressed image of a guest: busybox, its init and agent, and kernel modules in the order to load them."""
    order = "".join(f"{name}\n" for name, _ in modules)
    entries = [
        *(Entry(folder, DIRECTORY) for folder in FOLDERS),
        Entry("dev/console", TERMINAL, device=(5, 1)),
        Entry("bin/busybox", PROGRAM, busybox),
        *(Entry(script.stem, PROGRAM, script.read_bytes()) for script in sorted(SCRIPTS.glob("*.sh"))),
        *(Entry(f"lib/modules/{name}", FILE, data) for name, data in modules),
        Entry("lib/modules/order", FILE, order.encode()),
    ]
    # Level 1: decompression is what a booting guest pays for, and it costs the same at every level.
    return gzip.compress(archive(entries), 1, mtime=0)


def with_files(base: Path, files: Mapping[str, bytes], folder: Path) -> Path:
    """A new image in ``folder``: that of ``base`` with programs added."""
    image = folder / "initramfs"
    image.write_bytes(base.read_bytes() + extra_image(files))
    return image


def extra_image(files: Mapping[str, bytes]) -> bytes:
    """An image to append, with programs of one virtual machine. What has the name of an earlier file replaces it."""
    return gzip.compress(archive(Entry(path, PROGRAM, data) for path, data in files.items()), 1, mtime=0)
