"""Deciding and falling back, over stand-in workers."""

from __future__ import annotations

import asyncio
import math

import pytest

from routerd.errors import (
    ExecutionError,
    InvalidArray,
    InvalidParameter,
    NoCandidate,
    OutOfMemory,
    Overloaded,
    TaskTimeout,
    Unavailable,
    UnknownSegment,
    UnknownWorkload,
    WorkerCrashed,
)
from routerd.protocol import Ask
from routerd.types import ArrayRef
from routerd.worker import messages
from routerd.worker.queue import Answer

OPTION = {"spot_price": 100.0, "strike_price": 110.0, "volatility": 0.2, "num_simulations": 10_000_000}
MONTE_CARLO = Ask("options.monte_carlo_european", OPTION)


def run(router, session, ask=MONTE_CARLO):
    return asyncio.run(router.run(ask, session))


class TestDeciding:
    def test_the_fastest_takes_it_and_the_rest_follow(self, make_router, session):
        decision = make_router().plan(MONTE_CARLO, session).decision
        assert decision.backend == "metal.mlx"
        assert [one.backend for one in decision.fallbacks] == ["ane.coreml", "cpu.numpy"]
        assert decision.primary_hardware == "metal_gpu"
        way = 60e-6  # to a worker and back, before anything was learnt of it
        assert decision.estimated_gain == pytest.approx((way + 1e-5 + 1e-2) / (way + 1e-5 + 1e-3), rel=0.02)
        assert decision.confidence > 0.99

    def test_a_queue_counts(self, make_router, session, fleet):
        fleet.backends["metal.mlx"].worker.load(1.0)
        plan = make_router().plan(MONTE_CARLO, session)
        assert plan.decision.backend == "ane.coreml"
        waiting = next(one for one in plan.ranking if one.backend == "metal.mlx")
        assert waiting.predicted_seconds == pytest.approx(1.0 + waiting.transfer_seconds + waiting.service_seconds)

    def test_an_unproved_quarantined_or_inexact_backend_is_rejected_with_its_reason(self, make_router, session, fleet):
        fleet.backends["metal.mlx"].pairs[MONTE_CARLO.workload].error = None
        fleet.backends["ane.coreml"].pairs[MONTE_CARLO.workload].quarantine = "relative error 0.3"
        decision = make_router().plan(MONTE_CARLO, session).decision
        reasons = {one.backend: one.reason for one in decision.rejected}
        assert reasons == {
            "metal.mlx": "not yet proved on this machine",
            "ane.coreml": "quarantined: relative error 0.3",
        }
        exact = make_router().plan(Ask(MONTE_CARLO.workload, {**OPTION, "tolerance": 0.0}), session).decision
        assert exact.backend == "cpu.numpy"

    @pytest.mark.parametrize(
        ("environment", "backend", "reason"),
        [
            ({"GPU_ACCELERATION": "0"}, "metal.mlx", "switched off by GPU_ACCELERATION"),
            ({"METAL_ACCELERATION": "0"}, "metal.mlx", "switched off by METAL_ACCELERATION"),
            ({"NEURAL_ENGINE_ENABLED": "0"}, "ane.coreml", "switched off by NEURAL_ENGINE_ENABLED"),
            ({"AUTO_HARDWARE_ROUTING": "0"}, "ane.coreml", "automatic routing is off (AUTO_HARDWARE_ROUTING)"),
        ],
    )
    def test_flags_switch_backends_off(self, make_router, session, environment, backend, reason):
        decision = make_router(environment=environment).plan(MONTE_CARLO, session).decision
        assert {one.backend: one.reason for one in decision.rejected}[backend] == reason

    def test_large_work_prefers_the_gpu_until_something_is_timed(self, make_router, session, fleet):
        from routerd.costs.model import CostModel

        for backend in fleet.backends.values():
            backend.pairs[MONTE_CARLO.workload].model = CostModel()
        router = make_router()
        large = router.plan(MONTE_CARLO, session).decision
        assert large.backend == "metal.mlx"
        assert "not yet timed here: ane.coreml, cpu.numpy, metal.mlx" in large.reasoning
        small = router.plan(Ask(MONTE_CARLO.workload, {**OPTION, "num_simulations": 100}), session).decision
        assert small.backend == "ane.coreml"  # the first by name among equals

    def test_a_constraint_is_never_escaped(self, make_router, session):
        router = make_router("constraints: [{id: gpu, allow: [metal_gpu]}]")
        assert [one.backend for one in router.plan(MONTE_CARLO, session).ranking] == ["metal.mlx"]
        with pytest.raises(NoCandidate) as caught:
            router.plan(Ask(MONTE_CARLO.workload, {**OPTION, "tolerance": 0.0}), session)
        reasons = {one["backend"]: one["reason"] for one in caught.value.detail["rejected"]}
        assert reasons["cpu.numpy"].startswith("not allowed by constraint gpu (test.yaml:4)")
        assert "exceeds tolerance" in reasons["metal.mlx"]

    def test_unknown_workloads_get_the_nearest_name(self, make_router, session):
        with pytest.raises(UnknownWorkload, match=r"did you mean linalg\.gemm"):
            make_router().plan(Ask("linalg.gem"), session)

    def test_work_alone_is_enough_to_decide(self, make_router, session):
        router = make_router()
        plan = router.plan(Ask(MONTE_CARLO.workload, work=1e7), session)
        whole = router.plan(MONTE_CARLO, session).decision
        assert (plan.decision.work, plan.decision.backend) == (1e7, "metal.mlx")
        assert plan.decision.predicted_seconds == pytest.approx(whole.predicted_seconds)
        assert "task.bytes" not in plan.facts

    @pytest.mark.parametrize(
        ("ask", "words"),
        [
            (Ask(MONTE_CARLO.workload, OPTION, work=1e6), "work stands for the whole task"),
            (Ask("linalg.gemm", {}, {"a": ArrayRef((2, 2), "float64")}, work=1e6), "work stands for the whole task"),
            (Ask("linalg.gemm", work=0.0), "work must be a finite number above 0"),
            (Ask("linalg.gemm", work=-1.0), "work must be a finite number above 0"),
            (Ask("linalg.gemm", work=math.nan), "work must be a finite number above 0"),
            (Ask("linalg.gemm", work=math.inf), "work must be a finite number above 0"),
        ],
    )
    def test_but_not_beside_anything_else(self, make_router, session, ask, words):
        with pytest.raises(InvalidParameter, match=words):
            make_router().plan(ask, session)

    def test_nor_to_run(self, make_router, session, fleet):
        with pytest.raises(InvalidParameter, match="only to decide"):
            run(make_router(), session, Ask("linalg.gemm", work=1e6))
        assert not any(backend.worker.made for backend in fleet.backends.values())

    def test_ids_grow(self, make_router):
        router = make_router()
        ids = [router.next_id() for _ in range(1000)]
        assert ids == sorted(set(ids))
        assert {len(one) for one in ids} == {20}


