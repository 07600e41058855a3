"""What ends a process on Windows: each case is run in one of its own, ``python double_misuse.py CASE``."""

import ctypes
import sys
import threading
from collections.abc import Callable
from typing import Any

from double_bench import CALLBACKS, FLEXIO, IID_ACCESS, INSTANCE, VM, Bench, Support, TinyDevice, bench
from double_control import HIGH

if sys.platform != "win32":
    import resource

CASES: dict[str, tuple[Callable[[Bench], None], str]] = {}
"""By name: what is done, and what the double says; nothing when the access faults."""


def case(says: str) -> Callable[[Callable[[Bench], None]], Callable[[Bench], None]]:
    """Register a case."""

    def register(function: Callable[[Bench], None]) -> Callable[[Bench], None]:
        CASES[function.__name__] = function, says
        return function

    return register


def _for_proxy(b: Bench, *, guid: bool = True, support: bool = True, out: bool = True) -> None:
    null, system = b.platform.ffi.NULL, b.platform.open(VM)
    b.lib.HdvInitializeDeviceHostForProxy(
        b.platform.guid(VM) if guid else null,
        Support(b.platform, system).pointer if support else null,
        b.platform.ffi.new("void **") if out else null,
    )


@case("a NULL argument")
def no_guid(b: Bench) -> None:
    """HdvInitializeDeviceHostForProxy reads the GUID."""
    _for_proxy(b, guid=False)


@case("a NULL argument")
def no_support(b: Bench) -> None:
    """HdvInitializeDeviceHostForProxy calls the support object."""
    _for_proxy(b, support=False)


@case("a NULL argument")
def nowhere_for_the_host(b: Bench) -> None:
    """HdvInitializeDeviceHostForProxy writes the host."""
    _for_proxy(b, out=False)


@case("is no IVmDeviceHost")
def a_foreign_device_host(b: Bench) -> None:
    """HdvProxyDeviceHost calls what it is given."""
    system = b.platform.open(VM)
    foreign = b.platform.ffi.new("void *[64]")
    b.lib.HdvProxyDeviceHost(system, foreign, 0, b.platform.ffi.new("uint64_t *"))


@case("HdvTeardownDeviceHost: 0x")
def teardown_twice(b: Bench) -> None:
    """The host is gone."""
    with b.host() as (_, host):
        pass
    b.lib.HdvTeardownDeviceHost(host)


@case("HdvTeardownDeviceHost was called inside a callback")
def teardown_in_a_callback(b: Bench) -> None:
    """It would wait for itself."""
    with b.host() as (system, host):
        device = TinyDevice(b.platform)
        device.before["Start"] = lambda: b.lib.HdvTeardownDeviceHost(host)
        device.create(host, INSTANCE)
        b.platform.modify(system, "Add", INSTANCE)


@case("HdvCreateDeviceInstance: 0x")
def create_on_a_dead_host(b: Bench) -> None:
    """The host is gone."""
    with b.host() as (_, host):
        pass
    TinyDevice(b.platform).create(host, INSTANCE)


@case("HdvDeliverGuestInterrupt: 0x")
def interrupt_after_teardown(b: Bench) -> None:
    """The device is gone."""
    with b.attached() as device:
        pass
    b.lib.HdvDeliverGuestInterrupt(device.handle, 0xFEE00000, 0x4020)


@case("HdvDestroyGuestMemoryAperture: 0x")
def destroy_after_teardown(b: Bench) -> None:
    """The classic: an aperture outlives its host."""
    with b.attached() as device:
        _, va = b.aperture(device, HIGH)
    b.lib.HdvDestroyGuestMemoryAperture(device.handle, va)


@case("the table of device 0 was changed or freed")
def a_table_that_changes(b: Bench) -> None:
    """HDV keeps the pointer to the interface."""
    with b.attached() as device:
        device.table.Start = device.table.Initialize
        b.guest.mmio_read(b.window().address, 4)


@case("was answered outside its buffer")
def a_long_answer(b: Bench) -> None:
    """A buffer has the length of the access and no more."""
    with b.host() as (system, host):
        ffi, device = b.platform.ffi, TinyDevice(b.platform)

        def answer(_: Any, bar: int, offset: int, length: int, value: Any) -> int:
            ffi.buffer(value, length + 1)[:] = bytes(length + 1)
            return 0

        device.table.ReadInterceptedMemory = callback = ffi.callback(CALLBACKS["ReadInterceptedMemory"], answer)
        assert device.create(host, INSTANCE) == 0
        b.platform.modify(system, "Add", INSTANCE)
        b.guest.config_write(b.slot, 0x04, 2, 0x0006)
        b.guest.mmio_read(b.window().address, 4)
        del callback


@case("slot 3 of IVmVirtualDeviceAccess was called")
def the_reserved_slot(b: Bench) -> None:
    """GetDevice is the one behind."""
    with b.apartment():
        _, access = b.platform.out(b.lib.GetVmWorkerProcess, b.platform.guid(VM), b.platform.guid(IID_ACCESS))
        b.platform.method("IVmVirtualDeviceAccessVtbl", access, "Reserved")


@case("Release of IVmVirtualDeviceAccess after its last Release")
def one_release_too_many(b: Bench) -> None:
    """The object is gone."""
    with b.apartment():
        _, access = b.platform.out(b.lib.GetVmWorkerProcess, b.platform.guid(VM), b.platform.guid(IID_ACCESS))
        b.platform.release(access, access)


