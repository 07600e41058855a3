"""What of a passthrough somebody else may use, who answers the same guest beside it: descriptors, within its limits."""

import contextlib
import os

import attrs

from hdvkit_virtiofs.passthrough.credentials import Credentials
from hdvkit_virtiofs.passthrough.descriptors import Descriptors
from hdvkit_virtiofs.passthrough.files import File
from hdvkit_virtiofs.passthrough.inode import NUMBER_BITS
from hdvkit_virtiofs.passthrough.inodes import Inode, InodeTable
from hdvkit_virtiofs.passthrough.open_files import OpenFiles

LENT = 256
"""Descriptors lent to one share at most: half of them for nodes, half for open files."""

PART = 4
"""Nor more than one part of so many of what the share may have."""

WORTH_IT = 16
"""Fewer are not lent."""


@attrs.frozen
class Borrowed:
    """How many descriptors somebody else may have open."""

    nodes: int = 0
    files: int = 0


@attrs.define(eq=False)
class Lending:
    """Lends a passthrough's descriptors, and takes back what was found and opened by them."""

    _descriptors: Descriptors
    _inodes: InodeTable
    _files: OpenFiles
    _credentials: Credentials
    noatime: int
    """Open flag for reading a read-only share, or 0."""
    borrowed: Borrowed = attrs.field(factory=Borrowed, init=False)

    @property
    def mount(self) -> tuple[int, int]:
        """A descriptor of the root's mount to open files by handle on, and the mount's number; -1 where that is not."""
        root = self._inodes.open.always
        mount = None if root is None else root.mount
        return (-1, 0) if mount is None else (mount.descriptor, mount.mount_id)

    @property
    def numbers(self) -> int:
        """A descriptor of the directory where descriptors are opened anew by number."""
        return self._descriptors.by_number

    @property
    def makes_for_anybody(self) -> bool:
        """Whether new files belong to the user this process runs as, whoever asks."""
        return not self._credentials.switching

    @property
    def makes_for_root(self) -> int | None:
        """The group that root must have for whom this process makes files without becoming somebody else."""
        return None if os.geteuid() else os.getegid()

    def borrow(self) -> None:
        """Lend as many as there are to spare."""
        if self.borrowed != Borrowed():
            return
        count = self._descriptors.lend(min(LENT, self._descriptors.limit // PART))
        if count < WORTH_IT:
            self._descriptors.take_back(count)
            return
        nodes = min(count // 2, self._inodes.size() // 4)
        self.borrowed = Borrowed(nodes, count - nodes)
        self._inodes.lent = nodes

    def give_back(self) -> None:
        """None of them is open any more."""
        self._descriptors.take_back(self.borrowed.nodes + self.borrowed.files)
        self.borrowed = Borrowed()
        self._inodes.lent = 0

    def met(self, device: int, inode: int, kind: int, handle: bytes, descriptor: int) -> Inode:
        """A file that was found elsewhere is the passthrough's from now on."""
        return self._inodes.meet(device << NUMBER_BITS | inode, kind, handle, descriptor)

    def opened(self, descriptor: int, flags: int, *, directory: bool) -> File:
        """A file that was opened elsewhere is, too."""
        return self._files.opened_elsewhere(self._descriptors.adopt(descriptor), flags, directory=directory)

    def close(self, descriptor: int) -> None:
        """Close what was opened elsewhere, in a thread where that may take long. Whoever used it is gone."""
        with contextlib.suppress(OSError):
            self._descriptors.close(self._descriptors.adopt(descriptor))
