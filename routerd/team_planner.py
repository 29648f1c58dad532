"""Which backends may share a workload's tasks, and what such a task is predicted to take on them together."""

from __future__ import annotations

import math
from collections.abc import Sequence

from routerd.costs.preference import is_latency
from routerd.flags import Flags
from routerd.interfaces import HYBRID_BACKEND
from routerd.policy import Policy, Verdict
from routerd.routing.ground import NO_WORKER, Offer
from routerd.types import Rejection
from routerd.worker.fleet import Fleet

_FEWEST = 2


class TeamPlanner:
    """Offers ``hybrid`` beside the backends that it is made of: what may not run a task alone takes no part of it either."""

    def __init__(self, fleet: Fleet, flags: Flags) -> None:
        self._fleet = fleet
        self._flags = flags

    def is_possible(self, policy: Policy) -> bool:
        """Whether any task could be shared under this policy."""
        choices = [policy.default.choice, *(rule.choice for rule in policy.rules)]
        return self._switched_on() or (
            bool(self._flags["AUTO_HARDWARE_ROUTING"]) and any(choice.split == "auto" for choice in choices)
        )

    def offer(self, workload: str, offers: Sequence[Offer], verdict: Verdict) -> Offer | Rejection | None:
        """The offer of those that made ``offers``, or why there is none; ``None`` where nobody asked for one."""
        if verdict.split == "never" or not self._flags["AUTO_HARDWARE_ROUTING"]:
            return None
        if verdict.split != "auto" and not self._switched_on():
            return None
        reason = verdict.objection(HYBRID_BACKEND, "hybrid")
        if reason is not None:
            return Rejection(HYBRID_BACKEND, reason)
        if self._fleet.workloads[workload].split is None:
            return Rejection(HYBRID_BACKEND, f"{workload} does not split")
        if not is_latency(verdict.objective):
            return Rejection(HYBRID_BACKEND, "it keeps several devices busy, so it is for the objective latency alone")
        members = self._members(workload, offers)
        if len(members) < _FEWEST:
            return Rejection(HYBRID_BACKEND, "fewer than two workers may take it")
        if not all(member.curve.timed for member in members):
            return Rejection(HYBRID_BACKEND, "its members are not all timed yet")
        team = self._fleet.teams.find(workload, [member.backend for member in members])
        if team is None:
            team = self._fleet.teams.form(workload, [member.backend for member in members])
            self._fleet.on_want()
        reason = team.objection()
        if reason is not None:
            return Rejection(HYBRID_BACKEND, reason)
        return Offer(
            backend=HYBRID_BACKEND,
            device_kind="hybrid",
            curve=team.model.curve,
            overhead_seconds=0.0,  # the ways to all workers and back are part of what was timed
            error=max(member.error for member in members),
            worker=NO_WORKER,
            cold_seconds=max(member.cold_seconds for member in members),
            members=team.members,
            workers=tuple(member.worker for member in members),
        )

    def form(self, workload: str, offers: Sequence[Offer]) -> None:
        """Have the team of those that made ``offers`` timed, if they are one."""
        members = self._members(workload, offers)
        splits = self._fleet.workloads[workload].split is not None
        if splits and len(members) >= _FEWEST and all(member.curve.timed for member in members):
            self._fleet.teams.form(workload, [member.backend for member in members])

    def _switched_on(self) -> bool:
        return bool(self._flags["AUTO_HARDWARE_ROUTING"] and self._flags["HYBRID_ACCELERATION"])

    def _members(self, workload: str, offers: Sequence[Offer]) -> list[Offer]:
        """The quicker of each worker's backends, at a middling size."""
        work = math.sqrt(math.prod(self._fleet.workloads[workload].work_range))
        best: dict[int, Offer] = {}
        for offer in sorted(offers, key=lambda one: (one.curve.predict(work).seconds, one.backend)):
            if offer.worker != NO_WORKER:
                best.setdefault(offer.worker, offer)
        return sorted(best.values(), key=lambda one: one.backend)
