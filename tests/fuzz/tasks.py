"""Tasks of every workload of the catalogue, at the edges of its declaration and beyond them, as a client would send them."""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec
import numpy as np
from hypothesis import strategies as st

from routerd.errors import RouterdError
from routerd.interfaces import Parameter, Workload
from routerd.types import ArrayRef
from routerd.workloads.binding import bind
from tests.fuzz.inputs import WORKLOADS, hostile, odd_floats, odd_integers, odd_names

_LEAST_WORKS = 8.0  # works of an example and of what may be run, in the least of the workload's range
_MOST_ITEMS = 1 << 12  # of an array that is made: what is larger is only claimed
_OPTIONS = ("tolerance", "deadline_ms", "priority")

_LENGTHS = (0, 1, 2, 3, -1, 2**31, 2**40 - 1, 2**40, 2**62, 2**63 - 1, 2**64 - 1)
_VALUES = (0.0, -0.0, 1.0, -1.0, 5e-324, 1e-300, 1e300, 1.7e308, 2**53, np.inf, -np.inf, np.nan)
_DTYPES = ("float64", "float32", "int64", "int32", "uint8", "bool", "complex128", "object", "")


@cache
def example(name: str, seed: int) -> tuple[dict[str, Any], dict[str, np.ndarray[Any, Any]]]:
    """Parameters and arrays of a small task that is right."""
    workload = WORKLOADS[name]
    found = workload.example(workload.work_range[0], np.random.default_rng(seed))
    return dict(found.params), {key: np.asarray(array) for key, array in found.arrays.items()}


def inline(array: np.ndarray[Any, Any]) -> dict[str, Any]:
    """An array as it travels inside a message."""
    return {"shape": list(array.shape), "dtype": str(array.dtype), "data": array.tobytes()}


@st.composite
def tasks_of(draw: st.DrawFn, name: str) -> dict[str, Any]:
    """A task of one workload, with up to three things changed."""
    workload = WORKLOADS[name]
    params, arrays = example(name, draw(st.integers(0, 3)))
    refs = {key: inline(array) for key, array in arrays.items()}
    params = dict(params)
    for _ in range(draw(st.integers(0, 3))):
        left = sorted(arrays.keys() & refs.keys())
        if left and draw(st.booleans()):
            key = draw(st.sampled_from(left))
            draw(st.sampled_from(_CHANGES))(draw, refs, key, arrays[key])
        else:
            _change_params(draw, params, workload)
    return {"workload": name, "params": params, "arrays": refs}


tasks = st.sampled_from(sorted(WORKLOADS)).flatmap(tasks_of)


def is_affordable(task: dict[str, Any]) -> bool:
    """Whether a task may be run, and not only be asked about: one that is right but huge would take minutes."""
    try:
        refs = {key: msgspec.convert(ref, ArrayRef) for key, ref in task["arrays"].items()}
        workload = WORKLOADS[task["workload"]]
        bound = bind(workload, task["params"], refs, need_content=True)
    except (RouterdError, msgspec.MsgspecError, ArithmeticError):
        return True  # it will be refused
    return bound.work <= _LEAST_WORKS * workload.work_range[0] and bound.nbytes <= 1 << 24


def _change_params(draw: st.DrawFn, params: dict[str, Any], workload: Workload) -> None:
    declared = {parameter.name: parameter for parameter in workload.parameters}
    name = draw(st.sampled_from([*declared, *workload.dim_names, *_OPTIONS]) | odd_names)
    what = draw(st.integers(0, 9))
    if what == 0:
        params.pop(name, None)
    elif what == 1 or name not in declared:
        params[name] = draw(
            odd_integers | odd_floats | hostile.filter(lambda value: not isinstance(value, msgspec.Raw))
        )
    else:
        params[name] = draw(_values(declared[name]))


