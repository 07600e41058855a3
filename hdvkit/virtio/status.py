"""Device status and feature negotiation as one table ("Device Initialization"). No I/O.

No rule about status lives elsewhere: the transport asks :meth:`DeviceStatus.write` what a write means.
"""

from enum import Enum
from typing import NamedTuple

from hdvkit.virtio.spec import Feature, Status


class Step(Enum):
    """What a write to device_status brings about."""

    NONE = "nothing changes but the status"
    NEGOTIATE = "the features the driver wrote are judged"
    START = "the driver is up: queues may be used"
    FAIL = "the driver gave up; it will reset before it tries again"
    RESET = "everything goes back to the state after power-on"
    REFUSE = "the driver broke the order; nothing changes and it is counted"


ACKNOWLEDGED = Status.ACKNOWLEDGE
DRIVER_FOUND = ACKNOWLEDGED | Status.DRIVER
NEGOTIATED = DRIVER_FOUND | Status.FEATURES_OK
RUNNING = NEGOTIATED | Status.DRIVER_OK
NEW = Status(0)


class Row(NamedTuple):
    """From one status, a write of another: the step that follows."""

    now: Status
    written: Status
    step: Step


TABLE = (
    Row(NEW, ACKNOWLEDGED, Step.NONE),
    Row(NEW, DRIVER_FOUND, Step.NONE),  # both bits at once break no rule: neither waits for an answer
    Row(ACKNOWLEDGED, ACKNOWLEDGED, Step.NONE),
    Row(ACKNOWLEDGED, DRIVER_FOUND, Step.NONE),
    Row(DRIVER_FOUND, DRIVER_FOUND, Step.NONE),
    Row(DRIVER_FOUND, NEGOTIATED, Step.NEGOTIATE),
    Row(NEGOTIATED, NEGOTIATED, Step.NONE),
    Row(NEGOTIATED, RUNNING, Step.START),
    Row(RUNNING, RUNNING, Step.NONE),
)
"""All that a driver may do. Besides, from anywhere: 0 resets, FAILED may be added, all else is refused.

After FAILED only a reset helps. DRIVER_OK without FEATURES_OK before it is therefore refused, and so is taking a bit
back.
"""

_STEPS = {(row.now, row.written): row.step for row in TABLE}
_DRIVER_BITS = RUNNING


class DeviceStatus:
    """The device_status of one device, and what was negotiated on the way."""

    def __init__(self, offered: Feature) -> None:
        self.offered = offered
        self.reset()

    def reset(self) -> None:
        """As after power-on."""
        self.value = NEW
        self.accepted = Feature(0)
        self.refusal = ""
        """Why FEATURES_OK was not given, in words; empty when it was."""

    @property
    def negotiating(self) -> bool:
        """Whether the driver may still write features."""
        return self.value == DRIVER_FOUND

    @property
    def running(self) -> bool:
        """Whether the driver has set DRIVER_OK and nothing has gone wrong since."""
        return self.value == RUNNING

    def needs_reset(self) -> None:
        """The device gave up: DEVICE_NEEDS_RESET stays until the driver resets."""
        self.value |= Status.DEVICE_NEEDS_RESET

    def write(self, value: int, driver_features: int) -> Step:
        """The driver wrote ``value``. Do what the step says; RESET is for the caller to carry out."""
        if value == 0:
            return Step.RESET
        written = Status(value & 0xFF)
        if self.value & Status.FAILED:
            return Step.NONE if written & Status.FAILED else Step.REFUSE
        if written & Status.FAILED:
            self.value |= Status.FAILED
            return Step.FAIL
        step = _STEPS.get((self.value & _DRIVER_BITS, written & ~Status.DEVICE_NEEDS_RESET), Step.REFUSE)
        if step is Step.NEGOTIATE:
            self.refusal = refusal(self.offered, driver_features)
            if self.refusal:
                return step
            self.accepted = Feature(driver_features)
        if step is not Step.REFUSE:
            self.value |= written & _DRIVER_BITS
        return step


def refusal(offered: int, wanted: int) -> str:
    """Why these features cannot be had together, or an empty string ("Feature Bits")."""
    unknown = wanted & ~int(offered)  # of a flag, ~ knows only the bits that have names
    if unknown:
        return f"the driver wants features {unknown:#x}, which were not offered"
    if not wanted & Feature.VERSION_1:
        return "the driver does not want VERSION_1; legacy drivers are not supported"
    return ""
