"""Tiny work in the caller: what the daemon's contract would compute, counted, and everything else left to the daemon."""

from __future__ import annotations

import math

import numpy as np
import pytest

from routerd.client.core import split_arguments
from routerd.client.local import LocalWork
from routerd.client.table import Table
from routerd.errors import ExecutionError, InvalidArray, InvalidParameter, OutOfMemory
from routerd.namespaces.execution import execute_kernel
from routerd.namespaces.numpy import NumpyNamespace
from routerd.workloads import builtin_workloads

GEMM, MONTE_CARLO, PERFORMANCE = "linalg.gemm", "options.monte_carlo_european", "analytics.performance"
HAIRCUT = "collateral.haircut"
OPTION = {"spot_price": 100.0, "strike_price": 110.0, "volatility": 0.2, "num_simulations": 500}
SMALL = {"a": np.arange(12.0).reshape(3, 4), "b": np.arange(8.0).reshape(4, 2)}
WORKLOADS = {one.name: one for one in builtin_workloads()}


@pytest.fixture
def table(written):
    for slot, name in enumerate((GEMM, MONTE_CARLO, PERFORMANCE, HAIRCUT)):
        written.write(slot, name, in_process=True)
    made = Table(written.reader)
    for slot, name in enumerate((GEMM, MONTE_CARLO, PERFORMANCE, HAIRCUT)):
        written.place(made.view(name), slot)
    return made


@pytest.fixture
def local(table):
    return LocalWork(table)


@pytest.fixture
def run(local):
    """What a client does first for ``run``."""

    def run(workload, arguments):
        view = local.view(workload)
        return view and local.run(view, *split_arguments(workload, arguments))

    return run


class TestHere:
    def test_the_result_is_the_contracts(self, run):
        result = run(GEMM, SMALL)
        (product,) = result.values()
        np.testing.assert_array_equal(product, SMALL["a"] @ SMALL["b"])

    def test_numbers_are_plain_numbers(self, run):
        result = run(MONTE_CARLO, OPTION)
        assert type(result["price"]) is float
        workload = WORKLOADS[MONTE_CARLO]
        params = {one.name: one.default for one in workload.parameters if one.default is not None} | OPTION
        expected = execute_kernel(NumpyNamespace(), workload, params, {}).outputs
        assert result["price"] == expected["price"].item()

    def test_it_says_where_it_ran_and_how_long(self, run):
        result = run(GEMM, SMALL)
        assert result.decision.backend == "in_process.numpy"
        assert (result.planned, result.fallback_reason) == (result.ran_on, None)
        assert (result.ran_on.backend, result.ran_on.device_kind) == ("in_process.numpy", "in_process")
        timing = result.timing
        assert timing.queue_seconds == 0.0
        assert 0.0 < timing.kernel_seconds < timing.total_seconds
        assert timing.transfer_seconds + timing.kernel_seconds == pytest.approx(timing.total_seconds)

    def test_lists_other_dtypes_and_views_are_taken_as_the_daemon_takes_them(self, run):
        expected = SMALL["a"] @ SMALL["b"]
        for a in (SMALL["a"].tolist(), SMALL["a"].astype("float32"), np.asfortranarray(SMALL["a"]),
                  np.repeat(SMALL["a"], 2, axis=1)[:, ::2]):  # fmt: skip
            (product,) = run(GEMM, {"a": a, "b": SMALL["b"]}).values()
            np.testing.assert_array_equal(product, expected)
            assert product.dtype == np.float64

    def test_a_subclass_of_arrays_is_computed_with_as_an_array(self, written):
        workload = WORKLOADS["strategy.backtest_sma_sweep"]
        example = workload.example(300.0, np.random.default_rng(3))
        written.write(9, workload.name, in_process=True)
        local = LocalWork(Table(written.reader))
        view = written.place(local.view(workload.name), 9)
        expected = local.run(view, example.params, example.arrays)
        given = {name: array.view(np.matrix) if array.ndim == 2 else array for name, array in example.arrays.items()}
        assert any(isinstance(array, np.matrix) for array in given.values())
        for output, value in local.run(view, example.params, given).items():
            np.testing.assert_array_equal(value, expected[output])
            assert np.asarray(value).flags.c_contiguous

    def test_what_the_caller_has_set_for_its_own_floating_point_does_not_matter(self, run):
        with np.errstate(all="raise"):
            (product,) = run(GEMM, {"a": np.full((3, 3), 1e200), "b": np.full((3, 3), 1e200)}).values()
        assert np.isinf(product).all()

    def test_results_are_read_only_and_nobodys_input(self, run):
        returns = np.random.default_rng(1).normal(0.0, 0.01, (50, 2))
        result = run(PERFORMANCE, {"returns": returns})
        (statistics,) = result.values()
        before = statistics.copy()
        with pytest.raises(ValueError, match="read-only"):
            statistics[0, 0] = 1.0
        returns[:] = 0.5
        np.testing.assert_array_equal(statistics, before)
        assert returns.flags.writeable

    @pytest.mark.parametrize("name", sorted(WORKLOADS.keys() - {"ml.model"}))
    def test_every_workload_of_the_catalogue_gives_what_its_contract_gives(self, written, name):
        workload = WORKLOADS[name]
        example = workload.example(max(workload.work_range[0], 300.0), np.random.default_rng(3))
        written.write(9, name, in_process=True)
        table = Table(written.reader)
        result = LocalWork(table).run(written.place(table.view(name), 9), example.params, example.arrays)
        params = {one.name: one.default for one in workload.parameters if one.default is not None} | example.params
        expected = execute_kernel(NumpyNamespace(), workload, params, example.arrays).outputs
        assert set(result) == set(expected)
        for output, value in expected.items():
            np.testing.assert_array_equal(np.asarray(result[output]), value)


