"""The catalogue of computations. One file for each family; :func:`builtin_workloads` gathers them."""

from __future__ import annotations

from routerd.interfaces import Workload


def builtin_workloads() -> tuple[Workload, ...]:
    """Every workload that ships with routerd, ordered by name."""
    from routerd.workloads import analytics, indicators, linalg, ml, options, risk

    families = (analytics, indicators, linalg, ml, options, risk)
    return tuple(sorted((w for family in families for w in family.WORKLOADS), key=lambda workload: workload.name))
