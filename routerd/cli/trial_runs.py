"""Trials on this machine: tasks that the daemon decides about, and then runs on every backend that may take them."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from random import Random
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from routerd.cli.calibrate import Step
from routerd.cli.examples import find_workload
from routerd.cli.link import Link
from routerd.errors import BadRequest, ExecutionError, NoCandidate, Overloaded, RouterdError, Unavailable
from routerd.protocol import Ask, MeasureTask
from routerd.scoring.trials import Sample, Trial
from routerd.types import ArrayRef

if TYPE_CHECKING:
    from routerd.interfaces import Workload

DECADES = 5.0  # of work that the tasks of a workload spread over
_LONGEST_SECONDS = 1.0  # a task predicted to take longer on its best backend is passed over
_MUCH_SLOWER = 20.0  # a backend this much slower than the best cannot win: one run says enough
_BUDGET_SECONDS = 0.1  # of one sweep over a task's backends, for each
_ONE_RUN_SECONDS = 1e-9
_PATIENCE_SECONDS = 10.0  # for other clients' work to end
_STILL_SECONDS = 3.0  # without change, beyond the pauses that calibration makes
_POLL_SECONDS = 0.05
_SAME_WORK = 1e-9


class TaskDraw(NamedTuple):
    """One task: the work asked of the workload's example generator, and the seed of its content."""

    work: float
    seed: int


class Decided(NamedTuple):
    """A task and what the daemon decided about it."""

    workload: str
    draw: TaskDraw
    decision: Mapping[str, Any]

    @property
    def predicted(self) -> dict[str, float]:
        """Predicted seconds of every backend that may take the task, the choice first."""
        chosen = {self.decision["backend"]: float(self.decision["predicted_seconds"])}
        return chosen | {one["backend"]: float(one["predicted_seconds"]) for one in self.decision["fallbacks"]}


class Ran(NamedTuple):
    """What became of the tasks: trials, and each single run that they are made of.

    ``skipped`` counts tasks that gave no trial, by reason; ``failures`` are the words of backends that could not run one.
    """

    trials: list[Trial]
    runs: list[Sample]
    skipped: Counter[str]
    failures: dict[str, str]


def draw_tasks(workload: Workload, count: int, seed: int) -> list[TaskDraw]:
    """``count`` tasks of log-uniform work, over :data:`DECADES` decades in the middle of the workload's range at most.

    They depend on the seed and the workload's name alone: a shorter run has the first tasks of a longer one.
    """
    low, high = (math.log10(end) for end in workload.work_range)
    surplus = max(high - low - DECADES, 0.0)
    rng = Random(f"{seed} {workload.name}")
    least, most = workload.work_range

    def work() -> float:
        drawn = math.pow(10.0, rng.uniform(low + surplus / 2.0, high - surplus / 2.0))
        return min(max(drawn, least), most)  # a power of a logarithm may pass an end by rounding

    return [TaskDraw(work(), rng.getrandbits(32)) for _ in range(count)]


