"""The synthetic M4 Max: made as said, called what it is, and within what is physically possible."""

from __future__ import annotations

import pytest

from benchmarks.make_worlds import ARITHMETIC, ENGINES, TARGET, m4_max, runs_on, seconds
from routerd.workloads import builtin_workloads


def test_the_file_is_what_the_generator_writes(tmp_path):
    m4_max().save(tmp_path / "world.json")
    assert (tmp_path / "world.json").read_text() == TARGET.read_text(), "run python -m benchmarks.make_worlds"


def test_it_says_that_nobody_measured_it(m4_max):
    assert m4_max.label == "synthetic"
    assert m4_max.name.endswith("_synthetic")
    assert "no M4 Max was measured" in m4_max.source


def test_every_workload_of_the_catalogue_is_in_it(m4_max):
    assert set(m4_max.workloads) == set(ARITHMETIC) == {workload.name for workload in builtin_workloads()}


def test_a_backend_runs_what_it_could(m4_max):
    able = {name: [backend.name for backend in m4_max.candidates(name)] for name in m4_max.workloads}
    assert able["linalg.gemm"] == [engine.name for engine in ENGINES]
    assert able["options.monte_carlo_european"] == ["cpu.numpy", "cpu.torch", "metal.mlx", "metal.torch"]
    assert able["portfolio.markowitz"] == ["cpu.numpy"]  # written for NumPy alone
    assert able["microstructure.vpin"] == ["cpu.numpy"]  # needs float64


def test_nothing_is_faster_than_the_hardware(m4_max):
    square = 2.0 * 2048**3
    assert m4_max.seconds("metal.mlx", "linalg.gemm", square) >= 1.2e-3
    assert m4_max.seconds("ane.coreml", "linalg.gemm", square) >= square / 5.7e12
    assert m4_max.seconds("metal.mlx", "options.monte_carlo_european", 1e6) >= 109e-6


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
def test_more_work_never_takes_less_and_nothing_less_than_a_call(engine):
    for workload in builtin_workloads():
        if runs_on(engine, workload):
            low, high = workload.work_range
            times = [
                seconds(engine, ARITHMETIC[workload.name], low * (high / low) ** (step / 20)) for step in range(21)
            ]
            assert times == sorted(times)
            assert times[0] > engine.floor_seconds