def _values(parameter: Parameter) -> st.SearchStrategy[Any]:
    """Values around a parameter's bounds."""
    if parameter.type == "bool":
        return st.booleans()
    if parameter.type == "str":
        return st.sampled_from([*parameter.choices, "other"])
    low, high = parameter.minimum or 0.0, parameter.maximum or 1.0
    edges = [low, high, low - 1, high + 1, np.nextafter(low, high), np.nextafter(high, low), (low + high) / 2]
    whole = st.sampled_from([int(edge) for edge in edges])
    return whole | st.sampled_from([float(edge) for edge in edges])


def _fill(draw: st.DrawFn, refs: dict[str, Any], key: str, array: np.ndarray[Any, Any]) -> None:
    value = draw(st.sampled_from(_VALUES))
    changed = array.copy()
    with np.errstate(all="ignore"):
        cast = np.asarray(value).astype(array.dtype)
    if draw(st.booleans()):
        changed[...] = cast
    elif changed.size:
        changed.reshape(-1)[draw(st.integers(0, changed.size - 1))] = cast
    refs[key] = inline(changed)


def _scale(draw: st.DrawFn, refs: dict[str, Any], key: str, array: np.ndarray[Any, Any]) -> None:
    with np.errstate(all="ignore"):
        refs[key] = inline((array * draw(st.sampled_from(_VALUES))).astype(array.dtype))


def _reorder(draw: st.DrawFn, refs: dict[str, Any], key: str, array: np.ndarray[Any, Any]) -> None:
    flat = array.reshape(-1)
    changed = draw(st.sampled_from((flat[::-1], np.sort(flat), np.roll(flat, 1), np.full_like(flat, flat[0]))))
    refs[key] = inline(changed.reshape(array.shape))


def _retype(draw: st.DrawFn, refs: dict[str, Any], key: str, array: np.ndarray[Any, Any]) -> None:
    dtype = draw(st.sampled_from(_DTYPES))
    if draw(st.booleans()) and dtype in _DTYPES[:6]:
        with np.errstate(all="ignore"):
            refs[key] = inline(array.astype(dtype))
    else:
        refs[key]["dtype"] = dtype


def _resize(draw: st.DrawFn, refs: dict[str, Any], key: str, array: np.ndarray[Any, Any]) -> None:
    """Another shape that the data fits."""
    shape = list(array.shape)
    if shape and draw(st.booleans()):
        shape[draw(st.integers(0, len(shape) - 1))] = draw(st.integers(1, 5))
    elif shape and draw(st.booleans()):
        shape.pop()
    else:
        shape.append(1)
    if np.prod(shape, dtype=float) <= _MOST_ITEMS:
        refs[key] = inline(np.resize(array, shape))


def _claim(draw: st.DrawFn, refs: dict[str, Any], key: str, array: np.ndarray[Any, Any]) -> None:
    """Another shape than the data has: often one that no machine could hold."""
    shape = list(array.shape) or [1]
    shape[draw(st.integers(0, len(shape) - 1))] = draw(st.sampled_from(_LENGTHS))
    refs[key]["shape"] = draw(st.sampled_from([shape, [], shape * 3]))


def _cut(draw: st.DrawFn, refs: dict[str, Any], key: str, array: np.ndarray[Any, Any]) -> None:
    refs[key]["data"] = draw(st.sampled_from([b"", b"\xff" * 7, array.tobytes()[:-1], array.tobytes() + b"\0" * 8]))


def _relocate(draw: st.DrawFn, refs: dict[str, Any], key: str, _array: np.ndarray[Any, Any]) -> None:
    if draw(st.booleans()):
        refs[key].pop("data", None)
    refs[key]["segment"] = draw(odd_integers)
    refs[key]["offset"] = draw(odd_integers)


def _lose(draw: st.DrawFn, refs: dict[str, Any], key: str, _array: np.ndarray[Any, Any]) -> None:
    ref = refs.pop(key)
    if draw(st.booleans()):
        refs[draw(odd_names)] = ref


def _shape_alone(_draw: st.DrawFn, refs: dict[str, Any], key: str, _array: np.ndarray[Any, Any]) -> None:
    refs[key].pop("data", None)


_CHANGES = (_fill, _fill, _scale, _reorder, _retype, _resize, _resize, _claim, _cut, _relocate, _lose, _shape_alone)
