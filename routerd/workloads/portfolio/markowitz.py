"""Least variance for a wanted return, and the efficient frontier."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from routerd.errors import InvalidArray, InvalidParameter
from routerd.interfaces import Array, Arrays, Dims, Example, HostArrays, Namespace, Parameter, Params, Workload
from routerd.workloads.portfolio.moments import COVARIANCE, EXPECTED_RETURNS, factor_model
from routerd.workloads.symmetry import check_symmetric

if TYPE_CHECKING:
    import numpy as np

_NAME = "portfolio.markowitz"
# What rounding may take from a sum of weights or of weighted returns.
_ROUNDING = 1e-12
# Shares of its variance that are added to each asset's own, the least that leaves the covariance with this margin.
_LOADINGS = (0.0, 1e-9, 1e-8, 1e-7, 1e-6)
_MARGIN = 5e-10


def _markowitz(namespace: Namespace, params: Params, arrays: Arrays) -> Arrays:
    import numpy as np

    from routerd.workloads.portfolio.critical_line import turning_points

    returns, covariance = arrays["expected_returns"], arrays["covariance"]
    count, target = params["frontier_points"], params.get("target_return", -np.inf)
    loaded = _positive_definite(covariance)
    corners = turning_points(loaded, returns, params["maximum_weight"], target if count == 0 else -np.inf)
    attained = corners @ returns
    targets = np.linspace(attained[-1], attained[0], count)
    portfolios = _between(corners, attained, np.concatenate(([target], targets)))
    np.clip(portfolios, 0.0, params["maximum_weight"], out=portfolios)
    variances = np.sum((portfolios @ covariance) * portfolios, axis=1)
    volatilities = np.sqrt(np.maximum(variances, 0.0))
    reached = portfolios @ returns
    return {
        "weights": portfolios[0],
        "expected_return": reached[0],
        "volatility": volatilities[0],
        "frontier_return": reached[1:],
        "frontier_volatility": volatilities[1:],
        "frontier_weights": portfolios[1:],
    }


def _between(
    corners: np.ndarray[Any, Any], attained: np.ndarray[Any, Any], targets: np.ndarray[Any, Any]
) -> np.ndarray[Any, Any]:
    """Efficient portfolios with the wanted returns, or the nearest; ``attained`` are those of the turning points, falling."""
    import numpy as np

    after = np.clip(np.searchsorted(-attained, -targets), 1, max(1, len(corners) - 1))
    before, after = after - 1, np.minimum(after, len(corners) - 1)
    gap = attained[before] - attained[after]
    share = np.divide(attained[before] - targets, gap, out=np.zeros_like(targets), where=gap > 0.0)
    share = np.clip(share, 0.0, 1.0)[:, None]
    return np.asarray((1.0 - share) * corners[before] + share * corners[after])


def _positive_definite(covariance: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The covariance with as little added to its diagonal as makes it positive definite beyond doubt.

    So a singular one (fewer observations than assets, assets that move as one) has a single answer, which spreads weight
    over what is equal. An asset without variance counts as the least varying other. Raises ``InvalidArray`` where it is
    not positive semidefinite.
    """
    import numpy as np

    symmetric = 0.5 * (covariance + covariance.T)
    variances = symmetric.diagonal()
    positive = variances[variances > 0.0]
    variances = np.where(variances > 0.0, variances, positive.min() if positive.size else 1.0)
    for loading in _LOADINGS:
        try:
            np.linalg.cholesky(symmetric + np.diag((loading - _MARGIN) * variances))
        except np.linalg.LinAlgError:
            continue
        return np.asarray(symmetric + np.diag(loading * variances))
    least = float(np.linalg.eigvalsh(symmetric)[0])
    raise InvalidArray(
        f"{_NAME}: covariance is not positive semidefinite: its least eigenvalue is {least:.3g}; estimate it from complete "
        f"observations, or shrink it towards its diagonal",
        array="covariance",
    )


def _check_task(params: Params, dims: Dims) -> None:
    assets, maximum = dims["N"], params["maximum_weight"]
    if assets * maximum < 1.0 - _ROUNDING:
        raise InvalidParameter(
            f"{_NAME}: {assets} assets of at most {maximum:g} each make {assets * maximum:g}, and weights must sum to 1; "
            f"allow at least {1.0 / assets:.6g} or send more assets",
            parameter="maximum_weight",
        )


