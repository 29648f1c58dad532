"""Matrix products against SciPy's BLAS."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np

from benchmarks.references import Case, Missing


def cases(quick: bool) -> list[Case | Missing]:
    if find_spec("scipy") is None:
        return [Missing("linalg.gemm", "scipy is not installed")]
    from scipy.linalg.blas import dgemm

    side = 256 if quick else 2048
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((side, side)), rng.standard_normal((side, side))
    return [
        Case(
            workload="linalg.gemm",
            scale=f"{side}×{side}",
            library="scipy dgemm",
            params={},
            arrays={"a": a, "b": b},
            peer=lambda: dgemm(1.0, b.T, a.T).T,  # BLAS counts by columns: Cᵀ = Bᵀ·Aᵀ passes both without a copy
            difference=lambda outputs, c: float(np.linalg.norm(outputs["c"] - c) / np.linalg.norm(c)),
            agreement=1e-12,
        )
    ]
