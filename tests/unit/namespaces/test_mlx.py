"""The MLX namespace on the CPU; the same code serves Apple's GPU."""

from __future__ import annotations

import numpy as np
import pytest

mx = pytest.importorskip("mlx.core", reason="MLX is not installed")

from routerd.interfaces import NEEDS  # noqa: E402
from routerd.namespaces.mlx import MlxNamespace  # noqa: E402


@pytest.fixture(scope="module")
def namespace() -> MlxNamespace:
    return MlxNamespace("cpu")


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_floating_input_becomes_float32(namespace: MlxNamespace, dtype: str) -> None:
    array = namespace.from_host(np.array([[0.1, 0.2]], dtype=dtype))
    assert array.dtype == mx.float32
    assert array.tolist() == np.array([[0.1, 0.2]], dtype="float32").tolist()


@pytest.mark.parametrize("dtype", ["int64", "int32", "bool", "uint8"])
def test_other_input_keeps_its_dtype(namespace: MlxNamespace, dtype: str) -> None:
    there = namespace.from_host(np.ones(3, dtype=dtype))
    assert namespace.to_host(there).dtype == np.dtype(dtype)


def test_strided_scalar_and_read_only_input(namespace: MlxNamespace) -> None:
    strided = np.arange(12.0).reshape(3, 4).T[::-1]
    strided.flags.writeable = False
    assert namespace.from_host(strided).tolist() == strided.tolist()
    assert namespace.from_host(np.array(2.0)).shape == ()
    assert namespace.asarray([[1, 2]]).dtype == mx.float32
    assert namespace.asarray(namespace.arange(0, 3)).tolist() == [0.0, 1.0, 2.0]


def test_results_come_back_as_float64_in_a_buffer_where_one_is_given(namespace: MlxNamespace) -> None:
    result = namespace.from_host(np.arange(6.0).reshape(2, 3)) * 2.0
    buffer = np.full((2, 3), np.nan)
    assert namespace.to_host(result, out=buffer) is buffer
    assert buffer.tolist() == [[0.0, 2.0, 4.0], [6.0, 8.0, 10.0]]
    free = namespace.to_host(result, out=np.zeros(4))
    assert free.dtype == np.float64
    assert free.shape == (2, 3)


def test_what_the_standard_names_and_mlx_does_not(namespace: MlxNamespace) -> None:
    values = namespace.from_host(np.array([3.0, 1.0, 3.0, 2.0, 1.0]))
    order = namespace.xp.argsort(values, stable=True)
    assert namespace.to_host(order).dtype == np.int64
    assert order.tolist() == [1, 4, 3, 0, 2]
    assert namespace.xp.cumulative_sum(values).tolist() == [3.0, 4.0, 7.0, 9.0, 10.0]
    assert namespace.xp.astype(values, namespace.integer).dtype == mx.int64


def test_it_says_what_it_lacks(namespace: MlxNamespace) -> None:
    assert "float64" in namespace.lacks
    assert set(namespace.lacks) <= set(NEEDS)
    assert all(namespace.lacks.values())
