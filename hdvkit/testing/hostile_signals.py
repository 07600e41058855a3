"""Hostile guests that kick, and that do as they like with interrupts: H7, H8, H9, and messages of H10."""

import asyncio

from hdvkit.testing.driver_spec import NO_VECTOR
from hdvkit.testing.hostile_guest import NOTIFY, REGISTERS, Answer, Gallery, Intruder, Surprise

KICKS = 5000
KICKS_PER_TURN = 250
MSIX_ENABLE = 1 << 15
MSIX_MASKED = 1 << 14
ENTRY = 16

gallery = Gallery()


# H7: kicks for nobody


async def _doorbells(intruder: Intruder) -> tuple[int, int]:
    """Guest-physical address of the first doorbell, and how far they lie apart."""
    found = await intruder.structure(NOTIFY)
    if found is None:
        raise Surprise("the device has no notification structure")
    return found[0], found[1] // intruder.driver.num_queues


async def _kick(intruder: Intruder, index: int) -> None:
    first, apart = await _doorbells(intruder)
    await intruder.machine.mmio_write(first + apart * index, 2, index)


@gallery.add("H7-kick-for-no-queue", Answer.IGNORED, rings=REGISTERS)
async def kick_for_no_queue(intruder: Intruder) -> None:
    """Kicks for queues the device does not have, negative ones too, at the doorbell of one it has."""
    first, _ = await _doorbells(intruder)
    for value in (intruder.driver.num_queues, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF):
        await intruder.machine.mmio_write(first, 2, value)


@gallery.add("H7-kick-of-odd-width", Answer.IGNORED, rings=REGISTERS)
async def kick_of_odd_width(intruder: Intruder) -> None:
    """Kicks of 1, 3, 4 and 8 bytes."""
    first, _ = await _doorbells(intruder)
    for size in (1, 3, 4, 8):
        await intruder.machine.mmio_write(first, size, 0)


@gallery.add("H7-kick-outside-doorbells", Answer.IGNORED, rings=REGISTERS)
async def kick_outside_doorbells(intruder: Intruder) -> None:
    """Kicks between the doorbells and behind the last."""
    first, apart = await _doorbells(intruder)
    count = intruder.driver.num_queues
    behind = apart * count
    for offset, value in ((1, 0), (2, 0), (behind, 0), (behind, count), (behind + 0x100, 0)):
        await intruder.machine.mmio_write(first + offset, 2, value)


@gallery.add("H7-kick-of-disabled-queue", Answer.IGNORED, rings=REGISTERS)
async def kick_of_disabled_queue(intruder: Intruder) -> None:
    """Kicks for queues that the driver did not enable."""
    await intruder.restart([])
    for index in range(intruder.driver.num_queues):
        await _kick(intruder, index)
    await intruder.settle()


@gallery.add("H7-kick-before-driver-ok", Answer.IGNORED, rings=REGISTERS)
async def kick_before_driver_ok(intruder: Intruder) -> None:
    """Kicks while the driver negotiates."""
    await intruder.driver.probe()
    await _kick(intruder, intruder.target)
    await intruder.driver.start()


@gallery.add("H7-kick-after-reset", Answer.IGNORED, rings=REGISTERS)
async def kick_after_reset(intruder: Intruder) -> None:
    """Kicks of a device that was reset."""
    await intruder.driver.reset()
    await _kick(intruder, intruder.target)
    await intruder.settle()


# H8: kicks for nothing, many


@gallery.add("H8-kick-flood", Answer.SERVED, rings=REGISTERS)
async def kick_flood(intruder: Intruder) -> None:
    """Thousands of kicks without a buffer."""
    await _flood(intruder)


@gallery.add("H8-kick-flood-with-requests", Answer.SERVED, rings=REGISTERS)
async def kick_flood_with_requests(intruder: Intruder) -> None:
    """Thousands of kicks, and now and then a request among them."""
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_flood(intruder))
        for _ in range(4):
            await intruder.polled_request()


async def _flood(intruder: Intruder) -> None:
    for kick in range(KICKS):
        await intruder.machine.mmio_write(intruder.queue.notify_address, 2, intruder.target)
        if not kick % KICKS_PER_TURN:
            await asyncio.sleep(0)


