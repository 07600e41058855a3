"""A virtual machine of the double as a guest's half of the tests sees it: a :class:`hdvkit.testing.machine.Machine`.

Registers are reached through the double's vCPU threads, RAM is the double's own, interrupts come to the event loop.
"""

import asyncio
import functools
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

from double_control import HIGH, MIB, GuestSystem

PAGE = 4096
VCPUS = 4

P = ParamSpec("P")
T = TypeVar("T")


class DoubleMachine:
    """The guest in a system of the double. Use ``async with``, or ``aclose``.

    Arguments:
        system: The virtual machine.
        low: RAM is taken from below the 32-bit hole, as little of a real guest's is.
    """

    def __init__(self, system: GuestSystem, *, low: bool = False) -> None:
        self.system = system
        self.lost_interrupts = 0
        """Messages that nobody had taken."""
        self.interrupts = 0
        below, above = system.ram_sizes
        # The first MiB belongs to firmware, and a ring at address 0 to a driver that forgot to set it.
        self._free = [(MIB, below - MIB)] if low or not above else [(HIGH, above)]
        self._taken: dict[int, int] = {}
        self._handlers: dict[tuple[int, int], Callable[[], None]] = {}
        self._vcpus = ThreadPoolExecutor(VCPUS, "guest")
        self._loop = asyncio.get_running_loop()
        system.on_interrupt(self._deliver)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Hear no more interrupts and wait for accesses that are on their way."""
        self.system.on_interrupt(None)
        await asyncio.to_thread(self._vcpus.shutdown)

    async def slot(self, instance_id: str) -> int:
        """The slot of a device; raises LookupError when the guest sees none."""
        number = self.system.slot(instance_id)
        if number is None:
            raise LookupError(f"the guest sees no device {instance_id}")
        return number

    # -- registers --------------------------------------------------------------------------------

    async def config_read(self, slot: int, offset: int, size: int) -> int:
        """Read configuration space; all ones where no device is."""
        return await self._on_vcpu(self.system.config_read, slot, offset, size)

    async def config_write(self, slot: int, offset: int, size: int, value: int) -> None:
        """Write configuration space."""
        await self._on_vcpu(self.system.config_write, slot, offset, size, value)

    async def mmio_read(self, address: int, size: int) -> int:
        """Read where some BAR decodes; all ones where none does."""
        return await self._on_vcpu(self.system.mmio_read, address, size)

    async def mmio_write(self, address: int, size: int, value: int) -> None:
        """Write where some BAR decodes."""
        await self._on_vcpu(self.system.mmio_write, address, size, value)

    # -- memory and interrupts --------------------------------------------------------------------

    def ram(self, address: int, size: int) -> memoryview:
        """Guest RAM; raises ValueError where there is none."""
        return self.system.ram(address, size)

    @property
    def allocated(self) -> int:
        """Bytes that are taken."""
        return sum(self._taken.values())

    def allocate(self, size: int, align: int = PAGE) -> int:
        """Take zeroed RAM, whole pages; raises MemoryError when there is none."""
        length = math.ceil(size / PAGE) * PAGE
        for at, (start, room) in enumerate(self._free):
            address = -(-start // align) * align
            left = start + room - address - length
            if left >= 0:
                pieces = [(start, address - start), (address + length, left)]
                self._free[at : at + 1] = [piece for piece in pieces if piece[1]]
                self._taken[address] = length
                self.ram(address, length)[:] = bytes(length)
                return address
        raise MemoryError(f"the guest has no {size} bytes of RAM left; give its system more memory_mb")

    def free(self, address: int) -> None:
        """Give back what ``allocate`` returned."""
        merged: list[tuple[int, int]] = []
        for start, room in sorted([*self._free, (address, self._taken.pop(address))]):
            if merged and sum(merged[-1]) == start:
                merged[-1] = (merged[-1][0], merged[-1][1] + room)
            else:
                merged.append((start, room))
        self._free = merged

    def allocate_bar(self, size: int) -> int:
        """Take a window for a BAR, high up."""
        return self.system.allocate_bar(size)

    def allocate_msi(self, handler: Callable[[], None]) -> tuple[int, int]:
        """Take a message; the handler runs on the event loop."""
        message = self.system.allocate_msi()
        self._handlers[message] = handler
        return message

    def _deliver(self, address: int, data: int) -> None:
        # On a thread of the device's: a loop that has closed has no guest any more.
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._delivered, address, data)

    def _delivered(self, address: int, data: int) -> None:
        handler = self._handlers.get((address, data))
        self.interrupts += 1
        if handler is None:
            self.lost_interrupts += 1
        else:
            handler()

    async def _on_vcpu(self, access: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._loop.run_in_executor(self._vcpus, functools.partial(access, *args, **kwargs))
