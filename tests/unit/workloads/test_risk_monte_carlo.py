"""Delta–gamma VaR against the normal distribution, brute force in NumPy, Cornish–Fisher, its own scatter and properties."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest

from routerd.errors import InvalidArray, InvalidParameter
from routerd.interfaces import Example, Namespace
from routerd.namespaces.numpy import NumpyNamespace
from routerd.workloads.content import relative_error
from routerd.workloads.risk import VAR_MONTE_CARLO

Run = Callable[..., dict[str, Any]]
every_method = pytest.mark.parametrize("method", ["pseudo_random", "sobol"])
STATISTICS = ("value_at_risk", "expected_shortfall")


def book(factors: int, curvature: float, seed: int = 0) -> dict[str, np.ndarray]:
    """Correlated factors; ``curvature`` is the standard deviation of the gamma part relative to that of the delta part."""
    rng = np.random.default_rng(seed)
    loadings = 0.01 * rng.standard_normal((factors, 3)) + [0.01, 0.0, 0.0]
    covariance = loadings @ loadings.T + np.diag(rng.uniform(0.005, 0.02, factors) ** 2)
    delta = rng.normal(50.0, 100.0, factors)
    mixed = rng.standard_normal((factors, factors))
    gamma = -mixed @ mixed.T
    spread = math.sqrt(0.5 * np.trace(gamma @ covariance @ gamma @ covariance))
    return {
        "covariance": covariance,
        "delta": delta,
        "gamma": gamma * (curvature * math.sqrt(delta @ covariance @ delta) / spread),
    }


def losses_of(arrays: dict[str, np.ndarray], normal: np.ndarray) -> np.ndarray:
    moves = normal @ np.linalg.cholesky(arrays["covariance"]).T
    return -(moves @ arrays["delta"] + 0.5 * np.einsum("ij,ij->i", moves @ arrays["gamma"], moves))


def exact_normal(arrays: dict[str, np.ndarray], confidence: float) -> tuple[float, float]:
    """VaR and expected shortfall of a linear book."""
    deviation = math.sqrt(arrays["delta"] @ arrays["covariance"] @ arrays["delta"])
    deviate = NormalDist().inv_cdf(confidence)
    return deviate * deviation, NormalDist().pdf(deviate) / (1.0 - confidence) * deviation


@every_method
@pytest.mark.parametrize("confidence", [0.9, 0.99])
@pytest.mark.parametrize("factors", [1, 7, 100])
def test_a_linear_book_has_the_normal_distributions_tail(
    method: str, confidence: float, factors: int, run: Run
) -> None:
    arrays = book(factors, 0.0)
    out = run(VAR_MONTE_CARLO, arrays, method=method, confidence=confidence, num_simulations=2**16)
    for name, expected in zip(STATISTICS, exact_normal(arrays, confidence), strict=True):
        assert out[name] == pytest.approx(expected, abs=5.0 * out[f"{name}_error"] + 1e-9)
        assert 0.0 < out[f"{name}_error"] < 0.02 * expected


@every_method
@pytest.mark.parametrize(("factors", "curvature"), [(3, 0.5), (20, 2.0), (70, 0.5)])
def test_a_curved_book_agrees_with_brute_force(method: str, factors: int, curvature: float, run: Run) -> None:
    arrays, confidence, paths = book(factors, curvature), 0.975, 60_000
    losses = losses_of(arrays, np.random.default_rng(1).standard_normal((paths, factors)))
    var = np.quantile(losses, confidence, method="inverted_cdf")
    shortfall = var + np.maximum(losses - var, 0.0).mean() / (1.0 - confidence)
    out = run(VAR_MONTE_CARLO, arrays, method=method, confidence=confidence, num_simulations=2**15, seed=3)
    for name, expected in zip(STATISTICS, (var, shortfall), strict=True):
        # The reference's own error is about a percent.
        assert out[name] == pytest.approx(expected, abs=4.0 * math.hypot(out[f"{name}_error"], 0.01 * expected))


def test_a_slightly_curved_book_agrees_with_cornish_fisher(run: Run) -> None:
    arrays, confidence = book(12, 0.08), 0.99
    product = arrays["covariance"] @ arrays["gamma"]
    first = arrays["covariance"] @ arrays["delta"]
    variance = arrays["delta"] @ first + 0.5 * np.trace(product @ product)
    # Cumulants of the loss −(δ·s + ½ sᵀΓs).
    third = -3.0 * first @ arrays["gamma"] @ first - np.trace(product @ product @ product)
    fourth = 12.0 * first @ arrays["gamma"] @ product @ first + 3.0 * np.trace(product @ product @ product @ product)
    skew, kurtosis = third / variance**1.5, fourth / variance**2
    z = NormalDist().inv_cdf(confidence)
    deviate = (
        z
        + (z * z - 1.0) * skew / 6.0
        + (z**3 - 3.0 * z) * kurtosis / 24.0
        - (2.0 * z**3 - 5.0 * z) * skew * skew / 36.0
    )
    expected = -0.5 * np.trace(product) + deviate * math.sqrt(variance)
    out = run(VAR_MONTE_CARLO, arrays, method="sobol", confidence=confidence, num_simulations=2**17)
    assert out["value_at_risk"] == pytest.approx(expected, rel=3e-3)


@every_method
def test_standard_errors_are_the_scatter_over_seeds(method: str, run: Run) -> None:
    arrays = book(6, 0.5)
    outs = [run(VAR_MONTE_CARLO, arrays, method=method, num_simulations=2**12, seed=seed) for seed in range(150)]
    for name in STATISTICS:
        scatter = np.std([out[name] for out in outs])
        reported = math.sqrt(np.mean([float(out[f"{name}_error"]) ** 2 for out in outs]))
        assert 0.7 < reported / scatter < 1.5


def test_sobol_points_along_the_loss_direction_reduce_the_variance(run: Run) -> None:
    arrays = book(20, 0.1)
    scatter = {
        method: np.std(
            [
                run(VAR_MONTE_CARLO, arrays, method=method, num_simulations=2**11, seed=seed)["value_at_risk"]
                for seed in range(60)
            ]
        )
        for method in ("pseudo_random", "sobol")
    }
    assert scatter["sobol"] < 0.4 * scatter["pseudo_random"]


@every_method
def test_a_target_standard_error_is_met(method: str, run: Run) -> None:
    arrays = book(6, 0.5)
    target = 0.005 * float(run(VAR_MONTE_CARLO, arrays, num_simulations=2**12)["value_at_risk"])
    out = run(VAR_MONTE_CARLO, arrays, method=method, target_standard_error=target)
    assert out["value_at_risk_error"] <= target
    again = run(VAR_MONTE_CARLO, arrays, method=method, num_simulations=int(out["num_simulations"]))
    assert again["value_at_risk"] == out["value_at_risk"]
    coarse = run(VAR_MONTE_CARLO, arrays, method=method, target_standard_error=1e3 * target)
    assert coarse["num_simulations"] < out["num_simulations"]


@every_method
def test_scaling_the_covariance_scales_a_linear_books_var(method: str, run: Run) -> None:
    arrays = book(5, 0.0)
    scaled = {**arrays, "covariance": 4.0 * arrays["covariance"]}
    for name in STATISTICS:
        one, two = (
            run(VAR_MONTE_CARLO, given, method=method, num_simulations=1_000)[name] for given in (arrays, scaled)
        )
        assert two == pytest.approx(2.0 * one, rel=1e-12)


@every_method
def test_factors_without_gamma_count_as_one_and_change_no_law(method: str, run: Run) -> None:
    """The same book with one hair of gamma on the linear factors takes the long way."""
    arrays = book(8, 1.0)
    arrays["gamma"][3:] = 0.0
    arrays["gamma"][:, 3:] = 0.0
    long_way = {**arrays, "gamma": arrays["gamma"] + 1e-9 * np.eye(8)}
    short = run(VAR_MONTE_CARLO, arrays, method=method, num_simulations=2**15)
    long = run(VAR_MONTE_CARLO, long_way, method=method, num_simulations=2**15)
    for name in STATISTICS:
        error = math.hypot(short[f"{name}_error"], long[f"{name}_error"])
        assert short[name] == pytest.approx(float(long[name]), abs=4.5 * error)
        assert short[name] != long[name]


@every_method
@pytest.mark.parametrize("shares", [(1.0,), (0.5, 0.5), (0.02, 0.5, 0.03, 0.45)])
@pytest.mark.parametrize(("simulations", "tail"), [(4_001, None), (4_001, 7), (5, None)])
def test_parts_merged_are_the_whole(
    method: str, shares: tuple[float, ...], simulations: int, tail: int | None, run: Run
) -> None:
    assert VAR_MONTE_CARLO.split is not None and VAR_MONTE_CARLO.merge is not None
    given: dict[str, Any] = {} if tail is None else {"tail_length": tail}
    params = {"method": method, "confidence": 0.95, "seed": 9, "num_simulations": simulations, "first_simulation": 16}
    whole = Example({**params, **given}, book(70, 1.0))
    parts = VAR_MONTE_CARLO.split(whole, shares)
    merged = VAR_MONTE_CARLO.merge(whole, [run(VAR_MONTE_CARLO, part.arrays, **part.params) for part in parts])
    expected = run(VAR_MONTE_CARLO, whole.arrays, **whole.params)
    assert merged["num_simulations"] == expected["num_simulations"] >= simulations
    assert merged["tail_losses"].shape == expected["tail_losses"].shape
    assert relative_error(VAR_MONTE_CARLO, merged, expected) < 1e-11


def test_a_task_of_unknown_size_stays_whole() -> None:
    assert VAR_MONTE_CARLO.split is not None
    whole = Example({"target_standard_error": 1.0, "method": "sobol", "first_simulation": 0}, book(3, 0.0))
    assert VAR_MONTE_CARLO.split(whole, (0.5, 0.5)) == [whole]


@every_method
def test_the_size_of_a_block_changes_nothing(method: str, run: Run) -> None:
    arrays, small = book(70, 1.0), NumpyNamespace()
    small.block = 350
    options = {"method": method, "num_simulations": 1_003, "seed": 2}
    whole = run(VAR_MONTE_CARLO, arrays, **options)
    assert relative_error(VAR_MONTE_CARLO, run(VAR_MONTE_CARLO, arrays, namespace=small, **options), whole) < 1e-12


@every_method
@pytest.mark.parametrize("factors", [5, 70])
def test_every_namespace_simulates_the_same_moves(method: str, factors: int, single: Namespace, run: Run) -> None:
    options = {"method": method, "num_simulations": 2_000, "seed": 4}
    arrays = {**book(factors, 1.0), "gamma": -np.eye(factors)}  # no axis of the quadratic form is its own
    expected = run(VAR_MONTE_CARLO, arrays, **options)
    assert relative_error(VAR_MONTE_CARLO, run(VAR_MONTE_CARLO, arrays, namespace=single, **options), expected) < 5e-6


@every_method
def test_every_namespace_finds_the_same_axes_of_a_singular_covariance(method: str, single: Namespace, run: Run) -> None:
    loadings = 0.01 * np.random.default_rng(0).standard_normal((150, 8))
    arrays = {**book(150, 0.0), "covariance": loadings @ loadings.T, "gamma": -3e3 * np.eye(150)}
    options = {"method": method, "num_simulations": 1_000}
    expected = run(VAR_MONTE_CARLO, arrays, **options)
    assert relative_error(VAR_MONTE_CARLO, run(VAR_MONTE_CARLO, arrays, namespace=single, **options), expected) < 5e-6


@every_method
def test_a_semidefinite_covariance_is_allowed(method: str, run: Run) -> None:
    arrays = book(6, 0.0)
    loadings = np.random.default_rng(0).standard_normal((6, 2))
    singular = {**arrays, "covariance": loadings @ loadings.T, "gamma": -np.eye(6)}
    losses = losses_of(
        {**singular, "covariance": np.eye(2), "delta": loadings.T @ arrays["delta"], "gamma": -loadings.T @ loadings},
        np.random.default_rng(1).standard_normal((200_000, 2)),
    )
    out = run(VAR_MONTE_CARLO, singular, method=method, num_simulations=2**16)
    assert out["value_at_risk"] == pytest.approx(np.quantile(losses, 0.99), rel=0.03)


def test_a_book_without_exposure_loses_nothing(run: Run) -> None:
    arrays = {"covariance": np.eye(3), "delta": np.zeros(3), "gamma": np.zeros((3, 3))}
    out = run(VAR_MONTE_CARLO, arrays, num_simulations=100)
    assert all(out[name] == 0.0 for name in (*STATISTICS, "value_at_risk_error", "expected_shortfall_error"))


def test_a_pure_gamma_book_is_chi_squared(run: Run) -> None:
    arrays = {"covariance": np.eye(2), "delta": np.zeros(2), "gamma": -np.eye(2)}
    out = run(VAR_MONTE_CARLO, arrays, method="sobol", num_simulations=2**16, seed=1)
    # Half a χ² of two degrees of freedom is exponential.
    assert out["value_at_risk"] == pytest.approx(-math.log(0.01), abs=4.0 * out["value_at_risk_error"])
    assert out["expected_shortfall"] == pytest.approx(1.0 - math.log(0.01), abs=4.0 * out["expected_shortfall_error"])
    assert out["value_at_risk_error"] < 0.005 * out["value_at_risk"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ([[1.0, 2.0], [2.0, 1.0]], "positive semidefinite, its least eigenvalue is -1"),
        ([[1.0, 0.5], [0.4, 1.0]], "symmetric"),
        ([[1.0, 0.0], [0.0, -1.0]], r"covariance\[1, 1\] is the variance -1"),
        ([[1.0, np.nan], [np.nan, 1.0]], "finite"),
        ([[1e13, 0.0], [0.0, 1.0]], "covariance must be <= 1e"),
    ],
)
def test_impossible_covariances_are_refused(change: list[list[float]], message: str, run: Run) -> None:
    arrays = {"covariance": np.array(change), "delta": np.ones(2), "gamma": np.zeros((2, 2))}
    with pytest.raises(InvalidArray, match=message):
        run(VAR_MONTE_CARLO, arrays, num_simulations=10)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({}, "either num_simulations or target_standard_error"),
        ({"num_simulations": 10, "target_standard_error": 1.0}, "not both"),
        ({"num_simulations": 10, "method": "sobol", "first_simulation": 3}, "multiple of 8"),
    ],
)
def test_contradictory_parameters_are_refused(params: dict[str, Any], message: str, run: Run) -> None:
    with pytest.raises(InvalidParameter, match=message):
        run(VAR_MONTE_CARLO, book(2, 0.0), **params)
