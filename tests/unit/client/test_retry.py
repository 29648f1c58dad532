"""Pauses between attempts, and ids of tasks."""

from __future__ import annotations

import itertools

import pytest

from routerd.client.retry import ONCE, TaskIds, pauses
from routerd.ledger import LONGEST_ID


@pytest.mark.parametrize(("jitter", "share"), [(0.0, 0.5), (1.0, 1.0)])
def test_pauses_double_up_to_half_a_second(jitter, share):
    taken = list(itertools.islice(pauses(lambda: jitter), 8))
    assert taken == pytest.approx([share * pause for pause in (0.02, 0.04, 0.08, 0.16, 0.32, 0.5, 0.5, 0.5)])


def test_two_clients_do_not_keep_step():
    one, two = (list(itertools.islice(pauses(), 20)) for _ in range(2))
    assert one != two


def test_no_two_tasks_have_the_same_id():
    routers = [TaskIds() for _ in range(20)]
    ids = [router.next() for router in routers for _ in range(50)]
    assert len(set(ids)) == 1000
    assert max(map(len, ids)) <= LONGEST_ID


def test_methods_that_change_something_are_not_repeated():
    assert {"policy.apply", "calibrate"} == ONCE
