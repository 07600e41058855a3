"""``python -m hdvkit_vm``: words in, lines out. Errors are one sentence on stderr and exit code 1."""

import asyncio
import json
import sys
from pathlib import Path

import attrs
import click

from hdvkit.errors import HdvkitError
from hdvkit_vm.errors import VmError
from hdvkit_vm.provision import GUESTS, Assets
from hdvkit_vm.provision import prepare as prepare_assets


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Virtual machines with stock kernels, to try devices in."""


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object, with the lock record, for programs.")
def prepare(as_json: bool) -> None:
    """Fetch a QEMU, two kernels and tools for guests into the cache, unless they are there."""
    assets = prepare_assets(tell=_tell)
    if as_json:
        click.echo(json.dumps(as_dict(assets)))
        return
    click.echo(f"cache    {assets.folder}")
    click.echo(f"qemu     {assets.qemu}")
    click.echo(f"         {assets.lock.parts['qemu'].facts['version']} ({assets.accel})")
    for guest in assets.guests.values():
        click.echo(f"guest    {guest.name}: Linux {guest.release}")
        click.echo(f"         kernel {guest.kernel}")
        click.echo(f"         initrd {guest.initramfs}")


@cli.command()
@click.argument("directory", type=click.Path(exists=True, file_okay=False, resolve_path=True, path_type=Path))
@click.option("--script", help="Run this in DIRECTORY, in the guest, and exit with its code: a file, or commands.")
@click.option("--guest", type=click.Choice(GUESTS), default=GUESTS[0], show_default=True, help="The guest's kernel.")
@click.option("--read-only", is_flag=True, help="Let the guest change nothing.")
def demo(directory: Path, script: str | None, guest: str, read_only: bool) -> None:
    """Share DIRECTORY with a guest, mount it there under /mnt, and open a shell in it."""
    from hdvkit_vm.demo import demo as run_demo  # the rest works without hdvkit

    if script is None and not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise click.UsageError("a shell needs a terminal: give it commands with --script instead")
    if script is not None and Path(script).is_file():
        script = Path(script).read_text()
    assets = prepare_assets(tell=_tell)
    _tell(f"booting Linux {assets.guest(guest).release}")
    raise SystemExit(asyncio.run(run_demo(assets, directory, guest=guest, read_only=read_only, script=script)))


def _tell(line: str) -> None:
    click.echo(f"{line} …", err=True)


def as_dict(assets: Assets) -> dict[str, object]:
    """The assets for JSON, with paths as strings."""
    return attrs.asdict(assets, value_serializer=lambda _, __, value: value if _is_plain(value) else str(value))


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, bool | int | float | str | dict | list) or attrs.has(type(value))


def main() -> None:
    """Run a command, and turn what it raises into a sentence."""
    try:
        cli.main(prog_name="python -m hdvkit_vm")
    except (VmError, HdvkitError) as error:
        click.echo(f"Error: {error}", err=True)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
