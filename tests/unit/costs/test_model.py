"""Cost models: interpolation, honest uncertainty, and corrections that no spike can move."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import msgpack

from routerd.costs.curve import PRIOR_LOG_SIGMA
from routerd.costs.model import CostModel, ModelState, Point


def power_law(exponent: float = 1.0, launch: float = 0.0) -> CostModel:
    model = CostModel()
    model.calibrate([Point(work, launch + 1e-9 * work**exponent, 0.02) for work in (1e3, 1e4, 1e5, 1e6)])
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


WORKS = (1e3, 1e4, 1e5, 1e6)


def execute(
    model: CostModel, count: int, factor: float, random_: random.Random, *, works=None, noise: float = 0.03
) -> None:
    """So many executions, ``factor`` times as long as calibrated, in each quarter of the range in turn or at ``works``."""
    for number in range(count):
        work = random_.choice(works) if works else 10 ** (3.0 + 0.75 * (number % 4 + random_.random()))
        seconds = model.calibrated_seconds(work) * factor * math.exp(random_.gauss(0.0, noise))
        model.observe(work, seconds)


class TestLearning:
    @given(st.integers(0, 10**9))
    def test_a_lasting_change_is_learnt_within_thirty_executions_at_all_sizes(self, seed):
        """Whatever was believed before."""
        random_ = random.Random(seed)
        model = power_law()
        execute(model, 60, 1.0, random_)
        execute(model, 30, 3.0, random_)
        for work in WORKS:
            assert model.predict(work).seconds == pytest.approx(3e-9 * work, rel=0.15)
        execute(model, 30, 1.0, random_)
        for work in WORKS:
            assert model.predict(work).seconds == pytest.approx(1e-9 * work, rel=0.15)

    @given(st.integers(0, 10**9), st.floats(1e-3, 1e3))
    def test_one_spike_moves_nothing(self, seed, spike):
        random_ = random.Random(seed)
        model = power_law()
        execute(model, 40, 1.0, random_)
        before = [model.predict(work).seconds for work in WORKS]
        execute(model, 1, spike, random_)
        for work, seconds in zip(WORKS, before, strict=True):
            assert model.predict(work).seconds == pytest.approx(seconds, rel=0.05)

    def test_nor_does_the_first_execution_if_it_is_one(self):
        model = power_law()
        assert model.observe(1e5, 1e-4 * 500) is False
        assert model.predict(1e5).seconds == pytest.approx(1e-4, rel=0.02)

    def test_a_correction_at_one_size_applies_to_all_that_say_nothing_else(self):
        model = power_law()
        for _ in range(31):
            model.observe(1e4, 2e-5)
        assert model.predict(1e6).seconds == pytest.approx(2e-3, rel=0.15)

    def test_a_size_that_differs_from_the_rest_is_corrected_apart(self):
        random_, model = random.Random(1), power_law()
        for _ in range(100):
            execute(model, 2, 1.0, random_, works=WORKS[:3])
            execute(model, 1, 3.0, random_, works=WORKS[3:])
        assert model.predict(1e6).seconds == pytest.approx(3e-3, rel=0.15)
        for work in WORKS[:3]:
            assert model.predict(work).seconds == pytest.approx(1e-9 * work, rel=0.1)

    def test_a_guess_yields_to_the_first_execution(self):
        model = CostModel()
        guessed = model.predict(1e6).seconds
        assert model.observe(1e6, 10.0 * guessed) is True
        assert model.predict(1e6).seconds == pytest.approx(10.0 * guessed)
        assert not model.calibrated

    @pytest.mark.parametrize("noise", [0.1, 0.3])
    @pytest.mark.parametrize("calibrated_sigma", [0.02, 0.3])
    def test_as_many_executions_lie_within_a_deviation_as_should(self, noise, calibrated_sigma):
        """Of a normal distribution 68 % lie within one and 95 % within two; more where calibration varied more."""
        random_, distances = random.Random(1), []
        for _ in range(60):
            model = CostModel(ModelState(tuple(Point(work, 1e-9 * work, calibrated_sigma) for work in WORKS)))
            execute(model, 30, 1.0, random_, noise=noise)
            for work in WORKS * 5:
                prediction = model.predict(work)
                error = math.log(1e-9 * work / prediction.seconds) + random_.gauss(0.0, noise)
                distances.append(abs(error) / prediction.log_sigma)
        within = [sum(distance < deviations for distance in distances) / len(distances) for deviations in (1.0, 2.0)]
        assert within[0] > 0.6
        assert within[1] > 0.88
        if calibrated_sigma <= noise:
            assert within[0] < 0.78

    def test_a_size_that_says_nothing_yet_is_as_unsure_as_the_rest(self):
        random_, model = random.Random(1), power_law()
        execute(model, 31, 1.0, random_, works=WORKS[:1], noise=0.3)
        assert model.predict(1e6).log_sigma > 0.15

    @pytest.mark.parametrize(("work", "seconds"), [(1e5, 0.0), (1e5, -1.0), (1e5, math.inf), (1e5, math.nan), (0.0, 1.0),
                                                   (-1.0, 1.0), (math.inf, 1.0), (math.nan, 1.0)])  # fmt: skip
    def test_times_that_cannot_be_are_refused(self, work, seconds):
        model = power_law()
        before = model.curve
        for _ in range(40):
            assert model.observe(work, seconds) is False
        assert model.observations == 0
        assert model.curve is before


class TestPublishing:
    def test_the_curve_stays_the_same_object_until_a_prediction_moves_noticeably(self):
        model = power_law()
        before = model.curve
        for _ in range(100):
            assert model.observe(1e5, 1.01e-4) is False
        assert model.curve is before
        moved = [model.observe(1e5, 2e-4) for _ in range(30)]
        assert 0 < sum(moved) < 20
        assert model.curve is not before

    @given(st.integers(0, 10**9))
    def test_it_moves_exactly_when_it_is_said_to(self, seed):
        random_, model = random.Random(seed), power_law()
        for _ in range(60):
            before = model.curve
            work = 10 ** random_.uniform(3.0, 6.0)
            moved = model.observe(work, 1e-9 * work * random_.choice((1.0, 1.5)) * math.exp(random_.gauss(0.0, 0.2)))
            assert moved is (model.curve is not before)

    @given(st.integers(0, 10**9))
    def test_what_is_published_is_never_far_from_what_is_known(self, seed):
        """A new model that starts from what this one knows predicts about the same."""
        random_, model = random.Random(seed), power_law()
        for factor in (1.0, 2.0, 0.7):
            execute(model, random_.randint(0, 40), factor, random_, works=(2e5,), noise=0.1)
            known = CostModel(model.state())
            for work in WORKS:
                prediction = model.predict(work)
                near = math.expm1(max(0.02, 0.2 * prediction.log_sigma) + 0.001)
                assert prediction.seconds == pytest.approx(known.predict(work).seconds, rel=near)


class TestDrift:
    @pytest.mark.parametrize(
        ("factor", "drifted"), [(1.0, False), (1.4, False), (1.7, True), (0.72, False), (0.55, True)]
    )
    def test_it_is_noticed_when_executions_differ_much_and_for_long(self, factor, drifted):
        model = power_law()
        execute(model, 15, factor, random.Random(1))
        assert model.drifted is False
        execute(model, 16, factor, random.Random(2))
        assert model.drifted is drifted

    def test_a_guess_cannot_drift(self):
        model = CostModel()
        for _ in range(40):
            model.observe(1e6, 5.0)
        assert model.drifted is False

    def test_a_new_calibration_ends_it(self):
        model = power_law()
        execute(model, 40, 3.0, random.Random(1))
        model.calibrate([Point(work, 3e-9 * work, 0.02) for work in WORKS])
        assert model.drifted is False


class TestCalibratingAgain:
    def test_all_points_are_replaced_at_once(self):
        model = power_law()
        model.calibrate([Point(1e7, 1.0, 0.1), Point(1e5, 0.1, 0.1)])
        assert [point.work for point in model.points] == [1e5, 1e7]

    def test_corrections_start_afresh_where_it_says_something_else(self):
        model = power_law()
        execute(model, 40, 3.0, random.Random(1))
        model.calibrate([Point(work, 3e-9 * work, 0.02) for work in WORKS])
        for work in WORKS:
            assert model.predict(work).seconds == pytest.approx(3e-9 * work, rel=1e-6)

    @pytest.mark.parametrize("sizes", [WORKS[:3], (*WORKS, 1e7)])
    def test_so_they_do_for_other_sizes(self, sizes):
        model = power_law()
        execute(model, 40, 3.0, random.Random(1))
        model.calibrate([Point(work, 1e-9 * work, 0.02) for work in sizes])
        assert model.predict(1e5).seconds == pytest.approx(1e-4, rel=1e-6)

    def test_they_are_kept_where_it_says_the_same_for_it_is_the_tasks_that_differ(self):
        model = power_law()
        execute(model, 40, 3.0, random.Random(1))
        model.calibrate([Point(work, 1.1e-9 * work, 0.02) for work in WORKS])
        for work in WORKS:
            assert model.predict(work).seconds == pytest.approx(3.3e-9 * work, rel=0.1)
        assert model.drifted is True

    def test_a_calibration_that_cannot_be_leaves_everything_as_it_was(self):
        model = power_law()
        before = model.curve
        for point in (
            Point(1e3, -1.0, 0.1),
            Point(math.nan, 1.0, 0.1),
            Point(1e3, math.inf, 0.1),
            Point(1e3, 1.0, math.nan),
        ):
            with pytest.raises(ValueError, match="positive, finite work and seconds"):
                model.calibrate([Point(1e2, 1.0, 0.1), point])
        assert model.curve is before
        assert len(model.points) == 4


def test_a_point_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="positive, finite work and seconds"):
        CostModel().calibrate([Point(1e3, 0.0, 0.1)])


@given(st.integers(0, 10**9))
def test_state_keeps_what_was_learnt(seed):
    model = power_law()
    model.cold_seconds = 0.25
    execute(model, 40, 2.0, random.Random(seed), works=(2e5,))
    restored = CostModel(msgpack.decode(msgpack.encode(model.state()), type=ModelState))
    assert restored.calibrated
    assert restored.cold_seconds == 0.25
    for work in WORKS:
        assert restored.predict(work).seconds == pytest.approx(model.predict(work).seconds, rel=0.025)
    assert CostModel(restored.state()).points == restored.points


def test_tasks_whose_shape_takes_forty_times_as_long_do_not_speak_for_other_sizes():
    model = power_law()
    before, sure = model.predict(1e3).seconds, model.predict(1e3).log_sigma
    for _ in range(40):
        model.observe(1e6, 40.0 * 1e-3)
    assert model.predict(1e6).seconds == pytest.approx(40e-3, rel=0.05)
    assert model.predict(1e3).seconds <= 4.1 * before
    assert model.predict(1e3).log_sigma > 10.0 * sure


def test_state_of_a_guess_is_a_guess():
    restored = CostModel(CostModel().state())
    assert not restored.calibrated
    assert restored.predict(1e6) == CostModel().predict(1e6)


@given(st.floats(1e-3, 1e15), st.lists(st.tuples(st.floats(1.0, 1e9), st.floats(1e-7, 1e3)), max_size=8))
def test_predictions_are_always_positive_and_finite(work, points):
    model = CostModel()
    model.calibrate([Point(size, seconds, 0.1) for size, seconds in points])
    prediction = model.predict(work)
    assert prediction.seconds > 0
    assert prediction.log_sigma > 0
