"""The host kind ``hdv`` on the double: hosts, and the guest in their machine."""

import asyncio
import contextlib
import itertools
import sys
import uuid
from collections.abc import AsyncIterator, Callable
from types import ModuleType
from typing import Any

import attrs
from double_control import MEMORY_MB, Double, GuestSystem, library
from double_machine import DoubleMachine

import hdvkit
from hdvkit import DeviceHost, Function, Plugins, VirtioDevice
from hdvkit.hosts.hdv.abi.libraries import Libraries
from hdvkit.hosts.hdv.backend import HdvBackend
from hdvkit.testing.driver import VirtioDriver

_numbers = itertools.count(1)


@attrs.define(eq=False)
class DoubleBackend(HdvBackend):
    """``hdv`` as it is, but for where the libraries are; on Windows they are where they always are."""

    guest: DoubleMachine | None = attrs.field(default=None, init=False)

    @staticmethod
    def libraries() -> Libraries:
        """Those of the double."""
        return Libraries.of_windows() if sys.platform == "win32" else Libraries.of_file(library())


def plugins() -> Plugins:
    """All kinds, and ``double``."""
    module = ModuleType("double_plugin")
    module.hdvkit_register_hosts = hdvkit.hookimpl(lambda register: register("double", DoubleBackend))  # type: ignore[attr-defined]
    loaded = Plugins.load()
    loaded.register(module, "double")
    return loaded


@contextlib.asynccontextmanager
async def opened(double: Double, **options: Any) -> AsyncIterator[DeviceHost]:
    """A host for a machine that runs; its guest is ``host.backend.guest``."""
    name, system = machine(double, options.setdefault("memory_mb", MEMORY_MB))
    async with (
        DoubleMachine(system) as guest,
        hdvkit.open_host("double", plugins=plugins(), system=name, **options) as host,
    ):
        assert isinstance(host.backend, DoubleBackend)
        host.backend.guest = guest
        yield host
    system.stop()


def machine(double: Double, memory_mb: int = MEMORY_MB, *, running: bool = True) -> tuple[str, GuestSystem]:
    """A new machine, by a name that says nothing of its runtime id."""
    number = next(_numbers)
    name = f"vm-{number}"
    return name, double.system(name, str(uuid.UUID(int=0x5A3E << 112 | number)), memory_mb=memory_mb, running=running)


def guest_of(host: DeviceHost) -> DoubleMachine:
    """The guest in a host's machine."""
    assert isinstance(host.backend, DoubleBackend)
    assert host.backend.guest is not None
    return host.backend.guest


async def plug(host: DeviceHost, function: Function, **options: Any) -> VirtioDriver:
    """A driver in the guest for a function that was added."""
    guest = guest_of(host)
    return VirtioDriver(guest, await guest.slot(function.place["instance_id"]), **options)


async def started(host: DeviceHost, device: VirtioDevice, **options: Any) -> VirtioDriver:
    """A driver that is up, for a device that is added now."""
    driver = await plug(host, await host.add(device, **options))
    await driver.probe()
    await driver.start()
    return driver


async def until(true: Callable[[], object]) -> None:
    """Wait until something is so. What makes it so is on another thread, so there is nothing to wait on."""
    async with asyncio.timeout(30):
        while not true():  # noqa: ASYNC110 - see above
            await asyncio.sleep(0.001)
