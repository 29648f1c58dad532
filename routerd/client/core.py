"""What the synchronous and the asyncio client share: requests to bytes, bytes to replies, errors to exceptions."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import Raw

from routerd import __version__
from routerd.client.arrays import Segments, pour
from routerd.errors import DaemonUnreachable, InvalidArray, InvalidParameter, LimitExceeded, RouterdError, from_wire
from routerd.memory import Arrivals, map_segment
from routerd.outbox import close_all
from routerd.paths import check_socket_path, default_socket_path
from routerd.protocol import (
    PROTOCOL_VERSIONS,
    Ask,
    FrameBuffer,
    Hello,
    Located,
    Reply,
    Request,
    SegmentInfo,
    Welcome,
    encode,
    encode_frame,
    failure,
)
from routerd.routing.slots import SlotReader
from routerd.types import ITEM_BYTES, ArrayRef, Decision, Result, Scalar

#: A daemon may be starting (a service manager starts both at once): wait this long for it before giving up.
CONNECT_SECONDS = 3.0
LEAST_HELLO_SECONDS = 1.0
RETRY_SECONDS = 0.02
CHUNK = 1 << 16  # the allocator maps larger buffers afresh for every call, which costs more than the call

_MAX_REPLY = 1 << 30
_LEAST_INTEGER, _GREATEST_INTEGER = -(2**63), 2**64 - 1
_reply_decoder = msgspec.msgpack.Decoder(Reply)
decision_decoder = msgspec.msgpack.Decoder(Decision)
result_decoder = msgspec.msgpack.Decoder(Result)
segment_decoder = msgspec.msgpack.Decoder(SegmentInfo)
welcome_decoder = msgspec.msgpack.Decoder(Welcome)
located_decoder = msgspec.msgpack.Decoder(Located)


def socket_path(path: str | Path | None) -> Path:
    """The given path, or where a daemon of this user listens."""
    return check_socket_path(Path(path), "path") if path is not None else default_socket_path(os.environ, sys.platform)


def open_socket(path: Path) -> socket.socket:
    """Connect once. Raises ``DaemonUnreachable``; ``detail["may_come"]`` says whether waiting could help."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(str(path))
    except OSError as error:
        connection.close()
        raise DaemonUnreachable(
            f"no daemon answers on {path} ({error.strerror or error}); start one with: routerd",
            socket=str(path),
            may_come=isinstance(error, FileNotFoundError | ConnectionRefusedError | BlockingIOError),
        ) from error
    return connection


def client_name(name: str | None) -> str:
    """The given name, or the running program's."""
    return name or Path(sys.argv[0] or "python").name or "python"


def hello(name: str, *, table: bool) -> Hello:
    """The first message of a connection. With ``table`` the client wants the decision table and can run tiny work itself."""
    return Hello(PROTOCOL_VERSIONS, name, table, table)


def hello_frame(hello: Hello) -> bytes:
    """That message as it is sent, under the number 0."""
    return request_frame(0, "hello", hello, None)


def map_table(reply: Reply, descriptors: list[int], welcome: Welcome) -> SlotReader | None:
    """The decision table that came with the answer to hello; ``None`` if none did, or it is for another version."""
    try:
        if not welcome.table or not descriptors or welcome.server != __version__:
            return None
        return SlotReader(map_segment(descriptors[0], reply.segments[0].size, writable=False))
    finally:
        close_all(descriptors)


def request_frame(request_id: int, method: str, params: Any, limit: int | None) -> bytes:
    """One request. Raises ``LimitExceeded`` rather than send a frame that the daemon would refuse."""
    frame = encode_frame(Request(request_id, method, Raw(encode(params))))
    if limit is not None and len(frame) - 4 > limit:
        raise LimitExceeded(f"the request has {len(frame) - 4} bytes, the daemon takes {limit}", limit=limit)
    return frame


class ReplyStream:
    """Replies from a byte stream, each with the descriptors that belong to it (the receiver closes them)."""

    def __init__(self) -> None:
        self._frames = FrameBuffer(_MAX_REPLY)
        self._arrivals = Arrivals()

    def feed(self, data: bytes, descriptors: list[int]) -> Iterator[tuple[Reply, list[int]]]:
        self._arrivals.add(descriptors)
        for body in self._frames.feed(data):
            reply = _reply_decoder.decode(body)
            try:
                yield reply, self._arrivals.take(len(reply.segments))
            except OSError as error:
                problem = LimitExceeded(f"this process cannot take the segments of the reply: {error.strerror}")
                yield Reply(reply.id, error=failure(problem)), []

    def close(self) -> None:
        self._arrivals.close()


def result_of(reply: Reply) -> Raw:
    """The result, or the error as the exception of its code."""
    if reply.error is not None:
        raise from_wire(reply.error.code, reply.error.message, reply.error.detail)
    if not bytes(reply.result):
        raise RouterdError("the daemon sent a reply without result or error")
    return reply.result


def adopt(reply: Reply, descriptors: list[int], segments: Segments, *, output: bool) -> None:
    """Map the segments that came with a reply and close their descriptors."""
    try:
        for info, descriptor in zip(reply.segments, descriptors, strict=True):
            if output:
                segments.adopt_output(info, descriptor)
            else:
                segments.adopt_input(info, descriptor)
    finally:
        close_all(descriptors)


