"""Files the guest knows, told apart by their file id. Knows nothing of how they are opened."""

import stat
from typing import Protocol

from hdvkit_virtiofs.passthrough.windows.binding import Handle


class OpenFile(Protocol):
    """A file the guest has open."""

    @property
    def handle(self) -> Handle:
        """What it is open by."""
        ...


class Node:
    """One file, directory or link of the host."""

    __slots__ = ("file_id", "files", "is_root", "kept", "kind")

    def __init__(self, file_id: int, kind: int, *, is_root: bool = False) -> None:
        self.file_id = file_id
        """Unique on the volume. What NTFS gives a number to is never mistaken for what had it before."""
        self.kind = kind
        """File type bits, as ``stat.S_IFMT(st_mode)``."""
        self.is_root = is_root
        self.kept: Handle | None = None
        """Where files cannot be opened by id: what the others are opened from."""
        self.files: set[OpenFile] = set()
        """What the guest has open of it."""

    @property
    def is_link(self) -> bool:
        """Whether this is a symbolic link."""
        return self.kind == stat.S_IFLNK

    @property
    def is_directory(self) -> bool:
        """Whether this is a directory."""
        return self.kind == stat.S_IFDIR

    def let_go(self) -> None:
        """Close what is kept. Works twice."""
        if self.kept is not None:
            self.kept.close()
            self.kept = None


class NodeTable:
    """Gives the same Node for the same file, however it was reached."""

    def __init__(self) -> None:
        self._known: dict[int, Node] = {}

    def __len__(self) -> int:
        return len(self._known)

    def find(self, file_id: int, kind: int) -> Node | None:
        """Who is known by an id, unless it was another file's, or the file has become something else."""
        node = self._known.get(file_id)
        if node is not None and node.kind != kind:
            self.drop(node)
            return None
        return node

    def add(self, node: Node) -> Node:
        """Know one more."""
        self._known[node.file_id] = node
        return node

    def drop(self, node: Node) -> None:
        """The guest does not know it any more. Works twice."""
        node.let_go()
        if self._known.get(node.file_id) is node:
            del self._known[node.file_id]

    def drop_all(self) -> None:
        """Know nothing."""
        for node in list(self._known.values()):
            self.drop(node)
