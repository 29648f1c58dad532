"""Choosing a backend for one checked task: who may take it, what each would need, who is first and why."""

from __future__ import annotations

from typing import NamedTuple

from routerd.costs.choice import Choice, Preference, choose
from routerd.errors import NoCandidate
from routerd.flags import Flags
from routerd.interfaces import CONTRACT_BACKEND
from routerd.policy import CompiledPolicy, Policy, Verdict
from routerd.reasoning import explain
from routerd.types import Candidate, Decision, Rejection, Task
from routerd.worker.fleet import BackendState, Fleet

GPU_KINDS = ("metal_gpu", "cuda_gpu")

_OVERHEAD_PRIOR_SECONDS = 60e-6


class ActivePolicy(NamedTuple):
    """The policy in force: its source, its compiled form, and its generation."""

    policy: Policy
    compiled: CompiledPolicy
    generation: int


class Planner:
    """Applies verdict, flags, proofs and cost models to tasks. It changes nothing but what it learns of the way to workers."""

    def __init__(self, fleet: Fleet, flags: Flags) -> None:
        self._fleet = fleet
        self._flags = flags
        self._overhead: dict[str, float] = {}

    def decide(
        self, task: Task, verdict: Verdict, active: ActivePolicy, decision_id: str
    ) -> tuple[Decision, tuple[Candidate, ...]]:
        """The decision and the candidates in the order to try them. Raises ``NoCandidate`` if nothing may run the task."""
        candidates, rejected = self._candidates(task, verdict)
        if not candidates:
            raise NoCandidate(
                f"no backend may run {task.workload}: "
                + "; ".join(f"{rejection.backend} {rejection.reason}" for rejection in rejected),
                rejected=[{"backend": rejection.backend, "reason": rejection.reason} for rejection in rejected],
                rule=verdict.rule,
            )
        priors = frozenset(
            candidate.backend
            for candidate in candidates
            if not self._fleet.backends[candidate.backend].pairs[task.workload].model.calibrated
        )
        choice = choose(candidates, self._preference(verdict, task, priors))
        chosen = choice.ranking[0]
        contract_seconds = self._contract_seconds(task)
        baseline = contract_seconds or max(one.predicted_seconds for one in candidates)
        rule = verdict.rule
        decision = Decision(
            decision_id=decision_id,
            workload=task.workload,
            work=task.work,
            primary_hardware=chosen.device_kind,
            backend=chosen.backend,
            confidence=choice.confidence,
            estimated_gain=baseline / chosen.predicted_seconds,
            predicted_seconds=chosen.predicted_seconds,
            reasoning=explain(
                task,
                choice,
                contract_seconds,
                rule=rule.partition(" ")[0],
                priors=priors,
                beyond=self._beyond(task, choice),
            ),
            fallbacks=choice.ranking[1:],
            rejected=tuple(rejected),
            rule=rule,
            policy_digest=active.policy.digest,
            generation=active.generation,
        )
        return decision, choice.ranking

    def learn_overhead(self, worker: str, seconds: float) -> None:
        """The way to a worker and back, smoothed; one hiccup counts for little."""
        known = self._overhead.get(worker, _OVERHEAD_PRIOR_SECONDS)
        self._overhead[worker] = known + 0.1 * (min(max(seconds, 1e-6), 4.0 * known) - known)

    def _candidates(self, task: Task, verdict: Verdict) -> tuple[list[Candidate], list[Rejection]]:
        candidates: list[Candidate] = []
        rejected: list[Rejection] = []
        for name, backend in self._fleet.backends.items():
            reason = (
                verdict.objection(name, backend.spec.device_kind)
                or self._switched_off(backend)
                or backend.objection(task.workload)
                or _beyond_tolerance(backend, task)
            )
            if reason is not None:
                rejected.append(Rejection(name, reason))
            else:
                candidates.append(self._predict(backend, task))
        return candidates, rejected

    def _predict(self, backend: BackendState, task: Task) -> Candidate:
        pair = backend.pairs[task.workload]
        service = pair.model.predict(task.work)
        queue = backend.worker.queue_seconds()
        overhead = self._overhead.get(backend.worker.name, _OVERHEAD_PRIOR_SECONDS)
        return Candidate(
            backend=backend.spec.name,
            device_kind=backend.spec.device_kind,
            predicted_seconds=queue + overhead + service.seconds,
            queue_seconds=queue,
            transfer_seconds=overhead,
            service_seconds=service.seconds,
            log_sigma=service.log_sigma,
            error=pair.error or 0.0,
        )

    def _switched_off(self, backend: BackendState) -> str | None:
        """Flags that keep a backend out of routing."""
        kind = backend.spec.device_kind
        if not self._flags["AUTO_HARDWARE_ROUTING"] and backend.spec.name != CONTRACT_BACKEND:
            return "automatic routing is off (AUTO_HARDWARE_ROUTING)"
        if kind in GPU_KINDS and self._flags["GPU_ACCELERATION"] is False:
            return "switched off by GPU_ACCELERATION"
        if kind == "metal_gpu" and self._flags["METAL_ACCELERATION"] is False:
            return "switched off by METAL_ACCELERATION"
        if kind == "neural_engine" and self._flags["NEURAL_ENGINE_ENABLED"] is False:
            return "switched off by NEURAL_ENGINE_ENABLED"
        return None

    def _preference(self, verdict: Verdict, task: Task, priors: frozenset[str]) -> Preference:
        prefer = verdict.prefer
        elements = task.nbytes // 8
        if priors and not prefer and max(task.work, elements) >= int(self._flags["LARGE_DATA_THRESHOLD"] or 0):
            prefer = GPU_KINDS  # large work on a machine that is not calibrated yet
        priorities = {
            "metal_gpu": str(self._flags["METAL_GPU_PRIORITY"]),
            "neural_engine": str(self._flags["NEURAL_ENGINE_PRIORITY"]),
        }
        return Preference(prefer, verdict.unless_slower_than, verdict.objective, priorities)

    def _beyond(self, task: Task, choice: Choice) -> frozenset[str]:
        """Backends timed here, but at no size near this one."""
        models = {one.backend: self._fleet.backends[one.backend].pairs[task.workload].model for one in choice.ranking}
        return frozenset(name for name, model in models.items() if model.calibrated and not model.reaches(task.work))

    def _contract_seconds(self, task: Task) -> float | None:
        """Predicted completion on the contract's backend, whether or not it may take the task; ``None`` if it cannot.

        A user's model made for torch has none there, so its gain counts from the slowest candidate instead.
        """
        contract = self._fleet.backends.get(CONTRACT_BACKEND)
        pair = None if contract is None else contract.pairs.get(task.workload)
        if contract is None or pair is None or pair.unsupported is not None:
            return None
        return self._predict(contract, task).predicted_seconds


def _beyond_tolerance(backend: BackendState, task: Task) -> str | None:
    error = backend.pairs[task.workload].error or 0.0
    if error <= task.tolerance:
        return None
    return f"error {error:.1e} exceeds tolerance {task.tolerance:.0e}"
