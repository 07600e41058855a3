"""Share a directory with a QEMU guest while it runs: hot add, let it work, take it away. All in one event loop.

    python examples/share_with_qemu.py DIRECTORY KERNEL INITRD

INITRD must end in a shell on the first serial port; `make vm` prints a kernel and an initrd that do. Needs the package
`qemu.qmp` and a QEMU that `hdvkit check vfio-user` accepts.
"""
# ruff: noqa: T201 - an example prints what it sees

import asyncio
import os
import sys
import tempfile
from pathlib import Path

from qemu.qmp import QMPClient

import hdvkit

QEMU = os.environ.get("HDVKIT_QEMU", "qemu-system-x86_64")
MACHINE = [
    *("-M", "q35,memory-backend=ram", "-m", "256M", "-nodefaults", "-display", "none", "-serial", "stdio"),
    # Guest RAM must be shared, or the device sees another copy of it.
    *("-object", "memory-backend-memfd,id=ram,size=256M,share=on"),
    # A port for each device that is plugged later.
    *("-device", "pcie-root-port,id=port0,bus=pcie.0,chassis=1,slot=1"),
    *("-append", "console=ttyS0 quiet hdvkit.shell=1"),
]
WORK = b"mkdir -p /mnt && mount -t virtiofs src /mnt && ls /mnt && uname -r > /mnt/guest.txt; umount /mnt\n"
PROMPT = b"# "


async def share(directory: Path, kernel: Path, initrd: Path, room: Path) -> None:
    """Boot a guest, give it the directory, have it do something there, and take the directory away again."""
    monitor = QMPClient("guest")
    await monitor.start_server(str(room / "qmp"))
    # QEMU up to 11.1 cannot unplug a device with MSI-X, so this one does with the interrupt pin.
    async with hdvkit.open_host("vfio-user", directory=room, msix=False) as host:
        boot = ("-kernel", kernel, "-initrd", initrd, "-qmp", f"unix:{room / 'qmp'}")
        guest = await asyncio.create_subprocess_exec(
            QEMU, *MACHINE, *boot, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        try:
            assert guest.stdin is not None
            assert guest.stdout is not None
            async with asyncio.timeout(60):  # should QEMU not get that far
                await monitor.accept()
            await guest.stdout.readuntil(PROMPT)

            added = await host.add("virtiofs", source=directory, tag="src")
            plug = {"id": "src", "bus": "port0", "driver": "vfio-user-pci"}
            await monitor.execute("device_add", plug | {"socket": {"type": "unix", "path": added.place["socket"]}})
            await added.ready()  # the guest's driver is up
            print("plugged in:", added.place["socket"])

            guest.stdin.write(WORK)
            print((await guest.stdout.readuntil(PROMPT)).decode(errors="replace"))

            with monitor.listener("DEVICE_DELETED") as deleted:
                await monitor.execute("device_del", {"id": "src"})
                await deleted.get()
            print("the share is:", await host.remove(added))
            await monitor.disconnect()
        finally:
            if guest.returncode is None:
                guest.terminate()
            await guest.wait()


def main() -> None:
    """Read the command line."""
    directory, kernel, initrd = map(Path, sys.argv[1:])
    with tempfile.TemporaryDirectory() as room:
        asyncio.run(share(directory, kernel, initrd, Path(room)))


if __name__ == "__main__":
    main()
