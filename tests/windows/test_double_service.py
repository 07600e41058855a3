"""The compute service of the double: operations, documents, properties, events; and events and waits of the kernel."""

import json
import sys
import threading
from typing import Any

import pytest
from double_bench import GENERIC_ALL, INSTANCE, VM, Bench, TinyDevice, bench
from double_control import VIRTIO_FS_CLASS, unsigned

INFINITE = 0xFFFFFFFF
ADD: dict[str, Any] = {
    "ResourcePath": f"VirtualMachine/Devices/FlexibleIov/{INSTANCE}",
    "RequestType": "Add",
    "Settings": {"EmulatorId": VIRTIO_FS_CLASS, "HostingModel": "ExternalRestricted"},
}
MACHINE: dict[str, Any] = {
    "Owner": "test",
    "SchemaVersion": {"Major": 2, "Minor": 7},
    "ShouldTerminateOnLastHandleClosed": True,
    "VirtualMachine": {
        "ComputeTopology": {"Memory": {"SizeInMB": 64}, "Processor": {"Count": 2}},
        "Devices": {"FlexibleIov": {INSTANCE: ADD["Settings"]}},
    },
}


def operation(b: Bench) -> Any:
    return b.lib.HcsCreateOperation(b.platform.ffi.NULL, b.platform.ffi.NULL)


def modify(b: Bench, system: Any, document: str, op: Any) -> int:
    return unsigned(b.lib.HcsModifyComputeSystem(system, op, b.platform.wide(document), b.platform.ffi.NULL))


def properties(b: Bench, system: Any) -> tuple[int, str | None]:
    return b.platform.wait(b.lib.HcsGetComputeSystemProperties, system, b.platform.ffi.NULL)


def test_properties_tell_the_runtime_id() -> None:
    with bench() as b:
        system = b.platform.open(VM)
        code, document = properties(b, system)
        assert code == 0
        told = json.loads(str(document))
        assert (told["Id"], told["RuntimeId"], told["SystemType"]) == (VM, VM, "VirtualMachine")
        b.guest.properties('{"RuntimeId":"nonsense"}')
        assert properties(b, system) == (0, '{"RuntimeId":"nonsense"}')
        b.guest.properties(None)
        b.double.fail_next("HcsGetComputeSystemProperties", 0x80370118)
        b.double.fail_next("HcsGetComputeSystemProperties.result", 0x80004005, document='{"Error":1}')
        assert properties(b, system) == (0x80370118, None)
        assert properties(b, system) == (0x80004005, '{"Error":1}')
        assert properties(b, system)[0] == 0
        b.lib.HcsCloseComputeSystem(system)


def test_a_wait_may_time_out_while_the_operation_goes_on() -> None:
    with bench() as b:
        system = b.platform.open(VM)
        b.double.delay("HcsGetComputeSystemProperties.answer", 300)
        op = operation(b)
        assert b.lib.HcsGetComputeSystemProperties(system, op, b.platform.ffi.NULL) == 0
        assert b.platform.out(b.lib.HcsWaitForOperationResult, op, 10, kind="WCHAR **")[0] == 0x80370118
        assert b.platform.out(b.lib.HcsGetOperationResult, op, kind="WCHAR **")[0] == 0x80370117
        code, document = b.platform.out(b.lib.HcsWaitForOperationResult, op, INFINITE, kind="WCHAR **")
        assert code == 0
        b.lib.LocalFree(document)
        b.lib.HcsCloseOperation(op)
        b.lib.HcsCloseComputeSystem(system)


def test_an_operation_is_used_once_and_waited_for_when_it_runs() -> None:
    with bench(faults=True) as b:
        system = b.platform.open(VM)
        used, refused, fresh = operation(b), operation(b), operation(b)
        null = b.platform.ffi.NULL
        assert b.lib.HcsGetComputeSystemProperties(system, used, null) == 0
        assert b.lib.HcsWaitForOperationResult(used, INFINITE, null) == 0
        assert unsigned(b.lib.HcsGetComputeSystemProperties(system, used, null)) == 0x80370116
        assert modify(b, system, "{", refused) == 0x8037010D
        assert unsigned(b.lib.HcsWaitForOperationResult(refused, INFINITE, null)) == 0x80370115
        assert unsigned(b.lib.HcsWaitForOperationResult(fresh, INFINITE, null)) == 0x80370115
        assert unsigned(b.lib.HcsGetComputeSystemProperties(system, null, null)) == 0x80004003
        report = b.double.problems()
        assert any("the operation has been used before" in line for line in report)
        assert any("had failed, nothing was started" in line for line in report)
        assert "leak: 3 operations" in report
        assert "leak: 1 system handles" in report


