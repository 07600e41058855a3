"""What is compared: answers, attributes, and whole trees as the host and as a guest see them."""

import errno
import os
import stat
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from hdvkit.testing.mount import GuestMount


class Refused(str):
    """The name of an errno."""

    __slots__ = ()

    @classmethod
    def by(cls, error: OSError) -> "Refused":
        """What a call was refused with."""
        return cls(errno.errorcode.get(error.errno or 0, repr(error)))


def plainly(call: Callable[[], object]) -> object:
    """What a call on the plain directory gives: its result, or its errno."""
    try:
        return call()
    except OSError as error:
        return Refused.by(error)


async def answered(call: Awaitable[object]) -> object:
    """The same for the guest."""
    try:
        return await call
    except OSError as error:
        return Refused.by(error)


class Seen(NamedTuple):
    """What is compared of a file's attributes; the size of a directory is the file system's own affair."""

    kind: int
    mode: int
    nlink: int
    uid: int
    gid: int
    size: int

    @classmethod
    def of(cls, found: Any) -> "Seen":
        """Attributes of a guest's file or a host's."""
        kind = stat.S_IFMT(found.st_mode)
        size = 0 if kind == stat.S_IFDIR else found.st_size
        return cls(kind, stat.S_IMODE(found.st_mode), found.st_nlink, found.st_uid, found.st_gid, size)


async def seen(found: Awaitable[object]) -> Seen:
    """Attributes that are on their way."""
    return Seen.of(await found)


def attributes(path: str | Path, *, follow: bool = True) -> dict[str, bytes]:
    """The extended attributes that anybody may set; a host has more, as labels."""
    names = (name for name in os.listxattr(path, follow_symlinks=follow) if name.startswith("user."))
    return {name: os.getxattr(path, name, follow_symlinks=follow) for name in names}


def host_tree(root: Path) -> Iterator[tuple[str, tuple[Seen, object]]]:
    """Names, attributes, contents and targets of a tree of the host."""
    for path in root.rglob("*"):
        found = Seen.of(path.lstat())
        content: object = None
        if found.kind == stat.S_IFLNK:
            content = os.readlink(path)  # noqa: PTH115 - a Path would tidy the target up
        elif found.kind == stat.S_IFREG:
            content = path.read_bytes()
        yield os.fspath(path.relative_to(root)), (found, content)


def host_attributes(root: Path) -> dict[str, dict[str, bytes]]:
    """The extended attributes of a tree of the host."""
    return {os.fspath(path.relative_to(root)): attributes(path, follow=False) for path in root.rglob("*")}


async def guest_tree(mount: GuestMount, root: str) -> dict[str, tuple[Seen, object]]:
    """What ``host_tree`` tells, as the guest sees it."""
    found: dict[str, tuple[Seen, object]] = {}
    async for here, _, _ in mount.walk(root):
        for entry in await mount.scandir(here):
            path = f"{here}/{entry.name}"
            content: object = None
            if entry.is_symlink():
                content = await mount.readlink(path)
            elif entry.is_file():
                content = await mount.read_bytes(path)
            found[path.removeprefix(f"{root}/")] = (Seen.of(entry.stat), content)
    return found
