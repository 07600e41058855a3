"""The backend of ``vfio-user``: a directory in which each device has a socket for its machine to connect to."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import attrs

import hdvkit
from hdvkit import HostError, UsageError
from hdvkit.native import native
from hdvkit.runtime import Backend, Finding, Function, Slot
from hdvkit_vfio_user import qemu
from hdvkit_vfio_user.native import MODULE


@attrs.define(eq=False)
class VfioUserBackend(Backend):
    """Serve devices by the vfio-user protocol, each on ``<directory>/<name>.sock``.

    Options:
        directory: Where the sockets are made; it must be there. Who may enter it decides who may be the machine.
        msix: Offer MSI-X; without it only the interrupt pin is left. QEMU up to 11.1 aborts when a device with MSI-X
            is unplugged by ``device_del``; one without can be unplugged.
        packed: Offer packed rings besides split ones.
    """

    remapped = True
    interrupt_pin = 1

    directory: Path
    msix: bool = True
    packed: bool = True
    _slots: set[Slot] = attrs.field(init=False, factory=set)

    @classmethod
    def check(cls) -> Sequence[Finding]:
        """Look for a QEMU that speaks the protocol."""
        return [_linux(), qemu.finding(), Finding("kicks of vfio-user", native(MODULE).reason, good=True)]

    async def open(self) -> None:
        """Look at the directory; machines connect to each device by themselves."""
        if not _linux().good:
            raise HostError(f"the host kind vfio-user needs Linux; this is {sys.platform}")
        native(MODULE)  # raises where it is insisted on and missing
        if not self.directory.is_dir():
            raise HostError(f"{str(self.directory)!r} is no directory; make it, it will hold the sockets")
        if not os.access(self.directory, os.W_OK | os.X_OK):
            raise HostError(f"sockets cannot be made in {str(self.directory)!r}: no permission; choose another one")

    def slot(self, function: Function) -> Slot:
        """A place named after the function."""
        from hdvkit_vfio_user.slot import VfioUserSlot  # needs Linux; to be asked about this kind does not

        if "/" in function.name or "\0" in function.name or not function.name:
            raise UsageError(f"the name {function.name!r} cannot name a socket; give the device another with name")
        slot = VfioUserSlot(function, self.directory.absolute() / f"{function.name}.sock", self._slots.discard)
        self._slots.add(slot)
        return slot

    async def aclose(self) -> None:
        """Cut off the machines that are still connected."""
        for slot in tuple(self._slots):
            slot.release()  # type: ignore[attr-defined]  # all are ours


def _linux() -> Finding:
    good = sys.platform == "linux"
    return Finding("Linux", sys.platform, good, "" if good else "vfio-user maps guest memory by memfd: use Linux")


@hdvkit.hookimpl
def hdvkit_register_hosts(register: "hdvkit.hookspecs.RegisterHost") -> None:
    """Offer the kind ``vfio-user``."""
    register("vfio-user", VfioUserBackend)
