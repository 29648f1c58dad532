"""What clients did without the daemon and told it afterwards, in batches: decisions from the table, tasks of their own."""

from __future__ import annotations

import math
from collections import Counter

from routerd.interfaces import CONTRACT_BACKEND
from routerd.protocol import Report
from routerd.router import Router
from routerd.session import Session
from routerd.worker.fleet import Fleet

_MOST_COUNT = 1 << 40  # of one report: more is no count


class ReportedWork:
    """Counters of what clients report; the times they report correct what work in the caller is predicted to take."""

    def __init__(self, router: Router, fleet: Fleet) -> None:
        self._router = router
        self._fleet = fleet
        self.decisions = 0
        self.runs: Counter[str] = Counter()
        self.failed = 0
        self.refused = 0

    def report(self, session: Session, params: Report) -> dict[str, int]:
        """Count a report. Counts and times that cannot be are refused, one by one, and counted as that."""
        del session
        if 0 <= params.decisions <= _MOST_COUNT:
            self.decisions += params.decisions
        else:
            self.refused += 1
        moved = False
        for runs in params.runs:
            if runs.workload not in self._fleet.workloads or not 0 <= runs.failed <= runs.count <= _MOST_COUNT:
                self.refused += 1
                continue
            self.runs[runs.workload] += runs.count
            self.failed += runs.failed
            pair = self._fleet.backends[CONTRACT_BACKEND].pairs.get(runs.workload)
            if pair is None or not pair.model.calibrated:
                continue
            for work, seconds in runs.samples:
                if not (0.0 < work < math.inf and 0.0 < seconds < math.inf):
                    self.refused += 1
                    continue
                moved |= self._router.planner.learn_in_process(seconds - pair.model.predict(work).seconds)
        if moved:
            self._router.changed(minor=True)
        return {"refused": self.refused}
