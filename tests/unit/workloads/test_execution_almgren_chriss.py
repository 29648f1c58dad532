"""Schedules against the quadratic programme that they solve, an optimiser, and the numbers and closed forms of the paper."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routerd.errors import InvalidArray, InvalidParameter
from routerd.interfaces import Example, Namespace
from routerd.namespaces.numpy import NumpyNamespace
from routerd.workloads.execution import ALMGREN_CHRISS
from tests.near import near

Run = Callable[..., dict[str, Any]]
Order = dict[str, float]

# Table 1 of Almgren and Chriss: a million shares within five days.
PAPER: Order = {
    "shares": 1e6,
    "horizon": 5.0,
    "volatility": 0.95,
    "temporary_impact": 2.5e-6,
    "permanent_impact": 2.5e-7,
    "risk_aversion": 1e-6,
}


def orders(*changes: Order) -> dict[str, np.ndarray]:
    rows = [{**PAPER, **change} for change in changes]
    return {name: np.array([row[name] for row in rows]) for name in PAPER}


def random_orders(seed: int, count: int) -> dict[str, np.ndarray]:
    arrays = ALMGREN_CHRISS.example(2_000 * count, np.random.default_rng(seed)).arrays
    return {name: array[:count] for name, array in arrays.items()}


def each(arrays: dict[str, np.ndarray]) -> list[Order]:
    return [dict(zip(arrays, map(float, row), strict=True)) for row in zip(*arrays.values(), strict=True)]


def cost_and_variance(order: Order, trades: np.ndarray, fixed_cost: float = 0.0) -> tuple[float, float]:
    """The paper's sums for any schedule: what its impact costs step by step, and the risk of what is still held."""
    interval = order["horizon"] / trades.size
    holdings = order["shares"] - np.cumsum(trades)
    rate = trades / interval
    permanent = interval * holdings * order["permanent_impact"] * rate
    temporary = trades * (fixed_cost * np.sign(trades) + order["temporary_impact"] * rate)
    return float(np.sum(permanent + temporary)), float(order["volatility"] ** 2 * interval * np.sum(holdings**2))


def best_trades(order: Order, periods: int) -> np.ndarray:
    """The minimum of expected cost + λ·variance over trades that sum to X, by the linear system of its optimality."""
    interval = order["horizon"] / periods
    left = np.tril(np.ones((periods, periods)))  # holdings = X − left @ trades
    risk = order["risk_aversion"] * order["volatility"] ** 2 * interval
    hessian = 2.0 * risk * left.T @ left + 2.0 * order["temporary_impact"] / interval * np.eye(periods)
    hessian -= order["permanent_impact"] * (left + left.T)
    gradient = order["shares"] * (order["permanent_impact"] - 2.0 * risk * left.sum(axis=0))
    system = np.block([[hessian, np.ones((periods, 1))], [np.ones((1, periods)), np.zeros((1, 1))]])
    return np.linalg.solve(system, np.append(-gradient, order["shares"]))[:periods]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), periods=st.integers(1, 40), fixed_cost=st.sampled_from([0.0, 0.0625]))
def test_schedules_solve_the_quadratic_programme(run: Run, seed: int, periods: int, fixed_cost: float) -> None:
    arrays = random_orders(seed, 5)
    out = run(ALMGREN_CHRISS, arrays, num_periods=periods, fixed_cost=fixed_cost)
    for row, order in enumerate(each(arrays)):
        trades = best_trades(order, periods)
        assert out["trades"][row] == near(trades, rel=1e-7, abs=1e-9 * order["shares"])
        cost, variance = cost_and_variance(order, trades, fixed_cost)
        assert out["expected_cost"][row] == near(cost, rel=1e-9)
        assert out["cost_variance"][row] == near(variance, rel=1e-8, abs=1e-12 * order["shares"] ** 2)


def test_an_optimiser_finds_nothing_better(run: Run) -> None:
    optimize = pytest.importorskip("scipy.optimize", reason="SciPy is not installed")

    def objective(shares_sold: np.ndarray) -> float:
        cost, variance = cost_and_variance(PAPER, 1e6 * shares_sold)
        return (cost + PAPER["risk_aversion"] * variance) / 1e6

    found = optimize.minimize(
        objective, np.full(5, 0.2), constraints={"type": "eq", "fun": lambda sold: sold.sum() - 1.0}, tol=1e-12
    )
    out = run(ALMGREN_CHRISS, orders({}), num_periods=5)
    assert out["trades"][0] == pytest.approx(1e6 * found.x, rel=1e-4)
    assert objective(out["trades"][0] / 1e6) == pytest.approx(found.fun, rel=1e-9)


