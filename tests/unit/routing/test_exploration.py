"""Exploration: bounded by its budget, quick to notice what has become faster, and never at a deadline's expense."""

from __future__ import annotations

from routerd.routing.exploration import Explorer, tried_elsewhere
from routerd.routing.ground import decide
from routerd.types import Candidate
from tests.unit.routing.conftest import random_ground


def candidate(backend: str, seconds: float) -> Candidate:
    return Candidate(backend, "cpu", seconds, 0.0, 0.0, seconds, 0.05, 0.0)


FAST, SLOW = candidate("a", 1.0), candidate("b", 3.0)


def run(explorer: Explorer, tasks: int, seconds: dict[str, float], deadline: float | None = None) -> list[str]:
    """Where each task ran, with predictions that never learn."""
    log = []
    for _ in range(tasks):
        ran = explorer.pick("w", (FAST, SLOW), deadline) or FAST
        explorer.account("w", FAST, ran, seconds[ran.backend])
        log.append(ran.backend)
    return log


def test_the_budget_bounds_what_exploration_costs():
    log = run(Explorer(0.01), 5000, {"a": 1.0, "b": 3.0})
    extra = log.count("b") * 2.0
    assert 0 < extra <= 0.0101 * 5000 * 1.02


def test_without_budget_nothing_is_tried():
    assert run(Explorer(0.0), 1000, {"a": 1.0, "b": 3.0}).count("b") == 0


def test_a_backend_that_has_recovered_is_tried_again_at_once():
    explorer = Explorer(0.01)
    log = run(explorer, 1000, {"a": 1.0, "b": 0.5})
    first = log.index("b")
    assert log[first : first + 20] == ["b"] * 20


def test_a_task_with_a_tight_deadline_is_never_tried_elsewhere():
    assert run(Explorer(0.2), 2000, {"a": 1.0, "b": 3.0}, deadline=3.1).count("b") == 0
    assert run(Explorer(0.2), 2000, {"a": 1.0, "b": 3.0}, deadline=9.0).count("b") > 0


def test_hopeless_backends_are_left_alone():
    explorer = Explorer(0.2)
    for _ in range(1000):
        assert explorer.pick("w", (FAST, candidate("c", 100.0)), None) is None
        explorer.account("w", FAST, FAST, 1.0)


def test_tasks_that_arrive_together_share_the_credit():
    explorer = Explorer(0.01)
    for _ in range(1000):
        explorer.account("w", FAST, FAST, 1.0)
    assert [explorer.pick("w", (FAST, SLOW), None) for _ in range(64)].count(SLOW) == 1


def test_a_backend_that_fails_is_not_tried_with_every_task():
    """Its task runs elsewhere in the end, which is nobody's time."""
    explorer = Explorer(0.01)
    picked = 0
    for _ in range(5000):
        if explorer.pick("w", (FAST, SLOW), None) is None:
            explorer.account("w", FAST, FAST, 1.0)
        else:
            picked += 1
    assert 0 < picked <= 0.0101 * 5000 / 2.0


def test_times_that_cannot_be_change_nothing():
    explorer = Explorer(0.2)
    for seconds in (0.0, -1.0, float("nan"), float("inf")):
        explorer.account("w", FAST, SLOW, seconds)
    assert explorer.explored == 0


def test_a_decision_that_explores_says_so():
    ground = next(ground for ground in map(random_ground, range(50)) if len(ground.offers) > 2)
    decision, ranking = decide(ground, 1e5, "id")
    moved, order = tried_elsewhere(decision, ranking, ranking[1])
    assert moved.in_time is None
    assert moved.backend == ranking[1].backend == order[0].backend
    assert moved.fallbacks == order[1:]
    assert "exploration" in moved.reasoning
    assert 0.0 <= moved.confidence <= 1.0
    assert {one.backend for one in order} == {one.backend for one in ranking}


def test_a_decision_that_explores_says_how_likely_it_is_in_time():
    decision, ranking = decide(
        next(ground for ground in map(random_ground, range(50)) if len(ground.offers) > 2), 1e5, "id"
    )
    tried, deadline = ranking[1], ranking[1].predicted_seconds
    in_time, hurried = (
        tried_elsewhere(decision, ranking, tried, limit)[0].in_time for limit in (100.0 * deadline, 0.5 * deadline)
    )
    assert in_time is not None
    assert hurried is not None
    assert hurried < 0.5 < in_time
