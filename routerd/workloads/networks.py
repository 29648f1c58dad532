"""Feed-forward networks as a list of layers, run on any namespace: one kernel for every network that a user declares.

Tensors are named and laid out as torch does it: ``weight`` is (outputs, inputs), so what ``state_dict`` gives fits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple
from weakref import WeakKeyDictionary

from msgspec import Meta, Struct

from routerd.errors import InvalidModel
from routerd.interfaces import Arrays, Namespace, Params
from routerd.workloads.normal import density_and_distribution

if TYPE_CHECKING:
    import numpy as np

_DEEPEST = 8  # residual blocks within residual blocks
_BLOCKS = 8  # one layer's values of this many namespace blocks at a time: products need rows to be fast


class Layer(Struct, frozen=True, forbid_unknown_fields=True):
    """One layer. ``name`` is the prefix of its tensors: ``<name>.weight`` and, where the file has it, ``<name>.bias``."""

    type: Literal[
        "linear", "relu", "tanh", "sigmoid", "silu", "gelu", "softmax", "layer_norm", "dropout", "identity", "residual"
    ]
    name: str = ""
    epsilon: Annotated[float, Meta(gt=0.0, le=1.0)] = 1e-5
    layers: tuple[Layer, ...] = ()


class _Step(NamedTuple):
    """A layer with its tensors: products hold (inputs, outputs) here."""

    layer: Layer
    tensors: tuple[Any, ...]
    inner: tuple[_Step, ...] = ()


class Network:
    """Layers with their tensors, checked to fit each other.

    Attributes:
        inputs, outputs: features of a sample and of its result.
        flops: floating-point operations for one sample.

    Raises:
        InvalidModel: a layer lacks a tensor, a shape does not fit, or a tensor belongs to no layer.
    """

    def __init__(self, layers: Sequence[Layer], tensors: Mapping[str, np.ndarray[Any, Any]]) -> None:
        self._left = dict(tensors)
        self._tensors = tensors
        self.flops = 0.0
        self._widest = 1
        self.inputs = self._first_width(layers)
        self._steps, self.outputs = self._build(layers, self.inputs, 0)
        if self._left:
            raise InvalidModel(f"no layer uses the tensors {', '.join(sorted(self._left))}")
        self._placed: WeakKeyDictionary[Namespace, tuple[_Step, ...]] = WeakKeyDictionary()
        del self._left, self._tensors

    def __call__(self, namespace: Namespace, x: Any) -> Any:
        """``x`` (rows, inputs) → (rows, outputs). Rows are taken in blocks, so temporaries stay small."""
        steps = self._placed.get(namespace)
        if steps is None:
            steps = self._placed[namespace] = tuple(_place(step, namespace) for step in self._steps)
        rows = x.shape[0]
        count = max(1, _BLOCKS * namespace.block // self._widest)
        if rows <= count:
            return _run(namespace, steps, x)
        parts = [_run(namespace, steps, x[start : start + count]) for start in range(0, rows, count)]
        return namespace.xp.concat(parts, axis=0)

    def _first_width(self, layers: Sequence[Layer]) -> int:
        for layer in _flat(layers):
            if layer.type in ("linear", "layer_norm"):
                weight = self._tensors.get(f"{layer.name}.weight")
                if weight is not None and weight.ndim > 0:
                    return int(weight.shape[-1])
        raise InvalidModel(
            "config.json: none of the layers is linear with its weight in the file, so nothing says how wide the input is"
        )

    def _build(self, layers: Sequence[Layer], width: int, depth: int) -> tuple[tuple[_Step, ...], int]:
        if depth > _DEEPEST:
            raise InvalidModel(f"config.json: residual layers lie more than {_DEEPEST} deep in each other")
        steps = []
        for layer in layers:
            step, width = self._step(layer, width, depth)
            steps.append(step)
            self._widest = max(self._widest, width)
        return tuple(steps), width

    def _step(self, layer: Layer, width: int, depth: int) -> tuple[_Step, int]:
        if layer.layers and layer.type != "residual":
            raise InvalidModel(f"config.json: a {layer.type} layer has no layers of its own; only residual does")
        if layer.type == "linear":
            weight = self._take(layer, "weight", (None, width))
            outputs = int(weight.shape[0])
            bias = self._take(layer, "bias", (outputs,)) if f"{layer.name}.bias" in self._tensors else None
            self.flops += (2.0 * width + 1.0) * outputs
            tensors = (weight.T,) if bias is None else (weight.T, bias)
            return _Step(layer, tensors), outputs
        if layer.type == "layer_norm":
            parts = ("weight", "bias") if f"{layer.name}.bias" in self._tensors else ("weight",)
            self.flops += 8.0 * width
            return _Step(layer, tuple(self._take(layer, part, (width,)) for part in parts)), width
        if layer.type == "residual":
            inner, outputs = self._build(layer.layers, width, depth + 1)
            if outputs != width:
                raise InvalidModel(f"config.json: a residual layer takes {width} values and its layers give {outputs}")
            self.flops += width
            return _Step(layer, (), inner), width
        self.flops += width
        return _Step(layer, ()), width

    def _take(self, layer: Layer, part: str, shape: tuple[int | None, ...]) -> np.ndarray[Any, Any]:
        name = f"{layer.name}.{part}"
        tensor = self._tensors.get(name)
        if tensor is None:
            known = ", ".join(sorted(self._tensors)) or "none"
            raise InvalidModel(f"config.json: the {layer.type} layer needs the tensor {name}; the file has {known}")
        fits = len(tensor.shape) == len(shape) and all(
            wanted in (None, length) for wanted, length in zip(shape, tensor.shape, strict=True)
        )
        if not fits or 0 in tensor.shape:
            wanted = " × ".join("any" if one is None else str(one) for one in shape)
            given = " × ".join(map(str, tensor.shape)) or "a number"
            raise InvalidModel(
                f"config.json: {name} must be {wanted} to follow what is before it, the file has {given}"
            )
        self._left.pop(name, None)
        return tensor


def network_kernel(
    network: Callable[[], Network], given: str, result: str
) -> Callable[[Namespace, Params, Arrays], Arrays]:
    """A workload's kernel that runs a network on the input called ``given``."""

    def kernel(namespace: Namespace, params: Params, arrays: Arrays) -> Arrays:
        del params
        return {result: network()(namespace, arrays[given])}

    return kernel


