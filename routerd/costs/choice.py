"""Choosing among candidates: a pure function of predictions, policy and flags."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from msgspec import Struct

from routerd.types import Candidate

#: A HIGH priority device is taken within this factor of the best; a LOW one only when better by it.
PRIORITY_FACTOR = 1.25


class Preference(Struct, frozen=True):
    """What steers a choice: a literal list bounded by measurement, objective weights, device priorities, device watts."""

    prefer: tuple[str, ...] = ()
    unless_slower_than: float | None = None
    objective: Mapping[str, float] = {}
    priorities: Mapping[str, str] = {}
    watts: Mapping[str, float] = {}


class Choice(Struct, frozen=True):
    """Candidates in the order to try them, the probability that the first is truly fastest, and why it is first."""

    ranking: tuple[Candidate, ...]
    confidence: float
    because: str


def choose(candidates: Sequence[Candidate], preference: Preference) -> Choice:
    """Rank ``candidates`` (at least one). Ties go to the one named first alphabetically, so answers are reproducible."""
    scores = _scores(candidates, preference)
    ranking = sorted(candidates, key=lambda candidate: (scores[candidate.backend], candidate.backend))
    because = _objective_words(preference.objective)
    first = _by_priority(ranking, scores, preference.priorities)
    if first is not ranking[0]:
        because = _priority_words(first, ranking[0], preference.priorities)
    preferred = _by_literal_preference(ranking, preference)
    if preferred is not None:
        first, because = preferred, "the rule prefers it"
    ranking.remove(first)
    ranking.insert(0, first)
    return Choice(tuple(ranking), confidence_of(first, ranking[1:]), because)


def confidence_of(first: Candidate, others: Sequence[Candidate]) -> float:
    """P(first completes before each of the others) for independent log-normal times."""
    probability = 1.0
    for other in others:
        spread = math.hypot(first.log_sigma, other.log_sigma)
        distance = math.log(other.predicted_seconds / first.predicted_seconds) / spread
        probability *= 0.5 * math.erfc(-distance / math.sqrt(2.0))
    return probability


def _scores(candidates: Sequence[Candidate], preference: Preference) -> dict[str, float]:
    """Weighted sum of each objective relative to the best candidate on it; lower is better."""
    objective = preference.objective or {"latency": 1.0}
    if len(objective) == 1 and "latency" in objective:
        return {candidate.backend: candidate.predicted_seconds for candidate in candidates}
    measures = {
        "latency": [candidate.predicted_seconds for candidate in candidates],
        "throughput": [candidate.service_seconds for candidate in candidates],
        "energy": [
            candidate.service_seconds * preference.watts.get(candidate.device_kind, 1.0) for candidate in candidates
        ],
    }
    totals = [0.0] * len(candidates)
    for name, weight in objective.items():
        best = min(measures[name])
        totals = [total + weight * value / best for total, value in zip(totals, measures[name], strict=True)]
    return {candidate.backend: total for candidate, total in zip(candidates, totals, strict=True)}


def _by_priority(ranking: Sequence[Candidate], scores: Mapping[str, float], priorities: Mapping[str, str]) -> Candidate:
    """The first by score, unless a HIGH device is close behind it or it is a LOW device that is barely ahead."""
    best = ranking[0]
    for candidate in ranking:
        close = scores[candidate.backend] <= PRIORITY_FACTOR * scores[best.backend]
        if close and priorities.get(candidate.device_kind) == "HIGH":
            return candidate
    if priorities.get(best.device_kind) == "LOW":
        for candidate in ranking:
            close = scores[candidate.backend] < PRIORITY_FACTOR * scores[best.backend]
            if close and priorities.get(candidate.device_kind) != "LOW":
                return candidate
    return best


def _priority_words(taken: Candidate, passed_over: Candidate, priorities: Mapping[str, str]) -> str:
    if priorities.get(taken.device_kind) == "HIGH":
        return f"{taken.device_kind} has priority HIGH and is within {PRIORITY_FACTOR:g}x of the best"
    return f"{passed_over.device_kind} has priority LOW and is less than {PRIORITY_FACTOR:g}x better"


def _by_literal_preference(ranking: Sequence[Candidate], preference: Preference) -> Candidate | None:
    best_seconds = min(candidate.predicted_seconds for candidate in ranking)
    bound = preference.unless_slower_than
    for wanted in preference.prefer:
        for candidate in ranking:
            if wanted not in (candidate.backend, candidate.device_kind):
                continue
            if bound is None or candidate.predicted_seconds <= bound * best_seconds:
                return candidate
    return None


def _objective_words(objective: Mapping[str, float]) -> str:
    if not objective or (len(objective) == 1 and "latency" in objective):
        return "it is predicted fastest"
    return "it is best by " + " + ".join(f"{weight:g} {name}" for name, weight in objective.items())
