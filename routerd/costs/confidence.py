"""How likely it is that one candidate comes before others, given what is predicted of each.

A candidate completes after a certain time (queue, way, cold start) and an uncertain one, its service, which is log-normal
about the prediction and independent of that of the others. All comparisons share the first one's own error; so the
probability is not a product over pairs, but the integral of such a product over that error.

The integral is taken by Gauss–Legendre quadrature on the pieces between which it bends. Gauss–Hermite quadrature over the
whole line, the usual choice, misses by up to 0.13 where a rival's error is far smaller than the first one's: the product
then falls like a step. Before the first rival can come ahead it is 1, after the last can stay behind 0, and neither part
needs a node.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

from routerd.types import Candidate

#: Nodes and weights of Gauss–Legendre quadrature of order 10 on [−1, 1]: Abramowitz and Stegun, Handbook of Mathematical
#: Functions, table 25.4.
_HALF: Final = (
    (0.148874338981631, 0.295524224714753),
    (0.433395394129247, 0.269266719309996),
    (0.679409568299024, 0.219086362515982),
    (0.865063366688985, 0.149451349150581),
    (0.973906528517172, 0.066671344308688),
)
_NODES: Final = tuple((sign * node, weight) for node, weight in _HALF for sign in (-1.0, 1.0))

_REACH = 3.5  # deviations within which a rival's error is followed: beyond are 0.02 % on either side
_LIMIT = 4.2  # and the first one's: 0.001 %
_NEGLIGIBLE = 1e-4
_LEAST_SIGMA = 1e-6  # a prediction that claims to be exact would make a density infinite
_NEWTON_STEPS = 6
_INVERSE_ROOT_2: Final = math.sqrt(0.5)
_DENSITY: Final = 1.0 / math.sqrt(2.0 * math.pi)


class Measure(NamedTuple):
    """What a candidate is compared by: ``scale · (certain + s)**weight · s**(1 − weight)`` for its service seconds s.

    Weight 1 is the time until it completes or, with nothing certain, that the device is busy; a smaller one, above 0, goes with
    something certain. ``mean`` and ``sigma`` are those of log s.
    """

    certain: float
    mean: float
    sigma: float
    weight: float = 1.0
    scale: float = 1.0

    def at(self, seconds: float) -> float:
        """Its value for these service seconds."""
        if self.weight == 1.0:
            return self.scale * (self.certain + seconds)
        return self.scale * math.pow(self.certain + seconds, self.weight) * math.pow(seconds, 1.0 - self.weight)

    def service(self, value: float) -> float:
        """The service seconds for which it has this value; 0 where it never is so low."""
        value /= self.scale
        if self.weight == 1.0:
            return max(value - self.certain, 0.0)
        # Newton's method for log s, from above; the logarithm of the measure is convex in it, so no step passes the root.
        wanted, weight, certain = math.log(value), self.weight, self.certain
        root = min(wanted, (wanted - weight * math.log(certain)) / (1.0 - weight))
        for _step in range(_NEWTON_STEPS):
            seconds = math.exp(root)
            excess = weight * math.log(certain + seconds) + (1.0 - weight) * root - wanted
            if excess < 1e-6:
                break
            root -= excess / (weight * seconds / (certain + seconds) + 1.0 - weight)
        return math.exp(root)


class Duel(NamedTuple):
    """One rival: it stays behind while its measure is above the first one's own.

    Beyond ``bend`` (service seconds of the rival) it is not its measure that counts but a deadline: it stays behind at least
    as likely as it is later than that; or, where ``ceiling`` is set, at most. It has to stay behind in ``also`` as well.
    """

    own: Measure
    rival: Measure
    bend: float | None = None
    ceiling: bool = False
    also: Duel | None = None


def completion(candidate: Candidate) -> Measure:
    """The time until the candidate has completed."""
    certain = max(candidate.predicted_seconds - candidate.service_seconds, 0.0)
    return Measure(certain, math.log(candidate.service_seconds), max(candidate.log_sigma, _LEAST_SIGMA))


def confidence_of(first: Candidate, others: Sequence[Candidate]) -> float:
    """P(``first`` completes before each of ``others``); 1 where there are none."""
    own = completion(first)
    return win_probability([Duel(own, completion(other)) for other in others])


def late_probability(candidate: Candidate, deadline_seconds: float) -> float:
    """P(the candidate completes after the deadline): its log-normal service takes longer than its certain times leave."""
    measure = completion(candidate)
    return _above(measure, measure.service(deadline_seconds))


def win_probability(duels: Sequence[Duel], low: float = -math.inf, high: float = math.inf) -> float:
    """P(every rival stays behind, and the first one's own error is between ``low`` and ``high`` deviations)."""
    if not duels:
        return _normal(high) - _normal(low)
    mean, sigma = duels[0].own.mean, duels[0].own.sigma
    settled = math.inf  # up to here nobody can come ahead
    bends: list[float] = []
    for duel in (part for each in duels for part in (each, each.also) if part is not None):
        rival, bend = duel.rival, duel.bend
        middle, spread = math.exp(rival.mean), math.exp(_REACH * rival.sigma)
        start, end = _own_error(duel, middle / spread), _own_error(duel, middle * spread)
        settled = min(settled, low if duel.ceiling else start)
        bends.append(start)
        if bend is None:
            high = min(high, end)
            continue
        bends += (end, _own_error(duel, bend))
        if duel.ceiling or _above(rival, bend) < _NEGLIGIBLE:
            high = min(high, end)
    start, stop = max(settled, low, -_LIMIT), min(high, _LIMIT)
    if start >= stop:
        return max(_normal(high) - _normal(low), 0.0)
    total = _normal(start) - _normal(low)
    chances = [_chance(duel) for duel in duels]
    edges = [start, *sorted({bend for bend in bends if start < bend < stop}), stop]
    for left, right in pairwise(edges):
        half, middle = 0.5 * (right - left), 0.5 * (right + left)
        for node, weight in _NODES:
            error = middle + half * node
            seconds = math.exp(mean + sigma * error)
            product = weight * half * _DENSITY * math.exp(-0.5 * error * error)
            for chance in chances:
                product *= chance(seconds)
            total += product
    return min(total, 1.0)


def _own_error(duel: Duel, rival_seconds: float) -> float:
    """The first one's error, in deviations, with which it is level with a rival whose service takes this long."""
    own = duel.own
    seconds = own.service(duel.rival.at(rival_seconds)) if rival_seconds > 0.0 else 0.0
    return (math.log(seconds) - own.mean) / own.sigma if seconds > 0.0 else -math.inf


def _chance(duel: Duel) -> Callable[[float], float]:
    """P(the rival stays behind) as a function of the first one's service seconds."""
    own, rival = duel.own, duel.rival
    if duel.also is not None:
        one, other = _chance(duel._replace(also=None)), _chance(duel.also)
        return lambda seconds: min(one(seconds), other(seconds))
    if duel.bend is not None:
        late, bounded = _above(rival, duel.bend), min if duel.ceiling else max
        return lambda seconds: bounded(_above(rival, rival.service(own.at(seconds))), late)
    if own.weight != 1.0 or rival.weight != 1.0:
        return lambda seconds: _above(rival, rival.service(own.at(seconds)))
    # The usual case, written out: this runs ten times and more for every decision.
    factor, lead = own.scale / rival.scale, own.scale / rival.scale * own.certain - rival.certain
    mean, steepness = rival.mean, _INVERSE_ROOT_2 / rival.sigma

    def chance(seconds: float) -> float:
        left = factor * seconds + lead
        return 0.5 * math.erfc((math.log(left) - mean) * steepness) if left > 0.0 else 1.0

    return chance


def _above(measure: Measure, seconds: float) -> float:
    """P(its service takes longer than this)."""
    if seconds <= 0.0:
        return 1.0
    return 0.5 * math.erfc((math.log(seconds) - measure.mean) / measure.sigma * _INVERSE_ROOT_2)


def _normal(deviations: float) -> float:
    """The standard normal distribution function."""
    return 0.5 * math.erfc(-deviations * _INVERSE_ROOT_2)
