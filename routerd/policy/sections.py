"""The sections of a policy file: constraints, rules, default, fallback, admission, record and exploration."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, TypeVar, cast

from routerd.policy.checker import Checker
from routerd.policy.conditions import parse_when
from routerd.policy.model import (
    FALLBACK_CAUSES,
    OBJECTIVES,
    REDACTABLE,
    Admission,
    Choice,
    Condition,
    Constraint,
    Default,
    Exploration,
    Fallback,
    OnMissing,
    Record,
    Rule,
)
from routerd.policy.source import Entry, Node, Place, Table

CHOICE_KEYS = ("prefer", "unless_slower_than", "objective", "split")
CONSTRAINT_KEYS = ("id", "when", "on_missing", "allow", "deny")
RULE_KEYS = ("id", "when", "on_missing", *CHOICE_KEYS)
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MAX_CLAUSES = 500  # the search for shadowed rules compares each with each
_RESERVED = frozenset({"default"})
_MOST_EXPLORATION = 0.2

_Clause = TypeVar("_Clause", Constraint, Rule)


def read_clauses(
    sections: Iterable[Entry],
    what: str,
    read: Callable[[Table, Checker], _Clause | None],
    ids: dict[str, Place],
    checker: Checker,
) -> tuple[_Clause, ...]:
    """All constraints or all rules of all files. ``ids`` holds those met so far: no two clauses share one."""
    clauses: list[_Clause] = []
    for section in sections:
        for node in checker.items(section.value, what) or ():
            table = checker.table(node, f"each of {what}")
            if table is None:
                continue
            clause = read(table, checker)
            if clause is None:
                continue
            place = table.entries["id"].value.place
            first = ids.setdefault(clause.id, place)
            if first is not place:
                checker.problems.add(place, f"the id {clause.id} is taken (first in {first.file}, line {first.line})")
            clauses.append(clause)
            if len(clauses) == _MAX_CLAUSES + 1:
                checker.problems.add(table.place, f"more than {_MAX_CLAUSES} {what}, the limit of a policy")
    return tuple(clauses)


def read_constraint(table: Table, checker: Checker) -> Constraint | None:
    """One constraint; ``None`` if it has no usable id."""
    checker.known_keys(table, CONSTRAINT_KEYS, "a constraint")
    clause_id, when, on_missing = _head(table, "constraint", checker)
    allow = checker.targets(table.entries["allow"].value, "allow") if "allow" in table.entries else ()
    deny = checker.targets(table.entries["deny"].value, "deny") if "deny" in table.entries else ()
    if not {"allow", "deny"} & table.entries.keys() and table.entries.keys() <= set(CONSTRAINT_KEYS):
        checker.problems.add(table.place, "a constraint needs allow or deny")
    for name in deny:
        if name in allow:
            checker.problems.add(table.entries["deny"].key_place, f"{name} is both allowed and denied")
    return None if clause_id is None else Constraint(clause_id, when, on_missing, allow, deny, table.place)


def read_rule(table: Table, checker: Checker) -> Rule | None:
    """One rule; ``None`` if it has no usable id."""
    checker.known_keys(table, RULE_KEYS, "a rule")
    clause_id, when, on_missing = _head(table, "rule", checker)
    if not set(CHOICE_KEYS) & table.entries.keys() and table.entries.keys() <= set(RULE_KEYS):
        checker.problems.add(table.place, "a rule needs prefer, objective or split")
    choice = _choice(table, checker)
    return None if clause_id is None else Rule(clause_id, when, on_missing, choice, table.place)


def read_default(sections: Sequence[Entry], checker: Checker) -> Default:
    """The last file's default; those of earlier files are checked too."""
    default = Default()
    for section in sections:
        table = checker.table(section.value, "default")
        if table is not None:
            checker.known_keys(table, CHOICE_KEYS, "default")
            default = Default(_choice(table, checker), section.key_place)
    return default


def read_fallback(sections: Sequence[Entry], checker: Checker) -> Fallback:
    """Fallback, later files overriding key by key."""
    on, attempts = Fallback().on, Fallback().max_attempts
    for table in _tables(sections, "fallback", ("on", "max_attempts"), checker):
        if (entry := table.entries.get("on")) is not None:
            on = checker.choices(entry.value, FALLBACK_CAUSES, "fallback.on")
        attempts = _whole(table, "max_attempts", "fallback", 64, attempts, checker)
    return Fallback(on, attempts)


def read_admission(sections: Sequence[Entry], checker: Checker) -> Admission:
    """Admission, later files overriding key by key. ``max_queue_ms`` takes a unit; a bare number is milliseconds."""
    seconds, in_flight = Admission().max_queue_seconds, Admission().max_in_flight_per_client
    for table in _tables(sections, "admission", ("max_queue_ms", "max_in_flight_per_client"), checker):
        if (entry := table.entries.get("max_queue_ms")) is not None:
            wait = checker.number(entry.value, "max_queue_ms", minimum=0, maximum=86_400_000, unit="ms")
            seconds = seconds if wait is None else wait / 1000.0
        in_flight = _whole(table, "max_in_flight_per_client", "admission", 1_000_000, in_flight, checker)
    return Admission(seconds, in_flight)


