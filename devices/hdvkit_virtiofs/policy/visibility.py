"""What of a share a guest can see, by patterns. What it cannot see does not exist for it."""

import asyncio
import errno
import stat
from collections.abc import Iterable
from typing import Final, NamedTuple

from hdvkit_virtiofs.fuse.answers import Context, DirEntry, Entry, Handle, Node, Opened
from hdvkit_virtiofs.fuse.errors import FuseError
from hdvkit_virtiofs.fuse.spec import RENAME_EXCHANGE
from hdvkit_virtiofs.operations import Operations
from hdvkit_virtiofs.policy.globs import Globs, Progress, Reach
from hdvkit_virtiofs.policy.layer import Layer

LISTED_AT_ONCE = 256
"""So many names one READDIR brings at most; the guest asks for the rest behind them."""
NAMES_PER_TURN: Final = 256
"""So many names of a listing are judged before other requests go on."""

_DOTS: Final = frozenset({b".", b".."})


class _Sight(NamedTuple):
    """What the patterns say of one path."""

    deny: Progress
    allow: Progress

    @property
    def reach(self) -> Reach:
        """HERE for what can be seen, BELOW for what can be seen if it is a directory, NOWHERE for what cannot."""
        return Reach.NOWHERE if self.deny.reach is Reach.HERE else self.allow.reach

    @property
    def pending(self) -> bool:
        """Whether patterns begin at the root and have come this far: what can be seen below depends on this path."""
        return bool(self.deny.pending or self.allow.pending)


