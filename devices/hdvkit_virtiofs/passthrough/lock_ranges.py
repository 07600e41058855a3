"""Ranges that one owner has locked in one file: sorted, disjoint, and one where neighbours are alike. No I/O."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from operator import attrgetter
from typing import Final

from hdvkit_virtiofs.fuse.answers import FileLock
from hdvkit_virtiofs.fuse.spec import F_UNLCK

F_WRLCK: Final = 1
"""Linux's number, on every host."""


def overlaid(locks: Sequence[FileLock], new: FileLock) -> list[FileLock]:
    """What an owner holds after ``new``, which may be an F_UNLCK, was laid over its locks."""
    first, behind = _touched(locks, new)
    before, after = max(first - 1, 0), behind + 1  # neighbours may become one with it
    left = [lock._replace(end=min(lock.end, new.start - 1)) for lock in locks[before : first + 1]]
    right = [lock._replace(start=max(lock.start, new.end + 1)) for lock in locks[max(behind - 1, 0) : after]]
    return [*locks[:before], *_joined([*left, new, *right]), *locks[after:]]


def _touched(locks: Sequence[FileLock], other: FileLock) -> tuple[int, int]:
    first = bisect_left(locks, other.start, key=attrgetter("end"))
    return first, bisect_right(locks, other.end, key=attrgetter("start"))


def _joined(pieces: Sequence[FileLock]) -> list[FileLock]:
    joined: list[FileLock] = []
    for piece in pieces:
        if piece.type == F_UNLCK or piece.start > piece.end:
            continue
        if joined and joined[-1].type == piece.type and joined[-1].end + 1 == piece.start:
            joined[-1] = joined[-1]._replace(end=piece.end)
        else:
            joined.append(piece)
    return joined


def in_the_way(locks: Sequence[FileLock], wanted: FileLock) -> FileLock | None:
    """The first of ``locks`` that another owner's ``wanted`` cannot stand beside, or None."""
    first, behind = _touched(locks, wanted)
    return next((lock for lock in locks[first:behind] if F_WRLCK in (lock.type, wanted.type)), None)
