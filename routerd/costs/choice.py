"""Choosing among candidates: a pure function of predictions, policy and flags."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct

from routerd.costs.confidence import confidence_of, late_probability
from routerd.costs.preference import PRIORITY_FACTOR, Preference, comparable, is_latency, score
from routerd.costs.standing import choice_confidence
from routerd.types import Candidate

__all__ = [
    "IN_TIME",
    "PRIORITY_FACTOR",
    "Choice",
    "Preference",
    "choose",
    "comparable",
    "confidence_of",
    "first_of",
    "score",
]

#: With this probability a candidate has to meet a deadline to count as in time.
IN_TIME: Final = 0.95


class Choice(Struct, frozen=True):
    """Candidates in the order to try them, and why the first is first.

    ``confidence`` is the probability that the same rules would put it first if they knew the true times; ``in_time`` that it
    completes within the deadline, where there is one.
    """

    ranking: tuple[Candidate, ...]
    confidence: float
    because: str
    in_time: float | None = None


def choose(candidates: Sequence[Candidate], preference: Preference) -> Choice:
    """Rank ``candidates`` (at least one). Ties go to the one named first alphabetically, so answers are reproducible.

    The first of the list ``prefer`` that is not slower than its bound allows comes first; failing that, the best by objective,
    unless a priority passes it over. With a deadline, that holds among the candidates that meet it with probability
    :data:`IN_TIME`; if there is none, the likeliest to meet it comes first, and the rest follow in that order in any case.
    """
    preference, note = _with_fair_watts(candidates, preference)
    ranking, because, in_time = _ranked(candidates, preference, note)
    return Choice(tuple(ranking), choice_confidence(ranking, preference), because, in_time)


def first_of(candidates: Sequence[Candidate], preference: Preference) -> Candidate:
    """The one that :func:`choose` puts first, without its confidence, which takes longer to work out."""
    preference, note = _with_fair_watts(candidates, preference)
    return _ranked(candidates, preference, note)[0][0]


# -- who is first -----------------------------------------------------------------------------------------------------


def _ranked(
    candidates: Sequence[Candidate], preference: Preference, note: str
) -> tuple[list[Candidate], str, float | None]:
    """The ranking, why its first is first, and how likely that one is in time."""
    costs = {candidate.backend: _cost(candidate, preference) for candidate in candidates}
    ranking = sorted(candidates, key=lambda candidate: (costs[candidate.backend], candidate.backend))
    in_time = None
    if preference.deadline_seconds is None:
        first, because = _first(ranking, ranking, costs, preference, note)
    else:
        ranking, first, because, in_time = _in_time(ranking, costs, preference, preference.deadline_seconds, note)
    if first is not ranking[0]:
        ranking.remove(first)
        ranking.insert(0, first)
    return ranking, because, in_time


def _cost(candidate: Candidate, preference: Preference) -> float:
    """The score, not as a logarithm: predicted seconds exactly where latency is all that counts."""
    if is_latency(preference.objective):
        return candidate.predicted_seconds
    return math.exp(score(candidate, preference))


def _first(
    pool: Sequence[Candidate],
    everybody: Sequence[Candidate],
    costs: Mapping[str, float],
    preference: Preference,
    note: str,
) -> tuple[Candidate, str]:
    """The first of ``pool``, which is in the order of ``costs``, and why."""
    preferred = _by_literal_preference(pool, everybody, preference)
    if preferred is not None:
        return preferred, "the rule prefers it"
    first = _by_priority(pool, costs, preference.priorities)
    if first is not pool[0]:
        return first, _priority_words(first, pool[0], preference.priorities)
    return first, _objective_words(preference.objective) + note


def _in_time(
    ranking: list[Candidate], costs: Mapping[str, float], preference: Preference, deadline: float, note: str
) -> tuple[list[Candidate], Candidate, str, float]:
    """The same with a deadline: the ranking, its first, why, and how likely it is in time."""
    chances = {candidate.backend: 1.0 - late_probability(candidate, deadline) for candidate in ranking}
    timely = [candidate for candidate in ranking if chances[candidate.backend] >= IN_TIME]
    late = [candidate for candidate in ranking if chances[candidate.backend] < IN_TIME]
    late.sort(key=lambda candidate: -chances[candidate.backend])
    words = f"to meet the deadline of {deadline * 1000.0:g} ms"
    if not timely:
        because = f"nothing is {_percent(IN_TIME)} sure {words} and it is the likeliest ({_percent(chances[late[0].backend])})"
        return late, late[0], because, chances[late[0].backend]
    first, because = _first(timely, ranking, costs, preference, note)
    chance = chances[first.backend]
    passed_over, _ = _first(ranking, ranking, costs, preference, note)
    if passed_over is first:
        because = f"{because}, and {_percent(chance)} sure {words}"
    else:
        unsure = _percent(chances[passed_over.backend])
        because = f"{passed_over.backend} is only {unsure} sure {words}; of those that are sure enough, {because}"
    return timely + late, first, because, chance


def _by_priority(pool: Sequence[Candidate], costs: Mapping[str, float], priorities: Mapping[str, str]) -> Candidate:
    """The best, unless a HIGH device is close behind it or it is a LOW device that is barely ahead."""
    best = pool[0]
    for candidate in pool:
        close = costs[candidate.backend] <= PRIORITY_FACTOR * costs[best.backend]
        if close and priorities.get(candidate.device_kind) == "HIGH":
            return candidate
    if priorities.get(best.device_kind) == "LOW":
        for candidate in pool:
            close = costs[candidate.backend] < PRIORITY_FACTOR * costs[best.backend]
            if close and priorities.get(candidate.device_kind) != "LOW":
                return candidate
    return best


def _by_literal_preference(
    pool: Sequence[Candidate], everybody: Sequence[Candidate], preference: Preference
) -> Candidate | None:
    best_seconds = min(candidate.predicted_seconds for candidate in everybody)
    bound = preference.unless_slower_than
    for wanted in preference.prefer:
        for candidate in pool:
            if wanted not in (candidate.backend, candidate.device_kind):
                continue
            if bound is None or candidate.predicted_seconds <= bound * best_seconds:
                return candidate
    return None


# -- words ------------------------------------------------------------------------------------------------------------


def _with_fair_watts(candidates: Sequence[Candidate], preference: Preference) -> tuple[Preference, str]:
    """The preference with watts for all candidates or for none, and a note on which."""
    if "energy" not in preference.objective:
        return preference, ""
    kinds = sorted({candidate.device_kind for candidate in candidates})
    unknown = [kind for kind in kinds if kind not in preference.watts]
    if unknown:
        return comparable(preference, kinds), f" (watts unknown for {', '.join(unknown)}: energy counts device time)"
    return preference, f" (watts from {preference.watts_from})" if preference.watts_from else ""


def _priority_words(taken: Candidate, passed_over: Candidate, priorities: Mapping[str, str]) -> str:
    if priorities.get(taken.device_kind) == "HIGH":
        return f"{taken.device_kind} has priority HIGH and is within {PRIORITY_FACTOR:g}x of the best"
    return f"{passed_over.device_kind} has priority LOW and is less than {PRIORITY_FACTOR:g}x better"


def _objective_words(objective: Mapping[str, float]) -> str:
    if is_latency(objective):
        return "it is predicted fastest"
    return "it is best by " + " + ".join(f"{weight:g} {name}" for name, weight in objective.items())


def _percent(probability: float) -> str:
    """Rounded down, so that 100% is certain and nothing just below a threshold reads as if it reached it."""
    return f"{math.floor(1000.0 * probability) / 10.0:g}%"
