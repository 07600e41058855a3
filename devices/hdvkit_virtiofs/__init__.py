"""virtio-fs: a directory of the host, or any file system written as a class, mounted by a stock Linux guest."""

from hdvkit_virtiofs.cache import Cache
from hdvkit_virtiofs.device import VirtioFs
from hdvkit_virtiofs.fuse import (
    Attributes,
    Changes,
    Context,
    DirEntry,
    Entry,
    FileLock,
    FuseError,
    InitFlag,
    Opened,
    StatFs,
    Statx,
)
from hdvkit_virtiofs.memory import MemoryFileSystem
from hdvkit_virtiofs.operations import Operations
from hdvkit_virtiofs.passthrough import Passthrough
from hdvkit_virtiofs.policy import Authorize, Operation

__all__ = [
    "Attributes",
    "Authorize",
    "Cache",
    "Changes",
    "Context",
    "DirEntry",
    "Entry",
    "FileLock",
    "FuseError",
    "InitFlag",
    "MemoryFileSystem",
    "Opened",
    "Operation",
    "Operations",
    "Passthrough",
    "StatFs",
    "Statx",
    "VirtioFs",
]
