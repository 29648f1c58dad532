"""What the daemon says about itself."""

from __future__ import annotations

from types import SimpleNamespace

import msgspec
import pytest

from routerd.costs.model import Point
from routerd.decisions import DecisionCache
from routerd.errors import TaskQuarantined
from routerd.flags import load_flags
from routerd.plugins import PluginReport
from routerd.protocol import Ask, InProcessRuns, Locate, Report
from routerd.reported import ReportedWork
from routerd.reports import Reporter
from routerd.settings import Settings
from routerd.worker.breaker import FAILURES
from tests.unit.mishaps import MONTE_CARLO, OPTION, crash, displaced, run


@pytest.fixture
def reporter(make_router, make_table, fleet, store, tmp_path):
    router = make_router()
    reports = (
        PluginReport(name="cpu", state="loaded", version="1.0", backends=tuple(fleet.backends)),
        PluginReport(name="bad", state="failed", reason="ModuleNotFoundError: no"),
    )
    registry = SimpleNamespace(reports=reports, backend_plugin=dict.fromkeys(fleet.backends, "cpu"))
    calibrator = SimpleNamespace(pending=lambda workloads: [("metal.mlx", "linalg.gemm")] if not workloads else [])
    policies = SimpleNamespace(summary=lambda: {"name": "test"})
    for worker in fleet.workers:
        worker.pid, worker.restarts, worker.waiting = 42, 1, 0
    settings = Settings(socket=tmp_path / "s.sock", state_dir=tmp_path)
    table, reported = make_table(router), ReportedWork(router, fleet)
    return Reporter(settings, load_flags({}), registry, fleet, router, DecisionCache(router), calibrator, policies, store,
                    lambda: {"clients": 3}, table, reported)  # fmt: skip


def test_status_is_ready_while_one_backend_is(reporter, fleet):
    status = reporter.status()
    assert status["ready"] is True
    assert status["backends"] == {"cpu.numpy": "ready", "metal.mlx": "ready", "ane.coreml": "ready"}
    assert status["plugins_failed"] == ["bad"]
    assert status["traffic"] == {"clients": 3}
    assert status["calibration_pending"] == 1
    assert {worker["state"] for worker in status["workers"]} == {"up"}
    for backend in fleet.backends.values():
        backend.state = "down"
    assert reporter.status()["ready"] is False


@pytest.mark.parametrize(
    ("change", "state", "reason"),
    [
        ({"unsupported": "needs float64"}, "unsupported", "needs float64"),
        ({"quarantine": "it lies"}, "quarantined", "quarantined: it lies"),
        ({"error": None}, "unproved", "not yet proved on this machine"),
        ({"absent": "loading again"}, "loading", "loading again"),
        ({}, "calibrated", ""),
    ],
)
def test_a_pair_says_where_it_stands(reporter, fleet, change, state, reason):
    pair = fleet.backends["metal.mlx"].pairs["linalg.gemm"]
    for name, value in change.items():
        setattr(pair, name, value)
    (workload,) = reporter.workloads("linalg.gemm")
    shown = workload["backends"]["metal.mlx"]
    assert (shown["state"], shown["reason"]) == (state, reason)


def test_a_pair_whose_breaker_is_open_says_so(reporter, fleet):
    breaker = fleet.backends["metal.mlx"].pairs["linalg.gemm"].breaker
    for _ in range(FAILURES):
        breaker.failed("it raised", 0.0)
    shown = reporter.workloads("linalg.gemm")[0]["backends"]["metal.mlx"]
    assert shown["state"] == "breaker_open"
    assert shown["reason"].endswith("3 failures in a row, the last: it raised")
    breaker.probe()
    shown = reporter.workloads("linalg.gemm")[0]["backends"]["metal.mlx"]
    assert (shown["state"], "being probed" in shown["reason"]) == ("breaker_open", True)


