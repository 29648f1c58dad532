"""Estimating the returns of equity factors, day by day."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from routerd.errors import InvalidArray
from routerd.interfaces import Array, Arrays, Dims, Example, Namespace, Parameter, Params, Workload
from routerd.workloads.splitting import boundaries, merge_along

if TYPE_CHECKING:
    import numpy as np

_NAME = "toraniko.factor_returns"
_BLOCKS = 8
_MANY_DATES = 16  # from here on, products that serve every date pay for themselves
_SECTORS, _STYLES = 11, 3
_DAILY = ("returns", "market_cap", "style")


def _factor_returns(namespace: Namespace, params: Params, arrays: Arrays) -> Arrays:
    xp, sector = namespace.xp, arrays["sector"]
    dates, names = arrays["returns"].shape
    shared = sector.shape[0] == 1
    products = (
        _pair_products(namespace, _with_market(namespace, sector)[0, :, :]) if shared and dates >= _MANY_DATES else None
    )
    step = max(1, _BLOCKS * namespace.block // names)
    factors, residuals = [], []
    for start in range(0, dates, step):
        stop = min(start + step, dates)
        returns = _winsorize(namespace, arrays["returns"][start:stop, :], params["winsor_factor"])
        weights = xp.sqrt(arrays["market_cap"][start:stop, :])
        groups = _with_market(namespace, sector if shared else sector[start:stop, :, :])
        sectors, rest = _regress_groups(namespace, groups, weights, returns, products)
        style = arrays["style"][start:stop, :, :]
        explained = rest if params["residualize_styles"] else returns
        styles = _regress_styles(namespace, style, weights, explained)
        rest = rest - xp.matmul(style, styles[:, :, None])[:, :, 0]
        factors.append(xp.concat((sectors, styles), axis=1))
        residuals.append(rest)
    return {"factor_returns": xp.concat(factors), "residuals": xp.concat(residuals)}


def _winsorize(namespace: Namespace, returns: Any, factor: float) -> Any:
    """The returns of each date clipped to their own quantiles ``factor`` and 1 − ``factor``, linearly interpolated."""
    if factor == 0.0:
        return returns
    xp = namespace.xp
    ordered = xp.sort(returns, axis=1)
    last = returns.shape[1] - 1
    position = factor * last
    below = math.floor(position)
    share = position - below
    above = min(below + 1, last)
    low = ordered[:, below] + share * (ordered[:, above] - ordered[:, below])
    high = ordered[:, last - below] - share * (ordered[:, last - below] - ordered[:, last - above])
    return xp.minimum(xp.maximum(returns, low[:, None]), high[:, None])


def _with_market(namespace: Namespace, sector: Any) -> Any:
    """A column of ones, the market's, before those of the sectors."""
    return namespace.xp.concat((namespace.zeros((*sector.shape[:2], 1)) + 1.0, sector), axis=2)


def _pair_products(namespace: Namespace, groups: Any) -> Any:
    """Products of every two columns (pairs, names): one product with the weights gives the normal matrices of all dates."""
    xp = namespace.xp
    columns = xp.permute_dims(groups, (1, 0))
    first, second = (namespace.from_host(index) for index in _pairs(groups.shape[1]))
    return xp.permute_dims(xp.take(columns, first, axis=0) * xp.take(columns, second, axis=0), (1, 0))


def _pairs(columns: int) -> tuple[Any, Any]:
    import numpy as np

    return np.triu_indices(columns)


