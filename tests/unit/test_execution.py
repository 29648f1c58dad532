"""Running a task until it is done: what is tried after a failure, and what is waited for."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace

import pytest

from routerd.costs.model import CostModel
from routerd.errors import (
    ExecutionError,
    InvalidArray,
    OutOfMemory,
    Overloaded,
    ShuttingDown,
    TaskTimeout,
    Unavailable,
    WorkerCrashed,
)
from routerd.execution import _Course
from routerd.protocol import Ask
from routerd.types import ArrayRef
from routerd.worker.dispatcher import Displaced
from tests.unit.mishaps import (
    MONTE_CARLO,
    ONLY_GPU,
    OPTION,
    back,
    crash,
    displaced,
    ending,
    forever,
    run,
    until,
    with_deadline,
)


@pytest.fixture
def gpu(fleet):
    return fleet.backends["metal.mlx"]


class TestAfterACrash:
    def test_the_next_candidate_finishes_the_task(self, make_router, session, gpu):
        gpu.worker.script = [crash()]
        router = make_router()
        result = run(router, session).result
        assert (result.planned.backend, result.ran_on.backend) == ("metal.mlx", "ane.coreml")
        assert result.fallback_reason == "metal.mlx: worker metal_gpu/main was ended by SIGSEGV"
        assert (router.executor.fallbacks, router.failed, router.executed) == (1, 0, 1)

    def test_where_no_other_is_left_it_is_tried_again_on_the_restarted_one(self, make_router, session, fleet, gpu):
        gpu.worker.script = [ending(fleet, gpu, crash())]
        router = make_router(ONLY_GPU)

        async def main():
            asked = asyncio.create_task(router.run(MONTE_CARLO, session))
            await until(lambda: gpu.state == "down")
            for _ in range(100):
                await asyncio.sleep(0)
            assert (asked.done(), len(gpu.worker.made)) == (False, 1)
            back(fleet, gpu)
            return (await asked).result

        result = asyncio.run(main())
        assert result.ran_on.backend == "metal.mlx"
        assert result.fallback_reason == "metal.mlx: worker metal_gpu/main was ended by SIGSEGV"
        assert len(gpu.worker.made) == 2

    def test_an_error_without_an_end_of_the_worker_is_not_tried_there_again(self, make_router, session, gpu):
        gpu.worker.outcome = ExecutionError("it raised")
        with pytest.raises(ExecutionError, match="it raised"):
            run(make_router(ONLY_GPU), session)
        assert len(gpu.worker.made) == 1

    @pytest.mark.parametrize("kind", [WorkerCrashed, TaskTimeout, OutOfMemory])
    def test_the_policy_says_after_what_and_how_often(self, make_router, session, fleet, kind):
        for backend in fleet.backends.values():
            backend.worker.outcome = crash(kind=kind)
        word = {WorkerCrashed: "crash", TaskTimeout: "timeout", OutOfMemory: "out_of_memory"}[kind]
        for body, tried in (
            (f"fallback: {{on: [{word}], max_attempts: 1}}", 1),
            (f"fallback: {{on: [{word}], max_attempts: 2}}", 2),
            ("fallback: {on: [unavailable]}", 1),
        ):
            router = make_router(body)
            for backend in fleet.backends.values():
                backend.worker.made.clear()
            with pytest.raises(kind):
                run(router, session)
            assert sum(len(backend.worker.made) for backend in fleet.backends.values()) == tried

    @pytest.mark.parametrize("flag", ["GPU_FALLBACK_ENABLED", "NEURAL_ENGINE_FALLBACK"])
    def test_a_flag_keeps_it_on_the_device(self, make_router, session, fleet, flag):
        kind, name = {
            "GPU_FALLBACK_ENABLED": ("metal_gpu", "metal.mlx"),
            "NEURAL_ENGINE_FALLBACK": ("neural_engine", "ane.coreml"),
        }[flag]
        backend = fleet.backends[name]
        backend.worker.script = [ending(fleet, backend, crash())]
        router = make_router(f"rules: [{{id: first, prefer: [{kind}]}}]", {flag: "0"})

        async def main():
            asked = asyncio.create_task(router.run(MONTE_CARLO, session))
            await until(lambda: backend.state == "down")
            back(fleet, backend)
            return (await asked).result.ran_on.backend

        assert asyncio.run(main()) == name
        assert not any(other.worker.made for other in fleet.backends.values() if other is not backend)

    @pytest.mark.parametrize("problem", [InvalidArray("NaN"), Overloaded("full"), ShuttingDown("bye")])
    def test_what_is_nobodys_failure_ends_it_at_once(self, make_router, session, fleet, gpu, problem):
        gpu.worker.outcome = problem
        with pytest.raises(type(problem)):
            run(make_router(), session)
        assert fleet.backends["ane.coreml"].worker.made == []
        assert gpu.pairs[MONTE_CARLO.workload].breaker.closed


class TestDisplaced:
    """A job that its worker had not begun when it ended."""

    def test_it_goes_elsewhere_and_counts_against_nobody(self, make_router, session, fleet, gpu):
        gpu.worker.script = [ending(fleet, gpu, displaced())]
        router = make_router("fallback: {max_attempts: 1}")
        result = run(router, session).result
        assert result.ran_on.backend == "ane.coreml"
        assert "before it had started the task" in result.fallback_reason
        assert (router.executor.reruns, gpu.failed) == (1, 0)
        assert not router.executor.quarantine.may_know(router.question(MONTE_CARLO, session)[0])

    def test_again_and_again_until_it_has_its_turn(self, make_router, session, fleet, gpu):
        """Somebody else's tasks end the worker each time; the attempts that the policy grants are not used up by that."""
        gpu.worker.script = [ending(fleet, gpu, displaced()) for _ in range(8)]
        router = make_router(ONLY_GPU + "fallback: {max_attempts: 1}")

        async def main():
            asked = asyncio.create_task(router.run(MONTE_CARLO, session))
            for count in range(1, 9):
                await until(lambda count=count: len(gpu.worker.made) == count and gpu.state == "down")
                back(fleet, gpu)
            return (await asked).result.ran_on.backend

        assert asyncio.run(main()) == "metal.mlx"
        assert gpu.pairs[MONTE_CARLO.workload].breaker.closed
        assert (gpu.ran, gpu.failed, router.failed) == (1, 0, 0)

    def test_but_not_for_ever(self, make_router, session, gpu):
        gpu.worker.outcome = displaced()
        with pytest.raises(Unavailable, match="before it had started the task"):
            run(make_router(ONLY_GPU), session)
        assert len(gpu.worker.made) < 50

    @pytest.mark.parametrize(
        ("body", "environment"),
        [("fallback: {on: [crash]}", {}), ("", {"GPU_FALLBACK_ENABLED": "0"})],
    )
    def test_it_waits_where_it_must_not_be_tried_elsewhere(self, make_router, session, fleet, gpu, body, environment):
        gpu.worker.script = [ending(fleet, gpu, displaced())]
        router = make_router(body, environment)

        async def main():
            asked = asyncio.create_task(router.run(MONTE_CARLO, session))
            await until(lambda: gpu.state == "down")
            for _ in range(100):
                await asyncio.sleep(0)
            assert not asked.done()
            back(fleet, gpu)
            return (await asked).result.ran_on.backend

        assert asyncio.run(main()) == "metal.mlx"
        assert fleet.backends["ane.coreml"].worker.made == []

    def test_one_that_ran_with_others_runs_alone_then(self, make_router, session, gpu):
        """Nobody knows whose fault the end was: each shows it by itself."""
        gpu.worker.batching = True
        gpu.worker.script = [Displaced("worker ended, while it ran tasks of several clients as one", alone=True)]
        workload = make_router().workload("ml.mlp_inference")
        arrays = {}
        for array in workload.inputs:
            ref = ArrayRef(tuple(8 if isinstance(dim, str) else dim for dim in array.shape), array.dtype)
            arrays[array.name] = ArrayRef(ref.shape, ref.dtype, data=bytes(ref.nbytes))
        router = make_router(ONLY_GPU)
        assert run(router, session, Ask(workload.name, {}, arrays)).result.ran_on.backend == "metal.mlx"
        first, second = gpu.worker.asked
        assert first["joinable"] is not None
        assert second["joinable"] is None


