"""What plugins declare and fulfil: workloads, backends, placements, buses and sensors.

Nothing here imports a numeric library: arrays and namespaces are typed ``Any`` because they belong to the device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

from routerd.types import Device, Scalar

if TYPE_CHECKING:
    import numpy as np

Params: TypeAlias = Mapping[str, Any]
Arrays: TypeAlias = Mapping[str, Any]
Dims: TypeAlias = Mapping[str, int]
HostArrays: TypeAlias = "Mapping[str, np.ndarray[Any, Any]]"

DEVICE_KINDS = ("cpu", "metal_gpu", "neural_engine", "cuda_gpu", "quantum_annealer", "hybrid", "cluster", "in_process")

#: What a kernel may need beyond the operations that every namespace has, and what that means. A workload names its
#: ``needs``, a namespace what it ``lacks`` and why; a backend refuses a workload whose needs its namespace lacks.
NEEDS = {
    "float64": "more than 32 bits of precision",
    "sort": "sorting, in a stable order",
    "searchsorted": "binary search in a sorted array",
    "scatter": "sums and maxima over groups of elements (sum_by, max_by)",
    "torch_module": "torch, because it is a TorchScript module or an exported program",
    "core_ml": "Core ML, because it is an .mlpackage",
}

#: The backend whose float64 result is the contract that every other backend is compared with.
CONTRACT_BACKEND = "cpu.numpy"

#: Several backends that share one task, in the place of one backend.
HYBRID_BACKEND = "hybrid"

#: The contract's kernel run by the client itself, without the daemon: the cheapest place for tiny work.
IN_PROCESS_BACKEND = "in_process.numpy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A scalar parameter with its type, unit and bounds; without a default it is required, unless it is ``optional``.

    ``minimum`` and ``maximum`` are inclusive unless ``above_minimum`` asks for strictly more than ``minimum``. A parameter
    that is optional and left out is absent from ``params``: the kernel asks with ``params.get``.
    """

    name: str
    type: Literal["float", "int", "bool", "str"]
    doc: str
    unit: str = ""
    default: Scalar | None = None
    minimum: float | None = None
    maximum: float | None = None
    above_minimum: bool = False
    choices: tuple[str, ...] = ()
    optional: bool = False

    @property
    def required(self) -> bool:
        return self.default is None and not self.optional


@dataclass(frozen=True, slots=True, kw_only=True)
class Array:
    """An input or output array. Its shape mixes fixed lengths and named dimensions: ``("T", "N")``; ``()`` is a scalar.

    ``minimum``/``maximum`` bound every element (``above_minimum``: strictly above); ``finite`` refuses NaN and infinity.
    An input is passed in ``dtype``; a client may also send any dtype of ``accepts``. ``scale`` names the output whose size
    the error of this one is measured by, where that is not its own (a standard error is judged beside its price).
    """

    name: str
    shape: tuple[str | int, ...]
    doc: str
    unit: str = ""
    dtype: str = "float64"
    accepts: tuple[str, ...] = ("float64", "float32")
    finite: bool = True
    minimum: float | None = None
    maximum: float | None = None
    above_minimum: bool = False
    scale: str = ""


class Example(NamedTuple):
    """Parameters and host arrays of one task, as an example generator makes them."""

    params: dict[str, Scalar]
    arrays: dict[str, Any]


class ModelId(NamedTuple):
    """A user's model and its version."""

    name: str
    version: int


