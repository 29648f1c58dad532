"""Backends that lie, raise, crash and hang, and processes that are killed: the work is finished elsewhere."""

from __future__ import annotations

import os
import signal
import time

import numpy as np
import pytest

from routerd import errors
from routerd.testing import NullBackend

GEMM = {"b": np.ones((2, 1))}


def asking(order):
    """The input that tells the moody backend what to do."""
    return np.array([[order, 1.0]])


def pairs(router, backend):
    state = next(one for one in router.call("backends")["backends"] if one["name"] == backend)
    return {pair["workload"]: pair for pair in state["workloads"]}


def worker_of(router, name):
    return next(worker for worker in router.call("status")["workers"] if worker["name"] == name)


@pytest.fixture
def moody(timed_moody_daemon):
    """A daemon with a proved moody backend, and the client that is sent to it."""
    process = timed_moody_daemon()
    with process.connect(name="moody") as router:
        assert router.run("linalg.gemm", a=asking(1.0), **GEMM)["c"][0, 0] == 2.0
        assert router.decide("linalg.gemm", m=1, k=2, n=1).backend == "moody.one"
        yield process, router


def falls_back(router, order, words):
    result = router.run("linalg.gemm", a=asking(order), **GEMM)
    assert result["c"][0, 0] == order + 1.0
    assert result.planned.backend == "moody.one"
    assert result.ran_on.backend != "moody.one"
    assert result.fallback_reason.startswith("moody.one: ")
    assert words in result.fallback_reason
    record = router.call("decisions.get", {"decision_id": result.decision.decision_id})
    assert (record["ran_on"], record["fallback_reason"]) == (result.ran_on.backend, result.fallback_reason)
    return result


class TestWhileATaskRuns:
    def test_a_kernel_that_raises(self, moody, moods):
        _process, router = moody
        before = router.call("stats")["fallbacks"]
        falls_back(router, moods.fail, "linalg.gemm raised RuntimeError: the moody backend was asked to fail")
        assert router.call("stats")["fallbacks"] == before + 1
        assert router.run("linalg.gemm", a=asking(1.0), **GEMM).ran_on.backend == "moody.one"

    def test_a_worker_that_ends(self, moody, moods, until):
        _process, router = moody
        pid = worker_of(router, "hybrid/moody")["pid"]
        falls_back(router, moods.leave, "worker hybrid/moody exited with status 70")
        until(lambda: router.call("status")["backends"]["moody.one"] == "ready")
        worker = worker_of(router, "hybrid/moody")
        assert (worker["restarts"], worker["state"]) == (1, "up")
        assert worker["pid"] != pid
        assert router.run("linalg.gemm", a=asking(1.0), **GEMM).ran_on.backend == "moody.one"

    def test_a_worker_that_is_killed(self, moody, moods, until):
        process, router = moody
        with process.connect(name="watcher") as watcher:
            import threading

            results = []
            thread = threading.Thread(target=lambda: results.append(falls_back(router, moods.slow, "SIGKILL")))
            thread.start()
            until(lambda: worker_of(watcher, "hybrid/moody")["waiting"] > 0)
            os.kill(worker_of(watcher, "hybrid/moody")["pid"], signal.SIGKILL)
            thread.join(20.0)
            assert len(results) == 1
            until(lambda: watcher.call("status")["backends"]["moody.one"] == "ready")

    def test_where_nothing_else_may_run_it_the_error_says_what_happened(self, moody, moods, tmp_path, until):
        _process, router = moody
        alone = tmp_path / "alone.yaml"
        alone.write_text(
            "apiVersion: routerd/v1\nkind: Policy\nmetadata: {name: alone}\n"
            "constraints: [{id: alone, allow: [moody.one]}]\n"
        )
        router.call("policy.apply", {"paths": [str(alone)]})
        with pytest.raises(errors.ExecutionError, match="raised RuntimeError: the moody backend was asked to fail"):
            router.run("linalg.gemm", a=asking(moods.fail), **GEMM)
        with pytest.raises(errors.TaskQuarantined, match="worker hybrid/moody exited with status 70"):
            router.run("linalg.gemm", a=asking(moods.leave), **GEMM)
        restarts = worker_of(router, "hybrid/moody")["restarts"]
        with pytest.raises(errors.TaskQuarantined, match="has ended 3 worker processes"):
            router.run("linalg.gemm", a=asking(moods.leave), **GEMM)
        assert router.run("linalg.gemm", a=asking(1.0), **GEMM)["c"][0, 0] == 2.0  # it waits for the worker
        assert worker_of(router, "hybrid/moody")["restarts"] <= restarts + 1
        assert router.call("stats")["contents_refused"] == 1

    def test_results_after_a_deadline_leave_nothing_behind(self, moody, moods, until):
        process, router = moody
        a = np.full((300, 200), moods.slow)
        b = np.ones((200, 100))
        router.run("linalg.gemm", a=a, b=b)
        before = max(process.segments(worker.pid).mappings for worker in process.workers())
        for _ in range(4):
            with pytest.raises(errors.TaskTimeout, match=r"passed its deadline of 150 ms on moody\.one"):
                router.run("linalg.gemm", a=a, b=b, deadline_ms=150.0)
            until(lambda: worker_of(router, "hybrid/moody")["waiting"] == 0)
        router.run("linalg.gemm", a=a, b=b)
        assert max(process.segments(worker.pid).mappings for worker in process.workers()) <= before + 1

    def test_large_results_survive_the_crash_of_their_worker(self, moody, moods, until):
        process, router = moody
        a = np.full((300, 200), 2.0)
        b = np.ones((200, 100))
        held = router.run("linalg.gemm", a=a, b=b)
        assert held.ran_on.backend == "moody.one"
        a[0, 0] = moods.leave
        result = router.run("linalg.gemm", a=a, b=b)
        assert result.ran_on.backend != "moody.one"
        np.testing.assert_array_equal(result["c"], a @ b)
        until(lambda: router.call("status")["backends"]["moody.one"] == "ready")
        a[0, 0] = 2.0
        for _ in range(5):
            again = router.run("linalg.gemm", a=a, b=b)
            assert again.ran_on.backend == "moody.one"
            np.testing.assert_array_equal(again["c"], a @ b)
        np.testing.assert_array_equal(held["c"], a @ b)
        assert process.segments(process.pid).descriptors <= 4  # staging: nothing of the dead worker


