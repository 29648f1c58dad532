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
    no longer reads, so that they may carry its results. ``frozen`` are those of the task's segments whose content cannot
    change any more: what was found out about it may be remembered. In more than one of ``pieces`` it runs part by part.
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
    frozen: tuple[int, ...] = ()
    pieces: int = 1


class Member(Struct, frozen=True):
    """One task of a joined job, as :class:`Execute` has it."""

    params: dict[str, Scalar]
    arrays: dict[str, ArrayRef]
    dims: dict[str, int]
    client: int
    decision_id: str
    recycle: tuple[int, ...] = ()


class ExecuteJoined(Struct, frozen=True, tag=True):
    """Run tasks of several clients as one, as far as their content allows; each gets an answer of its own.

    ``attach`` and ``frozen`` are as in :class:`Execute`, for all members together.
    """

    id: int
    backend: str
    workload: str
    members: tuple[Member, ...]
    attach: tuple[SegmentInfo, ...] = ()
    frozen: tuple[int, ...] = ()


class Sample(Struct, frozen=True):
    """The example of this much work that ``seed`` gives, in place of a client's data."""

    work: float
    seed: int = PROOF_SEED


class SharedTask(Struct, frozen=True):
    """A task that several workers share, by the ``number`` under which they hold it until :class:`EndParts`.

    Either ``params`` and ``arrays`` are a client's task, as in :class:`Execute`, or it is a ``sample``.
    """

    number: int
    workload: str
    params: dict[str, Scalar] = field(default_factory=dict)
    arrays: dict[str, ArrayRef] = field(default_factory=dict)
    frozen: tuple[int, ...] = ()
    sample: Sample | None = None


class ExecutePart(Struct, frozen=True, tag=True):
    """Run part ``index`` of those that ``shares`` cut the task into. With ``keep`` its outputs stay here, to be merged here."""

    id: int
    backend: str
    task: SharedTask
    shares: tuple[float, ...]
    index: int
    keep: bool = False
    attach: tuple[SegmentInfo, ...] = ()

    @property
    def workload(self) -> str:
        return self.task.workload


class Merge(Struct, frozen=True, tag=True):
    """Make one result of the outputs of all parts, in their order, for the client; ``None`` stands for what is kept here.

    ``attach`` names segments of clients and of other workers, ``recycle`` is as in :class:`Execute`.
    """

    id: int
    task: SharedTask
    parts: tuple[dict[str, ArrayRef] | None, ...]
    client: int
    attach: tuple[SegmentInfo, ...] = ()
    recycle: tuple[int, ...] = ()

    @property
    def workload(self) -> str:
        return self.task.workload


class Ping(Struct, frozen=True, tag=True):
    """Say that the loop still turns."""

    id: int


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


class EndParts(Struct, frozen=True, tag=True):
    """A shared task has ended, with or without a result: free what is held for it. No reply."""

    task: int


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
    """A result. ``created`` names the new output segments whose descriptors come with this frame.

    ``device_bytes`` is the most memory that the task, or a piece of it, held on the device; 0: not known.
    """

    id: int
    client: int
    outputs: dict[str, ArrayRef]
    transfer_seconds: float
    kernel_seconds: float
    created: tuple[SegmentInfo, ...] = ()
    device_bytes: int = 0


class Execution(Struct, frozen=True):
    """One execution of a joined job: the places of the members that it computed, and what it took for all of them."""

    members: tuple[int, ...]
    transfer_seconds: float
    kernel_seconds: float


class ExecutedJoined(Struct, frozen=True, tag=True):
    """The members' answers, in their order, with their shares of the seconds; their ``id`` is their place.

    ``executions`` are those that succeeded. The descriptors of all that the members created come with this frame, in order.
    """

    id: int
    members: tuple[Executed | Failed, ...]
    executions: tuple[Execution, ...]

    @property
    def created(self) -> tuple[SegmentInfo, ...]:
        """The new output segments of all members."""
        return tuple(info for member in self.members if isinstance(member, Executed) for info in member.created)


class PartDone(Struct, frozen=True, tag=True):
    """A part's outputs, none if they were kept. ``parts`` is how many the task was cut into, ``work`` that of the whole.

    A part beyond the last was not there to be run. The descriptors of the segments ``created`` come with this frame.
    """

    id: int
    parts: int
    work: float
    outputs: dict[str, ArrayRef]
    transfer_seconds: float
    kernel_seconds: float
    created: tuple[SegmentInfo, ...] = ()


class Adopted(Struct, frozen=True, tag=True):
    """``description`` is absent if none of the worker's backends runs such files; ``supported`` says why, for each."""

    id: int
    description: Description | None
    supported: dict[str, str | None]


class Pong(Struct, frozen=True, tag=True):
    """The answer to a ping."""

    id: int


class Failed(Struct, frozen=True, tag=True):
    """The job raised; the worker goes on. ``trace`` tells the log where, if nobody foresaw it."""

    id: int
    error: Failure
    trace: str = ""


Notice: TypeAlias = Recycle | Discard | Forget | EndParts | Release
Job: TypeAlias = Load | Prove | Measure | Execute | ExecuteJoined | ExecutePart | Merge | Adopt | Ping | Notice
Outcome: TypeAlias = Loaded | Proved | Measured | Executed | ExecutedJoined | PartDone | Adopted | Pong | Failed

job_decoder = msgpack.Decoder(Job)
outcome_decoder = msgpack.Decoder(Outcome)
