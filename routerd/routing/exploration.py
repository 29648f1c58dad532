"""A bounded share of a workload's time on backends that are not predicted best, for they may have become so.

The share earns a credit; a task tried elsewhere costs the seconds that it took beyond the best prediction. So a backend that
has recovered costs nothing and is tried again at once, until its model has caught up, and one that has not is left alone
until the credit allows another look. Until its time is known a task costs what is predicted: tasks that arrive together
share one credit, and a backend that fails is not tried with every task.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from routerd.costs.choice import confidence_of
from routerd.costs.confidence import late_probability
from routerd.types import Candidate, Decision

_GAP = 20  # tasks of the workload between two looks at a backend that does not surprise
_HORIZON = 8.0  # a backend predicted slower than the best by more than this is not looked at
_SURPRISE = 0.8  # a task that took less than this share of what was predicted
_MOST_CREDIT_TASKS = 10.0  # credit never exceeds this many tasks of the workload
_SURE = 2.326  # deviations within which 99 % of tasks complete


class Explorer:
    """Which tasks are tried elsewhere. ``budget`` is the share of compute time that this may cost; 0 switches it off."""

    def __init__(self, budget: float) -> None:
        self.budget = budget
        self.explored = 0
        self._accounts: dict[str, _Account] = {}

    def pick(self, workload: str, ranking: Sequence[Candidate], deadline_seconds: float | None) -> Candidate | None:
        """The candidate to try in place of the first, if it is time for one, it is affordable, and no deadline suffers.

        It is charged for as predicted; :meth:`account` puts that right.
        """
        if self.budget <= 0.0 or len(ranking) < 2:
            return None
        account = self._accounts.setdefault(workload, _Account())
        best = ranking[0].predicted_seconds  # what is faster than that was passed over with reason
        affordable = [
            other
            for other in ranking[1:]
            if 0.0 <= other.predicted_seconds - best <= account.credit
            and other.predicted_seconds <= _HORIZON * best
            and (account.tasks - account.seen.get(other.backend, 0) >= _GAP or other.backend in account.surprising)
            and _surely_in_time(other, deadline_seconds)
        ]
        tried = min(affordable, key=lambda other: account.seen.get(other.backend, 0), default=None)
        if tried is not None:
            account.seen[tried.backend] = account.tasks
            account.surprising.discard(tried.backend)
            account.credit -= tried.predicted_seconds - best
        return tried

    def account(self, workload: str, best: Candidate, ran: Candidate, seconds: float) -> None:
        """Note that a task that was for ``best`` ran on ``ran`` and took this long there, all in all."""
        if not (0.0 < seconds < math.inf):
            return
        account = self._accounts.setdefault(workload, _Account())
        account.tasks += 1
        account.seen[ran.backend] = account.tasks
        most = _MOST_CREDIT_TASKS * best.predicted_seconds
        account.credit = min(account.credit + self.budget * seconds, most)
        if ran.backend == best.backend:
            return
        self.explored += 1
        charged = max(ran.predicted_seconds - best.predicted_seconds, 0.0)
        account.credit += charged - max(seconds - best.predicted_seconds, 0.0)
        if seconds < _SURPRISE * ran.predicted_seconds:
            account.surprising.add(ran.backend)


class _Account:
    """One workload's tasks so far, its credit in seconds, and when each backend was last seen."""

    def __init__(self) -> None:
        self.tasks = 0
        self.credit = 0.0
        self.seen: dict[str, int] = {}
        self.surprising: set[str] = set()


def tried_elsewhere(
    decision: Decision, ranking: Sequence[Candidate], tried: Candidate, deadline_seconds: float | None = None
) -> tuple[Decision, tuple[Candidate, ...]]:
    """The decision and ranking with ``tried`` first, and words that say so."""
    others = tuple(candidate for candidate in ranking if candidate is not tried)
    gain = decision.estimated_gain * decision.predicted_seconds / tried.predicted_seconds
    moved = msgspec.structs.replace(
        decision,
        primary_hardware=tried.device_kind,
        backend=tried.backend,
        confidence=confidence_of(tried, others),
        estimated_gain=gain,
        predicted_seconds=tried.predicted_seconds,
        reasoning=f"{tried.backend} is tried again, to see whether it has become faster (exploration); "
        f"otherwise: {decision.reasoning}",
        fallbacks=others,
        in_time=None if deadline_seconds is None else 1.0 - late_probability(tried, deadline_seconds),
    )
    return moved, (tried, *others)


def _surely_in_time(candidate: Candidate, deadline_seconds: float | None) -> bool:
    if deadline_seconds is None:
        return True
    late = candidate.service_seconds * math.exp(_SURE * candidate.log_sigma)
    return candidate.predicted_seconds - candidate.service_seconds + late <= deadline_seconds
