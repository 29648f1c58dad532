"""From files in the directory to the version that a request gets, over stand-in workers."""

from __future__ import annotations

import asyncio

import pytest

from routerd.calibrator import Calibrator
from routerd.errors import (
    InvalidModel,
    OutOfMemory,
    TaskTimeout,
    Unavailable,
    UnknownModel,
    UnknownWorkload,
    WorkerCrashed,
)
from routerd.model_keeper import ModelKeeper
from routerd.models.description import ArrayDescription, Description
from routerd.models.repository import ModelFile, Refusal, Scan
from routerd.protocol import Ask
from routerd.releases import Releases
from routerd.types import ArrayRef
from routerd.worker import messages
from routerd.worker.queue import Answer

X, Y = ArrayDescription("x", ("batch", 8), "float64"), ArrayDescription("y", ("batch", 2), "float64")
REFUSED = "it needs torch"


def file(version=1, model="credit", edition=0, name="m.safetensors"):
    return ModelFile(model, version, name, ((name, edition, 100, 7),))


def found(*files, refusals=()):
    return Scan(tuple(files), tuple(refusals))


class Bench:
    """What one worker answers: a digest by workload or an exception, and the error that a proof measures."""

    def __init__(self, worker):
        self.worker = worker
        self.asked = []
        self.refuses = False
        self.loads = {}
        self.errors = {}
        self.gate = asyncio.Event()
        self.gate.set()
        self.waits = False
        worker.ask = self.ask

    async def ask(self, make, *, seconds, priority, limit=None):
        job, _descriptors = make(1)
        self.asked.append(job)
        await asyncio.sleep(0)
        if isinstance(job, messages.Adopt):
            return Answer(self._adopt(job), [], 0.0, 0.0)
        assert isinstance(job, messages.Prove)
        assert priority == 0, "a model's first proof must not wait behind tasks"
        self.waits = not self.gate.is_set()
        await self.gate.wait()
        self.waits = False
        error = self.errors.get(job.workload, 1e-7)
        if isinstance(error, Exception):
            raise error
        return Answer(messages.Proved(1, error, 0.1), [], 0.0, 0.0)

    def _adopt(self, job):
        backend = self.worker.specs[0].name
        if self.refuses:
            return messages.Adopted(1, None, {backend: REFUSED})
        answer = self.loads.get(job.workload, "d" * 64)
        if isinstance(answer, Exception):
            raise answer
        if job.digest is not None and job.digest != answer:
            raise InvalidModel("the file has changed")
        return messages.Adopted(1, Description(answer, 100, ".safetensors", (X,), (Y,), 320.0), {backend: None})

    @property
    def adopted(self):
        return [job.workload for job in self.asked if isinstance(job, messages.Adopt)]


@pytest.fixture(autouse=True)
def no_factories(monkeypatch):
    monkeypatch.setattr("routerd.calibrator.fingerprint", lambda spec, _device, code: f"{spec.name} {code}")


@pytest.fixture
def scenario(fleet, store, make_router, session, tmp_path):
    """Runs ``play(stage)`` on an event loop with everything that a daemon has for models."""

    class Stage:
        def __init__(self):
            self.benches = {name: Bench(backend.worker) for name, backend in fleet.backends.items()}
            self.fleet, self.changes = fleet, []
            self.router = make_router()
            self.releases = self.router.releases
            self.calibrator = Calibrator(
                fleet, store, run_seconds=0.1, when_idle=False, on_change=lambda _workload: None
            )
            self.keeper = ModelKeeper(
                tmp_path, 1 << 20, fleet, self.releases, self.calibrator, lambda: self.changes.append(1)
            )

        async def take(self, *files, refusals=(), settled=True):
            self.keeper.take(found(*files, refusals=refusals), settled=settled)
            await self.settle()

        async def settle(self):
            """Until the keeper has nothing to do, or waits at a gate."""
            async with asyncio.timeout(20.0):
                while self.keeper._tasks and not any(bench.waits for bench in self.benches.values()):
                    await asyncio.sleep(0.001)

        def served(self, model="credit", version=None):
            params = {"model": model} | ({} if version is None else {"version": version})
            return self.releases.resolve(params).name

        def states(self):
            return {one.get("workload") or one["path"]: one["state"] for one in self.releases.report()}

    def run(play):
        async def main():
            stage = Stage()
            try:
                return await play(stage)
            finally:
                await stage.keeper.stop()

        return asyncio.run(main())

    return run


