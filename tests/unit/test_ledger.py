"""The ledger of task ids: one request counts, one answer is given, and neither memory nor another user's replies leak."""

from __future__ import annotations

import asyncio

import pytest

from routerd.errors import InvalidParameter
from routerd.ledger import LONGEST_ID, Ledger

KEY = (1000, "task-1")


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def ledger(clock):
    return Ledger(most_replies=3, most_bytes=100, kept_seconds=60.0, clock=clock)


@pytest.fixture
def request_task():
    """Tasks of a loop that is not running: they wait for ever."""
    loop = asyncio.new_event_loop()
    made = []

    def make():
        made.append(loop.create_task(asyncio.sleep(3600.0)))
        return made[-1]

    yield make
    for task in made:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*made, return_exceptions=True))
    loop.close()


def answered(ledger, key, request, reply):
    assert ledger.begin(key, request) is None
    ledger.end(key, request, reply)


def test_what_was_answered_is_answered_again_and_not_done_again(ledger, request_task):
    answered(ledger, KEY, request_task(), b"reply")
    assert ledger.begin(KEY, request_task()) == b"reply"
    assert ledger.begin(KEY, request_task()) == b"reply"


def test_an_answer_that_cannot_be_given_again_leaves_the_task_to_be_done_again(ledger, request_task):
    answered(ledger, KEY, request_task(), None)
    assert ledger.begin(KEY, request_task()) is None


def test_the_later_of_two_requests_counts(ledger, request_task):
    earlier, later = request_task(), request_task()
    assert ledger.begin(KEY, earlier) is None
    assert ledger.begin(KEY, later) is None
    assert earlier.cancelling() == 1
    assert later.cancelling() == 0
    ledger.end(KEY, earlier, None)  # it was cancelled
    third = request_task()
    assert ledger.begin(KEY, third) is None
    assert later.cancelling() == 1  # so it was still known to be the one


def test_a_request_that_has_ended_is_not_cancelled(ledger, request_task):
    first = request_task()
    answered(ledger, KEY, first, None)
    ledger.begin(KEY, request_task())
    assert first.cancelling() == 0


def test_users_do_not_see_each_others_answers(ledger, request_task):
    mine = request_task()
    answered(ledger, KEY, request_task(), b"reply")
    assert ledger.begin((1001, KEY[1]), mine) is None
    ledger.begin(KEY, request_task())
    assert mine.cancelling() == 0


def test_answers_are_kept_for_a_while(ledger, clock, request_task):
    answered(ledger, KEY, request_task(), b"reply")
    clock.now = 59.9
    assert ledger.begin(KEY, request_task()) == b"reply"
    clock.now = 60.0
    assert ledger.begin(KEY, request_task()) is None


@pytest.mark.parametrize(("size", "kept"), [(1, 3), (40, 2), (100, 1), (101, 0)])
def test_the_oldest_answers_go_first_by_count_and_by_bytes(ledger, request_task, size, kept):
    keys = [(1000, f"task-{number}") for number in range(10)]
    for key in keys:
        answered(ledger, key, request_task(), b"x" * size)
    assert [key for key in keys if ledger.begin(key, request_task()) is not None] == keys[len(keys) - kept :]


def test_an_answer_that_is_kept_anew_counts_once(ledger, clock, request_task):
    for _ in range(5):
        answered(ledger, KEY, request_task(), b"x" * 50)
        clock.now += 60.0  # so that it is done again
    answered(ledger, (1000, "task-2"), request_task(), b"x" * 50)
    answered(ledger, KEY, request_task(), b"y" * 50)
    assert ledger.begin(KEY, request_task()) == b"y" * 50
    assert ledger.begin((1000, "task-2"), request_task()) == b"x" * 50


def test_an_id_has_a_longest_length(ledger, request_task):
    assert ledger.begin((1000, "x" * LONGEST_ID), request_task()) is None
    with pytest.raises(InvalidParameter, match="task_id has 65 characters; it may have 64"):
        ledger.begin((1000, "x" * 65), request_task())
