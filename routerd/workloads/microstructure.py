"""Order-flow toxicity from time bars.

A task is one symbol: each fills its own number of buckets, so several are several tasks and there is nothing to split.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from routerd.errors import InvalidArray, InvalidParameter
from routerd.interfaces import Array, Arrays, Dims, Example, HostArrays, Namespace, Parameter, Params, Workload
from routerd.workloads.normal import density_and_distribution
from routerd.workloads.windows import window_sums

if TYPE_CHECKING:
    import numpy as np

# A bucket that lacks less than this share of its volume counts as full: quantities like 0.1 do not sum to 1 exactly.
_ROUNDING = 1e-9
# More buckets than this are a mistake in the unit of the volume, and would fill the memory.
_MAX_BUCKETS = 10_000_000
# Changes are divided by no less, so that a price that never moves gives 0 and not 0/0.
_LEAST_DEVIATION = 1e-150
_EXAMPLE_BARS_PER_BUCKET = 20


def _vpin(namespace: Namespace, params: Params, arrays: Arrays) -> Arrays:
    xp, size, window = namespace.xp, params["bucket_volume"], params["window"]
    imbalance, bars = _buckets(namespace, size, arrays["close"], arrays["volume"])
    if imbalance.shape[0] < window:
        raise _too_few(imbalance.shape[0], params)
    sums = window_sums(xp.abs(imbalance)[:, None], window)
    return {"vpin": sums[:, 0] / (window * size), "bar": bars[window - 1 :]}


def _buckets(namespace: Namespace, size: float, close: Any, volume: Any) -> tuple[Any, Any]:
    """V_B − V_S of every full bucket and the bar that filled it (int64), each (B,).

    Within a bar volume is fungible: each unit carries the bar's own balance 2Φ(Δp/σ) − 1. So the balance is piecewise
    linear in volume, and a bucket's is the difference between its borders. Both running sums begin anew at the last border
    before each block of bars: they never grow long, and a difference of two of them loses nothing.
    """
    xp = namespace.xp
    rows = close.shape[0]
    step = max(1, namespace.block // 2)
    spans = [(start, min(start + step, rows)) for start in range(1, rows, step)]
    scale = 1.0 / max(_deviation(namespace, close, spans), _LEAST_DEVIATION)
    imbalances, bars = [], []
    filled, balance = 0.0, 0.0  # volume and balance since the last border
    for start, stop in spans:
        changes = close[start:stop] - close[start - 1 : stop - 1]
        _, bought = density_and_distribution(namespace, changes * scale)
        direction = 2.0 * bought - 1.0
        volumes = xp.cumulative_sum(volume[start:stop]) + filled
        balances = xp.cumulative_sum(volume[start:stop] * direction) + balance
        filled, balance = float(volumes[-1]), float(balances[-1])
        full = int(filled / size + _ROUNDING)
        if full == 0:
            continue
        borders = namespace.asarray(namespace.arange(1, full + 1)) * size
        at = xp.searchsorted(volumes, xp.minimum(borders - size * _ROUNDING, volumes[-1]))
        beyond = xp.maximum(xp.take(volumes, at, axis=0) - borders, namespace.zeros(()))
        reached = xp.take(balances, at, axis=0) - beyond * xp.take(direction, at, axis=0)
        imbalances.append(xp.concat((reached[:1], reached[1:] - reached[:-1])))
        bars.append(xp.astype(at, namespace.integer) + start)
        filled, balance = max(0.0, filled - full * size), balance - float(reached[-1])
    if not imbalances:
        return namespace.zeros((0,)), namespace.arange(0, 0)
    return xp.concat(imbalances), xp.concat(bars)


def _deviation(namespace: Namespace, close: Any, spans: list[tuple[int, int]]) -> float:
    """Standard deviation of the changes from one close to the next. Their mean telescopes."""
    xp = namespace.xp
    changes = close.shape[0] - 1
    mean = (float(close[-1]) - float(close[0])) / changes
    total = 0.0
    for start, stop in spans:
        centred = close[start:stop] - close[start - 1 : stop - 1] - mean
        total += float(xp.sum(centred * centred))
    return math.sqrt(total / (changes - 1))


def _check_rows(params: Params, dims: Dims) -> None:
    if dims["T"] < 3:
        raise InvalidArray(
            f"microstructure.vpin: close has {dims['T']} bars; a deviation of its changes needs at least 3",
            array="close",
        )


def _check_buckets(params: Params, arrays: HostArrays) -> None:
    buckets = float(arrays["volume"][1:].sum(dtype="float64")) / params["bucket_volume"] + _ROUNDING
    if buckets < params["window"]:
        raise _too_few(int(buckets), params)
    if buckets > _MAX_BUCKETS:
        raise InvalidParameter(
            f"microstructure.vpin: the volume fills {buckets:.3g} buckets of {params['bucket_volume']:g}, the limit is "
            f"{_MAX_BUCKETS:g}; raise bucket_volume",
            parameter="bucket_volume",
        )


def _too_few(buckets: int, params: Params) -> InvalidParameter:
    return InvalidParameter(
        f"microstructure.vpin: the volume after the first bar fills {buckets} buckets of {params['bucket_volume']:g}, a "
        f"window needs {params['window']}; lower bucket_volume or window, or send more bars",
        parameter="bucket_volume",
    )


def _bars(params: Params, dims: Dims) -> float:
    return float(dims["T"])


def _example(work: float, rng: np.random.Generator) -> Example:
    """Minute bars whose volume and volatility rise and fall together; a bucket takes about twenty of them."""
    import numpy as np

    rows = max(5 * _EXAMPLE_BARS_PER_BUCKET, round(work))
    activity = np.exp(0.5 * np.sin(np.arange(rows) * (2.0 * np.pi / 390.0)) + rng.normal(0.0, 0.7, rows))
    changes = 0.02 * np.sqrt(activity) * rng.standard_normal(rows)
    volume = np.round(1_000.0 * activity)
    buckets = rows // _EXAMPLE_BARS_PER_BUCKET
    return Example(
        {"bucket_volume": float(np.floor(volume[1:].sum() / buckets)), "window": min(50, buckets)},
        {"close": np.round(1e4 + np.cumsum(changes), 2), "volume": volume},
    )


VPIN = Workload(
    name="microstructure.vpin",
    summary="Volume-synchronised probability of informed trading from time bars, by bulk volume classification (VPIN is a "
    "trademark, and what it predicts is contested).",
    source="Easley, López de Prado, O'Hara (2012), Flow Toxicity and Liquidity in a High-Frequency World, Review of "
    "Financial Studies 25(5); contested by Andersen, Bondarenko (2014), VPIN and the Flash Crash, Journal of Financial "
    "Markets 17",
    engines=("VPIN", "Strategy"),
    parameters=(
        Parameter(
            name="bucket_volume",
            type="float",
            unit="quantity",
            minimum=0.0,
            above_minimum=True,
            maximum=1e18,
            doc="volume V of a bucket; the paper takes a fiftieth of an average day's",
        ),
        Parameter(
            name="window",
            type="int",
            unit="buckets",
            default=50,
            minimum=1,
            maximum=100_000,
            doc="buckets n that one value is taken over",
        ),
    ),
    inputs=(
        Array(
            name="close",
            shape=("T",),
            unit="currency",
            doc="closing prices of the time bars of one symbol. The first only gives the price that the second changes from; "
            "changes are measured in their own standard deviation over all of them (divisor: their number less one)",
        ),
        Array(
            name="volume",
            shape=("T",),
            unit="quantity",
            minimum=0.0,
            doc="volume of each bar; the first bar's is left out, for its change is not known",
        ),
    ),
    outputs=(
        Array(
            name="vpin",
            shape=("B - n + 1",),
            unit="0 to 1",
            doc="Σ|V_S − V_B| ÷ (n·V) over each window of n buckets, for the B buckets that were filled; a bar that spans "
            "buckets gives each its share",
        ),
        Array(
            name="bar",
            shape=("B - n + 1",),
            dtype="int64",
            doc="number of the bar that filled the window's last bucket: when the value became known",
        ),
    ),
    kernel=_vpin,
    work=_bars,
    work_unit="bars",
    example=_example,
    work_range=(1e2, 5e6),
    tolerance=1e-9,
    check_task=_check_rows,
    check=_check_buckets,
    # A float32 price has lost most digits of its change before a kernel sees it, and a rounded volume moves borders.
    needs=frozenset({"float64", "searchsorted"}),
)

WORKLOADS = (VPIN,)
