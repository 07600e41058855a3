"""How much of one thing a guest may add, and when its owner hears of it."""

import errno
import math
import time
from collections.abc import Callable

from hdvkit_virtiofs.fuse.errors import FuseError
from hdvkit_virtiofs.seldom import Seldom

HIGH, LOW = 0.8, 0.7
"""A warning comes when usage passes ``HIGH`` of the limit, and not again before it fell below ``LOW``."""

_REMEDY = "remove files in the guest, or give the share a larger quota"


class Budget:
    """How much of one thing a guest may add, and has added. ``unit`` names it in warnings.

    It warns of high usage and of a refusal, each once until usage fell, and once a minute at most, however fast the
    guest goes up and down. ``clock`` tells seconds.
    """

    def __init__(
        self,
        limit: int | None,
        unit: str,
        warn: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limit = limit
        self.used = 0
        self._ceiling = math.inf if limit is None else limit
        self._unit = unit
        self._warn = warn
        self._seldom = Seldom(clock)
        self._told: set[str] = set()

    @property
    def left(self) -> int | None:
        """What may still be added; None for any amount."""
        return None if self.limit is None else self.limit - self.used

    def take(self, amount: int) -> None:
        """Charge ``amount``, before the guest gets it.

        Raises:
            FuseError: EDQUOT, as Linux file systems answer beyond a quota; nothing is charged.
        """
        used = self.used + amount
        if used > self._ceiling:
            self._tell("refused", f"the guest asked for {amount} more {self._unit} and got EDQUOT")
            raise FuseError(errno.EDQUOT)
        self.used = used
        if used > HIGH * self._ceiling:
            self._tell("high", "at the limit it gets EDQUOT")

    def give_back(self, amount: int) -> None:
        """The guest removed ``amount``. Never below zero: what was there before it came was not charged."""
        before, self.used = self.used, max(0, self.used - amount)
        if self.used < LOW * self._ceiling <= before:
            self._told.clear()

    def _tell(self, what: str, text: str) -> None:
        if what not in self._told and self._seldom.may_tell(what):
            self._told.add(what)
            self._warn(f"{text}: the guest has added {self.used} of at most {self.limit} {self._unit}; {_REMEDY}")
