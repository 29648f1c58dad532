"""The fleet: who has work, what waits, and what is known of each pair of backend and workload."""

from __future__ import annotations

import asyncio

import pytest

from routerd.costs.model import Point
from routerd.interfaces import BackendSpec
from routerd.worker import messages
from routerd.worker.breaker import FAILURES
from routerd.worker.fleet import Fleet, Pair
from routerd.worker.launch import WorkerSettings
from routerd.workloads import builtin_workloads

GEMM = "linalg.gemm"


class TestWorkers:
    def test_each_has_a_number_and_backends_of_one_group_share_theirs(self):
        names = {"cpu.numpy": "numpy", "cpu.torch": "torch", "cpu.torch_bf16": "torch"}
        specs = [
            BackendSpec(name=name, device_kind="cpu", precision="float32", factory="none:None", group=group)
            for name, group in names.items()
        ]
        fleet = Fleet(specs, {one.name: one for one in builtin_workloads()}, WorkerSettings(1, 8192, 60.0, 60.0))
        numbers = {name: backend.worker_number for name, backend in fleet.backends.items()}
        assert numbers == {"cpu.numpy": 0, "cpu.torch": 1, "cpu.torch_bf16": 1}
        assert all(fleet.workers[backend.worker_number] is backend.worker for backend in fleet.backends.values())

    def test_none_is_started_for_backends_that_are_known_to_be_absent(self):
        specs = [
            BackendSpec(name=name, device_kind=kind, precision="float32", factory="none:None", absent=absent)
            for name, kind, absent in (
                ("cpu.numpy", "cpu", ""),
                ("metal.mlx", "metal_gpu", "no Metal device"),
                ("cuda.torch", "cuda_gpu", ""),
                ("cuda.torch_bf16", "cuda_gpu", "too old a card"),
            )
        ]
        fleet = Fleet(specs, {one.name: one for one in builtin_workloads()}, WorkerSettings(1, 8192, 60.0, 60.0))
        assert [worker.name for worker in fleet.workers] == ["cpu/main", "cuda_gpu/main"]
        assert [spec.name for spec in fleet.workers[1].specs] == ["cuda.torch"]
        states = {name: (backend.state, backend.reason) for name, backend in fleet.backends.items()}
        assert states["metal.mlx"] == ("unavailable", "no Metal device")
        assert states["cuda.torch_bf16"] == ("unavailable", "too old a card")
        assert states["cuda.torch"][0] == "starting"
        assert fleet.backends["metal.mlx"].objection(GEMM) == "unavailable: no Metal device"

    def test_who_has_work_is_a_bit_each_and_told_of(self, fleet):
        heard = []
        fleet.on_busy = heard.append
        first, second = (fleet.backends[name].worker for name in ("cpu.numpy", "ane.coreml"))
        for worker, seconds in ((first, 1.0), (second, 1.0), (first, 0.0), (second, 0.0)):
            worker.load(seconds)
        bits = [1 << fleet.backends[name].worker_number for name in ("cpu.numpy", "ane.coreml")]
        assert heard == [bits[0], bits[0] | bits[1], bits[1], 0]
        assert fleet.busy == 0

    def test_queues_are_asked_for_the_client_in_question(self, fleet, monkeypatch):
        worker = fleet.backends["metal.mlx"].worker
        worker.load(1.0)
        monkeypatch.setattr(worker, "queue_seconds", lambda client=-1: {-1: 0.5, 7: 2.0}[client])
        number = fleet.backends["metal.mlx"].worker_number
        assert (fleet.queues(), fleet.queues(7)) == ({number: 0.5}, {number: 2.0})

    def test_queues_are_those_of_workers_that_have_work(self, fleet):
        assert fleet.queues() == {}
        fleet.backends["metal.mlx"].worker.load(0.25)
        assert fleet.queues() == {fleet.backends["metal.mlx"].worker_number: 0.25}
        fleet.backends["metal.mlx"].worker.load(0.0)
        assert fleet.queues() == {}


class TestPairs:
    @pytest.fixture
    def backend(self, fleet):
        return fleet.backends["metal.mlx"]

    def test_a_pair_is_cold_until_it_has_run_in_its_workers_present_incarnation(self, backend):
        pair = backend.pairs[GEMM]
        assert backend.cold_seconds(pair) == 0.0  # nobody knows that it costs anything
        pair.model.cold_seconds = 0.5
        assert backend.cold_seconds(pair) == 0.5
        pair.warm_in = backend.worker.incarnation
        assert backend.cold_seconds(pair) == 0.0
        backend.worker.incarnation += 1
        assert backend.cold_seconds(pair) == 0.5

    def test_what_is_known_comes_back_but_not_that_it_is_warm(self, backend):
        pair = backend.pairs[GEMM]
        pair.model.cold_seconds, pair.warm_in = 0.5, backend.worker.incarnation
        pair.model.calibrate([Point(1e3, 1e-3, 0.1), Point(1e4, 1e-2, 0.1)])
        restored = Pair(GEMM, None)
        restored.restore(pair.knowledge())
        assert restored.model.points == pair.model.points
        assert (restored.error, restored.quarantine) == (pair.error, None)
        assert backend.cold_seconds(restored) == 0.5

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"unsupported": "needs float64", "quarantine": "it lies"}, "needs float64"),
            ({"absent": "loading again", "quarantine": "it lies"}, "loading again"),
            ({"quarantine": "it lies", "error": None}, "quarantined: it lies"),
            ({"error": None}, "not yet proved on this machine"),
            ({}, None),
        ],
    )
    def test_the_first_thing_that_keeps_a_pair_from_work_is_told(self, backend, change, reason):
        for name, value in change.items():
            setattr(backend.pairs[GEMM], name, value)
        assert backend.objection(GEMM) == reason

    def test_an_open_breaker_keeps_tasks_away_once_all_else_is_well(self, backend):
        pair = backend.pairs[GEMM]
        for _ in range(FAILURES):
            pair.breaker.failed("it raised", 0.0)
        assert backend.objection(GEMM).startswith("breaker open, ")
        assert backend.objection("risk.var_historical") is None
        pair.quarantine = "it lies"
        assert backend.objection(GEMM) == "quarantined: it lies"

    def test_a_backend_whose_worker_has_just_ended_takes_nothing(self, backend):
        backend.worker.up = False
        assert backend.objection(GEMM) == "down: its worker has just ended"

    def test_a_backend_that_is_not_ready_says_so_first(self, backend):
        backend.state, backend.reason = "down", "it is being restarted"
        backend.pairs[GEMM].quarantine = "it lies"
        assert backend.objection(GEMM) == "down: it is being restarted"
        backend.state = "ready"
        assert backend.objection("ml.model/credit@1") == "has not loaded this model yet"


