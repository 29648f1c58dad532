"""Routing that learns: a backend that gets slower loses its tasks, one that recovers gets them back, a spike changes nothing."""

from __future__ import annotations

import contextlib
import json
from itertools import count

import numpy as np
import pytest

from routerd import errors
from tests.end_to_end.conftest import install_plugin, wait_until

WORKLOAD = "risk.greeks_batch"
OPTIONS = {name: np.full(100, 0.5) for name in ("spot", "strike", "volatility", "maturity", "rate")}

#: Two backends that do what NumPy does, each at the pace that its file says.
PLUGIN = '''
import time
from pathlib import Path
from routerd.hookspecs import hookimpl
from routerd.interfaces import BackendSpec
from routerd.testing import NullBackend

class Paced(NullBackend):
    """Takes as many seconds as its file says. A file of the same name with ``.once`` holds for one execution."""

    def __init__(self, device_kind, pace):
        super().__init__(device_kind)
        self._pace = Path(pace)

    def execute(self, workload, params, inputs, into):
        started = time.perf_counter()
        execution = super().execute(workload, params, inputs, into)
        once = self._pace.with_suffix(".once")
        seconds = float((once if once.exists() else self._pace).read_text())
        once.unlink(missing_ok=True)
        time.sleep(max(started + seconds - time.perf_counter(), 0.0))
        return execution._replace(kernel_seconds=time.perf_counter() - started)

@hookimpl
def routerd_backends(settings):
    return [
        BackendSpec(name=f"paced.{name}", device_kind=kind, precision="float64", factory="paced_backends:Paced",
                    group="paced", options={"device_kind": kind, "pace": f"DIRECTORY/{name}"})
        for name, kind in (("one", "hybrid"), ("two", "cluster"))
    ]
'''
POLICY = """
apiVersion: routerd/v1
kind: Policy
metadata: {{name: paced}}
constraints: [{{id: paced-alone, allow: [hybrid, cluster]}}]
exploration: {{budget: {budget}}}
"""


class Bench:
    """A daemon with ``paced.one`` and ``paced.two``, and a client that sends it the same task again and again."""

    def __init__(self, make, directory, one, two):
        self.directory = directory
        install_plugin(directory, "paced", PLUGIN.replace("DIRECTORY", str(directory)))
        self.set_pace(one=one, two=two)
        self.process = make(
            environment={"PYTHONPATH": str(directory)},
            policy_paths=self.policy("1%"),
            calibration_run_seconds=0.02,
            log_format="json",
        )

    def start(self):
        self.spent = 0.0  # seconds that trying has taken
        self.process.start()
        self.router = self.process.connect(name="bench", table=False)
        return self

    def policy(self, budget):
        path = self.directory / "policy.yaml"
        path.write_text(POLICY.format(budget=budget))
        return path

    def set_pace(self, **seconds):
        for name, value in seconds.items():
            fresh = self.directory / f"{name}.new"
            fresh.write_text(str(value))
            fresh.rename(self.directory / name)

    def spike(self, name, seconds):
        (self.directory / f"{name}.once").write_text(str(seconds))

    def run(self, **options):
        result = self.router.run(WORKLOAD, **OPTIONS, **options)
        if tried(result):
            self.spent += result.timing.total_seconds
        return result

    def decide(self, **options):
        return self.router.decide(WORKLOAD, N=100, **options)

    def runs(self, number):
        return [self.run() for _ in range(number)]

    def runs_until_on(self, backend, most):
        """How many tasks it takes until a backend is chosen, not tried: no more than ``most``."""
        for number in range(most + 1):
            if self.decide().backend == backend:
                return number
            self.run()
        raise AssertionError(f"{backend} is not chosen after {most} tasks: {self.decide().reasoning}")

    def settle(self):
        """Wait until nothing is to be timed: from now on only its tasks can tell that a backend's pace has changed."""
        wait_until(lambda: not self.router.call("calibrate.pending", {"workloads": [WORKLOAD]})["pairs"])

    def seconds(self, backend):
        """What a backend is predicted to take in all, whether or not it is the choice."""
        decision = self.decide()
        known = {one.backend: one.predicted_seconds for one in decision.fallbacks}
        return {**known, decision.backend: decision.predicted_seconds}[backend]

    def timed(self, backend):
        """What calibration found for the smallest size, in seconds."""
        (workload,) = self.router.call("workloads", {"name": WORKLOAD})
        return workload["backends"][backend]["points"][0]["seconds"]


@pytest.fixture
def bench(private_daemon, tmp_path):
    """Makes benches with both backends proved and timed at their first pace."""
    made = []

    def make(one=0.002, two=0.004):
        made.append(Bench(private_daemon, tmp_path, one, two).start())
        made[-1].router.call("calibrate", {"workloads": [WORKLOAD]})
        return made[-1]

    yield make
    for one in made:
        one.router.close()


def tried(result):
    """Whether a task was sent elsewhere to see whether it has become faster."""
    return "(exploration)" in result.decision.reasoning


def where(results):
    """The backends that took the tasks for being the best, not to try them nor because another one was being timed."""
    return {
        result.ran_on.backend
        for result in results
        if not tried(result) and not any(other.queue_seconds for other in result.decision.fallbacks)
    }


