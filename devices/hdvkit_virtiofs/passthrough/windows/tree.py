"""From names to files: exact lookups in one directory, and the nodes that stand for what was found."""

import errno
from typing import Final

from hdvkit_virtiofs.fuse.answers import Attributes
from hdvkit_virtiofs.passthrough.errors import refusal
from hdvkit_virtiofs.passthrough.windows import names, nt
from hdvkit_virtiofs.passthrough.windows.binding import Handle
from hdvkit_virtiofs.passthrough.windows.layouts import Facts, Row
from hdvkit_virtiofs.passthrough.windows.metadata import Owners, kind_of
from hdvkit_virtiofs.passthrough.windows.nodes import Node, NodeTable
from hdvkit_virtiofs.passthrough.windows.volume import ASKING, Volume, inode_number

LOOKS: Final = 8
"""How often a name is looked up that host processes replace under our hands."""


class Tree:
    """The files of one share. ``root`` is an open directory, which it keeps."""

    def __init__(self, root: Handle, owners: Owners, by_id: bool | None = None) -> None:
        self.volume = Volume(root, by_id)
        self.owners = owners
        self.nodes = NodeTable()
        facts = self.volume.facts(root)
        self.root = self.nodes.add(Node(facts.file_id, kind_of(facts), is_root=True))

    # Names

    def find(self, parent: Node, name: bytes, access: int = ASKING) -> tuple[Handle, Facts]:
        """Open what has this very name in a directory, a link as itself. The caller closes the handle.

        NTFS finds names whatever their case, and by their short form (``PROGRA~1``) too. A guest does not: what was
        hidden from it under one name would be there under another.

        Raises:
            OSError: ENOENT, nothing has exactly this name; else Windows' answer.
        """
        units = names.to_host(name)
        for _ in range(LOOKS):
            row = self.exact(self.rows(parent, units), units)
            if row is None:
                break
            with self.volume.open_directory(parent) as directory:
                handle = nt.open_child(directory, units, access, nt.OPEN_REPARSE_POINT)
            try:
                facts = self.volume.facts(handle)
            except OSError:
                handle.close()
                raise
            if facts.file_id == row.file_id:
                return handle, facts
            handle.close()
        else:
            raise refusal(errno.EBUSY)
        raise refusal(errno.ENOENT)

    def rows(self, parent: Node, units: bytes) -> list[Row]:
        """All that Windows takes for ``units`` in a directory: one row, or in odd cases two."""
        with self.volume.open_directory(parent) as directory:
            return list(self.volume.rows(directory, units))

    @staticmethod
    def exact(rows: list[Row], units: bytes) -> Row | None:
        """The row that has the very name."""
        return next((row for row in rows if row.name == units), None)

    # Nodes

    def adopt(self, handle: Handle, facts: Facts) -> Node:
        """Take over a handle and give the node of its file.

        Call it last in an operation: a node that then is not given to the guest is never forgotten.
        """
        kind = kind_of(facts)
        node = self.nodes.find(facts.file_id, kind)
        if node is not None and not self._is_still(node):
            self.nodes.drop(node)
            node = None
        if node is None:
            node = self.nodes.add(Node(facts.file_id, kind))
        if self.volume.by_id or node.kept is not None or node.is_root:
            handle.close()
        else:
            node.kept = handle
        return node

    def _is_still(self, node: Node) -> bool:
        """Whether a kept file has the id it had: FAT counts files by their place."""
        return node.kept is None or self.volume.facts(node.kept).file_id == node.file_id

    def known(self, facts: Facts) -> Node | None:
        """The node of a file, if the guest knows it."""
        return self.nodes.find(facts.file_id, kind_of(facts))

    # Attributes

    def attributes(self, handle: Handle, facts: Facts | None = None) -> Attributes:
        """What the guest is told of an open file."""
        facts = facts or self.volume.facts(handle)
        eas = self.volume.eas(handle, facts) if self.owners.metadata else {}
        return self.owners.attributes(facts, inode_number(facts.file_id), eas)

    def attributes_of(self, node: Node) -> Attributes:
        """What the guest is told of a node."""
        with self.volume.asked(node) as handle:
            return self.attributes(handle)

    def close(self) -> None:
        """Let go of everything."""
        self.nodes.drop_all()
        self.volume.close()
