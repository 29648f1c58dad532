"""Timing one backend on request: what a recorded or scored task really takes there, whatever is predicted."""

from __future__ import annotations

import asyncio
from typing import Any

from routerd.errors import InvalidParameter, Unavailable, UnknownBackend, suggest
from routerd.interfaces import Workload
from routerd.protocol import MeasureTask
from routerd.router import Router
from routerd.session import Session
from routerd.worker import messages
from routerd.worker.fleet import BackendState, Fleet, Pair
from routerd.worker.queue import FOREGROUND

_MOST_BUDGET_SECONDS = 60.0
_MOST_SEED = 2**63 - 1
_PATIENCE_SECONDS = 2.0  # calibration leaves the device within this; a device that clients keep busy is timed as it is
_POLL_SECONDS = 0.005


class Measurement:
    """Serves ``measure``. It teaches cost models nothing: what is judged by it must not learn from it."""

    def __init__(self, router: Router, fleet: Fleet) -> None:
        self._router = router
        self._fleet = fleet

    async def measure(self, _session: Session, params: MeasureTask) -> dict[str, Any]:
        """The example's own ``work`` and the ``seconds`` of each run.

        Like calibration it starts when the device has nothing else to do, but before other background work: an operator waits.
        Raises ``BadRequest`` kinds for what cannot be meant, ``Unavailable`` with the reason where the backend may not take
        the workload, and what the worker reports.
        """
        workload = self._router.workload(params.workload)
        _check(params, workload)
        backend, pair = self._pair(params.backend, workload.name)
        expected = pair.model.predict(params.work).seconds
        await self._idle(backend.spec.device_kind)
        answer = await backend.worker.ask(
            lambda number: (_job(number, params, workload.name), ()),
            seconds=min(expected * messages.MEASURE_CALLS, max(params.budget_seconds, 2.0 * expected)),
            priority=FOREGROUND,
        )
        if backend.cold_seconds(pair):
            backend.note_warm(pair)
            self._router.changed(pair.workload)
        outcome: messages.Measured = answer.outcome
        return {"work": outcome.work, "seconds": outcome.seconds}

    def _pair(self, name: str, workload: str) -> tuple[BackendState, Pair]:
        backend = self._fleet.backends.get(name)
        if backend is None:
            known = self._fleet.backends
            raise UnknownBackend(f"no backend {name}{suggest(name, known)}; routerctl backends lists all", backend=name)
        reason = backend.objection(workload)
        if reason is not None:
            raise Unavailable(f"{name} cannot be timed on {workload}: {reason}", backend=name, workload=workload)
        return backend, backend.pairs[workload]

    async def _idle(self, device_kind: str) -> None:
        """Wait, within limits, until no worker of the device computes: a timing beside other work would be a wrong timing."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _PATIENCE_SECONDS
        while not self._fleet.is_idle(device_kind) and loop.time() < deadline:
            await asyncio.sleep(_POLL_SECONDS)


def _check(params: MeasureTask, workload: Workload) -> None:
    low, high = workload.work_range
    if not low <= params.work <= high:
        raise InvalidParameter(
            f"work {params.work:g}: {workload.name} has examples from {low:g} to {high:g} {workload.work_unit}",
            parameter="work",
        )
    if not 0.0 < params.budget_seconds <= _MOST_BUDGET_SECONDS:
        raise InvalidParameter(
            f"budget_seconds {params.budget_seconds:g}: give more than 0 and at most {_MOST_BUDGET_SECONDS:g} seconds",
            parameter="budget_seconds",
        )
    if not 0 <= params.seed <= _MOST_SEED:
        raise InvalidParameter(f"seed {params.seed}: give a whole number from 0 to {_MOST_SEED}", parameter="seed")


def _job(number: int, params: MeasureTask, workload: str) -> messages.Measure:
    return messages.Measure(number, params.backend, workload, params.work, params.budget_seconds, params.seed)
