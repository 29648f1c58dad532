"""Segments as a worker sees them: inputs mapped read-only, outputs mapped writable and reused by the same client.

Reuse matters: the pages of a fresh segment are faulted in one by one, which costs more than many kernels.
A segment is never shown to another client than the one whose results it carried.
"""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np

from routerd.errors import InvalidArray, OutOfMemory, UnknownSegment
from routerd.memory import align, create_segment, map_segment, seal_future_writes
from routerd.protocol import SegmentInfo
from routerd.types import ArrayRef

NOBODY = -1  #: the client number of examples that no client asked for
_ROOMY = 4  # a free segment this many times larger than needed is left for a larger result


class InputSegments:
    """Client segments by number, mapped read-only."""

    def __init__(self) -> None:
        self._maps: dict[int, mmap.mmap] = {}
        self._unmapped: dict[int, str] = {}

    def attach(self, info: SegmentInfo, descriptor: int) -> None:
        """Map a segment; the caller closes the descriptor. What cannot be mapped is told when it is used."""
        try:
            self._maps[info.segment] = map_segment(descriptor, info.size, writable=False)
        except (OSError, ValueError) as error:
            self.miss(info, error)
        else:
            self._unmapped.pop(info.segment, None)  # it was sent again

    def miss(self, info: SegmentInfo, error: Exception) -> None:
        """A segment that cannot be had, and why."""
        self._unmapped[info.segment] = str(error)

    def drop(self, segments: Iterable[int]) -> None:
        """Forget segments. The memory goes when the last array over it does."""
        for segment in segments:
            self._maps.pop(segment, None)
            self._unmapped.pop(segment, None)

    def view(self, name: str, ref: ArrayRef) -> np.ndarray[Any, Any]:
        """The array that ``ref`` describes, without a copy and read-only. Raises ``UnknownSegment``/``InvalidArray``."""
        if ref.data is not None:
            return np.frombuffer(ref.data, dtype=ref.dtype).reshape(ref.shape)
        mapped = self._maps.get(-1 if ref.segment is None else ref.segment)
        if mapped is None and ref.segment in self._unmapped:
            raise OutOfMemory(f"the worker cannot map the segment of array {name}: {self._unmapped[ref.segment]}")
        if mapped is None:
            raise UnknownSegment(f"array {name} refers to segment {ref.segment}, which is not attached")
        if ref.offset < 0 or ref.offset + ref.nbytes > len(mapped):
            raise InvalidArray(f"array {name} reaches beyond its segment of {len(mapped)} bytes")
        count = ref.nbytes // np.dtype(ref.dtype).itemsize
        return np.frombuffer(mapped, dtype=ref.dtype, count=count, offset=ref.offset).reshape(ref.shape)


class OutputSegment:
    """One segment that this worker writes results to."""

    def __init__(self, number: int, size: int) -> None:
        self.info = SegmentInfo(number, size)
        self.descriptor = create_segment(size)
        self.map = map_segment(self.descriptor, size, writable=True)
        seal_future_writes(self.descriptor)

    def close_descriptor(self) -> None:
        """The client has its own descriptor now, or never will."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


class OutputSegments:
    """Output segments of all clients; numbers are unique over the life of the daemon by ``incarnation``."""

    def __init__(self, incarnation: int) -> None:
        self._next = incarnation << 32
        self._free: dict[int, list[OutputSegment]] = {}
        self._lent: dict[int, dict[int, OutputSegment]] = {}

    def acquire(self, client: int, size: int) -> tuple[OutputSegment, bool]:
        """A segment of at least ``size`` bytes for this client, and whether it is new (its descriptor must be sent)."""
        free = self._free.get(client, [])
        size = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        fitting = [segment for segment in free if size <= segment.info.size <= _ROOMY * size]
        if fitting:
            segment = min(fitting, key=lambda candidate: candidate.info.size)
            free.remove(segment)
        else:
            segment = OutputSegment(self._next, size)
            self._next += 1
            if client == NOBODY:
                segment.close_descriptor()
        self._lent.setdefault(client, {})[segment.info.segment] = segment
        return segment, not fitting

    def recycle(self, client: int, segments: Iterable[int]) -> None:
        """Take back segments that the client no longer reads but keeps mapped."""
        lent = self._lent.get(client, {})
        returned = [lent.pop(number) for number in segments if number in lent]
        if returned:
            self._free.setdefault(client, []).extend(returned)

    def discard(self, client: int, segments: Collection[int]) -> None:
        """Drop segments that the client has unmapped, or was never told about."""
        for number in segments:
            self._lent.get(client, {}).pop(number, None)
        if client in self._free:
            self._free[client] = [one for one in self._free[client] if one.info.segment not in segments]

    def forget(self, client: int) -> None:
        """Drop everything of a client that left."""
        self._free.pop(client, None)
        self._lent.pop(client, None)


def place(arrays: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]) -> tuple[dict[str, int], int]:
    """Aligned offsets for arrays of these shapes and dtypes in one segment, and the bytes they need together."""
    offsets: dict[str, int] = {}
    end = 0
    for name, (shape, dtype) in arrays.items():
        offsets[name] = align(end)
        end = offsets[name] + math.prod(shape) * dtype.itemsize
    return offsets, max(end, 1)
