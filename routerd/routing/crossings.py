"""Where, as work grows, another backend becomes the choice: found exactly, to neighbouring floats.

A choice can change only where the difference of two candidates' scores passes a value that a rule or a flag compares it
with. The slope of that difference over log work is bounded on every interval, so an interval whose middle is further from
zero than the bound allows holds no such place, and one on which the slope keeps its sign holds one at most (interval
bisection, Moore, Interval Analysis, 1966). Where two candidates are so nearly equal over a wide range that this would take
too long, the range is left undecided.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import combinations, pairwise
from typing import Final, NamedTuple

from routerd.costs.choice import PRIORITY_FACTOR, Preference, comparable, first_of, score
from routerd.costs.preference import latency_share
from routerd.routing.ground import Ground, Offer, predict

#: In place of a backend: nobody may run the task, or who is chosen was not worked out.
UNDECIDED: Final = ""

_RESOLUTION = 1e-6  # of log work: two changes closer together than this may be missed
_MOST_LOOKS = 400  # at one difference


def winners(ground: Ground, low: float, high: float) -> list[tuple[float, str]]:
    """Who is chosen from ``low`` up to ``high``, with the exact work from which each is, while every worker is idle."""
    places, undecided = _places(ground, math.log(low), math.log(high))
    inner = sorted({math.exp(place) for place in [*places, *(edge for range_ in undecided for edge in range_)]})
    edges = [low, *(edge for edge in inner if low < edge < high), high]
    probes = [(low, winner(ground, low))]
    holes = []
    for left, right in pairwise(edges):
        middle = math.sqrt(left * right)
        probes.append((middle, winner(ground, middle)))
        if any(start < math.log(middle) < end for start, end in undecided):
            holes.append((left, right))
    last = math.nextafter(high, 0.0)
    probes.append((last, winner(ground, last)))
    found = [(low, probes[0][1])]
    for (before, left_winner), (after, right_winner) in pairwise(probes):
        if right_winner != left_winner:
            found.append((_boundary(ground, before, after, left_winner), right_winner))
    return _without(found, holes, high)


def _without(
    found: Sequence[tuple[float, str]], holes: Sequence[tuple[float, float]], high: float
) -> list[tuple[float, str]]:
    """``found`` with the ``holes`` undecided."""
    kept: list[tuple[float, str]] = []
    starts = sorted({start for start, _backend in found} | {edge for hole in holes for edge in hole if edge < high})
    for start in starts:
        backend = [one for first, one in found if first <= start][-1]
        if any(left <= start < right for left, right in holes):
            backend = UNDECIDED
        if not kept or kept[-1][1] != backend:
            kept.append((start, backend))
    return kept


def winner(ground: Ground, work: float) -> str:
    """The backend chosen for this much work while every worker is idle; :data:`UNDECIDED` if none may run it."""
    candidates = [
        candidate
        for offer in ground.offers
        if (candidate := predict(offer, work, 0.0)).service_seconds <= offer.limit_seconds
    ]
    if not candidates:
        return UNDECIDED
    return first_of(candidates, ground.preference).backend


def _boundary(ground: Ground, before: float, after: float, left_winner: str) -> float:
    """The least float above ``before`` at which ``left_winner`` is no longer chosen."""
    while (middle := 0.5 * (before + after)) not in (before, after):
        if winner(ground, middle) == left_winner:
            before = middle
        else:
            after = middle
    return after


class _Question(NamedTuple):
    """Where is ``value`` zero? ``slopes`` bounds its derivative on an interval, ``edges`` is where pieces of curves meet."""

    value: Callable[[float], float]
    slopes: Callable[[float, float], tuple[float, float]]
    edges: Sequence[float]
    between: tuple[str, ...] = ()


def _places(ground: Ground, low: float, high: float) -> tuple[list[float], list[tuple[float, float]]]:
    """Every log work at which the choice might change, and ranges in which it might anywhere."""
    places: list[float] = []
    undecided: list[tuple[float, float]] = []
    reaches: dict[str, float] = {}
    for offer in ground.offers:
        if 0.0 < offer.limit_seconds < math.inf:
            found, left = _search(
                _Question(partial(_beyond_limit, offer), offer.curve.slopes, _edges(offer)), low, high
            )
            places += found
            undecided += left
            reaches[offer.backend] = _reach(offer, found, low, high)
    for question in _comparisons(ground):
        until = min((reaches[one] for one in question.between if one in reaches), default=high)
        found, left = _search(question, low, until)
        places += found
        undecided += left
    return places, undecided


def _search(question: _Question, low: float, high: float) -> tuple[list[float], list[tuple[float, float]]]:
    if low >= high:  # a piece of a few floats, all of which have one logarithm
        return [], []
    inner = sorted({edge for edge in question.edges if low < edge < high})
    return crossings(question.value, question.slopes, [low, *inner, high])


def _reach(offer: Offer, places: Sequence[float], low: float, high: float) -> float:
    """Beyond which log work the offer takes no work any more."""
    if _beyond_limit(offer, high) <= 0.0:
        return high
    return min(max(places, default=low) + 2.0 * _RESOLUTION, high)


def _comparisons(ground: Ground) -> Iterator[_Question]:
    preference = comparable(ground.preference, {offer.device_kind for offer in ground.offers})
    levels = [0.0]
    if any(priority in ("HIGH", "LOW") for priority in preference.priorities.values()):
        levels += [math.log(PRIORITY_FACTOR), -math.log(PRIORITY_FACTOR)]
    for one, other in combinations(ground.offers, 2):
        for level in levels:
            yield _comparison(one, other, preference, level)
        if preference.prefer and preference.unless_slower_than:
            bound = math.log(preference.unless_slower_than)
            for level in {bound, -bound}:
                yield _comparison(one, other, Preference(), level)


def _comparison(one: Offer, other: Offer, preference: Preference, level: float) -> _Question:
    latency = latency_share(preference)
    alike = latency == 0.0 and one.curve == other.curve  # the difference never changes

    def value(x: float) -> float:
        work = math.exp(x)
        return score(predict(one, work, 0.0), preference) - score(predict(other, work, 0.0), preference) - level

    def slopes(left: float, right: float) -> tuple[float, float]:
        if alike:
            return 0.0, 0.0
        one_least, one_most = _score_slopes(one, latency, left, right)
        other_least, other_most = _score_slopes(other, latency, left, right)
        return one_least - other_most, one_most - other_least

    return _Question(value, slopes, [*_edges(one), *_edges(other)], (one.backend, other.backend))


def _score_slopes(offer: Offer, latency: float, left: float, right: float) -> tuple[float, float]:
    """Bounds of a score's derivative: that of log service, less where a constant part of the time damps it."""
    least, most = offer.curve.slopes(left, right)
    constant = offer.overhead_seconds + offer.cold_seconds
    if least >= 0.0:
        ends = [offer.curve.predict(math.exp(x)).seconds for x in (left, right)]
        shares = [1.0 - latency * constant / (constant + seconds) for seconds in ends]
        return least * shares[0], most * shares[1]
    return min(least, 0.0), max(most, 0.0)


