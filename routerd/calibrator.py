"""Proof and calibration in the background: pairs in use first, the rest in idle time; serving never waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence

from msgspec import MsgspecError, msgpack

from routerd.costs.fingerprint import fingerprint, kernel_digest
from routerd.costs.timing import Request, Timed, sizes
from routerd.errors import OutOfMemory, RouterdError, Unavailable, WorkerCrashed
from routerd.interfaces import CONTRACT_BACKEND, HYBRID_BACKEND, Workload
from routerd.logs import get_logger
from routerd.store import Store
from routerd.team_timing import TeamTiming
from routerd.worker import messages
from routerd.worker.dispatcher import Displaced
from routerd.worker.fleet import BackendState, Fleet, Knowledge, Pair
from routerd.worker.queue import BACKGROUND, FOREGROUND, Answer, Make
from routerd.worker.teams import Team

_log = get_logger("calibration")

#: A pair whose error passes this computes something else, whatever tolerance a task may name: hundreds of times what the
#: precision leads to anywhere in the catalogue. Of a precision that is not here, :data:`QUARANTINE_ERROR` counts.
QUARANTINE_ERRORS = {"float64": 1e-6, "float32": 1e-3}
QUARANTINE_ERROR = 0.05
_IDLE_POLL_SECONDS = 0.05
_RETRY_SECONDS = 600.0
_DRIFT_RETRY_SECONDS = (30.0, 3600.0)  # before a pair that has drifted is timed again, twice as long each time
_PROBE_SECONDS = 60.0  # after which the probe of a breaker counts as hung
_CRASHES = 3  # of its worker while a pair was tried; then it is the pair's fault


class Calibrator:
    """Brings every (backend, workload) pair from unproved to proved and timed, and keeps what it learns."""

    def __init__(
        self,
        fleet: Fleet,
        store: Store,
        *,
        run_seconds: float,
        when_idle: bool,
        on_change: Callable[[str | None], None],
        form_teams: Callable[[], None] = lambda: None,
    ) -> None:
        self._fleet = fleet
        self._store = store
        self._run_seconds = run_seconds
        self._when_idle = when_idle
        self._wake = asyncio.Event()
        self._progress = asyncio.Condition()
        self._retry_at: dict[tuple[str, str], float] = {}
        self._patience: dict[tuple[str, str], float] = {}
        self._crashes: Counter[tuple[str, str]] = Counter()
        self._proving: set[tuple[str, str]] = set()
        self._fingerprints: dict[tuple[str, str], str] = {}
        self._task: asyncio.Task[None] | None = None
        self._on_change = on_change
        self._teams = TeamTiming(
            fleet, store, run_seconds, lambda backend, workload: self._fingerprints.get((backend, workload)), form_teams
        )

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._work(), name="calibrator")

    async def stop(self) -> None:
        """Stop and keep what running corrections have taught."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        for backend in self._fleet.backends.values():
            for pair in backend.pairs.values():
                if pair.model.calibrated and pair.model.observations:
                    await self._keep(backend, pair)
        await self._teams.keep_learnt()

    def restore(self, backend: BackendState, only: str | None = None) -> None:
        """A backend came up, or loaded the model ``only``: take back what was measured under the same fingerprint.

        The rest will be done.
        """
        if backend.device is None:
            return
        kept: dict[str, dict[tuple[str, str], bytes]] = {}
        for name, pair in backend.pairs.items():
            if pair.model.calibrated or pair.unsupported is not None or only not in (None, name):
                continue
            key = fingerprint(backend.spec, backend.device, kernel_digest(self._fleet.workloads[name]))
            self._fingerprints[backend.spec.name, name] = key
            try:
                if key not in kept:
                    kept[key] = self._store.load_calibrations(key)
                known = kept[key].get((backend.spec.name, name))
                if known is not None:
                    pair.restore(msgpack.decode(known, type=Knowledge))
                    self._schedule_retry(backend, pair)
            except (RouterdError, MsgspecError, ValueError) as error:
                _log.error("kept calibration not usable", backend=backend.spec.name, workload=name, reason=str(error))
        self._on_change(only)
        self._wake.set()

    def nudge(self) -> None:
        """Something changed outside: look again for work, and let those who wait look again."""
        self._wake.set()

    def pending(self, workloads: Collection[str]) -> list[tuple[str, str]]:
        """Pairs of these workloads that are still to be proved or timed, teams (as ``hybrid``) included."""
        pairs = [
            (backend.spec.name, pair.workload)
            for backend, pair in self._open_pairs()
            if not workloads or pair.workload in workloads
        ]
        return pairs + [(HYBRID_BACKEND, team.workload) for team in self._teams.open(workloads)]

    async def complete(self, workloads: Sequence[str], *, again: bool) -> None:
        """Return once every pair of these workloads (all when empty) is proved and timed, or known to be unable."""
        names = set(workloads) or set(self._fleet.workloads)
        if again:
            for backend in self._fleet.backends.values():
                for name in names & backend.pairs.keys():
                    fresh = Pair(name, backend.pairs[name].unsupported)
                    fresh.absent = backend.pairs[name].absent
                    fresh.error = 0.0 if backend.spec.name == CONTRACT_BACKEND else None
                    backend.pairs[name] = fresh
            self._teams.start_again(names)
            self._retry_at.clear()
            self._on_change(None)
        self._fleet.wanted |= names
        self._wake.set()
        async with self._progress:
            await self._progress.wait_for(lambda: not self._starting() and not self.pending(names))

    def _starting(self) -> bool:
        return any(backend.state in ("starting", "down") for backend in self._fleet.backends.values())

    def _open_pairs(self) -> list[tuple[BackendState, Pair]]:
        now = asyncio.get_running_loop().time()
        return [
            (backend, pair)
            for backend in self._fleet.backends.values()
            if backend.state == "ready"
            for name, pair in backend.pairs.items()
            if pair.unsupported is None
            and not pair.absent
            and _open(backend, pair)
            and self._retry_at.get((backend.spec.name, name), 0.0) <= now
        ]

    async def _work(self) -> None:
        while True:
            pair = self._next()
            if pair is None and (team := self._next_team()) is not None:
                await self._teams.advance(team)
                self._on_change(team.workload)
                async with self._progress:
                    self._progress.notify_all()
                continue
            if pair is None:
                async with self._progress:
                    self._progress.notify_all()
                self._wake.clear()
                # Not wait_for: before Python 3.12 it can swallow the cancellation that ends this task.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._patience_left()):
                        await self._wake.wait()
                continue
            await self._bring_up(*pair)
            async with self._progress:
                self._progress.notify_all()

    def _patience_left(self) -> float:
        """Seconds until a pair that was put off is due."""
        now = asyncio.get_running_loop().time()
        breakers = [
            max(pair.breaker.due_at - time.monotonic(), 0.01)
            for backend in self._fleet.backends.values()
            if backend.state == "ready"
            for pair in backend.pairs.values()
            if pair.breaker.state == "open"
        ]
        breakers.append(self._teams.due_in())
        return min([*breakers, *(at - now for at in self._retry_at.values() if at > now)], default=_RETRY_SECONDS)

    def _next(self) -> tuple[BackendState, Pair] | None:
        candidates = [
            (backend, pair)
            for backend, pair in self._open_pairs()
            if (self._when_idle or pair.workload in self._fleet.wanted or not pair.breaker.closed)
            and (backend.spec.name, pair.workload) not in self._proving
        ]
        if not candidates:
            return None

        def urgency(one: tuple[BackendState, Pair]) -> tuple[bool, bool, bool]:
            pair = one[1]
            return pair.breaker.closed, pair.workload not in self._fleet.wanted, pair.model.calibrated

        return min(candidates, key=urgency)

    def _next_team(self) -> Team | None:
        """A team that is to be timed, now that all pairs are."""
        teams = [one for one in self._teams.open() if self._when_idle or one.workload in self._fleet.wanted]
        return min(teams, key=lambda team: team.workload not in self._fleet.wanted, default=None)

    async def prove(self, backend: BackendState, pair: Pair) -> None:
        """Prove a pair at once, beside whatever runs: a new version of a model waits for it. It is timed later, with the rest."""
        key = (backend.spec.name, pair.workload)
        if key in self._proving:
            return
        self._proving.add(key)
        try:
            await self._bring_up(backend, pair, urgent=True)
        finally:
            self._proving.discard(key)
            self._wake.set()

    async def _bring_up(self, backend: BackendState, pair: Pair, *, urgent: bool = False) -> None:
        name, workload = backend.spec.name, self._fleet.workloads[pair.workload]
        try:
            await self._advance(backend, pair, workload, urgent=urgent)
        except Unavailable as error:
            if not backend.worker.up or pair.absent:  # this is taken up again when the worker is, and holds the model
                _log.warning("calibration interrupted", backend=name, workload=workload.name, reason=error.message)
                await asyncio.sleep(_IDLE_POLL_SECONDS)
                return
            pair.error, pair.quarantine = math.inf, error.message
        except WorkerCrashed as error:
            self._crashes[name, workload.name] += 1
            _log.warning("calibration interrupted", backend=name, workload=workload.name, reason=error.message)
            if self._crashes[name, workload.name] < _CRASHES:
                return
            pair.error, pair.quarantine = math.inf, f"{error.message} while this was tried, {_CRASHES} times"
        except RouterdError as error:
            pair.error, pair.quarantine = math.inf, error.message
        except Exception as error:  # a defect here must not end the calibration of all others
            _log.exception("internal error", backend=name, workload=workload.name)
            pair.error, pair.quarantine = math.inf, f"internal error: {type(error).__name__}: {error}"
        self._crashes.pop((name, workload.name), None)
        if backend.pairs.get(workload.name) is not pair:
            return  # the model was removed meanwhile, or everything is to be measured again
        if pair.quarantine is not None:
            _log.warning("pair quarantined", backend=name, workload=workload.name, reason=pair.quarantine)
            self._schedule_retry(backend, pair)
            if name == CONTRACT_BACKEND:  # what everything is compared with stays, untimed
                pair.error, pair.quarantine = 0.0, None
        await self._keep(backend, pair)
        self._on_change(workload.name)

    async def _advance(self, backend: BackendState, pair: Pair, workload: Workload, *, urgent: bool) -> None:
        """Do what is to be done for a pair: probe it, prove it, time it, time it again, or warm it."""
        if pair.breaker.is_due(time.monotonic()):
            await self._probe(backend, pair, workload)
            return
        if pair.error is None or pair.quarantine is not None:
            pair.error = pair.quarantine = None
            await self._prove(backend, pair, workload, urgent=urgent)
            backend.note_warm(pair)
        if pair.quarantine is not None or urgent:
            return
        if pair.model.drifted:
            _log.info(
                "timing again: executions differ from calibration", backend=backend.spec.name, workload=workload.name
            )
            await self._time(backend, pair, workload)
            self._put_off(backend, pair)
        elif not pair.model.calibrated:
            await self._time(backend, pair, workload)
        elif backend.cold_seconds(pair):
            await self._warm_up(backend, pair, workload)

    async def _probe(self, backend: BackendState, pair: Pair, workload: Workload) -> None:
        """Try a pair whose breaker is open on an example: it is nobody's task, and the result is compared."""
        low, high = workload.work_range
        breaker = pair.breaker
        breaker.probe()
        try:
            answer = await backend.worker.ask(
                lambda number: (
                    messages.Prove(number, backend.spec.name, workload.name, (low, math.sqrt(low * high))),
                    (),
                ),
                seconds=self._run_seconds,
                limit=_PROBE_SECONDS,
            )
        except Displaced:
            breaker.postpone(time.monotonic())
        except RouterdError as error:
            breaker.failed(error.message, time.monotonic())
        else:
            breaker.close()
            pair.error = answer.outcome.error
            backend.note_warm(pair)
            pair.quarantine = _wrong(backend, pair.error)
        _log.info("breaker probed", backend=backend.spec.name, workload=workload.name, state=breaker.state)
        self._on_change(workload.name)  # before those who wait for it look again
        self._fleet.note_move()

    async def _prove(self, backend: BackendState, pair: Pair, workload: Workload, *, urgent: bool) -> None:
        low, high = workload.work_range
        # The contract runs every example too, so the largest stays well below the calibrated range's end.
        works = (low, math.sqrt(low * high), low * (high / low) ** 0.8)
        if not urgent:
            await self._idle(backend)
        answer = await self._ask(
            backend,
            lambda number: (messages.Prove(number, backend.spec.name, workload.name, works), ()),
            self._run_seconds,
            FOREGROUND if urgent else BACKGROUND,
        )
        pair.error = answer.outcome.error
        pair.model.cold_seconds = answer.outcome.cold_seconds
        pair.quarantine = _wrong(backend, pair.error)
        self._on_change(workload.name)

    async def _time(self, backend: BackendState, pair: Pair, workload: Workload) -> None:
        series = sizes(workload.work_range, self._run_seconds)
        request = next(series)
        while True:
            await asyncio.sleep(request.pause_seconds)
            timed = await self._timed(backend, workload, request)
            try:
                request = series.send(timed)
            except StopIteration as done:
                pair.model.calibrate(done.value)
                return

    async def _timed(self, backend: BackendState, workload: Workload, request: Request) -> Timed | None:
        """``None``: the device has no memory for an example of this size, but it has for smaller ones."""
        try:
            measured = await self._measure(backend, workload, request.work, request.expected_seconds)
        except OutOfMemory:
            if request.work <= workload.work_range[0]:
                raise
            return None
        return Timed(measured.work, measured.seconds)

    async def _warm_up(self, backend: BackendState, pair: Pair, workload: Workload) -> None:
        """Let the pair's first task since the worker's start be one that nobody waits for."""
        await self._measure(backend, workload, workload.work_range[0], pair.model.cold_seconds or 0.0)
        backend.note_warm(pair)

    async def _measure(
        self, backend: BackendState, workload: Workload, work: float, expected: float
    ) -> messages.Measured:
        await self._idle(backend)
        answer = await self._ask(
            backend,
            lambda number: (messages.Measure(number, backend.spec.name, workload.name, work, self._run_seconds), ()),
            min(expected * messages.MEASURE_CALLS, self._run_seconds),
        )
        outcome: messages.Measured = answer.outcome
        return outcome

    async def _ask(self, backend: BackendState, make: Make, seconds: float, priority: int = BACKGROUND) -> Answer:
        """A job, usually behind all tasks."""
        return await backend.worker.ask(make, seconds=seconds, priority=priority)

    async def _idle(self, backend: BackendState) -> None:
        """Wait until no worker of the device computes: a timing beside other work would be a wrong timing."""
        while not self._fleet.is_idle(backend.spec.device_kind):
            await asyncio.sleep(_IDLE_POLL_SECONDS)

    async def _keep(self, backend: BackendState, pair: Pair) -> None:
        """Write down what is known. Where that fails it is measured again after the next start, which is no reason to stop."""
        key = self._fingerprints.get((backend.spec.name, pair.workload))
        if key is None:
            return
        known = msgpack.encode(pair.knowledge())
        try:
            await asyncio.to_thread(self._store.save_calibration, key, backend.spec.name, pair.workload, known)
        except RouterdError as error:
            _log.error("calibration not kept", backend=backend.spec.name, workload=pair.workload, reason=error.message)

    def _put_off(self, backend: BackendState, pair: Pair) -> None:
        """A pair that drifts again and again is timed less and less often: its tasks differ from its examples."""
        key = (backend.spec.name, pair.workload)
        shortest, longest = _DRIFT_RETRY_SECONDS
        self._patience[key] = min(2.0 * self._patience.get(key, shortest / 2.0), longest)
        self._retry_at[key] = asyncio.get_running_loop().time() + self._patience[key]

    def _schedule_retry(self, backend: BackendState, pair: Pair) -> None:
        """A quarantined pair gets another chance later: a driver may have been mended."""
        if pair.quarantine is not None:
            now = asyncio.get_running_loop().time()
            self._retry_at[backend.spec.name, pair.workload] = now + _RETRY_SECONDS


def _wrong(backend: BackendState, error: float) -> str | None:
    """Why a pair with this error is quarantined, or ``None``."""
    precision = backend.spec.precision
    limit = QUARANTINE_ERRORS.get(precision, QUARANTINE_ERROR)
    if error <= limit:
        return None
    return f"relative error {error:.2g} against the contract, where {precision} may have {limit:g}"


def _open(backend: BackendState, pair: Pair) -> bool:
    """Whether there is something to do for a pair: to probe, prove, time, time again, or warm it."""
    if not pair.breaker.closed:
        return pair.breaker.is_due(time.monotonic())
    unproved = pair.error is None or pair.quarantine is not None
    return unproved or not pair.model.calibrated or pair.model.drifted or backend.cold_seconds(pair) > 0.0
