"""An open file in the guest: offsets, splitting and the requests of its life, from OPEN to RELEASE.

Without a page cache: each read and write becomes READ and WRITE at once.
"""

import contextlib
import errno
from collections.abc import Awaitable
from types import TracebackType
from typing import Self, TypeVar

from hdvkit.testing.fuse_client import FuseClient
from hdvkit.testing.fuse_errors import failure
from hdvkit.testing.fuse_locks import LkOut
from hdvkit.testing.fuse_messages import (
    F_UNLCK,
    F_WRLCK,
    LAST_BYTE,
    PAGE_SIZE,
    RELEASE_FLOCK_UNLOCK,
    Fattr,
    Init,
    Opcode,
    Open,
)
from hdvkit.testing.fuse_replies import OpenOut
from hdvkit.testing.mount_state import MountState, Stat
from hdvkit.testing.mount_walk import Path, kills_suidgid

T = TypeVar("T")

SEEK_SET, SEEK_CUR, SEEK_END, SEEK_DATA, SEEK_HOLE = range(5)

_MODES = {
    "r": Open.RDONLY,
    "w": Open.WRONLY | Open.CREAT | Open.TRUNC,
    "x": Open.WRONLY | Open.CREAT | Open.EXCL,
    "a": Open.WRONLY | Open.CREAT | Open.APPEND,
}
_ONLY_TO_OPEN = Open.CREAT | Open.EXCL | Open.TRUNC


