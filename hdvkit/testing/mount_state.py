"""What a guest kernel remembers of one mounted virtio-fs, and how a program in the guest sees a file.

Holds the reference counts and the requests the device does not know. Resolves no paths: that is `mount_walk`.
"""

import errno
import stat
from collections.abc import Awaitable, Callable
from typing import NamedTuple, Self, TypeVar

from hdvkit.testing.fuse_messages import ROOT_ID, Opcode, ProtocolError
from hdvkit.testing.fuse_replies import Attr, Dirent, DirentPlus, EntryOut

T = TypeVar("T")
D = TypeVar("D")

_FILE_TYPES = frozenset(
    (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK)
)


class Stat(NamedTuple):
    """A file's attributes under the names of ``os.stat_result``; ``st_rdev`` is coded as FUSE carries it."""

    st_mode: int
    st_ino: int
    st_nlink: int
    st_uid: int
    st_gid: int
    st_size: int
    st_blocks: int
    st_blksize: int
    st_rdev: int
    st_atime_ns: int
    st_mtime_ns: int
    st_ctime_ns: int

    @classmethod
    def of(cls, attr: Attr) -> Self:
        """Read a fuse_attr, whose seconds are signed in spite of their type."""
        return cls(
            attr.mode, attr.ino, attr.nlink, attr.uid, attr.gid, attr.size, attr.blocks, attr.blksize, attr.rdev,
            _ns(attr.atime, attr.atimensec), _ns(attr.mtime, attr.mtimensec), _ns(attr.ctime, attr.ctimensec),
        )  # fmt: skip

    @property
    def st_atime(self) -> float:
        """Seconds of the last access."""
        return self.st_atime_ns / 1e9

    @property
    def st_mtime(self) -> float:
        """Seconds of the last change of the contents."""
        return self.st_mtime_ns / 1e9

    @property
    def st_ctime(self) -> float:
        """Seconds of the last change of the attributes."""
        return self.st_ctime_ns / 1e9


class DirEntry(NamedTuple):
    """One name in a directory; ``stat`` is None where the device gave no attributes with it."""

    name: str
    ino: int
    type: int  # as in d_type: the file type of st_mode, shifted by 12
    stat: Stat | None

    @classmethod
    def of(cls, dirent: Dirent, entry: EntryOut | None) -> Self:
        """Join what the directory says and what LOOKUP or READDIRPLUS said."""
        found = Stat.of(entry.attr) if entry is not None and entry.nodeid else None
        return cls(to_text(dirent.name), dirent.ino, dirent.type, found)

    def is_dir(self) -> bool:
        """Whether it is a directory; a symlink to one is not."""
        return self.type == stat.S_IFDIR >> 12

    def is_file(self) -> bool:
        """Whether it is a regular file."""
        return self.type == stat.S_IFREG >> 12

    def is_symlink(self) -> bool:
        """Whether it is a symlink."""
        return self.type == stat.S_IFLNK >> 12


class Nodes:
    """How many references the guest holds to each node, and which nodes are in use.

    A node in use (an open file, a walk that passes through) is pinned and will not be forgotten.
    """

    def __init__(self) -> None:
        self._lookups: dict[int, int] = {}
        self._pins: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._lookups)

    @property
    def in_use(self) -> bool:
        """Whether any node is pinned."""
        return bool(self._pins)

    def count(self, nodeid: int) -> int:
        """How many references the guest owes for ``nodeid``."""
        return self._lookups.get(nodeid, 0)

    def gain(self, entry: EntryOut) -> None:
        """Count the reference that came with an entry; by Linux's rules its attributes must make sense."""
        if entry.nodeid == ROOT_ID:
            raise ProtocolError("the device gave the root as a child")
        self._lookups[entry.nodeid] = self._lookups.get(entry.nodeid, 0) + 1
        if stat.S_IFMT(entry.attr.mode) not in _FILE_TYPES or entry.attr.size >> 63:
            raise ProtocolError(f"node {entry.nodeid} has mode {entry.attr.mode:#o}, size {entry.attr.size}")

    def gain_listed(self, listed: list[DirentPlus]) -> None:
        """Count what READDIRPLUS brought; the entries of "." and ".." carry nothing."""
        wrong = [entry.nodeid for entry, dirent in listed if is_dot(dirent.name) and entry.nodeid]
        for entry, dirent in listed:
            if entry.nodeid and not is_dot(dirent.name):
                self.gain(entry)
        # Linux never gives these back: a device that counts them can never free the node.
        if wrong:
            raise ProtocolError(f'READDIRPLUS gave node {wrong[0]} for "." or ".."')

    def pin(self, nodeid: int) -> None:
        """Keep a node until ``unpin``."""
        self._pins[nodeid] = self._pins.get(nodeid, 0) + 1

    def unpin(self, nodeid: int) -> None:
        """Undo one ``pin``."""
        self._pins[nodeid] -= 1
        if not self._pins[nodeid]:
            del self._pins[nodeid]

    def take_unused(self) -> list[tuple[int, int]]:
        """Take what is not pinned out of the books, as (nodeid, nlookup); the caller must send it as FORGET."""
        unused = [(nodeid, count) for nodeid, count in self._lookups.items() if nodeid not in self._pins]
        for nodeid, _ in unused:
            del self._lookups[nodeid]
        return unused


class MountState:
    """One mount, whoever uses it."""

    def __init__(self, umask: int, readdir_size: int) -> None:
        self.umask = umask
        self.readdir_size = readdir_size
        self.mounted = False
        self.nodes = Nodes()
        self.lacks: set[Opcode] = set()

    async def optional(self, opcode: Opcode, request: Callable[[], Awaitable[T]], otherwise: D) -> T | D:
        """Ask, unless the device answered ENOSYS before: Linux remembers, and does without."""
        if opcode not in self.lacks:
            try:
                return await request()
            except OSError as error:
                if error.errno != errno.ENOSYS:
                    raise
                self.lacks.add(opcode)
        return otherwise


def is_dot(name: bytes) -> bool:
    """Whether a name means a directory itself or its parent."""
    return name in (b".", b"..")


def to_text(name: bytes) -> str:
    """A name as Python's os functions give it."""
    return name.decode("utf-8", "surrogateescape")


def _ns(seconds: int, nanoseconds: int) -> int:
    signed = seconds - (1 << 64) if seconds >> 63 else seconds
    return signed * 1_000_000_000 + nanoseconds
