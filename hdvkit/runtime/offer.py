"""What a function offers its guest: what the device brings, rings and transport can, and the platform allows."""

from hdvkit.errors import UsageError
from hdvkit.runtime.backend import Backend
from hdvkit.runtime.device import VirtioDevice
from hdvkit.virtio import Feature, Transport
from hdvkit.virtio.spec import DEVICE_FEATURE_BITS

OFFERED = (
    Feature.VERSION_1
    | Feature.INDIRECT_DESC
    | Feature.EVENT_IDX
    | Feature.RING_PACKED
    | Feature.NOTIFICATION_DATA
    | Feature.RING_RESET
    | Feature.ACCESS_PLATFORM
)
"""What ring and transport offer to every driver."""


def offer(device: VirtioDevice, backend: Backend) -> Transport:
    """Build the registers of a device as a platform can carry them.

    Raises:
        UsageError: The device has no type, claims features that are not its own, or has impossible queues.
    """
    if not hasattr(device, "device_type"):
        raise UsageError(f"{type(device).__name__} has no device_type; set it to a DeviceType, or to its number")
    own = device.features
    if own & ~DEVICE_FEATURE_BITS:
        raise UsageError(
            f"{type(device).__name__}.features is {own:#x}: only bits 0-23 and 50-63 belong to a device type"
        )
    return Transport(
        device_type=int(device.device_type),
        class_code=device.class_code,
        features=_offered(backend) | Feature(own),
        queue_sizes=[device.queue_size] * len(device.queue_names),
        config=device.config(),
        remapped=backend.remapped,
        interrupt_pin=backend.interrupt_pin,
        msix=backend.msix,
    )


def _offered(backend: Backend) -> Feature:
    return OFFERED if backend.packed else OFFERED ^ Feature.RING_PACKED
