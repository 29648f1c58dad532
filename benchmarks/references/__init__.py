"""The named libraries that the workloads are measured against: a file for each family, a list of cases in each."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Case:
    """One workload at its real scale, and the same answer from somebody else's library.

    ``peer`` computes the reference once, on the same data; where doing all of it takes too long it does an equal share and
    ``peer_calls`` says how many such calls make the whole. ``difference`` measures how far the workload's outputs are from
    what ``peer`` returned, relative to it; beyond ``agreement`` the two do not compute the same and no ratio is printed.
    ``target`` is how many times faster than the peer the workload should be; below 1 it may be slower.
    """

    workload: str
    scale: str
    library: str
    params: Mapping[str, Any]
    arrays: Mapping[str, Any] = field(default_factory=dict)
    peer: Callable[[], Any]
    difference: Callable[[Mapping[str, Any], Any], float]
    agreement: float = 1e-9
    peer_calls: float = 1.0
    target: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Missing:
    """A case that cannot be measured here, and why."""

    workload: str
    reason: str


def all_cases(quick: bool) -> list[Case | Missing]:
    """Every family's cases, at a small scale where ``quick``."""
    found: list[Case | Missing] = []
    for module in sorted(one.name for one in pkgutil.iter_modules(__path__)):
        found += importlib.import_module(f"{__name__}.{module}").cases(quick)
    return found
