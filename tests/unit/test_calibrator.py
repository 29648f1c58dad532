"""Proof and calibration over stand-in workers: what first, what is kept, and what is given up."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace

import pytest
from msgspec import structs

from routerd.calibrator import Calibrator
from routerd.costs.model import CostModel
from routerd.errors import ExecutionError, OutOfMemory, StateUnwritable, Unavailable, WorkerCrashed
from routerd.worker import messages
from routerd.worker.fleet import Pair
from routerd.worker.queue import FOREGROUND, Answer


class Bench:
    """Answers proofs and timings as it is told, and remembers what was asked."""

    def __init__(self, worker, error=1e-7):
        self.worker = worker
        self.error = error
        self.asked = []
        self.room = math.inf  # the most work whose example the device has memory for
        worker.ask = self.ask

    async def ask(self, make, *, seconds, priority=FOREGROUND, limit=None):
        job, _descriptors = make(1)
        self.asked.append(job)
        assert seconds > 0.0
        assert priority < FOREGROUND
        await asyncio.sleep(0)
        if isinstance(job, messages.Prove):
            if isinstance(self.error, Exception):
                raise self.error
            return Answer(messages.Proved(1, self.error, 0.5), [], 0.0, 0.0)
        if job.work > self.room:
            raise OutOfMemory("no room for this example")
        return Answer(messages.Measured(1, job.work, (1e-9 * job.work, 1.1e-9 * job.work)), [], 0.0, 0.0)

    @property
    def workloads(self):
        return list(dict.fromkeys(job.workload for job in self.asked))


@pytest.fixture
def benches(fleet):
    """Every backend up but unknown, with a bench instead of its worker's ``ask``."""
    for name, backend in fleet.backends.items():
        for pair in backend.pairs.values():
            pair.model = CostModel()
            pair.error = 0.0 if name == "cpu.numpy" else None
    return {name: Bench(backend.worker) for name, backend in fleet.backends.items()}


@pytest.fixture
def calibrate(fleet, store):
    """Runs a calibrator until these workloads are complete; returns how often decisions became stale."""

    def calibrate(*workloads, again=False, then=lambda: None):
        changes = []

        async def main():
            made = Calibrator(fleet, store, run_seconds=0.1, when_idle=False, on_change=changes.append)
            for backend in fleet.backends.values():
                made.restore(backend)
            made.start()
            try:
                async with asyncio.timeout(20.0):
                    await made.complete(workloads, again=again)
                then()
            finally:
                await made.stop()

        asyncio.run(main())
        return len(changes)

    return calibrate


@pytest.fixture(autouse=True)
def no_factories(monkeypatch):
    monkeypatch.setattr("routerd.calibrator.fingerprint", lambda spec, _device, code: f"{spec.name} {code}")


def test_a_pair_is_proved_then_timed_over_its_range(fleet, benches, calibrate):
    assert calibrate("linalg.gemm") > 0
    asked = benches["metal.mlx"].asked
    assert isinstance(asked[0], messages.Prove)
    assert len(asked[0].works) == 3
    works = [job.work for job in asked[1:]]
    assert works == sorted(works)
    assert works[0] == fleet.workloads["linalg.gemm"].work_range[0]
    assert 1e-9 * works[-1] <= 0.1  # what would take longer than a run may is left to extrapolation
    pair = fleet.backends["metal.mlx"].pairs["linalg.gemm"]
    assert pair.error == 1e-7
    assert pair.model.calibrated
    assert pair.model.predict(1e7).seconds == pytest.approx(1.05e-2, rel=0.1)


def test_a_pair_is_timed_as_far_as_its_device_has_memory(fleet, benches, calibrate):
    benches["metal.mlx"].room = 1e6
    calibrate("linalg.gemm")
    pair = fleet.backends["metal.mlx"].pairs["linalg.gemm"]
    assert pair.quarantine is None
    assert pair.model.calibrated


def test_a_device_without_memory_for_the_smallest_example_is_of_no_use(fleet, benches, calibrate):
    benches["metal.mlx"].room = 0.0
    calibrate("linalg.gemm")
    assert "no room" in fleet.backends["metal.mlx"].pairs["linalg.gemm"].quarantine


def test_the_contract_is_timed_not_proved(benches, calibrate):
    calibrate("linalg.gemm")
    assert {type(job) for job in benches["cpu.numpy"].asked} == {messages.Measure}


def test_without_idle_calibration_only_what_is_wanted_is_done(benches, calibrate):
    calibrate("linalg.gemm", "ml.mlp_inference")
    for bench in benches.values():
        assert set(bench.workloads) == {"linalg.gemm", "ml.mlp_inference"}


