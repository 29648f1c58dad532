"""Means of simulated values with their standard errors: block by block, part by part, and until they are good enough."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from routerd.interfaces import Arrays, Example, HostArrays, Namespace, Params
from routerd.workloads.options.parameters import MOST_SIMULATIONS
from routerd.workloads.randomness import LANES
from routerd.workloads.splitting import boundaries

# Rows that are added up on the device before the host adds the rest: a tree, so that float32 loses little.
_ROWS = 64
#: A target is judged after this many paths at least, and sought in steps of so many.
STEP = 1024
# The standard error is itself an estimate; a little more than it asks for saves another round.
_MARGIN = 1.02

#: Values of the paths of the counters ``start…stop−1``, lane after lane: shape (4·(stop−start),).
PathValues = Callable[[int, int], Any]


@dataclass(frozen=True, slots=True)
class Moments:
    """Number, mean, and sum of squared deviations from the mean of some values."""

    count: int = 0
    mean: float = 0.0
    scatter: float = 0.0

    def __add__(self, other: Moments) -> Moments:
        """Of all the values together.

        Source: Chan, Golub, LeVeque (1983), Algorithms for Computing the Sample Variance, The American Statistician 37(3).
        """
        count = self.count + other.count
        gap = other.mean - self.mean
        mean = self.mean + gap * (other.count / count)
        scatter = self.scatter + other.scatter + gap * gap * (self.count * other.count / count)
        return Moments(count, mean, scatter)

    @property
    def standard_error(self) -> float:
        return math.sqrt(self.scatter / (self.count - 1) / self.count) if self.count > 1 else 0.0


class Estimate(NamedTuple):
    """An expected payoff at maturity, its standard error, and how many paths or points it took."""

    mean: float
    standard_error: float
    simulations: int


def outputs(namespace: Namespace, estimate: Estimate, discount: float) -> Arrays:
    """The estimate as every option workload gives it."""
    return {
        "price": namespace.asarray(discount * estimate.mean),
        "standard_error": namespace.asarray(discount * estimate.standard_error),
        "num_simulations": namespace.arange(estimate.simulations, estimate.simulations + 1)[0],
    }


def mean_of_paths(
    namespace: Namespace, params: Params, values: PathValues, step: int, *, target: float | None, planned: float
) -> Estimate:
    """The mean over as many paths as the task names, else over as many as bring the standard error down to ``target``.

    ``step`` is how many counters are simulated at once; it changes nothing but the rounding. A target is first judged
    after ``planned`` paths; as long as it is missed, as many are added as the standard error so far asks for.
    """

    def simulate(first: int, count: int) -> Moments:
        return _simulate(namespace, values, first, count, step)

    return mean_of_moments(params, simulate, target=target, planned=planned)


def mean_of_moments(
    params: Params, simulate: Callable[[int, int], Moments], *, target: float | None, planned: float
) -> Estimate:
    """The same for whoever simulates otherwise: ``simulate(first, count)`` gives the moments of ``count`` paths."""
    first = params["first_simulation"]
    if target is None:
        moments = simulate(first, params["num_simulations"])
    else:
        wanted, moments = _whole_steps(planned), Moments()
        while True:
            moments += simulate(first + moments.count, wanted - moments.count)
            # A float32 overflow leaves NaN, which more paths would not mend.
            if not moments.standard_error > target or moments.count >= MOST_SIMULATIONS:
                break
            excess = min(moments.standard_error / target, MOST_SIMULATIONS)
            wanted = _whole_steps(max(moments.count + STEP, _MARGIN * moments.count * excess * excess))
    return Estimate(moments.mean, moments.standard_error, moments.count)


def mean_of_replicates(means: Sequence[float]) -> tuple[float, float]:
    """The mean of independent estimates of the same thing, and its standard error."""
    count = len(means)
    mean = sum(means) / count
    return mean, math.sqrt(sum([(value - mean) ** 2 for value in means]) / (count - 1) / count)


def row_sums(namespace: Namespace, values: Any) -> list[float]:
    """The sum of each row of a real array (rows, n): many short sums on the device, the rest in float64 on the host."""
    rows, length = values.shape
    if length > 2 * _ROWS:
        xp = namespace.xp
        width = length // _ROWS
        folded = xp.sum(xp.reshape(values[:, : width * _ROWS], (rows, _ROWS, width)), axis=1)
        rest = values[:, width * _ROWS :]
        return [sum(parts) for parts in zip(row_sums(namespace, folded), row_sums(namespace, rest), strict=True)]
    host: list[float] = namespace.to_host(values).sum(axis=1).tolist()
    return host


def split_paths(whole: Example, shares: Sequence[float]) -> list[Example]:
    """Tasks that simulate consecutive ranges of the whole's paths. What is no range of a stream stays one task."""
    params = whole.params
    if params["method"] != "pseudo_random" or "num_simulations" not in params:
        return [whole]
    first, count = int(params["first_simulation"]), int(params["num_simulations"])
    ranges = boundaries(count, shares, LANES)
    if len(ranges) > 1 and ranges[-1][1] - ranges[-1][0] < 2:
        # One path alone has no standard error.
        ranges[-2:] = [(ranges[-2][0], count)]
    return [
        Example({**params, "first_simulation": first + start, "num_simulations": stop - start}, whole.arrays)
        for start, stop in ranges
    ]


def merge_paths(whole: Example, parts: Sequence[HostArrays]) -> dict[str, Any]:
    """Price, standard error and number of all paths from those of each part."""
    import numpy as np

    del whole
    if len(parts) == 1:
        return dict(parts[0])
    merged = Moments()
    for part in parts:
        count, error = int(part["num_simulations"]), float(part["standard_error"])
        merged += Moments(count, float(part["price"]), error * error * count * (count - 1))
    return {
        "price": np.asarray(merged.mean),
        "standard_error": np.asarray(merged.standard_error),
        "num_simulations": np.asarray(merged.count, dtype=np.int64),
    }


def _whole_steps(count: float) -> int:
    return min(MOST_SIMULATIONS, STEP * max(1, math.ceil(count / STEP)))


def _simulate(namespace: Namespace, values: PathValues, first: int, count: int, step: int) -> Moments:
    moments = Moments()
    for start, stop, lanes in _spans(first, count, step):
        moments += _moments(namespace, values(start, stop)[lanes])
    return moments


def _spans(first: int, count: int, step: int) -> Iterator[tuple[int, int, slice]]:
    """Ranges of counters, and which of their values are paths ``first…first+count−1``."""
    counter, lane = divmod(first, LANES)
    last, rest = divmod(first + count, LANES)
    if counter == last:
        yield counter, counter + 1, slice(lane, rest)
        return
    if lane:
        yield counter, counter + 1, slice(lane, LANES)
        counter += 1
    for start in range(counter, last, step):
        yield start, min(start + step, last), slice(None)
    if rest:
        yield last, last + 1, slice(0, rest)


def _moments(namespace: Namespace, values: Any) -> Moments:
    """Moments of a block of values (n,), which it may overwrite."""
    count = values.shape[0]
    (total,) = row_sums(namespace, values[None, :])
    mean = total / count
    values -= mean
    values *= values
    (scatter,) = row_sums(namespace, values[None, :])
    return Moments(count, mean, scatter)
