"""device_status, every byte from every state, against the rules of "Device Initialization" written down once more."""

import pytest

from hdvkit.virtio import Feature, Status
from hdvkit.virtio.status import TABLE, DeviceStatus, Step, refusal

ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, NEEDS_RESET, FAILED = 1, 2, 4, 8, 64, 128
OFFERED = Feature.VERSION_1 | Feature.INDIRECT_DESC
WANTED = int(Feature.VERSION_1)

WAYS = {
    # the status, and the writes that lead there
    0x00: (),
    0x01: (0x01,),
    0x03: (0x01, 0x03),
    0x0B: (0x01, 0x03, 0x0B),
    0x0F: (0x01, 0x03, 0x0B, 0x0F),
}


def reached(now: int) -> DeviceStatus:
    status = DeviceStatus(OFFERED)
    for write in WAYS[now]:
        status.write(write, WANTED)
    assert status.value == now
    return status


def oracle(now: int, written: int) -> tuple[Step, int]:
    """What the specification says of a write, bit by bit: the step, and the status after it.

    Bits are set in the order ACKNOWLEDGE, DRIVER, FEATURES_OK, DRIVER_OK and never taken back; the last two one at a
    time, since FEATURES_OK has to be read back before anything follows.
    """
    if written == 0:
        return Step.RESET, now  # what it becomes is the transport's business
    if written & FAILED:
        return Step.FAIL, now | FAILED
    bits = written & ~NEEDS_RESET  # only the device sets it; a driver that writes back what it read means nothing by it
    order = [ACKNOWLEDGE, DRIVER, FEATURES_OK, DRIVER_OK]
    unknown = bits & ~sum(order)
    gaps = [bit for at, bit in enumerate(order) if bits & bit and not all(bits & earlier for earlier in order[:at])]
    added = [bit for bit in order if bits & bit and not now & bit]
    if unknown or gaps or not bits or now & ~bits:
        return Step.REFUSE, now
    if added in ([], [ACKNOWLEDGE], [DRIVER], [ACKNOWLEDGE, DRIVER]):
        return Step.NONE, now | bits
    if added == [FEATURES_OK]:
        return Step.NEGOTIATE, now | bits
    if added == [DRIVER_OK]:
        return Step.START, now | bits
    return Step.REFUSE, now


@pytest.mark.parametrize("now", WAYS)
def test_every_byte_does_what_the_specification_says(now: int) -> None:
    for written in range(256):
        status = reached(now)
        step = status.write(written, WANTED)
        assert (step, int(status.value)) == oracle(now, written), f"{now:#04x} <- {written:#04x}"


@pytest.mark.parametrize("now", WAYS)
def test_needs_reset_stays_whatever_the_driver_writes(now: int) -> None:
    for written in range(256):
        status = reached(now)
        status.needs_reset()
        step = status.write(written, WANTED)
        assert status.value & NEEDS_RESET, f"{now:#04x} <- {written:#04x}"
        assert step is oracle(now, written)[0]
        assert not status.running


@pytest.mark.parametrize("now", WAYS)
def test_after_failed_only_a_reset_or_failed_again_is_heard(now: int) -> None:
    for written in range(1, 256):
        status = reached(now)
        status.write(FAILED, WANTED)
        step = status.write(written, WANTED)
        assert int(status.value) == now | FAILED
        assert step is (Step.NONE if written & FAILED else Step.REFUSE), f"{now:#04x} <- {written:#04x}"


@pytest.mark.parametrize("now", WAYS)
def test_a_failed_device_is_not_running(now: int) -> None:
    status = reached(now)
    assert status.running is (now == 0x0F)
    assert status.write(FAILED | now, WANTED) is Step.FAIL
    assert not status.running
    assert status.write(0, WANTED) is Step.RESET


def test_features_may_be_written_only_between_driver_and_features_ok() -> None:
    assert [now for now in WAYS if reached(now).negotiating] == [0x03]


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        (WANTED, ""),
        (int(OFFERED), ""),
        (0, "VERSION_1"),
        (int(Feature.INDIRECT_DESC), "VERSION_1"),
        (WANTED | Feature.RING_PACKED, "0x400000000, which were not offered"),
        (WANTED | 1, "0x1, which were not offered"),
        (WANTED | 1 << 41, "0x20000000000, which were not offered"),
        (WANTED | 1 << 63, "0x8000000000000000, which were not offered"),
    ],
)
def test_features_ok_is_given_for_a_subset_with_version_1_alone(wanted: int, reason: str) -> None:
    status = reached(0x03)
    assert status.write(0x0B, wanted) is Step.NEGOTIATE
    assert reason in status.refusal
    assert bool(status.refusal) is bool(reason)
    assert status.refusal == refusal(int(OFFERED), wanted)
    assert int(status.value) == (0x03 if reason else 0x0B), "a driver sees refusal by FEATURES_OK reading 0"
    assert int(status.accepted) == (0 if reason else wanted)


def test_a_refused_driver_may_ask_for_less() -> None:
    status = reached(0x03)
    status.write(0x0B, WANTED | 1)
    assert status.write(0x0F, WANTED) is Step.REFUSE, "DRIVER_OK without FEATURES_OK"
    assert status.write(0x0B, WANTED) is Step.NEGOTIATE
    assert (status.refusal, int(status.value)) == ("", 0x0B)


def test_reset_forgets_everything_that_was_negotiated() -> None:
    status = reached(0x0F)
    status.needs_reset()
    status.reset()
    assert (int(status.value), int(status.accepted), status.refusal) == (0, 0, "")
    assert not status.negotiating


def test_the_table_names_every_move_but_the_universal_ones() -> None:
    moves = {(int(row.now), int(row.written)): row.step for row in TABLE}
    assert len(moves) == len(TABLE)
    everywhere = {Step.RESET, Step.FAIL, Step.REFUSE}
    plain = {(now, to): oracle(now, to)[0] for now in WAYS for to in range(256) if not to & NEEDS_RESET}
    assert moves == {move: step for move, step in plain.items() if step not in everywhere}
    assert Status.DEVICE_NEEDS_RESET == NEEDS_RESET
