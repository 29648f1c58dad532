"""What fits on a device, what runs there in pieces, and what goes elsewhere."""

from __future__ import annotations

import pytest

from routerd.errors import NoCandidate
from routerd.flags import load_flags
from routerd.planner import Planner
from routerd.routing.ground import FITS_BYTES
from routerd.types import Device, Task

GEMM, MARKOWITZ = "linalg.gemm", "portfolio.markowitz"
MB = 10**6


def task(nbytes, workload=GEMM, work=1e9):
    return Task(workload, {}, {}, {}, work, nbytes, 1e-5)


@pytest.fixture
def free():
    """Bytes free by device kind, as a sensor would say."""
    return {"metal_gpu": 400.0 * MB}


@pytest.fixture
def planner(fleet, free):
    return Planner(fleet, load_flags({}), free_bytes=free.get)


@pytest.fixture
def decide(planner, policy_of):
    def decide(nbytes, body="", workload=GEMM):
        active = policy_of(body)
        return planner.decide(task(nbytes, workload), active.compiled.verdict({}), active, "id")

    return decide


def of(ranking, backend):
    return next(one for one in ranking if one.backend == backend)


class TestFits:
    def test_what_fits_is_left_alone(self, planner):
        assert planner.memory.fits(task(100 * MB)) == {}

    def test_a_task_that_splits_runs_in_pieces(self, planner):
        fit = planner.memory.fits(task(1000 * MB))["metal.mlx"]
        assert fit.pieces == 6  # twice its bytes, into nine tenths of what is free
        assert fit.reason == "needs about 2 GB of the device's memory, of which 360 MB can be had: in 6 pieces"

    def test_one_that_does_not_split_cannot_run_there(self, planner):
        fit = planner.memory.fits(task(1000 * MB, MARKOWITZ))["metal.mlx"]
        assert fit.pieces == 0
        assert f"{MARKOWITZ} does not split" in fit.reason

    def test_nor_can_one_of_very_many_pieces(self, planner, free):
        free["metal_gpu"] = 1.0 * MB
        assert "more than 64 pieces" in planner.memory.fits(task(1000 * MB))["metal.mlx"].reason

    def test_nor_can_any_where_nothing_is_free(self, planner, free):
        free["metal_gpu"] = 0.0
        assert planner.memory.fits(task(1000 * MB))["metal.mlx"].pieces == 0

    def test_the_device_s_own_size_counts_without_a_sensor(self, fleet, planner, free):
        free.clear()
        assert planner.memory.fits(task(1000 * MB)) == {}
        fleet.backends["metal.mlx"].device = Device(kind="metal_gpu", name="small", memory_bytes=400 * MB)
        assert planner.memory.fits(task(1000 * MB))["metal.mlx"].pieces == 6

    def test_what_a_kernel_was_seen_to_hold_counts(self, fleet, planner):
        pair = fleet.backends["metal.mlx"].pairs[GEMM]
        pair.note_footprint(100 * MB, 500 * MB)
        assert planner.memory.fits(task(100 * MB))["metal.mlx"].pieces == 2
        for _ in range(30):
            pair.note_footprint(100 * MB, 100 * MB)
        assert planner.memory.fits(task(100 * MB)) == {}

    def test_what_the_worker_keeps_of_earlier_tasks_is_there_for_the_next(self, fleet, planner, free):
        backend = fleet.backends["metal.mlx"]
        backend.note_memory(backend.pairs[GEMM], 300 * MB, 600 * MB)
        free["metal_gpu"] = 100.0 * MB
        assert planner.memory.fits(task(300 * MB)) == {}
        backend.worker.incarnation += 1
        assert planner.memory.fits(task(300 * MB))["metal.mlx"].pieces == 7

    def test_the_processor_holds_the_task_already(self, planner, free):
        free["cpu"] = 1.0
        assert "cpu.numpy" not in planner.memory.fits(task(1000 * MB))


class TestDecisions:
    def test_pieces_are_told(self, decide):
        decision, ranking = decide(1000 * MB)
        assert decision.backend == "metal.mlx"
        assert of(ranking, "metal.mlx").pieces == 6
        assert of(ranking, "cpu.numpy").pieces == 1
        assert "in 6 pieces" in decision.reasoning

    def test_what_cannot_be_cut_goes_elsewhere_and_says_why(self, decide):
        decision, _ranking = decide(1000 * MB, workload=MARKOWITZ)
        assert decision.backend != "metal.mlx"
        reasons = {one.backend: one.reason for one in decision.rejected}
        assert "does not split" in reasons["metal.mlx"]

    def test_where_the_policy_allows_no_other_the_reason_is_the_error(self, decide):
        with pytest.raises(NoCandidate, match="does not split"):
            decide(1000 * MB, "constraints: [{id: only, allow: [metal_gpu]}]\n", workload=MARKOWITZ)

    def test_small_tasks_are_not_compared(self, decide, free):
        free["metal_gpu"] = 0.0
        decision, ranking = decide(FITS_BYTES)
        assert decision.backend == "metal.mlx"
        assert of(ranking, "metal.mlx").pieces == 1


def test_the_table_leaves_large_tasks_to_the_daemon(table_setting, fleet):
    assert table_setting().reader.entry(GEMM).most_bytes is None  # nobody knows how large the devices are
    fleet.backends["metal.mlx"].device = Device(kind="metal_gpu", name="known", memory_bytes=3200 * MB)
    entry = table_setting().reader.entry(GEMM)
    assert entry.spans(nbytes=100 * MB)
    assert entry.spans(nbytes=100 * MB + 1) == ()
