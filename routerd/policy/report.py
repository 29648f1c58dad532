"""Policies, traces and problems as text for people. Pure: nothing here prints."""

from __future__ import annotations

from collections.abc import Iterable

import yaml

from routerd.policy.model import Constraint, Policy, Rule, shown
from routerd.policy.source import Problem
from routerd.policy.trace import ClauseTrace, Trace


def render_problems(problems: Iterable[Problem], severity: str = "") -> list[str]:
    """One line for each problem, as compilers write them; ``severity`` goes before the message."""
    label = f"{severity}: " if severity else ""
    return [f"{item.file}:{item.line}:{item.column}: {label}{item.message}" for item in problems]


def render_trace(trace: Trace) -> list[str]:
    """A trace as lines: ``✓`` took effect, ``·`` matched but came after the rule that won, ``✗`` did not match."""
    lines = [f"policy {trace.policy} ({trace.digest[:12]})"]
    for clause in trace.clauses:
        lines.append(f"{_mark(clause)} {clause.kind} {clause.id} ({clause.place}): {clause.effect}")
        for condition in clause.conditions:
            known = "missing" if condition.value is None else f"is {_value(condition.value)}"
            note = ", on_missing: match" if condition.outcome == "missing" and condition.holds else ""
            lines.append(f"    {'✓' if condition.holds else '✗'} {condition.fact} {condition.test} ({known}{note})")
    lines.append(f"decided by {trace.rule}")
    return lines


def render_policy(policy: Policy) -> str:
    """The merged and resolved policy as YAML that loads again, under comments that say where it came from."""
    origins: list[Constraint | Rule] = [*policy.constraints, *policy.rules]
    comments = [f"# policy {policy.name}, digest {policy.digest}"]
    comments += [f"# file {file}" for file in policy.files]
    comments += [f"# flag {name} = {'not set' if value is None else value}" for name, value in policy.flags.items()]
    comments += [f"# {clause.id}: {clause.place.file}:{clause.place.line}" for clause in origins]
    body: str = yaml.safe_dump(policy.to_dict(), sort_keys=False, allow_unicode=True, width=120)
    return "\n".join([*comments, body])


def _mark(clause: ClauseTrace) -> str:
    if clause.selected:
        return "✓"
    return "·" if clause.matched else "✗"


def _value(value: bool | int | float | str | tuple[str, ...]) -> str:
    return ", ".join(value) if isinstance(value, tuple) else shown(value)
