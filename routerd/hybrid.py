"""One task on several backends at once: parts that should end together, handed out as backends become free, then merged.

Kernels are pure, so a part whose backend fails is run again on another; the task fails when no backend is left.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Final, NamedTuple

from routerd.costs import sharing
from routerd.errors import ExecutionError, RouterdError, Unavailable
from routerd.logs import get_logger
from routerd.protocol import SegmentInfo
from routerd.session import InputSegment
from routerd.types import ArrayRef, Part, Scalar
from routerd.worker import messages
from routerd.worker.fleet import BackendState
from routerd.worker.queue import NOBODY, Answer

_log = get_logger("hybrid")

_DISTURBED: Final = 0.05  # of the time, waited for workers that had other work: then it says nothing of the team
_CHUNK_SECONDS: Final = 300e-6  # pass between two chunks of a backend, beside what its kernel takes to begin

_numbers = itertools.count(1)


class Partner(NamedTuple):
    """A backend that may take parts, and the seconds before it can start: its queue, its way, its first call.

    ``slowdown`` is by what factor it is expected to take longer beside the others than alone.
    """

    backend: BackendState
    wait_seconds: float
    slowdown: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What is to be run, for whom: a client's task, or a sample for timing.

    ``recycle`` gives, for the incarnation of a worker, the output segments of the client that may carry the result;
    ``on_failure`` hears of every backend that fails, whether or not the others finish the task.
    """

    workload: str
    work: float
    params: Mapping[str, Scalar] = field(default_factory=dict)
    arrays: Mapping[str, ArrayRef] = field(default_factory=dict)
    segments: Sequence[InputSegment] = ()
    sample: messages.Sample | None = None
    client: int = NOBODY
    priority: int = 0
    expires_at: float | None = None
    recycle: Callable[[int], tuple[int, ...]] = lambda _incarnation: ()
    on_failure: Callable[[BackendState, RouterdError], None] = lambda _backend, _error: None


class Ended(NamedTuple):
    """A shared task's result, as the worker of ``backend`` merged it.

    The answer's seconds are those of the task as a whole: what all parts took, overlapping, as the kernel's, the merge as
    transfer. ``work`` is that of the task; ``undisturbed``: nothing had to wait for a worker, and nobody failed;
    ``slowdowns`` is by what factor each backend took longer than its model says of the same parts.
    """

    backend: BackendState
    answer: Answer
    parts: tuple[Part, ...]
    work: float
    undisturbed: bool
    slowdowns: Mapping[str, float]


async def share(shared: Shared, partners: Sequence[Partner]) -> Ended:
    """Run the task on as many of the partners as pay, at least one.

    Raises what a worker says of the task itself, and ``Unavailable`` or ``ExecutionError``, with everybody's reasons, when
    all partners have failed. Whatever happens, workers free what they held for it.
    """
    return await _Course(shared, partners).run()


class _Done(NamedTuple):
    """A finished part; ``outputs`` is ``None`` while its backend keeps them."""

    backend: str
    outputs: dict[str, ArrayRef] | None
    seconds: float