class Namespace(Protocol):
    """The array namespace that kernels are written against, bound to one device and one floating precision.

    ``xp`` follows the Python array API standard; ``real`` and ``integer`` are its floating and 64-bit integer dtypes.
    Kernels create arrays through these methods so that they land on the right device in the right precision.
    ``block`` is how many elements a kernel's temporaries should have: what a CPU's cache holds, or what fills a GPU.
    ``lacks`` maps what it cannot do, of :data:`NEEDS`, to the reason.
    """

    name: str
    xp: Any
    real: Any
    integer: Any
    block: int
    lacks: Mapping[str, str]

    def asarray(self, values: Any) -> Any:
        """A real array on the device from nested sequences, a host array or a device array of any dtype."""

    def arange(self, start: int, stop: int) -> Any:
        """Consecutive 64-bit integers on the device, ``stop`` excluded."""

    def zeros(self, shape: tuple[int, ...]) -> Any:
        """A real array of zeros on the device."""

    def matmul(self, left: Any, right: Any, *, into: str | None = None) -> Any:
        """Matrix product; ``into`` names the output that the product is, so it may be written in place."""

    def sum_by(self, values: Any, groups: Any, count: int) -> Any:
        """Sums of real ``values`` (n,) over the elements of each group: shape (count,). ``groups`` (n,) holds 0…count−1."""

    def max_by(self, values: Any, groups: Any, count: int) -> Any:
        """The greatest of 64-bit integer ``values`` (n,) ≥ 0 in each group: shape (count,), −1 where a group is empty."""

    def from_host(self, array: Any) -> Any:
        """A host array on the device; floating input becomes ``real``."""

    def to_host(self, array: Any, *, out: Any = None) -> Any:
        """A device result as a host array (float64 for floating results), written to ``out`` where that saves a copy."""

    def synchronize(self) -> None:
        """Wait until the device has finished all that was asked of it."""


Kernel: TypeAlias = Callable[[Namespace, Params, Arrays], Arrays]


class Groups(NamedTuple):
    """An integer input that numbers groups from 0, and the parameter that says how many groups there are."""

    numbered_by: str
    counted_by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Join:
    """How tasks of several clients become one execution: their rows, which know nothing of each other, are laid side by side.

    The kernel must give each task's rows what it gives them alone, within the rounding of float64, and ``check_task`` and
    ``check`` must accept the joined task exactly if they accept every one of its tasks.

    Attributes:
        inputs: the inputs that are laid one after another, and along which axis; one dimension is at all these places, and
            nowhere else. All other inputs, and the parameters, must be equal.
        outputs: every output, and the axis along which each task's part is cut out of it.
        groups: where outputs have a row for each group that an input names, rather than for each row: every task's groups
            then follow those of the task before it, and their counts add up.
    """

    inputs: Mapping[str, int]
    outputs: Mapping[str, int]
    groups: Groups | None = None


#: ``split(whole, shares)``: tasks of the same workload that together are the whole, about ``shares`` of its work each. Where
#: the whole is too small for that, there are fewer of them, down to the whole itself.
Split: TypeAlias = Callable[[Example, Sequence[float]], list[Example]]

