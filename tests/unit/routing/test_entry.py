"""Entries of the table: whoever they name is whoever would be chosen, at every float of work."""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routerd.costs.choice import Preference
from routerd.costs.curve import curve_through, prior_curve
from routerd.errors import NoCandidate
from routerd.routing.crossings import crossings, winner
from routerd.routing.entry import ASK, NOT_KNOWN, Entry, Plane, decode, encode, piece_of, spans_of
from routerd.routing.ground import NO_WORKER, Ground, Offer, decide
from tests.unit.routing.conftest import random_ground


def chosen(ground: Ground, work: float, queues=None) -> str:
    try:
        return decide(ground, work, "id", queues=queues)[0].backend
    except NoCandidate:
        return ""


def span_at(spans, work):
    return spans[bisect_right([span.start for span in spans], work) - 1]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_the_winner_of_a_span_is_the_choice_of_the_daemon(seed):
    ground, random_ = random_ground(seed), random.Random(seed)
    spans = spans_of([(0.0, 0)], [ground])
    works = [10 ** random_.uniform(0, 11) for _ in range(50)]
    for span in spans:  # the edges are where it could be wrong
        works += [math.nextafter(span.start, 0.0), span.start, math.nextafter(span.start, math.inf), span.work]
    for work in works:
        span = span_at(spans, work) if work > 0.0 else spans[0]
        if span.ground != ASK:
            assert span.backend == chosen(ground, work)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**9), load=st.lists(st.floats(0.0, 0.1), min_size=4, max_size=4), mask=st.integers(0, 15))
def test_an_answer_holds_whatever_workers_beside_its_own_are_busy(seed, load, mask):
    ground, random_ = random_ground(seed), random.Random(seed)
    spans = spans_of([(0.0, 0)], [ground])
    queues = {number: seconds for number, seconds in enumerate(load) if mask >> number & 1}
    for work in [10 ** random_.uniform(1, 10) for _ in range(30)]:
        span = span_at(spans, work)
        if span.ground != ASK and not span.workers & mask:
            assert span.backend == chosen(ground, work, queues)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_most_of_what_was_timed_is_answered(seed):
    ground, random_ = random_ground(seed), random.Random(seed)
    spans = spans_of([(0.0, 0)], [ground])
    timed = [knot.log_work for offer in ground.offers for knot in offer.curve.knots]
    works = [math.exp(random_.uniform(min(timed), max(timed))) for _ in range(200)]
    asked = sum(span_at(spans, work).ground == ASK for work in works)
    assert asked <= 100


def test_far_from_what_was_timed_the_daemon_is_asked(make_ground):
    spans = spans_of([(0.0, 0)], [make_ground(1)])
    for work in (1e-9, 1e30):
        assert span_at(spans, work).ground == ASK


@pytest.mark.parametrize("work", [5e-324, 1e-300, 1e-100, 1e100, 1e200, 1.7e308])
def test_the_daemon_has_an_answer_for_any_work_there_is(work):
    for seed in range(60):
        ground = random_ground(seed)
        untimed = tuple(msgspec.structs.replace(offer, curve=prior_curve()) for offer in ground.offers)
        for one in (ground, msgspec.structs.replace(ground, offers=untimed)):
            decision, ranking = decide(one, work, "id")
            assert 0.0 <= decision.confidence <= 1.0
            assert all(0.0 < candidate.predicted_seconds < math.inf for candidate in ranking)


def test_pieces_of_work_have_grounds_of_their_own(make_ground):
    first, second = make_ground(1), make_ground(2)
    spans = spans_of([(0.0, 0), (1e5, ASK), (1e6, 1)], [first, second])
    assert span_at(spans, math.nextafter(1e5, 0.0)).ground == 0
    assert span_at(spans, 1e5).ground == ASK
    assert span_at(spans, 1e6).ground == 1


def test_a_piece_of_one_number_has_an_answer_too(make_ground):
    """That of ``task.work: 1e6``: its ends have one logarithm, which here is that of a timed size."""
    curve = curve_through([1e4, 1e6, 1e8], [2e-5, 1e-4, 1e-2], [0.05] * 3)
    offers = (
        Offer("cpu.numpy", "cpu", curve, 6e-5, 0.0, 0),
        Offer("in_process.numpy", "in_process", curve, 1.5e-5, 0.0, NO_WORKER, limit_seconds=2e-4),
    )
    ground = msgspec.structs.replace(make_ground(1), offers=offers, preference=Preference())
    spans = spans_of([(0.0, ASK), (1e6, 0), (math.nextafter(1e6, math.inf), ASK)], [ground])
    assert span_at(spans, 1e6).backend == chosen(ground, 1e6) == "in_process.numpy"
    assert span_at(spans, math.nextafter(1e6, math.inf)).ground == ASK


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_a_span_is_so_narrow_that_the_figures_of_its_middle_are_near_all_of_it(seed):
    ground = random_ground(seed)
    least_timed = min(math.exp(knot.log_work) for offer in ground.offers for knot in offer.curve.knots)
    flat = least_timed / 64.0  # below it only launch cost is left
    for span, after in pairwise(spans_of([(0.0, 0)], [ground])):
        if span.ground != ASK:
            assert after.start / span.start <= 4.0001 or after.start <= flat * 1.0001
            assert span.start <= span.work <= after.start


def test_an_entry_travels(make_ground):
    ground = make_ground(3)
    spans = spans_of([(0.0, 0)], [ground])
    entry = Entry("1.0", "linalg.gemm", 1e-5, 7, (0.0, 5.0), (), (Plane(NOT_KNOWN, 0, spans),), (ground,))
    assert decode(encode(entry)) == entry
    assert entry.spans() == spans
    assert entry.spans(batch=7) == ()


@pytest.mark.parametrize(
    ("starts", "value", "piece"),
    [
        ((), None, 0),
        ((), 9, 0),
        ((0.0,), None, NOT_KNOWN),
        ((0.0,), 9, 0),
        ((0.0, 5.0), None, NOT_KNOWN),
        ((0.0, 5.0), 4, 0),
        ((0.0, 5.0), 5, 1),
    ],
)
def test_pieces(starts, value, piece):
    assert piece_of(starts, value) == piece


def test_every_crossing_is_found():
    found, left = crossings(lambda x: math.sin(3.0 * x), lambda low, high: (-3.0, 3.0), [0.1, 10.0])
    assert not left
    roots = [number * math.pi / 3.0 for number in range(1, 10)]
    assert all(any(abs(place - root) < 1e-4 for place in found) for root in roots)


def test_equals_that_never_part_are_left_undecided():
    found, left = crossings(lambda x: 0.0, lambda low, high: (-1.0, 1.0), [0.0, 10.0])
    assert left
    assert not found


def test_nobody_within_the_limit_is_nobody(make_ground):
    ground = Ground(
        "w", 1.0, (make_ground(1).offers[0].__class__("in_process.numpy", "in_process", make_ground(1).offers[0].curve,
        1e-5, 0.0, -1, 0.0, 1e-12),), (), None, make_ground(1).preference, "r", "d", 1,
    )  # fmt: skip
    assert winner(ground, 1e5) == ""
    with pytest.raises(NoCandidate, match="in_process_seconds"):
        decide(ground, 1e5, "id")
