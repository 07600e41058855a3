"""Device hosts of the double: the handshake, its failures, and the end."""

import threading
import time
from typing import Any

import pytest
from double_bench import (
    FLEXIO,
    IID_DEVICE_HOST,
    IID_SUPPORT,
    IID_UNKNOWN,
    INSTANCE,
    VM,
    Support,
    TinyDevice,
    bench,
)
from double_control import signed

OTHER = "9a6f0000-4d1c-4000-8000-000000000002"


def test_registration_is_synchronous_and_the_host_is_a_com_object() -> None:
    with bench() as b:
        system = b.platform.open(VM)
        support = Support(b.platform, system)
        forward = support.register
        counts: list[int] = []

        def register(host: Any, process: int, ipc: Any) -> int:
            for iid in (IID_UNKNOWN, IID_DEVICE_HOST):
                code, found = b.platform.query(host, iid)
                assert (code, found) == (0, host)
                b.platform.release(found)
            assert b.platform.query(host, FLEXIO) == (0x80004002, b.platform.ffi.NULL)
            counts.append(b.platform.method("IUnknownVtbl", host, "AddRef"))
            counts.append(b.platform.method("IUnknownVtbl", host, "Release"))
            return forward(host, process, ipc)

        support.register = register
        code, host = b.for_proxy(support)
        assert code == 0
        assert [thread for thread, _ in support.registrations] == [threading.get_ident()]
        assert counts == [2, 1]
        assert support.references > 1
        assert b.lib.HdvTeardownDeviceHost(host) == 0
        assert support.references == 1
        b.lib.HcsCloseComputeSystem(system)


def test_a_support_object_without_the_interface_is_refused() -> None:
    with bench() as b:
        system = b.platform.open(VM)
        support = Support(b.platform, system)
        support.iid = FLEXIO
        assert b.for_proxy(support)[0] == 0x80004002
        assert support.iid != IID_SUPPORT
        assert support.references == 1
        b.lib.HcsCloseComputeSystem(system)


def test_a_registration_that_fails_is_the_failure_of_the_call() -> None:
    with bench() as b:
        system = b.platform.open(VM)
        support = Support(b.platform, system)
        support.register = lambda *_: signed(0x80070057)
        assert b.for_proxy(support) == (0x80070057, b.platform.ffi.NULL)
        assert support.references == 1
        b.double.fail_next("HdvProxyDeviceHost", 0x80070005)
        support.register = lambda host, process, ipc: b.lib.HdvProxyDeviceHost(system, host, process, ipc)
        assert b.for_proxy(support)[0] == 0x80070005
        b.lib.HcsCloseComputeSystem(system)


def test_a_host_that_was_not_proxied_resolves_nothing() -> None:
    with bench(faults=True) as b:
        system = b.platform.open(VM)
        support = Support(b.platform, system)
        support.register = lambda *_: 0
        code, host = b.for_proxy(support)
        assert code == 0
        device = TinyDevice(b.platform)
        assert device.create(host, INSTANCE) == 0
        code, document = b.platform.modify(system, "Add", INSTANCE)
        assert code == 0x8000FFFF
        assert document is not None
        assert "'Unknown'" in document
        assert b.lib.HdvTeardownDeviceHost(host) == 0
        b.lib.HcsCloseComputeSystem(system)
        [problem] = b.double.warnings()
        assert "did not call HdvProxyDeviceHost" in problem


def test_a_machine_takes_one_host_of_a_process() -> None:
    with bench() as b:
        with b.host() as (system, _):
            assert b.for_proxy(Support(b.platform, system))[0] == 0xC0370030
            assert b.platform.out(b.lib.HdvInitializeDeviceHost, system)[0] == 0xC0370030
        with b.host():
            pass