def test_in_idle_time_wanted_pairs_overtake_the_rest(fleet, benches, store):
    """Not only at the start: a workload that somebody asks for meanwhile is next."""

    async def main():
        made = Calibrator(fleet, store, run_seconds=0.1, when_idle=True, on_change=lambda _workload: None)
        fleet.wanted.add("risk.var_historical")
        made.start()
        order = benches["metal.mlx"]
        async with asyncio.timeout(20.0):
            while len(order.workloads) < 2:
                await asyncio.sleep(0)
            last = sorted(fleet.workloads)[-1] if order.workloads[1] != sorted(fleet.workloads)[-1] else "linalg.gemm"
            fleet.wanted.add(last)
            while last not in order.workloads:
                await asyncio.sleep(0)
        await made.stop()
        return order.workloads, last

    workloads, last = asyncio.run(main())
    assert workloads[0] == "risk.var_historical"
    assert workloads.index(last) <= 3


@pytest.mark.parametrize("error", [1.01e-3, 0.0501, 1.0, float("inf"), float("nan")])
def test_a_backend_that_lies_is_quarantined_and_not_timed(fleet, benches, calibrate, error):
    benches["metal.mlx"].error = error
    calibrate("linalg.gemm")
    pair = fleet.backends["metal.mlx"].pairs["linalg.gemm"]
    assert pair.objection().startswith("quarantined: relative error ")
    assert not pair.model.calibrated
    assert len(benches["metal.mlx"].asked) == 1
    assert fleet.backends["ane.coreml"].pairs["linalg.gemm"].objection() is None


@pytest.mark.parametrize(
    ("precision", "error", "quarantined"),
    [("float64", 2e-6, True), ("float32", 9e-4, False), ("bfloat16", 0.04, False), ("int4", 0.06, True)],
)
def test_how_wrong_a_pair_may_be_depends_on_its_precision(fleet, benches, calibrate, precision, error, quarantined):
    backend = fleet.backends["metal.mlx"]
    backend.spec = replace(backend.spec, precision=precision)
    benches["metal.mlx"].error = error
    calibrate("linalg.gemm")
    assert (backend.pairs["linalg.gemm"].quarantine is not None) is quarantined


@pytest.mark.parametrize(
    "problem", [ExecutionError("it raised"), Unavailable("no such model"), ZeroDivisionError("defect")]
)
def test_a_backend_that_fails_is_quarantined_and_the_rest_goes_on(fleet, benches, calibrate, problem):
    benches["metal.mlx"].error = problem
    calibrate("linalg.gemm", "ml.mlp_inference")
    for workload in ("linalg.gemm", "ml.mlp_inference"):
        assert str(problem) in fleet.backends["metal.mlx"].pairs[workload].objection()
        assert fleet.backends["ane.coreml"].pairs[workload].model.calibrated


def test_three_crashes_are_the_pairs_own_fault(fleet, benches, calibrate):
    benches["metal.mlx"].error = WorkerCrashed("worker metal_gpu/main was ended by SIGSEGV")
    calibrate("linalg.gemm")
    pair = fleet.backends["metal.mlx"].pairs["linalg.gemm"]
    assert "ended by SIGSEGV while this was tried, 3 times" in pair.objection()
    assert len(benches["metal.mlx"].asked) == 3


def test_the_contract_is_never_lost(fleet, benches, calibrate):
    async def fail(_make, **_options):
        await asyncio.sleep(0)
        raise ExecutionError("the machine is out of memory")

    benches["cpu.numpy"].worker.ask = fail
    calibrate("linalg.gemm")
    assert fleet.backends["cpu.numpy"].pairs["linalg.gemm"].objection() is None


def test_a_busy_device_is_waited_for(fleet, benches, store):
    async def main():
        fleet.wanted.add("linalg.gemm")
        made = Calibrator(fleet, store, run_seconds=0.1, when_idle=False, on_change=lambda _workload: None)
        benches["metal.mlx"].worker.idle = False
        made.start()
        async with asyncio.timeout(20.0):
            while not benches["cpu.numpy"].asked:
                await asyncio.sleep(0)
            for _ in range(1000):
                await asyncio.sleep(0)
            asked_while_busy = list(benches["metal.mlx"].asked)
            benches["metal.mlx"].worker.idle = True
            while not fleet.backends["metal.mlx"].pairs["linalg.gemm"].model.calibrated:
                await asyncio.sleep(0)
        await made.stop()
        return asked_while_busy

    assert asyncio.run(main()) == []


