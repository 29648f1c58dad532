"""Order-flow toxicity from time bars."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from routerd.errors import InvalidArray
from routerd.interfaces import Array, Arrays, Dims, Example, HostArrays, Namespace, Parameter, Params, Workload
from routerd.workloads.normal import density_and_distribution
from routerd.workloads.scan import joined
from routerd.workloads.splitting import split_along
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
    """Each symbol fills its own number of buckets, so their values lie one after the other, as lists."""
    xp, window = namespace.xp, params["window"]
    values, bars, offsets = [], [], [0]
    for symbol, size in enumerate(namespace.to_host(arrays["bucket_volume"]).tolist()):
        imbalance, filled = _buckets(namespace, size, arrays["close"][:, symbol], arrays["volume"][:, symbol])
        if imbalance.shape[0] < window:
            raise _too_few(symbol, imbalance.shape[0], size, window)
        values.append(window_sums(xp.abs(imbalance)[:, None], window)[:, 0] / (window * size))
        bars.append(filled[window - 1 :])
        offsets.append(offsets[-1] + values[-1].shape[0])
    return {
        "vpin": joined(namespace, values),
        "bar": joined(namespace, bars),
        "symbol_offsets": _integers(namespace, offsets),
    }


def _integers(namespace: Namespace, values: list[int]) -> Any:
    import numpy as np

    return namespace.from_host(np.asarray(values, dtype=np.int64))


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
    sizes = arrays["bucket_volume"]
    filled = arrays["volume"][1:].sum(axis=0, dtype="float64") / sizes + _ROUNDING
    fewest, most = int(filled.argmin()), int(filled.argmax())
    if filled[fewest] < params["window"]:
        raise _too_few(fewest, int(filled[fewest]), float(sizes[fewest]), params["window"])
    if filled.sum() > _MAX_BUCKETS:
        raise InvalidArray(
            f"microstructure.vpin: the volume of symbol {most} fills {filled[most]:.3g} buckets of {sizes[most]:g}, the limit "
            f"for all symbols together is {_MAX_BUCKETS:g}; raise bucket_volume[{most}]",
            array="bucket_volume",
        )


def _too_few(symbol: int, buckets: int, size: float, window: int) -> InvalidArray:
    return InvalidArray(
        f"microstructure.vpin: the volume of symbol {symbol} after the first bar fills {buckets} buckets of {size:g}, a window "
        f"needs {window}; lower bucket_volume[{symbol}] or window, or send more bars",
        array="bucket_volume",
    )


def _merge(whole: Example, parts: Sequence[HostArrays]) -> dict[str, Any]:
    import numpy as np

    del whole
    counts = np.concatenate([np.diff(part["symbol_offsets"]) for part in parts])
    return {
        "vpin": np.concatenate([part["vpin"] for part in parts]),
        "bar": np.concatenate([part["bar"] for part in parts]),
        "symbol_offsets": np.concatenate(([0], np.cumsum(counts))),
    }


def _bars(params: Params, dims: Dims) -> float:
    return float(dims["T"] * dims["S"])


def _example(work: float, rng: np.random.Generator) -> Example:
    """Minute bars whose volume and volatility rise and fall together; a bucket takes about twenty of them.

    One symbol for little work, then up to sixteen.
    """
    import numpy as np

    symbols = int(min(16, max(1, work // 20_000)))
    rows = max(5 * _EXAMPLE_BARS_PER_BUCKET, round(work / symbols))
    season = 0.5 * np.sin(np.arange(rows) * (2.0 * np.pi / 390.0))
    activity = np.exp(season[:, None] + rng.normal(0.0, 0.7, (rows, symbols)))
    changes = 0.02 * np.sqrt(activity) * rng.standard_normal((rows, symbols))
    volume = np.round(1_000.0 * activity)
    buckets = rows // _EXAMPLE_BARS_PER_BUCKET
    return Example(
        {"window": min(50, buckets)},
        {
            "close": np.round(1e4 + np.cumsum(changes, axis=0), 2),
            "volume": volume,
            "bucket_volume": np.floor(volume[1:].sum(axis=0) / buckets),
        },
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
            shape=("T", "S"),
            unit="currency",
            doc="closing prices of the time bars, one bar a row and one symbol a column. The first only gives the price that the second changes from; "
            "changes are measured in their own standard deviation over all of them (divisor: their number less one)",
        ),
        Array(
            name="volume",
            shape=("T", "S"),
            unit="quantity",
            minimum=0.0,
            doc="volume of each bar; the first bar's is left out, for its change is not known",
        ),
        Array(
            name="bucket_volume",
            shape=("S",),
            unit="quantity",
            minimum=0.0,
            above_minimum=True,
            maximum=1e18,
            doc="volume V of a bucket of each symbol; the paper takes a fiftieth of an average day's",
        ),
    ),
    outputs=(
        Array(
            name="vpin",
            shape=("K",),
            unit="0 to 1",
            doc="Σ|V_S − V_B| ÷ (n·V) over each window of n buckets, B − n + 1 values for the B buckets that a symbol filled, "
            "symbol after symbol; a bar that spans buckets gives each its share",
        ),
        Array(
            name="bar",
            shape=("K",),
            dtype="int64",
            doc="number of the bar that filled the window's last bucket: when the value became known",
        ),
        Array(
            name="symbol_offsets",
            shape=("S + 1",),
            dtype="int64",
            doc="the values of symbol s are vpin[symbol_offsets[s] : symbol_offsets[s + 1]]",
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
    batch_dim="S",
    split=split_along({"close": 1, "volume": 1, "bucket_volume": 0}),
    merge=_merge,
    # A float32 price has lost most digits of its change before a kernel sees it, and a rounded volume moves borders.
    needs=frozenset({"float64", "searchsorted"}),
)

WORKLOADS = (VPIN,)
