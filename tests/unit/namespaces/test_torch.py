"""The torch namespace on the CPU; the same code serves ``mps`` and ``cuda``."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from routerd.namespaces.torch import TorchNamespace  # noqa: E402


@pytest.fixture(scope="module")
def namespace() -> TorchNamespace:
    return TorchNamespace("cpu", "float32")


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_floating_input_becomes_real(namespace: TorchNamespace, dtype: str) -> None:
    tensor = namespace.from_host(np.array([[0.1, 0.2]], dtype=dtype))
    assert tensor.dtype == torch.float32
    assert tensor.tolist() == np.array([[0.1, 0.2]], dtype="float32").tolist()


@pytest.mark.parametrize("dtype", ["int64", "int32", "bool", "uint8"])
def test_other_input_keeps_its_dtype(namespace: TorchNamespace, dtype: str) -> None:
    assert str(namespace.from_host(np.ones(3, dtype=dtype)).dtype) == f"torch.{dtype}"


def test_read_only_strided_and_scalar_input_is_taken_without_a_warning(namespace: TorchNamespace) -> None:
    strided = np.arange(12.0).reshape(3, 4).T[::-1]
    strided.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert namespace.from_host(strided).tolist() == strided.tolist()
        assert namespace.from_host(np.array(2.0)).shape == ()


def test_results_reach_the_host_in_float64(namespace: TorchNamespace) -> None:
    host = namespace.to_host(torch.tensor([1.5, 2.5]))
    assert host.dtype == np.float64
    assert host.tolist() == [1.5, 2.5]
    assert namespace.to_host(torch.tensor([1, 2])).dtype == np.int64


def test_results_are_widened_straight_into_a_buffer_that_fits(namespace: TorchNamespace) -> None:
    buffer = np.full(2, np.nan)
    assert namespace.to_host(torch.tensor([1.5, 2.5]), out=buffer) is buffer
    assert buffer.tolist() == [1.5, 2.5]


@pytest.mark.parametrize("buffer", [np.zeros(3), np.zeros(2, dtype=np.float32), np.zeros(2, dtype=np.int64)])
def test_a_buffer_that_does_not_fit_is_left_alone(namespace: TorchNamespace, buffer: np.ndarray) -> None:
    host = namespace.to_host(torch.tensor([1.5, 2.5]), out=buffer)
    assert host.tolist() == [1.5, 2.5]
    assert not buffer.any()


def test_created_arrays_have_the_namespace_s_dtypes(namespace: TorchNamespace) -> None:
    assert namespace.asarray([[1, 2]]).dtype == torch.float32
    assert namespace.asarray(np.ones(2)).dtype == torch.float32
    assert namespace.asarray(namespace.arange(0, 2)).dtype == torch.float32
    assert namespace.arange(2, 5).tolist() == [2, 3, 4]
    assert namespace.arange(2, 5).dtype == torch.int64
    assert namespace.zeros((2, 1)).dtype == torch.float32


def test_lower_product_precision_rounds_products_only() -> None:
    namespace = TorchNamespace("cpu", "float32", "bfloat16")
    fine = namespace.asarray([[1.0 + 2.0**-12]])
    assert float(fine[0, 0]) == 1.0 + 2.0**-12
    product = namespace.matmul(fine, namespace.asarray([[1.0]]))
    assert product.dtype == torch.float32
    assert float(product[0, 0]) == 1.0
