"""Open files and directories: positioned transfers between a file and the guest's pages, and listings.

Calls here block; who makes them decides in which thread, and holds the file meanwhile.
"""

import errno
import fcntl
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import anyio
import attrs

from hdvkit_virtiofs.fuse.answers import DirEntry
from hdvkit_virtiofs.passthrough.descriptors import Descriptors
from hdvkit_virtiofs.passthrough.errors import refusal
from hdvkit_virtiofs.passthrough.workers import Workers

IOV_MAX = 1024
"""Most buffers Linux takes in one ``preadv`` or ``pwritev`` (UIO_MAXIOV)."""

MAX_NAMES = 1 << 20
"""Names in all listings that one guest keeps open, about 200 MB; a single directory may be larger."""

LARGEST_DIRECTORY = 1 << 22
"""Names in the only listing a guest keeps open."""

INLINE_NAMES = 256
"""Names of a directory read at once on the loop; where there are more, a thread reads on."""

NAMES_AT_ONCE = 4096
"""Names a thread reads before they are accounted for."""

_WOULD_WAIT = {errno.EAGAIN, errno.EOPNOTSUPP, errno.ENOSYS}


@attrs.define(eq=False)
class File:
    """One open file. ``with file:`` keeps its descriptor open to the end of a call.

    A guest may release a file while a thread still reads it. The number must not go to another file then, so
    the last user closes.
    """

    descriptor: int
    _descriptors: Descriptors
    waits: bool = False
    """Each write is on stable storage when it returns (O_SYNC, O_DSYNC)."""
    appends: bool = False
    """Writes go to the end (O_APPEND), unless they are of pages."""
    dirty: bool = attrs.field(default=False, init=False)
    """Written to since the last flush."""
    _cached_reads: bool = attrs.field(default=True, init=False)
    _users: int = attrs.field(default=0, init=False)
    _closing: bool = attrs.field(default=False, init=False)

    def __enter__(self) -> None:
        if self._closing:
            raise refusal(errno.EBADF)
        self._users += 1

    def __exit__(self, *_: object) -> None:
        self._users -= 1
        if self._closing and not self._users:
            self._descriptors.close(self.descriptor)

    def close(self) -> None:
        """Close now, or when the last user leaves. Works twice."""
        if not self._closing:
            self._closing = True
            if not self._users:
                self._descriptors.close(self.descriptor)

    def read_cached(self, views: Sequence[memoryview], offset: int) -> tuple[int, bool]:
        """Read what is in memory already; True with the count when that was all, up to the end of the file.

        After False the rest must be read by ``read`` in a thread. Not every file system can tell what is in
        memory; one that cannot is asked once.
        """
        if not self._cached_reads:
            return 0, False
        try:
            return self._read(views, offset, os.RWF_NOWAIT)
        except OSError as error:
            if error.errno not in _WOULD_WAIT:
                raise
            self._cached_reads = False
            return 0, False

    def read(self, views: Sequence[memoryview], offset: int) -> int:
        """Fill ``views`` from ``offset`` on and return the count; short only at the end of the file."""
        return self._read(views, offset, 0)[0]

    def _read(self, views: Sequence[memoryview], offset: int, flags: int) -> tuple[int, bool]:
        done = 0
        rest = behind(views, 0)
        while rest:
            try:
                count = os.preadv(self.descriptor, rest[:IOV_MAX], offset + done, flags)
            except BlockingIOError:
                return done, False
            if not count:
                break
            done += count
            rest = behind(rest, count)
        return done, True

    def write(self, views: Sequence[memoryview], offset: int, *, in_place: bool = False) -> int:
        """Write ``views`` and return the count; short only when an error came after a part.

        They go to ``offset``, or to the end where the file ``appends`` and this is not ``in_place``. The same error
        comes back, alone, when the guest writes the rest.

        Raises:
            OSError: The kernel's answer; EPERM for what is ``in_place`` in a file that may only grow.
        """
        if in_place and self.appends and fcntl.fcntl(self.descriptor, fcntl.F_GETFL) & os.O_APPEND:
            raise refusal(errno.EPERM)  # the kernel would put it at the end and say nothing
        flags = os.RWF_APPEND if self.appends and not in_place else 0
        done = 0
        rest = behind(views, 0)
        while rest:
            try:
                count = os.pwritev(self.descriptor, rest[:IOV_MAX], offset + done, flags)
            except OSError:
                if done:
                    break
                raise
            done += count
            rest = behind(rest, count)
        return done

    def surface_errors(self) -> None:
        """Close one descriptor of several, as the guest did: file systems report late write errors then."""
        os.close(os.dup(self.descriptor))


