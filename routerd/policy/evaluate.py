"""A policy compiled to closures: facts in, verdict out, in about a microsecond."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, TypeAlias

from routerd.policy.facts import Facts, FactValue
from routerd.policy.model import Choice, Condition, Constraint, OnMissing, Policy, Rule
from routerd.policy.predicates import Predicate, predicate
from routerd.policy.trace import ClauseTrace, ConditionTrace, Trace
from routerd.types import Scalar

_Check: TypeAlias = Callable[[Facts], bool]
_KEPT_VERDICTS = 4096


@dataclass(frozen=True, slots=True)
class Limit:
    """What one matching constraint lets through."""

    allow: frozenset[str]
    deny: frozenset[str]
    denied: str
    not_allowed: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the policy says about one task: which backends may take it, and how to rank those.

    ``rule`` names the rule with its file and line; ``prefer`` holds device kinds or backends, best first;
    ``objective`` weights sum to 1; ``split`` is ``"auto"``, ``"never"`` or ``None`` where the policy is silent.
    """

    rule: str
    prefer: tuple[str, ...]
    unless_slower_than: float | None
    objective: Mapping[str, float]
    split: str | None
    limits: tuple[Limit, ...]

    def objection(self, backend: str, device_kind: str) -> str | None:
        """Why ``backend`` on ``device_kind`` may not take the task, or ``None`` if it may."""
        for limit in self.limits:
            if backend in limit.deny or device_kind in limit.deny:
                return limit.denied
            if limit.allow and backend not in limit.allow and device_kind not in limit.allow:
                return limit.not_allowed
        return None


@dataclass(frozen=True, slots=True)
class _Test:
    """A condition with its compiled predicate."""

    condition: Condition
    holds: Predicate
    fallback: FactValue | None
    on_missing: bool

    def trace(self, facts: Facts) -> ConditionTrace:
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
class _Clause:
    """The tests of one constraint or rule, and all of them as one function."""

    tests: tuple[_Test, ...]
    check: _Check


class CompiledPolicy:
    """A policy ready to judge tasks. It never changes; a new policy is a new object.

    Attributes:
        policy: what was compiled.
        facts_used: the facts that some condition asks about. ``flags.*`` among them need not be supplied: the values
            that the policy was loaded with stand in.
        volatile_facts: those of ``time.*`` and ``hardware.*`` among them.
        volatile: whether there are any, so that a verdict may not outlive the moment.
        thresholds: for each numeric fact the values, ascending, where some condition can change its mind.
    """

    def __init__(self, policy: Policy, *, self_uid: int) -> None:
        self.policy = policy
        clauses: list[Constraint | Rule] = [*policy.constraints, *policy.rules]
        conditions = [condition for clause in clauses for condition in clause.when]
        self.facts_used = frozenset(condition.fact for condition in conditions)
        self.volatile_facts = frozenset(fact for fact in self.facts_used if fact.startswith(("time.", "hardware.")))
        self.volatile = bool(self.volatile_facts)
        self.thresholds = _thresholds(conditions)
        self._constraints = [_clause(c.when, c.on_missing, policy, self_uid) for c in policy.constraints]
        self._rules = [_clause(rule.when, rule.on_missing, policy, self_uid) for rule in policy.rules]
        self._limits = [_limit(constraint) for constraint in policy.constraints]
        self._constraint_checks = [(1 << bit, clause.check) for bit, clause in enumerate(self._constraints)]
        self._rule_checks = [clause.check for clause in self._rules]
        self._verdicts: dict[tuple[int, int], Verdict] = {}

    def verdict(self, facts: Facts) -> Verdict:
        """What the policy says given ``facts``, whose values have the types of ``FACTS``. Absent facts are missing."""
        mask = 0
        for bit, check in self._constraint_checks:
            if check(facts):
                mask |= bit
        index = 0
        for check in self._rule_checks:
            if check(facts):
                break
            index += 1
        known = self._verdicts.get((index, mask))
        return known if known is not None else self._remember(index, mask)

    def trace(self, facts: Facts) -> Trace:
        """The same judgement with its reasons. Unlike :meth:`verdict` it looks at every clause."""
        policy = self.policy
        clauses: list[ClauseTrace] = []
        for constraint, compiled in zip(policy.constraints, self._constraints, strict=True):
            conditions = tuple(test.trace(facts) for test in compiled.tests)
            holds = all(condition.holds for condition in conditions)
            clauses.append(_clause_trace("constraint", constraint, constraint.describe(), holds, holds, conditions))
        winner = len(policy.rules)
        for index, (rule, compiled) in enumerate(zip(policy.rules, self._rules, strict=True)):
            conditions = tuple(test.trace(facts) for test in compiled.tests)
            holds = all(condition.holds for condition in conditions)
            if holds:
                winner = min(winner, index)
            clauses.append(_clause_trace("rule", rule, rule.choice.describe(), holds, winner == index, conditions))
        name, choice = self._outcome(winner)
        unmatched = winner == len(policy.rules)
        effect = policy.default.choice.describe()
        clauses.append(
            ClauseTrace("default", "default", policy.default.where, effect, matched=True, selected=unmatched)
        )
        return Trace(
            policy=policy.name,
            digest=policy.digest,
            rule=name,
            clauses=tuple(clauses),
            prefer=choice.prefer,
            unless_slower_than=choice.unless_slower_than,
            objective=dict(choice.objective),
            split=choice.split,
        )

    def _remember(self, index: int, mask: int) -> Verdict:
        name, choice = self._outcome(index)
        verdict = Verdict(
            rule=name,
            prefer=choice.prefer,
            unless_slower_than=choice.unless_slower_than,
            objective=MappingProxyType(dict(choice.objective)),
            split=choice.split,
            limits=tuple(limit for bit, limit in enumerate(self._limits) if mask >> bit & 1),
        )
        if len(self._verdicts) >= _KEPT_VERDICTS:
            self._verdicts.clear()
        self._verdicts[index, mask] = verdict
        return verdict

    def _outcome(self, index: int) -> tuple[str, Choice]:
        if index < len(self.policy.rules):
            rule = self.policy.rules[index]
            return f"{rule.id} ({rule.place.short})", rule.choice
        return f"default ({self.policy.default.where})", self.policy.default.choice


