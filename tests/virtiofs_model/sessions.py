"""Rules of the mount itself: what the guest forgets, the whole file system, and mounting again."""
# ruff: noqa: D102 - a rule is called by what it does

import os

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from virtiofs_model.bench import Bench
from virtiofs_model.sides import Sides

turns = st.integers(0, 1)


class Sessions(Sides):
    """A mount from INIT to DESTROY."""

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench)
        self.synced = False

    @rule()
    def rest(self) -> None:
        """Nothing. In two of ten examples Hypothesis does the simplest all along, which should not take long."""

    @rule(turn=turns, batched=st.booleans())
    def forget(self, turn: int, batched: bool) -> None:
        """Files are found again, and open ones are not lost."""
        mount = self.bench.mounts[turn]
        self.bench.run(mount.drop_caches(batched=batched))
        assert mount.references <= len(self.held)
        self.bench.outcomes["forget", "ok"] += 1

    @rule(turn=turns, forget=st.booleans())
    def mount_again(self, turn: int, forget: bool) -> None:
        mount = self.bench.mounts[turn]
        if any(file.turn == turn for file in self.held):
            return

        async def guest() -> None:
            await mount.unmount(forget=forget)
            await mount.mount()

        self.both("mount again", guest(), lambda: None)
        assert len(self.bench.shares[turn].device.server.nodes) == 1

    @rule()
    def statfs(self) -> None:
        """What others of the host take meanwhile is left out."""

        async def guest() -> object:
            found = await self.mount.statvfs()
            return found.blocks, found.bsize, found.frsize, found.namelen

        def plain() -> object:
            found = os.statvfs(self.plain)
            return found.f_blocks, found.f_bsize, found.f_frsize, found.f_namemax

        self.both("statfs", guest(), plain)

    @precondition(lambda self: not self.synced)
    @rule()
    def syncfs(self) -> None:
        """Once in an example: all of the host waits for it."""
        self.synced = True
        self.both("syncfs", self.mount.sync(), lambda: None)
