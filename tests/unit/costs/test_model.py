"""Cost models: interpolation, honest uncertainty, and corrections that no spike can move."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routerd.costs.model import PRIOR_LOG_SIGMA, CostModel, Point


def power_law(exponent: float = 1.0, launch: float = 0.0) -> CostModel:
    model = CostModel()
    for work in (1e3, 1e4, 1e5, 1e6):
        model.add_point(Point(work, launch + 1e-9 * work**exponent, 0.02))
    return model


def test_without_points_the_prior_says_how_little_it_knows():
    prediction = CostModel().predict(1e6)
    assert prediction.log_sigma == PRIOR_LOG_SIGMA
    assert prediction.seconds > 0


@pytest.mark.parametrize("work", [2e3, 3e4, 5e5])
def test_a_power_law_is_interpolated_exactly(work):
    assert power_law(1.5).predict(work).seconds == pytest.approx(1e-9 * work**1.5, rel=1e-9)


def test_uncertainty_grows_with_the_distance_from_the_calibrated_range():
    model = power_law()
    inside, near, far = (model.predict(work).log_sigma for work in (1e5, 1e7, 1e9))
    assert inside < near < far


def test_below_the_smallest_size_the_launch_cost_remains():
    model = power_law(launch=1e-4)
    assert model.predict(1.0).seconds == pytest.approx(1e-4, rel=0.05)


def test_one_spike_moves_nothing():
    model = power_law()
    for _ in range(10):
        model.observe(1e5, 1e-4)
    before = model.predict(1e5).seconds
    model.observe(1e5, 1e-4 * 500)
    assert model.predict(1e5).seconds == pytest.approx(before, rel=0.02)


def test_a_lasting_change_is_learnt_within_thirty_observations():
    model = power_law()
    for _ in range(31):
        model.observe(1e5, 1e-4)
    for _ in range(30):
        model.observe(1e5, 3e-4)
    assert model.predict(1e5).seconds == pytest.approx(3e-4, rel=0.15)


def test_a_correction_at_one_size_applies_to_all():
    model = power_law()
    for _ in range(31):
        model.observe(1e4, 2e-5)
    assert model.predict(1e6).seconds == pytest.approx(2e-3, rel=0.15)


@pytest.mark.parametrize("seconds", [0.0, -1.0, math.inf, math.nan])
def test_times_that_cannot_be_are_ignored(seconds):
    model = power_law()
    model.observe(1e5, seconds)
    assert model.observations == 0


def test_a_point_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="positive work and seconds"):
        CostModel().add_point(Point(1e3, 0.0, 0.1))


def test_state_keeps_what_was_learnt():
    model = power_law()
    for _ in range(31):
        model.observe(1e5, 2e-4)
    restored = CostModel(model.state())
    assert restored.calibrated
    assert restored.predict(1e5).seconds == pytest.approx(model.predict(1e5).seconds)


@given(st.floats(1e-3, 1e15), st.lists(st.tuples(st.floats(1.0, 1e9), st.floats(1e-7, 1e3)), max_size=8))
def test_predictions_are_always_positive_and_finite(work, points):
    model = CostModel()
    for size, seconds in points:
        model.add_point(Point(size, seconds, 0.1))
    prediction = model.predict(work)
    assert prediction.seconds > 0
    assert prediction.log_sigma > 0
