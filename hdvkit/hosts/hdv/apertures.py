"""Guest memory as HDV maps it for one device: the platform under ``hdvkit.apertures``."""

import logging

from hdvkit.apertures import NoMoreApertures
from hdvkit.errors import HostError
from hdvkit.hosts.hdv.abi.hresult import NOT_ENOUGH_QUOTA, HdvError
from hdvkit.hosts.hdv.abi.vmdevicehost import HdvDevice
from hdvkit.hosts.hdv.machine import Machine

log = logging.getLogger("hdvkit.hdv")

HIGH_MEMORY = 1 << 32
"""RAM that has no room below the hole for devices begins here, however large the hole is."""


class DeviceApertures:
    """Makes and destroys the mappings of one device, on the event loop: each is one call of the kernel."""

    def __init__(self, machine: Machine) -> None:
        self.device: HdvDevice | None = None
        """Windows' handle, as soon as there is one; the guest asks for nothing earlier."""
        self._machine = machine

    def create(self, address: int, size: int, writable: bool) -> memoryview:
        """Map whole pages."""
        if self.device is None or not self._machine.alive:
            raise HostError("the device is not attached to a machine")
        try:
            return self.device.create_aperture(address, size, writable=writable)
        except HdvError as error:
            if error.hresult == NOT_ENOUGH_QUOTA:
                raise NoMoreApertures(str(error)) from error
            raise

    def destroy(self, view: memoryview) -> None:
        """Unmap. After the device host is torn down there is nothing to unmap, and to ask would crash the process."""
        if self.device is None or not self._machine.alive:
            view.release()
            return
        try:
            self.device.destroy_aperture(view)
        except HdvError as error:
            log.warning("%s", error)
