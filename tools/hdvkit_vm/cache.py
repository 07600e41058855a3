"""The folder that holds what virtual machines are made of, and the record of where it came from.

A part counts as done when the record says so, and the record is written last, by a rename. Nothing here builds.
"""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import attrs
import cattrs

RECORD = "lock.json"
BUILDING = ".building-"


@attrs.frozen
class LockedPackage:
    """One package a part was made from."""

    package: str
    version: str
    sha256: str


@attrs.frozen
class LockedPart:
    """How one part came to be. ``facts`` are what the recipe learned, such as a kernel's release."""

    recipe: int
    date: str
    packages: list[LockedPackage] = attrs.Factory(list)
    facts: dict[str, str] = attrs.Factory(dict)


@attrs.frozen
class Lock:
    """The lock record: the parts of the cache by name."""

    parts: dict[str, LockedPart] = attrs.Factory(dict)

    @classmethod
    def read(cls, folder: Path) -> "Lock":
        """The record in a cache folder; an empty one if there is none, or none that we understand."""
        try:
            return cattrs.structure(json.loads((folder / RECORD).read_text()), cls)
        except (OSError, ValueError, TypeError, cattrs.BaseValidationError):
            return cls()

    def with_parts(self, parts: Mapping[str, LockedPart]) -> "Lock":
        """The same with some parts replaced or added."""
        return Lock({**self.parts, **parts})

    def without(self, names: set[str]) -> "Lock":
        """The same without some parts."""
        return Lock({name: part for name, part in self.parts.items() if name not in names})

    def write(self, folder: Path) -> None:
        """Replace the record in one step."""
        write_json(folder / RECORD, attrs.asdict(self))


def default_folder() -> Path:
    """``HDVKIT_CACHE``, or ``hdvkit`` in the user's cache folder."""
    if named := os.environ.get("HDVKIT_CACHE"):
        return Path(named).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hdvkit"


def write_json(file: Path, content: object) -> None:
    """Write a file so that a reader sees the old content or the new one, never half."""
    beside = file.with_name(f"{file.name}.{os.getpid()}")
    beside.write_text(json.dumps(content, indent=1) + "\n")
    beside.replace(file)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the cache against other processes; waits for them. The kernel frees the lock of one that dies."""
    import fcntl  # other systems lack it, and only this needs it

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def building(folder: Path) -> Iterator[Path]:
    """A fresh place to build in, on the same file system as the cache. Call with the lock held.

    What an earlier try left behind is removed, for nobody else can be building.
    """
    for left in folder.glob(f"{BUILDING}*"):
        shutil.rmtree(left)
    with tempfile.TemporaryDirectory(prefix=BUILDING, dir=folder) as made:
        yield Path(made)


def install(built: Path, place: Path) -> None:
    """Move a built file or folder to its place; what was there goes away with the place it was built in."""
    if place.exists():
        place.rename(built.with_name(f"{built.name}.old"))
    built.rename(place)
