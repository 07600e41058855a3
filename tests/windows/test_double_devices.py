"""Devices and slots of the double: what is refused, what is reported, and what a guest sees of configuration space."""

import threading
import time
from collections.abc import Callable

import pytest
from double_bench import INSTANCE, SECOND, VM, TinyDevice, bench
from double_control import EXTERNAL, VIRTIO_FS_CLASS

CUSTOM = "a7e11e40-0001-4a7e-9c00-a7e100000001"


@pytest.mark.parametrize(
    "fault",
    [
        lambda device: setattr(device.table, "Version", 2),
        lambda device: setattr(device.table, "Stop", device.platform.ffi.NULL),
    ],
    ids=["version", "missing callback"],
)
def test_an_incomplete_interface_is_refused(fault: Callable[[TinyDevice], None]) -> None:
    with bench(faults=True) as b, b.host() as (_, host):
        device = TinyDevice(b.platform)
        fault(device)
        assert device.create(host, INSTANCE) == 0x80070057
        assert len(b.double.warnings()) > 0


def test_only_pci_devices_and_each_instance_once() -> None:
    with bench(faults=True) as b, b.host() as (_, host):
        first, second = TinyDevice(b.platform), TinyDevice(b.platform)
        assert first.create(host, INSTANCE, kind=0) == 0x80070057
        assert first.create(host, INSTANCE) == 0
        assert second.create(host, INSTANCE) == 0x800700B7


@pytest.mark.parametrize(("class_id", "code"), [(VIRTIO_FS_CLASS, 0), (CUSTOM, 0xC0350005)])
def test_a_second_custom_class_is_refused_when_it_is_added(class_id: str, code: int) -> None:
    with bench() as b, b.host() as (system, host):
        for instance, expected in ((INSTANCE, 0), (SECOND, code)):
            assert TinyDevice(b.platform).create(host, instance, class_id) == 0
            assert b.platform.modify(system, "Add", instance, EmulatorId=class_id)[0] == expected


def test_a_second_custom_class_is_refused_at_the_start() -> None:
    with bench(running=False) as b, b.host() as (system, host):
        for instance in (INSTANCE, SECOND):
            assert b.guest.cold_slot(instance, CUSTOM) == 0
            assert TinyDevice(b.platform).create(host, instance, CUSTOM) == 0
        assert b.platform.wait(b.lib.HcsStartComputeSystem, system, b.platform.ffi.NULL)[0] == 0xC0350005


@pytest.mark.parametrize("hosting", ["ExternalRestricted", EXTERNAL])
def test_a_cold_slot_without_a_device_fails_the_start(hosting: str) -> None:
    with bench(running=False) as b, b.host():
        assert b.guest.cold_slot(INSTANCE, hosting=hosting) == 0
        assert b.guest.start() == 0x8000FFFF


def test_add_needs_a_device_and_a_running_machine() -> None:
    with bench(running=False) as b, b.host() as (system, host):
        device = TinyDevice(b.platform)
        assert device.create(host, INSTANCE) == 0
        assert b.platform.modify(system, "Add", INSTANCE)[0] == 0x80370105
        assert b.guest.start() == 0
        code, document = b.platform.modify(system, "Add", SECOND)
        assert code == 0x8000FFFF
        assert document is not None
        assert b.platform.modify(system, "Add", INSTANCE) == (0, None)


def test_a_slot_is_added_once() -> None:
    with bench(faults=True) as b, b.attached():
        system = b.platform.open(VM)
        assert b.platform.modify(system, "Add", INSTANCE)[0] == 0x80070057
        b.lib.HcsCloseComputeSystem(system)


def test_remove_is_not_supported_unless_it_is() -> None:
    with bench() as b, b.host() as (system, host):
        device = TinyDevice(b.platform)
        assert device.create(host, INSTANCE) == 0
        assert b.platform.modify(system, "Add", INSTANCE)[0] == 0
        assert b.platform.modify(system, "Remove", INSTANCE)[0] == 0x80070032
        assert b.guest.slot(INSTANCE) is not None
        b.double.set(removal=1)
        assert b.platform.modify(system, "Remove", INSTANCE)[0] == 0
        assert b.guest.slot(INSTANCE) is None
        assert device.calls[-1] == "Stop"
        assert b.guest.config_read(0, 0, 4) == 0xFFFFFFFF


def test_a_failing_callback_fails_the_add() -> None:
    with bench(faults=True) as b, b.host() as (system, host):
        device = TinyDevice(b.platform, codes={"Start": 0x80004005})
        assert device.create(host, INSTANCE) == 0
        code, document = b.platform.modify(system, "Add", INSTANCE)
        assert code == 0x80004005
        assert "a callback failed" in str(document)
        assert b.guest.slot(INSTANCE) is None
        assert b.double.warnings() == ["Start of device 0 returned 0x80004005"]


@pytest.mark.parametrize(
    ("words", "fine"),
    [
        ([0xFFFFF004, 0xFFFFFFFF, 0, 0, 0, 0], True),
        ([0xFFFFF000, 0, 0, 0, 0, 0], True),
        ([0, 0, 0, 0, 0xFFE0000C, 0xFFFFFFFF], True),
        ([0x00000004, 0xFFFFFFFE, 0, 0, 0, 0], True),
        ([0xFFFFFF04, 0xFFFFFFFF, 0, 0, 0, 0], False),
        ([0xFFFFD004, 0xFFFFFFFF, 0, 0, 0, 0], False),
        ([0xFFFFF004, 0, 0, 0, 0, 0], False),
        ([0, 0, 0, 0, 0, 0xFFFFF004], False),
        ([0xFFFFF001, 0, 0, 0, 0, 0], False),
        ([0xFFFFF002, 0, 0, 0, 0, 0], False),
    ],
)
def test_bars_have_to_be_possible(words: list[int], fine: bool) -> None:
    with bench(faults=True) as b, b.host() as (system, host):
        device = TinyDevice(b.platform, words=words)
        assert device.create(host, INSTANCE) == 0
        assert b.platform.modify(system, "Add", INSTANCE)[0] == (0 if fine else 0x80070057)
        assert any("BAR" in line for line in b.double.warnings()) != fine


