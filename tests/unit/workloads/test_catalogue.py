"""What holds for every workload: its examples bind, cost what was asked, and survive float32."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest

from routerd.errors import InvalidParameter
from routerd.interfaces import Example, Namespace, Workload
from routerd.namespaces.execution import refusal
from routerd.types import ArrayRef
from routerd.workloads import builtin_workloads
from routerd.workloads.binding import bind, output_shape
from routerd.workloads.content import relative_error

every_workload = pytest.mark.parametrize("workload", builtin_workloads(), ids=lambda workload: workload.name)
_TEST_WORK = 1e5
_TEST_OPERATIONS = 5e7


def _works(workload: Workload) -> list[float]:
    low, high = workload.work_range
    return list(np.geomspace(low, min(high, _TEST_OPERATIONS if workload.matmul_bound else _TEST_WORK), 4))


class Computed(NamedTuple):
    """An example and what the contract gives for it."""

    example: Example
    outputs: dict[str, Any]


@pytest.fixture(scope="module")
def contract(run: Callable[..., dict[str, Any]]) -> Callable[[str, int, int], Computed]:
    """``contract(name, number, seed)``: of the workload's ``number``-th size; computed once for all that is compared with it."""
    workloads = {workload.name: workload for workload in builtin_workloads()}

    @cache
    def computed(name: str, number: int, seed: int) -> Computed:
        workload = workloads[name]
        example = workload.example(_works(workload)[number], np.random.default_rng(seed))
        return Computed(example, run(workload, example.arrays, **example.params))

    return computed


def skip_where_refused(workload: Workload, namespace: Namespace) -> None:
    reason = refusal(workload, namespace)
    if reason is not None:
        pytest.skip(reason)


def test_names_are_unique_and_sorted() -> None:
    names = [workload.name for workload in builtin_workloads()]
    assert names == sorted(set(names))


def test_importing_the_catalogue_loads_no_numeric_library() -> None:
    code = (
        "import sys; from routerd.workloads import builtin_workloads; assert builtin_workloads(); "
        "print(','.join(sorted({'numpy', 'torch', 'scipy'} & set(sys.modules))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@every_workload
def test_examples_bind_and_cost_what_was_asked(workload: Workload) -> None:
    for work in _works(workload):
        example = workload.example(work, np.random.default_rng(1))
        refs = {name: ArrayRef(shape=array.shape, dtype=str(array.dtype)) for name, array in example.arrays.items()}
        task = bind(workload, example.params, refs, need_content=False)
        assert work / 2 <= task.work <= work * 2


@every_workload
def test_outputs_have_the_declared_names_and_shapes(workload: Workload, run: Callable[..., dict[str, Any]]) -> None:
    example = workload.example(_works(workload)[1], np.random.default_rng(2))
    refs = {name: ArrayRef(shape=array.shape, dtype=str(array.dtype)) for name, array in example.arrays.items()}
    task = bind(workload, example.params, refs, need_content=False)
    outputs = run(workload, example.arrays, **example.params)
    assert outputs.keys() == {array.name for array in workload.outputs}
    for array in workload.outputs:
        known = output_shape(array, task.dims)  # None where only the kernel can tell
        assert outputs[array.name].ndim == len(array.shape)
        assert known is None or outputs[array.name].shape == known


@every_workload
@pytest.mark.parametrize("seed", range(3))
def test_float64_on_torch_agrees_with_the_contract(
    workload: Workload,
    seed: int,
    run: Callable[..., dict[str, Any]],
    contract: Callable[[str, int, int], Computed],
    namespace_named: Callable[[str], Namespace],
) -> None:
    precise = namespace_named("torch-float64")
    skip_where_refused(workload, precise)
    example, expected = contract(workload.name, 2, seed)
    outputs = run(workload, example.arrays, namespace=precise, **example.params)
    assert relative_error(workload, outputs, expected) < 1e-11


@every_workload
@pytest.mark.parametrize("seed", range(3))
def test_float32_stays_within_the_default_tolerance(
    workload: Workload,
    seed: int,
    single: Namespace,
    run: Callable[..., dict[str, Any]],
    contract: Callable[[str, int, int], Computed],
) -> None:
    skip_where_refused(workload, single)
    for number in range(len(_works(workload))):
        example, expected = contract(workload.name, number, seed)
        outputs = run(workload, example.arrays, namespace=single, **example.params)
        assert relative_error(workload, outputs, expected) <= workload.tolerance / 2


@pytest.mark.parametrize("name", ["linalg.gemm", "ml.mlp_inference"])
def test_bfloat16_products_do_not_pass_for_float32(name: str, run: Callable[..., dict[str, Any]]) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    from routerd.namespaces.torch import TorchNamespace

    workload = next(workload for workload in builtin_workloads() if workload.name == name)
    example = workload.example(1e6, np.random.default_rng(0))
    contract = run(workload, example.arrays, **example.params)
    rounded = run(workload, example.arrays, namespace=TorchNamespace("cpu", "float32", "bfloat16"), **example.params)
    assert workload.tolerance < relative_error(workload, rounded, contract) < 0.05


@every_workload
def test_bounded_parameters_are_refused_beyond_their_limits(workload: Workload) -> None:
    example = workload.example(_works(workload)[0], np.random.default_rng(0))
    refs = {name: ArrayRef(shape=array.shape, dtype=str(array.dtype)) for name, array in example.arrays.items()}
    for parameter in workload.parameters:
        if parameter.type in ("int", "float"):
            assert parameter.minimum is not None and parameter.maximum is not None, f"{parameter.name} is unbounded"
            for wrong in (parameter.minimum - 1, parameter.maximum * 10 + 10):
                with pytest.raises(InvalidParameter, match=parameter.name):
                    bind(workload, {**example.params, parameter.name: wrong}, refs, need_content=False)
