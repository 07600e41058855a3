"""Open directories of Windows: the listing a guest is going through, and how many names that may be."""

import errno
import itertools
import stat
from collections.abc import Iterator
from typing import Final

import attrs

from hdvkit_virtiofs.fuse.answers import DirEntry
from hdvkit_virtiofs.passthrough.errors import refusal
from hdvkit_virtiofs.passthrough.windows import names
from hdvkit_virtiofs.passthrough.windows.files import File
from hdvkit_virtiofs.passthrough.windows.layouts import Row
from hdvkit_virtiofs.passthrough.windows.metadata import kind_of
from hdvkit_virtiofs.passthrough.windows.moving import LEFTOVER
from hdvkit_virtiofs.passthrough.windows.volume import inode_number

MAX_NAMES: Final = 1 << 20
"""Names in all listings that one guest keeps open, about 200 MB; a single directory may be larger."""

DOT, DOTS = (text.encode("utf-16-le") for text in (".", ".."))
_LEFTOVER: Final = LEFTOVER.encode("utf-16-le")


@attrs.define(eq=False)
class Listings:
    """How many names one guest makes us remember."""

    names: int = 0

    def take(self, count: int) -> None:
        """Account for a listing; raises ENOMEM when there are too many others."""
        if self.names and self.names + count > MAX_NAMES:
            raise refusal(errno.ENOMEM)
        self.names += count


@attrs.define(eq=False)
class Directory(File):
    """One open directory with the listing the guest is going through."""

    _listings: Listings = attrs.field(factory=Listings, kw_only=True)
    _entries: list[DirEntry] | None = attrs.field(default=None, init=False)

    @property
    def is_listed(self) -> bool:
        """Whether there is a snapshot to read from."""
        return self._entries is not None

    def keep(self, entries: list[DirEntry]) -> None:
        """Keep a new snapshot of the names; offsets given out before mean nothing any more."""
        self._forget()
        if self._closing:
            raise refusal(errno.EBADF)  # the guest closed it meanwhile: nobody would give the names back
        self._listings.take(len(entries))
        self._entries = entries

    def entries_from(self, offset: int) -> Iterator[DirEntry]:
        """The snapshot from ``offset`` on; nothing where a forged offset points behind its end."""
        return itertools.islice(self._entries or [], offset, None)

    def close(self) -> None:
        """Close now, or when the last user leaves. Works twice."""
        self._forget()
        super().close()

    def _forget(self) -> None:
        self._listings.names -= len(self._entries or ())
        self._entries = None


def entries_of(rows: Iterator[Row], own_id: int, *, is_root: bool) -> list[DirEntry]:
    """What the guest sees of the names of a directory.

    The parent of the root lies outside the share and is none of the guest's business.
    """
    above, others = own_id, []
    for row in rows:
        if row.name == DOTS:
            above = own_id if is_root else row.file_id
        elif row.name != DOT and not row.name.startswith(_LEFTOVER):
            others.append(row)
    entries = [
        DirEntry(b".", inode_number(own_id), stat.S_IFDIR, 1),
        DirEntry(b"..", inode_number(above or own_id), stat.S_IFDIR, 2),
    ]
    for number, row in enumerate(others, 3):
        entries.append(DirEntry(names.to_guest(row.name), inode_number(row.file_id), kind_of(row), number))
    return entries
