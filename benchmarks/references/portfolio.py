"""Portfolios against PyPortfolioOpt and skfolio (CVXPY), and selections against SCIP's proof and a penalised annealer."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import numpy as np

from benchmarks.references import Case, Missing
from routerd.workloads.portfolio.moments import factor_model

_MARKOWITZ, _QUBO = "portfolio.markowitz", "portfolio.qubo_cardinality"
_PENALTIES = (1.0, 0.3, 0.1)
# Risk and return weigh about the same, so neither alone decides.
_RISK_WEIGHT = 0.7


def cases(quick: bool) -> list[Case | Missing]:
    found: list[Case | Missing] = []
    for assets in (20,) if quick else (100, 500):
        if find_spec("pypfopt") is None:
            found.append(Missing(_MARKOWITZ, "PyPortfolioOpt is not installed"))
        else:
            found.append(_efficient_return(assets))
        if find_spec("skfolio") is None:
            found.append(Missing(_MARKOWITZ, "skfolio is not installed"))
        else:
            found.append(_frontier(assets))
    for assets, cardinality in ((20, 5),) if quick else ((50, 10), (100, 20)):
        task = _selection_task(assets, cardinality)
        if find_spec("dwave") is None:
            found.append(Missing(_QUBO, "dwave-samplers is not installed"))
        else:
            found.append(_annealed(task, assets, cardinality))
        if find_spec("pyscipopt") is None:
            found.append(Missing(_QUBO, "PySCIPOpt is not installed"))
        else:
            found.append(_proved(task, assets, cardinality))
    return found


def _efficient_return(assets: int) -> Case:
    from pypfopt import EfficientFrontier

    returns, covariance = factor_model(assets, np.random.default_rng(0))
    target = float(np.quantile(returns, 0.8))

    def peer() -> float:
        frontier = EfficientFrontier(returns, covariance)
        frontier.efficient_return(target)
        return float(frontier.portfolio_performance()[1])

    return Case(
        workload=_MARKOWITZ,
        scale=f"{assets} assets, one return",
        library="PyPortfolioOpt efficient_return",
        params={"target_return": target},
        arrays={"expected_returns": returns, "covariance": covariance},
        peer=peer,
        difference=lambda outputs, volatility: abs(float(outputs["volatility"]) / volatility - 1.0),
        agreement=1e-3,
        note="PyPortfolioOpt solves with OSQP, whose default accuracy is why only three digits have to agree",
    )


def _frontier(assets: int) -> Case:
    """skfolio estimates the moments itself, as it always does; that is the smallest part of its time."""
    from skfolio.optimization import MeanRisk

    points = 10 if assets <= 100 else 2
    returns, covariance = factor_model(assets, np.random.default_rng(0))
    sample = np.random.default_rng(1).multivariate_normal(returns, covariance, 2 * assets)
    task = {"expected_returns": sample.mean(axis=0), "covariance": np.cov(sample, rowvar=False)}

    def peer() -> np.ndarray[Any, Any]:
        weights = MeanRisk(efficient_frontier_size=points).fit(sample).weights_
        return np.stack((weights @ task["expected_returns"], _volatilities(weights, task["covariance"])))

    def difference(outputs: Mapping[str, Any], theirs: np.ndarray[Any, Any]) -> float:
        ours = np.interp(theirs[0], outputs["frontier_return"], outputs["frontier_volatility"])
        return float(np.abs(ours / theirs[1] - 1.0).max())

    return Case(
        workload=_MARKOWITZ,
        scale=f"{assets} assets, frontier",
        library=f"skfolio MeanRisk, {points} points",
        params={"frontier_points": 200},
        arrays=task,
        peer=peer,
        difference=difference,
        agreement=1e-3,
        note="routerd gives 200 points of the frontier, skfolio (CVXPY, Clarabel) 2 to 10",
    )


def _volatilities(weights: np.ndarray[Any, Any], covariance: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.sqrt(np.sum((weights @ covariance) * weights, axis=1))


def _selection_task(assets: int, cardinality: int) -> dict[str, np.ndarray[Any, Any]]:
    returns, covariance = factor_model(assets, np.random.default_rng(assets))
    return {"expected_returns": returns, "covariance": covariance}


def _objective(task: Mapping[str, Any], cardinality: int) -> np.ndarray[Any, Any]:
    """The energy as xᵀQx for binary x."""
    quadratic = _RISK_WEIGHT * task["covariance"] / cardinality**2
    return quadratic - np.diag((1.0 - _RISK_WEIGHT) * task["expected_returns"] / cardinality)


def _excess(outputs: Mapping[str, Any], energy: float) -> float:
    """How far the workload's energy lies above the other, relative to it; none where it is as low or lower."""
    return max(0.0, float(outputs["energy"]) - energy) / abs(energy)


def _annealed(task: Mapping[str, Any], assets: int, cardinality: int) -> Case:
    """The textbook penalty is more than what any one asset can change the energy by; shares of it are scanned, as one must."""
    import dimod
    from dwave.samplers import SimulatedAnnealingSampler

    objective = _objective(task, cardinality)
    bound = float((2.0 * np.abs(objective).sum(axis=1) - np.abs(objective.diagonal())).max())
    constraint = np.ones((assets, assets)) - 2.0 * cardinality * np.eye(assets)
    models = [dimod.BinaryQuadraticModel(objective + share * bound * constraint, "BINARY") for share in _PENALTIES]

    def peer() -> float:
        least = np.inf
        for model in models:
            states = SimulatedAnnealingSampler().sample(model, num_reads=32, seed=1).record.sample.astype(float)
            states = states[states.sum(axis=1) == cardinality]
            least = min(least, *np.sum((states @ objective) * states, axis=1), np.inf)
        return float(least)

    return Case(
        workload=_QUBO,
        scale=f"{cardinality} of {assets} assets",
        library="dwave-samplers, 3 penalties",
        params={"cardinality": cardinality, "risk_weight": _RISK_WEIGHT},
        arrays=task,
        peer=peer,
        difference=_excess,
        agreement=1e-9,
        note="both with 32 reads; dwave-samplers with 1 000 sweeps, its default, at 1, 0.3 and 0.1 of the textbook penalty, "
        "and routerd's energy is as low or lower. Against SCIP it is the optimum that SCIP proves",
    )


def _proved(task: Mapping[str, Any], assets: int, cardinality: int) -> Case:
    import pyscipopt

    # To the size that SCIP's absolute tolerances are made for.
    objective = _objective(task, cardinality)
    scale = 1.0 / float(np.abs(objective).max())

    def peer() -> float:
        model = pyscipopt.Model()
        model.hideOutput()
        x = [model.addVar(vtype="B") for _ in range(assets)]
        energy = model.addVar(lb=None)
        terms = (scale * objective[i, j] * x[i] * x[j] for i in range(assets) for j in range(assets))
        model.addCons(pyscipopt.quicksum(terms) <= energy)
        model.addCons(pyscipopt.quicksum(x) == cardinality)
        model.setObjective(energy)
        model.optimize()
        chosen = np.array([model.getVal(one) > 0.5 for one in x], dtype=float)
        return float(chosen @ objective @ chosen)

    return Case(
        workload=_QUBO,
        scale=f"{cardinality} of {assets} assets",
        library="SCIP, to proven optimality",
        params={"cardinality": cardinality, "risk_weight": _RISK_WEIGHT},
        arrays=task,
        peer=peer,
        difference=_excess,
        agreement=1e-9,
    )
