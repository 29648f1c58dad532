"""A task in pieces gives what it gives as a whole."""

from __future__ import annotations

import numpy as np
import pytest

from routerd.errors import ExecutionError
from routerd.interfaces import Execution
from routerd.namespaces.execution import execute_kernel
from routerd.namespaces.numpy import NumpyNamespace
from routerd.worker.pieces import execute_in_pieces
from routerd.workloads import builtin_workloads
from routerd.workloads.content import relative_error

WORKLOADS = {workload.name: workload for workload in builtin_workloads()}


def example_of(name, work):
    workload = WORKLOADS[name]
    example = workload.example(work, np.random.default_rng(4))
    defaults = {one.name: one.default for one in workload.parameters if one.default is not None}
    return workload, {**defaults, **example.params}, example.arrays


@pytest.mark.parametrize("name", ["linalg.gemm", "risk.var_historical", "options.monte_carlo_european"])
def test_pieces_make_the_whole(name):
    workload, params, arrays = example_of(name, 1e5)
    runs = []

    def execute(part, inputs):
        done = execute_kernel(NumpyNamespace(), workload, part, inputs)
        runs.append(done)
        return done._replace(kernel_seconds=1e-3, device_bytes=1000 + len(runs))

    whole = execute_in_pieces(workload, params, arrays, 3, execute)

    assert len(runs) == 3
    contract = execute_kernel(NumpyNamespace(), workload, params, arrays).outputs
    assert relative_error(workload, whole.outputs, contract) <= workload.tolerance
    assert whole.kernel_seconds == pytest.approx(3e-3)
    assert whole.device_bytes == 1003


def test_what_cannot_be_cut_that_often_runs_in_fewer():
    workload, params, arrays = example_of("linalg.gemm", 1e3)
    done = Execution({"c": np.ones((1, 3))}, 0.0, 1e-3)
    small = {"a": np.ones((1, 2)), "b": np.ones((2, 3))}
    del arrays
    assert execute_in_pieces(workload, params, small, 4, lambda *_part: done) is done


def test_a_workload_that_does_not_split_is_refused():
    workload, params, arrays = example_of("portfolio.markowitz", 1e4)
    with pytest.raises(ExecutionError, match="does not split"):
        execute_in_pieces(workload, params, arrays, 2, lambda *_part: pytest.fail("nothing may run"))
