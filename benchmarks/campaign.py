"""All workloads against all servers, in turns: what is compared is measured within seconds. Blocking."""

from collections.abc import Hashable, Sequence
from pathlib import Path

import attrs
from hdvkit_vm.fetch import Tell

from benchmarks.errors import BenchmarkError
from benchmarks.placement import Place, processors
from benchmarks.run import Figures, Tree, measure
from benchmarks.servers import Contender, serving

PLAIN = "system calls"
"""What stands for no server at all."""


@attrs.frozen
class Setup:
    """Where the processes run, and how the guest kicks a vfio-user device."""

    place: Place
    kick: str

    def __str__(self) -> str:
        return f"{self.place.phrase}, kicks by {_KICKS[self.kick]}"


_KICKS = {"ioeventfd": "eventfd", "posted": "posted message", "reply": "message that is answered"}
KICKS = tuple(_KICKS)


@attrs.frozen
class Sample:
    """One run. Set-ups can be told apart, and printed."""

    setup: Hashable
    contender: str
    round: int
    figures: Figures


@attrs.frozen
class Campaign:
    """What is to be measured, and how long."""

    program: Path
    tree: Tree
    contenders: Sequence[Contender]
    setups: Sequence[Setup]
    workloads: Sequence[str]
    rounds: int
    seconds: float

    def run(self, tell: Tell) -> list[Sample]:
        """Measure everything.

        Raises:
            WrongAnswer: A server gave one.
            BenchmarkError: Something cannot be measured here.
        """
        samples = []
        for number in range(self.rounds):
            for setup in self.setups:
                tell(f"round {number + 1} of {self.rounds}: {setup}")
                samples += self._plain(setup, number)
                for workload in self.workloads:
                    # Another one begins each time, so that none always comes after the same.
                    for turn in range(len(self.contenders)):
                        contender = self.contenders[(turn + number) % len(self.contenders)]
                        samples += self._served(setup, contender, workload, number)
        return samples

    def _served(self, setup: Setup, contender: Contender, workload: str, number: int) -> list[Sample]:
        guest, server = processors(setup.place)
        with serving(contender, self.tree.directory, server) as served:
            arguments = [f"--{contender.transport}={served.socket}", f"--kick={contender.kick(setup.kick)}"]
            try:
                figures = measure(
                    self.program,
                    arguments,
                    self.tree,
                    seconds=self.seconds,
                    only=[workload],
                    on=guest,
                    check=served.check,
                )
            except BenchmarkError as error:
                served.check()  # its end is the better reason
                raise type(error)(f"{contender.name}, {workload}, {setup}: {error}") from error
        return [Sample(setup, contender.name, number, one) for one in figures]

    def _plain(self, setup: Setup, number: int) -> list[Sample]:
        _, server = processors(setup.place)
        names = sorted({workload.partition(":")[0] for workload in self.workloads})
        figures = measure(self.program, ["--plain"], self.tree, seconds=self.seconds, only=names, on={max(server)})
        return [Sample(setup, PLAIN, number, one) for one in figures]
