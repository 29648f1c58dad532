"""torch's exported programs (``.pt2``): the graph is read as data and run node by node, without ``torch.export.load``.

That function is not for files from elsewhere: it falls back to unrestricted pickle for sample inputs, weights and constants,
evaluates shape expressions as Python, and executes guard code. None of that is needed to compute: a program is a list of
ATen operators with plain arguments, and weights are raw numbers beside it. What is more than that is refused.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import msgspec

from routerd.errors import InvalidModel, Unavailable
from routerd.interfaces import Arrays, Namespace, Params
from routerd.models.archives import Archive, opened_archive
from routerd.models.config import BATCH, Config
from routerd.models.description import DEFAULT_MAX_BATCH, ArrayDescription
from routerd.models.loading import Opened, with_config
from routerd.models.torchscript import own_tensors

_MODEL = "models/model.json"
_MAJOR = 8  # of the schema, see torch/_export/serde/schema.py
_ATEN = re.compile(r"torch\.ops\.aten\.([a-z_][a-z0-9_]*)\.([A-Za-z][A-Za-z0-9_]*)")
_FORBIDDEN = {"from_file", "save"}
#: Nodes that only check what was true when the program was exported; precision and device are others here.
_CHECKS = ("_assert", "sym_constrain_range")
_SCALARS = ("add", "sub", "mul", "floordiv", "truediv", "mod", "neg", "eq", "ne", "lt", "le", "gt", "ge", "getitem")

_DTYPES = {
    1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float16", 7: "float32", 8: "float64", 12: "bool",
    13: "bfloat16",
}  # fmt: skip
_REALS = {"float16", "float32", "float64", "bfloat16"}
_MEMORY_FORMATS = {
    1: "contiguous_format",
    2: "channels_last",
    3: "channels_last_3d",
    4: "preserve_format",
}
_STRIDED = 7
_EXPORT_AGAIN = (
    "export it again: torch.export.export(model.eval(), …) and torch.export.save, with a newer torch if it is old"
)


class _Ref(NamedTuple):
    """An argument that another node, an input or a weight gives."""

    name: str


class _Device:
    """An argument that is the device it all runs on."""


class _Dtype(NamedTuple):
    """An argument that is a dtype; every floating one means the precision it all runs in."""

    name: str


class _Node(NamedTuple):
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    results: tuple[str | tuple[str, ...] | None, ...]


def open_exported(content: bytes, config: Config) -> Opened:
    """The program on the inputs of its signature. Raises ``InvalidModel``."""
    try:
        import torch
    except ImportError as error:
        raise Unavailable("torch is not installed; pip install 'routerd[torch]'") from error
    with opened_archive(content, "exported program") as archive:
        if _MODEL not in archive.names:
            raise InvalidModel(f"it has no {_MODEL}; {_EXPORT_AGAIN}")
        try:
            program = msgspec.json.decode(archive.read(_MODEL))
            made = _Program(torch, program, archive)
        except (
            KeyError,
            TypeError,
            ValueError,
            AttributeError,
            IndexError,
            RecursionError,
            msgspec.MsgspecError,
        ) as error:
            problem = " ".join(str(error).split())[:200]
            raise InvalidModel(
                f"its program cannot be read ({type(error).__name__}: {problem}); {_EXPORT_AGAIN}"
            ) from error
    made.inputs = with_config(made.inputs, config.inputs, "inputs")
    return Opened(made.inputs, made, max_batch=made.max_batch)


class _Program:
    """A graph that was read and checked, as a kernel."""

    def __init__(self, torch: Any, program: Mapping[str, Any], archive: Archive) -> None:
        if program["schema_version"]["major"] != _MAJOR:
            raise InvalidModel(f"its schema is version {program['schema_version']['major']}, read is {_MAJOR}")
        self._torch = torch
        graph, signature = program["graph_module"]["graph"], program["graph_module"]["signature"]
        self._weights = _weights(torch, archive)
        self._bound: dict[str, str] = {}  # names in the graph of weights
        self.max_batch = DEFAULT_MAX_BATCH
        self._given: list[str] = []
        self.inputs = self._read_inputs(signature["input_specs"], graph, program.get("range_constraints", {}))
        self._outputs = [_output_name(spec) for spec in signature["output_specs"]]
        self._nodes = [node for one in graph["nodes"] if (node := self._read_node(one)) is not None]
        self._placed: WeakKeyDictionary[Namespace, dict[str, Any]] = WeakKeyDictionary()

    def __call__(self, namespace: Any, params: Params, arrays: Arrays) -> dict[str, Any]:
        del params
        placed = self._placed.get(namespace)
        if placed is None:
            placed = self._placed[namespace] = self._place(namespace)
        values = dict(placed)
        values.update(zip(self._given, own_tensors(self.inputs, arrays), strict=True))
        with self._torch.inference_mode():
            for node in self._nodes:
                arguments = [_resolve(one, values, namespace, self._torch) for one in node.arguments]
                keywords = {key: _resolve(one, values, namespace, self._torch) for key, one in node.keywords.items()}
                _bind(node.results, node.function(*arguments, **keywords), values)
        if len(self._outputs) == 1:
            return {"y": values[self._outputs[0]]}
        return {f"y{number}": values[name] for number, name in enumerate(self._outputs)}

    def _place(self, namespace: Any) -> dict[str, Any]:
        placed = {}
        for name, weight in self._bound.items():
            tensor = self._weights[weight]
            dtype = namespace.real if tensor.dtype.is_floating_point else tensor.dtype
            placed[name] = tensor.to(device=namespace.device, dtype=dtype)
        return placed

    def _read_inputs(
        self, specs: Sequence[Mapping[str, Any]], graph: Mapping[str, Any], ranges: Mapping[str, Any]
    ) -> tuple[ArrayDescription, ...]:
        inputs = []
        for spec in specs:
            ((kind, value),) = spec.items()
            if kind in ("parameter", "buffer", "tensor_constant"):
                weight = value[
                    {"parameter": "parameter_name", "buffer": "buffer_name"}.get(kind, "tensor_constant_name")
                ]
                if weight not in self._weights:
                    raise InvalidModel(f"its archive has no numbers for {weight}")
                self._bound[value["arg"]["name"]] = weight
            elif kind == "user_input" and "as_tensor" in value["arg"]:
                name = value["arg"]["as_tensor"]["name"]
                self._given.append(name)
                inputs.append(self._read_input(name, graph["tensor_values"][name], ranges))
            else:
                raise InvalidModel(f"it takes {kind.replace('_', ' ')} that is no tensor; {_EXPORT_AGAIN}")
        return tuple(inputs)

    def _read_input(self, name: str, meta: Mapping[str, Any], ranges: Mapping[str, Any]) -> ArrayDescription:
        shape: list[str | int] = []
        for axis, size in enumerate(meta["sizes"]):
            if "as_int" in size:
                shape.append(int(size["as_int"]))
            elif axis == 0:
                symbol = re.search(r"\w*\d+", size["as_expr"]["expr_str"])
                largest = ranges.get(symbol[0] if symbol else "", {}).get("max_val")
                self.max_batch = min(self.max_batch, int(largest)) if largest else self.max_batch
                shape.append(BATCH)
            else:
                raise InvalidModel(f"axis {axis} of its input {name} is dynamic; only the first, the batch, may be")
        dtype = _DTYPES.get(meta["dtype"], "")
        if dtype not in ("float64", "float32", "int64", "int32", "uint8", "bool"):
            raise InvalidModel(f"its input {name} is {dtype or 'of an unknown dtype'}, which routerd does not take")
        return ArrayDescription(name, tuple(shape), dtype)

    def _read_node(self, node: Mapping[str, Any]) -> _Node | None:
        target = str(node["target"])
        aten = _ATEN.fullmatch(target)
        if aten is not None and aten[1].startswith(_CHECKS):
            return None
        arguments, keywords = [], {}
        for one in node["inputs"]:
            value = self._argument(one["arg"], target)
            if one.get("kind") == 2:
                keywords[one["name"]] = value
            else:
                arguments.append(value)
        if aten is not None:
            function = self._operator(aten, target)
            first = arguments[0] if arguments else None
            if aten[1].endswith("_") and isinstance(first, _Ref) and first.name in self._bound:
                raise InvalidModel(f"its operator {target} changes a weight; {_EXPORT_AGAIN}")
        elif target.startswith("_operator.") and target.removeprefix("_operator.") in _SCALARS:
            function = getattr(operator, target.removeprefix("_operator."))
        else:
            raise InvalidModel(f"it calls {target[:120]}; only ATen operators are run")
        return _Node(function, tuple(arguments), keywords, tuple(_result(one) for one in node["outputs"]))

    def _operator(self, aten: re.Match[str], target: str) -> Callable[..., Any]:
        name, overload = aten[1], aten[2]
        packet: Any = None if name in _FORBIDDEN else getattr(self._torch.ops.aten, name, None)
        if not hasattr(packet, "overloads") or overload not in packet.overloads():
            raise InvalidModel(f"it calls {target[:120]}, which is no operator that this torch may run for a model")
        function: Callable[..., Any] = getattr(packet, overload)
        return function

    def _argument(self, argument: Mapping[str, Any], target: str) -> Any:
        """One argument as plain data, a reference, or a list of them."""
        ((kind, value),) = argument.items()
        if kind in _PLAIN:
            return _PLAIN[kind](value)
        if kind == "as_scalar_type" and value in _DTYPES:
            return _Dtype(_DTYPES[value])
        if kind == "as_memory_format" and value in _MEMORY_FORMATS:
            return getattr(self._torch, _MEMORY_FORMATS[value])
        if kind == "as_layout" and value == _STRIDED:
            return self._torch.strided
        raise InvalidModel(f"an argument of {target[:120]} is of kind {kind}, which is not read")


def _weights(torch: Any, archive: Archive) -> dict[str, Any]:
    """Weights and constants by name, from raw numbers alone."""
    tensors: dict[str, Any] = {}
    for directory, config in (("weights", "model_weights_config.json"), ("constants", "model_constants_config.json")):
        if f"data/{directory}/{config}" not in archive.names:
            raise InvalidModel(f"its {directory} are pickled, as older versions of torch saved them; {_EXPORT_AGAIN}")
        payload = msgspec.json.decode(archive.read(f"data/{directory}/{config}"))["config"]
        for name, entry in payload.items():
            if entry["use_pickle"] or entry["tensor_meta"] is None:
                raise InvalidModel(f"{name} is pickled in its archive, and a pickle can run any code; {_EXPORT_AGAIN}")
            tensors[name] = _tensor(
                torch, name, entry["tensor_meta"], archive.read(f"data/{directory}/{entry['path_name']}")
            )
    return tensors


def _tensor(torch: Any, name: str, meta: Mapping[str, Any], data: bytes) -> Any:
    dtype = _DTYPES.get(meta["dtype"])
    if dtype is None or meta["layout"] != _STRIDED:
        raise InvalidModel(f"{name} has a dtype or layout that is not read")
    sizes, strides = [one["as_int"] for one in meta["sizes"]], [one["as_int"] for one in meta["strides"]]
    kind = getattr(torch, dtype)
    if not data:
        return torch.zeros(sizes, dtype=kind)
    flat = torch.frombuffer(bytearray(data), dtype=kind)
    try:
        return flat.as_strided(sizes, strides, meta["storage_offset"]["as_int"]).clone()
    except RuntimeError as error:  # torch holds it to the bytes that are there
        raise InvalidModel(f"{name} reaches beyond its numbers") from error


def _output_name(spec: Mapping[str, Any]) -> str:
    ((kind, value),) = spec.items()
    if kind != "user_output" or "as_tensor" not in value["arg"]:
        raise InvalidModel(
            f"it has an output of kind {kind.replace('_', ' ')}: outputs must be tensors, and it must not change itself"
        )
    return str(value["arg"]["as_tensor"]["name"])


def _result(output: Mapping[str, Any]) -> str | tuple[str, ...] | None:
    ((kind, value),) = output.items()
    if kind == "as_tensor":
        return str(value["name"])
    if kind == "as_tensors":
        return tuple(str(one["name"]) for one in value)
    if kind in ("as_sym_int", "as_sym_float", "as_sym_bool") and "as_name" in value:
        return str(value["as_name"])
    if kind == "as_none":
        return None
    raise InvalidModel(f"a result of kind {kind} is not read")


def _reference(value: Mapping[str, Any]) -> _Ref:
    return _Ref(value["name"])


def _optional(value: Mapping[str, Any]) -> _Ref | None:
    return _reference(value["as_tensor"]) if "as_tensor" in value else None


def _scalar(value: Mapping[str, Any]) -> Any:
    ((kind, one),) = value.items()
    return _Ref(one) if kind == "as_name" else one


def _each(read: Callable[[Any], Any]) -> Callable[[Any], list[Any]]:
    return lambda values: [read(value) for value in values]


def _unchanged(value: Any) -> Any:
    return value


#: Arguments that need nothing of torch, by their kind in the schema.
_PLAIN: dict[str, Callable[[Any], Any]] = {
    "as_none": lambda _value: None,
    "as_int": _unchanged,
    "as_bool": _unchanged,
    "as_string": _unchanged,
    "as_float": float,  # infinities are written as words
    "as_ints": _unchanged,
    "as_bools": _unchanged,
    "as_floats": _each(float),
    "as_tensor": _reference,
    "as_tensors": _each(_reference),
    "as_optional_tensor": _optional,
    "as_optional_tensors": _each(_optional),
    "as_sym_int": _scalar,
    "as_sym_float": _scalar,
    "as_sym_bool": _scalar,
    "as_sym_ints": _each(_scalar),
    "as_sym_floats": _each(_scalar),
    "as_device": lambda _value: _Device(),
}


def _resolve(argument: Any, values: Mapping[str, Any], namespace: Any, torch: Any) -> Any:
    if isinstance(argument, _Ref):
        return values[argument.name]
    if isinstance(argument, list):
        return [_resolve(one, values, namespace, torch) for one in argument]
    if isinstance(argument, _Dtype):
        return namespace.real if argument.name in _REALS else getattr(torch, argument.name)
    return namespace.device if isinstance(argument, _Device) else argument


def _bind(names: Sequence[str | tuple[str, ...] | None], result: Any, values: dict[str, Any]) -> None:
    results = (result,) if len(names) == 1 else result
    for name, value in zip(names, results, strict=True):
        if isinstance(name, tuple):
            values.update(zip(name, value, strict=True))
        elif name is not None:
            values[name] = value
