"""Value at risk and expected shortfall of a portfolio over what happened before."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from routerd.interfaces import Array, Arrays, Dims, Example, HostArrays, Namespace, Parameter, Params, Workload
from routerd.workloads.risk.tail import CONFIDENCE, quantile_rank
from routerd.workloads.splitting import split_along

if TYPE_CHECKING:
    import numpy as np


# Far beyond any book, in currency too, and losses stay finite.
_LARGEST = 1e15


def _var_historical(namespace: Namespace, params: Params, arrays: Arrays) -> Arrays:
    """VaR is the loss of one past scenario, so that scenario's own positions are its components: they sum to it."""
    xp, returns, weights = namespace.xp, arrays["returns"], arrays["weights"]
    losses = xp.matmul(returns, weights)
    losses *= -params["notional"]
    chosen, shortfall = _tail(namespace, losses, params["confidence"])
    return {
        "value_at_risk": losses[chosen],
        "expected_shortfall": shortfall,
        "component_var": -params["notional"] * (returns[chosen, :] * weights),
        "losses": losses,
    }


def _tail(namespace: Namespace, losses: Any, confidence: float) -> tuple[int, Any]:
    """The scenario whose loss is the VaR, the earliest of equals, and the expected shortfall.

    Sorting the losses themselves is several times faster than finding the order of the scenarios.
    """
    xp, scenarios = namespace.xp, losses.shape[0]
    tail = xp.sort(losses)[quantile_rank(scenarios, confidence) :]
    shortfall = tail[0] + xp.sum(tail - tail[0]) / ((1.0 - confidence) * scenarios)
    position = namespace.arange(0, scenarios)
    return int(xp.min(xp.where(losses == tail[0], position, position + scenarios))), shortfall


def _merge(whole: Example, parts: Sequence[HostArrays]) -> dict[str, Any]:
    """The losses of the parts are those of the whole; what one scenario tells is read from the whole's own returns."""
    import numpy as np

    from routerd.namespaces.numpy import NumpyNamespace

    losses = np.concatenate([part["losses"] for part in parts])
    chosen, shortfall = _tail(NumpyNamespace(), losses, float(whole.params["confidence"]))
    components = np.asarray(whole.arrays["returns"][chosen], dtype=np.float64) * whole.arrays["weights"]
    return {
        "value_at_risk": np.asarray(losses[chosen]),
        "expected_shortfall": np.asarray(shortfall),
        "component_var": -float(whole.params["notional"]) * components,
        "losses": losses,
    }


def _products_and_comparisons(params: Params, dims: Dims) -> float:
    """A scenario's loss is a product for every asset; sorting the losses costs about three products a comparison."""
    return float(dims["T"] * dims["N"] + _ordering(dims["T"]))


def _ordering(scenarios: int) -> float:
    return 3.0 * scenarios * math.log2(scenarios + 1)


def _example(work: float, rng: np.random.Generator) -> Example:
    """Returns with a common market factor and fat tails; a long book."""
    scenarios = 8
    while scenarios < 5_000 and _ordering(2 * scenarios) <= 0.5 * work:
        scenarios *= 2
    assets = max(1, round((work - _ordering(scenarios)) / scenarios))
    market = 0.008 * rng.standard_t(5, (scenarios, 1))
    returns = 0.0003 + market * rng.uniform(0.5, 1.5, assets) + 0.012 * rng.standard_normal((scenarios, assets))
    weights = rng.uniform(0.5, 1.5, assets)
    return Example({"notional": 1e6}, {"returns": returns, "weights": weights / weights.sum()})


VAR_HISTORICAL = Workload(
    name="risk.var_historical",
    summary="Value at risk, expected shortfall and component VaR of a portfolio over past scenarios.",
    source="Rockafellar, Uryasev (2002), Conditional Value-at-Risk for General Loss Distributions, "
    "Journal of Banking & Finance 26(7); quantile: Hyndman, Fan (1996), definition 1",
    engines=("Risk", "Portfolio"),
    parameters=(
        CONFIDENCE,
        Parameter(
            name="notional",
            type="float",
            unit="currency",
            default=1.0,
            minimum=0.0,
            above_minimum=True,
            maximum=1e18,
            doc="value of the portfolio that the weights divide up",
        ),
    ),
    inputs=(
        Array(
            name="returns",
            shape=("T", "N"),
            unit="1 per period",
            minimum=-_LARGEST,
            maximum=_LARGEST,
            doc="return of each asset (column) in each scenario (row)",
        ),
        Array(
            name="weights",
            shape=("N",),
            unit="share of notional",
            minimum=-_LARGEST,
            maximum=_LARGEST,
            doc="exposure to each asset; negative is short",
        ),
    ),
    outputs=(
        Array(name="value_at_risk", shape=(), unit="currency", doc="order statistic of the losses; a loss is positive"),
        Array(
            name="expected_shortfall",
            shape=(),
            unit="currency",
            doc="Rockafellar–Uryasev: VaR + mean excess over VaR ÷ (1 − confidence), the scenario at VaR counted in part",
        ),
        Array(
            name="component_var",
            shape=("N",),
            unit="currency",
            doc="each asset's loss in the scenario that is the VaR (the earliest of equal ones); they sum to it",
        ),
        Array(
            name="losses", shape=("T",), unit="currency", doc="loss of the portfolio in each scenario, for backtests"
        ),
    ),
    kernel=_var_historical,
    work=_products_and_comparisons,
    work_unit="products",
    example=_example,
    work_range=(1e3, 1e7),
    tolerance=1e-5,
    needs=frozenset({"sort"}),
    split=split_along({"returns": 0}),
    merge=_merge,
)
