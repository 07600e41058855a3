"""Device hosts and devices of HDV, typed. Every failure is an HdvError."""

import uuid
from enum import IntEnum, IntFlag
from typing import Final

from hdvkit.hosts.hdv.abi.binding import Pointer, ffi, guid
from hdvkit.hosts.hdv.abi.device_interface import Callbacks, Context
from hdvkit.hosts.hdv.abi.hresult import check
from hdvkit.hosts.hdv.abi.libraries import PROXY, Libraries
from hdvkit.hosts.hdv.abi.proxy import DeviceHostSupport

PCI: Final = 1
ANY_VALUE: Final = 0x80000000


class TriggerSize(IntEnum):
    """``HDV_DOORBELL_FLAGS``: which size of write rings a doorbell."""

    ANY = 0
    BYTE = 1
    WORD = 2
    DWORD = 3
    QWORD = 4


TRIGGER_SIZES: Final = {1: TriggerSize.BYTE, 2: TriggerSize.WORD, 4: TriggerSize.DWORD, 8: TriggerSize.QWORD}


class MmioMapping(IntFlag):
    """``HDV_MMIO_MAPPING_FLAGS``: what the guest may do with a section behind a BAR."""

    READ_ONLY = 0
    WRITEABLE = 1
    EXECUTABLE = 2


def trigger(value: int | None, size: int) -> tuple[int, int]:
    """The trigger value and the flags of a doorbell that rings for ``size`` bytes of ``value``, or of anything."""
    flags = TRIGGER_SIZES.get(size, TriggerSize.ANY)
    return (0, flags | ANY_VALUE) if value is None else (value, flags)


class HdvHost:
    """A device host. Made and torn down on the same thread."""

    def __init__(self, libraries: Libraries, handle: Pointer, support: DeviceHostSupport | None) -> None:
        self._libraries = libraries
        self._handle = handle
        self._support = support
        self._contexts: list[Context] = []  # HDV has their addresses until it is torn down

    @classmethod
    def for_proxy(cls, libraries: Libraries, machine: uuid.UUID, system: Pointer) -> "HdvHost":
        """One that is registered with the machine's worker process: what ExternalRestricted slots resolve to.

        HDV calls our support object before this returns, on this thread.
        """
        libraries.require(*PROXY)
        support = DeviceHostSupport(libraries, system)
        handle = ffi().new("HDV_HOST *")
        code = libraries.vmdevicehost.HdvInitializeDeviceHostForProxy(guid(machine), support.pointer, handle)
        try:
            check(code, f"registering a device host with machine {machine}")
        except Exception:
            support.release()
            raise
        return cls(libraries, handle[0], support)

    @classmethod
    def in_process(cls, libraries: Libraries, system: Pointer) -> "HdvHost":
        """One that External slots resolve to."""
        handle = ffi().new("HDV_HOST *")
        check(libraries.vmdevicehost.HdvInitializeDeviceHost(system, handle), "making a device host")
        return cls(libraries, handle[0], None)

    def create(self, emulator: uuid.UUID, instance: uuid.UUID, callbacks: Callbacks) -> "HdvDevice":
        """Make a device that a FlexibleIov slot of the same two ids will find."""
        context = Context(callbacks)
        self._contexts.append(context)
        handle = ffi().new("HDV_DEVICE *")
        code = self._libraries.vmdevicehost.HdvCreateDeviceInstance(
            self._handle, PCI, guid(emulator), guid(instance), context.interface, context.pointer, handle
        )
        try:
            check(code, f"making the device {instance}")
        except Exception:
            self._contexts.remove(context)
            raise
        return HdvDevice(self._libraries, handle[0])

    def teardown(self) -> None:
        """End all devices. Their handles, apertures and callbacks are dead when this returns."""
        code = self._libraries.vmdevicehost.HdvTeardownDeviceHost(self._handle)
        if self._support is not None:
            self._support.release()
        check(code, "tearing down the device host")
        self._contexts.clear()


class HdvDevice:
    """What one device may ask of the machine. Any thread may call, until the host is torn down."""

    def __init__(self, libraries: Libraries, handle: Pointer) -> None:
        self._hdv = libraries.vmdevicehost
        self._handle = handle

    def create_aperture(self, address: int, size: int, *, writable: bool) -> memoryview:
        """Map whole pages of guest memory into this process."""
        mapped = ffi().new("PVOID *")
        code = self._hdv.HdvCreateGuestMemoryAperture(self._handle, address, size, not writable, mapped)
        check(code, f"mapping {size} bytes of guest memory at {address:#x}")
        view = memoryview(ffi().buffer(mapped[0], size))
        return view if writable else view.toreadonly()

    def destroy_aperture(self, view: memoryview) -> None:
        """Unmap what ``create_aperture`` gave; it and all its parts are dead."""
        address = ffi().cast("PVOID", ffi().from_buffer(view))
        view.release()
        check(self._hdv.HdvDestroyGuestMemoryAperture(self._handle, address), "unmapping guest memory")

    def deliver_interrupt(self, address: int, data: int) -> None:
        """Send a message that the guest programmed into the MSI-X table."""
        check(self._hdv.HdvDeliverGuestInterrupt(self._handle, address, data), "delivering an interrupt")

    def register_doorbell(self, bar: int, offset: int, value: int | None, size: int, event: Pointer) -> None:
        """Have writes that match set ``event`` instead of calling us. Denied to restricted hosts."""
        number, flags = trigger(value, size)
        code = self._hdv.HdvRegisterDoorbell(self._handle, bar, offset, number, flags, event)
        check(code, f"registering a doorbell at {offset:#x} of BAR {bar}")

    def unregister_doorbell(self, bar: int, offset: int, value: int | None, size: int) -> None:
        """Undo ``register_doorbell``."""
        number, flags = trigger(value, size)
        code = self._hdv.HdvUnregisterDoorbell(self._handle, bar, offset, number, flags)
        check(code, f"removing the doorbell at {offset:#x} of BAR {bar}")

    def map_section(
        self, bar: int, page: int, pages: int, access: MmioMapping, section: Pointer, section_page: int = 0
    ) -> None:
        """Have the guest's accesses to pages of a BAR end in a section object, without any exit."""
        code = self._hdv.HdvCreateSectionBackedMmioRange(
            self._handle, bar, page, pages, int(access), section, section_page
        )
        check(code, f"mapping a section of {pages} pages to page {page} of BAR {bar}")

    def unmap_section(self, bar: int, page: int) -> None:
        """Undo ``map_section``."""
        code = self._hdv.HdvDestroySectionBackedMmioRange(self._handle, bar, page)
        check(code, f"unmapping the section at page {page} of BAR {bar}")
