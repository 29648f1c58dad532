"""Timing on request: what is asked of the worker, when, and what is refused."""

from __future__ import annotations

import asyncio
import math

import pytest

from routerd.errors import InvalidParameter, Unavailable, UnknownBackend, UnknownWorkload, WorkerCrashed
from routerd.measurement import Measurement
from routerd.protocol import MeasureTask
from routerd.worker import messages
from routerd.worker.queue import FOREGROUND, Answer


class Timing:
    """A worker that answers every measurement alike, or fails it."""

    def __init__(self, specs, failure=None):
        self.specs, self.failure = specs, failure
        self.incarnation, self.up, self.idle = 1, True, True
        self.asked = []

    async def ask(self, make, *, seconds, priority):
        job, descriptors = make(7)
        self.asked.append((job, tuple(descriptors), seconds, priority))
        if self.failure is not None:
            raise self.failure
        return Answer(messages.Measured(job.id, job.work + 1.0, (1e-3, 2e-3)), [], 0.0, 1e-2)


@pytest.fixture
def bench(make_router, fleet):
    """A measurement over the stand-in fleet, and the worker of ``metal.mlx``."""
    backend = fleet.backends["metal.mlx"]
    worker = Timing((backend.spec,))
    fleet.workers[fleet.workers.index(backend.worker)] = worker
    backend.worker = worker
    return Measurement(make_router(), fleet), worker


def ask(work=1e6, backend="metal.mlx", workload="linalg.gemm", **more):
    return MeasureTask(workload, work, backend, **more)


def test_the_worker_is_asked_ahead_of_calibration(bench, session):
    measurement, worker = bench
    answer = asyncio.run(measurement.measure(session, ask(seed=5, budget_seconds=0.2)))
    assert answer == {"work": 1e6 + 1.0, "seconds": (1e-3, 2e-3)}
    ((job, descriptors, seconds, priority),) = worker.asked
    assert job == messages.Measure(7, "metal.mlx", "linalg.gemm", 1e6, 0.2, 5)
    assert (descriptors, priority) == ((), FOREGROUND)
    assert 0.0 < seconds <= 0.2


def test_it_waits_for_the_device_to_be_idle(bench, fleet, session):
    measurement, worker = bench
    worker.idle = False

    async def busy_for_a_while():
        running = asyncio.create_task(measurement.measure(session, ask()))
        await asyncio.sleep(0.02)
        before = list(worker.asked)
        worker.idle = True
        await running
        return before

    assert asyncio.run(busy_for_a_while()) == []
    assert len(worker.asked) == 1


def test_a_busy_worker_of_another_device_does_not_matter(bench, fleet, session):
    measurement, worker = bench
    fleet.backends["cpu.numpy"].worker.idle = False
    asyncio.run(measurement.measure(session, ask()))
    assert len(worker.asked) == 1


def test_models_learn_nothing_from_it(bench, fleet, session):
    measurement, _worker = bench
    pair = fleet.backends["metal.mlx"].pairs["linalg.gemm"]
    before = pair.model.predict(1e6)
    for _ in range(40):
        asyncio.run(measurement.measure(session, ask()))
    assert pair.model.predict(1e6) == before
    assert pair.used == 0


def test_a_pair_that_has_run_is_warm(bench, fleet, session):
    measurement, _worker = bench
    backend = fleet.backends["metal.mlx"]
    pair = backend.pairs["linalg.gemm"]
    pair.warm_in, pair.model.cold_seconds = 0, 0.5
    assert backend.cold_seconds(pair) == 0.5
    asyncio.run(measurement.measure(session, ask()))
    assert backend.cold_seconds(pair) == 0.0


@pytest.mark.parametrize(
    ("question", "error", "words"),
    [
        (ask(workload="linalg.gem"), UnknownWorkload, "did you mean linalg.gemm"),
        (ask(backend="metal.mlxx"), UnknownBackend, "did you mean metal.mlx"),
        (ask(work=0.0), InvalidParameter, "linalg.gemm has examples from 10000 to"),
        (ask(work=-1.0), InvalidParameter, "work -1"),
        (ask(work=1e30), InvalidParameter, r"work 1e\+30"),
        (ask(work=math.nan), InvalidParameter, "work nan"),
        (ask(budget_seconds=0.0), InvalidParameter, "budget_seconds 0"),
        (ask(budget_seconds=-0.1), InvalidParameter, "budget_seconds -0.1"),
        (ask(budget_seconds=math.inf), InvalidParameter, "at most 60 seconds"),
        (ask(budget_seconds=math.nan), InvalidParameter, "budget_seconds nan"),
        (ask(seed=-1), InvalidParameter, "seed -1"),
        (ask(seed=2**63), InvalidParameter, "seed 9223372036854775808"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_runs(bench, session, question, error, words):
    measurement, worker = bench
    with pytest.raises(error, match=words):
        asyncio.run(measurement.measure(session, question))
    assert worker.asked == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"unsupported": "needs float64"}, "metal.mlx cannot be timed on linalg.gemm: needs float64"),
        ({"quarantine": "it lies"}, "quarantined: it lies"),
        ({"error": None}, "not yet proved on this machine"),
        ({"absent": "its worker is loading the model again"}, "loading the model again"),
    ],
)
def test_a_pair_that_gets_no_work_says_why(bench, fleet, session, change, reason):
    measurement, worker = bench
    for name, value in change.items():
        setattr(fleet.backends["metal.mlx"].pairs["linalg.gemm"], name, value)
    with pytest.raises(Unavailable, match=reason):
        asyncio.run(measurement.measure(session, ask()))
    assert worker.asked == []


def test_a_backend_that_is_down_says_why(bench, fleet, session):
    measurement, _worker = bench
    fleet.backends["metal.mlx"].state, fleet.backends["metal.mlx"].reason = "down", "it is being restarted"
    with pytest.raises(Unavailable, match="down: it is being restarted"):
        asyncio.run(measurement.measure(session, ask()))


def test_what_the_worker_reports_reaches_the_client(bench, fleet, session):
    measurement, worker = bench
    worker.failure = WorkerCrashed("worker metal_gpu/main was ended by SIGSEGV")
    with pytest.raises(WorkerCrashed, match="SIGSEGV"):
        asyncio.run(measurement.measure(session, ask()))
