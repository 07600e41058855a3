"""What is measured: one process that shares a directory through a socket, from its start to its end. Blocking."""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from importlib import metadata
from pathlib import Path

import attrs
from hdvkit_vm.errors import PrepareError, VmError
from hdvkit_vm.fetch import Tell

from benchmarks import virtiofsd
from benchmarks.errors import BenchmarkError
from benchmarks.placement import pinned
from hdvkit import options

GRACE = 10.0
"""Seconds for a server to end when it is asked to; one that takes longer is killed, and what it did counts."""
TAG = "bench"
CPUCLOCK_SCHED = 2
"""In the low bits of a clock of a process: nanoseconds that it ran, as clock_getcpuclockid(3) has it."""

Arguments = Callable[[Path, Path], list[str]]
"""``arguments(room, tree)``: share ``tree`` by ``room/bench.sock``."""


@attrs.frozen
class Contender:
    """A server that can be started anew for each run."""

    name: str
    version: str
    transport: str
    program: Sequence[str]
    arguments: Arguments
    environment: Mapping[str, str] = attrs.Factory(dict)

    @property
    def shown(self) -> str:
        """What to type, but for folders and for where the program is."""
        return " ".join([self.version.partition(" ")[0], *self.arguments(Path("ROOM"), Path("TREE"))])

    def kick(self, wanted: str) -> str:
        """vhost-user has eventfds only: that is what its machines use, whatever others have to do."""
        return wanted if self.transport == "vfio-user" else "ioeventfd"


class Server:
    """One process; ``check`` it while it is needed."""

    def __init__(self, process: "subprocess.Popen[bytes]", socket: Path, errors: Path) -> None:
        self.socket = socket
        self._process = process
        self._errors = errors

    def check(self) -> None:
        """Raise BenchmarkError if it has ended."""
        if self._process.poll() is not None:
            said = self._errors.read_text(errors="replace").strip()[-2000:]
            raise BenchmarkError(f"the server ended with code {self._process.returncode}: {said or 'it said nothing'}")

    @contextlib.contextmanager
    def blamed(self, during: str) -> Iterator[None]:
        """Say in the middle of what something went wrong; if the server has ended, that is the better reason."""
        try:
            yield
        except (BenchmarkError, VmError) as error:
            kind = type(error) if isinstance(error, BenchmarkError) else BenchmarkError
            try:
                self.check()
            except BenchmarkError as better:
                raise kind(f"{during}: {better}") from error
            raise kind(f"{during}: {error}") from error

    def cpu_seconds(self) -> float:
        """Processor time of all its threads until now, in nanoseconds where proc(5) has ticks."""
        return time.clock_gettime((~self._process.pid << 3) | CPUCLOCK_SCHED)

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        try:
            self._process.wait(GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextlib.contextmanager
def serving(contender: Contender, tree: Path, on: Set[int]) -> Iterator[Server]:
    """A server that is about to listen, on the given processors."""
    with tempfile.TemporaryDirectory(prefix="hdvkit-bench-") as made:
        room = Path(made)
        errors = room / "stderr"
        with errors.open("wb") as stderr, pinned(on):
            process = subprocess.Popen(
                [*contender.program, *contender.arguments(room, tree)],
                env=os.environ | contender.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
            )
        server = Server(process, room / f"{TAG}.sock", errors)
        try:
            yield server
        finally:
            server.stop()


def hdvkit_contender(native: bool) -> Contender:
    """Ours, with what is written in C or without."""
    name = "hdvkit, C" if native else "hdvkit, Python"
    return Contender(
        name,
        f"hdvkit {metadata.version('hdvkit')}",
        "vfio-user",
        (sys.executable, "-m", "hdvkit"),
        _run_hdvkit,
        {"HDVKIT_NATIVE": "1" if native else "0"},
    )


def _run_hdvkit(room: Path, tree: Path) -> list[str]:
    host = options.format("vfio-user", {"directory": room})
    device = options.format("virtiofs", {"source": tree, "tag": TAG})
    return ["run", host, device]


def virtiofsd_contender(program: Sequence[str]) -> Contender:
    """The peer with its default options, but for a sandbox that would need privileges to be set up."""
    return Contender("virtiofsd", virtiofsd.version(program), "vhost-user", program, _run_virtiofsd)


def _run_virtiofsd(room: Path, tree: Path) -> list[str]:
    return [f"--socket-path={room / f'{TAG}.sock'}", f"--shared-dir={tree}", "--sandbox=none"]


def is_built() -> bool:
    """Whether hdvkit has all of its C here."""
    asked = (sys.executable, "-m", "hdvkit", "check", "vfio-user")
    return subprocess.run(asked, env=os.environ | {"HDVKIT_NATIVE": "1"}, capture_output=True).returncode != 2


NAMES = ("virtiofsd", "python", "native")


def contenders(names: Sequence[str], tell: Tell) -> list[Contender]:
    """Those that can be had here; of the others it is told why not. The peer comes first: ratios are to it."""
    found = []
    if "virtiofsd" in names:
        try:
            found.append(virtiofsd_contender(virtiofsd.installed() or virtiofsd.fetched() or virtiofsd.fetch(tell)))
        except PrepareError as error:
            tell(f"without virtiofsd: {error}")
    if "python" in names:
        found.append(hdvkit_contender(native=False))
    if "native" in names:
        if is_built():
            found.append(hdvkit_contender(native=True))
        else:
            tell("without hdvkit's C: it was not built here")
    return found
