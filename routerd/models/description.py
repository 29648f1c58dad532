"""What a worker has found in a model file, and the workload that it makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from msgspec import Struct

from routerd.errors import InvalidParameter, Unavailable
from routerd.interfaces import (
    Array,
    Arrays,
    Dims,
    Example,
    Join,
    Kernel,
    ModelId,
    Namespace,
    Parameter,
    Params,
    Workload,
)
from routerd.models.config import BATCH
from routerd.models.repository import FORMATS
from routerd.workloads.ml import MODEL
from routerd.workloads.splitting import merge_along, split_along

if TYPE_CHECKING:
    import numpy as np

DEFAULT_TOLERANCE = 1e-3
DEFAULT_MAX_BATCH = 1 << 20
_PROOF_OPERATIONS = 1e9  # the largest example of a proof or a calibration
_PROOF_BATCH = 65_536
_ACCEPTED = {"float64": ("float64", "float32"), "float32": ("float64", "float32"), "int64": ("int64", "int32")}
_LEAST_INTEGER, _GREATEST_INTEGER = 0, 1  # of an example, where the declaration has no bounds


class ArrayDescription(Struct, frozen=True):
    """One input or output, as :class:`routerd.interfaces.Array` has it."""

    name: str
    shape: tuple[str | int, ...]
    dtype: str
    unit: str = ""
    doc: str = ""
    minimum: float | None = None
    maximum: float | None = None


class Description(Struct, frozen=True):
    """A model that was loaded and has run once. ``digest`` is over its file and its configuration."""

    digest: str
    nbytes: int
    suffix: str
    inputs: tuple[ArrayDescription, ...]
    outputs: tuple[ArrayDescription, ...]
    operations: float
    tolerance: float = DEFAULT_TOLERANCE
    max_batch: int = DEFAULT_MAX_BATCH
    summary: str = ""
    rows_independent: bool = False
    contract_precision: Literal["float64", "float32"] = "float64"

    @property
    def batched(self) -> bool:
        return any(array.shape[:1] == (BATCH,) for array in self.inputs)


def unloadable(name: str, suffix: str) -> Workload:
    """A stand-in for a model that was not looked at yet, to ask backends whether they could run that kind of file."""
    description = Description("", 0, suffix, (), (ArrayDescription("y", (), "float64"),), 1.0)
    return workload_of(name, ModelId("model", 1), description)


def workload_of(name: str, model: ModelId, description: Description, kernel: Kernel | None = None) -> Workload:
    """The workload called ``name``. Without a ``kernel`` it can be decided about, not run: so the daemon holds it."""
    operations, batched = description.operations, description.batched
    largest = max(1.0, min(description.max_batch, _PROOF_BATCH, _PROOF_OPERATIONS / operations)) if batched else 1.0
    splits = description.rows_independent
    return Workload(
        name=name,
        summary=description.summary or f"version {model.version} of the model {model.name}",
        source=f"{description.suffix} file, sha256 {description.digest[:12]}",
        engines=("ML",),
        parameters=_parameters(model),
        inputs=tuple(_array(array) for array in description.inputs),
        outputs=tuple(_array(array) for array in description.outputs),
        kernel=kernel or _elsewhere,
        work=lambda _params, dims: operations * dims.get(BATCH, 1),
        work_unit="floating-point operations",
        example=lambda work, rng: _example(description, work, rng),
        work_range=(operations, operations * largest),
        tolerance=description.tolerance,
        batch_dim=BATCH if batched else None,
        check_task=lambda _params, dims: _check_batch(name, description.max_batch, dims),
        matmul_bound=True,
        needs=FORMATS[description.suffix],
        split=split_along(_batched(description.inputs)) if splits else None,
        merge=merge_along(_batched(description.outputs)) if splits else None,
        join=Join(inputs=_batched(description.inputs), outputs=_batched(description.outputs)) if splits else None,
        model=model,
        content=description.digest,
        contract_precision=description.contract_precision,
    )


def example_arrays(description: Description, batch: int, rng: np.random.Generator) -> dict[str, Any]:
    """Inputs for this many samples: standard normal, or uniform between the bounds that are declared."""
    return {array.name: _random(array, batch, rng) for array in description.inputs}


def _elsewhere(namespace: Namespace, params: Params, arrays: Arrays) -> Arrays:
    raise Unavailable("the model is loaded in workers alone")


def _parameters(model: ModelId) -> tuple[Parameter, ...]:
    """Those of ``ml.model``, of which one answer each is left."""
    name = Parameter(name="model", type="str", default=model.name, choices=(model.name,), doc="the model")
    version = Parameter(
        name="version",
        type="int",
        default=model.version,
        minimum=model.version,
        maximum=model.version,
        doc="its version",
    )
    return (name, version)


def _array(array: ArrayDescription) -> Array:
    return Array(
        name=array.name,
        shape=array.shape,
        doc=array.doc,
        unit=array.unit,
        dtype="float64" if array.dtype == "float32" else array.dtype,
        accepts=_ACCEPTED.get(array.dtype, (array.dtype,)),
        minimum=array.minimum,
        maximum=array.maximum,
    )


def _batched(arrays: tuple[ArrayDescription, ...]) -> Mapping[str, int]:
    return {array.name: 0 for array in arrays if array.shape[:1] == (BATCH,)}


def _check_batch(name: str, largest: int, dims: Dims) -> None:
    if dims.get(BATCH, 1) > largest:
        raise InvalidParameter(
            f"{name.removeprefix(f'{MODEL}/')}: a batch of {dims[BATCH]} passes the model's limit of {largest} "
            f"(max_batch in its config.json); send it in parts",
            parameter=BATCH,
            maximum=largest,
        )


def _example(description: Description, work: float, rng: np.random.Generator) -> Example:
    batch = min(max(1, round(work / description.operations)), description.max_batch)
    return Example({}, example_arrays(description, batch, rng))


def _random(array: ArrayDescription, batch: int, rng: np.random.Generator) -> Any:
    import numpy as np

    shape = tuple(batch if length == BATCH else int(length) for length in array.shape)
    low, high = array.minimum, array.maximum
    if array.dtype == "bool":
        return rng.integers(0, 2, shape).astype(np.bool_)
    if not array.dtype.startswith("float"):
        least = _LEAST_INTEGER if low is None else int(np.ceil(low))
        greatest = max(_GREATEST_INTEGER, least) if high is None else int(np.floor(high))
        return rng.integers(least, greatest + 1, shape).astype(array.dtype)
    if low is None and high is None:
        return rng.standard_normal(shape)
    bottom = low if low is not None else (high or 0.0) - 1.0
    return rng.uniform(bottom, high if high is not None else bottom + 1.0, shape)
