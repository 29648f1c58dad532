"""Technical indicators as TA-Lib defines them, over many series at once."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from routerd.errors import InvalidParameter
from routerd.interfaces import Array, Arrays, Dims, Example, HostArrays, Namespace, Parameter, Params, Workload
from routerd.workloads.scan import joined, row_spans, smooth, window_sums

if TYPE_CHECKING:
    import numpy as np

_MAX_PERIOD = 100_000
_EXAMPLE_PERIOD = 14


def _sma(namespace: Namespace, params: Params, arrays: Arrays) -> Arrays:
    close, period = arrays["close"], params["period"]
    means = window_sums(namespace, close, period)
    return {"sma": joined(namespace, [_blank(namespace, period - 1, close.shape[1]), means / period])}


def _ema(namespace: Namespace, params: Params, arrays: Arrays) -> Arrays:
    """The first value is the mean of the first ``period`` bars; from there y += 2/(period+1)·(x − y)."""
    close, period = arrays["close"], params["period"]
    rows, columns = close.shape
    seed = namespace.xp.mean(close[:period, :], axis=0)
    weight = 2.0 / (period + 1.0)
    blocks = (close[start:stop, :] for start, stop in row_spans(namespace, period, rows, columns))
    values = smooth(namespace, blocks, seed, 1.0 - weight, weight)
    return {"ema": joined(namespace, [_blank(namespace, period - 1, columns), seed[None, :], *values])}


def _rsi(namespace: Namespace, params: Params, arrays: Arrays) -> Arrays:
    """100·gain/(gain + loss) with Wilder's averages of the rises and the falls, and 0 where nothing moved at all.

    Through bars without any move both averages fade until they underflow to "nothing moved": after about 700 periods in
    float64, 85 in float32.
    """
    xp, close, period = namespace.xp, arrays["close"], params["period"]
    rows, columns = close.shape
    zero = namespace.zeros(())

    def moves(start: int, stop: int) -> Any:
        """Rises and absolute changes side by side: one scan serves both."""
        changes = close[start:stop, :] - close[start - 1 : stop - 1, :]
        return xp.concat((xp.maximum(changes, zero), xp.abs(changes)), axis=1)

    def index(averages: Any) -> Any:
        gain, moved = averages[:, :columns], averages[:, columns:]
        return 100.0 * gain / xp.where(moved == 0.0, zero + 1.0, moved)

    seed = xp.mean(moves(1, period + 1), axis=0)
    blocks = (moves(start, stop) for start, stop in row_spans(namespace, period + 1, rows, 2 * columns))
    averages = smooth(namespace, blocks, seed, 1.0 - 1.0 / period, 1.0 / period)
    values = [index(seed[None, :]), *(index(block) for block in averages)]
    return {"rsi": joined(namespace, [_blank(namespace, period, columns), *values])}


def _blank(namespace: Namespace, rows: int, columns: int) -> Any:
    """The rows of NaN before an indicator is warm."""
    return namespace.zeros((rows, columns)) + math.nan


def _bars(params: Params, dims: Dims) -> float:
    return float(dims["T"] * dims["S"])


def _prices_example(work: float, rng: np.random.Generator) -> Example:
    """Geometric random walks with a daily volatility of 1–3 %, reflected at a fifth and at five times the first price.

    One series for little work, then up to sixteen.
    """
    import numpy as np

    columns = int(min(16, max(1, work // 4_096)))
    rows = max(2 * _EXAMPLE_PERIOD, round(work / columns))
    steps = rng.standard_normal((rows, columns)) * rng.uniform(0.01, 0.03, columns)
    bound = math.log(5.0)
    walk = np.abs((np.cumsum(steps, axis=0) + bound) % (4.0 * bound) - 2.0 * bound) - bound
    return Example({"period": _EXAMPLE_PERIOD}, {"close": 100.0 * np.exp(walk)})


def _needs_rows(name: str, beyond: int) -> Any:
    def check(params: Params, arrays: HostArrays) -> None:
        rows, needed = arrays["close"].shape[0], params["period"] + beyond
        if rows < needed:
            raise InvalidParameter(
                f"{name}: a period of {params['period']} needs at least {needed} bars, close has {rows}; "
                f"shorten the period or send more bars",
                parameter="period",
            )

    return check


def _indicator(
    name: str,
    summary: str,
    source: str,
    kernel: Any,
    *,
    minimum: int,
    beyond: int,
    unit: str,
    default: int,
    tolerance: float,
) -> Workload:
    full_name = f"indicators.{name}"
    return Workload(
        name=full_name,
        summary=summary,
        source=source,
        engines=("Analytics", "Strategy"),
        parameters=(
            Parameter(
                name="period",
                type="int",
                unit="bars",
                default=default,
                minimum=minimum,
                maximum=_MAX_PERIOD,
                doc="bars that one value looks back over",
            ),
        ),
        inputs=(
            Array(
                name="close",
                shape=("T", "S"),
                unit="currency",
                doc="closing prices, one bar a row and one series a column; a single series is (T, 1)",
            ),
        ),
        outputs=(
            Array(
                name=name,
                shape=("T", "S"),
                unit=unit,
                doc="one value a bar, NaN until the indicator is warm",
                finite=False,
            ),
        ),
        kernel=kernel,
        work=_bars,
        work_unit="bars",
        example=_prices_example,
        work_range=(1e2, 4e6),
        tolerance=tolerance,
        batch_dim="S",
        check=_needs_rows(full_name, beyond),
    )


SMA = _indicator(
    "sma",
    "Simple moving average over the last bars.",
    "TA-Lib, TA_SMA",
    _sma,
    minimum=1,
    beyond=0,
    unit="currency",
    default=30,
    tolerance=1e-6,
)
EMA = _indicator(
    "ema",
    "Exponential moving average, seeded with the simple one.",
    "TA-Lib, TA_EMA",
    _ema,
    minimum=1,
    beyond=0,
    unit="currency",
    default=30,
    tolerance=1e-6,
)
RSI = _indicator(
    "rsi",
    "Relative strength index with Wilder's smoothing.",
    "Wilder (1978), New Concepts in Technical Trading Systems; TA-Lib, TA_RSI",
    _rsi,
    minimum=2,
    beyond=1,
    unit="0 to 100",
    default=14,
    tolerance=1e-5,
)

WORKLOADS = (SMA, EMA, RSI)