class TestWaiting:
    def test_while_its_worker_ends_nothing_is_asked_of_it(self, make_router, session, fleet, gpu):
        """Between the end of a worker's stream and the news of it, the backend still counts as ready."""
        gpu.worker.up = False
        router = make_router(ONLY_GPU)

        async def main():
            asked = asyncio.create_task(router.run(MONTE_CARLO, session))
            for _ in range(100):
                await asyncio.sleep(0)
            assert gpu.worker.made == []
            router.changed()
            back(fleet, gpu)
            return (await asked).result.ran_on.backend

        assert asyncio.run(main()) == "metal.mlx"
        assert gpu.failed == 0

    @pytest.mark.parametrize("state", ["down", "silent"])
    def test_the_plan_waits_for_what_will_be_back(self, make_router, session, fleet, gpu, state):
        gpu.state, gpu.reason = state, "it is being restarted"
        router = make_router(ONLY_GPU)

        async def main():
            asked = asyncio.create_task(router.run(MONTE_CARLO, session))
            for _ in range(100):
                await asyncio.sleep(0)
            assert not asked.done()
            router.changed()
            back(fleet, gpu)
            return (await asked).result

        result = asyncio.run(main())
        assert (result.planned.backend, result.ran_on.backend) == ("metal.mlx", "metal.mlx")

    def test_a_model_that_its_restarted_worker_loads_again_is_waited_for(self, make_router, session, fleet, gpu):
        workload = MONTE_CARLO.workload
        gpu.pairs[workload].absent = "its worker is loading the model again"
        router = make_router(ONLY_GPU)

        async def main():
            asked = asyncio.create_task(router.run(MONTE_CARLO, session))
            for _ in range(100):
                await asyncio.sleep(0)
            assert not asked.done()
            fleet.support(workload, {"metal.mlx": None})
            router.changed()
            return (await asked).result.ran_on.backend

        assert asyncio.run(main()) == "metal.mlx"

    @pytest.mark.parametrize(
        "change", [{"state": "failed"}, {"state": "unavailable"}, {"quarantine": "it lies"}, {"unsupported": "no sort"}]
    )
    def test_nobody_waits_for_what_will_not_come_back(self, make_router, session, gpu, change):
        for name, value in change.items():
            setattr(gpu if name == "state" else gpu.pairs[MONTE_CARLO.workload], name, value)
        started = time.perf_counter()
        with pytest.raises(Exception, match="no backend may run"):
            run(make_router(ONLY_GPU), session)
        assert time.perf_counter() - started < 5.0

    def test_no_longer_than_patience_lasts(self, make_router, session, fleet, gpu, monkeypatch):
        monkeypatch.setattr("routerd.execution.PATIENCE_SECONDS", 0.02)
        gpu.worker.script = [ending(fleet, gpu, crash())]
        with pytest.raises(Unavailable) as caught:
            run(make_router(ONLY_GPU), session)
        assert caught.value.message == (
            "metal.mlx: worker metal_gpu/main was ended by SIGSEGV; "
            "metal.mlx: down: worker was ended by SIGSEGV; it is being restarted"
        )


