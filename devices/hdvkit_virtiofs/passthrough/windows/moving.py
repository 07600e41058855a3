"""Names of a directory of Windows that go away or move, as POSIX says where the volume can, and nearly so elsewhere."""

import errno
import secrets
import stat
from typing import Final

import attrs

from hdvkit_virtiofs.fuse.spec import RENAME_NOREPLACE
from hdvkit_virtiofs.passthrough.errors import refusal
from hdvkit_virtiofs.passthrough.windows import layouts, names, nt
from hdvkit_virtiofs.passthrough.windows.binding import Handle
from hdvkit_virtiofs.passthrough.windows.layouts import Facts
from hdvkit_virtiofs.passthrough.windows.metadata import kind_of
from hdvkit_virtiofs.passthrough.windows.nodes import Node
from hdvkit_virtiofs.passthrough.windows.status import NtError
from hdvkit_virtiofs.passthrough.windows.tree import Tree
from hdvkit_virtiofs.passthrough.windows.volume import ASKING, Volume

REMOVING: Final = nt.DELETE | nt.READ_ATTRIBUTES

LEFTOVER: Final = ".hdvkit-removed-"
"""Names that begin so are of files that a guest has removed and still has open, where Windows cannot do without one."""


@attrs.frozen
class Mover:
    """Removes, moves and adds names of one share."""

    _tree: Tree

    def remove(self, parent: Node, name: bytes, *, directory: bool) -> None:
        """Remove a name; open files read on.

        Raises:
            OSError: EISDIR, ENOTDIR, ENOTEMPTY as for unlink(2) and rmdir(2); else Windows' answer.
        """
        handle, facts = self._tree.find(parent, name, REMOVING)
        with handle:
            if directory != (kind_of(facts) == stat.S_IFDIR):
                raise refusal(errno.ENOTDIR if directory else errno.EISDIR)
            self._remove(parent, handle, facts)

    def _remove(self, parent: Node, handle: Handle, facts: Facts) -> None:
        volume, node = self._tree.volume, self._tree.known(facts)
        if not volume.posix and node is not None:
            node.let_go()  # or the name would stay until the guest forgets it
            if node.files:
                self._set_aside(parent, handle)
        dispose(volume, handle)
        self._forget(node, facts)

    def _set_aside(self, parent: Node, handle: Handle) -> None:
        """Let something that stays until it is closed have another name meanwhile."""
        units = (LEFTOVER + secrets.token_hex(8)).encode("utf-16-le")
        self._move(handle, parent, units, layouts.RENAME, 0)

    def rename(self, parent: Node, name: bytes, new_parent: Node, new_name: bytes, flags: int) -> None:
        """Move a name, over what stands there unless ``flags`` say RENAME_NOREPLACE.

        Raises:
            OSError: as rename(2); EEXIST also where the new name is taken by one that Windows takes for the same.
        """
        units = names.to_new(new_name)
        handle, facts = self._tree.find(parent, name, REMOVING)
        with handle:
            there = self._tree.exact(self._tree.rows(new_parent, units), units)
            if there is None:  # or by another spelling, which Windows then says by itself
                self._put(handle, new_parent, units, replaces=False)
            elif flags & RENAME_NOREPLACE:
                raise refusal(errno.EEXIST)
            elif there.file_id != facts.file_id:  # rename(2): two names of one file stay as they are
                self._replace(handle, facts, new_parent, new_name)
            self._keep(handle, facts)

    def _keep(self, handle: Handle, facts: Facts) -> None:
        """Where a handle is kept, let it be one that has the new name: Wine opens again by the name a handle has."""
        node = self._tree.known(facts)
        if node is not None and node.kept is not None:
            node.let_go()
            node.kept = nt.open_again(handle, ASKING, nt.OPEN_REPARSE_POINT)

    def _replace(self, handle: Handle, facts: Facts, parent: Node, name: bytes) -> None:
        """Move a name over another: in one step where the volume knows POSIX and the other is no directory."""
        units, is_directory = names.to_new(name), kind_of(facts) == stat.S_IFDIR
        target, found = self._tree.find(parent, name, REMOVING)
        with target:
            node = self._tree.known(found)
            if (kind_of(found) == stat.S_IFDIR) != is_directory:
                raise refusal(errno.ENOTDIR if is_directory else errno.EISDIR)
            if is_directory:
                self._remove(parent, target, found)
            elif node is not None and not self._tree.volume.posix:
                node.let_go()
                if node.files:
                    self._set_aside(parent, target)
                    self._put(handle, parent, units, replaces=False)
                    dispose_when_closed(target)
                    return
        self._put(handle, parent, units, replaces=not is_directory)
        self._forget(node, found)

    def _forget(self, node: Node | None, facts: Facts) -> None:
        """The number of a file whose last name is gone may go to another."""
        if node is not None and facts.links <= 1:
            self._tree.nodes.drop(node)

    def _put(self, handle: Handle, parent: Node, units: bytes, *, replaces: bool) -> None:
        flags = layouts.RENAME_REPLACES if replaces else 0
        if self._tree.volume.posix:
            self._move(handle, parent, units, layouts.RENAME_EX, flags | layouts.RENAME_POSIX)
        else:
            self._move(handle, parent, units, layouts.RENAME, flags)

    def link(self, node: Node, parent: Node, name: bytes) -> tuple[Handle, Facts]:
        """Give a file one more name and return it opened. On volumes without hard links that is EPERM."""
        units = names.to_new(name)
        handle = self._tree.volume.open(node, ASKING | nt.WRITE_ATTRIBUTES, nt.OPEN_REPARSE_POINT)
        try:
            self._move(handle, parent, units, layouts.LINK, 0)
            return handle, self._tree.volume.facts(handle)
        except NtError as error:
            handle.close()
            if error.is_unsupported:
                raise refusal(errno.EPERM) from error
            raise

    def _move(self, handle: Handle, parent: Node, units: bytes, information: int, flags: int) -> None:
        with self._tree.volume.open_directory(parent) as directory:
            nt.set_information(handle, information, layouts.move(directory.number, units, flags))


def dispose(volume: Volume, handle: Handle) -> None:
    """Remove the name that a handle was opened by, now or when nobody has the file open any more."""
    if volume.posix:
        nt.set_information(handle, layouts.DISPOSITION_EX, layouts.DISPOSE_POSIX.to_bytes(4, "little"))
    else:
        dispose_when_closed(handle)


def dispose_when_closed(handle: Handle) -> None:
    """Remove a name as soon as all have closed the file, read-only or not."""
    attributes = layouts.facts(nt.query(handle, layouts.ALL, layouts.ALL_SIZE)).attributes
    if attributes & layouts.READONLY:
        writable = (attributes & ~layouts.READONLY) or layouts.NORMAL
        with nt.open_again(handle, nt.WRITE_ATTRIBUTES, nt.OPEN_REPARSE_POINT) as again:
            nt.set_information(again, layouts.BASIC, layouts.basic(attributes=writable))
    nt.set_information(handle, layouts.DISPOSITION, b"\1")
