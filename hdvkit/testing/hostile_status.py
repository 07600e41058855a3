"""Hostile guests at bring-up and reset: H5, H6."""

import asyncio

from hdvkit.testing.driver import Status
from hdvkit.testing.driver_spec import Feature
from hdvkit.testing.hostile_guest import (
    AT_ONCE,
    REGISTERS,
    Answer,
    Gallery,
    Intruder,
    Surprise,
)

FOUND = Status.ACKNOWLEDGE | Status.DRIVER
NEGOTIATED = FOUND | Status.FEATURES_OK
RUNNING = NEGOTIATED | Status.DRIVER_OK
RESETS = 50

gallery = Gallery()


# H5: the order of bring-up


async def _found(intruder: Intruder, features: int = int(Feature.VERSION_1)) -> None:
    """Reset, ACKNOWLEDGE, DRIVER, and write these features."""
    await intruder.driver.reset()
    await intruder.driver.common_write("device_status", FOUND)
    await _write_features(intruder, features)


async def _write_features(intruder: Intruder, features: int) -> None:
    for half in range(2):
        await intruder.driver.common_write("driver_feature_select", half)
        await intruder.driver.common_write("driver_feature", features >> 32 * half & 0xFFFFFFFF)


async def _read_features(intruder: Intruder) -> int:
    features = 0
    for half in range(2):
        await intruder.driver.common_write("driver_feature_select", half)
        features |= await intruder.driver.common_read("driver_feature") << 32 * half
    return features


@gallery.add("H5-driver-ok-before-features-ok", Answer.REFUSED, rings=REGISTERS)
async def driver_ok_before_features_ok(intruder: Intruder) -> None:
    """DRIVER_OK without FEATURES_OK, and both at once."""
    await _found(intruder)
    await intruder.keeps("device_status", FOUND | Status.DRIVER_OK, FOUND)
    await intruder.keeps("device_status", RUNNING, FOUND)


@gallery.add("H5-features-not-offered", Answer.REFUSED, rings=REGISTERS)
async def features_not_offered(intruder: Intruder) -> None:
    """The driver accepts features that were not offered: each alone, and all at once."""
    offered = intruder.driver.offered
    everything = (1 << 64) - 1
    missing = [1 << bit for bit in range(64) if not offered >> bit & 1]
    for wanted in (*missing, everything & ~offered, everything):
        await _found(intruder, wanted | Feature.VERSION_1)
        await intruder.keeps("device_status", NEGOTIATED, FOUND)


@gallery.add("H5-without-version-1", Answer.REFUSED, rings=REGISTERS)
async def without_version_1(intruder: Intruder) -> None:
    """A legacy driver: it accepts nothing, or all but VERSION_1."""
    for wanted in (0, intruder.driver.offered & ~int(Feature.VERSION_1)):
        await _found(intruder, wanted)
        await intruder.keeps("device_status", NEGOTIATED, FOUND)


@gallery.add("H5-features-above-63", Answer.REFUSED, rings=REGISTERS)
async def features_above_63(intruder: Intruder) -> None:
    """Feature words that do not exist are offered as 0, and taken from nobody."""
    await _found(intruder)
    for select in (2, 3, 0x7FFFFFFF, 0xFFFFFFFF):
        await intruder.driver.common_write("device_feature_select", select)
        if found := await intruder.driver.common_read("device_feature"):
            raise Surprise(f"feature word {select} offers {found:#x}")
        await intruder.driver.common_write("driver_feature_select", select)
        await intruder.keeps("driver_feature", 0xFFFFFFFF, 0)
    if (features := await _read_features(intruder)) != Feature.VERSION_1:
        raise Surprise(f"the driver's features became {features:#x}")


@gallery.add("H5-features-change-while-running", Answer.REFUSED, rings=REGISTERS)
async def features_change_while_running(intruder: Intruder) -> None:
    """The driver changes its mind about features when the device runs."""
    before = await _read_features(intruder)
    for features in (0, (1 << 64) - 1):
        await _write_features(intruder, features)
        if (after := await _read_features(intruder)) != before:
            raise Surprise(f"the driver's features went from {before:#x} to {after:#x}")


@gallery.add("H5-features-before-driver", Answer.REFUSED, rings=REGISTERS)
async def features_before_driver(intruder: Intruder) -> None:
    """Features are written before the driver said that it is one."""
    await intruder.driver.reset()
    for status in (0, Status.ACKNOWLEDGE):
        if status:
            await intruder.driver.common_write("device_status", status)
        await _write_features(intruder, (1 << 64) - 1)
        if found := await _read_features(intruder):
            raise Surprise(f"features {found:#x} were taken at status {status:#x}")


@gallery.add("H5-status-out-of-order", Answer.REFUSED, rings=REGISTERS)
async def status_out_of_order(intruder: Intruder) -> None:
    """Status bits are set before those they build on."""
    await intruder.driver.reset()
    for status in (Status.DRIVER, Status.DRIVER_OK, Status.FEATURES_OK, 0x9, 0x5, 0xC, NEGOTIATED, RUNNING):
        await intruder.keeps("device_status", status, 0)


@gallery.add("H5-status-taken-back", Answer.REFUSED, rings=REGISTERS)
async def status_taken_back(intruder: Intruder) -> None:
    """A running driver takes single status bits back."""
    for status in (NEGOTIATED, FOUND, Status.ACKNOWLEDGE, RUNNING & ~Status.ACKNOWLEDGE, RUNNING & ~Status.DRIVER):
        await intruder.keeps("device_status", status, RUNNING)


