"""Hostile guests whose queues have sizes and places that cannot be: H3, H4."""

from collections.abc import Callable
from itertools import product

from hdvkit.testing.driver import Status, VirtioDriver
from hdvkit.testing.hostile_guest import (
    ABOVE_RAM,
    ADDRESS_SPACE,
    AREAS,
    BOTH,
    MSI_WINDOW,
    PACKED,
    PAGE,
    SPLIT,
    Answer,
    Gallery,
    Hostile,
    Intruder,
)

gallery = Gallery()


# H3: queue sizes


async def _size_is_refused(intruder: Intruder, *sizes: int) -> None:
    await intruder.driver.probe()
    await intruder.driver.common_write("queue_select", intruder.target)
    offered = await intruder.driver.common_read("queue_size")
    for size in sizes:
        await intruder.keeps("queue_size", size, offered)
    await intruder.driver.start()


@gallery.add("H3-size-0", Answer.REFUSED)
async def size_0(intruder: Intruder) -> None:
    """A queue size of 0."""
    await _size_is_refused(intruder, 0)


@gallery.add("H3-size-above-the-largest", Answer.REFUSED)
async def size_above_the_largest(intruder: Intruder) -> None:
    """Queue sizes above what the device offers."""
    offered = intruder.queue.size
    await _size_is_refused(intruder, offered * 2, 0x8000 if offered < 0x8000 else 0xC000, 0xFFFF)


@gallery.add("H3-size-no-power-of-two", Answer.REFUSED, rings=SPLIT)
async def size_no_power_of_two(intruder: Intruder) -> None:
    """Sizes of a split ring that are no power of two."""
    await _size_is_refused(intruder, 3, intruder.queue.size - 1)


@gallery.add("H3-size-of-3", Answer.SERVED, rings=PACKED)
async def size_of_3(intruder: Intruder) -> None:
    """A packed ring of 3 places, which is legal, used for some laps."""
    odd = VirtioDriver(intruder.machine, intruder.slot, packed=True, queue_size=3)
    await odd.probe()
    await odd.start()
    for _ in range(10):
        await odd.queues[intruder.target].submit([bytes(16)], [64])
    await odd.reset()
    await intruder.restart()


@gallery.add("H3-size-while-enabled", Answer.REFUSED)
async def size_while_enabled(intruder: Intruder) -> None:
    """The size of a queue that is in use changes."""
    await intruder.driver.common_write("queue_select", intruder.target)
    for size in (intruder.queue.size // 2, 1, 0):
        await intruder.keeps("queue_size", size, intruder.queue.size)


# H4: places of rings


def _sizes(packed: bool, size: int) -> tuple[int, int, int]:
    return (16 * size, 4, 4) if packed else (16 * size, 6 + 2 * size, 6 + 8 * size)


async def _misplace(intruder: Intruder, place: Callable[[list[int], tuple[int, int, int]], list[int]]) -> None:
    """Bring the driver up to the point where queues are enabled, and enable one whose areas are misplaced."""
    await intruder.driver.probe()
    await intruder.driver.common_write("queue_select", intruder.target)
    sizes = _sizes(intruder.packed, await intruder.driver.common_read("queue_size"))
    await intruder.enable(place([intruder.buffer(size) for size in sizes], sizes))
    await intruder.until_broken()


Wrong = Callable[[Intruder, int, int], int]
"""Where to put an area, from a good address and its alignment."""

WRONG: dict[str, tuple[str, Wrong]] = {
    "unaligned": ("is not aligned", lambda intruder, good, align: good + 1),
    "in-own-bar": ("lies in the device's own registers", lambda intruder, good, align: intruder.driver.bars[0][0]),
    "in-msi-window": ("lies where interrupts go", lambda intruder, good, align: MSI_WINDOW),
    "above-ram": ("lies where no RAM is", lambda intruder, good, align: ABOVE_RAM),
    "across-end-of-ram": ("ends outside RAM", lambda intruder, good, align: intruder.end_of_ram() - align),
    "wraps": ("wraps around the address space", lambda intruder, good, align: ADDRESS_SPACE - align),
}
TOO_SMALL = {"across-end-of-ram", "wraps"}
"""What cannot be done to the event structures of a packed ring: they are as long as they are aligned."""


def _misplaced(area: int, wrong: str) -> Hostile:
    what = ("descriptor", "driver", "device")[area]
    predicate, where = WRONG[wrong]

    async def attack(intruder: Intruder) -> None:
        def place(areas: list[int], _: object) -> list[int]:
            areas[area] = where(intruder, areas[area], (16, 2, 4)[area])
            return areas

        await _misplace(intruder, place)

    return Hostile(
        f"H4-{what}-area-{wrong}",
        f"The {what} area of a queue {predicate}.",
        Answer.NEEDS_RESET,
        attack,
        rings=SPLIT if area and wrong in TOO_SMALL else BOTH,
        reason="not aligned" if wrong == "unaligned" else "cannot be enabled",
    )


gallery.hang(*(_misplaced(area, wrong) for area, wrong in product(range(3), WRONG)))


@gallery.add("H4-areas-never-set", Answer.NEEDS_RESET, reason="overlap")
async def areas_never_set(intruder: Intruder) -> None:
    """A queue is enabled whose areas all lie at address 0."""
    await _misplace(intruder, lambda areas, sizes: [0, 0, 0])


@gallery.add("H4-driver-area-over-descriptors", Answer.NEEDS_RESET, reason="overlap")
async def driver_area_over_descriptors(intruder: Intruder) -> None:
    """The driver area begins where the descriptors do."""
    await _misplace(intruder, lambda areas, sizes: [areas[0], areas[0], areas[2]])


@gallery.add("H4-device-area-over-descriptors", Answer.NEEDS_RESET, reason="overlap")
async def device_area_over_descriptors(intruder: Intruder) -> None:
    """The device area begins before the descriptors end."""
    await _misplace(intruder, lambda areas, sizes: [areas[0], areas[1], areas[0] + sizes[0] - 4])


@gallery.add("H4-device-area-over-driver-area", Answer.NEEDS_RESET, reason="overlap")
async def device_area_over_driver_area(intruder: Intruder) -> None:
    """Driver and device area are the same."""
    await _misplace(intruder, lambda areas, sizes: [areas[0], areas[1], areas[1]])


@gallery.add("H4-goes-on-without-a-ring", Answer.NEEDS_RESET, reason="cannot be enabled")
async def goes_on_without_a_ring(intruder: Intruder) -> None:
    """The driver sets DRIVER_OK and kicks, though the device could not take the ring."""
    await _misplace(intruder, lambda areas, sizes: [ABOVE_RAM, areas[1], areas[2]])
    await intruder.driver.common_write("device_status", await intruder.driver.status() | Status.DRIVER_OK)
    await intruder.until_broken()


@gallery.add("H4-moved-while-enabled", Answer.REFUSED)
async def moved_while_enabled(intruder: Intruder) -> None:
    """The areas of a queue that is in use are given other addresses."""
    queue = intruder.queue
    await intruder.driver.common_write("queue_select", intruder.target)
    addresses = (queue.desc_address, queue.driver_address, queue.device_address)
    for name, address in zip(AREAS, addresses, strict=True):
        for value in (0, ABOVE_RAM, address + PAGE):
            await intruder.keeps(name, value, address)
