"""What the demo asks of routerd: each job is one workload with one or more tasks, all built from the real prices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median_low
from typing import Any

import numpy as np

from engines.prices import Floats, Panel, Stock, align, by_history, resampled_horizon, return_windows
from routerd.client import Router, TaskResult
from routerd.types import Decision

SEED = 20130301
PATHS = 1_000_000
POINTS = 4_096
OPTIONS = 200_000
SCENARIOS, HORIZON_DAYS = 100_000, 10
LAYERS = (64, 128, 64, 1)
ROWS = 10_000
SIDE = 2_048
RATE = 0.05
SMA_DAYS, EMA_DAYS, RSI_DAYS = 50, 20, 14


@dataclass(frozen=True)
class Job:
    """Tasks of one workload that belong together: arguments of ``run`` by what each task is about."""

    title: str
    workload: str
    tasks: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Jobs:
    """Everything that the demo runs, in order."""

    pseudo_random: Job
    quasi_random: Job
    one_day_risk: Job
    ten_day_risk: Job
    performance: Job
    sma: Job
    ema: Job
    rsi: Job
    greeks: Job
    inference: Job
    product: Job
    loose_product: Job

    def __iter__(self) -> Any:
        return iter(vars(self).values())


def build_jobs(stocks: Sequence[Stock]) -> Jobs:
    """The jobs for these stocks. Random numbers are seeded, so every run asks the same."""
    rng = np.random.default_rng(SEED)
    young, old = align(stocks), align(_quoted_longest(stocks))
    histories = by_history(stocks)
    matrices = {"a": rng.standard_normal((SIDE, SIDE)), "b": rng.standard_normal((SIDE, SIDE))}
    square = f"{SIDE} × {SIDE} product of random matrices"
    return Jobs(
        _options(
            stocks, f"a year's at-the-money call on each stock, {PATHS:,} pseudo-random paths", num_simulations=PATHS
        ),
        _options(
            stocks, f"the same calls, {POINTS:,} quasi-random points", num_simulations=POINTS, method="quasi_random"
        ),
        _one_day_risk(young, old),
        _ten_day_risk(old, rng),
        Job(
            "every stock's whole history, and the two equal-weight books",
            "analytics.performance",
            {_names(panel): {"returns": panel.returns} for panel in histories}
            | {f"book of {len(panel.tickers)}": {"returns": panel.book[:, None]} for panel in (old, young)},
        ),
        _indicator("sma", SMA_DAYS, histories),
        _indicator("ema", EMA_DAYS, histories),
        _indicator("rsi", RSI_DAYS, histories),
        _greeks(stocks, rng),
        _inference(stocks, rng),
        Job(f"{square}, tolerance 1e-05", "linalg.gemm", {"product": {**matrices, "tolerance": 1e-5}}),
        Job(f"{square}, tolerance 1e-02", "linalg.gemm", {"product": {**matrices, "tolerance": 1e-2}}),
    )


def _quoted_longest(stocks: Sequence[Stock]) -> list[Stock]:
    """All but the youngest, which would cut the common history short."""
    youngest = max(stocks, key=lambda stock: stock.dates[0])
    return [stock for stock in stocks if stock is not youngest]


def _names(panel: Panel) -> str:
    return ", ".join(panel.tickers)


def _options(stocks: Sequence[Stock], title: str, **arguments: Any) -> Job:
    tasks = {
        stock.ticker: {
            "spot_price": float(stock.close[-1]),
            "strike_price": float(stock.close[-1]),
            "volatility": stock.volatility,
            "maturity": 1.0,
            "rate": RATE,
            "seed": SEED,
            **arguments,
        }
        for stock in stocks
    }
    return Job(title, "options.monte_carlo_european", tasks)


def _one_day_risk(*panels: Panel) -> Job:
    tasks = {
        f"{len(panel.tickers)} stocks, {len(panel.returns):,} days since {panel.dates[0]}": _book(panel.returns)
        for panel in panels
    }
    return Job("equal-weight books over the real days", "risk.var_historical", tasks)


def _ten_day_risk(panel: Panel, rng: np.random.Generator) -> Job:
    returns = resampled_horizon(panel, HORIZON_DAYS, SCENARIOS, rng)
    name = f"{len(panel.tickers)} stocks, {SCENARIOS:,} draws of {HORIZON_DAYS} real days"
    return Job(
        f"{SCENARIOS:,} scenarios of {HORIZON_DAYS} days drawn from the real ones",
        "risk.var_historical",
        {name: _book(returns)},
    )


def _book(returns: Floats) -> dict[str, Any]:
    count = returns.shape[1]
    return {"returns": returns, "weights": np.full(count, 1.0 / count), "confidence": 0.99, "notional": 1e6}


def _indicator(name: str, days: int, histories: Sequence[Panel]) -> Job:
    tasks = {_names(panel): {"close": panel.adjusted, "period": days} for panel in histories}
    return Job(f"{days} days, every stock's whole history", f"indicators.{name}", tasks)


def _greeks(stocks: Sequence[Stock], rng: np.random.Generator) -> Job:
    """Options on the real stocks at real volatilities. The first of each stock is the call that the other jobs price."""
    which = np.arange(OPTIONS) % len(stocks)
    spot = np.array([stock.close[-1] for stock in stocks])[which]
    strike = spot * rng.uniform(0.7, 1.4, OPTIONS)
    maturity = rng.uniform(0.1, 2.0, OPTIONS)
    strike[: len(stocks)], maturity[: len(stocks)] = spot[: len(stocks)], 1.0
    columns = {
        "spot": spot,
        "strike": strike,
        "volatility": np.array([stock.volatility for stock in stocks])[which],
        "maturity": maturity,
        "rate": np.full(OPTIONS, RATE),
    }
    return Job(f"{OPTIONS:,} calls over the five spots and volatilities", "risk.greeks_batch", {"grid": columns})


def _inference(stocks: Sequence[Stock], rng: np.random.Generator) -> Job:
    arguments: dict[str, Any] = {"x": return_windows(stocks, LAYERS[0], ROWS)}
    for layer, (fan_in, fan_out) in enumerate(pairwise(LAYERS), 1):
        arguments[f"w{layer}"] = rng.standard_normal((fan_in, fan_out)) * np.sqrt(2.0 / fan_in)
        arguments[f"b{layer}"] = np.zeros(fan_out)
    network = "-".join(map(str, LAYERS))
    title = f"{ROWS:,} windows of {LAYERS[0]} daily returns; untrained {network} network: this measures routing, not forecasting"
    return Job(title, "ml.mlp_inference", {"windows": arguments})


@dataclass(frozen=True)
class Outcome:
    """A finished job: for each of its tasks the run whose time was the median, with that run's own decision."""

    job: Job
    results: Mapping[str, TaskResult]

    @property
    def decisions(self) -> list[Decision]:
        return [result.decision for result in self.results.values()]


def run_job(router: Router, job: Job, repeats: int) -> Outcome:
    """Run every task of the job ``repeats`` times. Arrays are put into shared memory once, so no run copies them."""
    results = {}
    for name, arguments in job.tasks.items():
        shared = {key: _share(router, value) for key, value in arguments.items()}
        runs = [router.run(job.workload, **shared) for _ in range(repeats)]
        middle = median_low(result.timing.total_seconds for result in runs)
        results[name] = next(result for result in runs if result.timing.total_seconds == middle)
    return Outcome(job, results)


def _share(router: Router, value: Any) -> Any:
    if not isinstance(value, np.ndarray):
        return value
    shared = router.empty(value.shape, value.dtype)
    shared[...] = value
    return shared
