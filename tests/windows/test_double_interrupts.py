"""Interrupts of the double: which messages a guest programmed, masked, and gets."""

import pytest
from double_bench import Bench, TinyDevice, bench
from double_control import unsigned

ENABLE, FUNCTION_MASK = 0x8000, 0x4000


def program(b: Bench, vector: int, message: tuple[int, int], control: int = 0) -> None:
    entry = b.window(2).address + 16 * vector
    b.guest.mmio_write(entry, 8, message[0])
    b.guest.mmio_write(entry + 8, 8, message[1] | control << 32)


def deliver(b: Bench, device: TinyDevice, message: tuple[int, int]) -> int:
    return unsigned(b.lib.HdvDeliverGuestInterrupt(device.handle, *message))


def test_a_programmed_message_reaches_the_guest() -> None:
    with bench() as b, b.attached() as device:
        got: list[tuple[int, int]] = []
        b.guest.on_interrupt(lambda address, data: got.append((address, data)))
        first, second = b.guest.allocate_msi(), b.guest.allocate_msi()
        program(b, 0, first)
        program(b, 3, second)
        b.guest.config_write(b.slot, 0x42, 2, ENABLE)
        assert deliver(b, device, second) == 0
        assert deliver(b, device, first) == 0
        assert got == [second, first]
        assert b.double.count("interrupts") == 2
        assert [(address, data) for _, address, data in b.guest.deliveries()] == got
        b.guest.on_interrupt(None)
        assert deliver(b, device, first) == 0
        assert len(got) == 2


def test_messages_that_nobody_programmed_are_refused() -> None:
    with bench(faults=True) as b, b.attached() as device:
        taken = b.guest.allocate_msi()
        program(b, 0, (taken[0], taken[1] + 1))
        b.guest.config_write(b.slot, 0x42, 2, ENABLE)
        assert deliver(b, device, taken) == 0x80070057
        assert deliver(b, device, (taken[0], taken[1] + 1)) == 0x80070057
        assert b.double.count("interrupts_strange") == 2
        assert len(b.double.warnings()) == 2


@pytest.mark.parametrize(("vector_control", "control"), [(1, ENABLE), (0, 0), (0, ENABLE | FUNCTION_MASK)])
def test_masked_messages_are_not_delivered(vector_control: int, control: int) -> None:
    with bench(faults=True) as b, b.attached() as device:
        b.double.set(mask_grace_ms=0)
        got: list[int] = []
        b.guest.on_interrupt(lambda _, data: got.append(data))
        message = b.guest.allocate_msi()
        program(b, 0, message, vector_control)
        b.guest.config_write(b.slot, 0x42, 2, control)
        assert deliver(b, device, message) == 0
        assert got == []
        assert "has masked" in b.double.warnings()[0]


def test_a_mask_is_heeded_from_its_answer_and_lifted_at_once() -> None:
    with bench() as b, b.attached() as device:
        b.double.set(mask_grace_ms=0)
        got: list[int] = []
        b.guest.on_interrupt(lambda _, data: got.append(data))
        message = b.guest.allocate_msi()
        b.guest.config_write(b.slot, 0x42, 2, ENABLE)
        program(b, 0, message, 1)
        device.before["WriteInterceptedMemory"] = lambda: deliver(b, device, message)
        b.guest.mmio_write(b.window(2).address + 12, 4, 0)
        assert len(got) == 1
        b.guest.mmio_write(b.window(2).address + 12, 4, 1)
        assert len(got) == 2


def test_a_moment_of_grace_for_what_just_changed() -> None:
    with bench(faults=True) as b, b.attached() as device:
        b.double.set(mask_grace_ms=60_000)
        old, new = b.guest.allocate_msi(), b.guest.allocate_msi()
        b.guest.config_write(b.slot, 0x42, 2, ENABLE)
        program(b, 0, old)
        program(b, 0, new, 1)
        assert [deliver(b, device, message) for message in (old, new)] == [0, 0]
        assert b.double.warnings() == []


def test_every_nth_interrupt_may_be_lost() -> None:
    with bench() as b, b.attached() as device:
        b.double.set(lose_interrupts=3)
        got: list[int] = []
        b.guest.on_interrupt(lambda _, data: got.append(data))
        message = b.guest.allocate_msi()
        program(b, 0, message)
        b.guest.config_write(b.slot, 0x42, 2, ENABLE)
        assert [deliver(b, device, message) for _ in range(9)] == [0] * 9
        assert len(got) == 6
        assert b.double.count("interrupts_lost") == 3


def test_a_machine_that_is_gone_takes_no_interrupts() -> None:
    with bench() as b, b.attached() as device:
        message = b.guest.allocate_msi()
        program(b, 0, message)
        b.guest.config_write(b.slot, 0x42, 2, ENABLE)
        b.guest.kill()
        assert deliver(b, device, message) == 0x800706BA
