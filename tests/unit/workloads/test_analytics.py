"""Performance statistics against empyrical-reloaded, on random and real returns and at the edges."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routerd.errors import InvalidArray
from routerd.interfaces import Namespace
from routerd.namespaces.numpy import NumpyNamespace
from routerd.workloads.analytics import PERFORMANCE
from tests.near import near

Run = Callable[..., dict[str, Any]]


def reference(returns: np.ndarray, periods: int = 252, risk_free: float = 0.0) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its dependencies warn on import
        empyrical = pytest.importorskip("empyrical", reason="empyrical-reloaded is not installed")
    return np.array(
        [
            [
                empyrical.sharpe_ratio(column, risk_free, annualization=periods),
                empyrical.sortino_ratio(column, risk_free, annualization=periods),
                empyrical.max_drawdown(column),
                empyrical.calmar_ratio(column, annualization=periods),
                empyrical.annual_volatility(column, annualization=periods),
            ]
            for column in returns.T
        ]
    )


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    rows=st.integers(2, 400),
    columns=st.integers(1, 6),
    volatility=st.floats(1e-4, 0.2),
    periods=st.sampled_from([12, 52, 252]),
    risk_free=st.sampled_from([0.0, 1e-4, -2e-3]),
)
def test_agrees_with_empyrical(
    run: Run, seed: int, rows: int, columns: int, volatility: float, periods: int, risk_free: float
) -> None:
    rng = np.random.default_rng(seed)
    returns = np.maximum(volatility * (0.05 + rng.standard_normal((rows, columns))), -0.99)
    out = run(PERFORMANCE, {"returns": returns}, periods_per_year=periods, risk_free=risk_free)
    expected = reference(returns, periods, risk_free)
    assert out["statistics"] == near(expected, rel=1e-9, abs=1e-12, nan_ok=True)


def test_agrees_with_empyrical_on_real_prices(real_prices: np.ndarray, run: Run) -> None:
    returns = real_prices[1:] / real_prices[:-1] - 1.0
    assert run(PERFORMANCE, {"returns": returns})["statistics"] == near(reference(returns), rel=1e-10)


def test_drawdown_by_hand(run: Run) -> None:
    returns = np.array([[0.10], [-0.50], [0.20], [-0.50], [2.00]])
    # Wealth 1, 1.1, 0.55, 0.66, 0.33, 0.99: the deepest fall is from 1.1 to 0.33.
    assert run(PERFORMANCE, {"returns": returns})["statistics"][0, 2] == pytest.approx(-0.7, rel=1e-14)


def test_a_fall_from_the_start_counts(run: Run) -> None:
    returns = np.array([[-0.1], [0.05], [0.01]])
    assert run(PERFORMANCE, {"returns": returns})["statistics"][0, 2] == pytest.approx(-0.1, rel=1e-14)


@pytest.mark.parametrize("rows", [4, 5, 300])
def test_total_loss_is_a_drawdown_of_one(rows: int, run: Run) -> None:
    returns = np.full((rows, 1), 0.01)
    returns[1] = -1.0
    statistics = run(PERFORMANCE, {"returns": returns})["statistics"]
    assert statistics[0, 2] == -1.0
    assert statistics == near(reference(returns), rel=1e-10)


@pytest.mark.parametrize(
    ("value", "sharpe", "sortino", "calmar"),
    [(0.0, np.nan, np.nan, np.nan), (0.001, np.inf, np.inf, np.nan), (-0.001, -np.inf, -np.sqrt(252.0), None)],
)
def test_a_constant_series_has_no_volatility(
    value: float, sharpe: float, sortino: float, calmar: float | None, run: Run
) -> None:
    returns = np.full((77, 1), value)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        statistics = run(PERFORMANCE, {"returns": returns})["statistics"][0]
    assert statistics[4] == 0.0
    assert statistics[0] == pytest.approx(sharpe, nan_ok=True)
    assert statistics[1] == pytest.approx(sortino, nan_ok=True)
    if calmar is not None:
        assert np.isnan(statistics[3])
    assert statistics == pytest.approx(reference(returns)[0], rel=1e-10, abs=1e-15, nan_ok=True)


def test_the_size_of_a_block_changes_nothing(run: Run) -> None:
    returns = PERFORMANCE.example(20_000, np.random.default_rng(0)).arrays["returns"]
    small = NumpyNamespace()
    small.block = 2_000
    whole = run(PERFORMANCE, {"returns": returns})["statistics"]
    assert run(PERFORMANCE, {"returns": returns}, namespace=small)["statistics"] == near(whole, rel=1e-12)


def test_one_period_is_refused(run: Run) -> None:
    with pytest.raises(InvalidArray, match="at least 2"):
        run(PERFORMANCE, {"returns": np.array([[0.01, 0.02]])})


def test_losing_more_than_everything_is_refused(run: Run) -> None:
    with pytest.raises(InvalidArray, match="returns"):
        run(PERFORMANCE, {"returns": np.array([[0.01], [-1.01]])})


@pytest.mark.parametrize("value", [0.1, 1e9])
def test_growth_beyond_all_numbers_has_a_finite_calmar(value: float, run: Run, single: Namespace) -> None:
    returns = np.full((20, 1), value)
    returns[7] = -0.5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        calmar = run(PERFORMANCE, {"returns": returns}, periods_per_year=525_600)["statistics"][0, 3]
    assert calmar == pytest.approx(2.0 * np.expm1(64.0))
    rounded = run(PERFORMANCE, {"returns": returns}, namespace=single, periods_per_year=525_600)["statistics"][0, 3]
    assert rounded == pytest.approx(calmar, rel=1e-4)


def test_a_return_in_the_wrong_unit_is_refused(run: Run) -> None:
    with pytest.raises(InvalidArray, match="returns must be <= 1e"):
        run(PERFORMANCE, {"returns": np.array([[0.01], [1e200]])})
