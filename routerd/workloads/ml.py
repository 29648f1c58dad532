"""Inference of small neural networks, and of users' own models."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from routerd.errors import InvalidParameter
from routerd.interfaces import Array, Arrays, Dims, Example, Join, ModelId, Namespace, Parameter, Params, Workload
from routerd.workloads.networks import Layer, Network, he_weights, network_kernel
from routerd.workloads.splitting import merge_along, split_along

if TYPE_CHECKING:
    import numpy as np

_FEATURES, _HIDDEN_1, _HIDDEN_2, _OUTPUTS = 64, 128, 64, 1


def _mlp_inference(namespace: Namespace, params: Params, arrays: Arrays) -> Arrays:
    hidden = _relu(namespace, namespace.matmul(arrays["x"], arrays["w1"]), arrays["b1"])
    hidden = _relu(namespace, namespace.matmul(hidden, arrays["w2"]), arrays["b2"])
    result = namespace.matmul(hidden, arrays["w3"], into="y")
    result += arrays["b3"]
    return {"y": result}


def _relu(namespace: Namespace, product: Any, bias: Any) -> Any:
    product += bias
    return namespace.xp.maximum(product, namespace.zeros(()))


def _operations(params: Params, dims: Dims) -> float:
    layers = dims["features"] * dims["h1"] + dims["h1"] * dims["h2"] + dims["h2"] * dims["outputs"]
    return 2.0 * dims["rows"] * layers


def _mlp_example(work: float, rng: np.random.Generator) -> Example:
    """The 64-128-64-1 network with He's initialisation, on as many rows as the work asks for."""
    import numpy as np

    layers = _FEATURES * _HIDDEN_1 + _HIDDEN_1 * _HIDDEN_2 + _HIDDEN_2 * _OUTPUTS
    rows = max(1, round(work / (2.0 * layers)))

    def weights(fan_in: int, fan_out: int) -> Any:
        return rng.standard_normal((fan_in, fan_out)) * np.sqrt(2.0 / fan_in)

    return Example(
        {},
        {
            "x": rng.standard_normal((rows, _FEATURES)),
            "w1": weights(_FEATURES, _HIDDEN_1),
            "b1": 0.1 * rng.standard_normal(_HIDDEN_1),
            "w2": weights(_HIDDEN_1, _HIDDEN_2),
            "b2": 0.1 * rng.standard_normal(_HIDDEN_2),
            "w3": weights(_HIDDEN_2, _OUTPUTS),
            "b3": 0.1 * rng.standard_normal(_OUTPUTS),
        },
    )


MLP_INFERENCE = Workload(
    name="ml.mlp_inference",
    summary="Multilayer perceptron with two hidden ReLU layers: y = relu(relu(x·W1 + b1)·W2 + b2)·W3 + b3.",
    source="Goodfellow, Bengio, Courville (2016), Deep Learning, chapter 6",
    engines=("ML", "Factor"),
    parameters=(),
    inputs=(
        Array(name="x", shape=("rows", "features"), doc="one sample a row"),
        Array(name="w1", shape=("features", "h1"), doc="weights of the first hidden layer"),
        Array(name="b1", shape=("h1",), doc="biases of the first hidden layer"),
        Array(name="w2", shape=("h1", "h2"), doc="weights of the second hidden layer"),
        Array(name="b2", shape=("h2",), doc="biases of the second hidden layer"),
        Array(name="w3", shape=("h2", "outputs"), doc="weights of the output layer"),
        Array(name="b3", shape=("outputs",), doc="biases of the output layer"),
    ),
    outputs=(Array(name="y", shape=("rows", "outputs"), doc="the network's linear outputs"),),
    kernel=_mlp_inference,
    work=_operations,
    work_unit="floating-point operations",
    example=_mlp_example,
    work_range=(3.3e4, 3.3e9),
    tolerance=1e-5,
    batch_dim="rows",
    matmul_bound=True,
    split=split_along({"x": 0}),
    merge=merge_along({"y": 0}),
    join=Join(inputs={"x": 0}, outputs={"y": 0}),
)

MODEL = "ml.model"
DEMO = "demo"
_DEMO_WIDTHS = (8, 32, 16, 1)
_DEMO_LAYERS = (
    Layer(type="linear", name="0"),
    Layer(type="relu"),
    Layer(type="linear", name="2"),
    Layer(type="tanh"),
    Layer(type="linear", name="4"),
)
_DEMO_OPERATIONS = 2.0 * sum(inputs * outputs for inputs, outputs in pairwise(_DEMO_WIDTHS))


@cache
def _demo() -> Network:
    return Network(_DEMO_LAYERS, he_weights(_DEMO_LAYERS, _DEMO_WIDTHS))


def _demo_example(work: float, rng: np.random.Generator) -> Example:
    rows = max(1, round(work / _DEMO_OPERATIONS))
    return Example({"model": DEMO}, {"x": rng.standard_normal((rows, _DEMO_WIDTHS[0]))})


def _check_demo(params: Params, dims: Dims) -> None:
    del dims
    if params["model"] != DEMO or params.get("version", 1) != 1:
        asked = f"{params['model']} version {params['version']}" if "version" in params else params["model"]
        raise InvalidParameter(
            f"{MODEL}: {asked} is no model of this catalogue, which has {DEMO} version 1 alone; "
            f"the daemon knows those in its models_dir",
            parameter="model",
        )


USER_MODEL = Workload(
    name=MODEL,
    summary="A model of your own from the models directory, its newest version that is proved or the one you name.",
    source="the model's own file; demo is a fixed 8-32-16-1 network that ships with routerd",
    engines=("ML", "Factor", "Strategy"),
    parameters=(
        Parameter(name="model", type="str", doc="name of the model, a directory of models_dir; demo is always there"),
        Parameter(
            name="version",
            type="int",
            minimum=1,
            maximum=999_999_999,
            optional=True,
            doc="run this version; left out, the newest that is proved here",
        ),
    ),
    inputs=(
        Array(name="x", shape=("batch", _DEMO_WIDTHS[0]), doc="of demo: one sample a row; each model has its own"),
    ),
    outputs=(
        Array(
            name="y", shape=("batch", _DEMO_WIDTHS[-1]), doc="of demo: the network's outputs; each model has its own"
        ),
    ),
    kernel=network_kernel(_demo, "x", "y"),
    work=lambda _params, dims: _DEMO_OPERATIONS * dims["batch"],
    work_unit="floating-point operations",
    example=_demo_example,
    work_range=(_DEMO_OPERATIONS, 1e5 * _DEMO_OPERATIONS),
    tolerance=1e-4,
    batch_dim="batch",
    check_task=_check_demo,
    matmul_bound=True,
    split=split_along({"x": 0}),
    merge=merge_along({"y": 0}),
    join=Join(inputs={"x": 0}, outputs={"y": 0}),
    model=ModelId(DEMO, 1),
)

WORKLOADS = (MLP_INFERENCE, USER_MODEL)