@pytest.mark.skipif(sys.platform == "win32", reason="strings are counted on Linux")
def test_strings_that_are_kept_are_leaks() -> None:
    with bench(faults=True) as b:
        b.platform.out(b.lib.HcsGetServiceProperties, b.platform.ffi.NULL, kind="WCHAR **")
        assert b.double.problems() == ["leak: 1 result strings"]


def test_a_callback_instead_of_a_wait() -> None:
    with bench() as b:
        system, done = b.platform.open(VM), threading.Event()
        threads: list[int] = []

        def completed(*_: Any) -> None:
            threads.append(threading.get_ident())
            done.set()

        callback = b.platform.ffi.callback("void(void *, void *)", completed)
        op = b.lib.HcsCreateOperation(b.platform.ffi.NULL, callback)
        assert b.lib.HcsGetComputeSystemProperties(system, op, b.platform.ffi.NULL) == 0
        assert done.wait(10)
        assert threads != [threading.get_ident()]
        b.lib.HcsCloseOperation(op)
        b.lib.HcsCloseComputeSystem(system)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"Extra": 1}, 0x8037010D),
        ({"Settings": ADD["Settings"] | {"Placement": 1}}, 0x8037010D),
        ({"Settings": {"EmulatorId": VIRTIO_FS_CLASS}}, 0x80070057),
        ({"Settings": ADD["Settings"] | {"EmulatorId": VIRTIO_FS_CLASS.upper()}}, 0x80070057),
        ({"Settings": ADD["Settings"] | {"HostingModel": "Internal"}}, 0x80070057),
        ({"ResourcePath": ADD["ResourcePath"].replace(INSTANCE, "{" + INSTANCE + "}")}, 0x80070057),
        ({"ResourcePath": "VirtualMachine/Devices/Scsi/0"}, 0x80070057),
        ({"RequestType": "Update"}, 0x80070057),
        ({"RequestType": None}, 0x8037010D),
    ],
)
def test_documents_have_the_expected_keys_and_guids(change: dict[str, object], code: int) -> None:
    with bench(faults=True) as b:
        op, system = operation(b), b.platform.open(VM)
        assert modify(b, system, json.dumps(ADD | change), op) == code
        assert len(b.double.warnings()) == 1


@pytest.mark.parametrize("text", ["", "[]x", '{"a":1,"a":2}', '{"a"}', '"\\x"', '{"a":"b}', "[" * 100])
def test_what_is_no_json_is_refused(text: str) -> None:
    with bench(faults=True) as b:
        assert modify(b, b.platform.open(VM), text, operation(b)) == 0x8037010D


def test_an_add_may_fail_as_told() -> None:
    with bench() as b, b.host() as (system, host):
        device = TinyDevice(b.platform)
        assert device.create(host, INSTANCE) == 0
        b.double.fail_next("HcsModifyComputeSystem", 0x8037011B)
        b.double.fail_next("HcsModifyComputeSystem.result", 0x80070057, document='{"Error":-2147024809}')
        assert b.platform.modify(system, "Add", INSTANCE) == (0x8037011B, None)
        assert device.calls == []
        assert b.platform.modify(system, "Add", INSTANCE) == (0x80070057, '{"Error":-2147024809}')
        assert device.calls == []
        b.double.fail_next("HcsModifyComputeSystem.answer", 0x80370118)
        assert b.platform.modify(system, "Add", INSTANCE) == (0x80370118, None)
        assert b.guest.slot(INSTANCE) is not None


def test_open_wants_all_access_and_a_known_id() -> None:
    with bench(faults=True) as b:
        open_system = b.lib.HcsOpenComputeSystem
        assert b.platform.out(open_system, b.platform.wide("nobody"), GENERIC_ALL)[0] == 0x8037010E
        assert b.platform.out(open_system, b.platform.wide(VM), 1)[0] == 0x80070005
        assert b.double.warnings() != []


def test_a_machine_of_ones_own_lives_as_long_as_its_handle() -> None:
    with bench() as b:
        system_id = "of-ones-own"
        null = b.platform.ffi.NULL
        place = b.platform.ffi.new("void **")
        arguments = (b.platform.wide(system_id), b.platform.wide(json.dumps(MACHINE)), null, place)
        create = b.lib.HcsCreateComputeSystem
        assert b.platform.wait(create, *arguments, at=2)[0] == 0
        assert b.platform.wait(create, *arguments, at=2)[0] == 0x8037010F
        system = b.double.find(system_id)
        code, document = b.platform.wait(b.lib.HcsStartComputeSystem, place[0], null)
        assert code == 0x8000FFFF
        assert document is not None
        exits: list[int] = []
        gone = threading.Event()

        def told(event: Any, _: Any) -> None:
            exits.append(event.Type)
            gone.set()

        callback = b.platform.ffi.callback("void(HCS_EVENT *, void *)", told)
        assert b.lib.HcsSetComputeSystemCallback(place[0], 0, null, callback) == 0
        assert unsigned(b.lib.HcsWaitForComputeSystemExit(place[0], 10, null)) == 0x80370118
        b.lib.HcsCloseComputeSystem(place[0])
        assert gone.wait(10)
        assert exits == [1]
        assert system.stop() == 0x80370110


