"""Expected returns and their covariance, as both workloads take them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from routerd.interfaces import Array

if TYPE_CHECKING:
    import numpy as np

# Far beyond any market, and far from where float32 ends.
_LARGEST = 1e30

EXPECTED_RETURNS = Array(
    name="expected_returns",
    shape=("N",),
    unit="1 per period",
    minimum=-_LARGEST,
    maximum=_LARGEST,
    doc="expected return of each asset over one period",
)
COVARIANCE = Array(
    name="covariance",
    shape=("N", "N"),
    unit="1 per period",
    minimum=-_LARGEST,
    maximum=_LARGEST,
    doc="covariance of the assets' returns over one period; symmetric",
)


def factor_model(assets: int, rng: np.random.Generator) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Daily expected returns and a covariance of a market factor, a style factor for every twenty assets, and noise."""
    import numpy as np

    exposures = 0.005 * rng.standard_normal((assets, 1 + assets // 20))
    exposures[:, 0] += 0.01
    covariance = exposures @ exposures.T + np.diag(rng.uniform(0.008, 0.02, assets) ** 2)
    return rng.normal(0.0005, 0.0005, assets), 0.5 * (covariance + covariance.T)
