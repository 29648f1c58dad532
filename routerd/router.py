"""The heart: decide where a task runs, run it there, learn from it.

``decide`` is: bind the task → ask the policy → predict every admissible backend → choose. ``run`` is the same, then
queue → worker → (fallback) → observe.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from routerd.errors import (
    DeadlineUnmeetable,
    InvalidParameter,
    NoCandidate,
    Overloaded,
    RouterdError,
    UnknownWorkload,
    suggest,
)
from routerd.execution import PATIENCE_SECONDS, Executor, Ran
from routerd.facts import FactSource
from routerd.flags import Flags
from routerd.hybrid import Ended
from routerd.interfaces import HYBRID_BACKEND, Workload
from routerd.logs import decision_scope, get_logger
from routerd.planner import ActivePolicy, Plan, Planner
from routerd.protocol import Ask, SegmentInfo
from routerd.recorder import Recorder
from routerd.releases import Releases
from routerd.routing.exploration import Explorer, tried_elsewhere
from routerd.routing.ground import FITS_BYTES
from routerd.session import Session
from routerd.store import Store
from routerd.types import Placed, Result, Task, Timing
from routerd.worker.fleet import BackendState, Fleet
from routerd.worker.queue import Answer
from routerd.workloads.binding import bind, bind_work, has_own_options
from routerd.workloads.ml import MODEL

_log = get_logger("router")

#: A task that meets its deadline with a probability below this is refused at once.
_HOPELESS = 0.05

#: Tasks that take less are reckoned with several together, once a pair has had more than so many.
_BRIEF_SECONDS = 1e-3
_BRIEF_TOGETHER = 4
_WELL_KNOWN = 32


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
        self.executor = Executor(fleet, flags, self.changed)

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
        decision, ranking = self.planner.decide(
            task, verdict, self._active, self.next_id(), client=session.number, in_process=in_process
        )
        self.decided += 1
        return Plan(task, decision, ranking, facts, requested=tuple(verdict.prefer), best=ranking[0])

    # -- run ------------------------------------------------------------------------------------------------------

    async def run(self, ask: Ask, session: Session) -> Completed:
        """Decide and execute. Falls back within the policy's constraints when a backend fails for a reason it lists."""
        started = time.perf_counter()
        plan = self._explored(await self._plan_to_run(ask, session))
        with self.releases.using(plan.task.workload):
            return await self._run(plan, session, started)

    async def _plan_to_run(self, ask: Ask, session: Session) -> Plan:
        """The plan; where all that may run the task are being restarted or probed, it is made once one is back."""
        try:
            return self.plan(ask, session, need_content=True)
        except NoCandidate:
            task, facts = self.question(ask, session, need_content=True)
            wait = min(task.deadline_seconds or PATIENCE_SECONDS, PATIENCE_SECONDS)
            ends_at = time.perf_counter() + wait
            while self.planner.may_recover(task.workload, self._active.compiled.verdict(facts)):
                try:
                    async with asyncio.timeout(max(ends_at - time.perf_counter(), 0.0)):
                        await self._fleet.moved()
                except TimeoutError:
                    break
                with contextlib.suppress(NoCandidate):
                    return self.plan(ask, session, need_content=True)
            raise

    def _explored(self, plan: Plan) -> Plan:
        """The plan itself, or one that tries another backend, within the policy's exploration budget."""
        if plan.requested:
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
                for name in plan.ranking[0].members or (plan.decision.backend,):
                    self._fleet.backends[name].planned += 1
                ran = await self.executor.execute(plan, self._active.policy.fallback, segments, session, started)
                completed = self._complete(plan, ran, session, started)
        except RouterdError as error:
            self.failed += 1
            self.recorder.executed(plan, session, self._active.policy.record, error_code=error.code)
            raise
        finally:
            self._fleet.forget_segments([segment.info.segment for segment in segments if segment.release()])
        self.executed += 1
        self.recorder.executed(plan, session, self._active.policy.record, result=completed.result)
        return completed

    def _complete(self, plan: Plan, ran: Ran, session: Session, started: float) -> Completed:
        backend, answer = ran.backend, ran.answer
        outcome = answer.outcome
        service = outcome.transfer_seconds + outcome.kernel_seconds
        ran_on = Placed(backend.spec.name, backend.spec.device_kind)
        loop = asyncio.get_running_loop()
        if ran.shared is not None:
            ran_on = Placed(HYBRID_BACKEND, "hybrid", ran.shared.parts)
            loop.call_soon(self._learn_shared, plan, ran.shared, service)
        else:
            backend.pairs[plan.task.workload].used += 1
            loop.call_soon(self._learn, plan, backend, service, answer)  # the reply goes first
        session.adopt(outcome.created, backend.worker.incarnation)
        decision = plan.decision
        result = Result(
            decision=decision,
            outputs=outcome.outputs,
            planned=Placed(decision.backend, decision.primary_hardware),
            ran_on=ran_on,
            timing=Timing(
                queue_seconds=answer.queue_seconds,
                transfer_seconds=outcome.transfer_seconds,
                kernel_seconds=outcome.kernel_seconds,
                total_seconds=time.perf_counter() - started,
            ),
            fallback_reason="; ".join(ran.reasons) or None,
            requested=plan.requested,
        )
        if self._flags["PERFORMANCE_MONITORING"]:
            _log.info(
                "executed",
                workload=plan.task.workload,
                ran_on=ran_on.backend,
                predicted_seconds=decision.predicted_seconds,
                kernel_seconds=outcome.kernel_seconds,
                total_seconds=result.timing.total_seconds,
            )
        return Completed(result, outcome.created, answer.descriptors)

    def _learn(self, plan: Plan, backend: BackendState, service: float, answer: Answer) -> None:
        """Correct the models by what an execution took. A pair's first task since a start tells of cold cost, not of steady.

        An execution that joined several tasks is one observation, of all their work.
        """
        together = answer.together
        work, seconds = (plan.task.work, service) if together is None else (together.work, together.seconds)
        way = answer.total_seconds - answer.queue_seconds - seconds
        workload = plan.task.workload
        pair = backend.pairs.get(workload)
        if pair is None:  # the model went meanwhile
            return
        ran = next(one for one in plan.ranking if one.backend == backend.spec.name)
        outcome = answer.outcome
        if outcome.device_bytes and plan.task.nbytes > FITS_BYTES and together is None:
            backend.note_memory(pair, plan.task.nbytes / ran.pieces, outcome.device_bytes)
        if ran.cold_seconds:
            backend.note_warm(pair)
            self.changed(workload)
            return
        if ran.backend == plan.decision.backend:  # not after a fallback
            self.explorer.account(workload, plan.best, ran, ran.queue_seconds + service + way)
        if together is not None and not together.first:
            return
        if (together is None or together.alone) and self.planner.learn_overhead(backend.worker.name, way):
            self.changed(minor=True)
        model = pair.model
        model.note(work, seconds)
        if seconds < _BRIEF_SECONDS and model.observations > _WELL_KNOWN and model.observations % _BRIEF_TOGETHER:
            return  # to reckon with each of them by itself would take as long as many such tasks
        known = model.drifted
        if model.reckon():
            self.changed(workload, minor=True)
        if model.drifted and not known:  # by then predictions have long followed and move no more
            self.on_drift()

    def _learn_shared(self, plan: Plan, ended: Ended, service: float) -> None:
        """Correct the team's model by what a shared task took, unless one of them was held up or lost."""
        workload = plan.task.workload
        ran = next(one for one in plan.ranking if one.members)
        team = self._fleet.teams.find(workload, ran.members)
        if team is None:
            return
        team.used += 1
        if ran.cold_seconds:
            for part in ended.parts:
                backend = self._fleet.backends[part.backend]
                if workload in backend.pairs:
                    backend.note_warm(backend.pairs[workload])
            self.changed(workload)
            return
        if ran.backend == plan.decision.backend:
            self.explorer.account(workload, plan.best, ran, ran.queue_seconds + service)
        if not ended.undisturbed:
            return
        team.note_slowdowns(ended.slowdowns)
        known = team.model.drifted
        if team.model.observe(plan.task.work, service):
            self.changed(workload, minor=True)
        if team.model.drifted and not known:
            self.on_drift()

    def _admit(self, plan: Plan, session: Session) -> None:
        """Refuse at once what would only wait to be refused. Raises ``Overloaded`` or ``DeadlineUnmeetable``."""
        decision, task = plan.decision, plan.task
        if decision.in_time is not None and decision.in_time < _HOPELESS and task.deadline_seconds is not None:
            raise DeadlineUnmeetable(
                f"{task.workload} is predicted to take {decision.predicted_seconds * 1e3:.3g} ms on {decision.backend}, "
                f"which is likeliest to meet the deadline of {task.deadline_seconds * 1e3:g} ms; give it more time",
                predicted_seconds=decision.predicted_seconds,
                deadline_seconds=task.deadline_seconds,
            )
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
