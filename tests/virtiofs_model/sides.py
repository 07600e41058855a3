"""The two sides of the model, and what doing something on both means. Rules are in the modules beside."""

import os
import shutil
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine

from hdvkit.testing.mount import GuestFile, GuestMount
from virtiofs_model import plain
from virtiofs_model.bench import Bench
from virtiofs_model.seen import Refused, answered, guest_tree, host_attributes, host_tree, plainly

IS_ROOT = os.geteuid() == 0

MAX_OPEN = 5
OFTEN = ["a", "b", "ü c", "d", "a/a", "a/b", "a/ü c", "a/d"]
PATHS = [*OFTEN, *OFTEN, "ü c/a", "ü c/b", "ü c/d", "b/a", "d/a", "d/b", "a/b/a", "a/b/b", "a/b/d", "a/a/a"]
USERS = 0 if IS_ROOT else 0o700  # only root enters a directory whatever its mode
MODES = [mode | USERS for mode in (0o755, 0o700, 0o644, 0o600, 0o777, 0o4755, 0o2775, 0o1777, 0o6711)]


class Data(NamedTuple):
    """Bytes that can be told in a line."""

    piece: bytes
    times: int

    @property
    def bytes(self) -> bytes:
        """The whole of it."""
        return self.piece * self.times


paths = st.sampled_from(PATHS)
directories = st.sampled_from([".", "a", "a/b", *PATHS])
modes = st.sampled_from(MODES)
offsets = st.sampled_from([0, 1, 7, 100, 4095, 4096, 4097, 10_000, 70_000])
data = st.sampled_from(
    [
        Data(b"", 0),
        Data(b"x", 1),
        Data(b"seven..", 1),
        Data(b"p", 4096),
        Data(b"q", 4097),
        Data(b"r", 9000),
        Data(bytes(range(16)), 4800),
    ]
)
handles = st.integers(0, MAX_OPEN - 1)


class Held(NamedTuple):
    """One file, open on both sides."""

    guest: GuestFile
    plain: int
    turn: int
    """The guest that has it open."""


class Sides(RuleBasedStateMachine):
    """One example: a directory in the share, the same directory beside it, and files open in both."""

    def __init__(self, bench: Bench) -> None:
        super().__init__()
        self.bench = bench
        bench.examples += 1
        self.base = f"example-{bench.examples}"
        self.plain = bench.plain / self.base
        self.shared = bench.shared / self.base
        self.held: list[Held] = []
        for root in (self.plain, self.shared):  # not empty, or most of it would be ENOENT
            root.mkdir()
            (root / "a").mkdir()
            (root / "a" / "a").write_bytes(b"inner")
            (root / "a" / "b").mkdir()
            (root / "b").write_bytes(b"outer" * 2000)
            (root / "a" / "ü c").symlink_to("a")
            (root / "ü c").symlink_to("a")
            for path in ("a", "a/a", "b"):
                os.setxattr(root / path, "user.a", b"before")
        for _ in bench.mounts:
            self.open_both(
                "open", lambda mount: mount.open(self.here("b"), "r+"), lambda: self.open_there("b", os.O_RDWR)
            )

    @property
    def mount(self) -> GuestMount:
        """The guests take turns."""
        self.bench.steps += 1
        return self.bench.mounts[self.turn]

    @property
    def turn(self) -> int:
        """Whose turn it is."""
        return self.bench.steps % len(self.bench.mounts)

    def here(self, path: str) -> str:
        """A path in the guest."""
        return f"{self.base}/{path}"

    def there(self, path: str) -> str:
        """The same path in the plain directory."""
        return os.fspath(self.plain / path)

    def beneath(self, path: str) -> str:
        """The same path on the host, below the share."""
        return os.fspath(self.shared / path)

    def open_there(self, path: str, flags: int) -> int:
        """Open a file of the plain directory as a guest opens one."""
        return plain.open_file(self.there(path), flags)

    def both(self, what: str, guest: Awaitable[object], plain: Callable[[], object]) -> object:
        """Do it on both sides and demand the same; return what came of it."""
        expected = plainly(plain)
        return self.same(what, self.bench.run(answered(guest)), expected)

    def same(self, what: str, found: object, expected: object) -> object:
        """Demand the same of both sides, and count how it ended."""
        assert found == expected, f"{what}: the guest got {found!r}, a plain directory gives {expected!r}"
        self.bench.outcomes[what, found if isinstance(found, Refused) else "ok"] += 1
        return found

    def open_both(
        self, what: str, guest: Callable[[GuestMount], Awaitable[GuestFile]], plain: Callable[[], int]
    ) -> None:
        """Open a file on both sides and keep it."""
        files: list[GuestFile] = []
        numbers: list[int] = []

        async def keep() -> None:
            files.append(await guest(self.mount))

        self.both(what, keep(), lambda: numbers.append(plain()))
        self.held += [Held(file, number, self.turn) for file, number in zip(files, numbers, strict=True)]

    def pick(self, which: int) -> Held:
        """One of the open files."""
        return self.held[which % len(self.held)]

    def close_both(self, file: Held) -> None:
        """Close an open file on both sides."""
        self.both("close", file.guest.close(), lambda: os.close(file.plain))

    def teardown(self) -> None:
        """Whatever was done, both sides end alike."""
        try:
            for file in self.held:
                self.close_both(file)
            expected = dict(host_tree(self.plain))
            assert dict(host_tree(self.shared)) == expected
            assert self.bench.run(guest_tree(self.mount, self.base)) == expected
            assert host_attributes(self.shared) == host_attributes(self.plain)
        finally:
            for mount in self.bench.mounts:
                self.bench.run(mount.drop_caches())
            shutil.rmtree(self.plain)
            shutil.rmtree(self.shared)
