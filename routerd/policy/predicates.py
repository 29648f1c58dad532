"""One condition as a plain Python closure over the value of its fact."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from operator import eq
from typing import Any, TypeAlias

from routerd.policy.checker import glob_regex, is_glob
from routerd.policy.facts import WEEKDAYS
from routerd.policy.model import Condition
from routerd.types import Scalar

Predicate: TypeAlias = Callable[[Any], bool]


def predicate(condition: Condition, *, self_uid: int) -> Predicate:
    """The test of a present value. ``self`` and ``root`` become ``self_uid`` and 0; ``exists`` is not a test of values."""
    operands = condition.operands
    if condition.type == "uid":
        users = {"self": self_uid, "root": 0}
        operands = tuple(users.get(value, value) if isinstance(value, str) else value for value in operands)
    operator = condition.operator
    if operator == "between":
        return _between(condition.type, *operands)
    if operator in ("gt", "gte", "lt", "lte"):
        return _compare(operator, operands[0])
    names = _names if condition.type in ("name", "any") else _members
    test = names(operands)
    if condition.fact == "workload.engine":
        test = _any_of(test)
    return _not(test) if operator == "not_in" else test


def _compare(operator: str, bound: Any) -> Predicate:
    # Written out, because a call through the operator module costs twice as much.
    if operator == "gt":
        return lambda value: bool(value > bound)
    if operator == "gte":
        return lambda value: bool(value >= bound)
    if operator == "lt":
        return lambda value: bool(value < bound)
    return lambda value: bool(value <= bound)


def _between(kind: str, low: Any, high: Any) -> Predicate:
    """Numbers include both bounds. Times run from the first until just before the second, days from the first through
    the second, and both go round the end of the day or week."""
    if kind == "time":
        if low <= high:
            return lambda value: bool(low <= value < high)
        return lambda value: bool(value >= low or value < high)
    if kind == "weekday":
        first, last = WEEKDAYS.index(low), WEEKDAYS.index(high)
        days = WEEKDAYS[first : last + 1] if first <= last else WEEKDAYS[first:] + WEEKDAYS[: last + 1]
        return frozenset(days).__contains__
    return lambda value: bool(low <= value <= high)


def _members(operands: Sequence[Scalar]) -> Predicate:
    return partial(eq, operands[0]) if len(operands) == 1 else frozenset(operands).__contains__


def _names(operands: Sequence[Scalar]) -> Predicate:
    literals = [value for value in operands if not (isinstance(value, str) and is_glob(value))]
    tests = [_glob(value) for value in operands if isinstance(value, str) and is_glob(value)]
    if literals:
        tests.insert(0, _members(literals))
    if len(tests) == 1:
        return tests[0]
    return lambda value: any(test(value) for test in tests)


def _glob(pattern: str) -> Predicate:
    """The usual shapes of globs as string methods; the rest as a regular expression."""
    inner = pattern.strip("*")
    if not is_glob(inner):
        head, tail = pattern.startswith("*"), pattern.endswith("*")
        if head and tail:
            return lambda value: inner in value
        if tail:
            return lambda value: bool(value.startswith(inner))
        if head:
            return lambda value: bool(value.endswith(inner))
    match = glob_regex(pattern).match
    return lambda value: match(value) is not None


def _any_of(test: Predicate) -> Predicate:
    return lambda values: any(test(value) for value in values) if isinstance(values, tuple | list) else test(values)


def _not(test: Predicate) -> Predicate:
    return lambda value: not test(value)