@attrs.define(eq=False)
class Listings:
    """How many names one guest makes us remember."""

    names: int = 0

    def take(self, count: int, held: int) -> None:
        """Account for ``count`` more names of a listing that has ``held`` already.

        Raises ENOMEM when there are too many, and then the listing keeps what it has until it gives that back.
        """
        others = self.names - held
        if self.names + count > (MAX_NAMES if others else LARGEST_DIRECTORY):
            raise refusal(errno.ENOMEM)
        self.names += count


@attrs.define(eq=False)
class Directory(File):
    """One open directory with the listing the guest is going through."""

    _listings: Listings = attrs.field(factory=Listings, kw_only=True)
    _entries: list[DirEntry] | None = attrs.field(default=None, init=False)
    _taken: int = attrs.field(default=0, init=False)
    # The host keeps one reading position for the descriptor; two listings at once would share the names out.
    _listing: anyio.Lock = attrs.field(factory=anyio.Lock, init=False)

    async def list_again(self, ino: int, parent_ino: int, workers: Workers) -> None:
        """Take a new snapshot of the names; offsets given out before mean nothing any more.

        Raises EBADF when the guest closes the directory meanwhile, ENOMEM when it has too many names.
        """
        entries = [
            DirEntry(b".", ino, stat.S_IFDIR, 1),
            DirEntry(b"..", parent_ino, stat.S_IFDIR, 2),
        ]
        async with self._listing:
            self._forget()
            try:
                await self._read_names(entries, workers)
            except BaseException:
                self._forget()
                raise
            self._entries = entries

    async def _read_names(self, entries: list[DirEntry], workers: Workers) -> None:
        os.lseek(self.descriptor, 0, os.SEEK_SET)  # it may have been opened, and read, elsewhere
        with os.scandir(self.descriptor) as names:
            rest = _numbered(names, len(entries) + 1)
            entries += islice(rest, INLINE_NAMES)
            self._take(len(entries))
            more = len(entries) == INLINE_NAMES + 2
            while more:
                part = await workers.run(lambda: list(islice(rest, NAMES_AT_ONCE)))
                self._take(len(part))
                entries += part
                more = len(part) == NAMES_AT_ONCE

    def _take(self, count: int) -> None:
        if self._closing:
            raise refusal(errno.EBADF)  # nobody would give the names back
        self._listings.take(count, self._taken)
        self._taken += count

    def close(self) -> None:
        """Close now, or when the last user leaves. Works twice."""
        self._forget()
        super().close()

    def _forget(self) -> None:
        self._listings.names -= self._taken
        self._taken = 0
        self._entries = None

    @property
    def is_listed(self) -> bool:
        """Whether there is a snapshot to read from."""
        return self._entries is not None

    def entries_from(self, offset: int) -> Iterator[DirEntry]:
        """The snapshot from ``offset`` on; nothing where a forged offset points behind its end.

        It ends when the snapshot is given up: who still reads must not keep names that are not accounted for.
        """
        while self._entries is not None and offset < len(self._entries):
            yield self._entries[offset]
            offset += 1


def _numbered(names: Iterable[os.DirEntry[str]], first: int) -> Iterator[DirEntry]:
    for number, name in enumerate(names, first):
        yield DirEntry(os.fsencode(name.name), name.inode(), _type(name), number)


def _type(name: os.DirEntry[str]) -> int:
    """File type bits of a name, most often without asking the kernel again."""
    try:
        if name.is_symlink():
            return stat.S_IFLNK
        if name.is_dir(follow_symlinks=False):
            return stat.S_IFDIR
        if name.is_file(follow_symlinks=False):
            return stat.S_IFREG
        return stat.S_IFMT(name.stat(follow_symlinks=False).st_mode)
    except OSError:  # removed meanwhile, or a file system that hides it: the guest asks itself
        return 0


def behind(views: Sequence[memoryview], count: int) -> list[memoryview]:
    """What is left of ``views`` behind the first ``count`` bytes, without empty views."""
    rest = []
    for view in views:
        if count >= len(view):
            count -= len(view)
        else:
            rest.append(view[count:] if count else view)
            count = 0
    return rest
