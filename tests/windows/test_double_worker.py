"""The VM worker process of the double: its COM objects, doorbells, ranges backed by sections."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from double_bench import (
    FLEXIO,
    IID_ACCESS,
    IID_DEVICE_HOST,
    IID_MAPPINGS,
    IID_NOTIFICATION,
    INSTANCE,
    SECOND,
    VM,
    Bench,
    TinyDevice,
    bench,
)
from double_control import unsigned

WORD, ANY_VALUE = 2, 0x80000000
NOTIFY = 0x38


class Notification:
    """The interface that doorbells are registered with, and an event."""

    def __init__(self, b: Bench, pointer: Any) -> None:
        self.pointer = pointer
        self.event = b.lib.CreateEventW(b.platform.ffi.NULL, False, False, b.platform.ffi.NULL)
        self._b = b

    def register(self, *tuple_: int, event: Any = None) -> int:
        """BAR, offset, value, flags."""
        return self._call("RegisterDoorbell", *tuple_, self.event if event is None else event)

    def unregister(self, *tuple_: int) -> int:
        """BAR, offset, value, flags."""
        return self._call("UnregisterDoorbell", *tuple_)

    def rang(self) -> bool:
        """Whether the event was set since the last look."""
        return bool(self._b.lib.WaitForSingleObject(self.event, 0) == 0)

    def _call(self, name: str, *arguments: Any) -> int:
        table = "IVmFiovGuestMemoryFastNotificationVtbl"
        return unsigned(self._b.platform.method(table, self.pointer, name, *arguments))


@contextmanager
def notification(b: Bench) -> Iterator[Notification]:
    device = b.device_of_worker()
    code, pointer = b.platform.query(device, IID_NOTIFICATION)
    assert code == 0
    b.platform.release(device)
    found = Notification(b, pointer)
    yield found
    b.lib.CloseHandle(found.event)
    b.platform.release(pointer)


def worker(b: Bench, vm: str = VM, iid: str = IID_ACCESS) -> tuple[int, Any]:
    return b.platform.out(b.lib.GetVmWorkerProcess, b.platform.guid(vm), b.platform.guid(iid))


def get_device(b: Bench, access: Any, category: str = FLEXIO, instance: str = INSTANCE) -> tuple[int, Any]:
    method = b.platform.ffi.cast("IVmVirtualDeviceAccessVtbl **", access)[0].GetDevice
    return b.platform.out(method, access, b.platform.guid(category), b.platform.guid(instance))


def test_a_doorbell_takes_exactly_what_it_matches() -> None:
    with bench() as b, b.attached() as device, b.apartment(), notification(b) as n:
        address = b.window().address
        assert n.register(0, NOTIFY, 1, WORD) == 0
        b.guest.mmio_write(address + NOTIFY, 2, 1)
        assert n.rang()
        assert not n.rang()
        assert device.writes == []
        for offset, size, value in ((NOTIFY, 2, 2), (NOTIFY, 4, 1), (NOTIFY + 2, 2, 1)):
            b.guest.mmio_write(address + offset, size, value)
        assert not n.rang()
        assert len(device.writes) == 3
        assert b.double.count("doorbells") == 1
        assert n.unregister(0, NOTIFY, 1, WORD) == 0
        b.guest.mmio_write(address + NOTIFY, 2, 1)
        assert len(device.writes) == 4


@pytest.mark.parametrize(("flags", "sizes"), [(0, {1, 2, 4, 8}), (1, {1}), (2, {2}), (3, {4}), (4, {8})])
def test_sizes_and_any_value(flags: int, sizes: set[int]) -> None:
    with bench() as b, b.attached(), b.apartment(), notification(b) as n:
        assert n.register(0, NOTIFY, 0, flags | ANY_VALUE) == 0
        rang = set()
        for size in (1, 2, 4, 8):
            b.guest.mmio_write(b.window().address + NOTIFY, size, 0xA5)
            if n.rang():
                rang.add(size)
        assert rang == sizes
        assert n.unregister(0, NOTIFY, 0, flags | ANY_VALUE) == 0


def test_tuples_are_looked_at() -> None:
    with bench(faults=True) as b, b.attached(), b.apartment(), notification(b) as n:
        assert n.register(0, NOTIFY, 0, 5) == 0x80070057
        assert n.register(1, NOTIFY, 0, WORD) == 0x80070057
        assert n.register(0, 4096, 0, WORD) == 0x80070057
        assert n.register(0, NOTIFY, 1, WORD | ANY_VALUE) == 0x80070057
        assert n.register(0, NOTIFY, 0, 0xFFFFFFFF80000000) == 0x80070057
        assert n.register(0, NOTIFY, 1, WORD, event=b.platform.ffi.cast("void *", 0x7FFFFFF4)) == 0x80070006
        assert n.register(0, NOTIFY, 1, WORD) == 0
        assert n.register(0, NOTIFY, 1, WORD) == 0x800700B7
        assert n.unregister(0, NOTIFY, 0, WORD) == 0x80070490
        assert n.unregister(0, NOTIFY, 1, WORD) == 0


def test_more_than_eight_doorbells_are_reported_or_refused() -> None:
    with bench(faults=True) as b, b.attached(), b.apartment(), notification(b) as n:
        assert [n.register(0, NOTIFY, at, WORD) for at in range(9)] == [0] * 9
        assert "more than 8 doorbells" in b.double.warnings()[0]
        b.double.set(refuse_ninth=1)
        assert n.register(0, NOTIFY, 9, WORD) == 0x80070005
        assert [n.unregister(0, NOTIFY, at, WORD) for at in range(9)] == [0] * 9


def test_the_event_has_to_stay_open_and_doorbells_have_to_go() -> None:
    with bench(faults=True) as b, b.apartment():
        with b.attached(), notification(b) as n:
            event = b.lib.CreateEventW(b.platform.ffi.NULL, False, False, b.platform.ffi.NULL)
            assert n.register(0, NOTIFY, 1, WORD, event=event) == 0
            assert n.register(0, NOTIFY, 2, WORD) == 0
            b.lib.CloseHandle(event)
            b.guest.mmio_write(b.window().address + NOTIFY, 2, 1)
            assert b.double.count("doorbells") == 1
            assert n.unregister(0, NOTIFY, 1, WORD) == 0
        report = "\n".join(b.double.problems())
        assert "was closed before it was unregistered" in report
        assert f"1 doorbells of slot {INSTANCE} are registered after the device host" in report
        assert "leak: 1 doorbells" in report


def test_doorbells_of_the_host_itself_are_denied() -> None:
    with bench() as b, b.attached() as device:
        event = b.lib.CreateEventW(b.platform.ffi.NULL, False, False, b.platform.ffi.NULL)
        assert unsigned(b.lib.HdvRegisterDoorbell(device.handle, 0, NOTIFY, 0, WORD, event)) == 0x80070005
        assert b.lib.CloseHandle(event)


def test_the_way_to_the_worker() -> None:
    with bench(faults=True) as b, b.attached(), b.apartment():
        assert worker(b, SECOND)[0] == 0x8037010E
        assert worker(b, VM, IID_DEVICE_HOST)[0] == 0x80004002
        code, access = worker(b)
        assert code == 0
        assert get_device(b, access, instance=SECOND)[0] == 0x80070490
        assert get_device(b, access, category=SECOND)[0] == 0x80070057
        b.double.set(check_category=0)
        code, device = get_device(b, access, category=SECOND)
        assert code == 0
        assert b.platform.query(device, IID_ACCESS)[0] == 0x80004002
        b.platform.release(access, device)
        [problem] = b.double.warnings()
        assert "the category is not FLEXIO" in problem


def test_a_device_is_found_once_it_was_added() -> None:
    with bench() as b, b.apartment(), b.host() as (_, host):
        del host
        code, access = worker(b)
        assert code == 0
        assert get_device(b, access)[0] == 0x80070490
        b.platform.release(access)


def test_the_worker_may_be_missing_or_answer_null() -> None:
    with bench() as b, b.attached(), b.apartment():
        null = b.platform.ffi.NULL
        b.double.set(worker_missing=1)
        assert worker(b) == (0x8007007E, null)
        b.double.set(worker_missing=0, worker_null=1)
        assert worker(b) == (0, null)
        b.double.set(worker_null=2)
        _, access = worker(b)
        assert get_device(b, access) == (0, null)
        b.double.set(worker_null=3)
        _, device = get_device(b, access)
        assert b.platform.query(device, IID_NOTIFICATION) == (0, null)
        b.platform.release(access, device)


def test_references_that_are_kept_are_leaks() -> None:
    with bench(faults=True) as b, b.apartment():
        with b.attached():
            b.device_of_worker()
        assert b.double.problems() == ["leak: 1 COM references"]


def test_after_removal_only_the_stored_interface_helps() -> None:
    with bench() as b, b.apartment(), b.attached(), notification(b) as n:
        assert n.register(0, NOTIFY, 1, WORD) == 0
        b.double.set(removal=1)
        system = b.platform.open(VM)
        assert b.platform.modify(system, "Remove", INSTANCE)[0] == 0
        b.lib.HcsCloseComputeSystem(system)
        _, access = worker(b)
        assert get_device(b, access)[0] == 0x80070490
        b.platform.release(access)
        assert n.register(0, NOTIFY, 2, WORD) == 0x80070490
        assert n.unregister(0, NOTIFY, 1, WORD) == 0


def test_a_dead_worker_still_lets_go() -> None:
    with bench(faults=True) as b, b.apartment(), b.attached(), notification(b) as n:
        assert n.register(0, NOTIFY, 1, WORD) == 0
        b.guest.kill()
        assert n.unregister(0, NOTIFY, 1, WORD) == 0x800706BA


@pytest.mark.skipif(sys.platform != "linux", reason="a section is a descriptor here")
def test_a_section_answers_in_the_place_of_the_device() -> None:
    with bench() as b, b.apartment(), b.attached() as device:
        worker_device = b.device_of_worker()
        _, mappings = b.platform.query(worker_device, IID_MAPPINGS)
        fd = os.memfd_create("window")
        os.ftruncate(fd, 8192)
        os.pwrite(fd, b"section!", 4096)
        section = b.platform.ffi.cast("void *", fd)

        def call(name: str, *arguments: Any) -> int:
            return unsigned(b.platform.method("IVmFiovGuestMmioMappingsVtbl", mappings, name, *arguments))

        assert call("CreateSectionBackedMmioRange", 0, 0, 2, 1, section, 0) == 0x80070057
        assert call("CreateSectionBackedMmioRange", 0, 0, 1, 1, section, 1) == 0
        assert b.guest.mmio_read(b.window().address, 8).to_bytes(8, "little") == b"section!"
        b.guest.mmio_write(b.window().address, 1, ord("S"))
        assert os.pread(fd, 8, 4096) == b"Section!"
        assert device.writes == []
        assert call("DestroySectionBackedMmioRange", 0, 0) == 0
        assert call("DestroySectionBackedMmioRange", 0, 0) == 0x80070490
        assert b.guest.mmio_read(b.window().address, 8) == 0
        create = b.lib.HdvCreateSectionBackedMmioRange
        assert unsigned(create(device.handle, 0, 0, 1, 1, section, 0)) == 0x80070005
        b.platform.release(worker_device, mappings)
        os.close(fd)


def test_a_section_before_the_start_is_too_early() -> None:
    with bench(running=False) as b, b.host() as (_, host):
        device = TinyDevice(b.platform)
        assert device.create(host, INSTANCE) == 0
        create = b.lib.HdvCreateSectionBackedMmioRange
        assert unsigned(create(device.handle, 0, 0, 1, 1, b.platform.ffi.NULL, 0)) == 0x8007139F
