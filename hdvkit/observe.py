"""What may be watched on a host: events, and completed chains. Imports nothing of the runtime.

An observer overrides the methods it wants; those nobody overrides cost nothing. One that raises is logged and
hears no more; nothing else notices.
"""

import logging
from collections.abc import Callable, Iterable
from enum import StrEnum

import attrs

log = logging.getLogger("hdvkit.observe")


class EventKind(StrEnum):
    """What can happen to a device."""

    LISTENING = "listening"
    """It can be reached by a guest."""
    READY = "ready"
    """The guest's driver is up."""
    RESET = "reset"
    """The guest reset it; it can be used again."""
    FEATURES_REFUSED = "features-refused"
    """The guest's driver wanted features that cannot be had."""
    DRIVER_FAILED = "driver-failed"
    """The guest's driver gave up."""
    NEEDS_RESET = "needs-reset"
    """The guest broke a rule, or the device failed; it is dead until the guest resets it."""
    WARNING = "warning"
    """The device serves on, and its owner should know something."""
    REMOVED = "removed"
    """It is gone; nothing of the host can be reached through it."""
    PARKED = "parked"
    """The platform would not remove it: it stays visible, answers every request with an error, and holds nothing."""
    CLOSED = "closed"
    """The host is closed."""


@attrs.frozen
class Event:
    """Something happened to a device."""

    kind: EventKind
    device: str
    """Name of the device."""
    device_kind: str
    reason: str = ""
    """Why, in one sentence, where there is something to say."""
    place: dict[str, str] = attrs.field(factory=dict)
    """Where the guest's side finds the device, as the host kind says it (``socket``, ``instance_id``, ``slot``)."""
    hint: str = ""
    """With LISTENING: what a person can paste on the other side; for people only."""

    def as_dict(self) -> dict[str, str]:
        """Flat, for JSON."""
        told = {"event": str(self.kind), "device": self.device, "kind": self.device_kind, "reason": self.reason}
        return {key: value for key, value in told.items() if value} | self.place


class Observer:
    """Override what you want to hear of. Both are called on the event loop and must not block."""

    def event(self, event: Event) -> None:
        """Something happened to a device."""

    def completed(self, device: str, queue: str, taken: int, given: int) -> None:
        """A chain went back to the guest: bytes it brought, bytes it took home."""


class Observers:
    """All observers of one host."""

    def __init__(self, observers: Iterable[Observer] = ()) -> None:
        observers = list(observers)
        self._event = _overriding(observers, "event")
        self._completed = _overriding(observers, "completed")

    @property
    def watch_completed(self) -> bool:
        """Whether anybody wants to hear of completed chains."""
        return bool(self._completed)

    def event(self, event: Event) -> None:
        """Tell everybody who listens."""
        self._tell(self._event, "event", event)

    def completed(self, device: str, queue: str, taken: int, given: int) -> None:
        """Tell everybody who listens."""
        self._tell(self._completed, "completed", device, queue, taken, given)

    def _tell(self, observers: list[Observer], method: str, *arguments: object) -> None:
        for observer in tuple(observers):
            call: Callable[..., None] = getattr(observer, method)
            try:
                call(*arguments)
            except Exception:
                log.exception("observer %r failed in %s and is not told any more", observer, method)
                for listeners in (self._event, self._completed):
                    if observer in listeners:
                        listeners.remove(observer)


def _overriding(observers: list[Observer], method: str) -> list[Observer]:
    return [one for one in observers if getattr(type(one), method) is not getattr(Observer, method)]
