"""What of INIT a share wants, each flag by where the need comes from. A guest gets those it offers too."""

from typing import Final

from hdvkit_virtiofs.cache import Cache
from hdvkit_virtiofs.fuse.spec import InitFlag

DEVICE: Final = (
    InitFlag.ASYNC_READ
    | InitFlag.ATOMIC_O_TRUNC
    | InitFlag.BIG_WRITES
    | InitFlag.AUTO_INVAL_DATA
    | InitFlag.DO_READDIRPLUS
    | InitFlag.READDIRPLUS_AUTO
    | InitFlag.ASYNC_DIO
    | InitFlag.PARALLEL_DIROPS
    | InitFlag.MAX_PAGES
    | InitFlag.SUBMOUNTS
    | InitFlag.SETXATTR_EXT
    | InitFlag.DIRECT_IO_ALLOW_MMAP
)
"""What the device does with any file system. REQUEST_TIMEOUT and INIT_EXT are the session's own."""

FILE_SYSTEM: Final = (
    InitFlag.POSIX_LOCKS
    | InitFlag.FLOCK_LOCKS
    | InitFlag.HANDLE_KILLPRIV_V2
    | InitFlag.POSIX_ACL
    | InitFlag.CACHE_SYMLINKS
    | InitFlag.SECURITY_CTX
    | InitFlag.CREATE_SUPP_GROUP
)
"""What a file system must be able to do, and says so in ``Operations.init_flags``; other bits of it count nothing."""

WITH: Final = {
    # Linux needs all three for ACLs: rules from the host, umask left to the host, setgid cleared with the ACL.
    InitFlag.POSIX_ACL: InitFlag.DONT_MASK | InitFlag.SETXATTR_EXT,
}
"""Flags that mean nothing without others."""


def wanted(of_file_system: InitFlag, cache: Cache, writeback: bool) -> InitFlag:
    """All flags of a share."""
    flags = DEVICE | (of_file_system & FILE_SYSTEM)
    for flag, others in WITH.items():
        if flag in flags:
            flags |= others
    if cache is Cache.NEVER:
        flags &= ~InitFlag.CACHE_SYMLINKS
    return flags | InitFlag.WRITEBACK_CACHE if writeback else flags
