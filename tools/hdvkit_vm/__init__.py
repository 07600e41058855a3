"""Virtual machines with stock Linux kernels, to try vfio-user devices in. For development; not in the wheel.

::

    from hdvkit_vm import VirtualMachine

    async with VirtualMachine("6.1", sockets=["/run/me/device.sock"], log=Path("console.log")) as vm:
        await vm.run("mount -t virtiofs src /mnt")
        print(await vm.run("ls -l /mnt"))

The room, from the bottom up:

===============  ======================================================================================
``errors``       what can go wrong
``sources``      which Debian mirror this machine uses
``apt``          an apt of our own: resolves and downloads, touches nothing of the machine
``packages``     unpacks trees, picks kernels apart
``recipe``       what the cache is made of, as a table
``cache``        the folder, its lock and its record
``initramfs``    archives for guests; ``guest/`` holds the scripts that run in them
``qemu``         the command line
``accel``        whether KVM works here
``fetch``        parts out of packages: resolves, downloads, builds
``provision``    ``prepare()``: brings all that together, once
``agent``        commands into the guest and answers out of it
``process``      one QEMU in the event loop
``machine``      ``VirtualMachine``
===============  ======================================================================================

``python -m hdvkit_vm prepare`` sets the cache up, half a minute the first time and nothing afterwards; no root needed.
Environment: HDVKIT_CACHE is the folder, HDVKIT_QEMU a QEMU to use, HDVKIT_ACCEL ``kvm`` or ``tcg``.
"""

from hdvkit_vm.errors import (
    GuestCommandFailed,
    GuestCommandTimedOut,
    GuestNotReady,
    GuestRestarted,
    MachineError,
    MachineExited,
    PrepareError,
    VmError,
)
from hdvkit_vm.machine import VirtualMachine
from hdvkit_vm.provision import GUESTS, Assets, Guest, prepare, prepared
from hdvkit_vm.qemu import Device

__all__ = [
    "GUESTS",
    "Assets",
    "Device",
    "Guest",
    "GuestCommandFailed",
    "GuestCommandTimedOut",
    "GuestNotReady",
    "GuestRestarted",
    "MachineError",
    "MachineExited",
    "PrepareError",
    "VirtualMachine",
    "VmError",
    "prepare",
    "prepared",
]