def read_record(sections: Sequence[Entry], checker: Checker) -> Record:
    """What is recorded, later files overriding key by key."""
    decisions, redact = Record().decisions, Record().redact
    for table in _tables(sections, "record", ("decisions", "redact"), checker):
        if (entry := table.entries.get("decisions")) is not None:
            chosen = checker.choice(entry.value, ("all", "runs", "none"), "record.decisions")
            decisions = cast("Literal['all', 'runs', 'none']", chosen or decisions)
        if (entry := table.entries.get("redact")) is not None:
            redact = checker.choices(entry.value, REDACTABLE, "record.redact")
    return Record(decisions, redact)


def read_exploration(sections: Sequence[Entry], checker: Checker) -> Exploration:
    """What may be spent on trying again what is not predicted best: a share, ``0.01`` or ``1%``; later files override."""
    budget = Exploration().budget
    for table in _tables(sections, "exploration", ("budget",), checker):
        if (entry := table.entries.get("budget")) is not None:
            value = checker.number(
                entry.value, "exploration.budget", minimum=0, maximum=_MOST_EXPLORATION, unit="fraction"
            )
            budget = budget if value is None else float(value)
    return Exploration(budget)


def _tables(sections: Sequence[Entry], what: str, keys: Sequence[str], checker: Checker) -> list[Table]:
    tables = [table for section in sections if (table := checker.table(section.value, what)) is not None]
    for table in tables:
        checker.known_keys(table, keys, what)
    return tables


def _whole(table: Table, key: str, section: str, maximum: int, otherwise: int, checker: Checker) -> int:
    entry = table.entries.get(key)
    if entry is None:
        return otherwise
    value = checker.number(entry.value, f"{section}.{key}", minimum=1, maximum=maximum, whole=True)
    return otherwise if value is None else int(value)


def _head(table: Table, what: str, checker: Checker) -> tuple[str | None, tuple[Condition, ...], OnMissing]:
    """What constraints and rules have in common: id, when and on_missing."""
    when = parse_when(table.entries["when"].value, checker) if "when" in table.entries else ()
    on_missing: OnMissing = "skip"
    if "on_missing" in table.entries:
        chosen = checker.choice(table.entries["on_missing"].value, ("skip", "match"), "on_missing")
        on_missing = cast("OnMissing", chosen or "skip")
    if "id" not in table.entries:
        checker.problems.add(table.place, f"a {what} needs an id; decisions and traces quote it")
        return None, when, on_missing
    return _id(table.entries["id"].value, what, checker), when, on_missing


def _id(node: Node, what: str, checker: Checker) -> str | None:
    text = checker.text(node, f"the id of a {what}")
    if text is None:
        return None
    if _ID.fullmatch(text.value) is None:
        checker.problems.add(
            text.place, f"{text.value!r} cannot be an id; use up to 64 letters, digits, '.', '_' and '-'"
        )
        return None
    if text.value in _RESERVED:
        checker.problems.add(text.place, f"the id {text.value} is reserved")
        return None
    return text.value


def _choice(table: Table, checker: Checker) -> Choice:
    entries = table.entries
    prefer = checker.targets(entries["prefer"].value, "prefer") if "prefer" in entries else ()
    bound: float | None = None
    if "unless_slower_than" in entries:
        entry = entries["unless_slower_than"]
        value = checker.number(entry.value, "unless_slower_than", minimum=1, maximum=1e6)
        bound = None if value is None else float(value)
        if "prefer" not in entries:
            checker.problems.add(entry.key_place, "unless_slower_than bounds a preference; add prefer or leave it out")
    objective = _objective(entries["objective"].value, checker) if "objective" in entries else {"latency": 1.0}
    split = checker.choice(entries["split"].value, ("auto", "never"), "split") if "split" in entries else None
    return Choice(objective, prefer, bound, split)


def _objective(node: Node, checker: Checker) -> dict[str, float]:
    """Weights that sum to 1."""
    table = checker.table(node, "objective")
    if table is None:
        return {}
    before = len(checker.problems.found)
    checker.known_keys(table, OBJECTIVES, "objective")
    weights: dict[str, float] = {}
    for name in OBJECTIVES:
        if name in table.entries:
            weight = checker.number(table.entries[name].value, f"objective.{name}", minimum=0, maximum=1e6)
            weights[name] = 0.0 if weight is None else float(weight)
    total = sum(weights.values())
    if total == 0:
        if len(checker.problems.found) == before:
            checker.problems.add(node.place, f"objective needs a weight above 0 for one of {', '.join(OBJECTIVES)}")
        return {}
    scale = 1.0 if abs(total - 1.0) < 1e-12 else total  # weights that sum to 1 stay as they are written
    return {name: weight / scale for name, weight in weights.items() if weight > 0}
