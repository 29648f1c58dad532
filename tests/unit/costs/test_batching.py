"""How many requests run as one, and how long the first waits for the others."""

from __future__ import annotations

import math

import pytest

from routerd.costs.batching import (
    DELAY_SHARE,
    MOST_BYTES,
    MOST_DELAY_SECONDS,
    MOST_MEMBERS,
    Arrivals,
    Batch,
    Sizes,
    best_members,
    delay_seconds,
)
from routerd.costs.curve import Curve, curve_through, prior_curve

SIZES = tuple(10.0**power for power in range(7))


def affine(launch: float, rate: float, sizes: tuple[float, ...] = SIZES) -> Curve:
    """A device that takes ``launch + rate·work`` seconds."""
    return curve_through(sizes, [launch + rate * work for work in sizes], [0.03] * len(sizes))


LAUNCHING = affine(10e-3, 1e-6)  # a request of work 1 is nearly all launch
COMPUTING = affine(1e-9, 1e-3)  # twice the work takes twice as long


class TestBestMembers:
    def test_launching_is_shared_by_as_many_as_there_may_be(self) -> None:
        assert best_members(LAUNCHING, 1.0) == MOST_MEMBERS
        assert best_members(LAUNCHING, 1.0, most=8) == 8

    def test_computing_is_not_shared(self) -> None:
        assert best_members(COMPUTING, 10.0) == 1

    def test_it_ends_where_twice_as_many_are_hardly_cheaper(self) -> None:
        # 10 ms + n·1 ms: from 8 to 16 members each goes from 2.25 to 1.63 ms, from 128 to 256 from 1.08 to 1.04.
        curve = affine(10e-3, 1e-6)
        members = best_members(curve, 1000.0, most=1024)
        each = curve.predict(members * 1000.0).seconds / members
        twice = curve.predict(2 * members * 1000.0).seconds / (2 * members)
        assert 32 <= members <= 256
        assert twice > 0.94 * each

    def test_nobody_waits_longer_on_average_than_one_after_another(self) -> None:
        for rate in (1e-6, 1e-5, 1e-4, 1e-3, 1e-2):
            curve = affine(1e-3, rate)
            members = best_members(curve, 1.0)
            alone = curve.predict(1.0).seconds
            assert curve.predict(float(members)).seconds <= alone * (members + 1) / 2.0 * (1.0 + 1e-9)

    def test_nothing_is_believed_of_sizes_far_beyond_the_timed_ones(self) -> None:
        curve = affine(10e-3, 1e-6, (1.0, 2.0, 4.0))
        assert best_members(curve, 1.0) == 8
        assert best_members(curve, 100.0) == 1

    def test_a_pair_that_was_never_timed_has_the_launch_cost_of_the_prior(self) -> None:
        assert best_members(prior_curve(), 1.0) == MOST_MEMBERS
        assert best_members(prior_curve(), 1e9) == 1


class TestBatch:
    def test_it_grows_to_the_most_members(self) -> None:
        batch = Batch(LAUNCHING, 1.0, 100)
        taken = [batch.admit(1.0, 100, None, 0.0) for _ in range(MOST_MEMBERS)]
        assert taken == [True] * (MOST_MEMBERS - 1) + [False]
        assert (batch.members, batch.full) == (MOST_MEMBERS, True)
        assert batch.work == MOST_MEMBERS
        assert batch.seconds == LAUNCHING.predict(float(MOST_MEMBERS)).seconds

    def test_it_takes_nobody_where_joining_gains_nothing(self) -> None:
        batch = Batch(COMPUTING, 10.0, 100)
        assert batch.full
        assert not batch.admit(10.0, 100, None, 0.0)
        assert batch.members == 1

    def test_members_may_differ_in_size(self) -> None:
        batch = Batch(LAUNCHING, 4.0, 100)
        assert batch.admit(200.0, 100, None, 0.0)
        assert not batch.admit(100.0, 100, None, 0.0)  # together they would pass 64 requests of work 4
        assert batch.admit(50.0, 100, None, 0.0)

    def test_bytes_are_bounded(self) -> None:
        batch = Batch(LAUNCHING, 1.0, MOST_BYTES - 10)
        assert not batch.admit(1.0, 11, None, 0.0)
        assert batch.admit(1.0, 10, None, 0.0)

    @pytest.mark.parametrize("own", [True, False], ids=["of the first", "of the one that comes"])
    def test_the_earliest_deadline_is_kept(self, own: bool) -> None:
        curve = affine(1e-3, 1e-4)  # alone 1.1 ms, five together 1.5 ms
        batch = Batch(curve, 1.0, 0, ends_by=10.0 if own else None)
        late, early = 10.0 - 1.0e-3, 10.0 - 2.0e-3
        assert not batch.admit(1.0, 0, None if own else 10.0, now=late)
        assert batch.admit(1.0, 0, None if own else 10.0, now=early)
        assert not batch.admit(1.0, 0, None, now=late)
        assert batch.members == 2

    def test_a_large_one_that_would_delay_the_others_stays_apart(self) -> None:
        # Beyond a thousand it gets steeper than proportional: apart, the two are done sooner than together.
        curve = curve_through((1.0, 1e2, 1e3, 2e3), (1e-3, 1.1e-3, 1.2e-3, 1.0), [0.03] * 4)
        batch = Batch(curve, 90.0, 0)
        assert not batch.admit(1900.0, 0, None, 0.0)
        assert batch.admit(90.0, 0, None, 0.0)


