"""A virtio-fs mount as a program in the guest sees it: paths, files, errors.

Stands on `FuseClient`, and keeps what a guest's kernel keeps: references, limits, what the device cannot do.
"""

import contextlib
import errno
import stat
from collections import Counter
from types import TracebackType
from typing import Self

from hdvkit.testing.fuse_client import FuseClient
from hdvkit.testing.fuse_errors import failure
from hdvkit.testing.fuse_messages import PAGE_SIZE, Fattr, Init, Opcode, Open
from hdvkit.testing.fuse_replies import CreateOut, EntryOut, OpenOut
from hdvkit.testing.mount_attributes import MountAttributes
from hdvkit.testing.mount_file import GuestFile, flags_of
from hdvkit.testing.mount_names import MountNames
from hdvkit.testing.mount_state import DirEntry, MountState, Stat
from hdvkit.testing.mount_walk import Path, Place, Walk, kills_suidgid

__all__ = ["DirEntry", "GuestFile", "GuestMount", "Stat"]

FORGETS_PER_BATCH = 253  # what fits a page with its headers


class GuestMount(MountNames, MountAttributes):
    """One mount, used as root of the guest; ``as_user`` gives views of it for others.

    Paths are str or bytes and begin at the mount, with or without a slash. Use ``async with``, or ``mount`` and
    ``unmount``. Files that are still open when a block ends are the program's error: OSError(EBUSY).
    """

    def __init__(self, client: FuseClient, *, umask: int = 0o022, readdir_size: int = PAGE_SIZE) -> None:
        """``readdir_size`` is what one READDIR asks for: a page in Linux 6.1, eight in Linux 7.3."""
        super().__init__(client, MountState(umask, readdir_size))

    async def __aenter__(self) -> Self:
        await self.mount()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # What went wrong in the block matters more than what it did to the device.
        with contextlib.suppress(*([] if error is None else [Exception])):
            await self.unmount()

    async def mount(self) -> None:
        """Agree with the device on what to use; as in Linux this is INIT and nothing else."""
        await self._client.init()
        self._state.mounted = True

    def lost(self) -> None:
        """The device was pulled out: there is nothing to give back, and ``unmount`` does nothing, as in Linux."""
        self._state.mounted = False

    async def unmount(self, *, forget: bool = True) -> None:
        """Give everything back and send DESTROY; without ``forget`` DESTROY alone says it, as from Linux.

        Raises:
            OSError: EBUSY while files are open.
        """
        if not self._state.mounted:
            return
        if self._state.nodes.in_use:
            raise failure(errno.EBUSY)
        self._state.mounted = False
        if forget:
            await self.drop_caches()
        else:
            self._state.nodes.take_unused()
        # Linux does not look at the answer.
        with contextlib.suppress(OSError):
            await self._client.destroy()

    async def drop_caches(self, *, batched: bool = True) -> None:
        """Give back the references to all nodes that no open file needs; one by one, as Linux, unless ``batched``."""
        unused = self._state.nodes.take_unused()
        if not batched:
            for nodeid, nlookup in unused:
                await self._client.forget(nodeid, nlookup)
            return
        for at in range(0, len(unused), FORGETS_PER_BATCH):
            await self._client.batch_forget(unused[at : at + FORGETS_PER_BATCH])

    @property
    def client(self) -> FuseClient:
        """The requests beneath, as this view's user."""
        return self._client

    @property
    def references(self) -> int:
        """How many nodes the guest holds references to."""
        return len(self._state.nodes)

    @property
    def requests(self) -> Counter[str]:
        """How many requests were sent, by the opcode's name."""
        return self._client.session.requests

    @property
    def refused(self) -> Counter[str]:
        """How many of them the device answered with an error."""
        return self._client.session.refused

    @property
    def bytes_read(self) -> int:
        """How much READ has brought."""
        return self._client.session.bytes_read

    @property
    def bytes_written(self) -> int:
        """How much WRITE has taken away."""
        return self._client.session.bytes_written

    async def open(self, path: Path, mode: str = "r", *, permissions: int = 0o666, flags: int = 0) -> GuestFile:
        """Open a file by Python's mode, and more of Linux's flags if given; close what it returns.

        Raises:
            OSError: What the system call would say; EISDIR for a directory, ENXIO for a FIFO or device, which a guest's
                kernel opens by itself.
        """
        flags |= flags_of(mode) | Open.LARGEFILE
        follow = not flags & Open.NOFOLLOW and flags & (Open.CREAT | Open.EXCL) != Open.CREAT | Open.EXCL
        with self._walk(path) as walk:
            place = await walk.place(follow=follow)
            if place.entry is None:
                entry, opened = await self._create(walk, place, flags, permissions)
            else:
                entry = _openable(place.entry, flags)
                opened = await self._open(entry.nodeid, flags)
            size = 0 if flags & Open.TRUNC else entry.attr.size
            return GuestFile(self._client, self._state, entry.nodeid, opened, path=path, flags=flags, size=size)

    async def tmpfile(self, directory: Path = ".", *, permissions: int = 0o600) -> GuestFile:
        """Make a file without a name in ``directory``, open to read and write; EOPNOTSUPP where the device cannot."""
        flags = Open.RDWR | Open.TMPFILE | Open.LARGEFILE
        client, umask = self._client, self._state.umask
        with self._walk(directory) as walk:
            parent = (await walk.node()).nodeid
            mode = stat.S_IFREG | self._masked(permissions)
            made = await self._state.optional(
                Opcode.TMPFILE, lambda: client.tmpfile(parent, flags, mode, umask=umask), None
            )
            if made is None:
                raise failure(errno.EOPNOTSUPP)
            entry = walk.hold(made.entry)
            return GuestFile(client, self._state, entry.nodeid, made.open, path=directory, flags=flags, size=0)

    async def link_file(self, file: GuestFile, path: Path) -> None:
        """Give an open file a name, as linkat(2) does with AT_EMPTY_PATH."""
        with self._walk(path) as walk:
            parent, name = await walk.vacant()
            walk.hold(await self._client.link(file.nodeid, parent, name))

    async def read_bytes(self, path: Path) -> bytes:
        """Read a whole file."""
        async with await self.open(path) as file:
            return await file.read()

    async def read_text(self, path: Path) -> str:
        """Read a whole file as UTF-8."""
        return (await self.read_bytes(path)).decode()

    async def write_bytes(self, path: Path, data: bytes, *, append: bool = False) -> None:
        """Write a whole file anew, or at its end."""
        async with await self.open(path, "a" if append else "w") as file:
            await file.write(data)

    async def write_text(self, path: Path, text: str, *, append: bool = False) -> None:
        """Write a whole file anew as UTF-8, or at its end."""
        await self.write_bytes(path, text.encode(), append=append)

    async def sync(self) -> None:
        """Wait until everything written is on the device's storage."""
        with self._walk("/"):
            await self._state.optional(Opcode.SYNCFS, self._client.syncfs, None)

    async def _create(self, walk: Walk, place: Place, flags: int, permissions: int) -> tuple[EntryOut, OpenOut | None]:
        if not flags & Open.CREAT:
            raise failure(errno.ENOENT)
        client, umask = self._client, self._state.umask
        mode = stat.S_IFREG | self._masked(permissions)
        may_kill = flags & (Open.TRUNC | Open.EXCL) == Open.TRUNC and kills_suidgid(client)

        async def create() -> CreateOut:
            return await client.create(
                place.parent,
                place.name,
                flags,
                mode,
                umask=umask,
                open_flags=Open.KILL_SUIDGID if may_kill else 0,
            )

        made = await self._state.optional(Opcode.CREATE, create, None)
        if made is not None:
            return walk.hold(made.entry), made.open
        entry = walk.hold(await client.mknod(place.parent, place.name, mode, umask=umask))
        return entry, await self._open(entry.nodeid, flags)

    async def _open(self, nodeid: int, flags: int) -> OpenOut | None:
        """OPEN, and cut the file by SETATTR unless the device has agreed to do it within."""
        client = self._client
        at_once = client.session.flags & Init.ATOMIC_O_TRUNC
        truncate = flags & Open.TRUNC
        flags &= ~(Open.CREAT | Open.EXCL | (0 if at_once else Open.TRUNC))
        kill = kills_suidgid(client) and bool(truncate)
        open_flags = Open.KILL_SUIDGID if kill and at_once else 0
        opened = await self._state.optional(
            Opcode.OPEN, lambda: client.open(nodeid, flags, open_flags=open_flags), None
        )
        if truncate and not at_once:
            await self._empty(nodeid, opened, flags, kill=kill)
        return opened

    async def _empty(self, nodeid: int, opened: OpenOut | None, flags: int, *, kill: bool) -> None:
        fh = opened.fh if opened else None
        try:
            await self._client.setattr(nodeid, size=0, fh=fh, lock_owner=0, valid=Fattr.KILL_SUIDGID if kill else 0)
        except BaseException:
            if opened:
                await self._client.release(nodeid, opened.fh, flags=flags)
            raise


def _openable(entry: EntryOut, flags: int) -> EntryOut:
    """Refuse what open(2) refuses in the guest itself."""
    kind = stat.S_IFMT(entry.attr.mode)
    if flags & Open.CREAT and flags & Open.EXCL:
        raise failure(errno.EEXIST)
    if kind == stat.S_IFLNK:
        raise failure(errno.ELOOP)
    if kind == stat.S_IFDIR:
        raise failure(errno.EISDIR)
    if kind != stat.S_IFREG:
        raise failure(errno.ENXIO)
    return entry
