"""``hdvkit run`` as a process of its own: what it prints, how it ends, and what a guest sees when it is killed."""

import asyncio
import contextlib
import json
import os
import shlex
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from guest_files import LIMIT
from hdvkit_vm import Assets, VirtualMachine

EXAMPLES = Path(__file__).parents[2] / "examples"


class Command:
    """``hdvkit run`` with its output, line by line."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def line(self) -> str:
        """The next line."""
        assert self.process.stdout is not None
        async with asyncio.timeout(LIMIT):
            line = await self.process.stdout.readline()
        assert line.endswith(b"\n"), f"no more output, exit code {self.process.returncode}"
        return line.decode()

    async def events(self, count: int) -> list[dict[str, str]]:
        """So many objects."""
        return [json.loads(await self.line()) for _ in range(count)]

    async def ends(self, number: signal.Signals) -> tuple[int, str]:
        """Send a signal; return the exit code and what else was printed."""
        self.process.send_signal(number)
        async with asyncio.timeout(LIMIT):
            rest, _ = await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode, rest.decode()


@contextlib.asynccontextmanager
async def running(*words: str, path: str = "") -> AsyncIterator[Command]:
    """Start ``hdvkit run``; it is killed if it is still there in the end."""
    path = os.pathsep.join(filter(None, [path, os.environ.get("PYTHONPATH")]))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "hdvkit", "run", *words),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
    )
    try:
        yield Command(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


def share(room: Path, name: str, *options: str) -> str:
    """A folder with a file, as a word of the command line."""
    folder = room / f"folder-{name}"
    folder.mkdir()
    (folder / "name").write_text(name)
    return ",".join([f"virtiofs:source={folder}", f"tag={name}", *options])


def listening(room: Path, name: str, kind: str = "virtiofs") -> dict[str, str]:
    """The first object that tells of a device."""
    return {"event": "listening", "device": name, "kind": kind, "socket": str(room / f"{name}.sock")}


def sockets(room: Path) -> list[str]:
    """Those that are there."""
    return sorted(str(path) for path in room.glob("*.sock"))


@pytest.fixture
def rng(room: Path) -> str:
    """A Python path with the plugin ``hdvkit-rng`` as it lies there when it is installed."""
    site = room / "site"
    record = site / "hdvkit_rng-0.1.0.dist-info"
    record.mkdir(parents=True)
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: hdvkit-rng\nVersion: 0.1.0\n")
    (record / "entry_points.txt").write_text("[hdvkit]\nrng = hdvkit_rng\n")
    return f"{site}:{EXAMPLES / 'hdvkit-rng'}"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
async def test_a_signal_ends_it(room: Path, number: signal.Signals) -> None:
    words = [f"vfio-user:directory={room}", share(room, "one"), share(room, "two"), "--json"]
    async with running(*words) as command:
        assert await command.events(2) == [listening(room, "one"), listening(room, "two")]
        assert len(sockets(room)) == 2
        code, rest = await command.ends(number)
        assert code == 0
        assert [json.loads(line) for line in rest.splitlines()] == [
            {**listening(room, name), "event": "closed"} for name in ("one", "two")
        ]
    assert sockets(room) == []


async def test_events_and_signals_with_a_machine(kernel: str, assets: Assets, room: Path, log: Path, rng: str) -> None:
    host = f"vfio-user:directory={room}"
    words = [share(room, "one"), share(room, "two", "read_only=true"), "rng"]
    first = [listening(room, "one"), listening(room, "two"), listening(room, "rng", "rng")]
    last = [listening(room, "last")]
    async with (
        running(host, *words, "--json", path=rng) as command,
        running(host, share(room, "last"), "--json") as other,
    ):
        assert await command.events(3) == first
        assert await other.events(1) == last
        places = [one["socket"] for one in [*first, *last]]
        async with VirtualMachine(kernel, sockets=places, log=log, assets=assets) as vm:
            assert by_name(await command.events(3)) == by_name([{**one, "event": "ready"} for one in first])
            assert await other.events(1) == [{**last[0], "event": "ready"}]
            await vm.run("for name in one two last; do mkdir /$name && mount -t virtiofs $name /$name || exit; done")
            assert await vm.run("cat /one/name /two/name /last/name; echo new > /one/new") == "onetwolast"
            assert (room / "folder-one" / "new").read_text() == "new\n"
            assert "Read-only file system" in (await vm.call("echo new > /two/new"))[1]
            assert await vm.run("head -c 64 /dev/hwrng | wc -c") == "64\n"
            vm.post("for name in one two last; do while :; do ls /$name/*; done > /tmp/$name 2>&1 & done")
            await vm.run("until [ -s /tmp/one ] && [ -s /tmp/last ]; do usleep 20000; done")
            for one, number, devices in ((command, signal.SIGINT, first), (other, signal.SIGTERM, last)):
                code, rest = await one.ends(number)
                assert code == 0
                told = [json.loads(line) for line in rest.splitlines()]
                assert told == [{**device, "event": "closed"} for device in devices]
                assert not set(sockets(room)) & {device["socket"] for device in devices}
            assert await vm.run("echo still here") == "still here\n"


def by_name(events: list[dict[str, str]]) -> list[dict[str, str]]:
    """Drivers start in an order of their own."""
    return sorted(events, key=lambda event: event["device"])


async def test_the_printed_command_line_boots(kernel: str, assets: Assets, room: Path, log: Path) -> None:
    async with running(f"vfio-user:directory={room}", share(room, "one"), share(room, "two")) as command:
        lines = {}
        for name in ("one", "two"):
            assert await command.line() == f"{name} (virtiofs) listening socket {room / name}.sock\n"
            lines[name] = (await command.line()).strip()
        assert lines["two"] == lines["one"].replace("one.sock", "two.sock")
        program, *words = shlex.split(lines["two"])
        assert program == "qemu-system-x86_64"
        guest = assets.guest(kernel)
        words += ["-accel", assets.accel, "-display", "none", "-no-reboot", "-serial", f"file:{log}"]
        words += ["-kernel", str(guest.kernel), "-initrd", str(guest.initramfs)]
        words += ["-append", "console=ttyS0 quiet panic=-1 hdvkit.probe=1"]
        qemu = await asyncio.create_subprocess_exec(assets.qemu, *words, stdin=asyncio.subprocess.DEVNULL)
        try:
            assert await command.line() == f"two (virtiofs) ready socket {room / 'two.sock'}\n"
            async with asyncio.timeout(LIMIT):
                assert await qemu.wait() == 0
        finally:
            if qemu.returncode is None:
                qemu.kill()
                await qemu.wait()
        assert await command.line() == f"two (virtiofs) reset socket {room / 'two.sock'}\n"
        code, rest = await command.ends(signal.SIGTERM)
        assert code == 0
        assert rest.splitlines() == [f"{name} (virtiofs) closed socket {room / name}.sock" for name in ("one", "two")]


HOLD = """
# A process with an open file; says so, waits for a word, and reads.
exec 7< /dead/name
echo > /tmp/opened
read go < /tmp/go
cat <&7 2> /tmp/told-read
exec sleep 100000
"""

ATTEMPTS = {"cat": "cat /dead/name", "ls": "ls /dead", "echo": "echo more > /dead/new", "rm": "rm /dead/name"}


async def test_it_is_killed(kernel: str, assets: Assets, room: Path, log: Path) -> None:
    """QEMU says nothing to the guest, and never connects again.

    What asks the share waits, and unmounting would wait for ever and hold up all mounts of shares. So the guest hides
    the mount by ``umount -l`` while something is open there, and goes on.
    Linux since 6.14 ends the waiting after ``request_timeout``, older kernels do not.
    """
    host = f"vfio-user:directory={room}"
    words = [share(room, "dead", "request_timeout=5"), share(room, "alive")]
    async with running(host, words[0], "--json") as command, running(host, words[1], "--json") as other:
        places = [(await one.events(1))[0]["socket"] for one in (command, other)]
        async with VirtualMachine(kernel, sockets=places, log=log, assets=assets) as vm:
            await vm.run("mkfifo /tmp/opened /tmp/go")
            await vm.run("for name in dead alive; do mkdir /$name && mount -t virtiofs $name /$name || exit; done")
            vm.post(HOLD)
            await vm.run("read opened < /tmp/opened")
            command.process.kill()
            await command.process.wait()

            await vm.run("echo > /tmp/go")
            for name, attempt in ATTEMPTS.items():
                vm.post(f"({attempt}) > /tmp/told-{name} 2>&1; echo code: $? >> /tmp/told-{name}")
            await alive(vm)
            if kernel != "6.1":
                for name, end in {"read": "error", **dict.fromkeys(ATTEMPTS, "code: 1")}.items():
                    wait = f"until grep '{end}' /tmp/told-{name}; do usleep 100000; done; cat /tmp/told-{name}"
                    told = await vm.run(wait, timeout=LIMIT)
                    assert "connection abort" in told or "not connected" in told, f"{name}: {told}"
                for attempt in ATTEMPTS.values():
                    code, told = await vm.call(attempt)
                    assert code, f"{attempt} succeeded: {told}"
                    assert "not connected" in told
            await vm.run("umount -l /dead")
            assert await vm.run("ls /dead; grep dead /proc/mounts || true") == ""
            await alive(vm)
            # Powering off would ask the dead device whether its reset is done, again and again.
            vm.post("echo b > /proc/sysrq-trigger")
            assert await vm.wait_exit(timeout=LIMIT) == 0


async def alive(vm: VirtualMachine) -> None:
    """The guest lives, and uses, mounts and unmounts the other share."""
    script = "cat /alive/name; mkdir -p /again; mount -t virtiofs alive /again && umount /again"
    assert await vm.run(script) == "alive"
