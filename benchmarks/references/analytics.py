"""Performance statistics against empyrical-reloaded, column by column as its users call it, and against quantstats."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np

from benchmarks.references import Case, Missing

_NAME = "analytics.performance"


def cases(quick: bool) -> list[Case | Missing]:
    rows, columns = (250, 8) if quick else (2_500, 500)
    returns = np.random.default_rng(0).normal(3e-4, 0.01, (rows, columns))
    found: list[Case | Missing] = []
    if find_spec("empyrical") is None:
        found.append(Missing(_NAME, "empyrical-reloaded is not installed"))
    else:
        found.append(_empyrical(returns))
    if find_spec("quantstats") is None:
        found.append(Missing(_NAME, "quantstats is not installed"))
    else:
        found.append(_quantstats(returns))
    return found


def _empyrical(returns: np.ndarray[Any, Any]) -> Case:
    import empyrical as ep

    functions = (ep.sharpe_ratio, ep.sortino_ratio, ep.max_drawdown, ep.calmar_ratio, ep.annual_volatility)

    def peer() -> np.ndarray[Any, Any]:
        return np.array([[function(column) for function in functions] for column in returns.T])

    return Case(
        workload=_NAME,
        scale=f"{returns.shape[0]:,} days × {returns.shape[1]} series",
        library="empyrical-reloaded",
        params={},
        arrays={"returns": returns},
        peer=peer,
        difference=_relative,
        agreement=1e-9,
    )


def _quantstats(returns: np.ndarray[Any, Any]) -> Case:
    """quantstats takes pandas series with dates; its Sharpe, Sortino and drawdown have the same definitions."""
    import pandas as pd
    import quantstats.stats as qs

    some = min(20, returns.shape[1])
    days = pd.bdate_range("2015-01-01", periods=len(returns))
    series = [pd.Series(returns[:, column], index=days) for column in range(some)]

    def peer() -> np.ndarray[Any, Any]:
        return np.array([[qs.sharpe(one), qs.sortino(one), qs.max_drawdown(one)] for one in series], dtype=float)

    def difference(outputs: Any, wanted: np.ndarray[Any, Any]) -> float:
        return _relative({"statistics": outputs["statistics"][:some, :3]}, wanted)

    return Case(
        workload=_NAME,
        scale=f"{returns.shape[0]:,} days × {returns.shape[1]} series",
        library=f"quantstats (three of the five, {some} series)",
        params={},
        arrays={"returns": returns},
        peer=peer,
        peer_calls=returns.shape[1] / some,
        difference=difference,
        agreement=1e-9,
    )


def _relative(outputs: Any, wanted: np.ndarray[Any, Any]) -> float:
    return float(np.max(np.abs(outputs["statistics"] - wanted) / np.abs(wanted)))
