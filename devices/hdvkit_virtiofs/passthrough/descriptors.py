"""The descriptors one share holds: counted, capped, opened again by number. Knows nothing of names.

Everything here runs on the event loop, so counting needs no lock.
"""

import asyncio
import contextlib
import errno
import os
import resource
from collections.abc import Callable, Iterable
from typing import ClassVar, Protocol

from hdvkit_virtiofs.passthrough._handles_by_name import open_by_handle
from hdvkit_virtiofs.passthrough.errors import refusal
from hdvkit_virtiofs.passthrough.workers import Workers

RESERVE = 256
"""Descriptors left to the rest of the process: sockets, logs, other libraries, short-lived opens."""

CEILING = 1 << 20
"""The most one share takes where the process has no limit: about a gigabyte of kernel memory."""

INODES_PART = 4
"""Inodes of all shares together get one part of so many; the rest is for open files, which cannot be spared."""

LEAST_INODES = 64
"""Descriptors a share has for inodes however many shares there are: a path and what is under way."""

LEAST_FILES = 64
"""Files a share can have open besides, whatever the other shares hold. Less where the process has not so much for all;
one that is added when the others hold everything gets it as they close."""

FREED_AT_ONCE = 256 * 1024
"""Bytes of a file that may be freed on the loop: a handful of extents, however it lies on the disk."""

_SECTOR = 512  # what st_blocks counts in


def default_limit() -> int:
    """How many descriptors one share may hold, from the soft limit of the process."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return CEILING
    return min(CEILING, max(soft - RESERVE, soft // 2))


class Sharer(Protocol):
    """Who else uses a share's descriptors, from a thread of its own."""

    def reopened(self, device: int, inode: int, descriptor: int, *, named: bool) -> None:
        """An inode that may be known has a descriptor again; ``named``, each name it is found by has to be learnt."""
        ...

    def disowned(self, device: int, inode: int) -> None:
        """An inode is forgotten, and its number may be another file's."""
        ...

    def changing(self, device: int, inode: int, begins: bool) -> None:
        """A call that may hold the lock of an inode for long begins, or the last one has ended."""
        ...

    def locked(self, device: int, inode: int) -> None:
        """Somebody locks a file: from now on only this side closes it."""
        ...

    def unnaming(self, descriptor: int) -> None:
        """What is open here may lose its last name: who knows it keeps it open."""
        ...

    def has_open(self) -> int:
        """How many descriptors of its own it has open."""
        ...

    def leaves(self, descriptor: int) -> bool:
        """Before it is closed: use it no more. False when a call on it is under way, and closes it at its end."""
        ...

    def wrote(self, descriptor: int) -> bool:
        """Whether the file was written to elsewhere since this was asked last."""
        ...


