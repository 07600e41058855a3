"""hdvkit: virtio PCI devices as async Python classes, attached to virtual machines.

A device is written once and runs on three device hosts: ``hdv`` (Hyper-V on Windows), ``vfio-user`` (QEMU and others
on Linux) and ``sim`` (a machine inside the process, for tests). See :class:`VirtioDevice` and :func:`open_host`.
"""

from hdvkit.errors import GuestError, HdvkitError, HostError, UsageError
from hdvkit.hookspecs import hookimpl
from hdvkit.observe import Event, EventKind, Observer
from hdvkit.opening import open_host
from hdvkit.plugins import Plugins
from hdvkit.runtime import (
    DeviceHost,
    Finding,
    Function,
    FunctionStats,
    Queue,
    QueueStats,
    Removal,
    State,
    VirtioDevice,
)
from hdvkit.virtio import Chain, DeviceType

__all__ = [
    "Chain",
    "DeviceHost",
    "DeviceType",
    "Event",
    "EventKind",
    "Finding",
    "Function",
    "FunctionStats",
    "GuestError",
    "HdvkitError",
    "HostError",
    "Observer",
    "Plugins",
    "Queue",
    "QueueStats",
    "Removal",
    "State",
    "UsageError",
    "VirtioDevice",
    "hookimpl",
    "open_host",
]
