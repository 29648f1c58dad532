"""The real daily histories: the Analytics, Strategy, Features and VPIN engines."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np

from engines.jobs.job import Job
from engines.prices import Panel, Stock

SMA_DAYS, RSI_DAYS, ATR_DAYS = 50, 14, 14
FEATURE_DAYS, WEIGHT_THRESHOLD = 20, 1e-3  # at the default the difference is longer than the youngest history
BUCKETS = 50
FAST, SLOW = range(5, 55, 5), range(60, 260, 20)
TICKS_PER_DOLLAR = 10_000
TRADING_COST = 0.0005


def histories(stocks: Sequence[Stock], panels: Sequence[Panel], young: Panel, old: Panel) -> dict[str, Job]:
    """Every stock's whole history, in ``panels`` of stocks that traded on the same days."""
    whole = "every stock's whole history"
    longest = [stock for stock in stocks if stock.ticker in old.tickers]
    return {
        "performance": Job(
            "Analytics",
            f"{whole}, and the two equal-weight books",
            "analytics.performance",
            {names(panel): {"returns": panel.returns} for panel in panels}
            | {f"book of {len(panel.tickers)}": {"returns": panel.book[:, None]} for panel in (old, young)},
        ),
        "sma": _indicator("sma", SMA_DAYS, panels),
        "rsi": _indicator("rsi", RSI_DAYS, panels),
        "atr": Job(
            "Analytics",
            f"{ATR_DAYS} days, {whole} of highs, lows and closes",
            "indicators.atr",
            {
                names(panel): {"high": panel.high, "low": panel.low, "close": panel.adjusted, "period": ATR_DAYS}
                for panel in panels
            },
        ),
        "sweep": _sweep(longest),
        "features": Job(
            "Features",
            f"z-score, EWMA and Garman–Klass volatility, fractional difference; {FEATURE_DAYS} days, {whole}",
            "features.rolling",
            {
                names(panel): {
                    "open": panel.open,
                    "high": panel.high,
                    "low": panel.low,
                    "close": panel.adjusted,
                    "window": FEATURE_DAYS,
                    "weight_threshold": WEIGHT_THRESHOLD,
                }
                for panel in panels
            },
        ),
        "vpin": Job(
            "VPIN",
            f"{whole} of closes and volumes; {BUCKETS} buckets of an average day's volume",
            "microstructure.vpin",
            {
                stock.ticker: {
                    "close": stock.adjusted[:, None],
                    "volume": stock.volume[:, None],
                    "bucket_volume": np.array([stock.volume.mean()]),
                    "window": BUCKETS,
                }
                for stock in stocks
            },
        ),
    }


def names(panel: Panel) -> str:
    return ", ".join(panel.tickers)


def _indicator(name: str, days: int, panels: Sequence[Panel]) -> Job:
    tasks = {names(panel): {"close": panel.adjusted, "period": days} for panel in panels}
    return Job("Analytics", f"{days} days, every stock's whole history", f"indicators.{name}", tasks)


def _sweep(stocks: Sequence[Stock]) -> Job:
    """Adjusted closes are no whole cents, so they are rounded to a hundredth of one."""
    windows = np.array(list(product(FAST, SLOW)))
    return Job(
        "Strategy",
        f"{len(windows)} pairs of moving averages on each of {len(stocks)} stocks, {TRADING_COST:.2%} a trade",
        "strategy.backtest_sma_sweep",
        {
            stock.ticker: {
                "close": np.rint(stock.adjusted * TICKS_PER_DOLLAR).astype(np.int64),
                "windows": windows,
                "cost": TRADING_COST,
            }
            for stock in stocks
        },
    )
