"""Historical VaR against NumPy's quantile, a shortfall by hand, skfolio, Kupiec's backtest and properties."""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routerd.errors import InvalidArray
from routerd.interfaces import Namespace
from routerd.workloads.risk import VAR_HISTORICAL
from tests.near import near

Run = Callable[..., dict[str, Any]]


def shortfall_by_hand(losses: np.ndarray, confidence: float) -> float:
    """Average of the worst (1−confidence)·T losses, the last one counted in part."""
    weight = (1.0 - confidence) * len(losses)
    total = 0.0
    for loss in sorted(losses, reverse=True):
        share = min(1.0, weight)
        total += share * loss
        weight -= share
        if weight <= 0.0:
            break
    return total / ((1.0 - confidence) * len(losses))


def check_var(run: Run, returns: np.ndarray, weights: np.ndarray, confidence: float) -> dict[str, Any]:
    out = run(VAR_HISTORICAL, {"returns": returns, "weights": weights}, confidence=confidence)
    losses = -returns @ weights
    scale = np.abs(losses).max()
    expected = np.quantile(losses, confidence, method="inverted_cdf")
    assert out["value_at_risk"] == pytest.approx(expected, rel=1e-12, abs=1e-14 * scale)
    assert out["expected_shortfall"] == pytest.approx(
        shortfall_by_hand(losses, confidence), rel=1e-9, abs=1e-12 * scale
    )
    assert out["component_var"].sum() == pytest.approx(out["value_at_risk"], rel=1e-9, abs=1e-13 * scale)
    assert out["expected_shortfall"] >= out["value_at_risk"] - 1e-13 * scale
    return out


@pytest.mark.parametrize("confidence", [0.51, 0.9, 0.95, 0.975, 0.99, 0.999])
@pytest.mark.parametrize("scenarios", [1, 2, 100, 250, 1_000])
def test_var_is_numpys_order_statistic(confidence: float, scenarios: int, run: Run) -> None:
    rng = np.random.default_rng(scenarios)
    check_var(run, 0.01 * rng.standard_t(4, (scenarios, 7)), rng.standard_normal(7), confidence)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    scenarios=st.integers(2, 60),
    grid=st.sampled_from([1e-2, 1e-6]),
    confidences=st.tuples(st.floats(0.501, 0.9999), st.floats(0.501, 0.9999)),
)
def test_var_and_shortfall_grow_with_confidence_even_among_ties(
    run: Run, seed: int, scenarios: int, grid: float, confidences: tuple[float, float]
) -> None:
    rng = np.random.default_rng(seed)
    returns = np.round(0.02 * rng.standard_normal((scenarios, 3)) / grid) * grid
    weights = rng.integers(-2, 4, 3) / 4.0
    low, high = sorted(confidences)
    cautious, bold = check_var(run, returns, weights, high), check_var(run, returns, weights, low)
    assert cautious["value_at_risk"] >= bold["value_at_risk"]
    assert cautious["expected_shortfall"] >= bold["expected_shortfall"] - 1e-12


def test_of_equal_losses_the_earliest_scenario_gives_the_components(run: Run) -> None:
    returns = np.array([[0.0, 0.0], [-0.04, 0.0], [0.0, -0.04], [0.01, 0.01]])
    out = run(VAR_HISTORICAL, {"returns": returns, "weights": np.array([0.5, 0.5])}, confidence=0.75, notional=100.0)
    assert out["value_at_risk"] == pytest.approx(2.0)
    assert out["component_var"] == pytest.approx([2.0, 0.0])


def test_var_of_real_prices(real_prices: np.ndarray, run: Run) -> None:
    returns = real_prices[1:] / real_prices[:-1] - 1.0
    weights = np.full(returns.shape[1], 1.0 / returns.shape[1])
    out = check_var(run, returns, weights, 0.99)
    assert 0.01 < out["value_at_risk"] < 0.2


def test_var_scales_with_the_notional(run: Run) -> None:
    arrays = VAR_HISTORICAL.example(5_000, np.random.default_rng(1)).arrays
    unit, million = run(VAR_HISTORICAL, arrays), run(VAR_HISTORICAL, arrays, notional=1e6)
    for name, value in unit.items():
        assert million[name] == pytest.approx(1e6 * value, rel=1e-13)


def test_agrees_with_skfolio(run: Run) -> None:
    measures = pytest.importorskip("skfolio.measures", reason="skfolio is not installed")
    rng = np.random.default_rng(11)
    for scenarios, confidence in ((250, 0.95), (1_250, 0.99), (999, 0.975)):
        returns, weights = 0.01 * rng.standard_t(4, (scenarios, 9)), rng.dirichlet(np.ones(9))
        out = run(VAR_HISTORICAL, {"returns": returns, "weights": weights}, confidence=confidence)
        assert out["value_at_risk"] == pytest.approx(measures.value_at_risk(returns @ weights, beta=confidence))
        assert out["expected_shortfall"] == pytest.approx(measures.cvar(returns @ weights, beta=confidence))