class _Course:
    """One shared task on its way."""

    def __init__(self, shared: Shared, partners: Sequence[Partner]) -> None:
        self._shared = shared
        self._partners = {one.backend.spec.name: one.backend for one in partners}
        curves = {name: backend.pairs[shared.workload].model.curve for name, backend in self._partners.items()}
        plan = sharing.share(
            [sharing.Member(one.wait_seconds, curves[one.backend.spec.name], one.slowdown) for one in partners],
            shared.work,
        )
        by_share = sorted(zip(plan.shares, self._partners, strict=True), key=lambda one: -one[0])
        self._merger = by_share[0][1]
        self._active = [name for part, name in zip(plan.shares, self._partners, strict=True) if part > 0.0]
        self._reserve = [name for part, name in by_share if part == 0.0]
        launch = max(max(curves[name].launch, 0.0) for name in self._active)
        self._chunks = sharing.cut(plan, _CHUNK_SECONDS + launch)
        self._curves = curves
        self._task = messages.SharedTask(
            next(_numbers),
            shared.workload,
            dict(shared.params),
            dict(shared.arrays),
            tuple(segment.info.segment for segment in shared.segments if segment.frozen),
            shared.sample,
        )
        self._first = dict(zip(self._active, range(len(self._active)), strict=True))
        self._pending = deque(range(len(self._active), len(self._chunks)))
        self._running = 0
        self._done: dict[int, _Done] = {}
        self._created: dict[int, tuple[SegmentInfo, int]] = {}
        self._reasons: list[RouterdError] = []
        self._asked: set[str] = set()
        self._moved = asyncio.Event()
        self._work = shared.work
        self._queue_seconds: list[float] = []
        self._started = perf_counter()

    async def run(self) -> Ended:
        try:
            while True:
                await self._run_parts()
                computed = perf_counter()
                try:
                    return await self._merge(computed)
                except (Unavailable, ExecutionError) as error:
                    self._lose(self._merger, error)
        finally:
            self._free()

    async def _run_parts(self) -> None:
        """Until every part is done: each backend takes the next when it has finished one."""
        while True:
            if not self._active:
                self._take_reserve()
            lanes = [asyncio.ensure_future(self._lane(name)) for name in self._active]
            try:
                await asyncio.gather(*lanes)
            finally:
                for lane in lanes:
                    lane.cancel()
                await asyncio.gather(*lanes, return_exceptions=True)
            if not self._pending and not self._first:
                return

    def _take_reserve(self) -> None:
        """All that took parts have failed: those for whom it did not pay are the last. Raises if there are none."""
        self._active, self._reserve = self._reserve, []
        if not self._active:
            words = "; ".join(error.message for error in self._reasons)
            raise type(self._reasons[-1])(words, **self._reasons[-1].detail) from self._reasons[-1]
        self._merger = self._active[0]

    async def _lane(self, name: str) -> None:
        """Parts for one backend, until none is left or it fails."""
        while (index := await self._next(name)) is not None:
            self._running += 1
            try:
                await self._run_part(name, index)
            except (Unavailable, ExecutionError) as error:
                self._pending.appendleft(index)
                self._lose(name, error)
                return
            finally:
                self._running -= 1
                self._moved.set()

    async def _next(self, name: str) -> int | None:
        """The next part for this backend; waits while one that runs elsewhere might yet have to be run again."""
        if name in self._first:
            return self._first.pop(name)
        while not self._pending:
            if not self._running:
                return None
            self._moved.clear()
            await self._moved.wait()
        return self._pending.popleft()

    def _lose(self, name: str, error: RouterdError) -> None:
        """A backend has failed: it gets no more parts, and what it kept is to be computed again."""
        _log.warning("a backend is lost to a shared task", backend=name, reason=error.message)
        self._reasons.append(error)
        self._shared.on_failure(self._partners[name], error)
        if name in self._active:
            self._active.remove(name)
        lost = [index for index, done in self._done.items() if done.backend == name and done.outputs is None]
        for index in lost:
            del self._done[index]
        self._pending.extendleft(reversed(lost))
        if name in self._first:
            self._pending.appendleft(self._first.pop(name))
        if name == self._merger and self._active:
            self._merger = self._active[0]
        self._moved.set()

    async def _run_part(self, name: str, index: int) -> None:
        backend, keep = self._partners[name], name == self._merger

        def make(number: int) -> tuple[messages.ExecutePart, list[int]]:
            infos, descriptors = self._inputs_for(backend)
            return messages.ExecutePart(number, name, self._task, self._chunks, index, keep, infos), descriptors

        predicted = self._curves[name].predict(self._work * self._chunks[index]).seconds
        answer = await self._ask(backend, make, predicted)
        outcome: messages.PartDone = answer.outcome
        for info, descriptor in zip(outcome.created, answer.descriptors, strict=True):
            self._created[info.segment] = info, descriptor
        self._work = outcome.work
        self._pending = deque(one for one in self._pending if one < outcome.parts)
        self._first = {other: one for other, one in self._first.items() if one < outcome.parts}
        if index < outcome.parts:
            seconds = answer.total_seconds - answer.queue_seconds
            self._done[index] = _Done(name, None if keep else outcome.outputs, seconds)

    async def _merge(self, computed: float) -> Ended:
        name = self._merger
        backend, shared = self._partners[name], self._shared
        parts = tuple(self._done[index].outputs for index in sorted(self._done))

        def make(number: int) -> tuple[messages.Merge, list[int]]:
            infos, descriptors = self._inputs_for(backend)
            infos = (*infos, *(info for info, _descriptor in self._created.values()))
            descriptors += [descriptor for _info, descriptor in self._created.values()]
            recycle = shared.recycle(backend.worker.incarnation)
            return messages.Merge(number, self._task, parts, shared.client, infos, recycle), descriptors

        answer = await self._ask(backend, make, max(computed - self._started, _CHUNK_SECONDS))
        ended = perf_counter()
        queued = min(self._queue_seconds)  # until something ran
        outcome: messages.Executed = answer.outcome
        whole = messages.Executed(
            outcome.id,
            outcome.client,
            outcome.outputs,
            transfer_seconds=ended - computed,
            kernel_seconds=max(computed - self._started - queued, 1e-9),
            created=outcome.created,
        )
        undisturbed = max(self._queue_seconds) <= max(_DISTURBED * (ended - self._started), _CHUNK_SECONDS)
        return Ended(
            backend,
            Answer(whole, answer.descriptors, queued, ended - self._started),
            self._parts_run(),
            self._work,
            undisturbed and not self._reasons,
            self._slowdowns(),
        )

    async def _ask(
        self, backend: BackendState, make: Callable[[int], tuple[messages.Job, list[int]]], predicted: float
    ) -> Answer:
        self._asked.add(backend.spec.name)
        answer = await backend.worker.ask(
            make,
            seconds=predicted,
            priority=self._shared.priority,
            limit=backend.worker.hang_seconds(predicted),
            client=self._shared.client,
            expires_at=self._shared.expires_at,
        )
        self._queue_seconds.append(answer.queue_seconds)
        return answer

    def _inputs_for(self, backend: BackendState) -> tuple[tuple[SegmentInfo, ...], list[int]]:
        """The client's segments that the worker does not know yet, and their descriptors; it knows them from now on."""
        worker = backend.worker
        fresh = [one for one in self._shared.segments if one.info.segment not in worker.known_segments]
        worker.known_segments.update(one.info.segment for one in fresh)
        return tuple(one.info for one in fresh), [one.descriptor for one in fresh]

    def _parts_run(self) -> tuple[Part, ...]:
        """What each backend has run of the task, the largest share first."""
        total = sum(self._chunks[index] for index in self._done)
        found = []
        for name in self._partners:
            own = {index: done for index, done in self._done.items() if done.backend == name}
            if own:
                part = sum(self._chunks[index] for index in own) / total
                found.append(Part(name, part, sum(done.seconds for done in own.values())))
        return tuple(sorted(found, key=lambda one: -one.share))

    def _slowdowns(self) -> dict[str, float]:
        predicted: dict[str, float] = {}
        taken: dict[str, float] = {}
        for index, done in self._done.items():
            alone = self._curves[done.backend].predict(self._work * self._chunks[index]).seconds
            predicted[done.backend] = predicted.get(done.backend, 0.0) + alone
            taken[done.backend] = taken.get(done.backend, 0.0) + done.seconds
        return {name: taken[name] / predicted[name] for name in taken}

    def _free(self) -> None:
        """Workers let go of the task; nobody needs its parts any more."""
        created = tuple(self._created)
        for _info, descriptor in self._created.values():
            os.close(descriptor)
        self._created.clear()
        for name in self._asked:
            worker = self._partners[name].worker
            worker.tell(messages.EndParts(self._task.number))
            if created:
                worker.tell(messages.Forget(segments=created))
