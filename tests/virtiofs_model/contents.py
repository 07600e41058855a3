"""Rules of whole files: opened by a path, written, read and cut."""
# ruff: noqa: D102 - a rule is called by what it does

import os

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from virtiofs_model import plain
from virtiofs_model.sides import MAX_OPEN, Data, Sides, data, offsets, paths

_CREATE, _EXCLUSIVE, _TRUNCATE = os.O_CREAT, os.O_CREAT | os.O_EXCL, os.O_TRUNC

OPENS = (
    ("r", 0, os.O_RDONLY),
    ("r+", 0, os.O_RDWR),
    ("w", 0, os.O_WRONLY | _CREATE | _TRUNCATE),
    ("w+", 0, os.O_RDWR | _CREATE | _TRUNCATE),
    ("a", 0, os.O_WRONLY | _CREATE | os.O_APPEND),
    ("a+", 0, os.O_RDWR | _CREATE | os.O_APPEND),
    ("x", 0, os.O_WRONLY | _EXCLUSIVE),
    ("r", _CREATE, os.O_RDONLY | _CREATE),
    ("r+", _CREATE, os.O_RDWR | _CREATE),
    ("r+", _EXCLUSIVE, os.O_RDWR | _EXCLUSIVE),
    ("r+", _TRUNCATE, os.O_RDWR | _TRUNCATE),
    ("a", _TRUNCATE, os.O_WRONLY | _CREATE | os.O_APPEND | _TRUNCATE),
    ("w", os.O_DSYNC, os.O_WRONLY | _CREATE | _TRUNCATE | os.O_DSYNC),
)
"""Ways to open a file: Python's mode and more flags for the guest, all flags for the host."""


class Contents(Sides):
    """Whole files."""

    @rule(path=paths, content=data)
    def write(self, path: str, content: Data) -> None:
        self.both(
            "write a file",
            self.mount.write_bytes(self.here(path), content.bytes),
            lambda: plain.write(self.there(path), content.bytes, os.O_TRUNC),
        )

    @rule(path=paths, content=data)
    def append(self, path: str, content: Data) -> None:
        self.both(
            "append to a file",
            self.mount.write_bytes(self.here(path), content.bytes, append=True),
            lambda: plain.write(self.there(path), content.bytes, os.O_APPEND),
        )

    @rule(path=paths)
    def read(self, path: str) -> None:
        self.both("read a file", self.mount.read_bytes(self.here(path)), lambda: plain.read(self.there(path)))

    @rule(path=paths, size=offsets)
    def truncate(self, path: str, size: int) -> None:
        self.both("truncate", self.mount.truncate(self.here(path), size), lambda: os.truncate(self.there(path), size))

    @precondition(lambda self: len(self.held) < MAX_OPEN)
    @rule(path=paths, way=st.sampled_from(OPENS))
    def open(self, path: str, way: tuple[str, int, int]) -> None:
        mode, more, flags = way
        self.open_both(
            "open exclusively" if flags & os.O_EXCL else "open",
            lambda mount: mount.open(self.here(path), mode, flags=more),
            lambda: self.open_there(path, flags),
        )
