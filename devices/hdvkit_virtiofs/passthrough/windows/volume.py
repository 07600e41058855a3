"""The volume that holds a share: what it can do, and how its files are opened once they are known.

A known file is opened by its id, so renames on either side do not touch it, and nothing is held open for files the
guest merely knows: a directory that is open below cannot be renamed on Windows. Where a volume cannot do that (FAT,
shares of other machines) a handle is kept for each file, and opened again from that.
"""

import contextlib
import errno
import hashlib
from collections.abc import Iterator
from typing import Final

from hdvkit_virtiofs.passthrough.errors import refusal
from hdvkit_virtiofs.passthrough.windows import layouts, metadata, nt, status
from hdvkit_virtiofs.passthrough.windows.binding import Handle
from hdvkit_virtiofs.passthrough.windows.layouts import Facts, Row
from hdvkit_virtiofs.passthrough.windows.nodes import Node
from hdvkit_virtiofs.passthrough.windows.status import NtError

ASKING: Final = nt.READ_ATTRIBUTES | nt.READ_EA
"""The rights to be told of a file, and nothing more."""

LOOKING: Final = nt.READ_DATA | nt.READ_ATTRIBUTES | nt.READ_EA
"""The rights to find names in a directory."""

_GONE: Final = frozenset({status.INVALID_PARAMETER, status.OBJECT_NAME_NOT_FOUND, status.NO_SUCH_FILE})
"""How file systems refuse the id of a file that is gone."""

_U64: Final = (1 << 64) - 1


class Volume:
    """The volume of an open directory, which it keeps. ``by_id`` overrules what the volume says of itself."""

    def __init__(self, root: Handle, by_id: bool | None = None) -> None:
        self._root = root
        self.system = layouts.file_system(nt.query_volume(root, layouts.FS_ATTRIBUTE, 200))
        self._wide = self._has_wide_ids()
        self.by_id = self._has(layouts.SUPPORTS_OPEN_BY_FILE_ID) if by_id is None else by_id
        self.posix = self._has(layouts.SUPPORTS_POSIX_UNLINK_RENAME)
        """Whether names are removed and replaced as POSIX says, whoever has the file open."""

    @property
    def keeps_eas(self) -> bool:
        """Whether files can have extended attributes."""
        return self._has(layouts.SUPPORTS_EXTENDED_ATTRIBUTES)

    def _has(self, flag: int) -> bool:
        return bool(self.system.attributes & flag)

    def _has_wide_ids(self) -> bool:
        """ReFS counts files with 128 bits, and says too little in the 64 of everybody else."""
        try:
            return self._wide_id(self._root) > _U64
        except NtError:
            return False

    # Opening

    def open(self, node: Node, access: int, options: int = 0) -> Handle:
        """Open a file that is known.

        Raises:
            NtError: Windows' answer.
            OSError: ESTALE, it is gone.
        """
        if node.is_root:
            return nt.open_again(self._root, access, options)
        if not self.by_id:
            if node.kept is None:
                raise refusal(errno.ESTALE)
            return nt.open_again(node.kept, access, options)
        length = 16 if self._wide else 8
        try:
            return nt.open_id(self._root, node.file_id.to_bytes(length, "little"), access, options)
        except NtError as error:
            if error.status in _GONE:
                raise refusal(errno.ESTALE) from error
            raise

    def open_directory(self, node: Node, access: int = LOOKING) -> Handle:
        """Open a directory; ENOTDIR for what is none, or has become something that leads elsewhere."""
        return self.open(node, access, nt.DIRECTORY_FILE)

    @contextlib.contextmanager
    def asked(self, node: Node, access: int = ASKING) -> Iterator[Handle]:
        """A handle to ask by, or to change attributes by; for a file whose last name is gone, one the guest has."""
        if node.kept is not None and access == ASKING:
            yield node.kept
            return
        try:
            handle = self.open(node, access, nt.OPEN_REPARSE_POINT)
        except OSError as error:
            # FILE_DELETED and DELETE_PENDING are told as these.
            if not node.files or error.errno not in (errno.ESTALE, errno.ENOENT):
                raise
            yield next(iter(node.files)).handle
            return
        with handle:
            yield handle

    # Asking

    def facts(self, handle: Handle) -> Facts:
        """What Windows says of an open file."""
        found = layouts.facts(nt.query(handle, layouts.ALL, layouts.ALL_SIZE))
        if self._wide:
            found = found._replace(file_id=self._wide_id(handle))
        if found.attributes & layouts.REPARSE_POINT:
            found = found._replace(tag=int.from_bytes(nt.query(handle, layouts.ATTRIBUTE_TAG, 8)[4:], "little"))
        return found

    def _wide_id(self, handle: Handle) -> int:
        return int.from_bytes(nt.query(handle, layouts.ID, 24)[8:], "little")

    def rows(self, directory: Handle, pattern: bytes = b"") -> Iterator[Row]:
        """The names of a directory, or those that Windows takes for ``pattern``; the handle must be fresh."""
        information = layouts.ID_EXTD_DIRECTORY if self._wide else layouts.ID_BOTH_DIRECTORY
        for data in nt.list_names(directory, information, pattern):
            yield layouts.row(data, wide=self._wide)

    def eas(self, handle: Handle, facts: Facts) -> dict[bytes, bytes]:
        """What WSL has written to the file."""
        if not facts.ea_size:
            return {}
        return layouts.ea_values(nt.rows(nt.query_eas(handle, metadata.NAMES)))

    def space(self) -> layouts.Space:
        """How large it is, and how much of that is free."""
        return layouts.space(nt.query_volume(self._root, layouts.FS_FULL_SIZE, 32))

    def close(self) -> None:
        """Let go of the directory."""
        self._root.close()


def inode_number(file_id: int) -> int:
    """The number a guest knows a file by: the id, or where that has 128 bits a digest of it, the same for ever."""
    if file_id <= _U64:
        return file_id
    return int.from_bytes(hashlib.blake2b(file_id.to_bytes(16, "little"), digest_size=8).digest(), "little") or 1
