"""The device half of VIRTIO without I/O: registers and rings, bytes in, values and events out."""

from hdvkit.virtio.chain import Chain
from hdvkit.virtio.common import (
    DeviceReset,
    DriverFailed,
    DriverReady,
    FeaturesRefused,
    InterruptsMoved,
    MasteringLost,
    QueueEnabled,
    QueueReset,
)
from hdvkit.virtio.packed import PackedRing
from hdvkit.virtio.ring import Ring, RingAddresses, Work
from hdvkit.virtio.spec import DeviceType, Feature, Status
from hdvkit.virtio.split import SplitRing
from hdvkit.virtio.transport import CONFIG, INTX, Event, Kicked, Transport

__all__ = [
    "CONFIG",
    "INTX",
    "Chain",
    "DeviceReset",
    "DeviceType",
    "DriverFailed",
    "DriverReady",
    "Event",
    "Feature",
    "FeaturesRefused",
    "InterruptsMoved",
    "Kicked",
    "MasteringLost",
    "PackedRing",
    "QueueEnabled",
    "QueueReset",
    "Ring",
    "RingAddresses",
    "SplitRing",
    "Status",
    "Transport",
    "Work",
]
