"""The Monte Carlo shaders against the contract: the same paths give the same prices, whatever the form and the range."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from routerd.interfaces import Workload
from routerd.testing.examples import Sample, contract_outputs, default_works, sample
from routerd.testing.metal import HostLauncher
from routerd.workloads.binding import bind
from routerd.workloads.content import relative_error, require_result
from routerd.workloads.options import MONTE_CARLO_ASIAN, MONTE_CARLO_EUROPEAN
from routerd_metal.fused import FUSED
from routerd_metal.launching import SHADERS, Shader

TERMS = {"spot_price": 100.0, "strike_price": 105.0, "volatility": 0.3, "seed": 2**40 + 11}


class FaultyLauncher:
    """A launcher on the processor whose shaders are read from a folder of altered copies."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def launch(self, shader: Shader, *arguments: Any, **how: int) -> dict[str, Any]:
        return HostLauncher().launch(replace(shader, file=self._folder / shader.name), *arguments, **how)


def given(workload: Workload, **params: Any) -> Sample:
    return Sample(bind(workload, {**TERMS, **params}, {}, need_content=True), {})


def fused(workload: Workload, task: Sample, launcher: Any = None) -> Any:
    return FUSED[workload.name].run(launcher or HostLauncher(), task.task.params, task.inputs)


def error(workload: Workload, task: Sample, launcher: Any = None) -> float:
    outputs = fused(workload, task, launcher)
    require_result(workload, outputs, task.task.dims, "the shader")
    return relative_error(workload, outputs, contract_outputs(workload, task))


@pytest.mark.parametrize("workload", [MONTE_CARLO_EUROPEAN, MONTE_CARLO_ASIAN], ids=lambda workload: workload.name)
def test_every_variant_at_every_default_work_agrees_or_is_left_to_the_kernel(workload: Workload) -> None:
    for variant in workload.variants:
        for work in default_works(workload):
            example = sample(workload, work)
            task = given(workload, **{**example.task.params, **variant})
            if task.task.params["method"] == "quasi_random":
                assert fused(workload, task) is None
            else:
                assert error(workload, task) < 1e-6


@pytest.mark.parametrize("option_type", ["call", "put"])
def test_a_million_paths_keep_the_tolerance_with_much_to_spare(option_type: str) -> None:
    task = given(MONTE_CARLO_EUROPEAN, num_simulations=1_000_000, option_type=option_type)
    assert error(MONTE_CARLO_EUROPEAN, task) < 0.05 * MONTE_CARLO_EUROPEAN.tolerance


@pytest.mark.parametrize("option_type", ["call", "put"])
@pytest.mark.parametrize(("first", "count"), [(0, 2), (3, 2), (4, 4), (5, 1021), (999_999_998, 5)])
def test_any_range_of_paths_is_the_contracts(first: int, count: int, option_type: str) -> None:
    # A strike so far away that every path is paid, and every one that is missing or too many shows.
    strike = 20.0 if option_type == "call" else 500.0
    terms = {"first_simulation": first, "num_simulations": count, "option_type": option_type, "strike_price": strike}
    assert error(MONTE_CARLO_EUROPEAN, given(MONTE_CARLO_EUROPEAN, **terms)) < 1e-6
    for control in (True, False):
        task = given(MONTE_CARLO_ASIAN, **terms, num_steps=3, control_variate=control)
        assert error(MONTE_CARLO_ASIAN, task) < 1e-6


@pytest.mark.parametrize("option_type", ["call", "put"])
def test_a_target_is_reached_with_the_contracts_number_of_paths(option_type: str) -> None:
    european = given(MONTE_CARLO_EUROPEAN, target_standard_error=0.1, option_type=option_type)
    asian = given(MONTE_CARLO_ASIAN, target_standard_error=2e-3, option_type=option_type, num_steps=8)
    for workload, task in ((MONTE_CARLO_EUROPEAN, european), (MONTE_CARLO_ASIAN, asian)):
        outputs = fused(workload, task)
        assert outputs["num_simulations"] == contract_outputs(workload, task)["num_simulations"]
        assert outputs["standard_error"] <= task.task.params["target_standard_error"]
        assert error(workload, task) < 1e-6


