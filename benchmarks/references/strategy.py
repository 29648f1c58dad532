"""Moving-average sweeps against a loop of pandas over the pairs of windows, and of plain Python over the days."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

import numpy as np

from benchmarks.references import Case, Missing

_NAME = "strategy.backtest_sma_sweep"
_COST = 0.0005


def cases(quick: bool) -> list[Case | Missing]:
    pairs, days = (50, 250) if quick else (1_000, 2_500)
    found: list[Case | Missing] = [_case("plain Python", pairs, 250, 1 if quick else 10, _by_loop)]
    if find_spec("pandas") is None:
        found.append(Missing(_NAME, "pandas is not installed"))
    else:
        found.append(_case("pandas", pairs, days, 10 if quick else 25, _by_pandas))
    return found


def _case(
    library: str, pairs: int, days: int, share: int, backtest: Callable[[np.ndarray, int, int], list[float]]
) -> Case:
    """``share`` of the pairs are enough for the peer, which takes as long for each."""
    rng = np.random.default_rng(0)
    close = np.rint(10_000.0 * np.exp(np.cumsum(rng.normal(0.0003, 0.015, days)))).astype(np.int64)
    fast = rng.integers(2, 60, pairs)
    windows = np.stack((fast, fast + rng.integers(5, 140, pairs)), axis=1)

    def difference(outputs: Mapping[str, Any], curves: list[list[float]]) -> float:
        return float(np.abs(outputs["equity"][:, :share] - np.transpose(curves)).max())

    return Case(
        workload=_NAME,
        scale=f"{pairs} pairs of windows × {days} days",
        library=library,
        params={"cost": _COST},
        arrays={"close": close, "windows": windows},
        peer=lambda: [backtest(close, *pair) for pair in windows[:share].tolist()],
        peer_calls=pairs / share,
        difference=difference,
        note="one ticker, each pair's equity curve, Sharpe ratio and maximum drawdown",
    )


def _by_pandas(close: np.ndarray, fast: int, slow: int) -> Any:
    import pandas as pd

    price = pd.Series(close)
    averages = price.rolling(fast).mean(), price.rolling(slow).mean()
    position = (averages[0] > averages[1]).shift(1, fill_value=False).astype(float)
    pnl = (position * price.pct_change()).fillna(0.0) - _COST * position.diff().abs().fillna(0.0)
    equity = (1.0 + pnl).cumprod()
    _ = pnl.mean() / pnl.std() * math.sqrt(252.0), (equity / equity.cummax() - 1.0).min()
    return equity


def _by_loop(close: np.ndarray, fast: int, slow: int) -> list[float]:
    days = close.tolist()
    fast_sum = slow_sum = held = 0
    equity, peak, drawdown, total, squares = [1.0], 1.0, 0.0, 0.0, 0.0
    for day in range(1, len(days)):
        before = days[day - 1]
        fast_sum += before - (days[day - 1 - fast] if day > fast else 0)
        slow_sum += before - (days[day - 1 - slow] if day > slow else 0)
        position = 1 if day >= slow and fast_sum * slow > slow_sum * fast else 0
        pnl = position * (days[day] - before) / before - _COST * abs(position - held)
        held = position
        total += pnl
        squares += pnl * pnl
        equity.append(equity[-1] * (1.0 + pnl))
        peak = max(peak, equity[-1])
        drawdown = min(drawdown, equity[-1] / peak - 1.0)
    return equity
