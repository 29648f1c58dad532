"""Factor returns against toraniko's own estimate, date by date on the same arrays."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import numpy as np

from benchmarks.references import Case, Missing

_NAME = "toraniko.factor_returns"
_WINSOR_FACTOR = 0.05
_NAMES = 3_000  # the target is for this many


def cases(quick: bool) -> list[Case | Missing]:
    missing = [library for library in ("toraniko", "polars") if find_spec(library) is None]
    if missing:
        return [Missing(_NAME, f"{' and '.join(missing)} not installed")]
    names = 300 if quick else _NAMES
    return [_case(names, dates, timed=min(dates, 2)) for dates in (1, 250)]


def _case(names: int, dates: int, timed: int) -> Case:
    from toraniko.math import winsorize
    from toraniko.model import _factor_returns

    rng = np.random.default_rng(0)
    sector = np.eye(11)[rng.integers(0, 11, names)]
    style = rng.standard_normal((dates, names, 3))
    returns = 0.01 * rng.standard_normal((dates, 1)) + 0.02 * rng.standard_normal((dates, names))
    market_cap = np.exp(22.0 + 1.5 * rng.standard_normal((dates, names)))

    def peer() -> list[tuple[Any, Any]]:
        return [
            _factor_returns(winsorize(returns[date], _WINSOR_FACTOR), market_cap[date], sector, style[date], True)
            for date in range(timed)
        ]

    def difference(outputs: Mapping[str, Any], expected: list[tuple[Any, Any]]) -> float:
        pairs = [
            (outputs[output][date], result[place])
            for date, result in enumerate(expected)
            for place, output in enumerate(("factor_returns", "residuals"))
        ]
        return max(float(np.linalg.norm(actual - wanted) / np.linalg.norm(wanted)) for actual, wanted in pairs)

    return Case(
        workload=_NAME,
        scale=f"{names} names × 11 sectors × 3 styles, {'a day' if dates == 1 else f'{dates} days'}",
        library="toraniko",
        params={"winsor_factor": _WINSOR_FACTOR},
        arrays={"returns": returns, "market_cap": market_cap, "sector": sector[None], "style": style},
        peer=peer,
        difference=difference,
        agreement=1e-11,
        peer_calls=dates / timed,
        target=20.0 if names == _NAMES else None,
    )
