"""What every option workload asks for and gives, and the rules between its parameters."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from routerd.errors import InvalidParameter
from routerd.interfaces import Array, Dims, Parameter, Params
from routerd.types import Scalar

if TYPE_CHECKING:
    import numpy as np

#: The most paths or points that a task may ask for, or that a target may lead to.
MOST_SIMULATIONS = 1_000_000_000

#: The contract: what is paid, and when.
CONTRACT = (
    Parameter(
        name="spot_price",
        type="float",
        unit="currency",
        minimum=1e-12,
        maximum=1e12,
        doc="price of the underlying today",
    ),
    Parameter(
        name="strike_price",
        type="float",
        unit="currency",
        minimum=1e-12,
        maximum=1e12,
        doc="price at which the option is exercised",
    ),
    Parameter(
        name="volatility",
        type="float",
        unit="per √year",
        minimum=0.0,
        maximum=5.0,
        doc="standard deviation of the log return over a year (0.2 is 20 %); with 0 the price is exact",
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
        minimum=-0.5,  # over the longest maturity a payment grows by e^50, which float32 holds for any price
        maximum=1.0,
        doc="risk-free rate, continuously compounded",
    ),
    Parameter(name="option_type", type="str", default="call", choices=("call", "put"), doc="right to buy or to sell"),
)

TARGET = Parameter(
    name="target_standard_error",
    type="float",
    unit="currency",
    optional=True,
    minimum=1e-12,
    maximum=1e12,
    doc="instead of num_simulations: simulate until the standard error of the price is at most this, or "
    "num_simulations has reached its limit, or more points can no longer change the rounded result; "
    "standard_error says what was reached",
)

FIRST_SIMULATION = Parameter(
    name="first_simulation",
    type="int",
    default=0,
    minimum=0,
    maximum=MOST_SIMULATIONS,
    doc="the first path of the seed's stream that is simulated, so that several tasks may share one stream "
    "(pseudo_random with num_simulations)",
)

OUTPUTS = (
    Array(name="price", shape=(), unit="currency", doc="present value of the option"),
    Array(name="standard_error", shape=(), unit="currency", doc="standard error of the price", scale="price"),
    Array(name="num_simulations", shape=(), dtype="int64", doc="number of paths or points that were used"),
)


def num_simulations(points: str) -> Parameter:
    """How many paths are simulated; ``points`` says what else is counted and how it is rounded."""
    return Parameter(
        name="num_simulations",
        type="int",
        optional=True,
        minimum=2,
        maximum=MOST_SIMULATIONS,
        doc=f"number of paths, or of {points}; leave it out to give target_standard_error",
    )


def method(points: str) -> Parameter:
    """Which kind of numbers is simulated with; ``points`` says which quasi-random ones."""
    return Parameter(
        name="method",
        type="str",
        default="pseudo_random",
        choices=("pseudo_random", "quasi_random"),
        doc=f"independent paths, or {points} (far more accurate for the same number)",
    )


def check_simulation(params: Params, dims: Dims) -> None:
    """Raise ``InvalidParameter`` unless one thing says how much is simulated, and it can start where it is to."""
    del dims
    given = [name for name in ("num_simulations", "target_standard_error") if name in params]
    if len(given) != 1:
        said = "neither was" if not given else "both were"
        raise InvalidParameter(
            f"give either num_simulations or target_standard_error; {said} given", parameter="num_simulations"
        )
    if params["first_simulation"] and (params["method"] != "pseudo_random" or "num_simulations" not in params):
        raise InvalidParameter(
            "first_simulation needs method=pseudo_random and num_simulations: "
            "no other simulation is a range of a stream of paths",
            parameter="first_simulation",
        )


def discount(params: Params) -> float:
    """What a unit of currency at maturity is worth today."""
    return math.exp(-params["rate"] * params["maturity"])


def usual_contract(rng: np.random.Generator) -> dict[str, Scalar]:
    """Terms that an exchange might list, and a seed."""
    return {
        "spot_price": 100.0,
        "strike_price": float(rng.uniform(80.0, 120.0)),
        "volatility": float(rng.uniform(0.1, 0.5)),
        "maturity": float(rng.uniform(0.25, 2.0)),
        "rate": 0.05,
        "option_type": "call" if rng.random() < 0.5 else "put",
        "seed": int(rng.integers(2**32)),
    }