class TestFallingBack:
    @pytest.mark.parametrize(
        ("error", "word"),
        [
            (Unavailable("gone"), "unavailable"),
            (OutOfMemory("full"), "out_of_memory"),
            (TaskTimeout("slow"), "timeout"),
            (WorkerCrashed("dead"), "crash"),
            (ExecutionError("raised"), "crash"),
        ],
    )
    def test_the_policy_says_after_what(self, make_router, session, fleet, error, word):
        fleet.backends["metal.mlx"].worker.outcome = error
        router = make_router(f"fallback: {{on: [{word}], max_attempts: 3}}")
        result = run(router, session).result
        assert (result.planned.backend, result.ran_on.backend) == ("metal.mlx", "ane.coreml")
        assert result.fallback_reason == f"metal.mlx: {error.message}"
        assert router.executor.fallbacks == 1
        others = [one for one in ("unavailable", "out_of_memory", "timeout", "crash") if one != word]
        strict = make_router(f"fallback: {{on: {others}, max_attempts: 3}}".replace("'", ""))
        with pytest.raises(type(error), match=error.message):
            run(strict, session)
        assert (strict.executor.fallbacks, strict.failed) == (0, 1)

    def test_every_attempt_is_told_and_counted(self, make_router, session, fleet):
        for name in ("metal.mlx", "ane.coreml"):
            fleet.backends[name].worker.outcome = WorkerCrashed(f"{name} dead")
        result = run(make_router(), session).result
        assert result.ran_on.backend == "cpu.numpy"
        assert result.fallback_reason == "metal.mlx: metal.mlx dead; ane.coreml: ane.coreml dead"
        limited = make_router("fallback: {max_attempts: 2}")
        with pytest.raises(WorkerCrashed, match=r"ane\.coreml dead"):
            run(limited, session)

    def test_a_fault_of_the_request_is_not_tried_again(self, make_router, session, fleet):
        fleet.backends["metal.mlx"].worker.outcome = InvalidArray("NaN")
        with pytest.raises(InvalidArray):
            run(make_router(), session)
        assert fleet.backends["ane.coreml"].worker.made == []

    def test_flags_can_forbid_it(self, make_router, session, fleet):
        fleet.backends["metal.mlx"].worker.outcome = WorkerCrashed("dead")
        with pytest.raises(WorkerCrashed):
            run(make_router(environment={"GPU_FALLBACK_ENABLED": "0"}), session)

    def test_a_backend_that_went_down_since_the_plan_is_passed_over(self, make_router, session, fleet):
        router = make_router()
        plan = router.plan

        def plan_then_crash(*arguments, **options):
            made = plan(*arguments, **options)
            fleet.backends["metal.mlx"].state, fleet.backends["metal.mlx"].reason = "down", "it was killed"
            return made

        router.plan = plan_then_crash
        result = run(router, session).result
        assert result.fallback_reason == "metal.mlx: down: it was killed"
        assert fleet.backends["metal.mlx"].worker.made == []

    def test_a_passed_deadline_is_not_worth_another_attempt(self, make_router, session, fleet):
        async def forever(_job):
            await asyncio.Event().wait()

        fleet.backends["metal.mlx"].worker.outcome = forever
        with pytest.raises(TaskTimeout, match=r"passed its deadline of 5 ms on metal\.mlx"):
            run(make_router(), session, Ask(MONTE_CARLO.workload, {**OPTION, "deadline_ms": 5.0}))
        assert fleet.backends["ane.coreml"].worker.made == []


