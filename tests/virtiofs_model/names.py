"""Rules of names: made, moved, linked, listed and removed."""
# ruff: noqa: D102 - a rule is called by what it does

import os
import stat
from pathlib import Path

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from hdvkit.testing.fuse_messages import RENAME_EXCHANGE, RENAME_NOREPLACE, RENAME_WHITEOUT
from hdvkit.testing.mount_directory import GuestDirectory
from virtiofs_model import plain
from virtiofs_model.seen import Seen
from virtiofs_model.sides import IS_ROOT, MAX_OPEN, Held, Sides, directories, handles, modes, paths

TARGETS = ["a", "b", "ü c", "a/b", "b/a", "../a", "../a/b", "nowhere", ".", "./a", "a/../b"]
KINDS = {"mknod": stat.S_IFREG, "mkfifo": stat.S_IFIFO, "mknod a socket": stat.S_IFSOCK}
RENAMES = {
    "rename noreplace": RENAME_NOREPLACE,
    "rename exchange": RENAME_EXCHANGE,
    # Leaves a device node that only root can look at.
    **({"rename whiteout": RENAME_WHITEOUT} if IS_ROOT else {}),
}


class Names(Sides):
    """Names in directories."""

    @rule(path=paths, mode=modes)
    def mkdir(self, path: str, mode: int) -> None:
        self.both("mkdir", self.mount.mkdir(self.here(path), mode), lambda: Path(self.there(path)).mkdir(mode))

    @rule(path=paths, what=st.sampled_from([*KINDS]), mode=modes)
    def mknod(self, path: str, what: str, mode: int) -> None:
        mode |= KINDS[what]
        self.both(what, self.mount.mknod(self.here(path), mode), lambda: os.mknod(self.there(path), mode))

    @rule(path=st.sampled_from(["a/b", "a/b", "d", "a/d"]) | paths)
    def rmdir(self, path: str) -> None:
        self.both("rmdir", self.mount.rmdir(self.here(path)), Path(self.there(path)).rmdir)

    @rule(path=paths)
    def unlink(self, path: str) -> None:
        self.both("unlink", self.mount.unlink(self.here(path)), Path(self.there(path)).unlink)

    @rule(old=paths, new=paths)
    def rename(self, old: str, new: str) -> None:
        self.both(
            "rename",
            self.mount.rename(self.here(old), self.here(new)),
            lambda: os.rename(self.there(old), self.there(new)),  # noqa: PTH104 - as a call, not as a method
        )

    @rule(old=paths, new=paths, what=st.sampled_from([*RENAMES]))
    def rename2(self, old: str, new: str, what: str) -> None:
        flags = RENAMES[what]
        self.both(
            what,
            self.mount.rename(self.here(old), self.here(new), flags=flags),
            lambda: plain.rename(self.there(old), self.there(new), flags),
        )

    @rule(old=paths, new=paths)
    def link(self, old: str, new: str) -> None:
        self.both(
            "link",
            self.mount.link(self.here(old), self.here(new)),
            lambda: os.link(self.there(old), self.there(new)),
        )

    @rule(to=st.sampled_from(TARGETS), path=paths)
    def symlink(self, to: str, path: str) -> None:
        self.both("symlink", self.mount.symlink(to, self.here(path)), lambda: Path(self.there(path)).symlink_to(to))

    @rule(path=paths)
    def readlink(self, path: str) -> None:
        self.both(
            "readlink",
            self.mount.readlink(self.here(path)),
            lambda: os.readlink(self.there(path)),  # noqa: PTH115 - a Path would tidy the target up
        )

    # Files without a name

    @precondition(lambda self: len(self.held) < MAX_OPEN)
    @rule(path=directories, to=st.none() | paths)
    def tmpfile(self, path: str, to: str | None) -> None:
        opened = len(self.held)
        self.open_both(
            "tmpfile", lambda mount: mount.tmpfile(self.here(path)), lambda: plain.nameless(self.there(path))
        )
        if to and len(self.held) > opened:
            self._give_name("link a tmpfile", self.held[-1], to)

    @precondition(lambda self: self.held)
    @rule(which=handles, path=paths)
    def link_an_open_file(self, which: int, path: str) -> None:
        self._give_name("link an open file", self.pick(which), path)

    def _give_name(self, what: str, file: Held, path: str) -> None:
        self.both(
            what,
            self.bench.mounts[file.turn].link_file(file.guest, self.here(path)),
            lambda: plain.give_name(file.plain, self.there(path)),
        )

    # Listings

    @rule(path=directories)
    def listdir(self, path: str) -> None:
        async def guest() -> list[str]:
            return sorted(await self.mount.listdir(self.here(path)))

        self.both("listdir", guest(), lambda: self._listed(path))

    @rule(path=directories)
    def scandir(self, path: str) -> None:
        """READDIRPLUS: names with their attributes."""

        async def guest() -> object:
            entries = await self.mount.scandir(self.here(path))
            return sorted((entry.name, entry.type << 12, Seen.of(entry.stat)) for entry in entries)

        def plain() -> object:
            with os.scandir(self.there(path)) as entries:
                found = [(entry.name, entry.stat(follow_symlinks=False)) for entry in entries]
            return sorted((name, stat.S_IFMT(seen.st_mode), Seen.of(seen)) for name, seen in found)

        self.both("scandir", guest(), plain)

    @rule(path=directories, at=st.integers(0, 5))
    def seekdir(self, path: str, at: int) -> None:
        """Each place leads back to the names behind it, whatever is made meanwhile; the beginning shows that, too."""

        async def guest() -> object:
            async with self.mount.opendir(self.here(path)) as directory:
                names, places = await _read(directory)
                place = at % len(names)
                met = Path(self.beneath(path)) / "met"
                met.mkdir()
                directory.seek(places[place])
                behind, _ = await _read(directory)
                directory.seek(0)
                fresh, _ = await _read(directory)
                met.rmdir()
            assert behind == names[place + 1 :]
            assert sorted(fresh) == sorted([*names, "met"])
            return sorted({*names} - {".", ".."})

        self.both("seekdir", guest(), lambda: self._listed(path))

    def _listed(self, path: str) -> list[str]:
        return sorted(os.listdir(self.there(path)))  # noqa: PTH208 - the same call on both sides


async def _read(directory: GuestDirectory) -> tuple[list[str], list[int]]:
    """The names to the end, a few at a time, and the place behind each."""
    entries = []
    while batch := await directory.read(100):
        entries += batch
    return [entry.name.decode() for entry in entries], [entry.off for entry in entries]
