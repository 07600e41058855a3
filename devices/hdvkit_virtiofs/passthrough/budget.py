"""Which of many things keep something scarce: those used last, and those that could not have it again.

Knows nothing of descriptors or inodes. Everything is O(1) for each use, whatever the order of uses.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

IN_USE = 16
"""So many that were used last are never closed: synchronous code may be about to use any of them.
In a budget of less than twice as many it is half of it."""


class Budget(Generic[T]):
    """Things that are open, at most ``size()`` of them, or the few in use where that is less.

    Before one is closed ``remember`` is asked whether it can be opened again. One that cannot is held back while there
    is room for it beside those in use; then the one held longest is closed too.
    """

    def __init__(self, size: Callable[[], int], remember: Callable[[T], bool], close: Callable[[T], None]) -> None:
        self._size = size
        self._remember = remember
        self._close = close
        self._recent: OrderedDict[T, None] = OrderedDict()
        self._held: OrderedDict[T, None] = OrderedDict()
        self.always: T | None = None
        """Never closed."""

    def __len__(self) -> int:
        return len(self._recent) + len(self._held)

    def enter(self, thing: T) -> None:
        """It is open and used now; others may be closed for it."""
        self._recent[thing] = None
        size = self._size()
        while len(self) > size and self._spare(size):
            pass

    def touch(self, thing: T) -> None:
        """It is open, and used now."""
        try:
            self._recent.move_to_end(thing)
        except KeyError:
            del self._held[thing]
            self._recent[thing] = None

    def leave(self, thing: T) -> None:
        """It is closed by others. Works twice."""
        self._recent.pop(thing, None)
        self._held.pop(thing, None)

    def spare(self) -> bool:
        """Close the one that was used longest ago; False when all that are left may be in use."""
        return self._spare(self._size())

    def _spare(self, size: int) -> bool:
        in_use = max(1, min(IN_USE, size // 2))
        while len(self._recent) > in_use:
            thing, _ = self._recent.popitem(last=False)
            if thing is self.always:
                self._recent[thing] = None
            elif self._remember(thing):
                self._close(thing)
                return True
            else:
                self._held[thing] = None
                if len(self._held) > size - in_use:
                    break
        if len(self._held) > size - in_use:
            self._close(self._held.popitem(last=False)[0])
            return True
        return False
