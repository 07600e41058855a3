"""A platform by hand: the exports as cffi has them, a support object and a tiny device. Imports nothing of hdvkit."""

import functools
import json
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import cffi  # type: ignore[import-untyped]  # it has no types
from double.build import SOURCES
from double_control import (
    MEMORY_MB,
    RESTRICTED,
    VIRTIO_FS_CLASS,
    Double,
    GuestSystem,
    Window,
    signed,
    unsigned,
)

E_NOINTERFACE = 0x80004002
E_FAIL = signed(0x80004005)
GENERIC_ALL = 0x10000000
TIMEOUT_MS = 20_000

IID_UNKNOWN = "00000000-0000-0000-c000-000000000046"
IID_SUPPORT = "e31aa49b-0914-465e-b145-1b9ba13efb10"
IID_DEVICE_HOST = "78523d62-d919-47ca-9cd7-08139172d685"
IID_ACCESS = "3e57bd3c-5a5d-4bdc-a0a6-5b4193d4b719"
IID_NOTIFICATION = "f5dfbec1-b9f3-4b26-bf6f-c251448bcf7a"
IID_MAPPINGS = "9d416457-abbc-46cf-8b93-901c68bec627"
FLEXIO = "a8679153-843f-467f-ad7e-f429328f7568"

VM = "9a6f0000-4d1c-4000-8000-000000000001"
INSTANCE = "c1c1c1c1-3333-4333-8333-333333333333"
SECOND = "c1c1c1c1-4444-4333-8333-333333333333"

CALLBACKS = {
    "Initialize": "HRESULT(void *)",
    "Teardown": "void(void *)",
    "SetConfiguration": "HRESULT(void *, uint32_t, const WCHAR *const *)",
    "GetDetails": "HRESULT(void *, HDV_PCI_PNP_ID *, uint32_t, uint32_t *)",
    "Start": "HRESULT(void *)",
    "Stop": "void(void *)",
    "ReadConfigSpace": "HRESULT(void *, uint32_t, uint32_t *)",
    "WriteConfigSpace": "HRESULT(void *, uint32_t, uint32_t)",
    "ReadInterceptedMemory": "HRESULT(void *, int32_t, uint64_t, uint64_t, uint8_t *)",
    "WriteInterceptedMemory": "HRESULT(void *, int32_t, uint64_t, uint64_t, const uint8_t *)",
}


@functools.cache
def _declared() -> Any:
    """The declarations, which take long to parse."""
    ffi = cffi.FFI()
    ffi.cdef((SOURCES / "platform.h").read_text() + (SOURCES / "kernel.h").read_text())
    return ffi


class _Libraries:
    """Each function from the first library that has it."""

    def __init__(self, libraries: list[Any]) -> None:
        self._libraries = libraries

    def __getattr__(self, name: str) -> Any:
        for library in self._libraries:
            if (found := getattr(library, name, None)) is not None:
                return found
        raise AttributeError(name)


