"""Checks of orders and of what secures them."""

from __future__ import annotations

import numpy as np

from engines.checks.require import require, require_close
from engines.jobs.job import Outcome


def schedules(outcome: Outcome) -> str:
    """All is sold, and whoever fears risk more pays more for less of it."""
    [result], [task] = outcome.results.values(), outcome.job.tasks.values()
    shares = task["shares"]
    require_close(result["trades"].sum(axis=1), shares, 1e-5, "what the schedules sell")
    require_close(result["holdings"][:, 0], shares, 1e-5, "what the schedules start from")
    stocks = len(np.unique(shares))
    cost, variance = (result[name].reshape(stocks, -1) for name in ("expected_cost", "cost_variance"))
    slack = 1e-5
    require((np.diff(cost) >= -slack * cost[:, 1:]).all(), "more fear of risk makes a schedule cheaper")
    require((np.diff(variance) <= slack * variance[:, :-1]).all(), "more fear of risk makes a schedule riskier")
    sold = result["trades"][:, 0] / shares
    return f"the first of {task['num_periods']} trades sells {sold.min():.1%} to {sold.max():.1%}, as the aversion to risk grows"


def pretrade(outcome: Outcome) -> str:
    """Collar, quantity and notional again; what passes keeps each position within its limit."""
    [result], [task] = outcome.results.values(), outcome.job.tasks.values()
    flags, which = result["flags"], task["instrument"]
    reference, quantity, price = task["reference_price"][which], task["quantity"], task["price"]
    expected = (
        1 * (np.abs(price - reference) > task["price_collar"] * reference * (1.0 + 1e-12))
        + 2 * (quantity > task["max_quantity"][which])
        + 4 * (price * quantity > task["max_notional"][which] * (1.0 + 1e-12))
    )
    require(np.array_equal(flags & 7, expected), "orders are flagged otherwise than their prices and quantities say")
    for side in (-1, 1):
        passed = (flags == 0) & (task["side"] == side)
        filled = np.bincount(which[passed], quantity[passed], len(task["position_limit"]))
        require((filled <= task["position_limit"] * (1.0 + 1e-12)).all(), "orders that passed exceed a position limit")
    counts = ", ".join(
        f"{np.count_nonzero(flags & bit):,} {words}"
        for bit, words in ((1, "outside the collar"), (2, "too large"), (4, "too dear"), (8, "beyond a position limit"))
    )
    return f"{np.count_nonzero(flags == 0):,} of {len(flags):,} orders pass; {counts}"


def margin(outcome: Outcome) -> str:
    """The first accounts hold one stock each: sensitivity times weight. Nobody's margin exceeds the sum of those."""
    [result], [task] = outcome.results.values(), outcome.job.tasks.values()
    weighted = np.abs(task["sensitivities"] * task["risk_weights"])
    count = len(task["risk_weights"])
    found = result["margin"]
    require_close(found[:count], weighted[:count].sum(axis=1), 1e-5, "the margin of accounts with one stock")
    require((found <= weighted.sum(axis=1) * (1.0 + 1e-5)).all(), "a margin exceeds that without any diversification")
    require_close(found, result["scenario_margins"].max(axis=1), 1e-12, "the greatest of the margins")
    return f"diversification saves {1.0 - found[count:].sum() / weighted[count:].sum():.0%} of the margin"
