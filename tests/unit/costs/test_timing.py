"""Timing over a range of sizes: how far it goes, what it does about disturbances, and which times it refuses."""

from __future__ import annotations

import math

import pytest

from routerd.costs.model import Point
from routerd.costs.timing import SIZES, Timed, doubtful, drive, point_of, sizes, undisturbed
from routerd.errors import ExecutionError

RANGE = (1e3, 1e9)


class Clock:
    """Times sizes: ``seconds_of(work, how many looks at this work before)``, and remembers what was asked."""

    def __init__(self, seconds_of):
        self.seconds_of = seconds_of
        self.works = []
        self.expected = []
        self.pauses = []

    def measure(self, request):
        work = request.work
        seconds = self.seconds_of(work, self.works.count(work))
        self.works.append(work)
        self.expected.append(request.expected_seconds)
        self.pauses.append(request.pause_seconds)
        return Timed(work, (0.9 * seconds, seconds, 1.1 * seconds))

    @property
    def looks(self):
        return [self.works.count(work) for work in dict.fromkeys(self.works)]


def time_with(clock, run_seconds=10.0, work_range=RANGE):
    return drive(sizes(work_range, run_seconds), clock.measure)


def proportional(work, _looks):
    return 1e-5 + 1e-9 * work


def test_sizes_are_geometric_from_the_least_to_the_most():
    clock = Clock(proportional)
    points = time_with(clock)
    assert [point.work for point in points] == pytest.approx([10.0**power for power in range(3, 10)])
    assert len(points) == SIZES
    assert [point.seconds for point in points] == pytest.approx([proportional(point.work, 0) for point in points])


def test_no_run_is_longer_than_it_may_be():
    clock = Clock(proportional)
    points = time_with(clock, run_seconds=0.05)
    assert points[-1].work == pytest.approx(1e7)  # 1e8 would take 0.1 s
    assert max(clock.expected) <= 0.05


def test_a_size_that_there_is_no_memory_for_is_the_last():
    clock = Clock(proportional)
    points = drive(sizes(RANGE, 10.0), lambda request: None if request.work > 1e6 else clock.measure(request))
    assert [point.work for point in points] == pytest.approx([1e3, 1e4, 1e5, 1e6])


def test_the_first_size_is_timed_however_long_it_takes():
    assert len(time_with(Clock(lambda _work, _looks: 5.0), run_seconds=0.01)) == 1


def test_one_disturbed_repetition_does_not_end_the_series():
    points = drive(sizes(RANGE, 0.1), lambda request: Timed(request.work, (1e-9 * request.work, 3.0)))
    assert points[-1].work == pytest.approx(1e8)


def test_a_timing_that_another_process_disturbed_is_taken_again():
    third = RANGE[0] * 100.0

    def disturbed(work, looks):
        return 5.0 if math.isclose(work, third) and looks < 2 else 1e-9 * work

    clock = Clock(disturbed)
    points = time_with(clock)
    assert clock.looks == [1, 1, 3, 1, 1, 1, 1]
    assert [pause for pause in clock.pauses if pause] == sorted(pause for pause in clock.pauses if pause)
    assert sum(pause > 0.0 for pause in clock.pauses) == 2
    assert [point.seconds for point in points] == pytest.approx([1e-9 * point.work for point in points])


def test_a_timing_that_is_confirmed_twice_is_believed():
    clock = Clock(lambda work, _looks: 1e-9 * work if work < 5e4 else 5.0)
    points = time_with(clock)
    assert clock.looks == [1, 1, 3]
    assert points[-1].seconds == pytest.approx(5.0)


def test_looks_that_become_quicker_go_on_to_the_last():
    clock = Clock(lambda work, looks: 1e-9 * work if work < 5e4 else 5.0 / 2**looks)
    points = time_with(clock)
    assert clock.looks[:3] == [1, 1, 4]
    assert points[2].seconds == pytest.approx(5.0 / 8)


def test_less_work_never_takes_longer_than_more():
    points = [Point(1.0, 1.0, 0.1), Point(2.0, 9.0, 0.1), Point(4.0, 3.0, 0.1), Point(8.0, 4.0, 0.1)]
    assert [point.seconds for point in undisturbed(points)] == [1.0, 3.0, 3.0, 4.0]
    assert [point.work for point in undisturbed(points)] == [1.0, 2.0, 4.0, 8.0]
    assert undisturbed([]) == []


@pytest.mark.parametrize(("seconds", "doubt"), [(9.9, False), (14.9, False), (15.1, True), (100.0, True)])
def test_seconds_that_grow_faster_than_work_are_doubtful(seconds, doubt):
    assert doubtful(Point(1e3, 1.0, 0.1), Point(1e4, seconds, 0.1)) is doubt


def test_a_point_is_the_median_and_its_spread():
    point = point_of(Timed(1e3, (1.0, math.e, math.e, math.e**2, 900.0)))
    assert (point.work, point.seconds) == (1e3, math.e)
    assert point.log_sigma == pytest.approx(1.4826)
    assert point_of(Timed(1e3, (0.5,))) == Point(1e3, 0.5, 0.0)


@pytest.mark.parametrize("seconds", [(), (0.0,), (1.0, -1.0), (1.0, math.nan, 1.0), (math.inf,)])
def test_times_that_no_clock_can_have_meant_are_refused(seconds):
    with pytest.raises(ExecutionError, match="no clock measures that"):
        point_of(Timed(1e3, seconds))


@pytest.mark.parametrize("work", [0.0, -1.0, math.nan, math.inf])
def test_so_is_work(work):
    with pytest.raises(ExecutionError):
        point_of(Timed(work, (1.0,)))


def test_a_series_with_such_a_time_is_refused_whole():
    with pytest.raises(ExecutionError):
        time_with(Clock(lambda work, _looks: 1e-9 * work if work < 1e5 else -1.0))