def _regress_groups(
    namespace: Namespace, groups: Any, weights: Any, returns: Any, products: Any | None
) -> tuple[Any, Any]:
    """Returns of the market and the sectors (dates, 1 + S), those of the sectors summing to zero, and what they leave."""
    import numpy as np

    xp = namespace.xp
    columns = groups.shape[2]
    # The last sector's return is minus the sum of the others': f = C·g.
    constraint = np.eye(columns, columns - 1)
    constraint[-1, 1:] = -1.0
    weighted_returns = weights * returns
    if products is None:
        turned = xp.permute_dims(groups, (0, 2, 1))
        normal = namespace.to_host(xp.matmul(turned, groups * weights[:, :, None]))
        right = namespace.to_host(xp.matmul(turned, weighted_returns[:, :, None])[:, :, 0])
    else:
        packed = namespace.to_host(xp.matmul(weights, products))
        first, second = _pairs(columns)
        normal = np.empty((len(packed), columns, columns))
        normal[:, first, second] = packed
        normal[:, second, first] = packed
        right = namespace.to_host(xp.matmul(weighted_returns, groups[0, :, :]))
    free = _solve(constraint.T @ normal @ constraint, right @ constraint, _precision(namespace))
    factors = namespace.asarray(free @ constraint.T)
    if products is None:
        return factors, returns - xp.matmul(groups, factors[:, :, None])[:, :, 0]
    return factors, returns - xp.matmul(factors, xp.permute_dims(groups[0, :, :], (1, 0)))


def _regress_styles(namespace: Namespace, style: Any, weights: Any, returns: Any) -> Any:
    """Returns of the styles (dates, T)."""
    xp = namespace.xp
    turned = xp.permute_dims(style * weights[:, :, None], (0, 2, 1))
    normal = namespace.to_host(xp.matmul(turned, style))
    right = namespace.to_host(xp.matmul(turned, returns[:, :, None])[:, :, 0])
    return namespace.asarray(_solve(normal, right, _precision(namespace)))


def _solve(normal: Any, right: Any, precision: float) -> Any:
    """Least-squares solutions (dates, columns) of normal equations on the host, of least norm where columns depend.

    Columns are scaled to length 1 first, so that neither the unit of a style nor the weight of a small sector looks like
    dependence; what is left below ``precision`` is dependence.
    """
    import numpy as np

    lengths = np.sqrt(np.diagonal(normal, axis1=1, axis2=2))
    lengths = np.where(lengths > 0.0, lengths, 1.0)
    scaled = normal / (lengths[:, :, None] * lengths[:, None, :])
    if not np.isfinite(scaled).all():  # the inputs are too large for the precision; no decomposition could be found
        return np.full_like(right, np.nan)
    least = precision * normal.shape[1]
    try:
        np.linalg.cholesky(scaled - least * np.eye(normal.shape[1]))  # exists where every eigenvalue is above the least
        return np.linalg.solve(scaled, (right / lengths)[:, :, None])[:, :, 0] / lengths
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(scaled)
    kept = values > least
    turned = (right / lengths)[:, None, :] @ vectors
    parts = np.where(kept, turned[:, 0, :] / np.where(kept, values, 1.0), 0.0)
    solution = (vectors @ parts[:, :, None])[:, :, 0] / lengths
    for date in np.flatnonzero(~kept.all(axis=1)):
        # Along these directions nothing is determined; without the part in them the norm is the least.
        free, _ = np.linalg.qr(vectors[date][:, ~kept[date]] / lengths[date][:, None])
        solution[date] -= free @ (free.T @ solution[date])
    return solution


def _precision(namespace: Namespace) -> float:
    """Below this, relative to the columns' lengths, a normal matrix of some thousand names holds rounding alone."""
    return 64.0 * float(namespace.xp.finfo(namespace.real).eps)


def _check_dates(params: Params, dims: Dims) -> None:
    if dims["sector_dates"] not in (1, dims["D"]):
        raise InvalidArray(
            f"{_NAME}: sector has {dims['sector_dates']} dates, returns has {dims['D']}; "
            f"send one table for each date, or one for all",
            array="sector",
        )


def _split_dates(whole: Example, shares: Sequence[float]) -> list[Example]:
    arrays = whole.arrays
    dates = arrays["returns"].shape[0]
    daily = _DAILY if arrays["sector"].shape[0] == 1 else (*_DAILY, "sector")
    return [
        Example(whole.params, {**arrays, **{name: arrays[name][start:stop] for name in daily}})
        for start, stop in boundaries(dates, shares)
    ]


def _products(params: Params, dims: Dims) -> float:
    """What a name costs on one date: the pairs of its sectors in a matrix product, and passes over its other numbers."""
    columns = 1 + dims["S"]
    return float(dims["D"] * dims["N"] * (columns * (columns + 1) / 2 + 10 * (3 + dims["T"])))


