"""Every sort of ring, one and many request queues, little and much memory, and both kernels' way with each."""

import hashlib
import random
from pathlib import Path

import pytest
from guest_files import Folder, booted
from hdvkit_vfio_user.memory import GuestMemory
from hdvkit_virtiofs import VirtioFs
from hdvkit_vm import Assets

from hdvkit.memory import Lease
from hdvkit.virtio import Feature

ABOVE = 1 << 32
"""Where the memory goes on that does not fit below the devices."""
SIZE = 600_001
WORKERS = 4

# Each worker stays on one processor; a guest with one has no choice.
WORK = f"""
work() {{
    taskset -c $(($1 % $(nproc))) dd if=/dev/urandom of=guest$1 bs={SIZE} count=1
    echo 3 > /proc/sys/vm/drop_caches
    taskset -c $(($1 % $(nproc))) sha256sum guest$1 host$1 > /tmp/sums$1
}}
for n in $(seq {WORKERS}); do work $n 2> /dev/null & done
wait
cat /tmp/sums*
"""


@pytest.mark.parametrize("memory_mb", [128, 3072], ids=["128M", "3G"])
@pytest.mark.parametrize("queues", [1, 4], ids=["one queue", "four queues"])
@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
async def test_rings(
    kernel: str,
    assets: Assets,
    room: Path,
    log: Path,
    monkeypatch: pytest.MonkeyPatch,
    packed: bool,
    queues: int,
    memory_mb: int,
) -> None:
    monkeypatch.setenv("HDVKIT_NATIVE", "0" if queues == 1 else "1")
    touched = addresses_touched(monkeypatch)
    directory = room / "share"
    directory.mkdir()
    for number in range(1, WORKERS + 1):
        (directory / f"host{number}").write_bytes(random.Random(number).randbytes(SIZE))
    share = VirtioFs(source=directory, tag="share", queues=queues)
    hardware = {"memory_mb": memory_mb, "cpus": 1 if queues == 1 else 2}
    async with booted(kernel, assets, room, log, [share], packed=packed, **hardware) as (vm, [function]):
        assert bool(function.transport.features & Feature.RING_PACKED) is packed
        assert await vm.run("cut -c35 /sys/bus/virtio/devices/virtio0/features") == f"{packed:d}\n"
        told = await Folder(vm, directory, "/share").sh(WORK)
        memory = function.slot.memory
        assert isinstance(memory, GuestMemory)
        ranges = memory.ranges
        statistics = function.stats()
    hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir()}
    assert {name: told_hash for told_hash, name in map(str.split, told.splitlines())} == hashes
    assert len(hashes) == 2 * WORKERS
    assert statistics.needs_resets == 0
    # Only the newer kernel has a request queue for each processor.
    busy = ["requests.0", "requests.1"] if queues > 1 and kernel == "7.x" else ["requests.0"]
    requests = statistics.queues[1:]
    assert [queue.name for queue in requests if queue.chains] == busy
    assert [queue.name for queue in requests if queue.taken > SIZE and queue.given > SIZE] == busy
    above = memory_mb > 2048
    assert any(address >= ABOVE for address, _ in ranges) is above
    assert any(address < ABOVE for address, _ in ranges)
    assert queues > 1 or any(address >= ABOVE for address in touched) is above, "C leases memory as a whole"


def addresses_touched(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Where buffers lie from now on."""
    touched = set()
    lease = GuestMemory.lease

    def noting(self: GuestMemory, address: int, size: int, *, writable: bool, coherent: bool = False) -> Lease:
        if not coherent:
            touched.add(address)
        return lease(self, address, size, writable=writable, coherent=coherent)

    monkeypatch.setattr(GuestMemory, "lease", noting)
    return touched
