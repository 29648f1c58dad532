"""Choosing: a pure function, checked case by case."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routerd.costs.choice import Preference, choose, comparable, score
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


def test_an_only_candidate_is_certain():
    assert choose([SLOW], Preference()).confidence == 1.0


# -- objectives -------------------------------------------------------------------------------------------------------

WATTS = {"cpu": 20.0, "metal_gpu": 50.0}


def test_several_objectives_make_a_weighted_geometric_mean():
    preference = Preference(objective={"latency": 0.5, "energy": 0.25, "throughput": 0.25}, watts=WATTS)
    busy = candidate("metal.mlx", 5.0, "metal_gpu", queue=4.0)
    mean = 5.0**0.5 * (1.0 * 50.0) ** 0.25 * 1.0**0.25
    assert math.exp(score(busy, preference)) == pytest.approx(mean)


def test_the_score_of_latency_alone_is_the_logarithm_of_seconds():
    for objective in ({}, {"latency": 1.0}):
        assert score(SLOW, Preference(objective=objective, watts=WATTS)) == math.log(3.0)


def test_a_measure_has_no_scale():
    objective = {"energy": 0.6, "latency": 0.4}
    candidates = [candidate("a.cpu", 3.0), candidate("b.gpu", 1.6, "metal_gpu"), candidate("c.gpu", 2.1, "metal_gpu")]
    orders = {
        tuple(
            one.backend
            for one in choose(
                candidates, Preference(objective=objective, watts={kind: watts * unit for kind, watts in WATTS.items()})
            ).ranking
        )
        for unit in (1e-3, 1.0, 3600.0)
    }
    assert len(orders) == 1


@given(
    st.lists(
        st.tuples(st.floats(0.01, 10.0), st.floats(0.0, 10.0), st.sampled_from(("cpu", "metal_gpu"))),
        min_size=3,
        max_size=6,
    ),
    st.sampled_from([{"energy": 0.5, "latency": 0.5}, {"throughput": 0.9, "latency": 0.1}, {"energy": 1.0}]),
)
def test_who_is_ahead_of_two_does_not_depend_on_the_others(times, objective):
    candidates = [
        candidate(f"x.b{n}", service + queue, kind, queue=queue) for n, (service, queue, kind) in enumerate(times)
    ]
    preference = Preference(objective=objective, watts=WATTS)
    order = [one.backend for one in choose(candidates, preference).ranking]
    for gone in candidates:
        left = [one for one in candidates if one is not gone]
        assert [one.backend for one in choose(left, preference).ranking] == [
            one for one in order if one != gone.backend
        ]


def test_the_reason_says_where_watts_are_from():
    choice = choose([FAST, SLOW], Preference(objective={"energy": 1.0}, watts=WATTS, watts_from="settings"))
    assert choice.because == "it is best by 1 energy (watts from settings)"
    assert choice.ranking[0] is FAST  # 50 J against 60 J


def test_watts_count_only_where_those_of_all_are_known():
    half = Preference(objective={"energy": 1.0}, watts={"metal_gpu": 5000.0}, watts_from="sensor")
    choice = choose([FAST, SLOW], half)
    assert choice.ranking[0] is FAST
    assert choice.because == "it is best by 1 energy (watts unknown for cpu: energy counts device time)"
    assert comparable(half, ["cpu", "metal_gpu"]).watts == {}
    assert comparable(half, ["metal_gpu"]) is half


# -- deadlines --------------------------------------------------------------------------------------------------------


def test_without_a_deadline_nothing_is_in_time():
    assert choose([FAST, SLOW], Preference()).in_time is None


def test_in_time_is_the_probability_of_a_log_normal_service_after_what_is_certain():
    busy = candidate("metal.mlx", 3.0, "metal_gpu", sigma=0.5, queue=2.0)
    assert choose([busy], Preference(deadline_seconds=3.0)).in_time == pytest.approx(0.5)
    late = 0.5 * math.erfc(math.log(2.5 / 1.0) / 0.5 / math.sqrt(2.0))
    assert choose([busy], Preference(deadline_seconds=4.5)).in_time == pytest.approx(1.0 - late)
    assert choose([busy], Preference(deadline_seconds=1.9)).in_time == 0.0


def test_of_those_in_time_the_objective_chooses():
    thrifty, quick, quicker = (
        candidate("a.cpu", 3.0),
        candidate("b.gpu", 1.0, "gpu"),
        candidate("c.gpu", 0.9, "gpu", sigma=0.02),
    )
    preference = Preference(objective={"energy": 1.0}, watts={"cpu": 10.0, "gpu": 100.0})
    assert [one.backend for one in choose([thrifty, quick, quicker], preference).ranking] == ["a.cpu", "c.gpu", "b.gpu"]
    pressed = choose(
        [thrifty, quick, quicker], Preference(objective={"energy": 1.0}, watts=preference.watts, deadline_seconds=2.0)
    )
    assert [one.backend for one in pressed.ranking] == ["c.gpu", "b.gpu", "a.cpu"]
    assert pressed.because == (
        "a.cpu is only 0% sure to meet the deadline of 2000 ms; of those that are sure enough, it is best by 1 energy"
    )
    assert pressed.in_time == pytest.approx(1.0)
    assert pressed.confidence > 0.8


def test_a_slower_but_surer_backend_keeps_a_deadline():
    rash, steady = candidate("a.rash", 1.0, sigma=1.0), candidate("b.steady", 1.2, sigma=0.05)
    assert choose([rash, steady], Preference()).ranking[0] is rash
    choice = choose([rash, steady], Preference(deadline_seconds=1.5))
    assert choice.ranking[0] is steady
    assert choice.because == (
        "a.rash is only 65.7% sure to meet the deadline of 1500 ms; of those that are sure enough, it is predicted fastest"
    )
    assert choice.confidence < 0.5  # the other one may well be faster


def test_if_nothing_is_sure_the_likeliest_is_first():
    poor, poorer = candidate("b.poor", 2.0, sigma=0.5), candidate("a.poorer", 1.9, sigma=0.1)
    choice = choose([poor, poorer], Preference(deadline_seconds=1.5, prefer=("a.poorer",)))
    assert [one.backend for one in choice.ranking] == ["b.poor", "a.poorer"]
    assert choice.because == "nothing is 95% sure to meet the deadline of 1500 ms and it is the likeliest (28.2%)"
    assert choice.in_time == pytest.approx(0.2825, abs=1e-3)


def test_a_preferred_device_that_would_be_late_yields():
    choice = choose([FAST, SLOW], Preference(prefer=("cpu",), deadline_seconds=2.0))
    assert choice.ranking[0] is FAST
    assert choice.because.startswith("cpu.numpy is only ")
    in_time = choose([FAST, SLOW], Preference(prefer=("cpu",), deadline_seconds=5.0))
    assert in_time.ranking[0] is SLOW
    assert in_time.because == "the rule prefers it, and 99.9% sure to meet the deadline of 5000 ms"
    assert in_time.confidence == pytest.approx(in_time.in_time, abs=1e-6)


def test_fallbacks_that_are_late_come_in_order_of_their_chances():
    late, later = candidate("a.late", 4.0, sigma=0.3), candidate("b.later", 3.5, sigma=0.1)
    choice = choose([late, later, FAST], Preference(deadline_seconds=2.0))
    assert [one.backend for one in choice.ranking] == ["metal.mlx", "a.late", "b.later"]


@given(
    st.lists(st.tuples(st.floats(0.1, 10.0), st.floats(0.02, 1.0)), min_size=1, max_size=5),
    st.floats(0.05, 20.0),
    st.floats(1.0, 4.0),
)
def test_more_time_makes_it_likelier(times, deadline, factor):
    candidates = [candidate(f"x.b{number}", seconds, sigma=sigma) for number, (seconds, sigma) in enumerate(times)]
    pressed = choose(candidates, Preference(deadline_seconds=deadline))
    relaxed = choose(candidates, Preference(deadline_seconds=deadline * factor))
    assert relaxed.in_time >= min(pressed.in_time, 0.95)
    assert 0.0 <= pressed.in_time <= 1.0


# -- whatever is asked ------------------------------------------------------------------------------------------------

times = st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=6)


@given(
    times, st.sampled_from([{}, {"latency": 1.0}, {"energy": 0.5, "latency": 0.5}]), st.none() | st.floats(1e-6, 1e3)
)
def test_every_candidate_is_ranked_once_and_confidence_is_a_probability(seconds, objective, deadline):
    candidates = [candidate(f"x.b{number}", value) for number, value in enumerate(seconds)]
    choice = choose(candidates, Preference(objective=objective, deadline_seconds=deadline))
    assert sorted(one.backend for one in choice.ranking) == sorted(one.backend for one in candidates)
    assert 0.0 <= choice.confidence <= 1.0
    assert choice.ranking[0].predicted_seconds == pytest.approx(min(seconds))
    if objective != {"energy": 0.5, "latency": 0.5} and deadline is None:
        assert [one.predicted_seconds for one in choice.ranking] == sorted(seconds)


@given(times, st.permutations(range(6)), st.sampled_from([{}, {"energy": 0.5, "latency": 0.5}]))
def test_the_order_of_candidates_does_not_matter(seconds, order, objective):
    candidates = [candidate(f"x.b{number}", value) for number, value in enumerate(seconds)]
    shuffled = [candidates[index] for index in order if index < len(candidates)]
    assert choose(shuffled, Preference(objective=objective)) == choose(candidates, Preference(objective=objective))
