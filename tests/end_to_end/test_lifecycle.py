"""Starting, refusing to start, stopping, being killed, and remembering."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from pathlib import Path

import psutil
import pytest

from routerd import connect, errors

MONTE_CARLO = "options.monte_carlo_european"


class TestRefusingToStart:
    """Exit code 3, one line per problem on standard error, no traceback."""

    def refused(self, process, code_word, *words):
        code, said = process.refuse()
        assert code == 3, said
        assert said.startswith(f"routerd: {code_word}: "), said
        assert "Traceback" not in said
        for word in words:
            assert word in said
        return said

    def test_a_second_daemon_and_the_first_goes_on(self, daemon, bystander, private_daemon):
        second = private_daemon()
        second.env["ROUTERD_SOCKET"] = str(daemon.socket)
        self.refused(second, "already_running", f"another daemon (process {daemon.pid}) serves {daemon.socket}")
        assert bystander.call("ping") == {"pong": True}

    def test_a_file_that_is_no_socket(self, private_daemon):
        process = private_daemon()
        process.socket.parent.mkdir(mode=0o700)
        process.socket.write_text("precious")
        self.refused(process, "invalid_configuration", f"{process.socket} exists and is not a socket")
        assert process.socket.read_text() == "precious"

    def test_somebody_elses_socket(self, private_daemon):
        process = private_daemon()
        process.socket.parent.mkdir(mode=0o700)
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(process.socket))
            other.listen()
            self.refused(process, "already_running", f"another process answers on {process.socket}")

    def test_a_directory_that_others_can_write_to(self, private_daemon):
        process = private_daemon()
        process.socket.parent.mkdir()
        process.socket.parent.chmod(0o777)
        self.refused(process, "invalid_configuration", "others can write to the socket directory", "chmod it 700")

    def test_a_state_directory_that_cannot_be_written(self, private_daemon):
        process = private_daemon(state_dir="/proc/nowhere/state")
        self.refused(process, "state_unwritable", "/proc/nowhere/state", "ROUTERD_STATE_DIR")

    def test_a_flag_that_is_no_truth_value(self, private_daemon):
        process = private_daemon(environment={"GPU_ACCELERATION": "banana"})
        self.refused(process, "invalid_flag", "GPU_ACCELERATION=banana: must be")

    def test_an_unknown_setting(self, private_daemon):
        process = private_daemon(environment={"ROUTERD_SOKET": "/tmp/x"})
        self.refused(process, "invalid_configuration", "ROUTERD_SOKET: no such setting (did you mean ROUTERD_SOCKET?)")

    def test_a_setting_out_of_bounds(self, private_daemon):
        self.refused(private_daemon(max_connections=0), "invalid_configuration", "ROUTERD_MAX_CONNECTIONS")

    def test_no_refusal_leaves_a_process_or_a_lock(self, private_daemon):
        process = private_daemon(state_dir="/proc/nowhere/state")
        process.refuse()
        marker = str(process.socket)
        for other in psutil.process_iter():
            try:
                assert other.environ().get("ROUTERD_SOCKET") != marker or other.status() == psutil.STATUS_ZOMBIE
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        process.env["ROUTERD_STATE_DIR"] = str(process.state)
        process.start().connect().close()


class TestServing:
    def test_files_are_private(self, daemon):
        assert daemon.socket.parent.stat().st_mode & 0o777 == 0o700
        assert daemon.socket.stat().st_mode & 0o777 == 0o600
        assert (daemon.state / "routerd.sqlite3").stat().st_mode & 0o777 == 0o600

    def test_the_daemon_itself_stays_small_and_free_of_frameworks(self, daemon, router):
        maps = Path(f"/proc/{daemon.pid}/maps").read_text()
        for library in ("torch", "numpy", "openblas", "libgomp"):
            assert library not in maps
        assert psutil.Process(daemon.pid).memory_info().rss < 100 << 20
        assert router.call("status")["memory_bytes"] < 100 << 20

    def test_an_idle_daemon_rests(self, daemon, router):
        process = psutil.Process(daemon.pid)
        before, started = sum(process.cpu_times()[:2]), time.monotonic()
        threading.Event().wait(1.0)
        used = sum(process.cpu_times()[:2]) - before
        assert used / (time.monotonic() - started) <= 0.05

    def test_status_tells_the_truth(self, daemon, router, option, until):
        until(lambda: router.call("status")["calibration_pending"] == 0)  # but for what has drifted all is timed
        status = router.call("status")
        assert status["pid"] == daemon.pid
        assert status["ready"] is True
        assert status["socket"] == str(daemon.socket)
        pids = {worker["pid"] for worker in status["workers"]}
        assert pids == {worker.pid for worker in daemon.workers()}
        router.run(MONTE_CARLO, **option)
        assert router.call("stats")["executed"] > 0

    def test_workloads_and_flags_are_listed(self, router):
        found = router.call("workloads")
        assert len(found) >= 9
        (one,) = router.call("workloads", {"name": MONTE_CARLO})
        assert one["backends"]["cpu.numpy"]["state"] == "calibrated"
        with pytest.raises(errors.UnknownWorkload, match="did you mean"):
            router.call("workloads", {"name": MONTE_CARLO[:-1]})
        flags = {flag["name"]: flag for flag in router.call("flags")}
        assert flags["GPU_ACCELERATION"]["state"] == "inert"
        assert flags["GPU_ACCELERATION"]["reason"]


class TestStopping:
    def test_running_work_is_finished_and_new_work_refused(self, private_daemon, option, until):
        process = private_daemon().start()
        results = []
        with process.connect(name="worker") as working, process.connect(name="late", reconnect=0.0) as late:
            long = {**option, "num_simulations": 60_000_000, "tolerance": 0.0}
            thread = threading.Thread(target=lambda: results.append(working.run(MONTE_CARLO, **long)))
            thread.start()
            until(lambda: late.call("status")["traffic"]["in_flight"] == 1)
            process.process.send_signal(signal.SIGTERM)
            until(lambda: not process.socket.exists())
            with pytest.raises(errors.ShuttingDown, match="is shutting down and takes no new work"):
                late.run(MONTE_CARLO, **option)
            with pytest.raises(errors.ShuttingDown):
                late.decide(MONTE_CARLO, **option)
            assert late.call("status")["ready"] is True  # looking is still allowed
            thread.join(30.0)
            assert results[0]["price"] > 0.0
            assert process.process.wait(20.0) == 0
            with pytest.raises(errors.DaemonUnreachable):
                late.call("status")
        assert not process.socket.exists()
        with pytest.raises(errors.DaemonUnreachable, match="start one with: routerd"):
            connect(process.socket, timeout=0.0)

    def test_work_that_takes_too_long_is_handed_back(self, private_daemon, option, until):
        process = private_daemon(drain_seconds=0.3).start()
        caught = []

        def work(router):
            try:
                router.run(MONTE_CARLO, **{**option, "num_simulations": 10**9, "tolerance": 0.0})
            except errors.RouterdError as error:
                caught.append(error)

        with process.connect(reconnect=0.0) as working, process.connect() as watching:
            thread = threading.Thread(target=work, args=(working,))
            thread.start()
            until(lambda: watching.call("status")["traffic"]["in_flight"] == 1)
            started = time.monotonic()
            assert process.stop() == 0
            assert time.monotonic() - started < 6.0
            thread.join(10.0)
        assert isinstance(caught[0], errors.ShuttingDown)
        assert "requests handed back" in process.log.read_text()

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_at_any_moment_of_starting(self, private_daemon, number, until):
        """Before it handles signals it ends by the signal, afterwards in order; never with a traceback or a process left."""
        for seconds in (0.1, 0.4, 0.6, 0.8):
            process = private_daemon(torch=True).start()
            threading.Event().wait(seconds)
            children = process.workers() if process.process.poll() is None else []
            assert process.stop(number) in (0, -number, 130)
            until(lambda pids=children: not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE
                                                for child in pids))  # fmt: skip
            if number == signal.SIGTERM:
                assert "Traceback" not in process.log.read_text()


class TestKilled:
    def test_workers_end_with_the_daemon_and_the_next_one_starts(self, private_daemon, option, until):
        process = private_daemon().start()
        with process.connect() as router:
            router.run(MONTE_CARLO, **option)
        workers = process.workers()
        assert workers
        process.stop(signal.SIGKILL)
        until(lambda: not any(worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE for worker in workers))
        assert process.socket.exists()  # stale
        process.start()
        with process.connect() as router:
            assert router.call("status")["pid"] == process.pid
            assert router.run(MONTE_CARLO, **option)["price"] > 0.0

    def test_workers_end_even_while_they_compute(self, private_daemon, option, until, wire):
        process = private_daemon().start()
        process.connect().close()
        raw = wire(process.socket).hello()
        raw.request("run", {"workload": MONTE_CARLO, "params": {**option, "num_simulations": 10**9}})
        raw.ask = None
        with process.connect() as watcher:
            until(lambda: watcher.call("status")["traffic"]["in_flight"] == 1)
        workers = process.workers()
        process.stop(signal.SIGKILL)
        until(lambda: not any(worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE for worker in workers))


class TestRemembering:
    @staticmethod
    def known(router):
        """Proofs and timings, by backend."""
        (workload,) = router.call("workloads", {"name": MONTE_CARLO})
        return {name: (pair["state"], pair["error"], pair["points"]) for name, pair in workload["backends"].items()}

    def test_calibration_and_decisions_survive_a_restart(self, private_daemon, option, until):
        process = private_daemon(torch=True).start()
        process.wait_ready("cpu.torch")
        with process.connect(table=False) as router:
            router.call("calibrate", {"workloads": [MONTE_CARLO]})
            known = self.known(router)
            first = router.decide(MONTE_CARLO, **option)
            assert "not yet timed" not in first.reasoning
        assert process.stop() == 0
        process.start().wait_ready("cpu.torch", "cpu.torch_bf16")
        with process.connect(table=False) as router:
            second = router.decide(MONTE_CARLO, **option)
            assert self.known(router) == known
            asked = {"workloads": [MONTE_CARLO]}
            until(lambda: router.call("calibrate.pending", asked) == {"starting": [], "pairs": []})  # warmed up again
            assert self.known(router) == known  # and neither proved nor timed
            assert "not yet timed" not in second.reasoning
            assert second.predicted_seconds == pytest.approx(first.predicted_seconds, rel=0.5)
            assert second.decision_id > first.decision_id
            assert router.call("decisions.get", {"decision_id": first.decision_id})["workload"] == MONTE_CARLO
            assert second.generation == first.generation  # the policy is the same

    def test_before_anything_is_timed_the_reasoning_says_so(self, private_daemon, option):
        with private_daemon().start().connect() as router:
            assert "not yet timed here: cpu.numpy" in router.decide(MONTE_CARLO, **option, tolerance=0.0).reasoning

    def test_a_corrupt_database_is_put_aside(self, private_daemon, option):
        process = private_daemon()
        process.state.mkdir()
        (process.state / "routerd.sqlite3").write_bytes(os.urandom(20_000))
        process.start()
        with process.connect(table=False) as router:
            decision = router.decide(MONTE_CARLO, **option)
            assert router.call("decisions.get", {"decision_id": decision.decision_id})["workload"] == MONTE_CARLO
        assert [path.name for path in process.state.glob("*.corrupt-*")]
        assert "the database was corrupt" in process.log.read_text()

    def test_one_that_is_damaged_while_running_does_not_stop_the_service(self, private_daemon, option):
        process = private_daemon().start()
        with process.connect(table=False) as router:
            router.decide(MONTE_CARLO, **option)
            assert len(router.call("decisions.tail")) == 1
            for path in process.state.glob("routerd.sqlite3*"):
                size = path.stat().st_size
                path.write_bytes(os.urandom(max(size, 4096)))
            for _ in range(5):
                assert router.run(MONTE_CARLO, **option)["price"] > 0.0
            assert router.call("policy.apply")["generation"] >= 1
        assert process.stop() == 0


def test_waiting_for_a_daemon_that_is_starting(private_daemon):
    process = private_daemon()
    starter = threading.Timer(0.2, process.start)
    starter.start()
    with connect(process.socket, timeout=30.0) as router:
        assert router.call("ping") == {"pong": True}
    starter.join()
