"""The guest's FUSE client: the peer of a virtio-fs device, one method for an opcode.

Written from `<linux/fuse.h>`, without the device's code. It sends what it is told, also nonsense; a program's
view of files, with paths and reference counts, is `mount`.
"""

from collections.abc import Iterable
from struct import Struct

from hdvkit.testing.fuse_extensions import security_contexts, supplementary_groups
from hdvkit.testing.fuse_files import SIZE_OUT, WORD, FuseFiles
from hdvkit.testing.fuse_locks import FuseLocks
from hdvkit.testing.fuse_messages import GETATTR_FH, PAGE_SIZE, ROOT_ID, STATX_ALL, Fattr, Init, Opcode, ProtocolError
from hdvkit.testing.fuse_replies import (
    STATFS_OUT,
    AttrOut,
    CreateOut,
    EntryOut,
    InitOut,
    StatfsOut,
    StatxOut,
    read_attr,
    read_entry,
    read_init,
    read_open,
    read_statx,
)
from hdvkit.testing.fuse_requests import Channel, Reply

__all__ = ["Channel", "FuseClient", "ProtocolError", "Reply"]

_PAIR = Struct("<II")
_FORGET_ONE = Struct("<QQ")  # nodeid, nlookup
_GETATTR_IN = Struct("<IIQ")  # getattr_flags, dummy, fh
_STATX_IN = Struct("<IIQII")  # getattr_flags, reserved, fh, sx_flags, sx_mask
_SETATTR_IN = Struct("<II6Q8I")
_MKNOD_IN = Struct("<IIII")  # mode, rdev, umask, padding
_CREATE_IN = Struct("<IIII")  # flags, mode, umask, open_flags
_RENAME2_IN = Struct("<QII")  # newdir, flags, padding
_SETXATTR_EXT = Struct("<IIII")  # size, flags, setxattr_flags, padding
_READAHEAD = 128 * 1024  # Linux's default
_ENTRY, _ATTR, _MASK = 128, 104, 0xFFFF_FFFF_FFFF_FFFF

Name = str | bytes


