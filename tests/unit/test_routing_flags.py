"""The environment flags that steer routing act as their table says."""

from __future__ import annotations

import asyncio

import pytest

from routerd.costs.model import CostModel, ModelState, Point
from routerd.errors import WorkerCrashed
from routerd.protocol import Ask

OPTION = {"spot_price": 100.0, "strike_price": 110.0, "volatility": 0.2}
WORKLOAD = "options.monte_carlo_european"


def ask(simulations: int = 10_000_000) -> Ask:
    return Ask(WORKLOAD, {**OPTION, "num_simulations": simulations})


@pytest.fixture
def takes(fleet):
    """Sets seconds that the work takes on a backend, whatever its size."""

    def takes(**seconds: float) -> None:
        for name, value in seconds.items():
            points = tuple(Point(work, value, 0.03) for work in (1e4, 1e6, 1e8))
            fleet.backends[name.replace("_", ".", 1)].pairs[WORKLOAD].model = CostModel(ModelState(points))

    return takes


@pytest.mark.parametrize(
    ("flag", "value", "device", "others", "chosen"),
    [
        ("METAL_GPU_PRIORITY", "HIGH", 1.2, 1.0, "metal.mlx"),
        ("METAL_GPU_PRIORITY", "HIGH", 1.3, 1.0, "cpu.numpy"),
        ("METAL_GPU_PRIORITY", "MEDIUM", 1.2, 1.0, "cpu.numpy"),
        ("METAL_GPU_PRIORITY", "LOW", 1.0, 1.2, "cpu.numpy"),
        ("METAL_GPU_PRIORITY", "LOW", 1.0, 1.3, "metal.mlx"),
        ("NEURAL_ENGINE_PRIORITY", "HIGH", 1.2, 1.0, "ane.coreml"),
        ("NEURAL_ENGINE_PRIORITY", "HIGH", 1.3, 1.0, "cpu.numpy"),
        ("NEURAL_ENGINE_PRIORITY", "LOW", 1.0, 1.2, "cpu.numpy"),
        ("NEURAL_ENGINE_PRIORITY", "LOW", 1.0, 1.3, "ane.coreml"),
    ],
)
def test_a_priority_is_worth_a_quarter(make_router, session, takes, flag, value, device, others, chosen):
    own, rest = ("metal_mlx", "ane_coreml") if flag.startswith("METAL") else ("ane_coreml", "metal_mlx")
    takes(**{own: device, rest: 9.0, "cpu_numpy": others})
    decision = make_router(environment={flag: value}).plan(ask(), session).decision
    assert decision.backend == chosen
    if value != "MEDIUM" and (chosen == "cpu.numpy") is (value == "LOW"):
        assert f"has priority {value}" in decision.reasoning


@pytest.mark.parametrize(
    ("threshold", "simulations", "chosen"),
    [
        (None, 999_999, "ane.coreml"),
        (None, 1_000_000, "metal.mlx"),
        ("500", 499, "ane.coreml"),
        ("500", 500, "metal.mlx"),
    ],
)
def test_from_the_threshold_of_large_data_the_gpu_is_preferred_until_all_is_timed(
    make_router, session, fleet, threshold, simulations, chosen
):
    environment = {} if threshold is None else {"LARGE_DATA_THRESHOLD": threshold}
    for backend in fleet.backends.values():
        backend.pairs[WORKLOAD].model = CostModel()
    assert make_router(environment=environment).plan(ask(simulations), session).decision.backend == chosen


def test_once_all_is_timed_measurement_decides_about_large_data(make_router, session, takes):
    takes(metal_mlx=3.0, cpu_numpy=1.0, ane_coreml=2.0)
    assert make_router().plan(ask(), session).decision.backend == "cpu.numpy"


def test_a_rule_with_a_preference_of_its_own_is_not_overridden(make_router, session, fleet):
    for backend in fleet.backends.values():
        backend.pairs[WORKLOAD].model = CostModel()
    router = make_router("rules: [{id: r, prefer: [cpu]}]")
    assert router.plan(ask(), session).decision.backend == "cpu.numpy"


@pytest.mark.parametrize("simulations", [1000, 100_000_000])
def test_without_automatic_routing_everything_goes_to_the_contract(make_router, session, simulations):
    plan = make_router(environment={"AUTO_HARDWARE_ROUTING": "false"}).plan(ask(simulations), session)
    assert [one.backend for one in plan.ranking] == ["cpu.numpy"]
    assert {one.backend for one in plan.decision.rejected} >= {"metal.mlx", "ane.coreml"}


@pytest.mark.parametrize(
    ("failing", "flag", "raises"),
    [
        ("metal.mlx", "GPU_FALLBACK_ENABLED", True),
        ("metal.mlx", "NEURAL_ENGINE_FALLBACK", False),
        ("ane.coreml", "NEURAL_ENGINE_FALLBACK", True),
        ("ane.coreml", "GPU_FALLBACK_ENABLED", False),
        ("cpu.numpy", "GPU_FALLBACK_ENABLED", False),
        ("cpu.numpy", "NEURAL_ENGINE_FALLBACK", False),
    ],
)
def test_a_failure_stays_where_its_flag_forbids_to_leave(make_router, session, fleet, takes, failing, flag, raises):
    takes(metal_mlx=2.0, ane_coreml=2.0, cpu_numpy=2.0)
    takes(**{failing.replace(".", "_"): 1.0})
    fleet.backends[failing].worker.outcome = WorkerCrashed("dead")
    router = make_router(environment={flag: "false"})
    if raises:
        with pytest.raises(WorkerCrashed):
            asyncio.run(router.run(ask(), session))
    else:
        result = asyncio.run(router.run(ask(), session)).result
        assert result.planned.backend == failing
        assert result.ran_on.backend != failing
