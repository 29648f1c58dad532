"""Risk decomposition against the dense covariance matrix, its derivative, and the returns of real portfolios."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routerd.errors import InvalidArray
from routerd.interfaces import Example, Namespace
from routerd.workloads.factor import RISK_DECOMPOSE
from tests.near import near

Run = Callable[..., dict[str, Any]]


def model(rng: np.random.Generator, assets: int, factors: int, portfolios: int) -> dict[str, np.ndarray]:
    loadings = rng.standard_normal((factors, factors))
    return {
        "exposures": rng.standard_normal((assets, factors)),
        "factor_covariance": 0.01 * loadings @ loadings.T,
        "specific_variance": rng.uniform(0.0, 0.2, assets),
        "weights": rng.standard_normal((portfolios, assets)) / assets,
    }


def dense(arrays: dict[str, np.ndarray]) -> np.ndarray:
    exposures = arrays["exposures"]
    return exposures @ arrays["factor_covariance"] @ exposures.T + np.diag(arrays["specific_variance"])


def assert_agrees_with_dense(arrays: dict[str, np.ndarray], out: dict[str, np.ndarray]) -> None:
    weights = arrays["weights"]
    product = weights @ dense(arrays)
    variance = np.sum(product * weights, axis=1)
    volatility = np.sqrt(variance)
    specific = weights**2 @ arrays["specific_variance"] / variance
    assert out["volatility"] == pytest.approx(volatility, rel=1e-10)
    assert out["marginal_contribution"] == near(product / volatility[:, None], rel=1e-9, abs=1e-12)
    assert out["percentage_contribution"] == near(weights * product / variance[:, None], rel=1e-9, abs=1e-12)
    assert out["specific_share"] == pytest.approx(specific, rel=1e-9)
    assert out["factor_share"] == pytest.approx(1.0 - specific, rel=1e-9, abs=1e-12)
    assert out["factor_exposure"] == near(weights @ arrays["exposures"], rel=1e-9, abs=1e-12)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), assets=st.integers(1, 60), factors=st.integers(1, 8), portfolios=st.integers(1, 5))
def test_agrees_with_the_dense_covariance(run: Run, seed: int, assets: int, factors: int, portfolios: int) -> None:
    arrays = model(np.random.default_rng(seed), assets, factors, portfolios)
    assert_agrees_with_dense(arrays, run(RISK_DECOMPOSE, arrays))


def test_agrees_with_the_dense_covariance_of_a_real_universe(run: Run, precise: Namespace) -> None:
    arrays = model(np.random.default_rng(0), 3_000, 40, 2)
    assert_agrees_with_dense(arrays, run(RISK_DECOMPOSE, arrays, namespace=precise))


def test_explains_the_deviation_of_real_returns(run: Run) -> None:
    """With every principal component as a factor, the model's volatility is that of the portfolio's own returns."""
    returns = sp500_returns()
    variances, components = np.linalg.eigh(np.cov(returns.T))
    weights = np.random.default_rng(1).dirichlet(np.ones(returns.shape[1]), 10)
    out = run(
        RISK_DECOMPOSE,
        {
            "exposures": components[:, -3:],
            "factor_covariance": np.diag(variances[-3:]),
            "specific_variance": np.zeros(returns.shape[1]),
            "weights": weights,
        },
    )
    explained = returns @ components[:, -3:] @ components[:, -3:].T @ weights.T
    assert out["volatility"] == pytest.approx(np.std(explained, axis=0, ddof=1), rel=1e-10)
    whole = run(
        RISK_DECOMPOSE,
        {
            "exposures": components,
            "factor_covariance": np.diag(np.maximum(variances, 0.0)),
            "specific_variance": np.zeros(returns.shape[1]),
            "weights": weights,
        },
    )
    assert whole["volatility"] == pytest.approx(np.std(returns @ weights.T, axis=0, ddof=1), rel=1e-10)


def sp500_returns() -> np.ndarray:
    pd = pytest.importorskip("pandas", reason="pandas is not installed")
    spec = find_spec("skfolio")
    if spec is None or spec.origin is None:
        pytest.skip("skfolio is not installed")
    path = Path(spec.origin).parent / "datasets" / "data" / "sp500_dataset.csv.gz"
    return np.asarray(pd.read_csv(path, index_col=0).pct_change().dropna())


def test_contributions_add_up(run: Run, precise: Namespace) -> None:
    arrays = model(np.random.default_rng(2), 50, 6, 4)
    out = run(RISK_DECOMPOSE, arrays, namespace=precise)
    total = np.sum(arrays["weights"] * out["marginal_contribution"], axis=1)
    assert total == pytest.approx(out["volatility"], rel=1e-12)
    assert np.sum(out["percentage_contribution"], axis=1) == pytest.approx(np.ones(4), rel=1e-12)
    assert np.sum(out["factor_contribution"], axis=1) == pytest.approx(out["factor_share"], rel=1e-12)
    assert out["factor_share"] + out["specific_share"] == pytest.approx(np.ones(4), rel=1e-12)


def test_marginal_contribution_is_the_derivative_of_volatility(run: Run) -> None:
    arrays = model(np.random.default_rng(3), 8, 3, 1)
    steps = 1e-5 * np.eye(8)
    moved = np.concatenate([arrays["weights"] + steps, arrays["weights"] - steps])
    volatility = run(RISK_DECOMPOSE, {**arrays, "weights": moved})["volatility"]
    slope = (volatility[:8] - volatility[8:]) / 2e-5
    assert run(RISK_DECOMPOSE, arrays)["marginal_contribution"][0] == pytest.approx(slope, rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("riskless", ["weights", "model"])
def test_without_volatility_every_contribution_is_zero(riskless: str, run: Run, precise: Namespace) -> None:
    arrays = model(np.random.default_rng(4), 5, 2, 2)
    if riskless == "weights":
        arrays["weights"][1] = 0.0
    else:
        arrays["factor_covariance"] = np.zeros((2, 2))
        arrays["specific_variance"] = np.array([0.1, 0.1, 0.0, 0.0, 0.0])
        arrays["weights"][1, :2] = 0.0
    out = run(RISK_DECOMPOSE, arrays, namespace=precise)
    for name in ("volatility", "factor_share", "specific_share", "marginal_contribution", "factor_contribution"):
        assert np.all(out[name][1] == 0.0)
    assert np.all(out["percentage_contribution"][1] == 0.0)
    assert out["volatility"][0] > 0.0


def test_portfolios_do_not_touch_each_other(run: Run, precise: Namespace) -> None:
    arrays = model(np.random.default_rng(5), 40, 4, 9)
    together = run(RISK_DECOMPOSE, arrays, namespace=precise)
    alone = run(RISK_DECOMPOSE, {**arrays, "weights": arrays["weights"][3:4]}, namespace=precise)
    for name, values in alone.items():
        assert together[name][3:4] == near(values, rel=1e-11, abs=1e-14)


@given(shares=st.lists(st.floats(0.01, 1.0), min_size=1, max_size=5))
@settings(max_examples=20, deadline=None)
def test_parts_follow_each_other(run: Run, shares: list[float]) -> None:
    assert RISK_DECOMPOSE.split and RISK_DECOMPOSE.merge
    whole = Example({}, model(np.random.default_rng(6), 20, 3, 15))
    parts = [run(RISK_DECOMPOSE, part.arrays) for part in RISK_DECOMPOSE.split(whole, shares)]
    merged, expected = RISK_DECOMPOSE.merge(whole, parts), run(RISK_DECOMPOSE, whole.arrays)
    assert merged.keys() == expected.keys()
    for name, values in expected.items():
        assert merged[name] == near(values, rel=1e-11, abs=1e-14)


def test_a_singular_covariance_rounded_to_float32_is_accepted(run: Run) -> None:
    arrays = model(np.random.default_rng(7), 30, 20, 1)
    loadings = np.random.default_rng(8).standard_normal((20, 3))
    arrays["factor_covariance"] = (loadings @ loadings.T).astype(np.float32)
    assert run(RISK_DECOMPOSE, arrays)["volatility"][0] > 0.0


@pytest.mark.parametrize(
    ("name", "place", "value", "message"),
    [
        ("factor_covariance", (0, 1), 0.5, r"must be symmetric; factor_covariance\[0, 1\] is 0.5"),
        ("factor_covariance", (1, 1), -0.1, "positive semidefinite, its least eigenvalue is -"),
        ("specific_variance", (2,), -1e-9, "specific_variance must be >= 0"),
        ("weights", (1, 3), np.nan, r"weights\[1, 3\]"),
        ("exposures", (0, 0), np.inf, r"exposures\[0, 0\]"),
    ],
)
def test_wrong_models_are_refused(name: str, place: tuple[int, ...], value: float, message: str, run: Run) -> None:
    arrays = model(np.random.default_rng(9), 6, 3, 2)
    arrays[name][place] = value
    with pytest.raises(InvalidArray, match=message):
        run(RISK_DECOMPOSE, arrays)
