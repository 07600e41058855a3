"""The numbers of the FUSE protocol, 7.27 to 7.46, named as in ``linux/fuse.h``. Holds no logic."""

from enum import IntEnum, IntFlag
from typing import Final

KERNEL_VERSION: Final = 7
KERNEL_MINOR_VERSION: Final = 46
"""The newest minor version we speak."""
OLDEST_MINOR_VERSION: Final = 27
"""The oldest we accept: Linux 4.18. The first kernel with virtio-fs (5.4) speaks 7.31."""

ROOT_ID: Final = 1
UNKNOWN_INO: Final = 0xFFFF_FFFF
"""Inode number of a directory entry that has none; 0 would hide the name from guest programs."""
UNIQUE_RESEND: Final = 1 << 63
"""Bit of ``unique``: the guest sends this request a second time."""

NAME_MAX: Final = 255
PATH_MAX: Final = 4096
"""Of a symbolic link's target, with the NUL that ends it."""
XATTR_NAME_MAX: Final = 255
XATTR_SIZE_MAX: Final = 65536
MAX_FORGETS: Final = 4096
"""Of one BATCH_FORGET; as long as the longest other request then. Linux sends one FORGET each over virtio."""
MAX_NR_SECCTX: Final = 31
"""Extensions of a type up to this one are so many security contexts."""
EXT_GROUPS: Final = 32
"""The type of the extension that names groups of the caller."""
MAX_OFFSET: Final = (1 << 63) - 1
"""The last byte any file can have: Linux counts offsets in a signed 64-bit number."""

PAGE_SIZE: Final = 4096
DEFAULT_MAX_PAGES: Final = 32
"""Pages of one request from a guest without ``InitFlag.MAX_PAGES``."""
MIN_MAX_WRITE: Final = 64 * 1024
MAX_MAX_WRITE: Final = 1024 * 1024

NSEC_PER_SEC: Final = 1_000_000_000


