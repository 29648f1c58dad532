"""The order of jobs that wait: fair between clients, by priority, and nobody waits for ever."""

from __future__ import annotations

import gc
import weakref
from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routerd.costs.curve import Curve
from routerd.worker.queue import BACKGROUND, FOREGROUND, NOBODY, PRIORITY_SECONDS, Job, JobQueue, Joinable

SECONDS = st.floats(1e-5, 20.0)
CLIENTS = st.integers(1, 5)


def job(client=1, seconds=1.0, priority=FOREGROUND, key=None):
    joinable = None if key is None else Joinable(key, Curve(), 1.0, 8)
    return Job(
        lambda _number: None,
        seconds=seconds,
        limit=60.0,
        future=None,
        queued_at=0.0,
        client=client,
        priority=priority,
        joinable=joinable,
    )


def queue_of(*jobs):
    queue = JobQueue()
    for one in jobs:
        queue.push(one)
    return queue


def drain(queue):
    order = []
    while (one := queue.pop()) is not None:
        order.append(one)
    return order


def served_before(queue, mine):
    """Takes jobs until it is the turn of ``mine``; those that came first."""
    before = []
    while (one := queue.pop()) is not mine:
        before.append(one)
    return before


class TestOrder:
    @given(st.lists(st.tuples(CLIENTS, SECONDS), max_size=60))
    def test_every_job_leaves_once_and_those_of_one_client_in_the_order_they_came(self, asked):
        jobs = [job(client, seconds) for client, seconds in asked]
        queue = queue_of(*jobs)
        assert len(queue) == len(jobs)
        order = drain(queue)
        assert sorted(map(id, order)) == sorted(map(id, jobs))
        for client in {one.client for one in jobs}:
            mine = [one for one in order if one.client == client]
            assert mine == [one for one in jobs if one.client == client]
        assert len(queue) == 0

    def test_one_client_alone_is_served_in_order_whatever_its_jobs_take(self):
        jobs = [job(seconds=seconds) for seconds in (3.0, 0.001, 7.0, 0.5)]
        assert drain(queue_of(*jobs)) == jobs

    def test_clients_take_turns(self):
        first = [job(1) for _ in range(4)]
        second = [job(2) for _ in range(4)]
        order = drain(queue_of(*first, *second))
        assert [one.client for one in order] == [1, 2, 1, 2, 1, 2, 1, 2]

    def test_by_seconds_not_by_jobs(self):
        order = drain(queue_of(*(job(1, 4.0) for _ in range(4)), *(job(2, 1.0) for _ in range(16))))
        shared = order[:10]  # of the time that both have work, each gets half
        given_seconds = {client: sum(one.seconds for one in shared if one.client == client) for client in (1, 2)}
        assert given_seconds[1] == pytest.approx(given_seconds[2], abs=4.0)

    def test_what_comes_to_an_empty_queue_starts_anew(self):
        """Nobody pays for what the machine did for them while nobody else waited."""
        queue = queue_of(*(job(1, 100.0) for _ in range(5)))
        drain(queue)
        mine, other = job(1, 1.0), job(2, 1.0)
        queue.push(mine)
        queue.push(other)
        assert drain(queue) == [mine, other]


class TestFairness:
    @given(
        backlogs=st.lists(st.lists(SECONDS, min_size=1, max_size=64), min_size=1, max_size=5),
        served=st.integers(0, 40),
        seconds=SECONDS,
    )
    def test_a_lone_job_waits_for_at_most_one_job_of_every_other_client(self, backlogs, served, seconds):
        """At whatever moment it comes, and however many the others have queued."""
        queue = queue_of(*(job(client, one) for client, jobs in enumerate(backlogs, 1) for one in jobs))
        for _ in range(min(served, len(queue) - 1)):
            queue.pop()
        mine = job(99, seconds)
        queue.push(mine)
        before = [one.client for one in served_before(queue, mine)]
        assert len(before) == len(set(before))

    @given(
        st.lists(st.lists(SECONDS, min_size=30, max_size=40), min_size=2, max_size=4),
        st.integers(10, 60),
    )
    def test_backlogged_clients_get_equal_service_within_a_job_each(self, backlogs, served):
        """Goyal, Vin and Cheng's bound, theorem 1: the difference stays below one job of either."""
        queue = queue_of(*(job(client, one) for client, jobs in enumerate(backlogs, 1) for one in jobs))
        given_seconds: dict[int, float] = defaultdict(float)
        left = {client: len(jobs) for client, jobs in enumerate(backlogs, 1)}
        for _ in range(served):
            one = queue.pop()
            given_seconds[one.client] += one.seconds
            left[one.client] -= 1
            if not left[one.client]:
                break
            for other in left:
                largest = max(backlogs[one.client - 1]) + max(backlogs[other - 1])
                assert abs(given_seconds[one.client] - given_seconds[other]) <= largest + 1e-9

    @pytest.mark.parametrize("served", [1, 2, 30, 62])
    def test_a_newcomer_is_next_when_one_job_of_a_long_queue_is_under_way(self, served):
        """What runs is waited for, and nothing more of that client's."""
        queue = queue_of(*(job(client=1) for _ in range(64)))
        for _ in range(served):
            queue.pop()
        mine = job(client=2)
        queue.push(mine)
        assert queue.pop() is mine

    def test_who_comes_again_and_again_gains_nothing_over_who_queues_all_at_once(self):
        queue = queue_of(*(job(1) for _ in range(10)))
        order = []
        queue.push(job(2))
        for _ in range(10):
            one = queue.pop()
            order.append(one.client)
            if one.client == 2:
                queue.push(job(2))
        assert order == [1, 2] * 5


