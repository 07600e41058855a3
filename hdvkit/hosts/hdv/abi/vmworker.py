"""The virtual machine's worker process, asked by COM for what a restricted device host is denied: doorbells, sections.

An interface is found through the machine, then the device; the finding objects are let go of at once, the interface
found is kept for the device's life: once the device is on its way out, the worker does not find it any more.
"""

import uuid
from typing import Final

from hdvkit.hosts.hdv.abi.binding import Pointer, ffi, guid
from hdvkit.hosts.hdv.abi.hresult import E_NOINTERFACE, HdvError, check
from hdvkit.hosts.hdv.abi.libraries import WORKER, Libraries
from hdvkit.hosts.hdv.abi.vmdevicehost import MmioMapping, trigger

IID_ACCESS: Final = uuid.UUID("3e57bd3c-5a5d-4bdc-a0a6-5b4193d4b719")
IID_FAST_NOTIFICATION: Final = uuid.UUID("f5dfbec1-b9f3-4b26-bf6f-c251448bcf7a")
IID_MMIO_MAPPINGS: Final = uuid.UUID("9d416457-abbc-46cf-8b93-901c68bec627")
FLEXIO_DEVICE: Final = uuid.UUID("a8679153-843f-467f-ad7e-f429328f7568")
"""The category that FlexibleIov devices are looked for in."""

_apartment: list[Pointer] = []


def available(libraries: Libraries) -> bool:
    """Whether this Windows has the channel at all."""
    return libraries.vmwpctrl is not None and libraries.has(WORKER)


class FastNotification:
    """``IVmFiovGuestMemoryFastNotification``: doorbells that the kernel rings."""

    def __init__(self, libraries: Libraries, machine: uuid.UUID, instance: uuid.UUID) -> None:
        found = _find(libraries, machine, instance, IID_FAST_NOTIFICATION)
        self._object = ffi().cast("IVmFiovGuestMemoryFastNotification *", found)

    def register_doorbell(self, bar: int, offset: int, value: int | None, size: int, event: Pointer) -> None:
        """Have writes that match set ``event``. The worker takes a handle of its own on it."""
        number, flags = trigger(value, size)
        code = self._object.lpVtbl.RegisterDoorbell(self._object, bar, offset, number, flags, event)
        check(code, f"registering a doorbell at {offset:#x} of BAR {bar} with the machine's worker")

    def unregister_doorbell(self, bar: int, offset: int, value: int | None, size: int) -> None:
        """Undo ``register_doorbell``, by the same words."""
        number, flags = trigger(value, size)
        code = self._object.lpVtbl.UnregisterDoorbell(self._object, bar, offset, number, flags)
        check(code, f"removing the doorbell at {offset:#x} of BAR {bar} from the machine's worker")

    def close(self) -> None:
        """Let go of the interface."""
        self._object.lpVtbl.Release(self._object)


class MmioMappings:
    """``IVmFiovGuestMmioMappings``: sections behind BARs, for restricted hosts."""

    def __init__(self, libraries: Libraries, machine: uuid.UUID, instance: uuid.UUID) -> None:
        found = _find(libraries, machine, instance, IID_MMIO_MAPPINGS)
        self._object = ffi().cast("IVmFiovGuestMmioMappings *", found)

    def map_section(
        self, bar: int, page: int, pages: int, access: MmioMapping, section: Pointer, section_page: int = 0
    ) -> None:
        """Have the guest's accesses to pages of a BAR end in a section object, without any exit."""
        code = self._object.lpVtbl.CreateSectionBackedMmioRange(
            self._object, bar, page, pages, int(access), section, section_page
        )
        check(code, f"mapping a section of {pages} pages to page {page} of BAR {bar} by the machine's worker")

    def unmap_section(self, bar: int, page: int) -> None:
        """Undo ``map_section``."""
        code = self._object.lpVtbl.DestroySectionBackedMmioRange(self._object, bar, page)
        check(code, f"unmapping the section at page {page} of BAR {bar} by the machine's worker")

    def close(self) -> None:
        """Let go of the interface."""
        self._object.lpVtbl.Release(self._object)


def _find(libraries: Libraries, machine: uuid.UUID, instance: uuid.UUID, wanted: uuid.UUID) -> Pointer:
    """An interface of a device; the caller releases it."""
    libraries.require(WORKER)
    _join_apartment(libraries)
    found = ffi().new("void **")
    worker: Pointer = libraries.vmwpctrl
    code = worker.GetVmWorkerProcess(guid(machine), guid(IID_ACCESS), found)
    access = ffi().cast("IVmVirtualDeviceAccess *", _there(code, found, "asking for the machine's worker"))
    try:
        code = access.lpVtbl.GetDevice(access, guid(FLEXIO_DEVICE), guid(instance), found)
        device = ffi().cast("IUnknown *", _there(code, found, f"asking the machine's worker for device {instance}"))
    finally:
        access.lpVtbl.Release(access)
    try:
        code = device.lpVtbl.QueryInterface(device, guid(wanted), found)
        return _there(code, found, f"asking device {instance} for interface {wanted}")
    finally:
        device.lpVtbl.Release(device)


def _there(code: int, found: Pointer, tried: str) -> Pointer:
    """What a COM call found. One may succeed and have found nothing."""
    check(code, tried)
    if not found[0]:
        raise HdvError(tried, E_NOINTERFACE)
    pointer, found[0] = found[0], ffi().NULL
    return pointer


def _join_apartment(libraries: Libraries) -> None:
    """Once in the process: without a multithreaded apartment, COM's proxies fail on threads that never heard of COM."""
    if not _apartment:
        cookie = ffi().new("void **")
        _apartment.append(cookie)
        # A failure is told by the next call of COM.
        libraries.ole32.CoIncrementMTAUsage(cookie)
