"""What runs devices on an event loop: hosts, functions, queues, and the seam that platforms implement."""

from hdvkit.runtime.backend import Backend, Finding, KickReader, Removal, Slot
from hdvkit.runtime.device import VirtioDevice
from hdvkit.runtime.doorbell import Doorbell
from hdvkit.runtime.function import Function
from hdvkit.runtime.host import DeviceHost, Opening
from hdvkit.runtime.queue import Queue
from hdvkit.runtime.stats import FunctionStats, QueueStats, State
from hdvkit.virtio import CONFIG, INTX

__all__ = [
    "CONFIG",
    "INTX",
    "Backend",
    "DeviceHost",
    "Doorbell",
    "Finding",
    "Function",
    "FunctionStats",
    "KickReader",
    "Opening",
    "Queue",
    "QueueStats",
    "Removal",
    "Slot",
    "State",
    "VirtioDevice",
]
