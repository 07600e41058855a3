"""``python -m benchmarks.in_guest``: the same work in a guest with a stock kernel, in front of each server.

One QEMU has a vfio-user device of hdvkit's, another one a vhost-user device of virtiofsd's; all else is the same.
"""

import asyncio
import json
import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path

import attrs
import click
from hdvkit_vm import Assets, VirtualMachine, prepare
from hdvkit_vm.cache import default_folder
from hdvkit_vm.provision import GUESTS

from benchmarks import command, report, servers
from benchmarks.build import guest_program
from benchmarks.campaign import Sample, in_turn
from benchmarks.errors import BenchmarkError
from benchmarks.placement import everywhere
from benchmarks.run import Figures
from benchmarks.servers import TAG, Contender, Server

NAMES, MIB = 200, 16
WORKS = ("stat", "openclose", "list", "create", "read4k", "write4k", "read1m", "write1m", "commit")
SHARE, PROGRAM = "/share", "/work"
QUEUE_SIZE = 1024
"""Places in each queue, as hdvkit's devices have; with QEMU's own default of 128, Linux cuts 1 MiB into pieces."""
LISTEN_SECONDS = 30.0


@attrs.frozen
class Kernel:
    """Where it was measured: the set-up of these samples."""

    release: str

    def __str__(self) -> str:
        return f"Linux {self.release}"


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--rounds", default=3, type=click.IntRange(1), help="How often everything is measured.")
@click.option("--seconds", default=1.0, type=click.FloatRange(0.01), help="Length of one kind of work.")
@click.option("--guest", "guests", multiple=True, type=click.Choice(GUESTS), default=GUESTS, help="Kernels.")
@click.option("--work", "works", multiple=True, type=click.Choice(WORKS), default=WORKS, help="Kinds of work.")
@command.SERVER
@command.OUTPUT
def cli(
    rounds: int, seconds: float, guests: Sequence[str], works: Sequence[str], names: Sequence[str], output: Path | None
) -> None:
    """Measure virtio-fs servers in front of guests."""
    program = guest_program().read_bytes()
    assets = prepare(tell=command.tell)
    contenders = command.contenders(names)
    if output:
        report.around(output, report.IN_GUEST)  # raises now, and not in the end
    with tempfile.TemporaryDirectory(prefix="bench-tree-", dir=default_folder()) as made:
        tree = Path(made)
        make_tree(tree)
        found = asyncio.run(InGuest(program, assets, tree, contenders, guests, works, rounds, seconds).run())
        circumstances = report.Circumstances(rounds, seconds, tree, contenders)
        content = report.text(found, circumstances, machines(assets))
    click.echo(str(report.write(output, report.IN_GUEST, content, found)) if output else content)


def machines(assets: Assets) -> dict[str, str]:
    """What else counts, for the report."""
    return {"qemu": f"{assets.lock.parts['qemu'].facts['version']}, {assets.accel}"}


def make_tree(tree: Path) -> None:
    """Fill a directory with what the work needs."""
    (tree / "names").mkdir()
    for number in range(NAMES):
        (tree / f"names/{number:03}").touch()
    (tree / "data").write_bytes(bytes(MIB << 20))


@attrs.frozen
class InGuest:
    """What is to be measured."""

    program: bytes
    assets: Assets
    tree: Path
    contenders: Sequence[Contender]
    guests: Sequence[str]
    works: Sequence[str]
    rounds: int
    seconds: float

    async def run(self) -> list[Sample]:
        """Measure everything, each time with another server first.

        Raises:
            BenchmarkError: A server or the work ended early.
            VmError: A guest does not come up.
        """
        samples = []
        for number in range(self.rounds):
            for turn, guest in enumerate(self.guests):
                for contender in in_turn(self.contenders, number, turn):
                    command.tell(f"round {number + 1} of {self.rounds}: {contender.name}, {guest}")
                    samples += await self._booted(contender, guest, number)
        return samples

    async def _booted(self, contender: Contender, guest: str, number: int) -> list[Sample]:
        with (
            servers.serving(contender, self.tree, everywhere()) as server,
            server.blamed(f"{contender.name}, guest {guest}"),
        ):
            await _listening(server)
            async with self._machine(contender, guest, server) as vm:
                await vm.run(f"mkdir -p {SHARE} && mount -t virtiofs {TAG} {SHARE}")
                setup = Kernel(self.assets.guest(guest).release)
                figures = [await self._work(vm, server, work) for work in self.works]
        return [Sample(setup, contender.name, number, one) for one in figures]

    def _machine(self, contender: Contender, guest: str, server: Server) -> VirtualMachine:
        vhost = contender.transport == "vhost-user"
        return VirtualMachine(
            guest,
            sockets=[] if vhost else [server.socket],
            arguments=vhost_user(server.socket) if vhost else (),
            files={PROGRAM: self.program},
            assets=self.assets,
        )

    async def _work(self, vm: VirtualMachine, server: Server, work: str) -> Figures:
        before = server.cpu_seconds()
        line = shlex.join((PROGRAM, SHARE, str(NAMES), work, str(self.seconds)))
        told = json.loads(await vm.run(line, timeout=60 + 10 * self.seconds))
        cpu = server.cpu_seconds() - before
        server.check()
        return Figures(work, 1, cpu_us=cpu * 1e6 / told["operations"], **told)


def vhost_user(socket: Path) -> list[str]:
    """QEMU's arguments for a virtio-fs device whose server is behind a socket."""
    return [
        "-chardev",
        f"socket,id=fs,path={socket}",
        "-device",
        f"vhost-user-fs-pci,chardev=fs,tag={TAG},queue-size={QUEUE_SIZE}",
    ]


async def _listening(server: Server) -> None:
    """QEMU connects once, when it starts."""
    try:
        async with asyncio.timeout(LISTEN_SECONDS):
            while not server.socket.exists():
                server.check()
                await asyncio.sleep(0.02)
    except TimeoutError as error:
        raise BenchmarkError(f"the server does not listen after {LISTEN_SECONDS:.0f} s") from error


if __name__ == "__main__":
    command.main(cli, "python -m benchmarks.in_guest")
