"""The catalogue of computations. One file for each family; :func:`builtin_workloads` gathers them."""

from __future__ import annotations

from functools import cache
from importlib import import_module

from routerd.interfaces import Workload

FAMILIES = (
    "analytics",
    "collateral",
    "execution",
    "factor",
    "features",
    "indicators",
    "linalg",
    "marketdata",
    "microstructure",
    "ml",
    "options",
    "portfolio",
    "risk",
    "strategy",
    "toraniko",
    "websocket",
)


@cache
def builtin_workloads() -> tuple[Workload, ...]:
    """Every workload that ships with routerd, ordered by name."""
    families = [import_module(f"{__name__}.{family}") for family in FAMILIES]
    return tuple(sorted((one for family in families for one in family.WORKLOADS), key=lambda workload: workload.name))
