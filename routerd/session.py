"""What the daemon holds for one connected client: who it is, its segments, and its work in flight."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
from collections.abc import Collection, Iterable, Mapping
from typing import Literal, TypeAlias

from routerd.descriptors import can_spare
from routerd.errors import BadRequest, InvalidArray, LimitExceeded, UnknownSegment
from routerd.memory import create_segment, seal_writes
from routerd.protocol import Limits, SegmentInfo
from routerd.types import ArrayRef

Role: TypeAlias = Literal["read", "execute", "admin"]

#: Segments numbered from here are outputs: the upper half of the number is the incarnation of the worker.
FIRST_OUTPUT = 1 << 32

_segment_numbers = itertools.count(1)
_client_numbers = itertools.count(1)


class InputSegment:
    """A segment that the client writes and workers read. The descriptor lives as long as somebody needs it.

    ``frozen``: its content cannot change any more.
    """

    def __init__(self, size: int) -> None:
        self.info = SegmentInfo(next(_segment_numbers), size)
        self.descriptor = create_segment(size)
        if not can_spare(self.descriptor):
            os.close(self.descriptor)
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        self.frozen = False
        self._holders = 1

    def hold(self) -> None:
        self._holders += 1

    def release(self) -> bool:
        """Let go once; ``True`` when nobody holds it any more and the descriptor is closed."""
        self._holders -= 1
        if self._holders == 0:
            os.close(self.descriptor)
            return True
        return False


class Session:
    """One client connection. Segments die with it. ``in_process``: the client can run tiny work itself."""

    def __init__(
        self,
        name: str,
        uid: int,
        gid: int,
        pid: int | None,
        role: Role,
        limits: Limits,
        *,
        in_process: bool = False,
    ) -> None:
        self.number = next(_client_numbers)
        self.name, self.uid, self.gid, self.pid, self.role = name, uid, gid, pid, role
        self.limits = limits
        self.in_process = in_process
        self.identity = (name, uid, gid, in_process)
        self.tasks: dict[int, asyncio.Task[None]] = {}  # by the id of the request
        self._inputs: dict[int, InputSegment] = {}
        self._outputs: dict[int, tuple[int, int]] = {}
        self._reusable: dict[int, list[int]] = {}
        self.segment_bytes = 0

    def alloc(self, size: int) -> InputSegment:
        """A new segment for the client to fill. Raises ``LimitExceeded``, or ``OSError`` when the machine has no more."""
        if not 0 < size <= self.limits.max_segment_bytes:
            raise LimitExceeded(
                f"a segment must have 1 to {self.limits.max_segment_bytes} bytes (max_segment_bytes), got {size}",
                limit=self.limits.max_segment_bytes,
            )
        self.admit(size)
        segment = InputSegment(size)
        self._inputs[segment.info.segment] = segment
        self.segment_bytes += size
        return segment

    def admit(self, size: int) -> None:
        """Raise ``LimitExceeded`` if this many bytes more would pass the client's limit."""
        if self.segment_bytes + size > self.limits.max_segment_bytes_per_client:
            raise LimitExceeded(
                f"{size} bytes more would pass this client's limit of {self.limits.max_segment_bytes_per_client} "
                f"(max_segment_bytes_per_client; {self.segment_bytes} in use); free segments or drop results first",
                limit=self.limits.max_segment_bytes_per_client,
            )

    def freeze(self, number: int) -> bool:
        """Make the content of an input segment final; ``False`` where the system cannot.

        Raises ``UnknownSegment`` and, while somebody can still write to it, ``BadRequest``.
        """
        segment = self._inputs.get(number)
        if segment is None:
            raise UnknownSegment(f"segment {number} is not held by this client")
        try:
            segment.frozen = segment.frozen or seal_writes(segment.descriptor)
        except OSError as error:
            raise BadRequest(
                f"segment {number} cannot be frozen ({error.strerror}): unmap it wherever it is mapped writable, and freeze it "
                "before a task uses it",
                segment=number,
            ) from error
        return segment.frozen

    def cancel(self, request: int) -> bool:
        """Cancel the request of that id; ``False`` if none awaits its reply."""
        task = self.tasks.get(request)
        if task is None:
            return False
        task.get_loop().call_soon(task.cancel)  # once it has begun, and so heard what segments came back with it
        return True

    def inputs_of(self, arrays: Mapping[str, ArrayRef]) -> list[InputSegment]:
        """The segments that ``arrays`` refer to, checked to be the client's own and large enough."""
        segments: dict[int, InputSegment] = {}
        for name, ref in arrays.items():
            if ref.segment is None:
                continue
            segment = self._inputs.get(ref.segment)
            if segment is None:
                raise UnknownSegment(f"array {name} refers to segment {ref.segment}, which this client does not hold")
            if ref.offset < 0 or ref.offset + ref.nbytes > segment.info.size or ref.offset % 8:
                raise InvalidArray(
                    f"array {name} needs bytes {ref.offset} to {ref.offset + ref.nbytes} of segment {ref.segment}, which "
                    f"has {segment.info.size}; the offset must be a multiple of 8",
                    array=name,
                )
            segments[ref.segment] = segment
        return list(segments.values())

    def adopt(self, created: Iterable[SegmentInfo], incarnation: int) -> None:
        """Count output segments that a worker made for this client."""
        for info in created:
            self._outputs[info.segment] = (info.size, incarnation)
            self.segment_bytes += info.size

    def reuse(self, segments: Iterable[int]) -> None:
        """Note output segments whose content the client no longer reads; their worker hears of it with its next task.

        Those of a worker that is gone are passed over: the client cannot know.
        """
        for number in segments:
            if number in self._outputs:
                self._reusable.setdefault(self._outputs[number][1], []).append(number)
            elif number < FIRST_OUTPUT:
                raise UnknownSegment(f"segment {number} is an input; only results can be reused")

    def take_reusable(self, incarnation: int) -> tuple[int, ...]:
        """What this worker has not yet heard of."""
        return tuple(self._reusable.pop(incarnation, ()))

    def free(self, segments: Iterable[int]) -> tuple[list[InputSegment], dict[int, list[int]]]:
        """Let go of segments for good: the inputs among them, and the outputs by incarnation of their worker.

        Raises ``UnknownSegment``, before anything is freed, for an input that is not the client's.
        """
        numbers = list(dict.fromkeys(segments))
        for number in numbers:
            if number < FIRST_OUTPUT and number not in self._inputs:
                raise UnknownSegment(f"segment {number} is not held by this client")
        inputs: list[InputSegment] = []
        outputs: dict[int, list[int]] = {}
        for number in numbers:
            if number in self._inputs:
                inputs.append(self._inputs.pop(number))
                self.segment_bytes -= inputs[-1].info.size
            elif number in self._outputs:
                size, incarnation = self._outputs.pop(number)
                self.segment_bytes -= size
                outputs.setdefault(incarnation, []).append(number)
        return inputs, outputs

    def disown(self, alive: Collection[int]) -> None:
        """Stop counting outputs of workers that are gone; the client keeps its mappings of them."""
        for number, (size, incarnation) in list(self._outputs.items()):
            if incarnation not in alive:
                del self._outputs[number]
                self._reusable.pop(incarnation, None)
                self.segment_bytes -= size

    def close(self) -> list[int]:
        """Let go of everything and cancel what is in flight; returns the input segments that nobody holds any more."""
        for task in list(self.tasks.values()):
            task.cancel()
        gone = [number for number, segment in self._inputs.items() if segment.release()]
        self._inputs.clear()
        self._outputs.clear()
        self.segment_bytes = 0
        return gone