class Visible(Layer[Node, Handle]):
    """Hides what matches ``deny``, and when there is an ``allow`` what does not match that; ``deny`` wins.

    The patterns are those of :mod:`.globs`. A directory that matches stands for all that is in it; with ``allow``,
    directories on the way to something that might match can be seen too, but no files in them. A pattern without a
    slash might match anywhere, so with one in ``allow`` all directories can be seen.

    A hidden name is ENOENT wherever a guest uses it, also to make something there, and is left out of listings. It
    still counts where the file system looks at it by itself: a directory that holds one is ENOTEMPTY to RMDIR, and a
    directory cannot be made on the way where a hidden file has the name. A directory is not renamed, but EXDEV,
    where a pattern with a slash could match something below its old or its new path, or where ``allow`` shows more of
    one than of the other: ``mv`` then copies what can be seen and leaves the rest.

    What the guest has found stays found when the host moves it, until the guest looks again. No rename of the guest
    changes what can be seen below a directory, so that is judged once, when the directory is found.

    Raises:
        ValueError: A pattern is none, and why.
    """

    def __init__(self, inner: Operations[Node, Handle], *, deny: Iterable[str] = (), allow: Iterable[str] = ()) -> None:
        super().__init__(inner)
        self._deny = Globs(deny)
        self._allow = Globs(tuple(allow) or ("*",))
        # Of each node the guest knows. Layers in front of this one must hand on each to the guest.
        self._sights: dict[Node, _Sight] = {self.root: _Sight(self._deny.root, self._allow.root)}

    async def lookup(self, parent: Node, name: bytes, context: Context) -> Entry[Node]:
        """Find what can be seen."""
        sight = self._see(parent, name)
        entry = await self.inner.lookup(parent, name, context)
        if sight.reach is Reach.BELOW and not entry.attributes.is_directory:
            self._let_go(entry.node)
            raise FuseError(errno.ENOENT)
        return self._learn(entry, sight)

    async def create(
        self, parent: Node, name: bytes, mode: int, flags: int, context: Context
    ) -> tuple[Entry[Node], Opened[Handle]]:
        """Open or make a file where one can be seen."""
        sight = self._see_file(parent, name)
        entry, opened = await self.inner.create(parent, name, mode, flags, context)
        return self._learn(entry, sight), opened

    async def tmpfile(
        self, parent: Node, mode: int, flags: int, context: Context
    ) -> tuple[Entry[Node], Opened[Handle]]:
        """Make a file that has no name to be seen."""
        sight = self._sight(parent)
        entry, opened = await self.inner.tmpfile(parent, mode, flags, context)
        return self._learn(entry, sight), opened

    async def mknod(self, parent: Node, name: bytes, mode: int, rdev: int, context: Context) -> Entry[Node]:
        """Make a node where one can be seen."""
        sight = self._see_file(parent, name)
        return self._learn(await self.inner.mknod(parent, name, mode, rdev, context), sight)

    async def mkdir(self, parent: Node, name: bytes, mode: int, context: Context) -> Entry[Node]:
        """Make a directory where one can be seen."""
        sight = self._see(parent, name)
        return self._learn(await self.inner.mkdir(parent, name, mode, context), sight)

    async def symlink(self, parent: Node, name: bytes, target: bytes, context: Context) -> Entry[Node]:
        """Make a link where one can be seen; it may lead anywhere, the guest finds only what it can see."""
        sight = self._see_file(parent, name)
        return self._learn(await self.inner.symlink(parent, name, target, context), sight)

    async def link(self, node: Node, parent: Node, name: bytes, context: Context) -> Entry[Node]:
        """Give a node a name that can be seen."""
        sight = self._see_file(parent, name)
        return self._learn(await self.inner.link(node, parent, name, context), sight)

    async def unlink(self, parent: Node, name: bytes, context: Context) -> None:
        """Remove a name that can be seen."""
        self._see_file(parent, name)
        await self.inner.unlink(parent, name, context)

    async def rmdir(self, parent: Node, name: bytes, context: Context) -> None:
        """Remove a directory that can be seen."""
        if self._see(parent, name).reach is Reach.BELOW and not await self._is_directory(parent, name, context):
            raise FuseError(errno.ENOENT)
        await self.inner.rmdir(parent, name, context)

    async def rename(
        self, parent: Node, name: bytes, new_parent: Node, new_name: bytes, flags: int, context: Context
    ) -> None:
        """Move what can be seen to where it can be seen, and nothing hidden along with it."""
        old, new = self._see(parent, name), self._see(new_parent, new_name)
        bound = old.pending or new.pending or old.reach != new.reach
        moved = [(parent, name), (new_parent, new_name)] if flags & RENAME_EXCHANGE else [(parent, name)]
        if bound or old.reach is Reach.BELOW:  # else both ends show anything, and what lies below alike
            for one in moved:
                if not await self._is_directory(*one, context):
                    self._see_file(parent, name)
                    self._see_file(new_parent, new_name)
                elif bound:
                    raise FuseError(errno.EXDEV)
        await self.inner.rename(parent, name, new_parent, new_name, flags, context)

    async def readdir(self, node: Node, handle: Handle, offset: int, context: Context) -> Iterable[DirEntry]:
        """List what can be seen."""
        listed: list[DirEntry] = []
        for number, entry in enumerate(await self.inner.readdir(node, handle, offset, context), 1):
            if number % NAMES_PER_TURN == 0:
                await asyncio.sleep(0)  # the host may have more hidden names than fit a turn
            if entry.name in _DOTS or await self._is_listed(node, entry, context):
                listed.append(entry)
            if len(listed) == LISTED_AT_ONCE:
                break
        return listed

    def forget(self, node: Node) -> None:
        """The guest does not know the node any more."""
        self._sights.pop(node, None)
        self.inner.forget(node)

    async def _is_listed(self, parent: Node, entry: DirEntry, context: Context) -> bool:
        reach = self._step(self._sight(parent), entry.name).reach
        if reach is not Reach.BELOW:
            return reach is Reach.HERE
        if entry.type:
            return stat.S_ISDIR(entry.type)
        try:
            return await self._is_directory(parent, entry.name, context)
        except FuseError:
            return False  # gone by now

    async def _is_directory(self, parent: Node, name: bytes, context: Context) -> bool:
        """Whether a name is a directory; the guest gets no reference on it."""
        entry = await self.inner.lookup(parent, name, context)
        self._let_go(entry.node)
        return entry.attributes.is_directory

    def _sight(self, node: Node) -> _Sight:
        sight = self._sights.get(node)
        if sight is None:
            raise FuseError(errno.ESTALE)  # the guest unmounted meanwhile
        return sight

    def _step(self, sight: _Sight, name: bytes) -> _Sight:
        return _Sight(self._deny.step(sight.deny, name), self._allow.step(sight.allow, name))

    def _see(self, parent: Node, name: bytes) -> _Sight:
        """What the patterns say of a name; ENOENT where not even a directory of this name could be seen."""
        sight = self._step(self._sight(parent), name)
        if sight.reach is Reach.NOWHERE:
            raise FuseError(errno.ENOENT)
        return sight

    def _see_file(self, parent: Node, name: bytes) -> _Sight:
        """The same of a name that is no directory's."""
        sight = self._see(parent, name)
        if sight.reach is not Reach.HERE:
            raise FuseError(errno.ENOENT)
        return sight

    def _learn(self, entry: Entry[Node], sight: _Sight) -> Entry[Node]:
        if entry.node != self.root:
            self._sights[entry.node] = sight
        return entry

    def _let_go(self, node: Node) -> None:
        """Give back a reference that the guest does not get."""
        if node not in self._sights:
            self.inner.forget(node)