class TestTheDaemons:
    """What is not for the caller."""

    @pytest.mark.parametrize(
        ("workload", "arguments"),
        [
            (GEMM, {"a": np.zeros((60, 60)), "b": np.zeros((60, 60))}),  # above the limit of service
            (MONTE_CARLO, {**OPTION, "num_simulations": 1_000_000}),
            (MONTE_CARLO, {**OPTION, "deadline_ms": 5.0}),
            (MONTE_CARLO, {**OPTION, "tolerance": 0.1}),
            ("ml.model", {"model": "demo", "x": np.zeros((2, 8))}),
            ("ml.model/credit@1", {"x": np.zeros((2, 8))}),
            ("third.party", {"x": 1.0}),
        ],
    )
    def test_by_what_is_asked(self, run, local, workload, arguments):
        assert run(workload, arguments) is None
        assert local.take_runs() == ()

    def test_where_the_table_names_somebody_else(self, written, run):
        written.write(0, GEMM)
        assert run(GEMM, SMALL) is None

    def test_where_the_table_says_nothing(self, written, run):
        written.writer.withdraw(0)
        assert run(GEMM, SMALL) is None
        written.write(0, GEMM, in_process=True)
        assert run(GEMM, SMALL) is not None
        written.now += 2_000_000_000
        assert run(GEMM, SMALL) is None


class TestErrors:
    @pytest.mark.parametrize(
        ("workload", "arguments", "error"),
        [
            (MONTE_CARLO, {**OPTION, "volatility": -0.2}, InvalidParameter),
            (GEMM, {"a": np.zeros((3, 4)), "b": np.zeros((5, 2))}, InvalidArray),
            (GEMM, {"a": [[1.0, 2.0], [3.0]], "b": np.zeros((2, 2))}, InvalidArray),
        ],
    )
    def test_what_is_no_task_is_said_and_not_counted(self, run, local, workload, arguments, error):
        with pytest.raises(error):
            run(workload, arguments)
        assert local.take_runs() == ()

    def test_content_that_cannot_be_is_said_as_the_worker_says_it(self, run, local):
        with pytest.raises(InvalidArray, match="returns"):
            run(PERFORMANCE, {"returns": np.full((30, 2), math.nan)})
        (told,) = local.take_runs()
        assert (told.count, told.failed, told.samples) == (1, 1, ())

    @pytest.mark.parametrize(
        ("raised", "error"), [(MemoryError("no"), OutOfMemory), (ValueError("odd"), ExecutionError)]
    )
    def test_what_a_kernel_raises_is_said_as_the_worker_says_it(self, run, local, monkeypatch, raised, error):
        def fail(*_arguments):
            raise raised

        monkeypatch.setattr("routerd.namespaces.execution.execute_kernel", fail)
        with pytest.raises(error, match=f"{GEMM} on in_process.numpy raised {type(raised).__name__}: {raised}"):
            run(GEMM, SMALL)
        assert local.take_runs()[0].failed == 1

    def test_a_result_beyond_all_numbers_is_none(self, run, local):
        huge = dict.fromkeys(("quantity", "price", "fx"), np.full(3, 1e300))
        with pytest.raises(ExecutionError, match="scale them to magnitudes that are usual"):
            run(HAIRCUT, {**huge, "haircut": np.zeros(3), "account": np.zeros(3, "int64"), "num_accounts": 1})
        assert local.take_runs()[0].failed == 1


class TestCounting:
    def test_runs_are_told_once_with_samples_of_what_they_took(self, run, local):
        for _ in range(20):
            run(GEMM, SMALL)
        run(MONTE_CARLO, OPTION)
        assert local.count == 21
        told = {one.workload: one for one in local.take_runs()}
        assert {name: (one.count, one.failed) for name, one in told.items()} == {GEMM: (20, 0), MONTE_CARLO: (1, 0)}
        assert len(told[GEMM].samples) == 16
        assert {work for work, _seconds in told[GEMM].samples} == {48.0}
        assert all(0.0 < seconds < 1.0 for _work, seconds in told[GEMM].samples)
        assert (local.take_runs(), local.count) == ((), 0)

    def test_the_first_run_of_a_process_teaches_nothing(self, run, local):
        """It imports the kernels: what a program takes that runs one task would be predicted for all."""
        run(GEMM, SMALL)
        assert [one.samples for one in local.take_runs()] == [()]
        run(GEMM, SMALL)
        run(MONTE_CARLO, OPTION)
        assert {one.workload: len(one.samples) for one in local.take_runs()} == {GEMM: 1, MONTE_CARLO: 0}
