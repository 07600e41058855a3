"""Hostile guests whose buffers are not what they seem, on either ring kind: R5, R8, R13, H10."""

import asyncio
from collections.abc import Callable
from itertools import count

from hdvkit.testing.driver_rings import F_WRITE
from hdvkit.testing.hostile_guest import (
    ABOVE_RAM,
    ADDRESS_SPACE,
    MSI_WINDOW,
    Answer,
    Gallery,
    Hostile,
    Intruder,
    Surprise,
)
from hdvkit.testing.hostile_rings import Link, RawRing, chain_guest, linked, raw_ring

MIB = 1 << 20
MAX_BYTES = 32 * MIB
"""What a device caps a chain at."""

gallery = Gallery()


def _outside(place: Callable[[RawRing], int], length: int = 64, flags: int = 0) -> Callable[[RawRing], list[Link]]:
    """A good chain behind which one more buffer lies where no RAM is."""
    return lambda ring: linked(Link(ring.buffer, 16), Link(place(ring), length, flags))


# R5: lengths and addresses

gallery.hang(
    chain_guest(
        "R5-length-of-4-gib",
        "A buffer of 0xFFFFFFFF bytes.",
        lambda ring: [Link(ring.buffer, 0xFFFFFFFF)],
        reason="4294967295 bytes",
    ),
    chain_guest(
        "R5-writable-length-of-4-gib",
        "A buffer of 0xFFFFFFFF bytes to write into.",
        lambda ring: linked(Link(ring.buffer, 16), Link(ring.buffer, 0xFFFFFFFF, F_WRITE)),
        reason="4294967311 bytes",
    ),
    chain_guest(
        "R5-sum-above-the-cap",
        "Valid buffers of 1 MiB, one more than the cap allows together.",
        lambda ring: [ring.table_of(MAX_BYTES // MIB + 1, MIB)],
        reason=f"at most {MAX_BYTES}",
    ),
    chain_guest(
        "R5-sum-above-4-gib",
        "Buffers whose lengths add up to more than 32 bits hold.",
        lambda ring: linked(Link(ring.buffer, 0x80000000), Link(ring.buffer, 0x80000010, F_WRITE)),
        reason="bytes: at most",
    ),
    chain_guest(
        "R5-address-wraps",
        "Address plus length is more than 64 bits hold.",
        _outside(lambda ring: ADDRESS_SPACE - 16),
    ),
    chain_guest(
        "R5-writable-address-wraps",
        "Address plus length of a buffer to write is more than 64 bits hold.",
        _outside(lambda ring: ADDRESS_SPACE - 16, flags=F_WRITE),
    ),
    chain_guest(
        "R5-last-byte-of-address-space",
        "A buffer that ends exactly at 2^64.",
        _outside(lambda ring: ADDRESS_SPACE - 1, length=1),
    ),
    chain_guest(
        "R5-above-ram",
        "A buffer where no RAM is.",
        _outside(lambda ring: ABOVE_RAM, flags=F_WRITE),
        reason="RAM",
    ),
    chain_guest(
        "R5-across-end-of-ram",
        "A buffer that begins in RAM and ends outside.",
        _outside(RawRing.edge, flags=F_WRITE),
    ),
    chain_guest(
        "R5-length-0",
        "A buffer of no bytes.",
        lambda ring: linked(Link(ring.buffer, 0), Link(ring.buffer, 64, F_WRITE)),
        reason="length 0",
    ),
)

# R13: hardly any room for an answer

gallery.hang(
    chain_guest(
        "R13-no-room",
        "A request without a byte to answer into.",
        lambda ring: [Link(ring.buffer, 16)],
        answer=Answer.SERVED,
        or_else=Answer.NEEDS_RESET,
    ),
    chain_guest(
        "R13-room-for-one-byte",
        "A request with one byte to answer into.",
        lambda ring: linked(Link(ring.buffer, 16), Link(ring.buffer + 64, 1, F_WRITE)),
        answer=Answer.SERVED,
        or_else=Answer.NEEDS_RESET,
    ),
    chain_guest(
        "R13-nothing-to-read",
        "A request without a byte to read.",
        lambda ring: [Link(ring.buffer, 64, F_WRITE)],
        answer=Answer.SERVED,
        or_else=Answer.NEEDS_RESET,
    ),
    chain_guest(
        "R13-room-of-length-0",
        "A buffer of no bytes to answer into.",
        lambda ring: linked(Link(ring.buffer, 16), Link(ring.buffer, 0, F_WRITE)),
        reason="length 0",
    ),
)

# R8, H10: memory that changes, or is not what it seems


@gallery.add("R8-rewritten-after-the-kick", Answer.SERVED, or_else=Answer.NEEDS_RESET)
async def rewritten_after_the_kick(intruder: Intruder) -> None:
    """Descriptors and indirect tables change while the device works on them."""
    ring = raw_ring(intruder)
    table = ring.table(ring.good())
    ring.offer([table])
    ring.offer(ring.good())
    victims = [intruder.machine.ram(table.address, table.length), ring.queue.descriptors[: 16 * 3]]
    honest = [bytes(victim) for victim in victims]
    await ring.kick()
    for turn in count():
        if ring.returned() >= ring.offered or await intruder.broken():
            break
        for victim, content in zip(victims, honest, strict=True):
            # Address, length and links go; flags of a packed ring say who owns a descriptor, so they stay.
            victim[:12] = content[:12] if turn % 2 else b"\xff" * 12
        await asyncio.sleep(0)
    if not await intruder.broken():
        await intruder.restart()


def _registers(name: str, summary: str, where: Callable[[Intruder], int], flags: int) -> Hostile:
    """A buffer in registers; afterwards they must be what they were."""

    async def attack(intruder: Intruder) -> None:
        ring = raw_ring(intruder)
        before = await _state_of(intruder)
        ring.offer(linked(Link(ring.buffer, 16), Link(where(intruder), 64, flags)))
        await ring.finish()
        after = await _state_of(intruder)
        if before != after:
            raise Surprise(f"registers changed from {before} to {after}")

    return Hostile(name, summary, Answer.NEEDS_RESET, attack)


async def _state_of(intruder: Intruder) -> list[int]:
    names = ("num_queues", "queue_select", "queue_size", "queue_enable", "queue_desc", "config_msix_vector")
    _, table = await intruder.msix()
    entries = [await intruder.machine.mmio_read(table + at, 4) for at in range(0, 32, 4)]
    return [await intruder.driver.common_read(name) for name in names] + entries


def _msix_bar(intruder: Intruder) -> int:
    return max(intruder.driver.bars.values())[0]


gallery.hang(
    _registers(
        "H10-buffer-in-own-bar",
        "The device is told to write its answer into its own registers.",
        lambda intruder: intruder.driver.bars[0][0],
        F_WRITE,
    ),
    _registers(
        "H10-reads-own-bar",
        "The device is told to read its request from its own registers.",
        lambda intruder: intruder.driver.bars[0][0],
        0,
    ),
    _registers(
        "H10-buffer-on-own-doorbell",
        "The device is told to kick itself.",
        lambda intruder: intruder.queue.notify_address,
        F_WRITE,
    ),
    _registers(
        "H10-buffer-in-msix-table",
        "The device is told to write its answer into its interrupt table.",
        _msix_bar,
        F_WRITE,
    ),
    _registers(
        "H10-buffer-in-msi-window",
        "The device is told to forge interrupts.",
        lambda intruder: MSI_WINDOW,
        F_WRITE,
    ),
)


@gallery.add("H10-buffer-over-own-ring", Answer.SERVED, or_else=Answer.NEEDS_RESET)
async def buffer_over_own_ring(intruder: Intruder) -> None:
    """The device is told to write its answer over the ring it came from."""
    ring = raw_ring(intruder)
    ring.offer(linked(Link(ring.buffer, 16), Link(ring.queue.desc_address, 64, F_WRITE)))
    ring.offer(linked(Link(ring.buffer, 16), Link(ring.queue.driver_address, 4, F_WRITE)))
    ring.offer(linked(Link(ring.buffer, 16), Link(ring.queue.device_address, 4, F_WRITE)))
    await ring.kick()
    await intruder.settle()
