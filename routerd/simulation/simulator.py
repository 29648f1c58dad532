"""Scoring routing in a world: calibrate as the daemon does, decide about tasks, and compare with what the world knows.

Everything random comes from the seed and from what it is drawn for, never from the order of drawing, so the same seed gives
the same figures, and a task takes the same on each backend whatever was chosen for others.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from random import Random
from typing import NamedTuple

from routerd.scoring.trials import Sample, Trial
from routerd.simulation.learner import Learner, calibration
from routerd.simulation.world import World


class Scored(NamedTuple):
    """Decisions beside the truth, and the measurements that they rest on, which other choosers may learn from too."""

    trials: list[Trial]
    samples: list[Sample]


class Timing:
    """A :data:`~routerd.simulation.learner.Measure` that notes down each run as (work, seconds)."""

    def __init__(self, usual_seconds: Callable[[float], float], rng: Random, noise_log_sigma: float) -> None:
        self.runs: list[tuple[float, float]] = []
        self._usual_seconds = usual_seconds
        self._random = rng
        self._noise_log_sigma = noise_log_sigma

    def __call__(self, work: float) -> float:
        seconds = self._usual_seconds(work) * math.exp(self._random.gauss(0.0, self._noise_log_sigma))
        self.runs.append((work, seconds))
        return seconds


class Hardware:
    """The world's machine at work: what tasks take on it, as far as chance has a part in it."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self._seed = seed

    def usual_seconds(self, backend: str, workload: str, work: float, task: int) -> float:
        """Service time of a task there, but for the chance of a single run."""
        bias = self.random("bias", backend, workload, task).gauss(0.0, self.world.bias_log_sigma)
        return self.world.seconds(backend, workload, work) * math.exp(bias)

    def run_seconds(self, backend: str, workload: str, work: float, task: int) -> float:
        """Service time of one run of a task there."""
        noise = self.random("noise", backend, workload, task).gauss(0.0, self.world.noise_log_sigma)
        return self.usual_seconds(backend, workload, work, task) * math.exp(noise)

    def timing(self, backend: str, workload: str) -> Timing:
        """Runs of examples there, whose shapes are those of the curve."""
        usual = partial(self.world.seconds, backend, workload)
        return Timing(usual, self.random("timing", backend, workload), self.world.noise_log_sigma)

    def random(self, *what: object) -> Random:
        """The random numbers of one purpose."""
        return Random("/".join(map(str, (self._seed, *what))))

    def draw_work(self, workload: str, task: int) -> float:
        """The work of a task, log-uniform over what the world knows of the workload."""
        low, high = self.world.work_range(workload)
        return low * math.pow(high / low, self.random("work", workload, task).random())


def score_world(world: World, tasks_per_workload: int, seed: int) -> Scored:
    """Trials of every workload that the world leaves a choice about, and the samples of its calibration.

    Seconds are from request to result, the way to the backend included. A task counts as taking what it usually takes
    there, so that regret is that of the decision and not of a lucky run. Nothing is learnt from one task for the next.
    """
    hardware, learner = Hardware(world, seed), Learner()
    trials: list[Trial] = []
    samples: list[Sample] = []
    for workload in world.workloads:
        if len(world.candidates(workload)) > 1:
            samples += calibrate(learner, hardware, workload)
            trials += [_trial(learner, hardware, workload, task) for task in range(tasks_per_workload)]
    return Scored(trials, samples)


def calibrate(learner: Learner, hardware: Hardware, workload: str) -> list[Sample]:
    """Calibrate the workload on every backend that can run it; each run that was timed for that."""
    samples: list[Sample] = []
    for backend in hardware.world.candidates(workload):
        timed = hardware.timing(backend.name, workload)
        low, high = hardware.world.curve_range(backend.name, workload)
        learner.calibrate(workload, backend, calibration(timed, low, high))
        samples += [
            Sample(workload, backend.name, work, backend.overhead_seconds + seconds) for work, seconds in timed.runs
        ]
    return samples


def _trial(learner: Learner, hardware: Hardware, workload: str, task: int) -> Trial:
    work = hardware.draw_work(workload, task)
    routed = learner.decide(workload, work, task)
    return Trial(
        workload=workload,
        work=work,
        seconds={
            backend.name: backend.overhead_seconds + hardware.usual_seconds(backend.name, workload, work, task)
            for backend in hardware.world.candidates(workload)
        },
        predicted={candidate.backend: candidate.predicted_seconds for candidate in routed.ranking},
        chosen=routed.decision.backend,
        confidence=routed.decision.confidence,
    )
