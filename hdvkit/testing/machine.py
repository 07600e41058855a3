"""What a guest sees of its machine: PCI slots, memory-mapped registers, RAM, message interrupts.

The border between the guest half of the tests (driver, FUSE client, hostile guests) and whatever carries them:
the simulated machine here, or a client of a device protocol elsewhere. Imports nothing of hdvkit.
"""

from collections.abc import Callable
from typing import Protocol


class Machine(Protocol):
    """One virtual machine, seen from the inside.

    Register accesses are coroutines, since a machine may carry them over a socket; RAM is plain memory.
    """

    async def config_read(self, slot: int, offset: int, size: int) -> int:
        """Read 1, 2 or 4 bytes of the configuration space of the function in ``slot``; all ones when empty."""
        ...

    async def config_write(self, slot: int, offset: int, size: int, value: int) -> None:
        """Write 1, 2 or 4 bytes of configuration space."""
        ...

    async def mmio_read(self, address: int, size: int) -> int:
        """Read 1, 2, 4 or 8 bytes at a guest-physical address that some function's BAR decodes."""
        ...

    async def mmio_write(self, address: int, size: int, value: int) -> None:
        """Write 1, 2, 4 or 8 bytes at a guest-physical address that some function's BAR decodes."""
        ...

    def ram(self, address: int, size: int) -> memoryview:
        """Guest RAM as writable bytes; raises ValueError where there is none."""
        ...

    def allocate(self, size: int, align: int = 4096) -> int:
        """Take zeroed RAM and return its guest-physical address."""
        ...

    def free(self, address: int) -> None:
        """Give back what ``allocate`` returned."""
        ...

    def allocate_bar(self, size: int) -> int:
        """Take a window for a BAR, naturally aligned, outside RAM."""
        ...

    def allocate_msi(self, handler: Callable[[], None]) -> tuple[int, int]:
        """Take a message (address, data); ``handler`` runs on the event loop each time it is delivered."""
        ...
