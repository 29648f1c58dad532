"""What a policy says before everything is known: never another thing than when it is, and as much as can be said."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from routerd.policy import CompiledPolicy, Policy, compile_policy
from routerd.policy.model import (
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
from routerd.policy.source import Place

Load = Callable[..., Policy]
SELF = 501
HERE = Place("p.yaml", 1, 1)
BACKENDS = (("cpu.numpy", "cpu"), ("cpu.torch", "cpu"), ("metal.mlx", "metal_gpu"))
TARGETS = ("cpu", "metal_gpu", "neural_engine", "cpu.numpy", "metal.mlx")
NUMBERS = (0, 1, 2.5, 10, 2**53 + 1, -3)
TIMES = ("00:00", "06:00", "12:30", "22:00")

CLIENT = ("client.name", "client.uid", "client.gid")

numbers = st.sampled_from(NUMBERS)
times = st.sampled_from(TIMES)
#: Values that a fact can have; ``None`` is missing.
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "workload.name": st.sampled_from(("risk.greeks_batch", "linalg.gemm")),
    "task.work": st.sampled_from((*map(float, NUMBERS), 0.5, math.nextafter(10.0, 20.0), 1e300)),
    "task.bytes": numbers,
    "task.batch": st.none() | numbers,
    "client.name": st.sampled_from(("batch-1", "notebook")),
    "client.uid": st.sampled_from((SELF, 0, 7)),
    "client.gid": st.sampled_from((20, 21)),
    "time.local": st.none() | times,
    "hardware.on_battery": st.none() | st.booleans(),
}
situations = st.fixed_dictionaries(VALUES)


@st.composite
def conditions(draw: st.DrawFn, facts: tuple[str, ...] = tuple(VALUES)) -> Condition:
    fact = draw(st.sampled_from(facts))
    kind: Any = {"client.uid": "uid", "time.local": "time", "hardware.on_battery": "bool"}.get(fact)
    kind = kind or ("name" if fact.endswith(".name") else "number")
    operands: st.SearchStrategy[Any] = {
        "number": numbers,
        "time": times,
        "bool": st.booleans(),
        "uid": st.sampled_from(("self", "root", 7)),
        "name": st.sampled_from(("*", "risk.*", "batch-*", "linalg.gemm", "notebook")),
    }[kind]
    operators = ["is", "in", "not_in", "exists"]
    operators += ["gt", "gte", "lt", "lte", "between"] if kind in ("number", "time") else []
    operator = draw(st.sampled_from(operators))
    if operator == "exists":
        return Condition(fact, kind, operator, (draw(st.booleans()),), HERE)
    count = {"in": (1, 3), "not_in": (1, 3), "between": (2, 2)}.get(operator, (1, 1))
    values = draw(st.lists(operands, min_size=count[0], max_size=count[1], unique=True))
    return Condition(fact, kind, operator, tuple(sorted(values) if operator == "between" else values), HERE)


def whens(facts: tuple[str, ...] = tuple(VALUES)) -> st.SearchStrategy[tuple[Condition, ...]]:
    return st.lists(conditions(facts), max_size=2).map(tuple)


on_missing: st.SearchStrategy[OnMissing] = st.sampled_from(("skip", "match"))
targets = st.lists(st.sampled_from(TARGETS), max_size=2, unique=True).map(tuple)


def policy_of(constraints: list[Any], rules: list[Any]) -> CompiledPolicy:
    policy = Policy(
        name="p",
        files=(),
        params={},
        flags={},
        constraints=tuple(
            Constraint(f"c{number}", when, missing, allow, deny, HERE)
            for number, (when, missing, allow, deny) in enumerate(constraints)
        ),
        rules=tuple(Rule(f"r{number}", when, missing, Choice(), HERE) for number, (when, missing) in enumerate(rules)),
        default=Default(),
        fallback=Fallback(),
        admission=Admission(),
        record=Record(),
        exploration=Exploration(),
        digest="",
    )
    return compile_policy(policy, self_uid=SELF)


policies = st.builds(
    policy_of,
    st.lists(st.tuples(whens(), on_missing, targets, targets), max_size=3),
    st.lists(st.tuples(whens(), on_missing), max_size=3),
)


def said(policy: CompiledPolicy, facts: dict[str, Any], backends: Any = BACKENDS) -> tuple[Any, ...]:
    """All that a verdict means for these backends."""
    verdict = policy.verdict(facts)
    return (verdict.rule, *(verdict.objection(*backend) for backend in backends))


@given(
    policy=policies,
    facts=situations,
    hidden=st.frozensets(st.sampled_from(sorted(VALUES)), max_size=4),
    completions=st.lists(situations, min_size=1, max_size=12),
    backends=st.lists(st.sampled_from(BACKENDS), unique=True),
)
def test_what_is_said_early_holds_for_every_completion(
    policy: CompiledPolicy, facts: Any, hidden: frozenset[str], completions: list[Any], backends: list[Any]
) -> None:
    known = {name: value for name, value in facts.items() if name not in hidden}
    early = policy.verdict_unless(known, hidden, backends)
    assert policy.verdict_unless(facts, hidden.__contains__, backends) == early  # a value that may change says nothing
    assume(early is not None)
    assert early is not None
    for other in completions:
        later = known | {name: other[name] for name in hidden}
        assert said(policy, later, backends) == (early.rule, *(early.objection(*backend) for backend in backends))


@given(policy=policies, facts=situations)
def test_with_everything_known_there_is_always_a_verdict(policy: CompiledPolicy, facts: Any) -> None:
    assert policy.verdict_unless(facts, frozenset(), BACKENDS) == policy.verdict(facts)


@given(
    policy=st.builds(
        policy_of,
        st.lists(st.tuples(whens(("task.work", "client.uid")), on_missing, targets, targets), max_size=3),
        st.lists(st.tuples(whens(("task.work", "task.bytes")), on_missing), max_size=4),
    ),
    facts=situations,
    works=st.lists(st.floats(0.0, 1e17) | st.sampled_from([float(one) for one in NUMBERS if one >= 0]), min_size=1),
)
def test_a_verdict_is_the_same_on_a_whole_piece_of_work(policy: CompiledPolicy, facts: Any, works: list[float]) -> None:
    pieces = policy.pieces("task.work")
    assert pieces[0] == 0.0 and list(pieces) == sorted(set(pieces))
    for work in [*works, *(math.nextafter(start, 0.0) for start in pieces)]:
        start = max(start for start in pieces if start <= work)
        assert policy.verdict(facts | {"task.work": work}) == policy.verdict(facts | {"task.work": start})


@pytest.mark.parametrize(
    ("test", "starts"),
    [
        ("{gte: 10}", [10.0]),
        ("{lt: 10}", [10.0]),
        ("{gt: 10}", [math.nextafter(10.0, math.inf)]),
        ("{lte: 10}", [math.nextafter(10.0, math.inf)]),
        ("10", [10.0, math.nextafter(10.0, math.inf)]),
        ("{between: [2, 10]}", [2.0, math.nextafter(10.0, math.inf)]),
        ("{gte: 9007199254740993}", [9007199254740994.0]),  # 2**53 + 1 is no float
        ("{lt: -1}", []),
        ("{gt: 0}", [math.nextafter(0.0, 1.0)]),
        ("{exists: true}", []),
    ],
)
def test_pieces_start_exactly_where_a_condition_changes(load: Load, test: str, starts: list[float]) -> None:
    policy = load(f"rules: [{{id: r, when: {{task.work: {test}}}, split: auto}}]\n")
    assert compile_policy(policy, self_uid=SELF).pieces("task.work") == (0.0, *starts)


@given(
    policy=st.builds(
        policy_of,
        st.lists(st.tuples(whens(CLIENT), on_missing, targets, targets), max_size=2),
        st.lists(st.tuples(whens((*CLIENT, "task.batch")), on_missing), min_size=1, max_size=3),
    ),
    one=situations,
    other=situations,
)
def test_clients_share_a_key_exactly_when_no_condition_tells_them_apart(
    policy: CompiledPolicy, one: dict[str, Any], other: dict[str, Any]
) -> None:
    clients = [{name: facts[name] for name in CLIENT} for facts in (one, other)]
    held = [
        [
            test.holds
            for clause in policy.trace(one | client).clauses
            for test in clause.conditions
            if test.fact in CLIENT
        ]
        for client in clients
    ]
    keys = {policy.client_key(client["client.name"], client["client.uid"], client["client.gid"]) for client in clients}
    assert (len(keys) == 1) is (held[0] == held[1])
    if len(keys) == 1:
        assert said(policy, one | clients[0]) == said(policy, one | clients[1])


# -- how much is said -------------------------------------------------------------------------------------------------

TEXT = """
constraints:
- {id: thermal, when: {hardware.thermal: critical}, deny: [metal_gpu]}
- {id: strangers, when: {client.uid: {not_in: [self]}}, allow: [cpu]}
rules:
- {id: night, when: {client.name: "batch-*", time.local: {between: ["22:00", "06:00"]}}, prefer: [cpu]}
- {id: large, when: {task.work: {gte: 100}}, prefer: [metal_gpu]}
- {id: heavy, when: {task.bytes: {gte: 1MB}}, split: auto}
"""
HOT = frozenset({"hardware.thermal"})
CPU = [("cpu.numpy", "cpu")]


@pytest.fixture
def compiled(load: Load) -> CompiledPolicy:
    return compile_policy(load(TEXT), self_uid=SELF)


def test_an_undecided_constraint_matters_only_to_whom_it_could_bar(compiled: CompiledPolicy) -> None:
    facts: dict[str, Any] = {"client.uid": SELF, "client.name": "x", "task.work": 100.0}
    assert compiled.verdict_unless(facts, HOT, BACKENDS) is None
    early = compiled.verdict_unless(facts, HOT, CPU)
    assert early is not None and early.rule.startswith("large ")


def test_a_backend_that_is_barred_already_cannot_be_barred_again(load: Load) -> None:
    swapped = "constraints:\n- {id: no, deny: [metal_gpu]}\n- {id: maybe, when: {hardware.thermal: critical}, deny: [metal.mlx]}\n"
    early = compile_policy(load(swapped), self_uid=SELF).verdict_unless({}, HOT, BACKENDS)
    assert early is not None
    assert early.objection("metal.mlx", "metal_gpu") == "denied by constraint no (0.yaml:4)"


def test_a_reason_that_could_change_counts_as_a_change(load: Load) -> None:
    text = "constraints:\n- {id: maybe, when: {hardware.thermal: critical}, deny: [metal.mlx]}\n- {id: no, deny: [metal_gpu]}\n"
    assert compile_policy(load(text), self_uid=SELF).verdict_unless({}, HOT, BACKENDS) is None


def test_an_undecided_rule_matters_only_where_it_is_reached(compiled: CompiledPolicy) -> None:
    later = frozenset({"time.local", "task.bytes"})
    facts: dict[str, Any] = {"client.uid": SELF, "client.name": "x", "task.work": 100.0}
    early = compiled.verdict_unless(facts, later, BACKENDS)
    assert early is not None and early.rule.startswith("large ")  # one false condition is enough against night
    assert compiled.verdict_unless(facts | {"task.work": 1.0}, later, BACKENDS) is None  # heavy is reached
    assert compiled.verdict_unless(facts | {"client.name": "batch-1"}, later, BACKENDS) is None  # so is night