class TestDeadlines:
    """They count from when the request came, whatever the time is spent on."""

    def test_for_a_kernel(self, make_router, session, fleet, gpu):
        gpu.worker.outcome = forever
        with pytest.raises(TaskTimeout, match=r"passed its deadline of 20 ms on metal\.mlx"):
            run(make_router(), session, with_deadline(20.0))
        assert not fleet.backends["ane.coreml"].worker.made

    def test_for_a_worker_that_is_restarted(self, make_router, session, fleet, gpu):
        gpu.worker.script = [ending(fleet, gpu, crash())]
        started = time.perf_counter()
        with pytest.raises(TaskTimeout, match="passed its deadline while it waited for a backend"):
            run(make_router(ONLY_GPU), session, with_deadline(50.0))
        assert 0.04 < time.perf_counter() - started < 5.0

    def test_for_a_plan(self, make_router, session, gpu):
        gpu.state = "down"
        started = time.perf_counter()
        with pytest.raises(Exception, match="no backend may run"):
            run(make_router(ONLY_GPU), session, with_deadline(50.0))
        assert 0.04 < time.perf_counter() - started < 5.0

    def test_the_worker_is_told_when_it_is_too_late_to_start(self, make_router, session, gpu):
        before = time.perf_counter()
        run(make_router(), session, with_deadline(5000.0))
        assert before + 5.0 <= gpu.worker.asked[0]["expires_at"] <= time.perf_counter() + 5.0
        run(make_router(), session)
        assert gpu.worker.asked[1]["expires_at"] is None

    def test_the_second_attempt_has_what_is_left(self, make_router, session, fleet, gpu):
        async def slow_crash(_job):
            await asyncio.sleep(0.05)
            raise crash()

        gpu.worker.outcome = slow_crash
        fleet.backends["ane.coreml"].worker.outcome = forever
        started = time.perf_counter()
        with pytest.raises(TaskTimeout, match=r"deadline of 100 ms on ane\.coreml"):
            run(make_router(), session, with_deadline(100.0))
        assert time.perf_counter() - started < 5.0
        first = gpu.worker.asked[0]["expires_at"]
        assert fleet.backends["ane.coreml"].worker.asked[0]["expires_at"] == first

    def test_a_failure_after_it_is_not_worth_another_attempt(self, make_router, session, fleet, gpu, monkeypatch):
        async def crash_late(_job):
            late = SimpleNamespace(perf_counter=lambda: time.perf_counter() + 3600.0, monotonic=time.monotonic)
            monkeypatch.setattr("routerd.execution.time", late)
            raise crash()

        gpu.worker.outcome = crash_late
        with pytest.raises(WorkerCrashed):
            run(make_router(), session, with_deadline(60_000.0))
        assert not fleet.backends["ane.coreml"].worker.made


