"""What a client does without the daemon: both ways through it, and when it tells the daemon of it."""

from __future__ import annotations

import numpy as np
import pytest

from routerd.client.shortcut import Shortcut
from routerd.errors import InvalidParameter

GEMM, MONTE_CARLO = "linalg.gemm", "options.monte_carlo_european"
OPTION = {"spot_price": 100.0, "strike_price": 110.0, "volatility": 0.2, "num_simulations": 500}
SHAPES = {"a": (100, 100), "b": (100, 100)}
SMALL = {"a": np.ones((3, 4)), "b": np.ones((4, 2))}
SECOND = 1_000_000_000


@pytest.fixture
def shortcut(written, monkeypatch):
    monkeypatch.setattr("routerd.client.shortcut.monotonic", lambda: written.now / 1e9)
    written.write(0, GEMM, in_process=True)
    return Shortcut(written.reader)


@pytest.fixture
def locate(written):
    """Asks the daemon as a client does, and remembers for what."""

    def locate(view):
        if view.wants_place():
            locate.asked.append(view.workload)
            written.place(view, 0 if view.workload == GEMM else -1)

    locate.asked = []
    return locate


def test_the_first_question_finds_the_entry_and_later_ones_need_nobody(shortcut, locate):
    first = shortcut.decide(GEMM, SHAPES, locate)
    assert first.backend == "metal.mlx"
    assert shortcut.decide(GEMM, SHAPES, locate) is first
    assert locate.asked == [GEMM]


def test_what_has_no_entry_is_asked_for_once_in_a_while(shortcut, locate, written):
    for _ in range(5):
        assert shortcut.decide(MONTE_CARLO, OPTION, locate) is None
    assert locate.asked == [MONTE_CARLO]
    written.now += SECOND // 2
    shortcut.decide(MONTE_CARLO, OPTION, locate)
    assert locate.asked == [MONTE_CARLO] * 2


def test_what_is_for_the_daemon_alone_asks_for_no_place(shortcut, locate):
    assert shortcut.decide(GEMM, {**SHAPES, "deadline_ms": 5.0}, locate) is None
    assert shortcut.decide("third.party", {"x": 1.0}, locate) is None
    assert shortcut.run("third.party", {"x": 1.0}, {}, locate) is None
    assert locate.asked == []


def test_a_bad_task_is_refused_here(shortcut, locate):
    with pytest.raises(InvalidParameter):
        shortcut.decide(MONTE_CARLO, {**OPTION, "volatility": -1.0}, locate)


def test_tiny_work_is_run_here_and_the_rest_is_not(shortcut, locate):
    assert shortcut.run(GEMM, {}, SMALL, locate).ran_on.backend == "in_process.numpy"
    assert shortcut.run(GEMM, {}, {"a": np.ones((80, 80)), "b": np.ones((80, 80))}, locate) is None
    assert shortcut.run(MONTE_CARLO, OPTION, {}, locate) is None


def test_reports_are_due_every_second(shortcut, written):
    for _ in range(2):
        assert not shortcut.is_due
        written.now += SECOND // 2
        assert not shortcut.is_due
        written.now += SECOND // 2 + 1000
        assert shortcut.is_due
        shortcut.take_report()


def test_or_when_much_was_run(shortcut, locate, monkeypatch):
    monkeypatch.setattr("routerd.client.shortcut._REPORT_RUNS", 3)
    for _ in range(2):
        for _ in range(3):
            assert not shortcut.is_due
            assert shortcut.run(GEMM, {}, SMALL, locate) is not None
        assert shortcut.is_due
        shortcut.take_report()


def test_a_report_says_everything_once(shortcut, locate):
    assert shortcut.take_report() is None
    shortcut.decide(GEMM, SHAPES, locate)
    shortcut.run(GEMM, {}, SMALL, locate)
    report = shortcut.take_report()
    assert report.decisions == 2  # where to run it was decided too
    assert [(runs.workload, runs.count) for runs in report.runs] == [(GEMM, 1)]
    assert shortcut.take_report() is None


def test_a_closed_one_leaves_everything_to_the_daemon(shortcut, locate):
    assert shortcut.decide(GEMM, SHAPES, locate) is not None
    shortcut.close()
    assert shortcut.decide(GEMM, SHAPES, locate) is None
    assert shortcut.run(GEMM, {}, SMALL, locate) is None
