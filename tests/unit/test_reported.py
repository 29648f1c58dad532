"""What clients say that they did: counted, learnt from, and refused one by one where it cannot be."""

from __future__ import annotations

import math

import pytest

from routerd.costs.model import CostModel
from routerd.protocol import InProcessRuns, Report, encode
from routerd.reported import ReportedWork

GEMM = "linalg.gemm"


@pytest.fixture
def router(make_router):
    return make_router()


@pytest.fixture
def reported(router, fleet):
    return ReportedWork(router, fleet)


@pytest.fixture
def changes(router):
    heard = []
    router.on_change = lambda workload, minor: heard.append((workload, minor))
    return heard


@pytest.fixture
def slow_runs(fleet):
    """A thousand runs that each took 100 µs longer than the kernel is predicted to."""
    service = fleet.backends["cpu.numpy"].pairs[GEMM].model.predict(1e4).seconds
    return Report(0, (InProcessRuns(GEMM, 1000, 0, ((1e4, service + 100e-6),) * 16),))


def test_everything_is_counted(reported, session):
    runs = (InProcessRuns(GEMM, 7, 2), InProcessRuns("risk.var_historical", 3))
    assert reported.report(session, Report(5, runs)) == {"refused": 0}
    reported.report(session, Report(10, runs[:1]))
    assert reported.decisions == 15
    assert reported.runs == {GEMM: 14, "risk.var_historical": 3}
    assert reported.failed == 4


def test_the_answer_is_about_this_report(reported, session):
    wrong = Report(0, (InProcessRuns(GEMM, 1, 2),))
    assert [reported.report(session, wrong) for _ in range(2)] == [{"refused": 1}] * 2
    assert reported.report(session, Report(1)) == {"refused": 0}
    assert reported.refused == 2


def test_totals_that_could_not_be_sent_any_more_are_refused(reported, session):
    most = (1 << 62) - 1
    reported.decisions = reported.runs[GEMM] = most
    many = Report(1 << 40, (InProcessRuns("risk.var_historical", 1 << 40),))
    assert reported.report(session, many) == {"refused": 2}
    assert (reported.decisions, reported.runs) == (most, {GEMM: most})
    assert encode({"decisions": reported.decisions, "runs": reported.runs.total()})


def test_times_correct_what_work_in_the_caller_is_predicted_to_take(reported, router, session, slow_runs, changes):
    for _ in range(8):
        reported.report(session, slow_runs)
    assert changes == [(None, True)]
    assert (
        40e-6 < router.planner._ways["in_process.numpy"].seconds <= 60e-6
    )  # they said 100 µs: not that much is believed


def test_one_report_moves_nothing_however_many_times_it_holds(reported, router, session, fleet, changes):
    absurd = Report(0, (InProcessRuns(GEMM, 1000, 0, ((1e4, 1e300),) * 1000),))
    for _ in range(2):
        reported.report(session, absurd)
    assert changes == []


def test_a_report_that_teaches_nothing_new_changes_nothing(reported, session, slow_runs, changes):
    for _ in range(20):
        reported.report(session, slow_runs)
    count = len(changes)
    reported.report(session, slow_runs)
    reported.report(session, Report(100))
    assert len(changes) == count


@pytest.mark.parametrize("decisions", [-1, 1 << 60])
def test_a_count_that_cannot_be_is_refused(reported, session, decisions):
    assert reported.report(session, Report(decisions, (InProcessRuns(GEMM, 1),))) == {"refused": 1}
    assert (reported.decisions, reported.runs[GEMM]) == (0, 1)


@pytest.mark.parametrize(
    "runs",
    [
        InProcessRuns("linalg.gem", 1),
        InProcessRuns(GEMM, -1),
        InProcessRuns(GEMM, 1, 2),
        InProcessRuns(GEMM, 1, -1),
        InProcessRuns(GEMM, 1 << 60),
    ],
)
def test_runs_that_cannot_be_are_refused_whole(reported, session, runs, changes):
    good = InProcessRuns("risk.var_historical", 1)
    assert reported.report(session, Report(0, (runs, good))) == {"refused": 1}
    assert (reported.runs, reported.failed) == ({"risk.var_historical": 1}, 0)
    assert changes == []


@pytest.mark.parametrize(
    "sample",
    [
        (1e4, math.nan),
        (1e4, -1.0),
        (1e4, 0.0),
        (1e4, math.inf),
        (0.0, 1e-3),
        (-1.0, 1e-3),
        (math.nan, 1e-3),
        (math.inf, 1.0),
    ],
)
def test_a_time_that_cannot_be_is_refused_and_the_runs_still_count(reported, session, sample, changes):
    assert reported.report(session, Report(0, (InProcessRuns(GEMM, 9, 0, (sample,) * 16),))) == {"refused": 16}
    assert reported.runs[GEMM] == 9
    assert changes == []


def test_times_are_worth_nothing_before_the_contract_is_timed(reported, fleet, session, slow_runs, changes):
    fleet.backends["cpu.numpy"].pairs[GEMM].model = CostModel()
    reported.report(session, slow_runs)
    del fleet.backends["cpu.numpy"].pairs[GEMM]
    reported.report(session, slow_runs)
    assert reported.runs[GEMM] == 2000
    assert changes == []
