"""Hostile guests that break the rules of split rings alone: R6, R7, R10, R12."""

from functools import partial

from hdvkit.testing.driver_rings import F_WRITE
from hdvkit.testing.hostile_guest import SPLIT, Answer, Gallery, Intruder
from hdvkit.testing.hostile_rings import Link, RawSplit, linked

NONSENSE = (0x8000, 0xFFFF, 0, 0x7FFF, 0x4321)

gallery = Gallery()


async def _after_good_ones(intruder: Intruder, count: int) -> RawSplit | None:
    """A raw ring that has served some good chains; None when the device did not get so far."""
    ring = RawSplit(intruder)
    for _ in range(count):
        ring.offer(ring.good())
    await ring.kick()
    return ring if await intruder.until(lambda: ring.returned() == count) else None


async def _set_index(intruder: Intruder, ahead: int) -> None:
    ring = await _after_good_ones(intruder, 2)
    if ring is not None:
        ring.index += ahead
        await ring.kick()
        await intruder.until_broken()


@gallery.add("R6-index-jumps", Answer.NEEDS_RESET, rings=SPLIT, reason="ahead of a ring")
async def index_jumps(intruder: Intruder) -> None:
    """The available index jumps one further than the ring has places."""
    await _set_index(intruder, intruder.queue.size + 1)


@gallery.add("R6-index-jumps-far", Answer.NEEDS_RESET, rings=SPLIT, reason="ahead of a ring")
async def index_jumps_far(intruder: Intruder) -> None:
    """The available index jumps half way round its 16 bits."""
    await _set_index(intruder, 0x8000)


@gallery.add("R6-index-goes-back", Answer.NEEDS_RESET, rings=SPLIT, reason="ahead of a ring")
async def index_goes_back(intruder: Intruder) -> None:
    """The available index goes back by one."""
    await _set_index(intruder, -1)


@gallery.add("R6-index-goes-back-below-0", Answer.NEEDS_RESET, rings=SPLIT, reason="ahead of a ring")
async def index_goes_back_below_0(intruder: Intruder) -> None:
    """The available index begins at 65535."""
    ring = RawSplit(intruder)
    ring.index = 0xFFFF
    await ring.kick()
    await intruder.until_broken()


@gallery.add("R7-head-outside-behind-requests", Answer.NEEDS_RESET, rings=SPLIT, reason="names descriptor")
async def head_outside_behind_requests(intruder: Intruder) -> None:
    """Good requests in flight, and behind them in the same kick a head that is none."""
    ring = RawSplit(intruder)

    async def attack() -> None:
        ring.announce(0xFFFF)
        await ring.kick()

    await intruder.requests_behind_which(attack)


async def _offer_head(intruder: Intruder, head: int) -> None:
    ring = RawSplit(intruder)
    ring.offer(ring.good(), head=head)
    await ring.finish()


@gallery.add("R7-head-just-outside", Answer.NEEDS_RESET, rings=SPLIT, reason="names descriptor")
async def head_just_outside(intruder: Intruder) -> None:
    """The available ring names the descriptor behind the last."""
    await _offer_head(intruder, intruder.queue.size)


@gallery.add("R7-head-far-outside", Answer.NEEDS_RESET, rings=SPLIT, reason="names descriptor 65535")
async def head_far_outside(intruder: Intruder) -> None:
    """The available ring names descriptor 65535."""
    await _offer_head(intruder, 0xFFFF)


@gallery.add("R7-head-twice", Answer.NEEDS_RESET, rings=SPLIT, or_else=Answer.SERVED, reason="made available again")
async def head_twice(intruder: Intruder) -> None:
    """A chain is made available again before it came back; one that is answered at once never notices."""
    ring = RawSplit(intruder)
    ring.offer(ring.good())
    ring.announce(0)
    await ring.finish()


@gallery.add("R12-every-place-the-same-head", Answer.NEEDS_RESET, rings=SPLIT, or_else=Answer.SERVED)
async def every_place_the_same_head(intruder: Intruder) -> None:
    """Every place of the available ring names one chain: more requests in flight than there are descriptors."""
    ring = RawSplit(intruder)
    ring.offer(ring.good())
    for _ in range(ring.size - 1):
        ring.announce(0)
    await ring.finish()


@gallery.add("R7-descriptors-shared", Answer.SERVED, rings=SPLIT)
async def descriptors_shared(intruder: Intruder) -> None:
    """Two chains in flight share a descriptor: odd, but each is walked by itself."""
    ring = RawSplit(intruder)
    ring.offer(ring.good())
    ring.offer([Link(ring.buffer + 64, 16, 1, 1)])
    await ring.finish()


async def _poll_through(intruder: Intruder, event_idx: bool) -> None:
    queue = intruder.queue
    words = queue.driver_area.cast("H")
    queue.disable_interrupts()
    for value in NONSENSE:
        if event_idx:
            words[2 + queue.size] = value
        words[0] = value
        await intruder.polled_request()
    words[0] = 0
    queue.enable_interrupts()


@gallery.add("R10-used-event-nonsense", Answer.SERVED, rings=SPLIT)
async def used_event_nonsense(intruder: Intruder) -> None:
    """The driver asks for interrupts at indices far away, behind and ahead."""
    await _poll_through(intruder, event_idx=True)


@gallery.add("R10-reserved-flags", Answer.SERVED, rings=SPLIT, event_idx=False)
async def reserved_flags(intruder: Intruder) -> None:
    """Reserved bits in the flags of the available ring."""
    await _poll_through(intruder, event_idx=False)


@gallery.add("R10-used-ring-overwritten", Answer.SERVED, rings=SPLIT)
async def used_ring_overwritten(intruder: Intruder) -> None:
    """The driver scribbles over the used ring, which the device must never read back."""
    ring = RawSplit(intruder)
    for turn in range(4):
        ring.queue.device_area[:] = b"\xff" * len(ring.queue.device_area)
        ring.offer(linked(Link(ring.buffer, 16), Link(ring.buffer + 64, 64, F_WRITE)))
        await ring.kick()
        # The device's own index comes to light with its next store.
        if not await intruder.until(partial(_has_returned, ring, turn + 1)):
            return
    await intruder.restart()


def _has_returned(ring: RawSplit, count: int) -> bool:
    return ring.returned() == count
