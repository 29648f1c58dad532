"""Every backend of this machine and what is known about it: state, device, proofs and cost models."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, TypeAlias

from msgspec import Struct

from routerd.costs.model import CostModel, ModelState
from routerd.errors import Unavailable
from routerd.interfaces import CONTRACT_BACKEND, BackendSpec, Workload
from routerd.logs import get_logger
from routerd.types import Device
from routerd.worker import messages
from routerd.worker.breaker import Breaker
from routerd.worker.launch import WorkerSettings
from routerd.worker.queue import NOBODY
from routerd.worker.supervisor import Worker
from routerd.worker.teams import Teams

_LOAD_ATTEMPTS = 3
_FOOTPRINT_PRIOR = 2.0  # inputs and outputs, and as much again for what the kernel keeps in between
_FOOTPRINT_MEMORY = 0.9  # how much of a larger footprint is still believed after a smaller one

State: TypeAlias = Literal["starting", "ready", "silent", "unavailable", "failed", "down"]


class Knowledge(Struct, frozen=True):
    """What is kept about a pair between runs: its proof and its cost model."""

    error: float | None = None
    quarantine: str | None = None
    model: ModelState = ModelState()


class Pair:
    """One backend on one workload: unsupported, unproved, proved or quarantined; and what it costs.

    ``absent`` is why a model that is known of the pair is not in its worker now; ``warm_in`` is the incarnation of the
    worker in which it has run, so that its next task does not pay for a first one; ``footprint`` is how many bytes of the
    device's memory it needs for each byte of a large task.
    """

    def __init__(self, workload: str, unsupported: str | None) -> None:
        self.workload = workload
        self.unsupported = unsupported
        self.absent = ""
        self.error: float | None = None
        self.quarantine: str | None = None
        self.model = CostModel()
        self.breaker = Breaker()
        self.used = 0
        self.warm_in = 0
        self.footprint = _FOOTPRINT_PRIOR

    def objection(self) -> str | None:
        """Why the pair may not take a task of any tolerance, or ``None``."""
        if self.unsupported is not None:
            return self.unsupported
        if self.absent:
            return self.absent
        if self.quarantine is not None:
            return f"quarantined: {self.quarantine}"
        if self.error is None:
            return "not yet proved on this machine"
        return self.breaker.objection()

    def note_footprint(self, task_bytes: float, device_bytes: int) -> None:
        """Learn from a task of this size what it held on the device; the larger of late ones counts."""
        self.footprint = max(device_bytes / task_bytes, _FOOTPRINT_MEMORY * self.footprint)

    def knowledge(self) -> Knowledge:
        return Knowledge(self.error, self.quarantine, self.model.state())

    def restore(self, known: Knowledge) -> None:
        self.error, self.quarantine, self.model = known.error, known.quarantine, CostModel(known.model)


class BackendState:
    """One backend, as it stands now. ``reason`` explains every state but ``ready``."""

    def __init__(self, spec: BackendSpec, worker: Worker, worker_number: int) -> None:
        self.spec = spec
        self.worker = worker
        self.worker_number = worker_number
        self.state: State = "starting"
        self.reason = "loading in its worker"
        self.device: Device | None = None
        self.load_seconds: float | None = None
        self.failed_loads = 0
        self.planned = 0
        self.ran = 0
        self.failed = 0
        self._held = (0, 0)  # the worker's incarnation, and the most that a task held on the device in it
        self.pairs: dict[str, Pair] = {}

    def may_recover(self, workload: str) -> bool:
        """Whether it is likely to take this workload's tasks again soon, having taken them before."""
        pair = self.pairs.get(workload)
        if pair is None or pair.unsupported is not None or pair.quarantine is not None or pair.error is None:
            return False
        if self.state == "ready":
            return not self.worker.up or bool(pair.absent) or not pair.breaker.closed
        return self.state in ("down", "silent")

    @property
    def held_bytes(self) -> int:
        """Memory of the device that its worker keeps from earlier tasks, and has for the next one: a sensor calls it used."""
        incarnation, size = self._held
        return size if incarnation == self.worker.incarnation else 0

    def note_memory(self, pair: Pair, task_bytes: float, device_bytes: int) -> None:
        """A task of this size held so much memory on the device."""
        pair.note_footprint(task_bytes, device_bytes)
        self._held = (self.worker.incarnation, max(self.held_bytes, device_bytes))

    def cold_seconds(self, pair: Pair) -> float:
        """What the pair's next task costs on top of its service: preparation, where it has not run since the start."""
        return 0.0 if pair.warm_in == self.worker.incarnation else pair.model.cold_seconds or 0.0

    def note_warm(self, pair: Pair) -> None:
        """The pair has run in the present process."""
        pair.warm_in = self.worker.incarnation

    def objection(self, workload: str) -> str | None:
        """Why it may not take this workload now, or ``None``."""
        if self.state != "ready":
            return f"{self.state}: {self.reason}"
        if not self.worker.up:
            return "down: its worker has just ended"
        pair = self.pairs.get(workload)
        return "has not loaded this model yet" if pair is None else pair.objection()


