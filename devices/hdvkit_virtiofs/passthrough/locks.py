"""Locks of guest processes as locks of the host's kernel: they hold against host processes and other guests.

The kernel decides. What the guest holds is written down here as well, because the kernel cannot tell one guest
process from another: who is in the way, whom to wake, who waits for whom. Everything here runs on the event loop
and nothing blocks it; only file systems on a network may take their time, as they do with every call.
"""

import asyncio
import contextlib
import errno
import fcntl
import os
from typing import NamedTuple

import attrs

from hdvkit_virtiofs.fuse.answers import FileLock
from hdvkit_virtiofs.fuse.spec import MAX_OFFSET
from hdvkit_virtiofs.passthrough.attributes import QUIET
from hdvkit_virtiofs.passthrough.descriptors import Descriptors
from hdvkit_virtiofs.passthrough.errors import refusal
from hdvkit_virtiofs.passthrough.files import File
from hdvkit_virtiofs.passthrough.inodes import Inode
from hdvkit_virtiofs.passthrough.kernel_locks import access, ask, check_access, tell
from hdvkit_virtiofs.passthrough.lock_ranges import in_the_way, overlaid

MAX_LOCKS = 16384
"""Ranges one guest may hold; the kernel walks all of a file's for each call, these in 0.2 ms. More is ENOLCK."""

MAX_OWNERS = 1024
"""Owners of locks on one file; all are looked through when one of them is in the way. More is ENOLCK."""

MAX_WAITERS = 512
"""Requests of one guest that wait for a lock; more is ENOLCK."""

SHORTEST_PAUSE, LONGEST_PAUSE = 0.001, 0.050
"""Seconds until a lock in the way from outside is tried again: a host process tells nobody when it lets go."""

_ONLY_AS_GIVEN = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ETXTBSY, errno.EISDIR}

Owner = int | File
"""For POSIX locks the guest's number for a process; for ``flock`` the open file."""

Place = tuple[Inode, bool]
"""A file, and whether locks of ``flock`` are meant: the two sorts never meet."""


@attrs.define(eq=False)
class Holder:
    """One owner of locks on one file. Exists exactly as long as there are any."""

    place: Place
    owner: Owner
    descriptor: int
    """What the kernel knows the owner by: for ``flock`` the guest's open file, else an open file of our own."""
    file: File
    """What the guest locked by last. When it is closed, so are the locks: guest processes tell us so by FLUSH, but
    of locks that belong to an open file (F_OFD_SETLK in the guest) Linux says nothing."""
    locks: list[FileLock] = attrs.field(factory=list, init=False)
    changed: asyncio.Event = attrs.field(factory=asyncio.Event, init=False)
    """Set, and replaced, when the owner gives something up."""

    def wake(self) -> None:
        """Let those try again who wait for this owner."""
        self.changed.set()
        self.changed = asyncio.Event()


class _Wait(NamedTuple):
    holder: Holder
    changed: asyncio.Event


