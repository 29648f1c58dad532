"""Running a planned task: on the backend that was chosen, and where that fails on the next one that may take it.

Kernels are pure, so a task may be run again after a crash. What is tried, and in which order, is the plan's ranking, which
the policy's constraints have filtered: a fallback cannot escape them.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from routerd.errors import (
    ExecutionError,
    OutOfMemory,
    RouterdError,
    TaskQuarantined,
    TaskTimeout,
    Unavailable,
)
from routerd.flags import Flags
from routerd.hybrid import Ended, Partner, Shared, share
from routerd.logs import get_logger
from routerd.planner import GPU_KINDS, Plan
from routerd.policy.model import Fallback
from routerd.quarantine import LETHAL, Quarantine, content_digest
from routerd.session import InputSegment, Session
from routerd.types import Candidate, Task
from routerd.worker import messages
from routerd.worker.dispatcher import Displaced
from routerd.worker.fleet import BackendState, Fleet, Pair
from routerd.worker.queue import Answer, Joinable
from routerd.workloads.joining import join_key

_log = get_logger("router")

#: Seconds that a task waits for a backend that is being restarted or probed, where no other may take it.
PATIENCE_SECONDS: Final = 10.0
_TICK_SECONDS = 1e-3  # so much early may the loop's timers tell that a deadline has passed
_MOST_DISPLACED = 16  # times that workers may end under a task that they have not begun


class Ran(NamedTuple):
    """Where a task ran, what came of it, and what went wrong before.

    ``backend`` made the result; where several shared the task, ``shared`` says what each did.
    """

    backend: BackendState
    answer: Answer
    reasons: tuple[str, ...]
    shared: Ended | None = None


class Executor:
    """Runs planned tasks.

    ``on_change`` hears that decisions about a workload may come out differently, ``on_failure`` that a breaker has opened.
    """

    def __init__(self, fleet: Fleet, flags: Flags, on_change: Callable[[str], None]) -> None:
        self._fleet = fleet
        self._flags = flags
        self._on_change = on_change
        self.quarantine = Quarantine(time.monotonic)
        self.on_failure: Callable[[], None] = lambda: None
        self.fallbacks = 0
        self.reruns = 0

    async def execute(
        self, plan: Plan, fallback: Fallback, segments: list[InputSegment], session: Session, started: float
    ) -> Ran:
        """Run the task. ``started`` is when its request came (``perf_counter``), which deadlines count from.

        Raises the last ``Unavailable`` or ``ExecutionError`` when the policy lets nothing else be tried, and
        ``TaskQuarantined`` for content that has ended :data:`~routerd.quarantine.LETHAL` workers.
        """
        if self.quarantine.may_know(plan.task):
            self._refuse_known(await content_digest(plan.task, segments))
        course = _Course(plan, fallback, started)
        while True:
            candidate = await self._next(course)
            if candidate.members:
                try:
                    return await self._share(course, candidate, segments, session, started)
                except (Unavailable, ExecutionError) as error:
                    await self._sharing_failed(course, candidate, error, segments)
                    continue
            backend = self._fleet.backends[candidate.backend]
            try:
                answer = await self._ask(course, backend, candidate, segments, session, started)
            except (Unavailable, ExecutionError) as error:
                await self._failed(course, backend, error, segments)
                continue
            self._succeeded(course, backend)
            return Ran(backend, answer, tuple(course.reasons))

    async def _next(self, course: _Course) -> Candidate:
        """The first candidate that can take the task now; waits for one that is likely to be back soon."""
        found = self._free(course)
        if found is not None:  # the usual case, which needs no timer
            return found
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(course.patience_seconds):
                while any(self._may_recover(course, one) for one in course.candidates):
                    await self._fleet.moved()
                    found = self._free(course)
                    if found is not None:
                        return found
        objections = [f"{one.backend}: {self._objection(course, one)}" for one in course.candidates]
        words = "; ".join(dict.fromkeys((*course.reasons, *objections)))
        if course.is_late():
            raise TaskTimeout(f"{course.workload} passed its deadline while it waited for a backend: {words}")
        raise Unavailable(words)

    def _free(self, course: _Course) -> Candidate | None:
        """The first candidate that nothing is said against now; of those before it, it is noted why they are not taken."""
        passed_over: list[tuple[str, str]] = []
        for one in course.candidates:
            objection = self._objection(course, one)
            if objection is None:
                for backend, reason in passed_over:
                    if not any(known.startswith(f"{backend}: ") for known in course.reasons):
                        course.reasons.append(f"{backend}: {reason}")
                return one
            passed_over.append((one.backend, objection))
        return None

    def _objection(self, course: _Course, candidate: Candidate) -> str | None:
        if candidate.members:
            objections = [self._fleet.backends[name].objection(course.workload) for name in candidate.members]
            words = "; ".join(filter(None, objections))
            return f"fewer than two of its backends may take it: {words}" if objections.count(None) < 2 else None
        return self._fleet.backends[candidate.backend].objection(course.workload)

    def _may_recover(self, course: _Course, candidate: Candidate) -> bool:
        if candidate.members:
            return False  # each of its members is a candidate too
        return self._fleet.backends[candidate.backend].may_recover(course.workload)

    async def _ask(
        self,
        course: _Course,
        backend: BackendState,
        candidate: Candidate,
        segments: list[InputSegment],
        session: Session,
        started: float,
    ) -> Answer:
        plan, worker = course.plan, backend.worker
        task = plan.task
        frozen = tuple(segment.info.segment for segment in segments if segment.frozen)

        def make(number: int) -> tuple[messages.Execute, list[int]]:
            fresh = [segment for segment in segments if segment.info.segment not in worker.known_segments]
            worker.known_segments.update(segment.info.segment for segment in fresh)
            message = messages.Execute(
                number,
                backend.spec.name,
                task.workload,
                task.params,
                task.arrays,
                task.dims,
                session.number,
                plan.decision.decision_id,
                tuple(segment.info for segment in fresh),
                session.take_reusable(worker.incarnation),
                frozen,
                candidate.pieces,
            )
            return message, [segment.descriptor for segment in fresh]

        timed = backend.pairs[task.workload].model.calibrated
        predicted = candidate.service_seconds + candidate.cold_seconds
        deadline = task.deadline_seconds
        asked = worker.ask(
            make,
            seconds=candidate.service_seconds,
            priority=task.priority,
            limit=worker.hang_seconds(predicted) if timed else None,
            client=session.number,
            expires_at=None if deadline is None else started + deadline,
            joinable=None if course.alone or candidate.pieces > 1 else self._joinable(task, backend),
        )
        if deadline is None:
            return await asked
        try:
            async with asyncio.timeout(max(deadline - (time.perf_counter() - started), 0.0)):
                return await asked
        except TimeoutError:
            raise TaskTimeout(
                f"{task.workload} passed its deadline of {deadline * 1000:g} ms on {backend.spec.name}"
            ) from None

    async def _share(
        self, course: _Course, candidate: Candidate, segments: list[InputSegment], session: Session, started: float
    ) -> Ran:
        """Run the task on several backends at once."""
        task, deadline = course.plan.task, course.plan.task.deadline_seconds
        course.lost.clear()
        team = self._fleet.teams.find(task.workload, candidate.members)
        alone = {one.backend: one for one in course.plan.ranking}
        partners = [
            Partner(
                backend,
                backend.worker.queue_seconds(session.number) + alone[name].transfer_seconds + alone[name].cold_seconds,
                1.0 if team is None else team.slowdown(name),
            )
            for name in candidate.members
            if (backend := self._fleet.backends[name]).objection(course.workload) is None
        ]
        shared = Shared(
            workload=task.workload,
            work=task.work,
            params=task.params,
            arrays=task.arrays,
            segments=segments,
            client=session.number,
            priority=task.priority,
            expires_at=None if deadline is None else started + deadline,
            recycle=session.take_reusable,
            on_failure=lambda backend, error: course.lost.append((backend, error)),
        )
        left = None if deadline is None else max(deadline - (time.perf_counter() - started), 0.0)
        try:
            async with asyncio.timeout(left):
                ended = await share(shared, partners)
        except TimeoutError:
            raise TaskTimeout(
                f"{task.workload} passed its deadline of {(deadline or 0.0) * 1000:g} ms on {candidate.backend}"
            ) from None
        for backend, error in course.lost:  # the others could do it, so it was theirs to do
            if not isinstance(error, Displaced):
                backend.failed += 1
                course.suspects.append((backend, error.message))
        for part in ended.parts:
            self._succeeded(course, self._fleet.backends[part.backend])
        return Ran(ended.backend, ended.answer, tuple(course.reasons), ended)

    async def _sharing_failed(
        self, course: _Course, candidate: Candidate, error: RouterdError, segments: list[InputSegment]
    ) -> None:
        """Every backend of a shared task has failed; raises the error if nothing else is to be tried."""
        course.reasons.append(f"{candidate.backend}: {error.message}")
        course.candidates.remove(candidate)
        course.failures += 1
        for backend, why in course.lost:
            if isinstance(why, Displaced):
                continue
            backend.failed += 1
            if "worker" in why.detail:
                await self._blame(course, backend, why, segments)
            else:
                course.suspects.append((backend, why.message))
            self._confine(course, backend)
        fallback = course.fallback
        tried_enough = course.failures >= fallback.max_attempts or not course.candidates
        if course.is_late() or _cause(error) not in fallback.on or tried_enough:
            raise type(error)("; ".join(course.reasons), **error.detail) from error
        self.fallbacks += 1
        _log.warning("falling back", reason=course.reasons[-1])

    def _joinable(self, task: Task, backend: BackendState) -> Joinable | None:
        """What decides about joining the task with others on this backend; ``None`` where it runs alone."""
        if not backend.worker.batching:
            return None
        workload = self._fleet.workloads[task.workload]
        key = join_key(workload, task)
        if key is None or workload.join is None:
            return None
        shared = sum(ref.nbytes for name, ref in task.arrays.items() if name not in workload.join.inputs)
        segments = tuple(ref.segment for ref in task.arrays.values() if ref.segment is not None)
        curve = backend.pairs[task.workload].model.curve
        return Joinable((backend.spec.name, key), curve, task.work, max(task.nbytes - shared, 0), segments)

    async def _failed(
        self, course: _Course, backend: BackendState, error: RouterdError, segments: list[InputSegment]
    ) -> None:
        """Note a failure; raises it if nothing else is to be tried."""
        course.reasons.append(f"{backend.spec.name}: {error.message}")
        if isinstance(error, Displaced):
            course.displaced += 1
            course.alone = course.alone or bool(error.detail.get("alone"))
            self.reruns += 1
            if _cause(error) not in course.fallback.on:  # not to be tried elsewhere, and not tried here yet
                course.candidates = [one for one in course.candidates if one.backend == backend.spec.name]
            else:
                self._confine(course, backend)
            if course.displaced <= _MOST_DISPLACED and not course.is_late():
                return
        else:
            course.failures += 1
            backend.failed += 1
            if "worker" in error.detail:  # it ended the process, or was ended with it
                await self._blame(course, backend, error, segments)
            else:
                course.suspects.append((backend, error.message))
            if self._goes_on(course, backend, error):
                self.fallbacks += 1
                _log.warning("falling back", reason=course.reasons[-1])
                return
        if len(course.reasons) > 1:
            raise type(error)("; ".join(course.reasons), **error.detail) from error
        raise error

    def _goes_on(self, course: _Course, backend: BackendState, error: RouterdError) -> bool:
        """Whether another attempt may follow; leaves it the candidates that are still worth one."""
        fallback = course.fallback
        if course.is_late() or _cause(error) not in fallback.on or course.failures >= fallback.max_attempts:
            return False
        here = [one for one in course.candidates if one.backend == backend.spec.name]
        course.candidates = [one for one in course.candidates if one.backend != backend.spec.name]
        self._confine(course, backend)
        if "worker" in error.detail:  # the restarted process may do what the others cannot
            course.candidates += here
        return bool(course.candidates)

    async def _blame(
        self, course: _Course, backend: BackendState, error: RouterdError, segments: list[InputSegment]
    ) -> None:
        """A worker ended under the task: the pair's fault, the task's, or neither's; counts tell."""
        task = course.plan.task
        course.digest = course.digest or await content_digest(task, segments)
        if course.digest and self.quarantine.blame(task, course.digest, "; ".join(course.reasons)) >= LETHAL:
            for blamed in course.killed:
                blamed.breaker.forgive()
            self._refuse_known(course.digest)
        pair = backend.pairs.get(course.workload)
        if pair is not None:
            course.killed.append(pair)
            self._count_failure(pair, error.message)

    def _refuse_known(self, digest: bytes) -> None:
        reason = self.quarantine.verdict(digest)
        if reason is not None:
            raise TaskQuarantined(
                f"a task with this content has ended {LETHAL} worker processes and is refused: {reason}; "
                f"change its data or its parameters"
            )

    def _succeeded(self, course: _Course, backend: BackendState) -> None:
        backend.ran += 1
        backend.pairs[course.workload].breaker.succeeded()
        if course.digest:
            self.quarantine.absolve(course.digest)
        for suspect, reason in course.suspects:  # the task could be computed, so it was theirs to do
            pair = suspect.pairs.get(course.workload)
            if pair is not None:
                self._count_failure(pair, reason)

    def _count_failure(self, pair: Pair, reason: str) -> None:
        if pair.breaker.failed(reason, time.monotonic()):
            _log.error("breaker opened", workload=pair.workload, reason=reason)
            self._on_change(pair.workload)
            self.on_failure()

    def _confine(self, course: _Course, backend: BackendState) -> None:
        """Keep the task on the kind of device that it has failed on, where the flags forbid to leave that."""
        kind = backend.spec.device_kind
        flag = "GPU_FALLBACK_ENABLED" if kind in GPU_KINDS else "NEURAL_ENGINE_FALLBACK"
        if (kind in GPU_KINDS or kind == "neural_engine") and not self._flags[flag]:
            course.candidates = [one for one in course.candidates if one.device_kind == kind]


class _Course:
    """How far one task has come."""

    def __init__(self, plan: Plan, fallback: Fallback, started: float) -> None:
        self.plan = plan
        self.workload = plan.task.workload
        self.fallback = fallback
        self.candidates = list(plan.ranking)
        self.reasons: list[str] = []
        self.failures = 0
        self.displaced = 0
        self.alone = False
        self.killed: list[Pair] = []
        self.suspects: list[tuple[BackendState, str]] = []
        self.lost: list[tuple[BackendState, RouterdError]] = []
        self.digest = b""
        self._ends_at = started + (plan.task.deadline_seconds or math.inf)

    @property
    def patience_seconds(self) -> float:
        return max(min(self._ends_at - time.perf_counter(), PATIENCE_SECONDS), 0.0)

    def is_late(self) -> bool:
        """Whether nobody waits for the result any more."""
        return time.perf_counter() >= self._ends_at - _TICK_SECONDS


def _cause(error: RouterdError) -> str:
    """The policy's word for a failure."""
    if isinstance(error, Unavailable):
        return "unavailable"
    if isinstance(error, OutOfMemory):
        return "out_of_memory"
    return "timeout" if isinstance(error, TaskTimeout) else "crash"
