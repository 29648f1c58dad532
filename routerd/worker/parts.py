"""Parts of tasks that several workers share: each cuts the same task in the same way, runs some of the parts, one merges.

Inputs lie in shared memory, so a part is a view of them and nothing is copied to make it. A part's outputs go to a segment that
the merging worker maps, or, in the merging worker itself, stay where they are.
"""

from __future__ import annotations

from time import perf_counter
from typing import Any, Final

import numpy as np

from routerd.errors import ExecutionError, Unavailable
from routerd.interfaces import HYBRID_BACKEND, Example, HostArrays, Workload
from routerd.worker import messages
from routerd.worker.joining import Means
from routerd.worker.segments import NOBODY, OutputSegments
from routerd.workloads.binding import dims_of
from routerd.workloads.content import check_content, require_result

#: The client number of segments with outputs of parts, which only workers see.
BETWEEN_WORKERS: Final = -2


class Parts:
    """The shared tasks that this worker takes part in, each until the daemon says that it has ended."""

    def __init__(self, means: Means, outputs: OutputSegments) -> None:
        self._means = means
        self._outputs = outputs
        self._tasks: dict[int, _Task] = {}
        self._sample: tuple[tuple[str, messages.Sample], Example] | None = None

    def execute(self, job: messages.ExecutePart) -> messages.PartDone:
        """Run one part. Raises what the content check and the backend raise."""
        started = perf_counter()
        task = self._open(job.task)
        parts = task.cut(job.shares)
        if job.index >= len(parts):
            return messages.PartDone(job.id, len(parts), task.work, {}, 0.0, 0.0)
        part = parts[job.index]
        execution = self._means.compute(job.backend, task.workload, part.params, part.arrays)
        refs = {}
        if job.keep:
            task.kept[job.index] = execution.outputs
        else:
            refs = self._means.hand_over(execution.outputs, BETWEEN_WORKERS)
            task.segments.update(ref.segment for ref in refs.values() if ref.segment is not None)
        kernel = execution.kernel_seconds
        transfer = max(perf_counter() - started - kernel, 0.0)
        created = tuple(segment.info for segment in self._means.created())
        return messages.PartDone(job.id, len(parts), task.work, refs, transfer, kernel, created)

    def merge(self, job: messages.Merge) -> messages.Executed:
        """The whole's result, placed for the client. Raises ``Unavailable`` for parts that were kept by a process before this."""
        started = perf_counter()
        self._outputs.recycle(job.client, job.recycle)
        task = self._open(job.task)
        assert task.workload.merge is not None
        outputs = task.workload.merge(
            task.whole, [self._part(task, place, refs) for place, refs in enumerate(job.parts)]
        )
        merged = {name: np.asarray(array) for name, array in outputs.items()}
        require_result(task.workload, merged, task.dims, HYBRID_BACKEND)
        refs = self._means.hand_over(merged, job.client)
        if job.client == NOBODY:
            task.results.update(ref.segment for ref in refs.values() if ref.segment is not None)
        created = tuple(segment.info for segment in self._means.created())
        return messages.Executed(job.id, job.client, refs, perf_counter() - started, 0.0, created)

    def end(self, notice: messages.EndParts) -> None:
        """Free what is held for the task."""
        task = self._tasks.pop(notice.task, None)
        if task is not None:
            self._outputs.discard(BETWEEN_WORKERS, task.segments)
            self._outputs.recycle(NOBODY, task.results)

    def _open(self, shared: messages.SharedTask) -> _Task:
        """The task with its content checked, which every worker does for itself, once."""
        task = self._tasks.get(shared.number)
        if task is not None:
            return task
        workload = self._means.workload(shared.workload)
        if workload.split is None or workload.merge is None:
            raise ExecutionError(f"{workload.name} does not split, so it cannot be shared by several backends")
        if shared.sample is not None:
            whole = self._sampled(workload, shared.sample)
            check_content(workload, whole.params, whole.arrays)
        else:
            arrays = {name: self._means.view(name, ref) for name, ref in shared.arrays.items()}
            whole, constants = Example(shared.params, arrays), self._means.constants
            known = constants.known_good(workload, shared.arrays, shared.frozen)
            check_content(workload, whole.params, whole.arrays, known)
            constants.note_good(workload, shared.arrays, shared.frozen)
        self._tasks[shared.number] = task = _Task(workload, whole)
        return task

    def _sampled(self, workload: Workload, sample: messages.Sample) -> Example:
        """The example to time, the same in every worker; the latest is kept, as a size is timed several times."""
        key = (workload.name, sample)
        if self._sample is None or self._sample[0] != key:
            example = workload.example(sample.work, np.random.default_rng(sample.seed))
            defaults = {one.name: one.default for one in workload.parameters if one.default is not None}
            self._sample = key, Example({**defaults, **example.params}, example.arrays)
        return self._sample[1]

    def _part(self, task: _Task, place: int, refs: dict[str, Any] | None) -> HostArrays:
        if refs is not None:
            return {name: self._means.view(name, ref) for name, ref in refs.items()}
        kept = task.kept.get(place)
        if kept is None:
            raise Unavailable(f"part {place} of the task is not held by this worker any more")
        return kept


class _Task:
    """A shared task as one worker holds it: the whole, its parts, and the outputs that it has kept."""

    def __init__(self, workload: Workload, whole: Example) -> None:
        self.workload = workload
        self.whole = whole
        self.dims = dims_of(workload, {name: array.shape for name, array in whole.arrays.items()})
        self.work = float(workload.work(whole.params, self.dims))
        self.kept: dict[int, HostArrays] = {}
        self.segments: set[int] = set()
        self.results: set[int] = set()
        self._parts: list[Example] = []
        self._shares: tuple[float, ...] = ()

    def cut(self, shares: tuple[float, ...]) -> list[Example]:
        """The parts, in their order; there may be fewer than shares."""
        if shares != self._shares:
            assert self.workload.split is not None
            self._shares, self._parts = shares, self.workload.split(self.whole, shares)
        return self._parts
