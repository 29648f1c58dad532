"""The namespace on the processor: the same code as on a card, but for page-locked memory."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from routerd_cuda.namespace import CudaNamespace  # noqa: E402


@pytest.fixture(scope="module")
def namespace() -> CudaNamespace:
    return CudaNamespace("cpu")


def test_input_becomes_float32_and_integers_stay(namespace: CudaNamespace) -> None:
    strided = np.arange(12.0).reshape(3, 4).T[::-1]
    strided.flags.writeable = False
    there = namespace.from_host(strided)
    assert there.dtype == torch.float32
    assert there.tolist() == strided.tolist()
    assert namespace.from_host(np.array([1, 2])).dtype == torch.int64
    assert namespace.from_host(np.array(2.5)).item() == 2.5


def test_results_are_widened_straight_into_a_buffer_that_fits(namespace: CudaNamespace) -> None:
    buffer = np.full((2, 2), np.nan)
    assert namespace.to_host(torch.tensor([[1.5, 2.5], [3.5, 4.5]]), out=buffer) is buffer
    assert buffer.tolist() == [[1.5, 2.5], [3.5, 4.5]]
    whole = np.zeros(2, dtype=np.int64)
    assert namespace.to_host(torch.tensor([7, 8]), out=whole) is whole


@pytest.mark.parametrize("buffer", [np.zeros(3), np.zeros(2, dtype=np.float32), np.zeros(4)[::2], None])
def test_a_buffer_that_does_not_fit_is_left_alone(namespace: CudaNamespace, buffer: np.ndarray | None) -> None:
    host = namespace.to_host(torch.tensor([1.5, 2.5]), out=buffer)
    assert (host.dtype, host.tolist()) == (np.float64, [1.5, 2.5])
    assert buffer is None or not buffer.any()


@pytest.mark.parametrize("count", [1, 3, 1000])
@pytest.mark.parametrize("rows", [0, 1, 5000])
def test_sums_over_groups_are_those_of_numpy(namespace: CudaNamespace, rows: int, count: int) -> None:
    rng = np.random.default_rng(rows + count)
    groups, values = rng.integers(0, count, rows), rng.normal(size=rows).astype(np.float32)
    sums = namespace.sum_by(namespace.from_host(values), namespace.from_host(groups), count)
    assert sums.dtype == torch.float32
    np.testing.assert_allclose(sums.numpy(), np.bincount(groups, values, minlength=count), rtol=1e-6, atol=1e-6)


def test_groups_may_be_numbered_in_32_bits(namespace: CudaNamespace) -> None:
    groups = namespace.from_host(np.array([1, 0, 1], dtype=np.int32))
    assert namespace.sum_by(namespace.asarray([1.0, 2.0, 4.0]), groups, 3).tolist() == [2.0, 5.0, 0.0]


@pytest.mark.parametrize(("shape", "axis"), [((1,), -1), ((7,), 0), ((3, 100), 1), ((33, 2), 0), ((2, 5, 16), 2)])
def test_running_sums_are_added_in_a_fixed_order(
    namespace: CudaNamespace, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], axis: int
) -> None:
    def scan(*_: object, **__: object) -> None:
        raise AssertionError("torch's own scan of floating numbers differs from run to run on a card")

    monkeypatch.setattr(torch, "cumsum", scan)
    values = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    given = namespace.from_host(values)
    sums = namespace.xp.cumulative_sum(given, axis=axis)
    np.testing.assert_allclose(sums.numpy(), np.cumsum(values.astype(float), axis=axis), rtol=1e-5, atol=1e-5)
    sums += 1.0
    np.testing.assert_array_equal(given.numpy(), values)  # the sums are an array of their own


def test_whole_numbers_are_scanned_by_torch(namespace: CudaNamespace) -> None:
    sums = namespace.xp.cumulative_sum(namespace.arange(0, 5), axis=0)
    assert (sums.dtype, sums.tolist()) == (torch.int64, [0, 1, 3, 6, 10])


def test_products_in_bfloat16_are_rounded_and_nothing_else_is() -> None:
    namespace = CudaNamespace("cpu", product_precision="bfloat16")
    fine = namespace.asarray([[1.0 + 2.0**-12]])
    assert float(fine[0, 0]) == 1.0 + 2.0**-12
    assert float(namespace.matmul(fine, namespace.asarray([[1.0]]))[0, 0]) == 1.0
