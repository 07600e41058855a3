"""Locks of guest processes on files of Windows: they hold against other guests of this host, by locks of Windows.

Windows enforces locks: a range that one has locked, another cannot read or write. Linux programs do not expect that,
so ranges are locked where no file has bytes, from 2**63 on; a lock of ``flock`` is one byte at 2**62. Locks of host
programs are where the bytes are: what they cover cannot be read or written (EAGAIN), whatever the guest has locked.

What the guest holds is written down here as well, for Windows cannot tell one guest process from another. Unlike Linux
it cannot change a lock in one step: it is given up and taken again, and may be lost to another guest between.
"""

import asyncio
import contextlib
import errno
from typing import Final

import attrs

from hdvkit_virtiofs.fuse.answers import FileLock
from hdvkit_virtiofs.fuse.spec import F_UNLCK, MAX_OFFSET
from hdvkit_virtiofs.passthrough.errors import refusal
from hdvkit_virtiofs.passthrough.lock_ranges import F_WRLCK, in_the_way, overlaid
from hdvkit_virtiofs.passthrough.windows import nt
from hdvkit_virtiofs.passthrough.windows.binding import Handle
from hdvkit_virtiofs.passthrough.windows.files import File
from hdvkit_virtiofs.passthrough.windows.nodes import Node
from hdvkit_virtiofs.passthrough.windows.volume import Volume

MAX_LOCKS: Final = 16384
"""Ranges one guest may hold; more is ENOLCK."""

MAX_OWNERS: Final = 1024
"""Owners of locks on one file; more is ENOLCK."""

MAX_WAITERS: Final = 512
"""Requests of one guest that wait for a lock; more is ENOLCK."""

SHORTEST_PAUSE, LONGEST_PAUSE = 0.001, 0.050
"""Seconds until a lock of another guest is tried again: nobody tells when it is given up."""

POSIX_PLACE: Final = 1 << 63
FLOCK_PLACE: Final = 1 << 62

_GONE: Final = (errno.ENOENT, errno.ESTALE, errno.EACCES)

Owner = int | File
"""For POSIX locks the guest's number for a process; for ``flock`` the open file."""

Place = tuple[Node, bool]
"""A file, and whether locks of ``flock`` are meant: the two sorts never meet."""


@attrs.define(eq=False)
class Holder:
    """One owner of locks on one file. Exists exactly as long as there are any."""

    place: Place
    owner: Owner
    handle: Handle | None
    """What Windows knows the owner by; None for what nobody outside this guest can lock."""
    file: File
    """What the guest locked by last. When it is closed, so are the locks."""
    locks: list[FileLock] = attrs.field(factory=list, init=False)
    changed: asyncio.Event = attrs.field(factory=asyncio.Event, init=False)
    """Set, and replaced, when the owner gives something up."""

    def wake(self) -> None:
        """Let those try again who wait for this owner."""
        self.changed.set()
        self.changed = asyncio.Event()

    def become(self, locks: list[FileLock]) -> None:
        """Hold these locks and no others; BlockingIOError or NtError, and what is held is as before, if it can be."""
        taken: list[FileLock] = []
        with contextlib.ExitStack() as undo:
            for lock in self.locks:
                if lock not in locks:
                    self._unlock(lock)
                    undo.callback(self._regain, lock)
            for lock in locks:
                if lock not in self.locks:
                    self._lock(lock)
                    taken.append(lock)
                    undo.callback(self._unlock, lock)
            undo.pop_all()
        self.locks = locks

    def _regain(self, lock: FileLock) -> None:
        try:
            self._lock(lock)
        except OSError:  # another guest was quicker
            self.locks = [one for one in self.locks if one != lock]

    def _lock(self, lock: FileLock) -> None:
        if self.handle is not None:
            nt.lock(self.handle, *_range(lock), exclusive=lock.type == F_WRLCK)

    def _unlock(self, lock: FileLock) -> None:
        if self.handle is not None:
            nt.unlock(self.handle, *_range(lock))