def test_a_workload_is_wanted_once(fleet):
    heard = []
    fleet.on_want = lambda: heard.append(set(fleet.wanted))
    for name in (GEMM, GEMM, "risk.var_historical"):
        fleet.want(name)
    assert heard == [{GEMM}, {GEMM, "risk.var_historical"}]


class TestComingBack:
    """Which backends are waited for, and how those who wait hear of it."""

    @pytest.fixture
    def backend(self, fleet):
        return fleet.backends["metal.mlx"]

    @pytest.mark.parametrize(
        ("state", "likely"),
        [("down", True), ("silent", True), ("ready", False), ("starting", False), ("unavailable", False), ("failed", False)],
    )  # fmt: skip
    def test_what_was_there_and_is_being_restarted_is_likely_to_come_back(self, backend, state, likely):
        backend.state = state
        assert backend.may_recover(GEMM) is likely

    @pytest.mark.parametrize(
        "change", [{"unsupported": "no"}, {"quarantine": "it lies"}, {"error": None}],
    )  # fmt: skip
    def test_a_pair_that_could_not_take_tasks_will_not_either(self, backend, change):
        backend.state = "down"
        for name, value in change.items():
            setattr(backend.pairs[GEMM], name, value)
        assert not backend.may_recover(GEMM)
        assert not backend.may_recover("ml.model/credit@1")

    def test_so_is_a_pair_that_is_to_be_probed_a_model_that_is_loaded_again_and_a_worker_that_has_just_ended(
        self, backend
    ):
        for _ in range(FAILURES):
            backend.pairs[GEMM].breaker.failed("it raised", 0.0)
        assert backend.may_recover(GEMM)
        assert not backend.may_recover("risk.var_historical")
        backend.pairs["risk.var_historical"].absent = "its worker is loading the model again"
        assert backend.may_recover("risk.var_historical")
        backend.worker.up = False
        assert backend.may_recover("analytics.performance")

    def test_every_way_up_and_down_is_heard_of(self, fleet, backend):
        worker, changes = backend.worker, []
        fleet._on_change = changes.append
        loaded = messages.Loaded(1, backend.device, dict.fromkeys(fleet.workloads), 0.5)

        async def main():
            for change, state in (
                (lambda: fleet._pulse(worker, "it does not answer"), "silent"),
                (lambda: fleet._pulse(worker, ""), "ready"),
                (lambda: fleet._down(worker, "it was ended by SIGKILL"), "down"),
                (lambda: fleet._loaded(backend.spec, loaded), "ready"),
                (lambda: fleet.support(GEMM, {"metal.mlx": None}), "ready"),
            ):
                waiting = [asyncio.create_task(fleet.moved()) for _ in range(3)]
                await asyncio.sleep(0)
                assert not any(task.done() for task in waiting)  # what was before is no news
                change()
                async with asyncio.timeout(5.0):
                    await asyncio.gather(*waiting)
                assert backend.state == state

        asyncio.run(main())
        assert changes == [None, None, None, backend]

    def test_a_silent_backend_takes_no_task_and_says_why(self, fleet, backend):
        fleet._pulse(backend.worker, "its process is stopped")
        assert backend.objection(GEMM) == "silent: its process is stopped"
        fleet._pulse(backend.worker, "")
        assert backend.objection(GEMM) is None

    def test_a_pulse_changes_nothing_of_a_backend_that_is_not_there(self, fleet, backend):
        for state in ("down", "unavailable", "failed"):
            backend.state = state
            for words in ("it does not answer", ""):
                fleet._pulse(backend.worker, words)
                assert backend.state == state

    def test_an_end_while_loading_three_times_in_a_row_is_given_up(self, fleet, backend):
        for count in range(1, 5):
            fleet._down(backend.worker, "it was ended by SIGSEGV")
            assert backend.state == ("failed" if count == 4 else "down")  # the first end was in the midst of its work
        assert backend.reason == "it was ended by SIGSEGV while loading, 3 times in a row"

    def test_an_end_while_it_was_silent_is_not_one_while_loading(self, fleet, backend):
        fleet._pulse(backend.worker, "its process is stopped")
        for _ in range(3):
            fleet._down(backend.worker, "it was silent for 5 s")
            assert backend.state == "down"

    def test_a_load_that_succeeds_begins_anew(self, fleet, backend):
        loaded = messages.Loaded(1, backend.device, dict.fromkeys(fleet.workloads), 0.5)
        for _ in range(4):
            for _ in range(3):
                fleet._down(backend.worker, "it was ended by SIGSEGV")
            fleet._loaded(backend.spec, loaded)
            assert (backend.state, backend.reason) == ("ready", "")
