"""Shares that come and go while a guest runs: plugged and unplugged by QEMU, taken and found again by the guest."""
# ruff: noqa: ASYNC240 - the host side of a test may block, nobody else is on the loop

import asyncio
import hashlib
import random
from pathlib import Path

import pytest
from guest_files import LIMIT
from hdvkit_vm import Assets, VirtualMachine

import hdvkit
from hdvkit import Event, Observer, Removal

NOISE = random.Random(11).randbytes(1_000_003)


class Seen(Observer):
    """What has happened to each device, in order."""

    def __init__(self) -> None:
        self.events: dict[str, list[str]] = {}

    def event(self, event: Event) -> None:
        """Keep its kind."""
        self.events.setdefault(event.device, []).append(str(event.kind))


def folder(room: Path, name: str) -> Path:
    """A folder with something to read."""
    made = room / name
    made.mkdir()
    (made / "noise").write_bytes(NOISE)
    (made / "name").write_text(name)
    return made


def mount(tag: str) -> str:
    """A script that mounts a share. Its tag becomes known a moment after the device is ready, hence the repetition."""
    return f"mkdir -p /mnt/{tag}; until mount -t virtiofs {tag} /mnt/{tag} 2> /tmp/why; do usleep 20000; done\n"


def use(tag: str) -> str:
    """A script that reads and writes in a mounted share, and prints a hash of what it read."""
    return f"sha256sum < /mnt/{tag}/noise && cp /mnt/{tag}/noise /mnt/{tag}/copy && cat /mnt/{tag}/name"


def used(shared: Path, told: str) -> None:
    """Both sides agree on what ``use`` did; what it wrote is taken away again."""
    assert told.split() == [hashlib.sha256(NOISE).hexdigest(), "-", shared.name]
    assert (shared / "copy").read_bytes() == NOISE
    (shared / "copy").unlink()


async def test_shares_are_plugged_into_a_running_guest(kernel: str, assets: Assets, room: Path, log: Path) -> None:
    folders = [folder(room, name) for name in ("one", "two")]
    async with (
        hdvkit.open_host("vfio-user", directory=room) as host,
        VirtualMachine(kernel, root_ports=2, log=log, assets=assets) as vm,
    ):
        assert await vm.run("ls /sys/bus/virtio/devices") == ""
        for port, shared in enumerate(folders):
            share = await host.add("virtiofs", source=shared, tag=shared.name)
            await vm.plug(share.place["socket"], id=shared.name, port=port)
            await ready(share)
            await vm.run(mount(shared.name))
        for shared in folders:
            used(shared, await vm.run(use(shared.name), timeout=LIMIT))
        both = await vm.run(f"({use('one')}) > /tmp/one & {use('two')}; wait; cat /tmp/one", timeout=LIMIT)
        assert both.count(hashlib.sha256(NOISE).hexdigest()) == 2
        table = await vm.run("grep requests /proc/interrupts")
        statistics = [share.stats() for share in host.devices]
    assert len([line for line in table.splitlines() if "PCI-MSI" in line]) == 2, table
    assert all(one.queues[1].interrupts > 0 and one.needs_resets == 0 for one in statistics)


async def ready(share: hdvkit.Function) -> None:
    """The guest's driver is up, within a limit."""
    async with asyncio.timeout(LIMIT):
        await share.ready()


FIND = "device=$(dirname $(grep -l 0x105a /sys/bus/pci/devices/*/device)); address=$(basename $device)\n"


