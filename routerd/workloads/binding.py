"""From what a client asks to a checked :class:`~routerd.types.Task`. Pure and without numeric libraries."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from routerd.errors import InvalidArray, InvalidParameter, UnknownParameter, suggest
from routerd.interfaces import Array, Parameter, Workload
from routerd.types import ITEM_BYTES, ArrayRef, Scalar, Task

#: Options that every task takes beside the parameters of its workload.
TASK_OPTIONS = (
    Parameter(name="tolerance", type="float", minimum=0.0, doc="largest relative error allowed against float64"),
    Parameter(
        name="deadline_ms",
        type="float",
        unit="ms",
        minimum=0.0,
        above_minimum=True,
        doc="time the result is worth waiting for",
    ),
    Parameter(name="priority", type="int", minimum=-10, maximum=10, doc="higher runs earlier; 0 is usual"),
)
_OPTION_NAMES = frozenset(option.name for option in TASK_OPTIONS)
_DIM_LIMIT = 2**40
_MOST_BYTES = 2**63 - 1


def bind(
    workload: Workload,
    params: Mapping[str, Any],
    arrays: Mapping[str, ArrayRef],
    *,
    need_content: bool,
) -> Task:
    """Check a request against its workload and fill in what it left out.

    ``params`` holds parameters, task options and, instead of arrays, named dimensions. With ``need_content`` every
    input must carry data; without, its shape is enough. Raises ``UnknownParameter``, ``InvalidParameter`` or
    ``InvalidArray`` with a message that names the workload, the culprit and the remedy.
    """
    by_name = {parameter.name: parameter for parameter in workload.parameters}
    dim_names = workload.dim_names
    given_dims: dict[str, int] = {}
    values: dict[str, Scalar] = {}
    options: dict[str, Any] = {}
    for name, value in params.items():
        if name in by_name:
            values[name] = check_scalar(workload.name, by_name[name], value)
        elif name in _OPTION_NAMES:
            options[name] = value
        elif name in dim_names:
            given_dims[name] = _check_dim(workload.name, name, value)
        else:
            raise _unknown(workload, name)
    for parameter in workload.parameters:
        if parameter.name not in values:
            if parameter.required:
                raise InvalidParameter(
                    f"{workload.name} needs the parameter {parameter.name} ({parameter.doc})", parameter=parameter.name
                )
            if parameter.default is not None:
                values[parameter.name] = parameter.default
    for option in TASK_OPTIONS:
        if option.name in options:
            options[option.name] = check_scalar(workload.name, option, options[option.name])
    dims = _solve_dims(workload, arrays, given_dims, need_content=need_content)
    if workload.check_task is not None:
        workload.check_task(values, dims)
    deadline = options.get("deadline_ms")
    return Task(
        workload=workload.name,
        params=values,
        arrays=dict(arrays),
        dims=dims,
        work=float(workload.work(values, dims)),
        nbytes=_nbytes(workload, dims),
        tolerance=options.get("tolerance", workload.tolerance),
        batch=dims[workload.batch_dim] if workload.batch_dim else None,
        deadline_seconds=None if deadline is None else deadline / 1000.0,
        priority=options.get("priority", 0),
    )


def _nbytes(workload: Workload, dims: Mapping[str, int]) -> int:
    nbytes = _weight(workload.inputs, dims) + _weight(workload.outputs, dims)
    if nbytes > _MOST_BYTES:
        raise InvalidArray(
            f"{workload.name}: inputs and outputs of these dimensions weigh {nbytes:.3g} bytes, more than can be addressed"
        )
    return nbytes


def bind_work(workload: Workload, work: float) -> Task:
    """A task of which only the work is known: enough to decide about, not to run. Raises ``InvalidParameter``."""
    if not 0.0 < work < math.inf:
        raise InvalidParameter(f"{workload.name}: work must be a finite number above 0, got {work!r}", parameter="work")
    return Task(workload.name, {}, {}, {}, float(work), 0, workload.tolerance)


def has_own_options(workload: Workload, task: Task) -> bool:
    """Whether the task asks for more than is usual: such tasks are decided about and run by the daemon alone."""
    return bool(task.deadline_seconds is not None or task.priority or task.tolerance != workload.tolerance)


def dims_of(workload: Workload, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """The named dimensions of inputs that were bound before, from their shapes alone; nothing is checked."""
    return {
        dim: length
        for array in workload.inputs
        for dim, length in zip(array.shape, shapes[array.name], strict=False)
        if isinstance(dim, str)
    }


def output_shape(array: Array, dims: Mapping[str, int]) -> tuple[int, ...] | None:
    """The shape of an output for these dimensions, or ``None`` where only the kernel can tell."""
    try:
        return tuple(dims[dim] if isinstance(dim, str) else dim for dim in array.shape)
    except KeyError:
        return None


def check_scalar(where: str, parameter: Parameter, value: Any) -> Scalar:
    """``value`` in the parameter's type, or ``InvalidParameter``. Integral floats pass for ints, ints for floats."""
    if parameter.type == "float" and isinstance(value, int | float) and not isinstance(value, bool):
        number = float(value)
        if not math.isfinite(number):
            raise InvalidParameter(f"{where}: {parameter.name} must be finite, got {value}", parameter=parameter.name)
        return _check_bounds(where, parameter, number)
    if parameter.type == "int" and isinstance(value, int | float) and not isinstance(value, bool):
        if isinstance(value, float) and not value.is_integer():
            raise InvalidParameter(
                f"{where}: {parameter.name} must be an integer, got {value}", parameter=parameter.name
            )
        return _check_bounds(where, parameter, int(value))
    if parameter.type == "bool" and isinstance(value, bool):
        return value
    if parameter.type == "str" and isinstance(value, str):
        if parameter.choices and value not in parameter.choices:
            raise InvalidParameter(
                f"{where}: {parameter.name} must be one of {', '.join(parameter.choices)}, "
                f"got {value!r}{suggest(value, parameter.choices)}",
                parameter=parameter.name,
            )
        return value
    raise InvalidParameter(
        f"{where}: {parameter.name} must be of type {parameter.type}, got {type(value).__name__}",
        parameter=parameter.name,
    )


