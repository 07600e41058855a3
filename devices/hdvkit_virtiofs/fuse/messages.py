"""What a guest asks for: one tuple for each kind of request. Knows no byte layouts and no rules.

Everything in them has been checked by :mod:`.decoders`; node numbers and file handles are only numbers until
the device has found them in its tables.
"""

from typing import NamedTuple, NewType, TypeAlias

from hdvkit_virtiofs.fuse.answers import Changes

NodeId = NewType("NodeId", int)
"""What the guest calls a node: a number the device gave it, or tries to forge."""
FileHandle = NewType("FileHandle", int)
"""What the guest calls an open file."""


class InHeader(NamedTuple):
    """The first 40 bytes of each request."""

    length: int
    """Of the whole request with this header and all payload, in bytes."""
    opcode: int
    unique: int
    """Names the request in its answer and in INTERRUPT."""
    nodeid: NodeId
    uid: int
    gid: int
    pid: int
    total_extlen: int
    """Length of the extensions at the end of the body, in units of 8 bytes."""


class Empty(NamedTuple):
    """READLINK, STATFS, SYNCFS, DESTROY: the header says it all."""


class Init(NamedTuple):
    """INIT. With a ``major`` other than ours nothing behind ``minor`` means anything."""

    major: int
    minor: int
    max_readahead: int = 0
    flags: int = 0
    flags2: int = 0
    """Bits 32 to 63 of :class:`.spec.InitFlag`, valid only with ``INIT_EXT`` in ``flags``."""


class Interrupt(NamedTuple):
    """INTERRUPT: the guest no longer waits for the request ``unique``."""

    unique: int


class Lookup(NamedTuple):
    """LOOKUP."""

    name: bytes


class Forget(NamedTuple):
    """FORGET: ``nlookup`` references less on the node. The number is the guest's word, nothing more."""

    nlookup: int


class ForgetOne(NamedTuple):
    """One line of BATCH_FORGET."""

    nodeid: NodeId
    nlookup: int


class BatchForget(NamedTuple):
    """BATCH_FORGET."""

    forgets: tuple[ForgetOne, ...]


class GetAttr(NamedTuple):
    """GETATTR, by an open file when ``fh`` is given."""

    fh: FileHandle | None


class GetStatx(NamedTuple):
    """STATX, by an open file when ``fh`` is given."""

    fh: FileHandle | None
    sx_flags: int
    mask: int


class SetAttr(NamedTuple):
    """SETATTR; None leaves a field alone. Times are nanoseconds since 1970, negative before."""

    valid: int
    fh: FileHandle | None = None
    lock_owner: int | None = None
    mode: int | None = None
    """Permission bits only."""
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None
    ctime_ns: int | None = None
    atime_now: bool = False
    """Set atime to the host's clock; ``atime_ns`` is None then."""
    mtime_now: bool = False
    kill_suidgid: bool = False

    def changes(self, now_ns: int) -> Changes:
        """Return what a file system is asked to change; ``now_ns`` is what the guest calls "now"."""
        return Changes(
            mode=self.mode,
            uid=self.uid,
            gid=self.gid,
            size=self.size,
            atime_ns=now_ns if self.atime_now else self.atime_ns,
            mtime_ns=now_ns if self.mtime_now else self.mtime_ns,
            ctime_ns=self.ctime_ns,
            kill_suidgid=self.kill_suidgid,
        )


class Access(NamedTuple):
    """ACCESS; ``mask`` as for ``access(2)``."""

    mask: int


class Symlink(NamedTuple):
    """SYMLINK."""

    name: bytes
    target: bytes


class MkNod(NamedTuple):
    """MKNOD."""

    mode: int
    """Type and permission bits; the type is never a directory or a link."""
    rdev: int
    umask: int
    name: bytes


class MkDir(NamedTuple):
    """MKDIR; ``mode`` has permission bits only."""

    mode: int
    umask: int
    name: bytes


class Remove(NamedTuple):
    """UNLINK and RMDIR."""

    name: bytes


