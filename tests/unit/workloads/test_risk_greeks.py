"""Greeks against QuantLib, finite differences, put–call parity and their limits."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from routerd.errors import InvalidArray
from routerd.interfaces import Namespace
from routerd.namespaces.numpy import NumpyNamespace
from routerd.workloads.risk import GREEKS_BATCH
from tests.near import near

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
        assert row == near(expected, rel=1e-10, abs=1e-11)


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
    assert call[:, 0] - put[:, 0] == near(spot - discounted, rel=1e-12, abs=1e-11)
    assert call[:, 1] - put[:, 1] == pytest.approx(1.0, rel=1e-12)
    assert call[:, 2:4] == near(put[:, 2:4], rel=1e-9, abs=1e-14)
    assert call[:, 4] - put[:, 4] == near(-rate * discounted, rel=1e-10, abs=1e-11)
    assert call[:, 5] - put[:, 5] == near(maturity * discounted, rel=1e-12)


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
    assert run(GREEKS_BATCH, arrays, namespace=small)["greeks"] == near(run(GREEKS_BATCH, arrays)["greeks"], rel=1e-13)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("spot", 0.0),
        ("strike", -1.0),
        ("strike", 1e13),
        ("volatility", 0.0),
        ("maturity", 0.0),
        ("maturity", 252.0),
        ("rate", np.nan),
        ("rate", -5.0),
    ],
)
def test_options_without_a_price_are_refused(name: str, value: float, run: Run) -> None:
    arrays = GREEKS_BATCH.example(10, np.random.default_rng(0)).arrays
    arrays[name][3] = value
    with pytest.raises(InvalidArray, match=name):
        run(GREEKS_BATCH, arrays)


@pytest.mark.parametrize("option_type", ["call", "put"])
@pytest.mark.parametrize(("volatility", "maturity"), [(1e-300, 1.0), (0.2, 1e-300), (1e-300, 1e-300), (1e-12, 1e-6)])
def test_without_time_or_volatility_greeks_are_finite_limits(
    option_type: str, volatility: float, maturity: float, run: Run
) -> None:
    spot, strike, rate = np.array([90.0, 100.0, 110.0]), 100.0, 0.05
    arrays = {
        "spot": spot,
        "strike": np.full(3, strike),
        "volatility": np.full(3, volatility),
        "maturity": np.full(3, maturity),
        "rate": np.full(3, rate),
    }
    greeks = run(GREEKS_BATCH, arrays, option_type=option_type)["greeks"]
    assert np.isfinite(greeks).all()
    sign = 1.0 if option_type == "call" else -1.0
    discounted = strike * np.exp(-rate * maturity)
    exercised = sign * (spot - discounted) > 0.0
    limits = np.stack(
        [
            np.maximum(sign * (spot - discounted), 0.0),
            sign * exercised,
            np.zeros(3),
            np.zeros(3),
            -sign * rate * discounted * exercised,
            sign * maturity * discounted * exercised,
        ],
        axis=1,
    )
    assert greeks[[0, 2]] == pytest.approx(limits[[0, 2]], rel=1e-12, abs=1e-12)
    assert greeks[1, 0] == pytest.approx(limits[1, 0], abs=1e-6)


def test_limits_are_finite_in_float32(single: Namespace, run: Run) -> None:
    arrays = {
        "spot": np.array([90.0, 100.0, 110.0]),
        "strike": np.full(3, 100.0),
        "volatility": np.array([1e-300, 1e-20, 0.2]),
        "maturity": np.array([1.0, 1e-300, 1e-50]),
        "rate": np.full(3, 0.05),
    }
    for option_type in ("call", "put"):
        assert np.isfinite(run(GREEKS_BATCH, arrays, namespace=single, option_type=option_type)["greeks"]).all()


@pytest.mark.parametrize("shares", [(1.0,), (0.5, 0.5), (0.01, 0.7, 0.29)])
def test_parts_merged_are_the_whole(shares: tuple[float, ...], run: Run) -> None:
    whole = GREEKS_BATCH.example(1_003, np.random.default_rng(4))
    assert GREEKS_BATCH.split is not None and GREEKS_BATCH.merge is not None
    parts = GREEKS_BATCH.split(whole, shares)
    outputs = [run(GREEKS_BATCH, part.arrays, **part.params) for part in parts]
    merged = GREEKS_BATCH.merge(whole, outputs)
    assert merged["greeks"] == near(run(GREEKS_BATCH, whole.arrays, **whole.params)["greeks"], rel=1e-13)


@pytest.mark.parametrize("option_type", ["call", "put"])
def test_greeks_are_finite_wherever_inputs_are_allowed(option_type: str, single: Namespace, run: Run) -> None:
    ends = [(one.minimum or 5e-324, one.maximum) for one in GREEKS_BATCH.inputs]
    columns = np.array(list(itertools.product(*ends))).T
    arrays = {one.name: column for one, column in zip(GREEKS_BATCH.inputs, columns, strict=True)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for namespace in (NumpyNamespace(), single):
            assert np.isfinite(run(GREEKS_BATCH, arrays, namespace=namespace, option_type=option_type)["greeks"]).all()
