"""Rolling features against pandas, with NumPy's convolution for the fractional difference, which pandas lacks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import numpy as np

from benchmarks.references import Case, Missing
from routerd.workloads.differencing import difference_weights
from routerd.workloads.prices import example_bars

_WINDOW, _DECAY, _ORDER, _THRESHOLD = 20, 0.94, 0.4, 1e-4


def cases(quick: bool) -> list[Case | Missing]:
    if find_spec("pandas") is None:
        return [Missing("features.rolling", "pandas is not installed")]
    days, stocks = (500, 32) if quick else (2_500, 500)
    blocks = [example_bars(16 * days, np.random.default_rng(seed), days) for seed in range(-(-stocks // 3))]
    bars = {
        name: np.ascontiguousarray(np.concatenate([block[name][:days] for block in blocks], axis=1)[:, :stocks])
        for name in blocks[0]
    }
    stocks = bars["close"].shape[1]
    return [
        Case(
            workload="features.rolling",
            scale=f"{days:,} days × {stocks} stocks".replace(",", " "),
            library="pandas",
            params={
                "window": _WINDOW,
                "decay_factor": _DECAY,
                "difference_order": _ORDER,
                "weight_threshold": _THRESHOLD,
            },
            arrays=bars,
            peer=lambda: _peer(bars),
            difference=_difference,
            agreement=1e-8,
            target=1.0,
            note="pandas: rolling, ewm; fractional difference by numpy.convolve, one stock at a time",
        )
    ]


def _peer(bars: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    import pandas as pd

    open_, high, low, close = (pd.DataFrame(bars[name]) for name in ("open", "high", "low", "close"))
    rolling = close.rolling(_WINDOW)
    logs = np.log(close)
    variance = 0.5 * np.log(high / low) ** 2 - (2.0 * math.log(2.0) - 1.0) * np.log(close / open_) ** 2
    weights = difference_weights(_ORDER, _THRESHOLD)
    difference = np.full(logs.shape, np.nan)
    for column, series in enumerate(logs.to_numpy().T):
        difference[len(weights) - 1 :, column] = np.convolve(series, weights, "valid")
    return [
        ((close - rolling.mean()) / rolling.std()).to_numpy(),
        np.sqrt((logs.diff() ** 2).ewm(alpha=1.0 - _DECAY).mean()).to_numpy(),
        np.sqrt(variance.rolling(_WINDOW).mean()).to_numpy(),
        difference,
    ]


def _difference(outputs: Mapping[str, Any], peer: list[np.ndarray]) -> float:
    worst = 0.0
    for place, theirs in enumerate(peer):
        ours = outputs["features"][:, :, place]
        if not np.array_equal(np.isnan(ours), np.isnan(theirs)):
            return float("inf")
        worst = max(worst, float(np.nanmax(np.abs(ours - theirs)) / np.nanmax(np.abs(theirs))))
    return worst