class TrialRunner:
    """Runs trials over a link to a daemon that nobody else uses meanwhile."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._failures: dict[str, str] = {}
        self._skipped: Counter[str] = Counter()

    def settle(self, step: Step) -> None:
        """Wait until the daemon has nothing left to time by itself. Raises ``Overloaded`` if clients keep it busy."""
        total, last, since = 0, -1, time.monotonic()
        while True:
            status = self._link.call("status")
            pending, busy = status["calibration_pending"], _busy(status)
            now = time.monotonic()
            if not busy and (pending == 0 or now - since > _STILL_SECONDS):
                return  # what is pending then waits to be asked for
            total = max(total, pending)
            if pending != last or (busy and pending):
                last, since = pending, now
            if now - since > _PATIENCE_SECONDS:
                raise _overloaded()
            step(total - pending, total, "waiting for the daemon to time other workloads")
            time.sleep(_POLL_SECONDS)

    def warm(self, workloads: Sequence[str], step: Step) -> None:
        """Run every pair once, so that no first call (which compiles and allocates) is predicted or timed."""
        pairs = [pair for pair in pairs_of(self._link.call("backends"), workloads) if pair.able]
        step(0, len(pairs), "running each pair once")
        for pair in pairs:
            low, _high = declaration(pair.workload).work_range
            self._measure(pair.workload, TaskDraw(low, 0), pair.backend, _ONE_RUN_SECONDS)

    def decide(self, workload: str, draws: Iterable[TaskDraw]) -> list[Decided]:
        """The daemon's decisions about tasks of a workload, known by their shapes; tasks that nothing may run are skipped."""
        import numpy as np

        declared = declaration(workload)
        decided = []
        for draw in draws:
            example = declared.example(draw.work, np.random.default_rng(draw.seed))
            shapes = {name: ArrayRef(array.shape, str(array.dtype)) for name, array in example.arrays.items()}
            try:
                decided.append(Decided(workload, draw, self._decision(Ask(workload, example.params, shapes))))
            except NoCandidate:
                self._skipped["no backend may run"] += 1
        return decided

    def run(self, decided: Sequence[Decided], ways: Mapping[str, float], step: Step) -> Ran:
        """Run every task on each of its backends. ``ways`` are the seconds to each backend's worker and back."""
        ran = Ran([], [], self._skipped, self._failures)
        last = ""
        for number, task in enumerate(decided):
            if task.workload != last:
                last = task.workload
                step(number, len(decided), f"running {last}")
            if min(task.predicted.values()) > _LONGEST_SECONDS:
                ran.skipped[f"predicted to take more than {_LONGEST_SECONDS:g} s"] += 1
                continue
            runs = self._runs(task)
            if task.decision["backend"] not in runs:
                ran.skipped["failed on the choice"] += 1
                continue
            seconds = {backend: [ways[backend] + one for one in taken] for backend, taken in runs.items()}
            ran.trials.append(_trial(task, seconds))
            work = task.decision["work"]
            ran.runs.extend(Sample(task.workload, name, work, one) for name, taken in seconds.items() for one in taken)
        return ran

    def _runs(self, task: Decided) -> dict[str, list[float]]:
        """Seconds of every run on each backend that can run the task.

        Backends take turns, once forwards and once backwards, so that a drifting machine meets all alike.
        """
        predicted = task.predicted
        best = min(predicted.values())
        runs: dict[str, list[float]] = {backend: [] for backend in predicted}
        for sweep in (list(predicted), list(predicted)[::-1]):
            for backend in sweep:
                hopeless = predicted[backend] > min(_MUCH_SLOWER * best, _LONGEST_SECONDS)
                if backend not in runs or (hopeless and runs[backend]):
                    continue
                budget = _ONE_RUN_SECONDS if hopeless else _BUDGET_SECONDS
                seconds = self._measure(task.workload, task.draw, backend, budget, task.decision["work"])
                if seconds is None:
                    del runs[backend]
                else:
                    runs[backend] += seconds
        return runs

    def _measure(
        self, workload: str, draw: TaskDraw, backend: str, budget_seconds: float, work: float | None = None
    ) -> list[float] | None:
        """Seconds of each run; ``None`` where the backend cannot run this task, which is noted among the failures."""
        try:
            answer = self._link.call("measure", MeasureTask(workload, draw.work, backend, draw.seed, budget_seconds))
        except (ExecutionError, Unavailable) as error:
            self._failures[f"{backend} {workload}"] = error.message
            return None
        if work is not None and not math.isclose(answer["work"], work, rel_tol=_SAME_WORK):
            raise RouterdError(
                f"the daemon's example of {workload} has {answer['work']:g} of work, the one here {work:g}; restart the "
                "daemon, so that both are of one version"
            )
        return list(answer["seconds"])

    def _decision(self, ask: Ask) -> dict[str, Any]:
        """A decision made while nothing was queued: what is measured afterwards has no wait in it either."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            decision: dict[str, Any] = self._link.call("decide", ask)
            waits = any(one["queue_seconds"] > 0.0 for one in decision["fallbacks"])
            if not waits and not _busy(self._link.call("status")):
                return decision
            if time.monotonic() > deadline:
                raise _overloaded()
            time.sleep(_POLL_SECONDS)


def _trial(task: Decided, seconds: Mapping[str, Sequence[float]]) -> Trial:
    return Trial(
        workload=task.workload,
        work=task.decision["work"],
        seconds={backend: median(taken) for backend, taken in seconds.items()},
        predicted=task.predicted,
        chosen=task.decision["backend"],
        confidence=task.decision["confidence"],
    )


class KnownPair(NamedTuple):
    """A backend on a workload, as the daemon reports it: whether it may take tasks, and the points it was timed at."""

    backend: str
    workload: str
    able: bool
    points: list[tuple[float, float]]


def pairs_of(report: Mapping[str, Any], workloads: Sequence[str]) -> list[KnownPair]:
    """The pairs of these workloads in the answer of ``backends``."""
    return [
        KnownPair(
            backend["name"],
            pair["workload"],
            backend["state"] == "ready" and pair["state"] in ("proved", "calibrated"),
            [(point["work"], point["seconds"]) for point in pair["points"]],
        )
        for backend in report["backends"]
        for pair in backend["workloads"]
        if pair["workload"] in workloads
    ]


def samples_of(pairs: Iterable[KnownPair], ways: Mapping[str, float]) -> list[Sample]:
    """What the daemon's models rest on, way to the worker included, as other choosers may learn from it."""
    return [
        Sample(pair.workload, pair.backend, work, ways[pair.backend] + seconds)
        for pair in pairs
        for work, seconds in pair.points
        if pair.backend in ways
    ]


def ways_of(decided: Iterable[Decided]) -> dict[str, float]:
    """Seconds to each backend's worker and back, as decisions count them.

    A decision tells them of every backend but its choice. One that was always chosen is given the median of the others:
    workers on one machine are about as far away.
    """
    tasks = list(decided)
    known = {one["backend"]: float(one["transfer_seconds"]) for task in tasks for one in task.decision["fallbacks"]}
    usual = median(known.values()) if known else 0.0
    return {backend: known.get(backend, usual) for task in tasks for backend in task.predicted}


def declaration(name: str) -> Workload:
    """A workload's declaration. Raises ``BadRequest`` where there is none here to make examples with."""
    declared = find_workload(name)
    if declared is None:
        raise BadRequest(f"{name} has no examples here: it is a model, or no plugin beside routerctl declares it")
    return declared


def _busy(status: Mapping[str, Any]) -> bool:
    return any(worker["waiting"] for worker in status["workers"])


def _overloaded() -> Overloaded:
    return Overloaded("other clients keep the daemon busy; routing can be scored while nobody else has work for it")
