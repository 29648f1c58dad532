"""Warnings about clauses that never take effect, and silence about those that do."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from routerd.policy import Policy

Load = Callable[..., Policy]


def rules(*whens: str) -> str:
    return "rules:\n" + "".join(f"- {{id: r{n}, split: auto, {when}}}\n" for n, when in enumerate(whens))


def when(*tests: str) -> str:
    return f"when: {{{', '.join(tests)}}}"


def warnings(policy: Policy) -> list[str]:
    return [str(warning) for warning in policy.warnings]


def test_a_rule_after_an_unconditional_one_is_unreachable(load: Load) -> None:
    found = warnings(load(rules(when("task.work: 1"), "on_missing: skip", when("task.work: 2"), when("task.work: 3"))))
    assert found == [
        "0.yaml:6:3: rule r2 is never reached: rule r1 before it matches always (line 5); move it up",
        "0.yaml:7:3: rule r3 is never reached: rule r1 before it matches always (line 5); move it up",
    ]


SHADOWED = [
    (when("task.work: {gte: 10}"), when("task.work: {gte: 100}")),
    (when("task.work: {gte: 10}"), when("task.work: {gt: 10}")),
    (
        when("task.work: {between: [1, 9]}"),
        when("task.work: 5"),
    ),
    (when("task.work: {lt: 10}"), when("task.work: {in: [1, 2]}")),
    (when("task.work: {lt: 10}"), when("task.work: {lt: 5}", "client.name: x")),
    (when("workload.name: '*'"), when("workload.name: linalg.gemm")),
    (when("workload.name: 'risk.*'"), when("workload.name: {in: [risk.greeks_batch, risk.var_historical]}")),
    (when("client.name: 'a*'"), when("client.name: 'a*'", "task.work: 1")),
    (when("client.name: {not_in: [a]}"), when("client.name: {not_in: [a, b]}")),
    (when("client.uid: {in: [self, 5]}"), when("client.uid: self")),
    (when("workload.engine: {in: [ML, Risk]}"), when("workload.engine: ML")),
    (when("time.local: {between: ['22:00', '06:00']}"), when("time.local: '23:00'")),
    (when("time.weekday: {between: [fri, mon]}"), when("time.weekday: {in: [sat, sun]}")),
    (when("task.batch: {exists: true}"), when("task.batch: {exists: true}", "task.work: 1")),
    (when("task.work: 1") + ", on_missing: match", when("task.work: 1")),
    (when("task.work: 1") + ", on_missing: match", when("task.work: 1") + ", on_missing: match"),
]
REACHABLE = [
    (when("task.work: {gte: 100}"), when("task.work: {gte: 10}")),
    (when("task.work: {gt: 10}"), when("task.work: {gte: 10}")),
    (when("task.work: {lt: 9}"), when("task.work: {between: [1, 9]}")),
    (when("task.work: {lt: 10}", "client.name: x"), when("task.work: {lt: 5}")),
    (when("workload.name: 'risk.*'"), when("workload.name: {in: [risk.greeks_batch, linalg.gemm]}")),
    (when("client.name: 'a*'"), when("client.name: '*b'")),
    (when("client.name: {not_in: [a, b]}"), when("client.name: {not_in: [a]}")),
    (when("client.uid: 0"), when("client.uid: root")),
    (when("workload.engine: {not_in: [Risk]}"), when("workload.engine: ML")),
    (when("task.batch: {exists: true}"), when("task.batch: {exists: false}")),
    (when("task.work: 1"), when("task.work: 1") + ", on_missing: match"),
    (when("time.local: {between: ['22:00', '06:00']}"), when("time.local: '06:00'")),
]


@pytest.mark.parametrize(("earlier", "later"), SHADOWED)
def test_a_more_special_rule_after_a_more_general_one_is_shadowed(load: Load, earlier: str, later: str) -> None:
    assert warnings(load(rules(earlier, later))) == [
        "0.yaml:5:3: rule r1 is never reached: rule r0 before it matches whenever it does (line 4); move it up"
    ]


@pytest.mark.parametrize(("earlier", "later"), REACHABLE)
def test_rules_that_can_be_reached_are_left_in_peace(load: Load, earlier: str, later: str) -> None:
    assert warnings(load(rules(earlier, later))) == []


CONTRADICTIONS = [
    ("task.work: {gt: 5, lt: 5}", "no value of task.work meets > 5 and < 5"),
    ("task.work: {gte: 5, lt: 5}", "no value of task.work meets >= 5 and < 5"),
    ("task.work: {in: [1, 2], gt: 2}", "no value of task.work meets in [1, 2] and > 2"),
    ("client.name: {in: [a], not_in: ['a*']}", "no value of client.name meets in [a] and not in [a*]"),
    ("task.batch: {exists: false, gt: 1}", "task.batch is asked to be missing and compared as well"),
    ("workload.name: linalg.gemm, workload.family: ml", "no workload has this name and this family"),
    ("workload.name: 'risk.*', workload.family: {not_in: [risk]}", "no workload has this name and this family"),
]


@pytest.mark.parametrize(("tests", "reason"), CONTRADICTIONS)
def test_contradictions_are_told(load: Load, tests: str, reason: str) -> None:
    assert warnings(load(rules(when(tests)))) == [f"0.yaml:4:3: rule r0 can never match: {reason}"]
    constraint = f"constraints: [{{id: c, deny: [cpu], {when(tests)}}}]\n"
    assert warnings(load(constraint)) == [f"0.yaml:3:15: constraint c can never match: {reason}"]


@pytest.mark.parametrize(
    "tests",
    [
        "task.work: {gte: 5, lte: 5}",
        "task.work: {in: [1, 3], gt: 2}",
        "workload.name: 'risk.*', workload.family: risk",
        "workload.engine: {in: [ML], not_in: [Risk]}",
        "client.uid: {in: [self], not_in: [root]}",
        "client.name: {in: ['a*'], not_in: [ab]}",
    ],
)
def test_conditions_that_can_hold_are_left_in_peace(load: Load, tests: str) -> None:
    assert warnings(load(rules(when(tests)))) == []


def test_a_missing_fact_can_make_a_contradiction_hold(load: Load) -> None:
    assert warnings(load(rules(when("task.batch: {gt: 5, lt: 5}") + ", on_missing: match"))) == []


def test_an_impossible_rule_hides_no_other(load: Load) -> None:
    found = warnings(
        load(rules(when("task.work: {gt: 5, lt: 5}"), when("task.work: {gt: 5, lt: 5}", "client.name: x")))
    )
    assert [warning.split(": ", 1)[1] for warning in found] == [
        "rule r0 can never match: no value of task.work meets > 5 and < 5",
        "rule r1 can never match: no value of task.work meets > 5 and < 5",
    ]


def test_a_glob_that_matches_nothing_is_a_warning(load: Load) -> None:
    found = warnings(
        load(rules(when("workload.name: 'opions.*'", "workload.family: 'r?sk'", "workload.engine: {in: ['X*']}")))
    )
    assert found == [
        "0.yaml:4:47: opions.* matches no workload that exists here",
        "0.yaml:4:107: X* matches no engine that exists here",
    ]


def test_an_unused_parameter_is_a_warning(load: Load) -> None:
    assert warnings(load("params: {used: 1, idle: 2}\n" + rules(when("task.work: $used")))) == [
        "0.yaml:3:19: the parameter idle is never used"
    ]
