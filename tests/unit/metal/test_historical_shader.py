"""The scenario shader against the contract: the same losses within rounding, and the same scenario for the VaR."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routerd.errors import ExecutionError
from routerd.testing.examples import Sample, contract_outputs, default_works, sample
from routerd.testing.metal import HostLauncher
from routerd.types import ArrayRef
from routerd.workloads.binding import bind
from routerd.workloads.content import relative_error, require_result
from routerd.workloads.risk.historical import VAR_HISTORICAL
from routerd_metal.fused import FUSED, historical
from routerd_metal.fused.historical import SHADER

LAUNCHER = HostLauncher()


def task(returns: Any, weights: Any, **params: float) -> Sample:
    inputs = {"returns": np.asarray(returns), "weights": np.asarray(weights)}
    refs = {name: ArrayRef(array.shape, str(array.dtype), segment=0) for name, array in inputs.items()}
    return Sample(bind(VAR_HISTORICAL, params, refs, need_content=True), inputs)


def fused(made: Sample, launcher: Any = LAUNCHER) -> dict[str, Any]:
    outputs = FUSED["risk.var_historical"].run(launcher, made.task.params, made.inputs)
    assert outputs is not None
    require_result(VAR_HISTORICAL, outputs, made.task.dims, "the shader")
    return outputs


def error(made: Sample) -> float:
    return relative_error(VAR_HISTORICAL, fused(made), contract_outputs(VAR_HISTORICAL, made))


class Watched(HostLauncher):
    """Remembers the scenarios of which the host computes the losses again."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.again: list[int] = []
        exact = historical._exact_losses

        def counted(returns: Any, weights: Any, chosen: Any) -> Any:
            self.again += [int(one) for one in chosen]
            return exact(returns, weights, chosen)

        monkeypatch.setattr(historical, "_exact_losses", counted)


@pytest.mark.parametrize("work", default_works(VAR_HISTORICAL))
def test_the_examples_agree(work: float) -> None:
    assert error(sample(VAR_HISTORICAL, work)) < 1e-7


@pytest.mark.parametrize("confidence", [0.5000001, 0.7, 0.9, 0.975, 0.99, 0.99999])
def test_every_confidence_finds_its_scenario(confidence: float) -> None:
    rng = np.random.default_rng(5)
    made = task(rng.standard_t(4, (401, 7)), rng.normal(size=7), confidence=confidence, notional=1e18)
    assert error(made) < 1e-6


@given(
    returns=st.integers(1, 40).flatmap(
        lambda rows: st.lists(
            st.lists(st.integers(-3, 3), min_size=3, max_size=3).map(tuple), min_size=rows, max_size=rows
        )
    ),
    weights=st.lists(st.integers(-2, 2), min_size=3, max_size=3),
    confidence=st.sampled_from([0.51, 0.75, 0.9, 0.99]),
)
@settings(max_examples=80, deadline=None)
def test_of_equal_losses_the_earliest_counts(returns: list[Any], weights: list[int], confidence: float) -> None:
    made = task(np.array(returns, dtype=np.float64), np.array(weights, dtype=np.float64), confidence=confidence)
    outputs, contract = fused(made), contract_outputs(VAR_HISTORICAL, made)
    for name in ("value_at_risk", "component_var", "losses"):  # whole numbers, so nothing is rounded
        np.testing.assert_array_equal(outputs[name], contract[name])
    np.testing.assert_allclose(outputs["expected_shortfall"], contract["expected_shortfall"], rtol=1e-12, atol=1e-12)


def test_losses_that_float32_cannot_tell_apart_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(8)
    returns = rng.normal(size=(200, 4))
    weights = np.array([1.0, -2.0, 3.0, -1.0])
    # Twenty scenarios in the tail with losses of 30 but for parts in 10¹², each from other assets.
    near = rng.choice(200, 20, replace=False)
    returns[near] = rng.uniform(-40.0, -20.0, (20, 4))
    returns[near, 3] += returns[near] @ weights + 30.0 + 1e-11 * rng.permutation(20)
    made = task(returns, weights, confidence=0.95)
    watched = Watched(monkeypatch)
    outputs, contract = fused(made, watched), contract_outputs(VAR_HISTORICAL, made)
    assert sorted(watched.again) == sorted(near)
    assert outputs["value_at_risk"] == pytest.approx(float(contract["value_at_risk"]), rel=1e-15)
    np.testing.assert_allclose(outputs["component_var"], contract["component_var"], rtol=1e-14)


def test_few_scenarios_are_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch)
    fused(sample(VAR_HISTORICAL, 64_000.0), watched)
    assert 1 <= len(watched.again) <= 3


def test_sums_that_cancel_keep_their_precision() -> None:
    """Each half of the book moves a thousand times what is left of both: a plain sum in float32 is off by 6e-3."""
    rng = np.random.default_rng(3)
    returns = (20.0 + rng.normal(0.0, 0.01, (64, 4_000))).astype(np.float32)
    weights = np.repeat(rng.uniform(0.5, 1.5, 2_000), 2).astype(np.float32)
    weights[1::2] *= -1.0
    assert error(task(returns, weights)) < 1e-7


@pytest.mark.parametrize(
    ("returns", "weights"),
    [
        ([[0.5]], [2.0]),
        ([[0.5], [-0.25], [0.0]], [-4.0]),
        ([[0.25, -0.5]] * 70, [1.0, 3.0]),
        ([[0.0, 0.0]] * 5, [1.0, 3.0]),
        ([[0.1, 0.2]] * 5, [0.0, 0.0]),
        ([[-0.0], [0.0], [0.0]], [1.0]),
        ([[1e15, 1e15], [-1e15, 3.0]], [1e15, 1e15]),
        ([[1e-12, 2e-12], [-3e-12, 1e-13]], [1e-30, 2e-30]),
    ],
    ids=["one number", "one asset", "all equal", "no returns", "no weights", "two zeros", "largest", "small"],
)
def test_edges(returns: Any, weights: Any) -> None:
    for confidence in (0.6, 0.99):
        assert error(task(returns, weights, confidence=confidence)) < 1e-7


def test_inputs_may_be_float32_and_views() -> None:
    rng = np.random.default_rng(2)
    returns = rng.normal(size=(90, 66)).astype(np.float32)
    assert error(task(returns[:, ::2], rng.normal(size=33).astype(np.float32))) < 1e-6


def test_more_scenarios_than_a_grid_counts_are_left_to_the_kernel() -> None:
    many = np.broadcast_to(np.float32(0.0), (2**27, 1))
    assert FUSED["risk.var_historical"].run(LAUNCHER, {}, {"returns": many, "weights": np.ones(1)}) is None


def test_a_histogram_that_is_not_that_of_the_losses_is_no_result() -> None:
    class Wrong(HostLauncher):
        def launch(self, *arguments: Any, **how: int) -> dict[str, Any]:
            made = super().launch(*arguments, **how)
            return {**made, "histogram": np.roll(made["histogram"], 1)}

    with pytest.raises(ExecutionError, match=f"{SHADER.entry}: its histogram counts"):
        fused(sample(VAR_HISTORICAL, 1_000.0), Wrong())
