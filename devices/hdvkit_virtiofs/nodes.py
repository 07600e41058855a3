"""The numbers a guest knows nodes by, and how many references it holds. Knows nothing of messages.

A guest can name only nodes that a file system returned to it, and a number is never used twice, so a forged or
stale one finds nothing.
"""

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic

from hdvkit_virtiofs.fuse.answers import Node
from hdvkit_virtiofs.fuse.errors import FuseError
from hdvkit_virtiofs.fuse.messages import NodeId
from hdvkit_virtiofs.fuse.spec import ROOT_ID
from hdvkit_virtiofs.watch import Watch

MAX_NODES = 1 << 20
"""So many nodes a guest may hold references on; looking up more is ENFILE until it forgets some."""


class Row(Generic[Node]):
    """One node the guest knows."""

    __slots__ = ("lookups", "node", "nodeid", "pins")

    def __init__(self, nodeid: NodeId, node: Node) -> None:
        self.nodeid = nodeid
        self.node = node
        self.lookups = 0
        """References of the guest, as FUSE counts them."""
        self.pins = 0
        """Open files and requests under way that need the node."""


class NodeTable(Generic[Node]):
    """All nodes one guest knows. ``dropped`` is called with each node that nothing refers to any more."""

    def __init__(self, root: Node, dropped: Callable[[Node], None]) -> None:
        self._dropped = dropped
        self._root: Row[Node] = Row(NodeId(ROOT_ID), root)
        self._next = ROOT_ID + 1
        self._by_id = {self._root.nodeid: self._root}
        self._by_node = {root: self._root}
        self._cleared: dict[Node, Row[Node]] = {}
        self._again: list[Row[Node]] = []
        """Nodes the guest knows by a second number: the host had given an inode number twice, and who has it now was
        found out too late."""
        self._watch: Watch[Node, Any] | None = None

    def watched_by(self, watch: "Watch[Node, Any]") -> None:
        """Tell ``watch`` of all nodes, and let it give out references on them."""
        self._watch = watch
        for row in self._by_id.values():
            watch.entered(row.nodeid, row.node)

    def __len__(self) -> int:
        return len(self._by_id)

    def clear(self) -> None:
        """The guest knows the root only. Call ``drop_cleared`` until it returns False."""
        cleared = self._by_node
        del cleared[self._root.node]
        cleared.update(self._cleared)  # empty, unless somebody ended the calls of drop_cleared too early
        self._cleared = cleared
        self._root.pins = 0
        self._by_id = {self._root.nodeid: self._root}
        self._by_node = {self._root.node: self._root}
        self._again.clear()
        if self._watch is not None:
            self._watch.cleared()
            self._watch.entered(self._root.nodeid, self._root.node)

    def drop_cleared(self, count: int) -> bool:
        """Drop ``count`` of the nodes known before ``clear``; return whether there are more.

        One that the guest meets again meanwhile is not dropped.
        """
        for _ in range(min(count, len(self._cleared))):
            node, _ = self._cleared.popitem()
            self._dropped(node)
        return bool(self._cleared)

    def enter(self, node: Node) -> NodeId:
        """One more reference of the guest on ``node``: the number it knows it by.

        Raises:
            FuseError: ENFILE. The guest holds too many; the file system hears that the node is not wanted.
        """
        row = self._by_node.get(node)
        if row is None:
            self._cleared.pop(node, None)
            if len(self._by_id) + len(self._cleared) + self._elsewhere() >= MAX_NODES:
                self._dropped(node)
                raise FuseError(errno.ENFILE)
            nodeid = self._next if self._watch is None else self._watch.entered(self._next, node)
            self._next += nodeid == self._next
            row = self._add(nodeid, node)
        row.lookups += 1
        return row.nodeid

    def _add(self, nodeid: int, node: Node) -> Row[Node]:
        row = Row(NodeId(nodeid), node)
        self._by_id[row.nodeid] = row
        if node in self._by_node:
            self._again.append(row)
        else:
            self._by_node[node] = row
        return row

    def _elsewhere(self) -> int:
        return 0 if self._watch is None else self._watch.count()

    def find(self, nodeid: int) -> Row[Node]:
        """The node behind a number.

        Raises:
            FuseError: ESTALE. The number is forged, or the guest gave up its last reference.
        """
        row = self._by_id.get(NodeId(nodeid)) or self._met(nodeid)
        if row is None:
            raise FuseError(errno.ESTALE)
        return row

    def _met(self, nodeid: int) -> Row[Node] | None:
        """A node that was given out elsewhere; its references are counted there until they are asked for."""
        node = None if self._watch is None else self._watch.met(nodeid)
        if node is None:
            return None
        self._cleared.pop(node, None)
        return self._add(nodeid, node)

    def forget(self, nodeid: int, count: int) -> None:
        """The guest says that it holds ``count`` references less. Never below zero, and the root stays."""
        row = self._by_id.get(NodeId(nodeid))
        if row is None and self._watch is not None:
            self._watch.forgotten(nodeid, count)
        elif row is not None and row is not self._root:
            given = 0 if self._watch is None else self._watch.given(nodeid)
            row.lookups = max(0, row.lookups + given - count)
            self._check(row)

    def pin(self, row: Row[Node]) -> None:
        """Keep a node alive whatever the guest forgets, until ``unpin``."""
        row.pins += 1

    def unpin(self, row: Row[Node]) -> None:
        """Undo one ``pin``; the node may go with it. Harmless after ``clear``."""
        if row.pins:
            row.pins -= 1
            self._check(row)

    @contextmanager
    def pinned(self, nodeid: int) -> Iterator[Node]:
        """A node that stays alive while a request works on it."""
        row = self.find(nodeid)
        self.pin(row)
        try:
            yield row.node
        finally:
            self.unpin(row)

    def _check(self, row: Row[Node]) -> None:
        if not row.lookups and not row.pins and row is not self._root:
            self._drop(row)

    def _drop(self, row: Row[Node]) -> None:
        if self._watch is not None and row.nodeid in self._by_id:
            row.lookups = self._watch.dropped(row.nodeid)
            if row.lookups:
                return  # somebody met it meanwhile
        if self._by_id.pop(row.nodeid, None) is None:
            return
        if row in self._again:
            self._again.remove(row)
            return
        del self._by_node[row.node]
        for other in self._again:
            if other.node is row.node:
                self._again.remove(other)
                self._by_node[row.node] = other
                return
        self._dropped(row.node)
