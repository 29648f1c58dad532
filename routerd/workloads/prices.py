"""Prices by bars: how they are declared, checked and made up. One bar a row, one series a column."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from routerd.errors import InvalidArray
from routerd.interfaces import Array, HostArrays

if TYPE_CHECKING:
    import numpy as np

_LAYOUT = "one bar a row and one series a column; a single series is (T, 1)"
_LONGEST_SINGLE = 4_096
_MOST_SERIES = 16


def price(name: str, doc: str, *, positive: bool = False) -> Array:
    """The declaration of an input of prices (T, S)."""
    return Array(
        name=name,
        shape=("T", "S"),
        unit="currency",
        doc=f"{doc}, {_LAYOUT}",
        minimum=0.0 if positive else None,
        above_minimum=positive,
    )


def check_order(workload: str, arrays: HostArrays, lower: str, upper: str) -> None:
    """Refuse bars whose ``lower`` price is above their ``upper`` one, naming the first. Raises ``InvalidArray``."""
    import numpy as np

    wrong = np.asarray(arrays[lower] > arrays[upper])
    if wrong.any():
        row, column = (int(index) for index in np.unravel_index(int(np.argmax(wrong)), wrong.shape))
        raise InvalidArray(
            f"{workload}: {lower}[{row}, {column}] is {arrays[lower][row, column]:g}, above {upper}[{row}, {column}], "
            f"which is {arrays[upper][row, column]:g}; a bar's prices lie between its low and its high",
            array=lower,
        )


def example_bars(work: float, rng: np.random.Generator, least: int) -> dict[str, Any]:
    """About ``work`` bars, ``least`` or more of each series: open, high, low and close, shape (T, S).

    Closes are geometric random walks with a daily volatility of 1–3 %, reflected at a fifth and at five times the first
    price; a bar opens near the close before it. One series for little work, then up to sixteen.
    """
    import numpy as np

    columns = int(min(_MOST_SERIES, max(1, work // _LONGEST_SINGLE)))
    rows = max(least, round(work / columns))
    volatility = rng.uniform(0.01, 0.03, columns)
    bound = math.log(5.0)
    walk = np.cumsum(rng.standard_normal((rows, columns)) * volatility, axis=0)
    close = 100.0 * np.exp(np.abs((walk + bound) % (4.0 * bound) - 2.0 * bound) - bound)
    before = np.concatenate((close[:1], close[:-1]))
    open_ = before * np.exp(0.2 * volatility * rng.standard_normal((rows, columns)))
    reach = np.exp(0.5 * volatility * np.abs(rng.standard_normal((2, rows, columns))))
    return {
        "open": open_,
        "high": np.maximum(open_, close) * reach[0],
        "low": np.minimum(open_, close) / reach[1],
        "close": close,
    }
