"""The demo's routing table: one row for each job and backend, with the reason beneath it, under the engine that asks."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from engines.jobs.job import Outcome
from routerd.client import TaskResult
from routerd.routing.reasoning import duration

_HEADINGS = ("workload", "work", "hardware", "backend", "predicted", "measured", "gain", "confidence")
_RIGHT = frozenset({"predicted", "measured", "gain", "confidence"})
_GAP = 2
_SHORT_UNITS = {"floating-point operations": "flop"}


@dataclass(frozen=True)
class Row:
    """Tasks of one job that one backend ran: their times are summed, their confidence is the lowest."""

    engine: str
    title: str
    workload: str
    work: str
    hardware: str
    backend: str
    predicted_seconds: float
    measured_seconds: float
    gain: float
    confidence: float
    why: str

    def cells(self) -> tuple[str, ...]:
        return (
            self.workload,
            self.work,
            self.hardware,
            self.backend,
            duration(self.predicted_seconds),
            duration(self.measured_seconds),
            f"{self.gain:.2f}×",
            f"{self.confidence:.2f}",
        )


def rows_of(outcome: Outcome, work_unit: str) -> list[Row]:
    """The rows of a job: one, or one for each backend where its tasks went to several."""
    by_backend: dict[tuple[str, str], list[TaskResult]] = {}
    for result in outcome.results.values():
        by_backend.setdefault((result.ran_on.device_kind, result.ran_on.backend), []).append(result)
    return [_row(outcome, work_unit, hardware, backend, results) for (hardware, backend), results in by_backend.items()]


def _row(outcome: Outcome, work_unit: str, hardware: str, backend: str, results: Sequence[TaskResult]) -> Row:
    decisions = [result.decision for result in results]
    largest = max(results, key=lambda result: result.decision.predicted_seconds)
    predicted = sum(decision.predicted_seconds for decision in decisions)
    on_contract = sum(decision.estimated_gain * decision.predicted_seconds for decision in decisions)
    total = quantity(sum(decision.work for decision in decisions))
    why = largest.decision.reasoning.removeprefix(f"{backend}: ")  # the row names it already
    if len(results) > 1:
        why = f"longest of {len(results)}: {why}"
    if largest.fallback_reason is not None:
        why = f"planned on {largest.planned.backend}, but {largest.fallback_reason}; {why}"
    unit = work_unit.partition(" (")[0]
    return Row(
        outcome.job.engine,
        outcome.job.title,
        outcome.job.workload,
        f"{total} {_SHORT_UNITS.get(unit, unit)}",
        hardware,
        backend,
        predicted,
        sum(result.timing.total_seconds for result in results),
        on_contract / predicted,
        min(decision.confidence for decision in decisions),
        why,
    )


class RoutingTable:
    """Rows whose columns line up, under the engine that asks, each followed by what it is and why it ran there, at whatever width there is."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._rows = list(rows)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = [_HEADINGS, *(row.cells() for row in self._rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        fits = sum(widths) + _GAP * (len(widths) - 1) <= options.max_width
        parts = [slice(None)] if fits else [slice(2), slice(2, None)]  # a narrow terminal gets each row in two lines
        yield from (_line(part, _HEADINGS, widths, "bold") for part in parts)
        yield Rule(style="dim")
        engine = ""
        for row in self._rows:
            if row.engine != engine:
                engine = row.engine
                yield Text(engine, style="bold")
            yield from (_line(part, row.cells(), widths, "") for part in parts)
            yield Text(_indented(row.title, options.max_width))
            yield Text(_indented(f"why: {row.why}", options.max_width), style="dim")


def _line(part: slice, cells: Sequence[str], widths: Sequence[int], style: str) -> Table:
    line = Table.grid(padding=(0, _GAP, 0, 0), pad_edge=False)
    for heading, width in zip(_HEADINGS[part], widths[part], strict=True):
        line.add_column(justify="right" if heading in _RIGHT else "left", width=width, overflow="fold", style=style)
    line.add_row(*map(Text, cells[part]))
    return line


def _indented(text: str, width: int) -> str:
    return textwrap.fill(text, width, initial_indent="    ", subsequent_indent="    ")


def quantity(number: float) -> str:
    """``12,154``, and ``1.7e10`` from ten million on."""
    return f"{number:,.0f}" if number < 1e7 else f"{number:.2g}".replace("e+0", "e").replace("e+", "e")
