"""A policy compiled to closures: facts in, verdict out, in about a microsecond."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from routerd.policy.clauses import compile_clause
from routerd.policy.facts import Facts
from routerd.policy.model import Choice, Constraint, Policy, Rule
from routerd.policy.partial import Limit, decided_constraints, decided_rule, outcomes, pieces
from routerd.policy.trace import ClauseTrace, ConditionTrace, Trace

_KEPT_VERDICTS = 4096


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
            reason = limit.objection(backend, device_kind)
            if reason is not None:
                return reason
        return None


class CompiledPolicy:
    """A policy ready to judge tasks. It never changes; a new policy is a new object.

    Attributes:
        policy: what was compiled.
        facts_used: the facts that some condition asks about. ``flags.*`` among them need not be supplied: the values
            that the policy was loaded with stand in.
    """

    def __init__(self, policy: Policy, *, self_uid: int) -> None:
        self.policy = policy
        clauses: list[Constraint | Rule] = [*policy.constraints, *policy.rules]
        conditions = [condition for clause in clauses for condition in clause.when]
        self.facts_used = frozenset(condition.fact for condition in conditions)
        self._constraints = [compile_clause(c.when, c.on_missing, policy, self_uid) for c in policy.constraints]
        self._rules = [compile_clause(rule.when, rule.on_missing, policy, self_uid) for rule in policy.rules]
        compiled = [one for clause in (*self._constraints, *self._rules) for one in clause.conditions]
        self._client_conditions = [one for one in compiled if one.condition.fact.startswith("client.")]
        self._conditions = compiled
        self._pieces: dict[str, tuple[float, ...]] = {}
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
        return self._verdicts.get((index, mask)) or self._remember(index, mask)

    def verdict_unless(
        self,
        facts: Facts,
        unknown: Callable[[str], bool] | frozenset[str],
        backends: Sequence[tuple[str, str]],
    ) -> Verdict | None:
        """What :meth:`verdict` will say whatever the unknown facts turn out to be; ``None`` where that depends on them.

        ``unknown`` says (as a function or a set of names) which facts are not known now but will be when the question is
        asked, or found to be missing then; ``facts`` need not hold them. ``backends`` are (name, device kind): a constraint
        that may or may not apply is left out of the verdict where it could object to none of them.
        """
        asks = unknown.__contains__ if isinstance(unknown, frozenset) else unknown
        index = decided_rule(self._rules, facts, asks)
        if index is None:
            return None
        mask = decided_constraints(self._constraints, self._limits, facts, asks, backends)
        if mask is None:
            return None
        return self._verdicts.get((index, mask)) or self._remember(index, mask)

    def pieces(self, fact: str) -> tuple[float, ...]:
        """Where the pieces of the axis of a number such as ``task.work``, [0, ∞), start on which no condition on it changes.

        Ascending, the first is 0.0. All else being equal, the verdict at a start is the verdict on the whole piece.
        """
        if fact not in self._pieces:
            self._pieces[fact] = pieces(self._conditions, fact)
        return self._pieces[fact]

    def client_key(self, name: str, uid: int, gid: int) -> Hashable:
        """A key that two clients share exactly when every condition on ``client.*`` has the same outcome for both."""
        return outcomes(self._client_conditions, {"client.name": name, "client.uid": uid, "client.gid": gid})

    def trace(self, facts: Facts) -> Trace:
        """The same judgement with its reasons. Unlike :meth:`verdict` it looks at every clause."""
        policy = self.policy
        clauses: list[ClauseTrace] = []
        for constraint, compiled in zip(policy.constraints, self._constraints, strict=True):
            conditions = tuple(one.trace(facts) for one in compiled.conditions)
            holds = all(condition.holds for condition in conditions)
            clauses.append(_clause_trace("constraint", constraint, constraint.describe(), holds, holds, conditions))
        winner = len(policy.rules)
        for index, (rule, compiled) in enumerate(zip(policy.rules, self._rules, strict=True)):
            conditions = tuple(one.trace(facts) for one in compiled.conditions)
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
