"""A picture of the ratios as SVG: a panel for each set-up, a bar for each server. No I/O."""

import math
from collections.abc import Sequence
from itertools import groupby
from xml.sax.saxutils import escape

from benchmarks.figures import Ratio, Row

LEFT, WIDTH, RIGHT = 150, 520, 60
BAR, GAP, HEAD = 10, 6, 34
LOW, HIGH = 1 / 16, 16
"""Ratios beyond these end at the border; the number beside the bar is right."""
COLOURS = ("#8a8f98", "#2f6fde", "#d9822b")
STYLE = """\
text { font: 11px sans-serif; fill: #444 }
.title { font-weight: bold }
.grid { stroke: #999; stroke-opacity: .35 }
.peer { stroke: #444; stroke-width: 1.5 }
.range { stroke: #444; stroke-opacity: .7 }
@media (prefers-color-scheme: dark) { text { fill: #ccc } .peer, .range { stroke: #ccc } }
"""


def svg(rows: Sequence[Row], peer: str) -> str:
    """The picture; ``peer`` is who stands at 1."""
    names = list(dict.fromkeys(name for row in rows for name, cell in row.cells.items() if cell.ratio))
    parts: list[str] = []
    top = _legend(parts, names, peer)
    for setup, panel in groupby(rows, lambda row: row.setup):
        top = _panel(parts, str(setup), list(panel), names, top)
    size = f'width="{LEFT + WIDTH + RIGHT}" height="{top}" viewBox="0 0 {LEFT + WIDTH + RIGHT} {top}"'
    body = "\n".join(parts)
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>\n<style>\n{STYLE}</style>\n{body}\n</svg>\n'


def _legend(parts: list[str], names: Sequence[str], peer: str) -> int:
    parts.append(_text(LEFT, 16, f"requests a second, times {peer}", "title"))
    for index, name in enumerate(names):
        left = LEFT + 140 * index
        parts.append(f'<rect x="{left}" y="24" width="10" height="10" fill="{_colour(index)}"/>')
        parts.append(_text(left + 15, 33, name))
    return 44


def _panel(parts: list[str], title: str, rows: Sequence[Row], names: Sequence[str], top: int) -> int:
    """Draw one set-up from ``top`` on, and return where the next may begin."""
    step = BAR * len(names) + GAP
    bottom = top + HEAD + step * len(rows)
    parts.append(_text(LEFT, top + 14, title, "title"))
    for power in range(round(math.log2(LOW)), round(math.log2(HIGH)) + 1):
        at = _place(2.0**power)
        parts.append(_line(at, top + HEAD - 4, at, bottom, "peer" if power == 0 else "grid"))
        parts.append(_text(at, top + HEAD - 6, f"{2.0**power:g}" if power >= 0 else f"1/{2**-power}", anchor="middle"))
    for number, row in enumerate(rows):
        row_top = top + HEAD + step * number
        parts.append(_text(LEFT - 8, row_top + step // 2 + 2, row.workload, anchor="end"))
        for index, name in enumerate(names):
            cell = row.cells.get(name)
            if cell and cell.ratio:
                _bar(parts, cell.ratio, row_top + BAR * index, _colour(index))
    return bottom + 20


def _bar(parts: list[str], ratio: Ratio, top: int, colour: str) -> None:
    """From 1 to the median, with a line from the lowest to the highest."""
    left, right = sorted((_place(1), _place(ratio.middle)))
    parts.append(f'<rect x="{left:.1f}" y="{top}" width="{right - left:.1f}" height="{BAR - 2}" fill="{colour}"/>')
    middle = top + BAR / 2 - 1
    parts.append(_line(_place(ratio.low), middle, _place(ratio.high), middle, "range"))
    parts.append(_text(LEFT + WIDTH + 8, top + BAR - 2, f"{ratio.middle:.2f}"))


def _place(ratio: float) -> float:
    share = math.log(min(max(ratio, LOW), HIGH) / LOW) / math.log(HIGH / LOW)
    return LEFT + WIDTH * share


def _colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'
