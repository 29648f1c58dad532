"""Inference of a small network against scikit-learn's MLPRegressor with the same weights."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np

from benchmarks.references import Case, Missing


def cases(quick: bool) -> list[Case | Missing]:
    if find_spec("sklearn") is None:
        return [Missing("ml.mlp_inference", "scikit-learn is not installed")]
    from sklearn.neural_network import MLPRegressor

    rows = 100 if quick else 10_000
    rng = np.random.default_rng(0)
    sizes = ((64, 128), (128, 64), (64, 1))
    weights = [rng.standard_normal(size) * np.sqrt(2.0 / size[0]) for size in sizes]
    biases = [0.1 * rng.standard_normal(size[1]) for size in sizes]
    x = rng.standard_normal((rows, 64))
    network = MLPRegressor(hidden_layer_sizes=(128, 64), max_iter=1, tol=1e9)
    network.partial_fit(x[:10], x[:10, 0])  # makes the attributes that are set below
    network.coefs_, network.intercepts_ = weights, biases
    layers = zip(weights, biases, strict=True)
    arrays = {
        f"{kind}{number}": part for number, both in enumerate(layers, 1) for kind, part in zip("wb", both, strict=True)
    }
    return [
        Case(
            workload="ml.mlp_inference",
            scale=f"{rows:,} rows, 64-128-64-1",
            library="scikit-learn",
            params={},
            arrays={"x": x, **arrays},
            peer=lambda: network.predict(x),
            difference=lambda outputs, y: float(np.linalg.norm(outputs["y"][:, 0] - y) / np.linalg.norm(y)),
            agreement=1e-12,
        )
    ]