def test_calls_on_the_thread_of_a_loop_are_reported() -> None:
    with bench(faults=True) as b:

        def loop() -> None:
            b.double.loop_thread()
            b.lib.HcsCloseComputeSystem(b.platform.open(VM))

        thread = threading.Thread(target=loop)
        thread.start()
        thread.join()
        assert b.double.warnings() == [
            "HcsOpenComputeSystem was called on the thread of an event loop",
            "HcsCloseComputeSystem was called on the thread of an event loop",
        ]


def test_waiting_inside_a_callback_is_reported() -> None:
    with bench(faults=True) as b, b.host() as (system, host):
        device = TinyDevice(b.platform)
        device.before["Start"] = lambda: properties(b, system)
        assert device.create(host, INSTANCE) == 0
        assert b.platform.modify(system, "Add", INSTANCE) == (0, None)
        assert b.double.warnings() == ["HcsWaitForOperationResult was called inside a callback"]


# -- the kernel ----------------------------------------------------------------------------------------


def event(b: Bench, *, manual: bool = False, initial: bool = False) -> Any:
    return b.lib.CreateEventW(b.platform.ffi.NULL, manual, initial, b.platform.ffi.NULL)


def test_events_reset_themselves_or_not() -> None:
    with bench() as b:
        for manual in (False, True):
            handle = event(b, manual=manual, initial=True)
            assert b.lib.WaitForSingleObject(handle, 0) == 0
            assert b.lib.WaitForSingleObject(handle, 0) == (0 if manual else 0x102)
            assert b.lib.ResetEvent(handle)
            assert b.lib.WaitForSingleObject(handle, 1) == 0x102
            assert b.lib.SetEvent(handle)
            assert b.lib.WaitForSingleObject(handle, INFINITE) == 0
            assert b.lib.CloseHandle(handle)


def test_a_registered_wait_calls_until_it_is_unregistered() -> None:
    with bench() as b:
        handle, rung = event(b), threading.Semaphore(0)
        callback = b.platform.ffi.callback("void(void *, uint8_t)", lambda *_: rung.release())
        wait = b.platform.ffi.new("HANDLE *")
        assert b.lib.RegisterWaitForSingleObject(wait, handle, callback, b.platform.ffi.NULL, INFINITE, 0)
        for _ in range(20):
            assert b.lib.SetEvent(handle)
            assert rung.acquire(timeout=10)
        assert b.lib.UnregisterWaitEx(wait[0], b.platform.ffi.cast("void *", -1))
        assert b.lib.SetEvent(handle)
        assert not rung.acquire(timeout=0.05)
        assert b.lib.CloseHandle(handle)


def test_unregistering_waits_for_the_callback() -> None:
    with bench() as b:
        handle, inside, leave = event(b), threading.Event(), threading.Event()
        order: list[str] = []

        def body(*_: Any) -> None:
            inside.set()
            leave.wait(10)
            order.append("callback")

        callback = b.platform.ffi.callback("void(void *, uint8_t)", body)
        wait = b.platform.ffi.new("HANDLE *")
        assert b.lib.RegisterWaitForSingleObject(wait, handle, callback, b.platform.ffi.NULL, INFINITE, 8)
        assert b.lib.SetEvent(handle)
        assert inside.wait(10)
        threading.Timer(0.1, leave.set).start()
        assert b.lib.UnregisterWaitEx(wait[0], b.platform.ffi.cast("void *", -1))
        order.append("unregistered")
        assert order == ["callback", "unregistered"]
        assert b.lib.CloseHandle(handle)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows' own")
def test_handles_and_waits_are_accounted_for() -> None:
    with bench(faults=True) as b:
        handle = event(b)
        callback = b.platform.ffi.callback("void(void *, uint8_t)", lambda *_: None)
        wait = b.platform.ffi.new("HANDLE *")
        assert b.lib.RegisterWaitForSingleObject(wait, handle, callback, b.platform.ffi.NULL, INFINITE, 0)
        assert b.double.problems() == ["leak: 1 events", "leak: 1 waits"]
        assert b.lib.CloseHandle(handle)
        assert not b.lib.SetEvent(handle)
        assert b.lib.GetLastError() == 6
        assert b.lib.UnregisterWaitEx(wait[0], b.platform.ffi.NULL)
        assert b.double.warnings()[0] == "CloseHandle: a wait is registered on this event"
