"""The numbers a guest knows open files by: what is behind each, and what it may be used for."""

import errno
from typing import Generic, NamedTuple

from hdvkit_virtiofs.fuse.answers import Handle, Node
from hdvkit_virtiofs.fuse.errors import FuseError
from hdvkit_virtiofs.fuse.messages import FileHandle
from hdvkit_virtiofs.fuse.spec import O_ACCMODE, O_RDONLY, O_WRONLY
from hdvkit_virtiofs.nodes import Row
from hdvkit_virtiofs.watch import Watch

MAX_HANDLES = 1 << 16
"""So many files a guest may have open; more is ENFILE until it closes some."""


class OpenFile(NamedTuple, Generic[Node, Handle]):
    """An open file or directory."""

    row: Row[Node]
    handle: Handle
    flags: int
    """Linux open flags, the access mode among them."""
    directory: bool

    @property
    def readable(self) -> bool:
        """Whether it was opened for reading."""
        return self.flags & O_ACCMODE != O_WRONLY

    @property
    def writable(self) -> bool:
        """Whether it was opened for writing."""
        return self.flags & O_ACCMODE != O_RDONLY


class HandleTable(Generic[Node, Handle]):
    """All files one guest has open. A number is never used twice; 0 is none."""

    def __init__(self) -> None:
        self._open: dict[int, OpenFile[Node, Handle]] = {}
        self._next = 1
        self._watch: Watch[Node, Handle] | None = None

    def watched_by(self, watch: "Watch[Node, Handle]") -> None:
        """Tell ``watch`` of the files that are opened and closed from now on."""
        self._watch = watch

    def __len__(self) -> int:
        return len(self._open)

    @property
    def full(self) -> bool:
        """Whether no more files can be opened."""
        return len(self._open) >= MAX_HANDLES

    def add(self, file: OpenFile[Node, Handle]) -> FileHandle:
        """Number an open file."""
        number = self._next
        self._next += 1
        self._open[number] = file
        if self._watch is not None and not file.directory:
            self._watch.opened(number, file.row.nodeid, file.handle, readable=file.readable, writable=file.writable)
        return FileHandle(number)

    def adopt(self, fh: int, file: OpenFile[Node, Handle]) -> None:
        """A file that was opened elsewhere, under the number the guest knows it by, is here from now on."""
        self._open[fh] = file

    def __contains__(self, fh: int) -> bool:
        return fh in self._open

    def find(self, fh: int, nodeid: int, *, directory: bool | None) -> OpenFile[Node, Handle]:
        """The open file behind a number; with ``directory`` None, of either kind.

        Raises:
            FuseError: EBADF. The number is forged or closed, is of another node, or of the other kind.
        """
        file = self._open.get(fh)
        if file is None or file.row.nodeid != nodeid or directory not in (None, file.directory):
            raise FuseError(errno.EBADF)
        return file

    def remove(self, fh: int) -> None:
        """The file is closed."""
        self._open.pop(fh, None)
        if self._watch is not None:
            self._watch.closed(fh)

    def take_all(self) -> list[OpenFile[Node, Handle]]:
        """Everything that was open; nothing is any more."""
        files = list(self._open.values())
        self._open.clear()
        return files
