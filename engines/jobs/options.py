"""Options on the real stocks, at their real prices and volatilities: the Risk engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from engines.jobs.job import Job
from engines.prices import Stock

SEED = 20130301
PATHS = 1_000_000
POINTS = 4_096
ASIAN_PATHS, FIXINGS = 20_000, 12
OPTIONS = 200_000
RATE = 0.05


def options(stocks: Sequence[Stock], rng: np.random.Generator) -> dict[str, Job]:
    """A year's at-the-money call on each stock by four methods."""
    european, asian = "options.monte_carlo_european", "options.monte_carlo_asian"
    call = "a year's at-the-money call on each stock"
    return {
        "pseudo_random": _calls(stocks, european, f"{call}, {PATHS:,} pseudo-random paths", num_simulations=PATHS),
        "quasi_random": _calls(
            stocks,
            european,
            f"the same calls, {POINTS:,} quasi-random points",
            num_simulations=POINTS,
            method="quasi_random",
        ),
        "asian": _calls(
            stocks,
            asian,
            f"the same calls on the average of {FIXINGS} months' closes, {ASIAN_PATHS:,} paths",
            num_simulations=ASIAN_PATHS,
            num_steps=FIXINGS,
        ),
        "greeks": _greeks(stocks, rng),
    }


def _calls(stocks: Sequence[Stock], workload: str, title: str, **arguments: Any) -> Job:
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
    return Job("Risk", title, workload, tasks)


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
    return Job(
        "Risk", f"{OPTIONS:,} calls over the five spots and volatilities", "risk.greeks_batch", {"grid": columns}
    )
