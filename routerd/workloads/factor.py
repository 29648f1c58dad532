"""Factor risk models: where the risk of portfolios comes from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from routerd.errors import InvalidArray
from routerd.interfaces import Array, Arrays, Dims, Example, HostArrays, Join, Namespace, Params, Workload
from routerd.workloads.splitting import merge_along, split_along
from routerd.workloads.symmetry import check_symmetric

if TYPE_CHECKING:
    import numpy as np

_NAME = "factor.risk_decompose"
_ROUNDING = 1e-6  # what a covariance may miss by after a trip through float32
_FACTORS = 40

_OUTPUTS = (
    "volatility",
    "factor_share",
    "specific_share",
    "marginal_contribution",
    "percentage_contribution",
    "factor_exposure",
    "factor_contribution",
)


def _risk_decompose(namespace: Namespace, params: Params, arrays: Arrays) -> Arrays:
    """From x = wB: wᵀΣw = xFxᵀ + Σ D w² and Σw = B(Fx) + D w, so Σ is never formed."""
    xp, weights = namespace.xp, arrays["weights"]
    exposures, specific = arrays["exposures"], arrays["specific_variance"]
    zero, one = namespace.zeros(()), namespace.zeros(()) + 1.0
    exposure = namespace.matmul(weights, exposures)
    loaded = namespace.matmul(exposure, arrays["factor_covariance"])
    marginal = namespace.matmul(loaded, xp.permute_dims(exposures, (1, 0)), into="marginal_contribution")
    own = weights * specific
    marginal += own
    own *= weights
    specific_variance = xp.sum(own, axis=1)
    loaded *= exposure
    variance = xp.sum(loaded, axis=1) + specific_variance
    # Rounding can bring the variance of a nearly riskless portfolio below zero.
    volatility = xp.sqrt(xp.maximum(variance, zero))
    risky = volatility > 0.0
    inverse = xp.where(risky, one / xp.where(risky, volatility, one), zero)
    marginal *= inverse[:, None]
    percentage = weights * marginal
    percentage *= inverse[:, None]
    square = inverse * inverse
    loaded *= square[:, None]
    return {
        "volatility": volatility,
        "factor_share": xp.sum(loaded, axis=1),
        "specific_share": specific_variance * square,
        "marginal_contribution": marginal,
        "percentage_contribution": percentage,
        "factor_exposure": exposure,
        "factor_contribution": loaded,
    }


def _check_covariance(params: Params, arrays: HostArrays) -> None:
    import numpy as np

    covariance = np.asarray(arrays["factor_covariance"], dtype=np.float64)
    check_symmetric(_NAME, "factor_covariance", covariance)
    trace = float(np.trace(covariance))
    try:
        np.linalg.cholesky(covariance + (_ROUNDING * trace + np.finfo(np.float64).tiny) * np.eye(len(covariance)))
    except np.linalg.LinAlgError:
        least = float(np.linalg.eigvalsh(covariance)[0])
        raise InvalidArray(
            f"{_NAME}: factor_covariance must be positive semidefinite, its least eigenvalue is {least:.3g}; "
            f"clip its negative eigenvalues to zero, or shrink it towards its diagonal",
            array="factor_covariance",
        ) from None


def _multiply_adds(params: Params, dims: Dims) -> float:
    """Two products with the exposures and one with the covariance; an asset's own terms cost about as much as ten factors."""
    portfolios, assets, factors = dims["P"], dims["N"], dims["K"]
    return 4.0 * portfolios * (assets * (factors + 10.0) + factors * factors)


def _risk_example(work: float, rng: np.random.Generator) -> Example:
    """Long-only portfolios in a market with one strong factor and many weak ones, all per year."""
    import numpy as np

    factors = int(np.clip((work / 400.0) ** 0.5, 2, _FACTORS))
    assets = int(np.clip(work / (4.0 * (factors + 10.0)) - factors * factors / (factors + 10.0), 4, 3_000))
    portfolios = max(1, round(work / (4.0 * (assets * (factors + 10.0) + factors * factors))))
    volatilities = np.concatenate([[0.16], rng.uniform(0.02, 0.06, factors - 1)])
    loadings = 0.5 * rng.standard_normal((factors, 3))
    covariance = loadings @ loadings.T + np.eye(factors)
    deviations = volatilities / np.sqrt(np.diagonal(covariance))
    exposures = rng.standard_normal((assets, factors))
    exposures[:, 0] = rng.uniform(0.6, 1.4, assets)
    weights = rng.uniform(0.5, 1.5, (portfolios, assets))
    return Example(
        {},
        {
            "exposures": exposures,
            "factor_covariance": deviations[:, None] * covariance * deviations,
            "specific_variance": rng.uniform(0.15, 0.5, assets) ** 2,
            "weights": weights / weights.sum(axis=1, keepdims=True),
        },
    )


RISK_DECOMPOSE = Workload(
    name=_NAME,
    summary="Volatility of portfolios under a factor model Σ = BFBᵀ + D, and what factors and assets contribute to it.",
    source="Grinold, Kahn (2000), Active Portfolio Management, chapter 3; contributions by Euler's theorem: "
    "Tasche (1999), Risk contributions and performance measurement",
    engines=("Factor", "Risk"),
    parameters=(),
    inputs=(
        Array(name="exposures", shape=("N", "K"), unit="1", doc="B: exposure of each asset (row) to each factor"),
        Array(
            name="factor_covariance",
            shape=("K", "K"),
            unit="1 per period",
            doc="F: covariance of the factors' returns, symmetric and positive semidefinite",
        ),
        Array(
            name="specific_variance",
            shape=("N",),
            unit="1 per period",
            minimum=0.0,
            doc="D: variance of each asset's return that no factor explains",
        ),
        Array(
            name="weights",
            shape=("P", "N"),
            unit="1",
            doc="one portfolio a row (a single one is (1, N)): share in each asset, negative is short; active weights "
            "give tracking error",
        ),
    ),
    outputs=(
        Array(
            name="volatility",
            shape=("P",),
            unit="1 per √period",
            doc="standard deviation of each portfolio's return; where it is 0, every share and contribution is 0",
        ),
        Array(name="factor_share", shape=("P",), unit="share of variance", doc="variance that the factors explain"),
        Array(name="specific_share", shape=("P",), unit="share of variance", doc="the rest: 1 − factor_share"),
        Array(
            name="marginal_contribution",
            shape=("P", "N"),
            unit="1 per √period",
            doc="derivative of volatility by each weight; weighted with the weights they sum to volatility",
        ),
        Array(
            name="percentage_contribution",
            shape=("P", "N"),
            unit="share of variance",
            doc="weight · marginal contribution ÷ volatility; they sum to 1",
        ),
        Array(name="factor_exposure", shape=("P", "K"), unit="1", doc="Bᵀw: exposure of each portfolio to each factor"),
        Array(
            name="factor_contribution",
            shape=("P", "K"),
            unit="share of variance",
            doc="exposure · covariance with the portfolio ÷ variance; they sum to factor_share",
        ),
    ),
    kernel=_risk_decompose,
    work=_multiply_adds,
    work_unit="floating-point operations",
    example=_risk_example,
    work_range=(1e3, 3e9),
    tolerance=1e-5,
    batch_dim="P",
    matmul_bound=True,
    check=_check_covariance,
    split=split_along({"weights": 0}),
    merge=merge_along(dict.fromkeys(_OUTPUTS, 0)),
    join=Join(inputs={"weights": 0}, outputs=dict.fromkeys(_OUTPUTS, 0)),
)

WORKLOADS = (RISK_DECOMPOSE,)
