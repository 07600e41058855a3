"""Path resolution as a guest kernel does it: one LOOKUP for a component, symlinks followed here, not by the device.

There is no cache of names: every path is looked up afresh, as with an entry timeout of zero.
"""

import errno
import stat
from copy import copy
from types import TracebackType
from typing import NamedTuple, Self

from hdvkit.testing.fuse_client import FuseClient
from hdvkit.testing.fuse_errors import failure
from hdvkit.testing.fuse_messages import NAME_MAX, ROOT_ID, Init
from hdvkit.testing.fuse_replies import Attr, EntryOut
from hdvkit.testing.mount_state import MountState, is_dot

LINK_LIMIT = 40  # Linux: MAXSYMLINKS
SLASH = b""  # stands for a slash at the end: what comes before it must be a directory

Path = str | bytes

# The root is not looked up; of its attributes only the type is known before GETATTR.
ROOT = EntryOut(ROOT_ID, 0, 0, 0, 0, 0, Attr._make((ROOT_ID, *[0] * 8, stat.S_IFDIR, *[0] * 6)))


class Place(NamedTuple):
    """Where a path leads: a name in a directory, and what is there, or None.

    ``name`` is empty when the path ends in ".", ".." or is the root: then nothing can be made or removed there.
    """

    parent: int
    name: bytes
    entry: EntryOut | None


class Walk:
    """One program's way to the files it named, in a ``with`` block.

    Every node it meets stays referenced until the block ends. An OSError that leaves the block names the paths.
    """

    def __init__(self, client: FuseClient, state: MountState, path: Path, other: Path | None = None) -> None:
        self._client = client
        self._nodes = state.nodes
        self._path = path
        self._other = other
        self._pinned: list[int] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for nodeid in self._pinned:
            self._nodes.unpin(nodeid)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = self._path
            if self._other is not None:
                error.filename2 = self._other

    def hold(self, entry: EntryOut) -> EntryOut:
        """Count the reference that came with an entry, and keep the node while this walk lasts."""
        self._nodes.gain(entry)
        self._nodes.pin(entry.nodeid)
        self._pinned.append(entry.nodeid)
        return entry

    async def lookup(self, parent: int, name: bytes) -> EntryOut | None:
        """LOOKUP one name; None when the device knows none such."""
        if len(name) > NAME_MAX:
            raise failure(errno.ENAMETOOLONG)
        try:
            entry = await self._client.lookup(parent, name)
        except FileNotFoundError:
            return None
        return self.hold(entry) if entry.nodeid else None

    async def node(self, *, follow: bool = True) -> EntryOut:
        """Find what the path names; raises what open(2) would."""
        entry = (await self.place(follow=follow)).entry
        if entry is None:
            raise failure(errno.ENOENT)
        return entry

    async def vacant(self) -> tuple[int, bytes]:
        """Find the directory and the name for something new; raises FileExistsError when it is taken."""
        place = await self.place(follow=False)
        if place.entry is not None:
            raise failure(errno.EEXIST)
        return place.parent, place.name

    async def place(self, *, follow: bool, path: Path | None = None) -> Place:
        """Resolve the path, or another one; only its last component may be missing.

        An absolute path, of the caller or in a symlink, begins at the root of this mount, since there is no
        other file system in this guest.
        """
        todo = _components(self._path if path is None else path)
        if not todo:
            raise failure(errno.ENOENT)
        way, name, links = [ROOT], b"", 0
        while todo:
            step, here = todo.pop(), way[-1]
            if not stat.S_ISDIR(here.attr.mode):
                raise failure(errno.ENOTDIR)
            if step == SLASH:
                continue
            name = b"" if is_dot(step) else step
            if not name:
                if step == b".." and len(way) > 1:
                    way.pop()
                continue
            entry = await self.lookup(here.nodeid, name)
            if entry is None:
                if any(todo):
                    raise failure(errno.ENOENT)
                return Place(here.nodeid, name, None)
            if stat.S_ISLNK(entry.attr.mode) and (follow or todo):
                links += 1
                if links > LINK_LIMIT:
                    raise failure(errno.ELOOP)
                await self._follow(entry, way, todo)
                name = b""
            else:
                way.append(entry)
        return Place(way[-2].nodeid, name, way[-1]) if name else Place(0, b"", way[-1])

    async def _follow(self, link: EntryOut, way: list[EntryOut], todo: list[bytes]) -> None:
        """Put the target of a symlink in front of what is left to do."""
        target = await self._client.readlink(link.nodeid)
        if target.startswith(b"/"):
            del way[1:]
        todo += _components(target)


class MountView:
    """A mount as one user of the guest sees it; the base of what programs can do there."""

    def __init__(self, client: FuseClient, state: MountState) -> None:
        self._client = client
        self._state = state

    def as_user(self, uid: int, gid: int) -> Self:
        """Return a view of this mount whose requests carry another user.

        This guest checks no permissions by itself, as Linux does on virtio-fs before it asks: what comes back
        is the device's word.
        """
        view = copy(self)
        view._client = self._client.as_user(uid, gid)
        return view

    @property
    def uid(self) -> int:
        """The user this view acts for."""
        return self._client.uid

    @property
    def gid(self) -> int:
        """The group this view acts for."""
        return self._client.gid

    def _walk(self, path: Path, other: Path | None = None) -> Walk:
        if not self._state.mounted:
            raise failure(errno.ENOTCONN)
        return Walk(self._client, self._state, path, other)

    def _masked(self, mode: int) -> int:
        """Apply the umask, unless the device has taken that upon itself."""
        return mode if self._client.session.flags & Init.DONT_MASK else mode & ~self._state.umask


def kills_suidgid(client: FuseClient) -> bool:
    """Whether a change by this user takes the set-user-id bits, and the device agreed to be told so."""
    return client.uid != 0 and bool(client.session.flags & Init.HANDLE_KILLPRIV_V2)


def encode(path: Path) -> bytes:
    """A path as bytes; raises ValueError as Python does when it holds a NUL."""
    data = path.encode("utf-8", "surrogateescape") if isinstance(path, str) else path
    if b"\0" in data:
        raise ValueError("embedded null byte")
    return data


def _components(path: Path) -> list[bytes]:
    """The steps of a path, the first one last."""
    data = encode(path)
    steps = [step for step in data.split(b"/") if step]
    if data.endswith(b"/"):
        steps.append(SLASH)
    return steps[::-1]
