"""What a program in the guest does with attributes: stat, chmod, times, permissions, extended attributes."""

import errno
import stat
from collections.abc import Awaitable, Callable
from typing import TypeVar

from hdvkit.testing.fuse_errors import failure
from hdvkit.testing.fuse_messages import STATX_ALL, STATX_BASIC_STATS, Fattr, Opcode
from hdvkit.testing.fuse_replies import Attr, EntryOut, StatfsOut, Statx, SxTime
from hdvkit.testing.mount_state import Stat, to_text
from hdvkit.testing.mount_walk import MountView, Path, kills_suidgid

T = TypeVar("T")

_NOW = Fattr.ATIME | Fattr.ATIME_NOW | Fattr.MTIME | Fattr.MTIME_NOW


class MountAttributes(MountView):
    """The attributes of files in a mount; each method raises the OSError the system call would, with the path."""

    async def stat(self, path: Path, *, follow_symlinks: bool = True) -> Stat:
        """The attributes of a file; GETATTR is left out when LOOKUP's answer is still valid."""
        with self._walk(path) as walk:
            return Stat.of(await self._attr(await walk.node(follow=follow_symlinks)))

    async def statx(self, path: Path, *, follow_symlinks: bool = True, mask: int = STATX_ALL) -> Statx:
        """The attributes with the time of birth; without it when the device knows no STATX (7.39)."""
        with self._walk(path) as walk:
            entry = await walk.node(follow=follow_symlinks)
            client = self._client
            if client.session.minor >= 39:
                answer = await self._state.optional(Opcode.STATX, lambda: client.statx(entry.nodeid, mask=mask), None)
                if answer is not None:
                    return answer.stat
            return _statx((await client.getattr(entry.nodeid)).attr)

    async def exists(self, path: Path) -> bool:
        """Whether the path leads to something; an error other than that it does not is raised."""
        try:
            await self.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    async def access(self, path: Path, mode: int) -> bool:
        """Whether the device would allow it, asked with ACCESS; Linux answers on virtio-fs by itself."""
        try:
            with self._walk(path) as walk:
                nodeid, client = (await walk.node()).nodeid, self._client
                await self._state.optional(Opcode.ACCESS, lambda: client.access(nodeid, mode), None)
        except OSError:
            return False
        return True

    async def statvfs(self) -> StatfsOut:
        """The size and the room of the file system."""
        with self._walk("/"):
            return await self._client.statfs()

    async def chmod(self, path: Path, mode: int) -> None:
        """Set the permissions; as in Linux the file type goes with them."""
        with self._walk(path) as walk:
            entry = await walk.node()
            kind = stat.S_IFMT((await self._attr(entry)).mode)
            await self._client.setattr(entry.nodeid, mode=kind | stat.S_IMODE(mode))

    async def chown(self, path: Path, uid: int = -1, gid: int = -1, *, follow_symlinks: bool = True) -> None:
        """Set owner and group; -1 leaves one as it is."""
        with self._walk(path) as walk:
            entry = await walk.node(follow=follow_symlinks)
            await self._client.setattr(entry.nodeid, uid=None if uid < 0 else uid, gid=None if gid < 0 else gid)

    async def truncate(self, path: Path, size: int) -> None:
        """Cut or extend a file."""
        with self._walk(path) as walk:
            entry = await walk.node()
            if not stat.S_ISREG(entry.attr.mode):
                raise failure(errno.EISDIR if stat.S_ISDIR(entry.attr.mode) else errno.EINVAL)
            kill = Fattr.KILL_SUIDGID if kills_suidgid(self._client) else 0
            await self._client.setattr(entry.nodeid, size=size, lock_owner=id(walk), valid=kill)

    async def utime(self, path: Path, ns: tuple[int, int] | None = None, *, follow_symlinks: bool = True) -> None:
        """Set the times of access and change in nanoseconds, or to the device's now."""
        with self._walk(path) as walk:
            nodeid = (await walk.node(follow=follow_symlinks)).nodeid
            if ns is None:
                await self._client.setattr(nodeid, valid=_NOW)
            else:
                await self._client.setattr(nodeid, atime_ns=ns[0], mtime_ns=ns[1])

    async def getxattr(self, path: Path, name: str | bytes) -> bytes:
        """The value of an extended attribute."""
        with self._walk(path) as walk:
            nodeid, client = (await walk.node()).nodeid, self._client
            size = await self._xattr(Opcode.GETXATTR, lambda: client.getxattr_size(nodeid, name), 0)
            return await client.getxattr(nodeid, name, size) if size else b""

    async def setxattr(self, path: Path, name: str | bytes, value: bytes, *, flags: int = 0) -> None:
        """Set an extended attribute; flags 1 to create only, 2 to replace only."""
        with self._walk(path) as walk:
            nodeid, client = (await walk.node()).nodeid, self._client
            await self._xattr(Opcode.SETXATTR, lambda: client.setxattr(nodeid, name, value, flags=flags), None)

    async def listxattr(self, path: Path) -> list[str]:
        """The names of a file's extended attributes."""
        with self._walk(path) as walk:
            nodeid, client = (await walk.node()).nodeid, self._client
            size = await self._xattr(Opcode.LISTXATTR, lambda: client.listxattr_size(nodeid), 0)
            names = await client.listxattr(nodeid, size) if size else b""
            return [to_text(name) for name in names.split(b"\0")[:-1]]

    async def removexattr(self, path: Path, name: str | bytes) -> None:
        """Remove an extended attribute."""
        with self._walk(path) as walk:
            nodeid, client = (await walk.node()).nodeid, self._client
            await self._xattr(Opcode.REMOVEXATTR, lambda: client.removexattr(nodeid, name), None)

    async def _attr(self, entry: EntryOut) -> Attr:
        if entry.attr_valid or entry.attr_valid_nsec:
            return entry.attr
        return (await self._client.getattr(entry.nodeid)).attr

    async def _xattr(self, opcode: Opcode, request: Callable[[], Awaitable[T]], otherwise: T) -> T:
        """Ask; Linux says EOPNOTSUPP for a device that knows no extended attributes."""
        answer = await self._state.optional(opcode, request, otherwise)
        if opcode in self._state.lacks:
            raise failure(errno.EOPNOTSUPP)
        return answer


def _statx(attr: Attr) -> Statx:
    """What Linux makes of a GETATTR for a program that asked for statx."""
    seen = Stat.of(attr)
    access, change, modify = (
        SxTime(*divmod(ns, 1_000_000_000)) for ns in (seen.st_atime_ns, seen.st_ctime_ns, seen.st_mtime_ns)
    )
    major, minor = attr.rdev >> 8 & 0xFFF, attr.rdev & 0xFF | attr.rdev >> 12 & 0xFFF00
    return Statx(
        STATX_BASIC_STATS, attr.blksize, 0, attr.nlink, attr.uid, attr.gid, attr.mode, attr.ino, attr.size,
        attr.blocks, 0, access, SxTime(0, 0), change, modify, major, minor, 0, 0,
    )  # fmt: skip
