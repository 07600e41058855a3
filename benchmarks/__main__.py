"""``python -m benchmarks``: words in, tables or a page out. Errors are one sentence on stderr and exit code 1."""

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import attrs
import click
from hdvkit_vm.cache import default_folder

from benchmarks import command, report, run
from benchmarks.build import load_program
from benchmarks.campaign import KICKS, Campaign, Sample, Setup
from benchmarks.errors import BenchmarkError
from benchmarks.placement import Place, possible

ENTRIES, MIB = 1000, 256
PLACES = [place.value for place in Place]


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--rounds", default=5, type=click.IntRange(1), help="How often everything is measured.")
@click.option("--seconds", default=0.5, type=click.FloatRange(0.01), help="Length of one workload.")
@click.option("--workload", "chosen", multiple=True, help="Only this one: stat, or stat:8 for one depth.")
@click.option("--place", "places", multiple=True, type=click.Choice(PLACES), default=possible, help="Where.")
@click.option("--kick", "kicks", multiple=True, type=click.Choice(KICKS), default=["ioeventfd", "posted"], help="How.")
@command.SERVER
@command.OUTPUT
@click.option("--samples", type=click.Path(path_type=Path), help="Write every figure here too, one object a line.")
@click.option("--directory", type=click.Path(path_type=Path), help="Make the files here, on the disk to be measured.")
def cli(
    rounds: int,
    seconds: float,
    chosen: Sequence[str],
    places: Sequence[str],
    kicks: Sequence[str],
    names: Sequence[str],
    output: Path | None,
    samples: Path | None,
    directory: Path | None,
) -> None:
    """Measure virtio-fs servers side by side."""
    program = load_program()
    wanted = _wanted(chosen, run.workloads(program))
    setups = [Setup(Place(place), kick) for place in places for kick in kicks]
    contenders = command.contenders(names)
    if output:
        report.around(output, report.MEASURED)  # raises now, and not in the end
    with (
        tempfile.TemporaryDirectory(prefix="bench-tree-", dir=directory or default_folder()) as made,
        _noted(samples or Path(os.devnull)) as note,
    ):
        tree = run.Tree(Path(made), ENTRIES, MIB)
        run.make_tree(program, tree)
        found = Campaign(program, tree, contenders, setups, wanted, rounds, seconds).run(command.tell, note)
        content = report.text(found, report.Circumstances(rounds, seconds, tree.directory, contenders))
    click.echo(str(report.write(output, report.MEASURED, content, found)) if output else content)


def _wanted(chosen: Sequence[str], known: Sequence[str]) -> list[str]:
    """The workloads that are meant, in their own order; all of them when none is."""
    unknown = [name for name in chosen if not any(name in (one, one.partition(":")[0]) for one in known)]
    if unknown:
        raise BenchmarkError(f"there is no workload {unknown[0]!r}: take some of {', '.join(known)}")
    return [one for one in known if not chosen or one in chosen or one.partition(":")[0] in chosen]


@contextmanager
def _noted(path: Path) -> Iterator[Callable[[Sample], None]]:
    """Write each sample as it comes, one object a line."""
    with path.open("w", encoding="utf-8", buffering=1) as file:
        yield lambda sample: print(json.dumps(attrs.asdict(sample)), file=file)


if __name__ == "__main__":
    command.main(cli, "python -m benchmarks")
