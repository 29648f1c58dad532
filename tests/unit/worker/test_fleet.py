"""The fleet: who has work, what waits, and what is known of each pair of backend and workload."""

from __future__ import annotations

import pytest

from routerd.costs.model import Point
from routerd.interfaces import BackendSpec
from routerd.worker.fleet import Fleet, Pair
from routerd.worker.supervisor import WorkerSettings
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

    def test_who_has_work_is_a_bit_each_and_told_of(self, fleet):
        heard = []
        fleet.on_busy = heard.append
        first, second = (fleet.backends[name].worker for name in ("cpu.numpy", "ane.coreml"))
        for worker, seconds in ((first, 1.0), (second, 1.0), (first, 0.0), (second, 0.0)):
            worker.load(seconds)
        bits = [1 << fleet.backends[name].worker_number for name in ("cpu.numpy", "ane.coreml")]
        assert heard == [bits[0], bits[0] | bits[1], bits[1], 0]
        assert fleet.busy == 0

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
