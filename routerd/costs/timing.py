"""Timing a backend on one workload over a geometric range of sizes, on a machine that others disturb.

What to time next depends on what was measured, but not on how: :func:`sizes` asks, and whoever drives it measures, the daemon on
its workers and the simulator in a world.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from statistics import median
from typing import NamedTuple

from routerd.costs.model import MAD_TO_SIGMA, Point
from routerd.errors import ExecutionError

SIZES = 7
_FIRST_RUN_SECONDS = 1e-3  # what the smallest size is expected to take
_STEEPEST = 1.5  # work is chosen so that cost grows about in proportion to it; a timing this far above is in doubt
_LOOK_AGAIN_SECONDS = (0.1, 0.4, 1.6)  # pauses before a doubtful size is timed again, for what disturbed it to pass
_CONFIRMED, _AGREEMENT = 2, 1.1  # looks that were not this much quicker: then it is the work that takes the time


class Timed(NamedTuple):
    """Seconds of each repetition at ``work``, which is near the one that was asked for."""

    work: float
    seconds: Sequence[float]


class Request(NamedTuple):
    """A size to time several times, after a pause, and what one run of it is expected to take."""

    work: float
    expected_seconds: float
    pause_seconds: float = 0.0


def sizes(work_range: tuple[float, float], run_seconds: float) -> Generator[Request, Timed | None, list[Point]]:
    """Ask for timings from the smallest size up to the last whose run is expected to take no longer than ``run_seconds``.

    ``None`` in place of a timing, for any but the smallest, says that there is no memory for it; then it was the last. Returns the calibrated points. Raises ``ExecutionError`` for times that no clock can have meant.
    """
    low, high = work_range
    points: list[Point] = []
    expected = _FIRST_RUN_SECONDS
    for step in range(SIZES):
        work = low * (high / low) ** (step / (SIZES - 1))
        timed = yield Request(work, expected)
        if timed is None:
            break
        confirmed = 0
        for pause in _LOOK_AGAIN_SECONDS:
            if not points or not doubtful(points[-1], point_of(timed)) or confirmed == _CONFIRMED:
                break
            again = yield Request(work, expected, pause)
            if again is None:
                break
            confirmed += point_of(again).seconds > point_of(timed).seconds / _AGREEMENT
            timed = min(timed, again, key=lambda one: point_of(one).seconds)
        points.append(point_of(timed))
        # By its fastest repetition: one that was disturbed must not end the series.
        expected = min(timed.seconds) / timed.work * work * (high / low) ** (1 / (SIZES - 1))
        if expected > run_seconds:
            break  # the next size would hold the worker too long; beyond it the model extrapolates
    return undisturbed(points)


def drive(series: Generator[Request, Timed | None, list[Point]], measure: Callable[[Request], Timed]) -> list[Point]:
    """Answer every request of :func:`sizes` at once; the points that come of it."""
    request = next(series)
    while True:
        try:
            request = series.send(measure(request))
        except StopIteration as done:
            points: list[Point] = done.value
            return points


def doubtful(before: Point, after: Point) -> bool:
    """Whether seconds grew so much faster than work that another process rather than the work is likely to be why."""
    return after.seconds / before.seconds > _STEEPEST * after.work / before.work


def undisturbed(points: Sequence[Point]) -> list[Point]:
    """The points with the marks of other processes removed: less work never takes longer than more."""
    cleaned: list[Point] = []
    for point in reversed(points):
        ceiling = cleaned[-1].seconds if cleaned else math.inf
        cleaned.append(point if point.seconds <= ceiling else Point(point.work, ceiling, point.log_sigma))
    return cleaned[::-1]


def point_of(timed: Timed) -> Point:
    """The median of a size's times and its robust log deviation. Raises ``ExecutionError`` for times that cannot be."""
    wrong = [seconds for seconds in timed.seconds if not 0.0 < seconds < math.inf]
    if wrong or not timed.seconds or not 0.0 < timed.work < math.inf:
        raise ExecutionError(
            f"a size was timed at {wrong or timed.seconds} s for work {timed.work:g}: no clock measures that"
        )
    centre = median(timed.seconds)
    deviations = [abs(math.log(seconds / centre)) for seconds in timed.seconds]
    return Point(timed.work, centre, MAD_TO_SIGMA * median(deviations))
