"""Kernels on namespaces: the stages, the buffers, and what happens when memory runs out."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np
import pytest

from routerd.errors import OutOfMemory
from routerd.namespaces.execution import execute_kernel, is_out_of_memory, refusal
from routerd.namespaces.numpy import NumpyNamespace
from routerd.workloads.linalg import GEMM


def raising(error: Exception) -> Any:
    def kernel(namespace: object, params: object, arrays: object) -> dict[str, Any]:
        raise error

    return dataclasses.replace(GEMM, kernel=kernel)


def test_a_kernel_runs_and_its_stages_are_timed() -> None:
    a, b = np.arange(6.0).reshape(2, 3), np.arange(12.0).reshape(3, 4)
    execution = execute_kernel(NumpyNamespace(), GEMM, {}, {"a": a, "b": b})
    np.testing.assert_array_equal(execution.outputs["c"], a @ b)
    assert execution.transfer_seconds >= 0.0
    assert execution.kernel_seconds > 0.0


def test_a_backend_may_run_a_kernel_of_its_own() -> None:
    a = np.eye(2)
    own = execute_kernel(NumpyNamespace(), GEMM, {}, {"a": a, "b": a}, kernel=lambda *_: {"c": a + 1.0})
    np.testing.assert_array_equal(own.outputs["c"], a + 1.0)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 1 PiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 8 bytes"),
        RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)\nhint"),
        RuntimeError("[metal::malloc] Attempting to allocate 9 bytes which is greater than"),
        RuntimeError("[malloc] Unable to allocate 9 bytes."),
        RuntimeError("[METAL] Command buffer execution failed: Insufficient Memory (00000008)."),
    ],
)
def test_running_out_of_memory_has_one_name(error: Exception) -> None:
    with pytest.raises(OutOfMemory, match=r"linalg\.gemm needs more memory than numpy can get") as caught:
        execute_kernel(NumpyNamespace(), raising(error), {}, {"a": np.ones((1, 1))})
    assert caught.value.__cause__ is error
    assert "\n" not in caught.value.message


def test_other_errors_pass_unchanged() -> None:
    error = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    assert not is_out_of_memory(error)
    with pytest.raises(RuntimeError) as caught:
        execute_kernel(NumpyNamespace(), raising(error), {}, {"a": np.ones((1, 1))})
    assert caught.value is error


class Poor(NumpyNamespace):
    name = "poor"
    lacks: ClassVar[dict[str, str]] = {"sort": "it keeps no order"}


def test_a_need_that_a_namespace_lacks_is_a_reason_not_an_exception() -> None:
    sorting = dataclasses.replace(GEMM, needs=frozenset({"sort", "scatter"}))
    assert refusal(sorting, NumpyNamespace()) is None
    assert refusal(sorting, Poor()) == "linalg.gemm needs sorting, in a stable order: it keeps no order"
    assert refusal(GEMM, Poor()) is None


def test_what_is_written_for_numpy_alone_runs_there_alone() -> None:
    only = dataclasses.replace(GEMM, cpu_only=True)
    assert refusal(only, NumpyNamespace()) is None
    assert refusal(only, Poor()) == "linalg.gemm is written for NumPy alone"
