"""What INIT settles between a guest and a virtio-fs device, and what is counted afterwards. No I/O."""

import itertools
from collections import Counter
from struct import Struct

from hdvkit.testing.fuse_messages import PAGE_SIZE, Init, ProtocolError
from hdvkit.testing.fuse_replies import InitOut

MAJOR = 7
OLDEST_MINOR, NEWEST_MINOR = 27, 46
LINUX_FLAGS = 0xB_7BFF_FFFB  # Linux 6.1 offers flags 0x7bfffffb and flags2 0x0b
LINUX_MAX_PAGES = 256
DEFAULT_PAGES = 32  # without FUSE_MAX_PAGES

# Which minor version brought which flags; what is older than all of them is always offered.
_FLAGS_SINCE = {28: 0b11 << 22, 29: 1 << 24, 30: 1 << 25, 31: 1 << 26, 32: 1 << 27, 33: 0b11 << 28,
                36: 0b11 << 32 | 1 << 30, 38: 1 << 35}  # fmt: skip

_INIT_IN = Struct("<IIII")
_INIT_IN_EXT = Struct("<IIIII44x")


class Session:
    """One mount's agreement with the device, shared by all its users."""

    def __init__(self, minor: int, flags: int | None, max_pages: int) -> None:
        if not OLDEST_MINOR <= minor <= NEWEST_MINOR:
            raise ValueError(f"this guest speaks FUSE 7.{OLDEST_MINOR} to 7.{NEWEST_MINOR}, not 7.{minor}")
        self.minor = minor
        self.offered = flags_for(minor) if flags is None else flags
        self.flags = 0  # nothing is agreed before INIT
        self.page_limit = min(max_pages, LINUX_MAX_PAGES)
        self.max_pages = min(self.page_limit, DEFAULT_PAGES)
        self.max_write = PAGE_SIZE
        self.uniques = itertools.count(2, 2)  # the odd numbers belong to INTERRUPT
        self.requests: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.bytes_read = 0
        self.bytes_written = 0

    def offer(self, max_readahead: int) -> bytes:
        """Build init_in; it grew to 64 bytes with 7.36."""
        low = self.offered & 0xFFFF_FFFF
        if self.minor < 36:
            return _INIT_IN.pack(MAJOR, self.minor, max_readahead, low)
        return _INIT_IN_EXT.pack(MAJOR, self.minor, max_readahead, low, self.offered >> 32)

    def agree(self, answer: InitOut) -> None:
        """Take the device's answer as binding; from now on requests follow it.

        Raises:
            ProtocolError: It speaks another major version, or accepts what was not offered.
        """
        if answer.major != MAJOR:
            raise ProtocolError(f"INIT: the device speaks FUSE {answer.major}.{answer.minor}")
        if answer.flags & ~self.offered:
            raise ProtocolError(f"INIT: the device accepts {answer.flags & ~self.offered:#x}, never offered")
        self.minor = min(self.minor, answer.minor)
        self.flags = answer.flags
        self.max_write = max(answer.max_write, PAGE_SIZE)
        pages = answer.max_pages if answer.flags & Init.MAX_PAGES else DEFAULT_PAGES
        self.max_pages = max(1, min(self.page_limit, pages))

    @property
    def max_read(self) -> int:
        """How much one READ may ask for."""
        return self.max_pages * PAGE_SIZE

    def write_room(self, offset: int) -> int:
        """How much one WRITE may carry at ``offset``; its first page may begin in the middle."""
        return min(self.max_write, self.max_pages * PAGE_SIZE - offset % PAGE_SIZE)


def flags_for(minor: int) -> int:
    """What Linux would offer if it spoke 7.``minor``: the flags that this version defines."""
    flags = LINUX_FLAGS
    for since, bits in _FLAGS_SINCE.items():
        if minor < since:
            flags &= ~bits
    return flags
