"""A supervised process: in order, in time, and replaced when it ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal

import pytest

from routerd.errors import TaskTimeout, Unavailable, WorkerCrashed
from routerd.interfaces import BackendSpec
from routerd.testing import null_backend_spec
from routerd.worker import messages, supervisor
from routerd.worker.supervisor import BACKGROUND, FOREGROUND, Worker, WorkerSettings

SETTINGS = WorkerSettings(threads=1, inline_bytes=8192, task_timeout_seconds=30.0, start_seconds=30.0)


class Watched:
    """A worker and what it reported."""

    def __init__(self, specs: list[BackendSpec], settings: WorkerSettings = SETTINGS) -> None:
        self.loaded: list[tuple[str, messages.Loaded | messages.Failed]] = []
        self.ended: list[str] = []
        self.busy: list[bool] = []
        self._news = asyncio.Event()
        self.worker = Worker("cpu/test", specs, settings, self._loaded, self._down, self.busy.append)

    def _loaded(self, spec, outcome):
        self.loaded.append((spec.name, outcome))
        self._news.set()

    def _down(self, _worker, reason):
        self.ended.append(reason)
        self._news.set()

    async def until(self, condition):
        async with asyncio.timeout(20.0):
            while not condition():
                self._news.clear()
                await self._news.wait()


@contextlib.asynccontextmanager
async def running(*specs, settings=SETTINGS):
    watched = Watched(list(specs) or [null_backend_spec("null.one")], settings)
    watched.worker.start()
    try:
        await watched.until(lambda: len(watched.loaded) == len(watched.worker.specs))
        yield watched
    finally:
        await watched.worker.stop(2.0)


def measure(backend="null.one", work=1e4):
    return lambda number: (messages.Measure(number, backend, "linalg.gemm", work, 0.001), ())


def test_a_life_from_start_to_stop():
    async def main():
        async with running() as watched:
            assert watched.worker.up
            assert watched.worker.pid not in (None, os.getpid())
            answer = await watched.worker.ask(measure(), seconds=0.01)
            assert isinstance(answer.outcome, messages.Measured)
            assert 0.0 <= answer.queue_seconds <= answer.total_seconds
            assert (watched.worker.idle, watched.worker.waiting, watched.worker.queue_seconds()) == (True, 0, 0.0)
        assert not watched.worker.up
        assert watched.ended == []
        with pytest.raises(Unavailable, match="worker cpu/test is down"):
            await watched.worker.ask(measure(), seconds=0.01)

    asyncio.run(main())


def test_when_it_gets_work_and_when_it_is_idle_again_is_told():
    async def main():
        async with running() as watched:
            assert watched.busy == [True, False]  # it has loaded its backend
            asked = [asyncio.create_task(watched.worker.ask(measure(), seconds=0.01)) for _ in range(5)]
            await asyncio.sleep(0)
            assert watched.busy == [True, False, True]
            await asyncio.gather(*asked)
            assert watched.busy == [True, False, True, False]
            waiting = asyncio.create_task(watched.worker.ask(measure(), seconds=0.01))
            await asyncio.sleep(0)
            os.kill(watched.worker.pid, signal.SIGKILL)
            with pytest.raises(WorkerCrashed):
                await waiting
            assert watched.busy == [True, False, True, False, True, False]

    asyncio.run(main())


def test_what_fails_to_load_is_reported_beside_what_loads():
    async def main():
        specs = [null_backend_spec("null.absent", fail="unavailable"), null_backend_spec("null.one")]
        async with running(*specs) as watched:
            outcomes = dict(watched.loaded)
            assert outcomes["null.absent"].error.code == "unavailable"
            assert isinstance(outcomes["null.one"], messages.Loaded)

    asyncio.run(main())


def test_tasks_overtake_calibration_and_each_other_by_priority():
    async def main():
        async with running() as watched:
            order: list[str] = []

            async def ask(label, priority):
                await watched.worker.ask(measure(), seconds=0.01, priority=priority)
                order.append(label)

            asked = [("b1", BACKGROUND), ("b2", BACKGROUND), ("b3", BACKGROUND), ("low", FOREGROUND + 5), ("usual", FOREGROUND),
                     ("high", FOREGROUND - 5)]  # fmt: skip
            tasks = [asyncio.create_task(ask(*one)) for one in asked]
            await asyncio.sleep(0)
            assert watched.worker.queue_seconds() > 0.0
            await asyncio.gather(*tasks)
            assert order == ["b1", "b2", "high", "usual", "low", "b3"]  # the first two were already handed over
            assert watched.worker.queue_seconds() == 0.0

    asyncio.run(main())


def test_a_cancelled_job_costs_nothing_and_the_backlog_is_right():
    async def main():
        async with running() as watched:
            tasks = [asyncio.create_task(watched.worker.ask(measure(), seconds=1.0)) for _ in range(6)]
            await asyncio.sleep(0)
            for task in tasks[2:5]:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            assert watched.worker.idle
            assert watched.worker._backlog_seconds == pytest.approx(0.0)

    asyncio.run(main())


def test_a_killed_process_fails_its_jobs_and_is_replaced():
    async def main():
        async with running() as watched:
            first, incarnation = watched.worker.pid, watched.worker.incarnation
            watched.worker.known_segments.add(7)
            os.kill(first, signal.SIGSTOP)
            asked = [asyncio.create_task(watched.worker.ask(measure(), seconds=1.0)) for _ in range(4)]
            await asyncio.sleep(0)
            os.kill(first, signal.SIGKILL)
            failures = await asyncio.gather(*asked, return_exceptions=True)
            assert {type(failure) for failure in failures} == {WorkerCrashed}
            assert str(failures[0]) == "worker cpu/test was ended by SIGKILL"
            assert watched.ended == ["worker cpu/test was ended by SIGKILL"]
            await watched.until(lambda: len(watched.loaded) == 2)
            assert watched.worker.restarts == 1
            assert watched.worker.pid != first
            assert watched.worker.incarnation > incarnation
            assert watched.worker.known_segments == set()
            assert isinstance((await watched.worker.ask(measure(), seconds=0.01)).outcome, messages.Measured)

    asyncio.run(main())


def test_an_exit_is_told_with_its_status():
    async def main():
        async with running(null_backend_spec("null.exit", fail="exit")) as watched:
            with pytest.raises(WorkerCrashed, match="worker cpu/test exited with status 70"):
                await watched.worker.ask(measure("null.exit"), seconds=0.01)

    asyncio.run(main())


def test_a_hanging_job_times_out_and_its_process_is_killed(monkeypatch):
    monkeypatch.setattr(supervisor, "_WATCH_SECONDS", 0.05)

    async def main():
        settings = SETTINGS._replace(task_timeout_seconds=0.3)
        async with running(null_backend_spec("null.hang", fail="hang"), settings=settings) as watched:
            hung = asyncio.create_task(watched.worker.ask(measure("null.hang"), seconds=0.01))
            behind = asyncio.create_task(watched.worker.ask(measure("null.hang"), seconds=0.01))
            with pytest.raises(TaskTimeout, match=r"did not end within 0\.3 s on worker cpu/test"):
                await hung
            with pytest.raises(WorkerCrashed):
                await behind
            await watched.until(lambda: len(watched.loaded) == 2)

    asyncio.run(main())


def test_each_short_life_doubles_the_wait_and_a_long_one_resets_it():
    async def main():
        worker = Watched([null_backend_spec("null.one")]).worker
        worker._started_at = supervisor.perf_counter()
        assert [worker._next_delay() for _ in range(10)] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0, 10.0]
        worker._started_at -= 31.0
        assert worker._next_delay() == 0.1

    asyncio.run(main())


def test_a_start_that_the_machine_refuses_is_tried_again(monkeypatch):
    async def main():
        async with running() as watched:
            refusals = iter([OSError(11, "Resource temporarily unavailable"), None])
            popen = supervisor.subprocess.Popen

            def scarce(*arguments, **options):
                problem = next(refusals, None)
                if problem is not None:
                    raise problem
                return popen(*arguments, **options)

            monkeypatch.setattr(supervisor.subprocess, "Popen", scarce)
            os.kill(watched.worker.pid, signal.SIGKILL)
            await watched.until(lambda: len(watched.loaded) == 2)
            assert watched.worker.restarts == 2
            assert watched.worker.up

    asyncio.run(main())
