"""The GUIDs of a device: which emulator Windows takes it for, and which one of the machine's it is."""

import uuid
from collections.abc import Callable, Container
from typing import Final

VIRTIO_FS: Final = uuid.UUID("872270e1-a899-4af6-b454-7193634435ad")

EMULATORS: Final = {
    1: uuid.UUID("f07010d0-0ea9-447f-88ef-bd952a4d2f14"),
    9: uuid.UUID("fc36c5c6-7a87-4841-a47a-1d352987055b"),
    26: VIRTIO_FS,
    27: uuid.UUID("edbb24bb-5e19-40f4-8a0f-8224313064fd"),
}
"""The emulators that Windows knows, by virtio device type: net, 9p, fs, pmem.

Of an emulator that Windows does not know, a machine takes one device only. So all other types are said to be file
systems; the guest chooses its driver by the PCI id, which tells the truth. Not proven on Hyper-V.
"""


def emulator_of(device_type: int) -> uuid.UUID:
    """The emulator id for a virtio device type."""
    return EMULATORS.get(device_type, VIRTIO_FS)


def new_instance(taken: Container[int], make: Callable[[], uuid.UUID] = uuid.uuid4) -> uuid.UUID:
    """An instance id whose PCI domain, which Linux takes from its second group, no other device of ours has."""
    while True:
        instance = make()
        if pci_domain(instance) and pci_domain(instance) not in taken:
            return instance


def pci_domain(instance: uuid.UUID) -> int:
    """The PCI domain at which a Linux guest shows the device."""
    return instance.fields[1]
