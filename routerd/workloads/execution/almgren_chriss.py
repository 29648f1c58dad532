"""Optimal execution after Almgren and Chriss: how to spread large orders over time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from routerd.errors import InvalidArray
from routerd.interfaces import Array, Arrays, Dims, Example, HostArrays, Join, Namespace, Parameter, Params, Workload
from routerd.workloads.splitting import merge_along, split_along

if TYPE_CHECKING:
    import numpy as np

_NAME = "execution.almgren_chriss"
_ORDERS = ("shares", "horizon", "volatility", "temporary_impact", "permanent_impact", "risk_aversion")
_OUTPUTS = ("holdings", "trades", "expected_cost", "cost_variance", "kappa")
# A κT of so little makes a straight line in float64, and its e^(−2κT) − 1 does not underflow in float32.
_STRAIGHT = 1e-9
# Of η, what must be left of it after permanent impact: near nothing, no precision could tell its sign.
_LEAST_LEFT = 1e-3


def _almgren_chriss(namespace: Namespace, params: Params, arrays: Arrays) -> Arrays:
    step = max(1, 2 * namespace.block // (params["num_periods"] + 1))
    blocks = [
        _schedules(namespace, params, *(arrays[name][start : start + step] for name in _ORDERS))
        for start in range(0, arrays["shares"].shape[0], step)
    ]
    columns = zip(*blocks, strict=True)
    return {
        name: parts[0] if len(parts) == 1 else namespace.xp.concat(parts)
        for name, parts in zip(_OUTPUTS, columns, strict=True)
    }


def _schedules(
    namespace: Namespace,
    params: Params,
    shares: Any,
    horizon: Any,
    volatility: Any,
    temporary: Any,
    permanent: Any,
    aversion: Any,
) -> tuple[Any, ...]:
    """The outputs for some orders, in the order of ``_OUTPUTS``.

    sinh(κτ/2) = κ̃τ/2 gives κ without the cancellation of the paper's cosh(κτ) − 1. The ratios of hyperbolic functions are
    written with exponentials of negative numbers only, so no κT is too large, and one too small for a quotient is replaced by
    one just large enough. Each trade has its own formula: as a difference of holdings it would lose digits to a fine grid.
    """
    xp, periods, zero = namespace.xp, params["num_periods"], namespace.zeros(())
    interval = horizon / periods
    impact = temporary - 0.5 * permanent * interval
    half = 0.5 * volatility * interval * xp.sqrt(aversion / impact)
    angle = xp.log1p(half + half * half / (1.0 + xp.sqrt(1.0 + half * half)))  # asinh, which is κτ/2
    least = zero + 0.5 * _STRAIGHT / periods
    turn, sine = -2.0 * xp.maximum(angle, least)[:, None], 2.0 * xp.maximum(half, least)
    rest = xp.expm1(2.0 * periods * turn)
    steps = namespace.asarray(namespace.arange(0, periods + 1))[None, :]
    holdings = xp.exp(turn * steps)
    holdings *= xp.expm1((2.0 * turn) * (periods - steps))
    holdings /= rest
    holdings *= shares[:, None]
    middles = steps[:, 1:] - 0.5
    trades = xp.exp((2.0 * turn) * (periods - middles))
    trades += 1.0
    trades *= xp.exp(turn * middles)
    trades *= (-shares * sine)[:, None] / rest
    expected = 0.5 * permanent * shares * shares + params["fixed_cost"] * xp.abs(shares)
    expected += impact / interval * xp.sum(trades * trades, axis=1)
    variance = volatility * volatility * interval * xp.sum(holdings[:, 1:] * holdings[:, 1:], axis=1)
    return holdings, trades, expected, variance, 2.0 * angle / interval


def _check(params: Params, arrays: HostArrays) -> None:
    """The model has an optimum only where trading slowly costs less: η̃ = η − γτ/2 > 0."""
    import numpy as np

    temporary = arrays["temporary_impact"]
    lost = 0.5 * arrays["permanent_impact"] * arrays["horizon"] / params["num_periods"]
    wrong = temporary - lost < _LEAST_LEFT * temporary
    if wrong.any():
        order = int(np.argmax(wrong))
        raise InvalidArray(
            f"{_NAME}: temporary_impact[{order}] is {temporary[order]:g}, but must exceed permanent_impact·horizon ÷ "
            f"(2·num_periods) = {lost[order]:g} by {_LEAST_LEFT:.1%}; use more periods",
            array="temporary_impact",
        )


def _trades(params: Params, dims: Dims) -> float:
    return float(dims["B"] * params["num_periods"])


def _example(work: float, rng: np.random.Generator) -> Example:
    """Orders of a thousand to a million shares, from patient to hasty."""
    periods = int(min(100, max(5, work // 20)))
    orders = max(1, round(work / periods))
    horizon = rng.uniform(0.5, 5.0, orders)
    temporary = 10.0 ** rng.uniform(-7.0, -5.0, orders)
    volatility = rng.uniform(0.2, 2.0, orders)
    urgency = rng.uniform(0.1, 20.0, orders) / horizon  # κ̃, which is κ for many periods
    return Example(
        {"num_periods": periods},
        {
            "shares": (10.0 ** rng.uniform(3.0, 6.0, orders)).round(),
            "horizon": horizon,
            "volatility": volatility,
            "temporary_impact": temporary,
            "permanent_impact": temporary / horizon * rng.uniform(0.0, 0.5, orders),
            "risk_aversion": temporary * (urgency / volatility) ** 2,
        },
    )


ALMGREN_CHRISS = Workload(
    name=_NAME,
    summary="Optimal trading schedules of large orders, from impatience for fear of risk to patience for fear of impact.",
    source="Almgren, Chriss (2000), Optimal Execution of Portfolio Transactions, Journal of Risk 3(2)",
    engines=("Execution",),
    parameters=(
        Parameter(
            name="num_periods",
            type="int",
            minimum=1,
            maximum=100_000,
            doc="trading periods N that each horizon is divided into, of length τ = T/N",
        ),
        Parameter(
            name="fixed_cost",
            type="float",
            unit="currency per share",
            default=0.0,
            minimum=0.0,
            maximum=1e6,
            doc="cost ε of each share traded: half the bid–ask spread and fees",
        ),
    ),
    inputs=(
        Array(
            name="shares",
            shape=("B",),
            unit="shares",
            minimum=-1e12,
            maximum=1e12,
            doc="X, held at the start and to be sold; negative is to be bought",
        ),
        Array(
            name="horizon",
            shape=("B",),
            unit="time",
            minimum=1e-15,
            maximum=1e6,
            doc="T, until when all must be sold; any unit of time, the same in every input",
        ),
        Array(
            name="volatility",
            shape=("B",),
            unit="currency per share per √time",
            minimum=0.0,
            maximum=1e6,
            doc="σ, absolute, of the price of a share",
        ),
        Array(
            name="temporary_impact",
            shape=("B",),
            unit="currency·time per share²",
            minimum=0.0,
            above_minimum=True,
            maximum=1e6,
            doc="η, fall of the price while trading at the rate of one share per unit of time",
        ),
        Array(
            name="permanent_impact",
            shape=("B",),
            unit="currency per share²",
            minimum=0.0,
            maximum=1e6,
            doc="γ, lasting fall of the price for each share sold; γτ/2 must stay below η",
        ),
        Array(
            name="risk_aversion",
            shape=("B",),
            unit="per currency",
            minimum=0.0,
            maximum=1e6,
            doc="λ, currency of expected cost that one currency² less of variance is worth; 0 sells evenly",
        ),
    ),
    outputs=(
        Array(
            name="holdings",
            shape=("B", "num_periods + 1"),
            unit="shares",
            doc="x_j = X·sinh(κ(T − jτ))/sinh(κT), held after j = 0, …, N periods",
        ),
        Array(name="trades", shape=("B", "num_periods"), unit="shares", doc="sold in each period; they sum to X"),
        Array(
            name="expected_cost",
            shape=("B",),
            unit="currency",
            doc="E = γX²/2 + ε·|X| + η̃/τ·Σ trades², below the value at the first price; η̃ = η − γτ/2",
        ),
        Array(name="cost_variance", shape=("B",), unit="currency²", doc="V = σ²τ·Σ holdings² over the ends of periods"),
        Array(
            name="kappa",
            shape=("B",),
            unit="per time",
            doc="κ, urgency, from 2(cosh κτ − 1) = λσ²τ²/η̃; over 1/κ the holdings of a long horizon fall by a factor e",
        ),
    ),
    kernel=_almgren_chriss,
    work=_trades,
    work_unit="trades",
    example=_example,
    work_range=(1e2, 1e7),
    tolerance=1e-5,
    batch_dim="B",
    check=_check,
    split=split_along(dict.fromkeys(_ORDERS, 0)),
    merge=merge_along(dict.fromkeys(_OUTPUTS, 0)),
    join=Join(inputs=dict.fromkeys(_ORDERS, 0), outputs=dict.fromkeys(_OUTPUTS, 0)),
)
