"""Locks that hold everywhere: against processes of the host, of the same guest and of another one."""

import asyncio
import contextlib
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from guest_files import LIMIT, LONG, booted, tools
from hdvkit_virtiofs import VirtioFs
from hdvkit_vm import Assets, VirtualMachine

PROGRAM = Path(__file__).parent / "programs" / "lock_a_file.py"


@pytest.fixture
def folder(room: Path) -> Path:
    """Something to lock, and the program that does."""
    path = room / "share"
    path.mkdir()
    (path / "file").write_text("content")
    shutil.copy(PROGRAM, path)
    return path


@contextlib.asynccontextmanager
async def held_here(path: Path, kind: str, mode: str) -> AsyncIterator[None]:
    """A process of the host holds a lock."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, PROGRAM, path, kind, mode, "wait"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(LIMIT):
            assert await process.stdout.readline() == b"held\n"
        yield
    finally:
        await process.communicate(b"")  # the end of its input, for which it waits


async def tried_here(path: Path, kind: str, mode: str) -> str:
    """What a process of the host hears that does not wait."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, PROGRAM, path, kind, mode, "now"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(LIMIT):
        out, _ = await process.communicate()
    return out.decode().strip()


class Guest:
    """Processes of one guest that lock."""

    def __init__(self, vm: VirtualMachine) -> None:
        self.vm = vm
        self._count = 0

    async def tried(self, kind: str, mode: str) -> str:
        """What a process hears that does not wait."""
        return (await self.vm.run(f"{self._program(kind, mode)} now < /dev/null", timeout=LIMIT)).strip()

    @contextlib.asynccontextmanager
    async def holding(self, kind: str, mode: str) -> AsyncIterator[None]:
        """A process holds a lock; it must get it at once or later."""
        name = await self.starts(kind, mode)
        await self.got(name)
        try:
            yield
        finally:
            await self.vm.run(
                f": > /tmp/{name}; until ! kill -0 $(cat /tmp/{name}.pid) 2> /dev/null; do usleep 9999; done"
            )

    async def starts(self, kind: str, mode: str) -> str:
        """Start a process that waits for a lock, and then holds it until somebody writes to the fifo of its name."""
        self._count += 1
        name = f"{kind}-{self._count}"
        await self.vm.run(f"mkfifo /tmp/{name}")
        self.vm.post(f"{self._program(kind, mode)} wait /tmp/{name} > /tmp/{name}.out & echo $! > /tmp/{name}.pid")
        return name

    async def got(self, name: str) -> None:
        """Wait until it has the lock."""
        await self.vm.run(f"until grep held /tmp/{name}.out > /dev/null 2>&1; do usleep 9999; done", timeout=LIMIT)

    def _program(self, kind: str, mode: str) -> str:
        return f"/tools/python /share/lock_a_file.py /share/file {kind} {mode}"


@pytest.mark.parametrize("kind", ["posix", "flock"])
async def test_host_and_guest(kernel: str, assets: Assets, room: Path, log: Path, folder: Path, kind: str) -> None:
    shares = [VirtioFs(source=folder, tag="share"), tools(assets)]
    async with booted(kernel, assets, room, log, shares) as (vm, _):
        guest = Guest(vm)
        async with held_here(folder / "file", kind, "exclusive"):
            assert await guest.tried(kind, "shared") == "busy"
            waiting = await guest.starts(kind, "exclusive")
        await guest.got(waiting)
        assert await tried_here(folder / "file", kind, "shared") == "busy"
        assert await guest.tried(kind, "shared") == "busy"
        # The process is killed, and its lock goes with it.
        await vm.run(f"kill -9 $(cat /tmp/{waiting}.pid)")
        async with held_here(folder / "file", kind, "shared"):
            assert await guest.tried(kind, "shared") == "held"
            assert await guest.tried(kind, "exclusive") == "busy"
        async with guest.holding(kind, "shared"):
            assert await tried_here(folder / "file", kind, "shared") == "held"
            assert await tried_here(folder / "file", kind, "exclusive") == "busy"
        assert await tried_here(folder / "file", kind, "exclusive") == "held"


@pytest.mark.parametrize("kind", ["posix", "flock"] if LONG else ["posix"])
async def test_two_guests(kernel: str, assets: Assets, room: Path, log: Path, folder: Path, kind: str) -> None:
    def shares() -> list[VirtioFs]:
        return [VirtioFs(source=folder, tag="share"), tools(assets)]

    for name in ("a", "b"):
        (room / name).mkdir()
    async with (
        booted(kernel, assets, room / "a", log, shares()) as (one, _),
        booted(kernel, assets, room / "b", log.with_suffix(".b"), shares()) as (two, _),
    ):
        first, second = Guest(one), Guest(two)
        async with first.holding(kind, "exclusive"):
            assert await second.tried(kind, "shared") == "busy"
            waiting = await second.starts(kind, "exclusive")
        await second.got(waiting)
        assert await first.tried(kind, "exclusive") == "busy"
        # The whole machine goes, and its locks with it.
        two.post("echo b > /proc/sysrq-trigger")
        assert await two.wait_exit(timeout=LIMIT) == 0
        async with first.holding(kind, "exclusive"):
            pass