class Platform:
    """One library with all exports, as on Linux; strings and GUIDs in and out."""

    def __init__(self, path: Path) -> None:
        self.ffi = _declared()
        system = ("kernel32.dll", "ole32.dll") if sys.platform == "win32" else ()
        self.lib: Any = _Libraries([self.ffi.dlopen(name) for name in (str(path), *system)])
        self.kept: list[Any] = []
        """What C holds on to."""

    def wide(self, text: str) -> Any:
        """UTF-16 with its end."""
        return self.ffi.from_buffer("WCHAR[]", (text + "\0").encode("utf-16-le"))

    def guid(self, text: str) -> Any:
        """A GUID in memory."""
        return self.ffi.from_buffer("GUID *", uuid.UUID(text).bytes_le)

    def same(self, guid: Any, text: str) -> bool:
        """Whether a GUID in memory is this one."""
        return bytes(self.ffi.buffer(guid, 16)) == uuid.UUID(text).bytes_le

    def text(self, wide: Any) -> str:
        """What a UTF-16 string says."""
        length = 0
        while wide[length]:
            length += 1
        return bytes(self.ffi.buffer(wide, 2 * length)).decode("utf-16-le")

    def out(self, function: Callable[..., int], *arguments: Any, kind: str = "void **") -> tuple[int, Any]:
        """Call with a place for a result as the last argument; the HRESULT and the result."""
        place = self.ffi.new(kind)
        return unsigned(function(*arguments, place)), place[0]

    def wait(self, function: Callable[..., int], *arguments: Any, at: int = 1) -> tuple[int, str | None]:
        """Call with an operation as argument number ``at``, wait, free, close; the HRESULT and the document."""
        operation = self.lib.HcsCreateOperation(self.ffi.NULL, self.ffi.NULL)
        started = function(*arguments[:at], operation, *arguments[at:])
        code, document = unsigned(started), None
        if started >= 0:
            code, result = self.out(self.lib.HcsWaitForOperationResult, operation, TIMEOUT_MS, kind="WCHAR **")
            if result != self.ffi.NULL:
                document = self.text(result)
                self.lib.LocalFree(result)
        self.lib.HcsCloseOperation(operation)
        return code, document

    def open(self, system_id: str) -> Any:
        """A handle of a system."""
        code, system = self.out(self.lib.HcsOpenComputeSystem, self.wide(system_id), GENERIC_ALL)
        assert code == 0
        return system

    def modify(self, system: Any, request: str, instance: str, **settings: object) -> tuple[int, str | None]:
        """Add or remove a slot."""
        document = {
            "ResourcePath": f"VirtualMachine/Devices/FlexibleIov/{instance}",
            "RequestType": request,
            "Settings": {"EmulatorId": VIRTIO_FS_CLASS, "HostingModel": RESTRICTED} | settings,
        }
        return self.wait(self.lib.HcsModifyComputeSystem, system, self.wide(json.dumps(document)), self.ffi.NULL)

    def method(self, table: str, pointer: Any, name: str, *arguments: Any) -> Any:
        """Call a method of a COM object."""
        vtbl = self.ffi.cast(f"{table} **", pointer)[0]
        return getattr(vtbl, name)(pointer, *arguments)

    def release(self, *pointers: Any) -> None:
        """Give back references."""
        for pointer in pointers:
            self.method("IUnknownVtbl", pointer, "Release")

    def query(self, pointer: Any, iid: str) -> tuple[int, Any]:
        """QueryInterface."""
        return self.out(lambda *a: self.method("IUnknownVtbl", pointer, "QueryInterface", *a), self.guid(iid))


class Support:
    """IVmDeviceHostSupport as a broker implements it; ``register`` may be replaced."""

    def __init__(self, platform: Platform, system: Any) -> None:
        self.references = 1
        self.registrations: list[tuple[int, int]] = []
        """Thread and process of each RegisterDeviceHost."""
        self.iid = IID_SUPPORT
        self.register: Callable[[Any, int, Any], int] = lambda host, process, ipc: int(
            platform.lib.HdvProxyDeviceHost(system, host, process, ipc)
        )
        self._platform = platform
        self._lock = threading.Lock()
        ffi = platform.ffi
        self._methods = [
            ffi.callback("HRESULT(void *, const GUID *, void **)", self._query, error=E_FAIL),
            ffi.callback("uint32_t(void *)", lambda _: self._count(1)),
            ffi.callback("uint32_t(void *)", lambda _: self._count(-1)),
            ffi.callback("HRESULT(void *, void *, DWORD, uint64_t *)", self._register, error=E_FAIL),
        ]
        self._table = ffi.new("IVmDeviceHostSupportVtbl *", self._methods)
        self._object = ffi.new("void *[1]", [self._table])
        self.pointer = ffi.cast("void *", self._object)
        platform.kept.append(self)

    def _count(self, difference: int) -> int:
        with self._lock:
            self.references += difference
            return self.references

    def _query(self, this: Any, iid: Any, place: Any) -> int:
        found = any(self._platform.same(iid, name) for name in (IID_UNKNOWN, self.iid))
        place[0] = this if found else self._platform.ffi.NULL
        if not found:
            return signed(E_NOINTERFACE)
        self._count(1)
        return 0

    def _register(self, _: Any, host: Any, process: int, ipc: Any) -> int:
        self.registrations.append((threading.get_ident(), process))
        return self.register(host, process, ipc)