class TestIdleWorkersKilled:
    @pytest.mark.parametrize("name", ["hybrid/moody", "cpu/numpy"])
    def test_it_is_seen_and_started_again(self, moody, until, name):
        _process, router = moody
        backend = {"hybrid/moody": "moody.one", "cpu/numpy": "cpu.numpy"}[name]
        pid = worker_of(router, name)["pid"]
        os.kill(pid, signal.SIGKILL)
        until(lambda: worker_of(router, name)["restarts"] == 1)
        until(lambda: router.call("status")["backends"][backend] == "ready")
        assert worker_of(router, name)["pid"] not in (pid, None)
        result = router.run("linalg.gemm", a=asking(1.0), **GEMM, tolerance=0.0)
        assert result["c"][0, 0] == 2.0

    def test_many_requests_while_it_happens_are_all_answered(self, moody, until):
        process, router = moody
        for _ in range(3):
            os.kill(worker_of(router, "hybrid/moody")["pid"], signal.SIGKILL)
            for _ in range(50):
                assert router.run("linalg.gemm", a=asking(1.0), **GEMM)["c"][0, 0] == 2.0
            until(lambda: router.call("status")["backends"]["moody.one"] == "ready")
        assert "internal error" not in process.log.read_text()


def test_a_hanging_task_is_finished_elsewhere_and_its_worker_replaced(timed_moody_daemon, moods, until):
    process = timed_moody_daemon(task_timeout_seconds=1, torch=True)
    with process.connect(name="moody") as router:
        pid = worker_of(router, "hybrid/moody")["pid"]
        started = time.monotonic()
        falls_back(router, moods.hang, "the task did not end within 1 s on worker hybrid/moody")
        assert 0.9 < time.monotonic() - started < 6.0
        until(lambda: worker_of(router, "hybrid/moody")["restarts"] == 1)
        until(lambda: router.call("status")["backends"]["moody.one"] == "ready")
        assert worker_of(router, "hybrid/moody")["pid"] != pid
        assert router.call("status")["backends"]["cpu.torch"] == "ready"  # loading has a limit of its own


