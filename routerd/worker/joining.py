"""Tasks of several clients run as one in a worker: which of them fit each other, and what becomes of each.

Clients are strangers to each other. What several share is compared by content, and where one of them could still change it,
a private copy is compared and computed with; nobody's mistake becomes another's error; and no result lies in memory
that two clients see.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from routerd.errors import RouterdError
from routerd.interfaces import Example, Execution, HostArrays, Params, Workload
from routerd.protocol import failure
from routerd.types import ArrayRef
from routerd.worker import messages
from routerd.worker.constants import Constants
from routerd.worker.segments import OutputSegment
from routerd.workloads.content import check_content
from routerd.workloads.joining import cut, joined_dims, joined_task, own_params

#: Arrays that may still change are compared up to this size, in bytes; larger ones only join those of the same place.
COMPARED_BYTES = 1 << 18

_Answer: TypeAlias = messages.Executed | messages.Failed


class Means(NamedTuple):
    """What a joined job needs of the worker.

    ``view`` maps a reference, ``compute`` runs a checked task on a backend, ``hand_over`` copies outputs to where a client
    sees them, ``guarded`` makes an answer of whatever a step raises, and ``created`` lists the segments made since the
    last answer.
    """

    workload: Callable[[str], Workload]
    view: Callable[[str, ArrayRef], np.ndarray[Any, Any]]
    compute: Callable[[str, Workload, Params, HostArrays], Execution]
    hand_over: Callable[[HostArrays, int], dict[str, ArrayRef]]
    guarded: Callable[[int, Callable[[], _Answer]], _Answer]
    created: Callable[[], list[OutputSegment]]
    constants: Constants


class _Task:
    """A member with its arrays in view."""

    __slots__ = ("arrays", "member", "place")

    def __init__(self, place: int, member: messages.Member, arrays: dict[str, np.ndarray[Any, Any]]) -> None:
        self.place = place
        self.member = member
        self.arrays = arrays

    @property
    def example(self) -> Example:
        return Example(self.member.params, self.arrays)


def execute_joined(job: messages.ExecuteJoined, means: Means) -> messages.ExecutedJoined:
    """Run every member of the job, together with those it fits. Raises only where the job as a whole cannot be begun."""
    return _Run(job, means).answers()


class _Run:
    """One joined job on its way."""

    def __init__(self, job: messages.ExecuteJoined, means: Means) -> None:
        self._job = job
        self._means = means
        self._frozen = frozenset(job.frozen)
        self._workload = means.workload(job.workload)
        self._answers: dict[int, _Answer] = {}
        self._executions: list[messages.Execution] = []

    def answers(self) -> messages.ExecutedJoined:
        for group in self._groups(self._tasks()):
            self._run(group)
        members = tuple(self._answers[place] for place in range(len(self._job.members)))
        done = messages.ExecutedJoined(self._job.id, members, tuple(self._executions))
        # Descriptors travel in the members' order, whichever of them was computed first.
        order = {info.segment: position for position, info in enumerate(done.created)}
        self._means.created().sort(key=lambda segment: order[segment.info.segment])
        return done

    def _tasks(self) -> list[_Task]:
        """The members whose arrays can be seen; the others are answered."""
        tasks: list[_Task] = []
        for place, member in enumerate(self._job.members):
            arrays: dict[str, np.ndarray[Any, Any]] = {}
            try:
                for name, ref in member.arrays.items():
                    arrays[name] = self._means.view(name, ref)
            except RouterdError as error:
                self._refuse(place, error)
            else:
                tasks.append(_Task(place, member, arrays))
        return tasks

    def _groups(self, tasks: Sequence[_Task]) -> list[list[_Task]]:
        """Tasks that share all that is to be equal; the inputs of the first are those that its group computes with."""
        groups: list[list[_Task]] = []
        for task in tasks:
            for group in groups:
                if self._fits(group[0], task):
                    group.append(task)
                    break
            else:
                groups.append([task])
        return groups

    def _fits(self, first: _Task, other: _Task) -> bool:
        join = self._workload.join
        if join is None or own_params(join, first.member.params) != own_params(join, other.member.params):
            return False
        shared = [array.name for array in self._workload.inputs if array.name not in join.inputs]
        return all(self._same(name, first, other) for name in shared)

    def _same(self, name: str, first: _Task, other: _Task) -> bool:
        """Whether an input is the same for both, and stays so until it was computed with."""
        mine, theirs = first.member.arrays[name], other.member.arrays[name]
        if (mine.shape, mine.dtype) != (theirs.shape, theirs.dtype):
            return False
        if mine.data is not None and theirs.data is not None:
            return mine.data == theirs.data
        if mine.segment is not None and (mine.segment, mine.offset) == (theirs.segment, theirs.offset):
            return True
        if mine.segment in self._frozen and theirs.segment in self._frozen:
            digest = self._means.constants.digest
            return digest(mine, first.arrays[name]) == digest(theirs, other.arrays[name])
        if mine.nbytes > COMPARED_BYTES:
            return False
        if mine.data is None and mine.segment not in self._frozen and not first.arrays[name].flags.owndata:
            first.arrays[name] = first.arrays[name].copy()
        return bool(np.array_equal(_bytes(first.arrays[name]), _bytes(other.arrays[name])))

    def _run(self, group: list[_Task]) -> None:
        """Run tasks that fit each other: as one, or if that fails in any way, each alone."""
        if len(group) == 1 or not self._run_together(group):
            for task in group:
                self._run_alone(task)

    def _run_together(self, group: list[_Task]) -> bool:
        workload, join, started = self._workload, self._workload.join, perf_counter()
        assert join is not None
        tasks = [task.example for task in group]
        try:
            joined = self._joined(group, tasks)
        except (RouterdError, ValueError):
            return self._run_without_bad(group)
        try:
            execution = self._means.compute(self._job.backend, workload, joined.params, joined.arrays)
            parts = cut(workload, join, tasks, execution.outputs)
            shares = self._shares(group)
        except Exception:  # a kernel may raise anything: each alone is told what is wrong with it
            return False
        places = tuple(task.place for task in group)
        answers = [self._hand_over(task, part) for task, part in zip(group, parts, strict=True)]
        kernel = execution.kernel_seconds
        transfer = max(perf_counter() - started - kernel, 0.0)
        for place, answer, share in zip(places, answers, shares, strict=True):
            self._answers[place] = _timed(answer, transfer * share, kernel * share)
        self._executions.append(messages.Execution(places, transfer, kernel))
        return True

    def _joined(self, group: Sequence[_Task], tasks: Sequence[Example]) -> Example:
        """The checked joined task. Raises for content or sizes that it cannot have."""
        workload, join = self._workload, self._workload.join
        assert join is not None
        joined = joined_task(workload, join, tasks)
        if workload.check_task is not None:
            workload.check_task(joined.params, joined_dims(workload, join, [task.member.dims for task in group]))
        shared = {name: ref for name, ref in group[0].member.arrays.items() if name not in join.inputs}
        constants = self._means.constants
        check_content(workload, joined.params, joined.arrays, constants.known_good(workload, shared, self._frozen))
        constants.note_good(workload, shared, self._frozen)
        return joined

    def _run_without_bad(self, group: list[_Task]) -> bool:
        """Answer the tasks whose content is bad, and run the others; whether there was such a task."""
        good: list[_Task] = []
        for task in group:
            try:
                self._check(task)
            except RouterdError as error:
                self._refuse(task.place, error)
            else:
                good.append(task)
        if len(good) == len(group):
            return False
        if good:
            self._run(good)
        return True

    def _run_alone(self, task: _Task) -> None:
        def work() -> _Answer:
            started = perf_counter()
            self._check(task)
            execution = self._means.compute(self._job.backend, self._workload, task.member.params, task.arrays)
            answer = self._hand_over(task, execution.outputs)
            kernel = execution.kernel_seconds
            transfer = max(perf_counter() - started - kernel, 0.0)
            self._executions.append(messages.Execution((task.place,), transfer, kernel))
            return _timed(answer, transfer, kernel)

        self._answers[task.place] = self._means.guarded(task.place, work)

    def _check(self, task: _Task) -> None:
        constants, refs = self._means.constants, task.member.arrays
        known = constants.known_good(self._workload, refs, self._frozen)
        check_content(self._workload, task.member.params, task.arrays, known)
        constants.note_good(self._workload, refs, self._frozen)

    def _hand_over(self, task: _Task, outputs: HostArrays) -> _Answer:
        def work() -> _Answer:
            before = len(self._means.created())
            refs = self._means.hand_over(outputs, task.member.client)
            created = tuple(segment.info for segment in self._means.created()[before:])
            return messages.Executed(task.place, task.member.client, refs, 0.0, 0.0, created)

        return self._means.guarded(task.place, work)

    def _refuse(self, place: int, error: RouterdError) -> None:
        self._answers[place] = messages.Failed(place, failure(error))

    def _shares(self, group: Sequence[_Task]) -> list[float]:
        """Of what an execution takes, each task's share, by its work."""
        works = [float(self._workload.work(task.member.params, task.member.dims)) for task in group]
        return [work / sum(works) for work in works]


def _timed(answer: _Answer, transfer: float, kernel: float) -> _Answer:
    if isinstance(answer, messages.Failed):
        return answer
    return messages.Executed(answer.id, answer.client, answer.outputs, transfer, kernel, answer.created)


def _bytes(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return array.reshape(-1).view(np.uint8)