class Fleet:
    """All workers and backends. The contract's worker comes first, alone: the others' imports would slow it down.

    ``busy`` has the bit of every worker (by its number) that has work; ``on_busy`` hears of every change of it,
    ``on_want`` that a workload is used for the first time.
    """

    def __init__(
        self,
        specs: Sequence[BackendSpec],
        workloads: Mapping[str, Workload],
        settings: WorkerSettings,
    ) -> None:
        self.workloads = dict(workloads)
        self.backends: dict[str, BackendState] = {}
        self.workers: list[Worker] = []
        self.teams = Teams()
        self.wanted: set[str] = set()
        self.busy = 0
        self.on_busy: Callable[[int], None] = lambda _mask: None
        self.on_want: Callable[[], None] = lambda: None
        self._moved = asyncio.Event()
        self._on_change: Callable[[BackendState | None], None] = lambda _backend: None
        groups: dict[tuple[str, str], list[BackendSpec]] = {}
        for spec in specs:
            groups.setdefault((spec.device_kind, spec.group), []).append(spec)
        for (kind, group), members in groups.items():
            number = len(self.workers)
            on_busy = partial(self._worker_busy, 1 << number)
            present = [spec for spec in members if not spec.absent]
            worker = Worker(
                f"{kind}/{group}", present or members, settings, self._loaded, self._down, on_busy, self._pulse
            )
            if present:
                self.workers.append(worker)
            for spec in members:
                backend = self.backends[spec.name] = BackendState(spec, worker, number)
                if spec.absent:
                    backend.state, backend.reason = "unavailable", spec.absent

    def queues(self, client: int = NOBODY) -> dict[int, float]:
        """Predicted seconds that new work of a client waits, by the number of each worker that has any."""
        if not self.busy:
            return {}
        return {number: worker.queue_seconds(client) for number, worker in enumerate(self.workers) if not worker.idle}

    def is_idle(self, device_kind: str) -> bool:
        """Whether no worker of the device computes, so that a timing there would be a true one."""
        workers = (worker for worker in self.workers if worker.specs[0].device_kind == device_kind)
        return not any(worker.up and not worker.idle for worker in workers)

    def want(self, workload: str) -> None:
        """Somebody uses this workload: its pairs are proved and timed first."""
        if workload not in self.wanted:
            self.wanted.add(workload)
            self.on_want()

    def add_workload(self, workload: Workload) -> None:
        """A model was loaded: it can be asked for from now on, and it is there to be used."""
        self.workloads[workload.name] = workload
        self.wanted.add(workload.name)

    def remove_workload(self, name: str) -> None:
        """A model went, with all that is known of it. Workers free it."""
        self.workloads.pop(name, None)
        self.wanted.discard(name)
        self.teams.forget(name)
        for backend in self.backends.values():
            backend.pairs.pop(name, None)
        for worker in self.workers:
            worker.tell(messages.Release(name))

    def support(self, workload: str, supported: Mapping[str, str | None]) -> None:
        """What backends said of a model that their worker holds now: ``None`` where they can run it, else why not."""
        for name, unsupported in supported.items():
            pair = self.backends[name].pairs.setdefault(workload, Pair(workload, unsupported))
            pair.unsupported, pair.absent = unsupported, ""
            if name == CONTRACT_BACKEND and unsupported is None:
                pair.error = 0.0
        self.note_move()

    def spawn(self) -> None:
        """Start the process of the contract's worker. Needs no event loop."""
        self.backends[CONTRACT_BACKEND].worker.spawn()

    async def start(self, seconds: float, on_change: Callable[[BackendState | None], None]) -> None:
        """Return when the contract's backend is ready; the others then load in the background.

        ``on_change`` hears of every backend whose state changes (``None``: of several). Raises ``Unavailable`` if the
        contract is not ready after ``seconds``.
        """
        self._on_change = on_change
        backend = self.backends[CONTRACT_BACKEND]
        backend.worker.start()
        try:
            async with asyncio.timeout(seconds):
                while backend.state in ("starting", "down", "silent"):
                    await self.moved()
        except TimeoutError:
            raise Unavailable(f"{CONTRACT_BACKEND} is {backend.state} after {seconds:g} s: {backend.reason}") from None
        if backend.state != "ready":
            raise Unavailable(f"{CONTRACT_BACKEND} is {backend.state}: {backend.reason}")
        for worker in self.workers:
            if worker is not backend.worker:
                worker.start()

    async def moved(self) -> None:
        """Return when the state of a backend, or of one of its pairs, has changed."""
        await self._moved.wait()

    def note_move(self) -> None:
        """Wake those who wait for a change."""
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    async def stop(self, seconds: float) -> None:
        """End every worker within ``seconds``."""
        await asyncio.gather(*(worker.stop(seconds) for worker in self.workers))

    def discard(self, client: int, outputs: Mapping[int, Sequence[int]]) -> None:
        """Tell each worker, by incarnation, which of its output segments nobody reads any more."""
        for worker in self.workers:
            if worker.incarnation in outputs:
                worker.tell(messages.Discard(client, tuple(outputs[worker.incarnation])))

    def forget_client(self, client: int) -> None:
        """A client left: workers drop its output segments."""
        for worker in self.workers:
            worker.tell(messages.Forget(client=client))

    def forget_segments(self, segments: Sequence[int]) -> None:
        """Input segments were freed: workers that know them unmap them."""
        for worker in self.workers:
            known = worker.known_segments.intersection(segments)
            if known:
                worker.known_segments -= known
                worker.tell(messages.Forget(segments=tuple(known)))

    def _worker_busy(self, bit: int, busy: bool) -> None:
        self.busy = self.busy | bit if busy else self.busy & ~bit
        self.on_busy(self.busy)

    def _loaded(self, spec: BackendSpec, outcome: messages.Loaded | messages.Failed) -> None:
        backend = self.backends[spec.name]
        if isinstance(outcome, messages.Failed):
            backend.state = "unavailable" if outcome.error.code == "unavailable" else "failed"
            backend.reason = outcome.error.message
            _logger(spec).info("backend is not usable", backend=spec.name, state=backend.state, reason=backend.reason)
        else:
            backend.state, backend.reason, backend.failed_loads = "ready", "", 0
            backend.device, backend.load_seconds = outcome.device, outcome.seconds
            for name, unsupported in outcome.supported.items():
                pair = backend.pairs.setdefault(name, Pair(name, unsupported))
                if spec.name == CONTRACT_BACKEND:
                    pair.error = 0.0  # it is what the others are compared with
            _logger(spec).info("backend ready", backend=spec.name, device=outcome.device.name, seconds=outcome.seconds)
        self.note_move()
        self._on_change(backend)

    def _down(self, worker: Worker, reason: str) -> None:
        for spec in worker.specs:
            backend = self.backends[spec.name]
            for name, pair in backend.pairs.items():
                if self.workloads[name].declared_name != name:  # its next process holds no model yet
                    pair.absent = "its worker is loading the model again"
            if backend.state in ("unavailable", "failed"):
                continue
            if backend.state not in ("ready", "silent"):
                backend.failed_loads += 1
            if backend.failed_loads >= _LOAD_ATTEMPTS:  # its worker is still restarted, but nobody waits for it
                backend.state, backend.reason = "failed", f"{reason} while loading, {_LOAD_ATTEMPTS} times in a row"
            else:
                backend.state, backend.reason = "down", f"{reason}; it is being restarted"
        self.note_move()
        self._on_change(None)

    def _pulse(self, worker: Worker, silence: str) -> None:
        """A worker has stopped answering, or answers again: its backends take no work meanwhile."""
        for spec in worker.specs:
            backend = self.backends[spec.name]
            if silence and backend.state == "ready":
                backend.state, backend.reason = "silent", silence
            elif not silence and backend.state == "silent":
                backend.state, backend.reason = "ready", ""
        self.note_move()
        self._on_change(None)


def _logger(spec: BackendSpec) -> Any:
    return get_logger(f"worker.{spec.device_kind}")
