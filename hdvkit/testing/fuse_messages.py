"""FUSE's numbers as the guest uses them: opcodes, flags, headers.

Written from `<linux/fuse.h>` and from nothing of the device side, so that the two check each other. No I/O.
"""

from enum import IntEnum
from struct import Struct

ROOT_ID = 1
PAGE_SIZE = 4096
NAME_MAX = 1024  # Linux: FUSE_NAME_MAX, also the longest name it accepts from a directory
MAX_ERRNO = 511  # Linux refuses a reply whose error is beyond it

IN_HEADER = Struct("<IIQQIIIHH")  # len, opcode, unique, nodeid, uid, gid, pid, total_extlen, padding
OUT_HEADER = Struct("<IiQ")  # len, error, unique


class ProtocolError(Exception):
    """The device broke the FUSE protocol. The request has no answer; what the device holds is unknown."""


class Opcode(IntEnum):
    """What a request asks for."""

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


OPCODE_NAMES = {int(opcode): opcode.name for opcode in Opcode}


class Init:
    """Flags of INIT; those above bit 31 travel in ``flags2``."""

    ASYNC_READ = 1 << 0
    POSIX_LOCKS = 1 << 1
    ATOMIC_O_TRUNC = 1 << 3
    BIG_WRITES = 1 << 5
    DONT_MASK = 1 << 6
    FLOCK_LOCKS = 1 << 10
    DO_READDIRPLUS = 1 << 13
    READDIRPLUS_AUTO = 1 << 14
    WRITEBACK_CACHE = 1 << 16
    NO_OPEN_SUPPORT = 1 << 17
    POSIX_ACL = 1 << 20
    MAX_PAGES = 1 << 22
    NO_OPENDIR_SUPPORT = 1 << 24
    SUBMOUNTS = 1 << 27
    HANDLE_KILLPRIV_V2 = 1 << 28
    SETXATTR_EXT = 1 << 29
    INIT_EXT = 1 << 30
    SECURITY_CTX = 1 << 32
    CREATE_SUPP_GROUP = 1 << 34
    HAS_EXPIRE_ONLY = 1 << 35


class Fattr:
    """Bits of ``setattr_in.valid``."""

    MODE, UID, GID, SIZE, ATIME, MTIME, FH = (1 << bit for bit in range(7))
    ATIME_NOW = 1 << 7
    MTIME_NOW = 1 << 8
    LOCKOWNER = 1 << 9
    CTIME = 1 << 10
    KILL_SUIDGID = 1 << 11


class Open:
    """Linux's open(2) flags, whatever system the tests run on, and the flags of OPEN and its reply."""

    RDONLY, WRONLY, RDWR, ACCMODE = 0, 1, 2, 3
    CREAT = 0o100
    EXCL = 0o200
    TRUNC = 0o1000
    APPEND = 0o2000
    LARGEFILE = 0o100000
    DIRECTORY = 0o200000
    NOFOLLOW = 0o400000
    TMPFILE = 0o20000000 | DIRECTORY
    KILL_SUIDGID = 1 << 0  # open_in.open_flags
    FOPEN_NOFLUSH = 1 << 5  # open_out.open_flags


GETATTR_FH = 1 << 0
WRITE_KILL_SUIDGID = 1 << 2
RELEASE_FLOCK_UNLOCK = 1 << 1
FSYNC_FDATASYNC = 1 << 0
LK_FLOCK = 1 << 0
F_RDLCK, F_WRLCK, F_UNLCK = range(3)
LAST_BYTE = (1 << 63) - 1  # where a lock ends that covers the whole file
IOCTL_RETRY, IOCTL_DIR = 1 << 2, 1 << 4
RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT = 1, 2, 4
STATX_BASIC_STATS = 0x7FF
STATX_ALL = 0xFFF  # with the time of birth
