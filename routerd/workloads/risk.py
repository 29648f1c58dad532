"""Market risk: sensitivities of options, and value at risk by historical simulation."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from routerd.interfaces import Array, Arrays, Dims, Example, Namespace, Parameter, Params, Workload
from routerd.workloads.normal import density_and_distribution

if TYPE_CHECKING:
    import numpy as np


def _greeks_batch(namespace: Namespace, params: Params, arrays: Arrays) -> Arrays:
    columns = [arrays[name] for name in ("spot", "strike", "volatility", "maturity", "rate")]
    step = max(1, namespace.block // 2)
    blocks = [
        _greeks(namespace, params["option_type"], *(column[start : start + step] for column in columns))
        for start in range(0, columns[0].shape[0], step)
    ]
    return {"greeks": blocks[0] if len(blocks) == 1 else namespace.xp.concat(blocks)}


def _greeks(
    namespace: Namespace, option_type: str, spot: Any, strike: Any, volatility: Any, maturity: Any, rate: Any
) -> Any:
    """Price and greeks of one block, shape (n, 6). A put is a call whose deviates, distributions and cash flows are mirrored."""
    xp = namespace.xp
    sign = 1.0 if option_type == "call" else -1.0
    root = xp.sqrt(maturity)
    deviation = volatility * root
    upper = xp.log(spot / strike) + rate * maturity
    upper /= deviation
    upper += 0.5 * deviation
    lower = upper - deviation
    density, chance = density_and_distribution(namespace, sign * upper)
    _, exercise = density_and_distribution(namespace, sign * lower)
    discounted = xp.exp(-rate * maturity)
    discounted *= strike
    discounted *= exercise
    delta = sign * chance
    price = spot * delta - sign * discounted
    spread = spot * density
    vega = spread * root
    gamma = density / (spot * deviation)
    theta = spread * volatility
    theta /= -2.0 * root
    theta -= (sign * rate) * discounted
    rho = (sign * maturity) * discounted
    return xp.stack((price, delta, gamma, vega, theta, rho), axis=1)


def _options(params: Params, dims: Dims) -> float:
    return float(dims["N"])


def _greeks_example(work: float, rng: np.random.Generator) -> Example:
    count = max(1, round(work))
    spot = rng.uniform(20.0, 200.0, count)
    return Example(
        {"option_type": "call" if rng.random() < 0.5 else "put"},
        {
            "spot": spot,
            "strike": spot * rng.uniform(0.6, 1.6, count),
            "volatility": rng.uniform(0.1, 0.6, count),
            "maturity": rng.uniform(0.05, 3.0, count),
            "rate": rng.uniform(-0.01, 0.08, count),
        },
    )


def _positive(name: str, unit: str, doc: str) -> Array:
    return Array(name=name, shape=("N",), unit=unit, doc=doc, minimum=0.0, above_minimum=True)


GREEKS_BATCH = Workload(
    name="risk.greeks_batch",
    summary="Black–Scholes price, delta, gamma, vega, theta and rho of many European options.",
    source="Black, Scholes (1973), The Pricing of Options and Corporate Liabilities, Journal of Political Economy 81(3)",
    engines=("Risk", "Portfolio"),
    parameters=(
        Parameter(
            name="option_type", type="str", default="call", choices=("call", "put"), doc="right to buy or to sell"
        ),
    ),
    inputs=(
        _positive("spot", "currency", "price of each underlying today"),
        _positive("strike", "currency", "price at which each option is exercised"),
        _positive("volatility", "per √year", "standard deviation of the log return over a year (0.2 is 20 %)"),
        _positive("maturity", "years", "time to maturity"),
        Array(name="rate", shape=("N",), unit="per year", doc="risk-free rate, continuously compounded"),
    ),
    outputs=(
        Array(
            name="greeks",
            shape=("N", 6),
            unit="price: currency; delta: 1; gamma: per currency; vega: currency per 1.00 of volatility; "
            "theta: currency per year that passes; rho: currency per 1.00 of rate",
            doc="columns price, delta, gamma, vega, theta, rho",
        ),
    ),
    kernel=_greeks_batch,
    work=_options,
    work_unit="options",
    example=_greeks_example,
    work_range=(1e2, 1e6),
    tolerance=1e-5,
    batch_dim="N",
)


def _var_historical(namespace: Namespace, params: Params, arrays: Arrays) -> Arrays:
    """VaR is the loss of one past scenario, so that scenario's own positions are its components: they sum to it.

    Of scenarios with equal losses the earliest is taken.
    """
    xp, returns, weights = namespace.xp, arrays["returns"], arrays["weights"]
    scenarios = returns.shape[0]
    confidence, notional = params["confidence"], params["notional"]
    losses = -xp.matmul(returns, weights)
    # The smallest loss that at least the confidence's share of scenarios does not exceed (counted as NumPy's quantile does).
    rank = max(0, math.ceil(scenarios * confidence - 1.0))
    chosen = xp.argsort(losses, stable=True)[rank : rank + 1]
    var = xp.take(losses, chosen, axis=0)
    excess = xp.maximum(losses - var, namespace.zeros(()))
    shortfall = var[0] + xp.sum(excess) / ((1.0 - confidence) * scenarios)
    components = xp.take(returns, chosen, axis=0)[0, :] * weights
    return {
        "value_at_risk": notional * var[0],
        "expected_shortfall": notional * shortfall,
        "component_var": -notional * components,
    }


def _products_and_comparisons(params: Params, dims: Dims) -> float:
    """A scenario's loss is a product for every asset; ordering the losses costs about twenty products a comparison."""
    return float(dims["T"] * dims["N"] + _ordering(dims["T"]))


def _ordering(scenarios: int) -> float:
    return 20.0 * scenarios * math.log2(scenarios + 1)


def _var_example(work: float, rng: np.random.Generator) -> Example:
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
        Parameter(
            name="confidence",
            type="float",
            default=0.99,
            minimum=0.5,
            maximum=0.99999,
            above_minimum=True,
            doc="share of scenarios whose loss stays within the value at risk",
        ),
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
            doc="return of each asset (column) in each scenario (row)",
        ),
        Array(name="weights", shape=("N",), unit="share of notional", doc="exposure to each asset; negative is short"),
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
            doc="each asset's loss in the scenario that is the VaR; they sum to it",
        ),
    ),
    kernel=_var_historical,
    work=_products_and_comparisons,
    work_unit="products",
    example=_var_example,
    work_range=(1e3, 1e7),
    tolerance=1e-5,
)

WORKLOADS = (GREEKS_BATCH, VAR_HISTORICAL)
