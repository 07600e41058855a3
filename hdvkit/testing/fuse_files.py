"""The requests that carry a file handle: what the guest does with open files and directories.

One method for an opcode, with the protocol's names and numbers. Splitting, offsets and retries are the mount's.
"""

from struct import Struct

from hdvkit.testing.fuse_errors import guest_error
from hdvkit.testing.fuse_messages import (
    FSYNC_FDATASYNC,
    IOCTL_RETRY,
    PAGE_SIZE,
    WRITE_KILL_SUIDGID,
    Opcode,
    ProtocolError,
)
from hdvkit.testing.fuse_replies import Dirent, DirentPlus, OpenOut, read_dirents, read_dirents_plus, read_open
from hdvkit.testing.fuse_requests import FuseRequests

OPEN_IN = Struct("<II")  # flags, open_flags
IO_IN = Struct("<QQIIQII")  # fh, offset, size, read or write flags, lock_owner, flags, padding
RELEASE_IN = Struct("<QIIQ")  # fh, flags, release_flags, lock_owner
FLUSH_IN = Struct("<QIIQ")  # fh, unused, padding, lock_owner
FSYNC_IN = Struct("<QII")  # fh, fsync_flags, padding
FALLOCATE_IN = Struct("<QQQII")  # fh, offset, length, mode, padding
LSEEK_IN = Struct("<QQII")  # fh, offset, whence, padding
IOCTL_IN = Struct("<QIIQII")  # fh, flags, cmd, arg, in_size, out_size
IOCTL_OUT = Struct("<iIII")  # result, flags, in_iovs, out_iovs
COPY_FILE_RANGE_IN = Struct("<7Q")  # fh_in, off_in, nodeid_out, fh_out, off_out, len, flags
WORD = Struct("<Q")
SIZE_OUT = Struct("<II")  # size, padding


