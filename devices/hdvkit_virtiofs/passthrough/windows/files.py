"""Open files of Windows: transfers between a file and the guest's pages, holes, and Linux's open flags.

Calls here block; who makes them decides in which thread, and holds the file meanwhile.
"""

import errno
from collections.abc import Sequence
from typing import Final

import attrs

from hdvkit_virtiofs.fuse.spec import O_ACCMODE, O_APPEND, O_RDONLY, O_TRUNC, O_WRONLY
from hdvkit_virtiofs.passthrough.errors import refusal
from hdvkit_virtiofs.passthrough.windows import layouts, nt
from hdvkit_virtiofs.passthrough.windows.binding import Handle
from hdvkit_virtiofs.passthrough.windows.status import NtError

# Numbers of Linux, whatever Python's are here.
O_DSYNC: Final = 0o10000
O_SYNC: Final = 0o4010000
SEEK_DATA: Final = 3
SEEK_HOLE: Final = 4

FALLOC_FL_KEEP_SIZE: Final = 0x01
FALLOC_FL_PUNCH_HOLE: Final = 0x02
FALLOC_FL_ZERO_RANGE: Final = 0x10
_ALLOCATIONS: Final = frozenset(
    {0, FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, FALLOC_FL_ZERO_RANGE,
     FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE}
)  # fmt: skip

READING: Final = nt.READ_DATA | nt.READ_ATTRIBUTES | nt.READ_EA
WRITING: Final = nt.WRITE_DATA | nt.APPEND_DATA | nt.READ_ATTRIBUTES | nt.WRITE_ATTRIBUTES | nt.READ_EA

COPIED_AT_ONCE: Final = 1024 * 1024
RANGES_SIZE: Final = 64 * 16


def access_of(flags: int, *, writeback: bool = False) -> int:
    """The rights that open flags of Linux ask for. A guest that collects writes reads what surrounds them."""
    mode = flags & O_ACCMODE
    if mode == O_ACCMODE:
        raise refusal(errno.EINVAL)
    access = READING if mode != O_WRONLY or writeback else 0
    if mode != O_RDONLY or flags & O_TRUNC:
        access |= WRITING
    return access


def options_of(flags: int) -> int:
    """The options of Windows among open flags of Linux."""
    return nt.WRITE_THROUGH if flags & (O_SYNC | O_DSYNC) else 0