def test_ten_thousand_steps_lose_no_precision() -> None:
    for control in (True, False):
        task = given(MONTE_CARLO_ASIAN, num_simulations=12, num_steps=10_000, control_variate=control)
        assert error(MONTE_CARLO_ASIAN, task) < 2e-6


def test_extreme_prices_stay_in_single_precision() -> None:
    for spot, strike in ((1e12, 1e-12), (1e-12, 1e-12), (1e12, 1e12)):
        terms = {
            "spot_price": spot,
            "strike_price": strike,
            "volatility": 2.0,
            "maturity": 10.0,
            "num_simulations": 512,
        }
        assert error(MONTE_CARLO_EUROPEAN, given(MONTE_CARLO_EUROPEAN, **terms)) < 1e-5
        assert error(MONTE_CARLO_ASIAN, given(MONTE_CARLO_ASIAN, **terms, num_steps=5)) < 1e-5


def test_what_is_certain_is_left_to_the_kernel() -> None:
    for workload in (MONTE_CARLO_EUROPEAN, MONTE_CARLO_ASIAN):
        assert fused(workload, given(workload, num_simulations=10, volatility=0.0)) is None


def test_tasks_too_large_for_one_launch_are_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("routerd_metal.fused.monte_carlo._MOST_PATH_STEPS", 1000)
    launches = []

    class Counting(HostLauncher):
        def launch(self, *arguments: Any, **how: int) -> dict[str, Any]:
            launches.append(how)
            return super().launch(*arguments, **how)

    european = given(MONTE_CARLO_EUROPEAN, num_simulations=2501, first_simulation=2)
    assert error(MONTE_CARLO_EUROPEAN, european, Counting()) < 1e-6
    assert len(launches) == 3
    assert error(MONTE_CARLO_ASIAN, given(MONTE_CARLO_ASIAN, num_simulations=20, num_steps=100), Counting()) < 1e-6
    assert len(launches) == 5


@pytest.mark.parametrize(
    ("file", "right", "wrong"),
    [
        ("philox.metal", "0xD2511F53u", "0xD2511F51u"),
        ("monte_carlo.metal", "- range[0] < range[1]", "- range[0] <= range[1]"),
        ("monte_carlo.metal", "float(steps - step)", "float(steps - step - 1u)"),
        ("moments.metal", "left.scatter + right.scatter +", "left.scatter +"),
    ],
)
def test_a_fault_in_the_text_shows(tmp_path: Path, file: str, right: str, wrong: str) -> None:
    for source in SHADERS.glob("*.metal"):
        text = source.read_text()
        assert text.count(right) == (1 if source.name == file else 0)
        (tmp_path / source.name).write_text(text.replace(right, wrong))
    tasks = (
        (MONTE_CARLO_EUROPEAN, given(MONTE_CARLO_EUROPEAN, num_simulations=2997, strike_price=50.0)),
        (MONTE_CARLO_ASIAN, given(MONTE_CARLO_ASIAN, num_simulations=997, num_steps=4)),
    )
    errors = [error(workload, task, FaultyLauncher(tmp_path)) / workload.tolerance for workload, task in tasks]
    assert max(errors) > 1.0


def test_the_seed_and_only_the_seed_changes_the_paths() -> None:
    one = fused(MONTE_CARLO_EUROPEAN, given(MONTE_CARLO_EUROPEAN, num_simulations=100))
    again = fused(MONTE_CARLO_EUROPEAN, given(MONTE_CARLO_EUROPEAN, num_simulations=100))
    other = fused(MONTE_CARLO_EUROPEAN, given(MONTE_CARLO_EUROPEAN, num_simulations=100, seed=2**41 + 11))
    assert one["price"] == again["price"]
    assert np.abs(one["price"] - other["price"]) > 1e-3
