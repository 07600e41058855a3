"""Hostile guests at the registers of a function that is up: H1, H2, H11."""

from hdvkit.testing.driver import Status
from hdvkit.testing.driver_spec import COMMON as FIELDS
from hdvkit.testing.hostile_guest import DEVICE, ISR, NOTIFY, REGISTERS, Answer, Gallery, Intruder, Surprise

ODD_SIZES = (3, 5, 6, 7)
READ_ONLY = (0x00, 0x02, 0x06, 0x08, 0x0A, 0x0E, 0x2C, 0x2E, 0x34, 0x3D)
"""Ids, status, class, header type, subsystem, capabilities pointer, interrupt pin."""
ENTRY = 16
QUEUE_FIELDS = tuple(name for name in FIELDS if name.startswith("queue_") and name != "queue_select")

gallery = Gallery()


# H1: accesses of a size or place that nobody uses


async def _config_is_dead(intruder: Intruder, offset: int, size: int) -> None:
    await intruder.write(offset, size, (1 << 8 * size) - 1)
    if found := await intruder.read(offset, size):
        raise Surprise(f"{size} bytes of configuration space at {offset:#x} read {found:#x}")


async def _mmio_is_dead(intruder: Intruder, address: int, size: int) -> None:
    await intruder.machine.mmio_write(address, size, (1 << 8 * size) - 1)
    if found := await intruder.machine.mmio_read(address, size):
        raise Surprise(f"{size} bytes of a BAR at {address:#x} read {found:#x}")


@gallery.add("H1-config-odd-width", Answer.IGNORED, rings=REGISTERS)
async def config_odd_width(intruder: Intruder) -> None:
    """Accesses to configuration space of 3, 5, 6, 7, 8 and 16 bytes."""
    for size in (*ODD_SIZES, 8, 16):
        await _config_is_dead(intruder, 0x10, size)


@gallery.add("H1-config-crossing-fields", Answer.IGNORED, rings=REGISTERS)
async def config_crossing_fields(intruder: Intruder) -> None:
    """Accesses to configuration space that are not aligned."""
    for offset, size in ((0x01, 2), (0x02, 4), (0x05, 4), (0x0F, 2), (0x33, 4), (0xFF, 2), (0xFD, 4)):
        await _config_is_dead(intruder, offset, size)


@gallery.add("H1-config-out-of-range", Answer.IGNORED, rings=REGISTERS)
async def config_out_of_range(intruder: Intruder) -> None:
    """Accesses behind the end of configuration space, and across it."""
    for offset, size in ((0xFFE, 4), (0xFFF, 2), (0x1000, 4), (0x1000, 1), (0xFFFF, 1), (0x7FFFFFFC, 4)):
        await _config_is_dead(intruder, offset, size)


@gallery.add("H1-config-read-only", Answer.REFUSED, rings=REGISTERS)
async def config_read_only(intruder: Intruder) -> None:
    """Writes to fields of the header, and to capabilities, that are read-only."""
    places = [*READ_ONLY]
    at = await intruder.read(0x34, 1)
    for _ in range(48):
        places.append(at)  # its id and the link to the next
        at = await intruder.read(at + 1, 1)
        if not at:
            break
    for offset in places:
        size = 2 if offset % 2 == 0 else 1
        before = await intruder.read(offset, size)
        for value in (0, (1 << 8 * size) - 1):
            await intruder.write(offset, size, value)
            if (after := await intruder.read(offset, size)) != before:
                raise Surprise(f"configuration space at {offset:#x} went from {before:#x} to {after:#x}")


@gallery.add("H1-config-access-window", Answer.IGNORED, rings=REGISTERS)
async def config_access_window(intruder: Intruder) -> None:
    """The configuration access capability aimed at BARs, offsets and lengths that are not."""
    at = await intruder.capability(0x09, 5)
    if at is None:
        raise Surprise("the device has no configuration access capability")
    for bar, offset, length in (
        (0, 0, 0),
        (0, 0, 3),
        (0, 0, 8),
        (0, 0, 0xFFFFFFFF),
        (0, 0xFFFFFFFF, 1),
        (0, 0xFFFFFFFC, 4),
        (0, 0x3FFE, 4),
        (1, 0, 4),
        (2, 0xFFFFFFF8, 4),
        (6, 0, 4),
        (0xFF, 0, 4),
    ):
        await intruder.write(at + 4, 1, bar)
        await intruder.write(at + 8, 4, offset)
        await intruder.write(at + 12, 4, length)
        await intruder.write(at + 16, 4, 0xFFFFFFFF)
        if found := await intruder.read(at + 16, 4):
            raise Surprise(f"BAR {bar} at {offset:#x}, {length} bytes, reads {found:#x} through the window")


@gallery.add("H1-bar-out-of-range", Answer.IGNORED, rings=REGISTERS)
async def bar_out_of_range(intruder: Intruder) -> None:
    """Accesses to a BAR where no structure is, behind the last one, and across the end."""
    start, size = intruder.driver.bars[0]
    common = await intruder.common()
    for address, width in ((common + 0x40, 4), (common + 0x7C, 4), (start + size - 4, 4), (start + size - 2, 8)):
        await _mmio_is_dead(intruder, address, width)
    for structure in (ISR, NOTIFY):
        if found := await intruder.structure(structure):
            await _mmio_is_dead(intruder, sum(found), 4)


