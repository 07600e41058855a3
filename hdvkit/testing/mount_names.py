"""What a program in the guest does with names: list, make, link, move and remove them."""

import errno
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from hdvkit.testing.fuse_errors import failure
from hdvkit.testing.fuse_messages import RENAME_EXCHANGE, RENAME_NOREPLACE, Init, Opcode, Open
from hdvkit.testing.fuse_replies import Dirent, DirentPlus
from hdvkit.testing.mount_directory import GuestDirectory, forward
from hdvkit.testing.mount_state import DirEntry, is_dot, to_text
from hdvkit.testing.mount_walk import MountView, Path, Walk, encode

_DIRECTORY = Open.RDONLY | Open.DIRECTORY | Open.LARGEFILE


class MountNames(MountView):
    """The names of a mount; each method raises the OSError that the system call would, with the path."""

    async def listdir(self, path: Path = ".") -> list[str]:
        """The names in a directory as the device orders them, through READDIR."""
        with self._walk(path) as walk:
            entry = await walk.node()
            return [to_text(dirent.name) for dirent in await self._read_names(entry.nodeid)]

    async def scandir(self, path: Path = ".") -> list[DirEntry]:
        """The names in a directory with their attributes, through READDIRPLUS where that was agreed."""
        with self._walk(path) as walk:
            nodeid = (await walk.node()).nodeid
            if self._client.session.flags & Init.DO_READDIRPLUS:
                return [DirEntry.of(dirent, entry) for entry, dirent in await self._read_entries(nodeid)]
            names = await self._read_names(nodeid)
            return [DirEntry.of(dirent, await walk.lookup(nodeid, dirent.name)) for dirent in names]

    @asynccontextmanager
    async def opendir(self, path: Path = ".") -> AsyncIterator[GuestDirectory]:
        """Open a directory for a block, to read it piece by piece."""
        with self._walk(path) as walk:
            nodeid = (await walk.node()).nodeid
            async with self._directory(nodeid) as fh:
                yield GuestDirectory(self._client, nodeid, fh, self._state.readdir_size)

    async def walk(self, path: str = ".") -> AsyncIterator[tuple[str, list[str], list[str]]]:
        """Go through a tree top down: (directory, its directories, its other names), as ``os.walk``."""
        todo = [path]
        while todo:
            here = todo.pop()
            entries = await self.scandir(here)
            directories = [entry.name for entry in entries if entry.is_dir()]
            yield here, directories, [entry.name for entry in entries if not entry.is_dir()]
            todo += [name if here == "." else f"{here}/{name}" for name in reversed(directories)]

    async def mkdir(self, path: Path, mode: int = 0o755) -> None:
        """Make a directory."""
        with self._walk(path) as walk:
            parent, name = await walk.vacant()
            walk.hold(await self._client.mkdir(parent, name, self._masked(mode), umask=self._state.umask))

    async def mknod(self, path: Path, mode: int = stat.S_IFREG | 0o644, *, rdev: int = 0) -> None:
        """Make a file of any type but a directory; ``rdev`` is coded as FUSE carries it."""
        with self._walk(path) as walk:
            parent, name = await walk.vacant()
            umask = self._state.umask
            walk.hold(await self._client.mknod(parent, name, self._masked(mode), rdev=rdev, umask=umask))

    async def mkfifo(self, path: Path, mode: int = 0o644) -> None:
        """Make a FIFO."""
        await self.mknod(path, stat.S_IFIFO | mode)

    async def symlink(self, target: Path, path: Path) -> None:
        """Make ``path`` a symlink to ``target``."""
        with self._walk(path) as walk:
            parent, name = await walk.vacant()
            walk.hold(await self._client.symlink(parent, name, encode(target)))

    async def readlink(self, path: Path) -> str:
        """The target of a symlink."""
        with self._walk(path) as walk:
            entry = await walk.node(follow=False)
            if not stat.S_ISLNK(entry.attr.mode):
                raise failure(errno.EINVAL)
            return to_text(await self._client.readlink(entry.nodeid))

    async def link(self, old: Path, new: Path) -> None:
        """Give a file another name; a symlink is linked itself, not what it leads to."""
        with self._walk(old, new) as walk:
            entry = await walk.node(follow=False)
            place = await walk.place(follow=False, path=new)
            if place.entry is not None:
                raise failure(errno.EEXIST)
            walk.hold(await self._client.link(entry.nodeid, place.parent, place.name))

    async def unlink(self, path: Path) -> None:
        """Remove a name that is not a directory's."""
        with self._walk(path) as walk:
            parent, name, mode = await self._removable(walk)
            if stat.S_ISDIR(mode):
                raise failure(errno.EISDIR)
            await self._client.unlink(parent, name)

    async def rmdir(self, path: Path) -> None:
        """Remove an empty directory."""
        with self._walk(path) as walk:
            parent, name, mode = await self._removable(walk)
            if not stat.S_ISDIR(mode):
                raise failure(errno.ENOTDIR)
            if not name:
                raise failure(errno.EBUSY)
            await self._client.rmdir(parent, name)

    async def rename(self, old: Path, new: Path, *, flags: int = 0) -> None:
        """Move a name, with the flags of renameat2(2)."""
        with self._walk(old, new) as walk:
            source = await walk.place(follow=False)
            target = await walk.place(follow=False, path=new)
            if source.entry is None or (flags & RENAME_EXCHANGE and target.entry is None):
                raise failure(errno.ENOENT)
            if flags & RENAME_NOREPLACE and target.entry is not None:
                raise failure(errno.EEXIST)
            if not source.name or not target.name:
                raise failure(errno.EBUSY)
            await self._rename(source.parent, source.name, target.parent, target.name, flags)

    async def fsync_directory(self, path: Path = ".", *, datasync: bool = False) -> None:
        """Wait until the names in a directory are on the device's storage."""
        with self._walk(path) as walk:
            nodeid = (await walk.node()).nodeid
            client, state = self._client, self._state
            async with self._directory(nodeid) as fh:
                await state.optional(Opcode.FSYNCDIR, lambda: client.fsyncdir(nodeid, fh, datasync=datasync), None)

    async def _rename(self, parent: int, name: bytes, newdir: int, newname: bytes, flags: int) -> None:
        if not flags:
            return await self._client.rename(parent, name, newdir, newname)
        try:
            await self._client.rename2(parent, name, newdir, newname, flags)
        except OSError as error:
            # Linux says EINVAL for flags that the device's file system does not know.
            raise failure(errno.EINVAL) if error.errno == errno.ENOSYS else error from None

    async def _removable(self, walk: Walk) -> tuple[int, bytes, int]:
        place = await walk.place(follow=False)
        if place.entry is None:
            raise failure(errno.ENOENT)
        return place.parent, place.name, place.entry.attr.mode

    @asynccontextmanager
    async def _directory(self, nodeid: int) -> AsyncIterator[int]:
        """OPENDIR and RELEASEDIR around a block; a device may do without both."""
        client = self._client
        opened = await self._state.optional(Opcode.OPENDIR, lambda: client.opendir(nodeid, _DIRECTORY), None)
        try:
            yield opened.fh if opened else 0
        finally:
            if opened:
                await client.releasedir(nodeid, opened.fh, flags=_DIRECTORY)

    async def _read_names(self, nodeid: int) -> list[Dirent]:
        names: list[Dirent] = []
        async with self._directory(nodeid) as fh:
            directory = GuestDirectory(self._client, nodeid, fh, self._state.readdir_size)
            while batch := await directory.read():
                names += [dirent for dirent in batch if not is_dot(dirent.name)]
        return names

    async def _read_entries(self, nodeid: int) -> list[DirentPlus]:
        entries: list[DirentPlus] = []
        async with self._directory(nodeid) as fh:
            offset = 0
            while batch := await self._client.readdirplus(nodeid, fh, offset, self._state.readdir_size):
                self._state.nodes.gain_listed(batch)
                entries += [plus for plus in batch if not is_dot(plus.dirent.name)]
                offset = forward(offset, batch[-1].dirent)
        return entries
