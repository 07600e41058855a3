"""The ``hdvkit`` command. Words in and tables out; what it does lives in the modules it calls.

For people through rich, for programs with ``--json``: one object a line. Errors of use are one sentence on stderr and
exit code 2, refusals of the platform and failed checks are exit code 1; ``--debug`` adds the traceback.
"""

import asyncio
import io
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NoReturn

import attrs
import click
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from hdvkit import checkup, options, serving
from hdvkit.demo import SAMPLES, Demo, Step
from hdvkit.errors import UsageError
from hdvkit.observe import Event
from hdvkit.plugins import Plugins

loaded = click.make_pass_decorator(Plugins)
as_json = click.option("--json", "as_json", is_flag=True, help="One JSON object a line, for programs.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show tracebacks of errors.")
@click.version_option(package_name="hdvkit")
def cli(debug: bool) -> None:
    """Virtio devices for virtual machines, written in async Python."""


@cli.command()
@click.argument("directory", required=False)
@click.option("--packed", is_flag=True, help="Use packed rings instead of split ones.")
@click.option("--read-only", is_flag=True, help="Share it read-only, and see the guest's writes fail.")
@as_json
def demo(directory: str | None, packed: bool, read_only: bool, as_json: bool) -> None:
    """Share DIRECTORY with a simulated guest, and print what the guest does with it.

    Without DIRECTORY a temporary one is made. The guest leaves nothing behind.
    """
    with tempfile.TemporaryDirectory(prefix="hdvkit-demo-") as made:
        if directory is None:
            for name, data in SAMPLES.items():
                (Path(made) / name).write_bytes(data)
        elif not directory:
            raise UsageError("an empty DIRECTORY names none; for the current one write .")
        show = Demo(Path(directory or made), packed=packed, read_only=read_only)
        steps = asyncio.run(_collect(show))
    if as_json:
        _print_json(attrs.asdict(step) for step in steps)
    else:
        _print_demo(show, steps)
    if any(step.failed for step in steps):
        raise SystemExit(1)


async def _collect(show: Demo) -> list[Step]:
    return [step async for step in show.steps()]


@cli.command()
@click.argument("host")
@click.argument("devices", nargs=-1, required=True, metavar="DEVICE...")
@as_json
@loaded
def run(plugins: Plugins, host: str, devices: Sequence[str], as_json: bool) -> None:
    """Attach DEVICEs to HOST and serve until SIGINT or SIGTERM.

    HOST and DEVICE are a kind and its options, as in virtiofs:source=/srv,tag=src,read_only=true; a comma in a value
    is written twice.
    """
    specs = [options.parse(device) for device in devices]
    tell = _event_as_json if as_json else _event_as_text
    asyncio.run(serving.serve(options.parse(host), specs, plugins, tell))


@cli.command("bench")
@click.argument("directory", required=False)
@click.option(
    "--seconds",
    default=0.5,
    show_default=True,
    type=click.FloatRange(0.01),
    help="Length of each kind of work, on either side.",
)
@as_json
def measure(directory: str | None, seconds: float, as_json: bool) -> None:
    """Time what a program does in DIRECTORY, on the host and through a share in the simulated guest.

    Without DIRECTORY a temporary one is made. Nothing is left behind.
    """
    from hdvkit import bench  # only this command needs it

    if directory == "":
        raise UsageError("an empty DIRECTORY names none; for the current one write .")
    with tempfile.TemporaryDirectory(prefix="hdvkit-bench-") as made:
        results = bench.run(Path(directory or made), seconds)
    if as_json:
        _print_json(attrs.asdict(one) for one in results)
    else:
        Console().print(bench.table(results))
    if not all(one.same for one in results):
        raise SystemExit(1)


@cli.command("plugins")
@as_json
@loaded
def list_plugins(plugins: Plugins, as_json: bool) -> None:
    """List the kinds of hosts and devices, where each comes from, and what failed to load."""
    if as_json:
        _print_json(attrs.asdict(one) for one in plugins.listing)
        return
    table = Table("plugin", "state", "hosts", "devices", "from")
    for one in plugins.listing:
        origin = " ".join(part for part in (one.distribution, one.version) if part) or one.module
        table.add_row(one.name, one.state, ", ".join(one.hosts), ", ".join(one.devices), origin)
    console = Console()
    console.print(table)
    for failure in plugins.failures:
        console.print(Text(f"\n{failure.name} failed:\n{failure.traceback_text}"), style="red")


