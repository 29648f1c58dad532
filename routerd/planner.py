"""Choosing a backend for one checked task: who may take it, what each would need, who is first and why."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple, TypeAlias

import msgspec

from routerd.costs.choice import Preference
from routerd.device_memory import DeviceMemory, FreeBytes
from routerd.flags import Flags
from routerd.interfaces import CONTRACT_BACKEND, IN_PROCESS_BACKEND
from routerd.policy import CompiledPolicy, Policy, Verdict
from routerd.routing.ground import NO_WORKER, Ground, Offer, decide
from routerd.team_planner import TeamPlanner
from routerd.types import Candidate, Decision, Rejection, Task
from routerd.worker.fleet import BackendState, Fleet, Pair
from routerd.worker.queue import NOBODY

GPU_KINDS = ("metal_gpu", "cuda_gpu")

#: Watts by device kind, and where they are from.
Power: TypeAlias = Callable[[], tuple[Mapping[str, float], str]]

_OVERHEAD_PRIOR_SECONDS = 60e-6
_IN_PROCESS_PRIOR_SECONDS = 15e-6  # checking and calling, in a client
_IN_PROCESS_MOST_SECONDS = 60e-6
_BELIEVED = 3  # tasks that the prior counts as
_WINDOW = 31  # tasks that a way is known from
_NOTICEABLE = 0.25  # by this share the way to a worker must change before predictions follow
_KEPT_GROUNDS = 512


class Plan(NamedTuple):
    """A decision with everything that led to it.

    ``requested`` is what the rule asks for by name, in its order; empty where it states an objective. ``best`` is what the
    rules put first, wherever the task is sent to.
    """

    task: Task
    decision: Decision
    ranking: tuple[Candidate, ...]
    facts: Mapping[str, Any]
    requested: tuple[str, ...]
    best: Candidate


class ActivePolicy(NamedTuple):
    """The policy in force: its source, its compiled form, and its generation."""

    policy: Policy
    compiled: CompiledPolicy
    generation: int


class Planner:
    """Applies verdict, flags, proofs and cost models to tasks.

    What it finds for a workload is kept as its :class:`Ground` until :meth:`forget` says that something has changed.
    """

    def __init__(
        self,
        fleet: Fleet,
        flags: Flags,
        *,
        power: Power = lambda: ({}, ""),
        free_bytes: FreeBytes = lambda _kind: None,
        in_process_seconds: float = 0.0,
    ) -> None:
        self._fleet = fleet
        self.memory = DeviceMemory(fleet, free_bytes)
        self._flags = flags
        self._power = power
        self._in_process_seconds = in_process_seconds
        self._team_planner = TeamPlanner(fleet, flags)
        self._ways: dict[str, _Way] = {}
        self._grounds: dict[tuple[object, ...], tuple[Verdict, Ground]] = {}
        self._decided: dict[tuple[int, float], tuple[Decision, tuple[Candidate, ...]]] = {}

    def decide(
        self,
        task: Task,
        verdict: Verdict,
        active: ActivePolicy,
        decision_id: str,
        *,
        client: int = NOBODY,
        in_process: bool = False,
    ) -> tuple[Decision, tuple[Candidate, ...]]:
        """The decision and the candidates in the order to try them. Raises ``NoCandidate`` if nothing may run the task."""
        large = max(task.work, task.nbytes // 8) >= int(self._flags["LARGE_DATA_THRESHOLD"] or 0)
        ground = self.ground(task.workload, task.tolerance, verdict, active, in_process=in_process, large=large)
        queues, fits = self._fleet.queues(client), self.memory.fits(task)
        if queues or fits or task.deadline_seconds is not None:
            deadline = task.deadline_seconds
            return decide(ground, task.work, decision_id, queues=queues, deadline_seconds=deadline, fits=fits)
        key = (id(ground), task.work)  # nothing else decides, and the ground is kept as long as what was decided on it
        known = self._decided.get(key)
        if known is not None:
            return msgspec.structs.replace(known[0], decision_id=decision_id), known[1]
        if len(self._decided) >= _KEPT_GROUNDS:
            self._decided.clear()
        self._decided[key] = decided = decide(ground, task.work, decision_id)
        return decided

    def ground(
        self,
        workload: str,
        tolerance: float,
        verdict: Verdict,
        active: ActivePolicy,
        *,
        in_process: bool,
        large: bool,
    ) -> Ground:
        """What decides about the workload's tasks. ``in_process``: the client can run work itself; ``large``: they are large."""
        watts, watts_from = self._power() if "energy" in verdict.objective else ({}, "")
        key = (workload, tolerance, id(verdict), active.generation, in_process, large, tuple(sorted(watts.items())))
        known = self._grounds.get(key)
        if known is not None:
            return known[1]
        offers, rejected = self._offers(workload, tolerance, verdict, in_process=in_process)
        prefer = verdict.prefer
        if large and not prefer and _gpu_untimed(offers):
            prefer = GPU_KINDS  # large work on a machine that is not calibrated yet
        ground = Ground(
            workload=workload,
            tolerance=tolerance,
            offers=tuple(offers),
            rejected=tuple(rejected),
            contract=self._contract(workload),
            preference=Preference(
                prefer=prefer,
                unless_slower_than=verdict.unless_slower_than,
                objective=dict(verdict.objective),
                priorities={
                    "metal_gpu": str(self._flags["METAL_GPU_PRIORITY"]),
                    "neural_engine": str(self._flags["NEURAL_ENGINE_PRIORITY"]),
                },
                watts=dict(watts),
                watts_from=watts_from,
            ),
            rule=verdict.rule,
            policy_digest=active.policy.digest,
            generation=active.generation,
        )
        if len(self._grounds) >= _KEPT_GROUNDS:
            self.forget()
        self._grounds[key] = (verdict, ground)  # the verdict is kept, so that no other gets its identity
        return ground

    def forget(self, workload: str | None = None) -> None:
        """A model of this workload, or anything at all, has changed."""
        self._decided.clear()
        if workload is None:
            self._grounds.clear()
        else:
            self._grounds = {key: known for key, known in self._grounds.items() if key[0] != workload}

    def learn_overhead(self, worker: str, seconds: float) -> bool:
        """Learn from one task's way to a worker and back; whether predictions have moved."""
        if not seconds > 0.0:
            return False  # a clock that jumped
        return self._ways.setdefault(worker, _Way(_OVERHEAD_PRIOR_SECONDS)).learn(seconds)

    def learn_in_process(self, seconds: float) -> bool:
        """Learn what a client takes beyond the kernel's predicted seconds; whether predictions have moved.

        Clients say so themselves, so there is a bound: whatever they say, tiny work stays worth running where it is.
        """
        way = self._ways.setdefault(IN_PROCESS_BACKEND, _Way(_IN_PROCESS_PRIOR_SECONDS, _IN_PROCESS_MOST_SECONDS))
        return way.learn(seconds)

    def may_recover(self, workload: str, verdict: Verdict) -> bool:
        """Whether a backend that the policy allows is likely to take such tasks again soon."""
        return any(
            backend.may_recover(workload)
            and verdict.objection(name, backend.spec.device_kind) is None
            and self._switched_off(backend) is None
            for name, backend in self._fleet.backends.items()
        )

    def objection(self, backend: BackendState, workload: str, tolerance: float) -> str | None:
        """Why a backend may not take such tasks now, whatever the policy says, or ``None``."""
        return (
            self._switched_off(backend)
            or backend.objection(workload)
            or _beyond_tolerance(backend.pairs[workload], tolerance)
        )

    def form_teams(self, policy: Policy) -> None:
        """Have every team timed that tasks of usual tolerance could be given to under this policy."""
        if not self._team_planner.is_possible(policy):
            return
        for name, workload in self._fleet.workloads.items():
            offers = [
                self._offer(backend, backend.pairs[name])
                for backend in self._fleet.backends.values()
                if self.objection(backend, name, workload.tolerance) is None
            ]
            self._team_planner.form(name, offers)

    def _offers(
        self, workload: str, tolerance: float, verdict: Verdict, *, in_process: bool
    ) -> tuple[list[Offer], list[Rejection]]:
        offers: list[Offer] = []
        rejected: list[Rejection] = []
        for name, backend in self._fleet.backends.items():
            reason = verdict.objection(name, backend.spec.device_kind) or self.objection(backend, workload, tolerance)
            if reason is not None:
                rejected.append(Rejection(name, reason))
            else:
                offers.append(self._offer(backend, backend.pairs[workload]))
        together = self._team_planner.offer(workload, offers, verdict)
        if isinstance(together, Rejection):
            rejected.append(together)
        elif together is not None:
            offers.append(together)
        if in_process and self._in_process_seconds > 0.0:
            reason = verdict.objection(IN_PROCESS_BACKEND, "in_process") or self._not_in_process(workload)
            if reason is not None:
                rejected.append(Rejection(IN_PROCESS_BACKEND, reason))
            else:
                offers.append(self._in_process_offer(workload))
        return offers, rejected

    def _offer(self, backend: BackendState, pair: Pair) -> Offer:
        way = self._ways.get(backend.worker.name)
        return Offer(
            backend=backend.spec.name,
            device_kind=backend.spec.device_kind,
            curve=pair.model.curve,
            overhead_seconds=_OVERHEAD_PRIOR_SECONDS if way is None else way.seconds,
            error=pair.error or 0.0,
            worker=backend.worker_number,
            cold_seconds=backend.cold_seconds(pair),
        )

    def _in_process_offer(self, workload: str) -> Offer:
        """The contract's kernel in the caller: its time without the way to a worker."""
        way = self._ways.get(IN_PROCESS_BACKEND)
        return Offer(
            backend=IN_PROCESS_BACKEND,
            device_kind="in_process",
            curve=self._fleet.backends[CONTRACT_BACKEND].pairs[workload].model.curve,
            overhead_seconds=_IN_PROCESS_PRIOR_SECONDS if way is None else way.seconds,
            error=0.0,
            worker=NO_WORKER,
            limit_seconds=self._in_process_seconds,
        )

    def _not_in_process(self, workload: str) -> str | None:
        if not self._flags["AUTO_HARDWARE_ROUTING"]:
            return "automatic routing is off (AUTO_HARDWARE_ROUTING)"
        if self._fleet.workloads[workload].model is not None:
            return "a user's model is not loaded into clients"
        contract = self._fleet.backends[CONTRACT_BACKEND].pairs.get(workload)
        if contract is None or contract.unsupported is not None:
            return "NumPy cannot run this workload"
        return None if contract.model.calibrated else "not yet timed on cpu.numpy"

    def _contract(self, workload: str) -> Offer | None:
        """What gains count from, whether or not it may take the task; a model made for torch has none there."""
        contract = self._fleet.backends.get(CONTRACT_BACKEND)
        pair = None if contract is None else contract.pairs.get(workload)
        if contract is None or pair is None or pair.unsupported is not None:
            return None
        return self._offer(contract, pair)

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


