"""A stream of tasks through a world in virtual time, with what may befall a machine on the way."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct

from routerd.simulation.learner import Learner
from routerd.simulation.simulator import Hardware, calibrate
from routerd.simulation.world import World


class Slowdown(Struct, frozen=True):
    """A backend takes ``factor`` times as long from task ``from_task`` on, until before ``to_task``."""

    backend: str
    factor: float
    from_task: int
    to_task: int

    def factor_at(self, backend: str, task: int) -> float:
        return self.factor if backend == self.backend and self.from_task <= task < self.to_task else 1.0


class Spike(Struct, frozen=True):
    """A backend takes ``factor`` times as long for one task, if that runs there."""

    backend: str
    factor: float
    at_task: int

    def factor_at(self, backend: str, task: int) -> float:
        return self.factor if backend == self.backend and task == self.at_task else 1.0


class Step(Struct, frozen=True):
    """One task of a stream: when it came, where it was sent, whether only to try that again, what was predicted
    of it there and what it took."""

    task: int
    at_seconds: float
    workload: str
    work: float
    chosen: str
    confidence: float
    explored: bool
    predicted_seconds: float
    seconds: float


class Simulation:
    """One client that sends a task, waits for its result, and sends the next; the clock moves by what each takes."""

    def __init__(
        self,
        world: World,
        seed: int,
        events: Sequence[Slowdown | Spike] = (),
        exploration_budget: float = 0.0,
    ) -> None:
        self._hardware = Hardware(world, seed)
        self._events = tuple(events)
        self._learner = Learner(exploration_budget)
        self._calibrated: set[str] = set()
        self._seconds = 0.0
        self._task = 0

    def tasks(self, workloads: Sequence[str], count: int) -> list[tuple[str, float]]:
        """``count`` tasks of the workloads in turn, each of some work that the world knows."""
        names = [workloads[number % len(workloads)] for number in range(count)]
        return [(name, self._hardware.draw_work(name, number)) for number, name in enumerate(names)]

    def run(self, tasks: Iterable[tuple[str, float]]) -> list[Step]:
        """Send tasks (workload, work) one after another, and tell what became of each. A further call goes on from there."""
        return [self._step(workload, work) for workload, work in tasks]

    def _step(self, workload: str, work: float) -> Step:
        if workload not in self._calibrated:
            calibrate(self._learner, self._hardware, workload)
            self._calibrated.add(workload)
        task, at_seconds = self._task, self._seconds
        routed = self._learner.explore(self._learner.decide(workload, work, task))
        chosen = routed.ranking[0]
        service = self._hardware.run_seconds(chosen.backend, workload, work, task)
        for event in self._events:
            service *= event.factor_at(chosen.backend, task)
        self._learner.observe(routed, service)
        seconds = chosen.transfer_seconds + service
        self._task += 1
        self._seconds += seconds
        return Step(
            task=task,
            at_seconds=at_seconds,
            workload=workload,
            work=work,
            chosen=chosen.backend,
            confidence=routed.decision.confidence,
            explored=routed.explored,
            predicted_seconds=chosen.predicted_seconds,
            seconds=seconds,
        )
