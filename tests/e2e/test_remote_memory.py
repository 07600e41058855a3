"""A machine that keeps its memory to itself: each access of the device is a message to QEMU and back."""

import hashlib
import random
from pathlib import Path

import pytest
from guest_files import Folder, booted
from hdvkit_vfio_user.memory import GuestMemory
from hdvkit_virtiofs import VirtioFs
from hdvkit_vm import Assets

from hdvkit import GuestError
from hdvkit.memory import RegionMemory
from hdvkit.virtio import Feature

# Of two memories QEMU takes the one named last. One of a sort with descriptors would not do, even without sharing: QEMU
# gives its descriptor away all the same, behind which the guest's stores never show.
PRIVATE = ["-object", "memory-backend-ram,id=private,size=256M", "-machine", "memory-backend=private"]
SIZE = (2 << 20) + 4321
SMALL_FILES = 100


@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
async def test_memory_without_descriptors(kernel: str, assets: Assets, room: Path, log: Path, packed: bool) -> None:
    directory = room / "share"
    directory.mkdir()
    content = random.Random(3).randbytes(SIZE)
    (directory / "host").write_bytes(content)
    share = VirtioFs(source=directory, tag="share")
    async with booted(kernel, assets, room, log, [share], packed=packed, arguments=PRIVATE) as (vm, [function]):
        memory = function.slot.memory
        assert isinstance(memory, GuestMemory)
        assert memory.ranges
        for address, _ in memory.ranges:
            with pytest.raises(GuestError, match="not lie inside guest RAM"):
                RegionMemory.lease(memory, address, 1, writable=False)  # nothing is mapped
        assert bool(function.transport.features & Feature.RING_PACKED) is packed
        here = Folder(vm, directory, "/share")
        assert (await here.sh("sha256sum host")).split()[0] == hashlib.sha256(content).hexdigest()
        await here.sh("cp host copy; dd if=/dev/urandom of=guest bs=1M count=2; echo 3 > /proc/sys/vm/drop_caches")
        assert (directory / "copy").read_bytes() == content
        told = await here.sh("for f in guest copy; do sha256sum $f > /tmp/$f & done; wait; cat /tmp/guest /tmp/copy")
        hashes = [hashlib.sha256((directory / name).read_bytes()).hexdigest() for name in ("guest", "copy")]
        assert [line.split()[0] for line in told.splitlines()] == hashes
        await here.sh(f"mkdir sub; cd sub; for n in $(seq {SMALL_FILES}); do echo content of $n > f$n; done")
        made = {path.name: path.read_text() for path in (directory / "sub").iterdir()}
        assert made == {f"f{n}": f"content of {n}\n" for n in range(1, SMALL_FILES + 1)}
        everything = "".join(made[name] for name in sorted(made))
        assert await here.sh("ls sub | wc -l; cat sub/f*") == f"{SMALL_FILES}\n{everything}"
        await vm.run("umount /share")
        statistics = function.stats()
    assert statistics.needs_resets == 0
    assert [queue.late for queue in statistics.queues] == [0, 0]


async def test_a_display_keeps_its_memory_and_the_rest_stays_fast(
    kernel: str, assets: Assets, room: Path, log: Path
) -> None:
    """QEMU announces the memory of a display without a descriptor; rings and buffers in RAM do not suffer."""
    share = VirtioFs(source=room, tag="share")
    display = ["-device", "VGA,vgamem_mb=16"]
    async with booted(kernel, assets, room, log, [share], arguments=display) as (vm, [function]):
        memory = function.slot.memory
        assert isinstance(memory, GuestMemory)
        announced = dict(memory.ranges)
        assert 16 << 20 in announced.values()
        with pytest.raises(GuestError, match="not lie inside guest RAM"):
            RegionMemory.lease(memory, next(at for at in announced if announced[at] == 16 << 20), 1, writable=False)
        assert memory.immediate
        assert await Folder(vm, room, "/share").sh("echo there > new; cat new") == "there\n"
        assert memory.immediate
