"""IVmDeviceHostSupport: the object by which HDV registers our device host with the virtual machine.

A COM object is a pointer to a pointer to a table of functions. HDV counts its references from threads of its own, and
may call for as long as it holds one; so an object that HDV never lets go of is kept for ever.
"""

import threading
import uuid
from typing import Final

from hdvkit.hosts.hdv.abi.binding import Pointer, Table, ffi, uuid_at
from hdvkit.hosts.hdv.abi.hresult import E_NOINTERFACE, E_POINTER, S_OK, signed
from hdvkit.hosts.hdv.abi.libraries import Libraries

IID_IUNKNOWN: Final = uuid.UUID("00000000-0000-0000-c000-000000000046")
IID_SUPPORT: Final = uuid.UUID("e31aa49b-0914-465e-b145-1b9ba13efb10")

_referenced: "set[DeviceHostSupport]" = set()


class DeviceHostSupport:
    """The object, with one reference of ours. HDV calls ``RegisterDeviceHost`` while it makes the device host."""

    def __init__(self, libraries: Libraries, system: Pointer) -> None:
        self.references = 1
        self._libraries = libraries
        self._system = system
        self._lock = threading.Lock()
        self._table = Table(
            "IVmDeviceHostSupportVtbl",
            QueryInterface=self._query_interface,
            AddRef=self._add_ref,
            Release=self._release,
            RegisterDeviceHost=self._register_device_host,
        )
        self._object = ffi().new("IVmDeviceHostSupport *", {"lpVtbl": self._table.pointer})
        _referenced.add(self)

    @property
    def pointer(self) -> Pointer:
        """What HDV is given."""
        return self._object

    def release(self) -> None:
        """Give our reference back, after the device host is torn down."""
        self._release(self._object)

    def _query_interface(self, this: Pointer, wanted: Pointer, found: Pointer) -> int:
        if not found:
            return signed(E_POINTER)
        found[0] = ffi().NULL
        if not wanted:
            return signed(E_POINTER)
        if uuid_at(wanted) not in (IID_IUNKNOWN, IID_SUPPORT):
            return signed(E_NOINTERFACE)
        self._add_ref(this)
        found[0] = this
        return S_OK

    def _add_ref(self, _: Pointer) -> int:
        with self._lock:
            self.references += 1
            return self.references

    def _release(self, _: Pointer) -> int:
        with self._lock:
            self.references -= 1
            left = self.references
        if not left:
            _referenced.discard(self)
        return left

    def _register_device_host(self, _: Pointer, device_host: Pointer, process: int, section: Pointer) -> int:
        return int(self._libraries.vmdevicehost.HdvProxyDeviceHost(self._system, device_host, process, section))
