"""One virtual machine as this process knows it: the compute system, and the device host registered with it.

Hyper-V takes one device host for each machine from a process, so all hosts that are opened for the same machine share
it. Everything here but ``alive`` and ``pool`` belongs to the owner thread.
"""

import atexit
import logging
import uuid

from hdvkit.apertures import AperturePool
from hdvkit.errors import HostError, UsageError
from hdvkit.hosts.hdv import documents, owner
from hdvkit.hosts.hdv.abi.computecore import ComputeSystem
from hdvkit.hosts.hdv.abi.device_interface import Callbacks
from hdvkit.hosts.hdv.abi.hresult import NOT_SUPPORTED, HdvError
from hdvkit.hosts.hdv.abi.libraries import Libraries
from hdvkit.hosts.hdv.abi.vmdevicehost import HdvDevice, HdvHost
from hdvkit.hosts.hdv.documents import HostingModel

log = logging.getLogger("hdvkit.hdv")

AT_EXIT = 10.0
"""Seconds that the end of the process waits for a device host that nobody closed."""

ONE_MACHINE = (
    "this process serves another machine already, and Windows is known to fail with two: "
    "use another process, or say several_machines=true to try"
)

_machines: "dict[uuid.UUID, Machine]" = {}


class Machine:
    """What the hosts opened for one virtual machine share."""

    def __init__(self, libraries: Libraries, system: ComputeSystem, model: HostingModel, apertures: int) -> None:
        self.libraries = libraries
        self.model = model
        self.runtime = _runtime_id(system)
        self.pool = AperturePool(apertures)
        self.alive = True
        """Cleared before the device host is torn down: from then on Windows must not be asked about its devices."""
        self.denied_doorbells = False
        """HDV has refused to ring for this host, as it does for restricted ones."""
        self._system = system
        self._users = 0
        self._host = self._make_host()

    @classmethod
    def join(
        cls, libraries: Libraries, identity: str, model: HostingModel, apertures: int, *, several: bool
    ) -> "Machine":
        """The machine of this id, from now on with one more user.

        Raises:
            HostError: Windows refused.
            UsageError: The process serves another machine already, or this one in another way.
        """
        system = ComputeSystem(libraries, identity)
        try:
            machine = _machines.get(_runtime_id(system))
            if machine is None:
                if _machines and not several:
                    raise UsageError(ONE_MACHINE)
                machine = cls(libraries, system, model, apertures)
                atexit.register(_at_exit)  # more than once is harmless
                _machines[machine.runtime] = machine
            elif (machine.model, machine.pool.limit) != (model, apertures):
                raise UsageError(
                    f"this process serves machine {identity!r} with hosting_model={machine.model} and "
                    f"apertures={machine.pool.limit} already: say the same here"
                )
        except BaseException:
            system.close()
            raise
        if machine._system is not system:
            system.close()
        machine._users += 1
        return machine

    def leave(self) -> None:
        """One user less. After the last, every device of this process in the machine is dead."""
        self._users -= 1
        if not self._users:
            self.end()

    def end(self) -> None:
        """Tear down the device host and let go of the machine. A dead one is let go of all the same."""
        self.alive = False
        del _machines[self.runtime]
        try:
            self._host.teardown()
        except HdvError as error:
            log.warning("%s", error)
        self._system.close()

    def add(self, emulator: uuid.UUID, instance: uuid.UUID, callbacks: Callbacks) -> HdvDevice:
        """Make a device. It is not visible before ``plug``: what calls it back needs what this returns."""
        return self._host.create(emulator, instance, callbacks)

    def plug(self, emulator: uuid.UUID, instance: uuid.UUID) -> None:
        """Show a device to the guest. HDV asks it from other threads before this returns."""
        document = documents.slot("Add", instance, emulator, self.model)
        self._system.modify(document, f"adding device {instance} to the machine")

    def unplug(self, emulator: uuid.UUID, instance: uuid.UUID) -> bool:
        """Take a device from the guest; False when this Windows cannot, or the machine is not there to ask."""
        document = documents.slot("Remove", instance, emulator, self.model)
        try:
            self._system.modify(document, f"removing device {instance} from the machine")
        except HdvError as error:
            level = logging.DEBUG if error.hresult == NOT_SUPPORTED else logging.WARNING
            log.log(level, "%s", error)
            return False
        return True

    def _make_host(self) -> HdvHost:
        if self.model is HostingModel.EXTERNAL:
            return HdvHost.in_process(self.libraries, self._system.handle)
        return HdvHost.for_proxy(self.libraries, self.runtime, self._system.handle)


def _runtime_id(system: ComputeSystem) -> uuid.UUID:
    """By which Windows knows the machine while it runs; not always the id that it was made with."""
    document = system.properties()
    try:
        found = documents.read_system(document)
    except ValueError as error:
        raise HostError(f"the properties of {system.identity!r} cannot be read ({error}): {document[:200]}") from error
    if found.kind != "VirtualMachine":
        raise HostError(f"{system.identity!r} is a {found.kind or 'nameless kind'}: give the id of a virtual machine")
    if found.runtime is None:
        raise HostError(f"{system.identity!r} has no RuntimeId; its state is {found.state or 'unknown'}: start it")
    return found.runtime


def _at_exit() -> None:
    """Windows calls back on threads of its own, which must not happen once the interpreter is gone."""
    if _machines:
        owner.call_and_wait(_end_all, AT_EXIT)


def _end_all() -> None:
    for machine in tuple(_machines.values()):
        machine.end()