def _edges(offer: Offer) -> list[float]:
    return [knot.log_work for knot in offer.curve.knots]


def _beyond_limit(offer: Offer, x: float) -> float:
    return math.log(offer.curve.predict(math.exp(x)).seconds / offer.limit_seconds)


def crossings(
    value: Callable[[float], float], slopes: Callable[[float, float], tuple[float, float]], edges: Sequence[float]
) -> tuple[list[float], list[tuple[float, float]]]:
    """Where ``value`` is zero from the first of ``edges`` to the last, to within the resolution.

    ``slopes(left, right)`` are bounds of its derivative between the two. The second list holds ranges that were not searched
    to the end.
    """
    found: list[float] = []
    waiting = deque(pairwise(edges))
    for _look in range(_MOST_LOOKS):
        if not waiting:
            break
        left, right = waiting.popleft()
        half = 0.5 * (right - left)
        middle = left + half
        least, most = slopes(left, right)
        bound = max(-least, most, 0.0) * half * (1.0 + 1e-9)
        if bound == 0.0 or abs(value(middle)) > bound:
            continue
        if half < _RESOLUTION:
            found.append(middle)
        elif least > 0.0 or most < 0.0:
            found += _only_crossing(value, left, right)
        else:
            waiting += [(left, middle), (middle, right)]
    return found, list(waiting)


def _only_crossing(value: Callable[[float], float], left: float, right: float) -> list[float]:
    """Where a monotone ``value`` is zero, if it is."""
    at_left = value(left)
    if at_left * value(right) > 0.0:
        return []
    while right - left > _RESOLUTION:
        middle = 0.5 * (left + right)
        if value(middle) * at_left > 0.0:
            left = middle
        else:
            right = middle
    return [0.5 * (left + right)]
