"""What the tests of the vfio-user server share: short-lived directories, open hosts, machines, counted descriptors."""

import asyncio
import contextlib
import os
import tempfile
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self, TypedDict

import attrs
from vfio_user_client import LIMIT, Disconnected, Refused
from vfio_user_machine import VfioUserMachine

import hdvkit
from hdvkit import DeviceHost, Function, VirtioDevice
from hdvkit.testing import VirtioDriver
from hdvkit.testing.echo import Echo

COMMAND, MEMORY_AND_MASTER = 0x04, 0x0006
ISR_QUEUE, ISR_CONFIG = 1, 2


class MachineOptions(TypedDict, total=False):
    """What a machine can be told; see :class:`VfioUserMachine`."""

    size: int
    no_fds: bool
    remote: Collection[int]
    ioeventfds: bool
    posted: bool
    max_transfer: int


@contextmanager
def socket_directory() -> Iterator[Path]:
    """A directory with a path short enough for sockets, which a test's own is not always."""
    with tempfile.TemporaryDirectory(prefix="vfu") as directory:
        yield Path(directory)


def count_fds() -> int:
    """How many descriptors this process has."""
    return len(list(Path("/proc/self/fd").iterdir()))


@contextmanager
def no_fds_lost() -> Iterator[None]:
    """Whatever happens inside, this process has as many descriptors afterwards."""
    before = count_fds()
    yield
    assert count_fds() == before


@contextmanager
def descriptors(count: int) -> Iterator[list[int]]:
    """Eventfds to send."""
    fds = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(count)]
    yield fds
    for fd in fds:
        os.close(fd)


@attrs.frozen
class Served:
    """A device on a host of its own."""

    host: DeviceHost
    function: Function

    @property
    def path(self) -> Path:
        """Where its machine connects."""
        return Path(self.function.place["socket"])


@asynccontextmanager
async def served(device: VirtioDevice | None = None, *, msix: bool = True) -> AsyncIterator[Served]:
    """Serve a device, by default the echo."""
    with socket_directory() as directory:
        async with hdvkit.open_host("vfio-user", directory=directory, msix=msix) as host:
            yield Served(host, await host.add(device or Echo()))


async def succeed(machine: VfioUserMachine, path: Path) -> int:
    """Plug a device in as soon as the server has noticed that the machine before has left."""
    async with asyncio.timeout(LIMIT):
        while True:
            with contextlib.suppress(Disconnected, Refused):
                return await machine.plug(path)


@asynccontextmanager
async def driven(
    machine: VfioUserMachine,
    path: Path,
    kind: type[VirtioDriver] = VirtioDriver,
    *,
    packed: bool = False,
    indirect: bool = True,
    notification_data: bool = False,
    succeeding: bool = False,
) -> AsyncIterator[VirtioDriver]:
    """The device behind a socket with its driver up; the device is reset at the end.

    With ``succeeding`` another machine has just left, and the server may not have noticed.
    """
    slot = await (succeed(machine, path) if succeeding else machine.plug(path))
    driver = kind(machine, slot, packed=packed, indirect=indirect, notification_data=notification_data)
    machine.on_unplug[slot] = driver.removed
    await driver.probe()
    await driver.start()
    try:
        yield driver
    finally:
        await driver.reset()


async def works(server: Served, *, no_fds: bool = False) -> None:
    """The device answers requests of a whole machine."""
    async with VfioUserMachine(no_fds=no_fds) as machine, driven(machine, server.path, succeeding=True) as driver:
        reply = await driver.queues[0].submit([b"still here"], [10])
        assert reply.data == b"still here"
    assert machine.faults == []


class IntxDriver(VirtioDriver):
    """A driver that uses the interrupt pin of a function, as Linux does where MSI-X is missing."""

    async def _assign_vectors(self) -> None:
        machine = self._machine
        assert isinstance(machine, VfioUserMachine)
        await machine.config_write(self._slot, COMMAND, 2, MEMORY_AND_MASTER)  # INTx not disabled
        machine.slots[self._slot].pin.handler = self._line_rose

    def _line_rose(self) -> None:
        task = asyncio.ensure_future(self._look())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _look(self) -> None:
        cause = await self.isr_read()
        if cause & ISR_QUEUE:
            for queue in self.queues:
                queue.interrupted()
        if cause & ISR_CONFIG:
            await self._config_interrupt()


class Machines:
    """A machine for each host that devices are plugged from, one at a time, as ``check_backend`` opens hosts."""

    def __init__(self, options: MachineOptions) -> None:
        self.faults: list[str] = []
        """Of all machines together."""
        self.rings = 0
        """Kicks that went through descriptors."""
        self.commands = 0
        """What servers asked machines for."""
        self._options = options
        self._host: DeviceHost | None = None
        self._machine: VfioUserMachine | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._retire()

    async def plug(self, host: DeviceHost, function: Function) -> VirtioDriver:
        """Bring a driver to a function: the ``plug`` of ``check_backend``."""
        if self._machine is None or self._host is not host:
            await self._retire()
            self._host, self._machine = host, VfioUserMachine(**self._options)
        slot = await self._machine.plug(function.place["socket"])
        driver = VirtioDriver(self._machine, slot)
        self._machine.on_unplug[slot] = driver.removed
        return driver

    async def _retire(self) -> None:
        machine, self._machine, self._host = self._machine, None, None
        if machine is not None:
            await machine.aclose()
            self.faults += machine.faults
            self.rings += machine.rings
            self.commands += machine.commands
