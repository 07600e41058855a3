"""All workloads against all servers, in turns: what is compared is measured within seconds. Blocking."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from pathlib import Path

import attrs
from hdvkit_vm.fetch import Tell

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


def in_turn(contenders: Sequence[Contender], *turns: int) -> list[Contender]:
    """An order for each turn: another one begins, and none always comes after the same."""
    first = turns[0] % len(contenders)
    order = [*contenders[first:], *contenders[:first]]
    return order if sum(turns) % 2 == 0 else order[::-1]


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

    def run(self, tell: Tell, measured: Callable[[Sample], None] = lambda sample: None) -> list[Sample]:
        """Measure everything; ``measured`` hears of each run, for what is interrupted returns nothing.

        Raises:
            WrongAnswer: A server gave one.
            BenchmarkError: Something cannot be measured here.
        """
        samples = []
        for setup in self.setups:
            processors(setup.place)  # raises now, and not in the middle
        for number in range(self.rounds):
            for setup in self.setups:
                tell(f"round {number + 1} of {self.rounds}: {setup}")
                for sample in self._round(setup, number):
                    measured(sample)
                    samples.append(sample)
        return samples

    def _round(self, setup: Setup, number: int) -> Iterator[Sample]:
        yield from self._plain(setup, number)
        for turn, workload in enumerate(self.workloads):
            for contender in in_turn(self.contenders, number, turn):
                yield from self._served(setup, contender, workload, number)

    def _served(self, setup: Setup, contender: Contender, workload: str, number: int) -> list[Sample]:
        guest, server = processors(setup.place)
        with serving(contender, self.tree.directory, server) as served:
            arguments = [f"--{contender.transport}={served.socket}", f"--kick={contender.kick(setup.kick)}"]
            with served.blamed(f"{contender.name}, {workload}, {setup}"):
                figures = measure(
                    self.program,
                    arguments,
                    self.tree,
                    seconds=self.seconds,
                    only=[workload],
                    on=guest,
                    check=served.check,
                )
        return [Sample(setup, contender.name, number, one) for one in figures]

    def _plain(self, setup: Setup, number: int) -> list[Sample]:
        _, server = processors(setup.place)
        names = sorted({workload.partition(":")[0] for workload in self.workloads})
        figures = measure(self.program, ["--plain"], self.tree, seconds=self.seconds, only=names, on={max(server)})
        return [Sample(setup, PLAIN, number, one) for one in figures]
