"""VaR by bisection against the exact distribution function; IQAE and MLAE against their guarantees and qiskit-algorithms."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from routerd.errors import InvalidArray, InvalidParameter
from routerd.interfaces import Namespace
from routerd.namespaces.execution import refusal
from routerd.workloads.risk import VAR_AMPLITUDE_ESTIMATION
from routerd.workloads.risk.amplitude import Estimate, Measure, iterative, maximum_likelihood

Run = Callable[..., dict[str, Any]]
every_method = pytest.mark.parametrize("method", ["sobol", "iqae", "mlae"])
LOSSES = ("interval_low", "value_at_risk", "interval_high")


def pmf(bits: int, seed: int = 0) -> np.ndarray:
    weights = np.random.default_rng(seed).gamma(0.7, size=2**bits) * np.exp(-5.0 * np.linspace(0.0, 1.0, 2**bits))
    return weights / weights.sum()


def exact_var(probabilities: np.ndarray, confidence: float) -> int:
    return int(np.argmax(np.cumsum(probabilities) >= confidence))


def indices(run: Run, probabilities: np.ndarray, **params: Any) -> dict[str, Any]:
    """Outputs with losses numbered 0, 1, 2, …, so that a loss is its bin."""
    return run(
        VAR_AMPLITUDE_ESTIMATION,
        {"probabilities": probabilities},
        lowest_loss=0.0,
        highest_loss=float(probabilities.size - 1),
        **params,
    )


def measurement(amplitude: float, seed: int) -> Measure:
    """Measurements of an amplitude, drawn by NumPy."""
    rng, angle = np.random.default_rng(seed), math.asin(math.sqrt(amplitude))
    return lambda power, shots: int(rng.binomial(shots, math.sin((2 * power + 1) * angle) ** 2))


@pytest.mark.parametrize("confidence", [0.75, 0.95, 0.99])
@pytest.mark.parametrize("bits", [1, 3, 10, 14])
def test_sobol_intervals_always_hold_the_exact_var(bits: int, confidence: float, run: Run) -> None:
    for seed in range(20):
        probabilities = pmf(bits, seed)
        out = indices(run, probabilities, confidence=confidence, epsilon=0.003, seed=seed)
        low, value, high = (int(out[name]) for name in LOSSES)
        assert low <= exact_var(probabilities, confidence) <= high
        assert low <= value <= high
        below = np.cumsum(probabilities)[value - 1] if value else 0.0
        assert below < confidence + 1 / 512 and np.cumsum(probabilities)[value] >= confidence - 1 / 512
        assert out["oracle_queries"] == 512 and not out["simulated"]


@pytest.mark.parametrize("method", ["iqae", "mlae"])
def test_simulated_intervals_hold_the_exact_var_as_often_as_they_say(method: str, run: Run) -> None:
    probabilities, held = pmf(6), 0
    exact = exact_var(probabilities, 0.95)
    for seed in range(100):
        out = indices(run, probabilities, confidence=0.95, method=method, epsilon=0.01, alpha=0.1, seed=seed)
        assert out["interval_low"] <= out["value_at_risk"] <= out["interval_high"]
        assert out["simulated"]
        held += int(out["interval_low"] <= exact <= out["interval_high"])
    assert held >= 85  # 90 expected at worst; 3 of these are one standard deviation


@every_method
def test_a_small_epsilon_finds_the_exact_bin(method: str, run: Run) -> None:
    probabilities = pmf(8)
    out = indices(run, probabilities, method=method, confidence=0.95, epsilon=1e-5)
    assert out["value_at_risk"] == exact_var(probabilities, 0.95)


@every_method
def test_a_certain_loss_is_the_var(method: str, run: Run) -> None:
    probabilities = np.zeros(16)
    probabilities[11] = 1.0
    out = indices(run, probabilities, method=method, epsilon=0.01)
    assert [int(out[name]) for name in LOSSES] == [11, 11, 11]


@every_method
def test_losses_are_spaced_between_their_ends(method: str, run: Run) -> None:
    probabilities = pmf(5)
    unit = indices(run, probabilities, method=method, epsilon=0.01)
    out = run(
        VAR_AMPLITUDE_ESTIMATION,
        {"probabilities": probabilities},
        lowest_loss=-10.0,
        highest_loss=52.0,
        method=method,
        epsilon=0.01,
    )
    for name in LOSSES:
        assert out[name] == pytest.approx(2.0 * unit[name] - 10.0)


@every_method
def test_every_namespace_in_float64_gives_the_same_answer(method: str, precise: Namespace, run: Run) -> None:
    for seed in range(5):
        probabilities = pmf(12, seed)
        expected = indices(run, probabilities, method=method, seed=seed)
        assert indices(run, probabilities, method=method, seed=seed, namespace=precise) == expected


def test_float32_is_refused_with_the_reason(single: Namespace) -> None:
    assert "more than 32 bits" in str(refusal(VAR_AMPLITUDE_ESTIMATION, single))


def test_the_seed_changes_the_draws(run: Run) -> None:
    queries = {int(indices(run, pmf(8), method="iqae", seed=seed)["oracle_queries"]) for seed in range(5)}
    assert len(queries) > 1


def test_equivalent_samples_grow_with_the_square_of_queries(run: Run) -> None:
    coarse, fine = (indices(run, pmf(8), epsilon=epsilon) for epsilon in (2.0**-8, 2.0**-12))
    assert fine["oracle_queries"] == 16 * coarse["oracle_queries"]
    assert fine["equivalent_samples"] == pytest.approx(256 * coarse["equivalent_samples"], rel=0.6)


@pytest.mark.parametrize("amplitude", [0.05, 0.5, 0.93])
@pytest.mark.parametrize("epsilon", [0.03, 0.003])
def test_iqae_is_as_precise_and_as_certain_as_it_says(amplitude: float, epsilon: float) -> None:
    found = [iterative(measurement(amplitude, seed), epsilon, 0.05, 100) for seed in range(200)]
    assert all(one.high - one.low <= 2.0 * epsilon for one in found)
    assert sum(one.low <= amplitude <= one.high for one in found) >= 0.95 * len(found)


def slope(algorithm: Callable[[Measure, float, float, int], Estimate], amplitude: float) -> float:
    """Exponent of the root-mean-square error as a power of the oracle queries."""
    points = []
    for epsilon in (0.03, 0.01, 0.003, 0.001, 0.0003):
        found = [algorithm(measurement(amplitude, seed), epsilon, 0.05, 100) for seed in range(60)]
        error = math.sqrt(np.mean([(one.value - amplitude) ** 2 for one in found]))
        points.append((math.log(np.mean([one.queries for one in found])), math.log(error)))
    return float(np.polyfit(*np.array(points).T, 1)[0])


@pytest.mark.parametrize("algorithm", [iterative, maximum_likelihood])
def test_the_error_falls_like_one_over_queries(algorithm: Callable[..., Estimate]) -> None:
    assert -1.15 < slope(algorithm, 0.3) < -0.85  # independent samples: −0.5


def test_mlae_finds_the_global_maximum_of_the_likelihood() -> None:
    grid = np.linspace(0.0, 0.5 * math.pi, 100_001)
    for seed in range(20):
        counts: list[tuple[int, int]] = []
        draw = measurement(0.99, seed)

        def measure(power: int, shots: int) -> int:
            counts.append((2 * power + 1, draw(power, shots)))  # noqa: B023 (called within this turn)
            return counts[-1][1]  # noqa: B023

        found = maximum_likelihood(measure, 0.01, 0.05, 100)
        likelihood = sum(
            ones * np.log(np.sin(factor * grid) ** 2 + 1e-300)
            + (100 - ones) * np.log(np.cos(factor * grid) ** 2 + 1e-300)
            for factor, ones in counts
        )
        assert found.value == pytest.approx(math.sin(grid[np.argmax(likelihood)]) ** 2, abs=2e-5)
        assert found.queries == sum(100 * factor for factor, _ in counts)


def bernoulli(amplitude: float) -> Any:
    """qiskit-algorithms' problem of one qubit, whose Grover iteration is a rotation."""
    qiskit = pytest.importorskip("qiskit", reason="qiskit is not installed")
    algorithms = pytest.importorskip("qiskit_algorithms", reason="qiskit-algorithms is not installed")
    angle = 2.0 * math.asin(math.sqrt(amplitude))
    prepare, grover = qiskit.QuantumCircuit(1), qiskit.QuantumCircuit(1)
    prepare.ry(angle, 0)
    grover.ry(2.0 * angle, 0)
    grover.power = lambda power: _rotation(qiskit, 2.0 * angle * power)
    return algorithms.EstimationProblem(prepare, objective_qubits=[0], grover_operator=grover)


