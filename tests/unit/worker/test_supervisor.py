"""A supervised process: in order, in time, and replaced when it ends."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from routerd.errors import ExecutionError, Overloaded, ShuttingDown, TaskTimeout, WorkerCrashed
from routerd.testing import null_backend_spec
from routerd.worker import launch, messages, supervisor
from routerd.worker.dispatcher import Displaced
from routerd.worker.queue import BACKGROUND, FOREGROUND
from tests.unit.worker.watched import SETTINGS, measure, product, running

SLOW = null_backend_spec("null.slow", delay_seconds=0.2)


def asking(worker, make, **options):
    """Asks for a job in a task of its own."""
    return asyncio.create_task(worker.ask(make, **{"seconds": 1.0, **options}))


def test_a_life_from_start_to_stop():
    async def main():
        async with running() as watched:
            worker = watched.worker
            assert (worker.up, worker.state) == (True, "up")
            assert worker.pid not in (None, os.getpid())
            answer = await worker.ask(measure(), seconds=0.01)
            assert isinstance(answer.outcome, messages.Measured)
            assert 0.0 <= answer.queue_seconds <= answer.total_seconds
            assert (worker.idle, worker.waiting, worker.queue_seconds()) == (True, 0, 0.0)
        assert (worker.up, worker.state, worker.pid) == (False, "down", None)
        assert watched.ended == []
        with pytest.raises(Displaced, match="worker cpu/test is down"):
            await worker.ask(measure(), seconds=0.01)

    asyncio.run(main())


def test_when_it_gets_work_and_when_it_is_idle_again_is_told():
    async def main():
        async with running() as watched:
            assert watched.busy == [True, False]  # it has loaded its backend
            asked = [asking(watched.worker, measure()) for _ in range(5)]
            await asyncio.sleep(0)
            assert watched.busy == [True, False, True]
            await asyncio.gather(*asked)
            assert watched.busy == [True, False, True, False]
            waiting = asking(watched.worker, measure())
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


class TestOrder:
    def test_tasks_overtake_calibration_and_each_other_by_priority(self):
        async def main():
            async with running() as watched:
                order = []

                async def ask(label, priority):
                    await watched.worker.ask(measure(), seconds=0.01, priority=priority)
                    order.append(label)

                asked = [("b1", BACKGROUND), ("b2", BACKGROUND), ("low", FOREGROUND - 5), ("usual", FOREGROUND),
                         ("high", FOREGROUND + 5)]  # fmt: skip
                tasks = [asyncio.create_task(ask(*one)) for one in asked]
                await asyncio.sleep(0)
                assert watched.worker.queue_seconds() > 0.0
                await asyncio.gather(*tasks)
                assert order == ["b1", "high", "usual", "low", "b2"]  # the first was already handed over
                assert watched.worker.queue_seconds() == 0.0

        asyncio.run(main())

    def test_a_client_with_many_tasks_delays_anothers_by_one(self):
        async def main():
            async with running() as watched:
                order = []

                async def ask(client):
                    await watched.worker.ask(product(), seconds=0.01, client=client)
                    order.append(client)

                tasks = [asyncio.create_task(ask(client)) for client in [1] * 64 + [2, 2]]
                await asyncio.gather(*tasks)
                assert order.index(2) <= 2
                assert order[order.index(2) + 1 :].index(2) <= 1

        asyncio.run(main())

    def test_tiny_jobs_are_handed_over_ahead_and_long_ones_are_not(self):
        async def main():
            async with running() as watched:
                for seconds, ahead in ((100e-6, 2), (10e-3, 1)):
                    made = []
                    asked = [asking(watched.worker, product(made=made), seconds=seconds) for _ in range(6)]
                    await asyncio.sleep(0)
                    assert len(made) == ahead
                    await asyncio.gather(*asked)
                    assert len(made) == 6

        asyncio.run(main())

    def test_a_long_job_is_not_handed_over_behind_a_tiny_one(self):
        """Something more urgent may still come."""

        async def main():
            async with running() as watched:
                made = []
                asked = [asking(watched.worker, product(made=made), seconds=seconds) for seconds in (100e-6, 10e-3)]
                await asyncio.sleep(0)
                assert len(made) == 1
                await asyncio.gather(*asked)

        asyncio.run(main())

    def test_how_long_new_work_waits_is_what_runs_and_what_is_ahead(self):
        async def main():
            async with running(SLOW) as watched:
                worker = watched.worker
                asked = [asking(worker, product("null.slow"), seconds=2.0, client=1) for _ in range(3)]
                await asyncio.sleep(0)
                assert worker.waiting == 3
                assert worker.queue_seconds(1) == pytest.approx(6.0, abs=0.5)  # behind all of one's own
                assert worker.queue_seconds(2) == pytest.approx(4.0, abs=0.5)  # behind one of every other's
                await asyncio.gather(*asked)
                assert worker.queue_seconds(1) == 0.0

        asyncio.run(main())

    def test_a_job_that_expired_while_it_waited_is_never_started(self):
        async def main():
            async with running(SLOW) as watched:
                made = []
                now = supervisor.perf_counter()
                first = asking(watched.worker, product("null.slow"))
                late = asking(watched.worker, product("null.slow", made=made), expires_at=now + 0.05)
                good = asking(watched.worker, product("null.slow"), expires_at=now + 60.0)
                await first
                with pytest.raises(TaskTimeout, match=r"the deadline passed while the task waited .*was not started"):
                    await late
                await good
                assert made == []

        asyncio.run(main())


class TestQueueLimit:
    SETTINGS = SETTINGS._replace(queue_limit=2)
    BRIEF = null_backend_spec("null.brief", delay_seconds=0.02)

    def test_further_tasks_are_refused_with_the_time_to_come_back(self):
        async def main():
            async with running(self.BRIEF, settings=self.SETTINGS) as watched:
                asked = [asking(watched.worker, product("null.brief"), client=client) for client in (1, 2, 3)]
                await asyncio.sleep(0)
                with pytest.raises(Overloaded, match=r"2 tasks wait for worker cpu/test.*\(max_queued") as caught:
                    await watched.worker.ask(product("null.brief"), seconds=1.0, client=4)
                assert 0.0 < caught.value.detail["retry_after_seconds"] <= 3.0
                await asyncio.gather(*asked)
                await watched.worker.ask(product("null.brief"), seconds=1.0, client=4)

        asyncio.run(main())

    def test_the_daemons_own_work_is_not(self):
        async def main():
            async with running(self.BRIEF, settings=self.SETTINGS) as watched:
                asked = [asking(watched.worker, product("null.brief"), client=client) for client in (1, 2, 3)]
                await asyncio.sleep(0)
                own = asking(watched.worker, measure("null.brief"), priority=BACKGROUND)
                await asyncio.gather(*asked, own)

        asyncio.run(main())


class TestCancelling:
    def test_what_waits_is_never_started_and_the_backlog_is_right(self):
        async def main():
            async with running(SLOW) as watched:
                made = []
                first = asking(watched.worker, product("null.slow"), client=1)
                tasks = [asking(watched.worker, product("null.slow", made=made), client=1) for _ in range(4)]
                await asyncio.sleep(0)
                for task in tasks[:3]:
                    task.cancel()
                await asyncio.gather(*tasks[:3], return_exceptions=True)
                assert watched.worker.waiting == 2
                assert watched.worker.queue_seconds(1) == pytest.approx(2.0, abs=0.5)
                await asyncio.gather(first, tasks[3])
                assert len(made) == 1
                assert watched.worker.idle

        asyncio.run(main())

    def test_what_runs_ends_unheard_and_the_next_is_served(self):
        async def main():
            async with running(SLOW) as watched:
                running_job = asking(watched.worker, product("null.slow"))
                following = asking(watched.worker, product("null.slow"))
                await asyncio.sleep(0.02)
                running_job.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await running_job
                assert not watched.worker.idle  # it still computes
                assert isinstance((await following).outcome, messages.Executed)
                assert watched.worker.idle

        asyncio.run(main())


class TestEnds:
    def test_a_killed_process_fails_the_job_that_it_had_begun_and_is_replaced(self):
        async def main():
            async with running() as watched:
                worker = watched.worker
                first, incarnation = worker.pid, worker.incarnation
                worker.known_segments.add(7)
                os.kill(first, signal.SIGSTOP)
                asked = [asking(worker, measure(), seconds=seconds) for seconds in (1e-4, 1e-4, 1.0, 1.0)]
                await asyncio.sleep(0)
                os.kill(first, signal.SIGKILL)
                failures = await asyncio.gather(*asked, return_exceptions=True)
                assert [type(failure) for failure in failures] == [WorkerCrashed] + [Displaced] * 3
                assert str(failures[0]) == "worker cpu/test was ended by SIGKILL"
                assert failures[0].detail["worker"] == "cpu/test"
                assert str(failures[1]) == "worker cpu/test was ended by SIGKILL before it had started the task"
                assert "worker" not in failures[1].detail
                assert watched.ended == ["worker cpu/test was ended by SIGKILL"]
                assert worker.state == "down"
                await watched.restarted()
                assert (worker.restarts, worker.state) == (1, "up")
                assert worker.pid != first
                assert worker.incarnation > incarnation
                assert worker.known_segments == set()
                assert isinstance((await worker.ask(measure(), seconds=0.01)).outcome, messages.Measured)

        asyncio.run(main())

    def test_an_exit_is_told_with_its_status(self):
        async def main():
            async with running(null_backend_spec("null.exit", fail="exit")) as watched:
                with pytest.raises(WorkerCrashed, match="worker cpu/test exited with status 70"):
                    await watched.worker.ask(product("null.exit"), seconds=0.01)

        asyncio.run(main())

    def test_what_a_kernel_raises_ends_nothing(self):
        async def main():
            async with running(null_backend_spec("null.raise", fail="raise")) as watched:
                with pytest.raises(ExecutionError, match="RuntimeError: the null device was asked to fail") as caught:
                    await watched.worker.ask(product("null.raise"), seconds=0.01)
                assert "worker" not in caught.value.detail
                assert (watched.ended, watched.worker.up) == ([], True)

        asyncio.run(main())

    def test_stopping_fails_what_runs_and_what_waits_and_does_not_wait_for_it(self):
        async def main():
            async with running(null_backend_spec("null.hang", fail="hang")) as watched:
                asked = [asking(watched.worker, product("null.hang")) for _ in range(3)]
                await asyncio.sleep(0.02)
                async with asyncio.timeout(5.0):
                    await watched.worker.stop(60.0)
                failures = await asyncio.gather(*asked, return_exceptions=True)
                assert {type(failure) for failure in failures} == {ShuttingDown}
                assert watched.ended == []  # it is no accident

        asyncio.run(main())


class TestRestarts:
    def test_a_start_that_the_machine_refuses_is_tried_again(self, monkeypatch):
        async def main():
            async with running(jitter=lambda: 0.0) as watched:
                refusals = iter([OSError(11, "Resource temporarily unavailable"), None])
                popen = launch.subprocess.Popen

                def scarce(*arguments, **options):
                    problem = next(refusals, None)
                    if problem is not None:
                        raise problem
                    return popen(*arguments, **options)

                monkeypatch.setattr(launch.subprocess, "Popen", scarce)
                os.kill(watched.worker.pid, signal.SIGKILL)
                await watched.restarted()
                assert watched.worker.restarts == 2
                assert watched.worker.up

        asyncio.run(main())