class GuestFile:
    """What ``GuestMount.open`` gives: an open file whose contents are bytes. Close it, or use ``async with``.

    Each method raises the OSError that the system call would, with the path; after ``close`` a ValueError.
    """

    def __init__(
        self,
        client: FuseClient,
        state: MountState,
        nodeid: int,
        opened: OpenOut | None,
        *,
        path: Path,
        flags: int,
        size: int,
    ) -> None:
        """``opened`` is None when the device does without handles; ``size`` is what the guest last heard of."""
        self.path = path
        self.nodeid = nodeid
        self.fh = opened.fh if opened else 0
        self.closed = False
        self._opened = opened
        self._client = client
        self._state = state
        self._flags = flags & ~_ONLY_TO_OPEN
        self._size = size
        self._offset = 0
        self._owner = id(self)  # tells the opens of one file apart, as the kernel's hash does
        self._flock = False
        state.nodes.pin(nodeid)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def read(self, size: int = -1) -> bytes:
        """Read from the current offset, to the end when ``size`` is negative; less comes only at the end."""
        data = await self.pread(size, self._offset)
        self._offset += len(data)
        return data

    async def pread(self, size: int, offset: int) -> bytes:
        """Read at ``offset`` and leave the current offset alone."""
        self._check(Open.WRONLY)
        return await self._named(self._read(size, offset))

    async def write(self, data: bytes | bytearray | memoryview) -> int:
        """Write all of the data at the current offset, or at the end of a file opened to append."""
        if self._flags & Open.APPEND:
            self._offset = (await self.stat()).st_size
        await self.pwrite(data, self._offset)
        self._offset += len(data)
        return len(data)

    async def pwrite(self, data: bytes | bytearray | memoryview, offset: int) -> int:
        """Write all of the data at ``offset`` and leave the current offset alone."""
        self._check(Open.RDONLY)
        await self._named(self._write(bytes(data), offset))
        self._size = max(self._size, offset + len(data))
        return len(data)

    async def seek(self, offset: int, whence: int = SEEK_SET) -> int:
        """Move the current offset; SEEK_DATA and SEEK_HOLE ask the device."""
        self._check()
        if whence in (SEEK_DATA, SEEK_HOLE):
            offset = await self._named(self._client.lseek(self.nodeid, self.fh, offset, whence))
        elif whence == SEEK_CUR:
            offset += self._offset
        elif whence == SEEK_END:
            offset += (await self.stat()).st_size
        if offset < 0 or not SEEK_SET <= whence <= SEEK_HOLE:
            raise OSError(errno.EINVAL, "Invalid argument", self.path)
        self._offset = offset
        return offset

    def tell(self) -> int:
        """The current offset."""
        return self._offset

    async def truncate(self, size: int | None = None) -> None:
        """Cut or extend the file to ``size``, or to the current offset."""
        self._check()
        if self._flags & Open.ACCMODE == Open.RDONLY:
            raise OSError(errno.EINVAL, "Invalid argument", self.path)
        await self._named(self._resize(self._offset if size is None else size))

    async def allocate(self, offset: int, length: int, mode: int = 0) -> None:
        """Reserve or punch a range, with the mode of the system call fallocate."""
        self._check(Open.RDONLY)
        await self._named(self._client.fallocate(self.nodeid, self.fh, offset, length, mode=mode))
        self._size = (await self.stat()).st_size

    async def copy_to(self, other: Self, length: int, *, offset: int = 0, to: int = 0) -> int:
        """Let the device copy a range to another file of this mount; return how much it copied."""
        self._check(Open.WRONLY)
        other._check(Open.RDONLY)
        if other._flags & Open.APPEND:
            raise OSError(errno.EBADF, "Bad file descriptor", other.path)
        return await self._named(self._copy((other.nodeid, other.fh, to), length, offset))

    async def ioctl(self, command: int, argument: bytes = b"", *, out_size: int = 0) -> bytes:
        """Control the device as the system call of this name does; at most ``out_size`` bytes come back."""
        self._check()
        return await self._named(self._client.ioctl(self.nodeid, self.fh, command, argument, out_size=out_size))

    async def stat(self) -> Stat:
        """The attributes now, asked through the handle."""
        self._check()
        answer = await self._named(self._client.getattr(self.nodeid, fh=self.fh if self._opened else None))
        self._size = answer.attr.size
        return Stat.of(answer.attr)

    async def flush(self) -> None:
        """Send what close(2) would, and stay open."""
        self._check()
        await self._named(self._flush())

    async def fsync(self, *, datasync: bool = False) -> None:
        """Wait until the contents are on the device's storage."""
        self._check()
        client, state = self._client, self._state
        await self._named(
            state.optional(Opcode.FSYNC, lambda: client.fsync(self.nodeid, self.fh, datasync=datasync), None)
        )

    async def lock(
        self, kind: int = F_WRLCK, *, start: int = 0, length: int = 0, wait: bool = False, owner: int | None = None
    ) -> None:
        """Take a lock of fcntl(2) on a range, to the end when ``length`` is 0; F_UNLCK gives it up.

        ``owner`` is the process; each open file is one of its own. BlockingIOError when another lock is in the way.
        """
        self._locks(Init.POSIX_LOCKS)
        end = start + length - 1 if length else LAST_BYTE
        owner = self._owner if owner is None else owner
        await self._named(self._client.setlk(self.nodeid, self.fh, owner, kind, start, end, wait=wait))

    async def locked(self, kind: int = F_WRLCK, *, start: int = 0, length: int = 0) -> LkOut | None:
        """The lock of fcntl(2) that is in the way of such a lock."""
        self._locks(Init.POSIX_LOCKS)
        end = start + length - 1 if length else LAST_BYTE
        return await self._named(self._client.getlk(self.nodeid, self.fh, self._owner, kind, start, end))

    async def flock(self, kind: int = F_WRLCK, *, wait: bool = False) -> None:
        """Take a lock on the whole file, that of the system call with this name, or give it up with F_UNLCK."""
        self._locks(Init.FLOCK_LOCKS)
        self._flock |= kind != F_UNLCK
        await self._named(self._client.setlk(self.nodeid, self.fh, self._owner, kind, flock=True, wait=wait))

    async def close(self) -> None:
        """Close the file; a second call does nothing. It is closed also when FLUSH fails and this raises."""
        if self.closed:
            return
        self.closed = True
        try:
            await self._named(self._flush())
        finally:
            await self._release()

    async def _release(self) -> None:
        try:
            if self._opened:
                # Nobody in a guest hears how RELEASE ended.
                with contextlib.suppress(OSError):
                    await self._client.release(
                        self.nodeid,
                        self.fh,
                        flags=self._flags,
                        release_flags=RELEASE_FLOCK_UNLOCK if self._flock else 0,
                        lock_owner=self._owner,
                    )
        finally:
            self._state.nodes.unpin(self.nodeid)

    async def _flush(self) -> None:
        if self._opened and self._opened.open_flags & Open.FOPEN_NOFLUSH:
            return
        client = self._client
        await self._state.optional(
            Opcode.FLUSH, lambda: client.flush(self.nodeid, self.fh, lock_owner=self._owner), None
        )

    async def _read(self, size: int, offset: int) -> bytes:
        client, room = self._client, self._client.session.max_read
        parts: list[bytes] = []
        while size:
            asked = min(size if size > 0 else self._page_past_end(offset), room)
            data = await client.read(self.nodeid, self.fh, offset, asked, flags=self._flags)
            parts.append(data)
            offset += len(data)
            size -= len(data) if size > 0 else 0
            if len(data) < asked:
                break
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _page_past_end(self, offset: int) -> int:
        """How much reaches past the end, so that a short answer proves that it was the end."""
        return max(self._size - offset, 0) // PAGE_SIZE * PAGE_SIZE + PAGE_SIZE

    async def _copy(self, target: tuple[int, int, int], length: int, offset: int) -> int:
        client, copied = self._client, None
        if client.session.minor >= 45:
            copied = await self._state.optional(
                Opcode.COPY_FILE_RANGE_64,
                lambda: client.copy_file_range_64(self.nodeid, self.fh, offset, target, length),
                None,
            )
        if copied is None:
            copied = await client.copy_file_range(self.nodeid, self.fh, offset, target, length)
        return copied

    async def _write(self, data: bytes, offset: int) -> None:
        client, at = self._client, 0
        kill = kills_suidgid(client)
        while at < len(data):
            piece = data[at : at + client.session.write_room(offset)]
            taken = await client.write(self.nodeid, self.fh, offset, piece, flags=self._flags, kill_suidgid=kill)
            if not taken:
                raise failure(errno.EIO)
            at += taken
            offset += taken

    async def _resize(self, size: int) -> None:
        kill = Fattr.KILL_SUIDGID if kills_suidgid(self._client) else 0
        fh = self.fh if self._opened else None
        await self._client.setattr(self.nodeid, size=size, fh=fh, lock_owner=self._owner, valid=kill)
        self._size = size

    def _locks(self, agreed: int) -> None:
        """A device that keeps no locks is never asked: Linux keeps them itself, which this guest does not."""
        self._check()
        if not self._client.session.flags & agreed:
            raise OSError(errno.EOPNOTSUPP, "the device keeps no such locks", self.path)

    def _check(self, forbidden: int | None = None) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")
        if forbidden is not None and self._flags & Open.ACCMODE == forbidden:
            raise OSError(errno.EBADF, "Bad file descriptor", self.path)

    async def _named(self, request: Awaitable[T]) -> T:
        """Await a request, and name the file in its OSError."""
        try:
            return await request
        except OSError as error:
            error.filename = self.path
            raise


def flags_of(mode: str) -> int:
    """Linux's open(2) flags for a mode of Python's ``open``; contents are bytes with and without "b"."""
    kind = mode.replace("b", "", 1)
    flags = _MODES.get(kind.replace("+", "", 1))
    if flags is None:
        raise ValueError(f"invalid mode: {mode!r}")
    return flags & ~Open.ACCMODE | Open.RDWR if "+" in kind else flags
