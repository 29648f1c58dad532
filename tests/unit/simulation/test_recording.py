"""Recorded worlds: what was measured is what they say."""

from __future__ import annotations

import math
from random import Random

import pytest

from routerd.errors import BadRequest, ConfigurationError
from routerd.scoring.trials import Sample, Trial
from routerd.simulation.recording import record
from routerd.simulation.simulator import score_world
from routerd.simulation.world import World

MACHINE = {"processor": "stand-in", "date": "2026-11-24", "cpu.numpy": "cpu float64"}
OVERHEADS = {"cpu.numpy": 20e-6, "metal.mlx": 30e-6}


def trial(work=1e4, workload="sort", **seconds):
    return Trial(
        workload, work, {name.replace("_", "."): value for name, value in seconds.items()}, {}, "cpu.numpy", 1.0
    )


def runs(work, *seconds):
    return [Sample("sort", "cpu.numpy", work, value) for value in seconds]


def test_a_world_that_was_measured_is_recovered(tiny, tmp_path):
    measured = score_world(tiny, 60, seed=1)
    recorded = record(tmp_path / "again.json", measured.trials, measured.samples, MACHINE, OVERHEADS)
    assert World.load(tmp_path / "again.json") == recorded
    assert (recorded.name, recorded.label) == ("again", "recorded")
    assert recorded.source == "processor: stand-in; date: 2026-11-24"
    assert recorded.noise_log_sigma == pytest.approx(tiny.noise_log_sigma, rel=0.2)
    assert 0.0 < recorded.bias_log_sigma < 2.0 * tiny.bias_log_sigma
    for workload in ("sort", "sum"):
        for backend in ("cpu.numpy", "metal.mlx"):
            assert recorded.curve_range(backend, workload) == pytest.approx((1e2, 1e6))
            for work in (2e2, 5e3, 4e4, 8e5):
                again, truth = (world.seconds(backend, workload, work) for world in (recorded, tiny))
                assert again == pytest.approx(truth, rel=0.2)
    assert all(len(curve.points) <= 25 for curve in recorded.curves)


def test_routing_in_a_recorded_world_is_as_good_as_in_the_one_it_was_recorded_in(tiny, tmp_path):
    measured = score_world(tiny, 60, seed=1)
    recorded = record(tmp_path / "again.json", measured.trials, measured.samples, MACHINE, OVERHEADS)
    trials = score_world(recorded, 60, seed=2).trials
    assert sum(one.seconds[one.chosen] <= 1.05 * one.best_seconds for one in trials) >= 0.95 * len(trials)


def test_device_and_precision_are_those_of_the_machine_or_of_the_name(tmp_path):
    trials = [trial(work, cpu_numpy=1.0, cuda_torch=1.0) for work in (1.0, 2.0)]
    world = record(tmp_path / "x.json", trials, runs(1.0, 1.0, 1.0), MACHINE)
    assert [(one.name, one.device_kind, one.precision) for one in world.backends] == [
        ("cpu.numpy", "cpu", "float64"),
        ("cuda.torch", "cuda_gpu", "unknown"),
    ]


def test_the_way_is_kept_apart(tmp_path):
    trials = [trial(work, cpu_numpy=20e-6 + work * 1e-6) for work in (1.0, 10.0, 100.0)]
    world = record(tmp_path / "x.json", trials, runs(1.0, 21e-6, 21e-6), MACHINE, OVERHEADS)
    assert world.backends[0].overhead_seconds == 20e-6
    assert world.seconds("cpu.numpy", "sort", 10.0) == pytest.approx(1e-5)


def test_a_task_quicker_than_the_usual_way_keeps_a_time(tmp_path):
    trials = [trial(work, cpu_numpy=15e-6) for work in (1.0, 10.0)]
    world = record(tmp_path / "x.json", trials, runs(1.0, 15e-6, 15e-6), MACHINE, OVERHEADS)
    assert world.seconds("cpu.numpy", "sort", 5.0) == pytest.approx(1e-6)


def test_noise_is_that_of_runs_and_neither_of_drift_nor_of_a_spike(tmp_path):
    rng = Random(1)
    drifting = [math.exp(0.002 * number + rng.gauss(0.0, 0.05)) for number in range(400)]
    drifting[200] *= 500.0
    world = record(tmp_path / "x.json", [], runs(1.0, *drifting) + runs(2.0, 1.0), MACHINE)
    assert world.noise_log_sigma == pytest.approx(0.05, rel=0.15)


def test_where_nothing_was_timed_twice_noise_is_how_uneven_the_sizes_are(tmp_path):
    rng = Random(1)
    sizes = [1.3**step for step in range(25)]
    samples = [sample for work in sizes for sample in runs(work, 1e-3 * work * math.exp(rng.gauss(0.0, 0.05)))]
    world = record(tmp_path / "x.json", [], samples, MACHINE)
    assert world.noise_log_sigma == pytest.approx(0.05, rel=0.5)
    assert world.bias_log_sigma == 0.0


@pytest.mark.parametrize(
    ("trials", "samples", "machine", "complaint"),
    [
        ([], [], MACHINE, "nothing to record"),
        ([], runs(1.0, 1.0, 1.0) + runs(2.0, 1.0), {}, "says what machine"),
        ([trial(cpu_numpy=1.0)], [], MACHINE, "cpu.numpy was measured on sort at one size only, 10000"),
        ([], runs(1.0, 1.0) + runs(2.0, 1.0), MACHINE, "how much runs vary cannot be told"),
        (
            [trial(work, acme_npu=1.0) for work in (1.0, 2.0)],
            runs(1.0, 1.0, 1.0) + runs(2.0, 1.0),
            MACHINE,
            r'machine\["acme.npu"\] = ',
        ),
    ],
)
def test_what_makes_no_world_is_refused(tmp_path, trials, samples, machine, complaint):
    with pytest.raises(BadRequest, match=complaint):
        record(tmp_path / "x.json", trials, samples, machine)
    assert not (tmp_path / "x.json").exists()


def test_times_that_cannot_be_are_refused(tmp_path):
    with pytest.raises(ConfigurationError, match=r"points\[1\] is \(2.0, nan\)"):
        record(tmp_path / "x.json", [], runs(1.0, 1.0, 1.0) + runs(2.0, math.nan), MACHINE)
