"""A small chart for each workload: seconds over work by backend, and beneath it which one is fastest where."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

from benchmarks._crossovers import Size, crossovers, leaders, shown
from routerd.scoring.svg import GRID, MUTED, PAPER, bar, document, line, text

_WIDTH, _MARGIN, _COLUMNS = 1080, 20, 4
_PITCH, _GAP = 204, 18
_PANEL = (_WIDTH - 2 * _MARGIN - (_COLUMNS - 1) * _GAP) / _COLUMNS
_AXIS, _PLOT_TOP, _PLOT_HEIGHT, _STRIP, _STRIP_GAP = 46, 32, 108, 9, 5
_LINES_TOP, _LINE = 54, 17
_COLOURS = ("#6a737d", "#1760d6", "#56b4e9", "#d55e00", "#e69f00", "#009e73", "#cc79a7", "#7a5195")
_KEY_STEP, _LABEL_STEP = 150, 38
_EXPLANATION = (
    "seconds of one execution, transfers included, over work, both logarithmic; the strip has the colour of the fastest; "
    "dashed: less exact than the workload's tolerance, so not counted"
)


class _Chart(NamedTuple):
    """Where a panel is, and the logarithms that its edges stand for."""

    left: float
    top: float
    works: tuple[float, float]
    seconds: tuple[float, float]

    def x(self, work: float) -> float:
        low, high = self.works
        return self.left + (_PANEL - _AXIS) * (math.log10(work) - low) / (high - low)

    def y(self, seconds: float) -> float:
        low, high = self.seconds
        return self.top + _PLOT_HEIGHT * (high - math.log10(seconds)) / (high - low)


def picture_of(sizes: Sequence[Size], about: Sequence[str]) -> str:
    """The picture as SVG text; the lines ``about`` say on which machine and when. Backends keep their colour in all charts."""
    workloads = [
        (name, timed)
        for name, group in groupby(sizes, key=lambda size: size.workload)
        if len(timed := [size for size in group if size.fastest]) > 1
    ]
    backends = list(dict.fromkeys(name for size in sizes for name in size.seconds))
    colours = {name: _COLOURS[number % len(_COLOURS)] for number, name in enumerate(backends)}
    rows = math.ceil(len(workloads) / _COLUMNS)
    lines = [*about, _EXPLANATION]
    key = _LINES_TOP + len(lines) * _LINE + 4
    charts = key + 20
    parts = [
        text(_MARGIN, 34, "Which backend is fastest, by size of the task", size=18, weight=600),
        *(
            text(_MARGIN, _LINES_TOP + number * _LINE, words, colour=MUTED, size=11)
            for number, words in enumerate(lines)
        ),
        *_key(colours, key),
    ]
    for number, (name, timed) in enumerate(workloads):
        row, column = divmod(number, _COLUMNS)
        parts += _panel(_MARGIN + column * (_PANEL + _GAP), charts + row * _PITCH, name, timed, colours)
    title = f"The fastest backend by size: {len(workloads)} workloads on {len(backends)} backends"
    return document(_WIDTH, charts + rows * _PITCH + 6, title, parts)


def _key(colours: Mapping[str, str], top: float) -> list[str]:
    parts = []
    for number, (name, colour) in enumerate(colours.items()):
        left = _MARGIN + number * _KEY_STEP
        parts += [line(left, top, left + 22, top, colour, width=4), text(left + 30, top + 4, name, size=12)]
    return parts


def _panel(left: float, top: float, name: str, sizes: Sequence[Size], colours: Mapping[str, str]) -> list[str]:
    seconds = [one for size in sizes for one in size.seconds.values()]
    low, high = math.log10(min(seconds)) - 0.1, math.log10(max(seconds)) + 0.1
    works = (math.log10(sizes[0].work), math.log10(sizes[-1].work))
    chart = _Chart(left + _AXIS, top + _PLOT_TOP, works, (low, high))
    right, strip = chart.x(sizes[-1].work), chart.top + _PLOT_HEIGHT + _STRIP_GAP
    parts = [text(chart.left, top + 12, name, size=12, weight=600)]
    for decade in range(math.ceil(low), math.floor(high) + 1):
        y = chart.y(10.0**decade)
        parts += [
            line(chart.left, y, right, y, GRID),
            text(chart.left - 6, y + 4, _seconds(decade), colour=MUTED, size=10, anchor="end"),
        ]
    parts += [
        text(chart.left, strip + _STRIP + 13, shown(sizes[0].work), colour=MUTED, size=10),
        text(right, strip + _STRIP + 13, shown(sizes[-1].work), colour=MUTED, size=10, anchor="end"),
    ]
    for backend, colour in colours.items():
        parts += _curve(chart, backend, sizes, colour)
    return parts + _leading(chart, sizes, colours, strip)


def _curve(chart: _Chart, backend: str, sizes: Sequence[Size], colour: str) -> list[str]:
    timed = [size for size in sizes if backend in size.seconds]
    if not timed:
        return []
    points = [(chart.x(size.work), chart.y(size.seconds[backend])) for size in timed]
    dashes = "" if backend in timed[0].eligible else " stroke-dasharray='3 3'"
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return [
        f"<polyline points='{path}' fill='none' stroke='{colour}' stroke-width='1.8' stroke-linejoin='round'{dashes}/>",
        *(f"<circle cx='{x:.1f}' cy='{y:.1f}' r='2.4' fill='{colour}' stroke='{PAPER}' stroke-width='0.8'/>" for x, y in points),
    ]  # fmt: skip


def _leading(chart: _Chart, sizes: Sequence[Size], colours: Mapping[str, str], strip: float) -> list[str]:
    """The strip, cut where the fastest changes; a cut whose place is not known is in the middle of where it may be."""
    edge, leader, labelled = chart.left, leaders(sizes)[0], -math.inf
    parts: list[str] = []
    for one in crossovers(sizes):
        at = math.sqrt(one.low * one.high) if one.work is None else one.work
        x = chart.x(at)
        parts += [
            bar(edge, strip, x - edge, _STRIP, colours[leader]),
            line(x, chart.top, x, strip + _STRIP, MUTED, dashes="2 3"),
        ]
        if x - labelled >= _LABEL_STEP:  # two numbers on top of each other would both be lost
            words = f"{'≈' if one.work is None else ''}{shown(at)}"
            parts.append(text(x, chart.top - 3, words, size=10, anchor="middle"))
            labelled = x
        edge, leader = x, one.after
    return [*parts, bar(edge, strip, chart.x(sizes[-1].work) - edge, _STRIP, colours[leader])]


def _seconds(decade: int) -> str:
    """A power of ten of seconds in the unit that people use: ``10 µs``."""
    unit, base = next((unit, base) for unit, base in (("s", 0), ("ms", -3), ("µs", -6), ("ns", -9)) if decade >= base)
    return f"{10 ** (decade - base)} {unit}"
