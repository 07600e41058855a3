"""Medians of many runs, and ratios between what was measured side by side. No I/O."""

from collections.abc import Hashable, Sequence
from statistics import median

import attrs

from benchmarks.campaign import PLAIN, Sample


@attrs.frozen
class Ratio:
    """How many times as fast as the peer: the median of the rounds, the lowest and the highest."""

    middle: float
    low: float
    high: float


@attrs.frozen
class Cell:
    """One contender at one workload. Microseconds are those of an operation, or of one of the units it handles."""

    rate: float
    unit: str
    cpu_us: float
    ratio: Ratio | None = None


@attrs.frozen
class Row:
    """One workload in one set-up. ``cells`` are by contender; ``plain_us`` is what system calls take, if any are."""

    setup: Hashable
    workload: str
    cells: dict[str, Cell]
    plain_us: float | None


def rows(samples: Sequence[Sample]) -> list[Row]:
    """Everything that was measured, in that order; ratios are to the first contender."""
    served = [one for one in samples if one.contender != PLAIN]
    keys = dict.fromkeys((one.setup, one.figures.name) for one in served)
    return [_row(setup, workload, samples) for setup, workload in keys]


def contenders(samples: Sequence[Sample]) -> list[str]:
    """Who was measured, the peer first."""
    first_round = [one for one in samples if one.round == 0 and one.contender != PLAIN]
    return list(dict.fromkeys(one.contender for one in first_round))


def _row(setup: Hashable, workload: str, samples: Sequence[Sample]) -> Row:
    here = [one for one in samples if one.setup == setup]
    peer, *_ = names = contenders(samples)
    runs = {name: [one for one in here if (one.contender, one.figures.name) == (name, workload)] for name in names}
    base = {one.round: one.figures.rate for one in runs[peer]}
    cells = {}
    for name, found in runs.items():
        ratios = [one.figures.rate / base[one.round] for one in found if one.round in base]
        compared = Ratio(median(ratios), min(ratios), max(ratios)) if ratios and name != peer else None
        if found:
            cells[name] = _cell(found, compared)
    return Row(setup, workload, cells, _plain(here, workload))


def _cell(runs: Sequence[Sample], ratio: Ratio | None) -> Cell:
    figures = [one.figures for one in runs]
    return Cell(
        rate=median(one.rate for one in figures),
        unit=figures[0].unit,
        cpu_us=median(_cpu(one) for one in runs),
        ratio=ratio,
    )


def _cpu(one: Sample) -> float:
    """Of an operation; of an entry where an operation is a whole listing."""
    figures = one.figures
    return figures.cpu_us * figures.operations / figures.units if figures.unit == "entries" else figures.cpu_us


def _plain(here: Sequence[Sample], workload: str) -> float | None:
    """A listing costs the host the same, whatever the server remembers."""
    name = workload.partition(":")[0].removesuffix("-cold")
    found = [_cpu(one) for one in here if one.contender == PLAIN and one.figures.workload == name]
    return median(found) if found else None