@gallery.add("H5-reserved-status-bits", Answer.REFUSED, rings=REGISTERS)
async def reserved_status_bits(intruder: Intruder) -> None:
    """Status bits that mean nothing, and the one that is the device's to set."""
    for bit in (0x10, 0x20, 0x30, Status.NEEDS_RESET):
        await intruder.keeps("device_status", RUNNING | bit, RUNNING)


@gallery.add("H5-goes-on-after-failed", Answer.REFUSED, rings=REGISTERS)
async def goes_on_after_failed(intruder: Intruder) -> None:
    """The driver sets FAILED, and then goes on instead of resetting."""
    await _found(intruder)
    failed = FOUND | Status.FAILED
    await intruder.keeps("device_status", failed, failed)
    await intruder.keeps("device_status", NEGOTIATED, failed)
    await intruder.keeps("device_status", RUNNING, failed)


@gallery.add("H5-queue-before-features-ok", Answer.REFUSED, rings=REGISTERS)
async def queue_before_features_ok(intruder: Intruder) -> None:
    """A queue is enabled before features are agreed."""
    await _found(intruder)
    await intruder.driver.common_write("queue_select", intruder.target)
    await intruder.keeps("queue_enable", 1, 0)


@gallery.add("H5-queue-enable-nonsense", Answer.REFUSED, rings=REGISTERS)
async def queue_enable_nonsense(intruder: Intruder) -> None:
    """A queue is disabled by its enable register, or enabled with other values than 1."""
    await intruder.driver.common_write("queue_select", intruder.target)
    for value in (0, 2, 0xFFFF, 1):
        await intruder.keeps("queue_enable", value, 1)


@gallery.add("H5-driver-ok-twice", Answer.SERVED, rings=REGISTERS)
async def driver_ok_twice(intruder: Intruder) -> None:
    """DRIVER_OK is written again and again."""
    for _ in range(3):
        await intruder.keeps("device_status", RUNNING, RUNNING)


# H6: resets


async def _requests_in_flight(intruder: Intruder) -> None:
    for _ in range(AT_ONCE):
        intruder.queue.post([bytes(16)], [64])
    await intruder.queue.kick(force=True)


@gallery.add("H6-reset-in-flight", Answer.SERVED)
async def reset_in_flight(intruder: Intruder) -> None:
    """The driver resets while requests are in flight: before the device saw them, and a little later."""
    for turns in range(4):
        await _requests_in_flight(intruder)
        for _ in range(turns):
            await asyncio.sleep(0)
        await intruder.restart()


@gallery.add("H6-double-reset", Answer.SERVED)
async def double_reset(intruder: Intruder) -> None:
    """The driver resets again before the first reset is done."""
    await _requests_in_flight(intruder)
    await asyncio.sleep(0)
    for _ in range(2):
        await intruder.driver.common_write("device_status", 0)
    await intruder.restart()


@gallery.add("H6-reset-storm", Answer.SERVED)
async def reset_storm(intruder: Intruder) -> None:
    """The driver resets all the time, with and without waiting, at every stage of bring-up."""
    for turn in range(RESETS):
        await intruder.driver.common_write("device_status", 0)
        if turn % 3:
            await asyncio.sleep(0)
        for status in (Status.ACKNOWLEDGE, FOUND)[: turn % 3]:
            await intruder.driver.common_write("device_status", status)
        if not turn % 5:
            await intruder.driver.probe()
        if not turn % 10:
            await intruder.driver.start()
            await _requests_in_flight(intruder)
    await intruder.restart()


@gallery.add("H6-bring-up-while-resetting", Answer.SERVED)
async def bring_up_while_resetting(intruder: Intruder) -> None:
    """The driver does not wait for its reset before it brings the device up again."""
    await _requests_in_flight(intruder)
    await asyncio.sleep(0)
    await intruder.driver.common_write("device_status", 0)
    for status in (FOUND, NEGOTIATED, RUNNING):
        await _write_features(intruder, int(Feature.VERSION_1))
        await intruder.driver.common_write("device_status", status)
    await intruder.enable([0, 0x1000, 0x2000])
    await intruder.restart()


@gallery.add("H6-queue-reset-while-resetting", Answer.REFUSED)
async def queue_reset_while_resetting(intruder: Intruder) -> None:
    """One queue is reset while the device is: that must be over when the device's reset is."""
    await _requests_in_flight(intruder)
    await asyncio.sleep(0)
    await intruder.driver.common_write("device_status", 0)
    await intruder.driver.common_write("queue_select", intruder.target)
    await intruder.driver.common_write("queue_reset", 1)
    await intruder.until_zero("device_status")
    await intruder.driver.common_write("queue_select", intruder.target)
    if await intruder.driver.common_read("queue_reset"):
        raise Surprise("queue_reset reads 1 after the device was reset")


@gallery.add("H6-queue-reset-in-flight", Answer.SERVED)
async def queue_reset_in_flight(intruder: Intruder) -> None:
    """One queue is reset while its requests are in flight, again and again."""
    if not intruder.driver.features & Feature.RING_RESET:
        raise Surprise("the device does not offer RING_RESET")
    for turns in range(4):
        await _requests_in_flight(intruder)
        for _ in range(turns):
            await asyncio.sleep(0)
        await intruder.driver.reset_queue(intruder.target)


@gallery.add("H6-queue-reset-twice", Answer.SERVED)
async def queue_reset_twice(intruder: Intruder) -> None:
    """One queue is reset again before its first reset is done, and reset while it is disabled."""
    await _requests_in_flight(intruder)
    await asyncio.sleep(0)
    await intruder.driver.common_write("queue_select", intruder.target)
    for _ in range(2):
        await intruder.driver.common_write("queue_reset", 1)
    await intruder.until_zero("queue_reset")
    await intruder.driver.common_write("queue_reset", 1)
    await intruder.restart()
