"""From a model file to a kernel that has run: what a worker does with a model.

Files are never unpickled. Each kind is checked from its bytes before a library sees them, and what a library sees are the
same bytes, so nothing can change in between.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import msgspec
import numpy as np

from routerd.errors import InvalidModel, RouterdError
from routerd.interfaces import HostArrays, Kernel, ModelId, Workload
from routerd.models.config import BATCH, ArrayConfig, Config, parse_config
from routerd.models.description import (
    DEFAULT_MAX_BATCH,
    DEFAULT_TOLERANCE,
    ArrayDescription,
    Description,
    example_arrays,
    workload_of,
)
from routerd.models.repository import Content, read
from routerd.namespaces.execution import contract_namespace, execute_kernel
from routerd.workloads.binding import TASK_OPTIONS

_SEED = 20_260_202
_TRIAL_BATCHES = (2, 3)
_SAME_ROWS = 1e-3  # products of different shapes round differently, mixed rows differ by far more
_IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_TAKEN = {"model", "version", "workload", "self", BATCH, *(option.name for option in TASK_OPTIONS)}


class Opened(NamedTuple):
    """A model file as its format gives it, before anything has run.

    ``kernel`` takes ``inputs`` by name and gives outputs by name, or by ``0``, ``1`` … where the file names none;
    ``operations`` is for one sample, 0 where only running it can tell; ``max_batch`` is the file's own limit.
    """

    inputs: tuple[ArrayDescription, ...]
    kernel: Kernel
    operations: float = 0.0
    max_batch: int = DEFAULT_MAX_BATCH


class LoadedModel(NamedTuple):
    """What the daemon is told, and what the worker keeps."""

    description: Description
    workload: Workload


Opener: TypeAlias = Callable[[bytes, Config], Opened]


def load_model(
    root: Path, model: ModelId, file: str, name: str, *, limit: int, digest: str | None = None
) -> LoadedModel:
    """Load a version and run it on a few samples. ``digest`` is what another worker found, and must be found again.

    Raises ``InvalidModel`` with the reason where the file cannot be accepted or does not run, and ``Unavailable`` where a
    library is missing.
    """
    content = read(root, model.name, model.version, file, limit)
    found = hashlib.sha256(b"\0".join((content.config, content.model))).hexdigest()
    if digest not in (None, found):
        raise InvalidModel("the file has changed since it was first loaded; give a changed model a new version")
    config = parse_config(content.config)
    opened = _opener(Path(file).suffix)(content.model, config)
    return _tried(opened, config, content, name=name, model=model, suffix=Path(file).suffix, digest=found)


def declared_inputs(config: Config, what: str) -> tuple[ArrayDescription, ...]:
    """The inputs that ``config.json`` declares in full. Raises ``InvalidModel`` where it does not."""
    if not config.inputs or any(array.shape is None for array in config.inputs):
        raise InvalidModel(
            f'{what} does not keep the shapes of its inputs; declare them in config.json: {{"inputs": '
            f'[{{"name": "x", "shape": ["batch", 8]}}]}}'
        )
    return tuple(_described(array, array.shape or (), array.dtype or "float64") for array in config.inputs)


def with_config(found: Sequence[ArrayDescription], given: Sequence[ArrayConfig], what: str) -> tuple[Any, ...]:
    """Arrays as the file has them, with the names, units and bounds of ``config.json`` in the same order."""
    if not given:
        return tuple(found)
    if len(given) != len(found):
        raise InvalidModel(f"config.json declares {len(given)} {what}, the model has {len(found)}")
    arrays = []
    for one, array in zip(given, found, strict=True):
        for key, mine, theirs in (("shape", one.shape, array.shape), ("dtype", one.dtype, array.dtype)):
            if mine is not None and mine != theirs and {mine, theirs} != {"float64", "float32"}:
                raise InvalidModel(f"config.json declares {one.name} with {key} {mine}, the model has {theirs}")
        arrays.append(_described(one, array.shape, array.dtype))
    return tuple(arrays)


def _described(one: ArrayConfig, shape: tuple[str | int, ...], dtype: str) -> ArrayDescription:
    return ArrayDescription(one.name, shape, dtype, one.unit, one.doc, one.minimum, one.maximum)


def _opener(suffix: str) -> Opener:
    if suffix == ".safetensors":
        from routerd.models.weights import open_network

        return open_network
    if suffix == ".pt2":
        from routerd.models.exported import open_exported

        return open_exported
    if suffix in (".pt", ".ts"):
        from routerd.models.torchscript import open_torchscript

        return open_torchscript
    raise InvalidModel(f"nothing here loads a {suffix}")


def _tried(
    opened: Opened, config: Config, content: Content, *, name: str, model: ModelId, suffix: str, digest: str
) -> LoadedModel:
    """Run the model twice on a few samples: that gives the outputs, and tells what it is not fit for."""
    description = Description(
        digest=digest,
        nbytes=len(content.model),
        suffix=suffix,
        inputs=opened.inputs,
        outputs=(),
        operations=max(opened.operations, 1.0),
        tolerance=config.tolerance or DEFAULT_TOLERANCE,
        max_batch=min(config.max_batch or DEFAULT_MAX_BATCH, opened.max_batch),
        summary=config.summary,
    )
    _check_names(opened.inputs)
    small, large = (min(batch, description.max_batch) for batch in _TRIAL_BATCHES)
    inputs = example_arrays(description, large, np.random.default_rng(_SEED))
    batched = [array.name for array in opened.inputs if array.shape[:1] == (BATCH,)]
    first_rows = {one: array[:small] if one in batched else array for one, array in inputs.items()}
    description, whole = _run_somehow(description, opened.kernel, name, model, inputs)
    trial = workload_of(name, model, description, opened.kernel)
    again, part = _run(trial, inputs), _run(trial, first_rows)
    if any(not np.array_equal(whole[one], again[one], equal_nan=True) for one in whole):
        raise InvalidModel(
            "two runs on the same input differ: was it saved in training mode, with dropout? Call eval() first"
        )
    outputs = tuple(_output(one, whole[one], part[one], large, small if batched else large) for one in whole)
    if not batched or any(one.shape[:1] != (BATCH,) for one in outputs):
        independent = False
    else:
        independent = all(_close(whole[one][:small], part[one]) for one in whole)
    renamed = with_config(outputs, config.outputs, "outputs")
    _check_names((*opened.inputs, *renamed))
    names = {before.name: after.name for before, after in zip(outputs, renamed, strict=True)}
    operations = opened.operations or _counted(trial, inputs, large if batched else 1)
    description = msgspec.structs.replace(
        description, outputs=renamed, operations=max(operations, 1.0), rows_independent=independent and large > small
    )
    kernel = _renaming(opened.kernel, names)
    return LoadedModel(description, workload_of(name, model, description, kernel))


def _run_somehow(
    description: Description, kernel: Kernel, name: str, model: ModelId, inputs: HostArrays
) -> tuple[Description, dict[str, Any]]:
    """The outputs in float64, or in float32 for a model that insists on it; the description says which."""
    try:
        return description, _run(workload_of(name, model, description, kernel), inputs)
    except RouterdError:
        raise
    except Exception as error:  # the model's own code may raise anything
        single = msgspec.structs.replace(description, contract_precision="float32")
        try:
            return single, _run(workload_of(name, model, single, kernel), inputs)
        except Exception:  # nor in float32: what float64 gave is the reason to tell
            raise InvalidModel(f"it does not run on an example: {type(error).__name__}: {_last_line(error)}") from error


def _run(workload: Workload, inputs: HostArrays) -> dict[str, Any]:
    return execute_kernel(contract_namespace(workload), workload, {}, inputs).outputs


def _output(name: str, whole: Any, part: Any, large: int, small: int) -> ArrayDescription:
    """An output from two runs: the first axis is the batch if it follows it; no other axis may change."""
    if whole.dtype.name not in ("float64", "int64", "int32", "uint8", "bool"):
        raise InvalidModel(f"its output {name} is {whole.dtype}, which routerd does not pass on")
    if whole.size == 0 or not np.isfinite(np.asarray(whole, dtype=np.float64)).any():
        raise InvalidModel(f"its output {name} is empty or nowhere finite on an example; declare bounds of its inputs")
    shape: tuple[str | int, ...] = whole.shape
    if large != small and whole.shape[:1] == (large,) and part.shape == (small, *whole.shape[1:]):
        shape = (BATCH, *whole.shape[1:])
    elif whole.shape != part.shape:
        raise InvalidModel(f"its output {name} is {whole.shape} for {large} samples and {part.shape} for {small}")
    return ArrayDescription(name, shape, whole.dtype.name)


def _close(left: Any, right: Any) -> bool:
    return bool(np.allclose(left, right, rtol=_SAME_ROWS, atol=_SAME_ROWS, equal_nan=True))


def _counted(workload: Workload, inputs: HostArrays, samples: int) -> float:
    """Operations for one sample as torch counts them. Only models for torch come without a count."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        _run(workload, inputs)
    return float(counter.get_total_flops()) / samples


def _renaming(kernel: Kernel, names: Mapping[str, str]) -> Kernel:
    def renamed(namespace: Any, params: Any, arrays: Any) -> Any:
        return {names[one]: array for one, array in kernel(namespace, params, arrays).items()}

    return renamed


def _check_names(arrays: Sequence[ArrayDescription]) -> None:
    names = [array.name for array in arrays]
    for name in names:
        if not _IDENTIFIER.fullmatch(name) or name in _TAKEN:
            raise InvalidModel(f"an array cannot be called {name!r}; give it another name in config.json")
        if names.count(name) > 1:
            raise InvalidModel(f"two arrays are called {name}; give one another name in config.json")


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""
