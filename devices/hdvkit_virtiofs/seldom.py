"""Keeps a guest from filling the host's logs and events: what it can repeat at will is told now and then."""

import time
from collections.abc import Callable, Hashable

SECONDS = 60.0
"""Between two times that the same thing is told."""


class Seldom:
    """Lets each thing be told once a minute. ``clock`` tells seconds.

    It remembers every thing it was asked about: a guest must not be able to make up new ones.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._told: dict[Hashable, float] = {}

    def may_tell(self, thing: Hashable) -> bool:
        """Whether ``thing`` may be told now; if so, not again for a minute."""
        now = self._clock()
        told = self._told.get(thing)
        if told is not None and now - told < SECONDS:
            return False
        self._told[thing] = now
        return True
