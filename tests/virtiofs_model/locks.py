"""Rules of locks: of processes and of open files, between files of one guest, of two guests, and waiting ones."""
# ruff: noqa: D102 - a rule is called by what it does

import asyncio
import fcntl
import os
from collections.abc import Awaitable
from contextlib import ExitStack
from typing import NamedTuple

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from hdvkit.testing.fuse_client import FuseClient
from hdvkit.testing.fuse_locks import LkOut
from hdvkit.testing.fuse_messages import F_RDLCK, F_UNLCK, F_WRLCK, LAST_BYTE
from virtiofs_model import plain
from virtiofs_model.seen import answered, plainly
from virtiofs_model.sides import Held, Sides, handles

FLOCKS = {F_RDLCK: fcntl.LOCK_SH, F_WRLCK: fcntl.LOCK_EX, F_UNLCK: fcntl.LOCK_UN}
RIVAL = 1
"""A guest process that has a file open which another one has locked."""
ENDINGS = ["nothing", "unlock", "flush"]
"""What the first of two processes does while the second waits; the last is what close(2) sends."""
PATIENCE = 60
"""Seconds until a lock that is free should have been given, however busy the machine is: a test must not hang."""
TRIES = 10_000
"""An interrupt that overtakes its request is lost, so it is sent again. Never nearly so often."""


class Range(NamedTuple):
    """Some bytes of a file; length 0 is to the end."""

    start: int
    length: int

    @property
    def end(self) -> int:
        """The last byte, as FUSE tells it."""
        return self.start + self.length - 1 if self.length else LAST_BYTE


ranges = st.builds(Range, st.sampled_from([0, 1, 10, 4096, LAST_BYTE]), st.sampled_from([0, 1, 1, 9, 5000])).map(
    lambda one: one if one.start + one.length <= LAST_BYTE else Range(LAST_BYTE, 1)
)
kinds = st.sampled_from([F_RDLCK, F_WRLCK])
changes = st.sampled_from([F_RDLCK, F_RDLCK, F_WRLCK, F_WRLCK, F_UNLCK])


class Locks(Sides):
    """Locks of open files. Each file that is open is a process of its own, on both sides."""

    @precondition(lambda self: self.held)
    @rule(which=handles, kind=changes, on=ranges, wait=st.booleans())
    def lock(self, which: int, kind: int, on: Range, wait: bool) -> None:
        """Waiting where nothing is in the way is not waiting."""
        guest, number, _ = self.pick(which)
        expected = plainly(lambda: plain.lock(number, kind, *on))
        call = guest.lock(kind, start=on.start, length=on.length, wait=wait and expected != "EAGAIN")
        self.same("lock", self.bench.run(answered(call)), expected)

    @precondition(lambda self: self.held)
    @rule(which=handles, kind=kinds, on=ranges)
    def locked(self, which: int, kind: int, on: Range) -> None:
        guest, number, _ = self.pick(which)
        call = guest.locked(kind, start=on.start, length=on.length)
        self._same_lock(call, number, kind, on, alone=self._others(number) <= 1)

    def _same_lock(self, guest: Awaitable[LkOut | None], number: int, kind: int, on: Range, *, alone: bool) -> None:
        """Both sides tell the same lock; of several holders in the way, that is not ``alone``, they may tell any."""

        async def asked() -> object:
            found = await guest
            return found and (_as_told(found) if alone else "some lock")

        def expected() -> object:
            found = plain.locked(number, kind, *on)
            return found and (found if alone else "some lock")

        if self.both("which lock", asked(), expected) is not None:
            self.bench.outcomes["which lock", "in the way"] += 1

    def _others(self, number: int) -> int:
        """How many more times the same file is open."""
        return sum(os.path.sameopenfile(number, other.plain) for other in self.held) - 1

    @precondition(lambda self: self.held)
    @rule(which=handles, kind=changes)
    def flock(self, which: int, kind: int) -> None:
        guest, number, _ = self.pick(which)
        self.both("flock", guest.flock(kind), lambda: fcntl.flock(number, FLOCKS[kind] | fcntl.LOCK_NB))

    @precondition(lambda self: self.held)
    @rule(which=handles, kind=kinds, on=ranges, rivals=ranges, ending=st.sampled_from(ENDINGS))
    def contend(self, which: int, kind: int, on: Range, rivals: Range, ending: str) -> None:
        """Two processes want a file, and the second waits until it gets the lock or is told to stop."""
        file = self.pick(which)
        wanted = F_RDLCK if plain.access_of(file.plain) == os.O_RDONLY else F_WRLCK
        self.both(
            "lock first",
            file.guest.lock(kind, start=on.start, length=on.length),
            lambda: plain.lock(file.plain, kind, *on),
        )
        with ExitStack() as undo:
            rival = plain.again(file.plain)
            undo.callback(os.close, rival)
            undo.callback(lambda: self.bench.run(file.guest.lock(F_UNLCK, owner=RIVAL)))
            attempt = self.both(
                "lock second",
                file.guest.lock(wanted, start=rivals.start, length=rivals.length, owner=RIVAL),
                lambda: plain.lock(rival, wanted, *rivals),
            )
            if attempt == "EAGAIN":
                self._wait(file, rival, wanted, rivals, ending)
            guest, number, turn = file
            left = self.bench.mounts[turn].client.getlk(guest.nodeid, guest.fh, RIVAL, F_WRLCK)
            self._same_lock(left, rival, F_WRLCK, Range(0, 0), alone=not self._others(number))

    def _wait(self, file: Held, rival: int, wanted: int, on: Range, ending: str) -> None:
        if ending == "unlock":
            plain.lock(file.plain, F_UNLCK, *on)
        elif ending == "flush":
            plain.lock(file.plain, F_UNLCK)
        expected = plainly(lambda: plain.lock(rival, wanted, *on))
        client = self.bench.mounts[file.turn].client

        async def guest() -> object:
            guest = file.guest
            unique, task = client.start_setlkw(guest.nodeid, guest.fh, RIVAL, wanted, on.start, on.end)
            if ending == "unlock":
                await guest.lock(F_UNLCK, start=on.start, length=on.length)
            elif ending == "flush":
                await guest.flush()
            if expected == "EAGAIN":  # still, because of somebody else
                await _interrupted(client, unique, task)
            # The lock is the answer, which is empty.
            return await answered(asyncio.wait_for(task, PATIENCE)) or None

        found = self.bench.run(guest())
        self.same("wait for a lock", found, "EINTR" if expected == "EAGAIN" else expected)


def _as_told(lock: LkOut) -> tuple[int, int, int]:
    """A lock as fcntl(2) tells it: type, start and length."""
    return lock.type, lock.start, 0 if lock.end == LAST_BYTE else lock.end - lock.start + 1


async def _interrupted(client: FuseClient, unique: int, task: "asyncio.Task[bytes]") -> None:
    for _ in range(TRIES):
        if task.done():
            return
        await client.interrupt(unique)
    raise AssertionError("a request that waits cannot be interrupted")
