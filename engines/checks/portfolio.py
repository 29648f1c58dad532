"""Checks of portfolios and of where their risk comes from."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from engines.checks.require import require, require_close
from engines.jobs.job import Outcome

_RIVALS = 2_000
_RISK_WEIGHT = 0.5


def markowitz(outcome: Outcome) -> str:
    """No random long-only portfolio with the wanted return may have less variance."""
    rng = np.random.default_rng(0)
    found = []
    for name, result in outcome.results.items():
        arguments, weights = outcome.job.tasks[name], result["weights"]
        mean, covariance, target = (arguments[key] for key in ("expected_returns", "covariance", "target_return"))
        require_close(weights.sum(), 1.0, 1e-9, "the sum of Markowitz's weights")
        require(weights.min() >= -1e-12, "a long-only portfolio is short")
        require(mean @ weights >= target - 1e-9, "a portfolio misses its target return")
        variance = weights @ covariance @ weights
        require_close(result["volatility"] ** 2, variance, 1e-6, "the variance of a portfolio")
        rivals = rng.dirichlet(np.ones(len(mean)), _RIVALS)
        rivals = rivals[rivals @ mean >= target]
        least = np.einsum("pi,ij,pj->p", rivals, covariance, rivals).min()
        require(variance <= least * (1.0 + 1e-9), "a random portfolio has less variance than the optimal one")
        found.append(f"{name}: return {result['expected_return']:.1%}, volatility {result['volatility']:.1%}")
    return f"{'; '.join(found)} a year; better than {_RIVALS:,} random portfolios"


def cardinality(outcome: Outcome) -> str:
    """The least energy of all choices there are."""
    [result], [arguments] = outcome.results.values(), outcome.job.tasks.values()
    mean, covariance = arguments["expected_returns"], arguments["covariance"]

    def energy(chosen: tuple[int, ...]) -> float:
        risk = covariance[np.ix_(chosen, chosen)].mean()
        return float(_RISK_WEIGHT * risk - (1.0 - _RISK_WEIGHT) * mean[list(chosen)].mean())

    choices = {chosen: energy(chosen) for chosen in combinations(range(len(mean)), arguments["cardinality"])}
    chosen = tuple(np.flatnonzero(result["selection"]))
    require(chosen in choices, f"{len(chosen)} stocks are chosen, asked for were {arguments['cardinality']}")
    least = min(choices.values())
    require(
        abs(choices[chosen] - least) <= 1e-5 * abs(least),
        f"the choice has energy {choices[chosen]:.6f}, the least is {least:.6f}",
    )
    [tickers] = outcome.results
    best = " and ".join(tickers.split(", ")[number] for number in chosen)
    return f"{best}, which is the best of all {len(choices)} choices"


def decomposition(outcome: Outcome) -> str:
    """Volatilities from the covariance written out; contributions must make up the whole."""
    [result], [arguments] = outcome.results.values(), outcome.job.tasks.values()
    exposures, factors, weights = arguments["exposures"], arguments["factor_covariance"], arguments["weights"]
    covariance = exposures @ factors @ exposures.T + np.diag(arguments["specific_variance"])
    volatility = np.sqrt(np.einsum("pi,ij,pj->p", weights, covariance, weights))
    require_close(result["volatility"], volatility, 1e-5, "the volatility of books")
    parts = result["percentage_contribution"].sum(axis=1)
    require_close(parts, np.ones(len(weights)), 1e-5, "the sum of risk contributions")
    return f"factors explain {result['factor_share'][0]:.1%} of the equal-weight book's variance"
