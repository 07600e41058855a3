"""A function without MSI-X, and one that has it: capabilities, BARs and vectors, seen from outside."""

import pytest

from hdvkit.errors import UsageError
from hdvkit.virtio import CONFIG, INTX, Feature, Transport

REGISTERS, MSIX_BAR = 0, 2
COMMAND, STATUS_INTERRUPT = 0x04, 0x08
MSIX, VENDOR, EXPRESS = 0x11, 0x09, 0x10
DEVICE_STATUS, QUEUE_SELECT, QUEUE_VECTOR, CONFIG_VECTOR, QUEUE_ENABLE, ISR = 0x14, 0x16, 0x1A, 0x10, 0x1C, 3
NO_VECTOR = b"\xff\xff"


def transport(*, msix: bool, pin: int = 1, express: bool = False) -> Transport:
    return Transport(
        device_type=4,
        class_code=0x088000,
        features=Feature.VERSION_1 | Feature.NOTIFICATION_DATA,
        queue_sizes=[16, 16],
        interrupt_pin=pin,
        remapped=True,
        msix=msix,
        pci_express=express,
    )


def capabilities(function: Transport) -> list[tuple[int, int]]:
    """Id and place of each, in the order of the list."""
    found: list[tuple[int, int]] = []
    at = function.read(CONFIG, 0x34, 1)[0]
    while at:
        assert len(found) < 20, "a list without an end"
        found.append((function.read(CONFIG, at, 1)[0], at))
        at = function.read(CONFIG, at + 1, 1)[0]
    return found


@pytest.mark.parametrize("express", [False, True])
@pytest.mark.parametrize("msix", [False, True])
def test_the_capability_is_there_or_not(msix: bool, express: bool) -> None:
    kinds = [kind for kind, _ in capabilities(transport(msix=msix, express=express))]
    assert kinds.count(MSIX) == msix
    assert kinds.count(EXPRESS) == express
    assert kinds.count(VENDOR) == 4, "the window, common, notifications and ISR"


def test_without_msix_there_is_neither_bar_nor_vector() -> None:
    function = transport(msix=False)
    assert function.vectors == 0
    assert set(function.config.bars) == {REGISTERS}
    function.write(CONFIG, 0x10 + 4 * MSIX_BAR, b"\xff\xff\xff\xff")
    assert function.read(CONFIG, 0x10 + 4 * MSIX_BAR, 4) == bytes(4), "nothing to be placed"
    before = function.dropped
    function.write(MSIX_BAR, 0, b"\1\2\3\4")
    assert function.read(MSIX_BAR, 0, 4) == bytes(4)
    assert function.dropped == before + 2
    for queue in (0, 1):
        function.write(REGISTERS, QUEUE_SELECT, bytes([queue, 0]))
        for vector in (b"\0\0", b"\1\0", b"\2\0", NO_VECTOR):
            function.write(REGISTERS, QUEUE_VECTOR, vector)
            assert function.read(REGISTERS, QUEUE_VECTOR, 2) == NO_VECTOR
    function.write(REGISTERS, CONFIG_VECTOR, b"\0\0")
    assert function.read(REGISTERS, CONFIG_VECTOR, 2) == NO_VECTOR


def test_with_msix_there_are_both() -> None:
    function = transport(msix=True)
    assert function.vectors == 3
    assert set(function.config.bars) == {REGISTERS, MSIX_BAR}
    function.write(REGISTERS, QUEUE_VECTOR, b"\2\0")
    assert function.read(REGISTERS, QUEUE_VECTOR, 2) == b"\2\0"
    function.write(REGISTERS, QUEUE_VECTOR, b"\3\0")
    assert function.read(REGISTERS, QUEUE_VECTOR, 2) == NO_VECTOR


def start(function: Transport) -> None:
    """Bring a driver up that uses queue 0 only."""
    function.write(CONFIG, COMMAND, b"\6\0")
    for status in (b"\1", b"\3"):
        function.write(REGISTERS, DEVICE_STATUS, status)
    function.write(REGISTERS, 0x08, b"\1\0\0\0")
    function.write(REGISTERS, 0x0C, b"\1\0\0\0")
    function.write(REGISTERS, DEVICE_STATUS, b"\x0b")
    function.write(REGISTERS, QUEUE_ENABLE, b"\1\0")
    function.write(REGISTERS, DEVICE_STATUS, b"\x0f")
    assert function.running


def isr_place(function: Transport) -> int:
    """Where the ISR lies in BAR 0."""
    place = next(
        at for kind, at in capabilities(function) if kind == VENDOR and function.read(CONFIG, at + 3, 1)[0] == ISR
    )
    return int.from_bytes(function.read(CONFIG, place + 8, 4), "little")


def test_without_msix_the_pin_tells_everything() -> None:
    function = transport(msix=False)
    start(function)
    assert function.signal_queue(0) == INTX
    assert function.read(CONFIG, 0x06, 1)[0] & STATUS_INTERRUPT
    assert function.read(REGISTERS, isr_place(function), 1) == b"\1"
    assert not function.read(CONFIG, 0x06, 1)[0] & STATUS_INTERRUPT, "reading the ISR takes it back"
    assert function.signal_config() == INTX
    assert function.read(REGISTERS, isr_place(function), 1) == b"\2"


def test_a_pin_that_was_disabled_is_asserted_when_it_is_enabled_again() -> None:
    """What "Interrupt Disable" keeps back is not lost."""
    function = transport(msix=False)
    start(function)
    function.write(CONFIG, COMMAND, b"\6\4")
    assert function.signal_queue(0) is None
    assert function.read(CONFIG, 0x06, 1)[0] & STATUS_INTERRUPT, "whatever is disabled"
    assert list(function.write(CONFIG, COMMAND, b"\6\0")) == [INTX]
    assert list(function.write(CONFIG, COMMAND, b"\6\4")) == []
    assert function.read(REGISTERS, isr_place(function), 1) == b"\1"
    assert list(function.write(CONFIG, COMMAND, b"\6\0")) == [], "the guest has seen it"


def test_no_write_to_configuration_space_enables_what_is_not_there() -> None:
    function = transport(msix=False)
    start(function)
    for size in (1, 2, 4):
        for at in range(0x40, 0x100, size):
            function.write(CONFIG, at, b"\xff" * size)
    assert not function.msix.enabled
    assert function.signal_queue(0) == INTX


def test_the_window_reaches_registers_with_and_without_msix() -> None:
    """The capability by which configuration accesses reach BARs; its place depends on what comes before it."""
    for msix in (False, True):
        function = transport(msix=msix)
        window = next(
            at for kind, at in capabilities(function) if kind == VENDOR and function.read(CONFIG, at + 3, 1)[0] == 5
        )
        function.write(CONFIG, window + 4, b"\0")
        function.write(CONFIG, window + 8, (0x12).to_bytes(4, "little"))
        function.write(CONFIG, window + 12, (2).to_bytes(4, "little"))
        assert function.read(CONFIG, window + 16, 2) == b"\2\0", "num_queues"
        if not msix:
            function.write(CONFIG, window + 4, bytes([MSIX_BAR]))
            assert function.read(CONFIG, window + 16, 4) == bytes(4)


def test_as_many_queues_as_there_can_be() -> None:
    with pytest.raises(UsageError):
        Transport(device_type=4, class_code=0, features=Feature(0), queue_sizes=[], msix=False, interrupt_pin=1)
