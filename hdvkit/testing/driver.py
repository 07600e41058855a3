"""The driver of one virtio PCI function, as a Linux guest drives it: features, status, queues, interrupts.

Written from the VIRTIO 1.3 specification alone. It imports nothing of the device half, which it is meant to
prove; it sees the device through a `Machine` only.
"""

import asyncio
from collections.abc import Callable, Iterable
from functools import partial

from hdvkit.testing.driver_packed import PackedQueue
from hdvkit.testing.driver_pci import RegionKind
from hdvkit.testing.driver_registers import DriverRegisters
from hdvkit.testing.driver_rings import DriverError, DriverQueue, Reply, Token
from hdvkit.testing.driver_spec import NO_VECTOR, QUEUE_SIZE_MAX, Feature, Status
from hdvkit.testing.driver_split import SplitQueue
from hdvkit.testing.machine import Machine

__all__ = ["DriverError", "DriverQueue", "Feature", "Reply", "Status", "Token", "VirtioDriver"]


FEATURE_WORDS = 4  # 64 bits are defined today; words above must read as 0 or as bits nobody accepts


GONE = 0xFF
"""What device_status reads where no device is any more."""


class VirtioDriver(DriverRegisters):
    """One driver bound to the function in ``slot``. `probe`, `start`, use ``queues``, `reset`; then again.

    The flags name the features to accept if offered; VIRTIO_F_VERSION_1 is always demanded.
    ``device_features`` are bits of the device type. ``queue_size`` shrinks queues that are larger.
    """

    def __init__(
        self,
        machine: Machine,
        slot: int,
        *,
        packed: bool = False,
        event_idx: bool = True,
        indirect: bool = True,
        notification_data: bool = False,
        ring_reset: bool = True,
        access_platform: bool = True,
        queue_size: int | None = None,
        device_features: int = 0,
    ) -> None:
        super().__init__(machine, slot)
        wishes = {
            Feature.RING_PACKED: packed,
            Feature.EVENT_IDX: event_idx,
            Feature.INDIRECT_DESC: indirect,
            Feature.NOTIFICATION_DATA: notification_data,
            Feature.RING_RESET: ring_reset,
            Feature.ACCESS_PLATFORM: access_platform,
        }
        self.offered = 0
        self.features = 0
        self.num_queues = 0
        self.queues: list[DriverQueue] = []
        """All queues of the device by index, from `probe` on; those not started refuse submissions."""
        self.interrupts = 0
        self.on_config_change: Callable[[], None] | None = None
        accepted = sum(int(bit) for bit, wish in wishes.items() if wish)
        self._acceptable = int(accepted | Feature.VERSION_1 | device_features)
        self._size_wish = queue_size
        self._messages: list[tuple[int, int]] = []
        self._vectors = 0
        self._served: dict[int, list[DriverQueue]] = {}
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    # -- life -----------------------------------------------------------------------------------

    async def probe(self) -> None:
        """Find the structures, reset, negotiate features, set up vectors; next `start`.

        Raises:
            DriverError: The device breaks a rule or refuses; it is then left with FAILED.
        """
        await self._function.discover()
        await self.reset()
        await self.common_write("device_status", Status.ACKNOWLEDGE)
        await self._add_status(Status.DRIVER)
        try:
            await self._negotiate()
            await self._make_queues()
            await self._assign_vectors()
        except DriverError:
            await self._add_status(Status.FAILED)
            raise

    async def start(self, queues: Iterable[int] | None = None) -> None:
        """Enable all queues the device has, or those of the given indices, then set DRIVER_OK.

        Raises:
            DriverError: `probe` did not come first, a queue does not exist, or the device refuses a value.
        """
        status = await self.status()
        if not status & Status.FEATURES_OK or status & (Status.DRIVER_OK | Status.FAILED):
            raise DriverError(f"slot {self._slot}: status is {status:#x}, probe comes before start")
        try:
            async with self._select:
                indices = await self._existing() if queues is None else sorted(set(queues))
                for index in indices:
                    await self._open_queue(index)
                for index in indices:
                    await self._enable_queue(index)
        except DriverError:
            await self._add_status(Status.FAILED)
            raise
        await self._add_status(Status.DRIVER_OK)
        for index in indices:
            self.queues[index].begin()

    async def reset(self) -> None:
        """Write status 0 and wait until it reads 0, then free the rings; pending submissions fail."""
        reason = f"slot {self._slot}: the driver reset the device"
        for queue in self.queues:
            queue.fail(reason)
        if await self.status() != GONE:
            await self.common_write("device_status", 0)
            await self._poll_zero("device_status")
        for task in self._tasks:
            task.cancel()
        for queue in self.queues:
            queue.close(reason)
        self._changed.clear()

    def removed(self) -> None:
        """The device was pulled out while in use: what waits for it fails, as after Linux's surprise removal."""
        for queue in self.queues:
            queue.fail(f"slot {self._slot}: the device was removed")

    async def reset_queue(self, index: int) -> None:
        """Reset one queue and enable it on fresh rings, "Virtqueue Reset"; its pending submissions fail.

        Raises:
            DriverError: VIRTIO_F_RING_RESET is not negotiated, or the device does not let go.
        """
        if not self.features & Feature.RING_RESET:
            raise DriverError(f"slot {self._slot}: VIRTIO_F_RING_RESET is not negotiated")
        queue = self.queues[index]
        status = await self.status()
        if not queue.size or status & Status.NEEDS_RESET:
            raise DriverError(f"queue {index} is not started, or the device failed: status is {status:#x}")
        reason = f"queue {index} was reset by the driver"
        queue.fail(reason)
        async with self._select:
            await self.common_write("queue_select", index)
            await self.common_write("queue_reset", 1)
            await self._poll_zero("queue_reset")
            if enabled := await self.common_read("queue_enable"):
                raise DriverError(f"queue {index}: queue_enable is {enabled} after its reset")
            queue.close(reason)
            await self._open_queue(index)
            await self._assign("queue_msix_vector", self._vector(index))
            await self._enable_queue(index)
        queue.begin()

    # -- configuration --------------------------------------------------------------------------

    async def config_changed(self) -> None:
        """Wait for a configuration interrupt that no earlier call has consumed."""
        await self._changed.wait()
        self._changed.clear()

    # -- negotiation ----------------------------------------------------------------------------

    async def _negotiate(self) -> None:
        """Steps 4 to 6 of "Driver Requirements: Device Initialization"."""
        self.offered = 0
        for word in range(FEATURE_WORDS):
            await self.common_write("device_feature_select", word)
            self.offered |= await self.common_read("device_feature") << 32 * word
        if not self.offered & Feature.VERSION_1:
            raise DriverError(f"slot {self._slot}: {self.offered:#x} lacks VIRTIO_F_VERSION_1")
        self.features = self.offered & self._acceptable & 0xFFFFFFFF_FFFFFFFF
        for word in range(2):
            await self.common_write("driver_feature_select", word)
            await self.common_write("driver_feature", self.features >> 32 * word & 0xFFFFFFFF)
        await self._add_status(Status.FEATURES_OK)
        if not await self.status() & Status.FEATURES_OK:
            raise DriverError(
                f"slot {self._slot}: the device refuses {self.features:#x} of {self.offered:#x} (FEATURES_OK)"
            )

    async def _make_queues(self) -> None:
        self.num_queues = await self.common_read("num_queues")
        kind = PackedQueue if self.features & Feature.RING_PACKED else SplitQueue
        self.queues = [
            kind(
                self._machine,
                index,
                event_idx=bool(self.features & Feature.EVENT_IDX),
                indirect=bool(self.features & Feature.INDIRECT_DESC),
                notification_data=bool(self.features & Feature.NOTIFICATION_DATA),
            )
            for index in range(self.num_queues)
        ]

    # -- interrupts -----------------------------------------------------------------------------

    async def _assign_vectors(self) -> None:
        """Vector 0 for the configuration, one per queue; one for all queues when the table is short."""
        self._vectors = min(1 + self.num_queues, self._function.vectors)
        if self._vectors < 1 + self.num_queues:
            self._vectors = min(2, self._vectors)
        for vector in range(len(self._messages), self._vectors):
            self._messages.append(self._machine.allocate_msi(partial(self._interrupt, vector)))
        await self._function.program_vectors(self._messages[: self._vectors])
        await self._assign("config_msix_vector", 0)
        async with self._select:
            for index in await self._existing():
                await self.common_write("queue_select", index)
                await self._assign("queue_msix_vector", self._vector(index))
        self._served = {vector: [] for vector in range(self._vectors)}
        for queue in self.queues:
            self._served[self._vector(queue.index)].append(queue)

    async def _assign(self, name: str, vector: int) -> None:
        await self.common_write(name, vector)
        found = await self.common_read(name)
        if found != vector:
            why = "the device has no room for it" if found == NO_VECTOR else f"it reads back {found}"
            raise DriverError(f"slot {self._slot}: {name} {vector} refused, {why}")

    def _vector(self, index: int) -> int:
        return 1 + index if self._vectors == 1 + self.num_queues else self._vectors - 1

    def _interrupt(self, vector: int) -> None:
        """Receive one message; runs on the event loop."""
        self.interrupts += 1
        for queue in self._served.get(vector, ()):
            queue.interrupted()
        if vector == 0:
            task = asyncio.get_running_loop().create_task(self._config_interrupt())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _config_interrupt(self) -> None:
        status = await self.status()
        if status & Status.NEEDS_RESET:
            for queue in self.queues:
                queue.collect()  # what was returned before the failure counts
                queue.fail(f"slot {self._slot}: the device status is {status:#x}, NEEDS_RESET")
        self._changed.set()
        if self.on_config_change is not None:
            self.on_config_change()

    # -- queues ---------------------------------------------------------------------------------

    async def _existing(self) -> list[int]:
        """Indices of the queues whose size is not 0."""
        return [queue.index for queue in self.queues if await self._queue_size(queue.index)]

    async def _queue_size(self, index: int) -> int:
        """Select a queue and read its size."""
        await self.common_write("queue_select", index)
        return await self.common_read("queue_size")

    async def _open_queue(self, index: int) -> None:
        """Give a queue its rings and the device their addresses."""
        if not 0 <= index < self.num_queues:
            raise DriverError(f"slot {self._slot}: no queue {index}, num_queues is {self.num_queues}")
        queue = self.queues[index]
        offered = await self._queue_size(index)
        if enabled := await self.common_read("queue_enable"):
            raise DriverError(f"queue {index}: queue_enable is {enabled} before the driver enabled it")
        size = self._choose_size(index, offered)
        await self.common_write("queue_size", size)
        if (found := await self.common_read("queue_size")) != size:
            raise DriverError(f"queue {index}: queue_size {size} reads back {found}")
        queue.notify_address = await self._notify_address(index)
        queue.open(size)
        await self.common_write("queue_desc", queue.desc_address)
        await self.common_write("queue_driver", queue.driver_address)
        await self.common_write("queue_device", queue.device_address)

    def _choose_size(self, index: int, offered: int) -> int:
        size = min(offered, self._size_wish or offered)
        # "Split Virtqueues": a power of two; "Packed Virtqueues" leaves it free.
        uneven = (size & (size - 1) or offered & (offered - 1)) and not self.features & Feature.RING_PACKED
        if not 0 < offered <= QUEUE_SIZE_MAX or uneven:
            raise DriverError(f"queue {index}: queue_size is {offered}, a ring of {size} is not possible")
        return size

    async def _notify_address(self, index: int) -> int:
        region = self._region(RegionKind.NOTIFY)
        offset = await self.common_read("queue_notify_off") * region.multiplier
        width = 4 if self.features & Feature.NOTIFICATION_DATA else 2
        if offset + width > region.length or (region.address + offset) % width:
            raise DriverError(
                f"queue {index}: notification of {width} bytes at {offset:#x}, structure has {region.length}"
            )
        return region.address + offset

    async def _enable_queue(self, index: int) -> None:
        await self.common_write("queue_select", index)
        await self.common_write("queue_enable", 1)
