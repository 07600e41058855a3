"""A guest for tests: brings drivers up on the functions of a simulated machine, and mounts shares."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypedDict, Unpack

from hdvkit.errors import UsageError
from hdvkit.runtime import DeviceHost, Function
from hdvkit.testing.backend import SimBackend, SimMachine
from hdvkit.testing.driver import VirtioDriver
from hdvkit.testing.fuse_client import FuseClient
from hdvkit.testing.machine import Machine
from hdvkit.testing.mount import GuestMount

LINUX_MAX_PAGES = 256
HEADER_DESCRIPTORS = 4
"""A chain is no longer than its queue, and Linux counts these beside the pages."""


class DriverOptions(TypedDict, total=False):
    """What the driver accepts of what is offered, and how it sets itself up; see :class:`VirtioDriver`."""

    packed: bool
    event_idx: bool
    indirect: bool
    notification_data: bool
    ring_reset: bool
    access_platform: bool
    queue_size: int | None
    device_features: int


class Guest:
    """The software inside a machine, as far as devices are concerned."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    @classmethod
    def of(cls, host: DeviceHost) -> "Guest":
        """The guest in the machine of a ``sim`` host.

        Raises:
            UsageError: The host is of another kind: its guest is a real one.
        """
        return cls(machine_of(host))

    def driver(self, function: Function, **options: Unpack[DriverOptions]) -> VirtioDriver:
        """A driver for a function; call ``probe`` and ``start`` yourself."""
        slot = slot_of(function)
        driver = VirtioDriver(self.machine, slot, **options)
        if isinstance(self.machine, SimMachine):
            self.machine.on_unplug[slot] = driver.removed
        return driver

    @asynccontextmanager
    async def drive(self, function: Function, **options: Unpack[DriverOptions]) -> AsyncIterator[VirtioDriver]:
        """A driver that is up; the device is reset at the end."""
        driver = self.driver(function, **options)
        await driver.probe()
        await driver.start()
        try:
            yield driver
        finally:
            await driver.reset()

    @asynccontextmanager
    async def mount(
        self, share: Function, *, minor: int = 38, **options: Unpack[DriverOptions]
    ) -> AsyncIterator[GuestMount]:
        """Mount a virtio-fs share; it is unmounted at the end."""
        async with self.drive(share, **options) as driver:
            hiprio, *requests = driver.queues
            pages = min(LINUX_MAX_PAGES, requests[0].size - HEADER_DESCRIPTORS)
            async with GuestMount(FuseClient(requests, hiprio, minor=minor, max_pages=pages)) as mount:
                yield mount
                if share.state.over:
                    mount.lost()


def machine_of(host: DeviceHost) -> SimMachine:
    """The simulated machine behind a host.

    Raises:
        UsageError: The host is not of kind ``sim``.
    """
    if not isinstance(host.backend, SimBackend):
        raise UsageError('this host has a real guest; only open_host("sim") has a machine to look into')
    return host.backend.machine


def slot_of(function: Function) -> int:
    """The slot of a function in a simulated machine."""
    return int(function.place["slot"])