def _rotation(qiskit: Any, angle: float) -> Any:
    circuit = qiskit.QuantumCircuit(1)
    circuit.ry(angle, 0)
    return circuit


@pytest.mark.filterwarnings("ignore")
def test_iqae_asks_about_as_often_as_qiskits_for_about_as_much() -> None:
    """Its intervals are Clopper's and Pearson's, somewhat shorter than Hoeffding's; its Chernoff intervals are far longer."""
    algorithms = pytest.importorskip("qiskit_algorithms", reason="qiskit-algorithms is not installed")
    primitives = pytest.importorskip("qiskit.primitives", reason="qiskit is not installed")
    amplitude, epsilon, shots, repeats = 0.3, 0.01, 100, 30
    queries, widths = [], []
    for seed in range(repeats):
        # With an integer for a seed it would draw the same at every call.
        sampler = primitives.StatevectorSampler(default_shots=shots, seed=np.random.default_rng(seed))
        peer = algorithms.IterativeAmplitudeEstimation(epsilon, 0.05, confint_method="beta", sampler=sampler)
        result = peer.estimate(bernoulli(amplitude))
        queries.append(sum(shots * (2 * power + 1) for power in result.powers[1:]))
        widths.append(result.confidence_interval[1] - result.confidence_interval[0])
    ours = [iterative(measurement(amplitude, seed), epsilon, 0.05, shots) for seed in range(10 * repeats)]
    assert 0.8 < np.mean([one.queries for one in ours]) / np.mean(queries) < 1.8
    assert 0.7 < np.mean([one.high - one.low for one in ours]) / np.mean(widths) < 1.5