# H9, H10: interrupts


@gallery.add("H9-vector-outside-table", Answer.REFUSED, rings=REGISTERS)
async def vector_outside_table(intruder: Intruder) -> None:
    """Vectors that the MSI-X table does not have, for a queue and for the configuration."""
    at, _ = await intruder.msix()
    vectors = (await intruder.read(at + 2, 2) & 0x7FF) + 1
    await intruder.driver.common_write("queue_select", intruder.target)
    for name in ("queue_msix_vector", "config_msix_vector"):
        for vector in (vectors, vectors + 1, 0x7FF, 0x8000, 0xFFFE):
            await intruder.keeps(name, vector, NO_VECTOR)
    await intruder.polled_request()  # nobody is told, but it is served
    await intruder.restart()


@gallery.add("H9-all-masked", Answer.SERVED, rings=REGISTERS)
async def all_masked(intruder: Intruder) -> None:
    """Requests while the function mask is set: interrupts become pending, and come with the mask's end."""
    at, _ = await intruder.msix()
    heard = intruder.driver.interrupts
    await intruder.write(at + 2, 2, MSIX_ENABLE | MSIX_MASKED)
    for _ in range(3):
        await intruder.polled_request()
    if intruder.driver.interrupts != heard:
        raise Surprise("an interrupt arrived while all of them were masked")
    await intruder.write(at + 2, 2, MSIX_ENABLE)
    if not await intruder.until(lambda: intruder.driver.interrupts > heard):
        raise Surprise("the device needs a reset instead of sending the interrupt that was pending")


@gallery.add("H9-msix-disabled", Answer.SERVED, rings=REGISTERS)
async def msix_disabled(intruder: Intruder) -> None:
    """Requests while MSI-X and the pin are disabled: nobody can be told, and nothing breaks."""
    at, _ = await intruder.msix()
    await intruder.write(at + 2, 2, 0)
    for _ in range(3):
        await intruder.polled_request()
    await intruder.write(at + 2, 2, MSIX_ENABLE)


@gallery.add("H9-vector-changes-in-flight", Answer.SERVED, rings=REGISTERS)
async def vector_changes_in_flight(intruder: Intruder) -> None:
    """A queue's vector changes between kick and answer, to the configuration's, to none, and back."""
    driver = intruder.driver
    await driver.common_write("queue_select", intruder.target)
    own = await driver.common_read("queue_msix_vector")
    for vector in (0, NO_VECTOR, own, 0x7FFF, own):
        request = asyncio.create_task(intruder.polled_request())
        await asyncio.sleep(0)
        await driver.common_write("queue_msix_vector", vector)
        await request


@gallery.add("H9-entry-rewritten-in-flight", Answer.SERVED, rings=REGISTERS)
async def entry_rewritten_in_flight(intruder: Intruder) -> None:
    """Table entries are emptied, masked and filled with nonsense while requests are in flight."""
    _, table = await intruder.msix()
    entry = table + ENTRY * (1 + intruder.target)
    honest = [await intruder.machine.mmio_read(entry + at, 4) for at in range(0, ENTRY, 4)]
    for values in ([0, 0, 0, 0], [0xFFFFFFFF] * 4, [*honest[:3], 1], [0, 0, 0, 0xFFFFFFFE], honest):
        request = asyncio.create_task(intruder.polled_request())
        await asyncio.sleep(0)
        for at, value in enumerate(values):
            await intruder.machine.mmio_write(entry + 4 * at, 4, value)
        await request


@gallery.add("H10-message-into-own-bar", Answer.SERVED, rings=REGISTERS)
async def message_into_own_bar(intruder: Intruder) -> None:
    """The interrupt of a queue is a write to the queue's own doorbell."""
    _, table = await intruder.msix()
    entry = table + ENTRY * (1 + intruder.target)
    doorbell = intruder.queue.notify_address
    for at, value in ((0, doorbell & 0xFFFFFFFF), (4, doorbell >> 32), (8, intruder.target)):
        await intruder.machine.mmio_write(entry + at, 4, value)
    for _ in range(3):
        await intruder.polled_request()
    await intruder.restart()