class Locks:
    """All locks of one guest."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._held: dict[Place, dict[Owner, Holder]] = {}
        self._waits: dict[Owner, Owner] = {}
        self._waiting = 0

    def get(self, node: Node, file: File, wanted: FileLock) -> FileLock | None:
        """A POSIX lock that is in the way of ``wanted``, or None. One of another guest has no process here.

        Raises:
            OSError: EINVAL for what Linux has no such question for: ``flock``, and F_UNLCK.
        """
        if wanted.flock or wanted.type == F_UNLCK:
            raise refusal(errno.EINVAL)
        ours = self._blocker((node, False), wanted.owner, wanted)
        if ours is not None:
            return in_the_way(ours.locks, wanted)
        with file, contextlib.ExitStack() as cleanup:
            if wanted.owner in self._held.get((node, False), {}) or (handle := self._open(node, file)) is None:
                return None
            cleanup.enter_context(handle)
            try:
                nt.lock(handle, *_range(wanted), exclusive=wanted.type == F_WRLCK)
            except OSError as error:
                if error.errno != errno.EAGAIN:
                    raise
                return FileLock(0, F_WRLCK, wanted.start, wanted.end)
            return None  # closing the handle gives it back

    async def set(self, node: Node, file: File, wanted: FileLock, wait: bool) -> None:
        """Take, change or give up a lock.

        Raises:
            OSError: EAGAIN when another lock is in the way, unless ``wait``; EDEADLK when waiting would never end;
                EBADF when the file is not open for it; ENOLCK at a limit.
        """
        if wanted.flock:
            wanted = wanted._replace(start=0, end=MAX_OFFSET)
        elif wanted.type != F_UNLCK and not (file.writable if wanted.type == F_WRLCK else file.readable):
            raise refusal(errno.EBADF)
        place, owner = (node, wanted.flock), file if wanted.flock else wanted.owner
        pause = SHORTEST_PAUSE
        while True:
            try:
                return self._attempt(place, owner, file, wanted)
            except OSError as error:
                if error.errno != errno.EAGAIN or not wait:
                    raise
            await self._wait(place, owner, wanted, pause)
            pause = min(2 * pause, max(LONGEST_PAUSE, self._waiting * SHORTEST_PAUSE))

    def release(self, node: Node, file: File) -> None:
        """The guest closes ``file``: what it locked by it is free."""
        for flock in (False, True):
            for holder in list(self._held.get((node, flock), {}).values()):
                if holder.file is file:
                    self._drop(holder)

    def close(self) -> None:
        """Everything is free."""
        for holders in list(self._held.values()):
            for holder in list(holders.values()):
                self._drop(holder)

    # One attempt

    def _attempt(self, place: Place, owner: Owner, file: File, wanted: FileLock) -> None:
        with file:
            holder = self._held.get(place, {}).get(owner)
            if holder is None:
                if wanted.type == F_UNLCK:
                    return
                holder = self._admit(place, owner, file)
            try:
                self._change(holder, file, wanted)
            finally:
                if not holder.locks:
                    self._drop(holder)

    def _admit(self, place: Place, owner: Owner, file: File) -> Holder:
        holders = self._held.setdefault(place, {})
        if len(holders) >= MAX_OWNERS:
            raise refusal(errno.ENOLCK)
        holder = holders[owner] = Holder(place, owner, self._open(place[0], file), file)
        return holder

    def _open(self, node: Node, file: File) -> Handle | None:
        """Open the file once more, for its owner alone; None for directories, and for what is gone for others too."""
        if node.is_directory:
            return None
        try:
            return self._volume.open(node, nt.READ_DATA if file.readable else nt.WRITE_DATA)
        except OSError as error:
            if error.errno in _GONE:
                return None
            raise

    def _change(self, holder: Holder, file: File, wanted: FileLock) -> None:
        locks = overlaid(holder.locks, wanted)
        if len(locks) > len(holder.locks) and self._count() + len(locks) - len(holder.locks) > MAX_LOCKS:
            raise refusal(errno.ENOLCK)
        try:
            if wanted.type != F_UNLCK and self._blocker(holder.place, holder.owner, wanted) is not None:
                raise refusal(errno.EAGAIN)
            holder.become(locks)
        except OSError:
            if wanted.flock:  # flock(2): to become another, a lock is given up first
                holder.become([])
            raise
        if wanted.type != F_UNLCK:
            holder.file = file
        if wanted.type != F_WRLCK:
            holder.wake()

    def _count(self) -> int:
        return sum(len(holder.locks) for holders in self._held.values() for holder in holders.values())

    def _drop(self, holder: Holder) -> None:
        holder.locks = []
        if holder.handle is not None:
            holder.handle.close()  # and with it go its locks
        holders = self._held.get(holder.place, {})
        if holders.pop(holder.owner, None) is not None and not holders:
            del self._held[holder.place]
        holder.wake()

    # Waiting

    def _blocker(self, place: Place, owner: Owner, wanted: FileLock) -> Holder | None:
        """Another owner of this guest that is in the way, or None; then it is another guest's, if anybody's."""
        for holder in reversed(self._held.get(place, {}).values()):
            if holder.owner != owner and in_the_way(holder.locks, wanted):
                return holder
        return None

    async def _wait(self, place: Place, owner: Owner, wanted: FileLock, pause: float) -> None:
        """Return when it is worth trying again."""
        if self._waiting >= MAX_WAITERS:
            raise refusal(errno.ENOLCK)
        self._waiting += 1
        try:
            holder = self._blocker(place, owner, wanted)
            if holder is None:
                await asyncio.sleep(pause)
            else:
                await self._wait_for(holder, owner)
        finally:
            self._waiting -= 1

    async def _wait_for(self, holder: Holder, owner: Owner) -> None:
        if self._would_close_a_circle(owner, holder.owner):
            raise refusal(errno.EDEADLK)
        self._waits[owner] = holder.owner
        try:
            await holder.changed.wait()
        finally:
            self._waits.pop(owner, None)

    def _would_close_a_circle(self, owner: Owner, ahead: Owner | None) -> bool:
        """Whether who is in the way waits, through whomever, for ``owner``."""
        for _ in range(len(self._waits) + 1):
            if ahead == owner:
                return True
            ahead = None if ahead is None else self._waits.get(ahead)
        return False


def _range(lock: FileLock) -> tuple[int, int]:
    """Offset and length of a lock where Windows has it."""
    if lock.flock:
        return FLOCK_PLACE, 1
    return POSIX_PLACE + lock.start, lock.end - lock.start + 1
