"""The sensitivities-based margin of the Basel standards for market risk, for one risk class of many accounts."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from routerd.errors import InvalidArray
from routerd.interfaces import Array, Arrays, Dims, Example, HostArrays, Join, Namespace, Params, Workload
from routerd.workloads.splitting import merge_along, split_along
from routerd.workloads.symmetry import check_symmetric

if TYPE_CHECKING:
    import numpy as np

_NAME = "collateral.margin_sba"
_SCENARIOS = 3
_ROUNDING = 1e-6  # what a table may miss by after a trip through float32
_FACTORS_PER_BUCKET = 20


def _margin_sba(namespace: Namespace, params: Params, arrays: Arrays) -> Arrays:
    import numpy as np

    xp = namespace.xp
    sensitivities, buckets = arrays["sensitivities"], arrays["gamma"].shape[0]
    bucket = namespace.to_host(arrays["bucket"])
    order = np.argsort(bucket, kind="stable")
    edges = np.searchsorted(bucket[order], np.arange(buckets + 1))
    squares, sums = [], []
    for start, stop in pairwise(edges):
        if start == stop:  # nobody's factor: no risk
            squares.append(namespace.zeros((_SCENARIOS, sensitivities.shape[0])))
            sums.append(namespace.zeros((sensitivities.shape[0],)))
        else:
            members = namespace.from_host(order[start:stop])
            square, total = _bucket(namespace, arrays, members)
            squares.append(square)
            sums.append(total)
    margins = _across_buckets(namespace, xp.stack(squares, axis=2), xp.stack(sums, axis=1), arrays["gamma"])
    return {"margin": xp.max(margins, axis=0), "scenario_margins": xp.permute_dims(margins, (1, 0))}


def _bucket(namespace: Namespace, arrays: Arrays, members: Any) -> tuple[Any, Any]:
    """K_b² in each scenario, shape (3, A), and S_b, shape (A,), of one bucket."""
    xp, sensitivities = namespace.xp, arrays["sensitivities"]
    count = members.shape[0]
    risk_weights = xp.take(arrays["risk_weights"], members, axis=0)
    rho = xp.take(xp.take(arrays["rho"], members, axis=0), members, axis=1)
    # The three tables side by side: one product serves all scenarios. Matrix units of less precision have no business in
    # a margin, so it is not the namespace's.
    tables = xp.concat(_scenarios(namespace, rho), axis=1)
    step = max(1, namespace.block // count)
    squares, sums = [], []
    for start in range(0, sensitivities.shape[0], step):
        weighted = xp.take(sensitivities[start : start + step, :], members, axis=1)
        weighted *= risk_weights
        products = xp.reshape(xp.matmul(weighted, tables), (-1, _SCENARIOS, count))
        products *= weighted[:, None, :]
        squares.append(xp.sum(products, axis=2))
        sums.append(xp.sum(weighted, axis=1))
    squared = xp.permute_dims(xp.concat(squares), (1, 0))
    return xp.maximum(squared, namespace.zeros(())), xp.concat(sums)


def _across_buckets(namespace: Namespace, squares: Any, sums: Any, gamma: Any) -> Any:
    """The margin in each scenario, shape (3, A), from K_b² (3, A, B) and S_b (A, B)."""
    import numpy as np

    xp = namespace.xp
    zero = namespace.zeros(())
    others = namespace.asarray(1.0 - np.eye(gamma.shape[0]))
    margins = []
    for index, correlation in enumerate(_scenarios(namespace, gamma)):
        own = xp.sum(squares[index, :, :], axis=1)
        deviations = xp.sqrt(squares[index, :, :])
        capped = xp.maximum(xp.minimum(sums, deviations), -deviations)
        first, second = (own + xp.sum(xp.matmul(s, correlation * others) * s, axis=1) for s in (sums, capped))
        margins.append(xp.sqrt(xp.where(first < 0.0, xp.maximum(second, zero), first)))
    return xp.stack(margins)


def _scenarios(namespace: Namespace, correlation: Any) -> tuple[Any, Any, Any]:
    """Low, medium and high correlations (MAR21.6); the high ones do not pass −1 either."""
    xp = namespace.xp
    one = namespace.asarray(1.0)
    low = xp.maximum(2.0 * correlation - one, 0.75 * correlation)
    return low, correlation, xp.maximum(xp.minimum(1.25 * correlation, one), -one)


def _check_tables(params: Params, arrays: HostArrays) -> None:
    import numpy as np

    bucket, rho, gamma = (np.asarray(arrays[name]) for name in ("bucket", "rho", "gamma"))
    if bucket.max() >= len(gamma):
        position = int((bucket >= len(gamma)).argmax())
        raise InvalidArray(
            f"{_NAME}: bucket[{position}] is {bucket[position]}, but gamma has {len(gamma)} buckets, "
            f"which count from 0 to {len(gamma) - 1}",
            array="bucket",
        )
    for name, table in (("rho", rho), ("gamma", gamma)):
        check_symmetric(_NAME, name, table)
    away = np.abs(np.diagonal(rho) - 1.0) > _ROUNDING
    if away.any():
        position = int(away.argmax())
        raise InvalidArray(
            f"{_NAME}: rho[{position}, {position}] is {rho[position, position]:g}; "
            f"every factor has a correlation of 1 with itself",
            array="rho",
        )


def _multiply_adds(params: Params, dims: Dims) -> float:
    """For each account and scenario a quadratic form within buckets of equal size, and two across them."""
    return _SCENARIOS * 2.0 * dims["A"] * (dims["R"] ** 2 / dims["B"] + 2.0 * dims["B"] ** 2)


def _margin_example(work: float, rng: np.random.Generator) -> Example:
    """Accounts that are hedged within buckets, and accounts that are long in some buckets and short in others.

    The correlations are such that the latter need the alternative sums, and none lies near the border between the two.
    """
    import numpy as np

    unit = _SCENARIOS * 2.0 * _FACTORS_PER_BUCKET**2
    pairs = int(np.clip((work / unit) ** (1.0 / 3.0) / 2.0, 1, 5))
    buckets, factors = 2 * pairs, 2 * pairs * _FACTORS_PER_BUCKET
    accounts = max(1, round(work / (unit * buckets)))
    bucket = rng.permutation(np.repeat(np.arange(buckets), _FACTORS_PER_BUCKET))
    loadings = rng.uniform(0.25, 0.3, factors)
    rho = np.outer(loadings, loadings)
    np.fill_diagonal(rho, 1.0)
    hedged = rng.standard_normal((accounts, factors))
    spread = rng.uniform(0.5, 1.5, (accounts, factors)) * np.where(bucket % 2 == 0, 1.0, -1.0)
    size = rng.lognormal(10.0, 0.5, (accounts, 1))
    return Example(
        {},
        {
            "sensitivities": size * np.where(rng.random((accounts, 1)) < 0.5, hedged, spread),
            "risk_weights": rng.uniform(0.3, 0.7, pairs)[bucket // 2] * rng.uniform(0.95, 1.05, factors),
            "bucket": bucket,
            "rho": rho,
            "gamma": np.full((buckets, buckets), 0.2),
        },
    )


MARGIN_SBA = Workload(
    name=_NAME,
    summary="Sensitivities-based delta margin of one risk class under low, medium and high correlations.",
    source="Basel Committee on Banking Supervision, MAR21, Standardised approach: sensitivities-based method, "
    "paragraphs 21.4, 21.6 and 21.7; risk weights and correlations are the caller's (no table of ISDA SIMM is used)",
    engines=("Collateral", "Risk"),
    parameters=(),
    inputs=(
        Array(
            name="sensitivities",
            shape=("A", "R"),
            unit="currency",
            doc="net sensitivity of each account (row) to each risk factor (column)",
        ),
        Array(name="risk_weights", shape=("R",), unit="1", minimum=0.0, doc="risk weight of each factor"),
        Array(
            name="bucket",
            shape=("R",),
            dtype="int64",
            accepts=("int64", "int32"),
            minimum=0,
            doc="bucket of each factor, 0…B − 1; a bucket may be empty",
        ),
        Array(
            name="rho",
            shape=("R", "R"),
            unit="1",
            minimum=-1.0,
            maximum=1.0,
            doc="correlation of factors, symmetric with ones on its diagonal; only pairs in one bucket count",
        ),
        Array(
            name="gamma",
            shape=("B", "B"),
            unit="1",
            minimum=-1.0,
            maximum=1.0,
            doc="correlation of buckets, symmetric; its diagonal does not count",
        ),
    ),
    outputs=(
        Array(
            name="margin",
            shape=("A",),
            unit="currency",
            doc="the greatest of an account's three margins",
        ),
        Array(
            name="scenario_margins",
            shape=("A", 3),
            unit="currency",
            doc="columns low, medium, high correlations; of several risk classes sum each scenario, then take the greatest. "
            "Where the total under the root is below 0, every S_b is first capped to ±K_b: a margin jumps there, and an "
            "account within a rounding of it may fall on either side",
        ),
    ),
    kernel=_margin_sba,
    work=_multiply_adds,
    work_unit="floating-point operations",
    example=_margin_example,
    work_range=(5e3, 5e8),
    tolerance=1e-5,
    batch_dim="A",
    check=_check_tables,
    split=split_along({"sensitivities": 0}),
    merge=merge_along({"margin": 0, "scenario_margins": 0}),
    join=Join(inputs={"sensitivities": 0}, outputs={"margin": 0, "scenario_margins": 0}),
)
