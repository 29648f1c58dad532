"""Synthetic trades for examples and tests: seeded, and with what makes real ones awkward."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

_FIRST_NANOSECOND = 1_704_205_800_000_000_000  # Tuesday, 2 January 2024, 14:30 UTC: New York opens
_MEAN_GAP = 40e6  # nanoseconds: 25 trades a second over all symbols
_SAME_TIME = 0.1
_CENT = 0.01
_STEP = 2e-4


def popular(rng: np.random.Generator, count: int, choices: int) -> np.ndarray[Any, Any]:
    """Int64 ids 0…choices−1, shape (count,), of which the k-th is drawn in proportion to 1/(k + 1)."""
    import numpy as np

    weights = np.cumsum(1.0 / np.arange(1.0, choices + 1.0))
    return np.asarray(np.searchsorted(weights, rng.random(count) * weights[-1]))


def tick_stream(rng: np.random.Generator, count: int, symbols: int = 1) -> dict[str, np.ndarray[Any, Any]]:
    """``count`` trades of ``symbols`` symbols in order of time, each array of shape (count,).

    ``timestamp`` (int64, ns since 1970) never decreases, and one trade in ten shares it with the trade before. ``symbol``
    (int64) is 0…symbols−1, a few traded often and many seldom. ``price`` moves by a few cents, alone for each symbol, and
    ``quantity`` is a whole number ≥ 1 with a heavy tail, so that sums of it are exact.
    """
    import numpy as np

    gaps = rng.exponential(_MEAN_GAP / (1.0 - _SAME_TIME), count)
    gaps[rng.random(count) < _SAME_TIME] = 0.0
    timestamp = _FIRST_NANOSECOND + np.cumsum(gaps.astype(np.int64))
    symbol = popular(rng, count, symbols)
    order = np.argsort(symbol, kind="stable")
    walk = np.cumsum(rng.integers(-1, 2, count))
    sizes = np.bincount(symbol, minlength=symbols)
    # Symbol after symbol down one walk: where each starts is where the one before stopped, which opens at its own price.
    stops = np.cumsum(sizes)
    opening = np.concatenate(([0], walk))[stops - sizes]
    price = np.empty(count)
    price[order] = np.repeat(rng.uniform(20.0, 300.0, symbols), sizes) * np.exp(
        _STEP * (walk - np.repeat(opening, sizes))
    )
    return {
        "timestamp": timestamp,
        "symbol": symbol,
        "price": np.maximum(np.round(price / _CENT), 1.0) * _CENT,
        "quantity": np.ceil(np.exp(rng.normal(4.0, 1.2, count))),
    }
