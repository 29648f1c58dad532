"""One task on several backends at once: when it is chosen, that it computes the same, and that it survives its workers."""

from __future__ import annotations

import os
import signal
import threading

import numpy as np
import pytest

from routerd import errors
from routerd.interfaces import Example
from routerd.namespaces.execution import execute_kernel
from routerd.namespaces.numpy import NumpyNamespace
from routerd.workloads import builtin_workloads
from routerd.workloads.content import relative_error
from tests.processes import hand_down, install_plugin, wait_until

WORKLOADS = {workload.name: workload for workload in builtin_workloads()}
GREEKS = "risk.greeks_batch"
ROWS = 40_000
#: Seconds of sleep for each row: two sleepers take half of it each, however few cores there are.
PACE = 5e-6

PLUGIN = '''
import fcntl, os, time
from pathlib import Path
from routerd.hookspecs import hookimpl
from routerd.interfaces import BackendSpec
from routerd.testing import NullBackend

class Paced(NullBackend):
    """Takes so long for each row. With a ``lock`` it waits while another computes, and is slower for having waited, as two are
    that keep driving each other's data out of a cache."""

    def __init__(self, device_kind, pace, lock=""):
        super().__init__(device_kind)
        self._pace, self._lock = pace, lock

    def execute(self, workload, params, inputs, into):
        started = time.perf_counter()
        pace, held = self._pace, None
        if self._lock:
            held = os.open(self._lock, os.O_RDWR | os.O_CREAT)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                fcntl.flock(held, fcntl.LOCK_EX)
                pace *= 1.5
        execution = super().execute(workload, params, inputs, into)
        rows = next(iter(inputs.values())).shape[0]
        time.sleep(rows * pace)
        if held is not None:
            os.close(held)
        return execution._replace(kernel_seconds=time.perf_counter() - started)

def paced(name, kind, lock=""):
    return BackendSpec(name=name, device_kind=kind, precision="float64", factory="paced_backends:Paced",
                       group=name.replace(".", "_"), options={"device_kind": kind, "pace": SLEEP, "lock": lock})

@hookimpl
def routerd_backends(settings):
    return [
        paced("free.one", "cluster"), paced("free.two", "cluster"),
        paced("rival.one", "quantum_annealer", "LOCKFILE"), paced("rival.two", "quantum_annealer", "LOCKFILE"),
    ]
'''
POLICY = """
apiVersion: routerd/v1
kind: Policy
metadata: {name: together}
constraints:
  - {id: free-alone, when: {client.name: "free*"}, allow: [cluster, hybrid]}
  - {id: rivals-alone, when: {client.name: "rival*"}, allow: [quantum_annealer, hybrid]}
  - {id: not-together, when: {client.name: "*apart"}, deny: [hybrid]}
  - {id: one-of-two, when: {client.name: "*one"}, deny: [free.two]}
rules:
  - {id: never, when: {client.name: "*never"}, split: never}
  - {id: always, when: {client.name: "*always"}, prefer: [hybrid], split: auto}
  - {id: silent, when: {client.name: "*silent"}, objective: {latency: 1.0}}
  - {id: thrifty, when: {client.name: "*thrifty"}, objective: {throughput: 1.0}, split: auto}
default: {objective: {latency: 1.0}, split: auto}
exploration: {budget: 0%}
fallback: {on: [unavailable, crash, timeout, out_of_memory], max_attempts: 4}
"""
TOGETHER = """
apiVersion: routerd/v1
kind: Policy
metadata: {name: together}
rules: [{id: together, prefer: [hybrid], split: auto}]
"""
#: Of every manner of splitting: paths, rows that are sorted together in the end, columns, rows of a product.
SHARED = (
    "options.monte_carlo_european", "options.monte_carlo_asian", "risk.var_monte_carlo", "risk.var_historical",
    "linalg.gemm", "analytics.performance",
)  # fmt: skip


def options(rows=ROWS, seed=1):
    return WORKLOADS[GREEKS].example(float(rows), np.random.default_rng(seed))


def contract(name, example):
    workload = WORKLOADS[name]
    defaults = {one.name: one.default for one in workload.parameters if one.default is not None}
    return execute_kernel(NumpyNamespace(), workload, {**defaults, **example.params}, example.arrays).outputs


def check(name, example, result):
    outputs = {output: np.asarray(result[output]) for output in result}
    assert relative_error(WORKLOADS[name], outputs, contract(name, example)) <= WORKLOADS[name].tolerance


def reason(decision):
    return next((one.reason for one in decision.rejected if one.backend == "hybrid"), None)


