"""Trials against a daemon that is made up: what is asked of it, in which order, and what becomes of the answers."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest

from routerd.cli import trial_runs
from routerd.cli.trial_runs import (
    Decided,
    KnownPair,
    TaskDraw,
    TrialRunner,
    declaration,
    draw_tasks,
    pairs_of,
    samples_of,
    ways_of,
)
from routerd.errors import BadRequest, ExecutionError, NoCandidate, Overloaded, RouterdError
from routerd.protocol import Ask, MeasureTask
from routerd.scoring.trials import Sample

GEMM = "linalg.gemm"


def candidate(backend, seconds, queue=0.0):
    return {"backend": backend, "predicted_seconds": seconds, "queue_seconds": queue, "transfer_seconds": 6e-5}


def decision(seconds, work=1e6, queue=0.0):
    """A decision for the first of ``seconds`` by backend."""
    (chosen, predicted), *others = seconds.items()
    return {
        "backend": chosen,
        "predicted_seconds": predicted,
        "confidence": 0.9,
        "work": work,
        "fallbacks": [candidate(name, value, queue) for name, value in others],
    }


def decided(seconds, work=1e6):
    return Decided(GEMM, TaskDraw(work, 3), decision(seconds, work))


class FakeLink:
    """Answers ``measure`` from seconds by backend, and anything else from a list of answers by method."""

    def __init__(self, seconds=None, **answers):
        self.seconds = seconds or {}
        self.answers = answers
        self.calls = []

    def call(self, method, params=None):
        self.calls.append((method, params))
        if method != "measure":
            queue = self.answers[method]
            answer = queue.pop(0) if len(queue) > 1 else queue[0]
            if isinstance(answer, Exception):
                raise answer
            return answer
        taken = self.seconds[params.backend]
        if isinstance(taken, Exception):
            raise taken
        return {"work": params.work, "seconds": [taken, 3.0 * taken, 2.0 * taken]}

    @property
    def measured(self):
        return [params for method, params in self.calls if method == "measure"]


IDLE = {"calibration_pending": 0, "workers": [{"waiting": 0}]}
BUSY = {"calibration_pending": 0, "workers": [{"waiting": 0}, {"waiting": 1}]}


@pytest.fixture
def clock(monkeypatch):
    """Time that passes only while somebody sleeps."""
    now = SimpleNamespace(seconds=0.0)

    def sleep(seconds):
        now.seconds += seconds

    monkeypatch.setattr(trial_runs.time, "sleep", sleep)
    monkeypatch.setattr(trial_runs.time, "monotonic", lambda: now.seconds)
    return now


@pytest.fixture
def steps():
    made = []

    def step(*what):
        made.append(what)

    step.made = made
    return step


class TestDrawing:
    def test_tasks_spread_over_five_decades_in_the_middle_of_the_range(self):
        drawn = draw_tasks(SimpleNamespace(name="wide", work_range=(1.0, 1e9)), 400, seed=1)
        logs = sorted(math.log10(one.work) for one in drawn)
        assert 2.0 <= logs[0] < 2.1
        assert 6.9 < logs[-1] <= 7.0
        assert abs(np.mean(logs) - 4.5) < 4 * 5 / math.sqrt(12 * 400)
        assert len({one.seed for one in drawn}) == 400

    def test_a_narrow_range_is_kept_to(self):
        drawn = draw_tasks(SimpleNamespace(name="narrow", work_range=(1e3, 5e5)), 200, seed=1)
        assert all(1e3 <= one.work <= 5e5 for one in drawn)

    def test_they_depend_on_seed_and_name_alone(self):
        gemm = declaration(GEMM)
        assert draw_tasks(gemm, 5, seed=1) == draw_tasks(gemm, 9, seed=1)[:5]
        assert draw_tasks(gemm, 5, seed=1) != draw_tasks(gemm, 5, seed=2)

    def test_a_model_has_no_examples_here(self):
        with pytest.raises(BadRequest, match="has no examples here"):
            declaration("ml.model/credit")


class TestDeciding:
    def test_a_task_is_asked_about_by_its_shapes(self):
        link = FakeLink(decide=[decision({"cpu.numpy": 1e-3})], status=[IDLE])
        (one,) = TrialRunner(link).decide(GEMM, [TaskDraw(1e6, 3)])
        method, ask = link.calls[0]
        assert (method, type(ask), ask.workload) == ("decide", Ask, GEMM)
        example = declaration(GEMM).example(1e6, np.random.default_rng(3))
        assert {name: ref.shape for name, ref in ask.arrays.items()} == {
            name: array.shape for name, array in example.arrays.items()}  # fmt: skip
        assert not any(ref.has_content for ref in ask.arrays.values())
        assert (one.draw, one.predicted) == (TaskDraw(1e6, 3), {"cpu.numpy": 1e-3})

    def test_a_decision_made_while_something_waited_is_asked_for_again(self, clock):
        two = {"cpu.numpy": 1e-3, "cpu.torch": 2e-3}
        link = FakeLink(decide=[decision(two, queue=0.5), decision(two), decision(two)], status=[BUSY, IDLE])
        (one,) = TrialRunner(link).decide(GEMM, [TaskDraw(1e6, 3)])
        assert [method for method, _ in link.calls] == ["decide", "decide", "status", "decide", "status"]
        assert one.decision["fallbacks"][0]["queue_seconds"] == 0.0

    def test_what_nothing_may_run_is_skipped(self):
        runner = TrialRunner(FakeLink(decide=[NoCandidate("denied")], status=[IDLE]))
        assert runner.decide(GEMM, [TaskDraw(1e6, 3), TaskDraw(1e5, 4)]) == []
        assert runner.run([], {}, lambda *_: None).skipped == {"no backend may run": 2}

    def test_a_daemon_that_stays_busy_cannot_be_scored(self, clock):
        link = FakeLink(decide=[decision({"cpu.numpy": 1e-3})], status=[BUSY])
        with pytest.raises(Overloaded, match="other clients keep the daemon busy"):
            TrialRunner(link).decide(GEMM, [TaskDraw(1e6, 3)])
        assert clock.seconds > 5.0


class TestSettling:
    def test_it_waits_for_calibration_in_the_background(self, clock, steps):
        left = [{"calibration_pending": n, "workers": [{"waiting": 1}]} for n in (3, 2, 1)]
        link = FakeLink(status=[*left, IDLE])
        TrialRunner(link).settle(steps)
        assert [(done, total) for done, total, _what in steps.made] == [(0, 3), (1, 3), (2, 3)]

    def test_what_is_only_timed_on_request_is_not_waited_for_long(self, clock, steps):
        link = FakeLink(status=[{"calibration_pending": 3, "workers": [{"waiting": 0}]}])
        TrialRunner(link).settle(steps)
        assert 1.7 < clock.seconds < 10.0

    def test_clients_that_keep_it_busy_are_an_error(self, clock, steps):
        with pytest.raises(Overloaded):
            TrialRunner(FakeLink(status=[BUSY])).settle(steps)


class TestRunning:
    def run(self, link, task):
        ways = {"a": 1e-4, "b": 2e-4, "c": 0.0}
        return TrialRunner(link).run([task], ways, lambda *_: None)

    def test_backends_take_turns_forwards_and_backwards(self):
        link = FakeLink({"a": 1e-3, "b": 4e-3, "c": 2e-3})
        ran = self.run(link, decided({"a": 1e-3, "b": 3e-3, "c": 2e-3}))
        assert [one.backend for one in link.measured] == ["a", "b", "c", "c", "b", "a"]
        assert set(link.measured) == {MeasureTask(GEMM, 1e6, name, 3, 0.1) for name in "abc"}
        (trial,) = ran.trials
        assert trial.seconds == pytest.approx({"a": 1e-4 + 2e-3, "b": 2e-4 + 8e-3, "c": 4e-3})
        assert trial.predicted == {"a": 1e-3, "b": 3e-3, "c": 2e-3}
        assert (trial.workload, trial.work, trial.chosen, trial.confidence) == (GEMM, 1e6, "a", 0.9)

    def test_every_run_is_kept_for_recording(self):
        ran = self.run(FakeLink({"a": 1e-3, "b": 4e-3}), decided({"a": 1e-3, "b": 3e-3}))
        assert len(ran.runs) == 12
        assert ran.runs[0] == Sample(GEMM, "a", 1e6, 1e-4 + 1e-3)

    def test_a_backend_that_cannot_win_runs_once(self):
        link = FakeLink({"a": 1e-3, "b": 1.0, "c": 1e-3})
        self.run(link, decided({"a": 1e-3, "b": 0.0201, "c": 0.0199}))
        assert [one.backend for one in link.measured] == ["a", "b", "c", "c", "a"]
        assert next(one for one in link.measured if one.backend == "b").budget_seconds < 1e-6

    def test_a_long_task_is_passed_over(self):
        link = FakeLink()
        ran = self.run(link, decided({"a": 1.5, "b": 3.0}))
        assert (ran.trials, link.calls) == ([], [])
        assert ran.skipped == {"predicted to take more than 1 s": 1}

    def test_a_backend_that_fails_is_left_out_and_named(self):
        link = FakeLink({"a": 1e-3, "b": ExecutionError("float32 cannot hold it"), "c": 1e-3})
        ran = self.run(link, decided({"a": 1e-3, "b": 1e-3, "c": 1e-3}))
        assert [one.backend for one in link.measured] == ["a", "b", "c", "c", "a"]
        assert ran.trials[0].seconds.keys() == {"a", "c"}
        assert ran.failures == {"b linalg.gemm": "float32 cannot hold it"}

    def test_without_the_choice_there_is_no_trial(self):
        ran = self.run(FakeLink({"a": ExecutionError("no"), "b": 1e-3}), decided({"a": 1e-3, "b": 1e-3}))
        assert (ran.trials, ran.runs) == ([], [])
        assert ran.skipped == {"failed on the choice": 1}

    def test_a_daemon_with_other_examples_is_noticed(self):
        task = Decided(GEMM, TaskDraw(1e6, 3), decision({"a": 1e-3}, work=2e6))
        with pytest.raises(RouterdError, match="restart the daemon"):
            self.run(FakeLink({"a": 1e-3}), task)


class TestWhatIsKnown:
    REPORT: ClassVar = {
        "backends": [
            {
                "name": "cpu.numpy",
                "state": "ready",
                "workloads": [
                    {"workload": GEMM, "state": "calibrated", "points": [{"work": 10.0, "seconds": 1e-3}]},
                    {"workload": "risk.var_historical", "state": "calibrated", "points": []},
                ],
            },
            {
                "name": "cpu.torch",
                "state": "down",
                "workloads": [{"workload": GEMM, "state": "calibrated", "points": []}],
            },
            {
                "name": "cpu.odd",
                "state": "ready",
                "workloads": [{"workload": GEMM, "state": "quarantined", "points": []}],
            },
        ]
    }

    def test_pairs_say_whether_they_take_tasks(self):
        assert pairs_of(self.REPORT, [GEMM]) == [
            KnownPair("cpu.numpy", GEMM, True, [(10.0, 1e-3)]),
            KnownPair("cpu.torch", GEMM, False, []),
            KnownPair("cpu.odd", GEMM, False, []),
        ]

    def test_every_able_pair_is_warmed(self, steps):
        link = FakeLink({"cpu.numpy": 1e-3}, backends=[self.REPORT])
        TrialRunner(link).warm([GEMM], steps)
        (asked,) = link.measured
        assert (asked.backend, asked.work) == ("cpu.numpy", declaration(GEMM).work_range[0])

    def test_samples_have_the_way_in_them_as_trials_do(self):
        pairs = [KnownPair("a", GEMM, True, [(10.0, 1e-3)]), KnownPair("never eligible", GEMM, True, [(10.0, 1.0)])]
        assert samples_of(pairs, {"a": 1e-4}) == [Sample(GEMM, "a", 10.0, 1e-3 + 1e-4)]

    def test_the_way_to_a_backend_is_told_where_another_is_chosen(self):
        first, second = decided({"a": 1.0, "b": 2.0}), decided({"b": 1.0, "a": 2.0})
        first.decision["fallbacks"][0]["transfer_seconds"] = 3e-4
        second.decision["fallbacks"][0]["transfer_seconds"] = 1e-4
        assert ways_of([first, second]) == {"a": 1e-4, "b": 3e-4}

    def test_a_backend_that_is_always_chosen_is_as_far_away_as_the_others(self):
        only = decided({"a": 1.0, "b": 2.0, "c": 3.0})
        only.decision["fallbacks"][0]["transfer_seconds"] = 2e-4
        only.decision["fallbacks"][1]["transfer_seconds"] = 4e-4
        assert ways_of([only])["a"] == pytest.approx(3e-4)
