"""Whose fault a failure was: a pair's, whose breaker opens, or a task's, whose content is refused."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace

import pytest

from routerd.calibrator import Calibrator
from routerd.errors import ExecutionError, NoCandidate, TaskQuarantined, WorkerCrashed
from routerd.memory import map_segment
from routerd.protocol import Ask
from routerd.quarantine import LETHAL
from routerd.session import Session
from routerd.types import ArrayRef
from routerd.worker import messages
from routerd.worker.breaker import FAILURES, OPEN_SECONDS
from routerd.worker.dispatcher import Displaced
from routerd.worker.queue import Answer
from tests.unit.mishaps import MONTE_CARLO, ONLY_GPU, OPTION, crash, run

OTHER = Ask("options.monte_carlo_european", {**OPTION, "spot_price": 101.0})
NEVER_EXPLORE = "exploration: {budget: 0}\n"


@pytest.fixture
def gpu(fleet):
    return fleet.backends["metal.mlx"]


def breaker(backend, ask=MONTE_CARLO):
    return backend.pairs[ask.workload].breaker


class Poison:
    """A kernel that dies of one content, wherever it runs."""

    def __init__(self, fleet, poisonous):
        self.runs = 0
        self._poisonous = poisonous
        for backend in fleet.backends.values():
            backend.worker.outcome = self.execute

    async def execute(self, job):
        await asyncio.sleep(0)
        if self._poisonous(job):
            self.runs += 1
            raise crash()
        return 1e-3


class TestQuarantine:
    def test_content_that_ends_three_workers_is_refused_and_the_pairs_are_forgiven(self, make_router, session, fleet):
        poison = Poison(fleet, lambda job: job.params["spot_price"] == 100.0)
        router = make_router(NEVER_EXPLORE)
        with pytest.raises(TaskQuarantined, match=r"has ended 3 worker processes and is refused: .*ended by SIGSEGV"):
            run(router, session)
        assert poison.runs == LETHAL
        assert router.executor.quarantine.refused == 1
        for _ in range(FAILURES - 1):  # no pair has a failure left to its name
            for backend in fleet.backends.values():
                assert not breaker(backend).failed("another one's", time.monotonic())

    def test_the_same_content_is_then_refused_before_it_runs(self, make_router, session, fleet):
        poison = Poison(fleet, lambda job: job.params["spot_price"] == 100.0)
        router = make_router(NEVER_EXPLORE)
        for _ in range(5):
            with pytest.raises(TaskQuarantined, match="change its data or its parameters"):
                run(router, session)
        assert poison.runs == LETHAL

    def test_whoever_asks(self, make_router, session, fleet, parts):
        poison = Poison(fleet, lambda job: job.params["spot_price"] == 100.0)
        router = make_router(NEVER_EXPLORE)
        other = Session("another", 1001, 1001, 1, "execute", parts.LIMITS)
        for who in (session, other):
            with pytest.raises(TaskQuarantined):
                run(router, who)
        assert poison.runs == LETHAL

    def test_other_content_is_served_by_the_same_backends(self, make_router, session, fleet):
        Poison(fleet, lambda job: job.params["spot_price"] == 100.0)
        router = make_router(NEVER_EXPLORE)
        with pytest.raises(TaskQuarantined):
            run(router, session)
        result = run(router, session, OTHER).result
        assert (result.ran_on.backend, result.fallback_reason) == ("metal.mlx", None)

    def test_one_backend_alone_that_it_ends_three_times_is_forgiven_too(self, make_router, session, fleet, gpu):
        poison = Poison(fleet, lambda job: job.params["spot_price"] == 100.0)
        router = make_router(NEVER_EXPLORE + ONLY_GPU)
        with pytest.raises(TaskQuarantined):
            run(router, session)
        assert poison.runs == LETHAL
        assert breaker(gpu).closed
        assert run(router, session, OTHER).result.ran_on.backend == "metal.mlx"

    def test_kills_of_several_requests_add_up(self, make_router, session, fleet):
        poison = Poison(fleet, lambda job: job.params["spot_price"] == 100.0)
        router = make_router(NEVER_EXPLORE + "fallback: {max_attempts: 2}")
        with pytest.raises(WorkerCrashed):
            run(router, session)
        with pytest.raises(TaskQuarantined):
            run(router, session)
        assert poison.runs == LETHAL

    def test_and_so_do_those_of_requests_at_the_same_time(self, make_router, session, fleet):
        poison = Poison(fleet, lambda job: job.params["spot_price"] == 100.0)
        router = make_router(NEVER_EXPLORE + "fallback: {max_attempts: 1}")

        async def main():
            asked = (router.run(MONTE_CARLO, session) for _ in range(4))
            return await asyncio.gather(*asked, return_exceptions=True)

        failures = asyncio.run(main())
        assert {type(one) for one in failures} == {WorkerCrashed, TaskQuarantined}
        with pytest.raises(TaskQuarantined):
            run(router, session)
        assert poison.runs == 4

    def test_the_content_of_a_segment_decides_not_its_number(self, make_router, session, fleet):
        segments = [session.alloc(4096) for _ in range(3)]
        for segment, first in zip(segments, (7, 7, 8), strict=True):
            with map_segment(segment.descriptor, 4096, writable=True) as view:
                view[0] = first

        def ask(segment):
            ref = ArrayRef((8, 8), "float64", segment.info.segment)
            return Ask("linalg.gemm", {}, {"a": ref, "b": ref})

        bad = {segment.info.segment for segment in segments[:2]}
        poison = Poison(fleet, lambda job: job.arrays["a"].segment in bad)
        router = make_router(NEVER_EXPLORE)
        with pytest.raises(TaskQuarantined):
            run(router, session, ask(segments[0]))
        with pytest.raises(TaskQuarantined):
            run(router, session, ask(segments[1]))
        assert poison.runs == LETHAL
        run(router, session, ask(segments[2]))

    def test_what_could_be_computed_after_all_begins_anew(self, make_router, session, fleet, gpu):
        """Two workers ended under it and the third computed it: it was not the content."""
        router = make_router(NEVER_EXPLORE)
        for _ in range(3):
            for backend in fleet.backends.values():
                breaker(backend).forgive()
            gpu.worker.script = [crash()]
            fleet.backends["ane.coreml"].worker.script = [crash("neural_engine/main")]
            assert run(router, session).result.ran_on.backend == "cpu.numpy"
        assert router.executor.quarantine.refused == 0

    def test_errors_and_displaced_jobs_are_no_kills(self, make_router, session, gpu):
        router = make_router(NEVER_EXPLORE)
        for _ in range(LETHAL + 1):
            gpu.worker.script = [Displaced("it ended before"), ExecutionError("it raised")]
            run(router, session)
        assert not router.executor.quarantine.may_know(router.question(MONTE_CARLO, session)[0])


class TestBreaker:
    def test_a_pair_that_fails_what_others_can_loses_its_traffic(self, make_router, session, gpu):
        gpu.worker.outcome = ExecutionError("it raised")
        router = make_router(NEVER_EXPLORE)
        told = []
        router.executor.on_failure = lambda: told.append(breaker(gpu).state)
        epoch = router.epoch
        for _ in range(FAILURES):
            run(router, session)
        assert told == ["open"]
        assert router.epoch > epoch
        result = run(router, session).result
        assert (result.planned.backend, result.fallback_reason) == ("ane.coreml", None)
        assert len(gpu.worker.made) == FAILURES
        reasons = {one.backend: one.reason for one in result.decision.rejected}
        assert reasons["metal.mlx"].startswith(
            "breaker open, to be probed after 2 s: 3 failures in a row, the last: it"
        )

    def test_for_that_workload_alone(self, make_router, session, gpu):
        gpu.worker.outcome = ExecutionError("it raised")
        router = make_router(NEVER_EXPLORE)
        for _ in range(FAILURES):
            run(router, session)
        assert router.plan(Ask("linalg.gemm", work=1e9), session).decision.backend == "metal.mlx"

    def test_what_fails_everywhere_is_not_the_pairs_fault(self, make_router, session, fleet):
        for backend in fleet.backends.values():
            backend.worker.outcome = ExecutionError("singular matrix")
        router = make_router(NEVER_EXPLORE)
        for _ in range(2 * FAILURES):
            with pytest.raises(ExecutionError):
                run(router, session)
        assert all(breaker(backend).closed for backend in fleet.backends.values())

    def test_a_success_between_failures_keeps_it_closed(self, make_router, session, gpu):
        router = make_router(NEVER_EXPLORE)
        gpu.worker.script = [ExecutionError("now and then"), ExecutionError("now and then"), 1e-3] * 4
        for _ in range(12):
            run(router, session)
        assert breaker(gpu).closed

    def test_an_end_of_its_worker_counts_though_nobody_else_may_try(self, make_router, session, gpu):
        """Different contents: it is not the tasks."""
        gpu.worker.outcome = crash()
        router = make_router(NEVER_EXPLORE + ONLY_GPU + "fallback: {max_attempts: 1}")
        for number in range(FAILURES):
            with pytest.raises(WorkerCrashed):
                run(router, session, Ask(MONTE_CARLO.workload, {**OPTION, "spot_price": 50.0 + number}))
        assert breaker(gpu).state == "open"


class Probed:
    """Answers the probes of a calibrator as it is told, and tasks as a stand-in does."""

    def __init__(self, backend):
        self.worker, self.tasks = backend.worker, backend.worker.ask
        self.answers = []
        self.probes = 0
        backend.worker.ask = self.ask

    async def ask(self, make, **options):
        job, _descriptors = make(1)
        if not isinstance(job, messages.Prove):
            return await self.tasks(make, **options)
        self.probes += 1
        await asyncio.sleep(0)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return Answer(messages.Proved(job.id, answer, 0.1), [], 0.0, 0.0)


class TestProbes:
    """A calibrator beside the router: what opens a breaker, and what closes it."""

    @pytest.fixture
    def now(self, monkeypatch):
        class Clock:
            seconds = 1000.0

        clock = SimpleNamespace(monotonic=lambda: Clock.seconds, perf_counter=time.perf_counter)
        monkeypatch.setattr("routerd.execution.time", clock)
        monkeypatch.setattr("routerd.calibrator.time", clock)
        return Clock

    @pytest.fixture
    def beside(self, fleet, store, monkeypatch):
        """Runs something beside a calibrator."""
        monkeypatch.setattr("routerd.calibrator.fingerprint", lambda spec, _device, code: f"{spec.name} {code}")

        def beside(router, work):
            async def main():
                made = Calibrator(fleet, store, run_seconds=0.1, when_idle=False, on_change=router.changed)
                router.executor.on_failure = made.nudge
                made.start()
                try:
                    async with asyncio.timeout(20.0):
                        return await work(made)
                finally:
                    await made.stop()

            return asyncio.run(main())

        return beside

    @staticmethod
    async def settled(made, probed, probes):
        made.nudge()
        while probed.probes < probes:
            await asyncio.sleep(0.001)
        while made.pending([MONTE_CARLO.workload]):
            await asyncio.sleep(0.001)

    async def opened(self, router, session, gpu):
        gpu.worker.outcome = ExecutionError("it raised")
        for _ in range(FAILURES):
            await router.run(MONTE_CARLO, session)
        assert breaker(gpu).state == "open"
        gpu.worker.outcome = 1e-3

    def test_when_its_time_is_over_a_good_probe_brings_it_back(self, make_router, session, gpu, now, beside):
        router, probed = make_router(NEVER_EXPLORE), Probed(gpu)

        async def work(made):
            await self.opened(router, session, gpu)
            await asyncio.sleep(0.05)
            assert probed.probes == 0
            now.seconds += OPEN_SECONDS[0]
            probed.answers = [1e-7]
            await self.settled(made, probed, 1)
            return (await router.run(MONTE_CARLO, session)).result

        assert beside(router, work).ran_on.backend == "metal.mlx"

    def test_a_bad_one_leaves_it_open_for_twice_as_long(self, make_router, session, gpu, now, beside):
        router, probed = make_router(NEVER_EXPLORE), Probed(gpu)

        async def work(made):
            await self.opened(router, session, gpu)
            probed.answers = [ExecutionError("still broken"), crash(), 1e-7]
            for number, wait in enumerate((OPEN_SECONDS[0], 2.0 * OPEN_SECONDS[0]), 1):
                now.seconds += wait
                await self.settled(made, probed, number)
                assert breaker(gpu).state == "open"
                assert breaker(gpu).due_at == pytest.approx(now.seconds + 2.0 * wait)
            assert (await router.run(MONTE_CARLO, session)).result.ran_on.backend == "ane.coreml"

        beside(router, work)

    def test_a_worker_that_ended_before_the_probe_decides_nothing(self, make_router, session, gpu, now, beside):
        router, probed = make_router(NEVER_EXPLORE), Probed(gpu)

        async def work(made):
            await self.opened(router, session, gpu)
            probed.answers = [Displaced("it ended before"), 1e-7]
            now.seconds += OPEN_SECONDS[0]
            await self.settled(made, probed, 2)
            assert breaker(gpu).closed

        beside(router, work)

    def test_one_that_comes_back_wrong_is_quarantined(self, make_router, session, gpu, now, beside):
        router, probed = make_router(NEVER_EXPLORE), Probed(gpu)

        async def work(made):
            await self.opened(router, session, gpu)
            probed.answers = [0.4]
            now.seconds += OPEN_SECONDS[0]
            await self.settled(made, probed, 1)
            return (await router.run(MONTE_CARLO, session)).result

        result = beside(router, work)
        assert result.ran_on.backend == "ane.coreml"
        reasons = {one.backend: one.reason for one in result.decision.rejected}
        assert reasons["metal.mlx"].startswith("quarantined: relative error 0.4 against the contract")

    def test_a_request_that_only_this_pair_may_take_waits_for_the_probe(
        self, make_router, session, gpu, now, beside, policy_of, monkeypatch
    ):
        monkeypatch.setattr(Calibrator, "_keep", lambda *_arguments: asyncio.sleep(0.02))  # a disk takes its time
        router, probed = make_router(NEVER_EXPLORE), Probed(gpu)

        async def work(made):
            await self.opened(router, session, gpu)
            router.activate(policy_of(NEVER_EXPLORE + ONLY_GPU, generation=2))
            asked = asyncio.create_task(router.run(MONTE_CARLO, session))
            await asyncio.sleep(0.01)
            assert not asked.done()
            probed.answers = [1e-7]
            now.seconds += OPEN_SECONDS[0]
            made.nudge()
            return (await asked).result.ran_on.backend

        assert beside(router, work) == "metal.mlx"

    def test_and_is_refused_with_the_reason_when_that_takes_too_long(
        self, make_router, session, gpu, now, beside, policy_of, monkeypatch
    ):
        monkeypatch.setattr("routerd.router.PATIENCE_SECONDS", 0.03)
        router = make_router(NEVER_EXPLORE)

        async def work(_made):
            await self.opened(router, session, gpu)
            router.activate(policy_of(NEVER_EXPLORE + ONLY_GPU, generation=2))
            with pytest.raises(NoCandidate, match="breaker open, to be probed after 2 s"):
                await router.run(MONTE_CARLO, session)

        beside(router, work)
