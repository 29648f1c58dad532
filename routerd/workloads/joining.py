"""Tasks of several clients as one: which may be joined, what the joined task is, and each task's part of its outputs."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from itertools import accumulate
from typing import Any

from routerd.errors import InvalidArray
from routerd.interfaces import Array, Dims, Example, HostArrays, Join, Params, Workload
from routerd.types import Scalar, Task


def joined_dim(workload: Workload, join: Join) -> str:
    """The dimension that grows when tasks are joined, whose lengths add up."""
    name, axis = next(iter(join.inputs.items()))
    declared = next(array for array in workload.inputs if array.name == name)
    return str(declared.shape[axis])


def join_key(workload: Workload, task: Task) -> Hashable | None:
    """What two tasks have in common if they may be joined, as far as it is known without their content; or ``None``."""
    join = workload.join
    if join is None:
        return None
    grown = joined_dim(workload, join)
    shared = tuple((name, ref.dtype) for name, ref in sorted(task.arrays.items()) if name not in join.inputs)
    dims = tuple(sorted((name, length) for name, length in task.dims.items() if name != grown))
    return task.workload, tuple(sorted(own_params(join, task.params).items())), dims, shared


def own_params(join: Join, params: Params) -> dict[str, Any]:
    """The parameters that must be equal."""
    return {name: value for name, value in params.items() if join.groups is None or name != join.groups.counted_by}


def joined_params(join: Join, params: Sequence[Params]) -> dict[str, Scalar]:
    """The parameters of the joined task."""
    whole = dict(params[0])
    if join.groups is not None:
        whole[join.groups.counted_by] = sum(one[join.groups.counted_by] for one in params)
    return whole


def joined_dims(workload: Workload, join: Join, dims: Sequence[Dims]) -> dict[str, int]:
    """The dimensions of the joined task."""
    grown = joined_dim(workload, join)
    return {**dims[0], grown: sum(one[grown] for one in dims)}


def joined_task(workload: Workload, join: Join, tasks: Sequence[Example]) -> Example:
    """One task that computes them all. Its joined arrays are new: nobody else can change them.

    Raises ``InvalidArray`` where a task names a group that it does not have and ``ValueError`` for shapes that do not fit
    each other. Inputs that are not joined are those of the first task.
    """
    import numpy as np

    arrays = dict(tasks[0].arrays)
    for name, axis in join.inputs.items():
        parts = [task.arrays[name] for task in tasks]
        if join.groups is not None and name == join.groups.numbered_by:
            counts = [int(task.params[join.groups.counted_by]) for task in tasks]
            parts = _following(workload, name, parts, counts)
        arrays[name] = np.concatenate(parts, axis=axis)
    return Example(joined_params(join, [task.params for task in tasks]), arrays)


def cut(workload: Workload, join: Join, tasks: Sequence[Example], outputs: HostArrays) -> list[dict[str, Any]]:
    """Each task's part of the joined task's outputs: views of them. Raises ``ValueError`` if there is more or less."""
    if join.groups is not None:
        lengths = [int(task.params[join.groups.counted_by]) for task in tasks]
    else:
        name, along = next(iter(join.inputs.items()))
        lengths = [task.arrays[name].shape[along] for task in tasks]
    stops = list(accumulate(lengths))
    for name, axis in join.outputs.items():
        if outputs[name].shape[axis] != stops[-1]:
            raise ValueError(
                f"{workload.name}: the joined output {name} has length {outputs[name].shape[axis]} on axis {axis}, "
                f"its tasks have {stops[-1]} together"
            )
    return [
        {
            name: outputs[name][(slice(None),) * axis + (slice(stop - length, stop),)]
            for name, axis in join.outputs.items()
        }
        for length, stop in zip(lengths, stops, strict=True)
    ]


def join_problems(workload: Workload) -> list[str]:
    """What is wrong with the declaration of the workload's ``join``."""
    join = workload.join
    if join is None:
        return []
    if not join.inputs:
        return ["its join names no input"]
    inputs = {array.name: array for array in workload.inputs}
    outputs = {array.name: array for array in workload.outputs}
    problems = [
        f"its join names the input {name}, which it does not have" for name in join.inputs if name not in inputs
    ]
    problems += [f"its join does not cut the output {name}" for name in outputs if name not in join.outputs]
    problems += [f"its join cuts {name}, which is no output" for name in join.outputs if name not in outputs]
    problems += _axis_problems(inputs, join.inputs) + _axis_problems(outputs, join.outputs)
    if problems:
        return problems
    grown = joined_dim(workload, join)
    for name, array in inputs.items():
        places = [axis for axis, dim in enumerate(array.shape) if dim == grown]
        if places != ([join.inputs[name]] if name in join.inputs else []):
            problems.append(f"its join grows the dimension {grown}, and {name} has it elsewhere than its join says")
    if join.groups is not None:
        if join.groups.numbered_by not in join.inputs or inputs[join.groups.numbered_by].dtype != "int64":
            problems.append(
                f"its join's groups are numbered by {join.groups.numbered_by}, which is no joined int64 input"
            )
        if join.groups.counted_by not in {
            one.name for one in workload.parameters if one.type == "int" and one.required
        }:
            problems.append(
                f"its join's groups are counted by {join.groups.counted_by}, which is no required int parameter"
            )
    return problems


def _following(workload: Workload, name: str, parts: Sequence[Any], counts: Sequence[int]) -> list[Any]:
    """Group numbers, each task's after those of the task before it."""
    import numpy as np

    for part, count in zip(parts, counts, strict=True):
        if not 0 <= int(part.min()) <= int(part.max()) < count:  # it would count as a group of another task
            raise InvalidArray(f"{workload.name}: {name} must be 0 to {count - 1} everywhere", array=name)
    starts = accumulate(counts, initial=0)
    return [part.astype(np.int64) + start for part, start in zip(parts, starts, strict=False)]


def _axis_problems(arrays: Mapping[str, Array], axes: Mapping[str, int]) -> list[str]:
    return [
        f"its join goes along axis {axis} of {name}, which has {len(arrays[name].shape)}"
        for name, axis in axes.items()
        if name in arrays and not 0 <= axis < len(arrays[name].shape)
    ]
