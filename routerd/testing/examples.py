"""Tasks to check with: examples of a workload, as a client would send them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from routerd.interfaces import HostArrays, Workload
from routerd.types import ArrayRef, Task
from routerd.workloads.binding import bind

_SEED = 20_240_229
_STEPS = (1.0, 8.0, 64.0)


class Sample(NamedTuple):
    """One bound task with its host arrays, which are read-only as in a worker."""

    task: Task
    inputs: HostArrays


def default_works(workload: Workload) -> tuple[float, ...]:
    """The smallest work that calibration covers, and 8 and 64 times as much: enough to see an error, quick to run."""
    low, high = workload.work_range
    return tuple(dict.fromkeys(min(low * step, high) for step in _STEPS))


def sample(workload: Workload, work: float) -> Sample:
    """The workload's example of about ``work``, bound. The same call gives the same arrays.

    Raises what ``bind`` raises where the example does not fit its own workload.
    """
    import numpy as np

    example = workload.example(work, np.random.default_rng(_SEED))
    refs: dict[str, ArrayRef] = {}
    inputs: dict[str, Any] = {}
    for name, values in example.arrays.items():
        array = np.array(values, order="C")
        array.flags.writeable = False
        inputs[name] = array
        refs[name] = ArrayRef(shape=array.shape, dtype=str(array.dtype), segment=0)
    return Sample(bind(workload, example.params, refs, need_content=True), inputs)


def contract_outputs(workload: Workload, given: Sample) -> dict[str, Any]:
    """What NumPy in float64 computes: the contract."""
    from routerd.namespaces.execution import execute_kernel
    from routerd.namespaces.numpy import NumpyNamespace

    return execute_kernel(NumpyNamespace(), workload, given.task.params, given.inputs).outputs


@contextmanager
def inputs_kept(inputs: HostArrays, problems: list[str]) -> Iterator[None]:
    """Adds a problem for each input whose bytes differ afterwards."""
    before = {name: array.tobytes() for name, array in inputs.items()}
    yield
    problems += [f"the input {name} was modified" for name, array in inputs.items() if array.tobytes() != before[name]]


def output_problems(workload: Workload, task: Task, outputs: HostArrays) -> Sequence[str]:
    """Outputs that are missing, not declared, not on the host, or of a shape or dtype that the workload does not declare."""
    import numpy as np

    from routerd.workloads.binding import output_shape

    declared = {array.name: array for array in workload.outputs}
    problems = [f"the output {name} is missing" for name in declared if name not in outputs]
    for name, output in outputs.items():
        if name not in declared:
            problems.append(f"the output {name} is not declared")
        elif not isinstance(output, np.ndarray):
            problems.append(f"the output {name} is a {type(output).__name__}, not a NumPy array on the host")
        else:
            shape = output_shape(declared[name], task.dims)
            if shape is not None and output.shape != shape:
                problems.append(f"the output {name} has shape {output.shape}, declared is {shape}")
            elif output.ndim != len(declared[name].shape):
                problems.append(f"the output {name} has {output.ndim} axes, declared are {len(declared[name].shape)}")
            if str(output.dtype) != declared[name].dtype:
                problems.append(f"the output {name} is {output.dtype}, declared is {declared[name].dtype}")
    return problems
