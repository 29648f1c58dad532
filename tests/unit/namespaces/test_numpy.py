"""The NumPy namespace: float64, and products written where they are wanted."""

from __future__ import annotations

import numpy as np
import pytest

from routerd.namespaces.numpy import NumpyNamespace


def test_floating_input_becomes_float64_and_float64_is_not_copied() -> None:
    namespace = NumpyNamespace()
    double = np.ones(3)
    assert namespace.from_host(double) is double
    assert namespace.from_host(np.ones(3, dtype=np.float32)).dtype == np.float64


@pytest.mark.parametrize("dtype", ["int64", "int32", "bool", "uint8"])
def test_other_input_keeps_its_dtype(dtype: str) -> None:
    assert NumpyNamespace().from_host(np.ones(3, dtype=dtype)).dtype == dtype


def test_a_product_is_written_into_its_buffer() -> None:
    c = np.full((2, 2), np.nan)
    namespace = NumpyNamespace({"c": c})
    left = np.arange(4.0).reshape(2, 2)
    product = namespace.matmul(left, left, into="c")
    assert product is c
    np.testing.assert_array_equal(c, left @ left)
    assert namespace.matmul(left, left) is not c
    assert namespace.matmul(left, left, into="d") is not c


def test_created_arrays_have_the_contract_s_dtypes() -> None:
    namespace = NumpyNamespace()
    assert namespace.asarray([1, 2]).dtype == np.float64
    assert namespace.asarray(namespace.arange(0, 2)).dtype == np.float64
    assert namespace.arange(2, 5).tolist() == [2, 3, 4]
    assert namespace.arange(2, 5).dtype == np.int64
    assert namespace.zeros((2, 1)).tolist() == [[0.0], [0.0]]


def test_scalars_reach_the_host_as_arrays() -> None:
    assert NumpyNamespace().to_host(np.float64(2.0)).shape == ()
