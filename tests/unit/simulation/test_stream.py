"""Streams of tasks in virtual time: what befalls a backend is learnt, or not believed."""

from __future__ import annotations

import math
from itertools import pairwise
from statistics import median

import pytest

from routerd.simulation.stream import Simulation, Slowdown, Spike

LEARNT = math.log(1.25)


def off(steps) -> float:
    """By how much (log) predictions typically miss."""
    return median(abs(math.log(step.predicted_seconds / step.seconds)) for step in steps)


def test_the_same_seed_gives_the_same_log(tiny):
    def log(seed):
        simulation = Simulation(tiny, seed, [Spike("cpu.numpy", 9.0, 4)], exploration_budget=0.05)
        return simulation.run(simulation.tasks(["sort", "sum"], 60))

    assert log(5) == log(5)
    assert log(5) != log(6)


def test_the_clock_moves_by_what_tasks_take(tiny):
    simulation = Simulation(tiny, seed=1)
    steps = simulation.run(simulation.tasks(["sort", "sum"], 10)) + simulation.run([("sort", 1e4)])
    assert [step.task for step in steps] == list(range(11))
    for step, after in pairwise(steps):
        assert after.at_seconds == pytest.approx(step.at_seconds + step.seconds)


def test_each_task_goes_where_its_size_belongs(tiny):
    simulation = Simulation(tiny, seed=1)
    small, large = simulation.run([("sort", 1e3), ("sort", 1e6)])
    assert (small.chosen, large.chosen) == ("cpu.numpy", "metal.mlx")
    assert min(small.confidence, large.confidence) > 0.99


def test_a_slowdown_lasts_as_long_as_it_says(tiny):
    tasks = [("sum", 1e5)] * 30
    plain = Simulation(tiny, seed=1).run(tasks)
    slowed = Simulation(tiny, seed=1, events=[Slowdown("metal.mlx", 3.0, 10, 20)]).run(tasks)
    overhead = 30e-6
    for before, after in zip(plain, slowed, strict=True):
        factor = 3.0 if 10 <= before.task < 20 else 1.0
        assert after.seconds - overhead == pytest.approx(factor * (before.seconds - overhead))


@pytest.mark.parametrize("seed", range(5))
class TestLastingChange:
    """Threefold, on a backend that stays the best by more than that, after a hundred tasks as they should be."""

    def log(self, world, seed, works):
        simulation = Simulation(world, seed, [Slowdown("metal.mlx", 3.0, 100, 1_000)])
        steps = simulation.run([("sum", work) for work in works])
        assert {step.chosen for step in steps} == {"metal.mlx"}
        return steps

    def test_it_is_learnt_within_thirty_tasks_of_one_size(self, tiny, seed):
        steps = self.log(tiny, seed, [1e5] * 160)
        assert off(steps[:100]) < LEARNT < off(steps[100:105])
        assert off(steps[130:]) < LEARNT

    def test_it_is_learnt_within_thirty_tasks_of_all_sizes(self, tiny, seed):
        tasks = Simulation(tiny, seed).tasks(["sum"], 160)
        steps = self.log(tiny, seed, [work for _workload, work in tasks])
        assert off(steps[:100]) < LEARNT < off(steps[100:105])
        assert off(steps[130:]) < LEARNT

    def test_where_another_is_better_now_it_takes_over(self, tiny, seed):
        simulation = Simulation(tiny, seed, [Slowdown("metal.mlx", 3.0, 50, 1_000)])
        steps = simulation.run([("sort", 3e4)] * 150)
        assert {step.chosen for step in steps[:50]} == {"metal.mlx"}
        assert sum(step.chosen == "metal.mlx" for step in steps[50:]) <= 30
        assert steps[-1].chosen == "cpu.numpy"


def test_exploration_finds_out_that_a_backend_has_recovered(tiny):
    def last(budget):
        events = [Slowdown("metal.mlx", 5.0, 50, 150)]
        return Simulation(tiny, 1, events, exploration_budget=budget).run([("sort", 3e4)] * 600)

    assert last(0.0)[-1].chosen == "cpu.numpy"
    steps = last(0.05)
    assert steps[149].chosen == "cpu.numpy"
    assert any(step.explored for step in steps[150:])
    assert {step.chosen for step in steps[-20:] if not step.explored} == {"metal.mlx"}


def test_a_single_spike_changes_no_later_choice(m4_max):
    at = 40
    for workload in m4_max.workloads:
        if len(m4_max.candidates(workload)) < 2:
            continue
        plain = Simulation(m4_max, seed=0)
        tasks = plain.tasks([workload], 120)
        usual = plain.run(tasks)
        spiked = Simulation(m4_max, 0, [Spike(usual[at].chosen, 500.0, at)]).run(tasks)
        assert spiked[at].seconds > 10.0 * usual[at].seconds
        assert [step.chosen for step in spiked] == [step.chosen for step in usual], workload