class TestDelay:
    def test_it_is_bounded_by_a_share_of_what_is_saved(self) -> None:
        for interval in (1e-6, 1e-5, 1e-4, 1e-3, 3e-3):
            delay = delay_seconds(LAUNCHING, 1.0, 1, interval)
            assert 0.0 <= delay <= min(DELAY_SHARE * LAUNCHING.predict(1.0).seconds, MOST_DELAY_SECONDS)

    def test_it_is_the_time_in_which_company_comes(self) -> None:
        assert delay_seconds(LAUNCHING, 1.0, 1, 1e-5) == pytest.approx(63e-5)
        assert delay_seconds(LAUNCHING, 1.0, 33, 1e-5) <= 31e-5

    @pytest.mark.parametrize("interval", [math.inf, 1.0, 5.1e-3])
    def test_arrivals_too_rare_are_not_waited_for(self, interval: float) -> None:
        assert delay_seconds(LAUNCHING, 1.0, 1, interval) == 0.0

    def test_a_full_batch_waits_for_nobody(self) -> None:
        assert delay_seconds(LAUNCHING, 1.0, MOST_MEMBERS, 1e-9) == 0.0

    def test_nobody_waits_where_joining_gains_nothing(self) -> None:
        assert delay_seconds(COMPUTING, 10.0, 1, 1e-9) == 0.0

    def test_a_quick_launch_is_worth_a_short_wait_only(self) -> None:
        quick = affine(100e-6, 1e-9)
        assert 0.0 < delay_seconds(quick, 1.0, 1, 1e-6) <= 50e-6
        assert delay_seconds(quick, 1.0, 1, 60e-6) == 0.0


class TestArrivals:
    def test_one_client_alone_is_no_company(self) -> None:
        arrivals = Arrivals()
        for step in range(20):
            arrivals.note(7, step * 1e-4)
        assert arrivals.interval_seconds() == math.inf

    def test_the_interval_is_the_usual_one_between_clients(self) -> None:
        arrivals = Arrivals()
        for step, at in enumerate((0.0, 1e-3, 2e-3, 5.0, 5.001, 5.002)):
            arrivals.note(step, at)
        assert arrivals.interval_seconds() == pytest.approx(1e-3)

    def test_a_wait_in_vain_makes_it_longer_until_nobody_waits(self) -> None:
        arrivals = Arrivals()
        for step in range(20):
            arrivals.note(step % 2, step * 1e-3)
        waits = 0
        while delay := delay_seconds(LAUNCHING, 1.0, 1, arrivals.interval_seconds()):
            arrivals.waited(delay)
            waits += 1
            assert waits < 20
        assert waits > 0

    def test_company_that_comes_again_is_waited_for_again(self) -> None:
        arrivals = Arrivals()
        for _ in range(20):
            arrivals.waited(1e-3)
        assert delay_seconds(LAUNCHING, 1.0, 1, arrivals.interval_seconds()) == 0.0
        for step in range(20):
            arrivals.note(step % 2, step * 1e-4)
        assert delay_seconds(LAUNCHING, 1.0, 1, arrivals.interval_seconds()) > 0.0

    def test_requests_that_cannot_be_joined_are_tried_now_and_then(self) -> None:
        arrivals = Arrivals()
        assert arrivals.joinable()
        for _ in range(4):
            arrivals.joined(members=8, executions=8)
        assert 0 < sum(arrivals.joinable() for _ in range(64)) <= 4
        for _ in range(4):
            arrivals.joined(members=8, executions=1)
        assert all(arrivals.joinable() for _ in range(64))

    def test_one_alone_says_nothing_about_joining(self) -> None:
        arrivals = Arrivals()
        for _ in range(20):
            arrivals.joined(members=1, executions=1)
        assert arrivals.joinable()

    def test_a_clock_that_goes_back_does_no_harm(self) -> None:
        arrivals = Arrivals()
        arrivals.note(1, 5.0)
        arrivals.note(2, 4.0)
        assert arrivals.interval_seconds() == 0.0


