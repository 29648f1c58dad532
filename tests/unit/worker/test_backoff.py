"""How long a worker waits before it is started again."""

from __future__ import annotations

import pytest

from routerd.worker.backoff import Backoff


def delays(jitter, count=10):
    backoff = Backoff(jitter)
    return [backoff.next_seconds(0.0) for _ in range(count)]


def test_each_short_life_doubles_the_wait_up_to_the_longest():
    assert delays(lambda: 1.0) == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0, 10.0]


def test_it_is_between_half_and_all_of_that_by_chance():
    """Workers that died together do not all start together."""
    full = delays(lambda: 1.0)
    assert delays(lambda: 0.0) == pytest.approx([one / 2.0 for one in full])
    assert delays(lambda: 0.5) == pytest.approx([one * 0.75 for one in full])


def test_a_long_life_begins_anew():
    backoff = Backoff(lambda: 1.0)
    for _ in range(5):
        backoff.next_seconds(0.0)
    assert backoff.next_seconds(31.0) == 0.1
