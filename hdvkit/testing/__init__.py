"""For tests of devices, file systems and platforms: a simulated machine and guest, hostile guests, conformance kits.

Start with :class:`Guest` on a ``sim`` host, or with the fixtures of :mod:`hdvkit.testing.pytest_plugin`. Of hdvkit
itself only the commands ``demo`` and ``selftest`` import this.
"""

from hdvkit.testing.driver import DriverError, VirtioDriver
from hdvkit.testing.driver_rings import DriverQueue, Reply
from hdvkit.testing.fuse_client import FuseClient
from hdvkit.testing.guest import Guest, machine_of
from hdvkit.testing.hostile import GUESTS, Answer, Hostile, HostileError, Verdict, by_name, provoke
from hdvkit.testing.kit import Failed, Report, Result, check_backend, check_device
from hdvkit.testing.machine import Machine
from hdvkit.testing.mount import GuestFile, GuestMount

__all__ = [
    "GUESTS",
    "Answer",
    "DriverError",
    "DriverQueue",
    "Failed",
    "FuseClient",
    "Guest",
    "GuestFile",
    "GuestMount",
    "Hostile",
    "HostileError",
    "Machine",
    "Reply",
    "Report",
    "Result",
    "Verdict",
    "VirtioDriver",
    "by_name",
    "check_backend",
    "check_device",
    "machine_of",
    "provoke",
]
