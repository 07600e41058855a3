"""Hostile guests that break the rules of packed rings alone: R7, R10, R11, R12."""

import asyncio

from hdvkit.testing.driver_rings import F_NEXT, F_WRITE
from hdvkit.testing.hostile_guest import PACKED, SETTLE, Answer, Gallery, Intruder, Surprise
from hdvkit.testing.hostile_rings import AVAIL, USED, Link, RawPacked, linked

KICKS = 200
RESERVED = 3
ENABLE, DISABLE, DESCRIPTOR = range(3)

gallery = Gallery()


async def _only_flags(intruder: Intruder, flags: int) -> None:
    """A good descriptor that does not become available by its flags; the device must let it lie."""
    ring = RawPacked(intruder)
    ring.put(0, Link(ring.buffer, 64, flags | F_WRITE))
    await ring.kick()
    for _ in range(SETTLE):
        await asyncio.sleep(0)
    if ring.words[7] != flags | F_WRITE:
        raise Surprise(f"a descriptor that is not available was used: its flags became {ring.words[7]:#x}")
    await intruder.settle()


@gallery.add("R11-wrap-of-the-lap-before", Answer.SERVED, rings=PACKED)
async def wrap_of_the_lap_before(intruder: Intruder) -> None:
    """A descriptor is marked as if the driver were a lap ahead: not available yet."""
    await _only_flags(intruder, USED)


@gallery.add("R11-avail-equals-used", Answer.SERVED, rings=PACKED)
async def avail_equals_used(intruder: Intruder) -> None:
    """A descriptor is marked as used by a driver that never gave it away."""
    await _only_flags(intruder, AVAIL | USED)


@gallery.add("R11-toggles-while-kicking", Answer.SERVED, rings=PACKED)
async def toggles_while_kicking(intruder: Intruder) -> None:
    """AVAIL and USED are toggled together, and each time the device is kicked for nothing."""
    ring = RawPacked(intruder)
    for turn in range(KICKS):
        ring.words[7] = AVAIL | USED if turn % 2 else 0
        await ring.kick()
        await asyncio.sleep(0)
    await intruder.restart()


@gallery.add("R11-second-of-the-wrong-lap", Answer.NEEDS_RESET, rings=PACKED, reason="not available")
async def second_of_the_wrong_lap(intruder: Intruder) -> None:
    """The second descriptor of a chain has the wrap counter of the other lap."""
    ring = RawPacked(intruder)
    first, second = ring.good()
    ring.put(1, second._replace(flags=USED | F_WRITE))
    ring.put(0, first._replace(flags=AVAIL | F_NEXT))
    await ring.kick()
    await intruder.until_broken()


@gallery.add("R11-wrap-not-flipped", Answer.SERVED, rings=PACKED)
async def wrap_not_flipped(intruder: Intruder) -> None:
    """The driver forgets to flip its wrap counter at the end of the ring: what follows is not available."""
    ring = RawPacked(intruder)
    for _ in range(ring.size):
        ring.offer([Link(ring.buffer, 64, F_WRITE)])
    await ring.kick()
    if not await intruder.until(lambda: ring.returned() == ring.size):
        return
    ring.wrap = not ring.wrap
    ring.offer([Link(ring.buffer, 64, F_WRITE)])
    await ring.kick()
    await intruder.settle()


@gallery.add("R5-length-0-behind-requests", Answer.NEEDS_RESET, rings=PACKED, reason="length 0")
async def length_0_behind_requests(intruder: Intruder) -> None:
    """Good requests in flight, and behind them in the same kick a buffer of no bytes."""
    ring = RawPacked(intruder)

    async def attack() -> None:
        while ring.words[8 * ring.place + 7]:  # the places that the driver has used
            ring.advance()
        ring.offer([Link(ring.buffer, 0)])
        await ring.kick()

    await intruder.requests_behind_which(attack)


@gallery.add("R7-id-twice", Answer.NEEDS_RESET, rings=PACKED, or_else=Answer.SERVED, reason="made available again")
async def id_twice(intruder: Intruder) -> None:
    """Two chains in flight have the same buffer id; a device that answers at once never notices."""
    ring = RawPacked(intruder)
    ring.offer(ring.good(), head=7)
    ring.offer(ring.good(), head=7)
    await ring.finish()


