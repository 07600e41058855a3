"""The page in the docs: what is measured goes between two marks, all else stays as it was written."""

import datetime
import os
import platform
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from types import MappingProxyType

import attrs

from benchmarks.campaign import Sample
from benchmarks.errors import BenchmarkError
from benchmarks.figures import Cell, Row, contenders, rows
from benchmarks.plot import svg
from benchmarks.servers import Contender

PAGE = Path(__file__).parent.parent / "docs/performance.md"
MEASURED, IN_GUEST = "measured", "in a guest"
PICTURE = "performance.svg"
NOTHING: Mapping[str, str] = MappingProxyType({})


@attrs.frozen
class Circumstances:
    """Where and how it was measured."""

    rounds: int
    seconds: float
    directory: Path
    contenders: Sequence[Contender]


def text(samples: Sequence[Sample], circumstances: Circumstances, more: Mapping[str, str] = NOTHING) -> str:
    """What was measured, and where: two columns of circumstances, then a table for each set-up."""
    return "\n".join([_circumstances(circumstances, more), *_tables(rows(samples), contenders(samples))])


def write(folder: Path, place: str, content: str, samples: Sequence[Sample]) -> Path:
    """Write ``content`` into that place of the page in ``folder``, with a picture, and return the page.

    What it says besides is the docs'.

    Raises:
        BenchmarkError: The page has no such place.
    """
    names = contenders(samples)
    if place == MEASURED and len(names) > 1:
        (folder / PICTURE).write_text(svg(rows(samples), names[0]), encoding="utf-8")
        content = f"![Requests a second, as multiples of those of {names[0]}]({PICTURE})\n\n{content}"
    page, (before, after) = folder / PAGE.name, around(folder, place)
    page.write_text(f"{before}\n{content}\n{after}", encoding="utf-8")
    return page


def around(folder: Path, place: str) -> tuple[str, str]:
    """What stands before and behind a place of the page in ``folder``; a new page is as that of the docs.

    Raises:
        BenchmarkError: The page has no such place.
    """
    page = folder / PAGE.name
    text = (page if page.exists() else PAGE).read_text(encoding="utf-8")
    first, last = marks(place)
    before, begin, rest = text.partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end:
        raise BenchmarkError(f"{page} has no place for figures: a line {first.strip()}, and one {last.strip()}")
    return f"{before}{begin}", f"{end}{after}"


def marks(place: str) -> tuple[str, str]:
    """The lines around what is written by machine."""
    return f"<!-- {place}: begin -->\n", f"<!-- {place}: end -->\n"


def _tables(found: Sequence[Row], names: Sequence[str]) -> list[str]:
    tables = []
    for setup, panel in groupby(found, lambda row: row.setup):
        title = str(setup)
        tables.append(f"### {title[0].upper()}{title[1:]}\n\n{_table(list(panel), names)}")
    return tables


def _circumstances(measured: Circumstances, more: Mapping[str, str]) -> str:
    versions = dict.fromkeys(one.version for one in measured.contenders)
    commands = dict.fromkeys(f"`{one.shown}`" for one in measured.contenders)
    lines = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": f"{_processor()}, {os.cpu_count()} processors, Linux {platform.release()}",
        "directory": f"on {_file_system(measured.directory)}, in the page cache",
        "user": "root" if os.geteuid() == 0 else "one without privileges",
        "versions": ", ".join([*versions, f"Python {platform.python_version()}"]),
        "commands": ", ".join(commands),
        **more,
        "rounds": f"{measured.rounds}, of {measured.seconds:g} s for each workload",
    }
    return "| | |\n|---|---|\n" + "".join(f"| {name} | {value} |\n" for name, value in lines.items())


def _table(panel: Sequence[Row], names: Sequence[str]) -> str:
    has_plain = any(row.plain_us is not None for row in panel)
    head = ["workload", *names, *(["system calls"] if has_plain else [])]
    text = f"| {' | '.join(head)} |\n|{'---|' * len(head)}\n"
    for row in panel:
        cells = [_cell(row.cells[name]) if name in row.cells else "" for name in names]
        plain = "" if row.plain_us is None else _micro(row.plain_us)
        text += f"| {' | '.join([row.workload, *cells, *([plain] if has_plain else [])])} |\n"
    return text


def _cell(cell: Cell) -> str:
    parts = [_rate(cell), _micro(cell.cpu_us)]
    if cell.ratio:
        parts.append(f"**{cell.ratio.middle:.2f}** ({cell.ratio.low:.2f}-{cell.ratio.high:.2f})")
    return " · ".join(parts)


def _rate(cell: Cell) -> str:
    return f"{cell.rate / 1e6:,.0f} MB/s" if cell.unit == "bytes" else f"{cell.rate:,.0f}/s"


def _micro(us: float) -> str:
    return f"{us:.2f} us" if us < 10 else f"{us:,.0f} us"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def _file_system(directory: Path) -> str:
    """The type of the deepest mount that holds it: fields 5 and, behind the hyphen, 1 of proc(5)'s mountinfo."""
    best, kind = "", "an unknown file system"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        place, rest = line.split(" ", 5)[4], line.partition(" - ")[2]
        if len(place) >= len(best) and directory.resolve().is_relative_to(place):
            best, kind = place, rest.split(" ", 1)[0]
    return kind
