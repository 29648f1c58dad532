"""Example tasks on the command line: what ``run --example`` runs, and the commands that ``workloads NAME`` shows."""

from __future__ import annotations

import math
import shlex
from typing import TYPE_CHECKING, Any

from routerd.errors import BadRequest, InvalidParameter
from routerd.types import Scalar

if TYPE_CHECKING:
    from routerd.interfaces import Example, Workload

_SEED = 7
_SHOWN_RUN, _SHOWN_DECIDE = 0.3, 0.6  # how far up its range of work, in its logarithm, an example in a command lies


def find_workload(name: str) -> Workload | None:
    """The declaration of a workload, with its example generator: built in, or from a plugin installed beside this command."""
    from routerd.workloads import builtin_workloads

    for workload in builtin_workloads():
        if workload.name == name:
            return workload
    from routerd.plugins import load_plugins
    from routerd.settings import load_settings

    return next((one for one in load_plugins(load_settings()).workloads if one.name == name), None)


def make_example(name: str, work: float) -> Example:
    """The workload's own example of about ``work``; the same for the same arguments.

    Raises ``InvalidParameter`` for a work that it cannot have and ``BadRequest`` where its plugin is not installed here.
    """
    import numpy as np

    workload = find_workload(name)
    if workload is None:
        raise BadRequest(
            f"--example: no plugin that declares {name} is installed beside routerctl; give --param and --input"
        )
    low, high = workload.work_range
    if not low <= work <= high:
        raise InvalidParameter(
            f"--example {work:g}: {name} has examples from {low:g} to {high:g} {workload.work_unit}",
            parameter="example",
        )
    return workload.example(work, np.random.default_rng(_SEED))


def example_commands(workload: Workload) -> list[str]:
    """Commands that work as they stand: one that runs, and one that decides about a larger task by its shapes."""
    small = _size(workload, _SHOWN_RUN)
    if not workload.inputs:
        return [_by_shape("run", workload, make_example(workload.name, small))]
    large = make_example(workload.name, _size(workload, _SHOWN_DECIDE))
    run = ["routerctl", "run", workload.name, "--example", f"{small:g}"]
    return [" ".join(run), _by_shape("decide", workload, large)]


def _by_shape(verb: str, workload: Workload, example: Example) -> str:
    defaults = {parameter.name: parameter.default for parameter in workload.parameters}
    words = ["routerctl", verb, workload.name]
    for name, value in example.params.items():
        if value != defaults.get(name):
            words += ["--param", shlex.quote(f"{name}={_written(value)}")]
    dtypes = {array.name: array.dtype for array in workload.inputs}
    for name, array in example.arrays.items():
        dtype = "" if dtypes[name] == "float64" else f":{dtypes[name]}"
        words += ["--shape", f"{name}={'x'.join(map(str, array.shape))}{dtype}"]
    return " ".join(words)


def _written(value: Scalar) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _size(workload: Workload, place: float) -> float:
    """A round work between the two ends of the range."""
    low, high = workload.work_range
    exact = low * (high / low) ** place
    return max(low, min(high, 10.0 ** round(math.log10(exact))))


def with_example(
    name: str, work: float | None, params: dict[str, Scalar], arrays: dict[str, Any]
) -> tuple[dict[str, Scalar], dict[str, Any]]:
    """What the command line gives, on top of an example where one is asked for."""
    if work is None:
        return params, arrays
    example = make_example(name, work)
    return {**example.params, **params}, {**example.arrays, **arrays}