def test_the_example_of_the_paper(run: Run, precise: Namespace) -> None:
    out = run(ALMGREN_CHRISS, orders({}), namespace=precise, num_periods=5)
    assert out["kappa"][0] == pytest.approx(0.6071, abs=5e-5)
    assert out["kappa"][0] == pytest.approx(math.acosh(1.0 + 0.5e-6 * 0.95**2 / (2.5e-6 - 1.25e-7)), rel=1e-13)
    steps = np.arange(6)
    expected = 1e6 * np.sinh(out["kappa"][0] * (5 - steps)) / np.sinh(5 * out["kappa"][0])
    assert out["holdings"][0] == pytest.approx(expected, rel=1e-13)


def test_cost_and_variance_have_the_closed_form_of_the_paper(run: Run) -> None:
    arrays = random_orders(3, 50)
    out = run(ALMGREN_CHRISS, arrays, num_periods=12, fixed_cost=0.1)
    shares, horizon, volatility, temporary, permanent, _ = arrays.values()
    tau, kappa = horizon / 12, out["kappa"]
    effective = temporary - 0.5 * permanent * tau
    cost = 0.5 * permanent * shares**2 + 0.1 * shares
    cost += (
        effective
        * shares**2
        * (np.tanh(kappa * tau / 2) * (tau * np.sinh(2 * kappa * horizon) + 2 * horizon * np.sinh(kappa * tau)))
        / (2 * tau**2 * np.sinh(kappa * horizon) ** 2)
    )
    variance = (
        0.5
        * volatility**2
        * shares**2
        * (tau * np.sinh(kappa * horizon) * np.cosh(kappa * (horizon - tau)) - horizon * np.sinh(kappa * tau))
        / (np.sinh(kappa * horizon) ** 2 * np.sinh(kappa * tau))
    )
    assert out["expected_cost"] == near(cost, rel=1e-10)
    assert out["cost_variance"] == near(variance, rel=1e-7)


def test_all_is_sold_and_holdings_only_fall(run: Run, precise: Namespace) -> None:
    arrays = random_orders(1, 200)
    out = run(ALMGREN_CHRISS, arrays, namespace=precise, num_periods=30)
    assert np.array_equal(out["holdings"][:, 0], arrays["shares"]) and (out["holdings"][:, -1] == 0.0).all()
    assert (out["trades"] > 0.0).all()
    assert out["trades"].sum(axis=1) == near(arrays["shares"], rel=1e-12)
    assert -np.diff(out["holdings"]) == near(out["trades"], rel=1e-9, abs=1e-9 * arrays["shares"].max())


@pytest.mark.parametrize("patient", [{"risk_aversion": 0.0}, {"volatility": 0.0}, {"risk_aversion": 1e-40}])
def test_without_fear_of_risk_it_sells_evenly(patient: Order, run: Run, precise: Namespace) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        out = run(ALMGREN_CHRISS, orders(patient, {}), namespace=precise, num_periods=8)
    assert out["trades"][0] == pytest.approx(np.full(8, 1e6 / 8), rel=1e-15)
    assert out["holdings"][0] == pytest.approx(np.linspace(1e6, 0.0, 9), rel=1e-15)
    assert out["trades"][1].max() > 2e5


def test_little_fear_of_risk_is_nearly_none(run: Run, single: Namespace) -> None:
    """From one formula to the other without a step."""
    aversions = [{"risk_aversion": 10.0**exponent} for exponent in np.arange(-40.0, -9.0)]
    for namespace in (NumpyNamespace(), single):
        holdings = run(ALMGREN_CHRISS, orders(*aversions), namespace=namespace, num_periods=8)["holdings"]
        assert np.abs(holdings / 1e6 - np.linspace(1.0, 0.0, 9)).max() < 5e-4
        assert (np.diff(holdings, axis=0) <= 1.0).all()


@pytest.mark.parametrize("aversion", [1.0, 1e6])
def test_great_fear_of_risk_sells_at_once(aversion: float, run: Run, precise: Namespace) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        out = run(ALMGREN_CHRISS, orders({"risk_aversion": aversion}), namespace=precise, num_periods=1_000)
    sold_first = out["trades"][0, 0]
    assert sold_first == pytest.approx(1e6, rel=2.0 / (aversion * 0.95**2 * 0.005**2 / 2.5e-6))
    assert np.isfinite(out["holdings"]).all() and out["holdings"][0, -1] == 0.0


