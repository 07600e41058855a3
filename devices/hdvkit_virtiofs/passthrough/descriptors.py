"""The descriptors one share holds: counted, capped, opened again by number. Knows nothing of names.

Everything here runs on the event loop, so counting needs no lock.
"""

import errno
import os
import resource

from hdvkit_virtiofs.passthrough.errors import refusal

RESERVE = 256
"""Descriptors left to the rest of the process: sockets, logs, other libraries, short-lived opens."""

CEILING = 1 << 20
"""The most one share takes where the process has no limit: about a gigabyte of kernel memory."""


def default_limit() -> int:
    """How many descriptors one share may hold, from the soft limit of the process."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return CEILING
    return min(CEILING, max(soft - RESERVE, soft // 2))


class Descriptors:
    """What a guest makes us keep open, with a cap so that guests cannot starve the process.

    A guest that looks up files without ever forgetting them gets ENFILE. All shares of the process draw on the same
    number of descriptors, so that the reserve stays whatever their caps add up to.
    """

    everywhere = 0
    """Descriptors open now, of all shares: the operating system's limit is one for all of them too."""

    def __init__(self, limit: int | None = None) -> None:
        self.limit = default_limit() if limit is None else limit
        self.live = 0
        """Descriptors open now."""
        # Names in this directory lead straight to the inode behind a descriptor of ours, with no path between
        # that anybody could swap. Held open because it is a quarter faster than walking /proc each time.
        try:
            self.by_number = os.open("/proc/self/fd", os.O_PATH | os.O_DIRECTORY)
        except FileNotFoundError as error:
            raise OSError(error.errno, "cannot share a directory without /proc; mount it first") from error

    def require(self, count: int) -> None:
        """Make sure ``count`` more can be opened before doing what cannot be undone.

        Raises:
            OSError: ENFILE, the guest holds too much.
        """
        if self.live + count > self.limit or Descriptors.everywhere + count > default_limit():
            raise refusal(errno.ENFILE)

    def open(
        self,
        name: bytes | str | os.PathLike[str],
        flags: int,
        mode: int = 0,
        *,
        dir_fd: int | None = None,
        brief: bool = False,
    ) -> int:
        """Open ``name``, in a directory or as a path; the result must come back to ``close``.

        A ``brief`` one is closed, or held to the limit, before the loop runs on: it may use the reserve, so
        that a guest at its limit can still work with what it has.

        Raises:
            OSError: What ``openat`` says, or ENFILE beyond the limit.
        """
        if not brief:
            self.require(1)
        descriptor = os.open(name, flags, mode, dir_fd=dir_fd)
        self.live += 1
        Descriptors.everywhere += 1
        return descriptor

    def reopen(self, descriptor: int, flags: int, *, brief: bool = False) -> int:
        """Open the inode behind ``descriptor`` anew; the result must come back to ``close``.

        Only for regular files and with ``O_PATH``: a fifo could wait and a device could act.
        """
        return self.open(str(descriptor), flags, dir_fd=self.by_number, brief=brief)

    def close(self, descriptor: int) -> None:
        """Close what ``open`` gave. Deferred errors of network file systems surface here as OSError."""
        self.live -= 1
        Descriptors.everywhere -= 1
        os.close(descriptor)

    def finish(self) -> None:
        """Give up reopening; called once everything else is closed. Works twice."""
        if self.by_number >= 0:
            os.close(self.by_number)
            self.by_number = -1
