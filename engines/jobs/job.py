"""A job of the demo, and running it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median_low
from typing import Any

import numpy as np

from routerd.client import Router, TaskResult
from routerd.types import Decision


@dataclass(frozen=True)
class Job:
    """Tasks of one workload that belong together, for one engine: arguments of ``run`` by what each task is about."""

    engine: str
    title: str
    workload: str
    tasks: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Outcome:
    """A finished job: for each of its tasks the run whose time was the median, with that run's own decision."""

    job: Job
    results: Mapping[str, TaskResult]

    @property
    def decisions(self) -> list[Decision]:
        return [result.decision for result in self.results.values()]


def run_job(router: Router, job: Job, repeats: int) -> Outcome:
    """Run every task of the job ``repeats`` times. Arrays are put into shared memory once, so no run copies them."""
    results = {}
    for name, arguments in job.tasks.items():
        shared = {key: _share(router, value) for key, value in arguments.items()}
        runs = [router.run(job.workload, **shared) for _ in range(repeats)]
        middle = median_low(result.timing.total_seconds for result in runs)
        results[name] = next(result for result in runs if result.timing.total_seconds == middle)
    return Outcome(job, results)


def _share(router: Router, value: Any) -> Any:
    if not isinstance(value, np.ndarray):
        return value
    shared = router.empty(value.shape, value.dtype)
    shared[...] = value
    return shared