def _returns_example(work: float, rng: np.random.Generator) -> Example:
    """A universe of up to 3 000 names in 11 sectors, each name in one, with size and two other scores as styles.

    In some of the small examples names move to another sector from date to date.
    """
    import numpy as np

    cost = _products({}, {"D": 1, "N": 1, "S": _SECTORS, "T": _STYLES})
    names = int(np.clip(1.6 * (work / cost) ** 0.5, 2 * _SECTORS, 3_000))
    dates = max(1, round(work / (cost * names)))
    moving = dates * names < 10_000 and rng.random() < 0.5
    sector = np.eye(_SECTORS)[rng.permuted(np.tile(np.arange(names) % _SECTORS, (dates if moving else 1, 1)), axis=1)]
    log_cap = 22.0 + 1.5 * rng.standard_normal(names)
    style = rng.standard_normal((dates, names, _STYLES))
    style[:, :, 0] = (log_cap - log_cap.mean()) / log_cap.std()
    sectors = 0.005 * rng.standard_normal((dates, _SECTORS))
    styles = 0.003 * rng.standard_normal((dates, _STYLES))
    returns = 0.01 * rng.standard_normal((dates, 1)) + 0.015 * rng.standard_normal((dates, names))
    returns += (sector @ sectors[:, :, None] + style @ styles[:, :, None])[:, :, 0]
    return Example(
        {},
        {
            "returns": returns,
            "market_cap": np.exp(log_cap + 0.02 * rng.standard_normal((dates, names))),
            "sector": sector,
            "style": style,
        },
    )


FACTOR_RETURNS = Workload(
    name=_NAME,
    summary="Returns of the market, sectors and styles, and what they leave of each name's, by weighted least squares.",
    source="toraniko 1.1.1, model.estimate_factor_returns; Menchero, Orr, Wang (2011), The Barra US Equity Model (USE4)",
    engines=("Toraniko", "Factor"),
    parameters=(
        Parameter(
            name="winsor_factor",
            type="float",
            unit="1",
            default=0.05,
            minimum=0.0,
            maximum=0.5,
            doc="returns beyond this quantile and its mirror image are clipped to them, date by date; 0 keeps all",
        ),
        Parameter(
            name="residualize_styles",
            type="bool",
            default=True,
            doc="whether styles explain what market and sectors leave, or the returns themselves",
        ),
    ),
    inputs=(
        Array(
            name="returns", shape=("D", "N"), unit="1 per period", doc="return of each name (column) on each date (row)"
        ),
        Array(
            name="market_cap",
            shape=("D", "N"),
            unit="currency",
            minimum=0.0,
            doc="market capitalisation, whose square root is a name's weight; 0 leaves the name out of the estimate",
        ),
        Array(
            name="sector",
            shape=("sector_dates", "N", "S"),
            unit="1",
            doc="membership of each name in each sector, usually 0 or 1; one table for each date, or one for all of them",
        ),
        Array(name="style", shape=("D", "N", "T"), unit="1", doc="score of each name in each style"),
    ),
    outputs=(
        Array(
            name="factor_returns",
            shape=("D", "factors"),
            unit="1 per period",
            doc="columns market, sectors, styles: factors = 1 + S + T; those of the sectors sum to 0. Of factors that a "
            "date cannot tell apart (an empty sector), the returns of least norm",
        ),
        Array(
            name="residuals",
            shape=("D", "N"),
            unit="1 per period",
            doc="what the factors leave of each winsorised return",
        ),
    ),
    kernel=_factor_returns,
    work=_products,
    work_unit="products",
    example=_returns_example,
    work_range=(1e4, 2e8),
    tolerance=1e-5,
    variants=({}, {"winsor_factor": 0.0}, {"residualize_styles": False}),
    batch_dim="D",
    needs=frozenset({"sort"}),
    check_task=_check_dates,
    split=_split_dates,
    merge=merge_along({"factor_returns": 0, "residuals": 0}),
)

WORKLOADS = (FACTOR_RETURNS,)
