"""New files of a guest in a directory of Windows. Whatever fails leaves no name behind."""

import contextlib
import errno
import stat
from typing import Final

import attrs

from hdvkit_virtiofs.fuse.answers import Attributes, Context
from hdvkit_virtiofs.passthrough.errors import refusal
from hdvkit_virtiofs.passthrough.windows import layouts, links, metadata, names, nt
from hdvkit_virtiofs.passthrough.windows.binding import Handle
from hdvkit_virtiofs.passthrough.windows.moving import dispose
from hdvkit_virtiofs.passthrough.windows.nodes import Node
from hdvkit_virtiofs.passthrough.windows.status import NtError
from hdvkit_virtiofs.passthrough.windows.tree import Tree
from hdvkit_virtiofs.passthrough.windows.volume import ASKING

_MAKING: Final = ASKING | nt.WRITE_ATTRIBUTES | nt.DELETE
"""The rights to give a new file what it needs, or to remove it again."""

_BY_MKNOD: Final = frozenset({stat.S_IFIFO, stat.S_IFSOCK})
_WHITEOUT: Final = (stat.S_IFCHR, 0)

_NOBODY: Final = Attributes(0, 0)


@attrs.frozen
class Maker:
    """Makes what callers ask for. With ``case_sensitive`` new directories tell names apart by case, if they can."""

    _tree: Tree
    _case_sensitive: bool = False
    _links: bool = True

    def file(self, parent: Node, name: bytes, mode: int, access: int, options: int, context: Context) -> Handle:
        """Make a regular file and return it opened.

        Raises:
            OSError: EEXIST, the name is taken, or one that Windows takes for the same.
        """
        options |= nt.NON_DIRECTORY_FILE
        return self._make(parent, name, stat.S_IFREG | mode, access | ASKING, options, context)

    def directory(self, parent: Node, name: bytes, mode: int, context: Context) -> Handle:
        """Make a directory."""
        made = self._make(parent, name, stat.S_IFDIR | mode, _MAKING, nt.DIRECTORY_FILE, context)
        if self._case_sensitive:
            # Windows without WSL, and most volumes but NTFS, have no such directories.
            with contextlib.suppress(NtError):
                nt.set_information(made, layouts.CASE_SENSITIVE, b"\1\0\0\0")
        return made

    def node(self, parent: Node, name: bytes, mode: int, rdev: int, context: Context) -> Handle:
        """Make a regular file, fifo, socket or whiteout; EPERM for device nodes."""
        kind = stat.S_IFMT(mode) or stat.S_IFREG
        if kind == stat.S_IFREG:
            return self._make(parent, name, kind | mode, _MAKING, nt.NON_DIRECTORY_FILE, context)
        if kind not in _BY_MKNOD and (kind, rdev) != _WHITEOUT:
            raise refusal(errno.EPERM)
        return self._special(parent, name, mode, links.special(metadata.TAGS[kind]), context, rdev)

    def link(self, parent: Node, name: bytes, target: bytes, context: Context) -> Handle:
        """Make a symbolic link as WSL does; EPERM where links are not wanted."""
        if not self._links:
            raise refusal(errno.EPERM)
        return self._special(parent, name, stat.S_IFLNK | 0o777, links.made(target), context)

    def _special(self, parent: Node, name: bytes, mode: int, reparse: bytes, context: Context, rdev: int = 0) -> Handle:
        """Make what is a file with a reparse point to Windows; EPERM on volumes that have none."""
        options = nt.NON_DIRECTORY_FILE | nt.OPEN_REPARSE_POINT
        made = self._make(parent, name, mode, _MAKING, options, context, rdev)
        try:
            nt.control(made, layouts.SET_REPARSE_POINT, reparse)
        except NtError as error:
            with made:
                dispose(self._tree.volume, made)
            if error.is_unsupported:
                raise refusal(errno.EPERM) from error
            raise
        return made

    def _make(
        self, parent: Node, name: bytes, mode: int, access: int, options: int, context: Context, rdev: int = 0
    ) -> Handle:
        units = names.to_new(name)
        read_only = stat.S_ISREG(mode) and not mode & metadata.WRITE_BITS and not self._tree.owners.metadata
        attributes = layouts.READONLY if read_only else layouts.NORMAL
        above = self._tree.attributes_of(parent) if self._tree.owners.metadata else _NOBODY
        born = layouts.eas(self._tree.owners.born(mode, above, context, rdev))
        with self._tree.volume.open_directory(parent) as directory:
            return nt.open_child(
                directory, units, access, options, disposition=nt.CREATE, attributes=attributes, ea=born
            )