class Locks:
    """All locks of one guest."""

    def __init__(self, descriptors: Descriptors, read_only: bool) -> None:
        self._descriptors = descriptors
        self._read_only = read_only
        self._held: dict[Place, dict[Owner, Holder]] = {}
        self._count = 0
        self._waits: dict[Owner, list[_Wait]] = {}
        self._waiting = 0
        self._turn = asyncio.Lock()

    def get(self, inode: Inode, file: File, wanted: FileLock) -> FileLock | None:
        """A POSIX lock that is in the way of ``wanted``, or None.

        A process outside this guest is called 0: its number would mean some other process there.

        Raises:
            OSError: EINVAL for what Linux has no such question for: ``flock``, and F_UNLCK.
        """
        if wanted.flock or wanted.type == fcntl.F_UNLCK:
            raise refusal(errno.EINVAL)
        with file:
            holder = self._held.get((inode, False), {}).get(wanted.owner)
            told = ask(holder.descriptor if holder else file.descriptor, wanted)
        if told is None:
            return None
        ours = self._blocker((inode, False), wanted.owner, wanted)
        return in_the_way(ours.locks, wanted) if ours else told

    async def set(self, inode: Inode, file: File, wanted: FileLock, wait: bool) -> None:
        """Take, change or give up a lock. Cancelled while it waits, it leaves everything as it was.

        As on Linux, a ``flock`` that waits to become another has been given up already.

        Raises:
            OSError: EAGAIN when another lock is in the way, unless ``wait``; EDEADLK when waiting would never end,
                as far as that lies with this guest; EBADF when the file is not open for it; ENOLCK at a limit.
        """
        if wanted.flock:
            wanted = wanted._replace(start=0, end=MAX_OFFSET)
        place, owner = (inode, wanted.flock), file if wanted.flock else wanted.owner
        pause = SHORTEST_PAUSE
        while True:
            try:
                return self._attempt(place, owner, file, wanted)
            except BlockingIOError:
                if not wait:
                    raise
            await self._wait(place, owner, wanted, pause)
            # However many wait, all of them together try about a thousand times in a second.
            pause = min(2 * pause, max(LONGEST_PAUSE, self._waiting * SHORTEST_PAUSE))

    def release(self, inode: Inode, file: File) -> None:
        """The guest closes ``file``: what it locked by it is free."""
        for flock in (False, True):
            for holder in list(self._held.get((inode, flock), {}).values()):
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
            if not wanted.flock:
                check_access(file, wanted)
            holder = self._held.get(place, {}).get(owner)
            if holder is None:
                if wanted.type == fcntl.F_UNLCK:
                    return
                holder = self._admit(place, owner, file, wanted)
            try:
                self._change(holder, file, wanted)
            finally:
                if not holder.locks:
                    self._drop(holder)

    def _admit(self, place: Place, owner: Owner, file: File, wanted: FileLock) -> Holder:
        """An owner that holds nothing yet. Nothing is opened for one that would have to wait."""
        if len(self._held.get(place, ())) >= MAX_OWNERS:
            raise refusal(errno.ENOLCK)
        descriptor = file.descriptor
        if not wanted.flock:
            if ask(descriptor, wanted) is not None:
                raise refusal(errno.EAGAIN)
            descriptor = self._open(descriptor)
        holder = Holder(place, owner, descriptor, file)
        self._held.setdefault(place, {})[owner] = holder
        return holder

    def _open(self, descriptor: int) -> int:
        """Open the file once more, for whatever its owner may lock by other open files later."""
        if not self._read_only:
            try:
                return self._descriptors.reopen(descriptor, os.O_RDWR | QUIET)
            except OSError as error:
                if error.errno not in _ONLY_AS_GIVEN:
                    raise
        return self._descriptors.reopen(descriptor, access(descriptor) | QUIET)

    def _change(self, holder: Holder, file: File, wanted: FileLock) -> None:
        locks = overlaid(holder.locks, wanted)
        more = len(locks) - len(holder.locks)
        if more > 0 and self._count + more > MAX_LOCKS:
            raise refusal(errno.ENOLCK)
        try:
            tell(holder.descriptor, wanted)
        except BlockingIOError:
            if wanted.flock:  # flock(2): to become another, a lock is given up first
                self._keep(holder, [])
            raise
        self._keep(holder, locks)
        if wanted.type != fcntl.F_UNLCK:
            holder.file = file
        if wanted.type != fcntl.F_WRLCK:
            holder.wake()

    def _keep(self, holder: Holder, locks: list[FileLock]) -> None:
        self._count += len(locks) - len(holder.locks)
        holder.locks = locks

    def _drop(self, holder: Holder) -> None:
        self._keep(holder, [])
        holders = self._held[holder.place]
        del holders[holder.owner]
        if not holders:
            del self._held[holder.place]
        if isinstance(holder.owner, int):
            with contextlib.suppress(OSError):  # nothing was written by it
                self._descriptors.close(holder.descriptor)
        holder.wake()

    # Waiting

    def _blocker(self, place: Place, owner: Owner, wanted: FileLock) -> Holder | None:
        """Another owner of this guest that is in the way, or None; then it comes from outside, if from anywhere."""
        for holder in reversed(self._held.get(place, {}).values()):  # most often who has just got it
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
            async with self._turn:  # one of all that wake at once, then everybody else on the loop
                await asyncio.sleep(0)
        finally:
            self._waiting -= 1

    async def _wait_for(self, holder: Holder, owner: Owner) -> None:
        if self._would_close_a_circle(owner, holder):
            raise refusal(errno.EDEADLK)
        wait = _Wait(holder, holder.changed)
        self._waits.setdefault(owner, []).append(wait)
        try:
            await wait.changed.wait()
        finally:
            self._waits[owner].remove(wait)
            if not self._waits[owner]:
                del self._waits[owner]

    def _would_close_a_circle(self, owner: Owner, holder: Holder) -> bool:
        """Whether the holder waits, through whomever, for ``owner``.

        Each waits for one other at a time, as on Linux: who has more in the way looks again when that one lets go.
        Of ``flock`` there are no circles: an open file that waits holds nothing.
        """
        seen: set[Owner] = set()
        ahead = [holder.owner]
        while ahead:
            one = ahead.pop()
            if one == owner:
                return True
            if one not in seen:
                seen.add(one)
                ahead += [wait.holder.owner for wait in self._waits.get(one, ()) if not wait.changed.is_set()]
        return False