@attrs.define(eq=False)
class TinyDevice:
    """A 64-bit BAR 0 of a page that remembers, and an MSI-X table of four entries in BAR 2."""

    platform: Platform
    calls: list[str] = attrs.field(factory=list)
    threads: set[int] = attrs.field(factory=set)
    writes: list[tuple[int, int, bytes]] = attrs.field(factory=list)
    """Writes to BARs: BAR, offset, data."""
    config_writes: list[tuple[int, int]] = attrs.field(factory=list)
    strings: list[str] = attrs.field(factory=list)
    words: list[int] = attrs.field(factory=lambda: [0xFFFFF004, 0xFFFFFFFF, 0xFFFFF004, 0xFFFFFFFF, 0, 0])
    before: dict[str, Callable[[], object]] = attrs.field(factory=dict)
    """What happens first in a callback, by its name."""
    codes: dict[str, int] = attrs.field(factory=dict)
    """What a callback returns that fails, by its name."""
    config: bytearray = attrs.field(factory=lambda: bytearray(256))
    memory: dict[int, bytearray] = attrs.field(factory=lambda: {0: bytearray(4096), 2: bytearray(4096)})
    handle: Any = None
    table: Any = None

    def __attrs_post_init__(self) -> None:
        """Lay out configuration space and the table of callbacks."""
        self.config[0:12] = bytes.fromhex("f41a5a1000001000") + bytes.fromhex("01008008")
        self.config[0x2C:0x30] = bytes.fromhex("f41a4000")
        self.config[0x34] = 0x40
        self.config[0x40:0x4C] = bytes.fromhex("110003000200000002080000")  # table at BAR 2, pending bits behind
        self.memory[2][12:64:16] = b"\1" * 4
        ffi = self.platform.ffi
        self.table = ffi.new("HDV_PCI_DEVICE_INTERFACE *")
        self.table.Version = 1
        for name, signature in CALLBACKS.items():
            callback = ffi.callback(signature, self._entry(name), error=None if "void(" in signature else E_FAIL)
            self.platform.kept.append(callback)
            setattr(self.table, name, callback)

    def create(self, host: Any, instance: str, class_id: str = VIRTIO_FS_CLASS, *, kind: int = 1) -> int:
        """Give the device to a host; the HRESULT."""
        platform = self.platform
        code, self.handle = platform.out(
            platform.lib.HdvCreateDeviceInstance,
            host,
            kind,
            platform.guid(class_id),
            platform.guid(instance),
            self.table,
            platform.ffi.cast("void *", 0x1234),
        )
        return code

    def _entry(self, name: str) -> Callable[..., int | None]:
        body: Callable[..., None] = getattr(self, "_" + name, lambda *_: None)

        def entry(context: Any, *arguments: Any) -> int | None:
            assert int(self.platform.ffi.cast("intptr_t", context)) == 0x1234
            self.calls.append(name)
            self.threads.add(threading.get_ident())
            self.before.get(name, lambda: None)()
            body(*arguments)
            return None if name in ("Stop", "Teardown") else signed(self.codes.get(name, 0))

        return entry

    def _SetConfiguration(self, count: int, values: Any) -> None:
        self.strings = [self.platform.text(values[at]) for at in range(count)]

    def _GetDetails(self, pnp: Any, count: int, words: Any) -> None:
        if count:
            self.platform.ffi.buffer(pnp)[:] = bytes.fromhex("f41a5a1001008008f41a4000")
            words[0:count] = self.words[:count]

    def _ReadConfigSpace(self, offset: int, value: Any) -> None:
        value[0] = int.from_bytes(self.config[offset : offset + 4], "little")

    def _WriteConfigSpace(self, offset: int, value: int) -> None:
        self.config_writes.append((offset, value))
        if offset == 0x40:
            self.config[0x43] = value >> 24 & 0xC0

    def _ReadInterceptedMemory(self, bar: int, offset: int, length: int, value: Any) -> None:
        self.platform.ffi.buffer(value, length)[:] = bytes(self.memory[bar][offset : offset + length])

    def _WriteInterceptedMemory(self, bar: int, offset: int, length: int, value: Any) -> None:
        data = bytes(self.platform.ffi.buffer(value, length))
        self.writes.append((bar, offset, data))
        self.memory[bar][offset : offset + length] = data