def compile_policy(policy: Policy, *, self_uid: int) -> CompiledPolicy:
    """Compile ``policy`` for a daemon that runs as user ``self_uid``."""
    return CompiledPolicy(policy, self_uid=self_uid)


def _clause_trace(
    kind: Literal["constraint", "rule"],
    clause: Constraint | Rule,
    effect: str,
    matched: bool,
    selected: bool,
    conditions: tuple[ConditionTrace, ...],
) -> ClauseTrace:
    return ClauseTrace(kind, clause.id, clause.place.short, effect, matched, selected, conditions)


def _limit(constraint: Constraint) -> Limit:
    where = f"constraint {constraint.id} ({constraint.place.short})"
    only = ", ".join(constraint.allow)
    return Limit(
        allow=frozenset(constraint.allow),
        deny=frozenset(constraint.deny),
        denied=f"denied by {where}",
        not_allowed=f"not allowed by {where}, which allows only {only}",
    )


def _clause(conditions: Sequence[Condition], on_missing: OnMissing, policy: Policy, self_uid: int) -> _Clause:
    tests = tuple(
        _Test(
            condition,
            predicate(condition, self_uid=self_uid) if condition.operator != "exists" else bool,
            policy.flags.get(condition.fact.removeprefix("flags.")) if condition.fact.startswith("flags.") else None,
            on_missing == "match",
        )
        for condition in conditions
    )
    return _Clause(tests, _together([_check(test) for test in tests]))


def _check(test: _Test) -> _Check:
    fact, holds, fallback, on_missing = test.condition.fact, test.holds, test.fallback, test.on_missing
    if test.condition.operator == "exists":
        wanted = bool(test.condition.operands[0])
        return lambda facts: (facts.get(fact, fallback) is not None) is wanted

    def check(facts: Facts) -> bool:
        value = facts.get(fact, fallback)
        return on_missing if value is None else holds(value)

    return check


def _together(checks: Sequence[_Check]) -> _Check:
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


def _thresholds(conditions: Sequence[Condition]) -> Mapping[str, tuple[Scalar, ...]]:
    found: dict[str, set[Scalar]] = {}
    for condition in conditions:
        if condition.type == "number" and condition.operator != "exists":
            found.setdefault(condition.fact, set()).update(condition.operands)
    return {fact: tuple(sorted(values, key=float)) for fact, values in found.items()}
