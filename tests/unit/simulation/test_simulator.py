"""Scoring routing in worlds: the same figures for the same seed, and routing as good as it has to be."""

from __future__ import annotations

import math
from statistics import fmean

import msgspec
import pytest

from routerd.scoring.baselines import priority_order
from routerd.scoring.report import OURS, Report, make_report
from routerd.simulation.simulator import score_world

TASKS = 100


@pytest.fixture(scope="module")
def report(m4_max) -> Report:
    trials, samples = score_world(m4_max, TASKS, seed=1)
    backends = [(backend.name, backend.device_kind, backend.precision) for backend in m4_max.backends]
    return make_report(trials, samples, priority_order(backends), seed=1)


def test_the_same_seed_gives_the_same_figures_and_another_does_not(tiny):
    assert score_world(tiny, 20, seed=3) == score_world(tiny, 20, seed=3)
    assert score_world(tiny, 20, seed=3) != score_world(tiny, 20, seed=4)


def test_a_task_does_not_depend_on_how_many_others_there_are(tiny):
    few, many = score_world(tiny, 5, seed=3).trials, score_world(tiny, 50, seed=3).trials
    assert [trial for trial in few if trial.workload == "sort"] == [t for t in many if t.workload == "sort"][:5]


def test_work_without_a_choice_is_not_scored(tiny):
    scored = score_world(tiny, 10, seed=1)
    assert {trial.workload for trial in scored.trials} == {"sort", "sum"}
    assert {sample.workload for sample in scored.samples} == {"sort", "sum"}


def test_trials_are_what_the_world_says_of_them(tiny):
    world = msgspec.structs.replace(tiny, noise_log_sigma=0.0, bias_log_sigma=0.0)
    for trial in score_world(world, 30, seed=1).trials:
        for backend in world.backends:
            truth = backend.overhead_seconds + world.seconds(backend.name, trial.workload, trial.work)
            assert trial.seconds[backend.name] == pytest.approx(truth, rel=1e-12)
            assert trial.predicted[backend.name] == pytest.approx(truth, rel=0.05)


def test_tasks_lie_around_the_curve_by_the_bias_of_the_world(tiny):
    distances = [
        math.log(
            (trial.seconds[backend.name] - backend.overhead_seconds) / tiny.seconds(backend.name, "sum", trial.work)
        )
        for trial in score_world(tiny, 300, seed=1).trials
        if trial.workload == "sum"
        for backend in tiny.backends
    ]
    assert math.sqrt(fmean(distance**2 for distance in distances)) == pytest.approx(tiny.bias_log_sigma, rel=0.1)


def test_calibration_stops_before_runs_that_take_too_long(tiny):
    slow = msgspec.structs.replace(
        tiny.curves[0], points=tuple((work, 1e3 * seconds) for work, seconds in tiny.curves[0].points)
    )
    world = msgspec.structs.replace(tiny, curves=(slow, *tiny.curves[1:]))
    works = [
        one.work
        for one in score_world(world, 1, seed=1).samples
        if (one.workload, one.backend) == ("sort", "cpu.numpy")
    ]
    assert world.seconds("cpu.numpy", "sort", max(works)) < 0.2 < world.seconds("cpu.numpy", "sort", 1e6)


class TestTargets:
    """What routing has to reach on the synthetic M4 Max."""

    def test_every_workload_with_a_choice_is_in_it(self, m4_max, report):
        contested = [name for name in m4_max.workloads if len(m4_max.candidates(name)) > 1]
        assert report.score.trials == TASKS * len(contested)
        assert len(contested) >= 20

    def test_the_choice_is_right(self, report):
        assert report.score.choices.right_rate >= 0.97

    def test_mistakes_cost_little(self, report):
        assert report.score.choices.mean_regret <= 0.01

    def test_confidence_is_true(self, report):
        assert report.score.calibration_error <= 0.05

    def test_it_is_better_than_every_baseline(self, report):
        others = [one for one in report.choosers if one.name != OURS]
        assert len(others) >= 5
        for other in others:
            assert report.score.choices.right_rate > other.choices.right_rate, other.name
            assert report.score.choices.mean_regret < other.choices.mean_regret, other.name
