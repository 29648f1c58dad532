"""Frozen value types that travel between the parts and over the wire (all are msgspec Structs)."""

from __future__ import annotations

import math
from typing import TypeAlias

from msgspec import Struct, field

Scalar: TypeAlias = bool | int | float | str

#: Bytes of one element, for every dtype that crosses the wire.
ITEM_BYTES: dict[str, int] = {"float64": 8, "float32": 4, "int64": 8, "int32": 4, "uint8": 1, "bool": 1}


class ArrayRef(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """An array in C order: by reference (``segment`` and ``offset`` in bytes), inline (``data``), or by shape alone."""

    shape: tuple[int, ...]
    dtype: str
    segment: int | None = None
    offset: int = 0
    data: bytes | None = None

    @property
    def nbytes(self) -> int:
        """Size of the content in bytes."""
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]

    @property
    def has_content(self) -> bool:
        """Whether the array can be executed on, not only decided about."""
        return self.data is not None or self.segment is not None


class Task(Struct, frozen=True, forbid_unknown_fields=True):
    """One request, checked against its workload, with every default filled in.

    ``work`` is the workload's own measure of cost, ``nbytes`` what the inputs and outputs weigh (0: not known), ``tolerance``
    the largest relative error allowed, ``batch`` the length of the workload's batch dimension where it has one.
    """

    workload: str
    params: dict[str, Scalar]
    arrays: dict[str, ArrayRef]
    dims: dict[str, int]
    work: float
    nbytes: int
    tolerance: float
    batch: int | None = None
    deadline_seconds: float | None = None
    priority: int = 0


class Device(Struct, frozen=True, forbid_unknown_fields=True):
    """Hardware as a backend's probe found it. ``detail`` holds what is worth showing (cores, features, versions)."""

    kind: str
    name: str
    memory_bytes: int | None = None
    detail: dict[str, Scalar] = field(default_factory=dict)


class Prediction(Struct, frozen=True, forbid_unknown_fields=True):
    """Seconds a cost model expects, and the standard deviation of their natural logarithm."""

    seconds: float
    log_sigma: float


class Candidate(Struct, frozen=True, forbid_unknown_fields=True):
    """One eligible backend with its predicted completion time; ``error`` is what its proof measured.

    ``predicted_seconds`` is the sum of the wait in the queue, the way there and back (transfer), what a first task costs on
    top (cold) and the service; only the last is uncertain, by ``log_sigma``. ``members`` are the backends that would share the
    task, where it is ``hybrid``; ``pieces`` is how many parts run one after the other, where the device has no memory for the
    whole.
    """

    backend: str
    device_kind: str
    predicted_seconds: float
    queue_seconds: float
    transfer_seconds: float
    service_seconds: float
    log_sigma: float
    error: float
    cold_seconds: float = 0.0
    members: tuple[str, ...] = ()
    pieces: int = 1


class Rejection(Struct, frozen=True, forbid_unknown_fields=True):
    """One backend that may not take the task, and why."""

    backend: str
    reason: str


class Decision(Struct, frozen=True, forbid_unknown_fields=True):
    """Where a task should run, and why.

    ``confidence`` is the probability that the choice is the best one under the predicted distributions;
    ``estimated_gain`` is predicted time on ``cpu.numpy`` (where that cannot run the workload: on the slowest candidate)
    divided by predicted time on the choice;
    ``rule`` is the policy rule with its file and line; ``in_time`` the probability that it meets the task's deadline.
    """

    decision_id: str
    workload: str
    work: float
    primary_hardware: str
    backend: str
    confidence: float
    estimated_gain: float
    predicted_seconds: float
    reasoning: str
    fallbacks: tuple[Candidate, ...]
    rejected: tuple[Rejection, ...]
    rule: str
    policy_digest: str
    generation: int
    in_time: float | None = None


class Part(Struct, frozen=True, forbid_unknown_fields=True):
    """What one of several backends ran of a shared task: its share of the work, and the seconds that this took there."""

    backend: str
    share: float
    seconds: float


class Placed(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A backend on a device kind. ``parts`` says which backends shared the task, where it ran as ``hybrid``."""

    backend: str
    device_kind: str
    parts: tuple[Part, ...] = ()


class Timing(Struct, frozen=True, forbid_unknown_fields=True):
    """Seconds of each stage: waiting for the worker, host-to-device and back, the kernel, and all in the daemon."""

    queue_seconds: float
    transfer_seconds: float
    kernel_seconds: float
    total_seconds: float


class Result(Struct, frozen=True, forbid_unknown_fields=True):
    """What a task gave.

    Kept apart: ``requested``, the backends or device kinds that the policy's rule names, in its order (empty where it states
    an objective); ``planned``, where the task was sent first; ``ran_on``, where the result is from. The latter differ after a
    fallback, and ``fallback_reason`` says why.
    """

    decision: Decision
    outputs: dict[str, ArrayRef]
    planned: Placed
    ran_on: Placed
    timing: Timing
    fallback_reason: str | None = None
    requested: tuple[str, ...] = ()
