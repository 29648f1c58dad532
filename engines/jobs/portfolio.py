"""Which of the real stocks to hold, and where the risk of holding them comes from: the Portfolio and Factor engines."""

from __future__ import annotations

import numpy as np

from engines.jobs.job import Job
from engines.jobs.options import SEED
from engines.prices import TRADING_DAYS, Panel

FRONTIER_POINTS = 50
CHOSEN = 2
READS = 256
FACTORS = 2
BOOKS = 10_000


def portfolio(young: Panel, old: Panel, rng: np.random.Generator) -> dict[str, Job]:
    """Long-only optima, the best few stocks, and the risk of many books under statistical factors."""
    return {
        "markowitz": Job(
            "Portfolio",
            f"least variance for an average return, and a frontier of {FRONTIER_POINTS} portfolios",
            "portfolio.markowitz",
            {
                f"{len(panel.tickers)} stocks": {
                    **_moments(panel),
                    "target_return": float(_moments(panel)["expected_returns"].mean()),
                    "frontier_points": FRONTIER_POINTS,
                }
                for panel in (young, old)
            },
        ),
        "cardinality": Job(
            "Portfolio",
            f"the best {CHOSEN} of {len(young.tickers)} stocks by annealing, {READS} reads",
            "portfolio.qubo_cardinality",
            {", ".join(young.tickers): {**_moments(young), "cardinality": CHOSEN, "num_reads": READS, "seed": SEED}},
        ),
        "decomposition": _decomposition(young, rng),
    }


def _moments(panel: Panel) -> dict[str, np.ndarray]:
    """Mean and covariance of a year's returns, from the daily ones."""
    return {
        "expected_returns": TRADING_DAYS * panel.returns.mean(axis=0),
        "covariance": TRADING_DAYS * np.cov(panel.returns.T),
    }


def _decomposition(panel: Panel, rng: np.random.Generator) -> Job:
    """Principal components of the real returns as factors. The first book has equal weights, the others random ones."""
    returns = panel.returns - panel.returns.mean(axis=0)
    _left, sizes, components = np.linalg.svd(returns / np.sqrt(len(returns) - 1), full_matrices=False)
    exposures = components[:FACTORS].T
    explained = exposures**2 @ sizes[:FACTORS] ** 2
    count = len(panel.tickers)
    return Job(
        "Factor",
        f"{BOOKS:,} random books of the {count} stocks under {FACTORS} principal components of their returns",
        "factor.risk_decompose",
        {
            "books": {
                "exposures": exposures.copy(),
                "factor_covariance": np.diag(sizes[:FACTORS] ** 2),
                "specific_variance": np.maximum(returns.var(axis=0, ddof=1) - explained, 0.0),
                "weights": np.concatenate([np.full((1, count), 1.0 / count), rng.dirichlet(np.ones(count), BOOKS - 1)]),
            }
        },
    )
