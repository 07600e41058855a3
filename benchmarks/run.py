"""One run of the load generator: a command line in, figures out. Blocking."""

import contextlib
import json
import subprocess
from collections.abc import Callable, Iterable, Sequence, Set
from pathlib import Path

import attrs

from benchmarks.errors import BenchmarkError, WrongAnswer
from benchmarks.placement import pinned

PATIENCE = 120.0
"""Seconds that a run may take beyond what it is to measure; the slowest server lists slowly."""
LOOK = 0.5
"""Seconds between looks whether the server is still there."""
LAST_WORDS = 2.0
"""Seconds for the load generator to end when it is not."""


@attrs.frozen
class Tree:
    """A directory that was made for measuring."""

    directory: Path
    entries: int
    mib: int

    @property
    def arguments(self) -> list[str]:
        """What the load generator must know of it."""
        return [f"--entries={self.entries}", f"--mib={self.mib}", str(self.directory)]


@attrs.frozen
class Figures:
    """What one run of one workload came to. Latencies and CPU time are microseconds of an operation."""

    workload: str
    depth: int
    operations: int
    seconds: float
    p50_us: float
    p99_us: float
    cpu_us: float
    unit: str = ""
    units: int = 0

    @property
    def name(self) -> str:
        """As ``--workloads`` has it."""
        return f"{self.workload}:{self.depth}"

    @property
    def rate(self) -> float:
        """Operations a second, or what they handle many of."""
        return (self.units or self.operations) / self.seconds


def workloads(program: Path) -> list[str]:
    """All there are, each with its depth."""
    return subprocess.run((program, "--list", "."), capture_output=True, text=True, check=True).stdout.split()


def make_tree(program: Path, tree: Tree) -> None:
    """Fill the directory, which must be empty."""
    _finish(_start(program, ["--prepare", *tree.arguments]), PATIENCE, _nothing)


def measure(
    program: Path,
    arguments: Sequence[str],
    tree: Tree,
    *,
    seconds: float,
    only: Sequence[str],
    on: Set[int],
    check: Callable[[], None] = lambda: None,
) -> list[Figures]:
    """Run workloads on the given processors; ``check`` is asked now and then whether that still makes sense.

    Raises:
        WrongAnswer: The server gave one.
        BenchmarkError: Anything else that leaves nothing to count.
    """
    line = [*arguments, f"--seconds={seconds}", f"--workloads={','.join(only)}", *tree.arguments]
    with pinned(on):
        process = _start(program, line)
    printed = _finish(process, PATIENCE + seconds * len(only), check)
    return [Figures(**json.loads(one)) for one in printed.splitlines()]


def _start(program: Path, arguments: Iterable[str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        (program, *arguments), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def _finish(process: "subprocess.Popen[str]", patience: float, check: Callable[[], None]) -> str:
    """Wait for its end, and return what it printed."""
    try:
        printed, said = _wait(process, patience, check)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    if process.returncode == 1:
        raise WrongAnswer(f"the figures do not count: {said.strip()}")
    if process.returncode:
        raise BenchmarkError(said.strip() or f"the load generator ended with code {process.returncode}")
    return printed


def _wait(process: "subprocess.Popen[str]", patience: float, check: Callable[[], None]) -> tuple[str, str]:
    for _ in range(int(patience / LOOK)):
        try:
            return process.communicate(timeout=LOOK)
        except subprocess.TimeoutExpired:
            try:
                check()
            except BenchmarkError:
                # A server may be gone because the load generator is done with it.
                with contextlib.suppress(subprocess.TimeoutExpired):
                    return process.communicate(timeout=LAST_WORDS)
                raise
    raise BenchmarkError(f"a request was not answered: the run did not end within {patience:.0f} s")


def _nothing() -> None:
    """Nobody can be gone."""
