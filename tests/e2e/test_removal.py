"""A share is taken from a guest that is busy in it: errors for the guest, and nothing of the host left to reach."""
# ruff: noqa: ASYNC240 - the host side of a test may block, nobody else is on the loop

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from guest_files import LIMIT
from hdvkit_vm import Assets, VirtualMachine

import hdvkit
from hdvkit import Event, EventKind, Removal

Tree = dict[str, tuple[bytes, int, int]]
"""What lies below a folder: content, mode and time of each entry by path."""

SET_UP = """
mkfifo /tmp/opened /tmp/go
for name in gone kept; do
    mkdir /$name
    mount -t virtiofs $name /$name || exit
    touch /tmp/$name-writing /tmp/$name-failures
done
"""

HOLD = """
# Opens a file and a directory, says so, waits for a word, and uses them.
cd /gone/inner
exec 7< /gone/big
echo > /tmp/opened
read go < /tmp/go
cat <&7; echo read: $?
ls; echo list: $?
cat ../big; echo up: $?
"""


def write(name: str) -> str:
    """A script that writes on and on, and tries on and on when it cannot: by name, and through an open file.

    It ends when it is told to, and says how often it failed.
    """
    return f"""
        exec 8>> /{name}/open
        while [ -e /tmp/{name}-writing ]; do
            {{ echo line >> /{name}/log && echo line >&8; }} 2> /tmp/{name}-why || echo >> /tmp/{name}-failures
        done
        wc -l < /tmp/{name}-failures
    """


ATTEMPTS = [
    "ls /gone",
    "stat /gone/big",
    "cat /gone/big",
    "cat /gone/small",
    "echo new > /gone/new",
    "echo more >> /gone/small",
    "mkdir /gone/more",
    "mv /gone/small /gone/other",
    "rm /gone/small",
    "chmod 777 /gone/big",
    "dd if=/dev/zero of=/gone/zeros bs=64k count=16",
    "stat -f /gone",
]


@pytest.fixture
def folders(room: Path) -> tuple[Path, Path]:
    """The share that goes, and the one that stays."""
    gone, kept = room / "gone", room / "kept"
    for folder in (gone, kept):
        (folder / "inner").mkdir(parents=True)
        (folder / "small").write_text("small")
        (folder / "big").write_bytes(bytes(3 << 20))
    return gone, kept


async def test_a_busy_share_is_removed(
    kernel: str, assets: Assets, room: Path, log: Path, folders: tuple[Path, Path]
) -> None:
    gone, kept = folders
    async with hdvkit.open_host("vfio-user", directory=room) as host:
        events = host.events()
        going = await host.add("virtiofs", source=gone, tag="gone")
        staying = await host.add("virtiofs", source=kept, tag="kept")
        sockets = [going.place["socket"], staying.place["socket"]]
        async with VirtualMachine(kernel, sockets=sockets, log=log, assets=assets) as vm:
            await vm.run(SET_UP)
            writer = asyncio.create_task(vm.run(write("gone"), timeout=LIMIT))
            other = asyncio.create_task(vm.run(write("kept"), timeout=LIMIT))
            holder = asyncio.create_task(vm.run(HOLD, timeout=LIMIT))
            await vm.run("read opened < /tmp/opened", timeout=LIMIT)
            await grows(vm, "/gone/log")
            assert descriptors_into(gone)

            async with asyncio.timeout(LIMIT):
                assert await host.remove(going) is Removal.PARKED
            before = tree(gone)
            assert descriptors_into(gone) == []
            assert not Path(sockets[0]).exists()
            assert going in host.devices

            await grows(vm, "/tmp/gone-failures")
            for attempt in ATTEMPTS:
                code, told = await vm.call(attempt, timeout=LIMIT)
                assert code, f"{attempt} succeeded: {told}"
                assert "No such device" in told, f"{attempt}: {told}"
            await vm.run("echo > /tmp/go", timeout=LIMIT)
            ends = (await holder).splitlines()
            assert [line for line in ends if line[-1].isdigit()] == ["read: 1", "list: 1", "up: 1"]
            await grows(vm, "/kept/log")
            await vm.run("rm /tmp/gone-writing")
            assert int(await writer) >= 10
            await vm.run("umount /gone", timeout=LIMIT)
            assert (await vm.call("mount -t virtiofs gone /gone && ls /gone", timeout=LIMIT))[0]
            await vm.run("rm /tmp/kept-writing")
            assert int(await other) == 0
            assert tree(gone) == before
            assert descriptors_into(gone) == []
            vm.post("poweroff -f")
            assert await vm.wait_exit(timeout=LIMIT) == 0
            await seen(events, EventKind.REMOVED)
        assert host.devices == (staying,)
        assert tree(gone) == before


async def grows(vm: VirtualMachine, log: str) -> None:
    """Somebody goes on writing lines to a file of the guest, ten at least."""
    script = f"enough=$(($(wc -l < {log}) + 10)); until [ $(wc -l < {log}) -ge $enough ]; do usleep 20000; done"
    await vm.run(script, timeout=LIMIT)


async def seen(events: AsyncIterator[Event], kind: EventKind) -> None:
    """An event comes, within a limit."""
    async with asyncio.timeout(LIMIT):
        async for event in events:
            if event.kind is kind:
                return


def tree(folder: Path) -> Tree:
    """All that lies below a folder."""
    return {str(path.relative_to(folder)): _entry(path) for path in _below(folder)}


def _below(folder: Path) -> Iterator[Path]:
    yield folder
    yield from folder.rglob("*")


def _entry(path: Path) -> tuple[bytes, int, int]:
    facts = path.lstat()
    return path.read_bytes() if path.is_file() else b"", facts.st_mode, facts.st_mtime_ns


def descriptors_into(folder: Path) -> list[str]:
    """What this process holds open of a folder."""
    found = []
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the one that lists them
            found.append(str(link.readlink()))
    return [path for path in found if path.startswith(str(folder))]
