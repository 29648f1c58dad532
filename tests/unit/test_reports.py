"""What the daemon says about itself."""

from __future__ import annotations

from types import SimpleNamespace

import msgspec
import pytest

from routerd.decisions import DecisionCache
from routerd.flags import load_flags
from routerd.plugins import PluginReport
from routerd.reports import Reporter
from routerd.settings import Settings


@pytest.fixture
def reporter(make_router, fleet, store, tmp_path):
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
    return Reporter(settings, load_flags({}), registry, fleet, router, DecisionCache(router), calibrator, policies, store,
                    lambda: {"clients": 3})  # fmt: skip


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
