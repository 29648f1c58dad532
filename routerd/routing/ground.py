"""The ground of a decision: all that it rests on but the task's own work, as one frozen value; and deciding on it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec
from msgspec import Struct

from routerd.costs.choice import Preference, choose
from routerd.costs.curve import Curve
from routerd.errors import NoCandidate
from routerd.routing.reasoning import doubts_about, explain
from routerd.types import Candidate, Decision, Rejection

#: Offers of this worker number wait in no queue: the caller runs them itself.
NO_WORKER = -1

#: Tasks up to this size fit on every device; nobody compares them with its memory.
FITS_BYTES: Final = 1 << 20


class Fit(NamedTuple):
    """What becomes of a task that does not fit on a device: the pieces it runs in there (0: it cannot), and why."""

    pieces: int
    reason: str


class Offer(Struct, frozen=True, array_like=True):
    """One backend that may take a workload's tasks, and what it takes there.

    ``overhead_seconds`` is the way to its worker and back, ``cold_seconds`` what its first task after a start costs on top
    (zero once it is warm), ``worker`` whose queue it waits in. Work whose service is predicted to take longer than
    ``limit_seconds`` it does not take. ``hybrid`` has ``members`` that share a task, and waits for each of their ``workers``.
    """

    backend: str
    device_kind: str
    curve: Curve
    overhead_seconds: float
    error: float
    worker: int
    cold_seconds: float = 0.0
    limit_seconds: float = math.inf
    members: tuple[str, ...] = ()
    workers: tuple[int, ...] = ()

    def wait_seconds(self, queues: Mapping[int, float]) -> float:
        """How long a task waits there, as ``queues`` says for each worker that is not idle: for the last of several."""
        if self.workers:
            return max(queues.get(worker, 0.0) for worker in self.workers)
        return queues.get(self.worker, 0.0)


class Ground(Struct, frozen=True, array_like=True):
    """What decides where the tasks of one workload run, for one verdict of the policy and one tolerance.

    ``contract`` is what gains count from, whether or not it may take the task; a workload that it cannot run has none.
    """

    workload: str
    tolerance: float
    offers: tuple[Offer, ...]
    rejected: tuple[Rejection, ...]
    contract: Offer | None
    preference: Preference
    rule: str
    policy_digest: str
    generation: int


def decide(
    ground: Ground,
    work: float,
    decision_id: str,
    *,
    queues: Mapping[int, float] | None = None,
    deadline_seconds: float | None = None,
    fits: Mapping[str, Fit] | None = None,
) -> tuple[Decision, tuple[Candidate, ...]]:
    """The decision about a task of this much work, and the candidates in the order to try them.

    ``queues`` holds the seconds that new work waits for each worker; workers that are not in it are idle. ``fits`` holds
    the backends whose device has no memory for the whole task. Raises ``NoCandidate`` if nothing may run the task.
    """
    waits = queues or {}
    candidates: list[Candidate] = []
    rejected = ground.rejected
    for offer in ground.offers:
        candidate = predict(offer, work, offer.wait_seconds(waits))
        if candidate.service_seconds > offer.limit_seconds:
            rejected = (*rejected, Rejection(offer.backend, _too_long(offer)))
            continue
        if fits:
            fit = _fit(offer, fits)
            if fit.pieces == 0:
                rejected = (*rejected, Rejection(offer.backend, fit.reason))
                continue
            candidate = msgspec.structs.replace(candidate, pieces=fit.pieces)
        candidates.append(candidate)
    if not candidates:
        raise NoCandidate(
            f"no backend may run {ground.workload}: "
            + "; ".join(f"{rejection.backend} {rejection.reason}" for rejection in rejected),
            rejected=[{"backend": rejection.backend, "reason": rejection.reason} for rejection in rejected],
            rule=ground.rule,
        )
    preference = ground.preference
    if deadline_seconds is not None:
        preference = msgspec.structs.replace(preference, deadline_seconds=deadline_seconds)
    choice = choose(candidates, preference)
    chosen = choice.ranking[0]
    contract_seconds = None
    if ground.contract is not None:
        contract = ground.contract
        contract_seconds = predict(contract, work, contract.wait_seconds(waits)).predicted_seconds
    baseline = contract_seconds or max(one.predicted_seconds for one in candidates)
    decision = Decision(
        decision_id=decision_id,
        workload=ground.workload,
        work=work,
        primary_hardware=chosen.device_kind,
        backend=chosen.backend,
        confidence=choice.confidence,
        estimated_gain=baseline / chosen.predicted_seconds,
        predicted_seconds=chosen.predicted_seconds,
        reasoning=explain(
            work,
            ground.tolerance,
            choice,
            contract_seconds,
            rule=ground.rule.partition(" ")[0],
            doubts=[
                *([fits[chosen.backend].reason] if fits and chosen.backend in fits else []),
                *doubts_about({offer.backend: offer.curve for offer in ground.offers}, work),
            ],
        ),
        fallbacks=choice.ranking[1:],
        rejected=rejected,
        rule=ground.rule,
        policy_digest=ground.policy_digest,
        generation=ground.generation,
        in_time=choice.in_time,
    )
    return decision, choice.ranking


def predict(offer: Offer, work: float, queue_seconds: float) -> Candidate:
    """What a task of this much work would take there."""
    service = offer.curve.predict(work)
    return Candidate(
        backend=offer.backend,
        device_kind=offer.device_kind,
        predicted_seconds=queue_seconds + offer.overhead_seconds + offer.cold_seconds + service.seconds,
        queue_seconds=queue_seconds,
        transfer_seconds=offer.overhead_seconds,
        service_seconds=service.seconds,
        log_sigma=service.log_sigma,
        error=offer.error,
        cold_seconds=offer.cold_seconds,
        members=offer.members,
    )


def _fit(offer: Offer, fits: Mapping[str, Fit]) -> Fit:
    """Of a team each member has to have room for the whole, as nobody knows which share it will get."""
    for member in offer.members:
        if member in fits:
            return Fit(0, f"{member} {fits[member].reason}")
    return fits.get(offer.backend, Fit(1, ""))


def _too_long(offer: Offer) -> str:
    return f"takes work of up to {offer.limit_seconds * 1e6:g} µs here (in_process_seconds)"
