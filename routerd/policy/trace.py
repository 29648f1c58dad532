"""Why a policy said what it said: every constraint and rule with the facts that decided it. Travels over the wire."""

from __future__ import annotations

from typing import Literal, TypeAlias

from msgspec import Struct

TraceValue: TypeAlias = bool | int | float | str | tuple[str, ...] | None


class ConditionTrace(Struct, frozen=True, forbid_unknown_fields=True):
    """One condition. ``holds`` is the outcome after ``on_missing``; ``value`` is the fact's, ``None`` if missing."""

    fact: str
    test: str
    outcome: Literal["matched", "not matched", "missing"]
    value: TraceValue
    holds: bool


class ClauseTrace(Struct, frozen=True, forbid_unknown_fields=True):
    """One constraint, rule, or the default. ``selected``: it took effect (a rule may match after the one that won)."""

    kind: Literal["constraint", "rule", "default"]
    id: str
    place: str
    effect: str
    matched: bool
    selected: bool
    conditions: tuple[ConditionTrace, ...] = ()


class Trace(Struct, frozen=True, forbid_unknown_fields=True):
    """Every clause in the order of the policy, and the verdict that they add up to."""

    policy: str
    digest: str
    rule: str
    clauses: tuple[ClauseTrace, ...]
    prefer: tuple[str, ...]
    unless_slower_than: float | None
    objective: dict[str, float]
    split: str | None
