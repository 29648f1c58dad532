"""When a task may be shared, by whom, and what keeps it from being: constraints, proofs, and that it was never timed."""

from __future__ import annotations

import pytest

from routerd.costs.model import CostModel, ModelState, Point
from routerd.errors import NoCandidate
from routerd.flags import load_flags
from routerd.planner import Planner
from routerd.routing.entry import spans_of
from routerd.types import Task

GEMM, WORK = "linalg.gemm", 1e8
AUTO = "default: {split: auto}\n"
ALL = ("ane.coreml", "cpu.numpy", "metal.mlx")


@pytest.fixture
def decide(fleet, policy_of):
    def decide(body=AUTO, *, environment=None, workload=GEMM, tolerance=1e-5, work=WORK):
        active = policy_of(body)
        planner = Planner(fleet, load_flags(environment or {}))
        task = Task(workload, {}, {}, {}, work, 0, tolerance)
        decision, ranking = planner.decide(task, active.compiled.verdict({}), active, "id")
        reasons = {one.backend: one.reason for one in decision.rejected}
        return decision, {one.backend: one for one in ranking}, reasons.get("hybrid")

    return decide


def time_together(fleet, members, rate, workload=GEMM):
    team = fleet.teams.form(workload, members)
    team.model = CostModel(ModelState(tuple(Point(10.0**n, 1e-4 + rate * 10.0**n, 0.05) for n in range(3, 10))))
    return team


@pytest.mark.parametrize(
    ("body", "environment"),
    [
        ("", {}),
        ("default: {split: never}\n", {"HYBRID_ACCELERATION": "true"}),
        (AUTO, {"AUTO_HARDWARE_ROUTING": "false"}),
    ],
)
def test_nobody_hears_of_sharing_who_has_not_asked_for_it(fleet, decide, body, environment):
    time_together(fleet, ALL, 1e-12)
    _decision, ranking, reason = decide(body, environment=environment)
    assert "hybrid" not in ranking
    assert reason is None


@pytest.mark.parametrize(("body", "environment"), [(AUTO, {}), ("", {"HYBRID_ACCELERATION": "true"})])
def test_it_is_chosen_where_it_was_measured_to_be_quickest(fleet, decide, body, environment):
    team = time_together(fleet, ALL, 5e-11)
    decision, ranking, reason = decide(body, environment=environment)
    assert (decision.backend, decision.primary_hardware, reason) == ("hybrid", "hybrid", None)
    assert ranking["hybrid"].members == ALL
    assert ranking["hybrid"].error == 1e-7
    assert decision.predicted_seconds == pytest.approx(team.model.predict(WORK).seconds)
    assert decision.reasoning.startswith("hybrid (ane.coreml + cpu.numpy + metal.mlx): ")


def test_it_is_not_chosen_where_it_was_measured_to_be_slower(fleet, decide):
    time_together(fleet, ALL, 2e-10)  # each alone would promise 0.08 ns a unit
    decision, ranking, _reason = decide()
    assert decision.backend == "metal.mlx"
    assert "hybrid" in ranking


def test_before_it_was_timed_it_is_no_candidate_but_will_be_timed(fleet, decide):
    wanted = []
    fleet.on_want = lambda: wanted.append(True)
    _decision, ranking, reason = decide()
    assert "hybrid" not in ranking
    assert reason == "not yet timed as hybrid of ane.coreml + cpu.numpy + metal.mlx"
    assert fleet.teams.find(GEMM, ALL) is not None
    assert wanted == [True]
    decide()
    assert wanted == [True]


@pytest.mark.parametrize(
    ("body", "members"),
    [
        ("constraints: [{id: c, deny: [metal.mlx]}]\n" + AUTO, ("ane.coreml", "cpu.numpy")),
        ("constraints: [{id: c, deny: [metal_gpu]}]\n" + AUTO, ("ane.coreml", "cpu.numpy")),
        ("constraints: [{id: c, allow: [cpu, metal_gpu, hybrid]}]\n" + AUTO, ("cpu.numpy", "metal.mlx")),
    ],
)
def test_whom_a_constraint_bars_takes_no_part(fleet, decide, body, members):
    time_together(fleet, ALL, 1e-12)
    assert decide(body)[2] == f"not yet timed as hybrid of {' + '.join(members)}"
    time_together(fleet, members, 5e-12)
    assert decide(body)[1]["hybrid"].members == members


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("constraints: [{id: c, deny: [hybrid]}]\n" + AUTO, "denied by constraint c"),
        ("constraints: [{id: c, allow: [cpu, hybrid]}]\n" + AUTO, "fewer than two workers may take it"),
        ("default: {split: auto, objective: {energy: 1}}\n", "for the objective latency alone"),
    ],
)
def test_why_not(fleet, decide, body, words):
    time_together(fleet, ALL, 1e-12)
    _decision, ranking, reason = decide(body)
    assert words in reason
    assert "hybrid" not in ranking


def test_what_is_beyond_a_members_proof_is_beyond_the_team(fleet, decide):
    time_together(fleet, ALL, 1e-12)
    assert decide(tolerance=1e-9)[2] == "fewer than two workers may take it"


def test_a_workload_that_does_not_split_says_so(decide):
    assert decide(workload="portfolio.markowitz")[2] == "portfolio.markowitz does not split"


def test_members_have_to_be_timed_first(fleet, decide):
    fleet.backends["metal.mlx"].pairs[GEMM].model = CostModel()
    assert decide()[2] == "its members are not all timed yet"


def test_it_waits_for_the_last_of_its_workers(fleet, decide):
    time_together(fleet, ALL, 5e-11)
    fleet.backends["cpu.numpy"].worker.load(3.0)
    decision, ranking, _reason = decide()
    assert ranking["hybrid"].queue_seconds == 3.0
    assert decision.backend == "metal.mlx"


def test_a_table_says_hybrid_only_while_all_its_workers_are_idle(fleet, policy_of):
    time_together(fleet, ALL, 5e-11)
    active = policy_of(AUTO)
    planner = Planner(fleet, load_flags({}))
    ground = planner.ground(GEMM, 1e-5, active.compiled.verdict({}), active, in_process=False, large=False)
    spans = [span for span in spans_of([(0.0, 0)], [ground]) if span.backend == "hybrid"]
    assert spans
    assert {span.workers for span in spans} == {0b111}


def test_teams_are_formed_ahead_of_tasks_only_where_some_rule_could_use_them(fleet, policy_of):
    Planner(fleet, load_flags({})).form_teams(policy_of("").policy)
    assert not list(fleet.teams)
    body = "rules: [{id: r, when: {task.work: {gte: 1}}, split: auto}]\n"
    Planner(fleet, load_flags({})).form_teams(policy_of(body).policy)
    found = list(fleet.teams)
    assert {team.members for team in found} == {ALL}
    assert {team.workload for team in found} == {
        name for name, workload in fleet.workloads.items() if workload.split is not None and workload.tolerance >= 1e-7
    }


def test_it_offers_nothing_of_its_own(fleet, decide):
    """Where no backend may run a task, neither may they together."""
    time_together(fleet, ALL, 1e-12)
    with pytest.raises(NoCandidate):
        decide("constraints: [{id: c, allow: [hybrid]}]\n" + AUTO)
