"""Tasks that end worker processes: by their content they are known again, and after the third process they run no more."""

from __future__ import annotations

import asyncio
import hashlib
import mmap
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from msgspec import msgpack

from routerd.memory import map_segment
from routerd.session import InputSegment
from routerd.types import Task

#: Worker processes that a task may end before it is refused.
LETHAL: Final = 3
#: Seconds that a verdict holds: drivers are mended, memory comes free.
KEPT_SECONDS: Final = 3600.0
_MOST = 256


class _Suspect:
    __slots__ = ("kills", "outline", "reason", "until")

    def __init__(self, outline: bytes) -> None:
        self.outline = outline
        self.kills = 0
        self.reason = ""
        self.until = 0.0


class Quarantine:
    """What tasks have ended workers, by content. A task that no other resembles costs one look into an empty table."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._suspects: OrderedDict[bytes, _Suspect] = OrderedDict()

    @property
    def refused(self) -> int:
        """How many contents are refused now."""
        return sum(one.kills >= LETHAL and one.until > self._clock() for one in self._suspects.values())

    def may_know(self, task: Task) -> bool:
        """Whether a task of this outline is on record, so that its content must be looked at."""
        if not self._suspects:
            return False
        outline = _outline(task)
        return any(one.outline == outline for one in self._suspects.values())

    def verdict(self, digest: bytes) -> str | None:
        """Why a task of this content is refused, or ``None``."""
        one = self._suspects.get(digest)
        if one is None or one.kills < LETHAL or one.until <= self._clock():
            return None
        return one.reason

    def blame(self, task: Task, digest: bytes, reason: str) -> int:
        """A worker ended while it ran this content; returns how many have."""
        one = self._suspects.get(digest)
        if one is None or one.until <= self._clock():
            one = self._suspects[digest] = _Suspect(_outline(task))
        self._suspects.move_to_end(digest)
        one.kills += 1
        one.reason, one.until = reason, self._clock() + KEPT_SECONDS
        while len(self._suspects) > _MOST:
            self._suspects.popitem(last=False)
        return one.kills

    def absolve(self, digest: bytes) -> None:
        """The content was computed after all: what ended the workers was something else."""
        self._suspects.pop(digest, None)


async def content_digest(task: Task, segments: Sequence[InputSegment]) -> bytes:
    """The digest of what is to be computed on what; off the event loop, as it reads every input.

    ``segments`` are those that the task's arrays refer to. They are mapped at once, as the thread goes on when the caller is
    cancelled and lets them go. Empty while there are no descriptors or memory to map them with: then nothing can be told.
    """
    maps: dict[int, mmap.mmap] = {}
    try:
        for segment in segments:
            maps[segment.info.segment] = map_segment(segment.descriptor, segment.info.size, writable=False)
    except OSError:
        for mapped in maps.values():
            mapped.close()
        return b""
    return await asyncio.to_thread(_digest, task, maps)


def _digest(task: Task, maps: Mapping[int, mmap.mmap]) -> bytes:
    digest = hashlib.blake2b(_outline(task), digest_size=32)
    try:
        for name, ref in sorted(task.arrays.items()):
            digest.update(name.encode())
            if ref.data is not None:
                digest.update(ref.data)
            elif ref.segment is not None:
                with memoryview(maps[ref.segment]) as view, view[ref.offset : ref.offset + ref.nbytes] as content:
                    digest.update(content)
    finally:
        for mapped in maps.values():
            mapped.close()
    return digest.digest()


def _outline(task: Task) -> bytes:
    """What can be told of a task without looking at its arrays."""
    shapes = sorted((name, ref.shape, ref.dtype) for name, ref in task.arrays.items())
    return msgpack.encode((task.workload, sorted(task.params.items()), shapes))
