"""The conformance kit: run it on your own device (:func:`check_device`) or your own platform (:func:`check_backend`).

Each check is a coroutine that returns, or raises with a sentence. A kit run never raises for what it finds; it reports.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager

import attrs

from hdvkit.runtime import DeviceHost, Function, VirtioDevice
from hdvkit.testing.driver import VirtioDriver

LIMIT = 60.0
"""Seconds after which a check counts as hung. Nothing is ever timed against it."""

Exchange = Callable[[VirtioDriver], Awaitable[None]]
"""Does one good request of the device type, and raises when the answer is wrong."""

Check = Callable[[], Awaitable[None]]


class Failed(Exception):
    """A check found what should not be; the message says what was expected and what was seen."""


@attrs.frozen
class Result:
    """What came of one check."""

    name: str
    passed: bool
    detail: str
    seconds: float


@attrs.frozen
class Report:
    """What came of a run."""

    results: tuple[Result, ...]

    @property
    def failed(self) -> tuple[Result, ...]:
        """The checks that did not pass."""
        return tuple(result for result in self.results if not result.passed)

    def raise_for_failures(self) -> None:
        """For a test: one exception that names every failed check.

        Raises:
            Failed: Something failed.
        """
        if self.failed:
            raise Failed("; ".join(f"{result.name}: {result.detail}" for result in self.failed))


def expect(what: str, seen: object, expected: object) -> None:
    """Raise Failed unless both are equal."""
    if seen != expected:
        raise Failed(f"{what} is {seen!r}, expected {expected!r}")


async def any_exchange(driver: VirtioDriver) -> None:
    """A request that any device must give back, whatever it makes of it: 16 bytes of zeroes and room for 64."""
    reply = await driver.queues[0].submit([bytes(16)], [64])
    if reply.written > 64:
        raise Failed(f"the device claims {reply.written} bytes written into a buffer of 64")


def _ignore(result: Result) -> None:
    """Nobody wants to hear of each result."""


async def run(checks: Sequence[tuple[str, Check]], told: Callable[[Result], None] = _ignore) -> Report:
    """Run checks one after the other; one that fails or hangs does not keep the others from running."""
    results = []
    for name, check in checks:
        results.append(await _run_one(name, check))
        told(results[-1])
    return Report(tuple(results))


async def _run_one(name: str, check: Check) -> Result:
    started = time.perf_counter()
    try:
        async with asyncio.timeout(LIMIT):
            await check()
    except TimeoutError:
        detail = f"hung for {LIMIT:.0f} s"
    except Exception as error:
        detail = f"{type(error).__name__}: {error}"
    else:
        detail = ""
    return Result(name, not detail, detail, time.perf_counter() - started)


async def check_device(
    make: Callable[[], VirtioDevice],
    *,
    kind: str = "device",
    exchange: Exchange = any_exchange,
    hostile: bool = True,
    told: Callable[[Result], None] = _ignore,
) -> Report:
    """Put a device through all that a guest may do to it, hostile guests included.

    Arguments:
        make: Makes a fresh device; called once for each check.
        kind: How to call it in messages.
        exchange: Does one good request and checks the answer. The default fits every device and checks little.
        hostile: Whether to let hostile guests at it as well.
        told: Called with each result as it comes.
    """
    from hdvkit.testing.device_checks import checks_of, hostile_checks_of

    checks = checks_of(make, kind, exchange)
    return await run([*checks, *(hostile_checks_of(make, kind, exchange) if hostile else [])], told)


async def check_backend(
    open_host: Callable[[], AbstractAsyncContextManager[DeviceHost]],
    plug: Callable[[DeviceHost, Function], Awaitable[VirtioDriver]],
) -> Report:
    """Put a platform through what devices expect of it.

    Arguments:
        open_host: Opens a host on the platform, fresh for each check.
        plug: Brings a driver to a function that was added; the kit probes, starts and resets it. The driver's
            machine must be the guest's side of the platform, sharing no code with it.
    """
    from hdvkit.testing.backend_checks import checks_of

    return await run(checks_of(open_host, plug))
