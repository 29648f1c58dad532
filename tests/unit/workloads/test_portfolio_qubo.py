"""The swap annealer against enumeration, PySCIPOpt and dwave-samplers; the same reads on every namespace and in any split."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import pytest

from routerd.errors import InvalidArray, InvalidParameter
from routerd.interfaces import Example, Namespace
from routerd.namespaces.execution import execute_kernel
from routerd.namespaces.numpy import NumpyNamespace
from routerd.workloads.portfolio import QUBO_CARDINALITY

Run = Callable[..., dict[str, Any]]
Task = dict[str, np.ndarray]


def market(assets: int, seed: int) -> Task:
    """Moments of a market factor and as many others as make the choice hard, exact in float32."""
    rng = np.random.default_rng(seed)
    exposures = 0.01 * rng.standard_normal((assets, max(2, assets // 5)))
    covariance = exposures @ exposures.T + np.diag(rng.uniform(0.002, 0.01, assets) ** 2)
    exact = {"expected_returns": rng.normal(0.0, 0.0003, assets), "covariance": 0.5 * (covariance + covariance.T)}
    return {name: array.astype(np.float32).astype(np.float64) for name, array in exact.items()}


def energy(task: Task, chosen: Any, risk_weight: float = 0.5) -> float:
    """λ·xᵀΣx/K² − (1−λ)·μᵀx/K."""
    chosen = np.flatnonzero(chosen) if np.asarray(chosen).dtype == np.uint8 else np.asarray(chosen)
    variance = task["covariance"][np.ix_(chosen, chosen)].mean()
    return float(risk_weight * variance - (1.0 - risk_weight) * task["expected_returns"][chosen].mean())


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("cardinality", "risk_weight"), [(2, 0.5), (5, 0.9), (7, 1.0), (13, 0.5)])
def test_finds_the_best_of_all_selections(seed: int, cardinality: int, risk_weight: float, run: Run) -> None:
    task = market(14, seed)
    out = run(QUBO_CARDINALITY, task, cardinality=cardinality, risk_weight=risk_weight)
    best = min(energy(task, chosen, risk_weight) for chosen in combinations(range(14), cardinality))
    assert out["energy"] == pytest.approx(best, rel=1e-11)
    assert out["selection"].dtype == np.uint8 and out["selection"].sum() == cardinality
    assert energy(task, out["selection"], risk_weight) == pytest.approx(best, rel=1e-11)
    assert out["simulated"] == 1


@pytest.mark.parametrize(("assets", "cardinality"), [(30, 6), (36, 5)])
def test_finds_the_optimum_that_scip_proves(assets: int, cardinality: int, run: Run) -> None:
    pyscipopt = pytest.importorskip("pyscipopt", reason="PySCIPOpt is not installed")
    task = market(assets, 3)
    model = pyscipopt.Model()
    model.hideOutput()
    model.setParam("limits/time", 20)
    x = [model.addVar(vtype="B") for _ in range(assets)]
    bound = model.addVar(lb=None)
    # Scaled to the size that SCIP's absolute tolerances are made for.
    risk = 1e4 * task["covariance"] / cardinality**2
    gain = 1e4 * task["expected_returns"] / cardinality
    squares = pyscipopt.quicksum(risk[i, j] * x[i] * x[j] for i in range(assets) for j in range(assets))
    model.addCons(0.5 * squares - 0.5 * pyscipopt.quicksum(gain[i] * x[i] for i in range(assets)) <= bound)
    model.addCons(pyscipopt.quicksum(x) == cardinality)
    model.setObjective(bound)
    model.optimize()
    if model.getStatus() != "optimal":
        pytest.skip("SCIP did not prove the optimum in time")
    proved = np.flatnonzero([model.getVal(one) > 0.5 for one in x])
    out = run(QUBO_CARDINALITY, task, cardinality=cardinality)
    assert out["energy"] <= energy(task, proved) + 1e-15
    assert out["energy"] == pytest.approx(energy(task, proved), rel=1e-5)


@pytest.mark.parametrize("penalty", [1.0, 0.3, 0.1])
def test_is_never_above_a_penalised_annealer(penalty: float, run: Run) -> None:
    samplers = pytest.importorskip("dwave.samplers", reason="dwave-samplers is not installed")
    task, cardinality, assets = market(40, 5), 8, 40
    quadratic = 0.5 * task["covariance"] / cardinality**2
    linear = quadratic.diagonal() - 0.5 * task["expected_returns"] / cardinality
    weight = penalty * (np.abs(linear).sum() + np.abs(np.triu(2.0 * quadratic, 1)).sum())
    qubo = {(i, j): 2.0 * quadratic[i, j] + 2.0 * weight for i in range(assets) for j in range(i + 1, assets)}
    qubo |= {(i, i): linear[i] + weight * (1.0 - 2.0 * cardinality) for i in range(assets)}
    found = samplers.SimulatedAnnealingSampler().sample_qubo(qubo, num_reads=20, seed=1)
    states = [np.flatnonzero([sample[i] for i in range(assets)]) for sample in found.samples()]
    feasible = [energy(task, state) for state in states if len(state) == cardinality]
    assert feasible, "the penalty kept no cardinality"
    assert run(QUBO_CARDINALITY, task, cardinality=cardinality)["energy"] <= min(feasible) + 1e-16


def test_reads_end_where_no_single_swap_helps(run: Run) -> None:
    task = market(25, 6)
    for seed in range(5):
        out = run(QUBO_CARDINALITY, task, cardinality=6, num_reads=1, num_sweeps=1, first_read=seed)
        chosen = set(np.flatnonzero(out["selection"]))
        swapped = [
            energy(task, sorted(chosen - {one} | {other})) for one in chosen for other in set(range(25)) - chosen
        ]
        assert out["energy"] <= min(swapped) + 1e-16


def test_the_first_read_is_the_greedy_choice_improved(run: Run) -> None:
    """Without correlations greedy is optimal, so a single read must find it whatever the seed."""
    rng = np.random.default_rng(7)
    task = {"expected_returns": rng.normal(size=30), "covariance": np.diag(rng.random(30))}
    worth = 0.5 * task["covariance"].diagonal() / 64 - 0.5 * task["expected_returns"] / 8
    for seed in range(3):
        out = run(QUBO_CARDINALITY, task, cardinality=8, num_reads=1, num_sweeps=1, seed=seed)
        assert np.array_equal(np.flatnonzero(out["selection"]), np.sort(np.argsort(worth)[:8]))


def test_return_alone_takes_the_largest_returns(run: Run) -> None:
    task = market(50, 8)
    out = run(QUBO_CARDINALITY, task, cardinality=9, risk_weight=0.0)
    largest = np.argsort(-task["expected_returns"])[:9]
    assert np.array_equal(np.flatnonzero(out["selection"]), np.sort(largest))
    assert out["energy"] == pytest.approx(-task["expected_returns"][largest].mean(), rel=1e-12)


@pytest.mark.parametrize("cardinality", [1, 19, 20])
def test_one_all_but_one_and_all(cardinality: int, run: Run) -> None:
    task = market(20, 9)
    best = min(energy(task, chosen) for chosen in combinations(range(20), cardinality))
    assert run(QUBO_CARDINALITY, task, cardinality=cardinality)["energy"] == pytest.approx(best, rel=1e-11)


def test_one_asset_can_be_chosen(run: Run) -> None:
    out = run(QUBO_CARDINALITY, {"expected_returns": np.ones(1), "covariance": np.ones((1, 1))}, cardinality=1)
    assert out["selection"].tolist() == [1] and out["energy"] == 0.0


@pytest.mark.parametrize("covariance", [np.ones((12, 12)), np.zeros((12, 12)), np.eye(12)])
def test_equal_assets_may_be_chosen_in_any_way(covariance: np.ndarray, run: Run) -> None:
    task = {"expected_returns": np.zeros(12), "covariance": covariance}
    out = run(QUBO_CARDINALITY, task, cardinality=4)
    assert out["selection"].sum() == 4
    assert out["read_energies"] == pytest.approx(np.full(32, energy(task, range(4))), rel=1e-12)


def test_order_and_scale_of_the_assets_change_no_optimum(run: Run) -> None:
    task = market(40, 10)
    order = np.random.default_rng(0).permutation(40)
    moved = {
        "expected_returns": task["expected_returns"][order],
        "covariance": task["covariance"][np.ix_(order, order)],
    }
    selection = run(QUBO_CARDINALITY, task, cardinality=8)["selection"]
    assert np.array_equal(run(QUBO_CARDINALITY, moved, cardinality=8)["selection"], selection[order])
    for scale in (1e-150, 1e30):
        scaled = {name: array * scale for name, array in task.items()}
        assert np.array_equal(run(QUBO_CARDINALITY, scaled, cardinality=8)["selection"], selection)


@pytest.mark.parametrize("seed", range(3))
def test_every_read_is_the_same_on_every_namespace(seed: int, precise: Namespace, single: Namespace, run: Run) -> None:
    task = market(60, seed)
    expected = run(QUBO_CARDINALITY, task, cardinality=12, num_sweeps=3, seed=seed)
    assert len(set(expected["read_energies"])) > 1
    out = run(QUBO_CARDINALITY, task, namespace=precise, cardinality=12, num_sweeps=3, seed=seed)
    assert np.array_equal(out["read_energies"], expected["read_energies"])
    rounded = run(QUBO_CARDINALITY, task, namespace=single, cardinality=12, num_sweeps=3, seed=seed)
    assert np.array_equal(rounded["read_energies"], expected["read_energies"].astype(np.float32))
    assert np.array_equal(rounded["selection"], expected["selection"])


def test_the_size_of_a_block_changes_nothing(run: Run) -> None:
    task = market(45, 11)
    small = NumpyNamespace()
    small.block = 3 * 45
    whole = run(QUBO_CARDINALITY, task, cardinality=15, num_sweeps=2)
    parts = run(QUBO_CARDINALITY, task, namespace=small, cardinality=15, num_sweeps=2)
    assert all(np.array_equal(parts[name], whole[name]) for name in whole)


@pytest.mark.parametrize("shares", [(1.0,), (0.5, 0.5), (0.1, 0.02, 0.6, 0.28), (1.0,) * 50])
def test_merged_parts_are_the_whole(shares: tuple[float, ...], run: Run) -> None:
    task = market(35, 12)
    params = {"cardinality": 7, "num_reads": 23, "num_sweeps": 2, "seed": 5, "first_read": 4}
    expected = run(QUBO_CARDINALITY, task, **params)
    whole = Example({"risk_weight": 0.5, **params}, task)
    assert QUBO_CARDINALITY.split is not None and QUBO_CARDINALITY.merge is not None
    parts = QUBO_CARDINALITY.split(whole, shares)
    assert sum(int(part.params["num_reads"]) for part in parts) == 23
    outputs = [execute_kernel(NumpyNamespace(), QUBO_CARDINALITY, part.params, part.arrays).outputs for part in parts]
    merged = QUBO_CARDINALITY.merge(whole, outputs)
    assert all(np.array_equal(merged[name], expected[name]) for name in expected)


def test_seeds_give_different_reads_and_the_same_seed_the_same(run: Run) -> None:
    task = market(60, 13)
    first, again, other = (
        run(QUBO_CARDINALITY, task, cardinality=20, num_sweeps=1, seed=seed)["read_energies"] for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_more_sweeps_find_lower_energies(run: Run) -> None:
    """On a spin glass, which is far harder than a market."""
    rng = np.random.default_rng(14)
    couplings = rng.standard_normal((120, 120))
    task = {"expected_returns": np.zeros(120), "covariance": couplings + couplings.T}
    means = [
        run(QUBO_CARDINALITY, task, cardinality=40, risk_weight=1.0, num_sweeps=sweeps)["read_energies"].mean()
        for sweeps in (1, 10, 100)
    ]
    assert means[0] > means[1] > means[2]


def test_more_positions_than_assets_are_refused(run: Run) -> None:
    with pytest.raises(InvalidParameter, match="cardinality of 6 needs as many assets, there are 5"):
        run(QUBO_CARDINALITY, market(5, 0), cardinality=6)


def test_what_is_no_covariance_is_refused(run: Run) -> None:
    with pytest.raises(InvalidArray, match="must be symmetric"):
        run(
            QUBO_CARDINALITY,
            {"expected_returns": np.zeros(2), "covariance": np.array([[1.0, 0.5], [0.2, 1.0]])},
            cardinality=1,
        )
    with pytest.raises(InvalidArray, match=r"expected_returns\[1\] is nan"):
        run(QUBO_CARDINALITY, {"expected_returns": np.array([0.0, np.nan]), "covariance": np.eye(2)}, cardinality=1)
