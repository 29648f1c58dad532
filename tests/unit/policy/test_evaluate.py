"""What a compiled policy says, and that its traces say the same."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from routerd.policy import CompiledPolicy, Policy, Trace, compile_policy

Load = Callable[..., Policy]
SELF = 501


@pytest.fixture
def compiled(load: Load) -> Callable[..., CompiledPolicy]:
    return lambda text, **flags: compile_policy(load(text, **flags), self_uid=SELF)


def one_rule(tests: str, extra: str = "") -> str:
    return f"rules: [{{id: r, split: auto, when: {{{tests}}}{extra}}}]\n"


def matches(policy: CompiledPolicy, facts: dict[str, Any]) -> bool:
    """Whether the only rule matches; the trace must agree."""
    matched = policy.verdict(facts).rule.startswith("r ")
    assert policy.trace(facts).clauses[0].matched is matched
    return matched


# Condition, values that satisfy it, values that do not.
SEMANTICS: list[tuple[str, list[Any], list[Any]]] = [
    ("task.work: 5", [5, 5.0], [4, 6, 5.5]),
    ("task.work: {gt: 5}", [5.1, 6], [5, 4]),
    ("task.work: {gte: 5}", [5, 6], [4.9]),
    ("task.work: {lt: 5}", [4.9, -1], [5]),
    ("task.work: {lte: 5}", [5, 0], [5.1]),
    ("task.work: {between: [2, 5]}", [2, 3.5, 5], [1.9, 5.1]),
    ("task.work: {in: [1, 2.5]}", [1, 2.5], [2]),
    ("task.work: {not_in: [1, 2.5]}", [2, 0], [1, 2.5]),
    ("task.work: {gte: 2, lt: 5}", [2, 4.9], [1, 5]),
    ("task.bytes: {gte: 1KiB}", [1024], [1023]),
    ("task.deadline_ms: {lt: 1.5s}", [1499.9], [1500]),
    ("hardware.cpu.utilisation: {gt: 80%}", [0.81], [0.8]),
    ("hardware.cpu.available: false", [False], [True]),
    ("hardware.cuda_gpu.watts: {gte: 0.25kW}", [250.0], [249.9]),
    ("hardware.on_battery: true", [True], [False]),
    ("hardware.on_battery: {not_in: [true]}", [False], [True]),
    ("hardware.thermal: {in: [serious, critical]}", ["serious"], ["fair"]),
    ("workload.name: linalg.gemm", ["linalg.gemm"], ["linalg.gemv", "xlinalg.gemm"]),
    ("workload.name: '*.monte_carlo*'", ["options.monte_carlo_european"], ["monte_carlo", "risk.var_historical"]),
    ("workload.name: 'risk.*'", ["risk.greeks_batch"], ["arisk.greeks_batch", "risk"]),
    ("workload.name: '*_batch'", ["risk.greeks_batch"], ["risk.greeks_batch2"]),
    ("workload.name: 'indicators.[se]ma'", ["indicators.sma", "indicators.ema"], ["indicators.rsi", "indicators.SMA"]),
    ("workload.name: 'indicators.?ma'", ["indicators.sma"], ["indicators.ma"]),
    ("workload.name: {in: ['risk.*', linalg.gemm, 'ml.*']}", ["risk.x", "linalg.gemm", "ml.x"], ["options.x"]),
    ("workload.name: {not_in: ['risk.*', linalg.gemm]}", ["ml.x"], ["risk.x", "linalg.gemm"]),
    ("workload.engine: Risk", [("Risk",), ("ML", "Risk"), ["ML", "Risk"], "Risk"], [("ML",), ()]),
    ("workload.engine: {in: [Risk, 'M*']}", [("ML",), ("X", "Risk")], [("X",)]),
    ("workload.engine: {not_in: [Risk]}", [("ML",), ()], [("Risk",), ("ML", "Risk")]),
    ("client.name: '*'", ["", "any"], []),
    ("client.name: 'a.b'", ["a.b"], ["axb"]),
    ("client.uid: self", [SELF], [0, 1]),
    ("client.uid: root", [0], [SELF]),
    ("client.uid: {not_in: [self, root]}", [1], [0, SELF]),
    ("client.uid: {in: [7, self]}", [7, SELF], [0]),
    ("client.gid: 20", [20], [21]),
    ("time.local: 6:00", ["06:00"], ["06:01"]),
    ("time.local: {between: ['08:00', '18:00']}", ["08:00", "17:59"], ["07:59", "18:00"]),
    ("time.local: {between: ['22:00', '06:00']}", ["22:00", "23:59", "00:00", "05:59"], ["06:00", "12:00", "21:59"]),
    ("time.local: {between: ['22:00', '24:00']}", ["22:00", "23:59"], ["00:00", "21:59"]),
    ("time.local: {gte: '22:00'}", ["22:00", "23:00"], ["21:59"]),
    ("time.local: {lt: '06:00'}", ["00:00"], ["06:00"]),
    ("time.weekday: Saturday", ["sat"], ["sun"]),
    ("time.weekday: {in: [sat, sun]}", ["sat", "sun"], ["mon"]),
    ("time.weekday: {between: [mon, fri]}", ["mon", "wed", "fri"], ["sat", "sun"]),
    ("time.weekday: {between: [fri, mon]}", ["fri", "sat", "sun", "mon"], ["tue", "thu"]),
    ("flags.METAL_GPU_PRIORITY: {in: [HIGH, LOW]}", ["HIGH"], ["MEDIUM"]),
    ("flags.LARGE_DATA_THRESHOLD: {gt: 10}", [11], [10]),
    ("flags.PARALLEL_THRESHOLD: {between: [1, 3]}", [2], [4]),
    ("flags.GPU_DEBUG: on", [True], [False]),
]  # fmt: skip


@pytest.mark.parametrize(("tests", "good", "bad"), SEMANTICS, ids=[case[0] for case in SEMANTICS])
def test_conditions(compiled: Callable[..., CompiledPolicy], tests: str, good: list[Any], bad: list[Any]) -> None:
    policy = compiled(one_rule(tests))
    (fact,) = policy.facts_used
    for value in good:
        assert matches(policy, {fact: value}), value
    for value in bad:
        assert not matches(policy, {fact: value}), value
        assert policy.trace({fact: value}).clauses[0].conditions[0].value == value


def test_every_operator_is_covered_by_these_cases() -> None:
    text = " ".join(case[0] for case in SEMANTICS)
    for operator in ("in", "not_in", "gt", "gte", "lt", "lte", "between"):
        assert f"{operator}: " in text


@pytest.mark.parametrize("facts", [{}, {"task.batch": None}])
def test_a_missing_fact_does_not_match_unless_told_so(
    compiled: Callable[..., CompiledPolicy], facts: dict[str, Any]
) -> None:
    tests = "task.batch: {not_in: [1]}"
    skips, takes = compiled(one_rule(tests)), compiled(one_rule(tests, ", on_missing: match"))
    assert not matches(skips, facts)
    assert matches(takes, facts)
    for policy, holds in ((skips, False), (takes, True)):
        (condition,) = policy.trace(facts).clauses[0].conditions
        assert (condition.outcome, condition.value, condition.holds) == ("missing", None, holds)


def test_on_missing_leaves_the_other_conditions_in_force(compiled: Callable[..., CompiledPolicy]) -> None:
    policy = compiled(one_rule("task.batch: 1, task.work: 2, client.name: x", ", on_missing: match"))
    assert matches(policy, {"task.work": 2})
    assert not matches(policy, {"task.work": 3})
    assert not matches(policy, {"task.batch": 2, "task.work": 2, "client.name": "x"})


@pytest.mark.parametrize("extra", ["", ", on_missing: match"])
def test_exists_is_never_missing(compiled: Callable[..., CompiledPolicy], extra: str) -> None:
    present = compiled(one_rule("task.batch: {exists: true}", extra))
    absent = compiled(one_rule("task.batch: {exists: false}", extra))
    assert matches(present, {"task.batch": 0}) and not matches(present, {})
    assert matches(absent, {}) and not matches(absent, {"task.batch": 0})


def test_flags_stand_in_for_facts_that_are_not_given(compiled: Callable[..., CompiledPolicy]) -> None:
    policy = compiled(one_rule("flags.GPU_DEBUG: true, flags.PARALLEL_THRESHOLD: {exists: false}"), GPU_DEBUG=True)
    assert matches(policy, {})
    assert not matches(policy, {"flags.GPU_DEBUG": False})
    assert not matches(policy, {"flags.PARALLEL_THRESHOLD": 4})


POLICY = """
constraints:
- {id: cap, when: {hardware.thermal: critical}, deny: [metal_gpu, cpu.torch]}
- {id: strangers, when: {client.uid: {not_in: [self, root]}}, allow: [cpu, metal.mlx]}
- {id: never, deny: [hybrid]}
rules:
- {id: first, when: {task.work: {gte: 100}}, prefer: [metal_gpu, cpu], unless_slower_than: 2, split: auto}
- {id: second, when: {task.work: {gte: 10}}, objective: {energy: 3, latency: 1}}
default: {objective: {throughput: 1}, split: never}
"""


def test_the_first_rule_that_matches_wins(compiled: Callable[..., CompiledPolicy]) -> None:
    policy = compiled(POLICY)
    first, second, default = (policy.verdict({"task.work": work}) for work in (1000, 50, 5))
    assert first.rule == "first (0.yaml:9)"
    assert (first.prefer, first.unless_slower_than, first.split) == (("metal_gpu", "cpu"), 2.0, "auto")
    assert dict(first.objective) == {"latency": 1.0}
    assert second.rule == "second (0.yaml:10)"
    assert (second.prefer, second.unless_slower_than, second.split) == ((), None, None)
    assert dict(second.objective) == {"latency": 0.25, "energy": 0.75}
    assert default.rule == "default (0.yaml:11)"
    assert (dict(default.objective), default.split) == ({"throughput": 1.0}, "never")


def test_without_a_default_section_the_built_in_one_is_named(compiled: Callable[..., CompiledPolicy]) -> None:
    assert compiled("rules: []\n").verdict({}).rule == "default (built in)"


def test_constraints_object_and_say_why(compiled: Callable[..., CompiledPolicy]) -> None:
    policy = compiled(POLICY)
    calm = policy.verdict({"client.uid": SELF})
    assert calm.objection("metal.mlx", "metal_gpu") is None
    assert calm.objection("split.two", "hybrid") == "denied by constraint never (0.yaml:7)"
    hot = policy.verdict({"client.uid": SELF, "hardware.thermal": "critical"})
    assert hot.objection("metal.mlx", "metal_gpu") == "denied by constraint cap (0.yaml:5)"
    assert hot.objection("cpu.torch", "cpu") == "denied by constraint cap (0.yaml:5)"
    assert hot.objection("cpu.numpy", "cpu") is None
    stranger = policy.verdict({"client.uid": 7, "hardware.thermal": "critical"})
    assert stranger.objection("cpu.numpy", "cpu") is None
    assert stranger.objection("metal.mlx", "metal_gpu") == "denied by constraint cap (0.yaml:5)"
    assert stranger.objection("ane.coreml", "neural_engine") == (
        "not allowed by constraint strangers (0.yaml:6), which allows only cpu, metal.mlx"
    )
    assert policy.verdict({"client.uid": 7}).objection("metal.mlx", "metal_gpu") is None


def test_a_verdict_cannot_be_changed(compiled: Callable[..., CompiledPolicy]) -> None:
    verdict = compiled(POLICY).verdict({})
    with pytest.raises(TypeError):
        verdict.objective["energy"] = 1.0  # type: ignore[index]
    with pytest.raises(AttributeError):
        verdict.rule = "other"  # type: ignore[misc]


def test_verdicts_stay_right_when_more_exist_than_are_kept(
    compiled: Callable[..., CompiledPolicy], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("routerd.policy.evaluate._KEPT_VERDICTS", 2)
    policy = compiled(POLICY)
    works = [1000, 50, 5, 1000, 50, 5]
    assert [policy.verdict({"task.work": work}).rule.split()[0] for work in works] == ["first", "second", "default"] * 2


def test_what_a_policy_asks_about(compiled: Callable[..., CompiledPolicy]) -> None:
    policy = compiled(POLICY)
    assert policy.facts_used == {"hardware.thermal", "client.uid", "task.work"}
    assert policy.pieces("task.work") == (0.0, 10.0, 100.0)


def test_the_trace_shows_every_clause(compiled: Callable[..., CompiledPolicy]) -> None:
    trace = compiled(POLICY).trace({"task.work": 200.0, "client.uid": 7})
    assert [(c.kind, c.id, c.matched, c.selected) for c in trace.clauses] == [
        ("constraint", "cap", False, False),
        ("constraint", "strangers", True, True),
        ("constraint", "never", True, True),
        ("rule", "first", True, True),
        ("rule", "second", True, False),
        ("default", "default", True, False),
    ]
    assert (
        trace.clauses[3].effect == "prefer metal_gpu, then cpu unless 2 times slower; objective latency 1; split auto"
    )
    assert trace.clauses[1].effect == "allow only cpu, metal.mlx"
    assert trace.clauses[5].place == "0.yaml:11"
    assert (trace.rule, trace.prefer, trace.unless_slower_than, trace.split) == (
        "first (0.yaml:9)",
        ("metal_gpu", "cpu"),
        2.0,
        "auto",
    )


def test_a_trace_survives_the_wire(compiled: Callable[..., CompiledPolicy]) -> None:
    policy = compiled(one_rule("workload.engine: Risk, task.work: 1, hardware.on_battery: true, task.batch: 2"))
    trace = policy.trace({"workload.engine": ["Risk", "ML"], "task.work": 1.5, "hardware.on_battery": True})
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(trace), type=Trace) == trace


def test_globs_agree_with_the_shell_rules(compiled: Callable[..., CompiledPolicy]) -> None:
    from fnmatch import fnmatchcase

    rng = random.Random(7)
    for _ in range(60):
        pattern = "".join(rng.choices("ab.*?", k=rng.randint(1, 5))) + rng.choice(["", "*", "[ab]", "[!a]"])
        policy = compiled(one_rule(f"client.name: '{pattern}'"))
        for _ in range(40):
            name = "".join(rng.choices("abA.*", k=rng.randint(0, 6)))
            assert matches(policy, {"client.name": name}) is fnmatchcase(name, pattern), (pattern, name)
