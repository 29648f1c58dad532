"""Rolling features of price series."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from routerd.errors import InvalidParameter
from routerd.interfaces import Array, Arrays, Dims, Example, HostArrays, Join, Namespace, Parameter, Params, Workload
from routerd.workloads.differencing import difference_weights, fractional_difference
from routerd.workloads.prices import check_order, example_bars, price
from routerd.workloads.scan import row_spans, smooth
from routerd.workloads.splitting import merge_along, split_along
from routerd.workloads.windows import window_moments, window_moved, window_sums

if TYPE_CHECKING:
    import numpy as np

_NAME = "features.rolling"
# The cost of everything but the fractional difference, in weights of that.
_OTHER_COST = 1_000.0
_LEAST_EXAMPLE_BARS = 100


def _rolling(namespace: Namespace, params: Params, arrays: Arrays) -> Arrays:
    """Features in the order of the output's last axis; each writes its own place in every bar that it is warm at."""
    close, window = arrays["close"], params["window"]
    rows, columns = close.shape
    out = namespace.zeros((rows, columns, 4))
    volatilities = _ewma_volatilities(namespace, close, params["decay_factor"], row_spans(namespace, 1, rows, columns))
    for start, stop, volatility in volatilities:
        out[start:stop, :, 1] = volatility
    for start, stop in row_spans(namespace, window - 1, rows, columns, 4 * window):
        bars = {name: array[start - window + 1 : stop, :] for name, array in arrays.items()}
        out[start:stop, :, 0] = _zscores(namespace, bars["close"], window)
        out[start:stop, :, 2] = _garman_klass(namespace, bars, window)
    order, threshold = params["difference_order"], params["weight_threshold"]
    weights = difference_weights(order, threshold)
    # Logarithms of ratios to the first close are small, so float32 loses little; the weights of the rest add up.
    rest = math.fsum(weights) * namespace.xp.log(close[:1, :])
    for start, stop in row_spans(namespace, len(weights) - 1, rows, columns, 4 * len(weights)):
        logs = namespace.xp.log(close[start - len(weights) + 1 : stop, :] / close[:1, :])
        out[start:stop, :, 3] = fractional_difference(namespace, logs, order, threshold) + rest
    for feature, warm in enumerate((window - 1, 1, window - 1, len(weights) - 1)):
        out[:warm, :, feature] = math.nan
    return {"features": out}


def _zscores(namespace: Namespace, close: Any, window: int) -> Any:
    """(x − mean)/deviation of the last row of each window, with the sample deviation; NaN where nothing moved."""
    xp = namespace.xp
    zero = namespace.zeros(())
    centred = close - close[:1, :]
    sums, scatter = window_moments(centred, window)
    distance = centred[window - 1 :, :] - sums / window
    scatter *= 1.0 / (window * (window - 1.0))
    moved = window_moved(namespace, close, window)
    return xp.where(moved, distance / xp.where(moved, xp.sqrt(scatter), zero + 1.0), zero + math.nan)


def _ewma_volatilities(
    namespace: Namespace, close: Any, decay: float, spans: list[tuple[int, int]]
) -> Iterator[tuple[int, int, Any]]:
    """Each span with the root of the weighted mean of all squared log returns up to each of its bars.

    The recurrence starts at zero; dividing by the sum of the weights so far makes it their mean.
    """
    import numpy as np

    xp = namespace.xp

    def squares() -> Iterator[Any]:
        for start, stop in spans:
            returns = xp.log(close[start:stop, :] / close[start - 1 : stop - 1, :])
            returns *= returns
            yield returns

    averages = smooth(namespace, squares(), namespace.zeros((close.shape[1],)), decay, 1.0 - decay)
    for (start, stop), average in zip(spans, averages, strict=True):
        if decay**start > 2.0**-60:  # later the sum of the weights is 1
            total = -np.expm1(np.arange(start, stop) * math.log(decay))
            yield start, stop, xp.sqrt(average / namespace.from_host(total)[:, None])
        else:
            yield start, stop, xp.sqrt(average)


def _garman_klass(namespace: Namespace, bars: Arrays, window: int) -> Any:
    """The root of the mean over each window of ½·ln(high/low)² − (2·ln 2 − 1)·ln(close/open)²."""
    xp = namespace.xp
    reach = xp.log(bars["high"] / bars["low"])
    reach *= reach
    reach *= 0.5
    move = xp.log(bars["close"] / bars["open"])
    move *= move
    move *= 2.0 * math.log(2.0) - 1.0
    reach -= move
    return xp.sqrt(window_sums(reach, window) / window)


