"""The states of a circuit breaker, and every way from one to another."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routerd.worker.breaker import FAILURES, OPEN_SECONDS, Breaker

SHORTEST, LONGEST = OPEN_SECONDS


def opened(now=100.0, reason="it broke"):
    breaker = Breaker()
    for _ in range(FAILURES):
        breaker.failed(reason, now)
    assert breaker.state == "open"
    return breaker


def half_open(now=100.0):
    breaker = opened(now)
    breaker.probe()
    return breaker


class TestClosed:
    def test_it_begins_so_and_objects_to_nothing(self):
        breaker = Breaker()
        assert (breaker.state, breaker.closed, breaker.objection()) == ("closed", True, None)
        assert not breaker.is_due(1e9)

    def test_failures_in_a_row_open_it_and_the_last_one_says_so(self):
        breaker = Breaker()
        told = [breaker.failed(f"failure {number}", 100.0) for number in range(1, FAILURES + 1)]
        assert told == [False] * (FAILURES - 1) + [True]
        assert breaker.due_at == 100.0 + SHORTEST
        assert breaker.objection() == (
            f"breaker open, to be probed after {SHORTEST:g} s: {FAILURES} failures in a row, the last: failure {FAILURES}"
        )

    @pytest.mark.parametrize("interrupt", [Breaker.succeeded, Breaker.forgive])
    def test_a_success_or_a_failure_that_was_the_tasks_starts_the_count_anew(self, interrupt):
        breaker = Breaker()
        for _ in range(5):
            for _ in range(FAILURES - 1):
                assert not breaker.failed("it broke", 0.0)
            interrupt(breaker)
        assert breaker.closed


class TestOpen:
    def test_it_is_due_when_its_time_is_over(self):
        breaker = opened(now=100.0)
        assert not breaker.is_due(100.0 + SHORTEST - 1e-6)
        assert breaker.is_due(100.0 + SHORTEST)

    def test_tasks_that_were_on_their_way_change_nothing(self):
        breaker = opened(now=100.0)
        due_at, objection = breaker.due_at, breaker.objection()
        breaker.succeeded()
        breaker.forgive()
        assert not breaker.failed("late", 101.0)
        assert (breaker.state, breaker.due_at, breaker.objection()) == ("open", due_at, objection)


class TestHalfOpen:
    def test_it_takes_no_task_and_is_not_probed_twice(self):
        breaker = half_open()
        assert breaker.state == "half_open"
        assert breaker.objection().startswith("breaker open, being probed: ")
        assert not breaker.is_due(1e9)

    def test_a_good_probe_closes_it(self):
        breaker = half_open()
        breaker.close()
        assert (breaker.state, breaker.objection()) == ("closed", None)
        for _ in range(FAILURES - 1):  # the count begins anew
            assert not breaker.failed("it broke", 200.0)

    def test_a_bad_probe_opens_it_for_twice_as_long_each_time_up_to_the_longest(self):
        breaker, now, waits = half_open(), 100.0, []
        for _ in range(12):
            assert breaker.failed("still broken", now)
            waits.append(breaker.due_at - now)
            now = breaker.due_at
            breaker.probe()
        assert waits == [min(SHORTEST * 2.0**times, LONGEST) for times in range(1, 13)]
        assert waits[-1] == LONGEST

    def test_a_probe_that_could_not_be_made_decides_nothing(self):
        breaker = half_open()
        breaker.postpone(150.0)
        assert breaker.state == "open"
        assert breaker.is_due(150.0)
        breaker.probe()
        breaker.failed("still broken", 150.0)
        assert breaker.due_at == 150.0 + 2.0 * SHORTEST

    def test_tasks_that_were_on_their_way_do_not_close_it(self):
        breaker = half_open()
        breaker.succeeded()
        breaker.forgive()
        assert breaker.state == "half_open"


class TestAfterwards:
    def reopened(self, breaker, now):
        for _ in range(FAILURES):
            breaker.failed("it broke again", now)
        return breaker.due_at - now

    def test_one_that_passes_probes_and_fails_tasks_stays_open_longer_and_longer(self):
        breaker = half_open()
        breaker.failed("still broken", 100.0)
        breaker.probe()
        breaker.close()
        assert self.reopened(breaker, 200.0) == 2.0 * SHORTEST

    def test_until_a_task_has_succeeded(self):
        breaker = half_open()
        breaker.failed("still broken", 100.0)
        breaker.probe()
        breaker.close()
        breaker.succeeded()
        assert self.reopened(breaker, 200.0) == SHORTEST


@given(st.lists(st.sampled_from(["failed", "succeeded", "forgive", "wait", "due_probe"]), max_size=80), st.data())
def test_whatever_happens_it_is_open_for_bounded_time_and_says_why(events, data):
    breaker, now = Breaker(), 0.0
    in_a_row = 0
    for event in events:
        before = breaker.state
        if event == "failed":
            in_a_row += 1
            opens = breaker.failed("it broke", now)
            assert opens is (breaker.state == "open" and before != "open")
            if before == "closed":
                assert opens is (in_a_row >= FAILURES)
        elif event in ("succeeded", "forgive"):
            getattr(breaker, event)()
            assert breaker.state == before
            if before == "closed":
                in_a_row = 0
        elif event == "wait":
            now += data.draw(st.floats(0.0, 400.0))
        elif breaker.is_due(now):
            breaker.probe()
            if data.draw(st.booleans()):
                breaker.close()
                in_a_row = 0
            else:
                breaker.failed("the probe failed", now)
        assert (breaker.objection() is None) is breaker.closed
        if breaker.state == "open":
            assert breaker.due_at - now <= LONGEST
            assert not breaker.is_due(breaker.due_at - 1e-3)
            assert breaker.is_due(breaker.due_at)
