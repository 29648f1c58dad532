"""Dense linear algebra."""

from __future__ import annotations

from typing import TYPE_CHECKING

from routerd.interfaces import Array, Arrays, Dims, Example, Join, Namespace, Params, Workload
from routerd.workloads.splitting import merge_along, split_along

if TYPE_CHECKING:
    import numpy as np


def _gemm(namespace: Namespace, params: Params, arrays: Arrays) -> Arrays:
    return {"c": namespace.matmul(arrays["a"], arrays["b"], into="c")}


def _gemm_work(params: Params, dims: Dims) -> float:
    return 2.0 * dims["m"] * dims["k"] * dims["n"]


def _gemm_example(work: float, rng: np.random.Generator) -> Example:
    side = max(2, round((work / 2.0) ** (1.0 / 3.0)))
    return Example({}, {"a": rng.standard_normal((side, side)), "b": rng.standard_normal((side, side))})


GEMM = Workload(
    name="linalg.gemm",
    summary="Matrix product C = A·B.",
    source="Dongarra et al. (1990), A Set of Level 3 Basic Linear Algebra Subprograms, ACM TOMS 16(1)",
    engines=("Analytics", "ML"),
    parameters=(),
    inputs=(
        Array(name="a", shape=("m", "k"), doc="left factor; NaN and infinity propagate", finite=False),
        Array(name="b", shape=("k", "n"), doc="right factor; NaN and infinity propagate", finite=False),
    ),
    outputs=(
        Array(name="c", shape=("m", "n"), finite=False, doc="the product, with the NaN and infinity of its factors"),
    ),
    kernel=_gemm,
    work=_gemm_work,
    work_unit="floating-point operations",
    example=_gemm_example,
    work_range=(1e4, 1.8e10),
    tolerance=1e-5,
    matmul_bound=True,
    split=split_along({"a": 0}),
    merge=merge_along({"c": 0}),
    join=Join(inputs={"a": 0}, outputs={"c": 0}),
)

WORKLOADS = (GEMM,)
