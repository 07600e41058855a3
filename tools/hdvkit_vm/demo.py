"""``python -m hdvkit_vm demo``: a directory of this machine in a guest with a stock kernel, and you in that guest.

The only module here that knows hdvkit; it uses what anybody would use.
"""

import asyncio
import contextlib
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click

import hdvkit
from hdvkit_vm.errors import MachineExited
from hdvkit_vm.initramfs import with_files
from hdvkit_vm.machine import VirtualMachine
from hdvkit_vm.provision import Assets
from hdvkit_vm.qemu import Device, Hardware, command

PLACE = "/mnt"

GREETING = """\
stty rows {rows} cols {columns}
mkdir -p {place} && mount -t virtiofs {tag} {place} || exit
echo {place} >/run/start-in
echo
printf 'You are in a guest with Linux %s. Here is\\n    %s\\n' "$(uname -r)" {directory}
echo 'Leave by "exit".'
echo
"""


async def demo(assets: Assets, directory: Path, *, guest: str, read_only: bool, script: str | None) -> int:
    """Share ``directory``, an absolute path, mount it in a guest, and run ``script`` there or give the user a shell.

    Returns:
        The exit code of the script.

    Raises:
        HdvkitError: The directory cannot be shared.
        MachineError: The guest did not come up.
    """
    tag = tag_for(directory)
    with tempfile.TemporaryDirectory(prefix="hdvkit-") as room:
        async with hdvkit.open_host("vfio-user", directory=Path(room)) as host:
            function = await host.add("virtiofs", source=directory, tag=tag, read_only=read_only)
            device = Device(Path(function.place["socket"]))
            if script is None:
                return await _shell(assets, guest, device, directory, tag, Path(room))
            async with VirtualMachine(guest, sockets=[device], assets=assets) as vm:
                place = f"{PLACE}/{tag}"
                await vm.run(f"mkdir -p {place} && mount -t virtiofs {tag} {place}")
                code, output = await vm.call(f"cd {place}\n{script}", timeout=None)
                click.echo(output, nl=False)
                return code


def tag_for(directory: Path) -> str:
    """A tag that says which directory it is, and can be typed anywhere without quotes."""
    name = re.sub(r"[^\w.-]+", "-", directory.name, flags=re.ASCII).strip("-.")
    return name[:36] or "share"


async def _shell(assets: Assets, guest: str, device: Device, directory: Path, tag: str, room: Path) -> int:
    """QEMU with the user's terminal as the guest's console."""
    columns, rows = shutil.get_terminal_size()
    place, shown = f"{PLACE}/{tag}", shlex.quote(str(directory))
    greeting = GREETING.format(rows=rows, columns=columns, place=place, tag=tag, directory=shown)
    kernel = assets.guest(guest)
    initramfs = with_files(kernel.initramfs, {"/run-me.sh": greeting.encode()}, room)
    hardware = Hardware(devices=[device], cmdline="hdvkit.shell=1")
    line = command(assets.qemu, assets.accel, kernel.kernel, initramfs, hardware)
    # Without signals ^C is for the guest.
    line += ["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"]
    with _terminal_as_it_was(), tempfile.TemporaryFile() as stderr:
        process = await asyncio.create_subprocess_exec(*line, stderr=stderr)
        try:
            code = await process.wait()
        finally:
            if process.returncode is None:
                process.terminate()
                await process.wait()
        if code:
            stderr.seek(0)
            raise MachineExited(code, stderr.read().decode(errors="replace"), "(it was your terminal)")
        return code


@contextlib.contextmanager
def _terminal_as_it_was() -> Iterator[None]:
    """QEMU changes the terminal, and may not live to change it back."""
    import termios  # other systems lack it, and only this needs it

    before = termios.tcgetattr(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
