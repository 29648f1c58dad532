"""Performance analytics of return series."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from routerd.errors import InvalidArray
from routerd.interfaces import Array, Arrays, Dims, Example, Join, Namespace, Parameter, Params, Workload
from routerd.workloads.splitting import merge_along, split_along

if TYPE_CHECKING:
    import numpy as np

# Logarithm of the largest annual growth that is told from a larger one: a ratio to it is a number in float32 too.
_MOST_GROWTH = 64.0
_LARGEST_RETURN = 1e9


def _performance(namespace: Namespace, params: Params, arrays: Arrays) -> Arrays:
    returns = arrays["returns"]
    step = max(1, 2 * namespace.block // returns.shape[0])
    blocks = [
        _statistics(namespace, params, returns[:, start : start + step]) for start in range(0, returns.shape[1], step)
    ]
    return {"statistics": blocks[0] if len(blocks) == 1 else namespace.xp.concat(blocks)}


def _statistics(namespace: Namespace, params: Params, returns: Any) -> Any:
    """The statistics of some columns, shape (columns, 5)."""
    xp, periods = namespace.xp, float(params["periods_per_year"])
    rows = returns.shape[0]
    zero = namespace.zeros(())
    excess = returns - params["risk_free"]
    mean = xp.mean(excess, axis=0)
    shortfall = xp.minimum(excess, zero)
    downside = xp.sqrt(xp.mean(shortfall * shortfall, axis=0))
    excess -= mean
    # The mean of equal values can miss them by a rounding; their deviation is zero all the same.
    constant = xp.max(returns, axis=0) == xp.min(returns, axis=0)
    deviation = xp.where(constant, zero, xp.sqrt(xp.sum(excess * excess, axis=0) / (rows - 1.0)))
    log_growth, log_drawdown = _growth_and_drawdown(namespace, returns)
    drawdown = xp.expm1(log_drawdown)
    annual_return = xp.expm1(xp.minimum(log_growth * (periods / rows), zero + _MOST_GROWTH))
    fell = drawdown < 0.0
    calmar = xp.where(fell, annual_return / xp.where(fell, -drawdown, zero + 1.0), zero + math.nan)
    sharpe = _ratio(namespace, mean, deviation) * math.sqrt(periods)
    sortino = _ratio(namespace, mean, downside) * math.sqrt(periods)
    return xp.stack((sharpe, sortino, drawdown, calmar, deviation * math.sqrt(periods)), axis=1)


def _growth_and_drawdown(namespace: Namespace, returns: Any) -> tuple[Any, Any]:
    """Logarithms of the final wealth and of the deepest fall from a peak, for each column.

    Neighbouring stretches of time join pairwise until one is left. A stretch is known by its total log growth, the highest
    and lowest wealth on the way (relative to its start, which counts), and its deepest fall; so no running maximum is
    needed, and sums are pairwise.
    """
    xp = namespace.xp
    zero = namespace.zeros(())
    # A total loss is −∞, which only ever meets finite peaks.
    solvent = returns > -1.0
    growth = xp.where(solvent, xp.log1p(xp.where(solvent, returns, zero)), zero - math.inf)
    highest, lowest = xp.maximum(growth, zero), xp.minimum(growth, zero)
    deepest = lowest
    while growth.shape[0] > 1:
        pairs = growth.shape[0] // 2 * 2
        first, peak = growth[0:pairs:2, :], highest[0:pairs:2, :]
        fall = first + lowest[1:pairs:2, :]
        joined = (
            first + growth[1:pairs:2, :],
            xp.maximum(peak, first + highest[1:pairs:2, :]),
            xp.minimum(lowest[0:pairs:2, :], fall),
            xp.minimum(xp.minimum(deepest[0:pairs:2, :], deepest[1:pairs:2, :]), fall - peak),
        )
        if pairs < growth.shape[0]:
            last = (growth[pairs:, :], highest[pairs:, :], lowest[pairs:, :], deepest[pairs:, :])
            joined = tuple(xp.concat(parts) for parts in zip(joined, last, strict=True))
        growth, highest, lowest, deepest = joined
    return growth[0, :], deepest[0, :]


def _ratio(namespace: Namespace, numerator: Any, denominator: Any) -> Any:
    """The quotient with x/0 = ±∞ and 0/0 = NaN, without a warning."""
    xp = namespace.xp
    zero = namespace.zeros(())
    undefined = denominator == 0.0
    limit = xp.where(numerator == 0.0, zero + math.nan, xp.where(numerator > 0.0, zero + math.inf, zero - math.inf))
    return xp.where(undefined, limit, numerator / xp.where(undefined, zero + 1.0, denominator))


def _check_rows(params: Params, dims: Dims) -> None:
    rows = dims["T"]
    if rows < 2:
        raise InvalidArray(
            f"analytics.performance: returns has {rows} row; a deviation needs at least 2 periods", array="returns"
        )


def _cells(params: Params, dims: Dims) -> float:
    return float(dims["T"] * dims["S"])


def _performance_example(work: float, rng: np.random.Generator) -> Example:
    rows = round(min(1_250, max(20, work / 4.0)))
    columns = max(1, round(work / rows))
    volatility = rng.uniform(0.005, 0.03, columns)
    drift = rng.uniform(-0.05, 0.1, columns) * volatility
    return Example({}, {"returns": drift + volatility * rng.standard_normal((rows, columns)).clip(-5.0, 5.0)})


PERFORMANCE = Workload(
    name="analytics.performance",
    summary="Sharpe, Sortino, maximum drawdown, Calmar and volatility of return series.",
    source="empyrical-reloaded 0.7 (stats.py); Sharpe (1994), The Sharpe Ratio, Journal of Portfolio Management 21(1)",
    engines=("Analytics", "Portfolio", "Strategy"),
    parameters=(
        Parameter(
            name="periods_per_year",
            type="int",
            unit="per year",
            default=252,
            minimum=1,
            maximum=1_000_000,
            doc="periods that a year has: 252 trading days, 52 weeks, 12 months",
        ),
        Parameter(
            name="risk_free",
            type="float",
            unit="1 per period",
            default=0.0,
            minimum=-1.0,
            maximum=1.0,
            doc="return of a period that Sharpe subtracts and Sortino requires",
        ),
    ),
    inputs=(
        Array(
            name="returns",
            shape=("T", "S"),
            unit="1 per period",
            minimum=-1.0,
            maximum=_LARGEST_RETURN,
            doc="simple returns, one period a row and one series a column; −1 is a total loss",
        ),
    ),
    outputs=(
        Array(
            name="statistics",
            shape=("S", 5),
            unit="sharpe, sortino, calmar: 1; max_drawdown: 1 (≤ 0); volatility: per √year",
            doc="columns sharpe, sortino, max_drawdown, calmar, volatility, all but the drawdown annualised; a ratio to zero "
            "is ±∞, or NaN when its numerator is zero too; Calmar without a drawdown is NaN, and takes annual growth of more "
            "than e^64 for that",
            finite=False,
        ),
    ),
    kernel=_performance,
    work=_cells,
    work_unit="returns",
    example=_performance_example,
    work_range=(1e2, 1e7),
    tolerance=1e-5,
    batch_dim="S",
    check_task=_check_rows,
    split=split_along({"returns": 1}),
    merge=merge_along({"statistics": 0}),
    join=Join(inputs={"returns": 1}, outputs={"statistics": 0}),
)

WORKLOADS = (PERFORMANCE,)
