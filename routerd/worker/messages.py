"""What daemon and worker say to each other, framed like client messages over a socket pair."""

from __future__ import annotations

from typing import TypeAlias

from msgspec import Struct, field, msgpack

from routerd.models.description import Description
from routerd.protocol import Failure, SegmentInfo
from routerd.types import ArrayRef, Device, Scalar

MEASURE_CALLS = 8  #: most calls of one :class:`Measure`, the first of which only warms up
PROOF_SEED = 20_260_101  #: of the examples that proofs and calibrations run on


class Load(Struct, frozen=True, tag=True):
    """Import a backend and probe its device."""

    id: int
    backend: str
    factory: str
    options: dict[str, Scalar] = field(default_factory=dict)


class Prove(Struct, frozen=True, tag=True):
    """Compare a backend with the contract on examples of the workload at these works."""

    id: int
    backend: str
    workload: str
    works: tuple[float, ...]


class Measure(Struct, frozen=True, tag=True):
    """Time a backend on the example of this much work that ``seed`` gives, several times within ``budget_seconds``."""

    id: int
    backend: str
    workload: str
    work: float
    budget_seconds: float
    seed: int = PROOF_SEED


class Execute(Struct, frozen=True, tag=True):
    """Run one task.

    ``attach`` names the segments whose descriptors come with this frame, ``recycle`` the output segments that the client
    no longer reads, so that they may carry its results.
    """

    id: int
    backend: str
    workload: str
    params: dict[str, Scalar]
    arrays: dict[str, ArrayRef]
    dims: dict[str, int]
    client: int
    decision_id: str
    attach: tuple[SegmentInfo, ...] = ()
    recycle: tuple[int, ...] = ()


class Adopt(Struct, frozen=True, tag=True):
    """Load a version of a user's model from its directory and add it to the workloads as ``workload``.

    ``digest`` is what another worker has found in the file, and must be found again.
    """

    id: int
    workload: str
    directory: str
    model: str
    version: int
    file: str
    max_bytes: int
    digest: str | None = None


class Recycle(Struct, frozen=True, tag=True):
    """The client no longer reads these output segments: they may carry its next results. No reply."""

    client: int
    segments: tuple[int, ...]


class Discard(Struct, frozen=True, tag=True):
    """The client has unmapped these output segments. No reply."""

    client: int
    segments: tuple[int, ...]


class Forget(Struct, frozen=True, tag=True):
    """Unmap input segments that were freed, and everything of a client that left. No reply."""

    segments: tuple[int, ...] = ()
    client: int | None = None


class Release(Struct, frozen=True, tag=True):
    """Nobody asks for this model any more: free it. No reply."""

    workload: str


class Loaded(Struct, frozen=True, tag=True):
    """The backend is ready; ``supported`` maps each workload to ``None`` or the reason it cannot run."""

    id: int
    device: Device
    supported: dict[str, str | None]
    seconds: float


class Proved(Struct, frozen=True, tag=True):
    """The largest relative error over the examples, and the seconds of the first call, preparation included."""

    id: int
    error: float
    cold_seconds: float


class Measured(Struct, frozen=True, tag=True):
    """Seconds of each repetition at ``work`` (the example's own figure, near the one asked for)."""

    id: int
    work: float
    seconds: tuple[float, ...]


class Executed(Struct, frozen=True, tag=True):
    """A result. ``created`` names the new output segments whose descriptors come with this frame."""

    id: int
    client: int
    outputs: dict[str, ArrayRef]
    transfer_seconds: float
    kernel_seconds: float
    created: tuple[SegmentInfo, ...] = ()


class Adopted(Struct, frozen=True, tag=True):
    """``description`` is absent if none of the worker's backends runs such files; ``supported`` says why, for each."""

    id: int
    description: Description | None
    supported: dict[str, str | None]


class Failed(Struct, frozen=True, tag=True):
    """The job raised; the worker goes on. ``trace`` tells the log where, if nobody foresaw it."""

    id: int
    error: Failure
    trace: str = ""


Notice: TypeAlias = Recycle | Discard | Forget | Release
Job: TypeAlias = Load | Prove | Measure | Execute | Adopt | Notice
Outcome: TypeAlias = Loaded | Proved | Measured | Executed | Adopted | Failed

job_decoder = msgpack.Decoder(Job)
outcome_decoder = msgpack.Decoder(Outcome)