def test_a_worker_that_is_silent_is_not_called_up(reporter, fleet):
    worker = fleet.backends["metal.mlx"].worker
    worker.state, worker.private_bytes = "silent", 123
    fleet._pulse(worker, "its process is stopped")
    status = reporter.status()
    shown = next(one for one in status["workers"] if one["name"] == worker.name)
    assert (shown["state"], shown["memory_bytes"]) == ("silent", 123)
    assert status["backends"]["metal.mlx"] == "silent"
    backend = next(one for one in reporter.backends()["backends"] if one["name"] == "metal.mlx")
    assert (backend["state"], backend["reason"]) == ("silent", "its process is stopped")


def test_where_tasks_were_sent_and_where_they_ran_is_counted(reporter, fleet, session):
    """A crash, a job that was displaced by one, and a content that is refused."""
    router = reporter._router
    worker = fleet.backends["metal.mlx"].worker
    worker.script = [crash(), displaced(), 1e-3]
    for price in (100.0, 101.0, 102.0):
        run(router, session, Ask(MONTE_CARLO.workload, {**OPTION, "spot_price": price}))
    counts = {one["name"]: (one["planned"], one["ran"], one["failed"]) for one in reporter.backends()["backends"]}
    assert counts == {"cpu.numpy": (0, 0, 0), "metal.mlx": (3, 2, 1), "ane.coreml": (0, 1, 0)}
    for backend in fleet.backends.values():
        backend.worker.outcome = crash()
    with pytest.raises(TaskQuarantined):
        run(router, session)
    told = ("executed", "failed", "fallbacks", "reruns", "contents_refused")
    assert [reporter.stats()[name] for name in told] == [3, 1, 3, 1, 1]


def test_a_pair_has_the_sizes_that_it_was_calibrated_at(reporter, fleet):
    fleet.backends["metal.mlx"].pairs["linalg.gemm"].model.calibrate([Point(1e6, 2e-4, 0.05), Point(1e4, 1e-5, 0.1)])
    (workload,) = reporter.workloads("linalg.gemm")
    assert workload["backends"]["metal.mlx"]["points"] == [
        {"work": 1e4, "seconds": 1e-5, "log_sigma": 0.1},
        {"work": 1e6, "seconds": 2e-4, "log_sigma": 0.05},
    ]


def test_everything_can_be_sent(reporter):
    for report in (
        reporter.status(),
        reporter.stats(),
        reporter.backends(),
        reporter.workloads(None),
        reporter.flags(),
    ):
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(report))


def test_a_workload_is_described_whole(reporter):
    (workload,) = reporter.workloads("options.monte_carlo_european")
    volatility = next(one for one in workload["parameters"] if one["name"] == "volatility")
    assert (volatility["unit"], volatility["minimum"], volatility["maximum"]) == ("per √year", 0.0, 5.0)
    assert [option["name"] for option in workload["options"]] == ["tolerance", "deadline_ms", "priority"]
    assert len(reporter.workloads(None)) >= 9


def test_pending_names_what_is_open(reporter, fleet):
    fleet.backends["ane.coreml"].state = "starting"
    assert reporter.pending(()) == {
        "starting": ["ane.coreml"],
        "pairs": [{"backend": "metal.mlx", "workload": "linalg.gemm"}],
    }


def test_what_clients_did_without_the_daemon_is_in_the_figures(reporter, session):
    table, reported = reporter._table, reporter._reported
    table.locate(session, Locate("linalg.gemm"))
    reported.report(session, Report(7, (InProcessRuns("linalg.gemm", 5, 2),)))
    shown = reporter.status()["table"]
    assert (shown["entries"], shown["compiled"], shown["too_large"]) == (1, 1, 0)
    assert shown["compile_seconds"] == table.compile_seconds > 0.0
    stats = reporter.stats()
    told = ("decided_from_table", "executed_in_process", "failed_in_process", "explored")
    assert [stats[name] for name in told] == [7, 5, 2, 0]
