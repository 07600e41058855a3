"""Rules of attributes: permissions, owners, times, births, and extended attributes."""
# ruff: noqa: D102 - a rule is called by what it does

import os
from pathlib import Path

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from virtiofs_model import plain
from virtiofs_model.seen import Seen, attributes, seen
from virtiofs_model.sides import IS_ROOT, Data, Sides, modes, paths

ATTRIBUTES = [*["user.a"] * 5, "user.ü", "user.ü", "user.", "bogus.a", "user." + "n" * 250]
VALUES = [Data(b"", 0), Data(b"x", 1), Data(b"v", 300), Data(b"v", 301), Data(b"w", 5000), Data(b"z", 65536)]

times = st.sampled_from([None, 0, 1, 10**9 - 1, 1_700_000_000_123_456_789, -5 * 10**8])
owners = st.sampled_from([-1, 0, 1000, 12345])
names = st.sampled_from(ATTRIBUTES)
carriers = st.sampled_from(["a", "a/a", "b"]) | paths
"""Files that have an attribute to begin with, and others."""


class Attributes(Sides):
    """Attributes of files."""

    @rule(path=paths, follow=st.booleans())
    def stat(self, path: str, follow: bool) -> None:
        self.both(
            "stat",
            seen(self.mount.stat(self.here(path), follow_symlinks=follow)),
            lambda: Seen.of(Path(self.there(path)).stat(follow_symlinks=follow)),
        )

    @rule(path=paths, follow=st.booleans())
    def statx(self, path: str, follow: bool) -> None:
        """The host is asked of the very same file: its times and its birth are nobody else's."""

        async def guest() -> plain.Statx:
            found = await self.bench.mounts[-1].statx(self.here(path), follow_symlinks=follow)
            has_btime = bool(found.mask & plain.STATX_BTIME)
            numbers = (found.nlink, found.uid, found.gid, found.mode, found.ino, found.size)
            return plain.Statx(has_btime, *numbers, found.btime, found.ctime, found.mtime)

        self.both("statx", guest(), lambda: plain.statx(self.beneath(path), follow))

    @rule(path=paths, mode=modes)
    def chmod(self, path: str, mode: int) -> None:
        self.both("chmod", self.mount.chmod(self.here(path), mode), lambda: Path(self.there(path)).chmod(mode))

    @precondition(lambda _: IS_ROOT)  # who else may give files away
    @rule(path=paths, uid=owners, gid=owners, follow=st.booleans())
    def chown(self, path: str, uid: int, gid: int, follow: bool) -> None:
        self.both(
            "chown",
            self.mount.chown(self.here(path), uid, gid, follow_symlinks=follow),
            lambda: os.chown(self.there(path), uid, gid, follow_symlinks=follow),
        )

    @rule(path=paths, ns=times)
    def utime(self, path: str, ns: int | None) -> None:
        given = None if ns is None else (ns, ns + 1)

        async def guest() -> object:
            await self.mount.utime(self.here(path), given)
            return given and (await self.mount.stat(self.here(path))).st_mtime_ns

        def plain() -> object:
            os.utime(self.there(path), ns=given) if given else os.utime(self.there(path))
            return given and Path(self.there(path)).stat().st_mtime_ns

        self.both("utime", guest(), plain)

    @rule(path=paths, mode=st.integers(0, 7))
    def access(self, path: str, mode: int) -> None:
        view = self.mount.as_user(os.geteuid(), os.getegid())
        found = self.both("access", view.access(self.here(path), mode), lambda: os.access(self.there(path), mode))
        self.bench.outcomes["access", f"is {found}"] += 1

    # Extended attributes

    @rule(path=carriers, name=names, value=st.sampled_from(VALUES), flags=st.sampled_from([0, 0, 1, 2, 3]))
    def setxattr(self, path: str, name: str, value: Data, flags: int) -> None:
        async def guest() -> bytes:
            await self.mount.setxattr(self.here(path), name, value.bytes, flags=flags)
            return await self.mount.getxattr(self.here(path), name)

        def plain() -> bytes:
            os.setxattr(self.there(path), name, value.bytes, flags)
            return os.getxattr(self.there(path), name)

        self.both(f"setxattr {flags}", guest(), plain)

    @rule(path=carriers, name=names)
    def getxattr(self, path: str, name: str) -> None:
        self.both("getxattr", self.mount.getxattr(self.here(path), name), lambda: os.getxattr(self.there(path), name))

    @rule(path=paths)
    def listxattr(self, path: str) -> None:
        async def guest() -> object:
            found = await self.mount.listxattr(self.here(path))
            return {name: await self.mount.getxattr(self.here(path), name) for name in found}

        self.both("listxattr", guest(), lambda: attributes(self.there(path)))

    @rule(path=carriers, name=names)
    def removexattr(self, path: str, name: str) -> None:
        self.both(
            "removexattr",
            self.mount.removexattr(self.here(path), name),
            lambda: os.removexattr(self.there(path), name),
        )
