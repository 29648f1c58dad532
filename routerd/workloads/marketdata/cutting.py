"""Where bars begin among ticks that are in order of symbol, then time, and what their columns hold.

Symbols occupy consecutive ticks; ``runs`` holds the ticks at which each begins, and the number of ticks at its end. Every
function that cuts gives the first tick of each bar, ascending.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import numpy as np

Values: TypeAlias = "np.ndarray[Any, Any]"

# Binary search for the edge of an interval costs about as much as dividing this many timestamps by it.
_SEARCH = 64
# Ticks that are summed at a time: enough bars to pay for the call, few enough that no bar's share is lost in the sum.
_SPAN = 2**14


def symbol_runs(symbol: Values) -> tuple[Values | None, Values]:
    """A stable order of the ticks by symbol, or ``None`` where they are in one already, and the runs it has.

    NumPy sorts 16 bits by radix, several times as fast as 64 by comparisons.
    """
    import numpy as np

    order = None
    if (symbol[1:] < symbol[:-1]).any():
        low = int(symbol.min())
        extent = int(symbol.max()) - low
        if extent < 2**16:
            symbol = (symbol - low).astype(np.uint8 if extent < 2**8 else np.uint16)
        order = np.argsort(symbol, kind="stable")
        symbol = symbol[order]
    return order, np.concatenate(([0], np.flatnonzero(symbol[1:] != symbol[:-1]) + 1, [symbol.shape[0]]))


def time_starts(timestamp: Values, runs: Values, interval: int) -> Values:
    """Bars of the intervals in which a symbol has a tick."""
    import numpy as np

    first, last = int(timestamp[0]) // interval, int(timestamp[-1]) // interval
    if runs.shape[0] == 2 and (last - first) * _SEARCH < timestamp.shape[0]:
        edges = np.arange(first + 1, last + 1) * interval
        return np.unique(np.append(np.searchsorted(timestamp, edges), 0))
    number = timestamp // interval
    begins = np.empty(timestamp.shape[0], dtype=bool)
    np.not_equal(number[1:], number[:-1], out=begins[1:])
    begins[runs[:-1]] = True
    return np.asarray(np.flatnonzero(begins))


def tick_starts(runs: Values, size: int) -> Values:
    """Bars of ``size`` ticks each."""
    import numpy as np

    bars = -(np.diff(runs) // -size)
    before = np.cumsum(bars) - bars
    within = np.arange(bars.sum()) - np.repeat(before, bars)
    return np.asarray(np.repeat(runs[:-1], bars) + within * size)


def filled_starts(amount: Values, runs: Values, size: float) -> Values:
    """Bars that end with the tick with which the ``amount`` (≥ 0) since their first one reaches ``size``."""
    import numpy as np

    starts: list[int] = []
    for start, stop in pairwise(runs.tolist()):
        starts += _filled_starts(amount, start, stop, size)
    return np.asarray(starts)


def _filled_starts(amount: Values, start: int, stop: int, size: float) -> list[int]:
    """The first tick of every bar of one symbol, whose ticks are ``start…stop−1``.

    The tick that fills a bar closes it, whatever it brings too much is not passed on, and the next tick starts from zero.
    So bars come one after the other, but each is found by bisection. The sums begin anew at a bar after every span, which
    keeps them short and their rounding far below one bar.
    """
    import numpy as np

    starts, span = [start], _SPAN
    while True:
        # A view hands bisection Python floats one by one; turning all of them into a list would take longer.
        running = np.cumsum(amount[start : min(start + span, stop)]).data
        filled, base = 0, 0.0
        while (closing := bisect_left(running, base + size, filled)) < len(running):
            filled, base = closing + 1, running[closing]
            starts.append(start + filled)
        if start + len(running) == stop:
            return starts[:-1] if starts[-1] == stop else starts
        start += filled
        span = _SPAN if filled else 2 * span


def aggregate(block: int, order: Values | None, starts: Values, price: Values, quantity: Values) -> Values:
    """Open, high, low, close, volume and VWAP of the bars, by blocks of whole bars that a cache holds.

    Prices and quantities are as they came; ``order`` is the order of symbols, if that is another.
    """
    import numpy as np

    ticks = price.shape[0]
    stops = np.append(starts[1:], ticks)
    bars = np.empty((starts.shape[0], 6))
    cuts = np.unique(np.append(np.searchsorted(starts, np.arange(0, ticks, block)), starts.shape[0])).tolist()
    for first, last in pairwise(cuts):
        begin, end = starts[first], stops[last - 1]
        picked = slice(begin, end) if order is None else order[begin:end]
        prices, quantities = price[picked], quantity[picked]
        opening = starts[first:last] - begin
        out = bars[first:last]
        out[:, 0], out[:, 3] = prices[opening], prices[stops[first:last] - (begin + 1)]
        np.maximum.reduceat(prices, opening, out=out[:, 1])
        np.minimum.reduceat(prices, opening, out=out[:, 2])
        np.add.reduceat(quantities, opening, out=out[:, 4])
        np.add.reduceat(prices * quantities, opening, out=out[:, 5])
    volume = bars[:, 4]
    vwap = np.divide(bars[:, 5], volume, out=np.full(starts.shape, np.nan), where=volume > 0.0)
    # A mean lies between the extremes; rounding could put it a digit outside.
    bars[:, 5] = np.clip(vwap, bars[:, 2], bars[:, 1])
    return bars