def _check_rows(params: Params, dims: Dims) -> None:
    rows, window = dims["T"], params["window"]
    if rows < window:
        raise InvalidParameter(
            f"{_NAME}: a window of {window} needs at least {window} bars, close has {rows}; shorten the window or send "
            f"more bars",
            parameter="window",
        )
    weights = len(difference_weights(params["difference_order"], params["weight_threshold"]))
    if rows < weights:
        raise InvalidParameter(
            f"{_NAME}: a difference of order {params['difference_order']:g} with weights down to "
            f"{params['weight_threshold']:g} needs at least {weights} bars, close has {rows}; raise weight_threshold or "
            f"send more bars",
            parameter="weight_threshold",
        )


def _check_bars(params: Params, arrays: HostArrays) -> None:
    for inner in ("open", "close"):
        check_order(_NAME, arrays, "low", inner)
        check_order(_NAME, arrays, inner, "high")


def _work(params: Params, dims: Dims) -> float:
    weights = len(difference_weights(params["difference_order"], params["weight_threshold"]))
    return dims["T"] * dims["S"] * (1.0 + weights / _OTHER_COST)


def _example(work: float, rng: np.random.Generator) -> Example:
    threshold = 1e-3 if work < 1e4 else 1e-4
    weights = len(difference_weights(0.4, threshold))
    bars = example_bars(work / (1.0 + weights / _OTHER_COST), rng, _LEAST_EXAMPLE_BARS)
    return Example({"weight_threshold": threshold}, bars)


ROLLING = Workload(
    name=_NAME,
    summary="Rolling z-score, EWMA volatility, Garman–Klass volatility and fractional difference of price series.",
    source="z-score: pandas, rolling; EWMA: J.P. Morgan, Reuters (1996), RiskMetrics Technical Document; "
    "Garman, Klass (1980), On the Estimation of Security Price Volatilities from Historical Data, Journal of Business 53(1); "
    "fractional difference: López de Prado (2018), Advances in Financial Machine Learning, section 5.5",
    engines=("Features", "ML"),
    parameters=(
        Parameter(
            name="window",
            type="int",
            unit="bars",
            default=20,
            minimum=2,
            maximum=100_000,
            doc="bars of the z-score and of the Garman–Klass volatility",
        ),
        Parameter(
            name="decay_factor",
            type="float",
            default=0.94,
            minimum=0.0,
            above_minimum=True,
            maximum=0.9999,
            doc="what each bar leaves of the weight of the squared returns before it; RiskMetrics takes 0.94 for days",
        ),
        Parameter(
            name="difference_order",
            type="float",
            default=0.4,
            minimum=0.0,
            maximum=2.0,
            doc="order d of (1 − B)^d: 0 leaves the log price, 1 is the log return, between them some memory stays",
        ),
        Parameter(
            name="weight_threshold",
            type="float",
            default=1e-4,
            minimum=1e-5,
            maximum=0.1,
            doc="the difference ends before its first weight smaller than this",
        ),
    ),
    inputs=(
        price("open", "opening prices", positive=True),
        price("high", "highest prices of the bars", positive=True),
        price("low", "lowest prices of the bars", positive=True),
        price("close", "closing prices", positive=True),
    ),
    outputs=(
        Array(
            name="features",
            shape=("T", "S", 4),
            unit="zscore: standard deviations; ewma_volatility, garman_klass_volatility: 1 per √bar; "
            "fractional_difference: log price",
            doc="zscore of the close (sample deviation), ewma_volatility (weights normalised), garman_klass_volatility and "
            "fractional_difference of the log close; NaN until a feature is warm: window − 1 bars, 1 bar, window − 1 bars, "
            "and one bar less than the difference has weights; a z-score is NaN, too, where no close in its window differs",
            finite=False,
        ),
    ),
    kernel=_rolling,
    work=_work,
    work_unit="bars (a thousand weights of the fractional difference count as one more)",
    example=_example,
    work_range=(2e2, 2e6),
    tolerance=1e-5,
    batch_dim="S",
    check_task=_check_rows,
    check=_check_bars,
    split=split_along({"open": 1, "high": 1, "low": 1, "close": 1}),
    merge=merge_along({"features": 1}),
    join=Join(inputs={"open": 1, "high": 1, "low": 1, "close": 1}, outputs={"features": 1}),
)

WORKLOADS = (ROLLING,)
