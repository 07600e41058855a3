"""``python -m benchmarks``: words in, a page out. Errors are one sentence on stderr and exit code 1."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import attrs
import click
from hdvkit_vm.cache import default_folder
from hdvkit_vm.errors import VmError

from benchmarks import report, run, servers
from benchmarks.build import load_program
from benchmarks.campaign import KICKS, Campaign, Sample, Setup
from benchmarks.errors import BenchmarkError
from benchmarks.placement import Place

ENTRIES, MIB = 1000, 256
PLACES = [place.value for place in Place]


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--rounds", default=5, type=click.IntRange(1), help="How often everything is measured.")
@click.option("--seconds", default=0.5, type=click.FloatRange(0.01), help="Length of one workload.")
@click.option("--workload", "chosen", multiple=True, help="Only this one: stat, or stat:8 for one depth.")
@click.option("--place", "places", multiple=True, type=click.Choice(PLACES), default=PLACES, help="Where.")
@click.option("--kick", "kicks", multiple=True, type=click.Choice(KICKS), default=["ioeventfd", "posted"], help="How.")
@click.option("--server", "names", multiple=True, type=click.Choice(servers.NAMES), default=servers.NAMES, help="Whom.")
@click.option("--output", default=report.PAGE.parent, type=click.Path(path_type=Path), help="Folder of the page.")
@click.option("--samples", type=click.Path(path_type=Path), help="Write every figure here too, one object a line.")
@click.option("--directory", type=click.Path(path_type=Path), help="Make the files here, on the disk to be measured.")
def cli(
    rounds: int,
    seconds: float,
    chosen: Sequence[str],
    places: Sequence[str],
    kicks: Sequence[str],
    names: Sequence[str],
    output: Path,
    samples: Path | None,
    directory: Path | None,
) -> None:
    """Measure virtio-fs servers side by side, and write docs/performance.md anew."""
    program = load_program()
    wanted = _wanted(chosen, run.workloads(program))
    setups = [Setup(Place(place), kick) for place in places for kick in kicks]
    contenders = servers.contenders(names, _tell)
    if not contenders:
        raise BenchmarkError("there is nothing to measure: take another --server")
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-tree-", dir=directory or default_folder()) as made:
        tree = run.Tree(Path(made), ENTRIES, MIB)
        run.make_tree(program, tree)
        campaign = Campaign(program, tree, contenders, setups, wanted, rounds, seconds)
        found = campaign.run(_tell)
        if samples:
            samples.write_text("".join(f"{_as_json(one)}\n" for one in found))
        page = report.write(output, found, report.Circumstances(rounds, seconds, tree.directory, contenders))
    click.echo(str(page))


def _wanted(chosen: Sequence[str], known: Sequence[str]) -> list[str]:
    """The workloads that are meant, in their own order; all of them when none is."""
    unknown = [name for name in chosen if not any(name in (one, one.partition(":")[0]) for one in known)]
    if unknown:
        raise BenchmarkError(f"there is no workload {unknown[0]!r}: take some of {', '.join(known)}")
    return [one for one in known if not chosen or one in chosen or one.partition(":")[0] in chosen]


def _as_json(sample: Sample) -> str:
    return json.dumps(attrs.asdict(sample))


def _tell(line: str) -> None:
    click.echo(f"{line} …", err=True)


def main() -> None:
    """Run, and turn what is raised into a sentence."""
    try:
        cli.main(prog_name="python -m benchmarks")
    except (BenchmarkError, VmError, OSError) as error:
        click.echo(f"Error: {error}", err=True)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
