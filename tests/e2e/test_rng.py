"""An entropy source in front of stock kernels: the simplest device, from the guest's driver back to us."""

import re
from pathlib import Path

import attrs
import pytest
from hdvkit_vm import Assets, VirtualMachine

import hdvkit
from hdvkit import DeviceType, Queue, VirtioDevice

PATTERN = bytes(range(256))


@attrs.define
class Counted(VirtioDevice):
    """Not random at all, so that the guest can tell whose bytes it got."""

    device_type = DeviceType.RNG
    queue_names = ("requests",)
    given: int = 0

    async def serve(self, queue: Queue) -> None:
        """Give the pattern, on and on."""
        async for chain in queue:
            with chain:
                start = self.given % len(PATTERN)
                self.given += chain.write((PATTERN * 2)[start : start + min(chain.writable_size, len(PATTERN))])


@pytest.mark.parametrize("msix", [True, False], ids=["msix", "intx"])
async def test_the_guest_gets_our_bytes_by_interrupt(
    kernel: str, assets: Assets, room: Path, log: Path, msix: bool
) -> None:
    async with hdvkit.open_host("vfio-user", directory=room, msix=msix) as host:
        rng = await host.add(Counted(), name="rng")
        async with VirtualMachine(kernel, sockets=[rng.place["socket"]], log=log, assets=assets) as vm:
            await rng.ready()
            assert "virtio_rng" in await vm.run("cat /sys/class/misc/hw_random/rng_current")
            before = interrupts(await vm.run("cat /proc/interrupts"), msix)
            data = bytes.fromhex(await vm.run("head -c 4096 /dev/hwrng | hexdump -v -e '1/1 \"%02x\"'"))
            after = interrupts(await vm.run("cat /proc/interrupts"), msix)
        stats = rng.stats()
    assert len(data) == 4096
    # The driver hands out what it was given in any order of its own making, but always in pieces of the pattern.
    assert PATTERN[data[0] : data[0] + 8] == data[: len(PATTERN[data[0] : data[0] + 8])]
    assert after - before >= 4096 // 64 - 2
    assert stats.queues[0].interrupts >= after
    assert stats.needs_resets == 0


def interrupts(table: str, msix: bool) -> int:
    """How many interrupts of the device the guest has counted."""
    line = next(line for line in table.splitlines() if ("virtio0-input" if msix else "virtio0") in line)
    found = re.match(r"\s*\d+:\s+(\d+)", line)
    assert found is not None, line
    return int(found[1])