#: ``merge(whole, outputs)``: the whole's outputs from those of the tasks that ``split`` made of it, in their order.
Merge: TypeAlias = "Callable[[Example, Sequence[HostArrays]], dict[str, Any]]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One computation that can be asked for, declared once for every device.

    Attributes:
        name: ``family.operation``, e.g. ``options.monte_carlo_european``.
        engines: the client engines that use it.
        kernel: the computation, written once against a :class:`Namespace`. Returns every output by name.
        work: from parameters and dimensions to the number that cost grows with.
        work_unit: what ``work`` counts, e.g. ``"multiply-adds"``.
        example: ``example(work, rng)`` makes a task of about that much work (for proof and calibration).
        work_range: the smallest and largest work that calibration covers.
        tolerance: largest relative error accepted when a task names none.
        variants: parameters by which a proof changes each example, so that every path through the kernel is proved.
        batch_dim: the dimension that policies see as ``task.batch``.
        check_task: raises ``InvalidParameter`` or ``InvalidArray`` for parameters and dimensions that do not fit each other;
            it runs in the daemon, before anything is decided, and sees no content.
        check: raises the same for content no declaration can express; it runs in the worker, before the kernel.
        matmul_bound: the time is in matrix products, so reduced-precision matrix units apply.
        needs: what the kernel needs beyond the basics, of :data:`NEEDS`.
        cpu_only: written for NumPy alone, because no other device has anything to gain.
        split, merge: how one task becomes several, and their outputs one again; both or neither.
        join: how tasks of several clients may become one execution, where their rows are independent.
        model: the user's model that the kernel runs, where it runs one.
        content: a digest of what the kernel computes with beyond its code, such as a model's weights.
        contract_precision: what the contract computes in, where ``needs`` keep the kernel from NumPy.
    """

    name: str
    summary: str
    source: str
    engines: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    inputs: tuple[Array, ...]
    outputs: tuple[Array, ...]
    kernel: Kernel
    work: Callable[[Params, Dims], float]
    work_unit: str
    example: Callable[[float, np.random.Generator], Example]
    work_range: tuple[float, float]
    tolerance: float
    variants: tuple[Mapping[str, Scalar], ...] = ({},)
    batch_dim: str | None = None
    check_task: Callable[[Params, Dims], None] | None = None
    check: Callable[[Params, HostArrays], None] | None = None
    matmul_bound: bool = False
    needs: frozenset[str] = frozenset()
    cpu_only: bool = False
    split: Split | None = None
    merge: Merge | None = None
    join: Join | None = None
    model: ModelId | None = None
    content: str = ""
    contract_precision: Literal["float64", "float32"] = "float64"

    @property
    def family(self) -> str:
        return self.name.split(".", 1)[0]

    @property
    def declared_name(self) -> str:
        """Its name in the catalogue and in policies: ``ml.model`` for each version of each model."""
        return self.name.partition("/")[0]

    @property
    def dim_names(self) -> tuple[str, ...]:
        """Named dimensions of the inputs, in order of appearance."""
        seen = [dim for array in self.inputs for dim in array.shape if isinstance(dim, str)]
        return tuple(dict.fromkeys(seen))


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendSpec:
    """A backend as its plugin announces it: light, so that the daemon never imports the framework behind it.

    ``factory`` is ``"module:Class"``, imported only inside a worker and called with ``options``. Backends with the same
    ``(device_kind, group)`` share one worker process. ``absent`` is why the backend cannot be on this machine, in one line,
    where that is known without importing anything: users read it, and no worker is started to find out.
    """

    name: str
    device_kind: str
    precision: str
    factory: str
    group: str = "main"
    options: Mapping[str, Scalar] = field(default_factory=dict)
    absent: str = ""


class Execution(NamedTuple):
    """What a backend's ``execute`` gives: host arrays, where the seconds went, and what memory of the device it took.

    ``device_bytes`` is the most that the task held on the device at a time; 0 where the backend cannot tell.
    """

    outputs: dict[str, Any]
    transfer_seconds: float
    kernel_seconds: float
    device_bytes: int = 0


@runtime_checkable
class Backend(Protocol):
    """Code that runs kernels on a device. It lives in a worker; every method is called from one thread."""

    def probe(self) -> Device:
        """Describe the device. Raises ``Unavailable(reason)`` where it is absent; users are shown the reason."""

    def supports(self, workload: Workload) -> bool:
        """Whether the workload can run here. May raise ``Unavailable(reason)`` to say why not."""

    def prepare(self, workload: Workload) -> None:
        """Compile, convert, warm up: what makes the first call slow."""

    def execute(self, workload: Workload, params: Params, inputs: HostArrays, into: HostArrays) -> Execution:
        """Run one task. ``into`` holds writable host arrays for outputs whose shape is known; using them is optional."""

    def close(self) -> None:
        """Release the device."""


class Placement(Protocol):
    """Where the threads of a worker run."""

    name: str

    def probe(self) -> Device:
        """Describe what can be placed. Raises ``Unavailable(reason)``."""

    def apply(self, role: str) -> str:
        """Place the calling thread for a role (``latency``, ``throughput``, ``background``); returns what was done."""


class Bus(Protocol):
    """A transport for messages between engines."""

    name: str

    def probe(self) -> Device:
        """Describe the transport. Raises ``Unavailable(reason)``."""


class Sensor(Protocol):
    """A source of hardware facts. Facts not known are left out, never guessed."""

    name: str

    def read(self) -> Mapping[str, Scalar]:
        """Facts by policy name (``hardware.thermal`` …). Must not block; raises ``Unavailable(reason)``."""
