"""Checks of what was computed from the real daily histories."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

from engines.checks.require import require, require_close
from engines.jobs.job import Outcome


def atr(outcome: Outcome) -> str:
    """Wilder's recursion, bar after bar, for the first stock of each panel."""
    found = []
    for name, result in outcome.results.items():
        task = outcome.job.tasks[name]
        high, low, close, period = *(task[key][:, 0] for key in ("high", "low", "close")), task["period"]
        previous = close[:-1]
        ranges = np.maximum(high[1:], previous) - np.minimum(low[1:], previous)
        average = ranges[:period].mean()
        for true_range in ranges[period:]:
            average += (true_range - average) / period
        last = float(result["atr"][-1, 0])
        require_close(last, average, 1e-5, f"the average true range of {name}")
        found.append(f"{name.split(', ')[0]} {last / close[-1]:.1%}")
    return f"{', '.join(found)} of the price on the last day"


def sweep(outcome: Outcome) -> str:
    """The best pair of each stock traded again, one day after the other."""
    found = []
    for ticker, result in outcome.results.items():
        task = outcome.job.tasks[ticker]
        best = int(np.nanargmax(result["statistics"][:, 1]))
        fast, slow = map(int, task["windows"][best])
        total, sharpe = result["statistics"][best, :2]
        require_close(1.0 + total, _traded(task["close"], fast, slow, task["cost"]), 1e-4, f"the equity of {ticker}")
        held = task["close"][-1] / task["close"][0] - 1.0
        found.append(f"{ticker} {fast}/{slow} days {total:+.0%} (held {held:+.0%}), Sharpe {sharpe:.2f}")
    return f"the best in hindsight: {'; '.join(found)}"


def _traded(close: np.ndarray, fast: int, slow: int, cost: float) -> float:
    """What 1 becomes: in the stock after a close whose fast average is above the slow one."""
    equity, position = 1.0, 0
    sums = np.concatenate([[0], np.cumsum(close)])
    for day in range(1, len(close)):
        # The averages up to the close before, over a common denominator, so that whole numbers are compared.
        above = (sums[day] - sums[day - fast]) * slow > (sums[day] - sums[day - slow]) * fast if day >= slow else False
        gain = int(above) * (close[day] / close[day - 1] - 1.0) - cost * abs(int(above) - position)
        equity, position = equity * (1.0 + gain), int(above)
    return equity


def features(outcome: Outcome) -> str:
    """The last z-scores, from the closes themselves."""
    found = {}
    for names, result in outcome.results.items():
        task = outcome.job.tasks[names]
        closes = task["close"][-task["window"] :]
        expected = (closes[-1] - closes.mean(axis=0)) / closes.std(axis=0, ddof=1)
        last = result["features"][-1]
        require_close(last[:, 0], expected, 1e-5, f"the z-scores of {names}")
        found.update(zip(names.split(", "), last, strict=True))
    return "z-score and EWMA volatility on the last day: " + ", ".join(
        f"{ticker} {row[0]:+.2f} {row[1]:.2%}" for ticker, row in found.items()
    )


def vpin(outcome: Outcome) -> str:
    """The last window, by interpolating the cumulated volume of buyers at the ends of buckets."""
    for ticker, result in outcome.results.items():
        task, values = outcome.job.tasks[ticker], result["vpin"]
        volume, window, size = task["volume"][1:, 0], task["window"], float(task["bucket_volume"][0])
        change = np.diff(task["close"][:, 0])
        bought = volume * np.array([NormalDist().cdf(x) for x in change / change.std(ddof=1)])
        traded = np.concatenate([[0.0], np.cumsum(volume)])
        buckets = int(traded[-1] / size * (1.0 + 1e-12))
        require(len(values) == buckets - window + 1, f"{ticker} has {len(values)} values of VPIN for {buckets} buckets")
        ends = size * np.arange(buckets - window, buckets + 1)
        by_buyers = np.diff(np.interp(ends, traded, np.concatenate([[0.0], np.cumsum(bought)])))
        require_close(values[-1], np.abs(size - 2.0 * by_buyers).sum() / (window * size), 1e-6, f"the VPIN of {ticker}")
    return "in the last window " + ", ".join(
        f"{ticker} {result['vpin'][-1]:.2f}" for ticker, result in outcome.results.items()
    )