def test_overlapping_registrations_can_be_refused() -> None:
    with bench() as b:
        other = b.double.system(OTHER)
        b.double.set(overlap_denied=1)
        b.double.delay("HdvInitializeDeviceHostForProxy", 300)
        systems = [b.platform.open(VM), b.platform.open(OTHER)]
        results: list[tuple[int, object]] = []

        def initialize(system: Any, runtime_id: str) -> None:
            code, host = b.for_proxy(Support(b.platform, system), runtime_id)
            results.append((code, host))
            if code == 0:
                assert b.lib.HdvTeardownDeviceHost(host) == 0

        threads = [threading.Thread(target=initialize, args=args) for args in zip(systems, (VM, OTHER), strict=True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(code for code, _ in results) == [0, 0x80070005]
        for system in systems:
            b.lib.HcsCloseComputeSystem(system)
        assert other.stop() == 0


def test_one_host_for_each_process_can_be_asked_for() -> None:
    with bench() as b:
        b.double.system(OTHER)
        b.double.set(one_host=1)
        with b.host():
            system = b.platform.open(OTHER)
            assert b.for_proxy(Support(b.platform, system), OTHER)[0] == 0x80070005
            b.lib.HcsCloseComputeSystem(system)


def test_another_guid_than_the_runtime_id_is_reported() -> None:
    with bench(faults=True) as b:
        system = b.platform.open(VM)
        code, host = b.for_proxy(Support(b.platform, system), OTHER)
        assert code == 0
        assert b.lib.HdvTeardownDeviceHost(host) == 0
        b.lib.HcsCloseComputeSystem(system)
        [problem] = b.double.warnings()
        assert "is not the RuntimeId" in problem


def test_teardown_on_another_thread_is_reported() -> None:
    with bench(faults=True) as b:
        system = b.platform.open(VM)
        _, host = b.for_proxy(Support(b.platform, system))
        thread = threading.Thread(target=b.lib.HdvTeardownDeviceHost, args=(host,))
        thread.start()
        thread.join()
        b.lib.HcsCloseComputeSystem(system)
        [problem] = b.double.warnings()
        assert "not on the thread that made the host" in problem


def test_the_order_at_the_end_is_watched() -> None:
    with bench(faults=True) as b:
        system = b.platform.open(VM)
        support = Support(b.platform, system)
        kept: list[object] = []
        forward = support.register

        def register(host: Any, process: int, ipc: Any) -> int:
            kept.append(host)
            b.platform.method("IUnknownVtbl", host, "AddRef")
            return forward(host, process, ipc)

        support.register = register
        _, host = b.for_proxy(support)
        support.references -= 1
        b.lib.HcsCloseComputeSystem(system)
        assert b.lib.HdvTeardownDeviceHost(host) == 0
        report = "\n".join(b.double.problems())
        assert "the support object was released before the device host ended" in report
        assert "the last handle is closed before HdvTeardownDeviceHost" in report
        assert "somebody still has a reference to the IVmDeviceHost" in report
        assert "leak: 1 COM references" in report


def test_a_support_object_that_does_not_count_is_reported() -> None:
    with bench(faults=True) as b:
        system = b.platform.open(VM)
        support = Support(b.platform, system)
        support._count = lambda difference: 9  # type: ignore[method-assign]  # that is the fault
        b.for_proxy(support)
        assert any("does not count its references" in line for line in b.double.warnings())


def test_teardown_callbacks_may_come_late() -> None:
    with bench() as b:
        b.double.set(late_teardown_ms=200)
        with b.attached() as device:
            pass
        assert "Teardown" not in device.calls
        time.sleep(0.5)
        assert device.calls.count("Teardown") == 1


@pytest.mark.parametrize("flags", [0, 1])
def test_the_plain_host_is_for_external_slots(flags: int) -> None:
    with bench(faults=True) as b:
        b.double.set(com_security_set=1)
        system = b.platform.open(VM)
        code, host = b.platform.out(b.lib.HdvInitializeDeviceHostEx, system, flags)
        if flags:
            assert code == 0x80010119
            return
        device = TinyDevice(b.platform)
        assert device.create(host, INSTANCE) == 0
        assert b.platform.modify(system, "Add", INSTANCE)[0] == 0x8000FFFF
        assert b.platform.modify(system, "Add", INSTANCE, HostingModel="External", Configuration=[])[0] == 0
        b.guest.config_write(b.slot, 0x04, 2, 0x0006)
        b.guest.config_write(b.slot, 0x10, 4, 0xFFFFFFFF)
        assert (0x04, 0x0006) in device.config_writes
        assert (0x10, 0xFFFFFFFF) in device.config_writes
        buffer = b.platform.ffi.new("uint8_t[]", b"hello")
        assert b.lib.HdvWriteGuestMemory(device.handle, 1 << 32, 5, buffer) == 0
        assert bytes(b.guest.ram(1 << 32, 5)) == b"hello"
        b.double.set(external_grants=0)
        assert b.lib.HdvReadGuestMemory(device.handle, 1 << 32, 5, buffer) == signed(0x80070005)
        assert b.lib.HdvTeardownDeviceHost(host) == 0
