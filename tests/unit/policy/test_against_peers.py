"""Constraints against engines that somebody else wrote: the same filters in Cedar and in Rego bar the same backends."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from routerd.policy import Vocabulary, compile_policy, load_policy
from routerd.types import Scalar

SELF = 501
BACKENDS = {"cpu.numpy": "cpu", "cpu.torch": "cpu", "metal.mlx": "metal_gpu", "ane.coreml": "neural_engine"}
TARGETS = ("cpu", "metal_gpu", "neural_engine", "cpu.numpy", "metal.mlx")
FAMILIES = ("linalg", "risk", "ml")
WORKS = (0, 1, 999, 1000, 10**9)
TOLERANCES = ("0.0001", "0.001", "0.05", "1.0")  # four decimal places, which is what Cedar's decimals have
USERS: Mapping[str | int, int] = {"self": SELF, "root": 0, 7: 7}
BATCHES = (1, 512, 4096)

#: For each situation the ids of the constraints that bar each backend.
Barred = list[dict[str, set[str]]]


# -- Cedar ------------------------------------------------------------------------------------------------------------


def with_cedar(constraints: Sequence[Mapping[str, Any]], situations: Sequence[Mapping[str, Any]]) -> Barred:
    """Each constraint forbids; a backend lies in its device kind, so that ``in`` covers both ways to name it."""
    cedarpy = pytest.importorskip("cedarpy")
    text = "permit (principal, action, resource);\n" + "\n".join(map(cedar_policy, constraints))
    policies = cedarpy.PolicySet.from_str(text)
    kinds = [{"uid": cedar_target(name), "attrs": {}, "parents": [cedar_target(BACKENDS[name])]} for name in BACKENDS]
    entities = cedarpy.Entities.from_json_str(json.dumps(kinds))
    requests = [
        {
            "principal": {"type": "User", "id": str(facts["client.uid"])},
            "action": {"type": "Action", "id": "take"},
            "resource": cedar_target(name),
            "context": cedar_context(facts),
        }
        for facts in situations
        for name in BACKENDS
    ]
    results = iter(cedarpy.is_authorized_batch(requests, policies, entities))
    found: Barred = []
    for _ in situations:
        found.append({})
        for name in BACKENDS:
            result = next(results)
            assert not result.diagnostics.errors
            found[-1][name] = set() if result.allowed else set(result.diagnostics.id_annotations_by_reason.values())
    return found


def cedar_policy(constraint: Mapping[str, Any]) -> str:
    tests = [
        cedar_test(fact, operator, operand, constraint.get("on_missing") == "match")
        for fact, operations in constraint.get("when", {}).items()
        for operator, operand in operations.items()
    ]
    allow, deny = ([f'Target::"{name}"' for name in constraint.get(key, ())] for key in ("allow", "deny"))
    bars = [f"resource in [{', '.join(deny)}]"] if deny else []
    bars += [f"!(resource in [{', '.join(allow)}])"] if allow else []
    when = " && ".join(f"({test})" for test in [*tests, " || ".join(bars)])
    return f'@id("{constraint["id"]}") forbid (principal, action, resource) when {{ {when} }};'


def cedar_test(fact: str, operator: str, operand: Any, on_missing: bool) -> str:
    attribute = fact.replace(".", "_")
    if operator == "exists":
        return f"context has {attribute}" if operand else f"!(context has {attribute})"
    test = cedar_comparison(fact, f"context.{attribute}", operator, operand)
    if fact != "task.batch":
        return test
    return f"!(context has {attribute}) || {test}" if on_missing else f"context has {attribute} && {test}"


def cedar_comparison(fact: str, value: str, operator: str, operand: Any) -> str:
    if operator == "between":
        low, high = (cedar_comparison(fact, value, *bound) for bound in zip(("gte", "lte"), operand, strict=True))
        return f"({low} && {high})"
    if operator in ("in", "not_in"):
        listed = f"[{', '.join(cedar_literal(fact, one) for one in operand)}].contains({value})"
        return listed if operator == "in" else f"!{listed}"
    if fact == "task.tolerance" and operator != "is":
        method = {"gt": "greaterThan", "gte": "greaterThanOrEqual", "lt": "lessThan", "lte": "lessThanOrEqual"}
        return f"{value}.{method[operator]}({cedar_literal(fact, operand)})"
    sign = {"is": "==", "gt": ">", "gte": ">=", "lt": "<", "lte": "<="}[operator]
    return f"{value} {sign} {cedar_literal(fact, operand)}"


def cedar_literal(fact: str, value: Any) -> str:
    if fact == "task.tolerance":
        return f'decimal("{value}")'
    return str(USERS[value]) if fact == "client.uid" else json.dumps(value)


def cedar_context(facts: Mapping[str, Any]) -> dict[str, Any]:
    context = {fact.replace(".", "_"): value for fact, value in facts.items()}
    context["task_tolerance"] = {"__extn": {"fn": "decimal", "arg": facts["task.tolerance"]}}
    return context


def cedar_target(name: str) -> dict[str, str]:
    return {"type": "Target", "id": name}


# -- Rego -------------------------------------------------------------------------------------------------------------


def with_rego(constraints: Sequence[Mapping[str, Any]], situations: Sequence[Mapping[str, Any]]) -> Barred:
    """Each constraint adds pairs of its id and a backend to a set."""
    regopy = pytest.importorskip("regopy")
    interpreter = regopy.Interpreter()
    interpreter.add_data({"backends": BACKENDS})
    interpreter.add_module("constraints.rego", REGO_HEAD + "\n".join(map(rego_rule, constraints)))
    bundle = interpreter.build(None, ["constraints/barred"])
    assert bundle.ok()
    found: Barred = []
    for facts in situations:
        interpreter.set_input({**facts, "task.tolerance": float(facts["task.tolerance"])})
        output = interpreter.query_bundle_entrypoint(bundle, "constraints/barred")
        assert output.ok()
        pairs = output[0][0]
        found.append({name: {one for one, barred in pairs if barred == name} for name in BACKENDS})
    return found


REGO_HEAD = """package constraints
import rego.v1

