"""The requests of locks: those of fcntl(2), which a process holds, and those of flock(2), which an open file holds.

Who holds a lock is a number of the guest's; FLUSH and RELEASE tell the same number when its locks are to go.
"""

import asyncio
from struct import Struct
from typing import NamedTuple

from hdvkit.testing.fuse_messages import F_UNLCK, LAST_BYTE, LK_FLOCK, Opcode
from hdvkit.testing.fuse_requests import FuseRequests

LK_IN = Struct("<QQQQIIII")  # fh, owner, start, end, type, pid, lk_flags, padding
LK_OUT = Struct("<QQII")  # start, end, type, pid


class LkOut(NamedTuple):
    """fuse_file_lock: a lock that is in the way; ``end`` is its last byte."""

    start: int
    end: int
    type: int
    pid: int


class FuseLocks(FuseRequests):
    """Locks of files; each raises what ``call`` raises. ``kind`` is F_RDLCK, F_WRLCK or F_UNLCK."""

    async def getlk(
        self, nodeid: int, fh: int, owner: int, kind: int, start: int = 0, end: int = LAST_BYTE
    ) -> LkOut | None:
        """GETLK: the lock that is in the way of this one."""
        found = LkOut._make(
            LK_OUT.unpack(
                await self.call(Opcode.GETLK, nodeid, self._lock(fh, owner, kind, start, end), reply_size=LK_OUT.size)
            )
        )
        return None if found.type == F_UNLCK else found

    async def setlk(
        self,
        nodeid: int,
        fh: int,
        owner: int,
        kind: int,
        start: int = 0,
        end: int = LAST_BYTE,
        *,
        flock: bool = False,
        wait: bool = False,
    ) -> None:
        """SETLK, or SETLKW to wait; BlockingIOError when another lock is in the way and nobody waits."""
        body = self._lock(fh, owner, kind, start, end, flock)
        await self.call(Opcode.SETLKW if wait else Opcode.SETLK, nodeid, body)

    def start_setlkw(
        self,
        nodeid: int,
        fh: int,
        owner: int,
        kind: int,
        start: int = 0,
        end: int = LAST_BYTE,
        *,
        flock: bool = False,
    ) -> tuple[int, asyncio.Task[bytes]]:
        """SETLKW that may be interrupted: its unique, and the task that waits for the answer."""
        return self.start_call(Opcode.SETLKW, nodeid, self._lock(fh, owner, kind, start, end, flock))

    def _lock(self, fh: int, owner: int, kind: int, start: int, end: int, flock: bool = False) -> bytes:
        # Linux tells no process with a request that gives a lock up.
        pid = 0 if kind == F_UNLCK else self.pid
        return LK_IN.pack(fh, owner, start, end, kind, pid, LK_FLOCK if flock else 0, 0)
