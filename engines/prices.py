"""Daily prices of five stocks, 2000 to 2013, from the installed bokeh-sampledata package, and what follows from them.

The data are public domain (Quandl WIKI Prices). Returns come from closes adjusted for splits and dividends: an
unadjusted series shows every split as a crash.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

TRADING_DAYS = 252


@dataclass(frozen=True)
class Stock:
    """One stock's history, oldest day first: closes as quoted; all else adjusted for splits and dividends; each (T,)."""

    ticker: str
    dates: tuple[str, ...]
    close: Floats
    adjusted: Floats
    open: Floats
    high: Floats
    low: Floats
    volume: Floats

    @cached_property
    def log_returns(self) -> Floats:
        """Daily log returns, (T − 1,)."""
        return np.diff(np.log(self.adjusted))

    @cached_property
    def year(self) -> Floats:
        """Log returns of the last year, or of all days where the stock is younger."""
        return self.log_returns[-TRADING_DAYS:]

    @property
    def volatility(self) -> float:
        """Realised volatility: standard deviation of the last year's daily log returns, annualised."""
        return float(self.year.std(ddof=1) * np.sqrt(TRADING_DAYS))


def read_stocks() -> list[Stock]:
    """The five stocks of the package, by ticker. Raises ``ModuleNotFoundError`` where it is not installed."""
    from bokeh_sampledata import stocks

    return [_stock(ticker, getattr(stocks, ticker)) for ticker in ("AAPL", "FB", "GOOG", "IBM", "MSFT")]


def _stock(ticker: str, columns: Mapping[str, Sequence[Any]]) -> Stock:
    close, adjusted = np.array(columns["close"], float), np.array(columns["adj_close"], float)
    factor = adjusted / close
    opening, high, low = (np.array(columns[name], float) * factor for name in ("open", "high", "low"))
    return Stock(
        ticker,
        tuple(columns["date"]),
        close,
        adjusted,
        opening,
        np.maximum(high, adjusted),  # where they were equal, rounding may have put them in the wrong order
        np.minimum(low, adjusted),
        np.array(columns["volume"], float) / factor,  # so that price × volume stays what was traded
    )


@dataclass(frozen=True)
class Panel:
    """Stocks side by side on the days that all of them traded: adjusted prices, each (T, S); ``adjusted`` is the close."""

    tickers: tuple[str, ...]
    dates: tuple[str, ...]
    adjusted: Floats
    open: Floats
    high: Floats
    low: Floats

    @property
    def returns(self) -> Floats:
        """Simple daily returns, (T − 1, S): those of a book are the weighted sum of its stocks'."""
        returns: Floats = self.adjusted[1:] / self.adjusted[:-1] - 1.0
        return returns

    @property
    def book(self) -> Floats:
        """Simple daily returns of equal weights, rebalanced every day, (T − 1,)."""
        book: Floats = self.returns.mean(axis=1)
        return book


def align(stocks: Sequence[Stock]) -> Panel:
    """The stocks on their common days."""
    dates = sorted(set.intersection(*(set(stock.dates) for stock in stocks)))
    rows = [np.isin(stock.dates, dates) for stock in stocks]
    columns = {
        name: np.stack([getattr(stock, name)[row] for stock, row in zip(stocks, rows, strict=True)], axis=1)
        for name in ("adjusted", "open", "high", "low")
    }
    return Panel(tuple(stock.ticker for stock in stocks), tuple(dates), **columns)


def by_history(stocks: Sequence[Stock]) -> list[Panel]:
    """Every stock with its whole history: one panel for each set of stocks that traded on the same days."""
    groups: dict[tuple[str, ...], list[Stock]] = {}
    for stock in stocks:
        groups.setdefault(stock.dates, []).append(stock)
    return [align(group) for group in groups.values()]


def return_windows(stocks: Sequence[Stock], days: int, count: int) -> Floats:
    """The latest ``count`` windows of ``days`` consecutive log returns of one stock, (count, days), oldest first.

    Each window is brought to mean 0 and deviation 1 by its own numbers, so no row knows anything of later days.
    """
    windows = np.concatenate([np.lib.stride_tricks.sliding_window_view(stock.log_returns, days) for stock in stocks])
    ends = np.concatenate([np.array(stock.dates[days:]) for stock in stocks])
    latest = windows[np.argsort(ends, kind="stable")[-count:]]
    scaled: Floats = (latest - latest.mean(axis=1, keepdims=True)) / latest.std(axis=1, keepdims=True)
    return scaled


def resampled_horizon(panel: Panel, days: int, count: int, rng: np.random.Generator) -> Floats:
    """Simple returns over ``days`` days, each scenario made of real days drawn with replacement, (count, S).

    All stocks take the same days, so what moved together stays together.
    """
    daily = np.log1p(panel.returns)
    total = np.zeros((count, daily.shape[1]))
    for _ in range(days):
        total += daily[rng.integers(daily.shape[0], size=count)]
    return np.expm1(total)
