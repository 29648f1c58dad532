"""Backtests of trading rules."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from routerd.errors import InvalidArray
from routerd.interfaces import Array, Arrays, Dims, Example, HostArrays, Join, Namespace, Parameter, Params, Workload
from routerd.workloads.splitting import merge_along, split_along

if TYPE_CHECKING:
    import numpy as np

_NAME = "strategy.backtest_sma_sweep"
_LEAST_PERIODS = 3
# The turnover of so many periods is still a whole number in float32.
_MOST_PERIODS = 2**22
_MOST_TICKS = 2**40
# Periods whose running sum is taken at once.
_TILE = 64
# Logarithm of the growth that loses everything: finite, so that no difference with it is NaN, and e to its power is 0.
_RUIN = -1e4


def _backtest_sma_sweep(namespace: Namespace, params: Params, arrays: Arrays) -> Arrays:
    """A block of windows at a time, with time along the last axis.

    Averages are compared as whole numbers, each sum times the other's window: nothing is rounded, so every device holds
    the same positions and ties are ties.
    """
    xp = namespace.xp
    close = xp.astype(arrays["close"], namespace.integer)
    windows = xp.astype(arrays["windows"], namespace.integer)
    times = _times(namespace, close.shape[0])
    prices = xp.take(close, times, axis=0)
    returns = namespace.asarray(prices[1:] - prices[:-1]) / namespace.asarray(prices[:-1])
    sums, rows = _window_sums(namespace, close, windows, times)
    step = max(1, 4 * namespace.block // close.shape[0])
    blocks = []
    for start in range(0, windows.shape[0], step):
        fast, slow = windows[start : start + step, 0:1], windows[start : start + step, 1:2]
        fast_sum, slow_sum = (xp.take(sums, row[start : start + step], axis=0) for row in rows)
        long, warm = fast_sum * slow > slow_sum * fast, times[None, :] >= slow
        positions = namespace.asarray(long & warm)
        if params["allow_short"]:
            positions = 2.0 * positions - namespace.asarray(warm)
        blocks.append(_backtest(namespace, params, positions, returns, times))
    equity, statistics, turnover = zip(*blocks, strict=True)
    return {
        "equity": xp.permute_dims(xp.concat(equity)[:, : close.shape[0]], (1, 0)),
        "statistics": xp.concat(statistics),
        "turnover": xp.concat(turnover),
    }


def _times(namespace: Namespace, periods: int) -> Any:
    """0, 0, 1, …, T−1, T−1, …: the periods 0, …, T−1, the one before, and as many more as fill whole tiles.

    Where time stands still so do prices and positions: nothing is earned, traded or paid.
    """
    xp = namespace.xp
    times = namespace.arange(-1, -(-periods // _TILE) * _TILE)
    last = xp.zeros_like(times) + (periods - 1)
    return xp.where(times < 0, xp.zeros_like(times), xp.where(times < periods, times, last))


def _window_sums(namespace: Namespace, close: Any, windows: Any, times: Any) -> tuple[Any, list[Any]]:
    """A row of sums for each distinct window, and which rows the fast and the slow windows (P,) have.

    For each time it adds up the ``window`` closes before, or all there are. Of whole numbers a difference of running sums
    is exact.
    """
    import numpy as np

    xp = namespace.xp
    host = namespace.to_host(windows)
    distinct, rows = np.unique(host, return_inverse=True)
    running = xp.cumulative_sum(close, axis=0) - close
    begins = times[None, :] - namespace.from_host(distinct)[:, None]
    begins = xp.reshape(xp.where(begins < 0, xp.zeros_like(begins), begins), (-1,))
    earlier = xp.reshape(xp.take(running, begins, axis=0), (distinct.size, times.shape[0]))
    return xp.take(running, times, axis=0) - earlier, [namespace.from_host(row) for row in rows.reshape(host.shape).T]


def _backtest(namespace: Namespace, params: Params, positions: Any, returns: Any, times: Any) -> tuple[Any, Any, Any]:
    """Equity, a row for each row of positions, statistics (rows, 3) and turnover (rows,)."""
    xp, zero = namespace.xp, namespace.zeros(())
    traded = xp.abs(positions[:, 1:] - positions[:, :-1])
    pnl = positions[:, 1:] * returns
    pnl -= params["cost"] * traded
    solvent = pnl > -1.0
    growth = xp.where(solvent, xp.log1p(xp.where(solvent, pnl, zero)), zero + _RUIN)
    wealth = _running_sums(namespace, growth)
    passes = namespace.asarray(times[1:] > times[:-1])
    count = float(xp.sum(passes))
    mean = _sums(namespace, pnl) / count
    pnl -= mean[:, None] * passes
    deviation = xp.sqrt(_sums(namespace, pnl * pnl) / (count - 1.0))
    still = deviation == 0.0
    sharpe = xp.where(still, zero + math.nan, mean / xp.where(still, zero + 1.0, deviation))
    sharpe *= math.sqrt(params["periods_per_year"])
    statistics = xp.stack((xp.expm1(wealth[:, -1]), sharpe, xp.expm1(_deepest_fall(namespace, wealth))), axis=1)
    return xp.exp(wealth), statistics, xp.astype(xp.sum(traded, axis=1), namespace.integer)


def _running_sums(namespace: Namespace, values: Any) -> Any:
    """Sums from the first element of each row up to each, in tiles, so that a long row loses no digits in float32."""
    xp = namespace.xp
    sums = xp.cumulative_sum(_tiled(namespace, values), axis=2)
    ends = sums[:, :, -1]
    sums = sums + (xp.cumulative_sum(ends, axis=1) - ends)[:, :, None]
    return xp.reshape(sums, values.shape)


def _sums(namespace: Namespace, values: Any) -> Any:
    """The sum of each row, in tiles as above."""
    xp = namespace.xp
    return xp.sum(xp.sum(_tiled(namespace, values), axis=2), axis=1)


def _tiled(namespace: Namespace, values: Any) -> Any:
    rows, columns = values.shape
    return namespace.xp.reshape(values, (rows, columns // _TILE, _TILE))


def _deepest_fall(namespace: Namespace, wealth: Any) -> Any:
    """The deepest fall from a peak in each row of log wealth (≤ 0).

    Neighbouring stretches of time join pairwise until one is left. A stretch is known by its highest and lowest wealth and
    its deepest fall; so no running maximum is needed.
    """
    xp = namespace.xp
    highest, lowest, deepest = wealth, wealth, xp.zeros_like(wealth)
    while deepest.shape[1] > 1:
        pairs = deepest.shape[1] // 2 * 2
        earlier, later = slice(0, pairs, 2), slice(1, pairs, 2)
        joined = (
            xp.maximum(highest[:, earlier], highest[:, later]),
            xp.minimum(lowest[:, earlier], lowest[:, later]),
            xp.minimum(xp.minimum(deepest[:, earlier], deepest[:, later]), lowest[:, later] - highest[:, earlier]),
        )
        if pairs < deepest.shape[1]:
            last = (highest[:, pairs:], lowest[:, pairs:], deepest[:, pairs:])
            joined = tuple(xp.concat(parts, axis=1) for parts in zip(joined, last, strict=True))
        highest, lowest, deepest = joined
    return deepest[:, 0]


def _check_periods(params: Params, dims: Dims) -> None:
    del params
    if not _LEAST_PERIODS <= dims["T"] <= _MOST_PERIODS:
        raise InvalidArray(
            f"{_NAME}: close has {dims['T']} periods; it needs {_LEAST_PERIODS} to {_MOST_PERIODS}", array="close"
        )


def _check_windows(params: Params, arrays: HostArrays) -> None:
    import numpy as np

    close, windows = arrays["close"], arrays["windows"].astype(np.int64)
    fast, slow = windows[:, 0], windows[:, 1]
    wrong = (fast >= slow) | (slow >= close.size)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise InvalidArray(
            f"{_NAME}: windows[{row}] is ({fast[row]}, {slow[row]}), but needs fast < slow < {close.size}, the number of "
            f"closes",
            array="windows",
        )
    highest, longest = int(close.max()), int((fast * slow).max())
    if highest * longest >= 2**63:
        raise InvalidArray(
            f"{_NAME}: a close of {highest} ticks is too large to compare averages over these windows exactly; give prices "
            f"in larger ticks, at most {(2**63 - 1) // longest} of them",
            array="close",
        )


def _positions(params: Params, dims: Dims) -> float:
    return float(dims["T"] * dims["P"])


def _example(work: float, rng: np.random.Generator) -> Example:
    """A geometric random walk in cents, ten years of days for much work, and fast and slow windows of up to 60 and 250 days."""
    import numpy as np

    rows = round(min(2_500, max(20, work / 4)))
    columns = max(1, round(work / rows))
    walk = np.cumsum(rng.normal(0.0003, rng.uniform(0.01, 0.02), rows))
    fast = rng.integers(1, min(60, rows // 4), columns, endpoint=True)
    slow = fast + rng.integers(1, min(190, rows // 2), columns, endpoint=True)
    return Example(
        {"cost": 0.0005, "allow_short": bool(rng.random() < 0.5)},
        {"close": np.rint(10_000.0 * np.exp(walk)).astype(np.int64), "windows": np.stack((fast, slow), axis=1)},
    )


BACKTEST_SMA_SWEEP = Workload(
    name=_NAME,
    summary="Backtests the crossing of two moving averages for many pairs of windows.",
    source="Brock, Lakonishok, LeBaron (1992), Simple Technical Trading Rules and the Stochastic Properties of Stock Returns, "
    "Journal of Finance 47(5)",
    engines=("Strategy",),
    parameters=(
        Parameter(
            name="cost",
            type="float",
            unit="share of the value traded",
            default=0.0,
            minimum=0.0,
            maximum=1.0,
            doc="cost of changing the position by 1, paid in the period that it changes in",
        ),
        Parameter(
            name="allow_short",
            type="bool",
            default=False,
            doc="be short, instead of out of the market, while the fast average is not above the slow one",
        ),
        Parameter(
            name="periods_per_year",
            type="int",
            unit="periods per year",
            default=252,
            minimum=1,
            maximum=1_000_000,
            doc="periods that a year has, for the Sharpe ratio: 252 trading days, 52 weeks, 12 months",
        ),
    ),
    inputs=(
        Array(
            name="close",
            shape=("T",),
            unit="ticks",
            dtype="int64",
            accepts=("int64", "int32"),
            minimum=1,
            maximum=_MOST_TICKS,
            doc="closing prices as whole numbers of a price step that divides them all, such as cents; only their ratios "
            "matter, and whole numbers are compared exactly",
        ),
        Array(
            name="windows",
            shape=("P", 2),
            unit="periods",
            dtype="int64",
            accepts=("int64", "int32"),
            minimum=1,
            doc="fast and slow window of each parameter row; fast < slow < T",
        ),
    ),
    outputs=(
        Array(
            name="equity",
            shape=("T", "P"),
            unit="1 (the start is 1)",
            doc="E_t = E_(t−1)·max(0, 1 + pnl_t) after each period; pnl_t = position_t·return_t − cost·|position_t − "
            "position_(t−1)|. A position is what the averages up to the close before say: 1 if fast > slow, else 0 "
            "(or −1); 0 until there are enough closes for the slow one",
        ),
        Array(
            name="statistics",
            shape=("P", 3),
            unit="total_return: 1; sharpe: 1; max_drawdown: 1 (≤ 0)",
            doc="columns total_return = E_T − 1, sharpe (annualised mean ÷ standard deviation of pnl over the T−1 periods that "
            "have a return; NaN where pnl is always 0), max_drawdown",
            finite=False,
        ),
        Array(
            name="turnover",
            shape=("P",),
            unit="times the equity",
            dtype="int64",
            doc="Σ|position_t − position_(t−1)|: value traded, and without short positions the number of trades. What is held "
            "at the end is not sold",
        ),
    ),
    kernel=_backtest_sma_sweep,
    work=_positions,
    work_unit="positions",
    example=_example,
    work_range=(1e3, 1e7),
    tolerance=1e-5,
    variants=({"allow_short": False}, {"allow_short": True}),
    batch_dim="P",
    check_task=_check_periods,
    check=_check_windows,
    split=split_along({"windows": 0}),
    merge=merge_along({"equity": 1, "statistics": 0, "turnover": 0}),
    join=Join(inputs={"windows": 0}, outputs={"equity": 1, "statistics": 0, "turnover": 0}),
)

WORKLOADS: tuple[Workload, ...] = (BACKTEST_SMA_SWEEP,)
