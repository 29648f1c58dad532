"""Figures beside their targets and peers, as a table for people and as JSON for machines."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from benchmarks._harness import Options, machine


@dataclass(frozen=True)
class Figure:
    """One measured number. ``target`` is the most it may be, or with ``at_least`` the least; ``floor`` is a peer's figure.

    A figure without a target is a peer, or there to be looked at.
    """

    name: str
    value: float
    unit: str
    target: float | None = None
    at_least: bool = False
    floor: float | None = None

    HEADINGS = ("figure", "measured", "floor", "to floor", "target", "verdict")

    @property
    def verdict(self) -> str:
        if self.target is None:
            return ""
        met = self.value >= self.target if self.at_least else self.value <= self.target
        return "met" if met else "not met"

    @property
    def cells(self) -> tuple[str, ...]:
        sign = "≥" if self.at_least else "≤"
        return (
            self.name,
            f"{_shown(self.value)} {self.unit}",
            "" if self.floor is None else f"{_shown(self.floor)} {self.unit}",
            "" if not self.floor else f"{self.value / self.floor:.2g}×",
            "" if self.target is None else f"{sign} {_shown(self.target)} {self.unit}",
            self.verdict,
        )


@dataclass(frozen=True)
class Comparison:
    """Milliseconds of one computation by backend, and those of a library for the same; ``target`` is the least ratio.

    ``value`` is how many times faster the quickest backend is than the library.
    """

    name: str
    scale: str
    library: str
    backends: Mapping[str, float]
    library_milliseconds: float
    target: float | None = None
    unit: str = "times faster"

    HEADINGS = ("workload", "scale", "library", "library's ms", "ms by backend", "faster", "target", "verdict")

    @property
    def value(self) -> float:
        return self.library_milliseconds / min(self.backends.values())

    @property
    def verdict(self) -> str:
        return "" if self.target is None else "met" if self.value >= self.target else "not met"

    @property
    def cells(self) -> tuple[str, ...]:
        times = ", ".join(f"{name} {_shown(milliseconds)}" for name, milliseconds in self.backends.items())
        return (
            self.name,
            self.scale,
            self.library,
            _shown(self.library_milliseconds),
            times,
            f"{_shown(self.value)}×",
            "" if self.target is None else f"≥ {_shown(self.target)}×",
            self.verdict,
        )


class Row(Protocol):
    """One line of a report: a frozen dataclass with these."""

    HEADINGS: tuple[str, ...]

    @property
    def value(self) -> float | None: ...

    @property
    def verdict(self) -> str: ...

    @property
    def cells(self) -> tuple[str, ...]: ...


def publish(name: str, figures: Sequence[Row], conditions: Mapping[str, str], options: Options) -> None:
    """Print the report and write it wherever the command line says."""
    about = {**machine(), **conditions}
    if options.quick:
        about["note"] = "a quick run: these figures say nothing about speed"
    print(_as_markdown(figures, about) if options.markdown else _as_text(name, figures, about))
    if options.json is not None:
        rows = [{**asdict(figure), "value": figure.value, "verdict": figure.verdict or None} for figure in figures]
        content = {"benchmark": name, "machine": about, "figures": rows}
        options.json.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    if options.update is not None:
        _replace(options.update, name, _as_markdown(figures, about))


def _headings(figures: Sequence[Row]) -> tuple[str, ...]:
    return figures[0].HEADINGS if figures else Figure.HEADINGS


def _as_text(name: str, figures: Sequence[Row], about: Mapping[str, str]) -> str:
    headings = _headings(figures)
    rows = [headings, *(figure.cells for figure in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(headings))]
    lines = [name, *(f"  {key}: {value}" for key, value in about.items()), ""]
    for number, row in enumerate(rows):
        cells = [
            cell.ljust(width) if column == 0 else cell.rjust(width) for column, (cell, width) in _columns(row, widths)
        ]
        lines.append("  ".join(cells).rstrip())
        if number == 0:
            lines.append("  ".join("-" * width for width in widths))
    return "\n".join(lines) + "\n"


def _as_markdown(figures: Sequence[Row], about: Mapping[str, str]) -> str:
    headings = _headings(figures)
    lines = ["| " + " | ".join(headings) + " |", "|---|" + "--:|" * (len(headings) - 2) + "---|"]
    lines += ["| " + " | ".join(figure.cells) + " |" for figure in figures]
    lines += ["", "; ".join(f"{key}: {value}" for key, value in about.items()) + "."]
    return "\n".join(lines) + "\n"


def _columns(row: Sequence[str], widths: Sequence[int]) -> list[tuple[int, tuple[str, int]]]:
    return list(enumerate(zip(row, widths, strict=True)))


def _replace(path: Path, name: str, table: str) -> None:
    """Put the table between the page's markers for this benchmark."""
    page = path.read_text(encoding="utf-8")
    pattern = re.compile(rf"(<!-- results: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
    if not pattern.search(page):
        raise SystemExit(f"{path} has no place for the table: put <!-- results: {name} --> and <!-- end --> there")
    path.write_text(pattern.sub(lambda found: found[1] + table + found[2], page), encoding="utf-8")


def _shown(value: float) -> str:
    """Three significant digits, thousands separated."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 0.01 or value == 0 else f"{value:.2g}"
