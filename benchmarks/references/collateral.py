"""Haircuts against pandas; sensitivities-based margins against the dense quadratic form."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import numpy as np

from benchmarks.references import Case, Missing


def cases(quick: bool) -> list[Case | Missing]:
    found: list[Case | Missing] = []
    if find_spec("pandas") is None:
        found.append(Missing("collateral.haircut", "pandas is not installed"))
    else:
        found += [_haircut(5_000), *([] if quick else [_haircut(1_000_000)])]
    found.append(_margin(50 if quick else 1_000))
    return found


def _haircut(positions: int) -> Case:
    import pandas as pd

    rng = np.random.default_rng(0)
    accounts = positions // 50
    columns = {
        "quantity": np.round(rng.lognormal(5.0, 1.0, positions)),
        "price": rng.lognormal(4.0, 0.6, positions),
        "haircut": rng.uniform(0.0, 0.5, positions),
        "fx": rng.uniform(0.5, 1.5, positions),
        "account": rng.integers(0, accounts, positions),
    }
    frame = pd.DataFrame(columns)

    def peer() -> Any:
        market = frame["quantity"] * frame["price"] * frame["fx"]
        values = pd.DataFrame({"collateral_value": market * (1.0 - frame["haircut"]), "market_value": market})
        return values.groupby(frame["account"]).sum()

    def difference(outputs: Mapping[str, Any], sums: Any) -> float:
        return max(_distance(outputs[name][sums.index], sums[name].to_numpy()) for name in outputs)

    return Case(
        workload="collateral.haircut",
        scale=f"{positions:,} positions".replace(",", "\u202f"),
        library="pandas groupby",
        params={"num_accounts": accounts},
        arrays=columns,
        peer=peer,
        difference=difference,
        agreement=1e-12,
    )


def _margin(accounts: int) -> Case:
    """Ten buckets of twenty factors. Correlations between buckets are low, so that no account needs the alternative sums."""
    rng = np.random.default_rng(1)
    buckets, members = 10, 20
    bucket = np.repeat(np.arange(buckets), members)
    loadings = rng.uniform(0.4, 0.6, bucket.size)
    rho = np.outer(loadings, loadings)
    np.fill_diagonal(rho, 1.0)
    gamma = np.full((buckets, buckets), 0.02)
    sensitivities = 1e5 * rng.standard_normal((accounts, bucket.size))
    risk_weights = rng.uniform(0.3, 0.7, bucket.size)
    scenarios = (
        lambda table: np.maximum(2.0 * table - 1.0, 0.75 * table),
        lambda table: table,
        lambda table: np.minimum(1.25 * table, 1.0),
    )
    omegas = [
        np.where(bucket[:, None] == bucket, scenario(rho), scenario(gamma)[np.ix_(bucket, bucket)])
        for scenario in scenarios
    ]

    def peer() -> Any:
        weighted = sensitivities * risk_weights
        return np.stack([np.sqrt(np.sum((weighted @ omega) * weighted, axis=1)) for omega in omegas], axis=1)

    return Case(
        workload="collateral.margin_sba",
        scale=f"{accounts} accounts × {bucket.size} factors",
        library="NumPy √(WSᵀ·Ω·WS)",
        params={},
        arrays={
            "sensitivities": sensitivities,
            "risk_weights": risk_weights,
            "bucket": bucket,
            "rho": rho,
            "gamma": gamma,
        },
        peer=peer,
        difference=lambda outputs, margins: _distance(outputs["scenario_margins"], margins),
        agreement=1e-12,
        note="the dense Ω of each scenario is built beforehand and not timed",
    )


def _distance(actual: Any, expected: Any) -> float:
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))
