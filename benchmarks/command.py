"""What both commands have in common: words on stderr, errors as one sentence, and an end that leaves nothing behind."""

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn, TypeVar

import click
from hdvkit_vm.errors import VmError

from benchmarks import servers
from benchmarks.errors import BenchmarkError
from benchmarks.servers import Contender

Command = TypeVar("Command", bound=Callable[..., None])

SERVER = click.option(
    "--server", "names", multiple=True, type=click.Choice(servers.NAMES), default=servers.NAMES, help="Whom."
)
OUTPUT = click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Write into the page in this folder, docs for instance; by default tables are printed.",
)


def tell(line: str) -> None:
    """Say what is done now."""
    click.echo(f"{line} …", err=True)


def contenders(names: Sequence[str]) -> list[Contender]:
    """Who is measured; raises BenchmarkError when there is nobody."""
    found = servers.contenders(names, tell)
    if not found:
        raise BenchmarkError("there is nothing to measure: take another --server")
    return found


def main(command: click.Command, name: str) -> NoReturn:
    """Run, turn what is raised into a sentence, and stop the servers when somebody stops us."""
    signal.signal(signal.SIGTERM, lambda number, _: _leave(number))
    try:
        command.main(prog_name=name)
    except (BenchmarkError, VmError, OSError) as error:
        click.echo(f"Error: {error}", err=True)
        raise SystemExit(1) from None
    finally:
        _end_children()
    raise SystemExit(0)


def _leave(number: int) -> NoReturn:
    raise SystemExit(128 + number)


def _end_children() -> None:
    """Those that had just been started when we were told to stop, so that nobody knew them who would."""
    for child in Path("/proc/thread-self/children").read_text().split():
        os.kill(int(child), signal.SIGKILL)
        os.waitpid(int(child), 0)
