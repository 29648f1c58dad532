"""VPIN against the loop that the paper describes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from statistics import fmean
from typing import Any

import numpy as np

from benchmarks.references import Case, Missing
from routerd.workloads.microstructure import VPIN


def cases(quick: bool) -> list[Case | Missing]:
    bars = 2_000 if quick else 100_000
    example = VPIN.example(bars, np.random.default_rng(0))
    symbols = range(example.arrays["close"].shape[1])
    columns = [[example.arrays[name][:, symbol].tolist() for name in ("close", "volume")] for symbol in symbols]
    sizes, window = example.arrays["bucket_volume"].tolist(), int(example.params["window"])
    return [
        Case(
            workload=VPIN.name,
            scale=f"{bars:,} bars of {len(symbols)} symbols, a bucket takes 20, a window 50 buckets",
            library="a loop over the bars",
            params=example.params,
            arrays=example.arrays,
            peer=lambda: [
                value
                for (close, volume), size in zip(columns, sizes, strict=True)
                for value in _loop(close, volume, size, window)
            ],
            difference=_difference,
            target=20.0,
        )
    ]


def _difference(outputs: Mapping[str, Any], vpin: list[float]) -> float:
    if outputs["vpin"].shape != (len(vpin),):
        return float("inf")
    return float(np.linalg.norm(outputs["vpin"] - vpin) / np.linalg.norm(vpin))


def _loop(close: list[float], volume: list[float], size: float, window: int) -> list[float]:
    changes = [after - before for before, after in pairwise(close)]
    mean = fmean(changes)
    deviation = math.sqrt(sum((change - mean) ** 2 for change in changes) / (len(changes) - 1))
    imbalances: list[float] = []
    bought, filled = 0.0, 0.0
    for change, traded in zip(changes, volume[1:], strict=True):
        share = 0.5 * math.erfc(-change / deviation * math.sqrt(0.5))
        left = traded
        while filled + left >= size:
            part = size - filled
            imbalances.append(abs(size - 2.0 * (bought + part * share)))
            left -= part
            bought, filled = 0.0, 0.0
        bought += left * share
        filled += left
    total = sum(imbalances[:window])
    vpin = [total / (window * size)]
    for out, come in zip(imbalances, imbalances[window:], strict=False):
        total += come - out
        vpin.append(total / (window * size))
    return vpin