class FuseClient(FuseFiles, FuseLocks):
    """Every request Linux sends to a virtio-fs device; each raises what ``call`` raises.

    Call ``init`` first: limits and flags of later requests come from its answer.
    """

    async def init(self, *, max_readahead: int = _READAHEAD) -> InitOut:
        """INIT; the answer is kept in ``session``."""
        offer = self.session.offer(max_readahead)
        answer = read_init(await self.call(Opcode.INIT, 0, offer, reply_size=64, uid=0, gid=0, pid=0))
        self.session.agree(answer)
        return answer

    async def destroy(self) -> None:
        """DESTROY: the device drops every reference and handle."""
        await self.call(Opcode.DESTROY, 0, uid=0, gid=0, pid=0)

    async def statfs(self, nodeid: int = ROOT_ID) -> StatfsOut:
        """STATFS."""
        data = await self.call(Opcode.STATFS, nodeid, reply_size=STATFS_OUT.size)
        return StatfsOut._make(STATFS_OUT.unpack(data))

    async def syncfs(self, nodeid: int = ROOT_ID) -> None:
        """SYNCFS."""
        await self.call(Opcode.SYNCFS, nodeid, WORD.pack(0))

    async def lookup(self, parent: int, name: Name) -> EntryOut:
        """LOOKUP; nodeid 0 says that there is no such name, and may be cached."""
        return read_entry(await self.call(Opcode.LOOKUP, parent, _string(name), reply_size=_ENTRY))

    async def forget(self, nodeid: int, nlookup: int = 1) -> None:
        """FORGET: give back ``nlookup`` references."""
        await self.tell(Opcode.FORGET, nodeid, WORD.pack(nlookup))

    async def batch_forget(self, forgets: Iterable[tuple[int, int]]) -> None:
        """BATCH_FORGET of (nodeid, nlookup); Linux's driver sends single ones instead."""
        pairs = [_FORGET_ONE.pack(nodeid, nlookup) for nodeid, nlookup in forgets]
        await self.tell(Opcode.BATCH_FORGET, 0, _PAIR.pack(len(pairs), 0) + b"".join(pairs))

    async def getattr(self, nodeid: int, *, fh: int | None = None) -> AttrOut:
        """GETATTR, of an open file when ``fh`` is given."""
        body = _GETATTR_IN.pack(0 if fh is None else GETATTR_FH, 0, fh or 0)
        return read_attr(await self.call(Opcode.GETATTR, nodeid, body, reply_size=_ATTR))

    async def statx(self, nodeid: int, *, fh: int | None = None, mask: int = STATX_ALL, flags: int = 0) -> StatxOut:
        """STATX (7.39)."""
        body = _STATX_IN.pack(0 if fh is None else GETATTR_FH, 0, fh or 0, flags, mask)
        return read_statx(await self.call(Opcode.STATX, nodeid, body, reply_size=288))

    async def setattr(
        self,
        nodeid: int,
        *,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        size: int | None = None,
        atime_ns: int | None = None,
        mtime_ns: int | None = None,
        ctime_ns: int | None = None,
        fh: int | None = None,
        lock_owner: int | None = None,
        valid: int = 0,
    ) -> AttrOut:
        """SETATTR of what is given; ``valid`` adds bits that bring no value, as ATIME_NOW."""
        given = (
            (Fattr.MODE, mode), (Fattr.UID, uid), (Fattr.GID, gid), (Fattr.SIZE, size), (Fattr.FH, fh),
            (Fattr.ATIME, atime_ns), (Fattr.MTIME, mtime_ns), (Fattr.CTIME, ctime_ns),
            (Fattr.LOCKOWNER, lock_owner),
        )  # fmt: skip
        valid |= sum(bit for bit, value in given if value is not None)
        seconds, nanoseconds = zip(*(_time(ns or 0) for ns in (atime_ns, mtime_ns, ctime_ns)), strict=True)
        body = _SETATTR_IN.pack(
            valid, 0, fh or 0, size or 0, lock_owner or 0, *seconds, *nanoseconds, mode or 0, 0, uid or 0, gid or 0, 0
        )  # fmt: skip
        return read_attr(await self.call(Opcode.SETATTR, nodeid, body, reply_size=_ATTR))

    async def readlink(self, nodeid: int) -> bytes:
        """READLINK; a target fills at most a page less its end."""
        return await self.call(Opcode.READLINK, nodeid, read_size=PAGE_SIZE - 1)

    async def symlink(self, parent: int, name: Name, target: Name) -> EntryOut:
        """SYMLINK."""
        return await self._make(Opcode.SYMLINK, parent, _string(name) + _string(target))

    async def mknod(self, parent: int, name: Name, mode: int, *, rdev: int = 0, umask: int = 0o022) -> EntryOut:
        """MKNOD; ``mode`` with the file type."""
        return await self._make(Opcode.MKNOD, parent, _MKNOD_IN.pack(mode, rdev, umask, 0) + _string(name))

    async def mkdir(self, parent: int, name: Name, mode: int, *, umask: int = 0o022) -> EntryOut:
        """MKDIR."""
        return await self._make(Opcode.MKDIR, parent, _PAIR.pack(mode, umask) + _string(name))

    async def create(
        self, parent: int, name: Name, flags: int, mode: int, *, umask: int = 0o022, open_flags: int = 0
    ) -> CreateOut:
        """CREATE and open in one; it answers a reference and a handle."""
        head = _CREATE_IN.pack(flags, mode, umask, open_flags)
        return await self._make_open(Opcode.CREATE, parent, head + _string(name))

    async def tmpfile(
        self, parent: int, flags: int, mode: int, *, umask: int = 0o022, open_flags: int = 0
    ) -> CreateOut:
        """TMPFILE (7.37): CREATE without a name; Linux sends a slash in its place."""
        head = _CREATE_IN.pack(flags, mode, umask, open_flags)
        return await self._make_open(Opcode.TMPFILE, parent, head + _string("/"))

    async def link(self, nodeid: int, parent: int, name: Name) -> EntryOut:
        """LINK ``nodeid`` under a new name; the answer is one more reference to it."""
        data = await self.call(Opcode.LINK, parent, WORD.pack(nodeid) + _string(name), reply_size=_ENTRY)
        return _new(Opcode.LINK, data)

    async def unlink(self, parent: int, name: Name) -> None:
        """UNLINK."""
        await self.call(Opcode.UNLINK, parent, _string(name))

    async def rmdir(self, parent: int, name: Name) -> None:
        """RMDIR."""
        await self.call(Opcode.RMDIR, parent, _string(name))

    async def rename(self, parent: int, name: Name, newdir: int, newname: Name) -> None:
        """RENAME."""
        await self.call(Opcode.RENAME, parent, WORD.pack(newdir) + _string(name) + _string(newname))

    async def rename2(self, parent: int, name: Name, newdir: int, newname: Name, flags: int) -> None:
        """RENAME2 with renameat2(2)'s flags."""
        body = _RENAME2_IN.pack(newdir, flags, 0) + _string(name) + _string(newname)
        await self.call(Opcode.RENAME2, parent, body)

    async def access(self, nodeid: int, mask: int) -> None:
        """ACCESS."""
        await self.call(Opcode.ACCESS, nodeid, _PAIR.pack(mask, 0))

    async def setxattr(self, nodeid: int, name: Name, value: bytes, *, flags: int = 0) -> None:
        """SETXATTR; its arguments grew with SETXATTR_EXT."""
        if self.session.flags & Init.SETXATTR_EXT:
            head = _SETXATTR_EXT.pack(len(value), flags, 0, 0)
        else:
            head = _PAIR.pack(len(value), flags)
        await self.call(Opcode.SETXATTR, nodeid, head + _string(name) + value)

    async def getxattr(self, nodeid: int, name: Name, size: int) -> bytes:
        """GETXATTR into ``size`` bytes; ERANGE when they do not suffice."""
        body = _PAIR.pack(size, 0) + _string(name)
        return await self.call(Opcode.GETXATTR, nodeid, body, reply_size=size, variable=True)

    async def getxattr_size(self, nodeid: int, name: Name) -> int:
        """GETXATTR with no room: how long the value is."""
        body = _PAIR.pack(0, 0) + _string(name)
        return _size(await self.call(Opcode.GETXATTR, nodeid, body, reply_size=8))

    async def listxattr(self, nodeid: int, size: int) -> bytes:
        """LISTXATTR into ``size`` bytes: names, each with its NUL."""
        return await self.call(Opcode.LISTXATTR, nodeid, _PAIR.pack(size, 0), reply_size=size, variable=True)

    async def listxattr_size(self, nodeid: int) -> int:
        """LISTXATTR with no room: how long the list is."""
        return _size(await self.call(Opcode.LISTXATTR, nodeid, _PAIR.pack(0, 0), reply_size=8))

    async def removexattr(self, nodeid: int, name: Name) -> None:
        """REMOVEXATTR."""
        await self.call(Opcode.REMOVEXATTR, nodeid, _string(name))

    async def _make(self, opcode: Opcode, parent: int, body: bytes) -> EntryOut:
        data = await self.call(opcode, parent, body, reply_size=_ENTRY, extension=self._extension())
        return _new(opcode, data)

    async def _make_open(self, opcode: Opcode, parent: int, body: bytes) -> CreateOut:
        data = await self.call(opcode, parent, body, reply_size=_ENTRY + 16, extension=self._extension())
        return CreateOut(_new(opcode, data), read_open(data, _ENTRY))

    def _extension(self) -> bytes:
        """What Linux sends with each new file: contexts once agreed, even if there are none, and groups if any."""
        flags = self.session.flags
        contexts = security_contexts(self.security) if flags & Init.SECURITY_CTX else b""
        groups = supplementary_groups(self.groups) if self.groups and flags & Init.CREATE_SUPP_GROUP else b""
        return contexts + groups


def _string(text: Name) -> bytes:
    return (text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text) + b"\0"


def _time(ns: int) -> tuple[int, int]:
    seconds, nanoseconds = divmod(ns, 1_000_000_000)
    return seconds & _MASK, nanoseconds


def _size(data: bytes) -> int:
    size: int = SIZE_OUT.unpack(data)[0]
    return size


def _new(opcode: Opcode, data: bytes) -> EntryOut:
    """Read the entry of something that was made: it has a nodeid, and is not the root."""
    entry = read_entry(data)
    if entry.nodeid in (0, ROOT_ID):
        raise ProtocolError(f"{opcode.name}: the new entry has nodeid {entry.nodeid}")
    return entry
