"""Risk decomposition against the dense covariance of all assets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.references import Case, Missing


def cases(quick: bool) -> list[Case | Missing]:
    assets = 300 if quick else 3_000
    rng = np.random.default_rng(0)
    factors = 40
    exposures = rng.standard_normal((assets, factors))
    loadings = rng.standard_normal((factors, factors))
    covariance = 1e-3 * (loadings @ loadings.T / factors + np.eye(factors))
    specific = rng.uniform(0.1, 0.5, assets) ** 2
    model = {"exposures": exposures, "factor_covariance": covariance, "specific_variance": specific}

    def dense_covariance() -> Any:
        dense = exposures @ covariance @ exposures.T
        dense[np.diag_indices(assets)] += specific
        return dense

    def weights(portfolios: int) -> Any:
        drawn = rng.uniform(0.0, 1.0, (portfolios, assets))
        return drawn / drawn.sum(axis=1, keepdims=True)

    one, many, kept = weights(1), weights(256), dense_covariance()
    return [
        Case(
            workload="factor.risk_decompose",
            scale=f"1 portfolio × {assets} assets",
            library="NumPy, dense Σ built",
            params={},
            arrays={**model, "weights": one},
            peer=lambda: _contributions(one, dense_covariance()),
            difference=_difference,
        ),
        Case(
            workload="factor.risk_decompose",
            scale=f"256 portfolios × {assets} assets",
            library="NumPy, dense Σ at hand",
            params={},
            arrays={**model, "weights": many},
            peer=lambda: _contributions(many, kept),
            difference=_difference,
        ),
    ]


def _contributions(weights: Any, dense: Any) -> tuple[Any, Any]:
    product = weights @ dense
    volatility = np.sqrt(np.sum(product * weights, axis=1))
    return volatility, product / volatility[:, None]


def _difference(outputs: Mapping[str, Any], expected: tuple[Any, Any]) -> float:
    actual = (outputs["volatility"], outputs["marginal_contribution"])
    return max(float(np.linalg.norm(a - e) / np.linalg.norm(e)) for a, e in zip(actual, expected, strict=True))