class TestWhatWasSeen:
    """Examples are of another shape than some tasks: what these took themselves is believed instead."""

    LIKELY = 1

    def seen(self, each: dict[int, float], times: int = 3) -> Sizes:
        sizes = Sizes()
        for members, seconds in each.items():
            for _ in range(times):
                sizes.note(members, members * seconds)
        return sizes

    def test_nothing_is_known_before_one_ran_alone(self) -> None:
        sizes = Sizes()
        assert not sizes.known
        sizes.note(4, 1.0)
        assert not sizes.known
        sizes.note(1, 1.0)
        assert sizes.known

    def test_a_size_is_tried_once_the_one_before_it_has_paid(self) -> None:
        assert self.seen({1: 1.0}).best(64, self.LIKELY) == 2
        assert self.seen({1: 1.0, 2: 0.5}).best(64, self.LIKELY) == 4
        assert self.seen({1: 1.0, 2: 0.5}).best(2, self.LIKELY) == 2

    def test_or_as_many_as_the_curve_likes(self) -> None:
        assert self.seen({1: 1.0}).best(64, 16) == 16

    def test_a_size_that_did_not_pay_is_left(self) -> None:
        assert self.seen({1: 1.0, 2: 0.99}).best(64, 16) == 1
        assert self.seen({1: 1.0, 2: 0.5, 4: 0.5}).best(64, self.LIKELY) == 2

    def test_a_size_at_which_all_would_wait_longer_is_left_though_each_is_cheaper(self) -> None:
        assert (
            self.seen({1: 1.0, 2: 0.9}).best(64, self.LIKELY) == 1
        )  # 1.8 s for both; one after another 1.5 s on average

    def test_one_bad_time_does_not_judge_a_size(self) -> None:
        sizes = self.seen({1: 1.0})
        sizes.note(2, 20.0)
        assert sizes.best(64, self.LIKELY) == 2
        sizes.note(2, 1.0)
        sizes.note(2, 1.0)
        assert sizes.best(64, self.LIKELY) == 4

    def test_what_did_not_pay_is_tried_again_now_and_then(self) -> None:
        sizes = self.seen({1: 1.0, 2: 2.0})
        answers = [sizes.best(64, self.LIKELY) for _ in range(40)]
        assert answers[0] == 1
        assert 2 in answers

    def test_seconds_are_those_of_the_nearest_smaller_size(self) -> None:
        sizes = self.seen({1: 1.0, 4: 0.25})
        assert sizes.seconds(1) == 1.0
        assert sizes.seconds(3) == 1.0
        assert sizes.seconds(5) == 1.0
        assert Sizes().seconds(4) == 0.0

    def test_a_batch_goes_by_it(self) -> None:
        flat = curve_through(SIZES, [1e-3 * size for size in SIZES], [0.03] * len(SIZES))
        batch = Batch(flat, 1.0, 0, sizes=self.seen({1: 1.0, 2: 0.5, 4: 0.25}))
        assert [batch.admit(1.0, 0, None, now=0.0) for _ in range(8)] == [True] * 7 + [False]
        alone = Batch(flat, 1.0, 0)
        assert not alone.admit(1.0, 0, None, now=0.0)
