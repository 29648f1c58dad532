"""One worker process seen from the daemon: start it, watch it, notice its end, start it again."""

from __future__ import annotations

import asyncio
import random
import signal
import socket
import subprocess
from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter
from typing import Literal

import psutil

from routerd.errors import (
    ExecutionError,
    ShuttingDown,
    WorkerCrashed,
)
from routerd.interfaces import BackendSpec
from routerd.logs import get_logger
from routerd.worker import health, messages
from routerd.worker.backoff import Backoff
from routerd.worker.channel import Channel
from routerd.worker.dispatcher import Dispatcher, Displaced, fail
from routerd.worker.health import Health
from routerd.worker.launch import WorkerSettings, exit_words, launch
from routerd.worker.queue import BACKGROUND, Answer
from routerd.worker.vitals import vitals

_BUSY_PATIENCE_SECONDS = 0.2
_LINGER_SECONDS = 1.0  # between the end of a worker's stream and the end of its process


class Worker(Dispatcher):
    """A supervised worker process for the backends of one ``(device kind, group)``.

    ``on_loaded(spec, outcome)`` is called for each backend after every (re)start, with ``Loaded`` or ``Failed``;
    ``on_down(worker, reason)`` when the process ends; ``on_busy(busy)`` when it gets work while idle and when it is idle
    again; ``on_pulse(worker, silence)`` with words when it stops answering, and with ``""`` when it answers again.
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
        on_pulse: Callable[[Worker, str], None] = lambda _worker, _silence: None,
        *,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        super().__init__(name, settings, on_busy)
        self.specs = tuple(specs)
        self.restarts = 0
        self.incarnation = 0
        self._log = get_logger(f"worker.{specs[0].device_kind}")
        self._on_loaded = on_loaded
        self._on_down = on_down
        self._backoff = Backoff(jitter)
        self._health = Health(name, settings, self._ping, partial(on_pulse, self))
        self._process: subprocess.Popen[bytes] | None = None
        self._watched: psutil.Process | None = None
        self._socket: socket.socket | None = None
        self._started_at = 0.0
        self._stopping = False
        self._restart: asyncio.TimerHandle | None = None
        self._watchdog: asyncio.TimerHandle | None = None
        self._ended_because: ExecutionError | None = None
        self._burial: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """Process id while the worker is up."""
        return self._process.pid if self._process is not None and self.up else None

    @property
    def state(self) -> Literal["up", "silent", "down"]:
        """Whether it would take a job now; ``silent``: its process is there, and does not answer."""
        if not self.up:
            return "down"
        return "silent" if self._health.silence else "up"

    @property
    def private_bytes(self) -> int:
        """Its memory without what it shares with clients, as it was last seen."""
        return self._health.private_bytes

    def spawn(self) -> None:
        """Start the process. Needs no event loop."""
        Worker._incarnations += 1
        self.incarnation = Worker._incarnations
        self._process, self._socket = launch(self._settings, self.incarnation)
        self._watched = psutil.Process(self._process.pid)
        self._started_at = perf_counter()

    def start(self) -> None:
        """Listen to the process, spawned now if it was not, and ask it to load every backend."""
        if self._socket is None:
            self.spawn()
        assert self._socket is not None
        self._health.begin(perf_counter())
        connection, self._socket = self._socket, None
        self.attach(Channel(connection, self._hear, self._ended))
        for spec in self.specs:
            self._load(spec)
        if self._watchdog is None:
            self._watch()
        self._log.debug("worker started", worker=self.name, pid=self.pid)

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
        self.detach()
        self.give_up(ShuttingDown("the daemon is shutting down"))
        if self._process is None:
            return
        try:
            await asyncio.to_thread(self._process.wait, patience)
        except subprocess.TimeoutExpired:
            self.kill()
            await asyncio.to_thread(self._process.wait)

    def _load(self, spec: BackendSpec) -> None:
        job = self.put(
            lambda number: (messages.Load(number, spec.name, spec.factory, dict(spec.options)), ()),
            1.0,
            self._settings.start_seconds,
            BACKGROUND + 1,
        )

        def report(future: asyncio.Future[Answer]) -> None:
            if not future.cancelled() and future.exception() is None:
                self._on_loaded(spec, future.result().outcome)

        job.future.add_done_callback(report)

    def _hear(self, outcome: messages.Outcome, descriptors: list[int]) -> None:
        self._health.heard(perf_counter())
        self._outcome(outcome, descriptors)

    # -- health -----------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Look at the process every second."""
        self._watchdog = asyncio.get_running_loop().call_later(health.WATCH_SECONDS, self._watch)
        if self._watched is None or not self.up or self._ended_because is not None:
            return  # it is down, or about to be: its stream says so
        why = self._health.examine(vitals(self._watched), self.current, perf_counter())
        if why is not None:
            self._end(why)

    def _ping(self) -> None:
        if self._channel is not None:
            self._channel.post(messages.Ping(0))

    def _end(self, why: ExecutionError) -> None:
        """End a process that is beyond help. Who waits for its task need not wait for its funeral."""
        self._log.error("ending the worker", worker=self.name, reason=why.message)
        self._ended_because = why
        if self.current is not None:
            fail(self.current, why)
        self.kill()

    # -- ends and beginnings ----------------------------------------------------------------------------------------

    def _ended(self) -> None:
        self.detach()
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
        why = self._ended_because or WorkerCrashed(exit_words(self.name, code), worker=self.name)
        self._ended_because = None
        delay = self._backoff.next_seconds(perf_counter() - self._started_at)
        self._log.error("worker ended", worker=self.name, reason=why.message, restart_seconds=delay)
        self._on_down(self, why.message)
        self.give_up(Displaced(f"{why.message} before it had started the task", worker_ended=self.name), why)
        self._restart = asyncio.get_running_loop().call_later(delay, self._start_again)

    def _start_again(self) -> None:
        self.restarts += 1
        try:
            self.start()
        except (OSError, psutil.Error) as error:  # out of processes, descriptors or memory: that may pass
            delay = self._backoff.next_seconds(perf_counter() - self._started_at)
            self._log.error("worker cannot start", worker=self.name, reason=str(error), restart_seconds=delay)
            self._restart = asyncio.get_running_loop().call_later(delay, self._start_again)
