"""What a client can ask: each method with the role it needs, its parameters and its answer."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar, cast

import msgspec

from routerd.decisions import DecisionCache
from routerd.errors import LimitExceeded
from routerd.ledger import Ledger
from routerd.measurement import Measurement
from routerd.policies import PolicyKeeper
from routerd.protocol import (
    Alloc,
    Ask,
    Calibrate,
    Cancel,
    DecisionId,
    Free,
    Freeze,
    Locate,
    MeasureTask,
    Named,
    Nothing,
    PolicyPaths,
    Report,
    Run,
    SegmentInfo,
    Tail,
    encode,
)
from routerd.reported import ReportedWork
from routerd.reports import Reporter
from routerd.router import Router
from routerd.session import Role, Session
from routerd.store import Store
from routerd.table import DecisionTable
from routerd.worker.fleet import Fleet

_MOST_RECORDS = 10_000  # of one answer: what is read beyond a reply's limit is read for nothing


class Attached(NamedTuple):
    """An encoded result, and the segments whose descriptors go with it."""

    result: bytes
    segments: tuple[SegmentInfo, ...] = ()
    descriptors: Sequence[int] = ()


Immediate: TypeAlias = Callable[[Session, msgspec.Raw], bytes]
Eventual: TypeAlias = Callable[[Session, msgspec.Raw], Awaitable[Attached]]
_P = TypeVar("_P")


class Method(NamedTuple):
    """One method: answered at once (``immediate``) or by a task (``eventual``). ``works`` ones end when a drain begins."""

    role: Role
    immediate: Immediate | None = None
    eventual: Eventual | None = None
    works: bool = False


def method_table(
    router: Router,
    cache: DecisionCache,
    fleet: Fleet,
    store: Store,
    policies: PolicyKeeper,
    reporter: Reporter,
    calibrate: Callable[[Calibrate], Awaitable[Any]],
    table: DecisionTable,
    reported: ReportedWork,
) -> dict[str, Method]:
    """Every method of protocol version 1."""
    work = _Work(router, fleet)
    measurement = Measurement(router, fleet)

    async def decisions_tail(_session: Session, params: Tail) -> Any:
        if params.limit > _MOST_RECORDS:
            raise LimitExceeded(
                f"limit is {params.limit}; ask for {_MOST_RECORDS} records at a time", limit=_MOST_RECORDS
            )
        return await asyncio.to_thread(store.decisions, params.limit, params.workload, params.since)

    async def decisions_get(_session: Session, params: DecisionId) -> Any:
        return await asyncio.to_thread(store.decision, params.decision_id)

    async def calibration(_session: Session, params: Calibrate) -> Any:
        for name in params.workloads:
            router.workload(name)
        return await calibrate(params)

    return {
        "decide": Method("read", immediate=cache.decide, works=True),
        "run": Method("execute", eventual=work.run, works=True),
        "alloc": Method("execute", eventual=work.alloc, works=True),
        "table": _at_once("read", Locate, table.locate),
        "report": _at_once("execute", Report, reported.report),
        "free": _at_once("execute", Free, work.free),
        "freeze": _at_once("execute", Freeze, work.freeze),
        "cancel": _at_once("execute", Cancel, lambda session, params: {"cancelled": session.cancel(params.request)}),
        "ping": _at_once("read", Nothing, lambda _session, _params: {"pong": True}),
        "status": _at_once("read", Nothing, lambda _session, _params: reporter.status()),
        "stats": _at_once("read", Nothing, lambda _session, _params: reporter.stats()),
        "backends": _at_once("read", Nothing, lambda _session, _params: reporter.backends()),
        "workloads": _at_once("read", Named, lambda _session, params: reporter.workloads(params.name)),
        "flags": _at_once("read", Nothing, lambda _session, _params: reporter.flags()),
        "calibrate": _later("admin", Calibrate, calibration),
        "calibrate.pending": _at_once("read", Calibrate, lambda _session, params: reporter.pending(params.workloads)),
        "measure": _later("admin", MeasureTask, measurement.measure, works=True),
        "policy.show": _later("read", Nothing, policies.show),
        "policy.eval": _at_once("read", Ask, policies.evaluate),
        "policy.explain": _later("read", DecisionId, policies.explain),
        "policy.apply": _later("admin", PolicyPaths, policies.apply, works=True),
        "policy.history": _later("read", Tail, policies.history),
        "decisions.tail": _later("read", Tail, decisions_tail),
        "decisions.get": _later("read", DecisionId, decisions_get),
    }


class _Work:
    """Execution and the segments that it needs."""

    def __init__(self, router: Router, fleet: Fleet) -> None:
        self._router = router
        self._fleet = fleet
        self._ledger = Ledger()
        self._run_decoder = msgspec.msgpack.Decoder(Run)
        self._alloc_decoder = msgspec.msgpack.Decoder(Alloc)

    async def run(self, session: Session, params: msgspec.Raw) -> Attached:
        request = self._run_decoder.decode(params)
        if request.reuse:
            session.reuse(request.reuse)
        if request.free:
            self._release(session, request.free)
        if len(request.arrays) > session.limits.max_arrays_per_task:
            raise LimitExceeded(
                f"{len(request.arrays)} arrays exceed the limit of {session.limits.max_arrays_per_task} for one task (max_arrays_per_task)",
                limit=session.limits.max_arrays_per_task,
            )
        if not request.task_id:
            return (await self._execute(session, request))[0]
        key = (session.uid, request.task_id)
        task = cast("asyncio.Task[None]", asyncio.current_task())
        answered = self._ledger.begin(key, task)
        if answered is not None:
            return Attached(answered)
        repeatable: bytes | None = None
        try:
            attached, repeatable = await self._execute(session, request)
        finally:
            self._ledger.end(key, task, repeatable)
            del task  # a cancelled task keeps its exception, which keeps this frame: without the name it is no ring
        return attached

    async def _execute(self, session: Session, request: Run) -> tuple[Attached, bytes | None]:
        """The answer, and as much of it as can be given again: nothing, if it refers to this connection's segments."""
        completed = await self._router.run(Ask(request.workload, request.params, request.arrays), session)
        encoded = encode(completed.result)
        by_reference = any(ref.segment is not None for ref in completed.result.outputs.values())
        return Attached(encoded, completed.created, completed.descriptors), None if by_reference else encoded

    async def alloc(self, session: Session, params: msgspec.Raw) -> Attached:
        size = self._alloc_decoder.decode(params).size
        try:
            segment = session.alloc(size)
            try:
                descriptor = os.dup(segment.descriptor)
            except OSError:
                session.free((segment.info.segment,))
                segment.release()
                raise
        except OSError as error:
            raise LimitExceeded(f"the machine cannot give a segment of {size} bytes: {error.strerror}") from error
        return Attached(encode(segment.info), (segment.info,), (descriptor,))

    def free(self, session: Session, params: Free) -> Any:
        self._release(session, params.segments)
        return {"freed": len(params.segments)}

    def freeze(self, session: Session, params: Freeze) -> Any:
        return {"frozen": session.freeze(params.segment)}

    def _release(self, session: Session, segments: Sequence[int]) -> None:
        inputs, outputs = session.free(segments)
        self._fleet.forget_segments([segment.info.segment for segment in inputs if segment.release()])
        self._fleet.discard(session.number, outputs)


def _at_once(role: Role, kind: type[_P], handler: Callable[[Session, _P], Any]) -> Method:
    decoder = msgspec.msgpack.Decoder(kind)
    return Method(role, immediate=lambda session, params: encode(handler(session, decoder.decode(params))))


def _later(
    role: Role, kind: type[_P], handler: Callable[[Session, _P], Awaitable[Any]], *, works: bool = False
) -> Method:
    decoder = msgspec.msgpack.Decoder(kind)

    async def serve(session: Session, params: msgspec.Raw) -> Attached:
        return Attached(encode(await handler(session, decoder.decode(params))))

    return Method(role, eventual=serve, works=works)
