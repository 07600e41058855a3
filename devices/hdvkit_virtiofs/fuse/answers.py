"""What a file system answers with: attributes, entries, open files. Knows no byte layouts."""

import stat
from typing import Final, Generic, NamedTuple, TypeVar

from hdvkit_virtiofs.fuse.spec import MAX_OFFSET

Node = TypeVar("Node")
Handle = TypeVar("Handle")


class Attributes(NamedTuple):
    """What ``stat`` tells of one file. Times are nanoseconds since 1970."""

    ino: int
    mode: int
    """File type and permission bits, as ``st_mode``."""
    size: int = 0
    nlink: int = 1
    uid: int = 0
    gid: int = 0
    rdev: int = 0
    """Device number of a device node, in the kernel's 32-bit encoding of major and minor."""
    blocks: int = 0
    """Space taken, in units of 512 bytes."""
    blksize: int = 4096
    atime_ns: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0
    submount: bool = False
    """A directory where another file system begins: the guest shows it as a mount of its own."""
    timeout: float | None = None
    """Seconds the guest may rely on this; None for what the share's cache policy says."""

    @property
    def is_directory(self) -> bool:
        """Whether this is a directory."""
        return stat.S_ISDIR(self.mode)


class Statx(NamedTuple):
    """The answer to ``statx``: attributes, and what only statx can tell."""

    attributes: Attributes
    btime_ns: int | None = None
    """Time of birth, or None where the file system does not know it."""
    dev: int = 0
    """Device number of the file system that holds the file, as ``st_dev``."""


class Entry(NamedTuple, Generic[Node]):
    """A name that was found or made: the node behind it and its attributes.

    Each Entry a file system returns is one reference the guest now holds on ``node``.
    """

    node: Node
    attributes: Attributes
    generation: int = 0
    """Tells files apart that had the same ``ino`` one after the other."""
    timeout: float | None = None
    """Seconds the guest may rely on the name; None for what the share's cache policy says."""


class Opened(NamedTuple, Generic[Handle]):
    """An open file or directory."""

    handle: Handle
    """Anything; it comes back with each call on the open file until ``release``."""
    flags: int = 0
    """``FOPEN_*`` bits for the guest, ORed with what the share's cache policy says."""


class DirEntry(NamedTuple):
    """One name in a directory."""

    name: bytes
    ino: int
    type: int
    """File type bits only, as ``stat.S_IFMT(st_mode)``; 0 when unknown."""
    offset: int
    """Where the listing continues behind this name: the guest gives it back to ``readdir``. Never 0."""


class StatFs(NamedTuple):
    """What ``statvfs`` tells of a file system. Sizes are in blocks of ``frsize`` bytes."""

    blocks: int
    bfree: int
    bavail: int
    files: int
    ffree: int
    bsize: int = 4096
    frsize: int = 4096
    namelen: int = 255


class Changes(NamedTuple):
    """What ``setattr`` is to change; None leaves a field alone. Times are nanoseconds since 1970."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None
    ctime_ns: int | None = None
    kill_suidgid: bool = False
    """The setuid bit, and setgid of an executable file, must go with this change."""


KILL_SUIDGID: Final = Changes(kill_suidgid=True)
"""Nothing else is to change."""


class FileLock(NamedTuple):
    """A lock on a file, held or wanted."""

    owner: int
    """Who holds it: for POSIX locks a guest process, for ``flock`` an open file of the guest."""
    type: int
    """``F_RDLCK``, ``F_WRLCK`` or ``F_UNLCK``, with Linux's numbers."""
    start: int = 0
    end: int = MAX_OFFSET
    """The last byte of the range."""
    pid: int = 0
    flock: bool = False
    """A lock of ``flock(2)``, on the whole file; it never meets POSIX locks."""


class Context(NamedTuple):
    """Who asks: the guest process behind a request."""

    uid: int = 0
    gid: int = 0
    pid: int = 0
    umask: int = 0
    """Already taken off ``mode``, unless ``DONT_MASK`` was negotiated, as it is with ``POSIX_ACL``: then a file system
    without a default ACL on the directory takes it off itself."""
    groups: tuple[int, ...] | None = ()
    """With ``CREATE_SUPP_GROUP``: a further group of the caller, if it owns the directory something is made in. None
    from a guest that cannot tell and has judged by it: ``mode`` has setgid only where the caller may give it."""
    security: tuple[tuple[bytes, bytes], ...] = ()
    """With ``SECURITY_CTX``: extended attributes a new file must be born with, names and values."""
    in_place: bool = False
    """A write that goes to its offset though its file was opened with O_APPEND: a page of the guest's cache, or of a
    process that took O_APPEND off again."""
