"""A kick on its way from any thread to the event loop, where kicks of the same queue become one."""

import asyncio
import threading
from collections.abc import Callable

from hdvkit.virtio.transport import NOTIFY_MULTIPLIER, NOTIFY_OFFSET, REGISTERS_BAR


class Doorbell:
    """The doorbell of one queue, for the life of its function.

    A platform that can match writes by itself looks for ``size`` bytes of ``value`` at ``offset`` of BAR ``bar``;
    with ``value`` None, for any.
    """

    bar = REGISTERS_BAR

    def __init__(self, index: int, loop: asyncio.AbstractEventLoop, answer: Callable[[], None]) -> None:
        self.index = index
        self.offset = NOTIFY_OFFSET + NOTIFY_MULTIPLIER * index
        self.value: int | None = index
        self.size = 2
        self.kicks = 0
        """How often it rang."""
        self._loop = loop
        self._thread = threading.get_ident()
        self._answer = answer
        self._rung = False

    def expect(self, *, notification_data: bool) -> None:
        """Be matched by what the driver agreed to write: the index, or with NOTIFICATION_DATA more than that."""
        self.value, self.size = (None, 4) if notification_data else (self.index, 2)

    def ring(self) -> None:
        """The guest kicked. Called from any thread; returns at once."""
        self.kicks += 1
        if threading.get_ident() == self._thread:
            self._answer()
        elif not self._rung:
            self._rung = True
            try:
                self._loop.call_soon_threadsafe(self._heard)
            except RuntimeError:
                return  # the loop is closed: nobody is left to hear it

    def _heard(self) -> None:
        self._rung = False  # before the queue looks, so that a kick from now on rings again
        self._answer()
