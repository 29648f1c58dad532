"""Indicators of how fast and how steadily prices move."""

from __future__ import annotations

from itertools import chain, tee
from typing import Any

from routerd.errors import InvalidParameter
from routerd.interfaces import Arrays, Namespace, Params
from routerd.workloads.indicators.declaration import indicator, period, values
from routerd.workloads.scan import filled, row_spans, smooth

# An average move below this, which float32 still holds, is no move.
_NO_MOVE = 1e-37


def _rsi(namespace: Namespace, params: Params, arrays: Arrays) -> Arrays:
    """100·gain/(gain + loss) with Wilder's averages of the rises and the falls, and 0 where nothing moved at all.

    Through bars without any move both averages fade until nothing has moved: after about 85 periods.
    """
    xp, close, length = namespace.xp, arrays["close"], params["period"]
    rows, columns = close.shape
    zero = namespace.zeros(())
    decay, weight = 1.0 - 1.0 / length, 1.0 / length

    def index(gain: Any, moved: Any) -> Any:
        gain *= 100.0
        gain /= xp.maximum(moved, zero + _NO_MOVE)
        return gain

    seed = close[1 : length + 1, :] - close[:length, :]
    seed_gain, seed_moved = xp.mean(xp.maximum(seed, zero), axis=0), xp.mean(xp.abs(seed), axis=0)
    changes, same = tee(_changes(namespace, close, length + 1, rows))
    gain = smooth(namespace, (xp.maximum(change, zero) for change in changes), seed_gain, decay, weight)
    moved = smooth(namespace, (xp.abs(change) for change in same), seed_moved, decay, weight)
    first = index(seed_gain[None, :] + 0.0, seed_moved[None, :])
    return {"rsi": filled(namespace, (rows, columns), length, chain([first], map(index, gain, moved)))}


def _macd(namespace: Namespace, params: Params, arrays: Arrays) -> Arrays:
    """Both averages start at bar slow_period − 1, each from the simple average of its own period up to there.

    What is scanned is how far the price is from each average, which changes with the price alone: g' = d·(g + Δprice). So
    float32 need not take the difference of two averages as large as the price.
    """
    xp, close = namespace.xp, arrays["close"]
    fast, slow, signal = params["fast_period"], params["slow_period"], params["signal_period"]
    rows, columns = close.shape
    first, warm = slow - 1, slow + signal - 2

    def start(length: int) -> Any:
        return xp.mean(close[first : first + 1, :] - close[slow - length : slow, :], axis=0)

    def gaps(length: int, changes: Any) -> Any:
        decay = 1.0 - 2.0 / (length + 1.0)
        return smooth(namespace, changes, start(length), decay, decay)

    changes, same = tee(_changes(namespace, close, slow, rows))
    ahead = gaps(slow, (change + 0.0 for change in changes))
    behind = gaps(fast, same)
    beginning = (start(slow) - start(fast))[None, :]
    lines = (slow_gap - fast_gap for slow_gap, fast_gap in zip(ahead, behind, strict=True))
    macd = filled(namespace, (rows, columns), first, chain([beginning], lines))
    weight = 2.0 / (signal + 1.0)
    seed = xp.mean(macd[first : warm + 1, :], axis=0)
    blocks = (macd[begin:end, :] + 0.0 for begin, end in row_spans(namespace, warm + 1, rows, columns))
    averages = smooth(namespace, blocks, seed, 1.0 - weight, weight)
    line = filled(namespace, (rows, columns), warm, chain([seed[None, :]], averages))
    macd[:warm, :] += line[:warm, :]  # NaN: TA-Lib shows nothing before all three are warm
    return {"macd": macd, "signal": line, "histogram": macd - line}


def _changes(namespace: Namespace, close: Any, start: int, stop: int) -> Any:
    """The changes from the bar before of the bars from ``start`` to ``stop``, in blocks."""
    for begin, end in row_spans(namespace, start, stop, close.shape[1]):
        yield close[begin:end, :] - close[begin - 1 : end - 1, :]


def _check_macd_periods(params: Params) -> None:
    fast, slow = params["fast_period"], params["slow_period"]
    if fast >= slow:
        raise InvalidParameter(
            f"indicators.macd: fast_period must be less than slow_period, got {fast} and {slow}",
            parameter="fast_period",
        )


RSI = indicator(
    "indicators.rsi",
    "Relative strength index with Wilder's smoothing.",
    "Wilder (1978), New Concepts in Technical Trading Systems; TA-Lib, TA_RSI",
    _rsi,
    parameters=(period("period", 14, 2, "bars of Wilder's averages: each new move weighs one part in so many"),),
    outputs=(values("rsi", "0 to 100"),),
    bars_needed=lambda params: int(params["period"]) + 1,
    tolerance=1e-5,
    example_params={"period": 14},
)

MACD = indicator(
    "indicators.macd",
    "Moving average convergence/divergence: a fast minus a slow exponential average, and its own average.",
    "Appel (1979), The Moving Average Convergence-Divergence Trading Method; TA-Lib, TA_MACD",
    _macd,
    parameters=(
        period("fast_period", 12, 2, "bars of the fast average, fewer than of the slow one"),
        period("slow_period", 26, 2, "bars of the slow average"),
        period("signal_period", 9, 1, "bars of the average of the difference"),
    ),
    outputs=(
        values("macd", "currency", "fast average − slow average at each bar"),
        values("signal", "currency", "exponential average of macd"),
        values("histogram", "currency", "macd − signal", scale="macd"),
    ),
    bars_needed=lambda params: int(params["slow_period"] + params["signal_period"]) - 1,
    check_periods=_check_macd_periods,
    tolerance=1e-5,
    example_params={},
)
