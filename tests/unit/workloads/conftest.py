"""Namespaces to compare, a way to run a workload as a worker would, and real prices."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from routerd.interfaces import Namespace, Workload
from routerd.namespaces.execution import execute_kernel
from routerd.namespaces.numpy import NumpyNamespace
from routerd.types import ArrayRef
from routerd.workloads.binding import bind
from routerd.workloads.content import check_content


def torch_namespace(precision: str) -> Namespace:
    pytest.importorskip("torch", reason="torch is not installed")
    pytest.importorskip("array_api_compat", reason="array-api-compat is not installed")
    from routerd.namespaces.torch import TorchNamespace

    return TorchNamespace("cpu", precision)


def mlx_namespace() -> Namespace:
    pytest.importorskip("mlx.core", reason="MLX is not installed")
    from routerd.namespaces.mlx import MlxNamespace

    return MlxNamespace("cpu")


def make_namespace(name: str) -> Namespace:
    """``numpy``, ``torch-float64``, ``torch-float32`` or ``mlx-float32``."""
    library, _, precision = name.partition("-")
    if library == "torch":
        return torch_namespace(precision)
    return mlx_namespace() if library == "mlx" else NumpyNamespace()


@pytest.fixture(scope="session")
def namespace_named() -> Callable[[str], Namespace]:
    """Makes a namespace: ``numpy``, ``torch-float64``, ``torch-float32`` or ``mlx-float32``."""
    return make_namespace


@pytest.fixture(params=["numpy", "torch-float64"])
def precise(request: pytest.FixtureRequest) -> Namespace:
    """A namespace that computes in float64."""
    return make_namespace(request.param)


@pytest.fixture(params=["torch-float32", "mlx-float32"])
def single(request: pytest.FixtureRequest) -> Namespace:
    """A namespace that computes in float32."""
    return make_namespace(request.param)


@pytest.fixture(scope="session")
def run() -> Callable[..., dict[str, Any]]:
    """``run(workload, arrays, namespace=…, **params)``: bind, check and execute, and give the outputs."""

    def run(
        workload: Workload, arrays: dict[str, Any] | None = None, *, namespace: Namespace | None = None, **params: Any
    ) -> dict[str, Any]:
        inputs = {name: np.asarray(array) for name, array in (arrays or {}).items()}
        kept = {name: array.copy() for name, array in inputs.items()}
        refs = {name: ArrayRef(shape=array.shape, dtype=str(array.dtype)) for name, array in inputs.items()}
        task = bind(workload, params, refs, need_content=False)
        check_content(workload, task.params, inputs)
        outputs = execute_kernel(namespace or NumpyNamespace(), workload, task.params, inputs).outputs
        for name, array in kept.items():
            assert np.array_equal(inputs[name], array, equal_nan=array.dtype.kind == "f"), (
                f"the kernel wrote to its input {name}"
            )
        return dict(outputs)

    return run


@pytest.fixture(scope="session")
def real_prices() -> np.ndarray[Any, Any]:
    """Daily closes of the tickers in bokeh-sampledata, shape (days, tickers), of those with eight years or more."""
    spec = find_spec("bokeh_sampledata")
    if spec is None or spec.origin is None:
        pytest.skip("bokeh-sampledata is not installed")
    path = Path(spec.origin).parent / "_data" / "stocks.csv.gz"
    if not path.exists():
        pytest.skip(f"bokeh-sampledata has no {path.name}")
    closes: dict[str, dict[str, float]] = {}
    with gzip.open(path, "rt") as file:
        for row in csv.DictReader(file):
            lower = {key.lower(): value for key, value in row.items()}
            closes.setdefault(lower["ticker" if "ticker" in lower else "symbol"], {})[lower["date"]] = float(
                lower["close"]
            )
    closes = {ticker: series for ticker, series in closes.items() if len(series) > 2_000}
    days = sorted(set.intersection(*(set(series) for series in closes.values())))
    return np.array([[series[day] for series in closes.values()] for day in days])
