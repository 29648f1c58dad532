"""Choosing K of N assets by simulated annealing. Quantum-inspired: nothing here is a quantum computer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from routerd.errors import InvalidParameter
from routerd.interfaces import (
    Array,
    Arrays,
    Dims,
    Example,
    HostArrays,
    Namespace,
    Parameter,
    Params,
    Workload,
)
from routerd.workloads.portfolio.moments import COVARIANCE, EXPECTED_RETURNS, factor_model
from routerd.workloads.portfolio.swap_annealer import anneal, in_integers
from routerd.workloads.randomness import SEED
from routerd.workloads.splitting import boundaries
from routerd.workloads.symmetry import check_symmetric

if TYPE_CHECKING:
    import numpy as np

_NAME = "portfolio.qubo_cardinality"


def _qubo_cardinality(namespace: Namespace, params: Params, arrays: Arrays) -> Arrays:
    import numpy as np

    count, risk_weight = params["cardinality"], params["risk_weight"]
    returns, covariance = namespace.to_host(arrays["expected_returns"]), namespace.to_host(arrays["covariance"])
    objective = (0.5 * risk_weight / count**2) * (covariance + covariance.T)
    np.fill_diagonal(objective, objective.diagonal() - (1.0 - risk_weight) / count * returns)
    problem = in_integers(objective, count)
    assets = len(returns)
    step = max(1, namespace.block // assets)
    first, stop = params["first_read"], params["first_read"] + params["num_reads"]
    ranges = [(start, min(start + step, stop)) for start in range(first, stop, step)]
    sweeps, seed = params["num_sweeps"], params["seed"]
    members = np.concatenate([anneal(namespace, problem, reads, sweeps=sweeps, seed=seed) for reads in ranges])
    selections = np.zeros((members.shape[0], assets))
    np.put_along_axis(selections, members, 1.0, axis=1)
    energies = np.sum(selections @ problem.coefficients.astype(np.float64) * selections, axis=1) / problem.scale
    best = int(np.argmin(energies))
    return {
        "selection": namespace.from_host(selections[best].astype(np.uint8)),
        "energy": namespace.asarray(energies[best]),
        "read_energies": namespace.asarray(energies),
        "simulated": namespace.from_host(np.ones((), np.uint8)),
    }


def _check_task(params: Params, dims: Dims) -> None:
    if params["cardinality"] > dims["N"]:
        raise InvalidParameter(
            f"{_NAME}: a cardinality of {params['cardinality']} needs as many assets, there are {dims['N']}; "
            f"choose fewer or send more",
            parameter="cardinality",
        )


def _check(params: Params, arrays: HostArrays) -> None:
    check_symmetric(_NAME, "covariance", arrays["covariance"])


def _split(whole: Example, shares: Sequence[float]) -> list[Example]:
    first = int(whole.params.get("first_read", 0))
    return [
        Example({**whole.params, "first_read": first + start, "num_reads": stop - start}, whole.arrays)
        for start, stop in boundaries(int(whole.params["num_reads"]), shares)
    ]


def _merge(whole: Example, parts: Sequence[HostArrays]) -> dict[str, Any]:
    """The earliest part with the least energy has the selection, as within a part the earliest read has it."""
    import numpy as np

    best = min(parts, key=lambda part: float(part["energy"]))
    return {**best, "read_energies": np.concatenate([part["read_energies"] for part in parts])}


def _costs_updated(params: Params, dims: Dims) -> float:
    """A step updates the costs of all assets in all reads; starting it costs as much as a thousand updates."""
    steps = (params["num_sweeps"] + 3) * params["cardinality"]
    return float(steps * (params["num_reads"] * dims["N"] + 1_000))


def _example(work: float, rng: np.random.Generator) -> Example:
    """A fifth of the assets, up to 500; the rest of the work is more reads. Moments that float32 holds exactly."""
    import numpy as np

    assets = int(min(500, max(10, 0.5 * work**0.4)))
    cardinality, sweeps = max(2, assets // 10), 20 if work > 1e5 else 2
    reads = max(1, round((work / ((sweeps + 3) * cardinality) - 1_000) / assets))
    returns, covariance = factor_model(assets, rng)
    return Example(
        {"cardinality": cardinality, "num_reads": reads, "num_sweeps": sweeps, "seed": int(rng.integers(2**32))},
        {
            "expected_returns": returns.astype(np.float32).astype(np.float64),
            "covariance": covariance.astype(np.float32).astype(np.float64),
        },
    )


QUBO_CARDINALITY = Workload(
    name=_NAME,
    summary="Choose K of N assets, equally weighted, by annealing over swaps (quantum-inspired; no quantum computer).",
    source="Kirkpatrick, Gelatt, Vecchi (1983), Optimization by Simulated Annealing, Science 220; "
    "Philox4x32-10 by Salmon et al. (2011), SC'11",
    engines=("Portfolio",),
    parameters=(
        Parameter(
            name="cardinality",
            type="int",
            unit="assets",
            minimum=1,
            maximum=100_000,
            doc="how many assets to choose: K",
        ),
        Parameter(
            name="risk_weight",
            type="float",
            default=0.5,
            minimum=0.0,
            maximum=1.0,
            doc="λ: 1 minimises the variance alone, 0 maximises the expected return alone",
        ),
        Parameter(
            name="num_reads",
            type="int",
            default=32,
            minimum=1,
            maximum=1_000_000,
            doc="independent annealing runs, of which the best counts",
        ),
        Parameter(
            name="num_sweeps",
            type="int",
            default=20,
            minimum=1,
            maximum=1_000_000,
            doc="temperatures of each read; at each one every chosen asset is reconsidered",
        ),
        SEED,
        Parameter(
            name="first_read",
            type="int",
            default=0,
            minimum=0,
            maximum=2**31 - 1,
            doc="number of the first read: tasks that cover 0…n−1 between them do the reads of one task of n",
        ),
    ),
    inputs=(EXPECTED_RETURNS, COVARIANCE),
    outputs=(
        Array(
            name="selection",
            shape=("N",),
            dtype="uint8",
            doc="1 for each chosen asset, of the read with the least energy. The same on every device where float32 holds "
            "the inputs exactly; a device in float32 rounds others first, and may then prefer a near-equal selection",
        ),
        Array(
            name="energy",
            shape=(),
            unit="1 per period",
            doc="λ·xᵀΣx/K² − (1−λ)·μᵀx/K of the selection; where read 0 is among the reads, never above that of greedy "
            "choice improved by single swaps",
        ),
        Array(
            name="read_energies",
            shape=("num_reads",),
            unit="1 per period",
            doc="energy that each read ended at, a minimum under single swaps; many equal to the least are a good sign",
        ),
        Array(name="simulated", shape=(), dtype="uint8", doc="always 1: this is a classical computation"),
    ),
    kernel=_qubo_cardinality,
    work=_costs_updated,
    work_unit="costs updated",
    example=_example,
    work_range=(1e4, 1e8),
    tolerance=1e-5,
    check_task=_check_task,
    check=_check,
    split=_split,
    merge=_merge,
)