named(backend, names) if backend in names
named(backend, names) if data.backends[backend] in names

missing(fact) if not fact in object.keys(input)

"""


def rego_rule(constraint: Mapping[str, Any]) -> str:
    name = constraint["id"]
    operations = [(fact, *one) for fact, many in constraint.get("when", {}).items() for one in many.items()]
    rules, body = [], ["some backend, _ in data.backends", f"bars_{name}(backend)"]
    for number, operation in enumerate(operations):
        body.append(f"test_{name}_{number}")
        rules += rego_test(body[-1], *operation, constraint.get("on_missing") == "match")
    if "deny" in constraint:
        rules.append(f"bars_{name}(backend) if named(backend, {json.dumps(constraint['deny'])})")
    if "allow" in constraint:
        rules.append(f"bars_{name}(backend) if not named(backend, {json.dumps(constraint['allow'])})")
    return "\n".join([*rules, f'barred contains ["{name}", backend] if {{ {"; ".join(body)} }}'])


def rego_test(name: str, fact: str, operator: str, operand: Any, on_missing: bool) -> list[str]:
    if operator == "exists":
        return [f'{name} if {"not " if operand else ""}missing("{fact}")']
    rules = [f"{name} if {rego_comparison(fact, operator, operand)}"]
    return [*rules, f'{name} if missing("{fact}")'] if on_missing else rules


def rego_comparison(fact: str, operator: str, operand: Any) -> str:
    value = f'input["{fact}"]'
    if operator == "between":
        low, high = (rego_literal(fact, bound) for bound in operand)
        return f"{{ {value} >= {low}; {value} <= {high} }}"
    if operator in ("in", "not_in"):
        listed = f"{value} in [{', '.join(rego_literal(fact, one) for one in operand)}]"
        return listed if operator == "in" else f"{{ {value}; not {listed} }}"
    sign = {"is": "==", "gt": ">", "gte": ">=", "lt": "<", "lte": "<="}[operator]
    return f"{value} {sign} {rego_literal(fact, operand)}"


def rego_literal(fact: str, value: Any) -> str:
    if fact == "task.tolerance":
        return str(value)
    return str(USERS[value]) if fact == "client.uid" else json.dumps(value)


# -- constraints and tasks --------------------------------------------------------------------------------------------


def operations_on(values: Sequence[Any], *extra: str) -> st.SearchStrategy[dict[str, Any]]:
    """A bare value, or one or two other tests: lists and the ``extra`` operators."""
    single, lists = st.sampled_from(values), st.lists(st.sampled_from(values), min_size=1, max_size=3, unique=True)
    pairs = st.lists(single, min_size=2, max_size=2).map(lambda two: sorted(two, key=float))
    operands = {"in": lists, "not_in": lists, "between": pairs, "exists": st.booleans()}
    chosen = st.lists(st.sampled_from(("in", "not_in", *extra)), min_size=1, max_size=2, unique=True)
    return st.one_of(
        st.fixed_dictionaries({"is": single}),
        chosen.flatmap(lambda names: st.fixed_dictionaries({name: operands.get(name, single) for name in names})),
    )


ORDERED = ("gt", "gte", "lt", "lte", "between")
conditions = st.fixed_dictionaries(
    {},
    optional={
        "workload.family": operations_on(FAMILIES),
        "task.work": operations_on(WORKS, *ORDERED),
        "task.tolerance": operations_on(TOLERANCES, *ORDERED),
        "task.batch": operations_on(BATCHES, *ORDERED, "exists"),
        "client.uid": operations_on(tuple(USERS)),
    },
)
some_targets = st.lists(st.sampled_from(TARGETS), min_size=1, max_size=3, unique=True)
bars = st.one_of(
    st.fixed_dictionaries({"deny": some_targets}),
    st.fixed_dictionaries({"allow": some_targets}),
    st.permutations(TARGETS).map(lambda names: {"deny": names[:2], "allow": names[2:4]}),
)
some_constraints = st.lists(
    st.tuples(conditions, st.sampled_from(("match", "skip")), bars).map(
        lambda parts: {"when": parts[0], "on_missing": parts[1], **parts[2]}
    ),
    min_size=1,
    max_size=4,
).map(lambda found: [{"id": f"c{number}", **one} for number, one in enumerate(found)])
some_facts = st.fixed_dictionaries(
    {
        "workload.family": st.sampled_from(FAMILIES),
        "task.work": st.sampled_from(WORKS),
        "task.tolerance": st.sampled_from(TOLERANCES),
        "client.uid": st.sampled_from((SELF, 0, 7, 8)),
    },
    optional={"task.batch": st.sampled_from(BATCHES)},
)


def written(constraint: Mapping[str, Any]) -> dict[str, Any]:
    """The constraint as policy files spell it: equality is a bare value."""
    when = {fact: operations.get("is", operations) for fact, operations in constraint["when"].items()}
    return {key: value for key, value in {**constraint, "when": when}.items() if value != {}}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("policy") / "p.yaml"


@pytest.mark.parametrize("ask", [with_cedar, with_rego])
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(constraints=some_constraints, situations=st.lists(some_facts, min_size=4, max_size=8))
def test_the_same_backends_are_barred(
    ask: Callable[[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]]], Barred],
    path: Path,
    vocabulary: Vocabulary,
    flags: dict[str, Scalar | None],
    constraints: list[dict[str, Any]],
    situations: list[dict[str, Any]],
) -> None:
    document = {"apiVersion": "routerd/v1", "kind": "Policy", "constraints": list(map(written, constraints))}
    path.write_text(yaml.safe_dump(document))
    compiled = compile_policy(load_policy([path], vocabulary, flags), self_uid=SELF)
    for facts, barred in zip(situations, ask(constraints, situations), strict=True):
        verdict = compiled.verdict({**facts, "task.tolerance": float(facts["task.tolerance"])})
        for name, kind in BACKENDS.items():
            objection = verdict.objection(name, kind)
            named = [one["id"] for one in constraints if objection and f"constraint {one['id']} (" in objection]
            assert named == [one["id"] for one in constraints if one["id"] in barred[name]][:1]