class TestServing:
    def test_the_newest_version_serves_and_others_by_number(self, scenario):
        async def play(stage):
            await stage.take(file(1), file(3), file(2), file(1, "other"))
            assert stage.served() == "ml.model/credit@3"
            assert stage.served(version=1) == "ml.model/credit@1"
            assert stage.served(version=2.0) == "ml.model/credit@2"
            assert stage.served("other") == "ml.model/other@1"
            assert stage.states() == {
                "ml.model/credit@3": "serving",
                "ml.model/credit@2": "standby",
                "ml.model/credit@1": "standby",
                "ml.model/other@1": "serving",
            }

        scenario(play)

    def test_demo_is_always_there_and_wrong_types_are_left_to_the_check(self, scenario):
        async def play(stage):
            for params in ({"model": "demo"}, {}, {"model": 3}, {"model": "credit", "version": "3"}, {"version": True}):
                assert stage.releases.resolve(params).name == "ml.model"

        scenario(play)

    def test_what_is_not_there_is_told_with_what_is(self, scenario):
        async def play(stage):
            await stage.take(file(1), file(2))
            with pytest.raises(UnknownModel, match=r"no model credti \(did you mean credit\?\)"):
                stage.served("credti")
            with pytest.raises(UnknownModel, match="model credit has no version 7, it has 1, 2"):
                stage.served(version=7)
            with pytest.raises(UnknownWorkload, match=r"a model is ml\.model/name"):
                stage.router.workload("ml.model/a/b")

        scenario(play)

    def test_names_with_and_without_a_version(self, scenario):
        async def play(stage):
            await stage.take(file(1), file(2))
            assert stage.router.workload("ml.model/credit").name == "ml.model/credit@2"
            assert stage.router.workload("ml.model/credit@1").name == "ml.model/credit@1"

        scenario(play)

    def test_a_task_carries_model_and_version_and_policies_know_the_declared_name(self, scenario, session):
        async def play(stage):
            await stage.take(file(4))
            ask = Ask("ml.model", {"model": "credit"}, {"x": ArrayRef((5, 8), "float64")})
            task, facts = stage.router.question(ask, session)
            assert task.workload == "ml.model/credit@4"
            assert task.params == {"model": "credit", "version": 4}
            assert (facts["workload.name"], facts["workload.family"]) == ("ml.model", "ml")
            assert (facts["task.model"], facts["task.model_version"], facts["task.batch"]) == ("credit", 4, 5)

        scenario(play)

    def test_policies_for_ml_model_hold_for_every_model(self, scenario, session, make_router):
        async def play(stage):
            await stage.take(file(1))
            constraints = (
                "constraints:\n"
                "  - {id: exact, when: {workload.name: ml.model}, deny: [metal_gpu]}\n"
                '  - {id: glob, when: {workload.name: "ml.*", task.model: "cred*"}, deny: [neural_engine]}\n'
            )
            router = make_router(constraints)
            ask = Ask("ml.model/credit@1", {}, {"x": ArrayRef((5, 8), "float64")})
            decision = router.plan(ask, session).decision
            assert decision.backend == "cpu.numpy"
            assert {one.backend for one in decision.rejected} == {"metal.mlx", "ane.coreml"}

        scenario(play)