class TestWhatIsAskedOfAWorker:
    def test_priority_client_and_predicted_seconds(self, make_router, session, gpu):
        router = make_router()
        plan = router.plan(MONTE_CARLO, session)
        run(router, session, Ask(MONTE_CARLO.workload, {**OPTION, "priority": 7}))
        asked = gpu.worker.asked[0]
        assert (asked["priority"], asked["client"]) == (7, session.number)
        assert asked["seconds"] == pytest.approx(plan.ranking[0].service_seconds)

    def test_a_timed_pair_is_bounded_by_its_prediction_with_what_a_first_task_costs(self, make_router, session, gpu):
        gpu.pairs[MONTE_CARLO.workload].model.cold_seconds = 1e-4
        router = make_router()
        first = router.plan(MONTE_CARLO, session).ranking[0]
        assert first.cold_seconds == 1e-4
        run(router, session)
        expected = gpu.worker.hang_seconds(first.service_seconds + first.cold_seconds)
        assert gpu.worker.asked[0]["limit"] == pytest.approx(expected)

    def test_one_that_was_never_timed_by_the_general_limit(self, make_router, session, fleet):
        for backend in fleet.backends.values():
            backend.pairs[MONTE_CARLO.workload].model = CostModel()
        run(make_router(), session)
        (asked,) = [asked for backend in fleet.backends.values() for asked in backend.worker.asked]
        assert asked["limit"] is None


class TestCounters:
    def test_who_was_planned_who_ran_and_who_failed(self, make_router, session, fleet, gpu):
        gpu.worker.script = [crash(), ExecutionError("raised")]
        router = make_router()
        for _ in range(3):
            run(router, session)
        counts = {name: (one.planned, one.ran, one.failed) for name, one in fleet.backends.items()}
        assert counts == {"metal.mlx": (3, 1, 2), "ane.coreml": (0, 2, 0), "cpu.numpy": (0, 0, 0)}
        assert router.executor.fallbacks == 2


@pytest.mark.parametrize(("left_seconds", "late"), [(0.5e-3, True), (50e-3, False), (-1.0, True)])
def test_a_deadline_that_a_timer_told_a_little_early_has_passed(left_seconds, late):
    """Else the task would go on to the next backend, and end with that one's excuse in place of its deadline."""
    task = SimpleNamespace(workload="linalg.gemm", deadline_seconds=1.0)
    course = _Course(SimpleNamespace(task=task, ranking=()), None, time.perf_counter() - 1.0 + left_seconds)
    assert course.is_late() is late