class Opcode(IntEnum):
    """What a request wants. Protocol: ``enum fuse_opcode``."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    GETLK = 31
    SETLK = 32
    SETLKW = 33
    ACCESS = 34
    CREATE = 35
    INTERRUPT = 36
    BMAP = 37
    DESTROY = 38
    IOCTL = 39
    POLL = 40
    NOTIFY_REPLY = 41
    BATCH_FORGET = 42
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    LSEEK = 46
    COPY_FILE_RANGE = 47
    SETUPMAPPING = 48
    REMOVEMAPPING = 49
    SYNCFS = 50
    TMPFILE = 51
    STATX = 52
    COPY_FILE_RANGE_64 = 53
    CUSE_INIT = 4096


class InitFlag(IntFlag):
    """What INIT negotiates: ``flags``, and ``flags2`` from bit 32 on."""

    ASYNC_READ = 1 << 0
    POSIX_LOCKS = 1 << 1
    FILE_OPS = 1 << 2
    ATOMIC_O_TRUNC = 1 << 3
    EXPORT_SUPPORT = 1 << 4
    BIG_WRITES = 1 << 5
    DONT_MASK = 1 << 6
    SPLICE_WRITE = 1 << 7
    SPLICE_MOVE = 1 << 8
    SPLICE_READ = 1 << 9
    FLOCK_LOCKS = 1 << 10
    HAS_IOCTL_DIR = 1 << 11
    AUTO_INVAL_DATA = 1 << 12
    DO_READDIRPLUS = 1 << 13
    READDIRPLUS_AUTO = 1 << 14
    ASYNC_DIO = 1 << 15
    WRITEBACK_CACHE = 1 << 16
    NO_OPEN_SUPPORT = 1 << 17
    PARALLEL_DIROPS = 1 << 18
    HANDLE_KILLPRIV = 1 << 19
    POSIX_ACL = 1 << 20
    ABORT_ERROR = 1 << 21
    MAX_PAGES = 1 << 22
    CACHE_SYMLINKS = 1 << 23
    NO_OPENDIR_SUPPORT = 1 << 24
    EXPLICIT_INVAL_DATA = 1 << 25
    MAP_ALIGNMENT = 1 << 26
    SUBMOUNTS = 1 << 27
    HANDLE_KILLPRIV_V2 = 1 << 28
    SETXATTR_EXT = 1 << 29
    INIT_EXT = 1 << 30
    SECURITY_CTX = 1 << 32
    HAS_INODE_DAX = 1 << 33
    CREATE_SUPP_GROUP = 1 << 34
    HAS_EXPIRE_ONLY = 1 << 35
    DIRECT_IO_ALLOW_MMAP = 1 << 36
    PASSTHROUGH = 1 << 37
    NO_EXPORT_SUPPORT = 1 << 38
    HAS_RESEND = 1 << 39
    ALLOW_IDMAP = 1 << 40
    OVER_IO_URING = 1 << 41
    REQUEST_TIMEOUT = 1 << 42
    HAS_IO_URING_BUFPOOL = 1 << 43


class OpenReply(IntFlag):
    """What the host says of a file it opened. Protocol: ``FOPEN_*``."""

    DIRECT_IO = 1 << 0
    KEEP_CACHE = 1 << 1
    NONSEEKABLE = 1 << 2
    CACHE_DIR = 1 << 3
    STREAM = 1 << 4
    NOFLUSH = 1 << 5
    PARALLEL_DIRECT_WRITES = 1 << 6
    PASSTHROUGH = 1 << 7
    IO_URING_ZERO_COPY = 1 << 8


# The bits below are tested for each request: plain ints, because IntFlag arithmetic costs a microsecond.

FATTR_MODE: Final = 1 << 0
FATTR_UID: Final = 1 << 1
FATTR_GID: Final = 1 << 2
FATTR_SIZE: Final = 1 << 3
FATTR_ATIME: Final = 1 << 4
FATTR_MTIME: Final = 1 << 5
FATTR_FH: Final = 1 << 6
FATTR_ATIME_NOW: Final = 1 << 7
FATTR_MTIME_NOW: Final = 1 << 8
FATTR_LOCKOWNER: Final = 1 << 9
FATTR_CTIME: Final = 1 << 10
FATTR_KILL_SUIDGID: Final = 1 << 11
FATTR_ALL: Final = (1 << 12) - 1

GETATTR_FH: Final = 1 << 0
OPEN_KILL_SUIDGID: Final = 1 << 0
READ_LOCKOWNER: Final = 1 << 1
WRITE_CACHE: Final = 1 << 0
WRITE_LOCKOWNER: Final = 1 << 1
WRITE_KILL_SUIDGID: Final = 1 << 2
RELEASE_FLUSH: Final = 1 << 0
RELEASE_FLOCK_UNLOCK: Final = 1 << 1
FSYNC_FDATASYNC: Final = 1 << 0
LK_FLOCK: Final = 1 << 0
IOCTL_COMPAT: Final = 1 << 0
IOCTL_UNRESTRICTED: Final = 1 << 1
IOCTL_32BIT: Final = 1 << 3
IOCTL_DIR: Final = 1 << 4
SETXATTR_ACL_KILL_SGID: Final = 1 << 0
ATTR_SUBMOUNT: Final = 1 << 0
ATTR_DAX: Final = 1 << 1

# What the guest's system calls pass through the protocol: numbers of Linux, whatever the host is.

O_RDONLY: Final = 0o0
O_WRONLY: Final = 0o1
O_RDWR: Final = 0o2
O_ACCMODE: Final = 0o3
O_CREAT: Final = 0o100
O_EXCL: Final = 0o200
O_TRUNC: Final = 0o1000
O_APPEND: Final = 0o2000
XATTR_CREATE: Final = 1 << 0
XATTR_REPLACE: Final = 1 << 1
RENAME_NOREPLACE: Final = 1 << 0
RENAME_EXCHANGE: Final = 1 << 1
RENAME_WHITEOUT: Final = 1 << 2
FALLOC_FL_KEEP_SIZE: Final = 1 << 0
FALLOC_FL_PUNCH_HOLE: Final = 1 << 1
FALLOC_FL_ZERO_RANGE: Final = 1 << 4
FS_IOC_GETFLAGS: Final = 0x8008_6601
FS_IOC_SETFLAGS: Final = 0x4008_6602
FS_IOC_GETVERSION: Final = 0x8008_7601
FS_IOC_FSGETXATTR: Final = 0x801C_581F
FS_IOC_FSSETXATTR: Final = 0x401C_5820
SEEK_DATA: Final = 3
SEEK_HOLE: Final = 4
F_UNLCK: Final = 2
"""The last of the three lock types: F_RDLCK, F_WRLCK, F_UNLCK."""
STATX_BASIC_STATS: Final = 0x7FF
STATX_BTIME: Final = 0x800