@pytest.mark.parametrize(
    ("leave", "enter"),
    [
        ("echo 1 > $device/remove", "echo 1 > /sys/bus/pci/rescan"),
        (
            "echo $address > /sys/bus/pci/drivers/virtio-pci/unbind; echo $address > /tmp/address",
            "cat /tmp/address > /sys/bus/pci/drivers/virtio-pci/bind",
        ),
    ],
    ids=["remove and rescan", "unbind and bind"],
)
async def test_a_guest_lets_go_and_comes_back(
    kernel: str, assets: Assets, room: Path, log: Path, leave: str, enter: str
) -> None:
    shared = folder(room, "share")
    seen = Seen()
    async with hdvkit.open_host("vfio-user", directory=room, observers=[seen]) as host:
        share = await host.add("virtiofs", source=shared, tag="share")
        async with VirtualMachine(kernel, root_ports=1, log=log, assets=assets) as vm:
            await vm.plug(share.place["socket"], id="share")
            for mounted in (False, True):
                await ready(share)
                await vm.run(mount("share"))
                used(shared, await vm.run(use("share"), timeout=LIMIT))
                # An open file, for the harder half: it must end in errors, and hold nobody up.
                await vm.run("umount /mnt/share" if not mounted else hold("/mnt/share/name"))
                await vm.run(FIND + leave, timeout=LIMIT)
                assert await vm.run("ls /sys/bus/virtio/devices") == ""
                assert seen.events["share"][-2:] == ["ready", "reset"]
                if mounted:
                    assert "not connected" in (await vm.call("ls /mnt/share"))[1]
                    assert "read: 1" in await vm.run(LET_GO, timeout=LIMIT)
                    await vm.run("umount /mnt/share", timeout=LIMIT)
                await vm.run(enter, timeout=LIMIT)
            await ready(share)
            await vm.run(mount("share"))
            used(shared, await vm.run(use("share"), timeout=LIMIT))
            assert seen.events["share"] == ["listening", *["ready", "reset"] * 2, "ready"]
            assert share.stats().needs_resets == 0


def hold(path: str) -> str:
    """A script that leaves a process behind with an open file; it returns when the file is open."""
    return (
        "mkfifo /tmp/opened /tmp/go /tmp/told\n"
        f"{{ exec 7< {path}; echo > /tmp/opened; read go < /tmp/go; cat <&7; code=$?\n"
        "exec 7<&-; echo read: $code > /tmp/told; } &\n"  # closed first, or it would still be busy when we unmount
        "read opened < /tmp/opened\n"
    )


LET_GO = "echo > /tmp/go; cat /tmp/told; rm /tmp/opened /tmp/go /tmp/told\n"
"""Has the process that ``hold`` left read its file, tells how that ended, and ends it."""


async def test_qemu_unplugs_and_plugs_again(kernel: str, assets: Assets, room: Path, log: Path) -> None:
    shared = folder(room, "share")
    seen = Seen()
    async with hdvkit.open_host("vfio-user", directory=room, msix=False, observers=[seen]) as host:
        share = await host.add("virtiofs", source=shared, tag="share")
        async with VirtualMachine(kernel, root_ports=1, log=log, assets=assets) as vm:
            for mounted in (False, True, True):
                await vm.plug(share.place["socket"], id="again")
                await ready(share)
                await vm.run(mount("share"))
                used(shared, await vm.run(use("share"), timeout=LIMIT))
                await vm.run("umount /mnt/share" if not mounted else hold("/mnt/share/name"))
                await vm.unplug("again", timeout=LIMIT)
                assert await vm.run("ls /sys/bus/virtio/devices") == ""
                if mounted:
                    assert "not connected" in (await vm.call("ls /mnt/share"))[1]
                    assert "read: 1" in await vm.run(LET_GO, timeout=LIMIT)
                    await vm.run("umount /mnt/share", timeout=LIMIT)
            assert seen.events["share"] == ["listening", *["ready", "reset"] * 3]
            assert share.stats().needs_resets == 0
            assert await host.remove(share) is Removal.REMOVED
            assert host.devices == ()
            assert not Path(share.place["socket"]).exists()
            assert seen.events["share"] == ["listening", *["ready", "reset"] * 3, "removed"]

            parked = await host.add("virtiofs", source=shared, tag="parked")
            await vm.plug(parked.place["socket"], id="again")
            await ready(parked)
            await vm.run(mount("parked"))
            assert await host.remove(parked) is Removal.PARKED
            assert "No such device" in (await vm.call("ls /mnt/parked"))[1]
            await vm.unplug("again", timeout=LIMIT)
            async with asyncio.timeout(LIMIT):
                async for _ in parked.events():  # they end with the device
                    pass
            assert [kind for kind in seen.events["parked"] if kind != "reset"] == [
                "listening",
                "ready",
                "parked",
                "removed",
            ]
            assert host.devices == ()