@attrs.define(eq=False)
class File:
    """One open file. ``with file:`` keeps it open to the end of a call.

    A guest may release a file while a thread still reads it, so the last user closes.
    """

    handle: Handle
    waits: bool = False
    """Each write is on stable storage when it returns (O_SYNC, O_DSYNC)."""
    appends: bool = False
    """Writes go to the end (O_APPEND), unless they are of pages."""
    writable: bool = False
    readable: bool = True
    _users: int = attrs.field(default=0, init=False)
    _closing: bool = attrs.field(default=False, init=False)

    @classmethod
    def opened(cls, handle: Handle, flags: int) -> "File":
        """A file that was opened by flags of Linux."""
        mode = flags & O_ACCMODE
        waits, appends = bool(flags & (O_SYNC | O_DSYNC)), bool(flags & O_APPEND)
        return cls(handle, waits, appends, writable=mode != O_RDONLY, readable=mode != O_WRONLY)

    def __enter__(self) -> None:
        if self._closing:
            raise refusal(errno.EBADF)
        self._users += 1

    def __exit__(self, *_: object) -> None:
        self._users -= 1
        if self._closing and not self._users:
            self.handle.close()

    def close(self) -> None:
        """Close now, or when the last user leaves. Works twice."""
        if not self._closing:
            self._closing = True
            if not self._users:
                self.handle.close()

    def read(self, views: Sequence[memoryview], offset: int) -> int:
        """Fill ``views`` from ``offset`` on and return the count; short only at the end of the file."""
        done = 0
        for view in views:
            at = 0
            while at < len(view):
                count = nt.read(self.handle, view[at:], offset + done)
                if not count:
                    return done
                at += count
                done += count
        return done

    def write(self, views: Sequence[memoryview], offset: int, *, in_place: bool = False) -> int:
        """Write ``views`` and return the count; short only when an error came after a part.

        They go to ``offset``, or to the end where the file ``appends`` and this is not ``in_place``. What is appended
        is one write, so that lines of two writers never mix.
        """
        if self.appends and not in_place:
            return nt.write(self.handle, memoryview(b"".join(views)), nt.WRITE_TO_END) if any(views) else 0
        done = 0
        for view in views:
            at = 0
            while at < len(view):
                try:
                    count = nt.write(self.handle, view[at:], offset + done)
                except OSError:
                    if done:
                        return done
                    raise
                at += count
                done += count
        return done

    def truncate(self, size: int) -> None:
        """Cut off what is behind ``size``, or extend with zeroes."""
        nt.set_information(self.handle, layouts.END_OF_FILE, layouts.size(size))

    def allocate(self, mode: int, offset: int, length: int) -> None:
        """Reserve, punch or zero, as fallocate(2); EOPNOTSUPP for what shifts data around, or the volume cannot.

        Zeroes that are punched or written are holes where the volume has any.
        """
        if mode not in _ALLOCATIONS:
            raise refusal(errno.EOPNOTSUPP)
        if not self.writable:
            raise refusal(errno.EBADF)
        end, facts = offset + length, layouts.facts(nt.query(self.handle, layouts.ALL, layouts.ALL_SIZE))
        if mode & FALLOC_FL_PUNCH_HOLE and not facts.attributes & layouts.SPARSE:
            nt.control(self.handle, layouts.SET_SPARSE)
        if mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE) and offset < facts.size:
            nt.control(self.handle, layouts.SET_ZERO_DATA, layouts.file_range(offset, min(end, facts.size)))
        if not mode & FALLOC_FL_PUNCH_HOLE and end > facts.allocation:
            nt.set_information(self.handle, layouts.ALLOCATION, layouts.size(end))
        if not mode & FALLOC_FL_KEEP_SIZE and end > facts.size:
            self.truncate(end)

    def seek(self, offset: int, whence: int) -> int:
        """Find data or a hole; ENXIO behind the end. A volume that tells of no holes has data everywhere."""
        size = layouts.facts(nt.query(self.handle, layouts.ALL, layouts.ALL_SIZE)).size
        if offset >= size:
            raise refusal(errno.ENXIO)
        at = offset
        while at < size:
            start, end = self._data_from(at, size)
            if whence == SEEK_DATA:
                if start < size:
                    return start
                break
            if start > at:
                return at
            at = end
        if whence == SEEK_HOLE:
            return size  # there is always one behind the end
        raise refusal(errno.ENXIO)

    def _data_from(self, at: int, size: int) -> tuple[int, int]:
        """The first stretch of data at or behind ``at``; an empty one at the end where there is none."""
        asked = layouts.allocated_range(at, size - at)
        try:
            answer, _ = nt.control(self.handle, layouts.QUERY_ALLOCATED_RANGES, asked, RANGES_SIZE)
        except NtError as error:
            if error.is_unsupported:
                return at, size
            raise
        start, end = size, size
        for first, length in layouts.allocated_ranges(answer):
            if start == size:
                start, end = max(first, at), first + length
            elif first == end:  # they may touch
                end = first + length
            else:
                break
        return min(start, size), min(end, size)


def copy(source: File, source_at: int, target: File, target_at: int, length: int) -> int:
    """Copy bytes from one open file to another and return how many; fewer at the end of the source."""
    buffer = memoryview(bytearray(min(length, COPIED_AT_ONCE)))
    done = 0
    while done < length:
        count = source.read([buffer[: length - done]], source_at + done)
        if not count:
            break
        done += target.write([buffer[:count]], target_at + done, in_place=True)
        if count < min(len(buffer), length - done + count):
            break
    return done