class TestKeeping:
    def forget(self, fleet):
        for name, backend in fleet.backends.items():
            for workload, pair in list(backend.pairs.items()):
                fresh = backend.pairs[workload] = Pair(workload, pair.unsupported)
                fresh.error = 0.0 if name == "cpu.numpy" else None

    def test_what_was_learnt_comes_back(self, fleet, benches, calibrate):
        benches["ane.coreml"].error = 0.2
        calibrate("linalg.gemm")
        before = fleet.backends["metal.mlx"].pairs["linalg.gemm"].model.predict(1e6)
        self.forget(fleet)
        for bench in benches.values():
            bench.asked.clear()
        calibrate("linalg.gemm")
        assert (benches["cpu.numpy"].asked, benches["ane.coreml"].asked) == ([], [])
        (warming,) = benches["metal.mlx"].asked  # its worker is another one than that which proved it
        assert (type(warming), warming.work) == (messages.Measure, 1e4)
        assert fleet.backends["metal.mlx"].pairs["linalg.gemm"].model.predict(1e6) == before
        assert "relative error 0.2" in fleet.backends["ane.coreml"].pairs["linalg.gemm"].objection()

    def test_corrections_are_kept_at_the_end(self, fleet, benches, calibrate):
        def observe():
            for _ in range(31):
                fleet.backends["metal.mlx"].pairs["linalg.gemm"].model.observe(1e6, 5.0 * 1.05e-3)

        calibrate("linalg.gemm", then=observe)
        learnt = fleet.backends["metal.mlx"].pairs["linalg.gemm"].model.predict(1e6).seconds
        assert learnt > 4e-3
        self.forget(fleet)
        calibrate("linalg.gemm")
        assert fleet.backends["metal.mlx"].pairs["linalg.gemm"].model.predict(1e6).seconds == pytest.approx(learnt)

    def test_again_measures_anew(self, benches, calibrate):
        calibrate("linalg.gemm")
        count = len(benches["metal.mlx"].asked)
        calibrate("linalg.gemm", again=True)
        assert len(benches["metal.mlx"].asked) == 2 * count

    def test_a_kept_value_that_cannot_be_read_is_measured_again(self, fleet, benches, calibrate, store):
        calibrate("linalg.gemm")
        self.forget(fleet)
        store._database.run(lambda db: db.execute("UPDATE calibrations SET payload = x'c1'"))
        for bench in benches.values():
            bench.asked.clear()
        calibrate("linalg.gemm")
        assert fleet.backends["metal.mlx"].pairs["linalg.gemm"].model.calibrated
        assert benches["metal.mlx"].asked

    def test_a_disk_that_is_full_does_not_stop_it(self, fleet, benches, calibrate, store, monkeypatch):
        def full(*_arguments):
            raise StateUnwritable("no space left on device")

        monkeypatch.setattr(store, "save_calibration", full)
        calibrate("linalg.gemm")
        assert fleet.backends["metal.mlx"].pairs["linalg.gemm"].model.calibrated


class TestModels:
    """Pairs that come and go while the calibrator works."""

    def disturbed(self, bench, disturb, error):
        async def ask(_make, **_options):
            await asyncio.sleep(0)
            disturb()
            raise error

        bench.worker.ask = ask

    def test_one_that_its_new_worker_does_not_hold_yet_is_not_quarantined(self, fleet, benches, calibrate):
        pair = fleet.backends["metal.mlx"].pairs["linalg.gemm"]

        def restart():
            pair.absent = "its worker is loading the model again"

        self.disturbed(benches["metal.mlx"], restart, Unavailable("this worker does not hold it yet"))
        calibrate("linalg.gemm")
        assert (pair.error, pair.quarantine) == (None, None)

    def test_what_went_wrong_because_it_was_removed_is_not_kept(self, fleet, benches, calibrate, store, monkeypatch):
        kept = []
        monkeypatch.setattr(store, "save_calibration", lambda _key, backend, _name, _known: kept.append(backend))

        def remove():
            fleet.backends["metal.mlx"].pairs.pop("linalg.gemm", None)

        self.disturbed(benches["metal.mlx"], remove, ExecutionError("gone"))
        calibrate("linalg.gemm")
        assert set(kept) == {"cpu.numpy", "ane.coreml"}