class TestProof:
    """Null backends of a third party's plugin, each failing in its own way."""

    SPECS = {  # noqa: RUF012
        "null.good": {},
        "null.wrong": {"fail": "wrong"},
        "null.nan": {"fail": "nan"},
        "null.absent": {"fail": "unavailable"},
        "null.picky": {"fail": "unsupported"},
        "null.raises": {"fail": "raise"},
        "null.late": {"fail": "raise", "fail_after": 200},
    }

    def test_what_lies_or_fails_is_never_chosen_and_says_why(self, moody_daemon, tmp_path):
        process = moody_daemon(self.SPECS)
        for name, source in (("broken", "import not_there_at_all\n"), ("empty", "x = 1\n")):
            info = tmp_path / f"{name}-1.0.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
            (info / "entry_points.txt").write_text(f"[routerd]\n{name} = {name}_module\n")
            (tmp_path / f"{name}_module.py").write_text(source)
        process.start()
        with process.connect(name="chooser") as router:
            router.call("calibrate", {"workloads": ["linalg.gemm"]})
            states = router.call("status")["backends"]
            assert states["null.absent"] == "unavailable"
            reports = {plugin["name"]: plugin for plugin in router.call("backends")["plugins"]}
            assert reports["acme"]["state"] == "loaded"
            assert "null.wrong" in reports["acme"]["backends"]
            assert (reports["broken"]["state"], reports["empty"]["state"]) == ("failed", "failed")
            assert "not_there_at_all" in reports["broken"]["reason"]
            assert "it has no hook" in reports["empty"]["reason"]
            assert router.call("status")["plugins_failed"] == ["broken", "empty"]
            expected = {
                "null.good": ("calibrated", ""),
                "null.wrong": ("quarantined", "quarantined: relative error "),
                "null.nan": ("quarantined", "quarantined: relative error inf"),
                "null.picky": ("unsupported", "the backend does not support this workload"),
                "null.raises": ("quarantined", "raised RuntimeError: the null device was asked to fail"),
                "null.late": ("calibrated", ""),
            }
            for backend, (state, reason) in expected.items():
                pair = pairs(router, backend)["linalg.gemm"]
                assert pair["state"] == state, (backend, pair)
                assert reason in pair["reason"]
            decision = router.decide("linalg.gemm", m=5, k=5, n=5, tolerance=1000.0)
            chosen = {decision.backend, *(one.backend for one in decision.fallbacks)}
            assert not chosen & {"null.wrong", "null.nan", "null.raises", "null.picky", "null.absent"}
            assert "null.good" in chosen
            rejected = {one.backend: one.reason for one in decision.rejected}
            assert rejected["null.absent"] == "unavailable: the null device was asked to be absent"
            self.runs_out_of_good_executions(router, tmp_path)

    def runs_out_of_good_executions(self, router, tmp_path):
        """``null.late`` was proved while it worked; now it fails, and each task is finished elsewhere."""
        policy = tmp_path / "late.yaml"
        policy.write_text(
            "apiVersion: routerd/v1\nkind: Policy\nmetadata: {name: late}\nrules: [{id: late, prefer: [null.late]}]\n"
        )
        router.call("policy.apply", {"paths": [str(policy)]})

        def run(numbers):
            return [router.run("linalg.gemm", a=asking(float(number)), **GEMM) for number in numbers]

        results = run(range(40))
        router.call(
            "calibrate", {"workloads": ["linalg.gemm"]}
        )  # so tiny a task may differ from the examples: timed again
        results += run(range(40, 240))
        assert [result["c"][0, 0] for result in results] == [number + 1.0 for number in range(240)]
        moved = [result for result in results if result.fallback_reason is not None]
        assert all("the null device was asked to fail" in result.fallback_reason for result in moved)
        assert {result.planned.backend for result in moved} <= {"null.late"}
        pair = pairs(router, "null.late")["linalg.gemm"]
        if pair["state"] == "quarantined":  # it failed while it was timed again, and gets no more tasks
            assert "the null device was asked to fail" in pair["reason"]
            assert results[-1].planned.backend != "null.late"
        else:  # it failed several tasks in a row, and gets none until a probe succeeds
            assert pair["state"] == "breaker_open", pair
            assert "the null device was asked to fail" in pair["reason"]
            assert results[-1].planned.backend != "null.late"

    def test_a_backend_that_takes_its_worker_down_is_quarantined_in_the_end(self, moody_daemon):
        process = moody_daemon({"null.exits": {"fail": "exit"}}).start()
        with process.connect(name="chooser") as router:
            router.call("calibrate", {"workloads": ["linalg.gemm"]})
            pair = pairs(router, "null.exits")["linalg.gemm"]
            assert pair["state"] == "quarantined"
            assert "worker cluster/null_exits exited with status 70 while this was tried, 3 times" in pair["reason"]
            assert worker_of(router, "cluster/null_exits")["restarts"] >= 2
            assert pairs(router, "moody.one")["linalg.gemm"]["state"] == "calibrated"
            assert router.run("linalg.gemm", a=asking(1.0), **GEMM)["c"][0, 0] == 2.0

    def test_a_backend_that_hangs_in_its_proof_is_quarantined(self, moody_daemon):
        process = moody_daemon({"null.hangs": {"fail": "hang"}}, task_timeout_seconds=1).start()
        with process.connect(name="chooser") as router:
            assert router.run("linalg.gemm", a=asking(1.0), **GEMM)["c"][0, 0] == 2.0  # serving never waits for proofs
            router.call("calibrate", {"workloads": ["linalg.gemm"]})
            pair = pairs(router, "null.hangs")["linalg.gemm"]
            assert pair["state"] == "quarantined"
            assert "did not end within 1 s" in pair["reason"]

    def test_a_quarantine_outlives_a_restart(self, moody_daemon):
        process = moody_daemon({"null.wrong": {"fail": "wrong"}}).start()
        with process.connect() as router:
            router.call("calibrate", {"workloads": ["linalg.gemm"]})
        assert process.stop() == 0
        process.start().wait_ready("null.wrong")
        with process.connect() as router:
            assert pairs(router, "null.wrong")["linalg.gemm"]["state"] == "quarantined"

    def test_every_failure_of_the_kit_is_covered(self):
        from routerd.testing import null

        covered = {spec.get("fail", "") for spec in self.SPECS.values()} | {"exit", "hang"}
        assert covered == set(null.FAILURES)
        assert NullBackend().probe().name == "null"
