"""The cost model of one (backend, workload) pair: calibrated points, corrected by what happens.

Seconds throughout. Each execution gives a residual: the logarithm of what it took over what calibration says. The weighted
median of the latest residuals, newer ones counting more, corrects the pair as a whole; that of the residuals near one
calibrated size corrects this size apart, as far as they differ from the whole. So one spike moves nothing, and a lasting
change is learnt within a score of executions, whatever their sizes.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from itertools import accumulate
from typing import NamedTuple

from msgspec import Struct

from routerd.costs.curve import Curve, curve_through, prior_curve
from routerd.types import Prediction

#: Of a normal distribution: its standard deviation over the median distance from its middle.
MAD_TO_SIGMA = 1.4826

_WINDOW = 31  # executions that a correction looks back on
_DECAY = 0.5 ** (1 / 10)  # an execution counts half after ten more
_FADE = 0.5 ** (1 / 20)  # and beside that, half after twenty more of the pair, at whatever size
_MOST_SHARED = math.log(4.0)  # a device may be this much slower at all sizes; more than that is the shape of some tasks
_STAND = 3.0  # what was believed before counts as this many executions
_WEIGHTS = tuple(_DECAY**age for age in range(_WINDOW))
_NOTICEABLE = 0.02  # a correction is published when it moves a prediction by this much (log) …
_NOTICEABLE_SHARE = 0.2  # … and by this share of what runs vary by anyway
_DRIFTED = math.log(1.5)  # a pair that differs this much from its calibration is timed again
_DRIFT_EXECUTIONS = 16
_AGREEMENT = math.log(1.25)  # a new calibration that says the same as the old one


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
    """Service time of one backend on one workload as a function of work.

    ``curve`` is what predictions are made from; it is replaced, never changed, and only when a prediction would move
    noticeably. ``cold_seconds`` is what the first call after a start takes, preparation included.
    """

    def __init__(self, state: ModelState | None = None) -> None:
        self.cold_seconds: float | None = None
        self.curve: Curve = prior_curve()
        self.observations = 0
        self._points: tuple[Point, ...] = ()
        self._log_works: list[float] = []
        self._calibrated: Curve = self.curve
        self._all: deque[float] = deque(maxlen=_WINDOW)
        self._near: list[deque[tuple[int, float]]] = []
        self._drifted = False
        self._noted = False
        self._touched: set[int] = set()  # sizes with executions that were not reckoned with yet
        self._whole = _NONE
        self._own: list[_Correction] = []
        self._published: list[_Correction] = [_NONE]
        if state is not None:
            self.cold_seconds = state.cold_seconds
            self.calibrate(state.points)

    @property
    def calibrated(self) -> bool:
        return bool(self._points)

    @property
    def points(self) -> tuple[Point, ...]:
        """What calibration measured, in ascending work, without corrections."""
        return self._points

    @property
    def drifted(self) -> bool:
        """Whether executions have long differed so much from calibration that it should be made again."""
        return self._drifted

    def state(self) -> ModelState:
        """What :meth:`__init__` restores: the calibrated points with the learnt corrections applied."""
        points = tuple(
            Point(point.work, point.seconds * math.exp(correction.shift), point.log_sigma)
            for point, correction in zip(self._points, self._corrections(), strict=False)
        )
        return ModelState(points, self.cold_seconds)

    def calibrate(self, points: Sequence[Point]) -> None:
        """Put calibrated sizes in place of all earlier ones.

        Corrections start afresh, unless the new points say the same as the old: then it is not the device that differs
        from its examples but the tasks, and what they taught still holds. Raises ``ValueError`` for a size or a time that is
        not positive and finite.
        """
        for point in points:
            if not (0 < point.work < math.inf and 0 < point.seconds < math.inf and 0 <= point.log_sigma < math.inf):
                raise ValueError(f"a calibrated point needs positive, finite work and seconds, got {point}")
        unique = {point.work: point for point in points}
        fresh = tuple(unique[work] for work in sorted(unique))
        if not _agree(fresh, self._points):
            self._all.clear()
            self._near = [deque(maxlen=_WINDOW) for _ in fresh]
        self._touched.clear()  # what is published below reckons with all
        self._noted = False
        self._points = fresh
        self._log_works = [math.log(point.work) for point in fresh]
        self._calibrated = self._curve([_NONE] * max(len(fresh), 1))
        self._publish(self._corrections())
        self._drifted = self._has_drifted()

    def predict(self, work: float) -> Prediction:
        """Seconds for this much work. Outside the calibrated range the uncertainty grows with the distance."""
        return self.curve.predict(work)

    def calibrated_seconds(self, work: float) -> float:
        """What calibration alone says, whatever was learnt since."""
        return self._calibrated.predict(work).seconds

    def observe(self, work: float, seconds: float) -> bool:
        """Learn from one execution; whether predictions have moved noticeably."""
        self.note(work, seconds)
        return self.reckon()

    def note(self, work: float, seconds: float) -> None:
        """Remember one execution, for the next reckoning.

        A time that is not positive and finite says that a clock jumped, and nothing about the device: it is refused.
        """
        if not (0 < work < math.inf and 0 < seconds < math.inf):
            return
        self.observations += 1
        residual = math.log(seconds / self.calibrated_seconds(work))
        self._all.appendleft(residual)
        if self._points:
            touched = self._nearest(math.log(work))
            self._near[touched].appendleft((self.observations, residual))
            self._touched.add(touched)
        self._noted = True

    def reckon(self) -> bool:
        """Let predictions follow what was noted; whether they have moved noticeably."""
        if not self._noted:
            return False
        corrections = self._corrections(self._touched)
        self._drifted = self._has_drifted()
        self._touched.clear()
        self._noted = False
        moved = any(_is_noticeable(new, old) for new, old in zip(corrections, self._published, strict=True))
        if moved:
            self._publish(corrections)
        return moved

    def _has_drifted(self) -> bool:
        if not self._points or len(self._all) < _DRIFT_EXECUTIONS:
            return False
        whole = zip(self._all, _WEIGHTS, strict=False)
        return abs(weighted_median([*whole, (0.0, _STAND)])) > _DRIFTED

    def _nearest(self, log_work: float) -> int:
        right = min(bisect_left(self._log_works, log_work), len(self._log_works) - 1)
        left = max(right - 1, 0)
        return left if log_work - self._log_works[left] < self._log_works[right] - log_work else right

    def _corrections(self, touched: Collection[int] | None = None) -> list[_Correction]:
        """The correction of every calibrated size: its own where it is used, else that of the pair as a whole.

        With ``touched`` only these sizes have new executions: the others are as they were, unless the whole has moved.
        """
        # Calibration does not yield to a few executions; a guess yields to the first. That nothing varies is believed of
        # either until some say how much they do: were it believed longer, predictions would be too sure of themselves.
        stand, steady = _STAND if self._points else 0.0, _STAND / max(len(self._all), 1)
        whole = _correction(list(zip(self._all, _WEIGHTS, strict=False)), _NONE, stand, steady)
        if not self._points:
            return [whole]
        whole = _shared(whole)
        if touched is None or abs(whole.shift - self._whole.shift) > 0.5 * _NOTICEABLE:
            self._whole = whole
            self._own = [_correction(self._faded(near), whole, _STAND, _STAND) for near in self._near]
        else:
            for size in touched:
                self._own[size] = _correction(self._faded(self._near[size]), whole, _STAND, _STAND)
        return [own if near else whole for own, near in zip(self._own, self._near, strict=True)]

    def _faded(self, near: Iterable[tuple[int, float]]) -> list[tuple[float, float]]:
        """Residuals with their weights."""
        now = self.observations
        return [
            (residual, weight * _FADE ** (now - at)) for (at, residual), weight in zip(near, _WEIGHTS, strict=False)
        ]

    def _publish(self, corrections: list[_Correction]) -> None:
        self._published = corrections
        self.curve = self._curve(corrections)

    def _curve(self, corrections: Sequence[_Correction]) -> Curve:
        if not self._points:
            whole = corrections[0]
            return prior_curve(whole.shift, max(0.3, whole.spread)) if self._all else prior_curve()
        return curve_through(
            [point.work for point in self._points],
            [one.seconds * math.exp(other.shift) for one, other in zip(self._points, corrections, strict=True)],
            [max(one.log_sigma, other.spread) for one, other in zip(self._points, corrections, strict=True)],
        )


class _Correction(NamedTuple):
    """By how much (log) executions differ from calibration, and how widely they vary around that."""

    shift: float
    spread: float


_NONE = _Correction(0.0, 0.0)


def _correction(
    residuals: list[tuple[float, float]], believed: _Correction, stand: float, steady: float
) -> _Correction:
    """The weighted median of residuals and of their distances from it.

    Beside them weigh what was believed of the one (``stand``) and of the other (``steady``).
    """
    if not residuals:
        return _NONE
    shift = weighted_median([*residuals, (believed.shift, stand)])
    distances = [(abs(residual - shift), weight) for residual, weight in residuals]
    return _Correction(shift, MAD_TO_SIGMA * weighted_median([*distances, (believed.spread / MAD_TO_SIGMA, steady)]))


def _shared(whole: _Correction) -> _Correction:
    """What the pair as a whole says of sizes that were not used: within limits, and less surely beyond them."""
    shift = min(max(whole.shift, -_MOST_SHARED), _MOST_SHARED)
    return _Correction(shift, whole.spread + abs(whole.shift - shift))


def weighted_median(weighted: Iterable[tuple[float, float]]) -> float:
    """The first of the values in order that half of all the weight lies at or below. 0 where nothing weighs."""
    ordered = sorted([pair for pair in weighted if pair[1] > 0.0])
    passed = list(accumulate([weight for _value, weight in ordered]))
    return ordered[bisect_left(passed, 0.5 * passed[-1])][0] if passed else 0.0


def _is_noticeable(new: _Correction, old: _Correction) -> bool:
    least = max(_NOTICEABLE, _NOTICEABLE_SHARE * old.spread)
    return abs(new.shift - old.shift) > least or abs(new.spread - old.spread) > least


def _agree(new: Sequence[Point], old: Sequence[Point]) -> bool:
    return [point.work for point in new] == [point.work for point in old] and all(
        abs(math.log(one.seconds / other.seconds)) < _AGREEMENT for one, other in zip(new, old, strict=True)
    )
