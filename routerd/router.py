"""The heart: decide where a task runs, run it there, learn from it.

``decide`` is: bind the task → ask the policy → predict every admissible backend → choose. ``run`` is the same, then
queue → worker → (fallback) → observe.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from routerd.errors import (
    ExecutionError,
    InvalidParameter,
    OutOfMemory,
    Overloaded,
    RouterdError,
    TaskTimeout,
    Unavailable,
    UnknownWorkload,
    suggest,
)
from routerd.facts import FactSource
from routerd.flags import Flags
from routerd.interfaces import Workload
from routerd.logs import decision_scope, get_logger
from routerd.planner import GPU_KINDS, ActivePolicy, Planner
from routerd.protocol import Ask, SegmentInfo
from routerd.recorder import Recorder
from routerd.releases import Releases
from routerd.routing.exploration import Explorer, tried_elsewhere
from routerd.session import InputSegment, Session
from routerd.store import Store
from routerd.types import Candidate, Decision, Placed, Result, Task, Timing
from routerd.worker import messages
from routerd.worker.fleet import BackendState, Fleet
from routerd.worker.supervisor import FOREGROUND, Answer
from routerd.workloads.binding import bind, bind_work, has_own_options
from routerd.workloads.ml import MODEL

_log = get_logger("router")


class Plan(NamedTuple):
    """A decision with everything that led to it.

    ``literal``: the rule names its backends rather than an objective. ``best`` is what the rules put first, wherever the task
    is sent to.
    """

    task: Task
    decision: Decision
    ranking: tuple[Candidate, ...]
    facts: Mapping[str, Any]
    literal: bool
    best: Candidate


class Completed(NamedTuple):
    """A result and the new segments (with descriptors, which the receiver closes) that carry it."""

    result: Result
    created: tuple[SegmentInfo, ...]
    descriptors: list[int]


class Router:
    """Decides and executes for all clients.

    ``epoch`` grows whenever a decision of idle workers could come out differently; ``on_change`` hears of the workload that
    it is about (``None``: any) and whether it is minor; ``on_drift`` hears that executions differ from calibration.
    """

    def __init__(
        self,
        fleet: Fleet,
        store: Store,
        flags: Flags,
        facts: FactSource,
        active: ActivePolicy,
        releases: Releases | None = None,
        planner: Planner | None = None,
    ) -> None:
        self._fleet = fleet
        self.releases = releases or Releases(fleet)
        self.recorder = Recorder(store)
        self._flags = flags
        self.facts = facts
        self._active = active
        self._ids = itertools.count(1)
        self._boot = f"{int(time.time()) & 0xFFFFFFFF:08x}"
        self.planner = planner or Planner(fleet, flags)
        self.explorer = Explorer(active.policy.exploration.budget)
        self.on_drift: Callable[[], None] = lambda: None
        self.on_change: Callable[[str | None, bool], None] = lambda _workload, _minor: None
        self.epoch = 0
        self.decided = 0
        self.executed = 0
        self.failed = 0
        self.fallbacks = 0

    @property
    def active(self) -> ActivePolicy:
        return self._active

    def activate(self, active: ActivePolicy) -> None:
        """Put a policy in force, whole, between two requests."""
        self._active = active
        self.explorer.budget = active.policy.exploration.budget
        self.changed()

    def changed(self, workload: str | None = None, *, minor: bool = False) -> None:
        """Decisions about this workload, or any, may come out differently. ``minor``: only the figures have moved a little."""
        self.planner.forget(workload)
        self.epoch += 1
        self.on_change(workload, minor)

    @property
    def idle(self) -> bool:
        """Whether no worker has work, so that nothing would wait."""
        return not self._fleet.busy

    def ambient(self) -> Mapping[str, Any]:
        """The facts of time, hardware and flags that the policy in force uses; the same object while they stay."""
        return self.facts.ambient(self._active.compiled.facts_used)

    def next_id(self) -> str:
        """A decision id: 20 hex digits that sort by time."""
        return f"{self._boot}{next(self._ids):012x}"

    def workload(self, name: str) -> Workload:
        """The workload of that name, or of that model. Raises ``UnknownWorkload`` with the nearest spelling."""
        workload = self._fleet.workloads.get(name)
        if workload is None and name.startswith(f"{MODEL}/"):
            return self.releases.named(name)
        if workload is None:
            known = self._fleet.workloads
            raise UnknownWorkload(
                f"no workload {name}{suggest(name, known)}; routerctl workloads lists all", workload=name
            )
        return workload

    def question(self, ask: Ask, session: Session, *, need_content: bool = False) -> tuple[Task, dict[str, Any]]:
        """The checked task and the facts that the policy in force sees about it. Raises ``BadRequest`` kinds."""
        workload = self.workload(ask.workload)
        if workload.name == MODEL:
            workload = self.releases.resolve(ask.params)
        if ask.work is not None:
            if need_content or ask.arrays or (ask.params and workload.model is None):
                raise InvalidParameter("work stands for the whole task: give it alone, and only to decide")
            task = bind_work(workload, ask.work)
        else:
            task = bind(workload, ask.params, ask.arrays, need_content=need_content)
        return task, self.facts.gather(task, workload, session, self._active.compiled.facts_used)

    # -- decide ---------------------------------------------------------------------------------------------------

    def plan(self, ask: Ask, session: Session, *, need_content: bool = False) -> Plan:
        """Decide about one task. Raises ``BadRequest`` kinds for a bad task and ``NoCandidate`` if nothing may run it."""
        task, facts = self.question(ask, session, need_content=need_content)
        self._fleet.want(task.workload)
        verdict = self._active.compiled.verdict(facts)
        by_client = session.in_process and not need_content
        in_process = by_client and not has_own_options(self.workload(task.workload), task)
        decision, ranking = self.planner.decide(task, verdict, self._active, self.next_id(), in_process=in_process)
        self.decided += 1
        return Plan(task, decision, ranking, facts, literal=bool(verdict.prefer), best=ranking[0])

    # -- run ------------------------------------------------------------------------------------------------------

    async def run(self, ask: Ask, session: Session) -> Completed:
        """Decide and execute. Falls back within the policy's constraints when a backend fails for a reason it lists."""
        started = time.perf_counter()
        plan = self._explored(self.plan(ask, session, need_content=True))
        with self.releases.using(plan.task.workload):
            return await self._run(plan, session, started)

    def _explored(self, plan: Plan) -> Plan:
        """The plan itself, or one that tries another backend, within the policy's exploration budget."""
        if plan.literal:
            return plan
        task = plan.task
        tried = self.explorer.pick(task.workload, plan.ranking, task.deadline_seconds)
        if tried is None:
            return plan
        decision, ranking = tried_elsewhere(plan.decision, plan.ranking, tried, task.deadline_seconds)
        return plan._replace(decision=decision, ranking=ranking)

    async def _run(self, plan: Plan, session: Session, started: float) -> Completed:
        segments = session.inputs_of(plan.task.arrays)
        session.admit(max(plan.task.nbytes - sum(ref.nbytes for ref in plan.task.arrays.values()), 0))  # its results
        self._admit(plan, session)
        for segment in segments:
            segment.hold()
        try:
            with decision_scope(plan.decision.decision_id):
                completed = await self._attempt(plan, segments, session, started)
        except RouterdError as error:
            self.failed += 1
            self.recorder.executed(plan, session, self._active.policy.record, error_code=error.code)
            raise
        finally:
            self._fleet.forget_segments([segment.info.segment for segment in segments if segment.release()])
        self.executed += 1
        self.recorder.executed(plan, session, self._active.policy.record, result=completed.result)
        return completed

    async def _attempt(self, plan: Plan, segments: list[InputSegment], session: Session, started: float) -> Completed:
        fallback = self._active.policy.fallback
        reasons: list[str] = []
        for candidate in plan.ranking[: fallback.max_attempts]:
            backend = self._fleet.backends[candidate.backend]
            try:
                if backend.state != "ready":  # since the plan was made
                    raise Unavailable(backend.reason)
                answer = await self._execute(plan, backend, candidate, segments, session, started)
            except (Unavailable, ExecutionError) as error:
                reasons.append(f"{candidate.backend}: {error.message}")
                last = candidate is plan.ranking[: fallback.max_attempts][-1]
                late = time.perf_counter() - started >= (plan.task.deadline_seconds or math.inf)
                if last or late or _cause(error) not in fallback.on or not self._may_leave(backend):
                    if len(reasons) > 1:
                        raise type(error)("; ".join(reasons), **error.detail) from error
                    raise
                self.fallbacks += 1
                _log.warning("falling back", reason=reasons[-1])
                continue
            return self._complete(plan, backend, answer, reasons, session, started)
        raise AssertionError("a plan has at least one candidate")

    async def _execute(
        self,
        plan: Plan,
        backend: BackendState,
        candidate: Candidate,
        segments: list[InputSegment],
        session: Session,
        started: float,
    ) -> Answer:
        task, worker = plan.task, backend.worker

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
            )
            return message, [segment.descriptor for segment in fresh]

        asked = worker.ask(make, seconds=candidate.service_seconds, priority=FOREGROUND - task.priority)
        if task.deadline_seconds is None:
            return await asked
        left = task.deadline_seconds - (time.perf_counter() - started)
        try:
            async with asyncio.timeout(max(left, 0.0)):
                return await asked
        except TimeoutError:
            raise TaskTimeout(
                f"{task.workload} passed its deadline of {task.deadline_seconds * 1000:g} ms on {backend.spec.name}"
            ) from None

    def _complete(
        self,
        plan: Plan,
        backend: BackendState,
        answer: Answer,
        reasons: list[str],
        session: Session,
        started: float,
    ) -> Completed:
        outcome: messages.Executed = answer.outcome
        service = outcome.transfer_seconds + outcome.kernel_seconds
        pair = backend.pairs[plan.task.workload]
        pair.used += 1
        way = answer.total_seconds - answer.queue_seconds - service
        asyncio.get_running_loop().call_soon(self._learn, plan, backend, service, way)  # the reply goes first
        session.adopt(outcome.created, backend.worker.incarnation)
        decision = plan.decision
        result = Result(
            decision=decision,
            outputs=outcome.outputs,
            planned=Placed(decision.backend, decision.primary_hardware),
            ran_on=Placed(backend.spec.name, backend.spec.device_kind),
            timing=Timing(
                queue_seconds=answer.queue_seconds,
                transfer_seconds=outcome.transfer_seconds,
                kernel_seconds=outcome.kernel_seconds,
                total_seconds=time.perf_counter() - started,
            ),
            fallback_reason="; ".join(reasons) or None,
        )
        if self._flags["PERFORMANCE_MONITORING"]:
            _log.info(
                "executed",
                workload=plan.task.workload,
                ran_on=backend.spec.name,
                predicted_seconds=decision.predicted_seconds,
                kernel_seconds=outcome.kernel_seconds,
                total_seconds=result.timing.total_seconds,
            )
        return Completed(result, outcome.created, answer.descriptors)

    def _learn(self, plan: Plan, backend: BackendState, service: float, way: float) -> None:
        """Correct the models by what an execution took. A pair's first task since a start tells of cold cost, not of steady."""
        workload = plan.task.workload
        pair = backend.pairs.get(workload)
        if pair is None:  # the model went meanwhile
            return
        ran = next(one for one in plan.ranking if one.backend == backend.spec.name)
        if ran.cold_seconds:
            backend.note_warm(pair)
            self.changed(workload)
            return
        if ran.backend == plan.decision.backend:  # not after a fallback
            self.explorer.account(workload, plan.best, ran, ran.queue_seconds + service + way)
        if self.planner.learn_overhead(backend.worker.name, way):
            self.changed(minor=True)
        known = pair.model.drifted
        if pair.model.observe(plan.task.work, service):
            self.changed(workload, minor=True)
        if pair.model.drifted and not known:  # by then predictions have long followed and move no more
            self.on_drift()

    def _admit(self, plan: Plan, session: Session) -> None:
        admission = self._active.policy.admission
        if len(session.tasks) > admission.max_in_flight_per_client:
            raise Overloaded(
                f"{len(session.tasks)} requests of this client are in flight, the policy admits "
                f"{admission.max_in_flight_per_client}; await some first",
                retry_after_seconds=plan.ranking[0].predicted_seconds,
            )
        limit = admission.max_queue_seconds
        wait = plan.ranking[0].queue_seconds
        if wait > limit:
            raise Overloaded(
                f"{plan.decision.backend} has {wait:.3g} s of work queued, the policy admits {limit:g} s; retry later",
                retry_after_seconds=wait - limit,
            )

    def _may_leave(self, backend: BackendState) -> bool:
        kind = backend.spec.device_kind
        if kind in GPU_KINDS:
            return bool(self._flags["GPU_FALLBACK_ENABLED"])
        return bool(self._flags["NEURAL_ENGINE_FALLBACK"]) if kind == "neural_engine" else True


def _cause(error: RouterdError) -> str:
    """The policy's word for a failure."""
    if isinstance(error, Unavailable):
        return "unavailable"
    if isinstance(error, OutOfMemory):
        return "out_of_memory"
    return "timeout" if isinstance(error, TaskTimeout) else "crash"