@pytest.fixture(scope="module")
def paced(module_daemon, tmp_path_factory):
    """A daemon with two independent and two rivalling backends; both teams are formed and timed."""
    directory = tmp_path_factory.mktemp("paced")
    source = PLUGIN.replace("LOCKFILE", str(directory / "lock")).replace("SLEEP", str(PACE))
    install_plugin(directory, "paced", source)
    policy = directory / "policy.yaml"
    policy.write_text(POLICY)
    process = module_daemon(
        environment={"PYTHONPATH": str(directory)}, patient=True, policy_paths=policy, calibration_run_seconds=0.1
    ).start()
    with process.connect(name="setup") as router:
        router.call("calibrate", {"workloads": [GREEKS]})
    for name in ("free", "rival"):
        with process.connect(name=name, table=False) as router:
            assert "not yet timed as hybrid of" in reason(router.decide(GREEKS, N=ROWS))
            router.call("calibrate", {"workloads": [GREEKS]})
            assert reason(router.decide(GREEKS, N=ROWS)) is None
    yield process
    assert process.stop() == 0
    assert "internal error" not in process.log.read_text()


@pytest.fixture
def client(paced):
    """Makes clients of some name."""
    made = []

    def connect(name, **arguments):
        made.append(paced.connect(name=name, **{"table": False, **arguments}))
        return made[-1]

    yield connect
    for router in made:
        router.close()


def run(router, example, **more):
    return router.run(GREEKS, **example.params, **example.arrays, **more)


class TestChoosing:
    def test_two_that_do_not_disturb_each_other_share_a_large_task(self, client):
        router, example = client("free"), options()
        decision = router.decide(GREEKS, N=ROWS)
        assert (decision.backend, decision.primary_hardware) == ("hybrid", "hybrid")
        assert "hybrid (free.one + free.two)" in decision.reasoning
        alone = {one.backend: one.predicted_seconds for one in decision.fallbacks}
        assert decision.predicted_seconds < 0.8 * alone["free.one"]
        result = run(router, example)
        check(GREEKS, example, result)
        assert result.ran_on.backend == result.planned.backend == "hybrid"
        assert {part.backend for part in result.ran_on.parts} == {"free.one", "free.two"}
        assert sum(part.share for part in result.ran_on.parts) == pytest.approx(1.0)
        assert min(part.share for part in result.ran_on.parts) > 0.25
        assert result.timing.total_seconds < 0.9 * ROWS * PACE
        assert result.fallback_reason is None

    def test_a_small_task_is_not_worth_it(self, client):
        assert client("free").decide(GREEKS, N=100).backend != "hybrid"

    def test_what_models_of_each_alone_promise_is_not_believed(self, client):
        """The rivals cannot compute at the same time, which only timing them together shows."""
        decision = client("rival").decide(GREEKS, N=ROWS)
        assert decision.backend in ("rival.one", "rival.two")
        (together,) = [one for one in decision.fallbacks if one.backend == "hybrid"]
        assert together.members == ("rival.one", "rival.two")
        assert together.predicted_seconds > 1.1 * decision.predicted_seconds

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("free-never", None),
            ("free-silent", None),
            ("free-apart", "denied by constraint not-together"),
            ("free-one", "fewer than two workers may take it"),
            ("free-thrifty", "for the objective latency alone"),
        ],
    )
    def test_policy_keeps_backends_apart(self, client, name, words):
        router, example = client(name), options(2000)
        decision = router.decide(GREEKS, N=ROWS)
        assert decision.backend in ("free.one", "free.two")
        assert "hybrid" not in [one.backend for one in decision.fallbacks]
        found = reason(decision)
        assert found is None if words is None else words in found
        assert run(router, example).ran_on.parts == ()

    def test_what_does_not_split_says_so(self, client):
        decision = client("setup").decide("portfolio.markowitz", N=20)
        assert reason(decision) == "portfolio.markowitz does not split"

    def test_the_table_says_what_the_daemon_says(self, client):
        asking, reading = client("free"), client("free", table=True)
        for rows in (100, 1000, 20_000, ROWS, 300_000):
            reading.decide(GREEKS, N=rows)
            wait_until(lambda rows=rows: reading.decide(GREEKS, N=rows).decision_id.startswith("table:"))
            one, other = asking.decide(GREEKS, N=rows), reading.decide(GREEKS, N=rows)
            assert (one.backend, one.fallbacks, reason(one)) == (other.backend, other.fallbacks, reason(other))

    def test_a_busy_member_is_waited_for_or_passed_over(self, client):
        router, other = client("free"), client("free-one")
        table = client("free", table=True)
        table.decide(GREEKS, N=ROWS)
        wait_until(lambda: table.decide(GREEKS, N=ROWS).decision_id.startswith("table:"))
        running = threading.Thread(target=run, args=(other, options(10 * ROWS)))  # 2 s on free.one
        running.start()
        wait_until(lambda: any(one["queue_seconds"] > 0.5 for one in router.call("status")["workers"]))
        decisions = [router.decide(GREEKS, N=ROWS), table.decide(GREEKS, N=ROWS)]
        running.join()
        assert [decision.backend for decision in decisions] == ["free.two", "free.two"]
        assert not decisions[1].decision_id.startswith("table:")

    def test_reports_show_it(self, client):
        report = client("free").call("backends")
        teams = {tuple(one["members"]): one for one in report["hybrid"] if one["workload"] == GREEKS}
        assert teams["free.one", "free.two"]["state"] == "calibrated"
        assert len(teams["free.one", "free.two"]["points"]) >= 3


