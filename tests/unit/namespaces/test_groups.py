"""Sums and maxima over groups: the same on every namespace, empty groups included."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from routerd.interfaces import Namespace
from routerd.namespaces.numpy import NumpyNamespace


def _torch() -> Namespace:
    pytest.importorskip("torch", reason="torch is not installed")
    pytest.importorskip("array_api_compat", reason="array-api-compat is not installed")
    from routerd.namespaces.torch import TorchNamespace

    return TorchNamespace("cpu", "float32")


def _mlx() -> Namespace:
    pytest.importorskip("mlx.core", reason="MLX is not installed")
    from routerd.namespaces.mlx import MlxNamespace

    return MlxNamespace("cpu")


every_namespace = pytest.mark.parametrize("make", [NumpyNamespace, _torch, _mlx], ids=["numpy", "torch", "mlx"])


@every_namespace
@pytest.mark.parametrize("length", [0, 1, 10_000])
def test_sums_by_group(make: Callable[[], Namespace], length: int) -> None:
    namespace, rng = make(), np.random.default_rng(length)
    values, groups = rng.standard_normal(length), rng.integers(0, 7, length)
    groups[groups == 3] = 4  # group 3 stays empty
    sums = namespace.to_host(namespace.sum_by(namespace.from_host(values), namespace.from_host(groups), 9))
    assert sums.shape == (9,)
    assert sums == pytest.approx([values[groups == group].sum() for group in range(9)], rel=1e-5, abs=1e-4)
    assert sums[3] == sums[8] == 0.0


@every_namespace
def test_maxima_by_group(make: Callable[[], Namespace]) -> None:
    namespace, rng = make(), np.random.default_rng(1)
    values, groups = rng.integers(0, 2**62, 5_000), rng.integers(0, 6, 5_000)
    groups[groups == 2] = 0
    greatest = namespace.to_host(namespace.max_by(namespace.from_host(values), namespace.from_host(groups), 6))
    assert greatest.dtype == np.int64
    assert greatest.tolist() == [int(values[groups == group].max(initial=-1)) for group in range(6)]
    assert greatest[2] == -1
