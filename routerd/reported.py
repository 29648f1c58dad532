"""What clients did without the daemon and told it afterwards, in batches: decisions from the table, tasks of their own."""

from __future__ import annotations

import math
from collections import Counter
from statistics import median

from routerd.interfaces import CONTRACT_BACKEND
from routerd.protocol import Report
from routerd.router import Router
from routerd.session import Session
from routerd.worker.fleet import Fleet

_MOST_COUNT = 1 << 40  # of one report: more is no count
_MOST_TOTAL = 1 << 62  # of all: more could not be told to anybody who asks


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
        """Count a report. Counts and times that cannot be are refused, one by one; the answer says how many of this report."""
        del session
        before = self.refused
        if 0 <= params.decisions <= _MOST_COUNT and self.decisions + params.decisions <= _MOST_TOTAL:
            self.decisions += params.decisions
        else:
            self.refused += 1
        moved = False
        for runs in params.runs:
            if (
                runs.workload not in self._fleet.workloads
                or not 0 <= runs.failed <= runs.count <= _MOST_COUNT
                or self.runs.total() + runs.count > _MOST_TOTAL
            ):
                self.refused += 1
                continue
            self.runs[runs.workload] += runs.count
            self.failed += runs.failed
            pair = self._fleet.backends[CONTRACT_BACKEND].pairs.get(runs.workload)
            if pair is None or not pair.model.calibrated:
                continue
            ways = []
            for work, seconds in runs.samples:
                if 0.0 < work < math.inf and 0.0 < seconds < math.inf:
                    ways.append(seconds - pair.model.predict(work).seconds)
                else:
                    self.refused += 1
            if ways:  # one step for each workload of a report, however many samples it holds
                moved |= self._router.planner.learn_in_process(median(ways))
        if moved:
            self._router.changed(minor=True)
        return {"refused": self.refused - before}
