"""Numbers of the VIRTIO specification, under its own names. No logic."""

from enum import IntEnum, IntFlag

PCI_VENDOR_ID = 0x1AF4
PCI_DEVICE_ID_BASE = 0x1040
"""A modern device's PCI id is this plus its device type ("PCI Device Discovery")."""
PCI_SUBSYSTEM_ID = 0x0040
PCI_REVISION_ID = 1

NO_VECTOR = 0xFFFF
MAX_QUEUE_SIZE = 32768
MAX_QUEUES = 1024
"""No limit of the specification; ours, so that vectors and the notify window stay small."""


class DeviceType(IntEnum):
    """What the virtio device id says ("Device Types")."""

    NET = 1
    BLOCK = 2
    CONSOLE = 3
    RNG = 4
    BALLOON = 5
    SCSI = 8
    NINE_P = 9
    GPU = 16
    INPUT = 18
    VSOCK = 19
    CRYPTO = 20
    FS = 26
    PMEM = 27
    MEM = 24
    SOUND = 25
    I2C = 34
    GPIO = 41


class Feature(IntFlag):
    """The features of ring and transport that hdvkit knows ("Reserved Feature Bits")."""

    INDIRECT_DESC = 1 << 28
    EVENT_IDX = 1 << 29
    VERSION_1 = 1 << 32
    ACCESS_PLATFORM = 1 << 33
    RING_PACKED = 1 << 34
    NOTIFICATION_DATA = 1 << 38
    RING_RESET = 1 << 40


DEVICE_FEATURE_BITS = (1 << 24) - 1 | ((1 << 14) - 1) << 50
"""Bits 0-23 and 50-63 mean what the device type says; the rest belongs to ring and transport."""


class Status(IntFlag):
    """The bits of device_status ("Device Status Field")."""

    ACKNOWLEDGE = 1
    DRIVER = 2
    DRIVER_OK = 4
    FEATURES_OK = 8
    DEVICE_NEEDS_RESET = 64
    FAILED = 128


class CapabilityType(IntEnum):
    """What a vendor capability points to ("Virtio Structure PCI Capabilities")."""

    COMMON = 1
    NOTIFY = 2
    ISR = 3
    DEVICE = 4
    PCI = 5


class Isr(IntFlag):
    """Why the interrupt pin was raised ("ISR status capability")."""

    QUEUE = 1
    CONFIG = 2


class DescriptorFlag(IntFlag):
    """Descriptor flags of both rings; AVAIL and USED belong to packed rings alone."""

    NEXT = 1
    WRITE = 2
    INDIRECT = 4
    AVAIL = 1 << 7
    USED = 1 << 15


AVAIL_NO_INTERRUPT = 1
USED_NO_NOTIFY = 1


class RingEvent(IntEnum):
    """When one side of a packed ring wants to hear ("Event Suppression Structure Format")."""

    ENABLE = 0
    DISABLE = 1
    DESCRIPTOR = 2
