"""One device in a virtual machine: what HDV asks it, what it asks HDV, and how it comes and goes."""

import logging
import uuid
from collections.abc import Mapping, Sequence

from hdvkit.apertures import ApertureMemory
from hdvkit.hosts.hdv import owner
from hdvkit.hosts.hdv.abi.device_interface import PnpId
from hdvkit.hosts.hdv.abi.vmdevicehost import HdvDevice
from hdvkit.hosts.hdv.apertures import HIGH_MEMORY, DeviceApertures
from hdvkit.hosts.hdv.doorbells import Doorbells
from hdvkit.hosts.hdv.identities import emulator_of, pci_domain
from hdvkit.hosts.hdv.interrupts import Interrupts
from hdvkit.hosts.hdv.machine import Machine
from hdvkit.pci.config import Register
from hdvkit.pci.msix import Message
from hdvkit.runtime import CONFIG, Doorbell, Function, Removal, Slot

log = logging.getLogger("hdvkit.hdv")

VIRTIO_DEVICE_IDS = 0x1040
"""The PCI device id of a virtio device is this and its type."""


class FunctionCallbacks:
    """A function as HDV asks for it, on HDV's threads. All is answered at once, from the function's registers."""

    def __init__(self, function: Function) -> None:
        self._function = function

    def power_on(self) -> None:
        """The function begins anew."""
        self._function.reset()

    def configure(self, values: Sequence[str]) -> None:
        """Nothing is configured by the slot's document: options of the device are."""
        log.debug("%s: the slot says %s", self._function.name, list(values))

    def details(self) -> tuple[PnpId, Sequence[int]]:
        """Constants, so that it does not matter how often and when they are asked for."""
        class_code = self._config(Register.CLASS_CODE, 1), self._config(Register.CLASS_CODE + 1, 2)
        identity = PnpId(
            vendor_id=self._config(Register.VENDOR_ID, 2),
            device_id=self._config(Register.DEVICE_ID, 2),
            revision_id=self._config(Register.REVISION_ID, 1),
            prog_if=class_code[0],
            sub_class=class_code[1] & 0xFF,
            base_class=class_code[1] >> 8,
            subsystem_vendor_id=self._config(Register.SUBSYSTEM_VENDOR_ID, 2),
            subsystem_id=self._config(Register.SUBSYSTEM_ID, 2),
        )
        return identity, self._function.probe_words

    def torn_down(self) -> None:
        """The machine let go of it."""
        self._function.gone()

    def read_config(self, offset: int) -> int:
        """Read a double word."""
        return self._config(offset, 4)

    def write_config(self, offset: int, value: int) -> None:
        """Write a double word."""
        self._function.write(CONFIG, offset, value.to_bytes(4, "little"))

    def read(self, bar: int, offset: int, size: int) -> bytes:
        """Read a BAR; one that is not there reads all ones, as an empty place of the bus does."""
        return self._function.read(bar, offset, size) if bar in self._function.bars else b"\xff" * size

    def write(self, bar: int, offset: int, data: bytes) -> None:
        """Write to a BAR."""
        self._function.write(bar, offset, data)

    def _config(self, offset: int, size: int) -> int:
        return int.from_bytes(self._function.read(CONFIG, offset, size), "little")


class HdvSlot(Slot):
    """A FlexibleIov slot."""

    def __init__(
        self,
        machine: Machine,
        function: Function,
        instance: uuid.UUID,
        *,
        memory_size: int,
        doorbells: bool,
        repeat: bool,
    ) -> None:
        self.instance = instance
        self.interrupts = Interrupts(machine)
        self.doorbells = Doorbells(machine, instance)
        self._apertures = DeviceApertures(machine)
        self.memory: ApertureMemory = ApertureMemory(
            self._apertures, machine.pool, max_address=HIGH_MEMORY + memory_size
        )
        self._machine = machine
        self._matches_kicks = doorbells
        self._repeats = repeat
        self._emulator = emulator_of(_device_type(function))
        self._callbacks = FunctionCallbacks(function)
        self._plugged = False

    @property
    def place(self) -> Mapping[str, str]:
        """The instance id, by which the guest's VMBus shows it too."""
        return {"instance_id": str(self.instance)}

    @property
    def hint(self) -> str:
        """Where Linux shows it."""
        return f"in a Linux guest: /sys/bus/pci/devices/{pci_domain(self.instance):04x}:00:00.0"

    async def attach(self) -> None:
        """Make the device, then a slot in the running machine that finds it."""
        await owner.call(self._attach)
        if self._repeats:
            self.interrupts.repeat()

    async def detach(self) -> Removal:
        """Take the device out, where Windows can. Where it cannot, the guest keeps what answers with errors."""
        await self.interrupts.aclose()
        self.memory.clear()
        return await owner.call(self._detach)

    def interrupt(self, message: Message) -> None:
        """Send a message that the guest programmed."""
        self.interrupts.send(message)

    def doorbell(self, doorbell: Doorbell) -> bool:
        """Look for a way to have the kernel ring it."""
        return self._matches_kicks and self.doorbells.want(doorbell)

    def dismiss(self, doorbell: Doorbell) -> None:
        """Undo that: the queue is closed, and its interrupts are over."""
        self.interrupts.forget()
        self.doorbells.dismiss(doorbell)

    # On the owner thread

    def _attach(self) -> None:
        device = self._machine.add(self._emulator, self.instance, self._callbacks)
        self._use(device)
        self._machine.plug(self._emulator, self.instance)
        self._plugged = True

    def _detach(self) -> Removal:
        self.doorbells.close()
        removed = self._plugged and self._machine.alive and self._machine.unplug(self._emulator, self.instance)
        return Removal.REMOVED if removed else Removal.PARKED

    def _use(self, device: HdvDevice) -> None:
        for part in (self._apertures, self.interrupts, self.doorbells):
            part.device = device


def _device_type(function: Function) -> int:
    return int.from_bytes(function.read(CONFIG, Register.DEVICE_ID, 2), "little") - VIRTIO_DEVICE_IDS
