"""The ``when`` of constraints and rules: from a tree to checked conditions."""

from __future__ import annotations

from routerd.errors import suggest
from routerd.policy.checker import Checker
from routerd.policy.facts import OPERATORS, Fact, find_fact, parse_bool, parse_operand
from routerd.policy.model import Condition
from routerd.policy.source import Entry, Items, Node, Place, Table, Text
from routerd.types import Scalar


def parse_when(node: Node, checker: Checker) -> tuple[Condition, ...]:
    """Every condition of a ``when``, in the order of the file; all must hold. Problems go to ``checker``."""
    if isinstance(node, Text) and node.is_null:
        checker.problems.add(node.place, "when has no conditions; leave it out to match always")
        return ()
    table = checker.table(node, "when")
    conditions: list[Condition] = []
    for name, entry in table.entries.items() if table is not None else ():
        try:
            fact = find_fact(name, checker.vocabulary, checker.flags)
        except ValueError as error:
            checker.problems.add(entry.key_place, str(error))
            continue
        if name.startswith("flags."):
            flag = name.removeprefix("flags.")
            checker.references.used_flags[flag] = checker.flags[flag]
        conditions += _tests(name, fact, entry, checker)
    return tuple(conditions)


def _tests(name: str, fact: Fact, entry: Entry, checker: Checker) -> list[Condition]:
    value = entry.value
    if isinstance(value, Table):
        if not value.entries:
            checker.problems.add(value.place, f"{name} has no operator; use one of {_operators(fact)}")
        found = [_operation(name, fact, operator, inner, checker) for operator, inner in value.entries.items()]
        return [condition for condition in found if condition is not None]
    resolved = checker.references.resolve(value)
    if isinstance(resolved, Items):
        checker.problems.add(value.place, f"{name} cannot be compared with a list; write {{in: […]}}")
        return []
    if resolved is None:
        return []
    operand = _operand(name, fact, value, checker)
    return [] if operand is None else [Condition(name, fact.type, "is", (operand,), entry.key_place)]


def _operation(name: str, fact: Fact, operator: str, entry: Entry, checker: Checker) -> Condition | None:
    known = [word for word in OPERATORS[fact.type] if word != "is"]
    if operator not in known:
        every = {word for words in OPERATORS.values() for word in words} - {"is"}
        if operator in every:
            message = f"{name} is a {fact.type} and cannot be tested with {operator}; use one of {_operators(fact)}"
        else:
            message = f"unknown operator {operator}{suggest(operator, known) or f'; use one of {_operators(fact)}'}"
        checker.problems.add(entry.key_place, message)
        return None
    operands: tuple[Scalar, ...] | None
    if operator == "exists":
        operands = _exists(entry.value, checker)
    elif operator in ("in", "not_in"):
        operands = _several(name, fact, operator, entry.value, checker)
    elif operator == "between":
        operands = _bounds(name, fact, entry.value, checker)
    else:
        operand = _operand(name, fact, entry.value, checker)
        if fact.type == "any" and isinstance(operand, str | bool):
            checker.problems.add(entry.value.place, f"{name}: {operator} compares with a number")
            operand = None
        operands = None if operand is None else (operand,)
    return None if operands is None else Condition(name, fact.type, operator, operands, entry.key_place)


def _operand(name: str, fact: Fact, node: Node, checker: Checker) -> Scalar | None:
    text = checker.text(node, name)
    if text is None:
        return None
    try:
        operand = parse_operand(text.value, fact)
    except ValueError as error:
        checker.problems.add(text.place, f"{name}: {error}")
        return None
    if isinstance(operand, str):
        checker.workload_name(name, operand, text.place)
    return operand


def _several(name: str, fact: Fact, operator: str, node: Node, checker: Checker) -> tuple[Scalar, ...] | None:
    nodes = checker.items(node, operator)
    if nodes == ():
        checker.problems.add(node.place, f"{operator} is an empty list")
    operands = [_operand(name, fact, item, checker) for item in nodes or ()]
    kept = tuple(dict.fromkeys(operand for operand in operands if operand is not None))
    return kept or None


def _bounds(name: str, fact: Fact, node: Node, checker: Checker) -> tuple[Scalar, ...] | None:
    nodes = checker.items(node, "between")
    if nodes is None:
        return None
    if len(nodes) != 2:
        checker.problems.add(node.place, f"between takes two bounds, [low, high], not {len(nodes)}")
        return None
    low, high = (_operand(name, fact, item, checker) for item in nodes)
    if low is None or high is None:
        return None
    return _ordered(name, fact, low, high, node.place, checker)


def _ordered(
    name: str, fact: Fact, low: Scalar, high: Scalar, place: Place, checker: Checker
) -> tuple[Scalar, ...] | None:
    if fact.type == "time" and low == high:
        checker.problems.add(
            place, f"{name}: from {low} until {high} is no time at all; leave it out for the whole day"
        )
        return None
    if fact.type in ("number", "any"):
        numeric = not isinstance(low, str | bool) and not isinstance(high, str | bool)
        if not numeric:
            checker.problems.add(place, f"{name}: both bounds of between must be numbers")
            return None
        if low > high:  # type: ignore[operator]
            checker.problems.add(place, f"{name}: the lower bound {low} is above the upper bound {high}; swap them")
            return None
    return (low, high)


def _exists(node: Node, checker: Checker) -> tuple[Scalar, ...] | None:
    text = checker.text(node, "exists")
    if text is None:
        return None
    try:
        return (parse_bool(text.value),)
    except ValueError as error:
        checker.problems.add(text.place, f"exists: {error}")
        return None


def _operators(fact: Fact) -> str:
    return ", ".join(word for word in OPERATORS[fact.type] if word != "is")
