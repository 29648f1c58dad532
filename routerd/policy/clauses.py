"""The conditions of one constraint or rule as closures over the facts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from routerd.policy.facts import Facts, FactValue
from routerd.policy.model import Condition, OnMissing, Policy
from routerd.policy.predicates import Predicate, predicate
from routerd.policy.trace import ConditionTrace

Check: TypeAlias = Callable[[Facts], bool]


@dataclass(frozen=True, slots=True)
class CompiledCondition:
    """A condition with its predicate; ``check`` is all of it as one function."""

    condition: Condition
    holds: Predicate
    fallback: FactValue | None
    on_missing: bool
    check: Check

    def trace(self, facts: Facts) -> ConditionTrace:
        """The outcome with the value that led to it."""
        condition = self.condition
        value = facts.get(condition.fact, self.fallback)
        shown = tuple(value) if isinstance(value, list | tuple) else value
        outcome: Literal["matched", "not matched", "missing"]
        if condition.operator == "exists":
            outcome = "matched" if (value is not None) is condition.operands[0] else "not matched"
        elif value is None:
            outcome = "missing"
        else:
            outcome = "matched" if self.holds(value) else "not matched"
        holds = self.on_missing if outcome == "missing" else outcome == "matched"
        return ConditionTrace(condition.fact, condition.describe(), outcome, shown, holds)


@dataclass(frozen=True, slots=True)
class Clause:
    """The conditions of one constraint or rule, and all of them as one function."""

    conditions: tuple[CompiledCondition, ...]
    check: Check


def compile_clause(conditions: Sequence[Condition], on_missing: OnMissing, policy: Policy, self_uid: int) -> Clause:
    """Compile the ``when`` of one constraint or rule of ``policy`` for a daemon of user ``self_uid``."""
    compiled = tuple(_compile(condition, on_missing == "match", policy, self_uid) for condition in conditions)
    return Clause(compiled, _together([condition.check for condition in compiled]))


def _compile(condition: Condition, on_missing: bool, policy: Policy, self_uid: int) -> CompiledCondition:
    holds = predicate(condition, self_uid=self_uid) if condition.operator != "exists" else bool
    flag = condition.fact.removeprefix("flags.") if condition.fact.startswith("flags.") else ""
    fallback = policy.flags.get(flag)
    return CompiledCondition(condition, holds, fallback, on_missing, _check(condition, holds, fallback, on_missing))


def _check(condition: Condition, holds: Predicate, fallback: FactValue | None, on_missing: bool) -> Check:
    fact = condition.fact
    if condition.operator == "exists":
        wanted = bool(condition.operands[0])
        return lambda facts: (facts.get(fact, fallback) is not None) is wanted

    def check(facts: Facts) -> bool:
        value = facts.get(fact, fallback)
        return on_missing if value is None else holds(value)

    return check


def _together(checks: Sequence[Check]) -> Check:
    if not checks:
        return lambda facts: True
    if len(checks) == 1:
        return checks[0]
    if len(checks) == 2:
        first, second = checks
        return lambda facts: first(facts) and second(facts)

    def check(facts: Facts) -> bool:
        for single in checks:  # noqa: SIM110 - a generator costs half as much again
            if not single(facts):
                return False
        return True

    return check
