"""Inference of small networks against the library that made them, with the same weights."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np

from benchmarks.references import Case, Missing


def cases(quick: bool) -> list[Case | Missing]:
    return [_mlp_inference(quick), _model(quick)]


def _mlp_inference(quick: bool) -> Case | Missing:
    name = "ml.mlp_inference"
    if find_spec("sklearn") is None:
        return Missing(name, "scikit-learn is not installed")
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
    layers = enumerate(zip(weights, biases, strict=True), 1)
    arrays = {f"{kind}{number}": part for number, both in layers for kind, part in zip("wb", both, strict=True)}
    return Case(
        workload=name,
        scale=f"{rows:,} rows, 64-128-64-1",
        library="scikit-learn",
        params={},
        arrays={"x": x, **arrays},
        peer=lambda: network.predict(x),
        difference=lambda outputs, y: float(np.linalg.norm(outputs["y"][:, 0] - y) / np.linalg.norm(y)),
        agreement=1e-12,
    )


def _model(quick: bool) -> Case | Missing:
    """The network that ships for trying things, and the same layers as torch runs them in float64."""
    name = "ml.model"
    if find_spec("torch") is None:
        return Missing(name, "torch is not installed")
    import torch

    from routerd.workloads.networks import Layer, he_weights

    rows = 100 if quick else 10_000
    linear = tuple(Layer(type="linear", name=number) for number in "024")
    tensors = he_weights((linear[0], Layer(type="relu"), linear[1], Layer(type="tanh"), linear[2]), (8, 32, 16, 1))
    network = torch.nn.Sequential(
        torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1)
    ).double()
    network.load_state_dict({key: torch.from_numpy(np.array(value)) for key, value in tensors.items()})
    x = np.random.default_rng(0).standard_normal((rows, 8))
    rows_of_torch = torch.from_numpy(x)

    def peer() -> np.ndarray:
        with torch.inference_mode():
            return network(rows_of_torch).numpy()

    return Case(
        workload=name,
        scale=f"{rows:,} rows of the demo model, 8-32-16-1",
        library="torch, float64",
        params={"model": "demo"},
        arrays={"x": x},
        peer=peer,
        difference=lambda outputs, y: float(np.linalg.norm(outputs["y"] - y) / np.linalg.norm(y)),
        agreement=1e-12,
    )