class FuseFiles(FuseRequests):
    """Requests on open files and directories; each raises what ``call`` raises."""

    async def open(self, nodeid: int, flags: int, *, open_flags: int = 0) -> OpenOut:
        """OPEN; give the handle back with ``release``."""
        return read_open(await self.call(Opcode.OPEN, nodeid, OPEN_IN.pack(flags, open_flags), reply_size=16))

    async def read(
        self,
        nodeid: int,
        fh: int,
        offset: int,
        size: int,
        *,
        flags: int = 0,
        lock_owner: int = 0,
        read_flags: int = 0,
    ) -> bytes:
        """READ; fewer bytes than asked for mean the end of the file."""
        body = IO_IN.pack(fh, offset, size, read_flags, lock_owner, flags, 0)
        data = await self.call(Opcode.READ, nodeid, body, read_size=size)
        self.session.bytes_read += len(data)
        return data

    async def write(
        self,
        nodeid: int,
        fh: int,
        offset: int,
        data: bytes,
        *,
        flags: int = 0,
        lock_owner: int = 0,
        write_flags: int = 0,
        kill_suidgid: bool = False,
    ) -> int:
        """WRITE, its pages cut where the file's pages are; return how much was taken."""
        if kill_suidgid:
            write_flags |= WRITE_KILL_SUIDGID
        body = IO_IN.pack(fh, offset, len(data), write_flags, lock_owner, flags, 0)
        first = PAGE_SIZE - offset % PAGE_SIZE
        answer = await self.call(Opcode.WRITE, nodeid, body, payload=data, first_page=first, reply_size=8)
        taken: int = SIZE_OUT.unpack(answer)[0]
        if taken > len(data):
            raise ProtocolError(f"WRITE: {taken} bytes taken of {len(data)}")
        self.session.bytes_written += taken
        return taken

    async def flush(self, nodeid: int, fh: int, *, lock_owner: int = 0) -> None:
        """FLUSH, sent at each close(2)."""
        await self.call(Opcode.FLUSH, nodeid, FLUSH_IN.pack(fh, 0, 0, lock_owner))

    async def release(
        self, nodeid: int, fh: int, *, flags: int = 0, release_flags: int = 0, lock_owner: int = 0
    ) -> None:
        """RELEASE, once for each OPEN or CREATE; ``flags`` are those of the open."""
        await self.call(Opcode.RELEASE, nodeid, RELEASE_IN.pack(fh, flags, release_flags, lock_owner))

    async def fsync(self, nodeid: int, fh: int, *, datasync: bool = False) -> None:
        """FSYNC."""
        await self.call(Opcode.FSYNC, nodeid, FSYNC_IN.pack(fh, FSYNC_FDATASYNC if datasync else 0, 0))

    async def fallocate(self, nodeid: int, fh: int, offset: int, length: int, *, mode: int = 0) -> None:
        """FALLOCATE, with the mode of the system call."""
        await self.call(Opcode.FALLOCATE, nodeid, FALLOCATE_IN.pack(fh, offset, length, mode, 0))

    async def lseek(self, nodeid: int, fh: int, offset: int, whence: int) -> int:
        """LSEEK; Linux asks only for SEEK_DATA (3) and SEEK_HOLE (4)."""
        body = LSEEK_IN.pack(fh, offset, whence, 0)
        return _word(await self.call(Opcode.LSEEK, nodeid, body, reply_size=8))

    async def copy_file_range(
        self, nodeid: int, fh: int, offset: int, out: tuple[int, int, int], length: int, *, flags: int = 0
    ) -> int:
        """COPY_FILE_RANGE to ``out`` (nodeid, fh, offset); return how much was copied."""
        body = COPY_FILE_RANGE_IN.pack(fh, offset, *out, length, flags)
        copied: int = SIZE_OUT.unpack(await self.call(Opcode.COPY_FILE_RANGE, nodeid, body, reply_size=8))[0]
        return copied

    async def copy_file_range_64(
        self, nodeid: int, fh: int, offset: int, out: tuple[int, int, int], length: int, *, flags: int = 0
    ) -> int:
        """COPY_FILE_RANGE_64 (7.45): the same with an answer that counts past 4 GiB."""
        body = COPY_FILE_RANGE_IN.pack(fh, offset, *out, length, flags)
        return _word(await self.call(Opcode.COPY_FILE_RANGE_64, nodeid, body, reply_size=8))

    async def ioctl(
        self, nodeid: int, fh: int, command: int, argument: bytes = b"", *, out_size: int = 0, flags: int = 0
    ) -> bytes:
        """IOCTL, with at most ``out_size`` bytes of answer; ``flags`` is IOCTL_DIR for a directory's handle."""
        body = IOCTL_IN.pack(fh, flags, command, 0, len(argument), out_size) + argument
        data = await self.call(Opcode.IOCTL, nodeid, body, reply_size=IOCTL_OUT.size, read_size=out_size)
        result, flags, _, _ = IOCTL_OUT.unpack_from(data)
        if flags & IOCTL_RETRY:
            raise ProtocolError("IOCTL: the device asks for another try, which this guest never offered")
        if result < 0:
            raise guest_error(-result)
        return data[IOCTL_OUT.size :]

    async def opendir(self, nodeid: int, flags: int = 0) -> OpenOut:
        """OPENDIR; give the handle back with ``releasedir``."""
        return read_open(await self.call(Opcode.OPENDIR, nodeid, OPEN_IN.pack(flags, 0), reply_size=16))

    async def readdir(self, nodeid: int, fh: int, offset: int, size: int = PAGE_SIZE) -> list[Dirent]:
        """READDIR from where ``offset`` says; nothing means the end."""
        body = IO_IN.pack(fh, offset, size, 0, 0, 0, 0)
        return [*read_dirents(await self.call(Opcode.READDIR, nodeid, body, read_size=size))]

    async def readdirplus(self, nodeid: int, fh: int, offset: int, size: int = PAGE_SIZE) -> list[DirentPlus]:
        """READDIRPLUS; each entry with a nodeid, "." and ".." apart, must be given back with FORGET."""
        body = IO_IN.pack(fh, offset, size, 0, 0, 0, 0)
        return [*read_dirents_plus(await self.call(Opcode.READDIRPLUS, nodeid, body, read_size=size))]

    async def releasedir(self, nodeid: int, fh: int, *, flags: int = 0) -> None:
        """RELEASEDIR, once for each OPENDIR."""
        await self.call(Opcode.RELEASEDIR, nodeid, RELEASE_IN.pack(fh, flags, 0, 0))

    async def fsyncdir(self, nodeid: int, fh: int, *, datasync: bool = False) -> None:
        """FSYNCDIR."""
        await self.call(Opcode.FSYNCDIR, nodeid, FSYNC_IN.pack(fh, FSYNC_FDATASYNC if datasync else 0, 0))


def _word(data: bytes) -> int:
    value: int = WORD.unpack(data)[0]
    return value
