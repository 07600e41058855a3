"""A guest that walks through far more files than the device's process may have descriptors."""

import asyncio
import contextlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import attrs
from guest_files import LIMIT, LONG
from hdvkit_vm import Assets, VirtualMachine
from test_command import running

DESCRIPTORS = 1024
"""What a shell gives a program, on most systems."""

USED = DESCRIPTORS // 2
"""The device needs no more of them: the rest is for files that the guest opens."""

FOLDERS = 200 if LONG else 20
FILES = 1000
"""In each folder."""

TREE = FOLDERS * FILES
MIDDLE = TREE // 3
"""The file whose time is that of the reference."""


def size(number: int) -> int:
    """The size of a file in bytes."""
    return number % 7


READ = sum(map(size, range(7009, 8000, 10)))
"""The bytes of the files in the seventh folder that end in a nine."""

WALKS = {
    "find /share -type f -name 'file-*' -newer /tmp/reference | wc -l": f"{TREE - MIDDLE - 1}\n",
    "ls -lR /share | awk '/ file-/ { count++; size += $5 } END { print count, size }'": (
        f"{TREE} {sum(map(size, range(TREE)))}\n"
    ),
}
"""Each asks for the attributes of every file; and what it must tell."""


@attrs.define
class Peak:
    """The most descriptors that a process was seen with."""

    process: int
    descriptors: int = 0

    def look(self) -> None:
        """Count them now."""
        self.descriptors = max(self.descriptors, len(os.listdir(f"/proc/{self.process}/fd")))  # noqa: PTH208 - a count


async def test_walks(kernel: str, assets: Assets, room: Path, log: Path) -> None:
    make_files(room / "share")
    async with contextlib.AsyncExitStack() as stack:
        with limited(DESCRIPTORS):
            words = (f"vfio-user:directory={room}", f"virtiofs:source={room / 'share'},tag=share", "--json")
            command = await stack.enter_async_context(running(*words))
        assert resource.prlimit(command.process.pid, resource.RLIMIT_NOFILE)[0] == DESCRIPTORS
        places = [one["socket"] for one in await command.events(1)]
        vm = await stack.enter_async_context(
            VirtualMachine(kernel, sockets=places, log=log, assets=assets, memory_mb=512)
        )
        await vm.run("mkdir /share; mount -t virtiofs share /share")
        await vm.run(f"touch -d @{MIDDLE} /tmp/reference")
        peak = Peak(command.process.pid)
        for walk, expected in WALKS.items():
            # What the walk before has left in the guest's cache is asked for again.
            assert await watched(vm, f"echo 2 > /proc/sys/vm/drop_caches; {walk}", peak) == expected
        assert await vm.run("cat /share/7/file-*9 | wc -c", timeout=LIMIT) == f"{READ}\n"
    print(peak)  # noqa: T201 - how far it was from the limit, if it fails
    assert 0 < peak.descriptors <= USED


def make_files(folder: Path) -> None:
    """Files of all sizes and times, all made by the host."""
    for number in range(TREE):
        if number % FILES == 0:
            (folder / str(number // FILES)).mkdir(parents=True)
        path = folder / str(number // FILES) / f"file-{number}"
        path.write_bytes(bytes(size(number)))
        os.utime(path, (number, number))


@contextlib.contextmanager
def limited(descriptors: int) -> Iterator[None]:
    """Have processes that are started meanwhile get by with so many descriptors."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def watched(vm: VirtualMachine, script: str, peak: Peak) -> str:
    """What a script writes, while somebody counts the descriptors."""
    walking = asyncio.create_task(vm.run(script, timeout=LIMIT))
    while not walking.done():
        peak.look()
        await asyncio.wait([walking], timeout=0.05)
    return await walking
