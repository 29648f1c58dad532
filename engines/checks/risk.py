"""Checks of simulated and discretised value at risk."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

from engines.checks.require import require
from engines.jobs.job import Outcome

_STANDARD_ERRORS = 5.0


def simulated_risk(outcome: Outcome) -> str:
    """The bare book against z·√(δᵀΣδ); what sold calls give away and bring in must make the loss smaller."""
    (bare, arguments), (sold, _) = zip(outcome.results.values(), outcome.job.tasks.values(), strict=True)
    delta = arguments["delta"]
    exact = NormalDist().inv_cdf(arguments["confidence"]) * math.sqrt(delta @ arguments["covariance"] @ delta)
    allowed = _STANDARD_ERRORS * bare["value_at_risk_error"] + 2e-5 * exact
    require(
        abs(bare["value_at_risk"] - exact) <= allowed,
        f"the simulated VaR is {bare['value_at_risk']:,.0f}, not {exact:,.0f}",
    )
    require(sold["value_at_risk"] < bare["value_at_risk"], "calls sold on a book do not lower its VaR")
    return (
        f"VaR {bare['value_at_risk']:,.0f} ± {bare['value_at_risk_error']:,.0f}, in closed form {exact:,.0f}; "
        f"with calls sold {sold['value_at_risk']:,.0f}"
    )


def histogram_risk(outcome: Outcome) -> str:
    """Both methods' intervals against the cumulated histogram."""
    [arguments, *_] = outcome.job.tasks.values()
    losses = np.linspace(arguments["lowest_loss"], arguments["highest_loss"], len(arguments["probabilities"]))
    exact = losses[np.searchsorted(np.cumsum(arguments["probabilities"]), arguments["confidence"] - 1e-12)]
    step = losses[1] - losses[0]
    for method, found in outcome.results.items():
        require(
            found["interval_low"] - step <= exact <= found["interval_high"] + step,
            f"{method} puts the VaR between {found['interval_low']:,.0f} and {found['interval_high']:,.0f}, it is {exact:,.0f}",
        )
    values = ", ".join(f"{method} {found['value_at_risk']:,.0f}" for method, found in outcome.results.items())
    return f"{values}; the histogram itself {exact:,.0f}"