class TestSurviving:
    @pytest.mark.parametrize("victim", ["free_one", "free_two"])
    def test_a_worker_killed_in_the_middle_costs_time_and_nothing_else(self, client, victim):
        router, watcher, example = client("free-always"), client("watcher"), options(5 * ROWS)
        ready(watcher)
        results = []
        running = threading.Thread(target=lambda: results.append(run(router, example)))  # half a second
        running.start()
        worker, both = f"cluster/{victim}", ("cluster/free_one", "cluster/free_two")
        wait_until(lambda: all(worker_of(watcher, one)["queue_seconds"] > 0.0 for one in both))  # one may be warming up
        os.kill(worker_of(watcher, worker)["pid"], signal.SIGKILL)
        running.join(timeout=30.0)
        (result,) = results
        check(GREEKS, example, result)
        assert result.ran_on.backend == "hybrid"
        survivor = max(result.ran_on.parts, key=lambda part: part.share)
        assert survivor.backend != victim.replace("_", ".")
        ready(watcher)

    def test_a_deadline_ends_all_parts(self, client):
        router, example = client("free-always"), options(5 * ROWS)
        ready(client("watcher"))
        expected = router.decide(GREEKS, N=5 * ROWS).predicted_seconds
        with pytest.raises((errors.TaskTimeout, errors.DeadlineUnmeetable)):
            run(router, example, deadline_ms=0.3 * expected * 1e3)
        check(GREEKS, options(), run(router, options()))

    def test_bad_content_is_the_clients_own_mistake(self, client):
        router, example = client("free-always"), options()
        example.arrays["volatility"][-1] = np.nan
        with pytest.raises(errors.InvalidArray, match="volatility"):
            run(router, example)

    def test_nothing_is_left_of_tasks_that_have_ended(self, client, paced):
        router, example = client("free-always"), options(ROWS // 5)
        watcher = client("watcher")
        ready(watcher)

        def held():
            pids = [one["pid"] for one in watcher.call("status")["workers"]]
            return sum(sum(paced.segments(pid)[:2]) for pid in (paced.pid, *pids))

        for _ in range(5):
            run(router, example)
        before = held()
        for _ in range(20):
            assert run(router, example).ran_on.backend == "hybrid"
        wait_until(lambda: held() < before + 20)  # either worker keeps a few results to write the next into


def worker_of(router, name):
    return next(one for one in router.call("status")["workers"] if one["name"] == name)


def ready(router):
    """Every backend is up and its breaker closed, so that tasks can be shared."""
    wait_until(lambda: set(router.call("status")["backends"].values()) <= {"ready", "unavailable"})
    with_name = {one["name"]: one for one in router.call("backends")["backends"]}
    for name in ("free.one", "free.two"):
        pair = next(one for one in with_name[name]["workloads"] if one["workload"] == GREEKS)
        assert pair["state"] == "calibrated", pair


def test_what_was_timed_is_known_after_a_restart(paced):
    with paced.connect(name="free", table=False) as router:
        assert router.decide(GREEKS, N=ROWS).backend == "hybrid"
    assert paced.stop() == 0
    paced.start().wait_ready("free.one", "free.two")
    with paced.connect(name="free", table=False) as router:
        wait_until(lambda: reason(router.decide(GREEKS, N=ROWS)) is None)
        assert router.decide(GREEKS, N=ROWS).backend == "hybrid"


@pytest.mark.parametrize("name", SHARED)
def test_torch_and_numpy_together_give_what_the_contract_gives(together, name):
    workload = WORKLOADS[name]
    example = workload.example(workload.work_range[0] * 30.0, np.random.default_rng(5))
    params = dict(example.params)
    if "method" in {one.name for one in workload.parameters}:
        params["method"] = "pseudo_random"
    result = together.run(name, **params, **example.arrays)
    check(name, Example(params, example.arrays), result)
    assert result.decision.rule.startswith("together")
    assert result.ran_on.backend == "hybrid"
    assert sum(part.share for part in result.ran_on.parts) == pytest.approx(1.0)
    assert {part.backend for part in result.ran_on.parts} <= {"cpu.numpy", "cpu.torch", "cpu.torch_bf16"}


@pytest.fixture(scope="module")
def together(module_daemon, daemon, tmp_path_factory):
    """A client of a daemon with NumPy and torch, whose policy shares what can be shared. What each can alone it knows."""
    policy = tmp_path_factory.mktemp("together") / "policy.yaml"
    policy.write_text(TOGETHER)
    process = module_daemon(torch=True, policy_paths=policy)
    hand_down(daemon, process.state)
    with process.start().connect(name="together", table=False) as router:
        router.call("calibrate", {"workloads": SHARED})
        yield router
    assert process.stop() == 0
    assert "internal error" not in process.log.read_text()
