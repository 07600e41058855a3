"""Observers hear what they asked for, in order, and one that fails falls silent without anybody else noticing."""

import logging

import pytest

from hdvkit.observe import Event, EventKind, Observer, Observers

READY = Event(EventKind.READY, "disk", "virtiofs")


class Events(Observer):
    """Hears of events alone."""

    def __init__(self) -> None:
        self.heard: list[Event] = []

    def event(self, event: Event) -> None:
        """Note it."""
        self.heard.append(event)


class Completions(Observer):
    """Hears of chains alone."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str, int, int]] = []

    def completed(self, device: str, queue: str, taken: int, given: int) -> None:
        """Note it."""
        self.heard.append((device, queue, taken, given))


class Broken(Observer):
    """Hears of both once, and fails in the one it was told to fail in."""

    def __init__(self, fails: str) -> None:
        self.fails = fails
        self.calls: list[str] = []

    def event(self, event: Event) -> None:
        """Fail, or not."""
        self._called("event")

    def completed(self, device: str, queue: str, taken: int, given: int) -> None:
        """Fail, or not."""
        self._called("completed")

    def _called(self, method: str) -> None:
        self.calls.append(method)
        if method == self.fails:
            raise RuntimeError("no more")


class Restless(Observer):
    """Fails with something that is no Exception."""

    def event(self, event: Event) -> None:
        """Stop the program."""
        raise KeyboardInterrupt


def test_each_hears_what_it_overrides() -> None:
    events, completions, mute = Events(), Completions(), Observer()
    observers = Observers([events, mute, completions])
    observers.event(READY)
    observers.completed("disk", "requests", 40, 4096)
    assert events.heard == [READY]
    assert completions.heard == [("disk", "requests", 40, 4096)]
    mute.event(READY)
    mute.completed("disk", "requests", 0, 0)


def test_nobody_pays_for_what_nobody_watches() -> None:
    assert not Observers().watch_completed
    assert not Observers([Events(), Observer()]).watch_completed
    assert Observers([Events(), Completions()]).watch_completed


def test_observers_may_come_as_any_iterable_and_hear_in_its_order() -> None:
    first, second = Events(), Events()
    second.heard = first.heard
    observers = Observers(one for one in (first, second))
    observers.event(READY)
    assert first.heard == [READY, READY]


@pytest.mark.parametrize("fails", ["event", "completed"])
def test_an_observer_that_fails_is_logged_and_hears_no_more(fails: str, caplog: pytest.LogCaptureFixture) -> None:
    broken, events, completions = Broken(fails), Events(), Completions()
    observers = Observers([broken, events, completions])
    with caplog.at_level(logging.ERROR, "hdvkit.observe"):
        for _ in range(2):
            observers.event(READY)
            observers.completed("disk", "requests", 1, 2)
    assert broken.calls == (["event"] if fails == "event" else ["event", "completed"])
    assert (len(events.heard), len(completions.heard)) == (2, 2), "the others heard everything"
    [record] = caplog.records
    assert f"failed in {fails} and is not told any more" in record.getMessage()
    assert record.exc_info is not None


def test_the_last_watcher_of_chains_takes_the_watching_with_it() -> None:
    observers = Observers([Broken("completed")])
    assert observers.watch_completed
    logging.getLogger("hdvkit.observe").disabled = True
    try:
        observers.completed("disk", "requests", 1, 2)
    finally:
        logging.getLogger("hdvkit.observe").disabled = False
    assert not observers.watch_completed


def test_what_stops_the_program_is_not_swallowed() -> None:
    with pytest.raises(KeyboardInterrupt):
        Observers([Restless()]).event(READY)


def test_an_event_is_flat_for_json_and_says_only_what_there_is_to_say() -> None:
    assert READY.as_dict() == {"event": "ready", "device": "disk", "kind": "virtiofs"}
    told = Event(EventKind.NEEDS_RESET, "disk", "virtiofs", "why", {"socket": "/run/disk.sock"}).as_dict()
    assert told == {
        "event": "needs-reset",
        "device": "disk",
        "kind": "virtiofs",
        "reason": "why",
        "socket": "/run/disk.sock",
    }
    assert all(type(value) is str for value in told.values())


def test_the_kinds_are_the_words_of_the_command_line() -> None:
    assert {str(kind) for kind in EventKind} == {
        *("listening", "ready", "reset", "features-refused", "driver-failed"),
        *("needs-reset", "warning", "removed", "parked", "closed"),
    }