@cli.command()
@click.argument("device", default="virtiofs:source=.,tag=selftest,read_only=true", metavar="[DEVICE]")
@as_json
@loaded
def selftest(plugins: Plugins, device: str, as_json: bool) -> None:
    """Run the conformance kit on DEVICE with the simulated guest, hostile guests included."""
    from hdvkit.testing import kit  # pytest authors and this command need it; serving does not

    spec = options.parse(device)
    factory = plugins.device(spec.kind)
    options.build(factory, spec.options, f"device {spec.kind}")  # bad options are an error of use, at once
    with Console(stderr=True).status("") as status:

        def told(result: kit.Result) -> None:
            if as_json:
                _print_json([attrs.asdict(result)])
            else:
                status.update(Text(f"{result.name}: {result.detail or 'passed'}"))

        checking = kit.check_device(lambda: options.build(factory, spec.options), kind=spec.kind, told=told)
        report = asyncio.run(checking)
    if not as_json:
        table = Table("check", "result", "seconds", "why")
        for one in report.results:
            verdict = Text("passed", "green") if one.passed else Text("FAILED", "bold red")
            table.add_row(Text(one.name), verdict, f"{one.seconds:.3f}", Text(one.detail))
        Console().print(table)
        Console().print(f"{len(report.results) - len(report.failed)} passed, {len(report.failed)} failed")
    if report.failed:
        raise SystemExit(1)


@cli.command()
@click.argument("host", required=False)
@as_json
@loaded
def check(plugins: Plugins, host: str | None, as_json: bool) -> None:
    """Say whether this machine can do what HOST needs (every kind, by default), and what is missing if not."""
    findings = checkup.check(host, plugins)
    if as_json:
        _print_json(attrs.asdict(one) for one in findings)
    else:
        table = Table("what", "", Column("found", overflow="fold"), Column("what to do", overflow="fold"))
        for one in findings:
            verdict = Text("ok", "green") if one.good else Text("missing", "red")
            table.add_row(Text(one.what), verdict, Text(one.found), Text(one.advice))
        Console().print(table)
    if not all(one.good for one in findings):
        raise SystemExit(1)


def _print_demo(show: Demo, steps: Sequence[Step]) -> None:
    table = Table(title=Text(f"A simulated guest in {show.directory}"), title_justify="left")
    for column in ("what the guest did", "what it saw"):
        table.add_column(column, overflow="fold")
    for column in ("bytes", "requests", "ms"):
        table.add_column(column, justify="right")
    for step in steps:
        saw = Text(step.saw, "red" if step.failed else "")
        table.add_row(Text(step.did), saw, f"{step.bytes:,}", str(step.requests), f"{step.seconds * 1000:.1f}")
    console = Console()
    console.print(table)
    if show.stats is not None:
        for queue in show.stats.queues:
            console.print(
                f"{'packed' if show.packed else 'split'} queue {queue.name}: {queue.chains} chains, "
                f"{queue.kicks} kicks, {queue.interrupts} interrupts, "
                f"{queue.taken:,} bytes from the guest, {queue.given:,} to it",
                highlight=False,
            )


def _print_json(objects: Iterable[object]) -> None:
    for one in objects:
        click.echo(json.dumps(one, default=str))


def _event_as_json(event: Event) -> None:
    click.echo(json.dumps(event.as_dict()))


def _event_as_text(event: Event) -> None:
    place = " ".join(f"{key} {value}" for key, value in event.place.items())
    reason = f": {event.reason}" if event.reason else ""
    click.echo(f"{event.device} ({event.device_kind}) {event.kind} {place}".rstrip() + reason)
    if event.hint:
        click.echo(f"    {event.hint}")  # in one line, to be pasted


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """The console script: run a command, and turn what it raises into a sentence and an exit code."""
    debug = "--debug" in (sys.argv[1:] if arguments is None else arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names may be any bytes
    plugins = Plugins.load()
    plugins.add_commands(cli)
    try:
        code = cli.main(args=arguments, prog_name="hdvkit", standalone_mode=False, obj=plugins) or 0
    except click.exceptions.Exit as ended:
        code = ended.exit_code
    except click.ClickException as error:
        code = _failed(error.format_message(), 2, debug)
    except (click.Abort, KeyboardInterrupt):
        code = 130
    except UsageError as error:
        code = _failed(error, 2, debug)
    except BrokenPipeError:
        # Nobody reads any more. What is left in the buffer must not be tried again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except OSError as error:  # the platform's refusals, and output that cannot be written
        code = _failed(error, 1, debug)
    sys.exit(code)


def _failed(error: Exception | str, code: int, debug: bool) -> int:
    if debug:
        Console(stderr=True).print_exception()
    click.echo(f"hdvkit: {error}", err=True)
    return code