@attrs.define(eq=False)
class Bench:
    """One virtual machine, and the platform that reaches it."""

    double: Double
    platform: Platform
    guest: GuestSystem

    @property
    def lib(self) -> Any:
        """The exports."""
        return self.platform.lib

    def for_proxy(self, support: Support, runtime_id: str = VM) -> tuple[int, Any]:
        """HdvInitializeDeviceHostForProxy: the HRESULT and the host."""
        initialize = self.lib.HdvInitializeDeviceHostForProxy
        return self.platform.out(initialize, self.platform.guid(runtime_id), support.pointer)

    @contextmanager
    def host(self) -> Iterator[tuple[Any, Any]]:
        """A handle of the machine and a proxied device host for it, all given back in order."""
        system = self.platform.open(VM)
        support = Support(self.platform, system)
        code, host = self.for_proxy(support)
        assert code == 0
        yield system, host
        assert self.lib.HdvTeardownDeviceHost(host) == 0
        assert support.references == 1
        self.lib.HcsCloseComputeSystem(system)

    @contextmanager
    def attached(self) -> Iterator[TinyDevice]:
        """A device that was added to the running machine, with memory decode on."""
        with self.host() as (system, host):
            device = TinyDevice(self.platform)
            assert device.create(host, INSTANCE) == 0
            assert self.platform.modify(system, "Add", INSTANCE) == (0, None)
            self.guest.config_write(self.slot, 0x04, 2, 0x0006)
            yield device

    @property
    def slot(self) -> int:
        """Where the guest sees the device."""
        slot = self.guest.slot(INSTANCE)
        assert slot is not None
        return slot

    def window(self, bar: int = 0) -> Window:
        """Where a BAR of the device stands."""
        window = self.guest.bar(self.slot, bar)
        assert window is not None
        return window

    def aperture(
        self, device: TinyDevice, address: int, size: int = 4096, *, read_only: bool = False
    ) -> tuple[int, Any]:
        """HdvCreateGuestMemoryAperture: the HRESULT and the address."""
        create = self.lib.HdvCreateGuestMemoryAperture
        return self.platform.out(create, device.handle, address, size, read_only)

    @contextmanager
    def apartment(self) -> Iterator[None]:
        """COM proxies may be called."""
        code, cookie = self.platform.out(self.lib.CoIncrementMTAUsage)
        assert code == 0
        try:
            yield
        finally:
            self.lib.CoDecrementMTAUsage(cookie)

    def device_of_worker(self) -> Any:
        """The device's object in the VM worker process."""
        platform = self.platform
        code, access = platform.out(self.lib.GetVmWorkerProcess, platform.guid(VM), platform.guid(IID_ACCESS))
        assert code == 0
        arguments = (platform.guid(FLEXIO), platform.guid(INSTANCE))
        code, device = platform.out(
            lambda *a: platform.method("IVmVirtualDeviceAccessVtbl", access, "GetDevice", *a), *arguments
        )
        assert code == 0
        platform.release(access)
        return device


@contextmanager
def bench(*, faults: bool = False, running: bool = True, memory_mb: int = MEMORY_MB) -> Iterator[Bench]:
    """A fresh double with one machine; fails when it has complaints at the end, unless those are the point."""
    with Double.load().fresh(faults=faults) as double:
        guest = double.system(VM, memory_mb=memory_mb, running=running)
        yield Bench(double, Platform(double.path), guest)
