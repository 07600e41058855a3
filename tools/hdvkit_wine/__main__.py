"""``python -m hdvkit_wine``: words in, lines out. Errors are one sentence on stderr and exit code 1."""

import json
import sys

import attrs
import click
from hdvkit_vm.errors import VmError

from hdvkit_wine.errors import WineError
from hdvkit_wine.provision import Assets
from hdvkit_wine.provision import prepare as prepare_assets
from hdvkit_wine.suite import install_doubles, pytest_arguments
from hdvkit_wine.windows import Windows

WORDS = {"ignore_unknown_options": True, "allow_interspersed_args": False}


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """A Windows made of Wine and the official CPython, to run our tests on."""


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object, with the lock record, for programs.")
def prepare(as_json: bool) -> None:
    """Fetch Wine, a compiler, a CPython and our requirements into the cache, unless they are there."""
    assets = prepare_assets(tell=_tell)
    if as_json:
        click.echo(json.dumps(as_dict(assets)))
        return
    facts = {name: part.facts for name, part in assets.lock.parts.items()}
    click.echo(f"cache    {assets.folder}")
    click.echo(f"wine     {assets.wine.loader}")
    click.echo(f"         {facts['wine']['version']}")
    click.echo(f"mingw    {assets.mingw.programs}")
    click.echo(f"         {facts['mingw']['version']}")
    click.echo(f"python   {assets.python}")
    click.echo(f"         {facts[assets.python.name]['python']}")
    for package in assets.lock.parts[assets.site.name].packages:
        click.echo(f"         {package.package} {package.version}")


@cli.command(context_settings=WORDS)
@click.option("--timeout", default=600.0, show_default=True, help="Kill it after so many seconds.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def run(timeout: float, arguments: tuple[str, ...]) -> None:
    """Run python.exe with ARGUMENTS in the working tree, and exit with its code: run -- -m pytest tests/test_x.py."""
    raise SystemExit(_run(arguments, timeout))


@cli.command(context_settings=WORDS)
@click.option("--timeout", default=1200.0, show_default=True, help="Kill it after so many seconds.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def test(timeout: float, arguments: tuple[str, ...]) -> None:
    """Run the tests that belong on Windows, with ARGUMENTS for pytest, and exit with its code."""
    raise SystemExit(_run((*pytest_arguments(), *arguments), timeout))


def _run(arguments: tuple[str, ...], timeout: float) -> int:
    with Windows(prepare_assets(tell=_tell)) as windows:
        install_doubles(windows)
        return windows.run(arguments, timeout=timeout, echo=sys.stdout.buffer).code


def _tell(line: str) -> None:
    click.echo(f"{line} …", err=True)


def as_dict(assets: Assets) -> dict[str, object]:
    """The assets for JSON, with paths as strings."""
    return attrs.asdict(assets, value_serializer=lambda _, __, value: value if _is_plain(value) else str(value))


def _is_plain(value: object) -> bool:
    return isinstance(value, bool | int | float | str | dict | list | tuple) or attrs.has(type(value))


def main() -> None:
    """Run a command, and turn what it raises into a sentence."""
    try:
        cli.main(prog_name="python -m hdvkit_wine")
    except (VmError, WineError) as error:
        click.echo(f"Error: {error}", err=True)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
