"""A stream of events for one listener: bounded, and it never makes the teller wait."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable

from hdvkit.observe import Event

BACKLOG = 1024
"""A listener that falls further behind loses the oldest events."""


class EventStream(AsyncIterator[Event]):
    """Iterate it. ``missed`` counts events that were lost because nobody took them."""

    def __init__(self, ended: "Callable[[EventStream], None]") -> None:
        self.missed = 0
        self._events: deque[Event] = deque()
        self._more = asyncio.Event()
        self._over = False
        self._ended = ended

    def put(self, event: Event) -> None:
        """Hand an event to the listener."""
        if len(self._events) == BACKLOG:
            self._events.popleft()
            self.missed += 1
        self._events.append(event)
        self._more.set()

    def end(self) -> None:
        """No more events will come; what is there can still be taken."""
        self._over = True
        self._more.set()
        self._ended(self)

    def __aiter__(self) -> "EventStream":
        return self

    async def __anext__(self) -> Event:
        while not self._events:
            if self._over:
                raise StopAsyncIteration
            self._more.clear()
            await self._more.wait()
        return self._events.popleft()

    async def aclose(self) -> None:
        """Stop listening."""
        self.end()