class TestTakingOver:
    def test_the_old_version_serves_until_the_new_one_is_proved(self, scenario):
        async def play(stage):
            for name in ("cpu.numpy", "ane.coreml"):
                stage.benches[name].refuses = True
            await stage.take(file(1))
            bench = stage.benches["metal.mlx"]
            bench.gate.clear()
            await stage.take(file(1), file(2))
            assert stage.served() == "ml.model/credit@1"
            assert stage.states()["ml.model/credit@2"] == "proving"
            with pytest.raises(
                Unavailable, match=r"credit@2 is not ready yet: it is being proved on metal\.mlx; retry in 1 s"
            ):
                stage.served(version=2)
            bench.gate.set()
            bench.waits = False
            await stage.settle()
            assert stage.served() == "ml.model/credit@2"
            assert stage.changes

        scenario(play)

    def test_a_first_version_says_that_it_is_not_ready(self, scenario):
        async def play(stage):
            for backend in stage.fleet.backends.values():
                backend.state = "starting"
            await stage.take(file(1))
            with pytest.raises(Unavailable, match="is not ready yet: it is being loaded for") as caught:
                stage.served()
            assert caught.value.detail["retry_after_seconds"] > 0.0

        scenario(play)

    @pytest.mark.parametrize("error", [0.2, 2e-3, float("nan"), InvalidModel("kernel"), Unavailable("gone")])
    def test_a_version_that_is_not_proved_never_takes_over(self, scenario, error):
        async def play(stage):
            for name in ("cpu.numpy", "ane.coreml"):
                stage.benches[name].refuses = True
            stage.benches["metal.mlx"].errors["ml.model/credit@2"] = error
            await stage.take(file(1), file(2))
            assert stage.served() == "ml.model/credit@1"
            report = {one["workload"]: one for one in stage.releases.report()}
            assert report["ml.model/credit@2"]["state"] == "failed"
            assert "metal.mlx" in report["ml.model/credit@2"]["reason"]
            with pytest.raises(Unavailable, match=r"credit@2 cannot be served: metal\.mlx"):
                stage.served(version=2)

        scenario(play)

    def test_a_broken_version_is_listed_with_its_reason_while_the_old_one_serves(self, scenario):
        async def play(stage):
            for bench in stage.benches.values():
                bench.loads["ml.model/credit@2"] = InvalidModel("it is a pickled checkpoint")
            await stage.take(file(1), file(2))
            assert stage.served() == "ml.model/credit@1"
            report = {one["workload"]: one for one in stage.releases.report()}
            assert (report["ml.model/credit@2"]["state"], report["ml.model/credit@2"]["reason"]) == (
                "failed",
                "it is a pickled checkpoint",
            )

        scenario(play)

    def test_a_file_that_no_backend_runs_says_so(self, scenario):
        async def play(stage):
            for bench in stage.benches.values():
                bench.refuses = True
            await stage.take(file(1, name="m.mlpackage"))
            with pytest.raises(Unavailable, match="cannot be served: it needs torch"):
                stage.served()

        scenario(play)

    def test_new_content_of_a_version_takes_over_when_it_is_proved(self, scenario):
        async def play(stage):
            for name in ("cpu.numpy", "ane.coreml"):
                stage.benches[name].refuses = True
            await stage.take(file(1, edition=1))
            bench = stage.benches["metal.mlx"]
            bench.loads["ml.model/credit@1.2"] = "e" * 64
            bench.gate.clear()
            await stage.take(file(1, edition=2))
            assert stage.served() == "ml.model/credit@1"
            bench.gate.set()
            bench.waits = False
            await stage.settle()
            assert stage.served() == stage.served(version=1) == "ml.model/credit@1.2"
            assert "ml.model/credit@1" not in stage.fleet.workloads
            assert messages.Release("ml.model/credit@1") in stage.benches["metal.mlx"].worker.told

        scenario(play)

    def test_broken_content_of_a_version_leaves_the_old_one_in_place(self, scenario):
        async def play(stage):
            await stage.take(file(1, edition=1))
            for bench in stage.benches.values():
                bench.loads["ml.model/credit@1.2"] = InvalidModel("it ends early")
            await stage.take(file(1, edition=2))
            assert stage.served() == "ml.model/credit@1"
            assert stage.states()["ml.model/credit@1.2"] == "failed"
            for bench in stage.benches.values():
                bench.loads["ml.model/credit@1.3"] = "f" * 64
            await stage.take(file(1, edition=3))
            assert stage.states() == {"ml.model/credit@1.3": "serving"}

        scenario(play)