def _gpu_untimed(offers: Sequence[Offer]) -> bool:
    """Whether a GPU, or the contract that it would be compared with, was not timed yet."""
    return any(
        not offer.curve.timed and (offer.device_kind in GPU_KINDS or offer.backend == CONTRACT_BACKEND)
        for offer in offers
    )


class _Way:
    """Seconds that a task costs beside its service: the median of the latest, beside what was believed at first.

    ``seconds`` is what predictions count with; it follows when the median has moved noticeably, ``most_seconds`` at most.
    """

    def __init__(self, prior_seconds: float, most_seconds: float = math.inf) -> None:
        self.seconds = prior_seconds
        self._most = most_seconds
        self._latest = deque([prior_seconds] * _BELIEVED, maxlen=_WINDOW)

    def learn(self, seconds: float) -> bool:
        """Whether ``seconds``, what predictions count with, has moved."""
        if not math.isfinite(seconds):
            return False
        self._latest.append(max(seconds, 1e-6))
        now = min(median(self._latest), self._most)
        if abs(now - self.seconds) <= _NOTICEABLE * self.seconds:
            return False
        self.seconds = now
        return True


def _beyond_tolerance(pair: Pair, tolerance: float) -> str | None:
    error = pair.error or 0.0
    if error <= tolerance:
        return None
    return f"error {error:.1e} exceeds tolerance {tolerance:.0e}"