def test_losses_are_those_of_the_scenarios_in_their_order(run: Run) -> None:
    whole = VAR_HISTORICAL.example(5_000, np.random.default_rng(1))
    losses = run(VAR_HISTORICAL, whole.arrays, notional=50.0)["losses"]
    assert losses == near(-50.0 * whole.arrays["returns"] @ whole.arrays["weights"], rel=1e-12, abs=1e-13)


def test_the_order_of_scenarios_does_not_matter(precise: Namespace, run: Run) -> None:
    arrays = VAR_HISTORICAL.example(20_000, np.random.default_rng(2)).arrays
    order = np.random.default_rng(3).permutation(arrays["returns"].shape[0])
    straight = run(VAR_HISTORICAL, arrays, namespace=precise)
    shuffled = run(VAR_HISTORICAL, {**arrays, "returns": arrays["returns"][order]}, namespace=precise)
    for name in ("value_at_risk", "expected_shortfall", "component_var"):
        assert shuffled[name] == near(straight[name], rel=1e-11)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    scenarios=st.integers(1, 80),
    shares=st.lists(st.floats(0.01, 1.0), min_size=1, max_size=5),
    grid=st.sampled_from([2.0**-4, 2.0**-30]),
)
def test_parts_merged_are_the_whole(run: Run, seed: int, scenarios: int, shares: list[float], grid: float) -> None:
    assert VAR_HISTORICAL.split is not None and VAR_HISTORICAL.merge is not None
    rng = np.random.default_rng(seed)
    returns = (
        np.round(rng.standard_normal((scenarios, 3)) / grid) * grid
    )  # sums are exact, so ties are ties in parts too
    whole = VAR_HISTORICAL.example(1_000, rng)
    whole = whole._replace(
        params={"confidence": 0.9, "notional": 2.0}, arrays={"returns": returns, "weights": np.array([0.5, 0.25, -0.5])}
    )
    parts = VAR_HISTORICAL.split(whole, shares)
    merged = VAR_HISTORICAL.merge(whole, [run(VAR_HISTORICAL, part.arrays, **part.params) for part in parts])
    expected = run(VAR_HISTORICAL, whole.arrays, **whole.params)
    assert merged.keys() == expected.keys()
    for name, value in expected.items():
        assert merged[name] == near(value, rel=1e-12, abs=1e-12)


def stock_returns() -> np.ndarray:
    """Daily returns of 20 stocks of the S&P 500 since 1990: (days, stocks)."""
    spec = find_spec("skfolio")
    path = Path(str(spec.origin)).parent / "datasets" / "data" / "sp500_dataset.csv.gz" if spec else None
    if path is None or not path.exists():
        pytest.skip("skfolio and its S&P 500 dataset are not installed")
    prices = np.genfromtxt(path, delimiter=",", skip_header=1, usecols=range(1, 21))
    return np.asarray(prices[1:] / prices[:-1] - 1.0)


def test_a_wide_window_passes_kupiecs_backtest_and_a_false_confidence_does_not(run: Run) -> None:
    """The share of days beyond yesterday's VaR, by the likelihood ratio of proportions (Kupiec 1995)."""
    returns = stock_returns()
    weights = np.full(returns.shape[1], 1.0 / returns.shape[1])
    window, confidence = 1_000, 0.95
    days = range(window, len(returns), 5)
    losses = -returns @ weights
    exceptions = sum(
        losses[day]
        > run(VAR_HISTORICAL, {"returns": returns[day - window : day], "weights": weights}, confidence=confidence)[
            "value_at_risk"
        ]
        for day in days
    )

    def likelihood_ratio(chance: float) -> float:
        count, share = len(days), exceptions / len(days)
        return 2.0 * (
            exceptions * math.log(share / chance) + (count - exceptions) * math.log((1.0 - share) / (1.0 - chance))
        )

    assert likelihood_ratio(1.0 - confidence) < 6.63  # χ² with one degree of freedom at 1 %
    assert likelihood_ratio(1.0 - 0.99) > 6.63


def test_missing_returns_are_refused(run: Run) -> None:
    returns = np.zeros((5, 2))
    returns[3, 1] = np.nan
    with pytest.raises(InvalidArray, match=r"returns\[3, 1\]"):
        run(VAR_HISTORICAL, {"returns": returns, "weights": np.ones(2)})


@pytest.mark.parametrize(
    ("name", "message"), [("returns", "returns must be <= 1e"), ("weights", "weights must be <= 1e")]
)
def test_losses_beyond_all_numbers_are_refused(name: str, message: str, run: Run) -> None:
    arrays = {"returns": np.full((5, 2), 0.01), "weights": np.ones(2)}
    with pytest.raises(InvalidArray, match=message):
        run(VAR_HISTORICAL, {**arrays, name: np.full_like(arrays[name], 1e200)})
