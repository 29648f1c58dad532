"""The product's own routing, outside the daemon: everything that the simulator uses of it passes through here.

What a daemon learns of a machine is a cost model for each pair of backend and workload. They are calibrated, asked and
corrected as the daemon does it. There is no policy, no queue and no tolerance, so each choice is the models' own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from routerd.costs.choice import Preference
from routerd.costs.model import CostModel, Point
from routerd.costs.timing import Request, Timed, drive, sizes
from routerd.interfaces import CONTRACT_BACKEND
from routerd.routing.exploration import Explorer, tried_elsewhere
from routerd.routing.ground import Ground, Offer, decide
from routerd.simulation.world import WorldBackend
from routerd.types import Candidate, Decision

_REPETITIONS = 7  # timed at each size
_RUN_SECONDS = 0.2  # the longest run that a calibration makes

#: ``measure(work)``: one timed run of about that much work, in seconds.
Measure = Callable[[float], float]


class Learner:
    """What a daemon knows of the workloads that it has calibrated.

    ``exploration_budget`` is the share of time that it spends on trying again what it does not think best.
    """

    def __init__(self, exploration_budget: float = 0.0) -> None:
        self._pairs: dict[str, dict[str, _Pair]] = {}
        self._explorer = Explorer(exploration_budget)

    def calibrate(self, workload: str, backend: WorldBackend, points: Sequence[Point]) -> None:
        """Take over what :func:`calibration` measured of a pair, and offer the backend for the workload from now on."""
        pairs = self._pairs.setdefault(workload, {})
        pair = pairs.setdefault(backend.name, _Pair(backend, CostModel()))
        pair.model.calibrate(points)

    def decide(self, workload: str, work: float, number: int) -> Routed:
        """The decision about task ``number``, and the candidates in the order to try them."""
        offers = tuple(pair.offer(position) for position, pair in enumerate(self._pairs[workload].values()))
        ground = Ground(
            workload=workload,
            tolerance=math.inf,
            offers=offers,
            rejected=(),
            contract=next((offer for offer in offers if offer.backend == CONTRACT_BACKEND), None),
            preference=Preference(),
            rule="simulation",
            policy_digest="",
            generation=0,
        )
        return Routed(*decide(ground, work, str(number)), explored=False)

    def explore(self, routed: Routed) -> Routed:
        """The same, or the task sent elsewhere, where that is due and within the budget."""
        tried = self._explorer.pick(routed.decision.workload, routed.ranking, None)
        if tried is None:
            return routed
        return Routed(*tried_elsewhere(routed.decision, routed.ranking, tried), explored=True)

    def observe(self, routed: Routed, service_seconds: float) -> None:
        """Learn how long the task took on the backend that it was sent to."""
        ran, workload = routed.ranking[0], routed.decision.workload
        best = min(routed.ranking, key=lambda one: one.predicted_seconds)
        self._explorer.account(workload, best, ran, ran.transfer_seconds + service_seconds)
        self._pairs[workload][ran.backend].model.observe(routed.decision.work, service_seconds)


class Routed(NamedTuple):
    """A decision, the candidates with the one that runs the task first, and whether it is there to be tried again."""

    decision: Decision
    ranking: tuple[Candidate, ...]
    explored: bool


class _Pair(NamedTuple):
    backend: WorldBackend
    model: CostModel

    def offer(self, worker: int) -> Offer:
        return Offer(
            backend=self.backend.name,
            device_kind=self.backend.device_kind,
            curve=self.model.curve,
            overhead_seconds=self.backend.overhead_seconds,
            error=0.0,
            worker=worker,
        )


def calibration(measure: Measure, low: float, high: float) -> list[Point]:
    """What a calibration from ``low`` to ``high`` work finds, the same series of sizes that the daemon times."""

    def timed(request: Request) -> Timed:
        return Timed(request.work, [measure(request.work) for _repetition in range(_REPETITIONS)])

    return drive(sizes((low, high), _RUN_SECONDS), timed)