def test_waiting_for_a_workload_includes_backends_that_are_starting(fleet, benches, store):
    async def main():
        backend = fleet.backends["metal.mlx"]
        backend.state = "starting"
        made = Calibrator(fleet, store, run_seconds=0.1, when_idle=False, on_change=lambda _workload: None)
        made.start()
        waiting = asyncio.create_task(made.complete(["linalg.gemm"], again=False))
        async with asyncio.timeout(20.0):
            while made.pending(["linalg.gemm"]) or not benches["cpu.numpy"].asked:
                await asyncio.sleep(0)
        assert not waiting.done()
        backend.state = "ready"
        made.nudge()
        async with asyncio.timeout(20.0):
            await waiting
        assert backend.pairs["linalg.gemm"].model.calibrated
        await made.stop()

    asyncio.run(main())


class TestKeepingUp:
    """Pairs that are known, and become cold or differ from what is known of them."""

    GEMM = "linalg.gemm"

    @pytest.fixture
    def pair(self, fleet):
        return fleet.backends["metal.mlx"].pairs[self.GEMM]

    def drift(self, pair, factor=3.0):
        for _ in range(31):
            pair.model.observe(1e6, factor * pair.model.calibrated_seconds(1e6))
        assert pair.model.drifted

    def test_a_pair_is_warm_once_it_was_proved(self, fleet, benches, calibrate, pair):
        calibrate(self.GEMM)
        assert pair.model.cold_seconds == 0.5
        assert fleet.backends["metal.mlx"].cold_seconds(pair) == 0.0

    def test_after_a_start_of_its_worker_it_is_warmed_before_anybody_waits_for_it(
        self, fleet, benches, calibrate, pair
    ):
        calibrate(self.GEMM)
        backend, points = fleet.backends["metal.mlx"], pair.model.points
        backend.worker.incarnation += 1
        assert backend.cold_seconds(pair) == 0.5
        for bench in benches.values():
            bench.asked.clear()
        assert calibrate(self.GEMM) > 0
        assert [type(job) for job in benches["metal.mlx"].asked] == [messages.Measure]
        assert benches["metal.mlx"].asked[0].work == fleet.workloads[self.GEMM].work_range[0]
        assert benches["cpu.numpy"].asked == []
        assert backend.cold_seconds(pair) == 0.0
        assert pair.model.points == points

    def test_a_pair_that_drifted_is_timed_again(self, benches, calibrate, pair):
        calibrate(self.GEMM)
        pair.model.calibrate([structs.replace(one, seconds=one.seconds / 5.0) for one in pair.model.points])
        self.drift(pair, 5.0)
        benches["metal.mlx"].asked.clear()
        calibrate(self.GEMM)
        assert {type(job) for job in benches["metal.mlx"].asked} == {messages.Measure}
        assert not pair.model.drifted
        assert pair.model.predict(1e7).seconds == pytest.approx(1.05e-2, rel=0.1)

    def test_one_whose_tasks_differ_from_its_examples_is_timed_less_and_less_often(
        self, fleet, benches, store, calibrate, pair, monkeypatch
    ):
        monkeypatch.setattr("routerd.calibrator._DRIFT_RETRY_SECONDS", (1000.0, 3000.0))
        calibrate(self.GEMM)
        self.drift(pair)
        key, waits = ("metal.mlx", self.GEMM), []

        async def main():
            made = Calibrator(fleet, store, run_seconds=0.1, when_idle=False, on_change=lambda _workload: None)
            made.start()
            for _ in range(4):
                benches["metal.mlx"].asked.clear()
                async with asyncio.timeout(20.0):
                    await made.complete([self.GEMM], again=False)
                assert benches["metal.mlx"].asked
                assert made.pending([self.GEMM]) == []
                waits.append(made._retry_at[key] - asyncio.get_running_loop().time())
                made._retry_at.clear()
            await made.stop()

        asyncio.run(main())
        assert waits == pytest.approx([1000.0, 2000.0, 3000.0, 3000.0], abs=20.0)
        assert pair.model.drifted  # and what its tasks taught is kept
        assert pair.model.predict(1e6).seconds == pytest.approx(3.0 * pair.model.calibrated_seconds(1e6), rel=0.1)

    def test_times_that_no_clock_can_have_meant_quarantine_the_pair_and_leave_its_model(self, benches, calibrate, pair):
        bench = benches["metal.mlx"]
        proof = bench.worker.ask

        async def broken_clock(make, **options):
            answer = await proof(make, **options)
            if isinstance(answer.outcome, messages.Measured):
                return answer._replace(outcome=messages.Measured(1, answer.outcome.work, (1.0, -1.0)))
            return answer

        bench.worker.ask = broken_clock
        calibrate(self.GEMM)
        assert "no clock measures that" in pair.objection()
        assert pair.model.points == ()
