"""Prices and sensitivities of many European options at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from routerd.interfaces import Array, Arrays, Dims, Example, Join, Namespace, Parameter, Params, Workload
from routerd.workloads.normal import density_and_distribution
from routerd.workloads.splitting import merge_along, split_along

if TYPE_CHECKING:
    import numpy as np

_INPUTS = ("spot", "strike", "volatility", "maturity", "rate")
# Below these an option is at its limit, while float32 still holds their product and what is divided by it.
_LEAST_VOLATILITY = 1e-15
_LEAST_MATURITY = 1e-20
# Within these every price and greek is a number in float32 too: discounting at a negative rate multiplies by e^50 at most.
_PRICES = (1e-12, 1e12)
_MOST_VOLATILITY = 100.0
_MOST_MATURITY = 100.0
_RATES = (-0.5, 10.0)


def _greeks_batch(namespace: Namespace, params: Params, arrays: Arrays) -> Arrays:
    columns = [arrays[name] for name in _INPUTS]
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
    volatility = xp.maximum(volatility, namespace.asarray(_LEAST_VOLATILITY))
    maturity = xp.maximum(maturity, namespace.asarray(_LEAST_MATURITY))
    root = xp.sqrt(maturity)
    deviation = volatility * root
    growth = rate * maturity
    upper = xp.log(spot / strike)
    upper += growth
    upper /= deviation
    upper += 0.5 * deviation
    upper *= sign
    lower = upper - sign * deviation
    density, chance = density_and_distribution(namespace, upper)
    _, exercise = density_and_distribution(namespace, lower)
    discounted = xp.exp(-growth)
    discounted *= strike
    discounted *= exercise
    discounted *= sign
    delta = sign * chance
    price = spot * delta
    price -= discounted
    spread = spot * density
    vega = spread * root
    gamma = density / deviation
    gamma /= spot
    theta = spread * volatility
    theta /= root
    theta *= -0.5
    theta -= rate * discounted
    rho = maturity * discounted
    return xp.stack((price, delta, gamma, vega, theta, rho), axis=1)


def _options(params: Params, dims: Dims) -> float:
    return float(dims["N"])


def _example(work: float, rng: np.random.Generator) -> Example:
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


def _price(name: str, doc: str) -> Array:
    return Array(name=name, shape=("N",), unit="currency", doc=doc, minimum=_PRICES[0], maximum=_PRICES[1])


def _positive(name: str, unit: str, maximum: float, doc: str) -> Array:
    return Array(name=name, shape=("N",), unit=unit, doc=doc, minimum=0.0, above_minimum=True, maximum=maximum)


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
        _price("spot", "price of each underlying today"),
        _price("strike", "price at which each option is exercised"),
        _positive(
            "volatility",
            "per √year",
            _MOST_VOLATILITY,
            "standard deviation of the log return over a year (0.2 is 20 %); less than 1e-15 counts as that",
        ),
        _positive("maturity", "years", _MOST_MATURITY, "time to maturity; less than 1e-20 counts as that"),
        Array(
            name="rate",
            shape=("N",),
            unit="per year",
            minimum=_RATES[0],
            maximum=_RATES[1],
            doc="risk-free rate, continuously compounded (0.05 is 5 %)",
        ),
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
    example=_example,
    work_range=(1e2, 1e6),
    tolerance=1e-5,
    batch_dim="N",
    split=split_along(dict.fromkeys(_INPUTS, 0)),
    merge=merge_along({"greeks": 0}),
    join=Join(inputs=dict.fromkeys(_INPUTS, 0), outputs={"greeks": 0}),
)
