"""Choosing: a pure function, checked case by case."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routerd.costs.choice import Preference, choose, confidence_of
from routerd.types import Candidate


def candidate(backend: str, seconds: float, kind: str = "cpu", sigma: float = 0.1, queue: float = 0.0) -> Candidate:
    return Candidate(
        backend=backend,
        device_kind=kind,
        predicted_seconds=seconds,
        queue_seconds=queue,
        transfer_seconds=0.0,
        service_seconds=seconds - queue,
        log_sigma=sigma,
        error=0.0,
    )


FAST = candidate("metal.mlx", 1.0, "metal_gpu")
SLOW = candidate("cpu.numpy", 3.0)


def first(candidates, **preference) -> str:
    return choose(candidates, Preference(**preference)).ranking[0].backend


def test_the_fastest_wins_and_the_rest_follow_in_order():
    third = candidate("cpu.torch", 2.0)
    choice = choose([SLOW, third, FAST], Preference())
    assert [one.backend for one in choice.ranking] == ["metal.mlx", "cpu.torch", "cpu.numpy"]
    assert choice.because == "it is predicted fastest"


def test_equal_candidates_are_ordered_by_name():
    assert first([candidate("b.two", 1.0), candidate("a.one", 1.0)]) == "a.one"


def test_a_literal_preference_wins_over_speed():
    choice = choose([FAST, SLOW], Preference(prefer=("cpu",)))
    assert choice.ranking[0] is SLOW
    assert choice.because == "the rule prefers it"


def test_a_bounded_preference_yields_to_measurement():
    assert first([FAST, SLOW], prefer=("cpu",), unless_slower_than=2.0) == "metal.mlx"
    assert first([FAST, SLOW], prefer=("cpu",), unless_slower_than=3.5) == "cpu.numpy"


def test_a_preference_may_name_a_backend():
    assert first([FAST, SLOW, candidate("cpu.torch", 9.0)], prefer=("cpu.torch",)) == "cpu.torch"


@pytest.mark.parametrize(("seconds", "chosen"), [(1.2, "metal.mlx"), (1.3, "cpu.numpy")])
def test_high_priority_takes_its_device_within_a_quarter_of_the_best(seconds, chosen):
    gpu, cpu = candidate("metal.mlx", seconds, "metal_gpu"), candidate("cpu.numpy", 1.0)
    assert first([gpu, cpu], priorities={"metal_gpu": "HIGH"}) == chosen


@pytest.mark.parametrize(("seconds", "chosen"), [(1.2, "cpu.numpy"), (1.3, "metal.mlx")])
def test_low_priority_takes_its_device_only_when_a_quarter_better(seconds, chosen):
    gpu, cpu = candidate("metal.mlx", 1.0, "metal_gpu"), candidate("cpu.numpy", seconds)
    choice = choose([gpu, cpu], Preference(priorities={"metal_gpu": "LOW"}))
    assert choice.ranking[0].backend == chosen


def test_energy_weighs_watts():
    watts = {"cpu": 10.0, "metal_gpu": 40.0}
    assert first([FAST, SLOW], objective={"energy": 1.0}, watts=watts) == "cpu.numpy"
    assert first([FAST, SLOW], objective={"latency": 1.0}, watts=watts) == "metal.mlx"


def test_throughput_looks_past_the_queue():
    busy = candidate("metal.mlx", 5.0, "metal_gpu", queue=4.0)
    assert first([busy, SLOW], objective={"throughput": 1.0}) == "metal.mlx"
    assert first([busy, SLOW]) == "cpu.numpy"


def test_confidence_agrees_with_sampling():
    a, b = candidate("a.a", 1.0, sigma=0.3), candidate("b.b", 1.2, sigma=0.4)
    rng = np.random.default_rng(1)
    left = np.log(1.0) + 0.3 * rng.standard_normal(400_000)
    right = np.log(1.2) + 0.4 * rng.standard_normal(400_000)
    assert confidence_of(a, [b]) == pytest.approx(float(np.mean(left < right)), abs=0.005)


def test_an_only_candidate_is_certain():
    assert choose([SLOW], Preference()).confidence == 1.0


times = st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=6)


@given(times, st.sampled_from([{}, {"latency": 1.0}, {"energy": 0.5, "latency": 0.5}]))
def test_every_candidate_is_ranked_once_and_confidence_is_a_probability(seconds, objective):
    candidates = [candidate(f"x.b{number}", value) for number, value in enumerate(seconds)]
    choice = choose(candidates, Preference(objective=objective))
    assert sorted(one.backend for one in choice.ranking) == sorted(one.backend for one in candidates)
    assert 0.0 <= choice.confidence <= 1.0
    assert choice.ranking[0].predicted_seconds == min(seconds)