def test_one_period_sells_everything(run: Run, precise: Namespace) -> None:
    out = run(ALMGREN_CHRISS, orders({}, {"risk_aversion": 0.0}), namespace=precise, num_periods=1)
    assert out["trades"] == pytest.approx(np.full((2, 1), 1e6), rel=1e-15)
    assert (out["cost_variance"] == 0.0).all()
    assert out["expected_cost"] == pytest.approx(2.5e-6 * 1e12 / 5.0, rel=1e-14)


def test_buying_mirrors_selling(run: Run) -> None:
    out = run(ALMGREN_CHRISS, orders({}, {"shares": -1e6}, {"shares": 0.0}), num_periods=9, fixed_cost=0.05)
    assert np.array_equal(out["holdings"][1], -out["holdings"][0]) and np.array_equal(
        out["trades"][1], -out["trades"][0]
    )
    for name in ("expected_cost", "cost_variance", "kappa"):
        assert out[name][1] == out[name][0]
    assert not out["holdings"][2].any() and out["expected_cost"][2] == 0.0


def test_a_fine_grid_keeps_its_digits_in_float32(run: Run, single: Namespace) -> None:
    arrays = random_orders(2, 20)
    contract = run(ALMGREN_CHRISS, arrays, num_periods=5_000)
    out = run(ALMGREN_CHRISS, arrays, namespace=single, num_periods=5_000)
    for name in ("holdings", "trades"):
        size = np.linalg.norm(contract[name], axis=1)
        assert (np.linalg.norm(out[name] - contract[name], axis=1) / size < 2e-6).all()


def test_more_periods_approach_continuous_trading(run: Run) -> None:
    kappa = math.sqrt(1e-6 * 0.95**2 / 2.5e-6)
    out = run(ALMGREN_CHRISS, orders({}), num_periods=20_000)
    assert out["kappa"][0] == pytest.approx(kappa, rel=1e-4)
    assert out["holdings"][0, 10_000] == pytest.approx(1e6 * math.sinh(2.5 * kappa) / math.sinh(5.0 * kappa), rel=1e-4)


def test_the_size_of_a_block_changes_no_schedule(run: Run) -> None:
    arrays = random_orders(4, 40)
    small = NumpyNamespace()
    small.block = 30
    whole = run(ALMGREN_CHRISS, arrays, num_periods=10)
    for name, values in run(ALMGREN_CHRISS, arrays, namespace=small, num_periods=10).items():
        assert values == near(whole[name], rel=1e-14)


@settings(max_examples=10, deadline=None)
@given(shares=st.lists(st.floats(0.01, 1.0), min_size=1, max_size=5))
def test_parts_of_schedules_merge_to_the_whole(run: Run, shares: list[float]) -> None:
    assert ALMGREN_CHRISS.split is not None and ALMGREN_CHRISS.merge is not None
    whole = Example({"num_periods": 6, "fixed_cost": 0.01}, random_orders(5, 30))
    parts = [run(ALMGREN_CHRISS, part.arrays, **part.params) for part in ALMGREN_CHRISS.split(whole, shares)]
    merged = ALMGREN_CHRISS.merge(whole, parts)
    for name, expected in run(ALMGREN_CHRISS, whole.arrays, **whole.params).items():
        assert merged[name] == near(expected, rel=1e-14)


def test_permanent_impact_must_leave_something_of_the_temporary(run: Run) -> None:
    steep = orders({}, {"permanent_impact": 6e-6})
    with pytest.raises(InvalidArray, match=r"temporary_impact\[1\] is 2.5e-06.*use more periods"):
        run(ALMGREN_CHRISS, steep, num_periods=5)
    run(ALMGREN_CHRISS, steep, num_periods=50)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"horizon": 0.0}, "horizon must be >= 1e-15"),
        ({"horizon": 1e-300}, "horizon must be >= 1e-15"),
        ({"volatility": -0.1}, "volatility must be >= 0"),
        ({"risk_aversion": math.nan}, r"risk_aversion\[1\] is nan"),
    ],
)
def test_impossible_orders_are_refused(change: Order, message: str, run: Run) -> None:
    with pytest.raises(InvalidArray, match=message):
        run(ALMGREN_CHRISS, orders({}, change), num_periods=5)
    with pytest.raises(InvalidParameter, match="num_periods must be >= 1"):
        run(ALMGREN_CHRISS, orders({}), num_periods=0)