class TestWatching:
    def test_a_file_must_look_the_same_twice(self, scenario):
        async def play(stage):
            await stage.take(file(1, edition=1), settled=False)
            await stage.take(file(1, edition=2), settled=False)
            assert stage.benches["cpu.numpy"].adopted == []
            await stage.take(file(1, edition=2), settled=False)
            assert stage.benches["cpu.numpy"].adopted == ["ml.model/credit@1"]
            await stage.take(file(1, edition=2), settled=False)
            assert stage.benches["cpu.numpy"].adopted == ["ml.model/credit@1"]

        scenario(play)

    def test_one_that_vanishes_for_a_moment_stays(self, scenario):
        async def play(stage):
            await stage.take(file(1))
            await stage.take()
            assert stage.served() == "ml.model/credit@1"
            await stage.take(file(1))
            await stage.take()
            assert stage.served() == "ml.model/credit@1"
            await stage.take()
            with pytest.raises(UnknownModel):
                stage.served()

        scenario(play)

    def test_removing_the_newest_version_goes_back_to_the_one_before(self, scenario):
        async def play(stage):
            await stage.take(file(1), file(2))
            for _ in range(2):
                await stage.take(file(1))
            assert stage.served() == "ml.model/credit@1"
            assert "ml.model/credit@2" not in stage.fleet.workloads

        scenario(play)

    def test_a_version_in_use_is_freed_when_its_request_has_ended(self, scenario):
        async def play(stage):
            await stage.take(file(1))
            with stage.releases.using("ml.model/credit@1"), stage.releases.using("ml.model"):
                for _ in range(2):
                    await stage.take()
                assert "ml.model/credit@1" in stage.fleet.workloads
            assert "ml.model/credit@1" not in stage.fleet.workloads
            assert all(not backend.pairs.get("ml.model/credit@1") for backend in stage.fleet.backends.values())

        scenario(play)

    def test_what_is_no_model_is_reported(self, scenario):
        async def play(stage):
            await stage.take(file(1), refusals=[Refusal("Credit", "lower case")])
            assert stage.states() == {"ml.model/credit@1": "serving", "Credit": "refused"}

        scenario(play)

    def test_a_directory_that_cannot_be_read_leaves_what_serves(self, scenario, monkeypatch):
        def unreadable(_root):
            raise PermissionError("denied")

        async def play(stage):
            await stage.take(file(1))
            monkeypatch.setattr("routerd.model_keeper.scan", unreadable)
            for _ in range(3):
                await stage.keeper._look()
            assert stage.served() == "ml.model/credit@1"

        scenario(play)


