"""Figures of merit on trials whose answers can be worked out by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routerd.errors import BadRequest
from routerd.scoring.metrics import (
    CLOSE,
    calibration_error,
    contested,
    percentile,
    prediction_error,
    regret,
    reliability,
    score,
    score_choices,
)
from routerd.scoring.trials import Trial


def trial(chosen="a", confidence=0.95, workload="w", work=1e3, predicted=None, **seconds):
    seconds = seconds or {"a": 1.0, "b": 2.0}
    return Trial(workload, work, seconds, predicted or dict(seconds), chosen, confidence)


class TestRegret:
    def test_it_is_what_the_choice_took_beyond_the_best(self):
        assert regret(trial(a=1.0, b=2.0), "a") == 0.0
        assert regret(trial(a=1.0, b=2.0), "b") == 1.0

    def test_a_choice_that_was_not_run_is_named(self):
        with pytest.raises(BadRequest, match="a trial of w chose c, but was run on a, b"):
            regret(trial(), "c")


class TestChoices:
    def test_a_choice_close_to_the_best_is_right(self):
        just, beyond = 1.0 + CLOSE - 1e-9, 1.0 + CLOSE + 1e-9
        trials = [trial(a=1.0, b=just), trial(a=1.0, b=beyond)]
        assert score_choices(trials, ["b", "b"]).right_rate == 0.5
        assert score_choices(trials, ["a", "a"]).right_rate == 1.0

    def test_mean_and_95th_percentile(self):
        trials = [trial(a=1.0, b=1.0 + step / 20) for step in range(21)]
        judged = score_choices(trials, ["b"] * 21)
        assert judged.mean_regret == pytest.approx(0.5)
        assert judged.p95_regret == pytest.approx(0.95)

    @pytest.mark.parametrize(("share", "value"), [(0.0, 1.0), (0.5, 2.5), (1.0, 4.0), (0.95, 3.85)])
    def test_a_percentile_lies_between_the_values_around_it(self, share, value):
        assert percentile([4.0, 1.0, 3.0, 2.0], share) == pytest.approx(value)
        assert percentile([7.0], share) == 7.0


class TestPrediction:
    def test_it_averages_over_every_backend_of_every_trial(self):
        trials = [trial(a=1.0, b=2.0, predicted={"a": 1.1, "b": 1.0}), trial(a=1.0, predicted={"a": 1.0})]
        assert prediction_error(trials) == pytest.approx((0.1 + 0.5 + 0.0) / 3)

    def test_what_was_predicted_but_not_run_says_nothing(self):
        assert prediction_error([trial(a=1.0, b=2.0, predicted={"a": 2.0, "c": 9.0})]) == 1.0
        assert prediction_error([trial(a=1.0, b=2.0, predicted={"c": 9.0})]) is None


class TestReliability:
    def test_bins_hold_their_upper_edge(self):
        curve = reliability([trial(confidence=one) for one in (0.0, 0.5, 0.55, 0.6, 1.0)])
        assert [(round(one.low, 1), round(one.high, 1), one.count) for one in curve] == [
            (0.0, 0.1, 1), (0.4, 0.5, 1), (0.5, 0.6, 2), (0.9, 1.0, 1)]  # fmt: skip
        assert curve[2].mean_confidence == pytest.approx(0.575)

    def test_only_the_very_fastest_counts_as_best(self):
        close, tie = trial(a=1.01, b=1.0), trial(a=1.0, b=1.0)
        assert [one.best_rate for one in reliability([close])] == [0.0]
        assert [one.best_rate for one in reliability([tie])] == [1.0]

    def test_the_interval_is_wilsons(self):
        trials = [trial()] * 9 + [trial(chosen="b")]
        (one,) = reliability(trials)
        # The interval's ends solve |p − 0.9| = z·sqrt(p(1−p)/10).
        for end in (one.best_low, one.best_high):
            assert abs(end - 0.9) == pytest.approx(1.959964 * math.sqrt(end * (1 - end) / 10))
        assert one.best_low < 0.9 < one.best_high

    def test_the_error_weighs_bins_by_their_counts(self):
        sure = [trial(confidence=0.9)] * 9 + [trial(confidence=0.9, chosen="b")]
        assert calibration_error(sure) == pytest.approx(0.0)
        doubtful = [trial(confidence=0.6), trial(confidence=0.6, chosen="b")]
        assert calibration_error(doubtful) == pytest.approx(0.1)
        assert calibration_error(sure + doubtful) == pytest.approx(0.1 * 2 / 12)

    @given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=50))
    def test_bins_share_out_every_choice(self, drawn):
        trials = [trial(confidence=confidence, chosen="a" if best else "b") for confidence, best in drawn]
        curve = reliability(trials)
        assert sum(one.count for one in curve) == len(trials)
        for one in curve:
            assert one.low - 1e-12 <= one.mean_confidence <= one.high + 1e-12
            assert -1e-12 <= one.best_low <= one.best_rate + 1e-12 <= one.best_high + 2e-12 <= 1.0 + 3e-12
        assert 0.0 <= calibration_error(trials) <= 1.0


class TestScore:
    def test_a_trial_of_one_backend_is_counted_apart(self):
        alone = trial(a=1.0, predicted={"a": 2.0}, confidence=1.0)
        whole = score([trial(chosen="b"), alone])
        assert (whole.trials, whole.single_backend) == (1, 1)
        assert whole.choices.right_rate == 0.0
        assert whole.choices.mean_regret == 1.0
        assert [one.count for one in whole.reliability] == [1]
        assert whole.prediction_error == pytest.approx(1 / 3)

    def test_the_workload_that_costs_most_comes_first(self):
        trials = [
            trial(workload="good"),
            trial(workload="bad", chosen="b", work=10.0, a=1.0, b=3.0),
            trial(workload="bad", chosen="b", work=20.0, a=1.0, b=2.0),
        ]
        bad, good = score(trials).workloads
        assert (bad.workload, bad.trials, bad.right_rate) == ("bad", 2, 0.0)
        assert (bad.mean_regret, bad.worst_regret, bad.worst_work) == (1.5, 2.0, 10.0)
        assert (good.workload, good.right_rate, good.mean_regret) == ("good", 1.0, 0.0)

    @pytest.mark.parametrize("trials", [[], [trial(a=1.0)]])
    def test_with_nothing_to_choose_there_is_nothing_to_score(self, trials):
        for judge in (score, contested):
            with pytest.raises(BadRequest, match="no task was run on two backends"):
                judge(trials)
