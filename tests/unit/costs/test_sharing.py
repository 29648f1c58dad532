"""Sharing a task out: parts that end together, nobody for whom it does not pay, chunks that shrink."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routerd.costs.curve import Curve, curve_through, prior_curve
from routerd.costs.sharing import Member, Sharing, cut, share

WORKS = [1e3, 1e4, 1e5, 1e6, 1e7]


def line(rate: float, launch: float = 0.0) -> Curve:
    """``launch + rate·work``."""
    return curve_through(WORKS, [launch + rate * work for work in WORKS], [0.01] * len(WORKS))


def any_curve() -> st.SearchStrategy[Curve]:
    """As a calibration under stress might leave one: too few sizes, times that fall, nothing timed at all."""
    seconds = st.lists(st.floats(1e-7, 1e2), min_size=1, max_size=5)
    return st.one_of(
        seconds.map(lambda some: curve_through(WORKS[: len(some)], some, [0.1] * len(some))),
        st.floats(-20.0, 20.0).map(prior_curve),
    )


rates = st.floats(1e-9, 1e-6)
waits = st.floats(0.0, 1.0)
members = st.lists(st.builds(Member, waits, any_curve(), st.floats(0.05, 20.0)), min_size=1, max_size=5)
works = st.floats(1.0, 1e12)


@settings(max_examples=60)
@given(members, works)
def test_shares_are_a_division_of_the_work_whatever_the_curves(some, work):
    shares, finish = share(some, work)
    assert len(shares) == len(some)
    assert all(0.0 <= one <= 1.0 for one in shares)
    assert sum(shares) == pytest.approx(1.0)
    assert 0.0 < finish < math.inf
    alone = min(one.wait_seconds + one.seconds(work) for one in some)
    assert finish <= alone * (1.0 + 1e-9)


@settings(max_examples=60)
@given(st.lists(rates, min_size=2, max_size=4), st.floats(1e5, 1e7))
def test_those_that_have_a_share_finish_together(some, work):
    shares, finish = share([Member(1e-4, line(rate)) for rate in some], work)
    for rate, one in zip(some, shares, strict=True):
        if one > 0.0:
            assert 1e-4 + line(rate).predict(one * work).seconds == pytest.approx(finish, rel=0.02)


@settings(max_examples=60)
@given(rates, rates, st.floats(1e5, 1e7), st.floats(1.0, 3.0))
def test_who_waits_longer_or_is_slower_gets_no_more(one, other, work, factor):
    def first(wait: float, rate: float) -> float:
        return share([Member(wait, line(rate)), Member(0.0, line(other))], work).shares[0]

    wait = 0.1 * line(one).predict(work).seconds
    assert first(wait * factor, one) <= first(wait, one) + 2e-3
    assert first(wait, one * factor) <= first(wait, one) + 2e-3


def test_equals_share_equally_and_take_half_the_time():
    shares, finish = share([Member(0.0, line(1e-8)), Member(0.0, line(1e-8))], 1e7)
    assert shares == pytest.approx((0.5, 0.5))
    assert finish == pytest.approx(0.05, rel=1e-3)


def test_shares_follow_speed_and_allow_for_waiting():
    fast, slow = line(1e-8), line(3e-8)
    assert share([Member(0.0, fast), Member(0.0, slow)], 1e7).shares == pytest.approx((0.75, 0.25), rel=1e-2)
    assert share([Member(0.0, fast), Member(0.0, fast, 3.0)], 1e7).shares == pytest.approx((0.75, 0.25), rel=1e-2)
    # 0.1 s of work alone: after 0.04 s of waiting 0.06 s are left, which the two halve.
    shares, finish = share([Member(0.04, fast), Member(0.0, fast)], 1e7)
    assert shares == pytest.approx((0.3, 0.7), rel=1e-2)
    assert finish == pytest.approx(0.07, rel=1e-2)


@pytest.mark.parametrize(
    "useless",
    [
        Member(10.0, line(1e-8)),  # not free before the other is done
        Member(0.0, line(1e-8, launch=10.0)),  # its launch alone takes longer
        Member(0.0, line(1e-6)),  # a hundredth of the speed gains a hundredth
    ],
)
def test_who_does_not_pay_is_left_out(useless):
    shares, finish = share([useless, Member(0.0, line(1e-8))], 1e7)
    assert shares == (0.0, 1.0)
    assert finish == pytest.approx(0.1)


def test_small_work_is_not_shared_where_launching_is_what_takes_the_time():
    launching = [Member(0.0, line(1e-8, launch=1e-3)), Member(0.0, line(1e-8, launch=1.1e-3))]
    assert share(launching, 1e4).shares == (1.0, 0.0)
    assert min(share(launching, 1e7).shares) > 0.4


@settings(max_examples=60)
@given(st.lists(st.floats(0.01, 1.0), min_size=1, max_size=4), st.floats(1e-6, 1e3), st.floats(0.0, 1e-1))
def test_chunks_are_the_work_and_shrink(weights, finish, overhead):
    shares = tuple(weight / sum(weights) for weight in weights)
    chunks = cut(Sharing(shares, finish), overhead)
    assert sum(chunks) == pytest.approx(1.0)
    for place in range(len(shares)):
        own = chunks[place :: len(shares)]
        assert list(own) == sorted(own, reverse=True)
    if len(shares) > 1:  # no chunk is so small that handing it out costs more than a fraction of it
        rounds = len(chunks) // len(shares)
        assert rounds == 1 or finish * chunks[-1] / shares[-1] * 0.05 > overhead


def test_chunks_start_with_one_for_each_that_has_a_share():
    chunks = cut(Sharing((0.6, 0.0, 0.4), 1.0), 1e-4)
    assert chunks[:4] == pytest.approx((0.3, 0.2, 0.15, 0.1))
    assert len(chunks) == 10


def test_one_member_or_no_time_to_lose_gives_the_fewest_chunks():
    assert cut(Sharing((0.0, 1.0), 1.0), 0.0) == (1.0,)
    assert cut(Sharing((0.5, 0.5), 1e-3), 1e-3) == (0.5, 0.5)
