"""Where each node is, as the guest found it: for layers that judge by path. Knows no patterns and decides nothing."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Generic

import attrs

from hdvkit_virtiofs.fuse.answers import Context, Entry, Handle, Node, Opened
from hdvkit_virtiofs.fuse.errors import FuseError
from hdvkit_virtiofs.fuse.spec import RENAME_EXCHANGE
from hdvkit_virtiofs.operations import Operations
from hdvkit_virtiofs.policy.layer import Layer

MAX_DEPTH = 4096
"""Components of the longest path; what lies deeper is ENAMETOOLONG. Linux ends at 2048, by its PATH_MAX."""
MAX_PLACES = 1 << 21
"""So many nodes are kept, with those that only lead to others; more is ENFILE until the guest forgets some."""


@attrs.define(eq=False)
class _Place(Generic[Node]):
    """Where one node is: a name in the place of its directory, which may move and takes this along."""

    node: Node
    parent: "_Place[Node] | None" = None
    name: bytes | None = None
    """None for the root, and for files that were made without a name."""
    known: bool = False
    """The guest has not forgotten the node."""
    uses: int = 0
    """Places within this one, and requests under way that may add some."""


class Paths(Layer[Node, Handle]):
    """Learns from what passes where each node is. A node with several names is where it was found last.

    Layers above must hand on to the guest each node that comes out of this one, or it is never forgotten. What is
    told here is exact as long as the file system behind changes a name and returns without waiting in between.
    """

    def __init__(self, inner: Operations[Node, Handle]) -> None:
        super().__init__(inner)
        self._root = _Place(self.root, known=True)
        self._places: dict[Node, _Place[Node]] = {self.root: self._root}
        self._names: dict[tuple[_Place[Node], bytes], _Place[Node]] = {}

    def __len__(self) -> int:
        """How many places are kept besides the root."""
        return len(self._places) - 1

    def names(self, node: Node) -> list[bytes]:
        """The names that lead from the root to ``node``. Of a file without a name, those to its directory.

        A node whose name was removed is still where it was.

        Raises:
            FuseError: ENAMETOOLONG, there are more than ``MAX_DEPTH``; ESTALE, the node never came past here.
        """
        names: list[bytes] = []
        place: _Place[Node] | None = self._place(node)
        while place is not None:
            if place.name is not None:
                names.append(place.name)
            if len(names) > MAX_DEPTH:
                raise FuseError(errno.ENAMETOOLONG)
            place = place.parent
        names.reverse()
        return names

    def path(self, node: Node, name: bytes | None = None) -> bytes:
        """The path of ``node`` from the root, or of ``name`` in it, with slashes between; the root is empty.

        Raises:
            FuseError: As ``names`` does.
        """
        return b"/".join([*self.names(node), *(() if name is None else (name,))])

    # What is learnt

    async def lookup(self, parent: Node, name: bytes, context: Context) -> Entry[Node]:
        """A node is where it was found."""
        with self._held(parent) as place:
            return self._learn(await self.inner.lookup(parent, name, context), place, name)

    async def create(
        self, parent: Node, name: bytes, mode: int, flags: int, context: Context
    ) -> tuple[Entry[Node], Opened[Handle]]:
        """A node is where it was made, or found."""
        with self._held(parent) as place:
            entry, opened = await self.inner.create(parent, name, mode, flags, context)
            return self._learn(entry, place, name), opened

    async def tmpfile(
        self, parent: Node, mode: int, flags: int, context: Context
    ) -> tuple[Entry[Node], Opened[Handle]]:
        """A file without a name belongs to the directory it was made in."""
        with self._held(parent) as place:
            entry, opened = await self.inner.tmpfile(parent, mode, flags, context)
            return self._learn(entry, place, None), opened

    async def mknod(self, parent: Node, name: bytes, mode: int, rdev: int, context: Context) -> Entry[Node]:
        """A node is where it was made."""
        with self._held(parent) as place:
            return self._learn(await self.inner.mknod(parent, name, mode, rdev, context), place, name)

    async def mkdir(self, parent: Node, name: bytes, mode: int, context: Context) -> Entry[Node]:
        """A node is where it was made."""
        with self._held(parent) as place:
            return self._learn(await self.inner.mkdir(parent, name, mode, context), place, name)

    async def symlink(self, parent: Node, name: bytes, target: bytes, context: Context) -> Entry[Node]:
        """A node is where it was made."""
        with self._held(parent) as place:
            return self._learn(await self.inner.symlink(parent, name, target, context), place, name)

    async def link(self, node: Node, parent: Node, name: bytes, context: Context) -> Entry[Node]:
        """A node is where it was named last."""
        with self._held(parent) as place:
            return self._learn(await self.inner.link(node, parent, name, context), place, name)

    async def unlink(self, parent: Node, name: bytes, context: Context) -> None:
        """Whatever gets this name next is another node."""
        with self._held(parent) as place:
            await self.inner.unlink(parent, name, context)
            self._names.pop((place, name), None)

    async def rmdir(self, parent: Node, name: bytes, context: Context) -> None:
        """Whatever gets this name next is another node."""
        with self._held(parent) as place:
            await self.inner.rmdir(parent, name, context)
            self._names.pop((place, name), None)

    async def rename(
        self, parent: Node, name: bytes, new_parent: Node, new_name: bytes, flags: int, context: Context
    ) -> None:
        """A node moves, and what lies in it moves along."""
        with self._held(parent) as old, self._held(new_parent) as new:
            await self.inner.rename(parent, name, new_parent, new_name, flags, context)
            moved, replaced = self._names.get((old, name)), self._names.get((new, new_name))
            if moved is replaced:
                return  # two names of one file, or nothing the guest knows
            if moved is not None:
                self._put(moved, new, new_name)
            if replaced is not None and flags & RENAME_EXCHANGE:
                self._put(replaced, old, name)

    def forget(self, node: Node) -> None:
        """Keep what leads to nodes that the guest still knows, and nothing else."""
        place = self._places.get(node)
        if place is not None:
            place.known = False
            self._tidy(place)
        self.inner.forget(node)

    # Inside

    def _place(self, node: Node) -> _Place[Node]:
        place = self._places.get(node)
        if place is None:
            raise FuseError(errno.ESTALE)
        return place

    @contextmanager
    def _held(self, node: Node) -> Iterator[_Place[Node]]:
        """The place of a directory that stays while a request works in it.

        Raises:
            FuseError: Before anything is done: ESTALE, ENAMETOOLONG, ENFILE.
        """
        if len(self._places) > MAX_PLACES:
            raise FuseError(errno.ENFILE)
        if len(self.names(node)) >= MAX_DEPTH:
            raise FuseError(errno.ENAMETOOLONG)
        place = self._place(node)
        place.uses += 1
        try:
            yield place
        finally:
            place.uses -= 1
            self._tidy(place)

    def _learn(self, entry: Entry[Node], parent: _Place[Node], name: bytes | None) -> Entry[Node]:
        place = self._places.get(entry.node)
        if place is None:
            place = self._places[entry.node] = _Place(entry.node)
        place.known = True
        self._put(place, parent, name)
        return entry

    def _put(self, place: _Place[Node], parent: _Place[Node], name: bytes | None) -> None:
        """Say where a node is now. What was there before has gone, as far as the guest knows."""
        if place.parent is not parent and self._lies_in(parent, place):
            return  # the host moved directories about, and the guest has not found all of them again
        self._leave_name(place)
        before, place.parent, place.name = place.parent, parent, name
        parent.uses += 1
        if name is not None:
            self._names[parent, name] = place
        if before is not None:
            before.uses -= 1
            self._tidy(before)

    def _lies_in(self, place: _Place[Node], directory: _Place[Node]) -> bool:
        """Whether a place is a directory's or below it. Ends at the root, because ``_put`` keeps loops out."""
        if directory is not self._root and not directory.uses:
            return False  # nothing lies in it
        above: _Place[Node] | None = place
        while above is not None and above is not directory:
            above = above.parent
        return above is directory

    def _leave_name(self, place: _Place[Node]) -> None:
        if place.parent is not None and place.name is not None:
            key = place.parent, place.name
            if self._names.get(key) is place:
                del self._names[key]

    def _tidy(self, place: _Place[Node] | None) -> None:
        """Drop a place that is of no use, and the directories above it that led only there."""
        while place is not None and not place.known and not place.uses:
            del self._places[place.node]
            self._leave_name(place)
            place = place.parent
            if place is not None:
                place.uses -= 1


class ByPath(Layer[Node, Handle]):
    """A layer that judges by path. Several in front of one file system share one :class:`Paths`."""

    def __init__(self, inner: Operations[Node, Handle]) -> None:
        paths = _paths_behind(inner)
        self.paths: Paths[Node, Handle] = Paths(inner) if paths is None else paths
        super().__init__(self.paths if paths is None else inner)


def _paths_behind(operations: Operations[Any, Any]) -> Paths[Any, Any] | None:
    while isinstance(operations, Layer) and not isinstance(operations, Paths):
        operations = operations.inner
    return operations if isinstance(operations, Paths) else None
