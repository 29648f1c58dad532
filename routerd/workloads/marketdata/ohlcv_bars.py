"""Open, high, low, close, volume and VWAP of trades."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from routerd.errors import InvalidArray, InvalidParameter
from routerd.interfaces import (
    Array,
    Arrays,
    Dims,
    Example,
    HostArrays,
    Namespace,
    Parameter,
    Params,
    Workload,
)
from routerd.workloads.marketdata.cutting import (
    Values,
    aggregate,
    filled_starts,
    symbol_runs,
    tick_starts,
    time_starts,
)
from routerd.workloads.splitting import boundaries
from routerd.workloads.ticks import tick_stream

if TYPE_CHECKING:
    import numpy as np

_SIZES = {
    "time": "interval_seconds",
    "tick": "ticks_per_bar",
    "volume": "volume_per_bar",
    "dollar": "dollars_per_bar",
}
_TICK_ARRAYS = ("timestamp", "symbol", "price", "quantity")


def _ohlcv_bars(namespace: Namespace, params: Params, arrays: Arrays) -> Arrays:
    """Ticks in order of symbol, cut into bars at tick numbers, then each column in one pass over each block of bars."""
    import numpy as np

    timestamp, symbol, price, quantity = (arrays[name] for name in _TICK_ARRAYS)
    order, runs = symbol_runs(symbol)

    def ordered(array: Values) -> Values:
        return array if order is None else array[order]

    if params["bar_type"] == "time":
        interval = round(params["interval_seconds"] * 1e9)
        starts = time_starts(ordered(timestamp), runs, interval)
    elif params["bar_type"] == "tick":
        starts = tick_starts(runs, params["ticks_per_bar"])
    elif params["bar_type"] == "volume":
        starts = filled_starts(ordered(quantity), runs, params["volume_per_bar"])
    else:
        starts = filled_starts(ordered(price * quantity), runs, params["dollars_per_bar"])
    stops = np.append(starts[1:], symbol.shape[0])
    first, last = (starts, stops - 1) if order is None else (order[starts], order[stops - 1])
    bar_start, bar_end = timestamp[first], timestamp[last]
    if params["bar_type"] == "time":
        bar_start = bar_start // interval * interval
        bar_end = bar_start + interval
    return {
        "bars": aggregate(namespace.block, order, starts, price, quantity),
        "symbol": symbol[first].astype(np.int64),
        "bar_start": bar_start,
        "bar_end": bar_end,
        "tick_count": stops - starts,
    }


def _check_size(params: Params, dims: Dims) -> None:
    needed = _SIZES[params["bar_type"]]
    if needed not in params:
        raise InvalidParameter(
            f"marketdata.ohlcv_bars: {params['bar_type']} bars need the parameter {needed}", parameter=needed
        )


def _check_ticks(params: Params, arrays: HostArrays) -> None:
    import numpy as np

    timestamp, symbol = arrays["timestamp"], arrays["symbol"]
    if params["bar_type"] == "dollar" and arrays["price"].min() < 0.0:
        raise InvalidArray(
            "marketdata.ohlcv_bars: dollar bars need prices >= 0; use time, tick or volume bars", array="price"
        )
    if not (timestamp[1:] < timestamp[:-1]).any():
        return
    order, _ = symbol_runs(symbol)
    if order is None:
        order = np.arange(symbol.shape[0])
    timestamp, symbol = timestamp[order], symbol[order]
    early = np.flatnonzero((timestamp[1:] < timestamp[:-1]) & (symbol[1:] == symbol[:-1]))
    if early.size:
        tick, before = int(order[early[0] + 1]), int(order[early[0]])
        raise InvalidArray(
            f"marketdata.ohlcv_bars: timestamp[{tick}] is earlier than timestamp[{before}] of the same symbol "
            f"({symbol[early[0]]}); sort the ticks by time",
            array="timestamp",
        )


def _split(whole: Example, shares: Sequence[float]) -> list[Example]:
    """Parts that hold all ticks of some consecutive symbols each."""
    import numpy as np

    symbol = whole.arrays["symbol"]
    ids, counts = np.unique(symbol, return_counts=True)
    ends = np.cumsum(counts)
    stops = [int(np.searchsorted(ends, stop)) for _, stop in boundaries(symbol.shape[0], shares)]
    parts, first = [], 0
    for stop in stops:
        if stop >= first:
            mine = (symbol >= ids[first]) & (symbol <= ids[stop])
            parts.append(Example(whole.params, {name: array[mine] for name, array in whole.arrays.items()}))
            first = stop + 1
    return parts


def _merge(whole: Example, parts: Sequence[HostArrays]) -> dict[str, Any]:
    import numpy as np

    del whole
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _ticks(params: Params, dims: Dims) -> float:
    return float(dims["M"])


def _example(work: float, rng: np.random.Generator) -> Example:
    """Bars of twenty seconds from up to fifty symbols that trade 25 times a second together."""
    ticks = max(1, round(work))
    return Example({"interval_seconds": 20.0}, dict(tick_stream(rng, ticks, min(50, 1 + ticks // 2_000))))


def _size(
    bar_type: str, kind: Literal["float", "int"], unit: str, minimum: float, maximum: float, doc: str
) -> Parameter:
    return Parameter(
        name=_SIZES[bar_type],
        type=kind,
        unit=unit,
        optional=True,
        minimum=minimum,
        maximum=maximum,
        above_minimum=minimum == 0.0,
        doc=f"{doc}; {bar_type} bars need it, others ignore it",
    )


OHLCV_BARS = Workload(
    name="marketdata.ohlcv_bars",
    summary="Open, high, low, close, volume and VWAP of the trades of one or many symbols, by time, tick, volume or dollar bars.",
    source="López de Prado (2018), Advances in Financial Machine Learning, chapter 2",
    engines=("MarketData", "VPIN", "Features"),
    parameters=(
        Parameter(
            name="bar_type",
            type="str",
            default="time",
            choices=tuple(_SIZES),
            doc="what ends a bar: an interval of time, or the tick with which the bar has its number of ticks, its volume or "
            "its value (the next bar starts from zero)",
        ),
        _size(
            "time",
            "float",
            "s",
            1e-9,
            1e9,
            "length of an interval, in whole nanoseconds; intervals count from 1970 UTC",
        ),
        _size("tick", "int", "ticks", 1, 1_000_000_000, "ticks of a bar"),
        _size("volume", "float", "quantity", 0.0, 1e18, "volume that fills a bar"),
        _size("dollar", "float", "currency", 0.0, 1e18, "value (price times quantity) that fills a bar"),
    ),
    inputs=(
        Array(
            name="timestamp",
            shape=("M",),
            unit="ns since 1970 UTC",
            dtype="int64",
            accepts=("int64",),
            minimum=0.0,
            maximum=8e18,
            doc="time of each trade; never decreasing within a symbol, ties keep their order",
        ),
        Array(
            name="symbol",
            shape=("M",),
            dtype="int64",
            accepts=("int64", "int32"),
            doc="id of what is traded, any integer; all alike for a single symbol",
        ),
        Array(name="price", shape=("M",), unit="currency", doc="price of each trade; dollar bars need prices ≥ 0"),
        Array(name="quantity", shape=("M",), unit="quantity", minimum=0.0, doc="quantity of each trade"),
    ),
    outputs=(
        Array(
            name="bars",
            shape=("B", 6),
            unit="open, high, low, close, vwap: currency; volume: quantity",
            finite=False,
            doc="columns open, high, low, close, volume, vwap; bars in order of symbol, then time. An interval without a "
            "trade has no bar, the last bar of a symbol holds what is left, and vwap is NaN in a bar without volume",
        ),
        Array(name="symbol", shape=("B",), dtype="int64", doc="id of each bar's symbol"),
        Array(
            name="bar_start",
            shape=("B",),
            unit="ns since 1970 UTC",
            dtype="int64",
            doc="start of a time bar's interval, else the time of the bar's first tick",
        ),
        Array(
            name="bar_end",
            shape=("B",),
            unit="ns since 1970 UTC",
            dtype="int64",
            doc="end of a time bar's interval, which belongs to the next, else the time of the bar's last tick",
        ),
        Array(name="tick_count", shape=("B",), unit="ticks", dtype="int64", doc="trades of each bar"),
    ),
    kernel=_ohlcv_bars,
    work=_ticks,
    work_unit="ticks",
    example=_example,
    work_range=(1e2, 5e6),
    tolerance=1e-9,
    variants=(
        {},
        {"bar_type": "tick", "ticks_per_bar": 20},
        {"bar_type": "volume", "volume_per_bar": 2_000.0},
        {"bar_type": "dollar", "dollars_per_bar": 250_000.0},
    ),
    check_task=_check_size,
    check=_check_ticks,
    cpu_only=True,
    split=_split,
    merge=_merge,
)
