"""Seconds as a function of work: a frozen curve that the daemon and its clients evaluate with the same code.

Between the knots it is a monotone cubic in log-log space (Fritsch and Butland, SIAM J. Sci. Stat. Comput. 5, 1984), so that
the bend from launch cost to proportional growth is followed and no wiggle is invented. ``log_sigma`` is the standard
deviation of the natural logarithm of a prediction.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise

from msgspec import Struct

from routerd.types import Prediction

#: A pair that was never timed: a nominal launch cost and rate, with an uncertainty that says it is a guess.
PRIOR_SECONDS = 50e-6
PRIOR_SECONDS_PER_WORK = 2e-9
PRIOR_LOG_SIGMA = 1.5

#: With fewer timed sizes than this a prediction says so, and is less sure of itself.
ENOUGH_SIZES = 3

_FLOOR_LOG_SIGMA = 0.03  # no prediction on a shared machine is better than about 3 %
_EXTRAPOLATION_LOG_SIGMA = 0.25  # added for every factor e outside the calibrated range
_FEW_POINTS_LOG_SIGMA = {1: 0.5, 2: 0.2}  # one timed size says nothing of the slope, two little
_BEND_LOG_SIGMA = 0.03  # of the rise that a bend between two knots could hide
_LEAST_SLOPE, _GREATEST_SLOPE = 0.8, 1.1  # work is chosen so that cost grows about in proportion to it
_LEAST_WORK, _MOST_WORK = 1e-60, 1e60  # beyond, exponentials of what is predicted have no place in a float


class Knot(Struct, frozen=True, array_like=True):
    """A size with its log seconds and their deviation, and the cubic from here to the next knot.

    The cubic is ``log_seconds + s·(slope + s·(second + s·third))`` with ``s`` the distance in log work. ``bend`` is the
    deviation that interpolation adds in the middle of the piece.
    """

    log_work: float
    log_seconds: float
    log_sigma: float
    slope: float = 0.0
    second: float = 0.0
    third: float = 0.0
    bend: float = 0.0


class Curve(Struct, frozen=True, array_like=True):
    """Predicted seconds over work. Without knots it is the prior, scaled by ``shift``, as uncertain as ``spread``.

    Below the first knot seconds are ``launch + rate·work`` (proportional where ``launch`` is not positive); beyond the last
    they grow as ``work**tail``.
    """

    knots: tuple[Knot, ...] = ()
    launch: float = 0.0
    rate: float = 0.0
    tail: float = 1.0
    shift: float = 0.0
    spread: float = PRIOR_LOG_SIGMA

    @property
    def timed(self) -> bool:
        """Whether it rests on measurements of sizes rather than on the prior."""
        return bool(self.knots)

    def reaches(self, work: float) -> bool:
        """Whether work lies within twice the timed range; beyond it a prediction is extrapolated."""
        if not self.knots:
            return False
        first, last = self.knots[0].log_work, self.knots[-1].log_work
        return first - math.log(2.0) <= math.log(max(work, _LEAST_WORK)) <= last + math.log(2.0)

    def predict(self, work: float) -> Prediction:
        """Seconds for this much work and their log deviation, which grows with the distance from what was timed."""
        knots = self.knots
        if not knots:
            seconds = (PRIOR_SECONDS + PRIOR_SECONDS_PER_WORK * work) * math.exp(self.shift)
            return Prediction(seconds, self.spread)
        x = math.log(min(max(work, _LEAST_WORK), _MOST_WORK))
        if x < knots[0].log_work:
            return self._below(work, x)
        index = bisect_right(knots, x, key=_log_work) - 1
        knot = knots[index]
        s = x - knot.log_work
        if index == len(knots) - 1:
            return Prediction(math.exp(knot.log_seconds + self.tail * s), knot.log_sigma + _EXTRAPOLATION_LOG_SIGMA * s)
        y = knot.log_seconds + s * (knot.slope + s * (knot.second + s * knot.third))
        after = knots[index + 1]
        t = s / (after.log_work - knot.log_work)
        sigma = knot.log_sigma + t * (after.log_sigma - knot.log_sigma) + 4.0 * t * (1.0 - t) * knot.bend
        return Prediction(math.exp(y), sigma)

    def slopes(self, left: float, right: float) -> tuple[float, float]:
        """Bounds of the derivative of log seconds by log work between two log works: the least and the greatest."""
        knots = self.knots
        if not knots:
            return 0.0, 1.0
        least = knots[0].log_work
        ends = [self._slope_below(min(x, least)) for x in (left, right)] if left < least else []
        if right <= least:
            return min(ends, default=0.0), max(ends, default=1.0)
        if right > knots[-1].log_work:
            ends += [self.tail]
        first = max(bisect_right(knots, left, key=_log_work) - 1, 0)
        for knot, after in pairwise(knots[first:]):
            if knot.log_work >= right:
                break
            start = max(left - knot.log_work, 0.0)
            end = min(right, after.log_work) - knot.log_work
            places = [start, end]
            if knot.third and start < (turn := -knot.second / (3.0 * knot.third)) < end:
                places.append(turn)
            ends += [knot.slope + s * (2.0 * knot.second + s * 3.0 * knot.third) for s in places]
        return min(ends), max(ends)

    def _slope_below(self, x: float) -> float:
        """The derivative below the first knot, which grows with work."""
        grown = self.rate * math.exp(x)
        return grown / (self.launch + grown) if self.launch > 0.0 else 1.0

    def _below(self, work: float, x: float) -> Prediction:
        first = self.knots[0]
        distance = first.log_work - x
        sigma = first.log_sigma + _EXTRAPOLATION_LOG_SIGMA * distance
        if self.launch > 0.0:
            return Prediction(self.launch + self.rate * work, sigma)
        return Prediction(math.exp(first.log_seconds - distance), sigma)


def prior_curve(shift: float = 0.0, spread: float = PRIOR_LOG_SIGMA) -> Curve:
    """A pair that was never timed, scaled by what was seen of it since."""
    return Curve(shift=shift, spread=spread)


def curve_through(works: Sequence[float], seconds: Sequence[float], sigmas: Sequence[float]) -> Curve:
    """A curve through timed sizes: ascending work, seconds at each, and the log deviation of each. At least one."""
    xs = [math.log(work) for work in works]
    ys = [math.log(value) for value in seconds]
    extra = _FEW_POINTS_LOG_SIGMA.get(len(xs), 0.0)
    spreads = [max(math.hypot(sigma, extra), _FLOOR_LOG_SIGMA) for sigma in sigmas]
    if len(xs) == 1:
        # Below the one size the time stays, above it it grows in proportion.
        return Curve((Knot(xs[0], ys[0], spreads[0]),), launch=seconds[0])
    secants = [(y1 - y0) / (x1 - x0) for x0, x1, y0, y1 in zip(xs, xs[1:], ys, ys[1:], strict=False)]
    slopes = _slopes(xs, secants)
    knots = [
        _knot(xs, ys, spreads, secants, slopes, index) for index in range(len(xs) - 1)
    ] + [Knot(xs[-1], ys[-1], spreads[-1])]  # fmt: skip
    rate = max((seconds[1] - seconds[0]) / (works[1] - works[0]), 0.0)
    tail = min(max(secants[-1], _LEAST_SLOPE), _GREATEST_SLOPE)
    return Curve(tuple(knots), seconds[0] - rate * works[0], rate, tail)


def _slopes(xs: Sequence[float], secants: Sequence[float]) -> list[float]:
    """Derivatives at the knots that keep every piece monotone."""
    inner = []
    for index in range(1, len(xs) - 1):
        left, right = secants[index - 1], secants[index]
        if left * right <= 0.0:
            inner.append(0.0)
            continue
        h0, h1 = xs[index] - xs[index - 1], xs[index + 1] - xs[index]
        w0, w1 = 2.0 * h1 + h0, h1 + 2.0 * h0
        inner.append((w0 + w1) / (w0 / left + w1 / right))
    first = _end_slope(secants[0], inner[0] if inner else secants[0])
    last = _end_slope(secants[-1], inner[-1] if inner else secants[-1])
    return [first, *inner, last]


def _end_slope(secant: float, inner: float) -> float:
    """The slope at an end for which the piece does not curve there, within the bounds of monotony."""
    natural = (3.0 * secant - inner) / 2.0
    low, high = sorted((0.0, 3.0 * secant))
    return min(max(natural, low), high)


def _knot(
    xs: Sequence[float],
    ys: Sequence[float],
    sigmas: Sequence[float],
    secants: Sequence[float],
    slopes: Sequence[float],
    index: int,
) -> Knot:
    h = xs[index + 1] - xs[index]
    secant, m0, m1 = secants[index], slopes[index], slopes[index + 1]
    second = (3.0 * secant - 2.0 * m0 - m1) / h
    third = (m0 + m1 - 2.0 * secant) / h**2
    neighbours = [secants[other] for other in (index - 1, index, index + 1) if 0 <= other < len(secants)]
    bend = min(
        _BEND_LOG_SIGMA * h * (max(neighbours) - min(neighbours)), PRIOR_LOG_SIGMA
    )  # two sizes may be almost one
    return Knot(xs[index], ys[index], sigmas[index], m0, second, third, bend)


def _log_work(knot: Knot) -> float:
    return knot.log_work
