"""What a policy says before everything is known, and where its answers change: what a table of decisions is made from.

A condition on a fact that is not known yet is *undecided*. A clause is false as soon as one of its conditions is, true if
all are, and undecided otherwise (Kleene's strong three-valued logic), so whatever is decided here stays so when the
facts become known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from routerd.policy.clauses import Clause, CompiledCondition
from routerd.policy.facts import Facts, FactValue
from routerd.types import Scalar


@dataclass(frozen=True, slots=True)
class Limit:
    """What one matching constraint lets through."""

    allow: frozenset[str]
    deny: frozenset[str]
    denied: str
    not_allowed: str

    def objection(self, backend: str, device_kind: str) -> str | None:
        """Why ``backend`` on ``device_kind`` may not take the task, or ``None`` if it may."""
        if backend in self.deny or device_kind in self.deny:
            return self.denied
        if self.allow and backend not in self.allow and device_kind not in self.allow:
            return self.not_allowed
        return None


def decided_rule(rules: Sequence[Clause], facts: Facts, unknown: Callable[[str], bool]) -> int | None:
    """Index of the first rule that matches (``len(rules)`` for the default); ``None`` if an undecided one comes first."""
    for index, rule in enumerate(rules):
        outcome = _outcome(rule, facts, unknown)
        if outcome is None:
            return None
        if outcome:
            return index
    return len(rules)


def decided_constraints(
    constraints: Sequence[Clause],
    limits: Sequence[Limit],
    facts: Facts,
    unknown: Callable[[str], bool],
    backends: Sequence[tuple[str, str]],
) -> int | None:
    """The constraints that apply, as a bit mask; ``None`` if an undecided one could bar one of ``backends``.

    It could not if it lets that backend pass, or if one that surely applies and stands before it bars the backend anyway.
    """
    mask = 0
    free = list(backends)
    for bit, (constraint, limit) in enumerate(zip(constraints, limits, strict=True)):
        outcome = _outcome(constraint, facts, unknown)
        if outcome is False:
            continue
        barred = [backend for backend in free if limit.objection(*backend) is not None]
        if outcome is None:
            if barred:
                return None
            continue
        mask |= 1 << bit
        free = [backend for backend in free if backend not in barred]
    return mask


def _outcome(clause: Clause, facts: Facts, unknown: Callable[[str], bool]) -> bool | None:
    undecided = False
    for condition in clause.conditions:
        if unknown(condition.condition.fact):
            undecided = True
        elif not condition.check(facts):
            return False
    return None if undecided else True


def pieces(conditions: Iterable[CompiledCondition], fact: str) -> tuple[float, ...]:
    """Where the pieces of [0, ∞) start, ascending from 0, on which each condition on the number ``fact`` keeps its outcome.

    Exact for every float: a bound that a whole number too large for a float gives lies between two of them.
    """
    starts = {0.0}
    for compiled in conditions:
        condition = compiled.condition
        if condition.fact == fact and condition.operator != "exists":
            starts.update(_changes(condition.operator, condition.operands))
    return tuple(sorted(start for start in starts if 0.0 <= start < math.inf))


def _changes(operator: str, operands: Sequence[Scalar]) -> list[float]:
    """The first floats of the ranges into which a numeric test divides the line."""
    numbers = [operand for operand in operands if not isinstance(operand, str)]
    if operator in ("gte", "lt"):
        return [_from(numbers[0])]
    if operator in ("gt", "lte"):
        return [_above(numbers[0])]
    if operator == "between":
        return [_from(numbers[0]), _above(numbers[1])]
    return [edge for number in numbers for edge in (_from(number), _above(number))]


def _from(number: float) -> float:
    """The least float that is not below ``number``."""
    nearest = float(number)
    return nearest if nearest >= number else math.nextafter(nearest, math.inf)


def _above(number: float) -> float:
    """The least float above ``number``."""
    nearest = float(number)
    return nearest if nearest > number else math.nextafter(nearest, math.inf)


def outcomes(conditions: Iterable[CompiledCondition], facts: Mapping[str, FactValue | None]) -> int:
    """The outcome of every condition as one number, a bit each."""
    key = 0
    for bit, condition in enumerate(conditions):
        if condition.check(facts):
            key |= 1 << bit
    return key
