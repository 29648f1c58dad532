"""Option pricing by simulation."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from routerd.interfaces import Array, Arrays, Dims, Example, Namespace, Parameter, Params, Workload
from routerd.workloads.randomness import normals, shifts

if TYPE_CHECKING:
    import numpy as np

_REPLICATES = 8
# Beyond eight standard deviations of what is integrated lies 1e-15 of it.
_REACH = 8.0


def _monte_carlo_european(namespace: Namespace, params: Params, arrays: Arrays) -> Arrays:
    estimate = _pseudo_random if params["method"] == "pseudo_random" else _quasi_random
    mean, standard_error = estimate(namespace, params)
    discount = math.exp(-params["rate"] * params["maturity"])
    return {
        "price": namespace.asarray(discount * mean),
        "standard_error": namespace.asarray(discount * standard_error),
    }


def _pseudo_random(namespace: Namespace, params: Params) -> tuple[float, float]:
    """Mean payoff and its standard error over independent paths, block by block, merged as (n, mean, M2).

    Every counter gives four paths, the last one as many as are left, so the paths do not depend on the size of a block.
    Source of the merge: Chan, Golub, LeVeque (1983), The American Statistician 37(3).
    """
    xp = namespace.xp
    paths = params["num_simulations"]
    drift, deviation = _log_growth(params)
    counters, rest = divmod(paths, 4)
    step = max(1, namespace.block // 4)
    spans = [(start, min(start + step, counters), None) for start in range(0, counters, step)]
    if rest:
        spans.append((counters, counters + 1, rest))
    count, mean, scatter = 0, 0.0, 0.0
    for start, stop, lanes in spans:
        growth = normals(namespace, params["seed"], start, stop)[:lanes]
        growth *= deviation
        growth += drift
        asset = xp.exp(growth)
        asset *= params["spot_price"]
        asset -= params["strike_price"]
        payoff = _exercised(namespace, params, asset)
        size = payoff.shape[0]
        block_mean = float(xp.mean(payoff))
        payoff -= block_mean
        payoff *= payoff
        gap = block_mean - mean
        scatter += float(xp.sum(payoff)) + gap * gap * count * size / (count + size)
        mean += gap * size / (count + size)
        count += size
    return mean, math.sqrt(scatter / (count - 1) / count)


def _quasi_random(namespace: Namespace, params: Params) -> tuple[float, float]:
    """Mean payoff and its standard error from randomly shifted one-dimensional lattices.

    The lattice lies evenly over the interval of normal deviates that matters, and the payoff carries the normal density
    as its weight. So weighted, the integrand and its derivatives vanish at both ends: it is periodic, which is what a
    lattice needs to converge fast. (The inverse normal would leave a call's payoff unbounded at one end and the error at
    O(1/n).) Independent shifts give unbiased replicates, and their scatter gives the standard error, which is never
    reported below the rounding of the namespace.

    Source: Sloan, Joe (1994), Lattice Methods for Multiple Integration; Cranley, Patterson (1976), SIAM J. Numer. Anal. 13.
    """
    xp = namespace.xp
    replicates = max(2, min(_REPLICATES, params["num_simulations"] // 4))
    points = -(-params["num_simulations"] // replicates)
    drift, deviation = _log_growth(params)
    spacing = (2.0 * _REACH + deviation) / points
    origins = namespace.asarray([[spacing * shift - _REACH] for shift in shifts(params["seed"], replicates)])
    step = max(1, namespace.block // replicates)
    sums = [0.0] * replicates
    for start in range(0, points, step):
        normal = namespace.asarray(namespace.arange(0, min(step, points - start)))
        normal = (normal * spacing + spacing * start) + origins
        # Density and asset share one exponent, so neither a huge asset nor a vanishing density stands alone.
        exponent = normal * normal
        exponent *= -0.5
        density = xp.exp(exponent)
        normal *= deviation
        exponent += normal
        exponent += drift
        asset = xp.exp(exponent)
        asset *= params["spot_price"]
        density *= params["strike_price"]
        asset -= density
        weighted = _exercised(namespace, params, asset)
        block = namespace.to_host(xp.sum(weighted, axis=1)).tolist()
        sums = [total + part for total, part in zip(sums, block, strict=True)]
    scale = spacing / math.sqrt(2.0 * math.pi)
    means = [scale * total for total in sums]
    mean = sum(means) / replicates
    variance = sum((value - mean) ** 2 for value in means) / (replicates - 1)
    rounding = 4.0 * float(xp.finfo(namespace.real).eps) * mean
    return mean, max(math.sqrt(variance / replicates), rounding)


def _log_growth(params: Params) -> tuple[float, float]:
    """Mean and standard deviation of log(S_T/S_0) under geometric Brownian motion."""
    volatility, maturity = params["volatility"], params["maturity"]
    return (params["rate"] - 0.5 * volatility * volatility) * maturity, volatility * math.sqrt(maturity)


def _exercised(namespace: Namespace, params: Params, gain: Any) -> Any:
    """What the holder gets where ``gain`` is asset minus strike; overwrites it."""
    if params["option_type"] == "put":
        gain *= -1.0
    return namespace.xp.maximum(gain, namespace.zeros(()))


def _paths(params: Params, dims: Dims) -> float:
    """A lattice point needs no random numbers, which are three quarters of the cost of a path."""
    return float(params["num_simulations"]) * (1.0 if params["method"] == "pseudo_random" else 0.25)


def _monte_carlo_example(work: float, rng: np.random.Generator) -> Example:
    return Example(
        {
            "spot_price": 100.0,
            "strike_price": float(rng.uniform(80.0, 120.0)),
            "volatility": float(rng.uniform(0.1, 0.5)),
            "maturity": float(rng.uniform(0.25, 2.0)),
            "rate": 0.05,
            "option_type": "call" if rng.random() < 0.5 else "put",
            "num_simulations": max(2, round(work)),
            "seed": int(rng.integers(2**32)),
        },
        {},
    )


MONTE_CARLO_EUROPEAN = Workload(
    name="options.monte_carlo_european",
    summary="European option by Monte Carlo: e^(−rT)·E[max(±(S_T − K), 0)] under geometric Brownian motion.",
    source="Glasserman (2003), Monte Carlo Methods in Financial Engineering; Philox4x32-10 by Salmon et al. (2011), SC'11",
    engines=("Risk",),
    parameters=(
        Parameter(
            name="spot_price",
            type="float",
            unit="currency",
            minimum=0.0,
            above_minimum=True,
            maximum=1e12,
            doc="price of the underlying today",
        ),
        Parameter(
            name="strike_price",
            type="float",
            unit="currency",
            minimum=0.0,
            above_minimum=True,
            maximum=1e12,
            doc="price at which the option is exercised",
        ),
        Parameter(
            name="volatility",
            type="float",
            unit="per √year",
            minimum=0.0,
            above_minimum=True,
            maximum=5.0,
            doc="standard deviation of the log return over a year (0.2 is 20 %)",
        ),
        Parameter(
            name="maturity",
            type="float",
            unit="years",
            default=1.0,
            minimum=0.0,
            above_minimum=True,
            maximum=100.0,
            doc="time to maturity",
        ),
        Parameter(
            name="rate",
            type="float",
            unit="per year",
            default=0.05,
            minimum=-1.0,
            maximum=1.0,
            doc="risk-free rate, continuously compounded",
        ),
        Parameter(
            name="option_type", type="str", default="call", choices=("call", "put"), doc="right to buy or to sell"
        ),
        Parameter(
            name="num_simulations",
            type="int",
            minimum=2,
            maximum=1_000_000_000,
            doc="number of paths, or of lattice points (rounded up to whole replicates)",
        ),
        Parameter(
            name="method",
            type="str",
            default="pseudo_random",
            choices=("pseudo_random", "quasi_random"),
            doc="independent paths, or randomly shifted lattices (far more accurate for the same number)",
        ),
        Parameter(
            name="seed",
            type="int",
            default=0,
            minimum=0,
            maximum=2**53 - 1,
            doc="selects the random numbers; the same seed gives the same answer on every device",
        ),
    ),
    inputs=(),
    outputs=(
        Array(name="price", shape=(), unit="currency", doc="present value of the option"),
        Array(name="standard_error", shape=(), unit="currency", doc="standard error of the price", scale="price"),
    ),
    kernel=_monte_carlo_european,
    work=_paths,
    work_unit="paths (a lattice point counts a quarter)",
    example=_monte_carlo_example,
    work_range=(1e3, 1e7),
    tolerance=1e-5,
    variants=({}, {"method": "quasi_random"}),
)

WORKLOADS = (MONTE_CARLO_EUROPEAN,)