class TestChanges:
    def test_everybody_is_told_what_may_come_out_differently(self, make_router, session, policy_of):
        router, heard = make_router(), []
        router.on_change = lambda workload, minor: heard.append((workload, minor))
        before = router.plan(MONTE_CARLO, session).decision
        router.changed("linalg.gemm", minor=True)
        router.changed()
        router.activate(policy_of("constraints: [{id: no, deny: [metal_gpu]}]", generation=2))
        assert heard == [("linalg.gemm", True), (None, False), (None, False)]
        assert router.epoch == 3
        assert (before.backend, router.plan(MONTE_CARLO, session).decision.backend) == ("metal.mlx", "ane.coreml")

    def test_what_is_known_counts_once_that_is_said(self, make_router, session, fleet):
        router = make_router()
        assert router.plan(MONTE_CARLO, session).decision.backend == "metal.mlx"
        fleet.backends["metal.mlx"].state = "down"
        router.changed()
        assert router.plan(MONTE_CARLO, session).decision.backend == "ane.coreml"

    def test_idle_is_when_no_worker_has_work(self, make_router, fleet):
        router = make_router()
        assert router.idle
        fleet.backends["ane.coreml"].worker.load(1.0)
        assert not router.idle
        fleet.backends["ane.coreml"].worker.load(0.0)
        assert router.idle

    def test_exploration_follows_the_policy(self, make_router, policy_of):
        router = make_router("exploration: {budget: 2%}")
        assert router.explorer.budget == 0.02
        router.activate(policy_of("exploration: {budget: 0}", generation=2))
        assert router.explorer.budget == 0.0


