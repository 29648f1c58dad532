"""What is kept of decisions: as much as the policy in force wants on record, less what it redacts."""

from __future__ import annotations

import time
from typing import Literal

from routerd.planner import Plan
from routerd.policy.model import Record
from routerd.session import Session
from routerd.store import DecisionRecord, Store
from routerd.types import Result


class Recorder:
    """Puts decisions into the store, which writes them off the path of requests."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def decided(self, record: DecisionRecord, wanted: Record) -> None:
        """Keep a decision that the daemon does not execute."""
        if wanted.decisions == "all":
            self._store.record(record)

    def executed(
        self,
        plan: Plan,
        session: Session,
        wanted: Record,
        *,
        result: Result | None = None,
        error_code: str | None = None,
    ) -> None:
        """Keep a decision that was executed, with its result or the code of the error that it ended with."""
        if wanted.decisions != "none":
            self._store.record(record_of(plan, session, wanted, "run", result, error_code))


def record_of(
    plan: Plan,
    session: Session,
    wanted: Record,
    method: Literal["decide", "run"],
    result: Result | None = None,
    error_code: str | None = None,
) -> DecisionRecord:
    """A decision and its execution as they are kept."""
    task, redact = plan.task, wanted.redact
    return DecisionRecord(
        decision_id=plan.decision.decision_id,
        time=time.time(),
        client="" if "client.name" in redact else session.name,
        uid=-1 if "client.uid" in redact else session.uid,
        method=method,
        workload=task.workload,
        params={} if "task.params" in redact else task.params,
        dims=task.dims,
        work=task.work,
        nbytes=task.nbytes,
        tolerance=task.tolerance,
        facts={name: value for name, value in plan.facts.items() if name not in redact},
        decision=plan.decision,
        ran_on=result.ran_on.backend if result else None,
        fallback_reason=result.fallback_reason if result else None,
        timing=result.timing if result else None,
        error_code=error_code,
    )