def poured(reply: Reply, descriptors: list[int], array: np.ndarray[Any, Any]) -> SegmentInfo:
    """The segment that came in answer to ``alloc``, filled with an array and mapped by nobody."""
    info = segment_decoder.decode(result_of(reply))
    pour(array, descriptors[0], info.size)
    return info


def no_hello(path: Path, seconds: float) -> DaemonUnreachable:
    """The error of a connection on which hello was not answered."""
    return DaemonUnreachable(f"the daemon at {path} did not answer hello within {seconds:g} s", may_come=True)


def split_arguments(
    workload: str, arguments: Mapping[str, Any]
) -> tuple[dict[str, Scalar], dict[str, np.ndarray[Any, Any]]]:
    """Keyword arguments of ``run`` as parameters and arrays. Nested lists become arrays of the declared dtype.

    Raises ``InvalidParameter`` or ``InvalidArray`` for what cannot be sent.
    """
    params: dict[str, Scalar] = {}
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for name, value in arguments.items():
        if isinstance(value, np.ndarray):
            if type(value) is not np.ndarray and hasattr(value, "mask"):
                raise InvalidArray(f"{name} is a masked array; fill it first, for masks are not sent", array=name)
            arrays[name] = value
        elif isinstance(value, np.generic):
            params[name] = value.item()
        elif isinstance(value, bool | int | float | str):
            if isinstance(value, int) and not _LEAST_INTEGER <= value <= _GREATEST_INTEGER:
                raise InvalidParameter(f"{name} is {value}; no integer beyond 64 bits can be sent", parameter=name)
            params[name] = value
        elif hasattr(value, "__array__") or isinstance(value, list | tuple):
            arrays[name] = _as_array(workload, name, value)
        elif value is not None:
            raise InvalidParameter(f"{name} must be a number, a string or an array, got {type(value).__name__}")
    return params, arrays


def ask_of(workload: str, arguments: Mapping[str, Any]) -> Ask:
    """The question that ``decide`` sends: arrays by their shape alone. A tuple of lengths is a shape."""
    shapes = {name: value for name, value in arguments.items() if _is_shape(value)}
    params, arrays = split_arguments(workload, {name: value for name, value in arguments.items() if name not in shapes})
    refs = {name: ArrayRef(tuple(shape), _declared_dtype(workload, name)) for name, shape in shapes.items()}
    for name, array in arrays.items():
        refs[name] = ArrayRef(array.shape, str(array.dtype))
    return Ask(workload, params, refs)


def ask_of_work(workload: str, work: Any) -> Ask:
    """The question about a task of which only its work is known. Raises ``InvalidParameter`` for what is no number."""
    number = work.item() if isinstance(work, np.generic) else work
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise InvalidParameter(f"work must be a number, got {type(work).__name__}", parameter="work")
    try:
        return Ask(workload, work=float(number))
    except OverflowError:
        raise InvalidParameter(f"work {number} is beyond all numbers that can be sent", parameter="work") from None


def empty_bytes(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    """Bytes of an array for ``empty``. Raises ``InvalidArray`` for a dtype or shape that cannot be sent."""
    if str(dtype) not in ITEM_BYTES:
        raise InvalidArray(f"dtype {dtype} cannot be sent; routerd takes {', '.join(ITEM_BYTES)}")
    if any(length < 1 for length in shape):
        raise InvalidArray(f"an array in shared memory needs at least one element, got shape {shape}")
    return int(np.prod(shape, dtype=np.int64)) * dtype.itemsize


def constant_of(array: Any) -> np.ndarray[Any, Any]:
    """What :func:`routerd.client.Router.constant` makes a constant of. Raises ``InvalidArray`` for what cannot be sent."""
    made = np.asarray(array)
    if hasattr(array, "mask"):
        raise InvalidArray("a constant cannot be a masked array; fill it first, for masks are not sent")
    empty_bytes(made.shape, made.dtype)
    return made


def _is_shape(value: Any) -> bool:
    return isinstance(value, tuple) and bool(value) and all(isinstance(length, int) for length in value)


def _as_array(workload: str, name: str, value: Any) -> np.ndarray[Any, Any]:
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise InvalidArray(f"{name} is no array: its rows have different lengths", array=name) from error
    if array.dtype.kind in "iu" and not hasattr(value, "__array__"):
        declared = array.astype(_declared_dtype(workload, name))  # [1, 2, 3] alone says nothing of a dtype
        array = declared if np.array_equal(declared.astype(array.dtype), array) else array
    if array.dtype.kind not in "fiub":
        raise InvalidArray(f"{name} is no array of numbers", array=name)
    return array


@cache
def _declared_dtype(workload: str, name: str) -> str:
    """The dtype of an input in the built-in catalogue, and float64 where that does not know it."""
    from routerd.workloads import builtin_workloads  # only needed where a caller gives no dtype

    declared = (array for one in builtin_workloads() if one.name == workload for array in one.inputs)
    return next((array.dtype for array in declared if array.name == name), "float64")
