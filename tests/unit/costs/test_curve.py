"""Curves through timed sizes: what was timed they say exactly, between they invent nothing, beyond they doubt."""

from __future__ import annotations

import math
import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import msgpack

from routerd.costs.curve import ENOUGH_SIZES, PRIOR_LOG_SIGMA, Curve, curve_through, prior_curve

seeds = st.integers(0, 10**9)


def random_points(seed: int, *, ascending: bool = False) -> tuple[list[float], list[float], list[float]]:
    random_ = random.Random(seed)
    count = random_.randint(1, 9)
    works = sorted({10 ** random_.uniform(0, 10) for _ in range(count)})
    seconds = [10 ** random_.uniform(-6, 1) for _ in works]
    return works, sorted(seconds) if ascending else seconds, [random_.uniform(0.0, 0.5) for _ in works]


def log_seconds(curve: Curve, log_work: float) -> float:
    return math.log(curve.predict(math.exp(log_work)).seconds)


@given(seeds)
def test_it_passes_through_what_was_timed(seed):
    works, seconds, sigmas = random_points(seed)
    curve = curve_through(works, seconds, sigmas)
    for work, timed, sigma in zip(works, seconds, sigmas, strict=True):
        prediction = curve.predict(work)
        assert prediction.seconds == pytest.approx(timed, rel=1e-6)
        assert prediction.log_sigma >= sigma


@given(seeds)
def test_between_two_sizes_it_keeps_their_order(seed):
    works, seconds, sigmas = random_points(seed)
    curve = curve_through(works, seconds, sigmas)
    for (left, before), (right, after) in pairwise(zip(works, seconds, strict=True)):
        direction = 1.0 if after >= before else -1.0
        inside = [left * (right / left) ** (part / 20) for part in range(21)]
        values = [log_seconds(curve, math.log(work)) for work in inside]
        assert all(direction * (two - one) >= -1e-6 for one, two in pairwise(values))


@given(seeds)
def test_more_work_never_takes_less_time_where_none_was_timed_to(seed):
    curve = curve_through(*random_points(seed, ascending=True))
    values = [log_seconds(curve, x / 4.0) for x in range(-40, 160)]
    assert all(two >= one - 1e-9 for one, two in pairwise(values))


@settings(max_examples=200, deadline=None)
@given(seeds)
def test_no_slope_is_beyond_its_bounds(seed):
    """Finite differences lie between the least and the greatest derivative of the interval (mean value theorem)."""
    random_ = random.Random(seed)
    curve = curve_through(*random_points(seed)) if seed % 10 else prior_curve(random_.gauss(0.0, 1.0))
    for _ in range(10):
        left = random_.uniform(-3.0, 28.0)
        right = left + 10 ** random_.uniform(-3.0, 1.0)
        least, most = curve.slopes(left, right)
        assert math.isfinite(least)
        assert math.isfinite(most)
        places = [left, right, *(random_.uniform(left, right) for _ in range(6))]
        places += [place for knot in curve.knots if left < (place := knot.log_work) < right]
        for one, two in pairwise(sorted(places)):
            if two - one > 1e-5:
                slope = (log_seconds(curve, two) - log_seconds(curve, one)) / (two - one)
                assert least - 1e-6 <= slope <= most + 1e-6


@pytest.mark.parametrize(("apart", "missed"), [(3.0, 0.02), (5.0, 0.045), (10.0, 0.105)])
def test_the_bend_from_launch_cost_to_growth_is_followed(apart, missed):
    """Seven sizes, each ``apart`` times the one before; the bend may be anywhere."""
    works = [1e4 * apart**step for step in range(7)]
    for bend in range(-2, 9):
        launch = 1e-9 * works[0] * apart**bend
        curve = curve_through(works, [launch + 1e-9 * work for work in works], [0.03] * 7)
        for step in range(121):
            work = works[0] * (works[-1] / works[0]) ** (step / 120)
            prediction = curve.predict(work)
            assert prediction.seconds == pytest.approx(launch + 1e-9 * work, rel=missed)
            error = abs(math.log(prediction.seconds / (launch + 1e-9 * work)))
            assert error <= 2.0 * prediction.log_sigma


@pytest.mark.parametrize("power", [0.8, 1.0, 1.5])
def test_a_power_law_is_followed_exactly(power):
    works = [1e3, 1e4, 1e6, 1e7]
    curve = curve_through(works, [1e-9 * work**power for work in works], [0.02] * 4)
    for work in (2e3, 7e4, 3e5, 9e6):
        assert curve.predict(work).seconds == pytest.approx(1e-9 * work**power, rel=1e-9)