@gallery.add("H1-bar-odd-width", Answer.IGNORED, rings=REGISTERS)
async def bar_odd_width(intruder: Intruder) -> None:
    """Accesses to registers of a width that is not theirs."""
    common = await intruder.common()
    for name in ("device_status", "queue_enable", "device_feature", "config_msix_vector"):
        offset, width = FIELDS[name]
        for size in {1, 2, 4, 8, 16, *ODD_SIZES} - {width}:
            await _mmio_is_dead(intruder, common + offset, size)


@gallery.add("H1-bar-crossing-fields", Answer.IGNORED, rings=REGISTERS)
async def bar_crossing_fields(intruder: Intruder) -> None:
    """Accesses that begin in one register and end in another."""
    common = await intruder.common()
    for offset, size in ((0x12, 4), (0x13, 2), (0x15, 2), (0x02, 4), (0x22, 4), (0x24, 8), (0x3E, 4), (0x3F, 2)):
        await _mmio_is_dead(intruder, common + offset, size)


@gallery.add("H1-msix-table-out-of-range", Answer.IGNORED, rings=REGISTERS)
async def msix_table_out_of_range(intruder: Intruder) -> None:
    """Accesses to the MSI-X table of a width nobody uses, across entries, and behind it."""
    at, table = await intruder.msix()
    vectors = (await intruder.read(at + 2, 2) & 0x7FF) + 1
    behind = table + ENTRY * vectors + 8 * -(-vectors // 64)
    for address, size in ((table, 1), (table, 3), (table + 2, 2), (table + 2, 4), (table + 4, 8), (table, 16)):
        await _mmio_is_dead(intruder, address, size)
    for address, size in ((behind, 4), (behind, 8), (behind + 64, 4)):
        await _mmio_is_dead(intruder, address, size)


@gallery.add("H1-pending-bits-are-read-only", Answer.IGNORED, rings=REGISTERS)
async def pending_bits_are_read_only(intruder: Intruder) -> None:
    """Writes to the pending bits of MSI-X."""
    at, _ = await intruder.msix()
    where = await intruder.read(at + 8, 4)
    await _mmio_is_dead(intruder, intruder.driver.bars[where & 7][0] + (where & ~7), 8)


# H2: queues that are not


@gallery.add("H2-queue-select-out-of-range", Answer.IGNORED, rings=REGISTERS)
async def queue_select_out_of_range(intruder: Intruder) -> None:
    """Every queue register is written and read for queues the device does not have."""
    driver = intruder.driver
    before = await _registers_of(intruder, 0)
    for select in (driver.num_queues, driver.num_queues + 1, 0x7FFF, 0x8000, 0xFFFF):
        for name in QUEUE_FIELDS:
            await driver.common_write("queue_select", select)
            await driver.common_write(name, 1)
        if any(found := await _registers_of(intruder, select)):
            raise Surprise(f"registers of queue {select}, which is none, read {found}")
    if (after := await _registers_of(intruder, 0)) != before:
        raise Surprise(f"registers of queue 0 went from {before} to {after}")


async def _registers_of(intruder: Intruder, queue: int) -> list[int]:
    await intruder.driver.common_write("queue_select", queue)
    return [await intruder.driver.common_read(name) for name in QUEUE_FIELDS]


# H11: the configuration and its generation


@gallery.add("H11-configuration-is-read-only", Answer.IGNORED, rings=REGISTERS)
async def configuration_is_read_only(intruder: Intruder) -> None:
    """Writes to the device configuration, its generation, the ISR and other read-only registers."""
    driver = intruder.driver
    places = [(await intruder.common() + FIELDS[name][0], FIELDS[name][1]) for name in ("num_queues", "device_feature")]
    places.append((await intruder.common() + FIELDS["config_generation"][0], 1))
    if device := await intruder.structure(DEVICE):
        places.append((device[0], 1))
    before = [await intruder.machine.mmio_read(*place) for place in places]
    for address, size in places:
        for value in (0, (1 << 8 * size) - 1):
            await intruder.machine.mmio_write(address, size, value)
    if (after := [await intruder.machine.mmio_read(*place) for place in places]) != before:
        raise Surprise(f"read-only registers went from {before} to {after}")
    if not await driver.status() & Status.DRIVER_OK:
        raise Surprise("the device went down")


@gallery.add("H11-generation-stands-still", Answer.SERVED, rings=REGISTERS)
async def generation_stands_still(intruder: Intruder) -> None:
    """However often it is read, the generation changes with the configuration only."""
    device = await intruder.structure(DEVICE)
    seen = set()
    for _ in range(300):
        seen.add(await intruder.driver.common_read("config_generation"))
        if device:
            await intruder.machine.mmio_read(device[0], 1)
    if len(seen) > 1:
        raise Surprise(f"the generation took {len(seen)} values though nothing changed")
