"""The life of one function as its listeners see it: a state, and events on the way. Loop thread only."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping

from hdvkit.errors import UsageError
from hdvkit.observe import Event, EventKind, Observers
from hdvkit.runtime.events import EventStream
from hdvkit.runtime.stats import State


class Life:
    """Holds the state, wakes who waits for a change of it, and tells everybody what happens."""

    def __init__(self, name: str, kind: str, observers: Observers, place: Callable[[], Mapping[str, str]]) -> None:
        self.name = name
        self.kind = kind
        self.state = State.ATTACHED
        self._observers = observers
        self._place = place
        self._streams: set[EventStream] = set()
        self._changed = asyncio.Event()

    def enter(self, state: State) -> None:
        """Go on to a state."""
        self.state = state
        self.stir()

    def stir(self) -> None:
        """Something changed: wake everybody who waits; whoever waits next waits for the next change."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def change(self) -> None:
        """Wait for the next change."""
        await self._changed.wait()

    async def ready(self) -> None:
        """Wait until the guest's driver is up; raises UsageError when it never will be."""
        while self.state is not State.READY:
            if self.state.revoked:
                raise UsageError(f"device {self.name!r} is {self.state}; it will not become ready")
            await self.change()

    def events(self) -> AsyncIterator[Event]:
        """All events from now on, until the end."""
        stream = EventStream(self._streams.discard)
        if self.state.over:
            stream.end()
        else:
            self._streams.add(stream)
        return stream

    def announce(self, kind: EventKind, reason: str = "", hint: str = "") -> None:
        """Tell everybody who listens what has happened."""
        event = Event(kind, self.name, self.kind, reason, dict(self._place()), hint)
        for stream in tuple(self._streams):
            stream.put(event)
        self._observers.event(event)

    def end(self, state: State, kind: EventKind) -> None:
        """The last state and the last event."""
        self.enter(state)
        self.announce(kind)
        for stream in tuple(self._streams):
            stream.end()
