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
from hdvkit_vm.errors import VmError
from hdvkit_vm.provision import GUESTS

from benchmarks import report, servers
from benchmarks.build import guest_program
from benchmarks.campaign import Sample
from benchmarks.errors import BenchmarkError
from benchmarks.placement import everywhere
from benchmarks.run import Figures
from benchmarks.servers import TAG, Contender, Server

NAMES, MIB = 200, 16
WORKS = ("stat", "openclose", "list", "create", "read4k", "write4k", "read1m", "write1m", "commit")
SHARE, PROGRAM = "/share", "/work"
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
@click.option("--server", "names", multiple=True, type=click.Choice(servers.NAMES), default=servers.NAMES, help="Whom.")
@click.option("--output", default=report.PAGE.parent, type=click.Path(path_type=Path), help="Folder of the page.")
def cli(
    rounds: int, seconds: float, guests: Sequence[str], works: Sequence[str], names: Sequence[str], output: Path
) -> None:
    """Measure virtio-fs servers in front of guests, and write that part of docs/performance.md anew."""
    program = guest_program().read_bytes()
    assets = prepare(tell=_tell)
    contenders = servers.contenders(names, _tell)
    if not contenders:
        raise BenchmarkError("there is nothing to measure: take another --server")
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-tree-", dir=default_folder()) as made:
        tree = Path(made)
        make_tree(tree)
        campaign = InGuest(program, assets, tree, contenders, guests, works, rounds, seconds)
        found = asyncio.run(campaign.run())
        page = report.write_in_guest(output, found, report.Circumstances(rounds, seconds, tree, contenders), assets)
    click.echo(str(page))


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
            for guest in self.guests:
                for turn in range(len(self.contenders)):
                    contender = self.contenders[(turn + number) % len(self.contenders)]
                    _tell(f"round {number + 1} of {self.rounds}: {contender.name}, {guest}")
                    samples += await self._booted(contender, guest, number)
        return samples

    async def _booted(self, contender: Contender, guest: str, number: int) -> list[Sample]:
        with servers.serving(contender, self.tree, everywhere()) as server:
            await _listening(server)
            vhost = contender.transport == "vhost-user"
            machine = VirtualMachine(
                guest,
                sockets=[] if vhost else [server.socket],
                arguments=vhost_user(server.socket) if vhost else (),
                files={PROGRAM: self.program},
                assets=self.assets,
            )
            async with machine as vm:
                await vm.run(f"mkdir -p {SHARE} && mount -t virtiofs {TAG} {SHARE}")
                setup = Kernel(self.assets.guest(guest).release)
                figures = [await self._work(vm, server, work) for work in self.works]
        return [Sample(setup, contender.name, number, one) for one in figures]

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
        f"vhost-user-fs-pci,chardev=fs,tag={TAG}",
    ]


async def _listening(server: Server) -> None:
    """QEMU connects once, when it starts."""
    async with asyncio.timeout(LISTEN_SECONDS):
        while not server.socket.exists():
            server.check()
            await asyncio.sleep(0.02)


def _tell(line: str) -> None:
    click.echo(f"{line} …", err=True)


def main() -> None:
    """Run, and turn what is raised into a sentence."""
    try:
        cli.main(prog_name="python -m benchmarks.in_guest")
    except (BenchmarkError, VmError, OSError) as error:
        click.echo(f"Error: {error}", err=True)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
