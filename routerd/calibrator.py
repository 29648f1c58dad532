"""Proof and calibration in the background: pairs in use first, the rest in idle time; serving never waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from statistics import median

from msgspec import MsgspecError, msgpack

from routerd.costs.fingerprint import fingerprint, kernel_digest
from routerd.costs.model import Point
from routerd.errors import RouterdError, Unavailable, WorkerCrashed
from routerd.interfaces import CONTRACT_BACKEND, Workload
from routerd.logs import get_logger
from routerd.store import Store
from routerd.worker import messages
from routerd.worker.fleet import BackendState, Fleet, Knowledge, Pair
from routerd.worker.supervisor import BACKGROUND, FOREGROUND, Answer, Make

_log = get_logger("calibration")

#: A pair whose error passes this computes something else, whatever tolerance a task may name.
QUARANTINE_ERROR = 0.05
_POINTS = 7
_MAD_TO_SIGMA = 1.4826
_IDLE_POLL_SECONDS = 0.05
_FIRST_RUN_SECONDS = 1e-3  # what the smallest size is expected to take
_RETRY_SECONDS = 600.0
_CRASHES = 3  # of its worker while a pair was tried; then it is the pair's fault
_STEEPEST = 1.5  # work is chosen so that cost grows about in proportion to it; a timing this far above is in doubt
_LOOK_AGAIN_SECONDS = (0.1, 0.4, 1.6)  # pauses before a doubtful size is timed again, for what disturbed it to pass
_CONFIRMED, _AGREEMENT = 2, 1.1  # looks that were not this much quicker: then it is the work that takes the time


class Calibrator:
    """Brings every (backend, workload) pair from unproved to proved and timed, and keeps what it learns."""

    def __init__(
        self, fleet: Fleet, store: Store, *, run_seconds: float, when_idle: bool, on_change: Callable[[], None]
    ) -> None:
        self._fleet = fleet
        self._store = store
        self._run_seconds = run_seconds
        self._when_idle = when_idle
        self._wake = asyncio.Event()
        self._progress = asyncio.Condition()
        self._retry_at: dict[tuple[str, str], float] = {}
        self._crashes: Counter[tuple[str, str]] = Counter()
        self._proving: set[tuple[str, str]] = set()
        self._fingerprints: dict[tuple[str, str], str] = {}
        self._task: asyncio.Task[None] | None = None
        self._on_change = on_change

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
        self._on_change()
        self._wake.set()

    def nudge(self) -> None:
        """Something changed outside: look again for work, and let those who wait look again."""
        self._wake.set()

    def pending(self, workloads: Collection[str]) -> list[tuple[str, str]]:
        """Pairs of these workloads that are still to be proved or timed."""
        return [
            (backend.spec.name, pair.workload)
            for backend, pair in self._open_pairs()
            if not workloads or pair.workload in workloads
        ]

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
            self._retry_at.clear()
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
            and (pair.error is None or pair.quarantine is not None or not pair.model.calibrated)
            and self._retry_at.get((backend.spec.name, name), 0.0) <= now
        ]

    async def _work(self) -> None:
        while True:
            pair = self._next()
            if pair is None:
                async with self._progress:
                    self._progress.notify_all()
                self._wake.clear()
                # Not wait_for: before Python 3.12 it can swallow the cancellation that ends this task.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_RETRY_SECONDS):
                        await self._wake.wait()
                continue
            await self._bring_up(*pair)
            async with self._progress:
                self._progress.notify_all()

    def _next(self) -> tuple[BackendState, Pair] | None:
        candidates = [
            (backend, pair)
            for backend, pair in self._open_pairs()
            if (self._when_idle or pair.workload in self._fleet.wanted)
            and (backend.spec.name, pair.workload) not in self._proving
        ]
        if not candidates:
            return None
        return min(candidates, key=lambda one: (one[1].workload not in self._fleet.wanted, one[1].model.calibrated))

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
            if pair.error is None or pair.quarantine is not None:
                pair.error = pair.quarantine = None
                await self._prove(backend, pair, workload, urgent=urgent)
            if pair.quarantine is None and not urgent:
                await self._time(backend, pair, workload)
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
        self._on_change()

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
        if not pair.error <= QUARANTINE_ERROR:
            pair.quarantine = f"relative error {pair.error:.2g} against the contract"
        self._on_change()

    async def _time(self, backend: BackendState, pair: Pair, workload: Workload) -> None:
        low, high = workload.work_range
        points: list[Point] = []
        expected = _FIRST_RUN_SECONDS
        for step in range(_POINTS):
            work = low * (high / low) ** (step / (_POINTS - 1))
            measured = await self._measure(backend, workload, work, expected)
            confirmed = 0
            for pause in _LOOK_AGAIN_SECONDS:
                if not points or not doubtful(points[-1], _point(measured)) or confirmed == _CONFIRMED:
                    break
                await asyncio.sleep(pause)
                again = await self._measure(backend, workload, work, expected)
                confirmed += _point(again).seconds > _point(measured).seconds / _AGREEMENT
                measured = min(measured, again, key=lambda one: _point(one).seconds)
            points.append(_point(measured))
            # By its fastest repetition: one that was disturbed must not end the series.
            expected = min(measured.seconds) / measured.work * work * (high / low) ** (1 / (_POINTS - 1))
            if expected > self._run_seconds:
                break  # the next size would hold the worker too long; beyond it the model extrapolates
        for point in undisturbed(points):
            pair.model.add_point(point)

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
        """A job, usually behind all tasks. It occupies the worker, so decisions are made afresh before and after it."""
        self._on_change()
        try:
            return await backend.worker.ask(make, seconds=seconds, priority=priority)
        finally:
            self._on_change()

    async def _idle(self, backend: BackendState) -> None:
        """Wait until no worker of the device computes: a timing beside other work would be a wrong timing."""
        while any(
            not worker.idle
            for worker in self._fleet.workers
            if worker.up and worker.specs[0].device_kind == backend.spec.device_kind
        ):
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

    def _schedule_retry(self, backend: BackendState, pair: Pair) -> None:
        """A quarantined pair gets another chance later: a driver may have been mended."""
        if pair.quarantine is not None:
            now = asyncio.get_running_loop().time()
            self._retry_at[backend.spec.name, pair.workload] = now + _RETRY_SECONDS


def doubtful(before: Point, after: Point) -> bool:
    """Whether seconds grew so much faster than work that another process rather than the work is likely to be why."""
    return after.seconds / before.seconds > _STEEPEST * after.work / before.work


def undisturbed(points: Sequence[Point]) -> list[Point]:
    """The points with the marks of other processes removed: less work never takes longer than more."""
    cleaned: list[Point] = []
    for point in reversed(points):
        ceiling = cleaned[-1].seconds if cleaned else math.inf
        cleaned.append(point if point.seconds <= ceiling else Point(point.work, ceiling, point.log_sigma))
    return cleaned[::-1]


def _point(measured: messages.Measured) -> Point:
    centre = median(measured.seconds)
    deviations = [abs(math.log(seconds / centre)) for seconds in measured.seconds]
    return Point(measured.work, centre, _MAD_TO_SIGMA * median(deviations))
