"""The cost model of one (backend, workload) pair: calibrated points, interpolated in log-log, corrected by what happens.

Seconds throughout. ``log_sigma`` is the standard deviation of the natural logarithm of a prediction.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from statistics import median

from msgspec import Struct

from routerd.types import Prediction

#: A pair that was never timed: a nominal launch cost and rate, with an uncertainty that says it is a guess.
PRIOR_SECONDS = 50e-6
PRIOR_SECONDS_PER_WORK = 2e-9
PRIOR_LOG_SIGMA = 1.5

_FLOOR_LOG_SIGMA = 0.03  # no prediction on a shared machine is better than about 3 %
_EXTRAPOLATION_LOG_SIGMA = 0.25  # added for every factor e outside the calibrated range
_LEAST_SLOPE, _GREATEST_SLOPE = 0.8, 1.1  # work is chosen so that cost grows about in proportion to it
_WINDOW = 31  # observations that a correction looks back on
_MAD_TO_SIGMA = 1.4826


class Point(Struct, frozen=True):
    """One calibrated size: the median seconds of a few runs and their robust log deviation."""

    work: float
    seconds: float
    log_sigma: float


class ModelState(Struct, frozen=True):
    """What is kept of a model between runs of the daemon. ``cold_seconds`` is the first call, preparation included."""

    points: tuple[Point, ...] = ()
    cold_seconds: float | None = None


class CostModel:
    """Service time of one backend on one workload as a function of work."""

    def __init__(self, state: ModelState | None = None) -> None:
        self.cold_seconds: float | None = None
        self._points: list[Point] = []
        self._logs: list[tuple[float, float]] = []
        self._residuals: deque[float] = deque(maxlen=_WINDOW)
        self._ordered: list[float] = []
        self._shift = 0.0
        self._spread = 0.0
        if state is not None:
            self.cold_seconds = state.cold_seconds
            for point in state.points:
                self.add_point(point)

    @property
    def calibrated(self) -> bool:
        return bool(self._points)

    def reaches(self, work: float) -> bool:
        """Whether work lies within twice the calibrated range; beyond it a prediction is extrapolated."""
        return bool(self._points) and 0.5 * self._points[0].work <= work <= 2.0 * self._points[-1].work

    @property
    def observations(self) -> int:
        return len(self._residuals)

    def state(self) -> ModelState:
        """What :meth:`__init__` restores: the calibrated points with the learnt correction applied."""
        factor = math.exp(self._shift)
        points = tuple(Point(point.work, point.seconds * factor, point.log_sigma) for point in self._points)
        return ModelState(points, self.cold_seconds)

    def add_point(self, point: Point) -> None:
        """Add one calibrated size, replacing an earlier one at the same work. Corrections start afresh."""
        if not (point.work > 0 and 0 < point.seconds < math.inf):
            raise ValueError(f"a calibrated point needs positive work and seconds, got {point}")
        self._points = sorted(
            [known for known in self._points if known.work != point.work] + [point], key=lambda known: known.work
        )
        self._logs = [(math.log(known.work), math.log(known.seconds)) for known in self._points]
        self._residuals.clear()
        self._ordered.clear()
        self._shift = self._spread = 0.0

    def predict(self, work: float) -> Prediction:
        """Seconds for this much work. Outside the calibrated range the uncertainty grows with the distance."""
        if not self._points:
            base = math.log(PRIOR_SECONDS + PRIOR_SECONDS_PER_WORK * work)
            sigma = PRIOR_LOG_SIGMA if not self._residuals else max(0.3, self._spread)
        else:
            base, sigma = self._interpolate(math.log(max(work, 1e-300)))
            sigma = math.hypot(sigma, self._spread)
        return Prediction(math.exp(base + self._shift), max(sigma, _FLOOR_LOG_SIGMA))

    def observe(self, work: float, seconds: float) -> None:
        """Learn from one execution. The median of recent log residuals shifts predictions: one spike moves nothing."""
        if not (work > 0 and 0 < seconds < math.inf):
            return  # a clock that jumped says nothing about the device
        unshifted = math.log(self.predict(work).seconds) - self._shift
        if len(self._residuals) == _WINDOW:
            del self._ordered[bisect_left(self._ordered, self._residuals[0])]
        self._residuals.append(math.log(seconds) - unshifted)
        insort(self._ordered, self._residuals[-1])
        ordered = self._ordered
        centre = ordered[len(ordered) // 2]
        # With few observations a calibrated model keeps most of its weight; the prior yields at once.
        weight = 1.0 if not self._points else len(ordered) / (len(ordered) + 4.0)
        self._shift = weight * centre
        self._spread = _MAD_TO_SIGMA * median([abs(residual - centre) for residual in ordered])

    def _interpolate(self, log_work: float) -> tuple[float, float]:
        logs, points = self._logs, self._points
        if len(logs) == 1:
            # One point says nothing about the slope: below it the time stays, above it grows in proportion.
            distance = log_work - logs[0][0]
            return logs[0][1] + max(distance, 0.0), points[0].log_sigma + _EXTRAPOLATION_LOG_SIGMA * abs(distance)
        right = min(max(bisect_left(logs, (log_work, -math.inf)), 1), len(logs) - 1)
        (x0, y0), (x1, y1) = logs[right - 1], logs[right]
        slope = (y1 - y0) / (x1 - x0)
        sigma = max(points[right - 1].log_sigma, points[right].log_sigma)
        if log_work < x0:
            return self._below(log_work), sigma + _EXTRAPOLATION_LOG_SIGMA * (x0 - log_work)
        if log_work > x1:
            steepness = min(max(slope, _LEAST_SLOPE), _GREATEST_SLOPE)
            return y1 + steepness * (log_work - x1), sigma + _EXTRAPOLATION_LOG_SIGMA * (log_work - x1)
        return y0 + slope * (log_work - x0), sigma

    def _below(self, log_work: float) -> float:
        """Log seconds below the smallest size: launch cost plus a linear part, from the first two points."""
        first, second = self._points[0], self._points[1]
        rate = max((second.seconds - first.seconds) / (second.work - first.work), 0.0)
        launch = first.seconds - rate * first.work
        if launch > 0.0:
            return math.log(launch + rate * math.exp(log_work))
        return self._logs[0][1] + (log_work - self._logs[0][0])
