"""The perceptron against scikit-learn and a plain loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from routerd.errors import InvalidArray
from routerd.namespaces.numpy import NumpyNamespace
from routerd.workloads.ml import MLP_INFERENCE
from tests.near import near

Run = Callable[..., dict[str, Any]]


def network(rows: int, features: int, hidden_1: int, hidden_2: int, outputs: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(rows)
    shapes = {
        "x": (rows, features),
        "w1": (features, hidden_1),
        "b1": (hidden_1,),
        "w2": (hidden_1, hidden_2),
        "b2": (hidden_2,),
        "w3": (hidden_2, outputs),
        "b3": (outputs,),
    }
    return {name: rng.standard_normal(shape) for name, shape in shapes.items()}


@pytest.mark.parametrize("shape", [(1, 1, 1, 1, 1), (5, 3, 4, 2, 1), (200, 64, 128, 64, 1), (33, 7, 16, 9, 3)])
def test_agrees_with_scikit_learn(shape: tuple[int, int, int, int, int], run: Run) -> None:
    neural = pytest.importorskip("sklearn.neural_network", reason="scikit-learn is not installed")
    arrays = network(*shape)
    model = neural.MLPRegressor(hidden_layer_sizes=shape[2:4], activation="relu")
    model.coefs_ = [arrays["w1"], arrays["w2"], arrays["w3"]]
    model.intercepts_ = [arrays["b1"], arrays["b2"], arrays["b3"]]
    model.n_layers_, model.n_outputs_, model.out_activation_ = 4, shape[4], "identity"
    model.n_features_in_ = shape[1]
    expected = model.predict(arrays["x"]).reshape(shape[0], shape[4])
    assert run(MLP_INFERENCE, arrays)["y"] == near(expected, rel=1e-12, abs=1e-10)


def test_one_row_by_hand(run: Run) -> None:
    arrays = {
        "x": np.array([[1.0, -2.0]]),
        "w1": np.array([[1.0, -1.0], [0.0, 1.0]]),
        "b1": np.array([0.5, 0.5]),
        "w2": np.array([[2.0], [100.0]]),
        "b2": np.array([-1.0]),
        "w3": np.array([[3.0]]),
        "b3": np.array([0.25]),
    }
    assert run(MLP_INFERENCE, arrays)["y"].tolist() == [[6.25]]


def test_the_result_lands_in_the_output_buffer() -> None:
    arrays = network(10, 4, 6, 5, 2)
    buffer = np.empty((10, 2))
    result = MLP_INFERENCE.kernel(NumpyNamespace({"y": buffer}), {}, arrays)["y"]
    assert result is buffer
    assert result == near(MLP_INFERENCE.kernel(NumpyNamespace(), {}, arrays)["y"], rel=1e-14)


def test_layers_that_do_not_fit_are_refused(run: Run) -> None:
    arrays = network(10, 4, 6, 5, 2)
    arrays["w2"] = arrays["w2"][:-1]
    with pytest.raises(InvalidArray, match="h1=6"):
        run(MLP_INFERENCE, arrays)
