"""Checks of array content against its declaration, and the error measure of proofs. Runs in workers."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import numpy as np

from routerd.errors import ExecutionError, InvalidArray
from routerd.interfaces import Dims, HostArrays, Params, Workload
from routerd.workloads.binding import output_shape


def check_content(workload: Workload, params: Params, inputs: HostArrays, known: Collection[str] = ()) -> None:
    """Raise ``InvalidArray`` for NaN, infinity or values out of bounds where the workload does not allow them.

    Whatever is unsafe to compute on is found here, before a kernel sees it. ``known`` are inputs whose values were found
    within their bounds before and cannot have changed.
    """
    for declared in workload.inputs:
        array = inputs[declared.name]
        if declared.name in known:
            continue
        if declared.finite and not all_finite(array):
            position = np.unravel_index(int(np.argmin(np.isfinite(array))), array.shape)
            place = ", ".join(str(int(index)) for index in position)
            raise InvalidArray(
                f"{workload.name}: {declared.name}[{place}] is {array[position]}; only finite values are allowed",
                array=declared.name,
            )
        if declared.minimum is not None:
            low = float(array.min())
            if low <= declared.minimum if declared.above_minimum else low < declared.minimum:
                sign = ">" if declared.above_minimum else ">="
                raise InvalidArray(
                    f"{workload.name}: {declared.name} must be {sign} {declared.minimum:g} everywhere, its least value is {low:g}",
                    array=declared.name,
                )
        if declared.maximum is not None and (high := float(array.max())) > declared.maximum:
            raise InvalidArray(
                f"{workload.name}: {declared.name} must be <= {declared.maximum:g} everywhere, its greatest value is {high:g}",
                array=declared.name,
            )
    if workload.check is not None:
        workload.check(params, inputs)


def require_result(workload: Workload, outputs: HostArrays, dims: Dims, backend: str) -> None:
    """Raise ``ExecutionError`` unless ``outputs`` are what the workload declares: these arrays and no other, so many axes, of
    these lengths as far as ``dims`` tell, of this dtype, finite where that is declared."""
    for declared in workload.outputs:
        array = outputs.get(declared.name)
        wanted = output_shape(declared, dims)
        if not isinstance(array, np.ndarray):
            problem = "is missing" if array is None else f"is of type {type(array).__name__}"
        elif array.ndim != len(declared.shape) or (wanted is not None and array.shape != wanted):
            problem = f"has shape {array.shape} instead of {declared.shape if wanted is None else wanted}"
        elif array.dtype != np.dtype(declared.dtype):
            problem = f"holds {array.dtype} instead of {declared.dtype}"
        else:
            continue
        raise ExecutionError(f"{backend} gave no result of {workload.name}: its output {declared.name} {problem}")
    surplus = sorted(set(outputs) - {declared.name for declared in workload.outputs})
    if surplus:
        raise ExecutionError(f"{backend} gave no result of {workload.name}: it has no output {', '.join(surplus)}")
    require_finite(workload, outputs, backend)


def require_finite(workload: Workload, outputs: HostArrays, backend: str) -> None:
    """Raise ``ExecutionError`` if an output that is declared finite is not: what a backend gives then is no result."""
    wrong = first_not_finite(workload, outputs)
    if wrong:
        raise ExecutionError(
            f"{backend} cannot compute {workload.name} for these inputs in its precision: {wrong}; "
            f"scale them to magnitudes that are usual"
        )


def first_not_finite(workload: Workload, outputs: HostArrays) -> str:
    """The place and value of a NaN or infinity in an output that is declared finite, or an empty string.

    Inputs within bounds can still be too large for a device's precision; what it gives then is no result.
    """
    for declared in workload.outputs:
        array = outputs.get(declared.name)
        if array is None or not declared.finite or all_finite(array):
            continue
        position = np.unravel_index(int(np.argmin(np.isfinite(array))), array.shape)
        place = f"[{', '.join(str(int(index)) for index in position)}]" if position else ""
        return f"{declared.name}{place} is {array[position]}"
    return ""


def all_finite(array: np.ndarray[Any, Any]) -> bool:
    """Whether no element is NaN or infinite; integers never are.

    A sum is finite only if every element is, and takes one pass without a temporary. Where it is not, large numbers may be
    the reason, so every element is looked at. (A product with itself would take a third of the time, by waking the threads of
    the linear-algebra library, which then spin for milliseconds on the cores of other workers.)
    """
    if array.dtype.kind != "f":
        return True
    with np.errstate(all="ignore"):
        total = float(array.sum())
    return math.isfinite(total) or bool(np.isfinite(array).all())


def relative_error(workload: Workload, outputs: HostArrays, contract: HostArrays) -> float:
    """The largest relative error over all outputs: ‖output − contract‖ ÷ ‖contract‖ (Frobenius).

    The divisor is the norm of the output that the declaration names as its scale, else of the output itself. NaN must
    stand in the same places on both sides (an indicator's warm-up); a mismatch, a wrong shape or a missing output gives
    infinity.
    """
    scales = {declared.name: declared.scale for declared in workload.outputs if declared.scale}
    worst = 0.0
    for name, expected in contract.items():
        actual = outputs.get(name)
        if actual is None or np.shape(actual) != np.shape(expected):
            return float("inf")
        scale = np.asarray(contract[scales.get(name, name)])
        worst = max(worst, _array_error(np.asarray(actual), np.asarray(expected), scale))
    return worst


def _array_error(actual: np.ndarray[Any, Any], expected: np.ndarray[Any, Any], scale: np.ndarray[Any, Any]) -> float:
    if expected.dtype.kind != "f":
        return 0.0 if np.array_equal(actual, expected) else float("inf")
    defined = np.isfinite(expected)
    if not np.array_equal(defined, np.isfinite(actual)):
        return float("inf")
    difference = float(np.linalg.norm(np.asarray(actual, dtype=np.float64)[defined] - expected[defined]))
    size = float(np.linalg.norm(scale[np.isfinite(scale)]))
    if size == 0.0:
        return 0.0 if difference == 0.0 else float("inf")
    return difference / size
