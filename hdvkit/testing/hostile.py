"""Hostile guests by name, and the proof that a device survives them.

Each guest is a :class:`Hostile`: what it does, and what a sound device answers. :func:`provoke` lets one loose on a
device and proves the answer, that a second device on the same host goes on serving, and that the first can be reset
and used again.
"""

import asyncio
import logging
import re
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from functools import partial

import attrs

from hdvkit.observe import Event, EventKind
from hdvkit.runtime import DeviceHost, Function, State
from hdvkit.testing import (
    hostile_buffers,
    hostile_chains,
    hostile_packed,
    hostile_pci,
    hostile_setup,
    hostile_signals,
    hostile_split,
    hostile_status,
)
from hdvkit.testing.driver import Status, VirtioDriver
from hdvkit.testing.guest import Guest, slot_of
from hdvkit.testing.hostile_guest import Answer, Exchange, Hostile, Intruder, Surprise

__all__ = ["GUESTS", "Answer", "Hostile", "HostileError", "provoke"]

LIMIT = 30.0
"""Seconds after which a device counts as hung. Nothing is ever timed against it."""

_GALLERIES = (
    hostile_pci.gallery,
    hostile_setup.gallery,
    hostile_status.gallery,
    hostile_signals.gallery,
    hostile_chains.gallery,
    hostile_buffers.gallery,
    hostile_split.gallery,
    hostile_packed.gallery,
)

GUESTS: tuple[Hostile, ...] = tuple(
    sorted(
        (guest for gallery in _GALLERIES for guest in gallery.guests),
        key=lambda guest: (guest.line[0], int(guest.line[1:])),
    )
)
"""All of them, in the order of the threat model: H at the registers, R at the rings."""


def by_name(name: str) -> Hostile:
    """The hostile guest of that name.

    Raises:
        LookupError: There is none.
    """
    for guest in GUESTS:
        if guest.name == name:
            return guest
    raise LookupError(f"no hostile guest is called {name!r}")


class HostileError(Exception):
    """A device did not stand up to a hostile guest."""

    def __init__(self, hostile: Hostile, packed: bool, expected: str, seen: str) -> None:
        self.hostile = hostile
        self.packed = packed
        self.expected = expected
        self.seen = seen
        super().__init__(f"{hostile.name}, {'packed' if packed else 'split'} ring: expected {expected}; saw {seen}")


@attrs.frozen
class Verdict:
    """How a device stood up to a hostile guest."""

    hostile: str
    packed: bool
    answer: Answer
    """What it did."""
    reason: str
    """What the needs-reset event said; empty without one."""
    dropped: int
    """Register accesses that were dropped during the attack."""


async def provoke(
    host: DeviceHost,
    function: Function,
    bystander: Function,
    hostile: Hostile,
    packed: bool,
    *,
    exchange: Exchange | None = None,
    queue: int = 0,
    limit: float = LIMIT,
) -> Verdict:
    """Let a hostile guest loose on ``function`` and prove that no harm is done.

    Both functions must be free of drivers; they are left reset, unless this raises.

    Arguments:
        host: A ``sim`` host.
        function: The device under attack. Its queues have 8 places or more.
        bystander: Another device on the same host. It must answer one request afterwards.
        hostile: Who attacks.
        packed: Whether on a packed ring.
        exchange: One good request to ``function``. By default 16 bytes with room for 64 on ``queue``, which any
            device must give back, whatever it makes of them.
        queue: The queue to attack; one whose chains the device takes at once.
        limit: Seconds after which the device counts as hung.

    Raises:
        HostileError: The device did not answer as it should, or something else was harmed.
    """
    trial = _Trial(Guest.of(host), function, bystander, hostile, packed, exchange or partial(any_request, queue=queue))
    with _watching() as escaped:
        try:
            async with asyncio.timeout(limit):
                verdict = await trial.run(queue)
        except TimeoutError:
            raise trial.error(trial.expected, f"nothing for {limit:.0f} s") from None
    if escaped:
        raise trial.error("silence on the event loop and in the log", "; ".join(escaped))
    return verdict


async def any_request(driver: VirtioDriver, *, queue: int = 0) -> None:
    """16 bytes of zeroes and room for 64: nonsense to most devices, but each must give it back."""
    await driver.queues[queue].submit([bytes(16)], [64])


