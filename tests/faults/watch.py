"""Somebody who asks for the status all the time, and tries whether it is true."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from routerd import connect
from routerd.client import Router
from routerd.errors import DaemonUnreachable, RouterdError
from tests.faults.journal import Journal

PINNED = "fickle.one"  #: the backend that the policy of a storm sends this client to
PINNED_WORKER = "hybrid/fickle"
_WORKERS = {PINNED: PINNED_WORKER, "steady.one": "cluster/steady_one", "cpu.numpy": "cpu/numpy"}
_PAUSE_SECONDS = 0.02
_PROBE = {"a": np.ones((2, 2)), "b": np.ones((2, 1))}


class Fault(NamedTuple):
    """A fault that began and ended (was done) at these monotonic seconds.

    ``worker`` and ``pid`` are what it was done to; without, it may have touched any worker. ``window_seconds``: how long
    after its end the daemon may take to notice.
    """

    name: str
    begin: float
    end: float
    pid: int = 0
    window_seconds: float = 0.75
    worker: str = ""
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.name}{f' of {self.pid}' if self.pid else ''}{f' ({self.detail})' if self.detail else ''}"


class Sample(NamedTuple):
    """What ``status`` said."""

    at: float
    daemon: int
    uptime_seconds: float
    backends: Mapping[str, str]
    workers: Mapping[str, tuple[int | None, str]]
    memory_bytes: int


class Probe(NamedTuple):
    """A request sent right after ``status`` had called its backend ready; ``met`` is what kept it from running there."""

    at: float
    ended: float
    met: str


class Watch(threading.Thread):
    """Samples the status and probes the pinned backend until stopped; its requests are in the ledger like all others."""

    def __init__(self, path: Path, journal: Path) -> None:
        super().__init__(name="watch", daemon=True)
        self._path = path
        self._journal = Journal(journal, journal.stem)
        self._finished = threading.Event()
        self.samples: list[Sample] = []
        self.probes: list[Probe] = []
        self.failure: Exception | None = None

    def run(self) -> None:
        try:
            while not self._finished.is_set():
                with contextlib.suppress(DaemonUnreachable):
                    self._look_until_broken()
            self._journal.done()
        except Exception as error:
            self.failure = error

    def stop(self) -> None:
        self._finished.set()
        self.join(60.0)

    @property
    def latest(self) -> Sample | None:
        return self.samples[-1] if self.samples else None

    def _look_until_broken(self) -> None:
        with connect(self._path, name="fickle-watch", timeout=1.0, table=False) as router:
            while not self._finished.wait(_PAUSE_SECONDS):
                self._look(router)

    def _look(self, router: Router) -> None:
        status = router.call("status")
        self.samples.append(sample_of(status))
        if status["backends"][PINNED] == "ready":
            self._try(router)

    def _try(self, router: Router) -> None:
        number, at = self._journal.asked("probe"), time.monotonic()
        try:
            result = router.run("linalg.gemm", **_PROBE)
        except RouterdError as error:
            self._journal.answered(number, error.code, why=error.message)
            self.probes.append(Probe(at, time.monotonic(), error.message))
            if isinstance(error, DaemonUnreachable):
                raise
            return
        right = np.array_equal(result["c"], [[2.0], [2.0]])
        facts = {
            "decision": result.decision.decision_id,
            "ran_on": result.ran_on.backend,
            "fallback": result.fallback_reason,
        }
        self._journal.answered(number, "right" if right else "wrong", **facts)
        self.probes.append(Probe(at, time.monotonic(), result.fallback_reason or ""))


def sample_of(status: Mapping[str, Any]) -> Sample:
    workers = {worker["name"]: (worker["pid"], worker["state"]) for worker in status["workers"]}
    return Sample(
        time.monotonic(),
        status["pid"],
        status["uptime_seconds"],
        status["backends"],
        workers,
        status["memory_bytes"],
    )


def lies(samples: Sequence[Sample], probes: Sequence[Probe], faults: Sequence[Fault]) -> list[str]:
    """Where the status was not true beyond the time that a fault may take to be noticed."""
    problems = []
    for sample in samples:
        for backend, worker in _WORKERS.items():
            state = sample.workers[worker][1]
            said = f"status calls {backend} ready and its worker {worker} {state}"
            absurd = sample.backends[backend] == "ready" and state != "up"
            if absurd and said not in problems and not _explained(sample.at, sample.at, worker, faults):
                problems.append(said)
    for fault in faults:
        late = [
            sample
            for sample in samples
            if fault.pid
            and sample.at > fault.end + fault.window_seconds
            and any(pid == fault.pid and state == "up" for pid, state in sample.workers.values())
        ]
        if late:
            after = late[-1].at - fault.end
            problems.append(f"status called worker process {fault.pid} up still {after:.2f} s after {fault}")
    for probe in probes:
        if probe.met and not _explained(probe.at, probe.ended, PINNED_WORKER, faults):
            problems.append(f"status called {PINNED} ready, the next request met: {probe.met}")
    return problems


def _explained(begin: float, end: float, worker: str, faults: Sequence[Fault]) -> bool:
    """Whether between these moments the daemon may have known nothing yet of what had been done to the worker."""
    return any(
        fault.begin <= end and begin <= fault.end + fault.window_seconds
        for fault in faults
        if fault.worker in ("", worker)
    )
