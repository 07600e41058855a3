"""One device, many machines: it outlives reboots and machines that end well or badly, and serves one at a time."""
# ruff: noqa: ASYNC240 - the host side of a test may block, nobody else is on the loop

import asyncio
import contextlib
import os
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from guest_files import LIMIT
from hdvkit_vm import Assets, MachineExited, VirtualMachine
from qemu.qmp.qmp_client import ExecuteError

import hdvkit
from hdvkit import DeviceHost, Event, Function, Observer, State

MOUNT = "mkdir -p /mnt; mount -t virtiofs share /mnt"
HAMMER = "i=0; while :; do i=$((i + 1)); echo $i > /mnt/new; mv /mnt/new /mnt/count; cat /mnt/big > /dev/null; done"


class Seen(Observer):
    """What has happened, in order."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def event(self, event: Event) -> None:
        """Keep its kind, and why."""
        self.events.append(f"{event.kind} {event.reason}".strip())


@pytest.fixture
def seen() -> Seen:
    """Who remembers the events of ``host``."""
    return Seen()


@pytest.fixture
def shared(room: Path) -> Path:
    """A folder with something to read."""
    folder = room / "folder"
    folder.mkdir()
    (folder / "told").write_text("by the host")
    (folder / "big").write_bytes(bytes(1 << 20))
    return folder


@pytest.fixture
async def host(room: Path, seen: Seen) -> AsyncIterator[DeviceHost]:
    """A host with a short path."""
    async with hdvkit.open_host("vfio-user", directory=room, observers=[seen]) as host:
        yield host


async def uses(vm: VirtualMachine, share: Function, shared: Path) -> None:
    """The guest mounts the share and uses it."""
    async with asyncio.timeout(LIMIT):
        await share.ready()
    await vm.run(MOUNT)
    await works(vm, shared)


async def works(vm: VirtualMachine, shared: Path) -> None:
    """What the guest has mounted can be read and written."""
    new = shared / f"written-{len(list(shared.iterdir()))}"
    assert await vm.run(f"cat /mnt/told && echo by the guest > /mnt/{new.name}") == "by the host"
    assert new.read_text() == "by the guest\n"


async def traffic(vm: VirtualMachine) -> None:
    """The guest starts to read and write without end."""
    await vm.run("rm -f /mnt/count")
    vm.post(HAMMER)
    await vm.run("until [ $(cat /mnt/count || echo 0) -gt 1 ]; do usleep 20000; done 2> /dev/null", timeout=LIMIT)


async def test_a_guest_reboots(
    kernel: str, assets: Assets, log: Path, shared: Path, host: DeviceHost, seen: Seen
) -> None:
    share = await host.add("virtiofs", source=shared, tag="share")
    socket = share.place["socket"]
    async with VirtualMachine(kernel, sockets=[socket], reboot_allowed=True, log=log, assets=assets) as vm:
        await uses(vm, share, shared)
        await vm.reboot()
        await uses(vm, share, shared)
        # Without a word to the guest, as by a reset button, and in the middle of traffic.
        await traffic(vm)
        await vm.qmp.execute("system_reset")
        await vm.wait_rebooted()
        await uses(vm, share, shared)
        assert seen.events == ["listening", *["ready", "reset"] * 2, "ready"]
        assert share.stats().needs_resets == 0


async def test_machines_come_and_go(
    kernel: str, assets: Assets, log: Path, shared: Path, host: DeviceHost, seen: Seen
) -> None:
    share = await host.add("virtiofs", source=shared, tag="share")
    socket = share.place["socket"]
    before = descriptors()

    async with VirtualMachine(kernel, sockets=[socket], log=log, assets=assets) as vm:
        await uses(vm, share, shared)
        vm.post("poweroff -f")
        assert await vm.wait_exit(timeout=LIMIT) == 0
    await let_go(share, before)

    async with VirtualMachine(kernel, sockets=[socket], log=log, assets=assets) as vm:
        await uses(vm, share, shared)
        await traffic(vm)
        os.kill(machine(socket), signal.SIGKILL)
        assert await vm.wait_exit(timeout=LIMIT) == -signal.SIGKILL
    await let_go(share, before)

    async with VirtualMachine(kernel, sockets=[socket], root_ports=1, log=log, assets=assets) as vm:
        await uses(vm, share, shared)
        await traffic(vm)
        with pytest.raises(MachineExited) as refused:
            async with VirtualMachine(kernel, sockets=[socket], assets=assets):
                pass
        assert refused.value.code == 1
        assert socket in refused.value.stderr
        with pytest.raises(ExecuteError):
            await vm.plug(socket, id="second")
        await works(vm, shared)
        assert share.state is State.READY
        assert share.stats().needs_resets == 0
        assert seen.events == ["listening", *["ready", "reset"] * 2, "ready"]


def descriptors() -> list[str]:
    """What this process has open, without numbers of pipes and the like."""
    found = []
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the one that lists them
            found.append(str(link.readlink()))
    return sorted(re.sub(r"\d+", "N", one) for one in found)


async def let_go(share: Function, before: list[str]) -> None:
    """The machine is gone, and nothing of it is left here."""
    try:
        async with asyncio.timeout(LIMIT):
            while share.state is not State.ATTACHED or descriptors() != before:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.02)
    except TimeoutError:
        assert descriptors() == before
        raise


def machine(socket: str) -> int:
    """The process id of the QEMU with this device, a child of ours."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(stat.read_text().rpartition(") ")[2].split()[1])
            if parent == os.getpid() and socket.encode() in (stat.parent / "cmdline").read_bytes():
                return int(stat.parent.name)
    raise AssertionError("no such process")