def _flat(layers: Sequence[Layer]) -> Iterator[Layer]:
    for layer in layers:
        yield layer
        yield from _flat(layer.layers)


def _place(step: _Step, namespace: Namespace) -> _Step:
    tensors = tuple(namespace.asarray(tensor) for tensor in step.tensors)
    return _Step(step.layer, tensors, tuple(_place(one, namespace) for one in step.inner))


def _run(namespace: Namespace, steps: Sequence[_Step], x: Any) -> Any:
    for step in steps:
        x = _LAYERS[step.layer.type](namespace, step, x)
    return x


def _linear(namespace: Namespace, step: _Step, x: Any) -> Any:
    product = namespace.matmul(x, step.tensors[0])
    if len(step.tensors) > 1:
        product += step.tensors[1]
    return product


def _relu(namespace: Namespace, step: _Step, x: Any) -> Any:
    del step
    return namespace.xp.maximum(x, namespace.zeros(()))


def _sigmoid(namespace: Namespace, step: _Step, x: Any) -> Any:
    del step
    return 0.5 * namespace.xp.tanh(0.5 * x) + 0.5  # the usual form overflows where x is far below zero


def _silu(namespace: Namespace, step: _Step, x: Any) -> Any:
    return x * _sigmoid(namespace, step, x)


def _gelu(namespace: Namespace, step: _Step, x: Any) -> Any:
    del step
    return x * density_and_distribution(namespace, x)[1]


def _softmax(namespace: Namespace, step: _Step, x: Any) -> Any:
    del step
    xp = namespace.xp
    powers = xp.exp(x - xp.max(x, axis=-1, keepdims=True))
    return powers / xp.sum(powers, axis=-1, keepdims=True)


def _layer_norm(namespace: Namespace, step: _Step, x: Any) -> Any:
    xp = namespace.xp
    centred = x - xp.mean(x, axis=-1, keepdims=True)
    variance = xp.mean(centred * centred, axis=-1, keepdims=True)
    normed = centred / xp.sqrt(variance + step.layer.epsilon) * step.tensors[0]
    return normed + step.tensors[1] if len(step.tensors) > 1 else normed


def _residual(namespace: Namespace, step: _Step, x: Any) -> Any:
    return x + _run(namespace, step.inner, x)


def _unchanged(namespace: Namespace, step: _Step, x: Any) -> Any:
    del namespace, step
    return x


_LAYERS: dict[str, Callable[[Namespace, _Step, Any], Any]] = {
    "linear": _linear,
    "relu": _relu,
    "tanh": lambda namespace, _step, x: namespace.xp.tanh(x),
    "sigmoid": _sigmoid,
    "silu": _silu,
    "gelu": _gelu,
    "softmax": _softmax,
    "layer_norm": _layer_norm,
    "dropout": _unchanged,  # it does something in training only
    "identity": _unchanged,
    "residual": _residual,
}


def he_weights(layers: Sequence[Layer], widths: Sequence[int]) -> dict[str, np.ndarray[Any, Any]]:
    """Fixed weights for linear layers of these widths, spread as He's initialisation; the same on every machine.

    Numbers are the fractional parts of multiples of the golden ratio: a formula rather than a generator's stream, which
    may change between releases of a library.
    """
    import numpy as np

    tensors: dict[str, np.ndarray[Any, Any]] = {}
    golden = (math.sqrt(5.0) - 1.0) / 2.0
    start = 1.0
    linear = [layer for layer in layers if layer.type == "linear"]
    for layer, inputs, outputs in zip(linear, widths, widths[1:], strict=False):
        count = outputs * (inputs + 1)
        spread = 2.0 * np.mod((start + np.arange(count)) ** 2 * golden, 1.0) - 1.0
        start += count
        tensors[f"{layer.name}.weight"] = spread[: outputs * inputs].reshape(outputs, inputs) * math.sqrt(6.0 / inputs)
        tensors[f"{layer.name}.bias"] = 0.1 * spread[outputs * inputs :]
    return tensors
