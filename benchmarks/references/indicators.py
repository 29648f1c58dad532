"""Indicators against TA-Lib, which is C and goes through one series at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np

from benchmarks.references import Case, Missing
from routerd.workloads.indicators import WORKLOADS
from routerd.workloads.prices import example_bars

_TARGET = 0.5
_NOTE = (
    "one series, then sixteen side by side; TA-Lib gets each series contiguous, as it wants it. One compiled loop that keeps "
    "its state in registers is hard to reach for NumPy, which passes over memory for every operation"
)


def cases(quick: bool) -> list[Case | Missing]:
    if find_spec("talib") is None:
        return [Missing(workload.name, "TA-Lib is not installed") for workload in WORKLOADS]
    rows = 10_000 if quick else 100_000
    found: list[Case | Missing] = []
    for columns in (1, 16):
        bars = example_bars(rows * columns, np.random.default_rng(0), rows)
        bars = {name: np.ascontiguousarray(array[:rows, :columns]) for name, array in bars.items()}
        for workload in WORKLOADS:
            params = {parameter.name: parameter.default for parameter in workload.parameters}
            arrays = {array.name: bars[array.name] for array in workload.inputs}
            found.append(
                Case(
                    workload=workload.name,
                    scale=f"{rows:,}×{columns}".replace(",", " "),
                    library="TA-Lib",
                    params=params,
                    arrays=arrays,
                    peer=_peer(workload.name, arrays, list(params.values())),
                    difference=partial(_difference, [output.name for output in workload.outputs]),
                    agreement=2e-9,
                    target=_TARGET,
                    note=_NOTE,
                )
            )
    return found


def _peer(name: str, arrays: Mapping[str, np.ndarray], params: list[Any]) -> Callable[[], list[Any]]:
    import talib

    function = getattr(talib, name.split(".")[1].upper())
    columns = next(iter(arrays.values())).shape[1]
    series = [[np.ascontiguousarray(array[:, column]) for array in arrays.values()] for column in range(columns)]
    return lambda: [function(*one, *params) for one in series]


def _difference(names: list[str], outputs: Mapping[str, Any], peer: list[Any]) -> float:
    """The largest difference of any value, beside the size of what is largest in its series."""
    worst = 0.0
    for column, values in enumerate(peer):
        for name, theirs in zip(names, values if isinstance(values, tuple) else (values,), strict=True):
            ours = outputs[name][:, column]
            if not np.array_equal(np.isnan(ours), np.isnan(theirs)):
                return float("inf")
            worst = max(worst, float(np.nanmax(np.abs(ours - theirs)) / np.nanmax(np.abs(theirs))))
    return worst
