"""What :func:`hdvkit.testing.kit.check_backend` checks: all that devices expect of a platform."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from hdvkit.runtime import DeviceHost, Function, Removal
from hdvkit.testing.driver import VirtioDriver
from hdvkit.testing.echo import CONFIG, ECHO_TYPE, Echo
from hdvkit.testing.kit import Check, expect

BIG = 300_000
"""More than any platform maps or moves in one piece by accident."""

OpenHost = Callable[[], AbstractAsyncContextManager[DeviceHost]]
Plug = Callable[[DeviceHost, Function], Awaitable[VirtioDriver]]


def checks_of(open_host: OpenHost, plug: Plug) -> list[tuple[str, Check]]:
    """All checks, from the first configuration cycle to the end."""
    bench = _Bench(open_host, plug)
    return [
        ("configuration space and registers", bench.registers),
        ("requests and interrupts, each queue", bench.requests),
        ("large requests, in pieces and in one", bench.large),
        ("many requests at once", bench.many),
        ("kicks are not lost", bench.kicks),
        ("configuration changes reach the driver", bench.config_change),
        ("reset, and up again", bench.reset),
        ("two functions side by side", bench.two),
        ("removed or parked, the guest gets errors only", bench.removal),
        ("closed while the driver is up", bench.close),
        ("nothing is left after 10 rounds", bench.leaves_nothing),
    ]


class _Bench:
    def __init__(self, open_host: OpenHost, plug: Plug) -> None:
        self._open_host = open_host
        self._plug = plug

    async def registers(self) -> None:
        async with self._up() as (_, function, driver):
            expect("the device type", driver.device_id, ECHO_TYPE)
            expect("the number of queues", driver.num_queues, 2)
            expect("the device configuration", await driver.config_read(0, len(CONFIG)), CONFIG)
            await function.ready()

    async def requests(self) -> None:
        async with self._up() as (_, _, driver):
            for queue in driver.queues:
                await _echo(driver, b"ping on %d" % queue.index, queue.index)
                expect("interrupts of the queue", queue.interrupts > 0, True)

    async def large(self) -> None:
        data = bytes(range(256)) * (BIG // 256)
        async with self._up() as (_, _, driver):
            await _echo(driver, data)
            pages = [data[at : at + 4096] for at in range(0, len(data), 4096)]
            reply = await driver.queues[0].submit(pages, [4096] * len(pages))
            expect("the bytes that came back", reply.data == data, True)

    async def many(self) -> None:
        async with self._up() as (_, _, driver):
            await asyncio.gather(*(_echo(driver, b"%d" % number, number % 2) for number in range(500)))

    async def kicks(self) -> None:
        async with self._up() as (_, _, driver):
            for number in range(300):  # each finds the device asleep, or on its way there
                await _echo(driver, b"%d" % number)

    async def config_change(self) -> None:
        async with self._up() as (_, function, driver):
            told = asyncio.ensure_future(driver.config_changed())
            changed = CONFIG[::-1]
            function.device.config = lambda: changed  # type: ignore[method-assign]  # this device now says so
            function.config_changed()
            await told
            expect("the device configuration", await driver.config_read(0, len(changed)), changed)

    async def reset(self) -> None:
        async with self._up() as (_, function, driver):
            for _ in range(3):
                await driver.reset()
                expect("leases after a reset", function.stats().leases, 0)
                await driver.probe()
                await driver.start()
                await _echo(driver, b"up again")

    async def two(self) -> None:
        async with self._up() as (host, _, driver):
            other = await self._driver(host, await host.add(Echo(), name="other"))
            await asyncio.gather(*(_echo(one, b"side by side") for one in (driver, other) * 50))
            await other.reset()
            await _echo(driver, b"alone")

    async def removal(self) -> None:
        async with self._up() as (host, function, driver):
            if await host.remove(function) is Removal.PARKED:
                reply = await driver.queues[0].submit([b"hello"], [5])
                expect("the answer of a parked device", reply.data, b"\xff" * 5)
            expect("whether the device is over", function.state.revoked, True)

    async def close(self) -> None:
        async with self._open_host() as host:
            function = await host.add(Echo())
            driver = await self._driver(host, function)
            await _echo(driver, b"before the end")
        expect("leases after the end", function.stats().leases, 0)

    async def leaves_nothing(self) -> None:
        await self.close()
        before = len(asyncio.all_tasks())
        for _ in range(10):
            await self.close()
        await asyncio.sleep(0)
        expect("the number of tasks", len(asyncio.all_tasks()), before)

    async def _driver(self, host: DeviceHost, function: Function) -> VirtioDriver:
        driver = await self._plug(host, function)
        await driver.probe()
        await driver.start()
        return driver

    @asynccontextmanager
    async def _up(self) -> AsyncIterator[tuple[DeviceHost, Function, VirtioDriver]]:
        async with self._open_host() as host:
            function = await host.add(Echo())
            yield host, function, await self._driver(host, function)


async def _echo(driver: VirtioDriver, data: bytes, queue: int = 0) -> None:
    reply = await driver.queues[queue].submit([data], [len(data)])
    expect("the echo", reply.data == data, True)