class _Trial:
    """One hostile guest against one device."""

    def __init__(
        self,
        guest: Guest,
        function: Function,
        bystander: Function,
        hostile: Hostile,
        packed: bool,
        exchange: Exchange,
    ) -> None:
        self.expected = ""
        """What is being waited for."""
        self._guest = guest
        self._function = function
        self._bystander = bystander
        self._hostile = hostile
        self._packed = packed
        self._exchange = exchange
        self._driver = guest.driver(function, packed=packed, event_idx=hostile.event_idx, indirect=hostile.indirect)

    def error(self, expected: str, seen: str) -> HostileError:
        """What to raise."""
        return HostileError(self._hostile, self._packed, expected, seen)

    async def run(self, queue: int) -> Verdict:
        """Bystander up, device up, attack, judge, recover."""
        slot = slot_of(self._function)
        intruder = Intruder(self._driver, self._guest.machine, slot, self._packed, self._exchange, queue)
        async with self._guest.drive(self._bystander, packed=self._packed) as neighbour:
            with self._expecting("a bystander that serves before the attack"):
                await any_request(neighbour)
            with self._expecting("a device that comes up"):
                await self._driver.probe()
                await self._driver.start()
            verdict = await self._attack(intruder)
            with self._expecting("a bystander that goes on serving"):
                await any_request(neighbour)
            await self._recover(intruder)
        return verdict

    async def _attack(self, intruder: Intruder) -> Verdict:
        before = self._function.stats()
        events = self._function.events()
        with self._expecting(self._answers()):
            await self._hostile.attack(intruder)
            broken = await intruder.broken()
        answer = self._choose(broken)
        dropped = self._function.stats().dropped_accesses - before.dropped_accesses
        if broken:
            reason = await self._judge_broken(events, before.needs_resets)
        else:
            reason = ""
            await self._judge_whole(answer, dropped, before.needs_resets)
        return Verdict(self._hostile.name, self._packed, answer, reason, dropped)

    def _answers(self) -> str:
        return " or ".join(filter(None, (self._hostile.answer, self._hostile.or_else)))

    def _choose(self, broken: bool) -> Answer:
        """The answer that was given, as far as the status register tells."""
        for answer in (self._hostile.answer, self._hostile.or_else):
            if answer is not None and (answer is Answer.NEEDS_RESET) == broken:
                return answer
        state = self._function.state
        raise self.error(self._answers(), f"a device that {'needs a reset' if broken else 'does not'} ({state})")

    async def _judge_broken(self, events: AsyncIterator[Event], before: int) -> str:
        """The device says that it needs a reset: an event must say why, once."""
        with self._expecting("a needs-reset event"):
            event = await anext(event async for event in events if event.kind is EventKind.NEEDS_RESET)
        stats = self._function.stats()
        if stats.needs_resets != before + 1 or stats.state is not State.NEEDS_RESET:
            told = f"{stats.needs_resets - before} of them and state {stats.state}"
            raise self.error("one needs-reset event, and the state to stay", told)
        if not event.reason or not re.search(self._hostile.reason, event.reason):
            raise self.error(f"a reason that says {self._hostile.reason!r}", repr(event.reason))
        return event.reason

    async def _judge_whole(self, answer: Answer, dropped: int, before: int) -> None:
        """The device claims to be well: it must serve as it is, if it is up."""
        if self._hostile.or_else is None and self._function.stats().needs_resets != before:
            raise self.error(answer, "a needs-reset event, though the status does not say so")
        if answer is Answer.IGNORED and not dropped:
            raise self.error("accesses that are dropped and counted", "none")
        with self._expecting("a device that still answers registers"):
            running = await self._driver.status() & Status.DRIVER_OK
        if running != (self._function.state is State.READY) * Status.DRIVER_OK:
            raise self.error("a state that agrees with the status", f"{running:#x} and {self._function.state}")
        if running or answer is not Answer.REFUSED:
            with self._expecting("a device that goes on serving"):
                await self._exchange(self._driver)

    async def _recover(self, intruder: Intruder) -> None:
        """Reset, and use it again."""
        with self._expecting("a device that can be reset"):
            await self._driver.reset()
        intruder.free()
        if leases := self._function.stats().leases:
            raise self.error("no leases of guest memory after the reset", f"{leases}")
        with self._expecting("a device that serves after the reset"):
            await self._driver.probe()
            await self._driver.start()
            await self._exchange(self._driver)
            await self._driver.reset()

    @contextmanager
    def _expecting(self, what: str) -> Iterator[None]:
        """Whatever goes wrong inside, the device did not do what was expected of it."""
        self.expected = what
        try:
            yield
        except Surprise as surprise:
            raise self.error(what, str(surprise)) from surprise
        except Exception as error:
            raise self.error(what, f"{type(error).__name__}: {error}") from error


class _Complaints(logging.Handler):
    """ERROR logs, whoever writes them."""

    def __init__(self, found: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._found = found

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it."""
        self._found.append(f"log of {record.name}: {record.getMessage()}")


@contextmanager
def _watching() -> Iterator[list[str]]:
    """What nobody handled while this is open: on the event loop, in finalizers, in the log."""
    found: list[str] = []
    loop = asyncio.get_running_loop()
    complaints = _Complaints(found)
    handler, hook = loop.get_exception_handler(), sys.unraisablehook
    loop.set_exception_handler(lambda _, context: found.append(f"event loop: {_tell(context)}"))
    sys.unraisablehook = lambda unraisable: found.append(f"finalizer: {unraisable.exc_value!r}")
    logging.getLogger().addHandler(complaints)
    try:
        yield found
    finally:
        logging.getLogger().removeHandler(complaints)
        sys.unraisablehook = hook
        loop.set_exception_handler(handler)


def _tell(context: dict[str, object]) -> str:
    return f"{context.get('message', '')} {context.get('exception') or ''!r}"
