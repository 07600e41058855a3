"""What :func:`hdvkit.testing.kit.check_device` checks: every habit of guests that a device must live with."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from itertools import product

from hdvkit.runtime import DeviceHost, Function, Opening, Removal, State, VirtioDevice
from hdvkit.testing.backend import SimBackend
from hdvkit.testing.echo import Echo
from hdvkit.testing.guest import DriverOptions, Guest
from hdvkit.testing.hostile import GUESTS, Hostile, provoke
from hdvkit.testing.kit import Check, Exchange, Failed, expect

VIRTIO_VENDOR = 0x1AF4
MODERN_DEVICES = 0x1040
CYCLES = 20
AT_ONCE = 16

Make = Callable[[], VirtioDevice]


def checks_of(make: Make, kind: str, exchange: Exchange) -> list[tuple[str, Check]]:
    """What decent guests do, in the order in which a device meets it."""
    bench = _Bench(make, kind, exchange)
    return [
        ("identity and configuration", bench.identity),
        ("every mix of features, split rings", partial(bench.features, packed=False)),
        ("every mix of features, packed rings", partial(bench.features, packed=True)),
        ("many requests at once", bench.many),
        ("reset with requests in flight", bench.reset_while_busy),
        ("one queue reset alone", bench.queue_reset),
        ("eight apertures", partial(bench.serves, SimBackend(apertures=8))),
        ("no doorbells", partial(bench.serves, SimBackend(doorbells=0))),
        ("removed", partial(bench.removed, removable=True)),
        ("parked", partial(bench.removed, removable=False)),
        (f"{CYCLES} times added and removed", bench.leaves_nothing),
    ]


def hostile_checks_of(make: Make, kind: str, exchange: Exchange) -> list[tuple[str, Check]]:
    """What hostile guests do, each by name and on each ring it applies to."""
    bench = _Bench(make, kind, exchange)
    return [
        (f"{guest.name}, {ring}", partial(bench.hostile, guest, packed=ring == "packed"))
        for guest in GUESTS
        for ring in (guest.rings or ("split",))
    ]


class _Bench:
    """One device under test, fresh for each check."""

    def __init__(self, make: Make, kind: str, exchange: Exchange) -> None:
        self._make = make
        self._kind = kind
        self._exchange = exchange

    async def identity(self) -> None:
        async with self._attached() as (_, function, guest), guest.drive(function) as driver:
            device = function.device
            expect("the PCI device id", driver.pci_device_id, MODERN_DEVICES + int(device.device_type))
            expect("the number of queues", driver.num_queues, len(device.queue_names))
            config = device.config()
            if config:
                expect("the device configuration", await driver.config_read(0, len(config)), config)

    async def features(self, *, packed: bool) -> None:
        async with self._attached() as (_, function, guest):
            for event_idx, indirect, notification_data in product((True, False), repeat=3):
                options = DriverOptions(
                    packed=packed, event_idx=event_idx, indirect=indirect, notification_data=notification_data
                )
                async with guest.drive(function, **options) as driver:
                    await function.ready()
                    await self._exchange(driver)

    async def many(self) -> None:
        async with self._attached() as (_, function, guest), guest.drive(function) as driver:
            await asyncio.gather(*(self._exchange(driver) for _ in range(AT_ONCE)))

    async def reset_while_busy(self) -> None:
        async with self._attached() as (_, function, guest):
            async with guest.drive(function) as driver:
                for _ in range(AT_ONCE):
                    driver.queues[0].post([bytes(16)], [64])
                await driver.queues[0].kick(force=True)
            expect("leases after a reset", function.stats().leases, 0)
            async with guest.drive(function) as driver:
                await self._exchange(driver)

    async def queue_reset(self) -> None:
        async with self._attached() as (_, function, guest), guest.drive(function) as driver:
            await self._exchange(driver)
            await driver.reset_queue(0)
            await self._exchange(driver)

    async def serves(self, backend: SimBackend) -> None:
        async with self._attached(backend) as (_, function, guest), guest.drive(function) as driver:
            await self._exchange(driver)

    async def removed(self, *, removable: bool) -> None:
        async with self._attached(SimBackend(removable=removable)) as (host, function, guest):
            driver = guest.driver(function)
            await driver.probe()
            await driver.start()
            await self._exchange(driver)
            expect("the answer of remove()", await host.remove(function), _removal(removable))
            if not removable:
                await driver.queues[0].submit([bytes(16)], [64])  # must come back, with whatever error
            else:
                expect("the state", function.state, State.REMOVED)
                expect("leases after the removal", function.stats().leases, 0)

    async def leaves_nothing(self) -> None:
        async with self._attached() as (host, _, guest):
            before = len(asyncio.all_tasks())
            for _ in range(CYCLES):
                function = await host.add(self._make())
                async with guest.drive(function) as driver:
                    await self._exchange(driver)
                await host.remove(function)
                if function.stats().leases:
                    raise Failed(f"{function.stats().leases} leases of guest memory were left")
            await asyncio.sleep(0)  # the last task ends in the turn after the one that told us
            expect("the number of tasks", len(asyncio.all_tasks()), before)

    async def hostile(self, guest: Hostile, *, packed: bool) -> None:
        async with self._attached() as (host, function, _):
            bystander = await host.add(Echo(), name="bystander")
            await provoke(host, function, bystander, guest, packed=packed, exchange=self._exchange)

    @asynccontextmanager
    async def _attached(self, backend: SimBackend | None = None) -> AsyncIterator[tuple[DeviceHost, Function, Guest]]:
        opening = Opening(DeviceHost(SimBackend() if backend is None else backend, _no_kinds))
        async with opening as host:
            function = await host.add(self._make(), name=self._kind)
            yield host, function, Guest.of(host)


def _removal(removable: bool) -> Removal:
    return Removal.REMOVED if removable else Removal.PARKED


def _no_kinds(kind: str, _: object) -> VirtioDevice:
    raise LookupError(kind)