@case("GetDevice of IVmVirtualDeviceAccess after its last Release")
def a_call_after_release(b: Bench) -> None:
    """The object is gone."""
    with b.apartment():
        _, access = b.platform.out(b.lib.GetVmWorkerProcess, b.platform.guid(VM), b.platform.guid(IID_ACCESS))
        b.platform.release(access)
        place = b.platform.ffi.new("void **")
        arguments = (b.platform.guid(FLEXIO), b.platform.guid(INSTANCE), place)
        b.platform.method("IVmVirtualDeviceAccessVtbl", access, "GetDevice", *arguments)


@case("HcsCloseOperation: 0x")
def close_an_operation_twice(b: Bench) -> None:
    """The operation is gone."""
    operation = b.lib.HcsCreateOperation(b.platform.ffi.NULL, b.platform.ffi.NULL)
    b.lib.HcsCloseOperation(operation)
    b.lib.HcsCloseOperation(operation)


@case("HcsCloseComputeSystem: 0x")
def close_a_system_twice(b: Bench) -> None:
    """The handle is gone."""
    system = b.platform.open(VM)
    b.lib.HcsCloseComputeSystem(system)
    b.lib.HcsCloseComputeSystem(system)


@case("a string does not end")
def a_string_without_an_end(b: Bench) -> None:
    """Strings end in NUL."""
    b.lib.HcsOpenComputeSystem(
        b.platform.ffi.new("WCHAR[]", [0x61] * (1 << 21)), 0x10000000, b.platform.ffi.new("void **")
    )


@case("")
def read_a_destroyed_aperture(b: Bench) -> None:
    """The addresses are inaccessible."""
    with b.attached() as device:
        _, va = b.aperture(device, HIGH)
        b.lib.HdvDestroyGuestMemoryAperture(device.handle, va)
        bytes(b.platform.ffi.buffer(va, 1))


@case("")
def read_after_teardown(b: Bench) -> None:
    """The platform has reclaimed the mapping."""
    with b.attached() as device:
        _, va = b.aperture(device, HIGH)
    bytes(b.platform.ffi.buffer(va, 1))


@case("")
def read_behind_an_aperture(b: Bench) -> None:
    """Its neighbours are not mapped."""
    with b.attached() as device:
        _, va = b.aperture(device, HIGH + 4096)
        bytes(b.platform.ffi.buffer(va, 4097))


@case("")
def read_before_an_aperture(b: Bench) -> None:
    """Its neighbours are not mapped."""
    with b.attached() as device:
        _, va = b.aperture(device, HIGH + 4096)
        bytes(b.platform.ffi.buffer(va - 1, 1))


@case("")
def write_a_protected_aperture(b: Bench) -> None:
    """It is for reading."""
    with b.attached() as device:
        _, va = b.aperture(device, HIGH, read_only=True)
        bytes(b.platform.ffi.buffer(va, 1))
        b.platform.ffi.buffer(va, 1)[:] = b"x"


@case("is no result string, or one that was freed")
def free_a_string_twice(b: Bench) -> None:
    """The memory is gone."""
    _, text = b.platform.out(b.lib.HcsGetServiceProperties, b.platform.ffi.NULL, kind="WCHAR **")
    b.lib.LocalFree(text)
    b.lib.LocalFree(text)


@case("is no wait, or one that was unregistered")
def unregister_a_wait_twice(b: Bench) -> None:
    """The wait is gone."""
    wait = _wait(b, lambda: None)
    b.lib.UnregisterWaitEx(wait, b.platform.ffi.cast("void *", -1))
    b.lib.UnregisterWaitEx(wait, b.platform.ffi.cast("void *", -1))


@case("a callback waits for its own end")
def a_wait_that_waits_for_itself(b: Bench) -> None:
    """It would never end."""
    waits: list[Any] = []
    known = threading.Event()

    def body() -> None:
        known.wait(10)
        b.lib.UnregisterWaitEx(waits[0], b.platform.ffi.cast("void *", -1))

    waits.append(_wait(b, body))
    known.set()
    threading.Event().wait(10)


LINUX = {"free_a_string_twice", "unregister_a_wait_twice", "a_wait_that_waits_for_itself"}
"""Cases of functions that are Windows' own on Windows."""


def _wait(b: Bench, body: Callable[[], None]) -> Any:
    null = b.platform.ffi.NULL
    event = b.lib.CreateEventW(null, False, True, null)
    callback = b.platform.ffi.callback("void(void *, uint8_t)", lambda *_: body())
    b.platform.kept.append(callback)
    wait = b.platform.ffi.new("HANDLE *")
    assert b.lib.RegisterWaitForSingleObject(wait, event, callback, null, 0xFFFFFFFF, 0)
    return wait[0]


def quietly() -> None:
    """Leave no core, and no window that wants to be closed."""
    if sys.platform == "win32":
        ctypes.windll.kernel32.SetErrorMode(0x8003)  # SEM_FAILCRITICALERRORS, NOGPFAULTERRORBOX, NOOPENFILEERRORBOX
    else:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    quietly()
    with bench(faults=True) as arena:
        CASES[sys.argv[1]][0](arena)
