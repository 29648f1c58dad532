"""What a client does without the daemon: decide from the table, run tiny work itself, and report both in batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any

import numpy as np

from routerd.client.local import LocalWork
from routerd.client.result import TaskResult
from routerd.client.table import Table, View
from routerd.protocol import Report
from routerd.routing.slots import SlotReader
from routerd.types import Decision

_REPORT_SECONDS = 1.0
_REPORT_RUNS = 4096

#: Asks the daemon where an entry is, if it is time to.
Locate = Callable[[View], None]


class Shortcut:
    """One connection's table and local work."""

    def __init__(self, reader: SlotReader) -> None:
        self.table = Table(reader)
        self.local = LocalWork(self.table)
        self._reported_at = monotonic()

    def close(self) -> None:
        """Answer nothing any more."""
        self.table.close()

    def decide(self, workload: str, arguments: Mapping[str, Any], locate: Locate) -> Decision | None:
        """The decision from the table; ``None``: ask the daemon. Raises the ``BadRequest`` kinds."""
        question = self.table.question(workload, arguments)
        if question is None:
            return None
        view = self.table.view(workload)
        locate(view)
        return view.by_question(question)

    def run(
        self,
        workload: str,
        params: Mapping[str, Any],
        arrays: Mapping[str, np.ndarray[Any, Any]],
        locate: Locate,
    ) -> TaskResult | None:
        """The result, if it is for the caller to compute; ``None``: it is the daemon's."""
        view = self.local.view(workload)
        if view is None:
            return None
        locate(view)
        return self.local.run(view, params, arrays)

    @property
    def is_due(self) -> bool:
        """Whether there is something to report, and it is time to."""
        return monotonic() - self._reported_at >= _REPORT_SECONDS or self.local.count >= _REPORT_RUNS

    def take_report(self) -> Report | None:
        """What was done since the last report, if anything."""
        self._reported_at = monotonic()
        report = Report(self.table.take_decisions(), self.local.take_runs())
        return report if report.decisions or report.runs else None