class TestPriority:
    def test_higher_runs_earlier_and_equals_in_the_order_they_came(self):
        low, usual, same, high = (job(seconds=0.01, priority=one) for one in (-1, 0, 0, 1))
        assert drain(queue_of(low, usual, same, high)) == [high, usual, same, low]

    def test_background_yields_to_every_task(self):
        background = [job(NOBODY, priority=BACKGROUND) for _ in range(3)]
        tasks = [job(client, priority=priority) for client in (1, 2) for priority in (-10, 0, 10)]
        assert drain(queue_of(*background, *tasks))[-3:] == background

    @given(priority=st.integers(-10, -1), seconds=st.floats(0.05, 2.0))
    def test_the_least_urgent_is_served_after_bounded_service_to_others(self, priority, seconds):
        """However many more urgent tasks keep coming: a step weighs so many seconds and no more."""
        mine = job(1, priority=priority)
        queue = queue_of(job(2, seconds), mine)
        given_seconds = 0.0
        while (one := queue.pop()) is not mine:
            given_seconds += one.seconds
            queue.push(job(2, seconds))
        assert given_seconds <= -priority * PRIORITY_SECONDS + seconds + 1e-9

    @given(priority=st.integers(-10, -1), seconds=st.floats(0.05, 2.0))
    def test_so_it_is_where_every_task_is_of_another_client(self, priority, seconds):
        mine = job(1, priority=priority)
        queue = queue_of(job(2, seconds), mine)
        given_seconds = 0.0
        for client in range(3, 1000):
            if (one := queue.pop()) is mine:
                break
            given_seconds += one.seconds
            queue.push(job(client, seconds))
        assert one is mine
        assert given_seconds <= -priority * PRIORITY_SECONDS + 2.0 * seconds + 1e-9

    def test_background_too(self):
        mine = job(NOBODY, priority=BACKGROUND)
        queue = queue_of(job(2, 1.0), mine)
        before = 0
        while queue.pop() is not mine:
            before += 1
            queue.push(job(2, 1.0))
        assert 90 <= before <= 102

    def test_the_urgent_cannot_lock_their_own_class_out(self):
        """A client of high priority takes turns with others of the same."""
        order = drain(queue_of(*(job(1, priority=5) for _ in range(3)), *(job(2, priority=5) for _ in range(3))))
        assert [one.client for one in order] == [1, 2] * 3