def test_a_bus_master_is_rejected_and_identity_is_compared() -> None:
    with bench(faults=True) as b, b.host() as (system, host):
        device, other = TinyDevice(b.platform), TinyDevice(b.platform)
        device.config[4] = 4
        other.config[2] = 0x42
        assert device.create(host, INSTANCE) == 0
        assert other.create(host, SECOND) == 0
        assert b.platform.modify(system, "Add", INSTANCE)[0] == 0x80070057
        assert b.platform.modify(system, "Add", SECOND)[0] == 0
        master, identity = b.double.warnings()
        assert "bus master" in master
        assert "differ in identity" in identity


def test_get_details_has_no_side_effects_and_one_answer() -> None:
    with bench(faults=True) as b, b.host() as (system, host):
        b.double.set(details_null=1)
        device = TinyDevice(b.platform)
        device.before["GetDetails"] = lambda: (device.config.__setitem__(4, 2), device.words.__setitem__(1, 0xFFFFFFF0))
        assert device.create(host, INSTANCE) == 0
        assert b.platform.modify(system, "Add", INSTANCE)[0] == 0x80070057
        report = "\n".join(b.double.problems())
        assert "changes its command register" in report

    with bench(faults=True) as b, b.attached() as device:
        device.words[2:4] = [0, 0]
        b.double.set(details_every=1)
        b.guest.mmio_read(b.window().address, 4)
        b.guest.mmio_read(b.window().address, 4)
        while not b.double.warnings():
            time.sleep(0.01)
        assert "another answer than before" in b.double.warnings()[0]


def test_the_vid_answers_for_bars_and_command() -> None:
    with bench() as b, b.attached() as device:
        assert b.guest.config_read(b.slot, 0x04, 2) == 0x0006
        assert b.guest.config_read(b.slot, 0x06, 2) == 0x0010
        b.guest.config_write(b.slot, 0x10, 4, 0xFFFFFFFF)
        assert b.guest.config_read(b.slot, 0x10, 4) == 0xFFFFF004
        assert b.guest.config_read(b.slot, 0x10, 2) == 0xF004
        assert b.guest.config_read(b.slot, 0x18, 4) & 0xF == 4
        assert b.guest.config_read(b.slot, 0x20, 4) == 0
        b.guest.config_write(b.slot, 0x3C, 1, 11)
        assert b.guest.config_read(b.slot, 0x3C, 1) == 11
        assert device.config_writes == []
        b.guest.config_write(b.slot, 0x42, 2, 0x8000)
        assert device.config_writes == [(0x40, 0x80000011)]
        assert b.guest.config_read(b.slot, 0x43, 1) == 0x80


def test_a_guest_without_memory_decode_reaches_no_bar() -> None:
    with bench() as b, b.attached() as device:
        window = b.window()
        b.guest.config_write(b.slot, 0x04, 2, 0)
        assert not b.guest.mmio_write(window.address, 4, 1)
        assert device.writes == []


def test_accesses_come_from_several_threads_at_once() -> None:
    together = threading.Barrier(3)
    with bench() as b, b.attached() as device:
        address = b.window().address
        device.threads.clear()
        device.before["ReadInterceptedMemory"] = lambda: together.wait(10) and None
        guests = [threading.Thread(target=b.guest.mmio_read, args=(address, 4)) for _ in range(3)]
        for guest in guests:
            guest.start()
        for guest in guests:
            guest.join()
        assert len(device.threads) >= 3


def test_a_slow_callback_is_reported() -> None:
    with bench(faults=True) as b, b.attached() as device:
        b.double.set(slow_ms=20, details_every=0)
        device.before["ReadInterceptedMemory"] = lambda: time.sleep(0.1)
        assert b.guest.mmio_read(b.window().address, 4) == 0
        assert b.double.warnings() == ["ReadInterceptedMemory of device 0 took longer than 20 ms"]
        assert b.double.count("slow_callbacks") == 1


def test_a_device_that_fails_a_read_gives_all_ones() -> None:
    with bench(faults=True) as b, b.attached() as device:
        device.codes["ReadInterceptedMemory"] = device.codes["ReadConfigSpace"] = 0x80004005
        assert b.guest.mmio_read(b.window().address, 2) == 0xFFFF
        assert b.guest.config_read(b.slot, 0, 4) == 0xFFFFFFFF


def test_a_machine_that_dies_calls_nobody() -> None:
    with bench() as b, b.attached() as device:
        b.guest.kill()
        assert b.guest.slot(INSTANCE) is None
        assert "Stop" not in device.calls
        assert b.aperture(device, 1 << 32)[0] == 0x800706BA


def test_a_stop_may_tear_down() -> None:
    with bench() as b:
        b.double.set(teardown_at_stop=1)
        with b.attached() as device:
            assert b.guest.stop() == 0
            assert device.calls[-2:] == ["Stop", "Teardown"]
        assert device.calls.count("Teardown") == 1