def test_a_slower_backend_loses_its_tasks_and_gets_them_back_when_it_recovers(bench):
    paced = bench(one=0.01, two=0.018)
    assert where(paced.runs(20)) == {"paced.one"}
    paced.set_pace(one=0.03)
    paced.runs_until_on("paced.two", 30)
    with paced.process.connect(name="bench") as reader:  # the table follows
        wait_until(lambda: reader.decide(WORKLOAD, N=100).backend == "paced.two", 5.0)
        assert reader.decide(WORKLOAD, N=100).decision_id.startswith("table:")
    paced.settle()
    assert sum(result.ran_on.backend == "paced.two" for result in paced.runs(10)) >= 8

    paced.set_pace(one=0.01)
    explored = paced.router.call("stats")["explored"]
    gap = paced.seconds("paced.one") - paced.seconds("paced.two")
    for number in count(1):
        paced.run()
        if paced.decide().backend == "paced.one":
            break
        # A look is due twenty tasks after the last one, and affordable once 1 % of the time has paid for it and for those
        # before. Until the model believes what it sees, it looks at every task: 31 executions are all that it remembers.
        assert number < 20 + (gap + paced.spent) / (0.01 * 0.018) + 31, paced.decide().reasoning
    assert paced.router.call("stats")["explored"] > explored


def test_without_a_budget_nothing_is_tried(bench):
    paced = bench(one=0.01, two=0.018)
    paced.router.call("policy.apply", {"paths": [str(paced.policy("0%"))]})
    paced.runs(20)
    paced.set_pace(one=0.03)
    paced.runs_until_on("paced.two", 30)
    paced.settle()
    paced.set_pace(one=0.01)
    results = paced.runs(100)
    assert where(results) == {"paced.two"}
    assert not any(tried(result) for result in results)
    assert paced.router.call("stats")["explored"] == 0
    assert paced.seconds("paced.one") > 0.02  # nobody has looked

    paced.router.call("policy.apply", {"paths": [str(paced.policy("20%"))]})
    paced.runs_until_on("paced.one", 100)


def test_one_spike_changes_nothing(bench):
    paced = bench(one=0.004, two=0.016)
    paced.runs(20)
    before = paced.seconds("paced.one")
    paced.spike("one", 2.0)
    assert max(result.timing.kernel_seconds for result in paced.runs(2)) >= 2.0
    assert paced.decide().backend == "paced.one"
    assert paced.seconds("paced.one") == pytest.approx(before, rel=0.1)
    assert where(paced.runs(20)) == {"paced.one"}


def test_what_has_drifted_is_timed_again(bench, until):
    paced = bench(one=0.006, two=0.05)
    assert paced.timed("paced.one") < 0.016
    paced.set_pace(one=0.018)
    for _ in range(60):  # it stays the faster one, and so goes on being seen
        paced.run()
        if timed_again(paced, "paced.one"):
            break
    until(lambda: paced.timed("paced.one") >= 0.018)
    assert paced.decide().backend == "paced.one"
    assert not timed_again(paced, "paced.two")


def timed_again(paced, backend):
    lines = [json.loads(line) for line in paced.process.log.read_text().splitlines()]
    return any(line["event"].startswith("timing again") and line["backend"] == backend for line in lines)


def test_what_was_learnt_outlives_a_restart(bench, until):
    paced = bench(one=0.03, two=0.0355)
    paced.runs(5)
    paced.set_pace(one=0.042)  # too little to be timed again
    paced.runs_until_on("paced.two", 40)
    learnt = paced.seconds("paced.one")
    assert paced.process.stop() == 0
    paced.router.close()
    paced.set_pace(one=0.03)  # so who timed it afresh would choose it
    paced.start()
    paced.process.wait_ready("paced.one", "paced.two")
    until(lambda: paced.decide().backend == "paced.two" and paced.seconds("paced.one") < 1.05 * learnt)  # both are warm
    assert paced.seconds("paced.one") > 0.95 * learnt


class TestDeadlines:
    def test_a_decision_says_how_likely_it_is_in_time(self, bench):
        paced = bench(one=0.006, two=0.024)
        assert paced.decide().in_time is None
        easy, hopeless = paced.decide(deadline_ms=1000), paced.decide(deadline_ms=1)
        assert easy.backend == "paced.one"
        assert easy.in_time > 0.99
        assert hopeless.in_time < 0.05
        assert hopeless.in_time < paced.decide(deadline_ms=8).in_time < easy.in_time
        assert paced.run(deadline_ms=1000).decision.in_time > 0.99
        with pytest.raises(errors.DeadlineUnmeetable, match=r"is predicted to take .* ms on paced\."):
            paced.run(deadline_ms=1)

    def test_a_task_with_a_tight_one_is_never_tried_elsewhere(self, bench):
        paced = bench(one=0.006, two=0.024)
        paced.router.call("policy.apply", {"paths": [str(paced.policy("20%"))]})

        def explored(deadline_ms, most):
            before = paced.router.call("stats")["explored"]
            for _ in range(most):
                with contextlib.suppress(
                    errors.TaskTimeout, errors.DeadlineUnmeetable
                ):  # on a busy machine even the faster one may be late
                    paced.run(deadline_ms=deadline_ms)
                if paced.router.call("stats")["explored"] > before:
                    return True
            return False

        assert explored(1000.0, 100)
        assert not explored(22.0, 100)
        assert explored(1000.0, 100)
