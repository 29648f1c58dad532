"""Greeks against QuantLib and identities; VaR against NumPy's quantile, hand-made shortfall and properties."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routerd.errors import InvalidArray
from routerd.namespaces.numpy import NumpyNamespace
from routerd.workloads.risk import GREEKS_BATCH, VAR_HISTORICAL

Run = Callable[..., dict[str, Any]]
COLUMNS = ("price", "delta", "gamma", "vega", "theta", "rho")


@pytest.mark.parametrize("option_type", ["call", "put"])
def test_greeks_agree_with_quantlib(option_type: str, run: Run) -> None:
    ql = pytest.importorskip("QuantLib", reason="QuantLib is not installed")
    arrays = GREEKS_BATCH.example(300, np.random.default_rng(3)).arrays
    greeks = run(GREEKS_BATCH, arrays, option_type=option_type)["greeks"]
    payoff_type = ql.Option.Call if option_type == "call" else ql.Option.Put
    for row, spot, strike, volatility, maturity, rate in zip(greeks, *arrays.values(), strict=True):
        growth = np.exp(rate * maturity)
        calculator = ql.BlackCalculator(
            ql.PlainVanillaPayoff(payoff_type, strike), spot * growth, volatility * np.sqrt(maturity), 1.0 / growth
        )
        expected = [
            calculator.value(),
            calculator.delta(spot),
            calculator.gamma(spot),
            calculator.vega(maturity),
            calculator.theta(spot, maturity),
            calculator.rho(maturity),
        ]
        assert row == pytest.approx(expected, rel=1e-10, abs=1e-11)


def test_greeks_are_the_derivatives_of_the_price(run: Run) -> None:
    base = {"spot": 100.0, "strike": 105.0, "volatility": 0.25, "maturity": 0.75, "rate": 0.03}

    def price(option_type: str, **changed: float) -> float:
        arrays = {name: np.array([value]) for name, value in {**base, **changed}.items()}
        return float(run(GREEKS_BATCH, arrays, option_type=option_type)["greeks"][0, 0])

    def slope(option_type: str, name: str, step: float) -> float:
        high, low = price(option_type, **{name: base[name] + step}), price(option_type, **{name: base[name] - step})
        return (high - low) / (2 * step)

    for option_type in ("call", "put"):
        arrays = {name: np.array([value]) for name, value in base.items()}
        greeks = dict(zip(COLUMNS, run(GREEKS_BATCH, arrays, option_type=option_type)["greeks"][0], strict=True))
        assert greeks["delta"] == pytest.approx(slope(option_type, "spot", 1e-3), rel=1e-6)
        assert greeks["vega"] == pytest.approx(slope(option_type, "volatility", 1e-4), rel=1e-6)
        assert greeks["theta"] == pytest.approx(-slope(option_type, "maturity", 1e-4), rel=1e-6)
        assert greeks["rho"] == pytest.approx(slope(option_type, "rate", 1e-4), rel=1e-6)
        second = (price(option_type, spot=100.1) - 2 * price(option_type) + price(option_type, spot=99.9)) / 0.01
        assert greeks["gamma"] == pytest.approx(second, rel=1e-5)


def test_put_call_parity(run: Run) -> None:
    arrays = GREEKS_BATCH.example(5_000, np.random.default_rng(8)).arrays
    call = run(GREEKS_BATCH, arrays, option_type="call")["greeks"]
    put = run(GREEKS_BATCH, arrays, option_type="put")["greeks"]
    spot, strike, _, maturity, rate = arrays.values()
    discounted = strike * np.exp(-rate * maturity)
    assert call[:, 0] - put[:, 0] == pytest.approx(spot - discounted, rel=1e-12, abs=1e-11)
    assert call[:, 1] - put[:, 1] == pytest.approx(1.0, rel=1e-12)
    assert call[:, 2:4] == pytest.approx(put[:, 2:4], rel=1e-9, abs=1e-14)
    assert call[:, 4] - put[:, 4] == pytest.approx(-rate * discounted, rel=1e-10, abs=1e-11)
    assert call[:, 5] - put[:, 5] == pytest.approx(maturity * discounted, rel=1e-12)


def test_deep_in_and_out_of_the_money(run: Run) -> None:
    ones = np.ones(2)
    arrays = {
        "spot": np.array([100.0, 100.0]),
        "strike": np.array([1e-3, 1e6]),
        "volatility": 0.2 * ones,
        "maturity": ones,
        "rate": 0.05 * ones,
    }
    greeks = run(GREEKS_BATCH, arrays)["greeks"]
    assert greeks[0] == pytest.approx(
        [100.0 - 1e-3 * np.exp(-0.05), 1.0, 0.0, 0.0, -5e-5 * np.exp(-0.05), 1e-3 * np.exp(-0.05)]
    )
    assert greeks[1] == pytest.approx(np.zeros(6), abs=1e-300)


def test_the_size_of_a_block_does_not_change_greeks(run: Run) -> None:
    arrays = GREEKS_BATCH.example(1_001, np.random.default_rng(0)).arrays
    small = NumpyNamespace()
    small.block = 64
    assert run(GREEKS_BATCH, arrays, namespace=small)["greeks"] == pytest.approx(
        run(GREEKS_BATCH, arrays)["greeks"], rel=1e-13
    )


@pytest.mark.parametrize(
    ("name", "value"), [("spot", 0.0), ("strike", -1.0), ("volatility", 0.0), ("maturity", 0.0), ("rate", np.nan)]
)
def test_options_without_a_price_are_refused(name: str, value: float, run: Run) -> None:
    arrays = GREEKS_BATCH.example(10, np.random.default_rng(0)).arrays
    arrays[name][3] = value
    with pytest.raises(InvalidArray, match=name):
        run(GREEKS_BATCH, arrays)


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
