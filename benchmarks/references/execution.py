"""Schedules against SciPy's banded solver, order by order; order checks against scalar rules, one order after another."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import numpy as np

from benchmarks.references import Case, Missing
from routerd.workloads.execution import ALMGREN_CHRISS, PRETRADE


def cases(quick: bool) -> list[Case | Missing]:
    return [_schedules(quick), _checks(quick)]


def _schedules(quick: bool) -> Case | Missing:
    """The best schedule makes the gradient vanish: −x_(j−1) + (2 + κ̃²τ²)·x_j − x_(j+1) = 0 between X and 0."""
    if find_spec("scipy") is None:
        return Missing(ALMGREN_CHRISS.name, "scipy is not installed")
    from scipy.linalg import solveh_banded

    count, periods = (50, 20) if quick else (10_000, 100)
    share = count // 10
    arrays = ALMGREN_CHRISS.example(100.0 * count, np.random.default_rng(0)).arrays
    arrays = {name: array[:count] for name, array in arrays.items()}

    def peer() -> np.ndarray:
        holdings = np.zeros((share, periods + 1))
        columns = (array[:share].tolist() for array in arrays.values())
        for row, (shares, horizon, volatility, temporary, permanent, aversion) in enumerate(zip(*columns, strict=True)):
            interval = horizon / periods
            bands = np.full((2, periods - 1), -1.0)
            bands[1] = 2.0 + aversion * volatility**2 * interval**2 / (temporary - 0.5 * permanent * interval)
            right = np.zeros(periods - 1)
            right[0] = shares
            holdings[row, 0] = shares
            holdings[row, 1:-1] = solveh_banded(bands, right, check_finite=False)
        return holdings

    def difference(outputs: Mapping[str, Any], holdings: np.ndarray) -> float:
        return float(np.linalg.norm(outputs["holdings"][:share] - holdings) / np.linalg.norm(holdings))

    return Case(
        workload=ALMGREN_CHRISS.name,
        scale=f"{count} orders × {periods} periods",
        library="scipy solveh_banded",
        params={"num_periods": periods},
        arrays=arrays,
        peer=peer,
        peer_calls=count / share,
        difference=difference,
        note="the peer gives holdings alone, without trades, cost and variance",
    )


def _checks(quick: bool) -> Case:
    count = 2_000 if quick else 1_000_000
    share = count // 50
    example = PRETRADE.example(count, np.random.default_rng(0))
    arrays = example.arrays
    collar = float(example.params["price_collar"])
    orders = [arrays[name][:share].tolist() for name in ("instrument", "side", "price", "quantity")]

    def difference(outputs: Mapping[str, Any], flags: list[int]) -> float:
        return float(np.mean(outputs["flags"][:share] != np.array(flags)))

    return Case(
        workload=PRETRADE.name,
        scale=f"{count} orders",
        library="plain Python",
        params=example.params,
        arrays=arrays,
        peer=lambda: _by_rules(orders, arrays, collar),
        peer_calls=count / share,
        difference=difference,
        agreement=0.0,
    )


def _by_rules(orders: list[list[Any]], arrays: Mapping[str, np.ndarray], collar: float) -> list[int]:
    names = ("reference_price", "max_quantity", "max_notional", "position", "position_limit")
    limits = list(zip(*(arrays[name].tolist() for name in names), strict=True))
    working = {1: arrays["open_buys"].tolist(), -1: arrays["open_sells"].tolist()}
    found = []
    for instrument, side, price, quantity in zip(*orders, strict=True):
        known = 0 <= instrument < len(limits) and 0.0 < limits[instrument][0] < float("inf")
        sound = side in working and 0.0 < price < float("inf") and 0.0 < quantity < float("inf")
        flag = 16 * (not known) + 32 * (not sound)
        if flag == 0:
            reference, most, costliest, position, largest = limits[instrument]
            if abs(price - reference) > collar * reference + 1e-12 * reference:
                flag |= 1
            if quantity > most:
                flag |= 2
            if price * quantity > costliest:
                flag |= 4
            if flag == 0:
                working[side][instrument] += quantity
                if working[side][instrument] + side * position > largest:
                    flag |= 8
        found.append(flag)
    return found
