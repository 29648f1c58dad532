"""Mean–variance portfolios against their optimality conditions, PyPortfolioOpt, skfolio, SciPy and real prices."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routerd.errors import InvalidArray, InvalidParameter
from routerd.workloads.portfolio import MARKOWITZ

Run = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def sp500() -> dict[str, np.ndarray]:
    """Expected daily returns and covariance of twenty real stocks."""
    spec = find_spec("skfolio")
    if spec is None or spec.origin is None:
        pytest.skip("skfolio is not installed")
    with gzip.open(Path(spec.origin).parent / "datasets" / "data" / "sp500_dataset.csv.gz", "rt") as file:
        prices = np.genfromtxt(file, delimiter=",", skip_header=1)[:, 1:]
    returns = prices[1:] / prices[:-1] - 1.0
    return {"expected_returns": returns.mean(axis=0), "covariance": np.cov(returns, rowvar=False)}


def moments(assets: int, seed: int, kind: str = "factors") -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    returns = rng.normal(0.0005, 0.001, assets)
    if kind == "ties":
        returns = rng.integers(0, 3, assets) * 0.1
    observations = max(2, assets // 2) if kind == "singular" else 2 * assets + 10
    sample = 0.01 * (rng.standard_normal((observations, assets)) + rng.standard_normal((observations, 1)))
    if kind == "duplicates":
        sample[:, assets // 2 :] = sample[:, : assets - assets // 2]
    if kind == "uncorrelated":
        return {"expected_returns": returns, "covariance": np.diag(rng.integers(1, 4, assets).astype(float))}
    return {"expected_returns": returns, "covariance": np.cov(sample, rowvar=False).reshape(assets, assets)}


def assert_efficient(task: dict[str, np.ndarray], weights: np.ndarray, limit: float, maximum: float = 1.0) -> None:
    """For some λ ≥ 0 and γ, (Σw − λμ)ᵢ is γ on free weights, not less at 0 and not more at the maximum.

    With the λ at which the conditions are violated least; the violation is measured by the largest variance. A weight
    within rounding of a bound is on it.
    """
    assert np.sum(weights) == pytest.approx(1.0, abs=1e-12)
    assert weights.min() >= 0.0 and weights.max() <= maximum
    returns, covariance = task["expected_returns"], task["covariance"]
    reach = float(np.ptp(returns)) or 1.0
    relative = (returns - returns.min()) / reach
    gradient = covariance @ weights / float(covariance.diagonal().max() or 1.0)
    may_fall, may_rise = weights > 1e-9, weights < maximum - 1e-9

    def violation(trade_off: float) -> float:
        reduced = gradient - trade_off * relative
        if not (may_fall.any() and may_rise.any()):
            return 0.0
        return float(reduced[may_fall].max() - reduced[may_rise].min())

    # It is the largest of finitely many straight lines in λ, so a search by thirds finds its least.
    low, high = 0.0, 1e5
    for _ in range(200):
        left, right = low + (high - low) / 3.0, high - (high - low) / 3.0
        low, high = (low, right) if violation(left) <= violation(right) else (left, high)
    assert min(violation(0.0), violation(low)) <= limit


KINDS = ["factors", "ties", "singular", "duplicates", "uncorrelated"]


@settings(max_examples=60, deadline=None)
@given(
    assets=st.integers(1, 40),
    seed=st.integers(0, 2**32),
    kind=st.sampled_from(KINDS),
    room=st.sampled_from([1.0, 1.5, 3.0, None]),
    share=st.floats(0.0, 1.0),
)
def test_every_portfolio_is_efficient(
    run: Run, assets: int, seed: int, kind: str, room: float | None, share: float
) -> None:
    task = moments(assets, seed, kind)
    maximum = 1.0 if room is None else min(1.0, room / assets)
    largest = np.sort(task["expected_returns"])[::-1] @ np.clip(1.0 - maximum * np.arange(assets), 0.0, maximum)
    target = float(share * largest + (1.0 - share) * task["expected_returns"].min())
    out = run(MARKOWITZ, task, target_return=target, maximum_weight=maximum, frontier_points=7)
    assert out["expected_return"] >= target - 1e-12
    # A singular covariance is loaded by 1e-9 of its diagonal.
    limit = 1e-8 if kind in ("singular", "duplicates") or assets < 3 else 1e-9
    for weights in (out["weights"], *out["frontier_weights"]):
        assert_efficient(task, weights, limit, maximum)


def test_hundreds_of_assets_are_efficient(run: Run) -> None:
    task = moments(300, 1)
    out = run(MARKOWITZ, task, frontier_points=25)
    for weights in out["frontier_weights"]:
        assert_efficient(task, weights, 1e-9)


@pytest.mark.parametrize("kind", ["singular", "duplicates"])
def test_fewer_observations_than_assets_are_efficient(kind: str, run: Run) -> None:
    task = moments(150, 2, kind)
    for weights in run(MARKOWITZ, task, frontier_points=10, maximum_weight=0.02)["frontier_weights"]:
        assert_efficient(task, weights, 1e-8, 0.02)


@pytest.mark.parametrize("maximum", [1.0, 0.15])
def test_agrees_with_pyportfolioopt_on_real_prices(maximum: float, sp500: dict[str, np.ndarray], run: Run) -> None:
    pypfopt = pytest.importorskip("pypfopt", reason="PyPortfolioOpt is not installed")
    returns, covariance = sp500["expected_returns"], sp500["covariance"]
    line = pypfopt.CLA(returns, covariance, weight_bounds=(0.0, maximum))
    weights = np.array(list(line.min_volatility().values()))
    assert run(MARKOWITZ, sp500, maximum_weight=maximum)["weights"] == pytest.approx(weights, abs=1e-9)
    target = float(np.quantile(returns, 0.7))
    peer = pypfopt.EfficientFrontier(returns, covariance, weight_bounds=(0.0, maximum))
    peer.efficient_return(target)
    out = run(MARKOWITZ, sp500, maximum_weight=maximum, target_return=target)
    assert out["volatility"] == pytest.approx(peer.portfolio_performance()[1], rel=1e-4)
    assert out["volatility"] <= peer.portfolio_performance()[1] * (1.0 + 1e-6)


def test_agrees_with_the_frontier_of_skfolio(sp500: dict[str, np.ndarray], run: Run) -> None:
    pytest.importorskip("skfolio", reason="skfolio is not installed")
    pytest.importorskip("cvxpy", reason="CVXPY is not installed")
    from skfolio import RiskMeasure
    from skfolio.optimization import MeanRisk, ObjectiveFunction

    # Returns whose sample moments are what is asked about.
    sample = np.random.default_rng(0).multivariate_normal(sp500["expected_returns"], sp500["covariance"], 600)
    task = {"expected_returns": sample.mean(axis=0), "covariance": np.cov(sample, rowvar=False)}
    out = run(MARKOWITZ, task, frontier_points=6)
    model = MeanRisk(
        risk_measure=RiskMeasure.VARIANCE,
        objective_function=ObjectiveFunction.MINIMIZE_RISK,
        min_return=list(out["frontier_return"][1:5]),
        solver="CLARABEL",
    )
    model.fit(sample)
    volatility = np.sqrt(np.einsum("ij,jk,ik->i", model.weights_, task["covariance"], model.weights_))
    assert out["frontier_volatility"][1:5] == pytest.approx(volatility, rel=1e-5)


def test_agrees_with_scipy(run: Run) -> None:
    optimize = pytest.importorskip("scipy.optimize", reason="SciPy is not installed")
    task = moments(8, 3)
    target = float(np.quantile(task["expected_returns"], 0.8))
    scaled = task["covariance"] / task["covariance"].max()
    peer = optimize.minimize(
        lambda w: w @ scaled @ w,
        np.full(8, 0.125),
        jac=lambda w: 2.0 * scaled @ w,
        bounds=[(0.0, 0.4)] * 8,
        constraints=[
            {"type": "eq", "fun": lambda w: w.sum() - 1.0},
            {"type": "ineq", "fun": lambda w: 1e4 * (task["expected_returns"] @ w - target)},
        ],
        method="SLSQP",
        options={"ftol": 1e-15},
    )
    weights = run(MARKOWITZ, task, target_return=target, maximum_weight=0.4)["weights"]
    assert weights == pytest.approx(peer.x, abs=1e-5)


def test_the_frontier_is_increasing_and_convex(sp500: dict[str, np.ndarray], run: Run) -> None:
    out = run(MARKOWITZ, sp500, frontier_points=200)
    returns, volatility = out["frontier_return"], out["frontier_volatility"]
    assert np.diff(returns) == pytest.approx(np.full(199, (returns[-1] - returns[0]) / 199))
    assert (np.diff(volatility) > 0.0).all()
    assert (np.diff(volatility, 2) > -1e-12).all() and (np.diff(volatility**2, 2) > -1e-15).all()
    assert returns[-1] == pytest.approx(sp500["expected_returns"].max(), rel=1e-14)
    assert out["frontier_weights"][0] == pytest.approx(run(MARKOWITZ, sp500)["weights"], abs=1e-14)


def test_order_of_the_assets_and_scale_change_nothing(run: Run) -> None:
    task = moments(30, 4)
    order = np.random.default_rng(0).permutation(30)
    moved = {
        "expected_returns": task["expected_returns"][order],
        "covariance": task["covariance"][np.ix_(order, order)],
    }
    weights = run(MARKOWITZ, task, target_return=0.001)["weights"]
    assert run(MARKOWITZ, moved, target_return=0.001)["weights"] == pytest.approx(weights[order], abs=1e-11)
    scaled = {"expected_returns": 252.0 * task["expected_returns"], "covariance": 252.0 * task["covariance"]}
    assert run(MARKOWITZ, scaled, target_return=0.252)["weights"] == pytest.approx(weights, abs=1e-11)


def test_a_return_below_that_of_the_least_variance_asks_for_nothing(run: Run) -> None:
    task = moments(25, 5)
    free = run(MARKOWITZ, task)
    assert run(MARKOWITZ, task, target_return=-1.0)["weights"] == pytest.approx(free["weights"], abs=1e-14)


def test_uncorrelated_assets_weigh_by_their_precision(run: Run) -> None:
    variances = np.array([1.0, 2.0, 4.0])
    out = run(MARKOWITZ, {"expected_returns": np.zeros(3), "covariance": np.diag(variances)})
    assert out["weights"] == pytest.approx((1.0 / variances) / (1.0 / variances).sum(), rel=1e-14)
    assert out["volatility"] == pytest.approx((1.0 / variances).sum() ** -0.5, rel=1e-14)


def test_the_largest_return_is_shared_by_those_that_offer_it(run: Run) -> None:
    task = {"expected_returns": np.array([0.1, 0.2, 0.2, 0.2]), "covariance": np.diag([1.0, 1.0, 1.0, 2.0])}
    assert run(MARKOWITZ, task, target_return=0.2)["weights"] == pytest.approx([0.0, 0.4, 0.4, 0.2], abs=1e-14)
    limited = run(MARKOWITZ, task, target_return=0.2, maximum_weight=0.35)["weights"]
    assert limited == pytest.approx([0.0, 0.35, 0.35, 0.3], abs=1e-14)


def test_assets_without_variance_share_what_is_riskless(run: Run) -> None:
    out = run(MARKOWITZ, {"expected_returns": np.array([0.0, 0.0, 0.1]), "covariance": np.diag([0.0, 0.0, 1.0])})
    assert out["weights"] == pytest.approx([0.5, 0.5, 0.0], abs=1e-6)
    assert run(MARKOWITZ, {"expected_returns": np.ones(4), "covariance": np.zeros((4, 4))})["weights"] == pytest.approx(
        np.full(4, 0.25)
    )


def test_one_asset_is_the_portfolio(run: Run) -> None:
    out = run(MARKOWITZ, {"expected_returns": np.array([0.03]), "covariance": np.array([[0.04]])}, frontier_points=3)
    assert out["weights"] == pytest.approx([1.0]) and out["volatility"] == pytest.approx(0.2)
    assert out["frontier_return"] == pytest.approx([0.03] * 3) and out["frontier_weights"].shape == (3, 1)


def test_room_for_equal_weights_alone_gives_equal_weights(run: Run) -> None:
    weights = run(MARKOWITZ, moments(49, 6), maximum_weight=1.0 / 49)["weights"]
    assert weights == pytest.approx(np.full(49, 1.0 / 49), abs=1e-15)


def test_without_points_the_frontier_is_empty(run: Run) -> None:
    out = run(MARKOWITZ, moments(5, 7))
    assert out["frontier_return"].shape == out["frontier_volatility"].shape == (0,)
    assert out["frontier_weights"].shape == (0, 5)


def test_an_unattainable_return_is_refused_with_the_largest(run: Run) -> None:
    task = {"expected_returns": np.array([0.1, 0.3, 0.2]), "covariance": np.eye(3)}
    run(MARKOWITZ, task, target_return=0.26, maximum_weight=0.6)
    with pytest.raises(InvalidParameter, match=r"largest attainable is 0\.26"):
        run(MARKOWITZ, task, target_return=0.2601, maximum_weight=0.6)


def test_too_little_room_for_all_weights_is_refused(run: Run) -> None:
    with pytest.raises(InvalidParameter, match=r"allow at least 0\.25"):
        run(MARKOWITZ, moments(4, 8), maximum_weight=0.2)


def test_what_is_no_covariance_is_refused(run: Run) -> None:
    returns = np.zeros(2)
    with pytest.raises(InvalidArray, match=r"must be symmetric; covariance\[0, 1\] is 0.5"):
        run(MARKOWITZ, {"expected_returns": returns, "covariance": np.array([[1.0, 0.5], [0.4, 1.0]])})
    with pytest.raises(InvalidArray, match="least eigenvalue is -1"):
        run(MARKOWITZ, {"expected_returns": returns, "covariance": np.array([[1.0, 2.0], [2.0, 1.0]])})
    with pytest.raises(InvalidArray, match="not positive semidefinite"):
        run(MARKOWITZ, {"expected_returns": returns, "covariance": np.diag([1.0, -0.1])})
    with pytest.raises(InvalidArray, match=r"covariance\[1, 0\] is nan"):
        run(MARKOWITZ, {"expected_returns": returns, "covariance": np.array([[1.0, 0.0], [np.nan, 1.0]])})


def test_a_covariance_rounded_to_float32_is_accepted(run: Run) -> None:
    task = moments(60, 9, "singular")
    rounded = {name: array.astype(np.float32) for name, array in task.items()}
    precise = run(MARKOWITZ, task)
    assert run(MARKOWITZ, rounded)["volatility"] == pytest.approx(precise["volatility"], rel=1e-4)
