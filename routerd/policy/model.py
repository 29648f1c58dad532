"""A policy as frozen data, after every name has been checked and every reference resolved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from msgspec import Struct, field

from routerd.policy.facts import FactType
from routerd.policy.source import Place, Problem
from routerd.types import Scalar

API_VERSION = "routerd/v1"
KIND = "Policy"
OBJECTIVES = ("latency", "throughput", "energy")
FALLBACK_CAUSES = ("unavailable", "out_of_memory", "timeout", "crash")
#: What a recorded decision may leave out.
REDACTABLE = ("client.command", "client.name", "client.uid", "client.gid", "client.pid", "task.params")

OnMissing: TypeAlias = Literal["skip", "match"]
ParamValue: TypeAlias = Scalar | tuple[Scalar, ...]


class Condition(Struct, frozen=True):
    """One test of one fact. ``operator`` is ``is`` for a bare value; a ``name`` operand may be a glob."""

    fact: str
    type: FactType
    operator: str
    operands: tuple[Scalar, ...]
    place: Place

    def describe(self) -> str:
        """The test in words, without the fact."""
        words = [shown(value) for value in self.operands]
        if self.operator == "between":
            return f"between {words[0]} and {words[1]}"
        if self.operator == "exists":
            return "exists" if self.operands[0] else "is missing"
        if self.operator in ("in", "not_in"):
            return f"{self.operator.replace('_', ' ')} [{', '.join(words)}]"
        sign = {"is": "is", "gt": ">", "gte": ">=", "lt": "<", "lte": "<="}[self.operator]
        return f"{sign} {words[0]}"


class Choice(Struct, frozen=True):
    """How a rule ranks what the constraints leave. ``objective`` weights sum to 1."""

    objective: dict[str, float] = field(default_factory=lambda: {"latency": 1.0})
    prefer: tuple[str, ...] = ()
    unless_slower_than: float | None = None
    split: str | None = None

    def describe(self) -> str:
        """The ranking in words."""
        parts = []
        if self.prefer:
            bound = "" if self.unless_slower_than is None else f" unless {self.unless_slower_than:g} times slower"
            parts.append(f"prefer {', then '.join(self.prefer)}{bound}")
        parts.append("objective " + ", ".join(f"{name} {weight:g}" for name, weight in self.objective.items()))
        if self.split is not None:
            parts.append(f"split {self.split}")
        return "; ".join(parts)


class Constraint(Struct, frozen=True):
    """A filter that nothing escapes. ``allow`` empty means that it allows all but ``deny``."""

    id: str
    when: tuple[Condition, ...]
    on_missing: OnMissing
    allow: tuple[str, ...]
    deny: tuple[str, ...]
    place: Place

    def describe(self) -> str:
        """The filter in words."""
        allowed = [f"allow only {', '.join(self.allow)}"] if self.allow else []
        denied = [f"deny {', '.join(self.deny)}"] if self.deny else []
        return "; ".join(allowed + denied)


class Rule(Struct, frozen=True):
    """The first rule whose conditions all hold makes the choice."""

    id: str
    when: tuple[Condition, ...]
    on_missing: OnMissing
    choice: Choice
    place: Place


class Default(Struct, frozen=True):
    """The choice when no rule matches; without a place it is the built-in one."""

    choice: Choice = field(default_factory=Choice)
    place: Place | None = None

    @property
    def where(self) -> str:
        """File name and line, as decisions quote it."""
        return "built in" if self.place is None else self.place.short


class Fallback(Struct, frozen=True):
    """After which failures the work is tried elsewhere, and on how many backends in all."""

    on: tuple[str, ...] = FALLBACK_CAUSES
    max_attempts: int = 3


class Admission(Struct, frozen=True):
    """When new work is refused rather than queued."""

    max_queue_seconds: float = 30.0
    max_in_flight_per_client: int = 256


class Record(Struct, frozen=True):
    """Which decisions are kept, and what is left out of them."""

    decisions: Literal["all", "runs", "none"] = "all"
    redact: tuple[str, ...] = ("client.command",)


class Exploration(Struct, frozen=True):
    """How much of a workload's compute time goes to backends that are not predicted best, as a share of it; 0: none."""

    budget: float = 0.01


class Policy(Struct, frozen=True, kw_only=True):
    """Everything that the files say, merged, checked and resolved.

    ``flags`` holds the value of every environment flag that the policy uses, and ``digest`` is the sha256 of
    :meth:`to_dict` and those flags: it changes with meaning, not with comments, layout or file names.
    """

    name: str
    files: tuple[str, ...]
    params: dict[str, ParamValue]
    flags: dict[str, Scalar | None]
    constraints: tuple[Constraint, ...]
    rules: tuple[Rule, ...]
    default: Default
    fallback: Fallback
    admission: Admission
    record: Record
    exploration: Exploration
    digest: str
    warnings: tuple[Problem, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The policy as one document, every reference resolved. Written as YAML, it loads to the same policy."""
        return canonical(self)


def canonical(policy: Policy) -> dict[str, Any]:
    """See :meth:`Policy.to_dict`."""
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": policy.name},
        "params": {name: _plain(value) for name, value in policy.params.items()},
        "constraints": [
            {"id": item.id, **_when(item.when, item.on_missing), **_lists(allow=item.allow, deny=item.deny)}
            for item in policy.constraints
        ],
        "rules": [{"id": r.id, **_when(r.when, r.on_missing), **_choice(r.choice)} for r in policy.rules],
        "default": _choice(policy.default.choice),
        "fallback": {"on": list(policy.fallback.on), "max_attempts": policy.fallback.max_attempts},
        "admission": {
            "max_queue_ms": round(policy.admission.max_queue_seconds * 1000.0, 9),
            "max_in_flight_per_client": policy.admission.max_in_flight_per_client,
        },
        "record": {"decisions": policy.record.decisions, "redact": list(policy.record.redact)},
        "exploration": {"budget": policy.exploration.budget},
    }


def _when(conditions: tuple[Condition, ...], on_missing: OnMissing) -> dict[str, Any]:
    when: dict[str, Any] = {}
    for condition in conditions:
        values = [_escaped(value) for value in condition.operands]
        if condition.operator == "is":
            when[condition.fact] = values[0]
        else:
            several = condition.operator in ("in", "not_in", "between")
            when.setdefault(condition.fact, {})[condition.operator] = values if several else values[0]
    return ({"when": when} if when else {}) | ({"on_missing": "match"} if on_missing == "match" else {})


def _choice(choice: Choice) -> dict[str, Any]:
    fields: dict[str, Any] = {"objective": dict(choice.objective)}
    if choice.prefer:
        fields["prefer"] = list(choice.prefer)
    if choice.unless_slower_than is not None:
        fields["unless_slower_than"] = choice.unless_slower_than
    if choice.split is not None:
        fields["split"] = choice.split
    return fields


def _lists(**names: tuple[str, ...]) -> Mapping[str, list[str]]:
    return {key: list(value) for key, value in names.items() if value}


def _plain(value: ParamValue) -> Any:
    return [_escaped(item) for item in value] if isinstance(value, tuple) else _escaped(value)


def _escaped(value: Scalar) -> Scalar:
    return value.replace("$", "$$") if isinstance(value, str) else value


def shown(value: Scalar) -> str:
    """A value as conditions and traces write it."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.12g}" if isinstance(value, float) else str(value)
