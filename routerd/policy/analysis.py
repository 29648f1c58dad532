"""Warnings about clauses that can never take effect: unreachable, shadowed or contradictory ones.

The analysis is sound, not complete: what it reports is certain, but it does not find everything.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from routerd.policy.checker import glob_regex, is_glob
from routerd.policy.facts import Vocabulary
from routerd.policy.model import Condition, Constraint, Rule
from routerd.policy.predicates import predicate
from routerd.policy.source import Problems

_NO_USER = -1  # no process has this id, so that ``self`` equals no number in the file


def find_idle_clauses(
    constraints: Sequence[Constraint], rules: Sequence[Rule], vocabulary: Vocabulary, warnings: Problems
) -> None:
    """Add a warning for every clause that can never take effect, at its place."""
    idle: set[str] = set()
    clauses: list[Constraint | Rule] = [*constraints, *rules]
    for clause in clauses:
        reason = _contradiction(clause, vocabulary)
        if reason is not None:
            idle.add(clause.id)
            kind = "constraint" if isinstance(clause, Constraint) else "rule"
            warnings.add(clause.place, f"{kind} {clause.id} can never match: {reason}")
    for index, rule in enumerate(rules):
        if rule.id in idle:
            continue
        for earlier in rules[:index]:
            if not _covers(earlier, rule):
                continue
            if not earlier.when:
                reason = f"rule {earlier.id} before it matches always"
            else:
                reason = f"rule {earlier.id} before it matches whenever it does"
            warnings.add(
                rule.place, f"rule {rule.id} is never reached: {reason} (line {earlier.place.line}); move it up"
            )
            break


class _Range(NamedTuple):
    """Numbers from ``low`` to ``high``, each included or not."""

    low: float
    low_included: bool
    high: float
    high_included: bool

    def within(self, other: _Range) -> bool:
        low_fits = self.low > other.low or (self.low == other.low and other.low_included >= self.low_included)
        high_fits = self.high < other.high or (self.high == other.high and other.high_included >= self.high_included)
        return low_fits and high_fits

    def meet(self, other: _Range) -> _Range:
        low = max((self.low, not self.low_included), (other.low, not other.low_included))
        high = min((self.high, self.high_included), (other.high, other.high_included))
        return _Range(low[0], not low[1], high[0], high[1])

    @property
    def is_empty(self) -> bool:
        return self.low > self.high or (self.low == self.high and not (self.low_included and self.high_included))


def _range(condition: Condition) -> _Range | None:
    """The values that a numeric condition accepts, where they are one interval."""
    if condition.type != "number" or condition.operator in ("in", "not_in", "exists"):
        return None
    bounds: list[Any] = list(condition.operands)
    first, last = float(bounds[0]), float(bounds[-1])
    return {
        "gt": _Range(first, False, math.inf, True),
        "gte": _Range(first, True, math.inf, True),
        "lt": _Range(-math.inf, True, first, False),
        "lte": _Range(-math.inf, True, first, True),
    }.get(condition.operator, _Range(first, True, last, True))


def _covers(earlier: Rule, later: Rule) -> bool:
    """Whether ``earlier`` matches every task that ``later`` matches."""
    if later.on_missing == "match" and earlier.on_missing != "match" and earlier.when:
        return False
    return all(any(_implies(given, wanted) for given in later.when) for wanted in earlier.when)


def _implies(given: Condition, wanted: Condition) -> bool:
    """Whether ``wanted`` holds for every present value of the fact for which ``given`` does."""
    if given.fact != wanted.fact:
        return False
    if (given.operator, given.operands) == (wanted.operator, wanted.operands):
        return True
    if "exists" in (given.operator, wanted.operator):
        return False
    accepted, allowed = _range(given), _range(wanted)
    if accepted is not None and allowed is not None:
        return accepted.within(allowed)
    if given.operator == wanted.operator == "not_in":
        return set(wanted.operands) <= set(given.operands)
    values = _listed(given)
    if values is None:
        return False
    if given.type == "uid" or given.fact == "workload.engine":
        return wanted.operator in ("is", "in") and set(values) <= set(wanted.operands)
    return _all_pass(values, wanted)


def _listed(condition: Condition) -> tuple[Any, ...] | None:
    """The only values that the condition accepts, where they can be listed."""
    if condition.operator not in ("is", "in") or any(isinstance(v, str) and is_glob(v) for v in condition.operands):
        return None
    return condition.operands


def _all_pass(values: Iterable[Any], condition: Condition) -> bool:
    test = predicate(condition, self_uid=_NO_USER)
    return all(test(value) for value in values)


def _contradiction(clause: Constraint | Rule, vocabulary: Vocabulary) -> str | None:
    """Why no task can match, or ``None`` if one might."""
    if clause.on_missing == "match":  # a missing fact would make any condition hold
        return None
    by_fact: dict[str, list[Condition]] = {}
    for condition in clause.when:
        if condition.operator != "exists":
            by_fact.setdefault(condition.fact, []).append(condition)
    for fact, conditions in by_fact.items():
        if any(c.operator == "exists" and c.fact == fact and c.operands == (False,) for c in clause.when):
            return f"{fact} is asked to be missing and compared as well"
        if _is_empty(fact, conditions):
            return f"no value of {fact} meets {' and '.join(condition.describe() for condition in conditions)}"
    return _no_workload(by_fact, vocabulary)


def _is_empty(fact: str, conditions: list[Condition]) -> bool:
    ranges = [found for found in map(_range, conditions) if found is not None]
    if ranges:
        common = ranges[0]
        for other in ranges[1:]:
            common = common.meet(other)
        if common.is_empty:
            return True
    if conditions[0].type == "uid" or fact == "workload.engine":
        return False
    values = next((listed for listed in map(_listed, conditions) if listed is not None), None)
    return values is not None and not any(all(_all_pass([v], c) for c in conditions) for v in values)


def _no_workload(by_fact: dict[str, list[Condition]], vocabulary: Vocabulary) -> str | None:
    names = by_fact.get("workload.name", [])
    families = by_fact.get("workload.family", [])
    if not (names and families) or _has_idle_glob([*names, *families], vocabulary):
        return None
    for workload in vocabulary.workloads:
        family = workload.split(".", 1)[0]
        if all(_all_pass([workload], c) for c in names) and all(_all_pass([family], c) for c in families):
            return None
    return "no workload has this name and this family"


def _has_idle_glob(conditions: list[Condition], vocabulary: Vocabulary) -> bool:
    """Whether a glob that matches nothing was already reported."""
    for condition in conditions:
        known = vocabulary.names_for(condition.fact) or frozenset()
        for value in condition.operands:
            if isinstance(value, str) and is_glob(value) and not any(glob_regex(value).match(name) for name in known):
                return True
    return False