def test_below_the_smallest_size_the_launch_cost_remains():
    works = [1e4, 1e5, 1e6]
    curve = curve_through(works, [1e-4 + 1e-9 * work for work in works], [0.02] * 3)
    for work in (1e-3, 1.0, 1e3):
        assert curve.predict(work).seconds == pytest.approx(1e-4 + 1e-9 * work, rel=1e-6)


def test_there_it_is_proportional_where_no_launch_cost_shows():
    curve = curve_through([1e4, 1e5, 1e6], [1e-5, 2e-4, 4e-3], [0.02] * 3)
    assert curve.predict(1e2).seconds == pytest.approx(1e-7)


@pytest.mark.parametrize(("last", "growth"), [(1.01e-3, 0.8), (1e-2, 1.0), (1.0, 1.1)])
def test_beyond_the_largest_size_growth_is_within_reason(last, growth):
    curve = curve_through([1e4, 1e5, 1e6], [1e-4, 1e-3, last], [0.02] * 3)
    assert curve.predict(1e7).seconds == pytest.approx(last * 10.0**growth)


@given(seeds)
def test_doubt_grows_with_the_distance_from_what_was_timed(seed):
    works, seconds, sigmas = random_points(seed)
    curve = curve_through(works, seconds, sigmas)
    above = [curve.predict(works[-1] * 10.0**step).log_sigma for step in range(4)]
    below = [curve.predict(works[0] / 10.0**step).log_sigma for step in range(4)]
    assert above == sorted(set(above))
    assert below == sorted(set(below))


def test_few_sizes_make_every_prediction_less_sure():
    works = [1e4, 1e5, 1e6, 1e7]
    sigmas = []
    for count in range(1, 5):
        curve = curve_through(works[:count], [1e-9 * work for work in works[:count]], [0.05] * count)
        sigmas.append(curve.predict(works[count - 1]).log_sigma)
    assert sigmas[0] > sigmas[1] > sigmas[ENOUGH_SIZES - 1] == sigmas[3] == pytest.approx(0.05)


def test_a_bend_makes_what_lies_in_it_less_sure():
    def between(seconds):
        curve = curve_through([1e4, 1e5, 1e6, 1e7], seconds, [0.03] * 4)
        return curve.predict(math.sqrt(1e5 * 1e6)).log_sigma

    assert between([1e-5, 1e-4, 1e-3, 1e-2]) == pytest.approx(0.03)
    assert between([1e-4, 1e-4, 1e-3, 1e-2]) > 0.05


def test_between_sizes_that_were_timed_it_is_never_less_sure_than_a_guess():
    """Two that are almost one, and differ by chance, say nothing of how steep the curve is."""
    curve = curve_through([1e3, 1e5, 1e5 * (1.0 + 1e-9), 1e7], [1e-5, 1e-4, 1.1e-4, 1e-2], [0.03] * 4)
    for power in range(30, 71):
        assert curve.predict(10 ** (power / 10.0)).log_sigma <= 0.03 + PRIOR_LOG_SIGMA


def test_no_prediction_is_surer_than_a_shared_machine_allows():
    assert curve_through([1e4, 1e5, 1e6], [1e-4, 1e-3, 1e-2], [0.0] * 3).predict(1e5).log_sigma == 0.03


def test_the_prior_is_a_guess_and_says_so():
    curve = prior_curve()
    assert not curve.timed
    assert not curve.reaches(1e6)
    assert curve.predict(1e6).log_sigma == PRIOR_LOG_SIGMA
    shifted = prior_curve(math.log(3.0), 0.4).predict(1e6)
    assert shifted.seconds == pytest.approx(3.0 * curve.predict(1e6).seconds)
    assert shifted.log_sigma == 0.4


@pytest.mark.parametrize(
    ("work", "reached"), [(499.0, False), (501.0, True), (1e5, True), (1.9e6, True), (2.1e6, False)]
)
def test_its_reach_is_twice_what_was_timed(work, reached):
    assert curve_through([1e3, 1e4, 1e6], [1e-6, 1e-5, 1e-3], [0.1] * 3).reaches(work) is reached


@given(seeds)
def test_it_travels_and_says_the_same(seed):
    curve = curve_through(*random_points(seed))
    there = msgpack.decode(msgpack.encode(curve), type=Curve)
    assert there == curve
    assert there.predict(12345.6) == curve.predict(12345.6)
