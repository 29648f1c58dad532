"""Moving averages."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

from routerd.interfaces import Arrays, Namespace, Params
from routerd.workloads.indicators.declaration import indicator, period, values
from routerd.workloads.scan import filled, row_spans, smooth
from routerd.workloads.windows import window_spans, window_sums


def _sma(namespace: Namespace, params: Params, arrays: Arrays) -> Arrays:
    close, length = arrays["close"], params["period"]
    rows, columns = close.shape

    def means() -> Iterator[Any]:
        for start, stop in window_spans(namespace, rows, columns, length):
            yield window_sums(close[start : stop + length - 1, :], length) / length

    return {"sma": filled(namespace, (rows, columns), length - 1, means())}


def _ema(namespace: Namespace, params: Params, arrays: Arrays) -> Arrays:
    """The first value is the mean of the first ``period`` bars; from there y += 2/(period+1)·(x − y)."""
    close, length = arrays["close"], params["period"]
    rows, columns = close.shape
    seed = namespace.xp.mean(close[:length, :], axis=0)
    weight = 2.0 / (length + 1.0)
    blocks = (close[start:stop, :] + 0.0 for start, stop in row_spans(namespace, length, rows, columns))
    averages = smooth(namespace, blocks, seed, 1.0 - weight, weight)
    return {"ema": filled(namespace, (rows, columns), length - 1, chain([seed[None, :]], averages))}


SMA = indicator(
    "indicators.sma",
    "Simple moving average over the last bars.",
    "TA-Lib, TA_SMA",
    _sma,
    parameters=(period("period", 30, 1, "bars that a mean is taken over"),),
    outputs=(values("sma", "currency"),),
    bars_needed=lambda params: int(params["period"]),
    tolerance=1e-6,
    example_params={"period": 14},
)

EMA = indicator(
    "indicators.ema",
    "Exponential moving average, seeded with the simple one.",
    "TA-Lib, TA_EMA",
    _ema,
    parameters=(period("period", 30, 1, "bars of the simple average that has the same mean age"),),
    outputs=(values("ema", "currency"),),
    bars_needed=lambda params: int(params["period"]),
    tolerance=1e-6,
    example_params={"period": 14},
)
