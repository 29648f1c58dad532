"""One worker process seen from the daemon: start it, queue jobs for it, notice its end, start it again."""

from __future__ import annotations

import asyncio
import heapq
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any, NamedTuple, TypeAlias

from routerd.errors import ShuttingDown, TaskTimeout, Unavailable, WorkerCrashed, from_wire
from routerd.interfaces import BackendSpec
from routerd.logs import get_logger
from routerd.outbox import close_all
from routerd.worker import messages
from routerd.worker.channel import Channel

FOREGROUND = 0
BACKGROUND = 100  # proofs and calibration yield to every task
_DEPTH = 2  # jobs handed to the process: one runs, one waits in its socket so that it never idles between tasks
_BACKOFF_SECONDS = (0.1, 10.0)
_STABLE_SECONDS = 30.0
_WATCH_SECONDS = 1.0
_BUSY_PATIENCE_SECONDS = 0.2
_LINGER_SECONDS = 1.0  # between the end of a worker's stream and the end of its process


class Answer(NamedTuple):
    """An outcome, the descriptors that came with it (the receiver closes them), and the seconds it waited and took."""

    outcome: Any
    descriptors: list[int]
    queue_seconds: float
    total_seconds: float


#: Builds a job's message and names the descriptors to send with it, when its turn has come.
Make: TypeAlias = Callable[[int], "tuple[messages.Job, Sequence[int]]"]


class _Job:
    __slots__ = ("future", "limit", "make", "order", "queued_at", "seconds", "started_at")

    def __init__(
        self, make: Make, seconds: float, limit: float, order: tuple[int, int], future: asyncio.Future[Answer]
    ) -> None:
        self.make = make
        self.seconds = seconds
        self.limit = limit
        self.order = order
        self.future = future
        self.queued_at = perf_counter()
        self.started_at = 0.0

    def __lt__(self, other: _Job) -> bool:
        return self.order < other.order


class WorkerSettings(NamedTuple):
    """What every worker is started with."""

    threads: int
    inline_bytes: int
    task_timeout_seconds: float
    start_seconds: float
    workload_modules: tuple[str, ...] = ()