def _check(params: Params, arrays: HostArrays) -> None:
    import numpy as np

    check_symmetric(_NAME, "covariance", arrays["covariance"])
    _positive_definite(np.asarray(arrays["covariance"], dtype=np.float64))
    if "target_return" in params:
        returns = np.sort(np.asarray(arrays["expected_returns"], dtype=np.float64))[::-1]
        maximum = params["maximum_weight"]
        attainable = float(returns @ np.clip(1.0 - maximum * np.arange(len(returns)), 0.0, maximum))
        if params["target_return"] > attainable + _ROUNDING * float(np.abs(returns).max()):
            raise InvalidParameter(
                f"{_NAME}: no portfolio has an expected return of {params['target_return']:.9g}; with weights of at most "
                f"{maximum:g} the largest attainable is {attainable:.9g}",
                parameter="target_return",
            )


def _multiply_adds(params: Params, dims: Dims) -> float:
    """The free set changes about once for every two assets, each time at a fixed cost and some products with the covariance."""
    squared = float(dims["N"]) ** 2
    return float(dims["N"] * (0.5 * squared + 1e5) + 0.1 * params["frontier_points"] * squared) / 1e3


def _example(work: float, rng: np.random.Generator) -> Example:
    import numpy as np

    assets = 2
    while _multiply_adds({"frontier_points": 0}, {"N": assets + 1}) <= work:
        assets += 1
    returns, covariance = factor_model(assets, rng)
    target = float(np.quantile(returns, rng.uniform(0.6, 0.95)))
    return Example({"target_return": target}, {"expected_returns": returns, "covariance": covariance})


MARKOWITZ = Workload(
    name=_NAME,
    summary="The portfolio of least variance with at least a wanted return, and the efficient frontier; long only.",
    source="Markowitz (1952), Portfolio Selection, Journal of Finance 7(1); critical line algorithm: Markowitz (1956), "
    "Niedermayer, Niedermayer (2010), Bailey, López de Prado (2013), Algorithms 6(1)",
    engines=("Portfolio",),
    parameters=(
        Parameter(
            name="target_return",
            type="float",
            unit="1 per period",
            minimum=-1e6,
            maximum=1e6,
            optional=True,
            doc="expected return to reach at least; left out, the least variance of all counts",
        ),
        Parameter(
            name="maximum_weight",
            type="float",
            unit="share",
            default=1.0,
            minimum=0.0,
            above_minimum=True,
            maximum=1.0,
            doc="largest weight of any one asset; assets × maximum_weight must reach 1",
        ),
        Parameter(
            name="frontier_points",
            type="int",
            default=0,
            minimum=0,
            maximum=1_000,
            doc="portfolios along the efficient frontier, equally spaced in return; 0 leaves the frontier out",
        ),
    ),
    inputs=(
        EXPECTED_RETURNS,
        COVARIANCE,
    ),
    outputs=(
        Array(name="weights", shape=("N",), unit="share", doc="0 to maximum_weight, together 1"),
        Array(name="expected_return", shape=(), unit="1 per period", doc="μᵀw of the weights"),
        Array(name="volatility", shape=(), unit="1 per √period", doc="√(wᵀΣw) of the weights"),
        Array(
            name="frontier_return",
            shape=("frontier_points",),
            unit="1 per period",
            doc="expected returns from that of the least variance to the largest attainable",
        ),
        Array(
            name="frontier_volatility",
            shape=("frontier_points",),
            unit="1 per √period",
            doc="least volatility with each of these returns",
        ),
        Array(
            name="frontier_weights",
            shape=("frontier_points", "N"),
            unit="share",
            doc="weights of each of these, by rows",
        ),
    ),
    kernel=_markowitz,
    work=_multiply_adds,
    work_unit="thousand multiply-adds",
    example=_example,
    work_range=(1e3, 5e5),
    tolerance=1e-6,
    variants=({}, {"frontier_points": 20}, {"frontier_points": 5, "maximum_weight": 0.5}),
    check_task=_check_task,
    check=_check,
    cpu_only=True,
)
