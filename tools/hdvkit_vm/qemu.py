"""QEMU's command line. Makes lists of words; starts nothing."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs

# Each of these takes a visible share off the boot time under TCG, where every instruction is emulated.
FAST_BOOT = "mitigations=off tsc=reliable no_timer_check cryptomgr.notests 8250.nr_uarts=2"


@attrs.frozen
class Device:
    """A vfio-user device to plug, with further properties of QEMU's device if wanted.

    For functions of one multi-function device give ``{"addr": "5.0", "multifunction": True}``, ``{"addr": "5.1"}``.
    """

    socket: Path
    id: str = ""
    properties: Mapping[str, object] = attrs.Factory(dict)

    def arguments(self, number: int = 0) -> dict[str, object]:
        """The arguments of ``device_add``; an unnamed device is called ``d<number>``."""
        socket = {"type": "unix", "path": str(self.socket)}
        return {"driver": "vfio-user-pci", "id": self.id or f"d{number}", "socket": socket, **self.properties}


@attrs.frozen
class Hardware:
    """What a virtual machine consists of, besides its kernel."""

    memory_mb: int = 256
    cpus: int = 1
    devices: Sequence[Device] = ()
    root_ports: int = 0
    reboot_allowed: bool = False
    cmdline: str = ""  # appended to the kernel's


def command(qemu: Path, accel: str, kernel: Path, initramfs: Path, hardware: Hardware) -> list[str]:
    """The command line, up to and without serial ports and monitor. The first serial port is the console."""
    # Device servers need the guest's memory as a file descriptor, hence a shared memfd.
    memory = f"{hardware.memory_mb}M"
    line = [str(qemu), "-accel", accel, "-machine", "q35,memory-backend=ram,hpet=off", "-m", memory]
    line += ["-object", f"memory-backend-memfd,id=ram,size={memory},share=on", "-smp", str(hardware.cpus)]
    line += ["-nodefaults", "-no-user-config", "-display", "none"]
    line += ["-kernel", str(kernel), "-initrd", str(initramfs)]
    line += ["-append", f"console=ttyS0 quiet panic=-1 {FAST_BOOT} {hardware.cmdline}".strip()]
    if not hardware.reboot_allowed:
        line += ["-no-reboot"]  # with panic=-1, a guest that panics ends QEMU
    for number in range(hardware.root_ports):
        port = f"pcie-root-port,id={root_port(number)},bus=pcie.0,chassis={number + 1},slot={number + 1}"
        line += ["-device", port]
    for number, device in enumerate(hardware.devices):
        # The socket is an object, which only the JSON form can say.
        line += ["-device", json.dumps(device.arguments(number))]
    return line


def root_port(number: int) -> str:
    """The name of a root port: a place to plug one device while the machine runs."""
    return f"rp{number}"
