"""Compiled policies against a slow interpreter of the same documents, written from the documentation alone."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from routerd.policy import Vocabulary, compile_policy, load_policy
from routerd.types import Scalar

SELF = 501
NAMES = ("linalg.gemm", "risk.greeks_batch", "indicators.sma", "indicators.ema")
TARGETS = ("cpu", "metal_gpu", "neural_engine", "cpu.numpy", "metal.mlx")
BACKENDS = (("cpu.numpy", "cpu"), ("cpu.torch", "cpu"), ("metal.mlx", "metal_gpu"), ("ane.x", "neural_engine"))
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
TIMES = ("00:00", "05:59", "06:00", "12:30", "22:00", "23:59")
NUMBERS = (-1, 0, 1, 2.5, 10)


# -- the interpreter --------------------------------------------------------------------------------------------------


def interpret(document: Mapping[str, Any], facts: Mapping[str, Any]) -> tuple[str, set[str]]:
    """The id of the rule that decides, and the backends that pass every constraint."""
    allowed = set(BACKENDS)
    for constraint in document["constraints"]:
        if clause_holds(constraint, facts):
            for backend in set(allowed):
                listed = [name in (constraint.get(key) or []) for key in ("deny", "allow") for name in backend]
                denied = listed[0] or listed[1]
                permitted = "allow" not in constraint or listed[2] or listed[3]
                if denied or not permitted:
                    allowed.discard(backend)
    winners = [rule["id"] for rule in document["rules"] if clause_holds(rule, facts)]
    return (winners or ["default"])[0], {name for name, _ in allowed}


def clause_holds(clause: Mapping[str, Any], facts: Mapping[str, Any]) -> bool:
    for fact, test in clause.get("when", {}).items():
        operations = test if isinstance(test, dict) else {"is": test}
        for operator, operand in operations.items():
            if operator == "exists":
                if (fact in facts) != operand:
                    return False
            elif fact not in facts:
                if clause.get("on_missing") != "match":
                    return False
            elif not value_passes(fact, operator, operand, facts[fact]):
                return False
    return True


def value_passes(fact: str, operator: str, operand: Any, value: Any) -> bool:
    if operator == "not_in":
        return not value_passes(fact, "in", operand, value)
    if operator == "is":
        return value_passes(fact, "in", [operand], value)
    if operator == "in":
        if isinstance(value, tuple):
            return any(value_passes(fact, "in", operand, single) for single in value)
        if fact == "client.uid":
            return value in [{"self": SELF, "root": 0}.get(item, item) for item in operand]
        if isinstance(value, str):
            return any(fnmatchcase(value, item) for item in operand)
        return value in operand
    if operator == "between":
        low, high = operand
        if fact == "time.weekday":
            days, first = DAYS * 2, DAYS.index(low)
            return value in days[first : days.index(high, first) + 1]
        if fact == "time.local":
            return (low <= value < high) if low < high else not (high <= value < low)
        return bool(low <= value <= high)
    return {"gt": value > operand, "gte": value >= operand, "lt": value < operand, "lte": value <= operand}[operator]


# -- documents and facts ----------------------------------------------------------------------------------------------


def operations_on(
    values: st.SearchStrategy[Any], *, ordered: bool = False, pairs: Any = None
) -> st.SearchStrategy[Any]:
    lists = st.lists(values, min_size=1, max_size=3, unique=True)
    operations: dict[str, st.SearchStrategy[Any]] = {"in": lists, "not_in": lists, "exists": st.booleans()}
    if ordered:
        operations |= {"gt": values, "gte": values, "lt": values, "lte": values}
    if pairs is not None:
        operations["between"] = pairs
    return st.one_of(
        values,
        st.sampled_from(sorted(operations)).flatmap(lambda name: operations[name].map(lambda operand: {name: operand})),
        st.tuples(operations["in"], operations["not_in"]).map(lambda two: {"in": two[0], "not_in": two[1]}),
    )


numbers = st.sampled_from(NUMBERS)
days, times = st.sampled_from(DAYS), st.sampled_from(TIMES)
names = st.sampled_from((*NAMES, "*", "risk.*", "*ma", "*.g*", "indicators.[se]ma", "li?alg.gemm"))
conditions = st.fixed_dictionaries(
    {},
    optional={
        "workload.name": operations_on(names),
        "workload.engine": operations_on(st.sampled_from(("Risk", "ML", "R*", "*"))),
        "task.work": operations_on(numbers, ordered=True, pairs=st.tuples(numbers, numbers).map(sorted)),
        "task.batch": operations_on(numbers, ordered=True),
        "client.uid": operations_on(st.sampled_from(("self", "root", 7))),
        "time.local": operations_on(times, ordered=True, pairs=st.lists(times, min_size=2, max_size=2, unique=True)),
        "time.weekday": operations_on(days, pairs=st.tuples(days, days).map(list)),
        "hardware.on_battery": st.one_of(st.booleans(), st.booleans().map(lambda wanted: {"exists": wanted})),
    },
)
some_targets = st.lists(st.sampled_from(TARGETS), min_size=1, max_size=3, unique=True)


@st.composite
def clauses(draw: st.DrawFn, kind: str) -> list[dict[str, Any]]:
    found = []
    for number in range(draw(st.integers(0, 4))):
        clause: dict[str, Any] = {"id": f"{kind}{number}"}
        if when := draw(conditions):
            clause["when"] = when
        if draw(st.booleans()):
            clause["on_missing"] = draw(st.sampled_from(("match", "skip")))
        if kind == "r":
            clause["split"] = "auto"
        else:
            allow = draw(some_targets)
            deny = [target for target in draw(some_targets) if target not in allow]
            which = draw(st.sampled_from(("allow", "deny", "both"))) if deny else "allow"
            clause |= {"allow": {"allow": allow}, "deny": {"deny": deny}, "both": {"allow": allow, "deny": deny}}[which]
        found.append(clause)
    return found


documents = st.fixed_dictionaries(
    {"apiVersion": st.just("routerd/v1"), "kind": st.just("Policy"), "constraints": clauses("c"), "rules": clauses("r")}
)
some_facts = st.fixed_dictionaries(
    {},
    optional={
        "workload.name": st.sampled_from(NAMES),
        "workload.engine": st.sampled_from(((), ("Risk",), ("ML", "Risk"), ("Other",))),
        "task.work": st.sampled_from((*NUMBERS, 0.5, 3, 11)),
        "task.batch": numbers,
        "client.uid": st.sampled_from((SELF, 0, 7, 8)),
        "time.local": times,
        "time.weekday": days,
        "hardware.on_battery": st.booleans(),
    },
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("policy") / "p.yaml"


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(document=documents, situations=st.lists(some_facts, min_size=1, max_size=8))
def test_verdict_and_trace_agree_with_the_interpreter(
    path: Path,
    vocabulary: Vocabulary,
    flags: dict[str, Scalar | None],
    document: dict[str, Any],
    situations: list[dict[str, Any]],
) -> None:
    path.write_text(yaml.safe_dump(document))
    policy = load_policy([path], vocabulary, flags)
    compiled = compile_policy(policy, self_uid=SELF)
    reached: set[str] = set()
    for facts in situations:
        rule, backends = interpret(document, facts)
        verdict, trace = compiled.verdict(facts), compiled.trace(facts)
        assert verdict.rule.split()[0] == rule
        assert {name for name, kind in BACKENDS if verdict.objection(name, kind) is None} == backends

        assert trace.rule == verdict.rule
        assert [clause.id for clause in trace.clauses if clause.kind != "constraint" and clause.selected] == [rule]
        for clause, written in zip(trace.clauses, (*document["constraints"], *document["rules"]), strict=False):
            assert clause.matched is clause_holds(written, facts)
            assert clause.matched is all(condition.holds for condition in clause.conditions)
            for condition in clause.conditions:
                assert condition.value == facts.get(condition.fact)
        reached |= {clause.id for clause in trace.clauses if clause.matched and clause.kind == "constraint"} | {rule}
    # A warning that a clause can never take effect must be true.
    idle = {warning.message.split()[1] for warning in policy.warnings if " never " in warning.message}
    assert not idle & reached


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(document=documents)
def test_the_effective_policy_means_the_same(
    path: Path, vocabulary: Vocabulary, flags: dict[str, Scalar | None], document: dict[str, Any]
) -> None:
    path.write_text(yaml.safe_dump(document))
    policy = load_policy([path], vocabulary, flags)
    path.write_text(yaml.safe_dump(policy.to_dict()))
    assert load_policy([path], vocabulary, flags).digest == policy.digest