class Worker:
    """A supervised worker process for the backends of one ``(device kind, group)``.

    ``on_loaded(spec, outcome)`` is called for each backend after every (re)start, with ``Loaded`` or ``Failed``;
    ``on_down(reason)`` when the process ends; ``on_busy(busy)`` when it gets work while idle and when it is idle again.
    """

    _incarnations = 0

    def __init__(
        self,
        name: str,
        specs: Sequence[BackendSpec],
        settings: WorkerSettings,
        on_loaded: Callable[[BackendSpec, messages.Loaded | messages.Failed], None],
        on_down: Callable[[Worker, str], None],
        on_busy: Callable[[bool], None] = lambda _busy: None,
    ) -> None:
        self.name = name
        self.specs = tuple(specs)
        self.restarts = 0
        self.incarnation = 0
        self.known_segments: set[int] = set()
        self._log = get_logger(f"worker.{specs[0].device_kind}")
        self._settings = settings
        self._on_loaded = on_loaded
        self._on_down = on_down
        self._on_busy = on_busy
        self._busy = False
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._channel: Channel | None = None
        self._queue: list[_Job] = []
        self._running: dict[int, _Job] = {}
        self._backlog_seconds = 0.0
        self._counter = 0
        self._failures = 0
        self._started_at = 0.0
        self._stopping = False
        self._restart: asyncio.TimerHandle | None = None
        self._watchdog: asyncio.TimerHandle | None = None
        self._killed_because = ""
        self._burial: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """Process id while the worker is up."""
        return self._process.pid if self._process is not None and self._channel is not None else None

    @property
    def up(self) -> bool:
        return self._channel is not None

    @property
    def idle(self) -> bool:
        """Nothing runs and nothing waits."""
        return not self._running and not self._queue

    @property
    def waiting(self) -> int:
        """Jobs that wait or run."""
        return len(self._queue) + len(self._running)

    def queue_seconds(self) -> float:
        """Predicted seconds until a job queued now would start."""
        if not self._running:
            return 0.0
        first = next(iter(self._running.values()))
        elapsed = perf_counter() - first.started_at
        return max(self._backlog_seconds - min(elapsed, first.seconds), 0.0)

    def spawn(self) -> None:
        """Start the process. Needs no event loop."""
        Worker._incarnations += 1
        self.incarnation = Worker._incarnations
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with theirs:
                self._process = subprocess.Popen(
                    self._command(theirs.fileno()),
                    pass_fds=(theirs.fileno(),),
                    env=self._environment(),
                    stdin=subprocess.DEVNULL,
                )
        except OSError:
            mine.close()
            raise
        self._socket = mine
        self._started_at = perf_counter()

    def start(self) -> None:
        """Listen to the process, spawned now if it was not, and ask it to load every backend."""
        if self._socket is None:
            self.spawn()
        assert self._socket is not None
        self.known_segments = set()
        self._channel, self._socket = Channel(self._socket, self._outcome, self._ended), None
        for spec in self.specs:
            self._load(spec)
        if self._watchdog is None:
            self._watch()
        self._log.debug("worker started", worker=self.name, pid=self.pid)

    async def ask(
        self, make: Make, *, seconds: float, priority: int = FOREGROUND, limit: float | None = None
    ) -> Answer:
        """Queue a job, expected to take ``seconds``, and wait for its outcome. Lower ``priority`` runs first.

        ``limit`` bounds it in place of the limit of tasks, in seconds.

        Raises what the worker reported, ``WorkerCrashed`` if the process ended meanwhile, ``Unavailable`` if it is
        down, ``TaskTimeout`` (and the process is killed) if the job outlasts the limit.
        """
        if self._channel is None:
            raise Unavailable(f"worker {self.name} is down and will be restarted")
        job = self._enqueue(make, seconds, priority, limit or self._settings.task_timeout_seconds)
        answer = await job.future
        if isinstance(answer.outcome, messages.Failed):
            error = answer.outcome.error
            if answer.outcome.trace:
                self._log.error("job failed", worker=self.name, reason=error.message, trace=answer.outcome.trace)
            raise from_wire(error.code, error.message, error.detail)
        return answer

    def tell(self, notice: messages.Notice) -> None:
        """Send a message that has no reply, ahead of the jobs to come."""
        if self._channel is not None:
            self._channel.post(notice)

    def kill(self) -> None:
        """End the process at once; the end of its stream does the rest."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)

    async def stop(self, seconds: float) -> None:
        """Close the stream, wait for the process to end, kill it if it does not: soon, if it is busy, as nobody waits."""
        self._stopping = True
        patience = seconds if self.idle else min(seconds, _BUSY_PATIENCE_SECONDS)
        for timer in (self._restart, self._watchdog):
            if timer is not None:
                timer.cancel()
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        self._fail_all(lambda: ShuttingDown("the daemon is shutting down"))
        if self._process is None:
            return
        try:
            await asyncio.to_thread(self._process.wait, patience)
        except subprocess.TimeoutExpired:
            self.kill()
            await asyncio.to_thread(self._process.wait)

    def _command(self, descriptor: int) -> list[str]:
        settings = self._settings
        modules = [word for module in settings.workload_modules for word in ("--workload-module", module)]
        return [
            sys.executable, "-m", "routerd.worker.process", "--fd", str(descriptor), "--daemon", str(os.getpid()),
            "--incarnation", str(self.incarnation), "--inline-bytes", str(settings.inline_bytes), *modules,
        ]  # fmt: skip

    def _environment(self) -> dict[str, str]:
        """Numeric libraries size their thread pools from the environment when they are loaded."""
        threads = str(self._settings.threads)
        bounded = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
        return {**os.environ, **dict.fromkeys(bounded, threads)}

    def _load(self, spec: BackendSpec) -> None:
        job = self._enqueue(
            lambda number: (messages.Load(number, spec.name, spec.factory, dict(spec.options)), ()),
            1.0,
            BACKGROUND - 1,
            self._settings.start_seconds,
        )

        def report(future: asyncio.Future[Answer]) -> None:
            if not future.cancelled() and future.exception() is None:
                self._on_loaded(spec, future.result().outcome)

        job.future.add_done_callback(report)

    def _enqueue(self, make: Make, seconds: float, priority: int, limit: float) -> _Job:
        self._counter += 1
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        job = _Job(make, seconds, limit, (priority, self._counter), future)
        heapq.heappush(self._queue, job)
        self._backlog_seconds += seconds
        self._dispatch()
        return job

    def _dispatch(self) -> None:
        while self._queue and self._channel is not None and len(self._running) < _DEPTH:
            job = heapq.heappop(self._queue)
            if job.future.cancelled():
                self._backlog_seconds -= job.seconds
                continue
            number = job.order[1]
            job.started_at = perf_counter()
            self._running[number] = job
            message, descriptors = job.make(number)
            try:
                self._channel.send(message, descriptors)
            except OSError as error:  # out of descriptors: this task fails, the next may find some
                self._refuse(number, message, error)
        self._note_busy()

    def _note_busy(self) -> None:
        busy = not self.idle
        if busy is not self._busy:
            self._busy = busy
            self._on_busy(busy)

    def _refuse(self, number: int, message: messages.Job, error: OSError) -> None:
        job = self._running.pop(number)
        self._backlog_seconds = max(self._backlog_seconds - job.seconds, 0.0)
        if isinstance(message, messages.Execute):
            self.known_segments -= {info.segment for info in message.attach}
        job.future.set_exception(Unavailable(f"worker {self.name} cannot be handed the task: {error.strerror}"))

    def _watch(self) -> None:
        """Once a second: a job that outlasts the limit has hung its worker."""
        self._watchdog = asyncio.get_running_loop().call_later(_WATCH_SECONDS, self._watch)
        job = next(iter(self._running.values()), None)
        if job is None or perf_counter() - job.started_at < job.limit:
            return
        if not job.future.done():
            job.future.set_exception(TaskTimeout(f"the task did not end within {job.limit:g} s on worker {self.name}"))
        self._log.error("worker hangs, killing it", worker=self.name, limit_seconds=job.limit)
        self._killed_because = f"worker {self.name} was ended by the daemon: a task outlasted {job.limit:g} s"
        self.kill()

    def _outcome(self, outcome: messages.Outcome, descriptors: list[int]) -> None:
        job = self._running.pop(outcome.id, None)
        if job is None or job.future.done():
            self._abandon(outcome, descriptors)
        if job is not None:
            self._backlog_seconds = max(self._backlog_seconds - job.seconds, 0.0)
            now = perf_counter()
            for waiting in self._running.values():  # what waited in the socket starts now
                waiting.started_at = now
            if not job.future.done():
                job.future.set_result(Answer(outcome, descriptors, job.started_at - job.queued_at, now - job.queued_at))
        self._dispatch()

    def _abandon(self, outcome: messages.Outcome, descriptors: list[int]) -> None:
        """Nobody waits any more (a deadline passed, a client left): the result's memory goes back."""
        close_all(descriptors)
        if isinstance(outcome, messages.Executed):
            created = {info.segment for info in outcome.created}
            used = {ref.segment for ref in outcome.outputs.values() if ref.segment is not None}
            self.tell(messages.Recycle(outcome.client, tuple(used - created)))
            self.tell(messages.Discard(outcome.client, tuple(created)))

    def _ended(self) -> None:
        self._channel = None
        if not self._stopping and self._process is not None:
            self._burial = asyncio.get_running_loop().create_task(self._bury(self._process))

    async def _bury(self, process: subprocess.Popen[bytes]) -> None:
        """Learn how the process ended (it may linger, so not on the loop), tell everybody, plan the next one."""
        try:
            code = await asyncio.to_thread(process.wait, _LINGER_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            code = await asyncio.to_thread(process.wait)
        if self._stopping:
            return
        reason, self._killed_because = self._killed_because or _exit_words(self.name, code), ""
        delay = self._next_delay()
        self._log.error("worker ended", worker=self.name, reason=reason, restart_seconds=delay)
        self._fail_all(lambda: WorkerCrashed(reason, worker=self.name))
        self._on_down(self, reason)
        self._restart = asyncio.get_running_loop().call_later(delay, self._start_again)

    def _next_delay(self) -> float:
        """Seconds until the next start: twice as long after every short life."""
        if perf_counter() - self._started_at > _STABLE_SECONDS:
            self._failures = 0
        delay: float = min(_BACKOFF_SECONDS[0] * 2**self._failures, _BACKOFF_SECONDS[1])
        self._failures += 1
        return delay

    def _start_again(self) -> None:
        self.restarts += 1
        try:
            self.start()
        except OSError as error:  # out of processes, descriptors or memory: that may pass
            delay = self._next_delay()
            self._log.error("worker cannot start", worker=self.name, reason=str(error), restart_seconds=delay)
            self._restart = asyncio.get_running_loop().call_later(delay, self._start_again)

    def _fail_all(self, make: Callable[[], Exception]) -> None:
        jobs = [*self._running.values(), *self._queue]
        self._running.clear()
        self._queue.clear()
        self._backlog_seconds = 0.0
        for job in jobs:
            if not job.future.done():
                job.future.set_exception(make())
                job.future.exception()  # mark as seen: a load job has nobody who waits for it
        self._note_busy()


def _exit_words(name: str, code: int) -> str:
    if code < 0:
        return f"worker {name} was ended by {signal.Signals(-code).name}"
    return f"worker {name} exited with status {code}"
