"""A world small enough to reason about by hand."""

from __future__ import annotations

import pytest

from routerd.resources import shipped
from routerd.simulation.world import World, WorldBackend, WorldCurve

WORKS = tuple(10.0 ** (2 + step / 4) for step in range(17))  # 1e2 to 1e6


def line(backend: str, workload: str, launch: float, rate: float) -> WorldCurve:
    return WorldCurve(backend, workload, tuple((work, launch + rate * work) for work in WORKS))


@pytest.fixture
def tiny() -> World:
    """``sort`` crosses over from the processor to the GPU at a work of 1e4; on ``sum`` the GPU is always ten times faster."""
    return World(
        name="tiny",
        label="synthetic",
        source="made by hand for tests",
        backends=(
            WorldBackend("cpu.numpy", "cpu", "float64", 20e-6),
            WorldBackend("metal.mlx", "metal_gpu", "float32", 30e-6),
        ),
        curves=(
            line("cpu.numpy", "sort", 10e-6, 10e-9),
            line("metal.mlx", "sort", 90e-6, 1e-9),
            line("cpu.numpy", "sum", 2e-3, 100e-9),
            line("metal.mlx", "sum", 2e-4, 10e-9),
            line("cpu.numpy", "alone", 1e-5, 1e-9),
        ),
        noise_log_sigma=0.04,
        bias_log_sigma=0.03,
    )


@pytest.fixture(scope="session")
def m4_max() -> World:
    """The synthetic world that ships."""
    return World.load(shipped("config", "worlds", "m4_max_synthetic.json"))