class Rename(NamedTuple):
    """RENAME and RENAME2."""

    new_directory: NodeId
    flags: int
    """``RENAME_*``; 0 from RENAME."""
    name: bytes
    new_name: bytes


class Link(NamedTuple):
    """LINK; the header's node is the directory that gets the name."""

    old_node: NodeId
    name: bytes


class Open(NamedTuple):
    """OPEN and OPENDIR."""

    flags: int
    """Linux open flags."""
    open_flags: int


class Create(NamedTuple):
    """CREATE; ``mode`` has permission bits only."""

    flags: int
    mode: int
    umask: int
    open_flags: int
    name: bytes


class TmpFile(NamedTuple):
    """TMPFILE: CREATE of a file without a name."""

    flags: int
    mode: int
    umask: int
    open_flags: int


class Release(NamedTuple):
    """RELEASE and RELEASEDIR."""

    fh: FileHandle
    flags: int
    release_flags: int
    lock_owner: int


class Flush(NamedTuple):
    """FLUSH."""

    fh: FileHandle
    lock_owner: int


class FSync(NamedTuple):
    """FSYNC and FSYNCDIR."""

    fh: FileHandle
    datasync: bool


class Read(NamedTuple):
    """READ; ``size`` is what the guest wrote there, maybe more than its buffer holds."""

    fh: FileHandle
    offset: int
    size: int
    read_flags: int
    lock_owner: int
    flags: int


class Write(NamedTuple):
    """WRITE without its payload: ``size`` bytes that stay in guest memory."""

    fh: FileHandle
    offset: int
    size: int
    write_flags: int
    lock_owner: int
    flags: int


class ReadDir(NamedTuple):
    """READDIR and READDIRPLUS; ``offset`` is 0 or claims to come from an earlier listing."""

    fh: FileHandle
    offset: int
    size: int


class SetXAttr(NamedTuple):
    """SETXATTR."""

    flags: int
    setxattr_flags: int
    name: bytes
    value: bytes


class GetXAttr(NamedTuple):
    """GETXATTR; with ``size`` 0 the guest asks only how long the value is."""

    size: int
    name: bytes


class ListXAttr(NamedTuple):
    """LISTXATTR; with ``size`` 0 the guest asks only how long the list is."""

    size: int


class RemoveXAttr(NamedTuple):
    """REMOVEXATTR."""

    name: bytes


class Lock(NamedTuple):
    """GETLK, SETLK and SETLKW."""

    fh: FileHandle
    owner: int
    start: int
    end: int
    type: int
    pid: int
    lock_flags: int


class FAllocate(NamedTuple):
    """FALLOCATE; ``mode`` holds ``FALLOC_FL_*`` bits."""

    fh: FileHandle
    offset: int
    length: int
    mode: int


class LSeek(NamedTuple):
    """LSEEK; ``whence`` is ``SEEK_DATA`` or ``SEEK_HOLE``, with Linux's numbers."""

    fh: FileHandle
    offset: int
    whence: int


class CopyFileRange(NamedTuple):
    """COPY_FILE_RANGE and COPY_FILE_RANGE_64; the header's node is the one copied from."""

    fh: FileHandle
    offset: int
    to_node: NodeId
    to_fh: FileHandle
    to_offset: int
    length: int
    flags: int


class Ioctl(NamedTuple):
    """IOCTL."""

    fh: FileHandle
    flags: int
    command: int
    argument: int
    out_size: int
    data: bytes


Request: TypeAlias = (
    Empty
    | Init
    | Interrupt
    | Lookup
    | Forget
    | BatchForget
    | GetAttr
    | GetStatx
    | SetAttr
    | Access
    | Symlink
    | MkNod
    | MkDir
    | Remove
    | Rename
    | Link
    | Open
    | Create
    | TmpFile
    | Release
    | Flush
    | FSync
    | Read
    | Write
    | ReadDir
    | SetXAttr
    | GetXAttr
    | ListXAttr
    | RemoveXAttr
    | Lock
    | FAllocate
    | LSeek
    | CopyFileRange
    | Ioctl
)