class TestLearning:
    """What a run teaches, on a router whose worker takes as long as the test says."""

    @pytest.fixture
    def router(self, make_router):
        return make_router("exploration: {budget: 0}")

    @pytest.fixture
    def pair(self, fleet):
        return fleet.backends["metal.mlx"].pairs[MONTE_CARLO.workload]

    @pytest.fixture
    def take(self, fleet):
        """Sets what the worker of ``metal.mlx`` takes: service, and the way there and back."""
        worker = fleet.backends["metal.mlx"].worker

        def take(service, way=60e-6):
            async def ask(make, **_options):
                job, _descriptors = make(len(worker.made) + 1)
                worker.made.append(job)
                return Answer(messages.Executed(job.id, job.client, {}, 0.0, service), [], 0.0, service + way)

            worker.ask = ask

        return take

    def test_a_run_that_is_as_predicted_changes_nothing(self, router, session, pair, take):
        take(pair.model.predict(1e7).seconds)
        for _ in range(30):
            run(router, session)
        assert router.epoch == 0
        assert (router.executed, pair.used) == (30, 30)

    def test_a_lasting_change_is_learnt_and_told_of(self, router, session, pair, take):
        heard = []
        router.on_change = lambda workload, minor: heard.append((workload, minor))
        before = pair.model.predict(1e7).seconds
        take(3.0 * before)
        for _ in range(30):
            run(router, session)
        assert pair.model.predict(1e7).seconds == pytest.approx(3.0 * before, rel=0.15)
        assert set(heard) == {(MONTE_CARLO.workload, True)}
        assert router.epoch == len(heard) < 30

    def test_the_reply_goes_first(self, router, session, pair, take):
        async def one():
            await router.run(MONTE_CARLO, session)
            before = pair.model.observations
            await asyncio.sleep(0)
            return before, pair.model.observations

        take(1e-3)
        assert asyncio.run(one()) == (0, 1)

    def test_a_first_task_since_a_start_tells_of_cold_cost_alone(self, router, session, pair, fleet, take):
        heard = []
        router.on_change = lambda workload, minor: heard.append((workload, minor))
        pair.model.cold_seconds = 1e-4
        curve = pair.model.curve
        take(1.0)
        decision = run(router, session).result.decision
        assert "of it because this is its first task since its start" in decision.reasoning
        assert pair.warm_in == fleet.backends["metal.mlx"].worker.incarnation
        assert (pair.model.curve, pair.model.observations) == (curve, 0)
        assert heard == [(MONTE_CARLO.workload, False)]
        warm = router.plan(MONTE_CARLO, session).decision
        assert warm.predicted_seconds == pytest.approx(decision.predicted_seconds - 1e-4)
        run(router, session)
        assert pair.model.observations == 1

    def test_drift_is_told_of_once(self, router, session, pair, take):
        drifts = []
        router.on_drift = lambda: drifts.append(pair.model.observations)
        take(2.0 * pair.model.predict(1e7).seconds)
        for _ in range(40):
            run(router, session)
        assert pair.model.drifted
        assert drifts == [16]

    def test_brief_tasks_of_a_well_known_pair_are_reckoned_with_together(
        self, router, session, pair, take, monkeypatch
    ):
        reckoned = []
        good = pair.model.reckon
        monkeypatch.setattr(pair.model, "reckon", lambda: reckoned.append(pair.model.observations) or good())
        take(1e-4)
        for _ in range(44):
            run(router, session)
        assert reckoned == [*range(1, 33), 36, 40, 44]
        take(2e-3)  # one that is worth it by itself
        run(router, session)
        assert reckoned[-1] == 45

    def test_the_way_there_and_back_is_learnt_for_every_workload(self, router, session, pair, take):
        heard = []
        router.on_change = lambda workload, minor: heard.append((workload, minor))
        take(pair.model.predict(1e7).seconds, way=200e-6)
        for _ in range(20):
            run(router, session)
        assert set(heard) == {(None, True)}
        other = router.plan(Ask("linalg.gemm", work=1e9), session)
        way = next(one.transfer_seconds for one in other.ranking if one.backend == "metal.mlx")
        assert 150e-6 < way < 210e-6

    def test_a_model_that_went_meanwhile_teaches_nothing(self, router, session, fleet, take):
        async def one():
            await router.run(MONTE_CARLO, session)
            del fleet.backends["metal.mlx"].pairs[MONTE_CARLO.workload]
            await asyncio.sleep(0)

        take(1e-3)
        asyncio.run(one())
        assert router.epoch == 0


class TestRunning:
    def test_segments_are_let_go_however_it_ends(self, make_router, session, fleet):
        segment = session.alloc(1 << 16)
        ask = Ask("linalg.gemm", {}, {
            "a": ArrayRef((64, 64), "float64", segment.info.segment), "b": ArrayRef((64, 64), "float64", segment.info.segment),
        })  # fmt: skip
        router = make_router()
        run(router, session, ask)
        for backend in fleet.backends.values():
            backend.worker.outcome = WorkerCrashed("dead")
        with pytest.raises(WorkerCrashed):
            run(router, session, ask)
        session.free([segment.info.segment])
        assert segment.release() is True

    def test_segments_travel_once(self, make_router, session, fleet):
        segment = session.alloc(1 << 16)
        ref = ArrayRef((64, 64), "float64", segment.info.segment)
        router = make_router()
        for _ in range(2):
            run(router, session, Ask("linalg.gemm", {}, {"a": ref, "b": ref}))
        worker = next(backend.worker for backend in fleet.backends.values() if backend.worker.made)
        assert [len(job.attach) for job in worker.made] == [1, 0]

    def test_foreign_segments_never_reach_a_worker(self, make_router, session, fleet):
        ref = ArrayRef((64, 64), "float64", 987654)
        with pytest.raises(UnknownSegment):
            run(make_router(), session, Ask("linalg.gemm", {}, {"a": ref, "b": ref}))
        assert not any(backend.worker.made for backend in fleet.backends.values())

    def test_a_full_queue_says_when_to_come_back(self, make_router, session, fleet):
        for backend in fleet.backends.values():
            backend.worker.load(1.0)
        with pytest.raises(Overloaded, match=r"the policy admits 0\.2 s; retry later") as caught:
            run(make_router("admission: {max_queue_ms: 200}"), session)
        assert caught.value.detail["retry_after_seconds"] == pytest.approx(0.8)

    def test_what_is_recorded(self, make_router, session, store):
        for mode, kept in (("all", 1), ("runs", 1), ("none", 0)):
            before = store.recorded
            run(make_router(f"record: {{decisions: {mode}}}"), session)
            assert store.recorded - before == kept

    def test_what_is_redacted(self, make_router, session, store):
        router = make_router("record: {redact: [client.name, task.params]}")
        result = run(router, session).result
        record = store.decision(result.decision.decision_id)
        assert "tester" not in str(record)
        assert record.params == {}