class TestWorkers:
    def down(self, stage, name):
        backend = stage.fleet.backends[name]
        stage.fleet._down(backend.worker, "worker was ended by SIGKILL")
        return backend

    def test_a_new_worker_gets_every_model_and_nothing_is_proved_again(self, scenario, session):
        async def play(stage):
            await stage.take(file(1), file(2))
            bench = stage.benches["metal.mlx"]
            backend = self.down(stage, "metal.mlx")
            assert stage.served() == "ml.model/credit@2"
            bench.asked.clear()
            backend.state = "ready"
            assert "loading the model again" in backend.objection("ml.model/credit@2")
            stage.keeper.backend_ready(backend)
            await stage.settle()
            assert sorted(bench.adopted) == ["ml.model/credit@1", "ml.model/credit@2"]
            assert {type(job) for job in bench.asked} == {messages.Adopt}
            assert backend.objection("ml.model/credit@2") is None

        scenario(play)

    def test_other_workers_keep_what_they_hold_meanwhile(self, scenario):
        async def play(stage):
            await stage.take(file(1))
            self.down(stage, "metal.mlx")
            assert stage.fleet.backends["cpu.numpy"].objection("ml.model/credit@1") is None

        scenario(play)

    def test_a_file_that_ends_its_worker_is_given_up(self, scenario):
        async def play(stage):
            bench = stage.benches["metal.mlx"]
            bench.loads["ml.model/credit@1"] = WorkerCrashed("worker metal_gpu/main was ended by SIGSEGV")
            await stage.take(file(1))
            for _ in range(5):
                stage.keeper.backend_ready(stage.fleet.backends["metal.mlx"])
                await stage.settle()
            assert bench.adopted == ["ml.model/credit@1"] * 3
            assert "SIGSEGV" in stage.fleet.backends["metal.mlx"].objection("ml.model/credit@1")
            assert stage.served() == "ml.model/credit@1"

        scenario(play)

    def test_a_file_that_hangs_its_worker_is_not_tried_again(self, scenario):
        async def play(stage):
            bench = stage.benches["metal.mlx"]
            bench.loads["ml.model/credit@1"] = TaskTimeout("the task did not end within 60 s")
            await stage.take(file(1))
            stage.keeper.backend_ready(stage.fleet.backends["metal.mlx"])
            await stage.settle()
            assert bench.adopted == ["ml.model/credit@1"]
            assert "within 60 s" in stage.fleet.backends["metal.mlx"].objection("ml.model/credit@1")

        scenario(play)

    def test_one_worker_without_memory_does_not_stop_the_others(self, scenario):
        async def play(stage):
            stage.benches["metal.mlx"].loads["ml.model/credit@1"] = OutOfMemory("no memory")
            await stage.take(file(1))
            assert stage.served() == "ml.model/credit@1"
            assert stage.fleet.backends["metal.mlx"].objection("ml.model/credit@1") == "no memory"

        scenario(play)

    def test_workers_must_find_the_same_content(self, scenario):
        async def play(stage):
            stage.fleet.backends["metal.mlx"].state = "starting"
            await stage.take(file(1))
            stage.benches["metal.mlx"].loads["ml.model/credit@1"] = "e" * 64
            stage.fleet.backends["metal.mlx"].state = "ready"
            stage.keeper.backend_ready(stage.fleet.backends["metal.mlx"])
            await stage.settle()
            assert "has changed" in stage.fleet.backends["metal.mlx"].objection("ml.model/credit@1")

        scenario(play)


def test_what_was_proved_is_kept_for_the_same_content_alone(scenario):
    async def first(stage):
        await stage.take(file(1))

    async def again(stage):
        stage.fleet.remove_workload("ml.model/credit@1")
        await stage.take(file(1))
        return {type(job) for bench in stage.benches.values() for job in bench.asked}

    async def changed(stage):
        stage.fleet.remove_workload("ml.model/credit@1")
        for bench in stage.benches.values():
            bench.loads["ml.model/credit@1"] = "e" * 64
        await stage.take(file(1))
        return {type(job) for bench in stage.benches.values() for job in bench.asked}

    scenario(first)
    assert scenario(again) == {messages.Adopt}
    assert scenario(changed) == {messages.Adopt, messages.Prove}


def test_the_gain_of_a_model_that_the_contract_cannot_run_is_told_against_the_slowest_candidate(scenario, session):
    async def play(stage):
        stage.benches["cpu.numpy"].refuses = True
        await stage.take(file(1))
        ask = Ask("ml.model", {"model": "credit"}, {"x": ArrayRef((500, 8), "float64")})
        for name, rate in (("metal.mlx", 1e-9), ("ane.coreml", 4e-9)):
            model = stage.fleet.backends[name].pairs["ml.model/credit@1"].model
            for _ in range(31):
                model.observe(500 * 320.0, 500 * 320.0 * rate)
        decision = stage.router.plan(ask, session).decision
        assert decision.backend == "metal.mlx"
        assert decision.estimated_gain == pytest.approx(
            decision.fallbacks[0].predicted_seconds / decision.predicted_seconds
        )
        assert decision.estimated_gain > 2.0
        assert "cpu.numpy" not in decision.reasoning

    scenario(play)


def test_without_models_there_is_only_the_demo(fleet):
    assert Releases(fleet).report() == []