@pytest.mark.filterwarnings("ignore")
def test_mlae_is_qiskits_on_the_same_measurements() -> None:
    algorithms = pytest.importorskip("qiskit_algorithms", reason="qiskit-algorithms is not installed")
    primitives = pytest.importorskip("qiskit.primitives", reason="qiskit is not installed")
    peer = algorithms.MaximumLikelihoodAmplitudeEstimation(
        evaluation_schedule=4, sampler=primitives.StatevectorSampler(default_shots=100, seed=3)
    )
    result = peer.estimate(bernoulli(0.3))
    counts = dict(zip(result.evaluation_schedule, result.good_counts, strict=True))
    found = maximum_likelihood(lambda power, shots: int(counts[power]), 0.008, 0.05, 100)
    assert found.value == pytest.approx(result.estimation, abs=1e-4)
    assert (found.low, found.high) == pytest.approx(
        algorithms.MaximumLikelihoodAmplitudeEstimation.compute_confidence_interval(result, 0.05, "fisher"), abs=1e-4
    )


@pytest.mark.parametrize(
    ("probabilities", "message"),
    [
        (np.full(12, 1.0 / 12.0), "power of two"),
        (np.ones(1), "power of two"),
        (np.full(8, 0.1), "sum to 0.8"),
        (np.array([1.5, -0.5]), ">= 0"),
        (np.array([np.nan, 1.0]), "finite"),
        (np.array([0.5, 0.5], dtype=np.float32), "float64"),
    ],
)
def test_what_is_no_distribution_is_refused(probabilities: np.ndarray, message: str, run: Run) -> None:
    with pytest.raises(InvalidArray, match=message):
        run(VAR_AMPLITUDE_ESTIMATION, {"probabilities": probabilities}, lowest_loss=0.0, highest_loss=1.0)


def test_ends_in_the_wrong_order_are_refused(run: Run) -> None:
    with pytest.raises(InvalidParameter, match="lowest_loss 1 must be less than highest_loss 1"):
        run(VAR_AMPLITUDE_ESTIMATION, {"probabilities": np.array([0.5, 0.5])}, lowest_loss=1.0, highest_loss=1.0)


def test_mlae_needs_shots_enough_to_exclude_angles(run: Run) -> None:
    with pytest.raises(InvalidParameter, match="mlae needs shots >= 10, got 9"):
        indices(run, pmf(3), method="mlae", shots=9)
    assert indices(run, pmf(3), method="mlae", shots=10, epsilon=1e-6)["simulated"]
    assert indices(run, pmf(3), method="iqae", shots=9)["simulated"]
