"""The quadratic loss of a book in coordinates that are independent and ordered. On the host, in float64."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from routerd.errors import InvalidArray
from routerd.interfaces import HostArrays, Params
from routerd.workloads.symmetry import check_symmetric

if TYPE_CHECKING:
    import numpy as np

# This share of a variance is rounding, below zero or above it: that of covariances which passed through float32.
_ROUNDING = 1e-5


class QuadraticLoss(NamedTuple):
    """The loss −(slope·z₁ + ½ zᵀCz) of independent standard normal z₁…z_d: ``slope``, and ``curvature`` C (d, d)."""

    slope: float
    curvature: np.ndarray[Any, Any]


def quadratic_loss(
    covariance: np.ndarray[Any, Any], delta: np.ndarray[Any, Any], gamma: np.ndarray[Any, Any]
) -> QuadraticLoss:
    """The loss −(δ·s + ½ sᵀΓs) of factor moves s ~ N(0, Σ) as a function of independent standard normals.

    Factors without gamma matter through one combination of them only, δ·s, so together they are a single factor. With
    Σ' = LLᵀ of the factors that are left, an orthogonal matrix (Householder's) turns the first axis onto the loss
    direction Lᵀδ. The other axes are ordered by how much curvature they carry, in powers of two, so that rounding cannot
    change the order.
    """
    import numpy as np

    gamma = 0.5 * (gamma + gamma.T)
    curved = np.any(gamma != 0.0, axis=0)
    if not curved.all():
        exposures = np.vstack([np.eye(delta.size)[curved], np.where(curved, 0.0, delta)])
        covariance = exposures @ covariance @ exposures.T
        delta = np.append(delta[curved], 1.0)
        gamma = np.pad(gamma[np.ix_(curved, curved)], (0, 1))
    factor = _factor(covariance)
    direction = factor.T @ delta
    slope = float(np.linalg.norm(direction))
    if slope > 0.0:
        mirror = direction / slope
        sign = -1.0 if mirror[0] >= 0.0 else 1.0
        mirror[0] -= sign  # never short, so nothing cancels
        slope *= sign
        factor = factor - np.outer(factor @ mirror, mirror * (2.0 / (mirror @ mirror)))
    curvature = factor.T @ gamma @ factor
    carried = np.square(curvature[1:]).sum(axis=1)
    order = np.append(0, 1 + np.argsort(-np.round(np.log2(carried + np.finfo(float).tiny)), kind="stable"))
    return QuadraticLoss(slope, curvature[np.ix_(order, order)])


def _factor(covariance: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Lower-triangular L with LLᵀ = Σ. Where Σ is only semidefinite, a factor that earlier ones tell has a zero column."""
    import numpy as np

    try:
        return np.linalg.cholesky(covariance)
    except np.linalg.LinAlgError:
        rest = covariance.copy()
        factor = np.zeros_like(rest)
        for column in range(rest.shape[0]):
            if rest[column, column] > _ROUNDING * covariance[column, column]:
                factor[column:, column] = rest[column:, column] / np.sqrt(rest[column, column])
                rest[column:, column:] -= np.outer(factor[column:, column], factor[column:, column])
        return factor


def check_covariance(params: Params, arrays: HostArrays) -> None:
    """Raises ``InvalidArray`` unless the covariance is symmetric and positive semidefinite, to rounding in float32."""
    import numpy as np

    del params
    covariance = np.asarray(arrays["covariance"], dtype=np.float64)
    variances = np.diag(covariance)
    check_symmetric("risk.var_monte_carlo", "covariance", covariance)
    if np.any(variances < 0.0):
        factor = int(np.argmin(variances))
        raise InvalidArray(
            f"risk.var_monte_carlo: covariance[{factor}, {factor}] is the variance {variances[factor]:g}; none is negative",
            array="covariance",
        )
    floor = _ROUNDING * np.where(variances > 0.0, variances, max(float(variances.max()), np.finfo(float).tiny))
    try:
        np.linalg.cholesky(covariance + np.diag(floor))
    except np.linalg.LinAlgError:
        least = float(np.linalg.eigvalsh(covariance)[0])
        raise InvalidArray(
            f"risk.var_monte_carlo: covariance must be positive semidefinite, its least eigenvalue is {least:g}; "
            f"estimate it from more observations than factors, shrink it, or raise its negative eigenvalues to 0",
            array="covariance",
        ) from None