class TestLeaving:
    @given(st.lists(st.tuples(CLIENTS, SECONDS, st.booleans()), max_size=40))
    def test_what_is_discarded_is_never_served_and_all_else_is_once(self, asked):
        jobs = [job(client, seconds) for client, seconds, _gone in asked]
        gone = {id(one) for one, (_client, _seconds, leaves) in zip(jobs, asked, strict=True) if leaves}
        queue = queue_of(*jobs)
        for one in jobs:
            if id(one) in gone:
                queue.discard(one)
        assert len(queue) == len(jobs) - len(gone)
        assert {id(one) for one in queue} == {id(one) for one in jobs} - gone
        order = drain(queue)
        assert {id(one) for one in order} == {id(one) for one in jobs} - gone
        assert len(order) == len(set(map(id, order)))

    def test_twice_is_once(self):
        one, other = job(), job()
        queue = queue_of(one, other)
        queue.discard(one)
        queue.discard(one)
        assert (len(queue), queue.pop()) == (1, other)
        queue.discard(other)
        assert (len(queue), queue.pop()) == (0, None)

    def test_peek_shows_what_pop_takes(self):
        one, other = job(1, priority=1), job(2)
        queue = queue_of(other, one)
        assert queue.peek() is one
        queue.discard(one)
        assert queue.peek() is other
        assert queue.pop() is other
        assert queue.peek() is None

    def test_clear_gives_all_that_wait_in_their_order(self):
        jobs = [job(client) for client in (1, 1, 2, 3)]
        queue = queue_of(*jobs)
        queue.discard(jobs[2])
        assert queue.clear() == [jobs[0], jobs[3], jobs[1]]
        assert (len(queue), queue.pop(), queue.seconds_ahead(1)) == (0, None, 0.0)

    def test_a_job_that_comes_back_keeps_its_place_and_is_there_once(self):
        first, second, third = jobs = [job() for _ in range(3)]
        queue = queue_of(*jobs)
        for _ in range(3):
            queue.discard(first)
            queue.push(first)
        assert len(queue) == 3
        assert sorted(queue) == jobs
        assert drain(queue) == [first, second, third]

    def test_so_it_is_when_it_was_taken_and_when_all_are_cleared(self):
        first, second = jobs = [job(1), job(2)]
        queue = queue_of(*jobs)
        assert queue.pop() is first
        queue.push(first)
        queue.discard(second)
        queue.push(second)
        assert queue.clear() == [first, second]
        assert len(queue) == 0
        queue.push(first)
        assert drain(queue) == [first]

    def test_what_is_taken_back_is_let_go_though_nothing_is_served(self):
        """While one long job runs, clients may ask and take back for ever."""
        queue, alive = queue_of(job()), []
        for _ in range(1000):
            one = job()
            alive.append(weakref.ref(one.make))
            queue.push(one)
            queue.discard(one)
        del one
        gc.collect()
        assert sum(ref() is not None for ref in alive) < 200

    def test_clients_that_left_are_forgotten_though_the_queue_is_never_empty(self):
        queue = queue_of(job(NOBODY, priority=BACKGROUND, seconds=0.01))
        for client in range(5000):
            queue.push(job(client, 0.01))
            assert queue.pop().client == client
        assert len(queue) == 1
        assert len(queue._clients) < 500


class TestJoining:
    def test_those_of_one_key_are_found_in_their_order_and_stay(self):
        jobs = [job(1, key="a"), job(1, key="a"), job(2, key="b"), job(3, key="a"), job(4)]
        queue = queue_of(*jobs)
        assert queue.joinable("a") == [jobs[0], jobs[3], jobs[1]]
        assert queue.joinable("b") == [jobs[2]]
        assert queue.joinable("c") == []
        assert len(queue) == 5

    def test_each_once_though_it_was_held_meanwhile(self):
        jobs = [job(1, key="a"), job(2, key="a")]
        queue = queue_of(*jobs)
        queue.discard(jobs[0])
        assert queue.joinable("a") == [jobs[1]]
        queue.push(jobs[0])
        assert queue.joinable("a") == jobs


class TestSecondsAhead:
    def test_nothing_waits(self):
        assert JobQueue().seconds_ahead(1) == 0.0

    @given(
        counts=st.lists(st.integers(0, 12), min_size=1, max_size=4), own=st.integers(0, 6), served=st.integers(0, 20)
    )
    def test_as_the_queue_then_shows_within_a_job_of_every_client(self, counts, own, served):
        seconds = 0.25
        queue = queue_of(
            *(job(client, seconds) for client, count in enumerate(counts, 1) for _ in range(count)),
            *(job(99, seconds) for _ in range(own)),
        )
        for _ in range(min(served, len(queue))):
            queue.pop()
        predicted = queue.seconds_ahead(99)
        mine = job(99, seconds)
        queue.push(mine)
        shown = sum(one.seconds for one in served_before(queue, mine))
        assert abs(predicted - shown) <= seconds * len(counts) + 1e-9

    @given(st.lists(st.lists(SECONDS, max_size=20), min_size=1, max_size=4))
    def test_it_never_promises_more_than_all_that_waits(self, backlogs):
        queue = queue_of(*(job(client, one) for client, jobs in enumerate(backlogs, 1) for one in jobs))
        whole = sum(map(sum, backlogs))
        assert 0.0 <= queue.seconds_ahead(99) <= whole * (1.0 + 1e-9)
        assert queue.seconds_ahead(1) <= whole * (1.0 + 1e-9)

    def test_calibration_delays_nobody(self):
        assert queue_of(*(job(NOBODY, 9.0, BACKGROUND) for _ in range(3))).seconds_ahead(1) == 0.0

    def test_it_is_zero_again_when_all_is_served_or_taken_back(self):
        jobs = [job(seconds=0.1) for _ in range(7)]
        queue = queue_of(*jobs)
        for one in jobs[:3]:
            queue.discard(one)
        assert queue.seconds_ahead(1) == pytest.approx(0.4)
        drain(queue)
        assert queue.seconds_ahead(1) == 0.0
