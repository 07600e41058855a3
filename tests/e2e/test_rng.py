"""An entropy source in front of stock kernels: the simplest device, from the guest's driver back to us."""

import random
import re
from pathlib import Path

import attrs
import pytest
from hdvkit_vm import Assets, VirtualMachine

import hdvkit
from hdvkit import DeviceType, Queue, VirtioDevice

PIECE = 64
"""Linux asks for so many bytes at a time, and hands out no more at once."""


@attrs.define
class Known(VirtioDevice):
    """Bytes that nobody else has, each given once, so that the guest's can be told from all others."""

    device_type = DeviceType.RNG
    queue_names = ("requests",)
    secret: random.Random = attrs.field(factory=random.SystemRandom)
    given: bytearray = attrs.field(factory=bytearray)

    async def serve(self, queue: Queue) -> None:
        """Give all that is asked for: Linux waits for ever after less, counting twice what it has used of that."""
        async for chain in queue:
            with chain:
                data = self.secret.randbytes(chain.writable_size)
                self.given += data[: chain.write(data)]


@pytest.mark.parametrize("msix", [True, False], ids=["msix", "intx"])
async def test_the_guest_gets_our_bytes_by_interrupt(
    kernel: str, assets: Assets, room: Path, log: Path, msix: bool
) -> None:
    device = Known()
    async with hdvkit.open_host("vfio-user", directory=room, msix=msix) as host:
        rng = await host.add(device, name="rng")
        async with VirtualMachine(kernel, sockets=[rng.place["socket"]], log=log, assets=assets) as vm:
            await rng.ready()
            assert "virtio_rng" in await vm.run("cat /sys/class/misc/hw_random/rng_current")
            before = interrupts(await vm.run("cat /proc/interrupts"), msix)
            data = bytes.fromhex(await vm.run("head -c 4096 /dev/hwrng | hexdump -v -e '1/1 \"%02x\"'"))
            after = interrupts(await vm.run("cat /proc/interrupts"), msix)
        stats = rng.stats()
    assert len(data) == 4096
    at = 0
    for start in range(0, len(data), PIECE):
        # In the order they were given, none twice. The guest's kernel takes pieces for itself in between.
        found = device.given.find(data[start : start + PIECE], at)
        assert found >= 0, f"bytes {start} to {start + PIECE} are not ours, or come out of order"
        at = found + PIECE
    assert after - before >= 4096 // PIECE - 2
    assert stats.queues[0].interrupts >= after
    assert stats.needs_resets == 0


def interrupts(table: str, msix: bool) -> int:
    """How many interrupts of the device the guest has counted."""
    line = next(line for line in table.splitlines() if ("virtio0-input" if msix else "virtio0") in line)
    found = re.match(r"\s*\d+:\s+(\d+)", line)
    assert found is not None, line
    assert ("MSI" in line) is msix, line
    return int(found[1])
