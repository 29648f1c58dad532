"""Indicators of how far prices range."""

from __future__ import annotations

from itertools import chain
from typing import Any

from routerd.interfaces import Arrays, HostArrays, Namespace, Parameter, Params
from routerd.workloads.indicators.declaration import CLOSE, HIGH, LOW, indicator, period, values
from routerd.workloads.prices import check_order
from routerd.workloads.scan import filled, row_spans, smooth
from routerd.workloads.windows import window_moments, window_spans


def _bbands(namespace: Namespace, params: Params, arrays: Arrays) -> Arrays:
    """Mean ± deviations · population standard deviation of each window, about the level of the block it is in."""
    xp, close, length = namespace.xp, arrays["close"], params["period"]
    rows, columns = close.shape
    warm = length - 1
    up, down = params["deviations_up"] / length, params["deviations_down"] / length
    upper, middle, lower = (filled(namespace, (rows, columns), warm, ()) for _ in range(3))
    for start, stop in window_spans(namespace, rows, columns, length):
        level = close[start : start + 1, :]
        mean, deviation = window_moments(close[start : stop + warm, :] - level, length)
        mean = mean / length
        mean += level
        deviation = xp.sqrt(deviation)
        middle[start + warm : stop + warm, :] = mean
        upper[start + warm : stop + warm, :] = mean + up * deviation
        lower[start + warm : stop + warm, :] = mean - down * deviation
    return {"upper": upper, "middle": middle, "lower": lower}


def _atr(namespace: Namespace, params: Params, arrays: Arrays) -> Arrays:
    """Wilder's average of the true range: how far a bar reaches, the close before it included."""
    xp, high, low, close = namespace.xp, arrays["high"], arrays["low"], arrays["close"]
    length = params["period"]
    rows, columns = close.shape

    def true_range(start: int, stop: int) -> Any:
        before = close[start - 1 : stop - 1, :]
        reach = xp.maximum(high[start:stop, :], before)
        reach -= xp.minimum(low[start:stop, :], before)
        return reach

    seed = xp.mean(true_range(1, length + 1), axis=0)
    blocks = (true_range(start, stop) for start, stop in row_spans(namespace, length + 1, rows, columns))
    averages = smooth(namespace, blocks, seed, 1.0 - 1.0 / length, 1.0 / length)
    return {"atr": filled(namespace, (rows, columns), length, chain([seed[None, :]], averages))}


def _check_atr(params: Params, arrays: HostArrays) -> None:
    check_order("indicators.atr", arrays, "low", "high")


def _deviations(side: str) -> Parameter:
    return Parameter(
        name=f"deviations_{side}",
        type="float",
        unit="standard deviations",
        default=2.0,
        minimum=0.0,
        maximum=100.0,
        doc=f"how far the {'upper' if side == 'up' else 'lower'} band is from the middle",
    )


BBANDS = indicator(
    "indicators.bbands",
    "Bollinger bands: a moving average and a number of standard deviations to both sides of it.",
    "Bollinger (2001), Bollinger on Bollinger Bands; TA-Lib, TA_BBANDS (simple average, population deviation)",
    _bbands,
    parameters=(
        period("period", 20, 1, "bars that mean and deviation are taken over"),
        _deviations("up"),
        _deviations("down"),
    ),
    outputs=(
        values("upper", "currency", "mean + deviations_up · standard deviation"),
        values("middle", "currency", "mean"),
        values("lower", "currency", "mean − deviations_down · standard deviation", scale="middle"),
    ),
    bars_needed=lambda params: int(params["period"]),
    tolerance=1e-6,
    example_params={"period": 14},
)

ATR = indicator(
    "indicators.atr",
    "Average true range with Wilder's smoothing.",
    "Wilder (1978), New Concepts in Technical Trading Systems; TA-Lib, TA_ATR",
    _atr,
    parameters=(period("period", 14, 1, "bars of Wilder's average: each new range weighs one part in so many"),),
    inputs=(HIGH, LOW, CLOSE),
    outputs=(values("atr", "currency"),),
    bars_needed=lambda params: int(params["period"]) + 1,
    check=_check_atr,
    tolerance=1e-5,
    example_params={"period": 14},
)
