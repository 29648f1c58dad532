"""Confidence against what it claims to be: how often the rules would choose the same, had they known the true times."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm, qmc

from routerd.costs.choice import Preference, choose, confidence_of
from routerd.types import Candidate

KINDS = ("cpu", "metal_gpu", "cuda_gpu")
WATTS = {"cpu": 20.0, "metal_gpu": 45.0, "cuda_gpu": 90.0}
TOLERANCE = 0.005
_RANKS: Mapping[str, int] = {"HIGH": 0, "MEDIUM": 1, "LOW": 2}


def candidate(backend: str, service: float, sigma: float, certain: float = 0.0, kind: str = "cpu") -> Candidate:
    return Candidate(
        backend=backend,
        device_kind=kind,
        predicted_seconds=certain + service,
        queue_seconds=certain,
        transfer_seconds=0.0,
        service_seconds=service,
        log_sigma=sigma,
        error=0.0,
    )


@st.composite
def fields(draw: st.DrawFn, least: int = 2, most: int = 4) -> list[Candidate]:
    """Candidates whose predictions overlap: sure ones beside guesses, with and without a queue."""
    count = draw(st.integers(least, most))
    return [
        candidate(
            f"b.{number}",
            math.exp(draw(st.floats(-1.0, 1.0))),
            draw(st.sampled_from((0.03, 0.1, 0.3, 1.0, 1.5))),
            draw(st.sampled_from((0.0, 0.01, 0.5, 3.0))),
            draw(st.sampled_from(KINDS)),
        )
        for number in range(count)
    ]


@functools.cache
def errors(count: int) -> Any:
    """Independent normal errors, (draws, count), from a Sobol sequence: what they estimate is off by about 0.001."""
    return norm.ppf(qmc.Sobol(count, scramble=True, seed=5).random_base2(15))


def frequency_first(candidates: list[Candidate], preference: Preference, first: Candidate) -> float:
    """How often the rules choose ``first`` when they are told the true times, by simulation; ``candidates`` in any order."""
    service = np.array([one.service_seconds for one in candidates]) * np.exp(
        np.array([one.log_sigma for one in candidates]) * errors(len(candidates))
    )
    certain = np.array([one.predicted_seconds - one.service_seconds for one in candidates])
    seconds = certain + service
    objective = preference.objective or {"latency": 1.0}
    watts = np.array([preference.watts.get(one.device_kind, 1.0) for one in candidates])
    measures = {"latency": seconds, "throughput": service, "energy": service * watts}
    score = np.exp(sum(weight * np.log(measures[name]) for name, weight in objective.items()))

    timely = np.ones_like(seconds, dtype=bool)
    if preference.deadline_seconds is not None:
        timely = seconds <= preference.deadline_seconds
    hopeless = ~timely.any(axis=1)
    pool = timely | hopeless[:, None]

    def best(among: Any, by: Any) -> Any:
        return np.where(among, by, np.inf).argmin(axis=1)

    chosen = best(pool, score)
    least = score[np.arange(len(score)), chosen]
    ranks = np.array([_RANKS[preference.priorities.get(one.device_kind, "MEDIUM")] for one in candidates])
    for rank in (1, 0):  # the lowest rank that has one near the best is asked last, and so wins
        near = pool & (ranks <= rank) & (score <= 1.25 * least[:, None])
        chosen = np.where(near.any(axis=1), best(near, score), chosen)
    bound = preference.unless_slower_than or np.inf
    for wanted in reversed(preference.prefer):
        named = np.array([wanted in (one.backend, one.device_kind) for one in candidates])
        fit = pool & named & (seconds <= bound * seconds.min(axis=1)[:, None])
        chosen = np.where(fit.any(axis=1), best(fit, score), chosen)
    chosen = np.where(hopeless, best(pool, score), chosen)
    return float(np.mean(chosen == candidates.index(first)))


@settings(max_examples=30, deadline=None)
@given(fields(2, 5))
def test_completing_first_agrees_with_sampling(candidates: list[Candidate]) -> None:
    expected = frequency_first(candidates, Preference(), candidates[0])
    assert confidence_of(candidates[0], candidates[1:]) == pytest.approx(expected, abs=TOLERANCE)


@settings(max_examples=30, deadline=None)
@given(fields(2, 4), st.sampled_from(({"energy": 1.0}, {"throughput": 1.0}, {"energy": 0.7, "latency": 0.3})))
def test_an_objective_is_judged_by_its_own_measure(candidates: list[Candidate], objective: dict[str, float]) -> None:
    preference = Preference(objective=objective, watts=WATTS)
    choice = choose(candidates, preference)
    expected = frequency_first(candidates, preference, choice.ranking[0])
    assert choice.confidence == pytest.approx(expected, abs=TOLERANCE)


@settings(max_examples=30, deadline=None)
@given(
    fields(2, 4),
    st.sampled_from(({}, {"energy": 1.0}, {"energy": 0.5, "latency": 0.5})),
    st.sampled_from((0.5, 2.0, 10.0)),
)
def test_with_a_deadline_a_rival_must_be_behind_or_late(
    candidates: list[Candidate], objective: dict[str, float], deadline: float
) -> None:
    preference = Preference(objective=objective, watts=WATTS, deadline_seconds=deadline)
    choice = choose(candidates, preference)
    expected = frequency_first(candidates, preference, choice.ranking[0])
    assert choice.confidence == pytest.approx(expected, abs=TOLERANCE)


@settings(max_examples=30, deadline=None)
@given(fields(2, 4), st.sampled_from((None, 1.0, 1.25, 3.0)), st.sampled_from((None, 2.0)))
def test_the_first_of_a_list_is_right_while_it_is_within_its_bound(
    candidates: list[Candidate], bound: float | None, deadline: float | None
) -> None:
    wanted = candidates[0].device_kind
    preference = Preference(prefer=(wanted,), unless_slower_than=bound, deadline_seconds=deadline)
    choice = choose(candidates, preference)
    expected = frequency_first(candidates, preference, choice.ranking[0])
    assert choice.confidence == pytest.approx(expected, abs=TOLERANCE)


@settings(max_examples=40, deadline=None)
@given(
    fields(2, 4),
    st.permutations(KINDS).map(lambda kinds: tuple(kinds[:2])),
    st.sampled_from((1.25, 3.0)),
    st.sampled_from(({}, {"energy": 0.5, "latency": 0.5})),
    st.dictionaries(st.sampled_from(KINDS), st.sampled_from(("HIGH", "LOW"))),
    st.sampled_from((None, 2.0)),
)
def test_whatever_the_rules_confidence_is_never_too_high(
    candidates: list[Candidate],
    prefer: tuple[str, ...],
    bound: float,
    objective: dict[str, float],
    priorities: dict[str, str],
    deadline: float | None,
) -> None:
    preference = Preference(prefer, bound, objective, priorities, WATTS, "settings", deadline)
    choice = choose(candidates, preference)
    assert choice.confidence <= frequency_first(candidates, preference, choice.ranking[0]) + TOLERANCE


@settings(max_examples=30, deadline=None)
@given(fields(2, 3), st.sampled_from(("HIGH", "LOW")))
def test_a_priority_is_part_of_the_rules(candidates: list[Candidate], priority: str) -> None:
    preference = Preference(priorities={"cpu": priority})
    choice = choose(candidates, preference)
    expected = frequency_first(candidates, preference, choice.ranking[0])
    assert choice.confidence == pytest.approx(expected, abs=TOLERANCE)


def test_if_a_preferred_device_might_be_in_time_after_all_its_substitute_might_be_wrong() -> None:
    preferred, substitute = candidate("a.cpu", 1.6, 0.5), candidate("b.gpu", 0.5, 0.1, kind="cuda_gpu")
    preference = Preference(prefer=("cpu",), deadline_seconds=2.0)
    choice = choose([preferred, substitute], preference)
    assert choice.ranking[0] is substitute
    assert choice.confidence == pytest.approx(
        frequency_first([preferred, substitute], preference, substitute), abs=TOLERANCE
    )
    assert 0.2 < choice.confidence < 0.4


def test_when_the_likeliest_is_late_a_rival_in_time_would_be_chosen() -> None:
    thrifty, lavish = candidate("a.cpu", 1.9, 0.3), candidate("b.gpu", 2.1, 0.3, kind="cuda_gpu")
    preference = Preference(objective={"energy": 1.0}, watts={"cpu": 1.0, "cuda_gpu": 1e4}, deadline_seconds=2.0)
    choice = choose([thrifty, lavish], preference)
    assert choice.ranking[0] is thrifty
    assert choice.confidence == pytest.approx(frequency_first([thrifty, lavish], preference, thrifty), abs=TOLERANCE)
    assert 0.7 < choice.confidence < 0.9


@given(fields(3, 5), st.randoms(use_true_random=False))
def test_the_order_of_rivals_does_not_matter(candidates: list[Candidate], random: Any) -> None:
    first, others = candidates[0], candidates[1:]
    shuffled = list(others)
    random.shuffle(shuffled)
    assert confidence_of(first, shuffled) == pytest.approx(confidence_of(first, others), abs=1e-9)


@given(fields(2, 4), st.floats(1.0, 20.0))
def test_a_slower_rival_and_a_missing_one_leave_more_confidence(candidates: list[Candidate], factor: float) -> None:
    first, others = candidates[0], candidates[1:]
    before = confidence_of(first, others)
    last = others[-1]
    slower = candidate(last.backend, last.service_seconds * factor, last.log_sigma, last.queue_seconds)
    assert confidence_of(first, [*others[:-1], slower]) >= before - 1e-3  # as exact as the quadrature is
    assert confidence_of(first, others[:-1]) >= before - 1e-3


@given(fields(2, 4))
def test_somebody_is_first(candidates: list[Candidate]) -> None:
    total = sum(confidence_of(one, [other for other in candidates if other is not one]) for one in candidates)
    assert total == pytest.approx(1.0, abs=2e-3)


@pytest.mark.parametrize("sigma", [0.03, 0.5, 1.5])
def test_two_log_normals_without_a_shift_have_a_closed_form(sigma: float) -> None:
    first, other = candidate("a.a", 1.0, 0.4), candidate("b.b", 1.3, sigma)
    exact = 0.5 * math.erfc(-math.log(1.3) / math.hypot(0.4, sigma) / math.sqrt(2.0))
    assert confidence_of(first, [other]) == pytest.approx(exact, abs=3e-4)


def test_a_sure_rival_beside_a_guess_does_not_fall_between_nodes() -> None:
    guess = candidate("a.guess", 1.0, 1.5)
    for seconds in np.linspace(0.5, 2.0, 23):
        sure = candidate("b.sure", float(seconds), 1e-4)
        exact = 0.5 * math.erfc(-math.log(seconds) / 1.5 / math.sqrt(2.0))
        assert confidence_of(guess, [sure]) == pytest.approx(exact, abs=1e-3)


def test_what_shares_its_own_error_is_not_a_product_of_pairs() -> None:
    first, others = candidate("a.a", 1.0, 1.0), [candidate(f"b.{n}", 1.0, 0.03) for n in range(3)]
    assert confidence_of(first, others) == pytest.approx(
        frequency_first([first, *others], Preference(), first), abs=TOLERANCE
    )
    assert confidence_of(first, others) > 0.4  # a product of pairs would say an eighth


def test_certainty_and_hopelessness() -> None:
    first = candidate("a.a", 1e-6, 0.03)
    assert confidence_of(first, []) == 1.0
    assert confidence_of(first, [candidate("b.b", 1.0, 0.03)]) == pytest.approx(1.0)
    assert confidence_of(candidate("b.b", 1.0, 0.03, certain=2.0), [first]) == 0.0
    assert confidence_of(candidate("a.a", 1.0, 0.0), [candidate("b.b", 2.0, 0.0)]) == pytest.approx(1.0)
