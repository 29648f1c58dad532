"""A process that is there and does not do its work: stopped, hung, silent, or too large."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import pytest

from routerd.errors import OutOfMemory, TaskTimeout, WorkerCrashed
from routerd.testing import null_backend_spec
from routerd.worker import health, messages, supervisor
from routerd.worker.dispatcher import Displaced
from routerd.worker.vitals import Vitals
from tests.unit.worker.watched import SETTINGS, Watched, measure, product, running

WATCH_SECONDS = 0.05
PATIENT = SETTINGS._replace(silence_seconds=60.0)
IMPATIENT = SETTINGS._replace(silence_seconds=8 * WATCH_SECONDS)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(health, "WATCH_SECONDS", WATCH_SECONDS)


def asking(worker, make, **options):
    return asyncio.create_task(worker.ask(make, **{"seconds": 1.0, **options}))


class TestStopped:
    """By a signal: SIGSTOP, a debugger, a suspended container."""

    def test_an_idle_one_is_silent_then_ended_and_started_again(self):
        async def main():
            async with running(settings=IMPATIENT) as watched:
                first = watched.worker.pid
                os.kill(first, signal.SIGSTOP)
                await watched.until(lambda: watched.pulses)
                assert (watched.pulses, watched.worker.state) == (["its process is stopped"], "silent")
                await watched.until(lambda: watched.ended)
                assert watched.ended[0].startswith("worker cpu/test was silent for 0.")
                assert watched.ended[0].endswith(" s: its process is stopped")
                await watched.restarted()
                assert (watched.worker.state, watched.worker.pid != first) == ("up", True)
                assert isinstance((await watched.worker.ask(measure(), seconds=0.01)).outcome, messages.Measured)
                assert watched.worker.state == "up"

        asyncio.run(main())

    def test_one_that_goes_on_is_left_alone(self):
        """However often, and though nobody asks anything of it."""

        async def main():
            async with running(settings=PATIENT) as watched:
                for _ in range(3):
                    os.kill(watched.worker.pid, signal.SIGSTOP)
                    await watched.until(lambda: watched.worker.state == "silent")
                    os.kill(watched.worker.pid, signal.SIGCONT)
                    await watched.until(lambda: watched.worker.state == "up")
                assert (watched.pulses[-1], watched.ended, watched.worker.restarts) == ("", [], 0)

        asyncio.run(main())

    def test_a_busy_one_fails_its_task_and_displaces_the_rest(self):
        async def main():
            async with running(null_backend_spec("null.hang", fail="hang"), settings=IMPATIENT) as watched:
                begun = asking(watched.worker, product("null.hang"))
                behind = asking(watched.worker, product("null.hang"))
                await asyncio.sleep(0.02)
                os.kill(watched.worker.pid, signal.SIGSTOP)
                with pytest.raises(WorkerCrashed, match=r"was silent for .*its process is stopped") as caught:
                    await begun
                assert caught.value.detail["worker"] == "cpu/test"
                with pytest.raises(Displaced):
                    await behind
                await watched.restarted()

        asyncio.run(main())

    def test_a_busy_one_that_goes_on_is_no_longer_silent_while_it_still_computes(self):
        async def main():
            slow = null_backend_spec("null.slow", delay_seconds=1.0)
            async with running(slow, settings=PATIENT) as watched:
                begun = asking(watched.worker, product("null.slow"))
                await asyncio.sleep(0.02)
                os.kill(watched.worker.pid, signal.SIGSTOP)
                await watched.until(lambda: watched.pulses)
                os.kill(watched.worker.pid, signal.SIGCONT)
                await watched.until(lambda: watched.pulses[-1] == "")
                assert not watched.worker.idle
                assert isinstance((await begun).outcome, messages.Executed)
                assert watched.ended == []

        asyncio.run(main())


class TestSilent:
    def mute(self, watched):
        """Nothing that is said to it reaches it, jobs apart."""
        watched.worker._channel.post = lambda _notice: None

    def test_an_idle_one_that_does_not_answer_is_ended(self):
        async def main():
            async with running(settings=IMPATIENT) as watched:
                self.mute(watched)
                await watched.until(lambda: watched.ended)
                assert watched.pulses == ["it does not answer"]
                assert watched.ended[0].endswith(": it does not answer")
                await watched.restarted()
                assert watched.worker.state == "up"

        asyncio.run(main())

    def test_one_that_answers_is_asked_now_and_then_and_left_alone(self):
        async def main():
            async with running(settings=SETTINGS._replace(silence_seconds=2.0)) as watched:
                outcome, pongs = watched.worker._channel._on_outcome, []

                def hear(one, descriptors):
                    pongs.append(one)
                    outcome(one, descriptors)

                watched.worker._channel._on_outcome = hear
                async with asyncio.timeout(20.0):
                    while len(pongs) < 3:
                        await asyncio.sleep(WATCH_SECONDS)
                assert {type(one) for one in pongs} == {messages.Pong}
                assert (watched.ended, watched.worker.restarts) == ([], 0)

        asyncio.run(main())

    def test_a_busy_one_is_not_expected_to_answer(self):
        async def main():
            slow = null_backend_spec("null.slow", delay_seconds=1.5 * IMPATIENT.silence_seconds)
            async with running(slow, settings=IMPATIENT) as watched:
                await watched.worker.ask(product("null.slow"), seconds=0.01)
                assert (watched.pulses, watched.ended) == ([], [])

        asyncio.run(main())


class TestHung:
    HANG = null_backend_spec("null.hang", fail="hang")

    @pytest.mark.parametrize(
        ("predicted", "limit"),
        [(1e-6, 10.0), (0.2, 10.0), (1.0, 50.0), (5.0, 250.0), (100.0, 300.0)],
    )
    def test_the_limit_follows_the_prediction_between_floor_and_ceiling(self, predicted, limit):
        async def main():
            settings = SETTINGS._replace(hang_factor=50.0, hang_floor_seconds=10.0, task_timeout_seconds=300.0)
            assert Watched([self.HANG], settings).worker.hang_seconds(predicted) == pytest.approx(limit)

        asyncio.run(main())

    def test_a_ceiling_below_the_floor_counts(self):
        async def main():
            settings = SETTINGS._replace(hang_floor_seconds=10.0, task_timeout_seconds=3.0)
            assert Watched([self.HANG], settings).worker.hang_seconds(1e-6) == 3.0

        asyncio.run(main())

    @pytest.mark.parametrize("own", [True, False])
    def test_a_job_beyond_its_limit_or_else_that_of_all_tasks_is_ended_with_its_process(self, own):
        async def main():
            settings = SETTINGS if own else SETTINGS._replace(task_timeout_seconds=0.3)
            async with running(self.HANG, settings=settings) as watched:
                first = watched.worker.pid
                hung = asking(watched.worker, product("null.hang"), limit=0.3 if own else None)
                behind = asking(watched.worker, product("null.hang"))
                with pytest.raises(TaskTimeout, match=r"did not end within 0\.3 s on worker cpu/test") as caught:
                    await hung
                assert caught.value.detail["worker"] == "cpu/test"
                with pytest.raises(Displaced):
                    await behind
                await watched.restarted()
                assert watched.worker.pid != first

        asyncio.run(main())

    def test_it_is_found_though_the_system_says_nothing_of_it(self, monkeypatch):
        monkeypatch.setattr(supervisor, "vitals", lambda _process: None)

        async def main():
            async with running(self.HANG) as watched:
                with pytest.raises(TaskTimeout):
                    await watched.worker.ask(product("null.hang"), seconds=0.01, limit=0.2)

        asyncio.run(main())

    @pytest.mark.parametrize("seconds", [1.0, 1e-4])
    def test_the_time_that_it_waited_does_not_count(self, seconds):
        """Neither in the daemon nor, for what is predicted to be tiny, in the process."""

        async def main():
            async with running(null_backend_spec("null.slow", delay_seconds=0.5)) as watched:
                asked = [asking(watched.worker, product("null.slow"), seconds=seconds, limit=0.9) for _ in range(2)]
                await asyncio.gather(*asked)
                assert watched.ended == []

        asyncio.run(main())


class TestMemory:
    @pytest.mark.skipif(sys.platform != "linux", reason="other systems do not enforce RLIMIT_DATA")
    def test_an_allocation_beyond_the_limit_fails_the_task_and_nothing_else(self):
        async def main():
            settings = SETTINGS._replace(memory_bytes=2 << 30)
            async with running(settings=settings) as watched:
                first = watched.worker.pid
                with pytest.raises(OutOfMemory, match=r"null\.one linalg\.gemm: not enough host memory") as caught:
                    await watched.worker.ask(measure(work=1e14), seconds=0.01)  # matrices of some 17 GB
                assert "worker" not in caught.value.detail
                assert isinstance((await watched.worker.ask(measure(), seconds=0.01)).outcome, messages.Measured)
                assert (watched.ended, watched.worker.pid) == ([], first)

        asyncio.run(main())

    def test_without_a_limit_nothing_is_refused(self):
        async def main():
            async with running(settings=SETTINGS._replace(memory_bytes=0)) as watched:
                await asyncio.sleep(3 * WATCH_SECONDS)
                assert watched.worker.private_bytes > 1 << 20
                assert watched.ended == []

        asyncio.run(main())

    def test_a_process_that_holds_too_much_is_ended_and_started_again(self, monkeypatch):
        """As on systems where allocations do not fail."""
        settings = SETTINGS._replace(memory_bytes=4 << 30)

        async def main():
            slow = null_backend_spec("null.slow", delay_seconds=30.0)
            async with running(slow, settings=settings) as watched:
                begun = asking(watched.worker, product("null.slow"))
                behind = asking(watched.worker, product("null.slow"))
                await asyncio.sleep(0)
                monkeypatch.setattr(supervisor, "vitals", lambda _process: Vitals(5 << 30, stopped=False))
                with pytest.raises(OutOfMemory, match=r"held 5368709120 bytes, its limit is 4294967296") as caught:
                    await begun
                assert caught.value.detail["worker"] == "cpu/test"
                monkeypatch.undo()
                with pytest.raises(Displaced):
                    await behind
                await watched.restarted()

        asyncio.run(main())