@gallery.add("R11-id-outside-ring", Answer.SERVED, rings=PACKED)
async def id_outside_ring(intruder: Intruder) -> None:
    """A buffer id larger than the ring: it is the driver's affair and comes back as it was."""
    ring = RawPacked(intruder)
    ring.offer(ring.good(), head=0xFFFF)
    await ring.kick()
    if await intruder.until(lambda: ring.returned() == 1):
        if ring.words[6] != 0xFFFF:
            raise Surprise(f"buffer id 65535 came back as {ring.words[6]}")
        await intruder.restart()


@gallery.add("R11-id-on-every-descriptor", Answer.SERVED, rings=PACKED)
async def id_on_every_descriptor(intruder: Intruder) -> None:
    """All descriptors of a chain have different ids: only that of the last counts."""
    ring = RawPacked(intruder)
    first, second = ring.good()
    ring.offer([first._replace(word=0x1234), second], head=5)
    await ring.kick()
    if await intruder.until(lambda: ring.returned() == 1):
        if ring.words[6] != 5:  # the used descriptor stands where the first one stood
            raise Surprise(f"buffer id 5 came back as {ring.words[6]}")
        await intruder.restart()


async def _poll_through(intruder: Intruder, events: list[tuple[int, int]]) -> None:
    queue = intruder.queue
    words = queue.driver_area.cast("H")
    queue.disable_interrupts()
    for place, flags in events:
        words[0], words[1] = place, flags
        await intruder.polled_request()
    queue.enable_interrupts()


@gallery.add("R11-reserved-event-flags", Answer.SERVED, rings=PACKED)
async def reserved_event_flags(intruder: Intruder) -> None:
    """The driver's event flags have the reserved value, and reserved bits."""
    await _poll_through(intruder, [(0, RESERVED), (0x8000, RESERVED), (3, 0xFFFF), (0, 0xFFFC)])


@gallery.add("R10-event-nonsense", Answer.SERVED, rings=PACKED)
async def event_nonsense(intruder: Intruder) -> None:
    """The driver asks for interrupts at places the ring does not have, in laps that are not."""
    places = (0x7FFF, 0xFFFF, intruder.queue.size, intruder.queue.size | 0x8000, 0x4321)
    await _poll_through(intruder, [(place, DESCRIPTOR) for place in places])


@gallery.add("R10-event-without-the-feature", Answer.SERVED, rings=PACKED, event_idx=False)
async def event_without_the_feature(intruder: Intruder) -> None:
    """The driver asks for an interrupt at a place, though it did not accept EVENT_IDX."""
    await _poll_through(intruder, [(0x8000, DESCRIPTOR), (1, DESCRIPTOR), (0x7FFF, DESCRIPTOR)])


@gallery.add("R10-device-event-overwritten", Answer.SERVED, rings=PACKED)
async def device_event_overwritten(intruder: Intruder) -> None:
    """The driver scribbles over the device's event structure, which the device must never read back."""
    queue = intruder.queue
    for content in (b"\xff" * 4, bytes(4), b"\x55" * 4):
        queue.device_area[:] = content
        await intruder.polled_request()


@gallery.add("R12-more-than-the-ring", Answer.NEEDS_RESET, rings=PACKED, or_else=Answer.SERVED)
async def more_than_the_ring(intruder: Intruder) -> None:
    """The driver makes the ring available again, whatever the device still holds."""
    ring = RawPacked(intruder)
    for lap in range(2):
        for place in range(ring.size):
            ring.offer([Link(ring.buffer, 64, F_WRITE)], head=lap << 12 | place)
        await ring.kick()
        for _ in range(SETTLE):
            await asyncio.sleep(0)
    await intruder.settle()


@gallery.add("R12-chain-over-held-places", Answer.NEEDS_RESET, rings=PACKED, or_else=Answer.SERVED)
async def chain_over_held_places(intruder: Intruder) -> None:
    """A chain runs on into places whose chains may still be in flight."""
    ring = RawPacked(intruder)
    for place in range(ring.size - 1):
        ring.offer([Link(ring.buffer, 64, F_WRITE)], head=place)
    await ring.kick()
    for _ in range(SETTLE):
        await asyncio.sleep(0)
    ring.offer(linked(*[Link(ring.buffer, 64, F_WRITE)] * 3), head=0x1000)
    await ring.kick()
    await intruder.settle()
