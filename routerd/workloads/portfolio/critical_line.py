"""The critical line algorithm: every efficient portfolio, by the points at which the set of free weights changes.

An efficient portfolio minimises ½·wᵀΣw − λ·μᵀw over Σw = 1 and 0 ≤ w ≤ u for some λ ≥ 0. Weights strictly between their
bounds are free; while their set stays the same, w is linear in λ. So the line is followed from λ = ∞ (greatest return) to
λ = 0 (least variance), from one change of the set to the next.

Source: Markowitz (1956), Naval Research Logistics 3; Niedermayer, Niedermayer (2010), Handbook of Portfolio Construction;
Bailey, López de Prado (2013), Algorithms 6(1). Here each change updates an inverse instead of computing one.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np

Floats: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]
Places: TypeAlias = np.ndarray[Any, np.dtype[np.intp]]
Mask: TypeAlias = np.ndarray[Any, np.dtype[np.bool_]]

# Expected returns closer than this share of their range count as equal.
_GRID = 2.0**-40
# A residual or a rate of change below these shares of its own terms is rounding.
_RESIDUAL = 1e-13
_ROUNDING = 1e-14
# Events for each asset at one place on the line: so many are let pass as they come, and so many are an error.
_PATIENCE = 5
_EVENTS_PER_ASSET = 50


def turning_points(covariance: Floats, returns: Floats, maximum: float, least_return: float) -> Floats:
    """Portfolios between neighbours of which every efficient one lies on a straight line, shape (points, N).

    The first has the greatest return (of those, the least variance), the last the least variance, or the first return
    ≤ ``least_return`` if that comes earlier. ``covariance`` is symmetric and positive definite; ``maximum`` is u.
    """
    low = float(returns.min())
    reach = float(returns.max()) - low or 1.0
    grid = np.rint((returns - low) / reach / _GRID) * _GRID
    scaled = covariance / float(np.mean(covariance.diagonal()))
    budget = min(1.0, maximum * len(returns))
    line = _Line(scaled, np.zeros_like(returns), grid, maximum, budget)
    points = [line.weights]
    while line.advance():
        points.append(line.weights)
        if float(grid @ line.weights) <= (least_return - low) / reach:
            break
    return np.clip(points, 0.0, maximum)


class _Line:
    """A place on the critical line of ½·wᵀΣw + linearᵀw − λ·returnsᵀw with Σw = budget."""

    def __init__(self, covariance: Floats, linear: Floats, returns: Floats, maximum: float, budget: float) -> None:
        self._returns, self._maximum, self._budget = returns, maximum, budget
        self._trade_off = math.inf
        self.weights, free = _greatest_return(covariance, linear, returns, maximum, budget)
        self._system = _System(covariance, free)
        self._gradient = covariance @ self.weights + linear
        # Where many events coincide, rounding can send a weight round in circles. After too many of them at one place,
        # weights that reach a bound stay there until λ moves.
        self._patience = _PATIENCE * len(returns)
        self._settled: Mask = np.zeros(len(returns), dtype=np.bool_)

    @property
    def free(self) -> Places:
        return self._system.free

    def advance(self) -> bool:
        """Move to the next turning point; ``False`` at the end of the line, where nothing moves any more."""
        for _ in range(_EVENTS_PER_ASSET * len(self.weights)):
            if self._trade_off == 0.0:
                return False
            if self._next_event():
                return True
        raise RuntimeError(f"the critical line of {len(self.weights)} assets stands still at λ = {self._trade_off:g}")

    def _next_event(self) -> bool:
        """Move to where the next weight becomes free or reaches a bound; whether the weights moved on the way."""
        system, reference = self._system, int(self._system.free[0])
        relative = self._returns - self._returns[reference]
        reduced = self._gradient - self._gradient[reference]
        if self._trade_off == math.inf:
            # Free weights have equal returns here and stand still until another asset is worth its lower return.
            worth = np.divide(reduced, relative, out=np.zeros_like(reduced), where=relative != 0.0)
            event = int(np.argmax(worth))
            self._trade_off = max(0.0, float(worth[event]))
            if self._trade_off > 0.0:
                system.add(event)
            return False
        direction, slope, shift = system.direction(relative)
        reduced -= self._trade_off * relative
        distances = self._distances(reduced, direction, slope, relative, shift)
        event = int(np.argmin(distances))
        step = float(distances[event])
        last = step >= self._trade_off
        step = min(step, self._trade_off)
        self.weights = self.weights - step * direction
        self._gradient -= step * slope
        self._trade_off -= step
        self._patience -= 1
        if step > 0.0:
            self._patience = _PATIENCE * len(self.weights)
            self._settled[:] = False
        if not last and system.is_free[event]:
            self.weights[event] = self._maximum if direction[event] < 0.0 else 0.0
            self._settled[event] = self._patience < 0
            system.remove(event)
        elif not last:
            system.add(event)
        self._correct()
        return step > 0.0

    def _distances(self, reduced: Floats, direction: Floats, slope: Floats, relative: Floats, shift: float) -> Floats:
        """How far λ may fall until each weight reaches a bound or wants to leave one, shape (N,)."""
        weights, maximum = self.weights, self._maximum
        falling, rising = direction > 0.0, direction < 0.0
        rate = slope - relative + shift
        rounding = _ROUNDING * (np.abs(slope) + np.abs(relative) + abs(shift))
        bound, upper = ~self._system.is_free, weights > 0.5 * maximum
        leaving = bound & ~self._settled & np.where(upper, rate < -rounding, rate > rounding)
        distances = np.full_like(weights, math.inf)
        np.divide(weights, direction, out=distances, where=falling)
        np.divide(weights - maximum, direction, out=distances, where=rising)
        np.divide(reduced, rate, out=distances, where=leaving)
        return np.maximum(distances, 0.0)

    def _correct(self) -> None:
        """Take back what rounding has added up to, where it can be seen."""
        free = self._system.free
        reduced = self._gradient[free] - self._trade_off * (self._returns[free] - self._returns[free[0]])
        residual = np.concatenate(([self._budget - float(self.weights.sum())], reduced[0] - reduced))
        if float(np.abs(residual).max()) > _RESIDUAL * (1.0 + float(np.abs(self._gradient[free]).max())):
            change, slope = self._system.correction(residual)
            self.weights = self.weights + change
            self._gradient += slope


class _System:
    """The optimality conditions of the free weights, [[0, 1ᵀ], [1, Σ_F]], by an inverse that follows the set F.

    ``is_free`` (N,) is the set as a mask, ``free`` as the assets in the order of the system's rows.
    """

    def __init__(self, covariance: Floats, free: Places) -> None:
        assets = len(covariance)
        self._covariance, self._count = covariance, len(free)
        self._free: Places = np.zeros(assets, dtype=np.intp)
        self._free[: len(free)] = free
        self.is_free: Mask = np.zeros(assets, dtype=np.bool_)
        self.is_free[free] = True
        # The rows of Σ that belong to F, together in memory.
        self._rows: Floats = np.empty_like(covariance)
        self._rows[: len(free)] = covariance[free]
        self._inverse: Floats = np.empty((assets + 1, assets + 1))
        self._invert()

    @property
    def free(self) -> Places:
        return self._free[: self._count]

    def direction(self, relative: Floats) -> tuple[Floats, Floats, float]:
        """dw/dλ, Σ·dw/dλ and the change of the budget's multiplier, where the free weights move along ``relative`` returns."""
        solution, slope = self._solve(np.concatenate(([0.0], relative[self.free])))
        return self._spread(solution), slope, float(solution[0])

    def correction(self, residual: Floats) -> tuple[Floats, Floats]:
        """The change of w that takes away a small ``residual``, and Σ times it."""
        solution = self._apply(residual)
        return self._spread(solution), self._covariance_times(solution)

    def add(self, asset: int) -> None:
        size, own = self._count + 1, float(self._covariance[asset, asset])
        hedge, covered = self._solve(np.concatenate(([1.0], self._covariance[asset, self.free])))
        # The variance that the free assets cannot hedge; positive, but perhaps not after rounding.
        unhedged = max(own - float(hedge[0]) - float(covered[asset]), _RESIDUAL * own)
        inverse = self._inverse
        inverse[:size, :size] += np.outer(hedge, hedge / unhedged)
        inverse[size, :size] = inverse[:size, size] = -hedge / unhedged
        inverse[size, size] = 1.0 / unhedged
        self._rows[self._count] = self._covariance[asset]
        self._free[self._count] = asset
        self._count += 1
        self.is_free[asset] = True

    def remove(self, asset: int) -> None:
        """The last asset takes the place of the one removed."""
        size, place = self._count + 1, int(np.flatnonzero(self.free == asset)[0])
        inverse = self._inverse
        row = inverse[place + 1, :size].copy()
        inverse[:size, :size] -= np.outer(row, row / row[place + 1])
        inverse[place + 1, :size] = inverse[size - 1, :size]
        inverse[:size, place + 1] = inverse[:size, size - 1]
        self._count -= 1
        self._rows[place] = self._rows[self._count]
        self._free[place] = self._free[self._count]
        self.is_free[asset] = False

    def _solve(self, right: Floats) -> tuple[Floats, Floats]:
        """The solution, refined until the residual is one of rounding, and Σ times its weights.

        Updates of an almost singular system wear the inverse out; where refinement tells, it is computed afresh.
        """
        solution = self._apply(right)
        for attempt in range(5):
            slope = self._covariance_times(solution)
            residual = right - solution[0]
            residual[1:] -= slope[self.free]
            residual[0] = right[0] - float(solution[1:].sum())
            size = float(np.abs(right).max()) + float(np.abs(slope).max()) + float(np.abs(solution[1:]).max())
            if float(np.abs(residual).max()) <= _RESIDUAL * size:
                break
            if attempt == 2:
                self._invert()
            solution = solution + self._apply(residual)
        return solution, slope

    # The two products below are einsum's and not matmul's: a BLAS spreads even such small ones over its threads, and on a
    # busy machine it waits for them a hundred times longer than the product takes.

    def _apply(self, right: Floats) -> Floats:
        size = self._count + 1
        return np.asarray(np.einsum("i,ij->j", right, self._inverse[:size, :size]))

    def _covariance_times(self, solution: Floats) -> Floats:
        return np.asarray(np.einsum("i,ij->j", solution[1:], self._rows[: self._count]))

    def _spread(self, solution: Floats) -> Floats:
        """The free weights of a solution among all, the others zero."""
        weights = np.zeros(len(self._covariance))
        weights[self.free] = solution[1:]
        return weights

    def _invert(self) -> None:
        size = self._count + 1
        system = np.ones((size, size))
        system[0, 0] = 0.0
        system[1:, 1:] = self._covariance[np.ix_(self.free, self.free)]
        self._inverse[:size, :size] = np.linalg.inv(system)


def _greatest_return(
    covariance: Floats, linear: Floats, returns: Floats, maximum: float, budget: float
) -> tuple[Floats, Places]:
    """The weights with the greatest return, and among equal ones the least variance; and which of them are free.

    Assets are filled in the order of their returns. Those that tie for the last place share what is left in the best way,
    which is the end of a critical line of their own, with any returns that tell them apart.
    """
    order = np.argsort(-returns, stable=True)
    fill = np.clip(budget - maximum * np.arange(len(order)), 0.0, maximum)
    weights = np.zeros_like(returns)
    weights[order] = fill
    last = int(order[int(np.count_nonzero(fill)) - 1])
    tied = np.flatnonzero(returns == returns[last])
    if len(tied) == 1:
        return weights, np.array([last])
    share = float(weights[tied].sum())
    weights[tied] = 0.0
    inner = _Line(
        covariance[np.ix_(tied, tied)],
        linear[tied] + covariance[tied] @ weights,
        np.arange(len(tied), dtype=np.float64)[::-1] / len(tied),
        maximum,
        share,
    )
    while inner.advance():
        pass
    weights[tied] = inner.weights
    return weights, tied[inner.free]
