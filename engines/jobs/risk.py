"""Value at risk of books of the real stocks: the Risk engine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from engines.jobs.job import Job
from engines.jobs.options import RATE, SEED
from engines.prices import Floats, Panel, Stock, resampled_horizon

SCENARIOS, HORIZON_DAYS = 100_000, 10
SIMULATIONS = 200_000
BINS = 1_024
NOTIONAL = 1e6
CONFIDENCE = 0.99


def risk(stocks: Sequence[Stock], young: Panel, old: Panel, rng: np.random.Generator) -> dict[str, Job]:
    """Equal-weight books over past days, over days drawn from them, over simulated ones, and from a histogram."""
    drawn = resampled_horizon(old, HORIZON_DAYS, SCENARIOS, rng)
    return {
        "one_day_risk": Job(
            "Risk",
            "equal-weight books over the real days",
            "risk.var_historical",
            {
                f"{len(panel.tickers)} stocks, {len(panel.returns):,} days since {panel.dates[0]}": _book(panel.returns)
                for panel in (young, old)
            },
        ),
        "ten_day_risk": Job(
            "Risk",
            f"{SCENARIOS:,} scenarios of {HORIZON_DAYS} days drawn from the real ones",
            "risk.var_historical",
            {f"{len(old.tickers)} stocks, {SCENARIOS:,} draws of {HORIZON_DAYS} real days": _book(drawn)},
        ),
        "simulated_risk": _simulated(stocks, young),
        "histogram_risk": _histogram(drawn),
    }


def _book(returns: Floats) -> dict[str, Any]:
    count = returns.shape[1]
    weights = np.full(count, 1.0 / count)
    return {"returns": returns, "weights": weights, "confidence": CONFIDENCE, "notional": NOTIONAL}


def _simulated(stocks: Sequence[Stock], panel: Panel) -> Job:
    """The book, bare and with a year's at-the-money call sold on every share, under normal moves of the real covariance."""
    held = np.full(len(stocks), NOTIONAL / len(stocks))
    volatility = np.array([stock.volatility for stock in stocks])
    d1 = RATE / volatility + volatility / 2.0
    sold_delta = np.array([0.5 * (1.0 + math.erf(x / math.sqrt(2.0))) for x in d1])
    sold_gamma = np.exp(-d1 * d1 / 2.0) / math.sqrt(2.0 * math.pi) / volatility
    common = {
        "covariance": HORIZON_DAYS * np.cov(panel.returns.T),
        "confidence": CONFIDENCE,
        "num_simulations": SIMULATIONS,
        "seed": SEED,
    }
    return Job(
        "Risk",
        f"{SIMULATIONS:,} normal moves over {HORIZON_DAYS} days with the real covariance: the book, and with a call sold on every share",
        "risk.var_monte_carlo",
        {
            "5 stocks": {**common, "delta": held, "gamma": np.zeros((len(held), len(held)))},
            "5 stocks, calls sold": {
                **common,
                "delta": held * (1.0 - sold_delta),
                "gamma": np.diag(-held * sold_gamma),
            },
        },
    )


def _histogram(returns: Floats) -> Job:
    losses = -NOTIONAL * returns.mean(axis=1)
    counts, edges = np.histogram(losses, BINS)
    centres = (edges[1:] + edges[:-1]) / 2.0
    common = {
        "probabilities": counts / counts.sum(),
        "lowest_loss": float(centres[0]),
        "highest_loss": float(centres[-1]),
        "confidence": CONFIDENCE,
        "seed": SEED,
    }
    return Job(
        "Risk",
        f"a histogram of the same scenarios in {BINS:,} bins: Sobol points, and a simulated quantum algorithm",
        "risk.var_amplitude_estimation",
        {method: {**common, "method": method} for method in ("sobol", "iqae")},
    )