class Descriptors:
    """What a guest makes us keep open, with a cap so that guests cannot starve the process.

    A guest that opens files without ever closing them gets ENFILE. All shares of the process draw on the same number
    of descriptors, so that the reserve stays whatever their caps add up to. A small part of it is kept for each.
    """

    everywhere = 0
    """Descriptors open now, of all shares: the operating system's limit is one for all of them too."""

    shares: ClassVar[set["Descriptors"]] = set()
    """Those that are not finished."""

    def __init__(self, limit: int | None = None) -> None:
        self.limit = default_limit() if limit is None else limit
        self.live = 0
        """Descriptors open now, or lent."""
        self.lent = 0
        """Those that somebody else may have open."""
        self.spare: Callable[[], bool] = lambda: False
        """Closes one descriptor that is not needed now; False when there is none."""
        self.workers: Workers | None = None
        """Where what frees much on the disk is closed."""
        self.sharer: Sharer | None = None
        self._closing: set[asyncio.Task[None]] = set()
        # Names in this directory lead straight to the inode behind a descriptor of ours, with no path between
        # that anybody could swap. Held open because it is a quarter faster than walking /proc each time.
        try:
            self.by_number = os.open("/proc/self/fd", os.O_PATH | os.O_DIRECTORY)
        except FileNotFoundError as error:
            raise OSError(error.errno, "cannot share a directory without /proc; mount it first") from error
        Descriptors.shares.add(self)

    def inode_budget(self, most: int) -> int:
        """How many of the descriptors may stand for inodes now: ``most``, or this share's part of what there is."""
        fair = min(self.limit, default_limit() // max(1, len(Descriptors.shares))) // INODES_PART
        return min(most, max(fair, LEAST_INODES), self.limit // 2)

    def require(self, count: int) -> None:
        """Make sure ``count`` more can be opened before doing what cannot be undone.

        Raises:
            OSError: ENFILE, the guest holds too much.
        """
        if not self.relieve(count):
            raise refusal(errno.ENFILE)

    def relieve(self, count: int = 0) -> bool:
        """Spare what is over the limit, or would be with ``count`` more; False when that is not enough."""
        while self.live + count > self.limit or self._is_full(count):
            if not self.spare():
                return False
        return True

    def _is_full(self, count: int) -> bool:
        """Whether ``count`` more would take from what the other shares may still open of the least each can have."""
        limit = default_limit()
        left = limit - Descriptors.everywhere - count
        shares = max(1, len(Descriptors.shares))  # none: this one is finished, and still asked
        least = min(LEAST_INODES + LEAST_FILES, limit // shares)
        if left >= least * shares:  # nearly always: no need to look at each
            return False
        return left < sum(max(0, least - other.live) for other in Descriptors.shares if other is not self)

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
        return self._counted(os.open(name, flags, mode, dir_fd=dir_fd))

    def lend(self, most: int) -> int:
        """Give up to so many away, which count until they come back by ``take_back`` or one by one by ``adopt``."""
        count = most
        while count and not self.relieve(count):
            count //= 2
        self._lend(count)
        return count

    def take_back(self, count: int) -> None:
        """What was lent is not used any more."""
        self._lend(-count)

    def _lend(self, count: int) -> None:
        self.lent += count
        self.live += count
        Descriptors.everywhere += count

    @property
    def used_elsewhere(self) -> int:
        """How many of those that are lent are open."""
        return 0 if self.sharer is None else self.sharer.has_open()

    def adopt(self, descriptor: int) -> int:
        """Count a descriptor that was opened elsewhere, which must come back to ``close``."""
        return self._counted(descriptor)

    def open_by_handle(self, mount: int, handle: bytes) -> int:
        """Open an inode with O_PATH by its handle, for a moment or within a budget; must come back to ``close``.

        Raises:
            OSError: ESTALE, the inode is gone; else what ``open_by_handle_at`` says.
        """
        return self._counted(open_by_handle(mount, handle))

    def _counted(self, descriptor: int) -> int:
        self.live += 1
        Descriptors.everywhere += 1
        return descriptor

    def reopen(self, descriptor: int, flags: int, *, brief: bool = False) -> int:
        """Open the inode behind ``descriptor`` anew; the result must come back to ``close``.

        Only for regular files and with ``O_PATH``: a fifo could wait and a device could act.
        """
        return self.open(str(descriptor), flags, dir_fd=self.by_number, brief=brief)

    def descend(self, directory: int, names: Iterable[bytes], flags: int) -> int:
        """Open ``names`` one below the other, from ``directory`` on, for a moment or within a budget.

        With O_NOFOLLOW in ``flags`` no link is followed on the way. The result must come back to ``close``.
        """
        descriptor = directory
        for name in names:
            above = descriptor
            try:
                descriptor = self.open(name, flags, dir_fd=above, brief=True)
            finally:
                if above != directory:
                    self.close(above)
        return descriptor

    def close(self, descriptor: int) -> None:
        """Close what ``open`` gave. Deferred errors of network file systems surface here as OSError.

        It counts until it is closed, which may be later for one that stands for a large file without a name.
        """
        if self.sharer is not None and not self.sharer.leaves(descriptor):
            self._uncounted()
        elif self.workers is not None and _may_free_much(descriptor):
            task = asyncio.get_running_loop().create_task(self._close_in_thread(self.workers, descriptor))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        else:
            self._uncounted()
            os.close(descriptor)

    async def _close_in_thread(self, workers: Workers, descriptor: int) -> None:
        try:
            with contextlib.suppress(OSError):  # of a file nobody can reach any more
                await workers.run(os.close, descriptor)
        finally:
            self._uncounted()

    def _uncounted(self) -> None:
        self.live -= 1
        Descriptors.everywhere -= 1

    async def end_closing(self) -> None:
        """Wait for what is being closed; whatever is closed later is closed at once."""
        self.workers = None
        while self._closing:
            await asyncio.wait(self._closing)

    def finish(self) -> None:
        """Give up reopening; called once everything else is closed. Works twice."""
        if self.by_number >= 0:
            Descriptors.shares.remove(self)
            os.close(self.by_number)
            self.by_number = -1


def _may_free_much(descriptor: int) -> bool:
    """Whether a file goes with its last descriptor, and has so much on the disk or in memory that it takes long."""
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    # A hole takes no blocks but memory, once it was read.
    return not status.st_nlink and max(status.st_size, status.st_blocks * _SECTOR) > FREED_AT_ONCE