def _check_bounds(where: str, parameter: Parameter, number: float) -> float:
    low, high = parameter.minimum, parameter.maximum
    unit = f" {parameter.unit}" if parameter.unit else ""
    if low is not None and (number < low or (parameter.above_minimum and number <= low)):
        sign = ">" if parameter.above_minimum else ">="
        raise InvalidParameter(
            f"{where}: {parameter.name} must be {sign} {low:g}{unit}, got {number:g}",
            parameter=parameter.name,
            minimum=low,
        )
    if high is not None and number > high:
        raise InvalidParameter(
            f"{where}: {parameter.name} must be <= {high:g}{unit}, got {number:g}; this is the workload's limit",
            parameter=parameter.name,
            maximum=high,
        )
    return number


def _check_dim(where: str, name: str, value: Any) -> int:
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not 1 <= value < _DIM_LIMIT
        or value != int(value)
    ):
        raise InvalidParameter(f"{where}: dimension {name} must be an integer >= 1, got {value!r}", parameter=name)
    return int(value)


def _unknown(workload: Workload, name: str) -> UnknownParameter:
    inputs = [array.name for array in workload.inputs]
    if name in inputs:
        return UnknownParameter(
            f"{workload.name}: {name} is an array, not a parameter; pass it as an input", parameter=name
        )
    known = (
        [parameter.name for parameter in workload.parameters]
        + inputs
        + list(workload.dim_names)
        + sorted(_OPTION_NAMES)
    )
    return UnknownParameter(
        f"{workload.name} has no parameter {name}{suggest(name, known)}; it takes {', '.join(known)}", parameter=name
    )


def _solve_dims(
    workload: Workload, arrays: Mapping[str, ArrayRef], given: dict[str, int], *, need_content: bool
) -> dict[str, int]:
    dims = dict(given)
    origin = dict.fromkeys(given, "the parameters")
    known = {array.name: array for array in workload.inputs}
    for name, ref in arrays.items():
        if name not in known:
            raise UnknownParameter(
                f"{workload.name} has no input array {name}{suggest(name, known)}; it takes {', '.join(known) or 'none'}",
                parameter=name,
            )
        _check_array(workload, known[name], ref, dims, origin)
    for array in workload.inputs:
        if array.name not in arrays:
            shape = _show_shape(array.shape)
            if need_content:
                raise InvalidArray(
                    f"{workload.name} needs the array {array.name} {shape} ({array.doc})", array=array.name
                )
            missing = [dim for dim in array.shape if isinstance(dim, str) and dim not in dims]
            if missing:
                raise InvalidArray(
                    f"{workload.name} needs the array {array.name} {shape}, its shape, or {', '.join(missing)} as parameters",
                    array=array.name,
                )
        elif need_content and not arrays[array.name].has_content:
            raise InvalidArray(f"{workload.name}: the array {array.name} has a shape but no data", array=array.name)
    return dims


def _check_array(workload: Workload, array: Array, ref: ArrayRef, dims: dict[str, int], origin: dict[str, str]) -> None:
    if ref.dtype not in array.accepts or ref.dtype not in ITEM_BYTES:
        raise InvalidArray(
            f"{workload.name}: {array.name} must be {' or '.join(array.accepts)}, got {ref.dtype}; "
            f"send a NumPy array of {array.accepts[0]} (a list becomes float64). It is: {array.doc}",
            array=array.name,
        )
    if len(ref.shape) != len(array.shape):
        raise InvalidArray(
            f"{workload.name}: {array.name} must have shape {_show_shape(array.shape)}, got {_show_shape(ref.shape)}",
            array=array.name,
        )
    for axis, (dim, length) in enumerate(zip(array.shape, ref.shape, strict=True)):
        if not 1 <= length < _DIM_LIMIT:
            raise InvalidArray(
                f"{workload.name}: {array.name} has length {length} on axis {axis}; it needs >= 1", array=array.name
            )
        expected = dims.setdefault(dim, length) if isinstance(dim, str) else dim
        if isinstance(dim, str):
            origin.setdefault(dim, array.name)
        if length != expected:
            source = f"{dim}={expected} from {origin[dim]}" if isinstance(dim, str) else str(expected)
            raise InvalidArray(
                f"{workload.name}: {array.name} has length {length} on axis {axis}, expected {source}", array=array.name
            )
    if ref.data is not None and len(ref.data) != ref.nbytes:
        raise InvalidArray(
            f"{workload.name}: {array.name} of shape {_show_shape(ref.shape)} needs {ref.nbytes} bytes, got {len(ref.data)}",
            array=array.name,
        )
    if ref.data is not None and ref.segment is not None:
        raise InvalidArray(
            f"{workload.name}: {array.name} comes both inline and in a segment; send one", array=array.name
        )


def _weight(arrays: tuple[Array, ...], dims: Mapping[str, int]) -> int:
    shapes = [(array, output_shape(array, dims)) for array in arrays]
    return sum(math.prod(shape) * ITEM_BYTES[array.dtype] for array, shape in shapes if shape is not None)


def _show_shape(shape: tuple[str | int, ...]) -> str:
    return "(" + ", ".join(str(dim) for dim in shape) + ("," if len(shape) == 1 else "") + ")"
