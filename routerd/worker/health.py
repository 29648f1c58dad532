"""Judging a worker process by what it shows: its answers, its memory, its state, and how long its task takes."""

from __future__ import annotations

from collections.abc import Callable

from routerd.errors import ExecutionError, OutOfMemory, TaskTimeout, WorkerCrashed
from routerd.worker.launch import WorkerSettings
from routerd.worker.queue import Job
from routerd.worker.vitals import Vitals

#: Seconds between two looks at a process, and the silence after which it is asked whether it is there.
WATCH_SECONDS = 1.0


class Health:
    """One worker's. Times are those of the caller's clock.

    An idle process answers pings from the loop that runs kernels; a busy one is judged by its task's limit alone. ``ping`` asks it
    for an answer; ``on_pulse`` hears the words for its silence, and ``""`` when it answers again.
    """

    def __init__(
        self, name: str, settings: WorkerSettings, ping: Callable[[], None], on_pulse: Callable[[str], None]
    ) -> None:
        self.silence = ""
        self.private_bytes = 0
        self._name = name
        self._settings = settings
        self._ping = ping
        self._on_pulse = on_pulse
        self._heard_at = 0.0
        self._silent_since: float | None = None

    def begin(self, now: float) -> None:
        """A new process."""
        self._heard_at, self._silent_since, self.silence = now, None, ""

    def heard(self, now: float) -> None:
        """It has answered something."""
        self._heard_at = now
        self._answers()

    def examine(self, signs: Vitals | None, job: Job | None, now: float) -> ExecutionError | None:
        """Why the process must be ended, or ``None``. ``signs`` are ``None`` where they cannot be read, ``job`` is what it runs."""
        signs = signs or Vitals(self.private_bytes, stopped=False)
        self.private_bytes = signs.private_bytes
        limit = self._settings.memory_bytes
        if limit and signs.private_bytes > limit:
            words = f"held {signs.private_bytes} bytes, its limit is {limit} (worker_memory_bytes)"
            return OutOfMemory(f"worker {self._name} {words}", worker=self._name)
        if job is not None and now - job.started_at >= job.limit:
            words = f"the task did not end within {job.limit:.3g} s on worker {self._name}"
            return TaskTimeout(words, worker=self._name)
        if signs.stopped:
            return self._silent("its process is stopped", now)
        if job is not None:
            self._answers()
        elif self._silent_since is not None or now - self._heard_at >= WATCH_SECONDS:
            return self._silent("it does not answer", now)
        return None

    def _silent(self, words: str, now: float) -> ExecutionError | None:
        """Ask once whether it is there: it answers that when it can, one that was stopped when it goes on."""
        if self._silent_since is None:
            self._silent_since = now
            self._ping()
        silent = now - self._silent_since
        if silent >= self._settings.silence_seconds:
            return WorkerCrashed(f"worker {self._name} was silent for {silent:.3g} s: {words}", worker=self._name)
        if not self.silence and silent >= WATCH_SECONDS / 2.0:
            self.silence = words
            self._on_pulse(words)
        return None

    def _answers(self) -> None:
        self._silent_since = None
        if self.silence:
            self.silence = ""
            self._on_pulse("")
