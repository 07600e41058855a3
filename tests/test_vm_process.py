"""QEMU's process and command line. A shell plays QEMU, so nothing boots."""

import asyncio
import io
import json
import sys
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from hdvkit_vm import Device, VirtualMachine, process
from hdvkit_vm.errors import MachineError, MachineExited
from hdvkit_vm.process import QemuProcess
from hdvkit_vm.qemu import Hardware, command

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="virtual machines need Linux")


async def start(script: str, tee: BinaryIO | None = None) -> QemuProcess:
    return await QemuProcess.start(("sh", "-c", script), tee=tee)


class Heard(io.BytesIO):
    """A log that tells when the first words have come."""

    def __init__(self) -> None:
        super().__init__()
        self.words = asyncio.Event()

    def write(self, data: Any) -> int:
        """Called by the process."""
        self.words.set()
        return super().write(data)


async def test_an_exit_ends_what_waits_and_tells_all():
    qemu = await start("echo Booting; echo 'no such device' >&2; exit 3")
    with pytest.raises(MachineExited, match=r"(?s)exit code 3.*no such device.*Booting") as caught:
        await asyncio.wait_for(qemu.unless_exited(asyncio.Event().wait()), 5)
    assert caught.value.code == 3
    await qemu.stop()


async def test_a_connection_that_breaks_is_told_as_the_exit_it_was():
    qemu = await start("kill -ABRT $$")

    async def broken() -> None:
        raise EOFError

    with pytest.raises(MachineExited, match="SIGABRT"):
        await qemu.unless_exited(broken())
    await qemu.stop()


async def test_results_and_other_errors_pass_through():
    qemu = await start("exec sleep 1000")

    async def fails() -> None:
        raise KeyError("mine")

    assert await qemu.unless_exited(asyncio.sleep(0, "result")) == "result"
    with pytest.raises(KeyError, match="mine"):
        await qemu.unless_exited(fails())
    await qemu.stop()
    assert qemu.exited.result() == -15


async def test_one_that_does_not_listen_is_killed(monkeypatch):
    monkeypatch.setattr(process, "GRACE", 0.2)
    heard = Heard()
    qemu = await start("trap '' TERM; echo deaf; exec sleep 1000", heard)
    await heard.words.wait()
    await qemu.stop()
    assert qemu.exited.result() == -9


async def test_the_console_is_copied_as_it_comes(tmp_path: Path):
    log = tmp_path / "console.log"
    with log.open("wb", buffering=0) as tee:
        qemu = await QemuProcess.start(("printf", "a\\377b"), tee=tee)
        await qemu.exited
    await qemu.stop()
    assert log.read_bytes() == b"a\xffb"
    assert qemu.console == "a\N{REPLACEMENT CHARACTER}b"


async def test_a_machine_that_was_not_entered_says_so():
    with pytest.raises(MachineError, match="async with"):
        await VirtualMachine().run("ls")


def words(hardware: Hardware) -> list[str]:
    return command(Path("/q"), "tcg", Path("/k"), Path("/i"), hardware)


def test_devices_are_named_and_may_have_properties():
    line = words(Hardware(devices=[Device(Path("/a")), Device(Path("/b"), "two", {"x-no-posted-writes": True})]))
    devices = [json.loads(word) for word in line if word.startswith("{")]
    assert devices == [
        {"driver": "vfio-user-pci", "id": "d0", "socket": {"type": "unix", "path": "/a"}},
        {
            "driver": "vfio-user-pci",
            "id": "two",
            "socket": {"type": "unix", "path": "/b"},
            "x-no-posted-writes": True,
        },
    ]


def test_memory_is_shared_with_device_servers():
    line = words(Hardware(memory_mb=128))
    assert "memory-backend-memfd,id=ram,size=128M,share=on" in line
    assert line[line.index("-m") + 1] == "128M"


def test_root_ports_and_reboots():
    assert sum(word.startswith("pcie-root-port,") for word in words(Hardware(root_ports=3))) == 3
    assert "-no-reboot" in words(Hardware())
    assert "-no-reboot" not in words(Hardware(reboot_allowed=True))
    assert words(Hardware(cmdline="quiet=no"))[words(Hardware()).index("-append") + 1].endswith(" quiet=no")
