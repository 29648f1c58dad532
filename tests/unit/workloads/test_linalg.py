"""The matrix product: shapes, the output buffer, and what NaN does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from routerd.errors import InvalidArray
from routerd.namespaces.numpy import NumpyNamespace
from routerd.workloads.linalg import GEMM

Run = Callable[..., dict[str, Any]]


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 2), (64, 1, 64), (40, 70, 30)])
def test_product_is_the_sum_over_the_inner_dimension(shape: tuple[int, int, int], run: Run) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal(shape[:2]), rng.standard_normal(shape[1:])
    assert run(GEMM, {"a": a, "b": b})["c"] == pytest.approx(
        (a[:, :, None] * b[None]).sum(axis=1), rel=1e-11, abs=1e-12
    )


def test_the_product_lands_in_the_output_buffer() -> None:
    buffer = np.empty((2, 2))
    result = GEMM.kernel(NumpyNamespace({"c": buffer}), {}, {"a": np.eye(2), "b": np.full((2, 2), 3.0)})["c"]
    assert result is buffer and buffer.tolist() == [[3.0, 3.0], [3.0, 3.0]]


def test_factors_that_do_not_fit_are_refused(run: Run) -> None:
    with pytest.raises(InvalidArray, match="k=3"):
        run(GEMM, {"a": np.ones((2, 3)), "b": np.ones((4, 2))})


def test_nan_propagates(run: Run) -> None:
    a = np.ones((2, 2))
    a[0, 0] = np.nan
    assert np.isnan(run(GEMM, {"a": a, "b": np.eye(2)})["c"]).tolist() == [[True, True], [False, False]]
    assert not any(array.finite for array in (*GEMM.inputs, *GEMM.outputs))
