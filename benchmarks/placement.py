"""On which processors the guest and the server run. A process begins with those of the thread that starts it."""

import contextlib
import os
from collections.abc import Iterator, Set
from enum import StrEnum

from benchmarks.errors import BenchmarkError


class Place(StrEnum):
    """Where the two processes run."""

    SAME = "same"
    """Both on one processor: what the code costs, and two changes of context."""
    TWO = "two"
    """The guest on one; the server may use that and another, so that one that polls sees a reason to."""

    @property
    def phrase(self) -> str:
        """For the report."""
        return "one processor for both" if self is Place.SAME else "two processors"


def possible() -> list[str]:
    """The places that there are processors for."""
    return [place.value for place in Place if place is Place.SAME or len(os.sched_getaffinity(0)) > 1]


def processors(place: Place) -> tuple[Set[int], Set[int]]:
    """Those of the guest, and those of the server.

    Raises:
        BenchmarkError: There are not enough.
    """
    ours = sorted(os.sched_getaffinity(0))
    if place is Place.SAME:
        return {ours[-1]}, {ours[-1]}
    if len(ours) < 2:
        raise BenchmarkError(f"this process may use one processor only: take --place {Place.SAME}")
    return {ours[0]}, {ours[0], ours[-1]}


def everywhere() -> Set[int]:
    """All that this process may use."""
    return os.sched_getaffinity(0)


@contextlib.contextmanager
def pinned(to: Set[int]) -> Iterator[None]:
    """Start processes in here, and they run there."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, to)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
