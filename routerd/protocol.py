"""The wire: frames of a 4-byte little-endian length and one MessagePack message, for clients and workers alike."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Raw, Struct, field

from routerd.errors import FrameTooLarge, MalformedFrame, RouterdError
from routerd.types import ArrayRef, Scalar

PROTOCOL_VERSIONS = (1,)
HEADER = struct.Struct("<I")
_EMPTY_MAP = Raw(b"\x80")
_NOTHING = Raw(b"")


class Request(Struct, frozen=True, forbid_unknown_fields=True):
    """What a client asks. ``id`` is the client's own and comes back in the reply."""

    id: int
    method: str
    params: Raw = _EMPTY_MAP


class Failure(Struct, frozen=True, forbid_unknown_fields=True):
    """An error as it travels: a stable code, a sentence, and the facts as data."""

    code: str
    message: str
    detail: dict[str, Any] = field(default_factory=dict)


class SegmentInfo(Struct, frozen=True, forbid_unknown_fields=True):
    """A segment's number and its size in bytes."""

    segment: int
    size: int


class Reply(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """``result`` or ``error``. ``segments`` names the segments whose descriptors come with this frame, in order."""

    id: int
    result: Raw = _NOTHING
    error: Failure | None = None
    segments: tuple[SegmentInfo, ...] = ()


class Hello(Struct, frozen=True, forbid_unknown_fields=True):
    """First message of a client: the protocol versions it speaks and its name in policies and logs.

    ``table`` asks for the decision table, whose descriptor then comes with the answer; ``in_process`` says that the client
    can run tiny work itself.
    """

    protocols: tuple[int, ...]
    client: str
    table: bool = False
    in_process: bool = False


class Limits(Struct, frozen=True):
    """What the daemon accepts from one client; every excess gets an error that names the limit."""

    max_frame_bytes: int
    max_in_flight_per_client: int
    max_arrays_per_task: int
    max_segment_bytes: int
    max_segment_bytes_per_client: int
    inline_array_bytes: int


class Welcome(Struct, frozen=True):
    """The answer to hello. ``client_class`` is the peer's role: ``read``, ``execute`` or ``admin``.

    ``table`` is the size of the decision table in bytes; its descriptor comes with this message. 0: there is none.
    """

    protocol: int
    server: str
    client_class: str
    limits: Limits
    table: int = 0


class Ask(Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of ``decide`` and ``policy.eval``: a task, whose arrays may be given by their shape alone.

    With ``work`` it is asked about by its work alone, without parameters or arrays.
    """

    workload: str
    params: dict[str, Scalar] = field(default_factory=dict)
    arrays: dict[str, ArrayRef] = field(default_factory=dict)
    work: float | None = None


class Run(Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of ``run``: a task with its data.

    ``reuse`` names output segments that later results may overwrite (the client keeps its mapping); ``free`` names
    segments of either kind that the client has unmapped. ``task_id`` makes sending the task again harmless: of all requests of
    one user with the same id, one counts.
    """

    workload: str
    params: dict[str, Scalar] = field(default_factory=dict)
    arrays: dict[str, ArrayRef] = field(default_factory=dict)
    reuse: tuple[int, ...] = ()
    free: tuple[int, ...] = ()
    task_id: str = ""


class Cancel(Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of ``cancel``: the ``id`` of a request on this connection that nobody waits for any more."""

    request: int


class Alloc(Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of ``alloc``: bytes wanted."""

    size: int


class Freeze(Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of ``freeze``: a segment of the client's whose content shall never change again."""

    segment: int


class Free(Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of ``free``: segments that the client has unmapped."""

    segments: tuple[int, ...]


class Named(Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of ``workloads`` and ``policy.explain``: one name, or all."""

    name: str | None = None


class Calibrate(Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of ``calibrate``: which workloads (all when empty), and whether to forget what is known first."""

    workloads: tuple[str, ...] = ()
    again: bool = False


class MeasureTask(Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of ``measure``: time one backend on the workload's own example of about this much work.

    The same ``seed`` gives the same example everywhere. Runs are repeated while they fit into ``budget_seconds``.
    """

    workload: str
    work: float
    backend: str
    seed: int = 0
    budget_seconds: float = 0.1


class PolicyPaths(Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of ``policy.apply``: absolute paths of files or directories; empty means the configured ones."""

    paths: tuple[str, ...] = ()


class Tail(Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of ``decisions.tail``: the newest ``limit`` decisions, after ``since`` (Unix seconds) if given."""

    limit: int = 20
    workload: str | None = None
    since: float | None = None


class DecisionId(Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of ``decisions.get``."""

    decision_id: str


class Locate(Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of ``table``: the workload whose entry is wanted."""

    workload: str


class Located(Struct, frozen=True):
    """The slot of the decision table that holds the entry, and the class that the client is of.

    ``slot`` is -1 where only the daemon can answer; ``reason`` says why.
    """

    slot: int
    client_class: str
    reason: str = ""


class InProcessRuns(Struct, frozen=True, forbid_unknown_fields=True):
    """Tasks of one workload that a client ran itself: how many, how many of them failed, and ``(work, seconds)`` of some."""

    workload: str
    count: int
    failed: int = 0
    samples: tuple[tuple[float, float], ...] = ()


class Report(Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of ``report``: what a client did without the daemon since it last reported."""

    decisions: int = 0
    runs: tuple[InProcessRuns, ...] = ()


class Nothing(Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of methods that take none."""


_encoder = msgspec.msgpack.Encoder()


def encode_frame(message: Any) -> bytes:
    """One message as a whole frame."""
    buffer = bytearray(HEADER.size)
    _encoder.encode_into(message, buffer, HEADER.size)
    HEADER.pack_into(buffer, 0, len(buffer) - HEADER.size)
    return bytes(buffer)


def encode(message: Any) -> bytes:
    """One message without its frame header."""
    return _encoder.encode(message)


def failure(error: RouterdError) -> Failure:
    """An exception as it travels."""
    return Failure(error.code, error.message, error.detail)


class FrameBuffer:
    """Cuts a byte stream into message bodies, whatever the chunks; a long body in many of them is put together once."""

    def __init__(self, max_frame_bytes: int) -> None:
        self._limit = max_frame_bytes
        self._rest = bytearray()
        self._wanted = HEADER.size  # bytes that the rest needs before anything can be cut from it

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The complete bodies now known. Raises ``FrameTooLarge`` as soon as a header announces too much."""
        if self._rest:
            self._rest += data
            if len(self._rest) < self._wanted:
                return
            data = bytes(self._rest)
        position, end, self._wanted = 0, len(data), HEADER.size
        while end - position >= HEADER.size:
            (length,) = HEADER.unpack_from(data, position)
            if length > self._limit:
                raise FrameTooLarge(
                    f"frame of {length} bytes exceeds the limit of {self._limit}; "
                    "pass large arrays in a segment (method alloc)",
                    limit=self._limit,
                )
            body_end = position + HEADER.size + length
            if body_end > end:
                self._wanted = body_end - position
                break
            yield data[position + HEADER.size : body_end]
            position = body_end
        self._rest = bytearray(data[position:])


#: What a decoder raises for bytes that are no such message; the last one for maps nested without end.
UNDECODABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def decode_error(error: Exception, what: str) -> MalformedFrame:
    """A decoder's complaint as a protocol error."""
    return MalformedFrame(f"{what} is not valid: {error}")
