"""Layers against torch's own, on every namespace, and networks whose tensors do not fit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from routerd.errors import InvalidModel, InvalidParameter
from routerd.interfaces import Namespace
from routerd.namespaces.numpy import NumpyNamespace
from routerd.types import ArrayRef
from routerd.workloads.binding import bind
from routerd.workloads.ml import MODEL, USER_MODEL
from routerd.workloads.networks import Layer, Network

torch = pytest.importorskip("torch", reason="torch is not installed")
nn = torch.nn

#: Layers between two linear ones, by what torch calls them.
CASES: dict[str, tuple[Any, Layer]] = {
    "relu": (nn.ReLU, Layer(type="relu")),
    "tanh": (nn.Tanh, Layer(type="tanh")),
    "sigmoid": (nn.Sigmoid, Layer(type="sigmoid")),
    "silu": (nn.SiLU, Layer(type="silu")),
    "gelu": (nn.GELU, Layer(type="gelu")),
    "softmax": (lambda: nn.Softmax(-1), Layer(type="softmax")),
    "layer_norm": (lambda: nn.LayerNorm(12), Layer(type="layer_norm", name="1")),
    "layer_norm without bias": (lambda: nn.LayerNorm(12, bias=False), Layer(type="layer_norm", name="1")),
    "layer_norm with epsilon": (lambda: nn.LayerNorm(12, eps=0.1), Layer(type="layer_norm", name="1", epsilon=0.1)),
    "dropout": (lambda: nn.Dropout(0.9), Layer(type="dropout")),
    "identity": (nn.Identity, Layer(type="identity")),
}


def tensors(module: Any) -> dict[str, Any]:
    return {name: tensor.double().numpy() for name, tensor in module.state_dict().items()}


def both(case: str) -> tuple[Any, Network]:
    torch.manual_seed(11)
    make, layer = CASES[case]
    module = nn.Sequential(nn.Linear(6, 12), make(), nn.Linear(12, 3, bias=False)).eval().double()
    for parameter in module[1].parameters():
        nn.init.normal_(parameter)
    layers = (Layer(type="linear", name="0"), layer, Layer(type="linear", name="2"))
    return module, Network(layers, tensors(module))


def of_torch(module: Any, x: Any) -> Any:
    with torch.no_grad():
        return module(torch.as_tensor(x)).numpy()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_float64_is_what_torch_computes(case: str, scale: float, precise: Namespace) -> None:
    module, network = both(case)
    x = scale * np.random.default_rng(1).standard_normal((70, 6))
    result = precise.to_host(network(precise, precise.from_host(x)))
    np.testing.assert_allclose(result, of_torch(module, x), rtol=1e-11, atol=1e-12 * scale)


@pytest.mark.parametrize("case", CASES)
def test_float32_is_near(case: str, single: Namespace) -> None:
    module, network = both(case)
    x = np.random.default_rng(2).standard_normal((70, 6))
    result = single.to_host(network(single, single.from_host(x)))
    np.testing.assert_allclose(result, of_torch(module, x), rtol=1e-4, atol=2e-6)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 6))

    def forward(self, x: Any) -> Any:
        return x + self.inner(x)


def test_residual_blocks() -> None:
    module = nn.Sequential(Block(), nn.Linear(6, 2)).eval().double()
    inner = (Layer(type="linear", name="0.inner.0"), Layer(type="tanh"), Layer(type="linear", name="0.inner.2"))
    network = Network((Layer(type="residual", layers=inner), Layer(type="linear", name="1")), tensors(module))
    assert (network.inputs, network.outputs) == (6, 2)
    x = np.random.default_rng(3).standard_normal((20, 6))
    np.testing.assert_allclose(network(NumpyNamespace(), x), of_torch(module, x), rtol=1e-12)


@pytest.mark.parametrize("block", [1, 24, 96, 10**9])
def test_the_size_of_blocks_changes_nothing(block: int) -> None:
    module, network = both("gelu")
    namespace = NumpyNamespace()
    namespace.block = block
    x = np.random.default_rng(4).standard_normal((101, 6))
    np.testing.assert_allclose(network(namespace, x), of_torch(module, x), rtol=1e-11)


def test_operations_are_counted() -> None:
    _module, network = both("relu")
    assert network.flops == (2 * 6 + 1) * 12 + 12 + (2 * 12 + 1) * 3


LINEAR = Layer(type="linear", name="0")
WEIGHT = {"0.weight": np.ones((4, 3)), "0.bias": np.ones(4)}


@pytest.mark.parametrize(
    ("layers", "given", "reason"),
    [
        ((LINEAR,), {"0.weight": np.ones((4, 3)), "0.bias": np.ones(3)}, "0.bias must be 4"),
        ((LINEAR,), {"0.weight": np.ones(3)}, "0.weight must be any × 3"),
        ((LINEAR,), {"0.weight": np.ones((0, 3))}, "0.weight must be"),
        ((LINEAR,), {"0.weight": np.ones(())}, "nothing says how wide"),
        ((LINEAR,), {**WEIGHT, "1.weight": np.ones(1)}, "no layer uses the tensors 1.weight"),
        ((LINEAR, Layer(type="layer_norm", name="1")), {**WEIGHT, "1.weight": np.ones(3)}, "1.weight must be 4"),
        ((Layer(type="residual", layers=(LINEAR,)),), WEIGHT, "takes 3 values and its layers give 4"),
        ((LINEAR, Layer(type="relu", layers=(LINEAR,))), WEIGHT, "a relu layer has no layers of its own"),
        ((), {}, "nothing says how wide"),
    ],
)
def test_what_does_not_fit_is_named(layers: tuple[Layer, ...], given: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidModel) as caught:
        Network(layers, given)
    assert reason in caught.value.message


DEMO_OUTPUTS = [-1.2630760868286401, -0.3173959924323544, 0.517148891134025]


def test_the_demo_is_the_same_everywhere(run: Callable[..., dict[str, Any]]) -> None:
    x = np.linspace(-1.0, 1.0, 24).reshape(3, 8)
    y = run(USER_MODEL, {"x": x}, model="demo")["y"]
    np.testing.assert_allclose(y[:, 0], DEMO_OUTPUTS, rtol=1e-9)


@pytest.mark.parametrize(
    ("params", "asked"),
    [({"model": "credit"}, "credit"), ({"model": "demo", "version": 2}, "demo version 2")],
)
def test_the_catalogue_alone_has_the_demo_alone(params: dict[str, Any], asked: str) -> None:
    with pytest.raises(InvalidParameter, match=f"{MODEL}: {asked} is no model of this catalogue"):
        bind(USER_MODEL, params, {"x": ArrayRef((2, 8), "float64")}, need_content=False)
